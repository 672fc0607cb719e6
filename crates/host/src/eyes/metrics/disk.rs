//! The families of disks. A disk's latencies are histograms, so that a server can take quantiles of any span of time and of
//! any number of disks.

use std::fmt;

use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::{Label, Page};
use crate::api::view::{DiskCountersView, DiskView, LatencyView, PortState};

impl Page<'_, '_> {
    pub(super) fn disks(&mut self, disks: &[DiskView]) -> fmt::Result {
        self.infos(
            ("disk", "What the disk's bytes lie in, and how its guest is attached"),
            disks.iter().map(facts),
        )?;
        let up = |disk: &DiskView| u64::from(disk.state == PortState::Running);
        self.gauges(
            ("disk_up", None, "1 if requests are served"),
            disks.iter().map(|disk| (name(disk), up(disk))),
        )?;
        let faulted = |disk: &DiskView| u64::from(disk.state == PortState::Faulted);
        self.gauges(
            ("disk_faulted", None, "1 if a fault stopped the disk"),
            disks.iter().map(|disk| (name(disk), faulted(disk))),
        )?;
        self.gauges(
            ("disk_capacity", Some(&Unit::Bytes), "Size of the disk"),
            disks.iter().map(|disk| (name(disk), disk.capacity)),
        )?;
        self.gauges(
            ("disk_write_back", None, "1 while writes may stay in a volatile cache until they are flushed"),
            disks.iter().map(|disk| (name(disk), u64::from(disk.cache == "write-back"))),
        )?;
        self.counters(
            ("disk_requests", None, "Requests completed, by what they asked for"),
            disks.iter().flat_map(|disk| {
                operations(&disk.counters)
                    .map(|(operation, count)| (with(disk, ("operation", operation)), count))
            }),
        )?;
        self.counters(
            ("disk", Some(&Unit::Bytes), "Bytes read and written by the guest"),
            disks.iter().flat_map(|disk| {
                let counters = &disk.counters;
                [("read", counters.bytes_read), ("write", counters.bytes_written)]
                    .map(|(operation, count)| (with(disk, ("operation", operation)), count))
            }),
        )?;
        self.counters(
            ("disk_errors", None, "Requests that failed"),
            disks.iter().map(|disk| (name(disk), disk.counters.errors)),
        )?;
        self.gauges(
            ("disk_in_flight", None, "Requests taken and not completed yet"),
            disks.iter().map(|disk| (name(disk), disk.counters.in_flight)),
        )?;
        self.gauges(
            ("disk_stuck", None, "Of these, those that the host keeps waiting for far too long"),
            disks.iter().map(|disk| (name(disk), disk.counters.stuck)),
        )?;
        self.latencies(disks)?;
        self.disk_queues(disks)
    }

    fn latencies(&mut self, disks: &[DiskView]) -> fmt::Result {
        let rows = disks.iter().flat_map(|disk| {
            disk.latency.each().map(|(operation, times)| (with(disk, ("operation", operation)), times))
        });
        let head = (
            "disk_latency",
            Some(&Unit::Seconds),
            "Time from when a request was taken until it was completed",
        );
        self.rows(head, MetricType::Histogram, rows, |family, (labels, times)| {
            let steps = steps(times);
            let count = steps.iter().map(|(_, count)| count).sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                times.sum_us / 1e6,
                count,
                &steps,
                None,
            )
        })
    }

    fn disk_queues(&mut self, disks: &[DiskView]) -> fmt::Result {
        // The decimal numbers live here, because labels borrow.
        let indices: Vec<Vec<String>> = disks
            .iter()
            .map(|disk| disk.queues.iter().map(|queue| queue.index.to_string()).collect())
            .collect();
        let queues = || {
            disks.iter().zip(&indices).flat_map(|(disk, indices)| {
                let numbered = disk.queues.iter().zip(indices);
                numbered.map(move |(queue, index)| (queue, with(disk, ("queue", index))))
            })
        };
        self.gauges(
            ("disk_queue_running", None, "1 if the queue is served"),
            queues().map(|(queue, labels)| (labels, u64::from(queue.running))),
        )?;
        self.counters(
            ("disk_queue_requests", None, "Requests of the queue that were completed"),
            queues().map(|(queue, labels)| (labels, queue.requests)),
        )?;
        self.counters(
            ("disk_queue_kicks", None, "Kicks received from the driver"),
            queues().map(|(queue, labels)| (labels, queue.kicks)),
        )?;
        self.counters(
            ("disk_queue_calls", None, "Calls sent to the driver"),
            queues().map(|(queue, labels)| (labels, queue.calls)),
        )?;
        self.gauges(
            ("disk_queue_in_flight", None, "Requests of the queue taken and not completed yet"),
            queues().map(|(queue, labels)| (labels, queue.in_flight)),
        )
    }
}

fn name(disk: &DiskView) -> [Label<'_>; 1] {
    [("disk", &disk.name)]
}

fn with<'a>(disk: &'a DiskView, more: Label<'a>) -> [Label<'a>; 2] {
    [("disk", &disk.name), more]
}

fn facts(disk: &DiskView) -> [Label<'_>; 6] {
    [
        ("disk", &disk.name),
        ("kind", &disk.kind),
        ("at", &disk.socket),
        ("image", &disk.image.kind),
        ("path", disk.image.path.as_deref().unwrap_or_default()),
        ("serial", &disk.serial),
    ]
}

fn operations(counters: &DiskCountersView) -> [(&'static str, u64); 6] {
    [
        ("read", counters.reads),
        ("write", counters.writes),
        ("flush", counters.flushes),
        ("discard", counters.discards),
        ("write-zeroes", counters.zeroes),
        ("other", counters.others),
    ]
}

/// Bounds in seconds, and how many are between each and the one before; the last one is infinite. The encoder adds them up.
fn steps(times: &LatencyView) -> Vec<(f64, u64)> {
    let bounds = times.buckets.iter().map(|bucket| (bucket.bound_us / 1e6, bucket.count));
    let mut before = 0;
    bounds
        .chain([(f64::INFINITY, times.count)])
        .map(|(bound, count)| {
            // Counters are read one after the other: one that is behind the others counts as theirs.
            let step = count.saturating_sub(before);
            before = before.max(count);
            (bound, step)
        })
        .collect()
}
