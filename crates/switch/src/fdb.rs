//! The address table that workers read without a lock.
//!
//! # Theory of operation
//!
//! The table says behind which port an address is. Every frame asks it twice, from several threads; it changes
//! rarely. So readers take no lock, and one writer at a time (the holder of the [`crate::ledger::Ledger`]) changes it.
//!
//! *One word says it all.* An address of 48 bits and a port of 16 fill one atomic word, so a reader cannot pair one
//! address with another's port. The group bit of a stored address is always clear; it says "static" here.
//!
//! *One cache line is one bucket*: five words, the time each was last seen, and the number of entries that wanted this
//! bucket but had to go further (`passed`). A lookup reads its home bucket and goes on to the next one only while
//! `passed` is not zero. An entry never moves, so a lookup cannot miss one that is being moved, and there are no
//! tombstones. The table has at least two slots for each entry it may hold; a second bucket is rarely read.
//!
//! *Limits.* An entry lies at most [`PROBE_MAX`] buckets from home, so lookups are bounded. Guests choose the keys:
//! the home bucket depends on a secret seed.
//!
//! *Ordering.* A writer stores `seen`, then the word with `Release`; a reader loads the word with `Acquire`. A reader
//! that still holds the word of an entry just replaced may refresh its successor's time: that entry then ages a
//! little later, nothing more.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::hash::{derive_key, folded_multiply};
use crate::types::{Now, PortId, UnicastMac};

/// Entries of one bucket.
pub(crate) const WAYS: usize = 5;
/// Buckets that may hold an entry: its home and those behind it.
pub(crate) const PROBE_MAX: usize = 8;
/// Buckets of the smallest table.
const BUCKETS_MIN: usize = 16;

/// The group bit of the address in a word.
const STATIC: u64 = 1 << 56;
/// All bits of the address in a word, but for the group bit.
const ADDRESS: u64 = !STATIC & !0xffff;

/// An address where it stands in a word.
#[inline]
fn key_of(mac: UnicastMac) -> u64 {
    mac.to_u64() << 16
}

/// An entry: address, port and kind in one word. Zero is "no entry", because no station has the address zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    const EMPTY: Self = Self(0);

    pub(crate) fn new(mac: UnicastMac, port: PortId, is_static: bool) -> Self {
        Self(key_of(mac) | u64::from(port.0) | if is_static { STATIC } else { 0 })
    }

    #[inline]
    pub(crate) fn port(self) -> PortId {
        PortId(self.0 as u16)
    }

    #[inline]
    pub(crate) fn is_static(self) -> bool {
        self.0 & STATIC != 0
    }

    /// The address; `None` for an empty slot.
    pub(crate) fn mac(self) -> Option<UnicastMac> {
        UnicastMac::from_u64(self.address())
    }

    fn address(self) -> u64 {
        (self.0 & ADDRESS) >> 16
    }

    /// True if `key`, made by [`key_of`], and the word have one address.
    #[inline]
    fn has(self, key: u64) -> bool {
        (self.0 ^ key) & ADDRESS == 0
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
    /// Low 32 bits of the milliseconds when each entry's address last sent.
    seen: [AtomicU32; WAYS],
    /// Entries whose way from home to their slot leads through this bucket.
    passed: AtomicU32,
}

impl Bucket {
    #[inline]
    fn find(&self, key: u64) -> Option<Hit<'_>> {
        for (word, seen) in self.words.iter().zip(&self.seen) {
            let word = Word(word.load(Ordering::Acquire));
            if word.has(key) {
                return Some(Hit { word, seen });
            }
        }
        None
    }
}

/// An entry as a reader found it.
pub(crate) struct Hit<'a> {
    pub(crate) word: Word,
    seen: &'a AtomicU32,
}

impl Hit<'_> {
    /// Milliseconds since the address last sent, as [`age_ms`].
    #[inline]
    pub(crate) fn age_ms(&self, now: Now) -> i32 {
        age_ms(self.seen.load(Ordering::Relaxed), now)
    }

    /// Notes that the address sent now, unless that was noted less than `refresh_ms` ago: a busy sender must not make
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
    keys: [u64; 2],
}

