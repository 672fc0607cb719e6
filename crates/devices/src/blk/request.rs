//! A request's header, and which requests there are.

use virtqueue::Endian;

/// Bytes of the header: `type`, `reserved`, `sector` (virtio 1.3 §5.2.6).
pub const HEADER_LEN: usize = 16;

/// Bytes of a device's identification.
pub const ID_LEN: usize = 20;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestType {
    /// Read.
    In,
    /// Write.
    Out,
    /// Make stable what was written.
    Flush,
    /// The disk's serial number.
    GetId,
    /// How worn the disk is.
    GetLifetime,
    /// Give sectors up.
    Discard,
    /// Make sectors read as zeros.
    WriteZeroes,
    /// Make sectors irretrievable.
    SecureErase,
    /// Write where a zone's write pointer stands.
    ZoneAppend,
    /// The state of zones.
    ZoneReport,
    /// Open a zone.
    ZoneOpen,
    /// Close a zone.
    ZoneClose,
    /// Declare a zone full.
    ZoneFinish,
    /// Empty a zone.
    ZoneReset,
    /// Empty all zones.
    ZoneResetAll,
}

impl RequestType {
    /// Every type with its number; 5 is what flush was called once (`VIRTIO_BLK_T_FLUSH_OUT`, virtio 1.3 §5.2.6.3).
    const NUMBERS: [(u32, Self); 16] = [
        (0, Self::In),
        (1, Self::Out),
        (4, Self::Flush),
        (5, Self::Flush),
        (8, Self::GetId),
        (10, Self::GetLifetime),
        (11, Self::Discard),
        (13, Self::WriteZeroes),
        (14, Self::SecureErase),
        (15, Self::ZoneAppend),
        (16, Self::ZoneReport),
        (18, Self::ZoneOpen),
        (20, Self::ZoneClose),
        (22, Self::ZoneFinish),
        (24, Self::ZoneReset),
        (26, Self::ZoneResetAll),
    ];

    /// The type with this number, if there is one.
    pub fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::In),
            1 => Some(Self::Out),
            _ => Self::NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, kind)| *kind),
        }
    }
}

/// The header of a request, as plain numbers. Whoever sent it is not believed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// `type`.
    pub number: u32,
    /// `sector`.
    pub sector: u64,
}

impl Header {
    /// Reads a header from a private copy of its bytes. `reserved`, once a priority, is not looked at.
    pub fn parse(bytes: &[u8; HEADER_LEN], endian: Endian) -> Self {
        let [n0, n1, n2, n3, _, _, _, _, sector @ ..] = *bytes;
        let number = [n0, n1, n2, n3];
        match endian {
            Endian::Little => Self { number: u32::from_le_bytes(number), sector: u64::from_le_bytes(sector) },
            Endian::Big => Self { number: u32::from_be_bytes(number), sector: u64::from_be_bytes(sector) },
        }
    }
}

/// How worn a device is (virtio 1.3 §5.2.6, JESD84-B50). Reserved values cannot be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lifetime {
    /// Reserved blocks that are used up.
    pub pre_eol: PreEol,
    /// Wear of SLC cells.
    pub type_a: Wear,
    /// Wear of MLC cells.
    pub type_b: Wear,
}

/// How many of the reserved blocks are used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u16)]
pub enum PreEol {
    /// Not known.
    #[default]
    Undefined = 0,
    /// Less than 80 %.
    Normal = 1,
    /// 80 %.
    Warning = 2,
    /// 90 %.
    Urgent = 3,
}

/// The part of its life that a device has behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wear(u16);

impl Wear {
    /// Not known.
    pub const UNDEFINED: Self = Self(0);

    /// `percent` of the estimated life, more than 100 if it lives on all the same.
    pub const fn percent(percent: u32) -> Self {
        match percent {
            0 => Self(1),
            1..=100 => Self(percent.div_ceil(10) as u16),
            _ => Self(11),
        }
    }
}

/// Bytes of a [`Lifetime`].
pub const LIFETIME_LEN: usize = 6;

impl Lifetime {
    /// `struct virtio_blk_lifetime`.
    pub fn bytes(&self, endian: Endian) -> [u8; LIFETIME_LEN] {
        let mut bytes = [0; LIFETIME_LEN];
        let words = [self.pre_eol as u16, self.type_a.0, self.type_b.0];
        for (place, word) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *place = match endian {
                Endian::Little => word.to_le_bytes(),
                Endian::Big => word.to_be_bytes(),
            };
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_what_the_specification_says() {
        for (number, kind) in RequestType::NUMBERS {
            assert_eq!(RequestType::of(number), Some(kind));
        }
        // SCSI commands and barriers are of the legacy interface and not offered.
        for number in [2, 3, 6, 7, 9, 12, 17, 27, 0x8000_0000, 0x8000_0001, u32::MAX] {
            assert_eq!(RequestType::of(number), None);
        }
    }

    #[test]
    fn both_byte_orders() {
        let bytes = [1, 2, 3, 4, 9, 9, 9, 9, 5, 6, 7, 8, 9, 10, 11, 12];
        let little = Header { number: 0x0403_0201, sector: 0x0C0B_0A09_0807_0605 };
        assert_eq!(Header::parse(&bytes, Endian::Little), little);
        let big = Header { number: 0x0102_0304, sector: 0x0506_0708_090A_0B0C };
        assert_eq!(Header::parse(&bytes, Endian::Big), big);
    }

    #[test]
    fn wear_is_told_in_tenths() {
        let wear = |percent| Wear::percent(percent).0;
        assert_eq!([0, 1, 10, 11, 99, 100, 101, 500].map(wear), [1, 1, 1, 2, 10, 10, 11, 11]);
        let lifetime =
            Lifetime { pre_eol: PreEol::Urgent, type_a: Wear::percent(35), type_b: Wear::UNDEFINED };
        assert_eq!(lifetime.bytes(Endian::Little), [3, 0, 4, 0, 0, 0]);
        assert_eq!(lifetime.bytes(Endian::Big), [0, 3, 0, 4, 0, 0]);
    }
}
