//! The configuration as a document that the control API edits: what goes in comes out, mistakes name the field, and
//! nothing that a network can say breaks it.

use std::path::Path;

use super::{GOOD, parse};
use proptest::prelude::*;
use ringway::config::document::Document;
use ringway::config::{self, ConfigError};
use serde_json::{Map, Value, json};

fn file() -> &'static Path {
    Path::new("/etc/ringway/ringway.toml")
}

fn document() -> Document {
    Document::parse(GOOD, file()).expect("TOML")
}

/// The mistakes as `FIELD: WHAT`; every one has line 0.
fn mistakes<T: std::fmt::Debug>(outcome: Result<T, ConfigError>) -> Vec<String> {
    let error = outcome.expect_err("a mistake");
    assert!(error.mistakes.iter().all(|mistake| mistake.line == 0), "{error}");
    assert!(!error.to_string().contains("line"), "{error}");
    error.mistakes.iter().map(|mistake| format!("{}: {}", mistake.field, mistake.what)).collect()
}

#[test]
fn a_document_means_what_its_file_means() {
    let loaded = parse(GOOD).expect("no mistake");
    let document = document();
    assert_eq!(document.check().expect("no mistake").config, loaded.config);
    let again = Document::parse(&document.to_toml(), file()).expect("TOML");
    assert_eq!(again, document);
    let over_json = document.replaced(document.to_json()).expect("an object");
    assert_eq!(over_json.to_json(), document.to_json());
    let mut ports = over_json.check().expect("no mistake").config.ports;
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    let mut expected = loaded.config.ports;
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(ports, expected);
}

#[test]
fn a_file_is_loaded_and_relative_paths_start_from_its_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ringway.toml");
    std::fs::write(&path, "[switch.lan]\n[port.a]\nswitch='lan'\nvhost-user.socket='a.sock'\n")
        .expect("written");
    let document = Document::load(&path).expect("TOML");
    let config = document.check().expect("no mistake").config;
    assert_eq!(config.ports[0].attach.socket(), Some(directory.path().join("a.sock").as_path()));
    std::fs::write(&path, "[switch.lan\n").expect("written");
    let error = Document::load(&path).expect_err("no TOML");
    assert_eq!((error.mistakes[0].line, error.mistakes[0].field.as_str()), (1, "syntax"));
    assert!(Document::load(&directory.path().join("absent")).is_err());
}

#[test]
fn ports_and_switches_come_and_go() {
    let before = document();
    assert!(before.has("port", "web") && before.has("switch", "lan"));
    assert!(!before.has("port", "lan") && !before.has("gpu", "x"));
    let port = json!({ "switch": "new", "tap": { "name": "rw9" }, "vlan": { "trunk": [10, "20-30"] } });
    let edited = before.with_switch("new", json!({ "vlan": "802.1q", "ageing": "1h" })).expect("an object");
    let edited = edited.with_port("nine", port).expect("an object");
    let config = edited.check().expect("no mistake").config;
    assert_eq!(config.ports.last().map(|port| port.name.as_str()), Some("nine"), "new ones come last");
    assert_eq!(config.switches.last().map(|switch| switch.ageing.as_secs()), Some(3600));
    assert_eq!(edited.without_port("nine").without_switch("new"), before);
    assert_eq!(before.without_port("nobody"), before);
    let names = |document: &Document| -> Vec<String> {
        let config = document.check().expect("no mistake").config;
        config.ports.into_iter().map(|port| port.name).collect()
    };
    let put = before.with_port("web", json!({ "switch": "lan", "tap": { "name": "x" } })).expect("an object");
    assert_eq!(names(&put), names(&before), "in the same place");
    assert_eq!(names(&before.without_port("web")), ["db", "uplink"]);
    let from_nothing = Document::empty(file()).with_switch("s", json!({})).expect("an object");
    assert_eq!(from_nothing.check().expect("no mistake").config.switches.len(), 1);
}

