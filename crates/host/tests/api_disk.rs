//! Disks over the control API and by command, with a stand-in for the data plane.

mod fake;

use fake::{Daemon, FILE, root, scratch};
use predicates::prelude::*;
use ringway::api::Plane as _;
use ringway::api::client::{self, Ask, ClientError};
use ringway::api::view::*;
use ringway::config::resolved::Rate;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::SeqCst;

const DISK: &str = "[disk.root]\nvhost-user.socket = \"root.sock\"\nfile = \"root.img\"\n";

/// A program with a disk `root`, whose image is there.
fn daemon() -> Daemon {
    Daemon::with(&format!("{FILE}{DISK}"), |directory| {
        std::fs::write(directory.join("root.img"), [0; 4096]).expect("written");
    })
}

fn change(daemon: &Daemon, method: &str, path: &str, body: Value) -> Result<ChangeView, Problem> {
    let method = method.parse().expect("a method");
    match client::send(&daemon.socket(), &Ask::change(method, path, Some(body))) {
        Ok(change) => Ok(change),
        Err(ClientError::Refused(problem)) => Err(problem),
        Err(other) => panic!("{other}"),
    }
}

fn document(daemon: &Daemon) -> Value {
    client::get(&daemon.socket(), "/api/config").expect("a configuration")
}

fn fields(problem: &Problem) -> Vec<&str> {
    problem.mistakes.iter().map(|mistake| mistake.field.as_str()).collect()
}

#[test]
fn a_disk_is_added_changed_replaced_and_removed() {
    let daemon = daemon();
    let table = json!({"vfio-user": {"socket": "tmp.vfio", "queues": 4}, "ram": "64M"});
    let added = change(&daemon, "PUT", "/api/disks/tmp", table.clone()).expect("added");
    assert_eq!((added.added, added.untouched), (vec!["disk.tmp".to_owned()], 4));
    assert_eq!(document(&daemon)["disk"]["tmp"], table, "as it was given");

    let live = change(&daemon, "PATCH", "/api/disks/tmp", json!({"rate-limit": {"iops": 500}})).expect("set");
    assert_eq!((live.changed, live.replaced), (vec!["disk.tmp".to_owned()], Vec::new()));
    let config = daemon.fake.config();
    let disk = config.disks.iter().find(|disk| disk.name == "tmp").expect("in the plane");
    assert_eq!(disk.rates.requests, Some(Rate { per_second: 500, burst: 50 }));
    let replaced = change(&daemon, "PATCH", "/api/disks/tmp", json!({"rate-limit": null, "serial": "x"}));
    let replaced = replaced.expect("set");
    assert_eq!((replaced.changed, replaced.replaced), (Vec::new(), vec!["disk.tmp".to_owned()]));
    assert_eq!(document(&daemon)["disk"]["tmp"].get("rate-limit"), None);

    let (status, body) = daemon.asks("DELETE", "/api/disks/tmp", None);
    let removed: ChangeView = serde_json::from_str(&body).expect("a change");
    assert_eq!((status, removed.removed), (200, vec!["disk.tmp".to_owned()]));
    assert_eq!(daemon.fake.config().disks.len(), 1);
    for method in ["PATCH", "DELETE"] {
        assert_eq!(daemon.asks(method, "/api/disks/tmp", Some("{}")).0, 404, "{method}");
    }
    let only_new =
        Ask::change("PUT".parse().expect("a method"), "/api/disks/root", Some(json!({}))).only_new();
    let error = client::send::<Value>(&daemon.socket(), &only_new).expect_err("refused");
    assert_eq!(error.to_string(), "there is a disk \"root\" already");
}

