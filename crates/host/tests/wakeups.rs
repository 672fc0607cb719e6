//! How many system calls waking costs: none for a receiver that polls, one a burst for one that sleeps; and one for a worker
//! that sleeps.
//!
//! What is counted: calls as the plane counts them, writes to the receiver's call descriptor as its counter tells them, and
//! every `write` of the worker's thread as the kernel's account has them (`syscw` of proc(5)): a worker on its way between
//! guests writes nothing but calls. The account of a thread is settled once a later frame has come by the same worker.

mod station;

use devices::net::Features;
use parking_lot::{Mutex, MutexGuard};
use station::{BROADCAST, Lab, MAC_A, MAC_B, PATIENCE, Station, exchange, frame, plain};
use std::path::PathBuf;
use std::time::Instant;

/// Frames of a burst: what a worker takes at once.
const BURST: usize = 32;
const BURSTS: u64 = 20;

/// Threads of one plane are told from another's by when they came.
static ONE_PLANE: Mutex<()> = Mutex::new(());

/// Every kind of ring and of asking for calls.
fn kinds() -> [Features; 4] {
    let packed = plain() | Features::RING_PACKED;
    [plain(), plain() - Features::EVENT_IDX, packed, packed - Features::EVENT_IDX]
}

/// One worker, guests a, b and c on it, and nobody asks for calls.
struct Scene {
    a: Station,
    b: Station,
    c: Station,
    worker: PathBuf,
    lab: Lab,
    _alone: MutexGuard<'static, ()>,
}

/// What was counted until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    /// Calls of a, b and c, by the plane.
    calls: [u64; 3],
    /// System calls that write, by the worker.
    writes: u64,
}

impl Scene {
    fn new(features: Features) -> Self {
        let alone = ONE_PLANE.lock();
        let before = workers();
        let lab = Lab::new("mode = \"pool\"\nthreads = 1", &["a", "b", "c"]);
        let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| Station::connect(&lab.socket(name), features));
        exchange(&mut a, &mut b, 3);
        // A thread has its name once it runs.
        let fresh: Vec<PathBuf> = workers().into_iter().filter(|path| !before.contains(path)).collect();
        let [worker] = &fresh[..] else { panic!("one worker, not {fresh:?}") };
        let worker = worker.clone();
        for station in [&mut a, &mut b, &mut c] {
            station.receive.disable_call();
            station.transmit.disable_call();
        }
        let mut scene = Self { a, b, c, worker, lab, _alone: alone };
        scene.settle();
        for station in [&scene.a, &scene.b, &scene.c] {
            // What was called for until now.
            let _ = station.call.read();
        }
        scene
    }

    /// Returns when the worker is done with all that was sent before.
    fn settle(&mut self) {
        let (last, source) = (frame(MAC_A, MAC_B, b"last", 60), MAC_B);
        self.b.send(&last);
        assert_eq!(self.a.receive_from(source), last);
        while self.c.poll().is_some() {}
    }

    /// Returns when the worker sleeps: it has nothing to wait for but kicks.
    fn until_asleep(&self) {
        let end = Instant::now() + PATIENCE;
        let sleeps = || {
            let stat = std::fs::read_to_string(self.worker.join("stat")).unwrap();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
        };
        while !sleeps() {
            assert!(Instant::now() < end, "the worker does not come to rest");
            std::thread::yield_now();
        }
    }

    fn counts(&mut self) -> Counts {
        self.settle();
        let calls = ["a", "b", "c"].map(|name| self.lab.view(name).counters.calls);
        let account = std::fs::read_to_string(self.worker.join("io")).unwrap();
        let writes = account.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap();
        Counts { calls, writes: writes.parse().unwrap() }
    }
}

/// Threads of all planes' workers in this process.
fn workers() -> Vec<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("rw-worker"))
    };
    tasks.filter(named).collect()
}

fn burst(dst: [u8; 6], count: usize, number: u64) -> Vec<Vec<u8>> {
    let payload = |index: usize| [number.to_be_bytes(), (index as u64).to_be_bytes()].concat();
    (0..count).map(|index| frame(dst, MAC_A, &payload(index), 60)).collect()
}

