//! `docs/configuration.md` and the reader know the same keys.

use super::parse;
use ringway::config::keys;

const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

/// The part of the document under a heading, up to the next one.
fn section(heading: &str) -> &'static str {
    let at = DOCUMENT.find(&format!("# `{heading}`\n")).unwrap_or_else(|| panic!("no heading for {heading}"));
    let part = &DOCUMENT[at..];
    let end = part[1..].find("\n#").map_or(part.len(), |end| end + 1);
    &part[..end]
}

#[test]
fn every_key_is_described_under_its_heading() {
    for (heading, known) in keys::ALL {
        let described: Vec<&str> =
            section(heading).lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(described, *known, "{heading}");
    }
    for name in keys::SECTIONS {
        assert!(DOCUMENT.contains(&format!("## `[{name}")), "{name}");
    }
}

#[test]
fn every_example_is_accepted() {
    let examples: Vec<&str> =
        DOCUMENT.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 5, "{}", examples.len());
    for example in examples {
        parse(example).unwrap_or_else(|error| panic!("{example}\n{error}"));
    }
}

/// Each key of a table is known to the reader, and none other: whatever its value, it is not called unknown.
#[test]
fn the_reader_knows_the_keys_that_are_listed() {
    let tables = [
        ("[control]\n", keys::CONTROL),
        ("[workers]\n", keys::WORKERS),
        ("[worker-group.a]\n", keys::WORKERS),
        ("[switch.a]\n", keys::SWITCH),
        ("[port.a]\n", keys::PORT),
        ("[port.a.vhost-user]\n", keys::VHOST_USER),
        ("[port.a.vfio-user]\n", keys::VFIO_USER),
        ("[port.a.tap]\n", keys::TAP),
        ("[port.a.macvtap]\n", keys::MACVTAP),
        ("[port.a.packet]\n", keys::PACKET),
        ("[port.a.af-xdp]\n", keys::AF_XDP),
        ("[port.a.rate-limit]\n", keys::RATE_LIMIT),
        ("[port.a.vlan]\n", keys::VLAN),
        ("[[port.a.fdb]]\n", keys::FDB),
        ("[port.a.qmp]\n", keys::QMP),
        ("[disk.a]\n", keys::DISK),
        ("[disk.a.vhost-user]\n", keys::DISK_VHOST_USER),
        ("[disk.a.vfio-user]\n", keys::DISK_VFIO_USER),
        ("[disk.a.rate-limit]\n", keys::DISK_RATE_LIMIT),
    ];
    assert_eq!(tables.len(), keys::ALL.len());
    for (table, known) in tables {
        for key in known {
            // No key takes a date: each says so of its own value.
            let error = parse(&format!("{table}{key} = 2000-01-01\n")).expect_err(key);
            let says =
                |what: &str| error.mistakes.iter().any(|m| m.field.ends_with(key) && m.what.contains(what));
            assert!(says("is a datetime"), "{table}{key}: {error}");
            assert!(!says("unknown key"), "{table}{key}: {error}");
        }
        let error = parse(&format!("{table}zz = 2000-01-01\n")).expect_err(table);
        assert!(error.mistakes.iter().any(|m| m.accepted == known.join(", ")), "{table}: {error}");
    }
}
