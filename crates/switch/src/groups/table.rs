//! One version of what is known of groups, as readers see it. The head of [`super`] tells how versions follow each other.

use super::counts::Counts;
use super::deadline::Deadline;
use super::presence::Presence;
use super::{
    Arrival, GROUPS_MAX, GroupEntry, LAST_MEMBER_MS, MEMBERSHIP_MS, QuerierEntry, RouterEntry, Trust,
};
use crate::hash::{derive_key, folded_multiply};
use crate::multicast::Report;
use crate::packet::group_mac;
use crate::types::{MacAddr, Now, PortId, Vlan};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

/// Parts of the table that are copied separately.
pub(super) const SHARDS: usize = 64;

/// The two protocols that have groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::Ipv6 } else { Self::Ipv4 }
    }

    /// The family whose groups have such addresses (RFC 1112 §6.4, RFC 2464 §7).
    #[inline]
    pub(super) fn of_mac(mac: MacAddr) -> Option<Self> {
        match mac.0 {
            [0x01, 0x00, 0x5e, 0..0x80, ..] => Some(Self::Ipv4),
            [0x33, 0x33, ..] => Some(Self::Ipv6),
            _ => None,
        }
    }
}

/// True for groups that everyone gets: those of a link that need no reports (RFC 4541 §2.1.2 and §3).
#[inline]
fn is_for_all(mac: MacAddr) -> bool {
    matches!(mac.0, [0x01, 0x00, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0, 0, 1])
}

/// VLAN and MAC address of a group that listeners are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey(u64);

impl GroupKey {
    /// `None` for groups that everyone gets, and for other addresses than those of IP groups.
    #[inline]
    pub(super) fn new(vlan: Option<Vlan>, group: MacAddr) -> Option<Self> {
        Family::of_mac(group).filter(|_| !is_for_all(group))?;
        Some(Self((vlan_index(vlan) as u64) << 48 | group.to_u64()))
    }

    fn vlan(self) -> Option<Vlan> {
        Vlan::new((self.0 >> 48) as u16)
    }

    fn group(self) -> MacAddr {
        let [_, _, octets @ ..] = self.0.to_be_bytes();
        MacAddr(octets)
    }
}

/// 0 stands for "no VLANs".
#[inline]
fn vlan_index(vlan: Option<Vlan>) -> usize {
    vlan.map_or(0, |vlan| usize::from(vlan.get()))
}

/// What a port is known for besides listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A router is there: it gets all groups, and all reports.
    Router,
    /// Queries come from there: it gets all reports.
    Querier,
    /// It listens to more groups than are recorded: it gets all of them.
    Wide,
}

impl Role {
    const ALL: [Self; 3] = [Self::Router, Self::Querier, Self::Wide];

    /// Whether a port that is believed so much may have the role.
    pub(super) fn is_open_to(self, trust: Trust) -> bool {
        match self {
            Self::Router | Self::Querier => trust.may_route,
            Self::Wide => trust.may_be_wide,
        }
    }
}

/// What a deadline in the table is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) port: PortId,
    pub(super) vlan: Option<Vlan>,
    /// `None`: the port listens to a group.
    pub(super) role: Option<Role>,
}

/// What became of a report about one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    /// The port listens still.
    Done,
    /// It is about to be taken out of the table, and counted no more.
    Buried,
    /// It is not in the table.
    Missing,
}

/// What a report needs that the table has not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortage {
    /// Groups that may be entered.
    pub(super) enters: bool,
    /// Groups that the switch has no room for.
    pub(super) overflow: Option<Family>,
}

/// Ports in order, each with what is known of it.
type ByPort<T> = Vec<(PortId, Arc<T>)>;
type Seats = ByPort<Deadline>;

fn find<T>(ports: &[(PortId, Arc<T>)], port: PortId) -> Option<&T> {
    let index = ports.binary_search_by_key(&port, |(port, _)| *port).ok()?;
    ports.get(index).map(|(_, found)| &**found)
}

fn insert<T>(ports: &mut ByPort<T>, port: PortId, new: T) {
    let index = ports.partition_point(|(other, _)| *other < port);
    ports.insert(index, (port, Arc::new(new)));
}

