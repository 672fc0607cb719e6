//! Packet sockets (packet(7)): bound to an interface, with the virtio-net header and the VLAN tag that the kernel keeps
//! beside the frame, and memberships in an interface's receive filter.

use super::check;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// An Ethernet address.
pub(crate) type Address = [u8; 6];

/// What a packet socket may ask of its interface's receive filter (`PACKET_MR_*`, linux/if_packet.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// Frames to this station.
    Unicast(Address),
    /// Frames to this group.
    Multicast(Address),
    /// Frames to every group.
    AllGroups,
    /// Every frame.
    Promiscuous,
}

/// A VLAN tag that the kernel took out of a frame: type (0x8100, 0x88a8) and contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VlanTag {
    pub(crate) tpid: u16,
    pub(crate) tci: u16,
}

/// One frame that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes that came, those of the virtio-net header included.
    pub(crate) len: usize,
    /// The tag that belongs behind the two addresses.
    pub(crate) vlan: Option<VlanTag>,
    /// Whether the frame was longer than the buffers: its end is lost.
    pub(crate) cut: bool,
}

/// Binds a packet socket to the interface `index`; it gets frames of every protocol from then on.
///
/// # Errors
/// The kernel's: no such interface.
pub(crate) fn bind(socket: impl AsFd, index: u32) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr_ll is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as libc::c_int;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `address` is a sockaddr_ll of the size named and outlives the call.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) })
}

/// Sets an option of level `SOL_PACKET` whose value is an int.
///
/// # Errors
/// The kernel's: an option or a value that it does not know.
pub(crate) fn set_option(socket: impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(socket, option, &value)
}

/// Enters a packet socket into the filter of the interface `index`, or (`add` false) takes it out. The kernel takes out
/// what is left when the socket closes, whatever ended the program.
///
/// # Errors
/// The kernel's: no such interface, no memory, or the driver refuses the address.
pub(crate) fn change_membership(
    socket: impl AsFd,
    add: bool,
    index: u32,
    membership: Membership,
) -> io::Result<()> {
    let (kind, address) = match membership {
        Membership::Unicast(address) => (libc::PACKET_MR_UNICAST, Some(address)),
        Membership::Multicast(address) => (libc::PACKET_MR_MULTICAST, Some(address)),
        Membership::AllGroups => (libc::PACKET_MR_ALLMULTI, None),
        Membership::Promiscuous => (libc::PACKET_MR_PROMISC, None),
    };
    let mut request = libc::packet_mreq {
        mr_ifindex: index as libc::c_int,
        mr_type: kind as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    if let Some(address) = address {
        request.mr_alen = address.len() as libc::c_ushort;
        request.mr_address[..address.len()].copy_from_slice(&address);
    }
    let option = if add { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
    set(socket, option, &request)
}

/// How many frames the kernel could not queue on a packet socket since the last call.
///
/// # Errors
/// The kernel's, when the descriptor is no packet socket.
pub(crate) fn frames_lost(socket: impl AsFd) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `stats` has `len` bytes, is plain numbers, and outlives the call.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, (&raw mut stats).cast(), &raw mut len)
    })?;
    Ok(stats.tp_drops)
}

/// Receives one frame without waiting: its first bytes (the virtio-net header) into `header`, the others into `frame`.
///
/// # Errors
/// `WouldBlock`: none is there. Others are the kernel's; the next call may well succeed.
pub(crate) fn receive(socket: impl AsFd, header: &mut [u8], frame: &mut [u8]) -> io::Result<Received> {
    let mut runs = [
        libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() },
        libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() },
    ];
    // Words, so that it is aligned for a cmsghdr; room for one tpacket_auxdata and one more message.
    let mut control = [0u64; 16];
    // SAFETY: an all-zero msghdr is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = runs.as_mut_ptr();
    message.msg_iovlen = runs.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: `message` names two exclusively borrowed runs and `control`, each with its own length; all outlive the call.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let vlan = auxiliary(&message).and_then(|data| {
        let tpid = if data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
            data.tp_vlan_tpid
        } else {
            libc::ETH_P_8021Q as u16
        };
        let is_tagged = data.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
        is_tagged.then_some(VlanTag { tpid, tci: data.tp_vlan_tci })
    });
    Ok(Received { len, vlan, cut: message.msg_flags & libc::MSG_TRUNC != 0 })
}

/// What the kernel says beside a frame, in a message that it has filled in.
fn auxiliary(message: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: `message` was filled in by recvmsg, and its control buffer is alive and aligned for a cmsghdr.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: not null, so it points to a whole cmsghdr inside the control buffer.
        let header = unsafe { at.read() };
        // SAFETY: only computes a length.
        let needed = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) } as usize;
        if header.cmsg_level == libc::SOL_PACKET
            && header.cmsg_type == libc::PACKET_AUXDATA
            && header.cmsg_len as usize >= needed
        {
            // SAFETY: the message is long enough to hold the structure, which is plain numbers.
            return Some(unsafe { libc::CMSG_DATA(at).cast::<libc::tpacket_auxdata>().read_unaligned() });
        }
        // SAFETY: `at` came from this message.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    None
}

fn set<T>(socket: impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel reads at most `len` bytes of `value`, which is borrowed for the call. `T` is `c_int` or
    // `packet_mreq` here: neither has padding.
    check(unsafe { libc::setsockopt(fd, libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), len) })
}
