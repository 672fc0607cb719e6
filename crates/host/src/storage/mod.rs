//! The disks behind devices: what a disk is ([`Image`]), and who carries out work on it ([`Engine`]).
//!
//! ```text
//! worker -> Engine::submit -> Engine::send -> (sleeps on Engine::fd) -> Engine::reap -> Outcome
//!               |                |
//!               |     uring: one ring of io_uring for a queue         \  both walk a Job (job.rs)
//!               |     threads: a few threads that may block           /  operation by operation
//!               |     inline: memory, done at once
//!            Image: a file or block device, QCOW2, memory, nothing; opened and locked once, shared by queues
//! ```
//!
//! Data stays in the guest's memory unless the disk cannot use it there. An engine never blocks its caller, and keeps the memory of
//! what is in flight by itself. An error is one request's error; the next one is tried as if nothing had been.

mod bell;
pub(crate) mod buffers;
mod engine;
mod fault;
mod histogram;
mod image;
mod inline;
mod job;
mod limit;
mod memory;
#[cfg(test)]
pub(crate) mod powercut;
mod qcow2;
mod qcow2_header;
mod ranges;
mod raw;
mod requests;
mod threads;
mod uring;

#[cfg(test)]
mod tests;

pub use engine::{Abort, Engine, EngineKind, Full};
pub use fault::{Fault, FaultPlan};
pub use histogram::Histogram;
pub use image::{Format, Image, ImageError, Options};
pub use limit::{Bucket, Limit, Rate};
pub use qcow2_header::HeaderFault;

use devices::storage::IoFault;
use std::io;

/// What a guest is told of an error of the kernel's.
fn fault_of(error: &io::Error) -> IoFault {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => IoFault::NoSpace,
        Some(libc::EROFS | libc::EPERM | libc::EACCES | libc::EBADF) => IoFault::ReadOnly,
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => IoFault::Unsupported,
        Some(libc::ECANCELED) => IoFault::Aborted,
        Some(libc::EFBIG) => IoFault::OutOfRange,
        Some(_) => IoFault::Medium,
        None => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoFault::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => IoFault::ReadOnly,
            io::ErrorKind::Unsupported => IoFault::Unsupported,
            io::ErrorKind::UnexpectedEof => IoFault::OutOfRange,
            _ => IoFault::Medium,
        },
    }
}
