//! Software offloads against an independent packet parser: every output is parsed, every checksum verified.

use devices::net::offload::{Accepts, Offload, SEGMENT_SIZE_MIN, SegmentKind, UDP_SEGMENTS_MAX, validate};
use devices::net::{Frame, NetHeader, Software};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader,
    VlanHeader, VlanId,
};
use proptest::prelude::*;
use std::ops::ControlFlow;

const ALL: Accepts = Accepts::all();

/// A packet to be made.
#[derive(Clone, Debug)]
struct Shape {
    ipv4: bool,
    tcp: bool,
    tags: usize,
    /// IPv4 options, or IPv6 extension headers in front of the transport header.
    extras: bool,
    tcp_options: bool,
    payload: Vec<u8>,
}

const SEQUENCE: u32 = 0xFFFF_F000;
const IDENTIFICATION: u16 = 0xFFF0;
/// One option for every fragment (type 0x94, router alert), one for the first only (type 7), two fillers.
const OPTIONS: [u8; 8] = [0x94, 4, 0, 0, 7, 3, 4, 0];

impl Shape {
    /// The whole packet, correct in all its lengths and checksums.
    fn build(&self) -> Vec<u8> {
        let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let vlan = |id| VlanId::try_new(id).unwrap();
        let step = match self.tags {
            0 => start.ip(self.network()),
            1 => start.single_vlan(vlan(5)).ip(self.network()),
            _ => start.double_vlan(vlan(7), vlan(8)).ip(self.network()),
        };
        let mut bytes = Vec::new();
        if self.tcp {
            let mut tcp = TcpHeader::new(1000, 2000, SEQUENCE, 4096);
            (tcp.ack, tcp.psh, tcp.fin, tcp.cwr, tcp.ece) = (true, true, true, true, true);
            if self.tcp_options {
                tcp.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
            }
            step.tcp_header(tcp).write(&mut bytes, &self.payload).unwrap();
        } else {
            step.udp(1000, 2000).write(&mut bytes, &self.payload).unwrap();
        }
        bytes
    }

    fn network(&self) -> IpHeaders {
        if self.ipv4 {
            let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            header.identification = IDENTIFICATION;
            if self.extras {
                header.options = Ipv4Options::from(OPTIONS);
            }
            return IpHeaders::Ipv4(header, Default::default());
        }
        let mut extensions = Ipv6Extensions::default();
        if self.extras {
            let raw = |len| Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![0; len]).unwrap();
            (extensions.hop_by_hop_options, extensions.destination_options) = (Some(raw(14)), Some(raw(6)));
        }
        let header =
            Ipv6Header { hop_limit: 64, source: [0xFD; 16], destination: [0xFE; 16], ..Default::default() };
        IpHeaders::Ipv6(header, extensions)
    }

    fn transport_at(&self) -> usize {
        let network = match (self.ipv4, self.extras) {
            (true, extras) => 20 + if extras { OPTIONS.len() } else { 0 },
            (false, extras) => 40 + if extras { 24 } else { 0 },
        };
        14 + 4 * self.tags + network
    }

    fn request(&self, gso_type: u8, gso_size: u16) -> NetHeader {
        let csum_offset = if self.tcp { 16 } else { 6 };
        NetHeader {
            flags: 1,
            gso_type,
            gso_size,
            csum_start: self.transport_at() as u16,
            csum_offset,
            hdr_len: 0x5555,
            num_buffers: 0,
        }
    }

    /// The packet and its validated offload, as a sender leaves them: lengths and checksums to be finished.
    fn unfinished(&self, gso_type: u8, gso_size: u16) -> (Vec<u8>, Offload) {
        let mut bytes = self.build();
        let header = self.request(gso_type, gso_size);
        let offload = validate(&header, &bytes, bytes.len() as u32, ALL).unwrap();
        if let Offload::Segment(_) = offload {
            let at = self.transport_at() + usize::from(header.csum_offset);
            bytes[at..at + 2].fill(0xAB);
        }
        (bytes, offload)
    }
}

fn convert(bytes: &[u8], offload: Offload, accepts: Accepts) -> Vec<(Vec<u8>, Offload)> {
    let mut software = Software::new();
    let mut out = Vec::new();
    let count = software.convert(&Frame::private(bytes, offload), accepts, |frame| {
        assert!(accepts.takes(&frame.offload()));
        out.push((frame.head().to_vec(), frame.offload()));
        ControlFlow::Continue(())
    });
    assert_eq!(count, out.len());
    out
}

