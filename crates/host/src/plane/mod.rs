//! The data plane: switches, ports, workers and sessions, built from a configuration.
//!
//! Threads: one for each worker (they move frames), one for each vhost-user port (it talks to the front-end and sleeps
//! otherwise), one that ages the FDBs once a second. How they share ports: docs/adr/0003.

mod control;
mod forward;
mod kicks;
mod listen;
mod notify;
mod port;
mod session;
mod socket;
mod stats;
mod tap;
mod view;
mod worker;

use crate::config::resolved::{Attach, Config, PortConfig, Profile, WorkerMode};
use anyhow::Context;
use arc_swap::ArcSwap;
use devices::net::features::{GUEST_OFFLOADS, IMPLEMENTED};
use devices::net::{Features, Offered};
use notify::Wake;
use parking_lot::Mutex;
use port::{Attachment, GuestPort, Port, Source, SwitchPlane};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;
use switch::{Bridge, BridgeConfig, Now, PortFlags, PortId, UnicastMac};
use tap::TapPort;
use worker::Worker;

/// A running data plane. Stops when dropped.
pub struct Plane {
    origin: Origin,
    mode: WorkerMode,
    switches: Vec<Arc<SwitchPlane>>,
    ports: Vec<Arc<Port>>,
    workers: Vec<Arc<Worker>>,
    stopping: Arc<Stopping>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Tells the plane's threads to end.
struct Stopping {
    flag: AtomicBool,
    wake: Wake,
}

/// What every thread of one plane shares.
#[derive(Clone, Copy)]
struct Origin {
    /// When the plane started: the zero of [`Now`].
    started: Instant,
    /// Secret of this start, for hashes of what guests choose.
    seed: u64,
}

/// Builds and starts everything that `config` names. Sockets are bound and taps opened before this returns.
///
/// # Errors
/// A socket that cannot be bound, a tap that cannot be opened, a thread that cannot be made: with the port's name.
pub fn start(config: &Config) -> anyhow::Result<Arc<Plane>> {
    raise_descriptor_limit();
    let origin = Origin { started: Instant::now(), seed: RandomState::new().hash_one(std::process::id()) };
    let mut plane = Plane {
        origin,
        mode: config.workers.mode,
        switches: config.switches.iter().map(|switch| switch_plane(switch, origin.seed)).collect(),
        ports: Vec::new(),
        workers: Vec::new(),
        stopping: Arc::new(Stopping { flag: AtomicBool::new(false), wake: Wake::new()? }),
        threads: Mutex::new(Vec::new()),
    };
    if let WorkerMode::Pool { threads } = config.workers.mode {
        for _ in 0..threads {
            plane.add_worker(config, origin)?;
        }
    }
    for port in &config.ports {
        plane.add_port(config, port, origin).with_context(|| format!("port.{}", port.name))?;
    }
    plane.start_ageing(origin)?;
    Ok(Arc::new(plane))
}

/// A queue needs up to three descriptors and the usual soft limit is 1024: takes what the hard limit allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn switch_plane(config: &crate::config::resolved::SwitchConfig, seed: u64) -> Arc<SwitchPlane> {
    let mut bridge = BridgeConfig::new(seed);
    bridge.ageing_ms = config.ageing.as_millis().min(u128::from(BridgeConfig::AGEING_MS_MAX)) as u32;
    bridge.max_entries = config.entries_max as u32;
    Arc::new(SwitchPlane {
        name: config.name.clone(),
        bridge: Bridge::new(bridge),
        ports: ArcSwap::default(),
    })
}

/// What a guest's NIC offers: everything implemented, less what the configuration leaves out.
fn offered(port: &PortConfig) -> Offered {
    let ring = Features::VERSION_1
        | Features::INDIRECT_DESC
        | Features::EVENT_IDX
        | Features::RING_PACKED
        | Features::IN_ORDER
        | Features::RING_RESET
        | Features::ANY_LAYOUT;
    let mut features = IMPLEMENTED | ring;
    if !port.offloads {
        features -= GUEST_OFFLOADS | Features::CTRL_GUEST_OFFLOADS | Features::CSUM | Features::HOST_TSO4;
        features -= Features::HOST_TSO6 | Features::HOST_ECN | Features::HOST_UFO | Features::HOST_USO;
    }
    if port.mac.is_none() {
        features -= Features::MAC;
    }
    if port.mtu.is_none() {
        features -= Features::MTU;
    }
    Offered::new(features)
}

