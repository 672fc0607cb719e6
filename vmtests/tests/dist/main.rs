//! The Debian package: built twice, looked at, installed in a fresh Debian, used there under systemd, removed.
//!
//! Run by `cargo xtask test dist`. Needs root, overlay file systems and a cgroup2 hierarchy that can be written. The Debian is
//! that of this machine: its base system lies under `target/dist-root`, and every test has an overlay of its own over it.

mod bytes;
mod life;
mod place;

use std::process::ExitCode;
use vmtests::harness::{Test, main as run};
use vmtests::sysroot::Sysroot;

/// What the common root needs: Debian's checker of packages.
const CHECKER: &[&str] = &["lintian"];

const TESTS: &[Test] = &[
    Test { name: "the_same_bytes_each_time", body: bytes::reproducible, long: false },
    Test { name: "a_service_under_systemd", body: life::service, long: false },
    Test { name: "installs_and_goes_where_nothing_runs", body: life::bare, long: false },
];

fn main() -> ExitCode {
    let listing = std::env::args().any(|argument| argument == "--list");
    if !listing && let Err(error) = Sysroot::ensure().and_then(|root| root.add_packages("dist", CHECKER)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    run(TESTS)
}
