//! `threads-udp-rr` and `threads-tcp-stream`: how threads are arranged, over 1 to 32 devices.
//!
//! The guests are a circle: each sends to the next, and the only one of one sends to itself (its port is a hairpin). So every
//! device is sender and receiver, and there are as many as the axis says. Guests sleep until they are called.

use super::chart::{Drawing, Form, Panel, Series, Table, Verdict, short};
use super::frames::STREAM_PAYLOAD;
use super::guest::Load;
use super::modes::{Mode, per_device, pool, sidecore};
use super::statistics::ratio;
use super::traffic::{Outcome, Plan, Waiting};
use super::{Bench, REQUEST_SHAPE, Rounds, STREAM_SHAPE, STREAM_WINDOW};
use crate::embedded::rings::Shape;
use crate::plane::Ways;
use anyhow::Result;
use serde::Serialize;

const DEVICES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Payload of requests and responses in bytes.
const PAYLOAD: usize = 64;

/// One number of devices in one mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    devices: usize,
    mode: &'static str,
    /// Of all devices: answered requests, or frames of 64 KiB.
    transactions_per_s: f64,
    /// 0 of streams.
    round_trip_p50_us: f64,
    round_trip_p99_us: f64,
    /// Workers.
    threads: u64,
    /// Of all workers.
    voluntary_switches_per_s: f64,
    involuntary_switches_per_s: f64,
    kicks_per_s: f64,
    calls_per_s: f64,
    /// Jain's index over the devices' rates.
    fairness: f64,
}

impl Row {
    fn new(devices: usize, mode: &'static str, outcome: &Outcome) -> Self {
        let window = &outcome.window;
        Self {
            devices,
            mode,
            transactions_per_s: outcome.rate(),
            round_trip_p50_us: outcome.p50_us,
            round_trip_p99_us: outcome.p99_us,
            threads: window.worker_threads,
            voluntary_switches_per_s: outcome.per_second(window.voluntary_switches),
            involuntary_switches_per_s: outcome.per_second(window.involuntary_switches),
            kicks_per_s: outcome.per_second(window.kicks),
            calls_per_s: outcome.per_second(window.calls),
            fairness: outcome.fairness(),
        }
    }

    fn switches_per_s(&self) -> f64 {
        self.voluntary_switches_per_s + self.involuntary_switches_per_s
    }

    fn gigabits_per_s(&self) -> f64 {
        self.transactions_per_s * STREAM_PAYLOAD as f64 * 8.0 / 1e9
    }
}

/// `threads-udp-rr`.
pub(super) fn udp_rr(bench: &Bench<'_>) -> Result<Drawing> {
    let load = Load::RequestResponse { payload: PAYLOAD };
    draw_udp_rr(&measure(bench, REQUEST_SHAPE, load)?)
}

/// `threads-tcp-stream`.
pub(super) fn tcp_stream(bench: &Bench<'_>) -> Result<Drawing> {
    let load = Load::Stream { window: STREAM_WINDOW };
    draw_tcp_stream(&measure(bench, STREAM_SHAPE, load)?)
}

fn measure(bench: &Bench<'_>, shape: Shape, load: Load) -> Result<Vec<Row>> {
    let modes = [per_device(), pool(), sidecore("adaptive")];
    type Case<'m> = ((usize, usize), &'m Mode);
    let numbers = bench.numbers(&DEVICES);
    let cases: Vec<Case<'_>> =
        numbers.into_iter().flat_map(|numbers| modes.iter().map(move |mode| (numbers, mode))).collect();
    let plan = |((devices, clients), mode): &Case<'_>| Plan {
        workers: (*mode).clone(),
        ways: Ways::ALL,
        guests: *devices,
        clients: *clients,
        shape,
        load,
        waiting: Waiting::Sleep,
    };
    let outcomes = bench.measure(&cases.iter().map(plan).collect::<Vec<_>>(), Rounds::FEW)?;
    Ok(cases
        .iter()
        .zip(&outcomes)
        .map(|(((devices, _), mode), outcome)| Row::new(*devices, mode.name, outcome))
        .collect())
}

fn draw_udp_rr(rows: &[Row]) -> Result<Drawing> {
    let mut table = Table::new(&[
        ">devices",
        "mode",
        ">transactions/s",
        ">p50, µs",
        ">p99, µs",
        ">threads",
        ">switches/s, voluntary",
        ">involuntary",
        ">fairness",
    ]);
    for row in rows {
        table.add([
            row.devices.to_string(),
            row.mode.into(),
            short(row.transactions_per_s),
            short(row.round_trip_p50_us),
            short(row.round_trip_p99_us),
            row.threads.to_string(),
            short(row.voluntary_switches_per_s),
            short(row.involuntary_switches_per_s),
            format!("{:.3}", row.fairness),
        ]);
    }
    let panels = vec![
        panel(rows, "UDP RR, higher is better", "transactions per second", |row| row.transactions_per_s),
        panel(rows, "99th percentile, lower is better", "round trip, microseconds", |row| {
            row.round_trip_p99_us
        }),
        panel(
            rows,
            "Context switches of workers, lower is better",
            "switches per second",
            Row::switches_per_s,
        ),
        panel(rows, "Fairness, 1 is best", "Jain's index over devices", |row| row.fairness),
    ];
    Ok(Drawing { verdict: verdict(rows), table, panels, measurements: serde_json::to_value(rows)? })
}

