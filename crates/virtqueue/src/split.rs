//! The split ring, device side (virtio 1.3 §2.7).

mod noted;

use crate::burst::{Burst, Chain};
use crate::descriptor::{self, Descriptor, INDIRECT, NEXT};
use crate::event::{self, NO_INTERRUPT, NO_NOTIFY};
use crate::fault::DriverFault;
use crate::fill::{self, Ready};
use crate::in_flight::SplitRecord;
use crate::in_order::Used;
use crate::setup::{
    Areas, AvailEntries, Descriptors, Endian, QueueSetup, RingState, SetupFault, UsedEntries, host_u16,
    host_u32,
};
use crate::walk::{self, CHAIN_DESCRIPTORS_MAX, Hints, SEGMENTS_PER_POP, Walk};
use guestmem::{GuestMemory, MemArea};
use std::sync::atomic::{Ordering, fence};

/// Offsets in the available ring (virtio 1.3 §2.7.6) and the used ring (§2.7.8), in bytes.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const USED_ENTRY_SIZE: usize = 8;

/// The device's half of a split ring.
pub(crate) struct SplitRing {
    desc: Descriptors,
    /// Flags and index of the two rings, and the event words behind them.
    avail: MemArea,
    used: MemArea,
    avail_entries: AvailEntries,
    used_entries: UsedEntries,
    size: u16,
    indirect: bool,
    event_idx: bool,
    in_order: bool,
    big: bool,
    /// Next entry of the available ring, free-running.
    next_avail: u16,
    /// The driver's index as last loaded; entries before it are there without another look.
    seen_avail: u16,
    /// Next entry of the used ring to be written, free-running.
    next_used: u16,
    /// The used index the driver sees.
    published: u16,
    /// Whether a call was decided upon since the start; the first flush always calls.
    called: bool,
    pub(crate) hints: Hints,
    /// What is in flight, where that is recorded.
    record: Option<Box<SplitRecord>>,
}

impl SplitRing {
    pub(crate) fn new(areas: Areas, setup: &QueueSetup, state: RingState) -> Result<Self, SetupFault> {
        let (avail_entries, used_entries) = setup.split_entries(&areas)?;
        let Areas { desc, driver: avail, device: used } = areas;
        let big = setup.features.endian == Endian::Big;
        // What the driver has seen counts: after a crash it may be behind `state.used`, and an entry left
        // out would hand the driver a stale one.
        let in_ring = host_u16(used.load_u16(INDEX, Ordering::Acquire), big);
        let lost = state.avail.wrapping_sub(in_ring);
        let mut next_used = if lost <= setup.size.get() { in_ring } else { state.used };
        let (mut record, mut next_avail) = (None, state.avail);
        if let Some(log) = &setup.in_flight {
            record = Some(Box::new(SplitRecord::recover(log, setup.size.get(), in_ring)?));
            (next_used, next_avail) = (in_ring, in_ring);
        }
        Ok(Self {
            desc,
            avail,
            used,
            avail_entries,
            used_entries,
            size: setup.size.get(),
            indirect: setup.features.indirect,
            event_idx: setup.features.event_idx,
            in_order: setup.features.in_order,
            big,
            next_avail,
            seen_avail: next_avail,
            next_used,
            published: next_used,
            called: false,
            hints: Hints::default(),
            record,
        })
    }

    pub(crate) fn state(&self) -> RingState {
        let waiting = self.record.as_ref().map_or(0, |record| record.waiting().len() as u16);
        let avail = self.next_avail.wrapping_add(waiting);
        RingState { avail, used: self.next_used, ..RingState::default() }
    }

    #[inline(always)]
    pub(crate) fn sequence(&self) -> u16 {
        self.next_avail
    }

    /// Whether every chain popped is completed.
    pub(crate) fn is_idle(&self) -> bool {
        self.next_avail == self.next_used
    }

    #[inline]
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> (usize, Option<DriverFault>) {
        if self.big {
            self.pop_words::<true>(memory, burst, max)
        } else {
            self.pop_words::<false>(memory, burst, max)
        }
    }

