//! Captures whole: points, queue, filter and pcapng together.

mod filter;
mod flood;
mod pcapng;

use super::*;

/// A frame of 60 bytes with `mark` behind its header.
fn marked(mark: u32) -> Vec<u8> {
    let mut frame = vec![0u8; 60];
    frame[..14].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5]);
    frame[14..18].copy_from_slice(&mark.to_be_bytes());
    frame
}

fn offer(point: &CapturePoint, frame: &[u8], reason: Option<&'static str>) {
    let sighting = Sighting {
        at_ns: 1_700_000_000_123_456_789,
        direction: if reason.is_some() { Direction::Ingress } else { Direction::Egress },
        reason,
        head: &frame[..frame.len().min(256)],
        frame_len: frame.len() as u32,
    };
    point.offer(&sighting, |out| out.copy_from_slice(&frame[..out.len()]));
}

fn taken(stream: &CaptureStream) -> Vec<Record> {
    std::iter::from_fn(|| stream.take()).collect()
}

fn request(ports: &[&str]) -> CaptureRequest {
    CaptureRequest { ports: ports.iter().map(|name| (*name).into()).collect(), ..CaptureRequest::default() }
}

#[test]
fn a_point_is_on_while_something_is_captured_there() {
    let captures = Captures::default();
    let (web, db) = (captures.point("web", ""), captures.point("db", ""));
    let frame = marked(1);
    offer(&web, &frame, None);
    let of_web = captures.start(&request(&["web"])).expect("started");
    let of_all = captures.start(&request(&[])).expect("started");
    assert!(web.is_on() && db.is_on());
    offer(&web, &frame, None);
    offer(&db, &frame, None);
    assert_eq!((taken(&of_web).len(), taken(&of_all).len()), (1, 2));
    drop(of_all);
    assert!(web.is_on() && !db.is_on());
    offer(&web, &frame, None);
    assert_eq!(taken(&of_web).len(), 1);
    drop(of_web);
    assert!(!web.is_on());
}

#[test]
fn a_capture_goes_on_at_ports_that_come_later() {
    let captures = Captures::default();
    let first = captures.point("web", "");
    let of_web = captures.start(&request(&["web"])).expect("started");
    let of_all = captures.start(&request(&[])).expect("started");
    offer(&first, &marked(1), None);
    drop(first);
    let (again, other) = (captures.point("web", ""), captures.point("db", ""));
    assert!(again.is_on() && other.is_on());
    offer(&again, &marked(2), None);
    offer(&other, &marked(3), None);
    let interfaces = |records: Vec<Record>| records.iter().map(|record| record.interface).collect::<Vec<_>>();
    assert_eq!(interfaces(taken(&of_web)), [0, 1]);
    assert_eq!(interfaces(taken(&of_all)), [0, 1, 2]);
}

#[test]
fn what_cannot_begin_is_refused_by_name() {
    let captures = Captures::default();
    let _web = captures.point("web", "");
    let refused = |request: &CaptureRequest| captures.start(request).map(drop);
    assert_eq!(refused(&request(&["web", "nil"])), Err(CaptureError::UnknownPort("nil".into())));
    let wrong = CaptureRequest { filter: "colour red".into(), ..request(&[]) };
    assert!(matches!(refused(&wrong), Err(CaptureError::Filter(_))));
    let running: Vec<_> =
        (0..CAPTURES_MAX).map(|_| captures.start(&request(&[])).expect("started")).collect();
    assert_eq!(refused(&request(&[])), Err(CaptureError::TooMany));
    drop(running);
    assert_eq!(refused(&request(&[])), Ok(()));
}

#[test]
fn a_record_shows_the_head_that_was_judged_and_no_more_than_was_asked_for() {
    let captures = Captures::default();
    let point = captures.point("web", "");
    let whole = captures.start(&request(&[])).expect("started");
    let short = captures.start(&CaptureRequest { snap_len: 20, ..request(&[]) }).expect("started");
    // What a guest might have written over its frame after the head was read.
    let copies = std::cell::Cell::new(0);
    let copy = |out: &mut [u8]| {
        copies.set(copies.get() + 1);
        out.fill(0xee);
    };
    let sighting = Sighting {
        at_ns: 5,
        direction: Direction::Ingress,
        reason: Some("vlan"),
        head: &[7; 30],
        frame_len: 100,
    };
    point.offer(&sighting, copy);
    assert_eq!(copies.get(), 1, "the short capture needs no copy");
    let record = whole.take().expect("a record");
    assert_eq!(record.data[..], [[7; 30].as_slice(), &[0xee; 70]].concat());
    assert_eq!((record.frame_len, record.reason, record.direction), (100, Some("vlan"), Direction::Ingress));
    let record = short.take().expect("a record");
    assert_eq!((&record.data[..], record.frame_len), (&[7; 20][..], 100));
}

#[test]
fn drops_only_and_filters_keep_the_rest_out() {
    let captures = Captures::default();
    let point = captures.point("web", "");
    let drops = captures.start(&CaptureRequest { drops_only: true, ..request(&[]) }).expect("started");
    let filter = "ether proto 0x88b6".to_owned();
    let others = captures.start(&CaptureRequest { filter, ..request(&[]) }).expect("started");
    offer(&point, &marked(1), None);
    offer(&point, &marked(2), Some("locked"));
    assert_eq!(taken(&drops).iter().map(|record| record.reason).collect::<Vec<_>>(), [Some("locked")]);
    assert_eq!((taken(&others).len(), others.missed()), (0, 0));
}
