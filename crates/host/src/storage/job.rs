//! One piece of work on a file, step by step: which operation comes next, and what its result means.
//!
//! Whoever owns the job carries the operations out one after the other, by io_uring or by a thread that may block:
//!
//! ```text
//! next -> Io(op) -> result -> next -> ... -> Done(outcome)
//! ```
//!
//! Data goes straight between the file and the guest's memory if both are aligned as the file asks for. Otherwise it goes through a
//! bounce buffer, [`CHUNK`] bytes at a time, and a block that is written in part is read first ([`super::ranges`]).

use super::bell::Bell;
use super::buffers::{Buffers, CHUNK, Data, Op};
use super::fault_of;
use super::ranges::Hold;
use super::raw::RawFile;
use devices::storage::{Extent, Failure, IoFault, Outcome, Work};
use guestmem::{KeptRuns, Part};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How often in a row an operation may ask to be tried again.
const TRIES_MAX: u8 = 100;

/// What comes next.
pub(super) enum Step {
    /// This operation, with the job's buffers; its result goes to [`Job::result`].
    Io(Op),
    /// Others write there at the moment: ask again when the bell has rung.
    Wait,
    /// Nothing: this is what became of it.
    Done(Outcome),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Job {
    /// What the next operation uses.
    pub(super) buffers: Buffers,
    work: Work,
    stage: Stage,
    /// Which extent of the work is worked on, and what of it is left.
    extent: usize,
    left: Extent,
    /// Bytes of the data part that were read or written.
    done: u64,
    /// The guest's memory cannot be used as it is.
    bounced: bool,
    aborted: bool,
    tries: u8,
    hold: Option<Hold>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing was done.
    Begin,
    /// To choose how to do what is left.
    Choose,
    /// Between file and guest memory.
    Direct,
    /// Into the bounce buffer.
    Fill(Piece),
    /// Out of the bounce buffer.
    Spill(Piece),
    Allocate {
        hole: bool,
    },
    Sync,
    End(Outcome),
}

/// Bytes that go through the bounce buffer together.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Whole blocks of the file, as many bytes as the buffer has.
    blocks: Extent,
    /// Bytes of the blocks before those that are asked for.
    skip: usize,
    /// Bytes that are asked for.
    len: usize,
    /// Bytes of the blocks that were read or written.
    got: usize,
}

impl Default for Job {
    fn default() -> Self {
        Self::new(Work::Flush, Buffers::default())
    }
}

impl Job {
    fn new(work: Work, buffers: Buffers) -> Self {
        Self {
            buffers,
            work,
            stage: Stage::Begin,
            extent: 0,
            left: Extent::default(),
            done: 0,
            bounced: false,
            aborted: false,
            tries: 0,
            hold: None,
        }
    }

    /// Another job in the place of this one: `work`, with the first `len` bytes of `part`.
    pub(super) fn begin(&mut self, work: Work, runs: &KeptRuns, part: Part, len: usize) {
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.part = buffers.runs.copy_from(runs, part, len);
        *self = Self::new(work, buffers);
    }

    /// Lets go of all that the job used.
    pub(super) fn end(&mut self) {
        self.buffers.runs.clear();
        self.buffers.bounce.clear();
        self.hold = None;
    }

    /// The work.
    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    /// No further operation is wanted.
    pub(super) fn abort(&mut self) {
        self.aborted = true;
    }

    /// What comes next. `bell`: to ring if it is [`Step::Wait`].
    pub(super) fn next(&mut self, file: &RawFile, bell: &Arc<Bell>) -> Step {
        if matches!(self.stage, Stage::Begin) {
            self.stage = match self.check(file) {
                Err(fault) => Stage::End(Err(fault.into())),
                Ok(()) if !self.may_write(file, bell) => return self.unless_aborted(Step::Wait),
                Ok(()) if self.work == Work::Flush => Stage::Sync,
                Ok(()) => {
                    self.left = self.extents().first().copied().unwrap_or_default();
                    Stage::Choose
                }
            };
        }
        if matches!(self.stage, Stage::Choose) {
            self.choose(file);
        }
        let op = match self.stage {
            Stage::Direct => self.transfer(Data::Guest, self.left.offset, matches!(self.work, Work::Read(_))),
            Stage::Fill(piece) => self.transfer_of(piece, true),
            Stage::Spill(piece) => self.transfer_of(piece, false),
            Stage::Allocate { hole } => Op::Allocate { offset: self.left.offset, len: self.left.len, hole },
            Stage::Sync => Op::Sync,
            Stage::End(outcome) => return Step::Done(outcome),
            Stage::Begin | Stage::Choose => unreachable!("both were left above"),
        };
        self.unless_aborted(Step::Io(op))
    }

    fn unless_aborted(&self, step: Step) -> Step {
        if self.aborted { Step::Done(Err(self.failure(IoFault::Aborted))) } else { step }
    }

