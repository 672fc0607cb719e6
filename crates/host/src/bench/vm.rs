//! `ringway bench --vm`: the same plans with real Linux guests in QEMU, booted as those of `ringway demo --vm`.
//!
//! Guests are pairs: one runs `sockperf ping-pong` (UDP, one request on its way, the next when its answer is there), the other
//! answers. Transactions, hits, misses, kicks, calls and wake-ups are what the plane counts while they do; round trips are what
//! sockperf says, which also says that nothing was lost, doubled or out of order. Each case has its own data plane and boots its own
//! guests, so it is measured once, for longer.

use super::ChartName;
use super::chart::LeftOut;
use super::frames::mac;
use super::lab::{Lab, Seen};
use super::modes::pin;
use super::statistics::{median, ratio};
use super::traffic::{Outcome, Plan, Times};
use crate::api::Plane as _;
use crate::config::mac_text;
use crate::demo::narrate::Narrator;
use crate::demo::vm::{Accelerator, Booted, GuestSpec, Machines, QemuGuest};
use crate::embedded::place::Place;
use crate::embedded::rings::RingCounters;
use anyhow::{Context, Result, anyhow, ensure};
use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many guests charts have: pairs, and few, since each is a process with a CPU of its own to emulate or to run.
const NUMBERS: [usize; 2] = [2, 4];
/// Longest time that a case is measured, in seconds: sockperf keeps a note of every request that there may be, in the guest's memory.
pub(super) const SECONDS_MAX: f64 = 20.0;
/// What sockperf runs longer than it is looked at, in seconds.
const SLACK_S: u64 = 4;
/// Longest time from a guest's card being up to its being ready, and from the word to traffic.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Longest time for sockperf's two tries beyond their own.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// Answers by which a client is known to be at it.
const BEGUN: u64 = 16;

/// What boots the guests of all charts.
pub(super) struct Guests {
    machines: Machines,
    qemu: String,
    /// Once some have booted: what ran them, and their kernel.
    booted: RefCell<Option<(Accelerator, String)>>,
    /// Where their file system lies.
    _place: Place,
}

impl Guests {
    /// Gets QEMU and what guests are made of; `cache` as in [`Machines::new`].
    pub(super) fn new(cache: Option<&Path>) -> Result<Self> {
        let place = Place::new()?;
        eprintln!("ringway: --vm: QEMU guests from Debian's packages; what is missing is downloaded once");
        let machines = Machines::new(cache, place.path(), &Narrator::new(true))?;
        let qemu = machines.qemu_version()?;
        Ok(Self { machines, qemu, booted: RefCell::default(), _place: place })
    }

    /// Who the guests are, in a line.
    pub(super) fn describe(&self) -> String {
        let qemu = format!("QEMU {}", self.qemu);
        match &*self.booted.borrow() {
            Some((accelerator, kernel)) => format!("{qemu}, {}, {kernel}", accelerator.name()),
            None => qemu,
        }
    }

    /// What is to be said behind every sentence about them.
    pub(super) fn reservation(&self) -> String {
        let is_emulated =
            self.booted.borrow().as_ref().is_some_and(|(accelerator, _)| *accelerator == Accelerator::Tcg);
        let caution = if is_emulated {
            "; emulated, so that rates and times are not representative while counts are"
        } else {
            ""
        };
        format!("real guests: {}{caution}", self.describe())
    }

    /// Runs a plan once. Its load is sockperf's; of its guests the even ones ask their neighbour.
    ///
    /// # Errors
    /// A guest that does not boot or whose sockperf fails; a request without an answer.
    pub(super) fn run(&self, plan: &Plan, times: Times) -> Result<Outcome> {
        let lab = Lab::new(&plan.workers.body, plan.guests, plan.ways)?;
        let seconds = (times.warm_up + times.window).as_secs_f64().ceil() as u64 + SLACK_S;
        let specs: Vec<GuestSpec> = (0..plan.guests).map(|number| spec(number, &lab, seconds)).collect();
        let booted = self.boot(&specs, &plan.workers.guest_cpus)?;
        let mut guests = booted.guests;
        self.booted.replace(Some((booted.accelerator, booted.kernel)));

        let begin = answers(&lab, plan.guests);
        for client in clients(&mut guests) {
            let (_, mark) = client.next_mark(Instant::now() + READY_LIMIT)?;
            ensure!(mark == "ready", "{} says {mark:?} instead of ready", client.name);
        }
        for client in clients(&mut guests) {
            client.say("go")?;
        }
        wait_for_traffic(&lab, &begin)?;
        std::thread::sleep(times.warm_up);
        let (before, before_answers) = (lab.look(), answers(&lab, plan.guests));
        std::thread::sleep(times.window);
        let (after, after_answers) = (lab.look(), answers(&lab, plan.guests));
        let deadline = Instant::now() + Duration::from_secs(seconds) + REPORT_LIMIT;
        let reports = clients(&mut guests).map(|client| report(client, deadline));
        let reports = reports.collect::<Result<Vec<_>>>()?;
        let plane = lab.look_when_quiet();

        let window = (after.0 - before.0).as_secs_f64();
        let counts = before_answers.iter().zip(&after_answers).map(|(before, after)| after - before);
        let rates: Vec<f64> = counts.map(|count| ratio(count as f64, window)).collect();
        ensure!(rates.iter().all(|rate| *rate > 0.0), "a client had no answer: the window is too short");
        Ok(outcome(rates, &reports, &before.1, &after.1, window, plane))
    }

