//! The device's side of a virtqueue, whatever its form.

use crate::burst::{Burst, Chain};
use crate::detached::{Detached, ForeignChain, Identity};
use crate::fault::DriverFault;
use crate::fill::{FILL_MAX, Ready};
use crate::in_order::{InOrder, Used};
use crate::packed::PackedRing;
use crate::setup::{QueueSetup, QueueSize, RingLog, RingState, SetupFault};
use crate::split::SplitRing;
use guestmem::{GuestMemory, MemSlice};
use std::sync::Arc;

pub(crate) enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// The device's side of one virtqueue.
///
/// A fault of the driver retires the queue: nothing is popped any more, chains already popped can still be
/// completed. A reset of the ring (`VIRTIO_F_RING_RESET`) is dropping the queue and making a new one.
pub struct DeviceQueue {
    pub(crate) ring: Ring,
    pub(crate) size: QueueSize,
    fault: Option<DriverFault>,
    /// Whether it is retired or what it pops is recorded: popping is then not the plain thing.
    uncommon: bool,
    /// With IN_ORDER: completions that wait for their turn.
    order: Option<InOrder>,
    pub(crate) log: Option<RingLog>,
    /// Whether there is a log or a record of what is in flight.
    noted: bool,
    /// Whether there is an order to keep, or something is noted: completing is then not the plain thing.
    special: bool,
    pub(crate) setup: QueueSetup,
    pub(crate) memory: Arc<GuestMemory>,
    identity: Identity,
    /// Chains detached and not completed.
    detached: u16,
}

impl DeviceQueue {
    /// Starts a queue at `state`. The areas are validated and mapped here, once.
    ///
    /// After a change of the memory map a queue goes on as `new(&new_memory, &setup, old.state())`; it may
    /// have nothing in flight then.
    ///
    /// With a record of what is in flight ([`QueueSetup::in_flight`]) the chains recorded are popped again first, in the order
    /// in which they were popped before, and then those that come behind them in the ring. How far the ring is used a split
    /// ring says itself, for a packed one the record does; `state` counts for a packed ring whose record was never used. No
    /// other queue may be at work on the ring. The driver may wait for a call: give it one.
    pub fn new(memory: &Arc<GuestMemory>, setup: &QueueSetup, state: RingState) -> Result<Self, SetupFault> {
        let areas = setup.areas(memory)?;
        let ring = if setup.features.packed {
            Ring::Packed(PackedRing::new(areas, setup, state)?)
        } else {
            Ring::Split(SplitRing::new(areas, setup, state)?)
        };
        let mut queue = Self {
            ring,
            size: setup.size,
            fault: None,
            uncommon: setup.in_flight.is_some(),
            order: None,
            log: setup.log.clone(),
            noted: false,
            special: false,
            setup: setup.clone(),
            memory: Arc::clone(memory),
            identity: Identity::new(),
            detached: 0,
        };
        if setup.features.in_order {
            queue.order = Some(InOrder::new(setup.size.get(), queue.sequence()));
        }
        queue.sort_completions();
        Ok(queue)
    }

    /// For a queue whose device never writes (virtio-net transmit): the write flag of descriptors is ignored and every
    /// buffer is readable. Drivers that set the flag once for all entries of an indirect table exist (DPDK's packed
    /// virtio-net), and no harm comes of reading what a driver may also have made writable.
    #[must_use]
    pub fn readable_only(mut self) -> Self {
        match &mut self.ring {
            Ring::Split(ring) => ring.hints.readable_only = true,
            Ring::Packed(ring) => ring.hints.readable_only = true,
        }
        self
    }

    fn is_readable_only(&self) -> bool {
        match &self.ring {
            Ring::Split(ring) => ring.hints.readable_only,
            Ring::Packed(ring) => ring.hints.readable_only,
        }
    }

    /// Pops up to `max` chains and appends them to `burst`; returns how many. `memory` is what buffer
    /// addresses refer to.
    ///
    /// Fewer than `max` does not mean that the ring is empty (a pop of very long chains stops early); zero
    /// does. A fault retires the queue: chains in front of the faulty one are delivered first, the fault
    /// comes with the next call and with every later one.
    #[inline]
    pub fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> Result<usize, DriverFault> {
        if self.uncommon {
            return self.pop_uncommon(memory, burst, max);
        }
        let (popped, fault) = match &mut self.ring {
            Ring::Split(ring) => ring.pop(memory, burst, max),
            Ring::Packed(ring) => ring.pop(memory, burst, max),
        };
        match fault {
            Some(fault) => self.retire(fault, popped),
            None => Ok(popped),
        }
    }