/// One port's wish for a group.
#[derive(Debug)]
struct Listener {
    until: Deadline,
    /// The group it was first reported as.
    address: IpAddr,
    /// It was reported as another one as well.
    has_aliases: AtomicBool,
}

/// What ends some time.
trait Ends {
    fn until(&self) -> &Deadline;
}

impl Ends for Deadline {
    fn until(&self) -> &Deadline {
        self
    }
}

impl Ends for Listener {
    fn until(&self) -> &Deadline {
        &self.until
    }
}

/// Whether a port is there and not over.
#[inline]
fn has<T: Ends>(ports: &[(PortId, Arc<T>)], port: PortId, now: Now) -> bool {
    find(ports, port).is_some_and(|found| found.until().is_ahead(now))
}

/// The ports that are not over.
fn ahead<T: Ends>(ports: &[(PortId, Arc<T>)], now: Now) -> impl Iterator<Item = PortId> {
    ports.iter().filter(move |(_, found)| found.until().is_ahead(now)).map(|(port, _)| *port)
}

/// Groups of one shard, in order of their keys.
type Shard = Vec<(GroupKey, Arc<ByPort<Listener>>)>;

/// What is known of one family in one VLAN, listeners apart.
#[derive(Clone, Debug)]
struct Scene {
    presence: Arc<Presence>,
    /// By [`Role`].
    seats: [Seats; Role::ALL.len()],
}

impl Scene {
    fn new() -> Self {
        Self { presence: Arc::new(Presence::new()), seats: Default::default() }
    }

    fn seats(&self, role: Role) -> &[(PortId, Arc<Deadline>)] {
        let [routers, queriers, wide] = &self.seats;
        match role {
            Role::Router => routers,
            Role::Querier => queriers,
            Role::Wide => wide,
        }
    }
}

/// Both families of one VLAN.
type Scenes = [Scene; 2];

/// Who listens, who asks and who routes: one version, which does not change but for moments that come and go.
#[derive(Clone, Debug)]
pub struct GroupTable {
    keys: [u64; 2],
    /// Groups in all shards.
    count: usize,
    shards: Vec<Arc<Shard>>,
    /// By VLAN, as far as something was ever heard.
    scenes: Arc<Vec<Option<Arc<Scenes>>>>,
}

/// Who gets a frame.
#[derive(Clone, Copy, Debug)]
pub enum Membership<'t> {
    /// Everyone: the group needs no reports, or nobody asks for them.
    Flood,
    /// These only.
    Listeners(Listeners<'t>),
}

/// A set of ports.
#[derive(Clone, Copy, Debug)]
pub struct Listeners<'t> {
    listeners: &'t [(PortId, Arc<Listener>)],
    seats: [&'t [(PortId, Arc<Deadline>)]; 2],
    now: Now,
}

