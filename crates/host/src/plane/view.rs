//! What the control API sees of the data plane: snapshots, made by reading counters that others write.

use super::Plane;
use super::group::Group;
use super::port::{Attachment, GuestPort, Port, SwitchPlane};
use super::stats::QueueStats;
use super::worker::Worker;
use crate::api::Refusal;
use crate::api::view::{
    AddressView, ChangeView, CountersView, DiskView, FdbFilter, FdbSpec, FdbView, FeaturesView, GroupView,
    PortState, PortView, QueueView, ReceiveFilterView, SettingsView, Status, SwitchView, TraceView,
    TrafficView, UplinkView, WorkerView,
};
use crate::capture::{CaptureError, CaptureRequest, CaptureStream};
use crate::config::mac_text;
use crate::config::resolved::{Attach, Config, MacChange, Polling, PortConfig, Profile, SocketRole};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use switch::{DropReason, MacAddr, Origin, Tagging, Vlan};

fn worker_views(group: &Group) -> Vec<WorkerView> {
    let view = |worker: &Arc<Worker>| WorkerView {
        name: worker.name.clone(),
        group: group.name.clone(),
        cpu: worker.cpu,
        mode: group.config.mode.word().into(),
        polling: match group.config.polling {
            Polling::Adaptive => "adaptive".into(),
            Polling::Always => "always".into(),
        },
        queues: worker.source_count(),
        sleeps: worker.sleeps.load(Relaxed),
        busy_ms: worker.busy_ns.load(Relaxed) / 1_000_000,
        moves: worker.moves.load(Relaxed),
    };
    group.workers.lock().iter().map(view).collect()
}

impl crate::api::Plane for Plane {
    fn status(&self) -> Status {
        let (ports, disks) = (self.ports.load(), self.disks.load());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.origin.started.elapsed().as_secs(),
            workers: self.groups.load().iter().flat_map(|group| worker_views(group)).collect(),
            switches: self.switches.load().iter().map(|switch| switch_view(switch)).collect(),
            ports_up: ports.iter().filter(|port| state(port) == PortState::Running).count(),
            ports_total: ports.len(),
            disks_up: disks.iter().filter(|disk| disk.state() == PortState::Running).count(),
            disks_total: disks.len(),
        }
    }

    fn ports(&self) -> Vec<PortView> {
        self.ports.load().iter().map(|port| view(port)).collect()
    }

    fn port(&self, name: &str) -> Option<PortView> {
        self.ports.load().iter().find(|port| port.name == name).map(|port| view(port))
    }

    fn disks(&self) -> Vec<DiskView> {
        self.disks.load().iter().map(|disk| disk.view()).collect()
    }

    fn disk(&self, name: &str) -> Option<DiskView> {
        self.named_disk(name).map(|disk| disk.view())
    }

    fn resize_disk(&self, name: &str, bytes: Option<u64>) -> Result<u64, Refusal> {
        let disk =
            self.named_disk(name).ok_or_else(|| Refusal::NotFound(format!("there is no disk {name:?}")))?;
        disk.resize(bytes).map_err(Refusal::Failed)
    }

    fn fdb(&self, filter: &FdbFilter) -> Result<Vec<FdbView>, Refusal> {
        self.fdb_list(filter)
    }

    fn add_fdb(&self, entry: &FdbSpec) -> Result<(), Refusal> {
        self.fdb_add(entry)
    }

    fn flush_fdb(&self, filter: &FdbFilter) -> Result<usize, Refusal> {
        self.fdb_flush(filter)
    }

    fn groups(&self, switch: Option<&str>) -> Result<Vec<GroupView>, Refusal> {
        let now = self.origin.now();
        let mut groups = Vec::new();
        for plane in self.chosen_switches(switch)? {
            let ports = plane.ports.load();
            for entry in plane.bridge.groups(now) {
                groups.push(GroupView {
                    switch: plane.name.clone(),
                    vlan: entry.vlan.map(Vlan::get),
                    group: entry.group.to_string(),
                    ports: entry.ports.iter().map(|port| port_name(&ports, *port)).collect(),
                    expires_ms: entry.expires_ms,
                });
            }
        }
        Ok(groups)
    }

    fn reopen(&self, port: &str) -> Result<(), Refusal> {
        let port = self.named_port(port)?;
        port.switch.bridge.reopen(port.id).map_err(|error| Refusal::Invalid(error.to_string()))
    }

    fn trace(&self, port: &str, frame: &[u8]) -> Result<TraceView, Refusal> {
        self.trace_frame(port, frame)
    }

    fn capture(&self, request: &CaptureRequest) -> Result<Arc<CaptureStream>, Refusal> {
        self.captures.start(request).map(Arc::new).map_err(|error| match error {
            CaptureError::UnknownPort(_) => Refusal::NotFound(error.to_string()),
            _ => Refusal::Invalid(error.to_string()),
        })
    }

    fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    fn apply(&self, config: Config) -> Result<ChangeView, Refusal> {
        self.apply_config(config)
    }

    fn stop(&self) {
        Plane::stop(self);
    }
}