impl Fdb {
    /// An empty table with room for `entries_max` entries and as many again.
    pub(crate) fn new(entries_max: u32, seed: u64) -> Self {
        let count = (entries_max as usize * 2 / WAYS).next_power_of_two().max(BUCKETS_MIN);
        Self {
            buckets: (0..count).map(|_| Bucket::default()).collect(),
            keys: [derive_key(seed, 0), derive_key(seed, 1) | 1],
        }
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.buckets.len() * WAYS
    }

    pub(crate) fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    #[inline]
    fn home(&self, mac: UnicastMac) -> usize {
        folded_multiply(mac.to_u64() ^ self.keys[0], self.keys[1]) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn bucket(&self, index: usize) -> &Bucket {
        // The mask keeps every index in range: the number of buckets is a power of two.
        &self.buckets[index & (self.buckets.len() - 1)]
    }

    /// Looks an address up. Any thread, at any time.
    #[inline]
    pub(crate) fn find(&self, mac: UnicastMac) -> Option<Hit<'_>> {
        let (home, key) = (self.home(mac), key_of(mac));
        let bucket = self.bucket(home);
        match bucket.find(key) {
            None if bucket.passed.load(Ordering::Relaxed) != 0 => self.find_beyond(home, key),
            hit => hit,
        }
    }

