//! `ringway bench`, a chart at a time and in as little time as can be: what is counted is right, and what is written can be read.

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

/// Runs one chart; its JSON, after its files were looked at.
fn chart(name: &str, seconds: &str, axes: &[&str]) -> Value {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::cargo_bin("ringway")
        .expect("built")
        .args(["bench", name, "--json", "--seconds", seconds, "--out"])
        .arg(directory.path())
        .output()
        .expect("ran");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let charts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let chart = charts[0].clone();
    assert_eq!(chart["name"], name);
    let read = |extension: &str| {
        let path = Path::new(directory.path()).join(format!("{name}.{extension}"));
        std::fs::read_to_string(path).expect("written")
    };
    assert_eq!(serde_json::from_str::<Value>(&read("json")).expect("JSON"), chart);
    let svg = read("svg");
    let picture = roxmltree::Document::parse(&svg).expect("XML");
    let words: Vec<&str> = picture.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    for axis in axes {
        assert!(words.contains(axis), "{axis} in {words:?}");
    }
    let sentence = chart["verdict"]["sentence"].as_str().expect("a sentence");
    assert!(read("md").contains(sentence));
    assert!(chart["machine"]["cpus"].as_u64() >= Some(1));
    chart
}

fn rows(chart: &Value) -> &[Value] {
    chart["measurements"].as_array().expect("rows")
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"))
}

#[test]
fn memory_has_the_talks_bytes() {
    let chart = chart("memory", "1", &["queue size, entries", "bytes of one ring"]);
    let of = |size: u64| rows(&chart).iter().find(|row| row["queue_size"] == size).expect("a row").clone();
    assert_eq!((&of(256)["legacy_bytes"], &of(256)["modern_bytes"]), (&12288.into(), &6668.into()));
    assert_eq!(of(8)["modern_bytes"], 220);
    assert_eq!(chart["verdict"]["shows_the_shape"], true);
}

#[test]
fn layout_takes_two_descriptors_or_one() {
    let chart =
        chart("layout", "0.6", &["payload of request and response, bytes", "descriptors per packet sent"]);
    assert_eq!(rows(&chart).len(), 6);
    for row in rows(&chart) {
        assert_eq!(number(&row["alone"], "descriptors_per_packet"), 2.0);
        assert_eq!(number(&row["with_data"], "descriptors_per_packet"), 1.0);
        assert!(number(&row["alone"], "transactions_per_s") > 0.0);
    }
}

#[test]
fn fast_rx_counts_every_frame_as_hit_or_miss() {
    let chart = chart("fast-rx", "0.6", &["delivery", "kicks, calls and sleeps per transaction"]);
    let [worker, fast, polling] = rows(&chart) else { panic!("three ways: {chart}") };
    for row in [worker, fast, polling] {
        assert!(number(row, "frames") > 0.0);
        assert_eq!(number(row, "hits") + number(row, "misses"), number(row, "frames"));
    }
    // Every frame of the worker path waits; request and response is what fast rx is for.
    assert_eq!(number(worker, "hits"), 0.0);
    assert!(number(fast, "hits") >= 0.99 * number(fast, "frames"), "{fast}");
    // Nobody asks to be called or kicked who polls.
    assert!(number(polling, "wake_ups_per_transaction") < 0.1, "{polling}");
}

#[test]
fn threads_has_every_mode_over_all_devices() {
    for (name, axis) in
        [("threads-udp-rr", "transactions per second"), ("threads-tcp-stream", "Gbit/s of payload")]
    {
        let chart = chart(name, "0.9", &["devices", axis, "Jain's index over devices"]);
        assert_eq!(rows(&chart).len(), 6 * 3);
        for row in rows(&chart) {
            let (devices, mode) = (number(row, "devices"), row["mode"].as_str().expect("a mode"));
            assert!(number(row, "transactions_per_s") > 0.0, "{row}");
            assert!((1.0 / devices..=1.0 + 1e-9).contains(&number(row, "fairness")), "{row}");
            if mode == "per-device" {
                assert_eq!(number(row, "threads"), devices);
            }
        }
    }
}

#[test]
fn elvis_polls_without_kicks() {
    let chart = chart("elvis", "0.6", &["guests", "kicks per second", "wake-ups per second"]);
    assert_eq!(rows(&chart).len(), 5 * 2);
    for row in rows(&chart) {
        assert!(number(row, "transactions_per_s") > 0.0);
        if row["way"] == "sidecore" {
            assert_eq!(number(row, "worker_wake_ups_per_s"), 0.0, "it never sleeps");
            // A queue is polled from its first look on; before, each may be kicked once.
            assert!(number(row, "kicks") <= 2.0 * number(row, "guests"), "{row}");
        }
    }
}

