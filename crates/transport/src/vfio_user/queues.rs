//! The rings: what the function's effects and the client's memory make of them.

use super::relays::Relayed;
use super::session::Session;
use crate::event::{Event, QueueFault, QueueRestart, QueueStart};
use crate::pci::{self, Cause, Line};
use guestmem::GuestMemory;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtqueue::{QueueSetup, RingState, SetupFault};

/// ```text
///             memory found               memory gone
///   Stopped ---------------> Running ---------------> Suspended
///      ^                      |   ^                    |   |
///      |       QueueStop      |   +--------------------+   |
///      +----------------------+        memory back         |
///      +----------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Stopped,
    Running,
    Suspended,
}

/// One ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    phase: Phase,
    /// As the driver described it; `None` while it is stopped.
    pub(super) setup: Option<QueueSetup>,
    /// Whether the driver lets it be used.
    ready: bool,
    /// Whether the host was told to serve it.
    pub(super) enabled: bool,
    /// Whether its driver uses the legacy interface.
    pub(super) legacy: bool,
    /// It lies in memory that messages reach: what carries it to the ring that the host serves. Then `call` is none.
    pub(super) relayed: Option<Relayed>,
    /// What the host calls the driver by.
    call: Option<Arc<OwnedFd>>,
}

impl Ring {
    pub(super) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }
}

/// Another descriptor of the same eventfd, for the host to own.
fn another(fd: &OwnedFd) -> Result<OwnedFd, QueueFault> {
    fd.try_clone().map_err(|error| QueueFault::Descriptor(error.kind()))
}

