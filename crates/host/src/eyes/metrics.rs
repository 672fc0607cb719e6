//! `/metrics`: the plane's figures in the OpenMetrics text format, which Prometheus scrapes.
//!
//! Nothing is counted here. A scrape takes one [`Snapshot`] of what the plane shows and writes it as families of samples
//! through [`prometheus_client`]'s collector interface, which escapes label values and ends the text as the format demands.
//! So a scrape costs the data path nothing but the reads of its counters, and what is never scraped costs nothing at all.
//!
//! Names follow Prometheus' practice: `ringway_` in front, the unit behind, `_total` behind what only grows. Directions are
//! the guest's, as everywhere in the API. A drop reason shows up with its first drop, and a
//! family without samples is left out.
//!
//! Source: OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

mod disk;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::api::view::{DiskView, GroupView, PortState, PortView, QueueView, Status};

/// Media type of [`Snapshot::exposition`] (OpenMetrics 1.0, "Overall structure").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the plane shows at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The whole, with its workers and switches.
    pub status: Status,
    /// All ports.
    pub ports: Vec<PortView>,
    /// All disks.
    pub disks: Vec<DiskView>,
    /// All multicast groups with listeners.
    pub groups: Vec<GroupView>,
}

impl Snapshot {
    /// The snapshot as OpenMetrics text. Its size grows with ports, disks, queues and drop reasons: about 4 KiB for a port with two
    /// queues, and as much for a disk.
    pub fn exposition(self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(4096 * (self.ports.len() + self.disks.len() + 2));
        let mut registry = Registry::with_prefix("ringway");
        registry.register_collector(Box::new(self));
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder: &mut encoder };
        page.program(&self.status)?;
        page.switches(self)?;
        page.ports(&self.ports)?;
        page.uplinks(&self.ports)?;
        page.queues(&self.ports)?;
        page.disks(&self.disks)
    }
}

/// Directions of a port's or queue's traffic.
const FROM_GUEST: &str = "from-guest";
const TO_GUEST: &str = "to-guest";

/// The text that is being written.
struct Page<'e, 'w> {
    encoder: &'e mut DescriptorEncoder<'w>,
}

