//! `zero-copy`: frames to an AF_XDP uplink, copied by Ringway or straight from the guest's memory, over sizes.
//!
//! One guest sends as fast as its ring lets it, `zero-copy` is off or `"always"`, and the other end of the cable counts what
//! arrives. What is copied is what the plane's own counters say: the bytes that left, less those that were lent. On a veth, as
//! here, the kernel copies each frame once by itself (docs/adr/0017).

use super::chart::{Drawing, Form, Panel, Series, Table, Verdict, short};
use super::statistics::ratio;
use super::uplink::{FRAME_MAX, LENT_MIN, Sent, Uplink, in_namespace};
use super::{Bench, Effort, Rounds, median_run};
use anyhow::Result;
use indicatif::ProgressBar;
use serde::Serialize;

/// Frames with their Ethernet header, in bytes.
const SIZES: [usize; 8] = [LENT_MIN, 512, 1024, 1514, 2048, 4096, 6000, FRAME_MAX];
/// `zero-copy` of the uplink.
const MODES: [&str; 2] = ["off", "always"];
/// Bytes of a lent frame that are copied at most: its head.
const HEAD_MAX: f64 = 256.0;
/// The worker's time copied by that of lent: from here on it is no chance.
const PAYS: f64 = 1.02;

/// One size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    frame_bytes: usize,
    copy: Side,
    zero_copy: Side,
}

/// One of the two ways.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Side {
    /// In the window.
    frames: u64,
    /// Of these, at the other end of the cable.
    arrived: u64,
    /// The others: counted, as the interface did not take them.
    dropped: u64,
    frames_per_s: f64,
    worker_ns_per_frame: f64,
    /// By Ringway, of a frame that left.
    copied_bytes_per_frame: f64,
    lent_bytes_per_frame: f64,
    /// Share of the frames that were lent, 0 to 1.
    lent_share: f64,
    /// Lent frames that the kernel had not sent yet, as far as seen.
    pending_max: u32,
}

impl Side {
    fn new(sent: &Sent) -> Self {
        let by_frame = |bytes: u64| ratio(bytes as f64, sent.arrived as f64);
        Self {
            frames: sent.frames,
            arrived: sent.arrived,
            dropped: sent.dropped,
            frames_per_s: ratio(sent.frames as f64, sent.seconds),
            worker_ns_per_frame: worker_ns_per_frame(sent),
            copied_bytes_per_frame: by_frame(sent.bytes.saturating_sub(sent.lent_bytes)),
            lent_bytes_per_frame: by_frame(sent.lent_bytes),
            lent_share: ratio(sent.lent_frames as f64, sent.frames as f64),
            pending_max: sent.pending_max,
        }
    }
}

fn worker_ns_per_frame(sent: &Sent) -> f64 {
    ratio(sent.worker_ns as f64, sent.frames as f64)
}

/// Measures and draws.
pub(super) fn chart(bench: &Bench<'_>) -> Result<Drawing> {
    let cases = SIZES.len() * MODES.len();
    let (runs, kernel) =
        bench.paced(cases, Rounds::MANY, |effort, bar| in_namespace(|| measure(effort, bar)))?;
    let mut sides = runs.into_iter().filter_map(|runs| median_run(runs, worker_ns_per_frame));
    let mut side = || sides.next().map(|sent| Side::new(&sent));
    let mut rows = Vec::new();
    for frame_bytes in SIZES {
        if let (Some(copy), Some(zero_copy)) = (side(), side()) {
            rows.push(Row { frame_bytes, copy, zero_copy });
        }
    }
    draw(&rows, &kernel)
}

/// The runs of each size and mode, modes next to each other, and what the kernel does with lent frames.
fn measure(effort: Effort, bar: &ProgressBar) -> Result<(Vec<Vec<Sent>>, String)> {
    let mut runs = vec![Vec::new(); SIZES.len() * MODES.len()];
    let mut kernel = String::new();
    for _ in 0..effort.rounds {
        for (place, mode) in MODES.into_iter().enumerate() {
            let mut uplink = Uplink::new(mode)?;
            for (number, size) in SIZES.into_iter().enumerate() {
                runs[number * MODES.len() + place].push(uplink.send(size, effort.times())?);
                bar.inc(1);
            }
            kernel = uplink.kernel()?.unwrap_or(kernel);
        }
    }
    Ok((runs, kernel))
}

fn draw(rows: &[Row], kernel: &str) -> Result<Drawing> {
    let mut table = Table::new(&[
        ">frame, B",
        "zero-copy",
        ">frames/s",
        ">worker, ns/frame",
        ">copied by us, B/frame",
        ">lent, B/frame",
        ">lent, %",
        ">pending, most",
        ">sent",
        ">arrived",
        ">dropped",
    ]);
    for row in rows {
        for (mode, side) in MODES.into_iter().zip([&row.copy, &row.zero_copy]) {
            table.add([
                row.frame_bytes.to_string(),
                mode.into(),
                short(side.frames_per_s),
                format!("{:.0}", side.worker_ns_per_frame),
                format!("{:.0}", side.copied_bytes_per_frame),
                format!("{:.0}", side.lent_bytes_per_frame),
                format!("{:.1}", side.lent_share * 100.0),
                side.pending_max.to_string(),
                side.frames.to_string(),
                side.arrived.to_string(),
                side.dropped.to_string(),
            ]);
        }
    }
    let panel = |title, y, of: fn(&Side) -> f64| Panel {
        title,
        x: "frame, bytes",
        y,
        form: Form::Lines,
        categories: rows.iter().map(|row| row.frame_bytes.to_string()).collect(),
        series: vec![
            Series::new("copy (off)", rows.iter().map(|row| of(&row.copy))),
            Series::new("zero copy (always)", rows.iter().map(|row| of(&row.zero_copy))),
        ],
    };
    Ok(Drawing {
        verdict: verdict(rows, kernel),
        table,
        panels: vec![
            panel("Worker's time, lower is better", "nanoseconds per frame", |side| side.worker_ns_per_frame),
            panel("Copied by Ringway, lower is better", "bytes per frame", |side| {
                side.copied_bytes_per_frame
            }),
            panel("Rate, higher is better", "frames per second", |side| side.frames_per_s),
            panel("Lent to the kernel", "share of frames, 0 to 1", |side| side.lent_share),
        ],
        measurements: serde_json::to_value(rows)?,
    })
}

