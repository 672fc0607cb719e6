//! A hostile driver on a packed ring.
#![no_main]

#[path = "../../crates/virtqueue/tests/ring_run/mod.rs"]
mod ring_run;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ring_run::run(data, true));
