//! The bridge's rules, one by one.

use crate::model::Sketch;
use crate::*;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const C: PortId = PortId(300);

pub(crate) fn mac(number: u64) -> UnicastMac {
    UnicastMac::from_u64(0x5254_0000_0000 + number).unwrap()
}

pub(crate) fn vlan(id: u16) -> Vlan {
    Vlan::new(id).unwrap()
}

fn at(seconds: u64) -> Now {
    Now::from_millis(seconds * 1000)
}

fn settings() -> PortSettings {
    PortSettings::default()
}

fn bridge(ports: &[PortId]) -> Bridge {
    let bridge = Bridge::new(BridgeConfig::new(1));
    ports.iter().for_each(|port| bridge.add_port(*port, settings()).unwrap());
    bridge
}

fn vlan_bridge(tagging: Tagging, ports: &[(PortId, PortVlans)]) -> Bridge {
    let bridge = Bridge::new(BridgeConfig { tagging: Some(tagging), ..BridgeConfig::new(1) });
    for (port, vlans) in ports {
        bridge.add_port(*port, PortSettings { vlans: vlans.clone(), ..settings() }).unwrap();
    }
    bridge
}

/// Decides for a frame that is given as bytes.
fn decide_bytes(bridge: &Bridge, in_port: PortId, bytes: &[u8], now: Now) -> Decision {
    let head = Head::parse(bytes).unwrap();
    bridge.view().decide(in_port, &head, now)
}

/// Decides for an untagged frame in a view of its own.
pub(crate) fn decide(
    bridge: &Bridge,
    in_port: PortId,
    src: impl Into<MacAddr>,
    dst: impl Into<MacAddr>,
    now: Now,
) -> Verdict {
    let frame = Sketch { src: src.into(), dst: dst.into(), vid: None };
    decide_bytes(bridge, in_port, &frame.bytes(), now).verdict
}

/// The ports that a frame floods to.
fn reached(bridge: &Bridge, in_port: PortId, bytes: &[u8], now: Now) -> Vec<PortId> {
    let (view, head) = (bridge.view(), Head::parse(bytes).unwrap());
    let decision = view.decide(in_port, &head, now);
    assert_eq!(decision.verdict, Verdict::Flood);
    let reach = view.reach(in_port, &head, &decision, now);
    bridge.ports().into_iter().filter(|port| reach.takes(*port)).collect()
}

fn add(bridge: &Bridge, number: u64, port: PortId, kind: EntryKind) -> Result<(), BridgeError> {
    bridge.add_entry(mac(number), None, port, kind, Origin::Operator, at(0))
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

fn unwrap_learned(bridge: &Bridge, port: PortId) -> u32 {
    bridge.port_status(port).unwrap().learned
}

#[test]
fn unknown_floods_known_goes_to_its_port_and_never_back() {
    let bridge = bridge(&[A, B, C]);
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(0)), Verdict::Flood);
    assert_eq!(decide(&bridge, C, mac(2), mac(1), at(0)), Verdict::Unicast(A));
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(0)), Verdict::Unicast(C));
    assert_eq!(decide(&bridge, A, mac(3), mac(1), at(0)), dropped(DropReason::SamePort));
    assert_eq!(decide(&bridge, A, mac(1), mac(1), at(0)), dropped(DropReason::SamePort));
    assert_eq!(decide(&bridge, A, mac(1), MacAddr([0; 6]), at(0)), Verdict::Flood);
}

#[test]
fn groups_flood_and_are_never_learned() {
    let bridge = bridge(&[A, B]);
    let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    assert_eq!(decide(&bridge, A, mac(1), MacAddr::BROADCAST, at(0)), Verdict::Flood);
    assert_eq!(decide(&bridge, A, mac(1), group, at(0)), Verdict::Flood);
    for source in [group, MacAddr::BROADCAST, MacAddr([0; 6])] {
        assert_eq!(decide(&bridge, A, source, mac(1), at(0)), dropped(DropReason::InvalidSource));
    }
    assert_eq!(bridge.entry_count(), 1);
}

#[test]
fn link_local_groups_stay_on_their_link_unless_the_port_forwards_them() {
    for mask in [PortSettings::LINK_LOCAL_DEFAULT, 0, 0xffff, 1 << 0xe] {
        let bridge = bridge(&[B]);
        bridge.add_port(A, PortSettings { link_local: mask, ..settings() }).unwrap();
        for last in 0..=0x10u8 {
            let forwarded = last == 0x10 || (last != 1 && mask & 1 << last != 0);
            let expected = if forwarded { Verdict::Flood } else { dropped(DropReason::LinkLocal) };
            let dst = MacAddr([1, 0x80, 0xc2, 0, 0, last]);
            assert_eq!(decide(&bridge, A, mac(1), dst, at(0)), expected, "{dst} {mask:x}");
        }
    }
}

