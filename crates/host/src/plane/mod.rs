//! The data plane: switches, ports, workers and sessions, built from a configuration and changed to another one while it
//! runs.
//!
//! Threads: one for each worker (they move frames and serve disks), one for each guest's port and disk (it talks to the front-end and
//! sleeps otherwise), one for each QMP socket that is followed, one that looks after FDBs and interfaces once a second, one that keeps the
//! filters of the host's interfaces, one that compares the load of workers. How they share ports: docs/adr/0003.

mod addresses;
mod admin;
mod backlog;
mod calls;
mod change;
mod commands;
mod control;
mod conversation;
mod deliver;
mod disk;
mod fdb;
mod forward;
mod group;
mod kicks;
mod lanes;
mod link;
mod listen;
mod monitor;
mod notify;
mod polling;
mod port;
mod protocol;
#[doc(hidden)]
pub mod rig;
mod seat;
mod service;
mod session;
mod share;
mod socket;
mod source;
mod stats;
mod uplinks;
mod view;
mod worker;

use crate::api::Refusal;
use crate::api::view::ChangeView;
use crate::capture::Captures;
use crate::config::resolved::{Config, WorkerMode, WorkersConfig};
use arc_swap::ArcSwap;
use disk::Disk;
use group::Group;
use notify::Wake;
use parking_lot::Mutex;
use port::{Port, SwitchPlane};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use switch::Now;
use uplinks::Uplinks;
use worker::Worker;

/// A running data plane. Stops when dropped.
pub struct Plane {
    origin: Origin,
    /// What runs now. Written by [`Plane::change_to`] alone.
    config: ArcSwap<Config>,
    switches: Arc<ArcSwap<Vec<Arc<SwitchPlane>>>>,
    /// In the order of the configuration.
    ports: ArcSwap<Vec<Arc<Port>>>,
    /// In the order of the configuration.
    disks: ArcSwap<Vec<Arc<Disk>>>,
    /// `[workers]` first. A group is as it was made until it goes.
    groups: Arc<ArcSwap<Vec<Arc<Group>>>>,
    captures: Captures,
    uplinks: Arc<Uplinks>,
    /// One change at a time.
    changing: Mutex<()>,
    stopping: Arc<Stopping>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Tells threads to end.
struct Stopping {
    flag: AtomicBool,
    wake: Wake,
}

/// What can be taken away from a plane, to measure what it gains. No configuration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Frames go straight into their receiver's buffers where that can be ("fast rx"). Else every frame goes through the
    /// backlog of its receive queue, and is delivered by the worker that owns the queue.
    pub direct: bool,
    /// Workers go on to look for a while before they sleep. Else they sleep as soon as there is no work, as vhost's do,
    /// unless they never sleep.
    pub lingers: bool,
}

impl Ways {
    /// What everybody runs.
    pub const ALL: Self = Self { direct: true, lingers: true };
}

/// What every thread of one plane shares.
#[derive(Clone, Copy)]
struct Origin {
    ways: Ways,
    /// When the plane started: the zero of [`Now`].
    started: Instant,
    /// Secret of this start, for hashes of what guests choose.
    seed: u64,
}

/// Builds and starts everything that `config` names. Sockets are bound and interfaces opened before this returns.
///
/// # Errors
/// A socket that cannot be bound, an interface that cannot be opened, a thread that cannot be made: with the port's name.
pub fn start(config: &Config) -> anyhow::Result<Arc<Plane>> {
    start_with(config, Ways::ALL)
}

