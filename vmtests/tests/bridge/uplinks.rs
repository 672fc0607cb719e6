//! What the host's interfaces let through: programmed addresses, or everything and why; and nothing left of it after the
//! end, however it came.

use crate::frames::{Mac, numbered};
use crate::place::{Ends, Place};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::wait_until;
use vmtests::ringway::{Config, Ringway};

const SOON: Duration = Duration::from_secs(5);
const WEB: Mac = [0x52, 0x54, 0, 0, 0, 1];
const DB: Mac = [0x52, 0x54, 0, 0, 0, 2];
const FAR: Mac = [2, 5, 0, 0, 0, 9];
const FOREIGN: Mac = [2, 5, 0, 0, 0, 7];

/// One wire with a switch on it.
struct Edge {
    place: Place,
    ringway: Ringway,
    far: Ends,
}

impl Edge {
    /// `setup` is lines for `ip` that make the interface `up0`, given a wire from `x0` to `w0`.
    fn start(scene: &Scene, setup: &str, attachment: &str) -> anyhow::Result<Self> {
        let place = Place::new(scene, "edge")?;
        place.batch(
            "ip",
            &format!("link add x0 type veth peer name w0\nlink set x0 up\nlink set w0 up\n{setup}"),
        )?;
        let config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1");
        let guest = |name: &str, last: u8| {
            format!(
                "\n[port.{name}]\nswitch = \"lan\"\nvhost-user = {{ socket = {:?} }}\nmac = \"52:54:00:00:00:{last:02x}\"\n",
                scene.directory().join(format!("{name}.sock"))
            )
        };
        let config = config.section(&guest("web", 1)).section(&guest("db", 2));
        let config = config.section(&format!("\n[port.uplink]\nswitch = \"lan\"\n{attachment}\n"));
        let ringway = Ringway::start_in(config, &place.enter())?;
        let far = Ends::open(scene, &place, "far", &["x0"])?;
        ringway.wait_port("uplink", "running", SOON)?;
        Ok(Self { place, ringway, far })
    }

    fn show(&self) -> anyhow::Result<Value> {
        self.ringway.ask(&["port", "show", "uplink"])
    }

    /// Mode and reason.
    fn state(&self) -> (String, String) {
        let show = self.show().unwrap_or_default();
        let word =
            |key: &str| show.pointer(&format!("/uplink/{key}")).and_then(Value::as_str).unwrap_or_default();
        (word("mode").to_owned(), word("reason").to_owned())
    }

    fn until(&self, mode: &str, reason: &str) -> anyhow::Result<()> {
        wait_until(&format!("{mode}: {reason}"), SOON, || {
            let (now, why) = self.state();
            now == mode && why.contains(reason)
        })
        .with_context(|| format!("{:?}", self.state()))
    }

    fn promiscuity(&self, interface: &str) -> anyhow::Result<u32> {
        let text = self.place.output("ip", &format!("-d link show {interface}"))?;
        let word = text.split("promiscuity ").nth(1).and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse().ok()).context(text.clone())
    }

    /// Frames that came in by the uplink.
    fn arrived(&self) -> anyhow::Result<u64> {
        let show = self.show()?;
        let count = |path: &str| show.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        Ok(count("/counters/from_guest/frames"))
    }

    /// How many of the frames to `dst` come in; a broadcast behind them tells when all have been looked at.
    fn passes(&mut self, dst: Mac) -> anyhow::Result<u64> {
        let before = self.arrived()?;
        let frames: Vec<Vec<u8>> =
            (0..10).map(|i| numbered(dst, FAR, i)).chain([numbered([0xff; 6], FAR, 99)]).collect();
        let frames: Vec<(usize, &[u8])> = frames.iter().map(|frame| (0, frame.as_slice())).collect();
        self.far.exchange(&frames, &[0], Duration::ZERO)?;
        let mut last = before;
        // The counter has come to rest when it is the same twice and more than at the beginning.
        wait_until("the frames", SOON, || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.arrived().unwrap_or(before);
            let rests = now == last && now > before;
            last = now;
            rests
        })?;
        Ok(last - before - 1)
    }
}

/// A veth has no filter, and Ringway says so.
pub(crate) fn veth(scene: &Scene) -> anyhow::Result<()> {
    let edge = Edge::start(scene, "", "packet = { interface = \"w0\" }")?;
    scene.check("promiscuous, and the reason is that it cannot filter", || {
        edge.until("promiscuous", "cannot filter")?;
        scene.note(&edge.state().1);
        ensure!(edge.promiscuity("w0")? >= 1);
        Ok(())
    })?;
    vanishes(scene, edge, "w0")
}

