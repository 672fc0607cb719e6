//! Arbitrary bytes as a request of a virtio-scsi driver, on a request queue and on the control queue.
#![no_main]

#[path = "../../crates/devices/tests/scsi_entry/mod.rs"]
mod scsi_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scsi_entry::scsi_request(bytes));
