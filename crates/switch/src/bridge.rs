//! The learning bridge: port, head and time in, verdict out.
//!
//! # Theory of operation
//!
//! The rules and their order are those of IEEE 802.1Q-2022 §8.6 and §8.7 as the Linux bridge applies them with STP
//! off:
//!
//! 1. The source must name one station.
//! 2. Groups that bridges keep to one link are not forwarded, but for 01:80:c2:00:00:00, which only STP claims.
//! 3. A source that a static entry pins to another port is refused; else it is learned, if the port learns.
//! 4. Groups go to all other ports. A known station's frame goes to its port, but never back to where it came from. An
//!    unknown station's frame goes to all other ports that want such frames.
//!
//! Learning is shared between VLANs: one station has one entry.
//!
//! Any number of workers call [`Bridge::decide`] and [`Bridge::decide_burst`] at once. They take no lock and touch no
//! line that others write, until something changes: a new or moved address takes the mutex of the
//! [`crate::ledger::Ledger`] for a bounded time. Everything else is for the control side, from any thread.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::fdb::{Fdb, Hit, Slot};
use crate::frame::EthernetHead;
use crate::ledger::{Learned, Ledger};
use crate::types::{DropReason, Now, PortId, UnicastMac, Verdict, Vlan};

/// An entry's time is renewed at most this often, in milliseconds.
const REFRESH_MS_MAX: i32 = 1000;
/// Buckets that one call of [`Bridge::age`] sweeps, unless a sixteenth of the table is more.
const SWEEP_BUCKETS_MIN: usize = 1024;
/// Entries that a flush removes before it lets waiting workers at the table.
const FLUSH_BURST: usize = 256;
/// Every number that a [`PortId`] can be.
const PORT_IDS: usize = 1 << 16;

/// Settings of a bridge, fixed at its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Milliseconds after which a learned entry is forgotten, at most [`Self::AGEING_MS_MAX`]. Zero: nothing is
    /// learned, and every frame floods.
    pub ageing_ms: u32,
    /// Entries that the FDB holds, from 1 to [`Self::ENTRIES_MAX`]. Memory for all is taken at creation: 50 to
    /// 100 bytes each.
    pub max_entries: u32,
    /// Secret, random for each start: it keeps guests from aiming their addresses at one place of the table.
    pub seed: u64,
}

impl BridgeConfig {
    /// Longest ageing time, ten days in milliseconds. [`Bridge::new`] lowers what is above it.
    pub const AGEING_MS_MAX: u32 = 864_000_000;
    /// Largest FDB. [`Bridge::new`] lowers what is above it.
    pub const ENTRIES_MAX: u32 = 1 << 20;

    /// Five minutes of ageing and 16384 entries.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { ageing_ms: 300_000, max_entries: 16_384, seed }
    }
}

/// What a port takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// Sources of frames from this port are learned.
    pub learning: bool,
    /// Frames to unknown stations are sent to this port. Groups are always sent.
    pub flood: bool,
}

impl Default for PortFlags {
    /// Both on.
    fn default() -> Self {
        Self { learning: true, flood: true }
    }
}

/// [`PortFlags`] and membership as one byte that workers read.
#[derive(Clone, Copy)]
struct PortBits(u8);

impl PortBits {
    const ABSENT: Self = Self(0);
    const MEMBER: u8 = 1;
    const LEARNING: u8 = 2;
    const FLOOD: u8 = 4;

    fn member(flags: PortFlags) -> Self {
        let learning = if flags.learning { Self::LEARNING } else { 0 };
        let flood = if flags.flood { Self::FLOOD } else { 0 };
        Self(Self::MEMBER | learning | flood)
    }

    fn is_member(self) -> bool {
        self.0 & Self::MEMBER != 0
    }

    fn learns(self) -> bool {
        self.0 & Self::LEARNING != 0
    }

    fn floods(self) -> bool {
        self.0 & Self::FLOOD != 0
    }

    fn flags(self) -> PortFlags {
        PortFlags { learning: self.learns(), flood: self.floods() }
    }
}

