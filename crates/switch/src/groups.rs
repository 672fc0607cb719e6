//! Who listens to which group: multicast snooping.
//!
//! # Theory of operation
//!
//! Hosts report the groups that they listen to, because queriers ask them. [`Groups::observe`] reads both, and a frame to
//! a group then goes only where it is wanted. The rules are those of Linux's bridge (`net/bridge/br_multicast.c`) and of
//! RFC 4541:
//!
//! | frame | goes to |
//! |---|---|
//! | to 224.0.0.x and all that share its MAC addresses, to ff02::1, to groups that are not of IP | everyone |
//! | to any group, while nobody is known to ask for listeners in this VLAN and family | everyone |
//! | to a group otherwise | ports with a listener, and router ports |
//! | a report or a leave | router ports, and ports that queries came from; everyone if there are none |
//! | a query | everyone |
//!
//! A port is a *router port* for [`QUERIER_MS`] after a query with a sender's address, a hello of PIM or an
//! advertisement of a multicast router. A *querier is known* for as long after a general query, but only from the
//! moment by which hosts have answered the first one; until then the table is not complete. Queries from 0.0.0.0 or
//! `::`, which bridges send, make a querier but no router port. Two rules differ from Linux: reports of all versions are
//! kept from hosts (there, those of IGMPv3 and MLDv2 are flooded), and a query for one group does not shorten the time
//! of its listeners, since each port's own leave does that.
//!
//! *Time.* A listener is believed for [`MEMBERSHIP_MS`] after its report, or for longer if queriers ask more seldom. A
//! query never shortens that, or a guest's query could make the switch forget its neighbours. After a leave the port
//! gets the group for [`LAST_MEMBER_MS`] more, in which others behind it answer the querier's question and stay;
//! with fast leave it gets no more.
//!
//! *Addresses.* The table is by (VLAN, MAC address of the group), because that is what a frame has. Several groups share
//! a MAC address. A port that reported two of them keeps both until it stops to report: then a leave for one
//! is not believed.
//!
//! # Snapshots
//!
//! Readers load a [`GroupTable`] once a burst, without a lock. Moments at which something ends are atomics in it, shared
//! by all its versions ([`Deadline`]). A report that repeats what is known, a leave, a query that repeats: each
//! is a look into the snapshot and at most one store, and none if less than a second is won. Only a new group behind a
//! port makes a new version, under the mutex: one shard of 64 is copied, the others are shared. What has
//! ended stays in the table until [`Groups::age`] takes it out.
//!
//! # Bounds
//!
//! A port has [`Trust::groups_max`] groups at most, ended ones included until they are taken out. So a guest that joins
//! and leaves without end causes that many new versions for each call of [`Groups::age`] and no more. A report beyond it
//! is not recorded, and found out without the mutex. The switch has [`GROUPS_MAX`] groups: a report beyond *that* may be
//! the doing of others, so the port then gets all groups of the VLAN and family for a while, and loses nothing. The same
//! holds for a report that is longer than what is seen of a frame, but only where [`Trust::may_be_wide`] says so:
//! any guest can make its reports long. In each VLAN, a port is at most once router, querier and so on.
//!
//! # Ports that change
//!
//! A worker may observe a frame with settings that are not in force any more, of a port that is gone. Nothing new is
//! entered before the mutex is held and the port's present [`Trust`] was asked for. The bridge first changes its ports, then
//! calls [`Groups::forget_port`] and its like, which need the mutex too: either they find what was entered, or it was
//! not entered. Where the elected querier was at that port, nobody is known to ask any more.

use crate::frame::Head;
use crate::multicast::{self, Message, Query, Report};
use crate::packet::group_mac;
use crate::port::{PortSettings, PortVlans};
use crate::types::{MacAddr, Now, PortId, Vlan};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;

mod counts;
mod deadline;
mod presence;
mod table;
#[cfg(test)]
mod tests;

use counts::Counts;
use deadline::Deadline;
use table::{Family, GroupKey, Place, Refreshed, Role};
pub use table::{GroupTable, Listeners, Membership};

