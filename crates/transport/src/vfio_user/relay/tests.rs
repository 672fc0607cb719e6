//! A driver in memory of its own, a client that carries out moves, a worker on the relay's ring.

use super::*;
use virtqueue::wire::{Descriptor, INDIRECT, NEXT, WRITE};
use virtqueue::{Burst, DeviceQueue, DriverFault, IndirectArea, RingState};

/// Bytes of the driver's memory.
const MEMORY: usize = 2 << 20;
/// Where its tables and its buffers are.
const TABLES: u64 = 0x4_0000;
const BUFFERS: u64 = 0x8_0000;
const BUFFER_LEN: u64 = 0x400;

/// A small generator of numbers (Knuth's constants).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Rig {
    memory: Arc<GuestMemory>,
    setup: QueueSetup,
    driver: DriverQueue,
    relay: Relay,
    worker: DeviceQueue,
    dice: Dice,
    /// Bytes of one message at most.
    transfer: usize,
    under_way: Vec<Begun>,
    interrupts: usize,
    messages: usize,
    fault: Option<RelayFault>,
}

impl Rig {
    fn new(size: u16, features: RingFeatures, seed: u64) -> Self {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), MEMORY).unwrap());
        let size = QueueSize::try_from(size).unwrap();
        let tables = IndirectArea { base: GuestAddr(TABLES), entries: 4 };
        let (driver, setup) =
            DriverQueue::setup(&memory, GuestAddr(0x1000), size, features, Some(tables)).unwrap();
        let mut relay = Relay::new(&setup, false).unwrap();
        let worker = DeviceQueue::new(relay.memory(), relay.own_setup(), RingState::default()).unwrap();
        relay.start();
        Self {
            memory,
            setup,
            driver,
            relay,
            worker,
            dice: Dice(seed),
            transfer: 1 << 20,
            under_way: vec![],
            interrupts: 0,
            messages: 0,
            fault: None,
        }
    }

    fn advance(&mut self) {
        match self.relay.advance() {
            Ok(wants) => self.interrupts += usize::from(wants.interrupt),
            Err(fault) => {
                self.fault = Some(fault);
                self.relay.stop();
            }
        }
    }

    /// The client carries out one message, whichever.
    fn answer_one(&mut self) {
        let index = self.dice.roll(self.under_way.len() as u64) as usize;
        let Begun { way, part, data } = self.under_way.swap_remove(index);
        let slice = self.memory.slice(part.remote, part.len);
        let mut bytes = vec![0; if data.is_some() { 0 } else { part.len }];
        let result = match (slice, &data) {
            (None, _) => Err(14),
            (Some(slice), Some(data)) => {
                assert_eq!(slice.write(data), part.len);
                Ok(&bytes[..])
            }
            (Some(slice), None) => {
                slice.read(&mut bytes);
                Ok(&bytes[..])
            }
        };
        if let Err(fault) = self.relay.end(way, part, result, false) {
            self.fault = Some(fault);
            self.relay.stop();
        }
        self.advance();
    }

    /// Everything that can happen without driver or worker.
    fn settle(&mut self) {
        self.advance();
        for _ in 0..100_000 {
            while self.under_way.len() < 16
                && let Some(begun) = self.begin()
            {
                self.under_way.push(begun);
                self.messages += 1;
            }
            if self.under_way.is_empty() {
                return;
            }
            self.answer_one();
        }
        panic!("a relay that never rests");
    }

    fn begin(&mut self) -> Option<Begun> {
        let transfer = self.transfer;
        match self.relay.begin(|address, _| transfer.min(MEMORY.saturating_sub(address.0 as usize))) {
            Ok(begun) => begun,
            Err(fault) => {
                self.fault = Some(fault);
                self.relay.stop();
                None
            }
        }
    }

    /// The worker answers each chain: what it reads, and one more for each byte. At most `max` chains.
    fn work(&mut self, max: usize) -> usize {
        let memory = Arc::clone(self.relay.memory());
        let mut burst = Burst::new();
        let count = self.worker.pop(&memory, &mut burst, max).unwrap();
        let mut chains: Vec<_> = std::iter::from_fn(|| burst.take()).collect();
        // In any order.
        if self.dice.roll(2) == 0 {
            chains.reverse();
        }
        for chain in chains {
            let mut bytes = vec![0; burst.readable(&chain).iter().map(|part| part.len()).sum()];
            guestmem::read_segments(burst.readable(&chain), 0, &mut bytes);
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            let written = guestmem::write_segments(burst.writable(&chain), 0, &bytes);
            self.worker.complete(&burst, chain, written as u32);
        }
        if self.worker.flush() {
            self.relay.call();
        }
        count
    }

    fn fill(&self, address: u64, bytes: &[u8]) {
        self.memory.slice(GuestAddr(address), bytes.len()).unwrap().write(bytes);
    }

    fn look(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.slice(GuestAddr(address), len).unwrap().read(&mut bytes);
        bytes
    }
}

