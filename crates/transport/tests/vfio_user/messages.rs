//! Each message: what it answers, and what it refuses.

use crate::wire::*;
use std::os::fd::OwnedFd;
use transport::pci::{Interface, NotifyKind, SharedMemory};
use transport::vfio_user::{Event, Offer, OfferFault, Session};

fn modern() -> Wire {
    Wire::greeted(description(Interface::Modern))
}

#[test]
fn the_first_message_is_the_version() {
    for command in [0, DMA_MAP, GET_INFO, RESET, 99] {
        let mut wire = Wire::fresh(description(Interface::Modern));
        assert_eq!(wire.fault(&message(0, command, 0, &[0; 32])), "no-version");
    }
    let mut wire = Wire::fresh(description(Interface::Modern));
    assert_eq!(wire.session.wanted(), 16);
    let reply = wire.ask(VERSION, &version(QEMU_CAPABILITIES));
    assert!(reply.starts_with(&[0; 4]) && reply.ends_with(b"}\0"));
    assert_eq!(wire.refused(VERSION, &version("{}")), EINVAL, "said twice");
    let mut wire = Wire::fresh(description(Interface::Modern));
    assert_eq!(wire.fault(&message(0, VERSION, 0, &[1, 0, 0, 0])), "version");
    let mut wire = Wire::fresh(description(Interface::Modern));
    assert_eq!(wire.fault(&message(0, VERSION, 0, &version("[]"))), "version-data");
}

#[test]
fn a_stream_that_cannot_be_followed_ends_the_session() {
    let mut sizes = message(0, GET_INFO, 0, &[]);
    for size in [0u32, 15, 16 + 16 + (1 << 20) + 1, u32::MAX] {
        sizes[4..8].copy_from_slice(&size.to_le_bytes());
        assert_eq!(modern().fault(&sizes), "message-size", "{size}");
    }
    assert_eq!(modern().fault(&message(0, GET_INFO, 2, &[0; 16])), "message-type");
    assert_eq!(modern().fault(&message(0, 11, 1, &[0; 16])), "unexpected-reply");
}

#[test]
fn commands_that_are_not_known_or_not_offered_are_answered_so() {
    let mut wire = modern();
    // Unknown numbers, DMA the wrong way round, DIRTY_PAGES, DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE.
    for command in [0, 19, 1000, u16::MAX, 11, 12, 14, 16, 17, 18] {
        assert_eq!(wire.refused(command, &[1; 40]), ENOTSUP, "{command}");
        wire.post(command, &[1; 40]);
    }
    // The stream goes on behind them.
    assert_eq!(words(&wire.ask(GET_INFO, &u32s(&[16, 0, 0, 0]))), [16, 3, 9, 5]);
}

#[test]
fn shapes_that_a_command_cannot_have_are_refused() {
    let mut wire = modern();
    for (command, size) in [
        (DMA_MAP, 31),
        (DMA_MAP, 33),
        (DMA_UNMAP, 23),
        (DMA_UNMAP, 49),
        (GET_INFO, 15),
        (GET_REGION_INFO, 31),
        (GET_REGION_IO_FDS, 15),
        (GET_IRQ_INFO, 15),
        (SET_IRQS, 19),
        (REGION_READ, 17),
        (REGION_WRITE, 15),
        (WRITE_MULTI, 7),
        (RESET, 1),
    ] {
        assert_eq!(wire.refused(command, &vec![0xff; size]), EINVAL, "{command} with {size} bytes");
    }
    for (command, payload) in [
        (GET_INFO, u32s(&[15, 0, 0, 0])),
        (GET_REGION_INFO, region_info(31, 0)),
        (GET_REGION_IO_FDS, u32s(&[15, 0, 0, 0])),
        (DMA_MAP, [u32s(&[31, 3]), u64s(&[0, 0, 4096])].concat()),
        (DMA_UNMAP, [u32s(&[23, 0]), u64s(&[0, 4096])].concat()),
        (SET_IRQS, u32s(&[19, 0x21, 2, 0, 0])),
    ] {
        assert_eq!(wire.refused(command, &payload), EINVAL, "argsz of {command}");
    }
    // Descriptors where none belong, or too many.
    let fds = |count| (0..count).map(|_| eventfd()).collect::<Vec<OwnedFd>>();
    assert_eq!(wire.refused_with(GET_INFO, &u32s(&[16, 0, 0, 0]), fds(1)), EINVAL);
    assert_eq!(wire.refused_with(DMA_MAP, &dma_map(3, 0, 0, 4096), fds(2)), EINVAL);
    // Header flags that no command has.
    wire.session.receive(&message(1, GET_INFO, 0x40, &[0; 16]), vec![]).unwrap();
    wire.run().unwrap();
    assert_eq!(wire.session.next_outgoing().unwrap().bytes[12..], EINVAL.to_le_bytes());
    assert!(wire.told.is_empty());
}

