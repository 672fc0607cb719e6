//! `ringway capture`: frames as they pass ports, into a pcapng file or as lines.
//!
//! The daemon sends pcapng. With `-w` whole blocks go into the file as they are, so that the file is right wherever it ends;
//! without, each frame becomes a line. Ctrl-C, `--count` and `--duration` end it; so does whoever reads standard output.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::BodyExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use crate::api::client::{self, Ask};
use crate::capture::{Direction, PcapngReader, Seen};
use crate::config;
use crate::trace::summary;

/// What to capture, and where to.
#[derive(Args, Debug)]
pub(crate) struct CaptureArguments {
    /// Names of ports; none: all of them, also those that come later
    ports: Vec<String>,
    /// Write pcapng into this file; - is standard output. Without it, a line for each frame
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only frames that match, in the words of pcap-filter(7), such as "arp or (tcp port 80 and host 10.0.0.1)"
    #[arg(short, long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Keep this many bytes of each frame
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snap_len: Option<u32>,
    /// Only frames that are dropped
    #[arg(long)]
    drops: bool,
    /// Frames a second at most, 100000 unless given; 0: as many as can be read, at the expense of the traffic where
    /// processors are few
    #[arg(long, value_name = "N")]
    rate_max: Option<u32>,
    /// End after this many frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    duration: Option<u64>,
}

impl CaptureArguments {
    fn where_to_look(&self) -> String {
        if self.ports.is_empty() { "all ports".into() } else { self.ports.join(", ") }
    }

    fn path(&self) -> anyhow::Result<String> {
        for name in &self.ports {
            config::check_name(name).map_err(anyhow::Error::msg)?;
        }
        let query = [
            (!self.ports.is_empty()).then(|| format!("ports={}", self.ports.join(","))),
            self.filter.as_deref().map(|filter| format!("filter={}", percent_encoded(filter))),
            self.snap_len.map(|len| format!("snap-len={len}")),
            self.drops.then(|| "drops-only=true".to_owned()),
            self.rate_max.map(|rate| format!("rate-max={rate}")),
        ];
        let query: Vec<String> = query.into_iter().flatten().collect();
        Ok(format!("/api/capture?{}", query.join("&")))
    }
}

/// `text` as a value in a query (RFC 3986 §2.1).
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
        encoded
    })
}

/// Captures until it is told to end.
pub(crate) fn capture(socket: &Path, arguments: &CaptureArguments) -> anyhow::Result<()> {
    let path = arguments.path()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = Stop::new(arguments.duration)?;
        let mut answer = client::open(socket, &Ask::get(&path)).await?.into_body();
        // Only now, so that a capture that cannot begin leaves an old file alone.
        let mut taken = Taken::new(arguments)?;
        eprintln!("capturing on {}", arguments.where_to_look());
        tokio::pin!(let stopped = stop.received(););
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                biased;
                () = &mut stopped => break Ok(()),
                _ = tick.tick() => taken.show_progress(),
                piece = answer.frame() => {
                    let Some(piece) = piece else { break Err(anyhow::anyhow!("ringway has ended the capture")) };
                    let piece = piece.context("the connection to ringway broke")?;
                    let Ok(piece) = piece.into_data() else { continue };
                    match taken.take(&piece) {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            }
        };
        taken.end()?;
        ended
    })
}

/// When to end without being told by the frames.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    at: Option<Instant>,
}

impl Stop {
    fn new(duration_s: Option<u64>) -> io::Result<Stop> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            at: duration_s.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))),
        })
    }

    async fn received(mut self) {
        let late = async {
            match self.at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = late => {}
        }
    }
}

/// What has been captured so far.
struct Taken {
    reader: PcapngReader,
    out: BufWriter<Box<dyn Write>>,
    /// Blocks go out as they are.
    raw: bool,
    frames: u64,
    frames_max: u64,
    progress: bool,
}

