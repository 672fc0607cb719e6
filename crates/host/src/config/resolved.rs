//! What the rest of the program sees of a configuration: values that are already checked, with every default filled in.
//!
//! No field here means "use the default". An `Option` says that a thing is truly absent (a port without a MAC address of
//! its own). A value of [`Config`] comes only from [`super::parse`] or [`super::load`], so the invariants named at
//! the fields hold.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::disks::*;
use switch::{EntryKind, PortSettings, Tagging, UnicastMac, Vlan};
use transport::pci::{Interface, NotifyKind};
use virtqueue::QueueSize;

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the control API is reached.
    pub control: ControlConfig,
    /// The threads that serve the queues of ports that name no group.
    pub workers: WorkersConfig,
    /// Further groups of threads, in the order of the file. Names are unique.
    pub worker_groups: Vec<WorkerGroupConfig>,
    /// Switches in the order of the file. Names are unique.
    pub switches: Vec<SwitchConfig>,
    /// Ports in the order of the file. Names, [`PortConfig::mac`], socket paths, interfaces and descriptors are unique; a
    /// station is behind one port of a switch and VLAN; every [`PortConfig::switch`] names one of [`Config::switches`], and
    /// every [`PortConfig::workers`] one of [`Config::worker_groups`].
    pub ports: Vec<PortConfig>,
    /// Disks in the order of the file. Names are unique, socket paths too, among ports as well; a file that is written is one
    /// disk's alone; every [`DiskConfig::workers`] names one of [`Config::worker_groups`].
    pub disks: Vec<DiskConfig>,
}

/// `[control]`: where the control API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// Path of the unix socket that speaks HTTP/JSON.
    pub socket: PathBuf,
    /// TCP address that serves the same API and the dashboard, if any.
    pub http: Option<SocketAddr>,
    /// File that holds the bearer token for [`Self::http`]; `None`: only metrics can be read there.
    pub token_file: Option<PathBuf>,
}

/// `[worker-group.NAME]`: threads of their own for the ports that name the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerGroupConfig {
    /// Name that ports refer to.
    pub name: String,
    /// The threads.
    pub workers: WorkersConfig,
}

/// `[workers]`: the threads that serve queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// How devices are spread over threads.
    pub mode: WorkerMode,
    /// CPU numbers that workers are pinned to, without repetition; worker *i* takes `cpus[i % cpus.len()]`.
    /// Empty: not pinned.
    pub cpus: Vec<usize>,
    /// Whether they ever sleep.
    pub polling: Polling,
}

/// Whether a worker sleeps when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It looks at its queues while work is likely, and sleeps otherwise.
    Adaptive,
    /// It never sleeps.
    Always,
}

/// How devices are spread over worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerMode {
    /// One thread a device.
    PerDevice,
    /// A fixed number of threads shares all devices.
    Pool {
        /// Number of threads, 1 to [`POOL_THREADS_MAX`].
        threads: usize,
    },
    /// As a pool, on CPUs of its own: it expects work for longer before it sleeps.
    Sidecore {
        /// Number of threads, 1 to [`POOL_THREADS_MAX`].
        threads: usize,
    },
}

impl WorkerMode {
    /// The word for it in the file and in the API.
    pub fn word(self) -> &'static str {
        match self {
            WorkerMode::PerDevice => "per-device",
            WorkerMode::Pool { .. } => "pool",
            WorkerMode::Sidecore { .. } => "sidecore",
        }
    }
}

/// Largest `threads` of a worker pool.
pub const POOL_THREADS_MAX: usize = 256;

/// `[switch.NAME]`: one learning bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// Name that ports refer to.
    pub name: String,
    /// Age at which an FDB entry that was not refreshed is forgotten; 1 s to [`AGEING_MAX`].
    pub ageing: Duration,
    /// Most FDB entries kept; 1 to [`FDB_ENTRIES_MAX`].
    pub entries_max: usize,
    /// The tag of the VLANs that it knows (`vlan = "802.1q"` or `"802.1ad"`); `None`: tags are payload.
    pub tagging: Option<Tagging>,
    /// Whether it follows IGMP and MLD.
    pub snooping: bool,
}