#[test]
fn a_patch_changes_single_keys() {
    let before = document();
    let patch = json!({ "mtu": null, "flood": false, "rate-limit": { "broadcast": 5 }, "vhost-user": { "queue-pairs": 4 } });
    let edited = before.merge_port("web", patch).expect("an object");
    let port = &edited.to_json()["port"]["web"];
    assert_eq!(port["vhost-user"], json!({ "socket": "/run/ringway/web.sock", "queue-pairs": 4 }));
    assert_eq!(
        (port["flood"].clone(), port["rate-limit"].clone()),
        (json!(false), json!({ "broadcast": 5 }))
    );
    assert!(port.get("mtu").is_none());
    let config = edited.check().expect("no mistake").config;
    assert_eq!(config.ports[0].mtu, None);
    let back = json!({ "mtu": 9000, "flood": null, "rate-limit": { "broadcast": null }, "vhost-user": { "queue-pairs": 2 } });
    let back = edited.merge_port("web", back).expect("an object");
    assert_eq!(back.to_json(), before.to_json(), "a table that has lost its last key is gone");
    let lists = before.merge_port("web", json!({ "macs": ["52:54:00:00:00:77"] })).expect("an object");
    let lists = lists.merge_port("web", json!({ "macs": ["52:54:00:00:00:78"] })).expect("an object");
    assert_eq!(lists.to_json()["port"]["web"]["macs"], json!(["52:54:00:00:00:78"]), "a list is one value");
    let switch =
        before.merge_switch("dmz", json!({ "max-entries": null, "ageing": "1m" })).expect("an object");
    assert_eq!(switch.to_json()["switch"]["dmz"], json!({ "ageing": "1m" }));
    let moved = json!({ "vhost-user": null, "tap": { "name": "rw7" } });
    let moved = before.merge_port("web", moved).expect("an object").check().expect("no mistake").config;
    assert_eq!(moved.ports[0].attach.kind(), "tap");
}

#[test]
fn mistakes_of_an_edit_name_the_field_and_no_line() {
    let before = document();
    let edited =
        before.with_port("web", json!({ "switch": "wan", "tap": { "name": "rw0" }, "mtu": 1, "colour": 2 }));
    let found = mistakes(edited.expect("an object").check());
    assert_eq!(
        found,
        [
            "port.uplink.tap.name: \"rw0\" is used already by port.web.tap.name",
            "port.web.colour: unknown key \"colour\"",
            "port.web.mtu: 1 is out of range",
            "port.web.switch: there is no switch \"wan\"",
        ]
    );
    let found = mistakes(before.without_switch("dmz").check());
    assert_eq!(found, ["port.db.switch: there is no switch \"dmz\""]);
    let found = mistakes(
        before
            .with_port("a b", json!({ "switch": "lan", "tap": { "name": "t" } }))
            .expect("an object")
            .check(),
    );
    assert_eq!(found, ["port.a b: \"a b\" is no name"]);
    assert_eq!(
        mistakes(before.merge_port("nobody", json!({}))),
        ["port.nobody: there is no port \"nobody\""]
    );
    assert_eq!(mistakes(before.with_port("web", json!([1]))), ["port.web: is an array, not an object"]);
    assert_eq!(mistakes(before.merge_port("web", json!(null))), ["port.web: is null, not an object"]);
    let wrong = json!({ "mtu": null, "mac-limit": u64::MAX, "vlan": { "access": null } });
    assert_eq!(
        mistakes(before.with_port("web", wrong)),
        [
            "port.web.mac-limit: 18446744073709551615 is out of range",
            "port.web.mtu: is null",
            "port.web.vlan.access: is null"
        ]
    );
    let float = before.merge_port("web", json!({ "mtu": 1500.5 })).expect("an object").check();
    assert_eq!(mistakes(float), ["port.web.mtu: is a float, not an integer"]);
    assert_eq!(mistakes(Document::from_json(json!("x"))), ["file: is a string, not an object"]);
    let flat = Document::parse("port = 5", file()).expect("TOML");
    assert_eq!(mistakes(flat.with_port("web", json!({}))), ["port: is no table of port tables"]);
}

