//! Arbitrary bytes as a list of requests on the control queue.
#![no_main]

#[path = "../../crates/devices/tests/fuzz_entry/mod.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry::net_control(bytes));