    /// Looks behind the home bucket, which entries have passed.
    #[cold]
    #[inline(never)]
    fn find_beyond(&self, home: usize, key: u64) -> Option<Hit<'_>> {
        for step in 1..PROBE_MAX {
            let bucket = self.bucket(home + step);
            let hit = bucket.find(key);
            if hit.is_some() || bucket.passed.load(Ordering::Relaxed) == 0 {
                return hit;
            }
        }
        None
    }

    /// The entries of one bucket. Any thread, at any time.
    pub(crate) fn entries(&self, bucket: usize) -> impl Iterator<Item = (Slot, Hit<'_>)> {
        let bucket = bucket & (self.buckets.len() - 1);
        let Bucket { words, seen, .. } = self.bucket(bucket);
        words.iter().zip(seen).enumerate().filter_map(move |(way, (word, seen))| {
            let word = Word(word.load(Ordering::Acquire));
            (word != Word::EMPTY).then(|| (Slot::new(bucket, way), Hit { word, seen }))
        })
    }

    /// The word in a slot.
    pub(crate) fn word(&self, slot: Slot) -> Word {
        Word(self.bucket(slot.bucket()).words[slot.way()].load(Ordering::Acquire))
    }

    /// When the entry in a slot was last seen, as [`Bucket::seen`] keeps it.
    pub(crate) fn seen(&self, slot: Slot) -> u32 {
        self.bucket(slot.bucket()).seen[slot.way()].load(Ordering::Relaxed)
    }

    /// How long ago the entry in a slot was last seen, in milliseconds.
    pub(crate) fn age_ms(&self, slot: Slot, now: Now) -> i32 {
        age_ms(self.seen(slot), now)
    }

    /// Where an address is stored. Writer only, as all that follow.
    pub(crate) fn locate(&self, mac: UnicastMac) -> Option<Slot> {
        self.reach(mac).find(|slot| self.word(*slot).mac() == Some(mac))
    }

    /// The nearest free slot for an address.
    pub(crate) fn vacancy(&self, mac: UnicastMac) -> Option<Slot> {
        self.reach(mac).find(|slot| self.word(*slot) == Word::EMPTY)
    }

    /// Every slot that may hold an address, nearest first.
    pub(crate) fn reach(&self, mac: UnicastMac) -> impl Iterator<Item = Slot> + use<> {
        let (home, mask) = (self.home(mac), self.buckets.len() - 1);
        (0..PROBE_MAX * WAYS).map(move |place| Slot::new((home + place / WAYS) & mask, place % WAYS))
    }

    /// Puts an entry into a slot that is free and within its reach.
    pub(crate) fn fill(&self, slot: Slot, mac: UnicastMac, port: PortId, is_static: bool, now: Now) {
        self.for_passed(mac, slot, |passed| {
            passed.fetch_add(1, Ordering::Relaxed);
        });
        self.replace(slot, Word::new(mac, port, is_static), now);
    }

    /// Gives the entry in a slot another port or kind; the address stays.
    pub(crate) fn replace(&self, slot: Slot, word: Word, now: Now) {
        let bucket = self.bucket(slot.bucket());
        bucket.seen[slot.way()].store(now.as_millis() as u32, Ordering::Relaxed);
        bucket.words[slot.way()].store(word.0, Ordering::Release);
    }

    /// Empties a slot and says what was in it.
    pub(crate) fn clear(&self, slot: Slot) -> Word {
        let word = self.word(slot);
        self.bucket(slot.bucket()).words[slot.way()].store(0, Ordering::Release);
        if let Some(mac) = word.mac() {
            self.for_passed(mac, slot, |passed| {
                passed.fetch_sub(1, Ordering::Relaxed);
            });
        }
        word
    }

    /// Visits the buckets between an address's home and its slot.
    fn for_passed(&self, mac: UnicastMac, slot: Slot, visit: impl Fn(&AtomicU32)) {
        let (home, mask) = (self.home(mac), self.buckets.len() - 1);
        let distance = slot.bucket().wrapping_sub(home) & mask;
        for step in 0..distance {
            visit(&self.bucket(home + step).passed);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Fdb {
        /// The first `count` addresses from `first` on whose home is `bucket`.
        pub(crate) fn neighbours(&self, bucket: usize, first: u64, count: usize) -> Vec<UnicastMac> {
            let unicast = (first..).filter_map(UnicastMac::from_u64);
            unicast.filter(|mac| self.home(*mac) == bucket).take(count).collect()
        }

        /// Entries that went past each bucket, counted from the entries themselves, must be what `passed` says.
        pub(crate) fn check_passed(&self) {
            let mut expected = vec![0u32; self.buckets.len()];
            for bucket in 0..self.buckets.len() {
                for (slot, hit) in self.entries(bucket) {
                    let mut at = self.home(hit.word.mac().unwrap());
                    while at != slot.bucket() {
                        expected[at] += 1;
                        at = (at + 1) & (self.buckets.len() - 1);
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
        for is_static in [false, true] {
            let word = Word::new(mac, PortId(0xfffe), is_static);
            assert_eq!((word.mac(), word.port(), word.is_static()), (Some(mac), PortId(0xfffe), is_static));
        }
        assert_eq!(Word::EMPTY.mac(), None);
    }

    #[test]
    fn entries_beyond_a_full_bucket_are_found_and_leave_no_trace() {
        let fdb = Fdb::new(64, 7);
        let last = fdb.bucket_count() - 1;
        let macs = fdb.neighbours(last, 0x5254_0000_0000, PROBE_MAX * WAYS + 1);
        let (outsider, macs) = macs.split_last().unwrap();
        for (index, mac) in macs.iter().enumerate() {
            let slot = fdb.vacancy(*mac).unwrap();
            fdb.fill(slot, *mac, PortId(index as u16), false, NOW);
        }
        fdb.check_passed();
        assert_eq!(fdb.vacancy(*outsider), None);
        assert!(fdb.find(*outsider).is_none());
        for (index, mac) in macs.iter().enumerate() {
            assert_eq!(fdb.find(*mac).unwrap().word.port(), PortId(index as u16));
        }
        for mac in macs.iter().step_by(2) {
            fdb.clear(fdb.locate(*mac).unwrap());
            fdb.check_passed();
        }
        for (index, mac) in macs.iter().enumerate() {
            assert_eq!(fdb.find(*mac).is_some(), index % 2 == 1);
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
        let mac = UnicastMac::new([2; 6]).unwrap();
        fdb.fill(fdb.vacancy(mac).unwrap(), mac, PortId(1), false, NOW);
        let hit = fdb.find(mac).unwrap();
        hit.refresh(Now::from_millis(5999), 1000);
        assert_eq!(hit.age_ms(Now::from_millis(5999)), 999);
        hit.refresh(Now::from_millis(6000), 1000);
        assert_eq!(hit.age_ms(Now::from_millis(6000)), 0);
    }
}
