//! Buffers that are found, filled and given back in one step: what nearly every receive queue consists of.
//!
//! **Theory of operation.** A look copies and validates the next descriptors, by the rules of a [`Walk`](crate::walk::Walk), as long
//! as each is a chain by itself that the device may write, in one piece of memory; it moves nothing on. Then each buffer is handed
//! out, one after the other, and in the end the used entries of those that were filled are written and the ring moves on by as many. Buffers that were looked at and not filled
//! stay where they are and are read anew when they are popped. So a chain of any other kind, and a faulty one, is left for
//! [`DeviceQueue::pop`](crate::DeviceQueue::pop), which knows all rules and the names of their violations.

use crate::descriptor::{Descriptor, INDIRECT, NEXT, WRITE};
use guestmem::{Lookup, MemSlice, RegionHint};

/// Buffers filled in one step at most.
pub(crate) const FILL_MAX: usize = 32;

/// A buffer that was looked at: a chain of one descriptor, writable, in one piece.
#[derive(Clone, Copy)]
pub(crate) struct Ready<'m> {
    pub(crate) buffer: MemSlice<'m>,
    /// As [`Chain::id`](crate::Chain::id).
    pub(crate) id: u16,
    /// Bytes written into it, once it is filled.
    pub(crate) written: u32,
}

impl Ready<'_> {
    pub(crate) const NONE: Self = Self { buffer: MemSlice::empty(), id: 0, written: 0 };
}

/// The bytes of a chain that is `descriptor` alone, for the device to write, in one piece of memory. `None`: the chain is another one,
/// or faulty.
#[inline(always)]
pub(crate) fn writable<'m>(
    lookup: &mut Lookup<'m>,
    hint: &mut RegionHint,
    descriptor: &Descriptor,
) -> Option<MemSlice<'m>> {
    if descriptor.flags & (NEXT | WRITE | INDIRECT) != WRITE || descriptor.len == 0 {
        return None;
    }
    let buffer = lookup.whole(descriptor.addr, descriptor.len as usize, hint)?;
    buffer.prefetch(true);
    Some(buffer)
}
