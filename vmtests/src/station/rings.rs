//! One ring of a station: the driver's side of a split virtqueue with its two descriptors.

use super::function::Registers;
use super::ram::Ram;
use anyhow::Context;
use devices::net::Features;
use guestmem::MemArea;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;
use virtqueue::{DriverQueue, QueueSetup, QueueSize, RingFeatures};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What a driver rings.
#[derive(Clone)]
pub(super) enum Doorbell {
    /// The kick's eventfd.
    Kick,
    /// A word in a mapped page; nobody is woken, the device looks by itself.
    Mapped {
        /// The page.
        area: MemArea,
        /// In bytes.
        offset: usize,
        /// What is written.
        queue: u16,
    },
    /// A register, by a message that is answered.
    Message(Registers),
}

/// A ring, and how each side wakes the other.
pub struct Ring {
    /// The driver's side.
    pub queue: DriverQueue,
    /// Where it lies.
    pub setup: QueueSetup,
    /// Written by us when the device wants it, where the doorbell is a kick.
    pub kick: EventFd,
    /// Written by the device when we want it.
    pub call: EventFd,
    /// What is rung when the device wants it.
    pub(super) doorbell: Doorbell,
    /// Where we sleep for a call.
    bed: Epoll,
}

impl Ring {
    /// A ring of `size` entries in `ram`; the device is asked for no calls.
    pub(crate) fn new(ram: &mut Ram, size: u16, features: Features) -> anyhow::Result<Self> {
        let size = QueueSize::try_from(size)?;
        let ring = RingFeatures {
            indirect: features.contains(Features::INDIRECT_DESC),
            event_idx: features.contains(Features::EVENT_IDX),
            in_order: features.contains(Features::IN_ORDER),
            ..RingFeatures::default()
        };
        let base = ram.take(DriverQueue::footprint(size, ring) as u64, 4096)?;
        let (mut queue, setup) = DriverQueue::setup(ram.memory(), base, size, ring, None)?;
        queue.disable_call();
        let (kick, call, bed) = (eventfd()?, eventfd()?, Epoll::new()?);
        bed.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        Ok(Self { queue, setup, kick, call, doorbell: Doorbell::Kick, bed })
    }

    /// Shows the device everything that was added, and kicks it if it wants that.
    pub fn publish(&mut self) -> anyhow::Result<()> {
        if self.queue.publish() {
            match &self.doorbell {
                Doorbell::Kick => self.kick.write(1).context("kick")?,
                Doorbell::Mapped { area, offset, queue } => {
                    area.store_u16(*offset, queue.to_le(), Ordering::Release);
                }
                Doorbell::Message(registers) => registers.ring()?,
            }
        }
        Ok(())
    }

    /// Sleeps until the device calls, as a processor without work does; not at all if something was used meanwhile. False
    /// after `limit`.
    pub fn sleep(&mut self, limit: Duration) -> anyhow::Result<bool> {
        let came = self.queue.enable_call() || {
            let events = self.bed.wait(limit.as_millis() as i32, &mut [EpollEvent::default()])?;
            // The counter is empty where the limit has passed.
            let _ = self.call.read();
            events > 0
        };
        self.queue.disable_call();
        Ok(came)
    }
}

pub(crate) fn eventfd() -> anyhow::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).context("make an eventfd")
}
