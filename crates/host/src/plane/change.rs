//! Going from one configuration to another while frames flow.
//!
//! What did not change is not touched. A port whose settings alone changed gets them while its traffic goes on; one whose
//! attachment changed is replaced. Everything new is built before anything old goes, but for interfaces that can be
//! open only once. If a step fails, what was done is undone, and the old configuration stays.

use super::addresses;
use super::disk::DisksDone;
use super::group::Group;
use super::link::LinkPort;
use super::listen::Endpoint;
use super::monitor::Monitor;
use super::notify::Wake;
use super::port::{Attachment, Followed, GuestPort, Port, SwitchPlane};
use super::{Plane, Stopping, join, session, spawn};
use crate::api::Refusal;
use crate::api::view::ChangeView;
use crate::config::diff::{Difference, PortChange, SwitchChange};
use crate::config::resolved::{Attach, Config, ControlConfig, PortConfig, SocketRole, SwitchConfig};
use crate::inherited;
use anyhow::Context;
use devices::net::features::{GUEST_OFFLOADS, IMPLEMENTED};
use devices::net::{Features, Offered};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use switch::{BridgeConfig, PortId};

/// How long the number of a port that is gone is not given to another one.
const QUARANTINE: Duration = Duration::from_secs(1);
/// How long a change waits until workers let go of an interface.
const RELEASE_WAIT: Duration = Duration::from_millis(500);

/// What a change is made of, by port and switch.
#[derive(Default)]
struct Plan {
    /// Switches by name, as they will be.
    switches: HashMap<String, Arc<SwitchPlane>>,
    /// Ports that go; a replaced one is also in `come`.
    go: Vec<Arc<Port>>,
    come: Vec<PortConfig>,
    /// Ports that stay, with their new settings.
    stay: Vec<(Arc<Port>, PortConfig)>,
}

impl Plane {
    /// Goes over to `new`.
    pub(super) fn change_to(&self, new: Config) -> Result<ChangeView, Refusal> {
        let _one = self.changing.lock();
        if self.stopping.is_set() {
            return Err(Refusal::Failed("ringway stops".into()));
        }
        let old = self.config.load_full();
        let difference = old.diff(&new);
        let plan = self.plan(&difference, &new);
        let mut done = Done::default();
        self.add_groups(&new)?;
        let mut disks = DisksDone::default();
        let carried = self.carry_out(plan, &new, &mut done);
        if let Err(error) = carried.and_then(|()| self.change_disks(&difference, &mut disks)) {
            self.undo_disks(disks);
            self.undo(done, &old);
            return Err(Refusal::Failed(format!("{error:#}")));
        }
        self.finish(&new);
        Ok(difference.into())
    }

    /// What is to be done.
    fn plan(&self, difference: &Difference, new: &Config) -> Plan {
        let is_new = |name: &str| {
            difference.switches_added.iter().any(|switch| switch.name == name)
                || difference
                    .switches_changed
                    .iter()
                    .any(|changed| changed.new.name == name && changed.change == SwitchChange::Rebuild)
        };
        let mut plan = Plan::default();
        let switches = self.switches.load();
        for config in &new.switches {
            let running = switches.iter().find(|switch| switch.name == config.name);
            let kept = running.filter(|_| !is_new(&config.name));
            let switch = kept.map_or_else(|| self.switch_plane(config), Arc::clone);
            plan.switches.insert(config.name.clone(), switch);
        }
        let ports = self.ports.load();
        let running: HashMap<&str, &Arc<Port>> =
            ports.iter().map(|port| (port.name.as_str(), port)).collect();
        let port = |config: &PortConfig| running.get(config.name.as_str()).map(|port| Arc::clone(port));
        plan.go.extend(difference.ports_removed.iter().filter_map(port));
        for changed in &difference.ports_changed {
            match (changed.change, port(&changed.old)) {
                (PortChange::Live, Some(port)) => plan.stay.push((port, changed.new.clone())),
                (_, port) => {
                    plan.go.extend(port);
                    plan.come.push(changed.new.clone());
                }
            }
        }
        plan.come.extend(difference.ports_added.iter().cloned());
        plan
    }

