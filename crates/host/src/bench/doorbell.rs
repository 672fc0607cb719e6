//! `doorbell`: cycles of one write to a doorbell, by port I/O and by MMIO, and of what stands in its place without a guest.
//!
//! A tiny guest ([`guest`]) writes in a loop: to user space, or to an ioeventfd that KVM finds by any value, by this value, or without
//! knowing the length. What the loop takes without the write is taken off. Beside it stand an eventfd as a front-end
//! of vhost-user writes it, posted and answered writes of vfio-user to a served function, and a store to its mapped page
//! ([`own`]). All cases take turns in short runs on one processor; each access is counted. [`module`] says which KVM it is.

mod guest;
mod module;
mod own;

use super::chart::{Drawing, Form, Panel, Series, Table, Verdict, short};
use super::statistics::median;
use super::{Bench, Effort, Rounds, modes};
use anyhow::{Context, Result};
use guest::{DOORBELLS, Guest};
use indicatif::ProgressBar;
use module::KvmModule;
use own::{Own, Way};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Many short rounds: the smallest of many is the one that nothing disturbed.
const ROUNDS: Rounds = Rounds { max: 40, window_min: Duration::from_millis(10) };

/// One run of one case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    /// Of the time stamp counter.
    cycles: u64,
    accesses: u64,
    /// Accesses that ended in user space.
    exits: u64,
    /// What an eventfd counted, or kicks that a worker was woken by.
    events: u64,
}

/// All runs of one case.
#[derive(Clone, Debug, Default, PartialEq)]
struct Runs {
    /// Cycles of an access, of each run.
    cycles: Vec<f64>,
    total: Sample,
}

impl Runs {
    fn add(&mut self, sample: Sample) {
        self.cycles.push(sample.cycles as f64 / sample.accesses.max(1) as f64);
        self.total.accesses += sample.accesses;
        self.total.exits += sample.exits;
        self.total.events += sample.events;
    }

