//! A device that is killed at any point, and the next one that goes on where the packed ring says.

mod rig;

use guestmem::{GuestAddr, GuestMemory};
use rig::Random;
use std::collections::VecDeque;
use std::sync::Arc;
use virtqueue::{Burst, Chain, DeviceQueue, DriverQueue, QueueSetup, QueueSize, RingFeatures, RingState};

const DATA: u64 = 0x8_0000;
const SIZES: &[u16] = if cfg!(miri) { &[3] } else { &[1, 2, 3, 4, 5, 7, 8, 33, 256] };

/// How the driver fills the ring, and with what.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Chains that the driver adds each round, at most.
    offered: usize,
    /// Descriptors of a chain, at most.
    slots: usize,
    /// Used chains stay in the ring uncollected for a while.
    lazy: bool,
}

struct Rig {
    memory: Arc<GuestMemory>,
    setup: QueueSetup,
    driver: DriverQueue,
    device: DeviceQueue,
    /// Whether chains are completed that were not flushed.
    pending: bool,
    /// Tokens in the order in which they must come back.
    expected: VecDeque<u64>,
    token: u64,
}

impl Rig {
    fn new(size: u16) -> Self {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 1 << 20).unwrap());
        let features = RingFeatures { packed: true, event_idx: true, ..RingFeatures::default() };
        let size = QueueSize::try_from(size).unwrap();
        let (driver, setup) = DriverQueue::setup(&memory, GuestAddr(0), size, features, None).unwrap();
        let device = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
        Self { memory, setup, driver, device, pending: false, expected: VecDeque::new(), token: 0 }
    }

    fn resume(&self) -> Option<RingState> {
        RingState::resume_packed(&self.memory, &self.setup).unwrap()
    }

    /// Adds up to `count` chains of up to `slots` descriptors.
    fn offer(&mut self, count: usize, slots: usize, random: &mut Random) {
        for _ in 0..count {
            let buffers = vec![(GuestAddr(DATA), 8); 1 + random.below(slots)];
            if self.driver.add(&[], &buffers, self.token).is_ok() {
                self.expected.push_back(self.token);
                self.token += 1;
            }
        }
        self.driver.publish();
    }

    /// Every chain comes back once, and in order.
    fn collect(&mut self, max: usize) {
        for _ in 0..max {
            let Some((token, written)) = self.driver.pop_used().unwrap() else { return };
            assert_eq!(Some(token), self.expected.pop_front());
            assert!(written == 8 || written == 0);
        }
    }

    fn ring(&self) -> Vec<u8> {
        let mut bytes = vec![0; 16 * usize::from(self.setup.size.get())];
        self.memory.slice(self.setup.desc, bytes.len()).unwrap().read(&mut bytes);
        bytes
    }

    fn set_ring(&self, bytes: &[u8]) {
        self.memory.slice(self.setup.desc, bytes.len()).unwrap().write(bytes);
    }

    /// Completes `chain`; at every store that this takes a device could have been killed, and the one that
    /// takes over from there either cannot tell or is right. In the midst of a chain nothing is right: part
    /// of it is overwritten, and the driver does not see it yet.
    fn complete(&mut self, burst: &Burst<'_>, chain: Chain) {
        let start = self.device.state();
        let (at, slots) = (usize::from(start.used), usize::from(chain.descriptors()));
        let (before, size) = (self.ring(), usize::from(self.setup.size.get()));
        self.device.complete(burst, chain, 8);
        let (after, mut now) = (self.ring(), before);
        for step in (0..slots).rev() {
            let slot = (at + step) % size * 16;
            now[slot..slot + 16].copy_from_slice(&after[slot..slot + 16]);
            self.set_ring(&now);
            let Some(RingState { used, used_wrap, .. }) = self.resume() else { continue };
            // The first chain of a burst is not marked in the ring: it alone is still there.
            let state = match (self.pending, slots) {
                (false, 1) => start,
                _ => self.device.state(),
            };
            assert_eq!((used, used_wrap), (state.used, state.used_wrap));
            assert!(step == 0 || step == 1 && !self.pending, "in the midst of a chain");
        }
        self.set_ring(&after);
        self.pending = true;
    }

    /// Another device takes over. False: the ring does not tell where.
    fn kill(&mut self) -> bool {
        let Some(state) = self.resume() else { return false };
        assert_eq!((state.avail, state.avail_wrap), (state.used, state.used_wrap));
        assert_eq!(self.resume(), Some(state), "found again");
        self.device = DeviceQueue::new(&self.memory, &self.setup, state).unwrap();
        self.pending = false;
        true
    }
}

