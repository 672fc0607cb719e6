//! How long requests took: counts in buckets that are an eighth of a power of two wide.

use std::time::Duration;

/// Buckets per power of two.
const PARTS: usize = 8;
const PARTS_LOG2: u32 = PARTS.ilog2();
/// Values below `PARTS` have a bucket each; every power of two from there on has `PARTS`.
const BUCKETS: usize = PARTS + (u64::BITS - PARTS_LOG2) as usize * PARTS;

/// A log-linear histogram of nanoseconds; what it answers is at most an eighth too high.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one request.
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Requests counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All their times together; stays at the largest value that it can have.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The time that `share` of the requests (0.0 to 1.0) took at most; `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((share.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return Some(Duration::from_nanos(last_of(index).min(self.max_ns)));
            }
        }
        None
    }

    /// Requests that took `bound` at most, as far as buckets tell: those that end at it.
    pub fn up_to(&self, bound: Duration) -> u64 {
        let ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        self.counts
            .iter()
            .enumerate()
            .take_while(|(index, _)| last_of(*index) <= ns)
            .map(|(_, count)| count)
            .sum()
    }
}

fn bucket(ns: u64) -> usize {
    if ns < PARTS as u64 {
        return ns as usize;
    }
    let octave = ns.ilog2() - PARTS_LOG2;
    PARTS + octave as usize * PARTS + ((ns >> octave) as usize - PARTS)
}

/// The largest value of a bucket.
fn last_of(index: usize) -> u64 {
    if index < PARTS {
        return index as u64;
    }
    let (octave, part) = ((index - PARTS) / PARTS, (index - PARTS) % PARTS);
    let first = ((PARTS + part) as u64) << octave;
    first + ((1u64 << octave) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ns(ns: u64) -> Duration {
        Duration::from_nanos(ns)
    }

    #[test]
    fn the_first_and_the_last_value_have_a_bucket() {
        assert_eq!((bucket(0), bucket(7), bucket(8), bucket(u64::MAX)), (0, 7, 8, BUCKETS - 1));
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_of_known_times() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (1..=1000).for_each(|us| histogram.record(ns(us * 1000)));
        for (share, us) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let found = histogram.quantile(share).unwrap();
            assert!(found >= ns(us * 1000) && found <= ns(us * 1125), "{share}: {found:?}");
        }
        assert_eq!((histogram.count(), histogram.max()), (1000, ns(1_000_000)));
        assert_eq!(histogram.sum(), ns(500_500_000));
        assert_eq!(histogram.quantile(0.0).unwrap(), ns(1023));
        assert_eq!((histogram.up_to(ns(999)), histogram.up_to(ns(1_048_575))), (0, 1000));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_and_is_an_eighth_wide(value: u64) {
            let last = last_of(bucket(value));
            prop_assert!(value <= last && last - value <= value / 8);
            prop_assert!(bucket(last) == bucket(value) && (last == u64::MAX || bucket(last + 1) == bucket(last) + 1));
        }

        #[test]
        fn merged_is_as_if_counted_together(times in prop::collection::vec(any::<u64>(), 0..50), cut in 0usize..50) {
            let (mut all, mut one, mut two) = <(Histogram, Histogram, Histogram)>::default();
            for (index, time) in times.iter().enumerate() {
                all.record(ns(*time));
                if index < cut { one.record(ns(*time)) } else { two.record(ns(*time)) }
            }
            one.merge(&two);
            prop_assert_eq!(one, all);
        }
    }
}
