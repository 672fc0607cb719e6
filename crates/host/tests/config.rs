//! The configuration contract: what is read, and each mistake with its exact line and field.

#[path = "config/disks.rs"]
mod disks;
#[path = "config/document.rs"]
mod document;
#[path = "config/keys.rs"]
mod keys;
#[path = "config/settings.rs"]
mod settings;
#[path = "config/unique.rs"]
mod unique;

use std::path::Path;
use std::time::Duration;

use ringway::config::resolved::{Attach, Polling, Profile, SocketRole, WorkerMode};
use ringway::config::{self, ConfigError, Loaded};
use transport::pci::{Interface, NotifyKind};

fn parse(text: &str) -> Result<Loaded, ConfigError> {
    config::parse(text, Path::new("/etc/ringway/ringway.toml"))
}

/// The mistakes of `text` as `LINE FIELD`.
fn mistakes(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("a mistake");
    error.mistakes.iter().map(|mistake| format!("{} {}", mistake.line, mistake.field)).collect()
}

const GOOD: &str = r#"
[control]
socket = "/run/ringway/control.sock"
http = "127.0.0.1:9464"

[workers]
mode = "pool"
cpus = [0, 1]

[switch.lan]
ageing = "5m"

[switch.dmz]
ageing = "2h"
max-entries = 100

[port.web]
switch = "lan"
vhost-user = { socket = "/run/ringway/web.sock", queue-pairs = 2 }
mac = "52:54:00:00:00:01"
mtu = 9000
profile = "open"
offloads = false

[port.db]
switch = "dmz"
vhost-user = { socket = "db.sock", mode = "client" }

[port.uplink]
switch = "lan"
tap = { name = "rw0", queues = 4 }
"#;

#[test]
fn a_function_is_read_whole() {
    let port = "[switch.lan]\n[port.app]\nswitch = 'lan'\n";
    let function = |keys: &str| {
        let text = format!("{port}vfio-user = {{ socket = '/a'{keys} }}\n");
        let port = parse(&text).expect("no mistake").config.ports.remove(0);
        assert_eq!(port.profile, Profile::Guest);
        match port.attach {
            Attach::VfioUser { queue_pairs: 1, function, .. } => function,
            other => panic!("{other:?}"),
        }
    };
    let plain = function("");
    assert_eq!((plain.interface, plain.queue_size.get()), (Interface::Modern, 256));
    assert_eq!((&*plain.notify, plain.mapped, plain.msix), (&[NotifyKind::Mmio][..], false, true));
    let all = function(
        ", interface = 'transitional', notify = ['pio', 'mmio'], queue-size = 512, doorbells = 'mapped', interrupts = 'intx', admin-queue = true",
    );
    assert_eq!((all.interface, all.queue_size.get()), (Interface::Transitional, 512));
    assert_eq!((&*all.notify, all.mapped, all.msix), (&[NotifyKind::Pio, NotifyKind::Mmio][..], true, false));
    assert!(all.admin_queue && !plain.admin_queue);
}

#[test]
fn a_good_file_is_read_whole() {
    let config = parse(GOOD).expect("no mistake").config;
    assert_eq!(config.control.socket, Path::new("/run/ringway/control.sock"));
    assert_eq!(config.control.http.map(|http| http.to_string()).as_deref(), Some("127.0.0.1:9464"));
    assert_eq!(config.workers.mode, WorkerMode::Pool { threads: 2 });
    assert_eq!(config.workers.cpus, [0, 1]);
    let switches: Vec<_> =
        config.switches.iter().map(|s| (s.name.as_str(), s.ageing, s.entries_max)).collect();
    assert_eq!(switches, [("lan", Duration::from_secs(300), 8192), ("dmz", Duration::from_secs(7200), 100)]);
    let [web, db, uplink] = config.ports.as_slice() else { panic!("three ports") };
    assert_eq!((web.name.as_str(), web.switch.as_str()), ("web", "lan"));
    assert_eq!(
        web.attach,
        Attach::VhostUser {
            socket: "/run/ringway/web.sock".into(),
            role: SocketRole::Server,
            queue_pairs: 2
        }
    );
    assert_eq!((web.mac, web.mtu), (Some([0x52, 0x54, 0, 0, 0, 1]), Some(9000)));
    assert_eq!((web.profile, web.offloads), (Profile::Open, false));
    assert_eq!(
        db.attach,
        Attach::VhostUser { socket: "/etc/ringway/db.sock".into(), role: SocketRole::Client, queue_pairs: 1 }
    );
    assert_eq!((db.profile, db.offloads, db.mac, db.mtu), (Profile::Guest, true, None, None));
    assert_eq!(uplink.attach, Attach::Tap { name: "rw0".into(), queues: 4 });
    assert_eq!(uplink.profile, Profile::Open);
}

