//! Several workers at one table while it changes under them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::tests::{head, mac};
use crate::*;

const MACS: u64 = 400;
const PORTS: u16 = 7;
const ROUNDS: u64 = 40_000;

/// An address only ever sends from these two ports.
fn owners(number: u64) -> [PortId; 2] {
    let first = (number % u64::from(PORTS)) as u16;
    [PortId(first), PortId((first + 1) % PORTS)]
}

/// A small generator (xorshift), so that threads differ and runs repeat.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Sends frames between random stations; every verdict must name a port that the destination sends from.
fn work(bridge: &Bridge, seed: u64) -> u64 {
    let (mut state, mut hits) = (seed, 0);
    for round in 0..ROUNDS {
        let random = next(&mut state);
        let (src, dst) = (random % MACS, (random >> 16) % MACS);
        let in_port = owners(src)[(random >> 32) as usize % 2];
        // Time runs so fast that entries age during the test.
        let verdict = bridge.decide(in_port, &head(mac(src), mac(dst)), Now::from_millis(round));
        match verdict {
            Verdict::Unicast(port) => {
                assert!(owners(dst).contains(&port) && port != in_port, "{dst} is not behind {port}");
                hits += 1;
            }
            Verdict::Flood => {}
            Verdict::Drop(DropReason::SamePort) => assert!(owners(dst).contains(&in_port)),
            Verdict::Drop(reason) => assert_eq!(reason, DropReason::IngressRemoved),
        }
    }
    hits
}

/// Ages, lists, flushes, and takes ports away and brings them back, until the workers are done.
fn disturb(bridge: &Bridge, done: &AtomicBool) {
    let mut round = 0;
    while !done.load(Ordering::Relaxed) {
        round += 1;
        let now = Now::from_millis(round % ROUNDS);
        bridge.age(now);
        for entry in bridge.entries(now) {
            let number = (0..MACS).find(|number| mac(*number) == entry.mac).expect("a station that sends");
            assert!(owners(number).contains(&entry.port));
        }
        let port = PortId((round % u64::from(PORTS)) as u16);
        if round % 3 == 0 {
            bridge.remove_port(port).unwrap();
            assert!(
                bridge.entries(now).iter().all(|entry| entry.port != port),
                "entries of a port that left"
            );
            bridge.add_port(port).unwrap();
        } else {
            bridge.flush(Some(port));
            bridge.remove(mac(round % MACS));
        }
        thread::yield_now();
    }
}

/// `max_entries` below the number of stations makes slots change hands all the time.
fn hammer(max_entries: u32) {
    let bridge = Bridge::new(BridgeConfig { ageing_ms: 3000, max_entries, seed: 5 });
    (0..PORTS).for_each(|port| bridge.add_port(PortId(port)).unwrap());
    let done = AtomicBool::new(false);
    let hits: u64 = thread::scope(|scope| {
        let disturber = scope.spawn(|| disturb(&bridge, &done));
        let bridge = &bridge;
        let workers: Vec<_> = (1..=4).map(|seed| scope.spawn(move || work(bridge, seed << 20 | 1))).collect();
        let hits = workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>();
        done.store(true, Ordering::Relaxed);
        disturber.join().unwrap();
        hits.into_iter().map(|hits| hits.unwrap()).sum()
    });
    assert!(hits > ROUNDS / 10, "only {hits} frames found their station");
    bridge.check();
}

#[test]
fn a_reader_never_gets_a_port_that_its_address_was_not_behind() {
    hammer(1000);
}

#[test]
fn nor_while_a_table_that_is_too_small_evicts() {
    hammer(100);
}
