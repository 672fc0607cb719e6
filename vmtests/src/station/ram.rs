//! A station's memory: one memfd, mapped here and handed to the back-end.

use anyhow::{Context, ensure};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vhost::VhostUserMemoryRegionInfo;

/// Where the station sees its memory. Not zero, so that a forgotten address is caught.
const GUEST_BASE: u64 = 0x10_0000;
/// Where the front-end pretends to have it mapped: only the difference to it matters to a back-end.
const FRONTEND_BASE: u64 = 0x7000_0000_0000;
const HUGE_PAGE: u64 = 2 << 20;

/// What backs the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary pages.
    Ordinary,
    /// Pages of 2 MiB, reserved by [`hugepages::Reserved`](crate::dpdk::hugepages::Reserved).
    Huge,
}

/// Memory of one station, given out from the bottom up and never taken back.
pub struct Ram {
    file: OwnedFd,
    memory: Arc<GuestMemory>,
    len: u64,
    used: u64,
}

impl Ram {
    /// `len` bytes, rounded up to whole pages, all of them touched: no page is missing later.
    ///
    /// Errors: the kernel has not so much memory, or not so many huge pages.
    pub fn new(len: u64, pages: Pages) -> anyhow::Result<Self> {
        let (flags, unit) = match pages {
            Pages::Ordinary => (MemfdFlags::CLOEXEC, rustix::param::page_size() as u64),
            Pages::Huge => (MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, HUGE_PAGE),
        };
        let len = len.next_multiple_of(unit);
        let file = memfd_create("station", flags).context("make a memfd")?;
        ftruncate(&file, len).context("size the memfd")?;
        // Huge pages are taken here or not at all; a touch without one would be a SIGBUS.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len)
            .with_context(|| format!("{len} bytes of {pages:?} pages"))?;
        let mapping = Arc::new(Mapping::file(&file, 0, len).context("map the memfd")?);
        let region = Region::new(GuestAddr(GUEST_BASE), FrontendAddr(FRONTEND_BASE), len, mapping)?;
        let memory = Arc::new(GuestMemory::new(vec![region])?);
        memory.slice(GuestAddr(GUEST_BASE), len as usize).context("the memory")?.fill(0x5a);
        Ok(Self { file, memory, len, used: 0 })
    }

    /// The memory, as the driver's side uses it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Gives out `len` bytes that begin at a multiple of `align` (a power of two).
    pub fn take(&mut self, len: u64, align: u64) -> anyhow::Result<GuestAddr> {
        let start = self.used.next_multiple_of(align);
        let end = start + len;
        ensure!(end <= self.len, "a station's memory of {} bytes is too small", self.len);
        self.used = end;
        Ok(GuestAddr(GUEST_BASE + start))
    }

    /// The front-end's address of an address of the station, as ring addresses are sent.
    pub(super) fn frontend_addr(&self, addr: GuestAddr) -> u64 {
        addr.0 - GUEST_BASE + FRONTEND_BASE
    }

    /// The memfd, and where in the station's addresses so many bytes of it lie: for a client's DMA_MAP.
    pub(super) fn shared(&self) -> (BorrowedFd<'_>, GuestAddr, u64) {
        (self.file.as_fd(), GuestAddr(GUEST_BASE), self.len)
    }

    /// The region as SET_MEM_TABLE sends it. The descriptor stays ours.
    pub(super) fn table(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: self.len,
            userspace_addr: FRONTEND_BASE,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }
}
