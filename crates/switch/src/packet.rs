//! What stands behind the Ethernet header: VLAN tags, ARP, IPv4, IPv6 and the messages of neighbour discovery.
//!
//! # Theory of operation
//!
//! Every function reads a frame's first bytes. They are hostile: any content, cut anywhere. A field is read by a
//! checked slice or not at all, walks are bounded by constants, and nothing is allocated. What is not at hand is
//! `None` or [`Ipv6Upper::Hidden`], never a guess, so that each caller says by itself what it makes of that.
//!
//! A length in a header only ever shortens what is read. [`Message::whole`] tells whether all that the header
//! promises is there; where the header gives no length (0, as in very large segments) it is not known to be, and
//! [`Message::promised`] is false.

use crate::frame::is_vlan_tag;
use crate::types::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(test)]
pub(crate) mod frames;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_RARP: u16 = 0x8035;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IP protocol numbers (IANA).
pub(crate) const PROTOCOL_IGMP: u8 = 2;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;
pub(crate) const PROTOCOL_PIM: u8 = 103;

/// Message types of neighbour discovery (RFC 4861 §4).
pub(crate) const ROUTER_SOLICITATION: u8 = 133;
pub(crate) const ROUTER_ADVERTISEMENT: u8 = 134;
pub(crate) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub(crate) const REDIRECT: u8 = 137;

/// VLAN tags that are looked behind.
const VLAN_TAGS_MAX: usize = 2;
/// VLAN tags that a switch reads of a frame. What is behind more of them is none of its business.
pub(crate) const OWN_TAGS_MAX: usize = 1;
/// IPv6 extension headers that are looked behind.
const EXTENSIONS_MAX: usize = 8;
/// Where the first tag or the ethertype stands.
const TYPE_OFFSET: usize = 12;

/// What a frame carries behind its tags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload<'f> {
    /// Its type; a length if it is below 1536.
    pub(crate) ethertype: u16,
    /// The tags as they stand in the frame, four bytes each.
    pub(crate) tags: &'f [u8],
    /// What follows the type.
    pub(crate) bytes: &'f [u8],
}

/// The payload behind at most [`VLAN_TAGS_MAX`] tags; `None` if there are more, or if the frame ends before.
#[inline]
pub(crate) fn payload(frame: &[u8]) -> Option<Payload<'_>> {
    let behind_addresses = frame.get(TYPE_OFFSET..)?;
    let mut rest = behind_addresses;
    for tags in 0..=VLAN_TAGS_MAX {
        let (ethertype, bytes) = rest.split_first_chunk()?;
        let ethertype = u16::from_be_bytes(*ethertype);
        if !is_vlan_tag(ethertype) {
            return Some(Payload { ethertype, tags: behind_addresses.get(..tags * 4)?, bytes });
        }
        rest = bytes.get(2..)?;
    }
    None
}

/// The payload behind the `tags` tags that the switch reads of the frame, which are [`OWN_TAGS_MAX`] at most. `None` if
/// there are fewer or more: the frames of a network in tags that the switch does not know are no concern of its own.
#[inline]
pub(crate) fn payload_behind(frame: &[u8], tags: usize) -> Option<Payload<'_>> {
    payload(frame).filter(|payload| tags <= OWN_TAGS_MAX && payload.tags.len() == tags * 4)
}

/// An ARP or RARP message about IPv4 on Ethernet (RFC 826, RFC 903).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arp {
    pub(crate) operation: u16,
    pub(crate) sender_mac: [u8; 6],
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

impl Arp {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const REPLY: u16 = 2;

    /// `None` if the message is cut or speaks of other kinds of address.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let [h0, h1, p0, p1, 6, 4, o0, o1, rest @ ..] = bytes.first_chunk::<28>()? else { return None };
        let hardware = u16::from_be_bytes([*h0, *h1]);
        // Linux takes IEEE 802 networks (6) for Ethernet (1), so a reader that takes less would miss some.
        if !matches!(hardware, 1 | 6) || u16::from_be_bytes([*p0, *p1]) != ETHERTYPE_IPV4 {
            return None;
        }
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let target = rest.get(6..)?.first_chunk::<4>()?;
        Some(Self {
            operation: u16::from_be_bytes([*o0, *o1]),
            sender_mac: *sender_mac,
            sender: Ipv4Addr::from(*sender),
            target: Ipv4Addr::from(*target),
        })
    }
}

