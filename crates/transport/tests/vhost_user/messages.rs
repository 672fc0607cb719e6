//! Each message by its bytes: what it does, what it answers, how it is refused.

use crate::wire::*;
use guestmem::{FrontendAddr, GuestAddr};
use std::os::fd::AsRawFd;
use transport::vhost_user::{
    Channel, Event, FrontendFault, MAPPED_MAX, MAPPINGS_MAX, Offer, Outcome, ProtocolFeatures, Request,
    Session,
};
use virtqueue::{QueueSize, RingArea, RingState};

fn number(payload: Vec<u8>) -> u64 {
    u64::from_ne_bytes(payload.try_into().unwrap())
}

#[test]
fn features_are_offered_with_the_transports_own_bits() {
    let mut wire = Wire::fresh();
    assert_eq!(number(wire.ask(1, &[])), MAC | EVENT_IDX | VERSION_1 | PACKED | LOG_ALL | PROTOCOL);
    // 0-5, 9, 12, 13, 15, 16, 20 and nothing else.
    assert_eq!(number(wire.ask(15, &[])), 0x11_b23f);
    let without_log = Offer { protocol: ProtocolFeatures::MQ, ..offer() };
    let mut wire = Wire { session: Session::new(without_log) };
    assert_eq!(number(wire.ask(1, &[])) & (LOG_ALL | PROTOCOL), PROTOCOL);
    assert_eq!(number(wire.ask(15, &[])), 1);
}

#[test]
fn acknowledged_features_reach_the_device_without_the_transports_bits() {
    let mut wire = Wire::fresh();
    let event = wire.event(2, &u64s(&[MAC | VERSION_1 | PROTOCOL]), vec![]).unwrap();
    assert!(matches!(event, Some(Event::Features { acknowledged, restart })
        if acknowledged == MAC | VERSION_1 && restart.is_empty()));
    wire.session.finish(Outcome::Done);
    let fault = wire.fault(2, &u64s(&[MAC | 1 << 60]), vec![]);
    assert_eq!(fault, FrontendFault::FeaturesNotOffered { bits: 1 << 60 });
    assert!(fault.to_string().contains("SET_FEATURES"));
    let fault = Wire::fresh().fault(16, &u64s(&[1 << 14 | 1]), vec![]);
    assert_eq!(fault, FrontendFault::ProtocolFeaturesNotOffered { bits: 1 << 14 });
}

#[test]
fn a_message_needs_its_protocol_feature() {
    let one_fd = [Request::SetLogBase, Request::SetBackendReqFd, Request::AddMemReg, Request::SetInflightFd];
    for &request in Request::ALL {
        let payload: Vec<u8> = match request {
            Request::GetConfig | Request::SetConfig => vec![0; 12],
            Request::SetLogBase => vec![0; 16],
            Request::GetInflightFd | Request::SetInflightFd => vec![0; 24],
            Request::AddMemReg | Request::RemMemReg => vec![0; 40],
            Request::SendRarp | Request::NetSetMtu | Request::SetStatus => vec![0; 8],
            Request::GetQueueNum
            | Request::SetBackendReqFd
            | Request::ResetDevice
            | Request::GetMaxMemSlots
            | Request::GetStatus => vec![],
            _ => continue,
        };
        let fds = if one_fd.contains(&request) { vec![eventfd()] } else { vec![] };
        let fault = Wire::fresh().fault(request as u32, &payload, fds);
        assert!(matches!(fault, FrontendFault::NotNegotiated { request: r, .. } if r == request), "{fault}");
        assert!(fault.to_string().starts_with(request.name()), "{fault}");
    }
}

