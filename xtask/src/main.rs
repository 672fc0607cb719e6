//! Ringway: the project's own commands.
fn main() {}
