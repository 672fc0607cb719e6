//! Arbitrary bytes as a list of requests to a block device.
#![no_main]

#[path = "../../crates/devices/tests/fuzz_entry/mod.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry::blk_request(bytes));
