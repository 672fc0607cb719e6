//! The engine for disks that need no time: the work is done where it is submitted.

use super::image::{Image, Kind};
use devices::storage::{IoFault, Outcome, Work};
use guestmem::{KeptRuns, Part};

/// Does `work` on a disk of memory.
pub(super) fn carry_out(image: &Image, work: &Work, runs: &KeptRuns, part: Part) -> Outcome {
    match &image.kind {
        Kind::Ram(ram) => ram.carry_out(work, runs, part),
        Kind::Null(null) => null.carry_out(work),
        #[cfg(test)]
        Kind::PowerCut(disk) => disk.carry_out(work, runs, part),
        Kind::File(_) | Kind::Qcow2(_) => Err(IoFault::Unsupported.into()),
    }
}