    /// Does it. What was done is in `done`, for [`Self::undo`].
    fn carry_out(&self, plan: Plan, new: &Config, done: &mut Done) -> anyhow::Result<()> {
        let Plan { switches, go, come, stay } = plan;
        let switch_of = |config: &PortConfig| {
            let switch = switches.get(&config.switch);
            switch.with_context(|| format!("port.{}: there is no switch {}", config.name, config.switch))
        };
        // Everything that can be had while the old ports are there.
        let (early, late): (Vec<_>, Vec<_>) = come.into_iter().partition(|config| {
            !go.iter().any(|port| {
                config
                    .attach
                    .interface()
                    .is_some_and(|name| port.config.load().attach.interface() == Some(name))
            })
        });
        let (mut built, mut promised) = (Vec::new(), Promised::new());
        for config in early {
            built.push(self.build(&config, switch_of(&config)?, &go, &mut promised)?);
        }
        done.switches = Some(self.switches.swap(Arc::new(in_order(new, &switches))));
        done.went = go.iter().map(|port| Port::clone_config(port)).collect();
        for port in &go {
            self.take_out(port);
        }
        // An old address goes before another port takes it, so ports that stay change before new ones come.
        for (port, config) in &stay {
            let before = port.config.swap(Arc::new(config.clone()));
            done.changed.push((Arc::clone(port), before));
        }
        self.update_all(stay.into_iter().map(|(port, _)| port).collect())?;
        drop(go);
        for config in late {
            let port = self.build_late(&config, switch_of(&config)?, &mut promised)?;
            built.push(port);
        }
        for port in built {
            done.came.push(Arc::clone(&port));
            self.put_in(&port).with_context(|| format!("port.{}", port.name))?;
        }
        for switch in &new.switches {
            let ageing_ms = ageing_ms(switch);
            if let Some(plane) = switches.get(&switch.name) {
                plane.bridge.set_ageing(ageing_ms);
            }
        }
        Ok(())
    }

    /// Puts the old configuration back, as far as that goes: the last step first.
    fn undo(&self, done: Done, old: &Config) {
        for port in done.came.iter().rev() {
            self.take_out(port);
        }
        let changed = done.changed.into_iter().rev().map(|(port, before)| {
            port.config.store(before);
            port
        });
        if let Err(error) = self.update_all(changed.collect()) {
            tracing::error!("old settings cannot be put back: {error:#}");
        }
        if let Some(switches) = done.switches {
            self.switches.store(switches);
        }
        for (config, switch) in done.went {
            let built = self.build_late(&config, &switch, &mut Promised::new());
            let put = built.and_then(|port| self.put_in(&port).inspect_err(|_| self.take_out(&port)));
            if let Err(error) = put {
                tracing::error!(port = config.name, "it cannot be put back: {error:#}");
            }
        }
        self.sort_ports(old);
        self.sort_disks(old);
        self.uplinks.changed();
        self.switches.load().iter().for_each(|switch| switch.wake_sessions());
    }

    /// Gives ports that stay their new settings, which are in their `config` already. Ports may exchange addresses: then the
    /// old ones go before the new ones come.
    fn update_all(&self, ports: Vec<Arc<Port>>) -> anyhow::Result<()> {
        let failed: Vec<_> = ports.into_iter().filter(|port| self.update(port).is_err()).collect();
        failed.iter().for_each(|port| addresses::release(port, self.origin.now()));
        failed.iter().try_for_each(|port| self.update(port).with_context(|| format!("port.{}", port.name)))
    }

