//! The disks of `top`: their rates, and their table.

use std::cmp::Reverse;
use std::collections::HashMap;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Widget as _, Wrap};

use super::draw::{self, BAD, BOLD, FRAMES_WIDTH, HEADING, aligned, count, state_cell, volume};
use super::state::{Order, Screen, State};
use crate::api::view::{DiskView, PortState};
use crate::cli::disk::{microseconds, sheet};

/// Disks below the ports, where there is no room for all.
const BELOW_MAX: usize = 8;
/// What narrow tables leave out: the mean.
const WIDE_COLUMN: usize = 6;

/// Rates of a disk, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct DiskRates {
    /// Requests of all kinds.
    pub(super) requests: f64,
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
    pub(super) errors: f64,
    /// How long a request took on average, in microseconds; `None`: none came.
    pub(super) mean_us: Option<f64>,
}

impl DiskRates {
    fn between(old: &DiskView, new: &DiskView, span_s: f64) -> DiskRates {
        // A disk that was made anew counts from zero again.
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / span_s;
        let (now, then) = (&new.counters, &old.counters);
        let times = |disk: &DiskView| {
            let each = disk.latency.each();
            let count = each.iter().fold(0u64, |sum, (_, times)| sum.saturating_add(times.count));
            (count, each.iter().fold(0.0, |sum, (_, times)| sum + times.sum_us))
        };
        let ((count, sum_us), (old_count, old_sum_us)) = (times(new), times(old));
        let timed = count.saturating_sub(old_count);
        DiskRates {
            requests: rate(now.requests(), then.requests()),
            read_bytes: rate(now.bytes_read, then.bytes_read),
            written_bytes: rate(now.bytes_written, then.bytes_written),
            errors: rate(now.errors, then.errors),
            mean_us: (timed > 0).then(|| (sum_us - old_sum_us).max(0.0) / timed as f64),
        }
    }
}

impl State {
    /// Takes the rates between two answers.
    pub(super) fn compare_disks(&mut self, before: &[DiskView], after: &[DiskView], span_s: f64) {
        let before: HashMap<&str, &DiskView> = before.iter().map(|disk| (disk.name.as_str(), disk)).collect();
        for disk in after {
            if let Some(old) = before.get(disk.name.as_str()) {
                self.disk_rates.insert(disk.name.clone(), DiskRates::between(old, disk, span_s));
            }
        }
    }

    /// Rates of a disk; zero before the second answer.
    pub(super) fn rates_of_disk(&self, disk: &str) -> DiskRates {
        self.disk_rates.get(disk).copied().unwrap_or_default()
    }

    /// The disks that the filter passes, in the user's order.
    pub(super) fn disks(&self) -> Vec<&DiskView> {
        let words = |disk: &DiskView| {
            let image = disk.image.path.as_deref().unwrap_or(&disk.image.kind);
            format!("{} {} {} {image} {}", disk.name, disk.kind, disk.state.as_str(), disk.serial)
        };
        let disks = self.answer.iter().flat_map(|answer| &answer.disks);
        let mut disks: Vec<&DiskView> = disks.filter(|disk| self.passes(&words(disk))).collect();
        let largest = |disks: &mut Vec<&DiskView>, figure: fn(DiskRates) -> f64| {
            disks.sort_by_cached_key(|disk| Reverse(figure(self.rates_of_disk(&disk.name)) as u64));
        };
        match self.order {
            Order::Configuration => {}
            Order::Name => disks.sort_by(|a, b| a.name.cmp(&b.name)),
            Order::State => disks.sort_by_key(|disk| (urgency(disk), disk.name.clone())),
            Order::FromGuest => largest(&mut disks, |rates| rates.written_bytes),
            Order::ToGuest => largest(&mut disks, |rates| rates.read_bytes),
            Order::Drops => largest(&mut disks, |rates| rates.errors * 1000.0),
        }
        if self.reverse {
            disks.reverse();
        }
        disks
    }
}

/// The lower, the more it wants to be seen.
fn urgency(disk: &DiskView) -> u8 {
    match disk.state {
        PortState::Faulted => 0,
        PortState::Running => 1,
        PortState::Connected => 2,
        PortState::Waiting => 3,
    }
}

/// Lines that the disks get below the ports, of `height` lines for both: a line of air, the heading and a line a disk.
pub(super) fn room(state: &State, height: u16) -> u16 {
    let (disks, ports) = (state.disks().len(), state.ports().len());
    if disks == 0 || state.screen != Screen::Ports {
        return 0;
    }
    let all_fit = ports + 1 + disks + 2 <= usize::from(height);
    let rows = if all_fit { disks } else { disks.min(BELOW_MAX) };
    // The rest is for the ports, which have at least their heading and two more.
    u16::try_from(rows + 2).unwrap_or(u16::MAX).min(height.saturating_sub(3))
}

