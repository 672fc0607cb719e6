//! Which workers serve a device, and how another group takes it over while its traffic goes on.

use super::group::Group;
use super::seat::Seat;
use super::source::Source;
use super::worker::Worker;
use super::{Plane, join};
use anyhow::Context;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where the queues of one device are served.
pub(super) struct Service {
    /// By source.
    pub(super) seats: Box<[Seat]>,
    /// The workers that serve them.
    pub(super) group: Mutex<Arc<Group>>,
    /// The device's own worker, in a group where each has one.
    own: Mutex<Option<OwnWorker>>,
}

/// A worker that serves one device alone, and its thread.
struct OwnWorker {
    worker: Arc<Worker>,
    thread: JoinHandle<()>,
}

impl OwnWorker {
    /// Ends it; nothing is served by it any more.
    fn end(self, group: &Group) {
        self.worker.stop();
        group.remove(&self.worker);
        join(std::iter::once(self.thread));
    }
}

impl Service {
    /// For a device with so many sources; nobody serves it yet.
    pub(super) fn new(sources: usize, group: Arc<Group>) -> Self {
        let seats = (0..sources).map(|_| Seat::default()).collect();
        Self { seats, group: Mutex::new(group), own: Mutex::default() }
    }

    /// Has the worker of a source look at it.
    pub(super) fn poke(&self, index: u16) {
        self.seats[usize::from(index)].poke();
    }

    /// Nobody serves the device's sources any more.
    pub(super) fn end(&self, sources: impl Iterator<Item = Source>) {
        sources.for_each(|source| {
            source.seat().leave(&source);
        });
        if let Some(own) = self.own.lock().take() {
            own.end(&self.group.lock());
        }
    }
}

impl Plane {
    /// Has the workers of its group serve a device: a worker of its own, or those with the fewest sources.
    pub(super) fn begin_service(
        &self,
        service: &Service,
        sources: impl Iterator<Item = Source>,
    ) -> anyhow::Result<()> {
        let group = Arc::clone(&service.group.lock());
        let mut own = None;
        if group.is_per_device() {
            let (worker, thread) = self.add_worker(&group)?;
            own = Some(Arc::clone(&worker));
            *service.own.lock() = Some(OwnWorker { worker, thread });
        }
        for source in sources {
            let worker = own.clone().or_else(|| group.least_loaded()).context("there is no worker")?;
            source.seat().take(&worker, &source)?;
        }
        Ok(())
    }

    /// Has another group serve a device; its traffic goes on.
    pub(super) fn change_service(
        &self,
        service: &Service,
        sources: impl Iterator<Item = Source>,
        group: Option<&str>,
    ) -> anyhow::Result<()> {
        let group = self.group(group)?;
        let before = std::mem::replace(&mut *service.group.lock(), Arc::clone(&group));
        if Arc::ptr_eq(&before, &group) {
            return Ok(());
        }
        let own = service.own.lock().take();
        self.begin_service(service, sources)?;
        own.into_iter().for_each(|own| own.end(&before));
        Ok(())
    }
}
