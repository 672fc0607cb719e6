//! DPDK's `testpmd`: a second virtio driver implementation (`net_virtio_user`) and a second back-end (`net_vhost`).
//!
//! Theory of operation. testpmd reads commands from its standard input and answers between two prompts. Its main thread
//! and its one forwarding thread share a processor. A *closed loop* sends a number of bursts once and forwards whatever
//! comes back, so nothing is lost and the rate is that of the slowest part. Each process has a file prefix of its own and
//! one file for all its memory, since a virtio-user driver can pass only few file descriptors.

pub mod hugepages;

use crate::process::{Peer, tail};
use crate::sysroot::Sysroot;
use anyhow::{Context, bail};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Time in which testpmd starts, or answers a command.
const LIMIT: Duration = Duration::from_secs(30);

/// Names the files of each process of a run differently.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What testpmd does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Sends it on the other port as it is.
    Io,
    /// Sends it on the other port with new addresses.
    Mac,
    /// Counts and frees it.
    ReceiveOnly,
    /// Makes frames and frees what comes.
    TransmitOnly,
}

impl Forward {
    fn word(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Mac => "mac",
            Self::ReceiveOnly => "rxonly",
            Self::TransmitOnly => "txonly",
        }
    }
}

/// What backs the memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary pages in a memfd.
    Ordinary,
    /// Huge pages, reserved by [`hugepages::Reserved`].
    Huge,
}

/// What makes one testpmd.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names its log.
    pub name: String,
    /// The processor that it is pinned to.
    pub cpu: u32,
    /// Devices, as `--vdev` has them.
    pub devices: Vec<String>,
    /// What it does with frames.
    pub forward: Forward,
    /// What backs its memory.
    pub memory: Memory,
    /// Further arguments of DPDK itself.
    pub eal: Vec<String>,
    /// Further arguments of testpmd.
    pub options: Vec<String>,
}

impl Config {
    /// A testpmd on processor 1 with `devices`, on ordinary memory.
    pub fn new(name: &str, forward: Forward, devices: Vec<String>) -> Self {
        let name = name.to_owned();
        Self {
            name,
            cpu: 1,
            devices,
            forward,
            memory: Memory::Ordinary,
            eal: Vec::new(),
            options: Vec::new(),
        }
    }
}

/// A `net_virtio_user` device: a driver on the front-end's side of `socket`. `more` is further options, such as
/// `packed_vq=1`.
pub fn virtio_user(index: usize, socket: &Path, mac: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!("net_virtio_user{index},path={},mac={mac},queue_size=1024{comma}{more}", socket.display())
}

/// A `net_vhost` device: a back-end that listens on `socket`.
pub fn vhost(index: usize, socket: &Path) -> String {
    format!("net_vhost{index},iface={},queues=1", socket.display())
}

/// Counters of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames that the device refused to take.
    pub send_errors: u64,
}

/// A running testpmd.
#[derive(Debug)]
pub struct Testpmd {
    peer: Peer,
    seen: usize,
}

