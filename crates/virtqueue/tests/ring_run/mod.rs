//! Arbitrary bytes as a hostile driver: a small program that writes ring words, descriptors and raw memory while a
//! device side pops, completes, gives back, flushes and restarts. Shared by the fuzz targets and the tests.
//!
//! Whatever the bytes say, nothing may panic, and every chain that comes out must be what the rules promise.

#![allow(unreachable_pub, reason = "a module of several programs")]

use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use std::sync::Arc;
use virtqueue::{
    Burst, CHAIN_DESCRIPTORS_MAX, Chain, DeviceQueue, DriverFault, Endian, QueueSetup, QueueSize,
    RingFeatures, RingState,
};

/// Memory of the guest: the first region holds the ring and data, the second one follows without a gap, the
/// third one lies apart.
const FIRST: u64 = 0x4000;
const SECOND: u64 = 0x1801;
const APART: u64 = 0x1_0000;
const APART_LEN: u64 = 0x1000;

const DESC: u64 = 0;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;

/// Steps taken at most, so that every input ends soon.
const STEPS_MAX: usize = 400;

/// The input, byte by byte; zeros after its end.
struct Input<'i>(&'i [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// Mostly small addresses inside the memory, now and then a wild one.
    fn addr(&mut self) -> u64 {
        let low = u64::from(self.word());
        match self.byte() {
            0xff => low.wrapping_mul(0x1_0001_0001_0001),
            0xfe => u64::MAX - low,
            0xfd => APART + low % APART_LEN,
            _ => low % (FIRST + SECOND + 16),
        }
    }

    fn len(&mut self) -> u32 {
        let low = u32::from(self.word());
        match self.byte() {
            0xff => low.wrapping_mul(0x1_0001),
            0xfe => 16 * (low % 64),
            _ => low % 3000,
        }
    }
}

struct Run {
    memory: Arc<GuestMemory>,
    setup: QueueSetup,
    queue: DeviceQueue,
    /// Chains held, in the order of popping, each with its number.
    held: Vec<(u64, Chain)>,
    popped: u64,
    fault: Option<DriverFault>,
}

fn region(start: u64, len: u64) -> Region {
    let mapping = Arc::new(Mapping::anonymous(len as usize).unwrap());
    Region::new(GuestAddr(start), FrontendAddr(start), len, mapping).unwrap()
}

/// Runs the program in `data` against a device side; panics if a promise is broken.
pub fn run(data: &[u8], packed: bool) {
    let mut input = Input(data);
    let bits = input.byte();
    let bit = |index: u8| bits & (1 << index) != 0;
    let size = if packed { u16::from(input.byte()) % 64 + 1 } else { 1 << (input.byte() % 7) };
    let endian = if bit(3) && !packed { Endian::Big } else { Endian::Little };
    let features = RingFeatures { packed, indirect: bit(0), event_idx: bit(1), in_order: bit(2), endian };
    let regions = vec![region(0, FIRST), region(FIRST, SECOND), region(APART, APART_LEN)];
    let memory = Arc::new(GuestMemory::new(regions).unwrap());
    let setup = QueueSetup {
        size: QueueSize::try_from(size).unwrap(),
        desc: GuestAddr(DESC),
        driver: GuestAddr(DRIVER),
        device: GuestAddr(DEVICE),
        features,
        log: None,
        in_flight: None,
    };
    let queue = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
    let mut run = Run { memory, setup, queue, held: Vec::new(), popped: 0, fault: None };
    let memory = Arc::clone(&run.memory);
    let mut burst = Burst::new();
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() {
            break;
        }
        burst = run.step(&memory, &mut input, burst);
    }
}

