//! The control queue: what a driver asks its device to be, and the receive filter that follows from it.
//!
//! A request is class, command and data; the answer is one byte (virtio 1.3 §5.1.6.5). Requests change a
//! [`ControlState`], which is only values; what concerns others is returned as a [`Change`] for the caller to
//! carry out. A device whose front-end serves the control queue itself never sees a request, and its state
//! lets everything pass.

use super::features::{Acknowledged, Features, GUEST_OFFLOADS};
use super::offload::Accepts;
use bitflags::bitflags;
use guestmem::{read_segments, write_segments};
use virtqueue::{Burst, Chain, Endian};

/// Addresses kept of each table. A longer table is accepted, and lets every address of its kind pass.
pub const MAC_TABLE_MAX: usize = 64;

/// Bytes of the longest request accepted: a MAC table of more than 1300 addresses.
pub const REQUEST_LEN_MAX: usize = 8192;

/// Queue pairs that a driver can ask for at most (virtio 1.3 §5.1.6.5.5).
pub const QUEUE_PAIRS_MAX: u16 = 0x8000;

const BROADCAST: [u8; 6] = [0xFF; 6];
const VLANS: u16 = 4096;

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ack {
    /// Done.
    Ok = 0,
    /// Refused; nothing has changed.
    Error = 1,
}

/// What a request changed, for the caller to carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The answers of [`ControlState::accepts_frame`].
    Filter,
    /// The device's address.
    Mac([u8; 6]),
    /// The queue pairs in use; receive queues above are not to be filled any more.
    QueuePairs(u16),
    /// The offloads that the driver takes: `ReceiveRules::accepts` from now on.
    Offloads(Accepts),
    /// The driver has announced itself; the status bit is to be cleared.
    Announced,
}

bitflags! {
    /// Receive modes (virtio 1.3 §5.1.6.5.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Modes: u8 {
        /// Everything.
        const PROMISC = 1 << 0;
        /// All multicast.
        const ALLMULTI = 1 << 1;
        /// All unicast.
        const ALLUNI = 1 << 2;
        /// No multicast.
        const NOMULTI = 1 << 3;
        /// No unicast.
        const NOUNI = 1 << 4;
        /// No broadcast.
        const NOBCAST = 1 << 5;
    }
}

/// A bounded list of addresses.
#[derive(Clone, Debug)]
struct MacTable {
    macs: [[u8; 6]; MAC_TABLE_MAX],
    len: usize,
    is_overflown: bool,
}

impl MacTable {
    const EMPTY: Self = Self { macs: [[0; 6]; MAC_TABLE_MAX], len: 0, is_overflown: false };

    fn new(macs: &[u8]) -> Self {
        let mut table = Self::EMPTY;
        for (place, mac) in table.macs.iter_mut().zip(macs.chunks_exact(6)) {
            place.copy_from_slice(mac);
            table.len += 1;
        }
        table.is_overflown = macs.len() / 6 > MAC_TABLE_MAX;
        table
    }

    fn list(&self) -> Option<&[[u8; 6]]> {
        (!self.is_overflown).then(|| &self.macs[..self.len])
    }

    fn matches(&self, mac: [u8; 6]) -> bool {
        self.is_overflown || self.macs[..self.len].contains(&mac)
    }
}

/// What the driver of one device has asked for since its reset.
#[derive(Clone, Debug)]
pub struct ControlState {
    acknowledged: Acknowledged,
    endian: Endian,
    queue_pairs_max: u16,
    modes: Modes,
    mac: [u8; 6],
    unicast: MacTable,
    multicast: MacTable,
    /// One bit for each VLAN that passes; `None` without CTRL_VLAN, when all do.
    vlans: Option<Box<[u64; VLANS as usize / 64]>>,
    queue_pairs: u16,
    accepts: Accepts,
}

