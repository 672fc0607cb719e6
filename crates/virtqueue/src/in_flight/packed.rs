//! The record of a packed ring: the descriptors of each chain in flight, in entries that are free otherwise, and where the ring
//! was used up to.
//!
//! **Order of stores.** A chain's descriptors are written into free entries, then its head is marked, then the list of free entries
//! begins behind them: only that counts, since marks of free entries mean nothing. A chain is completed alone: its entries go in
//! front of the free ones in the *new* head of the list, the used position moves on in the *new* one, the descriptor in the ring
//! is published, the mark is taken off, and the *old* values follow the new ones, the list's before the position's. Whoever ends in
//! between leaves a new position that is not the old one; the descriptor at the old position tells whether it was published,
//! and the new values count or the old ones do. That is the specification's order but for batches: used descriptors written ahead of
//! a batch's first one would stay in the ring when that one never comes, and the driver would find them behind the next.

use super::{Begin, ENTRIES_AT, FEATURES, InFlightFault, InFlightLog, VERSION, VERSION_AT};
use crate::descriptor::{self, Descriptor, INDIRECT, NEXT, USED};
use crate::packed::Position;
use crate::setup::{Descriptors, RingState};
use guestmem::{GuestAddr, MemArea, MemTable};
use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Release};

pub(super) const HEADER_SIZE: usize = 32;
pub(super) const ENTRY_SIZE: usize = 32;

/// New and old head of the list of free entries.
const FREE: usize = 12;
/// New and old used index, then new and old wrap counter, then padding.
const USED_POSITION: usize = 16;

/// Offsets in an entry (`DescStatePacked`): mark, padding, next, last, number of descriptors; then the descriptor's own fields.
const HEAD: usize = 0;
const COUNTER: usize = 8;
const ID: usize = 16;
const ADDR: usize = 24;
/// The link within [`HEAD`].
const LINK: usize = 2;

/// No chain, in the private lists.
const NONE: u16 = u16::MAX;

/// The first word of an entry.
#[derive(Clone, Copy)]
struct Head {
    mark: u8,
    next: u16,
    last: u16,
    descriptors: u16,
}

impl Head {
    fn from_word(word: u64) -> Self {
        let [mark, _, n0, n1, l0, l1, d0, d1] = word.to_ne_bytes();
        let u16_of = |first, second| u16::from_ne_bytes([first, second]);
        Self { mark, next: u16_of(n0, n1), last: u16_of(l0, l1), descriptors: u16_of(d0, d1) }
    }

    fn to_word(self) -> u64 {
        let [n0, n1] = self.next.to_ne_bytes();
        let [l0, l1] = self.last.to_ne_bytes();
        let [d0, d1] = self.descriptors.to_ne_bytes();
        u64::from_ne_bytes([self.mark, 0, n0, n1, l0, l1, d0, d1])
    }
}

/// Two numbers that lie side by side in the header, the new one and the old one.
fn pair(new: u16, old: u16) -> u32 {
    let ([n0, n1], [o0, o1]) = (new.to_ne_bytes(), old.to_ne_bytes());
    u32::from_ne_bytes([n0, n1, o0, o1])
}

fn positions(new: Position, old: Position) -> u64 {
    let ([n0, n1], [o0, o1]) = (new.index.to_ne_bytes(), old.index.to_ne_bytes());
    u64::from_ne_bytes([n0, n1, o0, o1, new.wrap.into(), old.wrap.into(), 0, 0])
}

fn from_positions(word: u64) -> (Position, Position) {
    let [n0, n1, o0, o1, new_wrap, old_wrap, _, _] = word.to_ne_bytes();
    let position = |low, high, wrap| Position { index: u16::from_ne_bytes([low, high]), wrap: wrap != 0 };
    (position(n0, n1, new_wrap), position(o0, o1, old_wrap))
}

/// A chain in flight, as kept privately under its first entry.
#[derive(Clone, Copy)]
struct InFlight {
    id: u16,
    slots: u16,
    /// Its last entry.
    last: u16,
    /// Another chain whose id leads to the same list.
    neighbour: u16,
}

/// A chain that was in flight at the start.
struct Recovered {
    counter: u64,
    head: u16,
    descriptors: Range<usize>,
}