#[test]
fn a_posted_command_is_never_answered_not_even_with_an_error() {
    let mut wire = modern();
    wire.post(GET_INFO, &u32s(&[16, 0, 0, 0]));
    wire.post(REGION_READ, &access(7, 0, 4));
    wire.post(REGION_WRITE, &access(99, 0, 4));
    wire.post(REGION_WRITE, &[&access(7, 0x3c, 1)[..], &[9]].concat());
    assert_eq!(wire.read::<1>(7, 0x3c), [9]);
}

#[test]
fn regions_are_described() {
    let mut wire = modern();
    let expected_len = |wire: &mut Wire, index| {
        let info = words(&wire.ask(GET_REGION_INFO, &region_info(32, index)));
        assert_eq!((info[0], info[2], info[3], info[6], info[7]), (32, index, 0, 0, 0));
        assert_eq!(info[1], if info[4] == 0 { 0 } else { 3 }, "read and write, neither mapped nor more");
        info[4]
    };
    let lens: Vec<u32> = (0..9).map(|index| expected_len(&mut wire, index)).collect();
    assert_eq!(lens, [0, 4096, 0, 0, 16384, 0, 0, 4096, 0]);
    assert_eq!(wire.refused(GET_REGION_INFO, &region_info(32, 9)), EINVAL);
    // A client may send the room that it has for the answer.
    assert_eq!(wire.ask(GET_REGION_INFO, &[region_info(64, 7), vec![0; 32]].concat()).len(), 32);
}

/// The first answer says how much room the capabilities need, with an offset that is not inside the fixed part.
#[test]
fn a_mapped_notify_page_is_described_in_two_rounds() {
    let mut function = description(Interface::Modern);
    function.mapped = true;
    // Shared memory could be mapped too, but not from that file.
    function.shared_memory = vec![SharedMemory { id: 0, len: 0x1_0000 }];
    let mut wire = Wire::greeted(function);
    assert_eq!(words(&wire.ask(GET_REGION_INFO, &region_info(64, 2))), [32, 3, 2, 0, 0x1_0000, 0, 0, 0]);
    let short = wire.ask_whole(GET_REGION_INFO, &region_info(32, 4), vec![]).unwrap();
    assert_eq!(words(&short.bytes[16..]), [64, 0xf, 4, 32, 16384, 0, 0, 0]);
    assert!(short.fds.is_empty());
    let whole = wire.ask_whole(GET_REGION_INFO, &region_info(64, 4), vec![]).unwrap();
    let info = words(&whole.bytes[16..]);
    assert_eq!(info[..8], [64, 0xf, 4, 32, 16384, 0, 0, 0]);
    // Id 1 version 1, the last; one area, from 0x3000 on a page.
    assert_eq!(info[8..], [0x1_0001, 0, 1, 0, 0x3000, 0, 0x1000, 0]);
    let [file] = &whole.fds[..] else { panic!("one file") };
    assert!(rustix::fs::fstat(file).unwrap().st_size >= 0x4000);
    // Others are as ever, and mapped doorbells have no eventfds.
    assert_eq!(words(&wire.ask(GET_REGION_INFO, &region_info(64, 1)))[..2], [32, 3]);
    assert_eq!(words(&wire.ask(GET_REGION_IO_FDS, &u32s(&[1000, 0, 4, 0]))), [16, 0, 4, 0]);
}