#[test]
fn plain_questions_are_answered() {
    let mut wire = Wire::negotiated(VERSION_1);
    assert_eq!(number(wire.ask(17, &[])), 2);
    assert_eq!(number(wire.ask(36, &[])), 509);
    assert_eq!(number(wire.ask(40, &[])), 0);
    assert!(matches!(wire.event(39, &u64s(&[0x0f]), vec![]), Ok(Some(Event::Status(0x0f)))));
    wire.session.finish(Outcome::Done);
    assert_eq!(number(wire.ask(40, &[])), 0x0f);
    // Owner messages and the log eventfd are accepted and mean nothing.
    assert_eq!(wire.acknowledged(3, &[], vec![]), 0);
    assert_eq!(wire.acknowledged(4, &[], vec![]), 0);
    assert_eq!(wire.acknowledged(7, &[], vec![eventfd()]), 0);
    assert_eq!(wire.fault(39, &u64s(&[0x100]), vec![]), FrontendFault::Status { status: 0x100 });
}

#[test]
fn acknowledgements_come_after_the_host_and_only_once() {
    let mut wire = Wire::negotiated(VERSION_1);
    assert_eq!(wire.acknowledged(20, &u64s(&[1500]), vec![]), 0);
    wire.session.receive(&message(20, 9, &u64s(&[9000])), vec![]).unwrap();
    assert!(matches!(wire.session.next_event(), Ok(Some(Event::Mtu(9000)))));
    assert!(wire.session.next_event().unwrap().is_none(), "one event at a time");
    wire.session.finish(Outcome::Failed);
    assert_eq!(number(wire.reply(20).unwrap()), 1);
    wire.session.finish(Outcome::Done);
    assert!(wire.session.next_outgoing().is_none(), "a finish too many is ignored");
    // need_reply on a message with an answer of its own: that answer, once.
    wire.session.receive(&message(36, 9, &[]), vec![]).unwrap();
    assert!(wire.session.next_event().unwrap().is_none());
    assert_eq!(number(wire.reply(36).unwrap()), 509);
    assert!(wire.session.next_outgoing().is_none());
    // Not asked for: none.
    wire.quiet(20, &u64s(&[1500]), vec![]);
    assert!(wire.session.next_outgoing().is_none());
    // Not negotiated: none. Negotiated by this very message: there is one.
    let mut wire = Wire::fresh();
    wire.session.receive(&message(3, 9, &[]), vec![]).unwrap();
    assert!(wire.session.next_event().unwrap().is_none() && wire.session.next_outgoing().is_none());
    assert_eq!(wire.acknowledged(16, &u64s(&[1 << 3]), vec![]), 0);
}

#[test]
fn mtu_and_rarp_reach_the_device() {
    let mut wire = Wire::negotiated(VERSION_1);
    for mtu in [67, 65536, u64::MAX] {
        let fault = Wire::negotiated(VERSION_1).fault(20, &u64s(&[mtu]), vec![]);
        assert_eq!(fault, FrontendFault::Mtu { mtu });
    }
    let mac = [0x52, 0x54, 0, 1, 2, 3, 0, 0];
    let event = wire.event(19, &mac, vec![]).unwrap();
    assert!(matches!(event, Some(Event::AnnounceRarp([0x52, 0x54, 0, 1, 2, 3]))));
}

