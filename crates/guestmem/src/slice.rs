//! A borrowed run of shared bytes, and lists of them.

use crate::copy::{copy_in, copy_shared, fill_shared};
use crate::tally;
use std::marker::PhantomData;

/// A run of bytes that another party may change at any time; bounds fixed, mapping kept alive by `'m`.
///
/// All access copies into or out of private memory, or straight into another `MemSlice`. There is no way to
/// get a reference to the bytes.
#[derive(Clone, Copy, Debug)]
pub struct MemSlice<'m> {
    start: *mut u8,
    len: usize,
    memory: PhantomData<&'m GuestBytes>,
}

/// What a `MemSlice` points to: bytes with interior mutability from outside the program.
#[derive(Debug)]
struct GuestBytes;

// SAFETY: the bytes are only ever touched by atomics or assembly that tolerate concurrent access.
unsafe impl Send for MemSlice<'_> {}
// SAFETY: as above.
unsafe impl Sync for MemSlice<'_> {}

impl<'m> MemSlice<'m> {
    /// # Safety
    /// `start..start + len` stays mapped readable and writable for `'m`, and is only accessed through this
    /// crate or from outside the program.
    #[inline]
    pub(crate) unsafe fn new(start: *mut u8, len: usize) -> Self {
        Self { start, len, memory: PhantomData }
    }

    /// Borrows private memory as a `MemSlice`, so that one code path serves both.
    #[inline]
    pub fn from_mut(bytes: &'m mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), len: bytes.len(), memory: PhantomData }
    }

    /// The empty run.
    pub const fn empty() -> Self {
        Self { start: std::ptr::NonNull::dangling().as_ptr(), len: 0, memory: PhantomData }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset` on; `None` when they do not all lie inside.
    #[inline]
    pub fn sub(self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset <= end <= self.len`, so the result lies inside this slice and shares its lifetime.
        (end <= self.len).then(|| unsafe { Self::new(self.start.add(offset), len) })
    }

    /// The first `offset` bytes and the rest; `offset` is clamped to the length.
    #[inline]
    pub fn split_at(self, offset: usize) -> (Self, Self) {
        let offset = offset.min(self.len);
        // SAFETY: `offset <= self.len`; both halves lie inside this slice.
        unsafe { (Self::new(self.start, offset), Self::new(self.start.add(offset), self.len - offset)) }
    }

    /// Copies the first `min(self.len(), out.len())` bytes out; returns how many.
    #[inline]
    pub fn read(&self, out: &mut [u8]) -> usize {
        let len = self.len.min(out.len());
        tally::note(len, 0);
        // SAFETY: `len` bytes are inside both; `out` is exclusively ours, so they cannot overlap.
        unsafe { copy_shared(out.as_mut_ptr(), self.start, len) };
        len
    }

    /// Copies the first `min(self.len(), data.len())` bytes in; returns how many.
    #[inline]
    pub fn write(&self, data: &[u8]) -> usize {
        let len = self.len.min(data.len());
        tally::note(0, len);
        // SAFETY: `len` bytes are inside.
        unsafe { copy_in(self.start, &data[..len]) };
        len
    }

    /// Copies the first `min` of both lengths into `target`; returns how many. If a hostile guest made the
    /// two overlap, the bytes are unspecified but stay inside `target`.
    #[inline]
    pub fn copy_to(&self, target: MemSlice<'_>) -> usize {
        let len = self.len.min(target.len);
        tally::note(len, len);
        // SAFETY: `len` bytes are inside both. An overlap (one guest naming the same page twice) only mixes
        // bytes: the copy is assembly or atomics, for which overlap is not undefined.
        unsafe { copy_shared(target.start, self.start, len) };
        len
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        // SAFETY: the whole slice is writable.
        unsafe { fill_shared(self.start, byte, self.len) };
    }