/// The part of an upper layer's message that is at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'f> {
    /// At most as many bytes as the IP header promises.
    pub(crate) bytes: &'f [u8],
    /// True if these are all of them.
    pub(crate) whole: bool,
    /// True if the IP header gives a length.
    pub(crate) promised: bool,
}

impl<'f> Message<'f> {
    fn new(bytes: &'f [u8], size: Option<usize>) -> Self {
        match size {
            Some(size) => {
                let whole = size <= bytes.len();
                Self { bytes: bytes.get(..size).unwrap_or(bytes), whole, promised: true }
            }
            None => Self { bytes, whole: false, promised: false },
        }
    }
}

/// An IPv4 packet whose header is sound and at hand (RFC 791 §3.1). Its header checksum is not looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4<'f> {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    /// True for every fragment, the first included.
    pub(crate) fragment: bool,
    pub(crate) message: Message<'f>,
}

impl<'f> Ipv4<'f> {
    /// `None` if the version or a length is wrong, or if the header, options included, is cut.
    pub(crate) fn parse(packet: &'f [u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let [first, _, t0, t1, _, _, f0, f1, _, protocol, _, _, addresses @ ..] = header;
        let header_size = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header_size < header.len() {
            return None;
        }
        let behind = packet.get(header_size..)?;
        let size = match u16::from_be_bytes([*t0, *t1]) {
            0 => None,
            total => Some(usize::from(total).checked_sub(header_size)?),
        };
        let (source, destination) = addresses.split_first_chunk::<4>()?;
        Some(Self {
            source: Ipv4Addr::from(*source),
            destination: Ipv4Addr::from(*destination.first_chunk::<4>()?),
            protocol: *protocol,
            fragment: u16::from_be_bytes([*f0, *f1]) & 0x3fff != 0,
            message: Message::new(behind, size),
        })
    }
}

/// An IPv6 packet whose fixed header is at hand (RFC 8200 §3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv6<'f> {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) hop_limit: u8,
    /// True if a hop-by-hop header asks routers to look at a message of MLD (RFC 2711 §2.1).
    pub(crate) alerts_mld: bool,
    pub(crate) upper: Ipv6Upper<'f>,
}

/// What the chain of an IPv6 packet's extension headers leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ipv6Upper<'f> {
    /// An upper layer's message, from its first byte.
    Message {
        protocol: u8,
        message: Message<'f>,
        /// The packet is a fragment, and this one the first.
        fragment: bool,
    },
    /// A fragment that is not the first.
    LaterFragment,
    /// The chain is cut, or longer than [`EXTENSIONS_MAX`].
    Hidden,
}

impl<'f> Ipv6<'f> {
    /// `None` if the version is wrong or the fixed header is cut.
    pub(crate) fn parse(packet: &'f [u8]) -> Option<Self> {
        let (header, behind) = packet.split_first_chunk::<40>()?;
        let [first, _, _, _, l0, l1, next, hop_limit, addresses @ ..] = header;
        if first >> 4 != 6 {
            return None;
        }
        let size = match u16::from_be_bytes([*l0, *l1]) {
            0 => None,
            size => Some(usize::from(size)),
        };
        let behind = Message::new(behind, size);
        let (source, destination) = addresses.split_first_chunk::<16>()?;
        Some(Self {
            source: Ipv6Addr::from(*source),
            destination: Ipv6Addr::from(*destination.first_chunk::<16>()?),
            hop_limit: *hop_limit,
            alerts_mld: *next == 0 && hop_by_hop_alerts_mld(behind.bytes),
            upper: upper_of_ipv6(*next, behind),
        })
    }
}

