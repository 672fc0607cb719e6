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
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    lines.read_line(&mut answer).context("QEMU's greeting")?;
    ask(&stream, &mut lines, &json!({ "execute": "qmp_capabilities" }))?;
    ask(&stream, &mut lines, &json!({ "execute": command, "arguments": arguments }))
}

fn ask(mut stream: &UnixStream, lines: &mut impl BufRead, request: &Value) -> anyhow::Result<Value> {
    stream.write_all(format!("{request}\n").as_bytes())?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("QEMU hung up on {request}");
        }
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if let Some(error) = answer.get("error") {
            bail!("{request}: {error}");
        }
        if let Some(value) = answer.get("return") {
            return Ok(value.clone());
        }
        // Anything else is an event.
    }
}
