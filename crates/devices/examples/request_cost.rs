//! What a disk request costs from the ring to the ring, with a disk that does nothing: `cargo run -p devices --profile fast --example
//! request_cost [BYTES]`. The driver's part is outside the timed section.

use devices::blk::{Acknowledged, Begun, Features, Offered, Rules, Spare, begin, finish};
use devices::storage::Shape;
use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use std::time::Instant;
use virtqueue::{Burst, DeviceQueue, DriverQueue, Endian, QueueSize, RingFeatures, RingState};

const BURST: usize = 32;
const ROUNDS: usize = 10_000;
const HEADERS: u64 = 1 << 20;
const DATA: u64 = 2 << 20;

/// Nanoseconds for each request of `len` bytes in buffers of 4 KiB: the median over bursts.
fn measure(packed: bool, is_write: bool, len: u32) -> f64 {
    let ring = RingFeatures { packed, event_idx: true, ..RingFeatures::default() };
    let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 64 << 20).expect("memory"));
    let size = QueueSize::try_from(2048).expect("a size");
    let (mut driver, setup) = DriverQueue::setup(&memory, GuestAddr(4096), size, ring, None).expect("a ring");
    let mut device = DeviceQueue::new(&memory, &setup, RingState::default()).expect("a queue");
    let offered = Offered::new(Features::VERSION_1 | Features::FLUSH);
    let acknowledged = Acknowledged::new(offered, offered.features().bits()).expect("a choice");
    let rules = Rules::new(offered, acknowledged, Endian::Little, &Shape::plain(1 << 40), false);

    let (mut spare, mut in_flight) = (Spare::new(), Vec::with_capacity(BURST));
    let mut burst = Burst::with_capacity(BURST, 4096);
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        for index in 0..BURST as u64 {
            let place = GuestAddr(HEADERS + index * 32);
            let header = memory.slice(place, 32).expect("memory");
            header.fill(0);
            header.write(&[u8::from(is_write)]);
            header.sub(8, 8).expect("memory").write(&((round as u64) << 5 | index).to_le_bytes());
            let data = (0..len.div_ceil(4096)).map(|page| {
                let at = DATA + index * u64::from(len) + u64::from(page) * 4096;
                (GuestAddr(at), (len - page * 4096).min(4096))
            });
            let (mut readable, mut writable) = (vec![(place, 16)], Vec::new());
            if is_write {
                readable.extend(data)
            } else {
                writable.extend(data)
            }
            writable.push((GuestAddr(place.0 + 16), 1));
            driver.add(&readable, &writable, index).expect("room");
        }
        driver.publish();
        let start = Instant::now();
        device.pop(&memory, &mut burst, BURST).expect("a good ring");
        while let Some(chain) = burst.take() {
            match begin(&rules, None, &memory, &burst, &chain, &mut spare) {
                Begun::Work(request) => in_flight.push((request, device.detach(chain))),
                Begun::Answered(answer) => device.complete_scattered(&burst, chain, answer.written),
            }
        }
        burst = burst.recycle();
        for (request, chain) in in_flight.drain(..) {
            let finished = finish(request, Ok(()), None);
            device.complete_written(chain, finished.written, finished.touched()).expect("our chain");
            spare.recycle(finished);
        }
        device.flush();
        times.push(start.elapsed().as_nanos() as f64 / BURST as f64);
        let mut back = 0;
        while driver.pop_used().expect("a good device").is_some() {
            back += 1;
        }
        assert_eq!(back, BURST);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let len = std::env::args().nth(1).and_then(|len| len.parse().ok()).unwrap_or(4096);
    for packed in [false, true] {
        for is_write in [false, true] {
            let ring = if packed { "packed" } else { "split" };
            let kind = if is_write { "write" } else { "read" };
            println!("{ring:6} {kind:5} of {len} bytes: {:6.1} ns", measure(packed, is_write, len));
        }
    }
}
