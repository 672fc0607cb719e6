//! Which addresses are behind a port without learning: those of the configuration, and those that its guest says it uses
//! (the talk's "softmac").
//!
//! A guest's word comes by the control queue or by its QEMU's QMP socket. The operator's rule (`mac-change`) is asked first.
//! Then the FDB follows: entries for new addresses are added, and only then those for old ones go, so that there is no
//! moment in which the guest has no address. What the host's interfaces let through follows the FDB (see `uplinks`).

use super::port::Port;
use crate::config::resolved::{MacChange, PortConfig};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use switch::{BridgeError, EntryKind, Now, Origin, UnicastMac, Vlan};

/// Entries that a guest may have beside those of the configuration.
const GUEST_ENTRIES_MAX: usize = 256;

/// A guest's changes are logged at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// An address and the VLAN that it is in.
pub(super) type EntryKey = (UnicastMac, Option<Vlan>);

/// FDB entries by address.
type Entries = BTreeMap<EntryKey, (EntryKind, Origin)>;

/// A port's own addresses.
#[derive(Default)]
pub(super) struct Addresses {
    /// What is in the FDB now.
    entries: Entries,
    /// What the guest said last, of what was admitted.
    report: Option<Report>,
    /// The first address of a guest that has none by configuration.
    first: Option<UnicastMac>,
    changes: u64,
    refused: Option<String>,
    /// The refused word of a monitor, which tells changes only: the guest may use that address still.
    waiting: Option<Report>,
    /// When a change was logged last.
    logged: Option<Instant>,
}

/// What a guest's driver wants to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) source: ReportSource,
    /// The address that it uses.
    pub(super) mac: UnicastMac,
    /// Further addresses.
    pub(super) unicast: Vec<UnicastMac>,
    /// Groups; `None`: all.
    pub(super) multicast: Option<Vec<[u8; 6]>>,
    pub(super) promiscuous: bool,
}

/// How a report reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportSource {
    ControlQueue,
    Qmp,
}

impl ReportSource {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ControlQueue => "control-queue",
            Self::Qmp => "qmp",
        }
    }
}

impl Addresses {
    /// Addresses that are in the FDB for this port, with their origin, each once.
    pub(super) fn macs(&self) -> BTreeMap<UnicastMac, Origin> {
        self.entries.iter().map(|((mac, _), (_, origin))| (*mac, *origin)).collect()
    }

    pub(super) fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// Changes that the guest asked for, and the last one that was refused.
    pub(super) fn history(&self) -> (u64, Option<&str>) {
        (self.changes, self.refused.as_deref())
    }

    /// Whether the operator lets the guest use an address.
    fn admits(&self, config: &PortConfig, mac: UnicastMac) -> bool {
        let own = config.mac.and_then(UnicastMac::new);
        own == Some(mac)
            || config.macs.contains(&mac)
            || match &config.mac_change {
                MacChange::Allow => true,
                MacChange::List(list) => list.contains(&mac),
                // Without an address of the configuration, the first one is the guest's own.
                MacChange::Deny => own.is_none() && self.first.is_none_or(|first| first == mac),
            }
    }
}

/// Makes the FDB say what the configuration says; to be called when the port starts and when its configuration changes.
pub(super) fn configure(port: &Port, now: Now) -> Result<(), String> {
    let mut state = port.addresses.lock();
    let config = port.config.load();
    let before = (state.report.clone(), state.waiting.clone());
    // What was admitted under an earlier rule may not be any more; a monitor would not say it again.
    if state.report.as_ref().is_some_and(|report| !state.admits(&config, report.mac)) {
        let dropped = state.report.take();
        state.waiting = dropped.filter(|report| report.source == ReportSource::Qmp).or(state.waiting.take());
    } else if state.waiting.as_ref().is_some_and(|report| state.admits(&config, report.mac)) {
        // And the other way round.
        let admitted = state.waiting.clone();
        let kept = std::mem::replace(&mut state.report, admitted);
        let wanted = wanted(port, &config, &state);
        if follow(port, &mut state.entries, wanted, now).is_ok() {
            state.first = state.first.or(state.report.as_ref().map(|report| report.mac));
            (state.waiting, state.refused) = (None, None);
            return Ok(());
        }
        state.report = kept;
    }
    let wanted = wanted(port, &config, &state);
    follow(port, &mut state.entries, wanted, now).inspect_err(|_| (state.report, state.waiting) = before)
}

