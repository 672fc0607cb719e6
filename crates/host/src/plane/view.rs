//! What the control API sees of the data plane: snapshots, made by reading counters that others write.

use super::Plane;
use super::port::{Attachment, GuestPort, Port};
use super::stats::QueueStats;
use crate::api::view::{
    CountersView, FdbView, FeaturesView, PortState, PortView, QueueView, Status, SwitchView, TrafficView,
    WorkerView,
};
use crate::config::resolved::{Attach, SocketRole, WorkerMode};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use switch::{DropReason, EntryKind, MacAddr};

impl crate::api::Plane for Plane {
    fn status(&self) -> Status {
        let mode = match self.mode {
            WorkerMode::PerDevice => "per-device",
            WorkerMode::Pool { .. } => "pool",
        };
        let ports_up = self.ports.iter().filter(|port| state(port) == PortState::Running).count();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.origin.started.elapsed().as_secs(),
            workers: self
                .workers
                .iter()
                .map(|worker| WorkerView {
                    name: worker.name.clone(),
                    cpu: worker.cpu,
                    mode: mode.into(),
                    queues: worker.source_count(),
                })
                .collect(),
            switches: self
                .switches
                .iter()
                .map(|switch| SwitchView {
                    name: switch.name.clone(),
                    ports: switch.ports.load().iter().flatten().count(),
                    fdb_entries: switch.bridge.entry_count() as usize,
                })
                .collect(),
            ports_up,
            ports_total: self.ports.len(),
        }
    }

    fn ports(&self) -> Vec<PortView> {
        self.ports.iter().map(|port| view(port)).collect()
    }

    fn port(&self, name: &str) -> Option<PortView> {
        self.ports.iter().find(|port| port.config.name == name).map(|port| view(port))
    }

    fn fdb(&self, switch: Option<&str>) -> Vec<FdbView> {
        let now = self.origin.at(Instant::now());
        let wanted =
            self.switches.iter().filter(|candidate| switch.is_none_or(|name| candidate.name == name));
        let mut entries = Vec::new();
        for switch in wanted {
            let ports = switch.ports.load();
            for entry in switch.bridge.entries(now) {
                let port = ports.get(entry.port.as_usize()).and_then(Option::as_ref);
                entries.push(FdbView {
                    switch: switch.name.clone(),
                    mac: entry.mac.to_string(),
                    port: port.map_or_else(|| entry.port.to_string(), |port| port.config.name.clone()),
                    kind: match entry.kind {
                        EntryKind::Static => "static".into(),
                        EntryKind::Learned => "learned".into(),
                    },
                    age_ms: entry.age_ms,
                });
            }
        }
        entries
    }

    fn stop(&self) {
        Plane::stop(self);
    }
}

fn view(port: &Port) -> PortView {
    let config = &port.config;
    let (socket, socket_mode, tap, queue_pairs) = match &config.attach {
        Attach::VhostUser { socket, role, queue_pairs } => {
            let mode = match role {
                SocketRole::Server => "server",
                SocketRole::Client => "client",
            };
            (Some(socket.display().to_string()), Some(mode.into()), None, *queue_pairs)
        }
        Attach::Tap { name, queues } => (None, None, Some(name.clone()), *queues),
    };
    let (features, mtu, fault, queues) = match &port.attachment {
        Attachment::Guest(guest) => {
            let queues = queue_views(guest);
            let facts = guest.facts.lock();
            let features = FeaturesView {
                offered: guest.offered.names().map(String::from).collect(),
                acknowledged: facts.acknowledged.iter().map(|name| String::from(*name)).collect(),
            };
            (features, facts.mtu, facts.fault.clone(), queues)
        }
        Attachment::Tap(_) => (FeaturesView::default(), None, None, Vec::new()),
    };
    PortView {
        name: config.name.clone(),
        switch: config.switch.clone(),
        kind: config.attach.kind().into(),
        socket,
        socket_mode,
        tap,
        mac: config.mac.map(|mac| MacAddr(mac).to_string()),
        mtu: config.mtu.or(mtu),
        state: state(port),
        fault,
        queue_pairs,
        features,
        counters: counters(port),
        queues,
    }
}

fn state(port: &Port) -> PortState {
    let Attachment::Guest(guest) = &port.attachment else { return PortState::Running };
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
    for index in 0..guest.control_index() {
        let Some(slot) = guest.slot(index) else { continue };
        let guard = slot.lock();
        let Some(live) = guard.as_ref() else { continue };
        views.push(QueueView {
            index,
            direction: if index % 2 == 0 { "to-guest" } else { "from-guest" }.into(),
            size: live.queue.size().get(),
            layout: if live.queue.is_packed() { "packed" } else { "split" }.into(),
            enabled: live.enabled,
            fault: live.queue.fault().map(|fault| fault.to_string()),
        });
    }
    views
}

fn counters(port: &Port) -> CountersView {
    let (from, to) = port.stats();
    let traffic = |queues: &[&QueueStats]| TrafficView {
        frames: queues.iter().map(|stats| stats.frames.load(Relaxed)).sum(),
        bytes: queues.iter().map(|stats| stats.bytes.load(Relaxed)).sum(),
    };
    let both = || from.iter().chain(&to);
    let mut drops = std::collections::BTreeMap::new();
    for reason in DropReason::ALL {
        let count: u64 = both().map(|stats| stats.drops[reason.as_usize()].load(Relaxed)).sum();
        if count > 0 {
            drops.insert(reason.name().into(), count);
        }
    }
    CountersView {
        from_guest: traffic(&from),
        to_guest: traffic(&to),
        drops,
        kicks: both().map(|stats| stats.kicks.load(Relaxed)).sum(),
        calls: both().map(|stats| stats.calls.load(Relaxed)).sum(),
    }
}
