//! The data-out buffer of a command: bytes that stay in the initiator's memory until they are used.

use guestmem::{MemSlice, read_segments};

/// A run of bytes inside a list of slices. What is read of it may be another thing each time.
#[derive(Clone, Copy, Debug)]
pub struct DataOut<'a> {
    segments: &'a [MemSlice<'a>],
    offset: usize,
    len: u64,
}

impl<'a> DataOut<'a> {
    /// No bytes.
    pub const EMPTY: Self = Self { segments: &[], offset: 0, len: 0 };

    /// `len` bytes of a list, from `offset` on. The list has to have as many.
    pub fn new(segments: &'a [MemSlice<'a>], offset: usize, len: u64) -> Self {
        Self { segments, offset, len }
    }

    /// All bytes of a list.
    pub fn whole(segments: &'a [MemSlice<'a>]) -> Self {
        Self::new(segments, 0, guestmem::total_len(segments) as u64)
    }

    /// How many bytes there are.
    #[allow(clippy::len_without_is_empty, reason = "nobody needs it")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Copies `out.len()` bytes from position `at` on; returns how many there were.
    pub fn read(&self, at: u64, out: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(at).min(out.len() as u64) as usize;
        read_segments(self.segments, self.offset.saturating_add(at as usize), &mut out[..left])
    }
}
