//! A [`State`] as a screen.

use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, StatefulWidget, Table, TableState, Widget as _, Wrap};

use super::disks;
use super::state::{Order, Screen, State, state_of};
use crate::api::view::PortView;
use crate::cli::show::running;
use crate::cli::table::{bytes, duration};

/// Reasons shown below the ports.
const REASONS_MAX: usize = 6;
/// Narrower tables leave out what matters less, such as frame rates.
pub(super) const FRAMES_WIDTH: u16 = 110;
const FRAMES_COLUMNS: [usize; 2] = [4, 6];
const DIM: Style = Style::new().fg(Color::DarkGray);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const BAD: Style = Style::new().fg(Color::Red);
pub(super) const HEADING: Style = Style::new().add_modifier(Modifier::BOLD).fg(Color::Cyan);

/// Lines that show everything of the present screen.
pub(super) fn height(state: &State) -> u16 {
    let rows = match state.screen {
        Screen::Ports => {
            let disks = state.disks().len();
            let below = if disks == 0 { 0 } else { disks + 2 };
            state.ports().len() + below + 2 + state.drops().len().min(REASONS_MAX)
        }
        Screen::Disks => state.disks().len(),
        Screen::Fdb => state.entries().len(),
        Screen::Port(_) | Screen::Disk(_) => 60,
    };
    u16::try_from(rows.saturating_add(8)).unwrap_or(u16::MAX)
}

/// Draws the screen into `area`.
pub(super) fn draw(state: &State, area: Rect, buffer: &mut Buffer) {
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(3), Constraint::Length(1)]).areas(area);
    Paragraph::new(header(state)).render(top, buffer);
    match &state.screen {
        Screen::Ports => ports(state, middle, buffer),
        Screen::Disks => disks::table(state, Some(state.cursor), middle, buffer),
        Screen::Fdb => fdb(state, middle, buffer),
        Screen::Disk(name) => disks::details(state, name, middle, buffer),
        Screen::Port(name) => match state.detailed() {
            Some(port) => details(state, port, middle, buffer),
            None => Paragraph::new(format!("port {name} is gone; Esc goes back")).render(middle, buffer),
        },
    }
    Paragraph::new(footer(state)).render(bottom, buffer);
}

fn header(state: &State) -> Vec<Line<'static>> {
    let Some(answer) = &state.answer else { return vec![Line::from("waiting for the first answer")] };
    let status = &answer.status;
    let mut title = vec![
        Span::styled(format!("ringway {}", status.version), HEADING),
        Span::raw(format!("  process {}, up {}", status.pid, duration(status.uptime_s))),
        Span::raw(format!("  {}", running(status))),
    ];
    if let Some((_, what)) = &state.trouble {
        let silence = duration(state.silence.as_secs());
        title.push(Span::styled(format!("  NO ANSWER for {silence}: old figures ({what})"), BAD.patch(BOLD)));
    } else if state.restarts > 0 {
        title.push(Span::styled(format!("  restarted {}×", state.restarts), Style::new().fg(Color::Yellow)));
    }
    let workers: Vec<String> = status
        .workers
        .iter()
        .map(|worker| {
            let sleeps = state.sleeps.get(&worker.name).copied().unwrap_or(0.0);
            format!("{} {} queues {} sleeps/s", worker.name, worker.queues, count(sleeps))
        })
        .collect();
    let switches: Vec<String> = status
        .switches
        .iter()
        .map(|each| {
            format!(
                "{} {} ports {}/{} addresses",
                each.name, each.ports, each.fdb_entries, each.fdb_entries_max
            )
        })
        .collect();
    let total = state.total();
    let drops = total.dropped();
    let third = vec![
        Span::raw(format!("in {} {} frames/s  ", bits(total.from_bytes), count(total.from_frames))),
        Span::raw(format!("out {} {} frames/s  ", bits(total.to_bytes), count(total.to_frames))),
        Span::styled(format!("drops {}/s", count(drops)), if drops > 0.0 { BAD } else { Style::new() }),
    ];
    let third = third.into_iter().chain(disks::total(state)).collect::<Vec<_>>();
    vec![
        Line::from(title),
        Line::styled(format!("{}  |  {}", switches.join("  "), workers.join("  ")), DIM),
        Line::from(third),
    ]
}

