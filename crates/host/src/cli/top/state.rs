//! What `top` shows: the last answers, the rates between them, and where the user is. A plain value; time comes with answers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use super::disks::DiskRates;
use crate::api::view::{DiskView, FdbView, PortState, PortView, Status};

/// Characters of a filter.
const FILTER_MAX: usize = 64;
/// Rows that a page key goes.
const PAGE: usize = 10;

/// One look at the server.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// When it came.
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) ports: Vec<PortView>,
    pub(super) disks: Vec<DiskView>,
    /// FDB entries, if they were asked for.
    pub(super) fdb: Option<Vec<FdbView>>,
}

/// Rates of a port, a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) from_frames: f64,
    pub(super) from_bytes: f64,
    pub(super) to_frames: f64,
    pub(super) to_bytes: f64,
    /// By reason; without those that are zero.
    pub(super) drops: BTreeMap<String, f64>,
}

impl Rates {
    /// All drops.
    pub(super) fn dropped(&self) -> f64 {
        // Not `sum`, which is -0 for nothing.
        self.drops.values().fold(0.0, |sum, speed| sum + speed)
    }
}

/// What ports and disks are ordered by. What a disk writes comes from its guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Configuration,
    Name,
    State,
    FromGuest,
    ToGuest,
    Drops,
}

impl Order {
    /// All of them, in the order in which `s` goes through them.
    pub(super) const ALL: [(Order, &'static str); 6] = [
        (Order::Configuration, "configuration"),
        (Order::Name, "name"),
        (Order::State, "state"),
        (Order::FromGuest, "from guest"),
        (Order::ToGuest, "to guest"),
        (Order::Drops, "drops"),
    ];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(order, _)| *order == self).map_or("", |(_, name)| name)
    }

    fn next(self) -> Self {
        let here = Self::ALL.iter().position(|(order, _)| *order == self).unwrap_or(0);
        Self::ALL.get(here + 1).map_or(Order::Configuration, |(order, _)| *order)
    }
}

/// The screen that the user looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Screen {
    /// The table of ports, and the first disks.
    #[default]
    Ports,
    /// The table of disks.
    Disks,
    /// The FDB.
    Fdb,
    /// One port, by name.
    Port(String),
    /// One disk, by name.
    Disk(String),
}

/// What comes after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Quit,
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) answer: Option<Answer>,
    pub(super) rates: HashMap<String, Rates>,
    pub(super) disk_rates: HashMap<String, DiskRates>,
    /// Sleeps a second by worker.
    pub(super) sleeps: HashMap<String, f64>,
    /// Since when nobody answers, and what went wrong last.
    pub(super) trouble: Option<(Instant, String)>,
    /// How long nobody has answered, at the last tick.
    pub(super) silence: Duration,
    /// Times the server was found restarted.
    pub(super) restarts: u32,
    pub(super) screen: Screen,
    pub(super) order: Order,
    pub(super) reverse: bool,
    pub(super) filter: String,
    /// Keys go into the filter.
    pub(super) filtering: bool,
    /// Row of the cursor in the table that is shown.
    pub(super) cursor: usize,
    fdb: Vec<FdbView>,
}

impl State {
    /// Takes what the server said, or why it did not.
    pub(super) fn take(&mut self, answer: Result<Answer, String>) {
        match answer {
            Ok(answer) => self.succeed(answer),
            Err(what) => {
                let since = self.trouble.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                self.trouble = Some((since, what));
            }
        }
    }

    /// Tells the time.
    pub(super) fn tick(&mut self, now: Instant) {
        self.silence =
            self.trouble.as_ref().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
    }

    fn succeed(&mut self, mut answer: Answer) {
        self.trouble = None;
        self.silence = Duration::ZERO;
        let before = self.answer.take();
        let same = before.filter(|before| {
            let restarted =
                before.status.pid != answer.status.pid || answer.status.uptime_s < before.status.uptime_s;
            self.restarts += u32::from(restarted);
            !restarted
        });
        self.rates.clear();
        self.disk_rates.clear();
        self.sleeps.clear();
        if let Some(before) = same {
            let span_s = answer.at.saturating_duration_since(before.at).as_secs_f64();
            if span_s > 0.0 {
                self.compare(&before, &answer, span_s);
            }
        }
        if let Some(fdb) = answer.fdb.take() {
            self.fdb = fdb;
        }
        self.answer = Some(answer);
        self.hold_cursor();
    }

