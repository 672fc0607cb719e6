//! What the demo found out: the object that `--json` prints, and how a person reads it.

use super::task::{PingReport, StreamReport};
use crate::api::view::{FdbView, PortView, Status};
use serde::Serialize;
use std::fmt::Write as _;

/// Everything the embedded demo found out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Facts {
    /// Whether everything went as it should.
    pub(super) passed: bool,
    /// What did not, in words.
    pub(super) failures: Vec<String>,
    pub(super) elapsed_ms: u64,
    pub(super) guests: Vec<GuestFact>,
    pub(super) resolved: Vec<ResolveFact>,
    pub(super) pings: Vec<PingFact>,
    pub(super) streams: Vec<StreamFact>,
    pub(super) broadcast: Option<BroadcastFact>,
    pub(super) status: Option<Status>,
    pub(super) ports: Vec<PortView>,
    pub(super) fdb: Vec<FdbView>,
}

/// A guest, and what its driver counted.
#[derive(Debug, Serialize)]
pub(super) struct GuestFact {
    pub(super) name: &'static str,
    pub(super) mac: String,
    pub(super) address: String,
    pub(super) frames_sent: u64,
    pub(super) frames_received: u64,
    /// Frames sent with the checksum left to the device.
    pub(super) checksums_left: u64,
    /// Frames sent larger than the MTU.
    pub(super) segments_left: u64,
    /// Frames received with a wrong checksum.
    pub(super) bad_checksums: u64,
}

/// An address that was resolved by ARP.
#[derive(Debug, Serialize)]
pub(super) struct ResolveFact {
    pub(super) from: &'static str,
    pub(super) address: String,
    pub(super) mac: String,
    pub(super) micros: u64,
}

/// Echo requests from one guest to another.
#[derive(Debug, Serialize)]
pub(super) struct PingFact {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) answered: usize,
    pub(super) lost: u16,
    pub(super) min_us: f64,
    pub(super) avg_us: f64,
    pub(super) max_us: f64,
}

impl PingFact {
    pub(super) fn new(from: &'static str, to: &'static str, report: &PingReport) -> Self {
        let micros = || report.round_trips.iter().map(|trip| rounded(trip.as_secs_f64() * 1e6));
        let answered = report.round_trips.len();
        Self {
            from,
            to,
            answered,
            lost: report.lost,
            min_us: micros().fold(f64::INFINITY, f64::min),
            avg_us: rounded(micros().sum::<f64>() / answered.max(1) as f64),
            max_us: micros().fold(0.0, f64::max),
        }
    }
}

/// A TCP stream from one guest to another.
#[derive(Debug, Serialize)]
pub(super) struct StreamFact {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// Bytes that arrived wrong.
    pub(super) mismatches: u64,
    pub(super) elapsed_ms: u64,
    pub(super) mbit_per_s: f64,
}

impl StreamFact {
    pub(super) fn new(from: &'static str, to: &'static str, sent: u64, report: &StreamReport) -> Self {
        let seconds = report.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { report.bytes as f64 * 8.0 / seconds / 1e6 } else { 0.0 };
        Self {
            from,
            to,
            bytes_sent: sent,
            bytes_received: report.bytes,
            mismatches: report.mismatches,
            elapsed_ms: report.elapsed.as_millis() as u64,
            mbit_per_s: rounded(rate),
        }
    }
}

/// One broadcast datagram.
#[derive(Debug, Serialize)]
pub(super) struct BroadcastFact {
    pub(super) from: &'static str,
    pub(super) seen_by: Vec<&'static str>,
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The demo's topology: each guest in a column above its port.
pub(super) fn drawing(guests: &[(&str, String, String)], switch: &str) -> String {
    const WIDTH: usize = 23;
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let joined: String = cells.map(|cell| format!("{cell:^WIDTH$}")).collect();
        format!("  {}\n", joined.trim_end())
    };
    let mut picture = line(&mut guests.iter().map(|guest| guest.0));
    picture += &line(&mut guests.iter().map(|guest| guest.1.as_str()));
    picture += &line(&mut guests.iter().map(|guest| guest.2.as_str()));
    picture += &line(&mut guests.iter().map(|_| "           │ vhost-user"));
    let label = format!(" switch {switch} ");
    let _ = writeln!(picture, "  ┌{label:─^width$}┐", width = WIDTH * guests.len() - 2);
    let _ = writeln!(picture, "  └{:─^width$}┘", "", width = WIDTH * guests.len() - 2);
    picture
}

/// The ports with their counters, as a table.
pub(super) fn port_table(ports: &[PortView]) -> String {
    let mut text = format!(
        "  {:<8} {:<9} {:>5}  {:>13} {:>10}  {:>13} {:>10}  drops\n",
        "port", "state", "pairs", "from guest", "MB", "to guest", "MB"
    );
    for port in ports {
        let (from, to) = (port.counters.from_guest, port.counters.to_guest);
        let drops: Vec<String> =
            port.counters.drops.iter().map(|(why, count)| format!("{why} {count}")).collect();
        let _ = writeln!(
            text,
            "  {:<8} {:<9} {:>5}  {:>13} {:>10.1}  {:>13} {:>10.1}  {}",
            port.name,
            port.state.as_str(),
            port.queue_pairs,
            format!("{} frames", from.frames),
            from.bytes as f64 / 1e6,
            format!("{} frames", to.frames),
            to.bytes as f64 / 1e6,
            if drops.is_empty() { "none".to_owned() } else { drops.join(", ") },
        );
    }
    text
}

/// The FDB, as a table.
pub(super) fn fdb_table(fdb: &[FdbView]) -> String {
    let mut text = format!("  {:<8} {:<18} {:<8} {:<8} {:>8}\n", "switch", "mac", "port", "kind", "age");
    for entry in fdb {
        let age = match entry.kind.as_str() {
            "static" => "-".to_owned(),
            _ => format!("{:.1} s", entry.age_ms as f64 / 1e3),
        };
        let _ = writeln!(
            text,
            "  {:<8} {:<18} {:<8} {:<8} {age:>8}",
            entry.switch, entry.mac, entry.port, entry.kind
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn pings_and_streams_are_summed_up() {
        let trips = [10, 20, 60].map(Duration::from_micros).to_vec();
        let ping = PingFact::new("a", "b", &PingReport { round_trips: trips, lost: 1 });
        assert_eq!(
            (ping.answered, ping.lost, ping.min_us, ping.avg_us, ping.max_us),
            (3, 1, 10.0, 30.0, 60.0)
        );
        let report = StreamReport { bytes: 125_000_000, mismatches: 0, elapsed: Duration::from_millis(500) };
        let stream = StreamFact::new("a", "b", 125_000_000, &report);
        assert_eq!((stream.mbit_per_s, stream.elapsed_ms), (2000.0, 500));
    }

    #[test]
    fn the_drawing_has_a_column_for_each_guest() {
        let guests = [("a", "1".into(), "x".into()), ("b", "2".into(), "y".into())];
        let picture = drawing(&guests, "lan");
        assert_eq!(picture.lines().count(), 6);
        assert_eq!(picture.matches("vhost-user").count(), 2);
        assert!(picture.contains(" switch lan "));
    }
}
