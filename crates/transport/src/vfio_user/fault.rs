//! What a client did wrong: a [`ClientFault`] ends the session, a [`Refusal`] is answered with an error.

use super::message::{DATA_MAX, FDS_MAX, HEADER_SIZE, PAYLOAD_MAX};
use super::{Command, DMA_MAPS_MAX, MAPPED_MAX, MAPPINGS_MAX, REGIONS};
use guestmem::ACCEPTED_FILE_SYSTEMS;
use thiserror::Error;

/// The largest message, in bytes.
const MESSAGE_MAX: usize = HEADER_SIZE + PAYLOAD_MAX;

/// Why a session must be closed: the client's stream cannot be followed any more, or it speaks another language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum ClientFault {
    #[error(
        "message {command}: size {size}; accepted are {HEADER_SIZE} to {MESSAGE_MAX}, the header included"
    )]
    MessageSize { command: u16, size: u32 },
    #[error("message {command}: flags {flags:#x}; accepted types are 0 (command) and 1 (reply)")]
    MessageType { command: u16, flags: u32 },
    #[error("{count} file descriptors waiting; accepted are at most {FDS_MAX} with one message")]
    TooManyFds { count: usize },
    #[error("{count} bytes sent without waiting for the server; accepted are at most {most}")]
    Flood { count: usize, most: usize },
    #[error("message {command} before VERSION, which must be the first")]
    NoVersion { command: u16 },
    #[error("VERSION: major version {major}; accepted is 0")]
    Version { major: u16 },
    #[error("VERSION: {what}; accepted is a JSON object in UTF-8 that ends with a zero byte")]
    VersionData { what: &'static str },
    #[error("VERSION: capability {name} is no number or truth value that can be used")]
    Capability { name: &'static str },
    #[error("reply {id} to message {command}: nothing waits for it")]
    UnexpectedReply { id: u16, command: u16 },
    #[error("{command}: a reply of {size} bytes; accepted are {most}, or an error")]
    ReplySize { command: Command, size: usize, most: usize },
}

impl ClientFault {
    /// A short name for counters and logs, in kebab-case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageSize { .. } => "message-size",
            Self::MessageType { .. } => "message-type",
            Self::TooManyFds { .. } => "too-many-fds",
            Self::Flood { .. } => "flood",
            Self::NoVersion { .. } => "no-version",
            Self::Version { .. } => "version",
            Self::VersionData { .. } => "version-data",
            Self::Capability { .. } => "capability",
            Self::UnexpectedReply { .. } => "unexpected-reply",
            Self::ReplySize { .. } => "reply-size",
        }
    }
}

/// Why a command was answered with an error: the field, and what would have been accepted. The session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum Refusal {
    #[error("message {command}: not one that this server knows")]
    Unknown { command: u16 },
    #[error("{command}: not offered")]
    NotOffered { command: Command },
    #[error("{command}: header flags {flags:#x}; accepted is No_reply (0x10)")]
    HeaderFlags { command: Command, flags: u32 },
    #[error("{command}: payload of {size} bytes; accepted are {least} to {most}")]
    PayloadSize { command: Command, size: usize, least: usize, most: usize },
    #[error("{command}: {count} file descriptors; accepted are {least} to {most}")]
    FdCount { command: Command, count: usize, least: usize, most: usize },
    #[error("{command}: argsz {argsz}; accepted are {least} and more")]
    Argsz { command: Command, argsz: u32, least: usize },
    #[error("{command}: flags {flags:#x}; accepted are the bits {accepted:#x}")]
    Flags { command: Command, flags: u32, accepted: u32 },
    #[error("VERSION: said before")]
    VersionAgain,
    #[error("{command}: region {index}; accepted are 0 to {last}", last = REGIONS - 1)]
    RegionIndex { command: Command, index: u32 },
    #[error(
        "{command}: {count} bytes at {offset:#x} of region {region}, which has {len:#x}; accepted are up to {DATA_MAX} inside it"
    )]
    RegionRange { command: Command, region: u32, offset: u64, count: u32, len: u64 },
    #[error("{command}: count {count} with {size} bytes of data")]
    DataSize { command: Command, count: u64, size: usize },
    #[error("{command}: interrupt index {index}; accepted are 0 to {last}")]
    IrqIndex { command: Command, index: u32, last: u32 },
    #[error("DEVICE_SET_IRQS: index {index}: {count} from {start} on; there are {most}")]
    IrqRange { index: u32, start: u32, count: u32, most: u32 },
    #[error(
        "DEVICE_SET_IRQS: index {index}: flags {flags:#x}; accepted is one kind of data and one action that fits it"
    )]
    IrqAction { index: u32, flags: u32 },
    #[error("{command}: {size:#x} bytes at {address:#x}: nothing, or past the end of the address space")]
    DmaRange { command: Command, address: u64, size: u64 },
    #[error("DMA_MAP: {size:#x} bytes at {address:#x}: some of it is mapped already")]
    DmaOverlap { address: u64, size: u64 },
    #[error("{command}: more than {DMA_MAPS_MAX} maps")]
    DmaMaps { command: Command },
    #[error("DMA_UNMAP: all, but from {address:#x} on and {size:#x} bytes; accepted are zeros")]
    UnmapAll { address: u64, size: u64 },
    #[error("DMA_MAP: {len:#x} bytes at file offset {offset:#x}; accepted are 1 byte to 2^47 bytes")]
    MapLength { len: u64, offset: u64 },
    #[error("DMA_MAP: its descriptor is no regular file; accepted are files of {ACCEPTED_FILE_SYSTEMS}")]
    MapFileKind,
    #[error(
        "DMA_MAP: its file lies on a file system with magic number {magic:#x}; accepted are files of {ACCEPTED_FILE_SYSTEMS}"
    )]
    MapFileSystem { magic: u32 },
    #[error("DMA_MAP: needs {need:#x} bytes of its file, which has {size:#x}")]
    MapFileTooSmall { need: u64, size: u64 },
    #[error(
        "DMA_MAP: the kernel refuses to map its file (errno {errno}); accepted are files open for reading, and for writing where the device may write"
    )]
    MapRefused { errno: i32 },
    #[error(
        "DMA_MAP: {len:#x} bytes besides the {mapped:#x} that this session has mapped; accepted are {MAPPED_MAX:#x} in all"
    )]
    SessionMemory { len: u64, mapped: u64 },
    #[error("DMA_MAP: more than {MAPPINGS_MAX} runs of files mapped at once")]
    SessionMappings,
    #[error("{command}: no file descriptor left for it")]
    Descriptors { command: Command },
}

const ENOMEM: u32 = 12;
const EEXIST: u32 = 17;
const EINVAL: u32 = 22;
const EMFILE: u32 = 24;
const ENOSPC: u32 = 28;
const EOPNOTSUPP: u32 = 95;

impl Refusal {
    /// The errno of the reply, by Linux's numbers.
    pub fn errno(&self) -> u32 {
        match self {
            Self::Unknown { .. } | Self::NotOffered { .. } => EOPNOTSUPP,
            Self::DmaOverlap { .. } => EEXIST,
            Self::DmaMaps { .. } => ENOSPC,
            Self::SessionMemory { .. } | Self::SessionMappings => ENOMEM,
            Self::Descriptors { .. } => EMFILE,
            Self::MapRefused { errno } => errno.unsigned_abs(),
            _ => EINVAL,
        }
    }
}
