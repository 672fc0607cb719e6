//! What a port may do: the profiles' defaults, every key over them, and what contradicts itself.

use super::{check, mistakes, parse};
use ringway::config::resolved::{
    Attach, MacChange, PortConfig, Profile, XdpMode, ZERO_COPY_MIN_DEFAULT, ZeroCopy,
};
use switch::{EntryKind, PortSettings, PortVlans, Tagging, UnicastMac, Vlan};

/// The only port of a file: a guest's, with these lines, on a switch with VLANs.
fn guest(lines: &str) -> PortConfig {
    port(&format!("vhost-user.socket = '/w'\n{lines}"))
}

fn port(lines: &str) -> PortConfig {
    let text = format!("[switch.lan]\nvlan = '802.1q'\n[port.web]\nswitch = 'lan'\n{lines}");
    let loaded = parse(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    loaded.config.ports.into_iter().next().expect("a port")
}

fn mac(last: u8) -> UnicastMac {
    UnicastMac::new([0x52, 0x54, 0, 0, 0, last]).expect("unicast")
}

fn vlan(id: u16) -> Vlan {
    Vlan::new(id).expect("a VLAN")
}

const MAC: &str = "mac = '52:54:00:00:00:01'\n";

#[test]
fn a_guest_with_an_address_is_locked_to_it() {
    let port = guest(MAC);
    assert_eq!((port.profile, port.mac_change), (Profile::Guest, MacChange::Deny));
    let settings = port.settings;
    assert!(settings.enabled && settings.locked && settings.guard);
    assert!(!settings.learning && !settings.flood && !settings.multicast_router);
    assert!(settings.multicast_flood && settings.broadcast_flood);
    assert!(!settings.isolated && !settings.hairpin && !settings.neighbour_suppression);
    assert_eq!((settings.mac_limit, settings.groups_max, settings.link_local), (None, 64, 0));
    let rates = settings.rates;
    assert_eq!(
        (rates.unknown_unicast, rates.broadcast, rates.multicast),
        (Some(1000), Some(1000), Some(5000))
    );
    assert!(settings.sources.macs.is_empty(), "the lock is enough");
    assert_eq!(settings.vlans, PortVlans::default());
}

#[test]
fn a_guest_that_chooses_its_address_may_have_one() {
    let settings = guest("").settings;
    assert!(settings.learning && !settings.locked && !settings.flood && settings.guard);
    assert_eq!((settings.mac_limit, settings.groups_max, settings.link_local), (Some(1), 64, 0));
    assert_eq!(settings.rates, guest(MAC).settings.rates);
}

#[test]
fn what_is_open_is_a_plain_bridge_port() {
    for lines in [
        "vhost-user.socket = '/w'\nprofile = 'open'",
        "tap.name = 't'",
        "macvtap.interface = 't'",
        "packet.interface = 't'",
        "af-xdp.interface = 't'",
        "tap.name = 't'\nmac = '52:54:00:00:00:01'",
    ] {
        let port = port(lines);
        assert_eq!(port.settings, PortSettings::default(), "{lines}");
        assert_eq!((port.profile, port.mac_change), (Profile::Open, MacChange::Allow), "{lines}");
    }
    assert_eq!(port("tap.name = 't'\nprofile = 'guest'").profile, Profile::Guest);
}

#[test]
fn every_key_overrides_its_profile() {
    let all = "enabled = false\nlearning = true\nflood = true\nmulticast-flood = false\nbroadcast-flood = false\n\
               isolated = true\nhairpin = true\nlocked = false\nguard = false\nmulticast-fast-leave = true\n\
               multicast-router = true\nneighbour-suppression = true\naddresses = ['10.0.0.1']\nmac-limit = 7\n\
               multicast-groups-max = 8\nrate-limit = { broadcast = 0, multicast = 10000000 }\n\
               link-local-forward = [0, 14]\nmac-change = ['52:54:00:00:00:09']\n";
    let port = guest(&format!("{MAC}{all}"));
    let settings = port.settings;
    let off = [
        settings.enabled,
        settings.multicast_flood,
        settings.broadcast_flood,
        settings.locked,
        settings.guard,
    ];
    assert_eq!(off, [false; 5]);
    let on = [settings.learning, settings.flood, settings.isolated, settings.hairpin, settings.fast_leave];
    assert_eq!(on, [true; 5]);
    assert!(settings.multicast_router && settings.neighbour_suppression);
    assert_eq!((settings.mac_limit, settings.groups_max), (Some(7), 8));
    let rates = settings.rates;
    assert_eq!((rates.unknown_unicast, rates.broadcast), (Some(1000), None), "one key of a table is one key");
    assert_eq!(rates.multicast, Some(10_000_000));
    assert_eq!(settings.link_local, 1 | 1 << 14);
    assert_eq!(port.mac_change, MacChange::List(vec![mac(9)]));
    assert_eq!(guest("mac-limit = 0").settings.mac_limit, None);
    assert_eq!(guest("mac-change = 'allow'").mac_change, MacChange::Allow);
    assert_eq!(guest("link-local-forward = []").settings.link_local, 0);
}

#[test]
fn source_addresses() {
    let networks = "addresses = ['10.0.0.5', '10.1.0.0/16', 'fd00::/64']\n";
    let port = guest(&format!("{MAC}{networks}macs = ['52:54:00:00:00:02']"));
    let sources = &port.settings.sources;
    assert_eq!(sources.ipv4, ["10.0.0.5/32".parse().expect("a net"), "10.1.0.0/16".parse().expect("a net")]);
    assert_eq!(sources.ipv6, ["fd00::/64".parse().expect("a net")]);
    assert!(sources.macs.is_empty(), "the lock is enough");
    assert_eq!(port.macs, [mac(2)]);
    let port = guest(&format!("{MAC}macs = ['52:54:00:00:00:02']\nlocked = false"));
    assert_eq!(port.settings.sources.macs, [mac(1), mac(2)]);
    assert!(guest(&format!("{MAC}locked = false")).settings.sources.macs.is_empty());
    assert!(guest(&format!("{MAC}locked = false\nmacs = []")).settings.sources.macs.is_empty());
    assert_eq!(guest("macs = ['52:54:00:00:00:02']").settings.sources.macs, [mac(2)]);
}

#[test]
fn the_switch_answers_for_single_hosts() {
    let lines = "neighbour-suppression = true\naddresses = ['10.0.0.5', '10.1.0.0/16', 'fd00::5']";
    let neighbours = guest(&format!("{MAC}{lines}")).settings.neighbours;
    let expected = [("10.0.0.5", mac(1)), ("fd00::5", mac(1))];
    assert_eq!(neighbours, expected.map(|(host, mac)| (host.parse().expect("an address"), mac)));
    assert!(guest(&format!("{MAC}addresses = ['10.0.0.5']")).settings.neighbours.is_empty());
}

#[test]
fn vlans() {
    let vlans = |lines: &str| guest(lines).settings.vlans;
    assert_eq!(vlans("vlan = { access = 10 }"), PortVlans::access(vlan(10)));
    let trunk = vlans("vlan = { trunk = [10, '20-22', '4094'], native = 1 }");
    assert_eq!(trunk, PortVlans::trunk([10, 20, 21, 22, 4094].map(vlan), Some(vlan(1))));
    assert_eq!(vlans("vlan.trunk = [10]"), PortVlans::trunk([vlan(10)], None));
    assert_eq!(vlans("vlan.trunk = ['1-4094']").iter().count(), 4094);
    let tagging = |word: &str| {
        let loaded = parse(&format!("[switch.lan]\nvlan = '{word}'")).expect("no mistake");
        loaded.config.switches[0].tagging
    };
    assert_eq!(
        ["none", "802.1q", "802.1ad"].map(tagging),
        [None, Some(Tagging::Customer), Some(Tagging::Service)]
    );
}

#[test]
fn fdb_entries() {
    let lines = "vlan = { trunk = [10], native = 1 }\nfdb = [{ mac = '52:54:00:00:00:02' },\n\
                 { mac = '52:54:00:00:00:02', vlan = 10, kind = 'sticky' },\n\
                 { mac = '52:54:00:00:00:03', vlan = 10, kind = 'dynamic' }]";
    let entries: Vec<_> = guest(lines).fdb.iter().map(|entry| (entry.mac, entry.vlan, entry.kind)).collect();
    let expected = [
        (mac(2), Some(vlan(1)), EntryKind::Static),
        (mac(2), Some(vlan(10)), EntryKind::Sticky),
        (mac(3), Some(vlan(10)), EntryKind::Dynamic),
    ];
    assert_eq!(entries, expected);
    let text =
        "[switch.lan]\n[port.a]\nswitch='lan'\ntap.name='t'\nfdb=[{mac='52:54:00:00:00:02',kind='static'}]";
    assert_eq!(parse(text).expect("no mistake").config.ports[0].fdb[0].vlan, None);
}

#[test]
fn attachments() {
    let attach = |lines: &str| port(lines).attach;
    let macvtap = |queues, fds: &[i32]| Attach::Macvtap { interface: "m".into(), fds: fds.into(), queues };
    assert_eq!(attach("macvtap = { interface = 'm' }"), macvtap(1, &[]));
    assert_eq!(attach("macvtap = { interface = 'm', queues = 3 }"), macvtap(3, &[]));
    assert_eq!(attach("macvtap = { interface = 'm', fds = [4, 3] }"), macvtap(2, &[4, 3]));
    assert_eq!(attach("packet = { interface = 'e' }"), Attach::Packet { interface: "e".into() });
    let xdp = |queues, mode| Attach::AfXdp { interface: "e".into(), queues, mode, zero_copy: None };
    let lent = |min, always| {
        let zero_copy = Some(ZeroCopy { min, always });
        Attach::AfXdp { interface: "e".into(), queues: 1, mode: XdpMode::Auto, zero_copy }
    };
    assert_eq!(attach("af-xdp = { interface = 'e' }"), xdp(1, XdpMode::Auto));
    assert_eq!(attach("af-xdp = { interface = 'e', queues = 2, mode = 'native' }"), xdp(2, XdpMode::Native));
    assert_eq!(attach("af-xdp = { interface = 'e', mode = 'generic' }"), xdp(1, XdpMode::Generic));
    assert_eq!(
        attach("af-xdp = { interface = 'e', zero-copy = 'auto' }"),
        lent(ZERO_COPY_MIN_DEFAULT, false)
    );
    assert_eq!(
        attach("af-xdp = { interface = 'e', zero-copy = 'auto', zero-copy-min = 4096 }"),
        lent(4096, false)
    );
    assert_eq!(
        attach("af-xdp = { interface = 'e', zero-copy = 'always' }"),
        lent(ZERO_COPY_MIN_DEFAULT, true)
    );
    assert_eq!(
        attach("af-xdp = { interface = 'e', zero-copy = 'off', zero-copy-min = 4096 }"),
        xdp(1, XdpMode::Auto)
    );
}

#[test]
fn qmp_is_a_path_or_a_table() {
    let qmp = |lines: &str| {
        let qmp = guest(lines).qmp.expect("a socket");
        (qmp.socket.display().to_string(), qmp.nic)
    };
    assert_eq!(qmp("qmp = 'q.sock'"), ("/etc/ringway/q.sock".into(), None));
    assert_eq!(qmp("qmp = { socket = '/q', nic = 'net0' }"), ("/q".into(), Some("net0".into())));
}

#[test]
fn the_token_file_is_a_path() {
    let control = parse("[control]\ntoken-file = 'token'").expect("no mistake").config.control;
    assert_eq!(control.token_file.as_deref(), Some("/etc/ringway/token".as_ref()));
    assert!(parse("[control]\nhttp = '127.0.0.1:1'").is_ok(), "without a token only metrics can be read");
}

/// A guest's port on a switch with VLANs; its lines begin at 6.
macro_rules! guest {
    ($lines:expr) => {
        concat!(
            "[switch.lan]\nvlan = '802.1q'\n[port.web]\nswitch = 'lan'\nvhost-user.socket = '/w'\n",
            $lines
        )
    };
}

/// A tap's port on a switch without VLANs; its lines begin at 5.
macro_rules! plain {
    ($lines:expr) => {
        concat!("[switch.lan]\n[port.up]\nswitch = 'lan'\ntap.name = 't'\n", $lines)
    };
}

#[test]
fn mistakes_of_flags_and_limits() {
    for key in [
        "enabled",
        "learning",
        "flood",
        "multicast-flood",
        "broadcast-flood",
        "isolated",
        "hairpin",
        "locked",
        "guard",
        "neighbour-suppression",
        "multicast-fast-leave",
        "multicast-router",
    ] {
        let error = parse(&format!("{}{key} = 'yes'", guest!(""))).expect_err(key);
        let [mistake] = error.mistakes.as_slice() else { panic!("{error}") };
        assert_eq!((mistake.line, mistake.field.as_str()), (6, format!("port.web.{key}").as_str()));
        assert_eq!(
            (mistake.what.as_str(), mistake.accepted.as_str()),
            ("is a string, not a boolean", "true or false")
        );
    }
    check(&[
        (guest!("mac-limit = 65537"), "6 port.web.mac-limit", "out of range", "0 to 65536"),
        (guest!("mac-limit = -1"), "6 port.web.mac-limit", "out of range", "0 to 65536"),
        (guest!("multicast-groups-max = 65537"), "6 port.web.multicast-groups-max", "out of range", "65536"),
        (guest!("rate-limit = 5"), "6 port.web.rate-limit", "is an integer, not a table", "{ broadcast"),
        (
            guest!("rate-limit = { unicast = 5 }"),
            "6 port.web.rate-limit.unicast",
            "unknown key",
            "unknown-unicast, broadcast, multicast",
        ),
        (
            guest!("rate-limit.broadcast = 10000001"),
            "6 port.web.rate-limit.broadcast",
            "out of range",
            "0 to 10000000",
        ),
        (guest!("link-local-forward = [1]"), "6 port.web.link-local-forward", "pause", "but not 1"),
        (guest!("link-local-forward = [16]"), "6 port.web.link-local-forward[0]", "out of range", "0 to 15"),
        (guest!("link-local-forward = 0"), "6 port.web.link-local-forward", "not an array", "0 to 15"),
        (guest!("link-local-forward = [2, 2]"), "6 port.web.link-local-forward[1]", "twice", "0 to 15"),
    ]);
}

#[test]
fn mistakes_of_addresses() {
    check(&[
        (guest!("macs = 1"), "6 port.web.macs", "is an integer, not an array", "a list"),
        (guest!("macs = [1]"), "6 port.web.macs[0]", "is an integer, not a string", "unicast"),
        (guest!("macs = [\n'ff:ff:ff:ff:ff:ff']"), "7 port.web.macs[0]", "broadcast", "unicast"),
        (
            guest!("macs = ['52:54:00:00:00:02', '52:54:00:00:00:02']"),
            "6 port.web.macs[1]",
            "listed twice",
            "different",
        ),
        (
            guest!("mac = '52:54:00:00:00:02'\nmacs = ['52:54:00:00:00:02']"),
            "7 port.web.macs[0]",
            "is the port's mac",
            "beside mac",
        ),
        (guest!("addresses = '10.0.0.1'"), "6 port.web.addresses", "not an array", "a list"),
        (guest!("addresses = ['x']"), "6 port.web.addresses[0]", "no address", "fd00::/64"),
        (
            guest!("addresses = ['10.0.0.5/24']"),
            "6 port.web.addresses[0]",
            "host bits set, did you mean \"10.0.0.0/24\"",
            "an address or a network",
        ),
        (guest!("addresses = ['10.0.0.1', '10.0.0.1/32']"), "6 port.web.addresses[1]", "twice", "different"),
        (guest!("locked = true"), "6 port.web.locked", "nothing could pass", "mac, macs, fdb or qmp"),
        (guest!("locked = true\nmacs = []\nfdb = []"), "6 port.web.locked", "nothing could pass", "mac"),
        (
            guest!("neighbour-suppression = true\nmac = '52:54:00:00:00:02'"),
            "6 port.web.neighbour-suppression",
            "needs mac and addresses",
            "single hosts",
        ),
        (
            guest!("neighbour-suppression = true\naddresses = ['10.0.0.1']"),
            "6 port.web.neighbour-suppression",
            "needs mac and addresses",
            "single hosts",
        ),
        (
            guest!("neighbour-suppression = true\nmac = '52:54:00:00:00:02'\naddresses = ['10.0.0.0/8']"),
            "6 port.web.neighbour-suppression",
            "needs mac and addresses",
            "single hosts",
        ),
        (guest!("mac-change = 'denny'"), "6 port.web.mac-change", "did you mean \"deny\"", "\"allow\""),
        (guest!("mac-change = true"), "6 port.web.mac-change", "is a boolean, not a string", "a list"),
        (guest!("mac-change = ['x']"), "6 port.web.mac-change[0]", "not six", "unicast"),
    ]);
    for key in [
        "mac = '52:54:00:00:00:02'",
        "macs = ['52:54:00:00:00:02']",
        "qmp = '/q'",
        "fdb = [{ mac = '52:54:00:00:00:02' }]",
    ] {
        assert!(parse(&format!("{}locked = true\n{key}", guest!(""))).is_ok(), "{key}");
    }
    // A wrong address is one mistake, not two.
    assert_eq!(mistakes(guest!("locked = true\nmac = 'x'")), ["7 port.web.mac"]);
    assert_eq!(
        mistakes(guest!("neighbour-suppression = true\nmac = 'x'\naddresses = ['10.0.0.1']")),
        ["7 port.web.mac"]
    );
}

#[test]
fn mistakes_of_vlans_and_fdb() {
    check(&[
        (guest!("vlan = 10"), "6 port.web.vlan", "is an integer, not a table", "{ access = 10 }"),
        (guest!("vlan = {}"), "6 port.web.vlan", "neither", "{ access = 10 }"),
        (guest!("vlan = { native = 1 }"), "6 port.web.vlan", "neither", "trunk"),
        (guest!("vlan = { access = 1, trunk = [2] }"), "6 port.web.vlan", "neither", "trunk"),
        (guest!("vlan.access = 4095"), "6 port.web.vlan.access", "out of range", "1 to 4094"),
        (guest!("vlan.access = 0"), "6 port.web.vlan.access", "out of range", "1 to 4094"),
        (guest!("vlan.acces = 1\nvlan.access = 1"), "6 port.web.vlan.acces", "did you mean", "access, trunk"),
        (guest!("vlan.trunk = 1"), "6 port.web.vlan.trunk", "not an array", "20-30"),
        (guest!("vlan.trunk = []"), "6 port.web.vlan.trunk", "has no VLAN", "20-30"),
        (guest!("vlan.trunk = ['30-20']"), "6 port.web.vlan.trunk[0]", "ends before", "20-30"),
        (guest!("vlan.trunk = [true]"), "6 port.web.vlan.trunk[0]", "is a boolean", "20-30"),
        (
            guest!("vlan.trunk = [25, '20-30']"),
            "6 port.web.vlan.trunk[1]",
            "VLAN 25 is listed twice",
            "20-30",
        ),
        (plain!("vlan.access = 1"), "5 port.up.vlan", "switch lan knows no VLANs", "in [switch.lan]"),
        (guest!("fdb = {}"), "6 port.web.fdb", "is a table, not an array", "kind = \"static\""),
        (guest!("fdb = [1]"), "6 port.web.fdb[0]", "is an integer, not a table", "mac ="),
        (guest!("fdb = [{}]"), "6 port.web.fdb[0]", "has no mac", "mac ="),
        (guest!("[[port.web.fdb]]\nmac = 'x'"), "7 port.web.fdb[0].mac", "not six", "unicast"),
        (
            guest!("fdb = [{ mac = '52:54:00:00:00:02', kind = 'learned' }]"),
            "6 port.web.fdb[0].kind",
            "unknown value",
            "\"static\" or \"sticky\" or \"dynamic\"",
        ),
        (
            guest!("fdb = [{ mac = '52:54:00:00:00:02', age = 1 }]"),
            "6 port.web.fdb[0].age",
            "unknown key",
            "mac, vlan, kind",
        ),
        (
            guest!("fdb = [{ mac = '52:54:00:00:00:02', vlan = 10 }]"),
            "6 port.web.fdb[0].vlan",
            "not in VLAN 10",
            "a VLAN of the port",
        ),
        (
            guest!("vlan.trunk = [10]\nfdb = [{ mac = '52:54:00:00:00:02' }]"),
            "7 port.web.fdb[0]",
            "no native",
            "a VLAN of the port",
        ),
        (
            guest!("fdb = [{ mac = '52:54:00:00:00:02' }, { mac = '52:54:00:00:00:02', vlan = 1 }]"),
            "6 port.web.fdb[1].mac",
            "listed twice",
            "one entry",
        ),
        (
            plain!("fdb = [{ mac = '52:54:00:00:00:02', vlan = 1 }]"),
            "5 port.up.fdb[0].vlan",
            "knows no VLANs",
            "without vlan",
        ),
    ]);
    // What follows from a wrong word is no mistake of its own.
    let follows = "[switch.lan]\nvlan = '802.1x'\n[port.a]\nswitch='lan'\ntap.name='t'\nvlan.access = 5\n";
    assert_eq!(mistakes(follows), ["2 switch.lan.vlan"]);
    let wrong = "vlan.access = 'x'\nfdb = [{ mac = '52:54:00:00:00:02', vlan = 10 }]";
    assert_eq!(mistakes(&format!("{}{wrong}", guest!(""))), ["6 port.web.vlan.access"]);
}

#[test]
fn mistakes_of_attachments() {
    check(&[
        (plain!("qmp = '/q'"), "5 port.up.qmp", "no guest's", "vhost-user or vfio-user only"),
        (guest!("qmp = 1"), "6 port.web.qmp", "is an integer, not a table", "{ socket"),
        (guest!("qmp = {}"), "6 port.web.qmp", "has no socket", "socket ="),
        (guest!("qmp = { socket = '/q', nic = '' }"), "6 port.web.qmp.nic", "no name", "net0"),
        (guest!("qmp = { path = '/q', socket = '/q' }"), "6 port.web.qmp.path", "unknown key", "socket, nic"),
        (guest!("packet.interface = 'e'"), "6 port.web.packet", "has vhost-user already", "exactly one of"),
        (
            "[switch.lan]\n[port.a]\nswitch = 'lan'\npacket = {}",
            "4 port.a.packet",
            "has no interface",
            "interface name",
        ),
        (
            "[switch.lan]\n[port.a]\nswitch = 'lan'\naf-xdp = { interface = 'e', mode = 'fast' }",
            "4 port.a.af-xdp.mode",
            "unknown value",
            "\"auto\" or \"generic\" or \"native\"",
        ),
        (
            "[switch.lan]\n[port.a]\nswitch = 'lan'\naf-xdp = { interface = 'e', queues = 0 }",
            "4 port.a.af-xdp.queues",
            "out of range",
            "1 to 128",
        ),
        (
            "[switch.lan]\n[port.a]\nswitch = 'lan'\nmacvtap = { interface = 'm', fds = [2] }",
            "4 port.a.macvtap.fds[0]",
            "out of range",
            "from 3 on",
        ),
        (
            "[switch.lan]\n[port.a]\nswitch = 'lan'\nmacvtap = { interface = 'm', fds = [3, 3] }",
            "4 port.a.macvtap.fds[1]",
            "twice",
            "different",
        ),
        (
            "[switch.lan]\n[port.a]\nswitch = 'lan'\nmacvtap = { interface = 'm', fds = [3, 4], queues = 1 }",
            "4 port.a.macvtap.fds",
            "2 descriptors for 1 queues",
            "as many",
        ),
    ]);
}
