//! The plane changes while guests talk: ports and switches come, go and change, and what the switch does for each port.

mod station;

use devices::net::Features;
use ringway::api::{Plane as _, Refusal};
use station::{BROADCAST, Lab, MAC_A, MAC_B, MAC_C, Station, connect, exchange, frame, plain};
use std::time::{Duration, Instant};

const POOL: &str = "mode = \"pool\"\nthreads = 2";
const PER_DEVICE: &str = "mode = \"per-device\"";

/// Ports of profile `open`.
fn open(names: &[&str]) -> String {
    names.iter().map(|name| Lab::port(name, "")).collect()
}

/// A port of profile `guest`.
fn guest(name: &str, mac: [u8; 6], more: &str) -> String {
    let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
    Lab::port(name, &format!("mac = \"{mac}\"\n{more}")).replace("profile = \"open\"\n", "")
}

fn drops(lab: &Lab, port: &str, reason: &str) -> u64 {
    lab.view(port).counters.drops.get(reason).copied().unwrap_or(0)
}

#[test]
fn ports_come_and_go_while_others_talk() {
    for workers in [POOL, PER_DEVICE] {
        let lab = Lab::with(workers, &open(&["a", "b"]));
        let mut a = Station::connect(&lab.socket("a"), plain());
        let mut b = Station::connect(&lab.socket("b"), plain());
        exchange(&mut a, &mut b, 50);
        let before = lab.plane.status();

        let change = lab.apply(workers, &open(&["a", "c", "b"])).unwrap();
        assert_eq!((change.added, change.untouched), (vec!["port.c".into()], 3));
        let mut c = Station::connect(&lab.socket("c"), plain());
        exchange(&mut a, &mut b, 50);
        c.send(&frame(BROADCAST, MAC_C, b"hello", 60));
        assert_eq!(a.receive_from(MAC_C), b.receive_from(MAC_C));
        let names: Vec<String> = lab.plane.ports().into_iter().map(|port| port.name).collect();
        assert_eq!(names, ["a", "c", "b"], "in the order of the configuration");

        let change = lab.apply(workers, &open(&["a", "b"])).unwrap();
        assert_eq!(change.removed, ["port.c"]);
        assert!(!lab.socket("c").exists());
        assert!(lab.plane.port("c").is_none() && lab.fdb().iter().all(|entry| entry.port != "c"));
        exchange(&mut a, &mut b, 50);
        let after = lab.plane.status();
        assert_eq!((after.workers.len(), after.ports_total), (before.workers.len(), 2));
        assert_eq!(lab.view("a").counters.from_guest.frames, 150, "the counters went on");
    }
}

#[test]
fn settings_change_under_traffic_and_the_connection_stays() {
    let lab = Lab::with(POOL, &open(&["a", "b", "c"]));
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut c = Station::connect(&lab.socket("c"), plain());
    exchange(&mut a, &mut b, 20);
    let isolated = [Lab::port("a", "isolated = true"), Lab::port("b", "isolated = true"), Lab::port("c", "")];
    let change = lab.apply(POOL, &isolated.concat()).unwrap();
    assert_eq!((change.changed, change.replaced), (vec!["port.a".into(), "port.b".into()], vec![]));
    while c.poll().is_some() {}
    a.send(&frame(MAC_B, MAC_A, b"no", 60));
    a.send(&frame(BROADCAST, MAC_A, b"mark", 60));
    assert_eq!(c.receive_from(MAC_A), frame(BROADCAST, MAC_A, b"mark", 60));
    assert!(b.poll().is_none());
    assert_eq!(drops(&lab, "a", "isolated"), 1);
    lab.apply(POOL, &open(&["a", "b", "c"])).unwrap();
    exchange(&mut a, &mut b, 20);
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let lab = Lab::with(POOL, &open(&["a", "b"]));
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 10);
    let before = lab.plane.config();
    let bad = "[port.x]\nswitch = \"lan\"\nvhost-user = { socket = \"DIR/missing/x.sock\" }\n";
    let ports = [&Lab::port("a", "isolated = true"), &open(&["c"])[..], bad].concat();
    let refusal = lab.apply(POOL, &ports).unwrap_err();
    assert!(matches!(&refusal, Refusal::Failed(why) if why.contains("port.x")), "{refusal}");
    assert_eq!(lab.plane.config(), before);
    assert!(!lab.socket("c").exists(), "what was made before the failure is gone");
    assert!(!lab.view("a").settings.isolated);
    exchange(&mut a, &mut b, 10);
    // The second attempt, without the mistake, has no trace of the first.
    lab.apply(POOL, &open(&["a", "b", "c"])).unwrap();
    connect(&lab.socket("c"));
}

#[test]
fn a_replaced_port_keeps_its_socket_and_its_name() {
    let lab = Lab::with(POOL, &open(&["a", "b"]));
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 10);
    let change = lab.apply(POOL, &[Lab::port("a", ""), Lab::port("b", "mtu = 9000")].concat()).unwrap();
    assert_eq!(change.replaced, ["port.b"]);
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 10);
    assert_eq!((lab.view("b").mtu, lab.view("a").counters.from_guest.frames), (Some(9000), 20));
}

