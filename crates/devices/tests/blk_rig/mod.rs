//! What the tests of the block device share: a guest with a queue and scattered buffers, a disk in memory, and a source of randomness.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use devices::blk::{
    Acknowledged, Answer, Begun, Features, Finished, Offered, Request, Rules, Spare, Status, Zones, begin,
    finish,
};
use devices::storage::{Extent, Failure, IoFault, Outcome, Shape, Work};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region, RegionHint};
use std::sync::Arc;
use virtqueue::{
    Burst, Chain, Detached, DeviceQueue, DriverQueue, Endian, IndirectArea, QueueSetup, QueueSize,
    RingFeatures, RingState,
};

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

    /// One time in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

const RING: u64 = 0x10_0000;
const DATA: u64 = 0x4000_0000;
/// Entries of an indirect table.
const TABLE: u16 = 64;
/// Bytes of guest memory for one request.
pub const SLOT: usize = 512 << 10;
pub const SLOTS: usize = 16;
/// What lies in guest memory where nobody wrote: between buffers, and in those for the device.
const UNTOUCHED: u8 = 0xEE;

/// How a run of bytes is cut into buffers.
pub enum Layout<'r> {
    /// One buffer.
    Whole,
    /// The lengths of the first buffers; the rest is one more.
    Cut(&'r [usize]),
    /// In any way.
    Random(&'r mut Random),
}

impl Layout<'_> {
    fn cuts(&mut self, len: usize) -> Vec<usize> {
        let mut left = len;
        let mut cuts = Vec::new();
        while left > 0 {
            let cut = match self {
                Layout::Whole => left,
                Layout::Cut(lens) => {
                    let (first, rest) =
                        lens.split_first().map_or((left, &[][..]), |(len, rest)| (*len, rest));
                    *lens = rest;
                    first
                }
                // A few buffers, whatever the length; often one byte at an end.
                Layout::Random(random) => match random.below(4) {
                    0 => 1,
                    1 => left,
                    _ => 1 + random.below(len.div_ceil(4)),
                },
            };
            let cut = if cuts.len() == 7 { left } else { cut.clamp(1, left) };
            cuts.push(cut);
            left -= cut;
        }
        cuts
    }
}

/// A request on its way: where its buffers are.
#[derive(Debug)]
pub struct Sent {
    pub token: u64,
    slot: usize,
    writable: Vec<(u64, usize)>,
    len: usize,
}

/// What the driver gets back.
#[derive(Debug, PartialEq, Eq)]
pub struct Back {
    /// The used entry's length.
    pub written: u32,
    /// Everything that the device could write.
    pub bytes: Vec<u8>,
}

impl Back {
    pub fn status(&self) -> u8 {
        *self.bytes.last().expect("a request has room for its status")
    }

    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - 1]
    }

    /// Whether nothing but the status was written, as far as one can see.
    pub fn is_untouched(&self) -> bool {
        self.data().iter().all(|byte| *byte == UNTOUCHED)
    }
}

/// A guest, its disk's queue, and the device behind it.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub driver: DriverQueue,
    pub device: DeviceQueue,
    pub setup: QueueSetup,
    pub rules: Rules,
    pub zones: Option<Zones>,
    pub spare: Spare,
    busy: [bool; SLOTS],
    next_token: u64,
}

/// The features of a driver that knows all that is offered.
pub fn acknowledge(offered: Offered) -> Acknowledged {
    Acknowledged::new(offered, offered.features().bits()).unwrap()
}

/// Rules for a modern driver that acknowledged all that `features` has.
pub fn rules(features: Features, shape: &Shape, through: bool) -> Rules {
    let offered = Offered::new(features | Features::VERSION_1);
    Rules::new(offered, acknowledge(offered), Endian::Little, shape, through)
}

impl Guest {
    pub fn new(ring: RingFeatures, rules: Rules) -> Self {
        let size = QueueSize::try_from(128).unwrap();
        let footprint = DriverQueue::footprint(size, ring).next_multiple_of(4096) as u64;
        let table = u64::from(size.get()) * u64::from(TABLE) * 16;
        let mut list = vec![region(RING, footprint + table)];
        // Regions of no round length, so that boundaries fall inside buffers.
        let (data, each) = ((SLOT * SLOTS) as u64, 30_011);
        for start in (0..data).step_by(each as usize) {
            list.push(region(DATA + start, each.min(data - start)));
        }
        let memory = Arc::new(GuestMemory::new(list).unwrap());
        let indirect = IndirectArea { base: GuestAddr(RING + footprint), entries: TABLE };
        let indirect = ring.indirect.then_some(indirect);
        let (driver, setup) = DriverQueue::setup(&memory, GuestAddr(RING), size, ring, indirect).unwrap();
        let device = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
        Self {
            memory,
            driver,
            device,
            setup,
            rules,
            zones: None,
            spare: Spare::new(),
            busy: [false; SLOTS],
            next_token: 0,
        }
    }

