//! A request's way in: from a chain to an answer, or to what the disk has to do.

use super::config::SECTOR;
use super::finish::{Answer, Effect, Request, Spare, Tail, used_len};
use super::record::{REPORT_ENTRY_LEN, REPORT_ZONES_MAX};
use super::request::{HEADER_LEN, Header, ID_LEN, LIFETIME_LEN, RequestType};
use super::rules::Rules;
use super::segments::{self, Ranges};
use super::status::Status;
use super::zone::Zones;
use crate::storage::{Extent, Extents, Limits, Work};
use guestmem::{GuestMemory, MemSlice, Part, read_segments, write_segments};
use std::sync::Arc;
use virtqueue::{Burst, Chain};

/// What became of a chain.
#[derive(Debug)]
pub enum Begun {
    /// It is answered: give the chain back with `DeviceQueue::complete_scattered` and this answer's length.
    Answered(Answer),
    /// The disk has something to do first: detach the chain, carry the work out, [`finish`](super::finish()).
    Work(Request),
}

/// Begins the request of a chain that was popped against `memory`. `zones` are those of a disk of zones.
///
/// A chain without room for a status is answered with length 0 and nothing is done: the ring is in order, so there is no reason to take
/// the disk away from the guest, and there is no way to tell the driver. Every other request gets a status.
///
/// # Panics
/// If the chain is of other memory; that is a mistake of the device.
pub fn begin(
    rules: &Rules,
    zones: Option<&mut Zones>,
    memory: &Arc<GuestMemory>,
    burst: &Burst<'_>,
    chain: &Chain,
    spare: &mut Spare,
) -> Begun {
    let Some(room) = chain.writable_len().checked_sub(1) else {
        return Begun::Answered(Answer { written: 0, status: None });
    };
    let data_len = (chain.readable_len() as usize).checked_sub(HEADER_LEN);
    let buffers = Buffers {
        readable: burst.readable(chain),
        writable: burst.writable(chain),
        data_len: data_len.unwrap_or(0),
        room,
    };
    let plan = if data_len.is_some() { plan(rules, zones, &buffers) } else { Err(Status::IoErr) };
    match plan {
        Ok(Plan::Answer { written }) => buffers.answer(Status::Ok, written),
        Ok(Plan::Work { work, data, tail, effect }) => {
            let mut kept = spare.take();
            let mut keep = |segments, skip, len| {
                let part = kept.keep(memory, segments, skip, len);
                part.expect("a chain lies in the memory that it was popped against")
            };
            let data = match data {
                Data::None => Part::default(),
                Data::Readable => keep(buffers.readable, HEADER_LEN, buffers.data_len),
                Data::Writable => keep(buffers.writable, 0, room as usize),
            };
            let tail_at = room as usize - tail.before_status();
            let status_at = keep(buffers.writable, tail_at, usize::MAX);
            Begun::Work(Request::new(work, effect, tail, room, kept, data, status_at))
        }
        Err(status) => buffers.answer(status, 0),
    }
}

/// A chain's buffers as a request sees them.
struct Buffers<'b, 'm> {
    readable: &'b [MemSlice<'m>],
    writable: &'b [MemSlice<'m>],
    /// Bytes behind the header.
    data_len: usize,
    /// Bytes in front of the status.
    room: u32,
}

impl Buffers<'_, '_> {
    /// Copies `bytes` to position `at` of what the device may write.
    fn write(&self, at: usize, bytes: &[u8]) {
        write_segments(self.writable, at, bytes);
    }

    /// Writes the status behind `written` bytes of data (and a gap, if these are fewer than there is room for).
    fn answer(&self, status: Status, written: u32) -> Begun {
        self.write(self.room as usize, &[status as u8]);
        Begun::Answered(Answer { written: used_len(self.room, written), status: Some(status) })
    }
}

/// Where the data of a work lies.
#[derive(Clone, Copy)]
enum Data {
    None,
    /// Behind the header.
    Readable,
    /// In front of the status.
    Writable,
}

/// What is to be done for a request.
enum Plan {
    /// Nothing more: the answer's data is written.
    Answer { written: u32 },
    /// The disk's part.
    Work { work: Work, data: Data, tail: Tail, effect: Effect },
}

