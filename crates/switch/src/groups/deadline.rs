//! A moment that several versions of a table share, and that any thread may move.

use crate::types::Now;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A deadline is moved away only if that wins more than this.
const COARSE_MS: u64 = 1000;

/// When something ends, in milliseconds of [`Now`].
///
/// Whoever takes the thing out of the table buries its deadline first. An extension either comes before that, and the
/// thing stays, or is told that it comes too late: none is lost.
#[derive(Debug)]
pub(crate) struct Deadline(AtomicU64);

impl Deadline {
    const BURIED: u64 = u64::MAX;

    pub(super) fn new(until: u64) -> Self {
        Self(AtomicU64::new(until.min(Self::BURIED - 1)))
    }

    #[inline]
    pub(super) fn is_ahead(&self, now: Now) -> bool {
        self.left(now).is_some()
    }

    /// Milliseconds left; `None` if it is over.
    #[inline]
    pub(super) fn left(&self, now: Now) -> Option<u64> {
        let until = self.0.load(Relaxed);
        let left = until.saturating_sub(now.as_millis());
        (left > 0 && until != Self::BURIED).then_some(left)
    }

    /// Moves it to `until`, never nearer; false if it is buried.
    pub(super) fn extend(&self, until: u64) -> bool {
        let until = until.min(Self::BURIED - 1);
        self.replace(|current| (current.saturating_add(COARSE_MS) < until).then_some(until))
    }

    /// Moves it to `until`, never farther.
    pub(super) fn shorten(&self, until: u64) {
        self.replace(|current| (current > until).then_some(until));
    }

    /// Asks for another moment until nobody interferes; false if it is buried.
    fn replace(&self, mut other: impl FnMut(u64) -> Option<u64>) -> bool {
        let change = |current| if current == Self::BURIED { None } else { other(current) };
        match self.0.fetch_update(Relaxed, Relaxed, change) {
            Ok(_) => true,
            Err(current) => current != Self::BURIED,
        }
    }

    /// Buries it, whenever it is.
    pub(super) fn bury(&self) {
        self.0.store(Self::BURIED, Relaxed);
    }

    /// Buries it if it is over, and says whether.
    pub(super) fn bury_if_ended(&self, now: Now) -> bool {
        let until = self.0.load(Relaxed);
        until <= now.as_millis() && self.0.compare_exchange(until, Self::BURIED, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn moves_one_way_each_and_not_from_the_grave() {
        let at = Now::from_millis;
        let deadline = Deadline::new(10_000);
        assert!(deadline.is_ahead(at(9_999)) && !deadline.is_ahead(at(10_000)));
        assert!(deadline.extend(5_000) && deadline.extend(10_900));
        assert_eq!(deadline.left(at(0)), Some(10_000), "neither nearer nor by a trifle");
        assert!(deadline.extend(20_000));
        deadline.shorten(30_000);
        assert_eq!(deadline.left(at(0)), Some(20_000));
        deadline.shorten(2_000);
        assert_eq!(deadline.left(at(0)), Some(2_000));
        assert!(!deadline.bury_if_ended(at(1_999)));
        assert!(deadline.bury_if_ended(at(2_000)) && !deadline.bury_if_ended(at(3_000)));
        deadline.shorten(1);
        assert!(!deadline.extend(50_000) && !deadline.is_ahead(at(0)));
        assert!(Deadline::new(u64::MAX).extend(u64::MAX), "the end of time is no grave");
    }

    /// One thread extends, one buries, over the same deadlines at the same time: exactly one of them has its way.
    #[test]
    fn either_extended_or_buried() {
        const COUNT: usize = if cfg!(miri) { 20 } else { 100_000 };
        let now = Now::from_millis(10);
        for _ in 0..4 {
            let deadlines: Vec<_> = (0..COUNT).map(|_| Deadline::new(5)).collect();
            let start = Barrier::new(2);
            let (extended, buried) = std::thread::scope(|scope| {
                let extender = scope.spawn(|| {
                    start.wait();
                    deadlines.iter().map(|deadline| deadline.extend(90_000)).collect::<Vec<_>>()
                });
                start.wait();
                let buried: Vec<_> = deadlines.iter().map(|deadline| deadline.bury_if_ended(now)).collect();
                (extender.join().unwrap(), buried)
            });
            for ((extended, buried), deadline) in extended.into_iter().zip(buried).zip(&deadlines) {
                assert_ne!(extended, buried);
                assert_eq!(deadline.is_ahead(now), extended);
            }
        }
    }
}
