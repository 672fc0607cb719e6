//! What guests cost that do nothing. Alone in its process: it counts the process' threads.

mod station;

use ringway::api::Plane as _;
use station::{Lab, Station, exchange, plain};
use std::time::{Duration, Instant};

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

        // Others may use this machine: the best of some windows counts.
        let sleeps = || lab.plane.status().workers.iter().map(|worker| worker.sleeps).sum::<u64>();
        let mut best = (u64::MAX, u64::MAX);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(20));
            let (before, slept, began) = (plane_ns(), sleeps(), Instant::now());
            std::thread::sleep(Duration::from_millis(400));
            let elapsed = began.elapsed().as_nanos() as u64;
            best = best.min(((plane_ns() - before) * 1000 / elapsed, sleeps() - slept));
        }
        assert!(best.0 < 10, "{} thousandths of a CPU with {mode}", best.0);
        assert_eq!(best.1, 0, "nobody woke a worker with {mode}");
    }
}
