//! Ringway: real peers.
