//! Two taps on the kernel's bridge, in a network namespace of their own.

use crate::process::{Peer, wait_until};
use crate::sysroot::Sysroot;
use anyhow::{Context, bail, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Opens the taps; see its own head. Opening one takes an `ioctl`, for which Rust wants `unsafe`.
const OPEN: &str = include_str!("taps.py");
const LIMIT: Duration = Duration::from_secs(20);

/// The bridge, which goes with this value.
pub(super) struct Bridge {
    _link: UnixStream,
    _peer: Peer,
}

impl Bridge {
    /// A bridge with two taps, whose descriptors do not block. They take and give plain Ethernet frames.
    ///
    /// Errors: no `/dev/net/tun`, no Python in the peers' root.
    pub(super) fn start(sysroot: &Sysroot, directory: &Path) -> anyhow::Result<(Self, [File; 2])> {
        sysroot.add_packages("bench", &["python3", "iproute2"])?;
        let path = directory.join("taps.sock");
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let mut command = sysroot.command("unshare");
        command.args(["--net", "--", "python3", "-c", OPEN]).arg(&path).args(["t0", "t1"]);
        let mut peer = Peer::start("taps", directory, &mut command)?;
        let mut link = None;
        let opened = wait_until("the taps", LIMIT, || {
            link = listener.accept().ok().map(|(stream, _)| stream);
            link.is_some() || !peer.is_running()
        });
        let link = opened.ok().and(link).with_context(|| format!("the taps: {}", peer.log()))?;
        link.set_nonblocking(false)?;
        let taps = passed(&link)?;
        Ok((Self { _link: link, _peer: peer }, taps))
    }
}

fn passed(link: &UnixStream) -> anyhow::Result<[File; 2]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = recvmsg(link, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(got.bytes == 1, "the taps' holder has ended");
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors.map(File::from));
        }
    }
    match files.try_into() {
        Ok(files) => Ok(files),
        Err(files) => bail!("{} descriptors instead of 2", files.len()),
    }
}
