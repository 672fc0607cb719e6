//! The split ring, driver side (virtio 1.3 §2.7.13).

use crate::descriptor::{self, Descriptor, NEXT};
use crate::event::{self, NO_INTERRUPT, NO_NOTIFY};
use crate::fault::DeviceFault;
use crate::setup::{
    Areas, AvailEntries, Descriptors, Endian, QueueSetup, SetupFault, UsedEntries, host_u16, host_u32,
};
use guestmem::MemArea;
use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;

/// The driver's half of a split ring.
pub(crate) struct SplitDriver {
    desc: Descriptors,
    /// Flags and index of the two rings, and the event words behind them.
    avail: MemArea,
    used: MemArea,
    avail_entries: AvailEntries,
    used_entries: UsedEntries,
    size: u16,
    event_idx: bool,
    big: bool,
    /// Free descriptors, oldest first: a device that works in order then gets them in ring order, as
    /// IN_ORDER demands (virtio 1.3 §2.7.9).
    free: VecDeque<u16>,
    /// Our own copy of the chains' links; the one in the ring is the device's to read, not ours.
    links: Box<[Option<u16>]>,
    /// Entries written and entries published, free-running.
    next_avail: u16,
    published: u16,
    /// Next used entry to be looked at, free-running.
    next_used: u16,
}

impl SplitDriver {
    pub(crate) fn new(areas: Areas, setup: &QueueSetup) -> Result<Self, SetupFault> {
        let size = setup.size.get();
        let (avail_entries, used_entries) = setup.split_entries(&areas)?;
        Ok(Self {
            desc: areas.desc,
            avail: areas.driver,
            used: areas.device,
            avail_entries,
            used_entries,
            size,
            event_idx: setup.features.event_idx,
            big: setup.features.endian == Endian::Big,
            free: (0..size).collect(),
            links: vec![None; usize::from(size)].into(),
            next_avail: 0,
            published: 0,
            next_used: 0,
        })
    }

    pub(crate) fn free_descriptors(&self) -> u16 {
        self.free.len() as u16
    }

    /// The head that the next chain will have.
    pub(crate) fn next_id(&self) -> u16 {
        self.free.front().copied().unwrap_or(0)
    }

    /// Writes a chain and its available entry; returns the head. The caller has checked that there is room.
    pub(crate) fn add(&mut self, chain: impl Iterator<Item = Descriptor>) -> Option<u16> {
        let head = *self.free.front()?;
        for mut descriptor in chain {
            let index = self.free.pop_front()?;
            let next = if descriptor.is(NEXT) { self.free.front().copied() } else { None };
            self.links[usize::from(index)] = next;
            descriptor.link = next.unwrap_or(0);
            descriptor::store(&self.desc, index, descriptor.to_split(self.big));
        }
        let slot = usize::from(self.next_avail & (self.size - 1));
        self.avail_entries.store_u16(slot, 0, host_u16(head, self.big), Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Some(head)
    }

    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_avail);
        if old == new {
            return false;
        }
        // Release: entries and descriptors come first (virtio 1.3 §2.7.13.3.1).
        self.avail.store_u16(INDEX, host_u16(new, self.big), Ordering::Release);
        self.published = new;
        // The index must be out before the device's wish is read (virtio 1.3 §2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let offset = ENTRIES + 8 * usize::from(self.size);
            let avail_event = host_u16(self.used.load_u16(offset, Ordering::Relaxed), self.big);
            return event::passes(avail_event, new, old);
        }
        host_u16(self.used.load_u16(FLAGS, Ordering::Relaxed), self.big) & NO_NOTIFY == 0
    }

    /// Used entries that were not looked at yet.
    fn used_count(&self) -> u16 {
        // Acquire: the entries, and the buffers written, are seen (virtio 1.3 §2.7.14).
        let index = host_u16(self.used.load_u16(INDEX, Ordering::Acquire), self.big);
        index.wrapping_sub(self.next_used)
    }

    /// The id and written bytes of the next used entry.
    pub(crate) fn peek_used(&self) -> Result<Option<(u16, u32)>, DeviceFault> {
        let count = self.used_count();
        if count == 0 {
            return Ok(None);
        }
        if count > self.published.wrapping_sub(self.next_used) {
            return Err(DeviceFault::UsedIndexJump);
        }
        let slot = usize::from(self.next_used & (self.size - 1));
        let id = host_u32(self.used_entries.load_u32(slot, 0, Ordering::Relaxed), self.big);
        let written = host_u32(self.used_entries.load_u32(slot, 4, Ordering::Relaxed), self.big);
        let id = u16::try_from(id).map_err(|_| DeviceFault::UsedId)?;
        Ok(Some((id, written)))
    }

    /// Frees the chain at `head` and steps over one used entry.
    pub(crate) fn release(&mut self, head: u16) {
        let mut index = Some(head);
        while let Some(current) = index {
            self.free.push_back(current);
            index = self.links[usize::from(current)].take();
        }
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// With EVENT_IDX the event word stays where it was, so calls stop by themselves.
    pub(crate) fn disable_call(&mut self) {
        if !self.event_idx {
            self.avail.store_u16(FLAGS, host_u16(NO_INTERRUPT, self.big), Ordering::Relaxed);
        }
    }

    pub(crate) fn enable_call(&mut self) -> bool {
        if self.event_idx {
            let offset = ENTRIES + 2 * usize::from(self.size);
            self.avail.store_u16(offset, host_u16(self.next_used, self.big), Ordering::Relaxed);
        } else {
            self.avail.store_u16(FLAGS, 0, Ordering::Relaxed);
        }
        // The wish must be out before the index is read again (virtio 1.3 §2.7.14).
        fence(Ordering::SeqCst);
        self.used_count() != 0
    }
}