#[test]
fn doorbells_have_eventfds() {
    let mut function = description(Interface::Transitional);
    function.notify = vec![NotifyKind::Pio, NotifyKind::Mmio];
    let mut wire = Wire::greeted(function);
    let ask = |wire: &mut Wire, argsz, index| {
        wire.ask_whole(GET_REGION_IO_FDS, &u32s(&[argsz, 0, index, 0]), vec![]).unwrap()
    };
    let short = ask(&mut wire, 16 + 3 * 40 - 1, 4);
    assert_eq!((words(&short.bytes[16..]), short.fds.len()), (vec![136, 0, 4, 3], 0));
    // Region, its places, bytes, flags, whether it is matched by data.
    for (region, base, stride, len, flags) in
        [(4, 0x3000u32, 4u32, 0u32, 0u32), (0, 16, 0, 2, 3), (2, 0, 0, 2, 3)]
    {
        let whole = ask(&mut wire, 136, region);
        let info = words(&whole.bytes[16..]);
        assert_eq!(info[..4], [136, 0, region, 3]);
        for queue in 0..3u32 {
            let at = 4 + 10 * queue as usize;
            let datamatch = if flags & 1 == 0 { 0 } else { queue };
            let expected = [base + stride * queue, 0, len, 0, queue, 0, flags, 0, datamatch, 0];
            assert_eq!(info[at..at + 10], expected, "region {region}");
            assert!(is_same_eventfd(&whole.fds[queue as usize], &wire.host.kicks[queue as usize]));
        }
    }
    assert_eq!(words(&ask(&mut wire, 16, 7).bytes[16..]), [16, 0, 7, 0]);
    assert_eq!(wire.refused(GET_REGION_IO_FDS, &u32s(&[16, 1, 4, 0])), EINVAL);
    assert_eq!(wire.refused(GET_REGION_IO_FDS, &u32s(&[16, 0, 9, 0])), EINVAL);

    // A client that takes one descriptor gets one.
    let mut wire = Wire::fresh(description(Interface::Modern));
    wire.ask(VERSION, &version("{}"));
    let whole = ask(&mut wire, 1000, 4);
    assert_eq!((words(&whole.bytes[16..])[..4].to_vec(), whole.fds.len()), (vec![56, 0, 4, 1], 1));

    // A port whose values depend on what will be negotiated has none.
    let mut function = description(Interface::Modern);
    function.notify = vec![NotifyKind::Pio];
    function.notification_data = true;
    assert_eq!(words(&ask(&mut Wire::greeted(function), 1000, 0).bytes[16..])[3], 0);
}

#[test]
fn interrupts_are_described() {
    let mut wire = modern();
    let info = |wire: &mut Wire, index| words(&wire.ask(GET_IRQ_INFO, &u32s(&[16, 0, index, 0])));
    // Eventfd, maskable, masked by itself; eventfds as a set.
    assert_eq!(info(&mut wire, 0), [16, 7, 0, 1]);
    assert_eq!(info(&mut wire, 1), [16, 0, 1, 0]);
    assert_eq!(info(&mut wire, 2), [16, 9, 2, 4]);
    assert_eq!(info(&mut wire, 3), [16, 9, 3, 1]);
    assert_eq!(info(&mut wire, 4), [16, 0, 4, 0]);
    assert_eq!(wire.refused(GET_IRQ_INFO, &u32s(&[16, 0, 5, 0])), EINVAL);
}

#[test]
fn accesses_stay_inside_their_region() {
    let mut wire = modern();
    // The ids of a modern network device.
    assert_eq!(wire.read::<4>(7, 0), [0xf4, 0x1a, 0x41, 0x10]);
    assert_eq!(wire.read::<4096>(7, 0)[..4], [0xf4, 0x1a, 0x41, 0x10]);
    for (region, offset, count) in [
        (7, 0, 0),
        (7, 0, 4097),
        (7, 4096, 1),
        (7, 4095, 2),
        (7, u64::MAX, 1),
        (7, 0, u32::MAX),
        (0, 0, 1),
        (5, 0, 1),
        (6, 0, 1),
        (8, 0, 1),
        (9, 0, 1),
        (u32::MAX, 0, 1),
    ] {
        assert_eq!(wire.refused(REGION_READ, &access(region, offset, count)), EINVAL, "{region} {offset}");
        let data = vec![0; count.min(8192) as usize];
        let write = [access(region, offset, count), data].concat();
        assert_eq!(wire.refused(REGION_WRITE, &write), EINVAL, "{region} {offset}");
    }
    // Less data than it says, or more.
    for len in [3, 5] {
        assert_eq!(wire.refused(REGION_WRITE, &[access(7, 4, 4), vec![0; len]].concat()), EINVAL);
    }
    // All of the largest message is read before it is refused.
    let huge = [access(7, 0, 1 << 20), vec![0; 1 << 20]].concat();
    assert_eq!(wire.refused(REGION_WRITE, &huge), EINVAL);
    assert_eq!(wire.read::<2>(7, 0), [0xf4, 0x1a]);
}

fn multi(count: u64, writes: &[(u32, u64, u32, [u8; 8])]) -> Vec<u8> {
    let one = |&(region, offset, len, data): &(u32, u64, u32, [u8; 8])| {
        [access(region, offset, len), data.to_vec()].concat()
    };
    [u64s(&[count]), writes.iter().flat_map(one).collect()].concat()
}

