//! What a device queue notes elsewhere besides working its ring: the dirty log of a migration, and the record of the chains in
//! flight. Rare, and off the way of a queue that has neither.

use crate::burst::{Burst, Chain};
use crate::device::{DeviceQueue, Ring};
use crate::setup::RingLog;
use guestmem::{GuestAddr, MemSlice};

impl DeviceQueue {
    #[cold]
    pub(crate) fn log_buffers(&self, burst: &Burst<'_>, chain: &Chain, written: u32) {
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
    pub(crate) fn log_run(&self, run: &MemSlice<'_>) {
        let Some(RingLog { log, .. }) = &self.log else { return };
        if let Some(addr) = self.memory.guest_of_slice(run) {
            log.mark(addr, run.len() as u64);
        }
    }

    #[cold]
    pub(crate) fn flush_noted(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => {
                let old = ring.published();
                let call = ring.publish_noted();
                if ring.published() != old {
                    let writes = ring.used_writes(old, ring.published());
                    self.log_used_ring(&writes);
                }
                call
            }
            Ring::Packed(ring) => {
                let call = ring.publish_noted();
                // Which descriptors were written since the last flush is not kept: the whole ring counts.
                let bytes = u64::from(self.size.get()) * crate::descriptor::DESCRIPTOR_SIZE as u64;
                self.log_packed(self.setup.desc, bytes);
                call
            }
        }
    }

    pub(crate) fn log_wish(&self) {
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
