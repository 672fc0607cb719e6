//! Making a tap interface and setting it up; doing the same to a macvtap's character device, which speaks tap's language.

use super::check;
use super::passed;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Length of the virtio-net header that a tap is set to: the one with `num_buffers`, in bytes.
pub(crate) const TAP_HEADER_LEN: usize = 12;

/// Offloads that the kernel may leave to us when it sends (`TUNSETOFFLOAD`, linux/if_tun.h).
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// Opens one queue of the tap interface `name`, non-blocking, with virtio-net headers of
/// [`TAP_HEADER_LEN`] bytes in little-endian order. The interface is made if there is none; one that was made
/// this way goes when its last queue is closed.
///
/// # Errors
/// The kernel's, with `name`: no /dev/net/tun, no permission, an interface that is no tap, or one whose queue
/// mode is the other one.
pub(crate) fn open_tap_queue(name: &str, multi_queue: bool) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    set_queue(&file, name, multi_queue)?;
    Ok(file)
}

/// Opens one queue of a macvtap interface by its character device, non-blocking, with headers as
/// [`open_tap_queue`] sets them.
///
/// # Errors
/// The kernel's: no such device, no permission, no queue left, or a device that is no macvtap's.
pub(crate) fn open_macvtap_queue(device: &Path, access: Access<'_>) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device)?;
    set_macvtap_queue(file, access)
}

/// Another descriptor for the macvtap queue that was passed to the program as descriptor `number`, set up as
/// [`open_macvtap_queue`] does. The one that was passed stays open, so that the port can be made anew later.
///
/// # Errors
/// `InvalidInput` for a standard stream; the kernel's: not open, or no macvtap's.
pub(crate) fn inherited(number: RawFd, access: Access<'_>) -> io::Result<File> {
    let queue = File::from(passed(number)?);
    check_interface(&queue, access)?;
    let flags = rustix::fs::fcntl_getfl(&queue)?;
    rustix::fs::fcntl_setfl(&queue, flags | rustix::fs::OFlags::NONBLOCK)?;
    set_macvtap_queue(queue, access)
}

/// Which interface a macvtap queue must belong to, and whether it is one of several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    pub(crate) interface: &'a str,
    /// The interface's own address: a number in /dev, and even a name, may be another one's in another network namespace.
    pub(crate) address: Option<[u8; 6]>,
    pub(crate) multi_queue: bool,
}

fn set_macvtap_queue(queue: File, access: Access<'_>) -> io::Result<File> {
    check_interface(&queue, access)?;
    set_queue(&queue, access.interface, access.multi_queue)?;
    Ok(queue)
}

fn check_interface(queue: &File, access: Access<'_>) -> io::Result<()> {
    let request =
        ask(queue, libc::TUNGETIFF).map_err(|error| io::Error::new(error.kind(), "is no macvtap queue"))?;
    let found = request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8);
    let found = String::from_utf8_lossy(&found.collect::<Vec<u8>>()).into_owned();
    let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    if found != access.interface {
        return refused(format!("is a queue of {found}, not of {}", access.interface));
    }
    let request = ask(queue, libc::SIOCGIFHWADDR)?;
    // SAFETY: the kernel just filled in `ifru_hwaddr`.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    let same = |wanted: [u8; 6]| address.iter().zip(wanted).all(|(&found, wanted)| found as u8 == wanted);
    if !access.address.is_none_or(same) {
        return refused(format!("is a queue of another {found}, in another network namespace"));
    }
    Ok(())
}

/// What the kernel says of a tap or macvtap queue.
fn ask(queue: &File, question: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: `request` is a valid ifreq that outlives the call.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), question, &raw mut request) })?;
    Ok(request)
}

/// Attaches a tap queue to `name` (a macvtap's is attached already, and ignores the name), and agrees on the header.
fn set_queue(queue: &File, name: &str, multi_queue: bool) -> io::Result<()> {
    let flags = libc::IFF_TAP
        | libc::IFF_NO_PI
        | libc::IFF_VNET_HDR
        | if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: `request` is a valid ifreq that outlives the call.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let header_len = TAP_HEADER_LEN as libc::c_int;
    // SAFETY: the argument points to an int that outlives the call.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_len) })?;
    let little_endian: libc::c_int = 1;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETLE, &raw const little_endian) })
}

/// Which segmentation offloads the kernel agreed to hand over unsegmented on a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TapOffloads {
    /// UDP segmentation too (Linux 6.2 and later).
    pub(crate) uso: bool,
}

/// Lets the kernel send unfinished checksums and whole TSO (and, where it can, USO) frames on this queue.
///
/// # Errors
/// The kernel's, when even checksums and TSO are refused.
pub(crate) fn set_tap_offloads(queue: &File) -> io::Result<TapOffloads> {
    let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    match set_offloads(queue, tso | TUN_F_USO4 | TUN_F_USO6) {
        Ok(()) => Ok(TapOffloads { uso: true }),
        Err(_) => set_offloads(queue, tso).map(|()| TapOffloads { uso: false }),
    }
}

/// Has the kernel finish every frame before it sends it on this queue: a macvtap starts with all offloads on.
///
/// # Errors
/// The kernel's.
pub(crate) fn clear_tap_offloads(queue: &File) -> io::Result<()> {
    set_offloads(queue, 0)
}

fn set_offloads(queue: &File, mask: u32) -> io::Result<()> {
    // SAFETY: the argument is passed by value.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

/// Sets the MTU (bytes) and the address of the interface `name` where they are given, and brings it up.
///
/// # Errors
/// The kernel's: no such interface, no permission, an MTU it does not accept.
pub(crate) fn bring_up(name: &str, mtu: Option<u16>, mac: Option<[u8; 6]>) -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let mut request = interface_request(name)?;
    if let Some(mtu) = mtu {
        request.ifr_ifru.ifru_mtu = mtu.into();
        // SAFETY: `request` is a valid ifreq that outlives the call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw const request) })?;
    }
    if let Some(mac) = mac {
        // SAFETY: an all-zero sockaddr is a valid value.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        // SAFETY: `request` is a valid ifreq that outlives the call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR, &raw const request) })?;
    }
    // SAFETY: as above; the kernel writes the flags into the union.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the kernel just filled in `ifru_flags`.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

pub(super) fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("interface name {name:?}: 1 to 15 bytes are accepted"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
