//! Devices that complete in any order, killed at every store of what they do, and the next one that goes on from the record:
//! every request is carried out, none is completed twice, and what is carried out again comes in its old order.
//! Stores can be cut off in builds with debug assertions only.
#![cfg(debug_assertions)]

mod rig;

use guestmem::{GuestAddr, GuestMemory, MemArea, kill};
use rig::{Random, all_features};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use virtqueue::{
    Burst, Detached, DeviceQueue, DriverQueue, InFlightFault, InFlightLog, IndirectArea, QueueSetup,
    QueueSize, RingFeatures, RingState, SetupFault,
};

const TABLES: u64 = 0x2_0000;
const TABLE: u16 = 4;
const DATA: u64 = 0x8_0000;
const SLOT: u64 = 64;

fn size(entries: u16) -> QueueSize {
    QueueSize::try_from(entries).unwrap()
}

/// A guest, its ring, and the record that outlives every device.
struct World {
    memory: Arc<GuestMemory>,
    setup: QueueSetup,
    record: MemArea,
    driver: DriverQueue,
    /// Requests made and not seen to be used.
    outstanding: BTreeSet<u64>,
    /// Requests that a device carried out at least once.
    carried_out: BTreeSet<u64>,
    /// What the device pops next, as far as that is known.
    line: VecDeque<u64>,
    /// Whether the driver leaves used requests in the ring over a kill; then the line is not known exactly.
    lazy: bool,
    next_token: u64,
}

impl World {
    fn new(entries: u16, features: RingFeatures, lazy: bool) -> Self {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 1 << 20).unwrap());
        let tables = IndirectArea { base: GuestAddr(TABLES), entries: TABLE };
        let tables = features.indirect.then_some(tables);
        let (driver, mut setup) =
            DriverQueue::setup(&memory, GuestAddr(0), size(entries), features, tables).unwrap();
        let record = MemArea::private(InFlightLog::region_size(setup.size, features.packed));
        setup.in_flight = Some(InFlightLog::new(record.clone()));
        Self {
            memory,
            setup,
            record,
            driver,
            outstanding: BTreeSet::new(),
            carried_out: BTreeSet::new(),
            line: VecDeque::new(),
            lazy,
            next_token: 0,
        }
    }

    /// Where a request's bytes are: each has its own place for as long as it may be outstanding.
    fn place(token: u64) -> GuestAddr {
        GuestAddr(DATA + token % 4096 * SLOT)
    }

    /// Makes up to `count` requests of a few buffers each; the first one holds the token.
    fn offer(&mut self, count: usize, random: &mut Random) {
        for _ in 0..count {
            let (token, at) = (self.next_token, Self::place(self.next_token));
            let readable = vec![(at, 8); 1 + random.below(2)];
            let writable = vec![(GuestAddr(at.0 + 16), 8); random.below(2)];
            let indirect = self.setup.features.indirect && random.below(2) == 0;
            let added = if indirect {
                self.driver.add_indirect(&readable, &writable, token)
            } else {
                self.driver.add(&readable, &writable, token)
            };
            if added.is_ok() {
                self.memory.slice(at, 8).unwrap().write(&token.to_le_bytes());
                self.outstanding.insert(token);
                self.line.push_back(token);
                self.next_token += 1;
            }
        }
        self.driver.publish();
    }

    /// Sees up to `max` used requests: each was carried out, and is used once.
    fn collect(&mut self, max: usize) {
        for _ in 0..max {
            let Some((token, _)) = self.driver.pop_used().unwrap() else { return };
            assert!(self.outstanding.remove(&token), "{token} is used twice");
            assert!(self.carried_out.contains(&token), "{token} is used and was not carried out");
        }
    }

    /// Everything that is not used is to be popped, oldest first.
    fn line_up(&mut self) {
        if !self.lazy {
            self.collect(usize::MAX);
        }
        self.line = self.outstanding.iter().copied().collect();
    }
}

/// One life of a device.
struct Device {
    queue: DeviceQueue,
    held: Vec<(u64, Detached)>,
}

/// How many stores the device has left; `None` when it is dead.
type Life = Option<u64>;

