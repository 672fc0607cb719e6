//! Two guests of profile `guest` behind one Ringway, which most tests here begin with.

use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig, Nic};
use vmtests::harness::Scene;
use vmtests::process::wait_until;
use vmtests::ringway::{Config, Ringway};

/// Time in which a change shows.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Guests `a` and `b`, `10.0.0.1` and `10.0.0.2`, with monitors that Ringway follows.
pub(crate) struct Couple {
    pub(crate) ringway: Ringway,
    pub(crate) a: Guest,
    pub(crate) b: Guest,
}

/// Address of guest `number`.
pub(crate) fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

impl Couple {
    /// Starts Ringway with `more` sections, and both guests.
    pub(crate) fn start(scene: &Scene, more: &str) -> anyhow::Result<Self> {
        let mut config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1");
        let monitor = |name: &str| -> PathBuf { scene.directory().join(format!("{name}.qmp")) };
        for (name, number) in [("a", 1), ("b", 2)] {
            let socket = config.socket(name);
            config = config.section(&format!(
                "\n[port.{name}]\nswitch = \"lan\"\nvhost-user = {{ socket = {:?} }}\nmac = \"{}\"\nqmp = {:?}\n",
                socket,
                mac(number),
                monitor(name)
            ));
        }
        let configs = [("a", 1), ("b", 2)].map(|(name, number)| {
            let mut guest = GuestConfig::new(name);
            guest.nics = vec![Nic {
                socket: config.socket(name),
                mac: mac(number),
                queue_pairs: 1,
                properties: vec![],
            }];
            guest.arguments =
                vec!["-qmp".into(), format!("unix:{},server=on,wait=off", monitor(name).display())];
            guest
        });
        let ringway = Ringway::start(config.section(more))?;
        let [a, b] = scene.check("both guests boot", || Guest::boot_all(scene.lab(), configs))?;
        let mut couple = Self { ringway, a, b };
        configure(&mut couple.a, 1)?;
        configure(&mut couple.b, 2)?;
        couple.ping()?;
        Ok(couple)
    }

    /// Three echoes from `a` to `b`, none lost after one that may be.
    pub(crate) fn ping(&mut self) -> anyhow::Result<()> {
        self.a.must("ping -c 1 -w 10 10.0.0.2")?;
        let text = self.a.must("ping -c 3 -i 0.1 -w 5 10.0.0.2")?;
        ensure!(text.contains(", 0% packet loss"), "lost echoes:\n{text}");
        Ok(())
    }

    /// `port show` of a port.
    pub(crate) fn show(&self, port: &str) -> anyhow::Result<Value> {
        self.ringway.ask(&["port", "show", port])
    }

    /// Frames that a port dropped for a reason.
    pub(crate) fn drops(&self, port: &str, reason: &str) -> anyhow::Result<u64> {
        let show = self.show(port)?;
        Ok(show.pointer(&format!("/counters/drops/{reason}")).and_then(Value::as_u64).unwrap_or(0))
    }

    /// Waits until `port show` of a port is as `condition` wants it.
    pub(crate) fn until(
        &self,
        what: &str,
        port: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        wait_until(what, SOON, || {
            last = self.show(port).unwrap_or_default();
            condition(&last)
        })
        .with_context(|| format!("{last}\n{}", self.ringway.log_tail()))?;
        Ok(last)
    }

    /// Addresses in the FDB behind a port.
    pub(crate) fn fdb(&self, port: &str) -> anyhow::Result<Vec<String>> {
        let list = self.ringway.ask(&["fdb", "list", "--port", port])?;
        let macs = list.as_array().context("a list")?.iter().filter_map(|entry| entry["mac"].as_str());
        Ok(macs.map(str::to_owned).collect())
    }
}

/// The address of guest `number`, and that it tells others when its link's address changes.
pub(crate) fn configure(guest: &mut Guest, number: u8) -> anyhow::Result<()> {
    guest.must(&format!(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify; echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; \
         ip addr add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up"
    ))?;
    Ok(())
}