fn footer(state: &State) -> Line<'static> {
    if state.filtering {
        return Line::from(vec![
            Span::styled("filter: ", HEADING),
            Span::raw(state.filter.clone()),
            Span::raw("▏  Enter keeps it, Esc drops it"),
        ]);
    }
    let keys = match state.screen {
        Screen::Ports => {
            "q quit  Enter details  f FDB  b disks  / filter  s sort  r reverse  d drops  i in  o out"
        }
        Screen::Disks => {
            "q quit  Enter details  p ports  f FDB  / filter  r reverse  n name  i written  o read"
        }
        Screen::Fdb => "q quit  p ports  b disks  / filter",
        Screen::Port(_) | Screen::Disk(_) => "q quit  Esc back",
    };
    let filter =
        if state.filter.is_empty() { String::new() } else { format!("  [filter: {}]", state.filter) };
    Line::from(vec![Span::styled(keys, DIM), Span::styled(filter, Style::new().fg(Color::Yellow))])
}

fn ports(state: &State, area: Rect, buffer: &mut Buffer) {
    let reasons = state.drops();
    let room = reasons.len().min(REASONS_MAX);
    let below = if room == 0 { 0 } else { room as u16 + 1 };
    let disks_below = disks::room(state, area.height.saturating_sub(below));
    let [area, middle, bottom] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(disks_below), Constraint::Length(below)])
            .areas(area);
    if middle.height > 1 {
        let middle = Rect { y: middle.y + 1, height: middle.height - 1, ..middle };
        disks::table(state, None, middle, buffer);
    }
    let arrow = |order: Order, name: &str| {
        let mark = if state.order == order { if state.reverse { "▲" } else { "▼" } } else { "" };
        format!("{name}{mark}")
    };
    let headings = [
        arrow(Order::Name, "PORT"),
        "SWITCH".into(),
        arrow(Order::State, "STATE"),
        arrow(Order::FromGuest, "FROM GUEST"),
        "FRAMES/S".into(),
        arrow(Order::ToGuest, "TO GUEST"),
        "FRAMES/S".into(),
        arrow(Order::Drops, "DROPS/S"),
        "WHY".into(),
    ];
    let found = state.ports();
    let shown = |column: &usize| area.width >= FRAMES_WIDTH || !FRAMES_COLUMNS.contains(column);
    let rows = found.iter().map(|port| {
        let cells = port_row(state, port).into_iter().enumerate();
        Row::new(cells.filter(|(column, _)| shown(column)).map(|(_, cell)| cell))
    });
    let widths = [
        Constraint::Min(14),
        Constraint::Max(12),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Fill(2),
    ];
    let columns = headings.into_iter().zip(widths).enumerate().filter(|(column, _)| shown(column));
    let (heading, widths): (Vec<_>, Vec<_>) =
        columns.map(|(column, (name, width))| (aligned(name, (3..8).contains(&column)), width)).unzip();
    table(state, Some(state.cursor), rows.collect(), Row::new(heading), &widths, area, buffer);
    if room > 0 {
        let mut lines =
            vec![Line::styled(format!("DROPS BY REASON (sorted by {})", state.order.name()), HEADING)];
        if state.order == Order::Configuration {
            lines = vec![Line::styled("DROPS BY REASON", HEADING)];
        }
        lines.extend(reasons.iter().take(REASONS_MAX).map(|(reason, all, speed)| {
            let style = if *speed > 0.0 { BAD } else { Style::new() };
            Line::styled(format!("{reason:<20} {:>9}/s {all:>14} in all", count(*speed)), style)
        }));
        Paragraph::new(lines).render(bottom, buffer);
    }
}

fn port_row(state: &State, port: &PortView) -> [Cell<'static>; 9] {
    let rates = state.rates_of(&port.name);
    let word = state_of(port);
    let dropped = rates.dropped();
    let drops = if dropped > 0.0 { BAD } else { Style::new() };
    [
        Cell::from(port.name.clone()).style(BOLD),
        Cell::from(port.switch.clone()),
        state_cell(word),
        aligned(bits(rates.from_bytes), true),
        aligned(count(rates.from_frames), true),
        aligned(bits(rates.to_bytes), true),
        aligned(count(rates.to_frames), true),
        aligned(count(dropped), true).style(drops),
        Cell::from(why(port, &rates.drops)),
    ]
}