fn is_same(one: &Option<Arc<OwnedFd>>, other: &Option<Arc<OwnedFd>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

impl Session {
    /// The driver enabled a ring: it starts if its memory is known, else the driver gets a refusal.
    pub(super) fn start_queue(&mut self, start: pci::QueueStart) {
        let index = start.index;
        match self.queue_start(start) {
            Ok(start) => self.push(Event::QueueStart(Box::new(start))),
            Err(fault) => {
                self.refuse_effect();
                self.push(Event::QueueRefused { index, fault });
            }
        }
    }

    fn queue_start(&mut self, start: pci::QueueStart) -> Result<QueueStart, QueueFault> {
        let pci::QueueStart { index, setup, legacy } = start;
        if let Err(fault) = setup.check(self.memory()) {
            return self.relayed_start(index, setup, legacy, fault);
        }
        // Where the notify page is mapped nobody writes a kick.
        let kick = self.kicks.get(usize::from(index)).filter(|_| self.region_file.is_none());
        let kick = kick.map(|kick| another(kick)).transpose()?;
        let line = self.call_of(index);
        let call = line.as_deref().map(another).transpose()?;
        let ready = legacy || self.function.is_driver_ok();
        let enabled = ready && self.is_served(index);
        if let Some(ring) = self.rings.get_mut(usize::from(index)) {
            let (phase, setup) = (Phase::Running, Some(setup.clone()));
            *ring = Ring { phase, setup, ready, enabled, legacy, call: line, relayed: None };
        }
        let state = RingState::default();
        Ok(QueueStart { index, setup, state, kick, call, err: None, enabled, memory: None })
    }

    /// A ring that cannot be mapped: the host serves a copy of it, if it can be carried.
    fn relayed_start(
        &mut self,
        index: u16,
        setup: QueueSetup,
        legacy: bool,
        fault: SetupFault,
    ) -> Result<QueueStart, QueueFault> {
        let relayed = self.new_relay(index, &setup, fault)?;
        let (own, memory) = (relayed.own_setup().clone(), Some(Arc::clone(relayed.memory())));
        let ready = legacy || self.function.is_driver_ok();
        let enabled = ready && self.is_served(index);
        if let Some(ring) = self.rings.get_mut(usize::from(index)) {
            let (phase, setup, relayed) = (Phase::Running, Some(setup), Some(relayed));
            *ring = Ring { phase, setup, ready, enabled, legacy, call: None, relayed };
        }
        let (state, kick, call, err) = (RingState::default(), None, None, None);
        Ok(QueueStart { index, setup: own, state, kick, call, err, enabled, memory })
    }

    /// The function stops a ring. Nothing for the host to do if it never ran.
    pub(super) fn stop_queue(&mut self, index: u16) {
        let Some(ring) = self.rings.get(usize::from(index)).filter(|ring| !ring.is_stopped()) else { return };
        let legacy = ring.legacy;
        // What the client was sent to write is written before the driver learns that the ring is stopped. A legacy driver waits for
        // nothing: the client answers only when that driver's reset is.
        if self.end_relay(index) && !legacy {
            self.draining = Some(index);
        } else {
            self.push(Event::QueueStop { index, drain: true });
        }
    }

    /// `DRIVER_OK`: rings that wait for it are served.
    pub(super) fn driver_ok(&mut self) {
        self.rings.iter_mut().filter(|ring| !ring.is_stopped()).for_each(|ring| ring.ready = true);
        self.enable_queues();
    }

    /// Tells the host of rings that are to be served from now on, or only kept.
    pub(super) fn enable_queues(&mut self) {
        for index in 0..self.rings.len() as u16 {
            let served = self.is_served(index);
            let Some(ring) = self.rings.get_mut(usize::from(index)).filter(|ring| !ring.is_stopped()) else {
                continue;
            };
            let enabled = ring.ready && served;
            if std::mem::replace(&mut ring.enabled, enabled) != enabled {
                self.push(Event::QueueEnable { index, enabled });
                self.go_on_relay(index);
            }
        }
    }

    /// A device that the administration queue stopped serves no other (virtio 1.4 §2.13.4.4).
    fn is_served(&self, index: u16) -> bool {
        !self.device_stopped || self.admin_queue == Some(index)
    }

    /// The driver rang for a ring.
    pub(super) fn kick_queue(&mut self, index: u16) {
        if self.relayed(index).is_some() {
            return self.queue_notified(index);
        }
        if self.rings.get(usize::from(index)).is_some_and(|ring| !ring.is_stopped()) {
            self.push(Event::QueueKicked { index });
        }
    }

    pub(super) fn reset_queues(&mut self) {
        self.rings.iter_mut().for_each(Ring::stop);
    }

    /// The client's memory is another one: rings that are not stopped go on there, or wait until theirs is back.
    pub(super) fn memory_changed(&mut self) {
        let memory = Arc::clone(self.memory());
        let mut restart = Vec::new();
        for (ring, index) in self.rings.iter_mut().zip(0..) {
            let Some(setup) = ring.setup.as_ref().filter(|_| ring.relayed.is_none()) else { continue };
            let setup = fits(setup, &memory).then(|| setup.clone());
            let before = ring.phase;
            ring.phase = if setup.is_some() { Phase::Running } else { Phase::Suspended };
            if setup.is_some() || before == Phase::Running {
                restart.push(QueueRestart { index, setup });
            }
        }
        self.push(Event::Memory { memory, restart });
    }

    /// What calls the driver of ring `index`; `None`: it polls, or the client has not said yet.
    fn call_of(&self, index: u16) -> Option<Arc<OwnedFd>> {
        match self.function.call_line(Cause::Queue(index))? {
            Line::Msix(vector) => self.irqs.vector(vector),
            Line::Intx => Some(Arc::clone(&self.interrupt)),
        }
    }

    /// Vectors, MSI-X or the client's eventfds changed: rings that now call elsewhere say so.
    pub(super) fn calls_changed(&mut self) {
        for index in 0..self.rings.len() as u16 {
            let line = self.call_of(index);
            let ring = self.rings.get_mut(usize::from(index));
            let Some(ring) = ring.filter(|ring| !ring.is_stopped() && ring.relayed.is_none()) else {
                continue;
            };
            if is_same(&ring.call, &line) {
                continue;
            }
            let call = line.as_deref().map(another).transpose();
            ring.call = line;
            match call {
                Ok(call) => self.push(Event::QueueCall { index, call }),
                // Its driver would wait for calls that never come.
                Err(fault) => {
                    ring.call = None;
                    self.push(Event::QueueCall { index, call: None });
                    self.push(Event::QueueRefused { index, fault });
                }
            }
        }
    }

    /// Some ring whose calls go to INTx.
    pub(super) fn ring_by_intx(&self) -> Option<u16> {
        let mut running = self.rings.iter().zip(0..).filter(|(ring, _)| !ring.is_stopped());
        running
            .find(|(ring, _)| ring.call.as_ref().is_some_and(|call| Arc::ptr_eq(call, &self.interrupt)))
            .map(|(_, index)| index)
    }
}

fn fits(setup: &QueueSetup, memory: &Arc<GuestMemory>) -> bool {
    setup.check(memory).is_ok()
}
