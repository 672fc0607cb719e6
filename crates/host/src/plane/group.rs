//! A group of workers: who serves a new source, and which sources move when load shifts.

use super::source::Source;
use super::stats::add;
use super::worker::Worker;
use crate::config::resolved::{WorkerMode, WorkersConfig};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the workers of a group are compared.
pub(super) const BALANCE_INTERVAL: Duration = Duration::from_millis(100);
/// The difference in load from which a source moves, in hundredths of the time.
const DIFFERENCE_MIN: u64 = 20;
/// What a move must take from the busier worker, in hundredths of the time: less is not worth a cold cache.
const GAIN_MIN: u64 = 5;

/// Threads that serve the same ports.
pub(super) struct Group {
    /// `None`: `[workers]`.
    pub(super) name: Option<String>,
    pub(super) config: WorkersConfig,
    pub(super) workers: Mutex<Vec<Arc<Worker>>>,
    /// Those of a pool, or of sidecores; a port's own worker ends with its port.
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    /// Workers made so far, for their names and CPUs.
    pub(super) made: Mutex<usize>,
}

impl Group {
    pub(super) fn new(name: Option<String>, config: WorkersConfig) -> Self {
        Self { name, config, workers: Mutex::default(), threads: Mutex::default(), made: Mutex::default() }
    }

    /// Whether each port has a worker of its own.
    pub(super) fn is_per_device(&self) -> bool {
        self.config.mode == WorkerMode::PerDevice
    }

    /// The worker that has the fewest sources.
    pub(super) fn least_loaded(&self) -> Option<Arc<Worker>> {
        self.workers.lock().iter().min_by_key(|worker| worker.source_count()).map(Arc::clone)
    }

    /// Takes a worker off.
    pub(super) fn remove(&self, worker: &Arc<Worker>) {
        self.workers.lock().retain(|other| !Arc::ptr_eq(other, worker));
    }

    /// Compares what the workers had to do since the last time, `elapsed` ago, and moves one source if that helps.
    pub(super) fn balance(&self, elapsed: Duration) {
        let workers = self.workers.lock().clone();
        if self.is_per_device() || workers.len() < 2 {
            return;
        }
        let sources: Vec<Vec<Source>> = workers.iter().map(|worker| worker.sources()).collect();
        let loads: Vec<Vec<u64>> = sources.iter().map(|sources| sources.iter().map(load).collect()).collect();
        let Some(Move { from, source, to }) = better(&loads, elapsed.as_nanos() as u64) else { return };
        let source = &sources[from][source];
        if let Err(error) = source.seat().take(&workers[to], source) {
            tracing::warn!(device = source.name(), %error, "kicks are not watched");
        }
        add(&workers[to].moves, 1);
    }
}

/// What a source had its worker do since the last time, in nanoseconds.
fn load(source: &Source) -> u64 {
    let seat = source.seat();
    let busy = seat.busy_ns.load(Relaxed);
    busy.saturating_sub(seat.busy_before_ns.swap(busy, Relaxed))
}

/// One source goes from one worker to another.
#[derive(Debug, PartialEq, Eq)]
struct Move {
    from: usize,
    source: usize,
    to: usize,
}

/// The move that makes the busiest worker least busy, if one is worth it. `loads`: of each worker's sources, in nanoseconds of
/// `elapsed`.
fn better(loads: &[Vec<u64>], elapsed: u64) -> Option<Move> {
    let sums = || loads.iter().map(|loads| loads.iter().sum::<u64>()).enumerate();
    let (from, most) = sums().max_by_key(|(_, sum)| *sum)?;
    let (to, least) = sums().min_by_key(|(_, sum)| *sum)?;
    if (most - least) * 100 < elapsed * DIFFERENCE_MIN {
        return None;
    }
    let after = |load: u64| (most - load).max(least + load);
    let candidates = loads[from].iter().enumerate().filter(|(_, load)| **load > 0);
    let (source, load) = candidates.min_by_key(|(_, load)| after(**load))?;
    (after(*load) + elapsed * GAIN_MIN / 100 <= most).then_some(Move { from, source, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_move_that_helps_most_is_made() {
        // Two that are busy leave an idle worker something to do.
        assert_eq!(better(&[vec![50, 0, 50], vec![0]], 100), Some(Move { from: 0, source: 0, to: 1 }));
        assert_eq!(better(&[vec![0], vec![60, 30, 10]], 100), Some(Move { from: 1, source: 0, to: 0 }));
        assert_eq!(
            better(&[vec![20], vec![50, 20, 10], vec![30]], 100),
            Some(Move { from: 1, source: 1, to: 0 })
        );
    }

    #[test]
    fn nothing_moves_that_would_only_change_sides_or_hardly_helps() {
        assert_eq!(better(&[vec![100], vec![0, 0]], 100), None, "one source is as busy anywhere");
        assert_eq!(better(&[vec![40, 12], vec![38]], 100), None);
        assert_eq!(better(&[vec![97, 2], vec![0]], 100), None, "two hundredths are not worth it");
        assert_eq!(better(&[vec![], vec![]], 100), None);
        assert_eq!(better(&[vec![50, 50]], 100), None);
    }

    #[test]
    fn moves_come_to_an_end() {
        let mut loads = vec![vec![31, 17, 13, 11, 7, 5, 3, 2, 2, 1], vec![], vec![4], vec![]];
        let mut count = 0;
        while let Some(Move { from, source, to }) = better(&loads, 100) {
            let load = loads[from].remove(source);
            loads[to].push(load);
            count += 1;
            assert!(count < 10, "{loads:?}");
        }
        let sums: Vec<u64> = loads.iter().map(|loads| loads.iter().sum()).collect();
        assert!(sums.iter().all(|sum| *sum <= 36), "{loads:?}");
    }
}