/// Does `act`, of which only the stores that are left take effect.
fn living<T>(life: &mut Life, act: impl FnOnce() -> T) -> Option<T> {
    kill::after((*life)?);
    let result = act();
    *life = kill::end();
    life.is_some().then_some(result)
}

impl Device {
    /// Takes the ring over. `None`: it died at that.
    fn start(world: &mut World, life: &mut Life) -> Option<Self> {
        world.line_up();
        let queue = living(life, || DeviceQueue::new(&world.memory, &world.setup, RingState::default()))?;
        Some(Self { queue: queue.unwrap(), held: Vec::new() })
    }

    /// Pops up to `max`, gives the last `back` of them back, and carries the others out.
    fn pop(&mut self, world: &mut World, life: &mut Life, max: usize, back: usize) -> Option<usize> {
        let memory = Arc::clone(&world.memory);
        let mut burst = Burst::new();
        let has = self.queue.has_available();
        let popped = living(life, || self.queue.pop(&memory, &mut burst, max))?.unwrap();
        assert!(has || popped == 0);
        for _ in 0..back {
            let Some(chain) = burst.take_last() else { break };
            living(life, || self.queue.unpop(chain))?;
        }
        while let Some(chain) = burst.take() {
            let mut token = [0; 8];
            burst.readable(&chain)[0].read(&mut token);
            let token = u64::from_le_bytes(token);
            assert!(world.outstanding.contains(&token), "{token} was used, and is popped again");
            while world.lazy && world.line.front().is_some_and(|&next| next < token) {
                // Used, and not seen yet by the driver.
                world.line.pop_front();
            }
            assert_eq!(world.line.pop_front(), Some(token), "the order of popping");
            world.carried_out.insert(token);
            self.held.push((token, self.queue.detach(chain)));
        }
        Some(popped)
    }

    /// Completes up to `count` of what it holds, in any order.
    fn complete(&mut self, life: &mut Life, count: usize, random: &mut Random) -> Option<()> {
        for _ in 0..count.min(self.held.len()) {
            let (_, chain) = self.held.swap_remove(random.below(self.held.len()));
            living(life, || self.queue.complete_detached(chain).unwrap())?;
        }
        Some(())
    }

    /// Pops, completes and flushes until nothing is left.
    fn finish(&mut self, world: &mut World, random: &mut Random) {
        let mut life = Some(u64::MAX);
        while !world.outstanding.is_empty() {
            let popped = self.pop(world, &mut life, 1 + random.below(5), 0).unwrap();
            let count = if popped == 0 { usize::MAX } else { random.below(4) };
            self.complete(&mut life, count, random).unwrap();
            self.queue.flush();
            world.collect(usize::MAX);
            assert!(popped > 0 || world.outstanding.is_empty(), "lost: {:?}", world.outstanding);
        }
        assert_eq!(self.queue.detached(), 0);
        assert_eq!(world.driver.free_descriptors(), world.setup.size.get());
    }
}

/// One step of a life that `random` decides. `None`: the device died.
fn step(world: &mut World, device: &mut Device, life: &mut Life, random: &mut Random) -> Option<()> {
    let entries = usize::from(world.setup.size.get());
    match random.below(8) {
        0 | 1 => world.offer(1 + random.below(entries), random),
        2 | 3 => {
            let (max, back) = (1 + random.below(entries), random.below(6).saturating_sub(3));
            device.pop(world, life, max, back)?;
        }
        4 | 5 => device.complete(life, 1 + random.below(4), random)?,
        6 => _ = living(life, || device.queue.flush())?,
        _ => world.collect(random.below(4)),
    }
    Some(())
}