#[test]
fn every_mistake_of_a_disk_is_named_and_nothing_changes() {
    let daemon = daemon();
    let before = document(&daemon);
    let table = json!({"vhost-user": {"sokcet": "x"}, "ram": "5", "colour": "red", "cache": "none"});
    let problem = change(&daemon, "PUT", "/api/disks/new", table).expect_err("mistakes");
    for field in ["disk.new.vhost-user.sokcet", "disk.new.ram", "disk.new.colour", "disk.new.cache"] {
        assert!(fields(&problem).contains(&field), "{field} in {problem:?}");
    }
    // The whole document is looked at: the image is another disk's already.
    let taken = json!({"vhost-user": {"socket": "x.sock"}, "file": "root.img"});
    let problem = change(&daemon, "PUT", "/api/disks/new", taken).expect_err("taken");
    assert!(fields(&problem)[0].ends_with(".file"), "{problem:?}");
    // What this machine lacks is a mistake too.
    let missing = json!({"vhost-user": {"socket": "/no/where/x.sock"}, "file": "missing.img"});
    let problem = change(&daemon, "PUT", "/api/disks/new", missing).expect_err("missing");
    assert_eq!(fields(&problem), ["disk.new.file", "disk.new.vhost-user.socket"]);
    assert_eq!((daemon.fake.applied.load(SeqCst), document(&daemon)), (0, before));
}

#[test]
fn an_image_that_is_lost_keeps_nobody_else_from_changing() {
    let daemon = daemon();
    std::fs::remove_file(daemon.directory.path().join("root.img")).expect("removed");
    change(&daemon, "PATCH", "/api/ports/web", json!({"flood": true})).expect("the disk stays as it is");
    let problem = change(&daemon, "PATCH", "/api/disks/root", json!({"serial": "x"})).expect_err("missing");
    assert_eq!(fields(&problem), ["disk.root.file"]);
}