    fn failure(&self, fault: IoFault) -> Failure {
        Failure { fault, done: self.done }
    }

    fn fail(&mut self, fault: IoFault) {
        self.stage = Stage::End(Err(self.failure(fault)));
    }

    fn extents(&self) -> &[Extent] {
        match &self.work {
            Work::Read(extent) | Work::Write { extent, .. } => std::slice::from_ref(extent),
            Work::Discard(extents) | Work::Zero { extents, .. } | Work::SecureErase(extents) => {
                extents.as_slice()
            }
            Work::Flush => &[],
        }
    }

    fn check(&self, file: &RawFile) -> Result<(), IoFault> {
        let capacity = file.capacity();
        match self.work {
            Work::SecureErase(_) => return Err(IoFault::Unsupported),
            Work::Flush if file.lost.load(Ordering::Relaxed) => return Err(IoFault::Medium),
            Work::Read(_) | Work::Flush => {}
            _ if file.read_only => return Err(IoFault::ReadOnly),
            _ => {}
        }
        if !self.extents().iter().all(|extent| extent.is_within(capacity)) {
            return Err(IoFault::OutOfRange);
        }
        Ok(())
    }

    /// Whether nobody is in the way of writing; takes the right to.
    fn may_write(&mut self, file: &RawFile, bell: &Arc<Bell>) -> bool {
        let writes = !matches!(self.work, Work::Read(_) | Work::Flush);
        let Some(ranges) = file.ranges.as_ref().filter(|_| writes) else { return true };
        let block = u64::from(file.block);
        let is_whole =
            |extent: &Extent| extent.offset.is_multiple_of(block) && extent.len.is_multiple_of(block);
        let alone = !matches!(self.work, Work::Discard(_)) && !self.extents().iter().all(is_whole);
        let (mut first, mut end) = (u64::MAX, 0);
        for extent in self.extents() {
            first = first.min(extent.offset / block * block);
            end = end.max(extent.end().next_multiple_of(block));
        }
        self.hold = ranges.hold(Extent { offset: first, len: end.saturating_sub(first) }, alone, bell);
        self.hold.is_some()
    }

    /// From [`Stage::Choose`] to the stage of the next operation, or to the end.
    fn choose(&mut self, file: &RawFile) {
        loop {
            if self.left.len == 0 {
                self.extent += 1;
                match self.extents().get(self.extent) {
                    Some(extent) => self.left = *extent,
                    None => return self.all_done(),
                }
            }
            match self.work {
                Work::Read(_) | Work::Write { .. } => {
                    let Buffers { runs, part, .. } = &self.buffers;
                    self.bounced |= !file.takes(self.left, runs, *part);
                    self.stage = if self.bounced { self.piece(file) } else { Stage::Direct };
                    return;
                }
                Work::Zero { unmap, .. } => {
                    let hole = unmap && file.holes.load(Ordering::Relaxed);
                    let can = hole || file.zeros.load(Ordering::Relaxed);
                    let fits = file.allocates(self.left) == self.left;
                    self.stage = if can && fits { Stage::Allocate { hole } } else { self.piece(file) };
                    return;
                }
                _ => {
                    // A hint: what cannot be given up stays.
                    self.left = file.allocates(self.left);
                    if self.left.len > 0 && file.holes.load(Ordering::Relaxed) {
                        self.stage = Stage::Allocate { hole: true };
                        return;
                    }
                    self.left.len = 0;
                }
            }
        }
    }

    fn all_done(&mut self) {
        let must_sync = matches!(self.work, Work::Zero { through: true, .. }) && !self.extents().is_empty();
        self.stage = if must_sync { Stage::Sync } else { Stage::End(Ok(())) };
    }

    /// The next bytes through the bounce buffer, which is made to fit.
    fn piece(&mut self, file: &RawFile) -> Stage {
        let block = u64::from(file.block);
        let first = self.left.offset / block * block;
        let skip = self.left.offset - first;
        let is_read = matches!(self.work, Work::Read(_));
        let whole = self.left.len / block * block;
        let len = if is_read {
            self.left.len.min(CHUNK as u64 - skip)
        } else if skip > 0 || whole == 0 {
            self.left.len.min(block - skip)
        } else {
            whole.min(CHUNK as u64)
        };
        let blocks = Extent { offset: first, len: (skip + len).next_multiple_of(block) };
        self.buffers.bounce.fit(blocks.len as usize, file.memory_align as usize);
        let piece = Piece { blocks, skip: skip as usize, len: len as usize, got: 0 };
        if is_read || blocks.len > len {
            return Stage::Fill(piece);
        }
        self.put_in(piece);
        Stage::Spill(piece)
    }

