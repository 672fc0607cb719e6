//! The driver side against the device side: every combination of features, many laps, every ring size class.

mod rig;

use guestmem::{GuestAddr, read_segments, write_segments};
use rig::{Random, Rig, all_features};
use virtqueue::{Burst, DeviceQueue, QueueSize, RingFeatures, RingState};

/// One seed drives both sides with random bursts; every chain must come back with what the device read and
/// wrote. Returns what came back, in order: token and bytes written.
fn exchange(rig: &mut Rig, rounds: usize, random: &mut Random) -> Vec<(u64, u32)> {
    let mut device = DeviceQueue::new(&rig.memory, &rig.setup, RingState::default()).unwrap();
    let memory = rig.memory.clone();
    let in_order = rig.setup.features.in_order;
    let (mut sent, mut received, mut held) = (0, Vec::new(), Vec::new());
    let mut burst = Burst::new();
    let mut expected = std::collections::HashMap::new();
    for _ in 0..rounds {
        for _ in 0..random.below(9) {
            let (readable, writable) = (random.below(4), random.below(4));
            if let Some((token, bytes)) = rig.add(readable, writable, random) {
                expected.insert(token, bytes);
                sent += 1;
            }
        }
        rig.driver.publish();
        device.pop(&memory, &mut burst, random.below(9)).unwrap();
        if random.below(4) == 0
            && let Some(chain) = burst.take_last()
        {
            device.unpop(chain);
        }
        while let Some(chain) = burst.take() {
            held.push((chain, 0u32));
            let (chain, written) = held.last_mut().unwrap();
            let mut bytes = vec![0; chain.readable_len() as usize];
            assert_eq!(read_segments(burst.readable(chain), 0, &mut bytes), bytes.len());
            // The answer is the question, reversed, as far as there is room.
            bytes.reverse();
            *written = write_segments(burst.writable(chain), 0, &bytes) as u32;
        }
        // Out of order; with IN_ORDER the queue puts them right.
        for _ in 0..random.below(10) {
            if held.is_empty() {
                break;
            }
            let index = random.below(held.len());
            let (chain, written) = held.swap_remove(index);
            device.complete(&burst, chain, written);
        }
        device.flush();
        let mut last_token = None;
        while let Some((token, written)) = rig.driver.pop_used().unwrap() {
            let (question, answer) = expected.remove(&token).expect("a token comes back once");
            assert_eq!(written as usize, question.len().min(answer.1 as usize));
            let mut reversed = question;
            reversed.reverse();
            assert_eq!(rig.read(answer, written), reversed[..written as usize]);
            assert!(!in_order || last_token < Some(token), "in order");
            last_token = Some(token);
            rig.free(answer.0);
            received.push((token, written));
        }
        burst = burst.recycle();
    }
    assert!(device.fault().is_none());
    assert_eq!(sent - received.len(), expected.len());
    received
}

#[test]
fn every_combination_of_features_carries_chains_round_the_ring() {
    let rounds = if cfg!(miri) { 12 } else { 4000 };
    for features in all_features() {
        let sizes: &[u16] = match (features.packed, cfg!(miri)) {
            (true, false) => &[1, 2, 3, 7, 64, 256],
            (false, false) => &[1, 2, 8, 64, 256],
            (_, true) => &[4],
        };
        for &size in sizes {
            let mut random = Random::new(u64::from(size));
            let mut rig = Rig::new(QueueSize::try_from(size).unwrap(), features, 1);
            let received = exchange(&mut rig, rounds, &mut random).len();
            if !cfg!(miri) {
                assert!(received > 4 * usize::from(size), "{received} chains, {features:?}, size {size}");
            }
        }
    }
}

/// A device that never writes gives its chains back together, whether or not others are still held.
#[test]
fn bursts_are_given_back_together() {
    let rounds = if cfg!(miri) { 12 } else { 2000 };
    for features in all_features() {
        let mut random = Random::new(5);
        let mut rig = Rig::new(QueueSize::try_from(16).unwrap(), features, 1);
        let memory = rig.memory.clone();
        let mut device = DeviceQueue::new(&memory, &rig.setup, RingState::default()).unwrap().readable_only();
        let mut burst = Burst::new();
        // Where the buffers of each token are, the tokens that came back, and the chains still held.
        let (mut buffers, mut received, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            for _ in 0..random.below(9) {
                let readable = 1 + random.below(3);
                buffers.extend(rig.add(readable, 0, &mut random).map(|(_, (_, answer))| answer.0));
            }
            rig.driver.publish();
            device.pop(&memory, &mut burst, 1 + random.below(9)).unwrap();
            // One that is given back later keeps the others from being told of at once.
            if random.below(4) == 0 {
                held.extend(burst.take());
            }
            device.complete_rest(&mut burst);
            assert!(burst.is_empty());
            if random.below(2) == 0 {
                held.drain(..).for_each(|chain| device.complete(&burst, chain, 0));
            }
            device.flush();
            while let Some((token, written)) = rig.driver.pop_used().unwrap() {
                assert_eq!(written, 0);
                rig.free(buffers[token as usize]);
                received.push(token);
            }
            burst = burst.recycle();
        }
        let count = received.len();
        assert!(count > rounds && count + 16 >= buffers.len(), "{features:?}");
        if features.in_order {
            assert!(received.iter().copied().eq(0..count as u64), "{features:?}");
        }
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), count, "each comes back once, {features:?}");
        if !features.packed {
            let state = RingState::resume_split(&memory, &rig.setup).unwrap();
            assert_eq!(state.used, device.state().used, "{features:?}");
        }
    }
}

