//! The legacy header, alone and on a transitional function.

use crate::rig::common::*;
use crate::rig::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, Rig, net};
use transport::pci::features::*;
use transport::pci::{Cause, Effect, Interface, Line, Space};
use virtqueue::Endian;

const BAR: Space = Space::Bar(0);
const GUEST_FEATURES: u64 = 4;
const QUEUE_PFN: u64 = 8;
const QUEUE_NUM: u64 = 12;
const QUEUE_SEL: u64 = 14;
const QUEUE_NOTIFY: u64 = 16;
const STATUS: u64 = 18;
const ISR: u64 = 19;

fn legacy() -> Rig {
    Rig::new(net(Interface::Legacy))
}

fn start(rig: &mut Rig, index: u32, pfn: u32) {
    rig.write(BAR, QUEUE_SEL, 2, index);
    rig.write(BAR, QUEUE_PFN, 4, pfn);
}

#[test]
fn bring_up() {
    for interface in [Interface::Legacy, Interface::Transitional] {
        let mut rig = Rig::new(net(interface));
        rig.write(BAR, STATUS, 1, 0);
        assert_eq!(rig.drain(), ["reset"]);
        rig.write(BAR, STATUS, 1, ACKNOWLEDGE);
        rig.write(BAR, STATUS, 1, ACKNOWLEDGE | DRIVER);
        assert_eq!(rig.read(BAR, 0, 4), 0x2000_0021, "bits 0 to 31");
        rig.write(BAR, GUEST_FEATURES, 4, 0x2000_0003);
        assert_eq!(rig.read(BAR, GUEST_FEATURES, 4), 0x2000_0001, "offered ones only");
        rig.write(BAR, QUEUE_SEL, 2, 0);
        assert_eq!((rig.read(BAR, QUEUE_NUM, 2), rig.read(BAR, QUEUE_PFN, 4)), (256, 0));
        start(&mut rig, 0, 0x100);
        assert_eq!(rig.read(BAR, QUEUE_PFN, 4), 0x100);
        start(&mut rig, 2, 0x200);
        assert!(rig.drain().is_empty(), "features may still come");
        rig.write(BAR, STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
        // 4096 bytes of descriptors, the available ring behind, the used ring on a page of its own.
        let rings = [
            "start 0: 256 0x100000 0x101000 0x102000 legacy",
            "start 2: 64 0x200000 0x200400 0x201000 legacy",
        ];
        assert_eq!(rig.drain(), ["features 0x20000001", rings[0], rings[1], "driver ok"]);
        assert_eq!(rig.read(BAR, STATUS, 1), 7);
        rig.write(BAR, QUEUE_NOTIFY, 2, 2);
        rig.write(BAR, QUEUE_NOTIFY, 2, 1);
        assert_eq!(rig.drain(), ["notify 2"]);
        start(&mut rig, 1, 0x300);
        assert_eq!(rig.drain(), ["start 1: 512 0x300000 0x302000 0x303000 legacy"], "at once");
        start(&mut rig, 9, 0x300);
        assert_eq!((rig.read(BAR, QUEUE_NUM, 2), rig.read(BAR, QUEUE_PFN, 4)), (0, 0));
        assert!(rig.drain().is_empty());
    }
}

#[test]
fn features_before_or_after_the_queues() {
    let mut rig = legacy();
    rig.write(BAR, GUEST_FEATURES, 4, 1);
    start(&mut rig, 0, 1);
    rig.write(BAR, GUEST_FEATURES, 4, 0x21);
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain()[0], "features 0x21");
    rig.write(BAR, GUEST_FEATURES, 4, 1);
    assert_eq!(rig.read(BAR, GUEST_FEATURES, 4), 0x21, "fixed");
    // A driver without queues.
    let mut rig = legacy();
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain(), ["features 0x0", "driver ok"]);
}

#[test]
fn a_doorbell_before_the_driver_is_ready() {
    let mut rig = legacy();
    rig.write(BAR, GUEST_FEATURES, 4, 1);
    rig.write(BAR, QUEUE_NOTIFY, 2, 0);
    assert!(rig.drain().is_empty(), "of no queue");
    start(&mut rig, 0, 1);
    start(&mut rig, 1, 0x10);
    rig.write(BAR, QUEUE_NOTIFY, 2, 1);
    rig.write(BAR, GUEST_FEATURES, 4, 0x21);
    let rings = ["start 0: 256 0x1000 0x2000 0x3000 legacy", "start 1: 512 0x10000 0x12000 0x13000 legacy"];
    assert_eq!(rig.drain(), ["features 0x1", rings[0], rings[1], "notify 1"]);
    assert_eq!(rig.function.interrupt(Cause::Queue(1)), Some(Line::Intx));
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain(), ["driver ok"]);

    // A queue that comes while the host is asked about the features.
    let mut rig = legacy();
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.take(), "features 0x0");
    start(&mut rig, 0, 1);
    rig.function.finish(true);
    assert_eq!(rig.drain(), ["driver ok", rings[0]]);
}

