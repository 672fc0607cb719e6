//! Rings in memory that came without a descriptor, through a session: messages, events, interrupts, ends.

use crate::wire::*;
use guestmem::{GuestAddr, GuestMemory};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport::pci::Interface;
use transport::vfio_user::{DMA_MAX, Event, QueueFault, QueueStart};
use virtqueue::{Burst, DeviceQueue, DriverQueue, QueueSetup, QueueSize, RingFeatures};

const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const PACKED: u64 = 1 << 34;

/// A message of the session's that waits for the client.
struct Asked {
    id: u16,
    command: u16,
    address: u64,
    len: usize,
    data: Vec<u8>,
}

/// A client whose memory nobody maps, its driver, and a host with a worker for each queue.
struct Far {
    wire: Wire,
    memory: Arc<GuestMemory>,
    vectors: Vec<Arc<OwnedFd>>,
    drivers: Vec<DriverQueue>,
    workers: Vec<Option<(DeviceQueue, Arc<GuestMemory>)>>,
    asked: VecDeque<Asked>,
    /// Replies to the client's own commands.
    replies: Vec<Vec<u8>>,
    next_id: u16,
}

fn take_start(told: &mut Vec<Event>, index: u16) -> QueueStart {
    let is = |event: &Event| matches!(event, Event::QueueStart(start) if start.index == index);
    let at = told.iter().position(is).expect("it starts");
    let Event::QueueStart(start) = told.remove(at) else { unreachable!() };
    *start
}

fn ring_setup(index: u16, features: RingFeatures) -> QueueSetup {
    let [desc, driver, device] = ring_at(index).map(GuestAddr);
    let size = QueueSize::try_from(64).unwrap();
    QueueSetup { size, desc, driver, device, features, log: None, in_flight: None }
}

impl Far {
    /// All three queues run, with MSI-X vectors; `extra` features besides the usual ones.
    fn running(extra: u64) -> Self {
        Self::with_capabilities(extra, QEMU_CAPABILITIES)
    }