    /// Boots guests on these CPUs, if any are named: a process runs where the thread may that starts it.
    fn boot(&self, specs: &[GuestSpec], cpus: &[usize]) -> Result<Booted> {
        let machines = &self.machines;
        let boot = || {
            pin(cpus);
            machines.boot(specs, &Narrator::new(true))
        };
        std::thread::scope(|scope| scope.spawn(boot).join())
            .map_err(|_| anyhow!("the thread that boots guests has panicked"))?
    }
}

/// The number of guests that ask, of so many.
pub(super) fn clients_of(guests: usize) -> usize {
    guests / 2
}

/// Those of a chart's numbers of guests that real ones have.
pub(super) fn numbers(all: &[usize]) -> Vec<usize> {
    all.iter().copied().filter(|number| NUMBERS.contains(number)).collect()
}

/// Whether a chart can be made with real guests.
///
/// # Errors
/// Why not.
pub(super) fn check(chart: ChartName) -> Result<(), LeftOut> {
    let why = match chart {
        ChartName::FastRx | ChartName::Elvis | ChartName::ThreadsUdpRr => return Ok(()),
        ChartName::Memory => "no guest runs for it",
        ChartName::Layout => "a real guest's driver chooses by itself where its headers are",
        ChartName::ThreadsTcpStream => {
            "with real guests it would show their TCP, as iperf3 in `ringway demo --vm` does"
        }
        ChartName::Doorbell => "its guest is a loop of three instructions that this program runs by itself",
        ChartName::ZeroCopy => "its guest must do nothing but send, and be counted frame by frame",
    };
    Err(LeftOut(format!("--vm has no {}: {why}", chart.name())))
}

fn spec(number: usize, lab: &Lab, seconds: u64) -> GuestSpec {
    let address = |number: usize| format!("10.78.0.{}", number + 1);
    let asks = number.is_multiple_of(2);
    GuestSpec {
        name: format!("guest {number}"),
        mac: mac_text(mac(number)),
        address: address(number),
        peer: address(if asks { number + 1 } else { number - 1 }),
        role: if asks { "ask" } else { "answer" },
        seconds,
        socket: lab.socket(number),
    }
}

fn clients(guests: &mut [QemuGuest]) -> impl Iterator<Item = &mut QemuGuest> {
    guests.iter_mut().step_by(2)
}

/// Frames to each client so far: next to nothing but answers.
fn answers(lab: &Lab, guests: usize) -> Vec<u64> {
    let port = |number| lab.plane().port(&format!("g{number}"));
    let frames = |number| port(number).map_or(0, |port| port.counters.to_guest.frames);
    (0..guests).step_by(2).map(frames).collect()
}

