//! Ringway: host.

pub mod config;
