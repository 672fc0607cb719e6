//! What a back-end leaves in shared memory that is killed between two stores, for tests that kill one at every store.
//!
//! Kept in builds with debug assertions alone; elsewhere every store takes effect and nothing is looked at.

use std::cell::Cell;

/// How far a thread is from its end.
#[derive(Clone, Copy)]
enum Life {
    /// Nobody kills it.
    Safe,
    /// So many stores more.
    Left(u64),
    /// A store was lost.
    Over,
}

thread_local! {
    static LIFE: Cell<Life> = const { Cell::new(Life::Safe) };
}

/// From now on this thread's next `stores` word stores into shared memory take effect, and those after them do not.
pub fn after(stores: u64) {
    LIFE.set(Life::Left(stores));
}

/// Stores take effect again. Returns how many were left; `None`: a store was lost, or nothing was begun.
pub fn end() -> Option<u64> {
    match LIFE.replace(Life::Safe) {
        Life::Left(left) => Some(left),
        Life::Safe | Life::Over => None,
    }
}

/// Whether the store that is about to be made takes effect.
#[inline(always)]
pub(crate) fn lives() -> bool {
    !cfg!(debug_assertions) || spend()
}

fn spend() -> bool {
    match LIFE.get() {
        Life::Safe => true,
        Life::Over => false,
        Life::Left(left) => {
            LIFE.set(left.checked_sub(1).map_or(Life::Over, Life::Left));
            left > 0
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::{MemArea, MemTable};
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn stores_stop_after_the_last_one() {
        let area = MemArea::private(16);
        let table = MemTable::<8, 8>::new(&area, 0, 2).unwrap();
        after(2);
        area.store_u16(0, 1, Relaxed);
        table.store_u16(0, 2, 2, Relaxed);
        assert_eq!(end(), Some(0));
        after(1);
        area.store_u16(4, 3, Relaxed);
        table.store_u16(0, 6, 4, Relaxed);
        area.store_u64(8, 5, Relaxed);
        assert_eq!((end(), end()), (None, None));
        area.store_u16(8, 6, Relaxed);
        let words = [0, 2, 4, 6, 8].map(|at| area.load_u16(at, Relaxed));
        assert_eq!(words, [1, 2, 3, 0, 6]);
    }
}
