//! The truth table: flags of all ports, destinations and sources in every combination of classes, against the kernel.
//!
//! Each round gives the four ports other flags, by a fixed sequence, through `ringway port set` and `bridge link set`. Then
//! each port sends one frame for each class of source and of destination, with addresses of its own, whose entries were made
//! before as the class says. What comes out must be the same, byte by byte, and so must what both have learned.

use crate::frames::{Mac, numbered, tagged, text};
use crate::twins::{PORTS, Twins};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use vmtests::harness::Scene;

/// Rounds: sets of flags.
const ROUNDS: u32 = 20;
/// Begins the sequence of flags.
const SEED: u64 = 0x5eed_0001;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Unknown,
    Everyone,
    /// A group of IPv4 that nobody has asked for.
    Group,
    /// A group that no snooping concerns.
    OtherGroup,
    Here,
    Elsewhere,
    /// The same with a tag, which is payload.
    ElsewhereTagged,
    /// LLDP's group, which stops at the switch.
    LinkLocal,
    Pause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Unknown,
    Here,
    Elsewhere,
    StickyElsewhere,
    StaticElsewhere,
    /// An address that many share: no station.
    Group,
    Zero,
}

const TOS: [To; 9] = [
    To::Unknown,
    To::Everyone,
    To::Group,
    To::OtherGroup,
    To::Here,
    To::Elsewhere,
    To::ElsewhereTagged,
    To::LinkLocal,
    To::Pause,
];
const FROMS: [From; 7] = [
    From::Unknown,
    From::Here,
    From::Elsewhere,
    From::StickyElsewhere,
    From::StaticElsewhere,
    From::Group,
    From::Zero,
];

#[derive(Clone, Copy, Debug)]
struct Flags {
    learning: bool,
    flood: bool,
    multicast_flood: bool,
    broadcast_flood: bool,
    isolated: bool,
    hairpin: bool,
    locked: bool,
}

impl Flags {
    /// Each flag is as a plain bridge has it in five cases of eight.
    fn of(random: u64) -> Self {
        let odd = |index: u32| random >> (8 * index) & 7 < 3;
        Self {
            learning: !odd(0),
            flood: !odd(1),
            multicast_flood: !odd(2),
            broadcast_flood: !odd(3),
            isolated: odd(4),
            hairpin: odd(5),
            locked: odd(6),
        }
    }

    fn ours(self) -> String {
        let Self { learning, flood, multicast_flood, broadcast_flood, isolated, hairpin, locked } = self;
        format!(
            "learning={learning} flood={flood} multicast-flood={multicast_flood} broadcast-flood={broadcast_flood} \
             isolated={isolated} hairpin={hairpin} locked={locked}"
        )
    }

    fn linux(self) -> String {
        let word = |on: bool| if on { "on" } else { "off" };
        format!(
            "learning {} flood {} mcast_flood {} bcast_flood {} isolated {} hairpin {} locked {}",
            word(self.learning),
            word(self.flood),
            word(self.multicast_flood),
            word(self.broadcast_flood),
            word(self.isolated),
            word(self.hairpin),
            word(self.locked)
        )
    }
}

/// Steele and Vigna's splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[derive(Clone, Copy, Debug)]
struct Case {
    number: u32,
    port: usize,
    elsewhere: usize,
    from: From,
    to: To,
}

impl Case {
    fn src(self) -> Mac {
        let [_, a, b, c] = self.number.to_be_bytes();
        match self.from {
            From::Zero => [0; 6],
            From::Group => [3, 1, 0, a, b, c],
            _ => [2, 1, 0, a, b, c],
        }
    }

    fn dst(self) -> Mac {
        let [_, a, b, c] = self.number.to_be_bytes();
        match self.to {
            To::Everyone => [0xff; 6],
            To::Group => [1, 0, 0x5e, 1, b, c],
            To::OtherGroup => [1, 0x0c, 0xcd, a, b, c],
            To::LinkLocal => [1, 0x80, 0xc2, 0, 0, 0xe],
            To::Pause => [1, 0x80, 0xc2, 0, 0, 1],
            To::Unknown | To::Here | To::Elsewhere | To::ElsewhereTagged => [2, 2, 0, a, b, c],
        }
    }

