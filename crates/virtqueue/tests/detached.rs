//! Chains that are completed later than their burst, against the driver side: any order, a chain that never comes back, an
//! order that is kept and given up, and queues that are not the chain's.

mod rig;

use guestmem::{DirtyLog, GuestAddr, KeptRuns, Mapping};
use rig::{DATA, Random, Rig, all_features};
use std::collections::HashMap;
use std::sync::Arc;
use virtqueue::{Burst, Detached, DeviceQueue, QueueSize, RingFeatures, RingLog, RingState};

const SIZE: u16 = 8;

fn device(rig: &Rig) -> DeviceQueue {
    DeviceQueue::new(&rig.memory, &rig.setup, RingState::default()).unwrap()
}

fn rig(features: RingFeatures) -> Rig {
    Rig::new(QueueSize::try_from(SIZE).unwrap(), features, 1)
}

/// Adds one chain of one buffer, pops it and detaches it; its token.
fn send(rig: &mut Rig, device: &mut DeviceQueue, random: &mut Random) -> (u64, Detached) {
    let (token, (_, answer)) = rig.add(1, 0, random).expect("there is room");
    rig.free(answer.0);
    rig.driver.publish();
    let memory = rig.memory.clone();
    let mut burst = Burst::new();
    assert_eq!(device.pop(&memory, &mut burst, 1), Ok(1));
    (token, device.detach(burst.take().unwrap()))
}

fn returned(rig: &mut Rig) -> Vec<u64> {
    std::iter::from_fn(|| rig.driver.pop_used().unwrap()).map(|(token, _)| token).collect()
}

#[test]
fn detached_chains_come_back_once_in_any_order() {
    for features in all_features() {
        let (mut rig, mut random) = (rig(features), Random::new(7));
        let mut device = device(&rig);
        let memory = rig.memory.clone();
        let (mut detached, mut expected) = (Vec::new(), HashMap::new());
        let (mut burst, mut back) = (Burst::new(), 0);
        for _ in 0..if cfg!(miri) { 8 } else { 2000 } {
            for _ in 0..random.below(5) {
                if let Some((token, (_, answer))) = rig.add(1 + random.below(3), 0, &mut random) {
                    expected.insert(token, answer.0);
                }
            }
            rig.driver.publish();
            device.pop(&memory, &mut burst, 4).unwrap();
            while let Some(chain) = burst.take() {
                if random.below(2) == 0 {
                    detached.push(device.detach(chain));
                } else {
                    device.complete(&burst, chain, 0);
                }
            }
            burst = burst.recycle();
            for _ in 0..random.below(6).min(detached.len()) {
                let chain = detached.swap_remove(random.below(detached.len()));
                device.complete_detached(chain).unwrap();
            }
            assert_eq!(usize::from(device.detached()), detached.len());
            device.flush();
            for token in returned(&mut rig) {
                rig.free(expected.remove(&token).expect("a token comes back once"));
                back += 1;
            }
        }
        detached.drain(..).for_each(|chain| device.complete_detached(chain).unwrap());
        // Those that were not popped yet are left.
        device.flush();
        back += returned(&mut rig).len();
        assert!(back > if cfg!(miri) { 0 } else { 500 }, "{back} chains, {features:?}");
        assert!(device.fault().is_none());
    }
}

#[test]
fn a_chain_that_never_comes_back_stops_nobody() {
    for features in all_features().into_iter().filter(|features| !features.in_order) {
        let (mut rig, mut random) = (rig(features), Random::new(1));
        let mut device = device(&rig);
        let (stuck_token, stuck) = send(&mut rig, &mut device, &mut random);
        for _ in 0..5 * SIZE {
            let (token, chain) = send(&mut rig, &mut device, &mut random);
            device.complete_detached(chain).unwrap();
            device.flush();
            assert_eq!(returned(&mut rig), [token], "{features:?}");
        }
        device.complete_detached(stuck).unwrap();
        device.flush();
        assert_eq!(returned(&mut rig), [stuck_token]);
        assert_eq!(rig.driver.free_descriptors(), SIZE);
    }
}

