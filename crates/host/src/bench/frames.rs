//! The frames that embedded guests send each other: UDP datagrams of requests and responses, and what a TCP stream looks
//! like on a virtqueue, with a number at both ends of the payload by which each is known again.

use crate::embedded::wire::ETHERNET_LEN;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
};
use std::net::Ipv4Addr;

const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;
/// Bytes of the number at each end of a payload.
const NUMBER_LEN: usize = 8;
/// Least payload in bytes: the number twice.
pub(super) const PAYLOAD_MIN: usize = 2 * NUMBER_LEN;
/// Most payload of a frame that TCP leaves to the device to cut: an IPv4 packet is no longer.
pub(super) const STREAM_PAYLOAD: usize = 65_535 - IPV4_LEN - TCP_LEN;
/// Payload bytes of one segment of a stream, at the usual MTU of 1500.
pub(super) const SEGMENT: u16 = 1460;
/// What stands between the numbers.
const FILL: u8 = 0x5a;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    /// A piece of a stream.
    Data,
    /// Says how many pieces came.
    Ack,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Request, Self::Response, Self::Data, Self::Ack];

    /// The destination port it travels to.
    fn port(self) -> u16 {
        5001 + self as u16
    }

    fn protocol(self) -> IpProtocol {
        if self == Self::Data { IpProtocol::Tcp } else { IpProtocol::Udp }
    }

    /// Bytes before the payload.
    pub(super) fn header_len(self) -> usize {
        ETHERNET_LEN + IPV4_LEN + if self == Self::Data { TCP_LEN } else { UDP_LEN }
    }
}

/// A guest's addresses, from its number.
pub(super) fn mac(guest: usize) -> [u8; 6] {
    let [high, low] = (guest as u16).to_be_bytes();
    [0x52, 0x54, 0, 0x42, high, low]
}

fn address(guest: usize) -> Ipv4Addr {
    let [high, low] = (guest as u16 + 1).to_be_bytes();
    Ipv4Addr::new(10, 42, high, low)
}

/// A frame to send again and again, each time with another number.
pub(super) struct Template {
    header_len: usize,
    frame: Vec<u8>,
}

impl Template {
    /// A frame of this kind with `payload` bytes, [`PAYLOAD_MIN`] at least.
    pub(super) fn new(kind: Kind, from: usize, to: usize, payload: usize) -> Self {
        let payload = payload.max(PAYLOAD_MIN);
        let header_len = kind.header_len();
        let mut frame = vec![FILL; header_len + payload];
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(mac(from)),
            dst_addr: EthernetAddress(mac(to)),
            ethertype: EthernetProtocol::Ipv4,
        };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        let ipv4 = Ipv4Repr {
            src_addr: address(from),
            dst_addr: address(to),
            next_header: kind.protocol(),
            payload_len: header_len + payload - ETHERNET_LEN - IPV4_LEN,
            hop_limit: 64,
        };
        let checksums = ChecksumCapabilities::default();
        ipv4.emit(&mut Ipv4Packet::new_unchecked(&mut frame[ETHERNET_LEN..]), &checksums);
        let (header, payload) =
            frame[ETHERNET_LEN + IPV4_LEN..].split_at_mut(header_len - ETHERNET_LEN - IPV4_LEN);
        emit_transport(kind, header, payload.len());
        Self { header_len, frame }
    }

    /// The frame with this number, to be sent.
    pub(super) fn numbered(&mut self, number: u64) -> &mut [u8] {
        let payload = &mut self.frame[self.header_len..];
        let last = payload.len() - NUMBER_LEN;
        payload[..NUMBER_LEN].copy_from_slice(&number.to_le_bytes());
        payload[last..].copy_from_slice(&number.to_le_bytes());
        &mut self.frame
    }

    /// The frame with another's payload, if that is as long as this one's: the answer to a request.
    pub(super) fn carrying(&mut self, payload: &[u8]) -> Option<&mut [u8]> {
        let own = &mut self.frame[self.header_len..];
        (own.len() == payload.len()).then(|| own.copy_from_slice(payload))?;
        Some(&mut self.frame)
    }
}

