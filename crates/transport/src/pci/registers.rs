//! The virtio device behind the registers: status, features, queues, configuration. What both interfaces
//! show is kept once, here; how each shows it is in `common_config.rs` and `legacy_header.rs`.

use super::admin::Admin;
use super::features::{F_ADMIN_VQ, F_NOTIF_CONFIG_DATA, F_NOTIFICATION_DATA};
use super::queue::Queue;
use super::steps::{Step, Steps};
use super::{Cause, Description};
use virtqueue::Endian;

/// Device status bits (virtio 1.4 §2.1).
pub(super) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const DEVICE_NEEDS_RESET: u8 = 64;
    pub(crate) const FAILED: u8 = 128;
}

/// `VIRTIO_MSI_NO_VECTOR`.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// ISR status bits (virtio 1.4 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Which interface the driver uses, until the next reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Used {
    #[default]
    Unknown,
    Modern,
    Legacy,
}

/// Where feature negotiation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Negotiation {
    /// The driver may write features.
    #[default]
    Open,
    /// The host is asked whether the set is legal.
    Asked,
    /// The set is fixed.
    Granted,
    /// A legacy driver's set was refused; nothing starts until a reset.
    Refused,
}

/// The state that a driver can see and change.
#[derive(Debug)]
pub(super) struct Registers {
    pub(super) offered: u128,
    pub(super) legacy_offered: u32,
    pub(super) endian: Endian,
    vectors: u16,
    /// Queues without the administration queue.
    pub(super) num_queues: u16,

    pub(super) status: u8,
    /// Between a reset's request and its end.
    pub(super) resetting: bool,
    pub(super) used: Used,
    pub(super) negotiation: Negotiation,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    /// As the driver wrote them.
    pub(super) driver_features: u128,
    pub(super) config_vector: u16,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<Queue>,
    isr: u8,

    config: Vec<u8>,
    pub(super) generation: u8,
    /// Whether the configuration was read since its generation changed.
    config_seen: bool,

    pub(super) admin: Admin,
    pub(super) steps: Steps,
}

impl Registers {
    /// The registers of a description that was checked, after a reset.
    pub(super) fn new(description: &Description) -> Self {
        let sizes = description.queue_size_max.iter().chain(&description.admin_queue);
        Self {
            offered: description.offered(),
            legacy_offered: description.legacy_offered(),
            endian: description.endian,
            vectors: description.vectors(),
            num_queues: description.queue_size_max.len() as u16,
            status: 0,
            resetting: false,
            used: Used::Unknown,
            negotiation: Negotiation::Open,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: sizes.map(|size| Queue::new(*size)).collect(),
            isr: 0,
            config: description.config.clone(),
            generation: 0,
            config_seen: false,
            admin: Admin::default(),
            steps: Steps::default(),
        }
    }

    /// Everything that a reset takes back, apart from rings that still run: those stop by steps.
    pub(super) fn clear(&mut self) {
        self.used = Used::Unknown;
        self.negotiation = Negotiation::Open;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(Queue::clear);
        self.isr = 0;
        self.admin = Admin::default();
    }

    /// What the driver reads: while a reset goes on, not 0.
    pub(super) fn device_status(&self) -> u8 {
        if self.resetting { self.status | status::ACKNOWLEDGE } else { self.status }
    }

    /// Whether a feature was acknowledged and granted.
    pub(super) fn has(&self, feature: u128) -> bool {
        self.negotiation == Negotiation::Granted && self.driver_features & feature != 0
    }

    /// The driver uses interface `used` to change something: takes it until the next reset. `false`: it uses
    /// the other one, or a reset goes on, and the access is to be ignored.
    pub(super) fn enter(&mut self, used: Used) -> bool {
        if self.resetting {
            return false;
        }
        if self.used == Used::Unknown {
            self.used = used;
        }
        self.used == used
    }

    /// The queue that `queue_select` names, if it exists for this driver: the administration queue only
    /// with `ADMIN_VQ`.
    pub(super) fn selected(&self) -> Option<&Queue> {
        self.exists(self.queue_select).then(|| self.queues.get(usize::from(self.queue_select))).flatten()
    }

    pub(super) fn selected_mut(&mut self) -> Option<&mut Queue> {
        let index = usize::from(self.queue_select);
        self.exists(self.queue_select).then(|| self.queues.get_mut(index)).flatten()
    }

    fn exists(&self, index: u16) -> bool {
        index < self.num_queues || self.has(F_ADMIN_VQ)
    }