impl ControlState {
    /// The state after a reset: promiscuous until the driver says otherwise, one queue pair, every offload that
    /// was acknowledged. `endian` is the byte order of a legacy driver.
    pub fn new(acknowledged: Acknowledged, endian: Endian, mac: [u8; 6], queue_pairs_max: u16) -> Self {
        let modern = acknowledged.has(Features::VERSION_1);
        Self {
            acknowledged,
            endian: if modern { Endian::Little } else { endian },
            queue_pairs_max: queue_pairs_max.min(QUEUE_PAIRS_MAX),
            modes: Modes::PROMISC,
            mac,
            unicast: MacTable::EMPTY,
            multicast: MacTable::EMPTY,
            vlans: acknowledged.has(Features::CTRL_VLAN).then(|| Box::new([0; VLANS as usize / 64])),
            queue_pairs: 1,
            accepts: acknowledged.receive_accepts(),
        }
    }

    /// The receive modes.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// The device's address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The queue pairs in use.
    pub fn queue_pairs(&self) -> u16 {
        self.queue_pairs
    }

    /// The offloads that the driver takes now.
    pub fn accepts(&self) -> Accepts {
        self.accepts
    }

    /// Whether the driver wants frames to `destination`, carrying the VLAN tag `vlan`.
    ///
    /// The VLAN filter comes first; promiscuous mode does not switch it off, only the address filter.
    pub fn accepts_frame(&self, destination: [u8; 6], vlan: Option<u16>) -> bool {
        if let (Some(vlans), Some(vlan)) = (&self.vlans, vlan) {
            let vlan = usize::from(vlan % VLANS);
            if vlans[vlan / 64] >> (vlan % 64) & 1 == 0 {
                return false;
            }
        }
        let has = |mode| self.modes.contains(mode);
        if has(Modes::PROMISC) {
            return true;
        }
        if destination == BROADCAST {
            return !has(Modes::NOBCAST);
        }
        if destination[0] & 1 != 0 {
            return !has(Modes::NOMULTI) && (has(Modes::ALLMULTI) || self.multicast.matches(destination));
        }
        let is_ours = destination == self.mac || self.unicast.matches(destination);
        !has(Modes::NOUNI) && (has(Modes::ALLUNI) || is_ours)
    }

    /// The unicast addresses that the driver wants beside its own; `None`: more than [`MAC_TABLE_MAX`], so all.
    pub fn unicast(&self) -> Option<&[[u8; 6]]> {
        self.unicast.list()
    }

    /// The groups that the driver wants; `None`: more than [`MAC_TABLE_MAX`], so all.
    pub fn multicast(&self) -> Option<&[[u8; 6]]> {
        self.multicast.list()
    }

    /// Carries out one request: class, command, data, from a private copy. A request for another address is put to
    /// `admit` first; where that says no, it is refused.
    pub fn handle(
        &mut self,
        request: &[u8],
        admit: &mut dyn FnMut([u8; 6]) -> bool,
    ) -> (Ack, Option<Change>) {
        match self.carry_out(request, admit) {
            Some(change) => (Ack::Ok, Some(change)),
            None => (Ack::Error, None),
        }
    }

    /// Carries out the request in `chain` and writes the answer. Returns how many bytes were written, for
    /// completing the chain: zero when there is no room for an answer, and then nothing was done. `admit` as in
    /// [`Self::handle`]: what it does is done when the driver sees the answer.
    pub fn handle_chain(
        &mut self,
        burst: &Burst<'_>,
        chain: &Chain,
        admit: &mut dyn FnMut([u8; 6]) -> bool,
    ) -> (u32, Option<Change>) {
        let room = burst.writable(chain);
        if chain.writable_len() == 0 {
            return (0, None);
        }
        let mut request = [0; REQUEST_LEN_MAX];
        let len = chain.readable_len() as usize;
        let (ack, change) = match request.get_mut(..len) {
            Some(request) => {
                read_segments(burst.readable(chain), 0, request);
                self.handle(request, admit)
            }
            None => (Ack::Error, None),
        };
        (write_segments(room, 0, &[ack as u8]) as u32, change)
    }

