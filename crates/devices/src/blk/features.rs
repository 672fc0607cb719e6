//! Feature bits by name, what a device offers, and what a driver acknowledged.

use super::config::QueueLimits;
use crate::storage::Shape;
use bitflags::bitflags;
use thiserror::Error;

bitflags! {
    /// The feature bits a block device meets (virtio 1.3 §5.2.3 and §6; bits 26 and 30 are vhost's own).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Features: u64 {
        /// Legacy: requests can be barriers.
        const BARRIER = 1 << 0;
        /// The configuration space holds the longest segment.
        const SIZE_MAX = 1 << 1;
        /// The configuration space holds the number of segments of a request.
        const SEG_MAX = 1 << 2;
        /// The configuration space holds a geometry.
        const GEOMETRY = 1 << 4;
        /// Nothing can be written.
        const RO = 1 << 5;
        /// The configuration space holds the size of a logical block.
        const BLK_SIZE = 1 << 6;
        /// Legacy: SCSI commands.
        const SCSI = 1 << 7;
        /// There is a cache that can be flushed.
        const FLUSH = 1 << 9;
        /// The configuration space holds the best lengths and alignment.
        const TOPOLOGY = 1 << 10;
        /// The driver can change the mode of the write cache.
        const CONFIG_WCE = 1 << 11;
        /// Several queues.
        const MQ = 1 << 12;
        /// Discard requests.
        const DISCARD = 1 << 13;
        /// Write-zeroes requests.
        const WRITE_ZEROES = 1 << 14;
        /// The device tells how worn its storage is.
        const LIFETIME = 1 << 15;
        /// Secure-erase requests.
        const SECURE_ERASE = 1 << 16;
        /// The disk consists of zones.
        const ZONED = 1 << 17;
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

/// A feature and the one that it needs: the legacy interface knows no zones (virtio 1.3 §5.2.5.2).
const NEEDS: [(Features, Features); 1] = [(Features::ZONED, Features::VERSION_1)];

/// Why a driver's choice of features is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FeatureFault {
    /// Bits that were never offered.
    #[error("acknowledged features that were not offered: {0:#x}")]
    NotOffered(u64),
    /// A feature without the one it depends on.
    #[error("feature {feature:?} needs {needs:?}", feature = .feature.0, needs = .needs.0)]
    Missing {
        /// The feature acknowledged.
        feature: Features,
        /// What has to be acknowledged too.
        needs: Features,
    },
    /// A disk of zones, and the driver does not know them (virtio 1.3 §5.2.5.2).
    #[error(
        "the disk consists of zones that have to be written sequentially: feature ZONED has to be acknowledged"
    )]
    ZonesUnknown,
}

/// What a device offers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Offered(Features);

impl Offered {
    /// Offers `features`, less what may not be offered together (virtio 1.3 §5.2.5.1 and §5.2.5.2): CONFIG_WCE without FLUSH, and
    /// beside ZONED the two operations that could write anywhere in a zone, DISCARD and WRITE_ZEROES.
    pub const fn new(features: Features) -> Self {
        let mut features = features;
        if !features.contains(Features::FLUSH) {
            features = features.difference(Features::CONFIG_WCE);
        }
        if features.contains(Features::ZONED) {
            features = features.difference(Features::DISCARD.union(Features::WRITE_ZEROES));
        }
        Self(features)
    }

    /// Every block feature that fits the disk: what a device may offer before the transport adds the ring features. A disk that may
    /// not be written takes no discards and the like.
    pub fn of(shape: &Shape, queues: &QueueLimits, has_lifetime: bool, is_zoned: bool) -> Self {
        let writable = !shape.read_only;
        let rules = [
            (true, Features::GEOMETRY | Features::BLK_SIZE | Features::TOPOLOGY),
            (true, Features::FLUSH | Features::CONFIG_WCE),
            (queues.size_max != 0, Features::SIZE_MAX),
            (queues.seg_max != 0, Features::SEG_MAX),
            (queues.queues > 1, Features::MQ),
            (shape.read_only, Features::RO),
            (writable && shape.discard.is_some(), Features::DISCARD),
            (writable && shape.zero.is_some(), Features::WRITE_ZEROES),
            (writable && shape.secure_erase.is_some(), Features::SECURE_ERASE),
            (has_lifetime, Features::LIFETIME),
            (is_zoned, Features::ZONED),
        ];
        let fitting = rules.iter().filter(|(fits, _)| *fits);
        Self::new(fitting.fold(Features::empty(), |features, (_, more)| features | *more))
    }

    /// The bits.
    pub const fn features(self) -> Features {
        self.0
    }

    /// Whether all of `features` are offered.
    pub const fn has(self, features: Features) -> bool {
        self.0.contains(features)
    }

    /// The names of the bits that are set, as the specification writes them without their prefix.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        names(self.0)
    }
}

/// What a driver acknowledged: a subset of an offer that obeys the dependency rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Acknowledged(Features);