/// Ports and lengths of the transport header; no checksum, which UDP over IPv4 permits (RFC 768). That of a TCP frame is left
/// to the device.
fn emit_transport(kind: Kind, header: &mut [u8], payload: usize) {
    let checksums = ChecksumCapabilities::ignored();
    let (source, target) = (address(0).into(), address(1).into());
    if kind == Kind::Data {
        let tcp = TcpRepr {
            src_port: kind.port(),
            dst_port: kind.port(),
            control: TcpControl::Psh,
            seq_number: TcpSeqNumber(1),
            ack_number: Some(TcpSeqNumber(1)),
            window_len: u16::MAX,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        tcp.emit(&mut TcpPacket::new_unchecked(header), &source, &target, &checksums);
    } else {
        let mut udp = UdpPacket::new_unchecked(header);
        udp.set_src_port(kind.port());
        udp.set_dst_port(kind.port());
        udp.set_len((UDP_LEN + payload) as u16);
        udp.set_checksum(0);
    }
}

/// A frame that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received<'f> {
    pub(super) kind: Kind,
    pub(super) number: u64,
    pub(super) payload: &'f [u8],
}

impl<'f> Received<'f> {
    /// Reads a frame; `None` if it is none of ours, or if the number at its end is another than at its beginning.
    pub(super) fn parse(frame: &'f [u8]) -> Option<Self> {
        let at = ETHERNET_LEN + IPV4_LEN + 2;
        let port = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
        let kind = Kind::ALL.into_iter().find(|kind| kind.port() == port)?;
        let payload = frame.get(kind.header_len()..)?;
        let (first, last) = (payload.first_chunk()?, payload.last_chunk()?);
        (first == last && payload.len() >= PAYLOAD_MIN).then_some(())?;
        Some(Self { kind, number: u64::from_le_bytes(*first), payload })
    }

    /// Whether everything between the numbers is what was put there.
    pub(super) fn is_whole(&self) -> bool {
        let (words, rest) = self.payload[NUMBER_LEN..self.payload.len() - NUMBER_LEN].as_chunks::<8>();
        words.iter().all(|word| *word == [FILL; 8]) && rest.iter().all(|byte| *byte == FILL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::wire;

    #[test]
    fn frames_are_known_again_by_kind_and_number() {
        for (kind, payload) in
            [(Kind::Request, 16), (Kind::Response, 1448), (Kind::Data, STREAM_PAYLOAD), (Kind::Ack, 0)]
        {
            let mut template = Template::new(kind, 3, 300, payload);
            let frame = template.numbered(0x0102_0304_0506_0708).to_vec();
            assert_eq!(frame[..6], mac(300));
            let received = Received::parse(&frame).unwrap();
            assert_eq!((received.kind, received.number), (kind, 0x0102_0304_0506_0708));
            assert_eq!(received.payload.len(), payload.max(PAYLOAD_MIN));
            assert!(received.is_whole());
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            assert!(packet.verify_checksum());
            assert_eq!(usize::from(packet.total_len()) + ETHERNET_LEN, frame.len());
            assert_eq!(kind != Kind::Data, wire::checksum_is_right(&frame));
        }
    }

    #[test]
    fn a_response_carries_its_request() {
        let mut request = Template::new(Kind::Request, 0, 1, 64);
        let request = Received::parse(request.numbered(7)).unwrap();
        let mut response = Template::new(Kind::Response, 1, 0, 64);
        let frame = response.carrying(request.payload).unwrap();
        let response = Received::parse(frame).unwrap();
        assert_eq!((response.kind, response.number, response.payload), (Kind::Response, 7, request.payload));
        assert_eq!(Template::new(Kind::Response, 1, 0, 65).carrying(request.payload), None);
    }

    #[test]
    fn damage_is_seen() {
        let mut template = Template::new(Kind::Request, 0, 1, 100);
        let mut frame = template.numbered(7).to_vec();
        let at = frame.len() - 50;
        frame[at] ^= 1;
        assert!(!Received::parse(&frame).unwrap().is_whole());
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(Received::parse(&frame), None);
        assert_eq!(Received::parse(&frame[..40]), None);
    }
}
