//! The rings of an AF_XDP socket: one producer, one consumer, indices that run freely and wrap at 2³².
//!
//! The kernel is the other side of each. An index of it that makes no sense (more entries than the ring has) reads as "nothing
//! there"; a position is masked before it is used. So whatever the words say, every access is to an entry of the ring.

use super::memory::Mapping;
use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING,
    XdpRingOffset,
};
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// `struct xdp_desc`: a run of bytes of a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Desc {
    /// Where it begins, in bytes from the start of the UMEM.
    pub(crate) addr: u64,
    /// Length in bytes.
    pub(crate) len: u32,
    /// [`CONTINUED`] and no other.
    pub(crate) options: u32,
}

/// `XDP_PKT_CONTD`: the frame goes on in the next descriptor.
pub(crate) const CONTINUED: u32 = 1;

/// `XDP_RING_NEED_WAKEUP`: the kernel wants a system call to go on.
const NEED_WAKEUP: u32 = 1;

/// What a ring's entries may be: integers without padding, so that any bytes are a value.
pub(crate) trait Entry: Copy {}
impl Entry for Desc {}
impl Entry for u64 {}

/// Which ring of a socket: its `mmap` offset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Receive,
    Transmit,
    Fill,
    Completion,
}

/// A ring, whichever side of it we are.
struct Ring<T> {
    /// Keeps what the pointers point to.
    _memory: Mapping,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    len: u32,
    entry: PhantomData<T>,
}

// SAFETY: the pointers lead into the mapping that moves along; words are atomics, and entries are read and written
// through `&mut` of the one `Producer` or `Consumer`.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    fn new(memory: Mapping, offsets: &XdpRingOffset, len: u32) -> io::Result<Self> {
        let outside = || io::Error::other("the kernel's AF_XDP ring does not lie in its mapping");
        let word = |offset: u64| Some(memory.place(offset, 4, align_of::<AtomicU32>())?.cast());
        let flags = offsets.flags.ok_or(io::ErrorKind::Unsupported)?;
        let entries =
            memory.place(offsets.desc, len as usize * size_of::<T>(), align_of::<T>()).ok_or_else(outside)?;
        if !len.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            producer: word(offsets.producer).ok_or_else(outside)?,
            consumer: word(offsets.consumer).ok_or_else(outside)?,
            flags: word(flags).ok_or_else(outside)?,
            entries: entries.cast(),
            len,
            entry: PhantomData,
            _memory: memory,
        })
    }

    fn of_socket(
        socket: BorrowedFd<'_>,
        which: Which,
        offsets: &XdpRingOffset,
        len: u32,
    ) -> io::Result<Self> {
        let page_offset = match which {
            Which::Receive => XDP_PGOFF_RX_RING,
            Which::Transmit => XDP_PGOFF_TX_RING,
            Which::Fill => XDP_UMEM_PGOFF_FILL_RING,
            Which::Completion => XDP_UMEM_PGOFF_COMPLETION_RING,
        };
        let bytes = offsets.desc + u64::from(len) * size_of::<T>() as u64;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        Self::new(Mapping::of_socket(socket, page_offset, bytes)?, offsets, len)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `new` found the word inside the mapping and aligned; it is only used as an atomic.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    fn entry(&self, position: u32) -> NonNull<T> {
        // SAFETY: `new` found `len` entries inside the mapping, and the masked position is below `len`.
        unsafe { self.entries.add((position & (self.len - 1)) as usize) }
    }
}

/// A ring that we fill: transmit or fill.
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// Our index, entries included that are not published yet.
    next: u32,
    published: u32,
    /// The kernel's index when it was last looked at.
    consumer: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps a ring of `len` entries (a power of two, as the socket was told).
    ///
    /// # Errors
    /// The kernel's; `Unsupported` before Linux 5.4.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        which: Which,
        offsets: &XdpRingOffset,
        len: u32,
    ) -> io::Result<Self> {
        let ring = Ring::of_socket(socket, which, offsets, len)?;
        Ok(Self { ring, next: 0, published: 0, consumer: 0 })
    }

    /// Entries that can be pushed now.
    pub(crate) fn room(&mut self) -> u32 {
        self.consumer = self.ring.consumer().load(Ordering::Acquire);
        self.ring.len.saturating_sub(self.next.wrapping_sub(self.consumer))
    }

    /// Adds an entry; the kernel sees it after [`Self::publish`]. `false`: the ring is full.
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.consumer) >= self.ring.len && self.room() == 0 {
            return false;
        }
        // SAFETY: the entry lies in the ring, and the kernel does not read it before it is published.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed; whether it wants a system call to see it.
    pub(crate) fn publish(&mut self) -> bool {
        if self.next != self.published {
            self.published = self.next;
            self.ring.producer().store(self.next, Ordering::Release);
            // The kernel sets its wish and then looks for entries; we publish and then look for the wish.
            fence(Ordering::SeqCst);
        }
        self.ring.needs_wakeup()
    }

    /// Entries pushed that the kernel has not taken yet.
    pub(crate) fn pending(&mut self) -> u32 {
        self.ring.len - self.room()
    }
}

/// A ring that the kernel fills: receive or completion.
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// Our index, entries included that are not given back yet.
    next: u32,
    released: u32,
    /// The kernel's index when it was last looked at.
    producer: u32,
}