impl Plan {
    const DONE: Self = Self::Answer { written: 0 };

    fn work(work: Work, data: Data) -> Self {
        Self::Work { work, data, tail: Tail::Status, effect: Effect::None }
    }

    /// The disk's part, unless there is nothing to do.
    fn of_extents(extents: Extents, effect: Effect, work: impl FnOnce(Extents) -> Work) -> Self {
        if extents.is_empty() {
            return Self::DONE;
        }
        Self::Work { work: work(extents), data: Data::None, tail: Tail::Status, effect }
    }
}

fn plan(rules: &Rules, zones: Option<&mut Zones>, buffers: &Buffers<'_, '_>) -> Result<Plan, Status> {
    let mut header = [0; HEADER_LEN];
    read_segments(buffers.readable, 0, &mut header);
    let Header { number, sector } = Header::parse(&header, rules.endian);
    let kind = RequestType::of(number).filter(|kind| rules.takes(*kind)).ok_or(Status::Unsupp)?;
    if !rules.permits(kind) {
        return Err(Status::IoErr);
    }
    match kind {
        RequestType::In => read(rules, zones, buffers, sector),
        RequestType::Out => write(rules, zones, buffers, sector),
        RequestType::Flush => Ok(Plan::work(Work::Flush, Data::None)),
        RequestType::GetId => get_id(rules, buffers),
        RequestType::GetLifetime => get_lifetime(rules, buffers),
        RequestType::Discard => {
            let Ranges { extents, .. } = ranges(rules, kind, rules.discard, buffers)?;
            Ok(Plan::of_extents(extents, Effect::None, Work::Discard))
        }
        RequestType::WriteZeroes => {
            let Ranges { extents, unmap } = ranges(rules, kind, rules.zero, buffers)?;
            let zero = |extents| Work::Zero { extents, unmap, through: rules.through };
            Ok(Plan::of_extents(extents, Effect::None, zero))
        }
        RequestType::SecureErase => secure_erase(rules, zones, buffers),
        _ => zone_request(rules, zones.ok_or(Status::Unsupp)?, buffers, kind, sector),
    }
}

/// The bytes from `sector` on, if they are whole sectors of the disk.
fn extent(rules: &Rules, sector: u64, len: u64) -> Result<Extent, Status> {
    let offset = sector.checked_mul(SECTOR).ok_or(Status::IoErr)?;
    let extent = Extent { offset, len };
    let is_sound = len.is_multiple_of(SECTOR) && extent.is_within(rules.capacity);
    if is_sound { Ok(extent) } else { Err(Status::IoErr) }
}

fn read(
    rules: &Rules,
    zones: Option<&mut Zones>,
    buffers: &Buffers<'_, '_>,
    sector: u64,
) -> Result<Plan, Status> {
    let extent = extent(rules, sector, buffers.room.into())?;
    if extent.len == 0 {
        return Ok(Plan::DONE);
    }
    if let Some(zones) = zones {
        zones.check_read(sector, extent.len / SECTOR)?;
    }
    Ok(Plan::work(Work::Read(extent), Data::Writable))
}

fn write(
    rules: &Rules,
    zones: Option<&mut Zones>,
    buffers: &Buffers<'_, '_>,
    sector: u64,
) -> Result<Plan, Status> {
    let extent = extent(rules, sector, buffers.data_len as u64)?;
    if extent.len == 0 {
        return Ok(Plan::DONE);
    }
    let place = match zones {
        Some(zones) => zones.write(sector, extent.len / SECTOR)?,
        None => None,
    };
    Ok(Plan::Work {
        work: Work::Write { extent, through: rules.through },
        data: Data::Readable,
        tail: Tail::Status,
        effect: place.map_or(Effect::None, Effect::Wrote),
    })
}

fn get_id(rules: &Rules, buffers: &Buffers<'_, '_>) -> Result<Plan, Status> {
    if buffers.room as usize != ID_LEN {
        return Err(Status::IoErr);
    }
    let mut id = [0; ID_LEN];
    id.iter_mut().zip(rules.serial.as_bytes()).for_each(|(place, byte)| *place = *byte);
    buffers.write(0, &id);
    Ok(Plan::Answer { written: ID_LEN as u32 })
}

