//! A hash that keeps both directions of a conversation together.
//!
//! The host picks a receive queue by it, so it must give one value to all frames whose order matters: the same two
//! endpoints, whichever sends. Endpoints are (address, port) pairs of IPv4 or IPv6 with TCP, UDP, UDP-Lite, DCCP or
//! SCTP; addresses alone for other protocols and for fragments, because only the first fragment has ports; MAC
//! addresses for everything else. Both endpoints are hashed alike and then put in order, which makes the result
//! symmetric without folding distinct pairs together as an exclusive-or would. A frame that is cut short is hashed
//! by what is there.

use crate::frame::{ETHERNET_HEADER_SIZE, is_vlan_tag};
use crate::hash::folded_multiply;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// VLAN tags that are looked behind.
const VLAN_TAGS_MAX: usize = 2;
/// IPv6 extension headers that are looked behind.
const EXTENSIONS_MAX: usize = 8;

/// One end of a conversation, widened to one form.
#[derive(Clone, Copy)]
struct Endpoint {
    address: [u64; 2],
    port: u16,
}

/// Hash of the conversation that a frame belongs to; the same for both directions. `frame` holds the first bytes of
/// the frame (128 are plenty) in private memory; `seed` is random for each start, so that a guest cannot aim its
/// flows at one queue.
#[must_use]
pub fn flow_hash(frame: &[u8], seed: u64) -> u32 {
    let Some((ethertype, payload)) = skip_vlan_tags(frame) else {
        return hash_macs(frame, seed);
    };
    let hash = match ethertype {
        ETHERTYPE_IPV4 => hash_ipv4(payload, seed),
        ETHERTYPE_IPV6 => hash_ipv6(payload, seed),
        _ => None,
    };
    hash.unwrap_or_else(|| hash_macs(frame, seed))
}

/// The type behind at most [`VLAN_TAGS_MAX`] tags, and what follows it.
fn skip_vlan_tags(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = frame.get(ETHERNET_HEADER_SIZE - 2..)?;
    for _ in 0..=VLAN_TAGS_MAX {
        let (ethertype, payload) = rest.split_first_chunk()?;
        let ethertype = u16::from_be_bytes(*ethertype);
        if !is_vlan_tag(ethertype) {
            return Some((ethertype, payload));
        }
        rest = payload.get(2..)?;
    }
    None
}

/// RFC 791 §3.1.
fn hash_ipv4(packet: &[u8], seed: u64) -> Option<u32> {
    let header = packet.first_chunk::<20>()?;
    let header_size = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_size < 20 {
        return None;
    }
    let fragmented = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let transport = if fragmented { None } else { packet.get(header_size..) };
    let protocol = header[9];
    let [a, b] = ports(protocol, transport);
    let address = |start: usize| {
        let octets = [header[start], header[start + 1], header[start + 2], header[start + 3]];
        [0, u64::from(u32::from_be_bytes(octets))]
    };
    let source = Endpoint { address: address(12), port: a };
    let destination = Endpoint { address: address(16), port: b };
    Some(combine(source, destination, protocol, seed))
}

/// RFC 8200 §3.
fn hash_ipv6(packet: &[u8], seed: u64) -> Option<u32> {
    let (header, payload) = packet.split_first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (protocol, transport) = skip_extensions(header[6], payload);
    let [a, b] = ports(protocol, transport);
    let mut words = header[8..]
        .chunks_exact(8)
        .map(|chunk| chunk.iter().fold(0, |word: u64, octet| word << 8 | u64::from(*octet)));
    let mut address = || Some([words.next()?, words.next()?]);
    let source = Endpoint { address: address()?, port: a };
    let destination = Endpoint { address: address()?, port: b };
    Some(combine(source, destination, protocol, seed))
}