impl<T: Entry> Consumer<T> {
    /// As [`Producer::map`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        which: Which,
        offsets: &XdpRingOffset,
        len: u32,
    ) -> io::Result<Self> {
        let ring = Ring::of_socket(socket, which, offsets, len)?;
        Ok(Self { ring, next: 0, released: 0, producer: 0 })
    }

    /// Entries in the ring at most.
    pub(crate) fn len(&self) -> u32 {
        self.ring.len
    }

    /// The entry `ahead` places after the next one; `None` when the kernel has not written it.
    pub(crate) fn peek(&mut self, ahead: u32) -> Option<T> {
        if ahead >= self.ready() {
            self.producer = self.ring.producer().load(Ordering::Acquire);
            if ahead >= self.ready() {
                return None;
            }
        }
        // SAFETY: the entry lies in the ring, any bytes are a value of it, and the kernel wrote it before it raised
        // its index; it does not write it again before it is released.
        Some(unsafe { self.ring.entry(self.next.wrapping_add(ahead)).read_volatile() })
    }

    /// Entries known to be there; none when the kernel's index makes no sense.
    fn ready(&self) -> u32 {
        let ready = self.producer.wrapping_sub(self.next);
        if ready > self.ring.len { 0 } else { ready }
    }

    /// Goes over the next entry; the kernel gets its place back with [`Self::release`].
    pub(crate) fn pop(&mut self) -> Option<T> {
        let entry = self.peek(0)?;
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the kernel the places of all entries popped.
    pub(crate) fn release(&mut self) {
        if self.next != self.released {
            self.released = self.next;
            self.ring.consumer().store(self.next, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, desc: 128, flags: Some(4) };

    fn ring(len: u32) -> Ring<u64> {
        Ring::new(Mapping::anonymous(4096).unwrap(), &OFFSETS, len).unwrap()
    }

    #[test]
    fn a_ring_outside_its_mapping_is_refused() {
        for offsets in [
            XdpRingOffset { producer: 4096, ..OFFSETS },
            XdpRingOffset { consumer: 4093, ..OFFSETS },
            XdpRingOffset { flags: Some(2), ..OFFSETS },
            XdpRingOffset { flags: None, ..OFFSETS },
            XdpRingOffset { desc: 4096 - 8 * 16 + 8, ..OFFSETS },
            XdpRingOffset { desc: u64::MAX, ..OFFSETS },
        ] {
            assert!(
                Ring::<u64>::new(Mapping::anonymous(4096).unwrap(), &offsets, 16).is_err(),
                "{offsets:?}"
            );
        }
        assert!(Ring::<u64>::new(Mapping::anonymous(4096).unwrap(), &OFFSETS, 12).is_err());
    }

    #[test]
    fn a_producer_stops_at_the_end_and_goes_on_when_the_kernel_took_some() {
        let mut producer = Producer { ring: ring(4), next: 0, published: 0, consumer: 0 };
        for round in 0..3u64 {
            assert!((0..4).all(|i| producer.push(round * 4 + i)));
            assert!(!producer.push(99));
            assert_eq!(producer.pending(), 4);
            assert_ne!(producer.ring.producer().load(Ordering::Relaxed), producer.next, "not published yet");
            assert!(!producer.publish());
            let now = producer.ring.producer().load(Ordering::Relaxed);
            assert_eq!(now, producer.next);
            producer.ring.consumer().store(now, Ordering::Relaxed);
            assert_eq!((producer.room(), producer.pending()), (4, 0));
        }
        // SAFETY: the word is inside the mapping.
        unsafe { producer.ring.flags.as_ref() }.store(NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.publish());
    }

    #[test]
    fn a_consumer_sees_what_was_published_across_the_wrap() {
        let start = u32::MAX - 1;
        let mut consumer = Consumer { ring: ring(4), next: start, released: start, producer: start };
        for i in 0..4u32 {
            // SAFETY: the entry is inside the mapping.
            unsafe { consumer.ring.entry(start.wrapping_add(i)).write(u64::from(i)) };
        }
        consumer.ring.producer().store(start.wrapping_add(3), Ordering::Relaxed);
        assert_eq!([consumer.peek(0), consumer.peek(2), consumer.peek(3)], [Some(0), Some(2), None]);
        assert_eq!(
            [consumer.pop(), consumer.pop(), consumer.pop(), consumer.pop()],
            [Some(0), Some(1), Some(2), None]
        );
        assert_eq!(consumer.ring.consumer().load(Ordering::Relaxed), 0);
        consumer.release();
        assert_eq!(consumer.ring.consumer().load(Ordering::Relaxed), start.wrapping_add(3));
    }

    #[test]
    fn indices_that_make_no_sense_give_nothing() {
        let mut consumer = Consumer { ring: ring(4), next: 0, released: 0, producer: 0 };
        for index in [5, 0x8000_0000, u32::MAX] {
            consumer.ring.producer().store(index, Ordering::Relaxed);
            assert_eq!((consumer.peek(0), consumer.pop()), (None, None));
        }
        let mut producer = Producer { ring: ring(4), next: 0, published: 0, consumer: 0 };
        for index in [1, 0x8000_0000] {
            producer.ring.consumer().store(index, Ordering::Relaxed);
            assert_eq!((producer.room(), producer.pending()), (0, 4));
        }
    }
}
