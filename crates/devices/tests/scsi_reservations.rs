//! Reservations of both kinds, through commands of two initiators.

mod scsi_rig;

use devices::scsi::{Asc, InitiatorId, LogicalUnit, ReservationType, Reservations, Sense, Status};
use scsi_rig::{Rig, cdb10, cdb16, disk, nexus};

const BLOCKS: u64 = 64;
const KEY: u64 = 0xA;
const OTHER_KEY: u64 = 0xB;

/// A PERSISTENT RESERVE OUT: service action, type, keys, flags.
fn out(action: u8, kind: u8, key: u64, action_key: u64, flags: u8) -> ([u8; 10], Vec<u8>) {
    let mut list = Vec::new();
    list.extend_from_slice(&key.to_be_bytes());
    list.extend_from_slice(&action_key.to_be_bytes());
    list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
    ([0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], list)
}

#[track_caller]
fn reserve_out(rig: &mut Rig, from: usize, action: u8, kind: u8, key: u64, action_key: u64) {
    let (cdb, list) = out(action, kind, key, action_key, 0);
    let (reply, _) = rig.run_from(from, &cdb, &list, 0);
    assert_eq!((reply.status, reply.data_out), (Some(Status::Good), 24), "{:?}", reply.sense);
}

fn reserve_in(rig: &mut Rig, action: u8) -> Vec<u8> {
    rig.good(&[0x5E, action, 0, 0, 0, 0, 0, 0x10, 0, 0], &[], 0x1000)
}

/// Initiator 0 holds a reservation; 1 is registered or not.
fn held(kind: ReservationType, registered: bool) -> Rig {
    let mut rig = Rig::new(BLOCKS);
    reserve_out(&mut rig, 0, 0, 0, 0, KEY);
    if registered {
        reserve_out(&mut rig, 1, 0, 0, 0, OTHER_KEY);
    }
    reserve_out(&mut rig, 0, 1, kind as u8, KEY, 0);
    rig
}

