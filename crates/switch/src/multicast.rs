//! What hosts and routers say about groups: IGMP, MLD, and the greetings of multicast routers.
//!
//! # Theory of operation
//!
//! | message | IPv4 | IPv6 (MLD) |
//! |---|---|---|
//! | query, general or for one group | IGMPv1–3: RFC 1112, RFC 2236, RFC 3376 §4.1 | RFC 2710, RFC 3810 §5.1 |
//! | report, leave | the same; RFC 3376 §4.2 | the same; RFC 3810 §5.2 |
//! | a router is here | PIM hello (RFC 7761 §4.9.2), multicast router advertisement (RFC 4286) | the same |
//!
//! [`parse`] takes a message only in the form in which those whom it is meant for would take it: sent to the group
//! that its type demands, under that group's MAC address, with a right checksum, and for MLD from a link-local
//! address, with hop limit 1 and the router alert. So nobody can tell the switch what the hosts do not hear.
//! The version of a host or router does not matter, and sources of source-specific reports are not kept: who listens
//! to one source of a group gets the group.
//!
//! Everything has to be at hand, but for a report: a long one names more groups than the first bytes of its frame
//! hold. [`Report::whole`] tells, and the reader has to allow for groups that it did not see. That is so only if
//! 112 bytes or more are at hand: of a shorter frame nothing was left out, so a length that goes beyond it is a
//! lie, and so is the length 0. Such a report is none, or it would be believed without its checksum.
//!
//! What stands behind a tag that the switch does not read is of another network, and no message here.

use crate::frame::EthernetHead;
use crate::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, Ipv6Upper, Message as Upper, PROTOCOL_ICMPV6, PROTOCOL_IGMP,
    PROTOCOL_PIM, group_mac, ones_sum, ones_sum_ipv6, payload_behind,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(test)]
mod tests;

/// 224.0.0.1 and ff02::1: every host.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// 224.0.0.2 and ff02::2: every router, to whom leaves go.
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// 224.0.0.22 and ff02::16: where reports of IGMPv3 and MLDv2 go.
const ALL_REPORTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_REPORTS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// 224.0.0.13 and ff02::d: routers that speak PIM.
const ALL_PIM: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 13);
const ALL_PIM_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xd);
/// 224.0.0.106 and ff02::6a: who wants to know of multicast routers.
const ALL_SNOOPERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 106);
const ALL_SNOOPERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x6a);

/// First bytes of a frame that are at hand at the least, if it has more. The host copies 128 with the virtio header.
const SEEN_MIN: usize = 112;

/// How long hosts may take to answer a query of IGMPv1, which does not say (RFC 2236 §4).
const RESPONSE_V1_MS: u32 = 10_000;

/// One message about groups.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message<'f> {
    /// A querier asks who listens.
    Query(Query),
    /// A host says what it listens to.
    Report(Report<'f>),
    /// A host stops listening to a group.
    Leave(IpAddr),
    /// A router that forwards groups is at the port.
    RouterSeen,
}

/// A question for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The group that is asked for; `None`: all of them.
    pub group: Option<IpAddr>,
    /// Who asks. 0.0.0.0 and `::` are queriers without an address, such as a bridge.
    pub source: IpAddr,
    /// Hosts answer within this many milliseconds.
    pub max_response_ms: u32,
    /// How long a querier of its own kind would believe an answer, by the robustness and the interval in the
    /// query (RFC 3376 §8.4, RFC 3810 §9.4), in milliseconds; `None` where the version does not say.
    pub membership_ms: Option<u32>,
}

/// What a host listens to. Iterates over the groups it names, each with whether the host listens.
#[derive(Clone, Debug)]
pub struct Report<'f> {
    records: Records<'f>,
    whole: bool,
}

#[derive(Clone, Debug)]
enum Records<'f> {
    /// Versions 1 and 2 of IGMP, version 1 of MLD.
    One(Option<IpAddr>),
    Igmp3 {
        left: u16,
        rest: &'f [u8],
    },
    Mld2 {
        left: u16,
        rest: &'f [u8],
    },
}

/// A group in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group's address.
    pub group: IpAddr,
    /// Whether the host listens to it from now on.
    pub listens: bool,
}

impl Report<'_> {
    /// False if the report may name more groups than can be iterated over.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.whole
    }
}

impl Iterator for Report<'_> {
    type Item = GroupRecord;

    fn next(&mut self) -> Option<GroupRecord> {
        loop {
            let (group, listens) = match &mut self.records {
                Records::One(group) => (group.take()?, Some(true)),
                Records::Igmp3 { left, rest } => {
                    let (kind, sources, group) = next_record(left, rest)?;
                    (IpAddr::V4(Ipv4Addr::from(*group)), listens(kind, sources))
                }
                Records::Mld2 { left, rest } => {
                    let (kind, sources, group) = next_record(left, rest)?;
                    (IpAddr::V6(Ipv6Addr::from(*group)), listens(kind, sources))
                }
            };
            if let (true, Some(listens)) = (group.is_multicast(), listens) {
                return Some(GroupRecord { group, listens });
            }
        }
    }
}

