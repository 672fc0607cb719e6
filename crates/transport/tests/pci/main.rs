//! The virtio-PCI function, driven by register accesses as a guest makes them.

mod admin;
mod common_config;
mod config_space;
mod descriptions;
mod fuzz_entry;
mod interrupts;
mod legacy;
mod modern;
mod random;
mod resets;
mod rig;
mod window;
