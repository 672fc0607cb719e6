//! The administration queue's commands, for the device itself.

use crate::rig::common::*;
use crate::rig::{Rig, net};
use proptest::prelude::*;
use transport::pci::features::{F_ADMIN_VQ, F_NOTIF_CONFIG_DATA, F_RING_RESET, F_VERSION_1};
use transport::pci::{ADMIN_READABLE_MAX, Cause, Effect, Interface, Line};
use virtqueue::QueueSize;

const SUPPORTED: u64 = 0x3_ff83;
const LIST_QUERY: u16 = 0;
const LIST_USE: u16 = 1;
const CREATE: u16 = 0xa;
const MODIFY: u16 = 0xb;
const QUERY: u16 = 0xc;
const DESTROY: u16 = 0xd;
const METADATA: u16 = 0xe;
const GET: u16 = 0xf;
const SET: u16 = 0x10;
const MODE: u16 = 0x11;

const OK: (u16, u16) = (0, 0);
const INVALID_COMMAND: (u16, u16) = (22, 1);
const INVALID_OPCODE: (u16, u16) = (22, 2);
const INVALID_FIELD: (u16, u16) = (22, 3);

/// A device that works, with its administration queue.
fn working() -> Rig {
    let mut description = net(Interface::Modern);
    description.admin_queue = QueueSize::try_from(16).ok();
    description.notification_data = true;
    let mut rig = Rig::new(description);
    rig.bring_up(F_ADMIN_VQ | F_NOTIF_CONFIG_DATA | F_RING_RESET);
    rig.enable(3, 0x70_0000);
    rig.drain();
    rig
}

/// As [`working`], with every command in use and four objects of each kind allowed.
fn ready() -> Rig {
    let mut rig = working();
    assert_eq!(ask(&mut rig, LIST_USE, &SUPPORTED.to_le_bytes()).0, OK);
    assert_eq!(ask(&mut rig, 0x9, &[0, 0, 0, 0, 0, 0, 0, 0, 4, 4]).0, OK);
    rig
}

fn command(opcode: u16, group: u16, member: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = [opcode.to_le_bytes(), group.to_le_bytes()].concat();
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&member.to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Status and qualifier, and the result.
fn send(rig: &mut Rig, command: &[u8]) -> ((u16, u16), Vec<u8>) {
    let answer = rig.function.admin_command(command, 1 << 20);
    assert!(answer.len() >= 8 && answer[4..8] == [0; 4]);
    let word = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
    ((word(0), word(2)), answer[8..].to_vec())
}

fn ask(rig: &mut Rig, opcode: u16, data: &[u8]) -> ((u16, u16), Vec<u8>) {
    send(rig, &command(opcode, 0, 0, data))
}

/// Header of an object of device parts, and what follows.
fn object(id: u32, rest: &[u8]) -> Vec<u8> {
    [&[0; 4], &id.to_le_bytes()[..], rest].concat()
}

/// Flags, and the object's purpose: 0 gets, 1 sets.
fn purpose(purpose: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8] = purpose;
    bytes
}

