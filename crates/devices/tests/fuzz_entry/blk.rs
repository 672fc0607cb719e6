//! The entry of the fuzz target `blk_request`: arbitrary requests, laid out in any way, to an arbitrary device.

use devices::blk::zone::ZoneShape;
use devices::blk::{
    Acknowledged, Begun, Features, Offered, Request, Rules, Spare, Status, ZoneState, Zones, begin, finish,
};
use devices::storage::{Extent, Extents, Failure, IoFault, Limits, Outcome, Shape, Work};
use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use virtqueue::{
    Burst, Detached, DeviceQueue, DriverQueue, Endian, QueueSetup, QueueSize, RingFeatures, RingState,
};

/// Bytes in front of the requests: features (24 bits), kind of device, what fails (3 bytes), capacity.
pub(crate) const BLK_PREFIX_LEN: usize = 8;

const RING: u64 = 0x1000;
const DATA: u64 = 0x10_000;
/// Guest memory for buffers.
const DATA_LEN: usize = 256 << 10;
const UNTOUCHED: u8 = 0xEE;

struct InFlight {
    request: Request,
    chain: Detached,
    room: Room,
}

/// What the device may write of a request: one run of guest memory, cut into buffers.
#[derive(Clone, Copy)]
struct Room {
    at: u64,
    len: usize,
}

struct Bench {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    device: DeviceQueue,
    rules: Rules,
    zones: Option<Zones>,
    shape: Shape,
    spare: Spare,
    disk: Vec<u8>,
    in_flight: Vec<InFlight>,
    next: u64,
}

/// `bytes` is a prefix and a list of requests: bytes to read, bytes to write (16 bits each), bytes of a buffer, and what is read.
///
/// Whatever a guest asks: the disk is asked for nothing outside of it, nothing that was not negotiated, nothing while it is read-only; the
/// driver gets every chain back once, with a status, and nothing written but what is reported, the status, and an append's answer.
pub(crate) fn blk_request(bytes: &[u8]) {
    let Some((prefix, mut rest)) = bytes.split_first_chunk::<BLK_PREFIX_LEN>() else { return };
    let [_, _, _, kind, fails @ .., sectors] = *prefix;
    let Some(mut bench) = Bench::new(prefix, sectors) else { return };
    let fails = u32::from_le_bytes([fails[0], fails[1], fails[2], 0]);
    for index in 0u32.. {
        let Some((head, after)) = rest.split_first_chunk::<5>() else { break };
        let [out_low, out_high, room_low, room_high, cut] = *head;
        let out_len = usize::from(u16::from_le_bytes([out_low, out_high])).min(after.len());
        let room = usize::from(u16::from_le_bytes([room_low, room_high]));
        let (out, later) = after.split_at(out_len);
        rest = later;
        bench.send(out, room, usize::from(cut).max(1));
        let is_late = fails >> (index % 24) & 1 != 0;
        if !is_late || bench.in_flight.len() > 6 {
            bench.end_all(kind & 64 != 0);
        }
    }
    bench.end_all(kind & 128 != 0);
    assert!(bench.device.fault().is_none() && bench.device.detached() == 0);
}

