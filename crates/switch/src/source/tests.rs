//! The tables of the module's head, row by row, then cut frames and random ones.

use super::*;
use crate::packet::frames::*;
use crate::packet::{group_mac, solicited_node_group};
use proptest::prelude::*;
use std::net::IpAddr;

const MINE: &str = "192.0.2.10";
const MINE_V6: &str = "2001:db8::10";
const THEIRS: &str = "192.0.2.99";
const THEIRS_V6: &str = "2001:db8::99";

const MAC: Result<(), DropReason> = Err(DropReason::SourceMac);
const ADDRESS: Result<(), DropReason> = Err(DropReason::SourceAddress);

fn macs() -> AllowedSources {
    AllowedSources { macs: vec![SENDER.unicast().unwrap()], ..AllowedSources::default() }
}

fn ipv4_only() -> AllowedSources {
    AllowedSources { ipv4: vec!["192.0.2.10/32".parse().unwrap()], ..AllowedSources::default() }
}

fn ipv6_only() -> AllowedSources {
    AllowedSources { ipv6: vec!["2001:db8::10/128".parse().unwrap()], ..AllowedSources::default() }
}

/// All three lists.
fn all() -> AllowedSources {
    AllowedSources { ipv6: ipv6_only().ipv6, ipv4: ipv4_only().ipv4, ..macs() }
}

fn check(allowed: &AllowedSources, frame: &[u8]) -> Result<(), DropReason> {
    allowed.check(&head(frame), frame)
}

fn from_other(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&OTHER.0);
    frame
}

fn ipv4_frame(source: &str, to: &str, protocol: u8, message: &[u8]) -> Vec<u8> {
    ethernet(OTHER, SENDER, 0x0800, &ipv4(source, to, protocol, message))
}

fn ipv6_frame(source: &str, first: u8, chain: &[u8], message: &[u8]) -> Vec<u8> {
    ethernet(OTHER, SENDER, 0x86dd, &ipv6(source, "2001:db8::1", 64, first, chain, message))
}

fn dhcp(from: u8) -> Vec<u8> {
    [0, from, 0, 67, 0, 8, 0, 0].to_vec()
}

/// An advertisement that `target` is at `mac`.
fn advertisement(source: &str, target: &str, mac: MacAddr) -> Vec<u8> {
    icmpv6_frame(source, "ff02::1", discovery(136, Some(target), Some((2, mac))))
}

/// Frames that [`all`] lets pass.
fn good_frames() -> Vec<(&'static str, Vec<u8>)> {
    let local = own_link_local();
    vec![
        ("IPv4", ipv4_frame(MINE, THEIRS, 6, &[0; 20])),
        ("DHCP client", ipv4_frame("0.0.0.0", "255.255.255.255", 17, &dhcp(68))),
        ("ARP request", arp_frame(1, MINE, THEIRS)),
        ("ARP reply", arp_frame(2, MINE, THEIRS)),
        ("gratuitous ARP", arp_frame(1, MINE, MINE)),
        ("ARP probe", arp_frame(1, "0.0.0.0", MINE)),
        ("RARP", ethernet(MacAddr::BROADCAST, SENDER, 0x8035, &arp(3, SENDER, "0.0.0.0", "0.0.0.0"))),
        ("IPv6", ipv6_frame(MINE_V6, 6, &[], &[0; 20])),
        ("IPv6 behind options", ipv6_frame(MINE_V6, 60, &[17, 0, 1, 4, 0, 0, 0, 0], &[0; 8])),
        ("IPv6, first fragment", ipv6_frame(MINE_V6, 44, &[58, 0, 0, 1, 0, 0, 0, 1], &[128, 0, 0, 0])),
        ("IPv6, later fragment", ipv6_frame(MINE_V6, 44, &[58, 0, 5, 0, 0, 0, 0, 1], &[136; 24])),
        ("link-local", ipv6_frame(&local, 17, &[], &[0; 8])),
        ("router solicitation", icmpv6_frame("::", "ff02::2", discovery(133, None, None))),
        (
            "router solicitation, link-local",
            icmpv6_frame(&local, "ff02::2", discovery(133, None, Some((1, SENDER)))),
        ),
        ("DAD", solicitation_frame("::", MINE_V6)),
        ("DAD, link-local", solicitation_frame("::", &local)),
        ("solicitation", solicitation_frame(MINE_V6, THEIRS_V6)),
        ("advertisement", advertisement(MINE_V6, MINE_V6, SENDER)),
        ("advertisement, link-local", advertisement(&local, &local, SENDER)),
        ("MLDv1 report", mld_frame("::", "ff02::1:ff00:10", mld(131, 0, "ff02::1:ff00:10"))),
        ("MLDv2 report", mld_frame("::", "ff02::16", mld2(&[(4, "ff02::1:ff00:10", 0)]))),
        ("LLDP", ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]), SENDER, 0x88cc, &[2, 7, 4])),
        ("spanning tree", ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0]), SENDER, 38, &[0x42, 0x42, 3, 0])),
    ]
}

