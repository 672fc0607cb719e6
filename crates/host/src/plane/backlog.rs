//! Frames that wait for a receive queue.
//!
//! A frame is a *hit* if it goes straight from its sender's buffers into its receiver's: nobody else is in the queue, nothing
//! waits in front of it, and the driver has a buffer. Else it is a *miss*: copied here, and delivered in order by whoever
//! leaves the queue next, or when the driver brings buffers. What does not fit here is dropped and counted.
//!
//! *Nothing is left behind.* Whoever puts frames here then tries to get into the queue; if he cannot, someone is inside. A worker
//! that leaves the queue looks here afterwards: both write, pass a sequentially consistent fence, and then read what the
//! other has written. Who is inside may also be a session or a snapshot, which do not look, so the owner of the queue pair is
//! asked to, once. A queue without buffers leaves frames here too, and then its driver was asked to kick.
//!
//! Order of locks: the receive queue, then its backlog.

use arrayvec::ArrayVec;
use devices::net::{Frame, Offload};
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

/// Most frames that wait for one queue.
pub(super) const FRAMES_MAX: usize = 256;
/// Most bytes that wait for one queue.
pub(super) const BYTES_MAX: usize = 512 << 10;
/// Buffers up to this size are used again, in bytes.
const BUFFER_BYTES: usize = 2048;

/// The frames that wait for one receive queue.
#[derive(Default)]
pub(super) struct Backlog {
    /// Whether a frame waits.
    waits: AtomicBool,
    /// Whether the owner of the queue pair was asked to look and has not yet.
    asked: AtomicBool,
    line: Mutex<Line>,
}

/// Frames in the order in which they came.
#[derive(Default)]
struct Line {
    frames: VecDeque<(Vec<u8>, Offload)>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Backlog {
    /// Whether nothing waits. Certain for who is in the receive queue and has not let anyone else put frames here since; to
    /// others a hint.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.waits.load(std::sync::atomic::Ordering::Relaxed)
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
            if line.frames.len() >= FRAMES_MAX || line.bytes + len > BYTES_MAX {
                break;
            }
            let mut bytes = line.spare.pop().unwrap_or_default();
            bytes.resize(len, 0);
            frame.copy_to(&mut bytes);
            line.frames.push_back((bytes, frame.offload()));
            line.bytes += len;
            count += 1;
        }
        self.waits.store(!line.frames.is_empty(), SeqCst);
        fence(SeqCst);
        count
    }

    /// To be called by who cannot get in. True: the owner of the queue pair is to be woken; else that was done already.
    pub(super) fn ask(&self) -> bool {
        !self.asked.swap(true, SeqCst)
    }

    /// To be called by the owner of the queue pair before it looks.
    pub(super) fn answer(&self) {
        self.asked.store(false, SeqCst);
    }

    /// The line, to take frames out of. For who is in the receive queue.
    pub(super) fn open(&self) -> Opened<'_> {
        Opened { backlog: self, line: self.line.lock() }
    }

    /// Throws everything away, as when the queue stops; returns how many frames.
    pub(super) fn clear(&self) -> usize {
        let mut line = self.line.lock();
        let count = line.frames.len();
        *line = Line::default();
        self.waits.store(false, SeqCst);
        count
    }
}

/// The line while frames are taken out of it.
pub(super) struct Opened<'b> {
    backlog: &'b Backlog,
    line: MutexGuard<'b, Line>,
}

impl Opened<'_> {
    /// The first frames, up to `N`.
    pub(super) fn first<const N: usize>(&self) -> ArrayVec<Frame<'_>, N> {
        self.line.frames.iter().take(N).map(|(bytes, offload)| Frame::private(bytes, *offload)).collect()
    }

    /// Takes the first `count` frames out.
    pub(super) fn advance(&mut self, count: usize) {
        let line = &mut *self.line;
        for (bytes, _) in line.frames.drain(..count.min(line.frames.len())) {
            line.bytes -= bytes.len();
            if bytes.capacity() <= BUFFER_BYTES {
                line.spare.push(bytes);
            }
        }
        self.backlog.waits.store(!line.frames.is_empty(), SeqCst);
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
            let mut line = backlog.open();
            let first = line.first::<32>();
            marks.extend(first.iter().map(|frame| frame.head()[0]));
            let count = first.len();
            drop(first);
            line.advance(count);
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
        backlog.open().advance(1);
        assert_eq!(put(&backlog, 2, 65_000), 1);
    }
}