#[test]
fn a_guard_shuts_its_port_until_it_is_reopened() {
    let bridge = bridge(&[B, C]);
    bridge.add_port(A, PortSettings { guard: true, ..settings() }).unwrap();
    let spanning_tree = Sketch { src: mac(1).into(), dst: MacAddr([1, 0x80, 0xc2, 0, 0, 0]), vid: None };
    let normal = Sketch { src: mac(1).into(), dst: mac(2).into(), vid: None };
    let _ = decide(&bridge, B, mac(2), mac(9), at(0));
    let bytes = [&normal, &normal, &spanning_tree, &normal].map(Sketch::bytes);
    let heads = bytes.each_ref().map(|bytes| Head::parse(bytes).unwrap());
    let mut out = [Decision::drop(DropReason::Runt); 4];
    bridge.view().decide_burst(A, &heads, at(0), &mut out);
    assert_eq!(
        out.map(|decision| decision.verdict),
        [Verdict::Unicast(B), Verdict::Unicast(B), dropped(DropReason::Guard), dropped(DropReason::PortShut)]
    );
    assert_eq!(bridge.port_status(A).unwrap().shut, Some(ShutReason::Guard));
    assert_eq!(decide(&bridge, B, mac(2), mac(1), at(0)), dropped(DropReason::PortShut));
    assert_eq!(reached(&bridge, B, &Sketch { dst: MacAddr::BROADCAST, ..normal }.bytes(), at(0)), [C]);
    bridge.set_port(A, settings()).unwrap();
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(0)), dropped(DropReason::PortShut));
    bridge.reopen(A).unwrap();
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(0)), Verdict::Unicast(B));
    assert_eq!(bridge.port_status(A).unwrap().shut, None);
    assert_eq!(decide(&bridge, A, mac(1), spanning_tree.dst, at(0)), Verdict::Flood);
    assert_eq!(bridge.reopen(PortId(7)), Err(BridgeError::NoSuchPort));
}

#[test]
fn alone_on_the_switch_there_is_no_receiver() {
    let bridge = bridge(&[A]);
    assert_eq!(decide(&bridge, A, mac(1), MacAddr::BROADCAST, at(0)), dropped(DropReason::NoReceiver));
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(0)), dropped(DropReason::NoReceiver));
    bridge.add_port(B, settings()).unwrap();
    assert_eq!(decide(&bridge, A, mac(1), MacAddr::BROADCAST, at(0)), Verdict::Flood);
    bridge.remove_port(B).unwrap();
    assert_eq!(decide(&bridge, A, mac(1), MacAddr::BROADCAST, at(0)), dropped(DropReason::NoReceiver));
}

#[test]
fn a_station_moves_with_its_first_frame() {
    let bridge = bridge(&[A, B, C]);
    let _ = decide(&bridge, A, mac(1), mac(9), at(0));
    let _ = decide(&bridge, B, mac(1), mac(9), at(1));
    assert_eq!(decide(&bridge, C, mac(2), mac(1), at(1)), Verdict::Unicast(B));
    assert_eq!(bridge.port_status(A), Some(PortStatus::default()));
    assert_eq!(unwrap_learned(&bridge, B), 1);
    bridge.check();
}

#[test]
fn entries_age_to_the_millisecond_unless_they_are_seen() {
    let bridge = bridge(&[A, B]);
    let _ = decide(&bridge, A, mac(1), mac(2), Now::from_millis(500));
    assert_eq!(decide(&bridge, B, mac(2), mac(1), Now::from_millis(300_499)), Verdict::Unicast(A));
    assert_eq!(decide(&bridge, B, mac(2), mac(1), Now::from_millis(300_500)), Verdict::Flood);
    let _ = decide(&bridge, A, mac(1), mac(2), Now::from_millis(300_600));
    assert_eq!(decide(&bridge, B, mac(2), mac(1), Now::from_millis(600_599)), Verdict::Unicast(A));
    assert_eq!(bridge.entries(Now::from_millis(600_599)).len(), 2);
    assert_eq!(bridge.entries(at(10_000)), []);
    let removed: u32 = (0..16).map(|_| bridge.age(at(10_000))).sum();
    assert_eq!((removed, bridge.entry_count()), (2, 0));
    bridge.check();
}

