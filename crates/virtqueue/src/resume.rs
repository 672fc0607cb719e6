//! Where the device of a packed ring stood, found in the ring itself after a back-end was killed.
//!
//! **Theory of operation.** Let P be the device's position and W its wrap counter (virtio 1.3 §2.8.1). A
//! descriptor in front of P was used in this lap, or the driver has made it available for the next one: both
//! leave its USED bit at W. A descriptor from P on was used in the lap before, or is available in this one:
//! both leave its USED bit at !W. So the bit turns exactly once, at P; and where none turns, P is 0. Whatever
//! the driver does meanwhile changes AVAIL bits only, so it may go on while the ring is read.
//!
//! Descriptors of a longer chain that are stepped over would break this, so our device marks them used too.
//! And it writes the used descriptors of a burst with the first one held back until the burst is published;
//! killed in between it leaves a *gap*: one available descriptor at P, and used ones behind it that nobody
//! sees. Those cannot be popped again, for they are overwritten. So the gap is closed: the chain at P is
//! given back with nothing written, and with it those behind it become visible.
//!
//! Everything else is no ring that we left behind, and nothing is said about it.

use crate::descriptor::{AVAIL, Descriptor, NEXT, USED};
use crate::packed::{Position, used_word};
use crate::setup::{Descriptors, QueueSetup, RingLog, RingState, SetupFault};
use guestmem::GuestMemory;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl RingState {
    /// The state of a packed ring whose device vanished without `GET_VRING_BASE`; `None` when the ring does
    /// not tell. Chains that were popped and never completed are popped again; of a burst that was completed
    /// and not flushed the first chain comes back to the driver with nothing written. That closes a gap in
    /// the ring, so no other device may be at work on it. The driver may wait for a call: give it one.
    ///
    /// The device that vanished must have been a [`DeviceQueue`](crate::DeviceQueue) that completed chains in
    /// the order in which it popped them. One that leaves the other descriptors of longer chains as they
    /// were (most do) may be misread after such chains.
    ///
    /// With a record of what is in flight ([`QueueSetup::in_flight`]) the ring is not asked, and left alone: the record
    /// tells when the queue is made.
    pub fn resume_packed(memory: &Arc<GuestMemory>, setup: &QueueSetup) -> Result<Option<Self>, SetupFault> {
        let areas = setup.areas(memory)?;
        if !setup.features.packed || setup.in_flight.is_some() {
            return Ok(None);
        }
        let ring = Snapshot::take(&areas.desc, setup.size.get());
        let Some((start, unpublished)) = ring.position() else { return Ok(None) };
        if unpublished > 0 {
            let id = ring.id(start);
            areas.desc.store_u64(
                usize::from(start.index),
                8,
                used_word(id, 0, start.wrap),
                Ordering::Release,
            );
            if let Some(RingLog { log, used_ring: Some(_) }) = &setup.log
                && let Some(addr) = setup.desc.checked_add(16 * u64::from(start.index))
            {
                log.mark(addr, 16);
            }
        }
        let Position { index, wrap } = start.forward(unpublished, setup.size.get());
        Ok(Some(Self { avail: index, avail_wrap: wrap, used: index, used_wrap: wrap }))
    }
}

/// Descriptors of a packed ring, without their addresses, each read once.
struct Snapshot {
    descriptors: Box<[Descriptor]>,
}

impl Snapshot {
    fn take(ring: &Descriptors, size: u16) -> Self {
        let read =
            |index| Descriptor::from_packed([0, ring.load_u64(usize::from(index), 8, Ordering::Acquire)]);
        Self { descriptors: (0..size).map(read).collect() }
    }

    fn size(&self) -> u16 {
        self.descriptors.len() as u16
    }

    fn used_bit(&self, index: u16) -> bool {
        self.descriptors[usize::from(index)].is(USED)
    }

    fn avail_bit(&self, index: u16) -> bool {
        self.descriptors[usize::from(index)].is(AVAIL)
    }

    /// Used, in whichever lap; otherwise available.
    fn is_used(&self, index: u16) -> bool {
        self.avail_bit(index) == self.used_bit(index)
    }

    /// The device's position, and how many descriptors from there on it has used without publishing them.
    fn position(&self) -> Option<(Position, u16)> {
        // From the last descriptor to the first the lap changes, so there the bit turns by staying.
        let turns = |&index: &u16| match index {
            0 => self.used_bit(0) == self.used_bit(self.size() - 1),
            _ => self.used_bit(index) != self.used_bit(index - 1),
        };
        let mut turns = (0..self.size()).filter(turns);
        match [turns.next(), turns.next(), turns.next(), turns.next()] {
            [Some(index), None, ..] => {
                // One turn is also what an unpublished burst of the whole ring leaves, and what a driver shows
                // that is about to publish one: available all round the ring, and used at the turn.
                let before = index.checked_sub(1).unwrap_or(self.size() - 1);
                let doubtful = !self.is_used(before) && self.is_used(index);
                (!doubtful).then(|| (self.unused(index), 0))
            }
            [Some(first), Some(second), Some(third), None] => {
                let gap = |index| self.unpublished(index).map(|count| (self.unused(index), count));
                let mut gaps = [first, second, third].into_iter().filter_map(gap);
                let gap = gaps.next()?;
                gaps.next().is_none().then_some(gap)
            }
            _ => None,
        }
    }

    /// The position at `index` in the lap in which it is not used yet.
    fn unused(&self, index: u16) -> Position {
        Position { index, wrap: !self.used_bit(index) }
    }

    /// If the ring has its gap at `index`: the descriptors up to the end of those used behind it.
    fn unpublished(&self, index: u16) -> Option<u16> {
        let (start, size) = (self.unused(index), self.size());
        if self.avail_bit(index) != start.wrap {
            return None;
        }
        let used = |count: &u16| {
            let Position { index, wrap } = start.forward(*count, size);
            self.used_bit(index) == wrap && self.avail_bit(index) == wrap
        };
        let end = 1 + (1..size).take_while(used).count() as u16;
        let unused = |count| {
            let Position { index, wrap } = start.forward(count, size);
            self.used_bit(index) != wrap
        };
        (end > 1 && (end..size).all(unused)).then_some(end)
    }

    /// The id of the chain at `start`, behind which others are used: a longer chain's second descriptor is
    /// marked and bears it.
    fn id(&self, start: Position) -> u16 {
        let head = self.descriptors[usize::from(start.index)];
        if head.is(NEXT) {
            return self.descriptors[usize::from(start.forward(1, self.size()).index)].link;
        }
        head.link
    }
}
