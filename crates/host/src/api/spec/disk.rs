//! `[disk.NAME]` as an API body.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A disk: one attachment (`vhost-user` or `vfio-user`), one place of its bytes (`file`, `ram` or `null`), and what it promises.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskSpec {
    /// A guest's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<DiskVhostUserSpec>,
    /// A guest's disk, as a whole PCI function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfio_user: Option<DiskVfioUserSpec>,
    /// Path of a file or block device of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Size of a disk in memory, such as `64M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<String>,
    /// Size of a disk that keeps nothing, such as `64M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null: Option<String>,
    /// `raw` or `qcow2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether a qcow2 file may name another that it is based on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<bool>,
    /// Whether the host's page cache is passed by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// Nobody may write to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// `write-back` or `write-through`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// What the guest does not need any more is given back to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
    /// Logical block size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// What the guest reads as serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How much it may be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<DiskRateLimitSpec>,
    /// Group of workers that serves its queues; none: `[workers]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<String>,
}

/// A vhost-user socket of a disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskVhostUserSpec {
    /// Its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Most queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// `server` or `client`: who Ringway is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A vfio-user socket of a disk, and the function behind it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskVfioUserSpec {
    /// Its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Most queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Entries of each queue at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<u16>,
    /// `modern`, `transitional` or `legacy`: which drivers it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Doorbells, `pio` and `mmio`, the preferred one first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Vec<String>>,
    /// `event` or `mapped`: whether the guest's doorbells are told, or its queues polled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doorbells: Option<String>,
    /// `msix` or `intx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<String>,
}

/// Requests and bytes a second, and how many may come at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskRateLimitSpec {
    /// Requests a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Requests that may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_burst: Option<u64>,
    /// Bytes a second, such as `500M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// Bytes that may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_burst: Option<String>,
}
