//! Ports, their queues and what is counted about them.
//!
//! Who touches what: a transmit queue belongs to one worker, a receive queue to whoever delivers into it. Each
//! has a lock that is taken once a burst. The session thread takes the same lock to start, stop or change the
//! queue, so when it has the lock nobody is inside a ring and nobody holds a slice of the guest's memory.
//! Order of locks: one transmit queue, then one receive queue at a time, then its backlog. See docs/adr/0003.

use super::addresses::{Addresses, EntryKey};
use super::backlog::Backlog;
use super::calls::Moderation;
use super::group::Group;
use super::kicks::Cause;
use super::link::{Lane, LinkPort};
use super::listen::Endpoint;
use super::service::Service;
use super::source::{Source, Step};
use super::stats::{QueueStats, add};
use super::{Stopping, notify};
use crate::api::view::UplinkView;
use crate::capture::{CapturePoint, Direction, Sighting};
use crate::config::resolved::{PortConfig, QmpConfig};
use arc_swap::{ArcSwap, ArcSwapOption};
use devices::net::control::ControlState;
use devices::net::{Acknowledged, Features, Frame, Offered, ReceiveRules, TransmitRules};
use guestmem::GuestMemory;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use switch::{Bridge, BridgeConfig, DropReason, Now, PortId};
use virtqueue::{DeviceQueue, Endian};

/// A switch and the ports on it.
pub(super) struct SwitchPlane {
    pub(super) name: String,
    pub(super) bridge: Bridge,
    /// By port number; a hole where a port was removed.
    pub(super) ports: ArcSwap<Vec<Option<Arc<Port>>>>,
    /// Entries that operators added while the program runs.
    pub(super) operator_entries: Mutex<BTreeMap<EntryKey, PortId>>,
    /// Numbers of ports that are gone, and when they went: a verdict of that moment may still name one.
    pub(super) retired: Mutex<VecDeque<(Instant, PortId)>>,
}

impl SwitchPlane {
    /// A switch without ports.
    pub(super) fn new(name: &str, bridge: BridgeConfig) -> Self {
        Self {
            name: name.into(),
            bridge: Bridge::new(bridge),
            ports: ArcSwap::default(),
            operator_entries: Mutex::default(),
            retired: Mutex::default(),
        }
    }

    /// Has every session look whether its queues have the lanes that they could have.
    pub(super) fn wake_sessions(&self) {
        for port in self.ports.load().iter().flatten() {
            if let Attachment::Guest(guest) = &port.attachment {
                guest.attention.wake();
            }
        }
    }
}

/// One attachment point.
pub(super) struct Port {
    pub(super) id: PortId,
    pub(super) name: String,
    pub(super) config: ArcSwap<PortConfig>,
    pub(super) switch: Arc<SwitchPlane>,
    pub(super) attachment: Attachment,
    /// Captures that frames of this port are offered to.
    pub(super) capture: Arc<CapturePoint>,
    /// The FDB entries that the port has by configuration or because its guest said so.
    pub(super) addresses: Mutex<Addresses>,
    /// What the filter of its interface does, for uplinks.
    pub(super) uplink: Mutex<UplinkView>,
    /// Where front-ends are met.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// Ends the port's own threads.
    pub(super) stopping: Arc<Stopping>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    /// The monitor of its guest that is followed.
    pub(super) monitor: Mutex<Option<Followed>>,
    /// That a guard shut it is in the log.
    pub(super) shut_told: AtomicBool,
    /// Where its sources are served.
    pub(super) service: Service,
}

/// A thread that follows a QMP socket.
pub(super) struct Followed {
    pub(super) qmp: QmpConfig,
    pub(super) stopping: Arc<Stopping>,
    pub(super) suspicion: Arc<notify::Wake>,
    pub(super) thread: JoinHandle<()>,
}

/// What is on the other side of a port.
pub(super) enum Attachment {
    Guest(Box<GuestPort>),
    Link(Box<LinkPort>),
}

impl Attachment {
    /// Queues that workers serve.
    pub(super) fn source_count(&self) -> usize {
        match self {
            Attachment::Guest(guest) => guest.transmit.len(),
            Attachment::Link(link) => link.queues.len(),
        }
    }
}

impl Port {
    /// A port that is not on its switch yet.
    pub(super) fn new(
        id: PortId,
        config: &PortConfig,
        switch: &Arc<SwitchPlane>,
        attachment: Attachment,
        capture: Arc<CapturePoint>,
        endpoint: Option<Arc<Endpoint>>,
        group: Arc<Group>,
    ) -> io::Result<Self> {
        let service = Service::new(attachment.source_count(), group);
        Ok(Self {
            id,
            name: config.name.clone(),
            config: ArcSwap::from_pointee(config.clone()),
            switch: Arc::clone(switch),
            attachment,
            capture,
            addresses: Mutex::default(),
            uplink: Mutex::default(),
            endpoint,
            stopping: Arc::new(Stopping::new()?),
            threads: Mutex::default(),
            monitor: Mutex::default(),
            shut_told: AtomicBool::new(false),
            service,
        })
    }

