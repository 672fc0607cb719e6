//! What passes between a function, the client that touches its registers, and the host.

use std::ops::Range;
use virtqueue::QueueSetup;

/// Where a register lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// PCI configuration space, [`Function::config_len`](super::Function::config_len) bytes.
    Config,
    /// A base address register's window, 0 to 5.
    Bar(u8),
}

/// A window of registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Bytes; a power of two.
    pub len: u64,
    /// How the guest reaches it.
    pub kind: BarKind,
    /// The page of doorbells that the client may map: from its start a 32-bit word for each queue, which nobody
    /// reads but the host.
    pub mappable: Option<Range<u64>>,
}

/// How the guest reaches a [`Bar`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Port I/O.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes the next base address register as well.
    Memory64,
}

/// A place where a driver rings for a queue by writing, in one [`Bar`]; for clients that can have the kernel listen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Which queue.
    pub queue: u16,
    /// Where it is written.
    pub offset: u64,
    /// Bytes of the write; 0: any number.
    pub len: u64,
    /// What is written for this queue, where others have the same place.
    pub datamatch: Option<u64>,
}

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The function's interrupt pin: level-triggered, asserted while
    /// [`Function::intx_pending`](super::Function::intx_pending).
    Intx,
    /// A vector of the MSI-X table.
    Msix(u16),
}

/// Why the driver is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Buffers of this queue were used.
    Queue(u16),
    /// The device's configuration or status changed.
    Config,
}

/// Something that the device world must do, in the order received. Each is answered by one
/// [`Function::finish`](super::Function::finish); what `finish(false)` means stands with each.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The features that the driver uses: a subset of what was offered. `finish(false)`: not a legal set;
    /// a modern driver finds `FEATURES_OK` unset and may try another, to a legacy driver the device stays
    /// unusable until reset.
    Features {
        /// Device, ring and transport bits.
        acknowledged: u128,
    },
    /// A ring begins to run, with a new [`RingState`](virtqueue::RingState). `finish(false)`: it cannot (its
    /// addresses are no memory); the device then needs a reset.
    QueueStart(Box<QueueStart>),
    /// A ring ends. Finish once nothing touches it any more.
    QueueStop {
        /// Which queue.
        index: u16,
    },
    /// The driver is ready (`DRIVER_OK`): serve the queues that run, and those that start later. A legacy
    /// queue may be used before.
    DriverOk,
    /// Return the device to its initial state. All queues are stopped already. Finish when it is done: until
    /// then the driver sees that the reset goes on.
    Reset,
    /// The driver wrote the device's configuration. If the device takes it, the host passes the new bytes to
    /// [`Function::set_config`](super::Function::set_config).
    ConfigWrite {
        /// First byte written.
        offset: u32,
        /// What was written: 1, 2 or 4 bytes inside the configuration.
        bytes: Vec<u8>,
    },
    /// The driver rang the doorbell of a queue that runs.
    Notify {
        /// Which queue.
        index: u16,
        /// With `NOTIFICATION_DATA`: where the driver will add its next buffer, as `vqn`'s upper half
        /// (`next_off` in bits 0-14 and `next_wrap` in bit 15 for a packed ring, the available index for a
        /// split one).
        position: Option<u16>,
    },
    /// Vectors, MSI-X or INTx were switched: ask [`Function::call_line`](super::Function::call_line) again
    /// for every queue that runs.
    CallsChanged,
    /// An administration command stopped or resumed the device (virtio 1.4 §2.13.4.4). A device that is
    /// stopped touches no ring but the administration queue and calls the driver for nothing else; its rings
    /// keep where they stand. Finish once what was popped is completed, and only then complete the command.
    DeviceMode {
        /// Stopped, or resumed.
        stopped: bool,
    },
    /// The function itself has something to say: call [`Function::interrupt`](super::Function::interrupt)
    /// with this cause and signal the line it gives.
    Interrupt(Cause),
}

/// A ring that begins to run.
#[derive(Clone, Debug)]
pub struct QueueStart {
    /// Which queue; the administration queue comes behind all others.
    pub index: u16,
    /// Size, addresses as the driver wrote them (not yet looked up in memory), ring features.
    pub setup: QueueSetup,
    /// Whether the driver uses the legacy interface: device structures have its layout and the guest's
    /// byte order, and the ring may be used before `DRIVER_OK`.
    pub legacy: bool,
}