fn get_lifetime(rules: &Rules, buffers: &Buffers<'_, '_>) -> Result<Plan, Status> {
    if (buffers.room as usize) < LIFETIME_LEN {
        return Err(Status::IoErr);
    }
    buffers.write(0, &rules.lifetime.bytes(rules.endian));
    Ok(Plan::Answer { written: LIFETIME_LEN as u32 })
}

fn ranges(
    rules: &Rules,
    kind: RequestType,
    limits: Option<Limits>,
    buffers: &Buffers<'_, '_>,
) -> Result<Ranges, Status> {
    let limits = limits.ok_or(Status::Unsupp)?;
    segments::read(rules, kind, &limits, buffers.readable, HEADER_LEN, buffers.data_len)
}

fn secure_erase(rules: &Rules, zones: Option<&mut Zones>, buffers: &Buffers<'_, '_>) -> Result<Plan, Status> {
    let Ranges { extents, .. } = ranges(rules, RequestType::SecureErase, rules.secure_erase, buffers)?;
    let effect = match zones {
        Some(zones) if zones.are_whole(&extents) => Effect::Reset,
        Some(_) => return Err(Status::IoErr),
        None => Effect::None,
    };
    Ok(Plan::of_extents(extents, effect, Work::SecureErase))
}

/// The requests that only a disk of zones knows.
fn zone_request(
    rules: &Rules,
    zones: &mut Zones,
    buffers: &Buffers<'_, '_>,
    kind: RequestType,
    sector: u64,
) -> Result<Plan, Status> {
    // What is not written reads as zeros, so that is what a reset leaves.
    let zero = |extents| Work::Zero { extents, unmap: true, through: rules.through };
    let extents = match kind {
        RequestType::ZoneAppend => return append(rules, zones, buffers, sector),
        RequestType::ZoneReport => return report(zones, buffers, sector),
        RequestType::ZoneOpen => zones.open(sector).map(|()| Extents::new())?,
        RequestType::ZoneClose => zones.close(sector).map(|()| Extents::new())?,
        RequestType::ZoneFinish => zones.finish(sector).map(|()| Extents::new())?,
        RequestType::ZoneReset => zones.reset_work(sector)?,
        RequestType::ZoneResetAll => zones.reset_all_work()?,
        _ => return Err(Status::Unsupp),
    };
    Ok(Plan::of_extents(extents, Effect::Reset, zero))
}

fn append(rules: &Rules, zones: &mut Zones, buffers: &Buffers<'_, '_>, sector: u64) -> Result<Plan, Status> {
    let len = buffers.data_len as u64;
    if (buffers.room as usize) < Tail::Append(0).before_status() || !len.is_multiple_of(SECTOR) {
        return Err(Status::IoErr);
    }
    let (at, place) = zones.append(sector, len / SECTOR)?;
    Ok(Plan::Work {
        work: Work::Write { extent: Extent { offset: at * SECTOR, len }, through: rules.through },
        data: Data::Readable,
        tail: Tail::Append(at),
        effect: Effect::Wrote(place),
    })
}

/// Writes the report: as many zones as there is room for.
#[inline(never)]
fn report(zones: &Zones, buffers: &Buffers<'_, '_>, sector: u64) -> Result<Plan, Status> {
    /// Descriptors that are written together.
    const TOGETHER: usize = 64;
    let entries = buffers.room as usize / REPORT_ENTRY_LEN;
    let (Some(first), Some(most)) = (zones.index_of(sector), entries.checked_sub(1)) else {
        return Err(Status::IoErr);
    };
    let count = (zones.len() - first).min(most).min(REPORT_ZONES_MAX);
    buffers.write(0, &Zones::report_header(count as u64));
    let mut chunk = [[0; REPORT_ENTRY_LEN]; TOGETHER];
    for start in (0..count).step_by(TOGETHER) {
        let now = (count - start).min(TOGETHER);
        for (place, index) in chunk[..now].iter_mut().zip(first + start..) {
            *place = zones.descriptor(index);
        }
        buffers.write((1 + start) * REPORT_ENTRY_LEN, chunk[..now].as_flattened());
    }
    Ok(Plan::Answer { written: ((1 + count) * REPORT_ENTRY_LEN) as u32 })
}
