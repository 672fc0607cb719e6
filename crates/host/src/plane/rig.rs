//! The forwarding of a plane without its threads and sockets: rings that lie in this process, served by who calls. For counts of
//! what a frame's way takes (`cargo xtask budget`), which a clock or a second thread would blur.

use super::deliver::BURST;
use super::forward::Forwarder;
use super::group::Group;
use super::port::{Attachment, GuestPort, Live, Port, Rules, SwitchPlane};
use super::{Origin, Ways};
use crate::capture::Captures;
use crate::config;
use anyhow::Context;
use devices::net::{Acknowledged, HeaderFormat, Offered, TransmitRules};
use guestmem::{GuestMemory, MemSlice};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use switch::{BridgeConfig, PortId};
use virtqueue::DeviceQueue;

/// The same secret in every run, so that addresses lie in the same places of the tables.
const SEED: u64 = 1;

/// A guest's NIC of one queue pair.
pub struct RigGuest {
    /// What its driver chose.
    pub acknowledged: Acknowledged,
    /// Where its buffers lie.
    pub memory: Arc<GuestMemory>,
    /// The device's side of its queues.
    pub receive: DeviceQueue,
    /// As `receive`.
    pub transmit: DeviceQueue,
}

/// A learning switch with open ports, and what one worker needs to serve them.
pub struct Rig {
    forwarder: Forwarder,
    ports: Vec<Arc<Port>>,
}

impl Rig {
    /// A switch with a port for each guest, in order.
    ///
    /// # Errors
    /// The kernel gives no descriptors for the ports.
    pub fn new(guests: Vec<RigGuest>) -> anyhow::Result<Self> {
        let mut text = "[switch.lan]\n".to_owned();
        for index in 0..guests.len() {
            let attach = format!("vhost-user = {{ socket = \"/run/rig/{index}\" }}");
            write!(text, "[port.p{index}]\nswitch = \"lan\"\n{attach}\nprofile = \"open\"\n")?;
        }
        let config = config::parse(&text, Path::new("/run/rig.toml"))?.config;
        let switch = Arc::new(SwitchPlane::new("lan", BridgeConfig::new(SEED)));
        let group = Arc::new(Group::new(None, config.workers.clone()));
        let mut ports = Vec::new();
        for ((index, guest), config) in guests.into_iter().enumerate().zip(&config.ports) {
            let attachment = Attachment::Guest(Box::new(connected(guest)?));
            let capture = Captures::default().point(&config.name, "");
            let id = PortId(index as u16);
            let port = Port::new(id, config, &switch, attachment, capture, None, Arc::clone(&group))?;
            switch.bridge.add_port(port.id, config.settings.clone())?;
            ports.push(Arc::new(port));
        }
        switch.ports.store(Arc::new(ports.iter().cloned().map(Some).collect()));
        let origin = Origin { ways: Ways::ALL, started: Instant::now(), seed: SEED };
        Ok(Self { forwarder: Forwarder::for_worker(origin), ports })
    }

    /// Serves the transmit queue of a port once, as a worker does; returns how many chains were handled.
    pub fn serve(&mut self, port: usize) -> usize {
        self.forwarder.serve(&self.ports[port], 0, BURST)
    }

    /// Sends frames from private memory, each behind a virtio header of 12 bytes, as if an interface of the host had given them
    /// to a port.
    pub fn serve_private(&mut self, port: usize, frames: &[MemSlice<'_>]) {
        let port = &self.ports[port];
        let Attachment::Guest(guest) = &port.attachment else { return };
        let rules = TransmitRules { format: HeaderFormat::MODERN, accepts: Default::default() };
        self.forwarder.forward_bodies(port, &rules, &guest.transmit[0].stats, frames);
    }
}

/// A guest's port whose queues run.
fn connected(guest: RigGuest) -> anyhow::Result<GuestPort> {
    let RigGuest { acknowledged, memory, receive, transmit } = guest;
    let port = GuestPort::new(1, Offered::new(acknowledged.features()))?;
    for (index, queue) in [(0, receive), (1, transmit.readable_only())] {
        let mut live = Live {
            queue,
            memory: Arc::clone(&memory),
            rules: Rules::new(acknowledged),
            enabled: true,
            keeps: false,
            call: None,
            error: None,
            polled: true,
            moderation: Default::default(),
            lanes: Vec::new(),
            blocked: None,
        };
        live.queue.disable_notify();
        *port.slot(index).context("no such queue")?.lock() = Some(live);
    }
    port.count_ready();
    Ok(port)
}
