//! Handing shared memory to the kernel without a copy of our own: `writev` and `readv`, and for files with a position `preadv`
//! and `pwritev2`.
//!
//! The kernel copies with faults handled (`EFAULT` instead of SIGBUS), so a truncated file shows as an error.

use crate::{KeptRuns, MemSlice, Part};
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

/// Runs of one call on a file with positions at most (`IOV_MAX`); what is longer comes back short.
const RUNS_AT_MAX: usize = 1024;

/// Reads into the runs of `part` from byte `offset` of `file` on; returns how many bytes came, which may be fewer than there is room for.
///
/// # Errors
/// What `preadv` says; `EFAULT`: the guest's memory is gone. `InvalidInput`: the offset is past what a file can have.
pub fn read_at(file: impl AsFd, offset: u64, kept: &KeptRuns, part: Part) -> io::Result<usize> {
    let (runs, offset) = at(kept, part, offset)?;
    // SAFETY: every run lies in memory that `kept` keeps mapped and that tolerates writes from anywhere.
    let read =
        unsafe { libc::preadv(file.as_fd().as_raw_fd(), runs.as_ptr(), runs.len() as libc::c_int, offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Writes the runs of `part` to `file` from byte `offset` on; returns how many bytes were taken, which may be fewer than there are.
/// `through`: the bytes are on stable storage when this returns (`RWF_DSYNC`).
///
/// # Errors
/// As [`read_at`], of `pwritev2`.
pub fn write_at(
    file: impl AsFd,
    offset: u64,
    kept: &KeptRuns,
    part: Part,
    through: bool,
) -> io::Result<usize> {
    let (runs, offset) = at(kept, part, offset)?;
    let flags = if through { libc::RWF_DSYNC } else { 0 };
    // SAFETY: every run lies in memory that `kept` keeps mapped; the kernel only reads it.
    let written = unsafe {
        libc::pwritev2(file.as_fd().as_raw_fd(), runs.as_ptr(), runs.len() as libc::c_int, offset, flags)
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// The runs that one call takes, and the offset as the kernel wants it.
fn at(kept: &KeptRuns, part: Part, offset: u64) -> io::Result<(&[libc::iovec], libc::off_t)> {
    let runs = kept.iovecs(part);
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((&runs[..runs.len().min(RUNS_AT_MAX)], offset))
}
