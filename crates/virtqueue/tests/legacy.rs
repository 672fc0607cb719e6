//! The 0.9 layout in either byte order, checked byte by byte, and dirty logging.

use guestmem::{DirtyLog, FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use std::sync::Arc;
use virtqueue::{
    Burst, DeviceQueue, DriverQueue, Endian, QueueSetup, QueueSize, RingFeatures, RingLog, RingState,
};

const BASE: u64 = 0x10_0000;
const PAGE: u32 = 4096;

fn legacy(endian: Endian, event_idx: bool) -> (Arc<GuestMemory>, QueueSetup) {
    let memory = Arc::new(GuestMemory::anonymous(GuestAddr(BASE), 0x10_000).unwrap());
    let features = RingFeatures { endian, event_idx, ..RingFeatures::default() };
    let size = QueueSize::try_from(256).unwrap();
    let setup = QueueSetup::contiguous_legacy(size, GuestAddr(BASE), PAGE, features).unwrap();
    (memory, setup)
}

fn bytes<const LEN: usize>(memory: &GuestMemory, addr: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    memory.slice(GuestAddr(addr), LEN).unwrap().read(&mut bytes);
    bytes
}

/// A chain written by hand in big endian at the places where a 0.9 guest puts it, and the answer it reads.
#[test]
fn a_big_endian_guest_reads_its_own_byte_order() {
    let (memory, setup) = legacy(Endian::Big, false);
    let write = |addr: u64, bytes: &[u8]| {
        memory.slice(GuestAddr(addr), bytes.len()).unwrap().write(bytes);
    };
    // Descriptor 5: address 0x10_8000, 16 bytes, flags NEXT, next 6. Descriptor 6: 0x10_9000, 32, WRITE.
    let head = [0, 0, 0, 0, 0, 0x10, 0x80, 0, 0, 0, 0, 16, 0, 1, 0, 6];
    let answer = [0, 0, 0, 0, 0, 0x10, 0x90, 0, 0, 0, 0, 32, 0, 2, 0, 0];
    write(BASE + 5 * 16, &head);
    write(BASE + 6 * 16, &answer);
    // The available ring lies behind 256 descriptors: no flags, index 1, entry 5.
    write(BASE + 4096, &[0, 0, 0, 1, 0, 5]);
    let mut queue = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
    let mut burst = Burst::new();
    assert_eq!(queue.pop(&memory, &mut burst, 4), Ok(1));
    let chain = burst.take().unwrap();
    assert_eq!((chain.id(), chain.readable_len(), chain.writable_len()), (5, 16, 32));
    assert_eq!(memory.guest_of_slice(&burst.readable(&chain)[0]), Some(GuestAddr(0x10_8000)));
    assert_eq!(memory.guest_of_slice(&burst.writable(&chain)[0]), Some(GuestAddr(0x10_9000)));
    queue.disable_notify();
    queue.complete(&burst, chain, 0x11);
    assert!(queue.flush());
    // The used ring is on the next page: NO_NOTIFY, index 1, id 5, 17 bytes.
    assert_eq!(bytes(&memory, BASE + 8192), [0, 1, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0x11]);
}

#[test]
fn both_orders_and_both_suppressions_go_round() {
    for endian in [Endian::Little, Endian::Big] {
        for event_idx in [false, true] {
            let (memory, setup) = legacy(endian, event_idx);
            let mut driver = DriverQueue::attach(&memory, &setup, None).unwrap();
            let mut queue = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
            for token in 0..if cfg!(miri) { 20 } else { 70_000 } {
                driver.add(&[(GuestAddr(BASE + 0x8000), 4)], &[], token).unwrap();
                // Asked for: told. Not asked for: not told (EVENT_IDX suppresses once it is passed).
                let wanted = token % 2 == 0;
                if wanted {
                    assert!(!queue.enable_notify());
                    assert!(!driver.enable_call());
                } else {
                    queue.disable_notify();
                    driver.disable_call();
                }
                assert_eq!(driver.publish(), wanted, "token {token}");
                let mut burst = Burst::new();
                assert_eq!(queue.pop(&memory, &mut burst, 4), Ok(1));
                let chain = burst.take().unwrap();
                queue.complete(&burst, chain, 0);
                assert_eq!(queue.flush(), wanted, "token {token}");
                assert!(!queue.flush(), "nothing new, no call");
                assert_eq!(driver.pop_used(), Ok(Some((token, 0))));
            }
        }
    }
}

#[test]
fn every_write_is_logged() {
    for packed in [false, true] {
        // One page each for descriptors, driver area and device area, and for buffers.
        let mapping = Arc::new(Mapping::anonymous(0x8000).unwrap());
        let region = Region::new(GuestAddr(0), FrontendAddr(0), 0x8000, mapping).unwrap();
        let memory = Arc::new(GuestMemory::new(vec![region]).unwrap());
        let log = DirtyLog::new(Arc::new(Mapping::anonymous(64).unwrap()));
        let features = RingFeatures { packed, event_idx: true, ..RingFeatures::default() };
        let mut setup = QueueSetup {
            size: QueueSize::try_from(8).unwrap(),
            desc: GuestAddr(0),
            driver: GuestAddr(0x1000),
            device: GuestAddr(0x2000),
            features,
            log: None,
            in_flight: None,
        };
        let mut driver = DriverQueue::attach(&memory, &setup, None).unwrap();
        // The used ring is logged elsewhere, as a front-end may ask.
        setup.log = Some(RingLog { log: log.clone(), used_ring: Some(GuestAddr(0x7000)) });
        let mut queue = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
        driver.add(&[(GuestAddr(0x3000), 8)], &[(GuestAddr(0x5ffc), 8)], 1).unwrap();
        driver.publish();
        let mut burst = Burst::new();
        assert_eq!(queue.pop(&memory, &mut burst, 8), Ok(1));
        let pages = |log: &DirtyLog| -> Vec<u64> {
            (0..8).filter(|page| log.is_marked(GuestAddr(page << 12))).collect()
        };
        assert_eq!(pages(&log), []);
        let chain = burst.take().unwrap();
        queue.complete(&burst, chain, 8);
        assert_eq!(pages(&log), [5, 6], "the writable buffer");
        queue.flush();
        assert_eq!(pages(&log), if packed { vec![0, 5, 6] } else { vec![5, 6, 7] }, "the used entry");
        assert!(!queue.enable_notify());
        assert_eq!(pages(&log), if packed { vec![0, 2, 5, 6] } else { vec![5, 6, 7] }, "the wish");
        // Of a buffer only what was written.
        driver.add(&[], &[(GuestAddr(0x3ffc), 8)], 2).unwrap();
        driver.publish();
        assert_eq!(queue.pop(&memory, &mut burst, 8), Ok(1));
        let chain = burst.take().unwrap();
        queue.complete(&burst, chain, 4);
        assert!(log.is_marked(GuestAddr(0x3000)) && !log.is_marked(GuestAddr(0x4000)));
        queue.set_log(None);
        driver.add(&[], &[(GuestAddr(0x4000), 8)], 3).unwrap();
        driver.publish();
        assert_eq!(queue.pop(&memory, &mut burst, 8), Ok(1));
        let chain = burst.take().unwrap();
        queue.complete(&burst, chain, 8);
        queue.flush();
        assert!(!log.is_marked(GuestAddr(0x4000)), "the log has ended");
    }
}
