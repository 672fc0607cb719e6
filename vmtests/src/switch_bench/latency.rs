//! One frame at a time from guest to guest and back: how long it takes, and what a switch costs that has nothing to do.
//!
//! A transaction is a frame of 64 bytes from the first station to the second, which answers with another; its time is what
//! the first one sees. Both ends are driven by one thread on the generator's processor. In one case it sleeps whenever it
//! waits, on the eventfd that the device calls it by, as a guest with an idle processor does; in the other it looks again and
//! again. Switches have the other processor; Ringway notifies and polls as it always does (one pool worker).
//!
//! The kernel's bridge is measured twice. With the same driver: each guest has a [`Device`] of its own on a tap, as under QEMU
//! without vhost; a kernel need not have vhost-net for that. And with bare taps: the ends read and write the taps themselves,
//! without any virtio. A frame is then at the other tap when the write returns and nobody sleeps, so there is one case only.
//! No guest can be so near to the bridge; it is the bridge's own part.
//!
//! Idle: both guests attached, no frame for a second, then the processor time of all of a system's processes for two seconds.

use super::device::Device;
use super::ends::{self, PATIENCE, SMALL, Stage, directory, introduce, on_generator, small_frame};
use super::taps::Bridge;
use super::{Bench, Effort, Running, SWITCH_CPU, median};
use crate::process::processor_time;
use crate::row::{Row, Target};
use crate::station::{Pages, Shape, Station};
use anyhow::{Context, bail, ensure};
use devices::net::Features;
use rustix::io::Errno;
use std::fs::File;
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape { ring: 256, buffer: 2048, slots: 64, frame: 1514, pages: Pages::Ordinary };
const IDLE: &str = "idle CPU";
/// Time in which processor time of an idle system is counted.
const IDLE_WINDOW: Duration = Duration::from_secs(2);

/// What an end does while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Sleeps until it is called.
    Sleep,
    /// Looks again and again.
    Poll,
}

impl Wait {
    const ALL: [Self; 2] = [Self::Sleep, Self::Poll];

    fn case(self) -> &'static str {
        match self {
            Self::Sleep => "request/response, guests sleep",
            Self::Poll => "request/response, guests poll",
        }
    }
}

/// A system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Ringway,
    OpenVswitch,
    BridgeDevices,
    BridgeTaps,
}

impl System {
    const ALL: [Self; 4] = [Self::Ringway, Self::OpenVswitch, Self::BridgeDevices, Self::BridgeTaps];

    fn name(self) -> &'static str {
        match self {
            Self::Ringway => "Ringway",
            Self::OpenVswitch => "OVS-DPDK NORMAL",
            Self::BridgeDevices => "kernel bridge + taps",
            Self::BridgeTaps => "kernel bridge, bare taps",
        }
    }
}

/// Times of one cell, in nanoseconds: the percentiles of each window.
#[derive(Clone, Debug, Default)]
struct Cell {
    p50: Vec<f64>,
    p99: Vec<f64>,
    count: usize,
}

/// Whether a case is among those wanted.
pub(super) fn wanted(effort: &Effort) -> bool {
    effort.wants(IDLE) || Wait::ALL.into_iter().any(|wait| effort.wants(wait.case()))
}

pub(super) fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let effort = bench.effort;
    let mut cells = <[[Cell; 2]; System::ALL.len()]>::default();
    let mut idle = <[Vec<f64>; 2]>::default();
    let rounds = if wanted(effort) { effort.rounds } else { 0 };
    for round in 1..=rounds {
        for (index, system) in System::ALL.into_iter().enumerate() {
            if !system.name().contains(&effort.system) {
                continue;
            }
            let what = format!("round {round} of {rounds}: {}", system.name());
            let mut setting = Setting::start(bench, system).with_context(|| what.clone())?;
            for (wait, cell) in Wait::ALL.into_iter().zip(&mut cells[index]) {
                let nobody_sleeps = system == System::BridgeTaps && wait == Wait::Sleep;
                if effort.wants(wait.case()) && !nobody_sleeps {
                    setting.transactions(effort, wait, cell).with_context(|| what.clone())?;
                    bench.say(&format!("{what}, {}: {}", wait.case(), cell.so_far()));
                }
            }
            if let Some(shares) = idle.get_mut(index).filter(|_| effort.wants(IDLE)) {
                let share = setting.idle_share()?;
                bench.say(&format!("{what}, {IDLE}: {share:.3} of a processor"));
                shares.push(share);
            }
        }
    }
    let mut rows = Vec::new();
    for (number, wait) in Wait::ALL.into_iter().enumerate() {
        for (index, system) in System::ALL.into_iter().enumerate().skip(1) {
            rows.extend(cell_rows(wait, &cells[0][number], system, &cells[index][number]));
        }
    }
    let [ours, peer] = idle.map(median);
    if let (Some(ours), Some(peer)) = (ours, peer) {
        let case = format!("{IDLE}, two silent guests, against {}", System::OpenVswitch.name());
        rows.push(Row::new(case, ours, peer, "processors", Some(Target::AtMost(0.1))));
    }
    Ok(rows)
}

