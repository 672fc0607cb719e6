//! Persistent reservations: who is registered, who holds what, and what that forbids others (SPC-4 §5.12).
//!
//! The state is a plain value. The host keeps it where it survives a loss of power while [`Reservations::aptpl`] is set, and
//! gives it back to the unit that it makes later.

use super::nexus::InitiatorId;
use super::opcode::Access;
use super::sense::{Asc, Sense};
use super::status::Refusal;

/// Registrations of one unit at most.
pub const REGISTRATIONS_MAX: usize = 128;

/// PERSISTENT RESERVATION TYPE (SPC-4 table 170).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ReservationType {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// Only registrants write.
    WriteExclusiveRegistrantsOnly = 5,
    /// Only registrants read and write.
    ExclusiveAccessRegistrantsOnly = 6,
    /// As 5, and every registrant is a holder.
    WriteExclusiveAllRegistrants = 7,
    /// As 6, and every registrant is a holder.
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// The type of this code.
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == code)
    }

    fn is_write_exclusive(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants
        )
    }

    /// Registrants may do what the holder may.
    fn is_for_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    pub(super) fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }
}

/// One initiator's registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Who.
    pub initiator: InitiatorId,
    /// Its reservation key; never zero.
    pub key: u64,
    /// Made with ALL_TG_PT.
    pub all_target_ports: bool,
}

/// A reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Who made it. With an all registrants type it says nothing: all of them hold it.
    pub holder: InitiatorId,
    /// Its type.
    pub kind: ReservationType,
}

/// The persistent reservations of one unit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reservations {
    /// PRGENERATION: counts changes of registrations since the unit was made.
    pub generation: u32,
    /// They survive a loss of power.
    pub aptpl: bool,
    /// In the order of registering; at most [`REGISTRATIONS_MAX`], one for each initiator.
    pub registrations: Vec<Registration>,
    /// The reservation; its holder is registered.
    pub reservation: Option<Reservation>,
}

/// Whom a change concerns, beside the one who made it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Consequences {
    /// Unit attentions.
    pub(super) attentions: Vec<(InitiatorId, Asc)>,
    /// Who lost its registration by a preempting.
    pub(super) preempted: Vec<InitiatorId>,
}

impl Reservations {
    /// What is left after a loss of power: everything with APTPL, else nothing. Counting begins anew. A value that breaks a rule of
    /// this type's fields becomes nothing, too.
    #[must_use]
    pub fn after_power_loss(&self) -> Self {
        let keys = &self.registrations;
        let is_single = |(index, one): (usize, &Registration)| {
            one.key != 0 && keys[..index].iter().all(|other| other.initiator != one.initiator)
        };
        let is_held = self.reservation.is_none_or(|reservation| {
            if reservation.kind.is_all_registrants() {
                !keys.is_empty()
            } else {
                self.key(reservation.holder).is_some()
            }
        });
        let is_sound = keys.len() <= REGISTRATIONS_MAX && keys.iter().enumerate().all(is_single) && is_held;
        if self.aptpl && is_sound { Self { generation: 0, ..self.clone() } } else { Self::default() }
    }

    /// The key of an initiator; `None`: not registered.
    pub fn key(&self, initiator: InitiatorId) -> Option<u64> {
        self.registrations.iter().find(|one| one.initiator == initiator).map(|one| one.key)
    }

    /// Whether `initiator` holds the reservation.
    pub fn holds(&self, initiator: InitiatorId) -> bool {
        self.reservation.is_some_and(|reservation| match reservation.kind.is_all_registrants() {
            true => self.key(initiator).is_some(),
            false => reservation.holder == initiator,
        })
    }

    /// Whether a command of `initiator` that does `access` is allowed (SPC-4 table 66, SBC-3 table 13).
    pub fn allows(&self, initiator: InitiatorId, access: Access) -> bool {
        let Some(Reservation { kind, .. }) = self.reservation else { return true };
        match access {
            Access::Always | Access::Query | Access::Own => true,
            _ if self.holds(initiator) => true,
            _ if kind.is_for_registrants() && self.key(initiator).is_some() => true,
            Access::Read => kind.is_write_exclusive(),
            Access::Write | Access::Prevent | Access::StartStop => false,
        }
    }

