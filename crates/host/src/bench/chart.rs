//! What a chart is: a table, panels of a picture, one sentence about its shape, and the measurements behind them.

use super::OTHERS_MAX;
use crate::cli::table::{lines, table};
use serde::Serialize;
use std::fmt::Write as _;

/// A finished chart, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) machine: super::machine::Machine,
    /// QEMU, what runs the guests' code and their kernel, where guests are real; embedded ones have nothing to tell.
    pub(super) guests: Option<String>,
    pub(super) effort: super::Effort,
    /// Nothing was measured: the verdict says why.
    pub(super) left_out: bool,
    #[serde(flatten)]
    pub(super) drawing: Drawing,
}

impl Chart {
    /// What its files are called, but for their ends: figures of real guests do not take the place of others.
    pub(super) fn stem(&self) -> String {
        if self.guests.is_some() { format!("{}-vm", self.name) } else { self.name.into() }
    }

    /// Machine and guests in a line.
    pub(super) fn line(&self) -> String {
        match &self.guests {
            Some(guests) => format!("{}; guests: {guests}", self.machine.line()),
            None => self.machine.line(),
        }
    }
}

/// What is made of a chart's measurements.
#[derive(Debug, Serialize)]
pub(super) struct Drawing {
    pub(super) verdict: Verdict,
    pub(super) table: Table,
    pub(super) panels: Vec<Panel>,
    /// Everything that was measured, with its own field names.
    pub(super) measurements: serde_json::Value,
}

/// A chart cannot be made here, for this reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("left out: {0}")]
pub(super) struct LeftOut(pub(super) String);

impl Drawing {
    /// What stands in the place of a chart that cannot be made.
    pub(super) fn left_out(why: &LeftOut) -> Self {
        let mut table = Table::new(&["left out, because"]);
        table.add([why.0.clone()]);
        Self {
            verdict: Verdict { shows_the_shape: false, sentence: format!("Left out: {}.", why.0) },
            table,
            panels: Vec::new(),
            measurements: serde_json::Value::Null,
        }
    }
}

/// Whether the chart shows the talk's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) shows_the_shape: bool,
    /// One sentence with the numbers it rests on.
    pub(super) sentence: String,
}

impl Verdict {
    /// `what` says what was seen; `why_not` what may be the reason if the shape is not there.
    pub(super) fn new(shows_the_shape: bool, what: &str, why_not: &str) -> Self {
        let sentence = if shows_the_shape {
            format!("This is the talk's shape: {what}.")
        } else {
            format!("This is not the talk's shape: {what}; {why_not}.")
        };
        Self { shows_the_shape, sentence }
    }

    /// The same, with what others had of the CPUs (0 to 1) where that is much.
    pub(super) fn beside_others(self, share: f64) -> Self {
        if share <= OTHERS_MAX {
            return self;
        }
        self.with(&format!("other programs had {:.0} % of the CPUs meanwhile", share * 100.0))
    }

    /// The same with a reservation.
    pub(super) fn with(self, reservation: &str) -> Self {
        let sentence = self.sentence.trim_end_matches('.');
        Self { sentence: format!("{sentence} ({reservation})."), ..self }
    }
}

/// Columns with headings; a heading that begins with `>` is over numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&str]) -> Self {
        Self { headings: headings.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    pub(super) fn add<const N: usize>(&mut self, row: [String; N]) {
        self.rows.push(row.into());
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let headings: Vec<&str> = self.headings.iter().map(String::as_str).collect();
        let mut rows = table(&headings);
        for row in &self.rows {
            rows.add_row(row);
        }
        lines(&rows)
    }

    /// For a Markdown file.
    pub(super) fn markdown(&self) -> String {
        let headings = self.headings.iter().map(|heading| heading.trim_start_matches('>'));
        let rules = self.headings.iter().map(|heading| if heading.starts_with('>') { "--:" } else { "---" });
        let mut text = markdown_row(headings);
        text += &markdown_row(rules);
        for row in &self.rows {
            text += &markdown_row(row.iter().map(String::as_str));
        }
        text
    }
}

fn markdown_row<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let mut row = String::from("|");
    for cell in cells {
        let _ = write!(row, " {cell} |");
    }
    row + "\n"
}

/// One picture of the chart's picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// What stands on the x axis, with its unit.
    pub(super) x: &'static str,
    /// What stands on the y axis, with its unit.
    pub(super) y: &'static str,
    pub(super) form: Form,
    /// What the x axis counts, evenly spaced.
    pub(super) categories: Vec<String>,
    pub(super) series: Vec<Series>,
}

/// How values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// A line with a mark at each category, for each series.
    Lines,
    /// A bar for each category of the only series.
    Bars,
}

/// One line of a panel, a value for each category.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
}

impl Series {
    pub(super) fn new(name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        Self { name: name.into(), values: values.into_iter().collect() }
    }
}

/// A rate or a count for people: three digits at least, `12.9 k`.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{:.2} G", value / 1e9),
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// A round number on an axis: [`short`] without zeros that say nothing.
pub(super) fn tick(value: f64) -> String {
    let text = short(value);
    let (number, unit) = text.split_at(text.find(' ').unwrap_or(text.len()));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_for_terminals_and_for_markdown() {
        let mut table = Table::new(&["mode", ">per second"]);
        table.add(["pool".into(), "12".into()]);
        assert_eq!(table.text(), "mode  per second\npool          12\n");
        assert_eq!(table.markdown(), "| mode | per second |\n| --- | --: |\n| pool | 12 |\n");
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.005, 1.0, 99.96, 123.4, 12_345.0, 2.5e6, 8e9].map(short);
        assert_eq!(texts, ["0.00", "0.0050", "1.00", "100.0", "123", "12.3 k", "2.50 M", "8.00 G"]);
        assert_eq!([0.0, 0.5, 100.0, 2e4, 150e3].map(tick), ["0", "0.5", "100", "20 k", "150 k"]);
    }

    #[test]
    fn a_verdict_is_one_sentence() {
        assert_eq!(
            Verdict::new(true, "2 is more than 1", "x").sentence,
            "This is the talk's shape: 2 is more than 1."
        );
        assert_eq!(Verdict::new(true, "a", "x").beside_others(0.01), Verdict::new(true, "a", "x"));
        let busy = Verdict::new(true, "a", "x").beside_others(0.62).sentence;
        assert_eq!(busy, "This is the talk's shape: a (other programs had 62 % of the CPUs meanwhile).");
        let verdict = Verdict::new(false, "1 is less than 2", "one CPU is too few");
        assert_eq!(verdict.sentence, "This is not the talk's shape: 1 is less than 2; one CPU is too few.");
    }
}