impl Plane {
    /// A port by its name.
    pub(super) fn named_port(&self, name: &str) -> Result<Arc<Port>, Refusal> {
        let ports = self.ports.load();
        let port = ports.iter().find(|port| port.name == name);
        port.cloned().ok_or_else(|| Refusal::NotFound(format!("there is no port {name:?}")))
    }

    /// One switch by its name, or all.
    pub(super) fn chosen_switches(&self, name: Option<&str>) -> Result<Vec<Arc<SwitchPlane>>, Refusal> {
        let all = self.switches.load();
        let chosen: Vec<_> =
            all.iter().filter(|switch| name.is_none_or(|name| switch.name == name)).cloned().collect();
        match name {
            Some(name) if chosen.is_empty() => Err(Refusal::NotFound(format!("there is no switch {name:?}"))),
            _ => Ok(chosen),
        }
    }
}

/// The name of a port by its number.
pub(super) fn port_name(ports: &[Option<Arc<Port>>], id: switch::PortId) -> String {
    let port = ports.get(id.as_usize()).and_then(Option::as_ref);
    port.map_or_else(|| id.to_string(), |port| port.name.clone())
}

fn switch_view(switch: &SwitchPlane) -> SwitchView {
    let config = switch.bridge.config();
    SwitchView {
        name: switch.name.clone(),
        ports: switch.ports.load().iter().flatten().count(),
        fdb_entries: switch.bridge.entry_count() as usize,
        fdb_entries_max: config.max_entries as usize,
        ageing_ms: config.ageing_ms.into(),
        vlan: match config.tagging {
            None => "none",
            Some(Tagging::Customer) => "802.1q",
            Some(Tagging::Service) => "802.1ad",
        }
        .into(),
        snooping: config.snooping,
    }
}

fn view(port: &Port) -> PortView {
    let config = port.config.load();
    let (socket, socket_mode, queue_pairs) = match &config.attach {
        Attach::VhostUser { socket, queue_pairs, .. } | Attach::VfioUser { socket, queue_pairs, .. } => {
            let mode = match config.attach.role() {
                SocketRole::Server => "server",
                SocketRole::Client => "client",
            };
            (Some(socket.display().to_string()), Some(mode.into()), *queue_pairs)
        }
        _ => (None, None, port.service.seats.len() as u16),
    };
    let (features, mtu, fault, queues, uplink) = match &port.attachment {
        Attachment::Guest(guest) => {
            let queues = queue_views(guest);
            let facts = guest.facts.lock();
            let features = FeaturesView {
                offered: guest.offered.names().map(String::from).collect(),
                acknowledged: facts.acknowledged.iter().map(|name| String::from(*name)).collect(),
            };
            (features, facts.mtu, facts.fault.clone(), queues, None)
        }
        Attachment::Link(link) => {
            let fault = link.interface().err().map(|error| error.to_string());
            let queues = link_queue_views(port, link.mode().unwrap_or("interface"));
            (FeaturesView::default(), None, fault, queues, Some(port.uplink.lock().clone()))
        }
    };
    let status = port.switch.bridge.port_status(port.id);
    let guarded = status.as_ref().is_some_and(|status| status.shut.is_some());
    let shut = match (config.settings.enabled, guarded) {
        (false, _) => Some("disabled".into()),
        (true, true) => Some("guard".into()),
        _ => None,
    };
    let (addresses, receive_filter) = address_views(port);
    PortView {
        name: port.name.clone(),
        switch: config.switch.clone(),
        kind: config.attach.kind().into(),
        socket,
        socket_mode,
        interface: config.attach.interface().map(Into::into),
        mac: config.mac.map(|mac| MacAddr(mac).to_string()),
        mtu: config.mtu.or(mtu),
        state: state(port),
        fault,
        queue_pairs,
        features,
        counters: counters(port),
        queues,
        settings: settings_view(port, &config),
        shut,
        fdb_learned: status.as_ref().map_or(0, |status| status.learned),
        fdb_pinned: status.as_ref().map_or(0, |status| status.pinned),
        fdb_evicted: status.as_ref().map_or(0, |status| status.evicted),
        addresses,
        receive_filter,
        uplink: uplink.filter(|uplink: &UplinkView| !uplink.mode.is_empty()),
        zero_copy: match &port.attachment {
            Attachment::Link(link) => link.lanes().map(|lanes| lanes.view()),
            Attachment::Guest(_) => None,
        },
    }
}

