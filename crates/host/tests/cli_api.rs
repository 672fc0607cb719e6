//! The control API over its unix socket with a stand-in for the data plane, and the commands that show its facts.

mod fake;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use fake::{Daemon, group, learned, raw, root, scratch, status, uplink, web};
use predicates::prelude::*;
use ringway::api::client::{self, ClientError};
use ringway::api::description;
use ringway::api::server::{self, Listeners, ServeError};
use ringway::api::view::*;
use ringway::config::keys;
use ringway::config::resolved::ControlConfig;

fn control(directory: &Path) -> ControlConfig {
    ControlConfig { socket: directory.join("control.sock"), http: None, token_file: None }
}

fn head(answer: &str) -> &str {
    answer.lines().next().unwrap_or("")
}

#[test]
fn every_route_answers_with_its_view() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    assert_eq!(client::get::<Status>(&socket, "/api/status").expect("status"), status());
    assert_eq!(client::get::<Vec<PortView>>(&socket, "/api/ports").expect("ports"), [web(), uplink()]);
    assert_eq!(client::get::<PortView>(&socket, "/api/ports/web").expect("a port"), web());
    assert_eq!(client::get::<Vec<DiskView>>(&socket, "/api/disks").expect("disks"), [root(), scratch()]);
    assert_eq!(client::get::<DiskView>(&socket, "/api/disks/root").expect("a disk"), root());
    let switches = client::get::<Vec<SwitchView>>(&socket, "/api/switches").expect("switches");
    assert_eq!(switches, status().switches);
    let fdb =
        |query: &str| client::get::<Vec<FdbView>>(&socket, &format!("/api/fdb{query}")).expect("entries");
    assert_eq!(fdb(""), [learned()]);
    assert_eq!(fdb("?switch=lan&port=web&vlan=10&mac=52:54:00:00:00:01&kind=learned"), [learned()]);
    assert_eq!(fdb("?vlan=11"), []);
    assert_eq!(client::get::<Vec<GroupView>>(&socket, "/api/groups?switch=lan").expect("groups"), [group()]);
    let config = client::get::<serde_json::Value>(&socket, "/api/config").expect("a configuration");
    assert_eq!(config["port"]["web"]["vhost-user"]["socket"], "web.sock", "as written");
}

#[test]
fn what_is_not_there_is_said_so() {
    let daemon = Daemon::start();
    let refused = |path: &str| match client::get::<serde_json::Value>(&daemon.socket(), path) {
        Err(ClientError::Refused(problem)) => problem.error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("/api/ports/nobody"), "there is no port \"nobody\"");
    assert_eq!(refused("/api/disks/nobody"), "there is no disk \"nobody\"");
    assert_eq!(refused("/api/fdb?switch=wan"), "there is no switch \"wan\"");
    assert_eq!(refused("/api/groups?switch=wan"), "there is no switch \"wan\"");
    assert_eq!(refused("/elsewhere"), "there is no such path; see /api/openapi.json");
    assert_eq!(daemon.asks("POST", "/api/status", None).0, 405);
    let (status, body) = daemon.asks("GET", "/api/fdb?colour=red", None);
    assert_eq!(status, 400);
    let problem: Problem = serde_json::from_str(&body).expect("a problem");
    assert!(problem.error.contains("colour"), "{problem:?}");
    assert_eq!(daemon.asks("GET", "/api/fdb?vlan=seven", None).0, 400);
    let garbage = raw(UnixStream::connect(daemon.socket()).expect("connected"), "garbage\r\n\r\n");
    assert!(head(&garbage).contains("400"));
}

