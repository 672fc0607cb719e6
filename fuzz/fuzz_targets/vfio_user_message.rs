//! Any bytes and file descriptors from a vfio-user client: a session ends with a named fault or goes on.
#![no_main]

#[path = "../../crates/transport/tests/vfio_user/fuzz_entry.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_entry::vfio_user_message(input));
