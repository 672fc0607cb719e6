//! No wake-up is lost: two threads that really sleep, and every interleaving of a small model.

mod rig;

use guestmem::GuestAddr;
use rig::{DATA, Rig, all_features};
use std::collections::HashSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use virtqueue::{Burst, DeviceQueue, QueueSize, RingState};

/// What a kick or a call rings.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }

    /// Sleeps until it rings. A wake-up that was lost shows as a sleep without end.
    fn wait(&self) {
        let guard = self.rung.lock().unwrap();
        let patience = Duration::from_secs(60);
        let (mut guard, outcome) = self.heard.wait_timeout_while(guard, patience, |rung| !*rung).unwrap();
        assert!(!outcome.timed_out(), "a wake-up was lost");
        *guard = false;
    }
}

/// The device: serves `total` chains and sleeps whenever there is none.
fn serve(
    rig_memory: &std::sync::Arc<guestmem::GuestMemory>,
    mut queue: DeviceQueue,
    total: u64,
    bells: &[Bell; 2],
) {
    let [kick, call] = bells;
    let mut burst = Burst::new();
    let mut served = 0;
    while served < total {
        queue.disable_notify();
        loop {
            let popped = queue.pop(rig_memory, &mut burst, 7).unwrap();
            while let Some(chain) = burst.take() {
                queue.complete(&burst, chain, 0);
            }
            if queue.flush() {
                call.ring();
            }
            served += popped as u64;
            if popped == 0 {
                break;
            }
            burst = burst.recycle();
        }
        if served < total && !queue.enable_notify() {
            kick.wait();
        }
    }
}

#[test]
fn two_threads_always_wake_each_other() {
    for features in all_features() {
        let total = if cfg!(miri) { 30 } else { 20_000 };
        let mut rig = Rig::new(QueueSize::try_from(8).unwrap(), features, 1);
        let queue = DeviceQueue::new(&rig.memory, &rig.setup, RingState::default()).unwrap();
        let bells = [Bell::default(), Bell::default()];
        let memory = rig.memory.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&memory, queue, total, &bells));
            let [kick, call] = &bells;
            let (mut sent, mut back) = (0, 0);
            while back < total {
                while sent < total && rig.driver.add(&[(GuestAddr(DATA), 8)], &[], sent).is_ok() {
                    sent += 1;
                    if sent % 3 == 0 && rig.driver.publish() {
                        kick.ring();
                    }
                }
                if rig.driver.publish() {
                    kick.ring();
                }
                rig.driver.disable_call();
                let before = back;
                while let Some((token, 0)) = rig.driver.pop_used().unwrap() {
                    assert_eq!(token, back);
                    back += 1;
                }
                if back == before && !rig.driver.enable_call() {
                    call.wait();
                }
            }
        });
    }
}

/// A model of the split ring's kick: the driver publishes `ITEMS` entries one by one, the device pops and
/// sleeps. Stores go through a buffer, as on x86-64 (and a fence empties it), so that a missing fence shows.
///
/// ```text
/// driver, for each entry:  avail = n        [fence]  read event, kick if passed
/// device, for ever:        read avail, pop  ..  event = popped  [fence]  read avail, sleep if equal
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Model {
    avail: u8,
    event: u8,
    /// Stores that are not yet visible to the other side.
    driver_store: Option<u8>,
    device_store: Option<u8>,
    driver: Driver,
    published: u8,
    device: Device,
    popped: u8,
    kicked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Driver {
    #[default]
    Publish,
    ReadEvent,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Device {
    #[default]
    Pop,
    Enable,
    LookAgain,
    Asleep,
}

const ITEMS: u8 = 4;

impl Model {
    /// Every state that one step leads to.
    fn next(&self, fences: bool) -> Vec<Self> {
        let mut states = Vec::new();
        let mut push = |change: &dyn Fn(&mut Self)| {
            let mut state = self.clone();
            change(&mut state);
            states.push(state);
        };
        if let Some(avail) = self.driver_store {
            push(&|state| (state.avail, state.driver_store) = (avail, None));
        }
        if let Some(event) = self.device_store {
            push(&|state| (state.event, state.device_store) = (event, None));
        }
        match self.driver {
            // One store is buffered at a time; the next one waits for it.
            Driver::Publish if self.driver_store.is_none() => push(&|state| {
                state.published += 1;
                state.driver_store = Some(state.published);
                state.driver = Driver::ReadEvent;
            }),
            Driver::ReadEvent if !fences || self.driver_store.is_none() => push(&|state| {
                // The event index is passed when the entry with that index was just published.
                state.kicked |= state.event == state.published - 1;
                state.driver = if state.published == ITEMS { Driver::Done } else { Driver::Publish };
            }),
            _ => {}
        }
        match self.device {
            Device::Pop => push(&|state| {
                if state.avail == state.popped {
                    state.device = Device::Enable;
                } else {
                    state.popped += 1;
                }
            }),
            Device::Enable if self.device_store.is_none() => push(&|state| {
                state.device_store = Some(state.popped);
                state.device = Device::LookAgain;
            }),
            Device::LookAgain if !fences || self.device_store.is_none() => push(&|state| {
                state.device = if state.avail == state.popped { Device::Asleep } else { Device::Pop };
            }),
            Device::Asleep if self.kicked => push(&|state| {
                state.kicked = false;
                state.device = Device::Pop;
            }),
            _ => {}
        }
        states
    }

    /// Walks every interleaving; whether some end leaves the device asleep over available entries.
    fn loses_a_wakeup(fences: bool) -> (bool, usize) {
        let (mut seen, mut open, mut lost) = (HashSet::new(), vec![Self::default()], false);
        while let Some(state) = open.pop() {
            if !seen.insert(state.clone()) {
                continue;
            }
            let next = state.next(fences);
            lost |= next.is_empty() && state.popped < ITEMS;
            open.extend(next);
        }
        (lost, seen.len())
    }
}

#[test]
#[cfg(not(miri))]
fn no_interleaving_loses_a_wakeup() {
    let (lost, states) = Model::loses_a_wakeup(true);
    assert!(!lost && states > 100, "{states} states");
}

#[test]
#[cfg(not(miri))]
fn without_the_fences_the_model_finds_the_loss() {
    assert!(Model::loses_a_wakeup(false).0);
}
