//! Feature bits that the transport itself reads, with the specification's names.

use bitflags::bitflags;
use virtqueue::{Endian, RingFeatures};

/// `VHOST_F_LOG_ALL`: log every write to guest memory. Offered together with [`ProtocolFeatures::LOG_SHMFD`].
pub const F_LOG_ALL: u64 = 1 << 26;
/// `VIRTIO_F_INDIRECT_DESC` (virtio 1.3 §6).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// `VHOST_USER_F_PROTOCOL_FEATURES`: always offered.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`.
pub const F_RING_PACKED: u64 = 1 << 34;
/// `VIRTIO_F_IN_ORDER`.
pub const F_IN_ORDER: u64 = 1 << 35;

/// The bits that belong to vhost-user and not to the virtio device.
pub const TRANSPORT_BITS: u64 = F_LOG_ALL | F_PROTOCOL_FEATURES;

bitflags! {
    /// vhost-user protocol features that this crate implements. Front-ends acknowledge some bits without
    /// looking, so no other bit is ever offered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ProtocolFeatures: u64 {
        /// `GET_QUEUE_NUM` is understood.
        const MQ = 1 << 0;
        /// The dirty log arrives as a file descriptor with `SET_LOG_BASE`.
        const LOG_SHMFD = 1 << 1;
        /// `SEND_RARP`: the back-end announces the guest after a migration.
        const RARP = 1 << 2;
        /// Any request may ask for an acknowledgement.
        const REPLY_ACK = 1 << 3;
        /// `NET_SET_MTU`.
        const MTU = 1 << 4;
        /// A second channel for requests of the back-end.
        const BACKEND_REQ = 1 << 5;
        /// `GET_CONFIG`, `SET_CONFIG`, `CONFIG_CHANGE`. For devices whose configuration the front-end reads
        /// from the back-end: QEMU warns if virtio-net offers it.
        const CONFIG = 1 << 9;
        /// `GET_INFLIGHT_FD`, `SET_INFLIGHT_FD`: what is in flight is recorded in memory that outlives this back-end. For
        /// devices that complete out of order.
        const INFLIGHT_SHMFD = 1 << 12;
        /// `RESET_DEVICE`.
        const RESET_DEVICE = 1 << 13;
        /// Regions come and go one by one, up to [`MEM_SLOTS_MAX`](super::MEM_SLOTS_MAX).
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// `SET_STATUS`, `GET_STATUS`.
        const STATUS = 1 << 16;
        /// A ring may be stopped with requests in flight that are recorded and not completed: see
        /// [`Event::QueueStop`](super::Event::QueueStop). Offered together with `INFLIGHT_SHMFD` only.
        const GET_VRING_BASE_INFLIGHT = 1 << 20;
    }
}

/// How the rings work, from the acknowledged feature bits. Without `VERSION_1` ring words have the byte
/// order of this machine: `CROSS_ENDIAN` is never offered.
pub fn ring_features(acknowledged: u64) -> RingFeatures {
    let has = |bit| acknowledged & bit != 0;
    let legacy_big = !has(F_VERSION_1) && cfg!(target_endian = "big");
    RingFeatures {
        packed: has(F_RING_PACKED),
        indirect: has(F_INDIRECT_DESC),
        event_idx: has(F_EVENT_IDX),
        in_order: has(F_IN_ORDER),
        endian: if legacy_big { Endian::Big } else { Endian::Little },
    }
}
