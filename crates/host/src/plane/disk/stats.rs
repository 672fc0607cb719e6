//! What is counted of a disk's queues, and how long requests took.

use super::super::stats::add;
use crate::storage::Histogram;
use devices::blk::Status;
use devices::storage::{Outcome, Work};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters of one queue. Written by whoever holds the queue, read by anyone.
#[derive(Default)]
pub(in super::super) struct DiskStats {
    pub(in super::super) reads: AtomicU64,
    pub(in super::super) writes: AtomicU64,
    pub(in super::super) flushes: AtomicU64,
    pub(in super::super) discards: AtomicU64,
    pub(in super::super) zeroes: AtomicU64,
    /// Requests that needed no disk, such as the one for its name.
    pub(in super::super) others: AtomicU64,
    pub(in super::super) bytes_read: AtomicU64,
    pub(in super::super) bytes_written: AtomicU64,
    /// Requests that were answered with another status than OK.
    pub(in super::super) errors: AtomicU64,
    pub(in super::super) kicks: AtomicU64,
    pub(in super::super) calls: AtomicU64,
    /// From a request's first step to its answer.
    pub(in super::super) times: Mutex<Times>,
}

/// Times of requests, by kind.
#[derive(Clone, Default)]
pub(in super::super) struct Times {
    pub(in super::super) read: Histogram,
    pub(in super::super) write: Histogram,
    pub(in super::super) flush: Histogram,
}

impl Times {
    /// Adds those of another queue.
    pub(in super::super) fn merge(&mut self, other: &Self) {
        self.read.merge(&other.read);
        self.write.merge(&other.write);
        self.flush.merge(&other.flush);
    }
}

impl DiskStats {
    /// Requests that were answered.
    pub(super) fn requests(&self) -> u64 {
        let kinds = [&self.reads, &self.writes, &self.flushes, &self.discards, &self.zeroes, &self.others];
        kinds.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    /// A request was answered without the disk.
    pub(super) fn answered(&self, status: Option<Status>) {
        add(&self.others, 1);
        add(&self.errors, u64::from(status != Some(Status::Ok)));
    }

    /// The disk has carried out a request, or not.
    pub(super) fn ended(&self, work: &Work, outcome: &Outcome, time: Duration) {
        let is_done = outcome.is_ok();
        add(&self.errors, u64::from(!is_done));
        let bytes = |len: u64| if is_done { len } else { 0 };
        match work {
            Work::Read(extent) => {
                add(&self.reads, 1);
                add(&self.bytes_read, bytes(extent.len));
                self.times.lock().read.record(time);
            }
            Work::Write { extent, .. } => {
                add(&self.writes, 1);
                add(&self.bytes_written, bytes(extent.len));
                self.times.lock().write.record(time);
            }
            Work::Flush => {
                add(&self.flushes, 1);
                self.times.lock().flush.record(time);
            }
            Work::Discard(_) | Work::SecureErase(_) => add(&self.discards, 1),
            Work::Zero { .. } => add(&self.zeroes, 1),
        }
    }
}
