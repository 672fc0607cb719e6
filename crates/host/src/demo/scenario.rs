//! What happens in the embedded demo, in order: attach, resolve, ping, two TCP streams, a broadcast, a look at the
//! switch. Every step adds to the facts and is told as it happens; a step that fails is a failure of the demo, and
//! the rest still runs where it can.

use super::DemoOptions;
use super::facts::{
    BroadcastFact, Facts, GuestFact, PingFact, ResolveFact, StreamFact, drawing, fdb_table, port_table,
};
use super::guest::{Guest, Identity};
use super::narrate::Narrator;
use super::task::{Listen, Ping, PingReport, ReceiveStream, SendStream, Shout};
use crate::api::Plane as _;
use crate::api::view::FdbFilter;
use crate::config::mac_text;
use crate::config::resolved::{
    AGEING_DEFAULT, Attach, Config, ControlConfig, FDB_ENTRIES_DEFAULT, Polling, PortConfig, Profile,
    SocketRole, SwitchConfig, WorkerMode, WorkersConfig,
};
use crate::embedded::place::Place;
use crate::plane::{self, Plane};
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const SWITCH: &str = "lan";
const GUESTS: [Identity; 3] = [
    Identity { name: "alice", mac: [0x52, 0x54, 0, 0x77, 0, 1], address: Ipv4Addr::new(10, 77, 0, 1) },
    Identity { name: "bob", mac: [0x52, 0x54, 0, 0x77, 0, 2], address: Ipv4Addr::new(10, 77, 0, 2) },
    Identity { name: "carol", mac: [0x52, 0x54, 0, 0x77, 0, 3], address: Ipv4Addr::new(10, 77, 0, 3) },
];
const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;
/// Guests whose port learns addresses; the others' ports are locked to the address of the configuration.
const OPEN: [usize; 1] = [CAROL];

const PING_COUNT: u16 = 20;
/// A stream ends at this many bytes or after this time, whichever is first.
const STREAM_LIMITS: (u64, Duration) = (512 << 20, Duration::from_millis(1500));
/// Longest wait for any one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(8);
const STREAM_PORT: u16 = 5001;
const SHOUT_PORT: u16 = 5002;
const SHOUT_TEXT: &str = "hello, everyone on this switch";

/// Runs the embedded demo.
pub(super) fn run(options: &DemoOptions) -> Result<()> {
    let narrator = Narrator::new(options.json);
    let demo = perform(narrator, STREAM_LIMITS)?;
    demo.finish(options.json)
}

fn perform(narrator: Narrator, stream_limits: (u64, Duration)) -> Result<Demo> {
    let place = Place::new()?;
    let config = config(place.path());
    narrator
        .text(format_args!("ringway {}: three guests, one switch, one process\n", env!("CARGO_PKG_VERSION")));
    let columns = GUESTS.map(|guest| (guest.name, guest.address.to_string(), mac_text(guest.mac)));
    narrator.text(drawing(&columns, SWITCH));

    let plane = plane::start(&config).context("starting the data plane")?;
    let mut demo = Demo { narrator, plane, stream_limits, guests: Vec::new(), facts: Facts::default() };
    let outcome = demo.play(place.path());
    if let Err(fault) = outcome {
        demo.facts.failures.push(format!("{fault:#}"));
    }
    demo.part();
    demo.facts.elapsed_ms = demo.narrator.elapsed_ms();
    demo.facts.passed = demo.facts.failures.is_empty();
    Ok(demo)
}

