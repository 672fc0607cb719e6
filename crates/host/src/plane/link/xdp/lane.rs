//! A lane: the way of one guest's transmit queue to an AF_XDP uplink, with a socket of its own whose UMEM is the guest's memory.
//!
//! **Theory of operation.** A socket has one UMEM, a UMEM is one run of addresses, and a queue of an interface belongs to one
//! UMEM. So each transmit queue that is to be sent from without a copy gets a queue of the interface that no one else uses,
//! and a UMEM of frames of our own with the guest's memory behind them (`guestmem::Window`). A frame that is *lent* goes as
//! several descriptors (multi-buffer, Linux 6.6): its head from a frame of our own, as it was when the switch decided, and the
//! rest from the guest's own pages. Its chain stays with us, detached, until the kernel names it in the completion ring.
//!
//! All frames of the queue to this uplink take the lane, also those that are copied: so they keep their order.
//!
//! **Limits.** The guest's memory is pinned as a whole while a lane is open, and counts towards RLIMIT_MEMLOCK without
//! CAP_IPC_LOCK. Private memory and huge pages cannot be had in one run with other bytes. docs/adr/0017.

use super::lanes::{Copied, Facts, Lanes, QueuePlace};
use super::outgoing::{Outgoing, PIECES_MAX, Piece};
use crate::sys::xdp::memory::{GuestPages, frames_and_guest};
use crate::sys::xdp::ring::{Consumer, Producer, Which};
use arrayvec::ArrayVec;
use devices::net::{Frame, Offload};
use guestmem::GuestMemory;
use rustix::io::Errno;
use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use switch::Now;
use virtqueue::{Detached, DeviceQueue};

/// Bytes of a chunk of the UMEM: no descriptor crosses the end of one. The smallest page there is.
const CHUNK: u32 = 4096;
/// Frames of our own: heads, and frames that are copied.
const OWN_FRAMES: u32 = 512;
/// Entries of the rings: as many pieces can be on their way.
const ENTRIES: u32 = 2048;
/// Lent frames that may be on their way, and the part of the guest's ring that they may be.
const PENDING_MAX: u16 = 128;
const RING_PART: u16 = 4;
/// Pieces of a frame that drivers without a copy take: the smallest bound among them.
const DRIVER_PIECES_MAX: usize = 8;
/// Bytes that may wait in the kernel below the socket.
const SEND_BUFFER_LEN: usize = ENTRIES as usize * 8192;
/// How long a lane whose frames do not come back is looked at without being asked.
const FRESH_MS: u64 = 100;
/// How long a lane that closes waits for the kernel, and how often it looks.
const DRAIN_MAX: Duration = Duration::from_millis(200);
const DRAIN_STEP: Duration = Duration::from_millis(1);

/// A socket with its UMEM and rings that has no queue yet.
pub(super) struct Unbound {
    outgoing: Outgoing,
    pages: GuestPages,
    pub(super) socket: OwnedFd,
}

impl Unbound {
    /// Pins all of `memory`.
    pub(super) fn new(memory: &Arc<GuestMemory>, pieces: bool) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let (frames, pages, extent) = frames_and_guest(memory, OWN_FRAMES, CHUNK)?;
        sockopt::set_xdp_umem_reg(
            &socket,
            XdpUmemReg {
                addr: extent.start,
                len: extent.len,
                chunk_size: CHUNK,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            },
        )?;
        // Nothing is received, but a UMEM has both rings.
        sockopt::set_xdp_umem_fill_ring_size(&socket, 1)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, ENTRIES)?;
        sockopt::set_xdp_tx_ring_size(&socket, ENTRIES)?;
        // Refused without CAP_NET_ADMIN; then a burst may need a second call to be sent.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_LEN);
        let offsets = sockopt::xdp_mmap_offsets(&socket)?;
        let fd = socket.as_fd();
        let transmit = Producer::map(fd, Which::Transmit, &offsets.tx, ENTRIES)?;
        let completion = Consumer::map(fd, Which::Completion, &offsets.cr, ENTRIES)?;
        let outgoing = Outgoing::new(transmit, completion, frames, ENTRIES, pieces);
        Ok(Self { outgoing, pages, socket })
    }
}

