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
//! A worker that has work is awake anyway, and then looking costs next to nothing: beside a source with work the others stay
//! active for the longest linger, whatever was learned, and kicks are looked for every [`LOOK_INTERVAL`] however long rounds are.
//!
//! Nobody lingers on a CPU that others want: a guest that we wait for may be among them. If the kernel has taken the CPU away
//! since the last time that there was nothing to do, sources rest at once for [`CROWDED`], and wake-ups bring the worker back.
//!
//! A source whose driver has no way to kick (a mapped doorbell, a queue without a kick descriptor) does not rest but *dozes*: with
//! nothing else active the worker sleeps for a part of the time that the source has been silent, so its next frame waits
//! at most that part longer than it had to, and silent ones cost a look each every few milliseconds, or less often if they are many. What linger is to learn from
//! sleeps it learns from these as well: a stream whose gaps are short is not dozed on at all. Nor is one that had a frame
//! less than [`DOZE_AFTER`] ago, even where others want the CPU: a sleep there may be as long as they like, and no kick ends it.
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
/// The same as a time, for rounds that are long: who kicks beside a hog waits no longer, and a round.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);
/// Rounds without work after which each look asks whether others want the CPU.
const ROUNDS_BEFORE_ASKING: u32 = 64;
/// How long a CPU counts as wanted by others.
const CROWDED: Duration = Duration::from_millis(10);