#[test]
fn an_empty_file_has_defaults() {
    let config = parse("").expect("no mistake").config;
    assert_eq!(config.control.socket, config::default_control_socket());
    assert_eq!(config.control.http, None);
    assert!(matches!(config.workers.mode, WorkerMode::Pool { threads } if threads >= 1));
    assert!(config.workers.cpus.is_empty() && config.switches.is_empty() && config.ports.is_empty());
}

#[test]
fn worker_modes() {
    let mode = |text: &str| parse(&format!("[workers]\n{text}")).expect("no mistake").config.workers.mode;
    assert_eq!(mode("mode = \"per-device\""), WorkerMode::PerDevice);
    assert_eq!(mode("mode = \"pool\"\nthreads = 3"), WorkerMode::Pool { threads: 3 });
    assert_eq!(mode("threads = 3\ncpus = [0]"), WorkerMode::Pool { threads: 3 });
    assert_eq!(mode("cpus = [4, 5, 6]"), WorkerMode::Pool { threads: 3 });
    assert_eq!(mode("mode = \"sidecore\""), WorkerMode::Sidecore { threads: 1 });
    assert_eq!(mode("mode = \"sidecore\"\ncpus = [4, 5]"), WorkerMode::Sidecore { threads: 2 });
}

#[test]
fn groups_of_workers_are_named_by_ports() {
    let port = "[switch.lan]\n[port.a]\nswitch = 'lan'\nvhost-user = { socket = '/a' }\nprofile = 'open'\n";
    let text = format!(
        "[worker-group.fast]\nmode = 'sidecore'\npolling = 'always'\n{port}workers = 'fast'\nrx-usecs = 50\n"
    );
    let config = parse(&text).expect("no mistake").config;
    let [group] = config.worker_groups.as_slice() else { panic!("{config:?}") };
    assert_eq!((group.name.as_str(), group.workers.polling), ("fast", Polling::Always));
    assert_eq!(config.ports[0].workers.as_deref(), Some("fast"));
    assert_eq!(config.ports[0].call_interval, Duration::from_micros(50));
    assert_eq!(config.workers.polling, Polling::Adaptive);

    let accepted = |text: &str| parse(text).expect_err(text).mistakes.remove(0).accepted;
    assert!(accepted(&format!("{port}workers = 'fast'\n")).contains("add [worker-group.fast]"));
    assert_eq!(accepted(&text.replace("workers = 'fast'", "workers = 'slow'")), "fast");
    assert!(accepted(&format!("{port}rx-usecs = 10001\n")).contains("0 to 10000"));
    let tap = port.replace("vhost-user = { socket = '/a' }", "tap = { name = 'a' }");
    assert!(accepted(&format!("{tap}rx-usecs = 1\n")).contains("vhost-user or vfio-user only"));
}

/// One mistake: the text, `LINE FIELD`, a part of what is said, a part of what is accepted.
type Case = (&'static str, &'static str, &'static str, &'static str);

fn check(cases: &[Case]) {
    for (text, place, what, accepted) in cases {
        let error = parse(text).expect_err(text);
        let [mistake] = error.mistakes.as_slice() else { panic!("{text}\n{error}") };
        assert_eq!(format!("{} {}", mistake.line, mistake.field), *place, "{text}\n{error}");
        assert!(mistake.what.contains(what), "{text}\n{error}");
        assert!(mistake.accepted.contains(accepted), "{text}\n{error}");
        let line = format!("/etc/ringway/ringway.toml:{}: {}: ", mistake.line, mistake.field);
        assert!(error.to_string().starts_with(&line), "{error}");
    }
}

