//! Whether somebody asks for listeners, in one VLAN and family.

use super::{Arrival, MEMBERSHIP_MS};
use crate::multicast::Query;
use crate::types::{Now, PortId};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// What is known of the queriers. Outlives all versions of the table. Moments are in milliseconds of [`Now`].
#[derive(Debug)]
pub(super) struct Presence {
    /// From when on the table is complete.
    since: AtomicU64,
    /// Until when a querier is known, as far as nobody hears one again.
    until: AtomicU64,
    /// How long a report holds.
    membership_ms: AtomicU64,
    /// Whose queries count most. Whoever writes the moments holds it.
    elected: Mutex<Option<Elected>>,
}

/// The querier that wins over the others.
#[derive(Clone, Copy, Debug)]
struct Elected {
    address: IpAddr,
    port: PortId,
    /// Until when it is known.
    until: u64,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self {
            since: AtomicU64::new(u64::MAX),
            until: AtomicU64::new(0),
            membership_ms: AtomicU64::new(MEMBERSHIP_MS),
            elected: Mutex::new(None),
        }
    }

    /// Milliseconds for which a querier is known, and whether the table is complete.
    #[inline]
    pub(super) fn known(&self, now: Now) -> Option<(u64, bool)> {
        let now = now.as_millis();
        // Whoever sees this sees the beginning that belongs to it, or a later one.
        let left = self.until.load(Acquire).saturating_sub(now);
        (left > 0).then(|| (left, self.since.load(Relaxed) <= now))
    }

    /// How long a report holds that comes now; `None` if no querier is known.
    pub(super) fn membership_ms(&self, now: Now) -> Option<u64> {
        self.known(now).map(|_| self.membership_ms.load(Relaxed))
    }

    /// Address and port of the elected querier.
    pub(super) fn elected(&self) -> Option<(IpAddr, PortId)> {
        self.elected.lock().map(|elected| (elected.address, elected.port))
    }

    /// Notes a general query.
    pub(super) fn heard(&self, arrival: Arrival, query: &Query, known_ms: u64, membership_ms: u64) {
        let now = arrival.now.as_millis();
        let (answered, until) =
            (now.saturating_add(u64::from(query.max_response_ms)), now.saturating_add(known_ms));
        let mut elected = self.elected.lock();
        if self.known(arrival.now).is_some() {
            self.since.fetch_min(answered, Relaxed);
            self.membership_ms.fetch_max(membership_ms, Relaxed);
        } else {
            self.since.store(answered, Relaxed);
            self.membership_ms.store(membership_ms, Relaxed);
        }
        self.until.fetch_max(until, Release);
        let wins = elected.is_none_or(|other| {
            let is_lower = other.address.is_unspecified() || query.source < other.address;
            other.until <= now || other.port == arrival.port || is_lower && !query.source.is_unspecified()
        });
        if wins {
            *elected = Some(Elected { address: query.source, port: arrival.port, until });
        }
    }

    /// Forgets that a querier is known if the elected one is at `port`. Others have kept silent for it, so the listeners
    /// have to be asked anew before the table is complete.
    pub(super) fn silence(&self, port: PortId) {
        let mut elected = self.elected.lock();
        if elected.is_some_and(|elected| elected.port == port) {
            *elected = None;
            self.until.store(0, Release);
        }
    }
}
