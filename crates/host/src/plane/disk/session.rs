//! A disk's conversation with its front-ends: what each event means for its queues, its cache and its size.

use super::super::conversation::{Conversation, Device, End, PAUSE, usable};
use super::super::kicks::Cause;
use super::super::listen::Endpoint;
use super::super::port::Facts;
use super::super::protocol::{Function, Protocol};
use super::Disk;
use super::queue::{LiveDisk, Start};
use crate::storage::{Engine, EngineKind, Image};
use devices::blk::{Acknowledged, WriteCache, config};
use devices::storage::{IoFault, Work};
use guestmem::{GuestMemory, KeptRuns, Part};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use transport::event::{Event, Outcome, QueueRestart, QueueStart};
use virtqueue::{DeviceQueue, Endian, RingState};

/// How long a queue that stops waits for what the disk has of it.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Serves a disk's front-ends, one after the other, until the disk stops; the thread's body.
pub(in super::super) fn run(disk: &Arc<Disk>) {
    let name = &disk.name;
    while let Some(stream) = disk.endpoint.next(&disk.stopping) {
        tracing::info!(disk = name, "front-end connected");
        *disk.facts.lock() = Facts { connected: true, ..Facts::default() };
        let end = serve(disk, stream);
        let mut facts = disk.facts.lock();
        facts.connected = false;
        if end.is_usual() {
            tracing::info!(disk = name, "{end}");
        } else {
            tracing::warn!(disk = name, "{end}");
            facts.fault = Some(end.to_string());
        }
        drop(facts);
        if matches!(disk.endpoint, Endpoint::Client { .. }) {
            disk.stopping.sleep(PAUSE);
        }
    }
}

/// One connection, from its beginning to its end.
fn serve(disk: &Arc<Disk>, stream: UnixStream) -> End {
    let mut device = DiskDevice::new(disk);
    let bytes = device.config_bytes();
    let queues = disk.queues.len() as u16;
    let protocol = match &disk.config.load().attach.function {
        Some(function) => Function::for_disk(function, disk.offered.features().bits(), queues, &bytes)
            .map(|function| Protocol::VfioUser(Box::new(function))),
        None => Ok(Protocol::vhost_user(disk.offered.features().bits(), queues, &bytes, true)),
    };
    let end = match protocol {
        Ok(protocol) => {
            Conversation::new(stream, protocol, &disk.stopping, &disk.attention).serve(&mut device)
        }
        Err(fault) => fault.into(),
    };
    device.stop_all();
    end
}

/// What one connection knows of its device.
struct DiskDevice<'s> {
    disk: &'s Arc<Disk>,
    /// `None` until the driver has chosen of what was offered.
    acknowledged: Option<Acknowledged>,
    cache: WriteCache,
    memory: Arc<GuestMemory>,
    /// Queues whose ring's memory is gone for now, and where they stood.
    suspended: Vec<Option<(LiveDisk, RingState)>>,
}

impl Device for DiskDevice<'_> {
    fn handle(&mut self, protocol: &mut Protocol, event: Event) -> Outcome {
        match event {
            Event::Features { acknowledged, restart } => self.features(protocol, acknowledged, restart),
            Event::Memory { memory, restart } => {
                self.memory = memory;
                self.restart(restart)
            }
            Event::QueuesRestart(restart) => self.restart(restart),
            Event::QueueStart(start) => self.start(protocol, *start),
            Event::QueueStop { index, .. } => Outcome::Stopped(self.stop(index)),
            Event::QueueEnable { index, enabled } => self.with_live(index, |live| live.enabled = enabled),
            Event::QueueKick { index, kick } => self.replace_kick(index, kick),
            Event::QueueCall { index, call } => match usable(call) {
                Ok(call) => self.with_live(index, |live| {
                    live.call = call.map(Arc::new);
                    live.call_once();
                }),
                Err(outcome) => outcome,
            },
            Event::QueueErr { index, err } => match usable(err) {
                Ok(err) => self.with_live(index, |live| live.error = err),
                Err(outcome) => outcome,
            },
            Event::Status(status) => {
                tracing::debug!(disk = self.disk.name, status, "device status");
                Outcome::Done
            }
            Event::ResetDevice => {
                self.stop_all();
                self.acknowledged = None;
                self.cache.reset();
                self.use_cache(protocol);
                Outcome::Done
            }
            Event::ConfigWrite { offset, bytes, .. } => self.write_config(protocol, offset, &bytes),
            Event::QueueRefused { index, fault } => self.refuse(index, &fault.to_string()),
            Event::QueueFailed { index, fault } => {
                let text = format!("queue {index} retired: {fault}");
                tracing::warn!(disk = self.disk.name, "{text}");
                self.disk.facts.lock().fault = Some(text);
                Outcome::Done
            }
            Event::Mtu(_) | Event::AnnounceRarp(_) => Outcome::Failed,
            // These are settled before.
            Event::BackendChannel(_)
            | Event::QueueKicked { .. }
            | Event::Interrupt(_)
            | Event::Resample(_) => Outcome::Done,
        }
    }

    /// A queue was retired, some mapping died, or the size changed: tell the driver's side, or end.
    fn attend(&mut self, protocol: &mut Protocol) -> Result<(), End> {
        if self.memory.is_dead() {
            return Err(End::MemoryDied);
        }
        for (index, queue) in self.disk.queues.iter().enumerate() {
            let Some(fault) = queue.live.lock().as_ref().and_then(|live| live.queue.fault()) else {
                continue;
            };
            let text = format!("queue {index} retired: {fault}");
            if self.disk.facts.lock().fault.replace(text.clone()).as_ref() != Some(&text) {
                tracing::warn!(disk = self.disk.name, "{text}");
                queue.live.lock().iter().for_each(LiveDisk::report_error);
                protocol.needs_reset();
            }
        }
        if self.disk.resized.swap(false, Relaxed) {
            protocol.change_config(&self.config_bytes());
        }
        Ok(())
    }
}

