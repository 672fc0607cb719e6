//! Every rule a driver can break, broken once on purpose: the fault has the right name and retires the queue.

#[cfg(not(miri))]
use guestmem::{FrontendAddr, Mapping, Region};
use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use virtqueue::{
    Burst, DeviceQueue, DriverFault, DriverQueue, QueueSetup, QueueSize, RingFeatures, RingState,
};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DATA: u64 = 0x4000;
const TABLE: u64 = 0x6000;
const END: u64 = 0x1_0000;

/// A guest of 64 KiB with a ring of eight at its beginning, written by hand.
struct Hand {
    memory: Arc<GuestMemory>,
    setup: QueueSetup,
    packed: bool,
}

impl Hand {
    fn new(packed: bool) -> Self {
        Self::with(RingFeatures { packed, indirect: true, ..RingFeatures::default() }, 8)
    }

    fn with(features: RingFeatures, size: u16) -> Self {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), END as usize).unwrap());
        let size = QueueSize::try_from(size).unwrap();
        let (_, setup) = DriverQueue::setup(&memory, GuestAddr(0), size, features, None).unwrap();
        Self { memory, setup, packed: features.packed }
    }

    fn write(&self, addr: u64, bytes: &[u8]) {
        self.memory.slice(GuestAddr(addr), bytes.len()).unwrap().write(bytes);
    }

    /// Descriptor `index` of the table at `table`; `link` is the next index, or the buffer id.
    fn descriptor(&self, table: u64, index: u64, addr: u64, len: u32, flags: u16, link: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        let (third, fourth) = if self.packed { (link, flags) } else { (flags, link) };
        bytes[12..14].copy_from_slice(&third.to_le_bytes());
        bytes[14..].copy_from_slice(&fourth.to_le_bytes());
        self.write(table + index * 16, &bytes);
    }

    /// As [`Hand::descriptor`], also where only reading is allowed: the guest itself may write there.
    #[cfg(not(miri))]
    fn rom(&self, at: u64, addr: u64, len: u32, flags: u16, link: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        let (third, fourth) = if self.packed { (link, flags) } else { (flags, link) };
        bytes[12..14].copy_from_slice(&third.to_le_bytes());
        bytes[14..].copy_from_slice(&fourth.to_le_bytes());
        for (at, byte) in (at..).zip(bytes) {
            let at = GuestAddr(at);
            self.memory.slice(at, 1).or_else(|| self.memory.run_read_only(at, 1)).unwrap().write(&[byte]);
        }
    }

    /// A descriptor of the ring; the packed form is available at once.
    fn ring(&self, index: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let available = if self.packed { 1 << 7 } else { 0 };
        self.descriptor(0, index, addr, len, flags | available, next);
    }

    /// Makes the chains at `heads` available (the packed form needs nothing).
    fn available(&self, heads: &[u16]) {
        if self.packed {
            return;
        }
        for (entry, head) in heads.iter().enumerate() {
            self.write(self.setup.driver.0 + 4 + 2 * entry as u64, &head.to_le_bytes());
        }
        self.avail_index(heads.len() as u16);
    }

    fn avail_index(&self, index: u16) {
        self.write(self.setup.driver.0 + 2, &index.to_le_bytes());
    }

    fn pop(&self) -> Result<usize, DriverFault> {
        let mut queue = DeviceQueue::new(&self.memory, &self.setup, RingState::default()).unwrap();
        let mut burst = Burst::new();
        let first = queue.pop(&self.memory, &mut burst, 8);
        if let Err(fault) = first {
            // It stays, the queue is quiet, and nothing half-collected is left behind.
            assert_eq!(queue.pop(&self.memory, &mut burst, 8), Err(fault));
            assert_eq!(queue.fault(), Some(fault));
            assert!(!queue.has_available() && !queue.enable_notify() && burst.is_empty());
            assert_eq!(queue.fill(&self.memory, 8, |_| Some(1)), 0, "a retired queue is not filled");
            self.fill_then_pop(0, fault);
        }
        first
    }
}

impl Hand {
    /// The short way fills `good` buffers, hands out no other one, and leaves the naming of `fault` to a pop.
    fn fill_then_pop(&self, good: usize, fault: DriverFault) {
        let mut queue = DeviceQueue::new(&self.memory, &self.setup, RingState::default()).unwrap();
        let mut handed = 0;
        let filled = queue.fill(&self.memory, 8, |buffer| {
            assert_eq!(self.memory.guest_of_slice(&buffer), Some(GuestAddr(DATA)));
            handed += 1;
            Some(4)
        });
        assert_eq!((filled, handed, queue.fault()), (good, good, None), "{fault:?}");
        assert_eq!(queue.pop(&self.memory, &mut Burst::new(), 8), Err(fault));
        assert_eq!(queue.fill(&self.memory, 8, |_| Some(1)), 0);
        assert_eq!((queue.fault(), queue.flush()), (Some(fault), good != 0));
    }
}

