//! The connection's queues of commands: that of the device, and that of the function.

use super::{Connection, Role};
use crate::plane::commands::{COMMANDS_MAX, CommandQueue};
use crate::plane::port::Live;
use crate::plane::protocol::Protocol;
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
    pub(super) fn serve_control(&mut self, protocol: &mut Protocol) {
        if let Some(fault) = self.control.serve(self.serving, self.guest) {
            self.retired(protocol, format!("control queue retired: {fault}"));
        }
        if let Some(mac) = self.control.mac().filter(|mac| *mac != self.config.mac) {
            self.config.mac = mac;
            self.show_config(protocol);
        }
    }

    /// Carries out the next command of the administration queue, the `turn`th of this visit; whether there was one. What it brings about
    /// is to be done before its driver sees the answer.
    pub(super) fn serve_admin(&mut self, protocol: &mut Protocol, turn: usize) -> bool {
        if turn == 0 {
            self.admin.visit();
        }
        if turn == COMMANDS_MAX {
            self.admin.more = true;
            return false;
        }
        let (Some(live), Some(function)) = (self.admin.served(), protocol.function()) else { return false };
        match admin::serve_one(live, function) {
            Ok(served) => served,
            Err(fault) => {
                self.retired(protocol, format!("administration queue retired: {fault}"));
                false
            }
        }
    }
}
