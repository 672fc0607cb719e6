//! Two guests behind one Ringway, and the checks that most tests share.

use anyhow::{Context, ensure};
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig, Nic};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

/// Bytes of a file that is sent through and compared by its hash.
const FILE_MB: u32 = 8;
/// Seconds of each run of iperf3 over TCP.
const IPERF_SECONDS: u32 = 2;
/// Limit for one transfer; emulated guests on a busy machine are slow.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

/// How one side of the pair is made.
#[derive(Clone, Default)]
pub(crate) struct Side {
    /// Properties of the card.
    pub(crate) properties: Vec<&'static str>,
    /// Queue pairs; 0 is 1.
    pub(crate) queue_pairs: u16,
    /// Processors; 0 is 1.
    pub(crate) cpus: u32,
    /// Further lines of the port's section.
    pub(crate) port: &'static str,
}

impl Side {
    pub(crate) fn with(properties: &[&'static str]) -> Self {
        Self { properties: properties.to_vec(), ..Self::default() }
    }
}

/// Two guests, `10.0.0.1` and `10.0.0.2`, `fd00::1` and `fd00::2`, with Ringway between them.
pub(crate) struct Pair {
    pub(crate) ringway: Ringway,
    pub(crate) a: Guest,
    pub(crate) b: Guest,
}

/// Which of the two sends.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    AtoB,
    BtoA,
}

impl Pair {
    /// Starts Ringway and both guests, gives them addresses and an iperf3 server each.
    pub(crate) fn start(scene: &Scene, workers: &str, sides: [Side; 2]) -> anyhow::Result<Self> {
        let mut config = Config::new(scene.directory(), workers);
        for (name, mac, side) in [("a", mac(1), &sides[0]), ("b", mac(2), &sides[1])] {
            config = config.port(name, &mac, side.queue_pairs.max(1), side.port);
        }
        let [a, b] = [("a", 1, &sides[0]), ("b", 2, &sides[1])].map(|(name, number, side)| {
            let mut guest = GuestConfig::new(name);
            guest.cpus = side.cpus.max(1);
            guest.nics = vec![Nic {
                socket: config.socket(name),
                mac: mac(number),
                queue_pairs: side.queue_pairs.max(1),
                properties: side.properties.iter().map(|property| (*property).to_owned()).collect(),
            }];
            guest
        });
        let ringway = scene.check("ringway serves", || Ringway::start(config))?;
        let [a, b] = scene.check("both guests boot", || Guest::boot_all(scene.lab(), [a, b]))?;
        let mut pair = Self { ringway, a, b };
        for (guest, number) in [(&mut pair.a, 1), (&mut pair.b, 2)] {
            configure(guest, number)?;
        }
        Ok(pair)
    }

    /// The sender, the receiver and the receiver's number.
    pub(crate) fn ends(&mut self, way: Way) -> (&mut Guest, &mut Guest, u8) {
        match way {
            Way::AtoB => (&mut self.a, &mut self.b, 2),
            Way::BtoA => (&mut self.b, &mut self.a, 1),
        }
    }

    /// IPv4 and IPv6 echo both ways, none lost after the first second.
    pub(crate) fn ping(&mut self) -> anyhow::Result<()> {
        for way in [Way::AtoB, Way::BtoA] {
            let (from, _, number) = self.ends(way);
            from.must(&format!("ping -c 1 -w 10 10.0.0.{number}"))?;
            let text = from.must(&format!(
                "ping -c 5 -i 0.1 -w 10 10.0.0.{number} && ping6 -c 5 -i 0.1 -w 10 fd00::{number}"
            ))?;
            ensure!(text.matches(", 0% packet loss").count() == 2, "lost echoes:\n{text}");
        }
        Ok(())
    }

    /// TCP by iperf3, one way; `more` is further arguments. Gives Mbit/s.
    pub(crate) fn tcp(&mut self, way: Way, more: &str) -> anyhow::Result<f64> {
        let (from, _, number) = self.ends(way);
        let address =
            if more.contains("-6") { format!("fd00::{number}") } else { format!("10.0.0.{number}") };
        let text =
            from.must_within(&format!("iperf3 -c {address} -t {IPERF_SECONDS} -f m {more}"), TRANSFER_LIMIT)?;
        let rate = receiver_rate(&text).with_context(|| text.clone())?;
        ensure!(rate > 1.0, "TCP hardly moves: {rate} Mbit/s\n{text}");
        Ok(rate)
    }

    /// UDP by iperf3, one way, at a rate that the guests can keep up with. Gives the share of lost datagrams in percent.
    pub(crate) fn udp(&mut self, way: Way, more: &str) -> anyhow::Result<f64> {
        let (from, _, number) = self.ends(way);
        let command = format!("iperf3 -u -b 10M -c 10.0.0.{number} -t 1 -f m {more}");
        let text = from.must_within(&command, TRANSFER_LIMIT)?;
        let lost = lost_percent(&text).with_context(|| text.clone())?;
        ensure!(lost < 20.0, "UDP lost {lost} %\n{text}");
        Ok(lost)
    }

