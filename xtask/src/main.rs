//! The project's own commands: `cargo xtask test`, `check`, `setup`, `bench`, `budget`, `miri`, `fuzz`, `dist`.
//!
//! Everything that a contributor or a continuous-integration machine runs goes through here, so that there is one
//! way to do it. A command prints a line with the elapsed time before each step and ends with one line
//! `N passed, N failed`.

mod bench;
mod budget;
mod dist;
mod law;
mod setup;
mod steps;
mod tests;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Ringway's own commands", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the tests: the checks, the workspace's tests and the default groups; or one group
    Test {
        /// One group by itself: check, unit, budget, miri, fuzz or a group of real peers such as net
        group: Option<String>,
        /// Also run the groups that are slow or need a nightly compiler
        #[arg(long)]
        all: bool,
    },
    /// Formatting, lints, and the project's own rules (tidy, dependency law)
    Check,
    /// Install everything that the tests need: Debian packages, compiler components, the peers' root
    Setup,
    /// Measure next to a peer in the same run
    Bench {
        /// Which measure
        name: String,
        /// One JSON object a row: case, ours, peer, unit, ratio (larger is better), target
        #[arg(long)]
        json: bool,
        /// Arguments for the bench itself
        #[arg(last = true)]
        rest: Vec<String>,
    },
    /// Count the instructions that a frame takes and hold them against bench/budget.toml
    Budget {
        /// Make what is counted the budget
        #[arg(long)]
        renew: bool,
    },
    /// Make the Debian package, a tar of the same files and their checksums, under target/dist
    Dist(dist::Options),
    /// Run the memory crates' tests under Miri
    Miri,
    /// Fuzz one target, or every target in turn
    Fuzz {
        /// The target's name; without it, all of them
        target: Option<String>,
        /// Time for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let mut steps = steps::Steps::start();
    let outcome = match Arguments::parse().command {
        Task::Test { group: Some(group), all: false } => tests::group(&mut steps, &group),
        Task::Test { group: Some(_), all: true } => Err(anyhow::anyhow!("give a group or --all, not both")),
        Task::Test { group: None, all } => tests::default_set(&mut steps, all),
        Task::Check => tests::group(&mut steps, "check"),
        Task::Setup => setup::everything(&mut steps),
        Task::Bench { name, json, rest } => return bench::run(&name, json, &rest),
        Task::Budget { renew } => {
            budget::run(&mut steps, renew);
            Ok(())
        }
        Task::Dist(options) => dist::run(&mut steps, &options),
        Task::Miri => tests::group(&mut steps, "miri"),
        Task::Fuzz { target, seconds } => tests::fuzz(&mut steps, target.as_deref(), seconds),
    };
    if let Err(error) = outcome {
        steps.fail("xtask", &format!("{error:#}"));
    }
    steps.finish()
}

/// The workspace's root: the parent of this package.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).unwrap_or(own)
}

/// `cargo` in the workspace's root.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// `cargo` of the nightly compiler in the workspace's root.
fn cargo_nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(root());
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}
