//! The client's memory: `DMA_MAP`, `DMA_UNMAP`.
//!
//! A client without a virtual IOMMU maps a handful of runs, with one maps a page for each buffer of its driver, all from
//! the same few files. So a file is mapped once, as a whole, and each map is a part of that; what the device may only read
//! is a region for reading only. Every change makes a new immutable [`GuestMemory`]. What a session
//! has mapped is counted by what somebody still holds, not by the table: earlier memories live on while the host moves
//! rings.

use super::message::Fields;
use super::{Command, Refusal};
use guestmem::{FileId, GuestAddr, GuestMemory, MapError, Mapping, Region};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// Maps that one session may have at once (`max_dma_maps`), as many as QEMU ever asks for.
pub const DMA_MAPS_MAX: usize = 65_535;

/// Bytes that one session may have mapped at once. All sessions share 128 TiB of addresses, and a sparse file costs a
/// client nothing.
pub const MAPPED_MAX: u64 = 4 << 40;

/// Mappings that one session may hold at once. All sessions share what the kernel allows (`vm.max_map_count`, by default
/// 65,530).
pub const MAPPINGS_MAX: usize = 1024;

/// `VFIO_DMA_MAP_FLAG_READ`: the device may read.
const MAP_READ: u32 = 1;
/// `VFIO_DMA_MAP_FLAG_WRITE`: the device may write.
const MAP_WRITE: u32 = 2;
/// `VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP`: refused, nothing keeps one.
const UNMAP_DIRTY_BITMAP: u32 = 1;
/// `VFIO_DMA_UNMAP_FLAG_ALL`.
const UNMAP_ALL: u32 = 2;

/// The kernel's answer to a shared mapping of a file that is open for reading only.
const EACCES: i32 = 13;

/// What `DMA_MAP` and `DMA_UNMAP` ask for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    flags: u32,
    /// Where it begins in its file, in bytes.
    offset: u64,
    address: u64,
    size: u64,
}

/// A run of the client's addresses.
#[derive(Clone, Debug)]
pub(super) struct DmaMap {
    size: u64,
    /// Whether the device may read and write there.
    access: u32,
    /// `None`: reached by messages only.
    region: Option<Region>,
}

/// A mapping of this session, for as long as somebody holds it.
#[derive(Debug)]
struct Mapped {
    mapping: Weak<Mapping>,
    /// The file whose whole it is.
    whole: Option<FileId>,
}

/// The maps known now, by their first address.
#[derive(Debug, Default)]
pub(super) struct DmaTable {
    maps: BTreeMap<u64, DmaMap>,
    mapped: Vec<Mapped>,
    memory: Arc<GuestMemory>,
}

impl DmaTable {
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// `DMA_MAP`; says whether the memory is another one now.
    pub(super) fn map(&mut self, payload: &[u8], fd: Option<OwnedFd>) -> Result<bool, Refusal> {
        let command = Command::DmaMap;
        let mut fields = Fields(payload);
        let (_argsz, flags) = (fields.u32(), fields.u32());
        let asked = Asked { flags, offset: fields.u64(), address: fields.u64(), size: fields.u64() };
        let Asked { address, size, .. } = asked;
        let accepted = MAP_READ | MAP_WRITE;
        if flags & !accepted != 0 || flags == 0 {
            return Err(Refusal::Flags { command, flags, accepted });
        }
        let Some(end) = address.checked_add(size).filter(|_| size != 0) else {
            return Err(Refusal::DmaRange { command, address, size });
        };
        if self.overlapping(address, end).next().is_some() {
            return Err(Refusal::DmaOverlap { address, size });
        }
        if self.maps.len() >= DMA_MAPS_MAX {
            return Err(Refusal::DmaMaps { command });
        }
        let region = fd.map(|fd| self.region(&asked, fd)).transpose()?;
        let changed = region.is_some();
        self.maps.insert(address, DmaMap { size, access: flags, region });
        if changed {
            self.renew();
        }
        Ok(changed)
    }

