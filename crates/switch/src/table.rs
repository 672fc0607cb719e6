//! The port table: every port's settings in the form that decisions read.
//!
//! # Theory of operation
//!
//! The table is immutable. A change makes a new one and swaps it in; workers load the current one once a burst and
//! are never made to wait. What a frame nearly always needs of a port is in one [`PortSlot`] of 16 bytes, so that the
//! slots of a thousand ports fit a core's first cache; the rest is a pointer away and read only if a flag says so.
//! What changes while workers run (meters, shut, the number of learned entries) is in a [`PortState`], which all
//! tables share.
//!
//! *Does anyone take it?* A frame that floods to nobody is a drop and must be counted as one. The table keeps, for each
//! VLAN, how many ports take each class of frames, isolated ports apart: the answer costs the same for two ports and
//! for thousands.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::meter::{Meter, Rate};
use crate::port::PortSettings;
use crate::types::{PortId, UnicastMac, Vlan};

/// What a frame to many counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// To a station that is not known.
    Unicast = 0,
    Broadcast = 1,
    Multicast = 2,
}

impl Class {
    const ALL: [Self; 3] = [Self::Unicast, Self::Broadcast, Self::Multicast];
}

/// A set of a port's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    pub(crate) const NONE: Self = Self(0);
    /// On the switch.
    pub(crate) const MEMBER: Self = Self(1);
    /// Enabled, and not shut by its guard.
    pub(crate) const OPEN: Self = Self(1 << 1);
    pub(crate) const LEARNING: Self = Self(1 << 2);
    pub(crate) const ISOLATED: Self = Self(1 << 3);
    pub(crate) const HAIRPIN: Self = Self(1 << 4);
    pub(crate) const LOCKED: Self = Self(1 << 5);
    pub(crate) const GUARD: Self = Self(1 << 6);
    /// Has lists of allowed sources.
    pub(crate) const SOURCES: Self = Self(1 << 7);
    /// Has a limit of learned addresses.
    pub(crate) const LIMITED: Self = Self(1 << 8);
    /// Has a limit of frames a second.
    pub(crate) const METERED: Self = Self(1 << 9);

    /// What an ordinary learning port has, the classes that it takes aside.
    pub(crate) const PLAIN: Self = Self::MEMBER.and(Self::OPEN).and(Self::LEARNING);

    /// True if the set is [`Self::PLAIN`] and classes.
    #[inline]
    pub(crate) const fn is_plain(self) -> bool {
        self.0 & ((1 << 10) - 1) == Self::PLAIN.0
    }

    /// The port takes frames of this class.
    pub(crate) const fn takes(class: Class) -> Self {
        Self(1 << (10 + class as u16))
    }

    /// True if all of `others` are in the set.
    #[inline]
    pub(crate) const fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// True if none of `others` is in the set.
    #[inline]
    pub(crate) const fn lacks(self, others: Self) -> bool {
        self.0 & others.0 == 0
    }

    #[inline]
    #[must_use]
    pub(crate) const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    #[must_use]
    const fn and_if(self, condition: bool, others: Self) -> Self {
        if condition { self.and(others) } else { self }
    }
}

/// What workers change of a port.
#[derive(Debug, Default)]
pub(crate) struct PortState {
    /// Learned entries behind it; the ledger writes it.
    pub(crate) learned: Arc<AtomicU32>,
    /// Its guard shut it.
    pub(crate) shut: AtomicBool,
    /// By [`Class`].
    pub(crate) meters: [Meter; 3],
}

/// A port on the switch.
#[derive(Debug)]
pub(crate) struct PortEntry {
    pub(crate) settings: Arc<PortSettings>,
    pub(crate) state: Arc<PortState>,
    /// By [`Class`].
    rates: [Option<Rate>; 3],
}

impl PortEntry {
    pub(crate) fn new(settings: PortSettings, state: Arc<PortState>) -> Self {
        let rates = settings.rates;
        let rates = [rates.unknown_unicast, rates.broadcast, rates.multicast].map(|rate| rate.map(Rate::new));
        Self { settings: Arc::new(settings), state, rates }
    }

    /// Learned entries that the port may have.
    pub(crate) fn mac_limit(&self) -> u32 {
        self.settings.mac_limit.unwrap_or(u32::MAX)
    }

    /// The limit of a class, and where it is kept.
    #[inline]
    pub(crate) fn meter(&self, class: Class) -> Option<(Rate, &Meter)> {
        Some((self.rates[class as usize]?, &self.state.meters[class as usize]))
    }