/// `ageing` of a switch that names none: five minutes, as IEEE 802.1Q recommends.
pub const AGEING_DEFAULT: Duration = Duration::from_secs(300);
/// Largest `ageing`: IEEE 802.1Q allows up to 1,000,000 s.
pub const AGEING_MAX: Duration = Duration::from_secs(1_000_000);
/// `max-entries` of a switch that names none.
pub const FDB_ENTRIES_DEFAULT: usize = 8192;
/// Largest `max-entries`.
pub const FDB_ENTRIES_MAX: usize = 1 << 20;

/// `[port.NAME]`: one attachment point of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Name of the port.
    pub name: String,
    /// Name of the switch it belongs to.
    pub switch: String,
    /// What is on the other side.
    pub attach: Attach,
    /// MAC address (unicast, not zero) that the device reports to its driver; `None`: the driver or the VMM chooses.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes that is reported to the driver or set on the tap; 68 to 65535; `None`: the peer's own.
    pub mtu: Option<u16>,
    /// How far the other side is trusted.
    pub profile: Profile,
    /// Whether checksum and segmentation offloads are offered.
    pub offloads: bool,
    /// What the switch lets it do. [`PortSettings::neighbours`] has an entry for each single host of the port's addresses
    /// if the switch answers for it; its sources have MAC addresses if the port is not locked and names `macs`.
    pub settings: PortSettings,
    /// Unicast addresses (not zero) that the other side uses beside [`Self::mac`].
    pub macs: Vec<UnicastMac>,
    /// FDB entries of the configuration; of a kind that frames cannot make. No two of a port have the same address and VLAN.
    pub fdb: Vec<FdbConfig>,
    /// Which addresses the guest may take in place of [`Self::mac`].
    pub mac_change: MacChange,
    /// QMP socket of the guest's QEMU, where its receive filter is followed.
    pub qmp: Option<QmpConfig>,
    /// The group of workers that serves its queues; `None`: `[workers]`.
    pub workers: Option<String>,
    /// The guest is called for received frames at most once in this time, for each queue; zero: whenever its driver asks. At most
    /// [`RX_USECS_MAX`].
    pub call_interval: Duration,
}

/// Largest `rx-usecs` of a port, in microseconds.
pub const RX_USECS_MAX: usize = 10_000;

/// An FDB entry of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbConfig {
    /// The station.
    pub mac: UnicastMac,
    /// Its VLAN: one of the port's, on a switch that knows VLANs; else `None`.
    pub vlan: Option<Vlan>,
    /// What it is: static, sticky or dynamic.
    pub kind: EntryKind,
}

/// Which addresses a guest may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MacChange {
    /// Only the one of the configuration.
    Deny,
    /// Any.
    Allow,
    /// The one of the configuration, or one of these.
    List(Vec<UnicastMac>),
}

/// Where a guest's QEMU answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpConfig {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// Name of the NIC in QEMU (`query-rx-filter`); `None`: the only one, or the one that has the port's address.
    pub nic: Option<String>,
}

/// What is on the other side of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A guest NIC, served over vhost-user.
    VhostUser {
        /// Path of the socket.
        socket: PathBuf,
        /// Who listens on it.
        role: SocketRole,
        /// Most queue pairs the guest may use; 1 to [`QUEUE_PAIRS_MAX`].
        queue_pairs: u16,
    },
    /// A guest NIC, a whole PCI function served over vfio-user.
    VfioUser {
        /// Path of the socket, on which Ringway listens.
        socket: PathBuf,
        /// Most queue pairs the guest may use; 1 to [`QUEUE_PAIRS_MAX`].
        queue_pairs: u16,
        /// What its driver finds.
        function: FunctionConfig,
    },
    /// A tap interface of the host.
    Tap {
        /// Interface name; made if it does not exist.
        name: String,
        /// Number of queues; 1 to [`QUEUE_PAIRS_MAX`].
        queues: u16,
    },
    /// A macvtap interface that exists; its character device, or a descriptor of it that was passed to the program.
    Macvtap {
        /// Interface name.
        interface: String,
        /// Inherited descriptors of its character device, one a queue; empty: it is opened once a queue.
        fds: Vec<i32>,
        /// Number of queues; 1 to [`QUEUE_PAIRS_MAX`].
        queues: u16,
    },
    /// An interface of the host, through AF_PACKET.
    Packet {
        /// Interface name.
        interface: String,
    },
    /// An interface of the host, through AF_XDP.
    AfXdp {
        /// Interface name.
        interface: String,
        /// Number of the interface's queues that are used; 1 to [`QUEUE_PAIRS_MAX`].
        queues: u16,
        /// Where frames are taken.
        mode: XdpMode,
        /// Which frames of guests are sent from the guest's own pages; `None`: none.
        zero_copy: Option<ZeroCopy>,
    },
}