/// What a chain carries, and where its answer is.
struct Sent {
    bytes: Vec<u8>,
    answer_at: u64,
    answer_len: usize,
}

/// Many chains there and back, with everything at random; how many messages it took.
fn traffic(size: u16, features: RingFeatures, transfer: usize, seed: u64) -> usize {
    let mut rig = Rig::new(size, features, seed);
    rig.transfer = transfer;
    rig.settle();
    let mut sent: Vec<Option<Sent>> = (0..64).map(|_| None).collect();
    let (mut begun, mut ended) = (0u64, 0);
    for _ in 0..100_000 {
        if ended >= 120 {
            break;
        }
        for _ in 0..rig.dice.roll(4) {
            let Some(slot) = sent.iter().position(Option::is_none) else { break };
            let at = BUFFERS + slot as u64 * 2 * BUFFER_LEN;
            let bytes: Vec<u8> = (0..1 + rig.dice.roll(BUFFER_LEN - 1)).map(|i| (i + begun) as u8).collect();
            rig.fill(at, &bytes);
            let answer_at = at + BUFFER_LEN;
            let answer_len = 1 + rig.dice.roll(BUFFER_LEN - 1) as usize;
            let cut = rig.dice.roll(bytes.len() as u64) as u32;
            let half = (answer_len / 2) as u32;
            let whole = bytes.len() as u32;
            let parts = |at, cut, whole| {
                let both = [(GuestAddr(at), cut), (GuestAddr(at + u64::from(cut)), whole - cut)];
                both.into_iter().filter(|(_, len)| *len > 0).collect::<Vec<_>>()
            };
            let (readable, writable) = (parts(at, cut, whole), parts(answer_at, half, answer_len as u32));
            let added = if features.indirect && rig.dice.roll(2) == 0 {
                rig.driver.add_indirect(&readable, &writable, slot as u64)
            } else {
                rig.driver.add(&readable, &writable, slot as u64)
            };
            if added.is_err() {
                break;
            }
            sent[slot] = Some(Sent { bytes, answer_at, answer_len });
            begun += 1;
        }
        if rig.driver.publish() {
            rig.relay.kick();
        }
        rig.settle();
        assert_eq!(rig.fault, None);
        let most = 1 + rig.dice.roll(40) as usize;
        rig.work(most);
        rig.settle();
        let calls = std::mem::take(&mut rig.interrupts);
        if calls == 0 && rig.dice.roll(8) != 0 {
            continue; // a driver that waits for its interrupt
        }
        loop {
            rig.driver.disable_call();
            while let Some((slot, written)) = rig.driver.pop_used().unwrap() {
                let Sent { bytes, answer_at, answer_len } = sent[slot as usize].take().unwrap();
                let expected: Vec<u8> =
                    bytes.iter().take(answer_len).map(|byte| byte.wrapping_add(1)).collect();
                assert_eq!(written as usize, expected.len());
                assert_eq!(rig.look(answer_at, expected.len()), expected);
                ended += 1;
            }
            if !rig.driver.enable_call() {
                break;
            }
        }
    }
    assert!(ended >= 120 && begun >= ended, "{ended} of {begun} chains came back");
    rig.messages
}

