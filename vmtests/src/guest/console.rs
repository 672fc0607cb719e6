//! Commands for a guest over a serial line.
//!
//! The host sends one line, the command in hexadecimal. The guest's init runs it and answers `@ STATUS LENGTH` on a line,
//! then that many bytes of output. After boot it says `@ ready`. Hexadecimal keeps the line's bytes away from the terminal
//! layer, and the length tells output from protocol.

use anyhow::{Context, bail};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most output that one command may give; init cuts the rest.
pub const OUTPUT_MAX: usize = 256 << 10;

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status as the shell has it.
    pub status: i32,
    /// Standard output and standard error together.
    pub text: String,
}

/// The host's end of the serial line.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Console {
    /// Connects to QEMU's socket at `path`, for as long as QEMU runs.
    pub(super) fn connect(path: &Path, mut is_running: impl FnMut() -> bool) -> anyhow::Result<Self> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Ok(Self::over(stream)),
                Err(error) if Instant::now() > end => return Err(error).context("the guest's serial line"),
                Err(_) if !is_running() => bail!("QEMU ended at once"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn over(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// Waits until the guest says that it is ready.
    pub(super) fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while self.line(end)? != "@ ready" {}
        Ok(())
    }

    /// Runs one command.
    pub(super) fn run(&mut self, command: &str, limit: Duration) -> anyhow::Result<Output> {
        self.begin(command)?;
        self.finish(limit)
    }

    /// Sends a command.
    pub(super) fn begin(&mut self, command: &str) -> anyhow::Result<()> {
        let mut line: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).context("send a command to the guest")
    }

    /// Waits for the answer to the command that was sent.
    pub(super) fn finish(&mut self, limit: Duration) -> anyhow::Result<Output> {
        let end = Instant::now() + limit;
        let (status, length) = loop {
            let line = self.line(end)?;
            if line == "@ ready" {
                bail!("the guest booted again in the middle of a command");
            }
            if let Some(answer) = answer(&line) {
                break answer;
            }
        };
        while self.received.len() < length {
            self.receive(end)?;
        }
        let text = String::from_utf8_lossy(&self.received[..length]).into_owned();
        self.received.drain(..length);
        Ok(Output { status, text })
    }

    fn line(&mut self, end: Instant) -> anyhow::Result<String> {
        loop {
            if let Some(at) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.receive(end)?;
        }
    }

    fn receive(&mut self, end: Instant) -> anyhow::Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("the guest did not answer in time");
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("QEMU closed the guest's serial line"),
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error).context("the guest's serial line"),
        }
        Ok(())
    }
}

/// Status and length in an answer's first line.
fn answer(line: &str) -> Option<(i32, usize)> {
    let (status, length) = line.strip_prefix("@ ")?.split_once(' ')?;
    let length: usize = length.parse().ok()?;
    (length <= OUTPUT_MAX).then_some((status.parse().ok()?, length))
}

#[cfg(test)]
mod test {
    use super::*;

    fn pair() -> (Console, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        (Console::over(host), guest)
    }

    #[test]
    fn an_answer_is_read_by_its_length() {
        let (mut console, mut guest) = pair();
        guest.write_all(b"noise\n@ ready\n@ 3 8\na\n@ 0 1\n").unwrap();
        console.wait_ready(Duration::from_secs(1)).unwrap();
        let output = console.run("x", Duration::from_secs(1)).unwrap();
        assert_eq!(output, Output { status: 3, text: "a\n@ 0 1\n".into() });
        let mut sent = [0; 3];
        guest.read_exact(&mut sent).unwrap();
        assert_eq!(&sent, b"78\n");
    }

    #[test]
    fn silence_ends_with_an_error() {
        let (mut console, _guest) = pair();
        let error = console.run("x", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }

    #[test]
    fn a_reboot_in_mid_command_is_noticed() {
        let (mut console, mut guest) = pair();
        guest.write_all(b"@ ready\n").unwrap();
        assert!(console.run("x", Duration::from_secs(1)).is_err());
    }

    #[test]
    fn absurd_lengths_are_no_answers() {
        assert_eq!(answer("@ 0 99999999999"), None);
        assert_eq!(answer("@ 0 12"), Some((0, 12)));
    }
}