impl Taken {
    fn new(arguments: &CaptureArguments) -> anyhow::Result<Taken> {
        let out: Box<dyn Write> = match arguments.write.as_deref() {
            Some(path) if path == Path::new("-") => {
                if io::stdout().is_terminal() {
                    bail!("standard output is a terminal; name a file after -w, or leave -w out for lines");
                }
                Box::new(io::stdout())
            }
            Some(path) => {
                // Frames are private: only the owner may read them.
                let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
                Box::new(file.with_context(|| path.display().to_string())?)
            }
            None => Box::new(io::stdout()),
        };
        Ok(Taken {
            reader: PcapngReader::default(),
            out: BufWriter::new(out),
            raw: arguments.write.is_some(),
            frames: 0,
            frames_max: arguments.count.unwrap_or(u64::MAX),
            progress: arguments.write.is_some() && io::stderr().is_terminal(),
        })
    }

    /// Takes a piece of the stream. False: it is enough.
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<bool> {
        self.reader.push(piece);
        while let Some((block, seen)) = self.reader.next_block()? {
            let is_frame = matches!(seen, Seen::Frame { .. });
            let written = match seen {
                _ if self.raw => self.out.write_all(block),
                Seen::Frame { .. } => writeln!(self.out, "{}", line(&seen)),
                _ => Ok(()),
            };
            if !still_wanted(written)? {
                return Ok(false);
            }
            self.frames += u64::from(is_frame);
            if self.frames >= self.frames_max {
                return Ok(false);
            }
        }
        still_wanted(self.out.flush())
    }

    fn show_progress(&self) {
        if self.progress {
            eprint!("\r{} frames, {} missed ", self.frames, self.reader.missed());
        }
    }

    fn end(mut self) -> anyhow::Result<()> {
        still_wanted(self.out.flush())?;
        if self.progress {
            eprint!("\r");
        }
        eprintln!("{} frames, {} missed", self.frames, self.reader.missed());
        Ok(())
    }
}

/// False: nobody reads any more, as in `ringway capture | head`.
fn still_wanted(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("the capture cannot be written"),
    }
}

/// A frame as a line: time of day (UTC), port, direction, what it is, and why it was dropped.
fn line(seen: &Seen<'_>) -> String {
    let Seen::Frame { at, port, direction, reason, frame_len, data } = seen else { return String::new() };
    let seconds = at.as_secs();
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    let time = format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, at.subsec_micros());
    let direction = match direction {
        Some(Direction::Ingress) => "in ",
        Some(Direction::Egress) => "out",
        None => "-  ",
    };
    let drop = reason.map(|reason| format!(" drop: {}", reason.escape_debug())).unwrap_or_default();
    format!("{time} {} {direction} {}{drop}", port.escape_debug(), summary(data, *frame_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_a_query() {
        let arguments = CaptureArguments {
            ports: vec!["web".into(), "db".into()],
            write: None,
            filter: Some("host 10.0.0.1 && tcp".into()),
            snap_len: Some(96),
            drops: true,
            rate_max: Some(5),
            count: None,
            duration: None,
        };
        let expected = "/api/capture?ports=web,db&filter=host%2010.0.0.1%20%26%26%20tcp\
            &snap-len=96&drops-only=true&rate-max=5";
        assert_eq!(arguments.path().expect("a path"), expected);
        assert!(CaptureArguments { ports: vec!["a&b".into()], ..arguments }.path().is_err());
    }

    #[test]
    fn a_frame_is_a_line() {
        let seen = Seen::Frame {
            at: Duration::new(3600 * 25 + 61, 7_000),
            port: "web",
            direction: Some(Direction::Ingress),
            reason: Some("vlan"),
            frame_len: 60,
            data: &[2; 14],
        };
        let expected =
            "01:01:01.000007 web in  02:02:02:02:02:02 > 02:02:02:02:02:02 LLC, length 514 (60 B) drop: vlan";
        assert_eq!(line(&seen), expected);
    }
}
