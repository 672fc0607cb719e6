//! The data plane with front-ends that behave, and with front-ends that do not: nobody else may notice those.

mod station;

use devices::net::Features;
use ringway::api::view::{FdbFilter, PortState};
use rustix::fs::ftruncate;
use station::{
    BROADCAST, Lab, MAC_A, MAC_B, MAC_C, Station, connect, exchange, frame, negotiate, plain, table,
};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use vhost::VhostBackend;

const POOL: &str = "mode = \"pool\"\nthreads = 1";
const PER_DEVICE: &str = "mode = \"per-device\"";

#[test]
fn two_guests_exchange_frames_in_every_mode_and_ring_form() {
    for workers in [POOL, "mode = \"pool\"\nthreads = 2", PER_DEVICE] {
        for more in [
            Features::empty(),
            Features::IN_ORDER,
            Features::RING_PACKED,
            Features::RING_PACKED | Features::IN_ORDER,
        ] {
            let lab = Lab::new(workers, &["a", "b"]);
            let mut a = Station::connect(&lab.socket("a"), plain() | more);
            let mut b = Station::connect(&lab.socket("b"), plain() | more);
            exchange(&mut a, &mut b, 500);
            let view = lab.view("a");
            assert_eq!(
                (view.state, view.counters.from_guest.frames, view.counters.to_guest.frames),
                (PortState::Running, 500, 500)
            );
            assert_eq!(view.counters.drops.len(), 0, "{:?}", view.counters.drops);
            assert_eq!(ringway::api::Plane::fdb(&*lab.plane, &FdbFilter::default()).unwrap().len(), 2);
        }
    }
}