/// Groups of one switch, each counted once for each VLAN.
pub const GROUPS_MAX: usize = 4096;

/// How long a report holds, in milliseconds (RFC 3376 §8.4 with its default values).
pub const MEMBERSHIP_MS: u64 = 260_000;

/// How long a querier or a router is known after it was heard, in milliseconds (RFC 3376 §8.5 likewise).
pub const QUERIER_MS: u64 = 255_000;

/// How long a port keeps a group after a leave, in milliseconds: RFC 3376 §8.8, twice the interval of a second.
pub const LAST_MEMBER_MS: u64 = 2_000;

/// The longest time for which a querier can make a report or itself believed.
const BELIEF_MAX_MS: u64 = 1_800_000;

/// What is believed of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// A leave takes effect at once.
    pub fast_leave: bool,
    /// Groups that may have listeners behind it.
    pub groups_max: u32,
    /// It may be a querier or a router. Otherwise its queries and greetings change nothing.
    pub may_route: bool,
    /// A report of which not all was seen gets it all groups.
    pub may_be_wide: bool,
}

impl Trust {
    /// What a port's settings say. A port that does not take all groups, or is for hosts only, is not made to take all by
    /// a report.
    #[must_use]
    pub fn of(settings: &PortSettings) -> Self {
        Self {
            fast_leave: settings.fast_leave,
            groups_max: settings.groups_max,
            may_route: settings.multicast_router,
            may_be_wide: settings.multicast_router && settings.multicast_flood,
        }
    }
}

/// How and when a frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The port that it came in by.
    pub port: PortId,
    /// Its VLAN; `None` in a switch without VLANs.
    pub vlan: Option<Vlan>,
    /// VLAN tags of it that the switch reads: 0 or 1. What is behind others is none of its messages.
    pub tags: usize,
    /// When.
    pub now: Now,
}

/// What a frame was to [`Groups::observe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing about groups, or nothing that its receivers would believe.
    NotControl,
    /// A host says what it listens to.
    Report,
    /// A host stops listening.
    Leave,
    /// A querier asks.
    Query,
    /// Another message about groups, such as a router's hello.
    Other,
}

/// A group that somebody listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// Where; `None` in a switch without VLANs.
    pub vlan: Option<Vlan>,
    /// The group's MAC address.
    pub group: MacAddr,
    /// Ports with listeners, in order.
    pub ports: Vec<PortId>,
    /// Milliseconds until the last listener is forgotten.
    pub expires_ms: u64,
}

/// A port that gets all groups of a family, because a router is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterEntry {
    /// Where; `None` in a switch without VLANs.
    pub vlan: Option<Vlan>,
    /// Groups of IPv6 rather than of IPv4.
    pub ipv6: bool,
    /// The port.
    pub port: PortId,
    /// Milliseconds until it is forgotten.
    pub expires_ms: u64,
}

/// Who asks for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerierEntry {
    /// Where; `None` in a switch without VLANs.
    pub vlan: Option<Vlan>,
    /// Its address: the lowest one heard, as queriers elect (RFC 3376 §6.6.2).
    pub address: IpAddr,
    /// Where it was heard.
    pub port: PortId,
    /// False as long as hosts have not had time to answer its first query.
    pub active: bool,
    /// Milliseconds until it is forgotten.
    pub expires_ms: u64,
}

/// Listeners, queriers and routers of one switch. All methods may be called from several threads.
#[derive(Debug)]
pub struct Groups {
    table: ArcSwap<GroupTable>,
    /// Held by whoever makes a new version.
    writer: Mutex<()>,
    /// Groups in the table by port. Written under the mutex, before the version that they tell of.
    counts: Counts,
}