#[test]
fn the_configuration_is_read_written_and_announced() {
    let mut wire = Wire::negotiated(VERSION_1);
    let reply = wire.ask(24, &[u32s(&[58, 4, 0]), vec![0xee; 4]].concat());
    assert_eq!(reply, [u32s(&[58, 4, 0]), vec![59, 60, 0, 0]].concat(), "zeros past the device's end");
    let event = wire.event(25, &[u32s(&[6, 2, 1]), vec![7, 8]].concat(), vec![]).unwrap();
    let Some(Event::ConfigWrite { offset: 6, bytes, migration: true }) = event else { panic!("{event:?}") };
    assert_eq!(bytes, [7, 8]);
    wire.session.finish(Outcome::Done);
    wire.session.set_config(vec![9; 300]);
    assert_eq!(wire.ask(24, &[u32s(&[0, 256, 0]), vec![0; 256]].concat())[12..], [9; 256]);

    assert!(!wire.session.send_config_change(), "no channel yet");
    let event = wire.event(21, &[], vec![eventfd()]).unwrap();
    assert!(matches!(event, Some(Event::BackendChannel(_))));
    wire.session.finish(Outcome::Done);
    assert!(wire.session.send_config_change() && wire.session.send_config_change());
    let outgoing = wire.session.next_outgoing().unwrap();
    assert_eq!((outgoing.channel, outgoing.bytes), (Channel::Backend, message(2, 1, &[])));
    assert!(wire.session.next_outgoing().is_none(), "two changes, one message");
    assert!(wire.session.send_config_change());
    assert!(wire.session.next_outgoing().is_some());

    for (id, head) in [(24, [255, 2, 0]), (24, [u32::MAX, 2, 0]), (25, [0, 3, 0]), (25, [0, u32::MAX, 0])] {
        let payload = [u32s(&head), vec![0; 2]].concat();
        let fault = Wire::negotiated(VERSION_1).fault(id, &payload, vec![]);
        assert_eq!(fault.name(), "config-range", "{fault}");
    }
    let fault = wire.fault(25, &[u32s(&[0, 1, 2]), vec![0]].concat(), vec![]);
    assert_eq!(fault, FrontendFault::ConfigFlags { flags: 2 });
}

#[test]
fn a_ring_starts_when_all_is_known_in_any_order() {
    type Said<'a> = (u32, Vec<u8>, bool);
    let said: [Said; 4] = [
        (8, u32s(&[1, 256]), false),
        (9, vring_addr(1, false, 0x10_0000), false),
        (10, u32s(&[1, 77]), false),
        (12, u64s(&[1]), true),
    ];
    for turn in 0..4 {
        let mut wire = Wire::negotiated(VERSION_1 | EVENT_IDX);
        wire.quiet(13, &u64s(&[1]), vec![eventfd()]);
        wire.quiet(14, &u64s(&[1 | 0x100]), vec![]);
        wire.quiet(18, &u32s(&[1, 1]), vec![]);
        for step in 0..4 {
            let (id, payload, fd) = &said[(turn + step) % 4];
            let fds = if *fd { vec![eventfd()] } else { vec![] };
            let event = wire.event(*id, payload, fds).unwrap();
            if step < 3 {
                assert!(event.is_none(), "turn {turn}, step {step}: {event:?}");
                continue;
            }
            let Some(Event::QueueStart(start)) = event else { panic!("{event:?}") };
            assert_eq!((start.index, start.enabled), (1, true));
            assert!(start.kick.is_some() && start.call.is_some() && start.err.is_none());
            assert_eq!(start.setup.size.get(), 256);
            assert_eq!(start.setup.desc, GuestAddr(0x10_0000));
            assert_eq!(
                (start.setup.driver, start.setup.device),
                (GuestAddr(0x10_1000), GuestAddr(0x10_2000))
            );
            assert!(start.setup.features.event_idx && !start.setup.features.packed);
            assert!(start.setup.log.is_none());
            assert_eq!(start.state, RingState { avail: 77, used: 77, ..RingState::default() });
            wire.session.finish(Outcome::Done);
        }
    }
}

#[test]
fn a_ring_without_a_kick_fd_is_polled_and_memory_may_come_last() {
    let mut wire = Wire::fresh();
    wire.quiet(2, &u64s(&[VERSION_1]), vec![]);
    wire.describe_ring(0, 0, 0);
    assert!(wire.event(12, &u64s(&[0x100]), vec![]).unwrap().is_none(), "no memory yet");
    let event = wire.event(5, &mem_table(&[region(0, MIB)]), vec![memfd(MIB)]).unwrap();
    assert!(matches!(event, Some(Event::Memory { memory, restart })
        if memory.regions().len() == 1 && restart.is_empty()));
    wire.session.finish(Outcome::Done);
    let Some(Event::QueueStart(start)) = wire.session.next_event().unwrap() else { panic!() };
    assert!(start.kick.is_none());
    assert!(start.enabled, "without PROTOCOL_FEATURES a ring is enabled from the start");
}

