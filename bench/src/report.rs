//! One row for each case: ours, the peer's, and how many times better.

/// A case that was measured on both sides.
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) unit: &'static str,
    /// What the ratio (peer to ours: larger is better) should reach.
    pub(crate) target: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.peer / self.ours
    }
}

/// Prints a table, or one JSON object a line.
pub(crate) fn print(rows: &[Row], json: bool) {
    if !json {
        println!("{:36} {:>8} {:>8} {:10} {:>7} {:>7}", "case", "ours", "peer", "unit", "ratio", "target");
    }
    for row in rows {
        if json {
            let round = |value: f64| (value * 100.0).round() / 100.0;
            let object = serde_json::json!({
                "case": row.case, "ours": round(row.ours), "peer": round(row.peer), "unit": row.unit,
                "ratio": round(row.ratio()), "target": row.target,
            });
            println!("{object}");
        } else {
            println!(
                "{:36} {:8.2} {:8.2} {:10} {:6.1}x {:6.1}x",
                row.case,
                row.ours,
                row.peer,
                row.unit,
                row.ratio(),
                row.target
            );
        }
    }
}

/// The middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
