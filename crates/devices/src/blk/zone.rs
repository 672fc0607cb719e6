//! Zones of a host-managed disk on storage that has none: the state of each, and what requests make of it (virtio 1.3 §5.2.6).
//!
//! [`Zones`] is a plain value. A write moves the write pointer when it *begins*, so that the next one may begin before it ended; an
//! append gets its place the same way. A write that fails gives its place back if it was the last one; otherwise sectors of undefined
//! content stay behind, and the driver was told. A reset takes effect when the disk has *ended* zeroing the zone, so that what
//! is not written reads as zeros.
//!
//! Where virtio is silent, the standards that it refers to (ZBC, ZNS) decide: an empty or a closed zone can be finished.
//!
//! **What is to be kept.** The caller keeps one record for each zone (see [`record`](super::record)) where it survives, and writes those of
//! [`Zones::take_changed`] before it reports a request as done that was to be stable, or a flush.

use super::config::SECTOR;
use super::status::Status;
use crate::storage::{Extent, Extents};
use std::collections::VecDeque;
use std::ops::Range;
use thiserror::Error;

/// Zones of one disk at most.
pub const ZONES_MAX: u64 = 1 << 18;
/// Limits on open and active zones that are accepted; 0 means no limit.
pub const ZONE_LIMIT_MAX: u32 = 4096;

/// How a disk is divided into zones. Sectors are of 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneShape {
    /// The whole disk.
    pub capacity_sectors: u64,
    /// One zone; a power of two (Linux takes no other). The last zone may be shorter.
    pub zone_sectors: u32,
    /// What of a zone can be written, from its beginning on; the rest is a gap in the addresses.
    pub zone_capacity_sectors: u32,
    /// Zones at the beginning of the disk that can be written anywhere.
    pub conventional_zones: u32,
    /// Zones that may be open at once; 0: any number.
    pub max_open_zones: u32,
    /// Zones that may be open or closed (neither empty nor full) at once; 0: any number.
    pub max_active_zones: u32,
    /// The longest append; 0: there is none.
    pub max_append_sectors: u32,
    /// What writes are multiples of, in bytes.
    pub write_granularity: u32,
}

/// A division into zones that cannot be; names the field and what is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ZoneShapeFault {
    /// `zone_sectors`.
    #[error("zone size of {0} sectors: accepted are powers of two that give 1 to {ZONES_MAX} zones")]
    ZoneSectors(u32),
    /// `zone_capacity_sectors`.
    #[error(
        "zone capacity of {0} sectors: accepted are multiples of the write granularity up to the zone size"
    )]
    ZoneCapacity(u32),
    /// `conventional_zones`.
    #[error("{0} conventional zones: accepted are fewer than the disk has zones")]
    Conventional(u32),
    /// `max_open_zones` or `max_active_zones`.
    #[error(
        "a limit of {0} zones: accepted are 0 (none) to {ZONE_LIMIT_MAX}, and no more open than active ones"
    )]
    Limit(u32),
    /// `write_granularity`.
    #[error(
        "write granularity of {0} bytes: accepted are powers of two from 512 up to the zone capacity that divide the disk"
    )]
    Granularity(u32),
}

impl ZoneShape {
    /// Zones of the disk.
    pub fn zones(&self) -> u64 {
        self.capacity_sectors.div_ceil(u64::from(self.zone_sectors.max(1)))
    }