#[test]
fn a_packed_base_carries_both_positions_and_their_wrap_bits() {
    for (base, expected) in [
        (0x8000_8000, RingState::default()),
        (0x0003_8005, RingState { avail: 5, avail_wrap: true, used: 3, used_wrap: false }),
        // DPDK leaves the upper half out.
        (0x8007, RingState { avail: 7, avail_wrap: true, used: 7, used_wrap: true }),
    ] {
        let mut wire = Wire::negotiated(VERSION_1 | PACKED);
        wire.describe_ring(0, 0, base);
        let Some(Event::QueueStart(start)) = wire.event(12, &u64s(&[0]), vec![eventfd()]).unwrap() else {
            panic!("{base:#x}")
        };
        assert_eq!(start.state, expected);
        assert!(start.setup.features.packed);
        wire.session.finish(Outcome::Done);
        let end = RingState { avail: 9, avail_wrap: false, used: 8, used_wrap: true };
        assert!(matches!(
            wire.event(11, &u32s(&[0, 0]), vec![]),
            Ok(Some(Event::QueueStop { index: 0, .. }))
        ));
        wire.session.finish(Outcome::Stopped(end));
        assert_eq!(wire.reply(11).unwrap(), u32s(&[0, 0x8008_0009]));
    }
    let mut wire = Wire::negotiated(VERSION_1 | PACKED);
    wire.describe_ring(0, 0, 0x8100_8100);
    let fault = wire.fault(12, &u64s(&[0]), vec![eventfd()]);
    assert_eq!(fault, FrontendFault::QueueBase { index: 0, base: 0x8100_8100 });
}

#[test]
fn get_vring_base_stops_the_ring_and_answers_once() {
    let mut wire = Wire::negotiated(VERSION_1);
    assert_eq!(wire.ask(11, &u32s(&[2, 0])), u32s(&[2, 0]), "a ring that never ran stands at 0");
    wire.describe_ring(2, 0, 5);
    assert_eq!(wire.ask(11, &u32s(&[2, 0])), u32s(&[2, 5]));
    wire.start_ring(0, 0);
    wire.session.receive(&message(11, 9, &u32s(&[0, 0])), vec![]).unwrap();
    assert!(matches!(wire.session.next_event(), Ok(Some(Event::QueueStop { index: 0, .. }))));
    assert!(wire.session.next_outgoing().is_none());
    wire.session.finish(Outcome::Stopped(RingState { avail: 300, used: 300, ..RingState::default() }));
    assert_eq!(wire.reply(11).unwrap(), u32s(&[0, 300]));
    assert!(wire.session.next_outgoing().is_none());
    // A new kick starts it where it stood, all else being known.
    let event = wire.event(12, &u64s(&[0]), vec![eventfd()]).unwrap();
    assert!(matches!(event, Some(Event::QueueStart(start)) if start.state.avail == 300));
}

#[test]
fn a_ring_that_the_host_cannot_start_is_stopped() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.describe_ring(0, 0, 0);
    wire.session.receive(&message(12, 9, &u64s(&[0])), vec![memfd(1)]).unwrap();
    assert!(matches!(wire.session.next_event(), Ok(Some(Event::QueueStart(_)))));
    wire.session.finish(Outcome::Failed);
    assert_eq!(number(wire.reply(12).unwrap()), 1);
    wire.quiet(10, &u32s(&[0, 3]), vec![]);
    let event = wire.event(12, &u64s(&[0]), vec![eventfd()]).unwrap();
    assert!(matches!(event, Some(Event::QueueStart(start)) if start.state.avail == 3));
}

