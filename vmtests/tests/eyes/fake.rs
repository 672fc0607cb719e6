//! A stand-in for the API with as many ports as a test wants, with hostile names if it wants, and with a token.
//!
//! It is a process of its own, so that it can sit in the browser's network namespace and be killed as a server can. The
//! dashboard's files come from the source tree, without the security policy that the real server sends: what the policy would
//! stop must not even be tried.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

/// What markup would do if any text became markup: each of these would set `window.broken`.
pub(crate) const HOSTILE: [&str; 4] = [
    "<img src=x onerror=\"window.broken=1\">",
    "\"><script>window.broken=2</script>",
    "</title></text><svg onload=window.broken=3>",
    "javascript:window.broken=4//${window.broken=5}",
];

/// Number of disks.
const DISKS: usize = 3;

/// What is served.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    /// Number of ports.
    pub(crate) ports: usize,
    /// Texts are [`HOSTILE`].
    pub(crate) hostile: bool,
    /// The token that the API asks for.
    pub(crate) token: Option<String>,
}

impl Fake {
    /// The arguments of this very program that make it serve.
    pub(crate) fn arguments(&self, address: &str) -> Vec<String> {
        let token = self.token.clone().unwrap_or_default();
        vec!["serve".into(), address.into(), self.ports.to_string(), self.hostile.to_string(), token]
    }

    /// Serves until it is killed, if `arguments` are those of [`arguments`](Self::arguments).
    pub(crate) fn serve(arguments: &[String]) -> anyhow::Result<()> {
        let [_, address, ports, hostile, token] = arguments else { anyhow::bail!("serve: wrong arguments") };
        let token = Some(token.clone()).filter(|token| !token.is_empty());
        let fake = Self { ports: ports.parse()?, hostile: hostile.parse()?, token };
        let listener = TcpListener::bind(address)?;
        println!("serving");
        let start = Instant::now();
        for stream in listener.incoming() {
            let (stream, fake) = (stream?, fake.clone());
            std::thread::spawn(move || drop(fake.answer(stream, start)));
        }
        Ok(())
    }