#[test]
fn the_ageing_time_changes_while_the_bridge_runs() {
    let bridge = bridge(&[A, B]);
    let _ = decide(&bridge, A, mac(1), mac(2), at(0));
    bridge.set_ageing(10_000);
    assert_eq!(decide(&bridge, B, mac(2), mac(1), at(11)), Verdict::Flood);
    bridge.set_ageing(20_000);
    assert_eq!(decide(&bridge, B, mac(2), mac(1), at(11)), Verdict::Unicast(A));
    assert_eq!(bridge.config().ageing_ms, 20_000);
    bridge.set_ageing(u32::MAX);
    assert_eq!(bridge.config().ageing_ms, BridgeConfig::AGEING_MS_MAX);
}

#[test]
fn without_ageing_time_nothing_is_learned() {
    let bridge = Bridge::new(BridgeConfig { ageing_ms: 0, ..BridgeConfig::new(1) });
    bridge.add_port(A, settings()).unwrap();
    bridge.add_port(B, settings()).unwrap();
    let _ = decide(&bridge, A, mac(1), mac(2), at(0));
    assert_eq!(decide(&bridge, B, mac(2), mac(1), at(0)), Verdict::Flood);
    assert_eq!(bridge.entry_count(), 0);
    add(&bridge, 1, A, EntryKind::Static).unwrap();
    assert_eq!(decide(&bridge, B, mac(2), mac(1), at(0)), Verdict::Unicast(A));
}

#[test]
fn a_port_that_left_has_no_entries_and_sends_nothing() {
    let bridge = bridge(&[A, B, C]);
    let _ = decide(&bridge, A, mac(1), mac(9), at(0));
    add(&bridge, 5, A, EntryKind::Static).unwrap();
    (10..1500).for_each(|n| assert_eq!(decide(&bridge, A, mac(n), mac(9), at(0)), Verdict::Flood));
    let old_view = bridge.view();
    bridge.remove_port(A).unwrap();
    assert_eq!(bridge.entry_count(), 0);
    assert_eq!(decide(&bridge, A, mac(1), mac(9), at(0)), dropped(DropReason::IngressRemoved));
    assert_eq!(decide(&bridge, B, mac(2), mac(1), at(0)), Verdict::Flood);
    assert_eq!(decide(&bridge, B, mac(2), mac(5), at(0)), Verdict::Flood);
    assert_eq!(bridge.remove_port(A), Err(BridgeError::NoSuchPort));
    assert_eq!(bridge.add_port(B, settings()), Err(BridgeError::PortExists));
    assert_eq!(bridge.set_port(A, settings()), Err(BridgeError::NoSuchPort));
    assert_eq!((bridge.port_settings(A), bridge.port_status(A)), (None, None));
    assert_eq!(bridge.ports(), [B, C]);
    // A worker that saw the port before it left leaves nothing behind.
    let bytes = Sketch { src: mac(77).into(), dst: mac(1).into(), vid: None }.bytes();
    let _ = old_view.decide(A, &Head::parse(&bytes).unwrap(), at(0));
    assert!(!bridge.holds(mac(77), None));
    bridge.check();
}

#[test]
fn flags_are_honoured() {
    let bridge = bridge(&[A, B]);
    bridge.set_port(A, PortSettings { learning: false, ..settings() }).unwrap();
    let _ = decide(&bridge, A, mac(1), mac(9), at(0));
    assert_eq!(bridge.entry_count(), 0);
    bridge.set_port(B, PortSettings { flood: false, ..settings() }).unwrap();
    assert_eq!(decide(&bridge, A, mac(1), mac(9), at(0)), dropped(DropReason::NoReceiver));
    assert_eq!(decide(&bridge, A, mac(1), MacAddr::BROADCAST, at(0)), Verdict::Flood);
    assert_eq!(decide(&bridge, B, mac(2), mac(9), at(0)), Verdict::Flood);
    bridge.set_port(B, PortSettings { enabled: false, ..settings() }).unwrap();
    assert_eq!(decide(&bridge, B, mac(2), mac(9), at(0)), dropped(DropReason::PortShut));
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(0)), dropped(DropReason::PortShut));
    assert!(!bridge.port_settings(B).unwrap().enabled);
}

