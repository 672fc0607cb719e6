//! The bridge's rules, one by one.

use crate::*;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const C: PortId = PortId(300);

pub(crate) fn mac(number: u64) -> UnicastMac {
    UnicastMac::from_u64(0x5254_0000_0000 + number).unwrap()
}

pub(crate) fn head(src: impl Into<MacAddr>, dst: impl Into<MacAddr>) -> EthernetHead {
    EthernetHead { dst: dst.into(), src: src.into(), ethertype: 0x0800, vlan: None }
}

fn at(seconds: u64) -> Now {
    Now::from_millis(seconds * 1000)
}

fn bridge(ports: &[PortId]) -> Bridge {
    let bridge = Bridge::new(BridgeConfig::new(1));
    ports.iter().for_each(|port| bridge.add_port(*port).unwrap());
    bridge
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn unknown_floods_known_goes_to_its_port_and_never_back() {
    let bridge = bridge(&[A, B, C]);
    assert_eq!(bridge.decide(A, &head(mac(1), mac(2)), at(0)), Verdict::Flood);
    assert_eq!(bridge.decide(C, &head(mac(2), mac(1)), at(0)), Verdict::Unicast(A));
    assert_eq!(bridge.decide(A, &head(mac(1), mac(2)), at(0)), Verdict::Unicast(C));
    assert_eq!(bridge.decide(A, &head(mac(3), mac(1)), at(0)), dropped(DropReason::SamePort));
    assert_eq!(bridge.decide(A, &head(mac(1), mac(1)), at(0)), dropped(DropReason::SamePort));
    assert_eq!(bridge.decide(A, &head(mac(1), MacAddr([0; 6])), at(0)), Verdict::Flood);
}

#[test]
fn groups_flood_and_are_never_learned() {
    let bridge = bridge(&[A, B]);
    let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    assert_eq!(bridge.decide(A, &head(mac(1), MacAddr::BROADCAST), at(0)), Verdict::Flood);
    assert_eq!(bridge.decide(A, &head(mac(1), group), at(0)), Verdict::Flood);
    for source in [group, MacAddr::BROADCAST, MacAddr([0; 6])] {
        assert_eq!(bridge.decide(A, &head(source, mac(1)), at(0)), dropped(DropReason::InvalidSource));
    }
    assert_eq!(bridge.entry_count(), 1);
}

#[test]
fn link_local_groups_stay_on_their_link() {
    let bridge = bridge(&[A, B]);
    for last in 0..=0x10 {
        let expected = if matches!(last, 1..=15) { dropped(DropReason::LinkLocal) } else { Verdict::Flood };
        let dst = MacAddr([1, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(bridge.decide(A, &head(mac(1), dst), at(0)), expected, "{dst}");
    }
}

#[test]
fn alone_on_the_switch_there_is_no_receiver() {
    let bridge = bridge(&[A]);
    let broadcast = head(mac(1), MacAddr::BROADCAST);
    assert_eq!(bridge.decide(A, &broadcast, at(0)), dropped(DropReason::NoReceiver));
    assert_eq!(bridge.decide(A, &head(mac(1), mac(2)), at(0)), dropped(DropReason::NoReceiver));
    bridge.add_port(B).unwrap();
    assert_eq!(bridge.decide(A, &broadcast, at(0)), Verdict::Flood);
    bridge.remove_port(B).unwrap();
    assert_eq!(bridge.decide(A, &broadcast, at(0)), dropped(DropReason::NoReceiver));
}

#[test]
fn a_station_moves_with_its_first_frame() {
    let bridge = bridge(&[A, B, C]);
    let _ = bridge.decide(A, &head(mac(1), mac(9)), at(0));
    let _ = bridge.decide(B, &head(mac(1), mac(9)), at(1));
    assert_eq!(bridge.decide(C, &head(mac(2), mac(1)), at(1)), Verdict::Unicast(B));
    assert_eq!(bridge.port_entries(A), Some(PortEntries::default()));
    assert_eq!(bridge.port_entries(B).map(|entries| entries.learned), Some(1));
    bridge.check();
}

#[test]
fn entries_age_to_the_millisecond_unless_they_are_seen() {
    let bridge = bridge(&[A, B]);
    let (there, back) = (head(mac(1), mac(2)), head(mac(2), mac(1)));
    let _ = bridge.decide(A, &there, Now::from_millis(500));
    assert_eq!(bridge.decide(B, &back, Now::from_millis(300_499)), Verdict::Unicast(A));
    assert_eq!(bridge.decide(B, &back, Now::from_millis(300_500)), Verdict::Flood);
    let _ = bridge.decide(A, &there, Now::from_millis(300_600));
    assert_eq!(bridge.decide(B, &back, Now::from_millis(600_599)), Verdict::Unicast(A));
    assert_eq!(bridge.entries(Now::from_millis(600_599)).len(), 2);
    assert_eq!(bridge.entries(at(10_000)), []);
    let removed: u32 = (0..16).map(|_| bridge.age(at(10_000))).sum();
    assert_eq!((removed, bridge.entry_count()), (2, 0));
    bridge.check();
}

#[test]
fn without_ageing_time_nothing_is_learned() {
    let bridge = Bridge::new(BridgeConfig { ageing_ms: 0, ..BridgeConfig::new(1) });
    bridge.add_port(A).unwrap();
    bridge.add_port(B).unwrap();
    let _ = bridge.decide(A, &head(mac(1), mac(2)), at(0));
    assert_eq!(bridge.decide(B, &head(mac(2), mac(1)), at(0)), Verdict::Flood);
    assert_eq!(bridge.entry_count(), 0);
    bridge.add_static(mac(1), A, at(0)).unwrap();
    assert_eq!(bridge.decide(B, &head(mac(2), mac(1)), at(0)), Verdict::Unicast(A));
}

#[test]
fn a_port_that_left_has_no_entries_and_sends_nothing() {
    let bridge = bridge(&[A, B, C]);
    let _ = bridge.decide(A, &head(mac(1), mac(9)), at(0));
    bridge.add_static(mac(5), A, at(0)).unwrap();
    (10..1500).for_each(|n| assert_eq!(bridge.decide(A, &head(mac(n), mac(9)), at(0)), Verdict::Flood));
    bridge.remove_port(A).unwrap();
    assert_eq!(bridge.entry_count(), 0);
    assert_eq!(bridge.decide(A, &head(mac(1), mac(9)), at(0)), dropped(DropReason::IngressRemoved));
    assert_eq!(bridge.decide(B, &head(mac(2), mac(1)), at(0)), Verdict::Flood);
    assert_eq!(bridge.decide(B, &head(mac(2), mac(5)), at(0)), Verdict::Flood);
    assert_eq!(bridge.remove_port(A), Err(BridgeError::NoSuchPort));
    assert_eq!(bridge.add_port(B), Err(BridgeError::PortExists));
    assert_eq!(bridge.ports(), [B, C]);
    bridge.check();
}

#[test]
fn flags_are_honoured() {
    let bridge = bridge(&[A, B]);
    bridge.set_port_flags(A, PortFlags { learning: false, flood: true }).unwrap();
    let _ = bridge.decide(A, &head(mac(1), mac(9)), at(0));
    assert_eq!(bridge.entry_count(), 0);
    bridge.set_port_flags(B, PortFlags { learning: true, flood: false }).unwrap();
    let unknown = head(mac(1), mac(9));
    let broadcast = head(mac(1), MacAddr::BROADCAST);
    assert!(!bridge.flood_reaches(B, &unknown) && bridge.flood_reaches(B, &broadcast));
    assert!(!bridge.flood_reaches(C, &broadcast));
    assert_eq!(bridge.decide(A, &unknown, at(0)), dropped(DropReason::NoReceiver));
    assert_eq!(bridge.decide(A, &broadcast, at(0)), Verdict::Flood);
    assert_eq!(bridge.decide(B, &head(mac(2), mac(9)), at(0)), Verdict::Flood);
    assert_eq!(bridge.set_port_flags(C, PortFlags::default()), Err(BridgeError::NoSuchPort));
    assert_eq!(bridge.port_flags(B), Some(PortFlags { learning: true, flood: false }));
    assert_eq!(bridge.port_flags(C), None);
}

#[test]
fn static_entries_hold_their_address() {
    let bridge = bridge(&[A, B, C]);
    let _ = bridge.decide(B, &head(mac(1), mac(9)), at(0));
    bridge.add_static(mac(1), A, at(0)).unwrap();
    assert_eq!(bridge.decide(C, &head(mac(2), mac(1)), at(5000)), Verdict::Unicast(A));
    assert_eq!(bridge.decide(B, &head(mac(1), mac(2)), at(5000)), dropped(DropReason::SourceTaken));
    bridge.set_port_flags(B, PortFlags { learning: false, flood: true }).unwrap();
    assert_eq!(bridge.decide(B, &head(mac(1), mac(2)), at(5000)), dropped(DropReason::SourceTaken));
    assert_eq!(bridge.decide(A, &head(mac(1), mac(2)), at(5000)), Verdict::Unicast(C));
    assert_eq!(bridge.add_static(mac(1), B, at(0)), Err(BridgeError::AddressTaken(A)));
    assert_eq!(bridge.add_static(mac(1), A, at(0)), Ok(()));
    assert_eq!(bridge.add_static(mac(1), PortId(9), at(0)), Err(BridgeError::NoSuchPort));
    assert_eq!(bridge.flush(None), 1);
    let entry = bridge.entry(mac(1), at(9000)).unwrap();
    assert_eq!((entry.port, entry.kind, entry.age_ms), (A, EntryKind::Static, 0));
    assert!(bridge.remove(mac(1)) && !bridge.remove(mac(1)));
    bridge.check();
}

#[test]
fn bursts_decide_as_single_frames_do() {
    let (single, burst) = (bridge(&[A, B]), bridge(&[A, B]));
    let pairs = [(1, 2), (1, 2), (2, 1), (1, 2), (3, 3), (3, 3), (4, 1), (1, 4)];
    let heads = pairs.map(|(src, dst)| head(mac(src), mac(dst)));
    let mut verdicts = [Verdict::Flood; 8];
    burst.decide_burst(A, &heads, at(0), &mut verdicts);
    assert_eq!(verdicts, heads.map(|head| single.decide(A, &head, at(0))));
}

#[test]
fn a_flood_of_addresses_evicts_only_its_own() {
    const MAX: u32 = 1000;
    let bridge = Bridge::new(BridgeConfig { max_entries: MAX, ..BridgeConfig::new(3) });
    [A, B, C].into_iter().for_each(|port| bridge.add_port(port).unwrap());
    (0..100).for_each(|n| assert_eq!(bridge.decide(B, &head(mac(n), mac(9999)), at(0)), Verdict::Flood));
    (0..50).for_each(|n| assert_eq!(bridge.decide(C, &head(mac(500 + n), mac(9999)), at(0)), Verdict::Flood));
    for n in 0..20_000 {
        let _ = bridge.decide(A, &head(mac(10_000 + n), mac(1)), at(1 + n / 1000));
    }
    assert_eq!(bridge.entry_count(), MAX);
    assert_eq!(bridge.port_entries(B), Some(PortEntries { learned: 100, pinned: 0, evicted: 0 }));
    assert_eq!(bridge.port_entries(C), Some(PortEntries { learned: 50, pinned: 0, evicted: 0 }));
    assert_eq!(bridge.port_entries(A), Some(PortEntries { learned: 850, pinned: 0, evicted: 19_150 }));
    // The flood's newest addresses are the ones that stayed.
    assert!((19_150..20_000).all(|n| bridge.entry(mac(10_000 + n), at(21)).is_some()));
    // A latecomer gets its share from the flooder.
    for n in 0..200 {
        let _ = bridge.decide(C, &head(mac(700 + n), mac(1)), at(21));
    }
    assert_eq!(bridge.port_entries(A).map(|entries| entries.learned), Some(650));
    assert_eq!(bridge.port_entries(B).map(|entries| entries.evicted), Some(0));
    bridge.check();
}

#[test]
fn limits_of_the_configuration_hold() {
    let bridge = Bridge::new(BridgeConfig { ageing_ms: u32::MAX, max_entries: 0, seed: 0 });
    bridge.add_port(A).unwrap();
    bridge.add_port(PortId(u16::MAX)).unwrap();
    for n in 0..100 {
        let _ = bridge.decide(A, &head(mac(n), mac(1000)), at(0));
    }
    assert_eq!(bridge.entry_count(), 1);
    assert_eq!(bridge.decide(PortId(u16::MAX), &head(mac(99), mac(1)), at(0)), Verdict::Flood);
    assert_eq!(bridge.entry(mac(99), at(864_000)), None);
    assert_eq!(bridge.entry(mac(99), at(863_999)).map(|entry| entry.port), Some(PortId(u16::MAX)));
    bridge.check();
}
