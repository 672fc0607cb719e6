//! The virtio-PCI function, pure: the registers that a guest sees of one virtio device (virtio 1.4 §4.1).
//!
//! # Theory of operation
//!
//! A [`Function`] is a state machine between a client that reads and writes registers (a VMM over vfio-user)
//! and a device:
//!
//! ```text
//!            read, write                 next_effect
//!  client -----------------> Function ----------------> host (queues, workers, device)
//!                                ^  <------------------
//!                                |     finish(accepted)
//!                                +---- interrupt, set_config, needs_reset
//! ```

mod description;
mod effect;
pub mod features;
mod function;

pub use description::{
    Description, DescriptionFault, Interface, NotifyKind, QUEUES_MAX, SharedMemory, SrIov, Vendor,
};
pub use effect::{Bar, BarKind, Cause, Effect, Line, QueueStart, Space};
pub use function::Function;
