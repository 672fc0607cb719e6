//! What a disk is asked to do and what becomes of it, in bytes, with no word of virtio or SCSI.
//!
//! A device turns a request into [`Work`]; whoever owns the disk carries it out and answers `Ok(())` or a [`Failure`]. The data of
//! a read or a write stays in guest memory, described by the request that the work belongs to: bytes of an extent and bytes of the
//! request's data part correspond one to one.
//!
//! All offsets and lengths were validated against the disk's [`Shape`] when the work was made. They are multiples of 512 bytes, which
//! may be less than a logical block: a guest may ask for 512 bytes of a disk of larger blocks (virtio 1.3 §5.2.5), and the owner of the
//! disk reads around them.

use thiserror::Error;

/// A run of bytes of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Extent {
    /// The byte behind the last one; saturates, so that an extent that wraps ends outside of every disk.
    pub const fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Whether the extent lies in the first `capacity` bytes as a whole.
    pub const fn is_within(self, capacity: u64) -> bool {
        match self.offset.checked_add(self.len) {
            Some(end) => end <= capacity,
            None => false,
        }
    }
}

/// Extents of one work at most: what Linux puts into one discard.
pub const EXTENTS_MAX: usize = 256;

/// A list of at most [`EXTENTS_MAX`] extents, none of them empty. It takes up memory for those that are in it (4 KiB at most), and
/// none while it is empty.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// The empty list.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends `extent`; an empty one is left out, for there is nothing to do. False: the list is full, and stays as it is.
    #[must_use = "an extent that found no room is not in the list"]
    pub fn push(&mut self, extent: Extent) -> bool {
        if extent.len == 0 {
            return true;
        }
        let has_room = self.0.len() < EXTENTS_MAX;
        if has_room {
            self.0.push(extent);
        }
        has_room
    }

    /// The extents, in the order of the request.
    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Extent> for Extents {
    fn from(extent: Extent) -> Self {
        let mut extents = Self::new();
        let _has_room = extents.push(extent);
        extents
    }
}

/// What a disk is asked to do.
///
/// `through`: it is done only when it would survive a loss of power; without it, when a later [`Work::Flush`] would make it so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Fill the request's data part from the disk.
    Read(Extent),
    /// Put the request's data part on the disk.
    Write {
        /// Where to.
        extent: Extent,
        /// See [`Work`].
        through: bool,
    },
    /// All that was reported as done before survives a loss of power.
    Flush,
    /// The bytes are not needed any more; what is read there afterwards is undefined. A hint: doing nothing is right, too.
    Discard(Extents),
    /// The bytes read as zeros afterwards.
    Zero {
        /// Which.
        extents: Extents,
        /// Their place on the disk may be given up.
        unmap: bool,
        /// See [`Work`].
        through: bool,
    },
    /// The bytes cannot be had back by any means, copies that the disk made among them. Done means that this survives a loss of power.
    SecureErase(Extents),
}

/// Why a disk did not do what it was asked to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum IoFault {
    /// The disk or the way to it failed (EIO, and every error without a name of its own here).
    #[error("the disk failed")]
    Medium,
    /// No room is left where the disk's bytes lie (ENOSPC, EDQUOT).
    #[error("no space is left for the disk's data")]
    NoSpace,
    /// The disk may not be written (EROFS, EPERM, EBADF).
    #[error("the disk is read-only")]
    ReadOnly,
    /// The extent is not on the disk, which may have become smaller since.
    #[error("the extent lies outside the disk")]
    OutOfRange,
    /// The disk cannot do it (EOPNOTSUPP).
    #[error("the disk does not support the operation")]
    Unsupported,
    /// It was given up: a reset, a time-out, a queue that went away (ECANCELED).
    #[error("the operation was aborted")]
    Aborted,
}

/// Work that was not done, or not as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[error("{fault}, {done} bytes into the data")]
pub struct Failure {
    /// Why.
    pub fault: IoFault,
    /// Bytes of the request's data part, from its beginning on, that were read or written all the same; too low is allowed, too high is not.
    pub done: u64,
}

impl From<IoFault> for Failure {
    fn from(fault: IoFault) -> Self {
        Self { fault, done: 0 }
    }
}

/// What became of a work.
pub type Outcome = Result<(), Failure>;

/// How much of an operation on extents a disk takes at once. Every field is a promise to the guest, not to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one extent at most; a multiple of 512.
    pub len_max: u64,
    /// Extents of one work at most; more than [`EXTENTS_MAX`] count as that many.
    pub extents_max: u16,
    /// Bytes that offsets and lengths had best be multiples of; a multiple of 512.
    pub alignment: u32,
}

/// Bytes of the longest [`Serial`].
pub const SERIAL_LEN_MAX: usize = 36;

