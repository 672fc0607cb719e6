//! The filter against a slow, obvious evaluation, and its mistakes.
//!
//! The slow one knows nothing of offsets. It takes the tags that `vlan` words name off the frame, lets another crate
//! read what is left, and evaluates every test from left to right.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::*;
use crate::trace::frame_of;
use etherparse::{EtherType, IpNumber, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Debug)]
enum Expr {
    Leaf(Leaf),
    Not(Box<Expr>),
    /// Joined from left to right; `true` is `and`.
    Chain(Box<Expr>, Vec<(bool, Expr)>),
}

#[derive(Clone, Debug)]
enum Leaf {
    Word(&'static str),
    EtherProto(u16),
    /// Prefix such as `arp `, side such as `src `, network.
    Net(&'static str, &'static str, &'static str),
    Port(&'static str, &'static str, u16, u16),
    EtherHost(&'static str, [u8; 6]),
    Vlan(Option<u16>),
    Less(u32),
    Greater(u32),
}

const SIDES: [&str; 5] = ["", "src ", "dst ", "src or dst ", "dst and src "];

fn leaf() -> impl Strategy<Value = Leaf> {
    let words = ["ip", "ip6", "arp", "rarp", "icmp", "icmp6", "tcp", "udp", "sctp", "broadcast", "multicast"];
    let v4 = ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.0/30", "10.0.1.0/24", "0.0.0.0/0"];
    let v6 = ["fd00::1/128", "fd00::2/128", "fd00::/64", "::/0"];
    let macs = [[0x52, 0x54, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 2], [0xff; 6]];
    let side = || select(&SIDES[..]);
    prop_oneof![
        4 => select(words.to_vec()).prop_map(Leaf::Word),
        1 => select(&[0x0800, 0x0806, 0x86dd, 0x8100, 0x88cc][..]).prop_map(Leaf::EtherProto),
        3 => (select(&["", "ip ", "arp "][..]), side(), select(v4.to_vec())).prop_map(|(family, side, net)| Leaf::Net(family, side, net)),
        2 => (select(&["", "ip6 "][..]), side(), select(v6.to_vec())).prop_map(|(family, side, net)| Leaf::Net(family, side, net)),
        3 => (select(&["", "tcp ", "udp "][..]), side(), 50u16..56, 0u16..4)
            .prop_map(|(transport, side, low, more)| Leaf::Port(transport, side, low, low + more)),
        2 => (side(), select(macs.to_vec())).prop_map(|(side, mac)| Leaf::EtherHost(side, mac)),
        3 => prop::option::of(select(&[10, 20][..])).prop_map(Leaf::Vlan),
        1 => (60u32..80).prop_map(Leaf::Less),
        1 => (60u32..80).prop_map(Leaf::Greater),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    leaf().prop_map(Expr::Leaf).prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            1 => inner.clone().prop_map(|inner| Expr::Not(Box::new(inner))),
            3 => (inner.clone(), prop::collection::vec((any::<bool>(), inner), 1..4))
                .prop_map(|(first, rest)| Expr::Chain(Box::new(first), rest)),
        ]
    })
}

/// How far the slow evaluation has come.
#[derive(Default)]
struct Walk {
    tags: usize,
    misled: bool,
}

impl Expr {
    fn text(&self) -> String {
        match self {
            Expr::Leaf(leaf) => leaf.text(),
            Expr::Not(inner) => format!("not {}", inner.as_term()),
            Expr::Chain(first, rest) => rest.iter().fold(first.as_term(), |mut text, (and, term)| {
                let _infallible = write!(text, " {} {}", if *and { "and" } else { "or" }, term.as_term());
                text
            }),
        }
    }

    fn as_term(&self) -> String {
        match self {
            Expr::Chain(..) => format!("({})", self.text()),
            other => other.text(),
        }
    }

    fn vlans(&self) -> usize {
        match self {
            Expr::Leaf(Leaf::Vlan(_)) => 1,
            Expr::Leaf(_) => 0,
            Expr::Not(inner) => inner.vlans(),
            Expr::Chain(first, rest) => {
                first.vlans() + rest.iter().map(|(_, term)| term.vlans()).sum::<usize>()
            }
        }
    }