#[test]
fn mistakes_of_control_and_workers() {
    check(&[
        ("colour = 1", "1 colour", "unknown key", "control, workers, worker-group, switch, port"),
        ("[contrl]\nsocket = '/c'", "1 contrl", "did you mean \"control\"", "control"),
        ("control = 1", "1 control", "is an integer, not a table", "[control]"),
        ("[control]\nsokcet = '/c'", "2 control.sokcet", "did you mean \"socket\"", "socket, http"),
        ("[control]\nsocket = 7", "2 control.socket", "is an integer, not a string", "a path"),
        ("[control]\nsocket = ''", "2 control.socket", "empty", "a path"),
        ("[control]\ntoken-file = ''", "2 control.token-file", "empty", "a path of 1 to 4095"),
        ("[control]\ntoken_file = 't'", "2 control.token_file", "did you mean \"token-file\"", "token-file"),
        ("[control]\nhttp = 'localhost'", "2 control.http", "no address", "127.0.0.1:9464"),
        ("[workers]\nmode = 'pol'", "2 workers.mode", "did you mean \"pool\"", "\"pool\" or \"sidecore\""),
        ("[workers]\nmode = 'spin'", "2 workers.mode", "\"spin\"", "sidecore"),
        ("[workers]\npolling = 'alway'", "2 workers.polling", "did you mean \"always\"", "\"adaptive\" or"),
        ("[worker-group.a]\nthreads = 0", "2 worker-group.a.threads", "0 is out of range", "1 to 256"),
        ("[worker-group.' ']", "1 worker-group. ", "no name", "letters"),
        ("[workers]\nthreads = 0", "2 workers.threads", "0 is out of range", "1 to 256"),
        ("[workers]\nthreads = -1", "2 workers.threads", "-1 is out of range", "1 to 256"),
        ("[workers]\nthreads = 1.5", "2 workers.threads", "is a float", "1 to 256"),
        ("[workers]\nthreads = 99999999999999999999", "2 workers.threads", "out of range", "1 to 256"),
        (
            "[workers]\nmode = 'per-device'\nthreads = 2",
            "3 workers.threads",
            "one thread a device",
            "mode = \"pool\"",
        ),
        ("[workers]\ncpus = 1", "2 workers.cpus", "is an integer, not an array", "a list"),
        ("[workers]\ncpus = [\n0,\n0,\n]", "4 workers.cpus[1]", "0 is listed twice", "different"),
        ("[workers]\ncpus = [5000]", "2 workers.cpus[0]", "out of range", "0 to 1023"),
        ("[workers]\ncpus = ['a']", "2 workers.cpus[0]", "is a string", "0 to 1023"),
    ]);
}

#[test]
fn mistakes_of_switches() {
    check(&[
        ("switch = 'lan'", "1 switch", "is a string, not a table", "[switch.lan]"),
        ("[switch]\nlan = 1", "2 switch.lan", "is an integer, not a table", "[switch.lan]"),
        ("[switch.'a b']", "1 switch.a b", "is no name", "letters"),
        (
            "[switch.lan]\naging = '5m'",
            "2 switch.lan.aging",
            "did you mean \"ageing\"",
            "ageing, max-entries",
        ),
        ("[switch.lan]\nageing = 300", "2 switch.lan.ageing", "is an integer", "such as \"5m\""),
        ("[switch.lan]\nageing = '5 min'", "2 switch.lan.ageing", "not a whole number", "such as \"5m\""),
        ("[switch.lan]\nageing = '0s'", "2 switch.lan.ageing", "out of range", "from \"1s\""),
        (
            "[switch.lan]\nvlan = 10",
            "2 switch.lan.vlan",
            "is an integer",
            "\"none\" or \"802.1q\" or \"802.1ad\"",
        ),
        ("[switch.lan]\nvlan = '802.1x'", "2 switch.lan.vlan", "did you mean \"802.1q\"", "\"802.1ad\""),
        ("[switch.lan]\nsnooping = 1", "2 switch.lan.snooping", "is an integer", "true or false"),
        ("[switch.lan]\nmax-entries = 0", "2 switch.lan.max-entries", "out of range", "1 to 1048576"),
    ]);
}

/// A file with a switch (line 1) and a port whose lines begin at 3.
macro_rules! port {
    ($lines:expr) => {
        concat!("[switch.lan]\n[port.web]\n", $lines)
    };
}

