//! The status byte of a request.

use crate::storage::IoFault;

/// What a request's last writable byte says (virtio 1.3 §5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`: done.
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`: the disk failed, or the driver broke a rule.
    IoErr = 1,
    /// `VIRTIO_BLK_S_UNSUPP`: the device does not do that.
    Unsupp = 2,
    /// `VIRTIO_BLK_S_ZONE_INVALID_CMD`: the zone is not in a state for that.
    ZoneInvalidCmd = 3,
    /// `VIRTIO_BLK_S_ZONE_UNALIGNED_WP`: the write does not begin at the write pointer, or does not end at a multiple of the granularity.
    ZoneUnalignedWp = 4,
    /// `VIRTIO_BLK_S_ZONE_OPEN_RESOURCE`: too many zones would be open.
    ZoneOpenResource = 5,
    /// `VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE`: too many zones would be active.
    ZoneActiveResource = 6,
}

impl Status {
    /// What a guest is told of a disk's error. The protocol knows one error; only what a disk cannot do at all has a name of its own.
    pub const fn of(fault: IoFault) -> Self {
        match fault {
            IoFault::Unsupported => Self::Unsupp,
            IoFault::Medium
            | IoFault::NoSpace
            | IoFault::ReadOnly
            | IoFault::OutOfRange
            | IoFault::Aborted => Self::IoErr,
        }
    }
}