#[test]
fn refused_features_leave_the_device_unusable() {
    let mut rig = legacy();
    rig.write(BAR, GUEST_FEATURES, 4, 1);
    start(&mut rig, 0, 1);
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.answer(|_| false), ["features 0x1", "interrupt Config"]);
    start(&mut rig, 1, 1);
    assert!(rig.drain().is_empty());
    assert_eq!(rig.read(BAR, STATUS, 1), 7 | NEEDS_RESET);
    rig.write(BAR, STATUS, 1, 0);
    assert_eq!(rig.drain(), ["reset"]);
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain(), ["features 0x0", "driver ok"]);
}

#[test]
fn queue_addresses() {
    let mut rig = legacy();
    start(&mut rig, 0, 0);
    assert!(rig.drain().is_empty(), "none to stop");
    start(&mut rig, 0, 7);
    start(&mut rig, 0, 1);
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain()[1], "start 0: 256 0x1000 0x2000 0x3000 legacy");
    start(&mut rig, 0, 1);
    assert!(rig.drain().is_empty(), "as it was");
    start(&mut rig, 0, 2);
    assert_eq!(rig.drain(), ["stop 0", "start 0: 256 0x2000 0x3000 0x4000 legacy"]);
    start(&mut rig, 0, 0);
    assert_eq!((rig.drain(), rig.read(BAR, QUEUE_PFN, 4)), (vec!["stop 0".into()], 0));
    start(&mut rig, 0, 3);
    assert_eq!(rig.drain(), ["start 0: 256 0x3000 0x4000 0x5000 legacy"]);
    // Off and on again while the host still stops the old one.
    start(&mut rig, 0, 0);
    assert_eq!(rig.take(), "stop 0");
    start(&mut rig, 0, 4);
    rig.function.finish(true);
    assert_eq!(rig.drain(), ["start 0: 256 0x4000 0x5000 0x6000 legacy"]);
    start(&mut rig, 1, u32::MAX);
    assert_eq!(rig.drain(), ["start 1: 512 0xffffffff000 0x100000001000 0x100000002000 legacy"]);
}

#[test]
fn the_configuration_moves_when_msix_is_switched() {
    let mut rig = legacy();
    for enabled in [false, true, false, true] {
        rig.set_msix(enabled);
        let at = if enabled { 24 } else { 20 };
        assert_eq!(rig.read(BAR, at, 4), 0x0403_0201);
        assert_eq!(rig.read(BAR, at + 1, 2), 0x0302, "any width and place");
        assert_eq!(rig.read(BAR, at + 7, 4), 0x000a_0908);
        rig.write(BAR, at + 3, 4, 0x1122_3344);
        rig.write(BAR, at + 8, 4, 1);
        rig.write(BAR, at + 9, 1, 7);
        assert_eq!(rig.drain(), ["config 3: [68, 51, 34, 17]", "config 9: [7]"]);
        if enabled {
            assert_eq!(rig.read(BAR, 20, 4), 0xffff_ffff);
            rig.write(BAR, 20, 2, 3);
            rig.write(BAR, 22, 2, 2);
            assert_eq!((rig.read(BAR, 20, 2), rig.read(BAR, 22, 2)), (3, 2));
            rig.write(BAR, 22, 2, 4);
            assert_eq!(rig.read(BAR, 22, 2), 0xffff, "outside the table");
            rig.write(BAR, STATUS, 1, 0);
            assert_eq!(rig.drain(), ["reset"]);
        }
    }
}

