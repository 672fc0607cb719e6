//! The part of an Ethernet frame that a bridge decides by.

use crate::types::{DropReason, MacAddr, Vlan};

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_HEADER_SIZE: usize = 14;

/// Ethertype of a customer VLAN tag (IEEE 802.1Q).
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
/// Ethertype of a service VLAN tag (IEEE 802.1ad).
pub(crate) const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// The two kinds of VLAN tag. A switch knows one of them; to it, frames with the other are untagged
/// (IEEE 802.1Q-2022 §9.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tagging {
    /// Customer tags, 802.1Q.
    Customer,
    /// Service tags, 802.1ad.
    Service,
}

impl Tagging {
    /// The ethertype that announces such a tag.
    #[inline]
    #[must_use]
    pub const fn tpid(self) -> u16 {
        match self {
            Self::Customer => ETHERTYPE_VLAN,
            Self::Service => ETHERTYPE_SERVICE_VLAN,
        }
    }

    /// The kind of tag that an ethertype announces, if it does.
    #[inline]
    #[must_use]
    pub const fn of(ethertype: u16) -> Option<Self> {
        match ethertype {
            ETHERTYPE_VLAN => Some(Self::Customer),
            ETHERTYPE_SERVICE_VLAN => Some(Self::Service),
            _ => None,
        }
    }
}

/// A VLAN tag as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// What its ethertype says.
    pub tagging: Tagging,
    /// Priority, drop eligibility and VID.
    pub tci: u16,
}

impl VlanTag {
    /// The VID, 0 to 4095: 0 is a priority tag, 4095 is reserved.
    #[inline]
    #[must_use]
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// Addresses, outermost VLAN tag and type of a frame: an owned copy, so it cannot change after the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHead {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Type of the payload behind the outermost VLAN tag; a length if it is below 1536.
    pub ethertype: u16,
    /// The outermost tag, of either kind.
    pub tag: Option<VlanTag>,
}

impl EthernetHead {
    /// Reads the head from the first bytes of a frame. `bytes` must be private memory: a copy that the sender cannot
    /// change. A frame that ends within its tag keeps the tag's type as `ethertype`.
    ///
    /// # Errors
    /// [`DropReason::Runt`] if there are fewer than [`ETHERNET_HEADER_SIZE`] bytes.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let Some((header, rest)) = bytes.split_first_chunk::<ETHERNET_HEADER_SIZE>() else {
            return Err(DropReason::Runt);
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let mut head = Self {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([t0, t1]),
            tag: None,
        };
        if let Some(tagging) = Tagging::of(head.ethertype)
            && let Some([v0, v1, t0, t1]) = rest.first_chunk()
        {
            head.tag = Some(VlanTag { tagging, tci: u16::from_be_bytes([*v0, *v1]) });
            head.ethertype = u16::from_be_bytes([*t0, *t1]);
        }
        Ok(head)
    }

    /// VLAN of the outermost tag. `None` for untagged frames, priority tags (VID 0) and the reserved VID 4095.
    #[inline]
    #[must_use]
    pub fn vlan(&self) -> Option<Vlan> {
        self.tag.and_then(|tag| Vlan::new(tag.vid()))
    }

    /// True if the frame carries the kind of tag that a switch with this tagging reads, priority tags included.
    #[inline]
    #[must_use]
    pub fn is_tagged(&self, tagging: Tagging) -> bool {
        self.tag.is_some_and(|tag| tag.tagging == tagging)
    }
}

/// What a decision reads of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Head<'f> {
    /// The Ethernet header of [`Self::bytes`].
    pub ethernet: EthernetHead,
    /// The frame's first bytes, 256 at most, in private memory: a copy that the sender cannot change.
    pub bytes: &'f [u8],
    /// Frames that it becomes where a receiver wants it segmented; 1 for most. Limits of rate count these.
    pub units: u32,
}

impl<'f> Head<'f> {
    /// Reads the head from the frame's first bytes, as [`EthernetHead::parse`].
    ///
    /// # Errors
    /// [`DropReason::Runt`].
    #[inline]
    pub fn parse(bytes: &'f [u8]) -> Result<Self, DropReason> {
        Ok(Self { ethernet: EthernetHead::parse(bytes)?, bytes, units: 1 })
    }
}

/// True if a frame with this type carries a VLAN tag behind it.
#[inline]
pub(crate) fn is_vlan_tag(ethertype: u16) -> bool {
    Tagging::of(ethertype).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u8; 12] = [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];

    fn parse(tail: &[u8]) -> Result<EthernetHead, DropReason> {
        EthernetHead::parse(&[&ADDRESSES, tail].concat())
    }

    #[test]
    fn untagged() {
        let head = parse(&[8, 0, 0x45]).unwrap();
        assert_eq!(head.dst, MacAddr([0x52, 0x54, 0, 0, 0, 2]));
        assert_eq!(head.src, MacAddr([0x52, 0x54, 0, 0, 0, 1]));
        assert_eq!((head.ethertype, head.vlan()), (0x0800, None));
    }

    #[test]
    fn tagged() {
        let head = parse(&[0x81, 0, 0xe0, 42, 0x86, 0xdd]).unwrap();
        assert_eq!((head.ethertype, head.vlan()), (0x86dd, Vlan::new(42)));
        let double = parse(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 42, 8, 0]).unwrap();
        assert_eq!((double.ethertype, double.vlan()), (0x8100, Vlan::new(7)));
        assert!(double.is_tagged(Tagging::Service) && !double.is_tagged(Tagging::Customer));
        let priority = parse(&[0x81, 0, 0x20, 0, 8, 0]).unwrap();
        assert_eq!((priority.ethertype, priority.vlan()), (0x0800, None));
        let reserved = parse(&[0x81, 0, 0xff, 0xff, 8, 0]).unwrap();
        assert_eq!((reserved.vlan(), reserved.tag.map(VlanTag::vid)), (None, Some(4095)));
    }

    #[test]
    fn short() {
        assert_eq!(EthernetHead::parse(&[]), Err(DropReason::Runt));
        assert_eq!(parse(&[8]), Err(DropReason::Runt));
        let cut_tag = parse(&[0x81, 0, 0, 42, 8]).unwrap();
        assert_eq!((cut_tag.ethertype, cut_tag.tag), (ETHERTYPE_VLAN, None));
    }

    #[test]
    fn head_is_small() {
        assert_eq!(size_of::<EthernetHead>(), 18);
    }
}