/// The transport protocol and its header; no header for fragments, for what is cut off and for long chains of
/// extensions. RFC 8200 §4.
fn skip_extensions(first: u8, payload: &[u8]) -> (u8, Option<&[u8]>) {
    let (mut protocol, mut rest) = (first, payload);
    for _ in 0..EXTENSIONS_MAX {
        let unit_size = match protocol {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => 8,
            // Authentication header, RFC 4302 §2.2: counted in units of four bytes.
            51 => 4,
            // Fragment.
            44 => return (rest.first().copied().unwrap_or(protocol), None),
            _ => return (protocol, Some(rest)),
        };
        let Some(&[next, length]) = rest.first_chunk() else { return (protocol, None) };
        let size = if unit_size == 8 { (usize::from(length) + 1) * 8 } else { (usize::from(length) + 2) * 4 };
        let Some(behind) = rest.get(size..) else { return (next, None) };
        (protocol, rest) = (next, behind);
    }
    (protocol, None)
}

/// Source and destination port, or zeros where the protocol has none or they are not at hand.
fn ports(protocol: u8, transport: Option<&[u8]>) -> [u16; 2] {
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    let has_ports = matches!(protocol, 6 | 17 | 33 | 132 | 136);
    match transport.and_then(|bytes| bytes.first_chunk()) {
        Some(&[a, b, c, d]) if has_ports => [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
        _ => [0, 0],
    }
}

fn hash_macs(frame: &[u8], seed: u64) -> u32 {
    let Some(addresses) = frame.first_chunk::<12>() else { return 0 };
    let mac = |octets: &[u8]| octets.iter().fold(0, |word: u64, octet| word << 8 | u64::from(*octet));
    let destination = Endpoint { address: [1, mac(&addresses[..6])], port: 0 };
    let source = Endpoint { address: [1, mac(&addresses[6..])], port: 0 };
    combine(source, destination, 0, seed)
}

fn combine(a: Endpoint, b: Endpoint, protocol: u8, seed: u64) -> u32 {
    let (a, b) = (hash_endpoint(a, seed), hash_endpoint(b, seed));
    let both = folded_multiply(a.min(b) ^ seed, a.max(b) ^ 0xa409_3822_299f_31d0);
    (folded_multiply(both ^ u64::from(protocol), seed ^ 0x082e_fa98_ec4e_6c89) >> 32) as u32
}

/// The constants, here and above, are the first digits of pi's fraction: they only keep the factors apart.
fn hash_endpoint(end: Endpoint, seed: u64) -> u64 {
    let [high, low] = end.address;
    let address = folded_multiply(high ^ seed, low ^ seed.rotate_left(32) ^ 0x243f_6a88_85a3_08d3);
    folded_multiply(address ^ u64::from(end.port), seed ^ 0x1319_8a2e_0370_7344)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0x0123_4567_89ab_cdef;
    const TAG: [u8; 4] = [0x81, 0, 0, 42];

    fn macs(reverse: bool) -> Vec<u8> {
        let (a, b) = ([0x52, 0x54, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 2]);
        if reverse { [a, b].concat() } else { [b, a].concat() }
    }

    fn ports_of(a: u16, b: u16, reverse: bool) -> Vec<u8> {
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        [a.to_be_bytes(), b.to_be_bytes(), [0, 0], [0, 0]].concat()
    }

    fn ipv4(protocol: u8, fragment: u16, ports: (u16, u16), reverse: bool) -> Vec<u8> {
        let mut header = [0u8; 20];
        header[0] = 0x45;
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[9] = protocol;
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        header[12..16].copy_from_slice(if reverse { &b } else { &a });
        header[16..].copy_from_slice(if reverse { &a } else { &b });
        [&macs(reverse)[..], &[8, 0], &header, &ports_of(ports.0, ports.1, reverse)].concat()
    }

    fn ipv6(chain: &[u8], first: u8, ports: (u16, u16), reverse: bool) -> Vec<u8> {
        let mut header = [0u8; 40];
        header[0] = 0x60;
        header[6] = first;
        let (a, b) = ([0xfd; 16], [0xfe; 16]);
        header[8..24].copy_from_slice(if reverse { &b } else { &a });
        header[24..].copy_from_slice(if reverse { &a } else { &b });
        [&macs(reverse)[..], &[0x86, 0xdd], &header, chain, &ports_of(ports.0, ports.1, reverse)].concat()
    }

    fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
        let mut out = frame[..12].to_vec();
        (0..tags).for_each(|_| out.extend_from_slice(&TAG));
        out.extend_from_slice(&frame[12..]);
        out
    }

    fn hash(frame: &[u8]) -> u32 {
        flow_hash(frame, SEED)
    }

    #[test]
    fn both_directions_agree() {
        for protocol in [6, 17, 132, 1] {
            assert_eq!(
                hash(&ipv4(protocol, 0, (1234, 80), false)),
                hash(&ipv4(protocol, 0, (1234, 80), true))
            );
            assert_eq!(
                hash(&ipv6(&[], protocol, (1234, 80), false)),
                hash(&ipv6(&[], protocol, (1234, 80), true))
            );
        }
        let arp = |reverse| [&macs(reverse)[..], &[8, 6, 1, 2, 3]].concat();
        assert_eq!(hash(&arp(false)), hash(&arp(true)));
    }

    #[test]
    fn ports_tell_flows_apart_where_they_count() {
        for make in [|p| ipv4(6, 0, p, false), |p| ipv6(&[], 17, p, false)] {
            assert_ne!(hash(&make((1234, 80))), hash(&make((1235, 80))));
            // The same two port numbers at opposite ends are another conversation.
            assert_ne!(hash(&make((1234, 80))), hash(&make((80, 1234))));
        }
        assert_eq!(hash(&ipv4(1, 0, (1, 2), false)), hash(&ipv4(1, 0, (3, 4), false)), "ICMP has no ports");
    }

    #[test]
    fn vlan_tags_make_no_difference() {
        let frame = ipv4(6, 0, (1234, 80), false);
        assert_eq!(hash(&tagged(&frame, 1)), hash(&frame));
        assert_eq!(hash(&tagged(&frame, 2)), hash(&frame));
        assert_eq!(
            hash(&tagged(&frame, 3)),
            hash(&[&macs(false)[..], &[8, 6]].concat()),
            "too deep: by address"
        );
        let reverse = ipv6(&[], 6, (5, 6), true);
        assert_eq!(hash(&tagged(&reverse, 1)), hash(&ipv6(&[], 6, (5, 6), false)));
    }

    #[test]
    fn fragments_of_a_packet_agree() {
        let first = ipv4(17, 0x2000, (1234, 53), false);
        let later = ipv4(17, 0x0010, (0xdead, 0xbeef), false);
        assert_eq!(hash(&first), hash(&later));
        assert_eq!(hash(&first), hash(&ipv4(17, 0x2000, (1234, 53), true)));
        assert_ne!(
            hash(&first),
            hash(&ipv4(17, 0x4000, (1234, 53), false)),
            "do-not-fragment is no fragment"
        );
        let fragment = |offset: u8| [17, 0, 0, offset, 0, 0, 0, 9];
        let (first, later) = (ipv6(&fragment(1), 44, (1, 2), false), ipv6(&fragment(8), 44, (7, 8), true));
        assert_eq!(hash(&first), hash(&later));
    }

    #[test]
    fn ipv6_extensions_are_skipped() {
        let plain = ipv6(&[], 6, (1234, 80), false);
        let hop_by_hop = [6, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(hash(&ipv6(&hop_by_hop, 0, (1234, 80), true)), hash(&plain));
        let authentication = [&[6, 4][..], &[0; 22]].concat();
        assert_eq!(hash(&ipv6(&authentication, 51, (1234, 80), true)), hash(&plain));
        let endless = [0, 0, 1, 4, 0, 0, 0, 0].repeat(EXTENSIONS_MAX + 3);
        let _ = hash(&ipv6(&endless, 0, (1, 2), false));
    }

    #[test]
    fn any_cut_is_accepted() {
        for frame in
            [ipv4(6, 0, (1, 2), false), tagged(&ipv6(&[6, 0, 1, 4, 0, 0, 0, 0], 0, (1, 2), false), 2)]
        {
            for length in 0..frame.len() {
                let _ = hash(&frame[..length]);
            }
        }
    }

    #[test]
    fn seeds_and_flows_spread() {
        let frame = ipv4(6, 0, (1234, 80), false);
        assert_ne!(flow_hash(&frame, 1), flow_hash(&frame, 2));
        let mut queues = [0u32; 8];
        for port in 0..8000 {
            queues[hash(&ipv4(6, 0, (port, 80), false)) as usize % 8] += 1;
        }
        assert!(queues.iter().all(|count| (850..1150).contains(count)), "{queues:?}");
    }
}