#[test]
fn switches_come_and_go_and_a_switch_that_learns_vlans_is_made_anew() {
    let lab = Lab::with(POOL, &open(&["a", "b"]));
    let other = "[switch.dmz]\n[port.d]\nswitch = \"dmz\"\nvhost-user = { socket = \"DIR/d.sock\" }\n";
    let change = lab.apply(POOL, &[&open(&["a", "b"]), other].concat()).unwrap();
    assert_eq!(change.added, ["switch.dmz", "port.d"]);
    let change = lab.apply(POOL, &open(&["a", "b"])).unwrap();
    assert_eq!(change.removed, ["switch.dmz", "port.d"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 10);
    let change = lab.apply(POOL, &["ageing = \"1m\"\n", &open(&["a", "b"])].concat()).unwrap();
    assert_eq!((change.changed, change.replaced), (vec!["switch.lan".into()], vec![]));
    assert_eq!(lab.plane.switches()[0].ageing_ms, 60_000);
    exchange(&mut a, &mut b, 10);
    let change = lab.apply(POOL, &["vlan = \"802.1q\"\n", &open(&["a", "b"])].concat()).unwrap();
    assert_eq!(change.replaced, ["switch.lan", "port.a", "port.b"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 10);
}

/// The frame with a VLAN tag behind its addresses.
fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tci.to_be_bytes(), &frame[12..]].concat()
}

#[test]
fn access_ports_and_trunks_exchange_frames_with_the_right_tags() {
    let ports = [
        Lab::port("a", "vlan = { access = 10 }"),
        Lab::port("b", "vlan = { access = 20 }"),
        Lab::port("c", "vlan = { access = 10 }"),
        Lab::port("t", "vlan = { trunk = [10, \"20-29\"] }"),
    ];
    let lab = Lab::with(POOL, &["vlan = \"802.1q\"\n", &ports.concat()].concat());
    let [mut a, mut b, mut c, mut t] =
        ["a", "b", "c", "t"].map(|name| Station::connect(&lab.socket(name), plain()));
    let mac_t = [2, 0, 0, 0, 0, 0x1f];

    let hello = frame(BROADCAST, MAC_A, b"hello", 100);
    a.send(&hello);
    assert_eq!(c.receive().1, hello);
    assert_eq!(t.receive().1, tagged(&hello, 10));
    // Priority is kept, and the same address may be in two VLANs behind different ports.
    let answer = frame(MAC_A, mac_t, b"answer", 1500);
    t.send(&tagged(&answer, 0x600a));
    assert_eq!(a.receive().1, answer);
    let twin = frame(BROADCAST, MAC_A, b"twin", 100);
    b.send(&twin);
    assert_eq!(t.receive().1, tagged(&twin, 20));
    let both: Vec<_> = lab.fdb().into_iter().filter(|entry| entry.mac == "02:00:00:00:00:0a").collect();
    assert_eq!(
        both.iter().map(|entry| (entry.vlan, &*entry.port)).collect::<Vec<_>>(),
        [(Some(10), "a"), (Some(20), "b")]
    );
    // What is not in a VLAN of the port does not come in.
    t.send(&answer);
    t.send(&tagged(&answer, 30));
    c.send(&tagged(&answer, 20));
    t.send(&tagged(&frame(BROADCAST, mac_t, b"mark", 100), 10));
    assert_eq!(a.receive().1, frame(BROADCAST, mac_t, b"mark", 100));
    assert_eq!((drops(&lab, "t", "vlan"), drops(&lab, "c", "vlan")), (2, 1));
    assert!(b.poll().is_none());
}

#[test]
fn a_guest_takes_another_address_only_if_the_operator_lets_it() {
    let ports = [guest("a", MAC_A, "mac-change = [\"02:00:00:00:00:0c\"]"), guest("b", MAC_B, "")].concat();
    let lab = Lab::with(POOL, &ports);
    let wanted = plain() | Features::CTRL_VQ | Features::CTRL_RX | Features::CTRL_MAC_ADDR;
    let mut a = Station::connect(&lab.socket("a"), wanted);
    let mut b = Station::connect(&lab.socket("b"), wanted);
    // Without MQ its place does not depend on the pairs that the port has (virtio 1.3 §5.1.2).
    let mut control = a.start_control(2);
    exchange(&mut a, &mut b, 10);

    assert_eq!(control.command(&a, &[&[1, 1][..], &[2, 0, 0, 0, 0, 0xd]].concat()), 1, "refused");
    assert!(lab.view("a").receive_filter.unwrap().refused.unwrap().contains("mac-change"));
    assert_eq!(control.command(&a, &[&[1, 1][..], &MAC_B].concat()), 1, "another port's address");
    exchange(&mut a, &mut b, 10);

    assert_eq!(control.command(&a, &[&[1, 1][..], &MAC_C].concat()), 0);
    let entries: Vec<_> = lab.fdb().into_iter().map(|entry| (entry.mac, entry.port, entry.why)).collect();
    assert!(
        entries.contains(&("02:00:00:00:00:0c".into(), "a".into(), "the guest says so".into())),
        "{entries:?}"
    );
    assert!(!entries.iter().any(|(mac, ..)| mac == "02:00:00:00:00:0a"), "{entries:?}");
    a.send(&frame(MAC_B, MAC_A, b"old", 60));
    a.send(&frame(MAC_B, MAC_C, b"new", 60));
    assert_eq!(b.receive().1, frame(MAC_B, MAC_C, b"new", 60));
    assert_eq!(drops(&lab, "a", "locked"), 1);
    b.send(&frame(MAC_C, MAC_B, b"to new", 60));
    assert_eq!(a.receive().1, frame(MAC_C, MAC_B, b"to new", 60));

    // The next guest begins with the configuration's address.
    drop(a);
    lab.until("a", |view| view.addresses.iter().map(|entry| &*entry.mac).eq(["02:00:00:00:00:0a"]));
}

