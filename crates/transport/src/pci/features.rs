//! Feature bits that the transport itself reads or offers, with the specification's names (virtio 1.4 §6).

use virtqueue::{Endian, RingFeatures};

/// `VIRTIO_F_NOTIFY_ON_EMPTY`: legacy interface only.
pub const F_NOTIFY_ON_EMPTY: u128 = 1 << 24;
/// `VIRTIO_F_ANY_LAYOUT`: legacy interface only.
pub const F_ANY_LAYOUT: u128 = 1 << 27;
/// `VIRTIO_F_INDIRECT_DESC`.
pub const F_INDIRECT_DESC: u128 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const F_EVENT_IDX: u128 = 1 << 29;
/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u128 = 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`.
pub const F_ACCESS_PLATFORM: u128 = 1 << 33;
/// `VIRTIO_F_RING_PACKED`.
pub const F_RING_PACKED: u128 = 1 << 34;
/// `VIRTIO_F_IN_ORDER`.
pub const F_IN_ORDER: u128 = 1 << 35;
/// `VIRTIO_F_SR_IOV`.
pub const F_SR_IOV: u128 = 1 << 37;
/// `VIRTIO_F_NOTIFICATION_DATA`.
pub const F_NOTIFICATION_DATA: u128 = 1 << 38;
/// `VIRTIO_F_NOTIF_CONFIG_DATA`.
pub const F_NOTIF_CONFIG_DATA: u128 = 1 << 39;
/// `VIRTIO_F_RING_RESET`.
pub const F_RING_RESET: u128 = 1 << 40;
/// `VIRTIO_F_ADMIN_VQ`.
pub const F_ADMIN_VQ: u128 = 1 << 41;
/// `VIRTIO_F_SUSPEND`.
pub const F_SUSPEND: u128 = 1 << 43;

/// The bits that belong to this transport: [`Function`](super::Function) offers them by itself, where they
/// fit.
pub const TRANSPORT_BITS: u128 = F_VERSION_1
    | F_SR_IOV
    | F_NOTIFICATION_DATA
    | F_NOTIF_CONFIG_DATA
    | F_RING_RESET
    | F_ADMIN_VQ
    | F_SUSPEND;

/// Bits that only the legacy interface shows.
pub const LEGACY_BITS: u128 = F_NOTIFY_ON_EMPTY | F_ANY_LAYOUT;

/// How the rings work, from the acknowledged bits. `endian` is the guest's; it counts without `VERSION_1`
/// only.
pub fn ring_features(acknowledged: u128, endian: Endian) -> RingFeatures {
    let has = |bit| acknowledged & bit != 0;
    RingFeatures {
        packed: has(F_RING_PACKED),
        indirect: has(F_INDIRECT_DESC),
        event_idx: has(F_EVENT_IDX),
        in_order: has(F_IN_ORDER),
        endian: if has(F_VERSION_1) { Endian::Little } else { endian },
    }
}
