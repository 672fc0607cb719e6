//! A request's way, top to bottom: what has ended is answered, a burst is popped, each chain becomes a request
//! ([`devices::blk::begin()`]), the engine carries its work out, and what has ended by then is answered too.
//!
//! Data is never copied here: the engine moves it between the disk and the guest's memory.

use super::super::deliver::BURST;
use super::super::notify::signal;
use super::super::port::call;
use super::super::stats::add;
use super::{Disk, stats::DiskStats};
use crate::storage::Engine;
use devices::blk::{self, Acknowledged, Begun, Request, Rules, Spare};
use devices::storage::{IoFault, Outcome};
use guestmem::GuestMemory;
use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtqueue::{Burst, Chain, Detached, DeviceQueue, RingState};

/// One queue of a disk.
#[derive(Default)]
pub(in super::super) struct DiskQueue {
    /// Taken once a burst by its worker, and by the session to start, stop or change it.
    pub(in super::super) live: Mutex<Option<LiveDisk>>,
    pub(in super::super) stats: DiskStats,
}

/// A running queue and all that is needed to use it.
pub(in super::super) struct LiveDisk {
    pub(in super::super) queue: DeviceQueue,
    pub(in super::super) memory: Arc<GuestMemory>,
    pub(in super::super) acknowledged: Acknowledged,
    pub(in super::super) enabled: bool,
    pub(in super::super) call: Option<Arc<OwnedFd>>,
    pub(in super::super) error: Option<OwnedFd>,
    /// No kick descriptor: the driver does not notify, we look.
    pub(in super::super) polled: bool,
    in_order: bool,
    engine: Engine,
    /// By tag.
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    spare: Spare,
    burst: Burst<'static>,
    /// What the engine has told and is not answered yet.
    told: Vec<(u64, Outcome)>,
    /// The disk's rate is used up: nothing is popped before.
    not_before: Option<Instant>,
}

/// A request that the disk has.
struct Flight {
    chain: Detached,
    request: Request,
    begun: Instant,
}

/// What the session gives a queue to begin with.
pub(in super::super) struct Start {
    pub(in super::super) queue: DeviceQueue,
    pub(in super::super) memory: Arc<GuestMemory>,
    pub(in super::super) acknowledged: Acknowledged,
    /// Requests are completed in the order of the ring: whoever takes it over after a kill finds its place by that.
    pub(in super::super) in_order: bool,
    pub(in super::super) enabled: bool,
    pub(in super::super) call: Option<Arc<OwnedFd>>,
    pub(in super::super) error: Option<OwnedFd>,
    pub(in super::super) polled: bool,
}

/// How a queue stands after a look that found nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Rest {
    /// There is something after all.
    Busy,
    /// Nobody will wake us for what comes next.
    Unheard,
    /// What comes next may not begin yet.
    Later,
    /// A kick or the end of a request wakes us.
    Asleep,
}

impl DiskQueue {
    /// Serves the queue once, with `requests_max` new requests at most; returns how many were begun or ended.
    pub(in super::super) fn serve(&self, disk: &Disk, now: Instant, requests_max: usize) -> usize {
        let mut guard = self.live.lock();
        let Some(live) = guard.as_mut() else { return 0 };
        live.engine.tick(now);
        let mut count = live.end(&self.stats, now);
        if live.enabled && live.queue.fault().is_none() {
            count += live.begin(disk, &self.stats, now, requests_max.min(BURST));
        }
        if count == 0 {
            return 0;
        }
        // Whoever has work looks by himself: nothing is signalled until he rests.
        live.engine.active();
        live.engine.send();
        // A disk that needs no time has done it by now.
        live.end(&self.stats, now);
        let due = live.flush();
        add(&self.stats.calls, u64::from(due.is_some()));
        drop(guard);
        call(due);
        count
    }

    /// Asks to be woken for what comes next.
    pub(in super::super) fn rest(&self, now: Instant) -> Rest {
        let mut guard = self.live.lock();
        let Some(live) = guard.as_mut() else { return Rest::Asleep };
        if !live.engine.rest() {
            return Rest::Busy;
        }
        if live.queue.fault().is_some() || !live.enabled {
            return Rest::Asleep;
        }
        if live.not_before.is_some_and(|moment| now < moment) {
            return Rest::Later;
        }
        if live.polled {
            return Rest::Unheard;
        }
        if live.has_room() && live.queue.enable_notify() { Rest::Busy } else { Rest::Asleep }
    }
}

impl LiveDisk {
    pub(in super::super) fn new(start: Start, engine: Engine) -> Self {
        let Start { mut queue, memory, acknowledged, in_order, enabled, call, error, polled } = start;
        if in_order {
            queue.keep_order();
        }
        queue.disable_notify();
        let depth = u32::from(queue.size().get());
        Self {
            queue,
            memory,
            acknowledged,
            enabled,
            call,
            error,
            polled,
            in_order,
            engine,
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            spare: Spare::new(),
            burst: Burst::new(),
            told: Vec::new(),
            not_before: None,
        }
    }

