//! From what the driver changed to what the host must do.
//!
//! A register access leaves *steps*. A step names a matter, not an action: what has to be done is looked up
//! when the host comes for it, so a matter that changed twice is handled once, and the list is bounded by the
//! number of queues however much a driver writes.

use super::Cause;
use super::effect::{Effect, QueueStart};
use super::features::{F_VERSION_1, ring_features};
use super::queue::{DESC, DEVICE, DRIVER};
use super::registers::{Negotiation, Registers, Used, status};
use guestmem::GuestAddr;
use std::collections::VecDeque;
use virtqueue::{QueueSetup, SetupFault};

/// Writes to the device configuration that wait at most; further ones are lost.
const CONFIG_WRITES_MAX: usize = 32;
/// Alignment of a legacy ring's used part (virtio 1.4 §4.1.5.1.3).
const LEGACY_ALIGN: u32 = 4096;

/// A matter to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Features,
    /// Bring the ring after its registers.
    Queue(u16),
    DriverOk,
    Reset,
    ConfigWrite {
        offset: u32,
        len: u8,
        bytes: [u8; 4],
    },
    Notify(u16),
    CallsChanged,
    DeviceMode,
    Interrupt(Cause),
}

impl Step {
    /// A write of 1, 2 or 4 bytes.
    pub(super) fn config_write(offset: u64, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; 4];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self::ConfigWrite { offset: u32::try_from(offset).ok()?, len: data.len() as u8, bytes })
    }
}

/// What the host is working on.
#[derive(Clone, Copy, Debug)]
enum InHand {
    Features,
    Start(u16),
    Stop(u16),
    Reset,
    Other,
}

/// The steps that wait, and the effect that the host has.
#[derive(Debug, Default)]
pub(super) struct Steps {
    waiting: VecDeque<Step>,
    in_hand: Option<InHand>,
}

impl Steps {
    /// Adds a step, once.
    pub(super) fn push(&mut self, step: Step) {
        let room = match step {
            Step::ConfigWrite { .. } => {
                let writes = self.waiting.iter().filter(|step| matches!(step, Step::ConfigWrite { .. }));
                writes.count() < CONFIG_WRITES_MAX
            }
            _ => !self.waiting.contains(&step),
        };
        if room {
            self.waiting.push_back(step);
        }
    }
}

impl Registers {
    /// The driver or the client resets the device: the registers are those after a reset at once, apart from
    /// the status, which is 0 when the host has finished.
    pub(super) fn begin_reset(&mut self) {
        self.resetting = true;
        self.clear();
        self.steps.waiting.clear();
        for (index, queue) in (0..).zip(&self.queues) {
            if queue.running {
                self.steps.push(Step::Queue(index));
            }
        }
        self.steps.push(Step::Reset);
    }

