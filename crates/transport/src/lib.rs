//! Ringway: transport.
