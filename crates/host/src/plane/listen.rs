//! Where a port's front-end is met: a socket we listen on, or one we connect to again and again.

use super::Stopping;
use crate::config::resolved::SocketRole;
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Time between two attempts to connect.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Our end of a port's socket path.
pub(super) enum Endpoint {
    /// We listen; the file is ours and goes when this is dropped.
    Server {
        listener: UnixListener,
        path: PathBuf,
        /// Device and inode of the file, if we made it.
        made: Option<(u64, u64)>,
    },
    /// The front-end listens.
    Client { path: PathBuf },
}

impl Endpoint {
    /// Binds the socket (server) or just remembers the path (client). A socket file that nobody answers on is left over
    /// from an earlier run and replaced.
    pub(super) fn open(path: &Path, role: SocketRole) -> anyhow::Result<Self> {
        if role == SocketRole::Client {
            return Ok(Self::Client { path: path.into() });
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                bail!(
                    "{} exists and is no socket; accepted: a path that is free or a socket",
                    path.display()
                );
            }
            match connect(path) {
                Ok(_) | Err(Errno::AGAIN) => bail!("{} is served by another process", path.display()),
                Err(_) => {}
            }
            std::fs::remove_file(path)
                .with_context(|| format!("removing the stale socket {}", path.display()))?;
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("binding the socket {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let made = std::fs::symlink_metadata(path).ok().map(|made| (made.dev(), made.ino()));
        Ok(Self::Server { listener, path: path.into(), made })
    }

    /// A socket that listens on `path` already, made by whoever started the program; its file is theirs.
    pub(super) fn inherited(listener: OwnedFd, path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::from(listener);
        let bound = listener.local_addr()?;
        if bound.as_pathname() != Some(path) {
            bail!(
                "the socket that was passed for it listens on {bound:?}; accepted: {}, as the configuration says",
                path.display()
            );
        }
        listener.set_nonblocking(true)?;
        Ok(Self::Server { listener, path: path.into(), made: None })
    }

    /// Whether this is the endpoint of a path and role.
    pub(super) fn is_for(&self, path: &Path, role: SocketRole) -> bool {
        match self {
            Self::Server { path: own, .. } => role == SocketRole::Server && own == path,
            Self::Client { path: own } => role == SocketRole::Client && own == path,
        }
    }

    /// Waits for the next front-end, however long it takes; `None`: the plane stops.
    pub(super) fn next(&self, stopping: &Stopping) -> Option<UnixStream> {
        while !stopping.is_set() {
            match self {
                Self::Server { listener, .. } => {
                    let mut wait =
                        [PollFd::new(listener, PollFlags::IN), PollFd::new(&stopping.wake, PollFlags::IN)];
                    let _ = poll(&mut wait, None);
                    match listener.accept() {
                        Ok((stream, _)) => return Some(stream),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => {
                            tracing::warn!(%error, "accepting a front-end");
                            stopping.sleep(RETRY);
                        }
                    }
                }
                Self::Client { path } => match connect(path) {
                    Ok(stream) => return Some(stream),
                    Err(_) => {
                        stopping.sleep(RETRY);
                    }
                },
            }
        }
        None
    }
}

/// Connects without waiting: `AGAIN` means that somebody listens whose queue is full.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

impl Endpoint {
    /// Takes our file away now, while somebody may still hold this.
    pub(super) fn unlink(&self) {
        let Self::Server { path, made: Some(made), .. } = self else { return };
        let found = std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|found| found == *made) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.unlink();
    }
}
