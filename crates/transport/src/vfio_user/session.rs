//! One connection: takes messages in order, keeps the books, makes events and replies.

use super::access::Writes;
use super::dma::{Accesses, DmaDone, DmaFault};
use super::irqs::{Change, Irqs};
use super::memory::DmaTable;
use super::message::{Command, Fields, Header, Kind, Message, emit_error, emit_reply};
use super::offer::{Offer, OfferFault};
use super::queues::Ring;
use super::version::{self, Client};
use super::{ClientFault, Refusal};
use crate::event::{Channel, Event, Outcome, Outgoing};
use crate::framing::Inbox;
use crate::pci::features::{F_VERSION_1, TRANSPORT_BITS};
use crate::pci::{Cause, Effect, Function, Line};
use guestmem::{GuestAddr, GuestMemory};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Messages kept at most until the host sends them; with so many waiting no command is decoded.
const OUTGOING_MAX: usize = 32;

/// What a command is answered with, if it is.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<Arc<OwnedFd>>,
}

impl Reply {
    /// These bytes, and no descriptors.
    pub(super) fn of(payload: Vec<u8>) -> Self {
        Self { payload, fds: Vec::new() }
    }
}

/// The command in hand.
#[derive(Debug)]
struct Current {
    header: Header,
    no_reply: bool,
    answer: Result<Reply, Refusal>,
    /// What it still has to write.
    writes: Option<Writes>,
}

/// What the host is working on.
#[derive(Clone, Copy, Debug)]
enum InHand {
    Start(u16),
    Stop(u16),
    Other,
}

/// One connection of a client. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Session {
    pub(super) function: Function,
    pub(super) kicks: Vec<Arc<OwnedFd>>,
    pub(super) interrupt: Arc<OwnedFd>,
    pub(super) region_file: Option<Arc<OwnedFd>>,
    /// `None` before `VERSION`.
    pub(super) client: Option<Client>,
    pub(super) dma_table: DmaTable,
    pub(super) irqs: Irqs,
    pub(super) rings: Vec<Ring>,
    pub(super) admin_queue: Option<u16>,
    /// By an administration command.
    pub(super) device_stopped: bool,
    /// Queues whose device never writes.
    pub(super) readable_only: Vec<u16>,
    /// How many relays there were.
    pub(super) relays_made: u64,
    /// Which ring may send the next message.
    pub(super) turn: usize,
    /// How often the client's maps changed.
    pub(super) maps_changes: u64,
    /// A ring that is to stop when its writes are answered. Until then the function waits, and commands do not.
    pub(super) draining: Option<u16>,
    pub(super) accesses: Accesses,
    inbox: Inbox<Header>,
    fault: Option<ClientFault>,
    refusal: Option<Refusal>,
    current: Option<Current>,
    /// Events of the current command that the host has not taken yet.
    events: VecDeque<Event>,
    in_hand: Option<InHand>,
    /// The function's effect that is being carried out: whether it is accepted so far.
    effect: Option<bool>,
    outgoing: VecDeque<Outgoing>,
}

impl Session {
    /// A fresh connection to a function at power-on.
    ///
    /// # Errors
    /// Something of the offer cannot be or does not fit the rest.
    pub fn new(offer: Offer) -> Result<Self, OfferFault> {
        offer.check()?;
        let Offer { function, kicks, interrupt, region_file, readable_only } = offer;
        let admin_queue = function.admin_queue.map(|_| function.queue_size_max.len() as u16);
        let function = Function::new(function)?;
        Ok(Self {
            irqs: Irqs::new(function.msix_vectors()),
            function,
            rings: kicks.iter().map(|_| Ring::default()).collect(),
            kicks: kicks.into_iter().map(Arc::new).collect(),
            admin_queue,
            device_stopped: false,
            interrupt: Arc::new(interrupt),
            region_file: region_file.map(Arc::new),
            client: None,
            dma_table: DmaTable::default(),
            readable_only,
            relays_made: 0,
            turn: 0,
            maps_changes: 0,
            draining: None,
            accesses: Accesses::default(),
            inbox: Inbox::default(),
            fault: None,
            refusal: None,
            current: None,
            events: VecDeque::new(),
            in_hand: None,
            effect: None,
            outgoing: VecDeque::new(),
        })
    }

    /// Bytes that the next `recvmsg` should ask for, with room for [`FDS_MAX`](super::FDS_MAX) file descriptors. Zero: do
    /// not read now; finish events and send what is outgoing first.
    pub fn wanted(&self) -> usize {
        let works = self.current.is_some() || self.effect.is_some() && self.draining.is_none();
        let is_busy = works || self.in_hand.is_some() || self.outgoing.len() >= OUTGOING_MAX;
        if self.fault.is_some() || is_busy { 0 } else { self.inbox.wanted() }
    }

