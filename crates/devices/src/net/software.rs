//! What a receiver did not negotiate, done before delivery: checksums, TCP and UDP segments, IP fragments.
//!
//! **Theory of operation.** The frame is gathered once into a linear private buffer. Segments are made in
//! place: a segment is the bytes of its payload with a copy of the headers written right in front of it, over
//! the end of the segment before, which has been handed out already. So nothing is copied again and nothing is
//! allocated, whatever the number of segments. Addresses and ports are those of the frame's private head;
//! lengths, checksums, sequence numbers and flags are computed here and never taken from the sender.
//!
//! A receiver that finishes checksums itself gets segments with only the pseudo-header's sum.

use super::checksum::Sum;
use super::frame::{FRAME_LEN_MAX, Frame};
use super::offload::{Accepts, Offload, SegmentKind, Segmentation};
use super::packet::{Network, PROTOCOL_FRAGMENT, PROTOCOL_TCP, PROTOCOL_UDP, Packet};
use std::ops::ControlFlow;

/// Room in front of the frame for what IPv6 fragments add to its headers.
const ROOM: usize = 16;
const FRAGMENT_HEADER_LEN: usize = 8;
/// The longest headers that are repeated, in bytes; see `offload::HEADERS_LEN_MAX`.
const TEMPLATE_LEN_MAX: usize = super::offload::HEADERS_LEN_MAX + FRAGMENT_HEADER_LEN;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Scratch space for software offloads: one for each worker.
pub struct Software {
    linear: Box<[u8]>,
    /// Identification of the next fragmented IPv6 packet.
    identification: u32,
}

impl Default for Software {
    fn default() -> Self {
        Self::new()
    }
}

impl Software {
    /// Allocates the buffer: 64 KiB, once.
    pub fn new() -> Self {
        Self { linear: vec![0; ROOM + FRAME_LEN_MAX as usize].into(), identification: 1 }
    }

