//! PERSISTENT RESERVE IN and OUT: bytes of their parameters (SPC-4 §6.15, §6.16).

use super::nexus::{InitiatorId, TRANSPORT_ID_LEN};
use super::opcode::Cdb;
use super::reservation::{Consequences, Reservations, reservation_type};
use super::sense::{Asc, Sense};
use super::status::Refusal;

/// Service actions of PERSISTENT RESERVE IN.
mod action_in {
    pub(super) const READ_KEYS: u8 = 0;
    pub(super) const READ_RESERVATION: u8 = 1;
    pub(super) const REPORT_CAPABILITIES: u8 = 2;
}

/// Service actions of PERSISTENT RESERVE OUT.
mod action_out {
    pub(super) const REGISTER: u8 = 0;
    pub(super) const RESERVE: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const CLEAR: u8 = 3;
    pub(super) const PREEMPT: u8 = 4;
    pub(super) const PREEMPT_AND_ABORT: u8 = 5;
    pub(super) const REGISTER_AND_IGNORE: u8 = 6;
    pub(super) const REGISTER_AND_MOVE: u8 = 7;
}

/// Bytes of the parameter list without TransportIDs.
const LIST_LEN: usize = 24;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;
const UNREG: u8 = 0x02;

/// Bytes of the longest parameter list: a TransportID for as many initiators as a target can have.
pub(super) const LIST_LEN_MAX: usize = LIST_LEN + 4 + super::nexus::NEXUSES_MAX * TRANSPORT_ID_LEN;

/// Answers PERSISTENT RESERVE IN.
pub(super) fn reserve_in(cdb: &Cdb, state: &Reservations, answer: &mut Vec<u8>) {
    match cdb.u8(1) & 0x1F {
        action_in::READ_KEYS => {
            answer.extend_from_slice(&state.generation.to_be_bytes());
            answer.extend_from_slice(&(state.registrations.len() as u32 * 8).to_be_bytes());
            state.registrations.iter().for_each(|one| answer.extend_from_slice(&one.key.to_be_bytes()));
        }
        action_in::READ_RESERVATION => read_reservation(state, answer),
        action_in::REPORT_CAPABILITIES => {
            // CRH, SIP_C, ATP_C, PTPL_C; TMV, PTPL_A; every type.
            let second = 0x80 | u8::from(state.aptpl);
            answer.extend_from_slice(&[0, 8, 0x1D, second, 0xEA, 0x01, 0, 0]);
        }
        _ => read_full_status(state, answer),
    }
}

fn read_reservation(state: &Reservations, answer: &mut Vec<u8>) {
    answer.extend_from_slice(&state.generation.to_be_bytes());
    let Some(current) = state.reservation else { return answer.extend_from_slice(&[0; 4]) };
    answer.extend_from_slice(&16u32.to_be_bytes());
    // With all registrants there is no one holder, and no key (SPC-4 §6.15.3.2).
    let key = if current.kind.is_all_registrants() { None } else { state.key(current.holder) };
    answer.extend_from_slice(&key.unwrap_or(0).to_be_bytes());
    answer.extend_from_slice(&[0, 0, 0, 0, 0, current.kind as u8, 0, 0]);
}

fn read_full_status(state: &Reservations, answer: &mut Vec<u8>) {
    answer.extend_from_slice(&state.generation.to_be_bytes());
    let len = state.registrations.len() * (24 + TRANSPORT_ID_LEN);
    answer.extend_from_slice(&(len as u32).to_be_bytes());
    for one in &state.registrations {
        let holds = state.holds(one.initiator);
        let kind = state.reservation.filter(|_| holds).map_or(0, |current| current.kind as u8);
        let flags = u8::from(holds) | if one.all_target_ports { 2 } else { 0 };
        answer.extend_from_slice(&one.key.to_be_bytes());
        answer.extend_from_slice(&[0, 0, 0, 0, flags, kind, 0, 0, 0, 0]);
        // Relative target port 1; with ALL_TG_PT the field says nothing.
        answer.extend_from_slice(&[0, 1, 0, 0, 0, TRANSPORT_ID_LEN as u8]);
        answer.extend_from_slice(&one.initiator.transport_id());
    }
}

/// What PERSISTENT RESERVE OUT came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) consequences: Consequences,
    /// The tasks of those that were preempted are to be aborted.
    pub(super) aborts: bool,
}

