//! `ringway port show`: all that is known of one port, a fact a line.

use std::fmt::Write as _;

use super::show::{place, state};
use super::table::{bytes, lines, table};
use crate::api::view::{
    CountersView, PortView, ReceiveFilterView, SettingsView, TrafficView, UplinkView, ZeroCopyView,
};

/// The port's facts, then its queues as a table.
pub(crate) fn port_sheet(port: &PortView) -> String {
    let counters = &port.counters;
    let drops = counters.drops.iter().map(|(reason, count)| format!("{count} {reason}"));
    let known = port.addresses.iter().map(|known| format!("{} ({})", known.mac, known.origin));
    let fdb =
        format!("{} learned, {} pinned, {} evicted", port.fdb_learned, port.fdb_pinned, port.fdb_evicted);
    let facts = [
        ("port", port.name.clone()),
        ("switch", port.switch.clone()),
        ("kind", port.kind.clone()),
        ("at", place(port)),
        ("socket mode", port.socket_mode.clone().unwrap_or_default()),
        ("state", state(port)),
        ("fault", port.fault.clone().unwrap_or_default()),
        ("mac", port.mac.clone().unwrap_or_default()),
        ("mtu", port.mtu.map(|mtu| mtu.to_string()).unwrap_or_default()),
        ("queue pairs", port.queue_pairs.to_string()),
        ("from guest", traffic(&counters.from_guest)),
        ("to guest", traffic(&counters.to_guest)),
        ("drops", join(drops)),
        ("fast rx", fast_rx(counters)),
        ("kicks", counters.kicks.to_string()),
        ("calls", counters.calls.to_string()),
        ("fdb", fdb),
        ("known", join(known)),
        ("filter", port.receive_filter.as_ref().map(receive_filter).unwrap_or_default()),
        ("uplink", port.uplink.as_ref().map(uplink).unwrap_or_default()),
        ("zero copy", port.zero_copy.as_ref().map(zero_copy).unwrap_or_default()),
        ("offered", port.features.offered.join(" ")),
        ("acknowledged", port.features.acknowledged.join(" ")),
    ];
    let mut text = String::new();
    for (name, value) in facts.into_iter().chain(settings(&port.settings)) {
        let value = if value.is_empty() { "-" } else { value.as_str() };
        let _ = writeln!(text, "{name:<13} {value}");
    }
    if !port.queues.is_empty() {
        let _ = write!(text, "\n{}", queues(port));
    }
    text
}

fn settings(settings: &SettingsView) -> Vec<(&'static str, String)> {
    let switches = [
        ("enabled", settings.enabled),
        ("learning", settings.learning),
        ("flood", settings.flood),
        ("multicast-flood", settings.multicast_flood),
        ("broadcast-flood", settings.broadcast_flood),
        ("isolated", settings.isolated),
        ("hairpin", settings.hairpin),
        ("locked", settings.locked),
        ("guard", settings.guard),
        ("neighbour-suppression", settings.neighbour_suppression),
        ("multicast-router", settings.multicast_router),
        ("multicast-fast-leave", settings.multicast_fast_leave),
    ];
    let that_are = |wanted: bool| join(switches.iter().filter(|(_, on)| *on == wanted).map(|(name, _)| name));
    let limits = [
        ("mac-limit", settings.mac_limit, ""),
        ("unknown-unicast", settings.unknown_unicast_rate, "/s"),
        ("broadcast", settings.broadcast_rate, "/s"),
        ("multicast", settings.multicast_rate, "/s"),
        ("groups", Some(settings.multicast_groups_max), ""),
    ];
    let limits = limits.iter().filter_map(|(name, limit, unit)| Some(format!("{name} {}{unit}", (*limit)?)));
    let native = settings.native_vlan.map(|vlan| format!("native {vlan}"));
    let tagged = (!settings.vlans.is_empty()).then(|| format!("all {}", settings.vlans.join(" ")));
    vec![
        ("profile", settings.profile.clone()),
        ("on", that_are(true)),
        ("off", that_are(false)),
        ("limits", join(limits)),
        ("source macs", settings.macs.join(", ")),
        ("source ips", settings.addresses.join(", ")),
        ("vlans", join(native.into_iter().chain(tagged))),
        ("link-local", join(&settings.link_local_forward)),
        ("mac change", settings.mac_change.clone()),
    ]
}