fn wait_for_traffic(lab: &Lab, begin: &[u64]) -> Result<()> {
    let end = Instant::now() + READY_LIMIT;
    loop {
        let now = answers(lab, begin.len() * 2);
        if begin.iter().zip(&now).all(|(begin, now)| now - begin >= BEGUN) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "no traffic between the guests");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What sockperf says at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Report {
    p50_us: f64,
    p99_us: f64,
}

fn report(client: &mut QemuGuest, deadline: Instant) -> Result<Report> {
    let (lines, _) = client.next_mark(deadline)?;
    Report::parse(&lines).with_context(|| format!("{}: sockperf says:\n{}", client.name, lines.join("\n")))
}

impl Report {
    /// Reads the lines of `sockperf ping-pong --full-rtt`.
    fn parse(lines: &[String]) -> Result<Self> {
        let counts = lines.iter().find_map(|line| line.split_once("# dropped messages"));
        let (_, counts) = counts.context("it did not finish")?;
        let mut losses =
            counts.split(';').filter_map(|part| part.split_once('=')?.1.trim().parse::<u64>().ok());
        ensure!(
            losses.by_ref().take(3).collect::<Vec<_>>() == [0, 0, 0],
            "requests were lost, doubled or out of order"
        );
        let percentile = |name: &str| {
            let value = lines.iter().find_map(|line| line.split_once(name)?.1.split_once('='));
            value.and_then(|(_, value)| value.trim().parse::<f64>().ok()).context("it has no percentiles")
        };
        Ok(Self { p50_us: percentile("percentile 50.000")?, p99_us: percentile("percentile 99.000")? })
    }
}

fn outcome(
    rates: Vec<f64>,
    reports: &[Report],
    before: &Seen,
    after: &Seen,
    seconds: f64,
    plane: Seen,
) -> Outcome {
    let halves: Vec<f64> = reports.iter().map(|report| report.p50_us).collect();
    Outcome {
        rates,
        // Of the worst client: percentiles of several cannot be joined.
        p99_us: reports.iter().map(|report| report.p99_us).fold(0.0, f64::max),
        p50_us: median(&halves),
        window: after.since(before),
        seconds,
        // The drivers are not ours: what they sent is what the plane took.
        drivers: RingCounters {
            sent: plane.frames_from_guests,
            received: plane.frames_to_guests,
            ..RingCounters::default()
        },
        plane,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(dropped: u32) -> Vec<String> {
        let text = format!(
            "sockperf: [Valid Duration] RunTime=1.550 sec; SentMessages=9; ReceivedMessages=9\n\
             sockperf: # dropped messages = {dropped}; # duplicated messages = 0; # out-of-order messages = 0\n\
             sockperf: ---> percentile 99.900 =   41.070\n\
             sockperf: ---> percentile 99.000 =   12.848\n\
             sockperf: ---> percentile 50.000 =   11.236"
        );
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn sockperf_is_read_and_its_losses_are_errors() {
        let report = Report::parse(&lines(0)).unwrap();
        assert_eq!(report, Report { p50_us: 11.236, p99_us: 12.848 });
        assert!(Report::parse(&lines(1)).is_err());
        assert!(Report::parse(&lines(0)[..2]).is_err());
        assert!(Report::parse(&[]).is_err());
    }

    #[test]
    fn guests_are_pairs() {
        assert_eq!(numbers(&[1, 2, 4, 8, 16]), [2, 4]);
        assert_eq!([2, 4].map(clients_of), [1, 2]);
        let lab = Lab::new("mode = \"pool\"", 4, crate::plane::Ways::ALL).unwrap();
        let specs: Vec<GuestSpec> = (0..4).map(|number| spec(number, &lab, 7)).collect();
        for pair in specs.chunks(2) {
            assert_eq!((pair[0].role, pair[1].role), ("ask", "answer"));
            assert_eq!((&pair[0].peer, &pair[1].peer), (&pair[1].address, &pair[0].address));
        }
        assert_ne!(specs[0].address, specs[2].address);
    }

    #[test]
    fn rates_are_of_the_window_and_the_worst_client_counts() {
        let (before, after) = (
            Seen { frames_to_guests: 100, kicks: 5, ..Seen::default() },
            Seen { frames_to_guests: 300, kicks: 9, ..Seen::default() },
        );
        let reports = [Report { p50_us: 10.0, p99_us: 30.0 }, Report { p50_us: 20.0, p99_us: 90.0 }];
        let plane = Seen { frames_from_guests: 400, frames_to_guests: 400, ..after };
        let outcome = outcome(vec![20.0, 30.0], &reports, &before, &after, 2.0, plane);
        assert_eq!((outcome.rate(), outcome.p50_us, outcome.p99_us), (50.0, 15.0, 90.0));
        assert_eq!((outcome.window.frames_to_guests, outcome.window.kicks), (200, 4));
        assert_eq!(outcome.per_second(outcome.window.kicks), 2.0);
        assert_eq!(outcome.drivers.received, 400);
    }

    #[test]
    fn charts_without_real_guests_are_named() {
        let left_out: Vec<String> = ChartName::ALL
            .into_iter()
            .filter_map(|chart| check(chart).err())
            .map(|LeftOut(why)| why.split(':').next().unwrap().to_owned())
            .collect();
        let names = ["memory", "doorbell", "layout", "threads-tcp-stream", "zero-copy"];
        assert_eq!(left_out, names.map(|name| format!("--vm has no {name}")));
    }
}
