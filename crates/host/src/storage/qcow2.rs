//! Disks in QCOW2. The library `imago` keeps the format; what it is given was checked before ([`super::qcow2_header`]).
//!
//! Its calls block, so the engine of threads makes them. They want memory of our own: data goes through a buffer, a piece at a time.

use super::buffers::CHUNK;
use super::fault_of;
use super::image::{ImageError, Options};
use super::qcow2_header::{self, HeaderFault};
use super::raw::open_locked;
use devices::storage::{Extent, Failure, IoFault, Limits, Outcome, Shape, Work};
use guestmem::{KeptRuns, Part};
use imago::file::File as ImageFile;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2 as Layer;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Images that may build on each other.
const CHAIN_MAX: usize = 16;

/// An image that is open.
#[derive(Debug)]
pub(super) struct Qcow2 {
    /// Reads and writes share it; what takes clusters away has it alone.
    access: RwLock<FormatAccess<ImageFile>>,
    capacity: AtomicU64,
    read_only: bool,
    /// A flush has failed: what was written before may be lost.
    lost: AtomicBool,
}

/// What was opened on the way to a backing file.
struct Chain<'a> {
    path: &'a Path,
    options: &'a Options,
    /// Device and inode of each file.
    seen: Vec<(u64, u64)>,
}

impl Qcow2 {
    pub(super) fn open(path: &Path, options: &Options) -> Result<(Self, Shape), ImageError> {
        let (file, _) = open_locked(path, options.read_only)?;
        let mut chain = Chain { path, options, seen: Vec::new() };
        let (access, cluster) = chain.layer(file, !options.read_only)?;
        let capacity = access.size() / 512 * 512;
        let cluster = u32::try_from(cluster).unwrap_or(1 << 16);
        let limits = Limits { len_max: 1 << 30, extents_max: 256, alignment: cluster };
        let may_write = !options.read_only;
        let shape = Shape {
            physical_block: 4096,
            optimal_io: cluster,
            discard: may_write.then_some(limits),
            zero: may_write.then_some(limits),
            zero_unmaps: may_write,
            read_only: options.read_only,
            serial: options.serial,
            ..Shape::plain(capacity)
        };
        let this = Self {
            access: RwLock::new(access),
            capacity: AtomicU64::new(capacity),
            read_only: options.read_only,
            lost: AtomicBool::new(false),
        };
        Ok((this, shape))
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(super) fn resize(&self, bytes: u64) -> io::Result<()> {
        if !bytes.is_multiple_of(512) || bytes >= 1 << 56 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut access = self.access.write();
        access.resize(bytes, PreallocateMode::Zero)?;
        access.flush()?;
        access.sync()?;
        self.capacity.store(access.size() / 512 * 512, Ordering::Relaxed);
        Ok(())
    }

    /// Does `work` with the bytes of `part`. This blocks.
    pub(super) fn carry_out(&self, work: &Work, runs: &KeptRuns, part: Part) -> Outcome {
        match work {
            Work::Read(extent) => self.each_piece(*extent, |access, bytes, offset, at| {
                access.read(&mut *bytes, offset)?;
                runs.write(part, at, bytes);
                Ok(())
            }),
            _ if self.read_only && *work != Work::Flush => Err(IoFault::ReadOnly.into()),
            Work::Write { extent, through } => {
                self.each_piece(*extent, |access, bytes, offset, at| {
                    runs.read(part, at, bytes);
                    access.write(&*bytes, offset)
                })?;
                self.settle(*through)
            }
            Work::Flush => self.settle(!self.read_only),
            Work::Discard(extents) => {
                let mut access = self.access.write();
                self.each_extent(extents.as_slice(), |extent| {
                    match access.discard_to_any(extent.offset, extent.len) {
                        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
                        result => result,
                    }
                })
            }
            Work::Zero { extents, unmap: true, through } => {
                let mut access = self.access.write();
                self.each_extent(extents.as_slice(), |extent| {
                    access.discard_to_zero(extent.offset, extent.len)
                })?;
                drop(access);
                self.settle(*through)
            }
            Work::Zero { extents, unmap: false, through } => {
                let access = self.access.read();
                self.each_extent(extents.as_slice(), |extent| {
                    access.write_zeroes(extent.offset, extent.len)
                })?;
                drop(access);
                self.settle(*through)
            }
            Work::SecureErase(_) => Err(IoFault::Unsupported.into()),
        }
    }

    /// Makes all that was done survive, if `must`.
    fn settle(&self, must: bool) -> Outcome {
        if !must {
            return Ok(());
        }
        if self.lost.load(Ordering::Relaxed) {
            return Err(IoFault::Medium.into());
        }
        let access = self.access.read();
        access.flush().and_then(|()| access.sync()).map_err(|error| {
            self.lost.store(true, Ordering::Relaxed);
            Failure::from(fault_of(&error))
        })
    }

    fn each_extent(&self, extents: &[Extent], mut act: impl FnMut(Extent) -> io::Result<()>) -> Outcome {
        let capacity = self.capacity();
        if !extents.iter().all(|extent| extent.is_within(capacity)) {
            return Err(IoFault::OutOfRange.into());
        }
        extents.iter().try_for_each(|extent| act(*extent)).map_err(|error| fault_of(&error).into())
    }

    /// Calls `act` with a buffer for each piece of `extent`, its offset on the disk and its position in the data.
    fn each_piece(
        &self,
        extent: Extent,
        mut act: impl FnMut(&FormatAccess<ImageFile>, &mut [u8], u64, usize) -> io::Result<()>,
    ) -> Outcome {
        if !extent.is_within(self.capacity()) {
            return Err(IoFault::OutOfRange.into());
        }
        let access = self.access.read();
        let mut buffer = vec![0; extent.len.min(CHUNK as u64) as usize];
        let mut done = 0;
        while done < extent.len {
            let len = (extent.len - done).min(buffer.len() as u64) as usize;
            act(&access, &mut buffer[..len], extent.offset + done, done as usize)
                .map_err(|error| Failure { fault: fault_of(&error), done })?;
            done += len as u64;
        }
        Ok(())
    }
}

impl Chain<'_> {
    /// Opens the image in `file` and all that it builds on; returns its bytes of a cluster, too.
    fn layer(&mut self, file: File, write: bool) -> Result<(FormatAccess<ImageFile>, u64), ImageError> {
        let fault = |source| ImageError::Open { path: self.path.to_owned(), source };
        let metadata = file.metadata().map_err(fault)?;
        self.seen.push((metadata.dev(), metadata.ino()));
        let read = |bytes: &mut [u8], offset: u64| file.read_exact_at(bytes, offset);
        let header = qcow2_header::check(&read, metadata.len(), !write)
            .map_err(|fault| ImageError::Header { path: self.path.to_owned(), fault })?;
        let backing = match &header.backing {
            None => None,
            Some((name, is_qcow2)) => Some(self.backing(name, *is_qcow2)?),
        };
        let fault = |source| ImageError::Open { path: self.path.to_owned(), source };
        let storage = storage(file, write).map_err(fault)?;
        let layer = Layer::<ImageFile>::builder(storage)
            .write(write)
            .backing(backing)
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map_err(fault)?;
        let access = FormatAccess::new(layer);
        if access.size() != header.size {
            return Err(ImageError::Header {
                path: self.path.to_owned(),
                fault: HeaderFault::Size(header.size),
            });
        }
        Ok((access, header.cluster))
    }