/// What all disks do together, if there are any.
pub(super) fn total(state: &State) -> Vec<Span<'static>> {
    if state.answer.as_ref().is_none_or(|answer| answer.disks.is_empty()) {
        return Vec::new();
    }
    let mut sum = DiskRates::default();
    for rates in state.disk_rates.values() {
        sum.requests += rates.requests;
        sum.read_bytes += rates.read_bytes;
        sum.written_bytes += rates.written_bytes;
    }
    let (read, written) = (volume(sum.read_bytes), volume(sum.written_bytes));
    vec![Span::raw(format!("  disks {} IOPS read {read} written {written}", count(sum.requests)))]
}

/// The table of disks.
pub(super) fn table(state: &State, cursor: Option<usize>, area: Rect, buffer: &mut Buffer) {
    let shown = |column: &usize| area.width >= FRAMES_WIDTH || *column != WIDE_COLUMN;
    let headings = ["DISK", "STATE", "IOPS", "READ", "WRITTEN", "IN FLIGHT", "MEAN", "P99", "WHY"];
    let widths = [
        Constraint::Min(14),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Fill(2),
    ];
    let found = state.disks();
    let rows = found.iter().map(|disk| {
        let cells = row(state, disk).into_iter().enumerate();
        Row::new(cells.filter(|(column, _)| shown(column)).map(|(_, cell)| cell))
    });
    let columns = headings.into_iter().zip(widths).enumerate().filter(|(column, _)| shown(column));
    let (heading, widths): (Vec<_>, Vec<_>) = columns
        .map(|(column, (name, width))| (aligned(name.into(), (2..8).contains(&column)), width))
        .unzip();
    draw::table(state, cursor, rows.collect(), Row::new(heading), &widths, area, buffer);
}

fn row(state: &State, disk: &DiskView) -> [Cell<'static>; 9] {
    let rates = state.rates_of_disk(&disk.name);
    let counters = &disk.counters;
    let worst = disk.latency.each().iter().fold(0.0, |worst: f64, (_, times)| worst.max(times.p99_us));
    let time = |us: Option<f64>| us.map_or("-".to_owned(), microseconds);
    [
        Cell::from(disk.name.clone()).style(BOLD),
        state_cell(disk.state.as_str()),
        aligned(count(rates.requests), true),
        aligned(volume(rates.read_bytes), true),
        aligned(volume(rates.written_bytes), true),
        aligned(counters.in_flight.to_string(), true),
        aligned(time(rates.mean_us), true),
        aligned(time((worst > 0.0).then_some(worst)), true),
        Cell::from(why(disk, rates)).style(if is_bad(disk, rates) { BAD } else { Style::new() }),
    ]
}

fn is_bad(disk: &DiskView, rates: DiskRates) -> bool {
    disk.fault.is_some() || disk.counters.stuck > 0 || rates.errors > 0.0
}

/// What there is to say of a disk in a few words: what is wrong first, then what it is.
fn why(disk: &DiskView, rates: DiskRates) -> String {
    let mut words: Vec<String> = disk.fault.iter().cloned().collect();
    words.extend((disk.counters.stuck > 0).then(|| format!("{} stuck", disk.counters.stuck)));
    words.extend((rates.errors > 0.0).then(|| format!("errors {}/s", count(rates.errors))));
    words.push(disk.image.path.clone().unwrap_or_else(|| disk.image.kind.clone()));
    words.join(", ")
}

/// All that is known of one disk.
pub(super) fn details(state: &State, name: &str, area: Rect, buffer: &mut Buffer) {
    let mut disks = state.answer.iter().flat_map(|answer| &answer.disks);
    let Some(disk) = disks.find(|disk| disk.name == name) else {
        return Paragraph::new(format!("disk {name} is gone; Esc goes back")).render(area, buffer);
    };
    let rates = state.rates_of_disk(name);
    let now = format!(
        "  {}  {} IOPS, {} read, {} written",
        disk.state.as_str(),
        count(rates.requests),
        volume(rates.read_bytes),
        volume(rates.written_bytes)
    );
    let mut lines = vec![Line::from(vec![Span::styled(disk.name.clone(), HEADING), Span::raw(now)])];
    lines.extend(sheet(disk).lines().map(|line| Line::raw(line.to_owned())));
    Paragraph::new(lines).wrap(Wrap { trim: false }).render(area, buffer);
}
