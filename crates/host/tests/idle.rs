//! What guests cost that do nothing. Alone in its process: it counts the process' threads.

mod station;

use ringway::api::Plane as _;
use station::{Lab, Station, exchange, plain};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vhost::VhostBackend as _;

const MODES: [&str; 3] =
    ["mode = \"per-device\"", "mode = \"pool\"\nthreads = 2", "mode = \"sidecore\"\nthreads = 2"];

/// CPU time of this process' threads that serve queues, and what else the plane has, in nanoseconds.
fn plane_ns() -> u64 {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").starts_with("rw-") {
            sum += read("schedstat").split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

#[test]
fn a_hundred_idle_guests_cost_less_than_a_hundredth_of_a_cpu() {
    let names: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for mode in MODES {
        let lab = Lab::new(mode, &names);
        let mut stations: Vec<Station> =
            names.iter().map(|name| Station::connect(&lab.socket(name), plain())).collect();
        let (first, rest) = stations.split_at_mut(1);
        exchange(&mut first[0], &mut rest[98], 100);

        let (thousandths, sleeps) = least_cost(&lab);
        assert!(thousandths < 10, "{thousandths} thousandths of a CPU with {mode}");
        assert_eq!(sleeps, 0, "nobody woke a worker with {mode}");
    }
    those_that_cannot_kick_are_looked_at_for_little(&names);
}

/// What the plane costs in thousandths of a CPU, and how often workers sleep. Others may use this machine: the best of some windows
/// counts.
fn least_cost(lab: &Lab) -> (u64, u64) {
    let sleeps = || lab.plane.status().workers.iter().map(|worker| worker.sleeps).sum::<u64>();
    let mut best = (u64::MAX, u64::MAX);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(20));
        let (before, slept, began) = (plane_ns(), sleeps(), Instant::now());
        std::thread::sleep(Duration::from_millis(400));
        let elapsed = began.elapsed().as_nanos() as u64;
        best = best.min(((plane_ns() - before) * 1000 / elapsed, sleeps() - slept));
    }
    best
}

/// Guests whose doorbells wake nobody, as those of a mapped page: they are looked at now and then.
fn those_that_cannot_kick_are_looked_at_for_little(names: &[&str]) {
    for mode in &MODES[1..] {
        let lab = Lab::new(mode, names);
        let connect = |name: &&str| {
            let stream = UnixStream::connect(lab.socket(name)).unwrap();
            let raw = stream.try_clone().unwrap();
            let mut station = Station::over(stream, plain());
            let base = station.frontend.get_vring_base(1).unwrap();
            station.restart_transmit(base, Some(&raw));
            station
        };
        let mut stations: Vec<Station> = names.iter().map(connect).collect();
        let (first, rest) = stations.split_at_mut(1);
        exchange(&mut first[0], &mut rest[98], 100);
        let (thousandths, sleeps) = least_cost(&lab);
        println!("{mode:?}: {thousandths} thousandths of a CPU, {sleeps} sleeps");
        assert!(thousandths < 10, "{thousandths} thousandths of a CPU with {mode}");
        // Each of two workers, which have fifty, looks fifty times a second; and does so, for all that.
        assert!(sleeps <= 60, "{sleeps} sleeps in 0.4 s with {mode}");
        exchange(&mut first[0], &mut rest[98], 10);
    }
}
