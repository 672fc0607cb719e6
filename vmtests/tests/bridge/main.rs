//! The bridge next to the kernel's, and with guests that change their minds: frame by frame, address by address.
//!
//! Run by `cargo xtask test bridge`. Needs root. What is made of namespaces and wires ends with each test.

mod attacks;
mod frames;
mod guests;
mod live;
mod matrix;
mod place;
mod rules;
mod snooping;
mod softmac;
mod twins;
mod uplinks;

use std::process::ExitCode;
use vmtests::harness::{Test, main as run};
use vmtests::sysroot::Sysroot;

/// What the group needs beside the common root.
const PACKAGES: &[&str] = &["python3", "tshark"];

const TESTS: &[Test] = &[
    Test { name: "truth_table", body: matrix::truth_table, long: false },
    Test { name: "link_local_groups", body: rules::link_local, long: false },
    Test { name: "guard", body: rules::guard, long: false },
    Test { name: "neighbour_suppression", body: rules::neighbours, long: false },
    Test { name: "ageing", body: rules::ageing, long: false },
    Test { name: "shut_ports_and_odd_frames", body: rules::shut_and_odd, long: false },
    Test { name: "igmp_snooping", body: snooping::snooping4, long: false },
    Test { name: "mld_snooping", body: snooping::snooping6, long: false },
    Test { name: "softmac_by_monitor", body: softmac::by_monitor, long: false },
    Test { name: "softmac_by_command", body: softmac::by_command, long: false },
    Test { name: "uplink_that_cannot_filter", body: uplinks::veth, long: false },
    Test { name: "uplink_macvlan", body: uplinks::macvlan, long: false },
    Test { name: "uplink_macvtap", body: uplinks::macvtap, long: false },
    Test { name: "random_sources", body: attacks::random_sources, long: false },
    Test { name: "live_under_traffic", body: live::under_traffic, long: false },
    Test { name: "captured", body: live::captured, long: false },
];

fn main() -> ExitCode {
    let listing = std::env::args().any(|argument| argument == "--list");
    if !listing && let Err(error) = Sysroot::ensure().and_then(|root| root.add_packages("bridge", PACKAGES)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    run(TESTS)
}
