//! Disks that are memory, or nothing at all: for tests, and to measure the way to a disk without one.

use super::image::ImageError;
use devices::storage::{Extent, Failure, IoFault, Outcome, Shape, Work};
use guestmem::{GuestAddr, GuestMemory, KeptRuns, Part};
use std::sync::atomic::{AtomicU64, Ordering};

/// A disk of memory; it is gone with the process.
#[derive(Debug)]
pub(super) struct Ram {
    memory: GuestMemory,
    len: u64,
    capacity: AtomicU64,
}

impl Ram {
    /// `len` zeros, which take up memory once they are written.
    pub(super) fn new(len: u64) -> Result<Self, ImageError> {
        let bytes = usize::try_from(len).ok().filter(|bytes| *bytes > 0).ok_or(ImageError::Memory { len })?;
        let memory = GuestMemory::anonymous(GuestAddr(0), bytes).map_err(|_| ImageError::Memory { len })?;
        Ok(Self { memory, len, capacity: AtomicU64::new(len / 512 * 512) })
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Up to what it was made with.
    pub(super) fn resize(&self, bytes: u64) -> Result<(), IoFault> {
        if bytes > self.len || !bytes.is_multiple_of(512) {
            return Err(IoFault::OutOfRange);
        }
        self.capacity.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Does `work` with the first `len` bytes of `part`.
    pub(super) fn carry_out(&self, work: &Work, runs: &KeptRuns, part: Part) -> Outcome {
        let capacity = self.capacity();
        let (extents, is_read) = match work {
            Work::Flush => return Ok(()),
            Work::Read(extent) => (std::slice::from_ref(extent), true),
            Work::Write { extent, .. } => (std::slice::from_ref(extent), false),
            Work::Discard(extents) | Work::Zero { extents, .. } | Work::SecureErase(extents) => {
                return self.clear(extents.as_slice(), capacity);
            }
        };
        let Some(extent) = extents.first().filter(|extent| extent.is_within(capacity)) else {
            return Err(IoFault::OutOfRange.into());
        };
        self.copy(*extent, runs, part, is_read)
    }

    fn copy(&self, extent: Extent, runs: &KeptRuns, part: Part, is_read: bool) -> Outcome {
        let mut done = 0;
        for slice in runs.slices(part) {
            let (now, _) = slice.split_at((extent.len - done).min(slice.len() as u64) as usize);
            if now.is_empty() {
                continue;
            }
            let place = self.memory.slice(GuestAddr(extent.offset + done), now.len());
            let place = place.ok_or(Failure { fault: IoFault::Medium, done })?;
            if is_read {
                place.copy_to(now)
            } else {
                now.copy_to(place)
            };
            done += now.len() as u64;
        }
        if done == extent.len { Ok(()) } else { Err(Failure { fault: IoFault::Medium, done }) }
    }

    fn clear(&self, extents: &[Extent], capacity: u64) -> Outcome {
        if !extents.iter().all(|extent| extent.is_within(capacity)) {
            return Err(IoFault::OutOfRange.into());
        }
        for extent in extents {
            let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
            self.memory.slice(GuestAddr(extent.offset), len).ok_or(IoFault::Medium)?.fill(0);
        }
        Ok(())
    }
}

/// A disk that forgets what is written and leaves a reader's memory as it is.
#[derive(Debug)]
pub(super) struct Null {
    capacity: AtomicU64,
}

impl Null {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity: AtomicU64::new(capacity / 512 * 512) }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(super) fn resize(&self, bytes: u64) {
        self.capacity.store(bytes / 512 * 512, Ordering::Relaxed);
    }

    pub(super) fn carry_out(&self, work: &Work) -> Outcome {
        let extents = match work {
            Work::Flush => return Ok(()),
            Work::Read(extent) | Work::Write { extent, .. } => std::slice::from_ref(extent),
            Work::Discard(extents) | Work::Zero { extents, .. } | Work::SecureErase(extents) => {
                extents.as_slice()
            }
        };
        let is_inside = extents.iter().all(|extent| extent.is_within(self.capacity()));
        if is_inside { Ok(()) } else { Err(IoFault::OutOfRange.into()) }
    }
}

/// The shape of either.
pub(super) fn shape(capacity: u64) -> Shape {
    let limits = devices::storage::Limits { len_max: 1 << 30, extents_max: 256, alignment: 512 };
    Shape {
        physical_block: 4096,
        discard: Some(limits),
        zero: Some(limits),
        zero_unmaps: true,
        secure_erase: Some(limits),
        ..Shape::plain(capacity / 512 * 512)
    }
}