impl<'s> DiskDevice<'s> {
    fn new(disk: &'s Arc<Disk>) -> Self {
        let cache = WriteCache::new(disk.operator_mode());
        disk.set_through(cache.through());
        let suspended = disk.queues.iter().map(|_| None).collect();
        Self { disk, acknowledged: None, cache, memory: Arc::default(), suspended }
    }

    fn config_bytes(&self) -> [u8; config::CONFIG_LEN] {
        self.disk.blk_config().bytes(Endian::Little, self.cache.writeback())
    }

    /// Requests that begin from now on follow the cache's mode, and the driver reads it.
    fn use_cache(&mut self, protocol: &mut Protocol) {
        self.disk.set_through(self.cache.through());
        protocol.show_config(&self.config_bytes());
    }

    /// Takes the driver's choice; anything not offered is refused and the rings do not start.
    fn features(&mut self, protocol: &mut Protocol, bits: u64, restart: Vec<QueueRestart>) -> Outcome {
        let bits = protocol.without_platform(bits);
        match Acknowledged::new(self.disk.offered, bits) {
            Ok(acknowledged) => {
                self.acknowledged = Some(acknowledged);
                self.cache.acknowledge(acknowledged);
                self.use_cache(protocol);
                self.disk.facts.lock().acknowledged = acknowledged.names().collect();
                self.restart(restart)
            }
            Err(fault) => {
                self.acknowledged = None;
                tracing::warn!(disk = self.disk.name, "features: {fault}");
                self.disk.facts.lock().fault = Some(format!("features: {fault}"));
                Outcome::Failed
            }
        }
    }

    /// The driver may change one field: the mode of the cache. What it was told was written, and may be volatile, is made stable before
    /// the cache is write-through, since from then on nobody flushes it.
    fn write_config(&mut self, protocol: &mut Protocol, offset: u32, bytes: &[u8]) -> Outcome {
        let Some(value) = config::write(offset, bytes) else { return Outcome::Done };
        if self.cache.write(value) {
            self.disk.set_through(self.cache.through());
            if self.cache.through()
                && let Err(fault) = stabilize(&self.disk.image)
            {
                tracing::warn!(disk = self.disk.name, %fault, "what was written could not be made stable");
            }
        }
        protocol.show_config(&self.config_bytes());
        Outcome::Done
    }