    /// The next effect, unless one is in the host's hands.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        while self.steps.in_hand.is_none() {
            let step = self.steps.waiting.pop_front()?;
            if let Some((in_hand, effect)) = self.effect(step) {
                self.steps.in_hand = Some(in_hand);
                return Some(effect);
            }
        }
        None
    }

    fn effect(&mut self, step: Step) -> Option<(InHand, Effect)> {
        match step {
            Step::Features => {
                let acknowledged = self.driver_features;
                Some((InHand::Features, Effect::Features { acknowledged }))
            }
            Step::Queue(index) => self.queue_effect(index),
            Step::DriverOk if self.negotiation == Negotiation::Granted => {
                Some((InHand::Other, Effect::DriverOk))
            }
            Step::DriverOk => None,
            Step::Reset => Some((InHand::Reset, Effect::Reset)),
            Step::ConfigWrite { offset, len, bytes } => {
                let bytes = bytes[..usize::from(len)].to_vec();
                Some((InHand::Other, Effect::ConfigWrite { offset, bytes }))
            }
            Step::Notify(index) => {
                let queue = self.queues.get(usize::from(index)).filter(|queue| queue.running)?;
                Some((InHand::Other, Effect::Notify { index, position: queue.position }))
            }
            Step::CallsChanged => Some((InHand::Other, Effect::CallsChanged)),
            Step::DeviceMode => Some((InHand::Other, Effect::DeviceMode { stopped: self.admin.stopped })),
            Step::Interrupt(cause) => Some((InHand::Other, Effect::Interrupt(cause))),
        }
    }

    /// What brings ring `index` nearer to what its registers want; nothing if it is there.
    fn queue_effect(&mut self, index: u16) -> Option<(InHand, Effect)> {
        let stopped = self.is_stopped(Cause::Queue(index));
        let queue = self.queues.get_mut(usize::from(index))?;
        if queue.running && (queue.stale || !queue.is_wanted()) {
            return Some((InHand::Stop(index), Effect::QueueStop { index }));
        }
        if queue.resetting {
            queue.clear();
            return None;
        }
        if queue.running || !queue.enabled || stopped || self.negotiation != Negotiation::Granted {
            return None;
        }
        let Ok(setup) = self.setup(index)? else {
            self.start_failed(index);
            return None;
        };
        self.queues[usize::from(index)].running = true;
        let start = QueueStart { index, setup, legacy: self.used == Used::Legacy };
        Some((InHand::Start(index), Effect::QueueStart(Box::new(start))))
    }

    /// The ring that the registers describe.
    fn setup(&self, index: u16) -> Option<Result<QueueSetup, SetupFault>> {
        let queue = self.queues.get(usize::from(index))?;
        let features = ring_features(self.driver_features, self.endian);
        let [desc, driver, device] = [DESC, DRIVER, DEVICE].map(|area| GuestAddr(queue.areas[area]));
        if self.used == Used::Legacy {
            return Some(QueueSetup::contiguous_legacy(queue.size, desc, LEGACY_ALIGN, features));
        }
        Some(Ok(QueueSetup { size: queue.size, desc, driver, device, features, log: None, in_flight: None }))
    }

    /// The effect taken last is carried out, or refused.
    pub(super) fn finish(&mut self, accepted: bool) {
        match self.steps.in_hand.take() {
            Some(InHand::Features) => self.features_answered(accepted),
            Some(InHand::Start(index)) if !accepted => {
                if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                    queue.running = false;
                }
                self.start_failed(index);
            }
            Some(InHand::Stop(index)) => self.stopped(index),
            Some(InHand::Reset) if !self.steps.waiting.contains(&Step::Reset) => {
                self.resetting = false;
                self.status = 0;
            }
            _ => {}
        }
    }

    fn features_answered(&mut self, accepted: bool) {
        if self.negotiation != Negotiation::Asked {
            return; // a reset came between
        }
        match (accepted, self.used) {
            (true, used) => {
                self.negotiation = Negotiation::Granted;
                if used == Used::Modern {
                    self.status |= status::FEATURES_OK;
                }
            }
            (false, Used::Modern) => self.negotiation = Negotiation::Open,
            (false, _) => {
                self.negotiation = Negotiation::Refused;
                self.fail();
            }
        }
    }

    fn stopped(&mut self, index: u16) {
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        queue.running = false;
        queue.stale = false;
        if queue.resetting {
            queue.clear();
        } else if queue.enabled {
            self.steps.push(Step::Queue(index));
        }
    }

    fn start_failed(&mut self, index: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.enabled = false;
            queue.position = None;
        }
        self.fail();
    }

    /// Something that the driver asked for is impossible: it must reset the device.
    fn fail(&mut self) {
        self.set_needs_reset();
        if self.may_call(Cause::Config) {
            self.steps.push(Step::Interrupt(Cause::Config));
        }
    }

    /// The features that the driver wrote are its last word: asks the host, unless the set cannot be legal.
    pub(super) fn ask_features(&mut self) {
        if self.negotiation != Negotiation::Open {
            return;
        }
        let offered = match self.used {
            Used::Legacy => u128::from(self.legacy_offered),
            _ => self.offered,
        };
        let modern = self.used != Used::Legacy;
        if modern && (self.driver_features & !offered != 0 || self.driver_features & F_VERSION_1 == 0) {
            return;
        }
        self.driver_features &= offered;
        self.negotiation = Negotiation::Asked;
        self.steps.push(Step::Features);
    }

    /// `DRIVER_OK` was written: counts once features are granted.
    pub(super) fn driver_ok(&mut self) {
        self.steps.push(Step::DriverOk);
    }
}
