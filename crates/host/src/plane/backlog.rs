//! Frames that wait for a receive queue.
//!
//! A frame is a *hit* if it goes straight from its sender's buffers into its receiver's: nobody else is in the queue, nothing
//! waits in front of it, and the driver has a buffer. Else it is a *miss*: copied here, and delivered in order by whoever
//! leaves the queue next, or when the driver brings buffers. What does not fit here is dropped and counted.
//!
//! *Nothing is left behind.* Whoever puts frames here then tries to get into the queue; if he cannot, someone is inside. A worker
//! that leaves the queue looks here afterwards: both write, pass a sequentially consistent fence, and then read what the
//! other has written. Who is inside may also be a session or a snapshot, which do not look, so the owner of the queue pair is
//! asked to. A queue without buffers leaves frames here too, and then its driver was asked to kick.
//!
//! Order of locks: the receive queue, then its backlog.

use arrayvec::ArrayVec;
use devices::net::{Frame, Offload};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};

/// Most frames that wait for one queue.
pub(super) const FRAMES_MAX: usize = 256;
/// Most bytes that wait for one queue.
pub(super) const BYTES_MAX: usize = 512 << 10;
/// Buffers up to this size are used again, in bytes.
const BUFFER_BYTES: usize = 2048;
/// Most buffers that are kept for use again.
const SPARE_MAX: usize = 64;

/// The frames that wait for one receive queue.
#[derive(Default)]
pub(super) struct Backlog {
    /// Whether a frame waits.
    waits: AtomicBool,
    line: Mutex<Line>,
}

/// Frames in the order in which they came.
#[derive(Default)]
struct Line {
    frames: VecDeque<(Vec<u8>, Offload)>,
    /// Frames and bytes that take up room, those that are being delivered included.
    count: usize,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Backlog {
    /// Whether nothing waits. Certain for who is in the receive queue and has not let anyone else put frames here since; to
    /// others a hint.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.waits.load(Relaxed)
    }

    /// The same, after everything that was written before has become visible to others.
    pub(super) fn is_empty_after_all(&self) -> bool {
        fence(SeqCst);
        self.is_empty()
    }

    /// Copies as many of `frames` as there is room for; returns how many, the first ones.
    #[cold]
    pub(super) fn put(&self, frames: &[Frame<'_>]) -> usize {
        let mut line = self.line.lock();
        let mut count = 0;
        for frame in frames {
            let len = frame.len() as usize;
            if line.count >= FRAMES_MAX || line.bytes + len > BYTES_MAX {
                break;
            }
            let mut bytes = line.spare.pop().unwrap_or_default();
            bytes.resize(len, 0);
            frame.copy_to(&mut bytes);
            line.frames.push_back((bytes, frame.offload()));
            line.bytes += len;
            line.count += 1;
            count += 1;
        }
        self.waits.store(!line.frames.is_empty(), SeqCst);
        fence(SeqCst);
        count
    }

    /// Takes the first frames out, up to `N`, to be delivered or brought back; they keep their room until then. For who is in
    /// the receive queue.
    pub(super) fn take<const N: usize>(&self) -> Taken<'_, N> {
        let mut line = self.line.lock();
        let count = N.min(line.frames.len());
        Taken { backlog: self, frames: line.frames.drain(..count).collect() }
    }

    /// Throws everything away, as when the queue stops; returns how many frames.
    pub(super) fn clear(&self) -> usize {
        let mut line = self.line.lock();
        let count = line.frames.len();
        line.count -= count;
        line.bytes -= line.frames.drain(..).map(|(bytes, _)| bytes.len()).sum::<usize>();
        line.spare = Vec::new();
        self.waits.store(false, SeqCst);
        count
    }
}

/// The first frames of a backlog, in the hands of who delivers them.
pub(super) struct Taken<'b, const N: usize> {
    backlog: &'b Backlog,
    frames: ArrayVec<(Vec<u8>, Offload), N>,
}

impl<const N: usize> Taken<'_, N> {
    /// They, as frames.
    pub(super) fn frames(&self) -> ArrayVec<Frame<'_>, N> {
        self.frames.iter().map(|(bytes, offload)| Frame::private(bytes, *offload)).collect()
    }

    /// Frees the room of the first `done` frames and brings the others back to the front. True: frames wait.
    pub(super) fn finish(mut self, done: usize) -> bool {
        let mut line = self.backlog.line.lock();
        let done = done.min(self.frames.len());
        for (bytes, _) in self.frames.drain(..done) {
            line.bytes -= bytes.len();
            line.count -= 1;
            if bytes.capacity() <= BUFFER_BYTES && line.spare.len() < SPARE_MAX {
                line.spare.push(bytes);
            }
        }
        self.frames.drain(..).rev().for_each(|frame| line.frames.push_front(frame));
        self.backlog.waits.store(!line.frames.is_empty(), SeqCst);
        !line.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(backlog: &Backlog, count: usize, len: usize) -> usize {
        let bytes: Vec<Vec<u8>> = (0..count).map(|mark| vec![mark as u8; len]).collect();
        let frames: Vec<Frame<'_>> = bytes.iter().map(|bytes| Frame::private(bytes, Offload::None)).collect();
        backlog.put(&frames)
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_never_too_many() {
        let backlog = Backlog::default();
        assert!(backlog.is_empty());
        assert_eq!(put(&backlog, 200, 60), 200);
        assert_eq!(put(&backlog, 100, 60), FRAMES_MAX - 200);
        let mut marks = Vec::new();
        while !backlog.is_empty() {
            let taken = backlog.take::<32>();
            // Some are brought back, and come first again.
            marks.extend(taken.frames().iter().take(20).map(|frame| frame.head()[0]));
            taken.finish(20);
        }
        let expected: Vec<u8> = (0..200).chain(0..56).collect();
        assert_eq!(marks, expected);
        assert_eq!(put(&backlog, 1, 60), 1);
        assert_eq!((backlog.clear(), backlog.is_empty_after_all()), (1, true));
    }

    #[test]
    fn its_bytes_are_bounded() {
        let backlog = Backlog::default();
        assert_eq!(put(&backlog, 20, 65_000), BYTES_MAX / 65_000);
        let taken = backlog.take::<2>();
        assert_eq!(put(&backlog, 2, 65_000), 0, "what is being delivered keeps its room");
        assert!(taken.finish(1));
        assert_eq!(put(&backlog, 2, 65_000), 1);
    }
}
