//! The same ports over vfio-user and over vhost-user: what it costs that Ringway is the whole PCI function.
//!
//! Two stations send frames of 64 bytes round as in [`workers`](super::workers), with one thread on the generator's processor,
//! and Ringway has one worker on the other. Only the ports differ: vhost-user; vfio-user with the doorbells of a mapped page;
//! vfio-user with doorbells that are messages. The first two also with a worker that always polls. Rings, memory and features
//! are the same: each feature that is wanted is needed. Beside the ports over vfio-user a thread reads 4 KiB of their
//! configuration space every 50 ms, as a guest's tools may: its processor time is the ports' own cost.
//!
//! A doorbell that is a message is also measured alone: written and answered, next to the write of a kick's eventfd.

use super::ends::{PATIENCE, SMALL, address, directory, introduce, on_generator, window};
use super::workers::{Circle, Counters, IN_FLIGHT, mac_text};
use super::{Cell, Effort, SWITCH_CPU, median};
use crate::process::thread_ns;
use crate::ringway::{Config, Ringway};
use crate::row::{Row, Target};
use crate::station::{CONFIG_LEN, Pages, Registers, Shape, Socket, Station, eventfd};
use anyhow::{Context, ensure};
use devices::net::Features;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CASE: &str = "vfio-user mapped against vhost-user";
const EVENT_CASE: &str = "vfio-user event against vhost-user";
const DOORBELL_CASE: &str = "doorbell, vfio-user event, answered, against an eventfd write";
/// A function's queues have as many entries unless its port says otherwise.
const SHAPE: Shape = Shape { ring: 256, buffer: 2048, slots: 256, frame: 128, pages: Pages::Ordinary };
/// Register traffic beside the frames: bytes, and how often.
const REGISTER_BYTES: usize = 4096;
const REGISTER_PAUSE: Duration = Duration::from_millis(50);
/// Doorbells of one figure.
const DOORBELLS: u32 = 2000;
const TARGET: f64 = 0.95;

/// What is measured together: what the ports speak, and whether the worker always polls. By itself it sleeps as soon as others
/// want its processor; who rings by a mapped page cannot wake it.
const SETTINGS: [(Kind, bool); 5] = [
    (Kind::VhostUser, false),
    (Kind::Mapped, false),
    (Kind::Event, false),
    (Kind::VhostUser, true),
    (Kind::Mapped, true),
];
type Cells = [Cell; SETTINGS.len()];

/// What the ports speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    VhostUser,
    Mapped,
    Event,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::VhostUser => "vhost-user",
            Self::Mapped => "vfio-user mapped",
            Self::Event => "vfio-user event",
        }
    }
}

pub(super) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let wanted = [CASE, EVENT_CASE, DOORBELL_CASE].into_iter().any(|case| effort.wants(case));
    if !wanted || !"Ringway".contains(&effort.system) {
        return Ok(Vec::new());
    }
    ensure!(std::thread::available_parallelism()?.get() >= 2, "the bench needs two processors");
    let mut cells = Cells::default();
    let (mut messages, mut kicks, mut reads) = (Vec::new(), Vec::new(), 0);
    for round in 1..=effort.rounds {
        for ((kind, always), cell) in SETTINGS.into_iter().zip(&mut cells) {
            let polls = if always { ", the worker polls" } else { "" };
            let what = format!("round {round} of {}: 64 B over {}{polls}", effort.rounds, kind.name());
            let mut setting = Setting::start(kind, always).with_context(|| what.clone())?;
            if let (Kind::Event, Some(registers)) = (kind, setting.registers()) {
                messages.push(micros(|| registers.ring())?);
                kicks.push(kick_micros()?);
            }
            reads += setting.rate(effort, cell).with_context(|| what.clone())?;
            eprintln!("  {what}: {}", cell.so_far(1e6, "Mpps"));
        }
    }
    eprintln!("  4 KiB of registers were read {reads} times meanwhile");
    rows(&cells, median(messages), median(kicks))
}

fn rows(cells: &Cells, message: Option<f64>, kick: Option<f64>) -> anyhow::Result<Vec<Row>> {
    let figure = |index: usize| cells[index].figure().map(|(rate, _)| rate / 1e6).context("no window");
    let (vhost, mapped, event) = (figure(0)?, figure(1)?, figure(2)?);
    let (vhost_polled, mapped_polled) = (figure(3)?, figure(4)?);
    let (message, kick) = (message.context("no doorbell")?, kick.context("no kick")?);
    let with_registers = |case| format!("64 B, {case}, registers read beside");
    Ok(vec![
        Row::new(with_registers(CASE), mapped, vhost, "Mpps", Some(Target::AtLeast(TARGET))),
        Row::new(
            format!("{}, the worker polls", with_registers(CASE)),
            mapped_polled,
            vhost_polled,
            "Mpps",
            Some(Target::AtLeast(TARGET)),
        ),
        Row::new(with_registers(EVENT_CASE), event, vhost, "Mpps", None),
        Row::new(DOORBELL_CASE.into(), message, kick, "us", None),
    ])
}

/// A running Ringway with two stations on it, which end first.
struct Setting {
    circles: [Circle; 2],
    ringway: Ringway,
    _directory: TempDir,
}