    /// Puts the request's bytes into the bounce buffer.
    fn put_in(&mut self, piece: Piece) {
        let Buffers { runs, part, bounce } = &mut self.buffers;
        let bytes = &mut bounce.bytes_mut()[piece.skip..piece.skip + piece.len];
        if matches!(self.work, Work::Zero { .. }) {
            bytes.fill(0);
        } else {
            runs.read(*part, 0, bytes);
        }
    }

    fn transfer(&self, data: Data, offset: u64, is_read: bool) -> Op {
        let through = matches!(self.work, Work::Write { through: true, .. });
        if is_read { Op::Read { offset, data } } else { Op::Write { offset, data, through } }
    }

    fn transfer_of(&self, piece: Piece, is_read: bool) -> Op {
        let data = Data::Bounce { first: piece.got, len: piece.blocks.len as usize - piece.got };
        self.transfer(data, piece.blocks.offset + piece.got as u64, is_read)
    }

    /// So many bytes of the request are done.
    fn advance(&mut self, len: u64) {
        let Buffers { runs, part, .. } = &mut self.buffers;
        if !matches!(self.work, Work::Zero { .. }) {
            runs.advance(part, len as usize);
            self.done += len;
        }
        self.left = Extent { offset: self.left.offset + len, len: self.left.len - len };
        self.stage = Stage::Choose;
    }

    /// The operation that [`Self::next`] named last has ended.
    pub(super) fn result(&mut self, file: &RawFile, result: io::Result<usize>) {
        match result {
            Ok(len) => {
                self.tries = 0;
                self.succeeded(file, len);
            }
            Err(error) => self.failed(file, &error),
        }
    }

    fn succeeded(&mut self, file: &RawFile, len: usize) {
        match self.stage {
            Stage::Direct => {
                let len = (len as u64).min(self.left.len);
                // Less than a block of direct I/O is where the file ends.
                let whole = if len == self.left.len { len } else { len - len % u64::from(file.block) };
                if whole == 0 { self.ended_early(file) } else { self.advance(whole) }
            }
            Stage::Fill(mut piece) => {
                piece.got += len.min(piece.blocks.len as usize - piece.got);
                let is_read = matches!(self.work, Work::Read(_));
                let wanted = if is_read { piece.skip + piece.len } else { piece.blocks.len as usize };
                let partial = piece.got % file.block as usize != 0;
                if piece.got < wanted && (len == 0 || partial) {
                    return self.ended_early(file);
                }
                if piece.got < wanted {
                    self.stage = Stage::Fill(piece);
                } else if is_read {
                    let Buffers { runs, part, bounce } = &self.buffers;
                    runs.write(*part, 0, &bounce.bytes()[piece.skip..piece.skip + piece.len]);
                    self.advance(piece.len as u64);
                } else {
                    self.put_in(piece);
                    self.stage = Stage::Spill(Piece { got: 0, ..piece });
                }
            }
            Stage::Spill(mut piece) => {
                let whole = len - len % file.block as usize;
                piece.got += whole.min(piece.blocks.len as usize - piece.got);
                if whole == 0 {
                    self.ended_early(file);
                } else if piece.got < piece.blocks.len as usize {
                    self.stage = Stage::Spill(piece);
                } else {
                    self.advance(piece.len as u64);
                }
            }
            Stage::Allocate { .. } => {
                self.left.len = 0;
                self.stage = Stage::Choose;
            }
            Stage::Sync => self.stage = Stage::End(Ok(())),
            Stage::Begin | Stage::Choose | Stage::End(_) => {}
        }
    }

    /// Nothing came where there should be something.
    fn ended_early(&mut self, file: &RawFile) {
        let is_outside = file.size().is_ok_and(|size| self.left.end() > size);
        self.fail(if is_outside { IoFault::OutOfRange } else { IoFault::Medium });
    }

    fn failed(&mut self, file: &RawFile, error: &io::Error) {
        let again = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
        if again && self.tries < TRIES_MAX {
            self.tries += 1;
            return;
        }
        let number = error.raw_os_error();
        let is_missing =
            matches!(number, Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV));
        match self.stage {
            Stage::Allocate { hole } if is_missing || (number == Some(libc::EINVAL)) => {
                let what = if hole { &file.holes } else { &file.zeros };
                what.store(false, Ordering::Relaxed);
                self.stage = Stage::Choose;
            }
            // The file asks for more than it said.
            Stage::Direct if number == Some(libc::EINVAL) && file.block > 1 && !self.bounced => {
                self.bounced = true;
                self.stage = Stage::Choose;
            }
            Stage::Sync => {
                if !matches!(number, Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN)) {
                    // The kernel tells of lost writes once, and has forgotten them then.
                    file.lost.store(true, Ordering::Relaxed);
                }
                self.fail(fault_of(error));
            }
            _ => self.fail(fault_of(error)),
        }
    }
}
