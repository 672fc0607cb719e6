//! An AF_XDP uplink to measure: a veth pair in a network namespace of its own, a data plane with one guest and the uplink, and
//! the guest, which sends as fast as it is let.
//!
//! The namespace belongs to one thread and goes with it and with the threads that it starts, the plane's among them; the host's own
//! network is not touched. A user namespace would not do for those who are not root: AF_XDP uplinks have an XDP program, and
//! the kernel loads one for CAP_BPF and CAP_NET_ADMIN of the host's own user namespace only.

use super::chart::LeftOut;
use super::frames::{Kind, Template, mac};
use super::lab::{Lab, Seen};
use super::modes::{one_of_its_own, pin};
use super::traffic::Times;
use crate::api::Plane as _;
use crate::api::view::{FdbSpec, PortView};
use crate::config::mac_text;
use crate::embedded::rings::{HeaderPlace, Rings, Shape};
use crate::embedded::wire::{ETHERNET_LEN, feature};
use crate::plane::Ways;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// The longest packet on the veth in bytes, and the longest frame.
const MTU: usize = 9000;
pub(super) const FRAME_MAX: usize = ETHERNET_LEN + MTU;
/// The shortest frame that is lent: what the configuration accepts.
pub(super) const LENT_MIN: usize = 256;
/// The port of the uplink, its interface and the interface at the other end of the cable.
const PORT: &str = "wire";
const NEAR: &str = "up0";
const FAR: &str = "far0";
/// Whom the guest, number 0, sends to: a station behind the uplink.
const STATION: usize = 1;
/// Frames that the guest has on their way at most: fewer than a ring of this size may lend (docs/adr/0017).
const WINDOW: usize = 96;
const RING: u16 = 512;
/// Frames that the guest sends before it kicks.
const BURST: usize = 16;
/// How long it waits when it may send nothing: less than its frames on their way take.
const PAUSE: Duration = Duration::from_micros(20);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the frames that the kernel still has are looked at.
const PENDING_EVERY: Duration = Duration::from_millis(10);

/// What was counted from when nothing was on its way to when nothing was any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sent {
    pub(super) seconds: f64,
    /// As the driver counted them.
    pub(super) frames: u64,
    /// As the plane counted them at the uplink.
    pub(super) bytes: u64,
    /// Those that it did not copy, but for their heads, and what it did not copy of them.
    pub(super) lent_frames: u64,
    pub(super) lent_bytes: u64,
    /// As the kernel counted them at the other end of the cable.
    pub(super) arrived: u64,
    /// By the plane, since the interface did not take them.
    pub(super) dropped: u64,
    /// Lent frames that the kernel had not sent yet, at most.
    pub(super) pending_max: u32,
    /// Processor time of the worker.
    pub(super) worker_ns: u64,
}

/// Runs `body` on a thread in a network namespace of its own, with a veth pair in it.
///
/// # Errors
/// [`LeftOut`] where that cannot be; what `body` says.
pub(super) fn in_namespace<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        enter_namespace()?;
        lay_cable()?;
        body()
    };
    std::thread::scope(|scope| {
        scope.spawn(inside).join().map_err(|_| anyhow!("the thread of the namespace has panicked"))?
    })
}

fn enter_namespace() -> Result<()> {
    let flags = rustix::thread::UnshareFlags::NEWNET;
    #[expect(deprecated, reason = "the safe form: only the network is left")]
    let entered = rustix::thread::unshare(flags);
    entered.map_err(|errno| {
        LeftOut(format!(
            "it needs root, for a network namespace of its own and an AF_XDP uplink in it ({errno})"
        ))
    })?;
    // Nothing but the guest's frames shall be on the cable. A kernel without IPv6 sends none.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    Ok(())
}

