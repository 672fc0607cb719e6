//! Zones as bytes: the report that a driver reads, and the records that outlive the program.

use super::zone::{Zone, ZoneShape, ZoneShapeFault, ZoneState, Zones, is_active, is_open};
use thiserror::Error;

/// Bytes of the report's header and of each of its descriptors (virtio 1.3 §5.2.6).
pub(super) const REPORT_ENTRY_LEN: usize = 64;
/// Descriptors of one report at most; the driver asks again from where it ends.
pub(super) const REPORT_ZONES_MAX: usize = 4096;

/// Bytes of a zone's record: sectors up to the write pointer (32 bits), state (8 bits, in virtio's numbers), and 3 zeros; little-endian.
pub const RECORD_LEN: usize = 8;

const TYPE_CONVENTIONAL: u8 = 1;
const TYPE_SEQUENTIAL_WRITE_REQUIRED: u8 = 2;

/// Records that are not those of a disk of this shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordFault {
    /// The disk cannot be divided so.
    #[error(transparent)]
    Shape(#[from] ZoneShapeFault),
    /// Too few or too many bytes.
    #[error("zone records of {len} bytes: {needed} are needed")]
    Len {
        /// Bytes given.
        len: usize,
        /// Bytes of a disk of this shape.
        needed: usize,
    },
    /// A state that the zone cannot be in, or a write pointer that does not go with the state.
    #[error("zone {zone}: state {state} with {written} sectors written cannot be")]
    Zone {
        /// Its index.
        zone: usize,
        /// The state's number.
        state: u8,
        /// Sectors up to the write pointer.
        written: u32,
    },
    /// More zones are open or active than may be.
    #[error("{open} open and {active} active zones: more than the disk's limits")]
    Limits {
        /// Open zones.
        open: u32,
        /// Active zones.
        active: u32,
    },
}

impl Zones {
    /// The record of zone `index`; `None` if there is no such zone.
    pub fn record(&self, index: usize) -> Option<[u8; RECORD_LEN]> {
        let Zone { state, written, .. } = *self.zones.get(index)?;
        let [a, b, c, d] = written.to_le_bytes();
        Some([a, b, c, d, state as u8, 0, 0, 0])
    }

    /// The zones of these records, one behind the other: a disk that goes on as it was. Open zones stay open: the guest may not have
    /// noticed that we were gone.
    ///
    /// # Errors
    /// Records that no disk of this shape has.
    pub fn restore(shape: ZoneShape, records: &[u8]) -> Result<Self, RecordFault> {
        let fresh = Self::new(shape)?;
        let needed = fresh.len() * RECORD_LEN;
        if records.len() != needed {
            return Err(RecordFault::Len { len: records.len(), needed });
        }
        let (records, _) = records.as_chunks::<RECORD_LEN>();
        let zones = records.iter().enumerate().map(|(index, record)| fresh.zone_of(index, *record));
        let zones = Self::of(shape, zones.collect::<Result<_, _>>()?);
        let (open, active) = zones.in_use();
        let exceeds = |count: u32, limit: u32| limit != 0 && count > limit;
        if exceeds(open, shape.max_open_zones) || exceeds(active, shape.max_active_zones) {
            return Err(RecordFault::Limits { open, active });
        }
        Ok(zones)
    }

    fn zone_of(
        &self,
        index: usize,
        [a, b, c, d, number, pad @ ..]: [u8; RECORD_LEN],
    ) -> Result<Zone, RecordFault> {
        let written = u32::from_le_bytes([a, b, c, d]);
        let fault = RecordFault::Zone { zone: index, state: number, written };
        let state = state_of(number).ok_or(fault)?;
        let fits = match state {
            ZoneState::NotWp | ZoneState::Empty => written == 0,
            ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
                written < self.capacity(index)
            }
            ZoneState::ReadOnly | ZoneState::Full | ZoneState::Offline => written <= self.capacity(index),
        };
        let is_conventional = self.zones[index].state == ZoneState::NotWp;
        if fits && is_conventional == (state == ZoneState::NotWp) && pad == [0; 3] {
            Ok(Zone { state, written, epoch: 0 })
        } else {
            Err(fault)
        }
    }

    /// The header of a report with `zones` descriptors.
    pub(super) fn report_header(zones: u64) -> [u8; REPORT_ENTRY_LEN] {
        let mut bytes = [0; REPORT_ENTRY_LEN];
        bytes[..8].copy_from_slice(&zones.to_le_bytes());
        bytes
    }

    /// The descriptor of zone `index`, which is there.
    pub(super) fn descriptor(&self, index: usize) -> [u8; REPORT_ENTRY_LEN] {
        let Zone { state, written, .. } = self.zones[index];
        let (start, capacity) = (self.start(index), self.capacity(index));
        // Where it means nothing, the write pointer is the end of what can be written.
        let has_pointer = is_active(state) || is_open(state) || state == ZoneState::Empty;
        let pointer = start + u64::from(if has_pointer { written } else { capacity });
        let is_conventional = state == ZoneState::NotWp;
        let mut bytes = [0; REPORT_ENTRY_LEN];
        bytes[..8].copy_from_slice(&u64::from(capacity).to_le_bytes());
        bytes[8..16].copy_from_slice(&start.to_le_bytes());
        bytes[16..24].copy_from_slice(&pointer.to_le_bytes());
        bytes[24] = if is_conventional { TYPE_CONVENTIONAL } else { TYPE_SEQUENTIAL_WRITE_REQUIRED };
        bytes[25] = state as u8;
        bytes
    }
}

fn state_of(number: u8) -> Option<ZoneState> {
    const ALL: [ZoneState; 8] = [
        ZoneState::NotWp,
        ZoneState::Empty,
        ZoneState::ImplicitlyOpen,
        ZoneState::ExplicitlyOpen,
        ZoneState::Closed,
        ZoneState::ReadOnly,
        ZoneState::Full,
        ZoneState::Offline,
    ];
    ALL.into_iter().find(|state| *state as u8 == number)
}