/// One switch, a vhost-user port for each guest, and workers as many as there are CPUs, at most two.
fn config(place: &Path) -> Config {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let port = |(index, guest): (usize, &Identity)| {
        let profile = if OPEN.contains(&index) { Profile::Open } else { Profile::Guest };
        let (settings, mac_change) = profile.defaults(true);
        PortConfig {
            name: guest.name.into(),
            switch: SWITCH.into(),
            attach: Attach::VhostUser {
                socket: socket(place, guest),
                role: SocketRole::Server,
                queue_pairs: 1,
            },
            mac: Some(guest.mac),
            mtu: None,
            profile,
            offloads: true,
            settings,
            macs: Vec::new(),
            fdb: Vec::new(),
            mac_change,
            qmp: None,
            workers: None,
            call_interval: Duration::ZERO,
        }
    };
    Config {
        control: ControlConfig { socket: place.join("control.sock"), http: None, token_file: None },
        workers: WorkersConfig {
            mode: WorkerMode::Pool { threads: cpus.min(2) },
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
        ports: GUESTS.iter().enumerate().map(port).collect(),
        disks: Vec::new(),
    }
}

fn socket(place: &Path, guest: &Identity) -> std::path::PathBuf {
    place.join(format!("{}.sock", guest.name))
}

struct Demo {
    narrator: Narrator,
    plane: Arc<Plane>,
    stream_limits: (u64, Duration),
    guests: Vec<Guest>,
    facts: Facts,
}

impl Demo {
    fn play(&mut self, place: &Path) -> Result<()> {
        self.attach(place)?;
        // Each asks once: the guests' stack waits a second between ARP questions.
        for (from, to) in [(ALICE, BOB), (BOB, CAROL), (CAROL, ALICE)] {
            self.resolve(from, to)?;
        }
        for (from, to) in [(ALICE, BOB), (BOB, CAROL), (CAROL, ALICE)] {
            self.ping(from, to)?;
        }
        for (from, to) in [(ALICE, BOB), (BOB, ALICE)] {
            self.stream(from, to)?;
        }
        self.broadcast(CAROL)?;
        self.look();
        Ok(())
    }

    fn attach(&mut self, place: &Path) -> Result<()> {
        let status = self.plane.status();
        let workers: Vec<&str> = status.workers.iter().map(|worker| worker.name.as_str()).collect();
        let ports = self.plane.ports().len();
        self.narrator.step("plane", format_args!("{ports} ports listen; workers {}", workers.join(", ")));
        for identity in GUESTS {
            self.guests.push(Guest::start(identity, &socket(place, &identity))?);
            let port = self.plane.port(identity.name).context("the port is not shown")?;
            let queues = port.queues.iter().map(|queue| format!("{} {}", queue.layout, queue.size));
            let (state, queues) = (port.state.as_str(), queues.collect::<Vec<_>>().join(", "));
            self.narrator.step("attach", format_args!("{}: {state}, rings {queues}", identity.name));
        }
        if let Some(port) = self.plane.port(GUESTS[ALICE].name) {
            let names = port.features.acknowledged.iter().map(|name| short_name(name)).collect::<Vec<_>>();
            self.narrator.step("agreed", names.join(" "));
        }
        Ok(())
    }

    fn resolve(&mut self, from: usize, to: usize) -> Result<()> {
        let (asker, target) = (GUESTS[from], GUESTS[to]);
        let report = self.echo(from, to, 1)?;
        self.check(report.lost == 0, || format!("{} does not answer {}", target.name, asker.name));
        let Some(resolved) = self.guests[from].resolved(target.address)? else {
            bail!("{} could not resolve {}", asker.name, target.address);
        };
        let mac = mac_text(resolved.mac);
        self.narrator.step(
            "resolve",
            format_args!("{}: who has {}? {mac}, in {} µs", asker.name, target.address, resolved.micros),
        );
        self.check(resolved.mac == target.mac, || format!("{} resolved to {mac}", target.name));
        let address = target.address.to_string();
        self.facts.resolved.push(ResolveFact { from: asker.name, address, mac, micros: resolved.micros });
        Ok(())
    }

    fn ping(&mut self, from: usize, to: usize) -> Result<()> {
        let report = self.echo(from, to, PING_COUNT)?;
        let fact = PingFact::new(GUESTS[from].name, GUESTS[to].name, &report);
        self.narrator.step(
            "ping",
            format_args!(
                "{} → {}: {} of {PING_COUNT} answered, round trip min/avg/max {:.0}/{:.0}/{:.0} µs",
                fact.from, fact.to, fact.answered, fact.min_us, fact.avg_us, fact.max_us
            ),
        );
        self.check(report.lost == 0, || format!("{} of {PING_COUNT} pings lost", report.lost));
        self.facts.pings.push(fact);
        Ok(())
    }

    fn echo(&self, from: usize, to: usize, count: u16) -> Result<PingReport> {
        let (report, answer) = mpsc::channel();
        self.guests[from].run(Ping::new(GUESTS[to].address, count, report))?;
        let (from, to) = (GUESTS[from].name, GUESTS[to].name);
        answer.recv_timeout(STEP_TIMEOUT * 2).with_context(|| format!("{from} pinging {to}"))
    }

    fn stream(&mut self, from: usize, to: usize) -> Result<()> {
        let (sender, receiver) = (GUESTS[from], GUESTS[to]);
        let what = || format!("stream from {} to {}", sender.name, receiver.name);
        let (listening, ready) = mpsc::channel();
        let (received, arrival) = mpsc::channel();
        self.guests[to].run(ReceiveStream::new(STREAM_PORT, listening, received))?;
        ready.recv_timeout(STEP_TIMEOUT).with_context(what)?;
        let (sent, departure) = mpsc::channel();
        let target = (receiver.address, STREAM_PORT);
        self.guests[from].run(SendStream::new(target, 40_000 + from as u16, self.stream_limits, sent))?;
        let timeout = self.stream_limits.1 + STEP_TIMEOUT;
        let report = arrival.recv_timeout(timeout).with_context(what)?.with_context(what)?;
        let sent = departure.recv_timeout(STEP_TIMEOUT).with_context(what)?.with_context(what)?;
        let fact = StreamFact::new(sender.name, receiver.name, sent, &report);
        let right = sent == report.bytes && report.mismatches == 0;
        self.narrator.step(
            "tcp",
            format_args!(
                "{} → {}: {:.0} MB in {} ms, {:.0} Mb/s, {}",
                fact.from,
                fact.to,
                report.bytes as f64 / 1e6,
                fact.elapsed_ms,
                fact.mbit_per_s,
                if right { "every byte right" } else { "WRONG" },
            ),
        );
        self.check(right, || format!("{}: {sent} bytes sent, {report:?}", what()));
        self.facts.streams.push(fact);
        Ok(())
    }

    fn broadcast(&mut self, from: usize) -> Result<()> {
        let others: Vec<usize> = (0..GUESTS.len()).filter(|index| *index != from).collect();
        let (listening, ready) = mpsc::channel();
        let mut answers = Vec::new();
        for &index in &others {
            let (report, heard) = mpsc::channel();
            self.guests[index].run(Listen::new(SHOUT_PORT, SHOUT_TEXT, listening.clone(), report))?;
            ready.recv_timeout(STEP_TIMEOUT).context("waiting for a listener")?;
            answers.push((index, heard));
        }
        self.guests[from].run(Shout { port: SHOUT_PORT, text: SHOUT_TEXT })?;
        let mut seen_by = Vec::new();
        for (index, heard) in answers {
            let sender = heard.recv_timeout(STEP_TIMEOUT).context("waiting for the broadcast")?;
            if sender == Some(GUESTS[from].address) {
                seen_by.push(GUESTS[index].name);
            }
        }
        let name = GUESTS[from].name;
        self.narrator.step("broadcast", format_args!("{name} to all: heard by {}", seen_by.join(" and ")));
        self.check(seen_by.len() == others.len(), || format!("broadcast heard by {seen_by:?} only"));
        self.facts.broadcast = Some(BroadcastFact { from: name, seen_by });
        Ok(())
    }

    /// Reads the switch as the control API does and checks what must be there.
    fn look(&mut self) {
        self.facts.status = Some(self.plane.status());
        self.facts.ports = self.plane.ports();
        self.facts.fdb = self
            .plane
            .fdb(&FdbFilter { switch: Some(SWITCH.into()), ..FdbFilter::default() })
            .unwrap_or_default();
        self.narrator.text(format_args!("\nPorts\n{}", port_table(&self.facts.ports)));
        self.narrator.text(format_args!("FDB\n{}", fdb_table(&self.facts.fdb)));
        for guest in GUESTS {
            let mac = mac_text(guest.mac);
            let right = self.facts.fdb.iter().any(|entry| entry.mac == mac && entry.port == guest.name);
            self.check(right, || format!("the FDB does not have {mac} behind {}", guest.name));
        }
    }

    /// Detaches the guests and notes what their drivers counted.
    fn part(&mut self) {
        for guest in std::mem::take(&mut self.guests) {
            let identity = guest.identity;
            match guest.stop() {
                Ok(farewell) => {
                    let counters = farewell.counters;
                    self.check(counters.bad_checksums == 0, || format!("{}: bad checksums", identity.name));
                    if let Some(fault) = farewell.fault {
                        self.facts.failures.push(format!("{}: {fault}", identity.name));
                    }
                    self.facts.guests.push(GuestFact {
                        name: identity.name,
                        mac: mac_text(identity.mac),
                        address: identity.address.to_string(),
                        frames_sent: counters.sent,
                        frames_received: counters.received,
                        checksums_left: counters.checksums_left,
                        segments_left: counters.segments_left,
                        bad_checksums: counters.bad_checksums,
                    });
                }
                Err(fault) => self.facts.failures.push(format!("{fault:#}")),
            }
        }
        self.plane.stop();
    }

    fn finish(self, json: bool) -> Result<()> {
        let left: u64 = self.facts.guests.iter().map(|guest| guest.checksums_left).sum();
        let large: u64 = self.facts.guests.iter().map(|guest| guest.segments_left).sum();
        let bad: u64 = self.facts.guests.iter().map(|guest| guest.bad_checksums).sum();
        self.narrator.step(
            "drivers",
            format_args!(
                "{left} checksums and {large} segmentations left to the device, {bad} bad checksums received"
            ),
        );
        if json {
            println!("{}", serde_json::to_string_pretty(&self.facts)?);
        }
        if !self.facts.passed {
            bail!("the demo failed: {}", self.facts.failures.join("; "));
        }
        self.narrator
            .step("done", "all of it worked; next: `ringway demo --vm`, or README.md for a real guest");
        Ok(())
    }

    fn check(&mut self, right: bool, failure: impl FnOnce() -> String) {
        if !right {
            self.facts.failures.push(failure());
        }
    }
}

/// A feature's name without the words that every name has.
fn short_name(name: &str) -> &str {
    ["VIRTIO_NET_F_", "VIRTIO_F_", "VIRTIO_RING_F_", "VHOST_USER_F_", "VHOST_F_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_resolve_ping_stream_and_broadcast_through_the_plane() {
        let demo = perform(Narrator::new(true), (8 << 20, Duration::from_secs(5))).unwrap();
        let facts = &demo.facts;
        assert_eq!(facts.failures, Vec::<String>::new());
        assert!(facts.passed);
        assert_eq!((facts.resolved.len(), facts.pings.len(), facts.guests.len()), (3, 3, 3));
        assert!(
            facts.streams.iter().all(|stream| stream.bytes_received == 8 << 20 && stream.mismatches == 0)
        );
        // The driver left checksums and segmentation to the device, so both went through the data plane.
        assert!(facts.guests[ALICE].checksums_left > 0 && facts.guests[ALICE].segments_left > 0);
        assert_eq!(facts.fdb.iter().filter(|entry| entry.kind == "learned").count(), OPEN.len());
        assert!(facts.ports.iter().all(|port| port.counters.from_guest.frames > 0));
    }
}