fn both(break_rule: impl Fn(&Hand), fault: DriverFault) {
    for packed in [false, true] {
        let hand = Hand::new(packed);
        break_rule(&hand);
        hand.available(&[0]);
        assert_eq!(hand.pop(), Err(fault), "packed {packed}");
    }
}

#[test]
fn an_index_too_far_ahead() {
    for step in [9, 1000, 0xffff] {
        let hand = Hand::new(false);
        hand.avail_index(step);
        assert_eq!(hand.pop(), Err(DriverFault::AvailIndexJump), "{step}");
    }
}

#[test]
fn more_than_the_ring_in_flight() {
    // Eight chains are held, and the driver offers more.
    let hand = Hand::new(false);
    for index in 0..8 {
        hand.ring(index, DATA, 8, 0, 0);
    }
    hand.available(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
    let mut burst = Burst::new();
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(8));
    hand.avail_index(9);
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Err(DriverFault::AvailIndexJump));

    let hand = Hand::new(true);
    for index in 0..8 {
        hand.ring(index, DATA, 8, 0, 0);
    }
    let mut queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(8));
    // Available again, in the next lap (the used bit stands for it), before any was used.
    hand.descriptor(0, 0, DATA, 8, 1 << 15, 0);
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Err(DriverFault::RingOverrun));
}

#[test]
fn an_index_outside_the_table() {
    let hand = Hand::new(false);
    hand.available(&[8]);
    assert_eq!(hand.pop(), Err(DriverFault::DescriptorIndex));
    hand.ring(0, DATA, 8, NEXT, 8);
    hand.available(&[0]);
    assert_eq!(hand.pop(), Err(DriverFault::DescriptorIndex));
}

#[test]
fn a_loop_or_an_endless_chain() {
    let hand = Hand::new(false);
    hand.ring(0, DATA, 8, NEXT, 1);
    hand.ring(1, DATA, 8, NEXT, 0);
    hand.available(&[0]);
    assert_eq!(hand.pop(), Err(DriverFault::ChainTooLong));

    let hand = Hand::new(true);
    for index in 0..8 {
        hand.ring(index, DATA, 8, NEXT, 0);
    }
    assert_eq!(hand.pop(), Err(DriverFault::ChainTooLong));

    let hand = Hand::new(false);
    hand.ring(0, TABLE, 32, INDIRECT, 0);
    hand.descriptor(TABLE, 0, DATA, 8, NEXT, 1);
    hand.descriptor(TABLE, 1, DATA, 8, NEXT, 0);
    hand.available(&[0]);
    assert_eq!(hand.pop(), Err(DriverFault::ChainTooLong));
}

#[test]
fn a_chain_longer_than_any_may_be() {
    for len in [16 * 1025, 0xffff_fff0] {
        both(|hand| hand.ring(0, TABLE, len, INDIRECT, 0), DriverFault::ChainTooLong);
    }
    // One descriptor in front counts too.
    both(
        |hand| {
            hand.ring(0, DATA, 4, NEXT, 1);
            hand.ring(1, TABLE, 16 * 1024, INDIRECT, 0);
        },
        DriverFault::ChainTooLong,
    );
    // In a ring that has room for more: 1024 are taken, 1025 are not.
    for packed in [false, true] {
        for (count, popped) in [(1024, Ok(1)), (1025, Err(DriverFault::ChainTooLong))] {
            let hand = Hand::with(RingFeatures { packed, ..RingFeatures::default() }, 2048);
            for index in 0..count {
                let next = if index + 1 < count { NEXT } else { 0 };
                hand.ring(index, 0xf000, 4, next, index as u16 + 1);
            }
            hand.available(&[0]);
            assert_eq!(hand.pop(), popped, "packed {packed}");
        }
    }
}