/// RFC 8200 §4.
fn upper_of_ipv6(first: u8, behind: Message<'_>) -> Ipv6Upper<'_> {
    let (mut protocol, mut rest, mut fragment) = (first, behind.bytes, false);
    for _ in 0..=EXTENSIONS_MAX {
        let size = match protocol {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6: in units of eight bytes.
            0 | 43 | 60 | 135 | 139 | 140 => rest.get(1).map(|units| (usize::from(*units) + 1) * 8),
            // Authentication header, in units of four bytes (RFC 4302 §2.2).
            51 => rest.get(1).map(|units| (usize::from(*units) + 2) * 4),
            44 => {
                let Some(&[_, _, o0, o1]) = rest.first_chunk() else { return Ipv6Upper::Hidden };
                if u16::from_be_bytes([o0, o1]) & 0xfff8 != 0 {
                    return Ipv6Upper::LaterFragment;
                }
                fragment = true;
                Some(8)
            }
            _ => {
                let message = Message { bytes: rest, ..behind };
                return Ipv6Upper::Message { protocol, message, fragment };
            }
        };
        let (Some(size), Some(next)) = (size, rest.first()) else { return Ipv6Upper::Hidden };
        let Some(next_rest) = rest.get(size..) else { return Ipv6Upper::Hidden };
        (protocol, rest) = (*next, next_rest);
    }
    Ipv6Upper::Hidden
}

/// Looks for the router alert option with value 0 in the hop-by-hop header that `bytes` begin with.
fn hop_by_hop_alerts_mld(bytes: &[u8]) -> bool {
    let Some(units) = bytes.get(1) else { return false };
    let Some(mut options) = bytes.get(2..(usize::from(*units) + 1) * 8) else { return false };
    // Each turn takes at least one byte of a header of at most 256.
    loop {
        options = match options {
            [5, 2, 0, 0, ..] => return true,
            // Pad1 has no length.
            [0, rest @ ..] => rest,
            [_, size, rest @ ..] => match rest.get(usize::from(*size)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        };
    }
}

/// A message of neighbour discovery that is whole (RFC 4861 §4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Discovery<'f> {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The address that a solicitation, an advertisement of a neighbour or a redirect is about.
    pub(crate) target: Option<Ipv6Addr>,
    options: &'f [u8],
}

impl<'f> Discovery<'f> {
    /// True for the types that belong to neighbour discovery.
    pub(crate) fn is(kind: u8) -> bool {
        (ROUTER_SOLICITATION..=REDIRECT).contains(&kind)
    }

    /// `None` for other messages of ICMPv6 and for those that are not whole.
    pub(crate) fn parse(message: Message<'f>) -> Option<Self> {
        let [kind, code, ..] = *message.bytes else { return None };
        let fixed_size = match kind {
            ROUTER_SOLICITATION => 8,
            ROUTER_ADVERTISEMENT => 16,
            NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
            REDIRECT => 40,
            _ => return None,
        };
        let (fixed, options) = message.bytes.split_at_checked(fixed_size)?;
        let target = match kind {
            ROUTER_SOLICITATION | ROUTER_ADVERTISEMENT => None,
            _ => Some(Ipv6Addr::from(*fixed.get(8..)?.first_chunk::<16>()?)),
        };
        message.whole.then_some(Self { kind, code, target, options })
    }

    /// True if all options are well formed, and every link-layer address in them, of a source (1) or a target (2),
    /// is `mac`.
    pub(crate) fn claims_only(&self, mac: MacAddr) -> bool {
        let mut options = self.options;
        // Each turn takes at least eight bytes.
        while let [kind, units, ..] = *options {
            let size = usize::from(units) * 8;
            let Some((option, rest)) = options.split_at_checked(size) else { return false };
            if size == 0 || matches!(kind, 1 | 2) && option.get(2..) != Some(&mac.0) {
                return false;
            }
            options = rest;
        }
        options.is_empty()
    }
}

/// The Ethernet address that frames to a group have (RFC 1112 §6.4, RFC 2464 §7).
pub(crate) fn group_mac(group: IpAddr) -> MacAddr {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => {
            let [.., c, d, e, f] = group.octets();
            MacAddr([0x33, 0x33, c, d, e, f])
        }
    }
}

/// The link-local address that a station makes of its MAC address (RFC 4291 appendix A).
pub(crate) fn link_local_of(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The group in which a station is asked for an address (RFC 4291 §2.7.1).
pub(crate) fn solicited_node_group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., x, y, z] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z])
}

