//! I_T nexuses: an initiator as a target knows it, and what each is still to be told.

use super::sense::Asc;

/// Nexuses of one target at most.
pub const NEXUSES_MAX: usize = 64;

/// Unit attentions kept for one nexus; of more, the newest are lost, as SAM-5 §5.14.1 allows.
const ATTENTIONS_MAX: usize = 8;

/// Bytes of a TransportID as this target makes them (SPC-4 §7.6.4.5).
pub const TRANSPORT_ID_LEN: usize = 24;

/// One connection of an initiator to a target: a small index, given by the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nexus(u8);

impl Nexus {
    /// The nexus of this index, below [`NEXUSES_MAX`].
    pub fn new(index: usize) -> Option<Self> {
        (index < NEXUSES_MAX).then_some(Self(index as u8))
    }

    /// The index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of nexuses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NexusSet(u64);

impl NexusSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// Adds one.
    pub fn insert(&mut self, nexus: Nexus) {
        self.0 |= 1 << nexus.0;
    }

    /// Whether it is in the set.
    pub fn contains(self, nexus: Nexus) -> bool {
        self.0 >> nexus.0 & 1 != 0
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The lasting name of an initiator port: 64 bits, the same after a restart of either side.
///
/// Reservations that outlive a connection are kept under it. On the wire it is a SAS TransportID, since SPC knows none for
/// virtio and every program reads that one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InitiatorId(pub u64);

impl InitiatorId {
    /// The TransportID: protocol identifier 6h, the name at byte 4.
    pub fn transport_id(self) -> [u8; TRANSPORT_ID_LEN] {
        let mut bytes = [0; TRANSPORT_ID_LEN];
        bytes[0] = 0x06;
        bytes[4..12].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }

    /// The name in a TransportID; `None` if it is of another kind.
    pub fn of_transport_id(bytes: &[u8; TRANSPORT_ID_LEN]) -> Option<Self> {
        let name = bytes[4..].first_chunk().copied().map(u64::from_be_bytes).map(Self)?;
        (name.transport_id() == *bytes).then_some(name)
    }
}

/// What a unit keeps for one nexus.
#[derive(Clone, Debug)]
pub(super) struct NexusState {
    pub(super) nexus: Nexus,
    pub(super) initiator: InitiatorId,
    /// It prevents the removal of the medium.
    pub(super) prevents: bool,
    attentions: [Asc; ATTENTIONS_MAX],
    pending: usize,
}

impl NexusState {
    pub(super) fn new(nexus: Nexus, initiator: InitiatorId) -> Self {
        let mut state =
            Self { nexus, initiator, prevents: false, attentions: [Asc::NONE; ATTENTIONS_MAX], pending: 0 };
        state.attend(Asc::POWER_ON);
        state
    }

    /// Puts a unit attention in line. One that waits already is not added again; a reset takes the place of all that wait.
    pub(super) fn attend(&mut self, asc: Asc) {
        if asc.code() == Asc::RESET_OCCURRED.code() {
            self.pending = 0;
        }
        if self.attentions[..self.pending].contains(&asc) {
            return;
        }
        if let Some(place) = self.attentions.get_mut(self.pending) {
            *place = asc;
            self.pending += 1;
        }
    }

    /// Takes the oldest unit attention.
    pub(super) fn take_attention(&mut self) -> Option<Asc> {
        let first = *self.attentions[..self.pending].first()?;
        self.attentions.copy_within(1..self.pending, 0);
        self.pending -= 1;
        Some(first)
    }

    /// Forgets one: the initiator has learned of it.
    pub(super) fn forget(&mut self, asc: Asc) {
        let mut kept = 0;
        for index in 0..self.pending {
            if self.attentions[index] != asc {
                self.attentions[kept] = self.attentions[index];
                kept += 1;
            }
        }
        self.pending = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(state: &mut NexusState) -> Vec<Asc> {
        std::iter::from_fn(|| state.take_attention()).collect()
    }

    #[test]
    fn attentions_come_once_and_in_order() {
        let mut state = NexusState::new(Nexus::new(0).unwrap(), InitiatorId(1));
        state.attend(Asc::CAPACITY_CHANGED);
        state.attend(Asc::LUNS_CHANGED);
        state.attend(Asc::CAPACITY_CHANGED);
        assert_eq!(drained(&mut state), [Asc::POWER_ON, Asc::CAPACITY_CHANGED, Asc::LUNS_CHANGED]);
        for asc in 0..20 {
            state.attend(Asc(0x3F00 + asc));
        }
        state.forget(Asc(0x3F01));
        assert_eq!(drained(&mut state).len(), ATTENTIONS_MAX - 1);
        state.attend(Asc::LUNS_CHANGED);
        state.attend(Asc::DEVICE_RESET);
        assert_eq!(drained(&mut state), [Asc::DEVICE_RESET]);
    }

    #[test]
    fn names_survive_the_wire() {
        let id = InitiatorId(0x3012_3456_789A_BCDE);
        let mut bytes = id.transport_id();
        assert_eq!(InitiatorId::of_transport_id(&bytes), Some(id));
        bytes[20] = 1;
        assert_eq!(InitiatorId::of_transport_id(&bytes), None);
        assert!(Nexus::new(NEXUSES_MAX).is_none());
    }
}