/// The way of one transmit queue to an uplink. Belongs to the queue, and is used under its lock.
pub(in crate::plane) struct Lane {
    lanes: Arc<Lanes>,
    facts: Arc<Facts>,
    zero_copy: bool,
    outgoing: Outgoing,
    pages: GuestPages,
    /// `None` once it is closed. Goes before its place does.
    socket: Option<OwnedFd>,
    place: QueuePlace,
    /// The chains that are lent, by the number that [`Outgoing::lend`] gave their frame.
    lent: Box<[Option<Detached>]>,
    pending: u16,
    pending_max: u16,
    /// Frames are in the transmit ring that the kernel did not take when it was asked.
    unsent: bool,
    /// The same, when it was settled last.
    was_unsent: bool,
    is_broken: bool,
    /// When a frame was last lent or came back.
    changed: Now,
}

impl Lane {
    /// The lane whose socket is bound to the queue at `place`, for a ring of `ring` entries.
    pub(super) fn new(
        lanes: &Arc<Lanes>,
        place: QueuePlace,
        facts: Arc<Facts>,
        unbound: Unbound,
        zero_copy: bool,
        ring: u16,
    ) -> Self {
        let Unbound { outgoing, pages, socket } = unbound;
        Self {
            place,
            lanes: Arc::clone(lanes),
            facts,
            zero_copy,
            outgoing,
            pages,
            socket: Some(socket),
            lent: (0..OWN_FRAMES).map(|_| None).collect(),
            pending: 0,
            pending_max: PENDING_MAX.min(ring / RING_PART),
            unsent: false,
            was_unsent: false,
            is_broken: false,
            changed: Now::from_millis(0),
        }
    }

    /// The queue of the interface that it has.
    pub(super) fn queue(&self) -> u32 {
        self.place.index
    }

    /// Says that it is used from now on.
    pub(in crate::plane) fn opened(&self) {
        let _ = self.facts.kernel.set(self.kernel());
    }

