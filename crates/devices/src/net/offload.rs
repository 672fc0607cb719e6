//! What a sender asks to be done to its frame, validated against the frame itself.
//!
//! A header is only a claim. [`validate`] recomputes every length from a private copy of the packet's headers
//! and yields an [`Offload`], a value that is true of those bytes: whatever trusts it (software, another
//! guest, the host's kernel) is not led outside the frame, and a checksum request cannot rewrite addresses
//! that a switch has already judged.

use super::features::{Features, GUEST_OFFLOADS};
use super::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN};
use super::header::{
    FLAG_DATA_VALID, FLAG_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NetHeader,
};
use super::packet::{Network, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Transport};
use bitflags::bitflags;
use thiserror::Error;

/// Where the checksum lies in a TCP header, in bytes.
pub const TCP_CHECKSUM_AT: u16 = 16;
/// Where the checksum lies in a UDP header, in bytes.
pub const UDP_CHECKSUM_AT: u16 = 6;

/// The smallest segment of TCP and fragment of UDP, in bytes: Linux never goes below (`TCP_MIN_SND_MSS`), and
/// it bounds how many frames one request can become.
pub const SEGMENT_SIZE_MIN: u16 = 48;

/// Datagrams that one UDP segmentation request can become at most (Linux: `UDP_MAX_SEGMENTS`).
pub const UDP_SEGMENTS_MAX: u32 = 128;

/// The longest headers of a packet that is segmented, in bytes: what fits a
/// [`HeadBuffer`](super::transmit::HeadBuffer) behind the virtio header.
pub const HEADERS_LEN_MAX: usize = 244;

bitflags! {
    /// The offloads that one side takes from the other: a device from its driver, a driver from its device, a
    /// tap interface from us or we from it.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Accepts: u16 {
        /// Frames whose checksum is not finished. Without it, no other offload is taken either.
        const CSUM = 1 << 0;
        /// Unsegmented TCP over IPv4.
        const TSO4 = 1 << 1;
        /// Unsegmented TCP over IPv6.
        const TSO6 = 1 << 2;
        /// Unsegmented TCP that carries CWR.
        const ECN = 1 << 3;
        /// Unfragmented UDP.
        const UFO = 1 << 4;
        /// Unsegmented UDP over IPv4.
        const USO4 = 1 << 5;
        /// Unsegmented UDP over IPv6.
        const USO6 = 1 << 6;
        /// A word that the checksum is right is believed. Only for a sender that is the host's kernel.
        const DATA_VALID = 1 << 7;
    }
}

/// [`Accepts`] and the feature bits that `CTRL_GUEST_OFFLOADS` uses for them.
const GUEST_BITS: [(Features, Accepts); 7] = [
    (Features::GUEST_CSUM, Accepts::CSUM),
    (Features::GUEST_TSO4, Accepts::TSO4),
    (Features::GUEST_TSO6, Accepts::TSO6),
    (Features::GUEST_ECN, Accepts::ECN),
    (Features::GUEST_UFO, Accepts::UFO),
    (Features::GUEST_USO4, Accepts::USO4),
    (Features::GUEST_USO6, Accepts::USO6),
];

impl Accepts {
    /// What a driver takes that has these `GUEST_` features on; other bits are ignored.
    pub fn of_guest_offloads(features: Features) -> Self {
        debug_assert!(GUEST_BITS.iter().all(|(feature, _)| GUEST_OFFLOADS.contains(*feature)));
        let chosen = GUEST_BITS.iter().filter(|(feature, _)| features.contains(*feature));
        chosen.fold(Self::empty(), |accepts, (_, more)| accepts | *more)
    }

    /// Whether a frame with this offload can be passed on as it is.
    #[inline]
    pub fn takes(self, offload: &Offload) -> bool {
        match offload {
            Offload::None | Offload::Verified => true,
            Offload::Checksum { .. } => self.contains(Self::CSUM),
            Offload::Segment(segmentation) => self.contains(segmentation.needs()),
        }
    }
}

/// How a large packet becomes small ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// TCP over IPv4 into segments.
    Tcp4,
    /// TCP over IPv6 into segments.
    Tcp6,
    /// UDP over IPv4 into IP fragments.
    Ufo4,
    /// UDP over IPv6 into IP fragments.
    Ufo6,
    /// UDP over IPv4 into datagrams.
    Uso4,
    /// UDP over IPv6 into datagrams.
    Uso6,
}

