//! Two workers against one: what a second processor adds to Ringway's rate.
//!
//! Two pairs of stations send frames of 64 bytes round: a station sends one frame for each that arrives, so each pair keeps
//! the same number in circulation, nothing is lost, and the rate is that of the slower of stations and switch. The stations
//! are the same in both cases; only the pool has one thread or two. A thread drives a pair, or a single station where there
//! are processors enough, and says how much of its time it worked: stations that mostly wait do not hold the switch up.
//! Switch threads have the first processors, the stations' threads the next ones, nobody shares one.

use super::ends::{PATIENCE, SMALL, address, directory, introduce, pin, small_frame};
use super::{Cell, Effort, median};
use crate::process::threads_ns;
use crate::ringway::{Config, Ringway};
use crate::row::{Row, Target};
use crate::station::{HEADER, Pages, Shape, Socket, Station};
use anyhow::{Context, bail, ensure};
use devices::net::Features;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

const CASE: &str = "2 workers against 1";
const PAIRS: usize = 2;
/// Workers of the pool, in each cell.
const WORKERS: [usize; 2] = [1, 2];
/// Frames that each station sends at the beginning.
pub(super) const IN_FLIGHT: u16 = 128;
const SHAPE: Shape = Shape { ring: 512, buffer: 2048, slots: 512, frame: 128, pages: Pages::Ordinary };
/// Frames that a station takes before it sends.
const BURST: u64 = 64;
const STATION_THREAD: &str = "rw-station";
const TARGET: f64 = 1.7;

pub(super) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    if !effort.wants(CASE) || !"Ringway".contains(&effort.system) {
        return Ok(Vec::new());
    }
    let cpus = std::thread::available_parallelism()?.get();
    let needed = WORKERS[1] + PAIRS;
    let counts = cpus >= needed;
    if !counts && !effort.overcommit {
        eprintln!(
            "{CASE}: skipped, because this machine has {cpus} processors and two workers and {PAIRS} threads of stations \
             need {needed}; --overcommit tries it all the same, without a figure"
        );
        return Ok(Vec::new());
    }
    // A thread for each station where the processors suffice.
    let threads = if cpus >= WORKERS[1] + 2 * PAIRS { 2 * PAIRS } else { PAIRS };
    let mut cells = <[Cell; 2]>::default();
    let mut busy = <[Vec<f64>; 2]>::default();
    for round in 1..=effort.rounds {
        for (number, workers) in WORKERS.into_iter().enumerate() {
            let what = format!("round {round} of {}: {workers} of {CASE}", effort.rounds);
            let layout = Layout { workers, threads, cpus };
            let share = layout.measure(effort, &mut cells[number]).with_context(|| what.clone())?;
            busy[number].push(share);
            let so_far = cells[number].so_far(1e6, "Mpps");
            eprintln!(
                "  {what}: {so_far}; the stations' {threads} threads work {:.0} % of the time",
                share * 100.0
            );
        }
    }
    let [Some((one, _)), Some((two, _))] = [0, 1].map(|index: usize| cells[index].figure()) else {
        bail!("no window");
    };
    if !counts {
        eprintln!(
            "{CASE}: runs ({:.2} and {:.2} Mpps), but {cpus} processors for {} threads give no figure",
            two / 1e6,
            one / 1e6,
            WORKERS[1] + threads
        );
        return Ok(Vec::new());
    }
    let [one_busy, two_busy] = busy.map(|shares| median(shares).unwrap_or_default() * 100.0);
    let case = format!("{CASE}, {PAIRS} pairs, 64 B (stations busy {two_busy:.0} and {one_busy:.0} %)");
    Ok(vec![Row::new(case, two / 1e6, one / 1e6, "Mpps", Some(Target::AtLeast(TARGET)))])
}

/// Who runs where.
struct Layout {
    workers: usize,
    threads: usize,
    cpus: usize,
}

impl Layout {
    /// Processor `index` of those needed, round and round where there are too few.
    fn cpu(&self, index: usize) -> u32 {
        (index % self.cpus) as u32
    }

