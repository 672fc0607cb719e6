//! Resets of the device and of the function, also while the host is at work.

use crate::rig::common::*;
use crate::rig::{ACKNOWLEDGE, DRIVER, FEATURES_OK, Rig, net};
use transport::pci::features::{F_RING_RESET, F_VERSION_1};
use transport::pci::{Cause, Interface, Space};

#[test]
fn status_is_0_when_the_reset_is_done() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    rig.function.interrupt(Cause::Config);
    rig.set_common(CONFIG_MSIX_VECTOR, 2, 1);
    rig.set_status(0);
    for effect in ["stop 0", "stop 1", "reset"] {
        assert_eq!(rig.take(), effect);
        assert_eq!(rig.function.needs_reset(), None);
        assert_eq!(rig.status(), 15, "neither 0 nor anything new");
        assert!(!rig.function.is_driver_ok());
        rig.function.finish(true);
    }
    assert_eq!(rig.status(), 0);
    assert!(rig.drain().is_empty());
    assert_eq!(rig.isr(), 0);
    assert_eq!(rig.common(CONFIG_MSIX_VECTOR, 2), 0xffff);
    rig.set_common(QUEUE_SELECT, 2, 1);
    assert_eq!((rig.common(QUEUE_ENABLE, 2), rig.common(QUEUE_DESC, 4)), (0, 0));
    rig.set_common(DRIVER_FEATURE_SELECT, 4, 1);
    assert_eq!(rig.common(DRIVER_FEATURE, 4), 0);
}

#[test]
fn what_is_written_during_a_reset_is_ignored() {
    let mut rig = Rig::new(net(Interface::Transitional));
    rig.bring_up(F_RING_RESET);
    rig.set_status(0);
    assert_eq!(rig.take(), "stop 0");
    for offset in 0..0x40 {
        for width in [1, 2, 4] {
            rig.set_common(offset, width, 1);
            rig.set_common(offset, width, 0x0f);
            rig.write(Space::Bar(0), offset, width, 1);
        }
    }
    rig.write(Space::Bar(4), 0x3000, 2, 0);
    rig.write_in(4, 0, 1, 1);
    rig.set_status(0);
    rig.function.finish(true);
    assert_eq!(rig.drain(), ["stop 1", "reset"]);
    assert_eq!(rig.status(), 0);
    let registers: Vec<u32> = (0..5).map(|word| rig.common(4 * word, 4)).collect();
    let fresh: Vec<u32> = {
        let mut other = Rig::new(net(Interface::Transitional));
        (0..5).map(|word| other.common(4 * word, 4)).collect()
    };
    assert_eq!(registers, fresh);
}

#[test]
fn a_reset_drops_what_waits() {
    let mut rig = Rig::new(net(Interface::Modern));
    assert!(rig.negotiate(F_VERSION_1));
    rig.enable(0, 0x1000);
    rig.write_in(4, 0, 1, 1);
    rig.set_status(0);
    assert_eq!(rig.drain(), ["reset"], "the ring never started");
}

#[test]
fn a_reset_while_an_effect_is_in_hand() {
    // The answer to features comes too late.
    let mut rig = Rig::new(net(Interface::Modern));
    rig.accept(F_VERSION_1);
    rig.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(rig.take(), "features 0x100000000");
    rig.set_status(0);
    rig.function.finish(true);
    assert_eq!(rig.drain(), ["reset"]);
    assert_eq!(rig.status(), 0);
    rig.enable(0, 0x1000);
    assert!(rig.drain().is_empty(), "nothing was granted");

    // A ring that started stops again; one that could not start does not ask for a reset.
    for (accepted, wanted) in [(true, &["stop 0", "reset"][..]), (false, &["reset"])] {
        let mut rig = Rig::new(net(Interface::Modern));
        assert!(rig.negotiate(F_VERSION_1));
        rig.enable(0, 0x1000);
        assert!(rig.take().starts_with("start 0"));
        rig.set_status(0);
        rig.function.finish(accepted);
        assert_eq!(rig.drain(), wanted);
        assert_eq!(rig.status(), 0);
    }

    // A reset of the function while the device is being reset: done when the second is.
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    rig.set_status(0);
    assert_eq!(rig.take(), "stop 0");
    rig.function.finish(true);
    assert_eq!(rig.take(), "stop 1");
    rig.function.finish(true);
    assert_eq!(rig.take(), "reset");
    rig.function.reset();
    rig.function.finish(true);
    assert_ne!(rig.status(), 0);
    assert_eq!(rig.drain(), ["reset"]);
    assert_eq!(rig.status(), 0);
}

#[test]
fn function_resets() {
    let by_client = |rig: &mut Rig| rig.function.reset();
    let by_level = |rig: &mut Rig| {
        let at = rig.capability(0x10) + 8;
        let control = rig.config(at, 2);
        rig.set_config(at, 2, control | 1 << 15);
        assert_eq!(rig.config(at, 2), control, "reads as 0");
    };
    for reset in [by_client as fn(&mut Rig), by_level] {
        let mut rig = Rig::new(net(Interface::Modern));
        let mut fresh = vec![0; 4096];
        rig.function.read(Space::Config, 0, &mut fresh);
        rig.bring_up(0);
        rig.set_msix(true);
        rig.set_config(4, 2, 0x0407);
        rig.set_config(0x20, 4, 0xfe00_0000);
        rig.set_config(0x3c, 1, 11);
        rig.drain();
        reset(&mut rig);
        assert_eq!(rig.drain(), ["stop 0", "stop 1", "reset"]);
        let mut after = vec![0; 4096];
        rig.function.read(Space::Config, 0, &mut after);
        assert_eq!(after, fresh);
        assert_eq!(rig.status(), 0);
        rig.bring_up(0);
    }
}

#[test]
fn configuration_writes_that_wait_are_bounded() {
    let mut rig = Rig::new(net(Interface::Modern));
    for value in 0..1000 {
        rig.write_in(4, 0, 1, value);
    }
    assert_eq!(rig.drain().len(), 32);
}
