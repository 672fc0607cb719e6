//! A chart on standard output and in files.

use super::chart::Chart;
use super::picture;
use anyhow::{Context, Result};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// Title, table, sentence.
pub(super) fn print(chart: &Chart) -> Result<()> {
    let drawing = &chart.drawing;
    let (table, machine) = (drawing.table.text(), chart.machine.line());
    say(&format!("{}: {}\n{machine}\n\n{table}\n{}\n\n", chart.name, chart.title, drawing.verdict.sentence))
}

/// All charts as one JSON array.
pub(super) fn print_json(charts: &[Chart]) -> Result<()> {
    say(&format!("{}\n", serde_json::to_string_pretty(charts)?))
}

/// Writes NAME.svg, NAME.json and NAME.md.
pub(super) fn write(chart: &Chart, directory: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(chart)? + "\n";
    for (extension, text) in [("svg", picture::svg(chart)?), ("json", json), ("md", markdown(chart))] {
        let path = directory.join(format!("{}.{extension}", chart.name));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn markdown(chart: &Chart) -> String {
    let (drawing, effort) = (&chart.drawing, &chart.effort);
    let measured = if effort.cases == 0 {
        "Computed, not measured.".to_owned()
    } else {
        format!(
            "Median of {} rounds of {} ms each, after {} ms to warm up.",
            effort.rounds, effort.window_ms, effort.warm_up_ms
        )
    };
    format!(
        "# {title}\n\n![{title}]({name}.svg)\n\n{sentence}\n\n{table}\n{machine}. {measured}\nMade by `ringway bench {name} --out DIR`.\n",
        title = chart.title,
        name = chart.name,
        sentence = drawing.verdict.sentence,
        table = drawing.table.markdown(),
        machine = chart.machine.line(),
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