    /// `DMA_UNMAP`; says whether the memory is another one now. A part of a map may go, and what was never mapped.
    pub(super) fn unmap(&mut self, payload: &[u8]) -> Result<bool, Refusal> {
        let command = Command::DmaUnmap;
        let mut fields = Fields(payload);
        let (_argsz, flags) = (fields.u32(), fields.u32());
        let (address, size) = (fields.u64(), fields.u64());
        if flags & UNMAP_DIRTY_BITMAP != 0 {
            return Err(Refusal::NotOffered { command });
        }
        let changed = match flags {
            UNMAP_ALL if (address, size) != (0, 0) => return Err(Refusal::UnmapAll { address, size }),
            UNMAP_ALL => {
                let changed = self.maps.values().any(|map| map.region.is_some());
                self.maps.clear();
                changed
            }
            // Up to the very end of the address space too: no map has its last byte.
            0 => match size.checked_sub(1).and_then(|rest| address.checked_add(rest)) {
                Some(last) => self.remove(address, last.saturating_add(1))?,
                None => return Err(Refusal::DmaRange { command, address, size }),
            },
            _ => return Err(Refusal::Flags { command, flags, accepted: UNMAP_ALL }),
        };
        if changed {
            self.renew();
        }
        Ok(changed)
    }

    /// Whether `len` bytes at `address` lie inside one map where the device may write (or read).
    pub(super) fn allows(&self, address: u64, len: u64, write: bool) -> bool {
        let needed = if write { MAP_WRITE } else { MAP_READ };
        let map = self.maps.range(..=address).next_back();
        map.is_some_and(|(start, map)| {
            let inside = address - start;
            map.access & needed != 0 && inside < map.size && len <= map.size - inside
        })
    }

    /// Bytes from `address` on inside one map where the device may write (or read); zero: none.
    pub(super) fn run(&self, address: u64, write: bool) -> u64 {
        let needed = if write { MAP_WRITE } else { MAP_READ };
        let map = self.maps.range(..=address).next_back().filter(|(_, map)| map.access & needed != 0);
        map.map_or(0, |(start, map)| map.size.saturating_sub(address - start))
    }