/// What a guest's driver wants to receive, as one line.
fn receive_filter(filter: &ReceiveFilterView) -> String {
    let mut parts = vec![format!("{} (by {})", filter.mac, filter.source)];
    parts.extend(list("unicast", &filter.unicast));
    parts.extend(list("groups", &filter.multicast));
    parts.extend(filter.promiscuous.then(|| "promiscuous".to_owned()));
    parts.extend(filter.all_multicast.then(|| "all groups".to_owned()));
    parts.push(format!("{} changes", filter.changes));
    parts.extend(filter.refused.as_ref().map(|why| format!("last refused: {why}")));
    parts.join("; ")
}

/// The state of an interface's filter and the reason, as one line.
fn uplink(uplink: &UplinkView) -> String {
    let because =
        if uplink.reason.is_empty() { String::new() } else { format!(" because {}", uplink.reason) };
    let mut parts = vec![format!("{}{because}", uplink.mode)];
    parts.extend(list("unicast", &uplink.unicast));
    parts.extend(list("groups", &uplink.multicast));
    parts.extend(uplink.all_multicast.then(|| "all groups".to_owned()));
    parts.push(format!("{} operations", uplink.operations));
    parts.join("; ")
}

/// What goes to an interface straight from guests' memory, what does not and why, as one line.
fn zero_copy(view: &ZeroCopyView) -> String {
    let mut parts = vec![format!("{} frames, {} from {} bytes on", view.frames, bytes(view.bytes), view.min)];
    parts.push(format!("{} pending", view.pending));
    parts.extend((view.abandoned != 0).then(|| format!("{} abandoned", view.abandoned)));
    let copied = view.copied.iter().map(|(why, count)| format!("{count} {why}"));
    parts.extend(list("copied:", &copied.collect::<Vec<_>>()));
    parts.extend(view.lanes.iter().map(|lane| {
        let kernel = if lane.kernel == "copy" { "copies" } else { "does not copy" };
        format!("{}/{} on queue {}, the kernel {kernel}", lane.port, lane.pair, lane.queue)
    }));
    parts.extend(view.refused.iter().map(|(queue, why)| format!("{queue} not: {why}")));
    parts.join("; ")
}

fn list(what: &str, of: &[String]) -> Option<String> {
    (!of.is_empty()).then(|| format!("{what} {}", of.join(" ")))
}

fn traffic(side: &TrafficView) -> String {
    format!("{} frames, {}", side.frames, bytes(side.bytes))
}

/// The talk's table: frames that went straight into the guest's buffers, and those that had to wait.
fn fast_rx(counters: &CountersView) -> String {
    let (all, misses) = (counters.to_guest.frames, counters.misses);
    // A frame that waits is counted before it is delivered.
    let hits = all.saturating_sub(misses);
    let share = if all == 0 { 100.0 } else { hits as f64 * 100.0 / all as f64 };
    format!("{hits} hits, {misses} misses ({share:.2} % hits)")
}

fn join<T: ToString>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

fn queues(port: &PortView) -> String {
    let headings = [
        ">QUEUE",
        "DIRECTION",
        ">SIZE",
        "LAYOUT",
        "ENABLED",
        ">FRAMES",
        ">DROPS",
        ">KICKS",
        ">CALLS",
        "FAULT",
    ];
    let mut rows = table(&headings);
    for queue in &port.queues {
        rows.add_row([
            queue.index.to_string(),
            queue.direction.clone(),
            queue.size.to_string(),
            queue.layout.clone(),
            if queue.enabled { "yes" } else { "no" }.into(),
            queue.traffic.frames.to_string(),
            queue.drops.values().fold(0u64, |sum, count| sum.saturating_add(*count)).to_string(),
            queue.kicks.to_string(),
            queue.calls.to_string(),
            queue.fault.clone().unwrap_or("-".into()),
        ]);
    }
    lines(&rows)
}
