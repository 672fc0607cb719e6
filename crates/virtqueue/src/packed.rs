//! The packed ring, device side (virtio 1.3 §2.8).

mod noted;

use crate::burst::{Burst, Chain};
use crate::descriptor::{self, AVAIL, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, USED, WRITE};
use crate::event::{DESC, DISABLE, ENABLE, PackedEvent};
use crate::fault::DriverFault;
use crate::fill::{self, Ready};
use crate::in_flight::PackedRecord;
use crate::in_order::Used;
use crate::setup::{Areas, DescriptorEntries, Descriptors, QueueSetup, RingState, SetupFault};
use crate::walk::{self, CHAIN_DESCRIPTORS_MAX, Hints, SEGMENTS_PER_POP, Walk};
use guestmem::{GuestAddr, GuestMemory, MemArea};
use std::sync::atomic::{Ordering, compiler_fence, fence};

/// A place in the ring, with the wrap counter that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Of a descriptor.
    pub index: u16,
    /// Whether this lap marks what is available by a set [`AVAIL`] bit (virtio 1.3 §2.8.1).
    pub wrap: bool,
}

impl Position {
    /// `count` descriptors further in a ring of `size`; `count` is at most `size`.
    #[inline(always)]
    pub fn forward(self, count: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(count);
        if index >= u32::from(size) {
            Self { index: (index - u32::from(size)) as u16, wrap: !self.wrap }
        } else {
            Self { index: index as u16, wrap: self.wrap }
        }
    }

    /// One descriptor further.
    #[inline(always)]
    fn next(self, size: u16) -> Self {
        let index = self.index + 1;
        if index == size { Self { index: 0, wrap: !self.wrap } } else { Self { index, wrap: self.wrap } }
    }

    /// The flags of a descriptor that was made available in this lap (virtio 1.3 §2.8.1).
    #[inline(always)]
    pub fn wanted(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// The reverse of [`Self::forward`].
    pub(crate) fn back(self, count: u16, size: u16) -> Self {
        match self.index.checked_sub(count) {
            Some(index) => Self { index, wrap: self.wrap },
            None => Self { index: self.index + (size - count), wrap: !self.wrap },
        }
    }
}

/// Descriptors in a cache line.
const DESCRIPTORS_A_LINE: usize = 64 / DESCRIPTOR_SIZE;

/// A descriptor that is written but for its second word: publishing it publishes all those behind it, since
/// the other side looks at them in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) index: usize,
    pub(crate) word: u64,
}

/// What popping moves on.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// Next descriptor to pop.
    position: Position,
    /// Descriptors popped and not used.
    in_flight: u16,
    /// Chains popped so far, free-running.
    sequence: u16,
}

impl Next {
    /// `chains` further, which take up `slots` descriptors of a ring of `size`.
    #[inline(always)]
    fn forward(&mut self, chains: u16, slots: u16, size: u16) {
        self.position = self.position.forward(slots, size);
        self.in_flight += slots;
        self.sequence = self.sequence.wrapping_add(chains);
    }
}

/// The device's half of a packed ring.
pub(crate) struct PackedRing {
    desc: Descriptors,
    driver_event: MemArea,
    device_event: MemArea,
    size: u16,
    indirect: bool,
    event_idx: bool,
    next: Next,
    /// Next descriptor to be overwritten by a used one.
    used: Position,
    held: Option<Held>,
    /// Descriptors used since the last publish; stays at the largest number rather than overflow.
    added: u16,
    called: bool,
    /// Chains that the last pop found: the next one will find about as many.
    popped: usize,
    /// The word about kicks that the driver sees, once one was stored.
    wish: Option<u32>,
    pub(crate) hints: Hints,
    /// What is in flight, where that is recorded.
    record: Option<Box<PackedRecord>>,
}

