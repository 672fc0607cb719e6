//! Questions for a station's MAC address, and the answers that the switch gives in its place.
//!
//! # Theory of operation
//!
//! ARP requests and neighbour solicitations go to everybody, so on a large switch they are most of what is flooded.
//! Where the switch knows the answer it gives it: [`question`] says what a frame asks for, the bridge looks the address
//! up, and [`answer`] writes the frame that the station itself would have sent.
//!
//! Only what asks for somebody else in everybody's name is a question. These are not, and go their normal way:
//!
//! * a request to one station, by which the sender finds out whether that one still lives;
//! * gratuitous ARP, and a probe or duplicate address detection (RFC 5227, RFC 4862), which the station must hear;
//! * whatever a receiver has to ignore: a solicitation with a wrong hop limit, code, checksum or group, in a fragment
//!   or cut (RFC 4861 §7.1.1), and anything whose sender claims another MAC address than the frame's source;
//! * what stands behind a tag that the switch does not read: it asks in another network, whose addresses the switch does
//!   not know.

use crate::frame::EthernetHead;
use crate::packet::{
    Arp, Discovery, ETHERTYPE_ARP, ETHERTYPE_IPV6, Ipv6, Ipv6Upper, NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION, OWN_TAGS_MAX, PROTOCOL_ICMPV6, Payload, group_mac, ones_sum_ipv6, payload_behind,
    solicited_node_group,
};
use crate::types::UnicastMac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(test)]
mod tests;

/// Bytes of the longest answer: a neighbour advertisement behind a VLAN tag.
pub const ANSWER_MAX: usize = 14 + OWN_TAGS_MAX * 4 + 40 + ADVERTISEMENT_SIZE;

/// Bytes of a neighbour advertisement with a target link-layer option (RFC 4861 §4.4).
const ADVERTISEMENT_SIZE: usize = 32;

/// An Ethernet payload is padded to this (IEEE 802.3-2022 §3.2.8).
const PAYLOAD_MIN: usize = 46;

/// A question that may be answered: who asks, and for what.
#[derive(Clone, Copy)]
enum Question {
    Arp { sender_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr },
    Solicitation { sender: Ipv6Addr, target: Ipv6Addr },
}

/// The address that a frame asks everybody for. `bytes` are its first ones (256 are plenty) in private memory,
/// `ethernet` is its head, `tags` says how many VLAN tags of it the switch reads: 0 or 1. `None` for every other frame; the
/// module's head says which those are.
///
/// RFC 826, RFC 4861 §7.2.
#[must_use]
pub fn question(ethernet: &EthernetHead, bytes: &[u8], tags: usize) -> Option<IpAddr> {
    // One comparison for nearly every frame.
    if !ethernet.dst.is_multicast() {
        return None;
    }
    match read(ethernet, &payload_behind(bytes, tags)?)? {
        Question::Arp { target, .. } => Some(IpAddr::V4(target)),
        Question::Solicitation { target, .. } => Some(IpAddr::V6(target)),
    }
}

/// Writes the answer "that address is at `mac`" to the question that `bytes` begin with, and says how long it is: a
/// whole Ethernet frame for the port that the question came from, with the question's VLAN tag. `tags` is as for
/// [`question`]. `None` if there is no question.
///
/// The answer to ARP is a reply, the one to a solicitation a solicited advertisement that overrides what the asking
/// station knows (RFC 4861 §7.2.4). It does not claim that the station is a router.
#[must_use]
pub fn answer(bytes: &[u8], tags: usize, mac: UnicastMac, out: &mut [u8; ANSWER_MAX]) -> Option<usize> {
    let ethernet = EthernetHead::parse(bytes).ok()?;
    if !ethernet.dst.is_multicast() {
        return None;
    }
    let payload = payload_behind(bytes, tags)?;
    let question = read(&ethernet, &payload)?;
    let mut frame = Writer { out, size: 0 };
    frame.put(&ethernet.src.0)?;
    frame.put(&mac.octets())?;
    frame.put(payload.tags)?;
    frame.put(&payload.ethertype.to_be_bytes())?;
    let header_size = frame.size;
    match question {
        Question::Arp { sender_mac, sender, target } => {
            frame.put(&[0, 1, 8, 0, 6, 4, 0, Arp::REPLY as u8])?;
            frame.put(&mac.octets())?;
            frame.put(&target.octets())?;
            frame.put(&sender_mac)?;
            frame.put(&sender.octets())?;
        }
        Question::Solicitation { sender, target } => {
            frame.put(&[0x60, 0, 0, 0, 0, ADVERTISEMENT_SIZE as u8, PROTOCOL_ICMPV6, 255])?;
            frame.put(&target.octets())?;
            frame.put(&sender.octets())?;
            frame.put(&advertisement(sender, target, mac))?;
        }
    }
    while frame.size < header_size + PAYLOAD_MIN {
        frame.put(&[0])?;
    }
    Some(frame.size)
}