    fn with_capabilities(extra: u64, capabilities: &str) -> Self {
        let mut function = description(Interface::Modern);
        function.features |= u128::from(extra);
        let mut wire = Wire::fresh(function);
        wire.ask(VERSION, &version(capabilities));
        wire.ask(DMA_MAP, &dma_map(3, 0, 0, 16 * MIB));
        let vectors: Vec<Arc<OwnedFd>> = (0..4).map(|_| Arc::new(eventfd())).collect();
        let fds = vectors.iter().map(|fd| fd.try_clone().unwrap()).collect();
        wire.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 4), fds).unwrap();
        wire.enable_msix(true);
        assert_eq!(wire.negotiate(VERSION_1 | MAC | RING_RESET | extra), 11);
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 16 * MIB as usize).unwrap());
        let features = RingFeatures {
            packed: extra & PACKED != 0,
            event_idx: extra & EVENT_IDX != 0,
            ..RingFeatures::default()
        };
        let drivers =
            (0..3).map(|index| DriverQueue::attach(&memory, &ring_setup(index, features), None).unwrap());
        let drivers = drivers.collect();
        for index in 0..3 {
            wire.set_queue(index, index + 1, ring_at(index));
        }
        wire.pipelines = true;
        let workers = (0..3).map(|_| None).collect();
        let (asked, replies) = (VecDeque::new(), vec![]);
        let mut far = Self { wire, memory, vectors, drivers, workers, asked, replies, next_id: 7000 };
        if capabilities == QEMU_CAPABILITIES {
            for index in 0..3 {
                far.take_worker(index);
            }
            far.post(REGION_WRITE, &[access(4, common::STATUS, 1), vec![15]].concat());
            far.settle();
        }
        far
    }

    /// What the host makes of a ring that starts.
    fn take_worker(&mut self, index: u16) {
        let start = take_start(&mut self.wire.told, index);
        assert!(start.kick.is_none() && start.call.is_none(), "the host makes them");
        let memory = start.memory.expect("memory of its own");
        let queue = DeviceQueue::new(&memory, &start.setup, start.state).unwrap();
        self.workers[usize::from(index)] = Some((queue, memory));
    }

    /// A command that wants no reply.
    fn post(&mut self, command: u16, payload: &[u8]) {
        self.wire.session.receive(&message(9, command, NO_REPLY, payload), vec![]).unwrap();
        self.collect();
    }

    /// A command, and its reply, while messages of the session's wait.
    fn ask(&mut self, command: u16, payload: &[u8]) -> Vec<u8> {
        self.next_id += 1;
        self.wire.session.receive(&message(self.next_id, command, 0, payload), vec![]).unwrap();
        self.collect();
        let reply = self.replies.pop().expect("a reply, at once");
        assert_eq!((&reply[..2], &reply[8..12]), (&self.next_id.to_le_bytes()[..], &[1, 0, 0, 0][..]));
        reply[16..].to_vec()
    }

    fn status(&mut self) -> u8 {
        self.ask(REGION_READ, &access(4, common::STATUS, 1))[16]
    }

    /// Carries out events, takes what is sent.
    fn collect(&mut self) {
        self.wire.run().unwrap();
        while let Some(outgoing) = self.wire.session.next_outgoing() {
            let bytes = outgoing.bytes;
            let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            if bytes[8] == 1 {
                self.replies.push(bytes);
                continue;
            }
            let asked = Asked {
                id: word(0),
                command: word(2),
                address: long(16),
                len: long(24) as usize,
                data: bytes[32..].to_vec(),
            };
            self.asked.push_back(asked);
        }
        assert!(self.asked.len() <= DMA_MAX, "{} messages under way", self.asked.len());
    }

    /// The client carries out one message.
    fn answer(&mut self) -> bool {
        let Some(Asked { id, command, address, len, data }) = self.asked.pop_front() else { return false };
        let place = u64s(&[address, len as u64]);
        let slice = self.memory.slice(GuestAddr(address), len).unwrap();
        let reply = match command {
            DMA_READ => {
                let mut bytes = vec![0; len];
                slice.read(&mut bytes);
                [place, bytes].concat()
            }
            _ => {
                assert_eq!((command, data.len()), (DMA_WRITE, len));
                slice.write(&data);
                place
            }
        };
        self.wire.session.receive(&message(id, command, 1, &reply), vec![]).unwrap();
        self.collect();
        true
    }

    fn refuse(&mut self, errno: u32) {
        let Asked { id, command, .. } = self.asked.pop_front().unwrap();
        let mut reply = message(id, command, 0x21, &[]);
        reply[12..16].copy_from_slice(&errno.to_le_bytes());
        self.wire.session.receive(&reply, vec![]).unwrap();
        self.collect();
    }

    fn settle(&mut self) {
        self.collect();
        while self.answer() {}
    }

    fn ring(&mut self, index: u16) {
        let written = [access(4, common::NOTIFY + 4 * u64::from(index), 2), index.to_le_bytes().to_vec()];
        self.post(REGION_WRITE, &written.concat());
    }

    /// The worker takes a chain: what it reads of it, and `answer` written into it.
    fn work(&mut self, index: u16, answer: &[u8]) -> Option<Vec<u8>> {
        let (queue, memory) = self.workers[usize::from(index)].as_mut().unwrap();
        let memory = Arc::clone(memory);
        let mut burst = Burst::new();
        queue.pop(&memory, &mut burst, 1).unwrap();
        let chain = burst.take()?;
        let mut bytes = vec![0; chain.readable_len() as usize];
        guestmem::read_segments(burst.readable(&chain), 0, &mut bytes);
        let written = guestmem::write_segments(burst.writable(&chain), 0, answer);
        queue.complete(&burst, chain, written as u32);
        if queue.flush() {
            self.wire.session.queue_called(index);
        }
        Some(bytes)
    }

    fn guest(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.slice(GuestAddr(address), len).unwrap().read(&mut bytes);
        bytes
    }

    /// Interrupts of a queue since this was last asked, each signalled as the host would.
    fn interrupts(&mut self) -> usize {
        let told = std::mem::take(&mut self.wire.told);
        told.iter().filter(|event| matches!(event, Event::Interrupt(_))).count()
    }
}