impl PackedRing {
    pub(crate) fn new(areas: Areas, setup: &QueueSetup, state: RingState) -> Result<Self, SetupFault> {
        let size = setup.size.get();
        if let Some(&index) = [state.avail, state.used].iter().find(|&&index| index >= size) {
            return Err(SetupFault::StateIndex { index, size });
        }
        let avail = Position { index: state.avail, wrap: state.avail_wrap };
        let used = Position { index: state.used, wrap: state.used_wrap };
        let in_flight = if avail.wrap == used.wrap {
            avail.index.checked_sub(used.index)
        } else {
            (avail.index <= used.index).then(|| size - used.index + avail.index)
        };
        let mut in_flight = in_flight.ok_or(SetupFault::StateIndex { index: state.used, size })?;
        let (mut record, mut avail, mut used) = (None, avail, used);
        if let Some(log) = &setup.in_flight {
            let (recovered, position) = PackedRecord::recover(log, &areas.desc, state)?;
            record = Some(Box::new(recovered));
            (avail, used, in_flight) = (position, position, 0);
        }
        Ok(Self {
            desc: areas.desc,
            driver_event: areas.driver,
            device_event: areas.device,
            size,
            indirect: setup.features.indirect,
            event_idx: setup.features.event_idx,
            next: Next { position: avail, in_flight, sequence: 0 },
            used,
            held: None,
            added: 0,
            called: false,
            popped: 0,
            wish: None,
            hints: Hints::default(),
            record,
        })
    }

    pub(crate) fn state(&self) -> RingState {
        let waiting = self.record.as_ref().map_or(0, |record| record.waiting_slots());
        let Position { index, wrap } = self.next.position.forward(waiting, self.size);
        RingState { avail: index, avail_wrap: wrap, used: self.used.index, used_wrap: self.used.wrap }
    }

    #[inline(always)]
    pub(crate) fn sequence(&self) -> u16 {
        self.next.sequence
    }

    /// Whether every chain popped is completed.
    pub(crate) fn is_idle(&self) -> bool {
        self.next.in_flight == 0
    }

    #[inline(never)]
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> (usize, Option<DriverFault>) {
        let max = max.min(SEGMENTS_PER_POP);
        let segments_max = burst.segments.len() + SEGMENTS_PER_POP;
        if !self.has_available() {
            return (0, None);
        }
        self.prefetch(self.next.position, max.min(self.popped));
        burst.reserve(max.min(self.popped + 1));
        let mut lookup = memory.lookup();
        let mut popped = 0;
        let mut fault = None;
        while popped < max && burst.segments.len() < segments_max {
            let (mut hints, mut sequence) = (self.hints, self.next.sequence);
            let (taken, other) = self.scan(max - popped, |head| {
                let is_single = walk::single(&mut lookup, &mut hints, burst, head, head.link, sequence);
                sequence = sequence.wrapping_add(u16::from(is_single));
                is_single
            });
            self.hints = hints;
            self.next.forward(taken, taken, self.size);
            popped += usize::from(taken);
            let Some(head) = other else { break };
            match self.walk(memory, burst, head) {
                Ok(slots) => self.next.forward(1, slots, self.size),
                Err(broken) => {
                    fault = Some(broken);
                    break;
                }
            }
            popped += 1;
        }
        self.popped = popped;
        (popped, fault)
    }

    /// Hands copies of the next descriptors to `take`, each a chain by itself, until it takes one not, or `max` are taken, or there are
    /// no more. Returns how many were taken, and the one that was not. Nothing moves on.
    #[inline(always)]
    fn scan(&self, max: usize, mut take: impl FnMut(&Descriptor) -> bool) -> (u16, Option<Descriptor>) {
        let Next { position, in_flight, .. } = self.next;
        let (desc, size) = (self.desc.entries(), self.size);
        // A driver that makes more available than the ring has does not send single descriptors: a walk names its fault.
        let room = size - in_flight;
        let (wished, max) = (max, room.min(max.min(usize::from(size)) as u16));
        let (mut index, mut wanted) = (position.index, position.wanted());
        let mut taken = 0;
        while taken < max {
            let Some(head) = available(desc, index, wanted) else { return (taken, None) };
            if !take(&head) {
                return (taken, Some(head));
            }
            taken += 1;
            index += 1;
            if index == size {
                (index, wanted) = (0, wanted ^ (AVAIL | USED));
            }
        }
        let is_full = taken == room && usize::from(taken) < wished;
        let overrun = if is_full { available(desc, index, wanted) } else { None };
        (taken, overrun)
    }

