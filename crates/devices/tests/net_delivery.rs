//! Frames through real rings: a driver's side in ordinary memory, transmit on one guest, receive on another.

use devices::net::control::{Change, ControlState};
use devices::net::offload::validate;
use devices::net::{
    Accepts, Acknowledged, Delivered, Features, Frame, NetHeader, Offered, Offload, ReceiveRules, Software,
    TransmitRules, receive, transmit,
};
use guestmem::{GuestAddr, GuestMemory};
use proptest::prelude::*;
use std::sync::Arc;
use virtqueue::{
    Burst, DeviceQueue, DriverFault, DriverQueue, Endian, QueueSetup, QueueSize, RingFeatures, RingState,
};

const MEMORY: usize = 8 << 20;
const BUFFERS: u64 = 1 << 20;
const QUEUE: u16 = 256;

/// One guest with one queue. Buffers are laid out one after the other, a byte apart.
struct Guest {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    device: DeviceQueue,
    setup: QueueSetup,
    posted: Vec<Vec<(GuestAddr, u32)>>,
    next: u64,
}

impl Guest {
    fn new(ring: RingFeatures) -> Self {
        Self::with_size(ring, QUEUE)
    }

    fn with_size(ring: RingFeatures, size: u16) -> Self {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), MEMORY).unwrap());
        let size = QueueSize::try_from(size).unwrap();
        let (driver, setup) = DriverQueue::setup(&memory, GuestAddr(4096), size, ring, None).unwrap();
        let start = RingState { avail: 0, avail_wrap: true, used: 0, used_wrap: true };
        let device = DeviceQueue::new(&memory, &setup, start).unwrap();
        Self { memory, driver, device, setup, posted: Vec::new(), next: BUFFERS }
    }

    fn buffers(&mut self, lens: &[u32]) -> Vec<(GuestAddr, u32)> {
        let mut place = |&len: &u32| {
            let at = GuestAddr(self.next);
            self.next += u64::from(len) + 1;
            (at, len)
        };
        lens.iter().map(&mut place).collect()
    }

    /// Makes one receive chain available, of descriptors with these lengths.
    fn post(&mut self, lens: &[u32]) {
        let buffers = self.buffers(lens);
        self.driver.add(&[], &buffers, self.posted.len() as u64).unwrap();
        self.driver.publish();
        self.posted.push(buffers);
    }

    /// Makes one transmit chain available that holds `bytes`, cut as `lens` says, the rest in one piece.
    fn send(&mut self, bytes: &[u8], lens: &[u32]) {
        let mut left = bytes.len() as u32;
        let mut cut: Vec<u32> = Vec::new();
        for &len in lens {
            if len < left {
                cut.push(len);
                left -= len;
            }
        }
        cut.push(left);
        let buffers = self.buffers(&cut);
        let mut at = 0;
        for &(addr, len) in &buffers {
            let len = len as usize;
            self.memory.slice(addr, len).unwrap().write(&bytes[at..at + len]);
            at += len;
        }
        self.driver.add(&buffers, &[], 0).unwrap();
        self.driver.publish();
    }

    /// What came back: the token of each chain and the bytes written into it.
    fn used(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((token, written)) = self.driver.pop_used().unwrap() {
            let mut bytes = Vec::new();
            for &(addr, len) in &self.posted[token as usize] {
                let now = (written as usize - bytes.len()).min(len as usize);
                let mut part = vec![0; now];
                self.memory.slice(addr, now).unwrap().read(&mut part);
                bytes.extend_from_slice(&part);
            }
            assert_eq!(bytes.len(), written as usize);
            all.push((token, bytes));
        }
        all
    }

    fn deliver(&mut self, rules: &ReceiveRules, frames: &[Frame<'_>]) -> Result<Delivered, DriverFault> {
        let memory = Arc::clone(&self.memory);
        let mut burst = Burst::new();
        let done = receive::deliver_burst(
            &mut self.device,
            &memory,
            &mut burst,
            rules,
            &mut Software::new(),
            frames,
        );
        assert!(burst.is_empty());
        self.device.flush();
        done
    }
}

