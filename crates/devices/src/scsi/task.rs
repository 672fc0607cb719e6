//! A command that needs the disk: which work, in which order, on whose bytes, and what the initiator is told of it.
//!
//! A [`Task`] is a short list of stages. [`Task::start`] names the first [`Step`]; the host does it and hands the outcome to
//! [`Task::resume`], until the step is [`Step::Done`]. READ and WRITE are one step between the disk and the buffers of the
//! request; what has to look at bytes of the medium (VERIFY, COMPARE AND WRITE) or to repeat some (WRITE SAME) goes through a
//! private buffer of the host, piece by piece.

use super::data::DataOut;
use super::reply::Reply;
use super::sense::{Asc, Sense, SenseKey};
use crate::storage::{Extent, Failure, IoFault, Outcome, Work};

/// Bytes of the private buffer that a task may need; a whole number of logical blocks of every size accepted.
pub const SCRATCH_LEN: usize = 64 << 10;

/// Descriptors of one GET LBA STATUS answer at most.
const STATUS_DESCRIPTORS_MAX: usize = 256;
/// Bytes of the header of a GET LBA STATUS answer.
const STATUS_HEADER_LEN: usize = 8;

/// Where the bytes of a [`Step::Work`] are. Reads go there, writes come from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// There are none.
    Nothing,
    /// The request's data-in buffer, from its first byte.
    In,
    /// The request's data-out buffer, from this byte on.
    Out {
        /// Bytes before them.
        offset: u64,
    },
    /// The host's private buffer, from its first byte.
    Scratch,
}

/// What the host is to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Work for the disk; then [`Task::resume`].
    Work {
        /// What.
        work: Work,
        /// On which bytes.
        data: Data,
    },
    /// Say how the bytes from the beginning of the extent on are provisioned; then [`Task::resume_provisioning`].
    Provisioning(Extent),
    /// Nothing: this is the answer.
    Done(Reply),
}

/// What memory a task works on while it is being driven.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// The request's data-out buffer.
    pub data_out: DataOut<'a>,
    /// The private buffer: [`Task::scratch_len`] bytes at least, the same at each call.
    pub scratch: &'a mut [u8],
    /// Bytes of an answer that is made here, as begun by the command.
    pub answer: &'a mut Vec<u8>,
}

/// How a run of bytes is provisioned, as the host found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Provisioning {
    /// Bytes that are alike, from the beginning of the extent asked for.
    pub len: u64,
    /// They have a place on the disk, or it is not known.
    pub is_mapped: bool,
}

/// What bytes of the medium are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Against {
    /// Nothing: they need only be readable.
    Nothing,
    /// The data-out buffer.
    Data,
    /// The one block in the data-out buffer.
    OneBlock,
}

/// One stage of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Read,
    Write {
        from: u64,
        through: bool,
    },
    Compare(Against),
    /// Writes the one block in the data-out buffer all over the extent; zeros without one.
    Fill {
        zeros: bool,
        through: bool,
    },
    /// Zeroes the extent, so many bytes at a time.
    Zero {
        unmap: bool,
        through: bool,
        len_max: u64,
    },
    /// Work without data. Taken out when it is begun.
    Once(Option<Work>),
    Provisioning,
}

impl Stage {
    fn writes(&self) -> bool {
        !matches!(self, Self::Read | Self::Compare(_) | Self::Provisioning)
    }
}

/// A command that waits for the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    pub(super) stages: [Option<Stage>; 2],
    /// Index of the stage in hand.
    at: usize,
    /// Bytes of the extent that the stage is done with.
    progress: u64,
    /// Bytes that the step in hand is about.
    piece: u64,
    pub(super) extent: Extent,
    /// Logical block, in bytes.
    pub(super) block: u32,
    /// Nobody else may touch the extent meanwhile.
    pub(super) is_exclusive: bool,
    /// All of it is written or nothing.
    pub(super) is_atomic: bool,
    /// What the reply says when everything went well.
    pub(super) good: Reply,
    /// Descriptors that an answer to GET LBA STATUS has room for.
    pub(super) descriptors: usize,
}

impl Task {
    pub(super) fn new(extent: Extent, block: u32, good: Reply, stages: [Option<Stage>; 2]) -> Self {
        Self {
            stages,
            at: 0,
            progress: 0,
            piece: 0,
            extent,
            block,
            is_exclusive: false,
            is_atomic: false,
            good,
            descriptors: 0,
        }
    }

