//! The writer's side of the address table: who holds how many entries, and whose turn it is to leave.
//!
//! # Theory of operation
//!
//! The ledger lives under the bridge's mutex, which is taken only to change the table: a new station, one that
//! moved, one that aged. Every entry of the table is in exactly one list of its port: the learned entries, oldest
//! first, or those that were placed from outside (*pinned*), which are never evicted.
//!
//! *Limits.* A port may have a limit of learned entries. Their number is also in an atomic that workers read, so that a
//! port at its limit costs them no mutex; here it is checked again, so the limit is exact.
//!
//! *Fair eviction.* When the table is full, the port with most learned entries gives up its oldest; on a tie, the port
//! that wants to learn. So a port that invents addresses first takes what is free and then evicts only itself, and no
//! port with a fair share loses an entry to it.
//!
//! *Oldest.* Readers note in the table that an address was seen, without the mutex, so the lists are in the order in
//! which entries were *queued*. An entry at the front that was seen since goes to the back instead (as in the CLOCK
//! algorithm), at most [`SECOND_CHANCES_MAX`] times in one eviction: the cost is bounded, the order near enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::entry::{EntryKind, Origin};
use crate::fdb::{Fdb, Slot, Station, Word};
use crate::types::{Now, PortId};

/// Recently seen entries that one eviction may pass over.
const SECOND_CHANCES_MAX: usize = 16;

/// "No slot" in a list.
const NONE: u32 = u32::MAX;

/// What became of an attempt to learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// The station is behind the port now.
    Yes,
    /// A static entry keeps it behind another port.
    Static,
    /// A sticky entry keeps it behind another port.
    Sticky,
    /// The port has as many learned entries as it may have.
    Limit,
    /// There is no room, because pinned entries fill the table or the station's part of it.
    NoRoom,
}

/// Neighbours of an entry in its list.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    /// [`Fdb::seen`] when the entry was queued.
    stamp: u32,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };

    fn first(self) -> Option<Slot> {
        (self.first != NONE).then_some(Slot(self.first))
    }
}

/// The entries of one port.
struct PortLists {
    learned_list: List,
    pinned_list: List,
    pinned_count: u32,
    evicted_count: u64,
    /// The number of learned entries, where workers read it.
    learned: Arc<AtomicU32>,
}

/// The books about all entries of one [`Fdb`].
pub(crate) struct Ledger {
    links: Box<[Link]>,
    /// By port number.
    ports: Vec<PortLists>,
    /// Learned entries by port number, apart from the lists so that the search for the largest reads little.
    learned_counts: Vec<u32>,
    count: u32,
    entries_max: u32,
}

impl Ledger {
    pub(crate) fn new(fdb: &Fdb, entries_max: u32) -> Self {
        let link = Link { previous: NONE, next: NONE, stamp: 0 };
        Self {
            links: vec![link; fdb.slot_count()].into(),
            ports: Vec::new(),
            learned_counts: Vec::new(),
            count: 0,
            entries_max,
        }
    }

    /// Opens the books of a port, which tell `learned` how many learned entries it has. They stay when it leaves; its
    /// counters restart when it comes again.
    pub(crate) fn open(&mut self, port: PortId, learned: Arc<AtomicU32>) {
        while self.ports.len() <= port.as_usize() {
            self.ports.push(PortLists {
                learned_list: List::EMPTY,
                pinned_list: List::EMPTY,
                pinned_count: 0,
                evicted_count: 0,
                learned: Arc::default(),
            });
            self.learned_counts.push(0);
        }
        let lists = &mut self.ports[port.as_usize()];
        learned.store(self.learned_counts[port.as_usize()], Ordering::Relaxed);
        (lists.evicted_count, lists.learned) = (0, learned);
    }

    /// All entries of the table.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Learned entries, pinned entries and evictions of a port.
    pub(crate) fn counts(&self, port: PortId) -> Option<(u32, u32, u64)> {
        let lists = self.ports.get(port.as_usize())?;
        Some((self.learned_counts[port.as_usize()], lists.pinned_count, lists.evicted_count))
    }

