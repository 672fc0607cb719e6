//! What the fuzz targets `headers` and `group_messages` run, so that tests can run it too.
#![allow(dead_code, reason = "each fuzz target uses one entry")]

use std::net::IpAddr;
use switch::groups::{Arrival, GROUPS_MAX, Groups, Membership, Trust};
use switch::multicast::{self, Message};
use switch::neighbour::{ANSWER_MAX, answer, question};
use switch::{AllowedSources, EthernetHead, Head, MacAddr, Now, PortId, UnicastMac, Vlan};

/// Who sends in kept inputs.
pub(crate) const SENDER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// Lists of sources that allow something of everything.
fn lists() -> [AllowedSources; 4] {
    let macs: Vec<_> = UnicastMac::new(SENDER).into_iter().collect();
    let ipv4: Vec<_> = "192.0.2.0/24".parse().into_iter().collect();
    let ipv6: Vec<_> = "2001:db8::/64".parse().into_iter().collect();
    [
        AllowedSources { macs: macs.clone(), ..AllowedSources::default() },
        AllowedSources { ipv4: ipv4.clone(), ..AllowedSources::default() },
        AllowedSources { ipv6: ipv6.clone(), ..AllowedSources::default() },
        AllowedSources { macs, ipv4, ipv6 },
    ]
}

/// `bytes` are where to cut, and a frame.
///
/// Cut or whole, a frame gets an answer exactly if it is a question, and no cut of it passes a check or says something
/// that the whole frame does not. A longer list never refuses what a shorter one of the same kind lets pass.
pub(crate) fn headers(bytes: &[u8]) {
    let Some((cut, frame)) = bytes.split_first() else { return };
    let cut = &frame[..frame.len().min(usize::from(*cut))];
    let Ok(whole_head) = EthernetHead::parse(frame) else { return };
    for list in lists() {
        let whole = list.check(&whole_head, frame);
        if let Ok(head) = EthernetHead::parse(cut) {
            assert!(whole.is_ok() || list.check(&head, cut).is_err(), "a cut frame passes");
        }
        let mut longer = list.clone();
        if !longer.ipv4.is_empty() {
            longer.ipv4.push("10.0.0.0/8".parse().expect("a network"));
        }
        if !longer.ipv6.is_empty() {
            longer.ipv6.push("fd00::/8".parse().expect("a network"));
        }
        assert!(whole.is_err() || longer.check(&whole_head, frame).is_ok(), "a longer list refuses");
    }
    assert_eq!(AllowedSources::default().check(&whole_head, frame), Ok(()));

    for part in [frame, cut] {
        let Ok(head) = EthernetHead::parse(part) else { continue };
        let tags = usize::from(head.tag.is_some());
        let asked = question(&head, part, tags);
        assert_eq!(question(&head, part, 1 - tags), None, "a tag too many or too few");
        let mut out = [0; ANSWER_MAX];
        let size = answer(part, tags, UnicastMac::new([2, 0, 0, 0, 0, 9]).expect("a station"), &mut out);
        assert_eq!(size.is_some(), asked.is_some());
        if let Some(size) = size {
            let reply = &out[..size];
            let reply_head = EthernetHead::parse(reply).expect("a frame");
            assert!(size >= 60 && reply_head.dst == head.src && reply_head.tag == head.tag);
            assert_eq!(question(&reply_head, reply, tags), None, "nobody answers an answer");
        }
    }
    let tags = usize::from(whole_head.tag.is_some());
    if let Some(message) = multicast::parse(&whole_head, frame, tags) {
        assert!(multicast::parse(&whole_head, frame, 1 - tags).is_none(), "a tag too many or too few");
        check_message(message);
    }
}

fn check_message(message: Message<'_>) {
    let is_group = |group: IpAddr| assert!(group.is_multicast(), "{group}");
    match message {
        Message::Report(report) => {
            // A record takes eight bytes of a message of less than 64 KiB.
            let size = report.map(|record| is_group(record.group)).count();
            assert!(size <= 8192, "more records than bytes");
        }
        Message::Leave(group) => is_group(group),
        Message::Query(query) => query.group.into_iter().for_each(is_group),
        _ => (),
    }
}

/// Groups that a port may have in [`group_messages`].
const LIMIT: u32 = 5;
/// Ports there.
const PORTS: u16 = 4;

