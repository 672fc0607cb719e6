//! Buffers filled in one step against the same buffers popped and completed: the rings must be equal to the last byte.

mod rig;

use guestmem::{DirtyLog, GuestAddr, Mapping, MemSlice};
use rig::{RING, Random, Rig, all_features};
use std::sync::Arc;
use virtqueue::{Burst, DeviceQueue, DriverQueue, Endian, QueueSize, RingFeatures, RingLog, RingState};

/// One of two guests that do the same.
struct Side {
    rig: Rig,
    device: DeviceQueue,
}

impl Side {
    fn new(size: u16, features: RingFeatures) -> Self {
        let rig = Rig::new(QueueSize::try_from(size).unwrap(), features, 3);
        let device = DeviceQueue::new(&rig.memory, &rig.setup, RingState::default()).unwrap();
        Self { rig, device }
    }

    /// Everything that the device writes but for the buffers.
    fn ring(&self) -> Vec<u8> {
        let footprint = DriverQueue::footprint(self.rig.setup.size, self.rig.setup.features);
        let mut bytes = vec![0; footprint];
        self.rig.memory.slice(GuestAddr(RING), footprint).unwrap().read(&mut bytes);
        bytes
    }

    /// Makes `count` chains available, which are mostly one buffer to write; returns how many found room.
    fn offer(&mut self, count: usize, random: &mut Random) -> usize {
        let mut offered = 0;
        for _ in 0..count {
            let (readable, writable) = if random.below(8) == 0 { (1, 2) } else { (0, 1) };
            offered += usize::from(self.rig.add(readable, writable, random).is_some());
        }
        self.rig.driver.publish();
        offered
    }

    /// Pops up to `max` chains and completes them the long way, each with `written` bytes.
    fn pop(&mut self, max: usize, written: u32) -> usize {
        let mut burst = Burst::new();
        let popped = self.device.pop(&self.rig.memory, &mut burst, max).unwrap();
        while let Some(chain) = burst.take() {
            self.device.complete(&burst, chain, written);
        }
        popped
    }

    /// Fills up to `max` buffers; the one with number `stop` is left.
    fn fill(&mut self, max: usize, stop: usize, written: u32) -> usize {
        let mut number = 0;
        self.device.fill(&self.rig.memory, max, |buffer| {
            assert!(!buffer.is_empty() && self.rig.memory.guest_of_slice(&buffer).is_some());
            number += 1;
            (number <= stop).then_some(written)
        })
    }

    fn collect(&mut self) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| self.rig.driver.pop_used().unwrap()).collect()
    }
}

/// One side fills and goes on with pops, the other one pops alone. Returns how many buffers were filled.
fn compare(size: u16, features: RingFeatures, rounds: usize) -> usize {
    let [mut short, mut long] = [Side::new(size, features), Side::new(size, features)];
    let mut random = Random::new(u64::from(size));
    let mut total = 0;
    for round in 0..rounds {
        let (count, seed) = (random.below(12), random.next());
        let offered = [&mut short, &mut long].map(|side| side.offer(count, &mut Random::new(seed)));
        assert_eq!(offered[0], offered[1]);
        let (max, stop, written) = (random.below(40), random.below(40), random.below(80) as u32);
        let filled = short.fill(max, stop, written);
        assert!(filled <= max.min(stop));
        assert_eq!(long.pop(filled, written), filled, "{features:?} size {size} round {round}");
        let rest = random.below(6);
        assert_eq!(short.pop(rest, 1), long.pop(rest, 1));
        if random.below(3) != 0 {
            assert_eq!(short.device.flush(), long.device.flush(), "{features:?} size {size} round {round}");
        }
        assert_eq!(short.device.state(), long.device.state());
        assert_eq!(short.ring(), long.ring(), "{features:?} size {size} round {round}");
        assert_eq!(short.collect(), long.collect());
        total += filled;
        if round % 100 == 99 {
            // A new guest, before the data buffers are all spent.
            [short, long] = [Side::new(size, features), Side::new(size, features)];
        }
    }
    total
}

#[test]
fn filled_rings_are_equal_to_popped_ones_to_the_last_byte() {
    let rounds = if cfg!(miri) { 20 } else { 1000 };
    for features in all_features() {
        for size in if features.packed { [1, 7, 33] } else { [1, 8, 32] } {
            let filled = compare(size, features, rounds);
            // A ring of big endian has no short way.
            assert_eq!(filled != 0, features.endian == Endian::Little, "{features:?} size {size}");
        }
    }
}

fn rings() -> [RingFeatures; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(packed, in_order)| RingFeatures {
        packed,
        in_order,
        ..RingFeatures::default()
    })
}

/// Eight buffers to write.
fn eight(features: RingFeatures) -> Side {
    let mut side = Side::new(8, features);
    let mut random = Random::new(1);
    (0..8).for_each(|_| assert!(side.rig.add(0, 1, &mut random).is_some()));
    side.rig.driver.publish();
    side
}

