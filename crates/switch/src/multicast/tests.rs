//! Messages made byte by byte, what is none, cuts, random bytes.

use super::*;
use crate::packet::frames::*;
use crate::types::MacAddr;
use proptest::prelude::*;

const GROUP: &str = "239.1.2.3";
const GROUP_V6: &str = "ff15::abcd";
const HOST: &str = "192.0.2.10";
const HOST_V6: &str = "fe80::10";

fn read(frame: &[u8]) -> Option<Message<'_>> {
    parse(&head(frame), frame, 0)
}

/// A message as a value to compare: kind, groups and whether the host listens, query.
#[derive(Debug, PartialEq)]
enum Said {
    Query(Query),
    Report(Vec<(String, bool)>, bool),
    Leave(String),
    RouterSeen,
}

fn said(frame: &[u8]) -> Option<Said> {
    read(frame).map(value)
}

fn value(message: Message<'_>) -> Said {
    match message {
        Message::Query(query) => Said::Query(query),
        Message::Report(report) => {
            let whole = report.whole();
            Said::Report(report.map(|record| (record.group.to_string(), record.listens)).collect(), whole)
        }
        Message::Leave(group) => Said::Leave(group.to_string()),
        Message::RouterSeen => Said::RouterSeen,
    }
}

fn reports(groups: &[(&str, bool)]) -> Option<Said> {
    Some(Said::Report(groups.iter().map(|(group, listens)| (group.to_string(), *listens)).collect(), true))
}

fn asks(group: Option<&str>, source: &str, max_response_ms: u32, membership_ms: Option<u32>) -> Option<Said> {
    let group = group.map(|group| group.parse().unwrap());
    Some(Said::Query(Query { group, source: source.parse().unwrap(), max_response_ms, membership_ms }))
}

/// A query of IGMPv3 or MLDv2: the message of the version before, and flags, interval, number of sources.
fn newer(mut message: Vec<u8>, flags: u8, interval: u8) -> Vec<u8> {
    message.extend([flags, interval, 0, 0]);
    message
}

fn pim_v6(source: &str) -> Vec<u8> {
    let message = summed_v6(source, "ff02::d", 103, vec![0x20, 0, 0, 0, 0, 1, 0, 2, 0, 105]);
    let packet = ipv6(source, "ff02::d", 1, 103, &[], &message);
    ethernet(group_mac("ff02::d".parse().unwrap()), SENDER, 0x86dd, &packet)
}

fn pim_v4(to: &str, first: u8) -> Vec<u8> {
    let packet = ipv4(HOST, to, 103, &summed(vec![first, 0, 0, 0, 0, 1, 0, 2, 0, 105]));
    ethernet(group_mac(to.parse().unwrap()), SENDER, 0x0800, &packet)
}

