//! A source's share of its worker's time.
//!
//! Guests that have work get the same *time*, not the same number of frames: who sends 64 KiB frames to many ports would
//! otherwise take nearly all of it. Not the same number of queues either: a guest with eight of them has as much as one with one,
//! and divides it among them. (A queue of an interface stands for itself: it brings what many have sent.) In each round such an
//! owner gets [`QUANTUM_NS`] on credit, and each of its sources is served in bursts until its part of that, or the whole, is used up
//! or nothing is left to do; what it used too much is missing in the next rounds. What is not used is lost, so nobody saves up. A
//! burst is as long as that part by what the source's frames have cost lately, and no longer than [`BURST`]: short
//! frames go in whole bursts, and a round lasts at most about twice as many quanta as owners have work (longer only where one frame
//! costs more than that), which bounds the delay of each.

use super::deliver::BURST;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// What the sources of an owner get in a round, together.
const QUANTUM_NS: i64 = 20_000;
/// The most that a source can owe: a worker that lost its CPU in the middle of a burst is no debt of that source.
const DEBT_NS: i64 = 50 * QUANTUM_NS;
/// A source that had work so lately has a part in its owner's quantum.
pub(super) const RECENT: Duration = Duration::from_millis(1);
/// What a frame is thought to cost before one was measured.
const FRAME_NS: i64 = 500;

/// The account of one source, beside that of its owner.
pub(super) struct Share {
    /// Credit of its owner.
    owner_ns: Rc<Cell<i64>>,
    /// What it gets in a round.
    part_ns: i64,
    credit_ns: i64,
    /// What a frame has cost lately.
    frame_ns: i64,
}

impl Share {
    /// The first source of an owner.
    pub(super) fn new() -> Self {
        Self { owner_ns: Rc::default(), part_ns: QUANTUM_NS, credit_ns: 0, frame_ns: FRAME_NS }
    }

    /// Another source of the same owner.
    pub(super) fn sibling(&self) -> Self {
        Self { owner_ns: Rc::clone(&self.owner_ns), ..Self::new() }
    }

    /// A new round, for the owner.
    pub(super) fn refill_owner(&self) {
        self.owner_ns.set((self.owner_ns.get() + QUANTUM_NS).min(QUANTUM_NS));
    }

    /// A new round, in which so many sources of its owner have work.
    pub(super) fn refill(&mut self, sources: usize) {
        self.part_ns = QUANTUM_NS / sources.max(1) as i64;
        self.credit_ns = (self.credit_ns + self.part_ns).min(self.part_ns);
    }

    /// How many frames it may have handled now, up to [`BURST`]; 0: it is the others' turn.
    pub(super) fn frames(&self) -> usize {
        if self.credit_ns.min(self.owner_ns.get()) <= 0 {
            return 0;
        }
        ((self.part_ns / self.frame_ns) as usize).clamp(1, BURST)
    }

    /// It had so many frames handled in so much time.
    pub(super) fn spend(&mut self, frames: usize, ns: u64) {
        let ns = ns as i64;
        self.credit_ns = (self.credit_ns - ns).max(-DEBT_NS);
        self.owner_ns.set((self.owner_ns.get() - ns).max(-DEBT_NS));
        self.frame_ns = ((3 * self.frame_ns + ns / frames.max(1) as i64) / 4).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves ports that always have work for `rounds`: of each, so many sources whose frames cost so much. Returns the time that
    /// each port got, and the longest time between two turns of the first.
    fn serve(ports: &[(usize, u64)], rounds: usize) -> (Vec<u64>, u64) {
        let sources = |(count, _): &(usize, u64)| {
            let first = Share::new();
            (0..*count).map(|_| first.sibling()).collect()
        };
        let mut shares: Vec<Vec<Share>> = ports.iter().map(sources).collect();
        let mut used = vec![0; ports.len()];
        let (mut now, mut last, mut longest) = (0u64, 0u64, 0u64);
        for _ in 0..rounds {
            for (who, (shares, (sources, cost))) in shares.iter_mut().zip(ports).enumerate() {
                shares[0].refill_owner();
                for share in shares {
                    share.refill(*sources);
                    while share.frames() > 0 {
                        if who == 0 {
                            longest = longest.max(now - last);
                        }
                        let frames = share.frames();
                        let ns = cost * frames as u64;
                        now += ns;
                        used[who] += ns;
                        share.spend(frames, ns);
                        if who == 0 {
                            last = now;
                        }
                    }
                }
            }
        }
        (used, longest)
    }

    #[test]
    fn a_victim_keeps_its_share_beside_a_hog_and_waits_for_a_quantum_only() {
        // 64 B frames beside 64 KiB ones; and beside frames that go to hundreds of ports.
        for hog in [6_000, 300_000] {
            let (used, longest) = serve(&[(1, 150), (1, hog)], 20_000);
            let share = used[0] as f64 / (used[0] + used[1]) as f64;
            assert!(share >= 0.45, "90 % of one half: {share}, beside {hog} ns");
            assert!(longest <= (32 * hog).max(QUANTUM_NS as u64 + hog), "{longest} ns");
        }
        let (_, longest) = serve(&[(1, 150), (1, 6_000)], 20_000);
        let (_, after_start) = serve(&[(1, 150), (1, 500)], 20_000);
        assert!(longest <= 32 * 6_000 && after_start <= 2 * QUANTUM_NS as u64, "{longest} {after_start}");
    }

    #[test]
    fn sixteen_hogs_leave_a_seventeenth_of_the_time() {
        let mut ports = vec![(1, 6_000); 17];
        ports[0].1 = 150;
        let (used, _) = serve(&ports, 20_000);
        let share = used[0] as f64 / used.iter().sum::<u64>() as f64;
        assert!(share >= 0.9 / 17.0, "{share}");
    }

    #[test]
    fn sixteen_queues_of_one_hog_leave_half_of_the_time() {
        for hog in [150, 6_000, 300_000] {
            let (used, longest) = serve(&[(1, 150), (16, hog)], 20_000);
            let share = used[0] as f64 / (used[0] + used[1]) as f64;
            assert!((0.45..0.55).contains(&share), "{share} beside {hog} ns");
            // Before it is known what its frames cost each queue takes one burst.
            assert!(longest <= (32 * hog).max(2 * QUANTUM_NS as u64), "{longest} ns beside {hog} ns");
        }
    }

    #[test]
    fn queues_of_a_port_share_alike_even_if_a_frame_costs_more_than_a_round() {
        let mut shares: Vec<Share> = vec![Share::new()];
        (1..4).for_each(|_| shares.push(shares[0].sibling()));
        let mut served = [0; 4];
        for _ in 0..10_000 {
            shares[0].refill_owner();
            for (share, count) in shares.iter_mut().zip(&mut served) {
                share.refill(4);
                while share.frames() > 0 {
                    *count += 1;
                    share.spend(1, 50_000);
                }
            }
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(most - least <= 2 && (3_900..4_100).contains(&served.iter().sum::<i32>()), "{served:?}");
    }

    #[test]
    fn nobody_saves_up_and_a_lost_cpu_is_soon_forgiven() {
        let mut share = Share::new();
        (0..100).for_each(|_| {
            share.refill_owner();
            share.refill(1);
        });
        assert!(share.credit_ns.max(share.owner_ns.get()) <= QUANTUM_NS);
        share.spend(32, 50_000_000);
        let rounds = (0..).take_while(|_| {
            share.refill_owner();
            share.refill(1);
            share.frames() == 0
        });
        assert!(rounds.count() <= 50);
    }
}
