//! Frames shared with the kernel (UMEM): one private mapping, cut in two; or frames of ours in front of a guest's memory.
//!
//! AF_XDP hands a frame over by its address in a ring: whoever holds the address owns the bytes. The kernel holds those in the
//! fill, receive-in-progress and transmit rings. This module does not rely on that: received bytes are only copied
//! out, with a copy that bears a writer beside it, and the bytes that we write are in an area where the kernel only reads.

use guestmem::copy::copy_shared;
use guestmem::{GuestMemory, MemSlice, Window};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Memory of our own that the kernel may use too; unmapped when dropped.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Whose mapping it is, if not our own: `start` and `len` are its private part.
    window: Option<Window>,
}

// SAFETY: a mapping belongs to the process, not to a thread. All access goes through `Ring`, `ReceiveFrames` and
// `SendFrames`, each with its own rule.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` bytes of zeros, already backed by pages.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Self::new(start.cast(), len)
    }

    /// `len` bytes of the ring of `socket` that `offset` stands for (`XDP_*_PGOFF_*`).
    pub(super) fn of_socket(socket: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: as above; the pages are the kernel's ring, whose length the kernel checks.
        let start =
            unsafe { mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, socket, offset) }?;
        Self::new(start.cast(), len)
    }

    fn new(start: *mut u8, len: usize) -> io::Result<Self> {
        Ok(Self { start: NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?, len, window: None })
    }

    /// Where `len` bytes from `offset` on are, aligned to `align`; `None` unless they are all inside.
    pub(super) fn place(&self, offset: u64, len: usize, align: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` lies inside the mapping.
        let place = unsafe { self.start.add(offset) };
        (place.addr().get() % align == 0).then_some(place)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.window.is_some() {
            return;
        }
        // SAFETY: the mapping is ours alone, and whoever pointed into it kept it alive.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Where the frames of a socket are, as `XDP_UMEM_REG` wants it: address and length in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// Makes `receive + send` frames of `frame_len` bytes each.
///
/// # Errors
/// No memory; a `frame_len` that is no power of two.
pub(crate) fn frames(
    receive: u32,
    send: u32,
    frame_len: u32,
) -> io::Result<(ReceiveFrames, SendFrames, Extent)> {
    let bytes = |count: u32| u64::from(count) * u64::from(frame_len);
    let len = bytes(receive) + bytes(send);
    if !frame_len.is_power_of_two() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let memory = Arc::new(Mapping::anonymous(usize::try_from(len).map_err(io::Error::other)?)?);
    let extent = Extent { start: memory.start.as_ptr().expose_provenance() as u64, len };
    let area = |first: u64, count: u32| Area { memory: Arc::clone(&memory), first, count, frame_len };
    Ok((ReceiveFrames(area(0, receive)), SendFrames(area(bytes(receive), send)), extent))
}

/// Makes `send` frames of `frame_len` bytes each in front of all memory of a guest.
///
/// # Errors
/// As for [`Window::new`]; a `frame_len` that is no power of two.
pub(crate) fn frames_and_guest(
    guest: &Arc<GuestMemory>,
    send: u32,
    frame_len: u32,
) -> io::Result<(SendFrames, GuestPages, Extent)> {
    let bytes = u64::from(send) * u64::from(frame_len);
    if !frame_len.is_power_of_two() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let window = Window::new(guest, usize::try_from(bytes).map_err(io::Error::other)?)?;
    let (start, len) = (window.own(), window.own_len());
    let extent = Extent { start: start.as_ptr().expose_provenance() as u64, len: window.len() as u64 };
    let memory = Arc::new(Mapping { start, len, window: Some(window) });
    let frames = SendFrames(Area { memory: Arc::clone(&memory), first: 0, count: send, frame_len });
    Ok((frames, GuestPages(memory), extent))
}

/// A guest's memory in the UMEM. Nothing of it is touched here; the kernel is told where it is.
pub(crate) struct GuestPages(Arc<Mapping>);

impl GuestPages {
    /// The address of a run of the guest's memory; `None` if it is not of that memory.
    #[inline]
    pub(crate) fn addr(&self, run: &MemSlice<'_>) -> Option<u64> {
        Some(self.0.window.as_ref()?.offset_of(run)? as u64)
    }
}

/// A run of frames. Addresses count from the start of the UMEM, in bytes.
struct Area {
    memory: Arc<Mapping>,
    first: u64,
    count: u32,
    frame_len: u32,
}

impl Area {
    fn addr(&self, index: u32) -> u64 {
        self.first + u64::from(index) * u64::from(self.frame_len)
    }

    /// The frame that holds `addr`; `None` when that is not of this area.
    fn index(&self, addr: u64) -> Option<u32> {
        let index = addr.checked_sub(self.first)? / u64::from(self.frame_len);
        u32::try_from(index).ok().filter(|&index| index < self.count)
    }
}

/// The frames that the kernel writes.
pub(crate) struct ReceiveFrames(Area);

impl ReceiveFrames {
    /// The address of every frame.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = u64> {
        (0..self.0.count).map(|index| self.0.addr(index))
    }

    /// The first address of the frame that holds `addr`; `None` when it is not one of ours.
    pub(crate) fn base(&self, addr: u64) -> Option<u64> {
        self.0.index(addr).map(|index| self.0.addr(index))
    }

    /// Copies `len` bytes from `addr` on out; `None` when they are not in one frame, or longer than `out`.
    pub(crate) fn read(&self, addr: u64, len: u32, out: &mut [u8]) -> Option<usize> {
        let end = self.base(addr)? + u64::from(self.0.frame_len);
        let out = out.get_mut(..len as usize).filter(|_| addr + u64::from(len) <= end)?;
        let from = self.0.memory.place(addr, out.len(), 1)?;
        // SAFETY: `out.len()` bytes lie inside the mapping; `out` is private, so they do not overlap. A kernel that
        // writes there meanwhile changes bytes, no more: the copy is made for it.
        unsafe { copy_shared(out.as_mut_ptr(), from.as_ptr(), out.len()) };
        Some(out.len())
    }
}

/// The frames that we write and the kernel reads.
pub(crate) struct SendFrames(Area);

impl SendFrames {
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.0.count
    }

    /// Bytes of a frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.0.frame_len as usize
    }

    /// The address of frame `index`.
    pub(crate) fn addr(&self, index: u32) -> u64 {
        self.0.addr(index)
    }

    /// The frame that holds `addr`; `None` when it is not one of ours.
    pub(crate) fn index(&self, addr: u64) -> Option<u32> {
        self.0.index(addr)
    }

    /// The bytes of frame `index`; `None` when there is none.
    pub(crate) fn bytes_mut(&mut self, index: u32) -> Option<&mut [u8]> {
        let len = self.0.frame_len as usize;
        let place = (index < self.0.count).then(|| self.0.memory.place(self.0.addr(index), len, 1))??;
        // SAFETY: `len` bytes lie inside the mapping and were zeros to begin with. This area has one owner, who is
        // borrowed exclusively, and nobody but the kernel can reach it otherwise; the kernel only reads it.
        Some(unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_in_their_area() {
        let (receive, mut send, extent) = frames(4, 2, 2048).unwrap();
        assert_eq!(extent.len, 6 * 2048);
        assert_eq!(receive.addrs().collect::<Vec<_>>(), [0, 2048, 4096, 6144]);
        assert_eq!([receive.base(0), receive.base(2047), receive.base(2048)], [Some(0), Some(0), Some(2048)]);
        assert_eq!([receive.base(8192), receive.base(u64::MAX)], [None, None]);
        assert_eq!([send.index(8191), send.index(8192), send.index(12_287)], [None, Some(0), Some(1)]);
        assert_eq!([send.index(12_288), send.index(u64::MAX)], [None, None]);
        assert!(send.bytes_mut(1).is_some() && send.bytes_mut(2).is_none());
    }

    #[test]
    fn a_copy_stays_inside_one_frame() {
        let (receive, _send, _) = frames(2, 1, 2048).unwrap();
        let mut out = [1; 4096];
        assert_eq!(receive.read(256, 100, &mut out), Some(100));
        assert_eq!((out[99], out[100]), (0, 1));
        assert_eq!(receive.read(2000, 48, &mut out), Some(48));
        assert_eq!(receive.read(2000, 49, &mut out), None);
        assert_eq!(receive.read(0, 101, &mut out[..100]), None);
        assert_eq!(receive.read(4096, 1, &mut out), None);
        assert_eq!(receive.read(u64::MAX, u32::MAX, &mut out), None);
    }
}
