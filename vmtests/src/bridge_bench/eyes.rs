//! What observers cost the victims: metrics read each second, an open dashboard, captures.

use super::stage::{Plan, SETTLE, Stage, System};
use super::{Bench, Series, order, row};
use crate::ringway::Ringway;
use crate::row::Row;
use anyhow::Context;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shortest window: one round of the observers who come each second.
const WINDOW_MIN: Duration = Duration::from_millis(1000);
/// What is left with metrics read each second.
const TARGET_METRICS: f64 = 0.98;

#[derive(Clone, Copy, PartialEq)]
enum Eye {
    None,
    /// Paths that are asked for each second.
    Reader(&'static [&'static str]),
    /// A filter.
    Capture(&'static str),
}

const EYES: [(Eye, &str, Option<f64>); 5] = [
    (Eye::None, "nobody", None),
    (Eye::Reader(&["/metrics"]), "metrics read each second", Some(TARGET_METRICS)),
    (Eye::Reader(&["/api/status", "/api/ports", "/api/fdb"]), "an open dashboard", None),
    (Eye::Capture("udp port 9 and vlan 4000"), "a capture that nothing matches", None),
    (Eye::Capture("greater 1"), "a capture of everything", None),
];

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut cells = vec![Series::default(); EYES.len()];
    let window = bench.effort.window.max(WINDOW_MIN);
    for round in 0..bench.effort.rounds {
        let plan = Plan { system: System::Ringway, attacker: false, switch: "", third: "", more: "" };
        let mut stage = Stage::start(bench, &plan)?;
        for pass in 0..bench.effort.passes {
            for index in order(EYES.len(), round * bench.effort.passes + pass) {
                let observer = Observer::start(EYES[index].0, stage.ringway()?)?;
                std::thread::sleep(SETTLE);
                cells[index].push(stage.window(window)?.rate);
                observer.end().with_context(|| EYES[index].1)?;
            }
        }
        bench.say(&format!("eyes, round {} of {}", round + 1, bench.effort.rounds));
    }
    let mut rows = Vec::new();
    for ((_, what, target), cell) in EYES.into_iter().zip(&cells).skip(1) {
        rows.push(row(format!("{what}, to nobody"), cell, &cells[0], target)?);
    }
    Ok(rows)
}

/// Who looks. It ends with this value.
enum Observer {
    None,
    Reader { ended: Arc<AtomicBool>, thread: Option<JoinHandle<anyhow::Result<u64>>> },
    Capture(Child),
}

impl Observer {
    fn start(eye: Eye, ringway: &Ringway) -> anyhow::Result<Self> {
        match eye {
            Eye::None => Ok(Self::None),
            Eye::Reader(paths) => {
                let ended = Arc::new(AtomicBool::new(false));
                let socket = ringway.socket("control");
                let thread = std::thread::spawn({
                    let ended = Arc::clone(&ended);
                    move || read(&socket, paths, &ended)
                });
                Ok(Self::Reader { ended, thread: Some(thread) })
            }
            Eye::Capture(filter) => {
                let mut command: Command = ringway.command(&["capture", "v0", "-w", "-", "-f", filter]);
                let child =
                    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("ringway capture")?;
                Ok(Self::Capture(child))
            }
        }
    }

    /// Ends it; an error if it had not looked.
    fn end(mut self) -> anyhow::Result<()> {
        match &mut self {
            Self::None => Ok(()),
            Self::Reader { ended, thread } => {
                ended.store(true, Ordering::Relaxed);
                let Some(thread) = thread.take() else { return Ok(()) };
                let bytes = thread.join().map_err(|_| anyhow::anyhow!("the reader"))??;
                anyhow::ensure!(bytes > 100, "nothing was read");
                Ok(())
            }
            Self::Capture(child) => {
                let status = child.try_wait()?;
                anyhow::ensure!(status.is_none(), "it ended: {status:?}");
                Ok(())
            }
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        match self {
            Self::None => {}
            Self::Reader { ended, .. } => ended.store(true, Ordering::Relaxed),
            Self::Capture(child) => {
                // It may have ended.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Asks for all paths, each second; bytes that came.
fn read(socket: &PathBuf, paths: &[&str], ended: &AtomicBool) -> anyhow::Result<u64> {
    let mut bytes = 0;
    while !ended.load(Ordering::Relaxed) {
        let next = Instant::now() + Duration::from_secs(1);
        for path in paths {
            let mut stream = UnixStream::connect(socket).context("the control socket")?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            anyhow::ensure!(
                answer.starts_with(b"HTTP/1.1 200"),
                "{path}: {}",
                String::from_utf8_lossy(&answer)
            );
            bytes += answer.len() as u64;
        }
        while Instant::now() < next && !ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(bytes)
}
