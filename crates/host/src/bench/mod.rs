//! `ringway bench`: the talk's charts on this host, with embedded guests and nothing to install, or with real ones ([`vm`]).
//!
//! A chart is a file of its own ([`memory`], [`layout`], [`fast_rx`], [`threads`], [`elvis`], [`zero_copy`], `doorbell`): it makes plans, has them measured, and
//! draws what came out ([`chart`], [`picture`]). A plan is measured by [`traffic`]: a data plane ([`lab`]) and guests ([`guest`],
//! [`frames`]) whose loop is closed and who check everything that comes. What a chart says about its shape it computes from
//! what it measured. docs/charts.md tells what each shows.

mod chart;
#[cfg(target_arch = "x86_64")]
mod doorbell;
mod elvis;
mod fast_rx;
mod frames;
mod guest;
mod lab;
mod layout;
mod machine;
mod memory;
mod modes;
mod others;
mod output;
mod picture;
mod statistics;
mod threads;
mod traffic;
mod uplink;
mod vm;
mod zero_copy;

use crate::embedded::interrupt;
use crate::embedded::rings::{HeaderPlace, Shape};
use crate::embedded::wire::{ETHERNET_LEN, feature};
use anyhow::{Context, Result};
use chart::{Chart, Drawing};
use indicatif::{ProgressBar, ProgressStyle};
use machine::Machine;
use others::CpuTimes;
use serde::Serialize;
use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;
use traffic::{Outcome, Plan, Times};

/// How guests that ask and answer drive their device: rings of 64, frames up to an MTU of 1500, no offloads.
const REQUEST_SHAPE: Shape = Shape {
    wanted: feature::RING_EVENT_IDX,
    receive_count: 64,
    receive_size: 2048,
    transmit_count: 64,
    frame_max: ETHERNET_LEN + 1500,
    header: HeaderPlace::WithData,
};

/// How guests that stream do: as a TCP/IP stack, with room for some windows.
const STREAM_SHAPE: Shape = Shape { receive_count: 256, transmit_count: 64, ..Shape::STACK };

/// Frames of a stream on their way at most: half of what waits for a queue in the worst case.
const STREAM_WINDOW: u64 = 4;

/// How a chart's time is shared out.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    /// Rounds in which all cases take turns, at most.
    max: usize,
    /// A window is no shorter for the sake of more rounds.
    window_min: Duration,
}

impl Rounds {
    /// Where guests wait for their turn on a CPU, so that a window must be long to be fair to all.
    const FEW: Self = Self { max: 3, window_min: Duration::from_millis(500) };
    /// Where little is between cases, so that chance must be evened out.
    const MANY: Self = Self { max: 15, window_min: Duration::from_millis(150) };
    /// Where each run takes much longer to begin than to measure.
    const ONE: Self = Self { max: 1, ..Self::FEW };
}

/// Part of each measurement that only warms up.
const WARM_UP: f64 = 0.2;

/// A chart of the talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ChartName {
    /// Header alone in its descriptor or with the data: transactions and descriptors per packet
    Layout,
    /// Worker path, fast rx, polling: transactions, hits, misses, wake-ups
    FastRx,
    /// Request and response over 1 to 32 devices: a thread for each device, a pool, sidecores
    ThreadsUdpRr,
    /// Streams over 1 to 32 devices: a thread for each device, a pool, sidecores
    ThreadsTcpStream,
    /// Kicks, wake-ups and transactions over 1 to 16 guests: notified threads, polling sidecores
    Elvis,
    /// Bytes of a ring in virtio 0.9 and 1.x
    Memory,
    /// Frames to an AF_XDP uplink, copied or straight from the guest's memory, over sizes; needs root
    ZeroCopy,
    /// Cycles of a doorbell: port I/O and MMIO of a tiny KVM guest, kicks over vhost-user and vfio-user
    Doorbell,
}