    fn finish(&self, new: &Config) {
        self.sort_ports(new);
        self.sort_disks(new);
        // What needs a restart is as it was, until there is one.
        let old = self.config.load();
        let control = ControlConfig { token_file: new.control.token_file.clone(), ..old.control.clone() };
        let mut worker_groups = new.worker_groups.clone();
        for group in &mut worker_groups {
            if let Ok(running) = self.group(Some(&group.name)) {
                group.workers = running.config.clone();
            }
        }
        let workers = old.workers.clone();
        self.config.store(Arc::new(Config { control, workers, worker_groups, ..new.clone() }));
        self.remove_groups(new);
        self.uplinks.changed();
        self.switches.load().iter().for_each(|switch| switch.wake_sessions());
    }

    /// Makes the groups of workers that are new.
    fn add_groups(&self, new: &Config) -> Result<(), Refusal> {
        for group in &new.worker_groups {
            if self.group(Some(&group.name)).is_err() {
                let added = self.add_group(Some(&group.name), &group.workers);
                added.map_err(|error| Refusal::Failed(format!("worker-group.{}: {error:#}", group.name)))?;
            }
        }
        Ok(())
    }

    /// Ends the groups of workers that `new` does not have. No port is in one any more.
    fn remove_groups(&self, new: &Config) {
        let stays = |group: &&Arc<Group>| {
            let name = group.name.as_deref();
            name.is_none_or(|name| new.worker_groups.iter().any(|group| group.name == name))
        };
        let groups = self.groups.load_full();
        self.groups.store(Arc::new(groups.iter().filter(stays).cloned().collect()));
        for group in groups.iter().filter(|group| !stays(group)) {
            group.workers.lock().iter().for_each(|worker| worker.stop());
            join(group.threads.lock().drain(..));
        }
    }

    /// Ports are shown in the order of the configuration.
    fn sort_ports(&self, config: &Config) {
        let mut ports = Vec::clone(&self.ports.load());
        let place = |port: &Arc<Port>| config.ports.iter().position(|config| config.name == port.name);
        ports.sort_by_cached_key(place);
        self.ports.store(Arc::new(ports));
    }

    fn switch_plane(&self, config: &SwitchConfig) -> Arc<SwitchPlane> {
        let mut bridge = BridgeConfig::new(self.origin.seed);
        bridge.ageing_ms = ageing_ms(config);
        bridge.max_entries = config.entries_max as u32;
        bridge.tagging = config.tagging;
        bridge.snooping = config.snooping;
        Arc::new(SwitchPlane::new(&config.name, bridge))
    }

    /// Opens what a port needs. It is not on its switch yet. `going` lends its sockets.
    fn build(
        &self,
        config: &PortConfig,
        switch: &Arc<SwitchPlane>,
        going: &[Arc<Port>],
        promised: &mut Promised,
    ) -> anyhow::Result<Arc<Port>> {
        self.open(config, switch, going, promised).with_context(|| format!("port.{}", config.name))
    }

    /// As [`Self::build`], for an interface that a port had which has just gone: a worker may hold it for a moment.
    fn build_late(
        &self,
        config: &PortConfig,
        switch: &Arc<SwitchPlane>,
        promised: &mut Promised,
    ) -> anyhow::Result<Arc<Port>> {
        let began = Instant::now();
        loop {
            match self.build(config, switch, &[], promised) {
                Err(_) if began.elapsed() < RELEASE_WAIT => std::thread::sleep(Duration::from_millis(5)),
                result => return result,
            }
        }
    }