    /// Feeds what one `recvmsg` gave: any piece of the stream with the file descriptors that came with it. Messages may come
    /// in pieces or several at once; descriptors belong to the message that holds the piece's last byte. Little more than
    /// the longest message waits to be decoded.
    pub fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), ClientFault> {
        self.alive()?;
        let received = self.inbox.receive(bytes, fds);
        self.note(received)
    }

    /// The next thing for the host to do. `None`: an event is still unfinished, replies wait to be sent, or more bytes are
    /// needed. After a fault every call returns it again.
    pub fn next_event(&mut self) -> Result<Option<Event>, ClientFault> {
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
            if self.go_on() {
                continue;
            }
            if self.outgoing.len() >= OUTGOING_MAX {
                return Ok(None);
            }
            let taken = self.inbox.take();
            let Some(message) = self.note(taken)? else { return Ok(None) };
            let handled = self.message(message);
            self.note(handled)?;
        }
    }

    /// Reports that the event taken last is carried out (or not possible). Without one in hand: ignored. A refused
    /// [`Event::Features`] or [`Event::QueueStart`] is refused to the driver; what fails otherwise is the host's to say.
    pub fn finish(&mut self, outcome: Outcome) {
        let Some(in_hand) = self.in_hand.take() else { return };
        let failed = outcome == Outcome::Failed;
        if failed {
            self.refuse_effect();
        }
        let ended = match in_hand {
            InHand::Start(index) if failed => Some(index),
            InHand::Stop(index) => Some(index),
            InHand::Start(_) | InHand::Other => None,
        };
        let ring = ended.and_then(|index| self.rings.get_mut(usize::from(index)));
        ring.into_iter().for_each(Ring::stop);
        if let InHand::Start(index) = in_hand {
            self.relay_taken(index);
        }
    }

    /// The next message to send, whole and in order, its descriptors with its first byte.
    pub fn next_outgoing(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// Replaces the configuration space that the driver reads, without telling it.
    pub fn set_config(&mut self, config: &[u8]) {
        self.function.set_config(config);
    }

    /// Tells the driver that the configuration space changed: the eventfd to signal, if it wants to be told.
    pub fn send_config_change(&mut self) -> Option<Arc<OwnedFd>> {
        self.raise(Cause::Config)
    }

    /// The device cannot go on (`DEVICE_NEEDS_RESET`): the eventfd to signal, if the driver wants to be told.
    pub fn needs_reset(&mut self) -> Option<Arc<OwnedFd>> {
        let before = self.function.intx_pending();
        let line = self.function.needs_reset();
        self.signal(line, before)
    }

    /// [`Offer::interrupt`] was signalled: some queue that calls by INTx used buffers. The client's eventfd to signal;
    /// `None`: INTx is masked, or asserted already.
    pub fn queue_interrupt(&mut self) -> Option<Arc<OwnedFd>> {
        let index = self.ring_by_intx()?;
        self.raise(Cause::Queue(index))
    }

    /// The eventfd of [`Event::Resample`] was signalled: the guest has handled INTx. The client's eventfd to signal, if it
    /// is still asserted.
    pub fn resampled(&mut self) -> Option<Arc<OwnedFd>> {
        self.function.intx_pending().then(|| self.irqs.raise_intx()).flatten()
    }

    /// Carries out an administration command, as [`Function::admin_command`]. Take and finish the events that it left before
    /// its chain is completed.
    pub fn admin_command(&mut self, readable: &[u8], writable: usize) -> Vec<u8> {
        self.function.admin_command(readable, writable)
    }

    /// The client's memory as known now, apart from what is reached by messages.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.dma_table.memory()
    }

    /// Whether the driver said that it is ready (`DRIVER_OK`).
    pub fn is_driver_ok(&self) -> bool {
        self.function.is_driver_ok()
    }

    /// Why a command was answered with an error (or would have been, had it asked for a reply) since this was last asked.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// Begins to read `len` bytes of the client's memory by a message; the result comes with [`Session::next_dma`], under
    /// the number returned.
    pub fn dma_read(&mut self, address: GuestAddr, len: usize) -> Result<u16, DmaFault> {
        self.check_dma(address, len, false)?;
        let id = self.accesses.read(address, len);
        self.send_held();
        Ok(id)
    }

    /// Begins to write the client's memory by a message; as [`Session::dma_read`].
    pub fn dma_write(&mut self, address: GuestAddr, bytes: &[u8]) -> Result<u16, DmaFault> {
        self.check_dma(address, bytes.len(), true)?;
        let id = self.accesses.write(address, bytes);
        self.send_held();
        Ok(id)
    }

    /// The next access by messages that is finished.
    pub fn next_dma(&mut self) -> Option<DmaDone> {
        self.accesses.next_done()
    }

    fn check_dma(&self, address: GuestAddr, len: usize, write: bool) -> Result<(), DmaFault> {
        let most = self.client.map_or(0, |client| client.max_data_xfer_size);
        if len == 0 || len > most {
            return Err(DmaFault::Len { len, most });
        }
        if !self.dma_table.allows(address.0, len as u64, write) {
            return Err(DmaFault::Range { address, len });
        }
        if self.accesses.has_room() { Ok(()) } else { Err(DmaFault::Busy) }
    }

    fn alive(&self) -> Result<(), ClientFault> {
        self.fault.map_or(Ok(()), Err)
    }

    /// Remembers a fault: from now on the session only repeats it.
    fn note<T>(&mut self, result: Result<T, ClientFault>) -> Result<T, ClientFault> {
        if let Err(fault) = &result {
            self.fault = Some(*fault);
            self.events.clear();
        }
        result
    }

    pub(super) fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// The effect in hand cannot be.
    pub(super) fn refuse_effect(&mut self) {
        self.effect = self.effect.map(|_| false);
    }

    /// One step on with the command in hand, whose events are all finished; `false`: there is none.
    fn go_on(&mut self) -> bool {
        if self.draining.is_none() {
            if let Some(accepted) = self.effect.take() {
                self.function.finish(accepted);
            }
            if let Some(effect) = self.function.next_effect() {
                self.effect = Some(true);
                self.begin(effect);
                return true;
            }
        }
        let Some(mut current) = self.current.take() else { return false };
        match current.writes.as_mut().and_then(|writes| self.next_write(writes)) {
            Some(Ok(())) => self.current = Some(current),
            Some(Err(refusal)) => self.answer(Current { answer: Err(refusal), ..current }),
            None => self.answer(current),
        }
        true
    }

    /// What an effect of the function asks of the host.
    fn begin(&mut self, effect: Effect) {
        match effect {
            Effect::Features { acknowledged } => {
                let bits = acknowledged & (!TRANSPORT_BITS | F_VERSION_1);
                // No bit beyond was offered, and the function grants no other.
                self.push(Event::Features { acknowledged: bits as u64, restart: Vec::new() });
            }
            Effect::QueueStart(start) => self.start_queue(*start),
            Effect::QueueStop { index } => self.stop_queue(index),
            Effect::DriverOk => self.driver_ok(),
            Effect::DeviceMode { stopped } => {
                self.device_stopped = stopped;
                self.enable_queues();
            }
            Effect::Reset => {
                self.device_stopped = false;
                self.reset_queues();
                self.irqs.forget_pending();
                self.push(Event::ResetDevice);
            }
            Effect::ConfigWrite { offset, bytes } => {
                self.push(Event::ConfigWrite { offset, bytes, migration: false })
            }
            Effect::Notify { index, .. } => self.kick_queue(index),
            Effect::CallsChanged => {
                self.calls_changed();
                let intx = self.resampled();
                self.push_interrupt(intx);
            }
            Effect::Interrupt(cause) => {
                let eventfd = self.raise(cause);
                self.push_interrupt(eventfd);
            }
        }
    }

    pub(super) fn push_interrupt(&mut self, eventfd: Option<Arc<OwnedFd>>) {
        self.events.extend(eventfd.map(Event::Interrupt));
    }

    /// An interrupt of the device: what to signal.
    pub(super) fn raise(&mut self, cause: Cause) -> Option<Arc<OwnedFd>> {
        let before = self.function.intx_pending();
        let line = self.function.interrupt(cause);
        self.signal(line, before)
    }

    /// INTx is a level: signalled when it is asserted, not again while it is.
    fn signal(&mut self, line: Option<Line>, asserted_before: bool) -> Option<Arc<OwnedFd>> {
        match line? {
            Line::Msix(vector) => self.irqs.raise_vector(vector),
            Line::Intx if asserted_before => None,
            Line::Intx => self.irqs.raise_intx(),
        }
    }

    /// Answers a command that is carried out, and sends what had to wait for that.
    fn answer(&mut self, command: Current) {
        let Current { header, no_reply, answer, .. } = command;
        if let Err(refusal) = &answer {
            self.refusal = Some(*refusal);
        }
        if !no_reply {
            let (bytes, fds) = match answer {
                Ok(Reply { payload, fds }) => (emit_reply(&header, &payload), fds),
                Err(refusal) => (emit_error(&header, refusal.errno()), Vec::new()),
            };
            self.outgoing.push_back(Outgoing { channel: Channel::Main, bytes, fds });
        }
        self.send_held();
    }

    /// Sends accesses by messages, unless a command waits for its reply.
    pub(super) fn send_held(&mut self) {
        while self.current.is_none()
            && let Some(bytes) = self.accesses.next_message()
        {
            self.outgoing.push_back(Outgoing { channel: Channel::Main, bytes, fds: Vec::new() });
        }
    }

    fn message(&mut self, message: Message) -> Result<(), ClientFault> {
        let header = message.header;
        let (no_reply, wrong_flags) = match header.kind {
            Kind::Reply { error } => {
                if let Some((owner, done)) = self.accesses.reply(&header, error, &message.payload)? {
                    self.relay_answered(owner, done.result.as_deref().map_err(|errno| *errno));
                }
                return Ok(());
            }
            Kind::Command { no_reply, wrong_flags } => (no_reply, wrong_flags),
        };
        let command = Command::from_id(header.command);
        if self.client.is_none() && command != Some(Command::Version) {
            return Err(ClientFault::NoVersion { command: header.command });
        }
        let mut writes = None;
        let answer = match check(&message, command, wrong_flags) {
            Err(refusal) => Err(refusal),
            Ok(Command::Version) if self.client.is_some() => Err(Refusal::VersionAgain),
            Ok(Command::Version) => {
                let (client, reply) = version::negotiate(&message.payload)?;
                self.client = Some(client);
                Ok(Reply::of(reply))
            }
            Ok(Command::RegionWriteMulti) => self.region_write_multi(message.payload).map(|several| {
                writes = Some(several);
                Reply::default()
            }),
            Ok(command) => self.dispatch(command, message),
        };
        self.current = Some(Current { header, no_reply, answer, writes });
        Ok(())
    }

    fn dispatch(&mut self, command: Command, message: Message) -> Result<Reply, Refusal> {
        let Message { payload, mut fds, .. } = message;
        match command {
            Command::DmaMap => {
                if self.dma_table.map(&payload, fds.pop())? {
                    self.memory_changed();
                }
                self.maps_changed();
                Ok(Reply::default())
            }
            Command::DmaUnmap => {
                if self.dma_table.unmap(&payload)? {
                    self.memory_changed();
                }
                self.maps_changed();
                // Clients read as many bytes as they sent.
                Ok(Reply::of(payload))
            }
            Command::DeviceGetInfo => self.device_get_info(&payload),
            Command::DeviceGetRegionInfo => self.device_get_region_info(&payload),
            Command::DeviceGetRegionIoFds => self.device_get_region_io_fds(&payload),
            Command::DeviceGetIrqInfo => self.irqs.info(&payload).map(Reply::of),
            Command::DeviceSetIrqs => {
                let change = self.irqs.set(&payload, fds)?;
                self.interrupts_changed(change);
                Ok(Reply::default())
            }
            Command::RegionRead => self.region_read(&payload),
            Command::RegionWrite => self.region_write(&payload),
            Command::DeviceReset => {
                self.function.reset();
                Ok(Reply::default())
            }
            command => Err(Refusal::NotOffered { command }),
        }
    }

    fn interrupts_changed(&mut self, change: Change) {
        let Change { signal, calls, intx, resample } = change;
        if calls {
            self.calls_changed();
        }
        if resample {
            self.push(Event::Resample(self.irqs.resample()));
        }
        signal.into_iter().for_each(|eventfd| self.push_interrupt(Some(eventfd)));
        if intx {
            let asserted = self.resampled();
            self.push_interrupt(asserted);
        }
    }
}

/// The command of a message, if its header and shape are ones that it can have.
fn check(message: &Message, command: Option<Command>, wrong_flags: u32) -> Result<Command, Refusal> {
    let command = command.ok_or(Refusal::Unknown { command: message.header.command })?;
    if wrong_flags != 0 {
        return Err(Refusal::HeaderFlags { command, flags: wrong_flags });
    }
    let (size, count) = (message.payload.len(), message.fds.len());
    let shape = command.shape();
    let (least, most) = shape.payload;
    if size < least || size > most {
        return Err(Refusal::PayloadSize { command, size, least, most });
    }
    let (least, most) = shape.fds;
    if count < least || count > most {
        return Err(Refusal::FdCount { command, count, least, most });
    }
    // These begin with the size of the structure that the client has in mind.
    use Command::{DeviceSetIrqs, DmaMap, DmaUnmap};
    let needed = match command {
        DmaMap | DmaUnmap | DeviceSetIrqs => shape.payload.0,
        _ => 0,
    };
    let argsz = if needed == 0 { 0 } else { Fields(&message.payload).u32() };
    if (argsz as usize) < needed {
        return Err(Refusal::Argsz { command, argsz, least: needed });
    }
    Ok(command)
}
