//! A stand-in for the data plane, and the control API served on top of it.
//!
//! The stand-in keeps a configuration, FDB entries and what it was asked; it moves no frames. A configuration with a port
//! named `cursed` fails, as if the host could not make it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use assert_cmd::Command;
use parking_lot::Mutex;
use ringway::api::change::Desired;
use ringway::api::server::{self, Listeners};
use ringway::api::view::*;
use ringway::api::{Api, Plane, Refusal};
use ringway::capture::{CaptureRequest, CaptureStream};
use ringway::config::document::Document;
use ringway::config::{self, Config};

pub(crate) struct Fake {
    pub(crate) config: Mutex<Arc<Config>>,
    /// Configurations gone over to.
    pub(crate) applied: AtomicUsize,
    pub(crate) fdb: Mutex<Vec<FdbView>>,
    pub(crate) reopened: Mutex<Vec<String>>,
    /// Disks that were resized, and what to.
    pub(crate) resized: Mutex<Vec<(String, Option<u64>)>>,
}

pub(crate) fn web() -> PortView {
    PortView {
        name: "web".into(),
        switch: "lan".into(),
        kind: "vhost-user".into(),
        socket: Some("/run/ringway/web.sock".into()),
        socket_mode: Some("server".into()),
        interface: None,
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
            misses: 0,
            calls: 4,
        },
        queues: vec![QueueView {
            index: 1,
            direction: "from-guest".into(),
            size: 256,
            layout: "packed".into(),
            enabled: true,
            fault: Some("descriptor loop".into()),
            traffic: TrafficView { frames: 3, bytes: 2500 },
            drops: BTreeMap::from([("no-buffer".into(), 2)]),
            kicks: 5,
            calls: 4,
        }],
        settings: SettingsView {
            profile: "guest".into(),
            enabled: true,
            locked: true,
            guard: true,
            mac_limit: Some(1),
            broadcast_rate: Some(1000),
            multicast_groups_max: 64,
            addresses: vec!["10.0.0.5".into()],
            native_vlan: Some(10),
            vlans: vec!["10".into(), "20-29".into()],
            mac_change: "deny".into(),
            ..SettingsView::default()
        },
        shut: Some("guard".into()),
        fdb_learned: 1,
        fdb_pinned: 2,
        fdb_evicted: 3,
        addresses: vec![AddressView { mac: "52:54:00:00:00:01".into(), origin: "configuration".into() }],
        receive_filter: Some(ReceiveFilterView {
            source: "control-queue".into(),
            mac: "52:54:00:00:00:07".into(),
            unicast: vec!["52:54:00:00:00:08".into()],
            multicast: vec!["33:33:00:00:00:01".into()],
            promiscuous: true,
            all_multicast: false,
            changes: 4,
            refused: Some("52:54:00:00:00:09 is not allowed".into()),
        }),
        uplink: None,
        zero_copy: None,
    }
}

pub(crate) fn uplink() -> PortView {
    PortView {
        name: "uplink".into(),
        kind: "packet".into(),
        socket: None,
        socket_mode: None,
        interface: Some("eth1".into()),
        mac: None,
        mtu: None,
        state: PortState::Waiting,
        features: FeaturesView::default(),
        counters: CountersView::default(),
        queues: Vec::new(),
        settings: SettingsView { profile: "open".into(), ..SettingsView::default() },
        shut: None,
        addresses: Vec::new(),
        receive_filter: None,
        uplink: Some(UplinkView {
            mode: "promiscuous".into(),
            reason: "port vm3 learns".into(),
            unicast: vec!["52:54:00:00:00:01".into()],
            multicast: Vec::new(),
            all_multicast: true,
            operations: 7,
        }),
        zero_copy: Some(ZeroCopyView {
            min: 1024,
            frames: 12,
            bytes: 15_000,
            pending: 2,
            abandoned: 1,
            copied: BTreeMap::from([("group".into(), 3), ("short".into(), 4)]),
            lanes: vec![LaneView {
                queue: 1,
                port: "web".into(),
                pair: 0,
                kernel: "copy".into(),
                pending: 2,
            }],
            refused: BTreeMap::from([("db/0".into(), "eth1 has 2 transmit queues".into())]),
        }),
        ..web()
    }
}

