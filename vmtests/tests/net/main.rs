//! Ringway and real network peers.
fn main() {}