/// Sum of 16-bit words, folded (RFC 1071). A message with a right checksum in it sums up to 0xffff.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    fold(words.fold(0, |sum: u32, word| sum.wrapping_add(word)))
}

/// Sum of a message and IPv6's pseudo-header (RFC 8200 §8.1). `size` of the message is below 64 KiB.
pub(crate) fn ones_sum_ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, message: &[u8]) -> u16 {
    let parts = [
        ones_sum(&source.octets()),
        ones_sum(&destination.octets()),
        message.len() as u16,
        u16::from(protocol),
        ones_sum(message),
    ];
    fold(parts.iter().map(|part| u32::from(*part)).sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_groups() {
        let mac = |text: &str| group_mac(text.parse().unwrap()).to_string();
        assert_eq!(mac("224.0.0.251"), "01:00:5e:00:00:fb");
        assert_eq!(mac("239.129.2.3"), "01:00:5e:01:02:03", "the highest nine bits are lost");
        assert_eq!(mac("ff02::1:ff28:9c5a"), "33:33:ff:28:9c:5a");
        let local = link_local_of(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(local.to_string(), "fe80::5054:ff:fe12:3456");
        assert_eq!(solicited_node_group(local).to_string(), "ff02::1:ff12:3456");
    }

    #[test]
    fn checksum_of_rfc_1071() {
        assert_eq!(ones_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(ones_sum(&[0x12]), 0x1200);
        assert_eq!(ones_sum(&[0xff; 256]), 0xffff);
    }

    #[test]
    fn router_alert_is_found_behind_padding_only_with_the_value_of_mld() {
        assert!(hop_by_hop_alerts_mld(&[58, 0, 5, 2, 0, 0, 1, 0]));
        assert!(hop_by_hop_alerts_mld(&[58, 0, 0, 0, 5, 2, 0, 0]));
        assert!(hop_by_hop_alerts_mld(&[58, 1, 1, 4, 0, 0, 0, 0, 5, 2, 0, 0, 1, 2, 0, 0]));
        for no in [
            &[58u8, 0, 5, 2, 0, 1, 1, 0][..],
            &[58, 0, 1, 4, 5, 2, 0, 0],
            &[58, 0, 5, 2, 0, 0, 1],
            &[58, 1, 5, 2, 0, 0, 1, 0],
            &[58],
            &[],
        ] {
            assert!(!hop_by_hop_alerts_mld(no), "{no:?}");
        }
    }

    #[test]
    fn at_most_two_tags() {
        let tagged = |tags: usize| [&[0; 12][..], &[0x81, 0, 0, 7].repeat(tags), &[8, 0, 9]].concat();
        for tags in 0..3 {
            let frame = tagged(tags);
            let payload = payload(&frame).unwrap();
            assert_eq!((payload.ethertype, payload.tags.len(), payload.bytes), (0x0800, 4 * tags, &[9][..]));
        }
        assert!(payload(&tagged(3)).is_none());
        for (tags, own) in (0..4).flat_map(|tags| (0..4).map(move |own| (tags, own))) {
            let read = payload_behind(&tagged(tags), own).is_some();
            assert_eq!(read, tags == own && own <= OWN_TAGS_MAX, "{own} of {tags} tags");
        }
        assert!(payload(&tagged(1)[..17]).is_none());
    }

    #[test]
    fn a_chain_of_extensions_is_walked_to_its_bound() {
        let packet = |extensions: usize| {
            let mut packet = vec![0u8; 40];
            packet[0] = 0x60;
            packet[6] = if extensions == 0 { 17 } else { 60 };
            for left in (0..extensions).rev() {
                packet.extend_from_slice(&[if left == 0 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            packet
        };
        for extensions in 0..12 {
            let packet = packet(extensions);
            let upper = Ipv6::parse(&packet).unwrap().upper;
            let found = matches!(upper, Ipv6Upper::Message { protocol: 17, .. });
            assert_eq!(found, extensions <= EXTENSIONS_MAX, "{extensions}: {upper:?}");
        }
    }
}
