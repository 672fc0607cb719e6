//! `/metrics` and the dashboard's files, with a stand-in for the data plane and an independent parser.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::header::{self, HeaderMap};
use hyper::service::Service as _;
use hyper::{Request, StatusCode};
use hyper_util::service::TowerToHyperService;
use nom_openmetrics::{MetricDescriptor, parser};
use ringway::api::view::*;
use ringway::api::{Plane, Refusal};
use ringway::capture::{CaptureRequest, CaptureStream};
use ringway::config::Config;
use ringway::eyes::{self, CONTENT_TYPE, Snapshot};

/// A plane with some ports; the first one has a name that breaks a careless exposition.
struct Fake {
    ports: usize,
}

const HOSTILE: &str = "a\"b\\c\nd{e}=\u{1f980},";

fn port(number: usize) -> PortView {
    let n = number as u64;
    let queue = |index: u16, direction: &str, frames: u64| QueueView {
        index,
        direction: direction.into(),
        size: 256,
        layout: "split".into(),
        enabled: true,
        fault: (number == 2).then(|| "descriptor loop".into()),
        traffic: TrafficView { frames, bytes: frames * 100 },
        drops: BTreeMap::from([("receiver-full".into(), n + 1)]),
        kicks: n + 2,
        calls: n + 3,
    };
    PortView {
        name: if number == 0 { HOSTILE.into() } else { format!("vm{number}") },
        switch: "lan".into(),
        kind: "vhost-user".into(),
        socket: Some(format!("/run/ringway/vm{number}.sock")),
        socket_mode: Some("server".into()),
        interface: None,
        mac: Some("52:54:00:00:00:01".into()),
        mtu: Some(1500),
        state: if number == 2 { PortState::Faulted } else { PortState::Running },
        fault: None,
        queue_pairs: 1,
        features: FeaturesView::default(),
        counters: CountersView {
            from_guest: TrafficView { frames: n * 7, bytes: n * 7000 },
            to_guest: TrafficView { frames: n * 5, bytes: u64::MAX - n },
            drops: BTreeMap::from([("locked".into(), n * 3), ("receiver-full".into(), 2 * n + 2)]),
            kicks: 4,
            misses: 0,
            calls: 4,
        },
        queues: vec![queue(0, "to-guest", n), queue(1, "from-guest", 2 * n)],
        settings: SettingsView { profile: "guest".into(), ..SettingsView::default() },
        shut: (number == 1).then(|| "guard".into()),
        fdb_learned: 3,
        fdb_pinned: 1,
        fdb_evicted: n,
        addresses: Vec::new(),
        receive_filter: None,
        uplink: (number == 3).then(|| UplinkView {
            mode: "promiscuous".into(),
            reason: "port vm1 learns".into(),
            unicast: vec!["52:54:00:00:00:01".into()],
            operations: 12,
            ..UplinkView::default()
        }),
        zero_copy: (number == 3).then(|| ZeroCopyView {
            frames: 11,
            bytes: 1300,
            pending: 2,
            abandoned: 1,
            copied: BTreeMap::from([("short".into(), 5)]),
            ..ZeroCopyView::default()
        }),
    }
}

fn disk(number: usize) -> DiskView {
    let n = number as u64;
    let buckets = [(64.0, n), (128.0, 3 * n)].map(|(bound_us, count)| LatencyBucketView { bound_us, count });
    DiskView {
        name: if number == 0 { HOSTILE.into() } else { format!("disk{number}") },
        kind: "vhost-user".into(),
        socket: format!("/run/ringway/disk{number}.sock"),
        socket_mode: "server".into(),
        image: ImageView { kind: "file".into(), path: Some("/srv/a.img".into()), ..ImageView::default() },
        capacity: (n + 1) << 30,
        block_size: 512,
        read_only: false,
        cache: if number == 3 { "write-through" } else { "write-back" }.into(),
        serial: "x".into(),
        state: if number == 2 { PortState::Faulted } else { PortState::Running },
        fault: None,
        features: FeaturesView::default(),
        workers: None,
        counters: DiskCountersView {
            reads: n * 11,
            writes: n * 12,
            flushes: n * 13,
            discards: n * 14,
            zeroes: n * 15,
            others: n * 16,
            bytes_read: u64::MAX - n,
            bytes_written: n * 512,
            errors: n * 17,
            in_flight: n * 18,
            stuck: n * 19,
        },
        latency: DiskLatencyView {
            read: LatencyView {
                count: 5 * n,
                sum_us: 500.0 * n as f64,
                buckets: buckets.to_vec(),
                ..LatencyView::default()
            },
            // A reader that came between two steps of a writer: the buckets are ahead of the count.
            write: LatencyView {
                count: n,
                sum_us: 100.0,
                buckets: buckets.to_vec(),
                ..LatencyView::default()
            },
            flush: LatencyView::default(),
        },
        queues: vec![DiskQueueView {
            index: 3,
            running: number != 2,
            packed: false,
            size: 256,
            requests: n * 20,
            kicks: n * 21,
            calls: n * 22,
            in_flight: n * 23,
        }],
    }
}

