//! Who gets a group: the rules one by one, bounds, and a slow, obvious model beside the real table.

mod model;

use super::*;
use crate::packet::frames::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

const GROUP: &str = "239.1.2.3";
/// Another group with the same MAC address.
const ALIAS: &str = "239.129.2.3";
const HOST: &str = "192.0.2.10";
const HOST_V6: &str = "fe80::10";
const TRUST: Trust = Trust { fast_leave: false, groups_max: 512, may_route: true, may_be_wide: true };
const FAST: Trust = Trust { fast_leave: true, ..TRUST };
const PORTS: std::ops::Range<u16> = 0..6;

/// The MAC address of a group.
fn mac(group: &str) -> MacAddr {
    group_mac(group.parse().unwrap())
}

fn join(group: &str) -> Vec<u8> {
    if group.contains(':') {
        mld_frame("::", "ff02::16", mld2(&[(4, group, 0)]))
    } else {
        igmp_frame(HOST, group, igmp(0x16, 0, group))
    }
}

fn leave(group: &str) -> Vec<u8> {
    igmp_frame(HOST, "224.0.0.2", igmp(0x17, 0, group))
}

fn query(source: &str) -> Vec<u8> {
    if source.contains(':') {
        mld_frame(source, "ff02::1", mld(130, 10_000, "::"))
    } else {
        igmp_frame(source, "224.0.0.1", igmp(0x11, 100, "0.0.0.0"))
    }
}

fn pim() -> Vec<u8> {
    let packet = ipv4(HOST, "224.0.0.13", 103, &summed(vec![0x20, 0, 0, 0]));
    ethernet(mac("224.0.0.13"), SENDER, 0x0800, &packet)
}

/// Groups and a clock.
struct Bench {
    groups: Groups,
    now: Now,
    vlan: Option<Vlan>,
}

/// The ports that get a frame; `None`: all.
type Who = Option<Vec<u16>>;

fn who(membership: Membership<'_>) -> Who {
    match membership {
        Membership::Flood => None,
        Membership::Listeners(listeners) => {
            let taking: Vec<u16> = (0..100).filter(|port| listeners.takes(PortId(*port))).collect();
            let mut listed: Vec<u16> = listeners.iter().map(|port| port.0).collect();
            listed.sort_unstable();
            assert_eq!(listed, taking, "each port once");
            assert_eq!((listeners.len(), listeners.is_empty()), (taking.len(), taking.is_empty()));
            Some(taking)
        }
    }
}

impl Bench {
    fn new() -> Self {
        Self { groups: Groups::new(1), now: Now::from_millis(1_000_000), vlan: None }
    }

    /// With a querier without an address at port 5, whom all hosts have had time to answer.
    fn asked() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.sees(5, &query("0.0.0.0")), Observed::Query);
        bench.pass(10_000);
        bench
    }

    fn sees(&self, port: u16, frame: &[u8]) -> Observed {
        self.sees_as(port, frame, TRUST)
    }

    fn sees_as(&self, port: u16, frame: &[u8], trust: Trust) -> Observed {
        self.sees_while(port, frame, trust, || Some(trust))
    }

    /// The port is what `current` says while the frame is observed by a worker that knows it as `trust` says.
    fn sees_while(
        &self,
        port: u16,
        frame: &[u8],
        trust: Trust,
        current: impl Fn() -> Option<Trust>,
    ) -> Observed {
        let head = Head::parse(&frame[..frame.len().min(256)]).unwrap();
        self.groups.observe(self.arrival(port), &head, trust, current)
    }

    fn arrival(&self, port: u16) -> Arrival {
        Arrival { port: PortId(port), vlan: self.vlan, tags: 0, now: self.now }
    }

    fn pass(&mut self, millis: u64) {
        self.now = Now::from_millis(self.now.as_millis() + millis);
    }

    fn who(&self, group: &str) -> Who {
        who(self.groups.snapshot().listeners(self.vlan, mac(group), self.now))
    }

    fn reported_to(&self, group: &str) -> Who {
        who(self.groups.snapshot().routers(self.vlan, mac(group), self.now, |_| true))
    }

    /// How often `act` made a new version.
    fn versions(&mut self, mut act: impl FnMut(&mut Self, usize), times: usize) -> usize {
        let mut before = Arc::clone(&self.groups.snapshot());
        let mut versions = 0;
        for turn in 0..times {
            act(self, turn);
            let after = Arc::clone(&self.groups.snapshot());
            versions += usize::from(!Arc::ptr_eq(&before, &after));
            before = after;
        }
        versions
    }
}

