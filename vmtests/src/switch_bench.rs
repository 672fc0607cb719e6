//! `bench switch`: drivers → a switch → drivers, next to Open vSwitch, testpmd's own forwarding and the kernel's bridge.
//!
//! Theory of operation. Small and full frames come from testpmd: one testpmd with two driver ports keeps 256 frames a port in circulation: what arrives on one port
//! leaves on the other, so nothing is lost and the rate is that of the slower of generator and switch. The switch has
//! processor 0 for itself, the generator processor 1. A round measures every switch with every frame size, and the rounds
//! follow each other, so that a slow minute of the machine falls on all of them. A window counts only if both forwarding
//! threads had their processor nearly all the time by the kernel's account; if no window of a cell did, the best ones are
//! taken and that is said. Each figure is the median over all windows of a cell. Windows of times when the two processors share a
//! cache and of times when they do not ([`distance`]) are different cells.
//!
//! Whole TSO frames ([`tso`]), one frame at a time ([`latency`]), ports over vfio-user ([`functions`]) and two workers against one ([`workers`]) come from guests
//! of our own ([`station`](crate::station)), on the same processors.

mod device;
pub(crate) mod distance;
pub(crate) mod ends;
mod functions;
mod latency;
mod taps;
mod tso;
mod workers;

use crate::dpdk::hugepages::Reserved;
use crate::dpdk::{self, Forward, Memory, Testpmd};
use crate::ovs::OpenVswitch;
use crate::process::thread_ns;
use crate::ringway::{Config, Ringway};
use crate::row::{Row, Target};
use crate::sysroot::{Sysroot, temporary_directory};
use anyhow::{Context, ensure};
use distance::{Apart, Distance, round_trip_ns};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const SWITCH_CPU: u32 = 0;
const GENERATOR_CPU: u32 = 1;
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
/// What is sent round.
const CASES: [Case; 3] =
    [Case { size: 64, packed: false }, Case { size: 64, packed: true }, Case { size: 1500, packed: false }];
/// Share of its processor that a thread must have had for a window to count.
const SHARE_MIN: f64 = 0.94;
/// Times that a cell is measured in vain since the processors moved.
const MOVES_MAX: usize = 4;

/// One kind of traffic.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Bytes of a frame, without the checksum at its end.
    size: u32,
    /// Over packed rings; otherwise split ones.
    packed: bool,
}

impl Case {
    fn name(self) -> String {
        format!("{} B, {}", self.size, if self.packed { "packed" } else { "split" })
    }
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Only systems whose name contains this.
    pub system: String,
    /// Only cases whose name contains this.
    pub case: String,
    /// Rounds over all switches and sizes.
    pub rounds: usize,
    /// Windows that must count in each cell of a round.
    pub windows: usize,
    /// Length of a window.
    pub window: Duration,
    /// Also tries, without a figure, what this machine has not enough processors for.
    pub overcommit: bool,
}

impl Effort {
    fn wants(&self, case: &str) -> bool {
        case.contains(&self.case)
    }
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            system: String::new(),
            case: String::new(),
            rounds: 3,
            windows: 3,
            window: Duration::from_secs(1),
            overcommit: false,
        }
    }
}

/// A system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Ringway,
    OpenVswitch,
    Testpmd(Forward),
}

impl System {
    const ALL: [Self; 4] =
        [Self::Ringway, Self::OpenVswitch, Self::Testpmd(Forward::Io), Self::Testpmd(Forward::Mac)];

    fn name(self) -> &'static str {
        match self {
            Self::Ringway => "Ringway",
            Self::OpenVswitch => "OVS-DPDK NORMAL",
            Self::Testpmd(Forward::Mac) => "testpmd vhost mac",
            Self::Testpmd(_) => "testpmd vhost io",
        }
    }
}

/// What measured windows of one cell gave.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// Frames per second of windows that count.
    clean: Vec<f64>,
    /// Smallest share of a processor and frames per second of the others.
    disturbed: Vec<(f64, f64)>,
}