impl Listeners<'_> {
    /// Whether the port is in the set.
    #[inline]
    #[must_use]
    pub fn takes(&self, port: PortId) -> bool {
        let [first, second] = self.seats;
        has(self.listeners, port, self.now) || has(first, port, self.now) || has(second, port, self.now)
    }

    /// The ports of the set, each once.
    pub fn iter(&self) -> impl Iterator<Item = PortId> {
        let [first, second] = self.seats;
        let listeners = ahead(self.listeners, self.now);
        let first = ahead(first, self.now).filter(|port| !has(self.listeners, *port, self.now));
        let second = ahead(second, self.now).filter(|port| {
            let [first, _] = self.seats;
            !has(self.listeners, *port, self.now) && !has(first, *port, self.now)
        });
        listeners.chain(first).chain(second)
    }

    /// How many ports are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// True if no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl GroupTable {
    pub(super) fn new(seed: u64) -> Self {
        // Numbers that no other user of the seed has.
        let keys = [derive_key(seed, 0x6d63_6173), derive_key(seed, 0x6d63_6174)];
        Self { keys, count: 0, shards: vec![Arc::default(); SHARDS], scenes: Arc::default() }
    }

    /// Who gets a frame to `to`, a group, in a VLAN (`None` in a switch without VLANs). The ingress port may be among
    /// them.
    #[inline]
    #[must_use]
    pub fn listeners(&self, vlan: Option<Vlan>, to: MacAddr, now: Now) -> Membership<'_> {
        let Some((family, key)) = Family::of_mac(to).zip(GroupKey::new(vlan, to)) else {
            return Membership::Flood;
        };
        match self.scene(vlan, family) {
            Some(scene) if matches!(scene.presence.known(now), Some((_, true))) => {
                Membership::Listeners(Listeners {
                    listeners: self.group(key).unwrap_or_default(),
                    seats: [scene.seats(Role::Router), scene.seats(Role::Wide)],
                    now,
                })
            }
            _ => Membership::Flood,
        }
    }

    /// Who gets a report or a leave that was sent to `to`: whoever evaluates them, or everyone if no such port is
    /// known that `can_receive` frames of the VLAN. Others may be among the listeners, and the ingress port.
    #[must_use]
    pub fn routers(
        &self,
        vlan: Option<Vlan>,
        to: MacAddr,
        now: Now,
        can_receive: impl Fn(PortId) -> bool,
    ) -> Membership<'_> {
        let scene = Family::of_mac(to).and_then(|family| self.scene(vlan, family));
        let receivers = scene.map(|scene| Listeners {
            listeners: &[],
            seats: [scene.seats(Role::Router), scene.seats(Role::Querier)],
            now,
        });
        receivers
            .filter(|receivers| receivers.iter().any(can_receive))
            .map_or(Membership::Flood, Membership::Listeners)
    }

    #[inline]
    fn scene(&self, vlan: Option<Vlan>, family: Family) -> Option<&Scene> {
        let [ipv4, ipv6] = &**self.scenes.get(vlan_index(vlan))?.as_ref()?;
        Some(if family == Family::Ipv4 { ipv4 } else { ipv6 })
    }

    #[inline]
    fn shard_of(&self, key: GroupKey) -> usize {
        let [a, b] = self.keys;
        (folded_multiply(key.0 ^ a, b) % SHARDS as u64) as usize
    }

    #[inline]
    fn group(&self, key: GroupKey) -> Option<&[(PortId, Arc<Listener>)]> {
        let shard = self.shards.get(self.shard_of(key))?;
        let index = shard.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        shard.get(index).map(|(_, listeners)| listeners.as_slice())
    }

    pub(super) fn presence(&self, vlan: Option<Vlan>, family: Family) -> Option<&Presence> {
        self.scene(vlan, family).map(|scene| &*scene.presence)
    }

    /// Refreshes the listeners that a report names, and carries out its leaves. Says what is missing in the table and
    /// may be entered: `counts` has the groups of each port.
    pub(super) fn apply(
        &self,
        arrival: Arrival,
        report: &Report<'_>,
        trust: Trust,
        counts: &Counts,
    ) -> Shortage {
        let mut shortage = Shortage::default();
        for record in report.clone() {
            let Some(key) = GroupKey::new(arrival.vlan, group_mac(record.group)) else { continue };
            if !record.listens {
                self.leave(arrival, record.group, trust.fast_leave);
                continue;
            }
            match self.refresh(arrival, key, record.group) {
                Refreshed::Done => {}
                Refreshed::Buried => shortage.enters = true,
                // The numbers are at least as new as this table: what was taken out is not counted.
                Refreshed::Missing if counts.of(arrival.port) >= trust.groups_max => {}
                Refreshed::Missing if self.is_full_for(key) => {
                    shortage.overflow = Some(Family::of(record.group));
                }
                Refreshed::Missing => shortage.enters = true,
            }
        }
        shortage
    }

    /// Notes that a port still listens.
    pub(super) fn refresh(&self, arrival: Arrival, key: GroupKey, address: IpAddr) -> Refreshed {
        let Some(listener) = self.group(key).and_then(|group| find(group, arrival.port)) else {
            return Refreshed::Missing;
        };
        if !listener.until.extend(self.believed_until(arrival, address)) {
            return Refreshed::Buried;
        }
        if listener.address != address && !listener.has_aliases.load(Relaxed) {
            listener.has_aliases.store(true, Relaxed);
        }
        Refreshed::Done
    }

    /// Notes that a port does not listen any more, unless it may listen to another group with this MAC address.
    pub(super) fn leave(&self, arrival: Arrival, address: IpAddr, fast_leave: bool) {
        let listener = GroupKey::new(arrival.vlan, group_mac(address))
            .and_then(|key| self.group(key))
            .and_then(|group| find(group, arrival.port));
        if let Some(listener) = listener
            && listener.address == address
            && !listener.has_aliases.load(Relaxed)
        {
            let more_ms = if fast_leave { 0 } else { LAST_MEMBER_MS };
            listener.until.shorten(arrival.now.as_millis().saturating_add(more_ms));
        }
    }

    /// Until when a report that comes now is believed.
    fn believed_until(&self, arrival: Arrival, address: IpAddr) -> u64 {
        let presence = self.presence(arrival.vlan, Family::of(address));
        let asked = presence.and_then(|presence| presence.membership_ms(arrival.now));
        arrival.now.as_millis().saturating_add(asked.unwrap_or(MEMBERSHIP_MS))
    }

    /// Notes that a port still has a role; false if it is not in the table.
    pub(super) fn keep_seat(&self, arrival: Arrival, family: Family, role: Role, until: u64) -> bool {
        self.scene(arrival.vlan, family)
            .and_then(|scene| find(scene.seats(role), arrival.port))
            .is_some_and(|seat| seat.extend(until))
    }

    /// True if there is no room for a group that is not in the table.
    pub(super) fn is_full_for(&self, key: GroupKey) -> bool {
        self.count >= GROUPS_MAX && self.group(key).is_none()
    }

    /// Adds a listener that is not in the table.
    pub(super) fn insert(&mut self, arrival: Arrival, key: GroupKey, address: IpAddr) {
        let until = Deadline::new(self.believed_until(arrival, address));
        let listener = Listener { until, address, has_aliases: AtomicBool::new(false) };
        let index = self.shard_of(key);
        let Some(shard) = self.shards.get_mut(index).map(Arc::make_mut) else { return };
        let index = match shard.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(index) => index,
            Err(index) => {
                shard.insert(index, (key, Arc::default()));
                self.count += 1;
                index
            }
        };
        if let Some((_, group)) = shard.get_mut(index) {
            insert(Arc::make_mut(group), arrival.port, listener);
        }
    }

    /// Adds a role that is not in the table.
    pub(super) fn insert_seat(&mut self, arrival: Arrival, family: Family, role: Role, until: u64) {
        let index = vlan_index(arrival.vlan);
        let scenes = Arc::make_mut(&mut self.scenes);
        if scenes.len() <= index {
            scenes.resize(index + 1, None);
        }
        let Some(scene) = scenes.get_mut(index) else { return };
        let scene = scene.get_or_insert_with(|| Arc::new([Scene::new(), Scene::new()]));
        let [ipv4, ipv6] = Arc::make_mut(scene);
        let scene = if family == Family::Ipv4 { ipv4 } else { ipv6 };
        let [routers, queriers, wide] = &mut scene.seats;
        let seats = match role {
            Role::Router => routers,
            Role::Querier => queriers,
            Role::Wide => wide,
        };
        insert(seats, arrival.port, Deadline::new(until));
    }

    /// True if something is over and may be taken out.
    pub(super) fn has_ended(&self, now: Now) -> bool {
        let mut listeners = self.all_listeners().map(|(_, _, listener)| &listener.until);
        let mut seats = self.all_scenes().flat_map(|(_, _, scene)| scene.seats.iter().flatten());
        listeners.any(|until| !until.is_ahead(now)) || seats.any(|(_, until)| !until.is_ahead(now))
    }

    fn all_listeners(&self) -> impl Iterator<Item = (GroupKey, PortId, &Listener)> {
        let groups = self.shards.iter().flat_map(|shard| shard.iter());
        groups.flat_map(|(key, group)| group.iter().map(|(port, listener)| (*key, *port, &**listener)))
    }

    fn all_scenes(&self) -> impl Iterator<Item = (Option<Vlan>, Family, &Scene)> {
        let scenes = self.scenes.iter().enumerate();
        scenes.filter_map(|(index, scenes)| Some((Vlan::new(index as u16), scenes.as_ref()?))).flat_map(
            |(vlan, scenes)| {
                let [ipv4, ipv6] = &**scenes;
                [(vlan, Family::Ipv4, ipv4), (vlan, Family::Ipv6, ipv6)]
            },
        )
    }

    /// For each family of each VLAN in which something was ever heard: who asks.
    pub(super) fn presences(&self) -> impl Iterator<Item = (Option<Vlan>, &Presence)> {
        self.all_scenes().map(|(vlan, _, scene)| (vlan, &*scene.presence))
    }

    /// Takes out what `is_over` holds of. It is asked once for each listener and seat. `left` is told the port of each
    /// listener that goes.
    pub(super) fn sweep(&mut self, is_over: impl Fn(Place, &Deadline) -> bool, mut left: impl FnMut(PortId)) {
        for shard in &mut self.shards {
            let mut gone = Vec::new();
            for (key, group) in shard.iter() {
                let place = |port| Place { port, vlan: key.vlan(), role: None };
                for (port, listener) in group.iter() {
                    if is_over(place(*port), &listener.until) {
                        gone.push((*key, *port));
                        left(*port);
                    }
                }
            }
            if gone.is_empty() {
                continue;
            }
            let stays = |key: GroupKey, port: PortId| gone.binary_search(&(key, port)).is_err();
            let shard = Arc::make_mut(shard);
            let before = shard.len();
            for (key, group) in shard.iter_mut() {
                if group.iter().any(|(port, _)| !stays(*key, *port)) {
                    Arc::make_mut(group).retain(|(port, _)| stays(*key, *port));
                }
            }
            shard.retain(|(_, group)| !group.is_empty());
            self.count = self.count.saturating_sub(before - shard.len());
        }
        let seats_over = |vlan, scenes: &Scenes| {
            let by_role = scenes.iter().flat_map(|scene| Role::ALL.map(|role| (role, scene.seats(role))));
            let mut over = Vec::new();
            for (index, (role, seats)) in by_role.enumerate() {
                let place = |port| Place { port, vlan, role: Some(role) };
                let seats = seats.iter().filter(|(port, seat)| is_over(place(*port), seat));
                over.extend(seats.map(|(port, _)| (index, *port)));
            }
            over
        };
        let scenes = self.scenes.iter().enumerate();
        let over: Vec<_> = scenes
            .map(|(index, scenes)| Some(seats_over(Vlan::new(index as u16), scenes.as_deref()?)))
            .collect();
        if over.iter().flatten().all(Vec::is_empty) {
            return;
        }
        for (scenes, over) in Arc::make_mut(&mut self.scenes).iter_mut().zip(over) {
            let (Some(scenes), Some(over)) = (scenes, over.filter(|over| !over.is_empty())) else { continue };
            for (index, seats) in
                Arc::make_mut(scenes).iter_mut().flat_map(|scene| &mut scene.seats).enumerate()
            {
                seats.retain(|(port, _)| over.binary_search(&(index, *port)).is_err());
            }
        }
    }

    pub(super) fn entries(&self, now: Now) -> Vec<GroupEntry> {
        let groups = self.shards.iter().flat_map(|shard| shard.iter());
        let mut entries: Vec<_> = groups
            .filter_map(|(key, group)| {
                let alive = group.iter().filter_map(|(port, who)| Some((*port, who.until.left(now)?)));
                let (ports, left): (Vec<_>, Vec<_>) = alive.unzip();
                let expires_ms = left.into_iter().max()?;
                Some(GroupEntry { vlan: key.vlan(), group: key.group(), ports, expires_ms })
            })
            .collect();
        entries.sort_unstable_by_key(|entry| (entry.vlan, entry.group));
        entries
    }

    pub(super) fn router_entries(&self, now: Now) -> Vec<RouterEntry> {
        let routers = self.all_scenes().flat_map(|(vlan, family, scene)| {
            scene.seats(Role::Router).iter().filter_map(move |(port, seat)| {
                let ipv6 = family == Family::Ipv6;
                Some(RouterEntry { vlan, ipv6, port: *port, expires_ms: seat.left(now)? })
            })
        });
        routers.collect()
    }

    pub(super) fn querier_entries(&self, now: Now) -> Vec<QuerierEntry> {
        let queriers = self.all_scenes().filter_map(|(vlan, _, scene)| {
            let (expires_ms, active) = scene.presence.known(now)?;
            let (address, port) = scene.presence.elected()?;
            Some(QuerierEntry { vlan, address, port, active, expires_ms })
        });
        queriers.collect()
    }
}