#[test]
fn groups_flood_until_hosts_were_asked_and_had_time_to_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.sees(1, &join(GROUP)), Observed::Report);
    assert_eq!(bench.who(GROUP), None);
    bench.sees(2, &query("0.0.0.0"));
    bench.pass(9_999);
    assert_eq!(bench.who(GROUP), None);
    bench.pass(1);
    assert_eq!((bench.who(GROUP), bench.who("239.9.9.9")), (Some(vec![1]), Some(vec![])));
    // The querier falls silent.
    bench.pass(QUERIER_MS - 10_000 - 1);
    assert_eq!(bench.who(GROUP), Some(vec![1]));
    bench.pass(1);
    assert_eq!(bench.who(GROUP), None);
}

#[test]
fn a_querier_that_is_heard_again_needs_no_new_start_and_a_hasty_one_makes_it_earlier() {
    let mut bench = Bench::asked();
    bench.pass(200_000);
    bench.sees(5, &query("0.0.0.0"));
    assert_eq!(bench.who(GROUP), Some(vec![]));
    bench.pass(200_000);
    assert_eq!(bench.who(GROUP), Some(vec![]));
    let mut bench = Bench::new();
    bench.sees(5, &igmp_frame(HOST, "224.0.0.1", igmp(0x11, 250, "0.0.0.0")));
    bench.sees(4, &query(HOST));
    bench.pass(10_000);
    assert_eq!(bench.who(GROUP), Some(vec![4, 5]));
}

#[test]
fn a_query_for_one_group_makes_no_querier() {
    let mut bench = Bench::new();
    bench.sees(5, &igmp_frame(HOST, GROUP, igmp(0x11, 10, GROUP)));
    bench.pass(20_000);
    assert_eq!(bench.who("239.9.9.9"), None);
}

#[test]
fn some_groups_are_for_everyone() {
    let bench = Bench::asked();
    for group in ["224.0.0.1", "224.0.0.251", "239.0.0.9", "224.128.0.9"] {
        bench.sees(1, &join(group));
        assert_eq!(bench.who(group), None, "{group}");
    }
    assert_eq!(bench.groups.entries(bench.now), []);
    let table = bench.groups.snapshot();
    for other in
        [[1, 0, 0x5e, 0x80, 0, 1], [1, 0, 0xc, 0xcc, 0xcc, 0xcc], [0x33, 0x33, 0, 0, 0, 1], [0xff; 6]]
    {
        assert!(matches!(table.listeners(None, MacAddr(other), bench.now), Membership::Flood), "{other:x?}");
    }
}

#[test]
fn routers_get_groups_and_reports_queriers_get_reports() {
    let bench = Bench::asked();
    bench.sees(1, &join(GROUP));
    assert_eq!((bench.who(GROUP), bench.reported_to(GROUP)), (Some(vec![1]), Some(vec![5])));
    bench.sees(3, &query(HOST));
    assert_eq!((bench.who(GROUP), bench.reported_to("224.0.0.22")), (Some(vec![1, 3]), Some(vec![3, 5])));
    assert_eq!(bench.sees(4, &pim()), Observed::Other);
    bench.sees(1, &pim());
    assert_eq!((bench.who(GROUP), bench.who("239.9.9.9")), (Some(vec![1, 3, 4]), Some(vec![1, 3, 4])));
    assert_eq!(bench.reported_to(GROUP), Some(vec![1, 3, 4, 5]));
    let routers: Vec<_> = bench.groups.routers(bench.now).iter().map(|router| router.port.0).collect();
    assert_eq!(routers, [1, 3, 4]);
    assert_eq!(Bench::new().reported_to(GROUP), None, "nobody evaluates them: to all");
}

