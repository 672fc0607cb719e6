//! A worker: a thread that serves the queues given to it, and sleeps when none has work.
//!
//! A round gives every active source its [`Share`] of the time; [`Pace`] says what comes between two rounds.

use super::Origin;
use super::deliver::BURST;
use super::forward::Forwarder;
use super::kicks::{Cause, Kicks};
use super::polling::{Next, Pace, timespec};
use super::port::{Attachment, Source};
use super::share::Share;
use super::stats::add;
use crate::config::resolved::{Polling, WorkerMode};
use crate::sys::preemptions;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use switch::Now;

/// A thread that serves queues.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) cpu: Option<usize>,
    mode: WorkerMode,
    polling: Polling,
    /// Where it sleeps.
    pub(super) kicks: Arc<Kicks>,
    stop: AtomicBool,
    /// By number; a hole where a source was taken away.
    sources: ArcSwap<Vec<Option<Source>>>,
    changes: Mutex<()>,
    /// Times the worker slept.
    pub(super) sleeps: AtomicU64,
    /// Time in which it handled frames, in nanoseconds.
    pub(super) busy_ns: AtomicU64,
    /// Sources that came from a worker that had more to do. Written by who compares them.
    pub(super) moves: AtomicU64,
}

impl Worker {
    pub(super) fn new(
        name: String,
        cpu: Option<usize>,
        mode: WorkerMode,
        polling: Polling,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            name,
            cpu,
            mode,
            polling,
            kicks: Arc::new(Kicks::new()?),
            stop: AtomicBool::new(false),
            sources: ArcSwap::default(),
            changes: Mutex::new(()),
            sleeps: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            moves: AtomicU64::new(0),
        }))
    }

    /// Queues served now.
    pub(super) fn source_count(&self) -> usize {
        self.sources.load().iter().flatten().count()
    }

    /// What it serves now.
    pub(super) fn sources(&self) -> Vec<Source> {
        self.sources.load().iter().flatten().cloned().collect()
    }

    /// Takes a source on; returns its number.
    pub(super) fn attach(&self, source: Source) -> u32 {
        let _guard = self.changes.lock();
        let mut sources = Vec::clone(&self.sources.load());
        let number = sources.iter().position(Option::is_none).unwrap_or(sources.len());
        if number == sources.len() {
            sources.push(None);
        }
        sources[number] = Some(source);
        self.sources.store(Arc::new(sources));
        number as u32
    }

    /// Gives a source up. It may still be served once more by a round that began before.
    pub(super) fn detach(&self, number: u32) {
        let _guard = self.changes.lock();
        let mut sources = Vec::clone(&self.sources.load());
        if let Some(place) = sources.get_mut(number as usize) {
            *place = None;
        }
        self.sources.store(Arc::new(sources));
    }

    /// Gives every source up.
    pub(super) fn detach_all(&self) {
        let _guard = self.changes.lock();
        self.sources.store(Arc::default());
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.kicks.wake();
    }

    /// The thread's body.
    pub(super) fn run(&self, origin: Origin) {
        self.pin();
        let mut forwarder = Forwarder::for_worker(origin);
        let pace = Pace::new(self.mode, self.polling);
        let mut pace = if origin.ways.lingers { pace } else { pace.without_linger() };
        let mut active: Vec<Active> = Vec::new();
        let mut events = Vec::with_capacity(64);
        let mut dozing = false;
        // The time at the end of the last round, if nothing has come in between.
        let mut clock = None;
        while !self.stop.load(Relaxed) {
            let next = pace.next(!active.is_empty(), dozing);
            if next != Next::Round {
                clock = None;
            }
            match next {
                Next::Round => {}
                Next::Look { asks } => {
                    if asks {
                        pace.preempted(preemptions(), Instant::now());
                    }
                    self.look(&mut active, &mut events, Some(Duration::ZERO));
                }
                Next::Sleep(time) => self.sleep(&mut pace, &mut active, &mut events, time, &forwarder),
            }
            let sources = self.sources.load();
            let now = clock.unwrap_or_else(Instant::now);
            forwarder.begin_round(origin.at(now), now);
            let mut round =
                Round { now, linger: pace.linger(now), is_shared: active.len() > 1, worked: false };
            dozing = true;
            active.retain_mut(|entry| {
                if !entry.is_in(&sources) {
                    // We may have turned its kicks off after its new worker had turned them on.
                    entry.source.seat().poke();
                    return false;
                }
                let step = entry.step(&mut forwarder, &mut round);
                dozing &= step == Step::Doze;
                step != Step::Rest
            });
            clock = round.worked.then_some(round.now);
            if round.worked {
                add(&self.busy_ns, (round.now - now).as_nanos() as u64);
            }
            pace.rounded(round.worked);
            forwarder.check_deaths(&sources);
        }
        forwarder.end();
    }

    /// Sleeps until there is something to do, or for `time`.
    fn sleep(
        &self,
        pace: &mut Pace,
        active: &mut Vec<Active>,
        events: &mut Vec<epoll::Event>,
        time: Option<Duration>,
        forwarder: &Forwarder,
    ) {
        let began = Instant::now();
        let due = forwarder.next_due().map(|due| due.saturating_duration_since(began));
        let time = match (time, due) {
            (Some(time), Some(due)) => Some(time.min(due)),
            (time, due) => time.or(due),
        };
        add(&self.sleeps, 1);
        let before = active.len();
        self.look(active, events, time);
        if active.len() > before {
            pace.slept(began.elapsed());
        }
    }

    /// Takes what the kick descriptors and `poke` say into the active list, after `time` at most.
    fn look(&self, active: &mut Vec<Active>, events: &mut Vec<epoll::Event>, time: Option<Duration>) {
        let timeout: Option<Timespec> = time.map(timespec);
        let mut now = None;
        self.kicks.wait(events, timeout.as_ref(), |number, cause| {
            // Not before: who sleeps on a list keeps alive what was taken off it meanwhile.
            if let Some(source) = self.sources.load().get(number as usize).and_then(Option::as_ref) {
                count_kick(source, cause);
                Active::insert(active, number, source, *now.get_or_insert_with(Instant::now));
            }
        });
    }

    fn pin(&self) {
        let Some(cpu) = self.cpu else { return };
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::warn!(worker = self.name, cpu, %error, "not pinned");
        }
    }
}