#[test]
fn the_checked_in_description_is_the_one_that_is_served() {
    let daemon = Daemon::start();
    let served =
        client::get::<serde_json::Value>(&daemon.socket(), "/api/openapi.json").expect("a description");
    assert_eq!(served, serde_json::to_value(description()).expect("JSON"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = serde_json::to_string_pretty(&served).expect("JSON") + "\n";
    if std::env::var_os("RINGWAY_WRITE_OPENAPI").is_some() {
        std::fs::write(&file, &text).expect("written");
    }
    let checked_in = std::fs::read_to_string(&file).expect("docs/openapi.json");
    assert!(
        checked_in == text,
        "docs/openapi.json is out of date; run this test with RINGWAY_WRITE_OPENAPI=1"
    );
}

/// All methods that a path may have.
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "PATCH", "DELETE"];

#[test]
fn routes_and_description_are_the_same() {
    let daemon = Daemon::start();
    let description = serde_json::to_value(description()).expect("JSON");
    let paths = description["paths"].as_object().expect("paths");
    let names: Vec<&str> = paths.keys().map(String::as_str).collect();
    for needed in [
        "/api/config",
        "/api/config/check",
        "/api/disks",
        "/api/disks/{name}",
        "/api/disks/{name}/resize",
        "/api/fdb",
        "/api/groups",
        "/api/openapi.json",
        "/api/ports",
        "/api/ports/{name}",
        "/api/ports/{name}/reopen",
        "/api/reload",
        "/api/status",
        "/api/switches",
        "/api/switches/{name}",
    ] {
        assert!(names.contains(&needed), "{needed} in {names:?}");
    }
    for (path, operations) in paths {
        let name = match path {
            path if path.contains("/switches/") => "lan",
            path if path.contains("/disks/") => "root",
            _ => "web",
        };
        let concrete = path.replace("{name}", name);
        for method in METHODS {
            let described = operations[method.to_lowercase()].is_object();
            let (status, body) = daemon.asks(method, &concrete, Some("{}"));
            let routed = status != 405 && !body.contains("there is no such path");
            assert_eq!(routed, described, "{method} {path}: {status} {body}");
        }
    }
}

/// The keys of a schema's properties.
fn properties(description: &serde_json::Value, schema: &str) -> BTreeSet<String> {
    let schema = &description["components"]["schemas"][schema];
    let object = match schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        Some(forms) => forms.iter().find(|form| form["properties"].is_object()).expect("an object"),
        None => schema,
    };
    object["properties"].as_object().expect("properties").keys().cloned().collect()
}

#[test]
fn bodies_have_the_keys_of_the_file() {
    let description = serde_json::to_value(description()).expect("JSON");
    let pairs = [
        ("ConfigSpec", keys::SECTIONS),
        ("ControlSpec", keys::CONTROL),
        ("WorkersSpec", keys::WORKERS),
        // `[worker-group.NAME]` has the same.
        ("WorkersSpec", keys::WORKERS),
        ("SwitchSpec", keys::SWITCH),
        ("PortSpec", keys::PORT),
        ("VhostUserSpec", keys::VHOST_USER),
        ("VfioUserSpec", keys::VFIO_USER),
        ("TapSpec", keys::TAP),
        ("MacvtapSpec", keys::MACVTAP),
        ("PacketSpec", keys::PACKET),
        ("AfXdpSpec", keys::AF_XDP),
        ("RateLimitSpec", keys::RATE_LIMIT),
        ("VlanSpec", keys::VLAN),
        ("PortFdbSpec", keys::FDB),
        ("QmpSpec", keys::QMP),
        ("DiskSpec", keys::DISK),
        ("DiskVhostUserSpec", keys::DISK_VHOST_USER),
        ("DiskVfioUserSpec", keys::DISK_VFIO_USER),
        ("DiskRateLimitSpec", keys::DISK_RATE_LIMIT),
    ];
    assert_eq!(
        pairs.len(),
        1 + keys::ALL.len(),
        "every table of the file has its schema, and the whole has one"
    );
    for (schema, keys) in pairs {
        let expected: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(properties(&description, schema), expected, "{schema}");
    }
}

