//! An embedded guest's memory: one memfd, mapped here and handed to the back-end.

use anyhow::{Context, Result, ensure};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vhost::VhostUserMemoryRegionInfo;

/// Where the guest sees its memory. Not zero, so that a forgotten address is caught.
const GUEST_BASE: u64 = 0x10_0000;
/// Where the front-end pretends to have it mapped: only the difference to it matters to a back-end.
const FRONTEND_BASE: u64 = 0x7000_0000_0000;

/// Memory of one guest, given out from the bottom up and never taken back.
pub(crate) struct Ram {
    file: OwnedFd,
    memory: Arc<GuestMemory>,
    len: u64,
    used: u64,
}

impl Ram {
    /// `len` zeroed bytes in a memfd.
    pub(crate) fn new(len: u64) -> Result<Self> {
        let file = memfd_create("ringway-guest", MemfdFlags::CLOEXEC).context("making a memfd")?;
        ftruncate(&file, len).context("sizing the memfd")?;
        let mapping = Arc::new(Mapping::file(&file, 0, len).context("mapping the memfd")?);
        let region = Region::new(GuestAddr(GUEST_BASE), FrontendAddr(FRONTEND_BASE), len, mapping)?;
        let memory = Arc::new(GuestMemory::new(vec![region])?);
        Ok(Self { file, memory, len, used: 0 })
    }

    /// The memory, as the driver side uses it.
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Gives out `len` bytes aligned to `align` (a power of two).
    pub(crate) fn take(&mut self, len: u64, align: u64) -> Result<GuestAddr> {
        let start = self.used.next_multiple_of(align);
        let end = start + len;
        ensure!(end <= self.len, "guest memory of {} bytes is too small", self.len);
        self.used = end;
        Ok(GuestAddr(GUEST_BASE + start))
    }

    /// The front-end's address of a guest address, as ring addresses are sent.
    pub(crate) fn frontend_addr(&self, addr: GuestAddr) -> u64 {
        addr.0 - GUEST_BASE + FRONTEND_BASE
    }

    /// The memfd, and where in the guest's addresses so many bytes of it lie: for a client's DMA_MAP.
    pub(crate) fn shared(&self) -> (BorrowedFd<'_>, GuestAddr, u64) {
        (self.file.as_fd(), GuestAddr(GUEST_BASE), self.len)
    }

    /// The region as SET_MEM_TABLE sends it. The descriptor stays ours.
    pub(crate) fn table(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: self.len,
            userspace_addr: FRONTEND_BASE,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_out_aligned_and_to_its_end_only() {
        let mut ram = Ram::new(1 << 16).unwrap();
        let first = ram.take(10, 16).unwrap();
        let second = ram.take(100, 4096).unwrap();
        assert_eq!((first.0, second.0), (GUEST_BASE, GUEST_BASE + 4096));
        assert_eq!(ram.frontend_addr(second), FRONTEND_BASE + 4096);
        assert!(ram.memory().slice(second, 100).is_some());
        assert!(ram.take(1 << 16, 1).is_err());
    }
}
