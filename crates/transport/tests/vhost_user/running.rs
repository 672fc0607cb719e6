//! Changes under running rings: memory, dirty log, addresses, fds, enabling.

use crate::wire::*;
use guestmem::GuestAddr;
use std::os::fd::AsFd;
use transport::vhost_user::{Event, FrontendFault, Outcome, QueueRestart, Request};
use virtqueue::RingState;

fn finish_all(wire: &mut Wire) {
    wire.session.finish(Outcome::Done);
    assert!(wire.session.next_event().unwrap().is_none());
}

fn memory_event(event: Option<Event>) -> Vec<QueueRestart> {
    let Some(Event::Memory { restart, .. }) = event else { panic!("{event:?}") };
    restart
}

#[test]
fn a_new_table_moves_running_rings_to_the_new_memory() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.start_ring(0, 0x10_0000);
    wire.start_ring(2, 0x20_0000);
    // The same front-end addresses, now 32 MiB higher for the guest, before them a new region.
    let moved = [32 * MIB, 16 * MIB, USER, 0];
    let table = mem_table(&[moved, [0, MIB, USER + 64 * MIB, 0]]);
    let event = wire.event(5, &table, vec![memfd(16 * MIB), memfd(MIB)]).unwrap();
    let restart = memory_event(event);
    let places: Vec<_> = restart.iter().map(|r| (r.index, r.setup.as_ref().unwrap().desc)).collect();
    assert_eq!(places, [(0, GuestAddr(33 * MIB)), (2, GuestAddr(34 * MIB))]);
    finish_all(&mut wire);
}

#[test]
fn a_ring_whose_memory_goes_away_is_suspended_until_it_is_back() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.quiet(37, &mem_reg(region(64 * MIB, MIB)), vec![memfd(MIB)]);
    wire.start_ring(0, 0);
    wire.start_ring(1, 64 * MIB);
    let gone = mem_reg(region(64 * MIB, MIB));
    let restart = memory_event(wire.event(38, &gone, vec![]).unwrap());
    let kept: Vec<_> = restart.iter().map(|r| (r.index, r.setup.is_some())).collect();
    assert_eq!(kept, [(0, true), (1, false)]);
    finish_all(&mut wire);
    // Something else changes: the suspended ring is not mentioned again.
    let other = mem_reg(region(128 * MIB, MIB));
    let restart = memory_event(wire.event(37, &other, vec![memfd(MIB)]).unwrap());
    assert_eq!(restart.iter().map(|r| r.index).collect::<Vec<_>>(), [0]);
    finish_all(&mut wire);
    let restart = memory_event(wire.event(37, &gone, vec![memfd(MIB)]).unwrap());
    assert!(restart.iter().any(|r| r.index == 1 && r.setup.is_some()));
    finish_all(&mut wire);
    // Stopping a suspended ring still asks the host, who kept its state.
    wire.quiet(38, &gone, vec![]);
    assert!(matches!(wire.event(11, &u32s(&[1, 0]), vec![]), Ok(Some(Event::QueueStop { index: 1, .. }))));
    wire.session.finish(Outcome::Stopped(RingState { avail: 4, used: 4, ..RingState::default() }));
    assert_eq!(wire.reply(11).unwrap(), u32s(&[1, 4]));
}