    /// Asks the processor to bring the first two cache lines of the run closer, for reading or for writing (one line, if it is no
    /// longer than a line): a header often ends one line, and what is read of a frame begins the next. A hint: reads nothing.
    #[inline(always)]
    pub fn prefetch(&self, to_write: bool) {
        const LINE: usize = 64;
        prefetch_line(self.start, to_write);
        if self.len > LINE {
            prefetch_line(self.start.wrapping_add(LINE), to_write);
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start
    }
}

/// Asks the processor to bring one cache line closer, for reading or for writing.
#[inline(always)]
pub(crate) fn prefetch_line(at: *const u8, to_write: bool) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch of any address is allowed and has no visible effect. As assembly, because the compiler makes one
    // for reading of `_MM_HINT_ET0` unless it may rely on PREFETCHW; processors without it do nothing.
    unsafe {
        if to_write {
            std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        } else {
            std::arch::asm!("prefetcht0 [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (at, to_write);
}

/// The summed length of a list, in bytes.
#[inline]
pub fn total_len(segments: &[MemSlice<'_>]) -> usize {
    segments.iter().map(MemSlice::len).sum()
}

/// Copies up to `out.len()` bytes from position `offset` of the list on; returns how many there were.
#[inline]
pub fn read_segments(segments: &[MemSlice<'_>], offset: usize, out: &mut [u8]) -> usize {
    // The usual case first: one segment, from its beginning.
    if let ([only], 0) = (segments, offset) {
        return only.read(out);
    }
    let (mut skip, mut done) = (offset, 0);
    for segment in segments {
        if done == out.len() {
            break;
        }
        let (_, rest) = segment.split_at(skip);
        skip -= segment.len() - rest.len();
        done += rest.read(&mut out[done..]);
    }
    done
}

/// Copies `data` to position `offset` of the list on; returns how many bytes found room.
#[inline]
pub fn write_segments(segments: &[MemSlice<'_>], offset: usize, data: &[u8]) -> usize {
    if let ([only], 0) = (segments, offset) {
        return only.write(data);
    }
    let (mut skip, mut done) = (offset, 0);
    for segment in segments {
        if done == data.len() {
            break;
        }
        let (_, rest) = segment.split_at(skip);
        skip -= segment.len() - rest.len();
        done += rest.write(&data[done..]);
    }
    done
}

/// Copies up to `len` bytes from position `from` of `source` to position `to` of `target`, both lists;
/// returns how many were copied (less than `len` only when one list ends).
#[inline]
pub fn copy_segments(
    source: &[MemSlice<'_>],
    from: usize,
    target: &[MemSlice<'_>],
    to: usize,
    len: usize,
) -> usize {
    let (mut sources, mut targets) = (source.iter(), target.iter());
    let (mut skip, mut room) = (from, to);
    let (mut src, mut dst) = (MemSlice::empty(), MemSlice::empty());
    let mut done = 0;
    while done < len {
        while src.is_empty() {
            let Some(next) = sources.next() else { return done };
            src = next.split_at(skip).1;
            skip -= next.len() - src.len();
        }
        while dst.is_empty() {
            let Some(next) = targets.next() else { return done };
            dst = next.split_at(room).1;
            room -= next.len() - dst.len();
        }
        let now = src.split_at(len - done).0.copy_to(dst);
        src = src.split_at(now).1;
        dst = dst.split_at(now).1;
        done += now;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_write_and_copy_across_boundaries() {
        let (mut a, mut b, mut c) = ([1u8, 2, 3], [4u8], [5u8, 6, 7, 8]);
        let source = [MemSlice::from_mut(&mut a), MemSlice::from_mut(&mut b), MemSlice::from_mut(&mut c)];
        let mut out = [0u8; 10];
        assert_eq!(read_segments(&source, 2, &mut out), 6);
        assert_eq!(out[..6], [3, 4, 5, 6, 7, 8]);
        let (mut d, mut e) = ([0u8; 2], [0u8; 5]);
        {
            let target = [MemSlice::from_mut(&mut d), MemSlice::empty(), MemSlice::from_mut(&mut e)];
            assert_eq!(copy_segments(&source, 1, &target, 1, 100), 6);
            assert_eq!(write_segments(&target, 6, &[9, 9]), 1);
        }
        assert_eq!((d, e), ([0, 2], [3, 4, 5, 6, 9]));
    }

    #[test]
    fn nothing_leaves_the_bounds() {
        let mut bytes = [0u8; 8];
        let slice = MemSlice::from_mut(&mut bytes);
        assert!(slice.sub(4, 5).is_none());
        assert!(slice.sub(usize::MAX, 2).is_none());
        assert_eq!(slice.sub(8, 0).unwrap().len(), 0);
        assert_eq!(slice.split_at(100).0.len(), 8);
        assert_eq!(slice.write(&[7; 20]), 8);
    }
}
