//! Where a source is served: by which worker, and what wakes that worker for it.
//!
//! A source may move to another worker while frames flow. Two workers may then serve it for a moment, but not at once: a burst
//! is popped and delivered under one lock, so its frames stay in order. A worker that finds that a source has left it pokes
//! the new one ([`Seat::poke`]), because it may have turned notifications off after the new one had turned them on.

use super::kicks::Cause;
use super::source::Source;
use super::worker::Worker;
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// One source's place among the workers.
#[derive(Default)]
pub(super) struct Seat {
    place: Mutex<Place>,
    /// Time that it was served, in nanoseconds. Written by its worker.
    pub(super) busy_ns: AtomicU64,
    /// `busy_ns` when loads were compared last.
    pub(super) busy_before_ns: AtomicU64,
}

#[derive(Default)]
struct Place {
    /// Who serves it, and under which number.
    worker: Option<(Arc<Worker>, u32)>,
    /// What a front-end gave for the kicks of the transmit and of the receive queue; of a disk, for those of its queue, and what tells
    /// of ended requests.
    kicks: [Option<OwnedFd>; 2],
}

impl Place {
    /// Everything that wakes the worker of `source`.
    fn descriptors<'a>(&'a self, source: &'a Source) -> impl Iterator<Item = (Cause, BorrowedFd<'a>)> {
        let own = source.descriptor().map(|fd| (Cause::Transmit, fd));
        let kicks = [Cause::Transmit, Cause::Receive].into_iter().zip(&self.kicks);
        kicks.filter_map(|(cause, fd)| Some((cause, fd.as_ref()?.as_fd()))).chain(own)
    }
}

impl Seat {
    /// Has `worker` serve `source`, whose seat this is, from now on; the worker before it lets go.
    ///
    /// # Errors
    /// The kernel's: a descriptor cannot be watched. The source is looked at when somebody pokes it then.
    pub(super) fn take(&self, worker: &Arc<Worker>, source: &Source) -> io::Result<()> {
        let mut place = self.place.lock();
        let number = worker.attach(source.clone());
        let before = place.worker.replace((Arc::clone(worker), number));
        let mut result = Ok(());
        for (cause, fd) in place.descriptors(source) {
            if let Some((before, _)) = &before {
                before.kicks.unwatch(fd);
            }
            result = result.and(worker.kicks.watch(number, cause, fd));
        }
        if let Some((before, old)) = before {
            before.detach(old);
        }
        worker.kicks.poke(number);
        result
    }

    /// Nobody serves it any more; returns who did.
    pub(super) fn leave(&self, source: &Source) -> Option<Arc<Worker>> {
        let mut place = self.place.lock();
        let (worker, number) = place.worker.take()?;
        place.descriptors(source).for_each(|(_, fd)| worker.kicks.unwatch(fd));
        worker.detach(number);
        Some(worker)
    }

    /// Its worker is woken by `kick` for `cause`, and no longer by what was there before. Looks at the source once, in case that
    /// a kick went elsewhere.
    ///
    /// # Errors
    /// The kernel's: the descriptor cannot be watched.
    pub(super) fn watch(&self, cause: Cause, kick: Option<OwnedFd>) -> io::Result<()> {
        let mut place = self.place.lock();
        let Place { worker, kicks } = &mut *place;
        let slot = &mut kicks[usize::from(cause == Cause::Receive)];
        let before = std::mem::replace(slot, kick);
        let Some((worker, number)) = worker else { return Ok(()) };
        before.iter().for_each(|fd| worker.kicks.unwatch(fd));
        let result = slot.as_ref().map_or(Ok(()), |fd| worker.kicks.watch(*number, cause, fd));
        worker.kicks.poke(*number);
        result
    }

    /// Has its worker look at it soon.
    pub(super) fn poke(&self) {
        if let Some((worker, number)) = &self.place.lock().worker {
            worker.kicks.poke(*number);
        }
    }
}
