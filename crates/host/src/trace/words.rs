//! Frames from words such as `src=52:54:00:00:00:01 arp=10.0.0.1,10.0.0.2`.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpHeaders, IpNumber, PacketBuilder,
    PacketBuilderStep, SingleVlanHeader, VlanId,
};
use switch::MacAddr;

use super::input::{FRAME_BYTES_MAX, FrameError};

/// Shortest frame, without the check sequence.
const FRAME_BYTES_MIN: usize = 60;
/// The type of a frame that says nothing else: IEEE 802 local experimental ethertype 1.
const TYPE_DEFAULT: u16 = 0x88b5;
/// The protocol of a packet that says nothing else: for experiments (RFC 3692).
const PROTOCOL_DEFAULT: IpNumber = IpNumber(253);
const HOPS: u8 = 64;

const WORDS_ACCEPTED: &str = "src=MAC dst=MAC svlan=N vlan=N arp=IP,IP arp-reply=IP,IP ip=IP,IP ip6=IP,IP udp=PORT,PORT \
     tcp=PORT,PORT icmp type=0x.. len=N";
const MAC_ACCEPTED: &str = "a MAC address such as 52:54:00:00:00:01";
const VLAN_ACCEPTED: &str = "a number from 0 to 4095";
const V4_ACCEPTED: &str = "two IPv4 addresses such as 10.0.0.1,10.0.0.2";
const V6_ACCEPTED: &str = "two IPv6 addresses such as fd00::1,fd00::2";
const PORTS_ACCEPTED: &str = "two port numbers such as 1000,53";
const TYPE_ACCEPTED: &str = "an ethertype such as 0x88cc";
const LEN_ACCEPTED: &str = "a number of bytes";

/// What the words said.
#[derive(Default)]
struct Words {
    source: Option<MacAddr>,
    destination: Option<MacAddr>,
    svlan: Option<VlanId>,
    vlan: Option<VlanId>,
    content: Option<Content>,
    inner: Option<Inner>,
    len: Option<usize>,
}

enum Content {
    Arp { operation: ArpOperation, sender: Ipv4Addr, target: Ipv4Addr },
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
    Type(u16),
}

enum Inner {
    Udp(u16, u16),
    Tcp(u16, u16),
    Icmp,
}

/// Builds the frame that the words describe; see [`super::frame_of`].
pub(super) fn build(text: &str, source: Option<MacAddr>) -> Result<Vec<u8>, FrameError> {
    let words = read(text)?;
    let Some(source) = words.source.or(source) else {
        return Err(FrameError::new("the frame has no source", "src=MAC"));
    };
    let Some(destination) = words.destination.or_else(|| words.content.as_ref().and_then(implied)) else {
        return Err(FrameError::new("the frame has no destination", "dst=MAC"));
    };
    let ethertype = match &words.content {
        Some(Content::Arp { .. }) => EtherType::ARP,
        Some(Content::V4(..)) => EtherType::IPV4,
        Some(Content::V6(..)) => EtherType::IPV6,
        Some(Content::Type(number)) => EtherType(*number),
        None => EtherType(TYPE_DEFAULT),
    };
    let mut frame = headers(source, destination, words.svlan, words.vlan, ethertype);
    let room = words.len.map(|len| len.saturating_sub(frame.len()));
    match &words.content {
        Some(Content::Arp { operation, sender, target }) => {
            frame.extend_from_slice(&arp(*operation, source, *sender, *target)?.to_bytes());
        }
        Some(Content::V4(from, to)) => {
            let step = PacketBuilder::ipv4(from.octets(), to.octets(), HOPS);
            packet(&mut frame, step, words.inner.as_ref(), false, room)?;
        }
        Some(Content::V6(from, to)) => {
            let step = PacketBuilder::ipv6(from.octets(), to.octets(), HOPS);
            packet(&mut frame, step, words.inner.as_ref(), true, room)?;
        }
        Some(Content::Type(_)) | None => {}
    }
    let least = frame.len();
    match words.len {
        Some(len) if len < least => {
            let found = format!("len={len} is shorter than the headers, which are {least} bytes long");
            return Err(FrameError::new(found, "a longer one, or no len"));
        }
        Some(len) => frame.resize(len, 0),
        None => frame.resize(least.max(FRAME_BYTES_MIN), 0),
    }
    Ok(frame)
}