impl Cell {
    /// The median, and whether it rests on windows that count.
    fn figure(&self) -> Option<(f64, bool)> {
        if !self.clean.is_empty() {
            return Some((median(self.clean.clone())?, true));
        }
        let mut best = self.disturbed.clone();
        best.sort_by(|left, right| right.0.total_cmp(&left.0));
        Some((median(best.iter().take(3).map(|window| window.1).collect())?, false))
    }

    /// Adds the windows of another cell.
    fn merge(&mut self, other: Self) {
        self.clean.extend(other.clean);
        self.disturbed.extend(other.disturbed);
    }

    /// Adds a window in which the busiest threads had `share` of their processors at least.
    fn push(&mut self, share: f64, figure: f64) {
        if share >= SHARE_MIN {
            self.clean.push(figure);
        } else {
            self.disturbed.push((share, figure));
        }
    }

    /// The figure until now in units of `scale`, for people.
    fn so_far(&self, scale: f64, unit: &str) -> String {
        let (figure, clean) = self.figure().unwrap_or_default();
        let remark = if clean { "" } else { " (the machine is busy: no window counts yet)" };
        format!("{:.2} {unit} so far{remark}", figure / scale)
    }
}

/// What every part gets.
struct Bench<'e> {
    sysroot: Sysroot,
    effort: &'e Effort,
    start: Instant,
}

impl Bench<'_> {
    fn say(&self, what: &str) {
        eprintln!("  [{:5.0} s] {what}", self.start.elapsed().as_secs_f64());
    }
}

/// Runs the bench; progress goes to standard error, rows to `show` as soon as a part has them.
///
/// Errors: no root, no peers, not enough processors or memory, a system that does not start or pass frames.
pub fn run(effort: &Effort, mut show: impl FnMut(&[Row]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    prefer_this_process();
    if CASES.iter().any(|case| effort.wants(&case.name())) || tso::wanted(effort) || latency::wanted(effort) {
        ensure!(std::thread::available_parallelism()?.get() >= 2, "the bench needs two processors");
        let sysroot = Sysroot::ensure()?;
        let _pages = Reserved::new(1300)?;
        eprintln!("{}", OpenVswitch::version(&sysroot)?);
        let bench = Bench { sysroot, effort, start: Instant::now() };
        show(&loops(&bench)?)?;
        show(&tso::measure(&bench).context("whole TSO frames")?)?;
        show(&latency::measure(&bench).context("request/response")?)?;
    }
    show(&functions::measure(effort).context("vfio-user against vhost-user")?)?;
    show(&workers::measure(effort).context("two workers against one")?)
}

/// Cells of one system, by case.
type Cells = [Apart<Cell>; CASES.len()];

/// Closed loops of testpmd. All systems with one case follow each other, so that they find the processors alike.
fn loops(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let effort = bench.effort;
    let mut cells = vec![Cells::default(); System::ALL.len()];
    for round in 1..=effort.rounds {
        for (index, case) in CASES.into_iter().enumerate().filter(|(_, case)| effort.wants(&case.name())) {
            for (system, row) in System::ALL.into_iter().zip(&mut cells) {
                if system.name().contains(&effort.system) {
                    let what =
                        format!("round {round} of {}: {}, {}", effort.rounds, system.name(), case.name());
                    add_windows(bench, system, case, &mut row[index], &what).with_context(|| what.clone())?;
                }
            }
        }
    }
    Ok(rows(&cells))
}

/// Adds windows of one system and case where they belong; those in which the processors moved are taken again.
fn add_windows(
    bench: &Bench<'_>,
    system: System,
    case: Case,
    cells: &mut Apart<Cell>,
    what: &str,
) -> anyhow::Result<()> {
    let mut before = round_trip_ns()?;
    for _ in 0..MOVES_MAX {
        let mut windows = Cell::default();
        measure(&bench.sysroot, system, case, bench.effort, &mut windows)?;
        let after = round_trip_ns()?;
        let (from, distance) = (Distance::of(before), Distance::of(after));
        before = after;
        if from == distance {
            let cell = cells.at_mut(distance);
            cell.merge(windows);
            bench.say(&format!(
                "{what}: {}; a line goes and comes in {after:.0} ns",
                cell.so_far(1e6, "Mpps")
            ));
            return Ok(());
        }
        bench.say(&format!("{what}: the processors moved (a line now takes {after:.0} ns): again"));
    }
    bench.say(&format!("{what}: the processors did not rest; nothing counts"));
    Ok(())
}

/// Gives this process and its children, the switches and the generator alike, the first claim on their processors: other
/// work on the machine would disturb the windows. Where the kernel does not grant it, windows may just not count.
pub(crate) fn prefer_this_process() {
    let _ = rustix::process::nice(-20);
    let _ = std::fs::write("/proc/self/autogroup", "-20");
}

/// Ringway's cells against each other one's of the same distance; those that were not measured are left out.
fn rows(cells: &[Cells]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, case) in CASES.into_iter().enumerate() {
        for (number, system) in System::ALL.into_iter().enumerate().skip(1) {
            for distance in Distance::ALL {
                let figure = |system: usize| cells[system][index].at(distance).figure();
                let (Some((ours, _)), Some((peer, _))) = (figure(0), figure(number)) else { continue };
                let (name, remark) = (case.name(), distance.remark());
                let name = format!("{name}, closed loop{remark}, against {}", system.name());
                rows.push(Row::new(name, ours / 1e6, peer / 1e6, "Mpps", target(case, system)));
            }
        }
    }
    rows
}

