//! Calling drivers, and calling them less often: interrupt moderation (`rx-usecs` of a port).
//!
//! A driver that asked to be called is called at once, unless it was called less than the port's interval ago: then its call
//! waits until that is over, and stands for all that happens in between. The worker that puts a call off makes it
//! ([`Calls::make_due`]), and does not sleep past it.

use super::port::call;
use super::stats::{QueueStats, add};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a receive queue keeps of its calls.
#[derive(Default)]
pub(super) struct Moderation {
    /// When the next call may be made.
    next: Option<Instant>,
    /// One waits for that moment.
    waits: Arc<AtomicBool>,
}

/// Calls that one worker has put off.
pub(super) struct Calls {
    waiting: Vec<(Instant, Arc<OwnedFd>, Arc<AtomicBool>)>,
    /// Someone makes what is put off. Otherwise nothing is.
    can_wait: bool,
}

impl Calls {
    pub(super) fn new(can_wait: bool) -> Self {
        Self { waiting: Vec::new(), can_wait }
    }

    /// What is to be called now, of a queue whose driver wants to be called through `fd` at most once in `interval`; to be done
    /// after the queue's lock is let go.
    #[inline]
    pub(super) fn admit(
        &mut self,
        fd: Option<Arc<OwnedFd>>,
        interval: Duration,
        moderation: &mut Moderation,
        stats: &QueueStats,
    ) -> Option<Arc<OwnedFd>> {
        let fd = fd?;
        if !interval.is_zero() && self.can_wait && self.put_off(&fd, interval, moderation, stats) {
            return None;
        }
        add(&stats.calls, 1);
        Some(fd)
    }

    /// False: it is time for a call.
    #[cold]
    fn put_off(
        &mut self,
        fd: &Arc<OwnedFd>,
        interval: Duration,
        moderation: &mut Moderation,
        stats: &QueueStats,
    ) -> bool {
        if moderation.waits.load(Relaxed) {
            return true;
        }
        let now = Instant::now();
        match moderation.next {
            Some(next) if now < next => {
                moderation.waits.store(true, Relaxed);
                self.waiting.push((next, Arc::clone(fd), Arc::clone(&moderation.waits)));
                moderation.next = Some(next + interval);
                // Counted now, by who holds the queue.
                add(&stats.calls, 1);
                true
            }
            _ => {
                moderation.next = Some(now + interval);
                false
            }
        }
    }

    /// When the next call that was put off is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|(due, ..)| *due).min()
    }

    /// Makes the calls that are due at `now`; all of them if that is `None`.
    pub(super) fn make_due(&mut self, now: Option<Instant>) {
        self.waiting.retain(|(due, fd, waits)| {
            if now.is_some_and(|now| now < *due) {
                return true;
            }
            // First the mark: what is put into the queue from now on brings a call of its own.
            waits.store(false, Relaxed);
            call(Some(Arc::clone(fd)));
            false
        });
    }
}
