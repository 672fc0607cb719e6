//! The control queue, where a front-end delivers it (QEMU's own virtio-net keeps it; generic front-ends do not).
//!
//! Commands are rare and may change several queues, so the session thread serves them, not a worker.

use super::addresses::{self, Report, ReportSource};
use super::commands::{COMMANDS_MAX, CommandQueue};
use super::port::{GuestPort, Live};
use super::session::Serving;
use super::stats::add;
use devices::net::control::{Change, ControlState, Modes};
use rustix::event::Timespec;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use switch::UnicastMac;
use virtqueue::{Burst, DriverFault, RingState};

/// What a command costs its guest in the long run: its effects reach the FDB, the log and the host's filters.
const COMMAND_TIME: Duration = Duration::from_millis(5);
/// What it may have saved up: a driver that starts sends some dozens of commands.
const COMMAND_CREDIT: Duration = Duration::from_millis(5 * 128);

/// The control queue of one connection.
pub(super) struct Control {
    pub(super) queue: CommandQueue,
    /// What its driver asked for; there is one while the queue runs.
    state: Option<ControlState>,
    /// When the next command is due, if they come faster than [`COMMAND_TIME`].
    due: Instant,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { queue: CommandQueue::default(), state: None, due: Instant::now() }
    }

    /// The address that the driver uses, while there is a queue for it to say so.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        self.state.as_ref().map(ControlState::mac)
    }

    pub(super) fn start(&mut self, live: Live, kick: Option<OwnedFd>, state: ControlState) {
        self.queue.start(live, kick);
        self.state = Some(state);
    }

    pub(super) fn stop(&mut self) -> RingState {
        self.state = None;
        self.queue.stop()
    }

    /// Carries out the commands that are waiting, and has the driver kick for the next one. The fault that retires the queue, if
    /// there is one.
    pub(super) fn serve(&mut self, serving: &Serving, guest: &GuestPort) -> Option<DriverFault> {
        self.queue.visit();
        let state = self.state.as_mut()?;
        for _ in 0..COMMANDS_MAX {
            let ahead = self.due.saturating_duration_since(Instant::now());
            if ahead > COMMAND_CREDIT {
                let nanos = (ahead - COMMAND_CREDIT).as_nanos() as i64;
                serving.stopping.sleep(Timespec { tv_sec: 0, tv_nsec: nanos });
            }
            let live = self.queue.served()?;
            let memory = Arc::clone(&live.memory);
            let mut burst = Burst::new();
            let count = match live.queue.pop(&memory, &mut burst, 1) {
                Ok(0) if !live.queue.enable_notify() => return None,
                Ok(count) => count,
                Err(fault) => return Some(fault),
            };
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
            add(&guest.control_stats.calls, u64::from(self.queue.flush()));
        }
        self.queue.more = true;
        None
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