/// Cycles depend on the machine; counts do not. Without `/dev/kvm` the guest's rows are missing, and the sentence says why.
#[test]
fn doorbell_counts_every_access_as_an_exit_or_an_event() {
    let chart = chart("doorbell", "0.6", &["doorbell", "cycles per access, least", "Without a guest"]);
    let measured = &chart["measurements"];
    let sentence = chart["verdict"]["sentence"].as_str().expect("a sentence");
    let rows = measured["rows"].as_array().expect("rows");
    let own = ["eventfd", "posted-sent", "posted-kicked", "answered", "mapped"];
    let guest = [
        "port-exit",
        "mmio-exit",
        "port-any",
        "port-match",
        "port-zero",
        "mmio-any",
        "mmio-match",
        "mmio-zero",
    ];
    let ways: Vec<&str> = rows.iter().filter_map(|row| row["way"].as_str()).collect();
    match measured["kvm_missing"].as_str() {
        Some(why) => {
            assert!(std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err(), "{why}");
            assert!(sentence.contains(why), "{sentence}");
            assert_eq!(ways, own);
        }
        None => {
            assert_eq!(ways, [&guest[..], &own[..]].concat());
            assert!(number(measured, "empty_loop_cycles") > 0.0);
        }
    }
    let is_software = measured["kvm"]["hardware"] == false && measured["kvm_missing"].is_null();
    assert_eq!(sentence.contains("not representative"), is_software, "{sentence}");
    for row in rows {
        let (way, accesses) = (row["way"].as_str().expect("a way"), number(row, "accesses"));
        let (exits, events) = (number(row, "exits"), number(row, "events"));
        assert!(accesses > 0.0 && number(row, "runs") >= 1.0, "{row}");
        match way {
            "port-exit" | "mmio-exit" => assert_eq!((exits, events), (accesses, 0.0), "{row}"),
            "mapped" => assert_eq!((exits, events), (0.0, 0.0), "nobody is told: {row}"),
            // A worker that was not back asleep is woken once for several writes.
            "posted-sent" | "posted-kicked" | "answered" => {
                assert!(exits == 0.0 && events >= 1.0 && events <= accesses, "{row}");
            }
            _ => assert_eq!((exits, events), (0.0, accesses), "{row}"),
        }
    }
}

/// Needs root, as the chart does, and Linux 6.6.
#[test]
fn zero_copy_copies_heads_and_loses_nothing() {
    let axes = ["frame, bytes", "nanoseconds per frame", "bytes per frame", "frames per second"];
    let chart = chart("zero-copy", "0.8", &axes);
    assert_eq!(chart["left_out"], false);
    assert_eq!(rows(&chart).len(), 8);
    for row in rows(&chart) {
        let size = number(row, "frame_bytes");
        for (way, is_lent) in [("copy", false), ("zero_copy", true)] {
            let side = &row[way];
            assert!(number(side, "frames") > 0.0 && number(side, "worker_ns_per_frame") > 0.0, "{row}");
            assert_eq!(number(side, "arrived") + number(side, "dropped"), number(side, "frames"), "{row}");
            let (copied, lent) =
                (number(side, "copied_bytes_per_frame"), number(side, "lent_bytes_per_frame"));
            assert!((copied + lent - size).abs() < 1e-6, "{row}");
            assert_eq!(lent > 0.0, is_lent, "{row}");
            // The ring has room for all that the guest has on its way.
            assert!(!is_lent || number(side, "lent_share") >= 0.9, "{row}");
        }
    }
}

/// `ringway bench` with these arguments as root without the right to make a network namespace.
fn without_namespaces(arguments: &[&str]) -> std::process::Output {
    std::thread::scope(|scope| {
        let run = || {
            let right = rustix::thread::CapabilitySet::SYS_ADMIN;
            // Only this thread and what it starts are without it.
            rustix::thread::remove_capability_from_bounding_set(right).expect("needs root");
            Command::cargo_bin("ringway").expect("built").arg("bench").args(arguments).output().expect("ran")
        };
        scope.spawn(run).join().expect("a thread")
    })
}

#[test]
fn what_cannot_be_measured_is_left_out_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().to_str().expect("UTF-8");
    let both = without_namespaces(&["memory", "zero-copy", "--quick", "--json", "--out", out]);
    assert!(both.status.success(), "{}", String::from_utf8_lossy(&both.stderr));
    let charts: Value = serde_json::from_slice(&both.stdout).expect("JSON");
    assert_eq!((&charts[0]["left_out"], &charts[1]["left_out"]), (&false.into(), &true.into()));
    let sentence = charts[1]["verdict"]["sentence"].as_str().expect("a sentence");
    assert!(sentence.starts_with("Left out: it needs root"), "{sentence}");
    assert!(directory.path().join("memory.md").exists() && !directory.path().join("zero-copy.md").exists());

    let text = without_namespaces(&["memory", "zero-copy", "--quick"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("Left out: it needs root"));
    let alone = without_namespaces(&["zero-copy", "--quick"]);
    assert!(!alone.status.success());
    assert!(String::from_utf8_lossy(&alone.stderr).contains("left out: it needs root"));
}

#[test]
fn charts_that_real_guests_cannot_make_are_named() {
    let bench = |arguments: &[&str]| {
        Command::cargo_bin("ringway").expect("built").arg("bench").args(arguments).output().expect("ran")
    };
    let all = bench(&["layout", "memory", "--vm", "--quick", "--json"]);
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    let charts: Value = serde_json::from_slice(&all.stdout).expect("JSON");
    for (place, name) in ["layout", "memory"].into_iter().enumerate() {
        assert_eq!(charts[place]["left_out"], true);
        let sentence = charts[place]["verdict"]["sentence"].as_str().expect("a sentence");
        assert!(sentence.starts_with(&format!("Left out: --vm has no {name}: ")), "{sentence}");
    }
    let alone = bench(&["layout", "--vm"]);
    assert!(!alone.status.success());
    assert!(String::from_utf8_lossy(&alone.stderr).contains("--vm has no layout"));
}

#[test]
fn usage_is_checked() {
    for arguments in [
        &["nothing"][..],
        &["layout", "--seconds", "0"],
        &["layout", "--quick", "--seconds", "2"],
        &["--cache", "x"],
    ] {
        Command::cargo_bin("ringway").expect("built").arg("bench").args(arguments).assert().code(2);
    }
}
