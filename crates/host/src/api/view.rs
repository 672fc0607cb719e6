//! What the control API shows: the JSON bodies of its answers, which are also what the command line prints with `--json`.

mod disk;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::config::diff::{Difference, DiskChange, PortChange, SwitchChange};
use crate::config::resolved::{DiskConfig, PortConfig, SwitchConfig};
pub use disk::{
    DiskCountersView, DiskLatencyView, DiskQueueView, DiskView, ImageView, LatencyBucketView, LatencyView,
    ResizeSpec, ResizeView,
};

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
    /// Disks in state `running`.
    pub disks_up: usize,
    /// All disks.
    pub disks_total: usize,
}

/// A thread that serves queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Name of the thread.
    pub name: String,
    /// Its group (`worker-group.NAME`); none: `[workers]`.
    pub group: Option<String>,
    /// CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// `per-device`, `pool` or `sidecore`.
    pub mode: String,
    /// `adaptive`, or `always`: it never sleeps.
    pub polling: String,
    /// Virtqueues and tap queues it serves now.
    pub queues: usize,
    /// Times it went to sleep since the start.
    pub sleeps: u64,
    /// Milliseconds since the start in which it handled frames.
    pub busy_ms: u64,
    /// Queues that came to it from a worker that had more to do.
    pub moves: u64,
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
    /// Most FDB entries it holds.
    pub fdb_entries_max: usize,
    /// Age in milliseconds at which a learned entry is forgotten.
    pub ageing_ms: u64,
    /// `none`, `802.1q` or `802.1ad`.
    pub vlan: String,
    /// Whether it follows IGMP and MLD.
    pub snooping: bool,
}

/// What a port or a disk is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortState {
    /// Nobody is attached.
    Waiting,
    /// A front-end or interface is attached; its queues do not run yet.
    Connected,
    /// Frames can flow; requests are served.
    Running,
    /// A fault stopped it; see [`PortView::fault`] and [`DiskView::fault`].
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
    /// `vhost-user`, `vfio-user`, `tap`, `packet`, `af-xdp` or `macvtap`.
    pub kind: String,
    /// Path of the guest's socket, for the first two kinds.
    pub socket: Option<String>,
    /// `server` or `client`: who Ringway is on that socket.
    pub socket_mode: Option<String>,
    /// Name of the host's interface, for the other kinds.
    pub interface: Option<String>,
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
    /// What it may do.
    pub settings: SettingsView,
    /// Why it is shut, if it is: `disabled` by the operator, or `guard`, a spanning-tree frame on a guarded port.
    pub shut: Option<String>,
    /// Learned FDB entries behind it.
    pub fdb_learned: u32,
    /// Other FDB entries behind it.
    pub fdb_pinned: u32,
    /// Learned entries that it lost because the FDB was full.
    pub fdb_evicted: u64,
    /// Addresses that the guest uses, as far as they are known without learning.
    pub addresses: Vec<AddressView>,
    /// What the guest's driver wants to receive, where that reaches us.
    pub receive_filter: Option<ReceiveFilterView>,
    /// Filter of the host's interface, for uplinks.
    pub uplink: Option<UplinkView>,
    /// What goes to the interface straight from guests' memory, for an uplink with `zero-copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_copy: Option<ZeroCopyView>,
}

/// What a port may do; the words of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SettingsView {
    /// `guest` or `open`.
    pub profile: String,
    /// Frames enter and leave.
    pub enabled: bool,
    /// Sources are learned.
    pub learning: bool,
    /// Gets frames to unknown stations.
    pub flood: bool,
    /// Gets frames to groups without known listeners.
    pub multicast_flood: bool,
    /// Gets broadcasts.
    pub broadcast_flood: bool,
    /// Exchanges frames with ports that are not isolated only.
    pub isolated: bool,
    /// Frames may leave where they came in.
    pub hairpin: bool,
    /// Sources must be entries of this port.
    pub locked: bool,
    /// Shut by a spanning-tree frame.
    pub guard: bool,
    /// Questions for its addresses are answered by the switch.
    pub neighbour_suppression: bool,
    /// Its multicast queries and routers' hellos are believed.
    pub multicast_router: bool,
    /// A host that leaves a group is believed at once.
    pub multicast_fast_leave: bool,
    /// Most groups with listeners behind it.
    pub multicast_groups_max: u32,
    /// Most addresses learned behind it.
    pub mac_limit: Option<u32>,
    /// Frames a second to unknown stations.
    pub unknown_unicast_rate: Option<u32>,
    /// Broadcasts a second.
    pub broadcast_rate: Option<u32>,
    /// Frames a second to groups.
    pub multicast_rate: Option<u32>,
    /// Source networks allowed; empty: any.
    pub addresses: Vec<String>,
    /// Source MAC addresses allowed; empty: any.
    pub macs: Vec<String>,
    /// Last digits of 01:80:c2:00:00:0X that pass.
    pub link_local_forward: Vec<u8>,
    /// VLAN of untagged frames, on a switch that knows VLANs.
    pub native_vlan: Option<u16>,
    /// All VLANs, such as `["10", "20-29"]`, on a switch that knows VLANs.
    pub vlans: Vec<String>,
    /// `deny`, `allow`, or the addresses that the guest may take.
    pub mac_change: String,
}