#[test]
fn large_and_unfinished_requests_disturb_nobody() {
    let daemon = Daemon::start();
    let mut silent = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX / 2 {
        let mut stream = UnixStream::connect(daemon.socket()).expect("connected");
        stream.write_all(b"GET /api/st").expect("sent");
        silent.push(stream);
    }
    let mut flood = UnixStream::connect(daemon.socket()).expect("connected");
    let _ =
        flood.write_all(format!("GET /{} HTTP/1.1\r\n", "x".repeat(4 * server::HEAD_BYTES_MAX)).as_bytes());
    let mut answer = Vec::new();
    let _ = flood.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(client::get::<Status>(&daemon.socket(), "/api/status").expect("status"), status());
    // The header time ends the silent ones: their streams are closed from the other side.
    let mut rest = Vec::new();
    let _ = silent[0].read_to_end(&mut rest);
}

#[test]
fn the_socket_is_private_and_removed_at_the_end() {
    let mut daemon = Daemon::start();
    let mode = std::fs::metadata(daemon.socket()).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    daemon.stop();
    assert!(!daemon.socket().exists());
}

#[test]
fn a_running_one_is_respected_and_a_dead_one_replaced() {
    let daemon = Daemon::start();
    let second = Listeners::bind(&control(daemon.directory.path()));
    assert!(matches!(second, Err(ServeError::AnotherRuns(path)) if path == daemon.socket()));
    assert!(client::get::<Status>(&daemon.socket(), "/api/status").is_ok());

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).expect("bound"));
    drop(Listeners::bind(&control(directory.path())).expect("the dead socket is replaced"));
    assert!(!path.exists());

    std::fs::write(&path, "precious").expect("written");
    assert!(matches!(Listeners::bind(&control(directory.path())), Err(ServeError::NoSocket(_))));
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
}

#[test]
fn a_socket_that_took_our_place_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let listeners = Listeners::bind(&control(directory.path())).expect("bound");
    let path = directory.path().join("control.sock");
    std::fs::rename(&path, directory.path().join("old")).expect("moved");
    let _other = UnixListener::bind(&path).expect("bound");
    drop(listeners);
    assert!(path.exists());
}

