//! A modern driver's life: bring-up, doorbells, queue reset.

use crate::rig::common::*;
use crate::rig::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, Rig, net};
use transport::pci::features::*;
use transport::pci::{Cause, Effect, Interface, Line, Space};

#[test]
fn bring_up() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.set_status(0);
    assert_eq!(rig.drain(), ["reset"]);
    rig.set_status(ACKNOWLEDGE);
    rig.set_status(ACKNOWLEDGE | DRIVER);
    let offered = rig.offered();
    rig.accept(offered & (F_VERSION_1 | F_EVENT_IDX | 1));
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(rig.drain(), ["features 0x120000001"]);
    rig.set_common(QUEUE_SELECT, 2, 1);
    rig.set_common(QUEUE_SIZE, 2, 128);
    rig.set_common(QUEUE_DESC + 4, 4, 0xff);
    rig.enable(1, 0x4000);
    assert_eq!(rig.drain(), ["start 1: 128 0xff00004000 0x5000 0x6000"]);
    assert_eq!(rig.common(QUEUE_ENABLE, 2), 1);
    assert!(!rig.function.is_driver_ok());
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(rig.drain(), ["driver ok"]);
    assert!(rig.function.is_driver_ok());
    assert_eq!(rig.status(), 15);
}

#[test]
fn the_ring_has_the_negotiated_form() {
    let mut rig = Rig::new(net(Interface::Modern));
    assert!(rig.negotiate(F_VERSION_1 | F_RING_PACKED | F_EVENT_IDX));
    rig.enable(0, 0x1000);
    let Some(Effect::QueueStart(start)) = rig.function.next_effect() else { panic!("a start") };
    let features = start.setup.features;
    assert!(features.packed && features.event_idx && !features.indirect && !features.in_order);
    assert!(!start.legacy && start.setup.log.is_none());
}

#[test]
fn no_queue_before_features() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.set_status(ACKNOWLEDGE | DRIVER);
    rig.enable(0, 0x1000);
    rig.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert!(rig.drain().is_empty());
    assert_eq!((rig.status(), rig.common(QUEUE_ENABLE, 2)), (3, 0));
}

#[test]
fn doorbells_in_memory_and_port() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    let [port, memory] = rig.structures(2)[..] else { panic!("two") };
    for index in 0..2 {
        rig.set_common(QUEUE_SELECT, 2, index);
        let offset = u64::from(rig.common(QUEUE_NOTIFY_OFF, 2)) * 4;
        rig.write(Space::Bar(memory.bar), memory.offset + offset, 2, index);
        assert_eq!(rig.drain(), [format!("notify {index}")]);
        rig.write(Space::Bar(port.bar), port.offset, 2, index);
        rig.write(Space::Bar(port.bar), port.offset, 4, index | 0x1_0000); // no data was negotiated
        assert_eq!(rig.drain(), [format!("notify {index}")], "twice is once");
    }
    // A queue that does not run, one that is not there, and what is no doorbell.
    for (place, offset, width, value) in [
        (memory, 8, 2, 2),
        (memory, 12, 2, 3),
        (memory, 2, 2, 0),
        (memory, 0, 1, 0),
        (port, 0, 2, 2),
        (port, 0, 2, 0xffff),
        (port, 2, 2, 0),
        (port, 0, 1, 0),
    ] {
        rig.write(Space::Bar(place.bar), place.offset + offset, width, value);
        assert!(rig.drain().is_empty(), "{offset} {width} {value}");
    }
    assert_eq!(rig.read(Space::Bar(memory.bar), memory.offset, 4), 0);
}

#[test]
fn notification_data() {
    let mut description = net(Interface::Modern);
    description.notification_data = true;
    let mut rig = Rig::new(description);
    let port = rig.structures(2)[0];
    let ring = |rig: &mut Rig, width, value| {
        rig.write(Space::Bar(port.bar), port.offset, width, value);
        rig.drain()
    };
    rig.bring_up(F_NOTIFICATION_DATA);
    assert_eq!(rig.common(QUEUE_NOTIF_CONFIG_DATA, 2), 0, "not negotiated");
    assert_eq!(ring(&mut rig, 4, 0x8005_0001), ["notify 1 at 0x8005"]);
    assert_eq!(ring(&mut rig, 2, 1), ["notify 1"]);

    rig.bring_up(F_NOTIFICATION_DATA | F_NOTIF_CONFIG_DATA);
    rig.set_common(QUEUE_SELECT, 2, 1);
    let data = rig.common(QUEUE_NOTIF_CONFIG_DATA, 2);
    assert_ne!(data, 0);
    assert_eq!(ring(&mut rig, 4, 0x7 << 16 | data), ["notify 1 at 0x7"]);
    assert!(ring(&mut rig, 4, 0).is_empty());

    rig.bring_up(F_NOTIF_CONFIG_DATA);
    assert_eq!(ring(&mut rig, 2, data), ["notify 1"]);
    // The last doorbell counts.
    rig.bring_up(F_NOTIFICATION_DATA);
    rig.write(Space::Bar(port.bar), port.offset, 4, 0x1_0000);
    rig.write(Space::Bar(port.bar), port.offset, 4, 0x2_0000);
    assert_eq!(rig.drain(), ["notify 0 at 0x2"]);
}

