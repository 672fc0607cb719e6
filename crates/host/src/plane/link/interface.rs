//! What the kernel says of an interface: one rtnetlink question (rtnetlink(7), `RTM_GETLINK`), by name.
//!
//! A macvlan or macvtap stands on another interface, whose state counts as well; so there may be a second question.
//!
//! Netlink and not sysfs, because a socket stays in the network namespace it was made in, and because only netlink tells
//! how many parties hold an interface promiscuous, the kernel itself among them.

use netlink_packet_core::{DecodeError, Emitable, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NlasIterator};
use parking_lot::Mutex;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// `NLMSG_ERROR` (linux/netlink.h).
const ERROR: u16 = 2;
/// `RTM_NEWLINK` and `RTM_GETLINK` (linux/rtnetlink.h).
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
/// Bytes of a netlink message's header and of `struct ifinfomsg`.
const HEADER_LEN: usize = 16;
const INFO_LEN: usize = 16;
/// Attributes (linux/if_link.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_LINK_NETNSID: u16 = 37;
/// Inside of `IFLA_LINKINFO`, and of `IFLA_INFO_DATA` for a macvlan or macvtap.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
/// Modes in which a macvlan shares what it stands on with others, by address: private, vepa, bridge.
const SHARED_MODES: u32 = 1 | 2 | 4;
/// `ARPHRD_ETHER`, `IFF_UP` and `IFF_LOWER_UP` (linux/if.h).
const ETHERNET: u16 = 1;
const FLAG_UP: u32 = 1;
const FLAG_LOWER_UP: u32 = 1 << 16;
/// The longest name, in bytes (`IFNAMSIZ` less its end).
const NAME_MAX: usize = 15;
/// The kernel answers while it is asked; this only bounds what cannot be.
const PATIENCE: Duration = Duration::from_secs(5);
/// Room for one answer, in bytes: a few kilobytes, without the list of virtual functions that nobody asks for.
const ANSWER_MAX: usize = 32 << 10;

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plane) struct Interface {
    /// Its number: never used again in its namespace for another one.
    pub(in crate::plane) index: u32,
    /// Whether it carries Ethernet frames.
    pub(in crate::plane) ethernet: bool,
    /// Whether it is switched on.
    pub(in crate::plane) up: bool,
    /// Whether there is a link.
    pub(in crate::plane) running: bool,
    /// MTU in bytes.
    pub(in crate::plane) mtu: u32,
    /// Its own address.
    pub(in crate::plane) address: Option<[u8; 6]>,
    /// How many parties, the kernel included, hold it promiscuous.
    pub(in crate::plane) promiscuity: u32,
    /// How many transmit queues it was made with; fewer may be in use.
    pub(in crate::plane) transmit_queues: u32,
    /// Whether it is a macvlan or macvtap that takes unicast frames to its own address only, whatever its filter says: in
    /// the modes private, vepa and bridge (`macvlan_handle_frame`, drivers/net/macvlan.c).
    pub(in crate::plane) own_address_only: bool,
    /// The interface that it stands on, such as a macvtap's, if that is in the same network namespace.
    pub(in crate::plane) below: Option<Below>,
}

/// An interface that another one stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plane) struct Below {
    pub(in crate::plane) name: String,
    /// How many parties, the kernel included, hold it promiscuous.
    pub(in crate::plane) promiscuity: u32,
}

/// A place to ask from: keeps to the network namespace of the thread that opened it.
pub(in crate::plane) struct Reader {
    socket: Mutex<Asking>,
}

struct Asking {
    socket: OwnedFd,
    sequence: u32,
    answer: Box<[u8]>,
}

impl Reader {
    /// # Errors
    /// The kernel's: no descriptor left.
    pub(in crate::plane) fn open() -> io::Result<Self> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let answer = vec![0; ANSWER_MAX].into();
        Ok(Self { socket: Mutex::new(Asking { socket, sequence: 0, answer }) })
    }

    /// # Errors
    /// `NotFound`: no interface of that name. Others are the kernel's.
    pub(in crate::plane) fn read(&self, name: &str) -> io::Result<Interface> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(missing(name));
        }
        let mut socket = self.socket.lock();
        let answer = match socket.ask(&by_name(name)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(missing(name)),
            other => other?,
        };
        let below = answer.below.and_then(|index| socket.ask(&by_index(index)).ok());
        let below = below.map(|below| Below { promiscuity: below.interface.promiscuity, name: below.name });
        Ok(Interface { below, ..answer.interface })
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}"))
}

/// What one question is answered.
struct Answer {
    interface: Interface,
    name: String,
    /// Number of the interface that it stands on.
    below: Option<u32>,
}

impl Asking {
    fn ask(&mut self, question: &[u8]) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.length = (HEADER_LEN + question.len()) as u32;
        header.message_type = GET_LINK;
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut request = vec![0; HEADER_LEN];
        header.emit(&mut request);
        request.extend_from_slice(question);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        loop {
            let (len, whole) = recv(&self.socket, &mut self.answer[..], RecvFlags::TRUNC)?;
            if len != whole {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a longer answer than any interface's",
                ));
            }
            let bytes = self.answer.get(..len).unwrap_or_default();
            let message = NetlinkBuffer::new_checked(bytes).map_err(broken)?;
            // Another number: an answer to a question that was given up.
            if message.sequence_number() != self.sequence {
                continue;
            }
            match message.message_type() {
                ERROR => return Err(error_of(message.payload())),
                NEW_LINK => return answer_of(message.payload()).map_err(broken),
                _ => {}
            }
        }
    }
}

