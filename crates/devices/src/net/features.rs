//! Feature bits by name, what a device offers, and what a driver acknowledged.

use super::offload::{Accepts, Offload};
use bitflags::bitflags;
use thiserror::Error;

bitflags! {
    /// The feature bits a network device meets (virtio 1.3 §5.1.3 and §6; bits 26 and 30 are vhost's own).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Features: u64 {
        /// The device finishes checksums of frames that the driver sends.
        const CSUM = 1 << 0;
        /// The driver takes frames whose checksum is not finished.
        const GUEST_CSUM = 1 << 1;
        /// The driver can turn its receive offloads on and off.
        const CTRL_GUEST_OFFLOADS = 1 << 2;
        /// The configuration space holds an MTU.
        const MTU = 1 << 3;
        /// The configuration space holds a MAC address.
        const MAC = 1 << 5;
        /// Legacy: all of the host segmentation offloads.
        const GSO = 1 << 6;
        /// The driver takes unsegmented TCP over IPv4.
        const GUEST_TSO4 = 1 << 7;
        /// The driver takes unsegmented TCP over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// The driver takes unsegmented TCP with ECN.
        const GUEST_ECN = 1 << 9;
        /// The driver takes unfragmented UDP.
        const GUEST_UFO = 1 << 10;
        /// The device takes unsegmented TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device takes unsegmented TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// The device takes unsegmented TCP with ECN.
        const HOST_ECN = 1 << 13;
        /// The device takes unfragmented UDP.
        const HOST_UFO = 1 << 14;
        /// A frame may fill several receive buffers.
        const MRG_RXBUF = 1 << 15;
        /// The configuration space holds a link status.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// Control queue: receive modes and MAC table.
        const CTRL_RX = 1 << 18;
        /// Control queue: VLAN filter.
        const CTRL_VLAN = 1 << 19;
        /// Control queue: further receive modes.
        const CTRL_RX_EXTRA = 1 << 20;
        /// The driver can announce itself when asked to.
        const GUEST_ANNOUNCE = 1 << 21;
        /// Several queue pairs.
        const MQ = 1 << 22;
        /// Control queue: MAC address.
        const CTRL_MAC_ADDR = 1 << 23;
        /// Legacy: the device calls when it has run out of buffers.
        const NOTIFY_ON_EMPTY = 1 << 24;
        /// vhost: writes are to be logged.
        const LOG_ALL = 1 << 26;
        /// Legacy: a header may be laid out over descriptors in any way.
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
        /// Legacy: coalesced TCP over IPv4.
        const GUEST_RSC4 = 1 << 41;
        /// Legacy: coalesced TCP over IPv6.
        const GUEST_RSC6 = 1 << 42;
        /// The device keeps statistics that the driver can ask for.
        const DEVICE_STATS = 1 << 50;
        /// Hashes of tunnelled packets.
        const HASH_TUNNEL = 1 << 51;
        /// Notification coalescing for each queue.
        const VQ_NOTF_COAL = 1 << 52;
        /// Notification coalescing.
        const NOTF_COAL = 1 << 53;
        /// The driver takes unsegmented UDP over IPv4.
        const GUEST_USO4 = 1 << 54;
        /// The driver takes unsegmented UDP over IPv6.
        const GUEST_USO6 = 1 << 55;
        /// The device takes unsegmented UDP.
        const HOST_USO = 1 << 56;
        /// The device reports a hash with each frame.
        const HASH_REPORT = 1 << 57;
        /// The driver fills in `hdr_len` exactly.
        const GUEST_HDRLEN = 1 << 59;
        /// Receive-side scaling.
        const RSS = 1 << 60;
        /// Information about coalesced segments.
        const RSC_EXT = 1 << 61;
        /// The device stands by for another one with its MAC address.
        const STANDBY = 1 << 62;
        /// The configuration space holds speed and duplex.
        const SPEED_DUPLEX = 1 << 63;
    }
}

/// The bits of `CTRL_GUEST_OFFLOADS`: what a driver can turn on and off while it runs (virtio 1.3 §5.1.6.5.6).
pub const GUEST_OFFLOADS: Features = Features::GUEST_CSUM
    .union(Features::GUEST_TSO4)
    .union(Features::GUEST_TSO6)
    .union(Features::GUEST_ECN)
    .union(Features::GUEST_UFO)
    .union(Features::GUEST_USO4)
    .union(Features::GUEST_USO6);

