//! Frames given to a driver: one copy from wherever they lie straight into its receive buffers.
//!
//! **Theory of operation.** A burst of frames for one queue pops about as many chains at once. A frame that
//! fits the next buffer is header, head and rest written one after the other: the common case. With MRG_RXBUF
//! a longer frame takes further buffers; how many is known before the first byte is written, because the count
//! stands in the first header. Buffers that were popped and not used are given back, newest first, so no frame
//! ever costs a driver a buffer that it did not get.
//!
//! What the driver did not negotiate is done in software on the way; see [`Software`].

use super::features::{Acknowledged, Features};
use super::frame::Frame;
use super::header::{FLAG_DATA_VALID, HEADER_LEN_MAX, HeaderFormat};
use super::offload::{Accepts, Offload};
use super::software::Software;
use guestmem::{GuestMemory, MemSlice, copy_segments, write_segments};
use std::ops::ControlFlow;
use virtqueue::{Burst, DeviceQueue, DriverFault, Endian};

/// Chains popped at once at most when a frame needs more of them.
const POP_MAX: usize = 64;

/// Buffers that one frame fills at most: frames for buffers of 64 bytes still arrive, and a driver that posts
/// thousands of tiny ones cannot make a burst walk all of them.
pub const BUFFERS_MAX: usize = 1024;

/// What was agreed with a driver about the frames that it receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveRules {
    /// Its headers.
    pub format: HeaderFormat,
    /// A frame may fill several buffers (MRG_RXBUF).
    pub mergeable: bool,
    /// The offloads it takes now; `CTRL_GUEST_OFFLOADS` changes them.
    pub accepts: Accepts,
    /// The header of a frame without offloads that fills one buffer.
    plain: [u8; HEADER_LEN_MAX],
}

impl ReceiveRules {
    /// The rules that follow from the features; `endian` is the byte order of a legacy driver.
    pub fn new(acknowledged: Acknowledged, endian: Endian) -> Self {
        let format = HeaderFormat::new(acknowledged, endian);
        Self {
            format,
            mergeable: acknowledged.has(Features::MRG_RXBUF),
            accepts: acknowledged.receive_accepts(),
            plain: format.emit(&Offload::None.header()),
        }
    }

    /// The header's bytes for a frame that fills `num_buffers` buffers.
    #[inline]
    fn header(&self, frame: &Frame<'_>, num_buffers: u16) -> [u8; HEADER_LEN_MAX] {
        let mut header = frame.offload().header();
        header.num_buffers = num_buffers;
        if !self.accepts.contains(Accepts::CSUM) {
            // virtio 1.3 §5.1.6.4.1: without GUEST_CSUM no flag is set.
            header.flags &= !FLAG_DATA_VALID;
        }
        self.format.emit(&header)
    }
}

/// What became of a burst of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "frames that were not delivered are to be counted"]
pub struct Delivered {
    /// Frames written to the driver, after segmentation.
    pub frames: u32,
    /// Their bytes, without virtio headers.
    pub bytes: u64,
    /// Frames for which the driver had no buffers, or for not all of their segments.
    pub no_buffers: u32,
    /// Those of them at the end of the list of which nothing was delivered.
    pub left: u32,
    /// Whether there were buffers for the first of these, but too few.
    pub short: bool,
    /// Frames dropped because they are longer than the driver's next buffer, which cannot be merged, or than
    /// [`BUFFERS_MAX`] of them.
    pub too_long: u32,
}

enum Placed {
    Delivered,
    NoBuffers,
    TooLong,
}

/// Delivers one frame; as [`deliver_burst`].
pub fn deliver<'m>(
    queue: &mut DeviceQueue,
    memory: &'m GuestMemory,
    burst: &mut Burst<'m>,
    rules: &ReceiveRules,
    software: &mut Software,
    frame: &Frame<'_>,
) -> Result<Delivered, DriverFault> {
    deliver_burst(queue, memory, burst, rules, software, std::slice::from_ref(frame))
}