    /// Opens the backing file `name`, if it is one that may be opened.
    fn backing(&mut self, name: &str, is_qcow2: bool) -> Result<FormatAccess<ImageFile>, ImageError> {
        let refuse =
            |reason| ImageError::Backing { path: self.path.to_owned(), name: name.to_owned(), reason };
        if !self.options.backing {
            return Err(refuse("the configuration does not allow one"));
        }
        if self.seen.len() >= CHAIN_MAX {
            return Err(refuse("too many images build on each other"));
        }
        let directory = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let fault = |source| ImageError::Open { path: directory.join(name), source };
        let place = File::open(&directory).map_err(fault)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // No way out of the image's directory: not by "..", not by an absolute name, not by a link.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&place, name, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::XDEV) => return Err(refuse("it is not in the image's directory")),
            Err(error) => return Err(fault(error.into())),
        };
        let metadata = file.metadata().map_err(fault)?;
        if !metadata.is_file() {
            return Err(refuse("it is not a regular file"));
        }
        if self.seen.contains(&(metadata.dev(), metadata.ino())) {
            return Err(refuse("the images build on each other in a circle"));
        }
        crate::sys::lock(&file, false).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => ImageError::InUse { path: directory.join(name) },
            _ => fault(source),
        })?;
        if is_qcow2 {
            return Ok(self.layer(file, false)?.0);
        }
        let raw = Raw::builder(storage(file, false).map_err(fault)?).open(DenyImplicitOpenGate::default());
        Ok(FormatAccess::new(raw.map_err(fault)?))
    }
}

fn storage(file: File, write: bool) -> io::Result<ImageFile> {
    ImageFile::from_open_file(file, StorageOpenOptions::new().write(write))
}
