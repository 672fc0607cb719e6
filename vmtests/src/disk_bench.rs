//! `bench disk`: requests of one virtio-blk queue over vhost-user, next to qemu-storage-daemon.
//!
//! Theory of operation. The server has processor 0 for itself with all of its threads, the driver ([`driver`], one of our own,
//! the same for both servers) processor 1. A stay is a server freshly started on one [`Medium`], a block written and read
//! back, then one window of each [`Load`]; stays of the two servers take turns, medium by medium and round by round, so that a slow minute
//! of the machine falls on both. What a window gives are requests a second, the processor time of all of the server's threads, and where
//! one request goes at a time, how long each took. Figures are medians over the rounds. Stays of times when the two processors share a
//! cache and of times when they do not ([`distance`](crate::switch_bench::distance)) are different cells; one in which that changed is taken again.

mod driver;
mod server;

use crate::row::{Row, Target};
use crate::switch_bench::distance::{Apart, Distance, round_trip_ns};
use crate::switch_bench::{median, prefer_this_process};
use crate::sysroot::Sysroot;
use anyhow::{Context, ensure};
use driver::{Driver, Window};
use server::{Media, Medium, Server, System};
use std::time::{Duration, Instant};

const KIB: u32 = 1 << 10;
/// Bytes of every disk.
const DISK_LEN: u64 = 256 << 20;
/// Before a window, so that the server has learned how to poll and the path is warm.
const WARM_UP: Duration = Duration::from_millis(150);
/// Times that a stay is repeated because the processors moved.
const MOVES_MAX: usize = 3;
/// What requests a second for each second of the server's processor time must reach, at [`DEEP`].
const PER_CORE: Target = Target::AtLeast(3.0);
/// What the time of a request must keep below, where there is one at a time.
const LATENCY: Target = Target::AtMost(0.7);
const DEEP: u16 = 64;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Only media whose name contains this.
    pub medium: String,
    /// Only loads whose name contains this.
    pub case: String,
    /// Stays of each server on each medium.
    pub rounds: usize,
    /// Length of a window.
    pub window: Duration,
}

/// What the driver does while nothing is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Sleeps until it is called, as a guest does.
    Sleep,
    /// Looks again and again; no call is made for it.
    Poll,
}

/// What is asked of a disk in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    write: bool,
    /// Places at random; otherwise one after the other.
    random: bool,
    /// Bytes of a request.
    bytes: u32,
    /// Requests that are under way.
    depth: u16,
    wait: Wait,
}

const LOADS: [Load; 10] = [
    small(false, 1, Wait::Sleep),
    small(false, 1, Wait::Poll),
    small(true, 1, Wait::Sleep),
    small(true, 1, Wait::Poll),
    small(false, DEEP, Wait::Sleep),
    small(false, DEEP, Wait::Poll),
    small(true, DEEP, Wait::Sleep),
    small(true, DEEP, Wait::Poll),
    large(false),
    large(true),
];

const fn small(write: bool, depth: u16, wait: Wait) -> Load {
    Load { write, random: true, bytes: 4 * KIB, depth, wait }
}

const fn large(write: bool) -> Load {
    Load { write, random: false, bytes: 128 * KIB, depth: 8, wait: Wait::Sleep }
}

impl Load {
    fn name(self) -> String {
        format!(
            "{} KiB {} {}, depth {}, driver {}",
            self.bytes / KIB,
            if self.random { "random" } else { "sequential" },
            if self.write { "write" } else { "read" },
            self.depth,
            if self.wait == Wait::Sleep { "sleeps" } else { "polls" },
        )
    }
}

/// Figures of one server on one medium under one load, each of one window.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// Requests a second.
    rate: Vec<f64>,
    /// Requests for each second of the server's processor time.
    per_core: Vec<f64>,
    /// Nanoseconds of a request, where there is one at a time.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Cell {
    fn push(&mut self, window: &mut Window) {
        self.rate.push(window.rate());
        self.per_core.push(window.per_core());
        for (share, into) in [(0.5, &mut self.p50), (0.99, &mut self.p99)] {
            into.extend(window.percentile(share));
        }
    }
}

/// Cells of one server on one medium, by load.
type Cells = [Apart<Cell>; LOADS.len()];

