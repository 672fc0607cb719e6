//! Virtqueues: rings in shared memory on one side, validated descriptor chains on the other.
//!
//! Both ring forms (split, packed), both layouts (separate areas of virtio 1.x, the contiguous one of 0.9 in
//! either byte order) and both sides: [`DeviceQueue`] pops chains and completes them, [`DriverQueue`] adds
//! buffers and collects the used ones (guests of our own, tests, benches).
//!
//! **Theory of operation.** The other side may write any word at any time. So each ring word and each
//! descriptor is loaded exactly once, by an atomic load, into a private copy; the copy is validated and used.
//! A [`Chain`] exists only after validation: bounded length, readable before writable, every byte inside the
//! guest's memory, total length below 4 GiB. Its buffers are [`MemSlice`](guestmem::MemSlice)s borrowed from
//! the memory they were validated against, kept in one flat list per [`Burst`], so that nothing is allocated
//! once the burst is warm. A violated rule is a [`DriverFault`] and retires the queue until it is made anew.
//!
//! **Cost.** A burst loads the available index once, publishes used entries with one store and decides about
//! the call with one fence. Ring words are `guestmem::MemArea` accesses without any translation; only
//! buffers are translated, with the last region remembered.
//!
//! Receive buffers that are one descriptor each are filled without a burst: [`DeviceQueue::fill`].
//!
//! A device that completes out of order and is to survive a kill records what is in flight: [`QueueSetup::in_flight`].
//!
//! **Limits.** A queue is owned by one thread at a time. Each ring area is one run of guest addresses, in one region or page by page in several. A chain has at
//! most [`CHAIN_DESCRIPTORS_MAX`] descriptors, indirect ones counted, and in the ring itself never more than
//! the queue has. One pop walks a few thousand descriptors at most, whatever the driver offers.

mod burst;
mod descriptor;
mod detached;
mod device;
mod driver;
mod event;
mod fault;
mod fill;
mod in_flight;
mod in_order;
mod noted;
mod packed;
mod packed_driver;
mod resume;
mod setup;
mod split;
mod split_driver;
mod walk;
pub mod wire;

pub use burst::{Burst, Chain};
pub use detached::{Detached, ForeignChain};
pub use device::DeviceQueue;
pub use driver::{DriverQueue, IndirectArea, QueueFull};
pub use fault::{DeviceFault, DriverFault};
pub use in_flight::{InFlightFault, InFlightLog};
pub use setup::{Endian, QueueSetup, QueueSize, RingArea, RingFeatures, RingLog, RingState, SetupFault};
pub use walk::{CHAIN_DESCRIPTORS_MAX, SEGMENTS_MAX};