/// A device that dies after `stores`, others that die soon after they took over, and a last one that finishes. Returns whether
/// the first one died.
fn run(entries: u16, features: RingFeatures, seed: u64, stores: u64) -> bool {
    let mut world = World::new(entries, features, seed % 2 == 1);
    let (steps, mut random) = (40, Random::new(seed));
    let mut life = Some(stores);
    let mut device = Device::start(&mut world, &mut life);
    for _ in 0..steps {
        let Some(alive) = &mut device else { break };
        if step(&mut world, alive, &mut life, &mut random).is_none() {
            device = None;
        }
    }
    let died = device.is_none();
    // The second life depends on where the first one ended, too.
    let mut random = Random::new(seed ^ stores << 32);
    for _ in 0..random.below(3) {
        let mut life = Some(random.below(40) as u64);
        let Some(mut device) = Device::start(&mut world, &mut life) else { continue };
        for _ in 0..20 {
            if step(&mut world, &mut device, &mut life, &mut random).is_none() {
                break;
            }
        }
    }
    let mut life = Some(u64::MAX);
    let mut device = Device::start(&mut world, &mut life).unwrap();
    for _ in 0..20 {
        step(&mut world, &mut device, &mut life, &mut random).unwrap();
    }
    device.finish(&mut world, &mut random);
    died
}

#[test]
fn killed_at_every_store_no_request_is_lost_or_used_twice() {
    let seeds = if cfg!(miri) { 0..1 } else { 0..6 };
    for features in all_features() {
        let sizes: &[u16] = match features.packed {
            _ if cfg!(miri) => &[4],
            true => &[1, 3, 7, 16],
            false => &[1, 4, 16],
        };
        for &entries in sizes {
            for seed in seeds.clone() {
                let step = if cfg!(miri) { 61 } else { 1 };
                let lives =
                    (0..).step_by(step).take_while(|&stores| run(entries, features, seed, stores)).count();
                assert!(lives > 5, "{features:?} of {entries}: {lives} stores only");
            }
        }
    }
}

#[test]
fn long_lives_end_at_random_stores() {
    for features in all_features() {
        let mut random = Random::new(11);
        let mut world = World::new(8, features, false);
        for _ in 0..if cfg!(miri) { 2 } else { 300 } {
            let mut life = Some(random.below(400) as u64);
            let Some(mut device) = Device::start(&mut world, &mut life) else { continue };
            while step(&mut world, &mut device, &mut life, &mut random).is_some() {}
        }
        let mut device = Device::start(&mut world, &mut Some(u64::MAX)).unwrap();
        device.finish(&mut world, &mut random);
        assert!(world.next_token > if cfg!(miri) { 0 } else { 1000 }, "{features:?}: {}", world.next_token);
    }
}

/// A queue is made anew without a kill, with chains in its hands: after a change of the memory map, or by another back-end after
/// a ring was stopped and its requests suspended.
#[test]
fn a_queue_that_goes_on_pops_again_what_was_not_completed() {
    for features in all_features() {
        let mut random = Random::new(5);
        let mut world = World::new(8, features, false);
        let mut life = Some(u64::MAX);
        let mut device = Device::start(&mut world, &mut life).unwrap();
        world.offer(8, &mut random);
        let popped = device.pop(&mut world, &mut life, 8, 0).unwrap();
        device.complete(&mut life, 1, &mut random);
        device.queue.flush();
        let state = device.queue.state();
        world.line_up();
        let base = state.to_vring_base(features.packed);
        let queue =
            DeviceQueue::new(&world.memory, &world.setup, RingState::from_vring_base(base, features.packed));
        let mut next = Device { queue: queue.unwrap(), held: Vec::new() };
        assert_eq!(next.queue.state(), state, "what waits to be popped again counts as popped");
        assert_eq!(next.queue.has_available(), !world.line.is_empty());
        assert_eq!(next.queue.enable_notify(), !world.line.is_empty());
        assert!(popped > 1);
        next.pop(&mut world, &mut life, 2, 1).unwrap();
        assert_eq!(next.queue.state(), state);
        next.finish(&mut world, &mut random);
        assert!(!next.queue.has_available());
    }
}

#[test]
fn a_ring_that_is_asked_where_it_stood_is_left_to_the_record() {
    let features = RingFeatures { packed: true, ..RingFeatures::default() };
    let world = World::new(4, features, false);
    assert_eq!(RingState::resume_packed(&world.memory, &world.setup).unwrap(), None);
}