/// An address that a guest uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressView {
    /// The address.
    pub mac: String,
    /// Where it is known from: `configuration`, `guest`, `operator`.
    pub origin: String,
}

/// What a guest's driver wants to receive (virtio 1.3 §5.1.6.5.1, or QEMU's `query-rx-filter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiveFilterView {
    /// `control-queue` or `qmp`.
    pub source: String,
    /// The address it uses.
    pub mac: String,
    /// Further unicast addresses.
    pub unicast: Vec<String>,
    /// Groups.
    pub multicast: Vec<String>,
    /// It takes everything.
    pub promiscuous: bool,
    /// It takes all groups.
    pub all_multicast: bool,
    /// Changes it has asked for since it is attached.
    pub changes: u64,
    /// The last one that the operator's rule refused, in words.
    pub refused: Option<String>,
}

/// The receive filter of a host interface that is a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UplinkView {
    /// `exact`: the interface passes the programmed addresses only; `promiscuous`: it passes everything; `own-address`: it
    /// passes what is for its own address only, whatever is asked of it; `gone`: there is no such interface now;
    /// `none`: this kind of interface has no filter.
    pub mode: String,
    /// Why, such as `port vm3 learns`.
    pub reason: String,
    /// Unicast addresses programmed now.
    pub unicast: Vec<String>,
    /// Groups programmed now.
    pub multicast: Vec<String>,
    /// It takes all groups.
    pub all_multicast: bool,
    /// Requests made to the kernel since the start.
    pub operations: u64,
}

/// What an uplink sends straight from guests' memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ZeroCopyView {
    /// Frames from this length on are sent so, in bytes.
    pub min: u32,
    /// Frames of which Ringway copied nothing but the head.
    pub frames: u64,
    /// The bytes of these frames that were not copied.
    pub bytes: u64,
    /// Of these frames, how many the kernel has not sent yet.
    pub pending: u32,
    /// Frames that the kernel had not sent when their guest's queue stopped.
    pub abandoned: u64,
    /// Frames that were copied all the same, by reason: `short`, `group` (several receivers), `segmentation`, `pending` (as
    /// many are pending as may be), `scattered`, `room`.
    pub copied: BTreeMap<String, u64>,
    /// Guests' queues that have a way without a copy.
    pub lanes: Vec<LaneView>,
    /// Guests' queues (`PORT/PAIR`) that have none, and why.
    pub refused: BTreeMap<String, String>,
}

/// The way of one guest's queue to an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LaneView {
    /// Queue of the interface.
    pub queue: u32,
    /// The guest's port.
    pub port: String,
    /// Number of its queue pair.
    pub pair: u16,
    /// What the kernel does: `zero-copy`, its driver sends from the guest's memory; `fragments`, so does virtio-net's by way of
    /// the kernel's own buffers; `copy`, it copies once.
    pub kernel: String,
    /// Frames that it has not sent yet.
    pub pending: u32,
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
    /// Frames to the guest that had to wait: another worker was in the queue, or the driver had no buffers. All others went
    /// straight into the guest's buffers.
    #[serde(default)]
    pub misses: u64,
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
    /// `split` or `packed`; for a host's interface `interface`, or how AF_XDP runs, such as `native, zero-copy`.
    pub layout: String,
    /// Whether the driver enabled it.
    pub enabled: bool,
    /// The fault that retired it, in words.
    pub fault: Option<String>,
    /// Frames and bytes through it.
    pub traffic: TrafficView,
    /// Frames dropped at it, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Kicks received.
    pub kicks: u64,
    /// Calls sent.
    pub calls: u64,
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
    /// VLAN, on a switch that knows VLANs.
    pub vlan: Option<u16>,
    /// `learned`, `dynamic`, `sticky` or `static`.
    pub kind: String,
    /// Why it is there, such as `seen in a frame` or `configuration`.
    pub why: String,
    /// Milliseconds since a frame from it was last seen; 0 for kinds that do not age.
    pub age_ms: u64,
}

