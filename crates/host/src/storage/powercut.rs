//! A disk that loses its power: a model for tests.
//!
//! Every sector has the contents that survive, and those that were written since, in order. A flush makes the newest survive. When the
//! power goes, each sector by itself keeps what it had or any of what was written since: a disk may write its cache back in any order,
//! and stop anywhere.

use devices::storage::{Extent, Failure, IoFault, Outcome, Work};
use guestmem::{KeptRuns, Part};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The unit that is written whole or not at all.
const SECTOR: u64 = 512;

type Sector = [u8; SECTOR as usize];

/// See the module.
#[derive(Debug)]
pub(crate) struct PowerCut(Mutex<State>);

#[derive(Debug)]
struct State {
    stable: Vec<Sector>,
    /// Contents written since the last flush, the oldest first, by sector.
    cached: BTreeMap<u64, Vec<Sector>>,
    /// Whether it is off: everything fails.
    is_off: bool,
    random: u64,
}

impl PowerCut {
    /// A disk of `sectors` sectors of zeros. `seed` decides what survives.
    pub(crate) fn new(sectors: usize, seed: u64) -> Self {
        let stable = vec![[0; SECTOR as usize]; sectors];
        Self(Mutex::new(State { stable, cached: BTreeMap::new(), is_off: false, random: seed }))
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.0.lock().stable.len() as u64 * SECTOR
    }

    /// The power goes.
    pub(crate) fn cut(&self) {
        let mut state = self.0.lock();
        state.is_off = true;
        for (sector, versions) in std::mem::take(&mut state.cached) {
            let choice = state.next_random() as usize % (versions.len() + 1);
            if let Some(version) = choice.checked_sub(1) {
                state.stable[sector as usize] = versions[version];
            }
        }
    }

    /// The power is back.
    pub(crate) fn restore(&self) {
        self.0.lock().is_off = false;
    }

    /// What a sector holds at this moment.
    pub(crate) fn sector(&self, sector: u64) -> Sector {
        self.0.lock().newest(sector)
    }

    /// Does `work` with the first bytes of `part`.
    pub(crate) fn carry_out(&self, work: &Work, runs: &KeptRuns, part: Part) -> Outcome {
        let mut state = self.0.lock();
        if state.is_off {
            return Err(IoFault::Medium.into());
        }
        match work {
            Work::Flush => {
                state.flush(|_| true);
                Ok(())
            }
            Work::Read(extent) => state.each(*extent, |state, sector, at| {
                runs.write(part, at, &state.newest(sector));
            }),
            Work::Write { extent, through } => {
                state.each(*extent, |state, sector, at| {
                    let mut bytes = [0; SECTOR as usize];
                    runs.read(part, at, &mut bytes);
                    state.write(sector, bytes);
                })?;
                state.settle(*extent, *through);
                Ok(())
            }
            Work::Zero { extents, through, .. } => extents.as_slice().iter().try_for_each(|extent| {
                state.each(*extent, |state, sector, _| state.write(sector, [0; SECTOR as usize]))?;
                state.settle(*extent, *through);
                Ok(())
            }),
            Work::Discard(extents) => extents.as_slice().iter().try_for_each(|extent| {
                state.each(*extent, |state, sector, _| {
                    let garbage = state.next_random() as u8;
                    state.write(sector, [garbage; SECTOR as usize]);
                })
            }),
            Work::SecureErase(_) => Err(IoFault::Unsupported.into()),
        }
    }
}

impl State {
    fn newest(&self, sector: u64) -> Sector {
        let cached = self.cached.get(&sector).and_then(|versions| versions.last());
        cached.copied().unwrap_or_else(|| self.stable[sector as usize])
    }

    fn write(&mut self, sector: u64, bytes: Sector) {
        self.cached.entry(sector).or_default().push(bytes);
    }

    /// Calls `act` with every sector of `extent`, and with where its bytes are in the data.
    fn each(&mut self, extent: Extent, mut act: impl FnMut(&mut Self, u64, usize)) -> Outcome {
        if !extent.is_within(self.stable.len() as u64 * SECTOR) {
            return Err(IoFault::OutOfRange.into());
        }
        let is_whole = extent.offset.is_multiple_of(SECTOR) && extent.len.is_multiple_of(SECTOR);
        let sectors = extent.len / SECTOR;
        (0..sectors).for_each(|index| act(self, extent.offset / SECTOR + index, (index * SECTOR) as usize));
        if is_whole { Ok(()) } else { Err(Failure { fault: IoFault::Medium, done: sectors * SECTOR }) }
    }

    fn settle(&mut self, extent: Extent, through: bool) {
        if through {
            self.flush(|sector| (extent.offset..extent.end()).contains(&(sector * SECTOR)));
        }
    }

    fn flush(&mut self, which: impl Fn(u64) -> bool) {
        let stable = &mut self.stable;
        self.cached.retain(|sector, versions| {
            let stays = !which(*sector);
            if let Some(newest) = versions.last().filter(|_| !stays) {
                stable[*sector as usize] = *newest;
            }
            stays
        });
    }

    /// Numbers that look random (xorshift64*).
    fn next_random(&mut self) -> u64 {
        self.random |= 1;
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