fn address_views(port: &Port) -> (Vec<AddressView>, Option<ReceiveFilterView>) {
    let state = port.addresses.lock();
    let view = |(mac, origin): (switch::UnicastMac, Origin)| AddressView {
        mac: mac.to_string(),
        origin: origin.name().into(),
    };
    let addresses = state.macs().into_iter().map(view).collect();
    let (changes, refused) = state.history();
    let filter = state.report().map(|report| ReceiveFilterView {
        source: report.source.name().into(),
        mac: report.mac.to_string(),
        unicast: report.unicast.iter().map(ToString::to_string).collect(),
        multicast: report.multicast.iter().flatten().map(|mac| mac_text(*mac)).collect(),
        promiscuous: report.promiscuous,
        all_multicast: report.multicast.is_none(),
        changes,
        refused: refused.map(Into::into),
    });
    let filter = filter.or_else(|| {
        refused.map(|refused| ReceiveFilterView {
            changes,
            refused: Some(refused.into()),
            ..ReceiveFilterView::default()
        })
    });
    (addresses, filter)
}

fn settings_view(port: &Port, config: &PortConfig) -> SettingsView {
    let settings = &config.settings;
    let knows_vlans = port.switch.bridge.config().tagging.is_some();
    let networks = settings.sources.ipv4.iter().map(ToString::to_string);
    SettingsView {
        profile: match config.profile {
            Profile::Guest => "guest",
            Profile::Open => "open",
        }
        .into(),
        enabled: settings.enabled,
        learning: settings.learning,
        flood: settings.flood,
        multicast_flood: settings.multicast_flood,
        broadcast_flood: settings.broadcast_flood,
        isolated: settings.isolated,
        hairpin: settings.hairpin,
        locked: settings.locked,
        guard: settings.guard,
        neighbour_suppression: settings.neighbour_suppression,
        multicast_router: settings.multicast_router,
        multicast_fast_leave: settings.fast_leave,
        multicast_groups_max: settings.groups_max,
        mac_limit: settings.mac_limit,
        unknown_unicast_rate: settings.rates.unknown_unicast,
        broadcast_rate: settings.rates.broadcast,
        multicast_rate: settings.rates.multicast,
        addresses: networks.chain(settings.sources.ipv6.iter().map(ToString::to_string)).collect(),
        macs: settings.sources.macs.iter().map(ToString::to_string).collect(),
        link_local_forward: (0..16).filter(|bit| settings.link_local >> bit & 1 != 0).collect(),
        native_vlan: settings.vlans.native().filter(|_| knows_vlans).map(Vlan::get),
        vlans: if knows_vlans { ranges(settings.vlans.iter().map(Vlan::get)) } else { Vec::new() },
        mac_change: match &config.mac_change {
            MacChange::Deny => "deny".into(),
            MacChange::Allow => "allow".into(),
            MacChange::List(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        },
    }
}

/// Ordered numbers as `10` and `20-29`.
fn ranges(numbers: impl Iterator<Item = u16>) -> Vec<String> {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => spans.push((number, number)),
        }
    }
    let text = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    spans.into_iter().map(text).collect()
}