#[test]
fn what_is_not_filled_stays_and_no_more_than_there_is_counts_as_written() {
    for features in rings() {
        let mut side = eight(features);
        assert_eq!(side.fill(8, 2, u32::MAX), 2);
        assert_eq!(side.fill(0, 9, 1), 0);
        assert_eq!(side.fill(8, 0, 1), 0);
        assert_eq!(side.pop(2, 0), 2);
        assert_eq!(side.fill(100, 100, 3), 4);
        assert!(side.device.flush());
        let used = side.collect();
        assert_eq!(used.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(used[..2].iter().all(|(_, written)| (1..=64).contains(written)), "{used:?}");
        assert!(used[2..4].iter().all(|(_, written)| *written == 0));
    }
}

#[test]
fn a_chain_given_back_is_filled_next() {
    for features in rings() {
        let mut side = eight(features);
        let mut burst = Burst::new();
        assert_eq!(side.device.pop(&side.rig.memory, &mut burst, 3), Ok(3));
        while let Some(chain) = burst.take_last() {
            side.device.unpop(chain);
        }
        assert_eq!(side.fill(8, 8, 1), 8);
        side.device.flush();
        assert_eq!(side.collect(), (0..8).map(|token| (token, 1)).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_is_filled_in_front_of_an_older_chain_where_order_is_kept() {
    for features in rings() {
        for kept in [false, true] {
            let mut side = eight(features);
            if kept {
                side.device.keep_order();
            }
            let (memory, mut burst) = (Arc::clone(&side.rig.memory), Burst::new());
            assert_eq!(side.device.pop(&memory, &mut burst, 2), Ok(2));
            let (first, second) = (burst.take().unwrap(), burst.take().unwrap());
            let waits = features.in_order || kept;
            assert_eq!(side.fill(2, 2, 1), if waits { 0 } else { 2 });
            side.device.complete(&burst, second, 1);
            assert_eq!(side.fill(2, 2, 1), if waits { 0 } else { 2 });
            side.device.complete(&burst, first, 1);
            assert_ne!(side.fill(2, 2, 1), 0);
            // What is popped behind filled ones has its turn.
            side.pop(8, 1);
            side.device.flush();
            let mut tokens: Vec<u64> = side.collect().into_iter().map(|(token, _)| token).collect();
            assert!(!waits || tokens.is_sorted());
            tokens.sort_unstable();
            assert_eq!(tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
}

#[test]
fn nothing_is_filled_while_writes_are_logged() {
    for features in rings() {
        let mut side = eight(features);
        let log = DirtyLog::new(Arc::new(Mapping::anonymous(1 << 16).unwrap()));
        side.device.set_log(Some(RingLog { log, used_ring: None }));
        assert_eq!(side.fill(8, 8, 1), 0);
        side.device.set_log(None);
        assert_eq!(side.fill(8, 8, 1), 8);
    }
}

#[test]
fn a_queue_that_is_only_read_is_not_filled() {
    for features in rings() {
        let Side { rig, device } = eight(features);
        let mut side = Side { rig, device: device.readable_only() };
        assert_eq!(side.fill(8, 8, 1), 0);
        assert_eq!(side.pop(8, 0), 8);
    }
}

/// Killed between filling and flushing: of a packed ring the first buffer comes back with nothing written and the others as they
/// were filled; of a split ring all are filled again.
#[test]
fn a_ring_is_taken_over_from_a_device_that_was_killed_while_it_filled() {
    for features in rings() {
        for flushed in [false, true] {
            let mut side = eight(features);
            assert_eq!(side.fill(3, 3, 5), 3);
            if flushed {
                side.device.flush();
            }
            let state = if features.packed {
                RingState::resume_packed(&side.rig.memory, &side.rig.setup).unwrap().unwrap()
            } else {
                RingState::resume_split(&side.rig.memory, &side.rig.setup).unwrap()
            };
            side.device = DeviceQueue::new(&side.rig.memory, &side.rig.setup, state).unwrap();
            let again = if features.packed || flushed { 5 } else { 8 };
            assert_eq!(side.fill(32, 32, 6), again);
            side.device.flush();
            let first = if features.packed && !flushed { 0 } else { 5 };
            let before = [first, 5, 5].into_iter().skip(again - 5);
            let written: Vec<u32> = before.chain(std::iter::repeat_n(6, again)).collect();
            let used = side.collect();
            assert_eq!(used.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
            // Buffers are at least one byte long, and may be shorter than what was said to be written.
            assert_eq!(used.len(), written.len());
            for ((_, is), wanted) in used.into_iter().zip(written) {
                assert!(is <= wanted && (is == 0) == (wanted == 0), "{features:?} flushed {flushed}");
            }
        }
    }
}

#[test]
fn only_whole_single_buffers_are_handed_out() {
    for features in rings() {
        let mut side = Side::new(8, features);
        let mut random = Random::new(9);
        side.rig.add(0, 1, &mut random).unwrap();
        side.rig.add(0, 2, &mut random).unwrap();
        side.rig.add(1, 0, &mut random).unwrap();
        side.rig.driver.publish();
        let mut seen = Vec::new();
        let filled = side.device.fill(&side.rig.memory, 8, |buffer: MemSlice<'_>| {
            seen.push(buffer.len());
            Some(buffer.len() as u32)
        });
        assert_eq!((filled, seen.len()), (1, 1));
        assert_eq!(side.pop(1, 0), 1);
        assert_eq!(side.fill(8, 8, 1), 0, "a chain to be read");
        assert_eq!(side.pop(1, 0), 1);
    }
}
