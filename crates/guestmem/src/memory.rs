//! One guest's memory: regions by guest address.

#[cfg(not(miri))]
use crate::stitch::Stitched;
use crate::{FrontendAddr, GuestAddr, Mapping, MemArea, MemSlice};
use std::ops::Range;
use std::sync::Arc;
#[cfg(not(miri))]
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Regions accepted at most: what an index of [`RegionHint`] can name. A front-end with memory slots needs 509
/// (`VHOST_USER_MAX_RAM_SLOTS` of QEMU on x86); a client with a virtual IOMMU has one for each page that its driver mapped.
pub const REGIONS_MAX: usize = 1 << 16;

/// What is wrong with a memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MemoryFault {
    /// A region is empty or wraps around the address space.
    #[error("region at {guest} of {len:#x} bytes: empty or past the end of the address space")]
    Range {
        /// Guest address of the region.
        guest: GuestAddr,
        /// Bytes.
        len: u64,
    },
    /// The mapping has fewer bytes than the region.
    #[error("region at {guest} of {len:#x} bytes: its mapping is shorter")]
    ShortMapping {
        /// Guest address of the region.
        guest: GuestAddr,
        /// Bytes.
        len: u64,
    },
    /// Two regions share guest addresses.
    #[error("regions at {first} and {second} overlap")]
    Overlap {
        /// The lower region.
        first: GuestAddr,
        /// The upper region.
        second: GuestAddr,
    },
    /// More regions than accepted.
    #[error("{count} regions: at most {REGIONS_MAX} are accepted")]
    TooMany {
        /// Regions asked for.
        count: usize,
    },
}

/// A run of guest addresses backed by a run of one mapping.
#[derive(Clone, Debug)]
pub struct Region {
    guest: GuestAddr,
    frontend: FrontendAddr,
    len: u64,
    /// Where it begins in the mapping, in bytes.
    offset: u64,
    /// Whether nothing of ours may write there.
    read_only: bool,
    mapping: Arc<Mapping>,
}

impl Region {
    /// `len` bytes of `mapping`, from its first byte on, seen by the guest at `guest` and by the front-end
    /// at `frontend`.
    pub fn new(
        guest: GuestAddr,
        frontend: FrontendAddr,
        len: u64,
        mapping: Arc<Mapping>,
    ) -> Result<Self, MemoryFault> {
        if frontend.checked_add(len).is_none() {
            return Err(MemoryFault::Range { guest, len });
        }
        Ok(Self { frontend, ..Self::part(guest, len, mapping, 0)? })
    }

    /// `len` bytes of `mapping` from byte `offset` on, seen by the guest at `guest`; there are no front-end addresses (they
    /// are as the guest's). Many regions may share one mapping.
    pub fn part(guest: GuestAddr, len: u64, mapping: Arc<Mapping>, offset: u64) -> Result<Self, MemoryFault> {
        if len == 0 || guest.checked_add(len).is_none() {
            return Err(MemoryFault::Range { guest, len });
        }
        if offset.checked_add(len).is_none_or(|end| end > mapping.len() as u64) {
            return Err(MemoryFault::ShortMapping { guest, len });
        }
        Ok(Self { guest, frontend: FrontendAddr(guest.0), len, offset, read_only: false, mapping })
    }

    /// The bytes from `skip` on, `len` of them; `None` unless they lie inside and are some.
    pub fn cut(&self, skip: u64, len: u64) -> Option<Self> {
        if len == 0 || skip.checked_add(len)? > self.len {
            return None;
        }
        Some(Self {
            guest: GuestAddr(self.guest.0 + skip),
            frontend: FrontendAddr(self.frontend.0 + skip),
            len,
            offset: self.offset + skip,
            read_only: self.read_only,
            mapping: Arc::clone(&self.mapping),
        })
    }

