//! A data plane to measure: one switch, a port for each guest, and what can be counted from outside.

use super::frames::mac;
use crate::api::Plane as _;
use crate::config::{self, mac_text};
use crate::embedded::place::Place;
use crate::plane::{self, Plane, Ways};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What names of workers' threads begin with.
const WORKER: &str = "rw-worker-";
/// How long workers may take to finish what they are at.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);

/// A running data plane with its sockets in a directory of its own.
pub(super) struct Lab {
    plane: Arc<Plane>,
    place: Place,
}

/// What was counted up to a moment, or between two: of all ports and all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) frames_from_guests: u64,
    pub(super) frames_to_guests: u64,
    /// Those of `frames_to_guests` that waited in a backlog; the others are hits.
    pub(super) misses: u64,
    pub(super) kicks: u64,
    pub(super) calls: u64,
    pub(super) drops: u64,
    /// Times a worker went to sleep.
    pub(super) sleeps: u64,
    pub(super) worker_threads: u64,
    /// Times a worker's thread gave its CPU up, and times the kernel took it away.
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
    /// Processor time of workers in nanoseconds; 0 where the kernel does not tell.
    pub(super) worker_ns: u64,
}

impl Lab {
    /// One switch with `guests` ports; `workers` is the body of `[workers]`.
    pub(super) fn new(workers: &str, guests: usize, ways: Ways) -> Result<Self> {
        Self::with(workers, guests, "", ways)
    }

    /// The same with `more` behind the configuration's text.
    pub(super) fn with(workers: &str, guests: usize, more: &str, ways: Ways) -> Result<Self> {
        let place = Place::new()?;
        let text = text(workers, guests, place.path()) + more;
        let loaded =
            config::parse(&text, &place.path().join("bench.toml")).context("the bench's configuration")?;
        let plane = plane::start_with(&loaded.config, ways).context("starting the data plane")?;
        Ok(Self { plane, place })
    }

    /// Where guest `number` attaches.
    pub(super) fn socket(&self, number: usize) -> PathBuf {
        socket(self.place.path(), number)
    }

    /// The plane, for what only some charts look at.
    pub(super) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Everything that can be counted, and when that was.
    pub(super) fn look(&self) -> (Instant, Seen) {
        let mut seen = Seen::default();
        for port in self.plane.ports() {
            let counters = port.counters;
            seen.frames_from_guests += counters.from_guest.frames;
            seen.frames_to_guests += counters.to_guest.frames;
            seen.misses += counters.misses;
            seen.kicks += counters.kicks;
            seen.calls += counters.calls;
            seen.drops += counters.drops.values().sum::<u64>();
        }
        seen.sleeps = self.plane.status().workers.iter().map(|worker| worker.sleeps).sum();
        count_threads(&mut seen);
        (Instant::now(), seen)
    }

    /// As [`Self::look`], when no frame has been counted for a moment.
    pub(super) fn look_when_quiet(&self) -> Seen {
        let end = Instant::now() + QUIET_TIMEOUT;
        let (_, mut last) = self.look();
        loop {
            std::thread::sleep(Duration::from_millis(1));
            let (now, seen) = self.look();
            let frames = |seen: &Seen| (seen.frames_from_guests, seen.frames_to_guests);
            if now >= end
                || frames(&seen) == frames(&last) && seen.frames_from_guests == seen.frames_to_guests
            {
                return seen;
            }
            last = seen;
        }
    }
}

impl Seen {
    /// What was counted since an earlier look. The number of threads is the one of now.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let since = |of: fn(&Self) -> u64| of(self).saturating_sub(of(earlier));
        Self {
            frames_from_guests: since(|seen| seen.frames_from_guests),
            frames_to_guests: since(|seen| seen.frames_to_guests),
            misses: since(|seen| seen.misses),
            kicks: since(|seen| seen.kicks),
            calls: since(|seen| seen.calls),
            drops: since(|seen| seen.drops),
            sleeps: since(|seen| seen.sleeps),
            worker_threads: self.worker_threads,
            voluntary_switches: since(|seen| seen.voluntary_switches),
            involuntary_switches: since(|seen| seen.involuntary_switches),
            worker_ns: since(|seen| seen.worker_ns),
        }
    }

    /// Frames that went straight into their receiver's buffers.
    pub(super) fn hits(&self) -> u64 {
        self.frames_to_guests.saturating_sub(self.misses)
    }

    /// Notifications in both directions, and sleeps of workers.
    pub(super) fn wake_ups(&self) -> u64 {
        self.kicks + self.calls + self.sleeps
    }
}

fn socket(place: &Path, number: usize) -> PathBuf {
    place.join(format!("g{number}.sock"))
}

fn text(workers: &str, guests: usize, place: &Path) -> String {
    let control = place.join("control.sock");
    let mut text = format!("[control]\nsocket = {control:?}\n[workers]\n{workers}\n[switch.lan]\n");
    for number in 0..guests {
        let (mac, socket) = (mac_text(mac(number)), socket(place, number));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "[port.g{number}]\nswitch = \"lan\"\nmac = \"{mac}\"\nhairpin = {}\nvhost-user = {{ socket = {socket:?} }}",
            guests == 1
        );
    }
    text
}

/// Adds the context switches and the time of this process's workers (proc(5), `/proc/pid/status`; `schedstat` begins with the
/// time on a CPU).
fn count_threads(seen: &mut Seen) {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    for task in tasks.flatten() {
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(':').map(str::trim)
        };
        if field("Name").is_some_and(|name| name.starts_with(WORKER)) {
            let count = |name| field(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            seen.worker_threads += 1;
            seen.voluntary_switches += count("voluntary_ctxt_switches");
            seen.involuntary_switches += count("nonvoluntary_ctxt_switches");
            let times = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            seen.worker_ns += times.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_of_counts_and_not_of_threads() {
        let early = Seen { frames_to_guests: 10, misses: 1, kicks: 2, worker_threads: 2, ..Seen::default() };
        let late = Seen { frames_to_guests: 30, misses: 4, kicks: 5, calls: 7, sleeps: 1, ..early };
        let since = late.since(&early);
        assert_eq!((since.frames_to_guests, since.misses, since.hits()), (20, 3, 17));
        assert_eq!((since.wake_ups(), since.worker_threads), (3 + 7 + 1, 2));
    }

    #[test]
    fn the_configuration_is_accepted_for_any_number_of_guests() {
        for guests in [1, 2, 32] {
            let text = text("mode = \"per-device\"", guests, Path::new("/nowhere"));
            let parsed = config::parse(&text, Path::new("bench.toml")).unwrap().config;
            assert_eq!(parsed.ports.len(), guests);
            assert!(parsed.ports.iter().all(|port| port.settings.hairpin == (guests == 1)));
        }
    }
}