impl Testpmd {
    /// Starts it and waits for its prompt.
    pub fn start(sysroot: &Sysroot, directory: &Path, config: &Config) -> anyhow::Result<Self> {
        let mut command = sysroot.command("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--no-pci", "--iova-mode=va", "--no-telemetry"]);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        command.arg(format!("--file-prefix=rw{}n{number}", std::process::id()));
        command.args(["--lcores", &format!("0@{0},1@{0}", config.cpu)]);
        match config.memory {
            Memory::Ordinary => command.args(["--no-huge", "-m", "192"]),
            Memory::Huge => command.args(["--huge-dir=/hugepages", "-m", "512", "--single-file-segments"]),
        };
        command.args(&config.eal);
        for device in &config.devices {
            command.args(["--vdev", device]);
        }
        command.args(["--", "-i", "--nb-cores=1", "--no-lsc-interrupt", "--txd=1024", "--rxd=1024"]);
        command.arg(format!("--forward-mode={}", config.forward.word()));
        if config.memory == Memory::Ordinary {
            command.arg("--total-num-mbufs=16384");
        }
        command.args(&config.options).stdin(Stdio::piped());
        let peer = Peer::start(&config.name, directory, &mut command)?;
        let mut testpmd = Self { peer, seen: 0 };
        testpmd.prompt().with_context(|| format!("start testpmd {}", config.name))?;
        Ok(testpmd)
    }

    /// Runs one command of testpmd; what it printed.
    pub fn command(&mut self, line: &str) -> anyhow::Result<String> {
        let stdin = self.peer.stdin().context("testpmd's input")?;
        stdin.write_all(format!("{line}\n").as_bytes()).context("testpmd's input")?;
        self.prompt().with_context(|| format!("testpmd: {line}"))
    }

    /// Counters of every port, in their order.
    pub fn counters(&mut self) -> anyhow::Result<Vec<Counters>> {
        Ok(parse_counters(&self.command("show port stats all")?))
    }

    /// Frames that all ports received per second, over `window`.
    pub fn receive_rate(&mut self, window: Duration) -> anyhow::Result<f64> {
        let total = |counters: Vec<Counters>| counters.iter().map(|port| port.received).sum::<u64>();
        let (before, start) = (total(self.counters()?), Instant::now());
        std::thread::sleep(window);
        let (after, seconds) = (total(self.counters()?), start.elapsed().as_secs_f64());
        Ok(after.saturating_sub(before) as f64 / seconds)
    }

    /// Nanoseconds that the forwarding thread has run, by the kernel's account.
    pub fn forwarding_ns(&self) -> anyhow::Result<u64> {
        crate::process::thread_ns(self.peer.pid(), "dpdk-worker")
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.peer.pid()
    }

    /// The last lines that it printed.
    pub fn log_tail(&self) -> String {
        tail(&self.peer.log(), 25)
    }

    /// Stops forwarding and ends the process in good order.
    pub fn quit(mut self) -> anyhow::Result<()> {
        self.command("stop")?;
        if let Some(stdin) = self.peer.stdin() {
            stdin.write_all(b"quit\n")?;
        }
        self.peer.wait(LIMIT)?;
        Ok(())
    }

    /// Waits for the next prompt; what was printed before it.
    fn prompt(&mut self) -> anyhow::Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let log = self.peer.log();
            let fresh = log.get(self.seen..).unwrap_or_default();
            if fresh.trim_end().ends_with("testpmd>") {
                let text = fresh.to_owned();
                self.seen = log.len();
                return Ok(text);
            }
            if !self.peer.is_running() || Instant::now() > end {
                bail!("no prompt:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The counters in the output of `show port stats all`.
fn parse_counters(text: &str) -> Vec<Counters> {
    let mut ports: Vec<Counters> = Vec::new();
    for line in text.lines() {
        if line.contains("NIC statistics for port") {
            ports.push(Counters::default());
        }
        let Some(port) = ports.last_mut() else { continue };
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[1].parse() else { continue };
            match pair[0] {
                "RX-packets:" => port.received = number,
                "RX-bytes:" => port.received_bytes = number,
                "TX-packets:" => port.sent = number,
                "TX-errors:" => port.send_errors = number,
                _ => {}
            }
        }
    }
    ports
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn reads_the_statistics_of_every_port() {
        let text = "show port stats all\n\
            ######################## NIC statistics for port 0  ########################\n\
            RX-packets: 12         RX-missed: 0          RX-bytes:  768\n\
            RX-errors: 0\n  TX-packets: 13         TX-errors: 1          TX-bytes:  832\n\
            ######################## NIC statistics for port 1  ########################\n\
            RX-packets: 7          RX-missed: 0          RX-bytes:  448\n testpmd>";
        let ports = parse_counters(text);
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[0], Counters { received: 12, received_bytes: 768, sent: 13, send_errors: 1 });
        assert_eq!(ports[1].received, 7);
    }

    #[test]
    fn a_device_names_its_socket_and_address() {
        let device = virtio_user(1, Path::new("/tmp/a.sock"), "02:00:00:00:00:01", "packed_vq=1");
        assert_eq!(
            device,
            "net_virtio_user1,path=/tmp/a.sock,mac=02:00:00:00:00:01,queue_size=1024,packed_vq=1"
        );
    }
}