    /// Every queue's counters, transmit (from the port into the switch) first.
    pub(super) fn stats(&self) -> (Vec<&QueueStats>, Vec<&QueueStats>) {
        match &self.attachment {
            Attachment::Guest(guest) => (
                guest.transmit.iter().map(|queue| &queue.stats).collect(),
                guest.receive.iter().map(|queue| &queue.stats).collect(),
            ),
            Attachment::Link(link) => (
                link.queues.iter().map(|queue| &queue.from_kernel).collect(),
                link.queues.iter().map(|queue| &queue.to_kernel).collect(),
            ),
        }
    }

    /// To be called about once a second: looks after the interface, and tells the log when a guard has shut the port.
    pub(super) fn tend(&self) {
        match &self.attachment {
            Attachment::Link(link) => {
                link.tend();
                let is_up = || link.interface().is_ok_and(|interface| interface.up);
                if link.lanes().is_some_and(|lanes| lanes.is_wanted()) && is_up() {
                    self.switch.wake_sessions();
                }
            }
            Attachment::Guest(guest) => guest.tend_lanes(self),
        }
        if self.config.load().settings.guard {
            let status = self.switch.bridge.port_status(self.id);
            let shut = status.is_some_and(|status| status.shut.is_some());
            if self.shut_told.swap(shut, Relaxed) != shut && shut {
                tracing::warn!(
                    port = self.name,
                    "a spanning-tree frame came: the guard has shut the port; `ringway port reopen {}` opens it",
                    self.name
                );
            }
        }
    }

    /// Has the guest's monitor asked again, where one is followed: a driver begins anew, and QEMU may have put its
    /// address back without a word.
    pub(super) fn ask_monitor(&self) {
        if let Some(followed) = &*self.monitor.lock() {
            followed.suspicion.wake();
        }
    }

    /// Has the worker of a source look at it.
    pub(super) fn poke(&self, index: u16) {
        self.service.poke(index);
    }

    /// What workers serve of it.
    pub(super) fn sources(self: &Arc<Self>) -> impl Iterator<Item = Source> {
        (0..self.service.seats.len() as u16).map(|index| Source::Port(Arc::clone(self), index))
    }

    /// Counts a kick that reached us for a source.
    pub(super) fn count_kick(&self, index: u16, cause: Cause) {
        if let (Attachment::Guest(guest), true) = (&self.attachment, cause != Cause::Poke) {
            let pair = usize::from(index);
            let is_sent = cause == Cause::Transmit;
            let stats = if is_sent { &guest.transmit[pair].stats } else { &guest.receive[pair].stats };
            add(&stats.kicks, 1);
        }
    }

    /// Asks for kicks of a source, if the driver has a way to give them; if not, it is looked at again, at once if it `lingers`.
    pub(super) fn rest(&self, index: u16, now: Now, lingers: bool) -> Step {
        let Attachment::Guest(guest) = &self.attachment else { return Step::Rest };
        let pair = usize::from(index);
        if guest.receive[pair].wants_looks() {
            return Step::Doze;
        }
        let mut guard = guest.transmit[pair].live.lock();
        match guard.as_mut().filter(|live| live.is_touched()) {
            Some(live) if live.polled => {
                if lingers {
                    Step::Busy
                } else {
                    Step::Doze
                }
            }
            Some(live) => {
                if live.queue.enable_notify() {
                    Step::Busy
                } else if live.wants_looks(now) {
                    Step::Doze
                } else {
                    Step::Rest
                }
            }
            None => Step::Rest,
        }
    }

    /// Offers frames that pass here to the captures.
    #[cold]
    pub(super) fn capture_burst(
        &self,
        frames: &[Frame<'_>],
        direction: Direction,
        reason: impl Fn(usize) -> Option<DropReason>,
    ) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at_ns = since.map_or(0, |since| since.as_nanos() as u64);
        for (index, frame) in frames.iter().enumerate() {
            let sighting = Sighting {
                at_ns,
                direction,
                reason: reason(index).map(DropReason::name),
                head: frame.head(),
                frame_len: frame.len(),
            };
            self.capture.offer(&sighting, |out| {
                frame.copy_to(out);
            });
        }
    }
}