impl Plane for Fake {
    fn status(&self) -> Status {
        Status {
            version: "1.2.3".into(),
            pid: 7,
            uptime_s: 421,
            workers: vec![WorkerView {
                name: "worker-0".into(),
                group: None,
                polling: "adaptive".into(),
                busy_ms: 0,
                moves: 0,
                cpu: Some(3),
                mode: "pool".into(),
                queues: 4,
                sleeps: 99,
            }],
            switches: vec![SwitchView {
                name: "lan".into(),
                ports: self.ports,
                fdb_entries: 11,
                fdb_entries_max: 16_384,
                ageing_ms: 300_000,
                vlan: "none".into(),
                snooping: true,
            }],
            ports_up: self.ports,
            ports_total: self.ports,
            disks_up: 0,
            disks_total: self.ports,
        }
    }

    fn ports(&self) -> Vec<PortView> {
        (0..self.ports).map(port).collect()
    }

    fn port(&self, name: &str) -> Option<PortView> {
        self.ports().into_iter().find(|port| port.name == name)
    }

    /// As many disks as ports.
    fn disks(&self) -> Vec<DiskView> {
        (0..self.ports).map(disk).collect()
    }

    fn disk(&self, name: &str) -> Option<DiskView> {
        self.disks().into_iter().find(|disk| disk.name == name)
    }

    fn resize_disk(&self, _: &str, _: Option<u64>) -> Result<u64, Refusal> {
        panic!("eyes only look")
    }

    fn fdb(&self, _: &FdbFilter) -> Result<Vec<FdbView>, Refusal> {
        Ok(Vec::new())
    }

    fn add_fdb(&self, _: &FdbSpec) -> Result<(), Refusal> {
        panic!("eyes only look")
    }

    fn flush_fdb(&self, _: &FdbFilter) -> Result<usize, Refusal> {
        panic!("eyes only look")
    }

    fn groups(&self, _: Option<&str>) -> Result<Vec<GroupView>, Refusal> {
        let group = "01:00:5e:00:00:fb".into();
        Ok(vec![GroupView {
            switch: "lan".into(),
            vlan: None,
            group,
            ports: vec!["vm1".into()],
            expires_ms: 9,
        }])
    }

    fn reopen(&self, _: &str) -> Result<(), Refusal> {
        panic!("eyes only look")
    }

    fn trace(&self, _: &str, _: &[u8]) -> Result<TraceView, Refusal> {
        panic!("eyes only look")
    }

    fn capture(&self, _: &CaptureRequest) -> Result<Arc<CaptureStream>, Refusal> {
        panic!("eyes only look")
    }

    fn config(&self) -> Arc<Config> {
        panic!("eyes only look")
    }

    fn apply(&self, _: Config) -> Result<ChangeView, Refusal> {
        panic!("eyes only look")
    }

    fn stop(&self) {}
}

/// What `GET path` answers.
fn get(ports: usize, path: &str, headers: &[(header::HeaderName, &str)]) -> (StatusCode, HeaderMap, String) {
    let service = TowerToHyperService::new(eyes::routes(Arc::new(Fake { ports })));
    let mut request = Request::get(path).body(Body::empty()).expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (head, body) = service.call(request).await.expect("answered").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).expect("text"))
    })
}