/// Every kind of message and what it says.
fn messages() -> Vec<(&'static str, Vec<u8>, Option<Said>)> {
    let records = [
        (4, GROUP, 0),
        (3, "239.0.0.9", 0),
        (1, "239.0.0.8", 2),
        (6, "239.0.0.7", 1),
        (5, "239.0.0.6", 1),
        (2, "239.0.0.5", 1),
    ];
    let heard =
        [(GROUP, true), ("239.0.0.9", false), ("239.0.0.8", true), ("239.0.0.6", true), ("239.0.0.5", true)];
    let records_v6 = [(4, GROUP_V6, 0), (1, "ff02::1:ff00:1", 0), (5, "ff02::2", 0), (5, "ff02::fb", 1)];
    let heard_v6 = [(GROUP_V6, true), ("ff02::1:ff00:1", false), ("ff02::fb", true)];
    vec![
        ("query 1", igmp_frame(HOST, "224.0.0.1", igmp(0x11, 0, "0.0.0.0")), asks(None, HOST, 10_000, None)),
        (
            "query 2",
            igmp_frame("0.0.0.0", "224.0.0.1", igmp(0x11, 100, "0.0.0.0")),
            asks(None, "0.0.0.0", 10_000, None),
        ),
        (
            "query 2, group",
            igmp_frame(HOST, GROUP, igmp(0x11, 10, GROUP)),
            asks(Some(GROUP), HOST, 1000, None),
        ),
        (
            "query 3",
            igmp_frame(HOST, "224.0.0.1", newer(igmp(0x11, 100, "0.0.0.0"), 2, 125)),
            asks(None, HOST, 10_000, Some(260_000)),
        ),
        (
            "query 3, long",
            igmp_frame(HOST, "224.0.0.1", newer(igmp(0x11, 0xff, "0.0.0.0"), 0xa, 0x80)),
            asks(None, HOST, 3_174_400, Some(2 * 128_000 + 3_174_400)),
        ),
        (
            "query 3, no robustness",
            igmp_frame(HOST, "224.0.0.1", newer(igmp(0x11, 1, "0.0.0.0"), 0, 125)),
            asks(None, HOST, 100, None),
        ),
        ("report 1", igmp_frame(HOST, GROUP, igmp(0x12, 0, GROUP)), reports(&[(GROUP, true)])),
        ("report 2", igmp_frame("0.0.0.0", GROUP, igmp(0x16, 0, GROUP)), reports(&[(GROUP, true)])),
        ("leave", igmp_frame(HOST, "224.0.0.2", igmp(0x17, 0, GROUP)), Some(Said::Leave(GROUP.into()))),
        (
            "leave to the group",
            igmp_frame(HOST, GROUP, igmp(0x17, 0, GROUP)),
            Some(Said::Leave(GROUP.into())),
        ),
        ("report 3", igmp_frame(HOST, "224.0.0.22", igmp3(&records)), reports(&heard)),
        ("router", igmp_frame(HOST, "224.0.0.106", igmp(0x30, 20, "0.125.0.2")), Some(Said::RouterSeen)),
        ("PIM", pim_v4("224.0.0.13", 0x20), Some(Said::RouterSeen)),
        (
            "MLD query 1",
            mld_frame(HOST_V6, "ff02::1", mld(130, 10_000, "::")),
            asks(None, HOST_V6, 10_000, None),
        ),
        (
            "MLD query 1, group",
            mld_frame(HOST_V6, GROUP_V6, mld(130, 1000, GROUP_V6)),
            asks(Some(GROUP_V6), HOST_V6, 1000, None),
        ),
        (
            "MLD query 2",
            mld_frame(HOST_V6, "ff02::1", newer(mld(130, 10_000, "::"), 2, 125)),
            asks(None, HOST_V6, 10_000, Some(260_000)),
        ),
        (
            "MLD query 2, long",
            mld_frame(HOST_V6, "ff02::1", newer(mld(130, 0xffff, "::"), 0, 0)),
            asks(None, HOST_V6, 8_387_584, None),
        ),
        ("MLD report 1", mld_frame("::", GROUP_V6, mld(131, 0, GROUP_V6)), reports(&[(GROUP_V6, true)])),
        ("done", mld_frame(HOST_V6, "ff02::2", mld(132, 0, GROUP_V6)), Some(Said::Leave(GROUP_V6.into()))),
        ("MLD report 2", mld_frame(HOST_V6, "ff02::16", mld2(&records_v6)), reports(&heard_v6)),
        (
            "MLD router",
            mld_frame(HOST_V6, "ff02::6a", vec![151, 20, 0, 0, 0, 125, 0, 2]),
            Some(Said::RouterSeen),
        ),
        ("PIM on IPv6", pim_v6(HOST_V6), Some(Said::RouterSeen)),
    ]
}

