//! The operator's TOML file: read, checked as a whole, and turned into plain values.

pub mod resolved;

pub use resolved::Config;