    /// Bytes of private memory that the task needs: zero or [`SCRATCH_LEN`].
    pub fn scratch_len(&self) -> usize {
        let needs = |stage: &Option<Stage>| matches!(stage, Some(Stage::Compare(_) | Stage::Fill { .. }));
        if self.stages.iter().any(needs) { SCRATCH_LEN } else { 0 }
    }

    /// The bytes of the disk that the task reads or writes.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Whether no other task may read or write the extent while this one goes on: COMPARE AND WRITE (SBC-3 §5.2), WRITE ATOMIC
    /// (SBC-4 §4.28).
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// Whether its write has to be on the disk as a whole or not at all, also after a loss of power (WRITE ATOMIC).
    pub fn is_atomic(&self) -> bool {
        self.is_atomic
    }

    /// The first step.
    pub fn start(&mut self, buffers: &mut Buffers<'_>) -> Step {
        self.next(buffers)
    }

    /// The next step, after the work of the last one came out as `outcome`.
    pub fn resume(&mut self, outcome: Outcome, buffers: &mut Buffers<'_>) -> Step {
        if let Err(failure) = outcome {
            return Step::Done(self.failed(failure));
        }
        if let Some(Stage::Compare(against)) = self.stage()
            && let Some(differs) = self.compare(*against, buffers)
        {
            let sense = Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).at(differs);
            return Step::Done(self.good.refused(sense));
        }
        self.progress += self.piece;
        self.next(buffers)
    }

    /// The next step, after the host found out how the bytes asked for are provisioned. A length that is no whole number of
    /// blocks is cut; a length of nothing is taken for everything.
    pub fn resume_provisioning(
        &mut self,
        found: Result<Provisioning, Failure>,
        buffers: &mut Buffers<'_>,
    ) -> Step {
        let found = match found {
            Ok(found) => found,
            Err(failure) => return Step::Done(self.failed(failure)),
        };
        let block = u64::from(self.block);
        let left = self.extent.len - self.progress;
        // A descriptor counts blocks in 32 bits.
        let most = left.min(u64::from(u32::MAX) * block);
        let len = match found.len / block * block {
            0 => most,
            len => len.min(most),
        };
        let first = (self.extent.offset + self.progress) / block;
        buffers.answer.extend_from_slice(&first.to_be_bytes());
        buffers.answer.extend_from_slice(&((len / block) as u32).to_be_bytes());
        buffers.answer.extend_from_slice(&[u8::from(!found.is_mapped), 0, 0, 0]);
        self.progress += len;
        self.next(buffers)
    }

    fn stage(&self) -> Option<&Stage> {
        self.stages.get(self.at)?.as_ref()
    }

    fn next(&mut self, buffers: &mut Buffers<'_>) -> Step {
        while self.at < self.stages.len() {
            if let Some(step) = self.next_in_stage(buffers) {
                return step;
            }
            self.at += 1;
            self.progress = 0;
        }
        Step::Done(self.good)
    }

    /// The next step of the stage in hand; `None` when it is over.
    fn next_in_stage(&mut self, buffers: &mut Buffers<'_>) -> Option<Step> {
        let left = self.extent.len - self.progress;
        let rest = Extent { offset: self.extent.offset + self.progress, len: left };
        let block = u64::from(self.block);
        let in_pieces = |most: u64| Extent { len: left.min(most), ..rest };
        let stage = self.stages[self.at].as_mut()?;
        let (work, data, piece) = match stage {
            Stage::Once(work) => (work.take()?, Data::Nothing, 0),
            _ if left == 0 => {
                if let Stage::Provisioning = stage {
                    self.end_provisioning(buffers);
                }
                return None;
            }
            Stage::Read => (Work::Read(rest), Data::In, left),
            Stage::Write { from, through } => {
                (Work::Write { extent: rest, through: *through }, Data::Out { offset: *from }, left)
            }
            Stage::Compare(_) => {
                let piece = in_pieces(scratch_piece(buffers.scratch, block));
                (Work::Read(piece), Data::Scratch, piece.len)
            }
            Stage::Fill { zeros, through } => {
                let piece = in_pieces(scratch_piece(buffers.scratch, block));
                if self.progress == 0 {
                    fill(buffers, *zeros, block as usize, piece.len as usize);
                }
                (Work::Write { extent: piece, through: *through }, Data::Scratch, piece.len)
            }
            Stage::Zero { unmap, through, len_max } => {
                let piece = in_pieces((*len_max / block * block).max(block));
                let work = Work::Zero { extents: piece.into(), unmap: *unmap, through: *through };
                (work, Data::Nothing, piece.len)
            }
            Stage::Provisioning => {
                let described = (buffers.answer.len() - STATUS_HEADER_LEN) / 16;
                if described < self.descriptors.min(STATUS_DESCRIPTORS_MAX) {
                    return Some(Step::Provisioning(rest));
                }
                self.end_provisioning(buffers);
                return None;
            }
        };
        self.piece = piece;
        Some(Step::Work { work, data })
    }

    /// Writes the length in front of the descriptors, and counts what the initiator gets.
    fn end_provisioning(&mut self, buffers: &mut Buffers<'_>) {
        let len = buffers.answer.len() as u32 - 4;
        if let Some(header) = buffers.answer.first_chunk_mut::<4>() {
            *header = len.to_be_bytes();
        }
        buffers.answer.truncate(usize::try_from(self.good.data_in).unwrap_or(usize::MAX));
        self.good.data_in = buffers.answer.len() as u64;
    }

    /// The first byte, counted in the extent, in which the piece in hand differs.
    fn compare(&self, against: Against, buffers: &Buffers<'_>) -> Option<u64> {
        let mut theirs = [0; 4096];
        let (piece, block) = (self.piece as usize, self.block as usize);
        let mut at = 0;
        while at < piece && against != Against::Nothing {
            let (from, room) = match against {
                Against::OneBlock => (at % block, block - at % block),
                _ => (self.progress as usize + at, piece - at),
            };
            let len = room.min(theirs.len());
            let theirs = &mut theirs[..len];
            buffers.data_out.read(from as u64, theirs);
            let ours = &buffers.scratch[at..at + len];
            if let Some(place) = ours.iter().zip(theirs.iter()).position(|(ours, theirs)| ours != theirs) {
                return Some(self.progress + (at + place) as u64);
            }
            at += len;
        }
        None
    }

    /// What the initiator is told of work that failed.
    fn failed(&self, failure: Failure) -> Reply {
        let writes = self.stage().is_some_and(Stage::writes);
        let done = failure.done.min(self.piece);
        let first = (self.extent.offset + self.progress + done) / u64::from(self.block.max(1));
        let is_somewhere = !matches!(self.stage(), Some(Stage::Once(_)) | None);
        let place = |sense: Sense| if is_somewhere { sense.at(first) } else { sense };
        let sense = match failure.fault {
            IoFault::Medium if writes => place(Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR)),
            IoFault::Medium => place(Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR)),
            IoFault::NoSpace => place(Sense::new(SenseKey::DataProtect, Asc::SPACE_ALLOCATION_FAILED)),
            IoFault::ReadOnly => Sense::new(SenseKey::DataProtect, Asc::WRITE_PROTECTED),
            IoFault::OutOfRange => place(Sense::illegal(Asc::LBA_OUT_OF_RANGE)),
            IoFault::Unsupported => Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE),
            IoFault::Aborted => Sense::new(SenseKey::AbortedCommand, Asc::NONE),
        };
        let refused = self.good.refused(sense);
        match self.stage() {
            Some(Stage::Read) => Reply { data_in: done, ..refused },
            Some(Stage::Write { from: 0, .. }) => Reply { data_out: done, ..refused },
            _ => refused,
        }
    }
}

/// Bytes that fit into the private buffer in whole blocks.
fn scratch_piece(scratch: &[u8], block: u64) -> u64 {
    assert!(scratch.len() >= SCRATCH_LEN, "the task's private buffer is shorter than it asked for");
    SCRATCH_LEN as u64 / block * block
}

/// Puts the block in the data-out buffer, or zeros, into the first `len` bytes of the private buffer.
fn fill(buffers: &mut Buffers<'_>, zeros: bool, block: usize, len: usize) {
    let piece = &mut buffers.scratch[..len];
    if zeros {
        return piece.fill(0);
    }
    let (first, rest) = piece.split_at_mut(block.min(len));
    buffers.data_out.read(0, first);
    rest.chunks_mut(block).for_each(|place| place.copy_from_slice(&first[..place.len()]));
}
