//! How fast a disk may go: operations and bytes per second, with bursts. Time is an argument.
//!
//! A [`Bucket`] knows one point in time: when all that it let through would have gone through at its rate. What comes passes as long
//! as that point lies no further ahead than leaves a unit of the burst, and moves it by its own cost. So a piece of work that is larger
//! than the burst passes as well, and whoever comes after it waits for it.

use std::num::NonZeroU64;
use std::time::Duration;

/// A rate, and how much may pass at once after a rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Units per second.
    pub per_second: NonZeroU64,
    /// Units that pass at once after a rest.
    pub burst: NonZeroU64,
}

/// A token bucket for one kind of unit.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    /// How far ahead it may lie for one more unit to pass.
    ahead_ns: u64,
    /// When all that passed would have passed at the rate, in nanoseconds of the caller's clock.
    paid_until_ns: u64,
    /// The part of a nanosecond behind `paid_until_ns`, in units of 1 / `per_second`.
    rest: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        let (ahead_ns, _) = cost_ns(rate, rate.burst.get() - 1, 0);
        Self { rate, ahead_ns, paid_until_ns: 0, rest: 0 }
    }

    /// How long to wait until something may pass; zero: now. `now`: time since any point that stays the same.
    pub fn wait(&self, now: Duration) -> Duration {
        let opens_ns = self.paid_until_ns.saturating_sub(self.ahead_ns);
        Duration::from_nanos(opens_ns.saturating_sub(nanoseconds(now)))
    }

    /// `units` pass, whether or not they may.
    pub fn take(&mut self, units: u64, now: Duration) {
        let now_ns = nanoseconds(now);
        if self.paid_until_ns < now_ns {
            (self.paid_until_ns, self.rest) = (now_ns, 0);
        }
        let (cost, rest) = cost_ns(self.rate, units, self.rest);
        self.paid_until_ns = self.paid_until_ns.saturating_add(cost);
        self.rest = rest;
    }

    /// Another rate from now on; what has passed stays counted.
    pub fn set_rate(&mut self, rate: Rate) {
        *self = Self { paid_until_ns: self.paid_until_ns, ..Self::new(rate) };
    }
}

/// What `units` take at `rate`: nanoseconds, and what is left in units of 1 / `per_second` of a nanosecond.
fn cost_ns(rate: Rate, units: u64, rest: u64) -> (u64, u64) {
    let per_second = u128::from(rate.per_second.get());
    let total = u128::from(units) * 1_000_000_000 + u128::from(rest);
    (u64::try_from(total / per_second).unwrap_or(u64::MAX), (total % per_second) as u64)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The limits of one disk.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    /// Requests; `None`: as many as there are.
    pub operations: Option<Bucket>,
    /// Bytes of data; `None`: as many as there are.
    pub bytes: Option<Bucket>,
}