/// Kills the device again and again, at random points, for many laps. Returns the times that the ring told
/// where to go on, and the times that it did not.
fn run(size: u16, load: Load, seed: u64) -> (u32, u32) {
    let mut random = Random::new(seed);
    let mut rig = Rig::new(size);
    let (mut told, mut silent) = (0, 0);
    let rounds = if cfg!(miri) { 20 } else { 4000 };
    for _ in 0..rounds {
        rig.offer(random.below(load.offered + 1), load.slots, &mut random);
        let memory = Arc::clone(&rig.memory);
        let mut burst = Burst::new();
        rig.device.pop(&memory, &mut burst, 1 + random.below(usize::from(size))).unwrap();
        let complete = random.below(burst.len() + 1);
        let published = random.below(3) > 0;
        for _ in 0..complete {
            let chain = burst.take().unwrap();
            if size <= 8 { rig.complete(&burst, chain) } else { rig.device.complete(&burst, chain, 8) }
        }
        let state = rig.device.state();
        if published {
            rig.device.flush();
            rig.pending = false;
            let RingState { used, used_wrap, .. } = state;
            let expected = RingState { avail: used, avail_wrap: used_wrap, used, used_wrap };
            assert_eq!(rig.resume(), Some(expected), "{load:?} size {size}");
        }
        if rig.kill() {
            told += 1;
        } else {
            // A reset of the ring by the driver.
            silent += 1;
            assert!(!published && complete > 0, "{load:?} size {size}");
            let token = rig.token;
            rig = Rig::new(size);
            rig.token = token;
        }
        let max = if load.lazy { random.below(3) } else { usize::MAX };
        rig.collect(max.min(usize::from(size)));
    }
    (told, silent)
}

#[test]
fn a_fresh_ring_begins_at_its_beginning() {
    for &size in SIZES {
        assert_eq!(Rig::new(size).resume(), Some(RingState::default()));
    }
    let split = RingFeatures::default();
    let mut rig = Rig::new(4);
    rig.setup.features = split;
    assert_eq!(rig.resume(), None);
}

#[test]
fn killed_at_any_point_the_next_device_goes_on_and_no_chain_is_lost() {
    for &size in SIZES {
        for offered in [1, usize::from(size)] {
            for lazy in [false, true] {
                let load = Load { offered, slots: 1, lazy };
                let (told, silent) = run(size, load, u64::from(size) + offered as u64);
                // Only a burst of the whole ring is not told from its opposite.
                assert!(silent == 0 || silent < told / 2 && size <= 8, "{load:?} {size}: {told}, {silent}");
            }
        }
    }
}

#[test]
fn longer_chains_are_told_or_not_but_never_wrong() {
    for &size in SIZES {
        for slots in [2, 3, 5] {
            for lazy in [false, true] {
                let load = Load { offered: usize::from(size), slots, lazy };
                let (told, silent) = run(size, load, 7 * u64::from(size));
                assert!(silent < told / 2, "{load:?} {size}: {told}, {silent}");
            }
        }
    }
}

/// Every ring of up to four descriptors, whatever its flags: an answer or none, in bounds.
#[test]
fn arbitrary_rings_are_survived() {
    for size in 1..=if cfg!(miri) { 2u16 } else { 4 } {
        let rig = Rig::new(size);
        for bits in 0..8u32.pow(u32::from(size)) {
            let mut ring = vec![0; 16 * usize::from(size)];
            for index in 0..usize::from(size) {
                let bits = bits >> (3 * index);
                let flags = (bits & 1) << 7 | (bits & 2) << 14 | (bits & 4) >> 2;
                ring[16 * index + 14..16 * index + 16].copy_from_slice(&(flags as u16).to_le_bytes());
            }
            rig.set_ring(&ring);
            if let Some(state) = rig.resume() {
                assert!(
                    state.avail < size && (state.avail, state.avail_wrap) == (state.used, state.used_wrap)
                );
                assert!(DeviceQueue::new(&rig.memory, &rig.setup, state).is_ok());
            }
        }
    }
}
