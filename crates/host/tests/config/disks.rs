//! `[disk.NAME]`: what is accepted, and how what is not is named.

use super::parse;
use ringway::config::diff::DiskChange;
use ringway::config::resolved::{CacheMode, DiskConfig, ImageConfig, ImageFormat, Rate, SocketRole};
use std::path::PathBuf;

const ATTACH: &str = "vhost-user = { socket = \"/s\" }";

fn disk(keys: &str) -> DiskConfig {
    parse(&format!("[disk.a]\n{keys}\n")).expect("no mistake").config.disks.remove(0)
}

/// Field, mistake and what is accepted, of the only mistake.
fn mistake(text: &str) -> (String, String, String) {
    let error = parse(text).expect_err(text);
    assert_eq!(error.mistakes.len(), 1, "{error}");
    let mistake = &error.mistakes[0];
    (mistake.field.clone(), mistake.what.clone(), mistake.accepted.clone())
}

#[test]
fn every_default_is_filled_in() {
    let disk = disk(&format!("{ATTACH}\nfile = \"/d/root.img\""));
    let image =
        ImageConfig::File { path: PathBuf::from("/d/root.img"), format: ImageFormat::Raw, direct: None };
    assert_eq!(
        (disk.attach.kind(), disk.attach.queues, disk.attach.role),
        ("vhost-user", 1, SocketRole::Server)
    );
    assert_eq!((disk.image, disk.cache, disk.discard), (image, CacheMode::WriteBack, true));
    assert_eq!((disk.read_only, disk.block_size, disk.serial.as_str()), (false, None, ""));
    assert_eq!((disk.rates.requests, disk.rates.bytes, disk.workers), (None, None, None));
}

#[test]
fn the_format_is_that_of_the_name_unless_it_is_said() {
    let format = |keys: &str| match disk(&format!("{ATTACH}\n{keys}")).image {
        ImageConfig::File { format, .. } => format,
        other => panic!("{other:?}"),
    };
    assert_eq!(format("file = \"a.qcow2\""), ImageFormat::Qcow2 { backing_file: false });
    assert_eq!(format("file = \"a.qcow2\"\nformat = \"raw\""), ImageFormat::Raw);
    assert_eq!(
        format("file = \"a.img\"\nformat = \"qcow2\"\nbacking-file = true"),
        ImageFormat::Qcow2 { backing_file: true }
    );
}

#[test]
fn rates_have_bursts() {
    let rates =
        disk(&format!("{ATTACH}\nram = \"1M\"\nrate-limit = {{ iops = 500, bytes = \"100M\" }}")).rates;
    assert_eq!(rates.requests, Some(Rate { per_second: 500, burst: 50 }));
    assert_eq!(rates.bytes, Some(Rate { per_second: 100 << 20, burst: 10 << 20 }));
    let rates =
        disk(&format!("{ATTACH}\nram = \"1M\"\nrate-limit = {{ iops = 5, iops-burst = 7, bytes = \"1\" }}"))
            .rates;
    assert_eq!(rates.requests, Some(Rate { per_second: 5, burst: 7 }));
    assert_eq!(rates.bytes, Some(Rate { per_second: 1, burst: 1 << 20 }), "every request fits");
}