    /// What the end of requests writes to while nobody looks.
    pub(in super::super) fn bell(&self) -> BorrowedFd<'_> {
        self.engine.fd()
    }

    /// Requests that the disk has.
    pub(in super::super) fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Those of them that the disk has had for `limit` and longer.
    pub(in super::super) fn stuck(&self, now: Instant, limit: Duration) -> u64 {
        let mut count = 0;
        self.engine.stuck(now, limit, |_| count += 1);
        count
    }

    /// Waits until the disk has given everything back, for `limit` at most; then what is left is answered as given up. For the
    /// session, before the queue stops or moves.
    pub(in super::super) fn drain(&mut self, stats: &DiskStats, limit: Duration) {
        let began = Instant::now();
        self.engine.send();
        while self.in_flight() > 0 {
            let now = Instant::now();
            self.engine.tick(now);
            if self.end(stats, now) > 0 {
                continue;
            }
            let left = limit.saturating_sub(now - began);
            if left.is_zero() {
                self.give_up(stats, now);
                break;
            }
            self.engine.wait(left);
        }
        self.call_once();
    }

    /// Waits no longer for what the disk does not give back: its requests are answered as failed.
    fn give_up(&mut self, stats: &DiskStats, now: Instant) {
        for tag in 0..self.flights.len() as u64 {
            if self.flights[tag as usize].is_some() {
                self.engine.abandon(tag);
            }
        }
        self.end(stats, now);
    }

    /// Where the ring stands. Drain first.
    pub(in super::super) fn state(&self) -> RingState {
        self.queue.state()
    }

    /// Goes on in another ring, with nothing in flight.
    pub(in super::super) fn move_to(&mut self, queue: DeviceQueue, memory: Arc<GuestMemory>) {
        (self.queue, self.memory) = (queue, memory);
        if self.in_order {
            self.queue.keep_order();
        }
        self.queue.disable_notify();
    }

    /// Tells the front-end that the ring has failed (vhost-user `SET_VRING_ERR`).
    pub(in super::super) fn report_error(&self) {
        if let Some(fd) = &self.error {
            signal(fd.as_fd());
        }
    }

    /// Publishes completions and calls the driver without a reason of its own: an extra call is allowed, a lost one is not.
    pub(in super::super) fn call_once(&mut self) {
        let _wanted = self.queue.flush();
        call(self.call.clone());
    }

    fn flush(&mut self) -> Option<Arc<OwnedFd>> {
        if self.queue.flush() { self.call.clone() } else { None }
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Pops a burst and begins its requests.
    fn begin(&mut self, disk: &Disk, stats: &DiskStats, now: Instant, requests_max: usize) -> usize {
        if self.not_before.is_some_and(|moment| now < moment) {
            return 0;
        }
        self.not_before = None;
        let mut burst = std::mem::take(&mut self.burst).recycle();
        let room = self.free.len().min(requests_max);
        let memory = Arc::clone(&self.memory);
        let popped = self.queue.pop(&memory, &mut burst, room).unwrap_or(0);
        if self.queue.fault().is_some() {
            disk.attention.wake();
        }
        if popped == 0 {
            self.burst = burst.recycle();
            return 0;
        }
        self.queue.disable_notify();
        let rules = disk.rules(self.acknowledged);
        let mut begun = 0;
        while let Some(chain) = burst.take() {
            let bytes = u64::from(chain.readable_len()) + u64::from(chain.writable_len());
            if let Err(wait) = disk.admit(bytes, now) {
                self.put_back(&mut burst, chain);
                self.not_before = Some(now + wait);
                break;
            }
            begun += 1;
            self.begin_one(&rules, stats, (&memory, &burst), chain, now);
        }
        self.burst = burst.recycle();
        begun
    }

    /// Gives chains back that may not begin yet: `chain` and all behind it.
    fn put_back(&mut self, burst: &mut Burst<'_>, chain: Chain) {
        while let Some(newer) = burst.take_last() {
            self.queue.unpop(newer);
        }
        self.queue.unpop(chain);
    }

    fn begin_one(
        &mut self,
        rules: &Rules,
        stats: &DiskStats,
        (memory, burst): (&Arc<GuestMemory>, &Burst<'_>),
        chain: Chain,
        now: Instant,
    ) {
        match blk::begin(rules, None, memory, burst, &chain, &mut self.spare) {
            Begun::Answered(answer) => {
                stats.answered(answer.status);
                self.queue.complete_scattered(burst, chain, answer.written);
            }
            Begun::Work(request) => {
                let Some(tag) = self.free.pop() else {
                    unreachable!("as many were popped as there is room for")
                };
                let (runs, part) = request.data();
                let submitted = self.engine.submit(tag.into(), request.work().clone(), runs, part);
                let chain = self.queue.detach(chain);
                self.flights[tag as usize] = Some(Flight { chain, request, begun: now });
                if submitted.is_err() {
                    // What was abandoned earlier keeps its place in the engine.
                    self.end_one(stats, now, tag.into(), Err(IoFault::Medium.into()));
                }
            }
        }
    }

    /// Answers what has ended.
    fn end(&mut self, stats: &DiskStats, now: Instant) -> usize {
        let mut told = std::mem::take(&mut self.told);
        let count = self.engine.reap(|tag, outcome| told.push((tag, outcome)));
        for (tag, outcome) in told.drain(..) {
            self.end_one(stats, now, tag, outcome);
        }
        self.told = told;
        count
    }

    fn end_one(&mut self, stats: &DiskStats, now: Instant, tag: u64, outcome: Outcome) {
        let Some(Flight { chain, request, begun }) =
            self.flights.get_mut(tag as usize).and_then(Option::take)
        else {
            return;
        };
        self.free.push(tag as u32);
        stats.ended(request.work(), &outcome, now.saturating_duration_since(begun));
        let finished = blk::finish(request, outcome, None);
        let given = self.queue.complete_written(chain, finished.written, finished.touched());
        debug_assert!(given.is_ok(), "a queue is stopped only when nothing is in flight");
        self.spare.recycle(finished);
    }
}
