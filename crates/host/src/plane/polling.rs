//! When a worker looks at its queues without being told, and when it sleeps: the whole rule, and its constants.
//!
//! A source is *active* while its worker looks at it in every round. Its driver is told not to kick then (`NO_NOTIFY`,
//! `EVENT_IDX`), so a guest that is polled makes no exits. After *linger* without a frame the worker asks for kicks, looks once
//! more (a frame may have come in between), and the source rests until it is kicked. With nothing active the worker sleeps in
//! `epoll_wait` and costs nothing.
//!
//! Linger follows the sleeps that it could have saved. A sleep that was shorter than the longest linger was too early: it
//! doubles. One that was [`LONG`] times longer would not have been saved: it halves, and ends at nothing. So a worker that has
//! work all the time never sleeps, and one that is woken now and then does what it is woken for and sleeps again.
//!
//! Nobody lingers on a CPU that others want: a guest that we wait for may be among them. If the kernel has taken the CPU away
//! since the last time that there was nothing to do, sources rest at once for [`CROWDED`], and wake-ups bring the worker back.
//!
//! A [`WorkerMode::Sidecore`] expects work for longer, and has its CPU for itself; with [`Polling::Always`] nothing rests.

use crate::config::resolved::{Polling, WorkerMode};
use rustix::event::Timespec;
use std::time::{Duration, Instant};

/// The longest that a source without work stays active. More than 5,000 wake-ups a second become none.
const LINGER: Duration = Duration::from_micros(200);
/// The same for a sidecore: it has its CPU for itself, and 500 wake-ups a second become none.
const LINGER_SIDECORE: Duration = Duration::from_millis(2);
/// The shortest linger but none, and the step from none, as a part of the longest.
const PARTS: u32 = 16;
/// How many times the longest linger a sleep lasts that could not have been saved.
const LONG: u32 = 8;

/// Rounds between two looks at the kick descriptors while something is active.
const ROUNDS_PER_LOOK: u32 = 16;
/// Rounds without work after which each look asks whether others want the CPU.
const ROUNDS_BEFORE_ASKING: u32 = 64;
/// How long a CPU counts as wanted by others.
const CROWDED: Duration = Duration::from_millis(10);

/// How often queues whose driver gives no kick descriptor are looked at when they are idle: at first, and after some time.
const DOZE: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(4));

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look at the active sources again.
    Round,
    /// Look at the kick descriptors too; and tell [`Pace::preempted`] whether others want the CPU, if `asks`.
    Look { asks: bool },
    /// Sleep until a kick comes, or for a time.
    Sleep(Option<Duration>),
}

/// The rule for one worker, and what it has learned.
pub(super) struct Pace {
    always: bool,
    shares_cpu: bool,
    longest: Duration,
    linger: Duration,
    doze: Duration,
    /// Times that the CPU was taken away, when that was asked last.
    preemptions: u64,
    crowded_until: Option<Instant>,
    rounds: u32,
    idle_rounds: u32,
}

impl Pace {
    pub(super) fn new(mode: WorkerMode, polling: Polling) -> Self {
        let is_sidecore = matches!(mode, WorkerMode::Sidecore { .. });
        let longest = if is_sidecore { LINGER_SIDECORE } else { LINGER };
        Self {
            always: polling == Polling::Always,
            shares_cpu: !is_sidecore && polling == Polling::Adaptive,
            longest,
            linger: longest / 4,
            doze: DOZE.0,
            preemptions: 0,
            crowded_until: None,
            rounds: 0,
            idle_rounds: 0,
        }
    }

    /// The same without linger; who never sleeps still does not.
    pub(super) fn without_linger(self) -> Self {
        Self { longest: Duration::ZERO, linger: Duration::ZERO, ..self }
    }

    /// How long a source without work stays active; `None`: for ever.
    pub(super) fn linger(&mut self, now: Instant) -> Option<Duration> {
        if self.crowded_until.is_some_and(|until| now >= until) {
            self.crowded_until = None;
        }
        let linger = if self.crowded_until.is_some() { Duration::ZERO } else { self.linger };
        (!self.always).then_some(linger)
    }

    /// The kernel has taken the CPU away so many times in all.
    pub(super) fn preempted(&mut self, preemptions: u64, now: Instant) {
        if preemptions != self.preemptions {
            self.preemptions = preemptions;
            self.crowded_until = Some(now + CROWDED);
        }
    }

