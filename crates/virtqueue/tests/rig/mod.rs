//! What the tests of this crate share: a guest with a ring, data buffers, and a source of randomness.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region, RegionHint};
use std::sync::Arc;
use virtqueue::{DriverQueue, Endian, IndirectArea, QueueSetup, QueueSize, RingFeatures};

/// A small generator with a seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Every combination of ring features that exists.
pub fn all_features() -> Vec<RingFeatures> {
    let mut all = Vec::new();
    for bits in 0..32u32 {
        let bit = |index: u32| bits & (1 << index) != 0;
        let features = RingFeatures {
            packed: bit(0),
            indirect: bit(1),
            event_idx: bit(2),
            in_order: bit(3),
            endian: if bit(4) { Endian::Big } else { Endian::Little },
        };
        if !(features.packed && features.endian == Endian::Big) {
            all.push(features);
        }
    }
    all
}

/// Guest address of the ring.
pub const RING: u64 = 0x10_0000;
/// Guest address of the data buffers, in memory of their own.
pub const DATA: u64 = 0x4000_0000;
/// Bytes of one buffer slot.
const SLOT: u64 = 256;
/// Buffer slots: one chain uses two.
const SLOTS: u64 = 1024;
/// Entries of an indirect table.
const TABLE: u16 = 8;

/// A question that was asked, and where the answer is to appear.
pub type Exchange = (Vec<u8>, (u64, u32));

pub struct Rig {
    pub memory: Arc<GuestMemory>,
    pub driver: DriverQueue,
    pub setup: QueueSetup,
    free: Vec<u64>,
    next_token: u64,
}

impl Rig {
    /// A guest whose data lies in `regions` adjacent regions.
    pub fn new(size: QueueSize, features: RingFeatures, regions: u64) -> Self {
        let footprint = DriverQueue::footprint(size, features).next_multiple_of(4096) as u64;
        let table = u64::from(size.get()) * u64::from(TABLE) * 16;
        let mut list = vec![region(RING, footprint + if features.indirect { table } else { 0 })];
        // Regions of no round length, so that boundaries fall inside buffers.
        let data = SLOT * SLOTS;
        let each = data / regions + 1;
        for index in 0..regions {
            let start = index * each;
            list.push(region(DATA + start, each.min(data - start)));
        }
        let memory = Arc::new(GuestMemory::new(list).unwrap());
        let indirect = IndirectArea { base: GuestAddr(RING + footprint), entries: TABLE };
        let indirect = features.indirect.then_some(indirect);
        let (driver, setup) = DriverQueue::setup(&memory, GuestAddr(RING), size, features, indirect).unwrap();
        let free = (0..SLOTS / 2).map(|slot| DATA + slot * 2 * SLOT).collect();
        Self { memory, driver, setup, free, next_token: 0 }
    }

    /// Adds a chain of random bytes in `readable` buffers with room in `writable` ones (at least one buffer);
    /// `None` if the queue or the data buffers are full.
    pub fn add(&mut self, readable: usize, writable: usize, random: &mut Random) -> Option<(u64, Exchange)> {
        let readable = if readable + writable == 0 { 1 } else { readable };
        let base = self.free.pop()?;
        let mut cut = |start: u64, count: usize| {
            let mut at = start;
            let mut buffers = Vec::new();
            for _ in 0..count {
                let len = 1 + random.below(SLOT as usize / 4) as u32;
                buffers.push((GuestAddr(at), len));
                at += u64::from(len);
            }
            (buffers, (at - start) as u32)
        };
        let (question, question_len) = cut(base, readable);
        let (answer, answer_len) = cut(base + SLOT, writable);
        let bytes: Vec<u8> = (0..question_len).map(|_| random.next() as u8).collect();
        self.write(base, &bytes);
        let token = self.next_token;
        let added = if self.setup.features.indirect && random.below(2) == 0 {
            self.driver.add_indirect(&question, &answer, token)
        } else {
            self.driver.add(&question, &answer, token)
        };
        if added.is_err() {
            self.free.push(base);
            return None;
        }
        self.next_token += 1;
        Some((token, (bytes, (base + SLOT, answer_len))))
    }

    /// Gives the buffers of an exchange back, by the address of its answer.
    pub fn free(&mut self, answer: u64) {
        self.free.push(answer - SLOT);
    }

    pub fn read(&self, (addr, _): (u64, u32), len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let mut done = 0;
        while done < bytes.len() {
            let run = self.memory.run(
                GuestAddr(addr + done as u64),
                bytes.len() - done,
                &mut RegionHint::default(),
            );
            done += run.unwrap().read(&mut bytes[done..]);
        }
        bytes
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let run = self.memory.run(
                GuestAddr(addr + done as u64),
                bytes.len() - done,
                &mut RegionHint::default(),
            );
            done += run.unwrap().write(&bytes[done..]);
        }
    }
}

fn region(guest: u64, len: u64) -> Region {
    let mapping = Arc::new(Mapping::anonymous(len as usize).unwrap());
    Region::new(GuestAddr(guest), FrontendAddr(guest), len, mapping).unwrap()
}
