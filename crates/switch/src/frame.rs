//! The part of an Ethernet frame that a bridge decides by.

use crate::types::{DropReason, MacAddr, Vlan};

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_HEADER_SIZE: usize = 14;

/// Ethertype of a customer VLAN tag (IEEE 802.1Q).
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
/// Ethertype of a service VLAN tag (IEEE 802.1ad).
pub(crate) const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Addresses, outermost VLAN and type of a frame: an owned copy, so it cannot change after the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHead {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Type of the payload behind the outermost VLAN tag; a length if it is below 1536.
    pub ethertype: u16,
    /// VLAN of the outermost tag. `None` for untagged frames, priority tags (VID 0) and the reserved VID 4095.
    pub vlan: Option<Vlan>,
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
            vlan: None,
        };
        if is_vlan_tag(head.ethertype)
            && let Some([v0, v1, t0, t1]) = rest.first_chunk()
        {
            head.vlan = Vlan::new(u16::from_be_bytes([*v0, *v1]) & 0x0fff);
            head.ethertype = u16::from_be_bytes([*t0, *t1]);
        }
        Ok(head)
    }
}

/// True if a frame with this type carries a VLAN tag behind it.
#[inline]
pub(crate) fn is_vlan_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
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
        assert_eq!((head.ethertype, head.vlan), (0x0800, None));
    }

    #[test]
    fn tagged() {
        let head = parse(&[0x81, 0, 0xe0, 42, 0x86, 0xdd]).unwrap();
        assert_eq!((head.ethertype, head.vlan), (0x86dd, Vlan::new(42)));
        let double = parse(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 42, 8, 0]).unwrap();
        assert_eq!((double.ethertype, double.vlan), (0x8100, Vlan::new(7)));
        let priority = parse(&[0x81, 0, 0x20, 0, 8, 0]).unwrap();
        assert_eq!((priority.ethertype, priority.vlan), (0x0800, None));
        let reserved = parse(&[0x81, 0, 0xff, 0xff, 8, 0]).unwrap();
        assert_eq!(reserved.vlan, None);
    }

    #[test]
    fn short() {
        assert_eq!(EthernetHead::parse(&[]), Err(DropReason::Runt));
        assert_eq!(parse(&[8]), Err(DropReason::Runt));
        let cut_tag = parse(&[0x81, 0, 0, 42, 8]).unwrap();
        assert_eq!((cut_tag.ethertype, cut_tag.vlan), (ETHERTYPE_VLAN, None));
    }

    #[test]
    fn head_is_sixteen_bytes() {
        assert_eq!(size_of::<EthernetHead>(), 16);
    }
}
