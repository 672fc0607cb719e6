//! A frame as one line: addresses, VLANs, and the innermost thing that is understood.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{
    ArpOperation, ArpPacketSlice, EtherType, IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket,
    TcpSlice, TransportSlice,
};
use switch::MacAddr;

/// One line about a frame of `frame_len` bytes, of which `frame` is the beginning or all, such as
/// `52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff vlan 10 ARP who-has 10.0.0.2 tell 10.0.0.1 (60 B)`. Any bytes will do.
pub fn summary(frame: &[u8], frame_len: u32) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _infallible = write_summary(&mut line, frame);
    let _infallible = write!(line, " ({frame_len} B)");
    line
}

fn write_summary(line: &mut String, frame: &[u8]) -> std::fmt::Result {
    let (Some(destination), Some(source)) =
        (frame.first_chunk::<6>(), frame.get(6..).and_then(<[u8]>::first_chunk::<6>))
    else {
        return write!(line, "runt");
    };
    write!(line, "{} > {}", MacAddr(*source), MacAddr(*destination))?;
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return write!(line, " runt");
    };
    for extension in &packet.link_exts {
        match extension {
            LaxLinkExtSlice::Vlan(vlan) => write!(line, " vlan {}", vlan.vlan_identifier().value())?,
            LaxLinkExtSlice::Macsec(_) => write!(line, " MACsec")?,
        }
    }
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => write_arp(line, arp),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let ends = (header.source_addr().into(), header.destination_addr().into());
            let fragment = (header.fragments_offset().value() != 0).then(|| ip.payload().ip_number);
            write_ip(line, ends, fragment, packet.transport.as_ref(), ip.payload().ip_number)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let ends = (header.source_addr().into(), header.destination_addr().into());
            let later = ip.payload().fragmented && packet.transport.is_none();
            let fragment = later.then(|| ip.payload().ip_number);
            write_ip(line, ends, fragment, packet.transport.as_ref(), ip.payload().ip_number)
        }
        None => {
            let ethertype = packet.ether_payload().map(|payload| payload.ether_type);
            match ethertype {
                Some(EtherType::IPV4) => write!(line, " IPv4, broken header"),
                Some(EtherType::IPV6) => write!(line, " IPv6, broken header"),
                Some(EtherType::ARP) => write!(line, " ARP, broken"),
                // A length, not a type: IEEE 802.3 with LLC behind it.
                Some(EtherType(length @ ..0x600)) => write_llc(line, length, frame),
                Some(EtherType(number)) => write!(line, " type {number:#06x}"),
                None => Ok(()),
            }
        }
    }
}

/// What bridges say to each other stands behind DSAP and SSAP 0x42 (IEEE 802.1D §9.2).
fn write_llc(line: &mut String, length: u16, frame: &[u8]) -> std::fmt::Result {
    match frame.get(14..16) {
        Some([0x42, 0x42]) => write!(line, " spanning tree"),
        _ => write!(line, " LLC, length {length}"),
    }
}

fn write_arp(line: &mut String, arp: &ArpPacketSlice<'_>) -> std::fmt::Result {
    let v4 = |bytes: &[u8]| bytes.first_chunk::<4>().copied().map(Ipv4Addr::from);
    let of_ethernet = arp.hw_addr_size() == 6 && arp.proto_addr_size() == 4;
    let addresses = (v4(arp.sender_protocol_addr()), v4(arp.target_protocol_addr()));
    let (true, (Some(sender), Some(target))) = (of_ethernet, addresses) else {
        return write!(line, " ARP operation {} of another network", arp.operation().0);
    };
    match arp.operation() {
        ArpOperation::REQUEST => write!(line, " ARP who-has {target} tell {sender}"),
        ArpOperation::REPLY => match arp.sender_hw_addr().first_chunk::<6>() {
            Some(mac) => write!(line, " ARP {sender} is-at {}", MacAddr(*mac)),
            None => write!(line, " ARP reply"),
        },
        other => write!(line, " ARP operation {}, {sender} to {target}", other.0),
    }
}

