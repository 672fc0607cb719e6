//! The registers of one queue.

use super::registers::NO_VECTOR;
use virtqueue::QueueSize;

/// The areas of a queue, in the order of their registers.
pub(super) const DESC: usize = 0;
pub(super) const DRIVER: usize = 1;
pub(super) const DEVICE: usize = 2;

/// What the driver wants of a queue (`enabled`, `resetting`, addresses), and what the host was asked for
/// (`running`). Steps bring the second after the first.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) size_max: QueueSize,
    pub(super) size: QueueSize,
    pub(super) vector: u16,
    /// Guest addresses as written: descriptor, driver and device area. Legacy: the first is the whole ring.
    pub(super) areas: [u64; 3],
    /// `queue_enable`, or a legacy queue address that is not 0.
    pub(super) enabled: bool,
    /// `queue_reset`.
    pub(super) resetting: bool,
    /// Between the host's `QueueStart` and the end of its `QueueStop`.
    pub(super) running: bool,
    /// The ring that runs is not the one that is wanted now.
    pub(super) stale: bool,
    /// What the last doorbell said.
    pub(super) position: Option<u16>,
}

impl Queue {
    pub(super) fn new(size_max: QueueSize) -> Self {
        Self {
            size_max,
            size: size_max,
            vector: NO_VECTOR,
            areas: [0; 3],
            enabled: false,
            resetting: false,
            running: false,
            stale: false,
            position: None,
        }
    }

    /// Back to what a reset leaves. A ring that runs is no longer wanted.
    pub(super) fn clear(&mut self) {
        let running = self.running;
        *self = Self { running, ..Self::new(self.size_max) };
    }

    /// Whether size and addresses can be written (virtio 1.4 §4.1.4.3.2).
    pub(super) fn is_open(&self) -> bool {
        !self.enabled && !self.running
    }

    /// Whether the driver wants the ring to run.
    pub(super) fn is_wanted(&self) -> bool {
        self.enabled && !self.resetting
    }
}