/// The words that other back-ends and front-ends find.
#[test]
fn the_layout_is_the_specification_s() {
    let bytes = |world: &World, at: usize, len| {
        let mut bytes = vec![0; len];
        world.record.as_slice().sub(at, len).unwrap().read(&mut bytes);
        bytes
    };
    let u16s = |words: &[u16]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let mut life = Some(u64::MAX);
    let mut random = Random::new(0);

    let mut world = World::new(4, RingFeatures::default(), false);
    let mut device = Device::start(&mut world, &mut life).unwrap();
    // Version, entries, last batch's head, used index.
    assert_eq!(bytes(&world, 8, 8), u16s(&[1, 4, 0, 0]));
    for _ in 0..2 {
        world.driver.add(&[(World::place(world.next_token), 8)], &[], world.next_token).unwrap();
        world.memory.slice(World::place(world.next_token), 8).unwrap().write(&world.next_token.to_le_bytes());
        world.outstanding.insert(world.next_token);
        world.line.push_back(world.next_token);
        world.next_token += 1;
    }
    world.driver.publish();
    device.pop(&mut world, &mut life, 2, 0).unwrap();
    let marks =
        |world: &World| [16, 32, 48, 64].map(|at| (bytes(world, at, 1)[0], bytes(world, at + 8, 8)[0]));
    let marked: Vec<_> = marks(&world).into_iter().filter(|(mark, _)| *mark == 1).collect();
    assert_eq!((marked.len(), marked.iter().map(|(_, counter)| counter).sum::<u8>()), (2, 1));
    device.complete(&mut life, 2, &mut random).unwrap();
    device.queue.flush();
    assert!(marks(&world).iter().all(|(mark, _)| *mark == 0));
    assert_eq!(bytes(&world, 14, 2), u16s(&[2]));
    assert_eq!(InFlightLog::region_size(size(4), false), 128);

    let features = RingFeatures { packed: true, ..RingFeatures::default() };
    let mut world = World::new(3, features, false);
    let mut device = Device::start(&mut world, &mut life).unwrap();
    // Version, entries, free and old free head, used and old used index; then the two wrap counters.
    assert_eq!(bytes(&world, 8, 14), [u16s(&[1, 3, 0, 0, 0, 0]), vec![1, 1]].concat());
    world.memory.slice(World::place(0), 8).unwrap().write(&0u64.to_le_bytes());
    world.driver.add(&[(World::place(0), 8)], &[(GuestAddr(DATA + 16), 4)], 0).unwrap();
    world.driver.publish();
    (world.outstanding, world.line) = (BTreeSet::from([0]), VecDeque::from([0]));
    device.pop(&mut world, &mut life, 1, 0).unwrap();
    let first = bytes(&world, 32, 32);
    // In flight, next, last, descriptors.
    assert_eq!((first[0], &first[2..8]), (1, &u16s(&[1, 1, 2])[..]));
    assert_eq!(first[24..], DATA.to_ne_bytes());
    assert_eq!(bytes(&world, 64, 32)[20..], [&4u32.to_ne_bytes()[..], &(DATA + 16).to_ne_bytes()].concat());
    assert_eq!(bytes(&world, 12, 4), u16s(&[2, 2]));
    device.complete(&mut life, 1, &mut random).unwrap();
    assert_eq!(bytes(&world, 12, 10), [u16s(&[0, 0, 2, 2]), vec![1, 1]].concat());
    assert_eq!(bytes(&world, 32, 1), [0]);
    assert_eq!(InFlightLog::region_size(size(3), true), 128);
}

/// Runs a device over whatever the record and the ring hold: it starts or names a fault, and ends.
fn survive(world: &World, random: &mut Random) -> Result<(), SetupFault> {
    let mut queue = DeviceQueue::new(&world.memory, &world.setup, RingState::default())?;
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut burst = Burst::new();
        let Ok(popped) = queue.pop(&world.memory, &mut burst, 1 + random.below(9)) else { break };
        while let Some(chain) = burst.take() {
            held.push(queue.detach(chain));
        }
        assert!(held.len() <= usize::from(world.setup.size.get()), "{} chains", held.len());
        if popped == 0 && held.is_empty() {
            break;
        }
        for _ in 0..random.below(held.len() + 1) {
            queue.complete_detached(held.swap_remove(random.below(held.len()))).unwrap();
        }
        queue.flush();
    }
    Ok(())
}