impl ChartName {
    /// All charts, in the order of the talk.
    pub const ALL: [Self; 8] = [
        Self::Memory,
        Self::Doorbell,
        Self::Layout,
        Self::Elvis,
        Self::FastRx,
        Self::ThreadsUdpRr,
        Self::ThreadsTcpStream,
        Self::ZeroCopy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::FastRx => "fast-rx",
            Self::ThreadsUdpRr => "threads-udp-rr",
            Self::ThreadsTcpStream => "threads-tcp-stream",
            Self::Elvis => "elvis",
            Self::Memory => "memory",
            Self::ZeroCopy => "zero-copy",
            Self::Doorbell => "doorbell",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Layout => "Packet layout: header alone or with the data",
            Self::FastRx => "Fast rx: how a frame gets into its receiver's buffers",
            Self::ThreadsUdpRr => "Threading: UDP request and response",
            Self::ThreadsTcpStream => "Threading: TCP stream",
            Self::Elvis => "ELVIS: notified threads and polling sidecores",
            Self::Memory => "Memory of a ring: virtio 0.9 and 1.x",
            Self::ZeroCopy => "Zero-copy transmit to an AF_XDP uplink",
            Self::Doorbell => "Doorbells: port I/O, MMIO, and what kicks cost without a guest",
        }
    }

    fn draw(self, bench: &Bench<'_>) -> Result<Drawing> {
        match self {
            Self::Layout => layout::chart(bench),
            Self::FastRx => fast_rx::chart(bench),
            Self::ThreadsUdpRr => threads::udp_rr(bench),
            Self::ThreadsTcpStream => threads::tcp_stream(bench),
            Self::Elvis => elvis::chart(bench),
            Self::Memory => memory::chart(),
            Self::ZeroCopy => zero_copy::chart(bench),
            #[cfg(target_arch = "x86_64")]
            Self::Doorbell => doorbell::chart(bench),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Doorbell => Err(chart::LeftOut("its guest is a program for x86".into()).into()),
        }
    }
}

/// What to measure and where to put it.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// In this order; empty: all.
    pub charts: Vec<ChartName>,
    /// Seconds that each chart's measurements take together, setting up not counted; above 0.
    pub seconds: f64,
    /// Print one JSON array of charts on standard output.
    pub json: bool,
    /// Write NAME.svg, NAME.json and NAME.md of each chart into this directory; NAME-vm with `vm`.
    pub out: Option<PathBuf>,
    /// With QEMU guests instead of embedded ones, as far as there are charts of them.
    pub vm: bool,
    /// Where packages for `vm` are kept; `None`: `ringway` in the user's cache directory.
    pub cache: Option<PathBuf>,
}

/// Measures and prints.
///
/// # Errors
/// A measurement that failed: nothing is lost or doubted silently. A file that cannot be written.
pub fn run(options: &BenchOptions) -> Result<()> {
    interrupt::watch()?;
    let machine = Machine::here();
    if !machine.optimised {
        eprintln!("ringway: this build is not optimised: its figures say little");
    }
    if let Some(directory) = &options.out {
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let names = if options.charts.is_empty() { &ChartName::ALL[..] } else { &options.charts };
    let is_possible = |name: &ChartName| !options.vm || vm::check(*name).is_ok();
    // Nothing is downloaded for charts that are left out.
    let are_wanted = options.vm && names.iter().any(is_possible);
    let guests = are_wanted.then(|| vm::Guests::new(options.cache.as_deref())).transpose()?;
    let mut charts = Vec::new();
    for name in names {
        let bench =
            Bench { name: *name, seconds: options.seconds, effort: Cell::default(), guests: guests.as_ref() };
        let (mut drawing, left_out) = match bench.draw(options.vm).with_context(|| name.name()) {
            Ok(drawing) => (drawing, false),
            Err(fault) => match fault.downcast_ref() {
                // Who wants this one and no other is not served by anything else.
                Some(why) if options.charts.len() != 1 => (Drawing::left_out(why), true),
                _ => return Err(fault),
            },
        };
        let effort = bench.effort.get();
        drawing.verdict = drawing.verdict.beside_others(effort.others_share);
        let who = guests.as_ref().filter(|_| !left_out);
        if let Some(guests) = who {
            drawing.verdict = drawing.verdict.with(&guests.reservation());
        }
        let chart = Chart {
            name: name.name(),
            title: name.title(),
            machine: machine.clone(),
            guests: who.map(vm::Guests::describe),
            effort,
            left_out,
            drawing,
        };
        // What was measured before stays as it is.
        if let Some(directory) = options.out.as_ref().filter(|_| !left_out) {
            output::write(&chart, directory)?;
        }
        if !options.json {
            output::print(&chart)?;
        }
        charts.push(chart);
    }
    if options.json { output::print_json(&charts) } else { Ok(()) }
}

/// How much was measured for a chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Effort {
    /// Different cases, each measured once a round; 0: nothing runs.
    cases: usize,
    rounds: usize,
    warm_up_ms: u64,
    window_ms: u64,
    /// Share of the CPUs' time that other programs had meanwhile, 0 to 1.
    others_share: f64,
}

/// With more than this share for others a chart is told to be doubted.
const OTHERS_MAX: f64 = 0.05;

impl Effort {
    /// Shares `seconds` out: as many rounds as leave long enough windows.
    fn new(seconds: f64, cases: usize, rounds: Rounds) -> Self {
        let of_case = seconds / cases.max(1) as f64;
        let most = (of_case * (1.0 - WARM_UP) / rounds.window_min.as_secs_f64()) as usize;
        let rounds = most.clamp(1, rounds.max);
        let of_run_ms = of_case / rounds as f64 * 1e3;
        let warm_up_ms = (of_run_ms * WARM_UP) as u64;
        Self {
            cases,
            rounds,
            warm_up_ms,
            window_ms: (of_run_ms as u64 - warm_up_ms).max(1),
            others_share: 0.0,
        }
    }

