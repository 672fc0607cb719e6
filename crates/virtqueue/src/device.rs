//! The device's side of a virtqueue, whatever its form.

use crate::burst::{Burst, Chain};
use crate::detached::{Detached, ForeignChain, Identity};
use crate::fault::DriverFault;
use crate::fill::{FILL_MAX, Ready};
use crate::in_order::{InOrder, Used};
use crate::packed::PackedRing;
use crate::setup::{QueueSetup, QueueSize, RingLog, RingState, SetupFault};
use crate::split::SplitRing;
use guestmem::{GuestAddr, GuestMemory, MemSlice};
use std::sync::Arc;

enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// The device's side of one virtqueue.
///
/// A fault of the driver retires the queue: nothing is popped any more, chains already popped can still be
/// completed. A reset of the ring (`VIRTIO_F_RING_RESET`) is dropping the queue and making a new one.
pub struct DeviceQueue {
    ring: Ring,
    size: QueueSize,
    fault: Option<DriverFault>,
    /// With IN_ORDER: completions that wait for their turn.
    order: Option<InOrder>,
    log: Option<RingLog>,
    /// Whether there is an order to keep or a log: completing is then not the plain thing.
    special: bool,
    setup: QueueSetup,
    memory: Arc<GuestMemory>,
    identity: Identity,
    /// Chains detached and not completed.
    detached: u16,
}

impl DeviceQueue {
    /// Starts a queue at `state`. The areas are validated and mapped here, once.
    ///
    /// After a change of the memory map a queue goes on as `new(&new_memory, &setup, old.state())`; it may
    /// have nothing in flight then.
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
            order: None,
            log: setup.log.clone(),
            special: setup.log.is_some() || setup.features.in_order,
            setup: setup.clone(),
            memory: Arc::clone(memory),
            identity: Identity::new(),
            detached: 0,
        };
        if setup.features.in_order {
            queue.order = Some(InOrder::new(setup.size.get(), queue.sequence()));
        }
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
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let (popped, fault) = match &mut self.ring {
            Ring::Split(ring) => ring.pop(memory, burst, max),
            Ring::Packed(ring) => ring.pop(memory, burst, max),
        };
        self.fault = fault;
        match fault {
            Some(fault) if popped == 0 => Err(fault),
            _ => Ok(popped),
        }
    }

    /// Fills up to `max` of the next buffers, the short way: pops, hands to `write`, and completes each of them in one step, as long
    /// as they are chains of a single descriptor, for the device to write, in one piece of memory. `write` says
    /// how many bytes it wrote (more than the buffer has are cut off); `None` leaves this buffer in the ring and ends the filling. Returns how many were filled. The driver sees them after [`Self::flush`].
    ///
    /// Fewer than `max`, zero among them, says nothing about the ring: [`Self::pop`] goes on from there, with chains of any kind
    /// and with faults. While logging, with IN_ORDER (or [`Self::keep_order`]) while older chains are not completed, in a legacy ring
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
        if self.fault.is_some() || self.log.is_some() || !is_in_turn || self.is_readable_only() {
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
        self.log.is_none() && self.order.as_mut().is_some_and(|order| order.passes(chain.sequence))
    }

    /// As [`Self::passes`], for all of `chains`.
    fn all_pass(&mut self, chains: &[Chain]) -> bool {
        let (Some(first), Some(last)) = (chains.first(), chains.last()) else { return true };
        let order = self.order.as_mut().filter(|_| self.log.is_none());
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
        match &mut self.order {
            Some(order) => {
                order.insert(chain.sequence, used);
                self.put_ordered();
            }
            None => self.put_used(used),
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
            self.special = true;
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
                self.put_used(used);
            }
        }
        self.special = self.log.is_some();
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
        let Some(order) = &mut self.order else { return self.put_used(used) };
        order.insert(chain.sequence, used);
        self.put_ordered();
    }

    /// Writes the entries whose turn it is.
    fn put_ordered(&mut self) {
        while let Some(used) = self.order.as_mut().and_then(InOrder::take) {
            self.put_used(used);
        }
    }

    /// Publishes everything completed since the last flush. True: the driver wants a call.
    #[inline]
    pub fn flush(&mut self) -> bool {
        if self.log.is_some() {
            return self.flush_logged();
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        }
    }

    /// Whether a pop would find something. A cheap look; a retired queue has nothing.
    #[inline]
    pub fn has_available(&self) -> bool {
        self.fault.is_none()
            && match &self.ring {
                Ring::Split(ring) => ring.has_available(),
                Ring::Packed(ring) => ring.has_available(),
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
        more && self.fault.is_none()
    }

    /// Where the ring stands. Complete and flush what is in flight before handing the ring to someone else.
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
        self.special = self.log.is_some() || self.order.is_some();
    }

    fn sequence(&self) -> u16 {
        match &self.ring {
            Ring::Split(ring) => ring.sequence(),
            Ring::Packed(ring) => ring.sequence(),
        }
    }
}

/// Dirty logging: rare and off the fast path.
impl DeviceQueue {
    #[cold]
    fn log_buffers(&self, burst: &Burst<'_>, chain: &Chain, written: u32) {
        let Some(RingLog { log, .. }) = &self.log else { return };
        let mut left = written as usize;
        for segment in burst.writable(chain) {
            let len = segment.len().min(left);
            if let Some(addr) = self.memory.guest_of_slice(segment) {
                log.mark(addr, len as u64);
            }
            left -= len;
        }
    }

    #[cold]
    fn log_run(&self, run: &MemSlice<'_>) {
        let Some(RingLog { log, .. }) = &self.log else { return };
        if let Some(addr) = self.memory.guest_of_slice(run) {
            log.mark(addr, run.len() as u64);
        }
    }

    #[cold]
    fn flush_logged(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => {
                let old = ring.published();
                let call = ring.publish();
                if ring.published() != old {
                    let writes = ring.used_writes(old, ring.published());
                    self.log_used_ring(&writes);
                }
                call
            }
            Ring::Packed(ring) => {
                let call = ring.publish();
                // Which descriptors were written since the last flush is not kept: the whole ring counts.
                let bytes = u64::from(self.size.get()) * crate::descriptor::DESCRIPTOR_SIZE as u64;
                self.log_packed(self.setup.desc, bytes);
                call
            }
        }
    }

    fn log_wish(&self) {
        if self.log.is_none() {
            return;
        }
        match &self.ring {
            Ring::Split(ring) => self.log_used_ring(&[ring.wish_write()]),
            Ring::Packed(_) => self.log_packed(self.setup.device, 4),
        }
    }

    fn log_used_ring(&self, writes: &[(usize, usize)]) {
        let Some(RingLog { log, used_ring: Some(base) }) = &self.log else { return };
        for &(offset, len) in writes {
            if let Some(addr) = base.checked_add(offset as u64) {
                log.mark(addr, len as u64);
            }
        }
    }

    fn log_packed(&self, addr: GuestAddr, len: u64) {
        if let Some(RingLog { log, used_ring: Some(_) }) = &self.log {
            log.mark(addr, len);
        }
    }
}
