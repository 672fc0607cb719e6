//! The two protocols that a guest's port speaks, behind one face: bytes and descriptors in, events and messages out.
//!
//! Over vhost-user the VMM shows the guest a device and tells us of its rings; over vfio-user we are the whole PCI function
//! ([`transport::pci`]), and what the VMM does with its registers becomes the same events. What is left of the difference stands
//! here: doorbells that come as messages, and interrupts that are not an eventfd of the queue's own.

use super::notify::{Wake, accept_eventfd, signal};
use crate::config::resolved::FunctionConfig;
use guestmem::GuestMemory;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use transport::event::{Event, Outcome, Outgoing, QueueStart};
use transport::pci::{self, Description, NotifyKind};
use transport::vfio_user::{self, ClientFault, OfferFault};
use transport::vhost_user::{self, FrontendFault, ProtocolFeatures};
use virtqueue::{DeviceQueue, Endian, QueueSetup, QueueSize, RingState, SetupFault};

/// virtio device id of a network device (virtio 1.3 §5.1.1).
const NETWORK: u16 = 1;
/// PCI class of an Ethernet controller.
const ETHERNET: u32 = 0x02_0000;
/// virtio device id of a block device (virtio 1.3 §5.2.1).
const BLOCK: u16 = 2;
/// PCI class of a mass storage controller of no special kind.
const MASS_STORAGE: u32 = 0x01_8000;
/// How often the ring of a relayed queue is looked at whose doorbell nobody reads.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Entries of the administration queue; a command takes four.
const ADMIN_QUEUE_SIZE: u16 = 64;

/// The queues of a function's device.
struct Queues {
    count: u16,
    /// There is an administration queue behind them.
    has_admin: bool,
    /// Those that the device only reads.
    readable_only: Vec<u16>,
}

