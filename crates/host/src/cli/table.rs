//! Tables for people: columns without lines, numbers to the right, and units that are easy to read.

use comfy_table::{CellAlignment, Table};

/// An empty table. A heading that begins with `>` aligns its column to the right.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// The table as lines without blanks at their ends.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A byte count with three significant digits or more: `1.50 GB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}

/// Seconds as `3d 4h`, `2h 5m`, `7m 1s` or `9s`.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!([bytes(0), bytes(999), bytes(1000)], ["0 B", "999 B", "1.00 kB"]);
        assert_eq!(bytes(1_500_000_000), "1.50 GB");
        assert_eq!([duration(9), duration(421), duration(7500)], ["9s", "7m 1s", "2h 5m"]);
        assert_eq!(duration(3 * 86400 + 4 * 3600 + 5), "3d 4h");
    }

    #[test]
    fn columns_line_up() {
        let mut rows = table(&["NAME", ">FRAMES"]);
        rows.add_row(["web", "5"]).add_row(["uplink", "1234567"]);
        assert_eq!(lines(&rows), "NAME     FRAMES\nweb           5\nuplink  1234567\n");
    }
}
