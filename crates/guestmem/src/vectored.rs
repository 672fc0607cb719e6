//! Handing shared memory to the kernel without a copy of our own: `writev` and `readv`.
//!
//! The kernel copies with faults handled (`EFAULT` instead of SIGBUS), so a truncated file shows as an error.

use crate::MemSlice;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Runs passed in one call at most; longer lists are refused with `InvalidInput`.
pub const RUNS_MAX: usize = 32;

/// Writes `head` and then the bytes of `segments` in one system call; returns how many bytes were taken.
/// `segments` may hold at most [`RUNS_MAX`] - 1 runs.
pub fn write(file: impl AsFd, head: &[u8], segments: &[MemSlice<'_>]) -> io::Result<usize> {
    let mut runs = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RUNS_MAX];
    let count = 1 + segments.len();
    let Some(used) = runs.get_mut(..count) else { return Err(io::ErrorKind::InvalidInput.into()) };
    used[0] = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
    for (run, segment) in used[1..].iter_mut().zip(segments) {
        *run = libc::iovec { iov_base: segment.as_ptr().cast(), iov_len: segment.len() };
    }
    // SAFETY: every run lies in memory that is borrowed for this call; the kernel only reads it.
    let written = unsafe { libc::writev(file.as_fd().as_raw_fd(), used.as_ptr(), count as libc::c_int) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Reads into `head` and then into `segments` in one system call; returns how many bytes came.
/// `segments` may hold at most [`RUNS_MAX`] - 1 runs.
pub fn read(file: impl AsFd, head: &mut [u8], segments: &[MemSlice<'_>]) -> io::Result<usize> {
    let mut runs = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RUNS_MAX];
    let count = 1 + segments.len();
    let Some(used) = runs.get_mut(..count) else { return Err(io::ErrorKind::InvalidInput.into()) };
    used[0] = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() };
    for (run, segment) in used[1..].iter_mut().zip(segments) {
        *run = libc::iovec { iov_base: segment.as_ptr().cast(), iov_len: segment.len() };
    }
    // SAFETY: every run lies in memory that is borrowed for this call: `head` exclusively, the segments
    // shared memory that tolerates writes from anywhere.
    let read = unsafe { libc::readv(file.as_fd().as_raw_fd(), used.as_ptr(), count as libc::c_int) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