    /// Puts a station behind a port because it sent from there, unless the port has `limit` learned entries. The
    /// port's books are open.
    pub(crate) fn learn(
        &mut self,
        fdb: &Fdb,
        station: Station,
        port: PortId,
        limit: u32,
        now: Now,
    ) -> Learned {
        let word = Word::new(station, EntryKind::Learned, Origin::Frame);
        let at_limit = self.learned_counts[port.as_usize()] >= limit;
        let Some(slot) = fdb.locate(station) else {
            return match at_limit {
                true => Learned::Limit,
                false if self.insert(fdb, station, word, port, now) => Learned::Yes,
                false => Learned::NoRoom,
            };
        };
        if fdb.port(slot) == port {
            return Learned::Yes;
        }
        match fdb.word(slot).kind() {
            EntryKind::Static => return Learned::Static,
            EntryKind::Sticky => return Learned::Sticky,
            EntryKind::Learned | EntryKind::Dynamic if at_limit => return Learned::Limit,
            EntryKind::Learned | EntryKind::Dynamic => {}
        }
        self.change(fdb, slot, word, port, now);
        Learned::Yes
    }

    /// Whether [`Self::learn`] would find room for a station that is not in the table.
    pub(crate) fn has_room(&self, fdb: &Fdb, station: Station) -> bool {
        let learned = |slot: Slot| fdb.word(slot).kind() == EntryKind::Learned;
        (self.count < self.entries_max || self.learned_counts.iter().any(|count| *count != 0))
            && (fdb.vacancy(station).is_some() || fdb.reach(station).any(learned))
    }

    /// Puts an entry behind a port, whoever held the station. False if pinned entries leave no room.
    pub(crate) fn place(
        &mut self,
        fdb: &Fdb,
        station: Station,
        kind: EntryKind,
        origin: Origin,
        port: PortId,
        now: Now,
    ) -> bool {
        let word = Word::new(station, kind, origin);
        match fdb.locate(station) {
            Some(slot) => {
                self.change(fdb, slot, word, port, now);
                true
            }
            None => self.insert(fdb, station, word, port, now),
        }
    }

    /// Takes an entry out of the table.
    pub(crate) fn remove(&mut self, fdb: &Fdb, slot: Slot) {
        self.unlink(fdb.word(slot), fdb.port(slot), slot);
        fdb.clear(slot);
        self.count -= 1;
    }

    /// A port's oldest learned entry, as the list has it.
    fn first_learned(&self, port: PortId) -> Option<Slot> {
        self.ports.get(port.as_usize())?.learned_list.first()
    }

    fn change(&mut self, fdb: &Fdb, slot: Slot, word: Word, port: PortId, now: Now) {
        self.unlink(fdb.word(slot), fdb.port(slot), slot);
        fdb.replace(slot, word, port, now);
        self.link(fdb, word, port, slot);
    }

    /// Adds a station that is not in the table.
    fn insert(&mut self, fdb: &Fdb, station: Station, word: Word, port: PortId, now: Now) -> bool {
        if self.count >= self.entries_max && !self.evict(fdb, port) {
            return false;
        }
        let Some(slot) = fdb.vacancy(station).or_else(|| self.evict_within_reach(fdb, station, now)) else {
            return false;
        };
        fdb.fill(slot, station, word, port, now);
        self.link(fdb, word, port, slot);
        self.count += 1;
        true
    }

    /// Makes room in a full table at the cost of the port with most learned entries.
    fn evict(&mut self, fdb: &Fdb, in_port: PortId) -> bool {
        let largest = self.learned_counts.iter().copied().max().unwrap_or(0);
        let is_largest = |port: &PortId| self.learned_counts[port.as_usize()] == largest;
        let loser = Some(in_port).filter(is_largest).or_else(|| {
            let index = self.learned_counts.iter().position(|count| *count == largest)?;
            Some(PortId(index as u16))
        });
        let Some(slot) = loser.and_then(|port| self.oldest(fdb, port)) else { return false };
        self.evict_slot(fdb, slot);
        true
    }

    /// Makes room near a station's home, which is full though the table is not: the guests were lucky, or many.
    fn evict_within_reach(&mut self, fdb: &Fdb, station: Station, now: Now) -> Option<Slot> {
        let learned = fdb.reach(station).filter(|slot| fdb.word(*slot).kind() == EntryKind::Learned);
        let rank = |slot: &Slot| (self.learned_counts[fdb.port(*slot).as_usize()], fdb.age_ms(*slot, now));
        let slot = learned.max_by_key(rank)?;
        self.evict_slot(fdb, slot);
        Some(slot)
    }

    fn evict_slot(&mut self, fdb: &Fdb, slot: Slot) {
        self.ports[fdb.port(slot).as_usize()].evicted_count += 1;
        self.remove(fdb, slot);
    }