#[test]
fn messages_are_read_behind_the_tag_that_the_switch_reads() {
    let behind = |frame: &[u8], tags| parse(&head(frame), frame, tags).map(value);
    for (name, frame, expected) in messages() {
        assert_eq!(said(&frame), expected, "{name}");
        let stacks = [&[TAG][..], &[SERVICE_TAG, TAG], &[TAG; 3]].map(|stack| tagged(&frame, stack));
        assert_eq!(behind(&stacks[0], 1), expected, "{name}");
        assert_eq!(behind(&frame, 1), None, "{name}: there is no tag");
        for (frame, tags) in [(0, 0), (1, 0), (1, 1), (1, 2), (2, 1), (2, 3)] {
            assert_eq!(behind(&stacks[frame], tags), None, "{name}: another tag is behind {tags}");
        }
        assert_eq!(said(&[&frame[..], &[0; 9]].concat()), expected, "{name}, padded");
    }
}

#[test]
fn a_wrong_bit_anywhere_in_a_message_is_seen() {
    for (name, frame, _) in messages() {
        let start = match (frame[12], frame[20]) {
            (0x08, _) => 14 + 24,
            (_, 103) => 14 + 40,
            _ => 14 + 48,
        };
        for place in start..frame.len() {
            let mut wrong = frame.clone();
            wrong[place] ^= 0x10;
            assert_eq!(said(&wrong), None, "{name}: byte {place}");
        }
    }
}

#[test]
fn what_its_receivers_would_ignore_is_no_message() {
    let of = |name| messages().into_iter().find(|(other, ..)| *other == name).unwrap().1;
    let with_mac = |mut frame: Vec<u8>, mac: MacAddr| {
        frame[..6].copy_from_slice(&mac.0);
        frame
    };
    let with_byte = |mut frame: Vec<u8>, place: usize, byte: u8| {
        frame[place] = byte;
        frame
    };
    let query_to = |to| igmp_frame(HOST, to, igmp(0x11, 100, "0.0.0.0"));
    let none = [
        ("query to one station", query_to("192.0.2.1")),
        ("query to another group", query_to("224.0.0.2")),
        (
            "query between versions",
            igmp_frame(HOST, "224.0.0.1", [igmp(0x11, 9, "0.0.0.0"), vec![0, 0]].concat()),
        ),
        ("group query to all", igmp_frame(HOST, "224.0.0.1", igmp(0x11, 10, GROUP))),
        ("report to another group", igmp_frame(HOST, "239.1.2.4", igmp(0x16, 0, GROUP))),
        ("report of a station", igmp_frame(HOST, HOST, igmp(0x16, 0, HOST))),
        ("leave of a station", igmp_frame(HOST, "224.0.0.2", igmp(0x17, 0, HOST))),
        ("report 3 to all", igmp_frame(HOST, "224.0.0.1", igmp3(&[(4, GROUP, 0)]))),
        ("DVMRP", igmp_frame(HOST, "224.0.0.4", igmp(0x13, 1, "0.0.0.0"))),
        ("under another MAC", with_mac(of("report 2"), MacAddr([1, 0, 0x5e, 1, 2, 4]))),
        ("broadcast", with_mac(of("query 2"), MacAddr::BROADCAST)),
        ("to a station's MAC", with_mac(of("query 2"), OTHER)),
        ("fragment", with_byte(of("query 2"), 20, 0x20)),
        ("PIM that is no hello", pim_v4("224.0.0.13", 0x23)),
        ("PIM to all", pim_v4("224.0.0.1", 0x20)),
        ("PIM from far", pim_v6("2001:db8::1")),
        ("MLD from far", mld_frame("2001:db8::1", "ff02::1", mld(130, 0, "::"))),
        ("MLD query from nobody", mld_frame("::", "ff02::1", mld(130, 0, "::"))),
        ("MLD query to another group", mld_frame(HOST_V6, "ff02::2", mld(130, 0, "::"))),
        ("MLD with hop limit 2", with_byte(of("MLD report 1"), 21, 2)),
        ("MLD without router alert", with_byte(of("MLD report 1"), 14 + 40 + 2, 1)),
        ("router advertisement", icmpv6_frame(HOST_V6, "ff02::1", discovery(134, None, None))),
        ("UDP", ethernet(group_mac(IpAddr::V4(v4(GROUP))), SENDER, 0x0800, &ipv4(HOST, GROUP, 17, &[0; 8]))),
    ];
    for (name, frame) in none {
        assert_eq!(said(&frame), None, "{name}");
    }
}

