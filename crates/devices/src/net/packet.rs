//! Where the headers of a frame begin and end, read from a private copy of its first bytes.
//!
//! The parse answers only what offloads need: Ethernet with up to two VLAN tags, IPv4 with options, IPv6 with
//! a bounded number of extension headers, TCP and UDP. What it does not know is [`Network::Other`] or
//! [`Transport::Other`], never an error: a switch forwards it all the same.

use super::checksum::Sum;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86DD;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IPv6 next-header number of the fragment header.
pub const PROTOCOL_FRAGMENT: u8 = 44;

const VLAN_TAGS: [u16; 2] = [0x8100, 0x88A8];
const VLAN_TAGS_MAX: usize = 2;
/// IPv6 extension headers followed at most; more than any sender has a use for.
const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// The network layer of a frame. Offsets are bytes from the frame's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// IPv4, header complete.
    Ipv4 {
        /// Part of a fragmented packet.
        fragment: bool,
    },
    /// IPv6, header and all extension headers complete.
    Ipv6 {
        /// Part of a fragmented packet.
        fragment: bool,
        /// A routing header with hops to go: the checksum's destination is not the header's.
        routed: bool,
        /// Where the part ends that every fragment has to carry (RFC 8200 §4.5).
        unfragmentable_end: u16,
        /// Where that part names the header after it.
        next_header_at: u16,
    },
    /// Anything else, or cut off before the headers' end.
    Other,
}

/// The transport layer of an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP with a header of this many bytes, options included.
    Tcp {
        /// Bytes.
        header_len: u16,
    },
    /// UDP.
    Udp,
    /// Anything else, a later fragment, or cut off.
    Other,
}

/// The layers of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The outermost VLAN tag's identifier, 0 to 4095.
    pub vlan: Option<u16>,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// Where the network header begins.
    pub network_at: u16,
    /// What the network layer is.
    pub network: Network,
    /// IP protocol of the transport header; `None` without one, in a later fragment, or when the network layer is
    /// not known.
    pub protocol: Option<u8>,
    /// Where the transport header begins; where the network header does when there is none.
    pub transport_at: u16,
    /// What the transport layer is.
    pub transport: Transport,
}

impl Packet {
    /// Reads the headers in `head`, the first bytes of a frame; `None` when they hold no Ethernet header.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut ethertype = word(head, 12)?;
        let mut at = ETHERNET_LEN;
        let mut vlan = None;
        for _ in 0..VLAN_TAGS_MAX {
            if !VLAN_TAGS.contains(&ethertype) {
                break;
            }
            let (Some(tag), Some(inner)) = (word(head, at), word(head, at + 2)) else { break };
            vlan = vlan.or(Some(tag & 0xFFF));
            ethertype = inner;
            at += 4;
        }
        let network_at = at as u16;
        let found = match ethertype {
            ETHERTYPE_IPV4 => ipv4(head, at),
            ETHERTYPE_IPV6 => ipv6(head, at),
            _ => None,
        };
        let (network, transport_at, protocol) = found.unwrap_or((Network::Other, at, None));
        let transport = protocol.map_or(Transport::Other, |protocol| transport(head, transport_at, protocol));
        Some(Self {
            vlan,
            ethertype,
            network_at,
            network,
            protocol,
            transport_at: transport_at as u16,
            transport,
        })
    }

    /// Whether the frame says it is IP but its IP headers are broken, or longer than what was parsed.
    pub fn is_ip_unseen(&self) -> bool {
        self.network == Network::Other && matches!(self.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)
    }

    /// Bytes of all headers up to the payload of TCP or UDP; `None` for any other transport.
    pub fn header_len(&self) -> Option<u16> {
        match self.transport {
            Transport::Tcp { header_len } => Some(self.transport_at + header_len),
            Transport::Udp => Some(self.transport_at + 8),
            Transport::Other => None,
        }
    }

    /// The pseudo-header's sum (RFC 9293 §3.1, RFC 8200 §8.1) for `protocol` and a transport header with
    /// payload of `len` bytes. `head` is what was parsed.
    pub fn pseudo_header(&self, head: &[u8], protocol: u8, len: u32) -> Sum {
        let at = usize::from(self.network_at);
        let addresses = match self.network {
            Network::Ipv4 { .. } => head.get(at + 12..at + 20),
            Network::Ipv6 { .. } => head.get(at + 8..at + 40),
            Network::Other => None,
        };
        let sum = Sum::new().bytes(addresses.unwrap_or_default());
        sum.word(u16::from(protocol)).word((len >> 16) as u16).word(len as u16)
    }
}

