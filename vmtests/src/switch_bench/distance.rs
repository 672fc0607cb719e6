//! How far two processors are from each other: what a cache line's way there and back costs.
//!
//! A switch and its guests meet in cache lines, so this decides what a small frame costs. On a virtual machine it changes while
//! it runs: the host moves virtual processors between cores that share a cache and cores that do not, for minutes at a time.
//! Figures from the one time say nothing next to figures from the other, so each is kept with its distance.

use super::{GENERATOR_CPU, SWITCH_CPU, median};
use anyhow::Context;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};
use std::thread;
use std::time::Instant;

/// From here on, in nanoseconds, two processors do not share a cache. Those that do need 50 to 110.
const FAR_NS: f64 = 160.0;
/// Ways there and back that are timed at once: few, so that most batches are not interrupted.
const BATCH: u32 = 500;
const BATCHES: usize = 41;
/// What ends the other thread.
const END: u32 = u32::MAX;

/// Whether two processors share a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    Near,
    Far,
}

impl Distance {
    pub(crate) const ALL: [Self; 2] = [Self::Near, Self::Far];

    /// That of a way there and back in `ns`.
    pub(crate) fn of(ns: f64) -> Self {
        if ns < FAR_NS { Self::Near } else { Self::Far }
    }

    /// What a row's name says of it.
    pub(crate) fn remark(self) -> &'static str {
        match self {
            Self::Near => "",
            Self::Far => ", processors far apart",
        }
    }
}

/// One value for each distance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apart<T>([T; Distance::ALL.len()]);

impl<T> Apart<T> {
    pub(crate) fn at(&self, distance: Distance) -> &T {
        &self.0[distance as usize]
    }

    pub(crate) fn at_mut(&mut self, distance: Distance) -> &mut T {
        &mut self.0[distance as usize]
    }
}

/// A line's way from the switch's processor to the generator's and back, in nanoseconds: the median of short batches.
///
/// # Errors
/// The kernel's: a processor is not ours.
pub(crate) fn round_trip_ns() -> anyhow::Result<f64> {
    let line = Line::default();
    thread::scope(|scope| {
        let there = scope.spawn(|| answer(&line));
        let here = scope.spawn(|| ask(&line));
        let times = here.join().map_err(|_| anyhow::anyhow!("the asking thread had panicked"))?;
        there.join().map_err(|_| anyhow::anyhow!("the answering thread had panicked"))??;
        median(times?).context("no batch was timed")
    })
}

/// A cache line of its own, and its neighbour.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU32);

fn pin(cpu: u32) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).with_context(|| format!("processor {cpu}"))
}

/// Nanoseconds of one way there and back, for each batch.
fn ask(line: &Line) -> anyhow::Result<Vec<f64>> {
    let pinned = pin(SWITCH_CPU);
    let batch = |_| {
        let start = Instant::now();
        for _ in 0..BATCH {
            line.0.store(1, Release);
            while line.0.load(Acquire) == 1 {
                spin_loop();
            }
        }
        start.elapsed().as_nanos() as f64 / f64::from(BATCH)
    };
    // Who could not be pinned may wait for its processor, but the other one is to end.
    let times = pinned.map(|()| (0..BATCHES).map(batch).collect());
    while line.0.load(Acquire) == 1 {
        spin_loop();
    }
    line.0.store(END, Release);
    times
}

/// Takes the line and gives it back, until it says that this is the end.
fn answer(line: &Line) -> anyhow::Result<()> {
    let pinned = pin(GENERATOR_CPU);
    loop {
        match line.0.load(Acquire) {
            0 => spin_loop(),
            END => return pinned,
            _ => line.0.store(0, Release),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_line_takes_its_time() {
        let ns = round_trip_ns().unwrap();
        assert!((5.0..1e6).contains(&ns), "{ns}");
    }

    #[test]
    fn figures_are_kept_apart() {
        let mut apart = Apart::<Vec<u32>>::default();
        apart.at_mut(Distance::of(53.0)).push(17);
        apart.at_mut(Distance::of(340.0)).push(7);
        assert_eq!((apart.at(Distance::Near), apart.at(Distance::Far)), (&vec![17], &vec![7]));
    }
}
