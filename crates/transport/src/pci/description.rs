//! What a function is made from.

use super::features::{
    F_ADMIN_VQ, F_NOTIF_CONFIG_DATA, F_NOTIFICATION_DATA, F_RING_RESET, F_SR_IOV, F_VERSION_1, LEGACY_BITS,
    TRANSPORT_BITS,
};
use super::layout::{IO_LEN_MAX, LEGACY_HEADER_LEN, PAGE};
use thiserror::Error;
use virtqueue::{Endian, QueueSize};

/// Queues of a device at most, the administration queue included.
pub const QUEUES_MAX: u16 = 1024;
/// Bytes of device configuration at most, where there is no legacy interface.
pub const CONFIG_SIZE_MAX: usize = PAGE as usize;
/// Bytes of device configuration at most behind a legacy header.
pub const LEGACY_CONFIG_SIZE_MAX: usize = IO_LEN_MAX - LEGACY_HEADER_LEN;
/// Virtual functions at most: those of one bus.
pub const TOTAL_VFS_MAX: u16 = 255;

/// PCI vendor id of every virtio device (virtio 1.4 §4.1.2).
pub(super) const VIRTIO_VENDOR: u16 = 0x1af4;

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
    /// Bytes; a multiple of 4096.
    pub len: u64,
}

/// A vendor's own capability (`VIRTIO_PCI_CAP_VENDOR_CFG`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// PCI vendor id, not 0x1af4.
    pub id: u16,
    /// What stands behind the id; filled with zeros to a multiple of 4.
    pub data: Vec<u8>,
}

/// An SR-IOV capability: registers only, there are no virtual functions behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrIov {
    /// Virtual functions at most, 1 to [`TOTAL_VFS_MAX`].
    pub total_vfs: u16,
}

/// What a function is made from.
#[derive(Clone, Debug)]
pub struct Description {
    /// Virtio device id: 1 net, 2 block, ... (virtio 1.4 §5); at most 63.
    pub device_type: u16,
    /// PCI class code, 24 bits: 0x020000 for a network device.
    pub class: u32,
    /// Which registers there are.
    pub interface: Interface,
    /// Doorbells of the modern interface, each kind once, the preferred one first. Not used by
    /// [`Interface::Legacy`].
    pub notify: Vec<NotifyKind>,
    /// Whether the client may map the page of the [`NotifyKind::Mmio`] doorbells. A client that does so
    /// tells us of none, so the rings must be polled.
    pub mapped: bool,
    /// Whether to offer `NOTIFICATION_DATA` and `NOTIF_CONFIG_DATA`.
    pub notification_data: bool,
    /// Whether there is MSI-X, with a vector for each queue and one for the configuration. Without it there
    /// is INTx only.
    pub msix: bool,
    /// Device and ring feature bits. The function adds the transport's own
    /// ([`TRANSPORT_BITS`], which do not count here) and shows
    /// [`LEGACY_BITS`] to legacy drivers only.
    pub features: u128,
    /// Entries of each queue at most, a power of two.
    pub queue_size_max: Vec<QueueSize>,
    /// Size of the administration queue, if there is one.
    pub admin_queue: Option<QueueSize>,
    /// Device configuration space, at most [`CONFIG_SIZE_MAX`] bytes, with a legacy interface
    /// [`LEGACY_CONFIG_SIZE_MAX`]. Both interfaces show these bytes.
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
    #[error("device type {device_type}: accepted are 1 to 63")]
    DeviceType { device_type: u16 },
    #[error("device type {device_type}: a legacy interface exists for 1 to 5, 8 and 9")]
    NoTransitionalId { device_type: u16 },
    #[error("class {class:#x}: accepted are 24 bits")]
    Class { class: u32 },
    #[error("{count} queues: accepted are 1 to {QUEUES_MAX}, the administration queue included")]
    Queues { count: usize },
    #[error("queue {index} of {entries} entries: accepted are powers of two")]
    QueueSize { index: usize, entries: u16 },
    #[error("notify: accepted are `pio` and `mmio`, at least one and each once")]
    Notify,
    #[error("mapped: needs `mmio` in notify")]
    MappedWithoutMmio,
    #[error("{field}: needs the modern or the transitional interface")]
    NeedsModern { field: &'static str },
    #[error("device configuration of {size} bytes: accepted are at most {most}")]
    ConfigSize { size: usize, most: usize },
    #[error("shared memory {id} of {len} bytes: accepted are multiples of 4096 and each id once")]
    SharedMemory { id: u8, len: u64 },
    #[error("shared memory: its sum is not addressable")]
    SharedMemoryTotal,
    #[error("vendor {id:#x}: accepted is any other than {VIRTIO_VENDOR:#x}")]
    VendorId { id: u16 },
    #[error("{total_vfs} virtual functions: accepted are 1 to {TOTAL_VFS_MAX}")]
    TotalVfs { total_vfs: u16 },
    #[error(
        "base address registers: shared memory and a doorbell port do not both fit beside a legacy header"
    )]
    BarsFull,
    #[error("capabilities: {missing} bytes more than fit into configuration space")]
    CapabilitiesFull { missing: usize },
}

