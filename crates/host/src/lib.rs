//! Ringway: host.

pub mod api;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod config;
pub mod demo;
mod embedded;
pub mod eyes;
pub mod inherited;
pub mod plane;
pub mod qmp;
pub mod storage;
mod sys;
pub mod trace;