/// A disk at work.
pub(crate) fn root() -> DiskView {
    let times = |count: u64, us: f64| LatencyView {
        count,
        sum_us: count as f64 * us,
        p50_us: us,
        p99_us: us * 4.0,
        max_us: us * 100.0,
        buckets: vec![
            LatencyBucketView { bound_us: us, count: count / 2 },
            LatencyBucketView { bound_us: us * 8.0, count },
        ],
    };
    DiskView {
        name: "root".into(),
        kind: "vhost-user".into(),
        socket: "/run/ringway/root.sock".into(),
        socket_mode: "server".into(),
        image: ImageView {
            kind: "file".into(),
            path: Some("/srv/root.img".into()),
            format: Some("raw".into()),
            direct: Some(true),
        },
        capacity: 20 << 30,
        block_size: 512,
        read_only: false,
        cache: "write-back".into(),
        serial: "root-0001".into(),
        state: PortState::Running,
        fault: None,
        features: FeaturesView {
            offered: vec!["VIRTIO_F_VERSION_1".into(), "VIRTIO_BLK_F_MQ".into()],
            acknowledged: vec!["VIRTIO_F_VERSION_1".into()],
        },
        workers: Some("storage".into()),
        counters: DiskCountersView {
            reads: 1000,
            writes: 500,
            flushes: 20,
            discards: 3,
            zeroes: 2,
            others: 1,
            bytes_read: 4_096_000,
            bytes_written: 2_048_000,
            errors: 4,
            in_flight: 5,
            stuck: 1,
        },
        latency: DiskLatencyView {
            read: times(1000, 80.0),
            write: times(500, 32.5),
            flush: times(20, 1250.0),
        },
        queues: [0, 1]
            .map(|index| DiskQueueView {
                index,
                running: index == 0,
                packed: true,
                size: 256,
                requests: 1526 - 1526 * u64::from(index),
                kicks: 90,
                calls: 80,
                in_flight: 5 - 5 * u64::from(index),
            })
            .to_vec(),
    }
}

/// A disk that nobody uses.
pub(crate) fn scratch() -> DiskView {
    DiskView {
        name: "scratch".into(),
        kind: "vfio-user".into(),
        socket: "/run/ringway/scratch.vfio".into(),
        image: ImageView { kind: "ram".into(), ..ImageView::default() },
        capacity: 64 << 20,
        serial: String::new(),
        state: PortState::Waiting,
        features: FeaturesView::default(),
        workers: None,
        counters: DiskCountersView::default(),
        latency: DiskLatencyView::default(),
        queues: vec![DiskQueueView::default()],
        ..root()
    }
}

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".into(),
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
            sleeps: 11,
        }],
        switches: vec![SwitchView {
            name: "lan".into(),
            ports: 2,
            fdb_entries: 1,
            fdb_entries_max: 8192,
            ageing_ms: 300_000,
            vlan: "802.1q".into(),
            snooping: true,
        }],
        ports_up: 1,
        ports_total: 2,
        disks_up: 1,
        disks_total: 2,
    }
}

pub(crate) fn learned() -> FdbView {
    FdbView {
        switch: "lan".into(),
        mac: "52:54:00:00:00:01".into(),
        port: "web".into(),
        vlan: Some(10),
        kind: "learned".into(),
        why: "seen in a frame".into(),
        age_ms: 65_000,
    }
}

pub(crate) fn group() -> GroupView {
    GroupView {
        switch: "lan".into(),
        vlan: Some(10),
        group: "01:00:5e:00:00:fb".into(),
        ports: vec!["web".into(), "uplink".into()],
        expires_ms: 130_000,
    }
}

