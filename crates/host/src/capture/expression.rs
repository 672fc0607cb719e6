//! The words of a filter expression, read into tests.
//!
//! The grammar needs one word of foresight, and two at `src or dst`:
//!
//! ```text
//! expression = term { ("and" | "&&" | "or" | "||") term }
//! term       = { "not" | "!" } ( "(" expression ")" | test )
//! test       = [ "ip" | "ip6" | "arp" | "rarp" ] [ side ] ( [ "host" ] ADDRESS | "net" NETWORK )
//!            | [ "tcp" | "udp" | "sctp" ] [ side ] ( "port" N | "portrange" N-M )
//!            | "ether" ( [ side ] "host" MAC | side MAC | "proto" TYPE | "broadcast" | "multicast" )
//!            | "ip" | "ip6" | "arp" | "rarp" | "icmp" | "icmp6" | "tcp" | "udp" | "sctp"
//!            | "vlan" [ N ] | "broadcast" | "multicast" | "less" N | "greater" N
//! side       = "src" | "dst" | "src or dst" | "src and dst"
//! ```
//!
//! An expression comes from a client, so its length, its parentheses and its terms are bounded.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use switch::MacAddr;
use winnow::Parser as _;
use winnow::ascii::{multispace0, multispace1};
use winnow::combinator::{alt, opt, peek, preceded};
use winnow::error::{ErrMode, ParserError};
use winnow::stream::{LocatingSlice, Location as _, Stateful, Stream};
use winnow::token::take_while;

use super::filter::{Body, Family, Join, Sequence, Side, Term, Test, Transport};

/// Most bytes of an expression.
const TEXT_BYTES_MAX: usize = 2048;
/// Most parentheses within each other.
const NESTING_MAX: u8 = 16;
/// Most terms.
const TERMS_MAX: u16 = 256;
/// Most `vlan` words: that many tags fit the head with the headers behind them.
const TAGS_MAX: u8 = 4;

const TEST_ACCEPTED: &str = "a test such as arp, ip, ip6, icmp, icmp6, tcp, udp, sctp, host ADDRESS, net NETWORK, port N, \
     portrange N-M, src or dst in front of these, ether host MAC, ether proto TYPE, vlan [N], broadcast, multicast, \
     less N, greater N; or not, or (";
const ADDRESS_ACCEPTED: &str = "an address such as 10.0.0.1 or fd00::1";
const NET_ACCEPTED: &str = "a network such as 10.0.0.0/8 or fd00::/64, with no bits behind the prefix";
const PORT_ACCEPTED: &str = "a port number from 0 to 65535";
const RANGE_ACCEPTED: &str = "two port numbers such as 5000-5010, the lower one first";
const MAC_ACCEPTED: &str = "a MAC address such as 52:54:00:00:00:01";
const ETHERTYPE_ACCEPTED: &str = "an ethertype from 0x600 to 0xffff";
const VLAN_ACCEPTED: &str = "a VLAN number from 0 to 4095";
const LEN_ACCEPTED: &str = "a number of bytes";

/// What is wrong with a filter expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, column {column}: {found}; accepted: {accepted}")]
pub struct FilterError {
    /// Where, counted in characters from 1.
    pub column: usize,
    /// What stands there.
    pub found: String,
    /// What could stand there.
    pub accepted: String,
}

/// Where the parser stands, beside the text.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// `vlan` words so far: what follows looks behind that many tags.
    tags: u8,
    nesting: u8,
    terms: u16,
}

type Input<'a> = Stateful<LocatingSlice<&'a str>, State>;
type Parsed<T> = Result<T, ErrMode<Mistake>>;

/// A [`FilterError`] whose place is still an offset in bytes. `None`: the parser gave up without a reason of its own.
#[derive(Debug)]
struct Mistake {
    at: usize,
    reason: Option<(String, &'static str)>,
}

impl<'a> ParserError<Input<'a>> for Mistake {
    type Inner = Self;

