//! A guest's memory and bytes of our own side by side in one run of addresses.
//!
//! Some users of memory take one run only: a UMEM of AF_XDP. So a run of addresses is reserved, private bytes are put at its
//! beginning, and behind them every mapping of the guest's is mapped a second time (`mremap` with an old length of zero, which
//! duplicates a shared mapping). The same pages are then seen at both places.
//!
//! The guest's part is never touched through the window: it is for addresses that others are told. So truncating a file costs
//! nothing here, and no SIGBUS is to be answered.

use crate::{GuestMemory, MemSlice};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap_fixed, munmap};
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// The most bytes of one window: the user half of a 48-bit address space.
const LEN_MAX: usize = 1 << 47;

/// One run of addresses: bytes of our own, then the guest's mappings. Unmapped when dropped.
#[derive(Debug)]
pub struct Window {
    start: NonNull<u8>,
    own_len: usize,
    len: usize,
    /// Where the guest's mappings are, by their first address.
    places: Box<[Place]>,
    /// Its addresses are looked up in `places`, so they must not come to mean other memory.
    _memory: Arc<GuestMemory>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The mapping outside of the window.
    start: *mut u8,
    len: usize,
    /// Its place in the window.
    offset: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; the pointers are only compared and handed out.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// A window on all of `memory` behind `own_len` bytes of zeros (rounded up to whole pages). Memory that may only be
    /// read ([`Mapping::file_read_only`](crate::Mapping::file_read_only)) is left out: it cannot be had twice.
    ///
    /// # Errors
    /// No memory or addresses left. `EINVAL`: a mapping cannot be had twice, since it is private or of huge pages.
    pub fn new(memory: &Arc<GuestMemory>, own_len: usize) -> io::Result<Self> {
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let own_len = own_len.checked_next_multiple_of(rustix::param::page_size()).ok_or_else(too_long)?;
        let mut len = own_len;
        let mut places = Vec::with_capacity(memory.regions().len());
        let mappings = memory.regions().iter().map(|region| region.mapping());
        for mapping in mappings.filter(|mapping| !mapping.is_private_file()) {
            let (start, mapped) = mapping.whole();
            if places.iter().any(|place: &Place| place.start == start) {
                continue;
            }
            places.push(Place { start, len: mapped, offset: len });
            len = len.checked_add(mapped).filter(|&len| len <= LEN_MAX).ok_or_else(too_long)?;
        }
        places.sort_unstable_by_key(|place| place.start.addr());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(null_mut(), len.max(1), ProtFlags::empty(), flags) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(too_long)?;
        let window = Self { start, own_len, len, places: places.into(), _memory: Arc::clone(memory) };
        window.fill()?;
        Ok(window)
    }

    /// Puts into the reservation what belongs there.
    fn fill(&self) -> io::Result<()> {
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        if self.own_len != 0 {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::POPULATE;
            // SAFETY: the range is the beginning of our own reservation, which nobody uses yet.
            unsafe { mmap_anonymous(self.start.as_ptr().cast(), self.own_len, read_write, flags) }?;
        }
        for place in &self.places {
            // SAFETY: `offset + len` lies inside the reservation, where nobody uses the range yet. An old length of zero
            // leaves the mapping at `place.start` as it is; `_memory` keeps it there.
            unsafe {
                let to = self.start.add(place.offset).as_ptr().cast();
                mremap_fixed(place.start.cast(), 0, place.len, MremapFlags::MAYMOVE, to)
            }?;
        }
        Ok(())
    }

    /// Where our own bytes begin: [`Self::own_len`] bytes, readable and writable, which this crate never touches. The guest
    /// cannot reach them.
    pub fn own(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes of our own, in whole pages.
    pub fn own_len(&self) -> usize {
        self.own_len
    }

    /// All bytes.
    #[expect(clippy::len_without_is_empty, reason = "a window is never looked at for being empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The place of `slice` in the window, in bytes from its beginning; `None` if it is not of this memory.
    #[inline]
    pub fn offset_of(&self, slice: &MemSlice<'_>) -> Option<usize> {
        let at = slice.as_ptr().addr();
        let index = self.places.partition_point(|place| place.start.addr() <= at).checked_sub(1)?;
        let place = &self.places[index];
        let inside = at - place.start.addr();
        (inside <= place.len && slice.len() <= place.len - inside).then_some(place.offset + inside)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone; whoever was handed the pointer to our own bytes keeps the window.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len.max(1)) };
    }
}
