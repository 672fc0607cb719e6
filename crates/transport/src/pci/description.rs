//! What a function is made from.

use thiserror::Error;
use virtqueue::{Endian, QueueSize};

/// Queues of a device at most, the administration queue included.
pub const QUEUES_MAX: u16 = 1024;

/// The register interface that a driver finds (virtio 1.4 §4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Capabilities and memory; virtio 1.0 and later.
    Modern,
    /// Both, on one state: what the driver touches first counts until the next reset.
    Transitional,
    /// The port I/O header of virtio 0.9 only.
    Legacy,
}

/// A kind of doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyKind {
    /// One port for all queues.
    Pio,
    /// A 32-bit word for each queue.
    Mmio,
}

/// A region of shared memory (virtio 1.4 §2.10). Its contents are not the function's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// `shmid`, unique in the device.
    pub id: u8,
    /// Bytes.
    pub len: u64,
}

/// A vendor's own capability (`VIRTIO_PCI_CAP_VENDOR_CFG`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// PCI vendor id, not 0x1af4.
    pub id: u16,
    /// What stands behind the id.
    pub data: Vec<u8>,
}

/// An SR-IOV capability: registers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrIov {
    /// Virtual functions at most.
    pub total_vfs: u16,
}

/// What a function is made from.
#[derive(Clone, Debug)]
pub struct Description {
    /// Virtio device id: 1 net, 2 block, ... (virtio 1.4 §5).
    pub device_type: u16,
    /// PCI class code, 24 bits: 0x020000 for a network device.
    pub class: u32,
    /// Which registers there are.
    pub interface: Interface,
    /// Doorbells of the modern interface, the preferred one first.
    pub notify: Vec<NotifyKind>,
    /// Whether the client may map the page of the [`NotifyKind::Mmio`] doorbells. A client that does so
    /// tells us of none, so the rings must be polled.
    pub mapped: bool,
    /// Whether to offer `NOTIFICATION_DATA` and `NOTIF_CONFIG_DATA`.
    pub notification_data: bool,
    /// Whether there is MSI-X, with a vector for each queue and one for the configuration. Without it there
    /// is INTx only.
    pub msix: bool,
    /// Device and ring feature bits. The function adds the transport's own.
    pub features: u128,
    /// Entries of each queue at most, a power of two.
    pub queue_size_max: Vec<QueueSize>,
    /// Size of the administration queue, if there is one.
    pub admin_queue: Option<QueueSize>,
    /// Device configuration space, shown as given by both interfaces.
    pub config: Vec<u8>,
    /// Byte order of a legacy guest's rings.
    pub endian: Endian,
    /// Shared memory regions.
    pub shared_memory: Vec<SharedMemory>,
    /// A vendor's own capability.
    pub vendor: Option<Vendor>,
    /// An SR-IOV capability.
    pub sr_iov: Option<SrIov>,
}

/// Why there can be no such function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum DescriptionFault {
    #[error("{count} queues: accepted are 1 to {QUEUES_MAX}, the administration queue included")]
    Queues { count: usize },
}

impl Description {
    pub(super) fn check(&self) -> Result<(), DescriptionFault> {
        let count = self.queue_size_max.len() + usize::from(self.admin_queue.is_some());
        if self.queue_size_max.is_empty() || count > usize::from(QUEUES_MAX) {
            return Err(DescriptionFault::Queues { count });
        }
        Ok(())
    }
}
