//! From descriptors to the buffers of a chain: the rules of `virtqueue`'s own walk, for buffers that nobody can map.

use super::fault::RelayFault;
use super::{CHAIN_LEN_MAX, Store};
use guestmem::GuestAddr;
use virtqueue::wire::{DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, WRITE};
use virtqueue::{CHAIN_DESCRIPTORS_MAX, DriverFault};

/// A buffer, by the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) addr: GuestAddr,
    pub(super) len: u32,
}

/// A chain in the making, then whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// What the used entry will name.
    pub(super) id: u16,
    /// Descriptors of the ring itself.
    pub(super) slots: u16,
    /// Descriptors so far, those of a table among them.
    count: u16,
    pub(super) readable: Vec<Buffer>,
    pub(super) writable: Vec<Buffer>,
    pub(super) readable_len: u32,
    pub(super) writable_len: u32,
    /// The indirect table that holds the rest of it, until that was read.
    pub(super) table: Option<Buffer>,
}

/// How chains of a ring are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) packed: bool,
    pub(super) indirect: bool,
    pub(super) big: bool,
    /// The write flag does not count: see [`virtqueue::DeviceQueue::readable_only`].
    pub(super) readable_only: bool,
}

impl Chain {
    /// One without descriptors, to be used under `id`.
    pub(super) fn new(id: u16) -> Self {
        Self { id, ..Self::default() }
    }

    /// Takes the next descriptor of the ring; true: more follow.
    pub(super) fn add(&mut self, descriptor: &Descriptor, rules: Rules) -> Result<bool, RelayFault> {
        self.slots += 1;
        if descriptor.flags & INDIRECT == 0 {
            self.add_buffer(descriptor, rules)?;
            return Ok(descriptor.flags & NEXT != 0);
        }
        if !rules.indirect {
            return Err(DriverFault::IndirectNotNegotiated.into());
        }
        if descriptor.flags & NEXT != 0 {
            return Err(DriverFault::IndirectWithNext.into());
        }
        let entries = descriptor.len / DESCRIPTOR_SIZE as u32;
        if entries == 0 || !descriptor.len.is_multiple_of(DESCRIPTOR_SIZE as u32) {
            return Err(DriverFault::IndirectTableSize.into());
        }
        if entries > u32::from(CHAIN_DESCRIPTORS_MAX - self.count) {
            return Err(DriverFault::ChainTooLong.into());
        }
        self.table = Some(Buffer { addr: descriptor.addr, len: descriptor.len });
        Ok(false)
    }

    /// Takes the entries of the table, which was read to `at`.
    pub(super) fn add_table(&mut self, store: &Store, at: usize, rules: Rules) -> Result<(), RelayFault> {
        let Some(table) = self.table.take() else { return Ok(()) };
        let entries = (table.len / DESCRIPTOR_SIZE as u32) as u16;
        let mut index = 0;
        for step in 0..entries {
            let words = store.words(at + usize::from(index) * DESCRIPTOR_SIZE);
            let entry = match rules.packed {
                true => Descriptor::from_packed(words),
                false => Descriptor::from_split(words, rules.big),
            };
            if entry.flags & INDIRECT != 0 {
                return Err(DriverFault::IndirectInIndirect.into());
            }
            self.add_buffer(&entry, rules)?;
            if rules.packed {
                // All of them, one after the other (virtio 1.3 §2.8.7).
                index = step + 1;
                continue;
            }
            if entry.flags & NEXT == 0 {
                return Ok(());
            }
            index = entry.link;
            if index >= entries {
                return Err(DriverFault::IndirectIndex.into());
            }
        }
        // More steps than a split ring's table has entries: a loop.
        if rules.packed { Ok(()) } else { Err(DriverFault::ChainTooLong.into()) }
    }

    fn add_buffer(&mut self, descriptor: &Descriptor, rules: Rules) -> Result<(), RelayFault> {
        let &Descriptor { addr, len, flags, .. } = descriptor;
        if len == 0 {
            return Err(DriverFault::ZeroLength.into());
        }
        if self.count >= CHAIN_DESCRIPTORS_MAX {
            return Err(DriverFault::ChainTooLong.into());
        }
        self.count += 1;
        let total = u64::from(self.readable_len) + u64::from(self.writable_len) + u64::from(len);
        if total > CHAIN_LEN_MAX {
            return Err(RelayFault::ChainLen { len: total });
        }
        if flags & WRITE != 0 && !rules.readable_only {
            self.writable.push(Buffer { addr, len });
            self.writable_len += len;
        } else if self.writable.is_empty() {
            self.readable.push(Buffer { addr, len });
            self.readable_len += len;
        } else {
            return Err(DriverFault::WritableBeforeReadable.into());
        }
        Ok(())
    }
}
