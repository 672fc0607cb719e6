//! Where calls go: MSI-X, INTx, and what the client does with its eventfds.

use crate::wire::*;
use std::os::fd::OwnedFd;
use transport::vfio_user::Event;

const TRIGGER: u32 = 0x24;

fn call(wire: &mut Wire) -> Option<OwnedFd> {
    let Some(Event::QueueCall { call, .. }) = wire.told.pop() else { panic!("{:?}", wire.told) };
    call
}

#[test]
fn queues_call_by_the_clients_own_eventfds() {
    let (wire, vectors, _file) = Wire::running(true);
    let calls = wire.told.iter().filter_map(|event| match event {
        Event::QueueStart(start) => Some((start.index, start.call.as_ref().unwrap())),
        _ => None,
    });
    let calls: Vec<_> = calls.collect();
    assert_eq!(calls.len(), 3);
    for (index, call) in calls {
        assert!(is_same_eventfd(call, &vectors[usize::from(index) + 1]));
    }
}

#[test]
fn vectors_move_while_queues_run() {
    use common::*;
    let (mut wire, vectors, _file) = Wire::running(true);
    wire.told.clear();
    // The driver gives queue 1 another vector, then none, then the one it had.
    wire.post_write(BAR, QUEUE_SELECT, &1u16.to_le_bytes());
    wire.post_write(BAR, QUEUE_VECTOR, &3u16.to_le_bytes());
    assert!(is_same_eventfd(call(&mut wire).unwrap(), &vectors[3]));
    wire.post_write(BAR, QUEUE_VECTOR, &0xffffu16.to_le_bytes());
    assert!(call(&mut wire).is_none());
    wire.post_write(BAR, QUEUE_VECTOR, &2u16.to_le_bytes());
    assert!(is_same_eventfd(call(&mut wire).unwrap(), &vectors[2]));
    // The client gives that vector another eventfd, takes it away, takes all away.
    let other = eventfd();
    wire.ask_with(SET_IRQS, &set_irqs(TRIGGER, 2, 2, 1), vec![other.try_clone().unwrap()]).unwrap();
    assert!(is_same_eventfd(call(&mut wire).unwrap(), &other));
    wire.ask(SET_IRQS, &set_irqs(TRIGGER, 2, 2, 1));
    assert!(call(&mut wire).is_none() && wire.told.is_empty());
    wire.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 0));
    assert_eq!(wire.names(), ["QueueCall 0", "QueueCall 2"]);
    // MSI-X off: INTx is left.
    wire.enable_msix(false);
    assert_eq!(wire.told.len(), 3);
    assert!(is_same_eventfd(call(&mut wire).unwrap(), &wire.host.interrupt));
}

#[test]
fn vectors_come_in_chunks() {
    let (mut wire, _, _file) = Wire::running(true);
    wire.told.clear();
    let fds: Vec<OwnedFd> = (0..4).map(|_| eventfd()).collect();
    for start in [0, 2] {
        let chunk = fds[start..start + 2].iter().map(|fd| fd.try_clone().unwrap()).collect();
        wire.ask_with(SET_IRQS, &set_irqs(TRIGGER, 2, start as u32, 2), chunk).unwrap();
    }
    assert_eq!(wire.told.len(), 3);
    for index in (1..4).rev() {
        assert!(is_same_eventfd(call(&mut wire).unwrap(), &fds[index]));
    }
}

#[test]
fn a_client_tries_its_vectors() {
    let (mut wire, vectors, _file) = Wire::running(true);
    wire.told.clear();
    wire.ask(SET_IRQS, &set_irqs(0x21, 2, 1, 2));
    // One byte for each: only the chosen one.
    wire.ask(SET_IRQS, &[set_irqs(0x22, 2, 0, 4), vec![0, 0, 0, 1]].concat());
    let expected = [1, 2, 3];
    assert_eq!(wire.told.len(), expected.len());
    for (event, vector) in wire.told.iter().zip(expected) {
        let Event::Interrupt(eventfd) = event else { panic!("{event:?}") };
        assert!(is_same_eventfd(eventfd, &vectors[vector]));
    }
}