/// Every network feature that this crate implements: what a device may offer, before the transport adds the
/// ring features.
pub const IMPLEMENTED: Features = GUEST_OFFLOADS
    .union(Features::CSUM)
    .union(Features::CTRL_GUEST_OFFLOADS)
    .union(Features::MTU)
    .union(Features::MAC)
    .union(Features::HOST_TSO4)
    .union(Features::HOST_TSO6)
    .union(Features::HOST_ECN)
    .union(Features::HOST_UFO)
    .union(Features::HOST_USO)
    .union(Features::MRG_RXBUF)
    .union(Features::STATUS)
    .union(Features::CTRL_VQ)
    .union(Features::CTRL_RX)
    .union(Features::CTRL_VLAN)
    .union(Features::CTRL_RX_EXTRA)
    .union(Features::GUEST_ANNOUNCE)
    .union(Features::MQ)
    .union(Features::CTRL_MAC_ADDR)
    .union(Features::SPEED_DUPLEX);

/// A feature and the features of which it needs at least one (virtio 1.3 §5.1.3.1).
///
/// The rules that need CTRL_VQ are left out on purpose: a front-end that serves the control queue itself may
/// strip CTRL_VQ and pass the rest (DPDK's virtio_user does), and without that queue those bits do nothing.
const NEEDS: [(Features, Features); 12] = [
    (Features::GUEST_TSO4, Features::GUEST_CSUM),
    (Features::GUEST_TSO6, Features::GUEST_CSUM),
    (Features::GUEST_ECN, Features::GUEST_TSO4.union(Features::GUEST_TSO6)),
    (Features::GUEST_UFO, Features::GUEST_CSUM),
    (Features::GUEST_USO4, Features::GUEST_CSUM),
    (Features::GUEST_USO6, Features::GUEST_CSUM),
    (Features::HOST_TSO4, Features::CSUM),
    (Features::HOST_TSO6, Features::CSUM),
    (Features::HOST_ECN, Features::HOST_TSO4.union(Features::HOST_TSO6)),
    (Features::HOST_UFO, Features::CSUM),
    (Features::HOST_USO, Features::CSUM),
    (Features::RSC_EXT, Features::HOST_TSO4.union(Features::HOST_TSO6)),
];

/// Why a driver's choice of features is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FeatureFault {
    /// Bits that were never offered.
    #[error("acknowledged features that were not offered: {0:#x}")]
    NotOffered(u64),
    /// A feature without any of those it depends on.
    #[error("feature {feature:?} needs {needs:?}", feature = .feature.0, needs = .needs.0)]
    Missing {
        /// The feature acknowledged.
        feature: Features,
        /// At least one of these has to be acknowledged too.
        needs: Features,
    },
}

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
        names(self.0)
    }
}

/// What a driver acknowledged: a subset of an offer that obeys the dependency rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Acknowledged(Features);