    /// Brings closer the descriptors of `count` chains: for writing, since each will be overwritten by a used one. They lie in the
    /// cache of the driver's processor, and would else be fetched twice, to be read and then to be written.
    #[inline(always)]
    fn prefetch(&self, from: Position, count: usize) {
        for step in (DESCRIPTORS_A_LINE..count).step_by(DESCRIPTORS_A_LINE) {
            let at = from.forward((step as u16).min(self.size), self.size);
            self.desc.prefetch(usize::from(at.index), true);
        }
    }

    /// A copy of the descriptor at `position`, if the driver made it available.
    #[inline(always)]
    fn available(&self, position: Position) -> Option<Descriptor> {
        available(self.desc.entries(), position.index, position.wanted())
    }

    /// Copies of the next buffers into `ready`, as long as they are there and of the plain kind; returns how many. Nothing moves on.
    #[inline(never)]
    pub(crate) fn look<'m>(&mut self, memory: &'m GuestMemory, ready: &mut [Ready<'m>]) -> usize {
        self.prefetch(self.next.position, ready.len().min(self.popped));
        let (mut lookup, mut hint) = (memory.lookup(), self.hints.buffer);
        let max = ready.len();
        let mut places = ready.iter_mut();
        let (found, _) = self.scan(max, |head| {
            let Some(buffer) = fill::writable(&mut lookup, &mut hint, head) else { return false };
            let Some(place) = places.next() else { return false };
            *place = Ready { buffer, id: head.link, written: 0 };
            true
        });
        self.hints.buffer = hint;
        self.popped = found.into();
        found.into()
    }

    /// Takes the buffers that were looked at and filled out of the ring and puts their used descriptors into it, as [`Self::put_used`].
    #[inline(always)]
    pub(crate) fn put_filled(&mut self, filled: &[Ready<'_>]) {
        let Some((first, rest)) = filled.split_first() else { return };
        let count = filled.len() as u16;
        self.next.forward(count, count, self.size);
        self.put_used(Used { id: first.id, slots: 1, written: first.written });
        let (desc, size) = (self.desc.entries(), self.size);
        let mut used = self.used;
        for Ready { id, written, .. } in rest {
            let word = used_word(*id, *written, used.wrap);
            desc.store_u64(usize::from(used.index), 8, word, Ordering::Relaxed);
            used = used.next(size);
        }
        self.used = used;
        self.next.in_flight -= count - 1;
        self.added = self.added.saturating_add(count - 1);
    }

    /// Puts the chain at the next position into `burst`; returns how many descriptors it takes up.
    #[inline(always)]
    fn walk<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        head: Descriptor,
    ) -> Result<u16, DriverFault> {
        let next = self.next;
        let rules = Rules {
            ring: &self.desc,
            size: self.size,
            room: self.size - next.in_flight,
            indirect: self.indirect,
        };
        let segments = burst.segments.len();
        let mut walk = Walk::new(memory, &mut self.hints, burst);
        let walked = match rules.follow(next.position, head, &mut walk) {
            Ok((id, slots)) => walk.finish(id, slots, next.sequence).map(|()| slots),
            Err(fault) => Err(fault),
        };
        if walked.is_err() {
            burst.segments.truncate(segments);
        }
        walked
    }

    /// Gives back the chain popped last.
    pub(crate) fn unpop(&mut self, chain: &Chain) {
        let Next { position, in_flight, sequence } = self.next;
        let previous = sequence.wrapping_sub(1);
        assert!(chain.sequence == previous, "unpop of a chain that was not popped last");
        self.next = Next {
            position: position.back(chain.slots, self.size),
            in_flight: in_flight - chain.slots,
            sequence: previous,
        };
        if let Some(record) = &mut self.record {
            record.unpop(chain.id, chain.slots);
        }
    }