    /// Turns `frame` into frames that a receiver with `accepts` takes, and hands each out in order. `each` ends
    /// it early with `Break`. Returns how many frames were handed out.
    ///
    /// A frame that is taken as it is comes out once, copied; so callers look at [`Accepts::takes`] first.
    pub fn convert(
        &mut self,
        frame: &Frame<'_>,
        accepts: Accepts,
        mut each: impl FnMut(&Frame<'_>) -> ControlFlow<()>,
    ) -> usize {
        let len = frame.copy_to(&mut self.linear[ROOM..]);
        let offload = frame.offload();
        if let (Offload::Segment(segmentation), false) = (offload, accepts.takes(&offload)) {
            return self.segment(&segmentation, len, accepts, &mut each).unwrap_or(0);
        }
        let bytes = &mut self.linear[ROOM..ROOM + len];
        let mut left = offload;
        if let (Offload::Checksum { start, offset }, false) = (offload, accepts.takes(&offload)) {
            finish_checksum(bytes, usize::from(start), usize::from(offset));
            left = Offload::None;
        }
        let _ = each(&Frame::private(bytes, left));
        1
    }

    /// `None` when the frame's headers are not what its offload says, which validation rules out.
    fn segment(
        &mut self,
        segmentation: &Segmentation,
        len: usize,
        accepts: Accepts,
        each: &mut dyn FnMut(&Frame<'_>) -> ControlFlow<()>,
    ) -> Option<usize> {
        let bytes = self.linear.get_mut(ROOM..ROOM + len)?;
        let header_len = usize::from(segmentation.header_len);
        let packet = Packet::parse(bytes.get(..header_len)?)?;
        let fragments = matches!(segmentation.kind, SegmentKind::Ufo4 | SegmentKind::Ufo6);
        let cut = if fragments {
            finish_udp(bytes, &packet)?;
            self.identification = self.identification.wrapping_add(0x9E37_79B1);
            Cut::fragments(bytes, &packet, segmentation.size, self.identification)?
        } else {
            Cut::segments(bytes, &packet, segmentation, accepts.contains(Accepts::CSUM))?
        };
        Some(cut.run(&mut self.linear[..ROOM + len], each))
    }
}

/// Sums `bytes` from `start` on, the partial sum in the field included, and stores the result.
fn finish_checksum(bytes: &mut [u8], start: usize, offset: usize) {
    let Some(covered) = bytes.get_mut(start..) else { return };
    let sum = Sum::new().bytes(covered).finish_nonzero();
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Fills in length and checksum of a whole UDP packet.
fn finish_udp(bytes: &mut [u8], packet: &Packet) -> Option<()> {
    let at = usize::from(packet.transport_at);
    let len = (bytes.len() - at) as u32;
    let pseudo = packet.pseudo_header(bytes, PROTOCOL_UDP, len);
    let udp = bytes.get_mut(at..)?;
    udp.get_mut(4..6)?.copy_from_slice(&(len as u16).to_be_bytes());
    udp.get_mut(6..8)?.fill(0);
    let sum = pseudo.bytes(udp).finish_nonzero();
    udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// How one large packet is cut: the headers that every piece begins with, and how they differ.
struct Cut {
    template: [u8; TEMPLATE_LEN_MAX],
    template_len: usize,
    /// Where the bytes to be cut begin in the packet.
    body_at: usize,
    /// Bytes of body in each piece.
    size: usize,
    network_at: usize,
    ipv4_len: Option<usize>,
    piece: Piece,
}

/// What the pieces are.
enum Piece {
    Tcp { at: usize, sequence: u32, pseudo: Sum, leave_checksum: bool },
    Udp { at: usize, pseudo: Sum, leave_checksum: bool },
    Ipv4Fragment,
    Ipv6Fragment { identification: u32 },
}

/// Where a piece stands among the others.
struct Place {
    index: usize,
    /// Bytes of body in front of it.
    offset: usize,
    is_last: bool,
}

impl Cut {
    fn new(bytes: &[u8], packet: &Packet, template_len: usize, size: usize, piece: Piece) -> Option<Self> {
        let mut template = [0; TEMPLATE_LEN_MAX];
        template.get_mut(..template_len)?.copy_from_slice(bytes.get(..template_len)?);
        let network_at = usize::from(packet.network_at);
        let is_ipv4 = matches!(packet.network, Network::Ipv4 { .. });
        let ipv4_len = is_ipv4.then(|| usize::from(template[network_at] & 0xF) * 4);
        (size != 0).then_some(Self {
            template,
            template_len,
            body_at: template_len,
            size,
            network_at,
            ipv4_len,
            piece,
        })
    }

    fn segments(bytes: &[u8], packet: &Packet, wanted: &Segmentation, leave_checksum: bool) -> Option<Self> {
        let at = usize::from(wanted.transport_at);
        let protocol = if wanted.kind.is_tcp() { PROTOCOL_TCP } else { PROTOCOL_UDP };
        // The length is added for each piece.
        let pseudo = packet.pseudo_header(bytes, protocol, 0);
        let piece = if wanted.kind.is_tcp() {
            let sequence = bytes.get(at + 4..at + 8)?;
            let sequence = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
            Piece::Tcp { at, sequence, pseudo, leave_checksum }
        } else {
            Piece::Udp { at, pseudo, leave_checksum }
        };
        Self::new(bytes, packet, usize::from(wanted.header_len), usize::from(wanted.size), piece)
    }

    fn fragments(bytes: &[u8], packet: &Packet, size: u16, identification: u32) -> Option<Self> {
        // Offsets of fragments are counted in units of 8 bytes.
        let size = usize::from(size & !7);
        match packet.network {
            Network::Ipv4 { .. } => {
                let header_len = usize::from(packet.transport_at);
                let mut cut = Self::new(bytes, packet, header_len, size, Piece::Ipv4Fragment)?;
                // A sender that forbids fragments may leave this field zero; fragments need one.
                let field = &mut cut.template[cut.network_at + 4..cut.network_at + 6];
                if field == [0; 2] {
                    field.copy_from_slice(&(identification as u16).to_be_bytes());
                }
                Some(cut)
            }
            Network::Ipv6 { unfragmentable_end, next_header_at, .. } => {
                let piece = Piece::Ipv6Fragment { identification };
                let end = usize::from(unfragmentable_end);
                let mut cut = Self::new(bytes, packet, end, size, piece)?;
                let next_header_at = usize::from(next_header_at);
                let next_header = std::mem::replace(&mut cut.template[next_header_at], PROTOCOL_FRAGMENT);
                cut.template[end] = next_header;
                cut.template_len += FRAGMENT_HEADER_LEN;
                Some(cut)
            }
            Network::Other => None,
        }
    }

    /// Makes every piece in place and hands it out. `linear` is [`ROOM`] and the packet.
    fn run(mut self, linear: &mut [u8], each: &mut dyn FnMut(&Frame<'_>) -> ControlFlow<()>) -> usize {
        let body = ROOM + self.body_at;
        let len = linear.len() - body;
        let mut place = Place { index: 0, offset: 0, is_last: false };
        while place.offset < len {
            let now = self.size.min(len - place.offset);
            place.is_last = place.offset + now == len;
            let start = body + place.offset - self.template_len;
            let bytes = &mut linear[start..body + place.offset + now];
            bytes[..self.template_len].copy_from_slice(&self.template[..self.template_len]);
            let offload = self.finish(bytes, &place);
            place.index += 1;
            place.offset += now;
            if each(&Frame::private(bytes, offload)).is_break() {
                break;
            }
        }
        place.index
    }

    /// Corrects the headers of one piece, transport layer last: its checksum covers nothing of the others.
    fn finish(&mut self, bytes: &mut [u8], place: &Place) -> Offload {
        match self.ipv4_len {
            Some(header_len) => self.finish_ipv4(bytes, header_len, place),
            None => self.finish_ipv6(bytes, place),
        }
        match self.piece {
            Piece::Tcp { at, sequence, pseudo, leave_checksum } => {
                let tcp = &mut bytes[at..];
                tcp[4..8].copy_from_slice(&sequence.wrapping_add(place.offset as u32).to_be_bytes());
                if !place.is_last {
                    tcp[13] &= !(TCP_FIN | TCP_PSH);
                }
                if place.index != 0 {
                    tcp[13] &= !TCP_CWR;
                }
                finish_transport(tcp, at, 16, pseudo, leave_checksum)
            }
            Piece::Udp { at, pseudo, leave_checksum } => {
                let udp = &mut bytes[at..];
                let len = udp.len() as u16;
                udp[4..6].copy_from_slice(&len.to_be_bytes());
                finish_transport(udp, at, 6, pseudo, leave_checksum)
            }
            Piece::Ipv4Fragment | Piece::Ipv6Fragment { .. } => Offload::None,
        }
    }

    fn finish_ipv4(&mut self, bytes: &mut [u8], header_len: usize, place: &Place) {
        let total_len = (bytes.len() - self.network_at) as u16;
        let ip = &mut bytes[self.network_at..self.network_at + header_len];
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        if matches!(self.piece, Piece::Ipv4Fragment) {
            let more = if place.is_last { 0 } else { 0x2000 };
            ip[6..8].copy_from_slice(&((place.offset / 8) as u16 | more).to_be_bytes());
            if place.index == 0 {
                let options = self.network_at + 20..self.network_at + header_len;
                drop_first_only_options(&mut self.template[options]);
            }
        } else {
            let identification = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(place.index as u16);
            ip[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        ip[10..12].fill(0);
        let sum = Sum::new().bytes(ip).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn finish_ipv6(&self, bytes: &mut [u8], place: &Place) {
        let payload_len = (bytes.len() - self.network_at - 40) as u16;
        bytes[self.network_at + 4..self.network_at + 6].copy_from_slice(&payload_len.to_be_bytes());
        if let Piece::Ipv6Fragment { identification } = self.piece {
            let more = u16::from(!place.is_last);
            let fragment = &mut bytes[self.template_len - FRAGMENT_HEADER_LEN..self.template_len];
            fragment[1] = 0;
            fragment[2..4].copy_from_slice(&(place.offset as u16 | more).to_be_bytes());
            fragment[4..8].copy_from_slice(&identification.to_be_bytes());
        }
    }
}

/// The checksum of one segment, or only its pseudo-header's part when the receiver finishes it.
fn finish_transport(
    transport: &mut [u8],
    start: usize,
    checksum_at: usize,
    pseudo: Sum,
    leave: bool,
) -> Offload {
    let pseudo = pseudo.word(transport.len() as u16);
    transport[checksum_at..checksum_at + 2].fill(0);
    let value = if leave { pseudo.partial() } else { pseudo.bytes(transport).finish_nonzero() };
    transport[checksum_at..checksum_at + 2].copy_from_slice(&value.to_be_bytes());
    if leave { Offload::Checksum { start: start as u16, offset: checksum_at as u16 } } else { Offload::None }
}

/// Blanks the IPv4 options that only the first fragment carries: those without the copied flag (RFC 791 §3.1).
fn drop_first_only_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            END => return,
            NO_OPERATION => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(0)),
        };
        if len == 0 || at + len > options.len() || (kind != NO_OPERATION && len < 2) {
            // Not an option list: nothing of it is repeated.
            return options[at..].fill(NO_OPERATION);
        }
        if kind & COPIED == 0 {
            options[at..at + len].fill(NO_OPERATION);
        }
        at += len;
    }
}
