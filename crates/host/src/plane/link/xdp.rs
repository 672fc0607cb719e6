//! AF_XDP uplink: the frames of a host's interface, straight from its driver's queues.
//!
//! **Theory of operation.** A program of six instructions ([`crate::sys::xdp::bpf`]) on the interface hands every frame of
//! queue *i* to socket *i*; frames of queues without a socket stay with the host's own network stack. Each socket has
//! frames and four rings of its own, so queues share nothing (Documentation/networking/af_xdp.rst):
//!
//! ```text
//!        fill: empty frames                  transmit: full frames
//!   us ───────────────────────► kernel  us ───────────────────────► kernel
//!      ◄───────────────────────            ◄───────────────────────
//!        receive: full frames                completion: empty frames
//! ```
//!
//! Receiving and sending have separate halves of the frames and a lock each: the one worker that reads never waits for
//! those that deliver. Where the driver can, its DMA goes to our frames (zero-copy); otherwise the kernel copies. The
//! kernel asks through a flag in the ring for the system call that it needs, and gets no other (`XDP_USE_NEED_WAKEUP`).
//!
//! **What is left behind.** Program, map and sockets end with the process, however that ends. One setting of the NIC is
//! changed, since VLANs would leak otherwise: it leaves VLAN tags in frames. [`Attached`] undoes that; a kill does not.
//!
//! **Limits.** AF_XDP carries bytes and nothing else, so there are no offloads: unfinished checksums and segments are
//! finished in software before [`XdpQueue::write`]. A veth's other end has to do the same by itself (`ethtool -K far0 tx
//! off txvlan off`): what it leaves to a NIC, this side never sees. Frames longer than one UMEM frame travel in pieces
//! when the interface's MTU asks for it (Linux 6.6). An interface that is removed takes its port with it: one made anew
//! under the same name has to be opened anew.

mod lane;
mod lanes;
mod outgoing;
mod queue;
#[cfg(test)]
mod tests;

pub(in crate::plane) use lane::Lane;
pub(in crate::plane) use lanes::{Copied, Lanes, Refused};
pub(super) use queue::XdpQueue;

use super::interface::Interface;
use crate::config::resolved::{XdpMode, ZeroCopy};
use crate::sys;
use crate::sys::xdp::bpf::{self, Place};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes that the kernel keeps free in front of a received frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 256;

/// What a frame has beyond the MTU, in bytes: an Ethernet header and two VLAN tags.
const ETHERNET_LEN_MAX: u32 = 14 + 2 * 4;

/// The driver that takes AF_XDP's frames as fragments where it has no zero-copy (`IFF_TX_SKB_NO_LINEAR`): the kernel does not
/// copy them either.
const NO_COPY_DRIVER: &str = "virtio_net";

/// How frames of one interface are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Bytes of one UMEM frame.
    frame_len: u32,
    /// Whether a frame may need several of them.
    pieces: bool,
}

impl Layout {
    /// For an interface with this MTU (bytes).
    fn of_mtu(mtu: u32) -> Self {
        let needed = mtu.saturating_add(ETHERNET_LEN_MAX + HEADROOM);
        Self { frame_len: if needed <= 2048 { 2048 } else { 4096 }, pieces: needed > 4096 }
    }
}

/// What keeps an uplink attached. When it is dropped, the interface is as it was: the program is off, and VLAN tags are
/// taken off again where they were.
pub(super) struct Attached {
    interface: String,
    /// Where the program runs.
    place: Place,
    /// Whether every queue is without a copy between driver and UMEM.
    zero_copy: bool,
    /// Whether the NIC took VLAN tags off before.
    stripped_tags: bool,
    link: OwnedFd,
    _map: OwnedFd,
}

impl Attached {
    /// How frames come, in words: `native, zero-copy`.
    pub(super) fn describe(&self) -> &'static str {
        match (self.place, self.zero_copy) {
            (Place::Native, true) => "native, zero-copy",
            (Place::Native, false) => "native, copy",
            (Place::Generic, _) => "generic, copy",
        }
    }
}

impl Attached {
    /// The lanes to the interface `interface` for guests' queues, beyond the first `queues` that the uplink uses itself.
    pub(super) fn lanes(&self, interface: &Interface, queues: u16, wanted: ZeroCopy) -> Lanes {
        let without_copy =
            self.zero_copy || sys::xdp::driver(&self.interface).is_ok_and(|driver| driver == NO_COPY_DRIVER);
        Lanes::new(&self.interface, interface, self.place, queues, wanted, without_copy)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // The interface may be gone, and the program with it.
        let _ = bpf::detach(self.link.as_fd());
        if self.stripped_tags {
            let _ = sys::xdp::set_strips_vlan_tags(&self.interface, true);
        }
    }
}