#[test]
fn a_disk_is_resized_to_a_size_or_to_its_file() {
    let daemon = daemon();
    let resize =
        |name: &str, body: &str| daemon.asks("POST", &format!("/api/disks/{name}/resize"), Some(body));
    assert_eq!(resize("root", "{}"), (200, format!("{{\"capacity\":{}}}", root().capacity)));
    assert_eq!(resize("root", r#"{"bytes":1048576}"#), (200, r#"{"capacity":1048576}"#.into()));
    assert_eq!(resize("nobody", "{}").0, 404);
    for bytes in ["0", "1000", "-512", "9223372036854775296", "18446744073709551616", "\"1G\""] {
        let (status, answer) = resize("root", &format!("{{\"bytes\":{bytes}}}"));
        assert_eq!(status, 422, "{bytes}: {answer}");
        assert!(serde_json::from_str::<Problem>(&answer).is_ok(), "{bytes}: {answer}");
    }
    for (body, status) in [("", 400), ("{", 400), ("[5]", 422), (r#"{"size":512}"#, 422)] {
        assert_eq!(resize("root", body).0, status, "{body}");
    }
    let asked = [("root".to_owned(), None), ("root".to_owned(), Some(1 << 20))];
    assert_eq!(*daemon.fake.resized.lock(), asked, "what is refused does not reach the plane");
}

#[test]
fn disks_by_command() {
    let daemon = daemon();
    let words = ["disk", "add", "tmp", "vhost-user.socket=tmp.sock", "vhost-user.queues=2", "ram=64M"];
    assert_eq!(daemon.prints(&words), "added: disk.tmp; 4 untouched\n");
    assert_eq!(daemon.fails(&words), "ringway: there is a disk \"tmp\" already\n");
    let table = json!({"vhost-user": {"socket": "tmp.sock", "queues": 2}, "ram": "64M"});
    assert_eq!(document(&daemon)["disk"]["tmp"], table);
    let set = ["disk", "set", "tmp", "rate-limit.iops=1000", "rate-limit.bytes=100M"];
    assert_eq!(daemon.prints(&set), "changed: disk.tmp; 4 untouched\n");
    assert_eq!(
        daemon.prints(&["disk", "set", "tmp", "cache=write-through", "rate-limit.bytes="]),
        "stopped and started again: disk.tmp; 4 untouched\n"
    );
    assert_eq!(document(&daemon)["disk"]["tmp"]["rate-limit"], json!({"iops": 1000}));
    let said = daemon.fails(&["disk", "set", "tmp", "cachee=none"]);
    assert!(said.contains("disk.tmp.cachee: unknown key \"cachee\", did you mean \"cache\"?"), "{said}");
    assert_eq!(daemon.prints(&["disk", "remove", "tmp"]), "removed: disk.tmp; 4 untouched\n");
    assert_eq!(daemon.fails(&["disk", "remove", "tmp"]), "ringway: there is no disk \"tmp\"\n");

    let resized = daemon.prints(&["disk", "resize", "scratch", "2G"]);
    assert_eq!(resized, "resized: disk.scratch to 2 GiB (2147483648 bytes)\n");
    let json: ResizeView =
        serde_json::from_str(&daemon.prints(&["disk", "resize", "root", "--json"])).expect("JSON");
    assert_eq!(json, ResizeView { capacity: root().capacity });
    assert!(daemon.fails(&["disk", "resize", "root", "513"]).contains("513 is no size of a disk; accepted"));
    assert_eq!(daemon.fails(&["disk", "resize", "nobody"]), "ringway: there is no disk \"nobody\"\n");
}

#[test]
fn disks_are_listed_and_shown() {
    let daemon = daemon();
    let text = daemon.prints(&["disk", "list"]);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 3, "{text}");
    for words in ["root", "running", "20 GiB", "1526", "4.10 MB", "2.05 MB", "/srv/root.img"] {
        assert!(rows[1].contains(words), "{words:?} in\n{text}");
    }
    assert!(rows[2].contains("64 MiB") && rows[2].contains(" ram "), "{text}");
    let json: Vec<DiskView> =
        serde_json::from_str(&daemon.prints(&["disk", "list", "--json"])).expect("JSON");
    assert_eq!(json, [root(), scratch()]);

    let text = daemon.prints(&["disk", "show", "root"]);
    for line in [
        "at            /run/ringway/root.sock",
        "fault         -",
        "image         file, /srv/root.img, raw, past the page cache",
        "size          20 GiB (21474836480 bytes)",
        "cache         write-back",
        "serial        root-0001",
        "workers       storage",
        "requests      1000 reads, 500 writes, 20 flushes, 3 discards, 2 write zeroes, 1 others",
        "errors        4",
        "in flight     5, 1 of them stuck",
        "read takes    80.0 µs in the middle, 320 µs for 99 %, 8.00 ms at most",
        "flush takes   1.25 ms in the middle, 5.00 ms for 99 %, 125 ms at most",
        "acknowledged  VIRTIO_F_VERSION_1",
        "    0  yes       256  packed      1526          5     90     80",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
    }
    let text = daemon.prints(&["disk", "show", "scratch"]);
    assert!(text.contains("\nread takes    -\n") && text.contains("\nserial        -\n"), "{text}");
    let json: DiskView =
        serde_json::from_str(&daemon.prints(&["disk", "show", "root", "--json"])).expect("JSON");
    assert_eq!(json, root());
    let nobody = "ringway: there is no disk \"nobody\"\n";
    daemon.ringway(&["disk", "show", "nobody"]).assert().code(1).stderr(nobody);
}

#[test]
fn vmm_args_of_disks_from_the_daemon() {
    let daemon = daemon();
    let text = daemon.prints(&["vmm-args", "root", "--for", "qemu"]);
    assert!(text.contains("path=/run/ringway/root.sock,reconnect-ms=1000"), "{text}");
    let device =
        "-device vhost-user-blk-pci,id=disk-root,chardev=chr-disk-root,num-queues=2,queue-size=256\n";
    assert!(text.ends_with(device), "{text}");
    let text = daemon.prints(&["vmm-args", "scratch", "--for", "cloud-hypervisor", "--kind", "disk"]);
    assert!(text.ends_with("--user-device socket=/run/ringway/scratch.vfio\n"), "{text}");
    let absent = predicate::str::contains("there is no port or disk \"nobody\"");
    daemon.ringway(&["vmm-args", "nobody", "--for", "qemu"]).assert().code(1).stderr(absent);
    let absent = predicate::str::contains("there is no port \"root\"");
    daemon.ringway(&["vmm-args", "root", "--for", "qemu", "--kind", "port"]).assert().code(1).stderr(absent);
}
