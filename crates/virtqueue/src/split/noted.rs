//! A split ring with a record of what is in flight: the same steps, noted.

use super::SplitRing;
use crate::burst::Burst;
use crate::descriptor::{self, Descriptor};
use crate::fault::DriverFault;
use crate::in_order::Used;
use crate::walk::SEGMENTS_PER_POP;
use guestmem::GuestMemory;

impl SplitRing {
    /// As [`Self::pop`], with a record: first what was in flight at the start, and everything noted.
    #[cold]
    pub(crate) fn pop_noted<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> (usize, Option<DriverFault>) {
        let waiting = self.record.as_ref().map_or(&[][..], |record| record.waiting());
        if waiting.is_empty() {
            let first = burst.chains.len();
            let result = self.pop(memory, burst, max);
            if let Some(record) = &mut self.record {
                burst.chains[first..].iter().for_each(|chain| record.pop(chain.id));
            }
            return result;
        }
        let heads = waiting[..waiting.len().min(max)].to_vec();
        let segments_max = burst.segments.len() + SEGMENTS_PER_POP;
        let (mut popped, mut fault) = (0, None);
        for head in heads {
            if burst.segments.len() >= segments_max {
                break;
            }
            fault = self.pop_again(memory, burst, head).err();
            if fault.is_some() {
                break;
            }
            popped += 1;
        }
        if let Some(record) = &mut self.record {
            record.pop_again(popped);
        }
        (popped, fault)
    }

    /// Pops the chain at `head`, which stood at the next place of the available ring once.
    fn pop_again<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        head: u16,
    ) -> Result<(), DriverFault> {
        let (words, sequence) = (descriptor::load(self.desc.entries(), head), self.next_avail);
        let first = Descriptor::from_split(words, self.big);
        if self.big {
            self.walk::<true>(memory, burst, head, first, sequence)?;
        } else {
            self.walk::<false>(memory, burst, head, first, sequence)?;
        }
        self.next_avail = sequence.wrapping_add(1);
        if self.seen_avail == sequence {
            self.seen_avail = self.next_avail;
        }
        Ok(())
    }

    /// As [`Self::put_used`], noted if there is a record.
    pub(crate) fn put_noted(&mut self, entry: Used) {
        if let Some(record) = &mut self.record {
            record.put(entry.id);
        }
        self.put_used(entry);
    }

    /// As [`Self::publish`], noted if there is a record.
    pub(crate) fn publish_noted(&mut self) -> bool {
        let call = self.publish();
        if let Some(record) = &mut self.record {
            record.published(self.published);
        }
        call
    }

    /// Whether chains that were in flight at the start are not popped yet.
    pub(crate) fn has_waiting(&self) -> bool {
        self.record.as_ref().is_some_and(|record| !record.waiting().is_empty())
    }
}