impl Fake {
    fn matching(&self, filter: &FdbFilter) -> Result<Vec<FdbView>, Refusal> {
        let unknown = |kind: &str, name: &str| Refusal::NotFound(format!("there is no {kind} {name:?}"));
        if let Some(name) = filter.switch.as_ref().filter(|name| *name != "lan") {
            return Err(unknown("switch", name));
        }
        if let Some(name) = filter.port.as_ref().filter(|name| self.port(name).is_none()) {
            return Err(unknown("port", name));
        }
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let entries = self.fdb.lock();
        let matching = entries.iter().filter(|entry| {
            is(&filter.mac, &entry.mac)
                && is(&filter.port, &entry.port)
                && is(&filter.kind, &entry.kind)
                && (filter.vlan.is_none() || filter.vlan == entry.vlan)
        });
        Ok(matching.cloned().collect())
    }
}

impl Plane for Fake {
    fn status(&self) -> Status {
        status()
    }

    fn ports(&self) -> Vec<PortView> {
        vec![web(), uplink()]
    }

    fn port(&self, name: &str) -> Option<PortView> {
        self.ports().into_iter().find(|port| port.name == name)
    }

    fn disks(&self) -> Vec<DiskView> {
        vec![root(), scratch()]
    }

    fn disk(&self, name: &str) -> Option<DiskView> {
        self.disks().into_iter().find(|disk| disk.name == name)
    }

    fn resize_disk(&self, name: &str, bytes: Option<u64>) -> Result<u64, Refusal> {
        let disk = self.disk(name).ok_or_else(|| Refusal::NotFound(format!("there is no disk {name:?}")))?;
        self.resized.lock().push((name.into(), bytes));
        Ok(bytes.unwrap_or(disk.capacity))
    }

    fn fdb(&self, filter: &FdbFilter) -> Result<Vec<FdbView>, Refusal> {
        self.matching(filter)
    }

    fn add_fdb(&self, entry: &FdbSpec) -> Result<(), Refusal> {
        if self.port(&entry.port).is_none() {
            return Err(Refusal::NotFound(format!("there is no port {:?}", entry.port)));
        }
        if entry.mac.starts_with("01") {
            return Err(Refusal::Invalid(format!("{:?} is a multicast address", entry.mac)));
        }
        let kind = entry.kind.clone().unwrap_or("static".into());
        let (mac, port, vlan) = (entry.mac.clone(), entry.port.clone(), entry.vlan);
        let why = "operator".to_owned();
        self.fdb.lock().push(FdbView { mac, port, vlan, kind, why, age_ms: 0, ..learned() });
        Ok(())
    }

    fn flush_fdb(&self, filter: &FdbFilter) -> Result<usize, Refusal> {
        let mut going = self.matching(filter)?;
        going.retain(|entry| {
            filter.mac.is_some()
                || filter.kind.is_some()
                || ["learned", "dynamic"].contains(&entry.kind.as_str())
        });
        self.fdb.lock().retain(|entry| !going.contains(entry));
        Ok(going.len())
    }

    fn groups(&self, switch: Option<&str>) -> Result<Vec<GroupView>, Refusal> {
        match switch {
            None | Some("lan") => Ok(vec![group()]),
            Some(name) => Err(Refusal::NotFound(format!("there is no switch {name:?}"))),
        }
    }

    fn reopen(&self, port: &str) -> Result<(), Refusal> {
        match self.port(port) {
            Some(_) => self.reopened.lock().push(port.into()),
            None => return Err(Refusal::NotFound(format!("there is no port {port:?}"))),
        }
        Ok(())
    }

    fn trace(&self, _port: &str, _frame: &[u8]) -> Result<TraceView, Refusal> {
        Err(Refusal::Failed("the stand-in traces nothing".into()))
    }