    /// Whether `len` bytes at `address` lie inside maps, one behind the other, where the device may write (or read).
    pub(super) fn covers(&self, address: u64, len: u64, write: bool) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let mut at = address;
        while at < end {
            match self.run(at, write) {
                0 => return false,
                run => at = at.saturating_add(run),
            }
        }
        true
    }

    /// Whether the byte at `address` can be reached by messages only.
    pub(super) fn by_messages(&self, address: u64) -> bool {
        self.allows(address, 1, false)
            && self.maps.range(..=address).next_back().is_some_and(|(_, map)| map.region.is_none())
    }

    fn overlapping(&self, address: u64, end: u64) -> impl Iterator<Item = (u64, &DmaMap)> {
        let before =
            self.maps.range(..address).next_back().filter(|(start, map)| *start + map.size > address);
        before.into_iter().chain(self.maps.range(address..end)).map(|(start, map)| (*start, map))
    }

    fn remove(&mut self, address: u64, end: u64) -> Result<bool, Refusal> {
        let gone: Vec<(u64, DmaMap)> =
            self.overlapping(address, end).map(|(start, map)| (start, map.clone())).collect();
        // Only a hole in the middle of one map makes more of them.
        if let [(start, map)] = &gone[..]
            && *start < address
            && start + map.size > end
            && self.maps.len() >= DMA_MAPS_MAX
        {
            return Err(Refusal::DmaMaps { command: Command::DmaUnmap });
        }
        let mut changed = false;
        for (start, map) in gone {
            changed |= map.region.is_some();
            self.maps.remove(&start);
            self.keep(start, &map, 0, address.saturating_sub(start));
            self.keep(
                start,
                &map,
                end.saturating_sub(start),
                map.size.saturating_sub(end.saturating_sub(start)),
            );
        }
        Ok(changed)
    }

    /// Puts back `len` bytes of a map that went, from byte `skip` on.
    fn keep(&mut self, start: u64, map: &DmaMap, skip: u64, len: u64) {
        if len > 0 {
            let region = map.region.as_ref().and_then(|region| region.cut(skip, len));
            self.maps.insert(start + skip, DmaMap { size: len, access: map.access, region });
        }
    }

    /// The memory of the maps as they are now. Maps that go on where another ends, also in the file, are one region: rings
    /// and buffers of a driver behind a virtual IOMMU are mapped page by page.
    fn renew(&mut self) {
        let mut regions: Vec<Region> = Vec::new();
        for region in self.maps.values().filter_map(|map| map.region.as_ref()) {
            match regions.last_mut().and_then(|last| Some((last.join(region)?, last))) {
                Some((joined, last)) => *last = joined,
                None => regions.push(region.clone()),
            }
        }
        // Maps do not overlap, and there are never more than regions may be.
        let memory = GuestMemory::after(&self.memory, regions).expect("maps that were checked one by one");
        self.memory = Arc::new(memory);
    }

    fn region(&mut self, asked: &Asked, fd: OwnedFd) -> Result<Region, Refusal> {
        self.mapped.retain(|mapped| mapped.mapping.strong_count() > 0);
        let Asked { flags, offset, address, size } = *asked;
        let too_long = Refusal::MapLength { len: size, offset };
        let end = offset.checked_add(size).ok_or(too_long)?;
        let read_only = flags & MAP_WRITE == 0;
        let (mapping, skip) = match self.whole(flags, &fd, end)? {
            Some(mapping) => (mapping, offset),
            None if read_only => {
                (self.new_mapping(size, None, || Mapping::file_read_only(fd, offset, size))?, 0)
            }
            None => (self.new_mapping(size, None, || Mapping::file(fd, offset, size))?, 0),
        };
        let region = Region::part(GuestAddr(address), size, mapping, skip).map_err(|_| too_long)?;
        Ok(if read_only { region.read_only() } else { region })
    }

    /// The mapping of the whole of a file of which bytes up to `end` are needed; `None`: it has not as many, takes more than
    /// is left for this session, or may not be written.
    fn whole(&mut self, flags: u32, fd: &OwnedFd, end: u64) -> Result<Option<Arc<Mapping>>, Refusal> {
        let (id, file_size) = FileId::of(fd).map_err(refused)?;
        let known = self.mapped.iter().filter(|mapped| mapped.whole == Some(id));
        let mut known = known.filter_map(|mapped| mapped.mapping.upgrade());
        if let Some(mapping) = known.find(|mapping| mapping.len() as u64 >= end && !mapping.is_dead()) {
            return Ok(Some(mapping));
        }
        if file_size < end || file_size > self.room() {
            return Ok(None);
        }
        match self.new_mapping(file_size, Some(id), || Mapping::file(fd, 0, file_size)) {
            Err(Refusal::MapRefused { errno: EACCES }) if flags & MAP_WRITE == 0 => Ok(None),
            mapped => mapped.map(Some),
        }
    }

    /// A mapping of `len` bytes, if this session may have one more.
    fn new_mapping(
        &mut self,
        len: u64,
        whole: Option<FileId>,
        map: impl FnOnce() -> Result<Mapping, MapError>,
    ) -> Result<Arc<Mapping>, Refusal> {
        if self.mapped.len() >= MAPPINGS_MAX {
            return Err(Refusal::SessionMappings);
        }
        let room = self.room();
        if len > room {
            return Err(Refusal::SessionMemory { len, mapped: MAPPED_MAX - room });
        }
        let mapping = Arc::new(map().map_err(refused)?);
        self.mapped.push(Mapped { mapping: Arc::downgrade(&mapping), whole });
        Ok(mapping)
    }

    /// Bytes that this session may still map.
    fn room(&self) -> u64 {
        let held = self.mapped.iter().filter_map(|mapped| mapped.mapping.upgrade());
        MAPPED_MAX.saturating_sub(held.map(|mapping| mapping.len() as u64).sum())
    }
}

fn refused(error: MapError) -> Refusal {
    match error {
        MapError::Length { len, offset } => Refusal::MapLength { len, offset },
        MapError::FileKind => Refusal::MapFileKind,
        MapError::FileSystem { magic } => Refusal::MapFileSystem { magic },
        MapError::FileTooSmall { need, size } => Refusal::MapFileTooSmall { need, size },
        MapError::Kernel(errno) => Refusal::MapRefused { errno: errno.raw_os_error() },
    }
}
