//! Arbitrary bytes as a list of SCSI commands of two initiators to one logical unit.
#![no_main]

#[path = "../../crates/devices/tests/scsi_entry/mod.rs"]
mod scsi_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scsi_entry::scsi_cdb(bytes));