/// As [`start`], without some of its ways; for measuring.
///
/// # Errors
/// As [`start`].
pub fn start_with(config: &Config, ways: Ways) -> anyhow::Result<Arc<Plane>> {
    raise_descriptor_limit();
    let seed = RandomState::new().hash_one(std::process::id());
    let origin = Origin { ways, started: Instant::now(), seed };
    let nothing = Config {
        worker_groups: Vec::new(),
        switches: Vec::new(),
        ports: Vec::new(),
        disks: Vec::new(),
        ..config.clone()
    };
    let plane = Plane {
        origin,
        config: ArcSwap::from_pointee(nothing),
        switches: Arc::default(),
        ports: ArcSwap::default(),
        disks: ArcSwap::default(),
        groups: Arc::default(),
        captures: Captures::default(),
        uplinks: Arc::new(Uplinks::new()?),
        changing: Mutex::new(()),
        stopping: Arc::new(Stopping::new()?),
        threads: Mutex::new(Vec::new()),
    };
    plane.add_group(None, &config.workers)?;
    plane.start_balance()?;
    plane.start_ageing()?;
    plane.start_uplinks()?;
    plane.change_to(config.clone()).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
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

impl Plane {
    /// Makes a group of workers, and the threads that it has from the start.
    fn add_group(&self, name: Option<&str>, config: &WorkersConfig) -> anyhow::Result<()> {
        let group = Arc::new(Group::new(name.map(str::to_owned), config.clone()));
        let mut groups = Vec::clone(&self.groups.load());
        groups.push(Arc::clone(&group));
        self.groups.store(Arc::new(groups));
        let (WorkerMode::Pool { threads } | WorkerMode::Sidecore { threads }) = config.mode else {
            return Ok(());
        };
        for _ in 0..threads {
            let (_, thread) = self.add_worker(&group)?;
            group.threads.lock().push(thread);
        }
        Ok(())
    }

    /// Makes a worker of a group and its thread.
    fn add_worker(&self, group: &Group) -> anyhow::Result<(Arc<Worker>, JoinHandle<()>)> {
        let mut made = group.made.lock();
        let WorkersConfig { mode, cpus, polling } = &group.config;
        let cpu = (!cpus.is_empty()).then(|| cpus[*made % cpus.len()]);
        let name = group.name.as_deref().unwrap_or("worker");
        let worker = Worker::new(format!("rw-{name}-{made}"), cpu, *mode, *polling)?;
        *made += 1;
        let (body, origin) = (Arc::clone(&worker), self.origin);
        let thread = spawn(worker.name.clone(), move || body.run(origin))?;
        group.workers.lock().push(Arc::clone(&worker));
        Ok((worker, thread))
    }

    /// The group that a port names.
    fn group(&self, name: Option<&str>) -> anyhow::Result<Arc<Group>> {
        let groups = self.groups.load();
        let group = groups.iter().find(|group| group.name.as_deref() == name);
        group.map(Arc::clone).ok_or_else(|| anyhow::anyhow!("there is no such group of workers"))
    }

    /// Moves queues to workers that have less to do.
    fn start_balance(&self) -> anyhow::Result<()> {
        let (groups, stopping) = (Arc::clone(&self.groups), Arc::clone(&self.stopping));
        let thread = spawn("rw-balance".into(), move || {
            let mut before = Instant::now();
            while !stopping.sleep(polling::timespec(group::BALANCE_INTERVAL)) {
                let elapsed = before.elapsed();
                before = Instant::now();
                groups.load().iter().for_each(|group| group.balance(elapsed));
            }
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Has workers compared as if the last time was `elapsed` ago, and a queue of each group moved if that helps. Happens by
    /// itself ten times a second.
    pub fn balance(&self, elapsed: Duration) {
        self.groups.load().iter().for_each(|group| group.balance(elapsed));
    }

    /// The time that each transmit queue of a port, or queue of an interface, was served since the start; none of an unknown port.
    pub fn served(&self, port: &str) -> Vec<Duration> {
        let ports = self.ports.load();
        let seats =
            ports.iter().find(|other| other.name == port).into_iter().flat_map(|port| &port.service.seats);
        seats.map(|seat| Duration::from_nanos(seat.busy_ns.load(Relaxed))).collect()
    }

    fn start_ageing(&self) -> anyhow::Result<()> {
        let (switches, stopping) = (Arc::clone(&self.switches), Arc::clone(&self.stopping));
        let origin = self.origin;
        let thread = spawn("rw-ageing".into(), move || {
            while !stopping.sleep(Timespec { tv_sec: 1, tv_nsec: 0 }) {
                let now = origin.now();
                for switch in switches.load().iter() {
                    switch.bridge.age(now);
                    switch.ports.load().iter().flatten().for_each(|port| port.tend());
                }
            }
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn start_uplinks(&self) -> anyhow::Result<()> {
        let (uplinks, switches) = (Arc::clone(&self.uplinks), Arc::clone(&self.switches));
        let (stopping, origin) = (Arc::clone(&self.stopping), self.origin);
        let thread = spawn("rw-uplinks".into(), move || uplinks.run(&switches, &stopping, origin))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Goes over to another configuration, as a whole or not at all.
    fn apply_config(&self, config: Config) -> Result<ChangeView, Refusal> {
        self.change_to(config)
    }

    /// Ends all threads, closes all sessions and removes the sockets that were bound. Does nothing the second time.
    pub fn stop(&self) {
        self.stopping.set();
        let _one = self.changing.lock();
        // While their workers run: requests that the disks have are waited for.
        self.disks.load_full().iter().for_each(|disk| disk.stopping.set());
        self.disks.load_full().iter().for_each(|disk| self.take_out_disk(disk));
        let ports = self.ports.swap(Arc::default());
        ports.iter().for_each(|port| port.stopping.set());
        let groups = self.groups.load();
        let workers: Vec<_> = groups.iter().flat_map(|group| group.workers.lock().clone()).collect();
        workers.iter().for_each(|worker| worker.stop());
        for port in ports.iter() {
            change::end_monitor(port.monitor.lock().take());
            join(port.threads.lock().drain(..));
        }
        join(self.threads.lock().drain(..));
        groups.iter().for_each(|group| join(group.threads.lock().drain(..)));
        workers.iter().for_each(|worker| worker.detach_all());
        for switch in self.switches.load().iter() {
            switch.ports.store(Arc::default());
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(body)
}

fn join(threads: impl Iterator<Item = JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the data plane had panicked");
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
    fn new() -> std::io::Result<Self> {
        Ok(Self { flag: AtomicBool::new(false), wake: Wake::new()? })
    }

    fn set(&self) {
        self.flag.store(true, Relaxed);
        self.wake.wake();
    }

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