    fn start(&mut self, protocol: &Protocol, start: QueueStart) -> Outcome {
        let QueueStart { index, setup, state, kick, call, err, enabled, memory } = start;
        let Some(queue) = self.disk.queues.get(usize::from(index)) else {
            return self.refuse(index, "there is no such queue");
        };
        let (Ok(kick), Ok(call), Ok(error)) = (usable(kick), usable(call), usable(err)) else {
            return self.refuse(index, "a kick, call or error descriptor is no eventfd");
        };
        let Some(acknowledged) = self.acknowledged else {
            return self.refuse(index, "no features were agreed");
        };
        let memory = memory.unwrap_or_else(|| Arc::clone(&self.memory));
        let device_queue = match protocol.queue(&memory, &setup, state) {
            Ok(queue) => queue,
            Err(fault) => return self.refuse(index, &fault.to_string()),
        };
        let engine = Engine::new(Arc::clone(&self.disk.image), EngineKind::Auto, setup.size.get().into());
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => return self.refuse(index, &format!("no engine for its requests: {error}")),
        };
        tracing::debug!(
            disk = self.disk.name,
            index,
            engine = engine.name(),
            recorded = setup.in_flight.is_some(),
            "queue runs"
        );
        let start = Start {
            queue: device_queue,
            memory,
            acknowledged,
            // Over vfio-user a driver does not outlive us.
            in_order: setup.in_flight.is_none() && !protocol.is_function(),
            enabled,
            call: call.map(Arc::new),
            error,
            polled: kick.is_none(),
        };
        let mut live = LiveDisk::new(start, engine);
        // A back-end before us may have been killed between using buffers and saying so.
        live.call_once();
        let bell = live.bell().try_clone_to_owned();
        *queue.live.lock() = Some(live);
        self.watch(index, Cause::Transmit, kick);
        match bell {
            Ok(bell) => self.watch(index, Cause::Receive, Some(bell)),
            Err(error) => return self.refuse(index, &error.to_string()),
        }
        Outcome::Done
    }

    fn refuse(&self, index: u16, why: &str) -> Outcome {
        tracing::warn!(disk = self.disk.name, index, "queue does not start: {why}");
        self.disk.facts.lock().fault = Some(format!("queue {index} does not start: {why}"));
        Outcome::Failed
    }

    fn stop(&mut self, index: u16) -> RingState {
        let Some(queue) = self.disk.queues.get(usize::from(index)) else { return RingState::default() };
        self.watch(index, Cause::Transmit, None);
        self.watch(index, Cause::Receive, None);
        if let Some((_, state)) = self.suspended[usize::from(index)].take() {
            return state;
        }
        let taken = queue.live.lock().take();
        let Some(mut live) = taken else { return RingState::default() };
        live.drain(&queue.stats, DRAIN_LIMIT);
        live.state()
    }

    fn stop_all(&mut self) {
        for index in 0..self.disk.queues.len() as u16 {
            self.stop(index);
        }
    }

    /// Moves running and suspended queues to a new set-up: same place in the ring, other memory, addresses or log.
    fn restart(&mut self, restarts: Vec<QueueRestart>) -> Outcome {
        let mut outcome = Outcome::Done;
        for QueueRestart { index, setup } in restarts {
            let Some(queue) = self.disk.queues.get(usize::from(index)) else { continue };
            let suspended = &mut self.suspended[usize::from(index)];
            // Out of its place while it is drained: its worker has others to serve, and waits for nobody's disk.
            let taken = queue.live.lock().take();
            let taken = taken.map(|mut live| {
                live.drain(&queue.stats, DRAIN_LIMIT);
                let state = live.state();
                (live, state)
            });
            let Some((mut live, state)) = taken.or_else(|| suspended.take()) else { continue };
            match setup.map(|setup| DeviceQueue::new(&self.memory, &setup, state)) {
                Some(Ok(moved)) => {
                    live.move_to(moved, Arc::clone(&self.memory));
                    *queue.live.lock() = Some(live);
                }
                Some(Err(fault)) => {
                    outcome = self.refuse(index, &fault.to_string());
                    continue;
                }
                None => *suspended = Some((live, state)),
            }
            self.disk.poke(index);
        }
        outcome
    }

    fn with_live(&mut self, index: u16, change: impl FnOnce(&mut LiveDisk)) -> Outcome {
        let Some(queue) = self.disk.queues.get(usize::from(index)) else { return Outcome::Failed };
        if let Some(live) = queue.live.lock().as_mut() {
            change(live);
        } else if let Some((live, _)) = &mut self.suspended[usize::from(index)] {
            change(live);
        }
        self.disk.poke(index);
        Outcome::Done
    }

    fn replace_kick(&mut self, index: u16, kick: Option<OwnedFd>) -> Outcome {
        let kick = match usable(kick) {
            Ok(kick) => kick,
            Err(outcome) => return outcome,
        };
        let polled = kick.is_none();
        self.watch(index, Cause::Transmit, kick);
        self.with_live(index, |live| live.polled = polled)
    }

    /// Has the worker of a queue woken by its kicks, and by the end of its requests.
    fn watch(&mut self, index: u16, cause: Cause, fd: Option<OwnedFd>) {
        let Some(seat) = self.disk.service.seats.get(usize::from(index)) else { return };
        if let Err(error) = seat.watch(cause, fd) {
            tracing::warn!(disk = self.disk.name, index, %error, "kicks are not watched: the queue is polled");
            self.with_live(index, |live| live.polled = true);
        }
    }
}

/// Makes stable what was written to an image so far; waits for it, for [`DRAIN_LIMIT`] at most.
fn stabilize(image: &Arc<Image>) -> Result<(), IoFault> {
    let mut engine = Engine::new(Arc::clone(image), EngineKind::Auto, 1).map_err(|_| IoFault::Medium)?;
    let began = Instant::now();
    engine.submit(0, Work::Flush, &KeptRuns::new(), Part::default()).map_err(|_| IoFault::Medium)?;
    engine.send();
    let mut outcome = None;
    while engine.reap(|_, told| outcome = Some(told)) == 0 {
        let left = DRAIN_LIMIT.saturating_sub(began.elapsed());
        if left.is_zero() {
            engine.abandon(0);
        }
        engine.wait(left);
    }
    outcome.map_or(Ok(()), |told| told.map_err(|failure| failure.fault))
}