/// The worker's time copied by that of lent.
fn gain(row: &Row) -> f64 {
    ratio(row.copy.worker_ns_per_frame, row.zero_copy.worker_ns_per_frame)
}

/// The size from which on zero copy pays, at every size; at one alone it may be chance.
fn pays_from(rows: &[Row]) -> Option<usize> {
    let paying = rows.iter().rev().take_while(|row| gain(row) >= PAYS);
    paying.skip(1).last().map(|row| row.frame_bytes)
}

/// The talk's zero-copy transmit is for large frames.
fn verdict(rows: &[Row], kernel: &str) -> Verdict {
    let Some(longest) = rows.last() else {
        return Verdict::new(false, "nothing was measured", "there is no size");
    };
    let Row { frame_bytes, copy, zero_copy } = longest;
    let figures = format!(
        "of a frame of {frame_bytes} bytes Ringway copies {:.0} bytes instead of {:.0}, and the worker takes {:.2} µs instead of {:.2}",
        zero_copy.copied_bytes_per_frame,
        copy.copied_bytes_per_frame,
        zero_copy.worker_ns_per_frame / 1e3,
        copy.worker_ns_per_frame / 1e3,
    );
    let what = match pays_from(rows) {
        Some(size) => format!("{figures}; zero copy pays here from {size} bytes on"),
        None => format!("{figures}; zero copy does not pay here at the largest sizes"),
    };
    let why_not = match kernel {
        "copy" => {
            "the kernel copies every frame for this driver anyway, and one in pieces costs it more than our copy did, which is why \
             zero-copy = \"auto\" leaves such an interface alone"
        }
        _ => "the kernel does not copy, but handling a frame in pieces costs as much as our copy did",
    };
    let copies_heads_only = rows.iter().all(|row| row.zero_copy.copied_bytes_per_frame <= HEAD_MAX);
    Verdict::new(pays_from(rows).is_some() && copies_heads_only, &what, why_not)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(frame_bytes: usize, lent: u64, worker_ns: u64) -> Side {
        let bytes = 10 * frame_bytes as u64;
        let lent_bytes = lent * (frame_bytes as u64 - 116);
        Side::new(&Sent {
            seconds: 0.5,
            frames: 10,
            bytes,
            lent_frames: lent,
            lent_bytes,
            arrived: 10,
            dropped: 0,
            pending_max: 3,
            worker_ns: worker_ns * 10,
        })
    }

    fn row(frame_bytes: usize, copied_ns: u64, lent_ns: u64) -> Row {
        Row { frame_bytes, copy: side(frame_bytes, 0, copied_ns), zero_copy: side(frame_bytes, 10, lent_ns) }
    }

    #[test]
    fn sides_are_what_was_counted() {
        let lent = side(1000, 10, 2000);
        assert_eq!((lent.copied_bytes_per_frame, lent.lent_bytes_per_frame), (116.0, 884.0));
        assert_eq!((lent.frames_per_s, lent.worker_ns_per_frame, lent.lent_share), (20.0, 2000.0, 1.0));
        assert_eq!(side(1000, 0, 2000).copied_bytes_per_frame, 1000.0);
        assert_eq!(side(1000, 5, 2000).copied_bytes_per_frame, 558.0);
    }

    #[test]
    fn the_sentence_says_from_where_it_pays() {
        let rows = [row(256, 1000, 1500), row(1514, 2000, 1900), row(9014, 4000, 2000)];
        let paying = verdict(&rows, "zero-copy");
        assert!(paying.shows_the_shape, "{}", paying.sentence);
        for part in
            ["9014 bytes Ringway copies 116 bytes instead of 9014", "2.00 µs instead of 4.00", "from 1514"]
        {
            assert!(paying.sentence.contains(part), "{part}: {}", paying.sentence);
        }
        // What pays in the middle only, or at one size only, is chance.
        assert_eq!(pays_from(&[row(256, 1000, 1500), row(9014, 4000, 2000)]), None);
        let rows = [row(256, 1000, 500), row(9014, 3800, 4600)];
        let copied = verdict(&rows, "copy");
        assert!(!copied.shows_the_shape);
        assert!(copied.sentence.contains("does not pay here") && copied.sentence.contains("auto"));
        assert!(verdict(&rows, "fragments").sentence.contains("does not copy"));
        // To lend few is not to be without a copy.
        let few = Row { zero_copy: side(9014, 1, 2000), ..row(9014, 4000, 2000) };
        assert!(verdict(&[row(9014, 4000, 2000), row(9014, 4000, 2000)], "zero-copy").shows_the_shape);
        assert!(!verdict(&[row(9014, 4000, 2000), few], "zero-copy").shows_the_shape);
        assert!(!verdict(&[], "copy").shows_the_shape);
    }
}
