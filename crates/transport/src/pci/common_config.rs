//! `struct virtio_pci_common_cfg`, the registers of the modern interface (virtio 1.4 §4.1.4.3).
//!
//! Reads take any aligned 1, 2 or 4 bytes; writes a whole field, or half of one of 64 bits. Everything else
//! reads as zeros and is ignored.

use super::features::{F_ADMIN_VQ, F_RING_PACKED, F_RING_RESET};
use super::layout::COMMON_CONFIG_LEN;
use super::queue::Queue;
use super::registers::{Negotiation, Registers, Used, status};
use super::steps::Step;
use virtqueue::QueueSize;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DEVICE_HIGH: u64 = 0x34;
const QUEUE_NOTIF_CONFIG_DATA: u64 = 0x38;
const QUEUE_RESET: u64 = 0x3a;
const ADMIN_QUEUE_INDEX: u64 = 0x3c;
const ADMIN_QUEUE_NUM: u64 = 0x3e;

/// Status bits that a modern driver may set itself.
const STATUS_WRITABLE: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FAILED;

impl Registers {
    /// A modern driver reads `out.len()` bytes at `offset`.
    pub(super) fn read_common(&self, offset: u64, out: &mut [u8]) {
        let image = self.common_image();
        let bytes = usize::try_from(offset).ok().and_then(|at| image.get(at..)?.get(..out.len()));
        if let Some(bytes) = bytes {
            out.copy_from_slice(bytes);
        }
    }