/// Takes out what the configuration does not want any more, and adds nothing: for ports that exchange addresses.
pub(super) fn release(port: &Port, now: Now) {
    let mut state = port.addresses.lock();
    let config = port.config.load();
    let wanted = wanted(port, &config, &state);
    let old: Vec<EntryKey> = state.entries.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    for key in old {
        remove(port, key, now);
        state.entries.remove(&key);
    }
}

/// Takes a guest's word.
///
/// # Errors
/// Why it was refused: the operator's rule, or another port has the address. Nothing has changed then.
pub(super) fn report(port: &Port, report: Report, now: Now) -> Result<(), String> {
    let mut state = port.addresses.lock();
    if state.report.as_ref() == Some(&report) {
        // It may come back to this from an address that was refused.
        (state.refused, state.waiting) = (None, None);
        return Ok(());
    }
    let config = port.config.load();
    state.changes += 1;
    let outcome = if !state.admits(&config, report.mac) {
        Err("mac-change does not allow it".into())
    } else if let Some(owner) = configured_elsewhere(port, report.mac) {
        Err(format!("it is port {owner}'s by configuration"))
    } else {
        // From here on it is the first one: its further addresses are judged by that.
        let before = (state.report.replace(report.clone()), state.first);
        state.first = state.first.or(Some(report.mac));
        let wanted = wanted(port, &config, &state);
        follow(port, &mut state.entries, wanted, now).inspect_err(|_| (state.report, state.first) = before)
    };
    let logs = state.logged.is_none_or(|logged| logged.elapsed() > LOG_PAUSE);
    if logs {
        state.logged = Some(Instant::now());
    }
    let source = report.source.name();
    match &outcome {
        Ok(()) => {
            (state.refused, state.waiting) = (None, None);
            if logs {
                tracing::info!(port = port.name, mac = %report.mac, source, "the guest's address");
            }
        }
        Err(why) => {
            if logs {
                tracing::warn!(port = port.name, mac = %report.mac, source, "the guest's address is refused: {why}");
            }
            state.refused = Some(format!("{}: {why}", report.mac));
            state.waiting = (report.source == ReportSource::Qmp).then_some(report);
        }
    }
    outcome
}

/// The guest is gone or was reset: only the configuration counts again.
pub(super) fn forget(port: &Port, source: ReportSource, now: Now) {
    let mut state = port.addresses.lock();
    if state.waiting.as_ref().is_some_and(|report| report.source == source) {
        (state.refused, state.waiting) = (None, None);
    }
    if state.report.as_ref().is_none_or(|report| report.source != source) {
        return;
    }
    (state.report, state.first) = (None, None);
    let config = port.config.load();
    let wanted = wanted(port, &config, &state);
    if let Err(why) = follow(port, &mut state.entries, wanted, now) {
        tracing::warn!(port = port.name, "the port's own addresses: {why}");
    }
}

/// The other port of the switch that has an address by its configuration, whether it uses it now or not.
fn configured_elsewhere(port: &Port, mac: UnicastMac) -> Option<String> {
    let ports = port.switch.ports.load();
    let others = ports.iter().flatten().filter(|other| other.id != port.id);
    let mut owners = others.filter(|other| {
        let config = other.config.load();
        config.mac == Some(mac.octets()) || config.macs.contains(&mac)
    });
    owners.next().map(|owner| owner.name.clone())
}