/// Counts a kick that reached us.
fn count_kick(source: &Source, cause: Cause) {
    if let (Attachment::Guest(guest), true) = (&source.port.attachment, cause != Cause::Poke) {
        let pair = usize::from(source.index);
        let is_sent = cause == Cause::Transmit;
        let stats = if is_sent { &guest.transmit[pair].stats } else { &guest.receive[pair].stats };
        add(&stats.kicks, 1);
    }
}

/// What is the same for all sources of a round.
struct Round {
    /// The time now, read again after each burst.
    now: Instant,
    linger: Option<Duration>,
    /// Several sources are active.
    is_shared: bool,
    worked: bool,
}

/// A source that is being looked at.
struct Active {
    number: u32,
    source: Source,
    last_work: Instant,
    share: Share,
}

/// What becomes of an active source after a look.
#[derive(PartialEq, Eq)]
enum Step {
    /// Look again at once.
    Busy,
    /// Look again after a while.
    Doze,
    /// Wait for a kick.
    Rest,
}

impl Active {
    /// Has the source looked at; one look without work and it rests again, so kicks alone keep nobody busy.
    fn insert(active: &mut Vec<Self>, number: u32, source: &Source, now: Instant) {
        // A number alone may be that of a source that was taken away a moment ago.
        if !active.iter().any(|entry| entry.number == number && entry.source == *source) {
            let last_work = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
            active.push(Self { number, source: source.clone(), last_work, share: Share::new() });
        }
    }

    /// Whether the worker still serves it.
    fn is_in(&self, sources: &[Option<Source>]) -> bool {
        sources.get(self.number as usize).and_then(Option::as_ref) == Some(&self.source)
    }

    /// Gives the source its part of a round.
    fn step(&mut self, forwarder: &mut Forwarder, round: &mut Round) -> Step {
        self.share.refill();
        let mut worked = false;
        loop {
            let frames = if round.is_shared { self.share.frames() } else { BURST };
            if frames == 0 {
                return Step::Busy;
            }
            let served = forwarder.serve(&self.source, frames);
            if served == 0 {
                break;
            }
            worked = true;
            let before = std::mem::replace(&mut round.now, Instant::now());
            let ns = (round.now - before).as_nanos() as u64;
            self.share.spend(served, ns);
            add(&self.source.seat().busy_ns, ns);
            if !round.is_shared || served < frames {
                break;
            }
        }
        if worked {
            round.worked = true;
            self.last_work = round.now;
            return Step::Busy;
        }
        if round.linger.is_none_or(|linger| round.now.duration_since(self.last_work) < linger) {
            return Step::Busy;
        }
        self.rest(forwarder.time())
    }

    /// Asks for kicks, if the driver has a way to give them.
    fn rest(&self, now: Now) -> Step {
        match &self.source.port.attachment {
            Attachment::Link(_) => Step::Rest,
            Attachment::Guest(guest) => {
                let pair = usize::from(self.source.index);
                if guest.receive[pair].wants_looks() {
                    return Step::Doze;
                }
                let mut guard = guest.transmit[pair].live.lock();
                match guard.as_mut().filter(|live| live.is_touched()) {
                    Some(live) if live.polled => Step::Doze,
                    Some(live) => {
                        if live.queue.enable_notify() {
                            Step::Busy
                        } else if live.wants_looks(now) {
                            Step::Doze
                        } else {
                            Step::Rest
                        }
                    }
                    None => Step::Rest,
                }
            }
        }
    }
}