impl Description {
    /// Queues, the administration queue included.
    pub(super) fn queues(&self) -> u16 {
        self.queue_size_max.len() as u16 + u16::from(self.admin_queue.is_some())
    }

    /// Vectors of the MSI-X table.
    pub(super) fn vectors(&self) -> u16 {
        if self.msix { self.queues() + 1 } else { 0 }
    }

    /// What a modern driver is offered.
    pub(super) fn offered(&self) -> u128 {
        let when = |condition: bool, bits: u128| if condition { bits } else { 0 };
        self.features & !TRANSPORT_BITS & !LEGACY_BITS
            | F_VERSION_1
            | F_RING_RESET
            | when(self.notification_data, F_NOTIFICATION_DATA | F_NOTIF_CONFIG_DATA)
            | when(self.admin_queue.is_some(), F_ADMIN_VQ)
            | when(self.sr_iov.is_some(), F_SR_IOV)
    }

    /// What a legacy driver is offered.
    pub(super) fn legacy_offered(&self) -> u32 {
        self.features as u32
    }

    /// PCI device id (virtio 1.4 §4.1.2.1).
    pub(super) fn device_id(&self) -> Result<u16, DescriptionFault> {
        let device_type = self.device_type;
        if self.interface == Interface::Modern {
            return Ok(0x1040 + device_type);
        }
        Ok(match device_type {
            1 => 0x1000,
            2 => 0x1001,
            5 => 0x1002,
            3 => 0x1003,
            8 => 0x1004,
            4 => 0x1005,
            9 => 0x1009,
            _ => return Err(DescriptionFault::NoTransitionalId { device_type }),
        })
    }

    pub(super) fn check(&self) -> Result<(), DescriptionFault> {
        if !(1..=63).contains(&self.device_type) {
            return Err(DescriptionFault::DeviceType { device_type: self.device_type });
        }
        self.device_id()?;
        if self.class >> 24 != 0 {
            return Err(DescriptionFault::Class { class: self.class });
        }
        self.check_queues()?;
        let most = if self.interface == Interface::Modern { CONFIG_SIZE_MAX } else { LEGACY_CONFIG_SIZE_MAX };
        if self.config.len() > most {
            return Err(DescriptionFault::ConfigSize { size: self.config.len(), most });
        }
        if self.interface == Interface::Legacy { self.check_legacy() } else { self.check_modern() }
    }

    fn check_queues(&self) -> Result<(), DescriptionFault> {
        let count = self.queue_size_max.len() + usize::from(self.admin_queue.is_some());
        if self.queue_size_max.is_empty() || count > usize::from(QUEUES_MAX) {
            return Err(DescriptionFault::Queues { count });
        }
        for (index, size) in self.queue_size_max.iter().chain(&self.admin_queue).enumerate() {
            if !size.get().is_power_of_two() {
                return Err(DescriptionFault::QueueSize { index, entries: size.get() });
            }
        }
        Ok(())
    }

    /// Nothing that a legacy driver could not find.
    fn check_legacy(&self) -> Result<(), DescriptionFault> {
        let fields = [
            ("mapped", self.mapped),
            ("notification_data", self.notification_data),
            ("admin_queue", self.admin_queue.is_some()),
            ("shared_memory", !self.shared_memory.is_empty()),
            ("vendor", self.vendor.is_some()),
            ("sr_iov", self.sr_iov.is_some()),
        ];
        match fields.into_iter().find(|(_, present)| *present) {
            Some((field, _)) => Err(DescriptionFault::NeedsModern { field }),
            None => Ok(()),
        }
    }

    fn check_modern(&self) -> Result<(), DescriptionFault> {
        match self.notify[..] {
            []
            | [NotifyKind::Pio, NotifyKind::Pio]
            | [NotifyKind::Mmio, NotifyKind::Mmio]
            | [_, _, _, ..] => {
                return Err(DescriptionFault::Notify);
            }
            [_] | [_, _] => {}
        }
        if self.mapped && !self.notify.contains(&NotifyKind::Mmio) {
            return Err(DescriptionFault::MappedWithoutMmio);
        }
        for (index, &SharedMemory { id, len }) in self.shared_memory.iter().enumerate() {
            let twice = self.shared_memory[..index].iter().any(|other| other.id == id);
            if twice || len == 0 || len % PAGE != 0 {
                return Err(DescriptionFault::SharedMemory { id, len });
            }
        }
        if let Some(Vendor { id: VIRTIO_VENDOR, .. }) = self.vendor {
            return Err(DescriptionFault::VendorId { id: VIRTIO_VENDOR });
        }
        match self.sr_iov {
            Some(SrIov { total_vfs }) if !(1..=TOTAL_VFS_MAX).contains(&total_vfs) => {
                Err(DescriptionFault::TotalVfs { total_vfs })
            }
            _ => Ok(()),
        }
    }
}