#[test]
fn a_long_report_tells_that_it_goes_on() {
    let groups: Vec<String> = (0..60).map(|group| format!("239.1.0.{group}")).collect();
    let records: Vec<_> = groups.iter().map(|group| (4, group.as_str(), 0)).collect();
    let frame = igmp_frame(HOST, "224.0.0.22", igmp3(&records));
    let Some(Said::Report(seen, false)) = said(&frame[..256]) else { panic!("cut at 256") };
    assert_eq!(seen.len(), (256 - 14 - 24 - 8) / 8);
    assert!(seen.iter().zip(&groups).all(|((seen, listens), group)| seen == group && *listens));
    let Some(Said::Report(all, true)) = said(&frame) else { panic!("whole") };
    assert_eq!(all.len(), 60);
}

#[test]
fn records_that_lie_about_their_size_end_the_walk() {
    let mut message = igmp3(&[(4, GROUP, 0), (4, "239.9.9.9", 0)]);
    // The first record claims auxiliary data, the second is hidden in it.
    message[9] = 200;
    assert_eq!(said(&igmp_frame(HOST, "224.0.0.22", message)), reports(&[(GROUP, true)]));
    let mut message = igmp3(&[(4, GROUP, 0)]);
    message[6..8].fill(0xff);
    assert_eq!(said(&igmp_frame(HOST, "224.0.0.22", message)), reports(&[(GROUP, true)]));
    let mut message = mld2(&[(1, GROUP_V6, 0)]);
    message[10..12].fill(0xff);
    assert_eq!(said(&mld_frame(HOST_V6, "ff02::16", message)), reports(&[(GROUP_V6, true)]));
}

/// A cut frame says nothing, or begins to say what the whole one says.
fn cuts_agree(frame: &[u8]) -> Result<(), TestCaseError> {
    for length in 14..frame.len() {
        let (cut, whole) = (said(&frame[..length]), said(frame));
        match cut {
            None => (),
            Some(Said::Report(groups, is_whole)) if !is_whole => {
                // A checksum that is not at hand may be wrong.
                if let Some(Said::Report(all, _)) = whole {
                    prop_assert!(all.starts_with(&groups), "{length} bytes");
                }
            }
            cut => prop_assert_eq!(cut, whole, "{} bytes", length),
        }
    }
    Ok(())
}

#[test]
fn cuts_of_messages() {
    for (name, frame, _) in messages() {
        cuts_agree(&frame).unwrap_or_else(|error| panic!("{name}: {error}"));
        for length in 0..frame.len() {
            let what = frame.get(..length).filter(|cut| cut.len() >= 14).and_then(said);
            let may_be = matches!(what, None | Some(Said::Report(_, false)));
            assert!(may_be, "{name}: {length} bytes say {what:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_reports(kind in prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17, 0x22, 0x30]), rest in prop::collection::vec(any::<u8>(), 7..120)) {
        cuts_agree(&igmp_frame(HOST, "224.0.0.22", [vec![kind], rest].concat()))?;
    }

    #[test]
    fn random_reports_of_mld(kind in prop::sample::select(vec![130u8, 131, 132, 143, 151]), rest in prop::collection::vec(any::<u8>(), 7..120)) {
        cuts_agree(&mld_frame(HOST_V6, "ff02::16", [vec![kind], rest].concat()))?;
    }

    #[test]
    fn damaged_messages(index in any::<prop::sample::Index>(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let messages = messages();
        let mut frame = index.get(&messages).1.clone();
        for (place, byte) in places {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        cuts_agree(&frame)?;
    }
}