#[test]
fn ring_messages_are_refused_by_name() {
    let fault = |id, payload: Vec<u8>, fds| Wire::negotiated(VERSION_1).fault(id, &payload, fds);
    for id in [8, 10, 11, 18] {
        let request = fault(id, u32s(&[4, 0]), vec![]);
        assert!(matches!(request, FrontendFault::QueueIndex { index: 4, last: 3, .. }), "{request}");
    }
    assert_eq!(fault(9, vring_addr(u32::MAX, false, 0), vec![]).name(), "queue-index");
    for size in [0, 1025, 0x1_0001, u32::MAX] {
        let expected = FrontendFault::QueueSize { index: 3, size, most: 1024 };
        assert_eq!(fault(8, u32s(&[3, size]), vec![]), expected);
    }
    assert_eq!(fault(18, u32s(&[0, 2]), vec![]), FrontendFault::QueueEnable { index: 0, value: 2 });
    let mut flags = vring_addr(0, false, 0);
    flags[4..8].copy_from_slice(&2u32.to_ne_bytes());
    assert_eq!(fault(9, flags, vec![]).name(), "reserved-bits");
    for id in [12, 13, 14] {
        assert_eq!(fault(id, u64s(&[4]), vec![eventfd()]).name(), "queue-index");
        assert_eq!(fault(id, u64s(&[0x200]), vec![]).name(), "reserved-bits");
        assert_eq!(fault(id, u64s(&[0]), vec![]).name(), "fd-count");
        assert_eq!(fault(id, u64s(&[0x100]), vec![eventfd()]).name(), "fd-count");
        assert_eq!(fault(id, u64s(&[0]), vec![eventfd(), eventfd()]).name(), "fd-count");
    }
}

#[test]
fn rings_outside_memory_misaligned_or_of_odd_size_do_not_start() {
    let start = |size: u32, payload: Vec<u8>| {
        let mut wire = Wire::negotiated(VERSION_1);
        wire.quiet(8, &u32s(&[0, size]), vec![]);
        wire.quiet(10, &u32s(&[0, 0]), vec![]);
        wire.quiet(9, &payload, vec![]);
        wire.fault(12, &u64s(&[0]), vec![eventfd()])
    };
    assert_eq!(start(100, vring_addr(0, false, 0)).name(), "queue-size");
    let address = FrontendAddr(USER + 0x8);
    let area = RingArea::Descriptor;
    let misaligned = FrontendFault::QueueMisaligned { index: 0, area, address, align: 16 };
    assert_eq!(start(256, vring_addr(0, false, 0x8)), misaligned);
    // The device area's last byte is past the end.
    let at = 16 * MIB - 0x2000 - 4 - 8 * 256 + 4;
    let outside = start(256, vring_addr(0, false, at & !15));
    let FrontendFault::QueueOutsideMemory { area: RingArea::Device, len: 2052, .. } = outside else {
        panic!("{outside}")
    };
    assert!(outside.to_string().contains("used ring") || outside.to_string().contains("device area"));
    for at in [16 * MIB, u64::MAX - USER - 0x2000] {
        assert_eq!(start(256, vring_addr(0, false, at & !15)).name(), "queue-outside-memory");
    }
    let mut wire = Wire::negotiated(VERSION_1);
    wire.describe_ring(0, 0, 0x1_0000);
    assert_eq!(wire.fault(12, &u64s(&[0]), vec![eventfd()]).name(), "queue-base");
}

