//! Frames that the tests send, byte by byte.

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// As it is written.
pub(crate) fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// A frame of at least 60 bytes.
pub(crate) fn ethernet(dst: Mac, src: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&dst[..], &src[..], &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A frame of the type for local experiments (IEEE 802 §9.2.4) that carries a number.
pub(crate) fn numbered(dst: Mac, src: Mac, number: u32) -> Vec<u8> {
    ethernet(dst, src, 0x88b5, &[b"case ", &number.to_be_bytes()[..]].concat())
}

/// The frame with an 802.1Q tag.
pub(crate) fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// The group address of an IPv4 group (RFC 1112 §6.4).
pub(crate) fn group4(group: [u8; 4]) -> Mac {
    [1, 0, 0x5e, group[1] & 0x7f, group[2], group[3]]
}

/// The group address of an IPv6 group (RFC 2464 §7).
pub(crate) fn group6(group: [u8; 16]) -> Mac {
    [0x33, 0x33, group[12], group[13], group[14], group[15]]
}

/// UDP of one number to an IPv4 address.
pub(crate) fn udp4(dst: Mac, src: Mac, from: [u8; 4], to: [u8; 4], number: u32) -> Vec<u8> {
    let udp = [&[0x30, 0, 0x30, 1, 0, 12, 0, 0][..], &number.to_be_bytes()].concat();
    ethernet(dst, src, 0x800, &ip4(from, to, 17, &[], &udp))
}

/// UDP of one number to an IPv6 group.
pub(crate) fn udp6(src: Mac, from: [u8; 16], to: [u8; 16], number: u32) -> Vec<u8> {
    let mut udp = [&[0x30, 0, 0x30, 1, 0, 12, 0, 0][..], &number.to_be_bytes()].concat();
    let sum = sum6(from, to, 17, &udp);
    udp[6..8].copy_from_slice(&sum);
    ethernet(group6(to), src, 0x86dd, &[&head6(from, to, 17, udp.len()), &udp[..]].concat())
}

/// An IGMP message of version 2 (RFC 2236 §2) in the frame that it belongs in. `delay` is in tenths of a second.
pub(crate) fn igmp(src: Mac, from: [u8; 4], to: [u8; 4], kind: u8, delay: u8, group: [u8; 4]) -> Vec<u8> {
    let mut message = [&[kind, delay, 0, 0][..], &group].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    ethernet(group4(to), src, 0x800, &ip4(from, to, 2, &[0x94, 4, 0, 0], &message))
}

/// An IGMP report of version 3 (RFC 9776 §4.2) with one record without sources: 4 joins, 3 leaves.
pub(crate) fn igmp3(src: Mac, from: [u8; 4], record: u8, group: [u8; 4]) -> Vec<u8> {
    let mut message = [&[0x22, 0, 0, 0, 0, 0, 0, 1, record, 0, 0, 0][..], &group].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    let to = [224, 0, 0, 22];
    ethernet(group4(to), src, 0x800, &ip4(from, to, 2, &[0x94, 4, 0, 0], &message))
}

/// A message of MLD version 1 (RFC 2710 §3) in the frame that it belongs in. `delay` is in milliseconds.
pub(crate) fn mld(src: Mac, from: [u8; 16], to: [u8; 16], kind: u8, delay: u16, group: [u8; 16]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], &delay.to_be_bytes(), &[0, 0], &group].concat();
    let sum = sum6(from, to, 58, &message);
    message[2..4].copy_from_slice(&sum);
    // Hop-by-hop options: router alert, and padding (RFC 2711).
    let options = [58, 0, 5, 2, 0, 0, 1, 0];
    let mut head = head6(from, to, 0, options.len() + message.len());
    head[7] = 1;
    ethernet(group6(to), src, 0x86dd, &[&head[..], &options, &message].concat())
}

/// A question of ARP (RFC 826), to everyone.
pub(crate) fn arp(src: Mac, from: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    ethernet([0xff; 6], src, 0x806, &[&head[..], &src, &from, &[0; 6], &target].concat())
}

/// A neighbour solicitation (RFC 4861 §4.3) with the option that names its sender.
pub(crate) fn solicitation(src: Mac, from: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    let mut to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    to[13..].copy_from_slice(&target[13..]);
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, &[1, 1], &src].concat();
    let sum = sum6(from, to, 58, &message);
    message[2..4].copy_from_slice(&sum);
    let mut head = head6(from, to, 58, message.len());
    head[7] = 255;
    ethernet(group6(to), src, 0x86dd, &[&head[..], &message].concat())
}

/// A configuration BPDU of a bridge that would be the root (IEEE 802.1D-2004 §9.3.1).
pub(crate) fn bpdu(src: Mac) -> Vec<u8> {
    let bridge = [&[0x10, 0][..], &src].concat();
    let message =
        [&[0x42, 0x42, 3, 0, 0, 0, 0, 0][..], &bridge, &[0; 4], &bridge, &[0x80, 1, 0, 0, 20, 0, 2, 0, 2, 0]]
            .concat();
    ethernet([1, 0x80, 0xc2, 0, 0, 0], src, 38, &message)
}

fn ip4(from: [u8; 4], to: [u8; 4], protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let head = 20 + options.len();
    let total = (head + payload.len()) as u16;
    let mut packet =
        [&[0x40 | (head / 4) as u8, 0][..], &total.to_be_bytes(), &[0, 0, 0, 0, 1, protocol, 0, 0]].concat();
    packet.extend_from_slice(&from);
    packet.extend_from_slice(&to);
    packet.extend_from_slice(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(payload);
    packet
}

fn head6(from: [u8; 16], to: [u8; 16], next: u8, payload: usize) -> [u8; 40] {
    let mut head = [0; 40];
    head[0] = 0x60;
    head[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    head[6] = next;
    head[7] = 64;
    head[8..24].copy_from_slice(&from);
    head[24..].copy_from_slice(&to);
    head
}

fn sum6(from: [u8; 16], to: [u8; 16], next: u8, payload: &[u8]) -> [u8; 2] {
    let length = (payload.len() as u32).to_be_bytes();
    checksum(&[&from[..], &to, &length, &[0, 0, 0, next], payload].concat())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
