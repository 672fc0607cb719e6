//! A disk's bytes: opened and locked once, shared by all queues of the device.

use super::fault_of;
use super::memory::{self, Null, Ram};
use super::qcow2::Qcow2;
use super::qcow2_header::HeaderFault;
use super::raw::RawFile;
use devices::storage::{IoFault, Serial, Shape};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a file's bytes mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// The bytes of the disk. A guest may write anything there, so it is never guessed that they mean something else.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

/// How to open a disk.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the file's bytes mean.
    pub format: Format,
    /// Nothing will be written: others may have it open the same way.
    pub read_only: bool,
    /// To leave out the host's page cache if the file can be used without it.
    pub direct: bool,
    /// What is written in part is read around in units of this at least, even if the file takes smaller ones directly: a power of two
    /// from 512 to 65536.
    pub block_min: u32,
    /// An image may name another one in its own directory that it builds on; otherwise none at all.
    pub backing: bool,
    /// The disk's name for its guest.
    pub serial: Serial,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: Format::Raw,
            read_only: false,
            direct: true,
            block_min: 512,
            backing: false,
            serial: Serial::NONE,
        }
    }
}

/// Why a disk cannot be opened.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ImageError {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: accepted are a regular file or a block device", path.display())]
    Kind { path: PathBuf },
    #[error("{}: in use by someone else; an image that is opened read-only can be shared with others who do so", path.display())]
    InUse { path: PathBuf },
    #[error("{}: {fault}", path.display())]
    Header { path: PathBuf, fault: HeaderFault },
    #[error("{}: the backing file {name:?} is not accepted: {reason}", path.display())]
    Backing { path: PathBuf, name: String, reason: &'static str },
    #[error("{}: block_min {block_min}: accepted are powers of two from 512 to 65536", path.display())]
    BlockMin { path: PathBuf, block_min: u32 },
    #[error("a disk of {len} bytes of memory: there is not so much")]
    Memory { len: u64 },
}

/// See the module.
#[derive(Debug)]
pub struct Image {
    name: String,
    shape: Shape,
    is_rotational: bool,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    File(RawFile),
    Qcow2(Box<Qcow2>),
    Ram(Ram),
    Null(Null),
    #[cfg(test)]
    PowerCut(super::powercut::PowerCut),
}

impl Image {
    /// Opens a file or a block device, and locks it (fcntl(2), open file description locks).
    ///
    /// # Errors
    /// It is not there, is neither, is in use, or its header is not accepted.
    pub fn open(path: &Path, options: &Options) -> Result<Self, ImageError> {
        let (kind, shape, is_rotational) = match options.format {
            Format::Raw => {
                let (file, shape, is_rotational) = RawFile::open(path, options)?;
                (Kind::File(file), shape, is_rotational)
            }
            Format::Qcow2 => {
                let (image, shape) = Qcow2::open(path, options)?;
                (Kind::Qcow2(Box::new(image)), shape, false)
            }
        };
        Ok(Self { name: path.display().to_string(), shape, is_rotational, kind })
    }

    /// A disk of `len` bytes of memory, which begins as zeros.
    ///
    /// # Errors
    /// There is no room for so much among the process's addresses, or `len` is zero.
    pub fn ram(len: u64, serial: Serial) -> Result<Self, ImageError> {
        let shape = Shape { serial, ..memory::shape(len) };
        Ok(Self { name: "memory".into(), shape, is_rotational: false, kind: Kind::Ram(Ram::new(len)?) })
    }

    /// A disk of `len` bytes that keeps nothing: what is read is whatever the reader's memory held before.
    pub fn null(len: u64) -> Self {
        let kind = Kind::Null(Null::new(len));
        Self { name: "nothing".into(), shape: memory::shape(len), is_rotational: false, kind }
    }

    /// A disk that can lose its power.
    #[cfg(test)]
    pub(crate) fn power_cut(disk: super::powercut::PowerCut) -> Self {
        let shape = memory::shape(disk.capacity());
        Self { name: "power".into(), shape, is_rotational: false, kind: Kind::PowerCut(disk) }
    }

    /// Its path, or what it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is at this moment, as a guest may see it.
    pub fn shape(&self) -> Shape {
        Shape { capacity: self.capacity(), ..self.shape }
    }

    /// Bytes that a guest may use.
    pub fn capacity(&self) -> u64 {
        match &self.kind {
            Kind::File(file) => file.capacity(),
            Kind::Qcow2(image) => image.capacity(),
            Kind::Ram(ram) => ram.capacity(),
            Kind::Null(null) => null.capacity(),
            #[cfg(test)]
            Kind::PowerCut(disk) => disk.capacity(),
        }
    }

    /// Whether it lies on a disk that turns.
    pub fn is_rotational(&self) -> bool {
        self.is_rotational
    }

    /// Whether the host's page cache is left out.
    pub fn is_direct(&self) -> bool {
        matches!(&self.kind, Kind::File(file) if file.block > 1)
    }

    /// Looks whether someone has changed its size, and uses what there is now; returns the new capacity if it is another one.
    ///
    /// # Errors
    /// The size cannot be read.
    pub fn refresh(&self) -> io::Result<Option<u64>> {
        let Kind::File(file) = &self.kind else { return Ok(None) };
        let before = file.capacity();
        let capacity = file.refresh()?;
        Ok((capacity != before).then_some(capacity))
    }

    /// Makes it `bytes` long, a multiple of 512 and of what its file wants its blocks to be. This can block: it is not for a worker.
    ///
    /// # Errors
    /// [`IoFault::Unsupported`]: not this kind of disk; [`IoFault::OutOfRange`]: not this length; and what the kernel says.
    pub fn resize(&self, bytes: u64) -> Result<(), IoFault> {
        match &self.kind {
            Kind::File(file) => file.resize(bytes),
            Kind::Qcow2(image) => image.resize(bytes).map_err(|error| fault_of(&error)),
            Kind::Ram(ram) => ram.resize(bytes),
            Kind::Null(null) => {
                null.resize(bytes);
                Ok(())
            }
            #[cfg(test)]
            Kind::PowerCut(_) => Err(IoFault::Unsupported),
        }
    }
}
