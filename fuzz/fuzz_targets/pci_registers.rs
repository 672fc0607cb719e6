//! Any register accesses to any virtio-PCI function, with a host that checks what it is asked.
#![no_main]

#[path = "../../crates/transport/tests/pci/fuzz_entry/mod.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry::pci_registers(bytes));
