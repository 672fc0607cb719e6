//! `bench bridge`: what many ports, many entries, an attacker and observers cost those who just use the switch.
//!
//! Theory of operation. Two *victims*, ports of one testpmd, send frames to each other as fast as the switch takes them, and
//! count and drop what arrives (a frame's source is a file that DPDK's `net_pcap` repeats from memory, paired with the driver). The switch has processor 0, the victims processor 1. A third driver, the
//! *attacker* ([`storm`]), is a testpmd of its own that sends what we write into a pipe, so at the rate that we choose. Its
//! frames have another size than the victims', so that bytes and frames together say how many of the victims' frames
//! arrived, and how many of the attacker's. All conditions of a part follow each other in short windows while the same
//! processes run, again and again in another order; the ratio of two conditions is the median of the ratios of windows of
//! one pass. So a slow minute of the machine falls on both sides.

mod attack;
mod eyes;
mod scale;
mod stage;
mod storm;

use crate::dpdk::hugepages::Reserved;
use crate::ovs::OpenVswitch;
use crate::row::{Row, Target};
use crate::switch_bench::{median, prefer_this_process};
use crate::sysroot::Sysroot;
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Fresh starts of every system.
    pub rounds: usize,
    /// Passes over all conditions in each.
    pub passes: usize,
    /// Length of a window.
    pub window: Duration,
}

/// The parts of the bench that need peers, by name.
pub const PARTS: [&str; 3] = ["attack", "eyes", "scale"];

/// Runs the parts whose name contains `part`; progress goes to standard error, rows to `show` as soon as a part has them.
///
/// Errors: no root, no peers, not enough processors or memory, a system that does not start or pass frames.
pub fn run(
    effort: Effort,
    part: &str,
    mut show: impl FnMut(&[Row]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let sysroot = Sysroot::ensure()?;
    ensure!(std::thread::available_parallelism()?.get() >= 2, "the bench needs two processors");
    prefer_this_process();
    let _pages = Reserved::new(1300)?;
    eprintln!("{}", OpenVswitch::version(&sysroot)?);
    let bench = Bench { sysroot, effort, start: Instant::now() };
    for name in PARTS.into_iter().filter(|name| name.contains(part)) {
        let rows = match name {
            "attack" => attack::measure(&bench),
            "eyes" => eyes::measure(&bench),
            _ => scale::measure(&bench),
        };
        show(&rows.with_context(|| format!("part {name}"))?)?;
    }
    Ok(())
}

/// What every part gets.
struct Bench {
    sysroot: Sysroot,
    effort: Effort,
    start: Instant,
}

impl Bench {
    fn say(&self, what: &str) {
        eprintln!("  [{:5.0} s] {what}", self.start.elapsed().as_secs_f64());
    }
}

/// Windows of every condition, pass by pass.
#[derive(Clone, Debug, Default)]
struct Series(Vec<f64>);

impl Series {
    fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn median(&self) -> anyhow::Result<f64> {
        median(self.0.clone()).context("a condition without a window")
    }

    /// The median of the ratios of windows of the same pass.
    fn ratio(&self, to: &Self) -> anyhow::Result<f64> {
        let ratios = self.0.iter().zip(&to.0).map(|(ours, peer)| ours / peer).collect();
        median(ratios).context("a condition without a window")
    }
}

/// A row of two conditions in Mpps, with the median of the ratios of windows that belong together.
fn row(case: String, ours: &Series, peer: &Series, target: Option<f64>) -> anyhow::Result<Row> {
    let (ours_median, peer_median) = (ours.median()? / 1e6, peer.median()? / 1e6);
    let target = target.map(Target::AtLeast);
    Ok(Row::with_ratio(case, ours_median, peer_median, "Mpps", ours.ratio(peer)?, target))
}

/// The conditions' numbers in the order of a pass: another one each time, so that none always follows the same.
fn order(count: usize, pass: usize) -> Vec<usize> {
    let turned = (0..count).map(|index| (index + pass) % count);
    if pass.is_multiple_of(2) { turned.collect() } else { turned.rev().collect() }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn ratios_are_those_of_windows_that_belong_together() {
        let (ours, peer) = (Series(vec![1.0, 20.0, 3.0]), Series(vec![2.0, 40.0, 3.0]));
        assert_eq!(ours.ratio(&peer).unwrap(), 0.5);
        assert_eq!(ours.median().unwrap(), 3.0);
        assert!(Series::default().median().is_err());
    }

    #[test]
    fn every_pass_has_every_condition_once() {
        for pass in 0..7 {
            let mut numbers = order(5, pass);
            assert_eq!(numbers.len(), 5);
            numbers.sort_unstable();
            assert_eq!(numbers, [0, 1, 2, 3, 4]);
        }
    }
}
