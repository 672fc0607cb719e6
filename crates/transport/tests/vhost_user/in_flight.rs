//! What is in flight: memory that the front-end gets, keeps and brings back.

use crate::wire::*;
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use transport::vhost_user::{
    Channel, Event, FrontendFault, Offer, Outcome, ProtocolFeatures, QueueStart, Request, Session,
};
use virtqueue::{
    Burst, DeviceQueue, DriverQueue, InFlightLog, QueueSize, RingFeatures, RingState, SetupFault,
};

const GET: u32 = 31;
const SET: u32 = 32;

/// Size, offset, queues, entries of each, padding.
fn description(size: u64, offset: u64, queues: u16, entries: u16) -> Vec<u8> {
    let mut bytes = u64s(&[size, offset]);
    bytes.extend([queues, entries, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
    bytes
}

fn region_size(entries: u16, packed: bool) -> u64 {
    InFlightLog::region_size(QueueSize::try_from(entries).unwrap(), packed) as u64
}

/// Asks for memory; its description, and the descriptor if there is one.
fn get(wire: &mut Wire, payload: &[u8]) -> (Vec<u8>, OwnedFd) {
    assert!(wire.event(GET, payload, vec![]).unwrap().is_none());
    let reply = wire.session.next_outgoing().unwrap();
    assert_eq!((reply.channel, &reply.bytes[..12]), (Channel::Main, &message(GET, 5, payload)[..12]));
    assert_eq!(reply.fds.len(), 1);
    (reply.bytes[12..].to_vec(), reply.fds[0].try_clone().unwrap())
}

fn started(event: Option<Event>) -> QueueStart {
    let Some(Event::QueueStart(start)) = event else { panic!("{event:?}") };
    *start
}

/// Starts ring `index` of 256 entries.
fn start(wire: &mut Wire, index: u32, at: u64) -> QueueStart {
    wire.describe_ring(index, at, 0);
    let start = started(wire.event(12, &u64s(&[index.into()]), vec![eventfd()]).unwrap());
    wire.session.finish(Outcome::Done);
    start
}

#[test]
fn memory_is_made_for_every_queue_of_either_form() {
    let mut wire = Wire::negotiated(VERSION_1);
    let need = 3 * region_size(256, true);
    for len in [24, 20] {
        let (described, file) = get(&mut wire, &description(0, 0, 3, 256)[..len]);
        assert_eq!(described, description(need, 0, 3, 256)[..len], "as long as the question");
        let mut bytes = vec![1; need as usize + 1];
        assert_eq!(rustix::io::pread(file.as_fd(), &mut bytes, 0).unwrap() as u64, need);
        assert!(bytes[..need as usize].iter().all(|&byte| byte == 0));
        assert_eq!(wire.acknowledged(SET, &described, vec![file]), 0);
    }
    // need_reply changes nothing: the answer, once.
    wire.session.receive(&message(GET, 9, &description(0, 0, 1, 1)), vec![]).unwrap();
    assert!(wire.session.next_event().unwrap().is_none());
    assert!(wire.session.next_outgoing().is_some() && wire.session.next_outgoing().is_none());
}

#[test]
fn each_ring_has_its_own_region() {
    for (packed, offset) in [(false, 0), (true, 0), (false, 4096 + 8)] {
        let form = if packed { PACKED } else { 0 };
        let mut wire = Wire::negotiated(VERSION_1 | form);
        assert!(start(&mut wire, 3, 0).setup.in_flight.is_none(), "no memory yet");
        wire.quiet(11, &u32s(&[3, 0]), vec![]);
        assert!(wire.reply(11).is_some());
        let len = region_size(512, packed);
        let file = memfd(offset + 2 * len);
        let described = description(2 * len, offset, 2, 512);
        wire.quiet(SET, &described, vec![file.try_clone().unwrap()]);
        for (index, at) in [(0, 0x10_0000), (1, 0x20_0000)] {
            let start = start(&mut wire, index, at);
            assert!(start.setup.in_flight.is_some());
            DeviceQueue::new(wire.session.memory(), &start.setup, RingState::default()).unwrap();
            let mut header = [0; 4];
            let place = offset + u64::from(index) * len + 8;
            rustix::io::pread(file.as_fd(), &mut header, place).unwrap();
            assert_eq!(header[..], [1u16.to_ne_bytes(), 256u16.to_ne_bytes()].concat(), "version, entries");
        }
        assert!(start(&mut wire, 2, 0x30_0000).setup.in_flight.is_none(), "said for two queues");
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let refused = |payload: Vec<u8>, fds: Vec<OwnedFd>| Wire::negotiated(VERSION_1).fault(SET, &payload, fds);
    let one = || vec![memfd(MIB)];
    for request in [Request::GetInflightFd, Request::SetInflightFd] {
        let fds = || if request == Request::SetInflightFd { one() } else { vec![] };
        for queues in [0, 5, u16::MAX] {
            let fault =
                Wire::negotiated(VERSION_1).fault(request as u32, &description(MIB, 0, queues, 8), fds());
            assert_eq!(fault, FrontendFault::InFlightQueues { request, queues, most: 4 });
        }
        for size in [0, 1025, u16::MAX] {
            let fault =
                Wire::negotiated(VERSION_1).fault(request as u32, &description(MIB, 0, 1, size), fds());
            assert_eq!(fault, FrontendFault::InFlightQueueSize { request, size, most: 1024 });
        }
    }
    let need = 4 * region_size(1024, false);
    let fault = refused(description(need - 1, 0, 4, 1024), one());
    assert_eq!(fault, FrontendFault::InFlightSize { size: need - 1, need });
    assert_eq!(refused(description(MIB, MIB, 1, 8), one()).name(), "map-file-too-small");
    assert_eq!(refused(description(MIB, u64::MAX, 1, 8), one()).name(), "map-length");
    assert_eq!(refused(description(MIB, 0, 1, 8), vec![eventfd()]).name(), "map-file-kind");
    assert_eq!(refused(description(MIB, 0, 1, 8), vec![]).name(), "fd-count");
    assert_eq!(refused(description(MIB, 0, 1, 8)[..16].to_vec(), one()).name(), "payload-size");
    // A number that allocates nothing: only what the queues need is mapped.
    let mut wire = Wire::negotiated(VERSION_1);
    wire.quiet(SET, &description(u64::MAX, 0, 1, 8), one());

    let mut wire = Wire::negotiated(VERSION_1);
    wire.quiet(SET, &description(MIB, 0, 1, 128), one());
    wire.describe_ring(0, 0, 0);
    let fault = wire.fault(12, &u64s(&[0]), vec![eventfd()]);
    assert_eq!(fault, FrontendFault::InFlightRing { index: 0, size: 256, most: 128 });

    let mut wire = Wire::negotiated(VERSION_1);
    wire.start_ring(1, 0);
    assert_eq!(wire.fault(SET, &description(MIB, 0, 1, 8), one()), FrontendFault::InFlightWhileRunning);

    // Said of a split ring, too small for the packed one that comes.
    let mut wire = Wire::negotiated(VERSION_1);
    let size = region_size(256, false);
    wire.quiet(SET, &description(size, 0, 1, 256), one());
    wire.quiet(2, &u64s(&[VERSION_1 | PACKED | PROTOCOL]), vec![]);
    wire.describe_ring(0, 0, 0x8000_8000);
    let fault = wire.fault(12, &u64s(&[0]), vec![eventfd()]);
    assert_eq!(fault, FrontendFault::InFlightSize { size, need: region_size(256, true) });
}

#[test]
fn a_reset_forgets_it() {
    for (id, payload) in [(34, vec![]), (39, u64s(&[0]))] {
        let mut wire = Wire::negotiated(VERSION_1);
        wire.quiet(SET, &description(MIB, 0, 1, 256), vec![memfd(MIB)]);
        assert!(start(&mut wire, 0, 0).setup.in_flight.is_some());
        wire.quiet(id, &payload, vec![]);
        wire.quiet(2, &u64s(&[VERSION_1 | PROTOCOL]), vec![]);
        assert!(start(&mut wire, 0, 0).setup.in_flight.is_none());
    }
}

#[test]
fn a_running_ring_keeps_its_record_when_memory_changes() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.quiet(SET, &description(MIB, 0, 1, 256), vec![memfd(MIB)]);
    start(&mut wire, 0, 0);
    let event = wire.event(37, &mem_reg(region(64 * MIB, MIB)), vec![memfd(MIB)]).unwrap();
    let Some(Event::Memory { restart, .. }) = event else { panic!("{event:?}") };
    assert!(restart[0].setup.as_ref().unwrap().in_flight.is_some());
}

#[test]
fn requests_may_be_left_in_flight_only_where_that_was_agreed_on() {
    let both = ProtocolFeatures::INFLIGHT_SHMFD | ProtocolFeatures::GET_VRING_BASE_INFLIGHT;
    for (acknowledged, has_memory, expected) in [
        (both, true, false),
        (both, false, true),
        (ProtocolFeatures::INFLIGHT_SHMFD, true, true),
        (ProtocolFeatures::empty(), false, true),
    ] {
        let mut wire = Wire::negotiated(VERSION_1);
        wire.quiet(16, &u64s(&[acknowledged.bits()]), vec![]);
        if has_memory {
            wire.quiet(SET, &description(MIB, 0, 1, 256), vec![memfd(MIB)]);
        }
        start(&mut wire, 0, 0);
        let event = wire.event(11, &u32s(&[0, 0]), vec![]).unwrap();
        assert!(
            matches!(event, Some(Event::QueueStop { index: 0, drain }) if drain == expected),
            "{event:?}"
        );
        // Seven popped, two of them not completed: the front-end learns what was popped.
        wire.session.finish(Outcome::Stopped(RingState { avail: 7, used: 5, ..RingState::default() }));
        assert_eq!(wire.reply(11).unwrap(), u32s(&[0, 7]));
    }
    let without = Offer { protocol: ProtocolFeatures::GET_VRING_BASE_INFLIGHT, ..offer() };
    let mut wire = Wire { session: Session::new(without) };
    assert_eq!(wire.ask(15, &[]), u64s(&[0]), "not offered without the memory");
}

/// One life of a back-end: everything is told again, as QEMU does it.
fn connect(features: u64, guest: &OwnedFd, record: &(Vec<u8>, OwnedFd), at: u64) -> (Wire, QueueStart) {
    let mut wire = Wire::fresh();
    wire.quiet(16, &u64s(&[ProtocolFeatures::all().bits()]), vec![]);
    wire.quiet(2, &u64s(&[features | PROTOCOL]), vec![]);
    wire.quiet(SET, &record.0, vec![record.1.try_clone().unwrap()]);
    wire.quiet(5, &mem_table(&[region(0, 16 * MIB)]), vec![guest.try_clone().unwrap()]);
    // For a killed back-end's packed ring the front-end knows nothing newer than the beginning.
    wire.describe_ring(1, at, if features & PACKED != 0 { 0x8000_8000 } else { 0 });
    let start = started(wire.event(12, &u64s(&[1]), vec![eventfd()]).unwrap());
    (wire, start)
}

#[test]
fn the_next_back_end_finds_what_was_in_flight() {
    for form in [0, PACKED] {
        let (features, at) = (VERSION_1 | form, MIB);
        let guest = memfd(16 * MIB);
        let mut first = Wire::negotiated(features);
        let record = get(&mut first, &description(0, 0, 2, 256));
        let mapping = Arc::new(Mapping::file(&guest, 0, 16 * MIB).unwrap());
        let memory = Region::new(GuestAddr(0), FrontendAddr(0), 16 * MIB, mapping).unwrap();
        let memory = Arc::new(GuestMemory::new(vec![memory]).unwrap());

        let (wire, start) = connect(features, &guest, &record, at);
        let ring_features = RingFeatures { packed: form != 0, ..RingFeatures::default() };
        assert_eq!(start.setup.features, ring_features);
        let mut driver = DriverQueue::attach(&memory, &start.setup, None).unwrap();
        for token in 0..6 {
            driver.add(&[(GuestAddr(8 * MIB + token), 1 + token as u32)], &[], token).unwrap();
        }
        driver.publish();
        let place = Arc::clone(wire.session.memory());
        let mut queue = DeviceQueue::new(&place, &start.setup, start.state).unwrap();
        let mut burst = Burst::new();
        assert_eq!(queue.pop(&place, &mut burst, 4), Ok(4));
        let mut held: Vec<_> = std::iter::from_fn(|| burst.take()).collect();
        // The third and the second one end before the others; then the back-end does.
        queue.complete(&burst, held.remove(2), 0);
        queue.complete(&burst, held.remove(1), 0);
        queue.flush();
        drop((held, burst, queue, wire));

        let (wire, start) = connect(features, &guest, &record, at);
        let place = Arc::clone(wire.session.memory());
        let mut queue = DeviceQueue::new(&place, &start.setup, start.state).unwrap();
        let mut lens = Vec::new();
        let mut burst = Burst::new();
        while queue.pop(&place, &mut burst, 9).unwrap() > 0 {}
        while let Some(chain) = burst.take() {
            lens.push(chain.readable_len());
            queue.complete(&burst, chain, 0);
        }
        queue.flush();
        assert_eq!(lens, [1, 4, 5, 6], "what was left, in its order, then what is new");
        let used: Vec<u64> =
            std::iter::from_fn(|| driver.pop_used().unwrap()).map(|(token, _)| token).collect();
        assert_eq!(used, [2, 1, 0, 3, 4, 5], "each once");
    }
}

#[test]
fn a_record_that_is_none_does_not_start_a_queue() {
    let guest = memfd(16 * MIB);
    let file = memfd(MIB);
    rustix::io::pwrite(file.as_fd(), &9u16.to_ne_bytes(), region_size(256, false) + 8).unwrap();
    let (wire, start) = connect(VERSION_1, &guest, &(description(MIB, 0, 2, 256), file), MIB);
    let fault = DeviceQueue::new(wire.session.memory(), &start.setup, start.state).err();
    assert!(matches!(fault, Some(SetupFault::InFlight(_))), "{fault:?}");
}