    fn carry_out(&mut self, request: &[u8], admit: &mut dyn FnMut([u8; 6]) -> bool) -> Option<Change> {
        let (&[class, command], data) = request.split_first_chunk::<2>()?;
        match (class, command) {
            (class::RX, 0..=5) => self.set_mode(command, data),
            (class::MAC, 0) => self.set_mac_table(data),
            (class::MAC, 1) => self.set_mac(data, admit),
            (class::VLAN, 0) => self.set_vlan(data, true),
            (class::VLAN, 1) => self.set_vlan(data, false),
            (class::ANNOUNCE, 0) => self.need(Features::GUEST_ANNOUNCE).map(|()| Change::Announced),
            (class::MQ, 0) => self.set_queue_pairs(data),
            (class::GUEST_OFFLOADS, 0) => self.set_guest_offloads(data),
            _ => None,
        }
    }

    fn need(&self, features: Features) -> Option<()> {
        self.acknowledged.has(features).then_some(())
    }

    fn set_mode(&mut self, command: u8, data: &[u8]) -> Option<Change> {
        self.need(if command < 2 { Features::CTRL_RX } else { Features::CTRL_RX_EXTRA })?;
        let on = *data.first()? != 0;
        self.modes.set(Modes::from_bits(1 << command)?, on);
        Some(Change::Filter)
    }

    /// Two tables one after the other: unicast, multicast. Both or none are taken.
    fn set_mac_table(&mut self, data: &[u8]) -> Option<Change> {
        self.need(Features::CTRL_RX)?;
        let (unicast, data) = self.mac_table(data)?;
        let (multicast, _) = self.mac_table(data)?;
        (self.unicast, self.multicast) = (unicast, multicast);
        Some(Change::Filter)
    }

    fn mac_table<'a>(&self, data: &'a [u8]) -> Option<(MacTable, &'a [u8])> {
        let (count, data) = data.split_first_chunk::<4>()?;
        let count = match self.endian {
            Endian::Little => u32::from_le_bytes(*count),
            Endian::Big => u32::from_be_bytes(*count),
        };
        let (macs, data) = data.split_at_checked((count as usize).checked_mul(6)?)?;
        Some((MacTable::new(macs), data))
    }

    fn set_mac(&mut self, data: &[u8], admit: &mut dyn FnMut([u8; 6]) -> bool) -> Option<Change> {
        self.need(Features::CTRL_MAC_ADDR)?;
        let mac = *data.first_chunk::<6>()?;
        if mac[0] & 1 != 0 || mac == [0; 6] || !admit(mac) {
            return None;
        }
        self.mac = mac;
        Some(Change::Mac(mac))
    }

    fn set_vlan(&mut self, data: &[u8], passes: bool) -> Option<Change> {
        let vlan = self.word(data)?;
        let vlans = self.vlans.as_mut().filter(|_| vlan < VLANS)?;
        let (place, bit) = (&mut vlans[usize::from(vlan / 64)], 1u64 << (vlan % 64));
        *place = if passes { *place | bit } else { *place & !bit };
        Some(Change::Filter)
    }

    fn set_queue_pairs(&mut self, data: &[u8]) -> Option<Change> {
        self.need(Features::MQ)?;
        let pairs = self.word(data)?;
        if pairs == 0 || pairs > self.queue_pairs_max {
            return None;
        }
        self.queue_pairs = pairs;
        Some(Change::QueuePairs(pairs))
    }

    fn set_guest_offloads(&mut self, data: &[u8]) -> Option<Change> {
        self.need(Features::CTRL_GUEST_OFFLOADS)?;
        let bits = *data.first_chunk::<8>()?;
        let bits = match self.endian {
            Endian::Little => u64::from_le_bytes(bits),
            Endian::Big => u64::from_be_bytes(bits),
        };
        let wanted = Features::from_bits_retain(bits);
        if !(self.acknowledged.features() & GUEST_OFFLOADS).contains(wanted) {
            return None;
        }
        self.accepts = Accepts::of_guest_offloads(wanted);
        Some(Change::Offloads(self.accepts))
    }

    fn word(&self, data: &[u8]) -> Option<u16> {
        let word = *data.first_chunk::<2>()?;
        Some(match self.endian {
            Endian::Little => u16::from_le_bytes(word),
            Endian::Big => u16::from_be_bytes(word),
        })
    }
}