/// Frames that [`all`] refuses, and why.
fn bad_frames() -> Vec<(&'static str, Vec<u8>, Result<(), DropReason>)> {
    let local = own_link_local();
    let their_local = link_local_of(OTHER).to_string();
    let arp_of = |mac, sender| ethernet(MacAddr::BROADCAST, SENDER, 0x0806, &arp(2, mac, sender, THEIRS));
    let mut odd_arp = arp_frame(1, MINE, THEIRS);
    odd_arp[14 + 4] = 8;
    let mut short_header = ipv4_frame(MINE, THEIRS, 6, &[0; 20]);
    short_header[14] = 0x44;
    let mut long_header = ethernet(OTHER, SENDER, 0x0800, &ipv4(MINE, THEIRS, 6, &[]));
    long_header[14] = 0x4f;
    let version = |nibble: u8, mut frame: Vec<u8>| {
        frame[14] = frame[14] & 0xf | nibble << 4;
        frame
    };
    let fragmented_dhcp = |flags: u8| {
        let mut frame = ipv4_frame("0.0.0.0", "255.255.255.255", 17, &dhcp(68));
        frame[14 + 6] = flags;
        frame
    };
    let good = ipv4_frame(MINE, THEIRS, 6, &[0; 20]);
    let endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(12);
    let snap = |ethertype: [u8; 2], rest: Vec<u8>| {
        let payload = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &ethertype, &rest].concat();
        ethernet(MacAddr::BROADCAST, SENDER, payload.len() as u16, &payload)
    };
    let two_options = |second: [u8; 8]| {
        let message = [discovery(136, Some(MINE_V6), Some((2, SENDER))), second.to_vec()].concat();
        icmpv6_frame(MINE_V6, "ff02::1", message)
    };
    let [a, b, c, d, e, f] = OTHER.0;
    let in_fragment = |offset_flags: u8| {
        let message = discovery(136, Some(MINE_V6), Some((2, SENDER)));
        ipv6_frame(MINE_V6, 44, &[58, 0, 0, offset_flags, 0, 0, 0, 1], &message)
    };
    vec![
        ("another MAC", from_other(good.clone()), MAC),
        ("another IPv4 source", ipv4_frame(THEIRS, MINE, 6, &[0; 20]), ADDRESS),
        ("IPv4 from nobody", ipv4_frame("0.0.0.0", THEIRS, 17, &dhcp(68)), ADDRESS),
        ("DHCP server", ipv4_frame("0.0.0.0", "255.255.255.255", 17, &dhcp(67)), ADDRESS),
        ("DHCP client, fragmented", fragmented_dhcp(0x20), ADDRESS),
        ("DHCP client, TCP", ipv4_frame("0.0.0.0", "255.255.255.255", 6, &dhcp(68)), ADDRESS),
        ("IPv4 header too short", short_header, ADDRESS),
        ("IPv4 header longer than the frame", long_header, ADDRESS),
        ("IPv6 in the name of IPv4", version(6, good.clone()), ADDRESS),
        ("IPv4 in the name of IPv6", version(4, ipv6_frame(MINE_V6, 6, &[], &[0; 20])), ADDRESS),
        ("ARP for another MAC", arp_of(OTHER, MINE), MAC),
        ("ARP for another address", arp_of(SENDER, THEIRS), ADDRESS),
        ("ARP reply from nobody", arp_of(SENDER, "0.0.0.0"), ADDRESS),
        ("ARP probe for another's address", arp_frame(1, "0.0.0.0", THEIRS), ADDRESS),
        ("gratuitous ARP for another's", arp_frame(1, THEIRS, THEIRS), ADDRESS),
        ("ARP for other hardware", odd_arp, ADDRESS),
        ("RARP", ethernet(MacAddr::BROADCAST, SENDER, 0x8035, &arp(3, OTHER, "0.0.0.0", "0.0.0.0")), MAC),
        ("RARP server", ethernet(OTHER, SENDER, 0x8035, &arp(4, SENDER, THEIRS, MINE)), ADDRESS),
        ("another IPv6 source", ipv6_frame(THEIRS_V6, 6, &[], &[0; 20]), ADDRESS),
        ("another's link-local", ipv6_frame(&their_local, 6, &[], &[0; 20]), ADDRESS),
        ("IPv6 from nobody", ipv6_frame("::", 17, &[], &[0; 8]), ADDRESS),
        ("echo from nobody", icmpv6_frame("::", "ff02::1", vec![128, 0, 0, 0, 0, 0, 0, 0]), ADDRESS),
        ("MLD query from nobody", mld_frame("::", "ff02::1", mld(130, 0, "::")), ADDRESS),
        ("advertisement from nobody", advertisement("::", MINE_V6, SENDER), ADDRESS),
        ("later fragment from nobody", ipv6_frame("::", 44, &[58, 0, 5, 0, 0, 0, 0, 1], &[0; 8]), ADDRESS),
        ("chain without end", ipv6_frame(MINE_V6, 60, &endless, &[0; 8]), ADDRESS),
        ("no ICMPv6 type", ipv6_frame(MINE_V6, 58, &[], &[]), ADDRESS),
        ("DAD for another's address", solicitation_frame("::", THEIRS_V6), ADDRESS),
        ("advertisement of another's address", advertisement(MINE_V6, THEIRS_V6, SENDER), ADDRESS),
        ("advertisement of another MAC", advertisement(MINE_V6, MINE_V6, OTHER), MAC),
        ("second option", two_options([2, 1, a, b, c, d, e, f]), MAC),
        ("source option", two_options([1, 1, a, b, c, d, e, f]), MAC),
        ("option without length", two_options([14, 0, 0, 0, 0, 0, 0, 0]), MAC),
        ("option longer than the message", two_options([14, 2, 0, 0, 0, 0, 0, 0]), MAC),
        (
            "solicitation for another MAC",
            icmpv6_frame(MINE_V6, "ff02::1:ff00:99", discovery(135, Some(THEIRS_V6), Some((1, OTHER)))),
            MAC,
        ),
        (
            "router solicitation for another MAC",
            icmpv6_frame(&local, "ff02::2", discovery(133, None, Some((1, OTHER)))),
            MAC,
        ),
        (
            "router advertisement for another MAC",
            icmpv6_frame(&local, "ff02::1", discovery(134, None, Some((1, OTHER)))),
            MAC,
        ),
        (
            "redirect to another MAC",
            icmpv6_frame(&local, "ff02::1", discovery(137, Some(MINE_V6), Some((2, OTHER)))),
            MAC,
        ),
        ("discovery in a fragment", in_fragment(1), ADDRESS),
        ("discovery in the only fragment", in_fragment(0), ADDRESS),
        ("other ethertype", ethernet(OTHER, SENDER, 0x88cc, &[2, 7, 4]), ADDRESS),
        ("802.3 to a station", ethernet(OTHER, SENDER, 38, &[0x42, 0x42, 3, 0]), ADDRESS),
        ("ARP behind SNAP", snap([8, 6], arp(2, OTHER, THEIRS, MINE)), ADDRESS),
        ("three tags", tagged(&good, &[TAG; 3]), ADDRESS),
        ("an older tag", tagged(&good, &[[0x91, 0, 0, 1]]), ADDRESS),
    ]
}

