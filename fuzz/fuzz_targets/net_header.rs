//! Arbitrary bytes as a chain that a driver sends: header, frame, and whatever software makes of them.
#![no_main]

#[path = "../../crates/devices/tests/fuzz_entry/mod.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry::net_header(bytes));
