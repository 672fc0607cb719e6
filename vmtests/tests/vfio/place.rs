//! A guest on a vhost-user port, whom those on vfio-user ports talk to.

use anyhow::ensure;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig, Nic};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

/// Limit for one transfer; emulated guests on a busy machine are slow.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

/// Ringway, and the guest at 10.0.0.1 that answers.
pub(crate) struct Place {
    pub(crate) ringway: Ringway,
    pub(crate) peer: Guest,
}

impl Place {
    /// Starts both; `ports` is the sections of further ports, whose sockets are `NAME.sock` in the scene's directory.
    pub(crate) fn start(scene: &Scene, ports: &str) -> anyhow::Result<Self> {
        let config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1");
        let config = config.port("peer", "52:54:00:00:00:01", 1, "").section(ports);
        let socket = config.socket("peer");
        let ringway = scene.check("ringway serves", || Ringway::start(config))?;
        let mut peer = GuestConfig::new("peer");
        let mac = "52:54:00:00:00:01".to_owned();
        peer.nics = vec![Nic { socket, mac, queue_pairs: 1, properties: Vec::new() }];
        let mut peer = scene.check("a guest boots on vhost-user", || Guest::boot(scene.lab(), peer))?;
        peer.must("ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up && iperf3 -s -D")?;
        Ok(Self { ringway, peer })
    }

    /// Ping and TCP both ways between the peer and a guest whose card is up as 10.0.0.2; Mbit/s to the peer and back.
    pub(crate) fn traffic(&mut self, guest: &mut Guest) -> anyhow::Result<[f64; 2]> {
        guest.must("ping -c 1 -w 10 10.0.0.1")?;
        let text = guest.must("ping -c 5 -i 0.1 -w 10 10.0.0.1")?;
        ensure!(text.contains(", 0% packet loss"), "lost echoes:\n{text}");
        let mut rates = [0.0; 2];
        for (rate, more) in rates.iter_mut().zip(["", "-R"]) {
            let text = guest.must_within(&format!("iperf3 -c 10.0.0.1 -t 1 -f m {more}"), TRANSFER_LIMIT)?;
            *rate = receiver_rate(&text).unwrap_or_default();
            ensure!(*rate > 1.0, "TCP hardly moves:\n{text}");
        }
        let errors = guest.must("awk '/^Tcp:/ && n++ {print $16}' /proc/net/snmp")?;
        ensure!(errors.trim() == "0", "the guest counts {errors} wrong checksums");
        Ok(rates)
    }
}

/// A port's section; `more` goes into `vfio-user = { }`, `lines` behind it.
pub(crate) fn port(directory: &Path, name: &str, mac: &str, more: &str, lines: &str) -> String {
    let socket = directory.join(format!("{name}.sock"));
    format!(
        "\n[port.{name}]\nswitch = \"lan\"\nvfio-user = {{ socket = {socket:?}{more} }}\nmac = \"{mac}\"\nprofile = \"open\"\n{lines}\n"
    )
}

/// QEMU's device on a port's socket; `more` is further properties.
pub(crate) fn device(directory: &Path, name: &str, more: serde_json::Value) -> String {
    let path = directory.join(format!("{name}.sock"));
    let mut device =
        json!({ "driver": "vfio-user-pci", "id": name, "socket": { "type": "unix", "path": path } });
    for (key, value) in more.as_object().into_iter().flatten() {
        device[key] = value.clone();
    }
    device.to_string()
}

/// The card of a guest that was not told which one it has: up as 10.0.0.2.
pub(crate) const CARD_UP: &str = "ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up";

/// Mbit/s in iperf3's line for the receiver.
fn receiver_rate(text: &str) -> Option<f64> {
    let line = text.lines().rfind(|line| line.trim_end().ends_with("receiver"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("Mbits/sec"))?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}
