//! The two protocols that a guest's port speaks, behind one face: bytes and descriptors in, events and messages out.
//!
//! Over vhost-user the VMM shows the guest a device and tells us of its rings; over vfio-user we are the whole PCI function
//! ([`transport::pci`]), and what the VMM does with its registers becomes the same events. What is left of the difference stands
//! here: doorbells that come as messages, and interrupts that are not an eventfd of the queue's own.

use super::notify::{Wake, accept_eventfd, signal};
use crate::config::resolved::FunctionConfig;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use thiserror::Error;
use transport::event::{Event, Outcome, Outgoing};
use transport::pci::{self, Description, NotifyKind};
use transport::vfio_user::{self, ClientFault, OfferFault};
use transport::vhost_user::{self, FrontendFault};
use virtqueue::{Endian, QueueSize};

/// virtio device id of a network device (virtio 1.3 §5.1.1).
const NETWORK: u16 = 1;
/// PCI class of an Ethernet controller.
const ETHERNET: u32 = 0x02_0000;
/// Entries of the administration queue; a command takes four.
const ADMIN_QUEUE_SIZE: u16 = 64;

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
    /// Signalled by workers whose queue calls by INTx.
    interrupt: Wake,
    /// Signalled by the client when the guest has handled INTx; an eventfd.
    resample: Option<Arc<OwnedFd>>,
    /// What the client gave for an interrupt and was signalled last: an eventfd.
    raised: Option<Arc<OwnedFd>>,
}

impl Protocol {
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

    /// What else is to be slept on: then [`Self::attend`] is to be called.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let function = match self {
            Self::VhostUser(_) => None,
            Self::VfioUser(function) => Some(function),
        };
        function.into_iter().flat_map(|function| {
            let resample = function.resample.as_ref().map(|fd| fd.as_fd());
            std::iter::once(function.interrupt.as_fd()).chain(resample)
        })
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
    pub(super) fn new(
        config: &FunctionConfig,
        features: u64,
        queues: u16,
        device_config: &[u8],
    ) -> Result<Self, FunctionFault> {
        let is_modern = config.interface != pci::Interface::Legacy;
        // A ring's addresses are the client's: those that its IOMMU has, if there is one.
        let platform = if is_modern { pci::features::F_ACCESS_PLATFORM } else { 0 };
        let admin_queue = QueueSize::try_from(ADMIN_QUEUE_SIZE).ok().filter(|_| config.admin_queue);
        let kick_count = queues + u16::from(admin_queue.is_some());
        // Nobody reads the data of doorbells that are mapped, and the kernel cannot listen at a port for some of the values only.
        let data = is_modern && !config.mapped && config.notify == [NotifyKind::Mmio];
        let description = Description {
            device_type: NETWORK,
            class: ETHERNET,
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
        };
        Ok(Self {
            session: vfio_user::Session::new(offer)?,
            kicks: own,
            interrupt,
            resample: None,
            raised: None,
        })
    }

    /// The next event that concerns the device.
    fn next_event(&mut self) -> Result<Option<Event>, ClientFault> {
        while let Some(event) = self.session.next_event()? {
            match event {
                Event::QueueKicked { index } => {
                    self.kicks.get(usize::from(index)).into_iter().for_each(|kick| signal(kick.as_fd()));
                }
                Event::Interrupt(eventfd) => self.raise(Some(eventfd)),
                Event::Resample(fd) => self.resample = fd.filter(|fd| accept_eventfd(fd)),
                other => return Ok(Some(other)),
            }
            self.session.finish(Outcome::Done);
        }
        Ok(None)
    }

    /// A worker has used buffers of a queue that calls by INTx, or the guest has handled INTx.
    fn attend(&mut self) {
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

    /// The driver reads this configuration from now on; it is not told.
    pub(super) fn set_config(&mut self, config: &[u8]) {
        self.session.set_config(config);
    }

    /// A queue was retired: the driver is to reset the device (virtio 1.3 §2.1.2).
    pub(super) fn needs_reset(&mut self) {
        let interrupt = self.session.needs_reset();
        self.raise(interrupt);
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
        let mut function = Function::new(&config, 0, 3, &[0; 24]).unwrap();
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