    /// A guest with a split ring.
    pub fn plain(rules: Rules) -> Self {
        Self::new(RingFeatures::default(), rules)
    }

    /// Whether there is memory for one more request.
    pub fn has_room(&self) -> bool {
        self.busy.contains(&false)
    }

    /// Puts a request of these bytes, with `room` bytes for the device (the status among them), on the queue.
    pub fn send(&mut self, out: &[u8], room: usize, layout: &mut Layout<'_>) -> Sent {
        let slot = self.busy.iter().position(|busy| !busy).expect("there is memory");
        self.busy[slot] = true;
        let base = DATA + (slot * SLOT) as u64;
        let mut at = base + 1;
        let mut place = |len: usize, layout: &mut Layout<'_>| -> Vec<(u64, usize)> {
            let cuts = layout.cuts(len).into_iter();
            let placed = cuts.map(|len| {
                let here = at;
                at += len as u64 + 3;
                (here, len)
            });
            placed.collect()
        };
        let readable = place(out.len(), layout);
        let writable = place(room, layout);
        assert!(at <= base + SLOT as u64, "the request fits its memory");
        self.fill(base, (at - base) as usize);
        let mut rest = out;
        for &(addr, len) in &readable {
            let (now, later) = rest.split_at(len);
            self.write(addr, now);
            rest = later;
        }
        let buffers = |list: &[(u64, usize)]| -> Vec<(GuestAddr, u32)> {
            list.iter().map(|&(addr, len)| (GuestAddr(addr), len as u32)).collect()
        };
        let token = self.next_token;
        self.next_token += 1;
        let (readable, list) = (buffers(&readable), buffers(&writable));
        let add = if self.setup.features.indirect && token.is_multiple_of(2) {
            DriverQueue::add_indirect
        } else {
            DriverQueue::add
        };
        add(&mut self.driver, &readable, &list, token).expect("the queue has room");
        self.driver.publish();
        Sent { token, slot, writable, len: room }
    }

    /// Begins the next request on the queue. `None`: it was answered, and its chain given back.
    pub fn begin(&mut self) -> Result<(Request, Detached), Answer> {
        let memory = Arc::clone(&self.memory);
        let mut burst = Burst::new();
        assert_eq!(self.device.pop(&memory, &mut burst, 1), Ok(1));
        let chain: Chain = burst.take().unwrap();
        match begin(&self.rules, self.zones.as_mut(), &memory, &burst, &chain, &mut self.spare) {
            Begun::Answered(answer) => {
                self.device.complete_scattered(&burst, chain, answer.written);
                self.device.flush();
                Err(answer)
            }
            Begun::Work(request) => Ok((request, self.device.detach(chain))),
        }
    }

    /// Ends a request and gives its chain back.
    pub fn end(&mut self, request: Request, chain: Detached, outcome: Outcome) -> Status {
        let finished: Finished = finish(request, outcome, self.zones.as_mut());
        self.device.complete_written(chain, finished.written, finished.touched()).unwrap();
        self.device.flush();
        let status = finished.status;
        self.spare.recycle(finished);
        status
    }

    /// What the driver finds of a request that came back with `written` bytes.
    pub fn back(&mut self, sent: Sent, written: u32) -> Back {
        let mut bytes = vec![0; sent.len];
        let mut rest = &mut bytes[..];
        for &(addr, len) in &sent.writable {
            let (now, later) = rest.split_at_mut(len);
            self.read(addr, now);
            let mut between = [0; 3];
            self.read(addr + len as u64, &mut between);
            assert_eq!(between, [UNTOUCHED; 3], "nothing is written behind a buffer");
            rest = later;
        }
        self.busy[sent.slot] = false;
        assert!(written as usize <= sent.len);
        Back { written, bytes }
    }

    /// One request from beginning to end: what the disk is asked to do, and what the driver gets back.
    pub fn ask(
        &mut self,
        out: &[u8],
        room: usize,
        layout: &mut Layout<'_>,
        carry_out: impl FnOnce(&mut Request) -> Outcome,
    ) -> (Option<Work>, Back) {
        let sent = self.send(out, room, layout);
        let (work, answer) = match self.begin() {
            Err(answer) => (None, answer.status),
            Ok((mut request, chain)) => {
                let work = request.work().clone();
                let outcome = carry_out(&mut request);
                (Some(work), Some(self.end(request, chain, outcome)))
            }
        };
        let (token, written) = self.driver.pop_used().unwrap().expect("it came back");
        assert_eq!(token, sent.token);
        let back = self.back(sent, written);
        assert_eq!(answer.map(|status| status as u8), back.bytes.last().copied());
        (work, back)
    }

    /// As [`Self::ask`], of one buffer for each direction and a disk that does everything; without looking at the data.
    pub fn simple(&mut self, out: &[u8], room: usize) -> (Option<Work>, Back) {
        self.ask(out, room, &mut Layout::Whole, |_| Ok(()))
    }

    fn runs(&self, addr: u64, len: usize, mut each: impl FnMut(guestmem::MemSlice<'_>, usize)) {
        let mut done = 0;
        while done < len {
            let addr = GuestAddr(addr + done as u64);
            let run = self.memory.run(addr, len - done, &mut RegionHint::default()).unwrap();
            each(run, done);
            done += run.len();
        }
    }

    pub fn read(&self, addr: u64, out: &mut [u8]) {
        self.runs(addr, out.len(), |run, done| _ = run.read(&mut out[done..]));
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.runs(addr, bytes.len(), |run, done| _ = run.write(&bytes[done..]));
    }

    fn fill(&self, addr: u64, len: usize) {
        self.runs(addr, len, |run, _| run.fill(UNTOUCHED));
    }
}

