//! A source's share of its worker's time.
//!
//! Sources that have work get the same *time*, not the same number of frames: who sends 64 KiB frames to many ports would
//! otherwise take nearly all of it. In each round a source gets [`QUANTUM_NS`] on credit and is served in bursts until
//! that is used up or nothing is left to do; what it used too much is missing in the next rounds. What is not used is lost,
//! so nobody saves up. A burst is as long as a quantum by what its frames have cost lately, and no longer than [`BURST`]: short
//! frames go in whole bursts, and a round lasts at most about twice as many quanta as sources have work, which bounds the delay
//! of each.

use super::deliver::BURST;

/// What a source gets in a round.
const QUANTUM_NS: i64 = 20_000;
/// The most that it can owe: a worker that lost its CPU in the middle of a burst is no debt of that source.
const DEBT_NS: i64 = 50 * QUANTUM_NS;
/// What a frame is thought to cost before one was measured.
const FRAME_NS: i64 = 500;

/// The account of one source.
pub(super) struct Share {
    credit_ns: i64,
    /// What a frame has cost lately.
    frame_ns: i64,
}

impl Share {
    pub(super) fn new() -> Self {
        Self { credit_ns: 0, frame_ns: FRAME_NS }
    }

    /// A new round.
    pub(super) fn refill(&mut self) {
        self.credit_ns = (self.credit_ns + QUANTUM_NS).min(QUANTUM_NS);
    }

    /// How many frames it may have handled now, up to [`BURST`]; 0: it is the others' turn.
    pub(super) fn frames(&self) -> usize {
        if self.credit_ns <= 0 { 0 } else { ((QUANTUM_NS / self.frame_ns) as usize).clamp(1, BURST) }
    }

    /// It had so many frames handled in so much time.
    pub(super) fn spend(&mut self, frames: usize, ns: u64) {
        let ns = ns as i64;
        self.credit_ns = (self.credit_ns - ns).max(-DEBT_NS);
        self.frame_ns = ((3 * self.frame_ns + ns / frames.max(1) as i64) / 4).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves sources that always have work for `rounds`; a frame of each costs so much. Returns the time that each got, and
    /// the longest time between two turns of the first.
    fn serve(costs: &[u64], rounds: usize) -> (Vec<u64>, u64) {
        let mut shares: Vec<Share> = costs.iter().map(|_| Share::new()).collect();
        let mut used = vec![0; costs.len()];
        let (mut now, mut last, mut longest) = (0u64, 0u64, 0u64);
        for _ in 0..rounds {
            for (who, (share, cost)) in shares.iter_mut().zip(costs).enumerate() {
                share.refill();
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
        (used, longest)
    }

    #[test]
    fn a_victim_keeps_its_share_beside_a_hog_and_waits_for_a_quantum_only() {
        // 64 B frames beside 64 KiB ones; and beside frames that go to hundreds of ports.
        for hog in [6_000, 300_000] {
            let (used, longest) = serve(&[150, hog], 20_000);
            let share = used[0] as f64 / (used[0] + used[1]) as f64;
            assert!(share >= 0.45, "90 % of one half: {share}, beside {hog} ns");
            assert!(longest <= (32 * hog).max(QUANTUM_NS as u64 + hog), "{longest} ns");
        }
        let (_, longest) = serve(&[150, 6_000], 20_000);
        let (_, after_start) = serve(&[150, 500], 20_000);
        assert!(longest <= 32 * 6_000 && after_start <= 2 * QUANTUM_NS as u64, "{longest} {after_start}");
    }

    #[test]
    fn sixteen_hogs_leave_a_seventeenth_of_the_time() {
        let mut costs = vec![6_000; 17];
        costs[0] = 150;
        let (used, _) = serve(&costs, 20_000);
        let share = used[0] as f64 / used.iter().sum::<u64>() as f64;
        assert!(share >= 0.9 / 17.0, "{share}");
    }

    #[test]
    fn nobody_saves_up_and_a_lost_cpu_is_soon_forgiven() {
        let mut share = Share::new();
        (0..100).for_each(|_| share.refill());
        assert!(share.credit_ns <= QUANTUM_NS);
        share.spend(32, 50_000_000);
        let rounds = (0..).take_while(|_| {
            share.refill();
            share.frames() == 0
        });
        assert!(rounds.count() <= 50);
    }
}
