//! What a session of either transport tells the host, and what the host tells back.

use crate::vfio_user::RelayFault;
use guestmem::GuestMemory;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use thiserror::Error;
use virtqueue::{QueueSetup, RingState, SetupFault};

/// Something that the device world must do, in the order received. Each is answered by one `finish` of its session
/// ([vhost-user](crate::vhost_user::Session::finish), [vfio-user](crate::vfio_user::Session::finish)). A *running* ring is
/// one between `QueueStart` and `QueueStop`, also while it is suspended for lack of memory.
///
/// File descriptors are whatever the front-end or client sent: the host makes a kick, call or err fd and an interrupt's
/// eventfd non-blocking before it reads or writes it, and an fd that cannot be used is [`Outcome::Failed`].
#[derive(Debug)]
pub enum Event {
    /// The features that the driver uses, without the transport's own bits. Over vhost-user (`SET_FEATURES`) running rings
    /// only ever see their logging change; over vfio-user (the driver's `FEATURES_OK`) none runs, and
    /// [`Outcome::Failed`] refuses `FEATURES_OK`.
    Features {
        /// Device and ring bits; a subset of the offer.
        acknowledged: u64,
        /// Running rings whose logging changed.
        restart: Vec<QueueRestart>,
    },
    /// The guest's memory is this from now on. When this event is finished nothing may touch the earlier
    /// memory.
    Memory {
        /// The new memory; it has no regions after the last one was removed.
        memory: Arc<GuestMemory>,
        /// Running and suspended rings on the new memory.
        restart: Vec<QueueRestart>,
    },
    /// Running rings go on with a new setup on the same memory: another dirty log or other addresses.
    QueuesRestart(Vec<QueueRestart>),
    /// A ring begins to run.
    QueueStart(Box<QueueStart>),
    /// A ring ends; its fds are to be closed. Finish with [`Outcome::Stopped`] once nothing pops from it
    /// and everything popped is completed.
    QueueStop {
        /// Which ring.
        index: u16,
        /// Always, but where the front-end takes requests in flight over to another back-end
        /// (`GET_VRING_BASE_INFLIGHT`): with false they may be left in the record that the ring's setup names, instead of
        /// being completed. Nothing may go on with them then: what they do on a disk is cancelled or has ended, and neither
        /// the guest's memory nor the record is touched any more. They are popped again by the next queue on this record.
        drain: bool,
    },
    /// A running ring is to be served, or only kept.
    QueueEnable {
        /// Which ring.
        index: u16,
        /// Whether chains are to be served.
        enabled: bool,
    },
    /// A running ring has another kick fd; `None`: the ring is to be polled.
    QueueKick {
        /// Which ring.
        index: u16,
        /// The new fd.
        kick: Option<OwnedFd>,
    },
    /// A running ring has another call fd; `None`: the driver polls.
    QueueCall {
        /// Which ring.
        index: u16,
        /// The new fd.
        call: Option<OwnedFd>,
    },
    /// A running ring has another fd for reporting its failure.
    QueueErr {
        /// Which ring.
        index: u16,
        /// The new fd.
        err: Option<OwnedFd>,
    },
    /// The socket on which messages for [`Channel::Backend`] are sent. Replaces an earlier one.
    BackendChannel(OwnedFd),
    /// The driver's device status (virtio 1.3 §2.1), never 0: that is [`Event::ResetDevice`]. Most front-ends
    /// never reach `DRIVER_OK`: inform only.
    Status(u8),
    /// The MTU that the front-end advertises to the guest, in bytes.
    Mtu(u16),
    /// Announce the guest's MAC address on its network (after a migration).
    AnnounceRarp([u8; 6]),
    /// A queue would start, but its setup cannot be used. The session goes on; nothing to carry out: for logs and facts.
    QueueRefused {
        /// Which ring.
        index: u16,
        /// What is wrong with it.
        fault: QueueFault,
    },
    /// A relayed ring is of no use any more; its driver was told that the device needs a reset. Nothing to carry out: for logs
    /// and facts.
    QueueFailed {
        /// Which ring.
        index: u16,
        /// What was wrong.
        fault: RelayFault,
    },
    /// The driver's doorbell came as a message instead of through the ring's kick fd: as if that were readable. Of a relayed ring:
    /// chains are there now.
    QueueKicked {
        /// Which ring.
        index: u16,
    },
    /// An interrupt of the device itself is due: write 1 to this eventfd, if it is one.
    Interrupt(Arc<OwnedFd>),
    /// The client wants INTx looked at when this eventfd is signalled (`None`: no longer): the host polls it, clears it and
    /// calls [`resampled`](crate::vfio_user::Session::resampled).
    Resample(Option<Arc<OwnedFd>>),
    /// Drop all queues and return the device to its initial state (`RESET_DEVICE`, or `SET_STATUS` with 0).
    /// Every ring counts as stopped; often all of them are already.
    ResetDevice,
    /// The driver wrote its configuration space. If the device takes it, the host passes the new bytes to
    /// its session's `set_config`.
    ConfigWrite {
        /// First byte written.
        offset: u32,
        /// What was written; over vhost-user `offset + bytes.len()` is at most
        /// [`CONFIG_SIZE_MAX`](crate::vhost_user::CONFIG_SIZE_MAX).
        bytes: Vec<u8>,
        /// Written by a migration and not by the driver: read-only fields count too.
        migration: bool,
    },
}

