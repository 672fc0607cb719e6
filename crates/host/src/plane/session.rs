//! What the messages of a port's front-ends mean for its queues: one connection after the other, for ever.
//!
//! [`Connection`] starts, stops and changes queues, and nothing else: it never touches a frame. When a connection ends, for
//! whatever reason, its queues stop and the next front-end is waited for.

mod commands;

use super::calls::Moderation;
use super::commands::CommandQueue;
use super::conversation::{Conversation, Device, End, PAUSE, usable};
use super::forward::Forwarder;
use super::kicks::Cause;
use super::listen::Endpoint;
use super::port::{Attachment, Facts, GuestPort, Live, Port, Rules};
use super::protocol::{Function, Protocol};
use super::stats::QueueStats;
use super::uplinks::Uplinks;
use super::{Origin, Stopping, control};
use crate::config::resolved::{Attach, PortConfig};
use devices::net::config::{Duplex, NetConfig, SPEED_UNKNOWN};
use devices::net::{Acknowledged, FeatureFault, Features, rarp};
use guestmem::GuestMemory;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use switch::UnicastMac;
use transport::event::{Event, Outcome, QueueRestart, QueueStart};
use virtqueue::{DeviceQueue, Endian, RingState};

/// A port whose front-ends are served by one thread.
pub(super) struct Serving {
    pub(super) port: Arc<Port>,
    pub(super) stopping: Arc<Stopping>,
    pub(super) origin: Origin,
    pub(super) uplinks: Arc<Uplinks>,
}

impl Serving {
    /// The thread's body.
    pub(super) fn run(self, endpoint: &Endpoint) {
        let Attachment::Guest(guest) = &self.port.attachment else { return };
        let name = &self.port.name;
        while let Some(stream) = endpoint.next(&self.stopping) {
            tracing::info!(port = name, "front-end connected");
            *guest.facts.lock() = Facts { connected: true, ..Facts::default() };
            let end = self.serve(guest, stream);
            let mut facts = guest.facts.lock();
            facts.connected = false;
            if end.is_usual() {
                tracing::info!(port = name, "{end}");
            } else {
                tracing::warn!(port = name, "{end}");
                facts.fault = Some(end.to_string());
            }
            drop(facts);
            if matches!(*endpoint, Endpoint::Client { .. }) {
                self.stopping.sleep(PAUSE);
            }
        }
    }

    /// One connection, from its beginning to its end.
    fn serve(&self, guest: &GuestPort, stream: UnixStream) -> End {
        let port = self.port.config.load();
        let config = net_config(&port, guest);
        let (features, queues) = (guest.offered.features().bits(), guest.queue_count());
        let bytes = config.bytes(Endian::Little);
        let protocol = match &port.attach {
            Attach::VfioUser { function, .. } => Function::for_network(function, features, queues, &bytes)
                .map(|function| Protocol::VfioUser(Box::new(function))),
            _ => Ok(Protocol::vhost_user(features, queues, &bytes, false)),
        };
        let mut connection = Connection::new(self, guest, config);
        let end = match protocol {
            Ok(protocol) => {
                Conversation::new(stream, protocol, &self.stopping, &guest.attention).serve(&mut connection)
            }
            Err(fault) => fault.into(),
        };
        connection.stop_all();
        end
    }
}

/// What one connection knows of its device.
struct Connection<'s> {
    serving: &'s Serving,
    guest: &'s GuestPort,
    /// The device's configuration space as its driver reads it.
    config: NetConfig,
    /// `None` until the front-end sets features that were offered.
    acknowledged: Option<Acknowledged>,
    /// Which queue is the control queue with the features that were agreed last.
    control_index: u16,
    memory: Arc<GuestMemory>,
    queues: Vec<QueueEnd>,
    forwarder: Option<Forwarder>,
    control: control::Control,
    admin: CommandQueue,
}

/// What a virtqueue is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Frames,
    Control,
    Admin,
    /// Nothing, with the features that were agreed.
    None,
}

/// What the session keeps of a queue outside the ring itself.
#[derive(Default)]
struct QueueEnd {
    /// The ring's memory is gone for now; this is where it stood.
    suspended: Option<(Live, RingState)>,
}

