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
//! is not recorded. The switch has [`GROUPS_MAX`] groups: a report beyond *that* may be the doing of others, so the port
//! then gets all groups of the VLAN and family for a while, and loses nothing. The same holds for a report that
//! is longer than what is seen of a frame. In each VLAN, a port is at most once router, querier and so on.

use crate::frame::EthernetHead;
use crate::multicast::{self, Message, Query, Report};
use crate::packet::group_mac;
use crate::types::{MacAddr, Now, PortId, Vlan};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;

mod deadline;
mod table;
#[cfg(test)]
mod tests;

use deadline::Deadline;
use table::{Family, GroupKey, Role};
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
    writer: Mutex<Writer>,
}

/// What only writers need.
#[derive(Debug, Default)]
struct Writer {
    /// Groups in the table, by port number.
    counts: Vec<u32>,
}

impl Writer {
    fn count(&mut self, port: PortId) -> &mut u32 {
        let index = port.as_usize();
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        &mut self.counts[index]
    }
}

/// Where and when a message came.
#[derive(Clone, Copy)]
struct Arrival {
    port: PortId,
    vlan: Option<Vlan>,
    now: Now,
}

impl Groups {
    /// Nobody listens, nobody asks. `seed` is random for each start, so that guests cannot aim at one shard.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { table: ArcSwap::from_pointee(GroupTable::new(seed)), writer: Mutex::default() }
    }

    /// The table as it is now, to decide by.
    #[inline]
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<GroupTable>> {
        self.table.load()
    }

    /// Takes note of a frame that came in by a port, in a VLAN (`None` in a switch without VLANs). `bytes` are its first ones
    /// (256 are plenty) in private memory, `ethernet` is its head. Costs a comparison for frames to one station.
    pub fn observe(
        &self,
        in_port: PortId,
        vlan: Option<Vlan>,
        ethernet: &EthernetHead,
        bytes: &[u8],
        now: Now,
        trust: Trust,
    ) -> Observed {
        let Some(message) = multicast::parse(ethernet, bytes) else { return Observed::NotControl };
        let arrival = Arrival { port: in_port, vlan, now };
        match message {
            Message::Query(query) => {
                if trust.may_route {
                    self.query(arrival, &query);
                }
                Observed::Query
            }
            Message::Report(report) => {
                self.report(arrival, &report, ethernet.dst, trust);
                Observed::Report
            }
            Message::Leave(group) => {
                self.table.load().leave(arrival, group, trust.fast_leave);
                Observed::Leave
            }
            Message::RouterSeen => {
                if trust.may_route
                    && let Some(family) = Family::of_mac(ethernet.dst)
                {
                    self.seat(arrival, family, Role::Router, QUERIER_MS);
                }
                Observed::Other
            }
        }
    }

    fn query(&self, arrival: Arrival, query: &Query) {
        let family = Family::of(query.source);
        let believed_ms = query.membership_ms.map_or(0, u64::from).min(BELIEF_MAX_MS);
        let known_ms = believed_ms.max(QUERIER_MS);
        self.seat(arrival, family, Role::Querier, known_ms);
        if !query.source.is_unspecified() {
            self.seat(arrival, family, Role::Router, known_ms);
        }
        if query.group.is_none()
            && let Some(presence) = self.table.load().presence(arrival.vlan, family)
        {
            presence.heard(arrival, query, known_ms, believed_ms.max(MEMBERSHIP_MS));
        }
    }

    fn report(&self, arrival: Arrival, report: &Report<'_>, to: MacAddr, trust: Trust) {
        if !self.table.load().apply(arrival, report, trust.fast_leave) {
            self.enrol(arrival, report, trust);
        }
        if !report.whole()
            && let Some(family) = Family::of_mac(to)
        {
            self.seat(arrival, family, Role::Wide, MEMBERSHIP_MS);
        }
    }

    /// Puts the listeners of a report into the table that are not there.
    fn enrol(&self, arrival: Arrival, report: &Report<'_>, trust: Trust) {
        let mut overflow = None;
        let mut writer = self.writer.lock();
        let current = self.table.load();
        let mut next: Option<GroupTable> = None;
        for record in report.clone() {
            let table = next.as_ref().unwrap_or(&current);
            let Some(key) = GroupKey::new(arrival.vlan, group_mac(record.group)) else { continue };
            if !record.listens {
                table.leave(arrival, record.group, trust.fast_leave);
                continue;
            }
            if table.refresh(arrival, key, record.group) {
                continue;
            }
            if *writer.count(arrival.port) >= trust.groups_max {
                continue;
            }
            if table.is_full_for(key) {
                overflow = Some(Family::of(record.group));
                continue;
            }
            *writer.count(arrival.port) += 1;
            next.get_or_insert_with(|| GroupTable::clone(&current)).insert(arrival, key, record.group);
        }
        if let Some(next) = next {
            self.table.store(Arc::new(next));
        }
        drop(writer);
        if let Some(family) = overflow {
            self.seat(arrival, family, Role::Wide, MEMBERSHIP_MS);
        }
    }

    /// Notes that a port has a role for the next `known_ms` milliseconds.
    fn seat(&self, arrival: Arrival, family: Family, role: Role, known_ms: u64) {
        let until = arrival.now.as_millis().saturating_add(known_ms);
        if self.table.load().keep_seat(arrival, family, role, until) {
            return;
        }
        let _writer = self.writer.lock();
        let current = self.table.load();
        if current.keep_seat(arrival, family, role, until) {
            return;
        }
        let mut next = GroupTable::clone(&current);
        next.insert_seat(arrival, family, role, until);
        self.table.store(Arc::new(next));
    }

    /// Forgets all that is known of a port. Call it when no more frames of the port are observed.
    pub fn forget_port(&self, port: PortId) {
        self.sweep(|seat, deadline| {
            let is_its = seat == port;
            if is_its {
                deadline.bury();
            }
            is_its
        });
    }

    /// Takes out what has ended. Call it about once a second: until then, what has ended has no effect, but counts.
    pub fn age(&self, now: Now) {
        if self.table.load().has_ended(now) {
            self.sweep(|_, deadline| deadline.bury_if_ended(now));
        }
    }

    /// Takes out what `is_over` holds of; that must have buried the deadline.
    fn sweep(&self, is_over: impl Fn(PortId, &Deadline) -> bool) {
        let mut writer = self.writer.lock();
        let mut next = GroupTable::clone(&self.table.load());
        next.sweep(is_over, |port| {
            let count = writer.count(port);
            *count = count.saturating_sub(1);
        });
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
