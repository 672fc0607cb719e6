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
    Test { name: "truth_table", body: matrix::truth_table },
    Test { name: "link_local_groups", body: rules::link_local },
    Test { name: "guard", body: rules::guard },
    Test { name: "neighbour_suppression", body: rules::neighbours },
    Test { name: "ageing", body: rules::ageing },
    Test { name: "shut_ports_and_odd_frames", body: rules::shut_and_odd },
    Test { name: "igmp_snooping", body: snooping::snooping4 },
    Test { name: "mld_snooping", body: snooping::snooping6 },
    Test { name: "softmac_by_monitor", body: softmac::by_monitor },
    Test { name: "softmac_by_command", body: softmac::by_command },
    Test { name: "uplink_that_cannot_filter", body: uplinks::veth },
    Test { name: "uplink_macvlan", body: uplinks::macvlan },
    Test { name: "uplink_macvtap", body: uplinks::macvtap },
    Test { name: "random_sources", body: attacks::random_sources },
    Test { name: "live_under_traffic", body: live::under_traffic },
    Test { name: "captured", body: live::captured },
];

fn main() -> ExitCode {
    let listing = std::env::args().any(|argument| argument == "--list");
    if !listing && let Err(error) = Sysroot::ensure().and_then(|root| root.add_packages("bridge", PACKAGES)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    run(TESTS)
}
