//! One connection: takes messages in order, keeps the books, makes events and replies.

use super::features::{F_LOG_ALL, F_PROTOCOL_FEATURES, TRANSPORT_BITS};
use super::in_flight::InFlightMemory;
use super::memory::RegionTable;
use super::message::{BACKEND_CONFIG_CHANGE, Header, Message, VringState, emit_backend_request, emit_reply};
use super::rings::{QUEUES_MAX, RingAddresses, Rings, Surroundings};
use super::{CONFIG_SIZE_MAX, FrontendFault, ProtocolFeatures, Request};
use crate::event::{Channel, Event, Outcome, Outgoing, QueueRestart, QueueStart};
use crate::framing::Inbox;
use guestmem::{DirtyLog, GuestMemory};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtqueue::QueueSize;

/// Replies kept at most until the host sends them; with so many waiting no request is decoded.
const OUTGOING_MAX: usize = 32;

/// What the back-end can do.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Device and ring feature bits. The session adds the transport's own: `PROTOCOL_FEATURES`, and
    /// `LOG_ALL` when `LOG_SHMFD` is in `protocol`.
    pub features: u64,
    /// Protocol features; a device without a configuration to read leaves `CONFIG` out, one that completes in order or may
    /// lose requests `INFLIGHT_SHMFD`, one that always completes what it popped `GET_VRING_BASE_INFLIGHT`.
    pub protocol: ProtocolFeatures,
    /// Rings of the device, 1 to [`QUEUES_MAX`].
    pub queues_max: u16,
    /// The answer to `GET_QUEUE_NUM`: the most that a front-end may ask for. Front-ends do not agree on what
    /// is counted: Cloud Hypervisor compares it with its number of rings, QEMU with its number of queue pairs.
    /// The number of rings (for a network device two for each pair, and the control queue) suits both.
    pub queue_num: u16,
    /// Entries of a ring at most.
    pub queue_size_max: QueueSize,
    /// The configuration space, at most [`CONFIG_SIZE_MAX`] bytes; the rest reads as zeros.
    pub config: Vec<u8>,
}

/// The reply that is due when the events of the current request are finished.
#[derive(Clone, Copy, Debug)]
enum Due {
    Nothing,
    Ack(Request),
    VringBase {
        index: u16,
    },
    /// The same 16 bytes back: QEMU reads any reply, the `vhost` crate's front-end wants these.
    LogBase([u8; 16]),
}

/// What the host is working on.
#[derive(Clone, Copy, Debug)]
enum InHand {
    Start(u16),
    Stop(u16),
    Other,
}

/// One connection of a front-end. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Session {
    pub(super) offer: Offer,
    inbox: Inbox<Header>,
    fault: Option<FrontendFault>,
    /// Events of the current request that the host has not taken yet.
    events: VecDeque<Event>,
    in_hand: Option<InHand>,
    due: Due,
    /// Whether an event of the current request failed.
    failed: bool,
    outgoing: VecDeque<Outgoing>,
    pub(super) protocol: ProtocolFeatures,
    pub(super) acknowledged: Option<u64>,
    pub(super) status: u8,
    pub(super) has_backend_channel: bool,
    config_change_waits: bool,
    pub(super) rings: Rings,
    pub(super) regions: RegionTable,
    log: Option<DirtyLog>,
    pub(super) in_flight: Option<InFlightMemory>,
}

impl Session {
    /// A fresh connection. Protocol features that are not implemented cannot be offered; `queues_max` and
    /// `config` are cut to what the protocol can express.
    pub fn new(mut offer: Offer) -> Self {
        offer.config.truncate(CONFIG_SIZE_MAX);
        offer.queues_max = offer.queues_max.clamp(1, QUEUES_MAX);
        offer.protocol &= ProtocolFeatures::all();
        offer.features = (offer.features & !TRANSPORT_BITS) | F_PROTOCOL_FEATURES;
        if !offer.protocol.contains(ProtocolFeatures::INFLIGHT_SHMFD) {
            offer.protocol -= ProtocolFeatures::GET_VRING_BASE_INFLIGHT;
        }
        if offer.protocol.contains(ProtocolFeatures::LOG_SHMFD) {
            offer.features |= F_LOG_ALL;
        }
        Self {
            rings: Rings::new(offer.queues_max),
            offer,
            inbox: Inbox::default(),
            fault: None,
            events: VecDeque::new(),
            in_hand: None,
            due: Due::Nothing,
            failed: false,
            outgoing: VecDeque::new(),
            protocol: ProtocolFeatures::empty(),
            acknowledged: None,
            status: 0,
            has_backend_channel: false,
            config_change_waits: false,
            regions: RegionTable::default(),
            log: None,
            in_flight: None,
        }
    }