impl Acknowledged {
    /// Accepts `bits` as the driver's choice out of `offered`.
    pub fn new(offered: Offered, bits: u64) -> Result<Self, FeatureFault> {
        let foreign = bits & !offered.0.bits();
        if foreign != 0 {
            return Err(FeatureFault::NotOffered(foreign));
        }
        let features = Features::from_bits_retain(bits);
        match NEEDS.iter().find(|(have, needs)| features.contains(*have) && !features.intersects(*needs)) {
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

    /// Index of the control queue of a device that has `pairs_max` queue pairs: behind those that this driver can use, which is
    /// one without MQ and RSS (virtio 1.3 §5.1.2). There is one with CTRL_VQ only.
    pub const fn control_queue(self, pairs_max: u16) -> u16 {
        if self.0.intersects(Features::MQ.union(Features::RSS)) { pairs_max.saturating_mul(2) } else { 2 }
    }

    /// Bytes of the virtio header in front of each frame: 12, but 10 for a legacy driver without MRG_RXBUF
    /// (virtio 1.3 §5.1.6.1).
    pub const fn header_len(self) -> usize {
        if self.0.intersects(Features::VERSION_1.union(Features::MRG_RXBUF)) { 12 } else { 10 }
    }

    /// What the driver may ask of the device for a frame that it sends.
    pub fn transmit_accepts(self) -> Accepts {
        let rules = [
            (Features::CSUM, Accepts::CSUM),
            (Features::HOST_TSO4, Accepts::TSO4),
            (Features::HOST_TSO6, Accepts::TSO6),
            (Features::HOST_ECN, Accepts::ECN),
            (Features::HOST_UFO, Accepts::UFO),
            (Features::HOST_USO, Accepts::USO4.union(Accepts::USO6)),
            // One legacy bit stood for all of TCP's segmentation.
            (Features::GSO, Accepts::TSO4.union(Accepts::TSO6).union(Accepts::ECN)),
        ];
        let chosen = rules.iter().filter(|(feature, _)| self.0.contains(*feature));
        chosen.fold(Accepts::empty(), |accepts, (_, more)| accepts | *more)
    }

    /// What the driver takes in a frame that it receives, before it turned anything off.
    pub fn receive_accepts(self) -> Accepts {
        Accepts::of_guest_offloads(self.0)
    }

    /// Whether a frame with this offload can be given to the driver as it is.
    pub fn accepts(self, offload: &Offload) -> bool {
        self.receive_accepts().takes(offload)
    }
}

fn names(features: Features) -> impl Iterator<Item = &'static str> {
    Features::all().iter_names().filter(move |(_, bit)| features.contains(*bit)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledge(bits: Features) -> Result<Acknowledged, FeatureFault> {
        Acknowledged::new(Offered::new(Features::all()), bits.bits())
    }

    #[test]
    fn bits_stand_where_the_specification_puts_them() {
        let at = |f: Features| f.bits().trailing_zeros();
        assert_eq!((at(Features::GUEST_UFO), at(Features::HOST_UFO), at(Features::MRG_RXBUF)), (10, 14, 15));
        assert_eq!((at(Features::CTRL_MAC_ADDR), at(Features::GUEST_USO4)), (23, 54));
        assert_eq!((at(Features::HOST_USO), at(Features::SPEED_DUPLEX)), (56, 63));
    }

    #[test]
    fn only_what_was_offered_can_be_acknowledged() {
        let offered = Offered::new(Features::CSUM | Features::MAC);
        assert!(Acknowledged::new(offered, Features::CSUM.bits()).is_ok());
        assert_eq!(
            Acknowledged::new(offered, (Features::CSUM | Features::MTU).bits()),
            Err(FeatureFault::NotOffered(8))
        );
        // A bit that has no name cannot slip through either.
        assert_eq!(Acknowledged::new(offered, 1 << 4), Err(FeatureFault::NotOffered(16)));
    }

    #[test]
    fn the_control_queue_is_behind_the_pairs_that_the_driver_can_use() {
        let queue = |more, pairs| acknowledge(Features::CTRL_VQ | more).unwrap().control_queue(pairs);
        assert_eq!([1, 4, u16::MAX].map(|pairs| queue(Features::empty(), pairs)), [2; 3]);
        assert_eq!([1, 4, u16::MAX].map(|pairs| queue(Features::MQ, pairs)), [2, 8, u16::MAX]);
        assert_eq!(queue(Features::RSS, 3), 6);
    }

    #[test]
    fn every_dependency_is_enforced() {
        for (feature, needs) in NEEDS {
            assert_eq!(acknowledge(feature), Err(FeatureFault::Missing { feature, needs }));
            // One of the needed features (with what that one needs itself) is enough.
            let one = needs.iter().next().unwrap();
            let below = Features::CSUM | Features::GUEST_CSUM;
            assert!(acknowledge(feature | one | below).is_ok(), "{feature:?}");
        }
        assert!(acknowledge(Features::MQ).is_ok());
    }

    #[test]
    fn header_lengths() {
        assert_eq!(acknowledge(Features::empty()).unwrap().header_len(), 10);
        assert_eq!(acknowledge(Features::MRG_RXBUF).unwrap().header_len(), 12);
        assert_eq!(acknowledge(Features::VERSION_1).unwrap().header_len(), 12);
    }

    #[test]
    fn accepted_offloads_follow_the_bits() {
        let all = acknowledge(IMPLEMENTED).unwrap();
        let everything = Accepts::all() - Accepts::DATA_VALID;
        assert_eq!((all.transmit_accepts(), all.receive_accepts()), (everything, everything));
        let guest = acknowledge(Features::GUEST_CSUM | Features::GUEST_TSO6).unwrap();
        assert_eq!(guest.receive_accepts(), Accepts::CSUM | Accepts::TSO6);
        assert_eq!(guest.transmit_accepts(), Accepts::empty());
        assert!(guest.accepts(&Offload::Checksum { start: 34, offset: 16 }));
    }

    #[test]
    fn names_are_the_specifications() {
        let some = acknowledge(Features::CSUM | Features::VERSION_1 | Features::MRG_RXBUF).unwrap();
        assert_eq!(some.names().collect::<Vec<_>>(), ["CSUM", "MRG_RXBUF", "VERSION_1"]);
        assert_eq!(Offered::default().names().count(), 0);
    }
}