/// Request classes (virtio 1.3 §5.1.6.5).
mod class {
    pub(super) const RX: u8 = 0;
    pub(super) const MAC: u8 = 1;
    pub(super) const VLAN: u8 = 2;
    pub(super) const ANNOUNCE: u8 = 3;
    pub(super) const MQ: u8 = 4;
    pub(super) const GUEST_OFFLOADS: u8 = 5;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Offered;
    use crate::net::features::IMPLEMENTED;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
    const GROUP: [u8; 6] = [1, 0, 0x5E, 0, 0, 1];

    fn state(features: Features) -> ControlState {
        let acknowledged = Acknowledged::new(Offered::new(Features::all()), features.bits()).unwrap();
        ControlState::new(acknowledged, Endian::Big, MAC, 4)
    }

    fn full() -> ControlState {
        state(IMPLEMENTED | Features::VERSION_1)
    }

    #[test]
    fn an_address_that_is_not_admitted_is_refused_and_changes_nothing() {
        let mut state = full();
        let request = [&[1, 1][..], &OTHER].concat();
        let mut asked = Vec::new();
        let answer = state.handle(&request, &mut |mac| {
            asked.push(mac);
            false
        });
        assert_eq!((answer, asked, state.mac()), ((Ack::Error, None), vec![OTHER], MAC));
    }

    #[track_caller]
    fn ok(state: &mut ControlState, request: &[u8], change: Change) {
        assert_eq!(state.handle(request, &mut |_| true), (Ack::Ok, Some(change)));
    }

    #[track_caller]
    fn refused(state: &mut ControlState, request: &[u8]) {
        assert_eq!(state.handle(request, &mut |_| true), (Ack::Error, None));
    }

    #[test]
    fn after_a_reset_everything_passes() {
        let state = state(Features::empty());
        for mac in [MAC, OTHER, GROUP, BROADCAST] {
            assert!(state.accepts_frame(mac, None) && state.accepts_frame(mac, Some(5)));
        }
    }

    #[test]
    fn receive_modes() {
        let mut state = full();
        ok(&mut state, &[0, 0, 0], Change::Filter);
        let passes = |state: &ControlState| {
            [MAC, OTHER, GROUP, BROADCAST].map(|destination| state.accepts_frame(destination, None))
        };
        assert_eq!(passes(&state), [true, false, false, true]);
        for (command, expected) in [
            (1, [true, false, true, true]),
            (2, [true, true, false, true]),
            (3, [true, false, false, true]),
            (4, [false, false, false, true]),
            (5, [true, false, false, false]),
            (0, [true, true, true, true]),
        ] {
            ok(&mut state, &[0, command, 1], Change::Filter);
            assert_eq!(passes(&state), expected, "command {command}");
            ok(&mut state, &[0, command, 0], Change::Filter);
        }
        refused(&mut state, &[0, 6, 1]);
        refused(&mut state, &[0, 0]);
    }