impl Run {
    fn step<'m>(
        &mut self,
        memory: &'m GuestMemory,
        input: &mut Input<'_>,
        mut burst: Burst<'m>,
    ) -> Burst<'m> {
        match input.byte() % 12 {
            0..=2 => self.write_descriptor(input),
            3 | 4 => self.make_available(input),
            5 | 6 => match input.byte() {
                max @ 200.. => self.fill(memory, usize::from(max - 200), input),
                max => self.pop(memory, &mut burst, usize::from(max % 40)),
            },
            7 => self.complete(&burst, input),
            8 => self.unpop(),
            9 => _ = self.queue.flush(),
            10 => match input.byte() % 3 {
                0 => self.queue.disable_notify(),
                1 => _ = self.queue.enable_notify(),
                _ => self.restart(),
            },
            _ => {
                let (addr, bytes) = (input.addr(), [input.byte(), input.byte()]);
                self.write(addr, &bytes);
            }
        }
        if self.held.is_empty() { burst.recycle() } else { burst }
    }

    fn write(&self, addr: u64, bytes: &[u8]) {
        if let Some(slice) = self.memory.slice(GuestAddr(addr), bytes.len()) {
            slice.write(bytes);
        }
    }

    fn ring_u16(&self, value: u16) -> [u8; 2] {
        match self.setup.features.endian {
            Endian::Big => value.to_be_bytes(),
            Endian::Little => value.to_le_bytes(),
        }
    }

    /// A descriptor in the ring, or somewhere in memory (for indirect tables).
    fn write_descriptor(&self, input: &mut Input<'_>) {
        let place = input.byte();
        let index = u64::from(input.byte());
        let at = if place < 200 { DESC } else { 0x1000 + 0x400 * u64::from(place % 4) } + 16 * (index % 64);
        let (addr, len) = (input.addr(), input.len());
        let (flags, link) = (input.byte(), u16::from(input.byte() % 72));
        let flags = if self.setup.features.packed {
            // The top bits of the packed form, from bits that the split form does not have.
            u16::from(flags & 7) | u16::from(flags & 8) << 4 | u16::from(flags & 16) << 11
        } else {
            u16::from(flags & 7)
        };
        let mut bytes = [0; 16];
        let big = self.setup.features.endian == Endian::Big;
        bytes[..8].copy_from_slice(&if big { addr.to_be_bytes() } else { addr.to_le_bytes() });
        bytes[8..12].copy_from_slice(&if big { len.to_be_bytes() } else { len.to_le_bytes() });
        let (third, fourth) = if self.setup.features.packed { (link, flags) } else { (flags, link) };
        bytes[12..14].copy_from_slice(&self.ring_u16(third));
        bytes[14..].copy_from_slice(&self.ring_u16(fourth));
        self.write(at, &bytes);
    }

    /// Split: an available entry and the index. Packed: the flags of the next descriptor.
    fn make_available(&self, input: &mut Input<'_>) {
        let (first, second) = (input.byte(), input.byte());
        let state = self.queue.state();
        let size = self.setup.size.get();
        if self.setup.features.packed {
            let index = (state.avail + u16::from(first % 4)) % size;
            let bits: u16 = if state.avail_wrap { 1 << 7 } else { 1 << 15 };
            let flags = bits | u16::from(second & 7);
            self.write(DESC + 16 * u64::from(index) + 14, &flags.to_le_bytes());
        } else {
            let entry = DRIVER + 4 + 2 * u64::from(state.avail % size);
            self.write(entry, &self.ring_u16(u16::from(first) % (size + 2)));
            let step = if second == 255 { input.word() } else { u16::from(second % 4) };
            self.write(DRIVER + 2, &self.ring_u16(state.avail.wrapping_add(step)));
        }
    }

    fn pop<'m>(&mut self, memory: &'m GuestMemory, burst: &mut Burst<'m>, max: usize) {
        let result = self.queue.pop(memory, burst, max);
        match (result, self.fault) {
            (Err(fault), known) => assert!(known.is_none_or(|known| known == fault), "a fault stays"),
            (Ok(count), None) => assert_eq!(count, burst.len()),
            (Ok(_), Some(_)) => panic!("a retired queue delivered chains"),
        }
        if result.is_err() {
            self.fault = self.queue.fault();
            assert!(self.fault.is_some() && !self.queue.has_available());
        }
        while let Some(chain) = burst.take() {
            self.check(memory, burst, &chain);
            self.held.push((self.popped, chain));
            self.popped += 1;
        }
        let in_flight: usize = self.held.iter().map(|(_, chain)| usize::from(chain.descriptors())).sum();
        let size = usize::from(self.setup.size.get());
        if self.setup.features.packed {
            assert!(in_flight <= size, "{in_flight} descriptors in flight");
        }
        assert!(self.held.len() <= size, "{} chains in flight", self.held.len());
    }

    /// Fills up to `max` buffers the short way.
    fn fill(&mut self, memory: &GuestMemory, max: usize, input: &mut Input<'_>) {
        let before = self.queue.state();
        let mut left = usize::from(input.byte() % 40);
        let mut handed = 0;
        let filled = self.queue.fill(memory, max, |buffer| {
            assert!(!buffer.is_empty());
            let start = memory.guest_of_slice(&buffer).expect("inside the memory");
            assert!(memory.slice(start, buffer.len()).is_some(), "inside one region");
            handed += 1;
            buffer.fill(0xA5);
            left = left.checked_sub(1)?;
            Some(input.len())
        });
        assert!(filled <= max && filled <= handed && handed <= filled + 1);
        assert!(filled == 0 || self.fault.is_none(), "a retired queue was filled");
        assert!(filled != 0 || self.queue.state() == before);
        self.popped += filled as u64;
    }

    /// What every chain promises.
    fn check(&self, memory: &GuestMemory, burst: &Burst<'_>, chain: &Chain) {
        let (readable, writable) = (burst.readable(chain), burst.writable(chain));
        assert_eq!(guestmem::total_len(readable), chain.readable_len() as usize);
        assert_eq!(guestmem::total_len(writable), chain.writable_len() as usize);
        assert_eq!(readable.len(), chain.readable_segments());
        assert_eq!(writable.len(), chain.writable_segments());
        assert!(chain.readable_len().checked_add(chain.writable_len()).is_some_and(|total| total > 0));
        assert!((1..=self.setup.size.get()).contains(&chain.descriptors()));
        let limit = usize::from(CHAIN_DESCRIPTORS_MAX);
        assert!(readable.len() + writable.len() <= 3 * limit);
        for segment in readable.iter().chain(writable) {
            assert!(!segment.is_empty());
            let start = memory.guest_of_slice(segment).expect("inside the memory");
            assert!(memory.slice(start, segment.len()).is_some(), "inside one region");
        }
        if !self.setup.features.packed {
            assert!(chain.id() < self.setup.size.get());
        }
    }

    fn complete(&mut self, burst: &Burst<'_>, input: &mut Input<'_>) {
        if self.held.is_empty() {
            return;
        }
        let index = usize::from(input.byte()) % self.held.len();
        let (_, chain) = self.held.remove(index);
        self.queue.complete(burst, chain, input.len());
    }

    fn unpop(&mut self) {
        if let Some((_, chain)) = self.held.pop_if(|(number, _)| *number + 1 == self.popped) {
            self.queue.unpop(chain);
            self.popped -= 1;
        }
    }

    /// Stops and starts again, as a front-end does, with nothing in flight.
    fn restart(&mut self) {
        if !self.held.is_empty() {
            return;
        }
        self.queue.flush();
        let base = self.queue.state().to_vring_base(self.setup.features.packed);
        let state = RingState::from_vring_base(base, self.setup.features.packed);
        if let Ok(queue) = DeviceQueue::new(&self.memory, &self.setup, state) {
            self.queue = queue;
            self.fault = None;
        }
    }
}
