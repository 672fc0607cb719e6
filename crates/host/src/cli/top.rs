//! `ringway top`: the ports and disks at work, live on a terminal.
//!
//! Theory of operation. One thread asks the control API at every interval and sends what it hears over a channel; the other
//! owns the terminal, waits for keys, and draws. What is shown is [`state::State`], a plain value that answers and keys change;
//! [`draw::draw`] makes a screen of it. Neither knows a terminal or a socket, so both are tested without. A server that goes
//! away leaves its last figures on the screen, marked as old; the asking goes on.
//!
//! The terminal is put back in order at every way out: the end, a panic (by ratatui's hook), SIGTERM and SIGHUP.

mod disks;
mod draw;
mod state;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::Rect;

use crate::api::client;
use state::{Answer, Flow, State};

/// Longest time without a look at signals and answers.
const PATIENCE: Duration = Duration::from_millis(100);
/// Width of `--once` where there is no terminal.
const PLAIN_WIDTH: u16 = 140;
/// Most lines that `--once` prints.
const PLAIN_HEIGHT_MAX: u16 = 10_000;

/// Show ports and disks with their rates and drops live
#[derive(Args, Debug)]
pub(crate) struct TopArguments {
    /// Time between two looks, in seconds
    #[arg(long, short, default_value = "1", value_parser = seconds, value_name = "SECONDS")]
    interval: Duration,
    /// Print one screen as text and end; rates are those of one interval
    #[arg(long)]
    once: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("expected 0.1 to 3600 seconds".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs until the user quits, or prints one screen.
pub(crate) fn top(socket: &Path, arguments: &TopArguments) -> anyhow::Result<String> {
    if arguments.once {
        return once(socket, arguments.interval);
    }
    if !std::io::stdout().is_terminal() {
        bail!("standard output is no terminal; `ringway top --once` prints one screen as text");
    }
    // The first question says whether there is anybody to ask, before the screen is taken.
    let first = ask(socket, false)?;
    let terminate = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&terminate)).context("signals")?;
    }
    let mut state = State::default();
    state.take(Ok(first));
    let asker = Asker::start(socket.to_owned(), arguments.interval);
    let mut terminal = ratatui::try_init().context("terminal")?;
    let outcome = watch(&mut terminal, &mut state, &asker, &terminate);
    ratatui::restore();
    outcome.map(|()| String::new())
}

/// Draws and obeys keys until the user or a signal ends it.
fn watch(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    asker: &Asker,
    terminate: &AtomicBool,
) -> anyhow::Result<()> {
    loop {
        terminal.draw(|frame| draw::draw(state, frame.area(), frame.buffer_mut())).context("terminal")?;
        if terminate.load(Ordering::Relaxed) {
            return Ok(());
        }
        if event::poll(PATIENCE).context("terminal")?
            && let Event::Key(key) = event::read().context("terminal")?
            && key.kind != KeyEventKind::Release
            && state.key(key.code, key.modifiers) == Flow::Quit
        {
            return Ok(());
        }
        asker.with_fdb.store(state.wants_fdb(), Ordering::Relaxed);
        while let Ok(answer) = asker.answers.try_recv() {
            state.take(answer);
        }
        state.tick(Instant::now());
    }
}

/// Two looks, one interval apart, as one screen of text.
fn once(socket: &Path, interval: Duration) -> anyhow::Result<String> {
    let mut state = State::default();
    state.take(Ok(ask(socket, false)?));
    thread::sleep(interval);
    state.take(Ok(ask(socket, false)?));
    state.tick(Instant::now());
    let size = if std::io::stdout().is_terminal() { ratatui::crossterm::terminal::size().ok() } else { None };
    let width = size.map_or(PLAIN_WIDTH, |(width, _)| width.max(80));
    Ok(text(&state, width))
}

/// The screen as text, as high as it needs to be.
fn text(state: &State, width: u16) -> String {
    let area = Rect::new(0, 0, width, draw::height(state).min(PLAIN_HEIGHT_MAX));
    let mut buffer = Buffer::empty(area);
    draw::draw(state, area, &mut buffer);
    let lines: Vec<String> = (0..area.height)
        .map(|y| {
            let cells = (0..width).filter_map(|x| buffer.cell((x, y)));
            let line: String = cells.map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        })
        .collect();
    lines.join("\n").trim_end().to_owned() + "\n"
}

/// One look at everything that is shown.
fn ask(socket: &Path, with_fdb: bool) -> anyhow::Result<Answer> {
    let status = client::get(socket, "/api/status")?;
    let ports = client::get(socket, "/api/ports")?;
    let disks = client::get(socket, "/api/disks")?;
    let fdb = if with_fdb { Some(client::get(socket, "/api/fdb")?) } else { None };
    Ok(Answer { at: Instant::now(), status, ports, disks, fdb })
}

/// The thread that asks. It ends when this value is dropped.
struct Asker {
    answers: Receiver<Result<Answer, String>>,
    with_fdb: Arc<AtomicBool>,
    /// Dropped at the end, which the thread hears of at once.
    _alive: Sender<()>,
}

impl Asker {
    fn start(socket: PathBuf, interval: Duration) -> Self {
        let (sender, answers) = channel();
        let (alive, ended) = channel::<()>();
        let with_fdb = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&with_fdb);
        thread::spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let answer = ask(&socket, wanted.load(Ordering::Relaxed));
                if sender.send(answer.map_err(|error| format!("{error:#}"))).is_err() {
                    return;
                }
            }
        });
        Self { answers, with_fdb, _alive: alive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds_within_reason() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.5s"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "NaN", "inf", "1e9", "soon", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
