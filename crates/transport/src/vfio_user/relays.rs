//! Rings in memory that came without a descriptor: each has a [`Relay`], whose moves become messages here.

use super::dma::Owner;
use super::relay::{Begun, Relay, RelayFault};
use super::session::Session;
use crate::event::{Event, QueueFault};
use crate::pci::Cause;
use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use virtqueue::{DriverQueue, QueueSetup, RingArea, SetupFault};

/// `max_data_xfer_size` of a client, in bytes, below which no ring is relayed: a word of a ring must come in one message.
const TRANSFER_MIN: usize = 64;

/// A ring's relay and what the session knows of it.
#[derive(Debug)]
pub(super) struct Relayed {
    relay: Box<Relay>,
    /// Tells its messages from those of a ring before it.
    serial: u64,
    /// Whether the host has taken the ring.
    is_running: bool,
    /// Whether all of the ring is in maps of the client's now; until it is again, nothing is carried.
    is_mapped: bool,
    /// It broke a rule, or its client did: nothing is carried any more.
    is_retired: bool,
}

impl Relayed {
    /// The memory of the ring that the host serves.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        self.relay.memory()
    }

    /// The ring that the host serves.
    pub(super) fn own_setup(&self) -> &QueueSetup {
        self.relay.own_setup()
    }

    fn is_live(&self) -> bool {
        self.is_running && self.is_mapped && !self.is_retired
    }
}

impl Session {
    /// A relay for a ring that cannot be mapped, if messages reach it; else what is wrong with the ring.
    pub(super) fn new_relay(
        &mut self,
        index: u16,
        setup: &QueueSetup,
        fault: SetupFault,
    ) -> Result<Relayed, QueueFault> {
        let areas = parts(setup);
        let has_messages = areas.iter().any(|part| self.dma_table.by_messages(part.addr.0));
        let outside = areas.iter().find(|part| !self.is_in_maps(part));
        match (fault, outside) {
            (SetupFault::OutsideMemory { .. }, None) if has_messages => {}
            (SetupFault::OutsideMemory { .. }, Some(part)) if has_messages => {
                let &Part { area, addr, len, .. } = part;
                return Err(SetupFault::OutsideMemory { area, addr, len: len as u32 }.into());
            }
            (fault, _) => return Err(fault.into()),
        }
        let most = self.client.map_or(0, |client| client.max_data_xfer_size);
        if most < TRANSFER_MIN {
            return Err(QueueFault::Transfers { most, least: TRANSFER_MIN });
        }
        let readable_only = self.readable_only.contains(&index);
        let relay = Box::new(Relay::new(setup, readable_only).map_err(|_| QueueFault::NoMemory)?);
        self.relays_made += 1;
        let serial = self.relays_made;
        Ok(Relayed { relay, serial, is_running: false, is_mapped: true, is_retired: false })
    }

    fn is_in_maps(&self, part: &Part) -> bool {
        let Part { addr, len, read, write, .. } = *part;
        (!read || self.dma_table.covers(addr.0, len as u64, false))
            && (!write || self.dma_table.covers(addr.0, len as u64, true))
    }

    /// The kick of a relayed ring was written: by the kernel, for clients that asked for ioeventfds. Or there are none, and it is
    /// time to look (a mapped notify page). Ignored for other rings.
    pub fn queue_notified(&mut self, index: u16) {
        if let Some(relayed) = self.relayed(index) {
            relayed.relay.kick();
            self.go_on_relay(index);
        }
    }

    /// The call of a relayed ring was written: the host has used chains. Ignored for other rings.
    pub fn queue_called(&mut self, index: u16) {
        if let Some(relayed) = self.relayed(index) {
            relayed.relay.call();
            self.go_on_relay(index);
        }
    }

    pub(super) fn relayed(&mut self, index: u16) -> Option<&mut Relayed> {
        self.rings.get_mut(usize::from(index))?.relayed.as_mut()
    }

    /// The host has taken the ring: its relay begins once the ring is enabled.
    pub(super) fn relay_taken(&mut self, index: u16) {
        if let Some(relayed) = self.relayed(index) {
            relayed.is_running = true;
            self.go_on_relay(index);
        }
    }

    /// Ends a ring's relay; true: writes of it are under way, and the ring ends when they are answered.
    pub(super) fn end_relay(&mut self, index: u16) -> bool {
        let Some(relayed) = self.relayed(index) else { return false };
        relayed.is_retired = true;
        relayed.relay.stop();
        relayed.relay.writes_out() > 0
    }