    fn times(&self) -> Times {
        Times {
            warm_up: Duration::from_millis(self.warm_up_ms),
            window: Duration::from_millis(self.window_ms),
        }
    }
}

/// What a chart measures with.
struct Bench<'g> {
    name: ChartName,
    seconds: f64,
    effort: Cell<Effort>,
    /// Real ones, if they are wanted.
    guests: Option<&'g vm::Guests>,
}

impl Bench<'_> {
    fn draw(&self, vm: bool) -> Result<Drawing> {
        if vm {
            vm::check(self.name)?;
        }
        self.name.draw(self)
    }

    /// The numbers of guests, of those that embedded ones have, and how many of so many guests ask others.
    fn numbers(&self, embedded: &[usize]) -> Vec<(usize, usize)> {
        match self.guests {
            Some(_) => {
                vm::numbers(embedded).into_iter().map(|guests| (guests, vm::clients_of(guests))).collect()
            }
            None => embedded.iter().map(|guests| (*guests, *guests)).collect(),
        }
    }

    /// Measures every plan in each of some rounds; the run with the median rate of each.
    fn measure(&self, plans: &[Plan], rounds: Rounds) -> Result<Vec<Outcome>> {
        let rounds = if self.guests.is_some() { Rounds::ONE } else { rounds };
        let runs = self.paced(plans.len(), rounds, |effort, bar| {
            let mut runs: Vec<Vec<Outcome>> = vec![Vec::new(); plans.len()];
            for _ in 0..effort.rounds {
                for (plan, runs) in plans.iter().zip(&mut runs) {
                    runs.push(match self.guests {
                        Some(guests) => guests.run(plan, effort.times())?,
                        None => traffic::run(plan, effort.times())?,
                    });
                    bar.inc(1);
                }
            }
            Ok(runs)
        })?;
        Ok(runs.into_iter().filter_map(|runs| median_run(runs, Outcome::rate)).collect())
    }

    /// Shares the time out between so many cases and has them measured, with a bar that `body` moves on after each, and a look
    /// at what others have of the CPUs.
    fn paced<T>(
        &self,
        cases: usize,
        rounds: Rounds,
        body: impl FnOnce(Effort, &ProgressBar) -> Result<T>,
    ) -> Result<T> {
        let most = if self.guests.is_some() { cases as f64 * vm::SECONDS_MAX } else { f64::MAX };
        let seconds = self.seconds.min(most);
        let effort = Effort::new(seconds, cases, rounds);
        self.effort.set(effort);
        let bar = progress(self.name.name(), cases * effort.rounds);
        if bar.is_hidden() {
            let (name, Effort { cases, rounds, .. }) = (self.name.name(), effort);
            let more = if self.guests.is_some() { ", and guests boot for each" } else { "" };
            eprintln!("ringway: {name}: {cases} cases in {rounds} rounds, about {seconds:.0} s{more}");
        }
        let before = CpuTimes::now();
        let result = body(effort, &bar);
        bar.finish_and_clear();
        // Real guests are processes of their own, which cannot be told from others.
        if self.guests.is_none() {
            self.effort.set(Effort { others_share: CpuTimes::now().others_since(&before), ..effort });
        }
        result
    }
}

/// The run of which `value` is in the middle.
fn median_run<T>(mut runs: Vec<T>, value: impl Fn(&T) -> f64) -> Option<T> {
    runs.sort_by(|a, b| value(a).total_cmp(&value(b)));
    let middle = runs.len() / 2;
    (middle < runs.len()).then(|| runs.swap_remove(middle))
}

/// A bar on standard error, drawn on a terminal only.
fn progress(name: &'static str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<18} {bar:30} {pos}/{len} {elapsed} (about {eta} left)");
    let bar =
        ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let bar = bar.with_message(name);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shared_out() {
        let effort = Effort::new(45.0, 18, Rounds::FEW);
        assert_eq!((effort.rounds, effort.warm_up_ms, effort.window_ms), (3, 166, 667));
        let effort = Effort::new(3.0, 18, Rounds::FEW);
        assert_eq!((effort.rounds, effort.warm_up_ms, effort.window_ms), (1, 33, 133));
        let effort = Effort::new(45.0, 12, Rounds::MANY);
        assert_eq!((effort.rounds, effort.warm_up_ms, effort.window_ms), (15, 50, 200));
        assert_eq!(Effort::new(0.001, 18, Rounds::MANY).window_ms, 1);
    }
}
