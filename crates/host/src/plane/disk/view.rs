//! What the control API sees of disks: snapshots of counters that others write.

use super::super::port::Facts;
use super::Disk;
use super::queue::{DiskQueue, LiveDisk};
use super::stats::Times;
use crate::api::view::{
    DiskCountersView, DiskLatencyView, DiskQueueView, DiskView, FeaturesView, ImageView, LatencyBucketView,
    LatencyView, PortState,
};
use crate::config::resolved::{CacheMode, ImageConfig, SocketRole};
use crate::storage::Histogram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bounds of the distributions that are shown, in microseconds.
const BOUNDS_US: [u64; 18] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];
/// From then on something is wrong with the image.
const STUCK: Duration = Duration::from_secs(30);

impl Disk {
    pub(in super::super) fn view(&self) -> DiskView {
        let config = self.config.load();
        let shape = self.blk_config().shape;
        let queues: Vec<_> =
            self.queues.iter().enumerate().map(|(index, queue)| queue_view(index, queue)).collect();
        let mut times = Times::default();
        self.queues.iter().for_each(|queue| times.merge(&queue.stats.times.lock()));
        let facts = self.facts.lock();
        DiskView {
            name: self.name.clone(),
            kind: config.attach.kind().into(),
            socket: config.attach.socket.display().to_string(),
            socket_mode: match config.attach.role {
                SocketRole::Server => "server".into(),
                SocketRole::Client => "client".into(),
            },
            image: image_view(&config.image, self.image.is_direct()),
            capacity: shape.capacity,
            block_size: shape.logical_block,
            read_only: shape.read_only,
            cache: cache_mode(self.is_through(), &facts, config.cache).word().into(),
            serial: config.serial.clone(),
            state: state(&queues, facts.connected, facts.fault.is_some(), self.has_fault()),
            fault: facts.fault.clone(),
            features: FeaturesView {
                offered: self.offered.names().map(str::to_owned).collect(),
                acknowledged: facts.acknowledged.iter().map(|name| (*name).to_owned()).collect(),
            },
            workers: config.workers.clone(),
            counters: self.counters(&queues),
            latency: DiskLatencyView {
                read: latency(&times.read),
                write: latency(&times.write),
                flush: latency(&times.flush),
            },
            queues,
        }
    }

    /// What the disk is doing.
    pub(in super::super) fn state(&self) -> PortState {
        let queues: Vec<_> =
            self.queues.iter().enumerate().map(|(index, queue)| queue_view(index, queue)).collect();
        let facts = self.facts.lock();
        state(&queues, facts.connected, facts.fault.is_some(), self.has_fault())
    }

    fn has_fault(&self) -> bool {
        self.queues
            .iter()
            .any(|queue| queue.live.lock().as_ref().is_some_and(|live| live.queue.fault().is_some()))
    }

    fn counters(&self, queues: &[DiskQueueView]) -> DiskCountersView {
        let sum =
            |of: fn(&DiskQueue) -> &AtomicU64| self.queues.iter().map(|queue| of(queue).load(Relaxed)).sum();
        let now = Instant::now();
        let stuck = |queue: &DiskQueue| queue.live.lock().as_ref().map_or(0, |live| live.stuck(now, STUCK));
        DiskCountersView {
            reads: sum(|queue| &queue.stats.reads),
            writes: sum(|queue| &queue.stats.writes),
            flushes: sum(|queue| &queue.stats.flushes),
            discards: sum(|queue| &queue.stats.discards),
            zeroes: sum(|queue| &queue.stats.zeroes),
            others: sum(|queue| &queue.stats.others),
            bytes_read: sum(|queue| &queue.stats.bytes_read),
            bytes_written: sum(|queue| &queue.stats.bytes_written),
            errors: sum(|queue| &queue.stats.errors),
            in_flight: queues.iter().map(|queue| queue.in_flight).sum(),
            stuck: self.queues.iter().map(stuck).sum(),
        }
    }
}

fn state(queues: &[DiskQueueView], connected: bool, failed: bool, faulted: bool) -> PortState {
    let running = queues.iter().any(|queue| queue.running);
    match (faulted, running, connected) {
        (true, ..) => PortState::Faulted,
        (_, true, _) => PortState::Running,
        (.., true) if failed => PortState::Faulted,
        (.., true) => PortState::Connected,
        _ => PortState::Waiting,
    }
}

fn queue_view(index: usize, queue: &DiskQueue) -> DiskQueueView {
    let stats = &queue.stats;
    let guard = queue.live.lock();
    let live = guard.as_ref();
    DiskQueueView {
        index: index as u16,
        running: live.is_some_and(|live| live.enabled && live.queue.fault().is_none()),
        packed: live.is_some_and(|live| live.queue.is_packed()),
        size: live.map_or(0, |live| live.queue.size().get()),
        requests: stats.requests(),
        kicks: stats.kicks.load(Relaxed),
        calls: stats.calls.load(Relaxed),
        in_flight: live.map_or(0, LiveDisk::in_flight) as u64,
    }
}

/// The cache's mode: the operator's, until a driver has chosen its features.
fn cache_mode(is_through: bool, facts: &Facts, operator: CacheMode) -> CacheMode {
    match (facts.acknowledged.is_empty(), is_through) {
        (true, _) => operator,
        (false, true) => CacheMode::WriteThrough,
        (false, false) => CacheMode::WriteBack,
    }
}

fn image_view(image: &ImageConfig, is_direct: bool) -> ImageView {
    let (path, format, direct) = match image {
        ImageConfig::File { path, format, .. } => {
            (Some(path.display().to_string()), Some(format.word().to_owned()), Some(is_direct))
        }
        ImageConfig::Ram { .. } | ImageConfig::Null { .. } => (None, None, None),
    };
    ImageView { kind: image.kind().into(), path, format, direct }
}

fn latency(times: &Histogram) -> LatencyView {
    if times.count() == 0 {
        return LatencyView::default();
    }
    let us = |time: Duration| time.as_nanos() as f64 / 1e3;
    let quantile = |share| us(times.quantile(share).unwrap_or_default());
    let bucket = |&bound: &u64| LatencyBucketView {
        bound_us: bound as f64,
        count: times.up_to(Duration::from_micros(bound)),
    };
    LatencyView {
        count: times.count(),
        sum_us: us(times.sum()),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        max_us: us(times.max()),
        buckets: BOUNDS_US.iter().map(bucket).collect(),
    }
}
