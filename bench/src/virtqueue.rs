//! What a frame's chain costs the device, next to rust-vmm's `virtio-queue` over `vm-memory`.
//!
//! Every case: a ring of 256 entries with EVENT_IDX, frames of 64 bytes behind a 12-byte header, bursts of
//! 32. A sample times the device's part only (take a burst, copy each frame, give the burst back, decide
//! about the call); the driver's part runs between samples, by the same code for both. Samples of ours and
//! of the peer alternate; the medians are reported. The peer has no packed ring: the packed cases stand next
//! to its split ring of the same shape. Memory is a memfd, mapped once by each side; buffers go round the
//! regions, so that with eight of them no two neighbours lie in the same one.

use crate::report::{Row, median};
use anyhow::Context;
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region, read_segments, write_segments};
use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use virtqueue::{Burst, DeviceQueue, DriverQueue, IndirectArea, QueueSetup, RingFeatures, RingState};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

const RING_SIZE: u16 = 256;
const BURST: usize = 32;
const HEADER: usize = 12;
const FRAME: usize = HEADER + 64;
/// Bytes of a region; regions lie back to back in the guest and in the memfd.
const REGION: u64 = 1 << 21;
/// Where the data of each region begins; the first one holds the ring in front of it.
const DATA: u64 = 1 << 19;
/// Bytes from one buffer to the next: close together, so that a sample sees the queue's cost and not that of
/// fetching payload, which is the same for both.
const STRIDE: u64 = 128;
/// Times the ring is filled and emptied in one sample: short beside a time slice, so that on a busy machine most
/// samples are whole and the median stands.
const FILLS: usize = 4;
const SAMPLES: usize = 1501;
const RATIO_MIN: f64 = 4.0;

/// How a frame lies in its chain, and which way it goes.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// Header and frame in one descriptor, read by the device.
    Transmit,
    /// Header and frame in a descriptor each, read by the device.
    TransmitTwo,
    /// As before, in an indirect table.
    TransmitIndirect,
    /// One descriptor, written by the device.
    Receive,
}

struct Case {
    name: &'static str,
    shape: Shape,
    packed: bool,
    regions: u64,
}

const CASES: &[Case] = &[
    Case { name: "split, copy, 1 region", shape: Shape::Transmit, packed: false, regions: 1 },
    Case { name: "split, copy, 8 regions", shape: Shape::Transmit, packed: false, regions: 8 },
    Case { name: "split, 2 descriptors, 1 region", shape: Shape::TransmitTwo, packed: false, regions: 1 },
    Case { name: "split, 2 descriptors, 8 regions", shape: Shape::TransmitTwo, packed: false, regions: 8 },
    Case { name: "split, indirect, 1 region", shape: Shape::TransmitIndirect, packed: false, regions: 1 },
    Case { name: "split, indirect, 8 regions", shape: Shape::TransmitIndirect, packed: false, regions: 8 },
    Case { name: "split, receive, 1 region", shape: Shape::Receive, packed: false, regions: 1 },
    Case { name: "split, receive, 8 regions", shape: Shape::Receive, packed: false, regions: 8 },
    Case { name: "packed, copy, 1 region", shape: Shape::Transmit, packed: true, regions: 1 },
    Case { name: "packed, copy, 8 regions", shape: Shape::Transmit, packed: true, regions: 8 },
    Case { name: "packed, 2 descriptors, 1 region", shape: Shape::TransmitTwo, packed: true, regions: 1 },
    Case { name: "packed, indirect, 1 region", shape: Shape::TransmitIndirect, packed: true, regions: 1 },
    Case { name: "packed, receive, 1 region", shape: Shape::Receive, packed: true, regions: 1 },
];

/// Measures every case whose name contains `part`.
pub(crate) fn measure(part: &str) -> anyhow::Result<Vec<Row>> {
    let cases = CASES.iter().filter(|case| case.name.contains(part));
    cases.map(|case| measure_case(case).with_context(|| case.name)).collect()
}

fn measure_case(case: &Case) -> anyhow::Result<Row> {
    let mut our_guest = Guest::new(case, case.packed)?;
    let mut peer_guest = Guest::new(case, false)?;
    let mut ours = Ours::new(&our_guest)?;
    let mut peer = Peer::new(&peer_guest, case.regions)?;
    let (mut our_samples, mut peer_samples) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        our_samples.push(our_guest.sample(|| ours.burst(case.shape))?);
        peer_samples.push(peer_guest.sample(|| peer.burst(case.shape))?);
    }
    Ok(Row {
        case: case.name.to_owned(),
        ours: median(&mut our_samples),
        peer: median(&mut peer_samples),
        unit: "ns/frame",
        target: RATIO_MIN,
    })
}

/// The driver's side: a guest with a ring and a buffer for each frame.
struct Guest {
    memory: Arc<GuestMemory>,
    file: File,
    driver: DriverQueue,
    setup: QueueSetup,
    shape: Shape,
    buffers: Vec<[(GuestAddr, u32); 2]>,
}

impl Guest {
    fn new(case: &Case, packed: bool) -> anyhow::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("bench", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(case.regions * REGION)?;
        let mut regions = Vec::new();
        for index in 0..case.regions {
            let start = index * REGION;
            let mapping = Arc::new(Mapping::file(&file, start, REGION)?);
            regions.push(Region::new(GuestAddr(start), FrontendAddr(start), REGION, mapping)?);
        }
        let memory = Arc::new(GuestMemory::new(regions)?);
        let features = RingFeatures { packed, indirect: true, event_idx: true, ..RingFeatures::default() };
        let tables = IndirectArea { base: GuestAddr(DATA / 2), entries: 2 };
        let (driver, setup) =
            DriverQueue::setup(&memory, GuestAddr(0), RING_SIZE.try_into()?, features, Some(tables))?;
        let buffers = (0..u64::from(RING_SIZE)).map(|frame| {
            let start = GuestAddr(frame % case.regions * REGION + DATA + frame * STRIDE);
            [(start, HEADER as u32), (GuestAddr(start.0 + HEADER as u64), (FRAME - HEADER) as u32)]
        });
        let buffers = buffers.collect();
        Ok(Self { memory, file, driver, setup, shape: case.shape, buffers })
    }

