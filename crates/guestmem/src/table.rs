//! Ring entries of equal size, with bounds and alignment settled once instead of at every access.

use crate::{MemArea, kill};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// `len` entries of `STRIDE` bytes each, of which words of up to `ALIGN` bytes are accessed atomically.
///
/// An index outside, or a word that does not lie inside its entry, is a mistake of ours and aborts.
#[derive(Clone)]
pub struct MemTable<const STRIDE: usize, const ALIGN: usize> {
    start: *mut u8,
    len: usize,
    /// Keeps the memory mapped.
    _area: MemArea,
}

// SAFETY: all access is atomic; the area keeps the memory mapped.
unsafe impl<const STRIDE: usize, const ALIGN: usize> Send for MemTable<STRIDE, ALIGN> {}
// SAFETY: as above.
unsafe impl<const STRIDE: usize, const ALIGN: usize> Sync for MemTable<STRIDE, ALIGN> {}

macro_rules! delegated {
    ($load:ident, $store:ident, $word:ty) => {
        #[doc = concat!("Loads the `", stringify!($word), "` at byte `at` of entry `index`.")]
        #[inline(always)]
        pub fn $load(&self, index: usize, at: usize, order: Ordering) -> $word {
            self.entries().$load(index, at, order)
        }

        #[doc = concat!("Stores the `", stringify!($word), "` at byte `at` of entry `index`.")]
        #[inline(always)]
        pub fn $store(&self, index: usize, at: usize, value: $word, order: Ordering) {
            self.entries().$store(index, at, value, order);
        }
    };
}

macro_rules! words {
    ($load:ident, $store:ident, $word:ty, $atomic:ty) => {
        #[doc = concat!("Loads the `", stringify!($word), "` at byte `at` of entry `index`.")]
        #[inline(always)]
        pub fn $load(self, index: usize, at: usize, order: Ordering) -> $word {
            // SAFETY: `word` checked bounds and alignment; the memory is only accessed atomically.
            unsafe { <$atomic>::from_ptr(self.word::<$word>(index, at)) }.load(order)
        }

        #[doc = concat!("Stores the `", stringify!($word), "` at byte `at` of entry `index`.")]
        #[inline(always)]
        pub fn $store(self, index: usize, at: usize, value: $word, order: Ordering) {
            let word = self.word::<$word>(index, at);
            if kill::lives() {
                // SAFETY: as for the load.
                unsafe { <$atomic>::from_ptr(word) }.store(value, order)
            }
        }
    };
}

/// The entries of a [`MemTable`] by themselves: where they are and how many, for loops that keep both in registers.
///
/// The same rules hold: an index outside, or a word that does not lie inside its entry, is a mistake of ours and aborts.
#[derive(Clone, Copy)]
pub struct Entries<'t, const STRIDE: usize, const ALIGN: usize> {
    start: *mut u8,
    len: usize,
    table: PhantomData<&'t MemTable<STRIDE, ALIGN>>,
}

impl<const STRIDE: usize, const ALIGN: usize> MemTable<STRIDE, ALIGN> {
    /// The entries from byte `offset` of `area` on; `None` if they do not all lie inside or the first one is
    /// not aligned to `ALIGN` in this process.
    pub fn new(area: &MemArea, offset: usize, len: usize) -> Option<Self> {
        const { assert!(ALIGN.is_power_of_two() && STRIDE.is_multiple_of(ALIGN)) };
        let bytes = area.as_slice().sub(offset, len.checked_mul(STRIDE)?)?;
        let start = bytes.as_ptr();
        start.addr().is_multiple_of(ALIGN).then(|| Self { start, len, _area: area.clone() })
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, for a loop over many of them.
    #[inline(always)]
    pub fn entries(&self) -> Entries<'_, STRIDE, ALIGN> {
        Entries { start: self.start, len: self.len, table: PhantomData }
    }

    delegated!(load_u16, store_u16, u16);
    delegated!(load_u32, store_u32, u32);
    delegated!(load_u64, store_u64, u64);

    /// As [`Entries::prefetch`].
    #[inline(always)]
    pub fn prefetch(&self, index: usize, to_write: bool) {
        self.entries().prefetch(index, to_write);
    }
}

impl<const STRIDE: usize, const ALIGN: usize> Entries<'_, STRIDE, ALIGN> {
    words!(load_u16, store_u16, u16, AtomicU16);
    words!(load_u32, store_u32, u32, AtomicU32);
    words!(load_u64, store_u64, u64, AtomicU64);

    /// Asks the processor to bring the line of an entry closer, for reading or for writing. A hint: reads nothing; an index
    /// outside does nothing of use.
    #[inline(always)]
    pub fn prefetch(self, index: usize, to_write: bool) {
        crate::slice::prefetch_line(self.start.wrapping_add(index.wrapping_mul(STRIDE)), to_write);
    }

    #[inline(always)]
    fn word<T>(self, index: usize, at: usize) -> *mut T {
        let size = size_of::<T>();
        // With a constant `at` nothing of this first check is left at run time.
        assert!(size <= ALIGN && at.is_multiple_of(size) && at + size <= STRIDE, "no word of the entry");
        assert!(index < self.len, "entry outside its table");
        // SAFETY: `index < len`, so the entry lies inside the area, and the word inside the entry.
        unsafe { self.start.add(index * STRIDE + at) }.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_land_where_the_area_has_them() {
        let area = MemArea::private(64);
        let table = MemTable::<16, 8>::new(&area, 16, 3).unwrap();
        table.store_u64(2, 8, 0x0102_0304_0506_0708, Ordering::Relaxed);
        assert_eq!(area.load_u64(56, Ordering::Relaxed), 0x0102_0304_0506_0708);
        area.store_u32(20, 7, Ordering::Relaxed);
        assert_eq!(table.load_u32(0, 4, Ordering::Relaxed), 7);
        assert_eq!(table.load_u16(0, 4, Ordering::Relaxed), 7u32.to_ne_bytes()[0].into());
    }

    #[test]
    fn tables_stay_inside_their_area_and_aligned() {
        let area = MemArea::private(64);
        assert!(MemTable::<16, 8>::new(&area, 16, 4).is_none());
        assert!(MemTable::<16, 8>::new(&area, 4, 1).is_none());
        assert!(MemTable::<8, 4>::new(&area, 4, 7).is_some());
        assert!(MemTable::<16, 8>::new(&area, 0, usize::MAX).is_none());
    }

    #[test]
    #[should_panic(expected = "outside its table")]
    fn an_index_outside_is_our_bug() {
        MemTable::<2, 2>::new(&MemArea::private(8), 0, 3).unwrap().load_u16(3, 0, Ordering::Relaxed);
    }
}