/// The entries that a port should have.
fn wanted(port: &Port, config: &PortConfig, state: &Addresses) -> Entries {
    let settings = &config.settings;
    let vlans: Vec<Option<Vlan>> = match port.switch.bridge.config().tagging {
        Some(_) => settings.vlans.iter().map(Some).collect(),
        None => vec![None],
    };
    let mut entries = Entries::new();
    let mut put = |mac, kind, origin| {
        for vlan in &vlans {
            entries.insert((mac, *vlan), (kind, origin));
        }
    };
    // A port that learns finds out by itself; what it is told only comes earlier, and moves with the station.
    let learns = settings.learning;
    if let Some(report) = &state.report {
        let kind = if learns { EntryKind::Dynamic } else { EntryKind::Static };
        let limit = settings.mac_limit.map_or(usize::MAX, |limit| limit as usize);
        let room = (GUEST_ENTRIES_MAX / vlans.len().max(1)).min(limit).max(1);
        let may =
            |mac: &&UnicastMac| state.admits(config, **mac) && configured_elsewhere(port, **mac).is_none();
        let further = report.unicast.iter().filter(may);
        for mac in [report.mac].iter().chain(further).take(room) {
            put(*mac, kind, Origin::Guest);
        }
    }
    if !learns {
        let own = if state.report.is_none() { config.mac.and_then(UnicastMac::new) } else { None };
        for mac in own.iter().chain(&config.macs) {
            put(*mac, EntryKind::Static, Origin::Configuration);
        }
        if let Some(report) = &state.report
            && config.mac == Some(report.mac.octets())
        {
            put(report.mac, EntryKind::Static, Origin::Configuration);
        }
    }
    for entry in &config.fdb {
        entries.insert((entry.mac, entry.vlan), (entry.kind, Origin::Configuration));
    }
    entries
}

/// Adds what is new, then removes what is old. If something cannot be added, nothing is.
fn follow(port: &Port, entries: &mut Entries, wanted: Entries, now: Now) -> Result<(), String> {
    let bridge = &port.switch.bridge;
    // The FDB itself says what is there: an operator may have flushed it. An entry that moves and ages is only placed once.
    let is_there = |((mac, vlan), value): &(&EntryKey, &(EntryKind, Origin))| match value.0 {
        EntryKind::Static | EntryKind::Sticky => bridge
            .entry(*mac, *vlan, now)
            .is_some_and(|entry| entry.port == port.id && (entry.kind, entry.origin) == **value),
        _ => entries.get(&(*mac, *vlan)) == Some(value),
    };
    let mut added: Vec<EntryKey> = Vec::new();
    for (key, value) in wanted.iter().filter(|entry| !is_there(entry)) {
        if let Err(error) = place(port, *key, *value, now) {
            for key in added {
                match entries.get(&key) {
                    Some(value) => {
                        let _ = place(port, key, *value, now);
                    }
                    None => remove(port, key, now),
                }
            }
            return Err(taken(port, key.0, error));
        }
        added.push(*key);
    }
    for key in entries.keys().filter(|key| !wanted.contains_key(key)) {
        remove(port, *key, now);
    }
    *entries = wanted;
    Ok(())
}

/// Places an entry. The configuration's word counts more than a guest's.
fn place(
    port: &Port,
    (mac, vlan): EntryKey,
    (kind, origin): (EntryKind, Origin),
    now: Now,
) -> Result<(), BridgeError> {
    let bridge = &port.switch.bridge;
    let placed = bridge.add_entry(mac, vlan, port.id, kind, origin, now);
    if matches!(placed, Err(BridgeError::AddressTaken(_)))
        && origin == Origin::Configuration
        && bridge.entry(mac, vlan, now).is_some_and(|entry| entry.origin == Origin::Guest)
    {
        bridge.remove_entry(mac, vlan);
        return bridge.add_entry(mac, vlan, port.id, kind, origin, now);
    }
    placed
}

/// Removes an entry, if it is still this port's.
fn remove(port: &Port, (mac, vlan): EntryKey, now: Now) {
    let bridge = &port.switch.bridge;
    if bridge.entry(mac, vlan, now).is_some_and(|entry| entry.port == port.id) {
        bridge.remove_entry(mac, vlan);
    }
}

fn taken(port: &Port, mac: UnicastMac, error: BridgeError) -> String {
    let BridgeError::AddressTaken(other) = error else { return format!("{mac}: {error}") };
    let ports = port.switch.ports.load();
    match ports.get(other.as_usize()).and_then(Option::as_ref) {
        Some(other) => format!("port {} has {mac}", other.name),
        None => format!("{mac}: {error}"),
    }
}