/// The destination that goes without saying.
fn implied(content: &Content) -> Option<MacAddr> {
    match content {
        Content::Arp { operation: ArpOperation::REQUEST, .. } => Some(MacAddr::BROADCAST),
        Content::V4(_, to) if to.is_broadcast() => Some(MacAddr::BROADCAST),
        // RFC 1112 §6.4: the group's last 23 bits.
        Content::V4(_, to) if to.is_multicast() => {
            let [_, b, c, d] = to.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        }
        // RFC 2464 §7: the group's last 32 bits.
        Content::V6(_, to) if to.is_multicast() => {
            let [.., c, d, e, f] = to.octets();
            Some(MacAddr([0x33, 0x33, c, d, e, f]))
        }
        _ => None,
    }
}

fn headers(
    source: MacAddr,
    destination: MacAddr,
    svlan: Option<VlanId>,
    vlan: Option<VlanId>,
    ethertype: EtherType,
) -> Vec<u8> {
    let tags: Vec<(EtherType, VlanId)> = [
        svlan.map(|id| (EtherType::PROVIDER_BRIDGING, id)),
        vlan.map(|id| (EtherType::VLAN_TAGGED_FRAME, id)),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Each header names the type of what is behind it.
    let mut types = tags.iter().map(|(tag, _)| *tag).chain([ethertype]);
    let mut next_type = || types.next().unwrap_or(ethertype);
    let ethernet = Ethernet2Header { source: source.0, destination: destination.0, ether_type: next_type() };
    let mut frame = ethernet.to_bytes().to_vec();
    for (_, vlan_id) in &tags {
        let tag = SingleVlanHeader { vlan_id: *vlan_id, ether_type: next_type(), ..Default::default() };
        frame.extend_from_slice(&tag.to_bytes());
    }
    frame
}

fn arp(
    operation: ArpOperation,
    source: MacAddr,
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Result<ArpPacket, FrameError> {
    let target_mac = [0; 6];
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &source.0,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    );
    packet.map_err(|error| FrameError::new(error.to_string(), V4_ACCEPTED))
}

/// Appends an IP packet, as long as `room` if that is enough for its headers.
fn packet(
    frame: &mut Vec<u8>,
    step: PacketBuilderStep<IpHeaders>,
    inner: Option<&Inner>,
    v6: bool,
    room: Option<usize>,
) -> Result<(), FrameError> {
    let payload = |headers: usize| vec![0; room.unwrap_or(0).saturating_sub(headers)];
    // The headers' places and the payload's length are ours, so only a packet that is too long can fail.
    fn fits<E: Display>(written: Result<(), E>) -> Result<(), FrameError> {
        written.map_err(|error| FrameError::new(error.to_string(), "a shorter len"))
    }
    match inner {
        Some(Inner::Udp(from, to)) => {
            let step = step.udp(*from, *to);
            let payload = payload(step.size(0));
            fits(step.write_to_vec(frame, &payload))
        }
        Some(Inner::Tcp(from, to)) => {
            let step = step.tcp(*from, *to, 0, 65_535).syn();
            let payload = payload(step.size(0));
            fits(step.write_to_vec(frame, &payload))
        }
        Some(Inner::Icmp) if v6 => {
            let step = step.icmpv6_echo_request(1, 1);
            let payload = payload(step.size(0));
            fits(step.write_to_vec(frame, &payload))
        }
        Some(Inner::Icmp) => {
            let step = step.icmpv4_echo_request(1, 1);
            let payload = payload(step.size(0));
            fits(step.write_to_vec(frame, &payload))
        }
        None => {
            let payload = payload(step.size(0));
            fits(step.write_to_vec(frame, PROTOCOL_DEFAULT, &payload))
        }
    }
}

fn read(text: &str) -> Result<Words, FrameError> {
    let mut words = Words::default();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let bad = |accepted| FrameError::new(format!("{word:?} does not fit"), accepted);
        match key {
            "src" => once(&mut words.source, value.parse().map_err(|_| bad(MAC_ACCEPTED))?, word)?,
            "dst" => once(&mut words.destination, value.parse().map_err(|_| bad(MAC_ACCEPTED))?, word)?,
            "vlan" => once(&mut words.vlan, vlan(value).ok_or_else(|| bad(VLAN_ACCEPTED))?, word)?,
            "svlan" => once(&mut words.svlan, vlan(value).ok_or_else(|| bad(VLAN_ACCEPTED))?, word)?,
            "arp" | "arp-reply" => {
                let operation = if key == "arp" { ArpOperation::REQUEST } else { ArpOperation::REPLY };
                let (sender, target) = pair(value).ok_or_else(|| bad(V4_ACCEPTED))?;
                once(&mut words.content, Content::Arp { operation, sender, target }, word)?;
            }
            "ip" | "ip4" => {
                let (from, to) = pair(value).ok_or_else(|| bad(V4_ACCEPTED))?;
                once(&mut words.content, Content::V4(from, to), word)?;
            }
            "ip6" => {
                let (from, to) = pair(value).ok_or_else(|| bad(V6_ACCEPTED))?;
                once(&mut words.content, Content::V6(from, to), word)?;
            }
            "type" => {
                let number = ethertype(value).ok_or_else(|| bad(TYPE_ACCEPTED))?;
                once(&mut words.content, Content::Type(number), word)?;
            }
            "udp" => {
                let (from, to) = pair(value).ok_or_else(|| bad(PORTS_ACCEPTED))?;
                once(&mut words.inner, Inner::Udp(from, to), word)?;
            }
            "tcp" => {
                let (from, to) = pair(value).ok_or_else(|| bad(PORTS_ACCEPTED))?;
                once(&mut words.inner, Inner::Tcp(from, to), word)?;
            }
            "icmp" | "icmp6" if value.is_empty() => once(&mut words.inner, Inner::Icmp, word)?,
            "len" => {
                let len: usize = value.parse().map_err(|_| bad(LEN_ACCEPTED))?;
                if len > FRAME_BYTES_MAX {
                    let found = format!("{word:?} is longer than {FRAME_BYTES_MAX} bytes");
                    return Err(FrameError::new(found, LEN_ACCEPTED));
                }
                once(&mut words.len, len, word)?;
            }
            _ => return Err(FrameError::new(format!("{word:?} is no part of a frame"), WORDS_ACCEPTED)),
        }
    }
    match (&words.inner, &words.content) {
        (Some(_), Some(Content::V4(..) | Content::V6(..))) | (None, _) => Ok(words),
        _ => Err(FrameError::new("udp, tcp and icmp need a packet around them", "ip=IP,IP or ip6=IP,IP")),
    }
}

