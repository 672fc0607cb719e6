//! A packed ring with a record of what is in flight: the same steps, noted.

use super::{PackedRing, used_word};
use crate::burst::Burst;
use crate::descriptor::{Descriptor, INDIRECT};
use crate::fault::DriverFault;
use crate::in_flight::PackedRecord;
use crate::in_order::Used;
use crate::walk::{CHAIN_DESCRIPTORS_MAX, SEGMENTS_PER_POP, Walk};
use guestmem::GuestMemory;
use std::sync::atomic::Ordering;

impl PackedRing {
    /// As [`Self::pop`], with a record: first what was in flight at the start, and everything noted.
    #[cold]
    pub(crate) fn pop_noted<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> (usize, Option<DriverFault>) {
        let Some(mut record) = self.record.take() else { return self.pop(memory, burst, max) };
        let result = if record.waiting().is_some() {
            self.pop_again(memory, burst, max, &mut record)
        } else {
            let (first, mut position) = (burst.chains.len(), self.next.position);
            let result = self.pop(memory, burst, max);
            for chain in &burst.chains[first..] {
                record.pop(&self.desc, position, chain.id, chain.slots);
                position = position.forward(chain.slots, self.size);
            }
            result
        };
        self.record = Some(record);
        result
    }

    /// Pops chains that were in flight at the start.
    fn pop_again<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
        record: &mut PackedRecord,
    ) -> (usize, Option<DriverFault>) {
        let segments_max = burst.segments.len() + SEGMENTS_PER_POP;
        let mut popped = 0;
        while popped < max && burst.segments.len() < segments_max {
            let Some(chain) = record.waiting() else { break };
            let segments = burst.segments.len();
            let mut walk = Walk::new(memory, &mut self.hints, burst);
            let walked = match follow_recorded(chain, self.indirect, &mut walk) {
                Ok((id, slots)) => walk.finish(id, slots, self.next.sequence).map(|()| slots),
                Err(fault) => Err(fault),
            };
            match walked {
                Ok(slots) => self.next.forward(1, slots, self.size),
                Err(fault) => {
                    burst.segments.truncate(segments);
                    return (popped, Some(fault));
                }
            }
            record.pop_again();
            popped += 1;
        }
        (popped, None)
    }

    /// As [`Self::put_used`], noted if there is a record; then it is published at once. A record knows of one used descriptor
    /// only that may be out or not.
    pub(crate) fn put_noted(&mut self, entry: Used) {
        let Some(record) = &mut self.record else { return self.put_used(entry) };
        let noted = record.put(entry.id, entry.slots);
        let word = used_word(entry.id, entry.written, self.used.wrap);
        // Release: what was noted, and what was written into the buffers, comes first. The chain's other descriptors are left as
        // they are: should this one not come out, nothing may stand behind it that looks used.
        self.desc.store_u64(usize::from(self.used.index), 8, word, Ordering::Release);
        if let Some(head) = noted {
            record.published(head);
        }
        self.used = self.used.forward(entry.slots, self.size);
        self.next.in_flight -= entry.slots;
        self.added = self.added.saturating_add(entry.slots);
    }

    /// As [`Self::publish`], with a record: all is out, and it remains whether the driver wants a call.
    pub(crate) fn publish_noted(&mut self) -> bool {
        match self.record {
            Some(_) => self.added != 0 && self.wants_call(),
            None => self.publish(),
        }
    }

    /// Whether chains that were in flight at the start are not popped yet.
    pub(crate) fn has_waiting(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.waiting().is_some())
    }
}

/// Adds every buffer of a chain that was recorded to `walk`; returns its id and how many ring descriptors it takes up.
fn follow_recorded(
    chain: &[Descriptor],
    indirect: bool,
    walk: &mut Walk<'_, '_>,
) -> Result<(u16, u16), DriverFault> {
    let slots = chain.len() as u16;
    if slots > CHAIN_DESCRIPTORS_MAX {
        return Err(DriverFault::ChainTooLong);
    }
    for descriptor in chain {
        if !descriptor.is(INDIRECT) {
            walk.add(descriptor)?;
        } else if indirect {
            walk.add_packed_table(descriptor, CHAIN_DESCRIPTORS_MAX - (slots - 1))?;
        } else {
            return Err(DriverFault::IndirectNotNegotiated);
        }
    }
    let id = chain.last().map_or(0, |last| last.link);
    Ok((id, slots))
}
