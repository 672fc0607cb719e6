//! Ringway: benches.
fn main() {}