/// Delivers `frames`, in order, into the buffers of a receive queue. Nothing is visible to the driver before
/// the queue is flushed.
///
/// `burst` is scratch space, empty before and after (recycle it). A fault of the driver is reported when it
/// leaves nothing to do; chains popped in front of it are used first, and the next call reports it.
pub fn deliver_burst<'m>(
    queue: &mut DeviceQueue,
    memory: &'m GuestMemory,
    burst: &mut Burst<'m>,
    rules: &ReceiveRules,
    software: &mut Software,
    frames: &[Frame<'_>],
) -> Result<Delivered, DriverFault> {
    let mut delivered = Delivered::default();
    let filled = fill_plain(queue, memory, rules, frames, &mut delivered);
    let frames = &frames[filled..];
    if filled == 0 {
        queue.pop(memory, burst, frames.len())?;
    } else if frames.is_empty() {
        return Ok(delivered);
    }
    let mut filler = Filler { queue, memory, burst, rules };
    if filled != 0 {
        filler.pop(frames.len());
    }
    for (index, frame) in frames.iter().enumerate() {
        if rules.accepts.takes(&frame.offload) {
            let placed = filler.place(frame);
            delivered.count(&placed, frame);
            if matches!(placed, Placed::NoBuffers) {
                delivered.no_buffers += (frames.len() - index - 1) as u32;
                delivered.left = (frames.len() - index) as u32;
                delivered.short = !filler.burst.is_empty();
                break;
            }
            continue;
        }
        // No segmentation for a driver that has no buffer for the first segment.
        if filler.burst.is_empty() && filler.pop(1) == 0 {
            delivered.left = (frames.len() - index) as u32;
            delivered.no_buffers += delivered.left;
            break;
        }
        software.convert(frame, rules.accepts, |part| {
            let placed = filler.place(part);
            delivered.count(&placed, part);
            if matches!(placed, Placed::Delivered) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
    }
    while let Some(chain) = filler.burst.take_last() {
        filler.queue.unpop(chain);
    }
    Ok(delivered)
}

/// The short way for the first of `frames`, as long as each goes as it is into one buffer of the plain kind; returns how many did.
#[inline(always)]
fn fill_plain(
    queue: &mut DeviceQueue,
    memory: &GuestMemory,
    rules: &ReceiveRules,
    frames: &[Frame<'_>],
    delivered: &mut Delivered,
) -> usize {
    let header_len = rules.format.len() as u32;
    let (mut left, mut bytes) = (frames.iter(), 0);
    let filled = queue.fill(memory, frames.len(), |buffer| {
        let frame = left.next()?;
        let total = header_len + frame.len();
        let is_taken = frame.offload == Offload::None || rules.accepts.takes(&frame.offload);
        if buffer.len() < total as usize || !is_taken {
            return None;
        }
        write_single(rules, frame, buffer);
        bytes += u64::from(frame.len());
        Some(total)
    });
    (delivered.frames, delivered.bytes) = (filled as u32, bytes);
    filled
}

impl Delivered {
    /// Frames of which a part did not find buffers: they are lost, and what was behind them was delivered all the same.
    pub fn lost(&self) -> u32 {
        self.no_buffers - self.left
    }

    #[inline]
    fn count(&mut self, placed: &Placed, frame: &Frame<'_>) {
        match placed {
            Placed::Delivered => {
                self.frames += 1;
                self.bytes += u64::from(frame.len());
            }
            Placed::NoBuffers => self.no_buffers += 1,
            Placed::TooLong => self.too_long += 1,
        }
    }
}

/// One queue's buffers while a burst of frames goes into them.
struct Filler<'q, 'm> {
    queue: &'q mut DeviceQueue,
    memory: &'m GuestMemory,
    burst: &'q mut Burst<'m>,
    rules: &'q ReceiveRules,
}

impl Filler<'_, '_> {
    #[inline]
    fn place(&mut self, frame: &Frame<'_>) -> Placed {
        if self.burst.is_empty() && self.pop(1) == 0 {
            return Placed::NoBuffers;
        }
        let total = self.rules.format.len() as u32 + frame.len();
        let (room, target) = self.burst.next_writable();
        if room < total {
            return self.merge(frame, total, room);
        }
        write_whole(self.rules, frame, target);
        self.queue.complete_next(self.burst, total);
        Placed::Delivered
    }

    /// A frame that needs more than the next buffer.
    #[cold]
    fn merge(&mut self, frame: &Frame<'_>, total: u32, room: u32) -> Placed {
        let header_len = self.rules.format.len();
        // virtio 1.3 §5.1.6.3.1: every buffer has room for the header at least.
        if !self.rules.mergeable || (room as usize) < header_len {
            return Placed::TooLong;
        }
        let count = match self.gather(total) {
            Ok(count) => count,
            Err(placed) => return placed,
        };
        let header = self.rules.header(frame, count as u16);
        let (mut source, mut left, mut skip) = (Source::new(frame), total, header_len);
        for index in 0..count {
            let Some(chain) = self.burst.take() else { break };
            let now = left.min(chain.writable_len());
            let target = self.burst.writable(&chain);
            if index == 0 {
                write_segments(target, 0, &header[..header_len]);
            }
            source.copy_to(target, skip, now as usize - skip);
            self.queue.complete(self.burst, chain, now);
            (left, skip) = (left - now, 0);
        }
        Placed::Delivered
    }

    /// How many of the next chains hold `total` bytes; pops more as needed. When there are not enough, why the
    /// frame is not delivered.
    fn gather(&mut self, total: u32) -> Result<usize, Placed> {
        let (mut count, mut room) = (0, 0u64);
        while count < BUFFERS_MAX {
            if count == self.burst.len() {
                let missing = u64::from(total) - room;
                let each = (room / count.max(1) as u64).max(1);
                if self.pop(missing.div_ceil(each).min(POP_MAX as u64) as usize) == 0 {
                    return Err(Placed::NoBuffers);
                }
            }
            let Some(chain) = self.burst.chains().get(count) else { return Err(Placed::NoBuffers) };
            (count, room) = (count + 1, room + u64::from(chain.writable_len()));
            if room >= u64::from(total) {
                return Ok(count);
            }
        }
        Err(Placed::TooLong)
    }

    /// Pops up to `max` more chains. A fault is kept by the queue, for the next burst to meet.
    fn pop(&mut self, max: usize) -> usize {
        self.queue.pop(self.memory, self.burst, max).unwrap_or(0)
    }
}

/// Writes header and frame to the beginning of `target`, which has room for both.
#[inline]
fn write_whole(rules: &ReceiveRules, frame: &Frame<'_>, target: &[MemSlice<'_>]) {
    let header_len = rules.format.len();
    let front = header_len + frame.head.len();
    match target {
        [single] => return write_single(rules, frame, *single),
        [first, ..] if first.len() >= front => write_front(rules, frame, *first),
        _ => {
            write_segments(target, 0, &rules.header(frame, 1)[..header_len]);
            write_segments(target, header_len, frame.head);
        }
    }
    let rest = frame.len as usize - frame.head.len();
    if rest != 0 {
        copy_segments(frame.rest, frame.skip as usize, target, front, rest);
    }
}

/// As [`write_whole`], into one piece.
#[inline(always)]
fn write_single(rules: &ReceiveRules, frame: &Frame<'_>, target: MemSlice<'_>) {
    write_front(rules, frame, target);
    let rest = frame.len as usize - frame.head.len();
    if rest != 0 {
        let front = rules.format.len() + frame.head.len();
        copy_segments(frame.rest, frame.skip as usize, &[target], front, rest);
    }
}

/// Writes header and head to the beginning of `target`, which has room for both.
#[inline(always)]
fn write_front(rules: &ReceiveRules, frame: &Frame<'_>, target: MemSlice<'_>) {
    let header_len = rules.format.len();
    if frame.offload != Offload::None {
        write_header(rules, frame, target);
    } else if header_len == HEADER_LEN_MAX {
        target.write(&rules.plain);
    } else {
        target.write(&rules.plain[..header_len]);
    }
    target.split_at(header_len).1.write(frame.head);
}

/// Writes the header of a frame that something is to be said about.
#[inline(never)]
fn write_header(rules: &ReceiveRules, frame: &Frame<'_>, target: MemSlice<'_>) {
    // Made just now, so in the words that it was made in.
    let header = rules.header(frame, 1);
    let (low, high) = header.split_at(8);
    target.write(low);
    target.split_at(8).1.write(&high[..rules.format.len() - 8]);
}

/// A frame that is read from front to back, so that many small buffers do not walk its list again and again.
struct Source<'a> {
    head: &'a [u8],
    rest: &'a [MemSlice<'a>],
    skip: usize,
}

impl<'a> Source<'a> {
    fn new(frame: &Frame<'a>) -> Self {
        Self { head: frame.head, rest: frame.rest, skip: frame.skip as usize }
    }

    /// Copies the next `len` bytes to position `to` of `target`.
    fn copy_to(&mut self, target: &[MemSlice<'_>], to: usize, len: usize) {
        let (now, later) = self.head.split_at(self.head.len().min(len));
        write_segments(target, to, now);
        self.head = later;
        let len = len - now.len();
        if len != 0 {
            while let Some((_, behind)) =
                self.rest.split_first().filter(|(first, _)| self.skip >= first.len())
            {
                self.skip -= self.rest[0].len();
                self.rest = behind;
            }
            copy_segments(self.rest, self.skip, target, to + now.len(), len);
            self.skip += len;
        }
    }
}