/// Where and when a burst came in.
struct Ingress {
    port: PortId,
    bits: PortBits,
    now: Now,
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
    /// A static entry pins the address to this other port.
    #[error("a static entry pins the address to port {0}")]
    AddressTaken(PortId),
    /// Static entries fill the FDB.
    #[error("the FDB is full of static entries")]
    TableFull,
}

/// How an entry came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// From a frame's source. It moves with the station, ages, and can be evicted.
    Learned,
    /// Set by the operator. It does none of these.
    Static,
}

/// One entry of the FDB, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The station.
    pub mac: UnicastMac,
    /// The VLAN that the entry is for; `None`, as learning is shared between VLANs.
    pub vlan: Option<Vlan>,
    /// The port that the station is behind.
    pub port: PortId,
    /// Milliseconds since the station sent, a second more or less; zero for static entries.
    pub age_ms: u64,
    /// How the entry came to be.
    pub kind: EntryKind,
}

/// What a port holds of the FDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortEntries {
    /// Learned entries, those included that have aged and are not swept yet.
    pub learned: u32,
    /// Static entries.
    pub pinned: u32,
    /// Learned entries that the port lost because the FDB was full, since it joined the switch.
    pub evicted: u64,
}

/// A learning bridge that several workers share.
pub struct Bridge {
    fdb: Fdb,
    /// By port number. Changed only under the ledger's mutex.
    ports: Box<[AtomicU8]>,
    /// Ports on the switch.
    member_count: AtomicU32,
    /// Those of them that take frames to unknown stations.
    flood_count: AtomicU32,
    ageing_ms: i32,
    refresh_ms: i32,
    /// Bucket at which the next sweep starts.
    sweep: AtomicUsize,
    ledger: Mutex<Ledger>,
}

impl Bridge {
    /// A bridge without ports. All memory that it ever needs for addresses is taken here.
    #[must_use]
    pub fn new(config: BridgeConfig) -> Self {
        let entries_max = config.max_entries.clamp(1, BridgeConfig::ENTRIES_MAX);
        let ageing_ms = config.ageing_ms.min(BridgeConfig::AGEING_MS_MAX) as i32;
        let fdb = Fdb::new(entries_max, config.seed);
        Self {
            ledger: Mutex::new(Ledger::new(&fdb, entries_max)),
            fdb,
            ports: (0..PORT_IDS).map(|_| AtomicU8::new(0)).collect(),
            member_count: AtomicU32::new(0),
            flood_count: AtomicU32::new(0),
            ageing_ms,
            refresh_ms: (ageing_ms / 8).clamp(1, REFRESH_MS_MAX),
            sweep: AtomicUsize::new(0),
        }
    }

    // The data path.

    /// Decides for one frame and learns its source.
    #[inline]
    pub fn decide(&self, in_port: PortId, head: &EthernetHead, now: Now) -> Verdict {
        let ingress = Ingress { port: in_port, bits: self.bits(in_port), now };
        self.check_source(&ingress, head).unwrap_or_else(|| self.look_up(&ingress, head))
    }

    /// Decides for a burst of frames from one port, in order, as [`Self::decide`] would one by one. Verdicts go to the
    /// front of `out`; heads beyond its length are left undecided.
    pub fn decide_burst(&self, in_port: PortId, heads: &[EthernetHead], now: Now, out: &mut [Verdict]) {
        debug_assert!(out.len() >= heads.len());
        let ingress = Ingress { port: in_port, bits: self.bits(in_port), now };
        // Frames of one sender and of one flow come in runs, and the same question at the same time has the same
        // answer. A source that was just refused is not remembered.
        const NONE: u64 = u64::MAX;
        let (mut accepted_src, mut last_dst) = (NONE, NONE);
        let mut verdict = Verdict::Drop(DropReason::InvalidSource);
        for (head, out) in heads.iter().zip(out) {
            let (src, dst) = (head.src.to_u64(), head.dst.to_u64());
            if src != accepted_src || head.dst.is_multicast() {
                let refusal = self.check_source(&ingress, head);
                accepted_src = if refusal.is_none() { src } else { NONE };
                verdict = refusal.unwrap_or_else(|| self.look_up(&ingress, head));
            } else if dst != last_dst {
                verdict = self.look_up(&ingress, head);
            }
            last_dst = dst;
            *out = verdict;
        }
    }