/// What was found, where the transport header begins, and its protocol if it is there.
type Found = (Network, usize, Option<u8>);

fn ipv4(head: &[u8], at: usize) -> Option<Found> {
    let header = head.get(at..at + 20)?;
    let len = usize::from(header[0] & 0xF) * 4;
    if header[0] >> 4 != 4 || len < 20 || head.len() < at + len {
        return None;
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let first = fragment & 0x1FFF == 0;
    let network = Network::Ipv4 { fragment: fragment & 0x3FFF != 0 };
    Some((network, at + len, first.then_some(header[9])))
}

fn ipv6(head: &[u8], start: usize) -> Option<Found> {
    let header = head.get(start..start + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut at, mut next) = (start + 40, header[6]);
    let (mut unfragmentable_end, mut next_header_at) = (at, start + 6);
    let (mut fragment, mut routed, mut first) = (false, false, true);
    for _ in 0..EXTENSIONS_MAX {
        let pair = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | PROTOCOL_FRAGMENT => {
                head.get(at..at + 8)?
            }
            _ => break,
        };
        let len = match next {
            PROTOCOL_FRAGMENT => {
                fragment = true;
                first = u16::from_be_bytes([pair[2], pair[3]]) & !7 == 0;
                8
            }
            AUTHENTICATION => (usize::from(pair[1]) + 2) * 4,
            _ => (usize::from(pair[1]) + 1) * 8,
        };
        routed |= next == ROUTING && pair[3] != 0;
        if matches!(next, HOP_BY_HOP | ROUTING) {
            (unfragmentable_end, next_header_at) = (at + len, at);
        }
        (next, at) = (pair[0], at + len);
        if head.len() < at {
            return None;
        }
        if !first {
            break;
        }
    }
    let network = Network::Ipv6 {
        fragment,
        routed,
        unfragmentable_end: unfragmentable_end as u16,
        next_header_at: next_header_at as u16,
    };
    Some((network, at, first.then_some(next)))
}

