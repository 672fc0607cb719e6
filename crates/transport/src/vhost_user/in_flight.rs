//! The memory in which queues record what is in flight, and which the front-end keeps over our end: `GET_INFLIGHT_FD`,
//! `SET_INFLIGHT_FD` ("Inflight I/O tracking").
//!
//! The back-end makes the memory when it is asked for it and forgets it; the front-end hands it back before it starts rings, to us
//! or to whoever serves the device after us. Regions of queues follow each other by number, each as long as its layout wants
//! ([`InFlightLog::region_size`]). What is in a region its queue checks when it is made.

use super::memory::RegionTable;
use super::message::Fields;
use super::message::Message;
use super::{FrontendFault, Request, Session};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Region, shared_file};
use std::sync::Arc;
use virtqueue::{InFlightLog, QueueSize};

/// Payload of both messages: bytes of memory, their offset in the file, number of queues, entries of each. Front-ends send the
/// padding of their structure with it.
pub(super) const DESCRIPTION_SIZE: usize = 20;
pub(super) const DESCRIPTION_SIZE_PADDED: usize = 24;

/// A checked payload.
#[derive(Clone, Copy, Debug)]
struct Description {
    size: u64,
    offset: u64,
    queues: u16,
    queue_size: QueueSize,
}

impl Description {
    fn parse(message: &Message, queues_max: u16, queue_size_max: QueueSize) -> Result<Self, FrontendFault> {
        let request = message.header.request;
        let mut fields = Fields(&message.payload);
        let (size, offset, queues, entries) = (fields.u64(), fields.u64(), fields.u16(), fields.u16());
        if queues == 0 || queues > queues_max {
            return Err(FrontendFault::InFlightQueues { request, queues, most: queues_max });
        }
        let most = queue_size_max.get();
        let refused = FrontendFault::InFlightQueueSize { request, size: entries, most };
        let queue_size =
            QueueSize::try_from(entries).ok().filter(|size| *size <= queue_size_max).ok_or(refused)?;
        Ok(Self { size, offset, queues, queue_size })
    }

    /// Bytes that all regions take up.
    fn need(&self, packed: bool) -> u64 {
        u64::from(self.queues) * InFlightLog::region_size(self.queue_size, packed) as u64
    }
}

/// The memory that a front-end handed over.
#[derive(Debug)]
pub(super) struct InFlightMemory {
    /// One region, at address 0.
    memory: Arc<GuestMemory>,
    queues: u16,
    queue_size: QueueSize,
}

impl InFlightMemory {
    /// Maps what `SET_INFLIGHT_FD` brought.
    fn map(
        message: &Message,
        description: Description,
        packed: bool,
        regions: &mut RegionTable,
    ) -> Result<Option<Self>, FrontendFault> {
        let request = message.header.request;
        let Description { size, offset, queues, queue_size } = description;
        let need = description.need(packed);
        if size < need {
            return Err(FrontendFault::InFlightSize { size, need });
        }
        let Some(fd) = message.fds.first() else { return Ok(None) };
        // Features may change once more before rings start: as much as the larger layout wants, if it is there.
        let len = size.min(description.need(true));
        let mapping = regions.map(request, fd, offset, len)?;
        let region = Region::new(GuestAddr(0), FrontendAddr(0), len, mapping);
        let memory = region.and_then(|region| GuestMemory::new(vec![region]));
        let memory = memory.map_err(|fault| FrontendFault::Memory { request, fault })?;
        Ok(Some(Self { memory: Arc::new(memory), queues, queue_size }))
    }

    /// Whether there is a region for ring `index`.
    pub(super) fn has(&self, index: u16) -> bool {
        index < self.queues
    }

    /// The record of ring `index`, which has `size` entries. `None`: the front-end has no region for it.
    pub(super) fn log(
        &self,
        index: u16,
        size: QueueSize,
        packed: bool,
    ) -> Result<Option<InFlightLog>, FrontendFault> {
        if !self.has(index) {
            return Ok(None);
        }
        if size > self.queue_size {
            let (size, most) = (size.get(), self.queue_size.get());
            return Err(FrontendFault::InFlightRing { index, size, most });
        }
        let len = InFlightLog::region_size(self.queue_size, packed);
        let start = len as u64 * u64::from(index);
        let area = self.memory.area(GuestAddr(start), len).ok_or_else(|| {
            let size = self.memory.regions().first().map_or(0, Region::len);
            FrontendFault::InFlightSize { size, need: len as u64 * u64::from(self.queues) }
        })?;
        Ok(Some(InFlightLog::new(area)))
    }
}

impl Session {
    /// Answers with new memory, all zeros, that has room for either ring form; with none (size 0) if the kernel has none.
    pub(super) fn get_inflight_fd(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let asked = Description::parse(message, self.offer.queues_max, self.offer.queue_size_max)?;
        let need = asked.need(true);
        let file = shared_file("ringway-in-flight", need).ok();
        let size = if file.is_some() { need } else { 0 };
        let mut payload = Vec::with_capacity(DESCRIPTION_SIZE_PADDED);
        payload.extend_from_slice(&size.to_ne_bytes());
        payload.extend_from_slice(&0u64.to_ne_bytes());
        payload.extend_from_slice(&asked.queues.to_ne_bytes());
        payload.extend_from_slice(&asked.queue_size.get().to_ne_bytes());
        payload.resize(message.payload.len(), 0);
        self.reply_with(Request::GetInflightFd, &payload, file.map(Arc::new).into_iter().collect());
        Ok(())
    }

    pub(super) fn set_inflight_fd(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let description = Description::parse(message, self.offer.queues_max, self.offer.queue_size_max)?;
        if self.rings.any_running() {
            return Err(FrontendFault::InFlightWhileRunning);
        }
        let packed = self.is_packed();
        self.in_flight = InFlightMemory::map(message, description, packed, &mut self.regions)?;
        Ok(())
    }
}