/// What the ratio must reach.
fn target(case: Case, system: System) -> Option<Target> {
    match (system, case.size) {
        (System::OpenVswitch, 64) => Some(Target::AtLeast(1.5)),
        (System::OpenVswitch, _) => Some(Target::AtLeast(1.7)),
        (System::Testpmd(Forward::Mac), 64) => Some(Target::AtLeast(1.0)),
        _ => None,
    }
}

/// Starts a system and a generator, and adds windows to the cell.
fn measure(
    sysroot: &Sysroot,
    system: System,
    case: Case,
    effort: &Effort,
    cell: &mut Cell,
) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("rw-bench-").tempdir_in(temporary_directory())?;
    let place = directory.path();
    let sockets = [place.join("0.sock"), place.join("1.sock")];
    let running = Running::start(sysroot, system, place, &sockets)?;
    let mut generator = generator(sysroot, place, &sockets, case, system == System::OpenVswitch)?;
    generator.command(&format!("set txpkts {}", case.size))?;
    generator.command("start tx_first 8")?;
    // Addresses are learnt and caches warm before the first window.
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..effort.windows * 4 {
        let (before, start) = (running.forwarding_ns()?, Instant::now());
        let generator_before = generator.forwarding_ns()?;
        let rate = generator.receive_rate(effort.window)?;
        let passed = start.elapsed().as_nanos() as f64;
        let shares = [running.forwarding_ns()? - before, generator.forwarding_ns()? - generator_before];
        let share = shares.map(|ns| ns as f64 / passed).into_iter().fold(1.0, f64::min);
        ensure!(rate > 1000.0, "no traffic: {rate} frames a second\n{}", generator.log_tail());
        cell.push(share, rate);
        if cell.clean.len() >= effort.windows {
            break;
        }
    }
    generator.quit()
}

