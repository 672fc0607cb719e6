//! The common configuration, register by register.

use crate::rig::common::*;
use crate::rig::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NO_VECTOR, Rig, net};
use transport::pci::features::*;
use transport::pci::{Interface, Space};
use virtqueue::QueueSize;

/// What a field takes: its place and width, and whether a driver can change it before `FEATURES_OK`.
const FIELDS: [(u64, usize, bool); 24] = [
    (DEVICE_FEATURE_SELECT, 4, true),
    (DEVICE_FEATURE, 4, false),
    (DRIVER_FEATURE_SELECT, 4, true),
    (DRIVER_FEATURE, 4, true),
    (CONFIG_MSIX_VECTOR, 2, true),
    (NUM_QUEUES, 2, false),
    (DEVICE_STATUS, 1, true),
    (CONFIG_GENERATION, 1, false),
    (QUEUE_SELECT, 2, true),
    (QUEUE_SIZE, 2, true),
    (QUEUE_MSIX_VECTOR, 2, true),
    (QUEUE_ENABLE, 2, false),
    (QUEUE_NOTIFY_OFF, 2, false),
    (QUEUE_DESC, 4, true),
    (QUEUE_DESC + 4, 4, true),
    (QUEUE_DRIVER, 4, true),
    (QUEUE_DRIVER + 4, 4, true),
    (QUEUE_DEVICE, 4, true),
    (QUEUE_DEVICE + 4, 4, true),
    (QUEUE_NOTIF_CONFIG_DATA, 2, false),
    (QUEUE_RESET, 2, false),
    (ADMIN_QUEUE_INDEX, 2, false),
    (ADMIN_QUEUE_NUM, 2, false),
    (0x40, 4, false),
];

fn image(rig: &mut Rig) -> Vec<u32> {
    (0..0x10).map(|word| rig.common(4 * word, 4)).collect()
}

/// No register as a reset leaves it, so that none can change unseen.
fn set_up() -> Rig {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.set_status(ACKNOWLEDGE);
    rig.accept(F_VERSION_1 | 1);
    for (field, width) in
        [(DEVICE_FEATURE_SELECT, 4), (DRIVER_FEATURE_SELECT, 4), (CONFIG_MSIX_VECTOR, 2), (QUEUE_SELECT, 2)]
    {
        rig.set_common(field, width, 1);
    }
    rig.set_common(QUEUE_SIZE, 2, 16);
    rig.set_common(QUEUE_MSIX_VECTOR, 2, 2);
    for half in 0..6 {
        rig.set_common(QUEUE_DESC + 4 * half, 4, 0x5555_0000);
    }
    rig
}

/// Every offset, width and a few values: a write changes its own field at most, and only if that is a whole
/// field that can be written.
#[test]
fn every_access() {
    let values = [0, 1, 2, 3, 4, 64, 255, 256, 0x7fff, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX];
    for offset in 0..0x60 {
        for width in [1, 2, 3, 4, 5, 8, 16] {
            for value in values {
                let mut rig = set_up();
                let before = image(&mut rig);
                let mut data = [0; 16];
                data[..4].copy_from_slice(&value.to_le_bytes());
                rig.function.write(Space::Bar(4), offset, &data[..width]);
                let effects = rig.drain().len();
                assert!(effects <= 1, "{offset:#x} {width} {value:#x}");
                let after = image(&mut rig);
                let field = FIELDS.iter().find(|(at, len, _)| (*at, *len) == (offset, width));
                if !field.is_some_and(|field| field.2) {
                    assert_eq!(before, after, "{offset:#x} {width} {value:#x}");
                }
                // Selects show other values behind them; a queue that is not there reads as zeros.
                let seen_elsewhere = match offset {
                    DEVICE_FEATURE_SELECT => vec![1],
                    DRIVER_FEATURE_SELECT => vec![3],
                    QUEUE_SELECT => (6..16).collect(),
                    _ => vec![],
                };
                let reset = (offset, width, value & 0xff) == (DEVICE_STATUS, 1, 0);
                for word in (0..0x10).filter(|_| !reset) {
                    let own = offset / 4 == word as u64 || seen_elsewhere.contains(&word);
                    assert!(own || before[word] == after[word], "{offset:#x} {width} {value:#x} {word}");
                }
            }
        }
    }
}