#[test]
fn families_and_vlans_are_apart() {
    let mut bench = Bench::asked();
    let group = "ff15::1:2";
    bench.sees(1, &join(group));
    assert_eq!(bench.who(group), None, "nobody asks for groups of IPv6");
    bench.sees(4, &query(HOST_V6));
    bench.pass(10_000);
    assert_eq!((bench.who(group), bench.who(GROUP)), (Some(vec![1, 4]), Some(vec![])));
    bench.vlan = Vlan::new(7);
    assert_eq!((bench.who(group), bench.reported_to(GROUP)), (None, None));
    bench.sees(2, &query(HOST));
    bench.sees(3, &join(GROUP));
    bench.pass(10_000);
    assert_eq!(bench.who(GROUP), Some(vec![2, 3]));
    let entries = bench.groups.entries(bench.now);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.vlan, entry.group, entry.ports.clone())).collect();
    assert_eq!(seen, [(None, mac(group), vec![PortId(1)]), (Vlan::new(7), mac(GROUP), vec![PortId(3)])]);
    assert_eq!(entries[1].expires_ms, MEMBERSHIP_MS - 10_000);
    let queriers = bench.groups.queriers(bench.now);
    let seen: Vec<_> =
        queriers.iter().map(|entry| (entry.vlan, entry.address.to_string(), entry.port.0)).collect();
    let expected = [(None, "0.0.0.0".into(), 5), (None, HOST_V6.into(), 4), (Vlan::new(7), HOST.into(), 2)];
    assert_eq!(seen, expected);
}

#[test]
fn the_querier_shown_is_the_elected_one() {
    let bench = Bench::asked();
    let elected = || {
        let entry = bench.groups.queriers(bench.now)[0];
        (entry.address.to_string(), entry.port.0)
    };
    bench.sees(1, &query("192.0.2.20"));
    assert_eq!(elected(), ("192.0.2.20".into(), 1), "an address beats none");
    bench.sees(2, &query("192.0.2.30"));
    bench.sees(5, &query("0.0.0.0"));
    assert_eq!(elected(), ("192.0.2.20".into(), 1));
    bench.sees(3, &query("192.0.2.3"));
    assert_eq!(elected(), ("192.0.2.3".into(), 3));
}

#[test]
fn a_leave_ends_after_the_last_members_time_or_at_once() {
    let mut bench = Bench::asked();
    for port in [1, 2, 3] {
        bench.sees(port, &join(GROUP));
    }
    assert_eq!(bench.sees_as(1, &leave(GROUP), FAST), Observed::Leave);
    assert_eq!(bench.who(GROUP), Some(vec![2, 3]));
    bench.sees(2, &leave(GROUP));
    bench.sees(3, &igmp_frame(HOST, "224.0.0.22", igmp3(&[(3, GROUP, 0)])));
    bench.pass(LAST_MEMBER_MS - 1);
    assert_eq!(bench.who(GROUP), Some(vec![2, 3]));
    // Another host behind port 2 answers the querier.
    bench.sees(2, &join(GROUP));
    bench.pass(1);
    assert_eq!(bench.who(GROUP), Some(vec![2]));
    bench.pass(100_000);
    assert_eq!(bench.who(GROUP), Some(vec![2]));
    bench.sees(4, &leave(GROUP));
    bench.sees_as(2, &leave("239.9.9.9"), FAST);
    assert_eq!(bench.who(GROUP), Some(vec![2]), "only a listener can leave");
}

#[test]
fn a_leave_is_not_believed_where_another_group_has_the_same_address() {
    let mut bench = Bench::asked();
    bench.sees(1, &join(GROUP));
    bench.sees_as(1, &leave(ALIAS), FAST);
    assert_eq!(bench.who(ALIAS), Some(vec![1]), "it left what it never joined");
    bench.sees(1, &join(ALIAS));
    bench.sees_as(1, &leave(GROUP), FAST);
    bench.sees_as(1, &leave(ALIAS), FAST);
    assert_eq!(bench.who(GROUP), Some(vec![1]));
    bench.pass(200_000);
    bench.sees(5, &query("0.0.0.0"));
    bench.pass(MEMBERSHIP_MS - 200_000);
    assert_eq!(bench.who(GROUP), Some(vec![]));
}

