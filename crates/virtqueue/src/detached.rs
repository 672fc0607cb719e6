//! Chains whose buffers are used on after their burst is gone: by the kernel, for a network card or a disk.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use thiserror::Error;

/// A chain without its buffers, to be given back through `DeviceQueue::complete_detached` or `DeviceQueue::complete_written` exactly
/// once, in any order.
///
/// It borrows nothing: whoever uses the buffers on keeps their memory mapped by himself. It belongs to the one queue that it
/// was popped from; a queue that goes on in the same ring, after a change of the memory map for example, is another one.
#[must_use = "a chain that is dropped is lost to the driver: complete it"]
#[derive(Debug, PartialEq, Eq)]
pub struct Detached {
    pub(crate) id: u16,
    pub(crate) slots: u16,
    pub(crate) sequence: u16,
    pub(crate) writable_len: u32,
    pub(crate) queue: Identity,
}

impl Detached {
    /// Index of the head descriptor (split) or buffer id (packed): the driver's name for the chain.
    pub fn id(&self) -> u16 {
        self.id
    }
}

/// A detached chain was given to a queue that it was not popped from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the chain belongs to another queue")]
pub struct ForeignChain;

/// Tells a queue from all others of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64);

impl Identity {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}
