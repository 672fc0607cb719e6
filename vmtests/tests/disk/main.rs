//! Disks of real guests: virtio-blk over vhost-user and vfio-user.
//!
//! Run by `cargo xtask test disk`. Needs root.

mod blk;
mod boot;
mod killed;
mod place;

use std::process::ExitCode;
use vmtests::harness::{Test, main as run};

const TESTS: &[Test] = &[
    Test { name: "written_and_read_again", body: blk::written_and_read_again, long: false },
    Test { name: "several_disks", body: blk::several_disks, long: false },
    Test { name: "changed_while_they_run", body: blk::changed_while_they_run, long: false },
    Test { name: "booted_from", body: boot::booted_from, long: false },
    Test { name: "killed_under_load", body: killed::killed_under_load, long: false },
    Test { name: "killed_fifty_times", body: killed::killed_fifty_times, long: true },
];

fn main() -> ExitCode {
    run(TESTS)
}