#[test]
fn what_ended_is_taken_out_and_may_come_back() {
    let mut bench = Bench::asked();
    bench.sees(1, &join(GROUP));
    bench.sees(2, &join(GROUP));
    bench.sees(3, &query(HOST));
    bench.sees_as(1, &leave(GROUP), FAST);
    assert_eq!(bench.versions(|bench, _| bench.groups.age(bench.now), 3), 1);
    assert_eq!(bench.groups.entries(bench.now)[0].ports, [PortId(2)]);
    bench.sees(1, &join(GROUP));
    assert_eq!(bench.who(GROUP), Some(vec![1, 2, 3]));
    bench.pass(MEMBERSHIP_MS);
    bench.groups.age(bench.now);
    assert_eq!((bench.groups.entries(bench.now), bench.groups.routers(bench.now)), (vec![], vec![]));
    assert_eq!(bench.groups.counts.of(PortId(1)), 0);
    assert_eq!(bench.versions(|bench, _| bench.groups.age(bench.now), 3), 0, "nothing is left to end");
}

#[test]
fn repetition_makes_no_new_version() {
    let mut bench = Bench::asked();
    bench.sees(1, &join(GROUP));
    bench.sees(3, &query(HOST));
    bench.sees(4, &pim());
    let repeats = |bench: &mut Bench, turn: usize| {
        let frames = [join(GROUP), join(ALIAS), leave(GROUP), join(GROUP), query(HOST), pim()];
        let port = [1, 1, 1, 1, 3, 4][turn % 6];
        bench.sees_as(port, &frames[turn % 6], FAST);
        bench.pass(turn as u64 % 1500);
    };
    assert_eq!(bench.versions(repeats, 600), 0);
    assert_eq!(bench.who(GROUP), Some(vec![1, 3, 4]));
}

#[test]
fn a_guest_that_joins_and_leaves_without_end_makes_as_many_versions_as_it_may_have_groups() {
    let mut bench = Bench::asked();
    let trust = Trust { groups_max: 20, ..FAST };
    let churn = |bench: &mut Bench, turn: usize| {
        let group = format!("239.2.{}.{}", turn / 2 / 250, turn / 2 % 250);
        let frame = if turn.is_multiple_of(2) { join(&group) } else { leave(&group) };
        bench.sees_as(1, &frame, trust);
    };
    assert_eq!(bench.versions(churn, 2000), 20);
    bench.groups.age(bench.now);
    assert_eq!(bench.groups.entries(bench.now), []);
    assert_eq!(bench.versions(churn, 2000), 20);
}

#[test]
fn a_port_over_its_own_limit_gets_no_more_and_the_others_lose_nothing() {
    let bench = Bench::asked();
    let trust = Trust { groups_max: 3, ..TRUST };
    for group in 1..9 {
        bench.sees_as(1, &join(&format!("239.3.0.{group}")), trust);
    }
    assert_eq!(bench.groups.entries(bench.now).len(), 3);
    assert_eq!(bench.who("239.3.0.8"), Some(vec![]));
    bench.sees_as(1, &join("239.3.0.2"), trust);
    bench.sees(2, &join("239.3.0.8"));
    assert_eq!((bench.who("239.3.0.2"), bench.who("239.3.0.8")), (Some(vec![1]), Some(vec![2])));
}