    /// Writes a used descriptor; the driver sees it after [`Self::publish`].
    ///
    /// All but the first since the last publish are written at once: the driver looks at descriptors in
    /// order and stops at the first, which is held back (virtio 1.3 §2.8.22.1).
    #[inline(always)]
    pub(crate) fn put_used(&mut self, entry: Used) {
        let word = used_word(entry.id, entry.written, self.used.wrap);
        let index = usize::from(self.used.index);
        if entry.slots > 1 {
            self.mark_tail(self.used, entry.slots, word);
        }
        if self.held.is_none() {
            self.held = Some(Held { index, word });
        } else {
            self.desc.store_u64(index, 8, word, Ordering::Relaxed);
        }
        self.used = self.used.forward(entry.slots, self.size);
        self.next.in_flight -= entry.slots;
        self.added = self.added.saturating_add(entry.slots);
    }

    /// As [`Self::put_used`] for all of `chains`, in which nothing was written.
    pub(crate) fn put_unwritten(&mut self, chains: &[Chain]) {
        let Some((first, rest)) = chains.split_first() else { return };
        self.put_used(Used { id: first.id, slots: first.slots, written: 0 });
        let (desc, size) = (self.desc.entries(), self.size);
        let mut used = self.used;
        let mut added = 0;
        for &Chain { id, slots, .. } in rest {
            let word = used_word(id, 0, used.wrap);
            if slots > 1 {
                self.mark_tail(used, slots, word);
            }
            desc.store_u64(usize::from(used.index), 8, word, Ordering::Relaxed);
            used = used.forward(slots, size);
            added += slots;
        }
        self.used = used;
        self.next.in_flight -= added;
        self.added = self.added.saturating_add(added);
    }

    /// Writes the used word of a longer chain to its other descriptors as well, last one first; `used` is the first one's place.
    ///
    /// The driver steps over them unread (virtio 1.3 §2.8.8), so to it they are nothing. A device that
    /// takes the ring over finds its position by them: see the module `resume`.
    #[inline(always)]
    fn mark_tail(&self, used: Position, slots: u16, head: u64) {
        for step in (1..slots).rev() {
            let Position { index, wrap } = used.forward(step, self.size);
            let word = if wrap == used.wrap { head } else { head ^ LAP };
            // Release: one after the other; whoever is killed here leaves no mark in front of a gap.
            self.desc.store_u64(usize::from(index), 8, word, Ordering::Release);
        }
        compiler_fence(Ordering::Release);
    }

    /// Publishes the descriptors written; whether the driver wants a call.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let Some(Held { index, word }) = self.held.take() else { return false };
        // Release: the other used descriptors, and what was written into the buffers, come first.
        self.desc.store_u64(index, 8, word, Ordering::Release);
        self.wants_call()
    }

    /// Whether the driver wants a call for the descriptors that came out since it was asked last.
    #[inline(always)]
    fn wants_call(&mut self) -> bool {
        let added = std::mem::take(&mut self.added);
        // The descriptors must be out before the driver's wish is read; the driver does it the other way
        // round, so one of the two sees the other (virtio 1.3 §2.8.22.1).
        fence(Ordering::SeqCst);
        let wish = PackedEvent::from_word(self.driver_event.load_u32(0, Ordering::Relaxed));
        let first = !std::mem::replace(&mut self.called, true) && wish.flags == DESC;
        first || wish.wants(self.event_idx, self.used.index, self.used.wrap, added, self.size)
    }

    pub(crate) fn has_available(&self) -> bool {
        self.available(self.next.position).is_some()
    }

    pub(crate) fn disable_notify(&mut self) {
        self.wish(PackedEvent { offset: 0, wrap: false, flags: DISABLE });
    }

    pub(crate) fn enable_notify(&mut self) -> bool {
        let Position { index: offset, wrap } = self.next.position;
        let flags = if self.event_idx { DESC } else { ENABLE };
        self.wish(PackedEvent { offset, wrap, flags });
        // The wish must be out before the descriptor is read again (virtio 1.3 §2.8.21.3).
        fence(Ordering::SeqCst);
        self.has_available()
    }

    /// Tells the driver when to kick: at a descriptor, always, or never. The driver reads the word with every
    /// publish, so it is not stored again while it stays the same.
    fn wish(&mut self, wish: PackedEvent) {
        let word = wish.to_word();
        if self.wish.replace(word) != Some(word) {
            self.device_event.store_u32(0, word, Ordering::Relaxed);
        }
    }
}