#[test]
fn an_order_is_kept_until_it_is_given_up() {
    for features in all_features() {
        let (mut rig, mut random) = (rig(features), Random::new(2));
        let mut device = device(&rig);
        device.keep_order();
        let (first, stuck) = send(&mut rig, &mut device, &mut random);
        let others: Vec<_> = (0..3).map(|_| send(&mut rig, &mut device, &mut random)).collect();
        let tokens: Vec<u64> = others.iter().map(|(token, _)| *token).collect();
        assert_eq!(device.waits_for(), None);
        others.into_iter().rev().for_each(|(_, chain)| device.complete_detached(chain).unwrap());
        device.flush();
        assert!(returned(&mut rig).is_empty());
        let waits_for = device.waits_for();
        assert!(waits_for.is_some());

        device.release_order();
        device.keep_order(); // Not while one is in flight.
        device.flush();
        if features.in_order {
            assert_eq!(
                (returned(&mut rig).len(), device.waits_for()),
                (0, waits_for),
                "it is the driver's wish"
            );
        } else {
            assert_eq!((returned(&mut rig), device.waits_for()), (tokens, None));
            let (token, chain) = send(&mut rig, &mut device, &mut random);
            device.complete_detached(chain).unwrap();
            device.flush();
            assert_eq!(returned(&mut rig), [token]);
        }
        device.complete_detached(stuck).unwrap();
        device.flush();
        assert_eq!(returned(&mut rig)[0], first);

        // All are back: from here on there is an order again.
        device.keep_order();
        let (first, chain) = send(&mut rig, &mut device, &mut random);
        let (second, early) = send(&mut rig, &mut device, &mut random);
        device.complete_detached(early).unwrap();
        device.complete_detached(chain).unwrap();
        device.flush();
        assert_eq!(returned(&mut rig), [first, second]);
    }
}

#[test]
fn a_chain_of_another_queue_is_refused() {
    for packed in [false, true] {
        let mut rig = rig(RingFeatures { packed, ..RingFeatures::default() });
        let mut random = Random::new(3);
        let mut before = device(&rig);
        let (_, chain) = send(&mut rig, &mut before, &mut random);
        let mut after = DeviceQueue::new(&rig.memory, &rig.setup, before.state()).unwrap();
        assert_eq!(
            after.complete_detached(chain).unwrap_err().to_string(),
            "the chain belongs to another queue"
        );
        let (_, chain) = send(&mut rig, &mut before, &mut random);
        assert!(after.complete_written(chain, 1, []).is_err());
        assert!(!after.flush() && returned(&mut rig).is_empty());
        assert_eq!((before.detached(), after.detached()), (2, 0));
    }
}

#[test]
fn chains_written_late_carry_their_length() {
    for features in all_features() {
        let (mut rig, mut random) = (rig(features), Random::new(5));
        let mut device = device(&rig);
        let memory = rig.memory.clone();
        let mut kept = KeptRuns::new();
        for written in [0, 3, u32::MAX] {
            let (token, (_, (answer, answer_len))) = rig.add(1, 2, &mut random).unwrap();
            rig.driver.publish();
            let mut burst = Burst::new();
            device.pop(&memory, &mut burst, 1).unwrap();
            let chain = burst.take().unwrap();
            let part = kept.keep(&memory, burst.writable(&chain), 0, usize::MAX).unwrap();
            let detached = device.detach(chain);
            drop(burst);
            assert_eq!(kept.write(part, 1, &[0xA5, 0x5A]), 2);
            device.complete_written(detached, written, kept.all()).unwrap();
            kept.clear();
            device.flush();
            assert_eq!(rig.driver.pop_used().unwrap(), Some((token, written.min(answer_len))));
            assert_eq!(rig.read((answer + 1, 2), 2), [0xA5, 0x5A], "{features:?}");
            rig.free(answer);
        }
    }
}

/// A device may write behind what it reports as written: a disk's status behind data that never came.
#[test]
fn whatever_was_written_is_logged() {
    const PAGE: u64 = 4096;
    for packed in [false, true] {
        for late in [false, true] {
            let mut rig = rig(RingFeatures { packed, ..RingFeatures::default() });
            let mut device = device(&rig);
            let memory = rig.memory.clone();
            let log = DirtyLog::new(Arc::new(Mapping::anonymous((DATA / PAGE / 8 + 64) as usize).unwrap()));
            device.set_log(Some(RingLog { log: log.clone(), used_ring: None }));
            let buffers = [DATA + PAGE, DATA + 3 * PAGE].map(|addr| (GuestAddr(addr), 16));
            rig.driver.add(&[(GuestAddr(DATA), 16)], &buffers, 1).unwrap();
            rig.driver.publish();
            let mut burst = Burst::new();
            device.pop(&memory, &mut burst, 1).unwrap();
            let chain = burst.take().unwrap();
            if late {
                let mut kept = KeptRuns::new();
                kept.keep(&memory, burst.writable(&chain), 0, usize::MAX).unwrap();
                let detached = device.detach(chain);
                device.complete_written(detached, 0, kept.all()).unwrap();
            } else {
                device.complete_scattered(&burst, chain, 0);
            }
            device.flush();
            assert_eq!(rig.driver.pop_used().unwrap(), Some((1, 0)));
            let marked = [0, 1, 2, 3].map(|page| log.is_marked(GuestAddr(DATA + page * PAGE)));
            assert_eq!(marked, [false, true, false, true], "packed {packed}, late {late}");
        }
    }
}
