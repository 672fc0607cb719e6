//! Runs of guest memory that are used on after the borrow they were validated in: by a disk, by the kernel.
//!
//! A chain's buffers are [`MemSlice`]s that borrow the memory. Whoever starts an operation that ends later keeps the runs here,
//! together with the memory they lie in. The list is refilled from operation to operation and allocates nothing once it is warm.

use crate::{GuestMemory, MemSlice};
use libc::iovec;
use std::ops::Range;
use std::sync::Arc;

/// A list keeps its allocation from one use to the next up to this many runs; a longer one is an exception and gives it back.
const CAPACITY_KEPT: usize = 256;

/// A stretch of a [`KeptRuns`]: what one [`KeptRuns::keep`] added. It names runs of that list alone, until its next
/// [`KeptRuns::clear`]; elsewhere it names others, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    first: u32,
    end: u32,
}

impl Part {
    fn range(self) -> Range<usize> {
        self.first as usize..self.end as usize
    }
}

/// Runs of one guest's memory, with the memory itself, which stays mapped as long as they are kept.
#[derive(Debug, Default)]
pub struct KeptRuns {
    memory: Option<Arc<GuestMemory>>,
    /// Each was a slice of `memory`.
    runs: Vec<iovec>,
}

// SAFETY: the pointers lead into memory that `memory` keeps mapped and that tolerates access from any thread.
unsafe impl Send for KeptRuns {}
// SAFETY: as above.
unsafe impl Sync for KeptRuns {}

impl KeptRuns {
    /// An empty list.
    pub const fn new() -> Self {
        Self { memory: None, runs: Vec::new() }
    }

    /// Forgets the runs and lets go of the memory.
    pub fn clear(&mut self) {
        self.memory = None;
        self.runs.clear();
        if self.runs.capacity() > CAPACITY_KEPT {
            self.runs = Vec::new();
        }
    }

    /// Appends up to `len` bytes of `segments` from position `skip` on, fewer if the list ends before; each segment is
    /// a run by itself.
    ///
    /// `None`: a segment is not of `memory`, or `memory` is another one than that of the runs kept already. Nothing is added then.
    pub fn keep(
        &mut self,
        memory: &Arc<GuestMemory>,
        segments: &[MemSlice<'_>],
        skip: usize,
        len: usize,
    ) -> Option<Part> {
        if self.memory.as_ref().is_some_and(|kept| !Arc::ptr_eq(kept, memory)) {
            return None;
        }
        let first = self.runs.len();
        let (mut skip, mut left) = (skip, len);
        for segment in segments {
            if left == 0 {
                break;
            }
            let (_, rest) = segment.split_at(skip);
            skip -= segment.len() - rest.len();
            let (now, _) = rest.split_at(left);
            if now.is_empty() {
                continue;
            }
            if !memory.holds(&now) {
                self.runs.truncate(first);
                return None;
            }
            left -= now.len();
            self.runs.push(iovec { iov_base: now.as_ptr().cast(), iov_len: now.len() });
        }
        if self.memory.is_none() {
            self.memory = Some(Arc::clone(memory));
        }
        // A chain has a few thousand segments at most.
        Some(Part { first: first as u32, end: self.runs.len() as u32 })
    }

    /// Keeps the first `len` bytes of a part of another list, and the memory with them, in place of what was kept before: an operation
    /// that owns what it uses does not depend on how long that list lives.
    pub fn copy_from(&mut self, other: &Self, part: Part, len: usize) -> Part {
        self.clear();
        let mut left = len;
        for run in other.iovecs(part) {
            if left == 0 {
                break;
            }
            let now = run.iov_len.min(left);
            self.runs.push(iovec { iov_base: run.iov_base, iov_len: now });
            left -= now;
        }
        if !self.runs.is_empty() {
            self.memory.clone_from(&other.memory);
        }
        Part { first: 0, end: self.runs.len() as u32 }
    }

    /// The runs of a part, in order, for the kernel: pointers into guest memory that are valid as long as the list is neither
    /// cleared nor dropped. Others may write there at any moment.
    pub fn iovecs(&self, part: Part) -> &[iovec] {
        self.runs.get(part.range()).unwrap_or(&[])
    }

    /// The runs of a part, in order.
    pub fn slices(&self, part: Part) -> impl Iterator<Item = MemSlice<'_>> {
        // SAFETY: each run was a slice of `memory`, which is kept mapped for as long as `self` is borrowed and not cleared.
        self.iovecs(part).iter().map(|run| unsafe { MemSlice::new(run.iov_base.cast(), run.iov_len) })
    }