    /// Whether a frame with the verdict [`Verdict::Flood`] goes to `out_port`. The caller leaves out the port that it
    /// came from.
    #[inline]
    #[must_use]
    pub fn flood_reaches(&self, out_port: PortId, head: &EthernetHead) -> bool {
        let bits = self.bits(out_port);
        bits.is_member() && (bits.floods() || head.dst.is_multicast())
    }

    /// The steps before the lookup: `None` if the frame may go on, and then its source is known.
    #[inline]
    fn check_source(&self, ingress: &Ingress, head: &EthernetHead) -> Option<Verdict> {
        if !ingress.bits.is_member() {
            return Some(Verdict::Drop(DropReason::IngressRemoved));
        }
        let Some(src) = head.src.unicast() else { return Some(Verdict::Drop(DropReason::InvalidSource)) };
        if head.dst.is_multicast() && head.dst.link_local_group().is_some_and(|group| group != 0) {
            return Some(Verdict::Drop(DropReason::LinkLocal));
        }
        let accepted = self.accept(ingress, src);
        (!accepted).then_some(Verdict::Drop(DropReason::SourceTaken))
    }

    /// Learns a source, or notes that it was seen. False if it is pinned to another port.
    #[inline]
    fn accept(&self, ingress: &Ingress, src: UnicastMac) -> bool {
        let learns = ingress.bits.learns() && self.ageing_ms != 0;
        match self.fdb.find(src) {
            Some(hit) if hit.word.port() == ingress.port => {
                if learns {
                    hit.refresh(ingress.now, self.refresh_ms);
                }
                true
            }
            Some(hit) if hit.word.is_static() => false,
            _ => !learns || self.learn(ingress.port, src, ingress.now),
        }
    }

    /// Where a frame goes whose source is accepted.
    #[inline]
    fn look_up(&self, ingress: &Ingress, head: &EthernetHead) -> Verdict {
        if head.dst.is_multicast() {
            return flood(&self.member_count, true);
        }
        match head.dst.unicast().and_then(|dst| self.fdb.find(dst)) {
            Some(hit) if self.is_alive(&hit, ingress.now) => match hit.word.port() {
                port if port == ingress.port => Verdict::Drop(DropReason::SamePort),
                port => Verdict::Unicast(port),
            },
            _ => flood(&self.flood_count, ingress.bits.floods()),
        }
    }

    /// The way of a source that is new or moved.
    #[cold]
    #[inline(never)]
    fn learn(&self, in_port: PortId, src: UnicastMac, now: Now) -> bool {
        let mut ledger = self.ledger.lock();
        // The port may have left since the burst began; then nothing may name it any more.
        if !self.bits(in_port).learns() {
            return true;
        }
        ledger.learn(&self.fdb, src, in_port, now) != Learned::Pinned
    }

    #[inline]
    fn is_alive(&self, hit: &Hit<'_>, now: Now) -> bool {
        hit.age_ms(now) < self.ageing_ms || hit.word.is_static()
    }

    #[inline]
    fn bits(&self, port: PortId) -> PortBits {
        self.ports
            .get(port.as_usize())
            .map_or(PortBits::ABSENT, |bits| PortBits(bits.load(Ordering::Relaxed)))
    }

    // Ports.

    /// Puts a port on the switch, with both [`PortFlags`] on.
    ///
    /// # Errors
    /// [`BridgeError::PortExists`].
    pub fn add_port(&self, port: PortId) -> Result<(), BridgeError> {
        let mut ledger = self.ledger.lock();
        if self.bits(port).is_member() {
            return Err(BridgeError::PortExists);
        }
        ledger.open(port);
        self.set_bits(port, PortBits::member(PortFlags::default()));
        Ok(())
    }

    /// Takes a port off the switch, with all its entries. A verdict that a worker got just before may still name it.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`].
    pub fn remove_port(&self, port: PortId) -> Result<(), BridgeError> {
        let mut ledger = self.ledger.lock();
        if !self.bits(port).is_member() {
            return Err(BridgeError::NoSuchPort);
        }
        self.set_bits(port, PortBits::ABSENT);
        while let Some(slot) = ledger.first_pinned(port) {
            ledger.remove(&self.fdb, slot);
        }
        drop(ledger);
        self.flush_port(port);
        Ok(())
    }

