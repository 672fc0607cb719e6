//! Frames for tests, put together byte by byte.

use super::{group_mac, link_local_of, ones_sum, ones_sum_ipv6, solicited_node_group};
use crate::frame::EthernetHead;
use crate::types::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whom frames come from unless a test says otherwise.
pub(crate) const SENDER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
pub(crate) const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

pub(crate) fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(crate) fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

pub(crate) fn head(frame: &[u8]) -> EthernetHead {
    EthernetHead::parse(frame).unwrap()
}

pub(crate) fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// The same frame with tags put before its type.
pub(crate) fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], tags.as_flattened(), &frame[12..]].concat()
}

pub(crate) const TAG: [u8; 4] = [0x81, 0, 0x60, 42];
pub(crate) const SERVICE_TAG: [u8; 4] = [0x88, 0xa8, 0, 7];

pub(crate) fn arp(operation: u16, sender_mac: MacAddr, sender: &str, target: &str) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(sender_mac.0);
    message.extend(v4(sender).octets());
    message.extend([0; 6]);
    message.extend(v4(target).octets());
    message
}

/// A broadcast of ARP from [`SENDER`].
pub(crate) fn arp_frame(operation: u16, sender: &str, target: &str) -> Vec<u8> {
    ethernet(MacAddr::BROADCAST, SENDER, 0x0806, &arp(operation, SENDER, sender, target))
}

pub(crate) fn ipv4(source: &str, to: &str, protocol: u8, message: &[u8]) -> Vec<u8> {
    // With the router alert, as IGMP has it.
    let mut packet = vec![0x46, 0xc0];
    packet.extend((24 + message.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 1, protocol, 0, 0]);
    packet.extend(v4(source).octets());
    packet.extend(v4(to).octets());
    packet.extend([0x94, 4, 0, 0]);
    let sum = !ones_sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(message);
    packet
}

/// `chain` are extension headers, of which the first is of kind `first` and the last names the message's protocol.
pub(crate) fn ipv6(
    source: &str,
    to: &str,
    hop_limit: u8,
    first: u8,
    chain: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(((chain.len() + message.len()) as u16).to_be_bytes());
    packet.extend([first, hop_limit]);
    packet.extend(v6(source).octets());
    packet.extend(v6(to).octets());
    packet.extend(chain);
    packet.extend(message);
    packet
}

/// Puts the checksum into bytes 2 and 3.
pub(crate) fn summed(mut message: Vec<u8>) -> Vec<u8> {
    let sum = !ones_sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

pub(crate) fn summed_v6(source: &str, to: &str, protocol: u8, mut message: Vec<u8>) -> Vec<u8> {
    let sum = !ones_sum_ipv6(v6(source), v6(to), protocol, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A message of ICMPv6 in a frame from [`SENDER`] to a group or to [`OTHER`].
pub(crate) fn icmpv6_frame(source: &str, to: &str, message: Vec<u8>) -> Vec<u8> {
    let message = summed_v6(source, to, 58, message);
    let mac = if v6(to).is_multicast() { group_mac(IpAddr::V6(v6(to))) } else { OTHER };
    ethernet(mac, SENDER, 0x86dd, &ipv6(source, to, 255, 58, &[], &message))
}

/// A message of neighbour discovery: its fixed part, then one link-layer option of `kind`, if it has one.
pub(crate) fn discovery(kind: u8, target: Option<&str>, option: Option<(u8, MacAddr)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.map(|target| v6(target).octets()).iter().flatten());
    match kind {
        134 => message.extend([0; 8]),
        137 => message.extend(v6("2001:db8::77").octets()),
        _ => (),
    }
    message.extend(option.iter().flat_map(|(kind, mac)| [&[*kind, 1][..], &mac.0].concat()));
    message
}

/// Asks for `target`, as a station does that has [`SENDER`]'s address.
pub(crate) fn solicitation_frame(source: &str, target: &str) -> Vec<u8> {
    let to = solicited_node_group(v6(target)).to_string();
    let option = (source != "::").then_some((1, SENDER));
    icmpv6_frame(source, &to, discovery(135, Some(target), option))
}

pub(crate) fn own_link_local() -> String {
    link_local_of(SENDER).to_string()
}

/// A message of IGMP in a frame from [`SENDER`]; the checksum is put in.
pub(crate) fn igmp_frame(source: &str, to: &str, message: Vec<u8>) -> Vec<u8> {
    let packet = ipv4(source, to, 2, &summed(message));
    ethernet(group_mac(IpAddr::V4(v4(to))), SENDER, 0x0800, &packet)
}

/// Eight bytes of IGMP.
pub(crate) fn igmp(kind: u8, code: u8, group: &str) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &v4(group).octets()].concat()
}

/// A report of IGMPv3: kind, group and number of sources of each record.
pub(crate) fn igmp3(records: &[(u8, &str, u16)]) -> Vec<u8> {
    let mut message = vec![0x22, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        message.extend([*kind, 0]);
        message.extend(sources.to_be_bytes());
        message.extend(v4(group).octets());
        (0..*sources).for_each(|_| message.extend([192, 0, 2, 1]));
    }
    message
}

/// The hop-by-hop header that messages of MLD have.
pub(crate) const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];

/// A message of MLD in a frame from [`SENDER`]; the checksum is put in.
pub(crate) fn mld_frame(source: &str, to: &str, message: Vec<u8>) -> Vec<u8> {
    let message = summed_v6(source, to, 58, message);
    let packet = ipv6(source, to, 1, 0, &ROUTER_ALERT, &message);
    ethernet(group_mac(IpAddr::V6(v6(to))), SENDER, 0x86dd, &packet)
}

/// MLD's 24 bytes of version 1.
pub(crate) fn mld(kind: u8, code: u16, group: &str) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    [&[kind, 0, 0, 0, high, low, 0, 0][..], &v6(group).octets()].concat()
}

/// A report of MLDv2: kind, group and number of sources of each record.
pub(crate) fn mld2(records: &[(u8, &str, u16)]) -> Vec<u8> {
    let mut message = vec![143, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        message.extend([*kind, 0]);
        message.extend(sources.to_be_bytes());
        message.extend(v6(group).octets());
        (0..*sources).for_each(|_| message.extend([0x20; 16]));
    }
    message
}
