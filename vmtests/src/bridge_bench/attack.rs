//! What an attacker costs the victims: random sources, unknown stations, broadcasts; next to OVS and the kernel's bridge.
//!
//! The measure of a loss is the same attacker who sends as many *harmless* frames, to a station that is known and takes
//! nothing: then sender and switch have the same frames to handle, and the difference is what the switch makes of them.
//! On two processors the attacker shares its processor with the victims, whatever the switch does. At 100,000 frames a
//! second that is a few percent; at full speed the kernel's scheduler shares the processor between attacker and victims,
//! and the victims' rate is about half, harmless or not. Silence is measured as well, and gives the switch's time for each
//! frame of the attack, if the switch is what limits the victims.

use super::stage::{Plan, SETTLE, Stage, System, Window};
use super::storm::{Kind, Order};
use super::{Bench, Series, order, row};
use crate::row::Row;
use anyhow::Context;

/// Frames a second of the steady attack.
const RATE: u32 = 100_000;
/// What the victims must keep of their throughput.
const TARGET: f64 = 0.95;
const ATTACKS: [(Kind, &str); 3] = [
    (Kind::RandomSources, "random sources"),
    (Kind::UnknownStations, "unknown stations"),
    (Kind::Broadcasts, "broadcasts"),
];

/// Every condition, the silent one first, then the harmless ones.
fn conditions() -> Vec<Order> {
    let mut all = vec![(Kind::Idle, None)];
    for rate in [Some(RATE), None] {
        all.push((Kind::Harmless, rate));
        all.extend(ATTACKS.map(|(kind, _)| (kind, rate)));
    }
    all
}

/// Windows of each condition.
type Cells = Vec<Vec<Window>>;

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let conditions = conditions();
    let mut systems: Vec<Cells> = vec![vec![Vec::new(); conditions.len()]; System::ALL.len()];
    for round in 0..bench.effort.rounds {
        for (system, cells) in System::ALL.into_iter().zip(&mut systems) {
            let plan = Plan { system, attacker: true, switch: "", third: "", more: "" };
            let mut stage = Stage::start(bench, &plan).with_context(|| system.name())?;
            for pass in 0..bench.effort.passes {
                for index in order(conditions.len(), round * bench.effort.passes + pass) {
                    let (kind, rate) = conditions[index];
                    if let Some(storm) = &stage.storm {
                        storm.send((kind, rate));
                    }
                    std::thread::sleep(SETTLE);
                    cells[index].push(stage.window(bench.effort.window).with_context(|| system.name())?);
                    if kind == Kind::RandomSources {
                        // What is still in the pipe would be learned again.
                        if let Some(storm) = &stage.storm {
                            storm.send((Kind::Idle, None));
                        }
                        std::thread::sleep(SETTLE);
                        stage.forget()?;
                    }
                }
                bench.say(&format!("attack, round {}, pass {}: {}", round + 1, pass + 1, system.name()));
            }
        }
    }
    for (system, cells) in System::ALL.into_iter().zip(&systems) {
        for (order, windows) in conditions.iter().zip(cells) {
            tell(system, *order, windows)?;
        }
    }
    rows(&conditions, &systems)
}

fn series(windows: &[Window], of: impl Fn(&Window) -> f64) -> Series {
    Series(windows.iter().map(of).collect())
}

/// Says what ran in the windows of a condition.
fn tell(system: System, (kind, rate): Order, windows: &[Window]) -> anyhow::Result<()> {
    let [switch, victims, attacker] = [0, 1, 2].map(|index| series(windows, |window| window.shares[index]));
    eprintln!(
        "  {:16} {kind:16?} {:9}: victims {:5.2} Mpps, strays {:6.1} kpps, attack {:7.1} kpps; share of a processor: \
         switch {:.2}, victims {:.2}, attacker {:.2}",
        system.name(),
        if rate.is_some() { "paced" } else { "full" },
        series(windows, |window| window.rate).median()? / 1e6,
        series(windows, |window| window.strays).median()? / 1e3,
        series(windows, |window| window.attack).median()? / 1e3,
        switch.median()?,
        victims.median()?,
        attacker.median()?,
    );
    Ok(())
}

fn rows(conditions: &[Order], systems: &[Cells]) -> anyhow::Result<Vec<Row>> {
    let rate_of = |system: usize, wanted: Order| -> anyhow::Result<Series> {
        let index = conditions.iter().position(|order| *order == wanted).context("a condition")?;
        Ok(series(&systems[system][index], |window| window.rate))
    };
    let mut rows = Vec::new();
    for (number, system) in System::ALL.into_iter().enumerate() {
        let target = (system == System::Ringway).then_some(TARGET);
        let name = system.name();
        for (rate, speed) in [(Some(RATE), "100 kpps"), (None, "full speed")] {
            let harmless = rate_of(number, (Kind::Harmless, rate))?;
            for (kind, what) in ATTACKS {
                let attacked = rate_of(number, (kind, rate))?;
                let case = format!("{name}: {what}, {speed}, to harmless");
                rows.push(row(case, &attacked, &harmless, target)?);
            }
        }
        let silent = rate_of(number, (Kind::Idle, None))?;
        for (kind, what) in [(Kind::Harmless, "harmless")].into_iter().chain(ATTACKS) {
            let attacked = rate_of(number, (kind, Some(RATE)))?;
            rows.push(row(format!("{name}: {what}, 100 kpps, to silence"), &attacked, &silent, None)?);
        }
    }
    // What a frame of the attack takes of the polling thread, by what the victims lose to silence.
    let time = |system: usize, kind: Kind| -> anyhow::Result<f64> {
        let index =
            conditions.iter().position(|order| *order == (kind, Some(RATE))).context("a condition")?;
        let attack = series(&systems[system][index], |window| window.attack).median()?;
        let kept = rate_of(system, (kind, Some(RATE)))?.ratio(&rate_of(system, (Kind::Idle, None))?)?;
        Ok((1.0 - kept) * 1e9 / attack.max(1.0))
    };
    for (kind, what) in [(Kind::Harmless, "harmless")].into_iter().chain(ATTACKS) {
        let (ours, peer) = (time(0, kind)?, time(1, kind)?);
        let case = format!("{what}: victims' time a frame, Ringway, {}", System::OpenVswitch.name());
        rows.push(Row::new(case, ours, peer, "ns", None));
    }
    // What each system keeps, next to Ringway.
    let kept = |system: usize, kind: Kind, rate: Option<u32>| {
        rate_of(system, (kind, rate))?.ratio(&rate_of(system, (Kind::Harmless, rate))?)
    };
    for (number, system) in System::ALL.into_iter().enumerate().skip(1) {
        for (rate, speed) in [(Some(RATE), "100 kpps"), (None, "full speed")] {
            for (kind, what) in ATTACKS {
                let (ours, peer) = (kept(0, kind, rate)?, kept(number, kind, rate)?);
                let case = format!("{what}, {speed}: share kept, Ringway, {}", system.name());
                rows.push(Row::new(case, ours, peer, "of harmless", None));
            }
        }
    }
    Ok(rows)
}