/// Takes over queues 0 to `queues` - 1 of the interface `name`, which is as `interface` says.
///
/// # Errors
/// The kernel's, in words that say what to do: an interface that is down or has too few queues, no permission, another
/// program on the interface, a driver without native mode where `mode` insists on it.
pub(super) fn open(
    name: &str,
    interface: &Interface,
    queues: u16,
    mode: XdpMode,
) -> io::Result<(Attached, Vec<XdpQueue>)> {
    if !interface.up {
        let text = format!("{name} is down: ip link set {name} up");
        return Err(io::Error::new(io::ErrorKind::NetworkDown, text));
    }
    let layout = Layout::of_mtu(interface.mtu);
    check_queues(name, queues)?;

    let map = bpf::create_socket_map(queues.into()).map_err(explain_bpf)?;
    let (place, link) = attach(name, interface.index, mode, &map, layout)?;
    // From here on, dropping `attached` undoes what was done.
    let mut attached = Attached {
        interface: name.to_owned(),
        place,
        zero_copy: true,
        stripped_tags: keep_vlan_tags(name),
        link,
        _map: map,
    };
    let mut opened = Vec::with_capacity(queues.into());
    for index in 0..u32::from(queues) {
        let queue = XdpQueue::open(interface.index, index, layout, place)
            .map_err(|error| explain_queue(error, name, index))?;
        bpf::set_socket(attached._map.as_fd(), index, queue.fd())
            .map_err(|error| said(error, format!("queue {index} of {name} cannot be redirected")))?;
        attached.zero_copy &= queue.is_zero_copy();
        opened.push(queue);
    }
    tracing::info!(interface = name, queues, mode = attached.describe(), "AF_XDP uplink is open");
    Ok((attached, opened))
}

/// Refuses queues that the interface does not have; warns of those that are left to the host.
fn check_queues(interface: &str, queues: u16) -> io::Result<()> {
    let Some(count) = sys::xdp::receive_queue_count(interface).filter(|&count| count != 0) else {
        return Ok(());
    };
    let queues = u32::from(queues);
    if queues > count {
        let text = format!(
            "{interface} has {count} receive queues, not {queues}: set queues = {count}, or give it more \
             (ethtool -L {interface} combined {queues})"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if queues < count {
        tracing::warn!(
            interface,
            queues,
            receive_queues = count,
            "frames of the other queues stay with the host: set queues = {count}, or ethtool -L {interface} combined \
             {queues}"
        );
    }
    Ok(())
}

/// Loads the program and puts it on the interface, in the driver where `mode` and the driver allow it.
fn attach(
    interface: &str,
    ifindex: u32,
    mode: XdpMode,
    map: &OwnedFd,
    layout: Layout,
) -> io::Result<(Place, OwnedFd)> {
    let program = bpf::load(map.as_fd(), layout.pieces).map_err(explain_bpf)?;
    if mode != XdpMode::Generic {
        match bpf::attach(program.as_fd(), ifindex, Place::Native) {
            Ok(link) => return Ok((Place::Native, link)),
            Err(error) if is_taken(&error) => return Err(explain_attach(error, interface)),
            Err(error) if mode == XdpMode::Native => {
                let text = format!(
                    "the driver of {interface} does not take an XDP program (no native mode, too few queues, or too \
                     large an MTU): use mode = \"auto\" or \"generic\""
                );
                return Err(said(error, text));
            }
            Err(error) => {
                tracing::info!(interface, %error, "no native XDP: the kernel's generic one is used")
            }
        }
    }
    let link = bpf::attach(program.as_fd(), ifindex, Place::Generic)
        .map_err(|error| explain_attach(error, interface))?;
    Ok((Place::Generic, link))
}

/// Has the NIC leave VLAN tags in frames; whether that had to be changed.
fn keep_vlan_tags(interface: &str) -> bool {
    if !sys::xdp::strips_vlan_tags(interface).unwrap_or(false) {
        return false;
    }
    match sys::xdp::set_strips_vlan_tags(interface, false) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(interface, %error, "VLAN tags of received frames are lost: the NIC takes them off");
            false
        }
    }
}

fn explain_bpf(error: io::Error) -> io::Error {
    if is(&error, Errno::PERM) || is(&error, Errno::ACCESS) {
        return said(error, "an XDP program needs CAP_BPF and CAP_NET_ADMIN".into());
    }
    said(
        error,
        "the kernel does not take the XDP program: AF_XDP uplinks need Linux 5.9, jumbo frames 6.6".into(),
    )
}

fn explain_attach(error: io::Error, interface: &str) -> io::Error {
    if is_taken(&error) {
        let text = format!(
            "{interface} has an XDP program already: take it off (ip link set {interface} xdp off), or end its owner"
        );
        return io::Error::new(io::ErrorKind::ResourceBusy, format!("{text}: {error}"));
    }
    if is(&error, Errno::PERM) {
        return said(error, "an XDP program needs CAP_NET_ADMIN".into());
    }
    said(error, format!("{interface} does not take an XDP program"))
}

/// EBUSY: a program is there. EEXIST: one is there in the other mode.
fn is_taken(error: &io::Error) -> bool {
    is(error, Errno::BUSY) || is(error, Errno::EXIST)
}

fn explain_queue(error: io::Error, interface: &str, index: u32) -> io::Error {
    let text = if is(&error, Errno::PERM) {
        "an AF_XDP socket needs CAP_NET_RAW".into()
    } else if is(&error, Errno::AFNOSUPPORT) {
        "this kernel is built without AF_XDP (CONFIG_XDP_SOCKETS)".into()
    } else if is(&error, Errno::NOBUFS) || is(&error, Errno::NOMEM) {
        "its memory may not be locked: raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity), or give CAP_IPC_LOCK"
            .into()
    } else if is(&error, Errno::BUSY) {
        format!("queue {index} of {interface} belongs to another AF_XDP socket")
    } else if is(&error, Errno::INVAL) {
        format!("{interface} has no queue {index}, or its driver cannot use AF_XDP with these frames")
    } else {
        format!("queue {index} of {interface} cannot be taken over")
    };
    said(error, text)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The kernel's error with our words in front.
fn said(error: io::Error, text: String) -> io::Error {
    io::Error::new(error.kind(), format!("{text}: {error}"))
}