    fn check(&self) -> Result<(), ZoneShapeFault> {
        let zones = self.zones();
        if !self.zone_sectors.is_power_of_two() || zones == 0 || zones > ZONES_MAX {
            return Err(ZoneShapeFault::ZoneSectors(self.zone_sectors));
        }
        let granularity = self.write_granularity;
        let granule = granularity / SECTOR as u32;
        let divides = |sectors: u64| sectors.is_multiple_of(u64::from(granule.max(1)));
        let fits = granule != 0 && granule <= self.zone_capacity_sectors && divides(self.capacity_sectors);
        if !granularity.is_power_of_two() || !fits {
            return Err(ZoneShapeFault::Granularity(granularity));
        }
        if self.zone_capacity_sectors > self.zone_sectors || !divides(self.zone_capacity_sectors.into()) {
            return Err(ZoneShapeFault::ZoneCapacity(self.zone_capacity_sectors));
        }
        if u64::from(self.conventional_zones) >= zones {
            return Err(ZoneShapeFault::Conventional(self.conventional_zones));
        }
        let (open, active) = (self.max_open_zones, self.max_active_zones);
        match [open, active].into_iter().find(|&limit| limit > ZONE_LIMIT_MAX) {
            Some(limit) => Err(ZoneShapeFault::Limit(limit)),
            None if active != 0 && (open > active) => Err(ZoneShapeFault::Limit(open)),
            None => Ok(()),
        }
    }
}

/// The state of a zone, in the numbers of virtio 1.3 §5.2.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ZoneState {
    /// Conventional: there is no write pointer.
    NotWp = 0,
    /// Nothing is written.
    Empty = 1,
    /// Opened by a write.
    ImplicitlyOpen = 2,
    /// Opened by a request to open it.
    ExplicitlyOpen = 3,
    /// Partly written and not open.
    Closed = 4,
    /// Nothing more is to be written: the storage failed.
    ReadOnly = 13,
    /// All is written, or was declared to be.
    Full = 14,
    /// Neither to be read nor to be written: the storage failed.
    Offline = 15,
}

/// One zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Zone {
    pub(super) state: ZoneState,
    /// Sectors from the beginning of the zone to its write pointer.
    pub(super) written: u32,
    /// Counts resets and finishes: a write of before has no say any more.
    pub(super) epoch: u32,
}

/// A place in a zone that a write took when it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    zone: u32,
    epoch: u32,
    from: u32,
    to: u32,
}

/// The zones of one disk.
#[derive(Clone, Debug)]
pub struct Zones {
    pub(super) shape: ZoneShape,
    pub(super) zones: Box<[Zone]>,
    open: u32,
    active: u32,
    /// Zones opened by a write, the oldest first; kept only where open zones are limited.
    implicit: VecDeque<u32>,
    /// Zones that changed and were not taken.
    changed: Range<usize>,
}

impl Zones {
    /// An empty disk.
    ///
    /// # Errors
    /// A division that cannot be.
    pub fn new(shape: ZoneShape) -> Result<Self, ZoneShapeFault> {
        shape.check()?;
        let zone = |index| {
            let is_conventional = index < u64::from(shape.conventional_zones);
            let state = if is_conventional { ZoneState::NotWp } else { ZoneState::Empty };
            Zone { state, written: 0, epoch: 0 }
        };
        Ok(Self::of(shape, (0..shape.zones()).map(zone).collect()))
    }

    /// The disk whose zones these are; the counters follow.
    pub(super) fn of(shape: ZoneShape, zones: Box<[Zone]>) -> Self {
        let count =
            |counts: fn(ZoneState) -> bool| zones.iter().filter(|zone| counts(zone.state)).count() as u32;
        let (open, active) = (count(is_open), count(is_active));
        let is_implicit = |zone: &(usize, &Zone)| zone.1.state == ZoneState::ImplicitlyOpen;
        let implicit = zones.iter().enumerate().filter(is_implicit).map(|(index, _)| index as u32);
        let implicit = if shape.max_open_zones == 0 { VecDeque::new() } else { implicit.collect() };
        Self { shape, zones, open, active, implicit, changed: 0..0 }
    }

    /// How the disk is divided.
    pub fn shape(&self) -> &ZoneShape {
        &self.shape
    }

    /// Zones.
    #[expect(clippy::len_without_is_empty, reason = "a disk has at least one zone")]
    pub fn len(&self) -> usize {
        self.zones.len()
    }

    /// The state of zone `index`.
    pub fn state(&self, index: usize) -> Option<ZoneState> {
        self.zones.get(index).map(|zone| zone.state)
    }

    /// Open zones and active zones.
    pub fn in_use(&self) -> (u32, u32) {
        (self.open, self.active)
    }