/// The record of a packed ring that runs.
pub(crate) struct PackedRecord {
    header: MemArea,
    entries: MemTable<ENTRY_SIZE, 8>,
    size: u16,
    counter: u64,
    /// First free entry; `size`: none.
    free: u16,
    /// The links of all entries.
    links: Box<[u16]>,
    chains: Box<[InFlight]>,
    /// The first chain whose id modulo the size is the place's number.
    by_id: Box<[u16]>,
    /// Up to where the ring is used.
    used: Position,
    recovered: Vec<Recovered>,
    /// The descriptors of those.
    descriptors: Vec<Descriptor>,
    /// Chains popped since the start and not given back by an unpop.
    popped: u64,
}

impl PackedRecord {
    /// The record in `log`, for `ring`, which stands at `state` if the record was never used. Returns with it up to where the
    /// ring is used.
    pub(crate) fn recover(
        log: &InFlightLog,
        ring: &Descriptors,
        state: RingState,
    ) -> Result<(Self, Position), InFlightFault> {
        let size = ring.len() as u16;
        let begin = log.begin(size, HEADER_SIZE, ENTRY_SIZE)?;
        let too_small = InFlightFault::Area { len: log.area.len(), need: HEADER_SIZE };
        let no_chain = InFlight { id: 0, slots: 0, last: 0, neighbour: NONE };
        let mut record = Self {
            header: log.area.clone(),
            entries: MemTable::new(&log.area, HEADER_SIZE, size.into()).ok_or(too_small)?,
            size,
            counter: 0,
            free: 0,
            links: (1..=size).collect(),
            chains: vec![no_chain; size.into()].into(),
            by_id: vec![NONE; size.into()].into(),
            used: Position { index: state.used, wrap: state.used_wrap },
            recovered: Vec::new(),
            descriptors: Vec::new(),
            popped: 0,
        };
        match begin {
            Begin::Fresh => record.begin(),
            Begin::Used => record.take_over(ring)?,
        }
        let used = record.used;
        Ok((record, used))
    }

    /// Makes an empty record of whatever the memory holds.
    fn begin(&self) {
        for (index, &next) in self.links.iter().enumerate() {
            self.entries.store_u64(
                index,
                HEAD,
                Head { mark: 0, next, last: 0, descriptors: 0 }.to_word(),
                Release,
            );
        }
        self.header.store_u64(FEATURES, 0, Release);
        self.header.store_u16(ENTRIES_AT, self.size, Release);
        self.store_free(self.free, self.free);
        self.store_used(self.used, self.used);
        self.header.store_u16(VERSION_AT, VERSION, Release);
    }

    fn store_free(&self, new: u16, old: u16) {
        self.header.store_u32(FREE, pair(new, old), Release);
    }

    fn store_used(&self, new: Position, old: Position) {
        self.header.store_u64(USED_POSITION, positions(new, old), Release);
    }

    /// Settles what was begun and finds what is in flight.
    fn take_over(&mut self, ring: &Descriptors) -> Result<(), InFlightFault> {
        self.settle(ring)?;
        let words: Box<[u64]> =
            (0..self.size).map(|index| self.entries.load_u64(index.into(), HEAD, Acquire)).collect();
        let heads: Box<[Head]> = words.iter().map(|&word| Head::from_word(word)).collect();
        self.links = heads.iter().map(|head| head.next).collect();
        let mut seen = vec![false; self.size.into()];
        let free = self.take_free(&heads, &mut seen)?;
        for head in 0..self.size {
            let at = usize::from(head);
            // Marks of free entries mean nothing, and the other entries of chains have none.
            if heads[at].mark != 0 && !seen[at] {
                self.take_chain(head, heads[at].descriptors, &mut seen)?;
            }
        }
        let in_flight = self.descriptors.len() as u16;
        if free + in_flight != self.size {
            return Err(InFlightFault::Lost { free, in_flight, size: self.size });
        }
        self.recovered.sort_by_key(|chain| (chain.counter, chain.head));
        self.counter = self.recovered.last().map_or(0, |chain| chain.counter.wrapping_add(1));
        Ok(())
    }