    /// Fills the ring; returns how many frames went in.
    fn fill(&mut self) -> usize {
        let mut frames = 0;
        for [header, frame] in self.buffers.iter().copied() {
            let whole = [(header.0, FRAME as u32)];
            let added = match self.shape {
                Shape::Transmit => self.driver.add(&whole, &[], 0),
                Shape::TransmitTwo => self.driver.add(&[header, frame], &[], 0),
                Shape::TransmitIndirect => self.driver.add_indirect(&[header, frame], &[], 0),
                Shape::Receive => self.driver.add(&[], &whole, 0),
            };
            frames += usize::from(added.is_ok());
        }
        black_box(self.driver.publish());
        frames
    }

    /// The device's time for one frame, in nanoseconds.
    fn sample(&mut self, mut burst: impl FnMut() -> usize) -> anyhow::Result<f64> {
        let (mut spent, mut frames) = (Duration::ZERO, 0);
        for _ in 0..FILLS {
            let filled = self.fill();
            let mut done = 0;
            let begin = Instant::now();
            while done < filled {
                let now = burst();
                anyhow::ensure!(now > 0, "the device found nothing");
                done += now;
            }
            spent += begin.elapsed();
            let mut back = 0;
            while self.driver.pop_used()?.is_some() {
                back += 1;
            }
            anyhow::ensure!(back == filled, "{back} of {filled} frames came back");
            frames += filled;
        }
        Ok(spent.as_nanos() as f64 / frames as f64)
    }
}

/// Our device side.
struct Ours {
    memory: Arc<GuestMemory>,
    queue: DeviceQueue,
    /// Kept from burst to burst for its allocations.
    burst: Burst<'static>,
    frame: [u8; FRAME],
}

impl Ours {
    fn new(guest: &Guest) -> anyhow::Result<Self> {
        let queue = DeviceQueue::new(&guest.memory, &guest.setup, RingState::default())?;
        Ok(Self { memory: Arc::clone(&guest.memory), queue, burst: Burst::new(), frame: [0; FRAME] })
    }

    #[inline(never)]
    fn burst(&mut self, shape: Shape) -> usize {
        let mut burst = std::mem::take(&mut self.burst).recycle();
        let popped = self.queue.pop(&self.memory, &mut burst, BURST).unwrap_or(0);
        while let Some(chain) = burst.take() {
            let written = if shape == Shape::Receive {
                write_segments(burst.writable(&chain), 0, black_box(&self.frame))
            } else {
                read_segments(burst.readable(&chain), 0, &mut self.frame);
                black_box(&self.frame);
                0
            };
            self.queue.complete(&burst, chain, written as u32);
        }
        black_box(self.queue.flush());
        self.burst = burst.recycle();
        popped
    }
}

/// `virtio-queue`: `iter`, `read_slice` or `write_slice`, `add_used`.
struct Peer {
    memory: GuestMemoryMmap,
    queue: Queue,
    frame: [u8; FRAME],
}

impl Peer {
    fn new(guest: &Guest, regions: u64) -> anyhow::Result<Self> {
        let mut ranges = Vec::new();
        for start in (0..regions).map(|index| index * REGION) {
            let file = FileOffset::new(guest.file.try_clone()?, start);
            ranges.push((GuestAddress(start), REGION as usize, Some(file)));
        }
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges)?;
        let mut queue = Queue::new(RING_SIZE)?;
        queue.set_size(RING_SIZE);
        queue.set_event_idx(true);
        queue.try_set_desc_table_address(GuestAddress(guest.setup.desc.0))?;
        queue.try_set_avail_ring_address(GuestAddress(guest.setup.driver.0))?;
        queue.try_set_used_ring_address(GuestAddress(guest.setup.device.0))?;
        queue.set_ready(true);
        anyhow::ensure!(queue.is_valid(&memory), "the peer refuses the queue");
        Ok(Self { memory, queue, frame: [0; FRAME] })
    }

    #[inline(never)]
    fn burst(&mut self, shape: Shape) -> usize {
        let mut heads = [(0, 0); BURST];
        let mut popped = 0;
        let Ok(chains) = self.queue.iter(&self.memory) else { return 0 };
        for chain in chains.take(BURST) {
            let head = chain.head_index();
            let mut done = 0;
            for descriptor in chain {
                let end = (done + descriptor.len() as usize).min(FRAME);
                let copied = if shape == Shape::Receive {
                    self.memory.write_slice(&black_box(&self.frame)[done..end], descriptor.addr())
                } else {
                    self.memory.read_slice(&mut self.frame[done..end], descriptor.addr())
                };
                if copied.is_err() {
                    return 0;
                }
                done = end;
            }
            black_box(&self.frame);
            heads[popped] = (head, if shape == Shape::Receive { done as u32 } else { 0 });
            popped += 1;
        }
        for &(head, written) in &heads[..popped] {
            if self.queue.add_used(&self.memory, head, written).is_err() {
                return 0;
            }
        }
        let _ = black_box(self.queue.needs_notification(&self.memory));
        popped
    }
}