    /// A range that holds every zone whose record changed since the last call.
    pub fn take_changed(&mut self) -> Range<usize> {
        std::mem::replace(&mut self.changed, 0..0)
    }

    /// The storage of zone `index` failed for good: nothing can be written there any more, and if `is_offline` nothing be read either.
    /// Conventional zones and zones that are not there stay as they are; offline zones, too.
    pub fn fail(&mut self, index: usize, is_offline: bool) {
        let state = if is_offline { ZoneState::Offline } else { ZoneState::ReadOnly };
        match self.state(index) {
            None | Some(ZoneState::NotWp | ZoneState::Offline) => {}
            Some(_) => self.enter(index, state),
        }
    }

    /// The zone that `sector` lies in.
    pub(super) fn index_of(&self, sector: u64) -> Option<usize> {
        let is_inside = sector < self.shape.capacity_sectors;
        is_inside.then(|| (sector / u64::from(self.shape.zone_sectors)) as usize)
    }

    /// The zone that begins at `sector`.
    fn beginning_at(&self, sector: u64) -> Result<usize, Status> {
        let index = self.index_of(sector).filter(|&index| self.start(index) == sector);
        index.ok_or(Status::ZoneInvalidCmd)
    }

    /// First sector of a zone.
    pub(super) fn start(&self, index: usize) -> u64 {
        index as u64 * u64::from(self.shape.zone_sectors)
    }

    /// Sectors of a zone that can be written.
    pub(super) fn capacity(&self, index: usize) -> u32 {
        let left = self.shape.capacity_sectors.saturating_sub(self.start(index));
        let most = if self.is_conventional(index) {
            self.shape.zone_sectors
        } else {
            self.shape.zone_capacity_sectors
        };
        left.min(most.into()) as u32
    }

    fn is_conventional(&self, index: usize) -> bool {
        index < self.shape.conventional_zones as usize
    }

    /// The bytes of a zone, the gap at its end among them.
    fn extent(&self, index: usize) -> Extent {
        let start = self.start(index);
        let end = (start + u64::from(self.shape.zone_sectors)).min(self.shape.capacity_sectors);
        Extent { offset: start * SECTOR, len: (end - start) * SECTOR }
    }

    /// The zones that a range of sectors, not empty and on the disk, lies in: the only one, or `None` where it needs none since all of
    /// them are conventional.
    fn only_zone(&self, sector: u64, sectors: u64) -> Result<Option<usize>, Status> {
        let outside = Status::IoErr;
        let first = self.index_of(sector).ok_or(outside)?;
        let last = sector.checked_add(sectors.saturating_sub(1)).ok_or(outside)?;
        let last = self.index_of(last).ok_or(outside)?;
        if self.is_conventional(last) {
            return Ok(None);
        }
        if first == last { Ok(Some(first)) } else { Err(Status::ZoneInvalidCmd) }
    }

    /// Whether a range of sectors (not empty) can be read.
    pub(super) fn check_read(&self, sector: u64, sectors: u64) -> Result<(), Status> {
        match self.only_zone(sector, sectors)? {
            Some(index) if self.zones[index].state == ZoneState::Offline => Err(Status::ZoneInvalidCmd),
            _ => Ok(()),
        }
    }

    /// A write (of some sectors) begins. In a conventional zone it takes no place.
    pub(super) fn write(&mut self, sector: u64, sectors: u64) -> Result<Option<Reserved>, Status> {
        let Some(index) = self.only_zone(sector, sectors)? else { return Ok(None) };
        let zone = self.zones[index];
        if !is_writable(zone.state) {
            return Err(Status::ZoneInvalidCmd);
        }
        if sector != self.start(index) + u64::from(zone.written) {
            return Err(Status::ZoneUnalignedWp);
        }
        self.reserve(index, sectors).map(Some)
    }