#[test]
fn static_entries_hold_their_address() {
    let bridge = bridge(&[A, B, C]);
    let _ = decide(&bridge, B, mac(1), mac(9), at(0));
    add(&bridge, 1, A, EntryKind::Static).unwrap();
    assert_eq!(decide(&bridge, C, mac(2), mac(1), at(5000)), Verdict::Unicast(A));
    assert_eq!(decide(&bridge, B, mac(1), mac(2), at(5000)), dropped(DropReason::SourceTaken));
    bridge.set_port(B, PortSettings { learning: false, ..settings() }).unwrap();
    assert_eq!(decide(&bridge, B, mac(1), mac(2), at(5000)), dropped(DropReason::SourceTaken));
    assert_eq!(decide(&bridge, A, mac(1), mac(2), at(5000)), Verdict::Unicast(C));
    assert_eq!(add(&bridge, 1, B, EntryKind::Sticky), Err(BridgeError::AddressTaken(A)));
    assert_eq!(add(&bridge, 1, A, EntryKind::Static), Ok(()));
    assert_eq!(add(&bridge, 1, PortId(9), EntryKind::Static), Err(BridgeError::NoSuchPort));
    assert_eq!(add(&bridge, 1, A, EntryKind::Learned), Err(BridgeError::KindLearned));
    assert_eq!(bridge.flush(&Flush::default()), 1);
    let entry = bridge.entry(mac(1), None, at(9000)).unwrap();
    let expected = FdbEntry {
        mac: mac(1),
        vlan: None,
        port: A,
        age_ms: 0,
        kind: EntryKind::Static,
        origin: Origin::Operator,
    };
    assert_eq!(entry, expected);
    assert_eq!(bridge.remove_entry(mac(1), None), Some(expected));
    assert_eq!(bridge.remove_entry(mac(1), None), None);
    bridge.check();
}

#[test]
fn sticky_entries_stay_and_let_others_speak() {
    let bridge = bridge(&[A, B, C]);
    add(&bridge, 1, A, EntryKind::Sticky).unwrap();
    assert_eq!(decide(&bridge, B, mac(1), mac(9), at(9000)), Verdict::Flood);
    assert_eq!(decide(&bridge, C, mac(2), mac(1), at(9000)), Verdict::Unicast(A));
    assert_eq!(unwrap_learned(&bridge, B), 0);
}

#[test]
fn dynamic_entries_age_and_move() {
    let bridge = bridge(&[A, B, C]);
    add(&bridge, 1, A, EntryKind::Dynamic).unwrap();
    assert_eq!(decide(&bridge, C, mac(2), mac(1), at(299)), Verdict::Unicast(A));
    assert_eq!(decide(&bridge, C, mac(2), mac(1), at(300)), Verdict::Flood);
    let _ = decide(&bridge, B, mac(1), mac(9), at(300));
    let entry = bridge.entry(mac(1), None, at(300)).unwrap();
    assert_eq!((entry.port, entry.kind, entry.origin), (B, EntryKind::Learned, Origin::Frame));
    bridge.check();
}

#[test]
fn a_locked_port_lets_only_its_own_stations_in() {
    let bridge = bridge(&[A, B]);
    bridge.set_port(A, PortSettings { locked: true, link_local: 0xffff, ..settings() }).unwrap();
    add(&bridge, 1, A, EntryKind::Static).unwrap();
    add(&bridge, 2, A, EntryKind::Dynamic).unwrap();
    let _ = decide(&bridge, B, mac(3), mac(9), at(0));
    assert_eq!(decide(&bridge, A, mac(1), mac(3), at(0)), Verdict::Unicast(B));
    assert_eq!(decide(&bridge, A, mac(2), mac(3), at(0)), Verdict::Unicast(B));
    assert_eq!(decide(&bridge, A, mac(4), mac(3), at(0)), dropped(DropReason::Locked));
    // No roaming: the station stays where it is.
    assert_eq!(decide(&bridge, A, mac(3), mac(1), at(0)), dropped(DropReason::Locked));
    assert_eq!(bridge.entry(mac(3), None, at(0)).unwrap().port, B);
    // The entry that let it in has aged; a frame cannot bring it back.
    assert_eq!(decide(&bridge, A, mac(2), mac(9), at(400)), dropped(DropReason::Locked));
    // Link-local groups that are forwarded open nothing (seen on Linux 6.18 with group_fwd_mask).
    let lldp = MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]);
    assert_eq!(decide(&bridge, A, mac(1), lldp, at(400)), Verdict::Flood);
    for number in [2, 4] {
        assert_eq!(decide(&bridge, A, mac(number), lldp, at(400)), dropped(DropReason::Locked));
        assert_eq!(decide(&bridge, A, mac(number), mac(9), at(400)), dropped(DropReason::Locked));
    }
    bridge.check();
}