#[test]
fn memory_maps_that_cannot_be_are_refused_by_name() {
    let fault = |id, payload: Vec<u8>, fds| Wire::negotiated(VERSION_1).fault(id, &payload, fds);
    let two = mem_table(&[region(0, MIB), region(MIB - 4096, MIB)]);
    assert_eq!(fault(5, two, vec![memfd(MIB), memfd(MIB)]).name(), "memory");
    let memory = memfd(MIB);
    let add = |region| fault(37, mem_reg(region), vec![memory.try_clone().unwrap()]);
    assert!(add(region(0x8000, MIB)).to_string().contains("overlap"));
    assert_eq!(add(region(64 * MIB, MIB + 1)).name(), "map-file-too-small");
    assert_eq!(add(region(64 * MIB, 0)).name(), "map-length");
    assert_eq!(add(region(64 * MIB, u64::MAX)).name(), "session-memory");
    assert_eq!(add([64 * MIB, MIB, USER, u64::MAX]).name(), "map-length");
    assert_eq!(add([u64::MAX - 4096, MIB, USER, 0]).name(), "memory");
    assert_eq!(add([64 * MIB, MIB, u64::MAX - 4096, 0]).name(), "memory");
    // No memory: an eventfd, a file of procfs, and a file that may only be read.
    let with = |fd| fault(37, mem_reg(region(64 * MIB, MIB)), vec![fd]);
    assert_eq!(with(eventfd()), FrontendFault::MapFileKind { request: Request::AddMemReg });
    let foreign = with(std::fs::File::open("/proc/self/maps").unwrap().into());
    assert_eq!(foreign, FrontendFault::MapFileSystem { request: Request::AddMemReg, magic: 0x9fa0 });
    assert!(foreign.to_string().contains("accepted are files of tmpfs"), "{foreign}");
    let readable = format!("/proc/self/fd/{}", memory.as_raw_fd());
    assert_eq!(with(std::fs::File::open(readable).unwrap().into()).name(), "map-refused");
    // Counts that disagree with the payload, the descriptors, or reason.
    let table = |count: u32, bytes: usize| [u32s(&[count, 0]), vec![0; bytes]].concat();
    for (count, bytes) in [(1, 0), (1, 31), (0, 32), (33, 1024), (u32::MAX, 32)] {
        assert_eq!(fault(5, table(count, bytes), vec![]).name(), "region-count");
    }
    let one = mem_table(&[region(0, MIB)]);
    assert_eq!(fault(5, one.clone(), vec![]).name(), "fd-count");
    assert_eq!(fault(5, one, vec![memfd(MIB), memfd(MIB)]).name(), "fd-count");
    let gone = mem_reg(region(MIB, MIB));
    assert_eq!(fault(38, gone, vec![]).name(), "region-unknown");
    let log = u64s(&[4096, 0]);
    assert_eq!(fault(6, log, vec![memfd(4095)]).name(), "map-file-too-small");
}

#[test]
fn one_sparse_file_does_not_eat_the_address_space() {
    const TIB: u64 = 1 << 40;
    let file = memfd(4 * TIB);
    let with = || vec![file.try_clone().unwrap()];
    let fresh = || {
        let mut wire = Wire::fresh();
        wire.quiet(16, &u64s(&[ProtocolFeatures::all().bits()]), vec![]);
        wire
    };
    let refused = |request, len, mapped| FrontendFault::SessionMemory { request, len, mapped, most: 4 * TIB };
    assert_eq!(MAPPED_MAX, 4 * TIB);

    // Region by region: what was removed may be mapped again.
    let mut wire = fresh();
    for at in [0, 4 * TIB] {
        wire.quiet(37, &mem_reg(region(at, 2 * TIB)), with());
    }
    wire.quiet(38, &mem_reg(region(0, 2 * TIB)), vec![]);
    wire.quiet(37, &mem_reg(region(8 * TIB, 2 * TIB)), with());
    let fault = wire.fault(37, &mem_reg(region(16 * TIB, 4096)), with());
    assert_eq!(fault, refused(Request::AddMemReg, 4096, 4 * TIB));
    assert!(fault.to_string().contains("accepted are 0x40000000000 in all"), "{fault}");

    // Table by table: the old one is there until the new one is.
    let mut wire = fresh();
    for _ in 0..3 {
        wire.quiet(5, &mem_table(&[region(0, 2 * TIB)]), with());
    }
    let fault = wire.fault(5, &mem_table(&[region(0, 2 * TIB + 4096)]), with());
    assert_eq!(fault, refused(Request::SetMemTable, 2 * TIB + 4096, 2 * TIB));

    // A table that the host still holds, for a suspended ring, counts for as long as it does.
    let mut wire = fresh();
    wire.quiet(5, &mem_table(&[region(0, 2 * TIB)]), with());
    let held = wire.session.memory().clone();
    wire.quiet(5, &mem_table(&[region(0, TIB)]), with());
    let more = mem_table(&[region(0, TIB + 4096)]);
    wire.quiet(5, &mem_table(&[region(0, TIB)]), with());
    drop(held);
    wire.quiet(5, &more, with());
    let _held = wire.session.memory().clone();
    wire.quiet(5, &mem_table(&[region(0, TIB)]), with());
    let fault = wire.fault(5, &mem_table(&[region(0, 2 * TIB)]), with());
    assert_eq!(fault, refused(Request::SetMemTable, 2 * TIB, 2 * TIB + 4096));
}

