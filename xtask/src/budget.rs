//! `cargo xtask budget`: what a frame takes, in instructions, held against `bench/budget.toml`.
//!
//! Callgrind runs each case of `bench budget` and counts inside of one function of it, so neither the drivers' part nor the
//! preparation counts. A count says the same on every machine and under any load, as long as the same instructions run:
//!
//! * the C library chooses its copies by processor, so what runs outside of our own program is left out;
//! * a string move is one instruction for each byte to Callgrind and far less to a processor: its function is left out;
//! * another compiler makes other code: the budget says which one it was made with.

use crate::steps::Steps;
use crate::tests::build;
use crate::{root, setup};
use anyhow::{Context, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a case may take more than its budget before the command fails, in percent.
const TOLERANCE_PERCENT: f64 = 3.0;
/// The function of `bench` inside of which is counted.
const COUNTED: &str = "*counted_part*";
/// Functions that do not count, by a part of their name.
const LEFT_OUT: &str = "string_move";

/// Builds and counts.
pub(crate) fn run(steps: &mut Steps, renew: bool) {
    if build(steps) {
        check(steps, renew);
    }
}

/// Counts every case of what is built; with `renew`, makes what was counted the budget.
pub(crate) fn check(steps: &mut Steps, renew: bool) {
    if setup::valgrind(steps) {
        let what = "budget: instructions of a frame";
        steps.check(what, || if renew { write(&count_all()?) } else { compare() });
    }
}

/// Instructions of a frame, by case, in the order of the cases.
type Counts = Vec<(String, f64)>;

fn compare() -> anyhow::Result<()> {
    let (compiler, budget) = read()?;
    let counts = count_all()?;
    println!("{:40} {:>12} {:>10} {:>10}", "case", "instructions", "budget", "difference");
    let mut over = Vec::new();
    for (case, count) in &counts {
        let Some(allowed) = budget.get(case) else {
            println!("{case:40} {count:12.1} {:>10}", "none");
            over.push(case.as_str());
            continue;
        };
        let difference = (count / allowed - 1.0) * 100.0;
        println!("{case:40} {count:12.1} {allowed:10.1} {difference:+9.1} %");
        if difference > TOLERANCE_PERCENT {
            over.push(case);
        }
    }
    for gone in budget.keys().filter(|case| !counts.iter().any(|(name, _)| name == *case)) {
        println!("{gone:40} {:>12}", "no such case");
        over.push(gone);
    }
    if over.is_empty() {
        return Ok(());
    }
    let this = self::compiler()?;
    if this != compiler {
        println!("the budget was made with {compiler}, this is {this}");
    }
    bail!(
        "more than {TOLERANCE_PERCENT} % over the budget, or not in it: {}. If that is what the change is worth: \
         `cargo xtask budget --renew` makes the counts of today the budget",
        over.join("; ")
    )
}

fn file() -> PathBuf {
    root().join("bench/budget.toml")
}

/// The compiler that the budget was made with, and the instructions of a frame, by case.
fn read() -> anyhow::Result<(String, BTreeMap<String, f64>)> {
    let text = std::fs::read_to_string(file()).context("bench/budget.toml")?;
    parse(&text).context("bench/budget.toml")
}

fn parse(text: &str) -> anyhow::Result<(String, BTreeMap<String, f64>)> {
    let table: toml::Table = text.parse()?;
    let compiler = table.get("compiler").and_then(toml::Value::as_str).context("`compiler` is missing")?;
    let counts = table.get("instructions").and_then(toml::Value::as_table);
    let mut budget = BTreeMap::new();
    for (case, count) in counts.context("`[instructions]` is missing")? {
        let count = count.as_float().filter(|count| *count > 0.0);
        budget.insert(
            case.clone(),
            count.with_context(|| format!("{case:?} is no positive number such as 512.0"))?,
        );
    }
    Ok((compiler.to_owned(), budget))
}

fn write(counts: &Counts) -> anyhow::Result<()> {
    let mut text = String::from(
        "# Instructions that a frame takes, by case. `cargo xtask budget` holds the code against it;\n\
         # `cargo xtask budget --renew` writes it.\n",
    );
    writeln!(text, "compiler = {:?}\n\n[instructions]", compiler()?)?;
    for (case, count) in counts {
        println!("{case:40} {count:12.1}");
        writeln!(text, "{case:?} = {count:.1}")?;
    }
    std::fs::write(file(), text).context("bench/budget.toml")
}

fn compiler() -> anyhow::Result<String> {
    Ok(output(Command::new("rustc").arg("--version").current_dir(root()))?.trim().to_owned())
}

fn count_all() -> anyhow::Result<Counts> {
    let bench = root().join("target/fast/bench");
    let cases = output(Command::new(&bench).arg("budget"))?;
    let counts =
        cases.lines().map(|case| Ok((case.to_owned(), count(&bench, case).context(case.to_owned())?)));
    counts.collect()
}

/// Instructions of a frame of one case.
fn count(bench: &Path, case: &str) -> anyhow::Result<f64> {
    let profile = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--collect-atstart=no"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(format!("--callgrind-out-file={}", profile.path().display()));
    let frames: u64 = output(command.arg(bench).args(["budget", case]))?.trim().parse()?;
    let text = std::fs::read_to_string(profile.path())?;
    let instructions = own_cost(&text, &bench.to_string_lossy())?;
    ensure!(instructions > 0 && frames > 0, "nothing was counted");
    Ok(instructions as f64 / frames as f64)
}

/// What a program ran itself, in the words of a profile of Callgrind: lines that name an object (`ob=`) or a function (`fn=`)
/// say of whom the lines behind are, each with a place and a cost. The line behind `calls=` is of who was called.
fn own_cost(profile: &str, program: &str) -> anyhow::Result<u64> {
    let (mut objects, mut functions) = (HashMap::new(), HashMap::new());
    let (mut is_ours, mut counts, mut is_callee) = (false, false, false);
    let mut sum = 0;
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            is_ours = full_name(&mut objects, name) == program;
        } else if let Some(name) = line.strip_prefix("fn=") {
            counts = !full_name(&mut functions, name).contains(LEFT_OUT);
        } else if let Some(name) = line.strip_prefix("cob=") {
            full_name(&mut objects, name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            full_name(&mut functions, name);
        } else if line.starts_with("calls=") {
            is_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).with_context(|| format!("a line without a cost: {line:?}"))?;
            let cost: u64 = cost.parse().with_context(|| format!("not a cost: {line:?}"))?;
            if !std::mem::take(&mut is_callee) && is_ours && counts {
                sum += cost;
            }
        }
    }
    Ok(sum)
}

