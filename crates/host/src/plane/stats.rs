//! What is counted of each queue.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use switch::DropReason;
use virtqueue::DriverFault;

/// Counters of one queue and direction. Written by whoever holds the queue, read by anyone.
pub(super) struct QueueStats {
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) kicks: AtomicU64,
    pub(super) calls: AtomicU64,
    /// Those of `frames` that had to wait in the queue's backlog.
    pub(super) misses: AtomicU64,
    pub(super) drops: [AtomicU64; DropReason::COUNT],
    pub(super) faults: [AtomicU64; DriverFault::COUNT],
}

impl Default for QueueStats {
    fn default() -> Self {
        Self {
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            kicks: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
            faults: [const { AtomicU64::new(0) }; DriverFault::COUNT],
        }
    }
}

impl QueueStats {
    #[inline]
    pub(super) fn forwarded(&self, frames: u64, bytes: u64) {
        add(&self.frames, frames);
        add(&self.bytes, bytes);
    }

    #[inline]
    pub(super) fn dropped(&self, reason: DropReason, frames: u64) {
        add(&self.drops[reason.as_usize()], frames);
    }

    /// As [`Self::dropped`], by someone who does not hold the queue.
    #[cold]
    pub(super) fn dropped_unheld(&self, reason: DropReason, frames: u64) {
        self.drops[reason.as_usize()].fetch_add(frames, Relaxed);
    }

    pub(super) fn faulted(&self, fault: DriverFault) {
        add(&self.faults[fault.index()], 1);
    }
}

/// Adds to a counter that only one thread writes at a time: no locked instruction.
#[inline]
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}