#[test]
fn the_list_of_commands() {
    let mut rig = working();
    assert_eq!(ask(&mut rig, LIST_QUERY, &[]), (OK, SUPPORTED.to_le_bytes().to_vec()));
    for opcode in 2..0x20 {
        assert_eq!(ask(&mut rig, opcode, &[0; 32]), (INVALID_OPCODE, vec![]), "{opcode:#x}: not in use");
    }
    assert_eq!(ask(&mut rig, 64, &[]).0, INVALID_OPCODE);
    assert_eq!(ask(&mut rig, 0xffff, &[]).0, INVALID_OPCODE);
    assert_eq!(ask(&mut rig, LIST_USE, &(SUPPORTED | 1 << 2).to_le_bytes()).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, LIST_USE, &[3, 0, 0, 0, 0, 0, 0, 0, 1]).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, 0x7, &[]).0, INVALID_OPCODE, "a refused list changes nothing");
    assert_eq!(ask(&mut rig, LIST_USE, &[&SUPPORTED.to_le_bytes()[..], &[0; 64]].concat()).0, OK);
    assert_eq!(ask(&mut rig, 0x7, &[]), (OK, vec![1, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(ask(&mut rig, 2, &[]).0, INVALID_OPCODE);
    // A reset forgets the list.
    rig.bring_up(F_ADMIN_VQ);
    assert_eq!(ask(&mut rig, 0x7, &[]).0, INVALID_OPCODE);
}

#[test]
fn groups_before_commands_before_members() {
    let mut rig = ready();
    for group in [1, 2, 0xffff] {
        assert_eq!(send(&mut rig, &command(99, group, 1, &[])).0, (22, 4));
    }
    assert_eq!(send(&mut rig, &command(99, 0, 1, &[])).0, INVALID_OPCODE);
    assert_eq!(send(&mut rig, &command(0x7, 0, 1, &[])).0, (22, 5));
    assert_eq!(send(&mut rig, &command(LIST_QUERY, 0, 1, &[])).0, OK, "it has no member");
}

#[test]
fn buffers_of_any_length() {
    let mut rig = working();
    assert_eq!(send(&mut rig, &[]), (OK, SUPPORTED.to_le_bytes().to_vec()), "zeros query the list");
    assert_eq!(send(&mut rig, &[0x7]).0, INVALID_OPCODE);
    assert_eq!(send(&mut rig, &vec![0; 1 << 20]).0, OK);
    for writable in 0..24 {
        let answer = rig.function.admin_command(&[], writable);
        assert_eq!(answer.len(), writable.min(16));
    }
    let mut list = command(LIST_USE, 0, 0, &3u64.to_le_bytes());
    list.resize(ADMIN_READABLE_MAX, 0);
    list.push(0xff);
    assert_eq!(send(&mut rig, &list).0, OK, "what is beyond does not count");
}

#[test]
fn capabilities() {
    let mut rig = ready();
    assert_eq!(ask(&mut rig, 0x8, &[]), (OK, vec![4, 4]));
    assert_eq!(ask(&mut rig, 0x8, &[1]).0.0, 6);
    assert_eq!(ask(&mut rig, 0x9, &[0, 8]).0.0, 6);
    assert_eq!(ask(&mut rig, 0x9, &[0, 0, 0, 0, 0, 0, 0, 0, 5, 0]).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, 0x9, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 5]).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, 0x9, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 2]).0, OK);
    let created: Vec<u16> = [(0, 0), (1, 0), (1, 1), (2, 1), (3, 1)]
        .map(|(id, kind)| ask(&mut rig, CREATE, &object(id, &purpose(kind))).0.0)
        .to_vec();
    // One to get, so the second has no room; two to set; and ids below 3.
    assert_eq!(created, [0, 28, 0, 0, 22]);
    assert_eq!(ask(&mut rig, 0x9, &[0, 0, 0, 0, 0, 0, 0, 0, 4, 4]).0.0, 16, "busy");
}