#[test]
fn frames_go_both_ways_by_messages() {
    for extra in [0, EVENT_IDX, PACKED, PACKED | EVENT_IDX] {
        let mut far = Far::running(extra);
        for round in 0..200u32 {
            // A buffer to receive in, a frame to send, a command.
            let at = 0x10_0000 + u64::from(round % 7) * 0x1000;
            far.drivers[0].add(&[], &[(GuestAddr(at), 1526)], round.into()).unwrap();
            far.memory.slice(GuestAddr(0x20_0000), 4).unwrap().write(&round.to_le_bytes());
            far.drivers[1].add(&[(GuestAddr(0x20_0000), 4)], &[], round.into()).unwrap();
            far.drivers[2].add(&[(GuestAddr(0x20_0000), 2)], &[(GuestAddr(0x30_0000), 1)], 0).unwrap();
            for index in 0..3 {
                assert!(far.drivers[usize::from(index)].publish(), "a driver always notifies");
                far.ring(index);
            }
            far.settle();
            far.wire.told.clear();
            assert_eq!(far.work(0, &[round as u8; 600]), Some(vec![]));
            assert_eq!(far.work(1, &[]), Some(round.to_le_bytes().to_vec()));
            assert_eq!(far.work(2, &[1]), Some(round.to_le_bytes()[..2].to_vec()));
            far.settle();
            assert_eq!(far.interrupts(), 3, "round {round}");
            assert_eq!(far.drivers[0].pop_used(), Ok(Some((round.into(), 600))));
            assert_eq!(far.guest(at, 601), [&[round as u8; 600][..], &[0][..]].concat());
            far.memory.slice(GuestAddr(at), 601).unwrap().fill(0);
            assert_eq!(far.drivers[1].pop_used(), Ok(Some((round.into(), 0))));
            assert_eq!(far.drivers[2].pop_used(), Ok(Some((0, 1))));
            assert!(far.drivers.iter_mut().all(|driver| !driver.enable_call()));
        }
        assert!(far.wire.names().iter().all(|name| !name.starts_with("QueueFailed")));
    }
}

/// A client that answers nothing loses its own traffic; its commands are answered, and no more messages go to it than may.
#[test]
fn a_client_that_never_answers_is_asked_no_more() {
    let mut far = Far::running(0);
    for token in 0..40u64 {
        far.drivers[1].add(&[(GuestAddr(0x20_0000 + token), 4)], &[], token).unwrap();
    }
    far.drivers[1].publish();
    far.ring(1);
    while far.asked.len() < DMA_MAX {
        assert!(far.answer(), "the last step has enough messages");
    }
    for _ in 0..100 {
        far.ring(1);
        far.wire.session.queue_called(1);
        assert_eq!(far.status(), 15);
        assert_eq!(far.asked.len(), DMA_MAX);
    }
}

/// A driver learns that its device is reset once nothing is written into its memory any more.
#[test]
fn a_reset_waits_for_writes_under_way() {
    let mut far = Far::running(0);
    far.drivers[0].add(&[], &[(GuestAddr(0x10_0000), 1526)], 1).unwrap();
    far.drivers[0].publish();
    far.ring(0);
    far.settle();
    far.work(0, b"late").unwrap();
    far.collect();
    assert!(matches!(far.asked.front(), Some(Asked { command: DMA_WRITE, address: 0x10_0000, .. })));
    far.wire.told.clear();
    far.post(REGION_WRITE, &[access(4, common::STATUS, 1), vec![0]].concat());
    assert_ne!(far.status(), 0, "a write is under way");
    assert_ne!(far.status(), 0, "and commands are answered meanwhile");
    assert!(far.wire.names().is_empty());
    assert!(far.answer());
    assert_eq!(far.status(), 0);
    assert_eq!(far.wire.names(), ["QueueStop 0", "QueueStop 1", "QueueStop 2", "ResetDevice"]);
    assert!(!far.answer(), "used entries of a device that was reset are not written");
    assert_eq!(far.guest(0x10_0000, 4), b"late");
    // The next driver finds a device.
    far.wire.pipelines = false;
    assert_eq!(far.wire.negotiate(VERSION_1 | MAC), 11);
    far.wire.set_queue(0, 0xffff, ring_at(0));
    far.take_worker(0);
}

