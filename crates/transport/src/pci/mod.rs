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
//!
//! * **Registers.** An access meets a block (`layout.rs`): PCI configuration space (`config_space.rs`: bytes
//!   with masks, made by `capabilities.rs`), the MSI-X table (`msix.rs`), the modern registers
//!   (`common_config.rs`) or the legacy ones (`legacy_header.rs`). Both interfaces show one state
//!   (`registers.rs`, `queue.rs`). On a transitional function the interface that first changes something
//!   counts until the next reset; the other one's writes are ignored, but for a reset.
//! * **Effects.** What an access asks of the device comes out of [`Function::next_effect`], one at a time
//!   (`steps.rs`). The list that waits is bounded by the number of queues, whatever a driver writes.
//! * **Features.** A set is refused here if it has bits that were not offered or lacks `VERSION_1`; otherwise
//!   [`Effect::Features`] asks the device, and `FEATURES_OK` can be read when the answer is there. A legacy
//!   driver never asks: its set is fixed with `DRIVER_OK`, or with its first doorbell.
//! * **Queues.** A ring runs from [`Effect::QueueStart`] to the end of [`Effect::QueueStop`]. Its addresses
//!   are the driver's: the host looks them up, and refuses a ring outside memory.
//! * **Resets.** The registers are fresh at once; the status reads as 0 when [`Effect::Reset`] is finished,
//!   and until then everything else that a driver writes to the device is ignored.
//! * **Administration.** With [`Description::admin_queue`] the last queue takes commands for the device itself
//!   (`admin.rs`, `parts.rs`): the host hands their bytes to [`Function::admin_command`].
//! * **Interrupts.** [`Function::interrupt`] keeps the ISR status and says where to signal. Without INTx a
//!   worker may signal [`Function::call_line`] itself, until [`Effect::CallsChanged`].
//!
//! # What the client's session does
//!
//! Answer a read after the effects of earlier writes are finished: a driver reads back `FEATURES_OK` at once.
//! Only [`Effect::Reset`] and [`Effect::QueueStop`] may take longer, for a modern driver polls their
//! registers; a legacy one does not, so hold the answer to its write until they are finished.
//!
//! ```
//! # use transport::pci::{Description, Effect, Function, Interface, NotifyKind, Space};
//! # use virtqueue::{Endian, QueueSize};
//! # let description = Description {
//! #     device_type: 4, class: 0xff_0000, interface: Interface::Modern, notify: vec![NotifyKind::Mmio],
//! #     mapped: false, notification_data: false, msix: true, features: 0,
//! #     queue_size_max: vec![QueueSize::MAX], admin_queue: None, config: vec![], endian: Endian::Little,
//! #     shared_memory: vec![], vendor: None, sr_iov: None,
//! # };
//! # fn carry_out(_: Effect) -> bool { true }
//! let mut function = Function::new(description)?;
//! // The client reads: the vendor id of every virtio device.
//! let mut id = [0; 2];
//! function.read(Space::Config, 0, &mut id);
//! assert_eq!(id, [0xf4, 0x1a]);
//! // The client writes: 0 to `device_status`, a reset.
//! function.write(Space::Bar(4), 0x14, &[0]);
//! while let Some(effect) = function.next_effect() {
//!     let accepted = carry_out(effect);
//!     function.finish(accepted);
//! }
//! # Ok::<(), transport::pci::DescriptionFault>(())
//! ```

mod admin;
mod capabilities;
mod common_config;
mod config_space;
mod description;
mod effect;
pub mod features;
mod function;
mod layout;
mod legacy_header;
mod msix;
mod parts;
mod queue;
mod registers;
mod steps;

pub use admin::ADMIN_READABLE_MAX;
pub use description::{
    CONFIG_SIZE_MAX, Description, DescriptionFault, Interface, LEGACY_CONFIG_SIZE_MAX, NotifyKind,
    QUEUES_MAX, SharedMemory, SrIov, TOTAL_VFS_MAX, Vendor,
};
pub use effect::{Bar, BarKind, Cause, Doorbell, Effect, Line, QueueStart, Space};
pub use function::Function;