    /// An append (of some sectors) begins; the sector that its data goes to, and its place.
    pub(super) fn append(&mut self, sector: u64, sectors: u64) -> Result<(u64, Reserved), Status> {
        let longest = self.shape.max_append_sectors;
        if longest == 0 {
            return Err(Status::Unsupp);
        }
        let index = self.beginning_at(sector)?;
        let zone = self.zones[index];
        if !is_writable(zone.state) || sectors == 0 || sectors > u64::from(longest) {
            return Err(Status::ZoneInvalidCmd);
        }
        let at = sector + u64::from(zone.written);
        Ok((at, self.reserve(index, sectors)?))
    }

    /// Moves the write pointer of a zone that may be written.
    fn reserve(&mut self, index: usize, sectors: u64) -> Result<Reserved, Status> {
        let (from, capacity) = (self.zones[index].written, self.capacity(index));
        let to = u64::from(from) + sectors;
        if !to.is_multiple_of(u64::from(self.shape.write_granularity) / SECTOR) {
            return Err(Status::ZoneUnalignedWp);
        }
        if to > u64::from(capacity) {
            return Err(Status::ZoneInvalidCmd);
        }
        let to = to as u32;
        if !is_open(self.zones[index].state) {
            self.make_room(index)?;
            self.enter(index, ZoneState::ImplicitlyOpen);
        }
        self.zones[index].written = to;
        if to == capacity {
            self.enter(index, ZoneState::Full);
        }
        self.note(index);
        let epoch = self.zones[index].epoch;
        Ok(Reserved { zone: index as u32, epoch, from, to })
    }

    /// A write failed: its place is given back if it is the last one in its zone. A zone that it filled stays full.
    pub(super) fn give_back(&mut self, place: Reserved) {
        let index = place.zone as usize;
        let zone = &mut self.zones[index];
        if zone.epoch == place.epoch && zone.written == place.to && is_active(zone.state) {
            zone.written = place.from;
            self.note(index);
        }
    }

    /// Opens the zone that begins at `sector`.
    pub(super) fn open(&mut self, sector: u64) -> Result<(), Status> {
        let index = self.beginning_at(sector)?;
        match self.zones[index].state {
            ZoneState::ExplicitlyOpen => return Ok(()),
            ZoneState::ImplicitlyOpen => {}
            ZoneState::Empty | ZoneState::Closed => self.make_room(index)?,
            _ => return Err(Status::ZoneInvalidCmd),
        }
        self.enter(index, ZoneState::ExplicitlyOpen);
        Ok(())
    }

    /// Closes the zone that begins at `sector`.
    pub(super) fn close(&mut self, sector: u64) -> Result<(), Status> {
        let index = self.beginning_at(sector)?;
        match self.zones[index].state {
            ZoneState::Closed => {}
            state if is_open(state) => self.shut(index),
            _ => return Err(Status::ZoneInvalidCmd),
        }
        Ok(())
    }

    /// Declares the zone that begins at `sector` full.
    pub(super) fn finish(&mut self, sector: u64) -> Result<(), Status> {
        let index = self.beginning_at(sector)?;
        match self.zones[index].state {
            ZoneState::Full => {}
            state if is_writable(state) => {
                self.zones[index].epoch = self.zones[index].epoch.wrapping_add(1);
                self.enter(index, ZoneState::Full);
            }
            _ => return Err(Status::ZoneInvalidCmd),
        }
        Ok(())
    }

    /// What has to be zeroed before the zone that begins at `sector` is reset by [`Self::reset`]; nothing for an empty one.
    pub(super) fn reset_work(&self, sector: u64) -> Result<Extents, Status> {
        let index = self.beginning_at(sector)?;
        match self.zones[index].state {
            ZoneState::Empty => Ok(Extents::new()),
            state if is_resettable(state) => Ok(self.extent(index).into()),
            _ => Err(Status::ZoneInvalidCmd),
        }
    }