/// The register interface of a virtio-PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionConfig {
    /// Which drivers it serves.
    pub interface: Interface,
    /// Doorbells, the preferred kind first; not empty.
    pub notify: Vec<NotifyKind>,
    /// Entries of each queue at most; a power of two.
    pub queue_size: QueueSize,
    /// The VMM may map the doorbells: the guest then rings without an exit, and its queues are polled
    /// (`doorbells = "mapped"`).
    pub mapped: bool,
    /// Interrupts by messages, a vector for each queue; without them all come by the one pin (`interrupts = "intx"`).
    pub msix: bool,
    /// Modern drivers find the administration queue (`admin-queue = true`).
    pub admin_queue: bool,
}

/// Which frames are sent from their guest's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroCopy {
    /// The shortest one, in bytes, without its virtio header.
    pub min: u32,
    /// Also where the kernel is known to copy them (`"always"`).
    pub always: bool,
}

/// What `zero-copy-min` may be, in bytes: at least the part of a frame that is copied in any case.
pub const ZERO_COPY_MIN: std::ops::RangeInclusive<usize> = 256..=65_536;
/// About the length from which copying costs more than pages: not measured on a driver that does not copy (docs/adr/0017).
pub const ZERO_COPY_MIN_DEFAULT: u32 = 1024;

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver if it can, else in the kernel's generic code.
    Auto,
    /// In the kernel's generic code (`"generic"`).
    Generic,
    /// In the driver (`"native"`); refused if the driver cannot.
    Native,
}

impl Attach {
    /// The word for it in the file and in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Attach::VhostUser { .. } => "vhost-user",
            Attach::VfioUser { .. } => "vfio-user",
            Attach::Tap { .. } => "tap",
            Attach::Macvtap { .. } => "macvtap",
            Attach::Packet { .. } => "packet",
            Attach::AfXdp { .. } => "af-xdp",
        }
    }

    /// The host's interface, where it is one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Attach::VhostUser { .. } | Attach::VfioUser { .. } => None,
            Attach::Tap { name, .. } => Some(name),
            Attach::Macvtap { interface, .. }
            | Attach::Packet { interface }
            | Attach::AfXdp { interface, .. } => Some(interface),
        }
    }

    /// Who listens on its socket, where it has one.
    pub fn role(&self) -> SocketRole {
        match self {
            Attach::VhostUser { role, .. } => *role,
            _ => SocketRole::Server,
        }
    }

    /// The socket path, where it has one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Attach::VhostUser { socket, .. } | Attach::VfioUser { socket, .. } => Some(socket),
            _ => None,
        }
    }
}

/// Largest number of queue pairs of a port.
pub const QUEUE_PAIRS_MAX: u16 = 128;
/// Smallest MTU: `virtio 1.3 §5.1.4.1`.
pub const MTU_MIN: u16 = 68;

/// Who listens on a guest port's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketRole {
    /// Ringway listens; the front-end connects (`mode = "server"`).
    Server,
    /// The front-end listens; Ringway connects, again and again (`mode = "client"`).
    Client,
}

/// How far the other side of a port is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A guest that is locked to its own addresses, guarded and bounded. Default for ports of guests.
    Guest,
    /// Anything may be behind the port. Default for interfaces of the host.
    Open,
}
