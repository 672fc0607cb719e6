//! `fast-rx`: how a frame gets into its receiver's buffers.
//!
//! *Worker path*: every frame waits in the backlog of its receive queue and is delivered by the worker of the receiving device,
//! which is woken for it. *Fast rx*: whoever has the frame delivers it at once if nobody is in the queue and nothing waits. In both
//! there is one worker a device that sleeps when it has no work, and guests sleep until they are called, as in the talk. *Polling*: fast rx with one worker that never
//! sleeps, and guests that look at their rings without being called.

use super::chart::{Drawing, Form, Panel, Series, Table, Verdict, short};
use super::guest::Load;
use super::modes::{one_polling, per_device};
use super::statistics::ratio;
use super::traffic::{Outcome, Plan, Waiting};
use super::{Bench, REQUEST_SHAPE, Rounds};
use crate::plane::Ways;
use anyhow::Result;
use serde::Serialize;

/// Payload of requests and responses in bytes.
const PAYLOAD: usize = 64;
/// Share of hits that request and response should have (the talk: 331668 hits, 79 misses, 99.976 %).
const HITS_MIN: f64 = 0.999;

/// One way of delivery.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    way: &'static str,
    transactions_per_s: f64,
    round_trip_p50_us: f64,
    round_trip_p99_us: f64,
    /// Frames from first to last, which are the hits and the misses.
    frames: u64,
    hits: u64,
    misses: u64,
    /// In the window, by transaction: kicks, calls, and sleeps of workers.
    kicks_per_transaction: f64,
    calls_per_transaction: f64,
    sleeps_per_transaction: f64,
    wake_ups_per_transaction: f64,
}

impl Row {
    fn new(way: &'static str, outcome: &Outcome) -> Self {
        let window = &outcome.window;
        // A transaction is two frames.
        let by_transaction = |count: u64| ratio(count as f64, window.frames_to_guests as f64 / 2.0);
        Self {
            way,
            transactions_per_s: outcome.rate(),
            round_trip_p50_us: outcome.p50_us,
            round_trip_p99_us: outcome.p99_us,
            frames: outcome.drivers.received,
            hits: outcome.plane.hits(),
            misses: outcome.plane.misses,
            kicks_per_transaction: by_transaction(window.kicks),
            calls_per_transaction: by_transaction(window.calls),
            sleeps_per_transaction: by_transaction(window.sleeps),
            wake_ups_per_transaction: by_transaction(window.wake_ups()),
        }
    }

    fn hit_share(&self) -> f64 {
        ratio(self.hits as f64, self.frames as f64)
    }
}

/// Measures and draws.
pub(super) fn chart(bench: &Bench<'_>) -> Result<Drawing> {
    let fast = Plan {
        workers: per_device(),
        ways: Ways { lingers: false, ..Ways::ALL },
        guests: 2,
        clients: 1,
        shape: REQUEST_SHAPE,
        load: Load::RequestResponse { payload: PAYLOAD },
        waiting: Waiting::Sleep,
    };
    let plans = [
        Plan { ways: Ways { direct: false, lingers: false }, ..fast.clone() },
        fast.clone(),
        Plan { workers: one_polling(), ways: Ways::ALL, waiting: Waiting::Poll, ..fast },
    ];
    let ways = ["worker path", "fast rx", "polling"];
    let outcomes = bench.measure(&plans, Rounds::MANY)?;
    let rows: Vec<Row> = ways.iter().zip(&outcomes).map(|(way, outcome)| Row::new(way, outcome)).collect();
    draw(&rows)
}

