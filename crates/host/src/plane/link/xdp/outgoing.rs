//! The sending half of an AF_XDP socket: frames of our own, the transmit ring and the completion ring.
//!
//! A frame is copied into our own frames ([`Outgoing::put`]), or its head alone is and the rest stays where it lies
//! ([`Outgoing::lend`]). The kernel answers every entry of the transmit ring with one of the completion ring, and those of one frame
//! together, in their order (`xsk_cq_submit_addr_locked`; drivers without a copy go through their ring in order). So the
//! entries that follow a lent frame's head are its own. Should they ever not, the frame stays with the kernel until the socket
//! goes: a buffer is never given back too early.

use crate::sys::xdp::memory::SendFrames;
use crate::sys::xdp::ring::{CONTINUED, Consumer, Desc, Producer};
use devices::net::{FRAME_LEN_MAX, Frame};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

/// Pieces of one frame at most: the kernel's own bound (`MAX_SKB_FRAGS` + 1).
pub(super) const PIECES_MAX: usize = 18;

/// System calls in a row that move nothing before sending is left to the next one.
const STALLS_MAX: u32 = 4;

/// A run of bytes in the UMEM: where, and how many.
pub(super) type Piece = (u64, u32);

/// What the kernel has of one of our frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flying {
    Nothing,
    /// A whole frame or a piece of one.
    Copied,
    /// The head of a lent frame, and so many pieces behind it.
    Lent(u16),
}

/// The sending half.
pub(super) struct Outgoing {
    transmit: Producer<Desc>,
    completion: Consumer<u64>,
    frames: SendFrames,
    /// Frames that hold nothing.
    free: Vec<u32>,
    flying: Box<[Flying]>,
    /// Where a frame of several pieces is gathered; empty where there are none.
    whole: Box<[u8]>,
    /// Entries that the kernel has not answered, and how many it can have: those of the completion ring.
    entries: u32,
    entries_max: u32,
    /// A lent frame whose head has come back, and how many pieces of it have not.
    returning: Option<(u32, u16)>,
    /// Lent frames that have come back as a whole, until [`Self::take_returned`].
    returned: VecDeque<u32>,
}

impl Outgoing {
    /// `entries_max` is the size of the completion ring; `pieces`: frames may be longer than one of ours.
    pub(super) fn new(
        transmit: Producer<Desc>,
        completion: Consumer<u64>,
        frames: SendFrames,
        entries_max: u32,
        pieces: bool,
    ) -> Self {
        let count = frames.count();
        Self {
            transmit,
            completion,
            free: (0..count).rev().collect(),
            flying: vec![Flying::Nothing; count as usize].into(),
            frames,
            whole: vec![0; if pieces { FRAME_LEN_MAX as usize } else { 0 }].into(),
            entries: 0,
            entries_max,
            returning: None,
            returned: VecDeque::with_capacity(count as usize),
        }
    }

    /// Copies a frame into free ones and puts them into the ring, unless there are too few.
    pub(super) fn put(&mut self, frame: &Frame<'_>) -> bool {
        let len = frame.len() as usize;
        if len > self.frames.frame_len() {
            return self.put_pieces(frame);
        }
        let Some(&index) = self.free.last() else { return false };
        let Some(bytes) = self.frames.bytes_mut(index) else { return false };
        let len = frame.copy_to(bytes);
        self.push_own(len, 0, Flying::Copied)
    }

    #[cold]
    fn put_pieces(&mut self, frame: &Frame<'_>) -> bool {
        let piece_len = self.frames.frame_len();
        let len = frame.len() as usize;
        let count = len.div_ceil(piece_len);
        if len > self.whole.len()
            || count > PIECES_MAX
            || count > self.free.len()
            || !self.has_room(count as u32)
        {
            return false;
        }
        let mut whole = std::mem::take(&mut self.whole);
        let len = frame.copy_to(&mut whole);
        let mut pieces = whole[..len].chunks(piece_len).peekable();
        let mut taken = true;
        while let (true, Some(piece)) = (taken, pieces.next()) {
            let bytes = self.free.last().and_then(|&index| self.frames.bytes_mut(index));
            taken = bytes.and_then(|bytes| bytes.get_mut(..piece.len())).is_some_and(|bytes| {
                bytes.copy_from_slice(piece);
                true
            });
            let options = if pieces.peek().is_some() { CONTINUED } else { 0 };
            taken = taken && self.push_own(piece.len(), options, Flying::Copied);
        }
        self.whole = whole;
        taken
    }