#[test]
fn a_hostile_body_is_bounded() {
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let found = mistakes(document().with_port("web", json!({ "mtu": deep })));
    assert!(found[0].ends_with("is nested too deeply"), "{found:?}");
    let mut patch = json!(1);
    for _ in 0..100 {
        patch = json!({ "a": patch });
    }
    assert!(mistakes(document().merge_port("web", patch))[0].ends_with("is nested too deeply"));
    let large = "x".repeat(config::FILE_BYTES_MAX as usize);
    assert_eq!(
        mistakes(document().with_port("web", json!({ "mac": large }))),
        ["port.web.mac: is too large"]
    );
    let many: Vec<Value> = vec![json!(null); 5_000_000];
    assert!(mistakes(document().with_port("web", json!({ "macs": many }))).len() <= 101);
    // One edit after the other: the sum is bounded too.
    let mut grown = document();
    for index in 0..5 {
        grown =
            grown.with_port(&format!("p{index}"), json!({ "mac": "x".repeat(1 << 20) })).expect("an object");
    }
    assert_eq!(mistakes(grown.check()), ["file: is larger than 4194304 bytes"]);
    let long_key = json!({ "k".repeat(1 << 20): null, "\u{1b}[2J": null });
    let found = mistakes(document().with_port("web", long_key));
    assert!(found.iter().all(|text| text.len() < 120 && !text.contains('\u{1b}')), "{found:?}");
}

/// Words that mean something to the reader, so that values get far.
const WORDS: &[&str] = &[
    "lan",
    "dmz",
    "web",
    "rw0",
    "e",
    "/w",
    "guest",
    "open",
    "802.1q",
    "none",
    "deny",
    "allow",
    "static",
    "dynamic",
    "52:54:00:00:00:01",
    "52:54:00:00:00:02",
    "10.0.0.5",
    "fd00::/64",
    "20-30",
    "5m",
    "pool",
    "server",
    "auto",
    "",
];

fn key() -> impl Strategy<Value = String> {
    let known: Vec<&str> = config::keys::ALL.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    prop_oneof![
        8 => prop::sample::select(known).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["web", "db", "lan", "dmz"]).prop_map(str::to_owned),
        1 => ".*",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        3 => any::<bool>().prop_map(Value::from),
        4 => (0i64..70_000).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        6 => prop::sample::select(WORDS).prop_map(Value::from),
        1 => ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from), table(inner),]
    })
}

fn table(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec((key(), inner), 0..8)
        .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>()))
}

fn whole() -> impl Strategy<Value = Value> {
    let port = || table(value());
    let named = |names: &'static [&'static str]| {
        prop::collection::vec((prop::sample::select(names), port()), 0..3).prop_map(|entries| {
            Value::Object(entries.into_iter().map(|(name, port)| (name.to_owned(), port)).collect())
        })
    };
    (named(&["lan", "dmz"]), named(&["web", "db", "uplink"]), value(), value()).prop_map(
        |(switches, ports, control, workers)| {
            json!({ "switch": switches, "port": ports, "control": control, "workers": workers })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_judged_and_what_is_taken_comes_back(value in prop_oneof![value(), whole()]) {
        let Ok(document) = Document::from_json(value.clone()) else { return Ok(()) };
        prop_assert_eq!(document.to_json(), value);
        let text = document.to_toml();
        let again = Document::parse(&text, Path::new("configuration"));
        prop_assert_eq!(again.map(|document| document.to_json()), Ok(document.to_json()), "{}", text);
        let judged = document.check();
        if let Ok(loaded) = &judged {
            prop_assert_eq!(parse(&text).map(|loaded| loaded.config.ports).ok(), Some(loaded.config.ports.clone()));
            prop_assert!(loaded.config.diff(&loaded.config).is_empty());
        }
    }

    #[test]
    fn any_edit_is_judged(port in value(), patch in value(), name in ".*") {
        let before = document();
        for edited in [
            before.with_port(&name, port.clone()),
            before.with_switch("lan", port),
            before.merge_port("web", patch.clone()),
            before.merge_switch("dmz", patch),
        ] {
            if let Ok(loaded) = edited.and_then(|document| document.check()) {
                let _ = parse(GOOD).expect("no mistake").config.diff(&loaded.config);
            }
        }
    }

    #[test]
    fn any_text_is_judged(text in ".*", at in 0..GOOD.len(), len in 0usize..40) {
        let _ = parse(&text);
        // A good file with a piece cut out and another one put in.
        let end = (at + len).min(GOOD.len());
        if GOOD.is_char_boundary(at) && GOOD.is_char_boundary(end) {
            let cut = format!("{}{text}{}", &GOOD[..at], &GOOD[end..]);
            if parse(&cut).is_ok() {
                prop_assert!(Document::parse(&cut, file()).is_ok_and(|document| document.check().is_ok()));
            }
        }
    }
}