impl SegmentKind {
    /// Whether the packet is TCP.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    /// Whether the packet is IPv4.
    pub fn is_ipv4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Ufo4 | Self::Uso4)
    }

    fn gso_type(self) -> u8 {
        match self {
            Self::Tcp4 => GSO_TCPV4,
            Self::Tcp6 => GSO_TCPV6,
            Self::Ufo4 | Self::Ufo6 => GSO_UDP,
            Self::Uso4 | Self::Uso6 => GSO_UDP_L4,
        }
    }

    fn accept(self) -> Accepts {
        match self {
            Self::Tcp4 => Accepts::TSO4,
            Self::Tcp6 => Accepts::TSO6,
            Self::Ufo4 | Self::Ufo6 => Accepts::UFO,
            Self::Uso4 => Accepts::USO4,
            Self::Uso6 => Accepts::USO6,
        }
    }

    /// Where the checksum lies in the transport header, in bytes.
    pub fn checksum_at(self) -> u16 {
        if self.is_tcp() { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT }
    }
}

/// A validated request to segment. The transport checksum is unfinished too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// What kind of packet.
    pub kind: SegmentKind,
    /// The sender says that the packet carries CWR.
    pub ecn: bool,
    /// Bytes of payload in each segment; of UDP header and payload in each fragment.
    pub size: u16,
    /// Bytes of all headers, recomputed from the packet.
    pub header_len: u16,
    /// Where the transport header begins, in bytes from the start of the frame.
    pub transport_at: u16,
}

impl Segmentation {
    fn needs(&self) -> Accepts {
        let ecn = if self.ecn { Accepts::ECN } else { Accepts::empty() };
        Accepts::CSUM | self.kind.accept() | ecn
    }
}

/// What is still to be done to a frame. True of the frame it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// Nothing, and the host's kernel has verified the checksum.
    Verified,
    /// The sum from `start` to the frame's end goes to `start + offset`.
    Checksum {
        /// Bytes from the start of the frame.
        start: u16,
        /// Bytes from `start`.
        offset: u16,
    },
    /// The packet is to be segmented.
    Segment(Segmentation),
}

impl Offload {
    /// The header that describes the frame to a receiver that takes it; `num_buffers` is 1.
    ///
    /// Nothing of the sender's header is passed on: each field is what validation found.
    #[inline]
    pub fn header(&self) -> NetHeader {
        let plain = NetHeader { num_buffers: 1, ..NetHeader::default() };
        match *self {
            Self::None => plain,
            Self::Verified => NetHeader { flags: FLAG_DATA_VALID, ..plain },
            Self::Checksum { start, offset } => {
                NetHeader { flags: FLAG_NEEDS_CSUM, csum_start: start, csum_offset: offset, ..plain }
            }
            Self::Segment(segmentation) => NetHeader {
                flags: FLAG_NEEDS_CSUM,
                gso_type: segmentation.kind.gso_type() | if segmentation.ecn { GSO_ECN } else { 0 },
                hdr_len: segmentation.header_len,
                gso_size: segmentation.size,
                csum_start: segmentation.transport_at,
                csum_offset: segmentation.kind.checksum_at(),
                ..plain
            },
        }
    }
}

/// Why a frame is not carried: what its sender's header claims is impossible, or was not negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum HeaderFault {
    /// Shorter than a virtio header and an Ethernet header.
    #[error("frame shorter than its headers")]
    Runt,
    /// Longer than an IP packet with tags can be.
    #[error("frame longer than {FRAME_LEN_MAX} bytes")]
    Oversize,
    /// A checksum request without CSUM.
    #[error("checksum offload was not negotiated")]
    ChecksumNotNegotiated,
    /// The checksum would begin or lie outside the frame.
    #[error("checksum outside the frame")]
    ChecksumRange,
    /// The checksum would lie in front of the transport header, or not where TCP or UDP has it.
    #[error("checksum not where the packet's transport header has it")]
    ChecksumPlace,
    /// A segmentation type that does not exist.
    #[error("unknown segmentation type")]
    SegmentType,
    /// A segmentation type that was not negotiated.
    #[error("segmentation type was not negotiated")]
    SegmentNotNegotiated,
    /// A segmentation request without a checksum request (virtio 1.3 §5.1.6.2.1 forbids it).
    #[error("segmentation without checksum")]
    SegmentWithoutChecksum,
    /// The packet is not of the kind that its segmentation type says, is a fragment, or its headers are cut.
    #[error("segmentation type does not fit the packet")]
    SegmentPacket,
    /// Zero, too small, or too many segments.
    #[error("segment size out of range")]
    SegmentSize,
}

