//! Questions and what is none; answers, read back by a parser that is not ours.

use super::*;
use crate::packet::frames::*;
use crate::packet::ones_sum_ipv6;
use crate::types::MacAddr;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const ASKED: MacAddr = MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);

fn asks(frame: &[u8]) -> Option<IpAddr> {
    asks_behind(frame, 0)
}

/// Of a switch that reads `tags` tags of the frame.
fn asks_behind(frame: &[u8], tags: usize) -> Option<IpAddr> {
    question(&head(frame), frame, tags)
}

fn answer_to(frame: &[u8]) -> Option<Vec<u8>> {
    answer_behind(frame, 0)
}

fn answer_behind(frame: &[u8], tags: usize) -> Option<Vec<u8>> {
    let mut out = [0xee; ANSWER_MAX];
    answer(frame, tags, ASKED.unicast().unwrap(), &mut out).map(|size| out[..size].to_vec())
}

fn questions() -> [(Vec<u8>, IpAddr); 3] {
    [
        (arp_frame(1, "192.0.2.1", "192.0.2.9"), IpAddr::V4(v4("192.0.2.9"))),
        (solicitation_frame("2001:db8::1", "2001:db8::9"), IpAddr::V6(v6("2001:db8::9"))),
        (solicitation_frame("fe80::1", "fe80::9"), IpAddr::V6(v6("fe80::9"))),
    ]
}

/// The frame with one byte changed, and its ICMPv6 checksum made right again.
fn changed(mut frame: Vec<u8>, place: usize, byte: u8) -> Vec<u8> {
    frame[place] = byte;
    frame[56..58].fill(0);
    let (source, to) = (v6_at(&frame, 22), v6_at(&frame, 38));
    let sum = !ones_sum_ipv6(source, to, 58, &frame[54..]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn v6_at(frame: &[u8], place: usize) -> Ipv6Addr {
    Ipv6Addr::from(*frame[place..].first_chunk::<16>().unwrap())
}

#[test]
fn questions_are_read_behind_the_tag_that_the_switch_reads() {
    for (frame, target) in questions() {
        assert_eq!(asks(&frame), Some(target));
        assert_eq!(asks_behind(&tagged(&frame, &[TAG]), 1), Some(target));
        assert_eq!(asks_behind(&tagged(&frame, &[SERVICE_TAG]), 1), Some(target));
        for (stack, tags) in [(0, 1), (1, 0), (2, 0), (2, 1), (2, 2), (3, 1), (3, 3)] {
            let frame = tagged(&frame, &[TAG; 3][..stack]);
            let told = (asks_behind(&frame, tags), answer_behind(&frame, tags));
            assert_eq!(told, (None, None), "{tags} of {stack} tags");
        }
        let padded = [&frame[..], &[0; 18]].concat();
        assert_eq!(asks(&padded), Some(target));
    }
}

#[test]
fn what_is_no_question_in_arp() {
    let none = [
        arp_frame(2, "192.0.2.1", "192.0.2.9"),
        arp_frame(1, "192.0.2.1", "192.0.2.1"),
        arp_frame(1, "0.0.0.0", "192.0.2.9"),
        arp_frame(1, "192.0.2.1", "0.0.0.0"),
        arp_frame(1, "192.0.2.1", "255.255.255.255"),
        arp_frame(1, "192.0.2.1", "224.0.0.1"),
        ethernet(OTHER, SENDER, 0x0806, &arp(1, SENDER, "192.0.2.1", "192.0.2.9")),
        ethernet(MacAddr::BROADCAST, SENDER, 0x0806, &arp(1, OTHER, "192.0.2.1", "192.0.2.9")),
        ethernet(MacAddr::BROADCAST, SENDER, 0x8035, &arp(1, SENDER, "192.0.2.1", "192.0.2.9")),
    ];
    for frame in none {
        assert_eq!((asks(&frame), answer_to(&frame)), (None, None), "{frame:02x?}");
    }
}

#[test]
fn what_is_no_question_in_neighbour_discovery() {
    let (good, _) = &questions()[1];
    assert!(asks(&changed(good.clone(), 21, 255)).is_some(), "the change alone breaks nothing");
    let mut wrong_sum = good.clone();
    wrong_sum[57] ^= 1;
    let mut unicast = good.clone();
    unicast[..6].copy_from_slice(&OTHER.0);
    let mut of_other = good.clone();
    of_other[6..12].copy_from_slice(&OTHER.0);
    let to_all =
        icmpv6_frame("2001:db8::1", "ff02::1", discovery(135, Some("2001:db8::9"), Some((1, SENDER))));
    let behind_fragment = {
        let (message, group) = (discovery(135, Some("2001:db8::9"), None), "ff02::1:ff00:9");
        let message = summed_v6("2001:db8::1", group, 58, message);
        let packet = ipv6("2001:db8::1", group, 255, 44, &[58, 0, 0, 0, 0, 0, 0, 1], &message);
        ethernet(good[..6].first_chunk::<6>().copied().map(MacAddr).unwrap(), SENDER, 0x86dd, &packet)
    };
    let none = [
        ("hop limit", changed(good.clone(), 21, 254)),
        ("code", changed(good.clone(), 55, 1)),
        ("type", changed(good.clone(), 54, 136)),
        ("checksum", wrong_sum),
        ("to one station", unicast),
        ("option of another station", of_other),
        ("to all", to_all),
        ("group of another address", changed(good.clone(), 77, 8)),
        ("in a fragment", behind_fragment),
        ("DAD", solicitation_frame("::", "2001:db8::9")),
        ("for itself", solicitation_frame("2001:db8::1", "2001:db8::1")),
        ("for a group", solicitation_frame("2001:db8::1", "ff02::1")),
        ("advertisement", icmpv6_frame("2001:db8::1", "ff02::1", discovery(136, Some("2001:db8::9"), None))),
    ];
    for (name, frame) in none {
        assert_eq!((asks(&frame), answer_to(&frame)), (None, None), "{name}");
    }
}

#[test]
fn arp_is_answered_like_the_station_would() {
    let (frame, _) = &questions()[0];
    let reply = answer_to(frame).unwrap();
    assert_eq!(reply.len(), 60);
    let packet = SlicedPacket::from_ethernet(&reply).unwrap();
    let Some(NetSlice::Arp(arp)) = packet.net else { panic!("{packet:?}") };
    assert_eq!(arp.operation(), etherparse::ArpOperation::REPLY);
    assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&ASKED.0[..], &[192, 0, 2, 9][..]));
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&SENDER.0[..], &[192, 0, 2, 1][..]));
    assert_eq!((head(&reply).dst, head(&reply).src), (SENDER, ASKED));
    assert!(reply[42..].iter().all(|byte| *byte == 0), "padding tells nothing");
}