impl Device for Connection<'_> {
    fn handle(&mut self, protocol: &mut Protocol, event: Event) -> Outcome {
        match event {
            Event::Features { acknowledged, restart } => self.features(protocol, acknowledged, restart),
            Event::Memory { memory, restart } => self.memory(memory, restart),
            Event::QueuesRestart(restart) => self.restart(restart),
            Event::QueueStart(start) => self.start(protocol, *start),
            Event::QueueStop { index, .. } => Outcome::Stopped(self.stop(index)),
            Event::QueueEnable { index, enabled } => self.enable(protocol, index, enabled),
            Event::QueueKick { index, kick } => self.replace_kick(index, kick),
            Event::QueueCall { index, call } => match usable(call) {
                Ok(call) => self.with_live(index, |live| {
                    live.call = call.map(Arc::new);
                    live.call_once();
                }),
                Err(outcome) => outcome,
            },
            Event::QueueErr { index, err } => match usable(err) {
                Ok(err) => self.with_live(index, |live| live.error = err),
                Err(outcome) => outcome,
            },
            Event::Status(status) => {
                tracing::debug!(port = self.serving.port.name, status, "device status");
                Outcome::Done
            }
            Event::Mtu(mtu) => {
                self.guest.facts.lock().mtu = Some(mtu);
                Outcome::Done
            }
            Event::AnnounceRarp(mac) => self.announce(mac),
            Event::ResetDevice => {
                self.stop_all();
                self.acknowledged = None;
                self.control_index = self.guest.control_index(None);
                self.config = net_config(&self.serving.port.config.load(), self.guest);
                self.show_config(protocol);
                Outcome::Done
            }
            Event::ConfigWrite { offset, bytes, .. } => self.write_config(protocol, offset, &bytes),
            Event::QueueRefused { index, fault } => self.refuse(index, &fault.to_string()),
            Event::QueueFailed { index, fault } => {
                let text = format!("queue {index} retired: {fault}");
                tracing::warn!(port = self.serving.port.name, "{text}");
                self.guest.facts.lock().fault = Some(text);
                Outcome::Done
            }
            // These are settled before.
            Event::BackendChannel(_)
            | Event::QueueKicked { .. }
            | Event::Interrupt(_)
            | Event::Resample(_) => Outcome::Done,
        }
    }

    /// A queue was retired, or some mapping died: tell the driver's side, or end.
    fn attend(&mut self, protocol: &mut Protocol) -> Result<(), End> {
        if self.memory.is_dead() {
            return Err(End::MemoryDied);
        }
        for index in 0..self.queues.len() as u16 {
            let Some(slot) = self.guest.slot(index) else { continue };
            let Some(fault) = slot.lock().as_ref().and_then(|live| live.queue.fault()) else { continue };
            if self.retired(protocol, format!("queue {index} retired: {fault}")) {
                slot.lock().iter().for_each(Live::report_error);
            }
        }
        self.guest.count_ready();
        (0..self.queues.len() as u16).for_each(|index| self.open_lanes(index));
        Ok(())
    }

    fn kicks(&self) -> Vec<BorrowedFd<'_>> {
        self.control.queue.kick().into_iter().chain(self.admin.kick()).collect()
    }

    fn is_polled(&self) -> bool {
        self.control.queue.is_polled() || self.admin.is_polled()
    }

    fn serve(&mut self, protocol: &mut Protocol) {
        self.serve_control(protocol);
    }

    fn administer(&mut self, protocol: &mut Protocol, turn: usize) -> bool {
        self.serve_admin(protocol, turn)
    }

    fn administered(&mut self) {
        self.admin.flush();
    }
}

impl<'s> Connection<'s> {
    fn new(serving: &'s Serving, guest: &'s GuestPort, config: NetConfig) -> Self {
        Self {
            serving,
            guest,
            config,
            acknowledged: None,
            control_index: guest.control_index(None),
            memory: Arc::default(),
            queues: (0..guest.queue_count()).map(|_| QueueEnd::default()).collect(),
            forwarder: None,
            control: control::Control::new(),
            admin: CommandQueue::default(),
        }
    }