    fn compare(&mut self, before: &Answer, after: &Answer, span_s: f64) {
        // A port that was made anew counts from zero again.
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / span_s;
        let ports: HashMap<&str, &PortView> =
            before.ports.iter().map(|port| (port.name.as_str(), port)).collect();
        for port in &after.ports {
            let Some(old) = ports.get(port.name.as_str()) else { continue };
            let (now, then) = (&port.counters, &old.counters);
            let drops = now.drops.iter().filter_map(|(reason, count)| {
                let speed = rate(*count, then.drops.get(reason).copied().unwrap_or(0));
                (speed > 0.0).then(|| (reason.clone(), speed))
            });
            let rates = Rates {
                from_frames: rate(now.from_guest.frames, then.from_guest.frames),
                from_bytes: rate(now.from_guest.bytes, then.from_guest.bytes),
                to_frames: rate(now.to_guest.frames, then.to_guest.frames),
                to_bytes: rate(now.to_guest.bytes, then.to_guest.bytes),
                drops: drops.collect(),
            };
            self.rates.insert(port.name.clone(), rates);
        }
        self.compare_disks(&before.disks, &after.disks, span_s);
        for worker in &after.status.workers {
            let old = before.status.workers.iter().find(|old| old.name == worker.name);
            if let Some(old) = old {
                self.sleeps.insert(worker.name.clone(), rate(worker.sleeps, old.sleeps));
            }
        }
    }

    /// Rates of a port; zero before the second answer.
    pub(super) fn rates_of(&self, port: &str) -> Rates {
        self.rates.get(port).cloned().unwrap_or_default()
    }

    /// Rates of all ports together.
    pub(super) fn total(&self) -> Rates {
        let mut total = Rates::default();
        for rates in self.rates.values() {
            total.from_frames += rates.from_frames;
            total.from_bytes += rates.from_bytes;
            total.to_frames += rates.to_frames;
            total.to_bytes += rates.to_bytes;
            for (reason, speed) in &rates.drops {
                *total.drops.entry(reason.clone()).or_default() += speed;
            }
        }
        total
    }

