//! A measurement: a data plane, guests in a circle that send to their neighbour, a warm-up, a window, and what was counted.

use super::guest::{Counted, Guest, Load, Phase};
use super::lab::{Lab, Seen};
use super::modes::{Mode, pin};
use super::statistics::{fairness, percentile, ratio};
use crate::embedded::rings::{RingCounters, Rings, Shape};
use crate::embedded::sleeper::Sleeper;
use crate::plane::Ways;
use anyhow::{Context, Result, anyhow, ensure};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Longest wait for a frame.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) workers: Mode,
    pub(super) ways: Ways,
    /// Guests in the circle; the only one of one sends to itself.
    pub(super) guests: usize,
    /// Those that send, the first ones.
    pub(super) clients: usize,
    pub(super) shape: Shape,
    pub(super) load: Load,
    pub(super) waiting: Waiting,
}

/// What guests do when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Each guest is a thread that asks for calls and sleeps.
    Sleep,
    /// One thread looks at all guests' rings again and again.
    Poll,
}

/// How long a measurement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) warm_up: Duration,
    pub(super) window: Duration,
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Transactions per second of each client.
    pub(super) rates: Vec<f64>,
    /// 99 of 100 round trips are not longer, in microseconds; 0 for streams.
    pub(super) p99_us: f64,
    /// The same of one half.
    pub(super) p50_us: f64,
    /// What the plane counted in the window.
    pub(super) window: Seen,
    /// Length of the window in seconds.
    pub(super) seconds: f64,
    /// What the drivers counted from first to last.
    pub(super) drivers: RingCounters,
    /// What the plane counted from first to last.
    pub(super) plane: Seen,
}

impl Outcome {
    /// Transactions per second of all clients.
    pub(super) fn rate(&self) -> f64 {
        self.rates.iter().sum()
    }

    /// Jain's index over the clients' rates.
    pub(super) fn fairness(&self) -> f64 {
        fairness(&self.rates)
    }

    /// A count of the window per second.
    pub(super) fn per_second(&self, count: u64) -> f64 {
        ratio(count as f64, self.seconds)
    }
}

/// A guest and where it sleeps.
struct Member {
    guest: Guest,
    sleeper: Sleeper,
}

impl Member {
    /// Sleeps until the device calls, or the measurement has news.
    fn sleep(&mut self) {
        if self.guest.rings.begin_sleep() {
            self.sleeper.sleep(PATIENCE.as_millis() as i32 + 1);
        }
        self.guest.rings.end_sleep();
    }
}

/// What guests' threads and the measurement share.
struct Control {
    phase: AtomicU8,
    /// Clients that are not done.
    open: AtomicUsize,
    over: AtomicBool,
    /// A transaction of the window is counted.
    counted: AtomicBool,
    bells: Vec<Arc<EventFd>>,
    fault: Mutex<Option<anyhow::Error>>,
}

impl Control {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Warm,
            1 => Phase::Measure,
            _ => Phase::Stop,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.ring();
    }

    fn ring(&self) {
        for bell in &self.bells {
            // A full counter wakes as well.
            let _ = bell.write(1);
        }
    }

    fn close_one(&self) {
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.end();
        }
    }

    fn fail(&self, fault: anyhow::Error) {
        self.fault.lock().get_or_insert(fault);
        self.end();
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.ring();
    }

    /// On a busy machine a short window may see nothing: it is as long as it must be.
    fn wait_until_counted(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.counted.load(Ordering::Relaxed) && !self.is_over() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Runs a plan once.
///
/// # Errors
/// A guest or the plane that cannot be made, a frame that was lost, damaged or late, counts that do not agree.
pub(super) fn run(plan: &Plan, times: Times) -> Result<Outcome> {
    let lab = Lab::new(&plan.workers.body, plan.guests, plan.ways)?;
    let bells: Vec<Arc<EventFd>> = (0..plan.guests)
        .map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new))
        .collect::<Result<_, _>>()
        .context("making an eventfd")?;
    let guests = bells.iter().enumerate().map(|(number, bell)| {
        let rings = Rings::attach(&lab.socket(number), bell, plan.shape)
            .with_context(|| format!("attaching guest {number}"))?;
        let guest = Guest::new(rings, number, plan.guests, number < plan.clients, plan.load);
        Ok(Member { guest, sleeper: Sleeper::new(Arc::clone(bell))? })
    });
    let guests = guests.collect::<Result<Vec<_>>>()?;
    let control = Arc::new(Control {
        phase: AtomicU8::new(Phase::Warm as u8),
        open: AtomicUsize::new(plan.clients),
        over: AtomicBool::new(false),
        counted: AtomicBool::new(false),
        bells,
        fault: Mutex::new(None),
    });
    let threads = start(guests, plan, &control)?;

    std::thread::sleep(times.warm_up);
    let before = lab.look();
    control.enter(Phase::Measure);
    std::thread::sleep(times.window);
    control.wait_until_counted();
    let after = lab.look();
    control.enter(Phase::Stop);

    let mut guests = Vec::new();
    for thread in threads {
        guests.extend(thread.join().map_err(|_| anyhow!("a guest's thread has panicked"))?);
    }
    if let Some(fault) = control.fault.lock().take() {
        return Err(fault);
    }
    // Everybody has the answer to everything, so the plane has delivered all; its workers may still be counting.
    let plane = lab.look_when_quiet();
    let mut drivers = RingCounters::default();
    let mut counted = Vec::new();
    for guest in guests {
        let (rings, client) = guest.finish();
        drivers.sent += rings.sent;
        drivers.received += rings.received;
        drivers.descriptors_sent += rings.descriptors_sent;
        counted.extend(client);
    }
    agree(&drivers, &plane)?;
    outcome(counted, &before, &after, drivers, plane)
}