#[test]
fn mistakes_of_ports() {
    check(&[
        (port!("vhost-user.socket = '/w'"), "2 port.web", "has no switch", "one of: lan"),
        (port!("switch = 'lam'\nvhost-user.socket = '/w'"), "3 port.web.switch", "no switch \"lam\"", "lan"),
        (
            "[port.web]\nswitch = 'lan'\ntap.name = 't'",
            "2 port.web.switch",
            "no switch \"lan\"",
            "[switch.lan]",
        ),
        (port!("switch = 'lan'"), "2 port.web", "attached to nothing", "vfio-user = { socket"),
        (
            port!("switch = 'lan'\ntap.name = 't'\nvhost-user.socket = '/w'"),
            "5 port.web.vhost-user",
            "has tap already",
            "exactly one of",
        ),
        (port!("switch = 'lan'\nvhost-user = '/w'"), "4 port.web.vhost-user", "is a string", "{ socket"),
        (
            port!("switch = 'lan'\nvhost-user = {}"),
            "4 port.web.vhost-user",
            "has no socket",
            "socket = a path",
        ),
        (
            port!("switch = 'lan'\nvhost-user = { socket = '/w', queue_pairs = 2 }"),
            "4 port.web.vhost-user.queue_pairs",
            "did you mean \"queue-pairs\"",
            "socket, queue-pairs, mode",
        ),
        (
            port!("switch = 'lan'\nvhost-user = { socket = '/w', queue-pairs = 129 }"),
            "4 port.web.vhost-user.queue-pairs",
            "129 is out of range",
            "1 to 128",
        ),
        (
            port!("switch = 'lan'\nvhost-user = { socket = '/w', mode = 'sever' }"),
            "4 port.web.vhost-user.mode",
            "did you mean \"server\"",
            "\"server\" or \"client\"",
        ),
        (port!("switch = 'lan'\ntap = {}"), "4 port.web.tap", "has no name", "interface name"),
        (port!("switch = 'lan'\ntap.name = 'a/b'"), "4 port.web.tap.name", "no interface name", "1 to 15"),
        (port!("switch = 'lan'\nvfio-user = {}"), "4 port.web.vfio-user", "has no socket", "path"),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', interface = 'modem' }"),
            "4 port.web.vfio-user.interface",
            "unknown value \"modem\"",
            "\"modern\" or \"transitional\" or \"legacy\"",
        ),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', notify = [] }"),
            "4 port.web.vfio-user.notify",
            "is empty",
            "\"pio\" and \"mmio\"",
        ),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', notify = ['pio', 'pio'] }"),
            "4 port.web.vfio-user.notify[1]",
            "pio is listed twice",
            "each once",
        ),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', notify = ['pio'], doorbells = 'mapped' }"),
            "4 port.web.vfio-user.doorbells",
            "no page of doorbells",
            "\"mmio\" in notify",
        ),
        (
            port!(
                "switch = 'lan'\nvfio-user = { socket = '/w', interface = 'legacy', doorbells = 'mapped' }"
            ),
            "4 port.web.vfio-user.doorbells",
            "no page of doorbells",
            "modern or transitional",
        ),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', interface = 'legacy', admin-queue = true }"),
            "4 port.web.vfio-user.admin-queue",
            "no driver",
            "modern or transitional",
        ),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', interrupts = 'pin' }"),
            "4 port.web.vfio-user.interrupts",
            "\"pin\"",
            "\"intx\"",
        ),
        (
            port!("switch = 'lan'\nvfio-user = { socket = '/w', queue-size = 100 }"),
            "4 port.web.vfio-user.queue-size",
            "100 is no power of two",
            "16, 32",
        ),
        (
            port!("switch = 'lan'\ntap.name = 't'\nmac = '01:00:5e:00:00:01'"),
            "5 port.web.mac",
            "\"01:00:5e:00:00:01\" is a multicast address",
            "a unicast address such as 52:54:00:00:00:01",
        ),
        (port!("switch = 'lan'\ntap.name = 't'\nmac = 'x'"), "5 port.web.mac", "not six", "unicast"),
        (port!("switch = 'lan'\ntap.name = 't'\nmtu = 67"), "5 port.web.mtu", "67 is out of", "68 to 65535"),
        (
            port!("switch = 'lan'\ntap.name = 't'\nmtu = 65536"),
            "5 port.web.mtu",
            "out of range",
            "68 to 65535",
        ),
        (
            port!("switch = 'lan'\ntap.name = 't'\nprofile = 'closed'"),
            "5 port.web.profile",
            "unknown value",
            "\"guest\" or \"open\"",
        ),
        (
            port!("switch = 'lan'\ntap.name = 't'\noffloads = 1"),
            "5 port.web.offloads",
            "an integer",
            "true or",
        ),
        (port!("switch = 'lan'\ntap.name = 't'\nmacz = 1"), "5 port.web.macz", "did you mean \"mac\"", "mtu"),
        ("[[port.web]]\nswitch = 'lan'", "1 port.web", "is an array, not a table", "[port.web]"),
    ]);
}

