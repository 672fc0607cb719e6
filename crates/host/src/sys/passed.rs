//! Descriptors that were passed to the program by number.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Another descriptor, closed on exec, for what was passed to the program as descriptor `number`. The one that was passed
/// stays open.
///
/// # Errors
/// `InvalidInput` for a standard stream; the kernel's: not open.
pub(crate) fn passed(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "0 to 2 are the standard streams"));
    }
    // SAFETY: the number is not -1 and only lives for the next call, which fails if nothing is open under it.
    let passed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(passed, 3)?)
}
