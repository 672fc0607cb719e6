//! Who carries out work on a disk, for one queue of a device.
//!
//! The queue's worker submits, sends once for a burst, and reaps. Before it sleeps it calls [`Engine::rest`]: from then on the engine's
//! descriptor tells when there is something to reap. A worker that looks by itself says so with [`Engine::active`], and no
//! notification is made.
//!
//! Who drops an engine with requests in flight is told nothing of them any more. Those on io_uring are cancelled, those that threads have not
//! begun forgotten, and the rest is waited for, a few seconds at most: a disk that hangs keeps its memory, and its lock.

use super::bell::Bell;
use super::fault::{Fault, FaultPlan};
use super::image::{Image, Kind};
use super::inline;
use super::threads::Threads;
use super::uring::{Told, Uring};
use devices::storage::{Extent, Failure, IoFault, Outcome, Work};
use guestmem::{KeptRuns, Part};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The longest sleep of [`Engine::wait`], so that delays on purpose end in time.
const WAIT_MAX: Duration = Duration::from_millis(10);

/// Which engine to use for a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineKind {
    /// io_uring, and threads where it is forbidden.
    #[default]
    Auto,
    /// io_uring or none.
    Uring,
    /// Threads.
    Threads,
}

/// There is no room for another request; after [`Engine::reap`] there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the disk has as many requests in flight as it takes")]
pub struct Full;

/// What [`Engine::abort`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abort {
    /// There is no such request in flight.
    Unknown,
    /// It has ended, and its outcome is there to be reaped.
    Ended,
    /// The disk was asked to give it up. If that does not happen: [`Engine::abandon`].
    Asked,
}

/// See the module.
pub struct Engine {
    image: Arc<Image>,
    carrier: Carrier,
    depth: usize,
    told: Told,
    now: Instant,
    bell: Arc<Bell>,
    /// Requests that are to fail after so many bytes, by tag.
    torn: Vec<(u64, Failure)>,
    faults: Option<Box<FaultPlan>>,
    held: Vec<Held>,
}

enum Carrier {
    Inline,
    Uring(Box<Uring>),
    Threads(Box<Threads>),
}

/// A request that a fault keeps back.
struct Held {
    tag: u64,
    started: Instant,
    /// `None`: never.
    due: Option<Instant>,
    can_abort: bool,
    work: Work,
    runs: KeptRuns,
    part: Part,
}

impl Engine {
    /// An engine for up to `depth` requests at once (at least one, at most 4096) on `image`.
    ///
    /// # Errors
    /// No ring or no thread can be made.
    pub fn new(image: Arc<Image>, kind: EngineKind, depth: u32) -> io::Result<Self> {
        let depth = depth.clamp(1, 4096);
        let (bell, now) = (Arc::new(Bell::new()?), Instant::now());
        let uring = || Uring::new(Arc::clone(&image), depth, Arc::clone(&bell), now);
        let threads = || Threads::new(Arc::clone(&image), depth, Arc::clone(&bell), now);
        let carrier = match (&image.kind, kind) {
            (Kind::File(_), EngineKind::Uring) => Carrier::Uring(Box::new(uring()?)),
            (Kind::File(_), EngineKind::Auto) => match uring() {
                Ok(uring) => Carrier::Uring(Box::new(uring)),
                Err(error) => {
                    tracing::info!(disk = image.name(), %error, "io_uring cannot be used: threads are");
                    Carrier::Threads(Box::new(threads()?))
                }
            },
            (Kind::File(_), EngineKind::Threads) | (Kind::Qcow2(_), _) => {
                Carrier::Threads(Box::new(threads()?))
            }
            _ => Carrier::Inline,
        };
        let this = Self {
            image,
            carrier,
            depth: depth as usize,
            told: VecDeque::with_capacity(depth as usize),
            now,
            bell,
            torn: Vec::new(),
            faults: None,
            held: Vec::new(),
        };
        tracing::debug!(
            disk = this.image.name(),
            engine = this.name(),
            direct = this.image.is_direct(),
            "disk queue"
        );
        Ok(this)
    }

    /// The same engine with faults on purpose.
    pub fn with_faults(mut self, plan: FaultPlan) -> Self {
        self.faults = Some(Box::new(plan));
        self
    }

