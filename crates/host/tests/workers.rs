//! Who serves a queue: modes, groups, what idle guests cost, queues that move, interrupt moderation.

mod station;

use ringway::api::Plane as _;
use ringway::api::view::WorkerView;
use station::{Lab, MAC_A, MAC_B, MAC_C, Station, exchange, frame, plain};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const MODES: [&str; 4] = [
    "mode = \"per-device\"",
    "mode = \"pool\"\nthreads = 2",
    "mode = \"sidecore\"\nthreads = 2",
    "mode = \"sidecore\"\npolling = \"always\"",
];
const PATIENCE: Duration = Duration::from_secs(20);

fn open(names: &[&str]) -> String {
    names.iter().map(|name| Lab::port(name, "")).collect()
}

fn workers(lab: &Lab) -> Vec<WorkerView> {
    lab.plane.status().workers
}

#[test]
fn frames_pass_in_every_mode() {
    for mode in MODES {
        let lab = Lab::with(mode, &open(&["a", "b"]));
        let mut a = Station::connect(&lab.socket("a"), plain());
        let mut b = Station::connect(&lab.socket("b"), plain());
        exchange(&mut a, &mut b, 200);
        let workers = workers(&lab);
        assert!(mode.contains(&workers[0].mode), "{workers:?}");
        assert_eq!(workers.iter().map(|worker| worker.queues).sum::<usize>(), 4, "{workers:?}");
    }
}

#[test]
fn a_worker_that_never_sleeps_does_not() {
    let lab = Lab::with(MODES[3], &open(&["a", "b"]));
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    for _ in 0..20 {
        exchange(&mut a, &mut b, 1);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(workers(&lab)[0].sleeps, 0);
    let port = lab.view("a").counters;
    assert!(port.kicks <= 2, "its guests need not kick: {port:?}");
}

#[test]
fn a_port_goes_to_another_group_and_back_while_it_talks() {
    let group = "[worker-group.fast]\nmode = \"sidecore\"\n";
    let own = "[worker-group.own]\nmode = \"per-device\"\n";
    let b = |more: &str| open(&["a"]) + &Lab::port("b", more);
    let lab = Lab::with(MODES[1], &b(""));
    let mut first = Station::connect(&lab.socket("a"), plain());
    let mut second = Station::connect(&lab.socket("b"), plain());
    exchange(&mut first, &mut second, 50);
    let queues = |lab: &Lab, name: &str| {
        let of_group = |worker: &&WorkerView| worker.group.as_deref() == Some(name);
        let workers = workers(lab);
        let of_group: Vec<&WorkerView> = workers.iter().filter(of_group).collect();
        (of_group.len(), of_group.iter().map(|worker| worker.queues).sum::<usize>())
    };
    for _ in 0..10 {
        let change = lab.apply(MODES[1], &(b("workers = \"fast\"") + group)).unwrap();
        assert_eq!(change.changed, ["worker-group.fast", "port.b"], "{change:?}");
        assert_eq!(queues(&lab, "fast"), (1, 2));
        exchange(&mut first, &mut second, 50);
        lab.apply(MODES[1], &(b("workers = \"own\"") + own)).unwrap();
        assert_eq!((queues(&lab, "fast"), queues(&lab, "own")), ((0, 0), (1, 2)));
        exchange(&mut first, &mut second, 50);
        lab.apply(MODES[1], &b("")).unwrap();
        assert_eq!((queues(&lab, "fast"), queues(&lab, "own")), ((0, 0), (0, 0)));
        exchange(&mut first, &mut second, 50);
    }
    assert_eq!(workers(&lab).len(), 2);
}

fn moves(lab: &Lab) -> u64 {
    workers(lab).iter().map(|worker| worker.moves).sum()
}

/// Sends numbered frames from one station to another as fast as they are taken, and checks their order.
fn stream(from: &mut Station, to: &mut Station, src: [u8; 6], dst: [u8; 6], stop: &AtomicBool) -> u64 {
    let (mut sent, mut received) = (0u64, 0u64);
    let end = Instant::now() + PATIENCE;
    while !stop.load(Relaxed) || received < sent {
        while sent < received + 32 && !stop.load(Relaxed) {
            from.send(&frame(dst, src, &sent.to_be_bytes(), 1500));
            sent += 1;
        }
        while let Some((_, got)) = to.poll() {
            assert_eq!(got[14..22], received.to_be_bytes(), "none is lost and none overtakes another");
            received += 1;
        }
        assert!(Instant::now() < end, "{received} of {sent} came");
    }
    received
}

#[test]
fn queues_move_between_workers_and_frames_stay_in_order() {
    let lab = Lab::with(MODES[1], &open(&["a", "b", "c", "d"]));
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut c = Station::connect(&lab.socket("c"), plain());
    let mut d = Station::connect(&lab.socket("d"), plain());
    let mac_d = [2, 0, 0, 0, 0, 0xd];
    // The switch learns where they are.
    b.send(&frame(MAC_A, MAC_B, b"", 60));
    d.send(&frame(MAC_C, mac_d, b"", 60));
    for station in [&mut a, &mut b, &mut c, &mut d] {
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {
            station.poll();
        }
    }
    let stop = AtomicBool::new(false);
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| stream(&mut a, &mut b, MAC_A, MAC_B, &stop));
        let two = scope.spawn(|| stream(&mut c, &mut d, MAC_C, mac_d, &stop));
        let end = Instant::now() + PATIENCE / 2;
        while moves(&lab) < 100 && Instant::now() < end {
            // So short a time makes each difference a large one: queues move all the time.
            lab.plane.balance(Duration::from_nanos(1));
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Relaxed);
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!(one > 100 && two > 100, "{one} {two}");
    assert!(moves(&lab) >= 100, "{:?}", workers(&lab));
    // And nobody was left without a worker, or without notifications.
    exchange(&mut a, &mut b, 20);
}