impl HeaderFault {
    /// Every fault, in order.
    pub const ALL: [Self; 10] = [
        Self::Runt,
        Self::Oversize,
        Self::ChecksumNotNegotiated,
        Self::ChecksumRange,
        Self::ChecksumPlace,
        Self::SegmentType,
        Self::SegmentNotNegotiated,
        Self::SegmentWithoutChecksum,
        Self::SegmentPacket,
        Self::SegmentSize,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// A name for counters and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::Oversize => "oversize",
            Self::ChecksumNotNegotiated => "checksum-not-negotiated",
            Self::ChecksumRange => "checksum-range",
            Self::ChecksumPlace => "checksum-place",
            Self::SegmentType => "segment-type",
            Self::SegmentNotNegotiated => "segment-not-negotiated",
            Self::SegmentWithoutChecksum => "segment-without-checksum",
            Self::SegmentPacket => "segment-packet",
            Self::SegmentSize => "segment-size",
        }
    }
}

/// Validates what `header` asks for a frame of `frame_len` bytes that begins with `head`, from a sender that
/// may use `accepts`.
///
/// `head` is a private copy of the frame's first bytes: all of a frame up to 128 bytes, and enough to hold the
/// headers of a longer one. `hdr_len` is never looked at. A packet that fits into one segment only needs its
/// checksum. Unknown flags are ignored, as the specification asks (virtio 1.3 §5.1.6.2.2).
pub fn validate(
    header: &NetHeader,
    head: &[u8],
    frame_len: u32,
    accepts: Accepts,
) -> Result<Offload, HeaderFault> {
    if frame_len < FRAME_LEN_MIN || head.len() < FRAME_LEN_MIN as usize {
        return Err(HeaderFault::Runt);
    }
    if frame_len > FRAME_LEN_MAX {
        return Err(HeaderFault::Oversize);
    }
    if header.flags & FLAG_NEEDS_CSUM == 0 {
        if header.gso_type != GSO_NONE {
            return Err(HeaderFault::SegmentWithoutChecksum);
        }
        let verified = header.flags & FLAG_DATA_VALID != 0 && accepts.contains(Accepts::DATA_VALID);
        return Ok(if verified { Offload::Verified } else { Offload::None });
    }
    if !accepts.contains(Accepts::CSUM) {
        return Err(HeaderFault::ChecksumNotNegotiated);
    }
    let packet = Packet::parse(head).ok_or(HeaderFault::Runt)?;
    let checksum = checksum(header, &packet, frame_len)?;
    if header.gso_type == GSO_NONE {
        return Ok(checksum);
    }
    let segmentation = segmentation(header, &packet)?;
    if !accepts.contains(segmentation.needs()) {
        return Err(HeaderFault::SegmentNotNegotiated);
    }
    sized(segmentation, checksum, packet.network_at, head.len(), frame_len)
}

fn checksum(header: &NetHeader, packet: &Packet, frame_len: u32) -> Result<Offload, HeaderFault> {
    let (start, offset) = (header.csum_start, header.csum_offset);
    if u32::from(start) + u32::from(offset) + 2 > frame_len {
        return Err(HeaderFault::ChecksumRange);
    }
    let place = match packet.protocol {
        Some(PROTOCOL_TCP) => Some(TCP_CHECKSUM_AT),
        Some(PROTOCOL_UDP) => Some(UDP_CHECKSUM_AT),
        _ => None,
    };
    // Behind the transport header there may be a tunnel, whose inner checksum may lie anywhere.
    let foreign = start == packet.transport_at && place.is_some_and(|place| place != offset);
    // Where IP headers end that were not seen, nobody knows: the sum might rewrite an address.
    if packet.is_ip_unseen() || start < packet.transport_at || foreign {
        return Err(HeaderFault::ChecksumPlace);
    }
    Ok(Offload::Checksum { start, offset })
}

