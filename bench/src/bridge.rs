//! What a forwarding decision costs as ports and FDB entries grow, and how much memory an entry takes: the crate `switch` alone.
//!
//! Theory of operation. The timed part is what a worker asks of the bridge for a burst of 32 frames: one view, heads parsed,
//! `decide_burst`, and for each frame the form in which it leaves; for a flood, `reach` and `takes` of every port. Frames are
//! made anew before each sample, outside the timed part, because frames that are used again would touch the same few
//! entries again and again: what looks like a million random destinations would be a working set of as many as there are
//! frames. Two working sets stand next to each other:
//!
//! * *any of all*: a burst has one source, and each frame goes to a random one of **all** entries;
//! * *1,000 flows*: each frame belongs to one of 1,000 pairs of stations, however many entries the FDB has.
//!
//! The first grows as long as the entries that are touched outgrow a cache; "beyond the cache" begins where the table is
//! larger than the second-level cache of a core. Cases take turns, sample by sample; a sample is short beside a time slice,
//! and medians are reported. Memory is counted by a counting allocator, from `Bridge::new` to the last entry.

use crate::report::median;
use anyhow::Context;
use std::hint::black_box;
use std::time::Instant;
use switch::{
    Bridge, BridgeConfig, Decision, DropReason, EntryKind, Head, Now, Origin, PortId, PortSettings,
    UnicastMac, Verdict,
};

const BURST: usize = 32;
/// Bursts in a sample: their frames fit a second-level cache.
const BURSTS: usize = 128;
/// Turns of each case.
const TURNS: usize = 75;
/// Samples of a turn; one more before them warms the caches, which the other cases emptied.
const SAMPLES: usize = 3;
/// Bytes of a frame that are at hand.
const HEAD_SIZE: usize = 16;
/// Stations that the 1,000 flows come from, and flows of each.
const FLOW_SOURCES: u64 = 25;
const FLOWS_OF_SOURCE: u64 = 40;
/// What cost may grow by once the table is beyond the cache.
const GROWTH_MAX: f64 = 1.3;
/// Bytes that an entry may take.
const ENTRY_BYTES_MAX: f64 = 64.0;
/// Entries at which a table is larger than any second-level cache of today, so the reference of the growth.
const BEYOND_CACHE: u64 = 100_000;

type Bytes = [u8; HEAD_SIZE];

/// How frames are picked.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    AnyOfAll,
    Flows,
    Broadcast,
}

/// A bridge with `entries` stations, station n behind port n modulo `ports`; frames come from stations of port 0.
struct Case {
    ports: u64,
    entries: u64,
    traffic: Traffic,
    costs: Vec<f64>,
}

/// A bridge, with the number of ports and entries that it has.
struct Table {
    ports: u64,
    entries: u64,
    bridge: Bridge,
    bytes: u64,
}

fn station(number: u64) -> anyhow::Result<UnicastMac> {
    let [.., a, b, c, d] = number.to_be_bytes();
    UnicastMac::new([0x52, 0x54, a, b, c, d]).context("a unicast address")
}