    /// Says, once, that a queue was retired.
    fn retired(&mut self, protocol: &mut Protocol, text: String) -> bool {
        let is_news = self.guest.facts.lock().fault.replace(text.clone()).as_ref() != Some(&text);
        if is_news {
            tracing::warn!(port = self.serving.port.name, "{text}");
            protocol.needs_reset();
        }
        is_news
    }

    fn show_config(&self, protocol: &mut Protocol) {
        protocol.show_config(&self.config.bytes(Endian::Little));
    }

    /// Every field of a network device's configuration is read-only for the driver, but for the address, which a legacy driver
    /// without CTRL_MAC_ADDR writes byte by byte. It counts when the last one is written, if the port's rule allows it.
    fn write_config(&mut self, protocol: &mut Protocol, offset: u32, bytes: &[u8]) -> Outcome {
        let by_queue = Features::VERSION_1 | Features::CTRL_MAC_ADDR;
        if self.acknowledged.is_some_and(|acknowledged| acknowledged.features().intersects(by_queue)) {
            return Outcome::Failed;
        }
        let mut config = self.config;
        let Some(mac) = config.write(offset, bytes) else { return Outcome::Failed };
        let is_whole = offset as usize + bytes.len() == mac.len();
        if is_whole && !UnicastMac::new(mac).is_some_and(|mac| control::report_legacy(self.serving, mac)) {
            self.config = net_config(&self.serving.port.config.load(), self.guest);
            self.show_config(protocol);
            return Outcome::Failed;
        }
        self.config = config;
        self.show_config(protocol);
        Outcome::Done
    }

    /// Takes the driver's choice. An offload acknowledged without what it needs is as good as not acknowledged (front-ends
    /// that strip CSUM leave TSO behind); anything not offered is refused and the rings do not start.
    ///
    /// A driver that speaks to us itself is told that its choice cannot be, and may make another one.
    fn features(&mut self, protocol: &Protocol, bits: u64, restart: Vec<QueueRestart>) -> Outcome {
        let is_own = protocol.is_function();
        let mut bits = protocol.without_platform(bits);
        let acknowledged = loop {
            match Acknowledged::new(self.guest.offered, bits) {
                Err(FeatureFault::Missing { feature, .. }) if !is_own && bits & feature.bits() != 0 => {
                    bits &= !feature.bits()
                }
                other => break other,
            }
        };
        match acknowledged {
            Ok(acknowledged) => {
                // No queue runs that would be another one now: neither protocol changes these bits under way.
                self.control_index = self.guest.control_index(Some(acknowledged));
                self.acknowledged = Some(acknowledged);
                self.guest.facts.lock().acknowledged = acknowledged.names().collect();
                self.restart(restart)
            }
            Err(fault) => {
                self.acknowledged = None;
                tracing::warn!(port = self.serving.port.name, "features: {fault}");
                self.guest.facts.lock().fault = Some(format!("features: {fault}"));
                Outcome::Failed
            }
        }
    }

    fn role(&self, index: u16) -> Role {
        if index == self.control_index {
            Role::Control
        } else if index == self.guest.queue_count() {
            // Only a function has one more.
            Role::Admin
        } else if self.guest.slot(index).is_some() {
            Role::Frames
        } else {
            Role::None
        }
    }

    fn memory(&mut self, memory: Arc<GuestMemory>, restart: Vec<QueueRestart>) -> Outcome {
        self.memory = memory;
        self.restart(restart)
    }