    /// What the kernel does with lent frames.
    pub(super) fn kernel(&self) -> &'static str {
        match (self.zero_copy, self.lanes.without_copy) {
            (true, _) => "zero-copy",
            (false, true) => "fragments",
            (false, false) => "copy",
        }
    }

    /// Whether it leads to the uplink of these lanes.
    pub(in crate::plane) fn is_of(&self, lanes: &Arc<Lanes>) -> bool {
        Arc::ptr_eq(&self.lanes, lanes)
    }

    /// Puts a frame into the transmit ring that stays where it lies, but for its head. Its number: the chain that it came in has
    /// to be given to [`Self::hold`] with it, before the next [`Self::settle`].
    ///
    /// # Errors
    /// Why it cannot be; it has to be copied.
    pub(in crate::plane) fn lend(&mut self, frame: &Frame<'_>, held: u16) -> Result<u32, Copied> {
        if frame.len() < self.lanes.wanted.min {
            return Err(Copied::Short);
        }
        if matches!(frame.offload(), Offload::Segment(_)) {
            return Err(Copied::Segmentation);
        }
        // Longer than the interface takes: not sent at all.
        if frame.len() > self.lanes.len_max {
            return Err(Copied::Room);
        }
        if self.pending + held >= self.pending_max {
            return Err(Copied::Pending);
        }
        let pieces = self.pieces(frame).ok_or(Copied::Scattered)?;
        let index = self.outgoing.lend(frame, &pieces).ok_or(Copied::Room)?;
        self.lanes.counts.frames.fetch_add(1, Relaxed);
        let bytes = u64::from(frame.len()) - frame.head().len() as u64;
        self.lanes.counts.bytes.fetch_add(bytes, Relaxed);
        Ok(index)
    }

    /// Where the rest of a frame is in the UMEM, chunk by chunk; `None` where that is more pieces than may be.
    fn pieces(&self, frame: &Frame<'_>) -> Option<ArrayVec<Piece, { PIECES_MAX - 1 }>> {
        let pieces_max = if self.zero_copy { DRIVER_PIECES_MAX } else { PIECES_MAX } - 1;
        let mut pieces = ArrayVec::new();
        let mut left = frame.len() as usize - frame.head().len();
        let (rest, mut skip) = frame.rest();
        for run in rest {
            let (skipped, run) = run.split_at(skip);
            skip -= skipped.len();
            let run = run.split_at(left).0;
            left -= run.len();
            if run.is_empty() {
                continue;
            }
            let mut addr = self.pages.addr(&run)?;
            let end = addr + run.len() as u64;
            while addr < end {
                let chunk_end = (addr / u64::from(CHUNK) + 1) * u64::from(CHUNK);
                let len = (end.min(chunk_end) - addr) as u32;
                if pieces.len() == pieces_max {
                    return None;
                }
                pieces.push((addr, len));
                addr += u64::from(len);
            }
        }
        (left == 0 && !pieces.is_empty()).then_some(pieces)
    }

    /// Counts a frame that is copied.
    pub(in crate::plane) fn count_copied(&self, why: Copied) {
        self.lanes.counts.copied[why as usize].fetch_add(1, Relaxed);
    }

    /// Copies a frame into the transmit ring; [`Self::flush`] has it sent. `false`: not taken, since everything is full or the
    /// frame is longer than the interface's MTU has room for.
    pub(in crate::plane) fn put(&mut self, frame: &Frame<'_>) -> bool {
        if frame.len() > self.lanes.len_max {
            return false;
        }
        if self.outgoing.put(frame) {
            return true;
        }
        self.flush();
        self.outgoing.put(frame)
    }

    /// Has everything sent that was put.
    pub(in crate::plane) fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        let wanted = self.outgoing.publish();
        if self.zero_copy {
            if wanted {
                let _ = rustix::net::send(socket, &[], SendFlags::DONTWAIT);
            }
            self.outgoing.reap();
            return;
        }
        match self.outgoing.send_copied(socket) {
            Ok(all) => self.unsent = !all,
            // What is in the ring goes when the interface is back up; one that is gone does not come back.
            Err(error) => {
                self.unsent = true;
                self.is_broken |= !super::is(&error, Errno::NETDOWN);
            }
        }
    }

    /// Keeps the chain of a lent frame until the kernel is done with it.
    pub(in crate::plane) fn hold(&mut self, index: u32, chain: Detached, now: Now) {
        if let Some(place) = self.lent.get_mut(index as usize) {
            *place = Some(chain);
            self.pending += 1;
            self.changed = now;
            self.facts.pending.store(self.pending.into(), Relaxed);
        }
    }

    /// Gives back to `queue` the chains that the kernel is done with; returns how many.
    pub(in crate::plane) fn settle(&mut self, queue: &mut DeviceQueue, now: Now) -> usize {
        if !self.is_waiting() {
            return 0;
        }
        if self.unsent && !self.was_unsent {
            // It has just begun to wait: it is looked at soon.
            self.changed = now;
        }
        if self.unsent || self.zero_copy {
            self.flush();
        }
        self.was_unsent = self.unsent;
        self.outgoing.reap();
        let mut count = 0;
        while let Some(index) = self.outgoing.take_returned() {
            let chain = self.lent.get_mut(index as usize).and_then(Option::take);
            self.pending -= u16::from(chain.is_some());
            count += usize::from(chain.is_some_and(|chain| queue.complete_detached(chain).is_ok()));
        }
        if count != 0 {
            self.changed = now;
            self.facts.pending.store(self.pending.into(), Relaxed);
        }
        count
    }

    /// Whether the kernel has frames of it: lent ones, or some in the ring that it did not take.
    pub(in crate::plane) fn is_waiting(&self) -> bool {
        self.pending != 0 || self.unsent
    }

    /// Whether it is to be looked at again soon: no one calls when frames have been sent. Not if that has been in vain for a while;
    /// then it is looked at once a second.
    pub(in crate::plane) fn wants_looks(&self, now: Now) -> bool {
        self.is_waiting() && now.as_millis().saturating_sub(self.changed.as_millis()) < FRESH_MS
    }

    /// Whether the interface is gone.
    pub(in crate::plane) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Waits for the kernel, not long; then gives all chains back to `queue`. Frames that the kernel has not sent by then are
    /// counted: a driver that has no copy of them may still send them, with what their pages hold at that moment.
    pub(in crate::plane) fn close(mut self, queue: &mut DeviceQueue, now: Now) {
        let end = Instant::now() + DRAIN_MAX;
        loop {
            self.settle(queue, now);
            if self.pending == 0 || Instant::now() >= end {
                break;
            }
            std::thread::sleep(DRAIN_STEP);
        }
        // From here on nothing goes that was in the transmit ring only.
        self.socket = None;
        let abandoned = self.pending;
        for chain in self.lent.iter_mut().filter_map(Option::take) {
            // A chain of another queue was that of a ring that is gone.
            let _ = queue.complete_detached(chain);
        }
        if abandoned != 0 {
            self.lanes.counts.abandoned.fetch_add(abandoned.into(), Relaxed);
            let (port, pair) = (&self.facts.guest, self.facts.pair);
            tracing::warn!(
                port,
                pair,
                abandoned,
                "the queue stops, and the kernel has not sent all that it was lent"
            );
        }
    }
}