/// The cheapest attack: every entry of the available ring names the same long chain.
#[test]
fn one_pop_walks_a_bounded_number_of_descriptors() {
    let hand = Hand::with(RingFeatures::default(), 2048);
    for index in 0..1024 {
        hand.ring(index, 0xf000, 4, if index < 1023 { NEXT } else { 0 }, index as u16 + 1);
    }
    hand.available(&[0; 64]);
    let mut queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
    for _ in 0..16 {
        let mut burst = Burst::new();
        assert_eq!(queue.pop(&hand.memory, &mut burst, 64), Ok(4));
        let segments = burst.chains().iter().map(|chain| burst.readable(chain).len());
        assert_eq!(segments.sum::<usize>(), 4096);
    }
    assert!(!queue.has_available());
}

#[test]
fn buffers_outside_the_memory() {
    let wild = [(END, 1), (END - 4, 8), (u64::MAX, 1), (u64::MAX - 7, 16), (DATA, u32::MAX)];
    for (addr, len) in wild {
        both(|hand| hand.ring(0, addr, len, 0, 0), DriverFault::AddressRange);
        both(
            |hand| {
                hand.ring(0, DATA, 8, NEXT, 1);
                hand.ring(1, addr, len, WRITE, 0);
            },
            DriverFault::AddressRange,
        );
    }
}

/// What an IOMMU lets the device read only is read, and never written: not by one descriptor, not by the end of one, not
/// through an indirect table.
#[test]
#[cfg(not(miri))]
fn buffers_that_may_only_be_read() {
    for packed in [false, true] {
        let hand = || {
            let mut hand = Hand::new(packed);
            let rom = Arc::new(Mapping::anonymous(4096).unwrap());
            let rom = Region::part(GuestAddr(END), 4096, rom, 0).unwrap().read_only();
            let regions = hand.memory.regions().iter().cloned().chain([rom]).collect();
            hand.memory = Arc::new(GuestMemory::new(regions).unwrap());
            hand
        };
        for addr in [END - 8, END, END + 8] {
            let readable = hand();
            readable.ring(0, addr, 16, 0, 0);
            readable.available(&[0]);
            assert_eq!(readable.pop(), Ok(1));
        }
        // A table there, whole or from its second entry's middle on.
        for (at, addr) in [END, END - 24].into_iter().zip([DATA, END]) {
            let table = hand();
            table.ring(0, at, 32, INDIRECT, 0);
            for index in 0..2 {
                table.rom(at + 16 * index, addr, 4, if index == 0 { NEXT } else { 0 }, 1);
            }
            table.available(&[0]);
            assert_eq!(table.pop(), Ok(1), "packed {packed}");
        }
        for addr in [END, END - 8] {
            let single = hand();
            single.ring(0, addr, 16, WRITE, 0);
            single.available(&[0]);
            assert_eq!(single.pop(), Err(DriverFault::AddressRange), "packed {packed}");
            let table = hand();
            table.ring(0, TABLE, 16, INDIRECT, 0);
            table.descriptor(TABLE, 0, addr, 16, WRITE, 0);
            table.available(&[0]);
            assert_eq!(table.pop(), Err(DriverFault::AddressRange), "packed {packed}");
        }
    }
}

#[test]
fn descriptors_without_bytes() {
    both(|hand| hand.ring(0, DATA, 0, 0, 0), DriverFault::ZeroLength);
    both(
        |hand| {
            hand.ring(0, DATA, 4, NEXT, 1);
            hand.ring(1, DATA, 0, WRITE, 0);
        },
        DriverFault::ZeroLength,
    );
}

#[test]
fn readable_after_writable() {
    both(
        |hand| {
            hand.ring(0, DATA, 4, WRITE | NEXT, 1);
            hand.ring(1, DATA, 4, 0, 0);
        },
        DriverFault::WritableBeforeReadable,
    );
}