    fn min(&self) -> f64 {
        self.cycles.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// One doorbell.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    way: &'static str,
    #[serde(skip)]
    short: &'static str,
    #[serde(skip)]
    what: &'static str,
    /// Cycles of an access; the guest's without those of its empty loop.
    min_cycles: f64,
    median_cycles: f64,
    runs: usize,
    accesses: u64,
    /// Accesses that ended in user space.
    exits: u64,
    /// What eventfds counted; of writes over vfio-user how often the worker was woken for them.
    events: u64,
}

impl Row {
    fn new(way: &'static str, short: &'static str, what: &'static str, runs: &Runs, empty: &Runs) -> Self {
        let (empty_min, empty_median) =
            if empty.cycles.is_empty() { (0.0, 0.0) } else { (empty.min(), median(&empty.cycles)) };
        let Sample { accesses, exits, events, .. } = runs.total;
        Self {
            way,
            short,
            what,
            min_cycles: runs.min() - empty_min,
            median_cycles: median(&runs.cycles) - empty_median,
            runs: runs.cycles.len(),
            accesses,
            exits,
            events,
        }
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Measured {
    kvm: KvmModule,
    /// Why the guest's rows are missing.
    kvm_missing: Option<String>,
    /// Cycles of the guest's empty loop, for each time round; 0 without a guest.
    empty_loop_cycles: f64,
    rows: Vec<Row>,
}

/// Measures and draws.
pub(super) fn chart(bench: &Bench<'_>) -> Result<Drawing> {
    let mut own = Own::new()?;
    let (guest, kvm_missing) = match Guest::new() {
        Ok(guest) => (Some(guest), None),
        Err(error) => (None, Some(format!("/dev/kvm: {error}"))),
    };
    let cases = Way::ALL.len() + guest.as_ref().map_or(0, |_| 1 + DOORBELLS.len());
    let runs = bench.paced(cases, ROUNDS, |effort, bar| {
        std::thread::scope(|scope| {
            let body = || measure(guest, &mut own, effort, bar);
            // On a thread of its own: only that one is pinned.
            scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    draw(&Measured {
        kvm: KvmModule::here(),
        kvm_missing,
        empty_loop_cycles: runs.empty.cycles.iter().copied().reduce(f64::min).unwrap_or(0.0),
        rows: runs.rows(),
    })
}

/// Runs of all cases.
#[derive(Debug, Default)]
struct All {
    empty: Runs,
    doorbells: [Runs; DOORBELLS.len()],
    own: [Runs; Way::ALL.len()],
}

impl All {
    fn rows(&self) -> Vec<Row> {
        let nothing = Runs::default();
        let guest = DOORBELLS.iter().zip(&self.doorbells).filter(|(_, runs)| !runs.cycles.is_empty());
        let guest = guest
            .map(|(doorbell, runs)| Row::new(doorbell.way, doorbell.short, doorbell.what, runs, &self.empty));
        let own = Way::ALL.iter().zip(&self.own);
        let own = own.map(|(way, runs)| Row::new(way.name(), way.short(), way.what(), runs, &nothing));
        guest.chain(own).collect()
    }
}

fn measure(mut guest: Option<Guest>, own: &mut Own, effort: Effort, bar: &ProgressBar) -> Result<All> {
    pin()?;
    let mut all = All::default();
    for _ in 0..effort.rounds {
        if let Some(guest) = &mut guest {
            runs(effort, &mut all.empty, || guest.run_empty())?;
            bar.inc(1);
            for (number, doorbell) in all.doorbells.iter_mut().enumerate() {
                runs(effort, doorbell, || guest.run_doorbell(number))?;
                bar.inc(1);
            }
        }
        for (way, runs_of) in Way::ALL.into_iter().zip(&mut all.own) {
            runs(effort, runs_of, || own.run(way))?;
            bar.inc(1);
        }
    }
    Ok(all)
}

/// Runs of one case as long as a window is, one at least, after some that only warm up.
fn runs(effort: Effort, into: &mut Runs, mut run: impl FnMut() -> Result<Sample>) -> Result<()> {
    let times = effort.times();
    let warm = Instant::now() + times.warm_up;
    while Instant::now() < warm {
        run()?;
    }
    let end = Instant::now() + times.window;
    loop {
        into.add(run()?);
        if Instant::now() >= end {
            return Ok(());
        }
    }
}

/// Keeps the calling thread on one processor, whose counter is read at both ends of a run.
fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(modes::worker_cpus().pop().unwrap_or(0));
    sched_setaffinity(None, &set).context("keeping the guest on one processor")
}

/// What an eventfd has counted, taken from it.
fn taken(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    // An empty counter cannot be read.
    rustix::io::read(eventfd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

fn draw(measured: &Measured) -> Result<Drawing> {
    let mut table = Table::new(&[
        "doorbell",
        ">cycles, least",
        ">cycles, median",
        ">runs",
        ">accesses",
        ">exits to user space",
        ">events",
    ]);
    for row in &measured.rows {
        table.add([
            row.what.into(),
            cycles_text(row.min_cycles),
            cycles_text(row.median_cycles),
            row.runs.to_string(),
            row.accesses.to_string(),
            row.exits.to_string(),
            row.events.to_string(),
        ]);
    }
    let panel = |title, belongs: fn(&&Row) -> bool| {
        let rows: Vec<&Row> = measured.rows.iter().filter(belongs).collect();
        (!rows.is_empty()).then(|| Panel {
            title,
            x: "doorbell",
            y: "cycles per access, least",
            form: Form::Bars,
            categories: rows.iter().map(|row| row.short.to_owned()).collect(),
            // Less than the empty loop's own noise is nothing.
            series: vec![Series::new("cycles", rows.iter().map(|row| row.min_cycles.max(0.0)))],
        })
    };
    let panels = [
        panel("KVM guest, to user space", |row| row.way.ends_with("-exit")),
        panel("KVM guest, to an ioeventfd", |row| is_ioeventfd(row)),
        panel("Without a guest", |row| Way::ALL.iter().any(|way| way.name() == row.way)),
    ];
    Ok(Drawing {
        verdict: verdict(measured),
        table,
        panels: panels.into_iter().flatten().collect(),
        measurements: serde_json::to_value(measured)?,
    })
}

fn is_ioeventfd(row: &Row) -> bool {
    DOORBELLS.iter().any(|doorbell| doorbell.way == row.way && doorbell.event.is_some())
}

fn cycles_text(cycles: f64) -> String {
    if cycles.abs() < 10.0 { format!("{cycles:.1}") } else { format!("{cycles:.0}") }
}

/// The talk's shape: ports are cheaper than memory, eventfds cheaper than exits, and zero length cheapest in memory.
fn verdict(measured: &Measured) -> Verdict {
    let kvm = measured.kvm.line();
    if let Some(why) = &measured.kvm_missing {
        let what = format!("the bars of KVM are left out, because {why} ({kvm})");
        return Verdict::new(false, &what, "the others are measured without a guest");
    }
    let of = |way: &str| measured.rows.iter().find(|row| row.way == way).map_or(0.0, |row| row.min_cycles);
    let (port, memory, fast) = (of("port-any"), of("mmio-any"), of("mmio-zero"));
    let (port_exit, memory_exit) = (of("port-exit"), of("mmio-exit"));
    let what = format!(
        "an ioeventfd takes {} cycles by port I/O and {} by MMIO, {} with zero length, and an exit to user space {} and {}; published \
         for the talk: 1762, 3609, 1218 of 2271, 5287, 8796; {kvm}",
        short(port),
        short(memory),
        short(fast),
        short(port_exit),
        short(memory_exit),
    );
    let is_shape = port < memory && port_exit < memory_exit && fast < memory && memory < memory_exit;
    let why_not = "not every KVM has a fast way for MMIO of zero length, and where each instruction costs much the rest hardly shows";
    let verdict = Verdict::new(is_shape, &what, why_not);
    match measured.kvm.reservation() {
        Some(reservation) => verdict.with(&reservation),
        None => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(hardware: bool, missing: Option<&str>, cycles: [f64; 8]) -> Measured {
        let mut all = All::default();
        if missing.is_none() {
            all.empty.add(Sample { cycles: 1000, accesses: 500, exits: 0, events: 0 });
            for (runs, cycles) in all.doorbells.iter_mut().zip(cycles) {
                runs.add(Sample { cycles: (cycles as u64 + 2) * 500, accesses: 500, exits: 0, events: 500 });
            }
        }
        for runs in &mut all.own {
            runs.add(Sample { cycles: 70_000, accesses: 100, exits: 0, events: 1 });
        }
        let name = if hardware { "kvm_intel" } else { "kvm_pvm" };
        Measured {
            kvm: KvmModule { name: Some(name.into()), hardware, nested: !hardware },
            kvm_missing: missing.map(str::to_owned),
            empty_loop_cycles: 2.0,
            rows: all.rows(),
        }
    }

    const TALK: [f64; 8] = [5287.0, 8796.0, 1762.0, 1762.0, 1762.0, 3609.0, 3609.0, 1218.0];

    #[test]
    fn the_talks_numbers_are_the_talks_shape() {
        let measured = measured(true, None, TALK);
        let port = measured.rows.iter().find(|row| row.way == "port-any").unwrap();
        assert_eq!((port.min_cycles, port.median_cycles), (1762.0, 1762.0), "without the empty loop");
        let verdict = verdict(&measured);
        assert!(verdict.shows_the_shape, "{}", verdict.sentence);
        for part in ["takes 1762 cycles by port I/O and 3609 by MMIO", "kvm_intel, of the processor"] {
            assert!(verdict.sentence.contains(part), "{}", verdict.sentence);
        }
        assert!(!verdict.sentence.contains("representative"));
    }

    #[test]
    fn what_is_turned_round_is_not_the_shape() {
        for (place, cycles) in [(2, 4000.0), (0, 9000.0), (7, 3700.0), (5, 9000.0)] {
            let mut turned = TALK;
            turned[place] = cycles;
            assert!(!verdict(&measured(true, None, turned)).shows_the_shape, "{place}");
        }
    }

    #[test]
    fn a_software_kvm_and_none_are_said() {
        let software = verdict(&measured(false, None, TALK)).sentence;
        assert!(
            software.contains("kvm_pvm, in software") && software.contains("not representative"),
            "{software}"
        );
        let none = measured(true, Some("/dev/kvm: No such file"), TALK);
        let drawing = draw(&none).unwrap();
        assert!(!drawing.verdict.shows_the_shape);
        assert!(drawing.verdict.sentence.contains("left out, because /dev/kvm: No such file"));
        assert_eq!((drawing.panels.len(), none.rows.len()), (1, Way::ALL.len()));
        assert_eq!(draw(&measured(true, None, TALK)).unwrap().panels.len(), 3);
    }

    #[test]
    fn runs_keep_the_least_and_add_the_counts() {
        let mut runs = Runs::default();
        for cycles in [3000, 1000, 2000] {
            runs.add(Sample { cycles, accesses: 100, exits: 1, events: 99 });
        }
        assert_eq!((runs.min(), median(&runs.cycles)), (10.0, 20.0));
        assert_eq!((runs.total.accesses, runs.total.exits, runs.total.events), (300, 3, 297));
    }
}