/// A read of any part is a part of the whole; what is misaligned, wider or beyond reads as zeros.
#[test]
fn every_read() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(F_RING_RESET);
    let words = image(&mut rig);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).chain([0; 0x20]).collect();
    for offset in 0..0x60usize {
        for width in [1usize, 2, 3, 4, 8] {
            let mut out = vec![0xaa; width];
            rig.function.read(Space::Bar(4), offset as u64, &mut out);
            let fits = width != 3 && width != 8 && offset % width == 0 && offset + width <= 0x40;
            let wanted = if fits { bytes[offset..offset + width].to_vec() } else { vec![0; width] };
            assert_eq!(out, wanted, "{offset:#x} {width}");
        }
    }
}

#[test]
fn features_of_all_selects() {
    let mut rig = Rig::new(net(Interface::Modern));
    let offered = DEVICE_OFFER;
    for select in [0, 1, 2, 3, 4, 5, 31, 32, 0x8000_0000, u32::MAX] {
        rig.set_common(DEVICE_FEATURE_SELECT, 4, select);
        let wanted = if select < 4 { (offered >> (32 * select)) as u32 } else { 0 };
        assert_eq!(rig.common(DEVICE_FEATURE, 4), wanted, "{select}");
        assert_eq!(rig.common(DEVICE_FEATURE_SELECT, 4), select);
        rig.set_common(DRIVER_FEATURE_SELECT, 4, select);
        rig.set_common(DRIVER_FEATURE, 4, wanted | 0x8000_0000);
        let read = rig.common(DRIVER_FEATURE, 4);
        assert_eq!(read, if select < 4 { wanted | 0x8000_0000 } else { 0 });
    }
}

const DEVICE_OFFER: u128 =
    crate::rig::DEVICE_FEATURES | F_EVENT_IDX | F_RING_PACKED | F_VERSION_1 | F_RING_RESET;

#[test]
fn illegal_feature_sets_are_refused() {
    let mut rig = Rig::new(net(Interface::Modern));
    for (features, legal) in [
        (F_VERSION_1, true),
        (DEVICE_OFFER, true),
        (0, false),
        (1, false),
        (F_VERSION_1 | 2, false),
        (F_VERSION_1 | F_NOTIFICATION_DATA, false),
        (F_VERSION_1 | 1 << 127, false),
        (F_VERSION_1 | 1 << 65, true),
    ] {
        assert_eq!(rig.negotiate(features), legal, "{features:#x}");
    }
}

#[test]
fn the_device_may_refuse_a_set_and_take_the_next() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.set_status(ACKNOWLEDGE | DRIVER);
    rig.accept(F_VERSION_1 | 1);
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(rig.status(), ACKNOWLEDGE | DRIVER, "not before the answer");
    assert_eq!(rig.answer(|_| false), ["features 0x100000001"]);
    assert_eq!(rig.status(), ACKNOWLEDGE | DRIVER);
    rig.enable(0, 0x1000);
    assert_eq!(rig.common(QUEUE_ENABLE, 2), 0, "no queue without features");
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    rig.answer(|_| false);
    assert_eq!(rig.status() & (FEATURES_OK | DRIVER_OK), 0);
    rig.accept(F_VERSION_1);
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(rig.drain(), ["features 0x100000000"]);
    assert_eq!(rig.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

#[test]
fn features_are_fixed_from_features_ok_on() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.set_status(ACKNOWLEDGE | DRIVER);
    rig.accept(F_VERSION_1);
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    rig.accept(F_VERSION_1 | 1); // while the host thinks
    assert_eq!(rig.drain(), ["features 0x100000000"]);
    rig.accept(F_VERSION_1 | 1);
    rig.set_common(DRIVER_FEATURE_SELECT, 4, 0);
    assert_eq!(rig.common(DRIVER_FEATURE, 4), 0);
    rig.set_status(FEATURES_OK);
    assert!(rig.drain().is_empty(), "asked once");
}