#[test]
fn a_port_at_its_mac_limit_learns_nothing_and_sends_nothing_new() {
    let bridge = bridge(&[A, B]);
    bridge.set_port(A, PortSettings { mac_limit: Some(2), ..settings() }).unwrap();
    add(&bridge, 50, A, EntryKind::Dynamic).unwrap();
    let _ = decide(&bridge, B, mac(9), mac(1), at(0));
    for number in [1, 2] {
        assert_eq!(decide(&bridge, A, mac(number), mac(9), at(0)), Verdict::Unicast(B));
    }
    for number in [3, 9] {
        assert_eq!(decide(&bridge, A, mac(number), mac(8), at(0)), dropped(DropReason::MacLimit));
    }
    assert_eq!(decide(&bridge, A, mac(1), mac(9), at(0)), Verdict::Unicast(B));
    assert_eq!(decide(&bridge, A, mac(50), mac(9), at(0)), Verdict::Unicast(B));
    assert_eq!(bridge.entry(mac(9), None, at(0)).unwrap().port, B);
    // A station that moves away makes room.
    let _ = decide(&bridge, B, mac(1), mac(9), at(0));
    assert_eq!(decide(&bridge, A, mac(3), mac(9), at(0)), Verdict::Unicast(B));
    bridge.check();
}

#[test]
fn vlans_are_switches_of_their_own() {
    let trunk = PortVlans::trunk([vlan(10), vlan(20)], None);
    let ports = [(A, PortVlans::access(vlan(10))), (B, trunk), (C, PortVlans::access(vlan(20)))];
    let bridge = vlan_bridge(Tagging::Customer, &ports);
    let frame = |src, dst, vid| Sketch { src: mac(src).into(), dst: mac(dst).into(), vid }.bytes();
    let run = |port, bytes: &[u8]| decide_bytes(&bridge, port, bytes, at(0));

    assert_eq!(reached(&bridge, A, &frame(1, 2, None), at(0)), [B]);
    assert_eq!(reached(&bridge, B, &frame(2, 9, Some(20)), at(0)), [C]);
    // Station 2 is known in VLAN 20 only.
    assert_eq!(run(A, &frame(1, 2, None)).verdict, Verdict::Flood);
    let decision = run(C, &frame(3, 2, None));
    assert_eq!((decision.verdict, decision.vlan), (Verdict::Unicast(B), Some(vlan(20))));
    assert_eq!(bridge.view().form(B, &decision), Form::Tagged);
    assert_eq!(bridge.view().form(C, &decision), Form::Untagged);

    for (port, vid) in [(A, Some(20)), (B, None), (B, Some(0)), (B, Some(4095)), (B, Some(30))] {
        assert_eq!(run(port, &frame(7, 8, vid)).verdict, dropped(DropReason::Vlan), "{port} {vid:?}");
    }
    // A priority tag, and the tag of the own VLAN, are as good as none.
    for vid in [Some(0), Some(10)] {
        assert_eq!(run(A, &frame(1, 2, vid)).vlan, Some(vlan(10)));
    }
    // A frame that ends within its tag.
    assert_eq!(run(A, &frame(1, 2, Some(10))[..16]).verdict, dropped(DropReason::Vlan));

    // An entry in a VLAN that its port has left is gone.
    bridge.set_port(B, PortSettings { vlans: PortVlans::access(vlan(10)), ..settings() }).unwrap();
    assert_eq!(bridge.entry(mac(2), Some(vlan(20)), at(0)), None);
    assert_eq!(run(C, &frame(3, 2, None)).verdict, dropped(DropReason::NoReceiver));
    let place = |vlan, port| bridge.add_entry(mac(5), vlan, port, EntryKind::Static, Origin::Operator, at(0));
    assert_eq!(place(None, A), Err(BridgeError::VlanNeeded));
    assert_eq!(place(Some(vlan(20)), B), Err(BridgeError::VlanNotOnPort(vlan(20))));
    assert_eq!(place(Some(vlan(10)), B), Ok(()));
    assert_eq!(bridge.set_port(B, PortSettings { vlans: PortVlans::access(vlan(20)), ..settings() }), Ok(()));
    assert_eq!(bridge.remove_entry(mac(5), Some(vlan(10))), None);
    bridge.check();
}

#[test]
fn a_tag_of_the_other_kind_is_payload() {
    let ports = [(A, PortVlans::access(vlan(10))), (B, PortVlans::trunk([vlan(10), vlan(20)], None))];
    let tagged = Sketch { src: mac(1).into(), dst: mac(2).into(), vid: Some(20) }.bytes();
    let service = vlan_bridge(Tagging::Service, &ports);
    assert_eq!(decide_bytes(&service, A, &tagged, at(0)).vlan, Some(vlan(10)));
    let mut service_tagged = tagged.clone();
    service_tagged[12..14].copy_from_slice(&0x88a8u16.to_be_bytes());
    assert_eq!(decide_bytes(&service, B, &service_tagged, at(0)).vlan, Some(vlan(20)));
    assert_eq!(decide_bytes(&service, B, &tagged, at(0)).verdict, dropped(DropReason::Vlan));
    let customer = vlan_bridge(Tagging::Customer, &ports);
    assert_eq!(decide_bytes(&customer, A, &service_tagged, at(0)).vlan, Some(vlan(10)));
    // A switch without VLANs passes all of them.
    let plain = bridge(&[A, B]);
    let decision = decide_bytes(&plain, A, &service_tagged, at(0));
    assert_eq!((decision.verdict, decision.vlan), (Verdict::Flood, None));
    assert_eq!(plain.view().form(B, &decision), Form::AsIs);
    let refused = plain.add_entry(mac(1), Some(vlan(1)), A, EntryKind::Static, Origin::Configuration, at(0));
    assert_eq!(refused, Err(BridgeError::VlanUnknown));
}

