//! What a frame costs from one guest's transmit ring to another's receive ring: `cargo run -p devices --profile
//! fast --example delivery_cost [LEN]`. The drivers' part is outside the timed section.

use devices::net::{
    Acknowledged, Features, Frame, Offered, ReceiveRules, Software, TransmitRules, receive, transmit,
};
use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use std::time::Instant;
use virtqueue::{Burst, DeviceQueue, DriverQueue, Endian, QueueSize, RingFeatures, RingState};

const BURST: usize = 32;
const ROUNDS: usize = 10_000;

struct Guest {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    device: DeviceQueue,
}

impl Guest {
    fn new(packed: bool) -> Self {
        let features = RingFeatures { packed, event_idx: true, ..RingFeatures::default() };
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 64 << 20).expect("memory"));
        let size = QueueSize::try_from(256).expect("a size");
        let (driver, setup) =
            DriverQueue::setup(&memory, GuestAddr(4096), size, features, None).expect("a ring");
        let start = RingState { avail: 0, avail_wrap: true, used: 0, used_wrap: true };
        let device = DeviceQueue::new(&memory, &setup, start).expect("a queue");
        Self { memory, driver, device }
    }

    /// Buffers lie as a packet driver's pool has them: one after the other, with room for its own notes.
    fn buffer(index: usize, len: u32) -> [(GuestAddr, u32); 1] {
        let apart = (u64::from(len) + 256).next_multiple_of(64).max(2304);
        [(GuestAddr((1 << 20) + (index % 256) as u64 * apart), len)]
    }
}

/// A virtio header that asks for TCP segmentation by 1448 bytes, and the headers it is true of.
const TSO: [u8; 66] = {
    let mut bytes = [2; 66];
    let front = [1, 1, 0, 0, 0xA8, 5, 34, 0, 16, 0, 0, 0];
    let back = [8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let mut at = 0;
    while at < back.len() {
        if at < front.len() {
            bytes[at] = front[at];
        }
        bytes[24 + at] = back[at];
        at += 1;
    }
    bytes[46 + 12] = 0x50;
    bytes
};

/// Nanoseconds for each frame of `len` bytes into buffers of `room` bytes: the median over bursts.
fn measure(len: u32, room: u32, packed: bool, tso: bool) -> f64 {
    let sends = Features::CSUM | Features::HOST_TSO4;
    let bits = (Features::VERSION_1 | Features::MRG_RXBUF | sends).bits();
    let acknowledged = Acknowledged::new(Offered::new(Features::all()), bits).expect("features");
    let rules = TransmitRules::new(acknowledged, Endian::Little);
    let receive_rules = ReceiveRules::new(acknowledged, Endian::Little);
    let (mut from, mut to) = (Guest::new(packed), Guest::new(packed));
    let (from_memory, to_memory) = (Arc::clone(&from.memory), Arc::clone(&to.memory));
    let mut software = Software::new();
    let each = if tso { (len - 54).div_ceil(1448) } else { (len + 12).div_ceil(room) } as usize;
    for index in 0..256 {
        let [(addr, len)] = Guest::buffer(index, len + 12);
        let slice = from.memory.slice(addr, len as usize).expect("inside");
        if tso {
            slice.write(&TSO)
        } else {
            slice.write(&[0; 66])
        };
    }
    let (mut sent, mut posted) = (0, 0);
    let (mut pop_burst, mut receive_burst) = (Burst::new(), Burst::new());
    let mut heads = [[0; 256]; BURST];
    let mut runs = Vec::new();
    let burst = BURST.min(256 / each);
    for _ in 0..ROUNDS {
        for _ in 0..burst {
            from.driver.add(&Guest::buffer(sent, len + 12), &[], 0).expect("room");
            sent += 1;
            for _ in 0..each {
                to.driver.add(&[], &Guest::buffer(posted, room), 0).expect("room");
                posted += 1;
            }
        }
        from.driver.publish();
        to.driver.publish();
        let start = Instant::now();
        from.device.pop(&from_memory, &mut pop_burst, BURST).expect("no fault");
        let mut frames = [Frame::private(&[], Default::default()); BURST];
        let mut count = 0;
        for (chain, head) in pop_burst.chains().iter().zip(&mut heads) {
            if let Ok(frame) = transmit::open(&rules, &pop_burst, chain, head) {
                frames[count] = frame;
                count += 1;
            }
        }
        let done = receive::deliver_burst(
            &mut to.device,
            &to_memory,
            &mut receive_burst,
            &receive_rules,
            &mut software,
            &frames[..count],
        );
        let parts = if tso { each } else { 1 };
        assert_eq!(done.expect("no fault").frames as usize, count * parts);
        to.device.flush();
        while let Some(chain) = pop_burst.take() {
            from.device.complete(&pop_burst, chain, 0);
        }
        from.device.flush();
        runs.push(start.elapsed().as_nanos() as f64 / burst as f64);
        pop_burst = pop_burst.recycle();
        receive_burst = receive_burst.recycle();
        while from.driver.pop_used().expect("no fault").is_some() {}
        while to.driver.pop_used().expect("no fault").is_some() {}
    }
    runs.sort_by(f64::total_cmp);
    runs[ROUNDS / 2]
}

fn main() {
    let only: Option<u32> = std::env::args().nth(1).and_then(|len| len.parse().ok());
    for packed in [false, true] {
        let form = if packed { "packed" } else { "split" };
        for (len, room) in [(64, 1536), (1514, 1536), (9014, 1536), (65_000, 1536), (65_000, 65_536)] {
            if only.is_none_or(|only| only == len) {
                let cost = measure(len, room, packed, false);
                println!("{form:6} {len:6} B into {room:6} B buffers: {cost:8.1} ns/frame");
            }
        }
        if only.is_none() {
            let cost = measure(65_000, 1536, packed, true);
            println!("{form:6}  65000 B of TCP segmented in software: {cost:8.1} ns/frame");
        }
    }
}
