//! The writer's side of the address table: who holds how many entries, and whose turn it is to leave.
//!
//! # Theory of operation
//!
//! The ledger lives under the bridge's mutex, which is taken only to change the table: a new address, one that
//! moved, one that aged. Every entry of the table is in exactly one list: the learned entries of its port, oldest
//! first, or the static ones.
//!
//! *Fair eviction.* When the table is full, the port with most learned entries gives up its oldest; on a tie, the port
//! that wants to learn. So a port that invents addresses first takes what is free and then evicts only itself, and no
//! port with a fair share loses an entry to it.
//!
//! *Oldest.* Readers note in the table that an address was seen, without the mutex, so the lists are in the order in
//! which entries were *queued*. An entry at the front that was seen since goes to the back instead (as in the CLOCK
//! algorithm), at most [`SECOND_CHANCES_MAX`] times in one eviction: the cost is bounded, the order near enough.

use crate::fdb::{Fdb, Slot, Word};
use crate::types::{Now, PortId, UnicastMac};

/// Recently seen entries that one eviction may pass over.
const SECOND_CHANCES_MAX: usize = 16;

/// "No slot" in a list.
const NONE: u32 = u32::MAX;

/// What became of an attempt to learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// The address is behind the port now.
    Yes,
    /// A static entry pins it to another port.
    Pinned,
    /// There is no room, because static entries fill the table.
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
    learned: List,
    pinned: List,
    pinned_count: u32,
    evicted_count: u64,
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

    /// Opens the books of a port. They stay when it leaves; its counters restart when it comes again.
    pub(crate) fn open(&mut self, port: PortId) {
        while self.ports.len() <= port.as_usize() {
            let lists =
                PortLists { learned: List::EMPTY, pinned: List::EMPTY, pinned_count: 0, evicted_count: 0 };
            self.ports.push(lists);
            self.learned_counts.push(0);
        }
        self.ports[port.as_usize()].evicted_count = 0;
    }

    /// All entries of the table.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Learned entries, static entries and evictions of a port.
    pub(crate) fn counts(&self, port: PortId) -> Option<(u32, u32, u64)> {
        let lists = self.ports.get(port.as_usize())?;
        Some((self.learned_counts[port.as_usize()], lists.pinned_count, lists.evicted_count))
    }

    /// Puts an address behind a port because it sent from there. The port's books are open.
    pub(crate) fn learn(&mut self, fdb: &Fdb, mac: UnicastMac, port: PortId, now: Now) -> Learned {
        let Some(slot) = fdb.locate(mac) else {
            return if self.insert(fdb, mac, port, false, now) { Learned::Yes } else { Learned::NoRoom };
        };
        let word = fdb.word(slot);
        if word.port() == port {
            return Learned::Yes;
        }
        if word.is_static() {
            return Learned::Pinned;
        }
        self.change(fdb, slot, Word::new(mac, port, false), now);
        Learned::Yes
    }

    /// Pins an address to a port, whoever held it. False if static entries leave no room.
    pub(crate) fn pin(&mut self, fdb: &Fdb, mac: UnicastMac, port: PortId, now: Now) -> bool {
        match fdb.locate(mac) {
            Some(slot) => {
                self.change(fdb, slot, Word::new(mac, port, true), now);
                true
            }
            None => self.insert(fdb, mac, port, true, now),
        }
    }

    /// Takes an entry out of the table.
    pub(crate) fn remove(&mut self, fdb: &Fdb, slot: Slot) {
        self.unlink(fdb.word(slot), slot);
        fdb.clear(slot);
        self.count -= 1;
    }

    /// A port's oldest learned entry, as the list has it.
    pub(crate) fn first_learned(&self, port: PortId) -> Option<Slot> {
        self.ports.get(port.as_usize())?.learned.first()
    }

    /// One of a port's static entries.
    pub(crate) fn first_pinned(&self, port: PortId) -> Option<Slot> {
        self.ports.get(port.as_usize())?.pinned.first()
    }

    fn change(&mut self, fdb: &Fdb, slot: Slot, word: Word, now: Now) {
        self.unlink(fdb.word(slot), slot);
        fdb.replace(slot, word, now);
        self.link(fdb, word, slot);
    }

    /// Adds an address that is not in the table.
    fn insert(&mut self, fdb: &Fdb, mac: UnicastMac, port: PortId, is_static: bool, now: Now) -> bool {
        if self.count >= self.entries_max && !self.evict(fdb, port) {
            return false;
        }
        let Some(slot) = fdb.vacancy(mac).or_else(|| self.evict_within_reach(fdb, mac, now)) else {
            return false;
        };
        fdb.fill(slot, mac, port, is_static, now);
        self.link(fdb, Word::new(mac, port, is_static), slot);
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

    /// Makes room near an address's home, which is full though the table is not: the guests were lucky, or many.
    fn evict_within_reach(&mut self, fdb: &Fdb, mac: UnicastMac, now: Now) -> Option<Slot> {
        let learned = fdb.reach(mac).filter(|slot| !fdb.word(*slot).is_static());
        let rank =
            |slot: &Slot| (self.learned_counts[fdb.word(*slot).port().as_usize()], fdb.age_ms(*slot, now));
        let slot = learned.max_by_key(rank)?;
        self.evict_slot(fdb, slot);
        Some(slot)
    }

    fn evict_slot(&mut self, fdb: &Fdb, slot: Slot) {
        self.ports[fdb.word(slot).port().as_usize()].evicted_count += 1;
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
            self.unlink(word, slot);
            self.link(fdb, word, slot);
        }
        self.first_learned(port)
    }

    fn list(&mut self, word: Word) -> &mut List {
        let lists = &mut self.ports[word.port().as_usize()];
        if word.is_static() { &mut lists.pinned } else { &mut lists.learned }
    }

    fn count_of(&mut self, word: Word) -> &mut u32 {
        let index = word.port().as_usize();
        if word.is_static() { &mut self.ports[index].pinned_count } else { &mut self.learned_counts[index] }
    }

    /// Queues an entry at the back of the list that its word names.
    fn link(&mut self, fdb: &Fdb, word: Word, slot: Slot) {
        let list = self.list(word);
        let previous = list.last;
        list.last = slot.0;
        if previous == NONE {
            list.first = slot.0;
        } else {
            self.links[previous as usize].next = slot.0;
        }
        self.links[slot.index()] = Link { previous, next: NONE, stamp: fdb.seen(slot) };
        *self.count_of(word) += 1;
    }

    /// Takes an entry out of the list that its word names.
    fn unlink(&mut self, word: Word, slot: Slot) {
        let Link { previous, next, .. } = self.links[slot.index()];
        if previous == NONE {
            self.list(word).first = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next == NONE {
            self.list(word).last = previous;
        } else {
            self.links[next as usize].previous = previous;
        }
        *self.count_of(word) -= 1;
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
                let walks = [
                    (lists.learned, self.learned_counts[index], false),
                    (lists.pinned, lists.pinned_count, true),
                ];
                for (list, count, is_static) in walks {
                    let (mut at, mut previous, mut seen) = (list.first, NONE, 0);
                    while at != NONE {
                        let word = fdb.word(Slot(at));
                        assert_eq!((word.port().as_usize(), word.is_static()), (index, is_static));
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

    fn mac(number: u64) -> UnicastMac {
        UnicastMac::from_u64(0x5254_0000_0000 + number).unwrap()
    }

    fn at(seconds: u64) -> Now {
        Now::from_millis(seconds * 1000)
    }

    fn books(entries_max: u32) -> (Fdb, Ledger) {
        let fdb = Fdb::new(entries_max, 99);
        let mut ledger = Ledger::new(&fdb, entries_max);
        (0..3).for_each(|port| ledger.open(PortId(port)));
        (fdb, ledger)
    }

    #[test]
    fn the_oldest_entry_goes_and_a_refreshed_one_is_not_the_oldest() {
        let (fdb, mut ledger) = books(3);
        (0..3).for_each(|n| assert_eq!(ledger.learn(&fdb, mac(n), PortId(1), at(n)), Learned::Yes));
        fdb.find(mac(0)).unwrap().refresh(at(9), 1000);
        ledger.learn(&fdb, mac(3), PortId(1), at(10));
        let left: Vec<u64> = (0..4).filter(|n| fdb.find(mac(*n)).is_some()).collect();
        assert_eq!(left, [0, 2, 3]);
        assert_eq!(ledger.counts(PortId(1)), Some((3, 0, 1)));
        ledger.check(&fdb);
    }

    #[test]
    fn static_entries_are_never_evicted_and_may_fill_the_table() {
        let (fdb, mut ledger) = books(2);
        ledger.learn(&fdb, mac(0), PortId(0), at(0));
        assert!(ledger.pin(&fdb, mac(1), PortId(1), at(0)));
        assert!(ledger.pin(&fdb, mac(2), PortId(1), at(0)));
        assert!(fdb.find(mac(0)).is_none());
        assert!(!ledger.pin(&fdb, mac(3), PortId(1), at(0)));
        assert_eq!(ledger.learn(&fdb, mac(3), PortId(0), at(0)), Learned::NoRoom);
        assert_eq!(ledger.counts(PortId(0)), Some((0, 0, 1)));
        ledger.check(&fdb);
    }

    #[test]
    fn a_crowded_neighbourhood_costs_the_port_with_most_entries() {
        let (fdb, mut ledger) = books(64);
        let crowd = fdb.neighbours(3, 0x5254_0000_0000, PROBE_MAX * WAYS + 1);
        ledger.learn(&fdb, crowd[0], PortId(1), at(0));
        for mac in &crowd[1..] {
            assert_eq!(ledger.learn(&fdb, *mac, PortId(2), at(1)), Learned::Yes);
            ledger.check(&fdb);
        }
        assert!(fdb.find(crowd[0]).is_some() && fdb.find(crowd[PROBE_MAX * WAYS]).is_some());
        assert_eq!(ledger.counts(PortId(1)), Some((1, 0, 0)));
        assert_eq!(ledger.counts(PortId(2)), Some(((PROBE_MAX * WAYS - 1) as u32, 0, 1)));
    }
}