#[test]
fn queue_reset() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(F_RING_RESET);
    rig.set_common(QUEUE_SELECT, 2, 2);
    rig.set_common(QUEUE_RESET, 2, 1);
    assert!(rig.drain().is_empty(), "one that is not enabled");
    rig.set_common(QUEUE_SELECT, 2, 1);
    rig.set_common(QUEUE_MSIX_VECTOR, 2, 2);
    rig.drain();
    for value in [0, 2, 0xffff] {
        rig.set_common(QUEUE_RESET, 2, value);
        assert_eq!(rig.common(QUEUE_RESET, 2), 0);
    }
    rig.set_common(QUEUE_RESET, 2, 1);
    assert_eq!(rig.take(), "stop 1");
    assert_eq!((rig.common(QUEUE_RESET, 2), rig.common(QUEUE_ENABLE, 2)), (1, 1), "ongoing");
    rig.set_common(QUEUE_RESET, 2, 1);
    rig.set_common(QUEUE_ENABLE, 2, 1);
    rig.set_common(QUEUE_SIZE, 2, 8);
    rig.function.finish(true);
    assert!(rig.drain().is_empty());
    let fields = [QUEUE_RESET, QUEUE_ENABLE, QUEUE_SIZE, QUEUE_MSIX_VECTOR].map(|field| rig.common(field, 2));
    assert_eq!(fields, [0, 0, 512, 0xffff]);
    assert_eq!(rig.common(QUEUE_DESC, 4), 0);
    rig.set_common(QUEUE_SIZE, 2, 8);
    rig.enable(1, 0x9000);
    assert_eq!(rig.drain(), ["start 1: 8 0x9000 0xa000 0xb000"]);
    assert_eq!((rig.common(QUEUE_RESET, 2), rig.common(QUEUE_ENABLE, 2)), (0, 1));
}

#[test]
fn a_queue_reset_while_the_ring_starts() {
    for accepted in [true, false] {
        let mut rig = Rig::new(net(Interface::Modern));
        assert!(rig.negotiate(F_VERSION_1 | F_RING_RESET));
        rig.enable(0, 0x1000);
        assert!(rig.take().starts_with("start 0"));
        rig.set_common(QUEUE_RESET, 2, 1);
        rig.function.finish(accepted);
        assert_eq!(rig.drain(), if accepted { &["stop 0"][..] } else { &[] });
        assert_eq!((rig.common(QUEUE_RESET, 2), rig.common(QUEUE_ENABLE, 2)), (0, 0));
    }
    // Before the host even knows.
    let mut rig = Rig::new(net(Interface::Modern));
    assert!(rig.negotiate(F_VERSION_1 | F_RING_RESET));
    rig.enable(0, 0x1000);
    rig.set_common(QUEUE_RESET, 2, 1);
    assert!(rig.drain().is_empty());
    assert_eq!((rig.common(QUEUE_RESET, 2), rig.common(QUEUE_ENABLE, 2)), (0, 0));
}

#[test]
fn a_ring_that_cannot_start() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    rig.enable(2, 0xffff_0000 - 0x2000);
    let told = rig.answer(|effect| !matches!(effect, Effect::QueueStart(_)));
    assert_eq!(told[1..], ["interrupt Config"]);
    assert_eq!(rig.status(), 15 | NEEDS_RESET);
    assert_eq!(rig.common(QUEUE_ENABLE, 2), 0);
    assert_eq!(rig.function.interrupt(Cause::Config), Some(Line::Intx));
    rig.set_status(0);
    assert_eq!(rig.drain(), ["stop 0", "stop 1", "reset"]);
    assert_eq!(rig.status(), 0);
}

#[test]
fn the_device_needs_a_reset() {
    let mut rig = Rig::new(net(Interface::Modern));
    assert!(rig.negotiate(F_VERSION_1));
    assert_eq!(rig.function.needs_reset(), None, "not ready yet");
    assert_eq!(rig.status() & NEEDS_RESET, NEEDS_RESET);
    rig.bring_up(0);
    assert_eq!(rig.status(), 15, "a reset heals");
    assert_eq!(rig.function.needs_reset(), Some(Line::Intx));
    assert_eq!((rig.status(), rig.isr()), (15 | NEEDS_RESET, 2));
}
