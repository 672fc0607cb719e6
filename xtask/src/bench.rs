//! `cargo xtask bench NAME`: one measure next to its peer. Only the rows go to standard output; the rest to standard error.

use crate::{cargo, setup, steps::Steps, tests};
use std::process::{Command, ExitCode};

/// A measure and the package whose binary takes it.
struct Bench {
    name: &'static str,
    package: &'static str,
    what: &'static str,
    /// Needs the peers' root and the `ringway` binary.
    peers: bool,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "virtqueue",
        package: "bench",
        what: "cost of a frame's chain, next to virtio-queue",
        peers: false,
    },
    Bench {
        name: "switch",
        package: "vmtests",
        what: "testpmd to testpmd, next to OVS-DPDK and testpmd",
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
    match command(bench, json, rest).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command(bench: &Bench, json: bool, rest: &[String]) -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", bench.package, "--"]);
    if bench.peers {
        command.arg("bench");
    }
    command.arg(bench.name);
    if json {
        command.arg("--json");
    }
    command.args(rest);
    command
}

/// The peers and the binary, with their progress on standard error so that rows stay alone on standard output.
fn prepare() -> bool {
    let mut steps = Steps::start_on_stderr();
    setup::peers(&mut steps) && tests::build(&mut steps)
}