/// Samples of an exposition by name and labels, read by a parser that is not the writer's. Also checks what the format demands
/// of the whole: a type and a help for every family, no sample twice, an end.
fn samples(text: &str) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let (rest, families) = parser::openmetrics(text).expect("OpenMetrics");
    assert!(rest.is_empty(), "left over: {:?}", &rest[..rest.len().min(200)]);
    assert!(text.ends_with("# EOF\n"));
    let mut samples = BTreeMap::new();
    let mut names = HashSet::new();
    for family in families {
        let name = family.descriptors.first().expect("a descriptor").metric().to_owned();
        assert!(names.insert(name.clone()), "family {name} twice");
        assert!(name.starts_with("ringway_"), "{name}");
        let kinds = |wanted: fn(&MetricDescriptor<'_>) -> bool| family.descriptors.iter().any(wanted);
        assert!(kinds(|each| matches!(each, MetricDescriptor::Help { .. })), "{name} has no help");
        assert!(kinds(|each| matches!(each, MetricDescriptor::Type { .. })), "{name} has no type");
        for sample in &family.samples {
            let own = ["", "_total", "_info", "_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"));
            assert!(own.contains(&sample.name().to_owned()), "{} in family {name}", sample.name());
            let labels = sample.labels().iter().map(|label| (label.name.to_owned(), label.value.clone()));
            let key = (sample.name().to_owned(), labels.collect());
            assert!(samples.insert(key.clone(), sample.number()).is_none(), "{key:?} twice");
        }
    }
    samples
}

fn value(
    samples: &BTreeMap<(String, BTreeMap<String, String>), f64>,
    name: &str,
    labels: &[(&str, &str)],
) -> f64 {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let key = (name.to_owned(), labels);
    *samples.get(&key).unwrap_or_else(|| panic!("no {key:?}"))
}

#[test]
fn every_figure_is_in_the_exposition_under_its_name() {
    let (status, headers, text) = get(5, "/metrics", &[]);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], CONTENT_TYPE);
    let samples = samples(&text);
    let at = |name: &str, labels: &[(&str, &str)]| value(&samples, name, labels);
    let vm = |name: &str| at(name, &[("port", "vm4"), ("switch", "lan")]);
    assert_eq!(at("ringway_build_info", &[("version", "1.2.3")]), 1.0);
    assert_eq!(at("ringway_uptime_seconds", &[]), 421.0);
    assert_eq!(at("ringway_worker_queues", &[("worker", "worker-0")]), 4.0);
    assert_eq!(at("ringway_worker_sleeps_total", &[("worker", "worker-0")]), 99.0);
    assert_eq!(at("ringway_fdb_entries", &[("switch", "lan")]), 11.0);
    assert_eq!(at("ringway_fdb_entries_max", &[("switch", "lan")]), 16_384.0);
    assert_eq!(at("ringway_groups", &[("switch", "lan")]), 1.0);
    assert_eq!(vm("ringway_port_up"), 1.0);
    assert_eq!(vm("ringway_port_faulted"), 0.0);
    assert_eq!(vm("ringway_port_fdb_learned"), 3.0);
    assert_eq!(vm("ringway_port_fdb_pinned"), 1.0);
    assert_eq!(vm("ringway_port_fdb_evicted_total"), 4.0);
    let way = |direction| [("port", "vm4"), ("switch", "lan"), ("direction", direction)];
    assert_eq!(at("ringway_port_frames_total", &way("from-guest")), 28.0);
    assert_eq!(at("ringway_port_frames_total", &way("to-guest")), 20.0);
    assert_eq!(at("ringway_port_bytes_total", &way("from-guest")), 28_000.0);
    let locked = [("port", "vm4"), ("switch", "lan"), ("reason", "locked")];
    assert_eq!(at("ringway_port_drops_total", &locked), 12.0);
    let queue = [("port", "vm4"), ("queue", "1"), ("direction", "from-guest")];
    assert_eq!(at("ringway_queue_frames_total", &queue), 8.0);
    assert_eq!(at("ringway_queue_bytes_total", &queue), 800.0);
    assert_eq!(at("ringway_queue_kicks_total", &queue), 6.0);
    assert_eq!(at("ringway_queue_calls_total", &queue), 7.0);
    let full = [queue[0], queue[1], queue[2], ("reason", "receiver-full")];
    assert_eq!(at("ringway_queue_drops_total", &full), 5.0);
    // Whole numbers stand as they are, also those that no f64 holds.
    assert!(text.contains(&format!("direction=\"to-guest\"}} {}\n", u64::MAX - 4)), "{text}");
}

