//! A switch with two victims and, if wanted, an attacker.

use super::Bench;
use super::storm::{self, Storm};
use crate::dpdk::{self, Counters, Forward, Memory, Testpmd};
use crate::ovs::OpenVswitch;
use crate::process::{Peer, output, thread_ns, wait_until};
use crate::ringway::{Config, Ringway};
use crate::sysroot::temporary_directory;
use anyhow::{Context, ensure};
use rustix::thread::LinkNameSpaceType;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SWITCH_CPU: u32 = 0;
const DRIVERS_CPU: u32 = 1;
/// The victims' addresses.
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
/// Size of the victims' frames, in bytes.
const FRAME_SIZE: usize = 64;
/// Conversations of each victim: few enough for any switch's cache of flows.
const FLOWS: u16 = 64;
/// Share of its processor that a thread must have had for a window to count at once.
const SHARE_MIN: f64 = 0.94;
/// Time between a change and the first window that counts.
pub(super) const SETTLE: Duration = Duration::from_millis(150);

/// A switch under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// All ports with profile `guest`.
    Ringway,
    /// One NORMAL flow.
    OpenVswitch,
    /// veth ports; frames are handed to processor 0 (RPS).
    KernelBridge,
}

impl System {
    pub(super) const ALL: [Self; 3] = [Self::Ringway, Self::OpenVswitch, Self::KernelBridge];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ringway => "Ringway",
            Self::OpenVswitch => "OVS-DPDK NORMAL",
            Self::KernelBridge => "kernel bridge",
        }
    }
}

/// What makes a stage.
pub(super) struct Plan<'p> {
    pub(super) system: System,
    /// Whether there is a third driver.
    pub(super) attacker: bool,
    /// For Ringway: lines of the switch's section, of the attacker's port, and further sections.
    pub(super) switch: &'p str,
    pub(super) third: &'p str,
    pub(super) more: &'p str,
}

/// The victims' frames of a window, and what ran in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Frames of the victims that arrived, a second.
    pub(super) rate: f64,
    /// Frames of the attacker that arrived at victims, a second.
    pub(super) strays: f64,
    /// Frames that the switch took from the attacker, a second.
    pub(super) attack: f64,
    /// Shares of a processor: the switch's thread (0 for the kernel's bridge), the victims', the attacker's.
    pub(super) shares: [f64; 3],
}

/// A running stage. What runs ends with it, the drivers first.
pub(super) struct Stage {
    victims: Testpmd,
    pub(super) storm: Option<Storm>,
    switch: Switch,
    sysroot: crate::sysroot::Sysroot,
    directory: TempDir,
}

enum Switch {
    Ringway(Ringway),
    OpenVswitch(OpenVswitch),
    Kernel(Namespace),
}

impl Stage {
    pub(super) fn start(bench: &Bench, plan: &Plan<'_>) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rw-bridge-").tempdir_in(temporary_directory())?;
        let place = directory.path();
        let sockets: Vec<PathBuf> =
            ["v0", "v1", "evil", "sink"].map(|name| place.join(format!("{name}.sock"))).into();
        let third = mac_text(storm::MAC);
        let sink = mac_text(storm::SINK);
        let (switch, devices, evil) = match plan.system {
            System::KernelBridge => {
                let space = Namespace::new(place, &third, &sink)?;
                let device = |number: usize| {
                    // A frame in a packet socket's ring has 2 KiB; the default ring is deep enough for a burst.
                    format!("net_af_packet{number},iface=e{number}")
                };
                (Switch::Kernel(space), vec![device(0), device(1)], device(2))
            }
            system => {
                let more = if system == System::OpenVswitch { "server=1" } else { "" };
                let macs = [MACS[0], MACS[1], &third];
                let device = |number: usize, index: usize| {
                    dpdk::virtio_user(index, &sockets[number], macs[number], more)
                };
                let switch = if system == System::OpenVswitch {
                    Switch::OpenVswitch(OpenVswitch::start(&bench.sysroot, place, SWITCH_CPU, &sockets, &[])?)
                } else {
                    Switch::Ringway(ringway(place, plan, &third, &sink)?)
                };
                (switch, vec![device(0, 0), device(1, 1)], device(2, 0))
            }
        };
        let _inside = switch.enter()?;
        let mut all = Vec::new();
        for (number, device) in devices.into_iter().enumerate() {
            let frames = place.join(format!("victim{number}.pcap"));
            std::fs::write(&frames, victim_frames(number)?)?;
            all.extend([format!("net_pcap{number},rx_pcap={},infinite_rx=1", frames.display()), device]);
        }
        let mut config = dpdk::Config::new("victims", Forward::Io, all);
        config.cpu = DRIVERS_CPU;
        config.memory = Memory::Huge;
        config.options = vec!["--total-num-mbufs=65536".to_owned(), "--no-flush-rx".to_owned()];
        let victims = Testpmd::start(&bench.sysroot, place, &config)?;
        let storm =
            plan.attacker.then(|| Storm::start(&bench.sysroot, place, evil, DRIVERS_CPU)).transpose()?;
        let sysroot = bench.sysroot.clone();
        drop(_inside);
        let mut stage = Self { victims, storm, switch, sysroot, directory };
        stage.teach()?;
        stage.victims.command("start")?;
        // Addresses are learnt and caches warm before the first window.
        std::thread::sleep(Duration::from_millis(500));
        let first = stage.window(Duration::from_millis(200))?;
        ensure!(first.rate > 1000.0, "no traffic between the victims\n{}", stage.victims.log_tail());
        Ok(stage)
    }

