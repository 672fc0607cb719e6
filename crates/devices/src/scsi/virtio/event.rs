//! The event queue: what a device tells its driver unasked (virtio 1.3 §5.6.6.3).

use super::address::Address;
use super::features::{Acknowledged, Features};
use crate::scsi::data::Bytes;
use crate::scsi::sense::Asc;
use std::collections::VecDeque;
use virtqueue::Endian;

/// Bytes of an event.
pub const EVENT_LEN: usize = 16;
/// Events that wait for a buffer at most; of more, the driver learns only that they were lost.
pub const EVENTS_MAX: usize = 64;

const NO_EVENT: u32 = 0;
const TRANSPORT_RESET: u32 = 1;
const ASYNC_NOTIFY: u32 = 2;
const PARAM_CHANGE: u32 = 3;
/// Set in `event`: some were lost before this one.
const EVENTS_MISSED: u32 = 1 << 31;

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A unit was reset and is still there.
    HardReset(Address),
    /// A unit has appeared. Needs HOTPLUG.
    Rescan(Address),
    /// A unit has gone. Needs HOTPLUG.
    Removed(Address),
    /// Something happened that the driver has subscribed to.
    AsyncNotify(Address, u32),
    /// Parameters of a unit have changed: the unit attention that says the same. Needs CHANGE.
    ParamChange(Address, Asc),
}

impl Event {
    /// Whether a driver with these features is to be told.
    fn is_for(&self, acknowledged: Acknowledged) -> bool {
        match self {
            Self::Rescan(_) | Self::Removed(_) => acknowledged.has(Features::HOTPLUG),
            Self::ParamChange(..) => acknowledged.has(Features::CHANGE),
            Self::HardReset(_) | Self::AsyncNotify(..) => true,
        }
    }

    /// `event`, `lun` and `reason`.
    fn fields(self) -> (u32, [u8; 8], u32) {
        match self {
            Self::HardReset(address) => (TRANSPORT_RESET, address.bytes(), 0),
            Self::Rescan(address) => (TRANSPORT_RESET, address.bytes(), 1),
            Self::Removed(address) => (TRANSPORT_RESET, address.bytes(), 2),
            Self::AsyncNotify(address, events) => (ASYNC_NOTIFY, address.bytes(), events),
            Self::ParamChange(address, asc) => {
                (PARAM_CHANGE, address.bytes(), u32::from(asc.code()) | u32::from(asc.qualifier()) << 8)
            }
        }
    }
}

/// The events that one driver is still to be told.
#[derive(Clone, Debug)]
pub struct Events {
    acknowledged: Acknowledged,
    endian: Endian,
    waiting: VecDeque<Event>,
    missed: bool,
}

impl Events {
    /// None yet. `endian` is big only for a legacy big-endian driver.
    pub fn new(acknowledged: Acknowledged, endian: Endian) -> Self {
        Self { acknowledged, endian, waiting: VecDeque::new(), missed: false }
    }

    /// Puts an event in line, unless the driver did not acknowledge the feature that it belongs to.
    pub fn push(&mut self, event: Event) {
        if !event.is_for(self.acknowledged) {
            return;
        }
        if self.waiting.len() == EVENTS_MAX {
            self.missed = true;
        } else {
            self.waiting.push_back(event);
        }
    }

    /// Whether a buffer would be used.
    pub fn has_waiting(&self) -> bool {
        self.missed || !self.waiting.is_empty()
    }