#[test]
fn one_session_holds_a_bounded_number_of_mappings() {
    let mut wire = Wire::fresh();
    let file = memfd(32 * 4096);
    let table: Vec<_> = (0..32).map(|at| region(at * MIB, 4096)).collect();
    let fds = || (0..32).map(|_| file.try_clone().unwrap()).collect();
    let mut held = Vec::new();
    let fault = loop {
        match wire.try_quiet(5, &mem_table(&table), fds()) {
            Ok(()) => held.push(wire.session.memory().clone()),
            Err(fault) => break fault,
        }
        assert!(held.len() < 100);
    };
    let request = Request::SetMemTable;
    assert_eq!(fault, FrontendFault::SessionMappings { request, most: MAPPINGS_MAX });
    assert_eq!(held.len(), MAPPINGS_MAX / 32);
}

#[test]
fn a_log_is_as_long_as_the_guest_addresses_need_and_some_more() {
    // 16 MiB of memory need 512 bytes; memory that may yet be added needs 128 MiB.
    let most = 512 + 128 * MIB;
    let file = memfd(256 * MIB);
    let mut wire = Wire::negotiated(VERSION_1);
    for size in [512, most] {
        wire.quiet(6, &u64s(&[size, 0]), vec![file.try_clone().unwrap()]);
        assert_eq!(wire.reply(6).unwrap(), u64s(&[size, 0]));
    }
    let fault = wire.fault(6, &u64s(&[most + 1, 0]), vec![file.try_clone().unwrap()]);
    assert_eq!(fault, FrontendFault::LogSize { size: most + 1, most });
    // Memory at the very top of the guest's addresses needs more than one session may map.
    let mut wire = Wire::negotiated(VERSION_1);
    wire.quiet(37, &mem_reg([1 << 63, MIB, USER + 64 * MIB, 0]), vec![memfd(MIB)]);
    let fault = wire.fault(6, &u64s(&[1 << 48, 0]), vec![file]);
    assert_eq!(fault.name(), "session-memory");
}

#[test]
fn five_hundred_and_nine_regions_come_and_go_one_by_one() {
    let mut wire = Wire::fresh();
    wire.quiet(16, &u64s(&[ProtocolFeatures::all().bits()]), vec![]);
    let file = memfd(509 * 4096);
    let add = |wire: &mut Wire, slot: u64| {
        let place = [slot * MIB, 4096, USER + slot * MIB, (slot % 509) * 4096];
        wire.try_quiet(37, &mem_reg(place), vec![file.try_clone().unwrap()])
    };
    for slot in 0..509 {
        add(&mut wire, slot).unwrap();
    }
    let memory = wire.session.memory().clone();
    assert_eq!(memory.regions().len(), 509);
    memory.slice(GuestAddr(300 * MIB), 4).unwrap().write(b"slot");
    let mut bytes = [0; 4];
    rustix::io::pread(&file, &mut bytes, 300 * 4096).unwrap();
    assert_eq!(&bytes, b"slot");
    // The offset is not compared; a descriptor that old front-ends attach is only closed.
    wire.quiet(38, &mem_reg([7 * MIB, 4096, USER + 7 * MIB, 99]), vec![eventfd()]);
    assert_eq!(wire.session.memory().regions().len(), 508);
    assert_eq!(wire.session.memory().guest_of_frontend(FrontendAddr(USER + 7 * MIB)), None);
    add(&mut wire, 600).unwrap();
    assert_eq!(add(&mut wire, 601).unwrap_err(), FrontendFault::RegionSlots { most: 509 });
}