    /// REGISTER and REGISTER AND IGNORE EXISTING KEY: sets, changes or (zero) removes the keys of `initiators`.
    pub(super) fn register(
        &mut self,
        initiators: &[InitiatorId],
        key: u64,
        all_target_ports: bool,
    ) -> Result<Consequences, Refusal> {
        let fresh = initiators.iter().filter(|initiator| self.key(**initiator).is_none()).count();
        if key != 0 && self.registrations.len() + fresh > REGISTRATIONS_MAX {
            return Err(Sense::illegal(Asc::INSUFFICIENT_REGISTRATIONS).into());
        }
        let mut consequences = Consequences::default();
        for &initiator in initiators {
            match (self.registrations.iter().position(|one| one.initiator == initiator), key) {
                (None, 0) => {}
                (None, _) => self.registrations.push(Registration { initiator, key, all_target_ports }),
                (Some(_), 0) => self.unregister(initiator, &mut consequences),
                (Some(index), _) => {
                    self.registrations[index] = Registration { initiator, key, all_target_ports };
                }
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(consequences)
    }

    /// Removes a registration, and with it the reservation if its last holder goes (SPC-4 §5.12.11.3).
    fn unregister(&mut self, initiator: InitiatorId, consequences: &mut Consequences) {
        let was_holder = self.holds(initiator);
        self.registrations.retain(|one| one.initiator != initiator);
        let Some(Reservation { kind, .. }) = self.reservation.filter(|_| was_holder) else { return };
        if kind.is_all_registrants() && !self.registrations.is_empty() {
            return;
        }
        self.reservation = None;
        if kind.is_for_registrants() {
            self.tell_others(initiator, Asc::RESERVATIONS_RELEASED, consequences);
        }
    }

    /// RESERVE.
    pub(super) fn reserve(&mut self, initiator: InitiatorId, kind: ReservationType) -> Result<(), Refusal> {
        match self.reservation {
            None => self.reservation = Some(Reservation { holder: initiator, kind }),
            Some(current) if self.holds(initiator) && current.kind == kind => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(())
    }

    /// RELEASE.
    pub(super) fn release(
        &mut self,
        initiator: InitiatorId,
        scope: u8,
        kind: u8,
    ) -> Result<Consequences, Refusal> {
        let mut consequences = Consequences::default();
        let Some(current) = self.reservation.filter(|_| self.holds(initiator)) else {
            return Ok(consequences);
        };
        if scope != 0 || current.kind as u8 != kind {
            return Err(Sense::illegal(Asc::INVALID_RELEASE).into());
        }
        self.reservation = None;
        if current.kind.is_for_registrants() {
            self.tell_others(initiator, Asc::RESERVATIONS_RELEASED, &mut consequences);
        }
        Ok(consequences)
    }

    /// CLEAR.
    pub(super) fn clear(&mut self, initiator: InitiatorId) -> Consequences {
        let mut consequences = Consequences::default();
        self.tell_others(initiator, Asc::RESERVATIONS_PREEMPTED, &mut consequences);
        self.registrations.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        consequences
    }

    /// PREEMPT and PREEMPT AND ABORT: removes the registrations with this key, and takes the reservation if it is among them
    /// (SPC-4 §5.12.11.4). The registration of the preempting initiator stays.
    pub(super) fn preempt(
        &mut self,
        initiator: InitiatorId,
        key: u64,
        scope: u8,
        kind: u8,
    ) -> Result<Consequences, Refusal> {
        let is_all = self.reservation.is_some_and(|current| current.kind.is_all_registrants());
        let holder_key = self.reservation.filter(|_| !is_all).and_then(|current| self.key(current.holder));
        let takes_over = if is_all { key == 0 } else { holder_key == Some(key) };
        if key == 0 && !is_all {
            return Err(Sense::parameter(8).into());
        }
        let is_meant = |one: &Registration| key == 0 || one.key == key;
        if !takes_over && !self.registrations.iter().any(is_meant) {
            return Err(Refusal::Conflict);
        }
        let replacement = if takes_over { Some(reservation_type(scope, kind)?) } else { None };
        let mut consequences = Consequences::default();
        for one in self.registrations.iter().filter(|one| is_meant(one) && one.initiator != initiator) {
            consequences.attentions.push((one.initiator, Asc::REGISTRATIONS_PREEMPTED));
            consequences.preempted.push(one.initiator);
        }
        self.registrations.retain(|one| !is_meant(one) || one.initiator == initiator);
        if let Some(kind) = replacement {
            let before = self.reservation.replace(Reservation { holder: initiator, kind });
            // Those that keep their registration but see another type of reservation.
            if before.is_some_and(|before| before.kind != kind && before.kind.is_for_registrants()) {
                self.tell_others(initiator, Asc::RESERVATIONS_RELEASED, &mut consequences);
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(consequences)
    }

    /// REGISTER AND MOVE: `to` gets the reservation, and a registration with `key`.
    pub(super) fn register_and_move(
        &mut self,
        initiator: InitiatorId,
        to: InitiatorId,
        key: u64,
        unregister: bool,
    ) -> Result<(), Refusal> {
        let current = self.reservation.filter(|_| self.holds(initiator)).ok_or(Refusal::Conflict)?;
        if current.kind.is_all_registrants() {
            return Err(Refusal::Conflict);
        }
        self.register(&[to], key, false)?;
        self.reservation = Some(Reservation { holder: to, ..current });
        if unregister {
            self.registrations.retain(|one| one.initiator != initiator);
        }
        Ok(())
    }

    fn tell_others(&self, initiator: InitiatorId, asc: Asc, consequences: &mut Consequences) {
        let others = self.registrations.iter().filter(|one| one.initiator != initiator);
        consequences.attentions.extend(others.map(|one| (one.initiator, asc)));
    }
}

/// SCOPE and TYPE of a CDB: the whole unit is the only scope that there is.
pub(super) fn reservation_type(scope: u8, kind: u8) -> Result<ReservationType, Refusal> {
    if scope != 0 {
        return Err(Sense::cdb(2, 7).into());
    }
    ReservationType::of_code(kind).ok_or(Sense::cdb(2, 3).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: InitiatorId = InitiatorId(1);
    const REGISTRANT: InitiatorId = InitiatorId(2);
    const STRANGER: InitiatorId = InitiatorId(3);

    fn held(kind: ReservationType) -> Reservations {
        let mut state = Reservations::default();
        state.register(&[HOLDER], 0x10, false).unwrap();
        state.register(&[REGISTRANT], 0x20, false).unwrap();
        state.reserve(HOLDER, kind).unwrap();
        state
    }

    /// SPC-4 table 66 and SBC-3 table 13, by hand: what a registrant and a stranger may do under each type.
    #[test]
    fn who_may_do_what_under_which_type() {
        use Access::{Always, Prevent, Query, Read, Write};
        for (kind, registrant, stranger) in [
            (ReservationType::WriteExclusive, [true, false], [true, false]),
            (ReservationType::ExclusiveAccess, [false, false], [false, false]),
            (ReservationType::WriteExclusiveRegistrantsOnly, [true, true], [true, false]),
            (ReservationType::ExclusiveAccessRegistrantsOnly, [true, true], [false, false]),
            (ReservationType::WriteExclusiveAllRegistrants, [true, true], [true, false]),
            (ReservationType::ExclusiveAccessAllRegistrants, [true, true], [false, false]),
        ] {
            let state = held(kind);
            for access in [Always, Query, Read, Write, Prevent, Access::StartStop] {
                assert!(state.allows(HOLDER, access));
                for (who, [reads, writes]) in [(REGISTRANT, registrant), (STRANGER, stranger)] {
                    let expected = match access {
                        Always | Query => true,
                        Read => reads,
                        _ => writes,
                    };
                    assert_eq!(state.allows(who, access), expected, "{kind:?} {who:?} {access:?}");
                }
            }
            assert_eq!(state.holds(REGISTRANT), kind.is_all_registrants());
        }
    }

    #[test]
    fn a_holder_that_leaves_releases() {
        for kind in ReservationType::ALL {
            let mut state = held(kind);
            let consequences = state.register(&[HOLDER], 0, false).unwrap();
            if kind.is_all_registrants() {
                assert!(state.reservation.is_some() && consequences == Consequences::default());
                state.register(&[REGISTRANT], 0, false).unwrap();
            } else {
                let told = kind.is_for_registrants();
                let expected = [(REGISTRANT, Asc::RESERVATIONS_RELEASED)];
                assert_eq!(consequences.attentions, expected[..usize::from(told)]);
            }
            assert_eq!(state.reservation, None);
        }
    }

    #[test]
    fn preempting_a_holder_takes_its_place() {
        let mut state = held(ReservationType::WriteExclusive);
        let consequences = state.preempt(REGISTRANT, 0x10, 0, 3).unwrap();
        assert_eq!(consequences.preempted, [HOLDER]);
        assert_eq!(consequences.attentions, [(HOLDER, Asc::REGISTRATIONS_PREEMPTED)]);
        assert!(state.holds(REGISTRANT) && state.key(HOLDER).is_none());
        assert_eq!(state.generation, 3);
        // One who was not there.
        assert_eq!(state.preempt(REGISTRANT, 0x99, 0, 3), Err(Refusal::Conflict));
        assert_eq!(state.preempt(REGISTRANT, 0, 0, 3), Err(Sense::parameter(8).into()));
        // Itself: only the type changes.
        state.preempt(REGISTRANT, 0x20, 0, 1).unwrap();
        assert_eq!(state.reservation.unwrap().kind, ReservationType::WriteExclusive);
    }

    #[test]
    fn preempting_a_registrant_leaves_the_reservation() {
        let mut state = held(ReservationType::ExclusiveAccessRegistrantsOnly);
        state.preempt(HOLDER, 0x20, 0, 0).unwrap();
        assert!(state.holds(HOLDER) && state.key(REGISTRANT).is_none());
        let mut state = held(ReservationType::WriteExclusiveAllRegistrants);
        state.preempt(REGISTRANT, 0, 0, 8).unwrap();
        assert_eq!(state.registrations.len(), 1);
        assert_eq!(state.reservation.unwrap().kind, ReservationType::ExclusiveAccessAllRegistrants);
        assert_eq!(state.preempt(REGISTRANT, 0, 0, 2), Err(Sense::cdb(2, 3).into()));
        assert_eq!(state.preempt(REGISTRANT, 0, 1, 1), Err(Sense::cdb(2, 7).into()));
    }

    #[test]
    fn registrations_are_bounded() {
        let mut state = Reservations::default();
        for index in 0..REGISTRATIONS_MAX as u64 {
            state.register(&[InitiatorId(index)], 1, false).unwrap();
        }
        let full = Err(Sense::illegal(Asc::INSUFFICIENT_REGISTRATIONS).into());
        assert_eq!(state.register(&[InitiatorId(1000)], 1, false), full);
        assert!(state.register(&[InitiatorId(0)], 2, false).is_ok());
    }

    #[test]
    fn what_survives_a_loss_of_power() {
        let mut state = held(ReservationType::WriteExclusive);
        assert_eq!(state.after_power_loss(), Reservations::default());
        state.aptpl = true;
        let after = state.after_power_loss();
        assert_eq!((after.generation, &after.registrations), (0, &state.registrations));
        assert!(after.holds(HOLDER));
        state.registrations.remove(0);
        assert_eq!(state.after_power_loss(), Reservations::default());
    }
}
