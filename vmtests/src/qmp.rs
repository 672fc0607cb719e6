//! One command to QEMU over its machine protocol.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time in which QEMU answers.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs one command on the monitor at `socket`; what it returned.
///
/// # Errors
/// The command's error, or no answer.
pub fn execute(socket: &Path, command: &str, arguments: &Value) -> anyhow::Result<Value> {
    let mut monitor = Monitor::connect(socket)?;
    monitor.ask(&json!({ "execute": command, "arguments": arguments }))
}

/// Runs one command and waits for the event `name` that it brings about; the event's data.
///
/// # Errors
/// The command's error, or no such event in time.
pub fn execute_until(socket: &Path, command: &str, arguments: &Value, name: &str) -> anyhow::Result<Value> {
    let mut monitor = Monitor::connect(socket)?;
    monitor.ask(&json!({ "execute": command, "arguments": arguments }))?;
    loop {
        let event = match monitor.events.pop() {
            Some(event) => event,
            None => monitor.line().with_context(|| format!("waiting for {name}"))?,
        };
        if event.get("event").and_then(Value::as_str) == Some(name) {
            return Ok(event.get("data").cloned().unwrap_or_default());
        }
    }
}

struct Monitor {
    lines: BufReader<UnixStream>,
    /// What came before the answer to a command.
    events: Vec<Value>,
}

impl Monitor {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self { lines: BufReader::new(stream), events: Vec::new() };
        monitor.line().context("QEMU's greeting")?;
        monitor.ask(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("QEMU hung up");
        }
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    fn ask(&mut self, request: &Value) -> anyhow::Result<Value> {
        self.lines.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let answer = self.line().with_context(|| request.to_string())?;
            if let Some(error) = answer.get("error") {
                bail!("{request}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            self.events.push(answer);
        }
    }
}
