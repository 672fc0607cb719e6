//! A queue whose chains are commands: they are rare and may change other queues, so the session thread serves them, not a worker.

use super::port::{Live, call};
use guestmem::GuestMemory;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use transport::event::Outcome;
use virtqueue::{DeviceQueue, QueueSetup, RingState};

/// Commands handled at one visit; a driver has one outstanding.
pub(super) const COMMANDS_MAX: usize = 64;

/// The queue of one connection.
#[derive(Default)]
pub(super) struct CommandQueue {
    live: Option<Live>,
    /// The ring's memory is gone for now.
    suspended: bool,
    kick: Option<OwnedFd>,
    /// Commands wait that were too many for one visit.
    pub(super) more: bool,
}

impl CommandQueue {
    /// What to sleep on.
    pub(super) fn kick(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }

    /// Whether the queue has to be looked at without being kicked.
    pub(super) fn is_polled(&self) -> bool {
        self.live.is_some() && (self.kick.is_none() || self.more)
    }

    pub(super) fn start(&mut self, live: Live, kick: Option<OwnedFd>) {
        *self = Self { live: Some(live), suspended: false, kick, more: false };
    }

    pub(super) fn stop(&mut self) -> RingState {
        std::mem::take(self).live.map(|live| live.queue.state()).unwrap_or_default()
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Live)) -> Outcome {
        if let Some(live) = &mut self.live {
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
        let Some(live) = &mut self.live else { return Outcome::Done };
        self.suspended = setup.is_none();
        let Some(setup) = setup else { return Outcome::Done };
        match DeviceQueue::new(memory, setup, live.queue.state()) {
            Ok(queue) => {
                live.queue = queue;
                live.memory = Arc::clone(memory);
                Outcome::Done
            }
            Err(_) => {
                self.live = None;
                Outcome::Failed
            }
        }
    }

    /// Begins a visit: takes the kick back.
    pub(super) fn visit(&mut self) {
        if let Some(kick) = &self.kick {
            let _ = rustix::io::read(kick, &mut [0u8; 8]);
        }
        self.more = false;
    }

    /// The queue, if commands are to be served now.
    pub(super) fn served(&mut self) -> Option<&mut Live> {
        self.live.as_mut().filter(|live| !self.suspended && live.enabled)
    }

    /// Shows the driver what is completed; true: it was called.
    pub(super) fn flush(&mut self) -> bool {
        let due = self.live.as_mut().and_then(Live::flush);
        let is_called = due.is_some();
        call(due);
        is_called
    }
}
