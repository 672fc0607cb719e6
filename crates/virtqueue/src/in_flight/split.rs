//! The record of a split ring: a mark and a number for each head, and the heads of the last batch.
//!
//! **Order of stores.** A head is marked after it has its number. Before the used index is published, each head of the batch is
//! put in front of the list of the last batch; afterwards the marks are taken off, and the used index is noted. Whoever ends
//! before the used index is published leaves all marks: the chains are popped again. Whoever ends after it leaves a used index
//! in the ring that is ahead of the noted one by as many as the list's first entries name: their marks are taken off then.

use super::{Begin, ENTRIES_AT, FEATURES, InFlightFault, InFlightLog, VERSION, VERSION_AT};
use guestmem::{MemArea, MemTable};
use std::sync::atomic::Ordering::{Acquire, Release};

pub(super) const HEADER_SIZE: usize = 16;
pub(super) const ENTRY_SIZE: usize = 16;

const LAST_BATCH_HEAD: usize = 12;
const USED_INDEX: usize = 14;

/// Offsets in an entry (`DescStateSplit`).
const MARK: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// The mark's byte and the one behind it, which is padding.
const IN_FLIGHT: u16 = u16::from_ne_bytes([1, 0]);

/// The record of a split ring that runs.
pub(crate) struct SplitRecord {
    header: MemArea,
    entries: MemTable<ENTRY_SIZE, 8>,
    /// The number that the next chain gets.
    counter: u64,
    last_batch_head: u16,
    /// Heads put into the used ring and not published.
    batch: Vec<u16>,
    /// Heads that were in flight at the start, oldest first.
    recovered: Box<[u16]>,
    /// Chains popped since the start and not given back by an unpop.
    popped: u64,
}

impl SplitRecord {
    /// The record in `log`, for a ring of `size` entries whose used index is `used`.
    pub(crate) fn recover(log: &InFlightLog, size: u16, used: u16) -> Result<Self, InFlightFault> {
        let begin = log.begin(size, HEADER_SIZE, ENTRY_SIZE)?;
        let too_small = InFlightFault::Area { len: log.area.len(), need: HEADER_SIZE };
        let entries = MemTable::new(&log.area, HEADER_SIZE, size.into()).ok_or(too_small)?;
        let mut record = Self {
            header: log.area.clone(),
            entries,
            counter: 0,
            last_batch_head: 0,
            batch: Vec::with_capacity(size.into()),
            recovered: Box::default(),
            popped: 0,
        };
        match begin {
            Begin::Fresh => record.begin(size, used),
            Begin::Used => record.take_over(size, used)?,
        }
        Ok(record)
    }

    /// Makes an empty record of whatever the memory holds.
    fn begin(&self, size: u16, used: u16) {
        for index in 0..usize::from(size) {
            self.entries.store_u64(index, MARK, 0, Release);
            self.entries.store_u64(index, COUNTER, 0, Release);
        }
        self.header.store_u64(FEATURES, 0, Release);
        self.header.store_u16(ENTRIES_AT, size, Release);
        self.header.store_u16(LAST_BATCH_HEAD, 0, Release);
        self.header.store_u16(USED_INDEX, used, Release);
        self.header.store_u16(VERSION_AT, VERSION, Release);
    }

    /// Settles the last batch and finds what is in flight.
    fn take_over(&mut self, size: u16, used: u16) -> Result<(), InFlightFault> {
        let recorded = self.header.load_u16(USED_INDEX, Acquire);
        self.last_batch_head = self.header.load_u16(LAST_BATCH_HEAD, Acquire);
        if self.in_flight(size).next().is_some() {
            self.settle(size, recorded, used)?;
        }
        self.header.store_u16(USED_INDEX, used, Release);
        let mut chains: Vec<(u64, u16)> = self.in_flight(size).collect();
        chains.sort_unstable();
        self.counter = chains.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        self.recovered = chains.into_iter().map(|(_, head)| head).collect();
        Ok(())
    }

    /// Takes the marks off the heads that the driver was told of.
    fn settle(&self, size: u16, recorded: u16, used: u16) -> Result<(), InFlightFault> {
        let count = used.wrapping_sub(recorded);
        if count > size {
            return Err(InFlightFault::UsedIndex { recorded, ring: used });
        }
        let mut index = self.last_batch_head;
        for _ in 0..count {
            if index >= size {
                return Err(InFlightFault::Link { index });
            }
            self.entries.store_u16(index.into(), MARK, 0, Release);
            index = self.entries.load_u16(index.into(), NEXT, Acquire);
        }
        Ok(())
    }

    /// Number and head of each chain that is marked.
    fn in_flight(&self, size: u16) -> impl Iterator<Item = (u64, u16)> {
        let is_marked = |&head: &u16| {
            let [mark, _] = self.entries.load_u16(head.into(), MARK, Acquire).to_ne_bytes();
            mark != 0
        };
        (0..size).filter(is_marked).map(|head| (self.entries.load_u64(head.into(), COUNTER, Acquire), head))
    }

    /// The heads that were in flight at the start and are not popped yet, oldest first.
    pub(crate) fn waiting(&self) -> &[u16] {
        self.recovered.get(self.popped as usize..).unwrap_or(&[])
    }

    /// Notes that `count` of the waiting heads were popped.
    pub(crate) fn pop_again(&mut self, count: usize) {
        self.popped += count as u64;
    }

    /// Notes a chain that was popped from the ring.
    pub(crate) fn pop(&mut self, head: u16) {
        self.entries.store_u64(head.into(), COUNTER, self.counter, Release);
        self.counter = self.counter.wrapping_add(1);
        self.entries.store_u16(head.into(), MARK, IN_FLIGHT, Release);
        self.popped += 1;
    }

    /// Notes that the chain popped last waits again, in the ring or among those of the start.
    pub(crate) fn unpop(&mut self, head: u16) {
        self.popped -= 1;
        if self.waiting().is_empty() {
            self.entries.store_u16(head.into(), MARK, 0, Release);
        }
    }

    /// Notes that a chain's used entry is written, to be published with others.
    pub(crate) fn put(&mut self, head: u16) {
        self.entries.store_u16(head.into(), NEXT, self.last_batch_head, Release);
        self.last_batch_head = head;
        self.header.store_u16(LAST_BATCH_HEAD, head, Release);
        self.batch.push(head);
    }

    /// Notes that all of the batch is published, with used index `used`.
    pub(crate) fn published(&mut self, used: u16) {
        for head in self.batch.drain(..) {
            self.entries.store_u16(head.into(), MARK, 0, Release);
        }
        self.header.store_u16(USED_INDEX, used, Release);
    }
}