/// The same operations on both forms have the same results, in the same order.
#[test]
#[cfg(not(miri))]
fn packed_and_split_agree() {
    for features in all_features().into_iter().filter(|f| f.packed) {
        for seed in 0..4 {
            let results = [false, true].map(|packed| {
                let features = RingFeatures { packed, ..features };
                let mut rig = Rig::new(QueueSize::try_from(32).unwrap(), features, 3);
                exchange(&mut rig, 3000, &mut Random::new(seed))
            });
            assert_eq!(results[0], results[1], "{features:?}, seed {seed}");
            assert!(!results[0].is_empty());
        }
    }
}

#[test]
#[cfg(not(miri))]
fn buffers_over_region_boundaries_are_whole() {
    for features in all_features() {
        let mut random = Random::new(8);
        let mut rig = Rig::new(QueueSize::try_from(64).unwrap(), features, 8);
        assert!(exchange(&mut rig, 2000, &mut random).len() > 500);
    }
}

#[test]
#[cfg(not(miri))]
fn the_largest_ring_wraps_many_times() {
    for features in all_features().into_iter().filter(|f| !f.indirect) {
        let mut rig = Rig::new(QueueSize::MAX, features, 1);
        let mut device = DeviceQueue::new(&rig.memory, &rig.setup, RingState::default()).unwrap();
        let memory = rig.memory.clone();
        let mut burst = Burst::new();
        // Full to the brim each time, and by an odd amount so that every position is the first once.
        let mut token = 0;
        for lap in 0..9 {
            let count: u32 = if lap % 2 == 0 { 32768 } else { 32767 };
            for _ in 0..count {
                rig.driver.add(&[(GuestAddr(rig::DATA), 8)], &[], token).unwrap();
                token += 1;
            }
            rig.driver.publish();
            assert_eq!(device.pop(&memory, &mut burst, 40_000).unwrap_or(0).min(4096), 4096);
            let mut popped = burst.len();
            while device.has_available() {
                popped += device.pop(&memory, &mut burst, 40_000).unwrap();
            }
            assert_eq!(popped, count as usize);
            while let Some(chain) = burst.take() {
                device.complete(&burst, chain, 0);
            }
            device.flush();
            let mut back = 0;
            while let Some((got, 0)) = rig.driver.pop_used().unwrap() {
                assert_eq!(got, token - u64::from(count) + back);
                back += 1;
            }
            assert_eq!(back, u64::from(count));
            burst = burst.recycle();
        }
    }
}

#[test]
fn a_stopped_queue_goes_on_where_it_was() {
    for features in all_features() {
        let mut rig = Rig::new(QueueSize::try_from(8).unwrap(), features, 1);
        let memory = rig.memory.clone();
        let mut state = RingState::default();
        let rounds = if cfg!(miri) { 20 } else { 70_000 };
        for token in 0..rounds {
            let base = state.to_vring_base(features.packed);
            let resumed = RingState::from_vring_base(base, features.packed);
            let mut device = DeviceQueue::new(&memory, &rig.setup, resumed).unwrap();
            rig.driver.add(&[(GuestAddr(rig::DATA), 1)], &[(GuestAddr(rig::DATA), 1)], token).unwrap();
            rig.driver.publish();
            let mut burst = Burst::new();
            assert_eq!(device.pop(&memory, &mut burst, 8), Ok(1));
            let chain = burst.take().unwrap();
            device.complete(&burst, chain, 1);
            assert!(device.flush(), "the first flush after a start always calls");
            assert_eq!(rig.driver.pop_used(), Ok(Some((token, 1))));
            state = device.state();
            if !features.packed {
                assert_eq!(RingState::resume_split(&memory, &rig.setup), Ok(state));
            }
        }
    }
}