#[test]
fn a_change_of_configuration_is_told_by_its_vector() {
    let (mut wire, vectors, _file) = Wire::running(true);
    wire.session.set_config(&[7; 60]);
    assert!(is_same_eventfd(wire.session.send_config_change().unwrap(), &vectors[0]));
    assert!(is_same_eventfd(wire.session.needs_reset().unwrap(), &vectors[0]));
    assert_eq!(wire.read::<1>(common::BAR, common::STATUS), [15 | 64]);
    // While the client has taken the vector away it waits, once.
    wire.ask(SET_IRQS, &set_irqs(TRIGGER, 2, 0, 1));
    assert!(wire.session.send_config_change().is_none());
    assert!(wire.session.send_config_change().is_none());
    wire.told.clear();
    let other = eventfd();
    wire.ask_with(SET_IRQS, &set_irqs(TRIGGER, 2, 0, 1), vec![other.try_clone().unwrap()]).unwrap();
    let [Event::Interrupt(eventfd)] = &wire.told[..] else { panic!("{:?}", wire.told) };
    assert!(is_same_eventfd(eventfd, &other));
    // A driver that wants none is not told, and not a driver that is not there.
    wire.post_write(common::BAR, common::CONFIG_VECTOR, &0xffffu16.to_le_bytes());
    assert!(wire.session.send_config_change().is_none());
    wire.ask(RESET, &[]);
    assert!(wire.session.send_config_change().is_none());
}

#[test]
fn intx_is_a_level() {
    let (mut wire, lines, _file) = Wire::running(false);
    for event in &wire.told {
        if let Event::QueueStart(start) = event {
            assert!(is_same_eventfd(start.call.as_ref().unwrap(), &wire.host.interrupt));
        }
    }
    assert!(is_same_eventfd(wire.session.queue_interrupt().unwrap(), &lines[0]));
    assert!(wire.session.queue_interrupt().is_none(), "asserted already");
    assert_eq!(wire.read::<1>(7, 6)[0] & 8, 8, "the status bit of PCI");
    // The driver reads the ISR status, and the next interrupt is a new one.
    assert_eq!(wire.read::<1>(common::BAR, common::ISR), [1]);
    assert_eq!(wire.read::<1>(7, 6)[0] & 8, 0);
    assert!(wire.session.queue_interrupt().is_some());
    assert!(wire.session.send_config_change().is_none(), "the same line");
    assert_eq!(wire.read::<1>(common::BAR, common::ISR), [3]);
    assert!(wire.session.send_config_change().is_some());
}

/// The client of a machine without KVM: it unmasks after each access to the device, and the interrupt comes again if its
/// cause is still there.
#[test]
fn intx_comes_again_when_it_is_unmasked() {
    let (mut wire, lines, _file) = Wire::running(false);
    wire.told.clear();
    wire.ask(SET_IRQS, &set_irqs(0x11, 0, 0, 1));
    assert!(wire.told.is_empty(), "nothing is asserted");
    wire.session.queue_interrupt().unwrap();
    wire.ask(SET_IRQS, &set_irqs(0x11, 0, 0, 1));
    let [Event::Interrupt(eventfd)] = &wire.told[..] else { panic!("{:?}", wire.told) };
    assert!(is_same_eventfd(eventfd, &lines[0]));
    wire.read::<1>(common::BAR, common::ISR);
    wire.told.clear();
    // Masked, by either kind of data: it waits.
    for mask in [set_irqs(0x9, 0, 0, 1), [set_irqs(0xa, 0, 0, 1), vec![1]].concat()] {
        wire.ask(SET_IRQS, &mask);
        assert!(wire.session.queue_interrupt().is_none());
        wire.ask(SET_IRQS, &[set_irqs(0x12, 0, 0, 1), vec![0]].concat());
        assert!(wire.told.is_empty(), "not the one that was chosen");
        wire.ask(SET_IRQS, &[set_irqs(0x12, 0, 0, 1), vec![1]].concat());
        assert_eq!(wire.names(), ["Interrupt"]);
        wire.read::<1>(common::BAR, common::ISR);
    }
}