    /// Puts a frame into the ring whose head is copied, with its checksum done, and whose other bytes are `pieces`, at least one.
    /// Its number, under which [`Self::take_returned`] names it; `None` where there is no room or the head cannot be finished.
    pub(super) fn lend(&mut self, frame: &Frame<'_>, pieces: &[Piece]) -> Option<u32> {
        let (last, before) = pieces.split_last()?;
        let &index = self.free.last()?;
        if !self.has_room(1 + pieces.len() as u32) {
            return None;
        }
        let head_len = frame.write_head(self.frames.bytes_mut(index)?)?;
        if !self.push_own(head_len, CONTINUED, Flying::Lent(pieces.len() as u16)) {
            return None;
        }
        for &(addr, len) in before {
            self.push(Desc { addr, len, options: CONTINUED });
        }
        self.push(Desc { addr: last.0, len: last.1, options: 0 });
        Some(index)
    }

    /// Puts the last free frame, with `len` bytes in it, into the ring.
    fn push_own(&mut self, len: usize, options: u32, flying: Flying) -> bool {
        let Some(&index) = self.free.last() else { return false };
        if !self.has_room(1) || !self.push(Desc { addr: self.frames.addr(index), len: len as u32, options }) {
            return false;
        }
        self.free.pop();
        if let Some(place) = self.flying.get_mut(index as usize) {
            *place = flying;
        }
        true
    }

    fn push(&mut self, desc: Desc) -> bool {
        let pushed = self.transmit.push(desc);
        self.entries += u32::from(pushed);
        pushed
    }

    /// Whether `count` entries fit both rings.
    fn has_room(&mut self, count: u32) -> bool {
        self.entries + count <= self.entries_max && self.transmit.room() >= count
    }

    /// Shows the kernel what was put; whether it wants a system call to see it.
    pub(super) fn publish(&mut self) -> bool {
        self.transmit.publish()
    }

    /// In copy mode frames are sent by our own system calls, a few dozen by each. `Ok(true)`: all went.
    ///
    /// # Errors
    /// The kernel's: the interface is down or gone. What is in the ring goes when it is back up.
    pub(super) fn send_copied(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        let mut stalls = 0;
        let mut left = self.transmit.pending();
        while left != 0 && stalls < STALLS_MAX {
            match rustix::net::send(socket, &[], SendFlags::DONTWAIT) {
                // EAGAIN: more is left than one call sends. ENOBUFS: a frame was thrown away below.
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.reap();
            let now = self.transmit.pending();
            stalls = if now < left { 0 } else { stalls + 1 };
            left = now;
        }
        Ok(left == 0)
    }

    /// Takes back what was sent. A frame that the kernel does not have is not taken from it twice.
    pub(super) fn reap(&mut self) {
        for _ in 0..self.completion.len() {
            let Some(addr) = self.completion.pop() else { break };
            self.entries = self.entries.saturating_sub(1);
            let Some(index) = self.frames.index(addr) else {
                self.piece_returned();
                continue;
            };
            self.returning = None;
            match self.flying.get_mut(index as usize) {
                Some(flying @ Flying::Copied) => {
                    *flying = Flying::Nothing;
                    self.free.push(index);
                }
                Some(Flying::Lent(pieces)) => self.returning = Some((index, *pieces)),
                Some(Flying::Nothing) | None => {}
            }
        }
        self.completion.release();
    }

    /// The kernel has sent a piece that is not ours: one of the frame whose head came before.
    fn piece_returned(&mut self) {
        self.returning = match self.returning {
            Some((index, 1)) => {
                if let Some(flying) = self.flying.get_mut(index as usize) {
                    *flying = Flying::Nothing;
                }
                self.returned.push_back(index);
                None
            }
            Some((index, left)) => Some((index, left - 1)),
            None => None,
        };
    }

    /// A lent frame that the kernel is done with; the number is free for another one.
    pub(super) fn take_returned(&mut self) -> Option<u32> {
        let index = self.returned.pop_front()?;
        self.free.push(index);
        Some(index)
    }
}
