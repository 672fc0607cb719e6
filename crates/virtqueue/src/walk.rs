//! From descriptors to a validated chain: the rules that hold for both ring forms.
//!
//! A [`Walk`] takes the private copies of descriptors one after the other, in the order of the chain, and
//! turns each buffer into segments. It stops at the first rule that is broken; the segments collected so far
//! are then dropped again.

use crate::burst::{Burst, Chain};
use crate::descriptor::{DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, WRITE};
use crate::fault::DriverFault;
use guestmem::{GuestAddr, GuestMemory, MemSlice, RegionHint};

/// Entries an indirect table may always have, even when the queue is smaller. Drivers rely on more than the
/// letter of virtio 1.3 §2.7.5.3.1 allows; this is what other devices accept.
pub const INDIRECT_DESCRIPTORS_MAX: u16 = 1024;

/// Segments of one chain at most. A chain reaches it only by crossing regions at almost every descriptor.
pub const SEGMENTS_MAX: usize = 1 << 16;

/// After this many segments a pop stops early and leaves further chains to the next one, so that the list of
/// a burst stays small whatever the driver does.
pub(crate) const SEGMENTS_PER_POP: usize = 4096;

/// Regions that answered last: one hint for buffers, one for indirect tables.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) buffer: RegionHint,
    pub(crate) table: RegionHint,
}

/// The usual chain: a single descriptor in one piece of memory. False: the chain is another one, or faulty;
/// nothing was done and a [`Walk`] finds out, from the same copy of the descriptor.
#[inline(always)]
pub(crate) fn single<'m>(
    memory: &'m GuestMemory,
    hints: &mut Hints,
    burst: &mut Burst<'m>,
    descriptor: &Descriptor,
    id: u16,
    sequence: u16,
) -> bool {
    let len = descriptor.len as usize;
    if descriptor.is(NEXT | INDIRECT) || len == 0 {
        return false;
    }
    let Some(run) = memory.run(descriptor.addr, len, &mut hints.buffer).filter(|run| run.len() == len) else {
        return false;
    };
    run.prefetch();
    let writable = u32::from(descriptor.is(WRITE));
    let readable = 1 - writable;
    burst.chains.push(Chain {
        id,
        slots: 1,
        sequence,
        first: burst.segments.len() as u32,
        readable,
        writable,
        readable_len: descriptor.len * readable,
        writable_len: descriptor.len * writable,
    });
    burst.segments.push(run);
    true
}

/// A chain in the making.
pub(crate) struct Walk<'w, 'm> {
    memory: &'m GuestMemory,
    hints: &'w mut Hints,
    chains: &'w mut Vec<Chain>,
    segments: &'w mut Vec<MemSlice<'m>>,
    first: usize,
    /// End of the readable segments.
    readable_end: usize,
    readable_len: u64,
    writable_len: u64,
}

impl<'w, 'm> Walk<'w, 'm> {
    #[inline(always)]
    pub(crate) fn new(memory: &'m GuestMemory, hints: &'w mut Hints, burst: &'w mut Burst<'m>) -> Self {
        let Burst { chains, segments, .. } = burst;
        let first = segments.len();
        Self { memory, hints, chains, segments, first, readable_end: first, readable_len: 0, writable_len: 0 }
    }

    /// Takes the next buffer of the chain.
    #[inline(always)]
    pub(crate) fn add(&mut self, descriptor: &Descriptor) -> Result<(), DriverFault> {
        let len = descriptor.len as usize;
        if len == 0 {
            return Err(DriverFault::ZeroLength);
        }
        let hint = &mut self.hints.buffer;
        let Some(run) = self.memory.run(descriptor.addr, len, hint) else {
            return Err(DriverFault::AddressRange);
        };
        run.prefetch();
        self.segments.push(run);
        if run.len() < len {
            self.add_rest(descriptor.addr, len, run.len())?;
        }
        if descriptor.is(WRITE) {
            self.writable_len += len as u64;
        } else if self.writable_len == 0 {
            self.readable_len += len as u64;
            self.readable_end = self.segments.len();
        } else {
            return Err(DriverFault::WritableBeforeReadable);
        }
        Ok(())
    }