#[test]
fn when_the_table_is_full_a_port_gets_everything_rather_than_nothing() {
    let mut bench = Bench::asked();
    for group in 0..GROUPS_MAX {
        let port = 10 + (group / 500) as u16;
        bench.sees(port, &join(&format!("239.4.{}.{}", group / 250, group % 250)));
    }
    assert_eq!(bench.groups.entries(bench.now).len(), GROUPS_MAX);
    bench.sees(1, &join(GROUP));
    assert_eq!((bench.who(GROUP), bench.who("239.9.9.9")), (Some(vec![1]), Some(vec![1])));
    bench.sees(1, &join("239.4.0.1"));
    assert_eq!(bench.who("239.4.0.1"), Some(vec![1, 10]), "a group that is there has room");
    assert_eq!(bench.groups.entries(bench.now).len(), GROUPS_MAX);
    assert_eq!(bench.reported_to(GROUP), Some(vec![5]), "it is no router");
    let shards = bench.versions(|bench, _| assert_eq!(bench.sees(1, &join(GROUP)), Observed::Report), 50);
    assert_eq!(shards, 0);
    bench.pass(MEMBERSHIP_MS);
    bench.sees(5, &query("0.0.0.0"));
    bench.groups.age(bench.now);
    bench.pass(10_000);
    assert_eq!((bench.who(GROUP), bench.groups.entries(bench.now)), (Some(vec![]), vec![]));
}

/// A report of sixty groups, more than the first bytes of a frame hold.
fn long_report() -> Vec<u8> {
    let groups: Vec<String> = (0..60).map(|group| format!("239.5.0.{group}")).collect();
    let records: Vec<_> = groups.iter().map(|group| (4, group.as_str(), 0)).collect();
    igmp_frame(HOST, "224.0.0.22", igmp3(&records))
}

#[test]
fn a_report_longer_than_what_is_seen_gets_everything_where_that_is_allowed() {
    let bench = Bench::asked();
    bench.sees(1, &long_report());
    let trust = Trust { may_be_wide: false, groups_max: 5, ..TRUST };
    bench.sees_as(2, &long_report(), trust);
    assert_eq!((bench.who("239.5.0.1"), bench.who("239.5.0.59")), (Some(vec![1, 2]), Some(vec![1])));
    let has = |entry: &&GroupEntry| entry.ports.contains(&PortId(2));
    assert_eq!(bench.groups.entries(bench.now).iter().filter(has).count(), 5);
    assert_eq!(bench.reported_to(GROUP), Some(vec![5]));
}

/// A report that hides from its checksum behind a length of 0, or one that the frame has not, seats nobody.
#[test]
fn a_report_with_a_wrong_length_changes_nothing() {
    let bench = Bench::asked();
    let report = igmp_frame(HOST, "224.0.0.22", igmp3(&[(4, GROUP, 0)]));
    bench.sees(4, &query(HOST_V6));
    let report_v6 = mld_frame("::", "ff02::16", mld2(&[(4, "ff15::1:2", 0)]));
    for (mut frame, place) in [(report, 16), (report_v6, 18)] {
        for length in [[0, 0], [0, 200], [1, 200], [0xff, 0xff]] {
            frame[place..place + 2].copy_from_slice(&length);
            assert_eq!(bench.sees(1, &frame), Observed::NotControl, "{length:?}");
        }
    }
    // Nor does the length 0 in a frame that was cut.
    let mut long = long_report();
    long[16..18].fill(0);
    assert_eq!(bench.sees(1, &long), Observed::NotControl);
    assert_eq!((bench.who(GROUP), bench.groups.entries(bench.now)), (Some(vec![]), vec![]));
}

#[test]
fn one_report_makes_one_version() {
    let mut bench = Bench::asked();
    let groups: Vec<String> = (1..20).map(|group| format!("239.6.0.{group}")).collect();
    let mut records: Vec<_> = groups.iter().map(|group| (4, group.as_str(), 0)).collect();
    // Joined and left again in one breath.
    records.push((3, "239.6.0.1", 0));
    let frame = igmp_frame(HOST, "224.0.0.22", igmp3(&records));
    assert_eq!(bench.versions(|bench, _| assert_eq!(bench.sees_as(1, &frame, FAST), Observed::Report), 5), 1);
    assert_eq!(bench.groups.entries(bench.now).len(), 18);
}