fn cell_rows(wait: Wait, ours: &Cell, system: System, peer: &Cell) -> Vec<Row> {
    let figures = [("p50", &ours.p50, &peer.p50), ("p99", &ours.p99, &peer.p99)];
    let row = |(name, ours, peer): (&str, &Vec<f64>, &Vec<f64>)| {
        let (ours, peer) = (median(ours.clone())?, median(peer.clone())?);
        let case = format!("{}, {name}, against {}", wait.case(), system.name());
        let target = match (system, name) {
            (System::OpenVswitch, "p50") => Some(Target::AtMost(1.0)),
            (System::BridgeDevices, _) => Some(Target::AtMost(0.7)),
            _ => None,
        };
        Some(Row::new(case, ours / 1e3, peer / 1e3, "us", target))
    };
    figures.into_iter().filter_map(row).collect()
}

impl Cell {
    /// Takes the percentiles of a window.
    fn push(&mut self, mut times: Vec<u32>) {
        times.sort_unstable();
        self.count += times.len();
        for (share, into) in [(0.5, &mut self.p50), (0.99, &mut self.p99)] {
            let index = (times.len() as f64 * share) as usize;
            into.extend(times.get(index).map(|&ns| f64::from(ns)));
        }
    }

    fn so_far(&self) -> String {
        let us = |values: &[f64]| median(values.to_vec()).unwrap_or_default() / 1e3;
        format!("p50 {:.1} us, p99 {:.1} us of {} transactions", us(&self.p50), us(&self.p99), self.count)
    }
}

/// A system with two ends.
struct Setting {
    ends: [End; 2],
    /// Numbers of frames never repeat.
    number: u64,
    _devices: Vec<Device>,
    system: Option<Running>,
    _bridge: Option<Bridge>,
    _directory: tempfile::TempDir,
}

impl Setting {
    fn start(bench: &Bench<'_>, system: System) -> anyhow::Result<Self> {
        let (features, needed) = (Features::EVENT_IDX | Features::INDIRECT_DESC, Features::MRG_RXBUF);
        let stage = match system {
            System::Ringway => Stage::ringway(SHAPE, features, needed)?,
            System::OpenVswitch => Stage::open_vswitch(&bench.sysroot, &[], SHAPE, features, needed)?,
            System::BridgeDevices | System::BridgeTaps => {
                return Self::bridge(bench, system, features | needed);
            }
        };
        let Stage { mut stations, switch, directory } = stage;
        introduce(&mut stations)?;
        let (ends, system) = (stations.map(|station| End::Station(Box::new(station))), Some(switch));
        Ok(Self { ends, number: 0, _devices: Vec::new(), system, _bridge: None, _directory: directory })
    }

    fn bridge(bench: &Bench<'_>, system: System, features: Features) -> anyhow::Result<Self> {
        let directory = directory()?;
        let (bridge, taps) = Bridge::start(&bench.sysroot, directory.path())?;
        let (mut ends, mut devices) = (Vec::new(), Vec::new());
        for tap in taps {
            if system == System::BridgeTaps {
                ends.push(End::Tap(tap));
                continue;
            }
            let mut station = Station::new(SHAPE, features)?;
            devices.push(Device::start(&mut station, tap, SWITCH_CPU)?);
            ends.push(End::Station(Box::new(station)));
        }
        let Ok(ends) = ends.try_into() else { bail!("a bridge without two ends") };
        let bridge = Some(bridge);
        Ok(Self { ends, number: 0, _devices: devices, system: None, _bridge: bridge, _directory: directory })
    }

