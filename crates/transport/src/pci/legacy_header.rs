//! The registers of the legacy interface, in port I/O (virtio 1.4 §4.1.4.10).
//!
//! The header is little endian and 20 bytes, or 24 while MSI-X is enabled; the device configuration begins
//! right behind, and moves with it.
//!
//! There is no `FEATURES_OK`, and drivers differ in whether they write their features before or after they
//! place their queues. So nothing starts, and features can be written, until the driver is ready; or until
//! it rings a doorbell, which some do before they say that they are ready.

use super::layout::LEGACY_HEADER_LEN;
use super::registers::{NO_VECTOR, Negotiation, Registers, Used, status};
use super::steps::Step;

const DEVICE_FEATURES: u64 = 0x00;
const DRIVER_FEATURES: u64 = 0x04;
const QUEUE_ADDRESS: u64 = 0x08;
const QUEUE_SIZE: u64 = 0x0c;
const QUEUE_SELECT: u64 = 0x0e;
pub(super) const QUEUE_NOTIFY: u64 = 0x10;
const DEVICE_STATUS: u64 = 0x12;
const ISR_STATUS: u64 = 0x13;
const CONFIG_MSIX_VECTOR: u64 = 0x14;
const QUEUE_MSIX_VECTOR: u64 = 0x16;

/// Where the device configuration begins without MSI-X.
const SHORT_HEADER_LEN: u64 = 0x14;
/// `Queue Address` counts pages of this many bits.
const QUEUE_ADDRESS_SHIFT: u32 = 12;
/// Status bits that a legacy driver may set itself.
const STATUS_WRITABLE: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FAILED;

/// Where the device configuration begins now.
fn header_len(msix: bool) -> u64 {
    if msix { LEGACY_HEADER_LEN as u64 } else { SHORT_HEADER_LEN }
}

impl Registers {
    /// A legacy driver reads; `msix`: whether MSI-X is enabled. The configuration takes accesses at any
    /// offset, the header aligned ones that do not leave it.
    pub(super) fn read_legacy(&mut self, offset: u64, out: &mut [u8], msix: bool) {
        if let Some(offset) = offset.checked_sub(header_len(msix)) {
            return self.read_config(offset, out);
        }
        let end = offset + out.len() as u64;
        if end > header_len(msix) || !offset.is_multiple_of(out.len() as u64) {
            return;
        }
        let image = self.legacy_image();
        out.copy_from_slice(&image[offset as usize..end as usize]);
        if (offset..end).contains(&ISR_STATUS) {
            out[(ISR_STATUS - offset) as usize] = self.read_isr();
        }
    }

    fn legacy_image(&self) -> [u8; LEGACY_HEADER_LEN] {
        let mut image = [0; LEGACY_HEADER_LEN];
        let mut put = |at: u64, bytes: &[u8]| {
            image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        put(DEVICE_FEATURES, &self.legacy_offered.to_le_bytes());
        put(DRIVER_FEATURES, &(self.driver_features as u32).to_le_bytes());
        let queue = self.selected();
        if let Some(queue) = queue {
            let address = if queue.enabled { (queue.areas[0] >> QUEUE_ADDRESS_SHIFT) as u32 } else { 0 };
            put(QUEUE_ADDRESS, &address.to_le_bytes());
            put(QUEUE_SIZE, &queue.size.get().to_le_bytes());
        }
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        put(DEVICE_STATUS, &[self.device_status()]);
        put(CONFIG_MSIX_VECTOR, &self.config_vector.to_le_bytes());
        put(QUEUE_MSIX_VECTOR, &queue.map_or(NO_VECTOR, |queue| queue.vector).to_le_bytes());
        image
    }

    /// A legacy driver writes `data`, `value` as a number.
    pub(super) fn write_legacy(&mut self, offset: u64, data: &[u8], value: u32, msix: bool) {
        if let Some(offset) = offset.checked_sub(header_len(msix)) {
            return self.write_config(offset, data);
        }
        match (offset, data.len()) {
            (DRIVER_FEATURES, 4) => self.set_legacy_features(value),
            (QUEUE_ADDRESS, 4) => self.set_queue_address(value),
            (QUEUE_SELECT, 2) if !self.resetting => self.queue_select = value as u16,
            (QUEUE_NOTIFY, 2) => self.notify(None, value, false),
            (DEVICE_STATUS, 1) => self.set_legacy_status(value as u8),
            // Behind a short header the configuration was meant, above.
            (CONFIG_MSIX_VECTOR, 2) => self.set_config_vector(value as u16),
            (QUEUE_MSIX_VECTOR, 2) => self.set_queue_vector(value as u16),
            _ => {}
        }
    }

    fn set_legacy_features(&mut self, value: u32) {
        if self.enter(Used::Legacy) && self.negotiation == Negotiation::Open {
            self.driver_features = u128::from(value & self.legacy_offered);
        }
    }

    /// `Queue Address`: any but 0 places the ring there, 0 takes it away.
    fn set_queue_address(&mut self, value: u32) {
        let index = self.queue_select;
        if self.resetting || value == 0 && self.used != Used::Legacy || !self.enter(Used::Legacy) {
            return;
        }
        let address = u64::from(value) << QUEUE_ADDRESS_SHIFT;
        let Some(queue) = self.selected_mut() else { return };
        queue.stale |= queue.running && queue.areas[0] != address;
        queue.areas = [address, 0, 0];
        queue.enabled = value != 0;
        if self.negotiation != Negotiation::Open {
            self.steps.push(Step::Queue(index));
        }
    }

    /// A legacy driver is ready, or rings a doorbell before it says so: its features are fixed now, and the
    /// rings that it placed start.
    pub(super) fn start_legacy(&mut self) {
        if self.used != Used::Legacy || self.negotiation != Negotiation::Open {
            return;
        }
        self.ask_features();
        for (index, queue) in (0..).zip(&self.queues) {
            if queue.enabled {
                self.steps.push(Step::Queue(index));
            }
        }
    }

    fn set_legacy_status(&mut self, value: u8) {
        if value == 0 {
            if !self.resetting {
                self.begin_reset();
            }
            return;
        }
        if !self.enter(Used::Legacy) {
            return;
        }
        self.status |= value & STATUS_WRITABLE;
        if value & status::DRIVER_OK != 0 && self.status & status::DRIVER_OK == 0 {
            self.status |= status::DRIVER_OK;
            self.start_legacy();
            self.driver_ok();
        }
    }
}
