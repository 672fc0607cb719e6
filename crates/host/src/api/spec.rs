//! The configuration as API bodies: the very keys of the file, typed for the OpenAPI description.
//!
//! Bodies are checked by the configuration's own reader ([`crate::config::document`]) and not by these types: one
//! validator, and it names every mistake at once. A test holds the two together.

mod disk;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use disk::{DiskRateLimitSpec, DiskSpec, DiskVfioUserSpec, DiskVhostUserSpec};

/// A whole configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigSpec {
    /// Where the control API is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlSpec>,
    /// The threads that serve queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersSpec>,
    /// Further groups of threads by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub worker_group: BTreeMap<String, WorkersSpec>,
    /// The switches by name.
    #[serde(default)]
    pub switch: BTreeMap<String, SwitchSpec>,
    /// The ports by name.
    #[serde(default)]
    pub port: BTreeMap<String, PortSpec>,
    /// The disks by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk: BTreeMap<String, DiskSpec>,
}

/// Where the control API is reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ControlSpec {
    /// Path of the unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// TCP address of dashboard, metrics and API, such as `127.0.0.1:9464`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// File with the bearer token for that address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

/// The threads that serve queues.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WorkersSpec {
    /// `per-device`, `pool` or `sidecore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Threads of a pool, or sidecores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// CPUs that the threads are pinned to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<u32>>,
    /// `adaptive` or `always`: whether the threads ever sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polling: Option<String>,
}

/// A switch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SwitchSpec {
    /// Age at which a learned FDB entry is forgotten, such as `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ageing: Option<String>,
    /// Most FDB entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<u32>,
    /// `none`, `802.1q` or `802.1ad`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<String>,
    /// Whether IGMP and MLD are followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snooping: Option<bool>,
}

/// A port: one attachment (`vhost-user`, `vfio-user`, `tap`, `macvtap`, `packet` or `af-xdp`), and what it may do.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PortSpec {
    /// Name of its switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// A guest's NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<VhostUserSpec>,
    /// A guest's NIC, as a whole PCI function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfio_user: Option<VfioUserSpec>,
    /// A tap interface of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapSpec>,
    /// A macvtap interface of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macvtap: Option<MacvtapSpec>,
    /// An interface of the host, through AF_PACKET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketSpec>,
    /// An interface of the host, through AF_XDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub af_xdp: Option<AfXdpSpec>,
    /// MAC address that the device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// `guest` or `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whether checksum and segmentation offloads are offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offloads: Option<bool>,
    /// Frames enter and leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Sources are learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning: Option<bool>,
    /// Gets frames to unknown stations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<bool>,
    /// Gets frames to groups without known listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_flood: Option<bool>,
    /// Gets broadcasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcast_flood: Option<bool>,
    /// Exchanges frames with ports that are not isolated only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Frames may leave where they came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    /// Sources must be FDB entries of this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    /// A spanning-tree frame shuts the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<bool>,
    /// Questions for the port's addresses are answered by the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbour_suppression: Option<bool>,
    /// A host that leaves a group is believed at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_fast_leave: Option<bool>,
    /// Multicast queriers and routers here are believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_router: Option<bool>,
    /// Most addresses learned here; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Most groups with listeners here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_groups_max: Option<u32>,
    /// Frames a second that may go to many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    /// Further MAC addresses of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<Vec<String>>,
    /// IPv4 and IPv6 addresses and networks of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Last digits X of the groups 01:80:c2:00:00:0X that pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_local_forward: Option<Vec<u8>>,
    /// VLANs, on a switch that knows VLANs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanSpec>,
    /// FDB entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fdb: Option<Vec<PortFdbSpec>>,
    /// `deny`, `allow`, or the addresses that the guest may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_change: Option<MacChangeSpec>,
    /// QMP socket of the guest's QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qmp: Option<QmpSpec>,
    /// Group of workers that serves its queues; none: `[workers]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<String>,
    /// The guest is called for received frames at most once in so many microseconds, for each queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_usecs: Option<u16>,
}

/// A vhost-user socket.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VhostUserSpec {
    /// Its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Most queue pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_pairs: Option<u16>,
    /// `server` or `client`: who Ringway is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A vfio-user socket, and the function behind it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VfioUserSpec {
    /// Its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Most queue pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_pairs: Option<u16>,
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
    /// `msix` or `intx`: whether each queue has an interrupt of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<String>,
    /// Whether modern drivers find the administration queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_queue: Option<bool>,
}

/// A tap interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TapSpec {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
}

/// A macvtap interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MacvtapSpec {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Number of queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Descriptors of its character device that were passed to the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fds: Option<Vec<i32>>,
}

/// An interface, through AF_PACKET.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PacketSpec {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// An interface, through AF_XDP.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AfXdpSpec {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Number of queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// `auto`, `generic` or `native`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `auto`, `always` or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_copy: Option<String>,
    /// Shortest frame that is sent without a copy, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_copy_min: Option<u32>,
}

/// Frames a second; 0: no limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RateLimitSpec {
    /// To unknown stations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_unicast: Option<u32>,
    /// To everyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<u32>,
    /// To groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast: Option<u32>,
}

/// VLANs of a port: `access`, or `trunk` with or without `native`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VlanSpec {
    /// The only VLAN, untagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<u16>,
    /// Tagged VLANs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<Vec<VlanRangeSpec>>,
    /// VLAN of untagged frames of a trunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native: Option<u16>,
}

/// One VLAN, or a range such as `20-30`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum VlanRangeSpec {
    /// One VLAN.
    One(u16),
    /// A range, both ends included.
    Range(String),
}

/// An FDB entry of a port.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PortFdbSpec {
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// VLAN, on a switch that knows VLANs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// `static`, `sticky` or `dynamic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Which addresses a guest may take.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum MacChangeSpec {
    /// `deny` or `allow`.
    Rule(String),
    /// Its own, or one of these.
    List(Vec<String>),
}

/// Where a guest's QEMU answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum QmpSpec {
    /// Path of the socket.
    Path(String),
    /// With the NIC's name.
    Socket {
        /// Path of the socket.
        socket: String,
        /// Name of the NIC in QEMU.
        #[serde(skip_serializing_if = "Option::is_none")]
        nic: Option<String>,
    },
}
