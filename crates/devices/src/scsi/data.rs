//! Bytes of a request that stay in the initiator's memory until they are used.

use guestmem::{KeptRuns, MemSlice, Part, read_segments, total_len, write_segments};

/// One part of a request's buffers: borrowed while its chain is at hand, or kept for later.
///
/// What is read here may be another thing each time.
#[derive(Clone, Copy, Debug)]
pub enum Bytes<'a> {
    /// Slices, in order.
    Slices(&'a [MemSlice<'a>]),
    /// A part of a list of kept runs.
    Kept(&'a KeptRuns, Part),
}

impl<'a> From<&'a [MemSlice<'a>]> for Bytes<'a> {
    fn from(slices: &'a [MemSlice<'a>]) -> Self {
        Self::Slices(slices)
    }
}

impl Bytes<'_> {
    /// No bytes.
    pub const EMPTY: Self = Self::Slices(&[]);

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Slices(slices) => total_len(slices),
            Self::Kept(runs, part) => runs.len(*part),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes from position `at` on out; returns how many there were.
    pub fn read(&self, at: usize, out: &mut [u8]) -> usize {
        match self {
            Self::Slices(slices) => read_segments(slices, at, out),
            Self::Kept(runs, part) => runs.read(*part, at, out),
        }
    }

    /// Copies `data` in, from position `at` on; returns how many bytes found room.
    pub fn write(&self, at: usize, data: &[u8]) -> usize {
        match self {
            Self::Slices(slices) => write_segments(slices, at, data),
            Self::Kept(runs, part) => runs.write(*part, at, data),
        }
    }

    /// Sets `len` bytes from position `at` on; returns how many there were.
    pub fn fill(&self, at: usize, len: usize, byte: u8) -> usize {
        match self {
            Self::Slices(slices) => fill(slices.iter().copied(), at, len, byte),
            Self::Kept(runs, part) => fill(runs.slices(*part), at, len, byte),
        }
    }
}

fn fill<'m>(slices: impl Iterator<Item = MemSlice<'m>>, at: usize, len: usize, byte: u8) -> usize {
    let (mut skip, mut left) = (at, len);
    for slice in slices {
        if left == 0 {
            break;
        }
        let (_, rest) = slice.split_at(skip);
        skip -= slice.len() - rest.len();
        let (now, _) = rest.split_at(left);
        now.fill(byte);
        left -= now.len();
    }
    len - left
}

/// The data-out buffer of a command: a run of [`Bytes`].
#[derive(Clone, Copy, Debug)]
pub struct DataOut<'a> {
    bytes: Bytes<'a>,
    offset: usize,
    len: u64,
}

impl<'a> DataOut<'a> {
    /// `len` bytes from `offset` on, as many as there are.
    pub fn new(bytes: Bytes<'a>, offset: usize, len: u64) -> Self {
        Self { bytes, offset, len }
    }

    /// All bytes of a list of slices.
    pub fn whole(slices: &'a [MemSlice<'a>]) -> Self {
        Self::new(Bytes::Slices(slices), 0, total_len(slices) as u64)
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes from position `at` on out; returns how many there were.
    pub fn read(&self, at: u64, out: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(at).min(out.len() as u64) as usize;
        self.bytes.read(self.offset.saturating_add(at as usize), &mut out[..left])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guestmem::{GuestAddr, GuestMemory};
    use std::sync::Arc;

    #[test]
    fn borrowed_and_kept_bytes_are_the_same() {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 4096).unwrap());
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        let slices = [slice(0, 3), slice(10, 4), slice(100, 5)];
        let mut runs = KeptRuns::new();
        let part = runs.keep(&memory, &slices, 0, usize::MAX).unwrap();
        for bytes in [Bytes::from(&slices[..]), Bytes::Kept(&runs, part)] {
            assert_eq!((bytes.len(), bytes.is_empty()), (12, false));
            assert_eq!(bytes.fill(0, 100, 0), 12);
            assert_eq!(bytes.write(2, &[1, 2, 3, 4, 5, 6]), 6);
            assert_eq!((bytes.fill(6, 3, 9), bytes.fill(11, 2, 7), bytes.fill(12, 2, 8)), (3, 1, 0));
            let mut out = [0xEE; 13];
            assert_eq!(bytes.read(0, &mut out), 12);
            assert_eq!(out, [0, 0, 1, 2, 3, 4, 9, 9, 9, 0, 0, 7, 0xEE]);
            let data = DataOut::new(bytes, 2, 6);
            assert_eq!((data.read(4, &mut out), &out[..3]), (2, &[9, 9, 1][..]));
            assert_eq!((data.read(6, &mut out), data.read(u64::MAX, &mut out), data.len()), (0, 0, 6));
        }
        assert!(Bytes::EMPTY.is_empty());
    }
}