impl Page<'_, '_> {
    /// A family whose samples `write` gives.
    fn family(
        &mut self,
        (name, unit, help): (&str, Option<&Unit>, &str),
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.encoder.encode_descriptor(name, help, unit, kind)?)
    }

    /// As [`Self::family`], with one sample for each of `rows`; without rows, nothing.
    fn rows<R>(
        &mut self,
        head: (&str, Option<&Unit>, &str),
        kind: MetricType,
        rows: impl IntoIterator<Item = R>,
        write: impl Fn(&mut MetricEncoder<'_>, R) -> fmt::Result,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        self.family(head, kind, |family| rows.try_for_each(|row| write(family, row)))
    }

    /// A family of counters; `_total` is added to its name.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        head: (&str, Option<&Unit>, &str),
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.rows(head, MetricType::Counter, rows, |family, (labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    /// A family of values that go up and down.
    fn gauges<L: EncodeLabelSet>(
        &mut self,
        head: (&str, Option<&Unit>, &str),
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.rows(head, MetricType::Gauge, rows, |family, (labels, value)| {
            family.encode_family(&labels)?.encode_gauge(&value)
        })
    }

    /// A family of facts that stand in labels; `_info` is added to its name.
    fn infos<L: EncodeLabelSet>(
        &mut self,
        (name, help): (&str, &str),
        rows: impl IntoIterator<Item = L>,
    ) -> fmt::Result {
        self.rows((name, None, help), MetricType::Info, rows, |family, labels| family.encode_info(&labels))
    }

    fn program(&mut self, status: &Status) -> fmt::Result {
        let labels = [("version", status.version.as_str())];
        self.infos(("build", "The running program"), [labels])?;
        let uptime = ("uptime", Some(&Unit::Seconds), "Time since the start");
        self.gauges(uptime, [([("", ""); 0], status.uptime_s)])?;
        let worker = |worker| -> [(&'static str, &str); 1] { [("worker", worker)] };
        self.gauges(
            ("worker_queues", None, "Queues that the worker serves now"),
            status.workers.iter().map(|each| (worker(&each.name), each.queues as u64)),
        )?;
        self.counters(
            ("worker_sleeps", None, "Times the worker had nothing to do and went to sleep"),
            status.workers.iter().map(|each| (worker(&each.name), each.sleeps)),
        )?;
        self.counters(
            ("worker_busy_milliseconds", None, "Time in which the worker handled frames"),
            status.workers.iter().map(|each| (worker(&each.name), each.busy_ms)),
        )?;
        self.counters(
            ("worker_moves", None, "Queues that came to the worker from one that had more to do"),
            status.workers.iter().map(|each| (worker(&each.name), each.moves)),
        )
    }

    fn switches(&mut self, snapshot: &Snapshot) -> fmt::Result {
        let switches = &snapshot.status.switches;
        let label = |name| -> [(&'static str, &str); 1] { [("switch", name)] };
        self.gauges(
            ("fdb_entries", None, "Entries in the forwarding database"),
            switches.iter().map(|each| (label(&each.name), each.fdb_entries as u64)),
        )?;
        self.gauges(
            ("fdb_entries_max", None, "Most entries that the forwarding database holds"),
            switches.iter().map(|each| (label(&each.name), each.fdb_entries_max as u64)),
        )?;
        let groups = |name: &str| snapshot.groups.iter().filter(|group| group.switch == name).count() as u64;
        self.gauges(
            ("groups", None, "Multicast groups with listeners"),
            switches.iter().map(|each| (label(&each.name), groups(&each.name))),
        )
    }

    fn ports(&mut self, ports: &[PortView]) -> fmt::Result {
        self.infos(("port", "What is attached to the port"), ports.iter().map(facts))?;
        self.gauges(
            ("port_up", None, "1 if frames can flow: the port runs and is not shut"),
            ports.iter().map(|port| (place(port), u64::from(is_up(port)))),
        )?;
        self.gauges(
            ("port_faulted", None, "1 if a fault stopped the port"),
            ports.iter().map(|port| (place(port), u64::from(port.state == PortState::Faulted))),
        )?;
        self.gauges(
            ("port_shut", None, "1 for a port that is shut; the reason is in the label"),
            ports.iter().filter_map(|port| Some((with(port, [("reason", port.shut.as_deref()?)]), 1))),
        )?;
        self.counters(
            ("port_frames", None, "Frames between the port and its switch; directions are the guest's"),
            ports.iter().flat_map(|port| each_way(port, |traffic| traffic.frames)),
        )?;
        self.counters(
            ("port", Some(&Unit::Bytes), "Bytes of these frames, without virtio-net headers"),
            ports.iter().flat_map(|port| each_way(port, |traffic| traffic.bytes)),
        )?;
        self.counters(
            ("port_drops", None, "Frames not forwarded, by reason"),
            ports.iter().flat_map(|port| {
                let drops = &port.counters.drops;
                drops.iter().map(|(reason, count)| (with(port, [("reason", reason.as_str())]), *count))
            }),
        )?;
        self.gauges(
            ("port_fdb_learned", None, "Learned addresses behind the port"),
            ports.iter().map(|port| (place(port), u64::from(port.fdb_learned))),
        )?;
        self.gauges(
            ("port_fdb_pinned", None, "Other addresses behind the port: static, sticky, dynamic"),
            ports.iter().map(|port| (place(port), u64::from(port.fdb_pinned))),
        )?;
        self.counters(
            ("port_fdb_evicted", None, "Learned addresses that the port lost because the FDB was full"),
            ports.iter().map(|port| (place(port), port.fdb_evicted)),
        )
    }

    fn uplinks(&mut self, ports: &[PortView]) -> fmt::Result {
        let uplinks = || ports.iter().filter_map(|port| Some((port, port.uplink.as_ref()?)));
        self.gauges(
            ("uplink_promiscuous", None, "1 while the host's interface passes everything to the port"),
            uplinks().map(|(port, uplink)| (place(port), u64::from(uplink.mode == "promiscuous"))),
        )?;
        self.gauges(
            ("uplink_filter_addresses", None, "Addresses programmed into the host's interface"),
            uplinks().flat_map(|(port, uplink)| {
                [("unicast", uplink.unicast.len()), ("multicast", uplink.multicast.len())]
                    .map(|(kind, count)| (with(port, [("kind", kind)]), count as u64))
            }),
        )?;
        self.counters(
            ("uplink_filter_operations", None, "Requests to the kernel that changed the interface's filter"),
            uplinks().map(|(port, uplink)| (place(port), uplink.operations)),
        )?;
        self.zero_copy(ports)
    }

    fn zero_copy(&mut self, ports: &[PortView]) -> fmt::Result {
        let views = || ports.iter().filter_map(|port| Some((port, port.zero_copy.as_ref()?)));
        self.counters(
            ("zero_copy_frames", None, "Frames sent from guests' memory, without a copy of ours"),
            views().map(|(port, view)| (place(port), view.frames)),
        )?;
        self.counters(
            ("zero_copy", Some(&Unit::Bytes), "Bytes of these frames that were not copied"),
            views().map(|(port, view)| (place(port), view.bytes)),
        )?;
        self.gauges(
            ("zero_copy_pending", None, "Of these frames, those that the kernel has not sent yet"),
            views().map(|(port, view)| (place(port), u64::from(view.pending))),
        )?;
        self.counters(
            ("zero_copy_abandoned", None, "Frames that the kernel had not sent when their queue stopped"),
            views().map(|(port, view)| (place(port), view.abandoned)),
        )?;
        self.counters(
            ("zero_copy_fallbacks", None, "Frames that were copied all the same, by reason"),
            views().flat_map(|(port, view)| {
                view.copied.iter().map(move |(why, count)| (with(port, [("reason", why.as_str())]), *count))
            }),
        )
    }

    fn queues(&mut self, ports: &[PortView]) -> fmt::Result {
        // The decimal numbers live here, because labels borrow.
        let indices: Vec<Vec<String>> = ports
            .iter()
            .map(|port| port.queues.iter().map(|queue| queue.index.to_string()).collect())
            .collect();
        let queues = || {
            let numbered = ports.iter().zip(&indices);
            numbered.flat_map(|(port, indices)| {
                port.queues
                    .iter()
                    .zip(indices)
                    .map(move |(queue, index)| (queue, of_queue(port, queue, index)))
            })
        };
        self.counters(
            ("queue_frames", None, "Frames through the queue"),
            queues().map(|(queue, labels)| (labels, queue.traffic.frames)),
        )?;
        self.counters(
            ("queue", Some(&Unit::Bytes), "Bytes of these frames, without virtio-net headers"),
            queues().map(|(queue, labels)| (labels, queue.traffic.bytes)),
        )?;
        self.counters(
            ("queue_drops", None, "Frames dropped at the queue, by reason"),
            queues().flat_map(|(queue, [a, b, c])| {
                queue
                    .drops
                    .iter()
                    .map(move |(reason, count)| ([a, b, c, ("reason", reason.as_str())], *count))
            }),
        )?;
        self.counters(
            ("queue_kicks", None, "Kicks received from the driver"),
            queues().map(|(queue, labels)| (labels, queue.kicks)),
        )?;
        self.counters(
            ("queue_calls", None, "Calls sent to the driver"),
            queues().map(|(queue, labels)| (labels, queue.calls)),
        )?;
        self.gauges(
            ("queue_retired", None, "1 if a fault of the driver retired the queue"),
            queues().map(|(queue, labels)| (labels, u64::from(queue.fault.is_some()))),
        )
    }
}

/// A label.
type Label<'a> = (&'static str, &'a str);

fn is_up(port: &PortView) -> bool {
    port.state == PortState::Running && port.shut.is_none()
}

fn place(port: &PortView) -> [Label<'_>; 2] {
    [("port", &port.name), ("switch", &port.switch)]
}

fn with<'a>(port: &'a PortView, [more]: [Label<'a>; 1]) -> [Label<'a>; 3] {
    [("port", &port.name), ("switch", &port.switch), more]
}

fn of_queue<'a>(port: &'a PortView, queue: &'a QueueView, index: &'a str) -> [Label<'a>; 3] {
    [("port", &port.name), ("queue", index), ("direction", &queue.direction)]
}

fn facts(port: &PortView) -> [Label<'_>; 6] {
    let at = port.socket.as_deref().or(port.interface.as_deref()).unwrap_or_default();
    [
        ("port", &port.name),
        ("switch", &port.switch),
        ("kind", &port.kind),
        ("at", at),
        ("mac", port.mac.as_deref().unwrap_or_default()),
        ("profile", &port.settings.profile),
    ]
}

fn each_way(
    port: &PortView,
    value: impl Fn(&crate::api::view::TrafficView) -> u64,
) -> [([Label<'_>; 3], u64); 2] {
    let counters = &port.counters;
    [
        (with(port, [("direction", FROM_GUEST)]), value(&counters.from_guest)),
        (with(port, [("direction", TO_GUEST)]), value(&counters.to_guest)),
    ]
}