#[test]
fn interrupts() {
    let mut rig = legacy();
    start(&mut rig, 0, 1);
    rig.drain();
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), None, "it does not run");
    rig.write(BAR, QUEUE_NOTIFY, 2, 0);
    rig.drain();
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), Some(Line::Intx));
    assert!(rig.function.intx_pending());
    assert_eq!(rig.read(BAR, ISR, 1), 1);
    assert!(!rig.function.intx_pending());
    assert_eq!(rig.function.interrupt(Cause::Queue(1)), None, "it does not run");
    rig.write(BAR, STATUS, 1, 7);
    rig.drain();
    rig.function.interrupt(Cause::Config);
    rig.function.interrupt(Cause::Queue(0));
    assert_eq!(rig.read(BAR, 16, 4), 0x0307_0000, "with the registers around it");
    assert_eq!(rig.read(BAR, ISR, 1), 0);
    rig.set_msix(true);
    assert_eq!(rig.drain(), ["calls"]);
    rig.write(BAR, QUEUE_SEL, 2, 0);
    rig.write(BAR, 22, 2, 1);
    assert_eq!(rig.drain(), ["calls"]);
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), Some(Line::Msix(1)));
    assert_eq!(rig.read(BAR, ISR, 1), 0);
}

/// Every offset, width and a few values, with and without MSI-X: no effect but those of the register meant.
#[test]
fn every_access() {
    for msix in [false, true] {
        for offset in 0..80 {
            for width in [1usize, 2, 3, 4, 8] {
                for value in [0, 1, 7, 0xff, 0xffff, u32::MAX] {
                    let mut rig = legacy();
                    rig.set_msix(msix);
                    let mut data = [0; 8];
                    data[..4].copy_from_slice(&value.to_le_bytes());
                    rig.function.write(BAR, offset, &data[..width]);
                    let told = rig.drain();
                    let header: u64 = if msix { 24 } else { 20 };
                    let wanted = match (offset, width) {
                        (STATUS, 1) if value & 0xff == 0 => 1,
                        (STATUS, 1) => 2 * usize::from(value & DRIVER_OK != 0),
                        (at, 1 | 2 | 4) if at >= header && at + width as u64 <= header + 10 => 1,
                        _ => 0,
                    };
                    assert_eq!(told.len(), wanted, "{msix} {offset} {width} {value:#x}: {told:?}");
                    let mut out = [0xaa; 8];
                    rig.function.read(BAR, offset, &mut out[..width]);
                }
            }
        }
    }
}

#[test]
fn a_big_endian_guest() {
    let mut description = net(Interface::Transitional);
    description.endian = Endian::Big;
    let mut rig = Rig::new(description);
    start(&mut rig, 0, 1);
    rig.write(BAR, STATUS, 1, 7);
    let endian = |rig: &mut Rig| {
        let mut found = None;
        rig.answer(|effect| {
            if let Effect::QueueStart(start) = effect {
                found = Some(start.setup.features.endian);
            }
            true
        });
        found
    };
    assert_eq!(endian(&mut rig), Some(Endian::Big));
    assert!(rig.negotiate(F_VERSION_1));
    rig.enable(0, 0x1000);
    assert_eq!(endian(&mut rig), Some(Endian::Little), "a modern driver's ring");
}

#[test]
fn the_interface_that_is_used_first_counts_until_a_reset() {
    let mut rig = Rig::new(net(Interface::Transitional));
    // Legacy first: modern writes are ignored, but for the reset.
    rig.write(BAR, STATUS, 1, ACKNOWLEDGE);
    rig.write(BAR, GUEST_FEATURES, 4, 1);
    rig.accept(F_VERSION_1);
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    rig.enable(0, 0x1000);
    assert!(rig.drain().is_empty());
    assert_eq!((rig.status(), rig.read(BAR, GUEST_FEATURES, 4)), (ACKNOWLEDGE, 1));
    start(&mut rig, 0, 1);
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain().len(), 3);
    rig.set_common(DRIVER_FEATURE_SELECT, 4, 1);
    assert_eq!(rig.common(DRIVER_FEATURE, 4), 0, "32 and above are not acknowledged");
    rig.set_status(0);
    assert_eq!(rig.drain(), ["stop 0", "reset"]);
    // Modern next.
    rig.bring_up(0);
    rig.write(BAR, GUEST_FEATURES, 4, 0x21);
    start(&mut rig, 2, 1);
    start(&mut rig, 0, 0);
    rig.write(BAR, STATUS, 1, 128);
    assert!(rig.drain().is_empty());
    assert_eq!((rig.status(), rig.read(BAR, STATUS, 1), rig.read(BAR, GUEST_FEATURES, 4)), (15, 15, 0));
    // A legacy driver resets what a modern one left.
    rig.write(BAR, STATUS, 1, 0);
    assert_eq!(rig.drain(), ["stop 0", "stop 1", "reset"]);
    start(&mut rig, 0, 1);
    rig.write(BAR, STATUS, 1, 7);
    assert_eq!(rig.drain().len(), 3);
}
