//! `ringway demo --vm`: two real Linux guests in QEMU, attached to a data plane in this process.
//!
//! [`packages`] gets QEMU, a kernel and the guests' programs; [`initramfs`] packs the guests' file system, whose script
//! (init.sh) does the talking; [`qemu`] runs them and [`machines`] boots several. One guest serves iperf3, the other pings and
//! measures. `ringway bench --vm` boots its guests with the same machines.

mod initramfs;
mod machines;
mod packages;
mod progress;
mod qemu;

use super::DemoOptions;
use super::facts::{drawing, fdb_table, port_table};
use super::narrate::Narrator;
use crate::api::Plane as _;
use crate::api::view::FdbFilter;
use crate::api::view::{FdbView, PortView, Status};
use crate::config::mac_text;
use crate::config::resolved::{
    AGEING_DEFAULT, Attach, Config, ControlConfig, FDB_ENTRIES_DEFAULT, Polling, PortConfig, Profile,
    SocketRole, SwitchConfig, WorkerMode, WorkersConfig,
};
use crate::embedded::place::Place;
use crate::plane::{self, Plane};
use anyhow::{Context, Result, bail, ensure};
pub(crate) use machines::{Booted, Machines};
pub(crate) use qemu::{Accelerator, GuestSpec, QemuGuest};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SWITCH: &str = "lan";
/// Name, last byte of the MAC address, address, peer, role.
const GUESTS: [(&str, u8, &str, &str, &str); 2] =
    [("alice", 1, "10.77.0.1", "10.77.0.2", "client"), ("bob", 2, "10.77.0.2", "10.77.0.1", "server")];
/// Longest time between two of the client's marks: a ping, or two tries of a measurement.
const MEASURE_LIMIT: Duration = Duration::from_secs(60);

/// What the VM demo found out.
#[derive(Debug, Default, Serialize)]
struct VmFacts {
    passed: bool,
    elapsed_ms: u64,
    accelerator: &'static str,
    kernel: String,
    boot_ms: u64,
    ping: Option<PingSummary>,
    iperf3: Vec<Measure>,
    status: Option<Status>,
    ports: Vec<PortView>,
    fdb: Vec<FdbView>,
}

/// The summary of `ping`.
#[derive(Debug, PartialEq, Serialize)]
struct PingSummary {
    sent: u32,
    received: u32,
    min_ms: f64,
    avg_ms: f64,
    max_ms: f64,
}

/// The receiver's line of `iperf3`.
#[derive(Debug, Serialize)]
struct Measure {
    from: &'static str,
    to: &'static str,
    mbit_per_s: f64,
}

/// Runs the VM demo.
pub(super) fn run(options: &DemoOptions) -> Result<()> {
    let narrator = Narrator::new(options.json);
    narrator.text(format_args!("ringway {}: two QEMU guests, one switch\n", env!("CARGO_PKG_VERSION")));
    let columns = GUESTS.map(|(name, last, address, ..)| (name, address.to_owned(), mac_text(mac(last))));
    narrator.text(drawing(&columns, SWITCH));
    let place = Place::new()?;
    let machines = Machines::new(options.cache.as_deref(), place.path(), &narrator)?;
    let plane = plane::start(&config(place.path())).context("starting the data plane")?;
    let mut demo = VmDemo { narrator, machines, plane, facts: VmFacts::default() };
    let outcome = demo.play(place.path());
    demo.plane.stop();
    demo.facts.elapsed_ms = demo.narrator.elapsed_ms();
    demo.facts.passed = outcome.is_ok();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&demo.facts)?);
    }
    outcome?;
    demo.narrator.step("done", "two unmodified Linux guests talked through Ringway");
    Ok(())
}

fn mac(last: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0x77, 1, last]
}

fn socket(place: &Path, name: &str) -> PathBuf {
    place.join(format!("{name}.sock"))
}

fn config(place: &Path) -> Config {
    let (settings, mac_change) = Profile::Open.defaults(true);
    let port = |(name, last, ..): &(&str, u8, &str, &str, &str)| PortConfig {
        name: (*name).into(),
        switch: SWITCH.into(),
        attach: Attach::VhostUser { socket: socket(place, name), role: SocketRole::Server, queue_pairs: 1 },
        mac: Some(mac(*last)),
        mtu: None,
        profile: Profile::Open,
        offloads: true,
        settings: settings.clone(),
        macs: Vec::new(),
        fdb: Vec::new(),
        mac_change: mac_change.clone(),
        qmp: None,
        workers: None,
        call_interval: Duration::ZERO,
    };
    Config {
        control: ControlConfig { socket: place.join("control.sock"), http: None, token_file: None },
        workers: WorkersConfig {
            mode: WorkerMode::Pool { threads: 1 },
            cpus: Vec::new(),
            polling: Polling::Adaptive,
        },
        worker_groups: Vec::new(),
        switches: vec![SwitchConfig {
            name: SWITCH.into(),
            ageing: AGEING_DEFAULT,
            entries_max: FDB_ENTRIES_DEFAULT,
            tagging: None,
            snooping: true,
        }],
        ports: GUESTS.iter().map(port).collect(),
        disks: Vec::new(),
    }
}

struct VmDemo {
    narrator: Narrator,
    machines: Machines,
    plane: Arc<Plane>,
    facts: VmFacts,
}