    /// A file of random bytes over TCP, compared by its SHA-256.
    pub(crate) fn file(&mut self, way: Way) -> anyhow::Result<()> {
        let (from, to, number) = self.ends(way);
        let command = format!(
            "dd if=/dev/urandom of=/tmp/file bs=1M count={FILE_MB} 2>/dev/null; sha256sum < /tmp/file"
        );
        let sent = from.must(&command)?;
        // A server whose input is at its end would close its half of the connection, and the client with it.
        to.begin(
            "[ -p /tmp/hold ] || mkfifo /tmp/hold; exec 3<>/tmp/hold; nc -l -p 7000 <&3 >/tmp/file.in; \
             sha256sum < /tmp/file.in",
        )?;
        from.must_within(
            &format!("for i in $(seq 50); do nc 10.0.0.{number} 7000 < /tmp/file && exit 0; sleep 0.1; done; exit 1"),
            TRANSFER_LIMIT,
        )?;
        let received = to.finish(TRANSFER_LIMIT)?;
        ensure!(received.text == sent, "the file changed on its way: {sent} became {}", received.text);
        Ok(())
    }

    /// No guest has seen a wrong checksum or a malformed packet.
    pub(crate) fn no_errors(&mut self) -> anyhow::Result<()> {
        for guest in [&mut self.a, &mut self.b] {
            let text = guest.must("cat /proc/net/snmp /proc/net/snmp6")?;
            for (name, value) in error_counters(&text) {
                ensure!(value == 0, "a guest counts {name} = {value}\n{text}");
            }
        }
        Ok(())
    }

    /// Ping, TCP and UDP both ways, files both ways, no errors: what every pair must do.
    pub(crate) fn everything(&mut self, scene: &Scene, what: &str) -> anyhow::Result<()> {
        scene.check(&format!("{what}: ping"), || self.ping())?;
        self.transfers(scene, what)
    }

    /// As [`everything`](Self::everything), less the ping.
    pub(crate) fn transfers(&mut self, scene: &Scene, what: &str) -> anyhow::Result<()> {
        let rates = scene.check(&format!("{what}: TCP both ways"), || {
            Ok([self.tcp(Way::AtoB, "")?, self.tcp(Way::BtoA, "")?])
        })?;
        scene.note(&format!("{what}: TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
        scene.check(&format!("{what}: UDP both ways"), || {
            self.udp(Way::AtoB, "")?;
            self.udp(Way::BtoA, "")
        })?;
        scene.check(&format!("{what}: files both ways, by hash"), || {
            self.file(Way::AtoB)?;
            self.file(Way::BtoA)
        })?;
        scene.check(&format!("{what}: no checksum errors"), || self.no_errors())
    }

    /// The features that the guest's driver acknowledged on its card, as 64 characters of `0` and `1`, bit 0 first.
    pub(crate) fn feature(guest: &mut Guest, bit: usize) -> anyhow::Result<bool> {
        let text = guest.must("cat /sys/bus/virtio/devices/virtio0/features")?;
        Ok(text.as_bytes().get(bit) == Some(&b'1'))
    }
}

/// Addresses and an iperf3 server.
pub(crate) fn configure(guest: &mut Guest, number: u8) -> anyhow::Result<()> {
    guest.must(&format!(
        "ip addr add 10.0.0.{number}/24 dev eth0 && \
         echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad && \
         ip link set eth0 up && ip -6 addr add fd00::{number}/64 dev eth0 && iperf3 -s -D"
    ))?;
    Ok(())
}

/// A locally administered address for guest `number`.
pub(crate) fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// Mbit/s in iperf3's line for the receiver; with several streams, their sum.
fn receiver_rate(text: &str) -> Option<f64> {
    let line = text.lines().filter(|line| line.trim_end().ends_with("receiver")).next_back()?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("Mbits/sec"))?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

/// The share in parentheses of iperf3's line for the receiver.
fn lost_percent(text: &str) -> Option<f64> {
    let line = text.lines().filter(|line| line.trim_end().ends_with("receiver")).next_back()?;
    line.split('(').nth(1)?.split('%').next()?.parse().ok()
}

/// Counters of checksum and header errors in `/proc/net/snmp` (a line of names, a line of values) and `/proc/net/snmp6`.
fn error_counters(text: &str) -> Vec<(String, u64)> {
    const NAMES: &[&str] = &["InCsumErrors", "InHdrErrors", "InTruncatedPkts"];
    let mut found = Vec::new();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for pair in lines.windows(2).filter(|pair| pair[0].first() == pair[1].first()) {
        for (name, value) in pair[0].iter().zip(&pair[1]).filter(|(name, _)| NAMES.contains(name)) {
            found.extend(value.parse().ok().map(|value| (format!("{}{name}", pair[0][0]), value)));
        }
    }
    for line in
        lines.iter().filter(|line| line.len() == 2 && NAMES.iter().any(|name| line[0].ends_with(name)))
    {
        found.extend(line[1].parse().ok().map(|value| (line[0].to_owned(), value)));
    }
    found
}