#[test]
fn a_flood_beyond_its_rate_is_dropped_and_nothing_else_is() {
    let bridge = bridge(&[A, B]);
    let rates = Rates { unknown_unicast: Some(100), broadcast: Some(50), multicast: Some(20) };
    bridge.set_port(A, PortSettings { rates, ..settings() }).unwrap();
    let _ = decide(&bridge, B, mac(2), mac(9), at(0));
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 9]);
    let cases = [
        (MacAddr::from(mac(9)), 10, DropReason::UnicastRate),
        (MacAddr::BROADCAST, 5, DropReason::BroadcastRate),
        (group, 2, DropReason::MulticastRate),
    ];
    for (dst, burst, reason) in cases {
        for _ in 0..burst {
            assert_eq!(decide(&bridge, A, mac(1), dst, at(10)), Verdict::Flood);
        }
        let bytes = Sketch { src: mac(1).into(), dst, vid: None }.bytes();
        let explained = bridge.view().explain(A, &bytes, at(10)).decision;
        assert_eq!(explained.verdict, dropped(reason));
        assert_eq!(decide(&bridge, A, mac(1), dst, at(10)), dropped(reason));
        assert_eq!(decide(&bridge, A, mac(1), dst, at(11)), Verdict::Flood);
        assert_eq!(decide(&bridge, B, mac(2), dst, at(10)), Verdict::Flood);
    }
    (0..1000).for_each(|_| assert_eq!(decide(&bridge, A, mac(1), mac(2), at(10)), Verdict::Unicast(B)));
}

#[test]
fn sources_that_are_not_allowed_are_refused_in_every_frame_of_a_burst() {
    let bridge = bridge(&[A, B]);
    let sources = AllowedSources { macs: vec![mac(1)], ..AllowedSources::default() };
    bridge.set_port(A, PortSettings { sources, ..settings() }).unwrap();
    let _ = decide(&bridge, B, mac(2), mac(9), at(0));
    let plain = Sketch { src: mac(1).into(), dst: mac(2).into(), vid: None }.bytes();
    // An ARP reply that claims another station's MAC address.
    let mut lie = [&plain[..12], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
    lie.extend([0x52, 0x54, 0, 0, 0, 7, 10, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 10, 0, 0, 2]);
    let other = Sketch { src: mac(3).into(), dst: mac(2).into(), vid: None }.bytes();
    let heads = [&plain, &lie, &plain, &other].map(|bytes| Head::parse(bytes).unwrap());
    let mut out = [Decision::drop(DropReason::Runt); 4];
    bridge.view().decide_burst(A, &heads, at(0), &mut out);
    assert_eq!(
        out.map(|decision| decision.verdict),
        [
            Verdict::Unicast(B),
            dropped(DropReason::SourceMac),
            Verdict::Unicast(B),
            dropped(DropReason::SourceMac)
        ]
    );
    assert!(!bridge.holds(mac(3), None));
}

/// An ARP request, broadcast.
fn arp_request(src: u64, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = [[0xff; 6], mac(src).octets()].concat();
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(mac(src).octets());
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}

#[test]
fn the_switch_answers_for_stations_whose_port_suppresses_questions() {
    let bridge = bridge(&[A, B]);
    let neighbours = vec![("10.0.0.5".parse().unwrap(), mac(5))];
    let suppressing = PortSettings { neighbour_suppression: true, neighbours, ..settings() };
    bridge.add_port(C, suppressing.clone()).unwrap();
    let question = arp_request(1, [10, 0, 0, 1], [10, 0, 0, 5]);
    let (view, head) = (bridge.view(), Head::parse(&question).unwrap());
    let decision = view.decide(A, &head, at(0));
    assert_eq!(decision.verdict, Verdict::Answer);
    let mut out = [0; ANSWER_MAX];
    let size = view.answer(&head, &decision, &mut out).unwrap();
    let answer = EthernetHead::parse(&out[..size]).unwrap();
    assert_eq!((answer.src, answer.dst), (mac(5).into(), mac(1).into()));
    let explanation = view.explain(A, &question, at(0));
    assert_eq!((explanation.decision, explanation.outputs), (decision, vec![(A, Form::AsIs)]));

    // From the port itself, for another address, and where the port cannot be reached: on its way.
    assert_eq!(decide_bytes(&bridge, C, &question, at(0)).verdict, Verdict::Flood);
    let other = arp_request(1, [10, 0, 0, 1], [10, 0, 0, 6]);
    assert_eq!(reached(&bridge, A, &other, at(0)), [B, C]);
    bridge.set_port(C, PortSettings { isolated: true, ..suppressing.clone() }).unwrap();
    assert_eq!(decide_bytes(&bridge, A, &question, at(0)).verdict, Verdict::Answer);
    bridge.set_port(A, PortSettings { isolated: true, ..settings() }).unwrap();
    assert_eq!(reached(&bridge, A, &question, at(0)), [B]);
    bridge.set_port(C, PortSettings { neighbour_suppression: false, ..suppressing }).unwrap();
    bridge.set_port(A, settings()).unwrap();
    assert_eq!(reached(&bridge, A, &question, at(0)), [B, C]);
}

/// An IGMPv2 message in a frame that its receivers believe.
fn igmp(src: u64, sender: [u8; 4], to: [u8; 4], kind: u8, group: [u8; 4]) -> Vec<u8> {
    let sum = |bytes: &[u8]| {
        let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        !((sum & 0xffff) + (sum >> 16)) as u16
    };
    let mut packet = vec![0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0];
    packet.extend([sender, to].concat());
    packet.extend([0x94, 4, 0, 0]);
    let header_sum = sum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&header_sum);
    let mut message = [&[kind, 100, 0, 0], &group[..]].concat();
    let message_sum = sum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&message_sum);
    let mut bytes = vec![1, 0, 0x5e, to[1] & 0x7f, to[2], to[3]];
    bytes.extend(mac(src).octets());
    bytes.extend([8, 0]);
    [bytes, packet, message].concat()
}