    /// Measures one window.
    pub(super) fn window(&mut self, length: Duration) -> anyhow::Result<Window> {
        let (before, start) = (self.read()?, Instant::now());
        std::thread::sleep(length);
        let (after, seconds) = (self.read()?, start.elapsed().as_secs_f64());
        let each = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let (frames, bytes) = (each(after.frames, before.frames), each(after.bytes, before.bytes));
        // Two sizes, two sums.
        let (small, large) = (FRAME_SIZE as f64, storm::FRAME_SIZE as f64);
        let strays = ((bytes - frames * small) / (large - small)).clamp(0.0, frames);
        let mut shares = [0.0; 3];
        for (share, (new, old)) in shares.iter_mut().zip(after.ns.into_iter().zip(before.ns)) {
            *share = each(new, old) / 1e9;
        }
        Ok(Window { rate: frames - strays, strays, attack: each(after.attack, before.attack), shares })
    }

    /// Measures a window again, up to twice, if switch or victims had less than 94 % of their processors in it; the best one.
    pub(super) fn steady_window(&mut self, length: Duration) -> anyhow::Result<Window> {
        let share = |window: &Window| window.shares[0].min(window.shares[1]);
        let mut best = self.window(length)?;
        for _ in 0..2 {
            if share(&best) >= SHARE_MIN {
                break;
            }
            let next = self.window(length)?;
            if share(&next) > share(&best) {
                best = next;
            }
        }
        Ok(best)
    }

    fn read(&mut self) -> anyhow::Result<Reading> {
        let attack = match &mut self.storm {
            Some(storm) => (storm.sent()?, storm.running_ns()?),
            None => (0, 0),
        };
        let counters = self.victims.counters()?;
        // Each victim's source of frames comes before its driver.
        let drivers = counters.iter().skip(1).step_by(2);
        let sum = |of: fn(&Counters) -> u64| drivers.clone().map(of).sum::<u64>();
        let switch_ns = match &self.switch {
            Switch::Ringway(ringway) => thread_ns(ringway.pid(), "rw-worker")?,
            Switch::OpenVswitch(ovs) => ovs.forwarding_ns()?,
            Switch::Kernel(_) => 0,
        };
        Ok(Reading {
            frames: sum(|port| port.received),
            bytes: sum(|port| port.received_bytes),
            attack: attack.0,
            ns: [switch_ns, self.victims.forwarding_ns()?, attack.1],
        })
    }

    /// Has the switch know the sink.
    fn teach(&self) -> anyhow::Result<()> {
        let sink = mac_text(storm::SINK);
        match &self.switch {
            Switch::Ringway(_) => Ok(()),
            Switch::OpenVswitch(_) => {
                let target = control_socket(self.directory.path())?;
                let mut command = self.sysroot.command("ovs-appctl");
                command.arg("-t").arg(&target).args(["fdb/add", "br0", "vh3", "0", &sink]);
                output(&mut command)?;
                Ok(())
            }
            Switch::Kernel(_) => Ok(()),
        }
    }

    /// Has the kernel's bridge forget what an attack taught it: its table has no bound, and would grow from pass to pass.
    /// The others' are bounded, and Open vSwitch, whose main thread has only what its polling thread leaves of a processor,
    /// takes many seconds for a command under load.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        if let Switch::Kernel(space) = &self.switch {
            let _inside = space.enter()?;
            output(Command::new("ip").args(["link", "set", "br0", "type", "bridge", "fdb_flush"]))?;
        }
        Ok(())
    }

    /// Ringway, if it is the switch.
    pub(super) fn ringway(&self) -> anyhow::Result<&Ringway> {
        match &self.switch {
            Switch::Ringway(ringway) => Ok(ringway),
            _ => anyhow::bail!("another switch"),
        }
    }
}

struct Reading {
    frames: u64,
    bytes: u64,
    attack: u64,
    ns: [u64; 3],
}

