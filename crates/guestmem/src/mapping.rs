//! One shared mapping of a file that a front-end handed over.

use crate::sigbus;
#[cfg(not(miri))]
use std::os::fd::AsFd;
use thiserror::Error;

/// Why a file could not be mapped. Each names what the front-end sent and what would be accepted.
#[derive(Debug, Error)]
pub enum MapError {
    /// The length is zero or does not fit the address space.
    #[error("region of {len:#x} bytes at file offset {offset:#x}: accepted are 1 byte to 2^47 bytes")]
    Length {
        /// Bytes asked for.
        len: u64,
        /// Offset into the file, in bytes.
        offset: u64,
    },
    /// No regular file: a device, a pipe, a socket, an eventfd.
    #[error("region is no regular file: accepted are files of {ACCEPTED_FILE_SYSTEMS}")]
    FileKind,
    /// A file system on which a page fault may wait for somebody other than this host's kernel.
    #[error(
        "region lies on a file system with magic number {magic:#x}: accepted are files of {ACCEPTED_FILE_SYSTEMS}"
    )]
    FileSystem {
        /// The type that `fstatfs` gives.
        magic: u32,
    },
    /// The file ends before the region does.
    #[error("region needs {need:#x} bytes of its file, which has {size:#x}")]
    FileTooSmall {
        /// Offset plus length, in bytes.
        need: u64,
        /// The file's size, in bytes.
        size: u64,
    },
    /// The kernel refused.
    #[error("mapping the region: {0}")]
    Kernel(#[from] rustix::io::Errno),
}

/// The largest mapping accepted, in bytes: the user half of a 48-bit address space.
const LEN_MAX: u64 = 1 << 47;

/// On which file systems [`Mapping::file`] takes files, for messages.
pub const ACCEPTED_FILE_SYSTEMS: &str =
    "tmpfs (memfd, /dev/shm), hugetlbfs, ramfs, ext2 to ext4, xfs and btrfs";

/// File systems whose pages come from this host's memory or its own disks, by the magic numbers of
/// `linux/magic.h`. On any other (FUSE, network file systems) a page fault of ours may wait for a program or
/// a machine that the front-end controls, for as long as that likes, and no signal ends it.
#[cfg(not(miri))]
const FILE_SYSTEMS: [u32; 6] = [
    0x0102_1994, // tmpfs
    0x9584_58f6, // hugetlbfs
    0x8584_58f6, // ramfs
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
];

/// Which file a descriptor leads to. Two that are equal lead to one file, as long as a mapping or a descriptor of it is held.
#[cfg(not(miri))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

#[cfg(not(miri))]
impl FileId {
    /// The file of a descriptor and its size now, in bytes.
    ///
    /// # Errors
    /// [`MapError::Kernel`] if the descriptor leads to nothing that has an identity.
    pub fn of(file: impl AsFd) -> Result<(Self, u64), MapError> {
        let stat = rustix::fs::fstat(file)?;
        Ok((Self { device: stat.st_dev, inode: stat.st_ino }, stat.st_size as u64))
    }
}

/// A readable and writable mapping, shared with whoever gave the file unless it was made by
/// [`Mapping::file_read_only`]. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
    /// Bytes between the page-aligned start and the first byte asked for.
    skip: usize,
    /// Whether writes stay with us.
    #[cfg(not(miri))]
    private_file: bool,
    slot: sigbus::Slot,
}