    fn from_input(input: &Input<'a>) -> Self {
        Self { at: input.current_token_start(), reason: None }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

fn mistake<T>(at: usize, found: String, accepted: &'static str) -> Parsed<T> {
    Err(ErrMode::Cut(Mistake { at, reason: Some((found, accepted)) }))
}

/// Reads an expression. `None`: it is empty.
pub(super) fn parse(text: &str) -> Result<Option<Sequence>, FilterError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > TEXT_BYTES_MAX {
        let found = format!("the expression is {} bytes long", text.len());
        return Err(FilterError { column: 1, found, accepted: format!("at most {TEXT_BYTES_MAX} bytes") });
    }
    let input = Input { input: LocatingSlice::new(text), state: State::default() };
    whole.parse(input).map(Some).map_err(|error| {
        let Mistake { at, reason } = error.into_inner();
        let column = text.get(..at).unwrap_or(text).chars().count() + 1;
        let (found, accepted) = reason.unwrap_or_else(|| ("this makes no sense".into(), TEST_ACCEPTED));
        FilterError { column, found, accepted: accepted.into() }
    })
}

fn whole(input: &mut Input<'_>) -> Parsed<Sequence> {
    let sequence = expression(input)?;
    multispace0.parse_next(input)?;
    match at_and_what(input) {
        (_, None) => Ok(sequence),
        (at, Some(found)) => mistake(at, format!("{found} does not go on"), "and, or, or the end"),
    }
}

fn expression(input: &mut Input<'_>) -> Parsed<Sequence> {
    let first = term(input)?;
    let mut rest = Vec::new();
    while let Some(join) = opt(preceded(multispace0, join)).parse_next(input)? {
        rest.push((join, term(input)?));
    }
    Ok(Sequence { first, rest })
}

fn join(input: &mut Input<'_>) -> Parsed<Join> {
    alt((
        "&&".value(Join::And),
        "||".value(Join::Or),
        bare_word.verify(|word: &str| word == "and").value(Join::And),
        bare_word.verify(|word: &str| word == "or").value(Join::Or),
    ))
    .parse_next(input)
}

fn term(input: &mut Input<'_>) -> Parsed<Term> {
    let mut negated = false;
    let negation = |input: &mut Input<'_>| {
        alt(("!".void(), bare_word.verify(|word: &str| word == "not").void())).parse_next(input)
    };
    while opt(preceded(multispace0, negation)).parse_next(input)?.is_some() {
        negated = !negated;
    }
    multispace0.parse_next(input)?;
    let at = input.current_token_start();
    if input.state.terms == TERMS_MAX {
        return mistake(at, format!("there are more than {TERMS_MAX} terms"), "fewer");
    }
    input.state.terms += 1;
    if opt('(').parse_next(input)?.is_none() {
        return Ok(Term { negated, body: test(input)? });
    }
    if input.state.nesting == NESTING_MAX {
        return mistake(
            at,
            format!("there are more than {NESTING_MAX} parentheses within each other"),
            "fewer",
        );
    }
    input.state.nesting += 1;
    let inner = expression(input)?;
    input.state.nesting -= 1;
    multispace0.parse_next(input)?;
    if opt(')').parse_next(input)?.is_none() {
        let (at, found) = at_and_what(input);
        let found = found.unwrap_or("the end".into());
        return mistake(at, format!("{found} stands where a parenthesis is still open"), "and, or, )");
    }
    Ok(Term { negated, body: Body::Group(Box::new(inner)) })
}

/// One test, from its first word on.
fn test(input: &mut Input<'_>) -> Parsed<Body> {
    let tags = input.state.tags;
    let (at, Some(first)) = opt_word(input)? else {
        let (at, found) = at_and_what(input);
        let found = found.unwrap_or("the end".into());
        return mistake(at, format!("{found} stands where a test must be"), TEST_ACCEPTED);
    };
    let test = match first {
        "ip" => about_addresses(input, Family::Ip, Test::Ip)?,
        "ip6" => about_addresses(input, Family::Ip6, Test::Ip6)?,
        "arp" => about_addresses(input, Family::Arp, Test::Arp)?,
        "rarp" => about_addresses(input, Family::Rarp, Test::Rarp)?,
        "tcp" => about_ports(input, Transport::Tcp)?,
        "udp" => about_ports(input, Transport::Udp)?,
        "sctp" => about_ports(input, Transport::Sctp)?,
        "icmp" => Test::Icmp,
        "icmp6" => Test::Icmp6,
        "broadcast" => Test::Broadcast,
        "multicast" => Test::Multicast,
        "ether" => about_ether(input)?,
        "vlan" => vlan(input)?,
        "less" => Test::AtMost(value(input, LEN_ACCEPTED, |text| text.parse().ok())?),
        "greater" => Test::AtLeast(value(input, LEN_ACCEPTED, |text| text.parse().ok())?),
        "host" | "net" | "port" | "portrange" => about_side(input, Side::Either, first)?,
        "src" | "dst" => {
            let side = side(input, first)?;
            let (_, kind) = opt_word(input)?;
            about_side(input, side, kind.unwrap_or_default())?
        }
        other => match address(other) {
            Some(address) => Test::Net { family: Family::Any, side: Side::Either, net: address.into() },
            None => return mistake(at, format!("{other:?} is no test"), TEST_ACCEPTED),
        },
    };
    Ok(Body::Test { tags, test })
}

/// After `ip`, `arp` and the like: an address of that family, or nothing.
fn about_addresses(input: &mut Input<'_>, family: Family, alone: Test) -> Parsed<Test> {
    let side = match peek_word(input)? {
        Some(first @ ("src" | "dst")) => {
            opt_word(input)?;
            side(input, first)?
        }
        Some("host" | "net" | "port" | "portrange") => Side::Either,
        _ => return Ok(alone),
    };
    let (at, kind) = opt_word(input)?;
    let kind = kind.unwrap_or_default();
    if matches!(kind, "port" | "portrange") {
        return mistake(at, format!("{kind:?} goes with tcp, udp or sctp"), "host, net, or an address");
    }
    multispace0.parse_next(input)?;
    // Where the address is: here, unless the word read last is one already.
    let at = if matches!(kind, "host" | "net") { input.current_token_start() } else { at };
    let Test::Net { net, .. } = about_side(input, side, kind)? else { return Ok(alone) };
    if matches!(net, IpNet::V6(_)) != (family == Family::Ip6) {
        let accepted = if family == Family::Ip6 { "an IPv6 address" } else { "an IPv4 address" };
        return mistake(at, format!("{net} is of the other family"), accepted);
    }
    Ok(Test::Net { family, side, net })
}

/// After `tcp` and the like: a port, or nothing.
fn about_ports(input: &mut Input<'_>, transport: Transport) -> Parsed<Test> {
    let side = match peek_word(input)? {
        Some(first @ ("src" | "dst")) => {
            opt_word(input)?;
            side(input, first)?
        }
        Some("port" | "portrange") => Side::Either,
        _ => return Ok(Test::Transport(transport)),
    };
    let (at, kind) = opt_word(input)?;
    match kind {
        Some(kind @ ("port" | "portrange")) => match about_side(input, side, kind)? {
            Test::Port { side, ports, .. } => Ok(Test::Port { transport: Some(transport), side, ports }),
            other => Ok(other),
        },
        other => mistake(at, found(other), "port N, portrange N-M"),
    }
}

/// What follows a side: `kind` is the word read last.
fn about_side(input: &mut Input<'_>, side: Side, kind: &str) -> Parsed<Test> {
    let addresses = |net| Test::Net { family: Family::Any, side, net };
    let any_port = |ports| Test::Port { transport: None, side, ports };
    Ok(match kind {
        "host" => addresses(value(input, ADDRESS_ACCEPTED, address)?.into()),
        "net" => addresses(value(input, NET_ACCEPTED, network)?),
        "port" => any_port(value(input, PORT_ACCEPTED, |text| {
            let port: u16 = text.parse().ok()?;
            Some(port..=port)
        })?),
        "portrange" => any_port(value(input, RANGE_ACCEPTED, port_range)?),
        other => match (address(other), network(other)) {
            (Some(address), _) => addresses(address.into()),
            (None, Some(net)) => addresses(net),
            (None, None) => {
                let at = input.current_token_start() - other.len();
                let other = (!other.is_empty()).then_some(other);
                return mistake(at, found(other), "host, net, port, portrange, or an address");
            }
        },
    })
}

fn about_ether(input: &mut Input<'_>) -> Parsed<Test> {
    let (at, word) = opt_word(input)?;
    Ok(match word {
        Some("broadcast") => Test::Broadcast,
        Some("multicast") => Test::Multicast,
        Some("proto") => Test::EtherType(value(input, ETHERTYPE_ACCEPTED, ethertype)?),
        Some("host") => Test::EtherHost { side: Side::Either, mac: value(input, MAC_ACCEPTED, mac)? },
        Some(first @ ("src" | "dst")) => {
            let side = side(input, first)?;
            if peek_word(input)? == Some("host") {
                opt_word(input)?;
            }
            Test::EtherHost { side, mac: value(input, MAC_ACCEPTED, mac)? }
        }
        other => {
            return mistake(at, found(other), "host MAC, src MAC, dst MAC, proto TYPE, broadcast, multicast");
        }
    })
}

fn vlan(input: &mut Input<'_>) -> Parsed<Test> {
    let numbered = peek_word(input)?.is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let number = match numbered {
        true => Some(value(input, VLAN_ACCEPTED, |text| text.parse().ok().filter(|vlan| *vlan <= 4095))?),
        false => None,
    };
    if input.state.tags == TAGS_MAX {
        let at = input.current_token_start();
        return mistake(at, format!("there are more than {TAGS_MAX} words vlan"), "fewer");
    }
    input.state.tags += 1;
    Ok(Test::Vlan(number))
}

/// The side that begins with `first`, which is `src` or `dst`.
fn side(input: &mut Input<'_>, first: &str) -> Parsed<Side> {
    let alone = if first == "src" { Side::Source } else { Side::Destination };
    let other = if first == "src" { "dst" } else { "src" };
    let mut both = opt((
        preceded(multispace1, alt(("or".value(Side::Either), "and".value(Side::Both)))),
        preceded(multispace1, bare_word.verify(|word: &str| word == other)),
    ));
    Ok(both.parse_next(input)?.map_or(alone, |(side, _)| side))
}

/// The next word as a value; `accepted` says which words are.
fn value<T>(input: &mut Input<'_>, accepted: &'static str, read: impl Fn(&str) -> Option<T>) -> Parsed<T> {
    let (at, word) = opt_word(input)?;
    match word.and_then(read) {
        Some(value) => Ok(value),
        None => mistake(at, found(word), accepted),
    }
}

fn found(word: Option<&str>) -> String {
    word.map_or("something is missing".into(), |word| format!("{word:?} does not fit"))
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => (net.trunc() == net).then_some(net),
        Err(_) => address(text).map(IpNet::from),
    }
}

