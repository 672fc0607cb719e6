//! Which frames a capture wants: the filter's tests, and how they are decided from a frame's head.
//!
//! Every test loads a few bytes at places that follow from the tags in front of it, so deciding takes a time bounded by
//! the length of the expression, whatever the frame. What lies beyond the head that was kept counts as absent: such a test
//! is false.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use switch::MacAddr;

use super::expression::{self, FilterError};

/// Ethertypes (IEEE 802 numbers).
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
/// Tag protocol identifiers that `vlan` knows: IEEE 802.1Q, 802.1ad, and the one used before it.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Protocol numbers (IANA).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// An expression over frames, in the words of pcap-filter(7). The empty one matches every frame.
///
/// Words mean what they mean there: `and` and `or` have the same precedence and go from left to right, `not` binds
/// tighter; `vlan` moves what follows it behind the tag; `tcp` and the like look for IPv6's next header directly or behind
/// a fragment header. One difference: a test of bytes that the head does not have is false, where libpcap gives up on
/// the whole expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    sequence: Option<Sequence>,
}

impl Filter {
    /// Whether a frame matches of which `head` is the beginning and `frame_len` the length in bytes.
    pub fn matches(&self, head: &[u8], frame_len: u32) -> bool {
        let Some(sequence) = &self.sequence else { return true };
        // Bytes behind the end of the frame are not its own.
        let head = head.get(..frame_len as usize).unwrap_or(head);
        sequence.holds(&Head { bytes: head, frame_len })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Self { text: text.trim().into(), sequence: expression::parse(text)? })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Terms that are joined from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) first: Term,
    pub(super) rest: Vec<(Join, Term)>,
}

/// How a term goes together with all that stands left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    And,
    Or,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) negated: bool,
    pub(super) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// `tags` is the number of `vlan` words in front of the test.
    Test { tags: u8, test: Test },
    /// In parentheses.
    Group(Box<Sequence>),
}

/// Which of a frame's two addresses or ports is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
    Either,
    Both,
}

impl Side {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Side::Source => source,
            Side::Destination => destination,
            Side::Either => source || destination,
            Side::Both => source && destination,
        }
    }
}

/// Where a network address is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// An IPv4 address in IP, ARP and RARP; an IPv6 address in IPv6.
    Any,
    Ip,
    Arp,
    Rarp,
    Ip6,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
            Transport::Sctp => SCTP,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Ip,
    Ip6,
    Arp,
    Rarp,
    EtherType(u16),
    Transport(Transport),
    Icmp,
    Icmp6,
    Net { family: Family, side: Side, net: IpNet },
    Port { transport: Option<Transport>, side: Side, ports: RangeInclusive<u16> },
    EtherHost { side: Side, mac: MacAddr },
    Broadcast,
    Multicast,
    Vlan(Option<u16>),
    AtMost(u32),
    AtLeast(u32),
}

impl Sequence {
    fn holds(&self, head: &Head<'_>) -> bool {
        self.rest.iter().fold(self.first.holds(head), |so_far, (join, term)| match join {
            Join::And => so_far && term.holds(head),
            Join::Or => so_far || term.holds(head),
        })
    }
}

impl Term {
    fn holds(&self, head: &Head<'_>) -> bool {
        let holds = match &self.body {
            Body::Test { tags, test } => test.holds(head, 12 + 4 * usize::from(*tags)).unwrap_or(false),
            Body::Group(sequence) => sequence.holds(head),
        };
        holds != self.negated
    }
}