fn acknowledged(features: Features) -> Acknowledged {
    Acknowledged::new(Offered::new(Features::all()), features.bits()).unwrap()
}

fn rules(features: Features) -> ReceiveRules {
    ReceiveRules::new(acknowledged(features), Endian::Little)
}

const MERGEABLE: Features = Features::VERSION_1.union(Features::MRG_RXBUF);

fn rings() -> [RingFeatures; 3] {
    let split = RingFeatures::default();
    [split, RingFeatures { packed: true, ..split }, RingFeatures { in_order: true, event_idx: true, ..split }]
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 13 + 5) as u8).collect()
}

fn plain(len: usize) -> Delivered {
    Delivered { frames: 1, bytes: len as u64, ..Delivered::default() }
}

/// A modern header that says nothing but how many buffers there are.
fn header(num_buffers: u16) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes[10..].copy_from_slice(&num_buffers.to_le_bytes());
    bytes
}

#[test]
fn one_buffer_one_frame() {
    for ring in rings() {
        for features in [Features::VERSION_1, MERGEABLE] {
            let mut guest = Guest::new(ring);
            guest.post(&[1526]);
            guest.post(&[12, 1514]);
            guest.post(&[1; 100]);
            let (a, b, c) = (frame(1514), frame(60), frame(88));
            let frames = [&a, &b, &c].map(|bytes| Frame::private(bytes, Offload::None));
            let done = guest.deliver(&rules(features), &frames).unwrap();
            assert_eq!(done, Delivered { frames: 3, bytes: 1514 + 60 + 88, ..Delivered::default() });
            let expected = [&a, &b, &c].map(|bytes| [header(1), bytes.clone()].concat());
            let used = guest.used();
            assert_eq!(used.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2]);
            assert_eq!(used.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn a_long_frame_fills_several_buffers() {
    for ring in rings() {
        let mut guest = Guest::new(ring);
        guest.post(&[1000]);
        guest.post(&[5, 995]);
        guest.post(&[1; 50]);
        guest.post(&[2000]);
        guest.post(&[2000]);
        let bytes = frame(2500);
        let done = guest.deliver(&rules(MERGEABLE), &[Frame::private(&bytes, Offload::None)]).unwrap();
        assert_eq!(done, plain(2500));
        let used = guest.used();
        assert_eq!(used.iter().map(|(_, b)| b.len()).collect::<Vec<_>>(), [1000, 1000, 50, 462]);
        let whole: Vec<u8> = used.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(whole, [header(4), bytes].concat());
        // The fifth buffer was not lost.
        let bytes = frame(100);
        assert_eq!(
            guest.deliver(&rules(MERGEABLE), &[Frame::private(&bytes, Offload::None)]).unwrap(),
            plain(100)
        );
        assert_eq!(guest.used(), [(4, [header(1), bytes].concat())]);
    }
}

/// Frames of every kind in one burst, whatever way each of them takes: they come in order, and no buffer is lost.
#[test]
fn a_burst_begins_with_whole_frames_and_goes_on_with_merged_ones() {
    let packed_in_order = RingFeatures { packed: true, in_order: true, ..RingFeatures::default() };
    for ring in rings().into_iter().chain([packed_in_order]) {
        let mut guest = Guest::with_size(ring, 16);
        // More than a lap of either ring.
        for round in 0..40 {
            guest.next = BUFFERS;
            guest.posted.clear();
            for index in 0..12 {
                guest.post(if index == 7 { &[50, 50] } else { &[100] });
            }
            let lens = [60, 88, 14, 250, 60, 80, 88, 20, 89, 88];
            let bytes = lens.map(|len| frame(len + round % 2));
            let frames = bytes.each_ref().map(|bytes| Frame::private(bytes, Offload::None));
            let count = 1 + round % frames.len();
            let done = guest.deliver(&rules(MERGEABLE), &frames[..count]).unwrap();
            let needs = |bytes: &Vec<u8>| (bytes.len() + 12).div_ceil(100);
            let expected: Vec<_> = bytes.iter().take(count).collect();
            // Twelve buffers are enough for what is even, and one frame too few for what is odd.
            let fits = expected.iter().scan(0, |used, bytes| {
                *used += needs(bytes);
                (*used <= 12).then_some(())
            });
            let fits = fits.count();
            assert_eq!((done.frames as usize, done.left as usize), (fits, count - fits), "round {round}");
            let whole: Vec<u8> = guest.used().into_iter().flat_map(|(_, bytes)| bytes).collect();
            let wanted: Vec<u8> = expected[..fits]
                .iter()
                .flat_map(|bytes| [header(needs(bytes) as u16), bytes.to_vec()].concat())
                .collect();
            assert_eq!(whole, wanted, "{ring:?} round {round}");
            // What is left in the ring goes to the driver before the next round.
            let rest = [Frame::private(&bytes[2], Offload::None); 12];
            let _ = guest.deliver(&rules(MERGEABLE), &rest).unwrap();
            guest.used();
        }
    }
}

/// Frames that are changed in software come between those that are not.
#[test]
fn frames_keep_their_order_when_one_of_them_is_finished_in_software() {
    for ring in rings() {
        let mut guest = Guest::new(ring);
        (0..5).for_each(|_| guest.post(&[1526]));
        let packet = tcp4(100);
        let asks = Offload::Checksum { start: 34, offset: 16 };
        let frames = [Offload::None, Offload::None, asks, Offload::None]
            .map(|offload| Frame::private(&packet, offload));
        let done = guest.deliver(&rules(Features::VERSION_1), &frames).unwrap();
        assert_eq!(done, Delivered { frames: 4, bytes: 4 * packet.len() as u64, ..Delivered::default() });
        let used = guest.used();
        assert_eq!(used.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let changed: Vec<bool> = used.iter().map(|(_, bytes)| bytes[12..] != packet[..]).collect();
        assert_eq!(changed, [false, false, true, false]);
    }
}

/// A fault behind buffers that were filled: their frames are delivered, the rest is left, and the next burst is told.
#[test]
fn a_fault_behind_filled_buffers_leaves_the_rest() {
    for ring in rings() {
        let mut guest = Guest::new(ring);
        (0..2).for_each(|_| guest.post(&[100]));
        guest.driver.add(&[], &[(GuestAddr(1 << 40), 100)], 2).unwrap();
        guest.driver.publish();
        let bytes = frame(60);
        let frames = [Frame::private(&bytes, Offload::None); 4];
        let done = guest.deliver(&rules(MERGEABLE), &frames).unwrap();
        let expected = Delivered { frames: 2, bytes: 120, no_buffers: 2, left: 2, ..Delivered::default() };
        assert_eq!((done, guest.device.fault()), (expected, Some(DriverFault::AddressRange)));
        assert_eq!(guest.used().len(), 2);
        assert_eq!(guest.deliver(&rules(MERGEABLE), &frames), Err(DriverFault::AddressRange));
    }
}

#[test]
fn more_buffers_than_are_popped_at_once() {
    let mut guest = Guest::new(RingFeatures::default());
    (0..200).for_each(|_| guest.post(&[64]));
    let bytes = frame(200 * 64 - 12);
    let done = guest.deliver(&rules(MERGEABLE), &[Frame::private(&bytes, Offload::None)]).unwrap();
    assert_eq!(done, plain(bytes.len()));
    let whole: Vec<u8> = guest.used().into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!(whole, [header(200), bytes].concat());
}

#[test]
fn a_frame_does_not_walk_thousands_of_tiny_buffers() {
    let mut guest = Guest::with_size(RingFeatures::default(), 4096);
    (0..2000).for_each(|_| guest.post(&[12]));
    let (long, short) = (frame(12 * 1025), frame(12 * 1023));
    let frames = [&long, &short].map(|bytes| Frame::private(bytes, Offload::None));
    let done = guest.deliver(&rules(MERGEABLE), &frames).unwrap();
    assert_eq!(done, Delivered { frames: 1, bytes: short.len() as u64, too_long: 1, ..Delivered::default() });
    let whole: Vec<u8> = guest.used().into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!(whole, [header(1024), short].concat());
}

#[test]
fn without_merging_a_long_frame_is_dropped_and_its_buffer_stays() {
    for ring in rings() {
        let mut guest = Guest::new(ring);
        guest.post(&[100]);
        let (long, short) = (frame(89), frame(88));
        let frames = [&long, &short].map(|bytes| Frame::private(bytes, Offload::None));
        let done = guest.deliver(&rules(Features::VERSION_1), &frames[..1]).unwrap();
        assert_eq!(done, Delivered { too_long: 1, ..Delivered::default() });
        assert_eq!(guest.used(), []);
        let done = guest.deliver(&rules(Features::VERSION_1), &frames).unwrap();
        assert_eq!(done, Delivered { frames: 1, bytes: 88, too_long: 1, ..Delivered::default() });
        assert_eq!(guest.used(), [(0, [header(1), short].concat())]);
    }
}

#[test]
fn too_few_buffers_are_all_given_back() {
    for ring in rings() {
        let mut guest = Guest::new(ring);
        (0..3).for_each(|_| guest.post(&[100]));
        let bytes = frame(300);
        let frames = [Frame::private(&bytes, Offload::None); 2];
        let done = guest.deliver(&rules(MERGEABLE), &frames).unwrap();
        assert_eq!(done, Delivered { no_buffers: 2, left: 2, short: true, ..Delivered::default() });
        guest.post(&[100]);
        assert_eq!(guest.deliver(&rules(MERGEABLE), &frames[..1]).unwrap(), plain(300));
        let used = guest.used();
        assert_eq!(used.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let whole: Vec<u8> = used.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(whole, [header(4), bytes].concat());
    }
}

#[test]
fn a_buffer_without_room_for_a_header_is_no_buffer() {
    let mut guest = Guest::new(RingFeatures::default());
    guest.post(&[11]);
    guest.post(&[2000]);
    let bytes = frame(60);
    let done = guest.deliver(&rules(MERGEABLE), &[Frame::private(&bytes, Offload::None)]).unwrap();
    assert_eq!(done, Delivered { too_long: 1, ..Delivered::default() });
}

#[test]
fn a_faulty_chain_is_reported_after_those_in_front_of_it() {
    let mut guest = Guest::new(RingFeatures::default());
    guest.post(&[100]);
    guest.driver.add(&[], &[(GuestAddr(MEMORY as u64), 10)], 1).unwrap();
    guest.driver.publish();
    let bytes = frame(60);
    let frames = [Frame::private(&bytes, Offload::None); 2];
    let done = guest.deliver(&rules(MERGEABLE), &frames).unwrap();
    assert_eq!(done, Delivered { frames: 1, bytes: 60, no_buffers: 1, left: 1, ..Delivered::default() });
    assert_eq!(guest.deliver(&rules(MERGEABLE), &frames), Err(DriverFault::AddressRange));
}

#[test]
fn a_legacy_big_endian_driver_gets_ten_bytes_in_its_order() {
    let ring = RingFeatures { endian: Endian::Big, ..RingFeatures::default() };
    let mut guest = Guest::new(ring);
    guest.post(&[10, 1514]);
    let rules = ReceiveRules::new(acknowledged(Features::GUEST_CSUM), Endian::Big);
    let bytes = frame(200);
    let offload = Offload::Checksum { start: 34, offset: 16 };
    assert_eq!(guest.deliver(&rules, &[Frame::private(&bytes, offload)]).unwrap(), plain(200));
    let expected = [&[1, 0, 0, 0, 0, 0, 0, 34, 0, 16][..], &bytes].concat();
    assert_eq!(guest.used(), [(0, expected)]);
}

/// TCP over IPv4 with `payload` bytes behind 54 bytes of headers.
fn tcp4(payload: usize) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let mut tcp = [0; 20];
    tcp[12] = 0x50;
    bytes.extend_from_slice(&tcp);
    bytes.extend_from_slice(&frame(payload));
    bytes
}

#[test]
fn verified_checksums_are_passed_on_to_who_asked_for_them() {
    for (features, flags) in [(Features::GUEST_CSUM, 2), (Features::empty(), 0)] {
        let mut guest = Guest::new(RingFeatures::default());
        guest.post(&[2000]);
        let bytes = tcp4(100);
        let said = NetHeader { flags: 2, ..NetHeader::default() };
        let offload = validate(&said, &bytes, 154, Accepts::all()).unwrap();
        let rules = rules(Features::VERSION_1 | features);
        assert_eq!(guest.deliver(&rules, &[Frame::private(&bytes, offload)]).unwrap(), plain(154));
        assert_eq!(guest.used()[0].1[0], flags);
    }
}

#[test]
fn what_was_not_negotiated_is_done_in_software() {
    let bytes = tcp4(5000);
    let said = NetHeader {
        flags: 1,
        gso_type: 1,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
        ..NetHeader::default()
    };
    let offload = validate(&said, &bytes, bytes.len() as u32, Accepts::all()).unwrap();
    let frames = [Frame::private(&bytes, offload)];
    let csum = Features::GUEST_CSUM;
    for (features, parts) in [(Features::empty(), 5), (csum, 5), (csum | Features::GUEST_TSO4, 1)] {
        let mut guest = Guest::new(RingFeatures::default());
        (0..8).for_each(|_| guest.post(&[6000]));
        let done = guest.deliver(&rules(MERGEABLE | features), &frames).unwrap();
        assert_eq!((done.frames, done.bytes), (parts, 5000 + u64::from(parts) * 54));
        let used = guest.used();
        let payload: Vec<u8> = used.iter().flat_map(|(_, bytes)| bytes[12 + 54..].to_vec()).collect();
        assert_eq!(payload, bytes[54..]);
        let first = &used[0].1;
        assert_eq!(first[0], u8::from(features.contains(csum)));
        assert_eq!(first[1], u8::from(parts == 1));
    }
    // Out of buffers in mid-frame: what fits was delivered, nothing is lost.
    let mut guest = Guest::new(RingFeatures::default());
    (0..3).for_each(|_| guest.post(&[6000]));
    let done = guest.deliver(&rules(MERGEABLE), &frames).unwrap();
    assert_eq!((done.frames, done.no_buffers, done.left), (3, 1, 0));
}

/// From one guest's transmit queue to another's receive queue, over all that can differ.
fn forward(
    (sender, receiver): (RingFeatures, RingFeatures),
    features: Features,
    frames: &[(Vec<u8>, Vec<u32>)],
    room: &[u32],
) {
    let (mut from, mut to) = (Guest::new(sender), Guest::new(receiver));
    let transmit_rules = TransmitRules::new(acknowledged(features), Endian::Little);
    let receive_rules = rules(features);
    let header_len = transmit_rules.format.len();
    for _ in 0..100 {
        to.post(room);
    }
    for (bytes, cut) in frames {
        from.send(&[&vec![0; header_len][..], bytes].concat(), cut);
    }
    let memory = Arc::clone(&from.memory);
    let mut burst = Burst::new();
    assert_eq!(from.device.pop(&memory, &mut burst, 64).unwrap(), frames.len());
    let mut heads = vec![[0; 256]; frames.len()];
    let opened: Vec<Frame<'_>> = burst
        .chains()
        .iter()
        .zip(&mut heads)
        .map(|(chain, head)| transmit::open(&transmit_rules, &burst, chain, head).unwrap())
        .collect();
    let done = to.deliver(&receive_rules, &opened).unwrap();
    let bytes: usize = frames.iter().map(|(bytes, _)| bytes.len()).sum();
    assert_eq!((done.frames as usize, done.bytes), (frames.len(), bytes as u64));
    while let Some(chain) = burst.take() {
        from.device.complete(&burst, chain, 0);
    }
    from.device.flush();
    let mut used = to.used().into_iter();
    for (bytes, _) in frames {
        let first = used.next().unwrap().1;
        let count = match header_len {
            12 => u16::from_le_bytes([first[10], first[11]]),
            _ => 1,
        };
        let rest: Vec<u8> = used.by_ref().take(usize::from(count) - 1).flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(&[&first[header_len..], &rest].concat(), bytes);
    }
    assert!(used.next().is_none());
    let mut completed = 0;
    while from.driver.pop_used().unwrap().is_some() {
        completed += 1;
    }
    assert_eq!(completed, frames.len());
}

#[test]
fn a_receive_queue_wraps_around() {
    for ring in rings() {
        let mut guest = Guest::new(ring);
        for round in 0..2000 {
            guest.next = BUFFERS + round % 64 * 4096;
            guest.posted.clear();
            guest.post(&[300]);
            guest.post(&[300]);
            let bytes = frame(400 + round as usize % 100);
            let done = guest.deliver(&rules(MERGEABLE), &[Frame::private(&bytes, Offload::None)]).unwrap();
            assert_eq!(done, plain(bytes.len()));
            let whole: Vec<u8> = guest.used().into_iter().flat_map(|(_, bytes)| bytes).collect();
            assert_eq!(whole, [header(2), bytes].concat());
        }
        assert_eq!(guest.setup.size.get(), QUEUE);
    }
}

#[test]
fn a_control_request_through_its_queue() {
    let mut guest = Guest::new(RingFeatures::default());
    let features = Features::VERSION_1 | Features::CTRL_VQ | Features::MQ;
    let mut state = ControlState::new(acknowledged(features), Endian::Little, [2; 6], 8);
    let memory = Arc::clone(&guest.memory);
    for (request, room, written, change) in [
        (vec![4, 0, 3, 0], 1, 1, Some(Change::QueuePairs(3))),
        (vec![4, 0, 9, 0], 1, 1, None),
        (vec![4, 0, 2, 0], 0, 0, None),
        (vec![0; 9000], 2, 1, None),
    ] {
        let readable = guest.buffers(&vec![1; request.len().min(20)]);
        for (&(addr, _), byte) in readable.iter().zip(&request) {
            guest.memory.slice(addr, 1).unwrap().write(&[*byte]);
        }
        let mut readable = readable;
        if request.len() > 20 {
            readable.push((GuestAddr(BUFFERS), request.len() as u32));
        }
        let answer: Vec<_> = guest.buffers(&[room]).into_iter().filter(|(_, len)| *len != 0).collect();
        guest.driver.add(&readable, &answer, 0).unwrap();
        guest.driver.publish();
        let mut burst = Burst::new();
        assert_eq!(guest.device.pop(&memory, &mut burst, 1).unwrap(), 1);
        let chain = burst.take().unwrap();
        assert_eq!(state.handle_chain(&burst, &chain, &mut |_| true), (written, change));
        guest.device.complete(&burst, chain, written);
        guest.device.flush();
        assert_eq!(guest.driver.pop_used().unwrap(), Some((0, written)));
        if let Some(&(addr, _)) = answer.first() {
            let mut ack = [9];
            guest.memory.slice(addr, 1).unwrap().read(&mut ack);
            assert_eq!(ack[0], u8::from(change.is_none()));
        }
    }
    assert_eq!(state.queue_pairs(), 3);
}

fn ring() -> impl Strategy<Value = RingFeatures> {
    any::<[bool; 3]>().prop_map(|[packed, event_idx, in_order]| RingFeatures {
        packed,
        event_idx,
        in_order,
        ..RingFeatures::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_arrives_in_order(
        rings in (ring(), ring()),
        frames in prop::collection::vec((14usize..3000, prop::collection::vec(1u32..40, 0..6)), 1..8),
        room in prop::collection::vec(1u32..600, 1..3),
        ones in any::<bool>(),
    ) {
        let frames: Vec<_> = frames.into_iter().map(|(len, cut)| (frame(len), cut)).collect();
        // Mergeable buffers of any size that holds a header; others hold the longest frame.
        let mut small = room.clone();
        small[0] = small[0].max(12);
        let few: u32 = frames.iter().map(|(bytes, _)| (bytes.len() as u32 + 12).div_ceil(small.iter().sum())).sum();
        if few <= 100 && small.len() * 100 <= usize::from(QUEUE) {
            forward(rings, MERGEABLE, &frames, &small);
        }
        let large = if ones { vec![1, 1, 3100] } else { vec![3100] };
        if large.len() * 100 <= usize::from(QUEUE) {
            forward(rings, Features::VERSION_1, &frames, &large);
            forward(rings, Features::empty(), &frames, &large);
        }
    }
}