impl Groups {
    /// Nobody listens, nobody asks. `seed` is random for each start, so that guests cannot aim at one shard.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let table = ArcSwap::from_pointee(GroupTable::new(seed));
        Self { table, writer: Mutex::default(), counts: Counts::new() }
    }

    /// The table as it is now, to decide by.
    #[inline]
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<GroupTable>> {
        self.table.load()
    }

    /// Takes note of a frame. `head` has all of it or at least 112 bytes; 256 are plenty. `trust` is how far its port is
    /// believed. `current` says the same at the moment that it is asked, and `None` if the port is gone, has become another
    /// one, or left the VLAN: it is asked under a mutex before something new is noted, and calls nothing of `self`. Costs
    /// a comparison for frames to one station.
    pub fn observe(
        &self,
        arrival: Arrival,
        head: &Head<'_>,
        trust: Trust,
        current: impl Fn() -> Option<Trust>,
    ) -> Observed {
        let to = head.ethernet.dst;
        let Some(message) = multicast::parse(&head.ethernet, head.bytes, arrival.tags) else {
            return Observed::NotControl;
        };
        match message {
            Message::Query(query) => {
                if trust.may_route {
                    self.query(arrival, &query, &current);
                }
                Observed::Query
            }
            Message::Report(report) => {
                self.report(arrival, &report, to, trust, &current);
                Observed::Report
            }
            Message::Leave(group) => {
                self.table.load().leave(arrival, group, trust.fast_leave);
                Observed::Leave
            }
            Message::RouterSeen => {
                if trust.may_route
                    && let Some(family) = Family::of_mac(to)
                {
                    self.seat(arrival, family, Role::Router, QUERIER_MS, || {
                        current().is_some_and(|trust| trust.may_route)
                    });
                }
                Observed::Other
            }
        }
    }

    fn query(&self, arrival: Arrival, query: &Query, current: &impl Fn() -> Option<Trust>) {
        let family = Family::of(query.source);
        let believed_ms = query.membership_ms.map_or(0, u64::from).min(BELIEF_MAX_MS);
        let known_ms = believed_ms.max(QUERIER_MS);
        let seat = |role| {
            self.seat(arrival, family, role, known_ms, || current().is_some_and(|trust| trust.may_route))
        };
        if !seat(Role::Querier) {
            return;
        }
        if !query.source.is_unspecified() {
            seat(Role::Router);
        }
        if query.group.is_none()
            && let Some(presence) = self.table.load().presence(arrival.vlan, family)
        {
            presence.heard(arrival, query, known_ms, believed_ms.max(MEMBERSHIP_MS));
            // Who has taken the seat away meanwhile may have asked before this who is elected.
            let until = arrival.now.as_millis().saturating_add(known_ms);
            if !self.table.load().keep_seat(arrival, family, Role::Querier, until) {
                presence.silence(arrival.port);
            }
        }
    }

    fn report(
        &self,
        arrival: Arrival,
        report: &Report<'_>,
        to: MacAddr,
        trust: Trust,
        current: &impl Fn() -> Option<Trust>,
    ) {
        let shortage = self.table.load().apply(arrival, report, trust, &self.counts);
        let mut overflow = shortage.overflow;
        if shortage.enters {
            overflow = self.enrol(arrival, report, current).or(overflow);
        }
        if let Some(family) = overflow {
            self.seat(arrival, family, Role::Wide, MEMBERSHIP_MS, || current().is_some());
        }
        if !report.whole()
            && trust.may_be_wide
            && let Some(family) = Family::of_mac(to)
        {
            self.seat(arrival, family, Role::Wide, MEMBERSHIP_MS, || {
                current().is_some_and(|trust| trust.may_be_wide)
            });
        }
    }

    /// Puts the listeners of a report into the table that are not there. Says what there was no room for.
    fn enrol(
        &self,
        arrival: Arrival,
        report: &Report<'_>,
        current: &impl Fn() -> Option<Trust>,
    ) -> Option<Family> {
        let mut overflow = None;
        let _writer = self.writer.lock();
        let trust = current()?;
        let before = self.table.load();
        let mut next: Option<GroupTable> = None;
        for record in report.clone() {
            let table = next.as_ref().unwrap_or(&before);
            let Some(key) = GroupKey::new(arrival.vlan, group_mac(record.group)) else { continue };
            if !record.listens {
                table.leave(arrival, record.group, trust.fast_leave);
                continue;
            }
            if table.refresh(arrival, key, record.group) == Refreshed::Done
                || self.counts.of(arrival.port) >= trust.groups_max
            {
                continue;
            }
            if table.is_full_for(key) {
                overflow = Some(Family::of(record.group));
                continue;
            }
            self.counts.add(arrival.port);
            next.get_or_insert_with(|| GroupTable::clone(&before)).insert(arrival, key, record.group);
        }
        if let Some(next) = next {
            self.table.store(Arc::new(next));
        }
        overflow
    }

    /// Notes that a port has a role for the next `known_ms` milliseconds, if it has it already or still `may`. Says whether.
    fn seat(
        &self,
        arrival: Arrival,
        family: Family,
        role: Role,
        known_ms: u64,
        may: impl FnOnce() -> bool,
    ) -> bool {
        let until = arrival.now.as_millis().saturating_add(known_ms);
        if self.table.load().keep_seat(arrival, family, role, until) {
            return true;
        }
        let _writer = self.writer.lock();
        let current = self.table.load();
        if current.keep_seat(arrival, family, role, until) {
            return true;
        }
        if !may() {
            return false;
        }
        let mut next = GroupTable::clone(&current);
        next.insert_seat(arrival, family, role, until);
        self.table.store(Arc::new(next));
        true
    }

    /// Forgets all that is known of a port. Call it when `current` of [`Self::observe`] knows that the port is gone.
    pub fn forget_port(&self, port: PortId) {
        self.forget(port, |_| true);
        self.silence(port, |_| true);
    }

    /// Forgets what is known of a port in VLANs that are not in `keep`. Call it when `current` of [`Self::observe`] knows
    /// that the port left them, in a switch with VLANs.
    pub fn forget_vlans(&self, port: PortId, keep: &PortVlans) {
        let left = |vlan: Option<Vlan>| vlan.is_none_or(|vlan| !keep.contains(vlan));
        self.forget(port, |place| left(place.vlan));
        self.silence(port, left);
    }

    /// Takes those roles from a port that it may not have: it is no router or querier any more, or gets only the groups
    /// that it reports. Its listeners stay. Call it when `current` of [`Self::observe`] says `trust`.
    pub fn withdraw(&self, port: PortId, trust: Trust) {
        self.forget(port, |place| place.role.is_some_and(|role| !role.is_open_to(trust)));
        if !trust.may_route {
            self.silence(port, |_| true);
        }
    }

    /// Takes out what a port has at the places that `goes` holds of.
    fn forget(&self, port: PortId, goes: impl Fn(Place) -> bool) {
        self.sweep(|place, deadline| {
            let is_over = place.port == port && goes(place);
            if is_over {
                deadline.bury();
            }
            is_over
        });
    }

    /// Forgets the elected querier in VLANs that `left` holds of, if it is at this port.
    fn silence(&self, port: PortId, left: impl Fn(Option<Vlan>) -> bool) {
        let table = self.table.load();
        table.presences().filter(|(vlan, _)| left(*vlan)).for_each(|(_, presence)| presence.silence(port));
    }

    /// Takes out what has ended. Call it about once a second: until then, what has ended has no effect, but counts.
    pub fn age(&self, now: Now) {
        if self.table.load().has_ended(now) {
            self.sweep(|_, deadline| deadline.bury_if_ended(now));
        }
    }

    /// Takes out what `is_over` holds of; that must have buried the deadline.
    fn sweep(&self, is_over: impl Fn(Place, &Deadline) -> bool) {
        let _writer = self.writer.lock();
        let mut next = GroupTable::clone(&self.table.load());
        next.sweep(is_over, |port| self.counts.remove(port));
        self.table.store(Arc::new(next));
    }

    /// Groups with listeners, by VLAN and address.
    #[must_use]
    pub fn entries(&self, now: Now) -> Vec<GroupEntry> {
        self.table.load().entries(now)
    }

    /// Router ports, by VLAN and port.
    #[must_use]
    pub fn routers(&self, now: Now) -> Vec<RouterEntry> {
        self.table.load().router_entries(now)
    }

    /// Queriers, by VLAN; at most one for each family.
    #[must_use]
    pub fn queriers(&self, now: Now) -> Vec<QuerierEntry> {
        self.table.load().querier_entries(now)
    }
}
