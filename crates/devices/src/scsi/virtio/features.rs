//! Feature bits by name.

use bitflags::bitflags;
use thiserror::Error;

bitflags! {
    /// The feature bits a SCSI host device meets (virtio 1.3 §5.6.3 and §6; bits 26 and 30 are vhost's own).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Features: u64 {
        /// A request may have data for both directions.
        const INOUT = 1 << 0;
        /// Units that come and go are reported.
        const HOTPLUG = 1 << 1;
        /// Changes of a unit's parameters are reported.
        const CHANGE = 1 << 2;
        /// Requests carry protection information beside their data.
        const T10_PI = 1 << 3;
        /// Legacy: the device calls when it has run out of buffers.
        const NOTIFY_ON_EMPTY = 1 << 24;
        /// vhost: writes are to be logged.
        const LOG_ALL = 1 << 26;
        /// Legacy: a request may be laid out over descriptors in any way.
        const ANY_LAYOUT = 1 << 27;
        /// Indirect descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Event indexes instead of notification flags.
        const EVENT_IDX = 1 << 29;
        /// vhost-user: there are protocol features to negotiate.
        const PROTOCOL_FEATURES = 1 << 30;
        /// A device after virtio 1.0, not a legacy one.
        const VERSION_1 = 1 << 32;
        /// Addresses pass an IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed rings.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order they were made available.
        const IN_ORDER = 1 << 35;
        /// Real memory barriers are needed.
        const ORDER_PLATFORM = 1 << 36;
        /// SR-IOV.
        const SR_IOV = 1 << 37;
        /// Kicks carry data.
        const NOTIFICATION_DATA = 1 << 38;
        /// One queue can be reset by itself.
        const RING_RESET = 1 << 40;
    }
}

/// Every SCSI feature that is implemented here: what a device may offer, before the transport adds the ring features.
pub const IMPLEMENTED: Features =
    Features::INOUT.union(Features::HOTPLUG).union(Features::CHANGE).union(Features::T10_PI);

/// A driver acknowledged bits that were never offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("acknowledged features that were not offered: {0:#x}")]
pub struct NotOffered(pub u64);

/// What a device offers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Offered(Features);

impl Offered {
    /// Offers exactly `features`.
    pub const fn new(features: Features) -> Self {
        Self(features)
    }

    /// The bits.
    pub const fn features(self) -> Features {
        self.0
    }

    /// The names of the bits that are set, as the specification writes them without their prefix.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.0.iter_names().map(|(name, _)| name)
    }
}

/// What a driver acknowledged: a subset of an offer. No SCSI feature depends on another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Acknowledged(Features);

impl Acknowledged {
    /// Accepts `bits` as the driver's choice out of `offered`.
    ///
    /// # Errors
    /// Names the bits that were not offered.
    pub fn new(offered: Offered, bits: u64) -> Result<Self, NotOffered> {
        match bits & !offered.0.bits() {
            0 => Ok(Self(Features::from_bits_retain(bits))),
            foreign => Err(NotOffered(foreign)),
        }
    }

    /// The bits.
    pub const fn features(self) -> Features {
        self.0
    }

    /// Whether all of `features` were acknowledged.
    pub const fn has(self, features: Features) -> bool {
        self.0.contains(features)
    }

    /// The names of the bits that are set, as the specification writes them without their prefix.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.0.iter_names().map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_offered_can_be_acknowledged() {
        let offered = Offered::new(IMPLEMENTED | Features::VERSION_1);
        assert_eq!(offered.features().bits(), 0x1_0000_000F);
        let some = Acknowledged::new(offered, 0x1_0000_0006).unwrap();
        assert_eq!(some.names().collect::<Vec<_>>(), ["HOTPLUG", "CHANGE", "VERSION_1"]);
        assert!(some.has(Features::HOTPLUG) && !some.has(Features::INOUT));
        assert_eq!(Acknowledged::new(offered, 0x11), Err(NotOffered(0x10)));
        assert_eq!(offered.names().count(), 5);
    }
}