#[test]
fn chains_come_back_in_every_form_of_ring() {
    for packed in [false, true] {
        for bits in 0..8u8 {
            let features = RingFeatures {
                packed,
                indirect: bits & 1 != 0,
                event_idx: bits & 2 != 0,
                in_order: bits & 4 != 0,
                endian: if !packed && bits == 3 { Endian::Big } else { Endian::Little },
            };
            let sizes: &[u16] = if packed { &[7, 64, 200] } else { &[8, 64, 256] };
            for (&size, seed) in sizes.iter().zip(1..) {
                traffic(size, features, 1 << 20, seed + u64::from(bits));
            }
        }
    }
}

#[test]
fn small_messages_carry_the_same() {
    let features = RingFeatures { indirect: true, event_idx: true, ..RingFeatures::default() };
    let many = traffic(64, features, 64, 5);
    assert!(many > 2 * traffic(64, features, 1 << 20, 5));
    traffic(64, RingFeatures { packed: true, ..features }, 64, 6);
}

/// The driver is called no more often than it asked for, with or without the event index.
#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut rig = Rig::new(16, RingFeatures { packed, event_idx, ..RingFeatures::default() }, 1);
        rig.settle();
        let chain = |rig: &mut Rig| {
            rig.driver.add(&[(GuestAddr(BUFFERS), 4)], &[], 0).unwrap();
            assert!(rig.driver.publish(), "a driver is always asked to notify");
            rig.relay.kick();
            rig.settle();
            assert_eq!(rig.work(8), 1);
            rig.settle();
            std::mem::take(&mut rig.interrupts)
        };
        assert!(!rig.driver.enable_call());
        assert_eq!(chain(&mut rig), 1);
        rig.driver.disable_call();
        assert_eq!(rig.driver.pop_used(), Ok(Some((0, 0))));
        assert_eq!(chain(&mut rig), 0, "packed {packed}, event index {event_idx}");
        assert_eq!(rig.driver.pop_used(), Ok(Some((0, 0))));
        assert!(!rig.driver.enable_call());
        assert_eq!(chain(&mut rig), 1);
    }
}

/// What does not fit waits in the driver's ring, and comes when there is room.
#[test]
fn chains_wait_for_room() {
    let mut rig = Rig::new(64, RingFeatures::default(), 3);
    rig.settle();
    // 60 times 128 KiB is more than the arena has.
    let len = 128 << 10;
    for token in 0..60 {
        rig.driver.add(&[], &[(GuestAddr(BUFFERS), len)], token).unwrap();
    }
    rig.driver.publish();
    rig.relay.kick();
    rig.settle();
    let mut rounds = 0;
    let mut done = 0;
    while done < 60 {
        let count = rig.work(64);
        assert!(count > 0 && count <= ARENA_LEN / len as usize, "{count}");
        rig.settle();
        while let Some((token, 0)) = rig.driver.pop_used().unwrap() {
            assert!(token < 60);
            done += 1;
        }
        rounds += 1;
    }
    assert!(rounds >= 2);
    assert_eq!(rig.fault, None);
}

/// A split ring of eight entries with these descriptors at the beginning of its table, and `heads` available.
fn hostile(
    features: RingFeatures,
    descriptors: &[Descriptor],
    heads: &[u16],
    index: u16,
) -> Option<RelayFault> {
    let mut rig = Rig::new(8, features, 1);
    rig.settle();
    for (at, descriptor) in (0..).step_by(16).zip(descriptors) {
        let words = if features.packed { descriptor.to_packed() } else { descriptor.to_split(false) };
        let bytes = [words[0].to_ne_bytes(), words[1].to_ne_bytes()].concat();
        rig.fill(rig.setup.desc.0 + at, &bytes);
    }
    if !features.packed {
        for (at, head) in (4..).step_by(2).zip(heads) {
            rig.fill(rig.setup.driver.0 + at, &head.to_le_bytes());
        }
        rig.fill(rig.setup.driver.0 + 2, &index.to_le_bytes());
    }
    rig.relay.kick();
    rig.settle();
    assert_eq!(rig.work(8), 0, "nothing of it reached the worker");
    rig.fault
}

