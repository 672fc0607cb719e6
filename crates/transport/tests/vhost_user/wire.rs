//! A front-end made of bytes, and a host that carries out nothing but remembers states.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::OwnedFd;
use transport::vhost_user::{Channel, Event, FrontendFault, Offer, Outcome, ProtocolFeatures, Session};
use virtqueue::QueueSize;

pub(crate) const LOG_ALL: u64 = 1 << 26;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PROTOCOL: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const PACKED: u64 = 1 << 34;
pub(crate) const MAC: u64 = 1 << 5;
pub(crate) const MIB: u64 = 1 << 20;
/// Where the test front-end has the guest's memory in its own address space.
pub(crate) const USER: u64 = 0x7f00_0000_0000;

pub(crate) fn offer() -> Offer {
    Offer {
        features: MAC | EVENT_IDX | VERSION_1 | PACKED,
        protocol: ProtocolFeatures::all(),
        queues_max: 4,
        queue_num: 2,
        queue_size_max: QueueSize::try_from(1024).unwrap(),
        config: (1..=60).collect(),
    }
}

pub(crate) fn memfd(len: u64) -> OwnedFd {
    let file = memfd_create("transport-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

pub(crate) fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

pub(crate) fn message(id: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let words = [id, flags, payload.len() as u32];
    words.iter().flat_map(|word| word.to_ne_bytes()).chain(payload.iter().copied()).collect()
}

pub(crate) fn u64s(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn u32s(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Guest address, size, front-end address, file offset.
pub(crate) fn region(guest: u64, size: u64) -> [u64; 4] {
    [guest, size, USER + guest, 0]
}

pub(crate) fn mem_reg(region: [u64; 4]) -> Vec<u8> {
    u64s(&[&[0], &region[..]].concat())
}

pub(crate) fn mem_table(regions: &[[u64; 4]]) -> Vec<u8> {
    [u32s(&[regions.len() as u32, 0]), u64s(&regions.concat())].concat()
}

/// A ring whose areas lie in the page at guest address `at` (descriptors), `at + 0x1000` (driver) and
/// `at + 0x2000` (device).
pub(crate) fn vring_addr(index: u32, log: bool, at: u64) -> Vec<u8> {
    let addresses = u64s(&[USER + at, USER + at + 0x2000, USER + at + 0x1000, at + 0x2000]);
    [u32s(&[index, log.into()]), addresses].concat()
}

/// A session and the front-end's side of it.
pub(crate) struct Wire {
    pub(crate) session: Session,
}

impl Wire {
    /// A connection just made.
    pub(crate) fn fresh() -> Self {
        Self { session: Session::new(offer()) }
    }

    /// A connection with all protocol features, `features` on top of those, and 16 MiB of guest memory at 0.
    pub(crate) fn negotiated(features: u64) -> Self {
        let mut wire = Self::fresh();
        wire.quiet(16, &u64s(&[ProtocolFeatures::all().bits()]), vec![]);
        wire.quiet(2, &u64s(&[features | PROTOCOL]), vec![]);
        wire.quiet(5, &mem_table(&[region(0, 16 * MIB)]), vec![memfd(16 * MIB)]);
        wire
    }

    /// Sends a message without asking for a reply; returns the first event, which is in hand then.
    pub(crate) fn event(
        &mut self,
        id: u32,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Event>, FrontendFault> {
        self.session.receive(&message(id, 1, payload), fds)?;
        self.session.next_event()
    }

    /// Sends a message; finishes all its events as done.
    pub(crate) fn quiet(&mut self, id: u32, payload: &[u8], fds: Vec<OwnedFd>) {
        self.try_quiet(id, payload, fds).unwrap();
    }

    pub(crate) fn try_quiet(
        &mut self,
        id: u32,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), FrontendFault> {
        let mut event = self.event(id, payload, fds)?;
        while event.is_some() {
            self.session.finish(Outcome::Done);
            event = self.session.next_event()?;
        }
        Ok(())
    }

    pub(crate) fn fault(&mut self, id: u32, payload: &[u8], fds: Vec<OwnedFd>) -> FrontendFault {
        let fault = self.try_quiet(id, payload, fds).unwrap_err();
        // Whatever comes afterwards, the session only repeats it.
        assert_eq!(self.session.next_event().unwrap_err(), fault);
        assert_eq!(self.session.receive(&[0], vec![]).unwrap_err(), fault);
        assert_eq!(self.session.wanted(), 0);
        fault
    }

    /// Sends a message that is answered without the host; returns the reply's payload.
    pub(crate) fn ask(&mut self, id: u32, payload: &[u8]) -> Vec<u8> {
        assert!(self.event(id, payload, vec![]).unwrap().is_none());
        self.reply(id).unwrap()
    }

    /// Sends a message that asks for an acknowledgement; returns its value.
    pub(crate) fn acknowledged(&mut self, id: u32, payload: &[u8], fds: Vec<OwnedFd>) -> u64 {
        self.session.receive(&message(id, 9, payload), fds).unwrap();
        while self.session.next_event().unwrap().is_some() {
            assert_eq!(self.reply(id), None, "acknowledged before the host had finished");
            self.session.finish(Outcome::Done);
        }
        let reply = self.reply(id).unwrap();
        u64::from_ne_bytes(reply.try_into().unwrap())
    }

    /// The payload of the reply that waits to be sent, which must be one to `id`.
    pub(crate) fn reply(&mut self, id: u32) -> Option<Vec<u8>> {
        let outgoing = self.session.next_outgoing()?;
        assert_eq!(outgoing.channel, Channel::Main);
        let (header, payload) = outgoing.bytes.split_at(12);
        assert_eq!(header, &message(id, 5, payload)[..12]);
        Some(payload.to_vec())
    }

    /// Says everything about ring `index` but its kick.
    pub(crate) fn describe_ring(&mut self, index: u32, at: u64, base: u32) {
        self.quiet(8, &u32s(&[index, 256]), vec![]);
        self.quiet(10, &u32s(&[index, base]), vec![]);
        self.quiet(9, &vring_addr(index, false, at), vec![]);
    }

    /// A ring that runs.
    pub(crate) fn start_ring(&mut self, index: u32, at: u64) {
        self.describe_ring(index, at, 0);
        let event = self.event(12, &u64s(&[index.into()]), vec![eventfd()]).unwrap();
        assert!(matches!(event, Some(Event::QueueStart(start)) if u32::from(start.index) == index));
        self.session.finish(Outcome::Done);
        assert!(self.session.next_event().unwrap().is_none());
    }
}