impl Plane {
    fn add_worker(&mut self, config: &Config, origin: Origin) -> anyhow::Result<Arc<Worker>> {
        let index = self.workers.len();
        let cpus = &config.workers.cpus;
        let cpu = (!cpus.is_empty()).then(|| cpus[index % cpus.len()]);
        let worker = Worker::new(format!("rw-worker-{index}"), cpu)?;
        self.workers.push(Arc::clone(&worker));
        let body = Arc::clone(&worker);
        self.spawn(worker.name.clone(), move || body.run(origin))?;
        Ok(worker)
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        let thread = std::thread::Builder::new().name(name).spawn(body)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn add_port(&mut self, config: &Config, port: &PortConfig, origin: Origin) -> anyhow::Result<()> {
        let switch = self.switches.iter().find(|switch| switch.name == port.switch);
        let switch = Arc::clone(switch.with_context(|| format!("there is no switch {}", port.switch))?);
        let id =
            PortId(u16::try_from(switch.ports.load().len()).context("more than 65536 ports on one switch")?);
        let locked_to =
            (port.profile == Profile::Guest).then_some(port.mac).flatten().and_then(UnicastMac::new);
        let (attachment, listener) = match &port.attach {
            Attach::VhostUser { socket, role, queue_pairs } => {
                let endpoint = listen::Endpoint::open(socket, *role)?;
                (Attachment::Guest(Box::new(GuestPort::new(*queue_pairs, offered(port))?)), Some(endpoint))
            }
            Attach::Tap { name, queues } => {
                let tap = TapPort::open(name, *queues, port);
                (Attachment::Tap(tap.with_context(|| format!("tap {name}"))?), None)
            }
        };
        let port =
            Arc::new(Port { id, config: port.clone(), switch: Arc::clone(&switch), locked_to, attachment });
        switch.bridge.add_port(id)?;
        if let Some(mac) = locked_to {
            // The guest's own address is known: nothing to learn, and nothing unknown is for it.
            switch.bridge.set_port_flags(id, PortFlags { learning: false, flood: false })?;
            switch.bridge.add_static(mac, id, Now::from_millis(0))?;
        }
        let mut ports = Vec::clone(&switch.ports.load());
        ports.push(Some(Arc::clone(&port)));
        switch.ports.store(Arc::new(ports));
        self.ports.push(Arc::clone(&port));
        self.give_to_workers(config, &port, origin)?;
        if let Some(endpoint) = listener {
            let session =
                session::Serving { port: Arc::clone(&port), stopping: Arc::clone(&self.stopping), origin };
            self.spawn(format!("rw-{}", port.config.name), move || session.run(endpoint))?;
        }
        Ok(())
    }

    /// Spreads a port's sources over the workers: its own worker, or the pool's in turn.
    fn give_to_workers(&mut self, config: &Config, port: &Arc<Port>, origin: Origin) -> anyhow::Result<()> {
        let own = match config.workers.mode {
            WorkerMode::PerDevice => Some(self.add_worker(config, origin)?),
            WorkerMode::Pool { .. } => None,
        };
        let count = match &port.attachment {
            Attachment::Guest(guest) => guest.transmit.len(),
            Attachment::Tap(tap) => tap.queues.len(),
        };
        for index in 0..count as u16 {
            let worker = own.clone().unwrap_or_else(|| self.least_loaded());
            let number = worker.attach(Source { port: Arc::clone(port), index });
            match &port.attachment {
                Attachment::Guest(guest) => {
                    let owner = &guest.transmit[usize::from(index)].owner;
                    owner.get_or_init(|| (Arc::clone(&worker.kicks), number));
                }
                Attachment::Tap(tap) => worker.kicks.watch(number, &tap.queues[usize::from(index)].file)?,
            }
        }
        Ok(())
    }

    fn least_loaded(&self) -> Arc<Worker> {
        let least = self.workers.iter().min_by_key(|worker| worker.source_count());
        Arc::clone(least.expect("a pool has at least one worker"))
    }

    fn start_ageing(&self, origin: Origin) -> anyhow::Result<()> {
        let (switches, stopping) = (self.switches.clone(), Arc::clone(&self.stopping));
        self.spawn("rw-ageing".into(), move || {
            while !stopping.sleep(Timespec { tv_sec: 1, tv_nsec: 0 }) {
                let now = origin.now();
                for switch in &switches {
                    switch.bridge.age(now);
                }
            }
        })
    }

    /// Ends all threads, closes all sessions and removes the sockets that were bound. Does nothing the second time.
    pub fn stop(&self) {
        self.stopping.flag.store(true, Relaxed);
        self.stopping.wake.wake();
        for worker in &self.workers {
            worker.stop();
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the data plane had panicked");
            }
        }
        for worker in &self.workers {
            worker.detach_all();
        }
        for switch in &self.switches {
            switch.ports.store(Arc::default());
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Origin {
    /// The time now, as the switch counts it.
    fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// A moment, as the switch counts it.
    fn at(&self, moment: Instant) -> Now {
        Now::from_millis(moment.saturating_duration_since(self.started).as_millis() as u64)
    }
}

impl Stopping {
    fn is_set(&self) -> bool {
        self.flag.load(Relaxed)
    }

    /// Sleeps for `time` at most; whether it is time to end.
    fn sleep(&self, time: Timespec) -> bool {
        // The wake-up is never cleared: it is for every thread, once.
        let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&time));
        self.is_set()
    }
}