#[test]
fn profile_guest_is_guarded_and_bounded() {
    let lab = Lab::with(POOL, &[guest("a", MAC_A, ""), guest("b", MAC_B, ""), Lab::port("c", "")].concat());
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| Station::connect(&lab.socket(name), plain()));
    exchange(&mut a, &mut b, 5);
    for i in 0..100 {
        a.send(&frame(MAC_B, [2, 1, 0, 0, 0, i], b"spoof", 60));
    }
    a.send(&frame(BROADCAST, MAC_A, b"mark", 60));
    assert_eq!(c.receive().1, frame(BROADCAST, MAC_A, b"mark", 60));
    assert_eq!((drops(&lab, "a", "locked"), lab.view("a").fdb_learned), (100, 0));
    // Unknown stations are sought among open ports only.
    a.send(&frame([2, 9, 9, 9, 9, 9], MAC_A, b"who", 60));
    assert_eq!(c.receive().1, frame([2, 9, 9, 9, 9, 9], MAC_A, b"who", 60));
    assert_eq!(b.receive().1, frame(BROADCAST, MAC_A, b"mark", 60), "the only one");
    assert!(b.poll().is_none());
    // However slow the machine: what comes faster than the limit is dropped, and not before.
    while drops(&lab, "a", "broadcast-rate") < 100 {
        for _ in 0..500 {
            a.send(&frame(BROADCAST, MAC_A, b"storm", 60));
            while c.poll().is_some() {}
        }
    }

    a.send(&frame([1, 0x80, 0xc2, 0, 0, 0], MAC_A, b"bpdu", 60));
    a.send(&frame(MAC_B, MAC_A, b"shut", 60));
    lab.until("a", |view| view.counters.drops.contains_key("port-shut"));
    assert_eq!((lab.view("a").shut.as_deref(), drops(&lab, "a", "guard")), (Some("guard"), 1));
    lab.plane.reopen("a").unwrap();
    // What is left of the storm has waited for b, and comes first.
    let storm = frame(BROADCAST, MAC_A, b"storm", 60);
    assert_eq!(b.receive().1, storm);
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(100) {
        if b.poll().is_some() {
            last = Instant::now();
        }
    }
    let open = frame(MAC_B, MAC_A, b"open", 60);
    a.send(&open);
    while b.receive().1 != open {}
    exchange(&mut a, &mut b, 5);
}

#[test]
fn the_switch_answers_for_a_port_that_suppresses_questions() {
    let more = "addresses = [\"10.0.0.2\"]\nneighbour-suppression = true";
    let lab = Lab::with(POOL, &[Lab::port("a", ""), guest("b", MAC_B, more), Lab::port("c", "")].concat());
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| Station::connect(&lab.socket(name), plain()));
    let question = |target: u8| {
        let mut arp =
            [&BROADCAST[..], &MAC_A, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC_A, &[10, 0, 0, 1]].concat();
        arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, target]);
        arp.resize(60, 0);
        arp
    };
    a.send(&question(2));
    let (_, answer) = a.receive();
    assert_eq!((&answer[..6], &answer[6..12], &answer[20..22]), (&MAC_A[..], &MAC_B[..], &[0u8, 2][..]));
    assert_eq!((&answer[22..28], &answer[28..32]), (&MAC_B[..], &[10, 0, 0, 2][..]));
    a.send(&question(3));
    assert_eq!(c.receive().1, question(3), "what is not known is asked of all");
    assert_eq!(b.receive().1, question(3));
    assert!(b.poll().is_none() && c.poll().is_none());
    // The guest itself may not claim another address.
    let mut claim = question(9);
    claim[6..12].copy_from_slice(&MAC_B);
    claim[22..28].copy_from_slice(&MAC_B);
    b.send(&claim);
    lab.until("b", |view| view.counters.drops.get("source-address") == Some(&1));
}