/// Every fault of a chain that stands behind buffers of the plain kind, which are filled.
#[test]
fn a_fault_behind_filled_buffers_has_its_name() {
    let wild = [(END, 1), (END - 4, 8), (u64::MAX, 1), (u64::MAX - 7, 16), (DATA, u32::MAX)];
    let mut broken: Vec<(u64, u32, u16, u16, DriverFault)> =
        wild.map(|(addr, len)| (addr, len, WRITE, 2, DriverFault::AddressRange)).into();
    broken.extend([
        (DATA, 0, WRITE, 2, DriverFault::ZeroLength),
        (DATA, 8, WRITE | NEXT, 2, DriverFault::ChainTooLong),
        (DATA, 8, WRITE | NEXT, 3, DriverFault::WritableBeforeReadable),
        (TABLE, 16, WRITE | INDIRECT | NEXT, 2, DriverFault::IndirectWithNext),
        (TABLE, 8, WRITE | INDIRECT, 2, DriverFault::IndirectTableSize),
        (END, 16, WRITE | INDIRECT, 2, DriverFault::IndirectTableRange),
        (TABLE, 16, WRITE | INDIRECT, 2, DriverFault::IndirectInIndirect),
        (TABLE, 16 * 1025, WRITE | INDIRECT, 2, DriverFault::ChainTooLong),
    ]);
    for packed in [false, true] {
        for &(addr, len, flags, link, fault) in &broken {
            if packed && (len, fault) == (8, DriverFault::ChainTooLong) {
                // A packed chain has no loop: this one ends where it comes to the buffers that were filled.
                continue;
            }
            let hand = Hand::new(packed);
            hand.descriptor(TABLE, 0, TABLE, 16, INDIRECT, 0);
            (0..8).for_each(|index| hand.ring(index, DATA, 8, WRITE, index as u16));
            if fault == DriverFault::WritableBeforeReadable {
                hand.ring(3, DATA, 8, 0, 3);
            }
            hand.ring(2, addr, len, flags, link);
            hand.available(&[0, 1, 2, 4]);
            hand.fill_then_pop(2, fault);
        }
    }
    let hand = Hand::new(false);
    (0..8).for_each(|index| hand.ring(index, DATA, 8, WRITE, 0));
    hand.available(&[0, 1, 8]);
    hand.fill_then_pop(2, DriverFault::DescriptorIndex);
    hand.avail_index(9);
    hand.fill_then_pop(0, DriverFault::AvailIndexJump);
}

/// A driver that makes descriptors available in the next lap, before they were used.
#[test]
fn a_ring_is_filled_once_a_lap() {
    let hand = Hand::new(true);
    (0..8).for_each(|index| hand.ring(index, DATA, 8, WRITE, 0));
    let mut queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
    let mut burst = Burst::new();
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(8));
    (0..8).for_each(|index| hand.descriptor(0, index, DATA, 8, WRITE | 1 << 15, 0));
    assert_eq!(queue.fill(&hand.memory, 8, |_| Some(1)), 0);
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Err(DriverFault::RingOverrun));
}

#[test]
fn indirect_without_the_feature() {
    for packed in [false, true] {
        let hand = Hand::with(RingFeatures { packed, ..RingFeatures::default() }, 8);
        hand.ring(0, TABLE, 16, INDIRECT, 0);
        hand.descriptor(TABLE, 0, DATA, 4, 0, 0);
        hand.available(&[0]);
        assert_eq!(hand.pop(), Err(DriverFault::IndirectNotNegotiated));
    }
}

#[test]
fn indirect_tables_of_impossible_size_or_place() {
    for len in [0, 8, 24, u32::MAX] {
        both(|hand| hand.ring(0, TABLE, len, INDIRECT, 0), DriverFault::IndirectTableSize);
    }
    for addr in [END, u64::MAX - 15, u64::MAX] {
        both(|hand| hand.ring(0, addr, 32, INDIRECT, 0), DriverFault::IndirectTableRange);
    }
    // The table begins inside, and its second entry is outside.
    both(
        |hand| {
            hand.ring(0, END - 16, 32, INDIRECT, 0);
            hand.descriptor(END - 16, 0, DATA, 4, NEXT, 1);
        },
        DriverFault::IndirectTableRange,
    );
}

#[test]
fn indirect_in_indirect_and_indirect_with_next() {
    both(
        |hand| {
            hand.ring(0, TABLE, 16, INDIRECT, 0);
            hand.descriptor(TABLE, 0, TABLE + 64, 16, INDIRECT, 0);
        },
        DriverFault::IndirectInIndirect,
    );
    both(|hand| hand.ring(0, TABLE, 16, INDIRECT | NEXT, 1), DriverFault::IndirectWithNext);
}

#[test]
fn an_index_outside_the_indirect_table() {
    let hand = Hand::new(false);
    hand.ring(0, TABLE, 32, INDIRECT, 0);
    hand.descriptor(TABLE, 0, DATA, 4, NEXT, 2);
    hand.available(&[0]);
    assert_eq!(hand.pop(), Err(DriverFault::IndirectIndex));
}

/// Regions of `len` bytes each from `start` on, all of the same mapping, as a front-end may arrange them.
#[cfg(not(miri))]
fn mirrored(start: u64, len: u64, count: u64) -> Vec<Region> {
    let mapping = Arc::new(Mapping::anonymous(len as usize).unwrap());
    let region = |index: u64| {
        let at = start + index * len;
        Region::new(GuestAddr(at), FrontendAddr(at), len, Arc::clone(&mapping)).unwrap()
    };
    (0..count).map(region).collect()
}