/// The client of a machine with KVM: mask, trigger, the resample eventfd, unmask.
#[test]
fn intx_comes_again_when_the_guest_is_done_with_it() {
    let (mut wire, lines, _file) = Wire::running(false);
    wire.told.clear();
    wire.ask(SET_IRQS, &set_irqs(0x9, 0, 0, 1));
    assert!(wire.session.queue_interrupt().is_none());
    let (trigger, resample) = (eventfd(), eventfd());
    wire.ask_with(SET_IRQS, &set_irqs(TRIGGER, 0, 0, 1), vec![trigger.try_clone().unwrap()]).unwrap();
    assert!(wire.told.is_empty(), "masked still");
    wire.ask_with(SET_IRQS, &set_irqs(0x14, 0, 0, 1), vec![resample.try_clone().unwrap()]).unwrap();
    let Some(Event::Resample(Some(watched))) = wire.told.pop() else { panic!() };
    assert!(is_same_eventfd(&resample, &watched));
    wire.ask(SET_IRQS, &set_irqs(0x11, 0, 0, 1));
    let [Event::Interrupt(eventfd)] = &wire.told[..] else { panic!("{:?}", wire.told) };
    assert!(is_same_eventfd(eventfd, &trigger));
    assert_eq!(signals(&lines[0]), 0, "not the eventfd that was replaced");
    wire.told.clear();
    assert!(is_same_eventfd(wire.session.resampled().unwrap(), &trigger));
    wire.read::<1>(common::BAR, common::ISR);
    assert!(wire.session.resampled().is_none());
    // Without the resample eventfd, and without anything.
    wire.ask(SET_IRQS, &set_irqs(0x14, 0, 0, 1));
    assert!(matches!(wire.told.pop(), Some(Event::Resample(None))));
    wire.session.queue_interrupt().unwrap();
    wire.ask(SET_IRQS, &set_irqs(0x21, 0, 0, 0));
    assert!(wire.session.resampled().is_none());
    // Set up again, it is still asserted.
    wire.ask_with(SET_IRQS, &set_irqs(TRIGGER, 0, 0, 1), vec![trigger]).unwrap();
    assert_eq!(wire.names(), ["Interrupt"]);
}

#[test]
fn intx_that_is_switched_off_waits() {
    let (mut wire, _, _file) = Wire::running(false);
    wire.told.clear();
    wire.write(7, 4, &[0x06, 0x04]);
    assert!(wire.session.queue_interrupt().is_none());
    assert_eq!(wire.names(), [""; 0]);
    wire.write(7, 4, &[0x06, 0x00]);
    assert_eq!(wire.names(), ["Interrupt"]);
}

#[test]
fn interrupts_that_cannot_be_set_are_refused() {
    let (mut wire, _, _file) = Wire::running(true);
    wire.told.clear();
    let fds = |count| (0..count).map(|_| eventfd()).collect::<Vec<OwnedFd>>();
    for (payload, count) in [
        // Indices and ranges that do not exist.
        (set_irqs(TRIGGER, 5, 0, 1), 1),
        (set_irqs(TRIGGER, 1, 0, 1), 1),
        (set_irqs(TRIGGER, 4, 0, 1), 1),
        (set_irqs(TRIGGER, 2, 4, 1), 1),
        (set_irqs(TRIGGER, 2, 3, 2), 2),
        (set_irqs(TRIGGER, 2, u32::MAX, 2), 2),
        (set_irqs(TRIGGER, 2, 0, u32::MAX), 1),
        (set_irqs(TRIGGER, 0, 0, 2), 2),
        (set_irqs(TRIGGER, 2, 0, 0), 0),
        (set_irqs(0x21, 2, 1, 0), 0),
        // More or fewer descriptors than interrupts.
        (set_irqs(TRIGGER, 2, 0, 2), 1),
        (set_irqs(TRIGGER, 2, 0, 1), 2),
        (set_irqs(0x21, 2, 0, 1), 1),
        // No action, two, no data, two, more; actions that do not go with their data or kind.
        (set_irqs(0x4, 2, 0, 1), 1),
        (set_irqs(0x31, 0, 0, 1), 0),
        (set_irqs(0x20, 2, 0, 1), 0),
        (set_irqs(0x23, 2, 0, 1), 0),
        (set_irqs(0x61, 2, 0, 1), 0),
        (set_irqs(0x9, 2, 0, 1), 0),
        (set_irqs(0x14, 2, 0, 1), 1),
        (set_irqs(0xc, 0, 0, 1), 1),
        // Truth values that are not there.
        (set_irqs(0x22, 2, 0, 4), 0),
    ] {
        assert_eq!(wire.refused_with(SET_IRQS, &payload, fds(count)), EINVAL, "{:?}", words(&payload));
    }
    assert!(wire.told.is_empty());
}