#[test]
fn a_query_makes_reports_hold_longer_never_shorter() {
    let v3 = |interval, response| {
        let mut message = igmp(0x11, response, "0.0.0.0");
        message.extend([2, interval, 0, 0]);
        igmp_frame(HOST, "224.0.0.1", message)
    };
    let held = |frames: &[Vec<u8>]| {
        let bench = Bench::new();
        frames.iter().for_each(|frame| assert_eq!(bench.sees(5, frame), Observed::Query));
        bench.sees(1, &join(GROUP));
        bench.groups.entries(bench.now)[0].expires_ms
    };
    // An interval of 384 s, twice, and 10 s to answer.
    let seldom = v3(0x98, 100);
    assert_eq!(held(&[v3(1, 1)]), MEMBERSHIP_MS);
    assert_eq!(held(std::slice::from_ref(&seldom)), 2 * 384_000 + 10_000);
    assert_eq!(held(&[seldom, v3(1, 1)]), 2 * 384_000 + 10_000, "while the other is known");
    assert_eq!(held(&[v3(0xff, 0xff)]), BELIEF_MAX_MS);
}

#[test]
fn a_port_that_may_not_route_changes_nothing_by_asking() {
    let mut bench = Bench::new();
    let trust = Trust { may_route: false, ..TRUST };
    assert_eq!(bench.sees_as(1, &query(HOST), trust), Observed::Query);
    assert_eq!(bench.sees_as(1, &pim(), trust), Observed::Other);
    bench.sees_as(1, &join(GROUP), trust);
    bench.pass(10_000);
    assert_eq!((bench.who(GROUP), bench.reported_to(GROUP)), (None, None));
    bench.sees(5, &query("0.0.0.0"));
    bench.pass(10_000);
    assert_eq!(bench.who(GROUP), Some(vec![1]), "but it listens");
}

#[test]
fn a_forgotten_port_is_forgotten() {
    let bench = Bench::asked();
    for port in [1, 2] {
        bench.sees(port, &join(GROUP));
        bench.sees(port, &query(HOST));
    }
    bench.sees(2, &query("192.0.2.1"));
    bench.groups.forget_port(PortId(1));
    assert_eq!((bench.who(GROUP), bench.reported_to(GROUP)), (Some(vec![2]), Some(vec![2, 5])));
    assert_eq!(bench.groups.counts.of(PortId(1)), 0);
    bench.sees(1, &join(GROUP));
    assert_eq!(bench.who(GROUP), Some(vec![1, 2]));
}

/// The elected querier's port goes, and nobody asks any more: groups are for everyone until somebody does.
#[test]
fn with_the_elected_querier_goes_what_only_it_kept_complete() {
    let mut bench = Bench::asked();
    bench.sees(1, &join(GROUP));
    bench.sees(4, &query("192.0.2.40"));
    bench.sees(3, &query("192.0.2.30"));
    bench.groups.forget_port(PortId(4));
    assert_eq!(bench.who(GROUP), Some(vec![1, 3]), "the elected one is at another port");
    bench.groups.forget_port(PortId(3));
    assert_eq!((bench.who(GROUP), bench.groups.queriers(bench.now)), (None, vec![]));
    bench.sees(5, &query("0.0.0.0"));
    bench.pass(9_999);
    assert_eq!(bench.who(GROUP), None, "hosts are asked anew");
    bench.pass(1);
    assert_eq!(bench.who(GROUP), Some(vec![1]));
    // The elected one falls silent, another one is heard later: that one counts.
    bench.sees(2, &query("192.0.2.2"));
    bench.pass(200_000);
    bench.sees(5, &query("0.0.0.0"));
    bench.pass(QUERIER_MS - 200_000);
    bench.sees(5, &query("0.0.0.0"));
    bench.groups.forget_port(PortId(2));
    assert_eq!(bench.who(GROUP), Some(vec![]));
    assert_eq!(bench.groups.queriers(bench.now)[0].port, PortId(5));
}