/// Commands by what they do, each with its data.
fn commands() -> Vec<(&'static str, Vec<u8>, usize, usize)> {
    vec![
        ("always", vec![0x12, 0, 0, 0, 36, 0], 0, 36),
        ("always", vec![0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 0, 16),
        ("always", vec![0x03, 0, 0, 0, 18, 0], 0, 18),
        ("always", vec![0x4D, 0, 0x40, 0, 0, 0, 0, 0, 64, 0], 0, 64),
        ("always", vec![0x1E, 0, 0, 0, 0, 0], 0, 0),
        ("query", vec![0; 6], 0, 0),
        ("query", vec![0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 8),
        ("query", cdb16(0x9E, 0x10, 0, 32).to_vec(), 0, 32),
        ("query", vec![0x1B, 0, 0, 0, 1, 0], 0, 0),
        ("read", vec![0x08, 0, 0, 0, 1, 0], 0, 512),
        ("read", cdb10(0x28, 0, 0, 1).to_vec(), 0, 512),
        ("read", cdb16(0x88, 0, 0, 1).to_vec(), 0, 512),
        ("read", cdb10(0x2F, 0, 0, 1).to_vec(), 0, 0),
        ("read", cdb16(0x9E, 0x12, 0, 24).to_vec(), 0, 24),
        ("read", vec![0x1A, 0, 0x3F, 0, 255, 0], 0, 255),
        ("read", vec![0xA3, 0x0C, 3, 0, 0, 0, 0, 0, 0, 16, 0, 0], 0, 16),
        ("read", vec![0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0], 0, 4),
        ("write", vec![0x0A, 0, 0, 0, 1, 0], 512, 0),
        ("write", cdb10(0x2A, 0, 0, 1).to_vec(), 512, 0),
        ("write", cdb10(0x2E, 0, 0, 1).to_vec(), 512, 0),
        ("write", cdb10(0x35, 0, 0, 0).to_vec(), 0, 0),
        ("write", cdb10(0x41, 0, 0, 1).to_vec(), 512, 0),
        ("write", cdb10(0x42, 0, 0, 0).to_vec(), 0, 0),
        ("write", cdb16(0x93, 1, 0, 1).to_vec(), 0, 0),
        ("write", cdb16(0x89, 0, 0, 0).to_vec(), 0, 0),
        ("write", cdb16(0x9C, 0, 0, 0).to_vec(), 0, 0),
        ("write", vec![0x15, 0x10, 0, 0, 0, 0], 0, 0),
        ("write", vec![0x1E, 0, 0, 0, 1, 0], 0, 0),
        ("write", vec![0x1B, 0, 0, 0, 0, 0], 0, 0),
    ]
}

/// SPC-4 table 66 and SBC-3 table 13.
#[test]
fn each_command_under_each_type() {
    for kind in ReservationType::ALL {
        let code = kind as u8;
        for registered in [false, true] {
            for (does, cdb, out_len, in_len) in commands() {
                let mut rig = held(kind, registered);
                let allowed = match does {
                    "always" | "query" => true,
                    "read" => [1, 5, 7].contains(&code) || registered && code >= 5,
                    _ => registered && code >= 5,
                };
                let (reply, _) = rig.run_from(1, &cdb, &vec![0; out_len], in_len);
                let expected = if allowed { Status::Good } else { Status::ReservationConflict };
                assert_eq!(reply.status, Some(expected), "{kind:?}, registered: {registered}, {cdb:02x?}");
                assert_eq!(rig.run_from(0, &cdb, &vec![0; out_len], in_len).0.status, Some(Status::Good));
            }
        }
    }
}

#[test]
fn a_reserve_keeps_others_out() {
    let mut rig = Rig::new(BLOCKS);
    for (reserve, release) in
        [(vec![0x16, 0, 0, 0, 0, 0], vec![0x17, 0, 0, 0, 0, 0]), (vec![0x56], vec![0x57])]
    {
        rig.good(&reserve, &[], 0);
        rig.good(&reserve, &[], 0);
        rig.conflicts(1, &reserve, &[], 0);
        // Another one's release changes nothing.
        assert_eq!(rig.run_from(1, &release, &[], 0).0.status, Some(Status::Good));
        for (does, cdb, out_len, in_len) in commands() {
            let expected = if does == "always" { Status::Good } else { Status::ReservationConflict };
            let (reply, _) = rig.run_from(1, &cdb, &vec![0; out_len], in_len);
            assert_eq!(reply.status, Some(expected), "{cdb:02x?}");
        }
        // No persistent reservations beside it, not even for its holder.
        let (cdb, list) = out(0, 0, 0, KEY, 0);
        for from in 0..2 {
            rig.conflicts(from, &cdb, &list, 0);
            rig.conflicts(from, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[], 8);
        }
        rig.good(&release, &[], 0);
        assert_eq!(rig.run_from(1, &reserve, &[], 0).0.status, Some(Status::Good));
        rig.unit.reset_nexus(nexus(1));
        assert_eq!(rig.unit.take_attention(nexus(1)), Some(Asc::NEXUS_LOSS));
        rig.good(&cdb10(0x2A, 0, 0, 1), &[0; 512], 0);
        // A reset releases it, too.
        rig.good(&reserve, &[], 0);
        rig.unit.reset();
        for from in 0..2 {
            assert_eq!(rig.unit.take_attention(nexus(from)), Some(Asc::DEVICE_RESET));
        }
        assert_eq!(rig.run_from(1, &cdb10(0x2A, 0, 0, 1), &[0; 512], 0).0.status, Some(Status::Good));
    }
}

#[test]
fn reserve_beside_persistent_reservations() {
    let reserve = [0x16, 0, 0, 0, 0, 0];
    // Registered and nobody else holds: GOOD, and nothing happens.
    let mut rig = Rig::new(BLOCKS);
    reserve_out(&mut rig, 0, 0, 0, 0, KEY);
    rig.good(&reserve, &[], 0);
    assert_eq!(rig.run_from(1, &cdb10(0x2A, 0, 0, 1), &[0; 512], 0).0.status, Some(Status::Good));
    rig.conflicts(1, &reserve, &[], 0);
    let mut rig = held(ReservationType::WriteExclusive, true);
    rig.good(&reserve, &[], 0);
    rig.conflicts(1, &reserve, &[], 0);
}

#[test]
fn registering() {
    let mut rig = Rig::new(BLOCKS);
    let (cdb, list) = out(0, 0, KEY, KEY, 0);
    rig.conflicts(0, &cdb, &list, 0);
    reserve_out(&mut rig, 0, 0, 0, 0, 0);
    reserve_out(&mut rig, 0, 0, 0, 0, KEY);
    reserve_out(&mut rig, 1, 6, 0, 99, OTHER_KEY);
    let (cdb, list) = out(0, 0, 0, 1, 0);
    rig.conflicts(0, &cdb, &list, 0);
    assert_eq!(
        reserve_in(&mut rig, 0),
        [0, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xA, 0, 0, 0, 0, 0, 0, 0, 0xB]
    );
    // A new key; the old one does not count any more.
    reserve_out(&mut rig, 0, 0, 0, KEY, 0xC);
    let (cdb, list) = out(1, 1, KEY, 0, 0);
    rig.conflicts(0, &cdb, &list, 0);
    reserve_out(&mut rig, 0, 1, 1, 0xC, 0);
    assert_eq!(
        reserve_in(&mut rig, 1),
        [0, 0, 0, 4, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xC, 0, 0, 0, 0, 0, 1, 0, 0]
    );
    let full = reserve_in(&mut rig, 3);
    assert_eq!((full.len(), full[7]), (8 + 2 * 48, 96));
    assert_eq!(full[16..32], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 24]);
    assert_eq!(full[32..56], InitiatorId(0x100).transport_id());
    assert_eq!(full[68..70], [0, 0]);
    // Unregistering releases; a type for one holder tells nobody.
    reserve_out(&mut rig, 0, 0, 0, 0xC, 0);
    assert_eq!(reserve_in(&mut rig, 1)[4..], [0; 4]);
    assert_eq!(rig.unit.take_attention(nexus(1)), None);
    assert_eq!(reserve_in(&mut rig, 2), [0, 8, 0x1D, 0x80, 0xEA, 1, 0, 0]);
}

#[test]
fn reserving_and_releasing() {
    let mut rig = held(ReservationType::WriteExclusiveRegistrantsOnly, true);
    reserve_out(&mut rig, 0, 1, 5, KEY, 0);
    for (from, kind, key) in [(1, 5, OTHER_KEY), (0, 6, KEY)] {
        let (cdb, list) = out(1, kind, key, 0, 0);
        rig.conflicts(from, &cdb, &list, 0);
    }
    let (cdb, list) = out(2, 6, KEY, 0, 0);
    rig.refused(&cdb, &list, 0, Sense::illegal(Asc::INVALID_RELEASE));
    // One that holds nothing releases nothing.
    reserve_out(&mut rig, 1, 2, 5, OTHER_KEY, 0);
    assert!(rig.unit.reservations().holds(InitiatorId(0x100)));
    reserve_out(&mut rig, 0, 2, 5, KEY, 0);
    assert_eq!(rig.unit.take_attention(nexus(1)), Some(Asc::RESERVATIONS_RELEASED));
    assert_eq!(rig.unit.reservations().reservation, None);
    reserve_out(&mut rig, 0, 2, 5, KEY, 0);
    // Every registrant holds an all registrants reservation, and anyone of them releases it.
    reserve_out(&mut rig, 0, 1, 7, KEY, 0);
    reserve_out(&mut rig, 1, 1, 7, OTHER_KEY, 0);
    assert_eq!(reserve_in(&mut rig, 1)[8..16], [0; 8]);
    reserve_out(&mut rig, 1, 2, 7, OTHER_KEY, 0);
    assert_eq!(rig.unit.take_attention(nexus(0)), Some(Asc::RESERVATIONS_RELEASED));
    for (kind, sense) in [(2, Sense::cdb(2, 3)), (0x11, Sense::cdb(2, 7))] {
        let (cdb, list) = out(1, kind, KEY, 0, 0);
        rig.refused(&cdb, &list, 0, sense);
    }
}

#[test]
fn clearing_and_preempting() {
    let mut rig = held(ReservationType::ExclusiveAccess, true);
    let (cdb, list) = out(5, 1, OTHER_KEY, KEY, 0);
    let (reply, _) = rig.run_from(1, &cdb, &list, 0);
    assert_eq!(reply.status, Some(Status::Good));
    assert!(reply.aborts.contains(nexus(0)) && !reply.aborts.contains(nexus(1)));
    assert_eq!(rig.unit.take_attention(nexus(0)), Some(Asc::REGISTRATIONS_PREEMPTED));
    assert!(rig.unit.reservations().holds(InitiatorId(0x101)));
    // Without ABORT no task is ended; a key that nobody has.
    reserve_out(&mut rig, 0, 0, 0, 0, KEY);
    let (cdb, list) = out(4, 1, OTHER_KEY, KEY, 0);
    assert!(rig.run_from(1, &cdb, &list, 0).0.aborts.is_empty());
    rig.conflicts(1, &cdb, &list, 0);
    assert_eq!(rig.unit.take_attention(nexus(0)), Some(Asc::REGISTRATIONS_PREEMPTED));
    reserve_out(&mut rig, 0, 0, 0, 0, KEY);
    reserve_out(&mut rig, 0, 3, 0, KEY, 0);
    assert_eq!(rig.unit.take_attention(nexus(1)), Some(Asc::RESERVATIONS_PREEMPTED));
    assert!(rig.unit.reservations().registrations.is_empty());
    let (cdb, list) = out(3, 0, KEY, 0, 0);
    rig.conflicts(0, &cdb, &list, 0);
}

#[test]
fn registering_others() {
    let mut rig = Rig::new(BLOCKS);
    let with_ids = |action: u8, ids: &[[u8; 24]]| {
        let (mut cdb, mut list) = out(action, 0, 0, KEY, 0x08);
        list.extend_from_slice(&(ids.len() as u32 * 24).to_be_bytes());
        ids.iter().for_each(|id| list.extend_from_slice(id));
        cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
        (cdb, list)
    };
    let (own, other) = (InitiatorId(0x100).transport_id(), InitiatorId(0x101).transport_id());
    let mut damaged = other;
    damaged[0] = 5;
    for (ids, at) in [([damaged, other], 28), ([other, other], 52), ([other, own], 52)] {
        let (cdb, list) = with_ids(0, &ids);
        rig.refused(&cdb, &list, 0, Sense::parameter(at));
    }
    let (cdb, list) = with_ids(6, &[other]);
    rig.refused(&cdb, &list, 0, Sense::parameter_bit(20, 3));
    let (cdb, mut list) = with_ids(0, &[other]);
    list[27] = 25;
    rig.refused(&cdb, &list, 0, Sense::parameter(24));
    assert!(rig.unit.reservations().registrations.is_empty());
    let (cdb, list) = with_ids(0, &[other]);
    assert_eq!(rig.run(&cdb, &list, 0).0.data_out, 52);
    assert_eq!(rig.unit.reservations().key(InitiatorId(0x101)), Some(KEY));
    rig.conflicts(0, &cdb, &list, 0);
}

#[test]
fn moving_a_reservation() {
    let moving = |key: u64, action_key: u64, flags: u8, port: u8, to: u64| {
        let mut list = Vec::new();
        list.extend_from_slice(&key.to_be_bytes());
        list.extend_from_slice(&action_key.to_be_bytes());
        list.extend_from_slice(&[0, flags, 0, port, 0, 0, 0, 24]);
        list.extend_from_slice(&InitiatorId(to).transport_id());
        ([0x5F, 7, 3, 0, 0, 0, 0, 0, 48, 0], list)
    };
    let mut rig = held(ReservationType::ExclusiveAccess, false);
    let (cdb, list) = moving(KEY, 0, 0, 1, 0x101);
    rig.refused(&cdb, &list, 0, Sense::parameter(8));
    let (cdb, list) = moving(KEY, OTHER_KEY, 0, 2, 0x101);
    rig.refused(&cdb, &list, 0, Sense::parameter(18));
    let (cdb, list) = moving(KEY, OTHER_KEY, 0, 1, 0x100);
    rig.refused(&cdb, &list, 0, Sense::parameter(24));
    let (cdb, list) = moving(OTHER_KEY, OTHER_KEY, 0, 1, 0x101);
    rig.conflicts(0, &cdb, &list, 0);
    let (cdb, list) = moving(KEY, OTHER_KEY, 2, 1, 0x101);
    assert_eq!(rig.run(&cdb, &list, 0).0.status, Some(Status::Good));
    let state = rig.unit.reservations();
    assert!(state.holds(InitiatorId(0x101)) && state.key(InitiatorId(0x100)).is_none());
    rig.conflicts(0, &cdb10(0x28, 0, 0, 1), &[], 512);
    assert_eq!(rig.run_from(1, &cdb10(0x28, 0, 0, 1), &[], 512).0.status, Some(Status::Good));
    // One that holds nothing cannot move it; nor can all registrants.
    let mut rig = held(ReservationType::ExclusiveAccessAllRegistrants, true);
    let (mut cdb, list) = moving(KEY, OTHER_KEY, 0, 1, 0x101);
    cdb[2] = 8;
    rig.conflicts(0, &cdb, &list, 0);
}

#[test]
fn what_has_to_be_saved_says_so_and_comes_back() {
    let mut rig = Rig::new(BLOCKS);
    let mut run = |from, action, kind, key, action_key, flags| {
        let (cdb, list) = out(action, kind, key, action_key, flags);
        let (reply, _) = rig.run_from(from, &cdb, &list, 0);
        assert_eq!(reply.status, Some(Status::Good));
        reply.save
    };
    assert!(!run(0, 0, 0, 0, KEY, 0));
    assert!(run(0, 0, 0, KEY, KEY, 1));
    assert!(run(0, 1, 3, KEY, 0, 0));
    assert!(!run(0, 1, 3, KEY, 0, 0), "nothing has changed");
    assert_eq!(reserve_in(&mut rig, 2)[3], 0x81);
    let mut again = LogicalUnit::new(disk(BLOCKS), rig.unit.reservations()).unwrap();
    again.attach(nexus(5), InitiatorId(0x100));
    assert!(again.reservations().holds(InitiatorId(0x100)));
    assert_eq!(again.reservations().generation, 0);
    // The last registration without APTPL: what was kept has to go.
    let (cdb, list) = out(0, 0, KEY, KEY, 0);
    assert!(rig.run(&cdb, &list, 0).0.save);
    assert_eq!(rig.unit.reservations().after_power_loss(), Reservations::default());
}