#[test]
fn broadcast_reaches_everybody_else_and_unknown_unicast_floods() {
    let lab = Lab::new(POOL, &["a", "b", "c"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut c = Station::connect(&lab.socket("c"), plain());
    for dst in [BROADCAST, MAC_B, [0x33, 0x33, 0, 0, 0, 1]] {
        let sent = frame(dst, MAC_A, b"hello", 64);
        a.send(&sent);
        assert_eq!(b.receive().1, sent);
        assert_eq!(c.receive().1, sent);
        assert!(a.poll().is_none(), "hairpin");
    }
    b.send(&frame(MAC_A, MAC_B, b"here", 64));
    assert_eq!(a.receive().1[14..18], *b"here");
    a.send(&frame(MAC_B, MAC_A, b"only you", 64));
    assert_eq!(b.receive().1[14..22], *b"only you");
    assert!(c.poll().is_none(), "a known station's frame went to another port");
}

#[test]
fn frames_of_one_sender_never_reorder_and_none_is_lost() {
    let lab = Lab::new("mode = \"pool\"\nthreads = 2", &["a", "b"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 1);
    let (mut sent, mut got) = (0u32, 0u32);
    while got < 20_000 {
        // Never more under way than the receiver has buffers.
        if sent < 20_000 && sent - got < u32::from(station::RING) / 2 {
            let dst = if sent.is_multiple_of(7) { BROADCAST } else { MAC_B };
            a.send(&frame(dst, MAC_A, &sent.to_be_bytes(), 60 + (sent % 1400) as usize));
            sent += 1;
        }
        while let Some((_, frame)) = b.poll() {
            assert_eq!(frame[14..18], got.to_be_bytes());
            got += 1;
        }
    }
}

#[test]
fn a_sender_that_outruns_its_receiver_loses_frames_by_name_and_blocks_nobody() {
    let lab = Lab::new(POOL, &["a", "b", "c"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut c = Station::connect(&lab.socket("c"), plain());
    exchange(&mut a, &mut b, 1);
    // The first frame found its receiver unknown and went to c too.
    c.receive();
    c.send(&frame(MAC_A, MAC_C, b"", 60));
    a.receive();
    // b takes nothing: its buffers fill, then its backlog, the rest is dropped, and a's frames to c still arrive.
    const WAITING: u64 = 256;
    for round in 0..600u32 {
        a.send(&frame(MAC_B, MAC_A, &round.to_be_bytes(), 60));
        a.send(&frame(MAC_C, MAC_A, &round.to_be_bytes(), 60));
        assert_eq!(c.receive().1[14..18], round.to_be_bytes());
    }
    lab.until("b", |view| {
        let dropped = view.counters.drops.get("receiver-full").copied();
        dropped == Some(600 - u64::from(station::RING) - WAITING) && view.counters.misses == 0
    });
    // What waited comes when b takes what lies in front of it, in order; what is sent meanwhile comes behind it.
    for round in 0..u32::from(station::RING) + WAITING as u32 {
        assert_eq!(b.receive().1[14..18], round.to_be_bytes());
    }
    a.send(&frame(MAC_B, MAC_A, b"last", 60));
    assert_eq!(b.receive().1[14..18], *b"last");
    lab.until("b", |view| view.counters.misses == WAITING);
}

#[test]
fn frames_for_a_busy_receiver_from_many_sides_all_arrive_in_order() {
    let lab = Lab::new("mode = \"pool\"\nthreads = 2", &["a", "b", "c"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut c = Station::connect(&lab.socket("c"), plain());
    exchange(&mut a, &mut b, 1);
    c.send(&frame(MAC_B, MAC_C, b"known", 60));
    b.receive_from(MAC_C);
    const COUNT: u32 = 20_000;
    // No more than wait under way at once, so that none may be dropped.
    const WINDOW: u32 = 100;
    let (mut sent, mut heard) = ([0u32; 2], [0u32; 2]);
    while heard != [COUNT; 2] {
        let mut sends = false;
        for (side, (station, mac)) in [(&mut a, MAC_A), (&mut c, MAC_C)].into_iter().enumerate() {
            if sent[side] < COUNT && sent[side] - heard[side] < WINDOW {
                station.send(&frame(MAC_B, mac, &sent[side].to_be_bytes(), 60));
                sent[side] += 1;
                sends = true;
            }
        }
        if !sends || sent[0].is_multiple_of(50) {
            // b may be slow; then frames wait.
            while let Some((_, frame)) = b.poll() {
                let side = usize::from(frame[6..12] == MAC_C);
                assert_eq!(frame[14..18], heard[side].to_be_bytes(), "side {side}");
                heard[side] += 1;
            }
        }
    }
    assert!(!lab.view("b").counters.drops.contains_key("receiver-full"));
}

#[test]
fn a_guest_may_come_back_any_number_of_times() {
    let lab = Lab::new(POOL, &["a", "b"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    for round in 0..20 {
        let more = if round % 2 == 0 { Features::empty() } else { Features::IN_ORDER };
        let mut b = Station::connect(&lab.socket("b"), plain() | more);
        exchange(&mut a, &mut b, 10);
        drop(b);
        lab.until("b", |view| view.state == PortState::Waiting);
    }
    a.send(&frame(MAC_B, MAC_A, b"nobody home", 60));
    lab.until("b", |view| view.counters.drops.contains_key("receiver-down"));
}

#[test]
fn a_client_port_connects_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fe.sock");
    let client = format!(
        "[port.b]\nswitch = \"lan\"\nprofile = \"open\"\nvhost-user = {{ socket = \"{}\", mode = \"client\" }}\n",
        path.display()
    );
    let lab = Lab::with(POOL, &(Lab::port("a", "") + &client));
    let mut a = Station::connect(&lab.socket("a"), plain());
    for _ in 0..3 {
        let listener = UnixListener::bind(&path).unwrap();
        let mut b = Station::over(listener.accept().unwrap().0, plain());
        exchange(&mut a, &mut b, 10);
        drop(b);
        std::fs::remove_file(&path).unwrap();
    }
}

/// Runs `harm` on port c while a and b talk; afterwards they still talk, and a well-behaved guest can use port c.
fn others_do_not_notice(harm: impl FnOnce(&Lab)) {
    let lab = Lab::new(POOL, &["a", "b", "c", "d"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 20);
    harm(&lab);
    exchange(&mut a, &mut b, 20);
    let mut c = Station::connect(&lab.socket("c"), plain());
    c.send(&frame(MAC_A, MAC_C, b"good guest", 60));
    assert_eq!(a.receive_from(MAC_C)[14..24], *b"good guest");
}

fn closes(mut stream: UnixStream) {
    stream.set_read_timeout(Some(station::PATIENCE)).unwrap();
    let mut rest = Vec::new();
    // A reset is as good an end as an orderly one.
    let _ = stream.read_to_end(&mut rest);
}

fn fault_contains(lab: &Lab, words: &str) {
    lab.until("c", |view| view.fault.as_ref().is_some_and(|fault| fault.contains(words)));
}

#[test]
fn garbage_ends_the_session_that_sent_it() {
    others_do_not_notice(|lab| {
        let mut stream = UnixStream::connect(lab.socket("c")).unwrap();
        stream.write_all(&[0xff; 4096]).unwrap();
        closes(stream);
        fault_contains(lab, "broke the protocol");
    });
}

#[test]
fn a_front_end_that_hangs_up_in_mid_message_is_forgotten() {
    others_do_not_notice(|lab| {
        for len in 1..12 {
            let mut stream = UnixStream::connect(lab.socket("c")).unwrap();
            // GET_FEATURES, cut off.
            stream.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..len]).unwrap();
        }
        lab.until("c", |view| view.state == PortState::Waiting);
    });
}

#[test]
fn overlapping_and_absurd_memory_is_refused_by_name() {
    for (guest, len, words) in [
        (0x1000, 0x2000, "overlap"),
        (0x10_0000, 1 << 60, "accepted are"),
        (u64::MAX - 0xfff, 0x2000, "address space"),
    ] {
        others_do_not_notice(|lab| {
            let mut frontend = connect(&lab.socket("c"));
            negotiate(&mut frontend, plain());
            let file = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, 0x10_0000).unwrap();
            let mut absurd = table(&file, 0, 0x2000);
            (absurd.guest_phys_addr, absurd.memory_size, absurd.userspace_addr) =
                (guest, len, 0x5000_0000_0000);
            assert!(frontend.set_mem_table(&[table(&file, 0, 0x2000), absurd]).is_err());
            fault_contains(lab, words);
        });
    }
}

#[test]
fn truncated_memory_costs_its_owner_the_connection() {
    others_do_not_notice(|lab| {
        let mut c = Station::connect(&lab.socket("c"), plain());
        c.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 0xcc], b"alive", 60));
        lab.until("c", |view| view.counters.from_guest.frames == 1);
        ftruncate(&c.file, 4096).unwrap();
        c.kick();
        fault_contains(lab, "truncated");
    });
}

#[test]
fn a_broken_ring_is_retired_and_counted() {
    others_do_not_notice(|lab| {
        let mut c = Station::connect(&lab.socket("c"), plain());
        c.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 0xcc], b"alive", 60));
        lab.until("c", |view| view.counters.from_guest.frames == 1);
        // The driver's available index jumps by more than the ring holds.
        let avail = 0x8000 + u64::from(station::RING) * 16 + 2;
        c.memory.slice(guestmem::GuestAddr(avail), 2).unwrap().write(&0x7777u16.to_le_bytes());
        c.kick();
        lab.until("c", |view| view.state == PortState::Faulted);
        fault_contains(lab, "retired");
        assert!(c.frontend.get_features().is_ok(), "the session itself goes on");
    });
}

