//! The control queue, where a front-end delivers it (QEMU's own virtio-net keeps it; generic front-ends do not).
//!
//! Commands are rare and may change several queues, so the session thread serves them, not a worker.

use super::addresses::{self, Report, ReportSource};
use super::port::{GuestPort, Live, call};
use super::session::Serving;
use super::stats::add;
use devices::net::control::{Change, ControlState, Modes};
use guestmem::GuestMemory;
use rustix::event::Timespec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use switch::UnicastMac;
use transport::event::Outcome;
use virtqueue::{Burst, DeviceQueue, QueueSetup, RingState};

/// Commands handled at one kick; a driver has one outstanding.
const COMMANDS_MAX: usize = 64;

/// What a command costs its guest in the long run: its effects reach the FDB, the log and the host's filters.
const COMMAND_TIME: Duration = Duration::from_millis(5);
/// What it may have saved up: a driver that starts sends some dozens of commands.
const COMMAND_CREDIT: Duration = Duration::from_millis(5 * 128);

/// The control queue of one connection.
pub(super) struct Control {
    running: Option<Running>,
    kick: Option<OwnedFd>,
    /// Commands wait that were too many for one visit.
    more: bool,
    /// When the next command is due, if they come faster than [`COMMAND_TIME`].
    due: Instant,
}

struct Running {
    live: Live,
    state: ControlState,
    /// The ring's memory is gone for now.
    suspended: bool,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { running: None, kick: None, more: false, due: Instant::now() }
    }

    /// What to sleep on.
    pub(super) fn kick(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }

    /// Whether the queue has to be looked at without being kicked.
    pub(super) fn is_polled(&self) -> bool {
        self.running.is_some() && (self.kick.is_none() || self.more)
    }

    /// The address that the driver uses, while there is a queue for it to say so.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        self.running.as_ref().map(|running| running.state.mac())
    }

    pub(super) fn start(&mut self, live: Live, kick: Option<OwnedFd>, state: ControlState) {
        self.running = Some(Running { live, state, suspended: false });
        self.kick = kick;
    }

    pub(super) fn stop(&mut self) -> RingState {
        self.kick = None;
        self.running.take().map(|running| running.live.queue.state()).unwrap_or_default()
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Live)) -> Outcome {
        if let Some(running) = &mut self.running {
            change(&mut running.live);
        }
        Outcome::Done
    }

    pub(super) fn replace_kick(&mut self, kick: Option<OwnedFd>) -> Outcome {
        self.kick = kick;
        Outcome::Done
    }

    /// The queue on other memory or another log; without a set-up it rests until there is one.
    pub(super) fn restart(&mut self, memory: &Arc<GuestMemory>, setup: Option<&QueueSetup>) -> Outcome {
        let Some(running) = &mut self.running else { return Outcome::Done };
        running.suspended = setup.is_none();
        let Some(setup) = setup else { return Outcome::Done };
        match DeviceQueue::new(memory, setup, running.live.queue.state()) {
            Ok(queue) => {
                running.live.queue = queue;
                running.live.memory = Arc::clone(memory);
                Outcome::Done
            }
            Err(_) => {
                self.running = None;
                Outcome::Failed
            }
        }
    }

    /// Carries out the commands that are waiting, and has the driver kick for the next one.
    pub(super) fn serve(&mut self, serving: &Serving, guest: &GuestPort) {
        if let Some(kick) = &self.kick {
            let _ = rustix::io::read(kick, &mut [0u8; 8]);
        }
        self.more = false;
        let Some(Running { live, state, suspended: false }) = &mut self.running else { return };
        if !live.enabled || live.queue.fault().is_some() {
            return;
        }
        let memory = Arc::clone(&live.memory);
        let mut burst = Burst::new();
        for _ in 0..COMMANDS_MAX {
            let ahead = self.due.saturating_duration_since(Instant::now());
            if ahead > COMMAND_CREDIT {
                let nanos = (ahead - COMMAND_CREDIT).as_nanos() as i64;
                serving.stopping.sleep(Timespec { tv_sec: 0, tv_nsec: nanos });
            }
            let count = live.queue.pop(&memory, &mut burst, 1).unwrap_or(0);
            if let Some(fault) = live.queue.fault() {
                guest.facts.lock().fault = Some(format!("control queue retired: {fault}"));
            }
            if count == 0 && !live.queue.enable_notify() {
                return;
            }
            self.due = self.due.max(Instant::now()) + COMMAND_TIME * count as u32;
            while let Some(chain) = burst.take() {
                // The address is in force before the driver sees the answer: its next frame may carry it already.
                let wanted = state.clone();
                let mut admit = |mac| UnicastMac::new(mac).is_some_and(|mac| report(serving, &wanted, mac));
                let (written, change) = state.handle_chain(&burst, &chain, &mut admit);
                if let Some(change) = change {
                    apply(serving, guest, state, change);
                }
                live.queue.complete(&burst, chain, written);
            }
            let due = live.flush();
            add(&guest.control_stats.calls, u64::from(due.is_some()));
            call(due);
        }
        self.more = true;
    }
}

/// Tells the switch which addresses the driver uses, `mac` as its own; false if it may not.
fn report(serving: &Serving, state: &ControlState, mac: UnicastMac) -> bool {
    let takes_all = state.modes().intersects(Modes::PROMISC | Modes::ALLMULTI);
    let report = Report {
        source: ReportSource::ControlQueue,
        mac,
        unicast: state.unicast().unwrap_or_default().iter().copied().filter_map(UnicastMac::new).collect(),
        multicast: state.multicast().filter(|_| !takes_all).map(<[_]>::to_vec),
        promiscuous: state.modes().contains(Modes::PROMISC),
    };
    let admitted = addresses::report(&serving.port, report, serving.origin.now()).is_ok();
    serving.uplinks.changed();
    admitted
}

/// Tells the switch which address a driver without a control queue uses; false if it may not.
pub(super) fn report_legacy(serving: &Serving, mac: UnicastMac) -> bool {
    let source = ReportSource::ControlQueue;
    let report = Report { source, mac, unicast: Vec::new(), multicast: None, promiscuous: true };
    let admitted = addresses::report(&serving.port, report, serving.origin.now()).is_ok();
    serving.uplinks.changed();
    admitted
}

/// Makes a command's effect on the data path.
fn apply(serving: &Serving, guest: &GuestPort, state: &ControlState, change: Change) {
    match change {
        Change::QueuePairs(pairs) => {
            guest.pairs_used.store(pairs, Relaxed);
            guest.count_ready();
        }
        Change::Offloads(accepts) => {
            for queue in &guest.receive {
                if let Some(live) = queue.live.lock().as_mut() {
                    live.rules.receive.accepts = accepts;
                }
            }
        }
        Change::Filter => {
            guest.filter.store(Some(Arc::new(state.clone())));
            if let Some(mac) = UnicastMac::new(state.mac()) {
                report(serving, state, mac);
            }
        }
        Change::Mac(_) => guest.filter.store(Some(Arc::new(state.clone()))),
        Change::Announced => {}
    }
}
