//! The test groups, and the set that `cargo xtask test` runs by default.

use crate::steps::{Show, Steps};
use crate::{budget, cargo, cargo_nightly, law, root, setup, tidy};
use anyhow::{Context, bail};

/// A group whose tests run the `ringway` binary against real peers: a test binary of that name in `vmtests/tests`.
struct PeerGroup {
    name: &'static str,
    what: &'static str,
    /// Part of `cargo xtask test` without arguments.
    default: bool,
    /// Has tests that only `cargo xtask test long` and `--all` run.
    long: bool,
}

const PEER_GROUPS: &[PeerGroup] = &[
    PeerGroup {
        name: "net",
        what: "QEMU guests and DPDK's virtio-user through the switch",
        default: true,
        long: true,
    },
    PeerGroup {
        name: "bridge",
        what: "the bridge next to the kernel's, and live control with guests",
        default: true,
        long: false,
    },
    PeerGroup {
        name: "disk",
        what: "disks of QEMU guests over vhost-user and vfio-user",
        default: true,
        long: true,
    },
    PeerGroup {
        name: "vfio",
        what: "a whole PCI function for QEMU over vfio-user",
        default: true,
        long: true,
    },
    PeerGroup { name: "eyes", what: "the dashboard in headless Chromium", default: false, long: false },
    PeerGroup {
        name: "dist",
        what: "the Debian package in a fresh Debian, under systemd",
        default: false,
        long: false,
    },
];

/// Checks, the workspace's own tests and the default groups; with `all`, every group.
pub(crate) fn default_set(steps: &mut Steps, all: bool) -> anyhow::Result<()> {
    let peers = setup::peers_in_background(steps);
    check(steps);
    unit(steps);
    let built = build(steps);
    if built {
        budget::check(steps, false);
    }
    if peers.is_some_and(|peers| steps.join(peers)) && built {
        for group in PEER_GROUPS.iter().filter(|group| group.default || all) {
            peer_group(steps, group, if all { &["--all"] } else { &[] });
        }
    }
    if all {
        miri(steps)?;
        fuzz(steps, None, 60)?;
    }
    Ok(())
}

/// One group by its name.
pub(crate) fn group(steps: &mut Steps, name: &str) -> anyhow::Result<()> {
    match name {
        "check" => check(steps),
        "unit" => unit(steps),
        "budget" => budget::run(steps, false),
        "long" => {
            if setup::peers(steps) && build(steps) {
                PEER_GROUPS
                    .iter()
                    .filter(|group| group.long)
                    .for_each(|group| peer_group(steps, group, &["--long"]));
            }
        }
        "miri" => miri(steps)?,
        "fuzz" => fuzz(steps, None, 60)?,
        _ => {
            let Some(group) = PEER_GROUPS.iter().find(|group| group.name == name) else {
                let names: Vec<&str> = PEER_GROUPS.iter().map(|group| group.name).collect();
                bail!(
                    "no test group {name:?}; there are check, unit, budget, long, miri, fuzz, {}",
                    names.join(", ")
                );
            };
            if setup::peers(steps) && build(steps) {
                peer_group(steps, group, &["--all"]);
            }
        }
    }
    Ok(())
}

fn check(steps: &mut Steps) {
    setup::components(steps);
    steps.run("check: formatting", cargo().args(["fmt", "--all", "--check"]));
    steps.check("check: tidy source", || none(tidy::breaches(&root())?));
    steps.check("check: dependency law", || none(law::breaches(&root())?));
    steps.run(
        "check: lints",
        cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    );
}

fn none(breaches: Vec<String>) -> anyhow::Result<()> {
    for breach in &breaches {
        println!("{breach}");
    }
    if breaches.is_empty() { Ok(()) } else { bail!("{} breaches", breaches.len()) }
}

fn unit(steps: &mut Steps) {
    let what = "unit: the workspace's tests";
    steps.run_tests(what, Show::Failures, cargo().args(["test", "--workspace", "--no-fail-fast"]));
}

/// Builds the binary under test as the benches do, and the cases of the budget with it: both are made of the same parts then.
pub(crate) fn build(steps: &mut Steps) -> bool {
    let arguments = ["build", "--quiet", "--profile", "fast", "--package", "ringway", "--package", "bench"];
    steps.run("build ringway and bench (profile fast)", cargo().args(arguments))
}

/// The tests of a group: all but the long ones, if `arguments` says nothing else.
fn peer_group(steps: &mut Steps, group: &PeerGroup, arguments: &[&str]) {
    let what = format!("{}: {}", group.name, group.what);
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "vmtests", "--test", group.name]);
    command.arg("--").args(arguments);
    steps.run_tests(&what, Show::All, &mut command);
}

fn miri(steps: &mut Steps) -> anyhow::Result<()> {
    setup::miri().context("Miri")?;
    let mut command = cargo_nightly();
    // Mapped memory is outside of Miri's model of files, so isolation is off; addresses of guests are plain integers. Ring
    // words are read in two sizes, which Miri's emulation of weak memory cannot follow (it stops by itself there).
    let flags = "-Zmiri-disable-isolation -Zmiri-permissive-provenance -Zmiri-disable-weak-memory-emulation";
    command.env("MIRIFLAGS", flags);
    command.args(["miri", "test", "--package", "guestmem", "--package", "virtqueue", "--lib"]);
    command.args(["--test", "faults", "--test", "legacy", "--test", "fuzzed", "--test", "detached"]);
    steps.run_tests("miri: guestmem and virtqueue", Show::Failures, &mut command);
    Ok(())
}

/// Runs one fuzz target, or all of them, for `seconds` each.
pub(crate) fn fuzz(steps: &mut Steps, target: Option<&str>, seconds: u64) -> anyhow::Result<()> {
    let known = fuzz_targets()?;
    let chosen: Vec<String> = match target {
        None => known,
        Some(name) if known.iter().any(|target| target == name) => vec![name.to_owned()],
        Some(name) => bail!("no fuzz target {name:?}; there are {}", known.join(", ")),
    };
    setup::fuzz().context("cargo-fuzz")?;
    for name in chosen {
        let mut command = cargo_nightly();
        command.args([
            "fuzz",
            "run",
            &name,
            "--",
            &format!("-max_total_time={seconds}"),
            "-print_final_stats=1",
        ]);
        steps.run(&format!("fuzz: {name} for {seconds} s"), &mut command);
    }
    Ok(())
}

/// The names of the binaries in `fuzz/Cargo.toml`.
fn fuzz_targets() -> anyhow::Result<Vec<String>> {
    let path = root().join("fuzz/Cargo.toml");
    let text = std::fs::read_to_string(&path).context("fuzz/Cargo.toml")?;
    let table: toml::Table = text.parse().context("fuzz/Cargo.toml")?;
    let bins = table.get("bin").and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(bins.iter().filter_map(|bin| bin.get("name")?.as_str().map(str::to_owned)).collect())
}
