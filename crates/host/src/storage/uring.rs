//! The engine on io_uring: one ring for a queue, nothing that blocks, one entry into the kernel for a burst.

use super::bell::Bell;
use super::image::{Image, Kind};
use super::job::Step;
use super::raw::RawFile;
use super::requests::Requests;
use crate::sys::uring::{Owner, Ring};
use devices::storage::{IoFault, Outcome, Work};
use guestmem::{KeptRuns, Part};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Outcomes that are to be told, in order.
pub(super) type Told = VecDeque<(u64, Outcome)>;

pub(super) struct Uring {
    ring: Ring,
    pub(super) requests: Requests,
    /// Slots whose next operation could not be started.
    deferred: Vec<u32>,
    image: Arc<Image>,
    bell: Arc<Bell>,
}

impl Uring {
    pub(super) fn new(image: Arc<Image>, depth: u32, bell: Arc<Bell>, now: Instant) -> io::Result<Self> {
        let Kind::File(file) = &image.kind else { return Err(io::ErrorKind::Unsupported.into()) };
        let ring = Ring::new(depth, file, Arc::clone(&image) as Owner, &*bell)?;
        Ok(Self { ring, requests: Requests::new(depth, now), deferred: Vec::new(), image, bell })
    }

    fn file(image: &Image) -> &RawFile {
        match &image.kind {
            Kind::File(file) => file,
            _ => unreachable!("`new` takes files only"),
        }
    }

    /// Takes `slot`'s job on to its next operation, or to its end.
    fn step(&mut self, slot: u32, told: &mut Told) {
        let Some(job) = &mut self.requests.get(slot).job else { return };
        let outcome = match job.next(Self::file(&self.image), &self.bell) {
            Step::Done(outcome) => outcome,
            Step::Wait => return self.defer(slot),
            Step::Io(op) => match self.ring.start(slot, op, std::mem::take(&mut job.buffers)) {
                Ok(()) => return,
                Err(buffers) => {
                    job.buffers = buffers;
                    return self.defer(slot);
                }
            },
        };
        told.extend(self.requests.release(slot, outcome));
    }

    fn defer(&mut self, slot: u32) {
        self.requests.get(slot).is_deferred = true;
        self.deferred.push(slot);
    }

    pub(super) fn submit(
        &mut self,
        slot: u32,
        work: Work,
        runs: &KeptRuns,
        part: Part,
        len: usize,
        told: &mut Told,
    ) {
        self.requests.get(slot).job.get_or_insert_default().begin(work, runs, part, len);
        self.step(slot, told);
    }

    pub(super) fn send(&mut self) {
        self.ring.send();
    }

    pub(super) fn reap(&mut self, told: &mut Told) {
        self.ring.send();
        while let Some(completion) = self.ring.next() {
            let request = self.requests.get(completion.slot);
            if let Some(job) = &mut request.job {
                job.buffers = completion.buffers;
                job.result(Self::file(&self.image), completion.result);
            }
            self.step(completion.slot, told);
        }
        for slot in std::mem::take(&mut self.deferred) {
            self.requests.get(slot).is_deferred = false;
            self.step(slot, told);
        }
        self.ring.send();
    }

    /// Whether completions ring the bell; see [`super::Engine::rest`].
    pub(super) fn notify(&mut self, on: bool) {
        self.ring.notify(on);
    }

    pub(super) fn is_ready(&mut self) -> bool {
        self.ring.has_completions() || self.ring.has_unsent()
    }

    /// Gives `slot` up if the kernel lets go of it. True: it has ended already.
    pub(super) fn abort(&mut self, slot: u32, told: &mut Told) -> bool {
        let request = self.requests.get(slot);
        request.is_aborted = true;
        if let Some(job) = &mut request.job {
            job.abort();
        }
        if !request.is_deferred {
            self.ring.cancel(slot);
            return false;
        }
        self.deferred.retain(|deferred| *deferred != slot);
        told.extend(self.requests.release(slot, Err(IoFault::Aborted.into())));
        true
    }
}
