//! What a session is made from.

use crate::pci::{Description, DescriptionFault};
use std::os::fd::OwnedFd;
use thiserror::Error;

/// What the server offers to one client.
#[derive(Debug)]
pub struct Offer {
    /// The function. Device features are the lower 64 of the driver's 128.
    pub function: Description,
    /// An eventfd for each queue (the administration queue last): its kick, which clients can have written by the kernel.
    pub kicks: Vec<OwnedFd>,
    /// An eventfd that the host polls, clears and follows with [`Session::queue_interrupt`](super::Session::queue_interrupt):
    /// the call of queues whose interrupt is INTx.
    pub interrupt: OwnedFd,
    /// The file that the client maps instead of the notify page, if the function's description says so; its bytes are those
    /// of the BAR, so it reaches to the end of the page. A client dies of one that is too short.
    pub region_file: Option<OwnedFd>,
    /// Queues whose device never writes, as [`DeviceQueue::readable_only`](virtqueue::DeviceQueue::readable_only) has it.
    pub readable_only: Vec<u16>,
}

/// Why there can be no such session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum OfferFault {
    #[error(transparent)]
    Function(#[from] DescriptionFault),
    #[error("features {bits:#x}: accepted are the bits below 64")]
    Features { bits: u128 },
    #[error("{count} kicks for {queues} queues")]
    Kicks { count: usize, queues: usize },
    #[error("a mapped notify page and its file: accepted are both or none")]
    RegionFile,
}

impl Offer {
    pub(super) fn check(&self) -> Result<(), OfferFault> {
        let Description { features, queue_size_max, admin_queue, mapped, .. } = &self.function;
        let bits = features >> 64 << 64;
        if bits != 0 {
            return Err(OfferFault::Features { bits });
        }
        let queues = queue_size_max.len() + usize::from(admin_queue.is_some());
        let count = self.kicks.len();
        if count != queues {
            return Err(OfferFault::Kicks { count, queues });
        }
        if *mapped != self.region_file.is_some() {
            return Err(OfferFault::RegionFile);
        }
        Ok(())
    }
}