/// The word for a state in its colour.
pub(super) fn state_cell(word: &'static str) -> Cell<'static> {
    let colour = match word {
        "running" => Color::Green,
        "connected" => Color::Blue,
        "faulted" => Color::Red,
        "shut" => Color::Yellow,
        _ => Color::DarkGray,
    };
    Cell::from(word).style(Style::new().fg(colour))
}

/// What there is to say of a port in a few words: faults and shuts first, then what it drops, then its uplink's state.
fn why(port: &PortView, drops: &std::collections::BTreeMap<String, f64>) -> String {
    let mut words: Vec<String> = port.fault.iter().cloned().collect();
    words.extend(port.shut.iter().map(|reason| format!("shut: {reason}")));
    let mut reasons: Vec<_> = drops.iter().collect();
    reasons.sort_by(|a, b| b.1.total_cmp(a.1));
    words.extend(reasons.into_iter().take(3).map(|(reason, speed)| format!("{reason} {}/s", count(*speed))));
    words.extend(
        port.uplink
            .iter()
            .filter(|uplink| uplink.mode == "promiscuous")
            .map(|uplink| format!("promiscuous: {}", uplink.reason)),
    );
    words.join(", ")
}

fn fdb(state: &State, area: Rect, buffer: &mut Buffer) {
    let entries = state.entries();
    let rows = entries.iter().map(|entry| {
        let vlan = entry.vlan.map_or("-".to_owned(), |vlan| vlan.to_string());
        Row::new([
            Cell::from(entry.mac.clone()).style(BOLD),
            Cell::from(entry.port.clone()),
            Cell::from(entry.switch.clone()),
            aligned(vlan, true),
            Cell::from(entry.kind.clone()),
            Cell::from(entry.why.clone()),
            aligned(duration(entry.age_ms / 1000), true),
        ])
    });
    let widths = [
        Constraint::Length(17),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(4),
        Constraint::Length(8),
        Constraint::Fill(4),
        Constraint::Length(9),
    ];
    let headings = ["MAC", "PORT", "SWITCH", "VLAN", "KIND", "WHY", "AGE"].map(str::to_owned);
    let heading =
        headings.into_iter().enumerate().map(|(column, name)| aligned(name, matches!(column, 3 | 6)));
    table(state, Some(state.cursor), rows.collect(), Row::new(heading), &widths, area, buffer);
}

fn details(state: &State, port: &PortView, area: Rect, buffer: &mut Buffer) {
    let rates = state.rates_of(&port.name);
    let mut lines = vec![Line::from(vec![
        Span::styled(port.name.clone(), HEADING),
        Span::raw(format!("  {}  {} on switch {}", state_of(port), port.kind, port.switch)),
    ])];
    let settings = &port.settings;
    let on = [
        (settings.enabled, "enabled"),
        (settings.learning, "learning"),
        (settings.flood, "flood"),
        (settings.multicast_flood, "multicast-flood"),
        (settings.broadcast_flood, "broadcast-flood"),
        (settings.isolated, "isolated"),
        (settings.hairpin, "hairpin"),
        (settings.locked, "locked"),
        (settings.guard, "guard"),
        (settings.neighbour_suppression, "neighbour-suppression"),
    ];
    let (yes, no): (Vec<_>, Vec<_>) = on.iter().partition(|(on, _)| *on);
    let names = |which: Vec<&(bool, &str)>| which.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(" ");
    let number = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
    let in_all = |traffic: &crate::api::view::TrafficView, frames: f64, speed: f64| {
        let now = format!("{} {} frames/s", bits(speed), count(frames));
        format!("{now}, in all {} in {} frames", bytes(traffic.bytes), traffic.frames)
    };
    let addresses = port.addresses.iter().map(|known| format!("{} ({})", known.mac, known.origin));
    let filter = port.receive_filter.as_ref().map(|filter| {
        let (unicast, groups) = (filter.unicast.len(), filter.multicast.len());
        let takes = if filter.promiscuous { ", promiscuous" } else { "" };
        let refused = filter.refused.as_ref().map(|what| format!(", refused: {what}")).unwrap_or_default();
        format!("{} and {unicast} more, {groups} groups{takes}, by {}{refused}", filter.mac, filter.source)
    });
    let uplink = port.uplink.as_ref().map(|uplink| {
        let (unicast, groups) = (uplink.unicast.len(), uplink.multicast.len());
        format!("{}: {}; {unicast} addresses, {groups} groups programmed", uplink.mode, uplink.reason)
    });
    let facts = [
        ("at", port.socket.clone().or_else(|| port.interface.clone()).unwrap_or_default()),
        ("fault", port.fault.clone().unwrap_or_default()),
        ("shut", port.shut.clone().unwrap_or_default()),
        ("mac", port.mac.clone().unwrap_or_default()),
        ("from guest", in_all(&port.counters.from_guest, rates.from_frames, rates.from_bytes)),
        ("to guest", in_all(&port.counters.to_guest, rates.to_frames, rates.to_bytes)),
        ("kicks, calls", format!("{}, {}", port.counters.kicks, port.counters.calls)),
        (
            "fdb",
            format!("{} learned, {} pinned, {} evicted", port.fdb_learned, port.fdb_pinned, port.fdb_evicted),
        ),
        ("addresses", addresses.take(16).collect::<Vec<_>>().join(", ")),
        ("wants", filter.unwrap_or_default()),
        ("uplink", uplink.unwrap_or_default()),
        ("profile", settings.profile.clone()),
        ("on", names(yes)),
        ("off", names(no)),
        ("mac limit", number(settings.mac_limit)),
        ("vlans", settings.vlans.join(" ")),
        ("acknowledged", port.features.acknowledged.join(" ")),
    ];
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        lines.push(Line::from(vec![Span::styled(format!("{name:<13} "), DIM), Span::raw(value)]));
    }
    for (reason, all) in &port.counters.drops {
        let speed = rates.drops.get(reason).copied().unwrap_or(0.0);
        let style = if speed > 0.0 { BAD } else { Style::new() };
        let text = format!("drops         {reason:<20} {:>9}/s {all:>14} in all", count(speed));
        lines.push(Line::styled(text, style));
    }
    for queue in &port.queues {
        let fault = queue.fault.as_ref().map(|fault| format!(", {fault}")).unwrap_or_default();
        let enabled = if queue.enabled { "enabled" } else { "disabled" };
        lines.push(Line::raw(format!(
            "queue {:<7} {:<10} {:>5} {} {enabled}, {} frames, {} kicks, {} calls{fault}",
            queue.index,
            queue.direction,
            queue.size,
            queue.layout,
            queue.traffic.frames,
            queue.kicks,
            queue.calls
        )));
    }
    Paragraph::new(lines).wrap(Wrap { trim: false }).render(area, buffer);
}

