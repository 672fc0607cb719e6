//! Touching memory that another party can change, truncate or stop sharing at any moment.
//!
//! The data path's only `unsafe` code lives here. The layers, bottom to top:
//!
//! * [`Mapping`]: one shared `mmap` of a file that a front-end handed over. If the owner truncates the
//!   file, the next touch raises SIGBUS; [`sigbus`] answers it by putting anonymous zero pages over that one
//!   mapping and marking it dead. Nobody else notices.
//! * [`GuestMemory`]: the regions of one guest, by guest address; immutable. A change of the memory map
//!   makes a new value that shares the untouched mappings.
//! * [`MemSlice`]: a borrowed, bounds-checked run of bytes. It is `Copy` and can be read, written and copied
//!   into another guest's `MemSlice`, never turned into a `&[u8]`: the bytes may change while one looks.
//! * [`MemArea`]: an owned run with atomic access, for the words of a ring; [`MemTable`]: its entries, with the
//!   checks made once.
//! * [`KeptRuns`]: runs that are used on after their borrow, by a disk or the kernel, with their memory.
//! * `Window`: a guest's memory and bytes of our own in one run of addresses, for a kernel that wants one.
//!
//! **Soundness while the other side writes.** Single words go through atomics. Bulk copies go through
//! [`copy`](mod@copy): inline assembly (x86-64) or relaxed atomics (elsewhere and under Miri), so the
//! compiler can assume nothing about the bytes, and no data race in the sense of the language exists.
// UNSAFETY: the one crate of the data path that may; every block carries its reason.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]

mod addr;
mod area;
pub mod copy;
mod kept;
pub mod kill;
mod log;
mod mapping;
mod memory;
#[cfg(not(miri))]
mod shared;
pub mod sigbus;
mod slice;
#[cfg(not(miri))]
mod stitch;
mod table;
pub mod tally;
pub mod vectored;
#[cfg(not(miri))]
mod window;

pub use addr::{FrontendAddr, GuestAddr, Iova};
pub use area::MemArea;
pub use kept::{KeptRuns, Part};
pub use libc::iovec as IoVec;
pub use log::DirtyLog;
#[cfg(not(miri))]
pub use mapping::FileId;
pub use mapping::{ACCEPTED_FILE_SYSTEMS, MapError, Mapping};
pub use memory::{GuestMemory, Lookup, MemoryFault, REGIONS_MAX, Region, RegionHint};
#[cfg(not(miri))]
pub use shared::shared_file;
pub use slice::{MemSlice, copy_segments, read_segments, total_len, write_segments};
pub use table::{Entries, MemTable};
#[cfg(not(miri))]
pub use window::Window;
