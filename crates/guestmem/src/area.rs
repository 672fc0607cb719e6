//! An owned run of guest memory with atomic words: where rings live.

use crate::{GuestMemory, Mapping, MemSlice, kill};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A contiguous run of one guest's memory that keeps its mapping alive, for the words of a ring.
///
/// Offsets are in bytes and must be multiples of the word's size; both that and the bounds are asserted, so
/// a mistake of ours aborts and never touches foreign memory. Values are in host byte order.
#[derive(Clone)]
pub struct MemArea {
    start: *mut u8,
    len: usize,
    memory: Option<Arc<GuestMemory>>,
    /// What it lies in, if that is not a mapping of the memory's regions.
    _mapping: Option<Arc<Mapping>>,
    _private: Option<Arc<[AtomicU64]>>,
}

// SAFETY: all access is atomic; the mapping is kept alive by the `Arc`s.
unsafe impl Send for MemArea {}
// SAFETY: as above.
unsafe impl Sync for MemArea {}

macro_rules! words {
    ($load:ident, $store:ident, $word:ty, $atomic:ty) => {
        #[doc = concat!("Loads the `", stringify!($word), "` at `offset`.")]
        #[inline(always)]
        pub fn $load(&self, offset: usize, order: Ordering) -> $word {
            // SAFETY: `word` checked bounds and alignment; the memory is only accessed atomically.
            unsafe { <$atomic>::from_ptr(self.word::<$word>(offset)) }.load(order)
        }

        #[doc = concat!("Stores the `", stringify!($word), "` at `offset`.")]
        #[inline(always)]
        pub fn $store(&self, offset: usize, value: $word, order: Ordering) {
            let word = self.word::<$word>(offset);
            if kill::lives() {
                // SAFETY: as for the load.
                unsafe { <$atomic>::from_ptr(word) }.store(value, order)
            }
        }
    };
}

impl MemArea {
    /// # Safety
    /// `start..start + len` lies in a mapping that `memory` keeps alive.
    pub(crate) unsafe fn new(start: *mut u8, len: usize, memory: Arc<GuestMemory>) -> Self {
        Self { start, len, memory: Some(memory), _mapping: None, _private: None }
    }

    /// The first `len` bytes of `mapping`, which shows bytes of `memory` in another place. `len` must be no more than it has.
    #[cfg(not(miri))]
    pub(crate) fn of_mapping(mapping: Arc<Mapping>, len: usize, memory: Arc<GuestMemory>) -> Self {
        assert!(len <= mapping.len(), "an area past the end of its mapping");
        let start = mapping.start();
        Self { start, len, memory: Some(memory), _mapping: Some(mapping), _private: None }
    }

    /// Private zeroed memory of at least `len` bytes, 8-aligned: for tests and for drivers of our own.
    pub fn private(len: usize) -> Self {
        let words: Arc<[AtomicU64]> = (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        // The words are only ever accessed through the pointer, by atomics, for as long as the Arc lives.
        Self {
            start: words.as_ptr().cast_mut().cast(),
            len,
            memory: None,
            _mapping: None,
            _private: Some(words),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the area's first byte is aligned to `align` (a power of two) in this process.
    pub fn is_aligned(&self, align: usize) -> bool {
        self.start.addr() & (align - 1) == 0
    }

    /// The memory that the area lies in; `None` for private memory.
    pub fn memory(&self) -> Option<&Arc<GuestMemory>> {
        self.memory.as_ref()
    }

    /// The area as a slice, for bulk copies.
    pub fn as_slice(&self) -> MemSlice<'_> {
        // SAFETY: valid for as long as `self` is.
        unsafe { MemSlice::new(self.start, self.len) }
    }

    words!(load_u16, store_u16, u16, AtomicU16);
    words!(load_u32, store_u32, u32, AtomicU32);
    words!(load_u64, store_u64, u64, AtomicU64);

    #[inline(always)]
    fn word<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(self.len >= size && offset <= self.len - size, "ring word outside its area");
        // SAFETY: just checked to lie inside.
        let word = unsafe { self.start.add(offset) };
        assert!(word.addr().is_multiple_of(size), "misaligned ring word");
        word.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_stored_and_loaded() {
        let area = MemArea::private(24);
        area.store_u64(8, 0x1122_3344_5566_7788, Ordering::Relaxed);
        assert_eq!(area.load_u64(8, Ordering::Acquire), 0x1122_3344_5566_7788);
        assert_eq!(area.load_u16(22, Ordering::Acquire), 0);
        area.store_u16(22, 7, Ordering::Release);
        area.store_u32(0, 9, Ordering::Release);
        assert_eq!((area.load_u16(22, Ordering::Acquire), area.load_u32(0, Ordering::Acquire)), (7, 9));
    }

    #[test]
    #[should_panic(expected = "outside its area")]
    fn a_word_over_the_end_is_our_bug() {
        MemArea::private(8).load_u32(6, Ordering::Relaxed);
    }
}