    /// All registers as they read now; none has a side effect.
    fn common_image(&self) -> [u8; COMMON_CONFIG_LEN as usize] {
        let mut image = [0; COMMON_CONFIG_LEN as usize];
        let mut put = |at: u64, bytes: &[u8]| {
            image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        put(DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(DEVICE_FEATURE, &word(self.offered, self.device_feature_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURE, &word(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(CONFIG_MSIX_VECTOR, &self.config_vector.to_le_bytes());
        put(NUM_QUEUES, &self.num_queues.to_le_bytes());
        put(DEVICE_STATUS, &[self.device_status()]);
        put(CONFIG_GENERATION, &[self.generation]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        if let Some(queue) = self.selected() {
            put(QUEUE_SIZE, &queue.size.get().to_le_bytes());
            put(QUEUE_MSIX_VECTOR, &queue.vector.to_le_bytes());
            put(QUEUE_ENABLE, &[u8::from(queue.enabled)]);
            put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            for (area, address) in (0..).zip(queue.areas) {
                put(QUEUE_DESC + 8 * area, &address.to_le_bytes());
            }
            put(QUEUE_RESET, &[u8::from(queue.resetting)]);
        }
        put(QUEUE_NOTIF_CONFIG_DATA, &self.notif_config_data().to_le_bytes());
        if self.has(F_ADMIN_VQ) {
            put(ADMIN_QUEUE_INDEX, &self.num_queues.to_le_bytes());
            put(ADMIN_QUEUE_NUM, &[1]);
        }
        image
    }

    /// A modern driver writes the field of `len` bytes at `offset`.
    pub(super) fn write_common(&mut self, offset: u64, len: usize, value: u32) {
        match (offset, len) {
            (DEVICE_FEATURE_SELECT, 4) => {
                self.set_selects(|registers| registers.device_feature_select = value)
            }
            (DRIVER_FEATURE_SELECT, 4) => {
                self.set_selects(|registers| registers.driver_feature_select = value)
            }
            (DRIVER_FEATURE, 4) => self.set_driver_feature(value),
            (CONFIG_MSIX_VECTOR, 2) => self.set_config_vector(value as u16),
            (DEVICE_STATUS, 1) => self.set_device_status(value as u8),
            (QUEUE_SELECT, 2) => self.set_selects(|registers| registers.queue_select = value as u16),
            (QUEUE_SIZE, 2) => self.set_queue_size(value as u16),
            (QUEUE_MSIX_VECTOR, 2) => self.set_queue_vector(value as u16),
            (QUEUE_ENABLE, 2) => self.set_queue_enable(value),
            (QUEUE_DESC..=QUEUE_DEVICE_HIGH, 4) => self.set_queue_area((offset - QUEUE_DESC) / 4, value),
            (QUEUE_RESET, 2) => self.set_queue_reset(value),
            _ => {}
        }
    }

    fn set_selects(&mut self, set: impl FnOnce(&mut Self)) {
        if !self.resetting {
            set(self);
        }
    }

    /// `driver_feature`: not after `FEATURES_OK`, and beyond 128 bits there is nothing to accept.
    fn set_driver_feature(&mut self, value: u32) {
        let Some(shift) = shift(self.driver_feature_select) else { return };
        if self.enter(Used::Modern) && self.negotiation == Negotiation::Open {
            self.driver_features &= !(u128::from(u32::MAX) << shift);
            self.driver_features |= u128::from(value) << shift;
        }
    }

    /// `device_status`: 0 resets; other bits can only be set.
    fn set_device_status(&mut self, value: u8) {
        if value == 0 {
            if !self.resetting {
                self.begin_reset();
            }
            return;
        }
        if !self.enter(Used::Modern) {
            return;
        }
        self.status |= value & STATUS_WRITABLE;
        if value & status::FEATURES_OK != 0 {
            self.ask_features();
        }
        let ready = value & status::DRIVER_OK != 0 && self.negotiation == Negotiation::Granted;
        if ready && self.status & status::DRIVER_OK == 0 {
            self.status |= status::DRIVER_OK;
            self.driver_ok();
        }
    }

    /// The selected queue, if the driver may set it up.
    fn open_queue(&mut self) -> Option<&mut Queue> {
        let entered = self.enter(Used::Modern);
        self.selected_mut().filter(|queue| entered && queue.is_open())
    }

    /// `queue_size`: smaller than the maximum; a power of two without `RING_PACKED`.
    fn set_queue_size(&mut self, value: u16) {
        let any_size = self.has(F_RING_PACKED);
        let Ok(size) = QueueSize::try_from(value) else { return };
        if let Some(queue) = self.open_queue()
            && size <= queue.size_max
            && (any_size || value.is_power_of_two())
        {
            queue.size = size;
        }
    }

    /// `queue_desc`, `queue_driver`, `queue_device`, by halves.
    fn set_queue_area(&mut self, half: u64, value: u32) {
        if let Some(queue) = self.open_queue()
            && let Some(area) = queue.areas.get_mut(half as usize / 2)
        {
            let shift = 32 * (half % 2);
            *area = *area & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
        }
    }

    /// `queue_enable`: 1 only, and only with granted features.
    fn set_queue_enable(&mut self, value: u32) {
        let granted = self.negotiation == Negotiation::Granted;
        let index = self.queue_select;
        if value == 1
            && granted
            && let Some(queue) = self.open_queue()
        {
            queue.enabled = true;
            self.steps.push(Step::Queue(index));
        }
    }

    /// `queue_reset`: 1 only, of a queue that is enabled.
    fn set_queue_reset(&mut self, value: u32) {
        if value != 1 || !self.has(F_RING_RESET) || !self.enter(Used::Modern) {
            return;
        }
        let index = self.queue_select;
        if let Some(queue) = self.selected_mut()
            && queue.is_wanted()
        {
            queue.resetting = true;
            self.steps.push(Step::Queue(index));
        }
    }
}

/// Where the bits of a feature select are; `None` beyond 128.
fn shift(select: u32) -> Option<u32> {
    (select < 4).then(|| 32 * select)
}

/// The 32 feature bits that `select` names; 0 beyond 128.
fn word(features: u128, select: u32) -> u32 {
    shift(select).map_or(0, |shift| (features >> shift) as u32)
}
