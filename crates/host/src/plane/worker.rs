//! A worker: a thread that serves the queues given to it, and sleeps when none has work.
//!
//! A queue is *active* while its worker looks at it again and again; notifications from its driver are off then. After
//! [`LINGER`] without a frame the worker asks for notifications, looks once more (a frame may have come in between) and
//! lets the queue rest until its kick descriptor fires. Each round gives every active queue one burst, so a busy
//! guest cannot starve another. With nothing active the worker sleeps in `epoll_wait` and costs nothing.

use super::Origin;
use super::forward::Forwarder;
use super::kicks::{Cause, Kicks};
use super::port::{Attachment, Source};
use super::stats::add;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a queue without work stays active. Longer saves wake-ups under load, shorter saves CPU time.
const LINGER: Duration = Duration::from_micros(50);

/// Rounds between two looks at the kick descriptors while something is active.
const ROUNDS_PER_LOOK: u32 = 16;

/// How often queues whose driver gives no kick descriptor are looked at when they are idle.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };

/// A thread that serves queues.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) cpu: Option<usize>,
    /// Where it sleeps.
    pub(super) kicks: Arc<Kicks>,
    stop: AtomicBool,
    /// By number; a hole where a source was taken away.
    sources: ArcSwap<Vec<Option<Source>>>,
    changes: Mutex<()>,
    /// Times the worker slept.
    pub(super) sleeps: AtomicU64,
}

impl Worker {
    pub(super) fn new(name: String, cpu: Option<usize>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            name,
            cpu,
            kicks: Arc::new(Kicks::new()?),
            stop: AtomicBool::new(false),
            sources: ArcSwap::default(),
            changes: Mutex::new(()),
            sleeps: AtomicU64::new(0),
        }))
    }

    /// Queues served now.
    pub(super) fn source_count(&self) -> usize {
        self.sources.load().iter().flatten().count()
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
        let mut forwarder = Forwarder::new(origin);
        let mut active: Vec<Active> = Vec::new();
        let mut events = Vec::with_capacity(64);
        let mut round = 0u32;
        let mut dozing = false;
        while !self.stop.load(Relaxed) {
            if active.is_empty() || dozing || round.is_multiple_of(ROUNDS_PER_LOOK) {
                let timeout = match (active.is_empty(), dozing) {
                    (true, _) => None,
                    (false, true) => Some(POLL_INTERVAL),
                    (false, false) => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
                };
                self.look(&mut active, &mut events, timeout);
            }
            round = round.wrapping_add(1);
            let sources = self.sources.load();
            let now = Instant::now();
            forwarder.set_time(origin.at(now));
            dozing = true;
            active.retain_mut(|entry| {
                let Some(source) = sources.get(entry.number as usize).and_then(Option::as_ref) else {
                    return false;
                };
                let step = entry.step(source, &mut forwarder, now);
                dozing &= step == Step::Doze;
                step != Step::Rest
            });
            forwarder.check_deaths(&sources);
        }
    }

    /// Takes what the kick descriptors and `poke` say into the active list.
    fn look(&self, active: &mut Vec<Active>, events: &mut Vec<epoll::Event>, timeout: Option<Timespec>) {
        if timeout.is_none_or(|timeout| timeout.tv_nsec != 0) {
            add(&self.sleeps, 1);
        }
        let mut now = None;
        self.kicks.wait(events, timeout.as_ref(), |number, cause| {
            self.count_kick(number as usize, cause);
            Active::insert(active, number, *now.get_or_insert_with(Instant::now));
        });
    }

    fn count_kick(&self, number: usize, cause: Cause) {
        if cause != Cause::Poke
            && let Some(Some(Source { port, index })) = self.sources.load().get(number)
            && let Attachment::Guest(guest) = &port.attachment
        {
            let pair = usize::from(*index);
            let is_sent = cause == Cause::Transmit;
            let stats = if is_sent { &guest.transmit[pair].stats } else { &guest.receive[pair].stats };
            add(&stats.kicks, 1);
        }
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

/// A source that is being looked at.
struct Active {
    number: u32,
    last_work: Instant,
}

/// What becomes of an active source after a look.
#[derive(PartialEq, Eq)]
enum Step {
    /// Look again at once.
    Busy,
    /// Look again after [`POLL_INTERVAL`].
    Doze,
    /// Wait for a kick.
    Rest,
}

impl Active {
    /// Has the source looked at; one look without work and it rests again, so kicks alone keep nobody busy.
    fn insert(active: &mut Vec<Self>, number: u32, now: Instant) {
        if !active.iter().any(|entry| entry.number == number) {
            active.push(Self { number, last_work: now.checked_sub(LINGER).unwrap_or(now) });
        }
    }

    fn step(&mut self, source: &Source, forwarder: &mut Forwarder, now: Instant) -> Step {
        if forwarder.serve(source) > 0 {
            self.last_work = now;
            return Step::Busy;
        }
        if now.duration_since(self.last_work) < LINGER {
            return Step::Busy;
        }
        match &source.port.attachment {
            Attachment::Link(_) => Step::Rest,
            Attachment::Guest(guest) => {
                let pair = usize::from(source.index);
                if guest.receive[pair].wants_looks() {
                    return Step::Doze;
                }
                let mut guard = guest.transmit[pair].live.lock();
                match guard.as_mut().filter(|live| live.queue.fault().is_none()) {
                    Some(live) if live.polled => Step::Doze,
                    Some(live) => {
                        if live.queue.enable_notify() {
                            Step::Busy
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
