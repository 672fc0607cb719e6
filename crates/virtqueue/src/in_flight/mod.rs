//! Which chains were popped and are not completed, in memory that outlives the back-end: the front-end keeps it, and gives it to
//! the next back-end after this one was killed (vhost-user, "Inflight I/O tracking").
//!
//! A device that completes in the order of popping finds its place in the ring itself (`resume`). One that does not cannot: a
//! split ring's available entries, and a packed ring's descriptors, are overwritten around chains that take longer. So each chain
//! is noted before it is handed out and crossed off once the driver can see that it was used, in an order of stores that leaves
//! the truth wherever it ends. [`SplitRecord`] and [`PackedRecord`] are the two layouts of the specification, with that order.
//!
//! **Theory of operation.** A queue whose setup has an [`InFlightLog`] first *recovers*: it settles what its predecessor was in
//! the midst of, and takes what is in flight into private memory, oldest first. Its ring then stands where the oldest of these
//! stood, and the next pops take them, from there instead of from the ring, until the ring's own entries are reached. From the
//! recovery on the record is only written: what is needed to write it is kept privately, so whoever else writes into it can lead
//! astray nothing but the next recovery, which believes nothing.
//!
//! **Cost.** Split: two words for a chain that is popped, three for one that is completed, one for a flush. Packed: two for each
//! descriptor and three for the chain that is popped, six for one that is completed. A queue without a record does not look for
//! one while it pops and completes.

mod packed;
mod split;

pub(crate) use packed::PackedRecord;
pub(crate) use split::SplitRecord;

use crate::setup::QueueSize;
use guestmem::MemArea;
use std::fmt;
use thiserror::Error;

/// The layout's version; 0 is memory that was never used.
const VERSION: u16 = 1;

/// Bytes of the header, offsets in it, and bytes of an entry (`QueueRegionSplit`, `QueueRegionPacked`). The words are in this
/// machine's byte order.
const FEATURES: usize = 0;
const VERSION_AT: usize = 8;
const ENTRIES_AT: usize = 10;

/// Regions of queues follow each other at multiples of so many bytes.
const ALIGN: usize = 64;

/// Where the record of one queue lies: a region of the memory that `SET_INFLIGHT_FD` hands over.
#[derive(Clone)]
pub struct InFlightLog {
    area: MemArea,
}

impl fmt::Debug for InFlightLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InFlightLog({} bytes)", self.area.len())
    }
}

impl InFlightLog {
    /// Bytes of one queue's region, in which the next one's begins: header and entries, up to a multiple of 64 (as DPDK has it,
    /// and with it SPDK; the specification leaves the distance open).
    pub fn region_size(size: QueueSize, packed: bool) -> usize {
        let (header, entry) = if packed {
            (packed::HEADER_SIZE, packed::ENTRY_SIZE)
        } else {
            (split::HEADER_SIZE, split::ENTRY_SIZE)
        };
        (header + entry * usize::from(size.get())).next_multiple_of(ALIGN)
    }

    /// The record in `area`, which its queue checks when it starts.
    pub fn new(area: MemArea) -> Self {
        Self { area }
    }

    /// The header's first words, and how many entries of the layout's size the area has room for.
    fn begin(&self, size: u16, header: usize, entry: usize) -> Result<Begin, InFlightFault> {
        let (len, need) = (self.area.len(), header + entry * usize::from(size));
        if len < need || !self.area.is_aligned(8) {
            return Err(InFlightFault::Area { len, need });
        }
        let order = std::sync::atomic::Ordering::Acquire;
        let version = self.area.load_u16(VERSION_AT, order);
        let (features, entries) =
            (self.area.load_u64(FEATURES, order), self.area.load_u16(ENTRIES_AT, order));
        match version {
            0 => return Ok(Begin::Fresh),
            VERSION => {}
            _ => return Err(InFlightFault::Version { version }),
        }
        if features != 0 {
            return Err(InFlightFault::Features { features });
        }
        if entries != size {
            return Err(InFlightFault::Entries { entries, size });
        }
        Ok(Begin::Used)
    }
}

/// What a record is found as.
enum Begin {
    /// Never used.
    Fresh,
    /// Left by a back-end.
    Used,
}

/// Why a record cannot be used: it is none that a back-end left for this queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InFlightFault {
    /// Too small, or at an odd place of its file.
    #[error("its area has {len} bytes; accepted are {need} or more, 8-aligned")]
    Area {
        /// Its length, in bytes.
        len: usize,
        /// What a queue of this size needs, in bytes.
        need: usize,
    },
    /// A layout that is not known.
    #[error("version {version}; accepted are 0 (never used) and 1")]
    Version {
        /// The version found.
        version: u16,
    },
    /// Features of the layout that are not known.
    #[error("features {features:#x}; accepted are none")]
    Features {
        /// The bits found.
        features: u64,
    },
    /// It was begun by a queue of another size.
    #[error("{entries} entries; accepted are as many as the queue has, {size}")]
    Entries {
        /// The number found.
        entries: u16,
        /// Entries of the queue.
        size: u16,
    },
    /// The used index that it knows is no recent one of the ring.
    #[error(
        "used index {recorded} where the ring is at {ring}; accepted are as many before it as the queue has entries"
    )]
    UsedIndex {
        /// What the record says.
        recorded: u16,
        /// What the ring says. For a packed ring: its size.
        ring: u16,
    },
    /// A list leads to no entry, or twice to the same.
    #[error("entry {index} in a list; accepted is each entry once")]
    Link {
        /// Where the list leads.
        index: u16,
    },
    /// A chain in flight that is none.
    #[error(
        "the chain at entry {head} has {descriptors} descriptors; accepted is a chain that ends with the last of them"
    )]
    Chain {
        /// Its first entry.
        head: u16,
        /// Descriptors that the record gives it.
        descriptors: u16,
    },
    /// Entries that are neither free nor of a chain in flight.
    #[error("{free} entries are free and {in_flight} in flight; accepted are {size} in all")]
    Lost {
        /// Free entries.
        free: u16,
        /// Entries of chains in flight.
        in_flight: u16,
        /// Entries of the queue.
        size: u16,
    },
}