/// No frame was lost, doubled or invented.
fn agree(drivers: &RingCounters, plane: &Seen) -> Result<()> {
    ensure!(plane.drops == 0, "the switch dropped {} frames", plane.drops);
    let counts = [drivers.sent, plane.frames_from_guests, plane.frames_to_guests, drivers.received];
    ensure!(
        counts.iter().all(|count| *count == drivers.sent),
        "drivers sent {}, the plane took {} and delivered {}, drivers received {}",
        counts[0],
        counts[1],
        counts[2],
        counts[3]
    );
    Ok(())
}

fn outcome(
    counted: Vec<Counted>,
    before: &(Instant, Seen),
    after: &(Instant, Seen),
    drivers: RingCounters,
    plane: Seen,
) -> Result<Outcome> {
    let rates: Vec<f64> =
        counted.iter().map(|one| ratio(one.transactions as f64, one.elapsed.as_secs_f64())).collect();
    ensure!(
        rates.iter().any(|rate| *rate > 0.0),
        "no client finished a transaction: the window is too short"
    );
    let mut round_trips: Vec<u32> = counted.into_iter().flat_map(|one| one.round_trips_ns).collect();
    Ok(Outcome {
        rates,
        p99_us: f64::from(percentile(&mut round_trips, 0.99)) / 1e3,
        p50_us: f64::from(percentile(&mut round_trips, 0.5)) / 1e3,
        window: after.1.since(&before.1),
        seconds: (after.0 - before.0).as_secs_f64(),
        drivers,
        plane,
    })
}

fn start(guests: Vec<Member>, plan: &Plan, control: &Arc<Control>) -> Result<Vec<JoinHandle<Vec<Guest>>>> {
    let waiting = plan.waiting;
    let crews: Vec<Vec<Member>> = match waiting {
        Waiting::Poll => vec![guests],
        Waiting::Sleep => guests.into_iter().map(|guest| vec![guest]).collect(),
    };
    let spawn = |(number, crew)| {
        let control = Arc::clone(control);
        let cpus = plan.workers.guest_cpus.clone();
        let body = move || {
            pin(&cpus);
            live(crew, waiting, &control)
        };
        std::thread::Builder::new().name(format!("guest-{number}")).spawn(body).context("starting a guest")
    };
    crews.into_iter().enumerate().map(spawn).collect()
}

/// The body of a thread that is one guest or several.
fn live(mut crew: Vec<Member>, waiting: Waiting, control: &Control) -> Vec<Guest> {
    // Who sends nothing was never counted as open.
    let mut done: Vec<bool> = crew.iter().map(|member| member.guest.is_done()).collect();
    let mut last_moved = Instant::now();
    while !control.is_over() {
        let phase = control.phase();
        let mut moved = false;
        for (member, done) in crew.iter_mut().zip(&mut done) {
            match member.guest.step(phase) {
                Ok(guest_moved) => moved |= guest_moved,
                Err(fault) => control.fail(fault),
            }
            if phase == Phase::Measure && member.guest.has_counted() {
                control.counted.store(true, Ordering::Relaxed);
            }
            if member.guest.is_done() && !*done {
                *done = true;
                control.close_one();
            }
        }
        if moved {
            last_moved = Instant::now();
        } else if waiting == Waiting::Sleep {
            crew.iter_mut().for_each(|member| member.sleep());
        }
        if last_moved.elapsed() > PATIENCE {
            control.fail(anyhow!("no frame came for {} s", PATIENCE.as_secs()));
        }
    }
    crew.into_iter().map(|member| member.guest).collect()
}