/// One parsed output: headers, and the payload behind the transport header.
struct Parsed<'a> {
    headers: PacketHeaders<'a>,
    payload: &'a [u8],
}

fn vlan_ids(headers: &PacketHeaders<'_>) -> Vec<u16> {
    match headers.vlan() {
        None => vec![],
        Some(VlanHeader::Single(tag)) => vec![tag.vlan_id.value()],
        Some(VlanHeader::Double(tags)) => vec![tags.outer.vlan_id.value(), tags.inner.vlan_id.value()],
    }
}

/// Parses an unfragmented output strictly and verifies lengths and IP and transport checksums.
fn parse<'a>(bytes: &'a [u8], shape: &Shape) -> Parsed<'a> {
    let headers = PacketHeaders::from_ethernet_slice(bytes).unwrap();
    let payload = headers.payload.slice();
    assert_eq!(vlan_ids(&headers), [&[][..], &[5], &[7, 8]][shape.tags]);
    assert!(bytes.ends_with(payload));
    check_network(bytes, &headers, shape);
    let sum = match (headers.net.as_ref().unwrap(), headers.transport.as_ref().unwrap()) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => tcp.calc_checksum_ipv4(ip, payload),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => tcp.calc_checksum_ipv6(ip, payload),
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => udp.calc_checksum_ipv4(ip, payload),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => udp.calc_checksum_ipv6(ip, payload),
        _ => panic!("unexpected layers"),
    };
    let (sum, there) = match headers.transport.as_ref().unwrap() {
        TransportHeader::Tcp(tcp) => (sum.unwrap(), tcp.checksum),
        TransportHeader::Udp(udp) => {
            assert_eq!(usize::from(udp.length), payload.len() + 8);
            (sum.unwrap(), udp.checksum)
        }
        _ => panic!("unexpected transport"),
    };
    // Zero and all ones are the same number to a receiver, but UDP takes zero for "none".
    assert_eq!(sum % 0xFFFF, there % 0xFFFF);
    assert_ne!(there, 0);
    Parsed { headers, payload }
}

fn check_network(bytes: &[u8], headers: &PacketHeaders<'_>, shape: &Shape) {
    let network_at = 14 + 4 * shape.tags;
    match headers.net.as_ref().unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), bytes.len() - network_at);
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(usize::from(ip.payload_length), bytes.len() - network_at - 40);
        }
        _ => panic!("unexpected network"),
    }
}

/// Checks everything that TCP segments owe to the packet they come from.
fn check_tcp(shape: &Shape, size: usize) {
    let gso_type = if shape.ipv4 { 1 } else { 4 } | 0x80;
    let (bytes, offload) = shape.unfinished(gso_type, size as u16);
    let frames = convert(&bytes, offload, Accepts::empty());
    assert_eq!(frames.len(), shape.payload.len().div_ceil(size));
    let mut payload = Vec::new();
    for (index, (frame, left)) in frames.iter().enumerate() {
        assert_eq!(*left, Offload::None);
        let parsed = parse(frame, shape);
        let Some(TransportHeader::Tcp(tcp)) = &parsed.headers.transport else { panic!("not TCP") };
        let (is_first, is_last) = (index == 0, index + 1 == frames.len());
        assert_eq!(tcp.sequence_number, SEQUENCE.wrapping_add((index * size) as u32));
        assert_eq!((tcp.fin, tcp.psh, tcp.cwr), (is_last, is_last, is_first));
        assert!(tcp.ack && tcp.ece && !tcp.syn && !tcp.rst);
        assert_eq!(tcp.options.as_slice().len(), if shape.tcp_options { 12 } else { 0 });
        if let Some(NetHeaders::Ipv4(ip, _)) = &parsed.headers.net {
            assert_eq!(ip.identification, IDENTIFICATION.wrapping_add(index as u16));
            assert_eq!(ip.options.as_slice(), if shape.extras { &OPTIONS[..] } else { &[] });
        }
        assert!(parsed.payload.len() == size || is_last);
        payload.extend_from_slice(parsed.payload);
    }
    assert_eq!(payload, shape.payload);
}

/// The same for datagrams.
fn check_uso(shape: &Shape, size: usize) {
    let (bytes, offload) = shape.unfinished(5, size as u16);
    let frames = convert(&bytes, offload, Accepts::empty());
    assert_eq!(frames.len(), shape.payload.len().div_ceil(size));
    let mut payload = Vec::new();
    for (frame, left) in &frames {
        assert_eq!(*left, Offload::None);
        payload.extend_from_slice(parse(frame, shape).payload);
    }
    assert_eq!(payload, shape.payload);
}

