//! The keys of a configuration file, table by table: what the reader accepts, what the API's bodies have, and what
//! `docs/configuration.md` describes.

/// Tables of the whole file.
pub const SECTIONS: &[&str] = &["control", "workers", "worker-group", "switch", "port", "disk"];
/// `[control]`
pub const CONTROL: &[&str] = &["socket", "http", "token-file"];
/// `[workers]` and `[worker-group.NAME]`
pub const WORKERS: &[&str] = &["mode", "threads", "cpus", "polling"];
/// `[switch.NAME]`
pub const SWITCH: &[&str] = &["ageing", "max-entries", "vlan", "snooping"];
/// `[port.NAME]`
pub const PORT: &[&str] = &[
    "switch",
    "vhost-user",
    "vfio-user",
    "tap",
    "macvtap",
    "packet",
    "af-xdp",
    "mac",
    "mtu",
    "profile",
    "offloads",
    "enabled",
    "learning",
    "flood",
    "multicast-flood",
    "broadcast-flood",
    "isolated",
    "hairpin",
    "locked",
    "guard",
    "neighbour-suppression",
    "multicast-fast-leave",
    "multicast-router",
    "mac-limit",
    "multicast-groups-max",
    "rate-limit",
    "macs",
    "addresses",
    "link-local-forward",
    "vlan",
    "fdb",
    "mac-change",
    "qmp",
    "workers",
    "rx-usecs",
];
/// `vhost-user = {}` of a port.
pub const VHOST_USER: &[&str] = &["socket", "queue-pairs", "mode"];
/// `vfio-user = {}` of a port.
pub const VFIO_USER: &[&str] =
    &["socket", "queue-pairs", "queue-size", "interface", "notify", "doorbells", "interrupts", "admin-queue"];
/// `tap = {}` of a port.
pub const TAP: &[&str] = &["name", "queues"];
/// `macvtap = {}` of a port.
pub const MACVTAP: &[&str] = &["interface", "queues", "fds"];
/// `packet = {}` of a port.
pub const PACKET: &[&str] = &["interface"];
/// `af-xdp = {}` of a port.
pub const AF_XDP: &[&str] = &["interface", "queues", "mode", "zero-copy", "zero-copy-min"];
/// `rate-limit = {}` of a port.
pub const RATE_LIMIT: &[&str] = &["unknown-unicast", "broadcast", "multicast"];
/// `vlan = {}` of a port.
pub const VLAN: &[&str] = &["access", "trunk", "native"];
/// One entry of `fdb = []` of a port.
pub const FDB: &[&str] = &["mac", "vlan", "kind"];
/// `qmp = {}` of a port.
pub const QMP: &[&str] = &["socket", "nic"];
/// `[disk.NAME]`
pub const DISK: &[&str] = &[
    "vhost-user",
    "vfio-user",
    "file",
    "ram",
    "null",
    "format",
    "backing-file",
    "direct",
    "read-only",
    "cache",
    "discard",
    "block-size",
    "serial",
    "rate-limit",
    "workers",
];
/// `vhost-user = {}` of a disk.
pub const DISK_VHOST_USER: &[&str] = &["socket", "queues", "mode"];
/// `vfio-user = {}` of a disk.
pub const DISK_VFIO_USER: &[&str] =
    &["socket", "queues", "queue-size", "interface", "notify", "doorbells", "interrupts"];
/// `rate-limit = {}` of a disk.
pub const DISK_RATE_LIMIT: &[&str] = &["iops", "iops-burst", "bytes", "bytes-burst"];

/// All of them, by the heading that `docs/configuration.md` has for the table.
pub const ALL: &[(&str, &[&str])] = &[
    ("[control]", CONTROL),
    ("[workers]", WORKERS),
    ("[worker-group.NAME]", WORKERS),
    ("[switch.NAME]", SWITCH),
    ("[port.NAME]", PORT),
    ("vhost-user", VHOST_USER),
    ("vfio-user", VFIO_USER),
    ("tap", TAP),
    ("macvtap", MACVTAP),
    ("packet", PACKET),
    ("af-xdp", AF_XDP),
    ("rate-limit", RATE_LIMIT),
    ("vlan", VLAN),
    ("fdb", FDB),
    ("qmp", QMP),
    ("[disk.NAME]", DISK),
    ("vhost-user of a disk", DISK_VHOST_USER),
    ("vfio-user of a disk", DISK_VFIO_USER),
    ("rate-limit of a disk", DISK_RATE_LIMIT),
];

/// Tables that a later version will know.
pub(crate) const SECTIONS_LATER: &[&str] = &["scsi", "share", "gpu"];
/// What a port is attached to, in this version.
pub(crate) const ATTACH: &[&str] = &["vhost-user", "vfio-user", "tap", "macvtap", "packet", "af-xdp"];
/// Where a disk's bytes are: one of these.
pub(crate) const IMAGE: &[&str] = &["file", "ram", "null"];
/// Those of the former behind which a guest is.
pub(crate) const ATTACH_GUEST: &[&str] = &["vhost-user", "vfio-user"];