fn read(ethernet: &EthernetHead, payload: &Payload<'_>) -> Option<Question> {
    match payload.ethertype {
        ETHERTYPE_ARP => read_arp(ethernet, payload.bytes),
        ETHERTYPE_IPV6 => read_solicitation(ethernet, payload.bytes),
        _ => None,
    }
}

fn read_arp(ethernet: &EthernetHead, bytes: &[u8]) -> Option<Question> {
    let Arp { operation, sender_mac, sender, target } = Arp::parse(bytes)?;
    let is_question = operation == Arp::REQUEST
        && sender_mac == ethernet.src.0
        && sender != target
        && is_station(sender)
        && is_station(target);
    is_question.then_some(Question::Arp { sender_mac, sender, target })
}

fn is_station(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

/// RFC 4861 §7.1.1.
fn read_solicitation(ethernet: &EthernetHead, bytes: &[u8]) -> Option<Question> {
    let packet = Ipv6::parse(bytes)?;
    let Ipv6Upper::Message { protocol: PROTOCOL_ICMPV6, message, fragment: false } = packet.upper else {
        return None;
    };
    let solicitation = Discovery::parse(message)?;
    let target = solicitation.target?;
    let group = solicited_node_group(target);
    let is_question = solicitation.kind == NEIGHBOUR_SOLICITATION
        && solicitation.code == 0
        && packet.hop_limit == 255
        && !packet.source.is_unspecified()
        && !packet.source.is_multicast()
        && !target.is_unspecified()
        && !target.is_multicast()
        && packet.source != target
        && packet.destination == group
        && ethernet.dst == group_mac(IpAddr::V6(group))
        && solicitation.claims_only(ethernet.src)
        && ones_sum_ipv6(packet.source, packet.destination, PROTOCOL_ICMPV6, message.bytes) == 0xffff;
    is_question.then_some(Question::Solicitation { sender: packet.source, target })
}

/// RFC 4861 §4.4 and §4.6.1, with the checksum of RFC 4443 §2.3.
fn advertisement(sender: Ipv6Addr, target: Ipv6Addr, mac: UnicastMac) -> [u8; ADVERTISEMENT_SIZE] {
    const SOLICITED_AND_OVERRIDE: u8 = 0x60;
    let [a, b, c, d, e, f] = mac.octets();
    let mut message = [0; ADVERTISEMENT_SIZE];
    let [kind, _, _, _, flags, _, _, _, rest @ ..] = &mut message;
    (*kind, *flags) = (NEIGHBOUR_ADVERTISEMENT, SOLICITED_AND_OVERRIDE);
    let (about, option) = rest.split_at_mut(16);
    about.copy_from_slice(&target.octets());
    option.copy_from_slice(&[2, 1, a, b, c, d, e, f]);
    let [high, low] = (!ones_sum_ipv6(target, sender, PROTOCOL_ICMPV6, &message)).to_be_bytes();
    let [_, _, c0, c1, ..] = &mut message;
    (*c0, *c1) = (high, low);
    message
}

/// Appends to a frame; `None` where there is no room, which the size of [`ANSWER_MAX`] rules out.
struct Writer<'o> {
    out: &'o mut [u8; ANSWER_MAX],
    size: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.size.checked_add(bytes.len())?;
        self.out.get_mut(self.size..end)?.copy_from_slice(bytes);
        self.size = end;
        Some(())
    }
}