    fn frame(self) -> Vec<u8> {
        let frame = numbered(self.dst(), self.src(), self.number);
        if self.to == To::ElsewhereTagged { tagged(&frame, 0x2007) } else { frame }
    }

    /// The entries that there must be beforehand: address, port, kind.
    fn entries(self) -> Vec<(Mac, usize, &'static str)> {
        let source = match self.from {
            From::Here => Some((self.src(), self.port, "dynamic")),
            From::Elsewhere => Some((self.src(), self.elsewhere, "dynamic")),
            From::StickyElsewhere => Some((self.src(), self.elsewhere, "sticky")),
            From::StaticElsewhere => Some((self.src(), self.elsewhere, "static")),
            From::Unknown | From::Group | From::Zero => None,
        };
        let destination = match self.to {
            To::Here => Some((self.dst(), self.port, "static")),
            To::Elsewhere | To::ElsewhereTagged => Some((self.dst(), self.elsewhere, "static")),
            _ => None,
        };
        source.into_iter().chain(destination).collect()
    }

    /// Why the two may differ here: the documented differences.
    fn difference(self) -> Option<&'static str> {
        match (self.from, self.to) {
            (From::StaticElsewhere, To::LinkLocal | To::Pause) => None,
            (From::StaticElsewhere, _) => Some(
                "a static entry keeps its address: frames from elsewhere are refused; Linux re-points it",
            ),
            _ => None,
        }
    }
}

/// How often what was found.
#[derive(Debug, Default)]
struct Tally {
    frames: u32,
    forwarded: u32,
    entries: usize,
    differences: BTreeMap<&'static str, (u32, u32)>,
    reasons: BTreeMap<String, u32>,
}

pub(crate) fn truth_table(scene: &Scene) -> anyhow::Result<()> {
    // A locked port of Ringway must have an address; Linux gets the same.
    let mut twins = scene.check("both bridges with their wires", || {
        let port = "fdb = [{ mac = \"02:ff:00:00:00:0N\" }]";
        Twins::start(
            scene,
            "mcast_snooping 0 ageing_time 30000 no_linklocal_learn 1",
            "snooping = false\nmax-entries = 65536",
            port,
        )
    })?;
    let entries: String =
        (0..PORTS).map(|i| format!("fdb add 02:ff:00:00:00:0{i} dev p{i} master static\n")).collect();
    twins.linux.batch("bridge", &entries)?;
    let mut tally = Tally::default();
    let mut sequence = SEED;
    scene.check("the same frames, byte by byte, and the same FDB", || {
        for round in 0..ROUNDS {
            one_round(&mut twins, round, &mut sequence, &mut tally)
                .with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })?;
    scene.note(&format!(
        "{} frames compared, {} of them forwarded, {} FDB entries compared",
        tally.frames, tally.forwarded, tally.entries
    ));
    for (why, (cases, seen)) in &tally.differences {
        scene.note(&format!("difference in {seen} of {cases} cases: {why}"));
        ensure!(*seen > 0, "the documented difference is not there any more: {why}");
    }
    scene.note(&format!("drops by reason: {:?}", tally.reasons));
    for reason in ["locked", "isolated", "same-port", "source-taken", "no-receiver", "invalid-source"] {
        ensure!(tally.reasons.contains_key(reason), "no frame was dropped for {reason}");
    }
    Ok(())
}

fn one_round(twins: &mut Twins, round: u32, sequence: &mut u64, tally: &mut Tally) -> anyhow::Result<()> {
    // The first round is a plain bridge.
    let flags = [(); PORTS].map(|()| Flags::of(if round == 0 { u64::MAX } else { next(sequence) }));
    for (port, flags) in flags.iter().enumerate() {
        twins.set(port, &flags.ours(), &flags.linux())?;
    }
    let mut cases = Vec::new();
    for port in 0..PORTS {
        for from in FROMS {
            for to in TOS {
                let number = round << 16 | cases.len() as u32;
                let elsewhere = (port + 1 + (next(sequence) % 3) as usize) % PORTS;
                cases.push(Case { number, port, elsewhere, from, to });
            }
        }
    }
    place_entries(twins, &cases)?;
    for case in &cases {
        let outcome = twins.send(case.port, &case.frame())?;
        let (linux, ours) = outcome.ports();
        let what = || {
            format!(
                "{case:?} with {flags:?}: Linux sends it to ports {linux:?}, Ringway to {ours:?}: {}",
                outcome.trace
            )
        };
        tally.frames += 1;
        tally.forwarded += u32::from(!linux.is_empty());
        if !outcome.reason().is_empty() {
            *tally.reasons.entry(outcome.reason().to_owned()).or_default() += 1;
        }
        match case.difference() {
            None => ensure!(outcome.is_same(), "{}", what()),
            Some(why) => {
                ensure!(ours.is_empty() && outcome.reason() == "source-taken", "{}", what());
                let (cases, seen) = tally.differences.entry(why).or_default();
                *cases += 1;
                *seen += u32::from(!outcome.is_same());
            }
        }
    }
    compare_fdb(twins, &cases, tally)
}

fn place_entries(twins: &Twins, cases: &[Case]) -> anyhow::Result<()> {
    let mut lines = String::new();
    for (mac, port, kind) in cases.iter().flat_map(|case| case.entries()) {
        let words = if kind == "sticky" { "static sticky" } else { kind };
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "fdb add {} dev p{port} master {words}", text(mac));
        let body = json!({ "mac": text(mac), "port": format!("p{port}"), "kind": kind });
        twins.ringway.api("POST", "/api/fdb", Some(&body))?;
    }
    twins.linux.batch("bridge", &lines)
}