    /// Changes what a port takes part in. Its entries stay.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`].
    pub fn set_port_flags(&self, port: PortId, flags: PortFlags) -> Result<(), BridgeError> {
        let _ledger = self.ledger.lock();
        if !self.bits(port).is_member() {
            return Err(BridgeError::NoSuchPort);
        }
        self.set_bits(port, PortBits::member(flags));
        Ok(())
    }

    /// What a port takes part in; `None` if it is not on the switch.
    #[must_use]
    pub fn port_flags(&self, port: PortId) -> Option<PortFlags> {
        Some(self.bits(port)).filter(|bits| bits.is_member()).map(PortBits::flags)
    }

    /// The ports on the switch, in order.
    #[must_use]
    pub fn ports(&self) -> Vec<PortId> {
        let all = (0..=u16::MAX).map(PortId);
        all.filter(|port| self.bits(*port).is_member()).collect()
    }

    /// What a port holds of the FDB; `None` if it is not on the switch.
    #[must_use]
    pub fn port_entries(&self, port: PortId) -> Option<PortEntries> {
        let ledger = self.ledger.lock();
        if !self.bits(port).is_member() {
            return None;
        }
        let (learned, pinned, evicted) = ledger.counts(port)?;
        Some(PortEntries { learned, pinned, evicted })
    }

    /// Stores a port's bits and keeps the counts right. The caller holds the ledger.
    fn set_bits(&self, port: PortId, bits: PortBits) {
        let before = self.bits(port);
        recount(&self.member_count, before.is_member(), bits.is_member());
        recount(&self.flood_count, before.floods(), bits.floods());
        if let Some(stored) = self.ports.get(port.as_usize()) {
            stored.store(bits.0, Ordering::Relaxed);
        }
    }

    // The FDB.

    /// Pins an address to a port: it does not age, move or get evicted, and frames from it are refused on other ports. A
    /// learned entry for it becomes static.
    ///
    /// # Errors
    /// [`BridgeError::NoSuchPort`], [`BridgeError::AddressTaken`] by another port's static entry,
    /// [`BridgeError::TableFull`].
    pub fn add_static(&self, mac: UnicastMac, port: PortId, now: Now) -> Result<(), BridgeError> {
        let mut ledger = self.ledger.lock();
        if !self.bits(port).is_member() {
            return Err(BridgeError::NoSuchPort);
        }
        if let Some(word) = self.fdb.find(mac).map(|hit| hit.word)
            && word.is_static()
            && word.port() != port
        {
            return Err(BridgeError::AddressTaken(word.port()));
        }
        if ledger.pin(&self.fdb, mac, port, now) { Ok(()) } else { Err(BridgeError::TableFull) }
    }

    /// Removes an address, static or learned. False if it was not there.
    pub fn remove(&self, mac: UnicastMac) -> bool {
        let mut ledger = self.ledger.lock();
        let slot = self.fdb.locate(mac);
        if let Some(slot) = slot {
            ledger.remove(&self.fdb, slot);
        }
        slot.is_some()
    }

    /// Forgets what was learned behind one port, or behind all. Static entries stay. Answers how many are gone.
    pub fn flush(&self, port: Option<PortId>) -> u32 {
        match port {
            Some(port) => self.flush_port(port),
            None => self.ports().into_iter().map(|port| self.flush_port(port)).sum(),
        }
    }

    /// Stops at the number of entries that there were at first, so that a guest that goes on learning cannot keep the
    /// caller here.
    fn flush_port(&self, port: PortId) -> u32 {
        let held = self.ledger.lock().counts(port).map_or(0, |(learned, ..)| learned);
        let mut flushed = 0;
        while flushed < held {
            let mut ledger = self.ledger.lock();
            for _ in 0..FLUSH_BURST.min((held - flushed) as usize) {
                let Some(slot) = ledger.first_learned(port) else { return flushed };
                ledger.remove(&self.fdb, slot);
                flushed += 1;
            }
        }
        flushed
    }

