//! What a forwarding decision costs: nanoseconds per frame for bursts of 32.
//!
//! `cargo run -p switch --example decide_cost --profile fast`
//!
//! Half of the stations are behind each of two ports, and a burst comes from one of them:
//!
//! * *mixed*: each frame has another random source and destination (an uplink's worst case);
//! * *one sender*: a burst has one source, each frame another random destination (a busy guest);
//! * *one flow*: a burst has one source and one destination.
//!
//! Each figure is the median of several runs.

use std::hint::black_box;
use std::time::Instant;

use switch::{Bridge, BridgeConfig, EthernetHead, MacAddr, Now, PortId, Verdict};

const BURST: usize = 32;
const FRAMES: usize = 1 << 16;
const RUNS: usize = 31;

fn station(number: u64) -> MacAddr {
    // Low bit clear in the first octet; the rest as a careless or clever guest might choose it.
    let [.., a, b, c, d] = number.to_be_bytes();
    MacAddr([0x52, 0x54, a, b, c, d])
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Frames from stations behind port 0 (even numbers) to stations behind port 1 (odd numbers). A source stays for
/// `src_run` frames and a destination for `dst_run`.
fn frames(stations: u64, src_run: usize, dst_run: usize) -> Vec<EthernetHead> {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut src, mut dst) = (0, 0);
    let frame = |index: usize| {
        if index.is_multiple_of(src_run) {
            src = (next(&mut state) >> 16) % stations.div_ceil(2) * 2;
        }
        if index.is_multiple_of(dst_run) {
            dst = (next(&mut state) >> 16) % stations.div_ceil(2) * 2 + 1;
        }
        EthernetHead { dst: station(dst), src: station(src), ethertype: 0x0800, vlan: None }
    };
    (0..FRAMES).map(frame).collect()
}

fn median_ns(bridge: &Bridge, heads: &[EthernetHead]) -> f64 {
    let mut out = [Verdict::Flood; BURST];
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|run| {
            let start = Instant::now();
            for burst in heads.chunks_exact(BURST) {
                bridge.decide_burst(PortId(0), burst, Now::from_millis(1000 + run as u64), &mut out);
                black_box(&out);
            }
            start.elapsed().as_nanos() as f64 / heads.len() as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}

fn main() -> Result<(), switch::BridgeError> {
    println!("ns per frame, bursts of {BURST}");
    println!("{:>8}  {:>10}  {:>10}  {:>10}", "stations", "mixed", "one sender", "one flow");
    for stations in [1, 100, 1000, 10_000] {
        let bridge = Bridge::new(BridgeConfig::new(Instant::now().elapsed().as_nanos() as u64 ^ 0x5eed));
        bridge.add_port(PortId(0))?;
        bridge.add_port(PortId(1))?;
        for number in 0..stations.max(2) {
            let head =
                EthernetHead { dst: MacAddr::BROADCAST, src: station(number), ethertype: 0x0806, vlan: None };
            let _ = bridge.decide(PortId((number % 2) as u16), &head, Now::from_millis(0));
        }
        let [mixed, sender, flow] = [(1, 1), (BURST, 1), (BURST, BURST)]
            .map(|(src_run, dst_run)| median_ns(&bridge, &frames(stations, src_run, dst_run)));
        println!("{stations:>8}  {mixed:>10.2}  {sender:>10.2}  {flow:>10.2}");
    }
    Ok(())
}