    /// Writes the next event into a buffer; returns the bytes written. Without anything to tell, the buffer is not to be used: `None`.
    /// One that is too short for an event gets nothing and costs the event, which counts as lost.
    pub fn fill(&mut self, buffer: Bytes<'_>) -> Option<u32> {
        if !self.has_waiting() {
            return None;
        }
        let next = self.waiting.pop_front();
        if buffer.len() < EVENT_LEN {
            self.missed = true;
            return Some(0);
        }
        let (event, lun, reason) = next.map_or((NO_EVENT, [0; 8], 0), Event::fields);
        let event = event | if self.missed { EVENTS_MISSED } else { 0 };
        self.missed = false;
        let emit = |word: u32| match self.endian {
            Endian::Little => word.to_le_bytes(),
            Endian::Big => word.to_be_bytes(),
        };
        let mut bytes = [0; EVENT_LEN];
        bytes[..4].copy_from_slice(&emit(event));
        bytes[4..12].copy_from_slice(&lun);
        bytes[12..].copy_from_slice(&emit(reason));
        Some(buffer.write(0, &bytes) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::{IMPLEMENTED, Offered};
    use super::*;
    use guestmem::MemSlice;

    fn events(features: Features, endian: Endian) -> Events {
        Events::new(Acknowledged::new(Offered::new(IMPLEMENTED), features.bits()).unwrap(), endian)
    }

    fn next(events: &mut Events) -> Option<[u8; EVENT_LEN]> {
        let mut bytes = [0xEE; EVENT_LEN];
        let (left, right) = bytes.split_at_mut(5);
        let written = events.fill(Bytes::Slices(&[MemSlice::from_mut(left), MemSlice::from_mut(right)]))?;
        assert_eq!(written as usize, EVENT_LEN);
        Some(bytes)
    }

    const UNIT: Address = Address::Unit { target: 2, lun: 3 };

    #[test]
    fn each_kind_in_both_byte_orders() {
        let mut all = events(IMPLEMENTED, Endian::Little);
        for event in [
            Event::HardReset(UNIT),
            Event::Rescan(UNIT),
            Event::Removed(UNIT),
            Event::AsyncNotify(UNIT, 0x10),
            Event::ParamChange(UNIT, Asc::CAPACITY_CHANGED),
        ] {
            all.push(event);
        }
        for (event, reason) in [(1, [0, 0]), (1, [1, 0]), (1, [2, 0]), (2, [0x10, 0]), (3, [0x2A, 9])] {
            let expected = [event, 0, 0, 0, 1, 2, 0x40, 3, 0, 0, 0, 0, reason[0], reason[1], 0, 0];
            assert_eq!(next(&mut all), Some(expected));
        }
        assert_eq!(next(&mut all), None);
        let mut big = events(IMPLEMENTED, Endian::Big);
        big.push(Event::ParamChange(UNIT, Asc::CAPACITY_CHANGED));
        assert_eq!(next(&mut big), Some([0, 0, 0, 3, 1, 2, 0x40, 3, 0, 0, 0, 0, 0, 0, 9, 0x2A]));
    }

    #[test]
    fn a_driver_is_told_what_it_asked_for() {
        let mut none = events(Features::empty(), Endian::Little);
        none.push(Event::Rescan(UNIT));
        none.push(Event::Removed(UNIT));
        none.push(Event::ParamChange(UNIT, Asc::CAPACITY_CHANGED));
        assert!(!none.has_waiting());
        none.push(Event::HardReset(UNIT));
        assert!(next(&mut none).is_some());
    }

    #[test]
    fn lost_events_are_owned_up_to() {
        let mut events = events(IMPLEMENTED, Endian::Little);
        for _ in 0..=EVENTS_MAX {
            events.push(Event::Rescan(UNIT));
        }
        assert_eq!(next(&mut events).unwrap()[..4], [1, 0, 0, 0x80]);
        assert_eq!(next(&mut events).unwrap()[..4], [1, 0, 0, 0]);
        // A buffer too short for an event loses one.
        let mut short = [0xEE; EVENT_LEN - 1];
        assert_eq!(events.fill(Bytes::Slices(&[MemSlice::from_mut(&mut short)])), Some(0));
        assert_eq!(short, [0xEE; EVENT_LEN - 1]);
        assert_eq!(next(&mut events).unwrap()[3], 0x80);
        while next(&mut events).is_some() {}
        events.push(Event::Removed(UNIT));
        assert_eq!(events.fill(Bytes::EMPTY), Some(0));
        assert_eq!(next(&mut events), Some([0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!events.has_waiting());
    }
}