fn broken(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// The body of a question about the interface of this name.
fn by_name(name: &str) -> Vec<u8> {
    let len = 4 + name.len() + 1;
    let mut bytes = vec![0; INFO_LEN];
    bytes.extend_from_slice(&(len as u16).to_ne_bytes());
    bytes.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(INFO_LEN + len.next_multiple_of(4), 0);
    bytes
}

/// The body of a question about the interface of this number.
fn by_index(index: u32) -> Vec<u8> {
    let mut bytes = vec![0; INFO_LEN];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// The kernel's word in an `NLMSG_ERROR`.
fn error_of(payload: &[u8]) -> io::Error {
    match word(payload) {
        Some(code) => io::Error::from_raw_os_error((code as i32).wrapping_neg()),
        None => io::ErrorKind::InvalidData.into(),
    }
}

fn answer_of(payload: &[u8]) -> Result<Answer, DecodeError> {
    let Some((info, attributes)) = payload.split_at_checked(INFO_LEN) else {
        return Err("an interface without its fixed part".into());
    };
    let flags = word(&info[8..]).unwrap_or(0);
    let mut interface = Interface {
        index: word(&info[4..]).unwrap_or(0),
        ethernet: u16::from_ne_bytes([info[2], info[3]]) == ETHERNET,
        up: flags & FLAG_UP != 0,
        running: flags & FLAG_LOWER_UP != 0,
        mtu: 0,
        address: None,
        promiscuity: 0,
        transmit_queues: 1,
        own_address_only: false,
        below: None,
    };
    let (mut name, mut below, mut elsewhere, mut macvlan) = (String::new(), None, false, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_ADDRESS => interface.address = value.try_into().ok(),
            IFLA_IFNAME => name = text(value),
            IFLA_MTU => interface.mtu = word(value).unwrap_or(0),
            IFLA_LINK => below = word(value),
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_PROMISCUITY => interface.promiscuity = word(value).unwrap_or(0),
            IFLA_NUM_TX_QUEUES => interface.transmit_queues = word(value).unwrap_or(1),
            IFLA_LINKINFO => macvlan = macvlan_mode(value)?,
            _ => {}
        }
    }
    // Only a macvlan passes its filter down; what others name here (a veth its other end) does not matter.
    let below = below.filter(|_| macvlan.is_some() && !elsewhere);
    interface.own_address_only = macvlan.is_some_and(|mode| mode & SHARED_MODES != 0);
    Ok(Answer { interface, name, below })
}

/// The mode of a macvlan or macvtap, from `IFLA_LINKINFO`.
fn macvlan_mode(info: &[u8]) -> Result<Option<u32>, DecodeError> {
    let mut is_macvlan = false;
    for attribute in NlasIterator::new(info) {
        let attribute = attribute?;
        match attribute.kind() {
            IFLA_INFO_KIND => is_macvlan = matches!(text(attribute.value()).as_str(), "macvlan" | "macvtap"),
            IFLA_INFO_DATA if is_macvlan => {
                for inner in NlasIterator::new(attribute.value()) {
                    let inner = inner?;
                    if inner.kind() == IFLA_MACVLAN_MODE {
                        return Ok(word(inner.value()));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = 4 + value.len();
        let mut bytes = [&(len as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(len.next_multiple_of(4), 0);
        bytes
    }

    /// What the kernel says of a macvtap in bridge mode.
    fn macvtap() -> Vec<u8> {
        let info =
            [&[0, 0][..], &1u16.to_ne_bytes(), &7u32.to_ne_bytes(), &0x1_0001u32.to_ne_bytes(), &[0; 4]];
        let data = attribute(IFLA_MACVLAN_MODE, &4u32.to_ne_bytes());
        let link_info =
            [attribute(IFLA_INFO_KIND, b"macvtap\0"), attribute(IFLA_INFO_DATA | 0x8000, &data)].concat();
        let attributes = [
            attribute(IFLA_IFNAME, b"mv0\0"),
            attribute(99, &[1, 2, 3]),
            attribute(IFLA_MTU, &1400u32.to_ne_bytes()),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            attribute(IFLA_LINK, &5u32.to_ne_bytes()),
            attribute(IFLA_PROMISCUITY, &2u32.to_ne_bytes()),
            attribute(IFLA_NUM_TX_QUEUES, &4u32.to_ne_bytes()),
            attribute(IFLA_LINKINFO, &link_info),
        ];
        [info.concat(), attributes.concat()].concat()
    }

    #[test]
    fn an_answer_is_read() {
        let answer = answer_of(&macvtap()).unwrap();
        let expected = Interface {
            index: 7,
            ethernet: true,
            up: true,
            running: true,
            mtu: 1400,
            address: Some([2, 0, 0, 0, 0, 1]),
            promiscuity: 2,
            transmit_queues: 4,
            own_address_only: true,
            below: None,
        };
        assert_eq!((answer.interface, answer.name.as_str(), answer.below), (expected, "mv0", Some(5)));
        let elsewhere = [macvtap(), attribute(IFLA_LINK_NETNSID, &[0; 4])].concat();
        assert_eq!(answer_of(&elsewhere).unwrap().below, None);
    }

    #[test]
    fn a_broken_answer_is_no_more_than_an_error() {
        let whole = macvtap();
        for len in 0..whole.len() {
            let _ = answer_of(&whole[..len]);
            let _ = macvlan_mode(&whole[len..]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 4, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = answer_of(&changed);
            }
        }
        assert!(answer_of(&[0; 15]).is_err());
    }
}