/// A disk's serial number: up to [`SERIAL_LEN_MAX`] printable ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Serial {
    bytes: [u8; SERIAL_LEN_MAX],
    len: u8,
}

/// Not a serial number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("serial number: accepted are up to {SERIAL_LEN_MAX} printable ASCII characters")]
pub struct SerialFault;

impl Serial {
    /// No serial number.
    pub const NONE: Self = Self { bytes: [0; SERIAL_LEN_MAX], len: 0 };

    /// Accepts `text` as a serial number; the empty text means that there is none.
    ///
    /// # Errors
    /// Too long, or a character that is not printable ASCII.
    pub fn new(text: &str) -> Result<Self, SerialFault> {
        let is_printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let mut bytes = [0; SERIAL_LEN_MAX];
        let place = bytes.get_mut(..text.len()).ok_or(SerialFault)?;
        place.copy_from_slice(text.as_bytes());
        if !place.iter().all(is_printable) {
            return Err(SerialFault);
        }
        Ok(Self { bytes, len: text.len() as u8 })
    }

    /// The characters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What a disk is, as far as its guest is told. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Size of the disk; bytes behind the last whole 512 are not seen by the guest.
    pub capacity: u64,
    /// The unit that the disk is addressed in: a power of two, at least 512.
    pub logical_block: u32,
    /// The unit that is written without reading around it: a power of two, at least `logical_block`.
    pub physical_block: u32,
    /// Where the first physical block begins, from the beginning of the disk; a multiple of `logical_block`.
    pub alignment_offset: u32,
    /// Reads and writes had best not be shorter; 0: not known.
    pub minimum_io: u32,
    /// The best length of long reads and writes; 0: not known.
    pub optimal_io: u32,
    /// What of [`Work::Discard`] is taken; `None`: nothing.
    pub discard: Option<Limits>,
    /// What of [`Work::Zero`] is taken; `None`: nothing.
    pub zero: Option<Limits>,
    /// Whether [`Work::Zero`] can give up the place of its bytes.
    pub zero_unmaps: bool,
    /// What of [`Work::SecureErase`] is taken; `None`: nothing.
    pub secure_erase: Option<Limits>,
    /// Nothing may be written.
    pub read_only: bool,
    /// The disk's name for its guest.
    pub serial: Serial,
}

impl Shape {
    /// A disk of `capacity` bytes and blocks of 512 that can be read, written and flushed, and nothing else.
    pub fn plain(capacity: u64) -> Self {
        Self {
            capacity,
            logical_block: 512,
            physical_block: 512,
            alignment_offset: 0,
            minimum_io: 0,
            optimal_io: 0,
            discard: None,
            zero: None,
            zero_unmaps: false,
            secure_erase: None,
            read_only: false,
            serial: Serial::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_that_wraps_is_on_no_disk() {
        let extent = |offset, len| Extent { offset, len };
        assert!(extent(0, 512).is_within(512) && extent(512, 0).is_within(512));
        assert!(!extent(0, 513).is_within(512) && !extent(513, 0).is_within(512));
        assert!(!extent(u64::MAX, 2).is_within(u64::MAX) && extent(u64::MAX - 1, 1).is_within(u64::MAX));
        assert_eq!((extent(3, 4).end(), extent(u64::MAX, 2).end()), (7, u64::MAX));
    }

    #[test]
    fn a_list_of_extents_is_bounded_and_holds_no_empty_ones() {
        let mut extents = Extents::new();
        for index in 0..EXTENTS_MAX as u64 {
            assert!(extents.push(Extent { offset: index * 512, len: 512 }));
            assert!(extents.push(Extent { offset: index * 512, len: 0 }));
        }
        let full = extents.clone();
        assert!(!extents.push(Extent { offset: 0, len: 512 }));
        assert!(extents.push(Extent { offset: 0, len: 0 }));
        assert_eq!((extents.as_slice().len(), &extents), (EXTENTS_MAX, &full));
        assert!(Extents::from(Extent { offset: 5, len: 0 }).is_empty());
        assert_eq!(Extents::from(Extent { offset: 5, len: 1 }).as_slice(), [Extent { offset: 5, len: 1 }]);
    }

    #[test]
    fn serial_numbers_are_printable_and_short() {
        assert_eq!(Serial::new("vd 0-a").unwrap().as_bytes(), b"vd 0-a");
        assert_eq!(Serial::new("").unwrap(), Serial::NONE);
        assert_eq!(Serial::new(&"x".repeat(36)).unwrap().as_bytes().len(), 36);
        assert_eq!(Serial::new(&"x".repeat(37)), Err(SerialFault));
        assert_eq!(Serial::new("a\nb"), Err(SerialFault));
        assert_eq!(Serial::new("é"), Err(SerialFault));
        assert_eq!(
            SerialFault.to_string(),
            "serial number: accepted are up to 36 printable ASCII characters"
        );
    }
}