    fn answer(&self, stream: TcpStream, start: Instant) -> anyhow::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut line, mut head) = (String::new(), String::new());
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            while stream.read_line(&mut head)? > 2 {}
            let head = head.to_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body)?;
            let path = line.split(' ').nth(1).unwrap_or("/");
            let allowed = self.token.as_ref().is_none_or(|token| {
                head.contains(&format!("authorization: bearer {}\r\n", token.to_lowercase()))
            });
            let (status, media, text) = if path.starts_with("/api/") && !allowed {
                ("401 Unauthorized", "application/json", json!({ "error": "no token" }).to_string())
            } else {
                self.resource(path, &body, start.elapsed().as_secs_f64())
            };
            let length = text.len();
            write!(
                stream.get_mut(),
                "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n{text}"
            )?;
        }
    }

    fn resource(&self, path: &str, body: &[u8], elapsed_s: f64) -> (&'static str, &'static str, String) {
        let found = |value: Value| ("200 OK", "application/json", value.to_string());
        match path.split('?').next().unwrap_or(path) {
            "/api/status" => found(self.status(elapsed_s)),
            "/api/ports" => found((0..self.ports).map(|number| self.port(number, elapsed_s)).collect()),
            "/api/disks" => found((0..DISKS).map(|number| self.disk(number, elapsed_s)).collect()),
            "/api/fdb" => found(self.fdb()),
            "/api/trace" => found(self.trace(body)),
            path => {
                let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
                let directory =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/host/src/eyes/dashboard");
                let media = match name.rsplit('.').next() {
                    Some("html") => "text/html; charset=utf-8",
                    Some("js") => "text/javascript",
                    Some("css") => "text/css",
                    _ => "image/svg+xml",
                };
                match std::fs::read_to_string(directory.join(name.replace('/', ""))) {
                    Ok(text) => ("200 OK", media, text),
                    Err(_) => ("404 Not Found", "text/plain", String::new()),
                }
            }
        }
    }

    fn text(&self, number: usize, tame: &str) -> String {
        if self.hostile { HOSTILE[number % HOSTILE.len()].to_owned() } else { tame.to_owned() }
    }

    fn name(&self, number: usize) -> String {
        const NAMES: [&str; 9] =
            ["web", "db", "mail", "build", "uplink", "backup", "intruder", "spare", "lab"];
        let tame = NAMES.get(number).map_or(format!("vm{number}"), |name| (*name).to_owned());
        // Names are unique, hostile or not.
        if self.hostile { format!("{number} {}", self.text(number, &tame)) } else { tame }
    }

    fn status(&self, elapsed_s: f64) -> Value {
        let worker = |number: u64| {
            json!({
                "name": format!("worker-{number}"), "cpu": number, "mode": "pool", "queues": 7,
                "sleeps": (elapsed_s * 900.0 * (number + 1) as f64) as u64
            })
        };
        json!({
            "version": "0.1.0", "pid": std::process::id(), "uptime_s": 7440 + elapsed_s as u64,
            "workers": [worker(0), worker(1)],
            "switches": [{
                "name": self.text(0, "lan"), "ports": self.ports, "fdb_entries": self.ports * 2,
                "fdb_entries_max": 16384, "ageing_ms": 300_000, "vlan": "802.1q", "snooping": true
            }],
            "ports_up": self.ports.saturating_sub(3), "ports_total": self.ports,
            "disks_up": DISKS - 1, "disks_total": DISKS
        })
    }

    fn port(&self, number: usize, elapsed_s: f64) -> Value {
        let uplink = number == 4;
        let state = match number {
            5 => "waiting",
            7 => "connected",
            8 => "faulted",
            _ => "running",
        };
        // Rates over five powers of ten, in waves.
        let wave = 1.0 + 0.6 * (elapsed_s / 7.0 + number as f64).sin();
        let pace = if state == "running" { 10f64.powi((9 - number as i32).rem_euclid(6)) } else { 0.0 };
        let frames = (pace * (elapsed_s + 4.0 * wave)) as u64;
        let reason = ["receiver-full", "locked", "broadcast-rate", "source-address"][number % 4];
        let drops = if matches!(number, 0 | 1 | 6) || number % 97 == 11 {
            json!({ reason: (elapsed_s * 40.0 * wave * (number + 1) as f64) as u64, "guard": 1, self.text(1, "runt"): 3 })
        } else {
            json!({})
        };
        let queue = |index: usize, direction: &str| {
            json!({
                "index": index, "direction": direction, "size": 256, "layout": "split", "enabled": true,
                "fault": if number == 8 { json!(self.text(2, "descriptor loop")) } else { Value::Null },
                "traffic": { "frames": frames, "bytes": frames * 900 },
                "drops": {}, "kicks": frames / 9, "calls": frames / 11
            })
        };
        let uplink_filter = json!({
            "mode": "promiscuous", "reason": self.text(3, "port lab learns"),
            "unicast": ["52:54:00:00:00:01"], "multicast": [], "all_multicast": false, "operations": 12
        });
        let filter = json!({
            "source": "control-queue", "mac": mac(number), "unicast": [], "multicast": ["33:33:00:00:00:01"],
            "promiscuous": false, "all_multicast": false, "changes": 3, "refused": Value::Null
        });
        json!({
            "name": self.name(number), "switch": self.text(0, "lan"),
            "kind": if uplink { "packet" } else { "vhost-user" },
            "socket": if uplink { Value::Null } else { json!(format!("/run/ringway/{number}.sock")) },
            "socket_mode": if uplink { Value::Null } else { json!("server") },
            "interface": if uplink { json!("eth1") } else { Value::Null },
            "mac": if uplink { Value::Null } else { json!(mac(number)) },
            "mtu": 1500, "state": state,
            "fault": if number == 8 { json!(self.text(2, "queue 1: descriptor loop")) } else { Value::Null },
            "queue_pairs": 1,
            "features": {
                "offered": ["VIRTIO_F_VERSION_1", "VIRTIO_NET_F_MRG_RXBUF", "VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_MQ"],
                "acknowledged": ["VIRTIO_F_VERSION_1", "VIRTIO_NET_F_MRG_RXBUF"]
            },
            "counters": {
                "from_guest": { "frames": frames, "bytes": frames * 900 },
                "to_guest": { "frames": frames / 2, "bytes": frames * 400 },
                "drops": drops, "kicks": frames / 9, "calls": frames / 11
            },
            "queues": [queue(0, "to-guest"), queue(1, "from-guest")],
            "settings": {
                "profile": "guest", "enabled": true, "learning": false, "flood": false, "multicast-flood": true,
                "broadcast-flood": true, "isolated": false, "hairpin": false, "locked": !uplink, "guard": true,
                "neighbour-suppression": false, "mac-limit": 8, "unknown-unicast-rate": 100, "broadcast-rate": 100,
                "multicast-rate": Value::Null, "addresses": ["10.0.0.0/24"], "macs": [mac(number)],
                "link-local-forward": [0], "native-vlan": 10, "vlans": ["10", "20-29"], "mac-change": "allow"
            },
            "shut": if number == 6 { json!("guard") } else { Value::Null },
            "fdb_learned": 1, "fdb_pinned": 1, "fdb_evicted": 0,
            "addresses": if uplink { json!([]) } else { json!([{ "mac": mac(number), "origin": "configuration" }]) },
            "receive_filter": if uplink { Value::Null } else { filter },
            "uplink": if uplink { uplink_filter } else { Value::Null }
        })
    }

    fn disk(&self, number: usize, elapsed_s: f64) -> Value {
        let running = number != 2;
        let requests = if running { (elapsed_s * 10f64.powi(5 - number as i32)) as u64 } else { 0 };
        let times = |us: f64| {
            let sum_us = requests as f64 * us;
            json!({ "count": requests, "sum_us": sum_us, "p50_us": us, "p99_us": us * 3.0, "max_us": us * 9.0, "buckets": [] })
        };
        json!({
            "name": format!("{} {number}", self.text(0, ["root", "data", "scratch"][number % 3])),
            "kind": "vhost-user", "socket": format!("/run/ringway/disk{number}.sock"), "socket_mode": "server",
            "image": { "kind": "file", "path": self.text(1, "/srv/images/root.img"), "format": "raw", "direct": true },
            "capacity": 20u64 << 30, "block_size": 512, "read_only": number == 1, "cache": "write-back",
            "serial": self.text(2, "root-0001"), "state": if running { "running" } else { "faulted" },
            "fault": if running { Value::Null } else { json!(self.text(3, "queue 0: descriptor loop")) },
            "features": { "offered": [], "acknowledged": [] }, "workers": Value::Null,
            "counters": {
                "reads": requests, "writes": requests / 2, "flushes": requests / 9, "discards": 0, "zeroes": 0, "others": 1,
                "bytes_read": requests * 4096, "bytes_written": requests * 2048, "errors": number, "in_flight": 7,
                "stuck": if running { 0 } else { 2 }
            },
            "latency": { "read": times(80.0), "write": times(30.0), "flush": times(900.0) },
            "queues": []
        })
    }

    fn fdb(&self) -> Value {
        let entry = |number: usize| {
            json!({
                "switch": self.text(0, "lan"), "mac": mac(number), "port": self.name(number / 2), "vlan": 10,
                "kind": if number.is_multiple_of(2) { "static" } else { "learned" },
                "why": self.text(1, if number.is_multiple_of(2) { "configuration" } else { "seen in a frame" }),
                "age_ms": number * 700
            })
        };
        (0..self.ports * 2).map(entry).collect()
    }

    fn trace(&self, body: &[u8]) -> Value {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        json!({
            "port": asked["port"], "switch": self.text(0, "lan"), "frame": asked["frame"], "vlan": 10,
            "steps": [
                { "rule": "port", "finding": "enabled, not shut", "passed": true },
                { "rule": "vlan-ingress", "finding": "untagged: native VLAN 10", "passed": true },
                { "rule": "locked", "finding": self.text(0, "52:54:00:00:00:77 is not behind this port"), "passed": false }
            ],
            "verdict": "drop", "drop": "locked", "outputs": [], "left_out": [{ "port": self.name(2), "form": self.text(3, "isolated") }]
        })
    }
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:{:02x}:{:02x}", number >> 8 & 0xff, number & 0xff)
}
