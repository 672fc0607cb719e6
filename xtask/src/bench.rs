//! `cargo xtask bench NAME`: one measure next to its peer. Only the rows go to standard output; the rest to standard error.

use crate::{cargo, setup, steps::Steps, tests};
use std::process::{Command, ExitCode};

/// A measure and the packages whose binaries take it, one after the other.
struct Bench {
    name: &'static str,
    packages: &'static [&'static str],
    what: &'static str,
    /// Needs the peers' root and the `ringway` binary.
    peers: bool,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "virtqueue",
        packages: &["bench"],
        what: "cost of a frame's chain, next to virtio-queue",
        peers: false,
    },
    Bench {
        name: "switch",
        packages: &["vmtests"],
        what: "rates and latencies from driver to driver, next to OVS-DPDK, testpmd and the kernel's bridge",
        peers: true,
    },
    Bench {
        name: "bridge",
        packages: &["bench", "vmtests"],
        what: "scale, attacks and eyes of the bridge, next to the kernel's bridge and OVS-DPDK",
        peers: true,
    },
    Bench {
        name: "disk",
        packages: &["vmtests"],
        what: "disks over vhost-user, next to qemu-storage-daemon",
        peers: true,
    },
];

/// Runs a bench; its exit status is the command's.
pub(crate) fn run(name: &str, json: bool, rest: &[String]) -> ExitCode {
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        eprintln!("no bench {name:?}; there are:");
        for bench in BENCHES {
            eprintln!("  {:12} {}", bench.name, bench.what);
        }
        return ExitCode::from(2);
    };
    if bench.peers && !prepare() {
        return ExitCode::FAILURE;
    }
    for package in bench.packages {
        match command(bench, package, json, rest).status() {
            Ok(status) if status.success() => {}
            Ok(_) => return ExitCode::FAILURE,
            Err(error) => {
                eprintln!("cargo: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn command(bench: &Bench, package: &str, json: bool, rest: &[String]) -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", package, "--"]);
    if package == "vmtests" {
        command.arg("bench");
    }
    command.arg(bench.name);
    if json {
        command.arg("--json");
    }
    // Words for the packages of a bench that has several are for the last one.
    if bench.packages.last() == Some(&package) {
        command.args(rest);
    }
    command
}

/// The peers and the binary, with their progress on standard error so that rows stay alone on standard output.
fn prepare() -> bool {
    let mut steps = Steps::start_on_stderr();
    setup::peers(&mut steps) && tests::build(&mut steps)
}