/// A table; the row of the cursor, if it has one, is turned around.
pub(super) fn table(
    state: &State,
    cursor: Option<usize>,
    rows: Vec<Row<'static>>,
    heading: Row<'static>,
    widths: &[Constraint],
    area: Rect,
    buffer: &mut Buffer,
) {
    let dimmed = if state.trouble.is_some() { DIM } else { Style::new() };
    let table = Table::new(rows, widths.to_vec())
        .header(heading.style(HEADING))
        .column_spacing(1)
        .style(dimmed)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut place = TableState::new().with_selected(cursor);
    StatefulWidget::render(table, area, buffer, &mut place);
}

pub(super) fn aligned(text: String, right: bool) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if right { line.alignment(Alignment::Right) } else { line })
}

/// A rate with three digits: `1.24 M`.
pub(super) fn count(value: f64) -> String {
    scaled(value)
}

/// Bytes a second.
pub(super) fn volume(bytes: f64) -> String {
    format!("{}B/s", scaled_with_space(bytes))
}

/// Bytes a second as bits a second.
fn bits(bytes: f64) -> String {
    format!("{}b/s", scaled_with_space(bytes * 8.0))
}

fn scaled_with_space(value: f64) -> String {
    let text = scaled(value);
    if text.contains(' ') { text } else { text + " " }
}

fn scaled(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    // As many digits as there is room for; a rate below one is still a rate.
    if value > 0.0 && value < 1.0 {
        return "<1".into();
    }
    match UNITS.iter().find(|(size, _)| value >= size * 0.9995) {
        Some((size, unit)) => {
            let scaled = value / size;
            let digits = if scaled >= 100.0 {
                0
            } else if scaled >= 10.0 {
                1
            } else {
                2
            };
            format!("{scaled:.digits$}{unit}")
        }
        None => format!("{value:.0}"),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
