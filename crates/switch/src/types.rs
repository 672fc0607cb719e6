//! Values of the switch that cannot be wrong: ports, addresses, VLANs, time, verdicts.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// An attachment point of one switch. The host chooses the number; small, dense numbers keep tables small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// The number as a table index.
    #[inline]
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Any 48-bit Ethernet address, as it stands in a frame: unicast, group or zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// True for group addresses: multicast, broadcast included (IEEE 802-2014 §8.2.2, the I/G bit).
    #[inline]
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for ff:ff:ff:ff:ff:ff.
    #[inline]
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// The last octet of an address in 01:80:c2:00:00:00 to 0f, which bridges keep to one link
    /// (IEEE 802.1Q-2022 §8.6.3, table 8-1); `None` for every other address.
    #[inline]
    #[must_use]
    pub fn link_local_group(self) -> Option<u8> {
        let address = self.to_u64();
        (address & !0xf == 0x0180_c200_0000).then_some((address & 0xf) as u8)
    }

    /// The address if it can name one station: not a group address and not zero.
    #[inline]
    #[must_use]
    pub fn unicast(self) -> Option<UnicastMac> {
        UnicastMac::new(self.0)
    }

    /// The address as a number, first octet most significant.
    #[inline]
    pub(crate) fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from(u16::from_be_bytes([a, b])) << 32 | u64::from(u32::from_be_bytes([c, d, e, f]))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacParseError {
    /// Not six two-digit hexadecimal octets with colons (or hyphens) between them.
    #[error("expected six hexadecimal octets such as 52:54:00:00:00:01")]
    Form,
    /// A group address where one station is meant.
    #[error("expected a unicast address; the lowest bit of the first octet marks a group")]
    Multicast,
    /// 00:00:00:00:00:00, which names no station.
    #[error("expected a unicast address; the address is all zero")]
    Zero,
}

impl FromStr for MacAddr {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, MacParseError> {
        let bytes = text.as_bytes();
        if bytes.len() != 17 {
            return Err(MacParseError::Form);
        }
        let separator = bytes[2];
        if separator != b':' && separator != b'-' {
            return Err(MacParseError::Form);
        }
        let mut octets = [0; 6];
        for (index, octet) in octets.iter_mut().enumerate() {
            let start = index * 3;
            if index > 0 && bytes[start - 1] != separator {
                return Err(MacParseError::Form);
            }
            *octet = hex_digit(bytes[start])? << 4 | hex_digit(bytes[start + 1])?;
        }
        Ok(Self(octets))
    }
}

fn hex_digit(byte: u8) -> Result<u8, MacParseError> {
    char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or(MacParseError::Form)
}

/// An address that names one station: the I/G bit is clear and it is not zero. Keys of the FDB are of this type.
///
/// Kept as a number, first octet most significant, because tables compare and hash it as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnicastMac(u64);

impl UnicastMac {
    /// The I/G bit of an address as a number.
    const GROUP: u64 = 1 << 40;

    /// `None` for group addresses and for zero.
    #[inline]
    #[must_use]
    pub fn new(octets: [u8; 6]) -> Option<Self> {
        Self::from_u64(MacAddr(octets).to_u64())
    }

    /// The six octets in the order they are sent.
    #[inline]
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        let [_, _, octets @ ..] = self.0.to_be_bytes();
        octets
    }

    /// The address as a number, first octet most significant; never zero.
    #[inline]
    pub(crate) fn to_u64(self) -> u64 {
        self.0
    }

    /// Inverse of [`Self::to_u64`]; `None` where the number is no unicast address.
    #[inline]
    pub(crate) fn from_u64(address: u64) -> Option<Self> {
        (address & Self::GROUP == 0 && address != 0 && address >> 48 == 0).then_some(Self(address))
    }
}

impl From<UnicastMac> for MacAddr {
    fn from(mac: UnicastMac) -> Self {
        Self(mac.octets())
    }
}

impl FromStr for UnicastMac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, MacParseError> {
        let mac: MacAddr = text.parse()?;
        mac.unicast().ok_or(if mac.is_multicast() { MacParseError::Multicast } else { MacParseError::Zero })
    }
}

impl fmt::Display for UnicastMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&MacAddr(self.octets()), f)
    }
}

