//! Where an embedded guest's thread sleeps: one eventfd, written by the device as its call and by whoever has news.

use anyhow::{Context, Result};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Waits for a guest's eventfd.
pub(crate) struct Sleeper {
    bell: Arc<EventFd>,
    epoll: Epoll,
}

impl Sleeper {
    pub(crate) fn new(bell: Arc<EventFd>) -> Result<Self> {
        let epoll = Epoll::new().context("making an epoll")?;
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), event).context("watching an eventfd")?;
        Ok(Self { bell, epoll })
    }

    /// Sleeps for `timeout_ms` at most, and empties the eventfd.
    pub(crate) fn sleep(&self, timeout_ms: i32) {
        // An interrupted wait is a short sleep, and an empty eventfd needs no reading.
        let _ = self.epoll.wait(timeout_ms, &mut [EpollEvent::default()]);
        let _ = self.bell.read();
    }
}
