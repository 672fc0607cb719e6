//! What the control API shows of disks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FeaturesView, PortState};

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskView {
    /// Its name.
    pub name: String,
    /// `vhost-user` or `vfio-user`.
    pub kind: String,
    /// Path of the guest's socket.
    pub socket: String,
    /// `server` or `client`: who Ringway is on that socket.
    pub socket_mode: String,
    /// Where its bytes are.
    pub image: ImageView,
    /// Size in bytes.
    pub capacity: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Nobody may write to it.
    pub read_only: bool,
    /// `write-back` or `write-through`: what holds now, which the driver may have chosen.
    pub cache: String,
    /// What the guest reads as serial number; empty: none.
    pub serial: String,
    /// What the disk is doing.
    pub state: PortState,
    /// The last fault, in words.
    pub fault: Option<String>,
    /// Features by name.
    pub features: FeaturesView,
    /// The group of workers that serves its queues (`worker-group.NAME`); none: `[workers]`.
    pub workers: Option<String>,
    /// Counters since the start.
    pub counters: DiskCountersView,
    /// How long requests took since the start.
    pub latency: DiskLatencyView,
    /// All queues of the configuration, by index.
    pub queues: Vec<DiskQueueView>,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// `file`, `ram` or `null`.
    pub kind: String,
    /// Path of the file or block device, for the first kind.
    pub path: Option<String>,
    /// `raw` or `qcow2`, for the first kind.
    pub format: Option<String>,
    /// Whether the host's page cache is passed by, for the first kind: what holds now.
    pub direct: Option<bool>,
}

/// Counters of a disk. A request counts once it is completed, whether it failed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskCountersView {
    /// Requests that read.
    pub reads: u64,
    /// Requests that write.
    pub writes: u64,
    /// Requests that flush the write cache.
    pub flushes: u64,
    /// Requests that discard.
    pub discards: u64,
    /// Requests that write zeroes.
    pub zeroes: u64,
    /// All others, also those that no device has to know.
    pub others: u64,
    /// Bytes read by the guest.
    pub bytes_read: u64,
    /// Bytes written by the guest.
    pub bytes_written: u64,
    /// Of the requests, those that failed.
    pub errors: u64,
    /// Requests taken and not completed yet.
    pub in_flight: u64,
    /// Of these, those that the host keeps waiting for so long that something is wrong with the image.
    pub stuck: u64,
}

impl DiskCountersView {
    /// All requests that were completed.
    pub fn requests(&self) -> u64 {
        let Self { reads, writes, flushes, discards, zeroes, others, .. } = *self;
        [reads, writes, flushes, discards, zeroes, others].into_iter().fold(0, u64::saturating_add)
    }
}

/// How long requests took, by what they asked for: from when they were taken from the queue until they were completed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskLatencyView {
    /// Requests that read.
    pub read: LatencyView,
    /// Requests that write.
    pub write: LatencyView,
    /// Requests that flush.
    pub flush: LatencyView,
}

impl DiskLatencyView {
    /// Each with its name.
    pub fn each(&self) -> [(&'static str, &LatencyView); 3] {
        [("read", &self.read), ("write", &self.write), ("flush", &self.flush)]
    }
}

/// A distribution of times. All of it is zero if there was no request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencyView {
    /// Number of requests.
    pub count: u64,
    /// All their times together, in microseconds.
    pub sum_us: f64,
    /// Half of them took this many microseconds at most.
    pub p50_us: f64,
    /// 99 of 100 took this many microseconds at most.
    pub p99_us: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
    /// How many took how long, by ascending bounds; what is above the last bound is in `count` only.
    pub buckets: Vec<LatencyBucketView>,
}

/// A part of a distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencyBucketView {
    /// A time in microseconds.
    pub bound_us: f64,
    /// Requests that took this time at most; those of smaller bounds are among them.
    pub count: u64,
}

/// A queue of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskQueueView {
    /// Virtqueue index.
    pub index: u16,
    /// Whether it is served. The other fields keep what they counted while it is not.
    pub running: bool,
    /// Whether its ring is packed, and not split; of the last time it ran.
    pub packed: bool,
    /// Number of descriptors; 0 before it first ran.
    pub size: u16,
    /// Requests completed.
    pub requests: u64,
    /// Kicks received.
    pub kicks: u64,
    /// Calls sent.
    pub calls: u64,
    /// Requests taken and not completed yet.
    pub in_flight: u64,
}

/// Another size for a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ResizeSpec {
    /// The new size in bytes, a multiple of 512; without it, the size that the file has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a resize did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResizeView {
    /// Size in bytes from now on.
    pub capacity: u64,
}