#[test]
fn good_frames_pass_with_all_lists_also_tagged() {
    for (name, frame) in good_frames() {
        assert_eq!(check(&all(), &frame), Ok(()), "{name}");
        assert_eq!(check(&all(), &tagged(&frame, &[TAG])), Ok(()), "{name}, tagged");
        assert_eq!(check(&all(), &tagged(&frame, &[SERVICE_TAG, TAG])), Ok(()), "{name}, tagged twice");
    }
}

#[test]
fn bad_frames_are_refused_with_their_reason_also_tagged() {
    for (name, frame, refused) in bad_frames() {
        assert_eq!(check(&all(), &frame), refused, "{name}");
        if !matches!(name, "three tags" | "an older tag") {
            assert_eq!(check(&all(), &tagged(&frame, &[SERVICE_TAG, TAG])), refused, "{name}, tagged twice");
        }
        assert_eq!(
            check(&AllowedSources::default(), &frame),
            Ok(()),
            "{name}: without lists, nothing is refused"
        );
    }
}

#[test]
fn mac_addresses_alone_say_nothing_of_network_addresses() {
    let passes = |frame: &[u8]| check(&macs(), frame);
    for (name, frame) in good_frames() {
        assert_eq!(passes(&frame), Ok(()), "{name}");
        assert_eq!(passes(&from_other(frame)), MAC, "{name}");
    }
    assert_eq!(passes(&ipv4_frame(THEIRS, MINE, 6, &[])), Ok(()));
    assert_eq!(passes(&arp_frame(2, THEIRS, MINE)), Ok(()));
    assert_eq!(passes(&advertisement(THEIRS_V6, THEIRS_V6, SENDER)), Ok(()));
    assert_eq!(passes(&ethernet(OTHER, SENDER, 0x88b5, &[])), Ok(()));
    assert_eq!(passes(&ethernet(OTHER, SENDER, 3, &[0x42, 0x42, 3])), Ok(()));
    let refused = |name| bad_frames().into_iter().find(|(other, ..)| *other == name).unwrap().1;
    for name in ["ARP for another MAC", "RARP", "advertisement of another MAC", "redirect to another MAC"] {
        assert_eq!(passes(&refused(name)), MAC, "{name}");
    }
    for name in [
        "ARP for other hardware",
        "ARP behind SNAP",
        "chain without end",
        "discovery in a fragment",
        "three tags",
    ] {
        assert_eq!(passes(&refused(name)), ADDRESS, "{name}");
    }
}