#[test]
fn a_migration_begins_and_ends_under_running_rings() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.start_ring(0, 0);
    wire.start_ring(1, 0x10_0000);
    let log = memfd(4096);
    // The log first: nothing is logged yet, so nothing restarts. The answer comes without REPLY_ACK.
    let base = u64s(&[512, 0]);
    assert!(wire.event(6, &base, vec![log.try_clone().unwrap()]).unwrap().is_none());
    assert_eq!(wire.reply(6).unwrap(), base);
    let event = wire.event(2, &u64s(&[VERSION_1 | PROTOCOL | LOG_ALL]), vec![]).unwrap();
    let Some(Event::Features { acknowledged, restart }) = event else { panic!("{event:?}") };
    assert_eq!((acknowledged, restart.len()), (VERSION_1, 2));
    let ring_log = restart[0].setup.as_ref().unwrap().log.as_ref().unwrap();
    assert_eq!(ring_log.used_ring, None);
    ring_log.log.mark(GuestAddr(0x5000), 1);
    let mut bytes = [0];
    rustix::io::pread(log.as_fd(), &mut bytes, 0).unwrap();
    assert_eq!(bytes[0], 1 << 5);
    finish_all(&mut wire);
    // Then QEMU asks for the used rings too.
    let event = wire.event(9, &vring_addr(1, true, 0x10_0000), vec![]).unwrap();
    let Some(Event::QueuesRestart(restart)) = event else { panic!("{event:?}") };
    let setup = restart[0].setup.as_ref().unwrap();
    assert_eq!((restart[0].index, setup.log.as_ref().unwrap().used_ring), (1, Some(GuestAddr(0x10_2000))));
    finish_all(&mut wire);
    assert!(wire.event(9, &vring_addr(1, true, 0x10_0000), vec![]).unwrap().is_none(), "nothing new");
    // A larger log replaces it while logging goes on.
    let event = wire.event(6, &u64s(&[4096, 0]), vec![memfd(4096)]).unwrap();
    assert!(matches!(event, Some(Event::QueuesRestart(restart)) if restart.len() == 2));
    finish_all(&mut wire);
    assert!(wire.reply(6).is_some() && wire.session.next_outgoing().is_none());
    let event = wire.event(2, &u64s(&[VERSION_1 | PROTOCOL]), vec![]).unwrap();
    let Some(Event::Features { restart, .. }) = event else { panic!("{event:?}") };
    assert!(restart.iter().all(|r| r.setup.as_ref().unwrap().log.is_none()));
    finish_all(&mut wire);
}

#[test]
fn running_rings_take_new_fds_and_enabling() {
    let mut wire = Wire::negotiated(VERSION_1);
    wire.start_ring(1, 0);
    let event = wire.event(12, &u64s(&[1]), vec![eventfd()]).unwrap();
    assert!(matches!(event, Some(Event::QueueKick { index: 1, kick: Some(_) })));
    finish_all(&mut wire);
    let event = wire.event(13, &u64s(&[0x101]), vec![]).unwrap();
    assert!(matches!(event, Some(Event::QueueCall { index: 1, call: None })));
    finish_all(&mut wire);
    let event = wire.event(14, &u64s(&[1]), vec![eventfd()]).unwrap();
    assert!(matches!(event, Some(Event::QueueErr { index: 1, err: Some(_) })));
    finish_all(&mut wire);
    let enable = |wire: &mut Wire, value| wire.event(18, &u32s(&[1, value]), vec![]).unwrap();
    assert!(enable(&mut wire, 0).is_none(), "it was not enabled");
    assert!(matches!(enable(&mut wire, 1), Some(Event::QueueEnable { index: 1, enabled: true })));
    finish_all(&mut wire);
    assert!(enable(&mut wire, 1).is_none());
    assert!(matches!(enable(&mut wire, 0), Some(Event::QueueEnable { index: 1, enabled: false })));
}

#[test]
fn what_only_a_stopped_ring_takes_is_refused() {
    let running = || {
        let mut wire = Wire::negotiated(VERSION_1);
        wire.start_ring(0, 0);
        wire
    };
    let expected = |request| FrontendFault::QueueRunning { request, index: 0 };
    assert_eq!(running().fault(8, &u32s(&[0, 64]), vec![]), expected(Request::SetVringNum));
    assert_eq!(running().fault(10, &u32s(&[0, 64]), vec![]), expected(Request::SetVringBase));
    let fault = running().fault(2, &u64s(&[VERSION_1 | PROTOCOL | EVENT_IDX]), vec![]);
    assert_eq!(fault, FrontendFault::FeaturesWhileRunning { bits: EVENT_IDX });
    let fault = running().fault(9, &vring_addr(0, false, 32 * MIB), vec![]);
    assert_eq!(fault.name(), "queue-outside-memory");
    // The same features once more (another queue pair's vhost device) are nothing new.
    assert!(running().event(2, &u64s(&[VERSION_1 | PROTOCOL]), vec![]).unwrap().is_none());
}