/// A guest's NIC: pairs of queues, and which receive queue a flow goes to.
pub(super) struct GuestPort {
    pub(super) transmit: Box<[TransmitQueue]>,
    pub(super) receive: Box<[ReceiveQueue]>,
    /// Receive queues usable now: those of the pairs 0..ready.
    pub(super) ready: AtomicU16,
    /// Pairs that the driver uses, where it tells us so by a control queue; else all.
    pub(super) pairs_used: AtomicU16,
    /// Receive follows transmit (virtio 1.3 §5.1.6.5.5): the pair that a flow's hash was last sent on, plus one.
    pub(super) steering: Box<[AtomicU16; STEERING]>,
    /// What the driver wants to receive, where a control queue reaches us; `None`: everything.
    pub(super) filter: ArcSwapOption<ControlState>,
    /// `rx-usecs` of the port.
    pub(super) rx_usecs: AtomicU32,
    /// Wakes the session thread: a queue was retired or memory died.
    pub(super) attention: notify::Wake,
    /// What every front-end of this port is offered.
    pub(super) offered: Offered,
    /// What the session knows, for people. Never held together with a queue's lock.
    pub(super) facts: Mutex<Facts>,
    pub(super) control_stats: QueueStats,
}

/// What is shown of a session.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) connected: bool,
    pub(super) acknowledged: Vec<&'static str>,
    /// The MTU that the front-end advertises (NET_SET_MTU), in bytes.
    pub(super) mtu: Option<u16>,
    /// The last thing that went wrong on this connection, or that ended the one before.
    pub(super) fault: Option<String>,
}

/// Entries of the steering table.
pub(super) const STEERING: usize = 256;

impl GuestPort {
    pub(super) fn new(queue_pairs: u16, offered: Offered) -> io::Result<Self> {
        let transmit = |_| TransmitQueue { live: Mutex::new(None), stats: QueueStats::default() };
        let receive = |pair| ReceiveQueue {
            pair,
            live: Mutex::new(None),
            stats: QueueStats::default(),
            filled: AtomicBool::new(false),
            backlog: Backlog::default(),
        };
        Ok(Self {
            transmit: (0..queue_pairs).map(transmit).collect(),
            receive: (0..queue_pairs).map(receive).collect(),
            ready: AtomicU16::new(0),
            pairs_used: AtomicU16::new(u16::MAX),
            steering: Box::new([const { AtomicU16::new(0) }; STEERING]),
            filter: ArcSwapOption::empty(),
            rx_usecs: AtomicU32::new(0),
            attention: notify::Wake::new()?,
            offered,
            facts: Mutex::default(),
            control_stats: QueueStats::default(),
        })
    }

    /// Virtqueues of the device: two for each queue pair, and a control queue (virtio 1.3 §5.1.2).
    pub(super) fn queue_count(&self) -> u16 {
        self.frame_queues() + 1
    }

    /// Virtqueues for frames.
    pub(super) fn frame_queues(&self) -> u16 {
        2 * self.transmit.len() as u16
    }

    /// Index of the control queue: as the driver's features have it, and behind all pairs where those speak of none.
    pub(super) fn control_index(&self, acknowledged: Option<Acknowledged>) -> u16 {
        let acknowledged = acknowledged.filter(|acknowledged| acknowledged.has(Features::CTRL_VQ));
        let pairs = self.transmit.len() as u16;
        acknowledged.map_or(self.frame_queues(), |acknowledged| acknowledged.control_queue(pairs))
    }

    /// Where the queue of a virtqueue index runs that is one for frames: receive queues are even, transmit queues odd. `None`:
    /// the index is beyond those.
    pub(super) fn slot(&self, index: u16) -> Option<&Mutex<Option<Live>>> {
        let pair = usize::from(index / 2);
        if index.is_multiple_of(2) {
            self.receive.get(pair).map(|queue| &queue.live)
        } else {
            self.transmit.get(pair).map(|queue| &queue.live)
        }
    }

    /// The shortest time between two calls for received frames.
    #[inline]
    pub(super) fn call_interval(&self) -> Duration {
        Duration::from_micros(self.rx_usecs.load(Relaxed).into())
    }

    /// Notes that a flow is sent on `pair`.
    pub(super) fn steer(&self, hash: u32, pair: u16) {
        let entry = &self.steering[hash as usize % STEERING];
        if entry.load(Relaxed) != pair + 1 {
            entry.store(pair + 1, Relaxed);
        }
    }

    /// The receive queue of a flow; `ready` must not be zero.
    pub(super) fn receive_index(&self, hash: u32, ready: u16) -> u16 {
        match self.steering[hash as usize % STEERING].load(Relaxed) {
            pair if pair != 0 && pair <= ready => pair - 1,
            _ => {
                let index = (hash >> 8) as u16 % ready;
                if self.receive[usize::from(index)].is_filled() { index } else { 0 }
            }
        }
    }