#[test]
fn a_list_for_one_family_refuses_the_other() {
    let ipv6_names = [
        "IPv6",
        "link-local",
        "DAD",
        "router solicitation",
        "advertisement",
        "MLDv2 report",
        "IPv6, later fragment",
    ];
    let ipv4_names = ["IPv4", "DHCP client", "ARP request", "ARP probe", "gratuitous ARP"];
    for (name, frame) in good_frames() {
        if ipv6_names.contains(&name) {
            assert_eq!(check(&ipv4_only(), &frame), ADDRESS, "{name}");
            assert_eq!(check(&ipv6_only(), &frame), Ok(()), "{name}");
        }
        if ipv4_names.contains(&name) {
            assert_eq!(check(&ipv6_only(), &frame), ADDRESS, "{name}");
            assert_eq!(check(&ipv4_only(), &frame), Ok(()), "{name}");
        }
    }
    // The addresses of the payload are held against the frame's source, whatever that is.
    assert_eq!(check(&ipv4_only(), &from_other(arp_frame(1, MINE, THEIRS))), MAC);
    assert_eq!(check(&ipv4_only(), &from_other(ipv4_frame(MINE, THEIRS, 6, &[]))), Ok(()));
}

#[test]
fn networks_are_more_than_one_address() {
    let allowed = AllowedSources {
        ipv4: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.10/32".parse().unwrap()],
        ipv6: vec!["2001:db8::/32".parse().unwrap(), "fe80::/10".parse().unwrap()],
        ..AllowedSources::default()
    };
    assert_eq!(check(&allowed, &ipv4_frame("10.200.0.1", THEIRS, 6, &[])), Ok(()));
    assert_eq!(check(&allowed, &ipv4_frame(MINE, THEIRS, 6, &[])), Ok(()));
    assert_eq!(check(&allowed, &ipv4_frame("11.0.0.1", THEIRS, 6, &[])), ADDRESS);
    assert_eq!(check(&allowed, &ipv6_frame(THEIRS_V6, 6, &[], &[])), Ok(()));
    assert_eq!(
        check(&allowed, &ipv6_frame("fe80::1", 6, &[], &[])),
        Ok(()),
        "any link-local address is listed"
    );
}