fn transport(head: &[u8], at: usize, protocol: u8) -> Transport {
    match (protocol, head.get(at..)) {
        (PROTOCOL_TCP, Some(tcp)) if tcp.len() >= 20 => {
            let header_len = usize::from(tcp[12] >> 4) * 4;
            if header_len < 20 || tcp.len() < header_len {
                return Transport::Other;
            }
            Transport::Tcp { header_len: header_len as u16 }
        }
        (PROTOCOL_UDP, Some(udp)) if udp.len() >= 8 => Transport::Udp,
        _ => Transport::Other,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ethernet(tags: &[u16], ethertype: u16, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend_from_slice(&[0x81, 0]);
            frame.extend_from_slice(&tag.to_be_bytes());
        }
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(rest);
        frame
    }

    fn ipv4_packet(options: usize, fragment: u16, protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x40 | (5 + options / 4) as u8;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        let mut tcp = [0; 20];
        tcp[12] = 0x50;
        packet.extend_from_slice(&tcp);
        packet
    }

    #[test]
    fn tags_and_options_move_the_headers() {
        let frame = ethernet(&[0x6005, 7], ETHERTYPE_IPV4, &ipv4_packet(8, 0x4000, PROTOCOL_TCP));
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.vlan, packet.network_at, packet.transport_at), (Some(5), 22, 50));
        assert_eq!(packet.network, Network::Ipv4 { fragment: false });
        assert_eq!(packet.header_len(), Some(70));
        assert_eq!(Packet::parse(&frame[..13]), None);
        assert_eq!(Packet::parse(&frame[..60]).unwrap().transport, Transport::Other);
    }

    #[test]
    fn a_third_tag_is_payload() {
        let frame = ethernet(&[1, 2, 3], ETHERTYPE_IPV4, &ipv4_packet(0, 0, PROTOCOL_TCP));
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.ethertype, packet.network), (0x8100, Network::Other));
    }

    #[test]
    fn fragments() {
        let first = ethernet(&[], ETHERTYPE_IPV4, &ipv4_packet(0, 0x2000, PROTOCOL_TCP));
        let packet = Packet::parse(&first).unwrap();
        assert_eq!(packet.network, Network::Ipv4 { fragment: true });
        assert_eq!(packet.transport, Transport::Tcp { header_len: 20 });
        let later = ethernet(&[], ETHERTYPE_IPV4, &ipv4_packet(0, 0x2001, PROTOCOL_TCP));
        assert_eq!(Packet::parse(&later).unwrap().transport, Transport::Other);
    }

    fn ipv6_packet(extensions: &[(u8, &[u8])], protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        let mut next_at = 6;
        for (kind, body) in extensions {
            packet[next_at] = *kind;
            next_at = packet.len();
            packet.extend_from_slice(body);
        }
        packet[next_at] = protocol;
        packet.extend_from_slice(&[0; 8]);
        packet
    }

    #[test]
    fn extension_headers_are_followed() {
        let hop = [0u8; 8];
        let mut routing = [0u8; 24];
        routing[1] = 2;
        routing[3] = 1;
        let destination = [0u8; 8];
        let list: [(u8, &[u8]); 3] = [(HOP_BY_HOP, &hop), (ROUTING, &routing), (DESTINATION, &destination)];
        let frame = ethernet(&[], ETHERTYPE_IPV6, &ipv6_packet(&list, PROTOCOL_UDP));
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.transport, packet.transport_at), (Transport::Udp, 14 + 40 + 8 + 24 + 8));
        assert_eq!(
            packet.network,
            Network::Ipv6 {
                fragment: false,
                routed: true,
                unfragmentable_end: 14 + 40 + 8 + 24,
                next_header_at: 14 + 40 + 8
            }
        );
    }

    #[test]
    fn too_many_extension_headers_hide_the_transport() {
        let hop = [0u8; 8];
        let list: Vec<(u8, &[u8])> = (0..EXTENSIONS_MAX + 1).map(|_| (DESTINATION, &hop[..])).collect();
        let frame = ethernet(&[], ETHERTYPE_IPV6, &ipv6_packet(&list, PROTOCOL_UDP));
        assert_eq!(Packet::parse(&frame).unwrap().transport, Transport::Other);
        let frame = ethernet(&[], ETHERTYPE_IPV6, &ipv6_packet(&list[1..], PROTOCOL_UDP));
        assert_eq!(Packet::parse(&frame).unwrap().transport, Transport::Udp);
    }

    proptest! {
        #[test]
        fn offsets_stay_inside_whatever_comes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..256),
            ethertype in prop::sample::select(vec![ETHERTYPE_IPV4, ETHERTYPE_IPV6, 0x8100, 0x88A8, 0x0806]),
            version in prop::sample::select(vec![0x45u8, 0x46, 0x4F, 0x60]),
        ) {
            if bytes.len() > 15 {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
                bytes[14] = version;
            }
            if let Some(packet) = Packet::parse(&bytes) {
                prop_assert!(usize::from(packet.transport_at) <= bytes.len());
                prop_assert!(packet.network_at <= packet.transport_at);
                prop_assert!(usize::from(packet.header_len().unwrap_or(0)) <= bytes.len());
            } else {
                prop_assert!(bytes.len() < 14);
            }
        }
    }
}