#[test]
fn a_queue_that_fails_is_named_and_the_others_go_on() {
    let mut far = Far::running(0);
    // Outside of all maps.
    far.drivers[1].add(&[(GuestAddr(20 * MIB), 4)], &[], 0).unwrap();
    far.drivers[1].publish();
    far.ring(1);
    far.wire.told.clear();
    far.settle();
    let fault = far.wire.told.iter().find_map(|event| match event {
        Event::QueueFailed { index: 1, fault } => Some(*fault),
        _ => None,
    });
    assert!(fault.unwrap().to_string().contains("in no map of the client's that allows to read"));
    assert_eq!(far.status(), 15 | 64, "DEVICE_NEEDS_RESET");
    // A client that refuses.
    far.drivers[2].add(&[(GuestAddr(0x20_0000), 2)], &[], 0).unwrap();
    far.drivers[2].publish();
    far.ring(2);
    far.wire.told.clear();
    far.refuse(14);
    far.settle();
    let [Event::QueueFailed { index: 2, fault }] = &far.wire.told[..] else { panic!("{:?}", far.wire.told) };
    assert!(fault.to_string().contains("errno 14"), "{fault}");
    // The first one carries.
    far.drivers[0].add(&[], &[(GuestAddr(0x10_0000), 1526)], 1).unwrap();
    far.drivers[0].publish();
    far.ring(0);
    far.settle();
    far.work(0, b"still").unwrap();
    far.settle();
    assert_eq!(far.drivers[0].pop_used(), Ok(Some((1, 5))));
    assert!(signals(&far.vectors[1]) == 0, "signalling is the host's");
}

/// Maps that come and go, as firmware's do: a ring whose memory is away waits, what was refused meanwhile is asked again.
#[test]
fn a_ring_whose_memory_is_away_waits() {
    let mut far = Far::running(0);
    far.drivers[1].add(&[(GuestAddr(0x20_0000), 4)], &[], 0).unwrap();
    far.drivers[1].publish();
    far.ring(1);
    assert_eq!(far.asked.len(), 1);
    far.ask(DMA_UNMAP, &dma_unmap(0, 0, 16 * MIB));
    far.refuse(22);
    far.ring(1);
    assert!(far.asked.is_empty(), "nothing is asked of memory that is not there");
    for half in [8 * MIB, 0] {
        assert!(far.asked.is_empty());
        far.ask(DMA_MAP, &dma_map(3, 0, half, 8 * MIB));
    }
    far.settle();
    assert_eq!(far.work(1, &[]), Some(vec![0; 4]));
    far.settle();
    assert_eq!(far.drivers[1].pop_used(), Ok(Some((0, 0))));
    assert!(far.wire.names().iter().all(|name| !name.starts_with("QueueFailed")));
}

#[test]
fn a_client_of_tiny_messages_is_refused_by_name() {
    let capabilities = r#"{"capabilities":{"max_data_xfer_size":63}}"#;
    let far = Far::with_capabilities(0, capabilities);
    let fault = far.wire.told.iter().find_map(|event| match event {
        Event::QueueRefused { index: 0, fault } => Some(*fault),
        _ => None,
    });
    assert_eq!(fault, Some(QueueFault::Transfers { most: 63, least: 64 }));
}

