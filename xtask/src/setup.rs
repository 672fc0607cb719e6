//! Installs what the tests need on a bare Debian machine with Rust.
//!
//! Three things: compiler components (rustfmt, clippy), a few Debian packages on the machine itself, and the peers' root
//! (a Debian tree under `target/sysroot` with QEMU, DPDK, Open vSwitch and a kernel), which the package `vmtests` makes.

use crate::steps::{Background, Steps};
use crate::{cargo, cargo_nightly, root};
use anyhow::{Context, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that must be on the machine and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] =
    &[("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("chroot", "coreutils"), ("ip", "iproute2")];

/// What counts instructions (`cargo xtask budget`), and its Debian package.
const VALGRIND: &[(&str, &str)] = &[("valgrind", "valgrind")];

/// Everything: compiler components, Debian packages, the peers' root.
pub(crate) fn everything(steps: &mut Steps) -> anyhow::Result<()> {
    components(steps);
    valgrind(steps);
    peers(steps);
    Ok(())
}

/// rustfmt and clippy, through rustup where they are missing.
pub(crate) fn components(steps: &mut Steps) {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if succeeds(cargo().args([subcommand, "--version"])) {
            continue;
        }
        steps.run(
            &format!("install {component}"),
            Command::new("rustup").args(["component", "add", component]).current_dir(root()),
        );
    }
}

/// The Debian packages and the peers' root. Says whether both are there.
pub(crate) fn peers(steps: &mut Steps) -> bool {
    if !steps.check("Debian packages on this machine", || packages(PROGRAMS)) {
        return false;
    }
    steps.run(PEERS, &mut peers_command())
}

/// Valgrind on this machine. Says whether it is there.
pub(crate) fn valgrind(steps: &mut Steps) -> bool {
    steps.check("Valgrind on this machine", || packages(VALGRIND))
}

const PEERS: &str = "peers: QEMU, DPDK, Open vSwitch and a kernel under target/sysroot (made once)";

fn peers_command() -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "vmtests", "--", "setup"]);
    command
}

/// As [`peers`], beside other steps: it mostly waits for the network. `None` if it could not begin.
pub(crate) fn peers_in_background(steps: &mut Steps) -> Option<Background> {
    let built = steps.check("Debian packages on this machine", || packages(PROGRAMS))
        && steps.run("build the tests' harness", cargo().args(["build", "--quiet", "--package", "vmtests"]));
    built.then(|| steps.begin(PEERS, &mut peers_command()))
}

/// The nightly compiler with what Miri needs.
pub(crate) fn miri() -> anyhow::Result<()> {
    nightly()?;
    if succeeds(cargo_nightly().args(["miri", "--version"])) {
        return Ok(());
    }
    must(Command::new("rustup").args(["component", "add", "--toolchain", "nightly", "miri", "rust-src"]))
}

/// The nightly compiler and `cargo-fuzz`.
pub(crate) fn fuzz() -> anyhow::Result<()> {
    nightly()?;
    if succeeds(cargo_nightly().args(["fuzz", "--version"])) {
        return Ok(());
    }
    must(cargo().args(["install", "cargo-fuzz", "--locked"]))
}

fn nightly() -> anyhow::Result<()> {
    if succeeds(cargo_nightly().arg("--version")) {
        return Ok(());
    }
    must(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))
}

fn packages(programs: &[(&str, &'static str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !on_path("apt-get") {
        bail!("{} missing, and this is no Debian machine: install by hand", missing.join(", "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{} missing: run `sudo apt-get install {}`", missing.join(", "), missing.join(" "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    must(apt().args(["-q", "update"]))?;
    must(apt().args(["-q", "install", "-y", "--no-install-recommends"]).args(missing))
}

/// Whether a program is on the path or in the system directories that a user's path may lack.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|directory| Path::new(&directory).join(program).is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn must(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?}: {status}", command.get_program());
    }
    Ok(())
}