#[test]
fn a_front_end_that_never_reads_stops_nobody() {
    others_do_not_notice(|lab| {
        let mut stream = UnixStream::connect(lab.socket("c")).unwrap();
        stream.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let get_features = [1u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        while stream.write_all(&get_features).is_ok() {}
    });
}

#[test]
fn descriptors_that_are_no_eventfds_are_refused() {
    others_do_not_notice(|lab| {
        let stream = UnixStream::connect(lab.socket("c")).unwrap();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        station::start_ring_with(&stream, reader.as_fd());
        fault_contains(lab, "no eventfd");
    });
}

/// A TCP segment of 3000 bytes that its sender leaves to be cut and summed, for a receiver that agreed to nothing of it.
#[test]
fn what_the_receiver_did_not_agree_to_is_done_in_software() {
    let lab = Lab::new(POOL, &["a", "b"]);
    let mut a = Station::connect(&lab.socket("a"), plain() | Features::CSUM | Features::HOST_TSO4);
    let mut b = Station::connect(&lab.socket("b"), plain());
    let payload: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
    let builder = etherparse::PacketBuilder::ethernet2(MAC_A, MAC_B)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(1000, 2000, 7, 8000);
    let mut packet = Vec::new();
    builder.write(&mut packet, &payload).unwrap();
    // NEEDS_CSUM, TCPv4, 54 bytes of headers, segments of 1000, checksum from 34 on at 16.
    let header = [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0];
    a.send_with(&header, &packet);
    for part in 0..3 {
        let (header, frame) = b.receive();
        assert_eq!((header[0], header[1]), (0, 0), "nothing is left to the receiver");
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Tcp(tcp))) =
            (sliced.net, sliced.transport)
        else {
            panic!("no TCP over IPv4");
        };
        let (ip, tcp_header) = (ip.header().to_header(), tcp.to_header());
        assert_eq!(tcp.payload(), &payload[part * 1000..][..1000]);
        assert_eq!(tcp_header.sequence_number, 7 + part as u32 * 1000);
        assert_eq!(tcp_header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap(), tcp_header.checksum);
        assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
    }
    // A lie about the same segment is counted and goes nowhere: a checksum that begins behind the frame.
    a.send_with(&[1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0, 0, 0], &packet[..60]);
    lab.until("a", |view| view.counters.drops.get("bad-offload") == Some(&1));
    assert!(b.poll().is_none());
}

