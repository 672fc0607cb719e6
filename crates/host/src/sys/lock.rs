//! Locks of open files (fcntl(2), "open file description locks"): they go with the descriptor, and so with the process.

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Locks all of `file`, for one opener alone or for any number of readers; does not wait.
///
/// # Errors
/// `WouldBlock`: someone else has it.
pub(crate) fn lock(file: impl AsFd, alone: bool) -> io::Result<()> {
    set(file, if alone { libc::F_WRLCK } else { libc::F_RDLCK })
}

/// Takes the lock off, though others may have the same open file: the kernel's work on it among them.
pub(crate) fn unlock(file: impl AsFd) {
    // Nothing is to be done about an error: the lock goes with the file.
    let _unlocked = set(file, libc::F_UNLCK);
}

fn set(file: impl AsFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeroes are a value of this structure.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the structure is what this command reads; start and length zero mean all of the file.
    check(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
}
