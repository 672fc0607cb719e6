//! A packed ring seen through copies of its parts (virtio 1.3 §2.8).

use super::chain::{Chain, Rules};
use super::fault::RelayFault;
use super::{Move, Store, Used};
use guestmem::GuestAddr;
use virtqueue::wire::{AVAIL, DESCRIPTOR_SIZE, Descriptor, PackedEvent, Position, USED, used_word};
use virtqueue::{CHAIN_DESCRIPTORS_MAX, DriverFault, QueueSetup};

/// Descriptors that are read at once, unless a chain is longer.
const WINDOW: u16 = 64;

/// The device's place in the driver's ring.
#[derive(Debug)]
pub(super) struct Packed {
    setup: QueueSetup,
    /// Copy of the ring as the driver wrote it, in bytes from the beginning of the store.
    desc: usize,
    /// The ring as we write it.
    used_desc: usize,
    /// Of either side's event suppression.
    event: usize,
    size: u16,
    event_idx: bool,
    /// Next descriptor to be taken.
    next: Position,
    window: u16,
    /// Descriptors from there on that were available as last read.
    seen: u16,
    /// Chains taken since then.
    taken: u16,
    /// A chain did not end among them.
    is_cut: bool,
    /// Descriptors taken and not used yet.
    in_flight: u16,
    /// Where the next used descriptor goes.
    used: Position,
    /// The word that shows the last batch, its place, and the descriptors of it.
    first: (usize, u64),
    added: u16,
}

impl Packed {
    /// Bytes of copies for a ring of `size`.
    pub(super) fn footprint(size: usize) -> usize {
        2 * DESCRIPTOR_SIZE * size + 16
    }

    /// A ring at its beginning, with its copies from `at` on.
    pub(super) fn new(setup: &QueueSetup, at: usize) -> Self {
        let size = setup.size.get();
        let start = Position { index: 0, wrap: true };
        let bytes = DESCRIPTOR_SIZE * usize::from(size);
        Self {
            setup: setup.clone(),
            desc: at,
            used_desc: at + bytes,
            event: at + 2 * bytes,
            size,
            event_idx: setup.features.event_idx,
            next: start,
            window: WINDOW.min(size),
            seen: 0,
            taken: 0,
            is_cut: false,
            in_flight: 0,
            used: start,
            first: (0, 0),
            added: 0,
        }
    }

    /// `len` bytes from byte `offset` of the ring on, and of the copy at `copy`.
    fn part(&self, copy: usize, offset: usize, len: usize) -> Move {
        Move { remote: GuestAddr(self.setup.desc.0.wrapping_add(offset as u64)), local: copy + offset, len }
    }

    /// `count` descriptors from `first` on: one run, or two.
    fn runs(&self, first: u16, count: u16) -> Vec<(u16, u16)> {
        let before = count.min(self.size - first);
        let mut runs = vec![(first, before), (0, count - before)];
        runs.retain(|(_, count)| *count > 0);
        runs
    }

    fn reads(&self, count: u16) -> Vec<Move> {
        let bytes = |index: u16| DESCRIPTOR_SIZE * usize::from(index);
        let runs = self.runs(self.next.index, count).into_iter();
        runs.map(|(first, count)| self.part(self.desc, bytes(first), bytes(count))).collect()
    }

    /// What tells the driver to notify: always.
    pub(super) fn arm(&self, store: &Store, is_first: bool) -> Vec<Move> {
        if !is_first {
            return Vec::new();
        }
        store.put(self.event, &[0; 4]);
        vec![Move { remote: self.setup.device, local: self.event, len: 4 }]
    }

    /// What says whether chains are available.
    pub(super) fn index_reads(&self) -> Vec<Move> {
        self.reads(self.window)
    }

    fn descriptor(&self, store: &Store, index: u16) -> Descriptor {
        Descriptor::from_packed(store.words(self.desc + DESCRIPTOR_SIZE * usize::from(index)))
    }

    /// Whether there are some, once that was read.
    pub(super) fn look(&mut self, store: &Store) -> Result<bool, DriverFault> {
        let is_available = |count: &u16| {
            let position = self.next.forward(*count, self.size);
            self.descriptor(store, position.index).flags & (AVAIL | USED) == position.wanted()
        };
        self.seen = (0..self.window).take_while(is_available).count() as u16;
        self.taken = 0;
        Ok(self.seen > 0)
    }