/// An FDB entry that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FdbSpec {
    /// The address.
    pub mac: String,
    /// Name of the port; it says which switch.
    pub port: String,
    /// VLAN; without it, the port's native one on a switch that knows VLANs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// `static` (the default), `sticky` or `dynamic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Which FDB entries are meant; every field that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FdbFilter {
    /// Name of a switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// Name of a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// A kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A multicast group with listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// Name of the switch.
    pub switch: String,
    /// VLAN, on a switch that knows VLANs.
    pub vlan: Option<u16>,
    /// The group's MAC address.
    pub group: String,
    /// Ports with listeners.
    pub ports: Vec<String>,
    /// Milliseconds until the first of them is forgotten.
    pub expires_ms: u64,
}

/// One step of a forwarding decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// The rule, such as `vlan-ingress`.
    pub rule: String,
    /// What was found, in words.
    pub finding: String,
    /// Whether the frame may go on.
    pub passed: bool,
}

/// A port that a frame leaves by, or would but for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputView {
    /// Name of the port.
    pub port: String,
    /// `as-is`, `untagged` or `tagged`; or why the frame does not leave here.
    pub form: String,
}

/// What the switch would do with a frame, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// Port that the frame comes in by.
    pub port: String,
    /// Name of the switch.
    pub switch: String,
    /// The frame in words.
    pub frame: String,
    /// VLAN that it is in, on a switch that knows VLANs.
    pub vlan: Option<u16>,
    /// The decision, rule by rule.
    pub steps: Vec<StepView>,
    /// `unicast`, `flood`, `answer` or `drop`.
    pub verdict: String,
    /// Why it is dropped, by the name that counters use.
    pub drop: Option<String>,
    /// Where it leaves.
    pub outputs: Vec<OutputView>,
    /// Ports that a flood leaves out.
    pub left_out: Vec<OutputView>,
}

/// What an accepted change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// Things that are new, such as `port.web`.
    pub added: Vec<String>,
    /// Things that are gone.
    pub removed: Vec<String>,
    /// Things changed while their traffic went on.
    pub changed: Vec<String>,
    /// Things stopped and started again because they cannot change otherwise.
    pub replaced: Vec<String>,
    /// Number of things left as they were.
    pub untouched: usize,
    /// What the change cannot do without a restart, in words.
    pub needs_restart: Vec<String>,
}

impl From<Difference> for ChangeView {
    /// What going over a difference does.
    fn from(difference: Difference) -> Self {
        let switch = |switch: &SwitchConfig| format!("switch.{}", switch.name);
        let port = |port: &PortConfig| format!("port.{}", port.name);
        let disk = |disk: &DiskConfig| format!("disk.{}", disk.name);
        let mut view = Self {
            added: difference.switches_added.iter().map(switch).collect(),
            removed: difference.switches_removed.iter().map(switch).collect(),
            changed: difference.fields_changed,
            replaced: Vec::new(),
            untouched: difference.untouched,
            needs_restart: difference.restart,
        };
        view.added.extend(difference.ports_added.iter().map(port));
        view.removed.extend(difference.ports_removed.iter().map(port));
        view.added.extend(difference.disks_added.iter().map(disk));
        view.removed.extend(difference.disks_removed.iter().map(disk));
        for changed in &difference.switches_changed {
            match changed.change {
                SwitchChange::Live => view.changed.push(switch(&changed.new)),
                SwitchChange::Rebuild => view.replaced.push(switch(&changed.new)),
            }
        }
        for changed in &difference.ports_changed {
            match changed.change {
                PortChange::Live => view.changed.push(port(&changed.new)),
                PortChange::Replace => view.replaced.push(port(&changed.new)),
            }
        }
        for changed in &difference.disks_changed {
            match changed.change {
                DiskChange::Live => view.changed.push(disk(&changed.new)),
                DiskChange::Replace => view.replaced.push(disk(&changed.new)),
            }
        }
        view
    }
}

/// What a removal of FDB entries did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlushView {
    /// Number of entries removed.
    pub removed: usize,
}

/// Why a request was not answered with what it asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What is wrong, in words.
    pub error: String,
    /// Every mistake of a configuration that was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<MistakeView>,
}

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MistakeView {
    /// Line of the file, counted from 1, where a file was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Path of the field, such as `port.web.mac`.
    pub field: String,
    /// What is wrong, with the value as written.
    pub what: String,
    /// What is accepted in its place.
    pub accepted: String,
}
