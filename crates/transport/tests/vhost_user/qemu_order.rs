//! The messages of QEMU's front-end in its order, in pieces of every size.

use crate::wire::*;
use std::os::fd::OwnedFd;
use transport::vhost_user::{Event, Outcome, ProtocolFeatures, Session};
use virtqueue::RingState;

/// A message, and what kind of descriptor comes with it.
struct Sent(u32, u32, Vec<u8>, Option<fn() -> OwnedFd>);

fn start_up() -> Vec<Sent> {
    let features = VERSION_1 | EVENT_IDX | MAC | PROTOCOL;
    let mut sent = vec![
        Sent(1, 1, vec![], None),
        Sent(15, 1, vec![], None),
        Sent(16, 1, u64s(&[ProtocolFeatures::all().bits()]), None),
        Sent(17, 1, vec![], None),
        Sent(36, 1, vec![], None),
        Sent(21, 9, vec![], Some(eventfd)),
        Sent(3, 1, vec![], None),
        Sent(1, 1, vec![], None),
    ];
    sent.extend((0..2).map(|ring| Sent(13, 1, u64s(&[ring]), Some(eventfd))));
    sent.extend((0..2).map(|ring| Sent(14, 1, u64s(&[ring]), Some(eventfd))));
    sent.push(Sent(34, 1, vec![], None));
    sent.push(Sent(2, 1, u64s(&[features]), None));
    sent.push(Sent(37, 9, mem_reg(region(0, MIB)), Some(|| memfd(MIB))));
    sent.push(Sent(37, 9, mem_reg(region(4 * MIB, MIB)), Some(|| memfd(MIB))));
    for ring in 0..2 {
        sent.push(Sent(8, 1, u32s(&[ring, 256]), None));
        sent.push(Sent(10, 1, u32s(&[ring, 0]), None));
        sent.push(Sent(9, 1, vring_addr(ring, false, u64::from(ring) * 4 * MIB), None));
        sent.push(Sent(12, 1, u64s(&[ring.into()]), Some(eventfd)));
        sent.push(Sent(13, 1, u64s(&[ring.into()]), Some(eventfd)));
    }
    sent.extend((0..2).map(|ring| Sent(18, 9, u32s(&[ring, 1]), None)));
    sent.push(Sent(39, 9, u64s(&[0x0f]), None));
    sent
}

fn shut_down() -> Vec<Sent> {
    let mut sent: Vec<_> = (0..2).map(|ring| Sent(18, 9, u32s(&[ring, 0]), None)).collect();
    sent.extend((0..2).map(|ring| Sent(11, 1, u32s(&[ring, 0]), None)));
    sent.push(Sent(39, 9, u64s(&[0]), None));
    sent
}

/// What the host was told and what the front-end was answered, by name.
fn play(session: &mut Session, sent: &[Sent], piece: usize) -> (Vec<String>, Vec<u32>) {
    let (mut told, mut answered) = (Vec::new(), Vec::new());
    for Sent(id, flags, payload, fd) in sent {
        let bytes = message(*id, *flags, payload);
        let mut fds: Vec<_> = fd.iter().map(|make| make()).collect();
        for part in bytes.chunks(piece) {
            session.receive(part, std::mem::take(&mut fds)).unwrap();
            while let Some(event) = session.next_event().unwrap() {
                let stopped = RingState { avail: 12, used: 12, ..RingState::default() };
                let (name, outcome) = match &event {
                    Event::QueueStart(start) => {
                        assert!(start.kick.is_some() && start.call.is_some() && start.err.is_some());
                        (format!("start {} {}", start.index, start.enabled), Outcome::Done)
                    }
                    Event::QueueStop { index, .. } => (format!("stop {index}"), Outcome::Stopped(stopped)),
                    Event::QueueEnable { index, enabled } => {
                        (format!("enable {index} {enabled}"), Outcome::Done)
                    }
                    Event::QueueCall { index, .. } => (format!("call {index}"), Outcome::Done),
                    Event::Memory { memory, .. } => {
                        (format!("memory {}", memory.regions().len()), Outcome::Done)
                    }
                    Event::Features { acknowledged, .. } => {
                        (format!("features {acknowledged:#x}"), Outcome::Done)
                    }
                    Event::Status(status) => (format!("status {status}"), Outcome::Done),
                    Event::BackendChannel(_) => ("channel".into(), Outcome::Done),
                    Event::ResetDevice => ("reset".into(), Outcome::Done),
                    other => panic!("{other:?}"),
                };
                told.push(name);
                session.finish(outcome);
            }
        }
        while let Some(outgoing) = session.next_outgoing() {
            answered.push(u32::from_ne_bytes(outgoing.bytes[..4].try_into().unwrap()));
        }
    }
    (told, answered)
}

#[test]
fn start_stop_and_start_again() {
    for piece in [1, 5, 12, 4096] {
        let mut session = Session::new(offer());
        let (told, answered) = play(&mut session, &start_up(), piece);
        let features = format!("features {:#x}", VERSION_1 | EVENT_IDX | MAC);
        let expected = [
            "channel",
            "reset",
            &features,
            "memory 1",
            "memory 2",
            "start 0 false",
            "call 0",
            "start 1 false",
            "call 1",
            "enable 0 true",
            "enable 1 true",
            "status 15",
        ];
        assert_eq!(told, expected, "pieces of {piece}");
        assert_eq!(answered, [1, 15, 17, 36, 21, 1, 37, 37, 18, 18, 39]);
        let (told, answered) = play(&mut session, &shut_down(), piece);
        assert_eq!(told, ["enable 0 false", "enable 1 false", "stop 0", "stop 1", "reset"]);
        assert_eq!(answered, [18, 18, 11, 11, 39]);
        // The guest starts again: memory is known, nothing resets once more, rings come with new fds.
        let again: Vec<_> = start_up()
            .into_iter()
            .filter(|Sent(id, ..)| ![1, 3, 15, 16, 17, 21, 34, 36, 37].contains(id))
            .collect();
        let (told, _) = play(&mut session, &again, piece);
        assert!(told.contains(&"start 0 false".into()) && told.contains(&"start 1 false".into()), "{told:?}");
    }
}

#[test]
fn many_messages_at_once_are_taken_one_by_one() {
    let mut session = Session::new(offer());
    let bytes: Vec<u8> = (0..100).flat_map(|_| message(1, 1, &[])).collect();
    session.receive(&bytes, vec![]).unwrap();
    let mut replies = 0;
    loop {
        assert!(session.next_event().unwrap().is_none());
        let before = replies;
        while session.next_outgoing().is_some() {
            replies += 1;
        }
        // Never more than a bounded number waits, however much was asked.
        assert!(replies - before <= 32);
        if replies == before {
            break;
        }
    }
    assert_eq!(replies, 100);
    assert_eq!(session.wanted(), 12);
}

#[test]
fn a_front_end_that_takes_no_replies_is_not_read_any_more() {
    let mut session = Session::new(offer());
    let mut asked = 0;
    while session.wanted() == 12 {
        session.receive(&message(1, 1, &[]), vec![]).unwrap();
        assert!(session.next_event().unwrap().is_none());
        asked += 1;
        assert!(asked < 1000);
    }
    assert_eq!((asked, session.wanted()), (32, 0));
    assert!(session.next_outgoing().is_some());
    assert_eq!(session.wanted(), 12);
}
