//! What the rest of the program sees of `[disk.NAME]`.

use std::path::{Path, PathBuf};

use super::resolved::{FunctionConfig, SocketRole};

/// `[disk.NAME]`: one virtio-blk device and what its bytes lie in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Name of the disk.
    pub name: String,
    /// How a guest gets at it.
    pub attach: DiskAttach,
    /// Where its bytes are.
    pub image: ImageConfig,
    /// Nobody may write to it.
    pub read_only: bool,
    /// Whether writes may stay in a volatile cache until they are flushed, where the driver does not say.
    pub cache: CacheMode,
    /// Bytes that a guest does not need any more are given back to the host.
    pub discard: bool,
    /// The unit that the disk is addressed in; a power of two from 512 to [`BLOCK_SIZE_MAX`]. `None`: that of the image.
    pub block_size: Option<u32>,
    /// What the guest reads as serial number; up to 20 printable characters. Empty: none.
    pub serial: String,
    /// How much it may be asked for.
    pub rates: DiskRates,
    /// The group of workers that serves its queues; `None`: `[workers]`.
    pub workers: Option<String>,
}

/// How a guest gets at a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskAttach {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Who listens on it.
    pub role: SocketRole,
    /// Most queues the guest may use; 1 to [`DISK_QUEUES_MAX`].
    pub queues: u16,
    /// What its driver finds, over vfio-user; `None`: vhost-user.
    pub function: Option<FunctionConfig>,
}

impl DiskAttach {
    /// The word for it in the file and in the API.
    pub fn kind(&self) -> &'static str {
        if self.function.is_some() { "vfio-user" } else { "vhost-user" }
    }
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageConfig {
    /// A file or a block device of the host.
    File {
        /// Its path.
        path: PathBuf,
        /// How its bytes are to be read.
        format: ImageFormat,
        /// Past the host's page cache; `None`: where the file system can.
        direct: Option<bool>,
    },
    /// Memory of the program, zero at the start and gone at the end.
    Ram {
        /// Size of the disk; a multiple of 512.
        bytes: u64,
    },
    /// Nothing: writes vanish, reads leave the guest's memory as it is; for measuring what lies before the disk.
    Null {
        /// Size of the disk; a multiple of 512.
        bytes: u64,
    },
}

impl ImageConfig {
    /// The word for it in the file and in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            ImageConfig::File { .. } => "file",
            ImageConfig::Ram { .. } => "ram",
            ImageConfig::Null { .. } => "null",
        }
    }

    /// The file, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            ImageConfig::File { path, .. } => Some(path),
            ImageConfig::Ram { .. } | ImageConfig::Null { .. } => None,
        }
    }
}

/// How the bytes of a file are to be read. Never found out from the bytes themselves: a guest can write any header into a raw disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk's bytes, one by one.
    Raw,
    /// QEMU's format.
    Qcow2 {
        /// The image may name another one that it is based on, in its own directory.
        backing_file: bool,
    },
}

impl ImageFormat {
    /// The word for it in the file and in the API.
    pub fn word(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 { .. } => "qcow2",
        }
    }
}

/// What becomes of a write that nobody flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// It may be lost with the host's power, as in the cache of any disk (`"write-back"`).
    WriteBack,
    /// It is not done before it would survive that (`"write-through"`).
    WriteThrough,
}

impl CacheMode {
    /// The word for it in the file and in the API.
    pub fn word(self) -> &'static str {
        match self {
            CacheMode::WriteBack => "write-back",
            CacheMode::WriteThrough => "write-through",
        }
    }
}

/// How much a disk may be asked for, all its queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRates {
    /// Requests a second.
    pub requests: Option<Rate>,
    /// Bytes a second, read or written.
    pub bytes: Option<Rate>,
}

/// A rate and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second; not zero.
    pub per_second: u64,
    /// Units that may come at once after a pause; at least one request, or [`BURST_BYTES_MIN`] bytes.
    pub burst: u64,
}

/// Most queues of a disk.
pub const DISK_QUEUES_MAX: u16 = 64;
/// Largest `block-size` of a disk.
pub const BLOCK_SIZE_MAX: u32 = 65_536;
/// Longest `serial`: what the device can answer (virtio 1.3 §5.2.6).
pub const SERIAL_BYTES_MAX: usize = 20;
/// Smallest size of a disk that is made of memory, and what it must be a multiple of.
pub const SECTOR_BYTES: u64 = 512;
/// Largest size of a disk.
pub const DISK_BYTES_MAX: u64 = 1 << 62;
/// Smallest `bytes-burst`, so that every request fits.
pub const BURST_BYTES_MIN: u64 = 1 << 20;
