//! The control API over its unix socket with a stand-in for the data plane, and the commands that show its facts.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use assert_cmd::Command;
use predicates::prelude::*;
use ringway::api::client::{self, ClientError};
use ringway::api::server::{self, Listeners, ServeError};
use ringway::api::view::*;
use ringway::api::{Plane, description};
use ringway::config::resolved::ControlConfig;

struct Fake;

fn web() -> PortView {
    PortView {
        name: "web".into(),
        switch: "lan".into(),
        kind: "vhost-user".into(),
        socket: Some("/run/ringway/web.sock".into()),
        socket_mode: Some("server".into()),
        tap: None,
        mac: Some("52:54:00:00:00:01".into()),
        mtu: Some(1500),
        state: PortState::Running,
        fault: None,
        queue_pairs: 2,
        features: FeaturesView {
            offered: vec!["VIRTIO_F_VERSION_1".into(), "VIRTIO_NET_F_MQ".into()],
            acknowledged: vec!["VIRTIO_F_VERSION_1".into()],
        },
        counters: CountersView {
            from_guest: TrafficView { frames: 3, bytes: 2500 },
            to_guest: TrafficView { frames: 1, bytes: 60 },
            drops: BTreeMap::from([("no-buffer".into(), 2)]),
            kicks: 5,
            calls: 4,
        },
        queues: vec![QueueView {
            index: 1,
            direction: "from-guest".into(),
            size: 256,
            layout: "packed".into(),
            enabled: true,
            fault: Some("descriptor loop".into()),
        }],
    }
}

fn uplink() -> PortView {
    PortView {
        name: "uplink".into(),
        kind: "tap".into(),
        socket: None,
        socket_mode: None,
        tap: Some("rw0".into()),
        mac: None,
        mtu: None,
        state: PortState::Waiting,
        features: FeaturesView::default(),
        counters: CountersView::default(),
        queues: Vec::new(),
        ..web()
    }
}

impl Plane for Fake {
    fn status(&self) -> Status {
        Status {
            version: "0.1.0".into(),
            pid: 7,
            uptime_s: 421,
            workers: vec![WorkerView {
                name: "worker-0".into(),
                cpu: Some(3),
                mode: "pool".into(),
                queues: 4,
            }],
            switches: vec![SwitchView { name: "lan".into(), ports: 2, fdb_entries: 1 }],
            ports_up: 1,
            ports_total: 2,
        }
    }

    fn ports(&self) -> Vec<PortView> {
        vec![web(), uplink()]
    }

    fn port(&self, name: &str) -> Option<PortView> {
        self.ports().into_iter().find(|port| port.name == name)
    }

    fn fdb(&self, switch: Option<&str>) -> Vec<FdbView> {
        assert!(matches!(switch, None | Some("lan")));
        vec![FdbView {
            switch: "lan".into(),
            mac: "52:54:00:00:00:01".into(),
            port: "web".into(),
            kind: "learned".into(),
            age_ms: 65_000,
        }]
    }

    fn stop(&self) {}
}

struct Daemon {
    directory: tempfile::TempDir,
    http: std::net::SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        let listeners = Listeners::bind(&control(directory.path())).expect("bound");
        let http = listeners.http_address().expect("a TCP address");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let stop = async { drop(stopped.await) };
            runtime.block_on(server::serve(&listeners, Arc::new(Fake), stop)).expect("served");
        });
        Daemon { directory, http, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("ended well");
        }
    }

    /// What `ringway WORDS` prints.
    fn prints(&self, words: &[&str]) -> String {
        let output = self.ringway(words).assert().success().get_output().stdout.clone();
        String::from_utf8(output).expect("text")
    }

    fn ringway(&self, words: &[&str]) -> Command {
        let mut command = Command::cargo_bin("ringway").expect("built");
        command.arg("--socket").arg(self.socket()).args(words);
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn control(directory: &Path) -> ControlConfig {
    ControlConfig { socket: directory.join("control.sock"), http: Some(([127, 0, 0, 1], 0).into()) }
}

/// Sends `request` and reads until the other side closes.
fn raw(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received");
    answer
}

fn head(answer: &str) -> &str {
    answer.lines().next().unwrap_or("")
}

#[test]
fn every_route_answers_with_its_view() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    assert_eq!(client::get::<Status>(&socket, "/api/status").expect("status"), Fake.status());
    assert_eq!(client::get::<Vec<PortView>>(&socket, "/api/ports").expect("ports"), Fake.ports());
    assert_eq!(client::get::<PortView>(&socket, "/api/ports/web").expect("a port"), web());
    let switches = client::get::<Vec<SwitchView>>(&socket, "/api/switches").expect("switches");
    assert_eq!(switches, Fake.status().switches);
    assert_eq!(client::get::<Vec<FdbView>>(&socket, "/api/fdb").expect("entries"), Fake.fdb(None));
    assert_eq!(client::get::<Vec<FdbView>>(&socket, "/api/fdb?switch=lan").expect("entries"), Fake.fdb(None));
}

