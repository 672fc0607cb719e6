//! Frames that leave by an AF_XDP uplink straight from their guest's memory, in network namespaces of the tests' own. Needs
//! root, and Linux 6.6.

mod station;

use devices::net::Features;
use ringway::api::view::{FdbSpec, ZeroCopyView};
use station::{BROADCAST, FAR_MAC, Lab, MAC_A, MAC_B, PATIENCE, RING, Station, frame, plain, udp_packet};
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};
use vhost::VhostBackend;

/// Nobody has this address; it is out there all the same.
const AWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x55];
/// Bytes that are copied of every frame: its head, which the switch looked at.
const HEAD: u64 = 128 - 12;
/// Frames of a ring of [`RING`] that may be lent at a time.
const PENDING_MAX: u64 = RING as u64 / 4;

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs `body` in a network namespace that goes with its thread.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    // Only this thread moves, and every thread and process it makes stays with it.
    let thread = std::thread::spawn(|| {
        let flags = rustix::thread::UnshareFlags::NEWNET;
        #[expect(deprecated, reason = "the safe form: only the network is left")]
        rustix::thread::unshare(flags).expect("a network namespace of its own needs root");
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        body();
    });
    thread.join().unwrap();
}

/// Gives `far0`, which is up, the peer's addresses.
fn far_end() -> UdpSocket {
    let end = Instant::now() + PATIENCE;
    while !["up0", "far0"].iter().all(|name| ip(&format!("link show {name}")).contains("state UP")) {
        assert!(Instant::now() < end, "no link");
    }
    ip("address add 10.9.0.1/24 dev far0");
    let mac: Vec<_> = MAC_A.iter().map(|byte| format!("{byte:02x}")).collect();
    ip(&format!("neigh add 10.9.0.2 lladdr {} dev far0", mac.join(":")));
    let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A veth pair `up0`, `far0`. `up0` has `queues` transmit queues; it receives with `receive` queues.
fn veth(queues: u32, receive: u32, mtu: u32) -> UdpSocket {
    let near = format!("mtu {mtu} numtxqueues {queues} numrxqueues {receive}");
    let far = format!("mtu {mtu} numtxqueues {receive} numrxqueues {queues}");
    ip(&format!("link add up0 {near} type veth peer name far0 {far}"));
    ip("link set far0 address 02:00:00:00:00:99 up");
    ip("link set up0 up");
    far_end()
}

/// Two macvlans on one end of a veth: what goes from `up0` to `far0` arrives at once, what goes elsewhere goes through the
/// veth's queueing discipline.
fn two_ways() -> UdpSocket {
    ip("link add v0 type veth peer name v1");
    ip("link set v1 up");
    ip("link set v0 up");
    ip("link add up0 link v0 numtxqueues 2 numrxqueues 2 type macvlan mode bridge");
    ip("link add far0 link v0 address 02:00:00:00:00:99 type macvlan mode bridge");
    ip("link set far0 up");
    ip("link set up0 up");
    far_end()
}

/// Has frames stick that go out of the veth, all but the first long one.
fn hold() {
    run("tc", "qdisc add dev v0 root tbf rate 8bit burst 1600 limit 1000000");
}

fn uplink(more: &str) -> String {
    format!(
        "[port.wire]\nswitch = \"lan\"\nprofile = \"open\"\naf-xdp = {{ interface = \"up0\", zero-copy = \"always\"{more} }}\n"
    )
}

fn lab(more: &str) -> Lab {
    lab_with(&uplink(more))
}

/// A guest's port beside the uplink, and what is behind the uplink known.
fn lab_with(uplink: &str) -> Lab {
    let lab = Lab::with("mode = \"pool\"\nthreads = 1", &(Lab::port("a", "") + uplink));
    for mac in [FAR_MAC, AWAY_MAC] {
        let mac: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let entry = FdbSpec { mac: mac.join(":"), port: "wire".into(), vlan: None, kind: None };
        ringway::api::Plane::add_fdb(&*lab.plane, &entry).unwrap();
    }
    lab
}

fn zero_copy(lab: &Lab) -> ZeroCopyView {
    lab.view("wire").zero_copy.expect("an uplink with zero-copy")
}

/// Waits until a station is known.
fn until_known(lab: &Lab, mac: [u8; 6]) {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let end = Instant::now() + PATIENCE;
    while !lab.fdb().iter().any(|entry| entry.mac == mac) {
        assert!(Instant::now() < end, "{mac} is not known");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the uplink's view is `wanted`.
fn until(lab: &Lab, wanted: impl Fn(&ZeroCopyView) -> bool) -> ZeroCopyView {
    lab.until("wire", |view| wanted(view.zero_copy.as_ref().unwrap()));
    zero_copy(lab)
}

fn payload(mark: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| if i < 8 { mark.to_be_bytes()[i] } else { (i as u64 * 31 + mark) as u8 }).collect()
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let len = socket.recv(&mut bytes).expect("the packet arrives");
    bytes.truncate(len);
    bytes
}

/// Waits until the driver has all its descriptors back.
fn all_back(guest: &mut Station) {
    let end = Instant::now() + PATIENCE;
    while guest.transmit.free_descriptors() != RING {
        while guest.transmit.pop_used().unwrap().is_some() {}
        assert!(Instant::now() < end, "{} are missing", RING - guest.transmit.free_descriptors());
        std::thread::yield_now();
    }
}

/// Sends frames of many lengths; all arrive, in order, and long ones are not copied.
fn long_frames_are_lent(lens: &[usize], far: &UdpSocket, features: Features) {
    let lab = lab(", zero-copy-min = 1000");
    let mut guest = Station::connect(&lab.socket("a"), features);
    let lanes = until(&lab, |view| view.lanes.len() == 1).lanes;
    assert_eq!((lanes[0].queue, lanes[0].port.as_str(), lanes[0].kernel.as_str()), (1, "a", "copy"));
    let unfinished = features.contains(Features::CSUM);
    let header = if unfinished { [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0] } else { [0; 12] };
    let (mut lent, mut bytes, mut short) = (0, 0, 0);
    for round in 0..200 {
        let payload = payload(round, lens[round as usize % lens.len()]);
        let packet = udp_packet(FAR_MAC, &payload, unfinished);
        guest.send_with(&header, &packet);
        assert!(received(far) == payload, "round {round}, {} bytes", payload.len());
        if packet.len() < 1000 {
            short += 1;
        } else {
            lent += 1;
            // With an offload the head is twice as long, as there may be long headers.
            bytes += packet.len() as u64 - if unfinished { 256 - 12 } else { HEAD };
        }
    }
    all_back(&mut guest);
    let view = until(&lab, |view| view.pending == 0);
    assert_eq!((view.frames, view.bytes, view.abandoned), (lent, bytes, 0));
    assert_eq!(view.copied.get("short").copied(), Some(short));
    assert_eq!(view.copied.len(), 1, "{:?}", view.copied);
    assert_eq!(lab.view("wire").counters.to_guest.frames, lent + short);
    drop(guest);
    assert!(until(&lab, |view| view.lanes.is_empty()).refused.is_empty());
}

#[test]
fn frames_leave_from_the_guests_own_pages() {
    in_namespace(|| {
        let far = veth(2, 1, 1500);
        for ring in [Features::empty(), Features::RING_PACKED] {
            for offload in [Features::empty(), Features::CSUM] {
                long_frames_are_lent(&[1400, 20, 957, 958, 1472, 999], &far, plain() | ring | offload);
            }
        }
    });
}

#[test]
fn long_ethernet_frames_cross_pages() {
    in_namespace(|| {
        let far = veth(2, 1, 9000);
        long_frames_are_lent(&[8972, 4000, 100, 5000, 8971], &far, plain());
    });
}

#[test]
fn one_frame_that_sticks_holds_up_nobody() {
    for features in [plain(), plain() | Features::RING_PACKED] {
        in_namespace(move || {
            let far = two_ways();
            let lab = lab("");
            let mut guest = Station::connect(&lab.socket("a"), features);
            until(&lab, |view| view.lanes.len() == 1);
            hold();
            let away = udp_packet(AWAY_MAC, &payload(0, 1400), false);
            // The second one does not go.
            guest.send(&away);
            guest.send(&away);
            let mut sent = 2;
            until(&lab, |view| view.pending == 1);
            // Three times round the ring, past the one that sticks.
            for mark in 0..3 * u64::from(RING) {
                let payload = payload(mark, 1300);
                guest.send(&udp_packet(FAR_MAC, &payload, false));
                assert!(received(&far) == payload, "packet {mark}");
                sent += 1;
            }
            let view = until(&lab, |view| view.pending == 1);
            assert_eq!((view.frames, view.copied.len()), (sent, 0), "{view:?}");
            let end = Instant::now() + PATIENCE;
            while guest.transmit.free_descriptors() != RING - 1 {
                while guest.transmit.pop_used().unwrap().is_some() {}
                assert!(Instant::now() < end, "{} free", guest.transmit.free_descriptors());
            }

            // As many more as may be lent stick, the others are copied; and it goes on.
            for _ in 0..PENDING_MAX + 3 {
                guest.send(&away);
            }
            let view = until(&lab, |view| view.copied.get("pending") == Some(&4));
            assert_eq!(u64::from(view.pending), PENDING_MAX, "{view:?}");
            guest.send(&udp_packet(FAR_MAC, b"short", false));
            assert_eq!(received(&far), b"short");

            run("tc", "qdisc del dev v0 root");
            until(&lab, |view| view.pending == 0);
            all_back(&mut guest);
        });
    }
}

#[test]
fn a_queue_that_stops_gives_everything_back() {
    in_namespace(|| {
        let _far = two_ways();
        let lab = lab("");
        let mut guest = Station::connect(&lab.socket("a"), plain());
        until(&lab, |view| view.lanes.len() == 1);
        hold();
        for _ in 0..8 {
            guest.send(&udp_packet(AWAY_MAC, &payload(0, 1400), false));
        }
        until(&lab, |view| view.pending == 7);
        let before = Instant::now();
        let base = guest.frontend.get_vring_base(1).unwrap();
        assert!(before.elapsed() < Duration::from_secs(2));
        assert_eq!(base, 8);
        all_back(&mut guest);
        let view = zero_copy(&lab);
        assert_eq!((view.abandoned, view.pending, view.lanes.len()), (7, 0, 0));
    });
}

#[test]
fn new_memory_gets_a_new_lane() {
    in_namespace(|| {
        let far = veth(2, 1, 1500);
        let lab = lab("");
        let mut guest = Station::connect(&lab.socket("a"), plain());
        until(&lab, |view| view.lanes.len() == 1);
        for mark in 0..3 {
            let payload = payload(mark, 1400);
            guest.send(&udp_packet(FAR_MAC, &payload, false));
            assert!(received(&far) == payload);
            // The same file at the same place: the queues go on where they stood.
            let table = station::table(&guest.file, 0, 8 << 20);
            guest.frontend.set_mem_table(&[table]).unwrap();
            until(&lab, |view| view.lanes.len() == 1 && view.pending == 0);
        }
        all_back(&mut guest);
        let view = zero_copy(&lab);
        assert_eq!((view.frames, view.abandoned, view.copied.len()), (3, 0, 0));
    });
}

#[test]
fn uplinks_come_and_go() {
    in_namespace(|| {
        let far = veth(3, 2, 1500);
        let lab = lab("");
        let mut guest = Station::connect(&lab.socket("a"), plain());
        until(&lab, |view| view.lanes.len() == 1);
        let workers = "mode = \"pool\"\nthreads = 1";
        for (queues, lane) in [(2, 2), (1, 1)] {
            let ports = Lab::port("a", "") + &uplink(&format!(", queues = {queues}"));
            lab.apply(workers, &ports).unwrap();
            let view = until(&lab, |view| view.lanes.len() == 1);
            assert_eq!(view.lanes[0].queue, lane);
            let payload = payload(lane.into(), 1400);
            guest.send(&udp_packet(FAR_MAC, &payload, false));
            assert!(received(&far) == payload);
            assert_eq!(zero_copy(&lab).frames, 1);
        }
        lab.apply(workers, &Lab::port("a", "")).unwrap();
        guest.send(&udp_packet(BROADCAST, &payload(0, 1400), false));
        all_back(&mut guest);
    });
}

#[test]
fn what_cannot_be_lent_is_copied() {
    in_namespace(|| {
        let far = veth(2, 1, 1500);
        let ports = Lab::port("a", "") + &Lab::port("b", "") + &uplink("");
        let lab = Lab::with("mode = \"pool\"\nthreads = 1", &ports);
        let features = plain() | Features::CSUM | Features::HOST_TSO4;
        let mut guest = Station::connect(&lab.socket("a"), features);
        let mut other = Station::connect(&lab.socket("b"), plain());
        until(&lab, |view| view.lanes.len() == 1 && view.refused.len() == 1);
        let copied = |why: &str| zero_copy(&lab).copied.get(why).copied().unwrap_or(0);

        // Nobody knows the far end yet: two ports get the frame.
        let bytes = payload(1, 1400);
        guest.send(&udp_packet(FAR_MAC, &bytes, false));
        assert!(received(&far) == bytes && other.receive_from(MAC_A)[42..] == bytes);
        assert_eq!((zero_copy(&lab).frames, copied("group")), (0, 1));
        far.send_to(b"here", "10.9.0.2:7001").unwrap();
        guest.receive_from(FAR_MAC);

        // More pieces than a frame may have.
        let packet = udp_packet(FAR_MAC, &bytes, false);
        let (start, len) = guest.write_slot(&[0; 12], &packet);
        let cut = |from: u32, to: u32| (guestmem::GuestAddr(start.0 + u64::from(from)), to - from);
        let mut buffers = vec![cut(0, 200)];
        buffers.extend((200..len).step_by(60).map(|from| cut(from, len.min(from + 60))));
        assert!(buffers.len() > 18);
        guest.transmit.add(&buffers, &[], 0).unwrap();
        guest.transmit.publish();
        guest.kick();
        assert!(received(&far) == bytes);
        assert_eq!((zero_copy(&lab).frames, copied("scattered")), (0, 1));

        // Segments are made by us.
        let mut tcp = Vec::new();
        etherparse::PacketBuilder::ethernet2(MAC_A, FAR_MAC)
            .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
            .tcp(7001, 7000, 1, 1000)
            .write(&mut tcp, &payload(2, 5000))
            .unwrap();
        guest.send_with(&[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0], &tcp);
        let end = Instant::now() + PATIENCE;
        while copied("segmentation") != 1 {
            assert!(Instant::now() < end);
        }

        // And a plain one goes without a copy.
        guest.send(&packet);
        assert!(received(&far) == bytes);
        assert_eq!((zero_copy(&lab).frames, zero_copy(&lab).copied.len()), (1, 3));
    });
}

/// The guest's frames arrive, copied, and people are told why.
fn refused(wish: &str, queues: u32, features: Features, why: &str) {
    let far = veth(queues, 1, 1500);
    let lab = lab_with(&uplink("").replace("always", wish));
    let mut guest = Station::connect(&lab.socket("a"), features);
    let view = until(&lab, |view| !view.refused.is_empty());
    assert!(view.refused["a/0"].contains(why), "{:?}", view.refused);
    let payload = payload(0, 1400);
    guest.send(&udp_packet(FAR_MAC, &payload, false));
    assert!(received(&far) == payload);
    let view = zero_copy(&lab);
    assert_eq!((view.frames, view.lanes.len(), view.copied.len()), (0, 0, 0));
}

#[test]
fn a_queue_without_a_lane_is_served_all_the_same() {
    in_namespace(|| refused("auto", 2, plain(), "has the kernel copy every frame"));
    in_namespace(|| refused("always", 1, plain(), "up0 has 1 transmit queues"));
    in_namespace(|| refused("always", 2, plain() | Features::IN_ORDER, "VIRTIO_F_IN_ORDER"));
    in_namespace(|| {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        // Enough for the uplink's own frames, not for a guest's memory. The threads that this one makes are as it is.
        let limit = getrlimit(Resource::Memlock);
        let lower = |limit: Option<u64>| Some(limit.unwrap_or(u64::MAX).min(12 << 20));
        let limit = Rlimit { current: lower(limit.current), maximum: lower(limit.maximum) };
        setrlimit(Resource::Memlock, limit).unwrap();
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).unwrap();
        refused("always", 2, plain(), "RLIMIT_MEMLOCK");
    });
}

#[test]
fn an_interface_that_gets_a_queue_later_is_used_later() {
    in_namespace(|| {
        let far = veth(2, 1, 1500);
        let lab = Lab::with(
            "mode = \"pool\"\nthreads = 1",
            &(Lab::port("a", "") + &Lab::port("b", "") + &uplink("")),
        );
        let first = Station::connect(&lab.socket("a"), plain());
        until(&lab, |view| view.lanes.len() == 1);
        let mut second = Station::connect(&lab.socket("b"), plain());
        until(&lab, |view| view.refused.contains_key("b/0"));
        drop(first);
        until(&lab, |view| view.refused.is_empty() && view.lanes[0].port == "b");
        far.send_to(b"nobody", "10.9.0.2:7001").unwrap();
        // A frame to a station that is not known yet goes to all, and such a one is copied.
        until_known(&lab, FAR_MAC);
        second.send(&frame(FAR_MAC, MAC_B, b"long", 1500));
        until(&lab, |view| view.frames == 1);
        all_back(&mut second);
    });
}