    /// As [`Self::reset_work`], for all zones that can be reset. Zones that failed are left out, and so many of these that the list does not
    /// hold what is between them are an error.
    pub(super) fn reset_all_work(&self) -> Result<Extents, Status> {
        let (mut extents, mut run) = (Extents::new(), None::<Extent>);
        for index in self.shape.conventional_zones as usize..self.zones.len() {
            let (state, extent) = (self.zones[index].state, self.extent(index));
            let is_kept = !is_resettable(state);
            if is_kept && !extents.push(run.take().unwrap_or_default()) {
                return Err(Status::IoErr);
            }
            // An empty zone between others may be zeroed once more.
            if !is_kept && (run.is_some() || state != ZoneState::Empty) {
                run.get_or_insert(Extent { len: 0, ..extent }).len += extent.len;
            }
        }
        if extents.push(run.unwrap_or_default()) { Ok(extents) } else { Err(Status::IoErr) }
    }

    /// Whether `extents` are whole zones: what a secure erase takes (virtio 1.3 §5.2.6.2).
    pub(super) fn are_whole(&self, extents: &Extents) -> bool {
        let zone_len = u64::from(self.shape.zone_sectors) * SECTOR;
        let is_end = |at: u64| at.is_multiple_of(zone_len) || at == self.shape.capacity_sectors * SECTOR;
        extents.as_slice().iter().all(|extent| extent.offset.is_multiple_of(zone_len) && is_end(extent.end()))
    }

    /// Resets the zones in `extents`, which read as zeros now.
    pub(super) fn reset(&mut self, extents: &Extents) {
        for extent in extents.as_slice() {
            let mut sector = extent.offset / SECTOR;
            while sector < extent.end() / SECTOR {
                let Some(index) = self.index_of(sector) else { break };
                let zone = &mut self.zones[index];
                if is_resettable(zone.state) {
                    zone.epoch = zone.epoch.wrapping_add(1);
                    zone.written = 0;
                    self.enter(index, ZoneState::Empty);
                }
                sector += u64::from(self.shape.zone_sectors);
            }
        }
    }

    /// Makes sure that an empty or closed zone can be opened; closes one that a write had opened, if need be.
    fn make_room(&mut self, index: usize) -> Result<(), Status> {
        let ZoneShape { max_open_zones, max_active_zones, .. } = self.shape;
        let is_new = !is_active(self.zones[index].state);
        if is_new && max_active_zones != 0 && self.active >= max_active_zones {
            return Err(Status::ZoneActiveResource);
        }
        if max_open_zones != 0 && self.open >= max_open_zones {
            let oldest = self.implicit.front().ok_or(Status::ZoneOpenResource)?;
            self.shut(*oldest as usize);
        }
        Ok(())
    }

    /// An open zone is closed; one without a written sector is empty again.
    fn shut(&mut self, index: usize) {
        let is_empty = self.zones[index].written == 0;
        self.enter(index, if is_empty { ZoneState::Empty } else { ZoneState::Closed });
    }

    /// Changes the state of a zone, and the counters with it.
    fn enter(&mut self, index: usize, state: ZoneState) {
        let before = std::mem::replace(&mut self.zones[index].state, state);
        self.open = self.open + u32::from(is_open(state)) - u32::from(is_open(before));
        self.active = self.active + u32::from(is_active(state)) - u32::from(is_active(before));
        if before == ZoneState::ImplicitlyOpen {
            self.implicit.retain(|&zone| zone as usize != index);
        }
        if state == ZoneState::ImplicitlyOpen && self.shape.max_open_zones != 0 {
            self.implicit.push_back(index as u32);
        }
        self.note(index);
    }

    fn note(&mut self, index: usize) {
        self.changed = if self.changed.is_empty() {
            index..index + 1
        } else {
            self.changed.start.min(index)..self.changed.end.max(index + 1)
        };
    }
}

pub(super) fn is_open(state: ZoneState) -> bool {
    matches!(state, ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen)
}

pub(super) fn is_active(state: ZoneState) -> bool {
    is_open(state) || state == ZoneState::Closed
}

fn is_writable(state: ZoneState) -> bool {
    is_active(state) || state == ZoneState::Empty
}

fn is_resettable(state: ZoneState) -> bool {
    is_writable(state) || state == ZoneState::Full
}

#[cfg(test)]
mod tests;