    /// Adds windows of transactions to the cell.
    fn transactions(&mut self, effort: &Effort, wait: Wait, cell: &mut Cell) -> anyhow::Result<()> {
        on_generator(|| {
            self.window(wait, Duration::from_millis(200))?;
            for _ in 0..effort.windows {
                cell.push(self.window(wait, effort.window)?);
            }
            Ok(())
        })
    }

    /// Transactions for `length`: the time of each, in nanoseconds.
    fn window(&mut self, wait: Wait, length: Duration) -> anyhow::Result<Vec<u32>> {
        let mut times = Vec::with_capacity(1 << 20);
        let (begin, mut now) = (Instant::now(), Instant::now());
        let [first, second] = &mut self.ends;
        while now - begin < length {
            self.number += 2;
            first.send(&small_frame(0, 1, self.number))?;
            second.expect(&small_frame(0, 1, self.number), wait).context("a request")?;
            second.send(&small_frame(1, 0, self.number + 1))?;
            first.expect(&small_frame(1, 0, self.number + 1), wait).context("an answer")?;
            let end = Instant::now();
            times.push(u32::try_from((end - now).as_nanos()).unwrap_or(u32::MAX));
            now = end;
        }
        Ok(times)
    }

    /// Share of a processor that the system uses while nothing is sent.
    fn idle_share(&self) -> anyhow::Result<f64> {
        let system = self.system.as_ref().context("no processes of its own")?;
        let time = || -> anyhow::Result<Duration> {
            let pids = match system {
                Running::Ringway(ringway) => vec![ringway.pid()],
                Running::OpenVswitch(ovs) => ovs.pids().to_vec(),
                Running::Testpmd(testpmd) => vec![testpmd.pid()],
            };
            pids.into_iter().map(processor_time).sum()
        };
        std::thread::sleep(Duration::from_secs(1));
        let (before, start) = (time()?, Instant::now());
        std::thread::sleep(IDLE_WINDOW);
        Ok((time()? - before).as_secs_f64() / start.elapsed().as_secs_f64())
    }
}

/// Where a guest's frames come and go.
enum End {
    Station(Box<Station>),
    Tap(File),
}

impl End {
    fn send(&mut self, frame: &[u8; SMALL]) -> anyhow::Result<()> {
        match self {
            Self::Station(station) => ends::send(station, frame),
            Self::Tap(tap) => {
                ensure!(rustix::io::write(tap, frame)? == SMALL, "a tap took part of a frame");
                Ok(())
            }
        }
    }

    /// Waits for this very frame. Other frames are an error.
    fn expect(&mut self, frame: &[u8; SMALL], wait: Wait) -> anyhow::Result<()> {
        let mut looks = 0u32;
        let begin = Instant::now();
        while !self.take(frame)? {
            looks += 1;
            match (&mut *self, wait) {
                (Self::Station(station), Wait::Sleep) => {
                    ensure!(station.receive_ring().sleep(PATIENCE)?, "no frame came in {PATIENCE:?}");
                }
                (Self::Tap(_), _) | (_, Wait::Poll) => {
                    let late = looks.is_multiple_of(1 << 14) && begin.elapsed() > PATIENCE;
                    ensure!(!late, "no frame came in {PATIENCE:?}");
                    std::hint::spin_loop();
                }
            }
        }
        Ok(())
    }

    /// Takes a frame if there is one, and compares it.
    fn take(&mut self, frame: &[u8; SMALL]) -> anyhow::Result<bool> {
        match self {
            Self::Station(station) => {
                let Some(received) = station.receive()? else { return Ok(false) };
                station.receive_ring().publish()?;
                let head = &received.head[..SMALL];
                ensure!(received.len as usize == SMALL && head == frame, "another frame: {received:02x?}");
            }
            Self::Tap(tap) => {
                let mut bytes = [0; 2 * SMALL];
                let len = match rustix::io::read(tap, &mut bytes) {
                    Ok(len) => len,
                    Err(Errno::AGAIN) => return Ok(false),
                    Err(error) => bail!("read from a tap: {error}"),
                };
                ensure!(bytes[..len] == *frame, "another frame: {:02x?}", &bytes[..len]);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn percentiles_are_those_of_a_window() {
        let mut cell = Cell::default();
        cell.push((1..=200).rev().collect());
        cell.push(vec![7]);
        assert_eq!((cell.p50, cell.p99), (vec![101.0, 7.0], vec![199.0, 7.0]));
        assert_eq!(cell.count, 201);
    }
}