#[test]
fn reset_device_stops_everything_and_keeps_memory_and_protocol() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.start_ring(0, 0);
    wire.quiet(39, &u64s(&[0xf]), vec![]);
    assert!(matches!(wire.event(34, &[], vec![]), Ok(Some(Event::ResetDevice))));
    wire.session.finish(Outcome::Done);
    assert_eq!(number(wire.ask(40, &[])), 0);
    assert_eq!(wire.session.memory().regions().len(), 1);
    // Other features than before are fine again, and the ring is to be described anew.
    wire.quiet(2, &u64s(&[PROTOCOL | VERSION_1 | PACKED]), vec![]);
    assert!(wire.event(12, &u64s(&[0]), vec![eventfd()]).unwrap().is_none());
    wire.quiet(8, &u32s(&[0, 64]), vec![]);
    wire.quiet(10, &u32s(&[0, 0x8000_8000]), vec![]);
    let event = wire.event(9, &vring_addr(0, false, 0), vec![]).unwrap();
    assert!(matches!(event, Some(Event::QueueStart(start)) if !start.enabled && start.setup.features.packed));
}

#[test]
fn a_status_of_zero_resets_the_device_whether_rings_run_or_not() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.quiet(39, &u64s(&[0xf]), vec![]);
    for running in [true, false] {
        if running {
            wire.start_ring(0, 0);
            wire.start_ring(2, 0x10_0000);
            wire.quiet(18, &u32s(&[0, 1]), vec![]);
        }
        wire.session.receive(&message(39, 9, &u64s(&[0])), vec![]).unwrap();
        assert!(matches!(wire.session.next_event(), Ok(Some(Event::ResetDevice))));
        assert_eq!(wire.reply(39), None, "acknowledged before the host had finished");
        wire.session.finish(Outcome::Done);
        assert!(wire.session.next_event().unwrap().is_none(), "one event, and no Status besides");
        assert_eq!(number(wire.reply(39).unwrap()), 0);
        assert_eq!(number(wire.ask(40, &[])), 0);
        // Every ring is stopped: the host is not asked for its base, and a size is taken.
        assert_eq!(wire.ask(11, &u32s(&[2, 0])), u32s(&[2, 0]));
        wire.quiet(8, &u32s(&[2, 64]), vec![]);
        assert_eq!(wire.session.memory().regions().len(), 1);
    }
    // The device starts again from the features on.
    wire.quiet(2, &u64s(&[PROTOCOL | VERSION_1 | EVENT_IDX]), vec![]);
    wire.describe_ring(0, 0, 0);
    let event = wire.event(12, &u64s(&[0]), vec![eventfd()]).unwrap();
    assert!(matches!(event, Some(Event::QueueStart(start))
        if !start.enabled && start.setup.features.event_idx && start.state == RingState::default()));
}

#[test]
fn offers_are_cut_to_what_the_protocol_can_say() {
    let huge = Offer {
        protocol: ProtocolFeatures::from_bits_retain(u64::MAX),
        queues_max: u16::MAX,
        queue_size_max: QueueSize::MAX,
        config: vec![1; 1000],
        ..offer()
    };
    let mut wire = Wire { session: Session::new(huge) };
    assert_eq!(number(wire.ask(15, &[])), 0x11_b23f);
    wire.quiet(8, &u32s(&[255, 32768]), vec![]);
    assert_eq!(wire.fault(8, &u32s(&[256, 1]), vec![]).name(), "queue-index");
}