    /// To be called when a receive queue starts, stops, or is enabled or disabled.
    pub(super) fn count_ready(&self) {
        let usable = |queue: &ReceiveQueue| queue.live.lock().as_ref().is_some_and(|live| live.enabled);
        let ready = self.receive.iter().take_while(|queue| usable(queue)).count() as u16;
        let ready = ready.min(self.pairs_used.load(Relaxed));
        self.ready.store(ready, Relaxed);
        // Nothing is sent to the others any more.
        self.receive.iter().skip(ready.into()).for_each(ReceiveQueue::drop_waiting);
    }
}

/// A running queue and all that is needed to use it.
pub(super) struct Live {
    pub(super) queue: DeviceQueue,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) rules: Rules,
    pub(super) enabled: bool,
    /// While it is not enabled, what is in it stays there: its driver is not ready, or has stopped the device. Else it is emptied.
    pub(super) keeps: bool,
    pub(super) call: Option<Arc<OwnedFd>>,
    pub(super) error: Option<OwnedFd>,
    /// No kick descriptor: the driver does not notify, we look.
    pub(super) polled: bool,
    /// When its driver was called.
    pub(super) moderation: Moderation,
    /// Ways to uplinks that bear frames without a copy; of transmit queues only.
    pub(super) lanes: Vec<Lane>,
    /// The chain that completions wait for, and since when.
    pub(super) blocked: Option<(u16, Now)>,
}

/// What was agreed with the driver, for either direction.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) transmit: TransmitRules,
    pub(super) receive: ReceiveRules,
}

impl Rules {
    /// Front-ends of vhost-user run little-endian guests only: CROSS_ENDIAN is not offered.
    pub(super) fn new(acknowledged: Acknowledged) -> Self {
        Self {
            transmit: TransmitRules::new(acknowledged, Endian::Little),
            receive: ReceiveRules::new(acknowledged, Endian::Little),
        }
    }
}

impl Live {
    /// Whether its worker may touch the ring.
    #[inline]
    pub(super) fn is_touched(&self) -> bool {
        (self.enabled || !self.keeps) && self.queue.fault().is_none()
    }

    /// Tells the front-end that the ring has failed (vhost-user `SET_VRING_ERR`).
    pub(super) fn report_error(&self) {
        if let Some(fd) = &self.error {
            notify::signal(fd.as_fd());
        }
    }

    /// Calls the driver without a reason of its own: an extra call is allowed, a lost one is not.
    pub(super) fn call_once(&self) {
        call(self.call.clone());
    }

    /// Publishes completions; what to call if the driver wants that. The call itself is a system call: it is made after
    /// the queue's lock is let go.
    #[inline]
    pub(super) fn flush(&mut self) -> Option<Arc<OwnedFd>> {
        if self.queue.flush() { self.call.clone() } else { None }
    }
}

/// Calls the driver, if [`Live::flush`] said so.
#[inline]
pub(super) fn call(fd: Option<Arc<OwnedFd>>) {
    if let Some(fd) = fd {
        notify::signal(fd.as_fd());
    }
}

/// A guest's transmit queue, served by one worker.
pub(super) struct TransmitQueue {
    pub(super) live: Mutex<Option<Live>>,
    pub(super) stats: QueueStats,
}

/// A guest's receive queue; any worker may deliver.
pub(super) struct ReceiveQueue {
    /// Number of its queue pair.
    pub(super) pair: u16,
    pub(super) live: Mutex<Option<Live>>,
    pub(super) stats: QueueStats,
    /// Whether the driver has ever filled it: front-ends may enable queues that their driver does not use.
    filled: AtomicBool,
    /// Frames that wait for it.
    pub(super) backlog: Backlog,
}

impl ReceiveQueue {
    /// Whether the driver has filled the queue since it was placed.
    fn is_filled(&self) -> bool {
        if self.filled.load(Relaxed) {
            return true;
        }
        let filled = self.live.lock().as_ref().is_some_and(|live| live.queue.has_available());
        self.filled.store(filled, Relaxed);
        filled
    }

    /// To be called when the queue stops: the next driver starts anew.
    pub(super) fn forget(&self) {
        self.filled.store(false, Relaxed);
        self.drop_waiting();
    }

    /// Drops what waits.
    pub(super) fn drop_waiting(&self) {
        if !self.backlog.is_empty() {
            self.stats.dropped_unheld(DropReason::ReceiverDown, self.backlog.clear() as u64);
        }
    }

    /// Whether frames wait whose driver has no way to say that it has buffers for them.
    pub(super) fn wants_looks(&self) -> bool {
        !self.backlog.is_empty() && self.live.lock().as_ref().is_some_and(|live| live.polled)
    }
}