/// A client whose messages are small gets more of them.
#[test]
fn messages_are_as_long_as_the_client_takes_them() {
    let mut far = Far::with_capabilities(0, r#"{"capabilities":{"max_data_xfer_size":64}}"#);
    for index in 0..3 {
        far.take_worker(index);
    }
    far.post(REGION_WRITE, &[access(4, common::STATUS, 1), vec![15]].concat());
    far.settle();
    far.drivers[1].add(&[(GuestAddr(0x20_0000), 4000)], &[], 0).unwrap();
    far.drivers[1].publish();
    far.ring(1);
    while !far.asked.is_empty() {
        assert!(far.asked.iter().all(|asked| asked.len <= 64));
        far.answer();
    }
    assert_eq!(far.work(1, &[]).map(|bytes| bytes.len()), Some(4000));
}

/// A legacy ring is used from the start; what it costs goes out behind the reply that its driver waits for.
#[test]
fn the_legacy_interface_is_relayed_too() {
    let mut wire = Wire::greeted(description(Interface::Legacy));
    wire.ask(DMA_MAP, &dma_map(3, 0, 0, MIB));
    wire.told.clear();
    wire.write(0, 0x0e, &1u16.to_le_bytes());
    wire.pipelines = true;
    let mut write = |offset: u64, data: &[u8]| {
        let asked = [access(0, offset, data.len() as u32), data.to_vec()].concat();
        wire.session.receive(&message(5, REGION_WRITE, 0, &asked), vec![]).unwrap();
        wire.run().unwrap();
        let sent = std::iter::from_fn(|| wire.session.next_outgoing());
        sent.map(|outgoing| (u16::from(outgoing.bytes[2]), outgoing.bytes[8])).collect::<Vec<_>>()
    };
    assert_eq!(write(0x08, &0x40u32.to_le_bytes()), [(REGION_WRITE, 1)]);
    assert_eq!(write(0x12, &[7]), [(REGION_WRITE, 1), (DMA_WRITE, 0)]);
    assert_eq!(write(0x10, &1u16.to_le_bytes()), [(REGION_WRITE, 1)], "one step after the other");
    // Its driver waits for nothing after a reset; neither does the reset.
    assert_eq!(write(0x12, &[0]), [(REGION_WRITE, 1)]);
    let start = take_start(&mut wire.told, 1);
    assert!(start.memory.is_some());
    assert_eq!(wire.names().last().unwrap(), "ResetDevice");
}

/// A small generator of numbers (Knuth's constants).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Whatever stands in its rings, a client loses queues by it and nothing else, and everything comes to rest.
#[test]
fn rings_full_of_anything_cost_their_queues() {
    let (mut failed, mut carried) = (0, 0);
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut far = Far::running([0, EVENT_IDX, PACKED][seed as usize % 3]);
        for _ in 0..1 + dice.roll(4) {
            let index = dice.roll(3) as u16;
            let [desc, driver, _] = ring_at(index);
            for entry in 0..dice.roll(20) {
                let address = [0x20_0000 + dice.roll(0x1000), dice.roll(1 << 20), u64::MAX - dice.roll(64)];
                let address = address[dice.roll(40).saturating_sub(37) as usize];
                let len = [dice.roll(2000) as u32, dice.roll(3) as u32, u32::MAX]
                    [dice.roll(40).saturating_sub(37) as usize];
                let any = [dice.roll(8), 0x80 | dice.roll(8)];
                let flags = [0, 2, 0x80, 0x82, any[0], any[1]][dice.roll(6) as usize];
                let rest = (flags | dice.roll(70) << 16) << 32 | u64::from(len);
                let bytes = u64s(&[address, rest]);
                far.memory.slice(GuestAddr(desc + 16 * entry), 16).unwrap().write(&bytes);
            }
            let shown = [dice.roll(4), dice.roll(70)][dice.roll(8) as usize / 7];
            let words = [0, shown, dice.roll(20), dice.roll(66), dice.roll(9)];
            let words: Vec<u8> = words.iter().flat_map(|word| (*word as u16).to_le_bytes()).collect();
            far.memory.slice(GuestAddr(driver), words.len()).unwrap().write(&words);
            far.ring(index);
            far.collect();
            for round in 0.. {
                assert!(round < 20_000, "seed {seed} never rests");
                if !far.answer() {
                    break;
                }
            }
            while far.work(index, &[7; 100]).is_some() {
                carried += 1;
                far.settle();
            }
        }
        failed += far.wire.names().iter().filter(|name| name.starts_with("QueueFailed")).count();
        assert_eq!(far.status() & 15, 15);
        far.post(REGION_WRITE, &[access(4, common::STATUS, 1), vec![0]].concat());
        far.settle();
        assert_eq!(far.status(), 0);
    }
    assert!(failed > 50 && carried > 40, "{failed} queues failed, {carried} chains were carried");
}