fn mac(text: &str) -> Option<MacAddr> {
    text.parse().ok()
}

fn ethertype(text: &str) -> Option<u16> {
    let number = match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|c| c.is_ascii_hexdigit()) => u16::from_str_radix(digits, 16),
        _ => text.parse(),
    };
    // Below it is a length, not a type (IEEE 802.3-2022 §3.2.6).
    number.ok().filter(|number| *number >= 0x600)
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-')?;
    let ports = low.parse().ok()?..=high.parse().ok()?;
    (!ports.is_empty()).then_some(ports)
}

fn bare_word<'a>(input: &mut Input<'a>) -> Parsed<&'a str> {
    take_while(1.., |c: char| !c.is_whitespace() && !"()!&|".contains(c)).parse_next(input)
}

/// The next word, if there is one, and where it begins.
fn opt_word<'a>(input: &mut Input<'a>) -> Parsed<(usize, Option<&'a str>)> {
    multispace0.parse_next(input)?;
    let at = input.current_token_start();
    Ok((at, opt(bare_word).parse_next(input)?))
}

fn peek_word<'a>(input: &mut Input<'a>) -> Parsed<Option<&'a str>> {
    peek(opt(preceded(multispace0, bare_word))).parse_next(input)
}

/// Where the parser stands and what is there, for a message; `None`: the end.
fn at_and_what(input: &Input<'_>) -> (usize, Option<String>) {
    let rest = input.input.peek_finish();
    let next = rest.split_whitespace().next().map(|word| {
        let short: String = word.chars().take(20).collect();
        format!("{short:?}")
    });
    (input.current_token_start(), next)
}