/// IP fragments: put together again they are the finished packet.
fn check_ufo(shape: &Shape, size: usize) {
    let (bytes, offload) = shape.unfinished(3, size as u16);
    let finished = shape.build();
    let frames = convert(&bytes, offload, Accepts::empty());
    assert!(frames.len() > 1);
    let network_at = 14 + 4 * shape.tags;
    // What every fragment repeats: IPv6 keeps destination options with the payload.
    let repeated = match (shape.ipv4, shape.extras) {
        (true, _) => shape.transport_at(),
        (false, extras) => network_at + 40 + if extras { 16 } else { 0 },
    };
    let mut whole = finished[..repeated].to_vec();
    let mut identifications = Vec::new();
    for (index, (frame, left)) in frames.iter().enumerate() {
        assert_eq!(*left, Offload::None);
        let (more, offset, identification) = if shape.ipv4 {
            let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
            check_network(frame, &headers, shape);
            let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { panic!("not IPv4") };
            let options = if index == 0 { OPTIONS } else { [0x94, 4, 0, 0, 1, 1, 1, 0] };
            assert_eq!(ip.options.as_slice(), if shape.extras { &options[..] } else { &[] });
            assert_eq!(ip.protocol, IpNumber::UDP);
            (ip.more_fragments, ip.fragment_offset, u32::from(ip.identification))
        } else {
            // Header by header: the parser as a whole takes the middle of a fragmented packet for options.
            let (ip, _) = Ipv6Header::from_slice(&frame[network_at..]).unwrap();
            let (fragment, _) = Ipv6FragmentHeader::from_slice(&frame[repeated..]).unwrap();
            assert_eq!(usize::from(ip.payload_length), frame.len() - network_at - 40);
            let before = if shape.extras { IpNumber(frame[network_at + 40]) } else { ip.next_header };
            assert_eq!(before, IpNumber::IPV6_FRAGMENTATION_HEADER);
            let inner = if shape.extras { IpNumber::IPV6_DESTINATION_OPTIONS } else { IpNumber::UDP };
            assert_eq!(fragment.next_header, inner);
            (fragment.more_fragments, fragment.fragment_offset, fragment.identification)
        };
        assert_eq!(more, index + 1 != frames.len());
        let expected = IpFragOffset::try_new(((whole.len() - repeated) / 8) as u16).unwrap();
        assert_eq!(offset, expected);
        identifications.push(identification);
        let added = if shape.ipv4 { 0 } else { 8 };
        let body = &frame[repeated + added..];
        assert!(body.len() <= size && (!more || body.len() % 8 == 0));
        whole.extend_from_slice(body);
    }
    assert!(identifications.windows(2).all(|pair| pair[0] == pair[1] && pair[0] != 0));
    assert_eq!(whole[repeated..], finished[repeated..], "the packet behind the repeated headers");
}

