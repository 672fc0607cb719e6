//! The bounded queue between the workers and a capture's reader, and how the reader is woken.
//!
//! Any worker may push; one reader pops. Three numbers bound it: [`QUEUE_RECORDS_MAX`], [`QUEUE_BYTES_MAX`], and the rate at
//! which the reader can be woken. Full-sized frames lie in buffers of one size, which go back to the workers when the reader
//! is done with them: fresh memory for each would cost a worker a page fault for every second frame. Short frames are
//! better off with the allocator, which keeps them close together.
//!
//! The reader says in one word what it is doing: `AWAKE` needs no call, `ASLEEP` wants one at
//! the first record, `GATHERING` wants one only when the queue is half full. Whoever finds that a call is due takes the
//! word back to `AWAKE` by compare-and-swap, so each sleep is answered by one call. A push and a going to sleep cannot
//! miss each other: both write first, pass a sequentially consistent fence, and then read what the other has written.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, fence};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use super::stream::Direction;

/// Most records that wait for a reader.
pub const QUEUE_RECORDS_MAX: usize = 8192;
/// Most bytes that wait for a reader, with what it takes to keep them. The buffers kept for use again are at most as many.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Size of the buffers that are used again, in bytes.
const BUFFER_BYTES: usize = 2048;
/// Most bytes of a frame that is short.
const SHORT_BYTES: usize = 256;
/// How long a reader that was woken by a first record waits for more.
const GATHER_TIME: Duration = Duration::from_millis(20);

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const GATHERING: u8 = 2;

/// A frame that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was seen, in nanoseconds since 1970-01-01 00:00 UTC.
    pub at_ns: u64,
    /// Number of the interface within the capture.
    pub interface: u32,
    /// Which way it went.
    pub direction: Direction,
    /// Why it was dropped, by the name that counters use; `None` if it was not.
    pub reason: Option<&'static str>,
    /// Its length in bytes, of which `data` may be the beginning only.
    pub frame_len: u32,
    /// Frames that this interface had missed until then.
    pub missed: u64,
    /// The bytes kept.
    pub data: Vec<u8>,
}

impl Record {
    /// What `len` bytes of a frame weigh in the queue.
    fn weight(len: usize) -> usize {
        let buffer = if len > SHORT_BYTES { len.max(BUFFER_BYTES) } else { len };
        size_of::<Record>().saturating_add(buffer)
    }
}

/// A port within a capture.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) description: String,
    /// Frames that passed the filter and did not fit the queue.
    missed: AtomicU64,
}

impl Interface {
    pub(super) fn new(name: &str, description: &str) -> Self {
        Self { name: name.into(), description: description.into(), missed: AtomicU64::new(0) }
    }

    pub(super) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    pub(super) fn miss(&self) {
        self.missed.fetch_add(1, Relaxed);
    }
}

/// Records on their way to the reader.
#[derive(Debug)]
pub(super) struct Queue {
    records: ArrayQueue<Record>,
    /// Empty buffers of [`BUFFER_BYTES`].
    buffers: ArrayQueue<Vec<u8>>,
    /// Weight of all records, and of those that are being made.
    bytes: AtomicUsize,
    reader: AtomicU8,
    wake: Notify,
}

/// Room in the queue for one record, taken before the frame is copied. Given back on drop.
pub(super) struct Room<'q> {
    queue: &'q Queue,
    weight: usize,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            records: ArrayQueue::new(QUEUE_RECORDS_MAX),
            buffers: ArrayQueue::new(QUEUE_BYTES_MAX / BUFFER_BYTES),
            bytes: AtomicUsize::new(0),
            reader: AtomicU8::new(AWAKE),
            wake: Notify::new(),
        }
    }

    /// Takes room for a record of `len` bytes; `None` if there is none.
    pub(super) fn room(&self, len: usize) -> Option<Room<'_>> {
        let weight = Record::weight(len);
        let before = self.bytes.fetch_add(weight, Relaxed);
        // From here on the weight is given back if there is no room for it.
        let room = Room { queue: self, weight };
        (before.saturating_add(weight) <= QUEUE_BYTES_MAX && !self.records.is_full()).then_some(room)
    }

    /// The record that has waited longest.
    pub(super) fn pop(&self) -> Option<Record> {
        let record = self.records.pop()?;
        self.bytes.fetch_sub(Record::weight(record.data.len()), Relaxed);
        Some(record)
    }

    /// Gives back the bytes of a record that was popped.
    pub(super) fn recycle(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == BUFFER_BYTES {
            buffer.clear();
            // If there is no place, there are enough.
            let _full = self.buffers.push(buffer);
        }
    }

    /// Bytes and records that wait.
    #[cfg(test)]
    pub(super) fn load(&self) -> (usize, usize) {
        (self.bytes.load(Relaxed), self.records.len())
    }

    fn half_full(&self) -> bool {
        self.bytes.load(Relaxed) > QUEUE_BYTES_MAX / 2 || self.records.len() > QUEUE_RECORDS_MAX / 2
    }

    /// Wakes the reader if it wants to be.
    fn call(&self) {
        fence(SeqCst);
        let doing = self.reader.load(Relaxed);
        let due = match doing {
            ASLEEP => true,
            GATHERING => self.half_full(),
            _ => false,
        };
        if due && self.reader.compare_exchange(doing, AWAKE, Relaxed, Relaxed).is_ok() {
            self.wake.notify_one();
        }
    }

    /// Waits until records are there: returns at once if some are, else some time after the first, so that one waking
    /// brings many. For one reader only. Dropping the future loses nothing.
    pub(super) async fn ready(&self) {
        if !self.records.is_empty() {
            return;
        }
        while self.records.is_empty() {
            self.reader.store(ASLEEP, Relaxed);
            fence(SeqCst);
            if self.records.is_empty() {
                self.wake.notified().await;
            }
            self.reader.store(AWAKE, Relaxed);
        }
        self.reader.store(GATHERING, Relaxed);
        fence(SeqCst);
        if !self.half_full() {
            // Whether time or a call ended it makes no difference.
            let _timed_out = tokio::time::timeout(GATHER_TIME, self.wake.notified()).await;
        }
        self.reader.store(AWAKE, Relaxed);
    }
}

impl Room<'_> {
    /// A buffer of `len` zeros.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        if len <= SHORT_BYTES || len > BUFFER_BYTES {
            return vec![0; len];
        }
        let mut buffer = self.queue.buffers.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        buffer.resize(len, 0);
        buffer
    }

    /// Puts the record into the queue and wakes the reader if it sleeps. False if another one came first and took the
    /// last place.
    pub(super) fn push(self, record: Record) -> bool {
        let queue = self.queue;
        if queue.records.push(record).is_err() {
            return false;
        }
        // The weight stays until the record is popped.
        std::mem::forget(self);
        queue.call();
        true
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.queue.bytes.fetch_sub(self.weight, Relaxed);
    }
}
