//! What the host's interfaces let through: promiscuous only while it must be, and why.
//!
//! The rule. An interface that is a port may pass exact addresses only if every station behind the *other* ports of its
//! switch is known: no other port learns, and none takes frames to unknown stations. Then the addresses of those ports
//! are programmed, and promiscuous mode is left after that. Linux's bridge asks for VLAN filtering besides, and never
//! filters groups (br_if.c, `br_manage_promisc`); neither is needed here, as everything that leaves by a port is known.
//!
//! One thread follows changes. However often guests change their minds, the interfaces are asked at most once in
//! [`PAUSE`], and only for the difference.

use super::notify::Wake;
use super::port::{Attachment, Port, SwitchPlane};
use super::{Origin, Stopping};
use crate::api::view::UplinkView;
use crate::config::mac_text;
use crate::plane::link::filter::Wanted;
use arc_swap::ArcSwap;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use switch::Now;

/// Shortest time between two changes of the interfaces.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// How often groups are looked at: snooping does not call.
const GROUPS_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Tells the thread that something changed.
pub(super) struct Uplinks {
    changed: AtomicBool,
    wake: Wake,
}

impl Uplinks {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { changed: AtomicBool::new(true), wake: Wake::new()? })
    }

    /// Ports, their settings or their addresses have changed.
    pub(super) fn changed(&self) {
        self.changed.store(true, Relaxed);
        self.wake.wake();
    }

    /// The thread's body.
    pub(super) fn run(&self, switches: &ArcSwap<Vec<Arc<SwitchPlane>>>, stopping: &Stopping, origin: Origin) {
        while !stopping.is_set() {
            let mut wait =
                [PollFd::new(&self.wake, PollFlags::IN), PollFd::new(&stopping.wake, PollFlags::IN)];
            let _ = poll(&mut wait, Some(&GROUPS_INTERVAL));
            self.wake.clear();
            let changed = self.changed.swap(false, Relaxed);
            for switch in switches.load().iter() {
                if changed || switch.bridge.config().snooping {
                    refresh(switch, origin.now());
                }
            }
            stopping.sleep(PAUSE);
        }
    }
}

/// Brings the filters of a switch's interfaces up to date.
fn refresh(switch: &SwitchPlane, now: Now) {
    let ports = switch.ports.load();
    for port in ports.iter().flatten() {
        let Attachment::Link(link) = &port.attachment else { continue };
        let Some(filter) = link.filter() else {
            let view = UplinkView {
                mode: "none".into(),
                reason: "a tap passes what the host sends to it; it has no filter".into(),
                ..UplinkView::default()
            };
            *port.uplink.lock() = view;
            continue;
        };
        let wanted = wanted(ports.iter().flatten().map(Arc::as_ref), port, switch, now);
        let applied = filter.lock().apply(&wanted);
        let mode = applied.mode;
        let view = UplinkView {
            mode: mode.into(),
            reason: applied.reason,
            unicast: if applied.exact {
                wanted.unicast.iter().map(|mac| mac_text(*mac)).collect()
            } else {
                Vec::new()
            },
            multicast: wanted.multicast.iter().flatten().map(|mac| mac_text(*mac)).collect(),
            all_multicast: wanted.multicast.is_none(),
            operations: applied.operations,
        };
        let before = std::mem::replace(&mut *port.uplink.lock(), view);
        if before.mode != mode {
            let after = port.uplink.lock();
            tracing::info!(port = port.name, mode = after.mode, reason = after.reason, "uplink filter");
        }
    }
}

/// What an interface has to let through for the ports beside it.
fn wanted<'p>(
    ports: impl Iterator<Item = &'p Port> + Clone,
    uplink: &Port,
    switch: &SwitchPlane,
    now: Now,
) -> Wanted {
    let others = || ports.clone().filter(|port| port.id != uplink.id);
    let promiscuous = others().find_map(|port| {
        let config = port.config.load();
        let settings = &config.settings;
        match (settings.learning, settings.flood) {
            (true, _) => Some(format!("port {} learns", port.name)),
            (_, true) => Some(format!("port {} takes frames to unknown stations", port.name)),
            _ => None,
        }
    });
    let mut unicast: BTreeSet<[u8; 6]> = BTreeSet::new();
    for port in others() {
        unicast.extend(port.addresses.lock().macs().keys().map(|mac| mac.octets()));
    }
    let operator = switch.operator_entries.lock();
    unicast.extend(operator.iter().filter(|(_, port)| **port != uplink.id).map(|((mac, _), _)| mac.octets()));
    drop(operator);
    Wanted { promiscuous, unicast, multicast: groups(others(), switch, now) }
}

/// Groups that have listeners behind the given ports; `None`: nobody can say.
fn groups<'p>(
    ports: impl Iterator<Item = &'p Port>,
    switch: &SwitchPlane,
    now: Now,
) -> Option<BTreeSet<[u8; 6]>> {
    // All hosts and all nodes: what every host listens to, and snooping never restricts.
    let mut groups = BTreeSet::from([[1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]]);
    let snooping = switch.bridge.config().snooping;
    for port in ports {
        let reported = port.addresses.lock().report().map(|report| report.multicast.clone());
        match reported {
            Some(Some(list)) => groups.extend(list),
            _ if snooping && !port.config.load().settings.multicast_flood => {}
            _ => return None,
        }
    }
    if snooping {
        groups.extend(switch.bridge.groups(now).iter().map(|entry| entry.group.0));
    }
    Some(groups)
}