/// `bytes` are pieces of a length and that many bytes: port and trust, destination, seconds that pass, message. Each
/// message gets its IP header and its checksum, so that most are believed.
///
/// Whatever comes, no port has more groups than it may have, and what is listed is what gets frames.
pub(crate) fn group_messages(bytes: &[u8]) {
    let groups = Groups::new(1);
    let (mut rest, mut now) = (bytes, Now::from_millis(0));
    while let Some((length, behind)) = rest.split_first() {
        let (piece, after) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = after;
        let [who, to, seconds, message @ ..] = piece else { continue };
        now = Now::from_millis(now.as_millis() + u64::from(*seconds) * 1000);
        let frame = if to & 1 == 0 { igmp(*to >> 1, message) } else { mld(*to >> 1, message) };
        let head = Head::parse(&frame[..frame.len().min(256)]).expect("a frame");
        let vlan = Vlan::new(u16::from(who >> 2 & 1) * 7);
        let (fast_leave, may_route) = (who & 8 != 0, who & 16 != 0);
        let trust = Trust { fast_leave, groups_max: LIMIT, may_route, may_be_wide: may_route };
        let port = PortId(u16::from(who & 3) % PORTS);
        groups.observe(Arrival { port, vlan, tags: 0, now }, &head, trust, || Some(trust));
        match who >> 5 {
            5 => groups.withdraw(port, trust),
            6 => groups.age(now),
            7 => groups.forget_port(port),
            _ => (),
        }
        let entries = groups.entries(now);
        assert!(entries.len() <= GROUPS_MAX);
        for port in (0..PORTS).map(PortId) {
            let listens = entries.iter().filter(|entry| entry.ports.contains(&port)).count();
            assert!(listens <= LIMIT as usize, "{listens} groups at port {port}");
        }
        let table = groups.snapshot();
        for entry in &entries {
            if let Membership::Listeners(listeners) = table.listeners(entry.vlan, entry.group, now) {
                assert!(entry.ports.iter().all(|port| listeners.takes(*port)));
                assert_eq!(listeners.iter().filter(|port| listeners.takes(*port)).count(), listeners.len());
            }
        }
        let routers = groups.routers(now);
        assert!(routers.iter().all(|router| {
            let mac = if router.ipv6 { [0x33, 0x33, 0, 0, 0, 0x16] } else { [1, 0, 0x5e, 0, 0, 0x16] };
            let receivers = table.routers(router.vlan, MacAddr(mac), now, |port| port == router.port);
            matches!(receivers, Membership::Listeners(ports) if ports.takes(router.port))
        }));
    }
}

/// Ones' complement of the sum of 16-bit words (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The group in a message of IGMP, or one of those that messages go to.
fn igmp(to: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message.resize(message.len().max(8), 0);
    let to = match to & 3 {
        0 => [224, 0, 0, 1],
        1 => [224, 0, 0, 2],
        2 => [224, 0, 0, 22],
        _ => {
            // A group of few.
            message[4..7].copy_from_slice(&[239, 1, 0]);
            [239, 1, 0, message[7]]
        }
    };
    message[2..4].fill(0);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    let mut frame = vec![1, 0, 0x5e, to[1] & 0x7f, to[2], to[3]];
    frame.extend(SENDER);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + message.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 1, 2, 0, 0, 192, 0, 2, message[1]]);
    frame.extend(to);
    frame.extend(message);
    frame
}

/// The same for MLD.
fn mld(to: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message.resize(message.len().max(24), 0);
    let mut group = [0; 16];
    (group[0], group[1]) = (0xff, 2);
    match to & 3 {
        0 => group[15] = 1,
        1 => group[15] = 2,
        2 => group[15] = 0x16,
        _ => {
            group[15] = message[23];
            message[8..24].copy_from_slice(&group);
        }
    }
    let mut source = [0; 16];
    (source[0], source[1], source[15]) = (0xfe, 0x80, message[1]);
    message[2..4].fill(0);
    let mut summed = [source, group].concat();
    summed.extend((message.len() as u32).to_be_bytes());
    summed.extend([0, 0, 0, 58]);
    summed.extend(&message);
    let sum = checksum(&summed);
    message[2..4].copy_from_slice(&sum);
    let mut frame = vec![0x33, 0x33, group[12], group[13], group[14], group[15]];
    frame.extend(SENDER);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((8 + message.len() as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(source);
    frame.extend(group);
    frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    frame.extend(message);
    frame
}
