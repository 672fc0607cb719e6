//! The data of discard, write-zeroes and secure-erase requests: lists of ranges.

use super::config::{SECTOR, extents_max, sectors_max};
use super::request::RequestType;
use super::rules::Rules;
use super::status::Status;
use crate::storage::{EXTENTS_MAX, Extent, Extents, Limits};
use guestmem::{MemSlice, read_segments};
use virtqueue::Endian;

/// Bytes of `struct virtio_blk_discard_write_zeroes`.
const SEGMENT_LEN: usize = 16;
/// `flags`: the sectors' place may be given up.
const UNMAP: u32 = 1;

/// The ranges of a request, validated.
#[derive(Debug)]
pub(super) struct Ranges {
    pub(super) extents: Extents,
    /// Every range may be unmapped.
    pub(super) unmap: bool,
}

/// One range as the driver wrote it.
struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Segment {
    fn parse(bytes: &[u8; SEGMENT_LEN], endian: Endian) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = *bytes;
        let (sector, sectors) = ([s0, s1, s2, s3, s4, s5, s6, s7], [n0, n1, n2, n3]);
        match endian {
            Endian::Little => Self {
                sector: u64::from_le_bytes(sector),
                sectors: u32::from_le_bytes(sectors),
                flags: u32::from_le_bytes(flags),
            },
            Endian::Big => Self {
                sector: u64::from_be_bytes(sector),
                sectors: u32::from_be_bytes(sectors),
                flags: u32::from_be_bytes(flags),
            },
        }
    }
}

/// Reads and validates the list of `len` bytes that begins at position `skip` of `readable`.
///
/// A flag that `kind` does not know is [`Status::Unsupp`], whatever else is wrong (virtio 1.3 §5.2.6.2); a list of no ranges or of too
/// many, a range that is too long or not on the disk, is [`Status::IoErr`].
// Its private copy of the list is too large for everybody's stack.
#[inline(never)]
pub(super) fn read(
    rules: &Rules,
    kind: RequestType,
    limits: &Limits,
    readable: &[MemSlice<'_>],
    skip: usize,
    len: usize,
) -> Result<Ranges, Status> {
    let most = extents_max(limits) as usize * SEGMENT_LEN;
    if len == 0 || !len.is_multiple_of(SEGMENT_LEN) || len > most {
        return Err(Status::IoErr);
    }
    let mut bytes = [0; EXTENTS_MAX * SEGMENT_LEN];
    let bytes = &mut bytes[..len];
    read_segments(readable, skip, bytes);
    let segments = || bytes.as_chunks().0.iter().map(|segment| Segment::parse(segment, rules.endian));

    let known = if kind == RequestType::WriteZeroes { UNMAP } else { 0 };
    if segments().any(|segment| segment.flags & !known != 0) {
        return Err(Status::Unsupp);
    }
    let mut extents = Extents::new();
    for Segment { sector, sectors, .. } in segments() {
        let offset = sector.checked_mul(SECTOR).ok_or(Status::IoErr)?;
        let extent = Extent { offset, len: u64::from(sectors) * SECTOR };
        let fits = sectors <= sectors_max(limits) && extent.is_within(rules.capacity);
        if !fits || !extents.push(extent) {
            return Err(Status::IoErr);
        }
    }
    Ok(Ranges { extents, unmap: segments().all(|segment| segment.flags & UNMAP != 0) })
}