    fn flags(&self) -> Flags {
        let Self { settings, state, rates } = self;
        let flags = Flags::MEMBER
            .and_if(settings.enabled && !state.shut.load(Ordering::Relaxed), Flags::OPEN)
            .and_if(settings.learning, Flags::LEARNING)
            .and_if(settings.isolated, Flags::ISOLATED)
            .and_if(settings.hairpin, Flags::HAIRPIN)
            .and_if(settings.locked, Flags::LOCKED)
            .and_if(settings.guard, Flags::GUARD)
            .and_if(!settings.sources.is_empty(), Flags::SOURCES)
            .and_if(settings.mac_limit.is_some(), Flags::LIMITED)
            .and_if(rates.iter().any(Option::is_some), Flags::METERED);
        let floods = [settings.flood, settings.broadcast_flood, settings.multicast_flood];
        Class::ALL
            .into_iter()
            .zip(floods)
            .fold(flags, |flags, (class, flood)| flags.and_if(flood, Flags::takes(class)))
    }
}

/// A port number's place in the table.
#[derive(Clone, Debug)]
pub(crate) struct PortSlot {
    pub(crate) flags: Flags,
    /// VID of untagged frames; zero if there is none.
    native: u16,
    pub(crate) link_local: u16,
    /// Something, if the port is on the switch.
    pub(crate) entry: Option<Arc<PortEntry>>,
}

impl PortSlot {
    const ABSENT: Self = Self { flags: Flags::NONE, native: 0, link_local: 0, entry: None };

    fn new(entry: Option<Arc<PortEntry>>) -> Self {
        let Some(port) = &entry else { return Self::ABSENT };
        let settings = &port.settings;
        Self {
            flags: port.flags(),
            native: settings.vlans.native().map_or(0, Vlan::get),
            link_local: settings.link_local,
            entry,
        }
    }

    #[inline]
    pub(crate) fn native(&self) -> Option<Vlan> {
        Vlan::new(self.native)
    }

    /// Whether frames of a VLAN pass; those without one always do.
    #[inline]
    pub(crate) fn carries(&self, vlan: Option<Vlan>) -> bool {
        vlan.is_none_or(|vlan| {
            vlan.get() == self.native
                || self.entry.as_ref().is_some_and(|entry| entry.settings.vlans.contains(vlan))
        })
    }
}

/// How many open ports take each class, those that are not isolated first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Takers([[u32; 2]; 3]);

impl Takers {
    fn count(&mut self, flags: Flags, step: impl Fn(u32) -> u32) {
        for class in Class::ALL {
            if flags.has(Flags::OPEN.and(Flags::takes(class))) {
                let count = &mut self.0[class as usize][usize::from(flags.has(Flags::ISOLATED))];
                *count = step(*count);
            }
        }
    }
}

/// Stations that the switch answers for: VLAN and network address, to MAC address and port.
type Neighbours = HashMap<(Option<Vlan>, IpAddr), (UnicastMac, PortId)>;

/// All ports at one moment.
#[derive(Debug)]
pub(crate) struct PortTable {
    slots: Box<[PortSlot]>,
    /// By VID; only one where the switch knows no VLANs.
    takers: Box<[Takers]>,
    neighbours: Arc<Neighbours>,
}

impl PortTable {
    /// A table without ports.
    pub(crate) fn new(knows_vlans: bool) -> Self {
        let vids = if knows_vlans { 4096 } else { 1 };
        Self {
            slots: Box::default(),
            takers: vec![Takers::default(); vids].into(),
            neighbours: Arc::default(),
        }
    }

    fn knows_vlans(&self) -> bool {
        self.takers.len() > 1
    }

    /// The place of a port; an empty one if there is none.
    #[inline]
    pub(crate) fn slot(&self, port: PortId) -> &PortSlot {
        static ABSENT: PortSlot = PortSlot::ABSENT;
        self.slots.get(port.as_usize()).unwrap_or(&ABSENT)
    }

    /// The port, if it is on the switch.
    pub(crate) fn entry(&self, port: PortId) -> Option<&Arc<PortEntry>> {
        self.slot(port).entry.as_ref()
    }

