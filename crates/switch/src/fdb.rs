//! The address table that workers read without a lock.
//!
//! # Theory of operation
//!
//! The table says behind which port a station is: a MAC address, in a VLAN where the switch knows VLANs. Every frame
//! asks it twice, from several threads; it changes rarely. So readers take no lock, and one writer at a time (the
//! holder of the [`crate::ledger::Ledger`]) changes it.
//!
//! *One cache line is one bucket*: four words (address, VLAN, kind and origin of an entry), their ports, the times they
//! were last seen, the number of entries that wanted this bucket but had to go further (`passed`), and a version. A
//! lookup reads its home bucket and goes on to the next one only while `passed` is not zero. An entry never moves, so
//! a lookup cannot miss one that is being moved, and there are no tombstones. The table has two slots for each entry
//! it may hold; a second bucket is rarely read.
//!
//! *Word and port are one pair.* They are two atomics, so a reader that found its address must not take the port of
//! the slot's next owner. The writer counts `version` up after the old word has gone and before the new port comes;
//! a reader that hits reads the version before the word and again after the port, and starts again if it changed. A
//! miss needs no such check. While an entry lives, only its port and kind change, the port first: a reader may see
//! the old kind with the new port, and only ageing entries change their port, so that is a pair of no consequence.
//!
//! *Limits.* An entry lies at most [`PROBE_MAX`] buckets from home, and a reader that loses [`RACES_MAX`] races takes it
//! for a miss, so lookups are bounded. Guests choose the keys: the home bucket depends on a secret seed.
//!
//! *Times.* A reader that still holds an entry just replaced may refresh its successor's time: that entry then ages a
//! little later, nothing more.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::entry::{EntryKind, Origin};
use crate::hash::{derive_key, folded_multiply};
use crate::types::{Now, PortId, UnicastMac, Vlan};

/// Entries of one bucket.
pub(crate) const WAYS: usize = 4;
/// Buckets that may hold an entry: its home and those behind it. In a full table of a million entries the chance that
/// one finds no place is below one in a hundred (the tail of a Poisson distribution).
pub(crate) const PROBE_MAX: usize = 24;
/// Buckets of the smallest table.
const BUCKETS_MIN: usize = 32;
/// Times that a reader looks again because a slot changed hands under it.
const RACES_MAX: usize = 8;
/// Buckets that fit a core's own cache with room to spare; see [`Fdb::is_large`].
const NEAR_BUCKETS_MAX: usize = 16_384;

/// All bits of a word that name the station: 48 of address, of which the group bit is always clear, and 12 of VLAN.
const STATION: u64 = !ATTRIBUTES;
/// Kind and origin, two bits each.
const ATTRIBUTES: u64 = 0xf << 12;

/// A station as the table knows it: an address, and a VLAN unless the switch has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Station(u64);

impl Station {
    #[inline]
    pub(crate) fn new(mac: UnicastMac, vlan: Option<Vlan>) -> Self {
        Self(mac.to_u64() << 16 | u64::from(vlan.map_or(0, Vlan::get)))
    }

    /// The address; `None` only for what no table holds.
    pub(crate) fn mac(self) -> Option<UnicastMac> {
        UnicastMac::from_u64(self.0 >> 16)
    }

    pub(crate) fn vlan(self) -> Option<Vlan> {
        Vlan::new(self.0 as u16 & 0x0fff)
    }
}

/// Station, kind and origin of an entry. Zero is "no entry", because no station has the address zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    const EMPTY: Self = Self(0);

    pub(crate) fn new(station: Station, kind: EntryKind, origin: Origin) -> Self {
        Self(station.0 | (kind as u64) << 12 | (origin as u64) << 14)
    }

    /// The station; `None` for an empty slot.
    pub(crate) fn station(self) -> Option<Station> {
        (self != Self::EMPTY).then_some(Station(self.0 & STATION))
    }

    #[inline]
    pub(crate) fn kind(self) -> EntryKind {
        EntryKind::from_bits((self.0 >> 12) as u8)
    }

    pub(crate) fn origin(self) -> Origin {
        Origin::from_bits((self.0 >> 14) as u8)
    }

    #[inline]
    fn is_for(self, station: Station) -> bool {
        (self.0 ^ station.0) & STATION == 0
    }
}