impl Acknowledged {
    /// Accepts `bits` as the driver's choice out of `offered`.
    ///
    /// # Errors
    /// Bits that were not offered; a feature without what it needs; no ZONED for a disk of zones.
    pub fn new(offered: Offered, bits: u64) -> Result<Self, FeatureFault> {
        let foreign = bits & !offered.0.bits();
        if foreign != 0 {
            return Err(FeatureFault::NotOffered(foreign));
        }
        let features = Features::from_bits_retain(bits);
        if offered.has(Features::ZONED) && !features.contains(Features::ZONED) {
            return Err(FeatureFault::ZonesUnknown);
        }
        match NEEDS.iter().find(|(have, needs)| features.contains(*have) && !features.contains(*needs)) {
            Some(&(feature, needs)) => Err(FeatureFault::Missing { feature, needs }),
            None => Ok(Self(features)),
        }
    }

    /// The bits.
    pub const fn features(self) -> Features {
        self.0
    }

    /// Whether all of `features` were acknowledged.
    #[inline]
    pub const fn has(self, features: Features) -> bool {
        self.0.contains(features)
    }

    /// The names of the bits that are set, as the specification writes them without their prefix.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        names(self.0)
    }
}

fn names(features: Features) -> impl Iterator<Item = &'static str> {
    Features::all().iter_names().filter(move |(_, bit)| features.contains(*bit)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Limits;

    const ONE: QueueLimits = QueueLimits { queues: 1, seg_max: 0, size_max: 0 };

    #[test]
    fn bits_stand_where_the_specification_puts_them() {
        let at = |f: Features| f.bits().trailing_zeros();
        assert_eq!((at(Features::SIZE_MAX), at(Features::BLK_SIZE), at(Features::FLUSH)), (1, 6, 9));
        assert_eq!((at(Features::CONFIG_WCE), at(Features::DISCARD), at(Features::ZONED)), (11, 13, 17));
        assert_eq!((at(Features::LIFETIME), at(Features::SECURE_ERASE)), (15, 16));
    }

    #[test]
    fn a_plain_disk_offers_what_every_disk_can() {
        let offered = Offered::of(&Shape::plain(1 << 20), &ONE, false, false);
        let names: Vec<_> = offered.names().collect();
        assert_eq!(names, ["GEOMETRY", "BLK_SIZE", "FLUSH", "TOPOLOGY", "CONFIG_WCE"]);
    }

    #[test]
    fn each_ability_is_offered_by_itself() {
        let limits = Some(Limits { len_max: 512, extents_max: 1, alignment: 512 });
        let full = Shape { discard: limits, zero: limits, secure_erase: limits, ..Shape::plain(1 << 20) };
        let queues = QueueLimits { queues: 2, seg_max: 254, size_max: 1 << 20 };
        let more = Features::SIZE_MAX | Features::SEG_MAX | Features::MQ | Features::LIFETIME;
        let writes = Features::DISCARD | Features::WRITE_ZEROES | Features::SECURE_ERASE;
        let plain = Offered::of(&Shape::plain(1 << 20), &ONE, false, false).features();
        assert_eq!(Offered::of(&full, &queues, true, false).features(), plain | more | writes);
        let read_only = Shape { read_only: true, ..full };
        assert_eq!(Offered::of(&read_only, &queues, true, false).features(), plain | more | Features::RO);
        let zoned = Offered::of(&full, &queues, true, true).features();
        assert_eq!(zoned, plain | more | Features::SECURE_ERASE | Features::ZONED);
    }

    #[test]
    fn what_may_not_be_offered_together_is_not() {
        let offered = Offered::new(Features::CONFIG_WCE | Features::RO);
        assert_eq!(offered.features(), Features::RO);
        let all = Offered::new(Features::all());
        assert!(all.has(Features::CONFIG_WCE | Features::ZONED) && !all.has(Features::DISCARD));
    }

    #[test]
    fn only_what_was_offered_can_be_acknowledged() {
        let offered = Offered::new(Features::FLUSH | Features::RO);
        assert!(Acknowledged::new(offered, Features::RO.bits()).is_ok());
        let more = (Features::FLUSH | Features::MQ).bits();
        assert_eq!(Acknowledged::new(offered, more), Err(FeatureFault::NotOffered(1 << 12)));
        // A bit that has no name cannot slip through either.
        assert_eq!(Acknowledged::new(offered, 1 << 3), Err(FeatureFault::NotOffered(8)));
    }

    #[test]
    fn zones_are_for_drivers_that_know_them() {
        let offered = Offered::new(Features::ZONED | Features::VERSION_1 | Features::FLUSH);
        let acknowledge = |features: Features| Acknowledged::new(offered, features.bits());
        assert_eq!(acknowledge(Features::VERSION_1 | Features::FLUSH), Err(FeatureFault::ZonesUnknown));
        let missing = FeatureFault::Missing { feature: Features::ZONED, needs: Features::VERSION_1 };
        assert_eq!(acknowledge(Features::ZONED), Err(missing));
        assert!(acknowledge(Features::ZONED | Features::VERSION_1).is_ok());
    }
}
