//! `elvis`: workers that are notified against sidecores that poll, over 1 to 16 guests.
//!
//! Guests are a circle of request and response, as in `threads-udp-rr`, and sleep until they are called. *Notification*: a thread
//! for each device, woken by kicks and asleep when there is no work, as vhost. *Sidecore*: half of the CPUs look at all guests' queues and never sleep, so that no
//! guest kicks; a kick of a real guest is an exit. Net only: there is no disk yet.

use super::chart::{Drawing, Form, Panel, Series, Table, Verdict, short};
use super::guest::Load;
use super::modes::{Mode, per_device, sidecore};
use super::statistics::ratio;
use super::traffic::{Outcome, Plan, Waiting};
use super::{Bench, REQUEST_SHAPE, Rounds};
use crate::plane::Ways;
use anyhow::Result;
use serde::Serialize;

const GUESTS: [usize; 5] = [1, 2, 4, 8, 16];
/// Payload of requests and responses in bytes.
const PAYLOAD: usize = 64;
const NOTIFICATION: &str = "notification";
const SIDECORE: &str = "sidecore";

/// One number of guests in one way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    guests: usize,
    way: &'static str,
    /// Of all guests.
    transactions_per_s: f64,
    /// Driver to worker, in the window: with real guests each is an exit.
    kicks: u64,
    kicks_per_s: f64,
    /// Worker to driver.
    calls_per_s: f64,
    /// Times workers went to sleep, and were woken.
    worker_wake_ups_per_s: f64,
    worker_threads: u64,
}

impl Row {
    fn new(guests: usize, way: &'static str, outcome: &Outcome) -> Self {
        let window = &outcome.window;
        Self {
            guests,
            way,
            transactions_per_s: outcome.rate(),
            kicks: window.kicks,
            kicks_per_s: outcome.per_second(window.kicks),
            calls_per_s: outcome.per_second(window.calls),
            worker_wake_ups_per_s: outcome.per_second(window.sleeps),
            worker_threads: window.worker_threads,
        }
    }
}

/// Measures and draws.
pub(super) fn chart(bench: &Bench<'_>) -> Result<Drawing> {
    let both = [
        (NOTIFICATION, per_device(), Ways { lingers: false, ..Ways::ALL }),
        (SIDECORE, sidecore("always"), Ways::ALL),
    ];
    type Case<'w> = ((usize, usize), &'w (&'static str, Mode, Ways));
    let numbers = bench.numbers(&GUESTS);
    let cases: Vec<Case<'_>> =
        numbers.into_iter().flat_map(|numbers| both.iter().map(move |way| (numbers, way))).collect();
    let plan = |((guests, clients), (_, workers, ways)): &Case<'_>| Plan {
        workers: workers.clone(),
        ways: *ways,
        guests: *guests,
        clients: *clients,
        shape: REQUEST_SHAPE,
        load: Load::RequestResponse { payload: PAYLOAD },
        waiting: Waiting::Sleep,
    };
    let outcomes = bench.measure(&cases.iter().map(plan).collect::<Vec<_>>(), Rounds::FEW)?;
    let rows: Vec<Row> = cases
        .iter()
        .zip(&outcomes)
        .map(|(((guests, _), (way, ..)), outcome)| Row::new(*guests, way, outcome))
        .collect();
    draw(&rows)
}

fn draw(rows: &[Row]) -> Result<Drawing> {
    let mut table = Table::new(&[
        ">guests",
        "workers",
        ">transactions/s",
        ">kicks/s",
        ">kicks/transaction",
        ">calls/s",
        ">worker wake-ups/s",
        ">threads",
    ]);
    for row in rows {
        table.add([
            row.guests.to_string(),
            row.way.into(),
            short(row.transactions_per_s),
            short(row.kicks_per_s),
            format!("{:.3}", ratio(row.kicks_per_s, row.transactions_per_s)),
            short(row.calls_per_s),
            short(row.worker_wake_ups_per_s),
            row.worker_threads.to_string(),
        ]);
    }
    let panel = |title, y, of: fn(&Row) -> f64| Panel {
        title,
        x: "guests",
        y,
        form: Form::Lines,
        categories: rows
            .iter()
            .filter(|row| row.way == NOTIFICATION)
            .map(|row| row.guests.to_string())
            .collect(),
        series: [NOTIFICATION, SIDECORE]
            .map(|way| Series::new(way, rows.iter().filter(|row| row.way == way).map(of)))
            .into(),
    };
    Ok(Drawing {
        verdict: verdict(rows),
        table,
        panels: vec![
            panel("Throughput, higher is better", "transactions per second", |row| row.transactions_per_s),
            panel("Kicks, lower is better", "kicks per second", |row| row.kicks_per_s),
            panel("Wake-ups of workers, lower is better", "wake-ups per second", |row| {
                row.worker_wake_ups_per_s
            }),
            panel("Calls to guests", "calls per second", |row| row.calls_per_s),
        ],
        measurements: serde_json::to_value(rows)?,
    })
}

/// ELVIS published 1.2 to 3 times the throughput, and no kicks.
fn verdict(rows: &[Row]) -> Verdict {
    let guests = rows.iter().map(|row| row.guests).max().unwrap_or(0);
    let find = |way| rows.iter().find(|row| row.guests == guests && row.way == way);
    let (Some(notified), Some(polled)) = (find(NOTIFICATION), find(SIDECORE)) else {
        return Verdict::new(false, "nothing was measured", "there are not both ways");
    };
    let gain = ratio(polled.transactions_per_s, notified.transactions_per_s);
    let what = format!(
        "with {guests} guests sidecores ({}) see {} kicks and {} wake-ups a second instead of {} and {}, at {gain:.2} times the \
         transactions (published for ELVIS: 1.2 to 3 times)",
        polled.worker_threads,
        short(polled.kicks_per_s),
        short(polled.worker_wake_ups_per_s),
        short(notified.kicks_per_s),
        short(notified.worker_wake_ups_per_s),
    );
    let why_not = "a kick is an exit with KVM alone and a write with other guests, so that little is saved by not kicking, and sidecores \
                   pay only where they have their CPUs to themselves and the guests have others";
    let shows = gain >= 1.0 && polled.kicks_per_s < notified.kicks_per_s / 10.0;
    Verdict::new(shows, &what, why_not)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(guests: usize, way: &'static str, transactions_per_s: f64, kicks_per_s: f64) -> Row {
        Row {
            guests,
            way,
            transactions_per_s,
            kicks: kicks_per_s as u64,
            kicks_per_s,
            calls_per_s: 5.0,
            worker_wake_ups_per_s: kicks_per_s,
            worker_threads: 1,
        }
    }

    #[test]
    fn the_sentence_follows_the_numbers() {
        let notified = row(16, NOTIFICATION, 1000.0, 800.0);
        let verdict = verdict(&[notified.clone(), row(16, SIDECORE, 1500.0, 0.0)]);
        assert!(verdict.shows_the_shape);
        for part in ["16 guests", "see 0.00 kicks", "instead of 800", "1.50 times"] {
            assert!(verdict.sentence.contains(part), "{part}: {}", verdict.sentence);
        }
        assert!(!super::verdict(&[notified.clone(), row(16, SIDECORE, 900.0, 0.0)]).shows_the_shape);
        assert!(!super::verdict(&[notified.clone(), row(16, SIDECORE, 1500.0, 500.0)]).shows_the_shape);
        assert!(!super::verdict(&[notified]).shows_the_shape);
    }
}