#[test]
fn what_is_not_there_is_said_so() {
    let daemon = Daemon::start();
    let refused = |path: &str| match client::get::<serde_json::Value>(&daemon.socket(), path) {
        Err(ClientError::Refused(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("/api/ports/nobody"), "there is no port \"nobody\"");
    assert_eq!(refused("/api/fdb?switch=wan"), "there is no switch \"wan\"");
    assert_eq!(refused("/elsewhere"), "there is no such path; see /api/openapi.json");
    let connect = || UnixStream::connect(daemon.socket()).expect("connected");
    let posted = raw(connect(), "POST /api/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(head(&posted), "HTTP/1.1 405 Method Not Allowed");
    let unknown = raw(connect(), "GET /api/fdb?colour=red HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(head(&unknown), "HTTP/1.1 400 Bad Request");
    assert!(head(&raw(connect(), "garbage\r\n\r\n")).contains("400"));
}

#[test]
fn the_description_names_every_route() {
    let daemon = Daemon::start();
    let served =
        client::get::<serde_json::Value>(&daemon.socket(), "/api/openapi.json").expect("a description");
    assert_eq!(served, serde_json::to_value(description()).expect("JSON"));
    let paths = served["paths"].as_object().expect("paths");
    let names: Vec<&str> = paths.keys().map(String::as_str).collect();
    assert_eq!(names, ["/api/fdb", "/api/ports", "/api/ports/{name}", "/api/status", "/api/switches"]);
    for schema in ["Status", "PortView", "FdbView", "SwitchView", "Problem"] {
        assert!(served["components"]["schemas"][schema].is_object(), "{schema}");
    }
}

#[test]
fn the_tcp_address_serves_the_same() {
    let daemon = Daemon::start();
    let stream = std::net::TcpStream::connect(daemon.http).expect("connected");
    let answer = raw(stream, "GET /api/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(head(&answer), "HTTP/1.1 200 OK");
    assert!(answer.ends_with(&serde_json::to_string(&Fake.status()).expect("JSON")), "{answer}");
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
    assert_eq!(client::get::<Status>(&daemon.socket(), "/api/status").expect("status"), Fake.status());
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
    assert!(text.starts_with("ringway 0.1.0, process 7, up 7m 1s; 1 of 2 ports running\n"), "{text}");
    for part in ["SWITCH  PORTS  FDB ENTRIES\n", "worker-0  pool    3       4\n", "uplink", "rw0\n"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json: Status = serde_json::from_str(&daemon.prints(&["status", "--json"])).expect("JSON");
    assert_eq!(json, Fake.status());
}

#[test]
fn ports_and_fdb() {
    let daemon = Daemon::start();
    let text = daemon.prints(&["port", "list"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("2.50 kB"), "{text}");
    let json: Vec<PortView> =
        serde_json::from_str(&daemon.prints(&["port", "list", "--json"])).expect("JSON");
    assert_eq!(json, Fake.ports());

    let text = daemon.prints(&["port", "show", "web"]);
    for part in
        ["state         running\n", "drops         2 no-buffer\n", "fault         -\n", "descriptor loop\n"]
    {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json: PortView =
        serde_json::from_str(&daemon.prints(&["port", "show", "web", "--json"])).expect("JSON");
    assert_eq!(json, web());
    let nobody = "ringway: there is no port \"nobody\"\n";
    daemon.ringway(&["port", "show", "nobody"]).assert().code(1).stderr(nobody);

    let text = daemon.prints(&["fdb", "list", "--switch", "lan"]);
    assert_eq!(
        text,
        "SWITCH  MAC                PORT  KIND       AGE\nlan     52:54:00:00:00:01  web   learned  1m 5s\n"
    );
    let json: Vec<FdbView> = serde_json::from_str(&daemon.prints(&["fdb", "list", "--json"])).expect("JSON");
    assert_eq!(json, Fake.fdb(None));
    daemon.ringway(&["fdb", "list", "--switch", "wan"]).assert().code(1);
}

#[test]
fn vmm_args_from_the_daemon() {
    let daemon = Daemon::start();
    let text = daemon.prints(&["vmm-args", "web", "--for", "qemu"]);
    assert!(text.contains("path=/run/ringway/web.sock,reconnect-ms=1000"), "{text}");
    assert!(text.contains("mac=52:54:00:00:00:01,mq=on,vectors=6,host_mtu=1500"), "{text}");
    let tap = predicate::str::contains("is a tap");
    daemon.ringway(&["vmm-args", "uplink", "--for", "qemu"]).assert().code(1).stderr(tap);
}
