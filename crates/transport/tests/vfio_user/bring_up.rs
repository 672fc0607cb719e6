//! A driver brings the device up through its registers, up to rings that carry chains.

use crate::wire::*;
use guestmem::{GuestAddr, GuestMemory, Mapping, Region};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport::pci::Interface;
use transport::vfio_user::{Event, QueueFault, QueueStart, Session};
use virtqueue::{Burst, DeviceQueue, DriverQueue, QueueSetup, QueueSize};

/// The guest's own view of its memory.
fn guest_memory(file: &OwnedFd) -> Arc<GuestMemory> {
    let mapping = Arc::new(Mapping::file(file, 0, 16 * MIB).unwrap());
    Arc::new(GuestMemory::new(vec![Region::part(GuestAddr(0), 16 * MIB, mapping, 0).unwrap()]).unwrap())
}

fn start(told: &mut Vec<Event>) -> QueueStart {
    let at = told.iter().position(|event| matches!(event, Event::QueueStart(_))).unwrap();
    let Event::QueueStart(start) = told.remove(at) else { unreachable!() };
    *start
}

/// A chain from the driver to the device and back.
fn one_chain(session: &Session, file: &OwnedFd, start: &QueueStart, driver_side: &QueueSetup) {
    let guest = guest_memory(file);
    let mut driver = DriverQueue::attach(&guest, driver_side, None).unwrap();
    let mut device = DeviceQueue::new(session.memory(), &start.setup, start.state).unwrap();
    guest.slice(GuestAddr(0x8_0000), 4).unwrap().write(b"ping");
    driver.add(&[(GuestAddr(0x8_0000), 4)], &[(GuestAddr(0x9_0000), 4)], 42).unwrap();
    assert!(driver.publish());
    let mut burst = Burst::new();
    assert_eq!(device.pop(session.memory(), &mut burst, 8), Ok(1));
    let chain = burst.take().unwrap();
    let mut bytes = [0; 4];
    burst.readable(&chain)[0].read(&mut bytes);
    assert_eq!(&bytes, b"ping");
    burst.writable(&chain)[0].write(b"pong");
    device.complete(&burst, chain, 4);
    device.flush();
    assert_eq!(driver.pop_used().unwrap(), Some((42, 4)));
    guest.slice(GuestAddr(0x9_0000), 4).unwrap().read(&mut bytes);
    assert_eq!(&bytes, b"pong");
}

#[test]
fn a_modern_driver_gets_rings_that_carry_chains() {
    let (mut wire, file) = Wire::mapped(description(Interface::Modern));
    assert_eq!(wire.negotiate(VERSION_1 | MAC | EVENT_IDX), 11);
    let [Event::ResetDevice, Event::Features { acknowledged, restart }] = &wire.told[..] else { panic!() };
    assert_eq!((*acknowledged, restart.len()), (VERSION_1 | MAC | EVENT_IDX, 0));
    wire.told.clear();
    wire.set_queue(1, 0xffff, ring_at(1));
    let start = start(&mut wire.told);
    assert_eq!((start.index, start.enabled, start.setup.size.get()), (1, false, 64));
    assert!(start.setup.features.event_idx && !start.setup.features.packed);
    assert!(is_same_eventfd(start.kick.as_ref().unwrap(), &wire.host.kicks[1]));
    // Without MSI-X the driver is called through the host.
    assert!(is_same_eventfd(start.call.as_ref().unwrap(), &wire.host.interrupt));
    assert!(wire.told.is_empty() && !wire.session.is_driver_ok());
    wire.driver_ok();
    assert!(matches!(wire.told[..], [Event::QueueEnable { index: 1, enabled: true }]));
    assert!(wire.session.is_driver_ok());
    one_chain(&wire.session, &file, &start, &start.setup);
    // A ring that starts later is served at once.
    wire.told.clear();
    wire.set_queue(0, 0xffff, ring_at(0));
    assert!(matches!(&wire.told[..], [Event::QueueStart(start)] if start.enabled && start.index == 0));
    // Doorbells: by message, whether waited for or not.
    wire.told.clear();
    wire.post_write(common::BAR, common::NOTIFY + 4, &1u16.to_le_bytes());
    wire.write(common::BAR, common::NOTIFY, &0u16.to_le_bytes());
    wire.post_write(common::BAR, common::NOTIFY + 8, &2u16.to_le_bytes());
    assert_eq!(wire.names(), ["QueueKicked 1", "QueueKicked 0"], "and none for a queue that does not run");
}

