//! The bridge next to the kernel's, and with guests that change their minds: frame by frame, address by address.
//!
//! Run by `cargo xtask test bridge`. Needs root. What is made of namespaces and wires ends with each test.

mod frames;
mod matrix;
mod place;
mod rules;
mod snooping;
mod twins;

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
];

fn main() -> ExitCode {
    let listing = std::env::args().any(|argument| argument == "--list");
    if !listing && let Err(error) = Sysroot::ensure().and_then(|root| root.add_packages("bridge", PACKAGES)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    run(TESTS)
}