    #[inline(never)]
    fn pop_words<'m, const BIG: bool>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> (usize, Option<DriverFault>) {
        let count = match self.available(max) {
            Ok(available) => available.min(max).min(SEGMENTS_PER_POP),
            Err(fault) => return (0, Some(fault)),
        };
        burst.reserve(count);
        let segments_max = burst.segments.len() + SEGMENTS_PER_POP;
        let first = self.next_avail;
        let mut lookup = memory.lookup();
        let mut fault = None;
        let mut popped = 0;
        while popped < count && burst.segments.len() < segments_max {
            let mut hints = self.hints;
            let next = first.wrapping_add(popped as u16);
            let (taken, end) = self.scan::<BIG>(next, count - popped, |head, sequence, descriptor| {
                walk::single(&mut lookup, &mut hints, burst, descriptor, head, sequence)
            });
            self.hints = hints;
            popped += usize::from(taken);
            let walked = match end {
                End::All => break,
                End::NoIndex => Err(DriverFault::DescriptorIndex),
                End::Other { head, descriptor } => {
                    self.walk::<BIG>(memory, burst, head, descriptor, next.wrapping_add(taken))
                }
            };
            if let Err(broken) = walked {
                fault = Some(broken);
                break;
            }
            popped += 1;
        }
        self.next_avail = first.wrapping_add(popped as u16);
        self.prefetch::<BIG>(self.next_avail, popped);
        (popped, fault)
    }

    /// Copies of the next buffers into `ready`, as long as they are there and of the plain kind; returns how many. Nothing moves on.
    /// A ring of big endian has none.
    #[inline(never)]
    pub(crate) fn look<'m>(&mut self, memory: &'m GuestMemory, ready: &mut [Ready<'m>]) -> usize {
        if self.big {
            return 0;
        }
        let count = self.available(ready.len()).map_or(0, |available| available.min(ready.len()));
        let (mut lookup, mut hint) = (memory.lookup(), self.hints.buffer);
        let mut places = ready.iter_mut();
        let (found, _) = self.scan::<false>(self.next_avail, count, |head, _, descriptor| {
            let Some(buffer) = fill::writable(&mut lookup, &mut hint, descriptor) else { return false };
            let Some(place) = places.next() else { return false };
            *place = Ready { buffer, id: head, written: 0 };
            true
        });
        self.hints.buffer = hint;
        self.prefetch::<false>(self.next_avail.wrapping_add(found), found.into());
        found.into()
    }

    /// Hands the `count` chains from entry `next` of the available ring on to `take`, each by its head, its place and the copy of its
    /// first descriptor, until it takes one not. Returns how many were taken, and why no more. Nothing moves on.
    #[inline(always)]
    fn scan<const BIG: bool>(
        &self,
        next: u16,
        count: usize,
        mut take: impl FnMut(u16, u16, &Descriptor) -> bool,
    ) -> (u16, End) {
        let (desc, entries, size) = (self.desc.entries(), self.avail_entries.entries(), self.size);
        for taken in 0..count as u16 {
            let place = next.wrapping_add(taken);
            let entry = entries.load_u16(usize::from(place & (size - 1)), 0, Ordering::Relaxed);
            let head = host_u16(entry, BIG);
            if head >= size {
                return (taken, End::NoIndex);
            }
            let descriptor = Descriptor::from_split(descriptor::load(desc, head), BIG);
            if !take(head, place, &descriptor) {
                return (taken, End::Other { head, descriptor });
            }
        }
        (count as u16, End::All)
    }

    /// Takes the buffers that were looked at and filled out of the ring and puts their used entries into it, as [`Self::put_used`].
    #[inline(always)]
    pub(crate) fn put_filled(&mut self, filled: &[Ready<'_>]) {
        let (entries, mask) = (self.used_entries.entries(), self.size - 1);
        let mut next = self.next_used;
        for Ready { id, written, .. } in filled {
            let slot = usize::from(next & mask);
            entries.store_u32(slot, 0, u32::from(*id).to_le(), Ordering::Relaxed);
            entries.store_u32(slot, 4, written.to_le(), Ordering::Relaxed);
            next = next.wrapping_add(1);
        }
        self.next_used = next;
        self.next_avail = self.next_avail.wrapping_add(filled.len() as u16);
    }

    /// Brings closer what comes after a pop of `count` chains, up to entry `next`: the ring's lines that their completions will be written
    /// to, and the descriptors of the next pop, as far as they are known to be there. They lie in the cache of the driver's
    /// processor.
    #[inline(always)]
    fn prefetch<const BIG: bool>(&self, next: u16, count: usize) {
        /// Entries of the used ring in a cache line.
        const USED_A_LINE: usize = 64 / USED_ENTRY_SIZE;
        let mask = usize::from(self.size - 1);
        let lines = if self.batches() { 1 } else { count + USED_A_LINE };
        for step in (0..lines).step_by(USED_A_LINE) {
            self.used_entries.prefetch(usize::from(self.next_used).wrapping_add(step) & mask, true);
        }
        let known = usize::from(self.seen_avail.wrapping_sub(next));
        for step in 0..known.min(count) {
            let place = usize::from(next).wrapping_add(step) & mask;
            let head = host_u16(self.avail_entries.load_u16(place, 0, Ordering::Relaxed), BIG);
            self.desc.prefetch(usize::from(head) & mask, false);
        }
    }

    /// Entries that can be popped; looks at the driver's index only if fewer than `wanted` are known of.
    #[inline(always)]
    fn available(&mut self, wanted: usize) -> Result<usize, DriverFault> {
        let known = usize::from(self.seen_avail.wrapping_sub(self.next_avail));
        if known >= wanted {
            return Ok(known);
        }
        // Acquire: the entries and descriptors written before the index are seen (virtio 1.3 §2.7.13.3.1).
        self.seen_avail = host_u16(self.avail.load_u16(INDEX, Ordering::Acquire), self.big);
        // Never more than the ring holds, counting those popped and not yet used.
        if self.seen_avail.wrapping_sub(self.next_used) > self.size
            || self.seen_avail.wrapping_sub(self.next_avail) > self.size
        {
            self.seen_avail = self.next_avail;
            return Err(DriverFault::AvailIndexJump);
        }
        Ok(usize::from(self.seen_avail.wrapping_sub(self.next_avail)))
    }

    /// Puts the chain at `head`, whose first descriptor was `first`, into `burst`.
    #[inline(always)]
    fn walk<'m, const BIG: bool>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        head: u16,
        first: Descriptor,
        sequence: u16,
    ) -> Result<(), DriverFault> {
        let rules = Rules { table: &self.desc, size: self.size, indirect: self.indirect };
        let segments = burst.segments.len();
        let mut walk = Walk::new(memory, &mut self.hints, burst);
        let walked = match rules.follow::<BIG>(first, &mut walk) {
            Ok(slots) => walk.finish(head, slots, sequence),
            Err(fault) => Err(fault),
        };
        if walked.is_err() {
            burst.segments.truncate(segments);
        }
        walked
    }

    /// Gives back the chain popped last.
    pub(crate) fn unpop(&mut self, chain: &Chain) {
        let previous = self.next_avail.wrapping_sub(1);
        assert!(chain.sequence == previous, "unpop of a chain that was not popped last");
        self.next_avail = previous;
        if let Some(record) = &mut self.record {
            record.unpop(chain.id);
        }
    }

    /// Writes a used entry; the driver sees it after [`Self::publish`].
    #[inline(always)]
    pub(crate) fn put_used(&mut self, entry: Used) {
        let slot = usize::from(self.next_used & (self.size - 1));
        let (id, written) = (host_u32(u32::from(entry.id), self.big), host_u32(entry.written, self.big));
        self.used_entries.store_u32(slot, 0, id, Ordering::Relaxed);
        self.used_entries.store_u32(slot, 4, written, Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Whether one entry can stand for a batch of completions: the driver knows by IN_ORDER which they are, and takes those before
    /// the last one as used completely, which is true where nothing is written (virtio 1.3 §2.7.9).
    pub(crate) fn batches(&self) -> bool {
        self.in_order && self.hints.readable_only
    }

    /// Writes one entry for `count` chains that follow one another, the last one's.
    pub(crate) fn put_used_batch(&mut self, last: Used, count: u16) {
        self.put_used(last);
        self.next_used = self.next_used.wrapping_add(count - 1);
    }

    fn used_offset(&self, index: u16) -> usize {
        ENTRIES + USED_ENTRY_SIZE * usize::from(index & (self.size - 1))
    }

    /// Publishes the entries written; whether the driver wants a call.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        // Release: the entries, and what was written into the buffers, come first (virtio 1.3 §2.7.14).
        self.used.store_u16(INDEX, host_u16(new, self.big), Ordering::Release);
        self.published = new;
        // The index must be out before the driver's wish is read: the driver stores its wish and then reads
        // the index, so one of the two sees the other (virtio 1.3 §2.7.7.2, §2.7.10).
        fence(Ordering::SeqCst);
        let first = !std::mem::replace(&mut self.called, true);
        if self.event_idx {
            let offset = ENTRIES + 2 * usize::from(self.size);
            let used_event = host_u16(self.avail.load_u16(offset, Ordering::Relaxed), self.big);
            return first || event::passes(used_event, new, old);
        }
        let flags = host_u16(self.avail.load_u16(FLAGS, Ordering::Relaxed), self.big);
        flags & NO_INTERRUPT == 0
    }

    /// The pieces of the used ring, as (offset, bytes), that changed between two used indexes.
    pub(crate) fn used_writes(&self, old: u16, new: u16) -> [(usize, usize); 3] {
        let count = usize::from(new.wrapping_sub(old));
        let (start, size) = (usize::from(old & (self.size - 1)), usize::from(self.size));
        let before_wrap = count.min(size - start);
        [
            (INDEX, 2),
            (self.used_offset(old), USED_ENTRY_SIZE * before_wrap),
            (ENTRIES, USED_ENTRY_SIZE * (count - before_wrap).min(size)),
        ]
    }

    /// The used index the driver sees.
    pub(crate) fn published(&self) -> u16 {
        self.published
    }

    pub(crate) fn has_available(&self) -> bool {
        self.seen_avail != self.next_avail
            || host_u16(self.avail.load_u16(INDEX, Ordering::Acquire), self.big) != self.next_avail
    }

    /// With EVENT_IDX nothing needs doing: the driver kicks only when it passes the event word, which stays
    /// where it was (virtio 1.3 §2.7.10).
    pub(crate) fn disable_notify(&mut self) {
        if !self.event_idx {
            self.used.store_u16(FLAGS, host_u16(NO_NOTIFY, self.big), Ordering::Relaxed);
        }
    }

    pub(crate) fn enable_notify(&mut self) -> bool {
        if self.event_idx {
            let offset = self.avail_event_offset();
            self.used.store_u16(offset, host_u16(self.next_avail, self.big), Ordering::Relaxed);
        } else {
            self.used.store_u16(FLAGS, 0, Ordering::Relaxed);
        }
        // The wish must be out before the index is read again: the driver publishes and then reads the
        // wish, so either it kicks or we see its entries (virtio 1.3 §2.7.13.4.1).
        fence(Ordering::SeqCst);
        self.has_available()
    }

    fn avail_event_offset(&self) -> usize {
        ENTRIES + USED_ENTRY_SIZE * usize::from(self.size)
    }

    /// The piece of the used ring that holds the wish for kicks, as (offset, bytes).
    pub(crate) fn wish_write(&self) -> (usize, usize) {
        if self.event_idx { (self.avail_event_offset(), 2) } else { (FLAGS, 2) }
    }
}

