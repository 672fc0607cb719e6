//! Ringway between real network peers: QEMU guests with Linux's driver, DPDK's virtio-user driver, and hostile front-ends.
//!
//! Run by `cargo xtask test net`. Needs root. Tests run one at a time; each has a Ringway, a directory and guests of its own.

mod cells;
mod charts;
mod hostile;
mod outages;
mod pair;
mod virtio_user;

use std::process::ExitCode;
use vmtests::harness::{Test, main as run};

const TESTS: &[Test] = &[
    Test { name: "virtio_user_all_variants", body: virtio_user::all_variants, long: false },
    Test { name: "hostile_front_ends", body: hostile::front_ends, long: false },
    Test { name: "split_rings", body: cells::split_rings, long: false },
    Test { name: "packed_rings", body: cells::packed_rings, long: false },
    Test { name: "four_queue_pairs", body: cells::four_queue_pairs, long: false },
    Test { name: "legacy_driver", body: cells::legacy_driver, long: false },
    Test { name: "no_offloads_meet_all", body: cells::no_offloads_meet_all, long: false },
    Test { name: "jumbo_mtu", body: cells::jumbo_mtu, long: false },
    Test { name: "qemu_killed", body: outages::qemu_killed, long: false },
    Test { name: "ringway_restarted", body: outages::ringway_restarted, long: false },
    Test { name: "charts_of_real_guests", body: charts::of_real_guests, long: true },
];

fn main() -> ExitCode {
    run(TESTS)
}