/// A ring that begins to run.
#[derive(Debug)]
pub struct QueueStart {
    /// Which ring.
    pub index: u16,
    /// Size, translated and checked addresses, ring features, dirty log.
    pub setup: QueueSetup,
    /// Where to go on in the ring (`SET_VRING_BASE`).
    pub state: RingState,
    /// Readable when the driver added chains; `None`: the ring is to be polled.
    pub kick: Option<OwnedFd>,
    /// To be written when chains were used; `None`: the driver polls.
    pub call: Option<OwnedFd>,
    /// To be written when the ring fails.
    pub err: Option<OwnedFd>,
    /// Whether chains are to be served already.
    pub enabled: bool,
    /// The ring is relayed: its memory is this, not the guest's, and stays when that changes. The host makes kick and call
    /// itself, and says when the call was written ([`queue_called`](crate::vfio_user::Session::queue_called)).
    pub memory: Option<Arc<GuestMemory>>,
}

/// A ring that goes on with a new setup: the host takes the queue's state, drops the queue, and makes it
/// anew from `setup` and that state.
#[derive(Debug)]
pub struct QueueRestart {
    /// Which ring.
    pub index: u16,
    /// The new setup. `None`: the ring's memory is gone; keep its state and serve nothing until a later
    /// restart brings a setup, or the ring stops.
    pub setup: Option<QueueSetup>,
}

/// Why a queue does not start that its driver enabled. The session goes on; a reset of the device gives the driver another
/// try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueueFault {
    /// Size, addresses or alignment.
    #[error(transparent)]
    Setup(#[from] SetupFault),
    /// The ring lies in memory that came without a file descriptor, and messages of the client's hold too little.
    #[error(
        "in memory that is reached by messages only, with a max_data_xfer_size of {most}; accepted are {least} and more, or memory shared by a file descriptor"
    )]
    Transfers {
        /// Bytes of the client's messages.
        most: usize,
        /// Bytes that are needed.
        least: usize,
    },
    /// No memory for a relayed ring.
    #[error("no memory for its copy")]
    NoMemory,
    /// No descriptor could be made for the queue's notifications.
    #[error("no file descriptor for its notifications: {0}")]
    Descriptor(std::io::ErrorKind),
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out.
    Done,
    /// Not possible: the front-end learns it if it asked for an acknowledgement. A ring that failed to
    /// start counts as stopped.
    Failed,
    /// The answer to [`Event::QueueStop`]: where the ring stood.
    Stopped(RingState),
}

/// A message to send, whole and in order.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// On which socket.
    pub channel: Channel,
    /// The message, header included.
    pub bytes: Vec<u8>,
    /// File descriptors that go with its first byte; only replies have some.
    pub fds: Vec<Arc<OwnedFd>>,
}

/// The sockets that messages go out on. vfio-user has the first only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The connection itself: replies.
    Main,
    /// The socket of [`Event::BackendChannel`]: requests of ours.
    Backend,
}
