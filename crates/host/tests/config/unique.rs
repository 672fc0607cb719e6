//! What one port has and no second one may have.

use super::{mistakes, parse};
use ringway::config::resolved::Config;

/// Two ports on two switches: `a` on lan (line 6 is its first), `b` on `switch` (line 10).
fn two(switch: &str, a: &str, b: &str) -> String {
    format!(
        "[switch.lan]\n[switch.dmz]\n[port.a]\nswitch = 'lan'\ntap.name = 'a'\n{a}\n\
         [port.b]\nswitch = '{switch}'\ntap.name = 'b'\n{b}\n"
    )
}

#[test]
fn what_is_behind_one_port_is_behind_no_other() {
    const OWN: &str = "mac = '52:54:00:00:00:01'";
    const MORE: &str = "macs = ['52:54:00:00:00:01']";
    const FDB: &str = "fdb = [{ mac = '52:54:00:00:00:01' }]";
    const STICKY: &str = "fdb = [{ mac = '52:54:00:00:00:01', kind = 'sticky' }]";
    const DYNAMIC: &str = "fdb = [{ mac = '52:54:00:00:00:01', kind = 'dynamic' }]";
    let clash = |switch: &str, a: &str, b: &str| -> Vec<String> {
        let found = parse(&two(switch, a, b)).err().map(|error| error.mistakes).unwrap_or_default();
        found.iter().map(|mistake| format!("{} {}: {}", mistake.line, mistake.field, mistake.what)).collect()
    };
    for (a, field) in [(OWN, "mac"), (MORE, "macs[0]"), (FDB, "fdb[0].mac"), (STICKY, "fdb[0].mac")] {
        for (b, place) in [(OWN, "mac"), (MORE, "macs[0]"), (FDB, "fdb[0].mac"), (STICKY, "fdb[0].mac")] {
            let expected =
                format!("10 port.b.{place}: 52:54:00:00:00:01 is used already by port.a.{field} at line 6");
            assert_eq!(clash("lan", a, b), [expected], "{a} {b}");
        }
    }
    assert_eq!(clash("dmz", OWN, OWN).len(), 1, "a port's mac names a guest, on any switch");
    for (a, b) in [(OWN, MORE), (MORE, MORE), (FDB, MORE), (FDB, FDB)] {
        assert_eq!(clash("dmz", a, b), [""; 0], "{a} {b}");
    }
    for other in [OWN, MORE, FDB, DYNAMIC] {
        assert_eq!(clash("lan", DYNAMIC, other), [""; 0], "a dynamic entry moves");
    }
    let both = format!("{OWN}\n{FDB}");
    assert_eq!(clash("lan", &both, ""), [""; 0], "an entry for the port's own address");
}

#[test]
fn an_address_may_be_behind_two_ports_in_different_vlans() {
    let text = |a: &str, b: &str| {
        format!(
            "[switch.lan]\nvlan = '802.1q'\n[port.a]\nswitch = 'lan'\ntap.name = 'a'\n{a}\n\
             [port.b]\nswitch = 'lan'\ntap.name = 'b'\n{b}\n"
        )
    };
    let more = "macs = ['52:54:00:00:00:01']\n";
    let fdb = "fdb = [{ mac = '52:54:00:00:00:01', vlan = 10 }]\n";
    let fine = [
        (format!("{more}vlan.access = 10"), format!("{more}vlan.access = 11")),
        (format!("{more}vlan.trunk = ['1-20']"), format!("{more}vlan.trunk = ['21-40']")),
        (format!("{fdb}vlan.trunk = [10, 11]"), format!("{more}vlan.access = 11")),
    ];
    for (a, b) in fine {
        assert!(parse(&text(&a, &b)).is_ok(), "{a}\n{b}");
    }
    let wrong = [
        (format!("{more}vlan.access = 10"), format!("{more}vlan.trunk = ['9-11']")),
        (format!("{more}vlan.trunk = ['1-20']"), format!("{more}vlan.trunk = ['20-40']")),
        (format!("{fdb}vlan.trunk = [10, 11]"), format!("{fdb}vlan.access = 10")),
        (format!("{more}vlan.access = 10"), format!("{fdb}vlan.trunk = [10]")),
    ];
    for (a, b) in wrong {
        assert_eq!(mistakes(&text(&a, &b)).len(), 1, "{a}\n{b}");
    }
    // Three ports: the third meets the second, not the first.
    let third = "[port.c]\nswitch = 'lan'\ntap.name = 'c'\nvlan.access = 11\nmacs = ['52:54:00:00:00:01']\n";
    let ports = text(&format!("{more}vlan.access = 10"), &format!("{more}vlan.access = 11"));
    let error = parse(&format!("{ports}{third}")).expect_err("a clash");
    assert!(error.mistakes[0].what.ends_with("port.b.macs[0] at line 11"), "{error}");
}

