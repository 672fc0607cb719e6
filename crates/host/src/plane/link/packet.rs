//! An interface of the host through a packet socket (packet(7)).
//!
//! **Frames from the wire.** The socket sees each frame that comes in on the interface (`PACKET_IGNORE_OUTGOING`: not those
//! that go out). The kernel prefixes a virtio-net header of 10 bytes, because its GRO merges frames whatever we say;
//! so unfinished checksums and unsegmented frames are always accepted here. It also takes the outermost VLAN tag out of
//! the frame and tells it beside (`PACKET_AUXDATA`); [`restore_tag`] puts it back and moves the header's offsets.
//!
//! **Frames to the wire** go through the interface's queueing discipline and its driver's segmentation, as any program's.
//! `PACKET_QDISC_BYPASS` is left off: it drops a frame that still has to be segmented for the driver (`__dev_direct_xmit`
//! in net/core/dev.c).
//!
//! **Links go down, interfaces vanish.** The socket then holds one error, which the next call takes away; a frame that
//! cannot be written is refused and counted. When the link comes back, the kernel goes on with the same socket; when an
//! interface of the same name is made anew, [`PacketSocket::tend`] binds to it.

use super::interface::{Interface, Reader};
use super::{CLASSIC, HEADER_LEN, LinkPort, USO, Way, write_frame};
use crate::config::resolved::PortConfig;
use crate::plane::stats::QueueStats;
use crate::sys::{self, VlanTag};
use devices::net::header::{FLAG_NEEDS_CSUM, HeaderFormat};
use devices::net::{Accepts, Frame};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use switch::DropReason;

/// Bytes of the header that a packet socket speaks: `struct virtio_net_hdr`, without `num_buffers`.
const SHORT_HEADER_LEN: usize = 10;
/// Bytes of two addresses, and of a VLAN tag behind them.
const ADDRESSES_LEN: usize = 12;
const TAG_LEN: usize = 4;
/// Room for frames in the socket, each way, in bytes: a few tens of unsegmented ones.
const BUFFER_LEN: usize = 4 << 20;
/// Errors of single frames that one read passes over.
const ERRORS_MAX: usize = 64;

/// A packet socket that is bound to an interface.
pub(super) struct PacketSocket {
    socket: OwnedFd,
    /// The interface that it is bound to.
    index: AtomicU32,
}

/// Opens the interface `name` as an uplink with one queue.
pub(super) fn open(name: &str, config: &PortConfig) -> io::Result<LinkPort> {
    if cfg!(target_endian = "big") {
        // The kernel's header is in the host's byte order here.
        return Err(io::Error::new(io::ErrorKind::Unsupported, "packet ports need a little-endian host"));
    }
    let interface = Reader::open()?.read(name)?;
    if !interface.ethernet {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it carries no Ethernet frames"));
    }
    let socket = PacketSocket::open(interface.index)?;
    // No way to ask for USO. Whoever knows this option (Linux 6.5) knows USO (6.2) too; its value is what is set anyway.
    let uso = sys::set_option(&socket.socket, libc::PACKET_VNET_HDR_SZ, SHORT_HEADER_LEN as libc::c_int);
    let uso = if uso.is_ok() { USO } else { Accepts::empty() };
    let accepts = Accepts::all() - Accepts::UFO;
    LinkPort::uplink(name, config, vec![Way::Packet(socket)], accepts, CLASSIC | uso)
}

/// A packet socket that receives nothing yet.
pub(super) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map_err(|error| match error {
        rustix::io::Errno::PERM => {
            let text = "packet sockets need root or the capability CAP_NET_RAW";
            io::Error::new(io::ErrorKind::PermissionDenied, text)
        }
        other => other.into(),
    })
}