#[test]
fn a_guest_is_called_at_most_once_in_its_interval_and_never_too_few_times() {
    let calls = |lab: &Lab| {
        let queues = lab.view("b").queues;
        queues.iter().filter(|queue| queue.direction == "to-guest").map(|queue| queue.calls).sum::<u64>()
    };
    for (rx_usecs, calls_max) in [(10_000, 12), (0, u64::MAX)] {
        let port = Lab::port("b", &format!("rx-usecs = {rx_usecs}"));
        let lab = Lab::with(MODES[1], &(open(&["a"]) + &port));
        let mut a = Station::connect(&lab.socket("a"), plain());
        let mut b = Station::connect(&lab.socket("b"), plain());
        b.send(&frame(MAC_A, MAC_B, b"", 60));
        a.receive_from(MAC_B);
        let before = calls(&lab);
        let began = Instant::now();
        for number in 0..200u32 {
            assert!(!b.receive.enable_call());
            a.send(&frame(MAC_B, MAC_A, &number.to_be_bytes(), 60));
            assert_eq!(b.receive_from(MAC_A)[14..18], number.to_be_bytes());
        }
        let elapsed_ms = began.elapsed().as_millis() as u64;
        let calls = calls(&lab) - before;
        let most = calls_max.saturating_add(elapsed_ms / 10);
        assert!(calls <= most, "{calls} calls in {elapsed_ms} ms with {rx_usecs}");
        assert!(rx_usecs != 0 || calls >= 100, "{calls}");
        // What was put off is called after all: someone who sleeps on the call descriptor wakes.
        std::thread::sleep(Duration::from_millis(30));
        while b.call.read().is_ok() {}
        assert!(!b.receive.enable_call());
        a.send(&frame(MAC_B, MAC_A, b"last", 60));
        let end = Instant::now() + PATIENCE;
        while b.call.read().is_err() {
            assert!(Instant::now() < end, "nobody calls with {rx_usecs}: {:?}", lab.view("b").queues);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(b.receive_from(MAC_A)[14..18], *b"last");
    }
}
