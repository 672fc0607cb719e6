//! What QEMU 11.1 says while it realizes a device, in its order.

use crate::wire::*;
use std::os::fd::OwnedFd;
use transport::pci::Interface;
use transport::vfio_user::Event;

fn realize(interface: Interface) -> (Wire, OwnedFd) {
    let mut wire = Wire::greeted(description(interface));
    let file = memfd(16 * MIB);
    // Memory comes before any question, without waiting in between: RAM, ROM without a descriptor, RAM above 4 GiB.
    let rom = vec![];
    wire.pipelines = true;
    for (id, (flags, offset, address, size, fds)) in (1..).zip([
        (3, 0, 0, 0xa_0000, vec![file.try_clone().unwrap()]),
        (1, 0, 0xc_0000, 0x2_0000, rom),
        (3, 0x10_0000, 0x1_0000_0000, 0x10_0000, vec![file.try_clone().unwrap()]),
    ]) {
        wire.session.receive(&message(id, DMA_MAP, 0, &dma_map(flags, offset, address, size)), fds).unwrap();
    }
    wire.run().unwrap();
    let replies: Vec<Vec<u8>> =
        std::iter::from_fn(|| wire.session.next_outgoing()).map(|reply| reply.bytes).collect();
    assert_eq!(replies, [1, 2, 3].map(|id| message(id, DMA_MAP, 1, &[])));
    assert_eq!(wire.names(), ["Memory", "Memory"]);
    wire.pipelines = false;

    assert_eq!(words(&wire.ask(GET_INFO, &u32s(&[16, 0, 0, 0]))), [16, 3, 9, 5]);
    for index in [0, 1, 2, 3, 4, 5, 7] {
        let info = words(&wire.ask(GET_REGION_INFO, &region_info(32, index)));
        assert_eq!((info[0], info[1] & 0xc), (32, 0), "no second round for region {index}");
    }
    // All of configuration space at once.
    let config = wire.read::<4096>(7, 0);
    assert_eq!(config[..2], [0xf4, 0x1a]);
    assert_eq!(words(&wire.ask(GET_IRQ_INFO, &u32s(&[16, 0, 3, 0])))[3], 1);
    wire.ask_with(SET_IRQS, &set_irqs(0x24, 3, 0, 1), vec![eventfd()]).unwrap();
    assert_eq!(words(&wire.ask(GET_IRQ_INFO, &u32s(&[16, 0, 2, 0])))[3], 4);
    wire.ask(RESET, &[]);
    for bar in 0..6 {
        wire.write(7, 0x10 + 4 * bar, &[0; 4]);
    }
    assert_eq!(wire.names(), ["ResetDevice"]);
    (wire, file)
}

#[test]
fn a_function_is_realized_and_a_driver_brings_it_up() {
    let (mut wire, _file) = realize(Interface::Modern);
    // MSI-X: one empty vector, none, one, none, all.
    wire.ask(SET_IRQS, &set_irqs(0x24, 2, 0, 1));
    wire.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 0));
    wire.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 1), vec![eventfd()]).unwrap();
    wire.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 0));
    let fds = (0..4).map(|_| eventfd()).collect();
    wire.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 4), fds).unwrap();
    wire.enable_msix(true);
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.set_queue(0, 1, ring_at(0));
    wire.driver_ok();
    assert_eq!(wire.names(), ["ResetDevice", "Features", "QueueStart 0", "QueueEnable 0"]);
    // The guest reboots.
    wire.ask(RESET, &[]);
    assert_eq!(wire.names(), ["QueueStop 0", "ResetDevice"]);
    wire.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 0));
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.set_queue(0, 1, ring_at(0));
    assert_eq!(wire.names(), ["ResetDevice", "Features", "QueueStart 0"]);
}

/// Firmware hides and shows parts of the first mebibyte again and again, and each time all memory above it.
#[test]
fn memory_comes_and_goes_while_firmware_runs() {
    let (mut wire, file) = realize(Interface::Modern);
    wire.map(&file, 0x10_0000, 0x10_0000, 15 * MIB);
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.set_queue(0, 0xffff, [0x20_0000, 0x20_2000, 0x20_4000]);
    wire.driver_ok();
    wire.told.clear();
    for _ in 0..30 {
        wire.ask(DMA_UNMAP, &dma_unmap(0, 0x10_0000, 15 * MIB));
        wire.ask(DMA_UNMAP, &dma_unmap(0, 0xc_0000, 0x2_0000));
        // Read only, and with a descriptor this time.
        let rom = dma_map(1, 0xc_0000, 0xc_0000, 0x2_0000);
        wire.ask_with(DMA_MAP, &rom, vec![file.try_clone().unwrap()]).unwrap();
        wire.map(&file, 0x10_0000, 0x10_0000, 15 * MIB);
    }
    let restarts: Vec<bool> = wire
        .told
        .drain(..)
        .filter_map(|event| match event {
            Event::Memory { restart, .. } => restart.first().map(|ring| ring.setup.is_some()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(restarts, [false, true].repeat(30));
}
