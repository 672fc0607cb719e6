//! What a front-end did wrong. Every fault ends the session.

use super::Request;
use super::message::{FDS_MAX, TABLE_REGIONS_MAX};
use guestmem::{ACCEPTED_FILE_SYSTEMS, FrontendAddr, MemoryFault};
use thiserror::Error;
use virtqueue::RingArea;

/// Why a session must be closed: the message, the field, and what would have been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum FrontendFault {
    #[error("message {id}: header flags {flags:#x}; accepted is version 1 without the reply bit")]
    HeaderFlags { id: u32, flags: u32 },
    #[error("message {id}: not one that was negotiated or that this back-end knows")]
    UnknownRequest { id: u32 },
    #[error("{request}: payload of {size} bytes; accepted are {least} to {most}")]
    PayloadSize { request: Request, size: u32, least: usize, most: usize },
    #[error("{request}: {count} file descriptors; accepted are {least} to {most}")]
    FdCount { request: Request, count: usize, least: usize, most: usize },
    #[error("{count} file descriptors with one message; accepted are at most {FDS_MAX}")]
    TooManyFds { count: usize },
    #[error("{count} bytes sent without waiting for this back-end; accepted are at most {most}")]
    Flood { count: usize, most: usize },
    #[error("{request}: needs protocol feature {feature}, which was not negotiated")]
    NotNegotiated { request: Request, feature: &'static str },
    #[error("SET_FEATURES: bits {bits:#x} were not offered")]
    FeaturesNotOffered { bits: u64 },
    #[error("SET_FEATURES: bits {bits:#x} change while rings run; accepted is LOG_ALL (bit 26)")]
    FeaturesWhileRunning { bits: u64 },
    #[error("SET_PROTOCOL_FEATURES: bits {bits:#x} were not offered")]
    ProtocolFeaturesNotOffered { bits: u64 },
    #[error("{request}: reserved bits set in {value:#x}")]
    ReservedBits { request: Request, value: u64 },
    #[error("{request}: ring {index}; accepted are 0 to {last}")]
    QueueIndex { request: Request, index: u32, last: u32 },
    #[error(
        "SET_VRING_NUM: ring {index}: size {size}; accepted are 1 to {most}, powers of two for split rings"
    )]
    QueueSize { index: u16, size: u32, most: u16 },
    #[error("{request}: ring {index} runs; accepted only after GET_VRING_BASE")]
    QueueRunning { request: Request, index: u16 },
    #[error(
        "SET_VRING_BASE: ring {index}: base {base:#x}; accepted are 0 to 0xffff (split) or positions inside the ring (packed)"
    )]
    QueueBase { index: u16, base: u32 },
    #[error("SET_VRING_ADDR: ring {index}: the {area} at {address} is not a multiple of {align} in its file")]
    QueueMisaligned { index: u16, area: RingArea, address: FrontendAddr, align: usize },
    #[error(
        "SET_VRING_ADDR: ring {index}: the {area} at {address} of {len} bytes lies outside the known regions"
    )]
    QueueOutsideMemory { index: u16, area: RingArea, address: FrontendAddr, len: usize },
    #[error("SET_VRING_ENABLE: ring {index}: {value}; accepted are 0 and 1")]
    QueueEnable { index: u16, value: u32 },
    #[error(
        "SET_MEM_TABLE: {count} regions in {size} bytes; accepted are at most {TABLE_REGIONS_MAX}, 32 bytes each"
    )]
    RegionCount { count: u32, size: usize },
    #[error("{request}: {fault}")]
    Memory { request: Request, fault: MemoryFault },
    #[error("{request}: {len:#x} bytes at file offset {offset:#x}; accepted are 1 byte to 2^47 bytes")]
    MapLength { request: Request, len: u64, offset: u64 },
    #[error("{request}: its descriptor is no regular file; accepted are files of {ACCEPTED_FILE_SYSTEMS}")]
    MapFileKind { request: Request },
    #[error(
        "{request}: its file lies on a file system with magic number {magic:#x}; accepted are files of {ACCEPTED_FILE_SYSTEMS}"
    )]
    MapFileSystem { request: Request, magic: u32 },
    #[error("{request}: needs {need:#x} bytes of its file, which has {size:#x}")]
    MapFileTooSmall { request: Request, need: u64, size: u64 },
    #[error(
        "{request}: the kernel refuses to map its file (errno {errno}); accepted are files open for reading and writing"
    )]
    MapRefused { request: Request, errno: i32 },
    #[error(
        "{request}: {len:#x} bytes besides the {mapped:#x} that this session has mapped; accepted are {most:#x} in all"
    )]
    SessionMemory { request: Request, len: u64, mapped: u64, most: u64 },
    #[error("{request}: more than {most} files mapped at once")]
    SessionMappings { request: Request, most: usize },
    #[error(
        "SET_LOG_BASE: {size:#x} bytes; accepted are {most:#x}: one bit for each 4 KiB of guest addresses, and for 4 TiB more"
    )]
    LogSize { size: u64, most: u64 },
    #[error("ADD_MEM_REG: more than {most} regions")]
    RegionSlots { most: usize },
    #[error(
        "REM_MEM_REG: no region has guest address {guest:#x}, front-end address {user:#x} and {size:#x} bytes"
    )]
    RegionUnknown { guest: u64, user: u64, size: u64 },
    #[error(
        "{request}: {size} bytes at {offset} of the configuration space with {given} bytes of payload; accepted end at 256 and have as many bytes as they say"
    )]
    ConfigRange { request: Request, offset: u32, size: u32, given: usize },
    #[error("SET_CONFIG: flags {flags:#x}; accepted are 0 and 1")]
    ConfigFlags { flags: u32 },
    #[error("{request}: {queues} queues; accepted are 1 to {most}")]
    InFlightQueues { request: Request, queues: u16, most: u16 },
    #[error("{request}: queues of {size} entries; accepted are 1 to {most}")]
    InFlightQueueSize { request: Request, size: u16, most: u16 },
    #[error("SET_INFLIGHT_FD: {size:#x} bytes; accepted are {need:#x} or more for its queues")]
    InFlightSize { size: u64, need: u64 },
    #[error("SET_INFLIGHT_FD: rings run; accepted only while all are stopped")]
    InFlightWhileRunning,
    #[error(
        "ring {index} has {size} entries; accepted are at most {most}, as many as SET_INFLIGHT_FD said of a queue"
    )]
    InFlightRing { index: u16, size: u16, most: u16 },
    #[error("NET_SET_MTU: {mtu}; accepted are 68 to 65535")]
    Mtu { mtu: u64 },
    #[error("SET_STATUS: {status:#x}; accepted are 8 bits")]
    Status { status: u64 },
}

