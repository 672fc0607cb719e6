//! The bridge's operator side: its ports, its FDB, its clockwork.
//!
//! # Theory of operation
//!
//! A [`Bridge`] is three things. The *port table* ([`crate::table`]) is immutable and swapped as a whole. The *FDB*
//! ([`crate::fdb`]) is read without a lock and changed under the mutex of the [`crate::ledger::Ledger`], as is the port
//! table. The *groups* ([`crate::groups`]) are there where the bridge snoops.
//!
//! Workers take a [`View`] for each burst and decide by it; how, says [`crate::view`]. They come here only when a
//! station is new or has moved, or when a guard shuts its port. Both ask the current port table again, under the
//! mutex: a worker whose view is older must not leave an entry behind a port that has gone, nor in a VLAN that the
//! port has left. Everything else is for the control side, from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::entry::{EntryKind, FdbEntry, Flush, Origin};
use crate::fdb::{Fdb, Hit, Station};
use crate::frame::Tagging;
use crate::groups::{GroupEntry, Groups, QuerierEntry, RouterEntry, Trust};
use crate::ledger::{Learned, Ledger};
use crate::port::PortSettings;
use crate::table::{Flags, PortEntry, PortState, PortTable};
use crate::types::{Now, PortId, UnicastMac, Vlan};
use crate::view::View;

/// Buckets that one call of [`Bridge::age`] sweeps, unless a sixteenth of the table is more.
const SWEEP_BUCKETS_MIN: usize = 1024;
/// Buckets that a flush goes through before it lets waiting workers at the table.
const FLUSH_BURST: usize = 32;

/// Settings of a bridge. But for the ageing time they are fixed at its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Milliseconds after which an entry that ages is forgotten, at most [`Self::AGEING_MS_MAX`]. Zero: nothing is
    /// learned, and frames to stations without static entries flood.
    pub ageing_ms: u32,
    /// Entries that the FDB holds, from 1 to [`Self::ENTRIES_MAX`]. Memory for all is taken at creation: 56 bytes
    /// each.
    pub max_entries: u32,
    /// Secret, random for each start: it keeps guests from aiming their addresses at one place of the table.
    pub seed: u64,
    /// The tags that the switch reads; frames with others are untagged to it. `None`: the switch knows no VLANs, tags
    /// pass as payload, and every entry is for all VLANs.
    pub tagging: Option<Tagging>,
    /// The switch listens to IGMP and MLD, and sends frames to groups only where there are listeners.
    pub snooping: bool,
}

impl BridgeConfig {
    /// Longest ageing time, ten days in milliseconds. What is above it is lowered.
    pub const AGEING_MS_MAX: u32 = 864_000_000;
    /// Largest FDB. [`Bridge::new`] lowers what is above it.
    pub const ENTRIES_MAX: u32 = 1 << 20;

    /// Five minutes of ageing, 16384 entries, no VLANs, no snooping.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { ageing_ms: 300_000, max_entries: 16_384, seed, tagging: None, snooping: false }
    }
}

/// Why the control side's request was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// The port is on the switch already.
    #[error("the port is on the switch already")]
    PortExists,
    /// The port is not on the switch.
    #[error("the port is not on the switch")]
    NoSuchPort,
    /// A static or sticky entry keeps the address at this other port.
    #[error("an entry that does not move keeps the address at port {0}")]
    AddressTaken(PortId),
    /// Entries that are never evicted fill the FDB, or the address's part of it.
    #[error("the FDB is full of entries that stay")]
    TableFull,
    /// The port is not in the VLAN.
    #[error("the port is not in VLAN {}", .0.get())]
    VlanNotOnPort(Vlan),
    /// The switch knows no VLANs.
    #[error("the switch knows no VLANs")]
    VlanUnknown,
    /// The switch knows VLANs, and the request names none.
    #[error("the switch knows VLANs: name the one that the entry is for")]
    VlanNeeded,
    /// Only frames make learned entries.
    #[error("a learned entry comes from a frame only; place a dynamic one")]
    KindLearned,
}