#[test]
fn with_snooping_groups_go_where_their_listeners_are() {
    const D: PortId = PortId(4);
    let bridge = Bridge::new(BridgeConfig { snooping: true, ..BridgeConfig::new(1) });
    [A, B, C, D].iter().for_each(|port| bridge.add_port(*port, settings()).unwrap());
    let group = [239, 1, 2, 3];
    let data =
        |src: u64| Sketch { src: mac(src).into(), dst: MacAddr([1, 0, 0x5e, 1, 2, 3]), vid: None }.bytes();
    assert_eq!(reached(&bridge, B, &data(2), at(0)), [A, D, C]);
    let query = igmp(1, [10, 0, 0, 1], [224, 0, 0, 1], 0x11, [0; 4]);
    assert_eq!(reached(&bridge, A, &query, at(0)), [B, D, C]);
    let report = igmp(3, [10, 0, 0, 3], group, 0x16, group);
    assert_eq!(reached(&bridge, C, &report, at(1)), [A]);
    // Once hosts have had time to answer, only the listener and the router get the group.
    assert_eq!(reached(&bridge, B, &data(2), at(20)), [A, C]);
    assert_eq!(reached(&bridge, C, &data(3), at(20)), [A]);
    assert_eq!(bridge.groups(at(20)).len(), 1);
    assert_eq!((bridge.routers(at(20)).len(), bridge.queriers(at(20)).len()), (1, 1));
    // A listener takes its group even if it takes no other.
    bridge.set_port(C, PortSettings { multicast_flood: false, ..settings() }).unwrap();
    assert_eq!(reached(&bridge, B, &data(2), at(20)), [A, C]);
    let explanation = bridge.view().explain(B, &data(2), at(20));
    assert_eq!(explanation.outputs, [(A, Form::AsIs), (C, Form::AsIs)]);
    assert_eq!(explanation.refused.len(), 2);
    bridge.remove_port(A).unwrap();
    // Nobody asks any more: groups go to all that take them.
    assert_eq!(reached(&bridge, C, &data(3), at(20)), [B, D]);
    // A port that may not be a router is not made one by a query, and nobody hears it: the real querier would fall silent.
    bridge.set_port(B, PortSettings { multicast_router: false, ..settings() }).unwrap();
    assert_eq!(decide_bytes(&bridge, B, &query, at(21)).verdict, dropped(DropReason::MulticastRouter));
    assert!(bridge.routers(at(21)).is_empty());
}