    /// Bytes that the next `recvmsg` should ask for, with room for 32 file descriptors. Zero: do not read
    /// now; finish events and send what is outgoing first.
    pub fn wanted(&self) -> usize {
        if self.fault.is_some() || self.is_busy() { 0 } else { self.inbox.wanted() }
    }

    /// Feeds what one `recvmsg` gave: any piece of the stream with the file descriptors that came with it.
    /// Messages may come in pieces or several at once; descriptors belong to the message that holds the
    /// piece's last byte. At most 64 KiB wait to be decoded.
    pub fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), FrontendFault> {
        self.alive()?;
        let received = self.inbox.receive(bytes, fds);
        self.note(received)
    }

    /// The next thing for the host to do. `None`: an event is still unfinished, replies wait to be sent, or
    /// more bytes are needed. After a fault every call returns it again.
    pub fn next_event(&mut self) -> Result<Option<Event>, FrontendFault> {
        self.alive()?;
        if self.in_hand.is_some() {
            return Ok(None);
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                self.in_hand = Some(match &event {
                    Event::QueueStart(start) => InHand::Start(start.index),
                    Event::QueueStop { index, .. } => InHand::Stop(*index),
                    _ => InHand::Other,
                });
                return Ok(Some(event));
            }
            if self.is_busy() {
                return Ok(None);
            }
            let taken = self.inbox.take();
            let Some(message) = self.note(taken)? else { return Ok(None) };
            let handled = self.request(message);
            self.note(handled)?;
            if self.events.is_empty() {
                self.answer();
            }
        }
    }

    /// Reports that the event taken last is carried out (or not possible). Without one in hand: ignored.
    pub fn finish(&mut self, outcome: Outcome) {
        let Some(in_hand) = self.in_hand.take() else { return };
        self.failed |= outcome == Outcome::Failed;
        let packed = self.is_packed();
        match (in_hand, outcome) {
            (InHand::Stop(index), Outcome::Stopped(state)) => {
                self.rings.stop(index, Some(state.to_vring_base(packed)))
            }
            (InHand::Stop(index), _) | (InHand::Start(index), Outcome::Failed) => {
                self.rings.stop(index, None)
            }
            _ => {}
        }
        if self.events.is_empty() {
            self.answer();
        }
    }

    /// The next message to send, whole and in order.
    pub fn next_outgoing(&mut self) -> Option<Outgoing> {
        let outgoing = self.outgoing.pop_front()?;
        if outgoing.channel == Channel::Backend {
            self.config_change_waits = false;
        }
        Some(outgoing)
    }

    /// Replaces the configuration space that `GET_CONFIG` reads, without telling the driver.
    pub fn set_config(&mut self, mut config: Vec<u8>) {
        config.truncate(CONFIG_SIZE_MAX);
        self.offer.config = config;
    }

    /// Tells the driver that the configuration space changed (`CONFIG_CHANGE`), if the front-end negotiated
    /// both `BACKEND_REQ` and `CONFIG` and opened the channel; returns whether it did. One message that
    /// waits to be sent stands for any number of changes.
    pub fn send_config_change(&mut self) -> bool {
        let needs = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
        if !self.protocol.contains(needs) || !self.has_backend_channel {
            return false;
        }
        if !self.config_change_waits {
            self.config_change_waits = true;
            let bytes = emit_backend_request(BACKEND_CONFIG_CHANGE);
            self.outgoing.push_back(Outgoing { channel: Channel::Backend, bytes, fds: Vec::new() });
        }
        true
    }

    /// The guest's memory as known now.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.regions.memory()
    }

    /// The protocol features that the front-end acknowledged.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol
    }

    fn alive(&self) -> Result<(), FrontendFault> {
        self.fault.map_or(Ok(()), Err)
    }

    /// Remembers a fault: from now on the session only repeats it.
    fn note<T>(&mut self, result: Result<T, FrontendFault>) -> Result<T, FrontendFault> {
        if let Err(fault) = &result {
            self.fault = Some(*fault);
            self.events.clear();
        }
        result
    }

    fn is_busy(&self) -> bool {
        self.in_hand.is_some() || !self.events.is_empty() || self.outgoing.len() >= OUTGOING_MAX
    }

    pub(super) fn is_packed(&self) -> bool {
        self.acknowledged.unwrap_or(0) & super::features::F_RING_PACKED != 0
    }

    /// What ring setups depend on, next to the rings themselves.
    fn around(&mut self) -> (&mut Rings, Surroundings<'_>) {
        let features = self.acknowledged.unwrap_or(0);
        let log = self.log.as_ref().filter(|_| features & F_LOG_ALL != 0);
        let in_flight = self.in_flight.as_ref();
        (&mut self.rings, Surroundings { memory: self.regions.memory(), features, log, in_flight })
    }

    pub(super) fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Queues a reply with this payload.
    pub(super) fn reply(&mut self, request: Request, payload: &[u8]) {
        self.reply_with(request, payload, Vec::new());
    }

    /// As [`Self::reply`], with file descriptors.
    pub(super) fn reply_with(&mut self, request: Request, payload: &[u8], fds: Vec<Arc<OwnedFd>>) {
        let bytes = emit_reply(request, payload);
        self.outgoing.push_back(Outgoing { channel: Channel::Main, bytes, fds });
    }

    /// Queues the reply that is due after the request's events.
    fn answer(&mut self) {
        let failed = std::mem::take(&mut self.failed);
        match std::mem::replace(&mut self.due, Due::Nothing) {
            Due::Nothing => {}
            Due::Ack(request) => self.reply(request, &u64::from(failed).to_ne_bytes()),
            Due::LogBase(payload) => self.reply(Request::SetLogBase, &payload),
            Due::VringBase { index } => {
                let state = VringState { index: index.into(), num: self.rings.base(index) };
                self.reply(Request::GetVringBase, &state.emit());
            }
        }
    }

    fn request(&mut self, message: Message) -> Result<(), FrontendFault> {
        message.check_fds()?;
        let header = message.header;
        let (request, needs) = (header.request, header.request.shape().needs);
        if !self.protocol.contains(needs) {
            let feature = needs.iter_names().next().map_or("", |(name, _)| name);
            return Err(FrontendFault::NotNegotiated { request, feature });
        }
        self.dispatch(message)?;
        // Looked at afterwards: SET_PROTOCOL_FEATURES may just have negotiated it.
        let acknowledges = self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        if header.need_reply && acknowledges && !request.has_reply() {
            self.due = Due::Ack(request);
        }
        Ok(())
    }

    fn dispatch(&mut self, message: Message) -> Result<(), FrontendFault> {
        match message.header.request {
            Request::GetFeatures => self.get_features(),
            Request::SetFeatures => return self.set_features(&message),
            // A connection owns its device anyway, and the specification advises to ignore RESET_OWNER. The
            // eventfd of SET_LOG_FD is for back-ends that want to hurry the front-end: only closed.
            Request::SetOwner | Request::ResetOwner | Request::SetLogFd => {}
            Request::SetMemTable => return self.set_mem_table(message),
            Request::SetLogBase => return self.set_log_base(&message),
            Request::SetVringNum => return self.set_vring_num(&message),
            Request::SetVringAddr => return self.set_vring_addr(&message),
            Request::SetVringBase => return self.set_vring_base(&message),
            Request::GetVringBase => return self.get_vring_base(&message),
            Request::SetVringKick => return self.set_vring_kick(message),
            Request::SetVringCall => return self.set_vring_call(message),
            Request::SetVringErr => return self.set_vring_err(message),
            Request::GetProtocolFeatures => self.get_protocol_features(),
            Request::SetProtocolFeatures => return self.set_protocol_features(&message),
            Request::GetQueueNum => self.get_queue_num(),
            Request::SetVringEnable => return self.set_vring_enable(&message),
            Request::SendRarp => self.send_rarp(&message),
            Request::NetSetMtu => return self.net_set_mtu(&message),
            Request::SetBackendReqFd => self.set_backend_req_fd(message),
            Request::GetConfig => return self.get_config(&message),
            Request::SetConfig => return self.set_config_space(&message),
            Request::GetInflightFd => return self.get_inflight_fd(&message),
            Request::SetInflightFd => return self.set_inflight_fd(&message),
            Request::ResetDevice => self.reset_device(),
            Request::GetMaxMemSlots => self.get_max_mem_slots(),
            Request::AddMemReg => return self.add_mem_reg(&message),
            Request::RemMemReg => return self.rem_mem_reg(&message),
            Request::SetStatus => return self.set_status(&message),
            Request::GetStatus => self.get_status(),
        }
        Ok(())
    }

    fn set_mem_table(&mut self, message: Message) -> Result<(), FrontendFault> {
        self.regions.replace(message)?;
        self.memory_changed()
    }

    fn add_mem_reg(&mut self, message: &Message) -> Result<(), FrontendFault> {
        self.regions.add(message)?;
        self.memory_changed()
    }

    fn rem_mem_reg(&mut self, message: &Message) -> Result<(), FrontendFault> {
        self.regions.remove(message)?;
        self.memory_changed()
    }

    /// New memory first, with the rings that run on it; then the rings that only waited for memory.
    fn memory_changed(&mut self) -> Result<(), FrontendFault> {
        let (rings, around) = self.around();
        let restart = rings.restart_all(around)?;
        let memory = Arc::clone(around.memory);
        let starts = rings.start_all(around)?;
        self.push(Event::Memory { memory, restart });
        self.events.extend(starts.into_iter().map(queue_start));
        Ok(())
    }

    fn set_log_base(&mut self, message: &Message) -> Result<(), FrontendFault> {
        self.log = self.regions.map_log(message)?;
        let mut payload = [0; 16];
        payload.copy_from_slice(message.payload.get(..16).unwrap_or(&[0; 16]));
        self.due = Due::LogBase(payload);
        let (rings, around) = self.around();
        if around.log.is_some() {
            let restart = rings.restart_all(around)?;
            if !restart.is_empty() {
                self.push(Event::QueuesRestart(restart));
            }
        }
        Ok(())
    }

    /// New setups for running rings after `LOG_ALL` changed; none without a log.
    pub(super) fn log_all_changed(&mut self) -> Result<Vec<QueueRestart>, FrontendFault> {
        if self.log.is_none() {
            return Ok(Vec::new());
        }
        let (rings, around) = self.around();
        rings.restart_all(around)
    }

    fn set_vring_num(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let state = VringState::parse(&message.payload);
        let most = self.offer.queue_size_max.get();
        let ring = self.rings.stopped(Request::SetVringNum, state)?;
        let index = state.index as u16;
        let refused = FrontendFault::QueueSize { index, size: state.num, most };
        let size = u16::try_from(state.num).map_err(|_| refused)?;
        let size = QueueSize::try_from(size).map_err(|_| refused)?;
        if size.get() > most {
            return Err(refused);
        }
        ring.set_size(size);
        self.start_ring(index)
    }

    /// On a running ring this is how a front-end begins and ends the logging of its used ring.
    fn set_vring_addr(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let (index, addresses) = RingAddresses::parse(&message.payload)?;
        let (index, ring) = self.rings.at(Request::SetVringAddr, index)?;
        if !ring.set_addresses(addresses) && !ring.is_stopped() {
            return Ok(());
        }
        let (rings, around) = self.around();
        if let Some(restart) = rings.readdress(index, around)? {
            self.push(Event::QueuesRestart(vec![restart]));
        }
        self.start_ring(index)
    }

    fn set_vring_base(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let state = VringState::parse(&message.payload);
        self.rings.stopped(Request::SetVringBase, state)?.set_base(state.num);
        self.start_ring(state.index as u16)
    }

    fn get_vring_base(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let state = VringState::parse(&message.payload);
        let (index, ring) = self.rings.at(Request::GetVringBase, state.index)?;
        let runs = !ring.is_stopped();
        if !runs {
            ring.stop(None);
        }
        self.due = Due::VringBase { index };
        if runs {
            let may_leave = ProtocolFeatures::INFLIGHT_SHMFD | ProtocolFeatures::GET_VRING_BASE_INFLIGHT;
            let is_recorded = self.in_flight.as_ref().is_some_and(|memory| memory.has(index));
            let drain = !(is_recorded && self.protocol.contains(may_leave));
            self.push(Event::QueueStop { index, drain });
        }
        Ok(())
    }

    fn set_vring_kick(&mut self, message: Message) -> Result<(), FrontendFault> {
        let (index, ring, kick) = self.rings.with_fd(Request::SetVringKick, &message.payload, message.fds)?;
        if !ring.is_stopped() {
            self.push(Event::QueueKick { index, kick });
            return Ok(());
        }
        ring.set_kick(kick);
        self.start_ring(index)
    }

    fn set_vring_call(&mut self, message: Message) -> Result<(), FrontendFault> {
        let (index, ring, call) = self.rings.with_fd(Request::SetVringCall, &message.payload, message.fds)?;
        if ring.is_stopped() {
            ring.call = call;
        } else {
            self.push(Event::QueueCall { index, call });
        }
        Ok(())
    }

    fn set_vring_err(&mut self, message: Message) -> Result<(), FrontendFault> {
        let (index, ring, err) = self.rings.with_fd(Request::SetVringErr, &message.payload, message.fds)?;
        if ring.is_stopped() {
            ring.err = err;
        } else {
            self.push(Event::QueueErr { index, err });
        }
        Ok(())
    }

    /// Accepted whether or not `PROTOCOL_FEATURES` was acknowledged: it is always offered.
    fn set_vring_enable(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let state = VringState::parse(&message.payload);
        let (index, ring) = self.rings.at(Request::SetVringEnable, state.index)?;
        let enabled = match state.num {
            0 => false,
            1 => true,
            value => return Err(FrontendFault::QueueEnable { index, value }),
        };
        if ring.enabled != enabled {
            ring.enabled = enabled;
            if !ring.is_stopped() {
                self.push(Event::QueueEnable { index, enabled });
            }
        }
        Ok(())
    }

    fn start_ring(&mut self, index: u16) -> Result<(), FrontendFault> {
        let (rings, around) = self.around();
        if let Some(start) = rings.start(index, around)? {
            self.push(queue_start(start));
        }
        Ok(())
    }
}

fn queue_start(start: QueueStart) -> Event {
    Event::QueueStart(Box::new(start))
}