#[test]
fn segments_without_a_length_in_the_header_pass() {
    let mut frame = ipv4_frame(MINE, THEIRS, 6, &[0; 40]);
    frame[16..18].fill(0);
    assert_eq!(check(&all(), &frame), Ok(()));
    let mut frame = ipv6_frame(MINE_V6, 6, &[], &[0; 40]);
    frame[18..20].fill(0);
    assert_eq!(check(&all(), &frame), Ok(()));
    let mut frame = advertisement(MINE_V6, MINE_V6, SENDER);
    frame[18..20].fill(0);
    assert_eq!(check(&all(), &frame), ADDRESS, "but discovery has to be whole");
}

#[test]
fn padding_is_no_part_of_a_message() {
    let mut frame = solicitation_frame("::", MINE_V6);
    frame.extend([0; 20]);
    assert_eq!(check(&all(), &frame), Ok(()));
    assert_eq!(group_mac(IpAddr::V6(solicited_node_group(v6(MINE_V6)))), head(&frame).dst);
}

/// No cut of a frame passes that does not pass whole.
fn no_cut_passes(frame: &[u8]) -> Result<(), TestCaseError> {
    for allowed in [all(), macs(), ipv4_only(), ipv6_only()] {
        let whole = check(&allowed, frame);
        for length in 14..frame.len() {
            let cut = allowed.check(&head(&frame[..length]), &frame[..length]);
            prop_assert!(whole.is_ok() || cut.is_err(), "{length} bytes of {frame:02x?}: {whole:?}");
        }
    }
    Ok(())
}

#[test]
fn no_cut_of_a_bad_frame_passes() {
    for (name, frame, _) in bad_frames() {
        no_cut_passes(&frame).unwrap_or_else(|error| panic!("{name}: {error}"));
        no_cut_passes(&tagged(&frame, &[SERVICE_TAG, TAG])).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_frames(kind in prop::sample::select(vec![0x0800u16, 0x0806, 0x8035, 0x86dd, 0x8100, 40]),
                     payload in prop::collection::vec(any::<u8>(), 0..120)) {
        no_cut_passes(&ethernet(OTHER, SENDER, kind, &payload))?;
    }

    #[test]
    fn damaged_frames(index in any::<prop::sample::Index>(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let frames = good_frames();
        let mut frame = index.get(&frames).1.clone();
        for (place, byte) in places {
            let place = 12 + place.index(frame.len() - 12);
            frame[place] = byte;
        }
        no_cut_passes(&frame)?;
    }
}