/// Carries out PERSISTENT RESERVE OUT of `initiator` with this parameter list.
pub(super) fn reserve_out(
    cdb: &Cdb,
    list: &[u8],
    initiator: InitiatorId,
    state: &mut Reservations,
) -> Result<Done, Refusal> {
    let action = cdb.u8(1) & 0x1F;
    let (scope, kind) = (cdb.u8(2) >> 4, cdb.u8(2) & 0x0F);
    let Some(head) = list.first_chunk::<LIST_LEN>() else { return Err(list_length()) };
    let with_ids = action == action_out::REGISTER_AND_MOVE || head[20] & SPEC_I_PT != 0;
    if list.len() != LIST_LEN && !with_ids {
        return Err(list_length());
    }
    let (key, action_key) = (be64(head, 0), be64(head, 8));
    let is_registering = matches!(action, action_out::REGISTER | action_out::REGISTER_AND_IGNORE);
    let current = state.key(initiator);
    let claims = if action == action_out::REGISTER { current.unwrap_or(0) } else { current.unwrap_or(!key) };
    if action != action_out::REGISTER_AND_IGNORE && key != claims {
        return Err(Refusal::Conflict);
    }
    let mut aborts = false;
    let consequences = match action {
        _ if is_registering => register(action, list, initiator, action_key, state)?,
        action_out::RESERVE => {
            state.reserve(initiator, reservation_type(scope, kind)?)?;
            Consequences::default()
        }
        action_out::RELEASE => state.release(initiator, scope, kind)?,
        action_out::CLEAR => state.clear(initiator),
        action_out::PREEMPT | action_out::PREEMPT_AND_ABORT => {
            aborts = action == action_out::PREEMPT_AND_ABORT;
            state.preempt(initiator, action_key, scope, kind)?
        }
        _ => {
            register_and_move(list, initiator, action_key, scope, kind, state)?;
            Consequences::default()
        }
    };
    Ok(Done { consequences, aborts })
}

fn register(
    action: u8,
    list: &[u8],
    initiator: InitiatorId,
    key: u64,
    state: &mut Reservations,
) -> Result<Consequences, Refusal> {
    let flags = list[20];
    let mut initiators = vec![initiator];
    if flags & SPEC_I_PT != 0 {
        // Only REGISTER of one who is not registered yet (SPC-4 table 180).
        if action != action_out::REGISTER || state.key(initiator).is_some() {
            return Err(Sense::parameter_bit(20, 3).into());
        }
        let ids = list.get(LIST_LEN + 4..).ok_or(list_length())?;
        if be32(list, LIST_LEN) as usize != ids.len() || !ids.len().is_multiple_of(TRANSPORT_ID_LEN) {
            return Err(Sense::parameter(LIST_LEN as u16).into());
        }
        for (index, id) in ids.chunks_exact(TRANSPORT_ID_LEN).enumerate() {
            let at = LIST_LEN + 4 + index * TRANSPORT_ID_LEN;
            let id = id.first_chunk().and_then(InitiatorId::of_transport_id);
            // A name that is registered, or named twice, would change a key that is not the sender's to change.
            match id.filter(|id| state.key(*id).is_none() && !initiators.contains(id)) {
                Some(id) => initiators.push(id),
                None => return Err(Sense::parameter(at as u16).into()),
            }
        }
    }
    let consequences = state.register(&initiators, key, flags & ALL_TG_PT != 0)?;
    state.aptpl = flags & APTPL != 0;
    Ok(consequences)
}

/// The parameter list has a layout of its own (SPC-4 §6.16.4).
fn register_and_move(
    list: &[u8],
    initiator: InitiatorId,
    key: u64,
    scope: u8,
    kind: u8,
    state: &mut Reservations,
) -> Result<(), Refusal> {
    let current = state.reservation.filter(|_| state.holds(initiator)).ok_or(Refusal::Conflict)?;
    if scope != 0 || kind != current.kind as u8 {
        return Err(Refusal::Conflict);
    }
    if key == 0 {
        return Err(Sense::parameter(8).into());
    }
    if list[18..20] != [0, 1] {
        return Err(Sense::parameter(18).into());
    }
    let id = &list[LIST_LEN..];
    if be32(list, 20) as usize != id.len() {
        return Err(Sense::parameter(20).into());
    }
    let to = id.first_chunk().filter(|_| id.len() == TRANSPORT_ID_LEN).and_then(InitiatorId::of_transport_id);
    let Some(to) = to.filter(|to| *to != initiator) else {
        return Err(Sense::parameter(LIST_LEN as u16).into());
    };
    state.register_and_move(initiator, to, key, list[17] & UNREG != 0)?;
    state.aptpl = list[17] & APTPL != 0;
    Ok(())
}

fn list_length() -> Refusal {
    Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into()
}

/// Eight bytes of a list that is long enough, big-endian.
fn be64(list: &[u8], at: usize) -> u64 {
    u64::from(be32(list, at)) << 32 | u64::from(be32(list, at + 4))
}

fn be32(list: &[u8], at: usize) -> u32 {
    list[at..at + 4].iter().fold(0, |value, &byte| value << 8 | u32::from(byte))
}
