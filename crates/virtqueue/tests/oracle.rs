//! Our device side against rust-vmm's `virtio-queue`, on the same bytes of the same memory.
//!
//! Random descriptor tables, many of them broken. The peer does not validate: it yields descriptors until
//! something stops it. So the obvious rules are applied to what it yields, and the verdicts must agree.
#![cfg(not(miri))]

mod rig;

use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, MemSlice, Region};
use rig::Random;
use std::fs::File;
use std::sync::Arc;
use virtio_queue::{Queue, QueueT};
use virtqueue::{
    Burst, DeviceQueue, DriverFault, DriverQueue, QueueSetup, QueueSize, RingFeatures, RingState,
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 16;
/// Two regions without a gap, and one apart.
const REGIONS: [(u64, u64); 3] = [(0, 0x8000), (0x8000, 0x3000), (0x2_0000, 0x1000)];
const TABLES: u64 = 0x2000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A buffer: guest address, bytes, whether the device writes it.
type Buffer = (u64, u32, bool);

struct Both {
    ours: Arc<GuestMemory>,
    peers: GuestMemoryMmap,
    setup: QueueSetup,
}

impl Both {
    fn new() -> Self {
        let file = File::from(rustix::fs::memfd_create("oracle", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(REGIONS.iter().map(|(_, len)| len).sum()).unwrap();
        let (mut regions, mut ranges, mut offset) = (Vec::new(), Vec::new(), 0);
        for (start, len) in REGIONS {
            let mapping = Arc::new(Mapping::file(&file, offset, len).unwrap());
            regions.push(Region::new(GuestAddr(start), FrontendAddr(start), len, mapping).unwrap());
            let place = FileOffset::new(file.try_clone().unwrap(), offset);
            ranges.push((GuestAddress(start), len as usize, Some(place)));
            offset += len;
        }
        let ours = Arc::new(GuestMemory::new(regions).unwrap());
        let features = RingFeatures { indirect: true, ..RingFeatures::default() };
        let size = QueueSize::try_from(SIZE).unwrap();
        let (_, setup) = DriverQueue::setup(&ours, GuestAddr(0), size, features, None).unwrap();
        Self { ours, peers: GuestMemoryMmap::from_ranges_with_files(ranges).unwrap(), setup }
    }

    fn write(&self, addr: u64, bytes: &[u8]) {
        self.ours.slice(GuestAddr(addr), bytes.len()).unwrap().write(bytes);
    }

    /// A random descriptor at `at`: usually sensible, sometimes not. `links` is the table's length.
    fn descriptor(&self, at: u64, links: u16, in_table: bool, random: &mut Random) {
        let (start, len) = REGIONS[random.below(3)];
        let addr = match random.below(40) {
            0 => random.next(),
            1 => u64::MAX - random.next() % 64,
            _ => start + random.next() % len,
        };
        let mut len = match random.below(40) {
            0 => 0,
            1 => random.next() as u32,
            _ => 1 + random.below(600) as u32,
        };
        let mut flags = if random.below(2) == 0 { NEXT } else { 0 };
        flags |= if random.below(3) == 0 { WRITE } else { 0 };
        let mut addr = addr;
        if random.below(if in_table { 60 } else { 8 }) == 0 {
            flags = INDIRECT | if random.below(12) == 0 { NEXT } else { 0 };
            addr = TABLES + 16 * random.below(200) as u64;
            len = 16 * random.below(10) as u32 + if random.below(12) == 0 { 3 } else { 0 };
        }
        let beyond = usize::from(random.below(8) == 0);
        let next = random.below(usize::from(links) + beyond) as u16;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.write(at, &bytes);
    }

    fn randomise(&self, random: &mut Random) -> u16 {
        for index in 0..u64::from(SIZE) {
            self.descriptor(self.setup.desc.0 + 16 * index, SIZE, false, random);
        }
        for index in 0..210 {
            self.descriptor(TABLES + 16 * index, 8, true, random);
        }
        let head = random.below(usize::from(SIZE)) as u16;
        self.write(self.setup.driver.0 + 2, &1u16.to_le_bytes());
        self.write(self.setup.driver.0 + 4, &head.to_le_bytes());
        head
    }

    /// What our side says: the chain's buffers in pieces, or the fault.
    fn ours(&self) -> Result<Vec<Buffer>, DriverFault> {
        let mut queue = DeviceQueue::new(&self.ours, &self.setup, RingState::default()).unwrap();
        let mut burst = Burst::new();
        assert_eq!(queue.pop(&self.ours, &mut burst, 8)?, 1);
        let chain = burst.take().unwrap();
        let piece = |write: bool| {
            move |run: &MemSlice<'_>| (self.ours.guest_of_slice(run).unwrap().0, run.len() as u32, write)
        };
        let readable = burst.readable(&chain).iter().map(piece(false));
        Ok(readable.chain(burst.writable(&chain).iter().map(piece(true))).collect())
    }

    /// The buffer that is filled the short way, if the chain is of that kind.
    fn filled(&self) -> Option<Buffer> {
        let mut queue = DeviceQueue::new(&self.ours, &self.setup, RingState::default()).unwrap();
        let mut handed = None;
        let filled = queue.fill(&self.ours, 8, |buffer| {
            handed = Some((self.ours.guest_of_slice(&buffer).unwrap().0, buffer.len() as u32, true));
            Some(0)
        });
        assert_eq!(filled, usize::from(handed.is_some()));
        handed
    }

    /// What the peer yields: buffers, and whether the last one ends the chain.
    fn peers(&self) -> (Vec<Buffer>, bool) {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        queue.try_set_desc_table_address(GuestAddress(self.setup.desc.0)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.setup.driver.0)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.setup.device.0)).unwrap();
        queue.set_ready(true);
        let chain = queue.pop_descriptor_chain(&self.peers).unwrap();
        let mut ended = false;
        let buffers = chain.map(|descriptor| {
            ended = !descriptor.has_next();
            (descriptor.addr().0, descriptor.len(), descriptor.is_write_only())
        });
        let buffers = buffers.collect();
        (buffers, ended)
    }

    /// A buffer cut at the regions; `None` if it leaves the memory.
    fn cut(&self, (addr, len, write): Buffer) -> Option<Vec<Buffer>> {
        let (mut at, mut left, mut pieces) = (addr, u64::from(len), Vec::new());
        while left > 0 {
            let (start, region) =
                REGIONS.into_iter().find(|&(start, len)| at >= start && at - start < len)?;
            let now = left.min(start + region - at);
            pieces.push((at, now as u32, write));
            (at, left) = (at + now, left - now);
        }
        Some(pieces)
    }

    /// The rules, applied to what the peer yielded.
    fn verdict(&self, (buffers, ended): (Vec<Buffer>, bool)) -> Option<Vec<Buffer>> {
        let no_empty = buffers.iter().all(|&(_, len, _)| len > 0);
        let ordered = buffers.is_sorted_by_key(|&(_, _, write)| write);
        if !ended || !no_empty || !ordered {
            return None;
        }
        let cut: Option<Vec<_>> = buffers.into_iter().map(|buffer| self.cut(buffer)).collect();
        cut.map(|pieces| pieces.concat())
    }
}

#[test]
fn chains_are_what_the_peer_sees() {
    let both = Both::new();
    let mut random = Random::new(2026);
    let (mut good, mut bad, mut filled) = (0, 0, 0);
    for case in 0..200_000 {
        both.randomise(&mut random);
        let (ours, peers) = (both.ours(), both.verdict(both.peers()));
        if let Some(buffer) = both.filled() {
            assert_eq!(peers.as_deref(), Some(&[buffer][..]), "case {case}");
            filled += 1;
        }
        match (ours, peers) {
            (Ok(ours), Some(peers)) => {
                assert_eq!(ours, peers, "case {case}");
                good += 1;
            }
            (Err(_), None) => bad += 1,
            // The peer follows an indirect descriptor that has a next one; the rules forbid it.
            (Err(DriverFault::IndirectWithNext), Some(_)) => bad += 1,
            (ours, peers) => panic!("case {case}: ours {ours:?}, the peer's {peers:?}"),
        }
    }
    assert!(good > 20_000 && bad > 20_000 && filled > 5_000, "{good} good, {bad} bad, {filled} filled");
}

/// Used entries and indexes land where the peer's own device side puts them.
#[test]
fn used_rings_are_equal_to_the_last_byte() {
    let (ours, peers) = (Both::new(), Both::new());
    let mut queue = DeviceQueue::new(&ours.ours, &ours.setup, RingState::default()).unwrap();
    let mut peer = Queue::new(SIZE).unwrap();
    peer.set_size(SIZE);
    peer.try_set_desc_table_address(GuestAddress(peers.setup.desc.0)).unwrap();
    peer.try_set_avail_ring_address(GuestAddress(peers.setup.driver.0)).unwrap();
    peer.try_set_used_ring_address(GuestAddress(peers.setup.device.0)).unwrap();
    peer.set_ready(true);
    let drivers = [&ours, &peers].map(|both| DriverQueue::attach(&both.ours, &both.setup, None).unwrap());
    let [mut our_driver, mut peer_driver] = drivers;
    let mut random = Random::new(7);
    for token in 0..100_000 {
        let answer = [(GuestAddr(0x9000), 1 + random.below(500) as u32)];
        our_driver.add(&[], &answer, token).unwrap();
        peer_driver.add(&[], &answer, token).unwrap();
        our_driver.publish();
        peer_driver.publish();
        let mut burst = Burst::new();
        assert_eq!(queue.pop(&ours.ours, &mut burst, 1), Ok(1));
        let chain = burst.take().unwrap();
        let head = peer.pop_descriptor_chain(&peers.peers).unwrap().head_index();
        assert_eq!(chain.id(), head);
        let written = random.below(answer[0].1 as usize + 1) as u32;
        queue.complete(&burst, chain, written);
        queue.flush();
        peer.add_used(&peers.peers, head, written).unwrap();
        let used = [&ours, &peers].map(|both| {
            let mut bytes = [0; 4 + 8 * SIZE as usize];
            both.ours.slice(both.setup.device, bytes.len()).unwrap().read(&mut bytes);
            bytes
        });
        assert_eq!(used[0], used[1]);
        assert_eq!(our_driver.pop_used(), Ok(Some((token, written))));
        assert_eq!(peer_driver.pop_used(), Ok(Some((token, written))));
    }
}
