//! Several workers at one table while it changes under them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::fdb::{Fdb, Slot, Station, WAYS, tests::learned};
use crate::model::Sketch;
use crate::tests::{mac, vlan};
use crate::*;

const MACS: u64 = 400;
const PORTS: u16 = 7;
const VLANS: u16 = 2;
const ROUNDS: u64 = 40_000;

/// A station only ever sends from these two ports.
fn owners(number: u64, vid: u16) -> [PortId; 2] {
    let first = ((number + u64::from(vid)) % u64::from(PORTS)) as u16;
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
        let (src, dst, vid) = (random % MACS, (random >> 16) % MACS, 1 + (random >> 40) as u16 % VLANS);
        let in_port = owners(src, vid)[(random >> 32) as usize % 2];
        let bytes = Sketch { src: mac(src).into(), dst: mac(dst).into(), vid: Some(vid) }.bytes();
        // Time runs so fast that entries age during the test.
        let decision = bridge.view().decide(in_port, &Head::parse(&bytes).unwrap(), Now::from_millis(round));
        match decision.verdict {
            Verdict::Unicast(port) => {
                let is_right = owners(dst, vid).contains(&port) && port != in_port;
                assert!(is_right, "{dst} in {vid} is not behind {port}");
                hits += 1;
            }
            Verdict::Flood => {}
            Verdict::Answer => panic!("nobody asked"),
            Verdict::Drop(DropReason::SamePort) => assert!(owners(dst, vid).contains(&in_port)),
            Verdict::Drop(reason) => {
                assert!(matches!(reason, DropReason::IngressRemoved | DropReason::NoReceiver), "{reason}");
            }
        }
    }
    hits
}

/// Ages, lists, flushes, and takes ports away and brings them back, until the workers are done.
fn disturb(bridge: &Bridge, settings: &PortSettings, done: &AtomicBool) {
    let mut round = 0;
    while !done.load(Ordering::Relaxed) {
        round += 1;
        let now = Now::from_millis(round % ROUNDS);
        bridge.age(now);
        for entry in bridge.entries(now) {
            let number = (0..MACS).find(|number| mac(*number) == entry.mac).expect("a station that sends");
            assert!(owners(number, entry.vlan.unwrap().get()).contains(&entry.port));
        }
        let port = PortId((round % u64::from(PORTS)) as u16);
        if round % 3 == 0 {
            bridge.remove_port(port).unwrap();
            let left = bridge.entries(now).iter().any(|entry| entry.port == port);
            assert!(!left, "entries of a port that left");
            bridge.add_port(port, settings.clone()).unwrap();
        } else {
            bridge.flush(&Flush { port: Some(port), ..Flush::default() });
            bridge.remove_entry(mac(round % MACS), Some(vlan(1)));
        }
        thread::yield_now();
    }
}

/// `max_entries` below the number of stations makes slots change hands all the time.
fn hammer(max_entries: u32) {
    let config = BridgeConfig {
        ageing_ms: 3000,
        max_entries,
        tagging: Some(Tagging::Customer),
        ..BridgeConfig::new(5)
    };
    let bridge = Bridge::new(config);
    let vlans = PortVlans::trunk((1..=VLANS).map(vlan), None);
    let settings = PortSettings { vlans, ..PortSettings::default() };
    (0..PORTS).for_each(|port| bridge.add_port(PortId(port), settings.clone()).unwrap());
    let done = AtomicBool::new(false);
    let hits: u64 = thread::scope(|scope| {
        let disturber = scope.spawn(|| disturb(&bridge, &settings, &done));
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
fn a_reader_never_gets_a_port_that_its_station_was_not_behind() {
    hammer(2000);
}

#[test]
fn nor_while_a_table_that_is_too_small_evicts() {
    hammer(100);
}

/// One bucket, whose few slots pass from station to station as fast as a writer can: the worst for word and port to
/// stay a pair.
#[test]
fn word_and_port_stay_a_pair_in_a_slot_that_changes_hands() {
    const CROWD: usize = 3 * WAYS;
    const CHANGES: usize = if cfg!(miri) { 200 } else { 400_000 };
    let fdb = Fdb::new(16, 3);
    let crowd = fdb.neighbours(5, 0x5254_0000_0000, CROWD);
    let done = AtomicBool::new(false);
    let hits: usize = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (fdb, crowd, done) = (&fdb, &crowd, &done);
                scope.spawn(move || {
                    let (mut hits, mut at) = (0usize, reader);
                    while !done.load(Ordering::Relaxed) {
                        at = (at + 1) % CROWD;
                        if let Some(hit) = fdb.find(crowd[at]) {
                            assert_eq!(hit.port(), PortId(at as u16));
                            assert_eq!(hit.word.station(), Some(crowd[at]));
                            hits += 1;
                        }
                    }
                    hits
                })
            })
            .collect();
        let mut state = 77;
        let mut held: [Option<(Slot, Station)>; WAYS] = [None; WAYS];
        for _ in 0..CHANGES {
            let random = next(&mut state) as usize;
            let (way, chosen) = (random % WAYS, (random >> 8) % CROWD);
            if let Some((slot, _)) = held[way].take() {
                fdb.clear(slot);
            }
            let station = crowd[chosen];
            if !held.iter().flatten().any(|(_, other)| *other == station) {
                let slot = fdb.vacancy(station).unwrap();
                fdb.fill(slot, station, learned(station), PortId(chosen as u16), Now::from_millis(0));
                held[way] = Some((slot, station));
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(hits > 0);
    fdb.check_passed();
}
