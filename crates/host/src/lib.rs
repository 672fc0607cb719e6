//! Ringway: host.

pub mod api;
pub mod capture;
pub mod cli;
pub mod config;
pub mod demo;
pub mod plane;
mod sys;
