//! Packet and macvtap uplinks next to guests, in network namespaces of the test's own: the kernel behind a veth is the peer.
//! Needs root.

mod station;

use devices::net::Features;
use ringway::api::view::UplinkView;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::UnshareFlags;
use station::{FAR_MAC, Lab, MAC_A, PATIENCE, Station, plain, udp_packet};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Instant;

/// Runs a program in the namespaces of this thread; what it prints.
fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn until(mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "it does not come to that");
        std::thread::yield_now();
    }
}

/// Runs `body` with a veth pair `up0` and `far0`; the far end is the kernel's, 10.9.0.1, and knows the guest.
fn with_wire(body: impl FnOnce() + Send + 'static) {
    // Only this thread moves, and every thread and process it makes stays with it.
    let inside = move || {
        #[expect(deprecated, reason = "the safe form: only network and mounts are left")]
        rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
            .expect("namespaces of its own need root");
        run("mount --make-rprivate /");
        run("mount -t sysfs sysfs /sys");
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        run("ip link add up0 type veth peer name far0");
        run("ip link set far0 address 02:00:00:00:00:99 up");
        run("ip link set up0 up");
        // Until the kernel has started the queues, a little later, it loses frames silently.
        until(|| {
            ["up0", "far0"].iter().all(|name| run(&format!("ip link show {name}")).contains("state UP"))
        });
        run("ip address add 10.9.0.1/24 dev far0");
        run("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:0a dev far0");
        body();
    };
    std::thread::spawn(inside).join().unwrap();
}

/// UDP both ways between a guest with `features` and the kernel behind the uplink that `attach` describes.
fn guest_and_far_kernel_talk(attach: &str, features: Features) {
    let uplink = format!("[port.wire]\nswitch = \"lan\"\nprofile = \"open\"\n{attach}\n");
    let lab = Lab::with("mode = \"pool\"\nthreads = 1", &(Lab::port("a", "") + &uplink));
    let mut guest = Station::connect(&lab.socket("a"), plain() | features);
    let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    let unfinished = features.contains(Features::CSUM);
    let header = if unfinished { [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0] } else { [0; 12] };
    guest.send_with(&header, &udp_packet(FAR_MAC, b"from the guest", unfinished));
    let mut bytes = [0; 64];
    let (len, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..len], from.to_string()), (&b"from the guest"[..], "10.9.0.2:7001".to_string()));

    socket.send_to(b"from behind the wire", from).unwrap();
    loop {
        let (_, frame) = guest.receive();
        if frame[12..14] == [8, 0] {
            assert_eq!((&frame[..6], &frame[6..12]), (&MAC_A[..], &FAR_MAC[..]));
            assert_eq!(&frame[42..], b"from behind the wire");
            break;
        }
    }
    let wire = lab.view("wire");
    assert!(
        wire.counters.from_guest.frames >= 1 && wire.counters.to_guest.frames >= 1,
        "{:?}",
        wire.counters
    );
}

#[test]
fn a_guest_talks_to_the_wire_through_a_packet_socket_and_a_macvtap() {
    with_wire(|| {
        for features in [Features::empty(), Features::CSUM, Features::CSUM | Features::GUEST_CSUM] {
            guest_and_far_kernel_talk("packet = { interface = \"up0\" }", features);
        }
        run("ip link add link up0 name mv0 type macvtap mode passthru");
        run("ip link set mv0 up");
        until(|| run("ip link show mv0").contains("state UP"));
        for (queues, features) in [(1, Features::empty()), (2, Features::CSUM)] {
            let attach = format!("macvtap = {{ interface = \"mv0\", queues = {queues} }}");
            guest_and_far_kernel_talk(&attach, features);
        }
    });
}

fn uplink(lab: &Lab) -> UplinkView {
    lab.view("wire").uplink.unwrap_or_default()
}

#[test]
fn an_uplink_is_promiscuous_only_while_a_port_learns() {
    with_wire(|| {
        // A macvlan filters groups for real, and is promiscuous only when told to be.
        run("ip link add link up0 name mv0 type macvlan mode passthru nopromisc");
        run("ip link set mv0 up");
        let promiscuity =
            || run("ip -d link show mv0").split_once("promiscuity ").unwrap().1.as_bytes()[0] - b'0';
        let wire = "[port.wire]\nswitch = \"lan\"\nprofile = \"open\"\npacket = { interface = \"mv0\" }\n";
        let guest = |name: &str, mac: &str, more: &str| {
            Lab::port(name, &format!("mac = \"{mac}\"\n{more}")).replace("\"open\"", "\"guest\"")
        };
        let learning = Lab::port("b", "");
        let lab = Lab::with("mode = \"pool\"\nthreads = 1", &(learning + wire));
        until(|| uplink(&lab).reason == "port b learns");
        assert_eq!((uplink(&lab).mode.as_str(), promiscuity()), ("promiscuous", 1));
        drop(lab);
        assert_eq!(promiscuity(), 0);

        let known = guest("a", "02:00:00:00:00:0a", "") + &guest("b", "02:00:00:00:00:0b", "");
        let lab = Lab::with("mode = \"pool\"\nthreads = 1", &(known + wire));
        // What is below cannot filter, and the view says so; our own promiscuous mode is left all the same.
        until(|| uplink(&lab).reason == "up0, below mv0, is promiscuous");
        assert_eq!(promiscuity(), 0);
        let table = run("bridge fdb show dev mv0");
        for mac in ["02:00:00:00:00:0a", "02:00:00:00:00:0b"] {
            assert!(table.contains(&format!("{mac} self")), "{table}");
        }
        drop(lab);
        assert!(!run("bridge fdb show dev mv0").contains("02:00:00:00:00:0"));
    });
}

#[test]
fn a_killed_ringway_leaves_no_filter_behind() {
    with_wire(|| {
        let directory = tempfile::tempdir().unwrap();
        let text = "[control]\nsocket = 'control.sock'\n[switch.lan]\n\
            [port.a]\nswitch = 'lan'\nmac = '02:00:00:00:00:0a'\nvhost-user.socket = 'a.sock'\n\
            [port.wire]\nswitch = 'lan'\npacket.interface = 'up0'\n";
        let file = directory.path().join("ringway.toml");
        std::fs::write(&file, text).unwrap();
        let notify = directory.path().join("notify.sock");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("ringway"))
            .arg("run")
            .arg(&file)
            .current_dir(directory.path())
            .env("NOTIFY_SOCKET", &notify)
            .spawn()
            .unwrap();
        let mut message = [0; 64];
        let len = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..len], b"READY=1\n");
        until(|| run("bridge fdb show dev up0").contains("02:00:00:00:00:0a self"));
        kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!run("bridge fdb show dev up0").contains("02:00:00:00:00:0a"));
        assert!(run("ip -d link show up0").contains("promiscuity 0"));
    });
}
