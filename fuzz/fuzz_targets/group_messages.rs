//! Arbitrary messages of IGMP and MLD from several ports, as time passes.
#![no_main]

#[path = "../../crates/switch/tests/fuzz_entry/mod.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry::group_messages(bytes));
