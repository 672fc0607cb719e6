//! An AF_XDP uplink next to a guest's port, in a network namespace of the test's own: the kernel behind a veth is the peer.
//! Needs root.

mod station;

use devices::net::Features;
use station::{FAR_MAC, Lab, MAC_A, PATIENCE, Station, plain, udp_packet};
use std::net::UdpSocket;
use std::process::Command;
use std::time::Instant;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn guest_and_far_kernel_talk(mode: &str, features: Features) {
    let uplink = format!(
        "[port.wire]\nswitch = \"lan\"\nprofile = \"open\"\naf-xdp = {{ interface = \"up0\", queues = 1, mode = \"{mode}\" }}\n"
    );
    let lab = Lab::with("mode = \"pool\"\nthreads = 1", &(Lab::port("a", "") + &uplink));
    let mut guest = Station::connect(&lab.socket("a"), plain() | features);
    let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    // AF_XDP takes no unfinished checksum: the port has to finish it, or the kernel throws the packet away.
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
}

#[test]
fn a_guest_talks_to_the_wire_through_af_xdp() {
    // Only this thread moves, and every thread and process it makes stays with it.
    std::thread::spawn(|| {
        let flags = rustix::thread::UnshareFlags::NEWNET;
        #[expect(deprecated, reason = "the safe form: only the network is left")]
        rustix::thread::unshare(flags).expect("a network namespace of its own needs root");
        ip("link add up0 type veth peer name far0");
        ip("link set far0 address 02:00:00:00:00:99 up");
        ip("link set up0 up");
        // Until the kernel has started the queues, a little later, it loses frames silently.
        let end = Instant::now() + PATIENCE;
        while !["up0", "far0"].iter().all(|name| ip(&format!("link show {name}")).contains("state UP")) {
            assert!(Instant::now() < end, "no link");
        }
        ip("address add 10.9.0.1/24 dev far0");
        let mac: Vec<_> = MAC_A.iter().map(|byte| format!("{byte:02x}")).collect();
        ip(&format!("neigh add 10.9.0.2 lladdr {} dev far0", mac.join(":")));
        for mode in ["native", "generic", "auto"] {
            for features in [Features::empty(), Features::CSUM] {
                guest_and_far_kernel_talk(mode, features);
            }
        }
        assert!(!ip("-d link show dev up0").contains("xdp"), "the program is still there");
    })
    .join()
    .unwrap();
}