    fn holds(&self, frame: &[u8], walk: &mut Walk) -> bool {
        match self {
            Expr::Leaf(leaf) => leaf.holds(frame, walk),
            Expr::Not(inner) => !inner.holds(frame, walk),
            Expr::Chain(first, rest) => {
                let mut so_far = first.holds(frame, walk);
                for (and, term) in rest {
                    let term = term.holds(frame, walk);
                    so_far = if *and { so_far && term } else { so_far || term };
                }
                so_far
            }
        }
    }
}

impl Leaf {
    fn text(&self) -> String {
        match self {
            Leaf::Word(word) => (*word).into(),
            Leaf::EtherProto(number) => format!("ether proto {number:#x}"),
            Leaf::Net(family, side, net) => match net.strip_suffix("/32").or(net.strip_suffix("/128")) {
                Some(host) => format!("{family}{side}host {host}"),
                None => format!("{family}{side}net {net}"),
            },
            Leaf::Port(transport, side, low, high) if low == high => format!("{transport}{side}port {low}"),
            Leaf::Port(transport, side, low, high) => format!("{transport}{side}portrange {low}-{high}"),
            Leaf::EtherHost(side, mac) => format!("ether {side}host {}", switch::MacAddr(*mac)),
            Leaf::Vlan(None) => "vlan".into(),
            Leaf::Vlan(Some(vlan)) => format!("vlan {vlan}"),
            Leaf::Less(len) => format!("less {len}"),
            Leaf::Greater(len) => format!("greater {len}"),
        }
    }

    fn holds(&self, frame: &[u8], walk: &mut Walk) -> bool {
        let peeled = [&frame[..12], &frame[12 + 4 * walk.tags..]].concat();
        let facts = Facts::of(&peeled);
        walk.misled |= facts.misled;
        let side = |side: &str, source: bool, destination: bool| match side {
            "src " => source,
            "dst " => destination,
            "dst and src " => source && destination,
            _ => source || destination,
        };
        let is = |ethertype: EtherType| facts.ethertype == ethertype;
        match self {
            Leaf::Word("ip") => is(EtherType::IPV4),
            Leaf::Word("ip6") => is(EtherType::IPV6),
            Leaf::Word("arp") => is(EtherType::ARP),
            Leaf::Word("rarp") => facts.ethertype.0 == 0x8035,
            Leaf::Word("icmp") => is(EtherType::IPV4) && facts.protocol == Some(IpNumber::ICMP),
            Leaf::Word("icmp6") => is(EtherType::IPV6) && facts.protocol == Some(IpNumber::IPV6_ICMP),
            Leaf::Word("tcp") => facts.protocol == Some(IpNumber::TCP),
            Leaf::Word("udp") => facts.protocol == Some(IpNumber::UDP),
            Leaf::Word("sctp") => facts.protocol == Some(IpNumber::SCTP),
            Leaf::Word("broadcast") => frame[..6] == [0xff; 6],
            Leaf::Word("multicast") => frame[0] & 1 == 1,
            Leaf::Word(other) => panic!("{other}"),
            Leaf::EtherProto(number) => facts.ethertype.0 == *number,
            Leaf::Net(family, which, net) => {
                let net: ipnet::IpNet = net.parse().expect("a network");
                let meant = match *family {
                    "ip " => is(EtherType::IPV4),
                    "arp " => is(EtherType::ARP),
                    "ip6 " => is(EtherType::IPV6),
                    _ => true,
                };
                meant
                    && facts
                        .addresses
                        .is_some_and(|(from, to)| side(which, net.contains(&from), net.contains(&to)))
            }
            Leaf::Port(transport, which, low, high) => {
                let meant = match *transport {
                    "tcp " => facts.protocol == Some(IpNumber::TCP),
                    "udp " => facts.protocol == Some(IpNumber::UDP),
                    _ => true,
                };
                let fits = |port: u16| (*low..=*high).contains(&port);
                meant && facts.ports.is_some_and(|(from, to)| side(which, fits(from), fits(to)))
            }
            Leaf::EtherHost(which, mac) => side(which, frame[6..12] == *mac, frame[..6] == *mac),
            Leaf::Vlan(vlan) => {
                walk.tags += 1;
                let number = u16::from_be_bytes([peeled[14], peeled[15]]) & 0xfff;
                matches!(facts.ethertype.0, 0x8100 | 0x88a8 | 0x9100)
                    && vlan.is_none_or(|vlan| vlan == number)
            }
            Leaf::Less(len) => frame.len() as u32 <= *len,
            Leaf::Greater(len) => frame.len() as u32 >= *len,
        }
    }
}

/// What another crate finds in a frame, not looking behind tags.
struct Facts {
    ethertype: EtherType,
    addresses: Option<(IpAddr, IpAddr)>,
    protocol: Option<IpNumber>,
    ports: Option<(u16, u16)>,
    /// The type says IP or ARP and nothing of the kind is there: a frame that had no tag to take off.
    misled: bool,
}

impl Facts {
    fn of(frame: &[u8]) -> Facts {
        let ethertype = EtherType(u16::from_be_bytes([frame[12], frame[13]]));
        let mut facts = Facts { ethertype, addresses: None, protocol: None, ports: None, misled: false };
        facts.misled = matches!(ethertype, EtherType::IPV4 | EtherType::IPV6 | EtherType::ARP);
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return facts };
        facts.misled &= packet.net.is_none();
        if !packet.link_exts.is_empty() {
            return facts;
        }
        match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                facts.addresses = Some((header.source_addr().into(), header.destination_addr().into()));
                facts.protocol = Some(header.protocol());
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                facts.addresses = Some((header.source_addr().into(), header.destination_addr().into()));
                facts.protocol = Some(header.next_header());
            }
            Some(NetSlice::Arp(arp)) => {
                let v4 = |bytes: &[u8]| IpAddr::from(<[u8; 4]>::try_from(bytes).expect("four bytes"));
                facts.addresses = Some((v4(arp.sender_protocol_addr()), v4(arp.target_protocol_addr())));
            }
            None => {}
        }
        facts.ports = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            _ => None,
        };
        facts
    }
}