/// As [`Hand`], with `extra` regions besides the ring's.
#[cfg(not(miri))]
fn hand_over(extra: Vec<Region>, size: u16) -> Hand {
    let mut regions = mirrored(0, END, 1);
    regions.extend(extra);
    let memory = Arc::new(GuestMemory::new(regions).unwrap());
    let features = RingFeatures { indirect: true, ..RingFeatures::default() };
    let size = QueueSize::try_from(size).unwrap();
    let (_, setup) = DriverQueue::setup(&memory, GuestAddr(0), size, features, None).unwrap();
    Hand { memory, setup, packed: false }
}

#[test]
#[cfg(not(miri))]
fn four_gigabytes_in_one_chain() {
    // Eight gigabytes of guest memory, all the same megabyte; the descriptors are within bounds one by one.
    let start = 1 << 32;
    let hand = hand_over(mirrored(start, 1 << 23, 1000), 8);
    hand.ring(0, start, 0xf000_0000, NEXT, 1);
    hand.ring(1, start, 0x1000_0000, WRITE, 0);
    hand.available(&[0]);
    assert_eq!(hand.pop(), Err(DriverFault::TotalLength));
    hand.ring(1, start, 0x0fff_ffff, WRITE, 0);
    assert_eq!(hand.pop(), Ok(1));
}

#[test]
#[cfg(not(miri))]
fn a_chain_in_too_many_pieces() {
    // Every descriptor crosses a thousand regions of sixteen bytes.
    let hand = hand_over(mirrored(END, 16, 1000), 128);
    for index in 0..128u16 {
        hand.ring(u64::from(index), END, 16_000, NEXT, (index + 1) % 128);
    }
    hand.available(&[0]);
    assert_eq!(hand.pop(), Err(DriverFault::TooManySegments));
}

#[test]
fn chains_before_the_fault_are_delivered_and_can_be_completed() {
    for packed in [false, true] {
        let hand = Hand::new(packed);
        hand.ring(0, DATA, 8, 0, 0);
        hand.ring(1, DATA, 8, WRITE, 1);
        hand.ring(2, DATA, 0, 0, 2);
        hand.available(&[0, 1, 2]);
        let mut queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
        let mut burst = Burst::new();
        assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(2));
        assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Err(DriverFault::ZeroLength));
        while let Some(chain) = burst.take() {
            queue.complete(&burst, chain, 8);
        }
        assert!(queue.flush());
        // Reset of the ring: the driver lays it out again, the device makes its queue anew.
        DriverQueue::attach(&hand.memory, &hand.setup, None).unwrap();
        for index in 0..3 {
            hand.ring(index, DATA, 8, 0, index as u16);
        }
        hand.available(&[0, 1, 2]);
        assert_eq!(hand.pop(), Ok(3));
    }
}

#[test]
#[cfg(not(miri))]
fn very_long_chains_end_a_pop_early_and_none_is_lost() {
    let hand = hand_over(mirrored(END, 16, 1000), 8);
    for index in 0..8 {
        hand.ring(index, END, 16_000, 0, 0);
    }
    hand.available(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
    let mut burst = Burst::new();
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(5));
    assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(3));
}

#[test]
fn every_fault_is_covered_above() {
    let source = include_str!("faults.rs");
    for fault in DriverFault::ALL {
        assert!(source.contains(&format!("DriverFault::{fault:?}")), "{fault:?}");
    }
}

#[test]
fn a_queue_that_is_only_read_ignores_the_write_flag() {
    for packed in [false, true] {
        let hand = Hand::new(packed);
        hand.ring(0, TABLE, 32, INDIRECT, 0);
        let next = if packed { 0 } else { NEXT };
        hand.descriptor(TABLE, 0, DATA, 12, WRITE | next, 1);
        hand.descriptor(TABLE, 1, DATA + 64, 60, 0, 0);
        hand.available(&[0]);
        assert_eq!(hand.pop(), Err(DriverFault::WritableBeforeReadable));
        let queue = DeviceQueue::new(&hand.memory, &hand.setup, RingState::default()).unwrap();
        let (mut queue, mut burst) = (queue.readable_only(), Burst::new());
        assert_eq!(queue.pop(&hand.memory, &mut burst, 8), Ok(1));
        let chain = burst.take().unwrap();
        assert_eq!((chain.readable_len(), chain.writable_len()), (72, 0));
        queue.complete(&burst, chain, 0);
    }
}