    /// What holds the chains: the same once more, since a descriptor counts only as it is after its flags were seen.
    pub(super) fn chain_reads(&self) -> Vec<Move> {
        self.reads(self.seen)
    }

    /// The next chain of those that were read; `None`: it was the last.
    pub(super) fn next_chain(&mut self, store: &Store, rules: Rules) -> Result<Option<Chain>, RelayFault> {
        let mut chain = Chain::default();
        for step in 0..self.seen.min(CHAIN_DESCRIPTORS_MAX) {
            let index = self.next.forward(step, self.size).index;
            let descriptor = self.descriptor(store, index);
            chain.id = descriptor.link;
            if !chain.add(&descriptor, rules)? {
                return self.take(store, chain).map(Some);
            }
        }
        match self.seen {
            0 => Ok(None),
            // The rest of it is behind what was read.
            _ if self.taken > 0 || self.window < self.size || !self.is_cut => {
                self.is_cut = self.taken == 0 && self.window == self.size;
                self.window = if self.taken == 0 { self.size } else { self.window };
                self.seen = 0;
                Ok(None)
            }
            _ => Err(DriverFault::ChainTooLong.into()),
        }
    }

    fn take(&mut self, store: &Store, chain: Chain) -> Result<Chain, RelayFault> {
        if chain.slots > self.size - self.in_flight {
            return Err(DriverFault::RingOverrun.into());
        }
        for step in 0..chain.slots {
            let offset = DESCRIPTOR_SIZE * usize::from(self.next.forward(step, self.size).index);
            let words: [u8; DESCRIPTOR_SIZE] = store.bytes(self.desc + offset);
            store.put(self.used_desc + offset, &words);
        }
        self.in_flight += chain.slots;
        self.seen -= chain.slots;
        self.next = self.next.forward(chain.slots, self.size);
        self.taken += 1;
        self.is_cut = false;
        Ok(chain)
    }

    /// Used descriptors, to be written before the flags of the first of them. What lies between them is written as the driver
    /// wrote it: it is in flight, so it has not changed.
    pub(super) fn put_used(&mut self, store: &Store, used: &[Used]) -> Vec<Move> {
        let start = self.used;
        (self.added, self.first) = (0, (0, 0));
        let (mut last, mut first_slots) = (start, 0);
        for &Used { id, slots, written } in used {
            let offset = DESCRIPTOR_SIZE * usize::from(self.used.index);
            let word = used_word(id, written, self.used.wrap);
            store.put(self.used_desc + offset + 8, &word.to_ne_bytes());
            if self.added == 0 {
                self.first = (offset, word);
                first_slots = slots;
            }
            last = self.used;
            self.used = self.used.forward(slots, self.size);
            self.added += slots;
            self.in_flight -= slots;
        }
        // Length and id of the first.
        let mut moves = vec![self.part(self.used_desc, self.first.0 + 8, 6)];
        let second = start.forward(first_slots, self.size);
        if used.len() > 1 {
            let between = if last.index >= second.index {
                last.index - second.index
            } else {
                last.index + (self.size - second.index)
            };
            for (first, count) in self.runs(second.index, between + 1) {
                let bytes = DESCRIPTOR_SIZE * usize::from(count);
                moves.push(self.part(self.used_desc, DESCRIPTOR_SIZE * usize::from(first), bytes));
            }
        }
        moves
    }

    /// What shows them to the driver.
    pub(super) fn publish(&self, _: &Store) -> Vec<Move> {
        vec![self.part(self.used_desc, self.first.0 + 14, 2)]
    }

    /// What says whether the driver wants an interrupt for them.
    pub(super) fn wish_reads(&self) -> Vec<Move> {
        vec![Move { remote: self.setup.driver, local: self.event + 8, len: 4 }]
    }

    /// Whether it wants one, once that was read.
    pub(super) fn wants_interrupt(&mut self, store: &Store) -> bool {
        let event = PackedEvent::from_word(u32::from_ne_bytes(store.bytes(self.event + 8)));
        event.wants(self.event_idx, self.used.index, self.used.wrap, self.added, self.size)
    }
}
