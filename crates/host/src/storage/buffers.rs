//! The memory of one request in flight: runs of guest memory, and a bounce buffer where a disk cannot use them as they are.

use guestmem::{KeptRuns, Part};

/// Bytes of a request that go through its bounce buffer at once; a multiple of every [`ALIGN_MAX`].
pub(crate) const CHUNK: usize = 256 << 10;

/// The largest alignment that a disk may ask for, in bytes.
pub(crate) const ALIGN_MAX: usize = 64 << 10;

/// Memory of our own that begins at a multiple of what was asked for.
#[derive(Debug, Default)]
pub(crate) struct Bounce {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    /// Makes it `len` bytes (at most [`CHUNK`] + [`ALIGN_MAX`]) at a multiple of `align` (a power of two, at most [`ALIGN_MAX`]);
    /// what it holds then is undefined.
    pub(crate) fn fit(&mut self, len: usize, align: usize) {
        assert!(len <= CHUNK + ALIGN_MAX && align.is_power_of_two() && align <= ALIGN_MAX);
        if self.bytes.len() < len + align {
            self.bytes = vec![0; len + align];
        }
        let addr = self.bytes.as_ptr().addr();
        self.start = addr.next_multiple_of(align) - addr;
        self.len = len;
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// What a request's operations read from and write to. It belongs to whoever carries an operation out, for as long as that lasts.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// The guest's memory.
    pub(crate) runs: KeptRuns,
    /// What of it is still to be read or written.
    pub(crate) part: Part,
    /// Memory of our own.
    pub(crate) bounce: Bounce,
}

/// Which memory one operation uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    /// [`Buffers::part`].
    Guest,
    /// So many bytes of [`Buffers::bounce`], from this one on.
    Bounce {
        /// The first byte.
        first: usize,
        /// Bytes.
        len: usize,
    },
}

/// One operation on a file, as a system call does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// `preadv`.
    Read { offset: u64, data: Data },
    /// `pwritev2`; `through`: with `RWF_DSYNC`.
    Write { offset: u64, data: Data, through: bool },
    /// `fdatasync`.
    Sync,
    /// `fallocate`, which never changes the size: makes a hole, or zeros that keep their place (`!hole`).
    Allocate { offset: u64, len: u64, hole: bool },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounce_buffer_lies_where_it_was_asked_to() {
        let mut bounce = Bounce::default();
        for (len, align) in [(512, 512), (4096, 4096), (1, 1), (CHUNK, ALIGN_MAX), (100, 64)] {
            bounce.fit(len, align);
            bounce.bytes_mut().fill(7);
            assert_eq!((bounce.bytes().len(), bounce.bytes().as_ptr().addr() % align), (len, 0));
            assert!(bounce.bytes().iter().all(|byte| *byte == 7));
        }
        bounce.clear();
        assert!(bounce.bytes().is_empty());
    }
}
