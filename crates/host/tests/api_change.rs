//! Changes of the configuration over the control API and its commands, with a stand-in for the data plane.

mod fake;

use std::sync::atomic::Ordering::SeqCst;

use fake::{Daemon, FILE, learned};
use ringway::api::Plane as _;
use ringway::api::client::{self, Ask, ClientError};
use ringway::api::view::*;
use ringway::config::mac_text;
use serde_json::{Value, json};

impl Daemon {
    fn change(&self, method: &str, path: &str, body: Value) -> Result<ChangeView, Problem> {
        let method = method.parse().expect("a method");
        match client::send(&self.socket(), &Ask::change(method, path, Some(body))) {
            Ok(change) => Ok(change),
            Err(ClientError::Refused(problem)) => Err(problem),
            Err(other) => panic!("{other}"),
        }
    }

    fn applied(&self) -> usize {
        self.fake.applied.load(SeqCst)
    }

    fn document(&self) -> Value {
        client::get(&self.socket(), "/api/config").expect("a configuration")
    }
}

fn changed(names: &[&str], untouched: usize) -> ChangeView {
    let changed = names.iter().map(|name| (*name).to_owned()).collect();
    ChangeView { changed, untouched, ..ChangeView::default() }
}

fn fields(problem: &Problem) -> Vec<&str> {
    problem.mistakes.iter().map(|mistake| mistake.field.as_str()).collect()
}

#[test]
fn a_port_is_added_changed_and_removed() {
    let daemon = Daemon::start();
    let table = json!({"switch": "lan", "vhost-user": {"socket": "new.sock"}, "mac": "52:54:00:00:00:03"});
    let added = daemon.change("PUT", "/api/ports/new", table.clone()).expect("added");
    assert_eq!(added.added, ["port.new"]);
    assert_eq!(added.untouched, 3);
    assert_eq!(daemon.document()["port"]["new"], table, "as it was given");
    let config = daemon.fake.config();
    let port = config.ports.iter().find(|port| port.name == "new").expect("in the plane");
    assert_eq!(port.mac.map(mac_text).as_deref(), Some("52:54:00:00:00:03"));

    let patched = daemon.change("PATCH", "/api/ports/new", json!({"flood": true, "vlan": {"access": 10}}));
    assert_eq!(patched, Ok(changed(&["port.new"], 3)));
    assert_eq!(daemon.document()["port"]["new"]["vlan"], json!({"access": 10}));
    let again = daemon.change("PATCH", "/api/ports/new", json!({"flood": null, "vlan": null}));
    assert_eq!(again, Ok(changed(&["port.new"], 3)));
    assert_eq!(daemon.document()["port"]["new"], table);
    let nothing = daemon.change("PATCH", "/api/ports/new", json!({"flood": null})).expect("nothing to do");
    assert_eq!(nothing, changed(&[], 4));

    let (status, body) = daemon.asks("DELETE", "/api/ports/new", None);
    let removed: ChangeView = serde_json::from_str(&body).expect("a change");
    assert_eq!((status, removed.removed), (200, vec!["port.new".to_owned()]));
    assert_eq!(daemon.fake.config().ports.len(), 2);
}

#[test]
fn an_existing_port_is_replaced_unless_it_shall_be_new() {
    let daemon = Daemon::start();
    let table = json!({"switch": "lan", "vhost-user": {"socket": "other.sock"}});
    let only_new =
        Ask::change("PUT".parse().expect("a method"), "/api/ports/web", Some(table.clone())).only_new();
    let error = client::send::<Value>(&daemon.socket(), &only_new).expect_err("refused");
    assert_eq!(error.to_string(), "there is a port \"web\" already");
    assert_eq!(daemon.applied(), 0);
    let replaced = daemon.change("PUT", "/api/ports/web", table.clone()).expect("replaced");
    assert_eq!(replaced.replaced, ["port.web"]);
    assert_eq!(daemon.document()["port"]["web"], table);
}

