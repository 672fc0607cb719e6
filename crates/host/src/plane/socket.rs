//! One connection's bytes and file descriptors, in and out.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// File descriptors taken from one message at most; the kernel closes the rest (`SCM_MAX_FD` is 253).
const FDS_MAX: usize = 64;

/// How long a front-end may leave a reply unread before it counts as dead.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives what is there: bytes into `buffer`, descriptors as owned values (close-on-exec). `Ok((0, _))`
/// means that the other side closed.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

/// Sends all of `bytes`, `fds` with the first of them; waits at most [`REPLY_TIMEOUT`] in all for room, and not at all once `stop` is readable.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[Arc<OwnedFd>], stop: impl AsFd) -> io::Result<()> {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    let mut rest = bytes;
    while !rest.is_empty() {
        let passed = if rest.len() == bytes.len() { fds } else { &[] };
        match send_some(&socket, rest, passed) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::AGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                let mut wait = [PollFd::new(&socket, PollFlags::OUT), PollFd::new(&stop, PollFlags::IN)];
                match poll(&mut wait, Some(&timeout)) {
                    Ok(0) => {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the front-end does not read its replies",
                        ));
                    }
                    Ok(_) if !wait[1].revents().is_empty() => return Err(io::ErrorKind::Interrupted.into()),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sends as much as there is room for, and the descriptors with its first byte.
fn send_some(socket: impl AsFd, bytes: &[u8], fds: &[Arc<OwnedFd>]) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().take(FDS_MAX).map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}
