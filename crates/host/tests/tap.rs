//! A tap port next to a guest's, in a network namespace of the test's own: the kernel is the peer. Needs root.

mod station;

use devices::net::Features;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use station::{BROADCAST, Lab, MAC_A, Station, plain};
use std::net::UdpSocket;
use std::process::Command;

const TAP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const GUEST: [u8; 4] = [10, 9, 0, 2];
const HOST: [u8; 4] = [10, 9, 0, 1];

fn arp(operation: u8, target_mac: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
    let fixed = [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    let mut bytes = [&dst[..], &MAC_A, &fixed, &MAC_A, &GUEST, &target_mac, &HOST].concat();
    bytes.resize(60, 0);
    bytes
}

/// The next frame of this type; the kernel's own chatter (ND, MLD) is passed over.
fn next_of(station: &mut Station, ethertype: u16) -> (Vec<u8>, Vec<u8>) {
    loop {
        let (header, frame) = station.receive();
        if frame[12..14] == ethertype.to_be_bytes() {
            return (header, frame);
        }
    }
}

/// One tap with `queues` queues and one guest with `features`: ARP, then UDP both ways with checksums left unfinished.
fn guest_and_kernel_talk(queues: u16, features: Features) {
    let tap = format!(
        "[port.host]\nswitch = \"lan\"\nmac = \"02:00:00:00:00:77\"\ntap = {{ name = \"rwt{queues}\", queues = {queues} }}\n"
    );
    let lab = Lab::with("mode = \"pool\"\nthreads = 1", &(Lab::port("a", "") + &tap));
    let configured =
        Command::new("ip").args(["addr", "add", "10.9.0.1/24", "dev", &format!("rwt{queues}")]).status();
    assert!(configured.unwrap().success());
    let mut guest = Station::connect(&lab.socket("a"), plain() | features);

    guest.send(&arp(1, [0; 6], BROADCAST));
    let (_, reply) = next_of(&mut guest, 0x0806);
    assert_eq!(
        (&reply[..6], &reply[6..12], reply[21], &reply[28..32]),
        (&MAC_A[..], &TAP_MAC[..], 2, &HOST[..])
    );

    // The guest leaves the checksum to us: the field holds the pseudo-header's sum only.
    let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
    socket.set_read_timeout(Some(station::PATIENCE)).unwrap();
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(MAC_A, TAP_MAC)
        .ipv4(GUEST, HOST, 64)
        .udp(7001, 7000)
        .write(&mut packet, b"from the guest")
        .unwrap();
    let unfinished = features.contains(Features::CSUM);
    if unfinished {
        let words = [GUEST, HOST]
            .concat()
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum::<u32>();
        let sum = words + 17 + 8 + 14;
        let folded = (sum & 0xffff) + (sum >> 16);
        packet[40..42].copy_from_slice(&(folded as u16).to_be_bytes());
    }
    let header = if unfinished { [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0] } else { [0; 12] };
    guest.send_with(&header, &packet);
    let mut bytes = [0; 64];
    let (len, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..len], from.to_string()), (&b"from the guest"[..], "10.9.0.2:7001".to_string()));

    // And back: a guest that did not agree to unfinished checksums gets finished ones.
    socket.send_to(b"from the kernel", from).unwrap();
    let (_, frame) = loop {
        let (header, frame) = guest.receive();
        match frame[12..14] {
            [8, 6] if frame[21] == 1 => guest.send(&arp(2, TAP_MAC, TAP_MAC)),
            [8, 0] => break (header, frame),
            _ => {}
        }
    };
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else {
        panic!("no UDP")
    };
    assert_eq!(udp.payload(), b"from the kernel");
    if !features.contains(Features::GUEST_CSUM) {
        let (ip, header) = (ip.header().to_header(), udp.to_header());
        assert_eq!(header.calc_checksum_ipv4(&ip, udp.payload()).unwrap(), header.checksum);
    }
}

#[test]
fn a_guest_talks_to_the_kernel_through_a_tap() {
    // Only this thread moves, and every thread and process it makes stays with it.
    std::thread::spawn(|| {
        let flags = rustix::thread::UnshareFlags::NEWNET;
        #[expect(deprecated, reason = "the safe form: only the network is left")]
        rustix::thread::unshare(flags).expect("a network namespace of its own needs root");
        for queues in [1, 2] {
            for features in [Features::empty(), Features::CSUM, Features::CSUM | Features::GUEST_CSUM] {
                guest_and_kernel_talk(queues, features);
            }
        }
    })
    .join()
    .unwrap();
}