#[test]
fn a_legacy_driver_gets_a_ring_in_one_piece() {
    let (mut wire, file) = Wire::mapped(description(Interface::Transitional));
    wire.write(0, 0x12, &[1]);
    wire.write(0, 0x12, &[3]);
    wire.write(0, 0x04, &(MAC as u32).to_le_bytes());
    wire.write(0, 0x0e, &1u16.to_le_bytes());
    assert_eq!(wire.read::<2>(0, 0x0c), 256u16.to_le_bytes());
    wire.write(0, 0x08, &0x40u32.to_le_bytes());
    assert!(wire.told.is_empty());
    // Some legacy drivers ring before they say that they are ready.
    wire.write(0, 0x10, &1u16.to_le_bytes());
    let features = wire.told.remove(0);
    assert!(matches!(features, Event::Features { acknowledged: MAC, .. }), "{features:?}");
    let start = start(&mut wire.told);
    assert!(start.enabled, "a legacy ring is used before DRIVER_OK");
    let QueueSetup { desc, driver, device, .. } = start.setup;
    assert_eq!([desc, driver, device], [0x4_0000, 0x4_1000, 0x4_2000].map(GuestAddr));
    one_chain(&wire.session, &file, &start, &start.setup);
    wire.write(0, 0x12, &[7]);
    assert_eq!(wire.names(), ["QueueKicked 1"]);
    // An address of 0 ends it.
    wire.write(0, 0x08, &[0; 4]);
    assert_eq!(wire.names(), ["QueueStop 1"]);
}

#[test]
fn features_that_the_device_refuses_are_not_there() {
    let (mut wire, _file) = Wire::mapped(description(Interface::Modern));
    wire.fails = |event| matches!(event, Event::Features { .. });
    assert_eq!(wire.negotiate(VERSION_1 | MAC), 3);
    wire.set_queue(0, 0xffff, ring_at(0));
    assert_eq!(wire.names(), ["ResetDevice", "Features"], "no ring starts without features");
    wire.fails = |_| false;
    assert_eq!(wire.negotiate(VERSION_1), 11);
    // What was never offered is refused without asking.
    assert_eq!(wire.names(), ["ResetDevice", "Features"]);
    assert_eq!(wire.negotiate(VERSION_1 | 1 << 60), 3);
    assert_eq!(wire.names(), ["ResetDevice"]);
}

#[test]
fn rings_that_cannot_be_are_named_and_the_driver_is_told() {
    let at = |[desc, driver, device]: [u64; 3]| {
        let (mut wire, _file) = Wire::mapped(description(Interface::Modern));
        assert_eq!(wire.negotiate(VERSION_1), 11);
        wire.driver_ok();
        wire.told.clear();
        wire.set_queue(0, 0xffff, [desc, driver, device]);
        let [Event::QueueRefused { index: 0, fault }] = &wire.told[..] else { panic!("{:?}", wire.told) };
        let fault = *fault;
        assert_eq!(wire.read::<1>(common::BAR, common::STATUS), [15 | 64], "DEVICE_NEEDS_RESET");
        assert_eq!(wire.read::<2>(common::BAR, common::QUEUE_ENABLE), [0, 0]);
        // After a reset it may try again.
        assert_eq!(wire.negotiate(VERSION_1), 11);
        wire.set_queue(0, 0xffff, ring_at(0));
        assert_eq!(wire.names().last().unwrap(), "QueueStart 0");
        fault
    };
    for area in
        [[16 * MIB, 0x1_2000, 0x1_4000], [0x1_0000, 0x1_2000, u64::MAX - 3], [0x1_0008, 0x1_2000, 0x1_4000]]
    {
        let fault = at(area);
        assert!(matches!(fault, QueueFault::Setup(_)), "{fault}");
    }
}

#[test]
fn a_ring_that_the_host_cannot_start_is_refused_to_the_driver() {
    let (mut wire, _file) = Wire::mapped(description(Interface::Modern));
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.fails = |event| matches!(event, Event::QueueStart(_));
    wire.set_queue(2, 0xffff, ring_at(2));
    assert_eq!(wire.read::<1>(common::BAR, common::STATUS), [11 | 64]);
    wire.told.clear();
    wire.fails = |_| false;
    assert_eq!(wire.negotiate(VERSION_1), 11);
    assert_eq!(wire.names(), ["ResetDevice", "Features"], "it counts as stopped");
}