#[test]
fn several_writes_in_one_message_are_so_many_writes() {
    let mut wire = modern();
    let line = |value| (7, 0x3c, 1, [value, 0, 0, 0, 0, 0, 0, 0]);
    // As many as QEMU sends at most.
    let many: Vec<_> = (0..200).map(line).collect();
    wire.post(WRITE_MULTI, &multi(200, &many));
    assert_eq!(wire.read::<1>(7, 0x3c), [199]);
    // Fewer than there is room for.
    wire.post(WRITE_MULTI, &multi(2, &many[..5]));
    assert_eq!(wire.read::<1>(7, 0x3c), [1]);
    // Asked for, it is answered.
    assert!(wire.ask(WRITE_MULTI, &multi(1, &[line(77)])).is_empty());
    assert_eq!(wire.read::<1>(7, 0x3c), [77]);
    // What comes in front of a wrong one was written.
    for wrong in [(99, 0, 1, [0; 8]), (7, 4096, 1, [0; 8]), (7, 4, 9, [0; 8]), (7, 4, u32::MAX, [0; 8])] {
        assert_eq!(wire.refused(WRITE_MULTI, &multi(3, &[line(5), wrong, line(6)])), EINVAL);
        assert_eq!(wire.read::<1>(7, 0x3c), [5]);
    }
    for count in [4, u64::MAX] {
        assert_eq!(wire.refused(WRITE_MULTI, &multi(count, &[line(8); 3])), EINVAL);
    }
    assert!(wire.ask(WRITE_MULTI, &multi(0, &[])).is_empty());
    assert_eq!(wire.read::<1>(7, 0x3c), [5]);
}

#[test]
fn messages_in_pieces_or_glued_are_the_same_messages() {
    let mut stream = Vec::new();
    for value in 0..40u8 {
        stream.extend(message(0, REGION_WRITE, NO_REPLY, &[&access(7, 0x3c, 1)[..], &[value]].concat()));
    }
    stream.extend(message(1, REGION_READ, 0, &access(7, 0x3c, 1)));
    for piece in [1, 7, 16, 100, stream.len()] {
        let mut wire = modern();
        for bytes in stream.chunks(piece) {
            wire.session.receive(bytes, vec![]).unwrap();
            wire.run().unwrap();
        }
        assert_eq!(wire.session.next_outgoing().unwrap().bytes[32..], [39]);
        assert!(wire.session.next_outgoing().is_none());
    }
}

/// A reader that asks for what is wanted reads a header, then its payload: never more than one message.
#[test]
fn the_header_is_read_alone() {
    let mut wire = modern();
    let bytes = message(0, DMA_MAP, 0, &dma_map(3, 0, 0, 4096));
    assert_eq!(wire.session.wanted(), 16);
    wire.session.receive(&bytes[..16], vec![]).unwrap();
    assert_eq!(wire.session.wanted(), 32);
    wire.session.receive(&bytes[16..20], vec![]).unwrap();
    assert_eq!(wire.session.wanted(), 28);
    wire.session.receive(&bytes[20..], vec![]).unwrap();
    assert_eq!(wire.session.wanted(), 0);
    wire.run().unwrap();
    assert_eq!(wire.session.wanted(), 16);
}

#[test]
fn a_client_that_takes_no_replies_is_not_heard() {
    let mut wire = modern();
    for _ in 0..40 {
        wire.session.receive(&message(0, GET_INFO, 0, &u32s(&[16, 0, 0, 0])), vec![]).unwrap();
        wire.run().unwrap();
    }
    assert_eq!(wire.session.wanted(), 0);
    let mut replies = 0;
    while wire.session.next_outgoing().is_some() {
        replies += 1;
        wire.run().unwrap();
    }
    assert_eq!((replies, wire.session.wanted()), (40, 16));
}

#[test]
fn offers_that_cannot_be_are_named() {
    let fault = |change: fn(&mut Offer)| {
        let (mut offer, _) = offer(description(Interface::Modern));
        change(&mut offer);
        Session::new(offer).unwrap_err()
    };
    assert_eq!(fault(|offer| offer.function.features = 1 << 64), OfferFault::Features { bits: 1 << 64 });
    assert_eq!(fault(|offer| _ = offer.kicks.pop()), OfferFault::Kicks { count: 2, queues: 3 });
    assert_eq!(fault(|offer| offer.function.mapped = true), OfferFault::RegionFile);
    assert_eq!(fault(|offer| offer.region_file = Some(eventfd())), OfferFault::RegionFile);
    assert!(matches!(fault(|offer| offer.function.device_type = 0), OfferFault::Function(_)));
}

#[test]
fn a_reset_reaches_the_device_before_its_answer() {
    let mut wire = modern();
    assert!(wire.ask(RESET, &[]).is_empty());
    assert!(matches!(wire.told[..], [Event::ResetDevice]));
}
