//! A run of guest memory that goes on from region to region, seen in one piece.
//!
//! A driver behind an IOMMU has its ring mapped page by page, and the pages lie anywhere. So that whoever works in the ring sees
//! plain memory, a run of addresses is reserved and the pages are mapped there a second time, in order (`mremap` with an old
//! length of zero, which duplicates a shared mapping). That is only done for the areas of rings: buffers are handled in pieces.

use crate::mapping::Mapping;
use crate::{GuestAddr, Region};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap_fixed};
use std::ptr::null_mut;
use std::sync::Arc;

/// Bytes of one run at most: what the largest ring's descriptors need, twice.
const LEN_MAX: usize = 1 << 20;

/// A part of a run, in one region.
#[derive(Clone, Debug)]
struct Piece {
    mapping: Arc<Mapping>,
    /// Where it begins in the mapping.
    offset: usize,
    len: usize,
}

impl Piece {
    fn start(&self) -> *mut u8 {
        self.mapping.start().wrapping_add(self.offset)
    }

    fn is_same(&self, other: &Self) -> bool {
        let place = |piece: &Self| (Arc::as_ptr(&piece.mapping), piece.offset, piece.len);
        place(self) == place(other)
    }
}

/// A run in one piece.
#[derive(Clone, Debug)]
pub(crate) struct Stitched {
    guest: GuestAddr,
    pieces: Vec<Piece>,
    /// The second mapping of them all.
    mapping: Arc<Mapping>,
}

impl Stitched {
    /// `len` bytes at `guest`, if regions have all of them and the pages can be had twice: all but the ends begin and end with a
    /// page, also in this process, and are neither private nor huge.
    pub(crate) fn new(regions: &[Region], guest: GuestAddr, len: usize) -> Option<Self> {
        let pieces = pieces(regions, guest, len)?;
        let page = rustix::param::page_size();
        let skip = pieces.first()?.start().addr() % page;
        let mut at = skip;
        for piece in &pieces {
            if piece.start().addr() % page != at % page || (at != skip && !at.is_multiple_of(page)) {
                return None;
            }
            at += piece.len;
        }
        let mapped = at.next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(null_mut(), mapped, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        // It is unmapped, with whatever is in it by then, when this is dropped.
        let mapping = Arc::new(Mapping::adopt(start.ok()?.cast(), mapped, skip));
        let mut at = 0;
        for piece in &pieces {
            let from = piece.start().map_addr(|addr| addr - addr % page);
            let len = (piece.start().addr() - from.addr() + piece.len).next_multiple_of(page);
            let (reserved, _) = mapping.whole();
            // SAFETY: `at + len <= mapped`: the target lies in our own reservation, which nobody uses yet. An old length of
            // zero leaves the mapping at `from` as it is; `piece` keeps it there.
            unsafe {
                let to = reserved.add(at).cast();
                mremap_fixed(from.cast(), 0, len, MremapFlags::MAYMOVE, to)
            }
            .ok()?;
            at += len;
        }
        Some(Self { guest, pieces, mapping })
    }

    /// Whether this is the run of `len` bytes at `guest`.
    pub(crate) fn is(&self, guest: GuestAddr, len: usize) -> bool {
        self.guest == guest && self.len() == len
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    /// Whether somebody works in it.
    pub(crate) fn is_used(&self) -> bool {
        Arc::strong_count(&self.mapping) > 1
    }

    /// Whether these regions have the very same bytes there.
    pub(crate) fn is_in(&self, regions: &[Region]) -> bool {
        pieces(regions, self.guest, self.len()).is_some_and(|pieces| {
            pieces.len() == self.pieces.len()
                && pieces.iter().zip(&self.pieces).all(|(one, other)| one.is_same(other))
        })
    }

    /// Where the bytes are.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// What `len` bytes at `guest` consist of; `None` if some are in no region that may be written.
fn pieces(regions: &[Region], guest: GuestAddr, len: usize) -> Option<Vec<Piece>> {
    if len == 0 || len > LEN_MAX {
        return None;
    }
    let (mut pieces, mut done) = (Vec::new(), 0);
    while done < len {
        let at = guest.checked_add(done as u64)?;
        let index = regions.partition_point(|region| region.guest() <= at).checked_sub(1)?;
        let region = regions.get(index).filter(|region| !region.is_read_only())?;
        let inside = at.0 - region.guest().0;
        let left = region.len().checked_sub(inside).filter(|left| *left > 0)?;
        let piece_len = left.min((len - done) as u64) as usize;
        let offset = (region.offset() + inside) as usize;
        pieces.push(Piece { mapping: Arc::clone(region.mapping_shared()), offset, len: piece_len });
        done += piece_len;
    }
    Some(pieces)
}