#[test]
fn mac_control_stays_on_its_link_whatever_its_address() {
    let bridge = bridge(&[A, B]);
    let mut pause = Sketch { src: mac(1).into(), dst: mac(2).into(), vid: None }.bytes();
    pause[12..14].copy_from_slice(&[0x88, 0x08]);
    assert_eq!(decide_bytes(&bridge, A, &pause, at(0)).verdict, dropped(DropReason::LinkLocal));
    assert_eq!(unwrap_learned(&bridge, A), 0);
}

#[test]
fn a_second_tag_of_the_same_kind_is_no_way_into_another_vlan() {
    let trunk = PortVlans::trunk([vlan(5)], Some(vlan(1)));
    let bridge = vlan_bridge(Tagging::Customer, &[(A, PortVlans::access(vlan(1))), (B, trunk)]);
    let twice = |outer: u8, kind: [u8; 2]| {
        let plain = Sketch { src: mac(1).into(), dst: MacAddr::BROADCAST, vid: None }.bytes();
        [&plain[..12], &[0x81, 0, 0, outer], &kind, &[0, 5], &plain[12..]].concat()
    };
    for outer in [0, 1] {
        let verdict = decide_bytes(&bridge, A, &twice(outer, [0x81, 0]), at(0)).verdict;
        assert_eq!(verdict, dropped(DropReason::Vlan), "outer tag {outer}");
        assert_eq!(reached(&bridge, A, &twice(outer, [0x88, 0xa8]), at(0)), [B], "the other kind is payload");
    }
}

#[test]
fn a_frame_that_will_be_segmented_counts_as_many() {
    let bridge = bridge(&[A, B]);
    let rates = Rates { broadcast: Some(1000), ..Rates::default() };
    bridge.set_port(A, PortSettings { rates, ..settings() }).unwrap();
    let bytes = Sketch { src: mac(1).into(), dst: MacAddr::BROADCAST, vid: None }.bytes();
    let passes = |units: u32, millis: u64| {
        let head = Head { units, ..Head::parse(&bytes).unwrap() };
        let now = Now::from_millis(50_000 + millis);
        bridge.view().decide(A, &head, now).verdict == Verdict::Flood
    };
    assert!(passes(1000, 0));
    assert!(!passes(1, 500), "it is paid for by a second of silence");
    assert!(passes(1, 1000));
}

#[test]
fn a_flood_of_addresses_evicts_only_its_own() {
    const MAX: u32 = 1000;
    let bridge = Bridge::new(BridgeConfig { max_entries: MAX, ..BridgeConfig::new(3) });
    [A, B, C].into_iter().for_each(|port| bridge.add_port(port, settings()).unwrap());
    (0..100).for_each(|n| assert_eq!(decide(&bridge, B, mac(n), mac(9999), at(0)), Verdict::Flood));
    (0..50).for_each(|n| assert_eq!(decide(&bridge, C, mac(500 + n), mac(9999), at(0)), Verdict::Flood));
    for n in 0..20_000 {
        let _ = decide(&bridge, A, mac(10_000 + n), mac(1), at(1 + n / 1000));
    }
    let status = |port| bridge.port_status(port).map(|status| (status.learned, status.evicted));
    assert_eq!(bridge.entry_count(), MAX);
    assert_eq!(status(B), Some((100, 0)));
    assert_eq!(status(C), Some((50, 0)));
    assert_eq!(status(A), Some((850, 19_150)));
    // The flood's newest addresses are the ones that stayed.
    assert!((19_150..20_000).all(|n| bridge.entry(mac(10_000 + n), None, at(21)).is_some()));
    // A latecomer gets its share from the flooder.
    for n in 0..200 {
        let _ = decide(&bridge, C, mac(700 + n), mac(1), at(21));
    }
    assert_eq!(status(A).map(|status| status.0), Some(650));
    assert_eq!(status(B).map(|status| status.1), Some(0));
    bridge.check();
}

#[test]
fn limits_of_the_configuration_hold() {
    let bridge = Bridge::new(BridgeConfig { ageing_ms: u32::MAX, max_entries: 0, ..BridgeConfig::new(0) });
    bridge.add_port(A, settings()).unwrap();
    bridge.add_port(PortId(u16::MAX), settings()).unwrap();
    for n in 0..100 {
        let _ = decide(&bridge, A, mac(n), mac(1000), at(0));
    }
    assert_eq!(bridge.entry_count(), 1);
    assert_eq!(decide(&bridge, PortId(u16::MAX), mac(99), mac(1), at(0)), Verdict::Flood);
    assert_eq!(bridge.entry(mac(99), None, at(864_000)), None);
    assert_eq!(bridge.entry(mac(99), None, at(863_999)).map(|entry| entry.port), Some(PortId(u16::MAX)));
    bridge.check();
}

#[test]
fn decisions_are_small() {
    assert!(size_of::<Decision>() <= 8);
}
