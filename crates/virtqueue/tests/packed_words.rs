//! What the device writes into a packed ring, word by word.

use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use virtqueue::{Burst, DeviceQueue, DriverQueue, QueueSetup, QueueSize, RingFeatures, RingState};

const DATA: u64 = 0x1_0000;
const WRITE: u16 = 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

fn ring(size: u16) -> (Arc<GuestMemory>, DriverQueue, QueueSetup, DeviceQueue) {
    let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 0x2_0000).unwrap());
    let features = RingFeatures { packed: true, event_idx: true, ..RingFeatures::default() };
    let size = QueueSize::try_from(size).unwrap();
    let (driver, setup) = DriverQueue::setup(&memory, GuestAddr(0), size, features, None).unwrap();
    let device = DeviceQueue::new(&memory, &setup, RingState::default()).unwrap();
    (memory, driver, setup, device)
}

fn read<const LEN: usize>(memory: &GuestMemory, addr: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    memory.slice(GuestAddr(addr), LEN).unwrap().read(&mut bytes);
    bytes
}

fn write(memory: &GuestMemory, addr: u64, bytes: &[u8]) {
    memory.slice(GuestAddr(addr), bytes.len()).unwrap().write(bytes);
}

#[test]
fn a_used_descriptor_has_the_write_flag_when_something_was_written() {
    let (memory, mut driver, _, mut device) = ring(4);
    driver.add(&[], &[(GuestAddr(DATA), 8)], 1).unwrap();
    driver.add(&[(GuestAddr(DATA), 8)], &[], 2).unwrap();
    driver.add(&[], &[(GuestAddr(DATA), 8)], 3).unwrap();
    driver.publish();
    let mut burst = Burst::new();
    assert_eq!(device.pop(&memory, &mut burst, 4), Ok(3));
    for written in [5, 0, 0] {
        let chain = burst.take().unwrap();
        device.complete(&burst, chain, written);
    }
    device.flush();
    let flags = |index: u64| u16::from_le_bytes(read(&memory, 16 * index + 14));
    assert_eq!([0, 1, 2].map(flags), [AVAIL | USED | WRITE, AVAIL | USED, AVAIL | USED]);
    assert_eq!(driver.pop_used(), Ok(Some((1, 5))));
    // Without the flag the length is not looked at.
    write(&memory, 16 + 8, &77u32.to_le_bytes());
    assert_eq!(driver.pop_used(), Ok(Some((2, 0))));
    assert_eq!(driver.pop_used(), Ok(Some((3, 0))));
}

#[test]
fn the_wish_is_stored_when_it_changes_and_only_then() {
    let (memory, mut driver, setup, mut device) = ring(4);
    let wish = || -> [u8; 4] { read(&memory, setup.device.0) };
    device.disable_notify();
    assert_eq!(wish(), [0, 0, 1, 0]);
    // A mark shows whether it is stored over.
    let mark = [9; 4];
    write(&memory, setup.device.0, &mark);
    driver.add(&[(GuestAddr(DATA), 8)], &[], 1).unwrap();
    driver.publish();
    let mut burst = Burst::new();
    assert_eq!(device.pop(&memory, &mut burst, 4), Ok(1));
    device.disable_notify();
    assert_eq!(wish(), mark);
    assert!(!device.enable_notify());
    assert_eq!(wish(), [1, 0x80, 2, 0], "descriptor 1, wrap counter set, by descriptor");
    write(&memory, setup.device.0, &mark);
    assert!(!device.enable_notify());
    assert_eq!(wish(), mark);
    device.disable_notify();
    assert_eq!(wish(), [0, 0, 1, 0]);
}

/// A driver that offers descriptors again before it can have seen them used, for more than 65535 of them.
#[test]
fn a_driver_ahead_of_its_used_descriptors_makes_no_counter_overflow() {
    let (memory, _, _, mut device) = ring(1024);
    let mut burst = Burst::new();
    let laps = if cfg!(miri) { 2 } else { 70 };
    for lap in 0..laps {
        let flags = if lap % 2 == 0 { AVAIL } else { USED };
        for index in 0..1024u16 {
            let addr = 16 * u64::from(index);
            write(&memory, addr, &DATA.to_le_bytes());
            write(&memory, addr + 8, &[8, 0, 0, 0]);
            write(&memory, addr + 12, &index.to_le_bytes());
            write(&memory, addr + 14, &flags.to_le_bytes());
        }
        assert_eq!(device.pop(&memory, &mut burst, 1024), Ok(1024));
        while let Some(chain) = burst.take() {
            device.complete(&burst, chain, 0);
        }
        burst = burst.recycle();
    }
    assert!(device.flush());
}