/// Runs the bench; progress goes to standard error, rows to `show` at the end.
///
/// Errors: no root, no peers, fewer than two processors, no room for a disk, a server that does not start, or that fails a request.
pub fn run(effort: &Effort, mut show: impl FnMut(&[Row]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    ensure!(std::thread::available_parallelism()?.get() >= 2, "the bench needs two processors");
    let sysroot = Sysroot::ensure()?;
    sysroot.add_packages("bench-disk", &["qemu-utils"])?;
    prefer_this_process();
    let media = Media::make(&sysroot, DISK_LEN)?;
    eprintln!("{}", server::version(&sysroot)?);
    let start = Instant::now();
    let mut cells = <[[Cells; System::ALL.len()]; Medium::ALL.len()]>::default();
    for round in 1..=effort.rounds {
        for (medium, row) in Medium::ALL.into_iter().zip(&mut cells) {
            if !medium.name().contains(&effort.medium) {
                continue;
            }
            for (system, cells) in System::ALL.into_iter().zip(row) {
                let what =
                    format!("round {round} of {}: {}, {}", effort.rounds, medium.name(), system.name());
                let say =
                    |words: String| eprintln!("  [{:5.0} s] {what}: {words}", start.elapsed().as_secs_f64());
                add_stay(&media, system, medium, effort, cells, say).with_context(|| what.clone())?;
            }
        }
    }
    show(&rows(&cells))
}

/// Adds the windows of one stay where they belong; a stay in which the processors moved is repeated.
fn add_stay(
    media: &Media<'_>,
    system: System,
    medium: Medium,
    effort: &Effort,
    cells: &mut Cells,
    say: impl Fn(String),
) -> anyhow::Result<()> {
    let mut before = round_trip_ns()?;
    for _ in 0..MOVES_MAX {
        let mut windows = stay(media, system, medium, effort)?;
        let after = round_trip_ns()?;
        let (from, distance) = (Distance::of(before), Distance::of(after));
        before = after;
        if from != distance {
            say(format!("the processors moved (a line now takes {after:.0} ns): again"));
            continue;
        }
        let mut words = String::new();
        for (index, window) in &mut windows {
            cells[*index].at_mut(distance).push(window);
            words += &format!(" {:.1}", window.rate() / 1e3);
        }
        say(format!("thousand requests a second:{words}; a line goes and comes in {after:.0} ns"));
        return Ok(());
    }
    say("the processors did not rest; nothing counts".to_owned());
    Ok(())
}

/// One window of each load that is wanted, by its number, at a server of its own.
fn stay(
    media: &Media<'_>,
    system: System,
    medium: Medium,
    effort: &Effort,
) -> anyhow::Result<Vec<(usize, Window)>> {
    let server = Server::start(media, system, medium)?;
    let measure = || -> anyhow::Result<Vec<(usize, Window)>> {
        let mut driver = Driver::attach(server.socket(), DISK_LEN, DEEP, 128 * KIB)?;
        if medium.keeps() {
            driver.write_and_read_back()?;
        }
        let mut windows = Vec::new();
        for (index, load) in
            LOADS.into_iter().enumerate().filter(|(_, load)| load.name().contains(&effort.case))
        {
            driver.window(load, WARM_UP, || server.processor_ns())?;
            let window = driver.window(load, effort.window, || server.processor_ns());
            windows.push((index, window.with_context(|| load.name())?));
        }
        Ok(windows)
    };
    crate::switch_bench::ends::on_generator(measure).with_context(|| server.log_tail())
}

/// Ringway's cells against the peer's of the same distance; those that were not measured are left out.
fn rows(cells: &[[Cells; System::ALL.len()]; Medium::ALL.len()]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (medium, [ours, peer]) in Medium::ALL.into_iter().zip(cells) {
        for ((load, ours), peer) in LOADS.into_iter().zip(ours).zip(peer) {
            for distance in Distance::ALL {
                let name = format!("{}: {}{}", medium.name(), load.name(), distance.remark());
                rows.extend(load_rows(load, &name, ours.at(distance), peer.at(distance)));
            }
        }
    }
    rows
}

fn load_rows(load: Load, name: &str, ours: &Cell, peer: &Cell) -> Vec<Row> {
    let row = |what: &str, unit, factor: f64, target, values: fn(&Cell) -> &Vec<f64>| {
        let (ours, peer) = (median(values(ours).clone())?, median(values(peer).clone())?);
        Some(Row::new(format!("{name}, {what}"), ours * factor, peer * factor, unit, target))
    };
    let megabytes = f64::from(load.bytes) / 1e6;
    let rows = match (load.random, load.depth) {
        (true, 1) => [
            row("p50", "us", 1e-3, Some(LATENCY), |cell| &cell.p50),
            row("p99", "us", 1e-3, None, |cell| &cell.p99),
        ],
        (true, _) => [
            row("per core", "kIOPS", 1e-3, Some(PER_CORE), |cell| &cell.per_core),
            row("rate", "kIOPS", 1e-3, None, |cell| &cell.rate),
        ],
        (false, _) => [
            row("per core", "MB/s", megabytes, None, |cell| &cell.per_core),
            row("rate", "MB/s", megabytes, None, |cell| &cell.rate),
        ],
    };
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn cell(figure: f64) -> Cell {
        Cell { rate: vec![figure], per_core: vec![figure], p50: vec![figure], p99: vec![figure] }
    }

    #[test]
    fn a_load_is_compared_by_what_is_promised_of_it() {
        let shallow = load_rows(LOADS[0], "a", &cell(5e3), &cell(10e3));
        assert_eq!((shallow[0].ours, shallow[0].ratio, shallow[0].met), (5.0, 0.5, Some(true)));
        let deep = load_rows(LOADS[4], "a", &cell(2e6), &cell(1e6));
        assert_eq!((deep[0].ours, deep[0].ratio, deep[0].met), (2000.0, 2.0, Some(false)));
        let large = load_rows(LOADS[8], "a", &cell(1e4), &cell(1e4));
        assert_eq!((large[1].ours, large[1].unit, large[1].target), (1310.72, "MB/s", None));
    }

    #[test]
    fn what_was_not_measured_has_no_row() {
        assert!(load_rows(LOADS[0], "a", &cell(1.0), &Cell::default()).is_empty());
    }
}
