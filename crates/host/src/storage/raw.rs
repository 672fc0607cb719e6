//! Disks that are a file or a block device of the host, byte for byte.

use super::image::{ImageError, Options};
use super::ranges::Ranges;
use super::{buffers, fault_of};
use crate::sys;
use devices::storage::{Extent, IoFault, Limits, Shape};
use guestmem::{KeptRuns, Part};
use rustix::fs::{AtFlags, OFlags, StatxFlags};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What of a discard or of zeros is taken at once; both are as fast for much as for little.
const ALLOCATE_MAX: u64 = 1 << 30;

/// A file that is open, and what it takes.
#[derive(Debug)]
pub(super) struct RawFile {
    file: File,
    is_device: bool,
    /// Nothing may be written.
    pub(super) read_only: bool,
    /// Offsets and lengths of data must be multiples of it; 1: anything goes, the kernel's page cache lies between.
    pub(super) block: u32,
    /// Addresses of data must be multiples of it.
    pub(super) memory_align: u32,
    /// The same for offsets and lengths of holes and zeros.
    allocate_align: u64,
    capacity: AtomicU64,
    /// Whether it takes holes, as far as is known.
    pub(super) holes: AtomicBool,
    /// Whether it takes zeros without their bytes, as far as is known.
    pub(super) zeros: AtomicBool,
    /// Writes that were reported as done are lost: no flush can be reported as done any more.
    pub(super) lost: AtomicBool,
    /// Who may write where; `None`: no write reads around it.
    pub(super) ranges: Option<Arc<Ranges>>,
}

/// Opens `path` for one owner who writes, or for many who read; tells whether it is a block device.
pub(super) fn open_locked(path: &Path, read_only: bool) -> Result<(File, bool), ImageError> {
    let name = || path.to_owned();
    let fault = |source| ImageError::Open { path: name(), source };
    // Non-blocking: a pipe in the place of a file keeps nobody waiting.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut options = File::options();
    options.read(true).write(!read_only).custom_flags(flags.bits() as i32);
    let file = options.open(path).map_err(fault)?;
    let kind = file.metadata().map_err(fault)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::Kind { path: name() });
    }
    sys::lock(&file, !read_only).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => ImageError::InUse { path: name() },
        _ => fault(source),
    })?;
    Ok((file, kind.is_block_device()))
}

impl RawFile {
    /// Opens and locks it.
    pub(super) fn open(path: &Path, options: &Options) -> Result<(Self, Shape, bool), ImageError> {
        let fault = |source| ImageError::Open { path: path.to_owned(), source };
        let block_min = options.block_min;
        if !block_min.is_power_of_two() || !(512..=buffers::ALIGN_MAX as u32).contains(&block_min) {
            return Err(ImageError::BlockMin { path: path.to_owned(), block_min });
        }
        let (file, is_device) = open_locked(path, options.read_only)?;
        let size = size_of(&file).map_err(fault)?;
        let direct = if options.direct { go_direct(&file, size, block_min).map_err(fault)? } else { None };
        let (memory_align, block) = direct.unwrap_or((1, 1));
        let logical =
            if is_device { rustix::fs::ioctl_blksszget(&file).map_err(|e| fault(e.into()))? } else { 512 };
        let this = Self {
            is_device,
            read_only: options.read_only,
            block,
            memory_align,
            allocate_align: if is_device { u64::from(logical) } else { 1 },
            capacity: AtomicU64::new(whole(size, block)),
            holes: AtomicBool::new(true),
            zeros: AtomicBool::new(true),
            lost: AtomicBool::new(false),
            ranges: (block > 512).then(Arc::default),
            file,
        };
        let (shape, is_rotational) = this.shape(logical, options).map_err(fault)?;
        Ok((this, shape, is_rotational))
    }

    fn shape(&self, logical: u32, options: &Options) -> io::Result<(Shape, bool)> {
        let metadata = self.file.metadata()?;
        let block = self.block.max(options.block_min);
        let mut shape = Shape {
            logical_block: logical,
            physical_block: logical.max(block),
            read_only: self.read_only,
            serial: options.serial,
            ..Shape::plain(self.capacity())
        };
        let mut granularity = 512;
        let mut discards = true;
        let mut is_rotational = false;
        if self.is_device {
            let device = Device::new(metadata.rdev());
            shape.physical_block = rustix::fs::ioctl_blkpbszget(&self.file)?.max(shape.physical_block);
            shape.alignment_offset = device.number("alignment_offset").unwrap_or(0) as u32;
            shape.minimum_io = device.queue("minimum_io_size").unwrap_or(0) as u32;
            shape.optimal_io = device.queue("optimal_io_size").unwrap_or(0) as u32;
            discards = device.queue("discard_max_bytes").unwrap_or(0) > 0;
            granularity = device.queue("discard_granularity").unwrap_or(512);
            is_rotational = device.queue("rotational") == Some(1);
        } else {
            let cluster = u32::try_from(metadata.blksize()).unwrap_or(4096);
            let is_usable = cluster.is_power_of_two() && (512..=buffers::ALIGN_MAX as u32).contains(&cluster);
            if is_usable {
                shape.physical_block = cluster.max(shape.physical_block);
                granularity = u64::from(cluster);
            }
        }
        if !self.read_only {
            let alignment = u32::try_from(granularity).unwrap_or(512).max(512) / 512 * 512;
            let limits = Limits { len_max: ALLOCATE_MAX, extents_max: 256, alignment };
            shape.discard = discards.then_some(limits);
            shape.zero = Some(limits);
            shape.zero_unmaps = discards;
        }
        Ok((shape, is_rotational))
    }