    /// Goes on with a completion that the driver saw, takes back one that it did not.
    fn settle(&mut self, ring: &Descriptors) -> Result<(), InFlightFault> {
        let [n0, n1, o0, o1] = self.header.load_u32(FREE, Acquire).to_ne_bytes();
        let (new_free, old_free) = (u16::from_ne_bytes([n0, n1]), u16::from_ne_bytes([o0, o1]));
        let (new, old) = from_positions(self.header.load_u64(USED_POSITION, Acquire));
        if let Some(position) = [new, old].into_iter().find(|position| position.index >= self.size) {
            return Err(InFlightFault::UsedIndex { recorded: position.index, ring: self.size });
        }
        let descriptor = Descriptor::from_packed([0, ring.load_u64(old.index.into(), 8, Acquire)]);
        // Used in this lap, or made available for the next one since: either leaves the bit so.
        let is_published = descriptor.is(USED) == old.wrap;
        (self.free, self.used) = if new != old && is_published { (new_free, new) } else { (old_free, old) };
        self.store_free(self.free, self.free);
        self.store_used(self.used, self.used);
        Ok(())
    }

    /// Follows the list of free entries and takes their marks off; returns how many there are.
    fn take_free(&self, heads: &[Head], seen: &mut [bool]) -> Result<u16, InFlightFault> {
        let (mut index, mut count) = (self.free, 0);
        while index != self.size {
            let at = usize::from(index);
            if seen.get(at).is_none_or(|&seen| seen) {
                return Err(InFlightFault::Link { index });
            }
            seen[at] = true;
            if heads[at].mark != 0 {
                self.entries.store_u64(at, HEAD, Head { mark: 0, ..heads[at] }.to_word(), Release);
            }
            index = heads[at].next;
            count += 1;
        }
        Ok(count)
    }

    /// Takes the chain of so many descriptors whose first entry is `head`.
    fn take_chain(&mut self, head: u16, descriptors: u16, seen: &mut [bool]) -> Result<(), InFlightFault> {
        let (mut index, mut last) = (head, head);
        let first = self.descriptors.len();
        for left in (0..descriptors).rev() {
            let at = usize::from(index);
            if seen.get(at).is_none_or(|&seen| seen) {
                return Err(InFlightFault::Link { index });
            }
            seen[at] = true;
            let descriptor = self.load(at);
            let goes_on = descriptor.is(NEXT) && !descriptor.is(INDIRECT);
            if goes_on != (left > 0) {
                return Err(InFlightFault::Chain { head, descriptors });
            }
            self.descriptors.push(descriptor);
            (last, index) = (index, self.links[at]);
        }
        let end = self.descriptors.len();
        let Some(&Descriptor { link: id, .. }) = self.descriptors[first..].last() else {
            return Err(InFlightFault::Chain { head, descriptors });
        };
        let counter = self.entries.load_u64(head.into(), COUNTER, Acquire);
        self.recovered.push(Recovered { counter, head, descriptors: first..end });
        self.enter(head, InFlight { id, slots: descriptors, last, neighbour: NONE });
        Ok(())
    }

    /// The descriptor in an entry.
    fn load(&self, index: usize) -> Descriptor {
        let [i0, i1, f0, f1, l0, l1, l2, l3] = self.entries.load_u64(index, ID, Acquire).to_ne_bytes();
        Descriptor {
            addr: GuestAddr(self.entries.load_u64(index, ADDR, Acquire)),
            len: u32::from_ne_bytes([l0, l1, l2, l3]),
            flags: u16::from_ne_bytes([f0, f1]),
            link: u16::from_ne_bytes([i0, i1]),
        }
    }

    fn store(&self, index: usize, descriptor: Descriptor) {
        let [i0, i1] = descriptor.link.to_ne_bytes();
        let [f0, f1] = descriptor.flags.to_ne_bytes();
        let [l0, l1, l2, l3] = descriptor.len.to_ne_bytes();
        let word = u64::from_ne_bytes([i0, i1, f0, f1, l0, l1, l2, l3]);
        self.entries.store_u64(index, ADDR, descriptor.addr.0, Release);
        self.entries.store_u64(index, ID, word, Release);
    }

    /// Keeps a chain under its first entry, to be found by its id.
    fn enter(&mut self, head: u16, chain: InFlight) {
        let place = usize::from(chain.id % self.size);
        self.chains[usize::from(head)] = InFlight { neighbour: self.by_id[place], ..chain };
        self.by_id[place] = head;
    }