    /// The rest of a buffer that goes on in the next region.
    #[cold]
    fn add_rest(&mut self, addr: GuestAddr, len: usize, mut done: usize) -> Result<(), DriverFault> {
        while done < len {
            let addr = addr.checked_add(done as u64).ok_or(DriverFault::AddressRange)?;
            let run = self.memory.run(addr, len - done, &mut self.hints.buffer);
            let run = run.ok_or(DriverFault::AddressRange)?;
            if self.segments.len() - self.first >= SEGMENTS_MAX {
                return Err(DriverFault::TooManySegments);
            }
            self.segments.push(run);
            done += run.len();
        }
        Ok(())
    }

    /// The number of entries of the indirect table that `descriptor` refers to; `room` more descriptors
    /// would be accepted.
    fn table_entries(descriptor: &Descriptor, room: u16) -> Result<u16, DriverFault> {
        if descriptor.is(NEXT) {
            return Err(DriverFault::IndirectWithNext);
        }
        let size = DESCRIPTOR_SIZE as u32;
        let entries = descriptor.len / size;
        if entries == 0 || !descriptor.len.is_multiple_of(size) || entries > u32::from(room) {
            return Err(DriverFault::IndirectTableSize);
        }
        Ok(entries as u16)
    }

    /// Takes the table of a split ring: entries are chained as in the ring itself (virtio 1.3 §2.7.5.3).
    pub(crate) fn add_split_table(
        &mut self,
        table: &Descriptor,
        room: u16,
        big: bool,
    ) -> Result<(), DriverFault> {
        let entries = Self::table_entries(table, room)?;
        let mut index = 0;
        for _ in 0..entries {
            let entry = Descriptor::from_split(self.load(table.addr, index)?, big);
            if entry.is(INDIRECT) {
                return Err(DriverFault::IndirectInIndirect);
            }
            self.add(&entry)?;
            if !entry.is(NEXT) {
                return Ok(());
            }
            index = entry.link;
            if index >= entries {
                return Err(DriverFault::IndirectIndex);
            }
        }
        // More steps than the table has entries: a loop.
        Err(DriverFault::ChainTooLong)
    }

    /// Takes the table of a packed ring: all entries, one after the other; only the write flag counts
    /// (virtio 1.3 §2.8.7).
    pub(crate) fn add_packed_table(&mut self, table: &Descriptor, room: u16) -> Result<(), DriverFault> {
        let entries = Self::table_entries(table, room)?;
        for index in 0..entries {
            let entry = Descriptor::from_packed(self.load(table.addr, index)?);
            if entry.is(INDIRECT) {
                return Err(DriverFault::IndirectInIndirect);
            }
            self.add(&entry)?;
        }
        Ok(())
    }

    /// A private copy of entry `index` of the indirect table at `table`.
    #[inline(always)]
    fn load(&mut self, table: GuestAddr, index: u16) -> Result<[u64; 2], DriverFault> {
        let offset = u64::from(index) * DESCRIPTOR_SIZE as u64;
        let addr = table.checked_add(offset).ok_or(DriverFault::IndirectTableRange)?;
        let mut bytes = [0; DESCRIPTOR_SIZE];
        let mut done = 0;
        while done < bytes.len() {
            let addr = addr.checked_add(done as u64).ok_or(DriverFault::IndirectTableRange)?;
            let run = self.memory.run(addr, bytes.len() - done, &mut self.hints.table);
            done += run.ok_or(DriverFault::IndirectTableRange)?.read(&mut bytes[done..]);
        }
        let [low, high] = words_of(bytes);
        Ok([low, high])
    }

    /// Puts the chain into the burst, once its last descriptor was taken.
    #[inline(always)]
    pub(crate) fn finish(&mut self, id: u16, slots: u16, sequence: u16) -> Result<(), DriverFault> {
        if self.readable_len + self.writable_len > u64::from(u32::MAX) {
            return Err(DriverFault::TotalLength);
        }
        let segments = self.segments.len();
        self.chains.push(Chain {
            id,
            slots,
            sequence,
            first: self.first as u32,
            readable: (self.readable_end - self.first) as u32,
            writable: (segments - self.readable_end) as u32,
            readable_len: self.readable_len as u32,
            writable_len: self.writable_len as u32,
        });
        Ok(())
    }

    /// Drops what was collected of a faulty chain.
    #[cold]
    pub(crate) fn abandon(self) {
        self.segments.truncate(self.first);
    }
}

/// The two words of a descriptor's bytes, in the byte order of the bytes.
#[inline(always)]
fn words_of(bytes: [u8; DESCRIPTOR_SIZE]) -> [u64; 2] {
    let value = u128::from_ne_bytes(bytes).to_le();
    [(value as u64).to_le(), ((value >> 64) as u64).to_le()]
}