fn state(port: &Port) -> PortState {
    let guest = match &port.attachment {
        Attachment::Guest(guest) => guest,
        Attachment::Link(link) if link.interface().is_err() => return PortState::Faulted,
        Attachment::Link(_) => return PortState::Running,
    };
    let (mut running, mut faulted) = (false, false);
    for queue in &guest.transmit {
        if let Some(live) = queue.live.lock().as_ref() {
            running |= live.enabled && live.queue.fault().is_none();
            faulted |= live.queue.fault().is_some();
        }
    }
    let receiving = guest.ready.load(Relaxed) > 0;
    let facts = guest.facts.lock();
    match (faulted, running && receiving, facts.connected) {
        (true, ..) => PortState::Faulted,
        (_, true, _) => PortState::Running,
        (.., true) if facts.fault.is_some() => PortState::Faulted,
        (.., true) => PortState::Connected,
        _ => PortState::Waiting,
    }
}

fn queue_views(guest: &GuestPort) -> Vec<QueueView> {
    let mut views = Vec::new();
    for index in 0..guest.frame_queues() {
        let Some(slot) = guest.slot(index) else { continue };
        let guard = slot.lock();
        let Some(live) = guard.as_ref() else { continue };
        let is_receive = index.is_multiple_of(2);
        let pair = usize::from(index / 2);
        let stats = if is_receive { &guest.receive[pair].stats } else { &guest.transmit[pair].stats };
        views.push(QueueView {
            size: live.queue.size().get(),
            layout: if live.queue.is_packed() { "packed" } else { "split" }.into(),
            enabled: live.enabled,
            fault: live.queue.fault().map(|fault| fault.to_string()),
            ..queue_view(index, if is_receive { "to-guest" } else { "from-guest" }, stats)
        });
    }
    views
}

/// An interface's queues: what it sends into the switch first, as transmit queues of a guest are odd.
fn link_queue_views(port: &Port, layout: &str) -> Vec<QueueView> {
    let (from, to) = port.stats();
    let pairs = from.into_iter().zip(to).enumerate();
    let views = pairs.flat_map(|(pair, (from, to))| {
        let index = pair as u16 * 2;
        let views = [queue_view(index, "to-guest", to), queue_view(index + 1, "from-guest", from)];
        views.map(|view| QueueView { layout: layout.into(), ..view })
    });
    views.collect()
}

fn queue_view(index: u16, direction: &str, stats: &QueueStats) -> QueueView {
    QueueView {
        index,
        direction: direction.into(),
        size: 0,
        layout: String::new(),
        enabled: true,
        fault: None,
        traffic: traffic(std::iter::once(stats)),
        drops: drops(std::iter::once(stats)),
        kicks: stats.kicks.load(Relaxed),
        calls: stats.calls.load(Relaxed),
    }
}

fn sum<'s>(stats: impl Iterator<Item = &'s QueueStats>, of: impl Fn(&QueueStats) -> &AtomicU64) -> u64 {
    stats.map(|stats| of(stats).load(Relaxed)).sum()
}

fn traffic<'s>(stats: impl Iterator<Item = &'s QueueStats> + Clone) -> TrafficView {
    TrafficView { frames: sum(stats.clone(), |stats| &stats.frames), bytes: sum(stats, |stats| &stats.bytes) }
}

fn drops<'s>(stats: impl Iterator<Item = &'s QueueStats> + Clone) -> BTreeMap<String, u64> {
    let count = |reason: DropReason| sum(stats.clone(), |stats| &stats.drops[reason.as_usize()]);
    let counts = DropReason::ALL.into_iter().map(|reason| (reason.name().into(), count(reason)));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn counters(port: &Port) -> CountersView {
    let (from, to) = port.stats();
    let both = || from.iter().chain(&to).copied();
    CountersView {
        from_guest: traffic(from.iter().copied()),
        to_guest: traffic(to.iter().copied()),
        drops: drops(both()),
        kicks: sum(both(), |stats| &stats.kicks),
        calls: sum(both(), |stats| &stats.calls),
        misses: sum(to.iter().copied(), |stats| &stats.misses),
    }
}