    fn open(
        &self,
        config: &PortConfig,
        switch: &Arc<SwitchPlane>,
        going: &[Arc<Port>],
        promised: &mut Promised,
    ) -> anyhow::Result<Arc<Port>> {
        let (attachment, endpoint) = match &config.attach {
            Attach::VhostUser { socket, queue_pairs, .. } | Attach::VfioUser { socket, queue_pairs, .. } => {
                let role = config.attach.role();
                let lent = going
                    .iter()
                    .filter_map(|port| port.endpoint.as_ref())
                    .find(|endpoint| endpoint.is_for(socket, role));
                // Somebody may have made our end of the socket for us; an end that connects is always our own.
                let passed = (role == SocketRole::Server)
                    .then(|| inherited::take(&format!("port.{}", config.name)))
                    .flatten();
                let endpoint = match (lent, passed) {
                    (Some(lent), _) => Arc::clone(lent),
                    (None, Some(listener)) => Arc::new(Endpoint::inherited(listener, socket)?),
                    (None, None) => Arc::new(Endpoint::open(socket, role)?),
                };
                let guest = GuestPort::new(*queue_pairs, offered(config))?;
                guest.rx_usecs.store(config.call_interval.as_micros() as u32, Relaxed);
                (Attachment::Guest(Box::new(guest)), Some(endpoint))
            }
            attach => {
                let what = || format!("{} {}", attach.kind(), attach.interface().unwrap_or_default());
                (Attachment::Link(Box::new(LinkPort::open(attach, config).with_context(what)?)), None)
            }
        };
        let group = self.group(config.workers.as_deref())?;
        let id = switch.free_id(promised).context("more than 65536 ports on one switch")?;
        let capture = self.captures.point(&config.name, &description(&config.attach));
        Ok(Arc::new(Port::new(id, config, switch, attachment, capture, endpoint, group)?))
    }

    /// Puts a port on its switch and starts serving it.
    fn put_in(&self, port: &Arc<Port>) -> anyhow::Result<()> {
        let switch = &port.switch;
        switch.bridge.add_port(port.id, port.config.load().settings.clone())?;
        addresses::configure(port, self.origin.now()).map_err(|why| anyhow::anyhow!(why))?;
        let mut table = Vec::clone(&switch.ports.load());
        if table.len() <= port.id.as_usize() {
            table.resize(port.id.as_usize() + 1, None);
        }
        table[port.id.as_usize()] = Some(Arc::clone(port));
        switch.ports.store(Arc::new(table));
        let mut ports = Vec::clone(&self.ports.load());
        ports.push(Arc::clone(port));
        self.ports.store(Arc::new(ports));
        self.begin_service(&port.service, port.sources())?;
        if let Some(endpoint) = &port.endpoint {
            let serving = session::Serving {
                port: Arc::clone(port),
                stopping: Arc::clone(&port.stopping),
                origin: self.origin,
                uplinks: Arc::clone(&self.uplinks),
            };
            let endpoint = Arc::clone(endpoint);
            let thread = spawn(format!("rw-{}", port.name), move || serving.run(&endpoint))?;
            port.threads.lock().push(thread);
        }
        self.follow_monitor(port)
    }

    /// Follows the monitor that the port's configuration names, and no other one.
    fn follow_monitor(&self, port: &Arc<Port>) -> anyhow::Result<()> {
        let wanted = port.config.load().qmp.clone();
        let mut followed = port.monitor.lock();
        if followed.as_ref().map(|followed| &followed.qmp) == wanted.as_ref() {
            return Ok(());
        }
        end_monitor(followed.take());
        let Some(qmp) = wanted else { return Ok(()) };
        let stopping = Arc::new(Stopping::new()?);
        let suspicion = Arc::new(Wake::new()?);
        let monitor = Monitor {
            port: Arc::clone(port),
            qmp: qmp.clone(),
            stopping: Arc::clone(&stopping),
            suspicion: Arc::clone(&suspicion),
            origin: self.origin,
            uplinks: Arc::clone(&self.uplinks),
        };
        let thread = spawn(format!("rw-qmp-{}", port.name), move || monitor.run())?;
        *followed = Some(Followed { qmp, stopping, suspicion, thread });
        Ok(())
    }

    /// Gives a port that stays its new settings, which are in its `config` already.
    fn update(&self, port: &Arc<Port>) -> anyhow::Result<()> {
        port.switch.bridge.set_port(port.id, port.config.load().settings.clone())?;
        addresses::configure(port, self.origin.now()).map_err(|why| anyhow::anyhow!(why))?;
        let config = port.config.load();
        if let Attachment::Guest(guest) = &port.attachment {
            guest.rx_usecs.store(config.call_interval.as_micros() as u32, Relaxed);
        }
        self.change_service(&port.service, port.sources(), config.workers.as_deref())?;
        self.follow_monitor(port)
    }