/// Why a port takes part in nothing, although it is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutReason {
    /// A spanning-tree frame came in by it, and [`PortSettings::guard`] was on.
    Guard,
}

impl ShutReason {
    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
        }
    }
}

/// How a port stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStatus {
    /// Something, if it is shut until [`Bridge::reopen`].
    pub shut: Option<ShutReason>,
    /// Learned entries, those included that have aged and are not swept yet.
    pub learned: u32,
    /// Entries of the other kinds.
    pub pinned: u32,
    /// Learned entries that the port lost because the FDB was full, since it joined the switch.
    pub evicted: u64,
}

/// A learning bridge that several workers share.
pub struct Bridge {
    config: BridgeConfig,
    pub(crate) fdb: Fdb,
    /// Stored only under the ledger's mutex.
    pub(crate) table: ArcSwap<PortTable>,
    pub(crate) groups: Option<Groups>,
    pub(crate) ageing_ms: AtomicI32,
    /// Bucket at which the next sweep starts.
    sweep: AtomicUsize,
    ledger: Mutex<Ledger>,
}

impl Bridge {
    /// A bridge without ports. All memory that it ever needs for addresses is taken here.
    #[must_use]
    pub fn new(config: BridgeConfig) -> Self {
        let max_entries = config.max_entries.clamp(1, BridgeConfig::ENTRIES_MAX);
        let fdb = Fdb::new(max_entries, config.seed);
        let bridge = Self {
            config: BridgeConfig { max_entries, ..config },
            ledger: Mutex::new(Ledger::new(&fdb, max_entries)),
            fdb,
            table: ArcSwap::from_pointee(PortTable::new(config.tagging.is_some())),
            groups: config.snooping.then(|| Groups::new(config.seed)),
            ageing_ms: AtomicI32::new(0),
            sweep: AtomicUsize::new(0),
        };
        bridge.set_ageing(config.ageing_ms);
        bridge
    }

    /// The settings, as they are in force.
    #[must_use]
    pub fn config(&self) -> BridgeConfig {
        let ageing_ms = self.ageing_ms.load(Ordering::Relaxed).unsigned_abs();
        BridgeConfig { ageing_ms, ..self.config }
    }

    /// Changes [`BridgeConfig::ageing_ms`]; entries that are there follow it too.
    pub fn set_ageing(&self, ageing_ms: u32) {
        self.ageing_ms.store(ageing_ms.min(BridgeConfig::AGEING_MS_MAX) as i32, Ordering::Relaxed);
    }