#[test]
fn sections_of_later_versions_are_named() {
    check(&[
        ("[scsi.store]", "1 scsi.store", "scsi is not available", "switch, port and disk"),
        ("[share.home]", "1 share.home", "share is not available", "switch, port and disk"),
        ("[gpu.screen]", "1 gpu.screen", "gpu is not available", "switch, port and disk"),
    ]);
}

#[test]
fn what_only_one_port_may_have() {
    let two = |first: &str, second: &str| {
        format!("[switch.lan]\n[port.a]\nswitch = 'lan'\n{first}\n[port.b]\nswitch = 'lan'\n{second}\n")
    };
    let cases = [
        (
            two("tap.name = 'x'\nmac = '52:54:00:00:00:0A'", "tap.name = 'y'\nmac = '52:54:00:00:00:0a'"),
            "9 port.b.mac",
            "52:54:00:00:00:0a is used already by port.a.mac at line 5",
        ),
        (two("tap.name = 'x'", "tap.name = 'x'"), "7 port.b.tap.name", "port.a.tap.name at line 4"),
        (
            two("vhost-user.socket = '/run/w'", "vhost-user.socket = '/run/./w'"),
            "7 port.b.vhost-user.socket",
            "port.a.vhost-user.socket at line 4",
        ),
    ];
    for (text, place, what) in cases {
        let error = parse(&text).expect_err(&text);
        let [mistake] = error.mistakes.as_slice() else { panic!("{error}") };
        assert_eq!(format!("{} {}", mistake.line, mistake.field), place, "{error}");
        assert!(mistake.what.contains(what), "{error}");
    }
    let control =
        "[control]\nsocket = '/run/w'\n[switch.lan]\n[port.a]\nswitch = 'lan'\nvhost-user.socket = '/run/w'";
    assert_eq!(mistakes(control), ["6 port.a.vhost-user.socket"]);
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_lines() {
    let text = r#"
[port.web]
switch = "wan"
vhost-user = { socket = "", queue-pairs = 0, colour = "red" }
mac = "01:00:00:00:00:01"
mtu = 1

[workers]
mode = "threads"
cpus = [0, 0]

[switch.lan]
ageing = "soon"

[scsi.root]

[port.uplink]
switch = "lan"
"#;
    assert_eq!(
        mistakes(text),
        [
            "3 port.web.switch",
            "4 port.web.vhost-user.colour",
            "4 port.web.vhost-user.queue-pairs",
            "4 port.web.vhost-user.socket",
            "5 port.web.mac",
            "6 port.web.mtu",
            "9 workers.mode",
            "10 workers.cpus[1]",
            "13 switch.lan.ageing",
            "15 scsi.root",
            "17 port.uplink",
        ]
    );
}

#[test]
fn syntax_errors_stand_beside_the_other_mistakes() {
    let text = "[switch.lan]\nageing = \n[port.web]\nswitch = 'lan'\ntap.name = 't'\nmtu = 1\nmac 5\n";
    assert_eq!(mistakes(text), ["2 syntax", "6 port.web.mtu", "7 syntax"]);
    assert_eq!(mistakes("[switch.lan]\n[switch.lan]\n"), ["2 syntax"]);
    assert_eq!(mistakes("[workers]\nthreads = 1\nthreads = 2\n"), ["3 syntax"]);
    assert_eq!(mistakes("[switch.lan\nageing = 'x'\n"), ["1 syntax"]);
    assert_eq!(
        mistakes("[switch.lan\nageing = 'x'\n[gpu.x]\n[port.web"),
        ["1 syntax", "3 gpu.x", "4 syntax"]
    );
}

#[test]
fn a_hostile_file_costs_little() {
    let lines = |line: &str| line.repeat(config::FILE_BYTES_MAX as usize / line.len() / 2);
    for text in [lines("x\n"), lines("[x\n"), lines("x = [\n"), format!("[port]\n{}", lines("a.b.c = 1\n"))] {
        let error = parse(&text).expect_err("mistakes");
        assert!((1..=500).contains(&error.mistakes.len()), "{}", error.mistakes.len());
    }
    let switches: String = (0..300).map(|number| format!("[switch.s{number}]\n")).collect();
    let error = parse(&switches).expect_err("too many");
    assert_eq!((error.mistakes[0].line, error.mistakes[0].what.as_str()), (257, "one switch too many"));
}

#[test]
fn files_that_cannot_be_used_at_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ringway.toml");
    let missing = config::load(&file).expect_err("no file");
    assert_eq!(missing.mistakes[0].line, 0);
    assert!(missing.to_string().contains("ringway.toml: file: cannot be read: No such file"), "{missing}");

    std::fs::write(&file, b"[workers]\n# \xff\n").expect("written");
    let garbled = config::load(&file).expect_err("no UTF-8");
    assert_eq!((garbled.mistakes[0].line, garbled.mistakes[0].field.as_str()), (2, "syntax"));

    std::fs::write(&file, vec![b'#'; config::FILE_BYTES_MAX as usize + 1]).expect("written");
    assert!(config::load(&file).expect_err("too large").to_string().contains("larger than"));

    let deep = format!("a = {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse(&deep).is_err());
}

#[test]
fn relative_paths_start_from_the_directory_of_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ringway.toml");
    std::fs::write(&file, "[switch.lan]\n[port.a]\nswitch = 'lan'\nvhost-user.socket = 'a.sock'\n")
        .expect("written");
    let config = config::load(&file).expect("no mistake").config;
    assert_eq!(config.ports[0].attach.socket(), Some(directory.path().join("a.sock").as_path()));
}