fn generator(
    sysroot: &Sysroot,
    place: &Path,
    sockets: &[PathBuf; 2],
    case: Case,
    listens: bool,
) -> anyhow::Result<Testpmd> {
    let more = [(listens, "server=1"), (case.packed, "packed_vq=1")];
    let more = more.map(|(wanted, word)| if wanted { word } else { "" }).join(",");
    let more = more.trim_matches(',');
    let devices = sockets.iter().zip(MACS).enumerate();
    let devices = devices.map(|(index, (socket, mac))| dpdk::virtio_user(index, socket, mac, more));
    let mut config = dpdk::Config::new("generator", Forward::Mac, devices.collect());
    config.cpu = GENERATOR_CPU;
    config.memory = Memory::Huge;
    config.options = vec![
        "--total-num-mbufs=65536".to_owned(),
        format!("--eth-peer=0,{}", MACS[1]),
        format!("--eth-peer=1,{}", MACS[0]),
    ];
    Testpmd::start(sysroot, place, &config)
}

/// A running system under test.
enum Running {
    Ringway(Ringway),
    OpenVswitch(OpenVswitch),
    Testpmd(Testpmd),
}

impl Running {
    fn start(
        sysroot: &Sysroot,
        system: System,
        place: &Path,
        sockets: &[PathBuf; 2],
    ) -> anyhow::Result<Self> {
        match system {
            System::Ringway => {
                let workers = format!("mode = \"pool\"\nthreads = 1\ncpus = [{SWITCH_CPU}]");
                let config = Config::new(place, &workers).port("0", MACS[0], 1, "").port("1", MACS[1], 1, "");
                Ringway::start(config).map(Self::Ringway)
            }
            System::OpenVswitch => {
                OpenVswitch::start(sysroot, place, SWITCH_CPU, sockets, &[]).map(Self::OpenVswitch)
            }
            System::Testpmd(forward) => {
                let devices =
                    sockets.iter().enumerate().map(|(index, socket)| dpdk::vhost(index, socket)).collect();
                let mut config = dpdk::Config::new("forwarder", forward, devices);
                config.cpu = SWITCH_CPU;
                config.memory = Memory::Huge;
                config.options = vec!["--total-num-mbufs=65536".to_owned()];
                let mut testpmd = Testpmd::start(sysroot, place, &config)?;
                testpmd.command("start")?;
                Ok(Self::Testpmd(testpmd))
            }
        }
    }

    fn forwarding_ns(&self) -> anyhow::Result<u64> {
        match self {
            Self::Ringway(ringway) => thread_ns(ringway.pid(), "rw-worker"),
            Self::OpenVswitch(ovs) => ovs.forwarding_ns(),
            Self::Testpmd(testpmd) => testpmd.forwarding_ns(),
        }
    }
}

/// The middle value; the mean of the two middle ones of an even number.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (upper + values[middle - 1]) / 2.0 })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn windows_that_count_win_over_disturbed_ones() {
        let mut cell =
            Cell { clean: vec![], disturbed: vec![(0.5, 1.0), (0.9, 5.0), (0.8, 4.0), (0.7, 3.0)] };
        assert_eq!(cell.figure(), Some((4.0, false)));
        cell.clean.push(7.0);
        assert_eq!(cell.figure(), Some((7.0, true)));
    }

    #[test]
    fn rows_compare_ringway_with_each_peer_that_was_measured() {
        let cell = |rate: f64| {
            let mut apart = Apart::<Cell>::default();
            apart.at_mut(Distance::Near).clean.push(rate);
            apart
        };
        let row = |rate: f64| [cell(rate), cell(rate), cell(rate / 2.0)];
        let mut cells: Vec<Cells> = [8e6, 10e6, 16e6, 4e6].map(row).to_vec();
        // Far apart only Ringway was measured: there is nothing to compare it with.
        cells[0][0].at_mut(Distance::Far).clean.push(1e6);
        cells[2] = Default::default();
        let rows = rows(&cells);
        assert_eq!(rows.len(), 6);
        assert_eq!((rows[0].ratio, rows[0].target), (0.8, Some(1.5)));
        assert_eq!((rows[1].ratio, rows[1].target), (2.0, Some(1.0)));
        assert_eq!((rows[4].ratio, rows[4].target), (0.8, Some(1.7)));
    }
}