/// Makes the veth pair: two queues, one for the uplink and one for the guest's lane.
fn lay_cable() -> Result<()> {
    let queues = format!("mtu {MTU} numtxqueues 2 numrxqueues 2");
    ip(&format!("link add {NEAR} {queues} type veth peer name {FAR} {queues}"))?;
    ip(&format!("link set {FAR} up"))?;
    ip(&format!("link set {NEAR} up"))?;
    let end = Instant::now() + PATIENCE;
    while !(ip(&format!("link show {NEAR}"))?.contains("state UP")) {
        ensure!(Instant::now() < end, "{NEAR} got no link");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| LeftOut(format!("it makes its veth pair with the program ip: {error}")))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!(LeftOut(format!("its veth pair cannot be made: ip {arguments}: {complaint}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A data plane with the uplink and the guest attached.
pub(super) struct Uplink {
    lab: Lab,
    rings: Rings,
    /// Of the last frame.
    number: u64,
    /// Frames that had come out of the cable before this data plane was there.
    arrived_before: u64,
}

/// Everything that is counted, up to a moment.
struct Look {
    at: Instant,
    sent: u64,
    seen: Seen,
    wire: PortView,
    /// Frames and bytes that came out of the cable.
    arrived: (u64, u64),
}

impl Uplink {
    /// Starts it, in a namespace with a cable. `zero_copy` is as in the configuration.
    ///
    /// # Errors
    /// [`LeftOut`] where there is no AF_XDP, or where the guest's memory cannot be lent although it should be.
    pub(super) fn new(zero_copy: &str) -> Result<Self> {
        let mode = one_of_its_own();
        let more = format!(
            "[port.{PORT}]\nswitch = \"lan\"\nprofile = \"open\"\n\
             af-xdp = {{ interface = \"{NEAR}\", zero-copy = \"{zero_copy}\", zero-copy-min = {LENT_MIN} }}\n"
        );
        let lab = Lab::with(&mode.body, 1, &more, Ways::ALL)
            .map_err(|fault| LeftOut(format!("no AF_XDP uplink can be opened here ({fault:#})")))?;
        let entry = FdbSpec { mac: mac_text(mac(STATION)), port: PORT.into(), vlan: None, kind: None };
        lab.plane().add_fdb(&entry).map_err(|refusal| anyhow!("the station's address: {refusal:?}"))?;
        let call = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("making an eventfd")?;
        let shape = Shape {
            wanted: feature::RING_EVENT_IDX,
            receive_count: 64,
            receive_size: 2048,
            transmit_count: RING,
            frame_max: FRAME_MAX,
            header: HeaderPlace::WithData,
        };
        let rings = Rings::attach(&lab.socket(0), &call, shape).context("attaching the guest")?;
        pin(&mode.guest_cpus);
        let uplink = Self { lab, rings, number: 0, arrived_before: arrived()?.0 };
        if zero_copy != "off" {
            uplink.wait_for_lane()?;
        }
        Ok(uplink)
    }

    /// What the kernel does with lent frames: `copy`, `fragments` or `zero-copy`; `None` without a lane.
    pub(super) fn kernel(&self) -> Result<Option<String>> {
        let lanes = self.wire()?.zero_copy.map(|view| view.lanes).unwrap_or_default();
        Ok(lanes.into_iter().next().map(|lane| lane.kernel))
    }

    fn wait_for_lane(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.kernel()?.is_none() {
            let refused = self.wire()?.zero_copy.map(|view| view.refused).unwrap_or_default();
            if let Some(why) = refused.into_values().next() {
                bail!(LeftOut(format!("the guest's memory cannot be lent here: {why}")));
            }
            ensure!(Instant::now() < end, "the guest's queue got no lane");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn wire(&self) -> Result<PortView> {
        self.lab.plane().port(PORT).context("the uplink has no port")
    }

    /// Sends frames of `len` bytes for as long as `times` says.
    ///
    /// # Errors
    /// A frame that was lost without being counted, or came in another length; one that does not come back.
    pub(super) fn send(&mut self, len: usize, times: Times) -> Result<Sent> {
        let mut template = Template::new(Kind::Request, 0, STATION, len - Kind::Request.header_len());
        self.pump(&mut template, times.warm_up)?;
        let before = self.look_when_quiet()?;
        let pending_max = self.pump(&mut template, times.window)?;
        let after = self.look_when_quiet()?;
        let mut sent = difference(&before, &after, len)?;
        sent.pending_max = pending_max;
        Ok(sent)
    }

    /// Sends for so long; lent frames that were seen pending at most.
    fn pump(&mut self, template: &mut Template, time: Duration) -> Result<u32> {
        let begin = Instant::now();
        let (mut looked, mut pending_max) = (begin, 0);
        loop {
            let now = Instant::now();
            if now - begin >= time {
                return Ok(pending_max);
            }
            if now - looked >= PENDING_EVERY {
                pending_max = pending_max.max(self.wire()?.zero_copy.map_or(0, |view| view.pending));
                looked = now;
            }
            let mut count = 0;
            while count < BURST && self.rings.has_slot() && self.rings.in_flight() < WINDOW {
                self.number += 1;
                self.rings.send(template.numbered(self.number), None);
                count += 1;
            }
            self.rings.flush();
            if let Some(fault) = self.rings.fault() {
                bail!("the driver stopped: {fault}");
            }
            if count == 0 {
                // A while in which some bursts go, so that the driver's looking does not slow the worker down.
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Everything counted, when the driver has all its slots back and the kernel has handed over all that it was given.
    fn look_when_quiet(&mut self) -> Result<Look> {
        let end = Instant::now() + PATIENCE;
        while !self.rings.has_slot() || self.rings.in_flight() != 0 {
            ensure!(Instant::now() < end, "{} frames do not come back", self.rings.in_flight());
            std::thread::yield_now();
        }
        loop {
            let (at, seen) = self.lab.look();
            let (wire, arrived) = (self.wire()?, arrived()?);
            let left = wire.counters.to_guest.frames;
            let is_quiet =
                left + seen.drops == self.rings.counters.sent && arrived.0 - self.arrived_before == left;
            // What is not there by then is told by the one who compares.
            if is_quiet || Instant::now() >= end {
                return Ok(Look { at, sent: self.rings.counters.sent, seen, wire, arrived });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.rings.detach();
    }
}

/// What is between two looks; every frame is accounted for, with its bytes.
fn difference(before: &Look, after: &Look, len: usize) -> Result<Sent> {
    let seen = after.seen.since(&before.seen);
    let since = |of: &dyn Fn(&Look) -> u64| of(after) - of(before);
    let lent = |of: fn(&crate::api::view::ZeroCopyView) -> u64| {
        since(&|look| look.wire.zero_copy.as_ref().map_or(0, of))
    };
    let sent = Sent {
        seconds: (after.at - before.at).as_secs_f64(),
        frames: since(&|look| look.sent),
        bytes: since(&|look| look.wire.counters.to_guest.bytes),
        lent_frames: lent(|view| view.frames),
        lent_bytes: lent(|view| view.bytes),
        arrived: since(&|look| look.arrived.0),
        dropped: seen.drops,
        pending_max: 0,
        worker_ns: seen.worker_ns,
    };
    let Sent { frames, bytes, arrived, dropped, .. } = sent;
    ensure!(frames > 0, "no frame was sent: the window is too short");
    ensure!(
        frames == seen.frames_from_guests && frames == arrived + dropped,
        "the driver sent {frames} frames, the plane took {} and dropped {dropped}, {arrived} arrived",
        seen.frames_from_guests
    );
    let arrived_bytes = since(&|look| look.arrived.1);
    ensure!(
        bytes == arrived * len as u64 && arrived_bytes == bytes,
        "{arrived} frames of {len} bytes arrived: {bytes} bytes left and {arrived_bytes} came"
    );
    ensure!(lent(|view| view.abandoned) == 0, "the kernel kept frames that it was lent");
    ensure!(sent.worker_ns > 0, "the kernel does not tell the processor time of a thread (schedstat)");
    Ok(sent)
}

/// Frames and bytes that came out of the cable (proc(5), `/proc/pid/net/dev`).
fn arrived() -> Result<(u64, u64)> {
    let path = "/proc/thread-self/net/dev";
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    received_by(&text, FAR).with_context(|| format!("{path} has no {FAR}"))
}

/// The received frames and bytes of an interface in the text of `net/dev`.
fn received_by(text: &str, interface: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let (bytes, frames) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((frames, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::ZeroCopyView;

    #[test]
    fn counters_of_interfaces_are_read() {
        let text = "Inter-|   Receive\n face |bytes    packets errs\n    lo: 9 8 7 0\n  far0: 3000 2 0 0 0 0 0 0 5 6\nfar01: 1 1 0\n";
        assert_eq!(received_by(text, "far0"), Some((2, 3000)));
        assert_eq!(received_by(text, "up0"), None);
    }

    /// A look after `frames` frames of 1000 bytes, of which `lent` were lent but for 100 bytes, and one is dropped.
    fn look(frames: u64, lent: u64) -> Look {
        let mut wire = PortView { zero_copy: Some(ZeroCopyView::default()), ..port_view() };
        let view = wire.zero_copy.as_mut().unwrap();
        (view.frames, view.bytes) = (lent, lent * 900);
        let arrived = frames.saturating_sub(1);
        wire.counters.to_guest.bytes = arrived * 1000;
        let drops = frames - arrived;
        let seen = Seen { frames_from_guests: frames, drops, worker_ns: frames * 10, ..Seen::default() };
        Look { at: Instant::now(), sent: frames, seen, wire, arrived: (arrived, arrived * 1000) }
    }

    fn port_view() -> PortView {
        let lab = Lab::new("mode = \"pool\"", 1, Ways::ALL).unwrap();
        lab.plane().ports().remove(0)
    }

    #[test]
    fn what_is_not_accounted_for_is_an_error() {
        let (before, after) = (look(0, 0), look(11, 6));
        let sent = difference(&before, &after, 1000).unwrap();
        assert_eq!((sent.frames, sent.arrived, sent.dropped), (11, 10, 1));
        assert_eq!((sent.bytes, sent.lent_frames, sent.lent_bytes), (10_000, 6, 5400));
        assert_eq!(sent.worker_ns, 110);
        let breaks: [fn(&mut Look); 5] = [
            |look| look.sent += 1,
            |look| look.arrived.0 -= 1,
            |look| look.arrived.1 -= 1,
            |look| look.wire.zero_copy.as_mut().unwrap().abandoned = 1,
            |look| look.seen.worker_ns = 0,
        ];
        for spoil in breaks {
            let mut after = look(11, 6);
            spoil(&mut after);
            assert!(difference(&before, &after, 1000).is_err());
        }
    }
}