fn seed(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

impl Table {
    fn new(ports: u64, entries: u64) -> anyhow::Result<Self> {
        let mut bridge = Err(anyhow::anyhow!("not made"));
        let counted = allocation_counter::measure(|| bridge = filled(ports, entries));
        let bytes = u64::try_from(counted.bytes_current).context("bytes of a table")?;
        Ok(Self { ports, entries, bridge: bridge?, bytes })
    }

    /// The pair of stations of a flow: the first behind port 0, the other behind another port.
    fn pair(&self, random: &mut u64) -> (u64, u64) {
        let rows = (self.entries / self.ports).max(1);
        let src = next(random) % rows * self.ports;
        let row = next(random) % rows;
        let dst = row * self.ports + 1 + next(random) % (self.ports - 1);
        (src, dst)
    }

    fn fill(&self, traffic: Traffic, random: &mut u64, frames: &mut [Bytes]) -> anyhow::Result<()> {
        let mut source = 0;
        for (index, frame) in frames.iter_mut().enumerate() {
            if index.is_multiple_of(BURST) {
                source = next(random);
            }
            // The same seed gives the same station each time.
            let (mut of_source, mut of_frame) = match traffic {
                Traffic::Flows => {
                    let source = source % FLOW_SOURCES;
                    (seed(source), seed(((source + 1) << 16) | (next(random) % FLOWS_OF_SOURCE)))
                }
                _ => (seed(source), seed(next(random))),
            };
            let (src, _) = self.pair(&mut of_source);
            let (_, dst) = self.pair(&mut of_frame);
            let to = if traffic == Traffic::Broadcast { [0xff; 6] } else { station(dst)?.octets() };
            frame[..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&station(src)?.octets());
            frame[12..14].copy_from_slice(&[8, 0]);
        }
        Ok(())
    }

    /// Nanoseconds a frame, for a flood a copy.
    fn sample(&self, traffic: Traffic, frames: &[Bytes], now: Now) -> anyhow::Result<f64> {
        let mut out = [Decision::drop(DropReason::Runt); BURST];
        let mut heads = Vec::with_capacity(BURST);
        let (mut copies, mut strays) = (0u64, 0u64);
        let start = Instant::now();
        for burst in frames.chunks_exact(BURST) {
            heads.clear();
            heads.extend(burst.iter().filter_map(|bytes| Head::parse(bytes).ok()));
            let view = self.bridge.view();
            view.decide_burst(PortId(0), black_box(&heads), now, &mut out);
            for (head, decision) in heads.iter().zip(&out) {
                match decision.verdict {
                    Verdict::Unicast(port) => {
                        black_box(view.form(port, decision));
                        copies += 1;
                    }
                    Verdict::Flood => {
                        let reach = view.reach(PortId(0), head, decision, now);
                        for port in 0..self.ports {
                            let port = PortId(port as u16);
                            if reach.takes(port) {
                                black_box(view.form(port, decision));
                                copies += 1;
                            }
                        }
                    }
                    _ => strays += 1,
                }
            }
        }
        let ns = start.elapsed().as_nanos() as f64;
        let per_frame = if traffic == Traffic::Broadcast { self.ports - 1 } else { 1 };
        let expected = frames.len() as u64 * per_frame;
        anyhow::ensure!(strays == 0 && copies == expected, "{copies} of {expected} copies, {strays} dropped");
        Ok(ns / copies as f64)
    }
}

fn filled(ports: u64, entries: u64) -> anyhow::Result<Bridge> {
    let max_entries = u32::try_from(entries)?;
    // A plain learning bridge without groups: what grows with ports and entries alone.
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ 0x5eed;
    let bridge = Bridge::new(BridgeConfig { max_entries, ..BridgeConfig::new(seed) });
    for port in 0..ports {
        bridge.add_port(PortId(u16::try_from(port)?), PortSettings::default())?;
    }
    for number in 0..entries {
        let port = PortId((number % ports) as u16);
        let kind = EntryKind::Dynamic;
        bridge.add_entry(station(number)?, None, port, kind, Origin::Operator, Now::from_millis(0))?;
    }
    Ok(bridge)
}

/// Ports and entries of the tables.
const TABLES: &[(u64, u64)] = &[
    (2, 10),
    (2, 1000),
    (2, 10_000),
    (2, BEYOND_CACHE),
    (2, 300_000),
    (2, 1_000_000),
    (10, 1000),
    (100, 1000),
    (1000, 1000),
    (1000, BEYOND_CACHE),
    (1000, 1_000_000),
];

/// Measures and prints every row.
pub(crate) fn measure(json: bool) -> anyhow::Result<()> {
    eprintln!("second-level cache {}, last level {}", cache(2), cache(3));
    let tables = TABLES
        .iter()
        .map(|&(ports, entries)| Table::new(ports, entries))
        .collect::<anyhow::Result<Vec<Table>>>()?;
    let mut cases = Vec::new();
    for (table, &Table { ports, entries, .. }) in tables.iter().enumerate() {
        for traffic in [Traffic::AnyOfAll, Traffic::Flows, Traffic::Broadcast] {
            // What a flood costs is a matter of ports, not of entries.
            if traffic != Traffic::Broadcast || entries == 1000 {
                cases.push((table, Case { ports, entries, traffic, costs: Vec::new() }));
            }
        }
    }
    let mut frames = vec![[0; HEAD_SIZE]; BURST * BURSTS];
    let mut random = 0x9e37_79b9_7f4a_7c15;
    for turn in 0..TURNS {
        let now = Now::from_millis(1000 + turn as u64);
        for (table, case) in &mut cases {
            let table = &tables[*table];
            // A flood to a thousand ports is a thousand times the work: so many fewer frames.
            let count = match case.traffic {
                Traffic::Broadcast => BURST * (BURSTS / table.ports as usize).max(1),
                _ => frames.len(),
            };
            for sample in 0..=SAMPLES {
                table.fill(case.traffic, &mut random, &mut frames[..count])?;
                let cost = table.sample(case.traffic, &frames[..count], now)?;
                if sample > 0 {
                    case.costs.push(cost);
                }
            }
        }
    }
    let cases: Vec<Case> = cases.into_iter().map(|(_, case)| case).collect();
    rows(&cases, &tables, json)
}

/// Prints the rows: `ratio` is `ours` to `peer`, and less is better.
fn rows(cases: &[Case], tables: &[Table], json: bool) -> anyhow::Result<()> {
    let cost = |ports: u64, entries: u64, traffic: Traffic| {
        let is_it = |case: &&Case| case.ports == ports && case.entries == entries && case.traffic == traffic;
        let case = cases.iter().find(is_it).context("a case that was not measured")?;
        anyhow::Ok(median(&mut case.costs.clone()))
    };
    let mut all: Vec<(String, f64, f64, &str, Option<f64>)> = Vec::new();
    for case in cases {
        let Case { ports, entries, traffic, .. } = *case;
        // The smallest table of the same kind, and for the target the first one beyond the cache.
        let (name, base) = match traffic {
            Traffic::Broadcast => ("broadcast, ns a copy", (2, 1000)),
            Traffic::AnyOfAll => ("any of all", (2, 10)),
            Traffic::Flows => ("1,000 flows", (2, 10)),
        };
        let title = |base: (u64, u64)| {
            format!("{name}: {ports} ports, {entries} entries, to {} ports, {} entries", base.0, base.1)
        };
        let ours = cost(ports, entries, traffic)?;
        if (ports, entries) != base {
            all.push((title(base), ours, cost(base.0, base.1, traffic)?, "ns", None));
        }
        if entries == 1_000_000 && traffic != Traffic::Broadcast {
            let base = (ports, BEYOND_CACHE);
            all.push((title(base), ours, cost(base.0, base.1, traffic)?, "ns", Some(GROWTH_MAX)));
        }
    }
    for table in tables.iter().filter(|table| table.ports == 2 && table.entries >= 10_000) {
        let each = table.bytes as f64 / table.entries as f64;
        let title = format!("memory an entry, {} entries", table.entries);
        all.push((title, each, ENTRY_BYTES_MAX, "B", Some(1.0)));
    }
    for (case, ours, peer, unit, target) in all {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        let (ours, peer, ratio) = (round(ours), round(peer), round(ours / peer));
        if json {
            let object = serde_json::json!({
                "case": case, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "target": target,
                "better": "less",
            });
            println!("{object}");
        } else {
            let target = target.map(|target| format!(" (at most {target})")).unwrap_or_default();
            println!("{case:66} {ours:8.2} against {peer:8.2} {unit}: ratio {ratio:.2}{target}");
        }
    }
    Ok(())
}

/// The size of processor 0's cache of a level, in the kernel's words.
fn cache(level: u32) -> String {
    let file = format!("/sys/devices/system/cpu/cpu0/cache/index{level}/size");
    std::fs::read_to_string(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
