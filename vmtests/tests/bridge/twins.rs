//! A Linux bridge and a Ringway with the same wires, given the same frames.
//!
//! Each has four ports, `p0` to `p3`. Linux has a veth for each. Ringway has veths through AF_PACKET for the first two and
//! taps for the others, so that both kinds of port stand next to the kernel's.

use crate::place::{Ends, Place, Received};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::wait_until;
use vmtests::ringway::{Config, Ringway};

/// Number of ports.
pub(crate) const PORTS: usize = 4;
/// Time in which what is expected arrives.
const SOON: Duration = Duration::from_secs(3);

/// The two bridges.
pub(crate) struct Twins {
    pub(crate) ringway: Ringway,
    pub(crate) linux: Place,
    _ours: Place,
    linux_ends: Ends,
    our_ends: Ends,
    linux_filter: fn(&[u8]) -> bool,
}

/// What became of one frame.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What left the Linux bridge, port by port.
    pub(crate) linux: Received,
    /// What left Ringway.
    pub(crate) ours: Received,
    /// What `trace` had said of it.
    pub(crate) trace: Value,
}

impl Outcome {
    /// Whether both did the same.
    pub(crate) fn is_same(&self) -> bool {
        self.linux == self.ours
    }

    /// Why Ringway drops it, by its trace.
    pub(crate) fn reason(&self) -> &str {
        self.trace.get("drop").and_then(Value::as_str).unwrap_or_default()
    }

    /// Ports of Linux and of Ringway by which something left.
    pub(crate) fn ports(&self) -> (Vec<usize>, Vec<usize>) {
        (left(&self.linux), left(&self.ours))
    }
}

fn left(received: &Received) -> Vec<usize> {
    (0..received.len()).filter(|port| !received[*port].is_empty()).collect()
}

/// Number in the name of a port.
fn index(name: &str) -> anyhow::Result<usize> {
    name.strip_prefix('p').and_then(|digits| digits.parse().ok()).with_context(|| name.to_owned())
}

impl Twins {
    /// Makes both. `linux` is settings of the Linux bridge, as `ip` takes them; `switch` lines of the section of Ringway's
    /// switch, `port` lines of the section of each port, where `N` is its number.
    pub(crate) fn start(scene: &Scene, linux: &str, switch: &str, port: &str) -> anyhow::Result<Self> {
        let settings = linux;
        let (linux, ours) = (Place::new(scene, "linux")?, Place::new(scene, "ours")?);
        let wires = |count: usize| -> String {
            (0..count)
                .map(|i| {
                    format!(
                        "link add x{i} type veth peer name p{i}\nlink set x{i} up mtu 1500\nlink set p{i} up mtu 1500\n"
                    )
                })
                .collect()
        };
        linux.batch("ip", &wires(PORTS))?;
        let slaves: String = (0..PORTS).map(|i| format!("link set p{i} master br0\n")).collect();
        linux.batch("ip", &format!("link add br0 type bridge {settings}\nlink set br0 up\n{slaves}"))?;
        ours.batch("ip", &wires(2))?;
        let mut config =
            Config::new(scene.directory(), "mode = \"pool\"\nthreads = 2").section(&format!("{switch}\n"));
        for i in 0..PORTS {
            let link = if i < 2 {
                format!("packet = {{ interface = \"p{i}\" }}")
            } else {
                format!("tap = {{ name = \"p{i}\" }}")
            };
            let port = port.replace('N', &i.to_string());
            config = config.section(&format!("\n[port.p{i}]\nswitch = \"lan\"\n{link}\n{port}\n"));
        }
        let ringway = Ringway::start_in(config, &ours.enter())?;
        wait_until("the taps", Duration::from_secs(20), || {
            ours.batch("ip", "link set p2 up\nlink set p3 up\n").is_ok()
        })?;
        let linux_ends = Ends::open(scene, &linux, "linux-ends", &["x0", "x1", "x2", "x3"])?;
        let our_ends = Ends::open(scene, &ours, "our-ends", &["x0", "x1", "p2", "p3"])?;
        let mut twins = Self { ringway, linux, _ours: ours, linux_ends, our_ends, linux_filter: |_| true };
        for i in 0..PORTS {
            twins.ringway.wait_port(&format!("p{i}"), "running", SOON)?;
            let state = || -> anyhow::Result<bool> {
                Ok(twins.linux.output("bridge", "link show")?.matches("state forwarding").count() == PORTS)
            };
            wait_until("the Linux bridge's ports", Duration::from_secs(10), || state().unwrap_or(false))?;
        }
        // Both pass frames when a probe of each port has gone its way, in any state of the links.
        twins.quiet()?;
        Ok(twins)
    }

