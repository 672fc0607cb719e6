//! `ringway disk`: disks listed, shown and resized. What changes their configuration is in `change`.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use hyper::Method;

use super::Output;
use super::show::{disk_path, json, yes};
use super::table::{bytes, lines, table};
use crate::api::client::{self, Ask};
use crate::api::view::{DiskView, ImageView, LatencyView, ResizeSpec, ResizeView};
use crate::config;

pub(crate) fn list(socket: &Path, output: Output) -> anyhow::Result<String> {
    let disks: Vec<DiskView> = client::get(socket, "/api/disks")?;
    if output.json { json(&disks) } else { Ok(disk_table(&disks)) }
}

/// Disks, one a line.
pub(super) fn disk_table(disks: &[DiskView]) -> String {
    let headings = [
        "DISK",
        "KIND",
        "STATE",
        ">SIZE",
        ">REQUESTS",
        ">READ",
        ">WRITTEN",
        ">ERRORS",
        ">IN FLIGHT",
        "IMAGE",
        "AT",
    ];
    let mut rows = table(&headings);
    for disk in disks {
        let counters = &disk.counters;
        rows.add_row([
            disk.name.clone(),
            disk.kind.clone(),
            disk.state.as_str().to_owned(),
            size(disk.capacity),
            counters.requests().to_string(),
            bytes(counters.bytes_read),
            bytes(counters.bytes_written),
            counters.errors.to_string(),
            counters.in_flight.to_string(),
            disk.image.path.clone().unwrap_or_else(|| disk.image.kind.clone()),
            disk.socket.clone(),
        ]);
    }
    lines(&rows)
}

pub(crate) fn show(socket: &Path, name: &str, output: Output) -> anyhow::Result<String> {
    let disk: DiskView = client::get(socket, &disk_path(name)?)?;
    if output.json { json(&disk) } else { Ok(sheet(&disk)) }
}

/// The disk's facts, a fact a line, then its queues as a table.
pub(super) fn sheet(disk: &DiskView) -> String {
    let counters = &disk.counters;
    let requests = format!(
        "{} reads, {} writes, {} flushes, {} discards, {} write zeroes, {} others",
        counters.reads,
        counters.writes,
        counters.flushes,
        counters.discards,
        counters.zeroes,
        counters.others
    );
    let facts = [
        ("disk", disk.name.clone()),
        ("kind", disk.kind.clone()),
        ("at", disk.socket.clone()),
        ("socket mode", disk.socket_mode.clone()),
        ("state", disk.state.as_str().to_owned()),
        ("fault", disk.fault.clone().unwrap_or_default()),
        ("image", image(&disk.image)),
        ("size", format!("{} ({} bytes)", size(disk.capacity), disk.capacity)),
        ("block size", disk.block_size.to_string()),
        ("read only", yes(disk.read_only)),
        ("cache", disk.cache.clone()),
        ("serial", disk.serial.clone()),
        ("workers", disk.workers.clone().unwrap_or_default()),
        ("requests", requests),
        ("bytes", format!("{} read, {} written", bytes(counters.bytes_read), bytes(counters.bytes_written))),
        ("errors", counters.errors.to_string()),
        ("in flight", format!("{}, {} of them stuck", counters.in_flight, counters.stuck)),
        ("read takes", latency(&disk.latency.read)),
        ("write takes", latency(&disk.latency.write)),
        ("flush takes", latency(&disk.latency.flush)),
        ("offered", disk.features.offered.join(" ")),
        ("acknowledged", disk.features.acknowledged.join(" ")),
    ];
    let mut text = String::new();
    for (name, value) in facts {
        let value = if value.is_empty() { "-" } else { value.as_str() };
        let _ = writeln!(text, "{name:<13} {value}");
    }
    if !disk.queues.is_empty() {
        let _ = write!(text, "\n{}", queues(disk));
    }
    text
}