impl Test {
    /// `at` is where the ethertype stands. `None`: the head is too short to tell.
    fn holds(&self, head: &Head<'_>, at: usize) -> Option<bool> {
        // Where the network header begins.
        let net_at = at + 2;
        Some(match self {
            Test::Ip => head.u16(at)? == IPV4,
            Test::Ip6 => head.u16(at)? == IPV6,
            Test::Arp => head.u16(at)? == ARP,
            Test::Rarp => head.u16(at)? == RARP,
            Test::EtherType(ethertype) => head.u16(at)? == *ethertype,
            Test::Transport(transport) => head.carries(at, transport.number())?,
            Test::Icmp => head.u16(at)? == IPV4 && head.u8(net_at + 9)? == ICMP,
            Test::Icmp6 => head.u16(at)? == IPV6 && head.carries(at, ICMP6)?,
            Test::Net { family, side, net } => {
                let Some((source, destination)) = head.addresses(at, *family)? else { return Some(false) };
                side.holds(net.contains(&source), net.contains(&destination))
            }
            Test::Port { transport, side, ports } => {
                let Some((source, destination)) = head.ports(at, *transport)? else { return Some(false) };
                side.holds(ports.contains(&source), ports.contains(&destination))
            }
            Test::EtherHost { side, mac } => {
                side.holds(head.array::<6>(6)? == mac.0, head.array::<6>(0)? == mac.0)
            }
            Test::Broadcast => head.array::<6>(0)? == MacAddr::BROADCAST.0,
            Test::Multicast => head.u8(0)? & 1 != 0,
            Test::Vlan(vlan) => {
                TAGS.contains(&head.u16(at)?)
                    && match vlan {
                        Some(vlan) => head.u16(net_at)? & 0xfff == *vlan,
                        None => true,
                    }
            }
            Test::AtMost(len) => head.frame_len <= *len,
            Test::AtLeast(len) => head.frame_len >= *len,
        })
    }
}

/// A frame as far as the filter sees it.
struct Head<'a> {
    bytes: &'a [u8],
    frame_len: u32,
}

impl Head<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    /// Whether the packet behind the ethertype at `at` carries that protocol.
    fn carries(&self, at: usize, protocol: u8) -> Option<bool> {
        let net_at = at + 2;
        Some(match self.u16(at)? {
            IPV4 => self.u8(net_at + 9)? == protocol,
            IPV6 => match self.u8(net_at + 6)? {
                next if next == protocol => true,
                FRAGMENT => self.u8(net_at + 40)? == protocol,
                _ => false,
            },
            _ => false,
        })
    }

    /// Source and destination of the packet, or sender and target of the question. `Some(None)`: it has none of that family.
    fn addresses(&self, at: usize, family: Family) -> Option<Option<(IpAddr, IpAddr)>> {
        let net_at = at + 2;
        let ethertype = self.u16(at)?;
        let meant = match family {
            Family::Any => true,
            Family::Ip => ethertype == IPV4,
            Family::Arp => ethertype == ARP,
            Family::Rarp => ethertype == RARP,
            Family::Ip6 => ethertype == IPV6,
        };
        let v4 = |source: usize, destination: usize| {
            Some((IpAddr::from(self.array::<4>(source)?), IpAddr::from(self.array::<4>(destination)?)))
        };
        match ethertype {
            _ if !meant => Some(None),
            IPV4 => v4(net_at + 12, net_at + 16).map(Some),
            // RFC 826 with addresses of six and four bytes, as libpcap takes them to be.
            ARP | RARP => v4(net_at + 14, net_at + 24).map(Some),
            IPV6 => {
                let source = IpAddr::from(self.array::<16>(net_at + 8)?);
                Some(Some((source, IpAddr::from(self.array::<16>(net_at + 24)?))))
            }
            _ => Some(None),
        }
    }

    /// Source and destination port. `Some(None)`: it has none.
    fn ports(&self, at: usize, transport: Option<Transport>) -> Option<Option<(u16, u16)>> {
        let net_at = at + 2;
        let (protocol, ports_at) = match self.u16(at)? {
            IPV4 => {
                // Only a first fragment has ports (RFC 791 §3.1: 13 bits of fragment offset).
                if self.u16(net_at + 6)? & 0x1fff != 0 {
                    return Some(None);
                }
                (self.u8(net_at + 9)?, net_at + 4 * usize::from(self.u8(net_at)? & 0xf))
            }
            IPV6 => (self.u8(net_at + 6)?, net_at + 40),
            _ => return Some(None),
        };
        let meant = match transport {
            Some(transport) => protocol == transport.number(),
            None => matches!(protocol, TCP | UDP | SCTP),
        };
        if !meant {
            return Some(None);
        }
        Some(Some((self.u16(ports_at)?, self.u16(ports_at + 2)?)))
    }
}