fn frame_words() -> impl Strategy<Value = String> {
    let v4 = || select(&["10.0.0.1", "10.0.0.2", "10.0.1.9"][..]);
    let v6 = || select(&["fd00::1", "fd00::2", "fe80::9"][..]);
    let inner = prop_oneof![
        Just(String::new()),
        Just("icmp".to_owned()),
        (select(&["udp", "tcp"][..]), 50u16..56, 50u16..56)
            .prop_map(|(name, from, to)| format!("{name}={from},{to}")),
    ];
    let content = prop_oneof![
        (v4(), v4()).prop_map(|(from, to)| format!("arp={from},{to}")),
        (v4(), v4(), inner.clone()).prop_map(|(from, to, inner)| format!("ip={from},{to} {inner}")),
        (v6(), v6(), inner).prop_map(|(from, to, inner)| format!("ip6={from},{to} {inner}")),
        Just("type=0x88cc".to_owned()),
    ];
    let tags = select(&["", "vlan=10", "vlan=20", "svlan=10 vlan=20"][..]);
    let destination = select(&["52:54:00:00:00:02", "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"][..]);
    (content, tags, destination, prop::option::of(100u32..120)).prop_map(
        |(content, tags, destination, len)| {
            let len = len.map(|len| format!("len={len}")).unwrap_or_default();
            format!("src=52:54:00:00:00:01 dst={destination} {content} {tags} {len}")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_filter_agrees_with_a_slow_obvious_one(expr in expr(), frames in prop::collection::vec(frame_words(), 1..6)) {
        prop_assume!(expr.vlans() <= 4);
        let text = expr.text();
        let filter: Filter = text.parse().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        for words in frames {
            let frame = frame_of(&words, None).expect("a frame");
            let mut walk = Walk::default();
            let expected = expr.holds(&frame, &mut walk);
            if walk.misled {
                continue;
            }
            prop_assert_eq!(filter.matches(&frame[..frame.len().min(256)], frame.len() as u32), expected, "{} on {}", text, words);
        }
    }

    #[test]
    fn any_text_is_a_filter_or_a_mistake_with_a_place(
        words in prop::collection::vec(
            select(&["ip", "(", ")", "not", "!", "and", "or", "&&", "||", "host", "net", "port", "portrange", "src", "dst",
                "ether", "proto", "vlan", "10.0.0.1", "fd00::1", "10.0.0.0/8", "80", "1-2", "0x88cc", "less", "é", "=", "&"][..]),
            0..12,
        ),
        head in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let text = words.join(" ");
        match text.parse::<Filter>() {
            Ok(filter) => drop(filter.matches(&head, 60)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{} {:?}", text, error),
        }
    }
}

#[test]
fn mistakes_have_a_place_and_say_what_is_accepted() {
    let cases = [
        ("colour", 1, "\"colour\" is no test", "a test such as arp"),
        ("arp and", 8, "the end stands where a test must be", "a test such as arp"),
        ("arp ip", 5, "\"ip\" does not go on", "and, or, or the end"),
        ("(arp or ip", 11, "the end stands where a parenthesis is still open", "and, or, )"),
        ("arp)", 4, "\")\" does not go on", "and, or, or the end"),
        ("host web", 6, "\"web\" does not fit", "an address such as 10.0.0.1"),
        ("host", 5, "something is missing", "an address such as 10.0.0.1"),
        ("net 10.0.0.1/8", 5, "\"10.0.0.1/8\" does not fit", "a network such as"),
        ("tcp port 65536", 10, "\"65536\" does not fit", "a port number"),
        ("portrange 9-1", 11, "\"9-1\" does not fit", "two port numbers"),
        ("ip host fd00::1", 9, "fd00::1/128 is of the other family", "an IPv4 address"),
        ("ip6 src  10.0.0.1", 10, "10.0.0.1/32 is of the other family", "an IPv6 address"),
        ("arp port 80", 5, "\"port\" goes with tcp, udp or sctp", "host, net, or an address"),
        ("tcp src host 10.0.0.1", 9, "\"host\" does not fit", "port N, portrange N-M"),
        ("é or arp", 1, "\"é\" is no test", "a test such as arp"),
        ("arp or é", 8, "\"é\" is no test", "a test such as arp"),
        ("ether proto 0x5ff", 13, "\"0x5ff\" does not fit", "an ethertype from"),
        ("ether host 1", 12, "\"1\" does not fit", "a MAC address"),
        ("vlan 4096", 6, "\"4096\" does not fit", "a VLAN number"),
        ("src", 4, "something is missing", "host, net, port, portrange"),
        ("src web", 5, "\"web\" does not fit", "host, net, port, portrange"),
    ];
    for (text, column, found, accepted) in cases {
        let error = text.parse::<Filter>().expect_err(text);
        assert_eq!((error.column, error.found.as_str()), (column, found), "{text}");
        assert!(error.accepted.starts_with(accepted), "{text}: {}", error.accepted);
    }
}

#[test]
fn an_expression_is_bounded() {
    let refused = |text: &str| text.parse::<Filter>().err().map(|error| error.found);
    let nested = |depth: usize| "(".repeat(depth) + "arp" + &")".repeat(depth);
    assert_eq!(refused(&nested(16)), None);
    assert_eq!(refused(&nested(17)).as_deref(), Some("there are more than 16 parentheses within each other"));
    assert_eq!(refused(&vec!["arp"; 256].join("||")), None);
    assert_eq!(refused(&vec!["arp"; 257].join("||")).as_deref(), Some("there are more than 256 terms"));
    assert_eq!(refused(&"not ".repeat(500)).as_deref(), Some("the end stands where a test must be"));
    assert_eq!(refused(&"arp ".repeat(600)).as_deref(), Some("the expression is 2400 bytes long"));
    assert_eq!(refused("vlan and vlan and vlan and vlan"), None);
    assert_eq!(
        refused("vlan and vlan and vlan and vlan and vlan").as_deref(),
        Some("there are more than 4 words vlan")
    );
}

#[test]
fn words_mean_what_pcap_filter_says() {
    let frame = |words: &str| {
        frame_of(&format!("src=52:54:00:00:00:01 dst=52:54:00:00:00:02 {words}"), None).expect("a frame")
    };
    let matches = |filter: &str, frame: &[u8]| {
        filter.parse::<Filter>().expect(filter).matches(frame, frame.len() as u32)
    };
    let arp = frame("arp=10.0.0.1,10.0.0.2");
    // The same precedence, from left to right.
    assert!(!matches("arp or ip and ip6", &arp));
    assert!(matches("arp or (ip and ip6)", &arp));
    assert!(matches("10.0.0.1", &arp) && matches("dst 10.0.0.2", &arp) && !matches("ip host 10.0.0.1", &arp));
    assert!(matches("!ip&&!ip6", &arp) && matches("", &arp) && matches("not not arp", &arp));
    // What follows `vlan` looks behind the tag.
    let tagged = frame("vlan=10 arp=10.0.0.1,10.0.0.2");
    assert!(
        !matches("arp", &tagged) && matches("vlan and arp", &tagged) && matches("vlan 10 and arp", &tagged)
    );
    assert!(!matches("vlan 20 and arp", &tagged) && matches("not arp and vlan", &tagged));
    // Only a first fragment has ports.
    let mut udp = frame("ip=10.0.0.1,10.0.0.2 udp=53,53 len=80");
    assert!(matches("udp port 53", &udp));
    udp[20] = 0x20;
    assert!(matches("udp port 53", &udp), "more fragments follow");
    udp[21] = 1;
    assert!(!matches("udp port 53", &udp) && matches("udp", &udp));
    // The ports are behind the options.
    let mut options = frame("ip=10.0.0.1,10.0.0.2 udp=53,53 len=80");
    options[14] = 0x46;
    options.splice(34..34, [0; 4]);
    assert!(matches("port 53", &options));
    // A fragment header in IPv6 is looked behind.
    let mut six = frame("ip6=fd00::1,fd00::2 len=80");
    (six[20], six[54]) = (44, 17);
    assert!(matches("udp", &six) && !matches("port 0", &six));
    // What the head does not have is not there.
    assert!(!"udp".parse::<Filter>().expect("a filter").matches(&udp[..20], 80));
    assert!("not udp".parse::<Filter>().expect("a filter").matches(&udp[..20], 80));
    assert!(!"udp".parse::<Filter>().expect("a filter").matches(&udp, 20), "bytes behind the frame's end");
}
