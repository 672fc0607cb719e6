//! Waking someone through an eventfd, ours or a front-end's.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// An eventfd of our own that a thread sleeps on.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes the sleeper; many calls before it wakes count as one.
    pub(super) fn wake(&self) {
        signal(self.0.as_fd());
    }

    /// Takes the wake-ups back; to be called when awake.
    pub(super) fn clear(&self) {
        self.take();
    }

    /// As [`Self::clear`]; whether there were some.
    pub(super) fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0u8; 8]).is_ok()
    }
}

impl From<Wake> for OwnedFd {
    fn from(wake: Wake) -> Self {
        wake.0
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Adds one to an eventfd. A full counter means that the other side has been told already.
pub(super) fn signal(fd: BorrowedFd<'_>) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Whether `fd` is an eventfd, as the call, kick and error descriptors of a vring must be; makes it non-blocking, so
/// that a front-end that lets its counter run full cannot stop a worker.
pub(super) fn accept_eventfd(fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let is_eventfd =
        link.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"anon_inode:[eventfd"));
    is_eventfd
        && rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK))
            .is_ok()
}