/// What the other side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum ProtocolFault {
    #[error(transparent)]
    Frontend(#[from] FrontendFault),
    #[error(transparent)]
    Client(#[from] ClientFault),
}

/// Why a function cannot be served.
#[derive(Debug, Error)]
pub(super) enum FunctionFault {
    #[error("the function: {0}")]
    Offer(#[from] OfferFault),
    #[error("its descriptors: {0}")]
    Descriptors(#[from] io::Error),
}

/// One connection's protocol.
pub(super) enum Protocol {
    /// A front-end of vhost-user.
    VhostUser(Box<vhost_user::Session>),
    /// A client of vfio-user.
    VfioUser(Box<Function>),
}

/// A function and the descriptors around it.
pub(super) struct Function {
    session: vfio_user::Session,
    /// One for each queue: what is written when its doorbell comes as a message.
    kicks: Vec<OwnedFd>,
    /// The queues that are relayed: what their workers sleep on, and write.
    relayed: Vec<Option<RelayedEnd>>,
    /// Nobody writes the kicks: relayed queues are to be looked at, as they were last.
    mapped: bool,
    looked: Instant,
    /// Signalled by workers whose queue calls by INTx.
    interrupt: Wake,
    /// Signalled by the client when the guest has handled INTx; an eventfd.
    resample: Option<Arc<OwnedFd>>,
    /// What the client gave for an interrupt and was signalled last: an eventfd.
    raised: Option<Arc<OwnedFd>>,
}

/// The eventfds of a relayed queue, whose driver and whose worker have a ring each.
struct RelayedEnd {
    kick: Wake,
    call: Wake,
}

impl Protocol {
    /// A front-end of vhost-user's session. `records`: the device records what is in flight (a network queue finds its place in the
    /// ring, ADR 0007).
    pub(super) fn vhost_user(features: u64, queues: u16, device_config: &[u8], records: bool) -> Self {
        let for_records = ProtocolFeatures::INFLIGHT_SHMFD | ProtocolFeatures::GET_VRING_BASE_INFLIGHT;
        let unused = if records { ProtocolFeatures::empty() } else { for_records };
        Self::VhostUser(Box::new(vhost_user::Session::new(vhost_user::Offer {
            features,
            protocol: ProtocolFeatures::all() - unused,
            queues_max: queues,
            // Cloud Hypervisor compares its number of rings with the answer, QEMU its number of pairs: rings it is.
            queue_num: queues,
            queue_size_max: QueueSize::MAX,
            config: device_config.to_vec(),
        })))
    }

    pub(super) fn wanted(&self) -> usize {
        match self {
            Self::VhostUser(session) => session.wanted(),
            Self::VfioUser(function) => function.session.wanted(),
        }
    }

    pub(super) fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), ProtocolFault> {
        match self {
            Self::VhostUser(session) => session.receive(bytes, fds)?,
            Self::VfioUser(function) => function.session.receive(bytes, fds)?,
        }
        Ok(())
    }

    /// The next event that is not settled here.
    pub(super) fn next_event(&mut self) -> Result<Option<Event>, ProtocolFault> {
        match self {
            Self::VhostUser(session) => Ok(session.next_event()?),
            Self::VfioUser(function) => Ok(function.next_event()?),
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome) {
        match self {
            Self::VhostUser(session) => session.finish(outcome),
            Self::VfioUser(function) => function.session.finish(outcome),
        }
    }

    pub(super) fn next_outgoing(&mut self) -> Option<Outgoing> {
        match self {
            Self::VhostUser(session) => session.next_outgoing(),
            Self::VfioUser(function) => function.session.next_outgoing(),
        }
    }

    /// The function, where there is one.
    pub(super) fn function(&mut self) -> Option<&mut Function> {
        match self {
            Self::VhostUser(_) => None,
            Self::VfioUser(function) => Some(function),
        }
    }

    /// Whether we are the whole function, and a driver's choice can be refused.
    pub(super) fn is_function(&self) -> bool {
        matches!(self, Self::VfioUser(_))
    }

    /// A driver's features that mean something to the device: whether addresses pass an IOMMU is the client's business.
    pub(super) fn without_platform(&self, features: u64) -> u64 {
        if self.is_function() { features & !(pci::features::F_ACCESS_PLATFORM as u64) } else { features }
    }

    /// A queue that goes on where it stood. The ring itself tells how far it was used; the front-end's word counts only
    /// where it does not: a back-end before us may have been killed, and then the front-end does not know. A driver that set the ring up
    /// with us just now begins at its beginning, whatever is in that memory.
    pub(super) fn queue(
        &self,
        memory: &Arc<GuestMemory>,
        setup: &QueueSetup,
        state: RingState,
    ) -> Result<DeviceQueue, SetupFault> {
        let state = if self.is_function() {
            state
        } else if setup.features.packed {
            RingState::resume_packed(memory, setup)?.unwrap_or(state)
        } else {
            RingState::resume_split(memory, setup)?
        };
        DeviceQueue::new(memory, setup, state)
    }

    /// The driver reads this configuration from now on, where it asks us for it; it is not told.
    pub(super) fn show_config(&mut self, config: &[u8]) {
        if let Self::VfioUser(function) = self {
            function.session.set_config(config);
        }
    }

    /// As [`Self::show_config`] for every front-end; also those that ask once and keep the answer are told, where they can be.
    pub(super) fn change_config(&mut self, config: &[u8]) {
        match self {
            Self::VhostUser(session) => {
                session.set_config(config.to_vec());
                session.send_config_change();
            }
            Self::VfioUser(function) => {
                function.session.set_config(config);
                let interrupt = function.session.send_config_change();
                function.raise(interrupt);
            }
        }
    }

    /// A queue was retired: the driver is to reset the device (virtio 1.3 §2.1.2), where we can say so.
    pub(super) fn needs_reset(&mut self) {
        if let Self::VfioUser(function) = self {
            let interrupt = function.session.needs_reset();
            function.raise(interrupt);
        }
    }

    /// What else is to be slept on: then [`Self::attend`] is to be called.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let function = match self {
            Self::VhostUser(_) => None,
            Self::VfioUser(function) => Some(function),
        };
        function.into_iter().flat_map(|function| {
            let resample = function.resample.as_ref().map(|fd| fd.as_fd());
            let relayed = function.relayed.iter().zip(&function.kicks);
            let relayed = relayed.filter_map(|(end, kick)| Some([end.as_ref()?.call.as_fd(), kick.as_fd()]));
            std::iter::once(function.interrupt.as_fd()).chain(resample).chain(relayed.flatten())
        })
    }

    /// Whether [`Self::attend`] is to be called from time to time: a driver whose queue is relayed rings unheard.
    pub(super) fn is_polled(&self) -> bool {
        match self {
            Self::VhostUser(_) => false,
            Self::VfioUser(function) => function.mapped && function.relayed.iter().any(Option::is_some),
        }
    }

    /// Sees to what [`Self::descriptors`] said.
    pub(super) fn attend(&mut self) {
        if let Self::VfioUser(function) = self {
            function.attend();
        }
    }
}

impl Function {
    /// A network device's function at power-on, for one client: `queues` virtqueues and, if it is wanted, the
    /// administration queue.
    pub(super) fn for_network(
        config: &FunctionConfig,
        features: u64,
        queues: u16,
        device_config: &[u8],
    ) -> Result<Self, FunctionFault> {
        // A network device only reads its transmit queues.
        let readable_only = (1..queues).step_by(2).collect();
        let queues = Queues { count: queues, has_admin: true, readable_only };
        Self::new(config, (NETWORK, ETHERNET), features, queues, device_config)
    }

    /// As [`Self::for_network`], of a block device.
    pub(super) fn for_disk(
        config: &FunctionConfig,
        features: u64,
        queues: u16,
        device_config: &[u8],
    ) -> Result<Self, FunctionFault> {
        let queues = Queues { count: queues, has_admin: false, readable_only: Vec::new() };
        Self::new(config, (BLOCK, MASS_STORAGE), features, queues, device_config)
    }

    fn new(
        config: &FunctionConfig,
        (device_type, class): (u16, u32),
        features: u64,
        queues: Queues,
        device_config: &[u8],
    ) -> Result<Self, FunctionFault> {
        let Queues { count: queues, has_admin, readable_only } = queues;
        let is_modern = config.interface != pci::Interface::Legacy;
        // A ring's addresses are the client's: those that its IOMMU has, if there is one.
        let platform = if is_modern { pci::features::F_ACCESS_PLATFORM } else { 0 };
        let admin_queue =
            QueueSize::try_from(ADMIN_QUEUE_SIZE).ok().filter(|_| config.admin_queue && has_admin);
        let kick_count = queues + u16::from(admin_queue.is_some());
        // Nobody reads the data of doorbells that are mapped, and the kernel cannot listen at a port for some of the values only.
        let data = is_modern && !config.mapped && config.notify == [NotifyKind::Mmio];
        let description = Description {
            device_type,
            class,
            interface: config.interface,
            notify: config.notify.clone(),
            mapped: config.mapped,
            notification_data: data,
            msix: config.msix,
            features: u128::from(features) | platform,
            queue_size_max: vec![config.queue_size; usize::from(queues)],
            admin_queue,
            config: device_config.to_vec(),
            endian: Endian::Little,
            shared_memory: Vec::new(),
            vendor: None,
            sr_iov: None,
        };
        let region_file = config.mapped.then(|| doorbell_file(&description)).transpose()?;
        let kicks =
            (0..kick_count).map(|_| Wake::new().map(OwnedFd::from)).collect::<io::Result<Vec<_>>>()?;
        let own = kicks.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        let interrupt = Wake::new()?;
        let offer = vfio_user::Offer {
            function: description,
            kicks,
            interrupt: interrupt.as_fd().try_clone_to_owned()?,
            region_file,
            readable_only,
        };
        Ok(Self {
            session: vfio_user::Session::new(offer)?,
            relayed: own.iter().map(|_| None).collect(),
            kicks: own,
            mapped: config.mapped,
            looked: Instant::now(),
            interrupt,
            resample: None,
            raised: None,
        })
    }

    /// The next event that concerns the device.
    fn next_event(&mut self) -> Result<Option<Event>, ClientFault> {
        while let Some(event) = self.session.next_event()? {
            match event {
                Event::QueueKicked { index } => self.kick(index),
                Event::QueueStart(start) if start.memory.is_some() => match self.relay(*start) {
                    Ok(start) => return Ok(Some(Event::QueueStart(Box::new(start)))),
                    Err(error) => {
                        tracing::warn!(%error, "a queue does not start: no descriptors for it");
                        self.session.finish(Outcome::Failed);
                        continue;
                    }
                },
                Event::QueueStop { index, drain } => {
                    self.relayed.get_mut(usize::from(index)).into_iter().for_each(|end| *end = None);
                    return Ok(Some(Event::QueueStop { index, drain }));
                }
                Event::Interrupt(eventfd) => self.raise(Some(eventfd)),
                Event::Resample(fd) => self.resample = fd.filter(|fd| accept_eventfd(fd)),
                other => return Ok(Some(other)),
            }
            self.session.finish(Outcome::Done);
        }
        Ok(None)
    }

    /// Wakes the worker of a queue: its driver rang, or its relay has chains for it.
    fn kick(&self, index: u16) {
        let index = usize::from(index);
        match (self.relayed.get(index), self.kicks.get(index)) {
            (Some(Some(end)), _) => end.kick.wake(),
            (_, Some(kick)) => signal(kick.as_fd()),
            _ => {}
        }
    }

    /// Gives a relayed queue the eventfds between its worker and its relay.
    fn relay(&mut self, mut start: QueueStart) -> io::Result<QueueStart> {
        let end = RelayedEnd { kick: Wake::new()?, call: Wake::new()? };
        start.kick = Some(end.kick.as_fd().try_clone_to_owned()?);
        start.call = Some(end.call.as_fd().try_clone_to_owned()?);
        if let Some(place) = self.relayed.get_mut(usize::from(start.index)) {
            *place = Some(end);
        }
        Ok(start)
    }

    /// Hands on what the drivers and the workers of relayed queues said.
    fn attend_relayed(&mut self) {
        let is_due = self.mapped && self.looked.elapsed() >= LOOK_INTERVAL;
        if is_due {
            self.looked = Instant::now();
        }
        let Self { session, kicks, relayed, .. } = self;
        for ((end, kick), index) in relayed.iter().zip(&*kicks).zip(0..) {
            let Some(end) = end else { continue };
            if end.call.take() {
                session.queue_called(index);
            }
            if rustix::io::read(kick, &mut [0u8; 8]).is_ok() || is_due {
                session.queue_notified(index);
            }
        }
    }

    /// A worker has used buffers of a queue that calls by INTx or of one that is relayed, or the guest has handled INTx.
    fn attend(&mut self) {
        self.attend_relayed();
        self.interrupt.clear();
        let interrupt = self.session.queue_interrupt();
        self.raise(interrupt);
        let is_handled =
            self.resample.as_ref().is_some_and(|resample| rustix::io::read(resample, &mut [0u8; 8]).is_ok());
        if is_handled {
            let interrupt = self.session.resampled();
            self.raise(interrupt);
        }
    }

    /// Signals what the client gave for an interrupt. What is no eventfd could keep us waiting, and is left alone; who is signalled
    /// again and again is not asked again.
    fn raise(&mut self, interrupt: Option<Arc<OwnedFd>>) {
        let Some(fd) = interrupt else { return };
        let is_known = self.raised.as_ref().is_some_and(|known| Arc::ptr_eq(known, &fd));
        if is_known || accept_eventfd(&fd) {
            signal(fd.as_fd());
            self.raised = Some(fd);
        }
    }

    /// Carries out an administration command: what to write into its answer, of at most `writable` bytes. Its events are to be
    /// carried out before the driver sees that.
    pub(super) fn admin_command(&mut self, readable: &[u8], writable: usize) -> Vec<u8> {
        self.session.admin_command(readable, writable)
    }
}

/// The file of the notify page, as long as its BAR is up to the page's end: the client dies of a shorter one.
fn doorbell_file(description: &Description) -> Result<OwnedFd, FunctionFault> {
    let function = pci::Function::new(description.clone()).map_err(OfferFault::from)?;
    let ends = (0..6).filter_map(|index| function.bar(index)?.mappable).map(|page| page.end);
    let file = memfd_create("ringway-doorbells", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
    ftruncate(&file, ends.max().unwrap_or_default()).map_err(io::Error::from)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use transport::pci::Interface;

    #[test]
    fn only_eventfds_are_signalled() {
        let config = FunctionConfig {
            interface: Interface::Modern,
            notify: vec![NotifyKind::Mmio],
            queue_size: QueueSize::try_from(256).unwrap(),
            mapped: false,
            msix: true,
            admin_queue: false,
        };
        let mut function = Function::for_network(&config, 0, 3, &[0; 24]).unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        function.raise(Some(Arc::new(write)));
        let eventfd = Wake::new().unwrap();
        let told = Arc::new(eventfd.as_fd().try_clone_to_owned().unwrap());
        function.raise(Some(Arc::clone(&told)));
        function.raise(Some(told));
        let mut count = [0; 8];
        rustix::io::read(&eventfd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2);
        // Nothing was written into the pipe: its end comes first.
        drop(function);
        assert_eq!(rustix::io::read(&read, &mut count).unwrap(), 0);
    }
}
