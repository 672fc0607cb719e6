//! From descriptors to a validated chain: the rules that hold for both ring forms.
//!
//! A [`Walk`] takes the private copies of descriptors one after the other, in the order of the chain, and
//! turns each buffer into segments. It stops at the first rule that is broken; the segments collected so far
//! are then dropped again.

use crate::burst::{Burst, Chain};
use crate::descriptor::{DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, WRITE};
use crate::fault::DriverFault;
use guestmem::{GuestAddr, GuestMemory, Lookup, MemSlice, RegionHint};

/// Descriptors of one chain at most, those in the ring and those in an indirect table together.
///
/// A smaller queue does not lower it for indirect tables: drivers rely on more than the letter of virtio 1.3
/// §2.7.5.3.1 allows. A larger queue does not raise it: every entry of a split ring may name the same chain,
/// so a chain as long as the largest ring would cost a driver nothing and the device 32768 descriptors each
/// time. QEMU draws the line at the same number (`VIRTQUEUE_MAX_SIZE`).
pub const CHAIN_DESCRIPTORS_MAX: u16 = 1024;

/// Segments of one chain at most. A chain reaches it only by crossing several regions at every descriptor.
pub const SEGMENTS_MAX: usize = 4096;

/// After this many segments a pop stops early and leaves further chains to the next one. Every descriptor
/// of a buffer makes a segment at least, and a faulty chain ends the pop: so this bounds the descriptors that
/// one pop walks, too, to about twice this number and one chain's more (tables themselves not counted, one for each
/// chain).
pub(crate) const SEGMENTS_PER_POP: usize = 4096;

/// What a walk keeps from one chain to the next: the regions that answered last, for buffers and for indirect
/// tables, and whether the write flag counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) buffer: RegionHint,
    pub(crate) table: RegionHint,
    /// See [`DeviceQueue::readable_only`](crate::DeviceQueue::readable_only).
    pub(crate) readable_only: bool,
}