    /// Bytes that a guest may use.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes that the file has at this moment.
    pub(super) fn size(&self) -> io::Result<u64> {
        size_of(&self.file)
    }

    /// Reads its size again.
    pub(super) fn refresh(&self) -> io::Result<u64> {
        let capacity = whole(self.size()?, self.block);
        self.capacity.store(capacity, Ordering::Relaxed);
        Ok(capacity)
    }

    /// Makes a file so many bytes long; a block device cannot be.
    pub(super) fn resize(&self, bytes: u64) -> Result<(), IoFault> {
        match (self.is_device, self.read_only) {
            (true, _) => return Err(IoFault::Unsupported),
            (_, true) => return Err(IoFault::ReadOnly),
            _ => {}
        }
        let whole = bytes.is_multiple_of(u64::from(self.block.max(512)));
        if !whole {
            return Err(IoFault::OutOfRange);
        }
        self.file.set_len(bytes).and_then(|()| self.refresh()).map(drop).map_err(|error| fault_of(&error))
    }

    /// Whether `extent` can go straight between the file and these runs.
    pub(super) fn takes(&self, extent: Extent, runs: &KeptRuns, part: Part) -> bool {
        let block = u64::from(self.block);
        block == 1
            || extent.offset.is_multiple_of(block)
                && extent.len.is_multiple_of(block)
                && runs.is_aligned_for(part, self.memory_align as usize, self.block as usize)
    }

    /// What of `extent` can be made a hole or zeros; empty: nothing.
    pub(super) fn allocates(&self, extent: Extent) -> Extent {
        let align = self.allocate_align;
        let offset = extent.offset.checked_next_multiple_of(align).unwrap_or(u64::MAX);
        let end = extent.end() / align * align;
        Extent { offset, len: end.saturating_sub(offset) }
    }

    /// Reads at `offset`; may be short.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }
}

impl Drop for RawFile {
    /// A ring that has ended holds the file for some time yet; the next opener need not wait for that.
    fn drop(&mut self) {
        sys::unlock(&self.file);
    }
}

impl AsFd for RawFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `size` without what does not fill a block.
fn whole(size: u64, block: u32) -> u64 {
    let block = u64::from(block.max(512));
    size / block * block
}

/// Bytes of a file or of a block device.
fn size_of(mut file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() { file.seek(SeekFrom::End(0)) } else { Ok(metadata.len()) }
}

/// Takes the page cache out of the way, if the file and its size allow: alignments of memory, and of offsets and lengths.
fn go_direct(file: &File, size: u64, block_min: u32) -> io::Result<Option<(u32, u32)>> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(None);
    }
    let aligns = stated(file).or_else(|| tried(file)).map(|(memory, block)| (memory, block.max(block_min)));
    // The last bytes of a file that ends within a block could only be written by making it longer.
    let is_good = |(memory, block): (u32, u32)| {
        let is_align = |align: u32| align.is_power_of_two() && align as usize <= buffers::ALIGN_MAX;
        is_align(memory) && is_align(block) && size.is_multiple_of(u64::from(block))
    };
    match aligns {
        Some((memory, block)) if is_good((memory, block)) => Ok(Some((memory, block))),
        _ => {
            rustix::fs::fcntl_setfl(file, flags)?;
            Ok(None)
        }
    }
}

/// What the kernel says about direct I/O (`STATX_DIOALIGN`, Linux 6.1).
fn stated(file: &File) -> Option<(u32, u32)> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let is_told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    (is_told && stat.stx_dio_offset_align > 0).then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

/// The smallest block that can be read directly, found out by reading.
fn tried(file: &File) -> Option<(u32, u32)> {
    let mut bounce = buffers::Bounce::default();
    let mut block = 512;
    while block <= buffers::ALIGN_MAX {
        bounce.fit(block, block);
        if file.read_at(bounce.bytes_mut(), 0).is_ok() {
            return Some((block as u32, block as u32));
        }
        block *= 2;
    }
    None
}

/// A block device's attributes in sysfs.
struct Device(String);

impl Device {
    fn new(number: u64) -> Self {
        Self(format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
    }

    fn number(&self, name: &str) -> Option<u64> {
        std::fs::read_to_string(format!("{}/{name}", self.0)).ok()?.trim().parse().ok()
    }

    /// An attribute of its queue; a partition has that of its disk.
    fn queue(&self, name: &str) -> Option<u64> {
        self.number(&format!("queue/{name}")).or_else(|| self.number(&format!("../queue/{name}")))
    }
}