fn draw_tcp_stream(rows: &[Row]) -> Result<Drawing> {
    let mut table = Table::new(&[
        ">devices",
        "mode",
        ">frames/s",
        ">Gbit/s",
        ">threads",
        ">switches/s, voluntary",
        ">involuntary",
        ">fairness",
    ]);
    for row in rows {
        table.add([
            row.devices.to_string(),
            row.mode.into(),
            short(row.transactions_per_s),
            format!("{:.2}", row.gigabits_per_s()),
            row.threads.to_string(),
            short(row.voluntary_switches_per_s),
            short(row.involuntary_switches_per_s),
            format!("{:.3}", row.fairness),
        ]);
    }
    let panels = vec![
        panel(rows, "TCP stream, higher is better", "Gbit/s of payload", Row::gigabits_per_s),
        panel(
            rows,
            "Context switches of workers, lower is better",
            "switches per second",
            Row::switches_per_s,
        ),
        panel(rows, "Threads of workers", "threads", |row| row.threads as f64),
        panel(rows, "Fairness, 1 is best", "Jain's index over devices", |row| row.fairness),
    ];
    Ok(Drawing { verdict: verdict(rows), table, panels, measurements: serde_json::to_value(rows)? })
}

/// A line for each mode, in the order in which they come.
fn panel(rows: &[Row], title: &'static str, y: &'static str, of: fn(&Row) -> f64) -> Panel {
    let mut categories: Vec<String> = Vec::new();
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let devices = row.devices.to_string();
        if categories.last() != Some(&devices) {
            categories.push(devices);
        }
        match series.iter_mut().find(|series| series.name == row.mode) {
            Some(series) => series.values.push(of(row)),
            None => series.push(Series::new(row.mode, [of(row)])),
        }
    }
    Panel { title, x: "devices", y, form: Form::Lines, categories, series }
}

/// The talk's pictures are lost. Its point was that a pool need not lose against a thread for each device.
fn verdict(rows: &[Row]) -> Verdict {
    let devices = rows.iter().map(|row| row.devices).max().unwrap_or(0);
    let find = |mode| rows.iter().find(|row| row.devices == devices && row.mode == mode);
    let (Some(own), Some(pool)) = (find("per-device"), find("pool")) else {
        return Verdict::new(false, "nothing was measured", "there are not both modes");
    };
    let gain = ratio(pool.transactions_per_s, own.transactions_per_s);
    let switches = |row: &Row| ratio(row.switches_per_s(), row.transactions_per_s);
    let mut what = format!(
        "with {devices} devices a pool of {} has {gain:.2} times the transactions of {} threads, one a device, at {:.2} instead of {:.2} \
         context switches of workers per transaction",
        pool.threads,
        own.threads,
        switches(pool),
        switches(own),
    );
    if let Some(sidecore) = find("sidecore") {
        let gain = ratio(sidecore.transactions_per_s, own.transactions_per_s);
        what += &format!(", and {} sidecore has {gain:.2} times", sidecore.threads);
    }
    let why_not = "the guests' own threads take most of the CPUs, so what the workers save may not show";
    Verdict::new(gain >= 1.0 && pool.threads < own.threads, &what, why_not)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(devices: usize, mode: &'static str, transactions_per_s: f64, threads: u64) -> Row {
        Row {
            devices,
            mode,
            transactions_per_s,
            round_trip_p50_us: 10.0,
            round_trip_p99_us: 100.0,
            threads,
            voluntary_switches_per_s: 200.0,
            involuntary_switches_per_s: 100.0,
            kicks_per_s: 0.0,
            calls_per_s: 0.0,
            fairness: 1.0,
        }
    }

    #[test]
    fn the_sentence_is_of_the_most_devices() {
        let few = [row(1, "per-device", 500.0, 1), row(1, "pool", 10.0, 2)];
        let many = [row(32, "per-device", 100.0, 32), row(32, "pool", 150.0, 2)];
        let verdict = verdict(&[few.clone(), many.clone()].concat());
        assert!(verdict.shows_the_shape);
        for part in ["32 devices", "pool of 2 has 1.50 times", "32 threads", "2.00 instead of 3.00"] {
            assert!(verdict.sentence.contains(part), "{part}: {}", verdict.sentence);
        }
        assert!(!verdict.sentence.contains("sidecore"));
        assert!(!super::verdict(&few).shows_the_shape);
        let with_sidecore = super::verdict(&[many.to_vec(), vec![row(32, "sidecore", 200.0, 1)]].concat());
        assert!(with_sidecore.sentence.contains("1 sidecore has 2.00 times"), "{}", with_sidecore.sentence);
    }

    #[test]
    fn a_line_for_each_mode() {
        let rows = [
            row(1, "per-device", 1.0, 1),
            row(1, "pool", 2.0, 1),
            row(2, "per-device", 3.0, 2),
            row(2, "pool", 4.0, 1),
        ];
        let panel = panel(&rows, "t", "y", |row| row.transactions_per_s);
        assert_eq!(panel.categories, ["1", "2"]);
        assert_eq!(panel.series, [Series::new("per-device", [1.0, 3.0]), Series::new("pool", [2.0, 4.0])]);
        let stream = draw_tcp_stream(&rows).unwrap();
        assert_eq!(stream.panels[0].series[1].values[1], 4.0 * 65_495.0 * 8.0 / 1e9);
    }
}
