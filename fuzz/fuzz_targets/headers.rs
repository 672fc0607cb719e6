//! Arbitrary bytes as a frame: allowed sources, questions for neighbours, messages about groups.
#![no_main]

#[path = "../../crates/switch/tests/fuzz_entry/mod.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry::headers(bytes));