#[test]
fn every_mistake_is_named_and_nothing_changes() {
    let daemon = Daemon::start();
    let before = daemon.document();
    let table = json!({"switch": "wan", "vhost-user": {"sokcet": "x"}, "mac": 5, "colour": "red"});
    let problem = daemon.change("PUT", "/api/ports/new", table).expect_err("mistakes");
    let named = fields(&problem);
    for field in ["port.new.switch", "port.new.vhost-user.sokcet", "port.new.mac", "port.new.colour"] {
        assert!(named.contains(&field), "{field} in {problem:?}");
    }
    assert!(problem.mistakes.iter().all(|mistake| mistake.line.is_none() && !mistake.accepted.is_empty()));
    // The whole document is looked at, not only the port.
    let taken = json!({"switch": "lan", "vhost-user": {"socket": "x.sock"}, "mac": "52:54:00:00:00:01"});
    let problem = daemon.change("PUT", "/api/ports/new", taken).expect_err("taken");
    assert!(problem.mistakes[0].field.ends_with(".mac"), "{problem:?}");
    let problem = daemon.change("DELETE", "/api/switches/lan", Value::Null).expect_err("in use");
    assert_eq!(fields(&problem), ["port.db.switch", "port.web.switch"]);
    // What this machine lacks is a mistake too.
    let nowhere = json!({"switch": "lan", "vhost-user": {"socket": "/no/where/x.sock"}});
    let problem = daemon.change("PUT", "/api/ports/new", nowhere).expect_err("no directory");
    assert_eq!(fields(&problem), ["port.new.vhost-user.socket"]);
    let problem = daemon.change("PUT", "/api/ports/a%2Fb", json!({})).expect_err("no name");
    assert!(!problem.mistakes.is_empty());
    assert_eq!(daemon.applied(), 0);
    assert_eq!(daemon.document(), before);
}

#[test]
fn what_the_plane_cannot_do_is_not_kept() {
    let daemon = Daemon::start();
    let before = daemon.document();
    let table = json!({"switch": "lan", "vhost-user": {"socket": "c.sock"}}).to_string();
    let (status, body) = daemon.asks("PUT", "/api/ports/cursed", Some(&table));
    let problem: Problem = serde_json::from_str(&body).expect("a problem");
    assert_eq!((status, problem.error.as_str()), (500, "port.cursed: cannot be made"));
    assert_eq!(daemon.document(), before);
    // The next change does not trip over it.
    let patched = daemon.change("PATCH", "/api/ports/web", json!({"flood": true}));
    assert_eq!(patched, Ok(changed(&["port.web"], 2)));
}