    #[cold]
    fn pop_uncommon<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        max: usize,
    ) -> Result<usize, DriverFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let (popped, fault) = match &mut self.ring {
            Ring::Split(ring) => ring.pop_noted(memory, burst, max),
            Ring::Packed(ring) => ring.pop_noted(memory, burst, max),
        };
        fault.map_or(Ok(popped), |fault| self.retire(fault, popped))
    }

    #[cold]
    fn retire(&mut self, fault: DriverFault, popped: usize) -> Result<usize, DriverFault> {
        (self.fault, self.uncommon) = (Some(fault), true);
        if popped == 0 { Err(fault) } else { Ok(popped) }
    }

    /// Fills up to `max` of the next buffers, the short way: pops, hands to `write`, and completes each of them in one step, as long
    /// as they are chains of a single descriptor, for the device to write, in one piece of memory. `write` says
    /// how many bytes it wrote (more than the buffer has are cut off); `None` leaves this buffer in the ring and ends the filling. Returns how many were filled. The driver sees them after [`Self::flush`].
    ///
    /// Fewer than `max`, zero among them, says nothing about the ring: [`Self::pop`] goes on from there, with chains of any kind
    /// and with faults. While logging or recording, with IN_ORDER (or [`Self::keep_order`]) while older chains are not completed, in a legacy ring
    /// of big endian, and in a [`Self::readable_only`] queue nothing is filled.
    #[inline]
    pub fn fill<'m>(
        &mut self,
        memory: &'m GuestMemory,
        max: usize,
        mut write: impl FnMut(MemSlice<'m>) -> Option<u32>,
    ) -> usize {
        let sequence = self.sequence();
        let is_in_turn = self.order.as_ref().is_none_or(|order| order.is_next(sequence));
        if self.uncommon || self.noted || !is_in_turn || self.is_readable_only() {
            return 0;
        }
        let mut ready = [Ready::NONE; FILL_MAX];
        let ready = &mut ready[..max.min(FILL_MAX)];
        let found = match &mut self.ring {
            Ring::Split(ring) => ring.look(memory, ready),
            Ring::Packed(ring) => ring.look(memory, ready),
        };
        let mut filled = 0;
        for Ready { buffer, written, .. } in &mut ready[..found] {
            let Some(len) = write(*buffer) else { break };
            *written = len.min(buffer.len() as u32);
            filled += 1;
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.put_filled(&ready[..filled]),
            Ring::Packed(ring) => ring.put_filled(&ready[..filled]),
        }
        if let Some(order) = &mut self.order {
            order.skip(filled as u16);
        }
        filled
    }

    /// Gives back the chain popped last, newest first: it will be popped again.
    ///
    /// # Panics
    /// If `chain` is not the newest chain that is in flight; that is a mistake of the device.
    pub fn unpop(&mut self, chain: Chain) {
        match &mut self.ring {
            Ring::Split(ring) => ring.unpop(&chain),
            Ring::Packed(ring) => ring.unpop(&chain),
        }
    }

    /// Gives `chain` back to the driver with `written` bytes written (more than it has room for are cut
    /// off). The driver sees it after [`Self::flush`]; with IN_ORDER, not before all older ones.
    ///
    /// While logging, the pages of the first `written` bytes for writing (as found in `burst`) are marked dirty.
    #[inline]
    pub fn complete(&mut self, burst: &Burst<'_>, chain: Chain, written: u32) {
        self.complete_chain(burst, &chain, written);
    }

    /// As [`Self::complete`], for a device that wrote elsewhere than in the first `written` bytes, too: while logging, everything
    /// for writing is marked dirty.
    pub fn complete_scattered(&mut self, burst: &Burst<'_>, chain: Chain, written: u32) {
        if self.log.is_some() {
            burst.writable(&chain).iter().for_each(|run| self.log_run(run));
        }
        self.complete_chain(burst, &chain, written);
    }

    /// Takes the oldest chain out of `burst` and gives it back, as [`Self::complete`]. Does nothing where there is none.
    #[inline]
    pub fn complete_next(&mut self, burst: &mut Burst<'_>, written: u32) {
        if let Some(chain) = burst.chains.get(burst.taken) {
            self.complete_chain(burst, chain, written);
            burst.taken += 1;
        }
    }

    /// Takes all chains out of `burst` and gives them back with nothing written. With IN_ORDER the driver of a split ring whose
    /// device never writes is told of all of them by one entry.
    pub fn complete_rest(&mut self, burst: &mut Burst<'_>) {
        if self.special && !self.all_pass(burst.chains()) {
            while !burst.is_empty() {
                self.complete_next(burst, 0);
            }
            return;
        }
        let unwritten = |chain: &Chain| Used { id: chain.id, slots: chain.slots, written: 0 };
        match (&mut self.ring, burst.chains()) {
            (Ring::Split(ring), [.., last]) if ring.batches() => {
                ring.put_used_batch(unwritten(last), burst.len() as u16);
            }
            (Ring::Split(ring), chains) => chains.iter().for_each(|chain| ring.put_used(unwritten(chain))),
            (Ring::Packed(ring), chains) => ring.put_unwritten(chains),
        }
        burst.taken = burst.chains.len();
    }

    #[inline(always)]
    fn complete_chain(&mut self, burst: &Burst<'_>, chain: &Chain, written: u32) {
        let used = Used { id: chain.id, slots: chain.slots, written: written.min(chain.writable_len) };
        if self.special && !self.passes(chain) {
            return self.complete_special(burst, chain, used);
        }
        self.put_used(used);
    }

    /// Whether a chain's entry can be written at once although there is an order to keep.
    #[inline(always)]
    fn passes(&mut self, chain: &Chain) -> bool {
        !self.noted && self.order.as_mut().is_some_and(|order| order.passes(chain.sequence))
    }

    /// As [`Self::passes`], for all of `chains`.
    fn all_pass(&mut self, chains: &[Chain]) -> bool {
        let (Some(first), Some(last)) = (chains.first(), chains.last()) else { return true };
        let order = self.order.as_mut().filter(|_| !self.noted);
        order.is_some_and(|order| order.passes_all(first.sequence, last.sequence, chains.len()))
    }

    /// Takes `chain` out of its burst, to be completed later: its buffers are still used by someone who does not hold a slice of
    /// them. If they are only read, [`Self::complete_detached`] ends it, else [`Self::complete_written`].
    pub fn detach(&mut self, chain: Chain) -> Detached {
        self.detached += 1;
        let Chain { id, slots, sequence, writable_len, .. } = chain;
        Detached { id, slots, sequence, writable_len, queue: self.identity }
    }

    /// Gives a detached chain back to the driver with nothing written, in whatever order (with IN_ORDER, or while
    /// [`Self::keep_order`] holds, not before all older ones). The driver sees it after [`Self::flush`].
    ///
    /// # Errors
    /// The chain is of another queue, one that this one took the place of among them. Nothing happens then.
    pub fn complete_detached(&mut self, chain: Detached) -> Result<(), ForeignChain> {
        self.complete_late(chain, 0)
    }

    /// As [`Self::complete_detached`], with `written` bytes written (more than it has room for are cut off).
    ///
    /// While logging, all of `touched` is marked dirty, not only the first `written` bytes: a device may have written elsewhere, too.
    ///
    /// # Errors
    /// As [`Self::complete_detached`]. Nothing is marked then.
    pub fn complete_written<'k>(
        &mut self,
        chain: Detached,
        written: u32,
        touched: impl IntoIterator<Item = MemSlice<'k>>,
    ) -> Result<(), ForeignChain> {
        if self.log.is_some() && chain.queue == self.identity {
            touched.into_iter().for_each(|run| self.log_run(&run));
        }
        self.complete_late(chain, written)
    }

    fn complete_late(&mut self, chain: Detached, written: u32) -> Result<(), ForeignChain> {
        if chain.queue != self.identity {
            return Err(ForeignChain);
        }
        self.detached -= 1;
        let used = Used { id: chain.id, slots: chain.slots, written: written.min(chain.writable_len) };
        if self.special {
            self.put_special(chain.sequence, used);
        } else {
            self.put_used(used);
        }
        Ok(())
    }

    /// Chains detached and not completed.
    pub fn detached(&self) -> u16 {
        self.detached
    }

    /// From now on completions are written in the order of popping, although the driver did not ask for it: a device that
    /// takes over a ring after a kill finds its place only then ([`RingState::resume_packed`]). Does nothing while chains
    /// are in flight.
    pub fn keep_order(&mut self) {
        let is_idle = match &self.ring {
            Ring::Split(ring) => ring.is_idle(),
            Ring::Packed(ring) => ring.is_idle(),
        };
        if self.order.is_none() && is_idle {
            self.order = Some(InOrder::new(self.size.get(), self.sequence()));
            self.sort_completions();
        }
    }

    /// Ends [`Self::keep_order`]: what waits for its turn is written now, and nothing waits any more. With IN_ORDER negotiated
    /// it does nothing.
    pub fn release_order(&mut self) {
        if self.setup.features.in_order {
            return;
        }
        if let Some(mut order) = self.order.take() {
            while let Some(used) = order.take_any() {
                self.put_noted(used);
            }
        }
        self.sort_completions();
    }

    /// The sequence number of the chain that completions wait for; `None` when none waits.
    pub fn waits_for(&self) -> Option<u16> {
        self.order.as_ref().and_then(InOrder::waits_for)
    }

    #[inline(always)]
    fn put_used(&mut self, used: Used) {
        match &mut self.ring {
            Ring::Split(ring) => ring.put_used(used),
            Ring::Packed(ring) => ring.put_used(used),
        }
    }

    #[cold]
    fn complete_special(&mut self, burst: &Burst<'_>, chain: &Chain, used: Used) {
        self.log_buffers(burst, chain, used.written);
        self.put_special(chain.sequence, used);
    }

    /// Writes the entry if there is no order to keep, else those whose turn it is.
    fn put_special(&mut self, sequence: u16, used: Used) {
        let Some(order) = &mut self.order else { return self.put_noted(used) };
        order.insert(sequence, used);
        while let Some(used) = self.order.as_mut().and_then(InOrder::take) {
            self.put_noted(used);
        }
    }

    fn put_noted(&mut self, used: Used) {
        if !self.noted {
            return self.put_used(used);
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.put_noted(used),
            Ring::Packed(ring) => ring.put_noted(used),
        }
    }

    /// Publishes everything completed since the last flush. True: the driver wants a call.
    #[inline]
    pub fn flush(&mut self) -> bool {
        if self.noted {
            return self.flush_noted();
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        }
    }

    /// Whether a pop would find something. A cheap look; a retired queue has nothing.
    #[inline]
    pub fn has_available(&self) -> bool {
        if self.uncommon && (self.fault.is_some() || self.has_waiting()) {
            return self.fault.is_none();
        }
        match &self.ring {
            Ring::Split(ring) => ring.has_available(),
            Ring::Packed(ring) => ring.has_available(),
        }
    }

    /// Whether chains that were in flight at the start are to be popped again.
    fn has_waiting(&self) -> bool {
        match &self.ring {
            Ring::Split(ring) => ring.has_waiting(),
            Ring::Packed(ring) => ring.has_waiting(),
        }
    }

    /// Asks the driver not to kick. A hint: kicks may still come.
    pub fn disable_notify(&mut self) {
        match &mut self.ring {
            Ring::Split(ring) => ring.disable_notify(),
            Ring::Packed(ring) => ring.disable_notify(),
        }
        self.log_wish();
    }

    /// Asks the driver to kick for the next chain. True: chains became available meanwhile, and for those
    /// no kick may come, so the caller must go on popping before it sleeps.
    #[must_use = "if chains became available meanwhile no kick will come for them"]
    pub fn enable_notify(&mut self) -> bool {
        let more = match &mut self.ring {
            Ring::Split(ring) => ring.enable_notify(),
            Ring::Packed(ring) => ring.enable_notify(),
        };
        self.log_wish();
        if self.uncommon { self.has_available() } else { more }
    }

    /// Where the ring stands. Complete and flush what is in flight before handing the ring to someone else, or hand over the record
    /// of it, too.
    pub fn state(&self) -> RingState {
        match &self.ring {
            Ring::Split(ring) => ring.state(),
            Ring::Packed(ring) => ring.state(),
        }
    }

    /// Why the queue is retired, if it is.
    pub fn fault(&self) -> Option<DriverFault> {
        self.fault
    }

    /// Entries.
    pub fn size(&self) -> QueueSize {
        self.size
    }

    /// Whether the ring is packed.
    pub fn is_packed(&self) -> bool {
        matches!(self.ring, Ring::Packed(_))
    }

    /// Starts, changes or ends dirty logging.
    pub fn set_log(&mut self, log: Option<RingLog>) {
        self.log = log;
        self.sort_completions();
    }

    /// Decides how chains are completed from now on.
    fn sort_completions(&mut self) {
        self.noted = self.log.is_some() || self.setup.in_flight.is_some();
        self.special = self.noted || self.order.is_some();
    }

    fn sequence(&self) -> u16 {
        match &self.ring {
            Ring::Split(ring) => ring.sequence(),
            Ring::Packed(ring) => ring.sequence(),
        }
    }
}
