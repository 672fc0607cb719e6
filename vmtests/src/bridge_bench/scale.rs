//! What idle ports and FDB entries cost two busy ones.
//!
//! Idle ports are vhost-user sockets without a front-end. Entries are learned from a third driver behind a port with profile
//! `open`, which is silent afterwards. The victims' frames go to two of the entries: what looking up random ones of a
//! million costs is measured in the crate alone.

use super::stage::{Plan, SETTLE, Stage, System};
use super::storm::Kind;
use super::{Bench, Series, order, row};
use crate::process::wait_until;
use crate::row::Row;
use anyhow::Context;
use std::fmt::Write as _;
use std::time::Duration;

/// What is left of the rate of the smallest case: the growth of the cost that the issue allows, turned round.
const TARGET: f64 = 1.0 / 1.3;
/// Windows of each start.
const WINDOWS: usize = 3;
/// Idle ports and entries.
const SIZES: [(u32, u32); 5] = [(0, 10), (100, 10), (1000, 10), (0, 1_000_000), (1000, 1_000_000)];

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut cells = vec![Series::default(); SIZES.len()];
    for round in 0..bench.effort.rounds {
        for index in order(SIZES.len(), round) {
            let (ports, entries) = SIZES[index];
            let what = format!("{ports} idle ports, {entries} entries");
            let mut stage = start(bench, ports, entries).with_context(|| what.clone())?;
            for _ in 0..WINDOWS {
                cells[index].push(stage.steady_window(bench.effort.window)?.rate);
            }
            bench.say(&format!("scale, round {} of {}: {what}", round + 1, bench.effort.rounds));
        }
    }
    let mut rows = Vec::new();
    for ((ports, entries), cell) in SIZES.into_iter().zip(&cells).skip(1) {
        let case = format!("{ports} idle ports, {entries} entries, to 0 and 10");
        rows.push(row(case, cell, &cells[0], Some((TARGET * 1000.0).round() / 1000.0))?);
    }
    Ok(rows)
}

fn start(bench: &Bench, ports: u32, entries: u32) -> anyhow::Result<Stage> {
    let sockets =
        tempfile::Builder::new().prefix("rw-idle-").tempdir_in(crate::sysroot::temporary_directory())?;
    let mut more = String::new();
    for number in 0..ports {
        let socket = sockets.path().join(format!("{number}"));
        let [.., high, low] = number.to_be_bytes();
        writeln!(
            more,
            "\n[port.idle{number}]\nswitch = \"lan\"\nvhost-user = {{ socket = {socket:?} }}\nmac = \"02:00:00:01:{high:02x}:{low:02x}\""
        )?;
    }
    let plan = Plan {
        system: System::Ringway,
        attacker: true,
        switch: "max-entries = 1048576\n",
        third: "profile = \"open\"",
        more: &more,
    };
    let stage = Stage::start(bench, &plan)?;
    let ringway = stage.ringway()?;
    let storm = stage.storm.as_ref().context("the third driver")?;
    storm.send((Kind::Sources(entries), None));
    let count = || {
        let switches = ringway.api("GET", "/api/switches", None).ok()?;
        switches.pointer("/0/fdb_entries")?.as_u64()
    };
    let learned = wait_until("the entries", Duration::from_secs(40), || count() >= Some(u64::from(entries)));
    storm.send((Kind::Idle, None));
    learned.with_context(|| format!("{:?} entries", count()))?;
    std::thread::sleep(SETTLE);
    Ok(stage)
}