impl PacketSocket {
    fn open(index: u32) -> io::Result<Self> {
        let socket = socket()?;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            sys::set_option(&socket, option, 1)?;
        }
        // Without CAP_NET_ADMIN the limit of the system holds; less room is no reason to give up.
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_LEN).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_LEN);
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_LEN).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER_LEN);
        }
        sys::bind(&socket, index)?;
        Ok(Self { socket, index: AtomicU32::new(index) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads one frame; frames that the kernel cannot describe or that do not fit are counted and passed over.
    pub(super) fn read(&self, buffer: &mut [u8], stats: &QueueStats) -> Option<usize> {
        let (header, frame) = buffer.split_at_mut_checked(HEADER_LEN)?;
        // What is behind a cut frame's end is not needed, so the room for a tag is held back from each.
        let room = frame.len().checked_sub(TAG_LEN)?;
        for _ in 0..ERRORS_MAX {
            match sys::receive(&self.socket, &mut header[..SHORT_HEADER_LEN], &mut frame[..room]) {
                Ok(received) if received.cut => stats.dropped(DropReason::Oversize, 1),
                Ok(received) if received.len < SHORT_HEADER_LEN + ADDRESSES_LEN => {
                    stats.dropped(DropReason::Runt, 1);
                }
                Ok(received) => {
                    header[SHORT_HEADER_LEN..].fill(0);
                    let len = received.len - SHORT_HEADER_LEN;
                    let len = match received.vlan {
                        Some(tag) => restore_tag(header, frame, len, tag)?,
                        None => len,
                    };
                    return Some(HEADER_LEN + len);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return None,
                    // A segmentation that virtio has no word for: the kernel has thrown the frame away.
                    Some(libc::EINVAL) => stats.dropped(DropReason::BadOffload, 1),
                    // The link went down, or a signal came: said once, nothing is lost.
                    _ => {}
                },
            }
        }
        None
    }

    /// Writes one frame; `false`: the kernel did not take it.
    pub(super) fn write(&self, frame: &Frame<'_>) -> bool {
        let mut result = write_frame(&self.socket, SHORT_HEADER_LEN, frame);
        if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENETDOWN)) {
            // Perhaps only the socket's memory of a link that is up again.
            result = write_frame(&self.socket, SHORT_HEADER_LEN, frame);
        }
        result.is_ok()
    }

    /// Binds to `interface` if it is another one than before; how many frames the kernel had no room for since the last
    /// call.
    pub(super) fn tend(&self, interface: Option<&Interface>) -> u64 {
        if let Some(interface) = interface
            && interface.index != self.index.load(Relaxed)
            && sys::bind(&self.socket, interface.index).is_ok()
        {
            self.index.store(interface.index, Relaxed);
        }
        sys::frames_lost(&self.socket).map_or(0, u64::from)
    }
}

/// Puts `tag` behind the two addresses of the frame in `frame[..len]`, and moves what `header` says of places in it;
/// the new length, or `None` where there is no room.
fn restore_tag(header: &mut [u8], frame: &mut [u8], len: usize, tag: VlanTag) -> Option<usize> {
    frame.get(..len + TAG_LEN)?;
    frame.copy_within(ADDRESSES_LEN..len, ADDRESSES_LEN + TAG_LEN);
    let [tpid, tci] = [tag.tpid, tag.tci].map(u16::to_be_bytes);
    frame[ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN].copy_from_slice(&[tpid[0], tpid[1], tci[0], tci[1]]);
    let format = HeaderFormat::MODERN;
    let mut said = format.parse(header.first_chunk()?);
    if said.flags & FLAG_NEEDS_CSUM != 0 {
        said.csum_start = said.csum_start.saturating_add(TAG_LEN as u16);
    }
    if said.hdr_len != 0 {
        said.hdr_len = said.hdr_len.saturating_add(TAG_LEN as u16);
    }
    header.copy_from_slice(&format.emit(&said));
    Some(len + TAG_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: VlanTag = VlanTag { tpid: 0x88a8, tci: 0xe123 };

    #[test]
    fn a_tag_moves_what_is_behind_it_and_what_points_there() {
        let mut header = [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0];
        let mut frame: Vec<u8> = (0..40).collect();
        assert_eq!(restore_tag(&mut header, &mut frame, 30, TAG), Some(34));
        assert_eq!(header, [1, 1, 58, 0, 0xe8, 3, 38, 0, 16, 0, 0, 0]);
        let expected =
            [&(0..12).collect::<Vec<u8>>()[..], &[0x88, 0xa8, 0xe1, 0x23], &(12..30).collect::<Vec<u8>>()];
        assert_eq!(frame[..34], expected.concat());

        // Nothing points anywhere, or already at the end of what can be pointed at.
        let mut header = [0; 12];
        assert_eq!(restore_tag(&mut header, &mut frame, 12, TAG), Some(16));
        assert_eq!(header, [0; 12]);
        let mut header = [1, 0, 0xff, 0xff, 0, 0, 0xfe, 0xff, 0, 0, 0, 0];
        assert_eq!(restore_tag(&mut header, &mut frame, 12, TAG), Some(16));
        assert_eq!(header, [1, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn a_tag_that_finds_no_room_is_refused() {
        for len in 37..=40 {
            assert_eq!(restore_tag(&mut [0; 12], &mut [0; 40], len, TAG), None);
        }
        assert_eq!(restore_tag(&mut [0; 11], &mut [0; 40], 20, TAG), None);
    }
}