#[test]
fn a_port_that_may_not_route_any_more_loses_its_seats_and_keeps_its_groups() {
    let bench = Bench::asked();
    bench.sees(1, &query(HOST));
    bench.sees(1, &join(GROUP));
    bench.sees(1, &long_report());
    bench.sees(2, &pim());
    let (hosts, narrow) =
        (Trust { may_route: false, may_be_wide: false, ..TRUST }, Trust { may_be_wide: false, ..TRUST });
    bench.groups.withdraw(PortId(1), TRUST);
    assert_eq!(bench.groups.routers(bench.now).len(), 2, "all is allowed");
    bench.groups.withdraw(PortId(1), narrow);
    assert_eq!((bench.who("239.9.9.9"), bench.reported_to(GROUP)), (Some(vec![1, 2]), Some(vec![1, 2, 5])));
    bench.sees(1, &long_report());
    bench.groups.withdraw(PortId(2), hosts);
    assert_eq!((bench.who("239.9.9.9"), bench.reported_to(GROUP)), (Some(vec![1]), Some(vec![1, 5])));
    bench.groups.withdraw(PortId(5), hosts);
    assert_eq!(bench.reported_to(GROUP), Some(vec![1]), "port 5 was a querier, not the elected one");
    assert_eq!(bench.who("239.9.9.9"), Some(vec![1]));
    bench.groups.withdraw(PortId(1), hosts);
    assert_eq!((bench.reported_to(GROUP), bench.who(GROUP)), (None, None));
    assert_eq!((bench.groups.routers(bench.now), bench.groups.queriers(bench.now)), (vec![], vec![]));
    let groups = bench.groups.entries(bench.now);
    assert!(groups.iter().any(|entry| entry.group == mac(GROUP) && entry.ports == [PortId(1)]));
}

#[test]
fn a_port_that_leaves_a_vlan_is_forgotten_there_only() {
    let mut bench = Bench::new();
    let vlans = [7, 8].map(|vid| Vlan::new(vid).unwrap());
    for vlan in vlans {
        bench.vlan = Some(vlan);
        bench.sees(1, &query(HOST));
        bench.sees(1, &join(GROUP));
        bench.sees(2, &join(GROUP));
    }
    bench.pass(10_000);
    bench.groups.forget_vlans(PortId(1), &PortVlans::access(vlans[1]));
    let entries = bench.groups.entries(bench.now);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.vlan, entry.ports.clone())).collect();
    assert_eq!(seen, [(Some(vlans[0]), vec![PortId(2)]), (Some(vlans[1]), vec![PortId(1), PortId(2)])]);
    assert_eq!((bench.who(GROUP), bench.reported_to(GROUP)), (Some(vec![1, 2]), Some(vec![1])));
    bench.vlan = Some(vlans[0]);
    assert_eq!((bench.who(GROUP), bench.reported_to(GROUP)), (None, None));
    let asking: Vec<_> = bench.groups.queriers(bench.now).iter().map(|entry| entry.vlan).collect();
    assert_eq!(asking, [Some(vlans[1])]);
    assert_eq!(bench.groups.counts.of(PortId(1)), 1);
}

#[test]
fn nothing_is_entered_for_a_port_that_changed_since_the_burst_began() {
    let bench = Bench::asked();
    let nobody = || None;
    let frames = [join(GROUP), join("ff15::1:2"), query(HOST), query(HOST_V6), pim(), long_report()];
    for frame in &frames {
        bench.sees_while(1, frame, TRUST, nobody);
    }
    assert_eq!((bench.who(GROUP), bench.reported_to(GROUP)), (Some(vec![]), Some(vec![5])));
    assert_eq!((bench.groups.entries(bench.now), bench.groups.routers(bench.now)), (vec![], vec![]));
    assert_eq!(bench.groups.queriers(bench.now).len(), 1);
    let now = Trust { groups_max: 1, may_route: false, may_be_wide: false, ..TRUST };
    for frame in &frames {
        bench.sees_while(1, frame, TRUST, || Some(now));
    }
    assert_eq!((bench.groups.entries(bench.now).len(), bench.groups.routers(bench.now).len()), (1, 0));
    assert_eq!((bench.who(GROUP), bench.who("239.9.9.9")), (Some(vec![1]), Some(vec![])));
}