    /// The client's answer to a message of a relay's.
    pub(super) fn relay_answered(&mut self, owner: Owner, result: Result<&[u8], u32>) {
        let Owner { index, serial, way, part, maps_before } = owner;
        let again = maps_before != self.maps_changes;
        let Some(relayed) = self.relayed(index).filter(|relayed| relayed.serial == serial) else {
            // Of a ring that is gone. Others may have waited for its place.
            return self.send_relayed();
        };
        let ended = relayed.relay.end(way, part, result, again);
        let is_quiet = relayed.relay.writes_out() == 0;
        if let Err(fault) = ended {
            self.retire(index, fault);
        }
        if is_quiet && self.draining == Some(index) {
            self.draining = None;
            self.push(Event::QueueStop { index, drain: true });
        }
        self.go_on_relay(index);
    }

    /// The client's maps are others now: relays whose ring was away, or is, go on or wait.
    pub(super) fn maps_changed(&mut self) {
        self.maps_changes += 1;
        for index in 0..self.rings.len() as u16 {
            let ring = &self.rings[usize::from(index)];
            let Some(setup) = ring.setup.as_ref().filter(|_| ring.relayed.is_some()) else { continue };
            let is_mapped = parts(setup).iter().all(|part| self.is_in_maps(part));
            if let Some(relayed) = self.relayed(index) {
                relayed.is_mapped = is_mapped;
                self.go_on_relay(index);
            }
        }
    }

    /// Takes a relay as far as it comes by itself, and has its messages sent.
    pub(super) fn go_on_relay(&mut self, index: u16) {
        let Some(ring) = self.rings.get_mut(usize::from(index)) else { return };
        let is_enabled = ring.enabled;
        if let Some(relayed) = ring.relayed.as_mut().filter(|relayed| relayed.is_live() && is_enabled) {
            relayed.relay.start();
            match relayed.relay.advance() {
                Ok(wants) => {
                    if wants.kick {
                        self.push(Event::QueueKicked { index });
                    }
                    if wants.interrupt {
                        let eventfd = self.raise(Cause::Queue(index));
                        self.push_interrupt(eventfd);
                    }
                }
                Err(fault) => self.retire(index, fault),
            }
        }
        self.send_relayed();
    }

    /// Gives relays messages in turn, as many as may be under way.
    fn send_relayed(&mut self) {
        let mut without = 0;
        while without < self.rings.len() && self.accesses.has_room() {
            let index = self.turn % self.rings.len();
            self.turn = index + 1;
            without = if self.send_one(index as u16) { 0 } else { without + 1 };
        }
        self.send_held();
    }

    /// Begins one message of a ring's; false: it has none.
    fn send_one(&mut self, index: u16) -> bool {
        let Self { rings, dma_table, client, accesses, maps_changes, .. } = self;
        let Some(ring) = rings.get_mut(usize::from(index)).filter(|ring| ring.enabled) else { return false };
        let Some(relayed) = ring.relayed.as_mut().filter(|relayed| relayed.is_live()) else { return false };
        let transfer = client.map_or(0, |client| client.max_data_xfer_size);
        let most = |address: GuestAddr, write| {
            usize::try_from(dma_table.run(address.0, write)).unwrap_or(usize::MAX).min(transfer)
        };
        match relayed.relay.begin(most) {
            Ok(Some(Begun { way, part, data })) => {
                let owner = Owner { index, serial: relayed.serial, way, part, maps_before: *maps_changes };
                accesses.relay(owner, data.as_deref());
                true
            }
            Ok(None) => false,
            Err(fault) => {
                self.retire(index, fault);
                false
            }
        }
    }

    /// A relayed ring is of no use any more.
    fn retire(&mut self, index: u16, fault: RelayFault) {
        let Some(relayed) = self.relayed(index).filter(|relayed| !relayed.is_retired) else { return };
        relayed.is_retired = true;
        relayed.relay.stop();
        let eventfd = self.needs_reset();
        self.push_interrupt(eventfd);
        self.push(Event::QueueFailed { index, fault });
    }
}

/// One of a ring's areas and what the device does there.
#[derive(Clone, Copy, Debug)]
struct Part {
    area: RingArea,
    addr: GuestAddr,
    len: usize,
    read: bool,
    write: bool,
}

fn parts(setup: &QueueSetup) -> [Part; 3] {
    let (desc, driver, device) = DriverQueue::layout(setup.size, setup.features);
    let part = |area, addr, len, read, write| Part { area, addr, len, read, write };
    [
        part(RingArea::Descriptor, setup.desc, desc, true, setup.features.packed),
        part(RingArea::Driver, setup.driver, driver, true, false),
        part(RingArea::Device, setup.device, device, false, true),
    ]
}