    fn start(&mut self, protocol: &Protocol, start: QueueStart) -> Outcome {
        let QueueStart { index, setup, state, kick, call, err, enabled, memory } = start;
        let role = self.role(index);
        if role == Role::None {
            return self.refuse(index, "there is no such queue with the features that were agreed");
        }
        let (Ok(kick), Ok(call), Ok(error)) = (usable(kick), usable(call), usable(err)) else {
            return self.refuse(index, "a kick, call or error descriptor is no eventfd");
        };
        let Some(acknowledged) = self.acknowledged else {
            return self.refuse(index, "no features were agreed");
        };
        let memory = memory.unwrap_or_else(|| Arc::clone(&self.memory));
        let queue = match protocol.queue(&memory, &setup, state) {
            Ok(queue) if role == Role::Frames => directed(queue, index),
            Ok(queue) => queue,
            Err(fault) => return self.refuse(index, &fault.to_string()),
        };
        let rules = Rules::new(acknowledged);
        let call = call.map(Arc::new);
        let polled = kick.is_none();
        let (moderation, lanes, blocked) = (Moderation::default(), Vec::new(), None);
        let keeps = protocol.is_function();
        let live =
            Live { queue, memory, rules, enabled, keeps, call, error, polled, moderation, lanes, blocked };
        if role == Role::Admin {
            self.admin.start(live, kick);
            return Outcome::Done;
        }
        if role == Role::Control {
            self.start_control(live, kick, acknowledged);
            return Outcome::Done;
        }
        self.place(index, live);
        self.guest.forget_lanes(&self.serving.port, index);
        self.open_lanes(index);
        self.watch(index, kick);
        if index == 0 {
            self.serving.port.ask_monitor();
        }
        Outcome::Done
    }

    fn refuse(&self, index: u16, why: &str) -> Outcome {
        tracing::warn!(port = self.serving.port.name, index, "queue does not start: {why}");
        self.guest.facts.lock().fault = Some(format!("queue {index} does not start: {why}"));
        Outcome::Failed
    }

    /// Puts a running queue where workers find it.
    fn place(&self, index: u16, mut live: Live) {
        let Some(slot) = self.guest.slot(index) else { return };
        // We look at receive buffers when there is a frame for them: their kicks are needed only while one waits.
        live.queue.disable_notify();
        // A back-end before us may have been killed between using buffers and saying so.
        live.call_once();
        let mut guard = slot.lock();
        if index.is_multiple_of(2) {
            // A sender may have been late: that was for the driver before.
            self.guest.receive[usize::from(index / 2)].drop_waiting();
        }
        *guard = Some(live);
        drop(guard);
        self.guest.count_ready();
    }

    fn stop(&mut self, index: u16) -> RingState {
        match self.role(index) {
            Role::Control => return self.stop_control(),
            Role::Admin => return self.admin.stop(),
            Role::None => return RingState::default(),
            Role::Frames => {}
        }
        self.watch(index, None);
        let suspended = self.queues[usize::from(index)].suspended.take();
        self.close_lanes(index);
        let taken = self.guest.slot(index).and_then(|slot| slot.lock().take());
        if index.is_multiple_of(2) {
            self.guest.receive[usize::from(index / 2)].forget();
        }
        if let Some((_, state)) = suspended {
            return state;
        }
        self.guest.count_ready();
        taken.map(|live| live.queue.state()).unwrap_or_default()
    }

    /// Looks which lanes to uplinks a queue can have.
    fn open_lanes(&self, index: u16) {
        let Serving { port, origin, .. } = self.serving;
        self.guest.open_lanes(port, index, &self.memory, self.acknowledged, origin.now());
    }

    /// Closes the lanes of a queue that stops or moves.
    fn close_lanes(&self, index: u16) {
        let Serving { port, origin, .. } = self.serving;
        self.guest.close_lanes(port, index, origin.now(), |_| false);
        self.guest.forget_lanes(port, index);
    }

    fn stop_all(&mut self) {
        for index in 0..=self.queues.len() as u16 {
            self.stop(index);
        }
        for entry in self.guest.steering.iter() {
            entry.store(0, Relaxed);
        }
    }

    /// Moves running and suspended queues to a new set-up: same place in the ring, other memory, addresses or log.
    fn restart(&mut self, restarts: Vec<QueueRestart>) -> Outcome {
        let mut outcome = Outcome::Done;
        let memory = Arc::clone(&self.memory);
        for QueueRestart { index, setup } in restarts {
            if let Some(queue) = self.command_queue(index) {
                if queue.restart(&memory, setup.as_ref()) == Outcome::Failed {
                    outcome = Outcome::Failed;
                }
                continue;
            }
            self.close_lanes(index);
            let Some(slot) = self.guest.slot(index) else { continue };
            let mut guard = slot.lock();
            let taken = guard.take().map(|live| {
                let state = live.queue.state();
                (live, state)
            });
            let Some((mut live, state)) = taken.or_else(|| self.queues[usize::from(index)].suspended.take())
            else {
                continue;
            };
            match setup.map(|setup| DeviceQueue::new(&self.memory, &setup, state)) {
                Some(Ok(queue)) => {
                    live.queue = directed(queue, index);
                    live.memory = Arc::clone(&self.memory);
                    live.queue.disable_notify();
                    *guard = Some(live);
                }
                Some(Err(fault)) => {
                    drop(guard);
                    outcome = self.refuse(index, &fault.to_string());
                    continue;
                }
                None => self.queues[usize::from(index)].suspended = Some((live, state)),
            }
            drop(guard);
            self.open_lanes(index);
            self.poke(index);
        }
        self.guest.count_ready();
        outcome
    }