#[test]
fn status_bits_are_only_added() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    let works = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    assert_eq!(rig.status(), works);
    for written in [ACKNOWLEDGE, 16, 32, 64, works] {
        rig.set_status(written);
        assert_eq!(rig.status(), works, "{written}");
        assert!(rig.drain().is_empty());
    }
    rig.set_status(128);
    assert_eq!(rig.status(), works | 128);
}

#[test]
fn queue_sizes() {
    let mut rig = Rig::new(net(Interface::Modern));
    for (features, cases) in [
        (0, [(1, 1), (128, 128), (512, 128), (0, 128), (3, 128), (0xffff, 128), (256, 256)]),
        (F_RING_PACKED, [(1, 1), (100, 100), (257, 100), (0, 100), (3, 3), (0xffff, 3), (256, 256)]),
    ] {
        assert!(rig.negotiate(F_VERSION_1 | features));
        assert_eq!(rig.common(QUEUE_SIZE, 2), 256);
        for (written, read) in cases {
            rig.set_common(QUEUE_SIZE, 2, written);
            assert_eq!(rig.common(QUEUE_SIZE, 2), read, "{written}");
        }
    }
}

#[test]
fn queues_that_are_not_there() {
    let mut rig = Rig::new(net(Interface::Modern));
    assert_eq!(rig.common(NUM_QUEUES, 2), 3);
    rig.bring_up(F_RING_RESET);
    for index in [3, 4, 1024, 0xffff] {
        rig.enable(index, 0x5000);
        rig.set_common(QUEUE_SIZE, 2, 8);
        rig.set_common(QUEUE_MSIX_VECTOR, 2, 1);
        rig.set_common(QUEUE_RESET, 2, 1);
        let registers: Vec<u32> = (6..16).map(|word| rig.common(4 * word, 4)).collect();
        assert_eq!(registers, [0; 10], "{index}");
        assert_eq!(rig.common(QUEUE_SELECT, 2), index);
    }
    assert!(rig.drain().is_empty());
}

#[test]
fn queue_fields_are_fixed_while_enabled() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    rig.set_common(QUEUE_SELECT, 2, 1);
    rig.set_common(QUEUE_SIZE, 2, 8);
    rig.set_common(QUEUE_DESC + 4, 4, 7);
    rig.set_common(QUEUE_ENABLE, 2, 0);
    rig.set_common(QUEUE_ENABLE, 2, 1);
    rig.set_common(QUEUE_RESET, 2, 1); // not negotiated
    assert_eq!((rig.common(QUEUE_SIZE, 2), rig.common(QUEUE_DESC + 4, 4)), (512, 0));
    assert_eq!((rig.common(QUEUE_ENABLE, 2), rig.common(QUEUE_RESET, 2)), (1, 0));
    assert!(rig.drain().is_empty());
    rig.set_common(QUEUE_SELECT, 2, 2);
    for value in [0, 2, 3, 0xffff] {
        rig.set_common(QUEUE_ENABLE, 2, value);
        assert_eq!(rig.common(QUEUE_ENABLE, 2), 0);
    }
}

#[test]
fn addresses_are_two_halves() {
    let mut rig = Rig::new(net(Interface::Modern));
    for area in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
        rig.set_common(area + 4, 4, 0x1234_5678);
        assert_eq!((rig.common(area, 4), rig.common(area + 4, 4)), (0, 0x1234_5678));
        rig.set_common(area, 4, 0x9abc_def0);
        assert_eq!((rig.common(area, 4), rig.common(area + 4, 4)), (0x9abc_def0, 0x1234_5678));
    }
}