/// A worker goes on observing frames of a port while that is forgotten: nothing of it is left in the end.
#[test]
fn a_forgotten_port_stays_forgotten_under_a_race() {
    let now = Now::from_millis(1_000_000);
    let frames = [join(GROUP), query(HOST), pim(), long_report()];
    let heads: Vec<_> =
        frames.iter().map(|frame| Head::parse(&frame[..frame.len().min(256)]).unwrap()).collect();
    for _ in 0..if cfg!(miri) { 3 } else { 2_000 } {
        let (groups, is_there) = (Groups::new(7), AtomicBool::new(true));
        let start = Barrier::new(2);
        let arrival = Arrival { port: PortId(1), vlan: None, tags: 0, now };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for head in heads.iter().chain(&heads) {
                    groups.observe(arrival, head, TRUST, || is_there.load(Acquire).then_some(TRUST));
                }
            });
            start.wait();
            is_there.store(false, Release);
            groups.forget_port(PortId(1));
        });
        assert_eq!(
            (groups.entries(now), groups.routers(now), groups.queriers(now)),
            (vec![], vec![], vec![])
        );
        assert_eq!(who(groups.snapshot().routers(None, mac(GROUP), now, |_| true)), None);
        assert_eq!(groups.counts.of(PortId(1)), 0);
    }
}

#[test]
fn reports_flood_if_nobody_who_evaluates_them_can_receive() {
    let bench = Bench::asked();
    bench.sees(3, &query(HOST));
    let table = bench.groups.snapshot();
    let to = |open: &[u16]| {
        let can_receive = |port: PortId| open.contains(&port.0);
        who(table.routers(None, mac("224.0.0.22"), bench.now, can_receive))
    };
    assert_eq!((to(&[1, 2]), to(&[1, 5]), to(&[3])), (None, Some(vec![3, 5]), Some(vec![3, 5])));
}

/// What is refused is refused without the mutex: a guest that reports without end holds up nobody.
#[test]
fn a_port_at_a_limit_does_not_wait_for_the_writer() {
    let bench = Bench::asked();
    let trust = Trust { groups_max: 2, ..TRUST };
    for group in ["239.3.0.1", "239.3.0.2"] {
        bench.sees_as(1, &join(group), trust);
    }
    for group in 0..GROUPS_MAX - 2 {
        bench.sees(10 + (group / 500) as u16, &join(&format!("239.4.{}.{}", group / 250, group % 250)));
    }
    bench.sees(2, &join(GROUP));
    assert_eq!(bench.who(GROUP), Some(vec![2]), "the table is full");
    let _writer = bench.groups.writer.lock();
    let never = || panic!("asked although nothing may be entered");
    let report = |groups: &[&str]| {
        let records: Vec<_> = groups.iter().map(|group| (4, *group, 0)).collect();
        igmp_frame(HOST, "224.0.0.22", igmp3(&records))
    };
    bench.sees_while(1, &report(&["239.3.0.1", "239.3.0.3", "239.3.0.4", "239.4.0.1"]), trust, never);
    bench.sees_while(2, &report(&["239.3.0.3", "239.3.0.4"]), TRUST, never);
}

/// Joins race with the taking out of the same port's ended memberships: a join that returned holds.
#[test]
fn no_join_gets_lost_to_ageing() {
    let groups = Groups::new(7);
    let clock = AtomicU64::new(1_000_000);
    let frame = join(GROUP);
    let head = Head::parse(&frame).unwrap();
    let rounds = if cfg!(miri) { 20 } else { 20_000 };
    std::thread::scope(|scope| {
        let ager = scope.spawn(|| {
            while clock.load(Acquire) != u64::MAX {
                groups.age(Now::from_millis(clock.load(Acquire)));
            }
        });
        for _ in 0..rounds {
            // All that was known before is over at this moment.
            let now = clock.load(Acquire) + 2 * MEMBERSHIP_MS;
            clock.store(now, Release);
            let now = Now::from_millis(now);
            groups
                .observe(Arrival { port: PortId(1), vlan: None, tags: 0, now }, &head, TRUST, || Some(TRUST));
            assert_eq!(groups.entries(now).len(), 1);
        }
        clock.store(u64::MAX, Release);
        ager.join().unwrap();
    });
    assert_eq!(groups.counts.of(PortId(1)), 1);
}