    /// A vector as it will be read back: one outside the table is none (virtio 1.4 §4.1.5.1.2).
    fn checked_vector(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    /// `config_msix_vector`.
    pub(super) fn set_config_vector(&mut self, vector: u16) {
        if !self.resetting {
            self.config_vector = self.checked_vector(vector);
        }
    }

    /// `queue_msix_vector`.
    pub(super) fn set_queue_vector(&mut self, vector: u16) {
        if !self.resetting && self.selected().is_some() {
            self.set_vector_of(self.queue_select, vector);
        }
    }

    pub(super) fn set_vector_of(&mut self, index: u16, vector: u16) {
        let vector = self.checked_vector(vector);
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        let moved = queue.enabled && queue.vector != vector;
        queue.vector = vector;
        if moved {
            self.steps.push(Step::CallsChanged);
        }
    }

    /// The vector of a cause.
    pub(super) fn vector(&self, cause: Cause) -> u16 {
        match cause {
            Cause::Config => self.config_vector,
            Cause::Queue(index) => {
                self.queues.get(usize::from(index)).map_or(NO_VECTOR, |queue| queue.vector)
            }
        }
    }

    /// Whether the driver may be called for `cause` now: not before it is ready, and not during a reset
    /// (virtio 1.4 §3.1.2).
    pub(super) fn may_call(&self, cause: Cause) -> bool {
        if self.resetting || self.is_stopped(cause) {
            return false;
        }
        let ready = self.status & status::DRIVER_OK != 0;
        match cause {
            Cause::Config => ready,
            Cause::Queue(index) => {
                let runs = self.queues.get(usize::from(index)).is_some_and(|queue| queue.running);
                runs && (ready || self.used == Used::Legacy)
            }
        }
    }

    /// Whether `DEV_MODE_SET` stopped what `cause` is about: all but the administration queue.
    pub(super) fn is_stopped(&self, cause: Cause) -> bool {
        self.admin.stopped && cause != Cause::Queue(self.num_queues)
    }

    /// Notes an interrupt: that of a queue without MSI-X only, that of the configuration always
    /// (virtio 1.4 §4.1.4.5.1).
    pub(super) fn set_isr(&mut self, cause: Cause, msix: bool) {
        match cause {
            Cause::Queue(_) if msix => {}
            Cause::Queue(_) => self.isr |= ISR_QUEUE,
            Cause::Config => self.isr |= ISR_CONFIG,
        }
    }

    /// The driver reads the ISR status, which clears it.
    pub(super) fn read_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    pub(super) fn isr(&self) -> u8 {
        self.isr
    }

    /// A doorbell that said `value`: the queue's number as `NOTIF_CONFIG_DATA` has it, and where the driver
    /// is. `place` is the queue by the doorbell's own place, if it has one for each queue.
    pub(super) fn notify(&mut self, place: Option<u16>, value: u32, whole: bool) {
        let named = if self.has(F_NOTIF_CONFIG_DATA) {
            (value as u16).wrapping_sub(1) // see `notif_config_data`
        } else {
            value as u16
        };
        let index = place.unwrap_or(named);
        let position = (whole && self.has(F_NOTIFICATION_DATA)).then_some((value >> 16) as u16);
        let resetting = self.resetting;
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        if queue.enabled && !resetting {
            queue.position = position;
            self.start_legacy();
            self.steps.push(Step::Notify(index));
        }
    }

    /// What the driver says instead of the queue's number, with `NOTIF_CONFIG_DATA`: never 0, so that a
    /// doorbell that was rung can be told from fresh memory.
    pub(super) fn notif_config_data(&self) -> u16 {
        let shown = self.has(F_NOTIF_CONFIG_DATA) && self.selected().is_some();
        if shown { self.queue_select + 1 } else { 0 }
    }

    /// Reads the device configuration, zeros past its end.
    pub(super) fn read_config(&mut self, offset: u64, out: &mut [u8]) {
        self.config_seen = true;
        out.fill(0);
        let bytes = usize::try_from(offset).ok().and_then(|begin| self.config.get(begin..));
        for (out, byte) in out.iter_mut().zip(bytes.unwrap_or_default()) {
            *out = *byte;
        }
    }

    /// Writes to the device configuration are for the host to take or leave. One that goes past its end is
    /// ignored.
    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        let fits = offset.checked_add(data.len() as u64).is_some_and(|end| end <= self.config.len() as u64);
        let Some(step) = Step::config_write(offset, data) else { return };
        if fits && !self.resetting {
            self.steps.push(step);
        }
    }

    /// New device configuration. The generation changes if the driver has read since it last did, so the 8
    /// bits cannot run round between two of its reads (virtio 1.4 §4.1.4.3.1).
    pub(super) fn set_config(&mut self, bytes: &[u8]) {
        let mut new = bytes.to_vec();
        new.resize(self.config.len(), 0);
        if new != self.config && std::mem::take(&mut self.config_seen) {
            self.generation = self.generation.wrapping_add(1);
        }
        self.config = new;
    }

    /// Whether any queue's calls can matter.
    pub(super) fn any_enabled(&self) -> bool {
        self.queues.iter().any(|queue| queue.enabled)
    }

    /// `DEVICE_NEEDS_RESET` (virtio 1.4 §2.1.2). A device that is being reset needs none.
    pub(super) fn set_needs_reset(&mut self) {
        if !self.resetting {
            self.status |= status::DEVICE_NEEDS_RESET;
        }
    }
}