#[test]
fn whatever_a_record_holds_is_survived() {
    let rounds = if cfg!(miri) { 10 } else { 20_000 };
    for packed in [false, true] {
        let mut random = Random::new(u64::from(packed));
        let features = RingFeatures { packed, indirect: true, ..RingFeatures::default() };
        let (mut started, mut refused) = (0, 0);
        let mut world = World::new(8, features, false);
        for round in 0..rounds {
            if round % 8 == 0 {
                world = World::new(8, features, false);
                let mut life = Some(random.below(200) as u64);
                let Some(mut device) = Device::start(&mut world, &mut life) else { continue };
                while step(&mut world, &mut device, &mut life, &mut random).is_some() {}
            }
            for _ in 0..1 + random.below(4) {
                let at = random.below(world.record.len());
                // Mostly small numbers: they are indexes.
                let byte = if random.below(3) == 0 { random.next() as u8 } else { random.below(10) as u8 };
                world.record.as_slice().sub(at, 1).unwrap().write(&[byte]);
            }
            match survive(&world, &mut random) {
                Ok(()) => started += 1,
                Err(SetupFault::InFlight(fault)) => {
                    refused += 1;
                    assert!(!fault.to_string().is_empty());
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(cfg!(miri) || (started > rounds / 20 && refused > rounds / 20), "{started} {refused}");
    }
}

#[test]
fn each_fault_is_named() {
    let fault = |packed: bool, change: &dyn Fn(&MemArea)| {
        let features = RingFeatures { packed, ..RingFeatures::default() };
        let mut world = World::new(4, features, false);
        let mut life = Some(u64::MAX);
        let mut device = Device::start(&mut world, &mut life).unwrap();
        world.offer(1, &mut Random::new(4));
        device.pop(&mut world, &mut life, 1, 0).unwrap();
        change(&world.record);
        let started = DeviceQueue::new(&world.memory, &world.setup, RingState::default());
        match started.err() {
            Some(SetupFault::InFlight(fault)) => Some(fault),
            other => panic!("{other:?}"),
        }
    };
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    for packed in [false, true] {
        let version = fault(packed, &|record| record.store_u16(8, 2, relaxed));
        assert_eq!(version, Some(InFlightFault::Version { version: 2 }));
        let features = fault(packed, &|record| record.store_u64(0, 4, relaxed));
        assert_eq!(features, Some(InFlightFault::Features { features: 4 }));
        let entries = fault(packed, &|record| record.store_u16(10, 5, relaxed));
        assert_eq!(entries, Some(InFlightFault::Entries { entries: 5, size: 4 }));
    }
    let index = fault(false, &|record| record.store_u16(14, 9, relaxed));
    assert_eq!(index, Some(InFlightFault::UsedIndex { recorded: 9, ring: 0 }));
    let index = fault(false, &|record| {
        record.store_u16(14, 0xffff, relaxed);
        record.store_u16(12, 4, relaxed);
    });
    assert_eq!(index, Some(InFlightFault::Link { index: 4 }));
    let index = fault(true, &|record| record.store_u16(16, 4, relaxed));
    assert_eq!(index, Some(InFlightFault::UsedIndex { recorded: 4, ring: 4 }));
    let link = fault(true, &|record| record.store_u32(12, 0x0005_0005, relaxed));
    assert_eq!(link, Some(InFlightFault::Link { index: 5 }));
    let chain = fault(true, &|record| record.store_u16(32 + 6, 0, relaxed));
    assert_eq!(chain, Some(InFlightFault::Chain { head: 0, descriptors: 0 }));
    let lost = fault(true, &|record| record.store_u16(32, 0, relaxed));
    assert!(matches!(lost, Some(InFlightFault::Lost { in_flight: 0, size: 4, .. })), "{lost:?}");

    let mut world = World::new(4, RingFeatures::default(), false);
    world.setup.in_flight = Some(InFlightLog::new(MemArea::private(79)));
    let small = DeviceQueue::new(&world.memory, &world.setup, RingState::default()).err();
    assert_eq!(small, Some(SetupFault::InFlight(InFlightFault::Area { len: 79, need: 80 })));
}