impl Switch {
    /// Goes where the drivers must be, until the value ends.
    fn enter(&self) -> anyhow::Result<Option<Inside>> {
        match self {
            Self::Kernel(space) => space.enter().map(Some),
            _ => Ok(None),
        }
    }
}

/// Where the running daemon of Open vSwitch takes orders.
fn control_socket(directory: &Path) -> anyhow::Result<PathBuf> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("ovs-vswitchd") && name.ends_with(".ctl") {
            return Ok(path);
        }
    }
    anyhow::bail!("ovs-vswitchd has no control socket in {}", directory.display())
}

fn ringway(place: &Path, plan: &Plan<'_>, third: &str, sink: &str) -> anyhow::Result<Ringway> {
    let workers = format!("mode = \"pool\"\nthreads = 1\ncpus = [{SWITCH_CPU}]");
    let mut config = Config::new(place, &workers).section(plan.switch);
    let mut text = String::new();
    for (name, more) in [
        ("v0", format!("mac = \"{}\"", MACS[0])),
        ("v1", format!("mac = \"{}\"", MACS[1])),
        ("sink", format!("mac = \"{sink}\"")),
        ("evil", format!("mac = \"{third}\"\n{}", plan.third)),
    ] {
        let socket = config.socket(name);
        writeln!(text, "\n[port.{name}]\nswitch = \"lan\"\nvhost-user = {{ socket = {socket:?} }}\n{more}")?;
    }
    config = config.section(&text).section(plan.more);
    Ringway::start(config)
}

/// What a victim sends, again and again: UDP over IPv4 to the other one, of [`FLOWS`] ports. The format is pcap's.
fn victim_frames(number: usize) -> anyhow::Result<Vec<u8>> {
    let (own, other) = (u8::try_from(number + 1)?, u8::try_from(2 - number)?);
    let mut file = storm::pcap_header();
    for flow in 0..FLOWS {
        let mut frame = Vec::with_capacity(FRAME_SIZE);
        frame.extend([2, 0, 0, 0, 0, other, 2, 0, 0, 0, 0, own]);
        frame.extend([8, 0, 0x45, 0, 0, (FRAME_SIZE - 14) as u8, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([10, 0, 0, own, 10, 0, 0, other]);
        // A host whose bridge shows frames to its packet filter drops those with a wrong checksum (RFC 791).
        let sum: u32 =
            frame[14..34].chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame.extend((1024 + flow).to_be_bytes());
        frame.extend([0, 9, 0, (FRAME_SIZE - 34) as u8, 0, 0]);
        frame.resize(FRAME_SIZE, 0);
        file.extend(storm::record_head(FRAME_SIZE));
        file.extend(frame);
    }
    Ok(file)
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// A network namespace with the kernel's bridge; it ends with this value.
struct Namespace {
    holder: Peer,
}

/// Ports p0 to p3 of br0, whose other ends e0 to e3 the drivers use; softirqs of all go to processor 0.
const BRIDGE: &str = r#"
set -e
mount --make-rprivate / && mount -t sysfs sysfs /sys
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link set lo up
ip link add br0 type bridge mcast_snooping 0
number=0
for mac in $MACS; do
  ip link add p$number type veth peer name e$number address $mac
  ip link set p$number master br0 up
  ip link set e$number up
  echo 1 > /sys/class/net/p$number/queues/rx-0/rps_cpus
  echo 1 > /sys/class/net/e$number/queues/rx-0/rps_cpus
  number=$((number + 1))
done
ip link set br0 up
bridge fdb replace $SINK dev p3 master static
echo ready
exec sleep 86400
"#;

impl Namespace {
    fn new(place: &Path, third: &str, sink: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "sh", "-c", BRIDGE]);
        command.env("MACS", format!("{} {} {third} 02:00:00:00:00:05", MACS[0], MACS[1])).env("SINK", sink);
        let mut holder = Peer::start("namespace", place, &mut command)?;
        let mut ended = false;
        let done = wait_until("the kernel's bridge", Duration::from_secs(10), || {
            ended = !holder.is_running();
            ended || holder.log().contains("ready")
        });
        ensure!(done.is_ok() && !ended, "the kernel's bridge: {}", holder.log());
        Ok(Self { holder })
    }

    fn enter(&self) -> anyhow::Result<Inside> {
        let open = |path: &str| File::open(path).with_context(|| path.to_owned());
        let outside = open("/proc/thread-self/ns/net")?;
        let inside = open(&format!("/proc/{}/ns/net", self.holder.pid()))?;
        go(&inside)?;
        Ok(Inside { outside })
    }
}

/// While it lives, this thread and what it starts is in the namespace.
struct Inside {
    outside: File,
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = go(&self.outside) {
            eprintln!("{error:#}");
        }
    }
}

fn go(namespace: &File) -> anyhow::Result<()> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("go to a network namespace")
}
