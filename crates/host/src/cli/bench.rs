//! `ringway bench`.

use crate::bench::{self, BenchOptions, ChartName};
use clap::Args;
use std::path::PathBuf;

/// Seconds that a chart takes.
const SECONDS: f64 = 45.0;
const SECONDS_QUICK: f64 = 3.0;

#[derive(Args, Debug)]
pub(crate) struct BenchArguments {
    /// Which charts [default: all]
    #[arg(value_enum)]
    charts: Vec<ChartName>,
    /// Measure for about three seconds a chart instead of 45: enough to see that it works
    #[arg(long)]
    quick: bool,
    /// Measure for so many seconds a chart
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "quick")]
    seconds: Option<f64>,
    /// Write NAME.svg, NAME.json and NAME.md of each chart into this directory
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Boot real QEMU guests, made from Debian's packages, for the charts that can be made with them: fast-rx, elvis,
    /// threads-udp-rr; files are called NAME-vm
    #[arg(long)]
    vm: bool,
    /// Where those packages are kept [default: ringway in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "PATH", requires = "vm")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    output: super::Output,
}

fn seconds(text: &str) -> Result<f64, String> {
    let accepted = || "accepted are numbers from 0.1 to 3600".to_owned();
    let seconds: f64 = text.parse().map_err(|_| accepted())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err(accepted()) }
}

pub(super) fn run(what: BenchArguments) -> anyhow::Result<()> {
    let usual = if what.quick { SECONDS_QUICK } else { SECONDS };
    bench::run(&BenchOptions {
        charts: what.charts,
        seconds: what.seconds.unwrap_or(usual),
        json: what.output.json,
        out: what.out,
        vm: what.vm,
        cache: what.cache,
    })
}