#[test]
fn bodies_that_are_no_json_objects_are_refused() {
    let daemon = Daemon::start();
    for (body, expected) in [
        ("", 400),
        ("{", 400),
        ("[]", 422),
        ("5", 422),
        ("null", 422),
        ("\"text\"", 422),
        (r#"{"mtu": null}"#, 422),
        (r#"{"mtu": 1e99}"#, 422),
        (r#"{"mtu": 99999999999999999999}"#, 422),
        (r#"{"vlan": {"a": {"b": {"c": {"d": 1}}}}}"#, 422),
    ] {
        let (status, text) = daemon.asks("PUT", "/api/ports/new", Some(body));
        assert_eq!(status, expected, "{body}: {text}");
        assert!(serde_json::from_str::<Problem>(&text).is_ok(), "{body}: {text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(daemon.asks("PUT", "/api/ports/new", Some(&deep)).0, 400);
    let large = format!("{{\"macs\": \"{}\"}}", "x".repeat(ringway::api::BODY_BYTES_MAX));
    assert_eq!(daemon.asks("PUT", "/api/ports/new", Some(&large)).0, 413);
    assert_eq!(daemon.asks("PUT", "/api/config", Some(&large)).0, 422, "a whole configuration may be larger");
    let stream = std::os::unix::net::UnixStream::connect(daemon.socket()).expect("connected");
    let form = "PUT /api/ports/new HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert!(fake::raw(stream, form).starts_with("HTTP/1.1 415"), "what a page's form can send");
    assert_eq!(daemon.applied(), 0);
}

#[test]
fn names_that_are_not_there_are_404() {
    let daemon = Daemon::start();
    for (method, path) in [
        ("PATCH", "/api/ports/nobody"),
        ("DELETE", "/api/ports/nobody"),
        ("PATCH", "/api/switches/wan"),
        ("DELETE", "/api/switches/wan"),
        ("POST", "/api/ports/nobody/reopen"),
        ("DELETE", "/api/fdb?port=nobody"),
    ] {
        assert_eq!(daemon.asks(method, path, Some("{}")).0, 404, "{method} {path}");
    }
}

#[test]
fn switches_come_and_go() {
    let daemon = Daemon::start();
    let added = daemon.change("PUT", "/api/switches/dmz", json!({"ageing": "1m"})).expect("added");
    assert_eq!(added.added, ["switch.dmz"]);
    let patched = daemon.change("PATCH", "/api/switches/dmz", json!({"ageing": "2m"}));
    assert_eq!(patched, Ok(changed(&["switch.dmz"], 3)));
    let (status, body) = daemon.asks("DELETE", "/api/switches/dmz", None);
    assert_eq!(status, 200, "{body}");
    assert_eq!(daemon.fake.config().switches.len(), 1);
}

#[test]
fn a_whole_configuration_is_tried_and_taken() {
    let daemon = Daemon::start();
    let mut whole = daemon.document();
    whole["port"]["web"]["flood"] = true.into();
    whole["port"]["db"]["mtu"] = 9000.into();
    whole["port"]["new"] = json!({"switch": "lan", "vhost-user": {"socket": "n.sock"}});
    whole["workers"] = json!({"mode": "pool", "threads": 3});
    let expected = ChangeView {
        added: vec!["port.new".into()],
        removed: Vec::new(),
        changed: vec!["port.web".into()],
        replaced: vec!["port.db".into()],
        untouched: 1,
        needs_restart: vec!["workers.mode".into()],
    };
    assert_eq!(daemon.change("POST", "/api/config/check", whole.clone()), Ok(expected.clone()));
    assert_eq!(daemon.applied(), 0, "a check changes nothing");
    assert_ne!(daemon.document(), whole);
    assert_eq!(daemon.change("PUT", "/api/config", whole.clone()), Ok(expected));
    assert_eq!((daemon.applied(), daemon.document()), (1, whole.clone()));
    whole["port"]["web"]["switch"] = "wan".into();
    for (method, path) in [("POST", "/api/config/check"), ("PUT", "/api/config")] {
        let problem = daemon.change(method, path, whole.clone()).expect_err("a mistake");
        assert_eq!(fields(&problem), ["port.web.switch"]);
    }
    assert_eq!(daemon.applied(), 1);
}

#[test]
fn a_reload_reads_the_file_and_names_its_lines() {
    let daemon = Daemon::start();
    assert_eq!(daemon.prints(&["reload"]), "nothing changed; 3 untouched\n");
    std::fs::write(daemon.file(), format!("{FILE}flood = true\n")).expect("written");
    assert_eq!(daemon.prints(&["reload"]), "changed: port.db; 2 untouched\n");
    std::fs::write(daemon.file(), format!("{FILE}flod = true\n")).expect("written");
    let said = daemon.fails(&["reload"]);
    assert!(said.starts_with("ringway: the configuration has mistakes\n  line 18: port.db.flod: "), "{said}");
    let applied = daemon.applied();
    std::fs::remove_file(daemon.file()).expect("removed");
    assert!(daemon.fails(&["reload"]).contains("cannot be read"));
    assert_eq!(daemon.applied(), applied);
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let daemon = Daemon::start();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let daemon = &daemon;
            scope.spawn(move || {
                let table = json!({"switch": "lan", "vhost-user": {"socket": format!("{number}.sock")}});
                daemon.change("PUT", &format!("/api/ports/p{number}"), table).expect("added");
            });
        }
    });
    assert_eq!(daemon.fake.config().ports.len(), 18);
    assert_eq!(daemon.document()["port"].as_object().expect("ports").len(), 18);
}

#[test]
fn fdb_entries_are_added_and_removed() {
    let daemon = Daemon::start();
    let added = daemon.prints(&["fdb", "add", "52:54:00:00:00:09", "--port", "web", "--vlan", "20"]);
    assert_eq!(added, "added: 52:54:00:00:00:09 behind port.web\n");
    let kept = daemon.fake.fdb.lock()[1].clone();
    assert_eq!((kept.kind.as_str(), kept.vlan, kept.port.as_str()), ("static", Some(20), "web"));
    let said = daemon.fails(&["fdb", "add", "01:00:5e:00:00:01", "--port", "web"]);
    assert_eq!(said, "ringway: \"01:00:5e:00:00:01\" is a multicast address\n");
    daemon.fails(&["fdb", "add", "52:54:00:00:00:09", "--port", "nobody"]);

    assert_eq!(daemon.prints(&["fdb", "flush", "--port", "web"]), "removed: 1 entry\n", "not the static one");
    assert_eq!(daemon.prints(&["fdb", "flush", "--all"]), "removed: 0 entries\n");
    assert_eq!(daemon.prints(&["fdb", "remove", "52:54:00:00:00:09"]), "removed: 1 entry\n");
    assert_eq!(
        daemon.fails(&["fdb", "remove", "52:54:00:00:00:09"]),
        "ringway: there is no such entry: 52:54:00:00:00:09\n"
    );
    assert!(daemon.fails(&["fdb", "flush"]).contains("say which entries"));
    daemon.ringway(&["fdb", "flush", "--all", "--port", "web"]).assert().code(2);

    daemon.fake.fdb.lock().push(learned());
    for query in ["", "?all=false", "?all=true&port=web", "?all=perhaps", "?colour=red"] {
        let status = daemon.asks("DELETE", &format!("/api/fdb{query}"), None).0;
        assert!((400..=422).contains(&status), "{query}: {status}");
    }
    assert_eq!(daemon.fake.fdb.lock().len(), 1);
    assert_eq!(daemon.asks("DELETE", "/api/fdb?all=true", None), (200, "{\"removed\":1}".into()));
    for body in ["{}", r#"{"mac":"52:54:00:00:00:01"}"#, r#"{"mac":5,"port":"web"}"#] {
        assert_eq!(daemon.asks("POST", "/api/fdb", Some(body)).0, 422, "{body}");
    }
    let strange = r#"{"mac":"52:54:00:00:00:01","port":"web","why":"x"}"#;
    assert_eq!(daemon.asks("POST", "/api/fdb", Some(strange)).0, 422);
}

#[test]
fn ports_by_command() {
    let daemon = Daemon::start();
    let words = ["port", "add", "vm", "switch=lan", "vhost-user.socket=vm.sock", "mac=52:54:00:00:00:05"];
    assert_eq!(daemon.prints(&words), "added: port.vm; 3 untouched\n");
    assert_eq!(daemon.fails(&words), "ringway: there is a port \"vm\" already\n");
    let set = ["port", "set", "vm", "rate-limit.broadcast=100", "flood=false", "vlan.access=10"];
    assert_eq!(daemon.prints(&set), "changed: port.vm; 3 untouched\n");
    let table = json!({
        "switch": "lan", "vhost-user": {"socket": "vm.sock"}, "mac": "52:54:00:00:00:05",
        "rate-limit": {"broadcast": 100}, "flood": false, "vlan": {"access": 10}
    });
    assert_eq!(daemon.document()["port"]["vm"], table);
    assert_eq!(
        daemon.prints(&["port", "set", "vm", "rate-limit.broadcast="]),
        "changed: port.vm; 3 untouched\n"
    );
    assert_eq!(daemon.document()["port"]["vm"].get("rate-limit"), None);
    assert_eq!(
        daemon.prints(&["port", "set", "vm", "mtu=9000"]),
        "stopped and started again: port.vm; 3 untouched\n"
    );
    let said = daemon.fails(&["port", "set", "vm", "floood=true", "mtu=1"]);
    assert!(said.contains("\n  port.vm.floood: unknown key \"floood\", did you mean \"flood\"?"), "{said}");
    assert!(said.contains("\n  port.vm.mtu: 1 is out of range; accepted: "), "{said}");
    let json: ChangeView =
        serde_json::from_str(&daemon.prints(&["port", "remove", "vm", "--json"])).expect("JSON");
    assert_eq!(json.removed, ["port.vm"]);
    assert_eq!(daemon.fails(&["port", "remove", "vm"]), "ringway: there is no port \"vm\"\n");
    assert_eq!(daemon.fails(&["port", "set", "vm", "mtu=1500"]), "ringway: there is no port \"vm\"\n");
    daemon.ringway(&["port", "set", "vm"]).assert().code(2);

    assert_eq!(daemon.prints(&["port", "reopen", "web"]), "reopened: port.web\n");
    assert_eq!(*daemon.fake.reopened.lock(), ["web"]);
    assert_eq!(daemon.fails(&["port", "reopen", "nobody"]), "ringway: there is no port \"nobody\"\n");
}

#[test]
fn switches_and_the_configuration_by_command() {
    let daemon = Daemon::start();
    assert_eq!(daemon.prints(&["switch", "add", "dmz"]), "added: switch.dmz; 3 untouched\n");
    assert_eq!(daemon.prints(&["switch", "set", "dmz", "ageing=1m"]), "changed: switch.dmz; 3 untouched\n");
    let shown = daemon.prints(&["config", "show"]);
    assert!(shown.contains("[switch.dmz]\nageing = \"1m\"\n"), "{shown}");
    let json: Value = serde_json::from_str(&daemon.prints(&["config", "show", "--json"])).expect("JSON");
    assert_eq!(json, daemon.document());
    // What is shown is a file.
    let saved = daemon.directory.path().join("saved.toml");
    std::fs::write(&saved, shown).expect("written");
    let saved = saved.display().to_string();
    assert_eq!(daemon.prints(&["config", "check", &saved]), "a reload would do this: nothing; 4 untouched\n");
    let file = daemon.file().display().to_string();
    assert_eq!(
        daemon.prints(&["config", "check", &file]),
        "a reload would do this: removed: switch.dmz; 3 untouched\n"
    );
    assert_eq!(daemon.prints(&["switch", "remove", "dmz"]), "removed: switch.dmz; 3 untouched\n");
    let said = daemon.fails(&["switch", "remove", "lan"]);
    assert!(said.contains("port.web.switch: "), "{said}");
    std::fs::write(daemon.file(), "[switch.lan]\nageing = 5\n").expect("written");
    let said = daemon.fails(&["config", "check", &file]);
    assert!(said.contains("ringway.toml:2: switch.lan.ageing: "), "{said}");
}
