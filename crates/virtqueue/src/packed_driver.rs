//! The packed ring, driver side (virtio 1.3 §2.8.21).

use crate::descriptor::{AVAIL, Descriptor, USED, WRITE};
use crate::event::{DESC, DISABLE, ENABLE, PackedEvent};
use crate::packed::{Held, Position};
use crate::setup::{Areas, Descriptors, QueueSetup};
use guestmem::MemArea;
use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

/// The driver's half of a packed ring.
pub(crate) struct PackedDriver {
    desc: Descriptors,
    driver_event: MemArea,
    device_event: MemArea,
    size: u16,
    event_idx: bool,
    free_ids: VecDeque<u16>,
    free_slots: u16,
    /// Next descriptor to be made available.
    avail: Position,
    /// Next descriptor that the device will overwrite with a used one.
    used: Position,
    held: Option<Held>,
    /// Descriptors made available since the last publish.
    added: u16,
}

impl PackedDriver {
    pub(crate) fn new(areas: Areas, setup: &QueueSetup) -> Self {
        let size = setup.size.get();
        let start = Position { index: 0, wrap: true };
        Self {
            desc: areas.desc,
            driver_event: areas.driver,
            device_event: areas.device,
            size,
            event_idx: setup.features.event_idx,
            free_ids: (0..size).collect(),
            free_slots: size,
            avail: start,
            used: start,
            held: None,
            added: 0,
        }
    }

    pub(crate) fn free_descriptors(&self) -> u16 {
        self.free_slots
    }

    /// The id that the next chain will have.
    pub(crate) fn next_id(&self) -> u16 {
        self.free_ids.front().copied().unwrap_or(0)
    }

    /// Writes a chain of `slots` descriptors; returns its id. The caller has checked that there is room.
    ///
    /// The first descriptor since the last publish is held back; the device looks at them in order and so
    /// sees none of those behind it (virtio 1.3 §2.8.21).
    pub(crate) fn add(&mut self, chain: impl Iterator<Item = Descriptor>, slots: u16) -> Option<u16> {
        let id = self.free_ids.pop_front()?;
        for descriptor in chain {
            let bits = if self.avail.wrap { AVAIL } else { USED };
            let whole = Descriptor { flags: descriptor.flags | bits, link: id, ..descriptor };
            let [addr, word] = whole.to_packed();
            let index = usize::from(self.avail.index);
            self.desc.store_u64(index, 0, addr, Ordering::Relaxed);
            if self.held.is_none() {
                self.held = Some(Held { index, word });
            } else {
                self.desc.store_u64(index, 8, word, Ordering::Relaxed);
            }
            self.avail = self.avail.forward(1, self.size);
        }
        self.free_slots -= slots;
        self.added = self.added.saturating_add(slots);
        Some(id)
    }

    pub(crate) fn publish(&mut self) -> bool {
        let Some(Held { index, word }) = self.held.take() else { return false };
        // Release: everything behind the first descriptor is written (virtio 1.3 §2.8.21.1).
        self.desc.store_u64(index, 8, word, Ordering::Release);
        let added = std::mem::take(&mut self.added);
        // The descriptors must be out before the device's wish is read (virtio 1.3 §2.8.21.3).
        fence(Ordering::SeqCst);
        let wish = PackedEvent::from_word(self.device_event.load_u32(0, Ordering::Relaxed));
        wish.wants(self.event_idx, self.avail.index, self.avail.wrap, added, self.size)
    }

    /// The id and written bytes of the next used descriptor; its length counts only with the write flag
    /// (virtio 1.3 §2.8.6).
    pub(crate) fn peek_used(&self) -> Option<(u16, u32)> {
        if self.free_slots == self.size {
            return None;
        }
        // Acquire: the buffers written are seen. One load, so that nothing is looked at twice.
        let word = self.desc.load_u64(usize::from(self.used.index), 8, Ordering::Acquire);
        let descriptor = Descriptor::from_packed([0, word]);
        let wanted = if self.used.wrap { AVAIL | USED } else { 0 };
        let written = if descriptor.is(WRITE) { descriptor.len } else { 0 };
        (descriptor.flags & (AVAIL | USED) == wanted).then_some((descriptor.link, written))
    }

    /// Frees the chain `id` and steps over its `slots` descriptors.
    pub(crate) fn release(&mut self, id: u16, slots: u16) {
        self.free_ids.push_back(id);
        self.free_slots += slots;
        self.used = self.used.forward(slots, self.size);
    }

    pub(crate) fn disable_call(&mut self) {
        self.wish(DISABLE);
    }

    pub(crate) fn enable_call(&mut self) -> bool {
        self.wish(if self.event_idx { DESC } else { ENABLE });
        // The wish must be out before the descriptor is read again (virtio 1.3 §2.8.22.1).
        fence(Ordering::SeqCst);
        self.peek_used().is_some()
    }

    fn wish(&mut self, flags: u16) {
        let wish = PackedEvent { offset: self.used.index, wrap: self.used.wrap, flags };
        self.driver_event.store_u32(0, wish.to_word(), Ordering::Relaxed);
    }
}