#[test]
fn faults_shuts_and_uplinks_are_told() {
    let samples = samples(&get(5, "/metrics", &[]).2);
    let at = |name: &str, labels: &[(&str, &str)]| value(&samples, name, labels);
    let of = |port| [("port", port), ("switch", "lan")];
    assert_eq!(at("ringway_port_up", &of("vm1")), 0.0);
    assert_eq!(at("ringway_port_shut", &[("port", "vm1"), ("switch", "lan"), ("reason", "guard")]), 1.0);
    assert_eq!(samples.keys().filter(|(name, _)| name == "ringway_port_shut").count(), 1);
    assert_eq!((at("ringway_port_up", &of("vm2")), at("ringway_port_faulted", &of("vm2"))), (0.0, 1.0));
    assert_eq!(
        at("ringway_queue_retired", &[("port", "vm2"), ("queue", "0"), ("direction", "to-guest")]),
        1.0
    );
    assert_eq!(at("ringway_uplink_promiscuous", &of("vm3")), 1.0);
    assert_eq!(at("ringway_uplink_filter_operations_total", &of("vm3")), 12.0);
    let programmed = [("port", "vm3"), ("switch", "lan"), ("kind", "unicast")];
    assert_eq!(at("ringway_uplink_filter_addresses", &programmed), 1.0);
    assert_eq!(samples.keys().filter(|(name, _)| name == "ringway_uplink_promiscuous").count(), 1);
    for (name, value) in
        [("frames_total", 11.0), ("bytes_total", 1300.0), ("pending", 2.0), ("abandoned_total", 1.0)]
    {
        assert_eq!(at(&format!("ringway_zero_copy_{name}"), &of("vm3")), value);
    }
    let short = [("port", "vm3"), ("switch", "lan"), ("reason", "short")];
    assert_eq!(at("ringway_zero_copy_fallbacks_total", &short), 5.0);
}

#[test]
fn every_figure_of_a_disk_is_in_the_exposition() {
    let (_, _, text) = get(5, "/metrics", &[]);
    let samples = samples(&text);
    let at = |name: &str, labels: &[(&str, &str)]| value(&samples, &format!("ringway_disk{name}"), labels);
    let of = |name: &str| at(name, &[("disk", "disk4")]);
    let facts = [
        ("disk", "disk4"),
        ("kind", "vhost-user"),
        ("at", "/run/ringway/disk4.sock"),
        ("image", "file"),
        ("path", "/srv/a.img"),
        ("serial", "x"),
    ];
    assert_eq!(at("_info", &facts), 1.0);
    assert_eq!((of("_up"), of("_faulted"), of("_write_back")), (1.0, 0.0, 1.0));
    assert_eq!((at("_up", &[("disk", "disk2")]), at("_faulted", &[("disk", "disk2")])), (0.0, 1.0));
    assert_eq!(at("_write_back", &[("disk", "disk3")]), 0.0);
    assert_eq!(of("_capacity_bytes"), f64::from(5u32 << 10) * f64::from(1u32 << 20));
    assert_eq!((of("_errors_total"), of("_in_flight"), of("_stuck")), (68.0, 72.0, 76.0));
    for (operation, count) in [
        ("read", 44.0),
        ("write", 48.0),
        ("flush", 52.0),
        ("discard", 56.0),
        ("write-zeroes", 60.0),
        ("other", 64.0),
    ] {
        assert_eq!(
            at("_requests_total", &[("disk", "disk4"), ("operation", operation)]),
            count,
            "{operation}"
        );
    }
    assert_eq!(at("_bytes_total", &[("disk", "disk4"), ("operation", "write")]), 2048.0);
    assert!(text.contains(&format!("{{disk=\"disk4\",operation=\"read\"}} {}\n", u64::MAX - 4)), "{text}");
    let queue = [("disk", "disk4"), ("queue", "3")];
    assert_eq!(at("_queue_running", &queue), 1.0);
    assert_eq!(at("_queue_running", &[("disk", "disk2"), ("queue", "3")]), 0.0);
    assert_eq!((at("_queue_requests_total", &queue), at("_queue_kicks_total", &queue)), (80.0, 84.0));
    assert_eq!((at("_queue_calls_total", &queue), at("_queue_in_flight", &queue)), (88.0, 92.0));
}

#[test]
fn latencies_are_histograms_of_seconds() {
    let samples = samples(&get(5, "/metrics", &[]).2);
    let at = |name: &str, operation: &str, bound: Option<&str>| {
        let labels = [("disk", "disk4"), ("operation", operation)];
        let labels: Vec<_> = labels.into_iter().chain(bound.map(|bound| ("le", bound))).collect();
        value(&samples, &format!("ringway_disk_latency_seconds{name}"), &labels)
    };
    let buckets = |operation| {
        let of = |bound: &str| at("_bucket", operation, Some(bound));
        (of("0.000064"), of("0.000128"), of("+Inf"))
    };
    assert_eq!(buckets("read"), (4.0, 12.0, 20.0));
    assert_eq!((at("_count", "read", None), at("_sum", "read", None)), (20.0, 0.002));
    // Whatever was read when, buckets do not go down, and the last one is the count.
    assert_eq!(buckets("write"), (4.0, 12.0, 12.0));
    assert_eq!(at("_count", "write", None), 12.0);
    assert_eq!((at("_bucket", "flush", Some("+Inf")), at("_count", "flush", None)), (0.0, 0.0));
}