#[test]
fn a_solicitation_is_answered_like_the_station_would() {
    for (frame, target) in &questions()[1..] {
        let reply = answer_to(frame).unwrap();
        let packet = SlicedPacket::from_ethernet(&reply).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
        let header = ip.header();
        assert_eq!(IpAddr::V6(header.source_addr()), *target);
        assert_eq!(header.destination_addr(), v6_at(frame, 22));
        assert_eq!((header.hop_limit(), header.payload_length()), (255, 32));
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("{packet:?}") };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        // Solicited and override, not router; then the target and its address.
        assert_eq!(reply[58..62], [0x60, 0, 0, 0]);
        assert_eq!(IpAddr::V6(v6_at(&reply, 62)), *target);
        assert_eq!(reply[78..], [&[2, 1][..], &ASKED.0].concat());
        assert_eq!((head(&reply).dst, head(&reply).src), (SENDER, ASKED));
    }
}

#[test]
fn an_answer_has_the_tag_of_its_question() {
    for (frame, _) in questions() {
        let plain = answer_to(&frame).unwrap();
        for tag in [TAG, SERVICE_TAG] {
            assert_eq!(answer_behind(&tagged(&frame, &[tag]), 1).unwrap(), tagged(&plain, &[tag]));
        }
    }
    let longest = answer_behind(&tagged(&questions()[1].0, &[TAG]), 1).unwrap();
    assert_eq!(longest.len(), ANSWER_MAX);
}

#[test]
fn no_cut_is_another_question() {
    for (frame, target) in questions() {
        for (tags, frame) in [frame.clone(), tagged(&frame, &[TAG])].into_iter().enumerate() {
            for length in 0..frame.len() {
                let cut = &frame[..length];
                let asked = EthernetHead::parse(cut).ok().and_then(|head| question(&head, cut, tags));
                assert!(asked.is_none() || asked == Some(target), "{length} bytes");
                assert_eq!(answer_behind(cut, tags).is_some(), asked.is_some());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_frame_with_an_answer_is_a_question(
        index in 0usize..3,
        tags in 0usize..4,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        length in 14usize..120,
    ) {
        let mut frame = tagged(&questions()[index].0, &[TAG; 3][..tags]);
        for (place, byte) in places {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        frame.truncate(length);
        let asked = asks_behind(&frame, tags);
        prop_assert_eq!(answer_behind(&frame, tags).is_some(), asked.is_some());
        if let Some(reply) = answer_behind(&frame, tags) {
            // What the switch says is true of the one station only, and nobody else is told.
            prop_assert_eq!((head(&reply).dst, head(&reply).src), (head(&frame).src, ASKED));
        }
    }
}
