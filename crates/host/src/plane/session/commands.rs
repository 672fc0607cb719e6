//! The connection's queues of commands: that of the device, and that of the function.

use super::{Connection, End, Role};
use crate::plane::commands::{COMMANDS_MAX, CommandQueue};
use crate::plane::port::Live;
use crate::plane::{addresses, admin};
use devices::net::control::ControlState;
use devices::net::{Acknowledged, Features};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use virtqueue::{Endian, RingState};

impl Connection<'_> {
    /// The queue behind `index`, if it is one of commands.
    pub(super) fn command_queue(&mut self, index: u16) -> Option<&mut CommandQueue> {
        match self.role(index) {
            Role::Control => Some(&mut self.control.queue),
            Role::Admin => Some(&mut self.admin),
            Role::Frames | Role::None => None,
        }
    }

    pub(super) fn start_control(&mut self, live: Live, kick: Option<OwnedFd>, acknowledged: Acknowledged) {
        let mac = self.serving.port.config.load().mac.unwrap_or_default();
        let pairs = self.guest.transmit.len() as u16;
        // Until the driver says otherwise it uses one pair (virtio 1.3 §5.1.5).
        if acknowledged.has(Features::MQ) {
            self.guest.pairs_used.store(1, Relaxed);
            self.guest.count_ready();
        }
        self.control.start(live, kick, ControlState::new(acknowledged, Endian::Little, mac, pairs));
    }

    pub(super) fn stop_control(&mut self) -> RingState {
        self.guest.filter.store(None);
        let source = addresses::ReportSource::ControlQueue;
        addresses::forget(&self.serving.port, source, self.serving.origin.now());
        self.serving.uplinks.changed();
        self.guest.pairs_used.store(u16::MAX, Relaxed);
        self.control.stop()
    }

    /// Carries out what waits in the control queue. A driver that reads its address finds the one that it was given.
    pub(super) fn serve_control(&mut self) {
        if let Some(fault) = self.control.serve(self.serving, self.guest) {
            self.retired(format!("control queue retired: {fault}"));
        }
        if let Some(mac) = self.control.mac().filter(|mac| *mac != self.config.mac) {
            self.config.mac = mac;
            self.show_config();
        }
    }

    /// Carries out what waits in the administration queue. What a command brings about is done when its driver sees the answer.
    pub(super) fn serve_admin(&mut self) -> Result<(), End> {
        self.admin.visit();
        for _ in 0..COMMANDS_MAX {
            let (Some(live), Some(function)) = (self.admin.served(), self.protocol.function()) else {
                return Ok(());
            };
            match admin::serve_one(live, function) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(fault) => {
                    self.retired(format!("administration queue retired: {fault}"));
                    return Ok(());
                }
            }
            if self.carry_out()? {
                self.serve_control();
            }
            self.admin.flush();
        }
        self.admin.more = true;
        Ok(())
    }
}