#[test]
fn a_function_is_described_as_a_port_s() {
    let disk =
        disk("vfio-user = { socket = \"/s\", queues = 3, interface = \"transitional\" }\nnull = \"1G\"");
    assert_eq!((disk.attach.kind(), disk.attach.queues), ("vfio-user", 3));
    assert_eq!(disk.image, ImageConfig::Null { bytes: 1 << 30 });
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (ATTACH.to_owned(), "disk.a", "has no bytes", "one of file"),
        (String::from("ram = \"1M\""), "disk.a", "is attached to nothing", "one of vhost-user"),
        (
            format!("{ATTACH}\nram = \"1M\"\nnull = \"1M\""),
            "disk.a.null",
            "has ram already",
            "exactly one of",
        ),
        (format!("{ATTACH}\nram = \"513\""), "disk.a.ram", "no size of a disk", "a multiple of 512"),
        (format!("{ATTACH}\nram = \"0\""), "disk.a.ram", "no size of a disk", "a multiple of 512"),
        (format!("{ATTACH}\nram = \"1M\"\ndirect = true"), "disk.a.direct", "is no file", "with file only"),
        (
            format!("{ATTACH}\nfile = \"x\"\nbacking-file = true"),
            "disk.a.backing-file",
            "based on nothing",
            "qcow2",
        ),
        (
            format!("{ATTACH}\nram = \"1M\"\nblock-size = 1000"),
            "disk.a.block-size",
            "no power of two",
            "512 to 65536",
        ),
        (
            format!("{ATTACH}\nram = \"1M\"\nserial = \"{}\"", "x".repeat(21)),
            "disk.a.serial",
            "no serial",
            "up to 20",
        ),
        (format!("{ATTACH}\nram = \"1M\"\ncache = \"none\""), "disk.a.cache", "unknown value", "write-back"),
        (
            format!("{ATTACH}\nram = \"1M\"\nrate-limit = {{ iops-burst = 1 }}"),
            "disk.a.rate-limit.iops-burst",
            "there is no rate",
            "with iops only",
        ),
        (format!("{ATTACH}\nram = \"1M\"\nworkers = \"fast\""), "disk.a.workers", "no group", "worker-group"),
        (
            format!("{ATTACH}\nvfio-user = {{ socket = \"/t\" }}\nram = \"1M\""),
            "disk.a.vfio-user",
            "attached already",
            "exactly one of",
        ),
    ];
    for (keys, field, what, accepted) in cases {
        let found = mistake(&format!("[disk.a]\n{keys}\n"));
        assert_eq!(found.0, field, "{keys}");
        assert!(found.1.contains(what) && found.2.contains(accepted), "{keys}: {found:?}");
    }
}

#[test]
fn a_file_that_is_written_is_one_disk_s_alone() {
    let two = |first: &str, second: &str| {
        format!(
            "[disk.a]\nvhost-user.socket = \"/a\"\nfile = \"/x\"\n{first}\n\
             [disk.b]\nvhost-user.socket = \"/b\"\nfile = \"/x\"\n{second}\n"
        )
    };
    let shared = "read-only = true";
    assert_eq!(parse(&two(shared, shared)).expect("shared").config.disks.len(), 2);
    for (first, second) in [("", ""), (shared, ""), ("", shared)] {
        let found = mistake(&two(first, second));
        assert!(found.0 == "disk.b.file" && found.1.contains("used already by disk.a.file"), "{found:?}");
    }
    let found = mistake(
        "[disk.a]\nvhost-user.socket = \"/a\"\nram = \"1M\"\n[disk.b]\nvhost-user.socket = \"/a\"\nram = \"1M\"\n",
    );
    assert!(found.1.contains("used already by disk.a.vhost-user.socket"), "{found:?}");
}

#[test]
fn only_rates_and_workers_change_while_it_runs() {
    let config =
        |keys: &str| parse(&format!("[worker-group.w]\n[disk.a]\n{ATTACH}\n{keys}\n")).expect("good").config;
    let base = config("ram = \"1M\"");
    let change =
        |keys: &str| base.diff(&config(keys)).disks_changed.iter().map(|c| c.change).collect::<Vec<_>>();
    assert_eq!(change("ram = \"1M\""), []);
    for live in ["rate-limit.iops = 5", "workers = \"w\""] {
        assert_eq!(change(&format!("ram = \"1M\"\n{live}")), [DiskChange::Live], "{live}");
    }
    for other in [
        "serial = \"x\"",
        "cache = \"write-through\"",
        "discard = false",
        "read-only = true",
        "block-size = 512",
    ] {
        assert_eq!(change(&format!("ram = \"1M\"\n{other}")), [DiskChange::Replace], "{other}");
    }
    assert_eq!(change("ram = \"2M\""), [DiskChange::Replace]);
    let none = parse("[worker-group.w]\n").expect("good").config;
    assert_eq!((base.diff(&none).disks_removed.len(), none.diff(&base).disks_added.len()), (1, 1));
}