#[test]
fn a_broken_chain_behind_a_good_one_is_counted_too() {
    others_do_not_notice(|lab| {
        let mut c = Station::connect(&lab.socket("c"), plain());
        // Both become visible together: the good one is forwarded, the queue is retired for the other.
        let good = c.write_slot(&[0; 12], &frame(BROADCAST, [2, 0, 0, 0, 0, 0xcc], b"good", 60));
        c.transmit.add(&[good], &[], 0).unwrap();
        c.transmit.add(&[(guestmem::GuestAddr(0x7fff_0000_0000), 64)], &[], 0).unwrap();
        c.transmit.publish();
        c.kick();
        fault_contains(lab, "retired");
        assert_eq!(lab.view("c").counters.from_guest.frames, 1);
    });
}

#[test]
fn receive_buffers_outside_memory_retire_the_receive_queue() {
    others_do_not_notice(|lab| {
        let mut c = Station::connect(&lab.socket("c"), plain());
        c.spoil_receive_buffers();
        let mut sender = Station::connect(&lab.socket("d"), plain());
        sender.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 0xdd], b"for all", 60));
        fault_contains(lab, "retired");
    });
}

#[test]
fn a_stream_of_requests_does_not_keep_the_plane_from_stopping() {
    let lab = Lab::new(POOL, &["a"]);
    let stream = UnixStream::connect(lab.socket("a")).unwrap();
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream);
    let talk = std::thread::spawn(move || {
        let get_features = [1u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        while writer.write_all(&get_features.repeat(100)).is_ok() {}
    });
    let read = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while reader.read(&mut bytes).is_ok_and(|len| len > 0) {}
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    let begin = std::time::Instant::now();
    lab.plane.stop();
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "stopping took {:?}", begin.elapsed());
    talk.join().unwrap();
    read.join().unwrap();
}

