//! `bench switch`: testpmd's virtio-user driver → a switch → testpmd, next to Open vSwitch and testpmd's own forwarding.
//!
//! Theory of operation. One testpmd with two driver ports keeps 256 frames a port in circulation: what arrives on one port
//! leaves on the other, so nothing is lost and the rate is that of the slower of generator and switch. The switch has
//! processor 0 for itself, the generator processor 1. A round measures every switch with every frame size, and the rounds
//! follow each other, so that a slow minute of the machine falls on all of them. A window counts only if both forwarding
//! threads had their processor nearly all the time by the kernel's account; if no window of a cell did, the best ones are
//! taken and that is said. Each figure is the median over all windows of a cell.

use crate::dpdk::hugepages::Reserved;
use crate::dpdk::{self, Forward, Memory, Testpmd};
use crate::ovs::OpenVswitch;
use crate::process::thread_ns;
use crate::ringway::{Config, Ringway};
use crate::sysroot::{Sysroot, temporary_directory};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SWITCH_CPU: u32 = 0;
const GENERATOR_CPU: u32 = 1;
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
/// What is sent round.
const CASES: [Case; 3] =
    [Case { size: 64, packed: false }, Case { size: 64, packed: true }, Case { size: 1500, packed: false }];
/// Share of its processor that a thread must have had for a window to count.
const SHARE_MIN: f64 = 0.94;

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
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            system: String::new(),
            case: String::new(),
            rounds: 3,
            windows: 3,
            window: Duration::from_secs(1),
        }
    }
}

/// One comparison. `ratio` is `ours / peer`: larger is better.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured, and against whom.
    pub case: String,
    /// Ringway's figure.
    pub ours: f64,
    /// The peer's figure.
    pub peer: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// `ours / peer`.
    pub ratio: f64,
    /// What the ratio must reach, if anything is promised.
    pub target: Option<f64>,
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
}

/// Runs the bench; progress goes to standard error.
pub fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let sysroot = Sysroot::ensure()?;
    ensure!(std::thread::available_parallelism()?.get() >= 2, "the bench needs two processors");
    prefer_this_process();
    let _pages = Reserved::new(1300)?;
    eprintln!("{}", OpenVswitch::version(&sysroot)?);
    let start = Instant::now();
    let mut cells = vec![<[Cell; CASES.len()]>::default(); System::ALL.len()];
    for round in 1..=effort.rounds {
        for (system, row) in System::ALL.into_iter().zip(&mut cells) {
            for (case, cell) in CASES.into_iter().zip(row) {
                if !(system.name().contains(&effort.system) && case.name().contains(&effort.case)) {
                    continue;
                }
                let what = format!("round {round} of {}: {}, {}", effort.rounds, system.name(), case.name());
                measure(&sysroot, system, case, effort, cell).with_context(|| what.clone())?;
                let seconds = start.elapsed().as_secs_f64();
                let (rate, clean) = cell.figure().unwrap_or_default();
                let remark = if clean { "" } else { " (the machine is busy: no window counts yet)" };
                eprintln!("  [{seconds:5.0} s] {what}: {:.2} Mpps so far{remark}", rate / 1e6);
            }
        }
    }
    Ok(rows(&cells))
}

/// Gives this process and its children, the switches and the generator alike, the first claim on their processors: other
/// work on the machine would disturb the windows. Where the kernel does not grant it, windows may just not count.
pub(crate) fn prefer_this_process() {
    let _ = rustix::process::nice(-20);
    let _ = std::fs::write("/proc/self/autogroup", "-20");
}

/// Ringway's row of cells against each other one's; those that were not measured are left out.
fn rows(cells: &[[Cell; CASES.len()]]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, case) in CASES.into_iter().enumerate() {
        for (number, system) in System::ALL.into_iter().enumerate().skip(1) {
            let figure = |system: usize| cells[system][index].figure();
            let (Some((ours, _)), Some((peer, _))) = (figure(0), figure(number)) else { continue };
            let round = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
            rows.push(Row {
                case: format!("{}, closed loop, against {}", case.name(), system.name()),
                ours: round(ours / 1e6, 3),
                peer: round(peer / 1e6, 3),
                unit: "Mpps",
                ratio: round(ours / peer, 3),
                target: target(case, system),
            });
        }
    }
    rows
}

/// What the ratio must reach.
fn target(case: Case, system: System) -> Option<f64> {
    match (system, case.size) {
        (System::OpenVswitch, 64) => Some(1.5),
        (System::OpenVswitch, _) => Some(1.7),
        (System::Testpmd(Forward::Mac), 64) => Some(1.0),
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
    let counted = cell.clean.len() + effort.windows;
    for _ in 0..effort.windows * 4 {
        let (before, start) = (running.forwarding_ns()?, Instant::now());
        let generator_before = generator.forwarding_ns()?;
        let rate = generator.receive_rate(effort.window)?;
        let passed = start.elapsed().as_nanos() as f64;
        let shares = [running.forwarding_ns()? - before, generator.forwarding_ns()? - generator_before];
        let share = shares.map(|ns| ns as f64 / passed).into_iter().fold(1.0, f64::min);
        ensure!(rate > 1000.0, "no traffic: {rate} frames a second\n{}", generator.log_tail());
        if share >= SHARE_MIN {
            cell.clean.push(rate)
        } else {
            cell.disturbed.push((share, rate))
        }
        if cell.clean.len() >= counted {
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
                OpenVswitch::start(sysroot, place, SWITCH_CPU, sockets).map(Self::OpenVswitch)
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
        let cell = |rate: f64| Cell { clean: vec![rate], disturbed: vec![] };
        let row = |rate: f64| [cell(rate), cell(rate), cell(rate / 2.0)];
        let mut cells: Vec<[Cell; 3]> = [8e6, 10e6, 16e6, 4e6].map(row).to_vec();
        cells[2] = Default::default();
        let rows = rows(&cells);
        assert_eq!(rows.len(), 6);
        assert_eq!((rows[0].ratio, rows[0].target), (0.8, Some(1.5)));
        assert_eq!((rows[1].ratio, rows[1].target), (2.0, Some(1.0)));
        assert_eq!((rows[4].ratio, rows[4].target), (0.8, Some(1.7)));
    }
}
