//! A chart on standard output and in files.

use super::chart::Chart;
use super::picture;
use anyhow::{Context, Result};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// Title, table, sentence.
pub(super) fn print(chart: &Chart) -> Result<()> {
    let drawing = &chart.drawing;
    let (table, machine) = (drawing.table.text(), chart.line());
    say(&format!("{}: {}\n{machine}\n\n{table}\n{}\n\n", chart.name, chart.title, drawing.verdict.sentence))
}

/// All charts as one JSON array.
pub(super) fn print_json(charts: &[Chart]) -> Result<()> {
    say(&format!("{}\n", serde_json::to_string_pretty(charts)?))
}

/// Writes NAME.svg, NAME.json and NAME.md; NAME-vm with real guests.
pub(super) fn write(chart: &Chart, directory: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(chart)? + "\n";
    for (extension, text) in [("svg", picture::svg(chart)?), ("json", json), ("md", markdown(chart))] {
        let path = directory.join(format!("{}.{extension}", chart.stem()));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn markdown(chart: &Chart) -> String {
    let (drawing, effort) = (&chart.drawing, &chart.effort);
    let windows = format!("{} ms each, after {} ms to warm up.", effort.window_ms, effort.warm_up_ms);
    let measured = match (effort.cases, effort.rounds) {
        (0, _) => "Computed, not measured.".to_owned(),
        (_, 1) => format!("One round of {windows}"),
        (_, rounds) => format!("Median of {rounds} rounds of {windows}"),
    };
    format!(
        "# {title}\n\n![{title}]({stem}.svg)\n\n{sentence}\n\n{table}\n{machine}. {measured}\nMade by `ringway bench {name}{vm} --out DIR`.\n",
        title = chart.title,
        stem = chart.stem(),
        name = chart.name,
        vm = if chart.guests.is_some() { " --vm" } else { "" },
        sentence = drawing.verdict.sentence,
        table = drawing.table.markdown(),
        machine = chart.line(),
    )
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output"),
    }
}
