//! What the control API shows: the JSON bodies of its answers, which are also what the command line prints with `--json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of the whole program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process number.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The threads that serve queues.
    pub workers: Vec<WorkerView>,
    /// The switches, in the order of the configuration.
    pub switches: Vec<SwitchView>,
    /// Ports in state `running`.
    pub ports_up: usize,
    /// All ports.
    pub ports_total: usize,
}

/// A thread that serves queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Name of the thread.
    pub name: String,
    /// CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// `per-device` or `pool`.
    pub mode: String,
    /// Virtqueues and tap queues it serves now.
    pub queues: usize,
}

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchView {
    /// Its name.
    pub name: String,
    /// Number of ports.
    pub ports: usize,
    /// Number of FDB entries now.
    pub fdb_entries: usize,
}

/// What a port is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// Nobody is attached.
    Waiting,
    /// A front-end or interface is attached; its queues do not run yet.
    Connected,
    /// Frames can flow.
    Running,
    /// A fault stopped it; see [`PortView::fault`].
    Faulted,
}

impl PortState {
    /// The word used in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            PortState::Waiting => "waiting",
            PortState::Connected => "connected",
            PortState::Running => "running",
            PortState::Faulted => "faulted",
        }
    }
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// Its name.
    pub name: String,
    /// Name of its switch.
    pub switch: String,
    /// `vhost-user` or `tap`.
    pub kind: String,
    /// Path of the vhost-user socket, for that kind.
    pub socket: Option<String>,
    /// `server` or `client`: who Ringway is on the socket, for that kind.
    pub socket_mode: Option<String>,
    /// Name of the tap interface, for that kind.
    pub tap: Option<String>,
    /// MAC address of the configuration, such as `52:54:00:00:00:01`.
    pub mac: Option<String>,
    /// MTU in bytes.
    pub mtu: Option<u16>,
    /// What the port is doing.
    pub state: PortState,
    /// The last fault, in words.
    pub fault: Option<String>,
    /// Queue pairs of the configuration.
    pub queue_pairs: u16,
    /// Features by name.
    pub features: FeaturesView,
    /// Counters since the start.
    pub counters: CountersView,
    /// Its queues, by index.
    pub queues: Vec<QueueView>,
}

/// Feature bits by name, such as `VIRTIO_NET_F_MRG_RXBUF`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeaturesView {
    /// What Ringway offers.
    pub offered: Vec<String>,
    /// What the driver acknowledged.
    pub acknowledged: Vec<String>,
}

/// Counters of a port. Directions are the guest's: `from_guest` is what it sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountersView {
    /// Frames that entered the switch here.
    pub from_guest: TrafficView,
    /// Frames that left the switch here.
    pub to_guest: TrafficView,
    /// Frames not forwarded, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Kicks received.
    pub kicks: u64,
    /// Calls sent.
    pub calls: u64,
}

/// Frames and bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficView {
    /// Number of frames.
    pub frames: u64,
    /// Their bytes, without virtio-net headers.
    pub bytes: u64,
}

/// A queue of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Virtqueue index.
    pub index: u16,
    /// `from-guest`, `to-guest` or `control`.
    pub direction: String,
    /// Number of descriptors.
    pub size: u16,
    /// `split` or `packed`.
    pub layout: String,
    /// Whether the driver enabled it.
    pub enabled: bool,
    /// The fault that retired it, in words.
    pub fault: Option<String>,
}

/// An entry of an FDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbView {
    /// Name of the switch.
    pub switch: String,
    /// The address.
    pub mac: String,
    /// Name of the port it lives behind.
    pub port: String,
    /// `learned` or `static`.
    pub kind: String,
    /// Milliseconds since a frame from it was last seen.
    pub age_ms: u64,
}

/// Why a request was not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What is wrong, in words.
    pub error: String,
}