    /// A port's least recently seen learned entry.
    fn oldest(&mut self, fdb: &Fdb, port: PortId) -> Option<Slot> {
        for _ in 0..SECOND_CHANCES_MAX {
            let slot = self.first_learned(port)?;
            if fdb.seen(slot) == self.links[slot.index()].stamp {
                break;
            }
            let word = fdb.word(slot);
            self.unlink(word, port, slot);
            self.link(fdb, word, port, slot);
        }
        self.first_learned(port)
    }

    fn list(&mut self, word: Word, port: PortId) -> &mut List {
        let lists = &mut self.ports[port.as_usize()];
        if word.kind() == EntryKind::Learned { &mut lists.learned_list } else { &mut lists.pinned_list }
    }

    /// Counts entries of a list: one more, or one less.
    fn count_in(&mut self, word: Word, port: PortId, step: impl Fn(u32) -> u32) {
        let lists = &mut self.ports[port.as_usize()];
        if word.kind() == EntryKind::Learned {
            let count = &mut self.learned_counts[port.as_usize()];
            *count = step(*count);
            lists.learned.store(*count, Ordering::Relaxed);
        } else {
            lists.pinned_count = step(lists.pinned_count);
        }
    }

    /// Queues an entry at the back of the list that its word and port name.
    fn link(&mut self, fdb: &Fdb, word: Word, port: PortId, slot: Slot) {
        let list = self.list(word, port);
        let previous = list.last;
        list.last = slot.0;
        if previous == NONE {
            list.first = slot.0;
        } else {
            self.links[previous as usize].next = slot.0;
        }
        self.links[slot.index()] = Link { previous, next: NONE, stamp: fdb.seen(slot) };
        self.count_in(word, port, |count| count + 1);
    }