fn segmentation(header: &NetHeader, packet: &Packet) -> Result<Segmentation, HeaderFault> {
    let ipv4 = match packet.network {
        Network::Ipv4 { fragment: false } => true,
        Network::Ipv6 { fragment: false, routed: false, .. } => false,
        _ => return Err(HeaderFault::SegmentPacket),
    };
    let ecn = header.gso_type & GSO_ECN != 0;
    let tcp = matches!(packet.transport, Transport::Tcp { .. });
    let kind = match (header.gso_type & !GSO_ECN, ipv4) {
        (GSO_TCPV4, true) => SegmentKind::Tcp4,
        (GSO_TCPV6, false) => SegmentKind::Tcp6,
        (GSO_UDP, true) => SegmentKind::Ufo4,
        (GSO_UDP, false) => SegmentKind::Ufo6,
        (GSO_UDP_L4, true) => SegmentKind::Uso4,
        (GSO_UDP_L4, false) => SegmentKind::Uso6,
        (GSO_TCPV4 | GSO_TCPV6, _) => return Err(HeaderFault::SegmentPacket),
        _ => return Err(HeaderFault::SegmentType),
    };
    if ecn && !kind.is_tcp() {
        return Err(HeaderFault::SegmentType);
    }
    let header_len = packet.header_len().filter(|_| tcp == kind.is_tcp());
    let header_len = header_len.ok_or(HeaderFault::SegmentPacket)?;
    if header.csum_start != packet.transport_at {
        return Err(HeaderFault::ChecksumPlace);
    }
    let transport_at = packet.transport_at;
    Ok(Segmentation { kind, ecn, size: header.gso_size, header_len, transport_at })
}