    /// Drops of all ports by reason: since the start, and a second; what is worst now comes first.
    pub(super) fn drops(&self) -> Vec<(String, u64, f64)> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for port in self.answer.iter().flat_map(|answer| &answer.ports) {
            for (reason, count) in &port.counters.drops {
                let sum = counts.entry(reason).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        let now = self.total().drops;
        let speed = |reason: &str| now.get(reason).copied().unwrap_or(0.0);
        let mut rows: Vec<_> = counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count, speed(reason)))
            .collect();
        rows.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.cmp(&a.1)));
        rows
    }

    /// The ports that the filter passes, in the user's order.
    pub(super) fn ports(&self) -> Vec<&PortView> {
        let ports = self.answer.iter().flat_map(|answer| &answer.ports);
        let mut ports: Vec<&PortView> = ports.filter(|port| self.passes(&words_of(port))).collect();
        // Sorting is stable, so ports that are alike keep the configuration's order. Figures go from the largest down.
        let largest = |ports: &mut Vec<&PortView>, figure: &dyn Fn(&Rates) -> f64| {
            ports.sort_by_cached_key(|port| Reverse(figure(&self.rates_of(&port.name)) as u64));
        };
        match self.order {
            Order::Configuration => {}
            Order::Name => ports.sort_by(|a, b| a.name.cmp(&b.name)),
            Order::State => ports.sort_by_key(|port| (urgency(port), port.name.clone())),
            Order::FromGuest => largest(&mut ports, &|rates| rates.from_bytes),
            Order::ToGuest => largest(&mut ports, &|rates| rates.to_bytes),
            Order::Drops => largest(&mut ports, &|rates| rates.dropped() * 1000.0),
        }
        if self.reverse {
            ports.reverse();
        }
        ports
    }

    /// The FDB entries that the filter passes.
    pub(super) fn entries(&self) -> Vec<&FdbView> {
        let words = |entry: &FdbView| {
            let vlan = entry.vlan.map(|vlan| format!("vlan={vlan}")).unwrap_or_default();
            format!("{} {} {} {} {} {vlan}", entry.mac, entry.port, entry.switch, entry.kind, entry.why)
        };
        self.fdb.iter().filter(|entry| self.passes(&words(entry))).collect()
    }

    /// Whether every word of the filter is in `text`.
    pub(super) fn passes(&self, text: &str) -> bool {
        if self.filter.is_empty() {
            return true;
        }
        let text = text.to_lowercase();
        self.filter.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }

    /// The port that is shown in detail, if it is still there.
    pub(super) fn detailed(&self) -> Option<&PortView> {
        let Screen::Port(name) = &self.screen else { return None };
        self.answer.as_ref()?.ports.iter().find(|port| port.name == *name)
    }

    /// Whether FDB entries should be asked for.
    pub(super) fn wants_fdb(&self) -> bool {
        self.screen == Screen::Fdb
    }

    /// Obeys a key.
    pub(super) fn key(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Flow {
        if key == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
            return Flow::Quit;
        }
        if self.filtering {
            self.edit_filter(key);
        } else if key == KeyCode::Char('q') {
            return Flow::Quit;
        } else {
            self.command(key);
        }
        self.hold_cursor();
        Flow::Go
    }

    fn edit_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.filtering = false,
            KeyCode::Esc => {
                self.filtering = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.chars().count() < FILTER_MAX => self.filter.push(letter),
            _ => {}
        }
        self.cursor = 0;
    }

    fn command(&mut self, key: KeyCode) {
        match key {
            KeyCode::Tab => self.go(self.beside(true)),
            KeyCode::BackTab => self.go(self.beside(false)),
            KeyCode::Char('f') => self.go(Screen::Fdb),
            KeyCode::Char('p') => self.go(Screen::Ports),
            KeyCode::Char('b') => self.go(Screen::Disks),
            KeyCode::Enter if self.screen == Screen::Ports => {
                if let Some(name) = self.ports().get(self.cursor).map(|port| port.name.clone()) {
                    // The cursor stays where it is, for the way back.
                    self.screen = Screen::Port(name);
                }
            }
            KeyCode::Enter if self.screen == Screen::Disks => {
                if let Some(name) = self.disks().get(self.cursor).map(|disk| disk.name.clone()) {
                    self.screen = Screen::Disk(name);
                }
            }
            KeyCode::Esc | KeyCode::Backspace if matches!(self.screen, Screen::Port(_)) => {
                self.screen = Screen::Ports;
            }
            KeyCode::Esc | KeyCode::Backspace if matches!(self.screen, Screen::Disk(_)) => {
                self.screen = Screen::Disks;
            }
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') if !matches!(self.screen, Screen::Port(_) | Screen::Disk(_)) => {
                self.filtering = true;
            }
            KeyCode::Char('s') => (self.order, self.reverse) = (self.order.next(), false),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('n') => self.order = Order::Name,
            KeyCode::Char('i') => self.order = Order::FromGuest,
            KeyCode::Char('o') => self.order = Order::ToGuest,
            KeyCode::Char('d') => self.order = Order::Drops,
            KeyCode::Up | KeyCode::Char('k') => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.cursor += 1,
            KeyCode::PageUp => self.cursor = self.cursor.saturating_sub(PAGE),
            KeyCode::PageDown => self.cursor += PAGE,
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = usize::MAX - PAGE,
            _ => {}
        }
    }

    /// The table that comes after or before the one that is shown.
    fn beside(&self, after: bool) -> Screen {
        let has_disks = self.answer.as_ref().is_some_and(|answer| !answer.disks.is_empty());
        match (&self.screen, after) {
            (Screen::Ports | Screen::Port(_), true) if has_disks => Screen::Disks,
            (Screen::Fdb, false) if has_disks => Screen::Disks,
            (Screen::Fdb, _) | (Screen::Disks | Screen::Disk(_), false) => Screen::Ports,
            _ => Screen::Fdb,
        }
    }

    fn go(&mut self, screen: Screen) {
        self.screen = screen;
        self.cursor = 0;
    }

    /// Keeps the cursor within its table.
    fn hold_cursor(&mut self) {
        let rows = match self.screen {
            Screen::Ports => self.ports().len(),
            Screen::Disks => self.disks().len(),
            Screen::Fdb => self.entries().len(),
            Screen::Port(_) | Screen::Disk(_) => return,
        };
        self.cursor = self.cursor.min(rows.saturating_sub(1));
    }
}

/// One word for what a port does: its state, or `shut`.
pub(super) fn state_of(port: &PortView) -> &'static str {
    match (&port.shut, port.state) {
        (Some(_), state) if state != PortState::Faulted => "shut",
        (_, state) => state.as_str(),
    }
}

/// The lower, the more it wants to be seen.
fn urgency(port: &PortView) -> u8 {
    match state_of(port) {
        "faulted" => 0,
        "shut" => 1,
        "running" => 2,
        "connected" => 3,
        _ => 4,
    }
}

/// What a filter looks at.
fn words_of(port: &PortView) -> String {
    let mac = port.mac.as_deref().unwrap_or_default();
    let interface = port.interface.as_deref().unwrap_or_default();
    let mut text =
        format!("{} {} {} {} {mac} {interface}", port.name, port.switch, port.kind, state_of(port));
    for address in &port.addresses {
        text.push(' ');
        text.push_str(&address.mac);
    }
    text
}