    /// Takes an entry out of the list that its word and port name.
    fn unlink(&mut self, word: Word, port: PortId, slot: Slot) {
        let Link { previous, next, .. } = self.links[slot.index()];
        if previous == NONE {
            self.list(word, port).first = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next == NONE {
            self.list(word, port).last = previous;
        } else {
            self.links[next as usize].previous = previous;
        }
        self.count_in(word, port, |count| count - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdb::{PROBE_MAX, WAYS};

    impl Ledger {
        /// Lists, counts and table must tell one story.
        pub(crate) fn check(&self, fdb: &Fdb) {
            let mut total = 0;
            for (index, lists) in self.ports.iter().enumerate() {
                assert_eq!(lists.learned.load(Ordering::Relaxed), self.learned_counts[index]);
                let walks = [
                    (lists.learned_list, self.learned_counts[index], true),
                    (lists.pinned_list, lists.pinned_count, false),
                ];
                for (list, count, is_learned) in walks {
                    let (mut at, mut previous, mut seen) = (list.first, NONE, 0);
                    while at != NONE {
                        let kind = fdb.word(Slot(at)).kind();
                        let port = fdb.port(Slot(at)).as_usize();
                        assert_eq!((port, kind == EntryKind::Learned), (index, is_learned));
                        assert_eq!(self.links[at as usize].previous, previous);
                        (previous, at, seen) = (at, self.links[at as usize].next, seen + 1);
                    }
                    assert_eq!((list.last, count), (previous, seen));
                    total += seen;
                }
            }
            let stored: usize = (0..fdb.bucket_count()).map(|bucket| fdb.entries(bucket).count()).sum();
            assert_eq!((total, stored), (self.count, total as usize));
            assert!(self.count <= self.entries_max);
            fdb.check_passed();
        }
    }

    fn station(number: u64) -> Station {
        Station::new(crate::tests::mac(number), None)
    }

    fn at(seconds: u64) -> Now {
        Now::from_millis(seconds * 1000)
    }

    fn books(entries_max: u32) -> (Fdb, Ledger) {
        let fdb = Fdb::new(entries_max, 99);
        let mut ledger = Ledger::new(&fdb, entries_max);
        (0..3).for_each(|port| ledger.open(PortId(port), Arc::default()));
        (fdb, ledger)
    }

    impl Ledger {
        fn learn_any(&mut self, fdb: &Fdb, station: Station, port: u16, now: Now) -> Learned {
            self.learn(fdb, station, PortId(port), u32::MAX, now)
        }

        fn pin(&mut self, fdb: &Fdb, station: Station, kind: EntryKind) -> bool {
            self.place(fdb, station, kind, Origin::Operator, PortId(1), at(0))
        }
    }

    #[test]
    fn an_entry_at_capacity_takes_at_most_64_bytes() {
        for entries_max in [1000u32, 16_384, 1 << 20] {
            let fdb = Fdb::new(entries_max, 0);
            let size = fdb.slot_count() * (Fdb::SLOT_SIZE + size_of::<Link>());
            let each = size as f64 / f64::from(entries_max);
            assert!(each <= 64.0, "{each} bytes for each of {entries_max} entries");
            assert_eq!(each.ceil(), 56.0, "the figure that documents give");
        }
    }

    #[test]
    fn the_oldest_entry_goes_and_a_refreshed_one_is_not_the_oldest() {
        let (fdb, mut ledger) = books(3);
        (0..3).for_each(|n| assert_eq!(ledger.learn_any(&fdb, station(n), 1, at(n)), Learned::Yes));
        fdb.find(station(0)).unwrap().refresh(at(9), 1000);
        ledger.learn_any(&fdb, station(3), 1, at(10));
        let left: Vec<u64> = (0..4).filter(|n| fdb.find(station(*n)).is_some()).collect();
        assert_eq!(left, [0, 2, 3]);
        assert_eq!(ledger.counts(PortId(1)), Some((3, 0, 1)));
        ledger.check(&fdb);
    }

    #[test]
    fn pinned_entries_are_never_evicted_and_may_fill_the_table() {
        let (fdb, mut ledger) = books(2);
        ledger.learn_any(&fdb, station(0), 0, at(0));
        assert!(ledger.pin(&fdb, station(1), EntryKind::Static));
        assert!(ledger.has_room(&fdb, station(2)));
        assert!(ledger.pin(&fdb, station(2), EntryKind::Dynamic));
        assert!(fdb.find(station(0)).is_none());
        assert!(!ledger.pin(&fdb, station(3), EntryKind::Sticky));
        assert!(!ledger.has_room(&fdb, station(3)));
        assert_eq!(ledger.learn_any(&fdb, station(3), 0, at(0)), Learned::NoRoom);
        assert_eq!(ledger.counts(PortId(0)), Some((0, 0, 1)));
        ledger.check(&fdb);
    }

    #[test]
    fn a_limit_counts_what_is_learned_and_what_moves_in() {
        let (fdb, mut ledger) = books(16);
        let learn = |ledger: &mut Ledger, n| ledger.learn(&fdb, station(n), PortId(0), 2, at(0));
        assert!(ledger.pin(&fdb, station(9), EntryKind::Dynamic));
        assert!(ledger.pin(&fdb, station(8), EntryKind::Sticky));
        ledger.learn_any(&fdb, station(7), 1, at(0));
        assert_eq!(learn(&mut ledger, 1), Learned::Yes);
        assert_eq!(learn(&mut ledger, 9), Learned::Yes);
        assert_eq!(fdb.find(station(9)).unwrap().word.kind(), EntryKind::Learned);
        assert_eq!(
            [1, 9, 7, 2].map(|n| learn(&mut ledger, n)),
            [Learned::Yes, Learned::Yes, Learned::Limit, Learned::Limit]
        );
        assert_eq!(learn(&mut ledger, 8), Learned::Sticky);
        ledger.remove(&fdb, fdb.locate(station(1)).unwrap());
        assert_eq!(learn(&mut ledger, 7), Learned::Yes);
        ledger.check(&fdb);
    }

    #[test]
    fn a_crowded_neighbourhood_costs_the_port_with_most_entries() {
        let (fdb, mut ledger) = books(128);
        let crowd = fdb.neighbours(3, 0x5254_0000_0000, PROBE_MAX * WAYS + 1);
        ledger.learn_any(&fdb, crowd[0], 1, at(0));
        for station in &crowd[1..] {
            assert_eq!(ledger.learn_any(&fdb, *station, 2, at(1)), Learned::Yes);
            ledger.check(&fdb);
        }
        assert!(fdb.find(crowd[0]).is_some() && fdb.find(crowd[PROBE_MAX * WAYS]).is_some());
        assert_eq!(ledger.counts(PortId(1)), Some((1, 0, 0)));
        assert_eq!(ledger.counts(PortId(2)), Some(((PROBE_MAX * WAYS - 1) as u32, 0, 1)));
    }
}