    /// Adds windows to the cell; the share of their time that the stations' threads worked.
    fn measure(&self, effort: &Effort, cell: &mut Cell) -> anyhow::Result<f64> {
        let directory = directory()?;
        let cpus: Vec<String> = (0..self.workers).map(|index| self.cpu(index).to_string()).collect();
        let workers = format!("mode = \"pool\"\nthreads = {}\ncpus = [{}]", self.workers, cpus.join(", "));
        let mut config = Config::new(directory.path(), &workers);
        for port in 0..2 * PAIRS {
            config = config.port(&port.to_string(), &mac_text(address(port)), 1, "");
        }
        let ringway = Ringway::start(config)?;
        let attach = |port: usize| {
            let socket = Socket::Theirs(ringway.socket(&port.to_string()));
            let wanted = Features::EVENT_IDX | Features::INDIRECT_DESC | Features::IN_ORDER;
            Station::attach(&socket, SHAPE, wanted, Features::MRG_RXBUF)
        };
        let mut stations = (0..2 * PAIRS).map(attach).collect::<anyhow::Result<Vec<_>>>()?;
        introduce(&mut stations)?;
        let mut circles: Vec<Circle> = stations.into_iter().enumerate().map(Circle::new).collect();
        let shared = Shared { threads: self.threads, ..Shared::default() };
        let outcome = std::thread::scope(|scope| {
            let mut running = Vec::new();
            let share = circles.len() / self.threads;
            for index in 0..self.threads {
                let group: Vec<Circle> = circles.drain(..share).collect();
                let (cpu, shared) = (self.cpu(self.workers + index), &shared);
                let first = index * share;
                let body = move || {
                    let outcome = pin(cpu).and_then(|()| drive(group, first, shared));
                    // The others wait for nobody who has failed.
                    shared.stop.store(true, Relaxed);
                    outcome
                };
                let thread = std::thread::Builder::new().name(STATION_THREAD.to_owned());
                running.push(thread.spawn_scoped(scope, body)?);
            }
            std::thread::sleep(Duration::from_millis(300));
            let outcome = windows(effort, &ringway, &shared, cell);
            shared.stop.store(true, Relaxed);
            for thread in running {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            outcome
        });
        outcome.with_context(|| ringway.log_tail())?;
        let [busy, all] = [shared.sum(|counters| &counters.busy_ns), shared.sum(|counters| &counters.all_ns)];
        Ok(busy as f64 / all.max(1) as f64)
    }
}

/// Adds windows to the cell: frames that arrived a second, at all stations.
fn windows(effort: &Effort, ringway: &Ringway, shared: &Shared, cell: &mut Cell) -> anyhow::Result<()> {
    let running = || -> anyhow::Result<Vec<u64>> {
        let mut all = threads_ns(ringway.pid(), "rw-worker")?;
        all.extend(threads_ns(std::process::id(), STATION_THREAD)?);
        Ok(all)
    };
    let counted = cell.clean.len() + effort.windows;
    for _ in 0..effort.windows * 4 {
        let (before, start) = ((running()?, shared.sum(|counters| &counters.arrived)), Instant::now());
        std::thread::sleep(effort.window);
        let (after, passed) = ((running()?, shared.sum(|counters| &counters.arrived)), start.elapsed());
        let shares = after.0.iter().zip(&before.0).map(|(after, before)| after.saturating_sub(*before));
        let share = shares.map(|ns| ns as f64 / passed.as_nanos() as f64).fold(1.0, f64::min);
        let rate = (after.1 - before.1) as f64 / passed.as_secs_f64();
        if shared.stop.load(Relaxed) {
            // A station has failed and says why.
            return Ok(());
        }
        ensure!(rate > 1000.0, "no traffic: {rate} frames a second");
        cell.push(share, rate);
        if cell.clean.len() >= counted {
            break;
        }
    }
    Ok(())
}

/// What the threads of the stations tell each other and the bench.
#[derive(Default)]
struct Shared {
    threads: usize,
    stop: AtomicBool,
    /// Threads that send no more.
    quiet: AtomicUsize,
    /// One for each station.
    counters: [Counters; 2 * PAIRS],
}

/// Counts of one station, written by its thread only. Alone in its cache lines.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) arrived: AtomicU64,
    /// Nanoseconds in which it took frames and sent others.
    busy_ns: AtomicU64,
    /// Nanoseconds until it was stopped, its share where several have one thread.
    all_ns: AtomicU64,
}