/// Kind, number of sources and group of the next group record, whose addresses have `N` bytes (RFC 3376 §4.2.4, RFC
/// 3810 §5.2.5). Sources and auxiliary data that are cut end the walk behind the record.
fn next_record<'f, const N: usize>(left: &mut u16, rest: &mut &'f [u8]) -> Option<(u8, u16, &'f [u8; N])> {
    *left = left.checked_sub(1)?;
    let ([kind, auxiliary, s0, s1], behind) = rest.split_first_chunk::<4>()?;
    let (group, behind) = behind.split_first_chunk::<N>()?;
    let sources = u16::from_be_bytes([*s0, *s1]);
    let size = usize::from(sources) * N + usize::from(*auxiliary) * 4;
    *rest = behind.get(size..).unwrap_or_default();
    Some((*kind, sources, group))
}

/// What a group record says of the group as a whole; `None`: nothing (RFC 3376 §4.2.12).
fn listens(kind: u8, sources: u16) -> Option<bool> {
    match (kind, sources) {
        // Includes no source; changes to include none.
        (1 | 3, 0) => Some(false),
        // Includes some; excludes any; changes to either; allows new ones.
        (1 | 3, _) | (2 | 4, _) | (5, 1..) => Some(true),
        // Blocks some, or an unknown kind. Whoever blocks the last is forgotten for not reporting again.
        _ => None,
    }
}