/// A macvlan in passthru mode has a filter, and is promiscuous only when it is told to be. What is below it here is a veth,
/// which takes everything as soon as it is asked for one more address; Ringway does not call that exact.
pub(crate) fn macvlan(scene: &Scene) -> anyhow::Result<()> {
    const BELOW: &str = "w0, below up0, is promiscuous";
    let setup = "link add link w0 name up0 type macvlan mode passthru nopromisc\nlink set up0 up\n";
    let edge = Edge::start(scene, setup, "packet = { interface = \"up0\" }")?;
    let programmed = |macs: &[&str]| {
        let list = edge.place.output("bridge", "fdb show dev up0")?;
        let found = list.lines().filter(|line| line.starts_with("52:54:00")).count();
        ensure!(found == macs.len() && macs.iter().all(|mac| list.contains(mac)), "{list}");
        anyhow::Ok(())
    };
    let guests = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
    scene.check("while every guest's address is known, these are programmed", || {
        edge.until("promiscuous", BELOW)?;
        ensure!(edge.promiscuity("up0")? == 0);
        programmed(&guests)
    })?;
    for (port, key, reason) in [("web", "learning", "port web learns"), ("db", "flood", "port db")] {
        scene.check(&format!("promiscuous while {port} has {key}, and back"), || {
            edge.ringway.tell(&["port", "set", port, &format!("{key}=true")])?;
            edge.until("promiscuous", reason)?;
            scene.note(&edge.state().1);
            ensure!(edge.promiscuity("up0")? == 1);
            edge.ringway.tell(&["port", "set", port, &format!("{key}=")])?;
            edge.until("promiscuous", BELOW)?;
            ensure!(edge.promiscuity("up0")? == 0);
            programmed(&guests)
        })?;
    }
    scene.check("guests that come and go are programmed and forgotten", || {
        let socket = scene.directory().join("new.sock");
        let words =
            format!("port add new switch=lan vhost-user.socket={} mac=52:54:00:00:00:03", socket.display());
        edge.ringway.tell(&words.split(' ').collect::<Vec<_>>())?;
        let three = [guests[0], guests[1], "52:54:00:00:00:03"];
        wait_until("three addresses", SOON, || programmed(&three).is_ok())?;
        edge.ringway.tell(&["port", "remove", "new"])?;
        wait_until("two addresses", SOON, || programmed(&guests).is_ok())
    })?;
    vanishes(scene, edge, "up0")
}

/// A macvtap in bridge mode gets the frames to its own address from the kernel, and no others, whatever it is told: exact
/// for one guest that has this address, and not enough for more.
pub(crate) fn macvtap(scene: &Scene) -> anyhow::Result<()> {
    let setup =
        "link add link w0 name up0 address 52:54:00:00:00:01 type macvtap mode bridge\nlink set up0 up\n";
    let mut edge = Edge::start(scene, setup, "macvtap = { interface = \"up0\" }")?;
    scene.check("with another guest, it says that it does not get all frames", || {
        wait_until("the reason", SOON, || edge.state().1.contains("its own address only"))
            .with_context(|| format!("{:?}", edge.state()))?;
        let (mode, reason) = edge.state();
        scene.note(&format!("{mode}: {reason}"));
        ensure!(mode != "exact" && edge.passes(DB)? == 0, "{mode}");
        Ok(())
    })?;
    scene.check("exact for one guest: its frames come, a foreign station's do not", || {
        edge.ringway.tell(&["port", "remove", "db"])?;
        edge.until("exact", "")?;
        scene.note(&edge.state().1);
        let (own, foreign) = (edge.passes(WEB)?, edge.passes(FOREIGN)?);
        ensure!(
            (own, foreign) == (10, 0),
            "{own} frames of 10 to the guest came in, {foreign} to a foreign station"
        );
        ensure!(edge.promiscuity("up0")? == 0);
        Ok(())
    })?;
    vanishes(scene, edge, "up0")
}

/// `kill -9`: neither addresses nor promiscuous mode stay.
fn vanishes(scene: &Scene, mut edge: Edge, interface: &str) -> anyhow::Result<()> {
    scene.check("killed, nothing of it stays", || {
        edge.ringway.kill();
        ensure!(edge.promiscuity(interface)? == 0, "still promiscuous");
        let list = edge.place.output("bridge", &format!("fdb show dev {interface}"))?;
        ensure!(!list.contains("52:54:00"), "{list}");
        Ok(())
    })
}
