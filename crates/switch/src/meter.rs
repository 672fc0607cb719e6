//! A limit of frames a second that several workers share: one atomic word, no lock.
//!
//! The generic cell rate algorithm (ITU-T I.371 annex A, "virtual scheduling"): the word is the time at which the next
//! frame is due. A frame may come early by up to [`BURST_MS`] worth of frames, or by none if that is less than one.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Now;

/// Parts of a millisecond in which times are kept: 1/16 ns. The clock then wraps after 36 years.
const TICKS_PER_MS: u64 = 16_000_000;
/// Milliseconds' worth of frames that may come at once.
const BURST_MS: u64 = 100;

/// When the next frame is due; see [`Rate::take`].
#[derive(Debug, Default)]
pub(crate) struct Meter(AtomicU64);

/// A limit, ready for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time between frames; `None`: no frame passes.
    interval: Option<u64>,
}

impl Rate {
    /// So many frames a second.
    pub(crate) fn new(frames_per_second: u32) -> Self {
        let interval = (TICKS_PER_MS * 1000).checked_div(u64::from(frames_per_second));
        Self { interval }
    }

    /// Takes the share of `units` frames that come as one, if there is one left. Any thread.
    #[inline]
    pub(crate) fn take(self, meter: &Meter, now: Now, units: u32) -> bool {
        let next = |due| self.next(due, now, units);
        meter.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Whether [`Self::take`] would.
    pub(crate) fn has(self, meter: &Meter, now: Now, units: u32) -> bool {
        self.next(meter.0.load(Ordering::Relaxed), now, units).is_some()
    }

    /// When the frame after this one is due; `None` if this one comes too early. One that is worth more than a burst
    /// passes when nothing was sent for long enough, and is paid for afterwards.
    #[inline]
    fn next(self, due: u64, now: Now, units: u32) -> Option<u64> {
        let interval = self.interval?.saturating_mul(units.max(1).into());
        let now = now.as_millis().saturating_mul(TICKS_PER_MS);
        let next = due.max(now).saturating_add(interval);
        (next - now <= interval.max(BURST_MS * TICKS_PER_MS)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn taken(rate: Rate, meter: &Meter, millis: u64, frames: u32) -> u32 {
        (0..frames).filter(|_| rate.take(meter, Now::from_millis(millis), 1)).count() as u32
    }

    #[test]
    fn a_tenth_of_a_second_comes_at_once_and_then_the_rate() {
        let (rate, meter) = (Rate::new(1000), Meter::default());
        assert_eq!(taken(rate, &meter, 50_000, 5000), 100);
        assert!(!rate.has(&meter, Now::from_millis(50_000), 1));
        assert_eq!((1..=1000).map(|ms| taken(rate, &meter, 50_000 + ms, 10)).sum::<u32>(), 1000);
        assert_eq!(taken(rate, &meter, 99_000, 5000), 100);
    }

    #[test]
    fn small_and_large_rates_are_kept() {
        for (frames_per_second, burst) in [(0, 0), (1, 1), (9, 1), (10, 1), (25, 2), (100_000, 10_000)] {
            let (rate, meter) = (Rate::new(frames_per_second), Meter::default());
            assert_eq!(taken(rate, &meter, 7000, burst + 10), burst, "{frames_per_second}");
            // Over ten seconds; a small rate loses a little to the steps of the clock.
            let steps = (1..=10_000).map(|step| taken(rate, &meter, 7000 + step, burst + 10));
            let (total, nominal) = (steps.sum::<u32>(), frames_per_second * 10);
            assert!(total <= nominal && total >= nominal - nominal / 50, "{total} of {nominal}");
        }
        let (rate, meter) = (Rate::new(u32::MAX), Meter::default());
        assert_eq!(taken(rate, &meter, u64::MAX / TICKS_PER_MS, 1000), 1000);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away() {
        let (rate, meter) = (Rate::new(100), Meter::default());
        assert_eq!(taken(rate, &meter, 10_000, 50), 10);
        assert_eq!(taken(rate, &meter, 9_000, 50), 0);
        assert_eq!(taken(rate, &meter, 10_100, 50), 10);
    }

    #[test]
    fn workers_share_one_limit() {
        let (rate, meter) = (Rate::new(10_000), Meter::default());
        let total: u32 = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(rate, &meter, 1_000, 2000))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(total, 1000);
    }

    #[test]
    fn a_frame_that_becomes_many_pays_for_all() {
        let (rate, meter) = (Rate::new(1000), Meter::default());
        let at = |millis: u64| Now::from_millis(50_000 + millis);
        assert!(rate.take(&meter, at(0), 1000), "more than a burst, but nothing came before");
        assert!(!rate.take(&meter, at(100), 1) && !rate.take(&meter, at(890), 1));
        assert!(rate.take(&meter, at(950), 1));
        assert!(!rate.take(&meter, at(960), 1000) && rate.take(&meter, at(1100), 1000));
    }
}