/// A name that is given as `(number) name` the first time and as `(number)` from then on.
fn full_name<'p>(names: &mut HashMap<&'p str, &'p str>, text: &'p str) -> &'p str {
    match text.split_once(") ") {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(text.trim_end_matches(')')).copied().unwrap_or_default(),
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?}: {}\n{}", command.get_program(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_our_own_instructions_count() {
        let profile = "events: Ir\nob=(1) /t/bench\nfl=(1) a.rs\nfn=(1) counted_part\n10 5\ncob=(2) /lib/libc.so.6\n\
                       cfn=(2) memcpy\ncalls=3 0\n11 900\n+1 7\n\nob=(2)\nfn=(2)\n0 900\n\nob=(1)\nfn=(3) string_move\n\
                       7 4000\nfn=(1)\n* 1\n";
        assert_eq!(own_cost(profile, "/t/bench").unwrap(), 13);
        assert!(own_cost("ob=(1) a\nfn=(1) b\n10 x", "a").is_err());
    }

    #[test]
    fn a_budget_is_numbers_by_case() {
        let text = "compiler = \"rustc 1\"\n[instructions]\n\"64 B, split\" = 10.5\n";
        assert_eq!(parse(text).unwrap(), ("rustc 1".into(), BTreeMap::from([("64 B, split".into(), 10.5)])));
        for broken in
            ["compiler = \"a\"", "[instructions]\na = 1.0", "compiler = \"a\"\n[instructions]\na = 0.0"]
        {
            assert!(parse(broken).is_err());
        }
    }
}