    fn table(unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> Vec<u8> {
        let mut request = vec![1, 0];
        for macs in [unicast, multicast] {
            request.extend_from_slice(&(macs.len() as u32).to_le_bytes());
            request.extend(macs.iter().flatten());
        }
        request
    }

    #[test]
    fn mac_tables() {
        let mut state = full();
        ok(&mut state, &[0, 0, 0], Change::Filter);
        ok(&mut state, &table(&[OTHER], &[GROUP]), Change::Filter);
        assert!(state.accepts_frame(OTHER, None) && state.accepts_frame(GROUP, None));
        assert!(!state.accepts_frame([1; 6], None) && !state.accepts_frame([2; 6], None));
        let mut cut = table(&[OTHER], &[GROUP]);
        cut.pop();
        refused(&mut state, &cut);
        refused(&mut state, &[1, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
        assert!(state.accepts_frame(GROUP, None), "a refused table changes nothing");
        ok(&mut state, &table(&[], &[GROUP; MAC_TABLE_MAX + 1]), Change::Filter);
        assert!(state.accepts_frame([1; 6], None) && !state.accepts_frame(OTHER, None));
    }

    #[test]
    fn the_mac_address() {
        let mut state = full();
        ok(&mut state, &[1, 1, 0x52, 0x54, 0, 0, 0, 2], Change::Mac(OTHER));
        assert_eq!(state.mac(), OTHER);
        refused(&mut state, &[1, 1, 1, 0, 0, 0, 0, 2]);
        refused(&mut state, &[1, 1, 0, 0, 0, 0, 0, 0]);
        refused(&mut state, &[1, 1, 2, 0, 0]);
        assert_eq!(state.mac(), OTHER);
    }

    #[test]
    fn the_vlan_filter() {
        let mut state = full();
        assert!(state.accepts_frame(MAC, None) && !state.accepts_frame(MAC, Some(0x123)));
        ok(&mut state, &[2, 0, 0x23, 0x01], Change::Filter);
        assert!(state.accepts_frame(MAC, Some(0x123)) && !state.accepts_frame(MAC, Some(0x124)));
        ok(&mut state, &[2, 1, 0x23, 0x01], Change::Filter);
        assert!(!state.accepts_frame(MAC, Some(0x123)));
        ok(&mut state, &[2, 0, 0xFF, 0x0F], Change::Filter);
        assert!(state.accepts_frame(MAC, Some(4095)));
        refused(&mut state, &[2, 0, 0x00, 0x10]);
    }

    #[test]
    fn queue_pairs_and_announcement() {
        let mut state = full();
        ok(&mut state, &[4, 0, 4, 0], Change::QueuePairs(4));
        refused(&mut state, &[4, 0, 0, 0]);
        refused(&mut state, &[4, 0, 5, 0]);
        refused(&mut state, &[4, 1, 1, 0]);
        assert_eq!(state.queue_pairs(), 4);
        ok(&mut state, &[3, 0], Change::Announced);
    }

    #[test]
    fn offloads_can_only_be_turned_on_if_they_were_negotiated() {
        let mut state = state(
            Features::CTRL_GUEST_OFFLOADS | Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::VERSION_1,
        );
        let request = |features: Features| [&[5, 0][..], &features.bits().to_le_bytes()].concat();
        assert_eq!(state.accepts(), Accepts::CSUM | Accepts::TSO4);
        ok(&mut state, &request(Features::empty()), Change::Offloads(Accepts::empty()));
        ok(&mut state, &request(Features::GUEST_CSUM), Change::Offloads(Accepts::CSUM));
        refused(&mut state, &request(Features::GUEST_TSO6));
        // Negotiated, but no receive offload.
        refused(&mut state, &request(Features::CTRL_GUEST_OFFLOADS));
        assert_eq!(state.accepts(), Accepts::CSUM);
    }

    #[test]
    fn nothing_without_its_feature() {
        let mut state = state(Features::VERSION_1);
        let requests: [&[u8]; 8] = [
            &[0, 0, 1],
            &[0, 2, 1],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 2, 0, 0, 0, 0, 0],
            &[2, 0, 1, 0],
            &[3, 0],
            &[4, 0, 1, 0],
            &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for request in requests {
            refused(&mut state, request);
        }
        refused(&mut state, &[]);
        refused(&mut state, &[0]);
    }

    #[test]
    fn legacy_drivers_use_their_own_byte_order() {
        let mut state = state(Features::MQ | Features::CTRL_VLAN);
        ok(&mut state, &[4, 0, 0, 3], Change::QueuePairs(3));
        ok(&mut state, &[2, 0, 1, 2], Change::Filter);
        assert!(state.accepts_frame(MAC, Some(0x102)));
    }

    proptest! {
        #[test]
        fn no_request_does_harm(requests in prop::collection::vec(prop::collection::vec(0u8..8, 0..40), 0..20)) {
            let mut state = full();
            for request in &requests {
                let (ack, change) = state.handle(request, &mut |_| true);
                prop_assert_eq!(ack == Ack::Ok, change.is_some());
                state.accepts_frame(OTHER, Some(7));
            }
            prop_assert!((1..=4).contains(&state.queue_pairs()));
            prop_assert_eq!(state.mac()[0] & 1, 0);
        }
    }
}
