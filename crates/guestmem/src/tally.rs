//! How many bytes this thread has copied from and to shared memory, for tests that say how often a frame is copied.
//!
//! Kept in builds with debug assertions alone; elsewhere it stays zero and costs nothing.

use std::cell::Cell;

/// Bytes copied by [`MemSlice`](crate::MemSlice)s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Out of them: into private memory, or into another slice.
    pub read: u64,
    /// Into them: from private memory, or from another slice.
    pub written: u64,
}

thread_local! {
    static COPIED: Cell<Tally> = const { Cell::new(Tally { read: 0, written: 0 }) };
}

/// What this thread has copied since the last call.
pub fn take() -> Tally {
    COPIED.take()
}

#[inline(always)]
pub(crate) fn note(read: usize, written: usize) {
    if cfg!(debug_assertions) {
        let before = COPIED.get();
        COPIED.set(Tally { read: before.read + read as u64, written: before.written + written as u64 });
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::{MemSlice, copy_segments, read_segments, write_segments};

    #[test]
    fn each_way_of_copying_is_counted_once() {
        let (mut a, mut b) = ([1u8; 100], [0u8; 60]);
        let (source, target) = (MemSlice::from_mut(&mut a), MemSlice::from_mut(&mut b));
        take();
        read_segments(&[source], 90, &mut [0; 20]);
        assert_eq!(take(), Tally { read: 10, written: 0 });
        write_segments(&[target], 0, &[0; 70]);
        assert_eq!(take(), Tally { read: 0, written: 60 });
        copy_segments(&[source], 10, &[target], 20, 50);
        assert_eq!((take(), take()), (Tally { read: 40, written: 40 }, Tally::default()));
    }
}