/// A copy of the descriptor at `index`, if the driver made it available in the lap that `wanted` stands for.
///
/// Flags, id and length come in one load, so there is no second look at words that could have changed.
/// Acquire: the address, and the rest of the chain, were written before (virtio 1.3 §2.8.21.1).
#[inline(always)]
fn available(desc: DescriptorEntries<'_>, index: u16, wanted: u16) -> Option<Descriptor> {
    let index = usize::from(index);
    let word = desc.load_u64(index, 8, Ordering::Acquire);
    let flags = (u64::from_le(word) >> 48) as u16;
    if flags & (AVAIL | USED) != wanted {
        return None;
    }
    Some(Descriptor::from_packed([desc.load_u64(index, 0, Ordering::Relaxed), word]))
}

/// What tells the used words of one lap from those of the next.
const LAP: u64 = (((AVAIL | USED) as u64) << 48).to_le();

/// The second word of a used descriptor. Its length counts only with the write flag, which is set if and
/// only if something was written (virtio 1.3 §2.8.6).
#[inline(always)]
pub fn used_word(id: u16, written: u32, wrap: bool) -> u64 {
    let lap = if wrap { AVAIL | USED } else { 0 };
    let write = WRITE * u16::from(written != 0);
    let used = Descriptor { addr: GuestAddr(0), len: written, flags: lap | write, link: id };
    used.to_packed()[1]
}

/// What following a chain through the ring needs.
struct Rules<'r> {
    ring: &'r Descriptors,
    size: u16,
    /// Descriptors that can be in flight in addition.
    room: u16,
    indirect: bool,
}

impl Rules<'_> {
    /// Adds every buffer of the chain whose first descriptor was `head`, at `position`; returns its id and
    /// how many ring descriptors it takes up.
    #[inline(always)]
    fn follow(
        &self,
        mut position: Position,
        head: Descriptor,
        walk: &mut Walk<'_, '_>,
    ) -> Result<(u16, u16), DriverFault> {
        let mut descriptor = head;
        for slots in 1..=self.room.min(CHAIN_DESCRIPTORS_MAX) {
            if descriptor.is(INDIRECT) {
                if !self.indirect {
                    return Err(DriverFault::IndirectNotNegotiated);
                }
                let room = CHAIN_DESCRIPTORS_MAX - (slots - 1);
                walk.add_packed_table(&descriptor, room)?;
                return Ok((descriptor.link, slots));
            }
            walk.add(&descriptor)?;
            // The last descriptor of a chain carries its id (virtio 1.3 §2.8.6).
            if !descriptor.is(NEXT) {
                return Ok((descriptor.link, slots));
            }
            position = position.forward(1, self.size);
            descriptor = Descriptor::from_packed(descriptor::load(self.ring.entries(), position.index));
        }
        let overrun = self.room < self.size.min(CHAIN_DESCRIPTORS_MAX);
        Err(if overrun { DriverFault::RingOverrun } else { DriverFault::ChainTooLong })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_forward_and_back_over_the_end() {
        for size in [1u16, 2, 3, 7, 32768] {
            for index in [0, size / 2, size - 1] {
                for count in [0, 1, size / 2, size - 1, size].into_iter().filter(|&count| count <= size) {
                    let from = Position { index, wrap: true };
                    let to = from.forward(count, size);
                    assert!(to.index < size);
                    assert_eq!(to.back(count, size), from, "size {size} index {index} count {count}");
                }
            }
        }
    }
}
