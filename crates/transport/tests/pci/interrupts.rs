//! INTx with its ISR status, MSI-X with its vectors.

use crate::rig::common::*;
use crate::rig::{Rig, net};
use transport::pci::features::{F_RING_RESET, F_VERSION_1};
use transport::pci::{Cause, Interface, Line};

const COMMAND: u64 = 4;
const INTX_DISABLE: u32 = 1 << 10;
const STATUS_INTERRUPT: u32 = 8;

fn working() -> Rig {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(F_RING_RESET);
    rig
}

#[test]
fn reading_isr_clears_and_deasserts() {
    let mut rig = working();
    let pci_status = |rig: &mut Rig| rig.config(6, 2) & STATUS_INTERRUPT;
    assert_eq!((rig.isr(), pci_status(&mut rig)), (0, 0));
    assert_eq!(rig.function.interrupt(Cause::Queue(1)), Some(Line::Intx));
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), Some(Line::Intx));
    assert_eq!(pci_status(&mut rig), STATUS_INTERRUPT);
    assert_eq!(rig.config(6, 1) & STATUS_INTERRUPT, STATUS_INTERRUPT, "in any read of it");
    assert_eq!(rig.config(4, 4) >> 16 & STATUS_INTERRUPT, STATUS_INTERRUPT);
    assert_eq!(rig.config(7, 1), 0);
    assert!(rig.function.intx_pending());
    assert_eq!(rig.isr(), 1);
    assert!(!rig.function.intx_pending());
    assert_eq!((rig.isr(), pci_status(&mut rig)), (0, 0));
    rig.function.interrupt(Cause::Config);
    rig.function.interrupt(Cause::Queue(0));
    assert_eq!(rig.read_in(3, 0, 4), 3, "a wide read does too");
    assert_eq!(rig.isr(), 0);
    rig.function.interrupt(Cause::Config);
    assert_eq!((rig.read_in(3, 1, 1), rig.read_in(3, 2, 2)), (0, 0));
    rig.write_in(3, 0, 1, 0);
    assert_eq!(rig.isr(), 2, "only a read of the byte itself");
}

#[test]
fn intx_disabled() {
    let mut rig = working();
    rig.set_config(COMMAND, 2, INTX_DISABLE);
    assert_eq!(rig.drain(), ["calls"]);
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), None);
    assert!(!rig.function.intx_pending());
    assert_eq!(rig.config(6, 2) & STATUS_INTERRUPT, STATUS_INTERRUPT, "noted all the same");
    rig.set_config(COMMAND, 2, 0);
    assert_eq!(rig.drain(), ["calls"]);
    assert!(rig.function.intx_pending(), "and asserted now");
}

#[test]
fn not_before_the_driver_is_ready() {
    let mut rig = Rig::new(net(Interface::Modern));
    assert!(rig.negotiate(F_VERSION_1));
    rig.enable(0, 0x1000);
    rig.drain();
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), None);
    assert_eq!(rig.function.interrupt(Cause::Config), None);
    assert_eq!(rig.isr(), 0);
    let mut rig = working();
    assert_eq!(rig.function.interrupt(Cause::Queue(2)), None, "a queue that does not run");
    assert_eq!(rig.function.interrupt(Cause::Queue(1000)), None);
    rig.set_status(0);
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), None, "nor during a reset");
}

#[test]
fn vectors() {
    let mut rig = working();
    assert_eq!(rig.function.call_line(Cause::Queue(0)), Some(Line::Intx));
    rig.set_msix(true);
    assert_eq!(rig.drain(), ["calls"]);
    for cause in [Cause::Queue(0), Cause::Queue(1), Cause::Config] {
        assert_eq!((rig.function.call_line(cause), rig.function.interrupt(cause)), (None, None), "NO_VECTOR");
    }
    // A queue interrupt leaves no trace in the ISR status, one of the configuration does.
    assert_eq!(rig.isr(), 2);
    rig.set_common(CONFIG_MSIX_VECTOR, 2, 0);
    assert!(rig.drain().is_empty(), "nobody keeps the configuration's line");
    for index in 0..2 {
        rig.set_common(QUEUE_SELECT, 2, index);
        rig.set_common(QUEUE_MSIX_VECTOR, 2, 2);
        assert_eq!(rig.drain(), ["calls"]);
        rig.set_common(QUEUE_MSIX_VECTOR, 2, 2);
        assert!(rig.drain().is_empty());
        assert_eq!(rig.function.interrupt(Cause::Queue(index as u16)), Some(Line::Msix(2)), "shared");
    }
    assert_eq!(rig.function.interrupt(Cause::Config), Some(Line::Msix(0)));
    assert!(!rig.function.intx_pending());
    assert_eq!(rig.config(6, 2) & STATUS_INTERRUPT, 0);
    rig.set_common(QUEUE_SELECT, 2, 2);
    rig.set_common(QUEUE_MSIX_VECTOR, 2, 1);
    assert!(rig.drain().is_empty(), "a queue that is not enabled");
    rig.set_common(QUEUE_SELECT, 2, 1);
    rig.set_common(QUEUE_MSIX_VECTOR, 2, 99);
    assert_eq!(rig.drain(), ["calls"]);
    assert_eq!(rig.function.call_line(Cause::Queue(1)), None);
    rig.set_msix(false);
    assert_eq!(rig.drain(), ["calls"]);
    assert_eq!(rig.function.call_line(Cause::Queue(1)), Some(Line::Intx));
}

#[test]
fn intx_that_is_pending_waits_while_msix_is_on() {
    let mut rig = working();
    rig.function.interrupt(Cause::Queue(0));
    rig.set_msix(true);
    assert!(!rig.function.intx_pending());
    assert_eq!(rig.config(6, 2) & STATUS_INTERRUPT, 0);
    rig.set_msix(false);
    assert!(rig.function.intx_pending());
}

#[test]
fn a_function_without_msix() {
    let mut description = net(Interface::Modern);
    description.msix = false;
    let mut rig = Rig::new(description);
    rig.bring_up(0);
    assert_eq!(rig.function.bar(1), None);
    assert_eq!(rig.function.interrupt(Cause::Queue(0)), Some(Line::Intx));
}