    /// The state that a burst of frames is decided by. To be taken for each burst and given back after it: a change of
    /// a port's settings takes effect with the next view.
    #[inline]
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self, self.config.tagging)
    }

    // Ports.

    /// Puts a port on the switch.
    ///
    /// # Errors
    /// [`BridgeError::PortExists`].
    pub fn add_port(&self, port: PortId, settings: PortSettings) -> Result<(), BridgeError> {
        let mut ledger = self.ledger.lock();
        if self.table.load().entry(port).is_some() {
            return Err(BridgeError::PortExists);
        }
        let state = Arc::new(PortState::default());
        ledger.open(port, Arc::clone(&state.learned));
        self.publish(port, Some(Arc::new(PortEntry::new(settings, state))));
        Ok(())
    }

    /// Changes a port's settings. Its entries stay, but for those in VLANs that it leaves; a port that its guard shut
    /// stays shut.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`].
    pub fn set_port(&self, port: PortId, settings: PortSettings) -> Result<(), BridgeError> {
        let (vlans, trust) = (settings.vlans.clone(), Trust::of(&settings));
        let ledger = self.ledger.lock();
        let Some(old) = self.table.load().entry(port).cloned() else { return Err(BridgeError::NoSuchPort) };
        self.publish(port, Some(Arc::new(PortEntry::new(settings, Arc::clone(&old.state)))));
        drop(ledger);
        let left = |vlan: Option<Vlan>| vlan.is_some_and(|vlan| !vlans.contains(vlan));
        if self.config.tagging.is_some() && old.settings.vlans.iter().any(|vlan| left(Some(vlan))) {
            self.purge(|entry| entry.port == port && left(entry.vlan));
        }
        if let Some(groups) = &self.groups {
            groups.withdraw(port, trust);
            if self.config.tagging.is_some() {
                groups.forget_vlans(port, &vlans);
            }
        }
        Ok(())
    }

    /// A port's settings; `None` if it is not on the switch.
    #[must_use]
    pub fn port_settings(&self, port: PortId) -> Option<Arc<PortSettings>> {
        self.table.load().entry(port).map(|entry| Arc::clone(&entry.settings))
    }

    /// Takes a port off the switch, with all its entries. A verdict that a worker got just before may still name it.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`].
    pub fn remove_port(&self, port: PortId) -> Result<(), BridgeError> {
        let ledger = self.ledger.lock();
        if self.table.load().entry(port).is_none() {
            return Err(BridgeError::NoSuchPort);
        }
        self.publish(port, None);
        drop(ledger);
        self.purge(|entry| entry.port == port);
        if let Some(groups) = &self.groups {
            groups.forget_port(port);
        }
        Ok(())
    }

    /// The ports on the switch, in order.
    #[must_use]
    pub fn ports(&self) -> Vec<PortId> {
        self.table.load().ports().map(|(port, _)| port).collect()
    }

    /// How a port stands; `None` if it is not on the switch.
    #[must_use]
    pub fn port_status(&self, port: PortId) -> Option<PortStatus> {
        let ledger = self.ledger.lock();
        let table = self.table.load();
        let state = &table.entry(port)?.state;
        let (learned, pinned, evicted) = ledger.counts(port)?;
        let shut = state.shut.load(Ordering::Relaxed).then_some(ShutReason::Guard);
        Some(PortStatus { shut, learned, pinned, evicted })
    }

    /// Opens a port that its guard has shut. Nothing happens to one that is open.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`].
    pub fn reopen(&self, port: PortId) -> Result<(), BridgeError> {
        self.set_shut(port, false)
    }

    /// Shuts a port whose guard saw a spanning-tree frame, or opens it again.
    #[cold]
    pub(crate) fn set_shut(&self, port: PortId, shut: bool) -> Result<(), BridgeError> {
        let _ledger = self.ledger.lock();
        let Some(entry) = self.table.load().entry(port).cloned() else { return Err(BridgeError::NoSuchPort) };
        if entry.state.shut.swap(shut, Ordering::Relaxed) != shut {
            self.publish(port, Some(entry));
        }
        Ok(())
    }

    /// Swaps in a table with another entry for a port. The caller holds the ledger.
    fn publish(&self, port: PortId, entry: Option<Arc<PortEntry>>) {
        let table = self.table.load().with(port, entry);
        self.table.store(Arc::new(table));
    }

    // The FDB.

    /// Puts a source that is new or moved behind a port.
    #[cold]
    #[inline(never)]
    pub(crate) fn learn(&self, station: Station, in_port: PortId, now: Now) -> Learned {
        let mut ledger = self.ledger.lock();
        let table = self.table.load();
        let slot = table.slot(in_port);
        // The port may have left, or its VLAN, since the burst began; then nothing may name it any more.
        match &slot.entry {
            Some(entry)
                if slot.flags.has(Flags::LEARNING)
                    && slot.flags.lacks(Flags::LOCKED)
                    && slot.carries(station.vlan()) =>
            {
                ledger.learn(&self.fdb, station, in_port, entry.mac_limit(), now)
            }
            _ => Learned::NoRoom,
        }
    }

    /// Whether there is room for a station that has no entry.
    pub(crate) fn has_room(&self, station: Station) -> bool {
        self.ledger.lock().has_room(&self.fdb, station)
    }

    /// Places an entry. One that ages gives way to it; one that does not is changed if it is at the same port.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`], [`BridgeError::AddressTaken`], [`BridgeError::TableFull`],
    /// [`BridgeError::KindLearned`]; [`BridgeError::VlanUnknown`] or [`BridgeError::VlanNeeded`] if `vlan` does not
    /// suit the switch, [`BridgeError::VlanNotOnPort`] if it does not suit the port.
    pub fn add_entry(
        &self,
        mac: UnicastMac,
        vlan: Option<Vlan>,
        port: PortId,
        kind: EntryKind,
        origin: Origin,
        now: Now,
    ) -> Result<(), BridgeError> {
        if kind == EntryKind::Learned {
            return Err(BridgeError::KindLearned);
        }
        match (self.config.tagging, vlan) {
            (None, Some(_)) => return Err(BridgeError::VlanUnknown),
            (Some(_), None) => return Err(BridgeError::VlanNeeded),
            _ => {}
        }
        let station = Station::new(mac, vlan);
        let mut ledger = self.ledger.lock();
        let table = self.table.load();
        let slot = table.slot(port);
        if slot.entry.is_none() {
            return Err(BridgeError::NoSuchPort);
        }
        if let Some(vlan) = vlan.filter(|_| !slot.carries(vlan)) {
            return Err(BridgeError::VlanNotOnPort(vlan));
        }
        if let Some(held) = self.fdb.locate(station)
            && !self.fdb.word(held).kind().ages()
            && self.fdb.port(held) != port
        {
            return Err(BridgeError::AddressTaken(self.fdb.port(held)));
        }
        let placed = ledger.place(&self.fdb, station, kind, origin, port, now);
        if placed { Ok(()) } else { Err(BridgeError::TableFull) }
    }

    /// Removes an entry of any kind, and says what it was, its age left out.
    pub fn remove_entry(&self, mac: UnicastMac, vlan: Option<Vlan>) -> Option<FdbEntry> {
        let mut ledger = self.ledger.lock();
        let slot = self.fdb.locate(Station::new(mac, vlan))?;
        let (word, port) = (self.fdb.word(slot), self.fdb.port(slot));
        ledger.remove(&self.fdb, slot);
        Some(FdbEntry { mac, vlan, port, age_ms: 0, kind: word.kind(), origin: word.origin() })
    }

    /// Removes the entries that `flush` describes, and answers how many they were.
    pub fn flush(&self, flush: &Flush) -> u32 {
        self.purge(|entry| flush.wants(entry))
    }

    /// Removes all entries that are `unwanted`. One pass, however many a guest adds meanwhile, and workers get their
    /// turn at the table every [`FLUSH_BURST`] buckets.
    fn purge(&self, unwanted: impl Fn(&FdbEntry) -> bool) -> u32 {
        let mut removed = 0;
        for start in (0..self.fdb.bucket_count()).step_by(FLUSH_BURST) {
            let mut ledger = self.ledger.lock();
            for bucket in start..self.fdb.bucket_count().min(start + FLUSH_BURST) {
                for (slot, hit) in self.fdb.entries(bucket) {
                    if describe(&hit, Now::from_millis(0)).is_some_and(|entry| unwanted(&entry)) {
                        ledger.remove(&self.fdb, slot);
                        removed += 1;
                    }
                }
            }
        }
        removed
    }

    /// Sweeps a part of the FDB for entries that have aged, and answers how many it removed. To be called about once a
    /// second: sixteen calls reach every entry. Lookups do not see aged entries in any case; the sweep makes room.
    /// Groups whose listeners are silent are forgotten too.
    pub fn age(&self, now: Now) -> u32 {
        if let Some(groups) = &self.groups {
            groups.age(now);
        }
        let count = self.fdb.bucket_count();
        let part = (count / 16).max(SWEEP_BUCKETS_MIN).min(count);
        let start = self.sweep.fetch_add(part, Ordering::Relaxed) % count;
        (start..start + part).map(|bucket| self.age_bucket(bucket % count, now)).sum()
    }

    fn age_bucket(&self, bucket: usize, now: Now) -> u32 {
        let ageing_ms = self.ageing_ms.load(Ordering::Relaxed);
        if self.fdb.entries(bucket).all(|(_, hit)| hit.is_alive(now, ageing_ms)) {
            return 0;
        }
        let mut ledger = self.ledger.lock();
        let mut removed = 0;
        let dead = self.fdb.entries(bucket).filter(|(_, hit)| !hit.is_alive(now, ageing_ms));
        for (slot, _) in dead {
            ledger.remove(&self.fdb, slot);
            removed += 1;
        }
        removed
    }

    /// The entry of one station, if it has one that has not aged.
    #[must_use]
    pub fn entry(&self, mac: UnicastMac, vlan: Option<Vlan>, now: Now) -> Option<FdbEntry> {
        self.fdb.find(Station::new(mac, vlan)).and_then(|hit| self.describe_alive(&hit, now))
    }

    /// All entries that have not aged, by address and VLAN. Workers go on meanwhile: an entry that comes or goes during
    /// the call may be there or not.
    #[must_use]
    pub fn entries(&self, now: Now) -> Vec<FdbEntry> {
        let buckets = 0..self.fdb.bucket_count();
        let hits = buckets.flat_map(|bucket| self.fdb.entries(bucket));
        let mut entries: Vec<FdbEntry> = hits.filter_map(|(_, hit)| self.describe_alive(&hit, now)).collect();
        // A station that was removed and learned again meanwhile may have been met twice.
        entries.sort_by_key(|entry| (entry.mac, entry.vlan));
        entries.dedup_by_key(|entry| (entry.mac, entry.vlan));
        entries
    }

    /// Number of entries, those included that have aged and are not swept yet.
    #[must_use]
    pub fn entry_count(&self) -> u32 {
        self.ledger.lock().count()
    }

    /// The groups that have listeners, where the bridge snoops.
    #[must_use]
    pub fn groups(&self, now: Now) -> Vec<GroupEntry> {
        self.groups.as_ref().map(|groups| groups.entries(now)).unwrap_or_default()
    }

    /// The ports with a multicast router, where the bridge snoops.
    #[must_use]
    pub fn routers(&self, now: Now) -> Vec<RouterEntry> {
        self.groups.as_ref().map(|groups| groups.routers(now)).unwrap_or_default()
    }

    /// The queriers that are known, where the bridge snoops.
    #[must_use]
    pub fn queriers(&self, now: Now) -> Vec<QuerierEntry> {
        self.groups.as_ref().map(|groups| groups.queriers(now)).unwrap_or_default()
    }

    fn describe_alive(&self, hit: &Hit<'_>, now: Now) -> Option<FdbEntry> {
        hit.is_alive(now, self.ageing_ms.load(Ordering::Relaxed)).then(|| describe(hit, now)).flatten()
    }
}

fn describe(hit: &Hit<'_>, now: Now) -> Option<FdbEntry> {
    let (station, kind) = (hit.word.station()?, hit.word.kind());
    Some(FdbEntry {
        mac: station.mac()?,
        vlan: station.vlan(),
        port: hit.port(),
        age_ms: if kind.ages() { u64::from(hit.age_ms(now).max(0).unsigned_abs()) } else { 0 },
        kind,
        origin: hit.word.origin(),
    })
}

#[cfg(test)]
impl Bridge {
    /// The books agree with the table.
    pub(crate) fn check(&self) {
        self.ledger.lock().check(&self.fdb);
    }

    /// The station has an entry, aged or not.
    pub(crate) fn holds(&self, mac: UnicastMac, vlan: Option<Vlan>) -> bool {
        self.fdb.find(Station::new(mac, vlan)).is_some()
    }
}
