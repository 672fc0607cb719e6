//! `ringway bench --vm`: its guests are its own, made from Debian's packages, as those of `ringway demo --vm`.

use anyhow::{Context, ensure};
use serde_json::Value;
use std::process::Command;
use vmtests::harness::Scene;
use vmtests::ringway;
use vmtests::sysroot::target_directory;

/// The smallest chart of real guests: what it counts is right, and it says who was measured.
pub(crate) fn of_real_guests(scene: &Scene) -> anyhow::Result<()> {
    let output = Command::new(ringway::binary()?)
        .args(["bench", "fast-rx", "--vm", "--seconds", "3", "--json", "--cache"])
        .arg(target_directory().join("vm-packages"))
        .output()
        .context("running ringway")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let charts: Value = serde_json::from_slice(&output.stdout).context("its JSON")?;
    let chart = &charts[0];
    let guests = chart["guests"].as_str().context("no guests are named")?;
    ensure!(guests.starts_with("QEMU ") && guests.contains(", Linux "), "{guests}");
    let sentence = chart["verdict"]["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains(guests), "{sentence}");
    ensure!(guests.contains("emulation") == sentence.contains("not representative"), "{sentence}");

    scene.note(sentence);

    let rows = chart["measurements"].as_array().context("no measurements")?;
    let number = |row: &Value, field: &str| row[field].as_f64().with_context(|| format!("{field} of {row}"));
    ensure!(rows.len() == 3, "{} ways", rows.len());
    for row in rows {
        ensure!(number(row, "transactions_per_s")? > 0.0 && number(row, "round_trip_p99_us")? > 0.0, "{row}");
        ensure!(number(row, "hits")? + number(row, "misses")? == number(row, "frames")?, "{row}");
    }
    // Every frame of the worker path waits; request and response is what fast rx is for; a worker that never sleeps is not kicked.
    ensure!(number(&rows[0], "hits")? == 0.0, "{}", rows[0]);
    ensure!(number(&rows[1], "hits")? >= 0.99 * number(&rows[1], "frames")?, "{}", rows[1]);
    ensure!(number(&rows[2], "sleeps_per_transaction")? == 0.0, "{}", rows[2]);
    ensure!(number(&rows[2], "kicks_per_transaction")? < 0.1, "{}", rows[2]);
    Ok(())
}