/// The place of an entry, counted over all buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    fn new(bucket: usize, way: usize) -> Self {
        Self((bucket * WAYS + way) as u32)
    }

    fn bucket(self) -> usize {
        self.0 as usize / WAYS
    }

    fn way(self) -> usize {
        self.0 as usize % WAYS
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Exactly one cache line.
#[repr(align(64))]
#[derive(Default)]
struct Bucket {
    words: [AtomicU64; WAYS],
    /// Low 32 bits of the milliseconds when each entry's station last sent.
    seen: [AtomicU32; WAYS],
    ports: [AtomicU16; WAYS],
    /// Counts entries that came into the bucket; see the module head.
    version: AtomicU32,
    /// Entries whose way from home to their slot leads through this bucket.
    passed: AtomicU32,
}

impl Bucket {
    #[inline(always)]
    fn find(&self, station: Station) -> Option<Hit<'_>> {
        match self.try_find(station) {
            Ok(hit) => hit,
            Err(Raced) => self.find_again(station),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_again(&self, station: Station) -> Option<Hit<'_>> {
        (0..RACES_MAX).find_map(|_| self.try_find(station).ok()).flatten()
    }

    #[inline(always)]
    fn try_find(&self, station: Station) -> Result<Option<Hit<'_>>, Raced> {
        let version = self.version.load(Ordering::Acquire);
        // One way after the other: in a table with room, most hits are in the first.
        for (way, word) in self.words.iter().enumerate() {
            let word = Word(word.load(Ordering::Acquire));
            if !word.is_for(station) {
                continue;
            }
            let hit = self.hit(way, word);
            // Orders the load of the port before the second load of the version.
            fence(Ordering::Acquire);
            let is_pair = self.version.load(Ordering::Relaxed) == version;
            return if is_pair { Ok(Some(hit)) } else { Err(Raced) };
        }
        Ok(None)
    }

    #[inline]
    fn hit(&self, way: usize, word: Word) -> Hit<'_> {
        Hit { word, port: self.ports[way].load(Ordering::Relaxed).into(), seen: &self.seen[way] }
    }
}

/// A slot changed hands while it was read.
struct Raced;

/// An entry as a reader found it.
pub(crate) struct Hit<'a> {
    pub(crate) word: Word,
    /// A register wide, so that no copy of the struct stores it narrow and loads it wide.
    port: u64,
    seen: &'a AtomicU32,
}

impl Hit<'_> {
    #[inline]
    pub(crate) fn port(&self) -> PortId {
        PortId(self.port as u16)
    }

    /// Milliseconds since the station last sent, as [`age_ms`].
    #[inline]
    pub(crate) fn age_ms(&self, now: Now) -> i32 {
        age_ms(self.seen.load(Ordering::Relaxed), now)
    }

    /// Whether a lookup may believe it: entries that age do so until `ageing_ms`.
    #[inline]
    pub(crate) fn is_alive(&self, now: Now, ageing_ms: i32) -> bool {
        self.age_ms(now) < ageing_ms || !self.word.kind().ages()
    }

    /// Notes that the station sent now, unless that was noted less than `refresh_ms` ago: a busy sender must not make
    /// the line travel between cores with each frame.
    #[inline]
    pub(crate) fn refresh(&self, now: Now, refresh_ms: i32) {
        if self.age_ms(now) >= refresh_ms {
            self.seen.store(now.as_millis() as u32, Ordering::Relaxed);
        }
    }
}

/// Time since `seen`; below zero if another worker's clock reading was later. Right for spans below 2^31 ms (24 days).
#[inline]
fn age_ms(seen: u32, now: Now) -> i32 {
    (now.as_millis() as u32).wrapping_sub(seen) as i32
}