impl fmt::Debug for UnicastMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A VLAN identifier, 1 to 4094. "Untagged" is `Option<Vlan>::None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(NonZeroU16);

impl Vlan {
    /// VLAN 1, which ports of a new bridge are in.
    pub const DEFAULT: Self = Self(NonZeroU16::MIN);

    /// `None` for 0 (priority tag) and for 4095 and above (reserved; IEEE 802.1Q-2022 table 9-2).
    #[inline]
    #[must_use]
    pub fn new(id: u16) -> Option<Self> {
        if id >= 4095 {
            return None;
        }
        NonZeroU16::new(id).map(Self)
    }

    /// The identifier, 1 to 4094.
    #[inline]
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// A moment on the host's monotonic clock, in milliseconds since an origin of the host's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(u64);

impl Now {
    /// A moment `millis` milliseconds after the origin.
    #[inline]
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the origin.
    #[inline]
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

/// What to do with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Verdict {
    /// Send it to this port. It is the one the frame came from only if that port has
    /// [`crate::PortSettings::hairpin`] on.
    Unicast(PortId),
    /// Send it to every port that [`crate::Reach::takes`] names.
    Flood,
    /// Send the frame that [`crate::View::answer`] writes back to the port it came from, and nothing else.
    Answer,
    /// Do not forward it, and count why.
    Drop(DropReason),
}

/// Why a frame is not forwarded. The bridge gives the first ones; delivery gives the rest. Counters are arrays of
/// [`DropReason::COUNT`] indexed by [`DropReason::as_usize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The source is a group address or zero.
    InvalidSource,
    /// A static entry pins the source address to another port.
    SourceTaken,
    /// The destination is a group address that bridges keep to one link, and the port does not forward it.
    LinkLocal,
    /// The destination is behind the port the frame came from.
    SamePort,
    /// No other port of the switch takes the frame.
    NoReceiver,
    /// A multicast query or a router's hello from a port that may not route.
    MulticastRouter,
    /// The port the frame came from has left the switch.
    IngressRemoved,
    /// The port it came from, or the one it would leave by, is disabled or was shut by its guard.
    PortShut,
    /// A spanning-tree frame on a port with a guard: the port is shut now.
    Guard,
    /// The port it came from is not in the frame's VLAN, or takes no untagged frames.
    Vlan,
    /// The port may not send from this MAC address, or the payload claims another.
    SourceMac,
    /// The port may not send from this network address.
    SourceAddress,
    /// The port is locked, and no FDB entry says that the source is behind it.
    Locked,
    /// The port has as many learned addresses as it may have.
    MacLimit,
    /// The port sent too many frames to unknown stations.
    UnicastRate,
    /// The port sent too many broadcasts.
    BroadcastRate,
    /// The port sent too many frames to groups.
    MulticastRate,
    /// The port it came from and the one it would leave by are both isolated.
    Isolated,
    /// The port it would leave by is not in the frame's VLAN.
    VlanEgress,
    /// Shorter than an Ethernet header.
    Runt,
    /// The sender has this queue disabled; what is on it is thrown away.
    SenderDisabled,
    /// Longer than the sender may send.
    Oversize,
    /// The sender's virtio-net header breaks the specification.
    BadHeader,
    /// The sender asks for an offload that does not fit the frame.
    BadOffload,
    /// The receiver has no buffer for it now.
    ReceiverFull,
    /// The receiver is not connected, or its queues are not started.
    ReceiverDown,
    /// The frame does not fit the receiver's MTU or buffers.
    ReceiverTooSmall,
    /// The receiver's own filter (RX mode, MAC table, VLAN filter) does not want it.
    ReceiverFilter,
    /// The receiver's queue or memory broke while the frame was delivered.
    ReceiverFault,
    /// The host could not write it to a device of its own, such as a tap.
    HostError,
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, at its own index.
    pub const ALL: [Self; 30] = [
        Self::InvalidSource,
        Self::SourceTaken,
        Self::LinkLocal,
        Self::SamePort,
        Self::NoReceiver,
        Self::MulticastRouter,
        Self::IngressRemoved,
        Self::PortShut,
        Self::Guard,
        Self::Vlan,
        Self::SourceMac,
        Self::SourceAddress,
        Self::Locked,
        Self::MacLimit,
        Self::UnicastRate,
        Self::BroadcastRate,
        Self::MulticastRate,
        Self::Isolated,
        Self::VlanEgress,
        Self::Runt,
        Self::SenderDisabled,
        Self::Oversize,
        Self::BadHeader,
        Self::BadOffload,
        Self::ReceiverFull,
        Self::ReceiverDown,
        Self::ReceiverTooSmall,
        Self::ReceiverFilter,
        Self::ReceiverFault,
        Self::HostError,
    ];

    /// Index into an array of [`Self::COUNT`] counters.
    #[inline]
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self as usize
    }

    /// The name that users see, in kebab case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidSource => "invalid-source",
            Self::SourceTaken => "source-taken",
            Self::LinkLocal => "link-local",
            Self::SamePort => "same-port",
            Self::NoReceiver => "no-receiver",
            Self::MulticastRouter => "multicast-router",
            Self::IngressRemoved => "ingress-removed",
            Self::PortShut => "port-shut",
            Self::Guard => "guard",
            Self::Vlan => "vlan",
            Self::SourceMac => "source-mac",
            Self::SourceAddress => "source-address",
            Self::Locked => "locked",
            Self::MacLimit => "mac-limit",
            Self::UnicastRate => "unicast-rate",
            Self::BroadcastRate => "broadcast-rate",
            Self::MulticastRate => "multicast-rate",
            Self::Isolated => "isolated",
            Self::VlanEgress => "vlan-egress",
            Self::Runt => "runt",
            Self::SenderDisabled => "sender-disabled",
            Self::Oversize => "oversize",
            Self::BadHeader => "bad-header",
            Self::BadOffload => "bad-offload",
            Self::ReceiverFull => "receiver-full",
            Self::ReceiverDown => "receiver-down",
            Self::ReceiverTooSmall => "receiver-too-small",
            Self::ReceiverFilter => "receiver-filter",
            Self::ReceiverFault => "receiver-fault",
            Self::HostError => "host-error",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicast_mac_refuses_groups_and_zero() {
        assert!(UnicastMac::new([0x52, 0x54, 0, 0, 0, 1]).is_some());
        assert!(UnicastMac::new([0; 6]).is_none());
        assert!(UnicastMac::new([1, 0, 0x5e, 0, 0, 1]).is_none());
        assert!(MacAddr::BROADCAST.unicast().is_none());
    }

    #[test]
    fn mac_as_number_goes_both_ways() {
        let mac = UnicastMac::new([0x52, 0x54, 0xab, 0xcd, 0xef, 0x01]).unwrap();
        assert_eq!(mac.to_u64(), 0x5254_abcd_ef01);
        assert_eq!(UnicastMac::from_u64(mac.to_u64()), Some(mac));
        assert_eq!(UnicastMac::from_u64(0), None);
    }

    #[test]
    fn mac_text_goes_both_ways_and_mistakes_are_named() {
        let mac: UnicastMac = "52:54:00:AB:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:00:01");
        assert_eq!("52-54-00-ab-00-01".parse::<UnicastMac>(), Ok(mac));
        assert_eq!("ff:ff:ff:ff:ff:ff".parse::<UnicastMac>(), Err(MacParseError::Multicast));
        assert_eq!("00:00:00:00:00:00".parse::<UnicastMac>(), Err(MacParseError::Zero));
        let bad = [
            "",
            "52:54:00:00:00",
            "52:54:00:00:00:0g",
            "52:54-00:00:00:01",
            "+2:54:00:00:00:01",
            "5254:00:00:00:001",
        ];
        for text in bad {
            assert_eq!(text.parse::<MacAddr>(), Err(MacParseError::Form), "{text}");
        }
        assert_eq!("5é:54:00:00:00:1".parse::<MacAddr>(), Err(MacParseError::Form));
    }

    #[test]
    fn link_local_groups_are_sixteen_addresses() {
        assert_eq!(MacAddr([1, 0x80, 0xc2, 0, 0, 0]).link_local_group(), Some(0));
        assert_eq!(MacAddr([1, 0x80, 0xc2, 0, 0, 0xf]).link_local_group(), Some(15));
        assert_eq!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).link_local_group(), None);
        assert_eq!(MacAddr([0, 0x80, 0xc2, 0, 0, 0]).link_local_group(), None);
    }

    #[test]
    fn vlan_is_1_to_4094() {
        assert_eq!(Vlan::new(0), None);
        assert_eq!(Vlan::new(1).map(Vlan::get), Some(1));
        assert_eq!(Vlan::new(4094).map(Vlan::get), Some(4094));
        assert_eq!(Vlan::new(4095), None);
        assert_eq!(Vlan::new(4097), None);
    }

    #[test]
    fn drop_reasons_are_at_their_index_with_distinct_names() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.as_usize(), index);
        }
        let mut names = DropReason::ALL.map(DropReason::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn verdicts_are_small() {
        assert_eq!(size_of::<Verdict>(), 4);
    }
}