/// Why a scan went no further.
enum End {
    /// All were taken.
    All,
    /// The next head is no index of the descriptor table.
    NoIndex,
    /// The next chain was not taken.
    Other { head: u16, descriptor: Descriptor },
}

/// What following a chain through the descriptor table needs.
struct Rules<'r> {
    table: &'r Descriptors,
    size: u16,
    indirect: bool,
}

impl Rules<'_> {
    /// Adds every buffer of the chain that begins with `first` to `walk`; returns how many ring descriptors
    /// it takes up.
    #[inline(always)]
    fn follow<const BIG: bool>(
        &self,
        first: Descriptor,
        walk: &mut Walk<'_, '_>,
    ) -> Result<u16, DriverFault> {
        let mut descriptor = first;
        for slots in 1..=self.size.min(CHAIN_DESCRIPTORS_MAX) {
            if descriptor.is(INDIRECT) {
                if !self.indirect {
                    return Err(DriverFault::IndirectNotNegotiated);
                }
                let room = CHAIN_DESCRIPTORS_MAX - (slots - 1);
                walk.add_split_table(&descriptor, room, BIG)?;
                return Ok(slots);
            }
            walk.add(&descriptor)?;
            if !descriptor.is(NEXT) {
                return Ok(slots);
            }
            if descriptor.link >= self.size {
                return Err(DriverFault::DescriptorIndex);
            }
            descriptor = Descriptor::from_split(descriptor::load(self.table.entries(), descriptor.link), BIG);
        }
        Err(DriverFault::ChainTooLong)
    }
}