impl Shared {
    fn sum(&self, of: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| of(counters).load(Relaxed)).sum()
    }
}

/// A station that sends one frame for each that arrives.
pub(super) struct Circle {
    pub(super) station: Station,
    frame: [u8; SMALL],
    expected: [u8; SMALL],
}

/// Drives stations until the bench stops them, then waits until every frame has arrived. `first` is the first one's number.
fn drive(mut group: Vec<Circle>, first: usize, shared: &Shared) -> anyhow::Result<()> {
    for (index, circle) in group.iter_mut().enumerate() {
        circle.send(IN_FLIGHT.into(), &shared.counters[first + index])?;
    }
    let (begin, mut now) = (Instant::now(), Instant::now());
    while !shared.stop.load(Relaxed) {
        for (index, circle) in group.iter_mut().enumerate() {
            let counters = &shared.counters[first + index];
            let arrived = circle.take(counters)?;
            circle.send(arrived, counters)?;
            let end = Instant::now();
            if arrived > 0 {
                add(&counters.busy_ns, (end - now).as_nanos() as u64);
            }
            now = end;
        }
    }
    let all_ns = begin.elapsed().as_nanos() as u64 / group.len().max(1) as u64;
    shared.counters[first..first + group.len()].iter().for_each(|counters| add(&counters.all_ns, all_ns));
    shared.quiet.fetch_add(1, SeqCst);
    let end = Instant::now() + PATIENCE;
    let total = |of: fn(&Counters) -> &AtomicU64| shared.sum(of);
    loop {
        for (index, circle) in group.iter_mut().enumerate() {
            circle.take(&shared.counters[first + index])?;
        }
        let (sent, arrived) = (total(|counters| &counters.sent), total(|counters| &counters.arrived));
        if shared.quiet.load(SeqCst) == shared.threads && sent == arrived {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{sent} frames were sent and {arrived} arrived");
    }
}

impl Circle {
    /// The station at a port, whose partner is at the one next to it.
    pub(super) fn new((port, station): (usize, Station)) -> Self {
        let frame = |from, to| small_frame(from, to, 0);
        Self { station, frame: frame(port, port ^ 1), expected: frame(port ^ 1, port) }
    }

    /// Takes what has arrived, checks it, and posts the buffers again; how many frames.
    pub(super) fn take(&mut self, counters: &Counters) -> anyhow::Result<u64> {
        let mut count = 0;
        while count < BURST {
            let Some(frame) = self.station.receive()? else { break };
            let same = frame.len as usize == SMALL && frame.head[..SMALL] == self.expected;
            ensure!(same, "another frame: {frame:02x?}");
            count += 1;
        }
        if count > 0 {
            self.station.receive_ring().publish()?;
            add(&counters.arrived, count);
        }
        Ok(count)
    }

    pub(super) fn send(&mut self, count: u64, counters: &Counters) -> anyhow::Result<()> {
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            let slot = self.station.slot()?.context("no slot is free")?;
            let bytes = self.station.slot_bytes(slot)?;
            bytes.write(&[0; HEADER]);
            bytes.split_at(HEADER).1.write(&self.frame);
            self.station.send(slot, SMALL as u32)?;
        }
        // Counted before the device can see them: nobody ever counts more arrived than sent.
        add(&counters.sent, count);
        self.station.transmit_ring().publish()
    }
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn processors_are_shared_only_where_there_are_too_few() {
        let layout = Layout { workers: 2, threads: 4, cpus: 16 };
        assert_eq!((0..6).map(|index| layout.cpu(index)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let layout = Layout { workers: 2, threads: 2, cpus: 2 };
        assert_eq!((0..4).map(|index| layout.cpu(index)).collect::<Vec<_>>(), [0, 1, 0, 1]);
    }
}
