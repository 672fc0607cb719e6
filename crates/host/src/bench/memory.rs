//! `memory`: what a ring takes of the guest's memory, in the layout of virtio 0.9 and in that of 1.x.
//!
//! Nothing runs: the bytes are those of the virtqueue crate's own layouts, which the data plane and its drivers use. 0.9 has one
//! contiguous block of whole pages, and the device alone says how large the queue is; 1.x has three areas, and the driver may
//! take a smaller queue.

use super::chart::{Drawing, Form, Panel, Series, Table, Verdict};
use super::statistics::ratio;
use anyhow::{Context, Result};
use guestmem::GuestAddr;
use serde::Serialize;
use virtqueue::{DriverQueue, QueueSetup, QueueSize, RingFeatures};

const SIZES: [u16; 8] = [8, 16, 32, 64, 128, 256, 512, 1024];
/// Alignment of the used ring in 0.9, and what guests allocate the block in (virtio 1.3 §2.7.2).
const PAGE: u32 = 4096;
/// The queue size of the talk's slide, and the one it is shrunk to.
const USUAL: u16 = 256;
const SHRUNK: u16 = 8;

/// One queue size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    queue_size: u16,
    /// Bytes in 0.9: whole pages.
    legacy_bytes: u64,
    /// Bytes of the three areas in 1.x, with EVENT_IDX.
    modern_bytes: u64,
    /// The same of a packed ring.
    packed_bytes: u64,
}

/// Computes and draws.
pub(super) fn chart() -> Result<Drawing> {
    let rows = SIZES.into_iter().map(row).collect::<Result<Vec<Row>>>()?;
    draw(&rows)
}

fn row(queue_size: u16) -> Result<Row> {
    let size = QueueSize::try_from(queue_size).context("queue size")?;
    let split = RingFeatures { event_idx: true, ..RingFeatures::default() };
    let packed = RingFeatures { packed: true, ..split };
    let areas = |features| {
        let (desc, driver, device) = DriverQueue::layout(size, features);
        (desc + driver + device) as u64
    };
    let base = GuestAddr(u64::from(PAGE));
    let legacy = QueueSetup::contiguous_legacy(size, base, PAGE, split).context("the layout of 0.9")?;
    let (.., used_len) = DriverQueue::layout(size, split);
    let block = legacy.device.0 + used_len as u64 - base.0;
    Ok(Row {
        queue_size,
        legacy_bytes: block.next_multiple_of(u64::from(PAGE)),
        modern_bytes: areas(split),
        packed_bytes: areas(packed),
    })
}

fn draw(rows: &[Row]) -> Result<Drawing> {
    let mut table = Table::new(&[
        ">queue size",
        ">0.9, bytes",
        ">1.x split, bytes",
        ">1.x packed, bytes",
        ">1.x split / 0.9",
    ]);
    for row in rows {
        table.add([
            row.queue_size.to_string(),
            row.legacy_bytes.to_string(),
            row.modern_bytes.to_string(),
            row.packed_bytes.to_string(),
            format!("{:.3}", ratio(row.modern_bytes as f64, row.legacy_bytes as f64)),
        ]);
    }
    let series = |name, of: fn(&Row) -> u64| Series::new(name, rows.iter().map(|row| of(row) as f64));
    let panel = Panel {
        title: "Ring memory, lower is better",
        x: "queue size, entries",
        y: "bytes of one ring",
        form: Form::Lines,
        categories: rows.iter().map(|row| row.queue_size.to_string()).collect(),
        series: vec![
            series("0.9: one block of pages", |row| row.legacy_bytes),
            series("1.x: three areas", |row| row.modern_bytes),
            series("1.x: packed", |row| row.packed_bytes),
        ],
    };
    Ok(Drawing {
        verdict: verdict(rows),
        table,
        panels: vec![panel],
        measurements: serde_json::to_value(rows)?,
    })
}

fn verdict(rows: &[Row]) -> Verdict {
    let find = |size| rows.iter().find(|row| row.queue_size == size);
    let (Some(usual), Some(shrunk)) = (find(USUAL), find(SHRUNK)) else {
        return Verdict::new(false, "the talk's queue sizes are missing", "they were not computed");
    };
    let what = format!(
        "a ring of {USUAL} takes {} bytes in 1.x instead of {} in 0.9, and a driver that shrinks it to {SHRUNK} entries takes {}",
        usual.modern_bytes, usual.legacy_bytes, shrunk.modern_bytes
    );
    let is_less = rows.iter().all(|row| row.modern_bytes < row.legacy_bytes);
    Verdict::new(is_less && shrunk.modern_bytes < usual.modern_bytes, &what, "a layout has grown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_talks_bytes() {
        let drawing = chart().unwrap();
        let usual = row(256).unwrap();
        assert_eq!((usual.legacy_bytes, usual.modern_bytes, usual.packed_bytes), (12288, 6668, 4104));
        assert_eq!(row(8).unwrap().modern_bytes, 220);
        assert!(drawing.verdict.shows_the_shape);
        for part in ["6668 bytes", "12288", "220"] {
            assert!(drawing.verdict.sentence.contains(part), "{}", drawing.verdict.sentence);
        }
    }

    #[test]
    fn a_layout_that_is_larger_is_not_the_shape() {
        let grown = Row { modern_bytes: 20_000, ..row(256).unwrap() };
        assert!(!verdict(&[row(8).unwrap(), grown]).shows_the_shape);
        assert!(!verdict(&[grown]).shows_the_shape);
    }
}