    /// Sweeps a part of the FDB for entries that have aged, and answers how many it removed. To be called about once a
    /// second: sixteen calls reach every entry. Lookups do not see aged entries in any case; the sweep makes room.
    pub fn age(&self, now: Now) -> u32 {
        let count = self.fdb.bucket_count();
        let part = (count / 16).max(SWEEP_BUCKETS_MIN).min(count);
        let start = self.sweep.fetch_add(part, Ordering::Relaxed);
        (start..start.wrapping_add(part)).map(|bucket| self.age_bucket(bucket, now)).sum()
    }

    fn age_bucket(&self, bucket: usize, now: Now) -> u32 {
        if self.fdb.entries(bucket).all(|(_, hit)| self.is_alive(&hit, now)) {
            return 0;
        }
        let mut ledger = self.ledger.lock();
        let mut removed = 0;
        let dead = self.fdb.entries(bucket).filter(|(_, hit)| !self.is_alive(hit, now));
        for (slot, _) in dead {
            ledger.remove(&self.fdb, slot);
            removed += 1;
        }
        removed
    }

    /// The entry of one address, if it has one that has not aged.
    #[must_use]
    pub fn entry(&self, mac: UnicastMac, now: Now) -> Option<FdbEntry> {
        self.fdb.find(mac).and_then(|hit| self.describe(&hit, now))
    }

    /// All entries that have not aged, by address. Workers go on meanwhile: an entry that comes or goes during the call
    /// may be there or not.
    #[must_use]
    pub fn entries(&self, now: Now) -> Vec<FdbEntry> {
        let buckets = 0..self.fdb.bucket_count();
        let hits = buckets.flat_map(|bucket| self.fdb.entries(bucket).map(|(_, hit): (Slot, _)| hit));
        let mut entries: Vec<FdbEntry> = hits.filter_map(|hit| self.describe(&hit, now)).collect();
        // An address that was removed and learned again meanwhile may have been met twice.
        entries.sort_by_key(|entry| entry.mac);
        entries.dedup_by_key(|entry| entry.mac);
        entries
    }

    /// Number of entries, those included that have aged and are not swept yet.
    #[must_use]
    pub fn entry_count(&self) -> u32 {
        self.ledger.lock().count()
    }

    fn describe(&self, hit: &Hit<'_>, now: Now) -> Option<FdbEntry> {
        let is_static = hit.word.is_static();
        let entry = FdbEntry {
            mac: hit.word.mac()?,
            vlan: None,
            port: hit.word.port(),
            age_ms: if is_static { 0 } else { u64::from(hit.age_ms(now).max(0).unsigned_abs()) },
            kind: if is_static { EntryKind::Static } else { EntryKind::Learned },
        };
        self.is_alive(hit, now).then_some(entry)
    }
}

/// Flood, if any port but the one it came from takes it.
#[inline]
fn flood(takers: &AtomicU32, in_port_takes: bool) -> Verdict {
    if takers.load(Ordering::Relaxed) > u32::from(in_port_takes) {
        Verdict::Flood
    } else {
        Verdict::Drop(DropReason::NoReceiver)
    }
}

fn recount(count: &AtomicU32, before: bool, after: bool) {
    match (before, after) {
        (false, true) => count.fetch_add(1, Ordering::Relaxed),
        (true, false) => count.fetch_sub(1, Ordering::Relaxed),
        _ => 0,
    };
}

#[cfg(test)]
impl Bridge {
    /// The books agree with the table.
    pub(crate) fn check(&self) {
        self.ledger.lock().check(&self.fdb);
    }

    /// The address has an entry, aged or not.
    pub(crate) fn holds(&self, mac: UnicastMac) -> bool {
        self.fdb.find(mac).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_saw_the_port_before_it_left_learns_nothing() {
        let bridge = Bridge::new(BridgeConfig::new(1));
        let (port, now) = (PortId(1), Now::from_millis(0));
        bridge.add_port(port).unwrap();
        let ingress = Ingress { port, bits: bridge.bits(port), now };
        bridge.remove_port(port).unwrap();
        let src = UnicastMac::new([0x52, 0x54, 0, 0, 0, 1]).unwrap();
        assert!(bridge.accept(&ingress, src));
        assert_eq!(bridge.entry_count(), 0);
        bridge.check();
    }
}