fn descriptor(addr: u64, len: u32, flags: u16, link: u16) -> Descriptor {
    Descriptor { addr: GuestAddr(addr), len, flags, link }
}

#[test]
fn broken_split_rings_are_named() {
    let features = RingFeatures { indirect: true, ..RingFeatures::default() };
    let one = |descriptor: Descriptor| hostile(features, &[descriptor], &[0], 1);
    let driver = |fault: DriverFault| Some(RelayFault::Driver(fault));
    assert_eq!(hostile(features, &[], &[], 9), driver(DriverFault::AvailIndexJump));
    assert_eq!(hostile(features, &[], &[8], 1), driver(DriverFault::DescriptorIndex));
    assert_eq!(one(descriptor(BUFFERS, 4, NEXT, 8)), driver(DriverFault::DescriptorIndex));
    assert_eq!(one(descriptor(BUFFERS, 4, NEXT, 0)), driver(DriverFault::ChainTooLong), "a loop");
    assert_eq!(one(descriptor(BUFFERS, 0, 0, 0)), driver(DriverFault::ZeroLength));
    assert_eq!(one(descriptor(TABLES, 15, INDIRECT, 0)), driver(DriverFault::IndirectTableSize));
    assert_eq!(one(descriptor(TABLES, 16, INDIRECT | NEXT, 0)), driver(DriverFault::IndirectWithNext));
    assert_eq!(one(descriptor(TABLES, 16 << 20, INDIRECT, 0)), driver(DriverFault::ChainTooLong));
    assert_eq!(one(descriptor(TABLES, 16, INDIRECT, 0)), driver(DriverFault::ZeroLength), "an empty entry");
    let outside = GuestAddr(MEMORY as u64);
    let range = |len| Some(RelayFault::Range { address: outside, len, write: false });
    assert_eq!(one(descriptor(outside.0, 16, INDIRECT, 0)), range(16));
    assert_eq!(one(descriptor(outside.0 - 4, 8, 0, 0)), range(4));
    let long = RelayFault::ChainLen { len: u64::from(u32::MAX) };
    assert_eq!(one(descriptor(BUFFERS, u32::MAX, WRITE, 0)), Some(long));
    let two = [descriptor(BUFFERS, 4, WRITE | NEXT, 1), descriptor(BUFFERS, 4, 0, 0)];
    assert_eq!(hostile(features, &two, &[0], 1), driver(DriverFault::WritableBeforeReadable));
    let plain = RingFeatures::default();
    let fault = hostile(plain, &[descriptor(TABLES, 16, INDIRECT, 0)], &[0], 1);
    assert_eq!(fault, driver(DriverFault::IndirectNotNegotiated));
}

#[test]
fn broken_packed_rings_are_named() {
    let features = RingFeatures { packed: true, indirect: true, ..RingFeatures::default() };
    let available = virtqueue::wire::AVAIL;
    let driver = |fault: DriverFault| Some(RelayFault::Driver(fault));
    let all = [descriptor(BUFFERS, 4, available | NEXT, 0); 8];
    assert_eq!(hostile(features, &all, &[], 0), driver(DriverFault::ChainTooLong), "no end");
    assert_eq!(hostile(features, &all[..3], &[], 0), driver(DriverFault::ChainTooLong), "cut off");
    let zero = descriptor(BUFFERS, 0, available, 0);
    assert_eq!(hostile(features, &[zero], &[], 0), driver(DriverFault::ZeroLength));
    let table = descriptor(TABLES, 32, available | INDIRECT, 0);
    assert_eq!(hostile(features, &[table], &[], 0), driver(DriverFault::ZeroLength), "empty entries");
}