// SAFETY: the mapping is plain shared memory, touched only through `MemSlice` and `MemArea`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from byte `offset` on. Neither needs to be page-aligned; huge pages of a
    /// hugetlbfs file are recognised by the file's block size. Only a regular file of a file system in
    /// [`ACCEPTED_FILE_SYSTEMS`] is mapped; that is settled before anything of it is touched.
    #[cfg(not(miri))]
    pub fn file(file: impl AsFd, offset: u64, len: u64) -> Result<Self, MapError> {
        Self::map_file(file, offset, len, rustix::mm::MapFlags::SHARED)
    }

    /// As [`Mapping::file`], for memory that we may only read: the file shows through, and what is written (a driver named
    /// it for writing all the same) stays in pages of our own that nobody else sees.
    #[cfg(not(miri))]
    pub fn file_read_only(file: impl AsFd, offset: u64, len: u64) -> Result<Self, MapError> {
        let mut mapping = Self::map_file(file, offset, len, rustix::mm::MapFlags::PRIVATE)?;
        mapping.private_file = true;
        Ok(mapping)
    }

    #[cfg(not(miri))]
    fn map_file(
        file: impl AsFd,
        offset: u64,
        len: u64,
        sharing: rustix::mm::MapFlags,
    ) -> Result<Self, MapError> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        if len == 0 || len > LEN_MAX || offset > LEN_MAX {
            return Err(MapError::Length { len, offset });
        }
        let stat = rustix::fs::fstat(&file)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(MapError::FileKind);
        }
        // Magic numbers have 32 bits; the field is a word of either sign.
        let magic = rustix::fs::fstatfs(&file)?.f_type as u32;
        if !FILE_SYSTEMS.contains(&magic) {
            return Err(MapError::FileSystem { magic });
        }
        let (need, size) = (offset + len, stat.st_size as u64);
        if need > size {
            return Err(MapError::FileTooSmall { need, size });
        }
        let page = (stat.st_blksize as u64).max(rustix::param::page_size() as u64);
        let page = if page.is_power_of_two() { page } else { rustix::param::page_size() as u64 };
        let first = offset & !(page - 1);
        let mapped = (need - first).next_multiple_of(page) as usize;
        let flags = sharing | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing existing is touched.
        let start = unsafe {
            mmap(std::ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, flags, file, first)?
        };
        Ok(Self::adopt(start.cast(), mapped, (offset - first) as usize))
    }

    /// Private zeroed memory of `len` bytes, for guests inside this process and for tests.
    #[cfg(not(miri))]
    pub fn anonymous(len: usize) -> Result<Self, MapError> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        if len == 0 || len as u64 > LEN_MAX {
            return Err(MapError::Length { len: len as u64, offset: 0 });
        }
        let mapped = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: as above.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Self::adopt(start.cast(), mapped, 0))
    }

    /// Private zeroed memory of `len` bytes (Miri knows no shared mappings: the heap stands in).
    #[cfg(miri)]
    pub fn anonymous(len: usize) -> Result<Self, MapError> {
        let layout = std::alloc::Layout::from_size_align(len, 4096)
            .map_err(|_| MapError::Length { len: len as u64, offset: 0 })?;
        if len == 0 || len as u64 > LEN_MAX {
            return Err(MapError::Length { len: len as u64, offset: 0 });
        }
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        Ok(Self::adopt(start, len, 0))
    }

    pub(crate) fn adopt(start: *mut u8, len: usize, skip: usize) -> Self {
        Self {
            start,
            len,
            skip,
            #[cfg(not(miri))]
            private_file: false,
            slot: sigbus::Slot::watch(start.addr(), len),
        }
    }

    /// Whether the file was truncated under the mapping: its bytes are zeros now and nobody else sees them.
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.slot.is_dead()
    }

    /// Bytes usable from the first byte asked for.
    pub fn len(&self) -> usize {
        self.len - self.skip
    }

    /// Whether nothing is usable (never true for a mapping that was made).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it was made by [`Mapping::file_read_only`].
    #[cfg(not(miri))]
    pub(crate) fn is_private_file(&self) -> bool {
        self.private_file
    }

    /// All that is mapped, in whole pages.
    #[cfg(not(miri))]
    pub(crate) fn whole(&self) -> (*mut u8, usize) {
        (self.start, self.len)
    }

    /// The first byte asked for.
    pub(crate) fn start(&self) -> *mut u8 {
        // SAFETY: `skip` is less than the mapped length.
        unsafe { self.start.add(self.skip) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.slot.forget();
        #[cfg(not(miri))]
        // SAFETY: the range was mapped by `file` or `anonymous` and nobody holds a slice of it: slices
        // borrow, areas hold an `Arc`.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
        #[cfg(miri)]
        // SAFETY: allocated with this very layout.
        unsafe {
            std::alloc::dealloc(self.start, std::alloc::Layout::from_size_align_unchecked(self.len, 4096));
        }
    }
}
