//! Who may write where, on a disk whose blocks are larger than what its guest may write.
//!
//! A write that covers a block only in part reads the block, puts its bytes in and writes the whole. Whatever else writes to the block
//! meanwhile would be lost. So on such a disk every write holds the blocks that it touches: those that read around them alone, others
//! together. Who has to wait is told when something was given back, and asks again; who comes later may come first, as it may on
//! every disk.

use super::bell::Bell;
use devices::storage::Extent;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: Vec<Held>,
    next: u64,
    waiting: Vec<Arc<Bell>>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    extent: Extent,
    alone: bool,
}

/// The right to write to some blocks, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    ranges: Arc<Ranges>,
    id: u64,
}

impl Ranges {
    /// The right to write to `extent`; `None`: not now, and `bell` rings when it is worth asking again.
    pub(super) fn hold(self: &Arc<Self>, extent: Extent, alone: bool, bell: &Arc<Bell>) -> Option<Hold> {
        let mut state = self.0.lock();
        let collides = |held: &Held| {
            (alone || held.alone) && held.extent.offset < extent.end() && extent.offset < held.extent.end()
        };
        if state.held.iter().any(collides) {
            if !state.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, bell)) {
                state.waiting.push(Arc::clone(bell));
            }
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.held.push(Held { id, extent, alone });
        Some(Hold { ranges: Arc::clone(self), id })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.ranges.0.lock();
            if let Some(index) = state.held.iter().position(|held| held.id == self.id) {
                state.held.swap_remove(index);
            }
            std::mem::take(&mut state.waiting)
        };
        waiting.iter().for_each(|bell| bell.ring());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn rang(bell: &Bell) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&now)).unwrap() == 1
    }

    #[test]
    fn who_reads_around_is_alone_and_others_are_not() {
        let ranges = Arc::new(Ranges::default());
        let bells = [(); 2].map(|()| Arc::new(Bell::new().unwrap()));
        let extent = |offset, len| Extent { offset, len };
        let first = ranges.hold(extent(0, 8192), false, &bells[0]).unwrap();
        let second = ranges.hold(extent(4096, 4096), false, &bells[0]).unwrap();
        assert!(ranges.hold(extent(4096, 4096), true, &bells[1]).is_none());
        assert!(ranges.hold(extent(4096, 4096), true, &bells[1]).is_none());
        assert!(ranges.hold(extent(8192, 4096), true, &bells[1]).is_some(), "beside them");
        assert!(!rang(&bells[0]));
        drop(first);
        assert!(rang(&bells[1]) && ranges.hold(extent(4096, 4096), true, &bells[1]).is_none());
        drop(second);
        let alone = ranges.hold(extent(4096, 4096), true, &bells[1]).unwrap();
        assert!(ranges.hold(extent(0, 4097), false, &bells[0]).is_none());
        assert!(ranges.hold(extent(0, 4096), false, &bells[0]).is_some());
        drop(alone);
        assert!(rang(&bells[0]) && ranges.0.lock().held.is_empty());
    }
}
