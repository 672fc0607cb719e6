//! The control queue, where a front-end delivers it (QEMU's own virtio-net keeps it; generic front-ends do not).
//!
//! Commands are rare and may change several queues, so the session thread serves them, not a worker.

use super::port::{GuestPort, Live};
use devices::net::control::{Change, ControlState};
use guestmem::GuestMemory;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use transport::vhost_user::Outcome;
use virtqueue::{Burst, DeviceQueue, QueueSetup, RingState};

/// Commands handled at one kick; a driver has one outstanding.
const COMMANDS_MAX: usize = 64;

/// The control queue of one connection.
pub(super) struct Control {
    running: Option<(Live, ControlState)>,
    kick: Option<OwnedFd>,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { running: None, kick: None }
    }

    /// What to sleep on.
    pub(super) fn kick(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn start(&mut self, live: Live, kick: Option<OwnedFd>, state: ControlState) {
        self.running = Some((live, state));
        self.kick = kick;
    }

    pub(super) fn stop(&mut self) -> RingState {
        self.kick = None;
        self.running.take().map(|(live, _)| live.queue.state()).unwrap_or_default()
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Live)) -> Outcome {
        if let Some((live, _)) = &mut self.running {
            change(live);
        }
        Outcome::Done
    }

    pub(super) fn replace_kick(&mut self, kick: Option<OwnedFd>) -> Outcome {
        self.kick = kick;
        Outcome::Done
    }

    /// The queue on other memory or another log; without a set-up it rests until there is one.
    pub(super) fn restart(&mut self, memory: &Arc<GuestMemory>, setup: Option<&QueueSetup>) -> Outcome {
        let Some((live, _)) = &mut self.running else { return Outcome::Done };
        let Some(setup) = setup else {
            live.enabled = false;
            return Outcome::Done;
        };
        match DeviceQueue::new(memory, setup, live.queue.state()) {
            Ok(queue) => {
                live.queue = queue;
                live.memory = Arc::clone(memory);
                live.enabled = true;
                Outcome::Done
            }
            Err(_) => {
                self.running = None;
                Outcome::Failed
            }
        }
    }

    /// Carries out the commands that are waiting.
    pub(super) fn serve(&mut self, guest: &GuestPort) {
        if let Some(kick) = &self.kick {
            let _ = rustix::io::read(kick, &mut [0u8; 8]);
        }
        let Some((live, state)) = self.running.as_mut().filter(|(live, _)| live.enabled) else { return };
        let mut burst = Burst::new();
        let popped = live.queue.pop(&live.memory, &mut burst, COMMANDS_MAX);
        if let Err(fault) = popped {
            guest.facts.lock().fault = Some(format!("control queue retired: {fault}"));
            return;
        }
        while let Some(chain) = burst.take() {
            let (written, change) = state.handle_chain(&burst, &chain);
            live.queue.complete(&burst, chain, written);
            if let Some(change) = change {
                apply(guest, state, change);
            }
        }
        live.flush(&guest.control_stats);
    }
}

/// Makes a command's effect on the data path.
fn apply(guest: &GuestPort, state: &ControlState, change: Change) {
    match change {
        Change::QueuePairs(pairs) => {
            for (index, queue) in guest.receive.iter().enumerate() {
                if let Some(live) = queue.live.lock().as_mut() {
                    live.enabled = index < usize::from(pairs);
                }
            }
            guest.count_ready();
        }
        Change::Offloads(accepts) => {
            for queue in &guest.receive {
                if let Some(live) = queue.live.lock().as_mut() {
                    live.rules.receive.accepts = accepts;
                }
            }
        }
        Change::Filter | Change::Mac(_) => guest.filter.store(Some(Arc::new(state.clone()))),
        Change::Announced => {}
    }
}