fn once<T>(place: &mut Option<T>, value: T, word: &str) -> Result<(), FrameError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(FrameError::new(
            format!("{word:?} says again what was said before"),
            "one word for each thing",
        )),
    }
}

/// Two values with a comma or `>` between them.
fn pair<T: FromStr>(text: &str) -> Option<(T, T)> {
    let (from, to) = text.split_once([',', '>'])?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

fn vlan(text: &str) -> Option<VlanId> {
    text.parse().ok().and_then(|number| VlanId::try_new(number).ok())
}

fn ethertype(text: &str) -> Option<u16> {
    match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u16::from_str_radix(digits, 16).ok(),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    const ENDS: &str = "src=52:54:00:00:00:01 dst=52:54:00:00:00:02 ";

    fn frame(words: &str) -> Vec<u8> {
        build(&format!("{ENDS}{words}"), None).expect(words)
    }

    #[test]
    fn packets_have_the_right_lengths_and_checksums() {
        for (words, len) in [
            ("ip=10.0.0.1>10.0.0.2 udp=1000>53 len=100", 100),
            ("ip=10.0.0.1,10.0.0.2 tcp=1000,80", 60),
            ("ip6=fd00::1,fd00::2 tcp=1,2 vlan=7 len=1500", 1500),
            ("ip6=fd00::1,fd00::2 udp=1,2 svlan=5 vlan=7 len=65557", 65_557),
        ] {
            let frame = frame(words);
            assert_eq!(frame.len(), len, "{words}");
            let packet = SlicedPacket::from_ethernet(&frame).expect(words);
            let checksum_holds = match (&packet.net, &packet.transport) {
                (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
                    let (from, to) = (ip.header().source(), ip.header().destination());
                    let computed = udp.to_header().calc_checksum_ipv4_raw(from, to, udp.payload());
                    computed == Ok(udp.checksum())
                }
                (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                        == Ok(tcp.checksum())
                }
                (Some(etherparse::NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
                    tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                        == Ok(tcp.checksum())
                }
                (Some(etherparse::NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
                    let (from, to) = (ip.header().source(), ip.header().destination());
                    let computed = udp.to_header().calc_checksum_ipv6_raw(from, to, udp.payload());
                    computed == Ok(udp.checksum())
                }
                other => panic!("{words}: {other:?}"),
            };
            assert!(checksum_holds, "{words}");
        }
    }

    #[test]
    fn tags_stand_outside_in() {
        let frame = frame("svlan=100 vlan=10 type=0x88cc");
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 10, 0x88, 0xcc]);
        let packet = SlicedPacket::from_ethernet(&frame).expect("sliced");
        assert_eq!(packet.vlan_ids().as_slice(), [100, 10].map(|id| VlanId::try_new(id).expect("fits")));
        let payload = packet.ether_payload().expect("a payload");
        assert_eq!(payload.ether_type, EtherType(0x88cc));
    }

    #[test]
    fn what_goes_without_saying_need_not_be_said() {
        let port = Some(MacAddr([0x52, 0x54, 0, 0, 0, 9]));
        let destination = |words: &str| build(words, port).map(|frame| frame[..6].to_vec());
        assert_eq!(destination("arp=10.0.0.1>10.0.0.2"), Ok(vec![0xff; 6]));
        assert_eq!(destination("ip=10.0.0.1>255.255.255.255"), Ok(vec![0xff; 6]));
        assert_eq!(destination("ip=10.0.0.1>239.129.2.3"), Ok(vec![1, 0, 0x5e, 1, 2, 3]));
        assert_eq!(destination("ip6=fe80::1>ff02::1:ff00:2"), Ok(vec![0x33, 0x33, 0xff, 0, 0, 2]));
        assert_eq!(build("arp=10.0.0.1>10.0.0.2", port).expect("built")[6..12], [0x52, 0x54, 0, 0, 0, 9]);
    }

    #[test]
    fn mistakes_are_named_with_what_is_accepted() {
        let cases = [
            ("dst=52:54:00:00:00:02 len=60", "the frame has no source"),
            ("src=52:54:00:00:00:02 len=60", "the frame has no destination"),
            ("src=1", "\"src=1\" does not fit"),
            ("vlan=4096", "\"vlan=4096\" does not fit"),
            ("ip=10.0.0.1", "\"ip=10.0.0.1\" does not fit"),
            ("ip=10.0.0.1,fd00::1", "\"ip=10.0.0.1,fd00::1\" does not fit"),
            (
                "ip=10.0.0.1,10.0.0.2 arp=10.0.0.1,10.0.0.2",
                "\"arp=10.0.0.1,10.0.0.2\" says again what was said before",
            ),
            ("udp=1,2", "udp, tcp and icmp need a packet around them"),
            ("colour=red", "\"colour=red\" is no part of a frame"),
            ("len=70000", "\"len=70000\" is longer than 65557 bytes"),
            (
                "src=52:54:00:00:00:01 dst=52:54:00:00:00:02 ip=1.1.1.1,2.2.2.2 tcp=1,2 len=53",
                "len=53 is shorter than the headers, which are 54 bytes long",
            ),
        ];
        for (words, found) in cases {
            assert_eq!(build(words, None).map_err(|error| error.found), Err(found.into()), "{words}");
        }
    }
}
