//! The virtio-net header in front of every frame: 10 or 12 bytes, in either byte order.

use super::features::Acknowledged;
use virtqueue::Endian;

/// `flags`: the checksum from `csum_start` on has to be finished.
pub const FLAG_NEEDS_CSUM: u8 = 1;
/// `flags`: the checksum has been verified.
pub const FLAG_DATA_VALID: u8 = 2;

/// `gso_type`: one frame as it is.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP to be fragmented (IPv4 or IPv6).
pub const GSO_UDP: u8 = 3;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP to be segmented (IPv4 or IPv6).
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type`: added to TCP when the frame carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// The longest header, in bytes.
pub const HEADER_LEN_MAX: usize = 12;

/// `struct virtio_net_hdr` (virtio 1.3 §5.1.6), as plain numbers. Whoever sent it is not believed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetHeader {
    /// [`FLAG_NEEDS_CSUM`] and [`FLAG_DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` values.
    pub gso_type: u8,
    /// Bytes of headers before the payload, as the sender claims.
    pub hdr_len: u16,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// Where the checksum begins, in bytes from the start of the frame.
    pub csum_start: u16,
    /// Where to put the checksum, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// Receive buffers that the frame fills; only in a 12-byte header, and zero when sent by a driver.
    pub num_buffers: u16,
}

/// Length and byte order of one driver's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderFormat {
    len: u8,
    endian: Endian,
}

impl HeaderFormat {
    /// 12 bytes, little-endian: every driver since virtio 1.0.
    pub const MODERN: Self = Self { len: 12, endian: Endian::Little };

    /// The format of a driver that acknowledged these features. `endian` is the byte order of a legacy driver;
    /// a driver with VERSION_1 is little-endian whatever it says.
    pub fn new(acknowledged: Acknowledged, endian: Endian) -> Self {
        let modern = acknowledged.has(super::Features::VERSION_1);
        let endian = if modern { Endian::Little } else { endian };
        Self { len: acknowledged.header_len() as u8, endian }
    }

    /// Bytes of a header: 10 or 12.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(self) -> usize {
        usize::from(self.len)
    }

    /// Byte order of the 16-bit fields.
    pub fn endian(self) -> Endian {
        self.endian
    }

    /// Reads a header from a private copy of its bytes; with a 10-byte header `num_buffers` is zero and the
    /// last two bytes are not looked at.
    #[inline]
    pub fn parse(self, bytes: &[u8; HEADER_LEN_MAX]) -> NetHeader {
        let word = |at: usize| {
            let pair = [bytes[at], bytes[at + 1]];
            match self.endian {
                Endian::Little => u16::from_le_bytes(pair),
                Endian::Big => u16::from_be_bytes(pair),
            }
        };
        NetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: if self.len == 12 { word(10) } else { 0 },
        }
    }

    /// The header's bytes; the first [`len`](Self::len) of them go onto the wire.
    #[inline]
    pub fn emit(self, header: &NetHeader) -> [u8; HEADER_LEN_MAX] {
        let word = |value: u16| match self.endian {
            Endian::Little => u64::from(value),
            Endian::Big => u64::from(value.swap_bytes()),
        };
        // Two whole words: bytes stored one by one cannot be loaded together again at once.
        let low = u64::from(header.flags)
            | u64::from(header.gso_type) << 8
            | word(header.hdr_len) << 16
            | word(header.gso_size) << 32
            | word(header.csum_start) << 48;
        let high = word(header.csum_offset) | word(header.num_buffers) << 16;
        let mut bytes = [0; HEADER_LEN_MAX];
        if let Some(front) = bytes.first_chunk_mut() {
            *front = low.to_le_bytes();
        }
        if let Some(back) = bytes.last_chunk_mut() {
            *back = (high as u32).to_le_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Features, Offered};

    const HEADER: NetHeader = NetHeader {
        flags: 1,
        gso_type: 0x81,
        hdr_len: 0x0102,
        gso_size: 0x0304,
        csum_start: 0x0506,
        csum_offset: 0x0708,
        num_buffers: 0x090A,
    };

    fn format(features: Features, endian: Endian) -> HeaderFormat {
        let acknowledged = Acknowledged::new(Offered::new(Features::all()), features.bits()).unwrap();
        HeaderFormat::new(acknowledged, endian)
    }

    #[test]
    fn both_byte_orders() {
        let little = format(Features::VERSION_1, Endian::Big);
        assert_eq!(little, HeaderFormat::MODERN);
        assert_eq!(little.emit(&HEADER), [1, 0x81, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9]);
        assert_eq!(little.parse(&little.emit(&HEADER)), HEADER);
        let big = format(Features::MRG_RXBUF, Endian::Big);
        assert_eq!(big.emit(&HEADER), [1, 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(big.parse(&big.emit(&HEADER)), HEADER);
    }

    #[test]
    fn a_legacy_header_has_no_buffer_count() {
        let legacy = format(Features::empty(), Endian::Little);
        assert_eq!(legacy.len(), 10);
        assert_eq!(legacy.parse(&legacy.emit(&HEADER)), NetHeader { num_buffers: 0, ..HEADER });
    }
}