#[test]
fn the_environment_is_checked_as_a_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    for file in ["file", "data"] {
        std::fs::write(directory.path().join(file), "").expect("written");
    }
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("stale.sock")).expect("bound");
    let text = format!(
        "[control]\nsocket = '{}'\ntoken-file = '{}'\n[workers]\ncpus = [1023]\n[switch.lan]\n\
         [port.a]\nswitch = 'lan'\nvhost-user.socket = '{}'\n\
         [port.b]\nswitch = 'lan'\nvhost-user.socket = '{}'\n\
         [port.c]\nswitch = 'lan'\nvhost-user.socket = '{}'\n\
         [port.d]\nswitch = 'lan'\nvhost-user = {{ socket = '{}', mode = 'client' }}\n\
         [port.e]\nswitch = 'lan'\nvhost-user.socket = '{}'\n\
         [port.f]\nswitch = 'lan'\ntap.name = 'lo'\n\
         [port.h]\nswitch = 'lan'\npacket.interface = 'no-such-thing'\n\
         [port.i]\nswitch = 'lan'\naf-xdp.interface = 'no-such-xdp'\n\
         [port.j]\nswitch = 'lan'\nmacvtap = {{ interface = 'no-such-mac', fds = [60000] }}\n\
         [port.k]\nswitch = 'lan'\nvhost-user.socket = '{}'\nqmp.socket = '{}'\n",
        at("file"),
        at("data"),
        at("stale.sock"),
        at("missing/b.sock"),
        at("file/c.sock"),
        at("missing/d.sock"),
        at("new.sock"),
        at("k.sock"),
        at("data"),
    );
    let loaded = parse(&text).expect("no mistake in the text");
    let error = config::environment_check(&loaded).expect_err("mistakes of the machine");
    let places: Vec<_> = error.mistakes.iter().map(|m| format!("{} {}", m.line, m.field)).collect();
    assert_eq!(
        places,
        [
            "2 control.socket",
            "3 control.token-file",
            "5 workers.cpus",
            "12 port.b.vhost-user.socket",
            "15 port.c.vhost-user.socket",
            "24 port.f.tap.name",
            "27 port.h.packet.interface",
            "30 port.i.af-xdp.interface",
            "33 port.j.macvtap.fds",
            "33 port.j.macvtap.interface",
            "37 port.k.qmp",
        ],
        "{error}"
    );
    assert!(error.mistakes[0].what.contains("exists and is no socket"), "{error}");
    assert!(error.mistakes[1].what.contains("others than its owner may use it"), "{error}");
    assert!(error.mistakes[3].what.contains("No such file"), "{error}");
    assert!(error.mistakes[6].what.contains("interface no-such-thing: No such device"), "{error}");

    let lo = format!(
        "[control]\nsocket = '{}'\n[switch.lan]\n[port.a]\nswitch = 'lan'\npacket.interface = 'lo'\n",
        at("new.sock")
    );
    assert_eq!(config::environment_check(&parse(&lo).expect("no mistake in the text")), Ok(()));
}