/// How long a source that cannot kick is looked at after a frame, at least.
const DOZE_AFTER: Duration = Duration::from_micros(50);
/// The part of a silence that a doze lasts, and the shortest and longest doze. The shortest is not much longer than it takes to
/// fall asleep and wake; it gives others a CPU that they want.
const DOZE_PART: u32 = 4;
const DOZE: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(4));
/// The longest doze for each source that is looked at after it, where there are many: what a look costs is little of that.
const DOZE_EACH: Duration = Duration::from_micros(400);

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
    /// How long it has slept since there was work.
    asleep: Duration,
    /// There was work in the last round.
    works: bool,
    /// When the last round ended, and the last look was decided upon.
    now: Instant,
    looked: Instant,
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
            asleep: Duration::ZERO,
            works: false,
            now: Instant::now(),
            looked: Instant::now(),
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
        let linger = match self.crowded_until {
            _ if self.works => self.longest,
            Some(_) => Duration::ZERO,
            None => self.linger,
        };
        (!self.always).then_some(linger)
    }

    /// The same for a source that has no way to kick.
    pub(super) fn linger_without_kicks(&mut self, now: Instant) -> Option<Duration> {
        self.linger(now).map(|linger| linger.max(DOZE_AFTER.min(self.longest)))
    }

    /// The kernel has taken the CPU away so many times in all.
    pub(super) fn preempted(&mut self, preemptions: u64, now: Instant) {
        if preemptions != self.preemptions {
            self.preemptions = preemptions;
            self.crowded_until = Some(now + CROWDED);
        }
    }

    /// What comes next. `active`: so many sources are; `silent`: all of these doze, and none has had work for so long.
    pub(super) fn next(&mut self, active: usize, silent: Option<Duration>) -> Next {
        self.rounds = self.rounds.wrapping_add(1);
        match (active, silent) {
            (0, _) if !self.always => Next::Sleep(None),
            (_, Some(silent)) if !self.always => {
                let longest = DOZE.1.max(DOZE_EACH * active as u32);
                Next::Sleep(Some((silent / DOZE_PART).clamp(DOZE.0, longest)))
            }
            _ if self.looks() => {
                self.looked = self.now;
                Next::Look { asks: self.shares_cpu && self.idle_rounds >= ROUNDS_BEFORE_ASKING }
            }
            _ => Next::Round,
        }
    }

    /// Whether it is time to look at the kick descriptors.
    fn looks(&self) -> bool {
        self.rounds.is_multiple_of(ROUNDS_PER_LOOK)
            || self.now.saturating_duration_since(self.looked) >= LOOK_INTERVAL
    }

    /// After each sleep, of which more than `wanted` was not meant: others had the CPU.
    pub(super) fn slept(&mut self, time: Duration, wanted: Option<Duration>) {
        self.asleep += wanted.map_or(time, |wanted| time.min(wanted));
    }

    /// After each round: whether there was work in it, and when it ended.
    pub(super) fn rounded(&mut self, worked: bool, now: Instant) {
        (self.works, self.now) = (worked, now);
        if !worked {
            self.idle_rounds = self.idle_rounds.saturating_add(1);
            return;
        }
        self.idle_rounds = 0;
        if self.asleep != Duration::ZERO {
            let time = std::mem::take(&mut self.asleep);
            self.learn(time);
        }
    }

    /// Work has come after such a time of sleep.
    fn learn(&mut self, time: Duration) {
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

    /// Work comes after a sleep of `time`.
    fn sleep(pace: &mut Pace, time: Duration) {
        pace.slept(time, None);
        pace.rounded(true, now());
        pace.rounded(false, now());
    }

    #[test]
    fn sleeps_that_were_too_short_end_and_those_that_were_long_cost_nothing() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        for _ in 0..3 {
            sleep(&mut pace, Duration::from_micros(40));
        }
        assert_eq!(pace.linger(now()), Some(LINGER));
        // Between the two nothing is learned.
        sleep(&mut pace, LINGER * 2);
        assert_eq!(pace.linger(now()), Some(LINGER));
        for _ in 0..8 {
            sleep(&mut pace, Duration::from_secs(1));
        }
        assert_eq!(
            pace.linger(now()),
            Some(Duration::ZERO),
            "what wakes it once a second keeps it busy no longer"
        );
        sleep(&mut pace, Duration::from_micros(40));
        assert_eq!(pace.linger(now()), Some(LINGER / PARTS));
    }

    #[test]
    fn a_look_without_work_does_not_end_a_sleep() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        for _ in 0..50 {
            pace.slept(LINGER / 2, None);
            pace.rounded(false, now());
        }
        pace.rounded(true, now());
        pace.rounded(false, now());
        assert_eq!(pace.linger(now()), Some(LINGER / 8), "it was one long sleep, not many short ones");
    }

    #[test]
    fn a_doze_that_others_made_long_was_too_long_all_the_same() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        for _ in 0..3 {
            pace.slept(Duration::from_millis(3), Some(DOZE.0));
            pace.rounded(true, now());
        }
        pace.rounded(false, now());
        assert_eq!(pace.linger(now()), Some(LINGER));
    }

    #[test]
    fn what_cannot_kick_is_looked_at_for_a_while_whoever_wants_the_cpu() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        pace.preempted(7, now());
        let now = now();
        assert_eq!(
            (pace.linger(now), pace.linger_without_kicks(now)),
            (Some(Duration::ZERO), Some(DOZE_AFTER))
        );
        let mut always = Pace::new(POOL, Polling::Always);
        assert_eq!(always.linger_without_kicks(now), None);
    }

    #[test]
    fn beside_a_source_with_work_the_others_linger() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let now = now();
        pace.preempted(7, now);
        pace.rounded(true, now);
        assert_eq!(pace.linger(now), Some(LINGER));
        pace.rounded(false, now);
        assert_eq!(pace.linger(now), Some(Duration::ZERO));
    }

    #[test]
    fn kicks_are_looked_for_however_long_rounds_are() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let mut now = now();
        let looks = (0..64).filter(|_| {
            let looks = matches!(pace.next(1, None), Next::Look { .. });
            pace.rounded(true, now + LOOK_INTERVAL / 2);
            now += LOOK_INTERVAL / 2;
            looks
        });
        assert!((31..=36).contains(&looks.count()));
    }

    #[test]
    fn it_sleeps_when_nothing_is_active_unless_it_never_does() {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let silent = Some(Duration::from_secs(1));
        assert_eq!(pace.next(0, silent), Next::Sleep(None));
        let mut always = Pace::new(POOL, Polling::Always);
        assert_eq!(always.linger(now()), None);
        assert!((0..1000).all(|_| !matches!(always.next(0, silent), Next::Sleep(_))));
        assert!((0..1000).all(|_| !matches!(always.next(1, silent), Next::Sleep(_))));
    }

    #[test]
    fn without_linger_it_never_learns_to() {
        let mut pace = Pace::new(POOL, Polling::Adaptive).without_linger();
        for time in [Duration::ZERO, Duration::from_micros(40), Duration::from_secs(1)] {
            sleep(&mut pace, time);
            assert_eq!(pace.linger(now()), Some(Duration::ZERO));
        }
        assert_eq!(Pace::new(POOL, Polling::Always).without_linger().linger(now()), None);
    }

    /// Microseconds from the last frame until that which comes `gap` after it is looked at, and how often the worker slept.
    fn dozes(gap: u64) -> (u64, u64) {
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let (mut us, mut sleeps) = (LINGER.as_micros() as u64 / 4, 0);
        while us < gap {
            let Next::Sleep(Some(time)) = pace.next(1, Some(Duration::from_micros(us))) else {
                panic!("it does not sleep after {us} us")
            };
            us += time.as_micros() as u64;
            sleeps += 1;
        }
        (us, sleeps)
    }

    #[test]
    fn a_silent_queue_that_cannot_kick_is_looked_at_less_and_less() {
        for (gap, sleeps_max) in [(100, 4), (1_000, 15), (10_000, 26), (1_000_000, 280)] {
            let (us, sleeps) = dozes(gap);
            assert!(us <= gap + gap / 4 + 10, "{us} us instead of {gap}");
            assert!(us <= gap + 4_000 && sleeps <= sleeps_max, "{sleeps} sleeps in {gap} us, {us}");
        }
        let mut pace = Pace::new(POOL, Polling::Adaptive);
        let longest = Duration::from_millis(40);
        assert_eq!(pace.next(100, Some(Duration::from_secs(1))), Next::Sleep(Some(longest)));
    }

    #[test]
    fn nobody_lingers_on_a_cpu_that_others_want() {
        let asks = |mode| {
            let mut pace = Pace::new(mode, Polling::Adaptive);
            let mut looks = Vec::new();
            let now = now();
            for _ in 0..8 * ROUNDS_PER_LOOK {
                if let Next::Look { asks } = pace.next(1, None) {
                    looks.push(asks);
                }
                pace.rounded(false, now);
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