    /// The ports on the switch, in order.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (PortId, &PortSlot)> {
        let numbered = self.slots.iter().enumerate().map(|(index, slot)| (PortId(index as u16), slot));
        numbered.filter(|(_, slot)| slot.entry.is_some())
    }

    /// This table, but for one port. The entry's flags are computed anew, whether or not it is another entry.
    pub(crate) fn with(&self, port: PortId, entry: Option<Arc<PortEntry>>) -> Self {
        let mut slots = self.slots.to_vec();
        if slots.len() <= port.as_usize() {
            slots.resize(port.as_usize() + 1, PortSlot::ABSENT);
        }
        let new = PortSlot::new(entry);
        let old = std::mem::replace(&mut slots[port.as_usize()], new.clone());
        while slots.pop_if(|last| last.entry.is_none()).is_some() {}
        let mut takers = self.takers.clone();
        for vid in self.vids(&old) {
            takers[vid].count(old.flags, |count| count - 1);
        }
        for vid in self.vids(&new) {
            takers[vid].count(new.flags, |count| count + 1);
        }
        let mut table = Self { slots: slots.into(), takers, neighbours: Arc::clone(&self.neighbours) };
        if suppressed(&old).next().is_some() || suppressed(&new).next().is_some() {
            table.neighbours = Arc::new(table.gather_neighbours());
        }
        table
    }

    /// Indices into `takers` for a port.
    fn vids(&self, slot: &PortSlot) -> Vec<usize> {
        match &slot.entry {
            None => Vec::new(),
            Some(_) if !self.knows_vlans() => vec![0],
            Some(entry) => entry.settings.vlans.iter().map(|vlan| usize::from(vlan.get())).collect(),
        }
    }

    /// Of two ports that claim one address, the lower one has it.
    fn gather_neighbours(&self) -> Neighbours {
        let mut neighbours = Neighbours::new();
        for (port, slot) in self.ports() {
            let vlan = slot.native().filter(|_| self.knows_vlans());
            if vlan.is_none() && self.knows_vlans() {
                continue;
            }
            for (address, mac) in suppressed(slot) {
                neighbours.entry((vlan, *address)).or_insert((*mac, port));
            }
        }
        neighbours
    }

    /// The station that has a network address.
    #[inline]
    pub(crate) fn neighbour(&self, vlan: Option<Vlan>, address: IpAddr) -> Option<(UnicastMac, PortId)> {
        self.neighbours.get(&(vlan, address)).copied()
    }

    #[inline]
    pub(crate) fn has_neighbours(&self) -> bool {
        !self.neighbours.is_empty()
    }

    /// Whether any port takes a frame of this class that came in by a port with `ingress`.
    #[inline]
    pub(crate) fn any_takes(&self, class: Class, vlan: Option<Vlan>, ingress: &PortSlot) -> bool {
        let vid = vlan.map_or(0, |vlan| usize::from(vlan.get()));
        let Some(Takers(counts)) = self.takers.get(vid) else { return false };
        let [shared, isolated] = counts[class as usize];
        let flags = ingress.flags;
        if flags.has(Flags::ISOLATED) {
            return shared > 0;
        }
        let itself = flags.has(Flags::OPEN.and(Flags::takes(class)))
            && flags.lacks(Flags::HAIRPIN)
            && ingress.carries(vlan);
        shared + isolated > u32::from(itself)
    }
}

/// The stations that the switch answers for in a port's stead.
fn suppressed(slot: &PortSlot) -> impl Iterator<Item = &(IpAddr, UnicastMac)> {
    let settings = slot.entry.as_ref().map(|entry| &entry.settings);
    settings
        .filter(|settings| settings.neighbour_suppression)
        .into_iter()
        .flat_map(|settings| &settings.neighbours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortVlans;

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<PortSlot>(), 16);
    }

    #[test]
    fn counts_of_takers_follow_every_change() {
        let vlan = |id| Vlan::new(id).unwrap();
        let variants: Vec<Option<Arc<PortEntry>>> = (0..32u16)
            .map(|bits| {
                let on = |bit: u16| bits >> bit & 1 != 0;
                let vlans = if on(0) {
                    PortVlans::access(vlan(5))
                } else {
                    PortVlans::trunk([vlan(5), vlan(9)], None)
                };
                let settings = PortSettings {
                    enabled: on(1),
                    isolated: on(2),
                    flood: on(3),
                    multicast_flood: on(4),
                    vlans,
                    ..PortSettings::default()
                };
                (bits != 7).then(|| Arc::new(PortEntry::new(settings, Arc::default())))
            })
            .collect();
        for knows_vlans in [false, true] {
            let mut table = PortTable::new(knows_vlans);
            for step in 0..400usize {
                let entry = variants[step * 11 % 32].clone();
                table = table.with(PortId((step * 7 % 5) as u16), entry);
                let mut afresh = PortTable::new(knows_vlans);
                for (port, slot) in table.ports() {
                    afresh = afresh.with(port, slot.entry.clone());
                }
                assert_eq!(table.takers, afresh.takers);
            }
            for port in 0..5 {
                table = table.with(PortId(port), None);
            }
            assert_eq!(table.takers, PortTable::new(knows_vlans).takers);
            assert_eq!(table.slots.len(), 0);
        }
    }
}