impl FrontendFault {
    /// A short name for counters and logs, in kebab-case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HeaderFlags { .. } => "header-flags",
            Self::UnknownRequest { .. } => "unknown-request",
            Self::PayloadSize { .. } => "payload-size",
            Self::FdCount { .. } => "fd-count",
            Self::TooManyFds { .. } => "too-many-fds",
            Self::Flood { .. } => "flood",
            Self::NotNegotiated { .. } => "not-negotiated",
            Self::FeaturesNotOffered { .. } => "features-not-offered",
            Self::FeaturesWhileRunning { .. } => "features-while-running",
            Self::ProtocolFeaturesNotOffered { .. } => "protocol-features-not-offered",
            Self::ReservedBits { .. } => "reserved-bits",
            Self::QueueIndex { .. } => "queue-index",
            Self::QueueSize { .. } => "queue-size",
            Self::QueueRunning { .. } => "queue-running",
            Self::QueueBase { .. } => "queue-base",
            Self::QueueMisaligned { .. } => "queue-misaligned",
            Self::QueueOutsideMemory { .. } => "queue-outside-memory",
            Self::QueueEnable { .. } => "queue-enable",
            Self::RegionCount { .. } => "region-count",
            Self::Memory { .. } => "memory",
            Self::MapLength { .. } => "map-length",
            Self::MapFileKind { .. } => "map-file-kind",
            Self::MapFileSystem { .. } => "map-file-system",
            Self::MapFileTooSmall { .. } => "map-file-too-small",
            Self::MapRefused { .. } => "map-refused",
            Self::SessionMemory { .. } => "session-memory",
            Self::SessionMappings { .. } => "session-mappings",
            Self::LogSize { .. } => "log-size",
            Self::RegionSlots { .. } => "region-slots",
            Self::RegionUnknown { .. } => "region-unknown",
            Self::ConfigRange { .. } => "config-range",
            Self::ConfigFlags { .. } => "config-flags",
            Self::InFlightQueues { .. } => "in-flight-queues",
            Self::InFlightQueueSize { .. } => "in-flight-queue-size",
            Self::InFlightSize { .. } => "in-flight-size",
            Self::InFlightWhileRunning => "in-flight-while-running",
            Self::InFlightRing { .. } => "in-flight-ring",
            Self::Mtu { .. } => "mtu",
            Self::Status { .. } => "status",
        }
    }
}