    /// All runs, in order.
    pub fn all(&self) -> impl Iterator<Item = MemSlice<'_>> {
        self.slices(Part { first: 0, end: self.runs.len() as u32 })
    }

    /// Bytes of a part.
    pub fn len(&self, part: Part) -> usize {
        self.iovecs(part).iter().map(|run| run.iov_len).sum()
    }

    /// Whether a part has no bytes.
    pub fn is_empty(&self, part: Part) -> bool {
        self.iovecs(part).is_empty()
    }

    /// Whether every run of a part begins at a multiple of `align` bytes and is a multiple long: what direct I/O asks for.
    pub fn is_aligned(&self, part: Part, align: usize) -> bool {
        self.is_aligned_for(part, align, align)
    }

    /// As [`Self::is_aligned`], where addresses and lengths have alignments of their own (`STATX_DIOALIGN`).
    pub fn is_aligned_for(&self, part: Part, addr_align: usize, len_align: usize) -> bool {
        let is_multiple = |run: &iovec| {
            run.iov_base.addr().is_multiple_of(addr_align) && run.iov_len.is_multiple_of(len_align)
        };
        self.iovecs(part).iter().all(is_multiple)
    }

    /// Takes the first `len` bytes out of a part, for an operation that got that far and goes on; more than it has empty it.
    pub fn advance(&mut self, part: &mut Part, len: usize) {
        let mut left = len;
        for run in self.runs.get_mut(part.range()).unwrap_or_default() {
            if left < run.iov_len {
                run.iov_base = run.iov_base.cast::<u8>().wrapping_add(left).cast();
                run.iov_len -= left;
                return;
            }
            left -= run.iov_len;
            part.first += 1;
        }
    }

    /// Copies bytes of a part out, from its position `offset` on; returns how many there were.
    pub fn read(&self, part: Part, offset: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for slice in self.slices(part) {
            let (_, rest) = slice.split_at(skip);
            skip -= slice.len() - rest.len();
            done += rest.read(&mut out[done..]);
            if done == out.len() {
                break;
            }
        }
        done
    }

    /// Copies `data` into a part, from its position `offset` on; returns how many bytes found room.
    pub fn write(&self, part: Part, offset: usize, data: &[u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for slice in self.slices(part) {
            let (_, rest) = slice.split_at(skip);
            skip -= slice.len() - rest.len();
            done += rest.write(&data[done..]);
            if done == data.len() {
                break;
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrontendAddr, GuestAddr, Mapping, Region};

    fn memory() -> Arc<GuestMemory> {
        let region = |guest| {
            let mapping = Arc::new(Mapping::anonymous(4096).unwrap());
            Region::new(GuestAddr(guest), FrontendAddr(guest), 4096, mapping).unwrap()
        };
        Arc::new(GuestMemory::new(vec![region(0), region(4096)]).unwrap())
    }

    fn lens(kept: &KeptRuns, part: Part) -> Vec<usize> {
        kept.iovecs(part).iter().map(|run| run.iov_len).collect()
    }

    #[test]
    fn each_part_is_a_stretch_of_the_segments() {
        let memory = memory();
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        let segments = [slice(0, 100), slice(100, 50), MemSlice::empty(), slice(4000, 96), slice(4096, 4)];
        let mut kept = KeptRuns::new();
        let all = kept.keep(&memory, &segments, 0, usize::MAX).unwrap();
        assert_eq!((lens(&kept, all), kept.len(all)), (vec![100, 50, 96, 4], 250));
        let middle = kept.keep(&memory, &segments, 99, 56).unwrap();
        assert_eq!((lens(&kept, middle), lens(&kept, all).len()), (vec![1, 50, 5], 4));
        let none = kept.keep(&memory, &segments, 250, 9).unwrap();
        assert!(kept.is_empty(none) && kept.all().count() == 7);
    }

    #[test]
    fn parts_are_read_and_written_by_position() {
        let memory = memory();
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        let mut kept = KeptRuns::new();
        let first = kept.keep(&memory, &[slice(10, 3)], 0, 3).unwrap();
        let second = kept.keep(&memory, &[slice(20, 2), slice(30, 4)], 0, 6).unwrap();
        assert_eq!(kept.write(second, 1, &[1, 2, 3, 4, 5, 6]), 5);
        assert_eq!(kept.write(first, 3, &[9]), 0);
        let mut out = [0; 8];
        assert_eq!((kept.read(second, 0, &mut out), out), (6, [0, 1, 2, 3, 4, 5, 0, 0]));
        assert_eq!((slice(21, 1).read(&mut out[..1]), out[0]), (1, 1));
    }

    #[test]
    fn an_operation_goes_on_where_it_stopped() {
        let memory = memory();
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        let mut kept = KeptRuns::new();
        let mut part = kept.keep(&memory, &[slice(0, 512), slice(1024, 512)], 0, 1024).unwrap();
        let tail = kept.keep(&memory, &[slice(1536, 1)], 0, 1).unwrap();
        assert!(kept.is_aligned(part, 512) && !kept.is_aligned(tail, 512));
        kept.advance(&mut part, 12);
        assert_eq!((lens(&kept, part), kept.is_aligned(part, 512)), (vec![500, 512], false));
        kept.write(part, 0, &[7]);
        let mut byte = [0];
        slice(12, 1).read(&mut byte);
        assert_eq!(byte, [7]);
        kept.advance(&mut part, 500);
        assert_eq!(lens(&kept, part), [512]);
        kept.advance(&mut part, 1000);
        assert_eq!((kept.len(part), kept.len(tail)), (0, 1));
    }

    #[test]
    fn only_the_guest_s_own_memory_is_kept() {
        let (memory, other) = (memory(), memory());
        let mut bytes = [0; 16];
        let good = memory.slice(GuestAddr(0), 16).unwrap();
        let mut kept = KeptRuns::new();
        assert!(kept.keep(&memory, &[good, MemSlice::from_mut(&mut bytes)], 0, 32).is_none());
        assert!(kept.keep(&other, &[good], 0, 16).is_none() && kept.all().count() == 0);
        let part = kept.keep(&memory, &[good], 0, 16).unwrap();
        assert!(kept.keep(&other, &[other.slice(GuestAddr(0), 4).unwrap()], 0, 4).is_none());
        kept.clear();
        assert!(kept.keep(&other, &[other.slice(GuestAddr(0), 4).unwrap()], 0, 4).is_some());
        assert_eq!(kept.len(part), 4, "a part of another time names other runs, never foreign memory");
    }

    #[test]
    fn the_memory_stays_as_long_as_it_is_kept() {
        let memory = memory();
        let mut kept = KeptRuns::new();
        let part = kept.keep(&memory, &[memory.slice(GuestAddr(8), 8).unwrap()], 0, 8).unwrap();
        let gone = Arc::downgrade(&memory);
        drop(memory);
        assert!(gone.upgrade().is_some());
        assert_eq!(kept.write(part, 0, &[1; 8]), 8);
        kept.clear();
        assert!(gone.upgrade().is_none() && kept.iovecs(part).is_empty());
    }

    #[test]
    fn a_copy_outlives_the_list_that_it_was_made_of() {
        let memory = memory();
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        let mut kept = KeptRuns::new();
        kept.keep(&memory, &[slice(500, 1)], 0, 1).unwrap();
        let part = kept.keep(&memory, &[slice(0, 8), slice(16, 8)], 0, 16).unwrap();
        let mut copy = KeptRuns::new();
        let whole = copy.copy_from(&kept, part, usize::MAX);
        assert_eq!(lens(&copy, whole), [8, 8]);
        let some = copy.copy_from(&kept, part, 11);
        kept.clear();
        assert_eq!((lens(&copy, some), copy.write(some, 0, &[9; 16])), (vec![8, 3], 11));
        let mut bytes = [0; 4];
        slice(16, 4).read(&mut bytes);
        assert_eq!(bytes, [9, 9, 9, 0]);
        let none = copy.copy_from(&kept, part, 5);
        assert!(copy.is_empty(none));
    }

    #[test]
    fn only_a_usual_allocation_is_kept() {
        let memory = memory();
        let segments: Vec<_> = (0..300).map(|index| memory.slice(GuestAddr(index * 2), 1).unwrap()).collect();
        let mut kept = KeptRuns::new();
        kept.keep(&memory, &segments[..200], 0, 200).unwrap();
        kept.clear();
        assert!((200..=CAPACITY_KEPT).contains(&kept.runs.capacity()));
        kept.keep(&memory, &segments, 0, 300).unwrap();
        kept.clear();
        assert_eq!(kept.runs.capacity(), 0);
    }
}
