//! What a forwarding decision costs: nanoseconds per frame for bursts of 32.
//!
//! `cargo run --release -p switch --example decide_cost`
//!
//! Stations are spread over all ports, and a burst comes from one of them:
//!
//! * *mixed*: each frame has another random source and destination (an uplink's worst case);
//! * *one sender*: a burst has one source, each frame another random destination (a busy guest);
//! * *one flow*: a burst has one source and one destination.
//!
//! Each figure is the fastest of many runs, the one that the machine's other work disturbed least. The cases run in
//! turns, so that a slow minute meets all.

use std::hint::black_box;
use std::time::Instant;

use switch::{
    Bridge, BridgeConfig, BridgeError, Decision, DropReason, EntryKind, Head, Now, Origin, PortId,
    PortSettings, PortVlans, Tagging, UnicastMac, Verdict, Vlan,
};

const BURST: usize = 32;
const FRAMES: usize = 1 << 16;
const RUNS: usize = 51;

/// The case in which sources are random.
const ATTACK: &str = "locked port, random sources";

/// Bytes of a frame that are at hand: more than a decision without lists or groups reads.
const HEAD_SIZE: usize = 24;

fn station(number: u64) -> UnicastMac {
    // Low bit clear in the first octet; the rest as a careless or clever guest might choose it.
    let [.., a, b, c, d] = number.to_be_bytes();
    UnicastMac::new([0x52, 0x54, a, b, c, d]).unwrap_or_else(|| unreachable!("a unicast address"))
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn frame(src: u64, dst: u64, vid: Option<u16>) -> [u8; HEAD_SIZE] {
    let mut bytes = [0; HEAD_SIZE];
    bytes[..6].copy_from_slice(&station(dst).octets());
    bytes[6..12].copy_from_slice(&station(src).octets());
    let mut rest = 12;
    if let Some(vid) = vid {
        bytes[12..14].copy_from_slice(&[0x81, 0]);
        bytes[14..16].copy_from_slice(&vid.to_be_bytes());
        rest = 16;
    }
    bytes[rest..rest + 2].copy_from_slice(&[8, 0]);
    bytes
}

/// One bridge, and the frames that it decides for.
struct Case {
    name: String,
    bridge: Bridge,
    frames: [Vec<[u8; HEAD_SIZE]>; 3],
    /// What must become of nearly every frame.
    expected: fn(Verdict) -> bool,
}

impl Case {
    /// Station n is behind port n modulo `ports`; frames come from stations of port 0 and go to others.
    fn new(
        name: &str,
        stations: u64,
        ports: u64,
        vlan: Option<Vlan>,
        settings: &PortSettings,
    ) -> Result<Self, BridgeError> {
        let bridge = Bridge::new(BridgeConfig {
            max_entries: (stations as u32).max(16_384),
            tagging: vlan.map(|_| Tagging::Customer),
            ..BridgeConfig::new(Instant::now().elapsed().as_nanos() as u64 ^ 0x5eed)
        });
        for port in 0..ports {
            let settings =
                if port == 0 { settings.clone() } else { PortSettings { locked: false, ..settings.clone() } };
            bridge.add_port(PortId(port as u16), settings)?;
        }
        for number in 0..stations {
            let port = PortId((number % ports) as u16);
            bridge.add_entry(
                station(number),
                vlan,
                port,
                EntryKind::Dynamic,
                Origin::Operator,
                Now::from_millis(0),
            )?;
        }
        let make = |src_run: usize, dst_run: usize| -> Vec<_> {
            let mut state = 0x9e37_79b9_7f4a_7c15;
            let (mut src, mut dst) = (0, 0);
            let mut pick = |remainder: u64| {
                let rows = (stations / ports).max(1);
                (next(&mut state) >> 16) % rows * ports + remainder
            };
            let mut one = |index: usize| {
                if index.is_multiple_of(src_run) {
                    src = pick(0);
                }
                if index.is_multiple_of(dst_run) {
                    let port = 1 + pick(0) / ports % (ports - 1);
                    dst = pick(port);
                }
                frame(src, dst, vlan.map(Vlan::get))
            };
            (0..FRAMES).map(&mut one).collect()
        };
        let mut frames = [make(1, 1), make(BURST, 1), make(BURST, BURST)];
        let mut expected: fn(Verdict) -> bool = |verdict| matches!(verdict, Verdict::Unicast(_));
        if name == ATTACK {
            let mut state = 77;
            for bytes in frames.iter_mut().flatten() {
                bytes[8..12].copy_from_slice(&(next(&mut state) as u32 | 1 << 31).to_be_bytes());
            }
            expected = |verdict| verdict == Verdict::Drop(DropReason::Locked);
        }
        Ok(Self { name: name.to_owned(), bridge, frames, expected })
    }

    fn run(&self, frames: &[[u8; HEAD_SIZE]], now: Now) -> f64 {
        let mut out = [Decision::drop(DropReason::Runt); BURST];
        let start = Instant::now();
        for_each_burst(frames, |heads| {
            self.bridge.view().decide_burst(PortId(0), heads, now, &mut out);
            black_box(&out);
        });
        let cost = start.elapsed().as_nanos() as f64 / frames.len() as f64;
        assert!(out.iter().all(|decision| (self.expected)(decision.verdict)), "{}: {out:?}", self.name);
        cost
    }
}

/// Reads the heads of a burst, as the caller of a switch does just before it asks.
fn for_each_burst(frames: &[[u8; HEAD_SIZE]], mut visit: impl FnMut(&[Head<'_>])) {
    let mut heads = Vec::with_capacity(BURST);
    for burst in frames.chunks_exact(BURST) {
        heads.clear();
        heads.extend(burst.iter().filter_map(|bytes| Head::parse(bytes).ok()));
        visit(black_box(&heads));
    }
}

fn fastest(costs: &[f64]) -> f64 {
    costs.iter().copied().fold(f64::INFINITY, f64::min)
}

/// What reading the heads alone costs: a part of every other figure.
fn cost_of_reading(frames: &[[u8; HEAD_SIZE]]) -> f64 {
    let start = Instant::now();
    for_each_burst(frames, |_| {});
    start.elapsed().as_nanos() as f64 / frames.len() as f64
}

fn main() -> Result<(), BridgeError> {
    let plain = PortSettings::default();
    let trunk =
        PortSettings { vlans: PortVlans::trunk((1..=100).filter_map(Vlan::new), None), ..plain.clone() };
    let access = PortSettings { vlans: PortVlans::access(Vlan::DEFAULT), ..plain.clone() };
    let locked = PortSettings { locked: true, ..plain.clone() };
    let vlan = Vlan::new(7);
    // Name, stations, ports, VLAN, settings.
    let table = [
        ("10 stations, 2 ports", 10, 2, None, &plain),
        ("1000 stations", 1000, 2, None, &plain),
        ("locked port", 1000, 2, None, &locked),
        (ATTACK, 1000, 2, None, &locked),
        ("VLANs, access ports", 1000, 2, Some(Vlan::DEFAULT), &access),
        ("VLANs, trunks", 1000, 2, vlan, &trunk),
        ("1000 stations, 500 ports", 1000, 500, None, &plain),
        ("10000 stations", 10_000, 2, None, &plain),
        ("10000 stations, 1000 ports", 10_000, 1000, None, &plain),
        ("100000 stations", 100_000, 2, None, &plain),
        ("100000 stations, 1000 ports", 100_000, 1000, None, &plain),
        ("1000000 stations", 1_000_000, 2, None, &plain),
        ("1000000 stations, 1000 ports", 1_000_000, 1000, None, &plain),
    ];
    // A part of a name picks cases.
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let chosen = table.into_iter().filter(|(name, ..)| name.contains(&wanted));
    let cases = chosen
        .map(|(name, stations, ports, vlan, settings)| Case::new(name, stations, ports, vlan, settings))
        .collect::<Result<Vec<Case>, BridgeError>>()?;
    let mut reading = Vec::new();
    let mut costs = vec![[const { Vec::new() }; 3]; cases.len()];
    for run in 0..RUNS {
        reading.extend(cases.iter().map(|case| cost_of_reading(&case.frames[0])));
        for (case, costs) in cases.iter().zip(&mut costs) {
            for (frames, costs) in case.frames.iter().zip(costs) {
                costs.push(case.run(frames, Now::from_millis(1000 + run as u64)));
            }
        }
    }
    println!("ns per frame, bursts of {BURST}, fastest of {RUNS}");
    println!("reading the heads, a part of each figure: {:.2}", fastest(&reading));
    println!("{:30}{:>8}  {:>10}  {:>8}", "", "mixed", "one sender", "one flow");
    for (case, costs) in cases.iter().zip(&costs) {
        let [mixed, sender, flow] = costs.each_ref().map(|costs| fastest(costs));
        println!("{:30}{mixed:>8.2}  {sender:>10.2}  {flow:>8.2}", case.name);
    }
    Ok(())
}