fn region(guest: u64, len: u64) -> Region {
    let mapping = Arc::new(Mapping::anonymous(len as usize).unwrap());
    Region::new(GuestAddr(guest), FrontendAddr(guest), len, mapping).unwrap()
}

/// A request's bytes: header, and data behind it.
pub fn request(number: u32, sector: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    // The field `reserved` is not looked at.
    bytes.extend_from_slice(&[0xA5; 4]);
    bytes.extend_from_slice(&sector.to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// One range of a discard and its like.
pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend_from_slice(&sectors.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes
}

/// A disk in memory, which does what it is asked to in steps of any length.
pub struct Disk(pub Vec<u8>);

impl Disk {
    /// Carries out the request's work, the data in `step` bytes at once.
    pub fn carry_out(&mut self, request: &mut Request, step: usize) -> Outcome {
        match request.work().clone() {
            Work::Read(extent) => self.transfer(request, extent, step, u64::MAX, false),
            Work::Write { extent, .. } => self.transfer(request, extent, step, u64::MAX, true),
            Work::Zero { extents, .. } | Work::SecureErase(extents) => {
                for Extent { offset, len } in extents.as_slice() {
                    self.0[*offset as usize..(offset + len) as usize].fill(0);
                }
                Ok(())
            }
            // A flush, and a discard, which may leave what is there.
            _ => Ok(()),
        }
    }

    /// As [`Self::carry_out`], but after `good` bytes of data the disk fails.
    pub fn fail(&mut self, request: &mut Request, step: usize, good: u64, fault: IoFault) -> Outcome {
        let (extent, is_write) = match request.work().clone() {
            Work::Read(extent) => (extent, false),
            Work::Write { extent, .. } => (extent, true),
            _ => return Err(fault.into()),
        };
        let outcome = self.transfer(request, extent, step, good, is_write);
        let done = outcome.map_or_else(|failure| failure.done, |()| extent.len);
        Err(Failure { fault, done })
    }

    fn transfer(
        &mut self,
        request: &mut Request,
        extent: Extent,
        step: usize,
        good: u64,
        is_write: bool,
    ) -> Outcome {
        let bytes = &mut self.0[extent.offset as usize..extent.end() as usize];
        let good = good.min(extent.len) as usize;
        let (kept, part) = request.data();
        assert_eq!(kept.len(part) as u64, extent.len, "an extent is as long as its data");
        for now in bytes[..good].chunks_mut(step) {
            let (kept, part) = request.data();
            let len = if is_write { kept.read(part, 0, now) } else { kept.write(part, 0, now) };
            assert_eq!(len, now.len());
            request.advance(len);
        }
        let failure = Failure { fault: IoFault::Medium, done: good as u64 };
        if good as u64 == extent.len { Ok(()) } else { Err(failure) }
    }
}
