//! A small test harness for tests that need real peers: one at a time, each with a directory of its own, saying what it does.
//!
//! The output has the form of Rust's own harness, so that the same tools count it. Arguments that do not begin with `-`
//! select tests whose name contains one of them.

use crate::guest::Lab;
use crate::sysroot::temporary_directory;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// Its body.
    pub body: fn(&Scene) -> anyhow::Result<()>,
    /// It runs with `--all` and `--long`, or if an argument names it.
    pub long: bool,
}

/// What a test works in.
#[derive(Debug)]
pub struct Scene<'a> {
    lab: Lab,
    start: Instant,
    name: &'a str,
}

impl Scene<'_> {
    /// Root, kernel, initramfs and accelerator, with this test's directory.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Directory for this test's sockets and logs.
    pub fn directory(&self) -> &Path {
        &self.lab.directory
    }

    /// Runs one check of the test and says how it went and when.
    pub fn check<T>(&self, what: &str, body: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let outcome = body();
        let mark = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("    [{:6.1} s] {}: {what}: {mark}", self.start.elapsed().as_secs_f64(), self.name);
        outcome.with_context(|| what.to_owned())
    }

    /// Says something that was measured.
    pub fn note(&self, what: &str) {
        println!("    [{:6.1} s] {}: {what}", self.start.elapsed().as_secs_f64(), self.name);
    }
}

/// Runs the tests that the arguments select: those whose names contain one of them, or without a name all but the long ones, or with
/// `--long` only those, or with `--all` all. The exit status is 0 if all passed.
pub fn main(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let (all, only_long) = (has("--all"), has("--long"));
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let selected: Vec<&Test> = tests
        .iter()
        .filter(|test| match wanted.is_empty() {
            true => all || test.long == only_long,
            false => wanted.iter().any(|part| test.name.contains(part.as_str())),
        })
        .collect();
    if has("--list") {
        selected.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    let start = Instant::now();
    let failures = match run_all(&selected) {
        Ok(failures) => failures,
        Err(error) => {
            println!("no test could run: {error:#}");
            selected.iter().map(|test| test.name).collect()
        }
    };
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        selected.len() - failures.len(),
        failures.len(),
        tests.len() - selected.len(),
        start.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The names of the tests that failed.
fn run_all(selected: &[&Test]) -> anyhow::Result<Vec<&'static str>> {
    let directory = tempfile::Builder::new().prefix("rw-").tempdir_in(temporary_directory())?;
    let lab = Lab::prepare(directory.path())?;
    println!("guests run with {}", lab.accelerator.name());
    let mut failures = Vec::new();
    for (number, test) in selected.iter().enumerate() {
        println!("test {} ...", test.name);
        let start = Instant::now();
        let outcome = run_one(test, &lab, &directory.path().join(number.to_string()), start);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("test {} ... ok ({seconds:.1} s)", test.name),
            Err(error) => {
                for (depth, cause) in error.chain().enumerate() {
                    println!("    {}{cause}", "  ".repeat(depth));
                }
                println!("    after {seconds:.1} s");
                println!("test {} ... FAILED", test.name);
                failures.push(test.name);
            }
        }
    }
    Ok(failures)
}

fn run_one(test: &Test, lab: &Lab, directory: &PathBuf, start: Instant) -> anyhow::Result<()> {
    std::fs::create_dir(directory)?;
    let lab = lab.in_directory(directory);
    let scene = Scene { lab, start, name: test.name };
    (test.body)(&scene)
}