#[test]
fn vectors_outside_the_table_are_none() {
    let mut rig = Rig::new(net(Interface::Modern));
    for field in [CONFIG_MSIX_VECTOR, QUEUE_MSIX_VECTOR] {
        assert_eq!(rig.common(field, 2), NO_VECTOR);
        for (written, read) in
            [(3, 3), (4, NO_VECTOR), (0, 0), (0x7ff, NO_VECTOR), (1, 1), (NO_VECTOR, NO_VECTOR)]
        {
            rig.set_common(field, 2, written);
            assert_eq!(rig.common(field, 2), read, "{field:#x} {written}");
        }
    }
    let mut description = net(Interface::Modern);
    description.msix = false;
    let mut rig = Rig::new(description);
    rig.set_common(QUEUE_MSIX_VECTOR, 2, 0);
    assert_eq!(rig.common(QUEUE_MSIX_VECTOR, 2), NO_VECTOR);
    assert_eq!(rig.function.msix_vectors(), 0);
    assert!(rig.capabilities().iter().all(|(id, _)| *id != 0x11));
}

#[test]
fn the_administration_queue_is_there_when_negotiated() {
    let mut description = net(Interface::Modern);
    description.admin_queue = QueueSize::try_from(16).ok();
    let mut rig = Rig::new(description);
    rig.bring_up(0);
    rig.set_common(QUEUE_SELECT, 2, 3);
    assert_eq!((rig.common(ADMIN_QUEUE_NUM, 2), rig.common(QUEUE_SIZE, 2)), (0, 0));
    rig.bring_up(F_ADMIN_VQ);
    assert_eq!(rig.common(NUM_QUEUES, 2), 3);
    assert_eq!((rig.common(ADMIN_QUEUE_INDEX, 2), rig.common(ADMIN_QUEUE_NUM, 2)), (3, 1));
    rig.enable(3, 0x7000);
    assert_eq!(rig.drain(), ["start 3: 16 0x7000 0x8000 0x9000"]);
}

#[test]
fn the_generation_changes_with_what_was_read() {
    let mut rig = Rig::new(net(Interface::Modern));
    let generation = |rig: &mut Rig| rig.common(CONFIG_GENERATION, 1);
    let first = generation(&mut rig);
    rig.function.set_config(&[9]);
    assert_eq!(generation(&mut rig), first, "nothing was read");
    assert_eq!(rig.read_in(4, 0, 4), 9);
    rig.function.set_config(&[9]);
    assert_eq!(generation(&mut rig), first, "nothing changed");
    rig.function.set_config(&[8; 100]);
    let second = generation(&mut rig);
    assert_ne!(second, first);
    assert_eq!(rig.read_in(4, 8, 4), 0x0808, "zeros past the end");
    // However many changes come between two reads, the number cannot come round to what it was.
    for change in 0..256 {
        rig.function.set_config(&[change as u8]);
    }
    assert_ne!(generation(&mut rig), second);
}

#[test]
fn device_configuration() {
    let mut rig = Rig::new(net(Interface::Modern));
    assert_eq!((rig.read_in(4, 0, 4), rig.read_in(4, 4, 2), rig.read_in(4, 9, 1)), (0x0403_0201, 0x0605, 10));
    assert_eq!((rig.read_in(4, 1, 2), rig.read_in(4, 2, 4), rig.read_in(4, 12, 4)), (0, 0, 0));
    rig.write_in(4, 8, 2, 0x1234);
    rig.write_in(4, 4, 4, 1);
    rig.write_in(4, 9, 1, 5);
    for (offset, width) in [(8, 4), (1, 2), (10, 1), (12, 4)] {
        rig.write_in(4, offset, width, 0xffff_ffff);
    }
    assert_eq!(rig.drain(), ["config 8: [52, 18]", "config 4: [1, 0, 0, 0]", "config 9: [5]"]);
    assert_eq!(rig.read_in(4, 8, 2), 0x0a09, "the host's to change");
}
