//! AF_XDP's shared memory and the program that feeds it, in the shape of safe types.
//!
//! rustix does the sockets (options, bind, wake-ups). What it leaves, and what stands here, is memory that the kernel reads and
//! writes beside us, and bpf(2):
//!
//! * [`ring`]: the four rings of a socket, one word and one entry at a time, each access inside the mapping whatever
//!   the kernel's indices say;
//! * [`memory`]: the frames (UMEM), in two areas that never overlap: one that is only copied out of, one that is only
//!   written by us; behind the second there may be a guest's pages, which only the kernel reads;
//! * [`bpf`]: a map of sockets, six instructions and a link. A library for this would bring an ELF reader along, and a
//!   compiled object that nobody can read; six instructions can be read here.
//!
//! Layouts: linux/if_xdp.h, linux/bpf.h, linux/ethtool.h. Needs Linux 5.9 (XDP through bpf_link).

pub(crate) mod bpf;
pub(crate) mod memory;
pub(crate) mod ring;

use super::check;
use super::tap::interface_request;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::AsRawFd;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// The beginning of `struct ethtool_drvinfo`, and the rest of it as bytes.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `ETH_FLAG_RXVLAN`: the NIC takes VLAN tags off the frames it receives.
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// How many queues of the interface `name` receive frames now; `None` where the driver does not say.
pub(crate) fn receive_queue_count(name: &str) -> Option<u32> {
    let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..EthtoolChannels::default() };
    ethtool(name, &mut channels).ok()?;
    Some(channels.rx_count.saturating_add(channels.combined_count))
}

/// How many queues of the interface `name` send frames now; `None` where the driver does not say.
pub(crate) fn transmit_queue_count(name: &str) -> Option<u32> {
    let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..EthtoolChannels::default() };
    ethtool(name, &mut channels).ok()?;
    Some(channels.tx_count.saturating_add(channels.combined_count))
}

/// The name of the driver of the interface `name`, such as `virtio_net`.
///
/// # Errors
/// The kernel's: no such interface, or a driver that does not say.
pub(crate) fn driver(name: &str) -> io::Result<String> {
    let mut info = EthtoolDriver { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ethtool(name, &mut info)?;
    let len = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..len]).into_owned())
}

/// Whether the NIC takes VLAN tags off received frames; AF_XDP would never see them.
///
/// # Errors
/// The kernel's.
pub(crate) fn strips_vlan_tags(name: &str) -> io::Result<bool> {
    Ok(flags(name)? & ETH_FLAG_RXVLAN != 0)
}

/// Has the NIC take VLAN tags off received frames, or leave them in.
///
/// # Errors
/// The kernel's: no permission, or a driver that cannot change it.
pub(crate) fn set_strips_vlan_tags(name: &str, on: bool) -> io::Result<()> {
    let flags = flags(name)?;
    let data = if on { flags | ETH_FLAG_RXVLAN } else { flags & !ETH_FLAG_RXVLAN };
    ethtool(name, &mut EthtoolValue { command: ETHTOOL_SFLAGS, data })
}

fn flags(name: &str) -> io::Result<u32> {
    let mut value = EthtoolValue { command: ETHTOOL_GFLAGS, data: 0 };
    ethtool(name, &mut value)?;
    Ok(value.data)
}

/// What ethtool commands take: structures of the kernel's layout, as long as their command says.
trait EthtoolArgument {}
impl EthtoolArgument for EthtoolValue {}
impl EthtoolArgument for EthtoolChannels {}
impl EthtoolArgument for EthtoolDriver {}

fn ethtool<T: EthtoolArgument>(name: &str, argument: &mut T) -> io::Result<()> {
    // Any socket: it only names the network namespace.
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut *argument).cast();
    // SAFETY: `request` is a valid ifreq whose data points to a structure of the length and layout that its command
    // stands for; both outlive the call, and any bytes the kernel writes are valid integers.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })
}
