//! Why a relayed ring ends.

use super::CHAIN_LEN_MAX;
use crate::vfio_user::Command;
use guestmem::GuestAddr;
use thiserror::Error;
use virtqueue::{DeviceFault, DriverFault};

/// What retires a ring that lies in memory reached by messages. The session goes on; the driver may reset the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum RelayFault {
    #[error("{0}")]
    Driver(#[from] DriverFault),
    #[error("a chain of {len} bytes; accepted by messages are up to {CHAIN_LEN_MAX}")]
    ChainLen { len: u64 },
    #[error("{len} bytes at {address}: in no map of the client's that allows to {}", if *.write { "write" } else { "read" })]
    Range { address: GuestAddr, len: usize, write: bool },
    #[error("{command}: the client refused {len} bytes at {address} (errno {errno})")]
    Refused { command: Command, address: GuestAddr, len: usize, errno: u32 },
    #[error("our own copy of the ring: {0}")]
    Copy(#[from] DeviceFault),
}