#[test]
fn resets_of_every_kind_stop_what_runs() {
    let stops = ["QueueStop 0", "QueueStop 1", "QueueStop 2", "ResetDevice"];
    let (mut wire, ..) = Wire::running(true);
    wire.told.clear();
    wire.post_write(common::BAR, common::STATUS, &[0]);
    assert_eq!(wire.names(), stops);
    assert_eq!(wire.read::<1>(common::BAR, common::STATUS), [0]);
    let (mut wire, ..) = Wire::running(false);
    wire.told.clear();
    wire.ask(RESET, &[]);
    assert_eq!(wire.names(), stops);
    assert!(!wire.session.is_driver_ok());
    // One queue.
    let (mut wire, ..) = Wire::running(true);
    wire.told.clear();
    wire.post_write(common::BAR, common::QUEUE_SELECT, &1u16.to_le_bytes());
    wire.post_write(common::BAR, common::QUEUE_RESET, &1u16.to_le_bytes());
    assert_eq!(wire.names(), ["QueueStop 1"]);
    assert_eq!(wire.read::<2>(common::BAR, common::QUEUE_RESET), [0, 0]);
    wire.set_queue(1, 2, ring_at(1));
    assert_eq!(wire.names(), ["QueueStart 1"]);
}

#[test]
fn writes_to_the_device_configuration_are_the_hosts() {
    let (mut wire, ..) = Wire::running(true);
    wire.told.clear();
    wire.post_write(common::BAR, 0x2000, &[0x52]);
    let [Event::ConfigWrite { offset: 0, bytes, migration: false }] = &wire.told[..] else { panic!() };
    assert_eq!(bytes[..], [0x52]);
    assert_eq!(wire.read::<2>(common::BAR, 0x2000), [1, 2], "until the host takes it");
    wire.session.set_config(&[0x52, 9]);
    assert_eq!(wire.read::<2>(common::BAR, 0x2000), [0x52, 9]);
}

/// Where the notify page is mapped, rings are polled; a doorbell that comes all the same is passed on.
#[test]
fn mapped_doorbells_have_no_kick() {
    let mut function = description(Interface::Modern);
    function.mapped = true;
    let (mut wire, _file) = Wire::mapped(function);
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.set_queue(0, 0xffff, ring_at(0));
    assert!(start(&mut wire.told).kick.is_none());
    wire.post_write(common::BAR, common::NOTIFY, &0u16.to_le_bytes());
    assert_eq!(wire.names().last().unwrap(), "QueueKicked 0");
}

/// The administration queue is the last; what it stops is kept and not served.
#[test]
fn an_administration_command_stops_the_device_and_resumes_it() {
    const ADMIN_VQ: u64 = 1 << 41;
    let mut function = description(Interface::Modern);
    function.admin_queue = Some(QueueSize::try_from(16).unwrap());
    let (mut wire, _file) = Wire::mapped(function);
    assert_eq!(wire.negotiate(VERSION_1 | ADMIN_VQ), 11);
    assert!(matches!(wire.told[1], Event::Features { acknowledged: VERSION_1, .. }), "the transport's own");
    wire.set_queue(0, 0xffff, ring_at(0));
    wire.driver_ok();
    wire.told.clear();
    wire.post_write(common::BAR, common::QUEUE_SELECT, &3u16.to_le_bytes());
    for (area, address) in (0..).zip(ring_at(3)) {
        wire.post_write(common::BAR, common::QUEUE_DESC + 8 * area, &(address as u32).to_le_bytes());
    }
    wire.post_write(common::BAR, common::QUEUE_ENABLE, &1u16.to_le_bytes());
    let admin = start(&mut wire.told);
    assert_eq!((admin.index, admin.setup.size.get(), admin.enabled), (3, 16, true));
    assert!(is_same_eventfd(admin.kick.unwrap(), &wire.host.kicks[3]));
    let mut command = |opcode: u16, data: &[u8]| {
        let bytes = [&opcode.to_le_bytes()[..], &[0; 22], data].concat();
        assert_eq!(wire.session.admin_command(&bytes, 64)[..4], [0; 4]);
        wire.run().unwrap();
        wire.told.drain(..).collect::<Vec<_>>()
    };
    // LIST_USE of DEV_MODE_SET, which stops, and resumes.
    let list = command(1, &0x2_0003u64.to_le_bytes());
    assert!(list.is_empty());
    assert!(matches!(
        command(0x11, &[1, 0, 0, 0, 0, 0, 0, 0])[..],
        [Event::QueueEnable { index: 0, enabled: false }]
    ));
    assert!(matches!(command(0x11, &[0; 8])[..], [Event::QueueEnable { index: 0, enabled: true }]));
    assert!(matches!(
        command(0x11, &[1, 0, 0, 0, 0, 0, 0, 0])[..],
        [Event::QueueEnable { index: 0, enabled: false }]
    ));
    // A ring that starts meanwhile waits as well; a reset ends it all.
    wire.set_queue(1, 0xffff, ring_at(1));
    assert!(wire.told.is_empty());
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.set_queue(1, 0xffff, ring_at(1));
    wire.driver_ok();
    assert_eq!(wire.names().split_off(3), ["Features", "QueueStart 1", "QueueEnable 1"]);
}