    /// Takes out the chain with this id and so many descriptors; `None`: there is none. Of two with the same id, which a driver
    /// may not send, it is the later one.
    fn leave(&mut self, id: u16, slots: u16) -> Option<(u16, InFlight)> {
        let place = usize::from(id % self.size);
        let (mut before, mut head) = (NONE, self.by_id[place]);
        while head != NONE {
            let chain = self.chains[usize::from(head)];
            if (chain.id, chain.slots) == (id, slots) {
                match before {
                    NONE => self.by_id[place] = chain.neighbour,
                    _ => self.chains[usize::from(before)].neighbour = chain.neighbour,
                }
                return Some((head, chain));
            }
            (before, head) = (head, chain.neighbour);
        }
        None
    }

    /// The descriptors of the chain that was in flight at the start and is to be popped next.
    pub(crate) fn waiting(&self) -> Option<&[Descriptor]> {
        let chain = self.recovered.get(self.popped as usize)?;
        self.descriptors.get(chain.descriptors.clone())
    }

    /// Descriptors of all chains that were in flight at the start and are not popped yet.
    pub(crate) fn waiting_slots(&self) -> u16 {
        let waiting = self.recovered.get(self.popped as usize..).unwrap_or(&[]);
        waiting.iter().map(|chain| chain.descriptors.len() as u16).sum()
    }

    /// Notes that the waiting chain was popped.
    pub(crate) fn pop_again(&mut self) {
        self.popped += 1;
    }

    /// Notes the chain with this id that was popped from `ring`, where it takes up `slots` descriptors from `position` on.
    pub(crate) fn pop(&mut self, ring: &Descriptors, position: Position, id: u16, slots: u16) {
        let (head, mut index, mut last) = (self.free, self.free, self.free);
        for step in 0..slots {
            let at = position.forward(step, self.size);
            let descriptor = Descriptor::from_packed(descriptor::load(ring.entries(), at.index));
            let is_last = step + 1 == slots;
            // The id is that of the chain which was validated, whatever the ring says by now.
            let link = if is_last { id } else { descriptor.link };
            self.store(index.into(), Descriptor { link, ..descriptor });
            (last, index) = (index, self.links[usize::from(index)]);
        }
        let next = self.links[usize::from(head)];
        self.entries.store_u64(head.into(), COUNTER, self.counter, Release);
        self.counter = self.counter.wrapping_add(1);
        let mark = Head { mark: 1, next, last, descriptors: slots };
        self.entries.store_u64(head.into(), HEAD, mark.to_word(), Release);
        self.free = index;
        self.store_free(index, index);
        self.enter(head, InFlight { id, slots, last, neighbour: NONE });
        self.popped += 1;
    }

    /// Notes that the chain popped last waits again, in the ring or among those of the start.
    pub(crate) fn unpop(&mut self, id: u16, slots: u16) {
        self.popped -= 1;
        if self.waiting().is_some() {
            return;
        }
        let Some((head, chain)) = self.leave(id, slots) else { return };
        self.link(chain.last, self.free);
        self.free = head;
        self.store_free(head, head);
        self.unmark(head);
    }

    /// Notes that the chain with this id and so many descriptors is about to be used; [`Self::published`] takes what it returns.
    pub(crate) fn put(&mut self, id: u16, slots: u16) -> Option<u16> {
        let (head, chain) = self.leave(id, slots)?;
        self.link(chain.last, self.free);
        self.store_free(head, self.free);
        let (old, new) = (self.used, self.used.forward(slots, self.size));
        self.store_used(new, old);
        (self.free, self.used) = (head, new);
        Some(head)
    }

    /// Notes that the driver can see that the chain at entry `head` is used.
    pub(crate) fn published(&mut self, head: u16) {
        self.unmark(head);
        self.store_free(self.free, self.free);
        self.store_used(self.used, self.used);
    }

    fn link(&mut self, index: u16, next: u16) {
        self.links[usize::from(index)] = next;
        self.entries.store_u16(index.into(), LINK, next, Release);
    }

    fn unmark(&self, head: u16) {
        self.entries.store_u16(head.into(), HEAD, 0, Release);
    }
}