fn draw(rows: &[Row]) -> Result<Drawing> {
    let mut table = Table::new(&[
        "delivery",
        ">transactions/s",
        ">p50, µs",
        ">p99, µs",
        ">hits",
        ">misses",
        ">hits, %",
        ">kicks",
        ">calls",
        ">worker sleeps",
        ">wake-ups/transaction",
    ]);
    for row in rows {
        table.add([
            row.way.into(),
            short(row.transactions_per_s),
            format!("{:.1}", row.round_trip_p50_us),
            format!("{:.1}", row.round_trip_p99_us),
            row.hits.to_string(),
            row.misses.to_string(),
            format!("{:.3}", row.hit_share() * 100.0),
            format!("{:.3}", row.kicks_per_transaction),
            format!("{:.3}", row.calls_per_transaction),
            format!("{:.3}", row.sleeps_per_transaction),
            format!("{:.3}", row.wake_ups_per_transaction),
        ]);
    }
    let panel = |title, y, of: fn(&Row) -> f64| Panel {
        title,
        x: "delivery",
        y,
        form: Form::Bars,
        categories: rows.iter().map(|row| row.way.into()).collect(),
        series: vec![Series::new("", rows.iter().map(of))],
    };
    Ok(Drawing {
        verdict: verdict(rows),
        table,
        panels: vec![
            panel("Transactions, higher is better", "transactions per second", |row| row.transactions_per_s),
            panel("Wake-ups, lower is better", "kicks, calls and sleeps per transaction", |row| {
                row.wake_ups_per_transaction
            }),
        ],
        measurements: serde_json::to_value(rows)?,
    })
}

fn verdict(rows: &[Row]) -> Verdict {
    let [worker, fast, polling] = rows else {
        return Verdict::new(false, "nothing was measured", "there are not three ways");
    };
    let gain = ratio(fast.transactions_per_s, worker.transactions_per_s);
    let what = format!(
        "fast rx has {gain:.2} times the transactions of the worker path, with {:.3} % hits ({} hit, {} missed) and {:.2} instead of \
         {:.2} wake-ups per transaction, and polling has {:.2} times those of fast rx",
        fast.hit_share() * 100.0,
        fast.hits,
        fast.misses,
        fast.wake_ups_per_transaction,
        worker.wake_ups_per_transaction,
        ratio(polling.transactions_per_s, fast.transactions_per_s),
    );
    let shows =
        gain > 1.0 && fast.hit_share() >= HITS_MIN && polling.transactions_per_s > fast.transactions_per_s;
    let why_not = "two guests, two workers and whatever else runs share the CPUs, and a wake-up that the scheduler delays costs \
                   more than what is compared";
    Verdict::new(shows, &what, why_not)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(way: &'static str, transactions_per_s: f64, hits: u64, misses: u64, wake_ups: f64) -> Row {
        Row {
            way,
            transactions_per_s,
            round_trip_p50_us: 10.0,
            round_trip_p99_us: 20.0,
            frames: hits + misses,
            hits,
            misses,
            kicks_per_transaction: wake_ups,
            calls_per_transaction: 0.0,
            sleeps_per_transaction: 0.0,
            wake_ups_per_transaction: wake_ups,
        }
    }

    #[test]
    fn the_sentence_follows_the_numbers() {
        let worker = row("worker path", 100.0, 0, 400, 6.0);
        let polling = row("polling", 300.0, 1200, 0, 0.0);
        let fast = row("fast rx", 150.0, 331_668, 79, 4.0);
        let verdict = verdict(&[worker.clone(), fast, polling.clone()]);
        assert!(verdict.shows_the_shape, "{}", verdict.sentence);
        for part in ["1.50 times", "99.976 %", "331668 hit, 79 missed", "4.00 instead of 6.00", "2.00 times"]
        {
            assert!(verdict.sentence.contains(part), "{part}: {}", verdict.sentence);
        }
        for fast in [row("fast rx", 90.0, 1000, 0, 4.0), row("fast rx", 150.0, 990, 10, 4.0)] {
            assert!(!super::verdict(&[worker.clone(), fast, polling.clone()]).shows_the_shape);
        }
        assert!(!super::verdict(&[worker]).shows_the_shape);
    }
}
