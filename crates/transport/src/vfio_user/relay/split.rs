//! A split ring seen through copies of its parts (virtio 1.3 §2.7).

use super::chain::{Chain, Rules};
use super::fault::RelayFault;
use super::{Move, Store, Used};
use guestmem::GuestAddr;
use virtqueue::wire::{DESCRIPTOR_SIZE, Descriptor, NO_INTERRUPT, passes};
use virtqueue::{CHAIN_DESCRIPTORS_MAX, DriverFault, Endian, QueueSetup};

const INDEX: usize = 2;
const ENTRIES: usize = 4;
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;

/// Where the copies are, in bytes from the beginning of the store.
#[derive(Debug)]
struct Copies {
    desc: usize,
    avail: usize,
    used: usize,
    /// What the driver said of interrupts: flags, event index.
    wish: usize,
}

/// The device's place in the driver's ring.
#[derive(Debug)]
pub(super) struct Split {
    setup: QueueSetup,
    copies: Copies,
    size: u16,
    big: bool,
    event_idx: bool,
    /// Next available entry to be taken, and how far the driver got as last read; free-running.
    next_avail: u16,
    seen: u16,
    /// Next used entry to be written, and what the driver was told; free-running.
    next_used: u16,
    published: u16,
}

impl Split {
    /// Bytes of copies for a ring of `size`.
    pub(super) fn footprint(size: usize) -> usize {
        DESCRIPTOR_SIZE * size
            + (ENTRIES + AVAIL_ENTRY * size).next_multiple_of(8)
            + (ENTRIES + USED_ENTRY * size + 2).next_multiple_of(8)
            + 8
    }

    /// A ring at its beginning, with its copies from `at` on.
    pub(super) fn new(setup: &QueueSetup, at: usize) -> Self {
        let size = usize::from(setup.size.get());
        let avail = at + DESCRIPTOR_SIZE * size;
        let used = avail + (ENTRIES + AVAIL_ENTRY * size).next_multiple_of(8);
        let wish = used + (ENTRIES + USED_ENTRY * size + 2).next_multiple_of(8);
        Self {
            setup: setup.clone(),
            copies: Copies { desc: at, avail, used, wish },
            size: setup.size.get(),
            big: setup.features.endian == Endian::Big,
            event_idx: setup.features.event_idx,
            next_avail: 0,
            seen: 0,
            next_used: 0,
            published: 0,
        }
    }

