//! What the embedded driver says to its device: feature bits, the header before a frame, checksums.

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket, checksum,
};
use std::net::Ipv4Addr;

/// Feature bits that the driver can use (`virtio 1.3 §5.1.3`, `§6`; bit 30 is vhost-user's).
pub(crate) mod feature {
    /// Leaves checksums to the device.
    pub(crate) const CSUM: u64 = 1 << 0;
    /// Accepts frames with a checksum left to do.
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    /// Accepts TCP/IPv4 frames larger than the MTU.
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    /// Leaves TCP/IPv4 segmentation to the device.
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    /// One frame may fill several receive buffers.
    pub(crate) const MRG_RXBUF: u64 = 1 << 15;
    /// Chains may be indirect tables.
    pub(crate) const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Kicks and calls are asked for by index.
    pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
    /// The session has protocol features.
    pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// The device follows virtio 1.0 or later.
    pub(crate) const VERSION_1: u64 = 1 << 32;
}

/// Length of `struct virtio_net_hdr_v1` in bytes.
pub(crate) const HEADER_LEN: usize = 12;
/// Length of an Ethernet header in bytes.
pub(crate) const ETHERNET_LEN: usize = 14;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;

/// What the driver asks of the device for one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Begin of the checksummed part and offset of its checksum field, in bytes.
    pub(crate) checksum: Option<(u16, u16)>,
    /// Payload bytes of one segment, and bytes of header before the payload.
    pub(crate) segment: Option<(u16, u16)>,
}

impl Request {
    /// The header's bytes (`virtio 1.3 §5.1.6`, little endian).
    pub(crate) fn emit(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        if let Some((start, offset)) = self.checksum {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        if let Some((size, header_len)) = self.segment {
            header[1] = GSO_TCPV4;
            header[2..4].copy_from_slice(&header_len.to_le_bytes());
            header[4..6].copy_from_slice(&size.to_le_bytes());
        }
        header
    }
}

/// What the device says about a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The device vouches for the checksum, or it was never computed.
    pub(crate) checksum_done: bool,
    /// Receive buffers that the frame fills.
    pub(crate) buffers: u16,
}

impl Received {
    /// Reads the header's bytes.
    pub(crate) fn parse(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            checksum_done: header[0] & (NEEDS_CSUM | DATA_VALID) != 0,
            buffers: u16::from_le_bytes([header[10], header[11]]),
        }
    }
}

/// Leaves the checksum of a TCP or UDP frame to the device: puts the sum of the pseudo header into the field
/// and says where it is. `segment` is the payload size to cut at, if any. Other frames are not touched.
pub(crate) fn leave_checksum(frame: &mut [u8], segment: Option<u16>) -> Request {
    let Some((start, protocol, pseudo)) = locate_transport(frame) else { return Request::default() };
    let offset = if protocol == IpProtocol::Tcp { 16 } else { 6 };
    let Some(field) = frame.get_mut(start + offset..start + offset + 2) else { return Request::default() };
    field.copy_from_slice(&pseudo.to_be_bytes());
    let header_len = frame.get(start + 12).map_or(0, |byte| start + usize::from(byte >> 4) * 4);
    Request {
        checksum: Some((start as u16, offset as u16)),
        segment: segment.filter(|_| protocol == IpProtocol::Tcp).map(|size| (size, header_len as u16)),
    }
}

/// Whether the transport checksum of an IPv4 frame is right; other frames have none to check here.
pub(crate) fn checksum_is_right(frame: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return true;
    }
    let Ok(packet) = Ipv4Packet::new_checked(ethernet.payload()) else { return false };
    let (source, target) = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Tcp => {
            TcpPacket::new_checked(packet.payload()).is_ok_and(|tcp| tcp.verify_checksum(&source, &target))
        }
        IpProtocol::Udp => {
            UdpPacket::new_checked(packet.payload()).is_ok_and(|udp| udp.verify_checksum(&source, &target))
        }
        _ => true,
    }
}

/// An ARP message in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arp {
    /// Someone asks for `target`.
    Request { target: Ipv4Addr },
    /// `sender` says it is at `mac`.
    Reply { sender: Ipv4Addr, mac: [u8; 6] },
}

/// Reads an ARP message for IPv4 over Ethernet (RFC 826).
pub(crate) fn parse_arp(frame: &[u8]) -> Option<Arp> {
    let message = frame.get(ETHERNET_LEN..ETHERNET_LEN + 28).filter(|_| frame[12..14] == [0x08, 0x06])?;
    let ipv4 = |at: usize| Ipv4Addr::new(message[at], message[at + 1], message[at + 2], message[at + 3]);
    match message[7] {
        1 => Some(Arp::Request { target: ipv4(24) }),
        2 => Some(Arp::Reply { sender: ipv4(14), mac: message[8..14].try_into().ok()? }),
        _ => None,
    }
}

/// Where the TCP or UDP header of an unfragmented IPv4 frame begins, which it is, and its pseudo header's sum.
fn locate_transport(frame: &[u8]) -> Option<(usize, IpProtocol, u16)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let protocol = packet.next_header();
    if !matches!(protocol, IpProtocol::Tcp | IpProtocol::Udp)
        || packet.more_frags()
        || packet.frag_offset() != 0
    {
        return None;
    }
    let header_len = usize::from(packet.header_len());
    let length = u32::from(packet.total_len()) - header_len as u32;
    let pseudo = checksum::pseudo_header_v4(&packet.src_addr(), &packet.dst_addr(), protocol, length);
    Some((ETHERNET_LEN + header_len, protocol, pseudo))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram of 5 bytes from 10.0.0.1 to 10.0.0.2, without a checksum.
    fn datagram() -> Vec<u8> {
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00];
        frame.extend([0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x10, 0, 0x10, 1, 0, 13, 0, 0]);
        frame.extend(b"hello");
        frame
    }

    #[test]
    fn a_left_checksum_can_be_finished_from_the_header() {
        let mut frame = datagram();
        frame[40..42].copy_from_slice(&[1, 1]);
        assert!(!checksum_is_right(&frame));
        let request = leave_checksum(&mut frame, Some(1448));
        assert_eq!(request, Request { checksum: Some((34, 6)), segment: None });
        // What a device does with it (virtio 1.3 §5.1.6.2).
        let sum = !checksum::data(&frame[34..]);
        frame[40..42].copy_from_slice(&sum.to_be_bytes());
        assert!(checksum_is_right(&frame));
    }

    #[test]
    fn headers_say_what_was_asked() {
        let request = Request { checksum: Some((34, 16)), segment: Some((1448, 66)) };
        assert_eq!(request.emit(), [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
        let mut header = Request::default().emit();
        header[10] = 3;
        assert_eq!(Received::parse(&header), Received { checksum_done: false, buffers: 3 });
        header[0] = DATA_VALID;
        assert!(Received::parse(&header).checksum_done);
    }

    #[test]
    fn arp_replies_are_read_and_short_frames_ignored() {
        let mut frame = vec![0; 42];
        frame[12..14].copy_from_slice(&[8, 6]);
        frame[21] = 2;
        frame[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame[28..32].copy_from_slice(&[10, 0, 0, 9]);
        let reply = Arp::Reply { sender: Ipv4Addr::new(10, 0, 0, 9), mac: [2, 0, 0, 0, 0, 9] };
        assert_eq!(parse_arp(&frame), Some(reply));
        assert_eq!(parse_arp(&frame[..41]), None);
    }
}