#[test]
fn status_on_one_screen() {
    let daemon = Daemon::start();
    let text = daemon.prints(&["status"]);
    assert!(
        text.starts_with("ringway 0.1.0, process 7, up 7m 1s; 1 of 2 ports and 1 of 2 disks running\n"),
        "{text}"
    );
    for part in [
        "SWITCH  PORTS  FDB ENTRIES\n",
        "worker-0  pool    3       4  0.0 s      11      0\n",
        "uplink",
        "eth1\n",
        "scratch  vfio-user   waiting  64 MiB         0",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json: Status = serde_json::from_str(&daemon.prints(&["status", "--json"])).expect("JSON");
    assert_eq!(json, status());
}

#[test]
fn ports_are_listed() {
    let daemon = Daemon::start();
    let text = daemon.prints(&["port", "list"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("2.50 kB") && text.contains("running, shut: guard"), "{text}");
    let json: Vec<PortView> =
        serde_json::from_str(&daemon.prints(&["port", "list", "--json"])).expect("JSON");
    assert_eq!(json, [web(), uplink()]);
    let nobody = "ringway: there is no port \"nobody\"\n";
    daemon.ringway(&["port", "show", "nobody"]).assert().code(1).stderr(nobody);
}

#[test]
fn a_port_is_shown_with_all_that_is_known_of_it() {
    let daemon = Daemon::start();
    let text = daemon.prints(&["port", "show", "web"]);
    for line in [
        "state         running, shut: guard",
        "drops         2 no-buffer",
        "fault         -",
        "fdb           1 learned, 2 pinned, 3 evicted",
        "known         52:54:00:00:00:01 (configuration)",
        "filter        52:54:00:00:00:07 (by control-queue); unicast 52:54:00:00:00:08; groups 33:33:00:00:00:01; \
         promiscuous; 4 changes; last refused: 52:54:00:00:00:09 is not allowed",
        "uplink        -",
        "profile       guest",
        "on            enabled, locked, guard",
        "off           learning, flood, multicast-flood, broadcast-flood, isolated, hairpin, neighbour-suppression, multicast-router, multicast-fast-leave",
        "limits        mac-limit 1, broadcast 1000/s, groups 64",
        "source ips    10.0.0.5",
        "vlans         native 10, all 10 20-29",
        "link-local    -",
        "mac change    deny",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
    }
    assert!(text.contains("descriptor loop\n"), "{text}");
    let uplink = daemon.prints(&["port", "show", "uplink"]);
    let line = "uplink        promiscuous because port vm3 learns; unicast 52:54:00:00:00:01; all groups; 7 operations";
    assert!(uplink.lines().any(|found| found == line), "{uplink}");
    let line = "zero copy     12 frames, 15.00 kB from 1024 bytes on; 2 pending; 1 abandoned; copied: 3 group 4 short; \
                web/0 on queue 1, the kernel copies; db/0 not: eth1 has 2 transmit queues";
    assert!(uplink.lines().any(|found| found == line), "{uplink}");
    let json: PortView =
        serde_json::from_str(&daemon.prints(&["port", "show", "web", "--json"])).expect("JSON");
    assert_eq!(json, web());
}

#[test]
fn switches_fdb_and_groups_are_listed() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.prints(&["switch", "list"]),
        "SWITCH  PORTS  FDB ENTRIES    OF  AGEING  VLAN    SNOOPING\n\
         lan         2            1  8192   5m 0s  802.1q  yes\n"
    );
    let table = "SWITCH  VLAN  MAC                PORT  KIND       AGE  WHY\n\
                 lan       10  52:54:00:00:00:01  web   learned  1m 5s  seen in a frame\n";
    for words in [
        &["fdb", "list"][..],
        &["fdb", "list", "--switch", "lan", "--port", "web", "--vlan", "10", "--kind", "learned"],
        &["fdb", "list", "--mac", "52:54:00:00:00:01"],
    ] {
        assert_eq!(daemon.prints(words), table, "{words:?}");
    }
    assert_eq!(daemon.prints(&["fdb", "list", "--kind", "static"]).lines().count(), 1);
    let json: Vec<FdbView> = serde_json::from_str(&daemon.prints(&["fdb", "list", "--json"])).expect("JSON");
    assert_eq!(json, [learned()]);
    assert_eq!(daemon.fails(&["fdb", "list", "--switch", "wan"]), "ringway: there is no switch \"wan\"\n");
    for words in [["--vlan", "4095"], ["--mac", "52:54:00:00:00:0g"], ["--kind", "odd"], ["--port", "a b"]] {
        daemon.ringway(&["fdb", "list"]).args(words).assert().code(2);
    }
    assert_eq!(
        daemon.prints(&["group", "list", "--switch", "lan"]),
        "SWITCH  VLAN  GROUP              PORTS        EXPIRES\n\
         lan       10  01:00:5e:00:00:fb  web, uplink   2m 10s\n"
    );
    let json: Vec<GroupView> =
        serde_json::from_str(&daemon.prints(&["group", "list", "--json"])).expect("JSON");
    assert_eq!(json, [group()]);
}

#[test]
fn vmm_args_from_the_daemon() {
    let daemon = Daemon::start();
    let text = daemon.prints(&["vmm-args", "web", "--for", "qemu"]);
    assert!(text.contains("path=/run/ringway/web.sock,reconnect-ms=1000"), "{text}");
    assert!(text.contains("mac=52:54:00:00:00:01,mq=on,vectors=6,host_mtu=1500"), "{text}");
    let packet = predicate::str::contains("is a packet");
    daemon.ringway(&["vmm-args", "uplink", "--for", "qemu"]).assert().code(1).stderr(packet);
}
