//! A worker: a thread that serves the queues given to it, and sleeps when none has work.
//!
//! A round gives every active source its [`Share`] of the time; [`Pace`] says what comes between two rounds.

use super::Origin;
use super::deliver::BURST;
use super::forward::Forwarder;
use super::kicks::Kicks;
use super::polling::{Next, Pace, timespec};
use super::share::{RECENT, Share};
use super::source::{Source, Step};
use super::stats::add;
use crate::config::resolved::{Polling, WorkerMode};
use crate::sys::preemptions;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How late the kernel may end a sleep of a worker, in nanoseconds; by itself it takes 50 times as long.
const TIMER_SLACK_NS: Option<NonZeroU64> = NonZeroU64::new(1000);

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
        // Short sleeps are short.
        let _ = rustix::thread::set_current_timer_slack(TIMER_SLACK_NS);
        let mut forwarder = Forwarder::for_worker(origin);
        let pace = Pace::new(self.mode, self.polling);
        let mut pace = if origin.ways.lingers { pace } else { pace.without_linger() };
        let mut active: Vec<Active> = Vec::new();
        let mut events = Vec::with_capacity(64);
        let mut silent = None;
        // The time at the end of the last round, if nothing has come in between.
        let mut clock = None;
        while !self.stop.load(Relaxed) {
            let next = pace.next(active.len(), silent);
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
                Next::Sleep(time) => {
                    let began = Instant::now();
                    self.sleep(&mut active, &mut events, time, &forwarder, began);
                    pace.slept(began.elapsed(), time);
                }
            }
            let sources = self.sources.load();
            let now = clock.unwrap_or_else(Instant::now);
            forwarder.begin_round(origin.at(now), now);
            let linger = [pace.linger(now), pace.linger_without_kicks(now)];
            let mut round = Round { now, linger, is_shared: active.len() > 1, worked: false };
            Active::refill(&mut active, now);
            silent = Some(Duration::MAX);
            active.retain_mut(|entry| {
                if !entry.is_in(&sources) {
                    // We may have turned its kicks off after its new worker had turned them on.
                    entry.source.seat().poke();
                    return false;
                }
                let step = entry.step(&mut forwarder, &mut round);
                silent = match step {
                    Step::Busy => None,
                    Step::Doze => silent.map(|silent| silent.min(entry.silence(round.now))),
                    Step::Rest => silent,
                };
                step != Step::Rest
            });
            clock = round.worked.then_some(round.now);
            if round.worked {
                add(&self.busy_ns, (round.now - now).as_nanos() as u64);
            }
            pace.rounded(round.worked, round.now);
            forwarder.check_deaths(&sources);
        }
        forwarder.end();
    }

    /// Sleeps from now on until there is something to do, or for `time`.
    fn sleep(
        &self,
        active: &mut Vec<Active>,
        events: &mut Vec<epoll::Event>,
        time: Option<Duration>,
        forwarder: &Forwarder,
        now: Instant,
    ) {
        let due = forwarder.next_due().map(|due| due.saturating_duration_since(now));
        let time = match (time, due) {
            (Some(time), Some(due)) => Some(time.min(due)),
            (time, due) => time.or(due),
        };
        add(&self.sleeps, 1);
        self.look(active, events, time);
    }

    /// Takes what the kick descriptors and `poke` say into the active list, after `time` at most.
    fn look(&self, active: &mut Vec<Active>, events: &mut Vec<epoll::Event>, time: Option<Duration>) {
        let timeout: Option<Timespec> = time.map(timespec);
        let mut now = None;
        self.kicks.wait(events, timeout.as_ref(), |number, cause| {
            // Not before: who sleeps on a list keeps alive what was taken off it meanwhile.
            if let Some(source) = self.sources.load().get(number as usize).and_then(Option::as_ref) {
                source.count_kick(cause);
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

/// What is the same for all sources of a round.
struct Round {
    /// The time now, read again after each burst.
    now: Instant,
    /// How long a source without work stays active, and one that cannot kick.
    linger: [Option<Duration>; 2],
    /// Several sources are active.
    is_shared: bool,
    worked: bool,
}

/// A source that is being looked at.
struct Active {
    number: u32,
    source: Source,
    last_work: Instant,
    /// When somebody asked last that it be looked at.
    asked: Instant,
    share: Share,
}

impl Active {
    /// Has the source looked at; one look without work and it rests again, so kicks alone keep nobody busy.
    fn insert(active: &mut Vec<Self>, number: u32, source: &Source, now: Instant) {
        // A number alone may be that of a source that was taken away a moment ago.
        if let Some(entry) = active.iter_mut().find(|entry| entry.number == number && entry.source == *source)
        {
            entry.asked = now;
            return;
        }
        let last_work = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let mut entry = Self { number, source: source.clone(), last_work, asked: now, share: Share::new() };
        // Those of one guest stand side by side.
        let place = active.partition_point(|other| other.owner() < entry.owner());
        if let Some(other) = active.get(place).filter(|other| other.owner() == entry.owner()) {
            entry.share = other.share.sibling();
        }
        active.insert(place, entry);
    }

    /// Whose share it has, for comparing: its device's, or its own if it is a queue of an interface, which brings what many have sent.
    fn owner(&self) -> (usize, u16) {
        self.source.owner()
    }

    /// A new round: each owner has a quantum, and those of its sources that had work lately divide it.
    fn refill(active: &mut [Self], now: Instant) {
        let had_work = |entry: &&Self| now.saturating_duration_since(entry.last_work) < RECENT;
        for siblings in active.chunk_by_mut(|one, other| one.owner() == other.owner()) {
            siblings[0].share.refill_owner();
            let count = siblings.iter().filter(had_work).count();
            siblings.iter_mut().for_each(|entry| entry.share.refill(count));
        }
    }

    /// For how long nobody has had reason to think that it has work.
    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_work.max(self.asked))
    }

    /// Whether the worker still serves it.
    fn is_in(&self, sources: &[Option<Source>]) -> bool {
        sources.get(self.number as usize).and_then(Option::as_ref) == Some(&self.source)
    }

    /// Gives the source its part of a round.
    fn step(&mut self, forwarder: &mut Forwarder, round: &mut Round) -> Step {
        let mut worked = false;
        loop {
            let frames = if round.is_shared { self.share.frames() } else { BURST };
            if frames == 0 {
                return Step::Busy;
            }
            let served = self.source.serve(forwarder, round.now, frames);
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
        let silence = round.now.duration_since(self.last_work);
        let lingers = round.linger.map(|linger| linger.is_none_or(|linger| silence < linger));
        if lingers[0] { Step::Busy } else { self.source.rest(forwarder, round.now, lingers[1]) }
    }
}