impl Bench {
    fn new(prefix: &[u8; BLK_PREFIX_LEN], sectors: u8) -> Option<Self> {
        let [low, middle, high, kind, ..] = *prefix;
        let bits = u64::from(u32::from_le_bytes([low, middle, high, 0]));
        let modern = Features::VERSION_1.bits() * u64::from(kind & 1);
        let offered = Offered::new(Features::from_bits_truncate(bits | modern));
        let acknowledged = Acknowledged::new(offered, offered.features().bits()).ok()?;
        let capacity = u64::from(sectors) * 512 + 7;
        let limits = |extents_max| Some(Limits { len_max: 40 * 512, extents_max, alignment: 512 });
        let shape = Shape {
            discard: limits(3),
            zero: limits(300),
            secure_erase: limits(2),
            read_only: kind & 2 != 0,
            ..Shape::plain(capacity)
        };
        let zone_shape = ZoneShape {
            capacity_sectors: u64::from(sectors),
            zone_sectors: 16,
            zone_capacity_sectors: 15,
            conventional_zones: 1,
            max_open_zones: 2,
            max_active_zones: 3,
            max_append_sectors: 4,
            write_granularity: 512,
        };
        let zones = if offered.has(Features::ZONED) { Some(Zones::new(zone_shape).ok()?) } else { None };
        let endian = if kind & 4 == 0 { Endian::Little } else { Endian::Big };
        let ring =
            RingFeatures { packed: kind & 8 != 0, in_order: kind & 16 != 0, ..RingFeatures::default() };
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), DATA as usize + DATA_LEN).ok()?);
        let size = QueueSize::try_from(1024).ok()?;
        let (driver, setup): (DriverQueue, QueueSetup) =
            DriverQueue::setup(&memory, GuestAddr(RING), size, ring, None).ok()?;
        let device = DeviceQueue::new(&memory, &setup, RingState::default()).ok()?;
        Some(Self {
            memory,
            driver,
            device,
            rules: Rules::new(offered, acknowledged, endian, &shape, kind & 32 != 0),
            zones,
            shape,
            spare: Spare::new(),
            disk: vec![0; capacity as usize],
            in_flight: Vec::new(),
            next: DATA,
        })
    }

    /// Puts one request on the queue, and begins it.
    fn send(&mut self, out: &[u8], room: usize, cut: usize) {
        let buffers = out.len().div_ceil(cut) + room.div_ceil(cut);
        if buffers == 0 || buffers > usize::from(self.driver.free_descriptors()) {
            return;
        }
        let end = DATA + DATA_LEN as u64;
        if self.next + (out.len() + room + 1) as u64 > end {
            self.end_all(false);
            self.next = DATA;
        }
        let place = |at: u64, len: usize| -> Vec<(GuestAddr, u32)> {
            let starts = (0..len).step_by(cut);
            starts.map(|start| (GuestAddr(at + start as u64), (len - start).min(cut) as u32)).collect()
        };
        let (at, room) = (self.next, Room { at: self.next + out.len() as u64, len: room });
        self.next = room.at + room.len as u64 + 1;
        let all = self.memory.slice(GuestAddr(at), out.len() + room.len + 1).expect("it fits");
        all.fill(UNTOUCHED);
        all.write(out);
        if self.driver.add(&place(at, out.len()), &place(room.at, room.len), room.at).is_err() {
            return;
        }
        self.driver.publish();
        let memory = Arc::clone(&self.memory);
        let mut burst = Burst::new();
        assert_eq!(self.device.pop(&memory, &mut burst, 8), Ok(1));
        let chain = burst.take().expect("one was popped");
        match begin(&self.rules, self.zones.as_mut(), &memory, &burst, &chain, &mut self.spare) {
            Begun::Answered(answer) => {
                assert_eq!(answer.status.is_some(), room.len != 0);
                self.check(room, answer.written, answer.status, 0);
                self.device.complete_scattered(&burst, chain, answer.written);
            }
            Begun::Work(request) => {
                self.check_work(&request);
                self.in_flight.push(InFlight { request, chain: self.device.detach(chain), room });
            }
        }
        self.device.flush();
    }

    /// Nothing that a disk could not do or must not be asked for.
    fn check_work(&self, request: &Request) {
        let check = |extent: &Extent| {
            assert!(extent.len != 0 && extent.offset.is_multiple_of(512) && extent.len.is_multiple_of(512));
            assert!(extent.is_within(self.shape.capacity / 512 * 512));
        };
        let each = |extents: &Extents| {
            assert!(!extents.is_empty());
            extents.as_slice().iter().for_each(check);
        };
        let (kept, data) = request.data();
        let is_write = !matches!(request.work(), Work::Read(_) | Work::Flush);
        assert!(!(is_write && self.shape.read_only));
        match request.work() {
            Work::Read(extent) | Work::Write { extent, .. } => {
                check(extent);
                assert_eq!(kept.len(data) as u64, extent.len);
            }
            Work::Discard(extents) | Work::Zero { extents, .. } | Work::SecureErase(extents) => each(extents),
            other => assert_eq!(*other, Work::Flush),
        }
    }

    /// Ends all that is in flight: every other one fails if so wished.
    fn end_all(&mut self, fail: bool) {
        while let Some(InFlight { mut request, chain, room }) = self.in_flight.pop() {
            let fails = fail && self.in_flight.len().is_multiple_of(2);
            let is_read = matches!(request.work(), Work::Read(_));
            let outcome = self.carry_out(&mut request);
            let (kept, left) = request.data();
            assert!(kept.is_empty(left));
            let outcome = if fails { Err(Failure { fault: IoFault::Medium, done: 5 }) } else { outcome };
            let finished = finish(request, outcome, self.zones.as_mut());
            assert_eq!(finished.status == Status::Ok, !fails);
            // A failed read left in memory more than it reports.
            let touched = if is_read { room.len } else { 0 };
            self.check(room, finished.written, Some(finished.status), touched);
            self.device.complete_written(chain, finished.written, finished.touched()).expect("our chain");
            self.spare.recycle(finished);
        }
        self.device.flush();
        while let Some((at, _)) = self.driver.pop_used().expect("the device keeps to the rules") {
            assert!(at >= DATA);
        }
        self.check_zones();
    }

    fn carry_out(&mut self, request: &mut Request) -> Outcome {
        let range = |extent: Extent| extent.offset as usize..extent.end() as usize;
        let (kept, data) = request.data();
        let len = match request.work().clone() {
            Work::Read(extent) => kept.write(data, 0, &self.disk[range(extent)]),
            Work::Write { extent, .. } => kept.read(data, 0, &mut self.disk[range(extent)]),
            Work::Zero { extents, .. } | Work::SecureErase(extents) => {
                extents.as_slice().iter().for_each(|extent| self.disk[range(*extent)].fill(0));
                0
            }
            _ => 0,
        };
        request.advance(len);
        Ok(())
    }

    /// What the driver finds: the status at the end, nothing behind it, and in front of it what was reported and no more.
    fn check(&self, room: Room, written: u32, status: Option<Status>, touched: usize) {
        let mut bytes = vec![0; room.len + 1];
        self.memory.slice(GuestAddr(room.at), bytes.len()).expect("it is there").read(&mut bytes);
        assert_eq!(bytes.pop(), Some(UNTOUCHED));
        assert!(written as usize <= room.len);
        assert_eq!(status.map(|status| status as u8), bytes.pop());
        let is_of_zones = status.is_some_and(|status| status as u8 > 2);
        assert!(!is_of_zones || self.zones.is_some());
        let reported = touched.max(written as usize).min(bytes.len());
        let answer_at = if self.zones.is_some() { bytes.len().saturating_sub(8) } else { bytes.len() };
        if reported < answer_at {
            assert!(bytes[reported..answer_at].iter().all(|byte| *byte == UNTOUCHED));
        }
    }

    fn check_zones(&self) {
        let Some(zones) = &self.zones else { return };
        let records: Vec<u8> = (0..zones.len()).filter_map(|index| zones.record(index)).flatten().collect();
        let again = Zones::restore(*zones.shape(), &records).expect("every state can be kept");
        assert_eq!(again.in_use(), zones.in_use());
        assert_eq!(zones.state(0), Some(ZoneState::NotWp));
    }
}