impl Setting {
    fn start(kind: Kind, always: bool) -> anyhow::Result<Self> {
        let directory = directory()?;
        let mode = if always { "\"sidecore\"\npolling = \"always\"" } else { "\"pool\"" };
        let workers = format!("mode = {mode}\nthreads = 1\ncpus = [{SWITCH_CPU}]");
        let mut config = Config::new(directory.path(), &workers);
        for port in 0..2 {
            let (name, mac) = (port.to_string(), mac_text(address(port)));
            config = match kind {
                Kind::VhostUser => config.port(&name, &mac, 1, ""),
                Kind::Mapped | Kind::Event => {
                    let socket = config.socket(&name);
                    config.section(&function_port(&name, &socket, &mac, kind == Kind::Mapped))
                }
            };
        }
        let ringway = Ringway::start(config)?;
        let wanted = Features::EVENT_IDX | Features::INDIRECT_DESC | Features::IN_ORDER;
        let needed = Features::MRG_RXBUF | wanted;
        let attach = |port: &str| match kind {
            Kind::VhostUser => Station::attach(&Socket::Theirs(ringway.socket(port)), SHAPE, wanted, needed),
            Kind::Mapped | Kind::Event => {
                Station::attach_function(&ringway.socket(port), SHAPE, wanted, needed)
            }
        };
        let stations = (|| anyhow::Ok([attach("0")?, attach("1")?]))();
        let mut stations = stations.with_context(|| ringway.log_tail())?;
        introduce(&mut stations)?;
        let [first, second] = stations;
        let circles = [Circle::new((0, first)), Circle::new((1, second))];
        Ok(Self { circles, ringway, _directory: directory })
    }

    fn registers(&self) -> Option<Registers> {
        self.circles[0].station.registers()
    }

    /// Adds windows to the cell; how often the registers were read meanwhile.
    fn rate(&mut self, effort: &Effort, cell: &mut Cell) -> anyhow::Result<usize> {
        let (registers, stop) = (self.registers(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reader = registers.map(|registers| scope.spawn(|| read_registers(registers, &stop)));
            let rates = on_generator(|| self.windows(effort, cell)).with_context(|| self.state());
            stop.store(true, Relaxed);
            let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<usize>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let reads = reader.map(join).transpose()?.unwrap_or_default();
            rates.map(|()| reads)
        })
    }

    /// What Ringway says of its ports and workers: where frames are that do not arrive.
    fn state(&self) -> String {
        let show = |arguments: &[&str]| match self.ringway.ask(arguments) {
            Ok(value) => value.to_string(),
            Err(error) => format!("{error:#}"),
        };
        let [first, second, status] =
            [&["port", "show", "0"][..], &["port", "show", "1"], &["status"]].map(show);
        format!("{first}\n{second}\n{status}\n{}", self.ringway.log_tail())
    }

    fn windows(&mut self, effort: &Effort, cell: &mut Cell) -> anyhow::Result<()> {
        let pid = self.ringway.pid();
        let (circles, counters) = (&mut self.circles, <[Counters; 2]>::default());
        for (circle, counters) in circles.iter_mut().zip(&counters) {
            circle.send(IN_FLIGHT.into(), counters)?;
        }
        let mut turn = || {
            let mut all = 0;
            for (circle, counters) in circles.iter_mut().zip(&counters) {
                let arrived = circle.take(counters)?;
                circle.send(arrived, counters)?;
                all += arrived;
            }
            anyhow::Ok(all)
        };
        let counted = cell.clean.len() + effort.windows;
        for _ in 0..effort.windows * 4 {
            let (rate, share) = window(|| thread_ns(pid, "rw-worker"), effort.window, &mut turn)?;
            cell.push(share, rate);
            if cell.clean.len() >= counted {
                break;
            }
        }
        settle(circles, &counters)
    }
}

/// Waits until every frame has arrived.
fn settle(circles: &mut [Circle; 2], counters: &[Counters; 2]) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        for (circle, counters) in circles.iter_mut().zip(counters) {
            circle.take(counters)?;
        }
        let sent: u64 = counters.iter().map(|counters| counters.sent.load(Relaxed)).sum();
        let arrived: u64 = counters.iter().map(|counters| counters.arrived.load(Relaxed)).sum();
        if sent == arrived {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{sent} frames of {SMALL} bytes were sent and {arrived} arrived");
    }
}

/// Reads 4 KiB of registers now and then; how often.
fn read_registers(registers: Registers, stop: &AtomicBool) -> anyhow::Result<usize> {
    let mut count = 0;
    while !stop.load(Relaxed) {
        for _ in 0..REGISTER_BYTES / CONFIG_LEN {
            registers.read()?;
        }
        count += 1;
        std::thread::sleep(REGISTER_PAUSE);
    }
    Ok(count)
}

/// Microseconds of the kick that a front-end of vhost-user makes.
fn kick_micros() -> anyhow::Result<f64> {
    let kick = eventfd()?;
    micros(|| Ok(kick.write(1)?))
}

/// Microseconds of one of many turns.
fn micros(turn: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..DOORBELLS {
        turn()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(DOORBELLS))
}

fn function_port(name: &str, socket: &Path, mac: &str, mapped: bool) -> String {
    let doorbells = if mapped { "mapped" } else { "event" };
    format!(
        "\n[port.{name}]\nswitch = \"lan\"\nvfio-user = {{ socket = {socket:?}, doorbells = \"{doorbells}\" }}\n\
         mac = \"{mac}\"\nprofile = \"open\"\n"
    )
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_mapped_ports_have_the_target() {
        let cell = |rate: f64| Cell { clean: vec![rate], disturbed: vec![] };
        let rows = rows(&[4e6, 3.6e6, 2e6, 5e6, 4.9e6].map(cell), Some(20.0), Some(0.5)).unwrap();
        let shown: Vec<_> = rows.iter().map(|row| (row.ratio, row.met)).collect();
        assert_eq!(shown, [(0.9, Some(false)), (0.98, Some(true)), (0.5, None), (40.0, None)]);
        assert!(super::rows(&Cells::default(), Some(1.0), Some(1.0)).is_err());
    }
}
