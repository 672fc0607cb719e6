//! What is captured, and the bounded queue between the data path and its reader.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Names of ports; empty: all.
    pub ports: Vec<String>,
    /// Bytes kept of each frame; 0: all.
    pub snap_len: u32,
    /// Expression that frames must match; empty: all.
    pub filter: String,
    /// Only frames that are dropped.
    pub drops_only: bool,
}

/// Which way a frame goes, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port into the switch.
    Ingress,
    /// From the switch to the port.
    Egress,
}

/// A running capture.
#[derive(Debug, Default)]
pub struct CaptureStream {
    /// Frames that did not fit the queue.
    missed: AtomicU64,
}

impl CaptureStream {
    /// Frames that were not captured because the reader was too slow.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }
}