    fn word(&self, store: &Store, at: usize) -> u16 {
        let bytes = store.bytes(at);
        if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn put_word(&self, store: &Store, at: usize, word: u16) {
        store.put(at, &if self.big { word.to_be_bytes() } else { word.to_le_bytes() });
    }

    fn put_double_word(&self, store: &Store, at: usize, word: u32) {
        store.put(at, &if self.big { word.to_be_bytes() } else { word.to_le_bytes() });
    }

    /// `len` bytes from byte `offset` of an area on, and of its copy.
    fn part(&self, area: GuestAddr, copy: usize, offset: usize, len: usize) -> Move {
        // An area's last byte has an address: its ring was checked.
        Move { remote: GuestAddr(area.0.wrapping_add(offset as u64)), local: copy + offset, len }
    }

    /// Entries of `width` bytes, `count` of them from free-running `first` on: one run, or two.
    fn runs(&self, area: GuestAddr, copy: usize, first: u16, count: u16, width: usize) -> Vec<Move> {
        let slot = first & (self.size - 1);
        let before = count.min(self.size - slot);
        let runs = [(slot, before), (0, count - before)];
        let run = |(slot, count)| {
            let (slot, count): (u16, u16) = (slot, count);
            self.part(area, copy, ENTRIES + width * usize::from(slot), width * usize::from(count))
        };
        runs.into_iter().filter(|(_, count)| *count > 0).map(run).collect()
    }

    /// What tells the driver to notify, also of the entry taken next.
    pub(super) fn arm(&self, store: &Store, is_first: bool) -> Vec<Move> {
        let Copies { used, .. } = self.copies;
        let mut moves = Vec::new();
        if is_first {
            self.put_word(store, used, 0);
            moves.push(self.part(self.setup.device, used, 0, 2));
        }
        if self.event_idx {
            let offset = ENTRIES + USED_ENTRY * usize::from(self.size);
            self.put_word(store, used + offset, self.next_avail);
            moves.push(self.part(self.setup.device, used, offset, 2));
        }
        moves
    }

    /// What says whether chains are available.
    pub(super) fn index_reads(&self) -> Vec<Move> {
        vec![self.part(self.setup.driver, self.copies.avail, INDEX, 2)]
    }

    /// Whether there are some, once that was read.
    pub(super) fn look(&mut self, store: &Store) -> Result<bool, DriverFault> {
        let index = self.word(store, self.copies.avail + INDEX);
        if index.wrapping_sub(self.next_avail) > self.size {
            return Err(DriverFault::AvailIndexJump);
        }
        self.seen = index;
        Ok(index != self.next_avail)
    }

    /// What holds the chains, to be read after the index.
    pub(super) fn chain_reads(&self) -> Vec<Move> {
        let count = self.seen.wrapping_sub(self.next_avail);
        let mut moves = self.runs(self.setup.driver, self.copies.avail, self.next_avail, count, AVAIL_ENTRY);
        let table = DESCRIPTOR_SIZE * usize::from(self.size);
        moves.push(self.part(self.setup.desc, self.copies.desc, 0, table));
        moves
    }

    /// The next chain of those that were read; `None`: it was the last.
    pub(super) fn next_chain(&mut self, store: &Store, rules: Rules) -> Result<Option<Chain>, RelayFault> {
        if self.next_avail == self.seen {
            return Ok(None);
        }
        let slot = usize::from(self.next_avail & (self.size - 1));
        let mut index = self.word(store, self.copies.avail + ENTRIES + AVAIL_ENTRY * slot);
        let mut chain = Chain::new(index);
        for _ in 0..self.size.min(CHAIN_DESCRIPTORS_MAX) {
            if index >= self.size {
                return Err(DriverFault::DescriptorIndex.into());
            }
            let words = store.words(self.copies.desc + DESCRIPTOR_SIZE * usize::from(index));
            let descriptor = Descriptor::from_split(words, self.big);
            if !chain.add(&descriptor, rules)? {
                self.next_avail = self.next_avail.wrapping_add(1);
                return Ok(Some(chain));
            }
            index = descriptor.link;
        }
        Err(DriverFault::ChainTooLong.into())
    }

    /// Used entries, to be written before the index.
    pub(super) fn put_used(&mut self, store: &Store, used: &[Used]) -> Vec<Move> {
        let first = self.next_used;
        for &Used { id, written, .. } in used {
            let slot = usize::from(self.next_used & (self.size - 1));
            let at = self.copies.used + ENTRIES + USED_ENTRY * slot;
            self.put_double_word(store, at, id.into());
            self.put_double_word(store, at + 4, written);
            self.next_used = self.next_used.wrapping_add(1);
        }
        self.runs(self.setup.device, self.copies.used, first, used.len() as u16, USED_ENTRY)
    }

    /// What shows them to the driver.
    pub(super) fn publish(&self, store: &Store) -> Vec<Move> {
        self.put_word(store, self.copies.used + INDEX, self.next_used);
        vec![self.part(self.setup.device, self.copies.used, INDEX, 2)]
    }

    /// What says whether the driver wants an interrupt for them.
    pub(super) fn wish_reads(&self) -> Vec<Move> {
        let offset = if self.event_idx { ENTRIES + AVAIL_ENTRY * usize::from(self.size) } else { 0 };
        let remote = GuestAddr(self.setup.driver.0.wrapping_add(offset as u64));
        vec![Move { remote, local: self.copies.wish, len: 2 }]
    }

    /// Whether it wants one, once that was read.
    pub(super) fn wants_interrupt(&mut self, store: &Store) -> bool {
        let old = std::mem::replace(&mut self.published, self.next_used);
        let wish = self.word(store, self.copies.wish);
        if self.event_idx { passes(wish, self.next_used, old) } else { wish & NO_INTERRUPT == 0 }
    }
}
