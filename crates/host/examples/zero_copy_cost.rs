//! What a frame to an AF_XDP uplink costs its worker, copied and lent, over sizes: processor time a frame, on a veth in a network
//! namespace of its own. Needs root.
//!
//! `cargo run --profile fast -p ringway --example zero_copy_cost`

#[path = "../tests/station/mod.rs"]
mod station;

use devices::net::Features;
use guestmem::GuestAddr;
use station::{Lab, MAC_A, RING, Station, frame, plain};
use std::process::Command;
use std::time::{Duration, Instant};

const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
/// How long one value is measured, and how often each is; the median counts.
const TIME: Duration = Duration::from_millis(300);
const ROUNDS: usize = 5;

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// Processor time of the worker so far, in nanoseconds.
fn worker_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let times = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        name.starts_with("rw-worker").then(|| times.split(' ').next()?.parse::<u64>().ok())?
    });
    times.sum()
}

/// Nanoseconds of the worker a frame of `len` bytes, and how many of the frames were lent.
fn cost(lab: &Lab, guest: &mut Station, len: usize) -> (f64, f64) {
    let bytes = frame(FAR_MAC, MAC_A, b"cost", len);
    let slots: Vec<(GuestAddr, u32)> = (0..RING / 2).map(|_| guest.write_slot(&[0; 12], &bytes)).collect();
    let lent = |lab: &Lab| lab.view("wire").zero_copy.map_or(0, |view| view.frames);
    let (begin, before, lent_before) = (Instant::now(), worker_ns(), lent(lab));
    let (mut frames, mut next) = (0u64, 0);
    while begin.elapsed() < TIME {
        while guest.transmit.pop_used().unwrap().is_some() {}
        for _ in 0..16 {
            if guest.transmit.add(&[slots[next % slots.len()]], &[], 0).is_err() {
                break;
            }
            next += 1;
            frames += 1;
        }
        if guest.transmit.publish() {
            guest.kick();
        }
    }
    while guest.transmit.free_descriptors() != RING {
        while guest.transmit.pop_used().unwrap().is_some() {}
    }
    let ns = (worker_ns() - before) as f64 / frames as f64;
    (ns, (lent(lab) - lent_before) as f64 / frames as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(mtu: usize, lens: &[usize]) {
    let queues = format!("mtu {mtu} numtxqueues 2 numrxqueues 2");
    ip(&format!("link add up0 {queues} type veth peer name far0 {queues}"));
    ip("link set far0 address 02:00:00:00:00:99 up");
    ip("link set up0 up");
    std::thread::sleep(Duration::from_millis(500));
    let lab = |zero_copy: &str| {
        let uplink = format!(
            "[port.wire]\nswitch = \"lan\"\nprofile = \"open\"\naf-xdp = {{ interface = \"up0\", zero-copy-min = 256, zero-copy = \"{zero_copy}\" }}\n"
        );
        Lab::with("mode = \"pool\"\nthreads = 1", &(Lab::port("a", "") + &uplink))
    };
    let mut table = vec![[Vec::new(), Vec::new()]; lens.len()];
    let mut share = 1f64;
    for _ in 0..ROUNDS {
        for (which, zero_copy) in ["off", "always"].into_iter().enumerate() {
            let lab = lab(zero_copy);
            let mut guest = Station::connect(&lab.socket("a"), plain() | Features::empty());
            for (row, len) in table.iter_mut().zip(lens) {
                let (ns, lent) = cost(&lab, &mut guest, *len);
                row[which].push(ns);
                if which == 1 {
                    share = share.min(lent);
                }
            }
        }
    }
    for (row, len) in table.into_iter().zip(lens) {
        let [copied, lent] = row.map(median);
        println!("{len:>6} {copied:>12.0} {lent:>12.0} {:>8.2}", copied / lent);
    }
    println!("MTU {mtu}: at least {:.0} % of the frames were lent", share * 100.0);
    ip("link del up0");
}

fn main() {
    #[expect(deprecated, reason = "the safe form: only the network is left")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("needs root");
    println!("{:>6} {:>12} {:>12} {:>8}", "bytes", "copied, ns", "lent, ns", "ratio");
    measure(1500, &[256, 512, 1024, 1514]);
    measure(9000, &[2048, 4096, 6000, 9014]);
}