/// Entries of a table that lead in a circle, and a table in a table.
#[test]
fn broken_tables_are_named() {
    let features = RingFeatures { indirect: true, ..RingFeatures::default() };
    let with_table = |entry: Descriptor| {
        let mut rig = Rig::new(8, features, 1);
        rig.settle();
        let words = entry.to_split(false);
        rig.fill(TABLES, &[words[0].to_ne_bytes(), words[1].to_ne_bytes()].concat());
        let words = descriptor(TABLES, 32, INDIRECT, 0).to_split(false);
        rig.fill(rig.setup.desc.0, &[words[0].to_ne_bytes(), words[1].to_ne_bytes()].concat());
        rig.fill(rig.setup.driver.0 + 2, &1u16.to_le_bytes());
        rig.relay.kick();
        rig.settle();
        rig.fault
    };
    let driver = |fault: DriverFault| Some(RelayFault::Driver(fault));
    assert_eq!(with_table(descriptor(BUFFERS, 4, NEXT, 0)), driver(DriverFault::ChainTooLong));
    assert_eq!(with_table(descriptor(BUFFERS, 4, NEXT, 2)), driver(DriverFault::IndirectIndex));
    assert_eq!(with_table(descriptor(BUFFERS, 4, INDIRECT, 0)), driver(DriverFault::IndirectInIndirect));
    assert_eq!(with_table(descriptor(BUFFERS, 4, 0, 0)), None);
}

/// A driver that makes the same chain available again and again is bounded by what our own ring holds.
#[test]
fn available_again_and_again_is_bounded() {
    let mut rig = Rig::new(8, RingFeatures::default(), 1);
    rig.settle();
    let words = descriptor(BUFFERS, 4, 0, 0).to_split(false);
    rig.fill(rig.setup.desc.0, &[words[0].to_ne_bytes(), words[1].to_ne_bytes()].concat());
    for index in (8..2000u16).step_by(8) {
        rig.fill(rig.setup.driver.0 + 2, &index.to_le_bytes());
        rig.relay.kick();
        rig.settle();
        if rig.fault.is_some() {
            break;
        }
    }
    assert!(rig.relay.flights.len() <= 16, "{}", rig.relay.flights.len());
    assert!(rig.relay.chains.len() <= BATCH);
}

/// An answer that comes after the client's memory changed is tried again; one that comes after the end is nothing.
#[test]
fn refused_moves_end_the_ring_or_are_tried_again() {
    let mut rig = Rig::new(8, RingFeatures::default(), 1);
    rig.advance();
    let first = rig.begin().unwrap();
    assert!(first.data.is_some(), "the driver's wishes are set first");
    assert_eq!(rig.relay.writes_out(), 1);
    rig.relay.end(first.way, first.part, Err(14), true).unwrap();
    assert_eq!(rig.relay.writes_out(), 0);
    let again = rig.begin().unwrap();
    assert_eq!((again.part, &again.data), (first.part, &first.data));
    let refused = rig.relay.end(again.way, again.part, Err(14), false).unwrap_err();
    assert!(matches!(refused, RelayFault::Refused { command: Command::DmaWrite, errno: 14, .. }));
    assert!(refused.to_string().contains("errno 14"));
    rig.relay.stop();
    assert!(rig.begin().is_none());
    assert_eq!(rig.relay.end(again.way, again.part, Ok(&[1; 8]), false), Ok(()));
}

/// The write flag of a queue that is only read says nothing.
#[test]
fn a_queue_that_is_only_read_reads_everything() {
    let mut rig = Rig::new(8, RingFeatures::default(), 1);
    let mut relay = Relay::new(&rig.setup, true).unwrap();
    relay.start();
    rig.worker =
        DeviceQueue::new(relay.memory(), relay.own_setup(), RingState::default()).unwrap().readable_only();
    rig.relay = relay;
    rig.settle();
    rig.fill(BUFFERS, b"abcdefgh");
    rig.driver.add(&[(GuestAddr(BUFFERS), 4)], &[(GuestAddr(BUFFERS + 4), 4)], 1).unwrap();
    rig.driver.publish();
    rig.relay.kick();
    rig.settle();
    let memory = Arc::clone(rig.relay.memory());
    let mut burst = Burst::new();
    assert_eq!(rig.worker.pop(&memory, &mut burst, 1), Ok(1));
    let chain = burst.take().unwrap();
    let mut bytes = [0; 8];
    guestmem::read_segments(burst.readable(&chain), 0, &mut bytes);
    assert_eq!(&bytes, b"abcdefgh");
    rig.worker.complete(&burst, chain, 0);
}