/// The message about groups in a frame with these first bytes (all or at least 112, 256 are plenty, in private memory), whose head is
/// `ethernet` and of which the switch reads `tags` VLAN tags: 0 or 1. `None` for every other frame, and for what its
/// receivers would ignore.
#[must_use]
pub fn parse<'f>(ethernet: &EthernetHead, bytes: &'f [u8], tags: usize) -> Option<Message<'f>> {
    // One comparison for nearly every frame.
    if !ethernet.dst.is_multicast() || ethernet.dst.is_broadcast() {
        return None;
    }
    let payload = payload_behind(bytes, tags)?;
    let is_cut = bytes.len() >= SEEN_MIN;
    match payload.ethertype {
        ETHERTYPE_IPV4 => {
            let packet = Ipv4::parse(payload.bytes)?;
            let is_sound = !packet.fragment && ethernet.dst == group_mac(IpAddr::V4(packet.destination));
            match packet.protocol {
                PROTOCOL_IGMP if is_sound => parse_igmp(&packet, is_cut),
                PROTOCOL_PIM if is_sound && packet.destination == ALL_PIM => {
                    let message = packet.message;
                    parse_pim(message, || ones_sum(message.bytes))
                }
                _ => None,
            }
        }
        ETHERTYPE_IPV6 => {
            let packet = Ipv6::parse(payload.bytes)?;
            let Ipv6Upper::Message { protocol, message, fragment: false } = packet.upper else { return None };
            if ethernet.dst != group_mac(IpAddr::V6(packet.destination)) {
                return None;
            }
            match protocol {
                PROTOCOL_ICMPV6 => parse_mld(&packet, message, is_cut),
                PROTOCOL_PIM if packet.destination == ALL_PIM_V6 && packet.source.is_unicast_link_local() => {
                    let sum =
                        || ones_sum_ipv6(packet.source, packet.destination, PROTOCOL_PIM, message.bytes);
                    parse_pim(message, sum)
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// A hello of PIM version 2 (RFC 7761 §4.9).
fn parse_pim(message: Upper<'_>, sum: impl Fn() -> u16) -> Option<Message<'static>> {
    let is_hello = message.whole && matches!(message.bytes, [0x20, _, _, _, ..]) && sum() == 0xffff;
    is_hello.then_some(Message::RouterSeen)
}

/// Whether a message has a right checksum, or is a report that goes on in a frame which was cut.
fn is_believed(message: Upper<'_>, is_cut: bool, is_report: bool, sum: impl Fn() -> u16) -> bool {
    if message.whole { sum() == 0xffff } else { is_report && is_cut && message.promised }
}

fn parse_igmp<'f>(packet: &Ipv4<'f>, is_cut: bool) -> Option<Message<'f>> {
    let Upper { bytes, whole, .. } = packet.message;
    let [kind, code, _, _, g0, g1, g2, g3] = *bytes.first_chunk::<8>()?;
    if !is_believed(packet.message, is_cut, kind == 0x22, || ones_sum(bytes)) {
        return None;
    }
    let (group, to) = (Ipv4Addr::new(g0, g1, g2, g3), packet.destination);
    let one = |group| Report { records: Records::One(Some(IpAddr::V4(group))), whole: true };
    match kind {
        0x11 => parse_igmp_query(packet, code, group).map(Message::Query),
        // Reports of versions 1 and 2.
        0x12 | 0x16 if group.is_multicast() && to == group => Some(Message::Report(one(group))),
        // Many send it to the group itself (RFC 2236 §3).
        0x17 if group.is_multicast() && (to == ALL_ROUTERS || to == group) => {
            Some(Message::Leave(IpAddr::V4(group)))
        }
        0x22 if to == ALL_REPORTS => {
            let records = Records::Igmp3 { left: u16::from_be_bytes([g2, g3]), rest: bytes.get(8..)? };
            Some(Message::Report(Report { records, whole }))
        }
        0x30 if to == ALL_SNOOPERS => Some(Message::RouterSeen),
        _ => None,
    }
}

fn parse_igmp_query(packet: &Ipv4<'_>, code: u8, group: Ipv4Addr) -> Option<Query> {
    let (max_response_ms, membership_ms) = match *packet.message.bytes {
        // RFC 2236 §2.2: tenths of a second, 0 from version 1.
        [_, _, _, _, _, _, _, _] if code == 0 => (RESPONSE_V1_MS, None),
        [_, _, _, _, _, _, _, _] => (u32::from(code) * 100, None),
        [_, _, _, _, _, _, _, _, flags, interval, _, _, ..] => {
            let max_response_ms = float_u8(code) * 100;
            (max_response_ms, membership_ms(flags, interval, max_response_ms))
        }
        _ => return None,
    };
    let is_general = group.is_unspecified();
    let expected = if is_general { ALL_HOSTS } else { group };
    (packet.destination == expected).then_some(Query {
        group: (!is_general).then_some(IpAddr::V4(group)),
        source: IpAddr::V4(packet.source),
        max_response_ms,
        membership_ms,
    })
}

fn parse_mld<'f>(packet: &Ipv6<'f>, message: Upper<'f>, is_cut: bool) -> Option<Message<'f>> {
    let Upper { bytes, whole, .. } = message;
    let [kind, _, _, _, r0, r1, n0, n1] = *bytes.first_chunk::<8>()?;
    let from_router = packet.source.is_unicast_link_local();
    // Hosts report before they have an address (RFC 3590).
    let from_host = from_router || packet.source.is_unspecified();
    let sum = || ones_sum_ipv6(packet.source, packet.destination, PROTOCOL_ICMPV6, bytes);
    if !is_believed(message, is_cut, kind == 143, sum)
        || packet.hop_limit != 1
        || !packet.alerts_mld
        || !from_host
    {
        return None;
    }
    let to = packet.destination;
    // Versions 1: the group behind the first eight bytes.
    let group = || bytes.get(8..)?.first_chunk::<16>().map(|group| Ipv6Addr::from(*group));
    match kind {
        130 if from_router => {
            let query = parse_mld_query(packet, bytes, u16::from_be_bytes([r0, r1]), group()?);
            query.map(Message::Query)
        }
        131 => {
            let group = group().filter(|group| group.is_multicast() && to == *group)?;
            let records = Records::One(Some(IpAddr::V6(group)));
            Some(Message::Report(Report { records, whole: true }))
        }
        132 if to == ALL_ROUTERS_V6 => {
            group().filter(Ipv6Addr::is_multicast).map(|group| Message::Leave(IpAddr::V6(group)))
        }
        143 if to == ALL_REPORTS_V6 => {
            let records = Records::Mld2 { left: u16::from_be_bytes([n0, n1]), rest: bytes.get(8..)? };
            Some(Message::Report(Report { records, whole }))
        }
        151 if from_router && to == ALL_SNOOPERS_V6 => Some(Message::RouterSeen),
        _ => None,
    }
}

fn parse_mld_query(packet: &Ipv6<'_>, bytes: &[u8], code: u16, group: Ipv6Addr) -> Option<Query> {
    let (max_response_ms, membership_ms) = match *bytes.get(24..)? {
        [] => (u32::from(code), None),
        [flags, interval, _, _, ..] => {
            let max_response_ms = float_u16(code);
            (max_response_ms, membership_ms(flags, interval, max_response_ms))
        }
        _ => return None,
    };
    let is_general = group.is_unspecified();
    let expected = if is_general { ALL_NODES } else { group };
    (packet.destination == expected).then_some(Query {
        group: (!is_general).then_some(IpAddr::V6(group)),
        source: IpAddr::V6(packet.source),
        max_response_ms,
        membership_ms,
    })
}

/// Robustness times interval plus response time (RFC 3376 §8.4); `None` if the querier leaves out either.
fn membership_ms(flags: u8, interval: u8, max_response_ms: u32) -> Option<u32> {
    let robustness = u32::from(flags & 7);
    let interval_ms = float_u8(interval) * 1000;
    (robustness != 0 && interval_ms != 0).then_some(robustness * interval_ms + max_response_ms)
}

/// A number of eight bits, three of them an exponent if the first is set (RFC 3376 §4.1.1); at most 31,744.
fn float_u8(code: u8) -> u32 {
    let code = u32::from(code);
    if code < 0x80 { code } else { (code & 0xf | 0x10) << ((code >> 4 & 7) + 3) }
}

/// A number of sixteen bits, three of them an exponent if the first is set (RFC 3810 §5.1.3); at most 8,387,584.
fn float_u16(code: u16) -> u32 {
    let code = u32::from(code);
    if code < 0x8000 { code } else { (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3) }
}