#[test]
fn objects() {
    let mut rig = ready();
    assert_eq!(ask(&mut rig, QUERY, &object(1, &[])).0.0, 6);
    assert_eq!(ask(&mut rig, CREATE, &object(1, &purpose(1))), (OK, vec![]));
    assert_eq!(ask(&mut rig, CREATE, &object(1, &purpose(0))).0.0, 17, "it exists");
    assert_eq!(ask(&mut rig, CREATE, &object(2, &purpose(2))).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, CREATE, &object(2, &[1])).0, INVALID_FIELD, "no flags");
    assert_eq!(ask(&mut rig, CREATE, &object(8, &purpose(0))).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, CREATE, &[1]).0, INVALID_FIELD, "no such type");
    assert_eq!(ask(&mut rig, QUERY, &object(1, &[])), (OK, vec![1, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(ask(&mut rig, QUERY, &[1, 0, 0, 0, 1]).0.0, 6);
    assert_eq!(ask(&mut rig, MODIFY, &object(1, &purpose(0))).0, OK);
    assert_eq!(ask(&mut rig, MODIFY, &object(2, &purpose(0))).0.0, 6);
    assert_eq!(ask(&mut rig, QUERY, &object(1, &[])).1[0], 0);
    assert_eq!(ask(&mut rig, DESTROY, &object(1, &[])).0, OK);
    assert_eq!(ask(&mut rig, DESTROY, &object(1, &[])).0.0, 6);
    for id in 0..4 {
        assert_eq!(ask(&mut rig, CREATE, &object(id, &purpose(0))).0, OK);
    }
    assert_eq!(ask(&mut rig, CREATE, &object(4, &purpose(0))).0, (28, 6));
    assert_eq!(ask(&mut rig, CREATE, &object(4, &purpose(1))).0, OK);
    assert_eq!(ask(&mut rig, MODIFY, &object(4, &purpose(0))).0.0, 28);
    rig.bring_up(F_ADMIN_VQ);
    ask(&mut rig, LIST_USE, &SUPPORTED.to_le_bytes());
    assert_eq!(ask(&mut rig, QUERY, &object(0, &[])).0.0, 6, "a reset destroys them");
}

/// (type, flags, selector, value) of each part.
fn parse(mut bytes: &[u8]) -> Vec<(u16, u8, u64, Vec<u8>)> {
    let mut parts = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<16>() {
        let len = u32::from_le_bytes(*header.last_chunk().unwrap()) as usize;
        let selector = u64::from_le_bytes(header[4..12].try_into().unwrap());
        parts.push((u16::from_le_bytes([header[0], header[1]]), header[2], selector, rest[..len].to_vec()));
        bytes = &rest[len..];
    }
    assert!(bytes.is_empty());
    parts
}

fn emit(part_type: u16, selector: u64, value: &[u8]) -> Vec<u8> {
    let header =
        [&part_type.to_le_bytes()[..], &[0, 0], &selector.to_le_bytes(), &(value.len() as u32).to_le_bytes()];
    [&header.concat(), value].concat()
}

fn get_all(rig: &mut Rig) -> Vec<u8> {
    let (status, parts) = ask(rig, GET, &object(0, &[1]));
    assert_eq!(status, OK);
    parts
}

#[test]
fn parts_that_are_got() {
    let mut rig = ready();
    assert_eq!(ask(&mut rig, GET, &object(0, &[1])).0.0, 6, "no object");
    ask(&mut rig, CREATE, &object(0, &purpose(0)));
    ask(&mut rig, CREATE, &object(1, &purpose(1)));
    assert_eq!(ask(&mut rig, GET, &object(1, &[1])).0, INVALID_COMMAND, "an object to set");
    assert_eq!(ask(&mut rig, GET, &object(0, &[2])).0, INVALID_FIELD);
    rig.set_common(CONFIG_MSIX_VECTOR, 2, 3);
    let bytes = get_all(&mut rig);
    let parts = parse(&bytes);
    let keys: Vec<(u16, u64)> =
        parts.iter().map(|(part_type, _, selector, _)| (*part_type, *selector)).collect();
    let queues = |part_type| (0..4).map(move |index| (part_type, index));
    let wanted: Vec<(u16, u64)> = [(0x100, 0), (0x101, 0), (0x102, 0x10), (0x102, 0x12), (0x103, 0)]
        .into_iter()
        .chain(queues(0x104))
        .chain(queues(0x105))
        .collect();
    assert_eq!(keys, wanted);
    assert_eq!(parts[0].3, rig.offered().to_le_bytes());
    assert_eq!((parts[0].1, parts[1].1), (1, 0), "only the offer is optional");
    let features = F_VERSION_1 | F_ADMIN_VQ | F_NOTIF_CONFIG_DATA | F_RING_RESET;
    assert_eq!(parts[1].3, features.to_le_bytes());
    assert_eq!((&parts[2].3[..], &parts[3].3[..], &parts[4].3[..]), (&[3, 0][..], &[3, 0][..], &[15][..]));
    let queue = [
        &[0, 1, 0xff, 0xff, 1, 0, 0, 0][..],
        &0x10_0000u64.to_le_bytes(),
        &0x10_1000u64.to_le_bytes(),
        &0x10_2000u64.to_le_bytes(),
    ];
    assert_eq!(parts[5].3, queue.concat());
    assert_eq!(parts[10].3, [1, 0, 2, 0, 0, 0, 0, 0]);

    // Those selected, in the same order, without those that are not there.
    let selected =
        [emit(0x105, 2, &[]), emit(0x104, 9, &[]), emit(0x999, 0, &[]), emit(0x103, 0, &[])].concat();
    let mut data = object(0, &[0; 8]);
    data.extend_from_slice(&selected);
    let (status, found) = ask(&mut rig, GET, &data);
    let found: Vec<u16> = parse(&found).iter().map(|part| part.0).collect();
    assert_eq!((status, found), (OK, vec![0x103, 0x105]));

    // Metadata tells of them, and says when there is no room.
    let number = |answer: ((u16, u16), Vec<u8>)| u64::from_le_bytes(answer.1[..8].try_into().unwrap());
    assert_eq!(number(ask(&mut rig, METADATA, &object(0, &[0]))), bytes.len() as u64);
    assert_eq!(number(ask(&mut rig, METADATA, &object(0, &[1]))), 13);
    let (_, list) = ask(&mut rig, METADATA, &object(1, &[2]));
    assert_eq!((list.len(), list[0], list[8..10].to_vec()), (8 + 13 * 16, 13, vec![0, 1]));
    assert_eq!(ask(&mut rig, METADATA, &object(0, &[3])).0, INVALID_FIELD);
    assert_eq!(ask(&mut rig, METADATA, &object(5, &[0])).0.0, 6);
    let short = rig.function.admin_command(&command(METADATA, 0, 0, &object(0, &[2])), 8 + 8 + 13 * 16 - 1);
    assert_eq!(short[..2], [12, 0]);
}

#[test]
fn parts_that_are_set() {
    let mut rig = ready();
    ask(&mut rig, CREATE, &object(0, &purpose(0)));
    ask(&mut rig, CREATE, &object(1, &purpose(1)));
    let queue = |size: u16, vector: u16, enabled: u16, address: u64| {
        let words = [size, vector, enabled, 0].map(u16::to_le_bytes).concat();
        [words, [address, address + 0x1000, address + 0x2000].map(u64::to_le_bytes).concat()].concat()
    };
    let set = |rig: &mut Rig, parts: &[u8]| ask(rig, SET, &object(1, parts)).0;
    let own = get_all(&mut rig);
    assert_eq!(set(&mut rig, &own), INVALID_COMMAND, "not while it works");
    assert_eq!(ask(&mut rig, MODE, &[1]).0, OK);
    assert_eq!(rig.drain(), ["stopped: true"]);
    assert_eq!(ask(&mut rig, SET, &object(0, &own)).0, INVALID_COMMAND, "an object to get");
    assert_eq!(set(&mut rig, &own), OK);
    assert_eq!(get_all(&mut rig), own);

    // All or nothing: a good part with a bad one, of each kind.
    let good = emit(0x104, 2, &queue(32, 1, 1, 0x50_0000));
    for bad in [
        emit(0x100, 0, &[0; 16]),
        emit(0x101, 0, &[0xff; 16]),
        emit(0x102, 0x12, &[9, 0]),
        emit(0x102, 0x14, &[0]),
        emit(0x103, 0, &[0]),
        emit(0x104, 2, &queue(65, 1, 1, 0x50_0000)),
        emit(0x104, 2, &queue(48, 1, 1, 0x50_0000)),
        emit(0x104, 2, &queue(32, 1, 2, 0x50_0000)),
        emit(0x104, 0, &queue(256, 1, 1, 0x50_0000)),
        emit(0x104, 3, &queue(16, 1, 0, 0x70_0000)),
        emit(0x104, 9, &queue(16, 1, 0, 0)),
        emit(0x105, 0, &[9; 8]),
        emit(0x104, 2, &[0; 31]),
        emit(0x999, 0, &[]),
        emit(0x103, 0, &[15])[..16].to_vec(),
    ] {
        assert_eq!(set(&mut rig, &[&good[..], &bad].concat()), INVALID_FIELD, "{bad:?}");
        assert_eq!(get_all(&mut rig), own);
    }
    let mut unknown = emit(0x999, 0, &[1, 2, 3]);
    unknown[2] = 1;
    let vectors = [emit(0x102, 0x10, &[2, 0]), emit(0x104, 0, &queue(256, 3, 1, 0x10_0000))].concat();
    assert_eq!(set(&mut rig, &[&unknown[..], &good, &vectors].concat()), OK);
    assert_eq!(rig.drain(), ["calls"], "nothing starts yet");
    assert_eq!(rig.common(CONFIG_MSIX_VECTOR, 2), 2);
    assert_eq!(ask(&mut rig, MODE, &[0]).0, OK);
    assert_eq!(rig.drain(), ["stopped: false", "start 2: 32 0x500000 0x501000 0x502000"]);
}

#[test]
fn a_stopped_device() {
    let mut rig = ready();
    rig.set_msix(true);
    for index in 0..4 {
        rig.set_common(QUEUE_SELECT, 2, index);
        rig.set_common(QUEUE_MSIX_VECTOR, 2, 1);
    }
    rig.set_common(CONFIG_MSIX_VECTOR, 2, 0);
    rig.drain();
    assert_eq!(ask(&mut rig, MODE, &[2]).0, INVALID_FIELD);
    for _ in 0..2 {
        assert_eq!(ask(&mut rig, MODE, &[1]).0, OK);
    }
    assert_eq!(rig.drain(), ["stopped: true"], "once");
    for cause in [Cause::Queue(0), Cause::Queue(1), Cause::Config] {
        assert_eq!(rig.function.interrupt(cause), None);
    }
    assert_eq!(rig.function.interrupt(Cause::Queue(3)), Some(Line::Msix(1)), "the administration queue");
    rig.enable(2, 0x30_0000);
    assert!(rig.drain().is_empty());
    rig.set_common(QUEUE_SELECT, 2, 0);
    rig.set_common(QUEUE_RESET, 2, 1);
    assert_eq!(rig.drain(), ["stop 0"], "a ring can be taken away");
    assert_eq!(ask(&mut rig, MODE, &[0]).0, OK);
    assert_eq!(rig.drain(), ["stopped: false", "start 2: 64 0x300000 0x301000 0x302000"]);
    assert_eq!(rig.function.interrupt(Cause::Config), Some(Line::Msix(0)));
    // A reset resumes.
    ask(&mut rig, MODE, &[1]);
    rig.bring_up(0);
    assert_eq!(rig.function.interrupt(Cause::Config), None, "no vector");
    rig.set_msix(false);
    assert_eq!(rig.function.interrupt(Cause::Config), Some(Line::Intx));
}

#[test]
fn the_ring_of_the_queue_is_as_any() {
    let mut rig = working();
    rig.set_common(QUEUE_SELECT, 2, 3);
    rig.set_common(QUEUE_RESET, 2, 1);
    let mut stopped = None;
    rig.answer(|effect| {
        if let Effect::QueueStop { index } = effect {
            stopped = Some(*index);
        }
        true
    });
    assert_eq!(stopped, Some(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Commands that fail with EINVAL change nothing that can be seen; answers fit.
    #[test]
    fn any_commands(
        commands in prop::collection::vec(
            (0u16..0x13, 0u16..20, prop::collection::vec(prop_oneof![Just(0u8), 0u8..6, any::<u8>()], 0..60), 0usize..600),
            1..40,
        ),
    ) {
        let mut rig = ready();
        ask(&mut rig, CREATE, &object(0, &purpose(0)));
        for (opcode, group, data, writable) in commands {
            if opcode == LIST_USE || opcode == DESTROY {
                continue;
            }
            let before = get_all(&mut rig);
            let bytes = command(opcode, u16::from(group == 1), u64::from(group == 2), &data);
            let answer = rig.function.admin_command(&bytes, writable);
            prop_assert!(answer.len() <= writable);
            if answer.len() >= 2 && answer[..2] != [0, 0] && opcode != MODIFY {
                prop_assert_eq!(get_all(&mut rig), before);
            }
            if opcode == MODIFY {
                ask(&mut rig, MODIFY, &object(0, &purpose(0)));
            }
            rig.drain();
        }
    }
}