fn receive_all(station: &mut Station, frames: &[Vec<u8>]) {
    for sent in frames {
        assert_eq!(&station.receive().1, sent);
    }
}

/// Waits until the guest is called; how many calls there were.
fn called(station: &Station) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(count) = station.call.read() {
            return count;
        }
        assert!(Instant::now() < end, "no call came");
        std::thread::yield_now();
    }
}

#[test]
fn a_receiver_that_polls_costs_no_system_call() {
    for features in kinds() {
        let mut scene = Scene::new(features);
        let before = scene.counts();
        for number in 0..BURSTS {
            let frames = burst(MAC_B, BURST, number);
            scene.a.send_burst(&frames);
            receive_all(&mut scene.b, &frames);
        }
        assert_eq!(scene.counts(), before, "{features:?}");
        for station in [&scene.a, &scene.b] {
            assert!(station.call.read().is_err(), "a call that nobody asked for, {features:?}");
        }
    }
}

#[test]
fn a_receiver_that_sleeps_is_called_once_a_burst() {
    for features in kinds() {
        let mut scene = Scene::new(features);
        let before = scene.counts();
        for number in 0..BURSTS {
            // A worker with several active queues takes a burst in parts.
            scene.until_asleep();
            assert!(!scene.b.receive.enable_call(), "everything was taken");
            let frames = burst(MAC_B, BURST, number);
            scene.a.send_burst(&frames);
            assert_eq!(called(&scene.b), 1, "burst {number}, {features:?}");
            scene.b.receive.disable_call();
            receive_all(&mut scene.b, &frames);
        }
        let Counts { calls: [a, b, c], writes } = scene.counts();
        assert_eq!([a, b, c], [before.calls[0], before.calls[1] + BURSTS, before.calls[2]], "{features:?}");
        assert_eq!(writes, before.writes + BURSTS, "{features:?}");
        assert!(scene.b.call.read().is_err(), "a call too many, {features:?}");
    }
}

#[test]
fn a_receiver_that_sleeps_on_is_called_once_however_many_bursts_come() {
    for features in kinds().into_iter().filter(|features| features.contains(Features::EVENT_IDX)) {
        let mut scene = Scene::new(features);
        let before = scene.counts();
        assert!(!scene.b.receive.enable_call(), "everything was taken");
        let frames = burst(MAC_B, 2 * BURST, 0);
        scene.a.send_burst(&frames);
        // It is not woken before the second burst has come, too.
        receive_all(&mut scene.b, &frames);
        let after = scene.counts();
        assert_eq!(after.writes, before.writes + 1, "{features:?}");
        assert_eq!(called(&scene.b), 1, "{features:?}");
    }
}

#[test]
fn each_sleeping_receiver_of_a_broadcast_is_called_once_a_burst() {
    let mut scene = Scene::new(plain());
    let before = scene.counts();
    for number in 0..BURSTS {
        assert!(!scene.b.receive.enable_call() && !scene.c.receive.enable_call(), "everything was taken");
        let frames = burst(BROADCAST, BURST, number);
        scene.a.send_burst(&frames);
        assert_eq!((called(&scene.b), called(&scene.c)), (1, 1), "burst {number}");
        for station in [&mut scene.b, &mut scene.c] {
            station.receive.disable_call();
            receive_all(station, &frames);
        }
    }
    let after = scene.counts();
    assert_eq!(after.calls, [before.calls[0], before.calls[1] + BURSTS, before.calls[2] + BURSTS]);
    assert_eq!(after.writes, before.writes + 2 * BURSTS);
}

#[test]
fn a_worker_that_sleeps_is_kicked_once_a_burst() {
    for features in kinds() {
        let mut scene = Scene::new(features);
        let before = scene.lab.view("a").counters.kicks;
        for number in 0..BURSTS {
            scene.until_asleep();
            let frames = burst(MAC_B, BURST, number);
            assert!(scene.a.send_burst(&frames), "nobody wakes the worker, {features:?}");
            receive_all(&mut scene.b, &frames);
        }
        scene.until_asleep();
        assert_eq!(scene.lab.view("a").counters.kicks, before + BURSTS, "{features:?}");
    }
}