fn queues(disk: &DiskView) -> String {
    let headings = [">QUEUE", "RUNNING", ">SIZE", "LAYOUT", ">REQUESTS", ">IN FLIGHT", ">KICKS", ">CALLS"];
    let mut rows = table(&headings);
    for queue in &disk.queues {
        let layout = if queue.packed { "packed" } else { "split" };
        rows.add_row([
            queue.index.to_string(),
            yes(queue.running),
            queue.size.to_string(),
            if queue.size == 0 { "-" } else { layout }.to_owned(),
            queue.requests.to_string(),
            queue.in_flight.to_string(),
            queue.kicks.to_string(),
            queue.calls.to_string(),
        ]);
    }
    lines(&rows)
}

/// Where the bytes are, as one line.
fn image(image: &ImageView) -> String {
    let direct = match image.direct {
        Some(true) => Some("past the page cache"),
        Some(false) => Some("through the page cache"),
        None => None,
    };
    let parts = [Some(image.kind.as_str()), image.path.as_deref(), image.format.as_deref(), direct];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn latency(times: &LatencyView) -> String {
    if times.count == 0 {
        return String::new();
    }
    let [half, most, longest] = [times.p50_us, times.p99_us, times.max_us].map(microseconds);
    format!("{half} in the middle, {most} for 99 %, {longest} at most")
}

/// A time with three significant digits: `85.3 µs`, `1.24 ms`.
pub(super) fn microseconds(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 999_500.0 => (us / 1e6, "s"),
        us if us >= 999.5 => (us / 1e3, "ms"),
        us => (us, "µs"),
    };
    let digits = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A size as disks have them, in powers of 1024: `20 GiB`, `1.50 MiB`.
pub(super) fn size(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) if count.is_multiple_of(*size) => format!("{} {unit}", count / size),
        Some((size, unit)) => format!("{:.2} {unit}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}

/// A disk and the size that it shall have.
#[derive(Args, Debug)]
pub(crate) struct Resized {
    /// Its name
    name: String,
    /// The new size, such as 20G; without it, the size that the file has now
    #[arg(value_name = "SIZE", value_parser = byte_count)]
    size: Option<u64>,
    #[command(flatten)]
    output: Output,
}

fn byte_count(text: &str) -> Result<u64, String> {
    config::bytes(text).map_err(|what| format!("{what}; accepted: {}", config::BYTES_ACCEPTED))
}

pub(crate) fn resize(socket: &Path, what: &Resized) -> anyhow::Result<String> {
    let path = format!("{}/resize", disk_path(&what.name)?);
    let body = serde_json::to_value(ResizeSpec { bytes: what.size })?;
    let done: ResizeView = client::send(socket, &Ask::change(Method::POST, &path, Some(body)))?;
    if what.output.json {
        return json(&done);
    }
    Ok(format!("resized: disk.{} to {} ({} bytes)\n", what.name, size(done.capacity), done.capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_configuration() {
        assert_eq!([size(0), size(512), size(1 << 10), size(3 << 19)], ["0 B", "512 B", "1 KiB", "1.50 MiB"]);
        assert_eq!([size(20 << 30), size(1 << 62)], ["20 GiB", "4194304 TiB"]);
        assert_eq!(byte_count("20G"), Ok(20 << 30));
        assert!(byte_count("20g").is_err_and(|what| what.contains("accepted: bytes")));
    }

    #[test]
    fn times_have_three_digits() {
        let times = [0.0, 0.25, 9.99, 9.996, 85.31, 99.96, 999.4, 999.6, 12_345.0, 2e6].map(microseconds);
        let words = [
            "0.00 µs", "0.25 µs", "9.99 µs", "10.0 µs", "85.3 µs", "100 µs", "999 µs", "1.00 ms", "12.3 ms",
            "2.00 s",
        ];
        assert_eq!(times, words);
    }

    #[test]
    fn an_image_is_told_in_one_line() {
        let of = |kind: &str| ImageView { kind: kind.into(), ..ImageView::default() };
        assert_eq!(image(&of("ram")), "ram");
        let file = ImageView {
            path: Some("/d/a.img".into()),
            format: Some("raw".into()),
            direct: Some(false),
            ..of("file")
        };
        assert_eq!(image(&file), "file, /d/a.img, raw, through the page cache");
    }
}
