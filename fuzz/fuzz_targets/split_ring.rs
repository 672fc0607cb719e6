//! A hostile driver on a split ring.
#![no_main]

#[path = "../../crates/virtqueue/tests/ring_run/mod.rs"]
mod ring_run;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ring_run::run(data, false));