    fn capture(&self, _request: &CaptureRequest) -> Result<Arc<CaptureStream>, Refusal> {
        Err(Refusal::Failed("the stand-in captures nothing".into()))
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock())
    }

    fn apply(&self, new: Config) -> Result<ChangeView, Refusal> {
        if new.ports.iter().any(|port| port.name == "cursed") {
            return Err(Refusal::Failed("port.cursed: cannot be made".into()));
        }
        let view = ChangeView::from(self.config().diff(&new));
        *self.config.lock() = Arc::new(new);
        self.applied.fetch_add(1, Ordering::SeqCst);
        Ok(view)
    }

    fn stop(&self) {}
}

pub(crate) const FILE: &str = r#"
[control]
socket = "control.sock"
http = "127.0.0.1:0"

[switch.lan]
vlan = "802.1q"

[port.web]
switch = "lan"
vhost-user.socket = "web.sock"
mac = "52:54:00:00:00:01"

[port.db]
switch = "lan"
vhost-user.socket = "db.sock"
mac = "52:54:00:00:00:02"
"#;

/// The control API over a [`Fake`], on a unix socket and a TCP address of its own.
pub(crate) struct Daemon {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) http: std::net::SocketAddr,
    pub(crate) fake: Arc<Fake>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        Daemon::with(FILE, |_| ())
    }

    /// Serves a configuration, after `prepare` has put things into its directory.
    pub(crate) fn with(text: &str, prepare: impl FnOnce(&Path)) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        prepare(directory.path());
        let file = directory.path().join("ringway.toml");
        std::fs::write(&file, text).expect("written");
        let config = config::load(&file).expect("no mistakes").config;
        let listeners = Listeners::bind(&config.control).expect("bound");
        let http = listeners.http_address().expect("a TCP address");
        let document = Document::load(&file).expect("loaded");
        let desired = Desired::new(document, file, &config.control).expect("a token, if one is named");
        let fake = Arc::new(Fake {
            config: Mutex::new(Arc::new(config)),
            applied: AtomicUsize::new(0),
            fdb: Mutex::new(vec![learned()]),
            reopened: Mutex::new(Vec::new()),
            resized: Mutex::new(Vec::new()),
        });
        let api = Api::new(Arc::clone(&fake) as Arc<dyn Plane>, Arc::new(desired));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let stop = async { drop(stopped.await) };
            runtime.block_on(server::serve(&listeners, &api, stop)).expect("served");
        });
        Daemon { directory, http, fake, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("ringway.toml")
    }

    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("ended well");
        }
    }

    /// What `ringway WORDS` prints.
    pub(crate) fn prints(&self, words: &[&str]) -> String {
        let output = self.ringway(words).assert().success().get_output().stdout.clone();
        String::from_utf8(output).expect("text")
    }

    /// What `ringway WORDS` says on standard error as it fails with code 1.
    pub(crate) fn fails(&self, words: &[&str]) -> String {
        let output = self.ringway(words).assert().code(1).get_output().stderr.clone();
        String::from_utf8(output).expect("text")
    }

    pub(crate) fn ringway(&self, words: &[&str]) -> Command {
        let mut command = Command::cargo_bin("ringway").expect("built");
        command.arg("--socket").arg(self.socket()).args(words);
        command
    }

    /// Sends a request over the unix socket; its status and its body.
    pub(crate) fn asks(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let stream = UnixStream::connect(self.socket()).expect("connected");
        let kind = "Content-Type: application/json\r\n";
        split(&raw(stream, &request(method, path, &format!("Host: ringway\r\n{kind}"), body.unwrap_or(""))))
    }

    /// Sends a request over TCP with these header lines; its status and the whole answer.
    pub(crate) fn asks_tcp(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let stream = std::net::TcpStream::connect(self.http).expect("connected");
        let answer = raw(stream, &request(method, path, headers, ""));
        (split(&answer).0, answer)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {len}\r\n\r\n{body}")
}

/// Sends `request` and reads until the other side closes.
pub(crate) fn raw(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received");
    answer
}

/// Status and body of an answer; a body in chunks is joined.
fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}
