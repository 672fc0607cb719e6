//! The vfio-user session, driven by bytes as a client would send them.

mod bring_up;
mod client;
mod dma;
mod fuzz_entry;
mod garbage;
mod interrupts;
mod memory;
mod messages;
mod qemu_order;
mod relay;
mod wire;