    /// `io_uring`, `threads` or `memory`.
    pub fn name(&self) -> &'static str {
        match self.carrier {
            Carrier::Inline => "memory",
            Carrier::Uring(_) => "io_uring",
            Carrier::Threads(_) => "threads",
        }
    }

    /// The disk.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// An eventfd that is signalled when there is something to reap while the engine rests. Its owner does not read it: watch for its edges.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What time it is: once a round, before anything else. Requests submitted from here on count as submitted now.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        while let Some(index) = self.held.iter().position(|held| held.due.is_some_and(|due| due <= now)) {
            if !self.has_room() {
                return;
            }
            let held = self.held.swap_remove(index);
            self.begin(held.tag, held.work, &held.runs, held.part, usize::MAX);
        }
    }

    /// Submits `work`, with its data in `part` of `runs`, of which the engine makes a copy: it keeps the memory as long as it needs it,
    /// whatever becomes of `runs`. `tag` names the request; those in flight have different ones.
    ///
    /// The kernel may learn of it only with [`Self::send`] or [`Self::reap`].
    ///
    /// # Errors
    /// [`Full`]: nothing was done.
    pub fn submit(&mut self, tag: u64, work: Work, runs: &KeptRuns, part: Part) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full);
        }
        match self.faults.as_mut().and_then(|faults| faults.next()) {
            None => self.begin(tag, work, runs, part, usize::MAX),
            Some(fault) => self.begin_with(fault, tag, work, runs, part),
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let is_free = match &self.carrier {
            Carrier::Inline => true,
            Carrier::Uring(uring) => uring.requests.has_room(),
            Carrier::Threads(threads) => threads.requests.has_room(),
        };
        is_free && self.told.len() + self.held.len() < self.depth
    }

    fn begin(&mut self, tag: u64, work: Work, runs: &KeptRuns, part: Part, len: usize) {
        match &mut self.carrier {
            Carrier::Inline => {
                let outcome = if len == usize::MAX {
                    inline::carry_out(&self.image, &work, runs, part)
                } else {
                    let mut some = KeptRuns::new();
                    let part = some.copy_from(runs, part, len);
                    inline::carry_out(&self.image, &work, &some, part)
                };
                self.told.push_back((tag, outcome));
            }
            Carrier::Uring(uring) => {
                let Some(slot) = uring.requests.take(tag, self.now) else { return };
                uring.submit(slot, work, runs, part, len, &mut self.told);
            }
            Carrier::Threads(threads) => {
                let Some(slot) = threads.requests.take(tag, self.now) else { return };
                threads.submit(slot, work, runs, part, len);
            }
        }
    }

    fn begin_with(&mut self, fault: Fault, tag: u64, work: Work, runs: &KeptRuns, part: Part) {
        let (due, can_abort) = match fault {
            Fault::Fail(fault) => return self.told.push_back((tag, Err(fault.into()))),
            Fault::Tear { len, fault } => return self.tear(len, fault, tag, work, runs, part),
            Fault::Delay(time) => (Some(self.now + time), true),
            Fault::Hang => (None, true),
            Fault::Stick => (None, false),
        };
        let mut kept = KeptRuns::new();
        let part = kept.copy_from(runs, part, usize::MAX);
        self.held.push(Held { tag, started: self.now, due, can_abort, work, runs: kept, part });
    }

    fn tear(&mut self, len: u64, fault: IoFault, tag: u64, work: Work, runs: &KeptRuns, part: Part) {
        let cut = |extent: Extent| Extent { len: extent.len.min(len), ..extent };
        let work = match work {
            Work::Read(extent) => Work::Read(cut(extent)),
            Work::Write { extent, through } => Work::Write { extent: cut(extent), through },
            _ => return self.told.push_back((tag, Err(fault.into()))),
        };
        let (Work::Read(extent) | Work::Write { extent, .. }) = work else { return };
        self.torn.push((tag, Failure { fault, done: extent.len }));
        self.begin(tag, work, runs, part, extent.len as usize);
    }

    /// Lets the kernel begin with what was submitted.
    pub fn send(&mut self) {
        if let Carrier::Uring(uring) = &mut self.carrier {
            uring.send();
        }
    }

    /// Tells the outcome of each request that has ended, and takes the others on; returns how many were told.
    pub fn reap(&mut self, mut tell: impl FnMut(u64, Outcome)) -> usize {
        match &mut self.carrier {
            Carrier::Inline => {}
            Carrier::Uring(uring) => uring.reap(&mut self.told),
            Carrier::Threads(threads) => threads.reap(&mut self.told),
        }
        let count = self.told.len();
        for (tag, outcome) in self.told.drain(..) {
            let torn = self.torn.iter().position(|(torn, _)| *torn == tag);
            let torn = torn.map(|index| self.torn.swap_remove(index).1);
            tell(tag, torn.map_or(outcome, |failure| outcome.and(Err(failure))));
        }
        count
    }

    /// Requests whose outcome was not told yet.
    pub fn in_flight(&self) -> usize {
        let waiting = match &self.carrier {
            Carrier::Inline => 0,
            Carrier::Uring(uring) => uring.requests.waiting(self.now).count(),
            Carrier::Threads(threads) => threads.requests.waiting(self.now).count(),
        };
        waiting + self.told.len() + self.held.len()
    }

    /// Requests that were abandoned and that the disk has not given back.
    pub fn abandoned(&self) -> usize {
        match &self.carrier {
            Carrier::Inline => 0,
            Carrier::Uring(uring) => uring.requests.count() - uring.requests.waiting(self.now).count(),
            Carrier::Threads(threads) => {
                threads.requests.count() - threads.requests.waiting(self.now).count()
            }
        }
    }

    /// The owner looks by itself from now on: nothing is signalled.
    pub fn active(&mut self) {
        self.notify(false);
    }

    /// The owner is about to sleep: what ends from now on is signalled. False: it had better reap once more.
    #[must_use = "what has ended before the call is not signalled"]
    pub fn rest(&mut self) -> bool {
        self.notify(true);
        let is_ready = match &mut self.carrier {
            Carrier::Inline => false,
            Carrier::Uring(uring) => {
                uring.send();
                uring.is_ready()
            }
            Carrier::Threads(threads) => threads.is_ready(),
        };
        !is_ready && self.told.is_empty() && self.held.iter().all(|held| held.due.is_none())
    }

    /// Sleeps until there may be something to reap, for `time` at most. For who may wait; a worker sleeps on [`Self::fd`] among others.
    pub fn wait(&mut self, time: Duration) {
        let time = time.min(WAIT_MAX);
        // First: what rang before is seen by the look that follows.
        self.bell.clear();
        if self.rest() {
            let timeout = Timespec { tv_sec: 0, tv_nsec: time.as_nanos() as i64 };
            let _ = poll(&mut [PollFd::new(&self.bell.as_fd(), PollFlags::IN)], Some(&timeout));
        }
    }

    fn notify(&mut self, on: bool) {
        match &mut self.carrier {
            Carrier::Inline => {}
            Carrier::Uring(uring) => uring.notify(on),
            Carrier::Threads(threads) => threads.notify(on),
        }
    }

    /// Names the requests that were submitted `limit` ago or longer.
    pub fn stuck(&self, now: Instant, limit: Duration, mut name: impl FnMut(u64)) {
        let mut look = |(tag, age): (u64, Duration)| {
            if age >= limit {
                name(tag);
            }
        };
        match &self.carrier {
            Carrier::Inline => {}
            Carrier::Uring(uring) => uring.requests.waiting(now).for_each(&mut look),
            Carrier::Threads(threads) => threads.requests.waiting(now).for_each(&mut look),
        }
        let held = self.held.iter().map(|held| (held.tag, now.saturating_duration_since(held.started)));
        held.for_each(look);
    }

    /// Asks for a request to be given up. It has an outcome in any case, which is [`IoFault::Aborted`] unless it was done all the same.
    pub fn abort(&mut self, tag: u64) -> Abort {
        if self.told.iter().any(|(told, _)| *told == tag) {
            return Abort::Ended;
        }
        if let Some(index) = self.held.iter().position(|held| held.tag == tag) {
            if !self.held[index].can_abort {
                return Abort::Asked;
            }
            self.held.swap_remove(index);
            self.told.push_back((tag, Err(IoFault::Aborted.into())));
            return Abort::Ended;
        }
        let ended = match &mut self.carrier {
            Carrier::Inline => None,
            Carrier::Uring(uring) => uring.requests.find(tag).map(|slot| uring.abort(slot, &mut self.told)),
            Carrier::Threads(threads) => {
                threads.requests.find(tag).map(|slot| threads.abort(slot, &mut self.told))
            }
        };
        match ended {
            None => Abort::Unknown,
            Some(true) => Abort::Ended,
            Some(false) => Abort::Asked,
        }
    }

    /// Waits no longer for a request that the disk does not give back: its outcome is [`IoFault::Aborted`] at the next reap. What the
    /// disk does with it later is not known: it may still write, and it may still read into the guest's memory, which stays mapped.
    /// False: there is no such request.
    pub fn abandon(&mut self, tag: u64) -> bool {
        if let Some(index) = self.held.iter().position(|held| held.tag == tag) {
            self.held.swap_remove(index);
        } else {
            let requests = match &mut self.carrier {
                Carrier::Inline => return false,
                Carrier::Uring(uring) => &mut uring.requests,
                Carrier::Threads(threads) => &mut threads.requests,
            };
            let Some(slot) = requests.find(tag) else { return false };
            requests.abandon(slot);
        }
        self.told.push_back((tag, Err(IoFault::Aborted.into())));
        true
    }
}