    /// Whether chains of a queue are served. What was lent of a function's queue comes back first: one whose device an
    /// administration command has stopped is not touched (virtio 1.4 §2.13.4.4).
    fn enable(&mut self, protocol: &Protocol, index: u16, enabled: bool) -> Outcome {
        let outcome = self.with_live(index, |live| live.enabled = enabled);
        if protocol.is_function() {
            if enabled { self.open_lanes(index) } else { self.close_lanes(index) }
        }
        outcome
    }

    fn with_live(&mut self, index: u16, change: impl FnOnce(&mut Live)) -> Outcome {
        if let Some(queue) = self.command_queue(index) {
            return queue.change(change);
        }
        let Some(slot) = self.guest.slot(index) else { return Outcome::Failed };
        if let Some(live) = slot.lock().as_mut() {
            change(live);
        } else if let Some((live, _)) = &mut self.queues[usize::from(index)].suspended {
            change(live);
        }
        self.guest.count_ready();
        self.poke(index);
        Outcome::Done
    }

    fn replace_kick(&mut self, index: u16, kick: Option<OwnedFd>) -> Outcome {
        let kick = match usable(kick) {
            Ok(kick) => kick,
            Err(outcome) => return outcome,
        };
        if let Some(queue) = self.command_queue(index) {
            return queue.replace_kick(kick);
        }
        if self.role(index) != Role::Frames {
            return Outcome::Failed;
        }
        let polled = kick.is_none();
        self.watch(index, kick);
        self.with_live(index, |live| live.polled = polled)
    }

    /// Has the worker of a queue pair woken by the kicks of its queues. Drivers are asked for those of a receive queue only
    /// while frames wait for buffers.
    fn watch(&mut self, index: u16, kick: Option<OwnedFd>) {
        let cause = if index.is_multiple_of(2) { Cause::Receive } else { Cause::Transmit };
        let seat = &self.serving.port.service.seats[usize::from(index / 2)];
        if let Err(error) = seat.watch(cause, kick) {
            tracing::warn!(port = self.serving.port.name, index, %error, "kicks are not watched: the queue is polled");
            self.with_live(index, |live| live.polled = true);
        }
    }

    /// Has a queue pair looked at: chains may be waiting whose kick went elsewhere.
    fn poke(&self, index: u16) {
        self.serving.port.poke(index / 2);
    }

    /// Tells the network where the guest is now, as if it had sent a frame itself.
    fn announce(&mut self, mac: [u8; 6]) -> Outcome {
        let origin = self.serving.origin;
        let forwarder = self.forwarder.get_or_insert_with(|| Forwarder::for_session(origin));
        forwarder.set_time(origin.now());
        let frame = rarp::announcement(mac);
        forwarder.forward_private(&self.serving.port, &QueueStats::default(), &frame);
        Outcome::Done
    }
}

/// The configuration space of a port's device, as it is at power-on.
fn net_config(port: &PortConfig, guest: &GuestPort) -> NetConfig {
    NetConfig {
        mac: port.mac.unwrap_or_default(),
        link_up: true,
        announce: false,
        queue_pairs_max: guest.transmit.len() as u16,
        mtu: port.mtu.unwrap_or(1500),
        speed: SPEED_UNKNOWN,
        duplex: Duplex::Unknown,
    }
}

/// A network device only reads its transmit queues, the odd ones of those for frames.
fn directed(queue: DeviceQueue, index: u16) -> DeviceQueue {
    if index.is_multiple_of(2) { queue } else { queue.readable_only() }
}
