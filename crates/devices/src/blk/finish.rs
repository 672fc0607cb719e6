//! A request's way out: from what the disk did to the status, and to the length that the driver is told.

use super::status::Status;
use super::zone::{Reserved, Zones};
use crate::storage::{Outcome, Work};
use guestmem::{KeptRuns, MemSlice, Part};

/// A request that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What to complete the chain with: see [`used_len`].
    pub written: u32,
    /// What the driver was told; `None`: there was no room to tell it anything.
    pub status: Option<Status>,
}

/// The length of a used entry for a request that had `room` bytes in front of its status and wrote the first `data` of them.
///
/// The first so many bytes were written without a gap: that is what a driver may rely on (virtio 1.3 §2.7.8.2). So the status counts
/// only if everything in front of it was written; a failed read reports what came of the data. Drivers look at the status in any case.
pub fn used_len(room: u32, data: u32) -> u32 {
    if data >= room { room.saturating_add(1) } else { data }
}

/// What is written behind the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    /// The status.
    Status,
    /// `append_sector`, which is this one, and the status (virtio 1.3 §5.2.6, `struct virtio_blk_req_za`).
    Append(u64),
}

impl Tail {
    /// Bytes in front of the status.
    pub(super) const fn before_status(self) -> usize {
        match self {
            Self::Status => 0,
            Self::Append(_) => size_of::<u64>(),
        }
    }
}

/// What the end of a work does to the zones of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    None,
    /// It wrote here: if not, the place is given back.
    Wrote(Reserved),
    /// The zones of its extents are empty, if it was done.
    Reset,
}

/// A request that the disk has to do something for. A plain value, with the guest's memory that it lies in.
#[derive(Debug)]
pub struct Request {
    work: Work,
    effect: Effect,
    tail: Tail,
    /// Bytes in front of the status.
    room: u32,
    kept: KeptRuns,
    /// The data as a whole, and what is left of it.
    data: Part,
    left: Part,
    /// Where the tail goes.
    tail_at: Part,
}

impl Request {
    pub(super) fn new(
        work: Work,
        effect: Effect,
        tail: Tail,
        room: u32,
        kept: KeptRuns,
        data: Part,
        tail_at: Part,
    ) -> Self {
        Self { work, effect, tail, room, kept, data, left: data, tail_at }
    }

    /// What the disk has to do.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// The data of a read or a write in guest memory, less what [`Self::advance`] took: for `guestmem::vectored` and for the kernel.
    pub fn data(&self) -> (&KeptRuns, Part) {
        (&self.kept, self.left)
    }

    /// The disk read or wrote the next `len` bytes of the data, and goes on behind them.
    pub fn advance(&mut self, len: usize) {
        self.kept.advance(&mut self.left, len);
    }
}

/// A request that has ended: what its chain is to be completed with.
#[derive(Debug)]
pub struct Finished {
    /// The length of the used entry: see [`used_len`].
    pub written: u32,
    /// What the driver was told.
    pub status: Status,
    kept: KeptRuns,
    /// What may have been written beside the tail.
    data: Part,
    tail_at: Part,
}

impl Finished {
    /// All that may have been written, for `DeviceQueue::complete_written`.
    pub fn touched(&self) -> impl Iterator<Item = MemSlice<'_>> {
        self.kept.slices(self.data).chain(self.kept.slices(self.tail_at))
    }
}

/// Ends a request with what the disk made of its work: writes the status. `zones` are those that it was begun with.
pub fn finish(request: Request, outcome: Outcome, zones: Option<&mut Zones>) -> Finished {
    let Request { work, effect, tail, room, mut kept, data, tail_at, .. } = request;
    kept.restore();
    let status = outcome.map_or_else(|failure| Status::of(failure.fault), |()| Status::Ok);
    let is_done = status == Status::Ok;
    let is_read = matches!(work, Work::Read(_));
    if let Some(zones) = zones {
        match (effect, &work) {
            (Effect::Wrote(place), _) if !is_done => zones.give_back(place),
            (Effect::Reset, Work::Zero { extents, .. } | Work::SecureErase(extents)) if is_done => {
                zones.reset(extents);
            }
            _ => {}
        }
    }
    // What was written from the first byte on; the place of an append's answer is all there is, unless the driver left a gap.
    let written = match (tail, outcome) {
        _ if is_read => outcome.map_or_else(|failure| failure.done.min(room.into()) as u32, |()| room),
        (Tail::Append(sector), Ok(())) => {
            kept.write(tail_at, 0, &sector.to_le_bytes());
            if room as usize == tail.before_status() { room } else { 0 }
        }
        _ => 0,
    };
    kept.write(tail_at, tail.before_status(), &[status as u8]);
    let data = if is_read { data } else { Part::default() };
    Finished { written: used_len(room, written), status, kept, data, tail_at }
}

/// Lists of runs kept from one request to the next, so that none is allocated. One for each queue.
#[derive(Debug, Default)]
pub struct Spare(Vec<KeptRuns>);

impl Spare {
    /// Lists kept at most.
    const MOST: usize = 256;

    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes back what a request used, once its chain is completed; the guest's memory is let go.
    pub fn recycle(&mut self, finished: Finished) {
        let mut kept = finished.kept;
        kept.clear();
        if self.0.len() < Self::MOST {
            self.0.push(kept);
        }
    }

    pub(super) fn take(&mut self) -> KeptRuns {
        self.0.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Extent;
    use guestmem::{GuestAddr, GuestMemory};
    use std::sync::Arc;

    #[test]
    fn a_length_claims_no_byte_that_was_not_written() {
        for (room, data, len) in [(0, 0, 1), (512, 512, 513), (512, 511, 511), (512, 0, 0), (20, 99, 21)] {
            assert_eq!(used_len(room, data), len);
        }
        assert_eq!(used_len(u32::MAX, u32::MAX), u32::MAX);
    }

    /// What a request of 64 buffers is kept in.
    fn request(memory: &Arc<GuestMemory>, spare: &mut Spare) -> Request {
        let segments: Vec<_> = (0..64).map(|index| memory.slice(GuestAddr(index * 8), 8).unwrap()).collect();
        let mut kept = spare.take();
        let data = kept.keep(memory, &segments, 0, 511).unwrap();
        let tail = kept.keep(memory, &segments, 511, 1).unwrap();
        let work = Work::Read(Extent { offset: 0, len: 511 });
        Request::new(work, Effect::None, Tail::Status, 511, kept, data, tail)
    }

    #[test]
    fn a_list_of_runs_is_used_again() {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 4096).unwrap());
        let mut spare = Spare::new();
        let mut place = None;
        for _ in 0..3 {
            let mut request = request(&memory, &mut spare);
            let (kept, data) = request.data();
            let now = kept.iovecs(data).as_ptr().addr();
            assert_eq!(*place.get_or_insert(now), now, "nothing was allocated anew");
            request.advance(100);
            let finished = finish(request, Ok(()), None);
            // What was written before is told as well, for a log.
            assert_eq!(finished.touched().map(|run| run.len()).sum::<usize>(), 512);
            assert_eq!((finished.written, Arc::strong_count(&memory)), (512, 2));
            spare.recycle(finished);
            assert_eq!(Arc::strong_count(&memory), 1, "the guest's memory is let go");
        }
        for _ in 0..2 * Spare::MOST {
            let finished = finish(request(&memory, &mut Spare::new()), Ok(()), None);
            spare.recycle(finished);
        }
        assert_eq!(spare.0.len(), Spare::MOST);
    }
}