/// Bounds the number of segments; a single segment is no segmentation.
fn sized(
    segmentation: Segmentation,
    checksum: Offload,
    network_at: u16,
    head_len: usize,
    frame_len: u32,
) -> Result<Offload, HeaderFault> {
    let header_len = u32::from(segmentation.header_len);
    if header_len > frame_len || head_len.min(HEADERS_LEN_MAX) < header_len as usize {
        return Err(HeaderFault::SegmentPacket);
    }
    // IPv4 counts its header in its 16-bit length, IPv6 does not.
    let uncounted = u32::from(network_at) + if segmentation.kind.is_ipv4() { 0 } else { 40 };
    if frame_len - uncounted > u32::from(u16::MAX) {
        return Err(HeaderFault::Oversize);
    }
    let size = u32::from(segmentation.size);
    let payload = match segmentation.kind {
        SegmentKind::Ufo4 | SegmentKind::Ufo6 => frame_len - u32::from(segmentation.transport_at),
        _ => frame_len - header_len,
    };
    if size == 0 {
        return Err(HeaderFault::SegmentSize);
    }
    if payload <= size {
        return Ok(checksum);
    }
    let fits = match segmentation.kind {
        SegmentKind::Uso4 | SegmentKind::Uso6 => payload.div_ceil(size) <= UDP_SEGMENTS_MAX,
        _ => segmentation.size >= SEGMENT_SIZE_MIN,
    };
    if fits { Ok(Offload::Segment(segmentation)) } else { Err(HeaderFault::SegmentSize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::checksum::Sum;
    use proptest::prelude::*;

    const ALL: Accepts = Accepts::all().difference(Accepts::DATA_VALID);

    fn tcp4() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let mut tcp = [0; 32];
        tcp[12] = 0x80;
        frame.extend_from_slice(&tcp);
        frame
    }

    fn udp6() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[0x86, 0xDD, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        frame.extend_from_slice(&[1; 40]);
        frame
    }

    fn request(gso_type: u8, gso_size: u16, csum_start: u16, csum_offset: u16) -> NetHeader {
        NetHeader { flags: 1, gso_type, gso_size, csum_start, csum_offset, ..NetHeader::default() }
    }

    #[test]
    fn nothing_asked_nothing_done() {
        let header = NetHeader { hdr_len: 9999, gso_size: 77, csum_start: 99, ..NetHeader::default() };
        assert_eq!(validate(&header, &tcp4(), 60, Accepts::empty()), Ok(Offload::None));
        assert_eq!(validate(&header, &tcp4()[..13], 13, ALL), Err(HeaderFault::Runt));
        assert_eq!(validate(&header, &tcp4(), FRAME_LEN_MAX + 1, ALL), Err(HeaderFault::Oversize));
    }

    #[test]
    fn only_the_kernel_is_believed_that_a_checksum_is_right() {
        let header = NetHeader { flags: FLAG_DATA_VALID, ..NetHeader::default() };
        assert_eq!(validate(&header, &tcp4(), 66, ALL), Ok(Offload::None));
        assert_eq!(validate(&header, &tcp4(), 66, Accepts::all()), Ok(Offload::Verified));
        assert_eq!(Offload::Verified.header().flags, FLAG_DATA_VALID);
    }

    #[test]
    fn checksums_lie_where_the_packet_has_them() {
        let check = |start, offset| validate(&request(GSO_NONE, 0, start, offset), &tcp4(), 66, ALL);
        assert_eq!(check(34, 16), Ok(Offload::Checksum { start: 34, offset: 16 }));
        // An inner checksum behind the outer transport header.
        assert_eq!(check(50, 6), Ok(Offload::Checksum { start: 50, offset: 6 }));
        assert_eq!(check(34, 0), Err(HeaderFault::ChecksumPlace));
        assert_eq!(check(14, 12), Err(HeaderFault::ChecksumPlace));
        assert_eq!(check(0, 6), Err(HeaderFault::ChecksumPlace));
        assert_eq!(check(65, 0), Err(HeaderFault::ChecksumRange));
        assert_eq!(check(u16::MAX, u16::MAX), Err(HeaderFault::ChecksumRange));
        let header = request(GSO_NONE, 0, 34, 16);
        let without = validate(&header, &tcp4(), 66, Accepts::empty());
        assert_eq!(without, Err(HeaderFault::ChecksumNotNegotiated));
    }

    #[test]
    fn no_checksum_where_headers_were_not_seen() {
        let header = request(GSO_NONE, 0, 54, 6);
        let mut cut = udp6();
        (cut[20], cut[55]) = (60, 30);
        assert_eq!(validate(&header, &cut, 500, ALL), Err(HeaderFault::ChecksumPlace));
        // TCP whose options were not seen still has its checksum in the known place.
        let tcp = |offset| validate(&request(GSO_NONE, 0, 34, offset), &tcp4()[..56], 500, ALL);
        assert_eq!(tcp(0), Err(HeaderFault::ChecksumPlace));
        assert!(tcp(16).is_ok());
        // What is no IP can be summed behind its Ethernet header.
        let mut other = tcp4();
        other[12..14].copy_from_slice(&[0x88, 0x47]);
        assert!(validate(&request(GSO_NONE, 0, 14, 6), &other, 66, ALL).is_ok());
        assert!(validate(&request(GSO_NONE, 0, 13, 6), &other, 66, ALL).is_err());
    }

    #[test]
    fn header_lengths_come_from_the_packet() {
        let header = NetHeader { hdr_len: 3, ..request(GSO_TCPV4 | GSO_ECN, 1448, 34, 16) };
        let Ok(Offload::Segment(segmentation)) = validate(&header, &tcp4(), 60_000, ALL) else { panic!() };
        assert_eq!((segmentation.header_len, segmentation.transport_at), (66, 34));
        let passed_on = Offload::Segment(segmentation).header();
        assert_eq!((passed_on.hdr_len, passed_on.gso_type, passed_on.gso_size), (66, 0x81, 1448));
        assert_eq!((passed_on.csum_start, passed_on.csum_offset, passed_on.num_buffers), (34, 16, 1));
    }

    #[test]
    fn what_fits_one_segment_only_needs_its_checksum() {
        let check = |gso, size, len| validate(&request(gso, size, 34, 16), &tcp4(), len, ALL);
        let checksum = Ok(Offload::Checksum { start: 34, offset: 16 });
        assert_eq!(check(GSO_TCPV4, 1000, 66), checksum);
        assert_eq!(check(GSO_TCPV4, 1000, 1066), checksum);
        assert!(matches!(check(GSO_TCPV4, 1000, 1067), Ok(Offload::Segment(_))));
        assert_eq!(check(GSO_TCPV4, 0, 1066), Err(HeaderFault::SegmentSize));
        assert_eq!(check(GSO_TCPV4, 47, 1066), Err(HeaderFault::SegmentSize));
    }

    #[test]
    fn types_have_to_fit_the_packet_and_the_negotiation() {
        let tcp = |gso| validate(&request(gso, 1000, 34, 16), &tcp4(), 5000, ALL);
        assert_eq!(tcp(GSO_TCPV6), Err(HeaderFault::SegmentPacket));
        assert_eq!(tcp(GSO_UDP_L4), Err(HeaderFault::SegmentPacket));
        assert_eq!(tcp(2), Err(HeaderFault::SegmentType));
        assert_eq!(tcp(GSO_ECN), Err(HeaderFault::SegmentType));
        let udp = |gso, size, accepts| validate(&request(gso, size, 54, 6), &udp6(), 5000, accepts);
        assert_eq!(udp(GSO_UDP_L4 | GSO_ECN, 1000, ALL), Err(HeaderFault::SegmentType));
        assert!(matches!(udp(GSO_UDP_L4, 1000, ALL), Ok(Offload::Segment(s)) if s.kind == SegmentKind::Uso6));
        assert!(matches!(udp(GSO_UDP, 1000, ALL), Ok(Offload::Segment(s)) if s.kind == SegmentKind::Ufo6));
        assert_eq!(udp(GSO_UDP_L4, 1000, ALL - Accepts::USO6), Err(HeaderFault::SegmentNotNegotiated));
        assert_eq!(udp(GSO_UDP_L4, 38, ALL), Err(HeaderFault::SegmentSize));
        assert!(udp(GSO_UDP_L4, 39, ALL).is_ok());
        let header = NetHeader { flags: 0, ..request(GSO_TCPV4, 1000, 34, 16) };
        assert_eq!(validate(&header, &tcp4(), 5000, ALL), Err(HeaderFault::SegmentWithoutChecksum));
        let ecn = request(GSO_TCPV4 | GSO_ECN, 1000, 34, 16);
        let refused = validate(&ecn, &tcp4(), 5000, ALL - Accepts::ECN);
        assert_eq!(refused, Err(HeaderFault::SegmentNotNegotiated));
    }

    #[test]
    fn fragments_and_cut_headers_are_not_segmented() {
        let mut fragment = tcp4();
        fragment[20] = 0x20;
        let header = request(GSO_TCPV4, 1000, 34, 16);
        assert_eq!(validate(&header, &fragment, 5000, ALL), Err(HeaderFault::SegmentPacket));
        assert_eq!(validate(&header, &tcp4()[..64], 5000, ALL), Err(HeaderFault::SegmentPacket));
    }

    #[test]
    fn a_receiver_takes_what_it_negotiated() {
        let segment = |kind, ecn| {
            Offload::Segment(Segmentation { kind, ecn, size: 1000, header_len: 54, transport_at: 34 })
        };
        let some = Accepts::CSUM | Accepts::TSO4 | Accepts::USO6;
        assert!(some.takes(&segment(SegmentKind::Tcp4, false)));
        assert!(!some.takes(&segment(SegmentKind::Tcp4, true)));
        assert!(!some.takes(&segment(SegmentKind::Tcp6, false)));
        assert!(!some.takes(&segment(SegmentKind::Uso4, false)));
        assert!(some.takes(&segment(SegmentKind::Uso6, false)));
        assert!(!(some - Accepts::CSUM).takes(&segment(SegmentKind::Tcp4, false)));
        assert!(Accepts::empty().takes(&Offload::Verified));
        assert!(!Accepts::empty().takes(&Offload::Checksum { start: 34, offset: 16 }));
    }

    #[test]
    fn names_are_distinct() {
        let mut names = HeaderFault::ALL.map(HeaderFault::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    proptest! {
        #[test]
        fn whatever_is_validated_is_inside_the_frame(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            shape in 0usize..4,
            extra in 0u32..66_000,
            words in any::<(u8, u8, u16, u16, u16, u16)>(),
        ) {
            let (flags, gso_type, hdr_len, gso_size, csum_start, csum_offset) = words;
            let mut head = match shape { 0 => tcp4(), 1 => udp6(), _ => Vec::new() };
            head.extend_from_slice(&bytes);
            let frame_len = head.len() as u32 + extra;
            let mut header =
                NetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers: 0 };
            if shape < 2 {
                header.gso_type = [1, 4, 3, 5, 0x81][usize::from(gso_type) % 5];
                header.csum_start = [34, 54][shape];
                header.csum_offset = [16, 6][shape];
            }
            match validate(&header, &head, frame_len, Accepts::all()) {
                Ok(Offload::Checksum { start, offset }) => {
                    prop_assert!(u32::from(start) + u32::from(offset) + 2 <= frame_len);
                    prop_assert!(start >= 14);
                }
                Ok(Offload::Segment(s)) => {
                    prop_assert!(usize::from(s.header_len) <= head.len());
                    prop_assert!(u32::from(s.header_len) < frame_len && s.size > 0);
                    prop_assert!(s.transport_at < s.header_len);
                    let _ = Sum::new().bytes(&head[usize::from(s.transport_at)..]);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}