    /// Takes a port off its switch and ends its threads. Does nothing to one that is not there.
    fn take_out(&self, port: &Arc<Port>) {
        let switch = &port.switch;
        let mut table = Vec::clone(&switch.ports.load());
        if let Some(place) = table.get_mut(port.id.as_usize())
            && place.as_ref().is_some_and(|found| Arc::ptr_eq(found, port))
        {
            *place = None;
            switch.ports.store(Arc::new(table));
            switch.retired.lock().push_back((Instant::now(), port.id));
        }
        let _ = switch.bridge.remove_port(port.id);
        switch.operator_entries.lock().retain(|_, holder| *holder != port.id);
        let ports = self.ports.load().iter().filter(|other| !Arc::ptr_eq(other, port)).cloned().collect();
        self.ports.store(Arc::new(ports));
        if matches!(port.attachment, Attachment::Link(_)) {
            // Guests' queues that have lanes to it give up queues of the interface.
            switch.wake_sessions();
        }
        port.stopping.set();
        end_monitor(port.monitor.lock().take());
        port.service.end(port.sources());
        let threads: Vec<_> = port.threads.lock().drain(..).collect();
        join(threads.into_iter());
        // A worker may hold the port for a moment; its socket goes now, unless the port's successor has it.
        if let Some(endpoint) = port.endpoint.as_ref().filter(|endpoint| Arc::strong_count(endpoint) == 1) {
            endpoint.unlink();
        }
    }
}

/// Ends the thread that follows a monitor.
pub(super) fn end_monitor(followed: Option<Followed>) {
    if let Some(followed) = followed {
        followed.stopping.set();
        join(std::iter::once(followed.thread));
    }
}

/// Numbers given to ports, by switch, that are not on it yet.
type Promised = HashSet<(String, PortId)>;

/// What a change has done so far.
#[derive(Default)]
struct Done {
    came: Vec<Arc<Port>>,
    changed: Vec<(Arc<Port>, Arc<PortConfig>)>,
    switches: Option<Arc<Vec<Arc<SwitchPlane>>>>,
    went: Vec<(PortConfig, Arc<SwitchPlane>)>,
}

impl Port {
    fn clone_config(&self) -> (PortConfig, Arc<SwitchPlane>) {
        (PortConfig::clone(&self.config.load()), Arc::clone(&self.switch))
    }
}

impl SwitchPlane {
    /// A number that no port has, and none had a moment ago.
    fn free_id(&self, promised: &mut Promised) -> Option<PortId> {
        let mut retired = self.retired.lock();
        while retired.front().is_some_and(|(since, _)| since.elapsed() > QUARANTINE) {
            retired.pop_front();
        }
        let table = self.ports.load();
        let is_free = |id: &PortId| {
            table.get(id.as_usize()).is_none_or(Option::is_none)
                && !retired.iter().any(|(_, retired)| retired == id)
                && !promised.contains(&(self.name.clone(), *id))
        };
        let id = (0..=u16::MAX).map(PortId).find(is_free)?;
        promised.insert((self.name.clone(), id));
        Some(id)
    }
}

/// What a port is, for who reads a capture.
fn description(attach: &Attach) -> String {
    let socket = attach.socket().map(|path| path.display().to_string());
    format!("{} {}", attach.kind(), socket.as_deref().or(attach.interface()).unwrap_or_default())
}

fn ageing_ms(config: &SwitchConfig) -> u32 {
    config.ageing.as_millis().min(u128::from(BridgeConfig::AGEING_MS_MAX)) as u32
}

fn in_order(config: &Config, switches: &HashMap<String, Arc<SwitchPlane>>) -> Vec<Arc<SwitchPlane>> {
    config.switches.iter().filter_map(|switch| switches.get(&switch.name)).cloned().collect()
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