    /// This region and `next` as one, if `next` goes on where this one ends: in guest addresses, front-end addresses and
    /// the mapping.
    pub fn join(&self, next: &Self) -> Option<Self> {
        let goes_on = self.guest.0 + self.len == next.guest.0
            && self.frontend.0 + self.len == next.frontend.0
            && self.offset + self.len == next.offset
            && self.read_only == next.read_only
            && Arc::ptr_eq(&self.mapping, &next.mapping);
        goes_on.then(|| Self { len: self.len + next.len, ..self.clone() })
    }

    /// The same bytes, for reading only: ROM, or what an IOMMU lets a device read. Only [`GuestMemory::run_read_only`] finds
    /// them.
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// First guest address.
    pub fn guest(&self) -> GuestAddr {
        self.guest
    }

    /// First front-end address.
    pub fn frontend(&self) -> FrontendAddr {
        self.frontend
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    #[cfg(not(miri))]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    #[cfg(not(miri))]
    pub(crate) fn mapping_shared(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    #[cfg(not(miri))]
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    #[cfg(not(miri))]
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Never true: empty regions are refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The regions that answered last, by a few bits of the address; kept by whoever translates many addresses
/// of one guest. Buffers that alternate between regions then find each of them without a search.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionHint([u16; HINTS]);

/// Places of a [`RegionHint`], a power of two.
const HINTS: usize = 8;
/// Addresses that agree above this bit share a place: regions are rarely smaller than 2 MiB.
const HINT_SHIFT: u32 = 21;

/// What translation needs of a region, packed for the search.
#[derive(Clone, Copy, Debug)]
struct Place {
    guest: u64,
    len: u64,
    host: *mut u8,
}

/// Translates many addresses of one guest: the region that answered last is at hand and asked first.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'m> {
    memory: &'m GuestMemory,
    near: Place,
}

impl<'m> Lookup<'m> {
    /// Exactly `len` bytes at `addr`, inside one region; `None` where they are not.
    #[inline(always)]
    pub fn whole(&mut self, addr: GuestAddr, len: usize, hint: &mut RegionHint) -> Option<MemSlice<'m>> {
        let Place { guest, len: region_len, host } = self.near;
        let offset = addr.0.wrapping_sub(guest);
        if offset >= region_len || region_len - offset < len as u64 {
            return self.far(addr, len, hint);
        }
        // SAFETY: `offset + len <= region_len`, which the mapping covers; `memory` keeps the mapping alive.
        Some(unsafe { MemSlice::new(host.add(offset as usize), len) })
    }

    /// As [`Self::whole`], where another region answers, or none.
    #[inline(never)]
    fn far(&mut self, addr: GuestAddr, len: usize, hint: &mut RegionHint) -> Option<MemSlice<'m>> {
        self.near = *self.memory.place(addr, hint)?;
        self.memory.run(addr, len, hint).filter(|run| run.len() == len)
    }
}

/// The memory of one guest. Immutable: a new memory map is a new value.
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// What may be written as well as read.
    places: Box<[Place]>,
    /// What may only be read. Apart, so that no way of writing leads there and none of the usual ways has to ask.
    read_only: Box<[Place]>,
    regions: Box<[Region]>,
    /// Where the mappings are, by their first address.
    mapped: Box<[Range<usize>]>,
    /// Runs that cross regions, for areas.
    #[cfg(not(miri))]
    stitched: Mutex<Vec<Stitched>>,
}