/// The usual chain: a single descriptor in one piece of memory. False: the chain is another one, or faulty;
/// nothing was done and a [`Walk`] finds out, from the same copy of the descriptor.
#[inline(always)]
pub(crate) fn single<'m>(
    lookup: &mut Lookup<'m>,
    hints: &mut Hints,
    burst: &mut Burst<'m>,
    descriptor: &Descriptor,
    id: u16,
    sequence: u16,
) -> bool {
    if descriptor.is(NEXT | INDIRECT) || descriptor.len == 0 {
        return false;
    }
    let len = descriptor.len as usize;
    let Some(run) = lookup.whole(descriptor.addr, len, &mut hints.buffer) else { return false };
    let is_writable = descriptor.is(WRITE) && !hints.readable_only;
    run.prefetch(is_writable);
    let (one, len) = (1, descriptor.len);
    let ((readable, readable_len), (writable, writable_len)) =
        if is_writable { ((0, 0), (one, len)) } else { ((one, len), (0, 0)) };
    let first = burst.segments.len() as u32;
    burst.chains.push(Chain {
        id,
        slots: 1,
        sequence,
        first,
        readable,
        writable,
        readable_len,
        writable_len,
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
        let is_writable = descriptor.is(WRITE) && !self.hints.readable_only;
        let Some(run) = self
            .memory
            .run(descriptor.addr, len, &mut self.hints.buffer)
            .or_else(|| if is_writable { None } else { self.memory.run_read_only(descriptor.addr, len) })
        else {
            return Err(DriverFault::AddressRange);
        };
        run.prefetch(is_writable);
        self.segments.push(run);
        if run.len() < len {
            let rest = Rest { addr: descriptor.addr, len, done: run.len(), is_writable };
            let segments_max = self.first + SEGMENTS_MAX;
            rest.add(self.memory, &mut self.hints.buffer, self.segments, segments_max)?;
        }
        if is_writable {
            self.writable_len += len as u64;
        } else if self.writable_len == 0 {
            self.readable_len += len as u64;
            self.readable_end = self.segments.len();
        } else {
            return Err(DriverFault::WritableBeforeReadable);
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
        if entries == 0 || !descriptor.len.is_multiple_of(size) {
            return Err(DriverFault::IndirectTableSize);
        }
        if entries > u32::from(room) {
            return Err(DriverFault::ChainTooLong);
        }
        Ok(entries as u16)
    }

    /// The table's bytes, or as many of them as its first region has.
    #[inline(always)]
    fn table_run(&mut self, table: &Descriptor) -> Result<MemSlice<'m>, DriverFault> {
        let len = table.len as usize;
        let run = self.memory.run(table.addr, len, &mut self.hints.table);
        run.or_else(|| self.memory.run_read_only(table.addr, len)).ok_or(DriverFault::IndirectTableRange)
    }

    /// Takes the table of a split ring: entries are chained as in the ring itself (virtio 1.3 §2.7.5.3).
    #[inline(always)]
    pub(crate) fn add_split_table(
        &mut self,
        table: &Descriptor,
        room: u16,
        big: bool,
    ) -> Result<(), DriverFault> {
        let entries = Self::table_entries(table, room)?;
        let run = self.table_run(table)?;
        let mut index = 0;
        for _ in 0..entries {
            let entry = Descriptor::from_split(self.load(table.addr, run, index)?, big);
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
    #[inline(always)]
    pub(crate) fn add_packed_table(&mut self, table: &Descriptor, room: u16) -> Result<(), DriverFault> {
        let entries = Self::table_entries(table, room)?;
        let run = self.table_run(table)?;
        for index in 0..entries {
            let entry = Descriptor::from_packed(self.load(table.addr, run, index)?);
            if entry.is(INDIRECT) {
                return Err(DriverFault::IndirectInIndirect);
            }
            self.add(&entry)?;
        }
        Ok(())
    }

    /// A private copy of entry `index` of the indirect table at `table`, which begins with `run`.
    #[inline(always)]
    fn load(&self, table: GuestAddr, run: MemSlice<'m>, index: u16) -> Result<[u64; 2], DriverFault> {
        let offset = usize::from(index) * DESCRIPTOR_SIZE;
        let mut bytes = [0; DESCRIPTOR_SIZE];
        match run.sub(offset, DESCRIPTOR_SIZE) {
            Some(entry) => _ = entry.read(&mut bytes),
            None => bytes = load_far(self.memory, table, offset as u64)?,
        }
        Ok(words_of(bytes))
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
            readable: (self.readable_end - self.first) as u16,
            writable: (segments - self.readable_end) as u16,
            readable_len: self.readable_len as u32,
            writable_len: self.writable_len as u32,
        });
        Ok(())
    }
}

/// A buffer that goes on in the next region.
struct Rest {
    addr: GuestAddr,
    len: usize,
    /// Bytes that have their segment.
    done: usize,
    is_writable: bool,
}

impl Rest {
    #[cold]
    fn add<'m>(
        mut self,
        memory: &'m GuestMemory,
        hint: &mut RegionHint,
        segments: &mut Vec<MemSlice<'m>>,
        segments_max: usize,
    ) -> Result<(), DriverFault> {
        while self.done < self.len {
            let addr = self.addr.checked_add(self.done as u64).ok_or(DriverFault::AddressRange)?;
            let len = self.len - self.done;
            let read_only = || if self.is_writable { None } else { memory.run_read_only(addr, len) };
            let run = memory.run(addr, len, hint).or_else(read_only).ok_or(DriverFault::AddressRange)?;
            if segments.len() >= segments_max {
                return Err(DriverFault::TooManySegments);
            }
            segments.push(run);
            self.done += run.len();
        }
        Ok(())
    }
}

/// An entry of an indirect table that is not wholly in the table's first region.
#[cold]
fn load_far(
    memory: &GuestMemory,
    table: GuestAddr,
    offset: u64,
) -> Result<[u8; DESCRIPTOR_SIZE], DriverFault> {
    let mut bytes = [0; DESCRIPTOR_SIZE];
    let mut done = 0;
    while done < bytes.len() {
        let addr = table.checked_add(offset + done as u64).ok_or(DriverFault::IndirectTableRange)?;
        let len = bytes.len() - done;
        let run = memory.run(addr, len, &mut RegionHint::default());
        let run = run.or_else(|| memory.run_read_only(addr, len));
        done += run.ok_or(DriverFault::IndirectTableRange)?.read(&mut bytes[done..]);
    }
    Ok(bytes)
}

/// The two words of a descriptor's bytes, in the byte order of the bytes.
#[inline(always)]
fn words_of(bytes: [u8; DESCRIPTOR_SIZE]) -> [u64; 2] {
    let value = u128::from_ne_bytes(bytes).to_le();
    [(value as u64).to_le(), ((value >> 64) as u64).to_le()]
}