impl Limit {
    /// Lets a request with `bytes` bytes of data pass, or tells how long it has to wait; it counts only if it passes.
    ///
    /// # Errors
    /// The time until something may pass.
    pub fn admit(&mut self, bytes: u64, now: Duration) -> Result<(), Duration> {
        let buckets = [(&mut self.operations, 1), (&mut self.bytes, bytes)];
        let wait =
            |bucket: &Option<Bucket>| bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(now));
        let wait = buckets.iter().map(|(bucket, _)| wait(bucket)).max().unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for (bucket, units) in buckets {
            if let Some(bucket) = bucket {
                bucket.take(units, now);
            }
        }
        Ok(())
    }

    /// Whether nothing is limited.
    pub fn is_open(&self) -> bool {
        self.operations.is_none() && self.bytes.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst: NonZeroU64::new(burst).unwrap() }
    }

    fn operations(per_second: u64, burst: u64) -> Limit {
        Limit { operations: Some(Bucket::new(rate(per_second, burst))), bytes: None }
    }

    /// Requests of `bytes` that pass within `time`, when each is made as soon as it may be.
    fn passed(limit: &mut Limit, bytes: u64, time: Duration) -> u64 {
        let (mut now, mut count) = (Duration::ZERO, 0);
        while now < time {
            match limit.admit(bytes, now) {
                Ok(()) => count += 1,
                Err(wait) => now += wait,
            }
        }
        count
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let mut limit = operations(100, 20);
        let at_once = (0..30).take_while(|_| limit.admit(4096, Duration::ZERO).is_ok()).count();
        assert_eq!(at_once, 20);
        let wait = limit.admit(0, Duration::ZERO).unwrap_err();
        assert!(wait <= Duration::from_millis(10) && limit.admit(0, wait).is_ok(), "{wait:?}");
        assert_eq!(passed(&mut operations(100, 20), 0, Duration::from_secs(10)), 1019);
    }

    #[test]
    fn a_rest_fills_no_more_than_the_burst() {
        let mut limit = operations(1000, 5);
        while limit.admit(0, Duration::ZERO).is_ok() {}
        let later = Duration::from_secs(3600);
        assert_eq!((0..100).take_while(|_| limit.admit(0, later).is_ok()).count(), 5);
    }

    #[test]
    fn rates_that_divide_no_second_lose_nothing() {
        // Over a long time: 3 a second, in nanoseconds 333,333,333 and a third.
        assert_eq!(passed(&mut operations(3, 1), 0, Duration::from_secs(100_000)), 300_000);
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_and_is_paid_for() {
        let mut limit = Limit { operations: None, bytes: Some(Bucket::new(rate(1_000_000, 4096))) };
        assert_eq!(limit.admit(10_000_000, Duration::ZERO), Ok(()));
        let wait = limit.admit(512, Duration::ZERO).unwrap_err();
        assert!(wait > Duration::from_millis(9_990) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(limit.admit(512, wait), Ok(()));
    }

    #[test]
    fn a_request_that_waits_for_its_bytes_is_no_operation_yet() {
        let bytes = Some(Bucket::new(rate(1000, 1000)));
        let mut limit = Limit { operations: Some(Bucket::new(rate(1, 2))), bytes };
        assert_eq!(limit.admit(1000, Duration::ZERO), Ok(()));
        assert!((0..10).all(|_| limit.admit(1, Duration::ZERO).is_err()));
        assert_eq!(limit.admit(1, Duration::from_millis(900)), Ok(()), "one operation was left");
        assert!(Limit::default().is_open() && !limit.is_open());
    }

    #[test]
    fn another_rate_forgets_no_debt() {
        let mut bucket = Bucket::new(rate(10, 1));
        bucket.take(100, Duration::ZERO);
        bucket.set_rate(rate(1_000_000, 1));
        assert!(bucket.wait(Duration::ZERO) > Duration::from_secs(9));
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_whatever_the_steps(
            per_second in 1u64..1_000_000_000_000, burst in 1u64..1_000_000_000,
            steps in prop::collection::vec((0u64..10_000_000_000, 1u64..1_000_000), 1..60),
        ) {
            let mut bucket = Bucket::new(rate(per_second, burst));
            let (mut now, mut taken, mut last) = (Duration::ZERO, 0u128, 0u128);
            for (pause_ns, units) in steps {
                now += Duration::from_nanos(pause_ns);
                if bucket.wait(now).is_zero() {
                    bucket.take(units, now);
                    taken += u128::from(units);
                    last = last.max(u128::from(units));
                }
            }
            let allowed = now.as_nanos() * u128::from(per_second) / 1_000_000_000 + u128::from(burst);
            // The last one may be larger than what was left; a nanosecond's worth is rounding.
            prop_assert!(taken <= allowed + last + u128::from(per_second) / 1_000_000_000 + 1);
        }

        #[test]
        fn waiting_as_long_as_told_is_enough(
            per_second in 1u64..1_000_000_000_000, burst in 1u64..1_000_000, units in 0u64..u64::MAX,
        ) {
            let mut bucket = Bucket::new(rate(per_second, burst));
            bucket.take(units, Duration::from_secs(5));
            let wait = bucket.wait(Duration::from_secs(5));
            prop_assert!(bucket.wait(Duration::from_secs(5) + wait).is_zero());
            if let Some(less) = wait.checked_sub(Duration::from_nanos(1)) {
                prop_assert!(!bucket.wait(Duration::from_secs(5) + less).is_zero());
            }
        }
    }
}