// SAFETY: the raw pointers lead into mappings that `regions` keep alive.
unsafe impl Send for GuestMemory {}
// SAFETY: as above; all access through them tolerates concurrency.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Takes regions in any order; refuses overlaps and more than [`REGIONS_MAX`].
    pub fn new(mut regions: Vec<Region>) -> Result<Self, MemoryFault> {
        if regions.len() > REGIONS_MAX {
            return Err(MemoryFault::TooMany { count: regions.len() });
        }
        regions.sort_by_key(|region| region.guest);
        for pair in regions.windows(2) {
            if pair[0].guest.0 + pair[0].len > pair[1].guest.0 {
                return Err(MemoryFault::Overlap { first: pair[0].guest, second: pair[1].guest });
            }
        }
        let place = |r: &Region| {
            // SAFETY: a region lies inside its mapping.
            let host = unsafe { r.mapping.start().add(r.offset as usize) };
            Place { guest: r.guest.0, len: r.len, host }
        };
        let places =
            |read_only| regions.iter().filter(|region| region.read_only == read_only).map(place).collect();
        Ok(Self {
            places: places(false),
            read_only: places(true),
            mapped: extents_of(&regions),
            regions: regions.into(),
            #[cfg(not(miri))]
            stitched: Mutex::default(),
        })
    }

    /// As [`GuestMemory::new`], for memory that comes after `before`: areas in use that cross regions there, and consist of the
    /// same bytes here, are shared and not made again.
    pub fn after(before: &Self, regions: Vec<Region>) -> Result<Self, MemoryFault> {
        let memory = Self::new(regions)?;
        #[cfg(not(miri))]
        {
            let known = before.lock_stitched();
            let kept = known.iter().filter(|run| run.is_used() && run.is_in(&memory.regions)).cloned();
            *memory.lock_stitched() = kept.collect();
        }
        #[cfg(miri)]
        let _ = before;
        Ok(memory)
    }

    #[cfg(not(miri))]
    fn lock_stitched(&self) -> MutexGuard<'_, Vec<Stitched>> {
        self.stitched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One region of zeroed private memory at guest address `guest`: for tests and guests of our own.
    pub fn anonymous(guest: GuestAddr, len: usize) -> Result<Self, crate::MapError> {
        let mapping = Arc::new(Mapping::anonymous(len)?);
        let refused = |_| crate::MapError::Length { len: len as u64, offset: guest.0 };
        let region = Region::new(guest, FrontendAddr(guest.0), len as u64, mapping).map_err(refused)?;
        Self::new(vec![region]).map_err(refused)
    }

    /// The regions, by guest address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether any region's file was truncated under us.
    pub fn is_dead(&self) -> bool {
        let is_dead = self.regions.iter().any(|region| region.mapping.is_dead());
        #[cfg(not(miri))]
        let is_dead = is_dead || self.lock_stitched().iter().any(|run| run.mapping().is_dead());
        is_dead
    }

    /// The bytes at `addr`: up to `len`, fewer where the region ends first, `None` where there is none, or only one for
    /// reading.
    #[inline]
    pub fn run(&self, addr: GuestAddr, len: usize, hint: &mut RegionHint) -> Option<MemSlice<'_>> {
        let place = self.place(addr, hint)?;
        let offset = addr.0 - place.guest;
        let len = (len as u64).min(place.len - offset) as usize;
        // SAFETY: `offset + len <= place.len`, which the mapping covers; `self` keeps the mapping alive.
        Some(unsafe { MemSlice::new(place.host.add(offset as usize), len) })
    }

    /// For many buffers one after the other.
    #[inline(always)]
    pub fn lookup(&self) -> Lookup<'_> {
        // A region without bytes answers for no address.
        let nothing = Place { guest: 0, len: 0, host: std::ptr::NonNull::dangling().as_ptr() };
        Lookup { memory: self, near: nothing }
    }

    /// The region that `addr` lies in.
    #[inline(always)]
    fn place(&self, addr: GuestAddr, hint: &mut RegionHint) -> Option<&Place> {
        let slot = &mut hint.0[(addr.0 >> HINT_SHIFT) as usize % HINTS];
        let place = self.places.get(usize::from(*slot))?;
        if addr.0.wrapping_sub(place.guest) < place.len {
            return Some(place);
        }
        let index = find(&self.places, addr)?;
        // At most REGIONS_MAX regions: the index fits.
        *slot = index as u16;
        Some(&self.places[index])
    }

    /// Exactly `len` bytes at `addr`, inside one region.
    pub fn slice(&self, addr: GuestAddr, len: usize) -> Option<MemSlice<'_>> {
        self.run(addr, len, &mut RegionHint::default()).filter(|run| run.len() == len)
    }

    /// As [`GuestMemory::run`], in regions for reading only: for whoever only reads what it gets, and found nothing there.
    #[cold]
    pub fn run_read_only(&self, addr: GuestAddr, len: usize) -> Option<MemSlice<'_>> {
        let place = self.read_only[find(&self.read_only, addr)?];
        let offset = addr.0 - place.guest;
        let len = (len as u64).min(place.len - offset) as usize;
        // SAFETY: `offset + len <= place.len`, which the mapping covers; `self` keeps the mapping alive.
        Some(unsafe { MemSlice::new(place.host.add(offset as usize), len) })
    }

    /// Exactly `len` bytes at `addr`, kept alive by the result: inside one region, or in several that follow each other page by
    /// page in shared files.
    pub fn area(self: &Arc<Self>, addr: GuestAddr, len: usize) -> Option<MemArea> {
        let Some(slice) = self.slice(addr, len) else { return self.area_across(addr, len) };
        // SAFETY: the slice was just checked; the area holds this memory.
        Some(unsafe { MemArea::new(slice.as_ptr(), len, Arc::clone(self)) })
    }

    #[cold]
    #[cfg(not(miri))]
    fn area_across(self: &Arc<Self>, addr: GuestAddr, len: usize) -> Option<MemArea> {
        let mut stitched = self.lock_stitched();
        let known = stitched.iter().position(|run| run.is(addr, len));
        let index = known.map_or_else(
            || {
                let run = Stitched::new(&self.regions, addr, len)?;
                // Those that nobody uses are of a queue that is gone.
                stitched.retain(Stitched::is_used);
                stitched.push(run);
                Some(stitched.len() - 1)
            },
            Some,
        )?;
        let mapping = Arc::clone(stitched[index].mapping());
        Some(MemArea::of_mapping(mapping, len, Arc::clone(self)))
    }

    #[cfg(miri)]
    fn area_across(self: &Arc<Self>, _: GuestAddr, _: usize) -> Option<MemArea> {
        None
    }

    /// The guest address of a front-end address.
    pub fn guest_of_frontend(&self, addr: FrontendAddr) -> Option<GuestAddr> {
        let region = self.regions.iter().find(|r| addr.0.wrapping_sub(r.frontend.0) < r.len)?;
        Some(GuestAddr(region.guest.0 + (addr.0 - region.frontend.0)))
    }

    /// Whether `slice` lies in memory that is mapped for as long as this value lives.
    #[inline]
    pub(crate) fn holds(&self, slice: &MemSlice<'_>) -> bool {
        let at = slice.as_ptr().addr();
        let behind = self.mapped.partition_point(|extent| extent.start <= at);
        let extent = behind.checked_sub(1).and_then(|index| self.mapped.get(index));
        extent.is_some_and(|extent| at <= extent.end && slice.len() <= extent.end - at)
    }

    /// The guest address where `slice` begins; `None` if it is not of this memory. Linear in the number of
    /// regions: for dirty logging, not for every frame.
    pub fn guest_of_slice(&self, slice: &MemSlice<'_>) -> Option<GuestAddr> {
        let at = slice.as_ptr().addr();
        let place = self.places.iter().find(|p| (at.wrapping_sub(p.host.addr()) as u64) < p.len)?;
        Some(GuestAddr(place.guest + (at - place.host.addr()) as u64))
    }
}

/// The runs of our own addresses that `regions` lie in, each mapping once. Mappings share no address.
fn extents_of(regions: &[Region]) -> Box<[Range<usize>]> {
    let mut extents: Vec<Range<usize>> = Vec::new();
    for mapping in regions.iter().map(|region| &region.mapping) {
        let start = mapping.start().addr();
        let extent = start..start + mapping.len();
        if extents.last() != Some(&extent) {
            extents.push(extent);
        }
    }
    extents.sort_unstable_by_key(|extent| extent.start);
    extents.dedup();
    extents.into()
}

/// Which of `places` has `addr`.
fn find(places: &[Place], addr: GuestAddr) -> Option<usize> {
    let index = places.partition_point(|place| place.guest <= addr.0).checked_sub(1)?;
    (addr.0 - places[index].guest < places[index].len).then_some(index)
}
