//! How a worker is woken: kick descriptors in one epoll set, and a list of sources to look at without a kick.

use super::notify::Wake;
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The number under which our own wake-up stands in the epoll set.
const WAKE: u64 = u64::MAX;

/// Stands in the epoll set beside a source's number where the kicks are those of its receive queue.
const RECEIVE: u64 = 1 << 32;

/// Why a source is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its driver sent something.
    Transmit,
    /// Its driver has buffers for what waits; or, of a disk, requests have ended.
    Receive,
    /// [`Kicks::poke`].
    Poke,
}

/// The sleeping place of one worker. Sessions hold it to have their queues looked at.
pub(super) struct Kicks {
    epoll: OwnedFd,
    wake: Wake,
    /// Sources to look at without waiting for a kick.
    due: Mutex<Vec<u32>>,
}

impl Kicks {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Wake::new()?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self { epoll, wake, due: Mutex::new(Vec::new()) })
    }

    /// From now on source `number` is looked at when `fd` becomes readable. Edge-triggered: the descriptor is never
    /// read, every write to it counts.
    pub(super) fn watch(&self, number: u32, cause: Cause, fd: impl AsFd) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let mark = if cause == Cause::Receive { RECEIVE } else { 0 };
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(mark | u64::from(number)), flags)?)
    }

    /// Ends [`Self::watch`].
    pub(super) fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Has source `number` looked at soon.
    pub(super) fn poke(&self, number: u32) {
        let mut due = self.due.lock();
        if due.contains(&number) {
            return;
        }
        due.push(number);
        drop(due);
        self.wake.wake();
    }

    /// Ends the worker's sleep without anything to look at.
    pub(super) fn wake(&self) {
        self.wake.wake();
    }

    /// Sleeps for `timeout` at most (`None`: until something happens) and tells what to look at: `look(number, cause)`.
    /// `events` is scratch space.
    pub(super) fn wait(
        &self,
        events: &mut Vec<epoll::Event>,
        timeout: Option<&Timespec>,
        mut look: impl FnMut(u32, Cause),
    ) {
        events.clear();
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout).is_err() {
            return;
        }
        for event in events.iter() {
            match event.data.u64() {
                WAKE => {
                    self.wake.clear();
                    self.due.lock().drain(..).for_each(|number| look(number, Cause::Poke));
                }
                number if number & RECEIVE != 0 => look(number as u32, Cause::Receive),
                number => look(number as u32, Cause::Transmit),
            }
        }
    }
}