/// Where both believe the sources to be after the round. Forgets them in both.
fn compare_fdb(twins: &Twins, cases: &[Case], tally: &mut Tally) -> anyhow::Result<()> {
    let mut linux = BTreeMap::new();
    for entry in twins.linux.fdb("br br0")? {
        let word = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if word("state") != "permanent" {
            linux.insert(word("mac"), word("ifname"));
        }
    }
    let mut ours = BTreeMap::new();
    let list = twins.ringway.api("GET", "/api/fdb", None)?;
    for entry in list.as_array().context("a list")? {
        let word = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        ours.insert(word("mac"), word("port"));
    }
    for case in cases {
        let mac = text(case.src());
        let (theirs, own) = (linux.get(&mac), ours.get(&mac));
        tally.entries += 1;
        if case.from == From::StaticElsewhere {
            ensure!(own == Some(&format!("p{}", case.elsewhere)), "{case:?}: {own:?}");
        } else {
            ensure!(theirs == own, "{case:?}: behind {theirs:?} in Linux, behind {own:?} in Ringway");
        }
    }
    let gone: String = cases
        .iter()
        .flat_map(|case| [case.src(), case.dst()])
        .filter_map(|mac| {
            linux.get(&text(mac)).map(|port| format!("fdb del {} dev {port} master\n", text(mac)))
        })
        .collect();
    twins.linux.batch("bridge", &gone)?;
    for kind in ["learned", "dynamic", "sticky"] {
        twins.ringway.api("DELETE", &format!("/api/fdb?kind={kind}"), None)?;
    }
    for mac in cases.iter().map(|case| text(case.dst())).filter(|mac| mac.starts_with("02:02")) {
        if ours.contains_key(&mac) {
            twins.ringway.api("DELETE", &format!("/api/fdb?mac={mac}"), None)?;
        }
    }
    for case in cases.iter().filter(|case| case.from == From::StaticElsewhere) {
        twins.ringway.api("DELETE", &format!("/api/fdb?mac={}", text(case.src())), None)?;
    }
    Ok(())
}