fn write_ip(
    line: &mut String,
    (source, destination): (IpAddr, IpAddr),
    fragment: Option<IpNumber>,
    transport: Option<&TransportSlice<'_>>,
    protocol: IpNumber,
) -> std::fmt::Result {
    if let Some(protocol) = fragment {
        return write!(line, " {} {source} > {destination} fragment", protocol_name(protocol));
    }
    let with_ports = |line: &mut String, name: &str, from: u16, to: u16| {
        write!(line, " {name} {} > {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))
    };
    match transport {
        Some(TransportSlice::Udp(udp)) => with_ports(line, "UDP", udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => {
            with_ports(line, "TCP", tcp.source_port(), tcp.destination_port())?;
            write_flags(line, tcp)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            write!(line, " ICMP {source} > {destination} ")?;
            write_icmp(line, icmp_name(icmp.type_u8()), icmp.type_u8(), icmp.code_u8())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            write!(line, " ICMPv6 {source} > {destination} ")?;
            write_icmp(line, icmp6_name(icmp.type_u8()), icmp.type_u8(), icmp.code_u8())
        }
        Some(TransportSlice::Igmp(igmp)) => {
            write!(line, " IGMP {source} > {destination} ")?;
            match igmp_name(igmp.type_u8()) {
                Some(name) => write!(line, "{name}"),
                None => write!(line, "type {:#04x}", igmp.type_u8()),
            }
        }
        None => write!(line, " {} {source} > {destination}", protocol_name(protocol)),
    }
}

fn protocol_name(protocol: IpNumber) -> String {
    match protocol {
        IpNumber::TCP => "TCP".into(),
        IpNumber::UDP => "UDP".into(),
        IpNumber::ICMP => "ICMP".into(),
        IpNumber::IPV6_ICMP => "ICMPv6".into(),
        IpNumber::IGMP => "IGMP".into(),
        IpNumber(number) => format!("IP protocol {number}"),
    }
}

fn write_flags(line: &mut String, tcp: &TcpSlice<'_>) -> std::fmt::Result {
    let flags = [
        (tcp.syn(), "SYN"),
        (tcp.fin(), "FIN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.ack(), "ACK"),
        (tcp.urg(), "URG"),
    ];
    let set: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    write!(line, " [{}]", set.join(" "))
}

fn write_icmp(line: &mut String, name: Option<&str>, number: u8, code: u8) -> std::fmt::Result {
    match name {
        Some(name) => write!(line, "{name}"),
        None => write!(line, "type {number} code {code}"),
    }
}

/// IANA, ICMP type numbers.
fn icmp_name(number: u8) -> Option<&'static str> {
    use etherparse::icmpv4::*;
    Some(match number {
        TYPE_ECHO_REPLY => "echo reply",
        TYPE_DEST_UNREACH => "destination unreachable",
        TYPE_REDIRECT => "redirect",
        TYPE_ECHO_REQUEST => "echo request",
        TYPE_TIME_EXCEEDED => "time exceeded",
        _ => return None,
    })
}

/// IANA, ICMPv6 type numbers; 143 is RFC 3810's.
fn icmp6_name(number: u8) -> Option<&'static str> {
    use etherparse::icmpv6::*;
    Some(match number {
        TYPE_DST_UNREACH => "destination unreachable",
        TYPE_PACKET_TOO_BIG => "packet too big",
        TYPE_TIME_EXCEEDED => "time exceeded",
        TYPE_ECHO_REQUEST => "echo request",
        TYPE_ECHO_REPLY => "echo reply",
        TYPE_MULTICAST_LISTENER_QUERY => "MLD query",
        TYPE_MULTICAST_LISTENER_REPORT | 143 => "MLD report",
        TYPE_MULTICAST_LISTENER_REDUCTION => "MLD done",
        TYPE_ROUTER_SOLICITATION => "router solicitation",
        TYPE_ROUTER_ADVERTISEMENT => "router advertisement",
        TYPE_NEIGHBOR_SOLICITATION => "neighbour solicitation",
        TYPE_NEIGHBOR_ADVERTISEMENT => "neighbour advertisement",
        TYPE_REDIRECT_MESSAGE => "redirect",
        _ => return None,
    })
}

/// RFC 2236 §2.1 and RFC 3376 §4.
fn igmp_name(number: u8) -> Option<&'static str> {
    Some(match number {
        0x11 => "query",
        0x12 => "v1 report",
        0x16 => "v2 report",
        0x17 => "leave",
        0x22 => "v3 report",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::frame_of;
    use super::*;
    use proptest::prelude::*;

    fn line(words: &str) -> String {
        let frame = frame_of(words, None).expect(words);
        summary(&frame, frame.len() as u32)
    }

    #[test]
    fn what_is_written_in_words_is_told_in_words() {
        let ends = "src=52:54:00:00:00:01 dst=52:54:00:00:00:02";
        let head = "52:54:00:00:00:01 > 52:54:00:00:00:02";
        let cases = [
            (" arp=10.0.0.1>10.0.0.2 vlan=10", " vlan 10 ARP who-has 10.0.0.2 tell 10.0.0.1 (60 B)"),
            (" arp-reply=10.0.0.1>10.0.0.2", " ARP 10.0.0.1 is-at 52:54:00:00:00:01 (60 B)"),
            (" ip=10.0.0.1>10.0.0.2 udp=68>67 len=100", " UDP 10.0.0.1:68 > 10.0.0.2:67 (100 B)"),
            (" ip=10.0.0.1>10.0.0.2 tcp=1000>80", " TCP 10.0.0.1:1000 > 10.0.0.2:80 [SYN] (60 B)"),
            (" ip=10.0.0.1>10.0.0.2 icmp", " ICMP 10.0.0.1 > 10.0.0.2 echo request (60 B)"),
            (" ip=10.0.0.1>10.0.0.2", " IP protocol 253 10.0.0.1 > 10.0.0.2 (60 B)"),
            (" ip6=fe80::1>fe80::2 tcp=9>8", " TCP [fe80::1]:9 > [fe80::2]:8 [SYN] (74 B)"),
            (
                " ip6=fe80::1>fe80::2 icmp svlan=5 vlan=6",
                " vlan 5 vlan 6 ICMPv6 fe80::1 > fe80::2 echo request (70 B)",
            ),
            (" type=0x88cc", " type 0x88cc (60 B)"),
        ];
        for (words, told) in cases {
            assert_eq!(line(&format!("{ends}{words}")), format!("{head}{told}"), "{words}");
        }
    }

    #[test]
    fn broken_frames_are_told_too() {
        assert_eq!(summary(&[], 0), "runt (0 B)");
        assert_eq!(summary(&[1; 13], 13), "01:01:01:01:01:01 > 01:01:01:01:01:01 runt (13 B)");
        let ip = [&[2; 12][..], &[8, 0, 0x41, 0]].concat();
        assert_eq!(summary(&ip, 16), "02:02:02:02:02:02 > 02:02:02:02:02:02 IPv4, broken header (16 B)");
        let stp = [&[2; 12][..], &[0, 38, 0x42, 0x42, 3]].concat();
        assert_eq!(summary(&stp, 60), "02:02:02:02:02:02 > 02:02:02:02:02:02 spanning tree (60 B)");
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_line(
            mut frame in prop::collection::vec(any::<u8>(), 0..200),
            ethertype in prop::sample::select(vec![0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88e5, 38]),
            version in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0]),
            protocol in prop::sample::select(vec![0u8, 1, 2, 6, 17, 43, 44, 51, 58, 60]),
        ) {
            for (at, bytes) in [(12, &ethertype.to_be_bytes()[..]), (14, &[version]), (20, &[protocol]), (23, &[protocol])] {
                if let Some(place) = frame.get_mut(at..at + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
            }
            let line = summary(&frame, frame.len() as u32);
            prop_assert!(line.is_ascii() && !line.contains(|c: char| c.is_control()));
        }
    }
}