#[test]
fn an_offload_left_without_what_it_needs_does_not_cost_the_connection() {
    let lab = Lab::new(POOL, &["a", "b"]);
    // What a front-end with `csum=off` leaves: segmentation without checksums.
    let mut a = Station::connect(&lab.socket("a"), plain() | Features::HOST_TSO4 | Features::GUEST_TSO4);
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 10);
    assert!(!lab.view("a").features.acknowledged.iter().any(|name| name.contains("TSO")));
}

#[test]
fn the_control_queue_answers_every_command() {
    let lab = Lab::new(POOL, &["a", "b"]);
    let features = plain() | Features::CTRL_VQ | Features::CTRL_RX | Features::MQ | Features::CTRL_MAC_ADDR;
    let mut a = Station::connect(&lab.socket("a"), features);
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut control = a.start_control(4);
    // MAC_ADDR_SET to the station's own address, not promiscuous: only its own frames arrive then.
    assert_eq!(control.command(&a, &[&[1, 1][..], &MAC_A].concat()), 0);
    assert_eq!(control.command(&a, &[0, 0, 0]), 0);
    assert_eq!(control.command(&a, &[9, 9, 9]), 1, "an unknown command is refused");
    assert_eq!(control.command(&a, &[4, 0, 1, 0]), 0, "one pair");
    exchange(&mut a, &mut b, 5);
    b.send(&frame([2, 0, 0, 0, 0, 0x99], MAC_B, b"for a stranger", 60));
    lab.until("a", |view| view.counters.drops.get("receiver-filter") == Some(&1));
    assert_eq!(control.command(&a, &[0, 0, 1]), 0, "promiscuous again");
    b.send(&frame([2, 0, 0, 0, 0, 0x99], MAC_B, b"for a stranger", 60));
    assert_eq!(a.receive().1[..6], [2, 0, 0, 0, 0, 0x99]);
}

/// A generic front-end passes rings by the driver's own numbers: without MQ its control queue is the third (virtio 1.3 §5.1.2).
#[test]
fn without_mq_the_control_queue_is_the_third() {
    let four = |name: &str| Lab::port(name, "").replace("queue-pairs = 2", "queue-pairs = 4");
    let lab = Lab::with(POOL, &format!("{}{}", four("a"), Lab::port("b", "")));
    let features = plain() | Features::CTRL_VQ | Features::CTRL_RX | Features::CTRL_MAC_ADDR;
    let mut b = Station::connect(&lab.socket("b"), plain());
    for (more, index) in [(Features::empty(), 2), (Features::MQ, 8), (Features::empty(), 2)] {
        let mut a = Station::connect(&lab.socket("a"), features | more);
        let mut control = a.start_control(index);
        assert_eq!(control.command(&a, &[&[1, 1][..], &MAC_A].concat()), 0, "{more:?}");
        assert_eq!(control.command(&a, &[4, 0, 1, 0]), u8::from(more.is_empty()), "{more:?}");
        exchange(&mut a, &mut b, 5);
    }
}

/// Under way the features that say which queue is which cannot change.
#[test]
fn the_control_queue_does_not_move_while_it_runs() {
    let lab = Lab::new(POOL, &["a", "b"]);
    let features = plain() | Features::CTRL_VQ | Features::CTRL_MAC_ADDR;
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut a = Station::connect(&lab.socket("a"), features);
    let mut control = a.start_control(2);
    assert_eq!(control.command(&a, &[&[1, 1][..], &MAC_A].concat()), 0);
    exchange(&mut a, &mut b, 5);
    assert!(a.frontend.set_features(a.features | Features::MQ.bits()).is_err());
    lab.until("a", |view| view.state == PortState::Waiting);
    let mut a = Station::connect(&lab.socket("a"), features | Features::MQ);
    let mut control = a.start_control(4);
    assert_eq!(control.command(&a, &[4, 0, 1, 0]), 0);
    exchange(&mut a, &mut b, 5);
}