#[test]
fn label_values_are_escaped() {
    let (_, _, text) = get(1, "/metrics", &[]);
    let samples = samples(&text);
    assert_eq!(value(&samples, "ringway_port_up", &[("port", HOSTILE), ("switch", "lan")]), 1.0);
    assert_eq!(value(&samples, "ringway_disk_up", &[("disk", HOSTILE)]), 1.0);
    assert!(text.lines().all(|line| line.starts_with("ringway_") || line.starts_with("# ")), "{text}");
}

#[test]
fn no_ports_are_a_valid_exposition_too() {
    let samples = samples(&get(0, "/metrics", &[]).2);
    let is_there = |start: &str| samples.keys().any(|(name, _)| name.starts_with(start));
    assert!(!is_there("ringway_port") && !is_there("ringway_disk"));
}

#[test]
fn a_thousand_ports_take_bounded_time() {
    let plane = Fake { ports: 1000 };
    let snapshot = Snapshot {
        status: plane.status(),
        ports: plane.ports(),
        disks: plane.disks(),
        groups: plane.groups(None).expect("groups"),
    };
    let began = Instant::now();
    let text = snapshot.exposition().expect("text");
    let took = began.elapsed();
    println!("1000 ports: {} bytes in {took:?}", text.len());
    assert!(took < Duration::from_secs(1), "{took:?}");
    let samples = samples(&text);
    let frames = |(name, _): &&(String, BTreeMap<String, String>)| name == "ringway_queue_frames_total";
    assert_eq!(samples.keys().filter(frames).count(), 2000);
    let dropped: f64 = samples
        .iter()
        .filter(|((name, labels), _)| name == "ringway_port_drops_total" && labels["reason"] == "locked")
        .map(|(_, count)| count)
        .sum();
    assert_eq!(dropped, (0..1000).map(|n| f64::from(n) * 3.0).sum::<f64>());
}

#[test]
fn the_page_may_talk_to_its_own_server_only_and_run_its_own_files_only() {
    let (status, headers, page) = get(1, "/", &[]);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
    assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
    for breach in ["<style", " style=", " onclick", " onload", "http:", "https:", "//"] {
        let text = page.replace("<!doctype html>", "");
        assert!(!text.contains(breach), "{breach:?} in the page");
    }
    assert_eq!(page.matches("<script").count(), 1);
}

#[test]
fn every_file_that_the_page_names_is_served() {
    let mut wanted = vec!["/".to_owned()];
    let mut seen = HashSet::new();
    while let Some(path) = wanted.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let (status, headers, text) = get(1, &path, &[]);
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
        for (before, quote) in [("src=\"", '"'), ("href=\"/", '"'), ("from './", '\'')] {
            for (at, _) in text.match_indices(before) {
                let name = text[at + before.len()..].split(quote).next().unwrap_or_default();
                wanted.push(format!("/{}", name.trim_start_matches('/')));
            }
        }
        if path.ends_with(".js") {
            let sinks =
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("];
            for sink in sinks {
                assert!(!text.contains(sink), "{sink} in {path}");
            }
        }
    }
    assert!(seen.len() > 8 && seen.contains("/topology.js"), "{seen:?}");
}

#[test]
fn a_browser_that_has_a_file_is_told_so() {
    let (_, headers, text) = get(1, "/app.js", &[]);
    let tag = headers[header::ETAG].to_str().expect("text").to_owned();
    assert!(tag.starts_with('"') && !text.is_empty());
    let (status, headers, text) = get(1, "/app.js", &[(header::IF_NONE_MATCH, &tag)]);
    assert_eq!((status, text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(headers[header::ETAG], tag.as_str());
    let (status, _, text) = get(1, "/app.js", &[(header::IF_NONE_MATCH, "\"other\"")]);
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("import"));
    assert_ne!(get(1, "/page.js", &[]).1[header::ETAG], tag.as_str());
}

#[test]
fn the_page_knows_what_every_drop_reason_means() {
    let (_, _, script) = get(1, "/page.js", &[]);
    let table = script.split("export const REASONS = {").nth(1).and_then(|rest| rest.split("};").next());
    let table = table.expect("a table of reasons");
    let known: HashSet<&str> =
        table.lines().filter_map(|line| Some(line.split_once(": '")?.0.trim().trim_matches('\''))).collect();
    let reasons: HashSet<&str> = switch::DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(known, reasons);
}