    /// Sets keys of one of Ringway's ports as an operator would, and Linux' attributes with `bridge link set`.
    pub(crate) fn set(&self, port: usize, ours: &str, linux: &str) -> anyhow::Result<()> {
        if !ours.is_empty() {
            let name = format!("p{port}");
            let words: Vec<&str> = ["port", "set", &name].into_iter().chain(ours.split(' ')).collect();
            self.ringway.tell(&words)?;
        }
        if !linux.is_empty() {
            self.linux.batch("bridge", &format!("link set dev p{port} {linux}\n"))?;
        }
        Ok(())
    }

    /// Sets attributes of Linux' port that only `ip` knows.
    pub(crate) fn set_slave(&self, port: usize, linux: &str) -> anyhow::Result<()> {
        self.linux.batch("ip", &format!("link set dev p{port} type bridge_slave {linux}\n"))
    }

    /// Leaves out what the Linux bridge says on its own behalf: frames for which `keep` is false.
    pub(crate) fn linux_says(&mut self, keep: fn(&[u8]) -> bool) {
        self.linux_filter = keep;
    }

    /// Throws away what is on its way.
    pub(crate) fn quiet(&mut self) -> anyhow::Result<()> {
        for ends in [&mut self.linux_ends, &mut self.our_ends] {
            while ends
                .exchange(&[], &[1; PORTS], Duration::from_millis(60))?
                .iter()
                .any(|end| !end.is_empty())
            {}
        }
        Ok(())
    }

    /// What Ringway would do with a frame.
    pub(crate) fn trace(&self, port: usize, frame: &[u8]) -> anyhow::Result<Value> {
        let body = json!({ "port": format!("p{port}"), "frame": crate::place::hex(frame) });
        self.ringway.api("POST", "/api/trace", Some(&body))
    }

    /// Sends a frame into the same port of both, and holds Ringway to its own prediction.
    pub(crate) fn send(&mut self, port: usize, frame: &[u8]) -> anyhow::Result<Outcome> {
        let trace = self.trace(port, frame)?;
        let mut want = [0; PORTS];
        for output in trace.get("outputs").and_then(Value::as_array).into_iter().flatten() {
            let name = output.get("port").and_then(Value::as_str).unwrap_or_default();
            want[index(name)?] += 1;
        }
        let silent = want.iter().all(|count| *count == 0);
        let before = if silent { self.seen(port)? } else { 0 };
        let mut ours = self.our_ends.exchange(&[(port, frame)], &want, SOON)?;
        if silent {
            // Nothing comes out that would tell when the frame has been looked at: the port's counters do.
            let mut now = before;
            let counted = wait_until("the counters", SOON, || {
                now = self.seen(port).unwrap_or(before);
                now != before
            });
            counted.with_context(|| format!("no counter moved for {trace}"))?;
            let late = self.our_ends.exchange(&[], &[0; PORTS], Duration::ZERO)?;
            for (end, more) in ours.iter_mut().zip(late) {
                end.extend(more);
            }
        }
        let got: Vec<usize> = ours.iter().map(Vec::len).collect();
        if got != want {
            bail!("trace and deed differ: {got:?} frames came out of the ports, {want:?} by {trace}");
        }
        let mut linux = self.linux_ends.exchange(&[(port, frame)], &got, Duration::from_millis(80))?;
        for frames in &mut linux {
            frames.retain(|frame| (self.linux_filter)(frame));
        }
        Ok(Outcome { linux, ours, trace })
    }

    /// Sends a frame that must meet the same fate in both.
    pub(crate) fn same(&mut self, what: &str, port: usize, frame: &[u8]) -> anyhow::Result<Outcome> {
        let outcome = self.send(port, frame)?;
        let (linux, ours) = outcome.ports();
        ensure!(
            outcome.is_same(),
            "{what}: Linux sends it to ports {linux:?}, Ringway to {ours:?}: {}",
            outcome.trace
        );
        Ok(outcome)
    }

    /// Frames that a port has sent into Ringway, those included that were dropped.
    fn seen(&self, port: usize) -> anyhow::Result<u64> {
        let view = self.ringway.api("GET", &format!("/api/ports/p{port}"), None)?;
        let counters = view.get("counters").context("counters")?;
        let frames = counters.pointer("/from_guest/frames").and_then(Value::as_u64).unwrap_or(0);
        let drops = counters.get("drops").and_then(Value::as_object).context("drops")?;
        Ok(frames + drops.values().filter_map(Value::as_u64).sum::<u64>())
    }
}