fn shapes(tcp: bool, payload: impl Strategy<Value = usize>) -> impl Strategy<Value = Shape> {
    (any::<[bool; 3]>(), 0usize..3, payload, any::<u8>()).prop_map(move |(flags, tags, len, seed)| Shape {
        ipv4: flags[0],
        tcp,
        tags,
        extras: flags[1],
        tcp_options: flags[2],
        payload: (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect(),
    })
}

fn shape(ipv4: bool, tcp: bool, len: usize) -> Shape {
    let payload = (0..len).map(|i| (i * 7) as u8).collect();
    Shape { ipv4, tcp, tags: 0, extras: false, tcp_options: false, payload }
}

#[test]
fn the_longest_packets() {
    for ipv4 in [true, false] {
        check_tcp(&shape(ipv4, true, 65_535 - 60), 1448);
        check_uso(&shape(ipv4, false, 1400 * 40), 1400);
        check_ufo(&shape(ipv4, false, 65_535 - 28), 1480);
        let tagged = Shape { tags: 2, extras: true, tcp_options: true, ..shape(ipv4, true, 65_000) };
        check_tcp(&tagged, usize::from(SEGMENT_SIZE_MIN));
    }
}

#[test]
fn a_receiver_that_finishes_checksums_gets_them_unfinished() {
    for ipv4 in [true, false] {
        for (tcp, gso_type) in [(true, if ipv4 { 1 } else { 4 }), (false, 5)] {
            let shape = shape(ipv4, tcp, 3001);
            let (bytes, offload) = shape.unfinished(gso_type, 1000);
            let left = convert(&bytes, offload, Accepts::CSUM);
            assert_eq!(left.len(), 4);
            for (frame, left) in &left {
                assert!(matches!(left, Offload::Checksum { .. }));
                // Finishing them is what the receiver would do.
                let finished = convert(frame, *left, Accepts::empty());
                parse(&finished[0].0, &shape);
            }
        }
    }
}

#[test]
fn a_checksum_is_finished_to_the_packets_own() {
    for ipv4 in [true, false] {
        for tcp in [true, false] {
            for len in [0, 1, 9, 1400] {
                let shape = Shape { tags: 1, extras: true, ..shape(ipv4, tcp, len) };
                let finished = shape.build();
                let mut bytes = finished.clone();
                let at = shape.transport_at();
                let field = at + if tcp { 16 } else { 6 };
                // The sum over the pseudo-header, by the definition.
                let mut words = vec![0, if tcp { 6 } else { 17 }];
                words.extend_from_slice(&((bytes.len() - at) as u16).to_be_bytes());
                let network_at = 18;
                let addresses =
                    if ipv4 { network_at + 12..network_at + 20 } else { network_at + 8..network_at + 40 };
                words.extend_from_slice(&bytes[addresses]);
                let mut sum: u32 = words.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
                while sum > 0xFFFF {
                    sum = (sum & 0xFFFF) + (sum >> 16);
                }
                bytes[field..field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
                let header = shape.request(0, 0);
                let offload = validate(&header, &bytes, bytes.len() as u32, ALL).unwrap();
                let out = convert(&bytes, offload, Accepts::empty());
                assert_eq!(out, [(finished, Offload::None)]);
            }
        }
    }
}

#[test]
fn what_is_taken_is_left_alone() {
    let (bytes, offload) = shape(true, true, 5000).unfinished(1, 1000);
    assert_eq!(convert(&bytes, offload, ALL), [(bytes.clone(), offload)]);
    assert!(matches!(offload, Offload::Segment(s) if s.kind == SegmentKind::Tcp4));
}

#[test]
fn the_callback_can_end_it() {
    let (bytes, offload) = shape(true, true, 5000).unfinished(1, 1000);
    let mut left = 2;
    let count = Software::new().convert(&Frame::private(&bytes, offload), Accepts::empty(), |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(count, 2);
}

#[test]
fn fragments_of_a_packet_without_identification_get_one() {
    let shape = shape(true, false, 5000);
    let (mut bytes, offload) = shape.unfinished(3, 1480);
    bytes[18..20].fill(0);
    for (frame, _) in convert(&bytes, offload, Accepts::empty()) {
        assert_ne!(frame[18..20], [0, 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tcp_of_any_shape(shape in shapes(true, 1501usize..9000), size in 48usize..1500) {
        check_tcp(&shape, size);
    }

    #[test]
    fn udp_datagrams_of_any_shape(shape in shapes(false, 200usize..9000), size in 1usize..199) {
        check_uso(&shape, size.max(shape.payload.len().div_ceil(UDP_SEGMENTS_MAX as usize)));
    }

    #[test]
    fn udp_fragments_of_any_shape(shape in shapes(false, 1501usize..9000), size in 48usize..1500) {
        check_ufo(&shape, size);
    }

    /// Anything that passes validation can be converted for any receiver, whatever the bytes are.
    #[test]
    fn hostile_requests_never_panic(
        shape in shapes(true, 0usize..600),
        damage in prop::collection::vec((0usize..160, any::<u8>()), 0..12),
        words in any::<(u8, u8, u16)>(),
        aimed in any::<bool>(),
        start in 0u16..200,
        offset in 0u16..40,
        accepts in any::<u16>(),
    ) {
        let mut bytes = Shape { tcp: words.0 & 1 == 0, ..shape.clone() }.build();
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let mut header = NetHeader { flags: 1, gso_type: words.1 % 8, gso_size: words.2 % 700, ..shape.request(0, 0) };
        if !aimed {
            (header.csum_start, header.csum_offset) = (start, offset);
        }
        if let Ok(offload) = validate(&header, &bytes, bytes.len() as u32, ALL) {
            for (frame, left) in convert(&bytes, offload, Accepts::from_bits_truncate(accepts)) {
                prop_assert!(frame.len() <= bytes.len() + 8);
                prop_assert_eq!(validate(&left.header(), &frame, frame.len() as u32, ALL).is_ok(), true);
            }
        }
    }
}