#[test]
fn a_guest_may_not_take_what_another_has() {
    const TAKES: &str = "mac-change = ['52:54:00:00:00:01']";
    for (switch, has, fine) in [
        ("lan", "mac = '52:54:00:00:00:01'", false),
        ("dmz", "mac = '52:54:00:00:00:01'", false),
        ("lan", "macs = ['52:54:00:00:00:01']", false),
        ("dmz", "macs = ['52:54:00:00:00:01']", true),
        ("lan", "fdb = [{ mac = '52:54:00:00:00:01' }]", false),
        ("lan", "mac-change = ['52:54:00:00:00:01']", true),
    ] {
        let found = parse(&two(switch, TAKES, has)).err().map(|error| error.to_string());
        assert_eq!(found.is_none(), fine, "{switch} {has}: {found:?}");
        assert!(
            found.is_none_or(|text| text.contains(":6: port.a.mac-change[0]: 52:54:00:00:00:01 is used"))
        );
    }
    let own = "mac = '52:54:00:00:00:01'\nmac-change = ['52:54:00:00:00:01', '52:54:00:00:00:02']";
    assert!(parse(&two("lan", own, "")).is_ok());
    // A port whose name continues another's is another.
    let named = "[switch.lan]\n[port.a]\nswitch='lan'\ntap.name='a'\nmac-change=['52:54:00:00:00:01']\n\
                 [port.'a.mac']\nswitch='lan'\ntap.name='b'\nmac='52:54:00:00:00:01'\n";
    assert_eq!(mistakes(named), ["5 port.a.mac-change[0]"]);
}

#[test]
fn what_only_one_port_may_use() {
    let cases = [
        (
            "tap.name = 'e'",
            "packet.interface = 'e'",
            "7 port.b.packet.interface",
            "port.a.tap.name at line 4",
        ),
        (
            "macvtap.interface = 'e'",
            "af-xdp.interface = 'e'",
            "7 port.b.af-xdp.interface",
            "port.a.macvtap.interface at line 4",
        ),
        (
            "macvtap = { interface = 'e', fds = [7] }",
            "macvtap = { interface = 'f', fds = [8, 7] }",
            "7 port.b.macvtap.fds[1]",
            "port.a.macvtap.fds[0] at line 4",
        ),
        (
            "vhost-user.socket = '/run/a'",
            "vhost-user.socket = '/run/b'\nqmp = '/run/a'",
            "8 port.b.qmp",
            "port.a.vhost-user.socket at line 4",
        ),
        (
            "vhost-user.socket = '/run/a'\nqmp = '/run/q'",
            "vhost-user.socket = '/run/b'\nqmp.socket = '/run/q'",
            "9 port.b.qmp.socket",
            "port.a.qmp at line 5",
        ),
    ];
    for (a, b, place, first) in cases {
        let text = format!("[switch.lan]\n[port.a]\nswitch='lan'\n{a}\n[port.b]\nswitch='lan'\n{b}\n");
        let error = parse(&text).expect_err(b);
        let [mistake] = error.mistakes.as_slice() else { panic!("{error}") };
        assert_eq!(format!("{} {}", mistake.line, mistake.field), place, "{error}");
        assert!(mistake.what.ends_with(&format!("is used already by {first}")), "{error}");
    }
    let control =
        "[control]\nsocket = '/c'\n[switch.lan]\n[port.a]\nswitch='lan'\nvhost-user.socket='/w'\nqmp='/c'";
    assert_eq!(mistakes(control), ["7 port.a.qmp"]);
    let host = "mac = '52:54:00:00:00:0X'\naddresses = ['10.0.0.1']\nneighbour-suppression = true";
    let text = two("lan", &host.replace('X', "1"), &host.replace('X', "2"));
    assert_eq!(mistakes(&text), ["13 port.b.addresses[0]"]);
    assert!(parse(&two("dmz", &host.replace('X', "1"), &host.replace('X', "2"))).is_ok());
}

#[test]
fn a_hostile_list_costs_little() {
    let macs = |count: usize| {
        let listed: Vec<_> = (0..count)
            .map(|n| format!("'52:54:00:{:02x}:{:02x}:{:02x}'", n >> 16, n >> 8 & 255, n & 255))
            .collect();
        listed.join(",")
    };
    let error = parse(&two("lan", &format!("macs = [{}]", macs(100_000)), "")).expect_err("too many");
    assert!(error.to_string().contains("has 100000 elements; accepted: at most 256"), "{error}");
    // The same addresses behind a thousand ports, each time in another VLAN: no mistake, and no search.
    let listed = macs(40);
    let ports = |vlan: &dyn Fn(usize) -> usize| -> String {
        let port = |n| {
            format!("[port.p{n}]\nswitch='lan'\ntap.name='t{n}'\nmacs=[{listed}]\nvlan.access={}\n", vlan(n))
        };
        (0..2000).map(port).collect()
    };
    let head = "[switch.lan]\nvlan = '802.1q'\n";
    let config: Config = parse(&format!("{head}{}", ports(&|n| n + 1))).expect("no mistake").config;
    assert_eq!(config.ports.len(), 2000);
    assert_eq!(mistakes(&format!("{head}{}", ports(&|_| 1))).len(), 500);
}
