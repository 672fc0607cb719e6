//! What a bench gives: one comparison a row, with what was promised about it and whether that is met.

use serde::Serialize;
use std::fmt;

/// What a ratio must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This or more: larger is better.
    AtLeast(f64),
    /// This or less: smaller is better.
    AtMost(f64),
}

/// Which way a target binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The ratio must not be smaller.
    AtLeast,
    /// The ratio must not be larger.
    AtMost,
}

/// One comparison. `ratio` is `ours / peer`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured, and against whom.
    pub case: String,
    /// Ringway's figure.
    pub ours: f64,
    /// The peer's figure.
    pub peer: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// `ours / peer`, or the median of such ratios.
    pub ratio: f64,
    /// What the ratio must reach or keep below, if anything is promised.
    pub target: Option<f64>,
    /// Which of the two.
    pub bound: Option<Bound>,
    /// Whether it does.
    pub met: Option<bool>,
}

impl Row {
    /// The row of two figures, rounded to three digits.
    pub fn new(case: String, ours: f64, peer: f64, unit: &'static str, target: Option<Target>) -> Self {
        Self::with_ratio(case, ours, peer, unit, ours / peer, target)
    }

    /// As [`new`](Self::new), with a ratio that was formed another way.
    pub fn with_ratio(
        case: String,
        ours: f64,
        peer: f64,
        unit: &'static str,
        ratio: f64,
        target: Option<Target>,
    ) -> Self {
        let (target, bound, met) = match target {
            Some(Target::AtLeast(least)) => (Some(least), Some(Bound::AtLeast), Some(ratio >= least)),
            Some(Target::AtMost(most)) => (Some(most), Some(Bound::AtMost), Some(ratio <= most)),
            None => (None, None, None),
        };
        Self {
            case,
            ours: rounded(ours),
            peer: rounded(peer),
            unit,
            ratio: rounded(ratio),
            target,
            bound,
            met,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, ours, peer, unit, ratio, .. } = self;
        write!(f, "{case:58} {ours:8.2} against {peer:8.2} {unit}: ratio {ratio:.2}")?;
        let (Some(target), Some(bound), Some(met)) = (self.target, self.bound, self.met) else {
            return Ok(());
        };
        let word = if bound == Bound::AtLeast { "at least" } else { "at most" };
        write!(f, " (target {word} {target}: {})", if met { "met" } else { "MISSED" })
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod test {
    use super::*;

    fn row(ours: f64, target: Target) -> Row {
        Row::new("a case".into(), ours, 2.0, "Mpps", Some(target))
    }

    #[test]
    fn a_target_binds_one_way() {
        assert_eq!(row(3.0, Target::AtLeast(1.5)).met, Some(true));
        assert_eq!(row(2.9, Target::AtLeast(1.5)).met, Some(false));
        assert_eq!(row(1.4, Target::AtMost(0.7)).met, Some(true));
        assert_eq!(row(1.5, Target::AtMost(0.7)).met, Some(false));
    }

    #[test]
    fn a_row_says_whether_it_meets_its_target() {
        let text = row(2.9, Target::AtLeast(1.5)).to_string();
        assert!(text.ends_with("ratio 1.45 (target at least 1.5: MISSED)"), "{text}");
        let json = serde_json::to_value(row(1.4, Target::AtMost(0.7))).unwrap();
        assert_eq!((json["target"].as_f64(), json["bound"].as_str()), (Some(0.7), Some("at_most")));
        assert_eq!(json["met"].as_bool(), Some(true));
        let plain = Row::new("a case".into(), 1.0, 2.0, "s", None);
        assert!(plain.to_string().ends_with("ratio 0.50"));
    }
}
