//! Two stations at a switch, and the processor that they are driven on.

use super::{GENERATOR_CPU, MACS, Running, SWITCH_CPU};
use crate::ovs::OpenVswitch;
use crate::process::own_ns;
use crate::ringway::{Config, Ringway};
use crate::station::{HEADER, Shape, Socket, Station};
use crate::sysroot::{Sysroot, temporary_directory};
use anyhow::{Context, bail, ensure};
use devices::net::Features;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long frames may take before the bench gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// An Ethernet type for local experiments (IEEE 802).
const LOCAL_TYPE: [u8; 2] = [0x88, 0xb5];

/// A running switch with two stations on it, which end first.
pub(super) struct Stage {
    pub(super) stations: [Station; 2],
    pub(super) switch: Running,
    pub(super) directory: TempDir,
}

impl Stage {
    /// Ringway with one pool worker on [`SWITCH_CPU`].
    pub(super) fn ringway(shape: Shape, wanted: Features, needed: Features) -> anyhow::Result<Self> {
        let directory = directory()?;
        let workers = format!("mode = \"pool\"\nthreads = 1\ncpus = [{SWITCH_CPU}]");
        let config =
            Config::new(directory.path(), &workers).port("0", MACS[0], 1, "").port("1", MACS[1], 1, "");
        let ringway = Ringway::start(config)?;
        let sockets = ["0", "1"].map(|port| Socket::Theirs(ringway.socket(port)));
        let stations = attach(&sockets, shape, wanted, needed).with_context(|| ringway.log_tail())?;
        Ok(Self { stations, switch: Running::Ringway(ringway), directory })
    }

    /// Open vSwitch with its polling thread on [`SWITCH_CPU`] and these settings.
    pub(super) fn open_vswitch(
        sysroot: &Sysroot,
        settings: &[&str],
        shape: Shape,
        wanted: Features,
        needed: Features,
    ) -> anyhow::Result<Self> {
        let directory = directory()?;
        let paths = ["0.sock", "1.sock"].map(|name| directory.path().join(name));
        let sockets = [Socket::listen(&paths[0])?, Socket::listen(&paths[1])?];
        let ovs = OpenVswitch::start(sysroot, directory.path(), SWITCH_CPU, &paths, settings)?;
        let stations =
            attach(&sockets, shape, wanted, needed).with_context(|| crate::process::tail(&ovs.log(), 15))?;
        Ok(Self { stations, switch: Running::OpenVswitch(ovs), directory })
    }
}

pub(super) fn directory() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("rw-bench-").tempdir_in(temporary_directory())?)
}

fn attach(
    sockets: &[Socket; 2],
    shape: Shape,
    wanted: Features,
    needed: Features,
) -> anyhow::Result<[Station; 2]> {
    let [first, second] = sockets;
    Ok([Station::attach(first, shape, wanted, needed)?, Station::attach(second, shape, wanted, needed)?])
}

/// The address of the station at a port, as [`MACS`] has it.
pub(super) fn address(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, port as u8 + 1]
}

/// Has the switch learn all stations, pair by pair: each one's frame arrives at the other. Frames that a port does not take
/// yet are lost, so they are sent again.
pub(super) fn introduce(stations: &mut [Station]) -> anyhow::Result<()> {
    for (pair, stations) in stations.chunks_exact_mut(2).enumerate() {
        if let [first, second] = stations {
            greet(first, second, &small_frame(2 * pair, 2 * pair + 1, 0))?;
            greet(second, first, &small_frame(2 * pair + 1, 2 * pair, 0))?;
        }
    }
    // Nothing is left of the greetings when the bench begins.
    let quiet = Instant::now() + Duration::from_millis(100);
    while Instant::now() < quiet {
        for station in stations.iter_mut() {
            while station.receive()?.is_some() {}
            station.receive_ring().publish()?;
        }
    }
    Ok(())
}

fn greet(from: &mut Station, to: &mut Station, greeting: &[u8; SMALL]) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        send(from, greeting)?;
        let again = Instant::now() + Duration::from_millis(50);
        while Instant::now() < again {
            if let Some(frame) = to.receive()? {
                to.receive_ring().publish()?;
                if frame.head[..14] == greeting[..14] {
                    return Ok(());
                }
            }
        }
    }
    bail!("no frame passes from one station to the other in {PATIENCE:?}")
}

/// Length of a small frame, in bytes.
pub(super) const SMALL: usize = 64;

/// A frame of [`SMALL`] bytes from the station at one port to the one at another. It carries `number`.
pub(super) fn small_frame(from: usize, to: usize, number: u64) -> [u8; SMALL] {
    let mut frame = [0x5a; SMALL];
    frame[..6].copy_from_slice(&address(to));
    frame[6..12].copy_from_slice(&address(from));
    frame[12..14].copy_from_slice(&LOCAL_TYPE);
    frame[SMALL - 8..].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Sends one frame with nothing left to the device, and shows it to the device.
pub(super) fn send(station: &mut Station, frame: &[u8]) -> anyhow::Result<()> {
    let slot = station.slot()?.context("no slot is free")?;
    let bytes = station.slot_bytes(slot)?;
    bytes.write(&[0; HEADER]);
    bytes.split_at(HEADER).1.write(frame);
    station.send(slot, frame.len() as u32)?;
    station.transmit_ring().publish()
}

/// Runs `body` in a thread of its own on one processor, and waits for it.
pub(super) fn on_processor<T: Send>(
    cpu: u32,
    body: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let pinned = move || {
            pin(cpu)?;
            body()
        };
        let thread = std::thread::Builder::new().name(format!("rw-cpu{cpu}")).spawn_scoped(scope, pinned)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Keeps the calling thread on one processor.
pub(super) fn pin(cpu: u32) -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu as usize);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("processor {cpu}"))
}

/// Share of its processor from which on a thread must get something done in a window. One that always polls may get none at all for
/// a tenth of a second where many others want its processor.
const SHARE_TO_WORK: f64 = 0.1;

/// Repeats `turn` for `window`. `turn` gives how much it did; it is an error if that is nothing although this thread and the switch's
/// had their processors. The amount for each second, and the smaller of the shares that they had.
pub(super) fn window(
    switch_ns: impl Fn() -> anyhow::Result<u64>,
    length: Duration,
    mut turn: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<(f64, f64)> {
    let (switch_before, own_before, start) = (switch_ns()?, own_ns()?, Instant::now());
    let mut amount = 0;
    while start.elapsed() < length {
        for _ in 0..16 {
            amount += turn()?;
        }
    }
    let passed = start.elapsed();
    let ran = [switch_ns()? - switch_before, own_ns()? - own_before];
    let shares = ran.map(|ns| ns as f64 / passed.as_nanos() as f64);
    let share = shares.into_iter().fold(1.0, f64::min);
    ensure!(
        amount > 0 || share < SHARE_TO_WORK,
        "nothing arrived in {passed:?}, of which the switch ran {:.0} % and we {:.0} %",
        shares[0] * 100.0,
        shares[1] * 100.0
    );
    Ok((amount as f64 / passed.as_secs_f64(), share))
}

/// [`GENERATOR_CPU`] is where stations are driven.
pub(crate) fn on_generator<T: Send>(body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    on_processor(GENERATOR_CPU, body)
}