    /// What comes next. `active`: sources are; `dozing`: all of these are only looked at now and then.
    pub(super) fn next(&mut self, active: bool, dozing: bool) -> Next {
        self.rounds = self.rounds.wrapping_add(1);
        let looks = self.rounds.is_multiple_of(ROUNDS_PER_LOOK);
        match (active, dozing) {
            (false, _) if !self.always => Next::Sleep(None),
            (true, true) if !self.always => {
                let time = self.doze;
                self.doze = (time * 2).min(DOZE.1);
                Next::Sleep(Some(time))
            }
            _ if looks => Next::Look { asks: self.shares_cpu && self.idle_rounds >= ROUNDS_BEFORE_ASKING },
            _ => Next::Round,
        }
    }

    /// After each round: whether there was work in it.
    pub(super) fn rounded(&mut self, worked: bool) {
        if worked {
            self.idle_rounds = 0;
            self.doze = DOZE.0;
        } else {
            self.idle_rounds = self.idle_rounds.saturating_add(1);
        }
    }

    /// After each sleep that a kick has ended.
    pub(super) fn slept(&mut self, time: Duration) {
        let shortest = self.longest / PARTS;
        if time < self.longest {
            self.linger = (self.linger * 2).clamp(shortest, self.longest);
        } else if time > self.longest * LONG {
            self.linger = if self.linger > shortest { self.linger / 2 } else { Duration::ZERO };
        }
    }
}

/// A time to sleep, as system calls take it.
pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: WorkerMode = WorkerMode::Pool { threads: 1 };

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn sleeps_that_were_too_short_end_and_those_that_were_long_cost_nothing() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        for _ in 0..3 {
            pace.slept(Duration::from_micros(40));
        }
        assert_eq!(pace.linger(now()), Some(LINGER));
        // Between the two nothing is learned.
        pace.slept(LINGER * 2);
        assert_eq!(pace.linger(now()), Some(LINGER));
        for _ in 0..8 {
            pace.slept(Duration::from_secs(1));
        }
        assert_eq!(
            pace.linger(now()),
            Some(Duration::ZERO),
            "what wakes it once a second keeps it busy no longer"
        );
        pace.slept(Duration::from_micros(40));
        assert_eq!(pace.linger(now()), Some(LINGER / PARTS));
    }

    #[test]
    fn it_sleeps_when_nothing_is_active_unless_it_never_does() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        assert_eq!(pace.next(false, true), Next::Sleep(None));
        let mut always = Pace::new(POOL, Polling::Always);
        assert_eq!(always.linger(now()), None);
        assert!((0..1000).all(|_| !matches!(always.next(false, true), Next::Sleep(_))));
    }

    #[test]
    fn without_linger_it_never_learns_to() {
        let mut pace = Pace::new(POOL, Polling::Adaptive).without_linger();
        for time in [Duration::ZERO, Duration::from_micros(40), Duration::from_secs(1)] {
            pace.slept(time);
            assert_eq!(pace.linger(now()), Some(Duration::ZERO));
        }
        assert_eq!(Pace::new(POOL, Polling::Always).without_linger().linger(now()), None);
    }

    #[test]
    fn what_cannot_kick_is_looked_at_less_and_less_until_it_works() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let times = [500, 1000, 2000, 4000, 4000].map(Duration::from_micros);
        for time in times {
            assert_eq!(pace.next(true, true), Next::Sleep(Some(time)));
            pace.rounded(false);
        }
        pace.rounded(true);
        assert_eq!(pace.next(true, true), Next::Sleep(Some(times[0])));
    }

    #[test]
    fn nobody_lingers_on_a_cpu_that_others_want() {
        let asks = |mode| {
            let mut pace = Pace::new(mode, Polling::Adaptive);
            let mut looks = Vec::new();
            for _ in 0..8 * ROUNDS_PER_LOOK {
                if let Next::Look { asks } = pace.next(true, false) {
                    looks.push(asks);
                }
                pace.rounded(false);
            }
            looks
        };
        assert_eq!(asks(POOL), [false, false, false, false, true, true, true, true]);
        assert!(asks(WorkerMode::Sidecore { threads: 1 }).iter().all(|asks| !asks));

        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let (linger, now) = (pace.linger, now());
        pace.preempted(7, now);
        assert_eq!(pace.linger(now), Some(Duration::ZERO));
        assert_eq!(pace.linger(now + CROWDED), Some(linger));
        pace.preempted(7, now + CROWDED);
        assert_eq!(pace.linger(now + CROWDED), Some(linger), "not again");
    }
}