impl VmDemo {
    fn play(&mut self, place: &Path) -> Result<()> {
        let mut guests = self.boot(place)?;
        // The server speaks no more; the client does everything.
        let client = guests.first_mut().context("no guests")?;
        self.measure(client)?;
        self.look();
        Ok(())
    }

    fn boot(&mut self, place: &Path) -> Result<Vec<QemuGuest>> {
        let specs = GUESTS.map(|(name, last, address, peer, role)| GuestSpec {
            name: name.into(),
            mac: mac_text(mac(last)),
            address: address.into(),
            peer: peer.into(),
            role,
            seconds: 0,
            socket: socket(place, name),
        });
        let booted = self.machines.boot(&specs, &self.narrator)?;
        self.facts.accelerator = booted.accelerator.name();
        self.facts.kernel = booted.kernel;
        self.facts.boot_ms = booted.boot_ms;
        Ok(booted.guests)
    }

    fn measure(&mut self, client: &mut QemuGuest) -> Result<()> {
        let (from, to) = (GUESTS[0].0, GUESTS[1].0);
        let (_, mut mark) = client.next_mark(Instant::now() + MEASURE_LIMIT)?;
        while mark != "done" {
            let spinner = progress::spinner(mark.strip_prefix("begin ").unwrap_or(&mark));
            let (lines, next) = client.next_mark(Instant::now() + MEASURE_LIMIT)?;
            spinner.finish_and_clear();
            let (title, outcome) = match mark.as_str() {
                "begin ping" => (format!("{from} → {to}"), self.note_ping(&lines)),
                "begin iperf3" => (format!("{from} → {to}"), self.note_iperf3(&lines, from, to)),
                "begin iperf3-R" => (format!("{to} → {from}"), self.note_iperf3(&lines, to, from)),
                _ => (from.to_owned(), Ok(())),
            };
            let word = mark.strip_prefix("begin ").unwrap_or(&mark).trim_end_matches("-R");
            self.narrator.step(word, title);
            for line in lines.iter().filter(|line| !line.is_empty()) {
                self.narrator.text(format_args!("{:>24}{line}", ""));
            }
            outcome?;
            mark = next;
        }
        Ok(())
    }

    fn note_ping(&mut self, lines: &[String]) -> Result<()> {
        let summary = ping_summary(lines).context("ping said nothing that can be read")?;
        let lost = summary.sent - summary.received;
        self.facts.ping = Some(summary);
        ensure!(lost == 0, "{lost} pings were lost");
        Ok(())
    }

    fn note_iperf3(&mut self, lines: &[String], from: &'static str, to: &'static str) -> Result<()> {
        let Some(mbit_per_s) = lines.iter().find_map(|line| receiver_rate(line)) else {
            bail!("iperf3 did not finish");
        };
        self.facts.iperf3.push(Measure { from, to, mbit_per_s });
        Ok(())
    }

    fn look(&mut self) {
        self.facts.status = Some(self.plane.status());
        self.facts.ports = self.plane.ports();
        self.facts.fdb = self
            .plane
            .fdb(&FdbFilter { switch: Some(SWITCH.into()), ..FdbFilter::default() })
            .unwrap_or_default();
        self.narrator.text(format_args!("\nPorts\n{}", port_table(&self.facts.ports)));
        self.narrator.text(format_args!("FDB\n{}", fdb_table(&self.facts.fdb)));
    }
}

/// Reads busybox's `10 packets transmitted, 10 packets received, ..` and `round-trip min/avg/max = a/b/c ms`.
fn ping_summary(lines: &[String]) -> Option<PingSummary> {
    let counts = lines.iter().find(|line| line.contains("packets transmitted"))?;
    let mut numbers =
        counts.split(", ").filter_map(|part| part.split_whitespace().next()?.parse::<u32>().ok());
    let (sent, received) = (numbers.next()?, numbers.next()?);
    let times =
        lines.iter().find_map(|line| line.split_once("min/avg/max = ")).map_or("0/0/0 ms", |pair| pair.1);
    let mut times = times.trim_end_matches(" ms").split('/').filter_map(|time| time.parse::<f64>().ok());
    let received = received.min(sent);
    Some(PingSummary { sent, received, min_ms: times.next()?, avg_ms: times.next()?, max_ms: times.next()? })
}

/// The rate in a line like `[  5]   0.00-3.00   sec   410 MBytes  1147 Mbits/sec                  receiver`.
fn receiver_rate(line: &str) -> Option<f64> {
    let before = line.trim_end().strip_suffix("receiver")?.split_once(" Mbits/sec")?.0;
    before.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guests_programs_say_is_read() {
        let lines = [
            "10 packets transmitted, 10 packets received, 0% packet loss",
            "round-trip min/avg/max = 0.5/0.75/2.0 ms",
        ]
        .map(str::to_owned);
        let summary = PingSummary { sent: 10, received: 10, min_ms: 0.5, avg_ms: 0.75, max_ms: 2.0 };
        assert_eq!(ping_summary(&lines), Some(summary));
        let line = "[  5]   0.00-3.01   sec   410 MBytes  1147 Mbits/sec                  receiver";
        assert_eq!(receiver_rate(line), Some(1147.0));
        assert_eq!(receiver_rate(&line.replace("receiver", "sender")), None);
    }
}
