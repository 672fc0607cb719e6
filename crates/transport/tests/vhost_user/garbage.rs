//! Whatever a front-end sends, it can only lose its session.

use crate::wire::*;
use proptest::prelude::*;
use std::os::fd::OwnedFd;
use transport::vhost_user::{Outcome, Session};
use virtqueue::RingState;

#[derive(Debug, Clone)]
struct Step {
    id: u32,
    flags: u32,
    /// Added to the size in the header, so that it may lie.
    lie: i32,
    payload: Vec<u8>,
    fds: usize,
    memory: bool,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..4u64,
        2 => Just(0x100),
        2 => (0..64u32).prop_map(|bit| 1 << bit),
        2 => (0..17u64).prop_map(|at| USER + at * MIB),
        2 => (0..17u64).prop_map(|at| at * MIB),
        1 => any::<u64>(),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(number(), 0..6).prop_map(|words| u64s(&words)),
        2 => (0..5u32, 0..300u32).prop_map(|(index, num)| u32s(&[index, num])),
        2 => (0..5u32, 0..16u64, any::<bool>()).prop_map(|(i, at, log)| vring_addr(i, log, at * MIB)),
        2 => prop::collection::vec((0..16u64, 0..3u64), 0..4).prop_map(|regions| {
            mem_table(&regions.iter().map(|(at, len)| region(at * MIB, len * MIB)).collect::<Vec<_>>())
        }),
        2 => (0..16u64, 0..3u64).prop_map(|(at, len)| mem_reg(region(at * MIB, len * MIB))),
        2 => (0..3u64, 0..5u32, 0..300u32).prop_map(|(size, queues, entries)| {
            [u64s(&[size * MIB, 0]), u32s(&[entries << 16 | queues, 0])].concat()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..1100),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let id = prop_oneof![20 => 1..41u32, 1 => any::<u32>()];
    let flags = prop_oneof![20 => Just(1u32), 10 => Just(9), 1 => any::<u32>()];
    let lie = prop_oneof![30 => Just(0), 1 => -8..8i32, 1 => any::<i32>()];
    let fds = prop_oneof![10 => Just(0), 10 => Just(1), 2 => 2..6usize, 1 => 30..40usize];
    (id, flags, lie, payload(), fds, any::<bool>()).prop_map(|(id, flags, lie, payload, fds, memory)| Step {
        id,
        flags,
        lie,
        payload,
        fds,
        memory,
    })
}

fn outcome(number: u8) -> Outcome {
    match number % 4 {
        0 => Outcome::Failed,
        1 => Outcome::Stopped(RingState { avail: 9, used: 9, ..RingState::default() }),
        _ => Outcome::Done,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_messages_breaks_more_than_its_session(
        steps in prop::collection::vec(step(), 1..60),
        piece in 1..64usize,
        outcomes in prop::collection::vec(any::<u8>(), 64),
    ) {
        let file = memfd(2 * MIB);
        let mut wire = Wire::negotiated(VERSION_1);
        let mut outcomes = outcomes.into_iter().cycle();
        'session: for step in steps {
            let mut bytes = message(step.id, step.flags, &step.payload);
            let size = (step.payload.len() as u32).wrapping_add_signed(step.lie);
            bytes[8..12].copy_from_slice(&size.to_ne_bytes());
            let make = || if step.memory { file.try_clone().unwrap() } else { eventfd() };
            let mut fds: Vec<OwnedFd> = (0..step.fds).map(|_| make()).collect();
            for part in bytes.chunks(piece) {
                if wire.session.receive(part, std::mem::take(&mut fds)).is_err() {
                    break 'session;
                }
                loop {
                    match wire.session.next_event() {
                        Ok(Some(_)) => wire.session.finish(outcome(outcomes.next().unwrap())),
                        Ok(None) => break,
                        Err(fault) => {
                            prop_assert!(!fault.name().is_empty() && !fault.to_string().is_empty());
                            break 'session;
                        }
                    }
                }
                let mut replies = 0;
                while let Some(outgoing) = wire.session.next_outgoing() {
                    replies += 1;
                    prop_assert!(outgoing.bytes.len() <= 12 + 12 + 256);
                }
                prop_assert!(replies <= 64);
                prop_assert!(wire.session.wanted() <= 12 + 8 + 32 * 32);
            }
        }
        let _ = wire.session.send_config_change();
    }

    #[test]
    fn no_bytes_at_all_do(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1..20usize) {
        let mut session = Session::new(offer());
        for part in bytes.chunks(piece) {
            if session.receive(part, vec![]).is_err() {
                break;
            }
            while let Ok(Some(_)) = session.next_event() {
                session.finish(Outcome::Done);
            }
        }
    }
}