/// The address table.
pub(crate) struct Fdb {
    buckets: Box<[Bucket]>,
    keys: [u64; 3],
}

impl Fdb {
    /// Bytes of one slot.
    #[cfg(test)]
    pub(crate) const SLOT_SIZE: usize = size_of::<Bucket>() / WAYS;

    /// An empty table with room for `entries_max` entries and as many again.
    pub(crate) fn new(entries_max: u32, seed: u64) -> Self {
        let count = (entries_max as usize * 2).div_ceil(WAYS).max(BUCKETS_MIN);
        Self {
            buckets: (0..count).map(|_| Bucket::default()).collect(),
            keys: [derive_key(seed, 0), derive_key(seed, 1) | 1, derive_key(seed, 2) | 1],
        }
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.buckets.len() * WAYS
    }

    pub(crate) fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// True if lookups wait for memory, so that [`Self::touch`] ahead of them pays.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.buckets.len() > NEAR_BUCKETS_MAX
    }

    /// The bucket where a station's entry belongs: its hash as a fraction of all buckets, in whatever number they are.
    #[inline]
    fn home(&self, station: Station) -> usize {
        // Twice: after one fold, stations in a row are too alike (a test shows it).
        let hash = folded_multiply(folded_multiply(station.0 ^ self.keys[0], self.keys[1]), self.keys[2]);
        ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize
    }

    /// The bucket `step` behind another; behind the last one comes the first.
    #[inline]
    fn beyond(&self, bucket: usize, step: usize) -> usize {
        let index = bucket + step;
        if index < self.buckets.len() { index } else { index - self.buckets.len() }
    }

    #[inline]
    fn bucket(&self, index: usize) -> &Bucket {
        // `home` and `beyond` stay below the number of buckets, which is never below PROBE_MAX.
        &self.buckets[index]
    }

    /// Reads a word of a station's home bucket without looking at it, so that the line is on its way when
    /// [`Self::find`] needs it. Processors run such reads side by side, but lookups one after the other.
    #[inline]
    pub(crate) fn touch(&self, station: Station) -> u32 {
        self.bucket(self.home(station)).passed.load(Ordering::Relaxed)
    }

    /// Looks a station up. Any thread, at any time.
    #[inline(always)]
    pub(crate) fn find(&self, station: Station) -> Option<Hit<'_>> {
        let home = self.home(station);
        let bucket = self.bucket(home);
        match bucket.find(station) {
            None if bucket.passed.load(Ordering::Relaxed) != 0 => self.find_beyond(home, station),
            hit => hit,
        }
    }

    /// Looks behind the home bucket, which entries have passed.
    #[cold]
    #[inline(never)]
    fn find_beyond(&self, home: usize, station: Station) -> Option<Hit<'_>> {
        for step in 1..PROBE_MAX {
            let bucket = self.bucket(self.beyond(home, step));
            let hit = bucket.find(station);
            if hit.is_some() || bucket.passed.load(Ordering::Relaxed) == 0 {
                return hit;
            }
        }
        None
    }

    /// The entries of one bucket. Any thread, at any time.
    pub(crate) fn entries(&self, bucket: usize) -> impl Iterator<Item = (Slot, Hit<'_>)> {
        (0..WAYS).filter_map(move |way| {
            let slot = Slot::new(bucket, way);
            // Found again by its station, so that word and port are a pair.
            let station = self.word(slot).station()?;
            Some((slot, self.bucket(bucket).find(station)?))
        })
    }

    /// The word in a slot.
    pub(crate) fn word(&self, slot: Slot) -> Word {
        Word(self.bucket(slot.bucket()).words[slot.way()].load(Ordering::Acquire))
    }

    /// The port of the entry in a slot. Right for the writer only, as what [`Self::locate`] and all that follow say.
    pub(crate) fn port(&self, slot: Slot) -> PortId {
        PortId(self.bucket(slot.bucket()).ports[slot.way()].load(Ordering::Relaxed))
    }

    /// When the entry in a slot was last seen, as [`Bucket::seen`] keeps it.
    pub(crate) fn seen(&self, slot: Slot) -> u32 {
        self.bucket(slot.bucket()).seen[slot.way()].load(Ordering::Relaxed)
    }

    /// How long ago the entry in a slot was last seen, in milliseconds.
    pub(crate) fn age_ms(&self, slot: Slot, now: Now) -> i32 {
        age_ms(self.seen(slot), now)
    }

    /// Where a station is stored.
    pub(crate) fn locate(&self, station: Station) -> Option<Slot> {
        self.reach(station).find(|slot| self.word(*slot).station() == Some(station))
    }

    /// The nearest free slot for a station.
    pub(crate) fn vacancy(&self, station: Station) -> Option<Slot> {
        self.reach(station).find(|slot| self.word(*slot) == Word::EMPTY)
    }

    /// Every slot that may hold a station, nearest first.
    pub(crate) fn reach(&self, station: Station) -> impl Iterator<Item = Slot> + use<'_> {
        let home = self.home(station);
        (0..PROBE_MAX * WAYS).map(move |place| Slot::new(self.beyond(home, place / WAYS), place % WAYS))
    }

    /// Puts an entry into a slot that is free and within its reach.
    pub(crate) fn fill(&self, slot: Slot, station: Station, word: Word, port: PortId, now: Now) {
        self.for_passed(station, slot, |passed| {
            passed.fetch_add(1, Ordering::Relaxed);
        });
        let bucket = self.bucket(slot.bucket());
        // Whoever sees this version sees that the slot's last entry has gone; whoever sees the new port sees it.
        let version = bucket.version.load(Ordering::Relaxed).wrapping_add(1);
        bucket.version.store(version, Ordering::Release);
        fence(Ordering::Release);
        self.replace(slot, word, port, now);
    }

    /// Gives the entry in a slot another port or kind; the station stays.
    pub(crate) fn replace(&self, slot: Slot, word: Word, port: PortId, now: Now) {
        let bucket = self.bucket(slot.bucket());
        bucket.seen[slot.way()].store(now.as_millis() as u32, Ordering::Relaxed);
        bucket.ports[slot.way()].store(port.0, Ordering::Relaxed);
        bucket.words[slot.way()].store(word.0, Ordering::Release);
    }

    /// Empties a slot.
    pub(crate) fn clear(&self, slot: Slot) {
        let word = self.word(slot);
        self.bucket(slot.bucket()).words[slot.way()].store(0, Ordering::Release);
        if let Some(station) = word.station() {
            self.for_passed(station, slot, |passed| {
                passed.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Visits the buckets between a station's home and its slot.
    fn for_passed(&self, station: Station, slot: Slot, visit: impl Fn(&AtomicU32)) {
        let home = self.home(station);
        let between = (0..PROBE_MAX).map(|step| self.beyond(home, step));
        between
            .take_while(|bucket| *bucket != slot.bucket())
            .for_each(|bucket| visit(&self.bucket(bucket).passed));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn learned(station: Station) -> Word {
        Word::new(station, EntryKind::Learned, Origin::Frame)
    }

    impl Fdb {
        /// The first `count` stations from the address `first` on whose home is `bucket`.
        pub(crate) fn neighbours(&self, bucket: usize, first: u64, count: usize) -> Vec<Station> {
            let unicast = (first..).filter_map(UnicastMac::from_u64).map(|mac| Station::new(mac, None));
            unicast.filter(|station| self.home(*station) == bucket).take(count).collect()
        }

        /// Entries that went past each bucket, counted from the entries themselves, must be what `passed` says.
        pub(crate) fn check_passed(&self) {
            let mut expected = vec![0u32; self.buckets.len()];
            for bucket in 0..self.buckets.len() {
                for (slot, hit) in self.entries(bucket) {
                    let mut at = self.home(hit.word.station().unwrap());
                    while at != slot.bucket() {
                        expected[at] += 1;
                        at = (at + 1) % self.buckets.len();
                    }
                }
            }
            let actual: Vec<u32> = self.buckets.iter().map(|b| b.passed.load(Ordering::Relaxed)).collect();
            assert_eq!(actual, expected);
        }
    }

    const NOW: Now = Now::from_millis(5000);

    #[test]
    fn a_bucket_is_one_cache_line() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
    }

    #[test]
    fn a_word_keeps_its_parts() {
        let mac = UnicastMac::new([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]).unwrap();
        for vlan in [None, Vlan::new(1), Vlan::new(4094)] {
            for kind in EntryKind::ALL {
                for origin in Origin::ALL {
                    let word = Word::new(Station::new(mac, vlan), kind, origin);
                    let station = word.station().unwrap();
                    assert_eq!((station.mac(), station.vlan()), (Some(mac), vlan));
                    assert_eq!((word.kind(), word.origin()), (kind, origin));
                }
            }
        }
        assert_eq!(Word::EMPTY.station(), None);
    }

    #[test]
    fn entries_beyond_a_full_bucket_are_found_and_leave_no_trace() {
        let fdb = Fdb::new(64, 7);
        let last = fdb.bucket_count() - 1;
        let crowd = fdb.neighbours(last, 0x5254_0000_0000, PROBE_MAX * WAYS + 1);
        let (outsider, crowd) = crowd.split_last().unwrap();
        for (index, station) in crowd.iter().enumerate() {
            let slot = fdb.vacancy(*station).unwrap();
            fdb.fill(slot, *station, learned(*station), PortId(index as u16), NOW);
        }
        fdb.check_passed();
        assert_eq!(fdb.vacancy(*outsider), None);
        assert!(fdb.find(*outsider).is_none());
        for (index, station) in crowd.iter().enumerate() {
            assert_eq!(fdb.find(*station).unwrap().port(), PortId(index as u16));
        }
        for station in crowd.iter().step_by(2) {
            fdb.clear(fdb.locate(*station).unwrap());
            fdb.check_passed();
        }
        for (index, station) in crowd.iter().enumerate() {
            assert_eq!(fdb.find(*station).is_some(), index % 2 == 1);
        }
    }

    #[test]
    fn homes_are_spread_evenly_whatever_the_number_of_buckets() {
        const STATIONS: u64 = 40_000;
        for seed in 0..64 {
            let fdb = Fdb::new(20_011, seed);
            let mut counts = vec![0u32; fdb.bucket_count()];
            for number in 0..STATIONS {
                let mac = UnicastMac::from_u64(0x5254_0000_0000 + number).unwrap();
                counts[fdb.home(Station::new(mac, Vlan::new(7)))] += 1;
            }
            // About four to a bucket; sixteen would be a chance of one in ten thousand tables.
            assert!(counts.iter().all(|count| *count < 24), "{:?}", counts.iter().max());
            let empty = counts.iter().filter(|count| **count == 0).count();
            assert!(empty < counts.len() / 20, "{empty} of {} are empty", counts.len());
        }
    }

    #[test]
    fn age_survives_the_wrap_of_32_bits_and_clocks_that_disagree() {
        assert_eq!(age_ms(u32::MAX - 9, Now::from_millis((1 << 32) + 90)), 100);
        assert_eq!(age_ms(1000, Now::from_millis(990)), -10);
    }

    #[test]
    fn refresh_is_coarse() {
        let fdb = Fdb::new(16, 7);
        let station = Station::new(UnicastMac::new([2; 6]).unwrap(), None);
        fdb.fill(fdb.vacancy(station).unwrap(), station, learned(station), PortId(1), NOW);
        let hit = fdb.find(station).unwrap();
        hit.refresh(Now::from_millis(5999), 1000);
        assert_eq!(hit.age_ms(Now::from_millis(5999)), 999);
        hit.refresh(Now::from_millis(6000), 1000);
        assert_eq!(hit.age_ms(Now::from_millis(6000)), 0);
    }
}
