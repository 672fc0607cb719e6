//! The XDP program of an uplink: six instructions that hand a frame to the socket of its queue.
//!
//! ```text
//! r2 = *(u32 *)(r1 + 16)          xdp_md.rx_queue_index
//! r1 = map ll                     the XSKMAP: queue number -> socket
//! r3 = XDP_PASS                   where the map holds none
//! call bpf_redirect_map
//! exit
//! ```
//!
//! It is attached through a bpf_link: when the last descriptor of the link is closed, the kernel's own way out of `exit` or
//! of SIGKILL included, the program is off the interface.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;

const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// The attach type.
const BPF_XDP: u32 = 37;
/// The program does not mind frames in several pieces (Linux 5.18).
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// What is loaded under: `bpftool prog show` prints it.
const NAME: [u8; 16] = *b"ringway_uplink\0\0";

/// Where a program runs (`XDP_FLAGS_*_MODE`, linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the kernel's common receive path, for any driver.
    Generic,
    /// In the driver.
    Native,
}

/// What bpf(2) takes: the front of `union bpf_attr` for one command. The kernel reads what is behind as zeros.
trait Attribute {}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}

impl Attribute for MapCreate {}
impl Attribute for MapUpdate {}
impl Attribute for ProgLoad {}
impl Attribute for LinkCreate {}
impl Attribute for LinkDetach {}

/// `struct bpf_insn`.
#[repr(C)]
struct Insn {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn {
        code,
        registers: if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src },
        offset,
        immediate,
    }
}

/// Makes a map of `queues` sockets, empty.
///
/// # Errors
/// The kernel's: EPERM without CAP_BPF and CAP_NET_ADMIN.
pub(crate) fn create_socket_map(queues: u32) -> io::Result<OwnedFd> {
    let attribute =
        MapCreate { map_type: BPF_MAP_TYPE_XSKMAP, key_size: 4, value_size: 4, max_entries: queues };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf_descriptor(BPF_MAP_CREATE, &attribute) }
}

/// From now on `map` has the frames of `queue` go to `socket`.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_socket(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = socket.as_raw_fd() as u32;
    let attribute = MapUpdate {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const queue).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: key and value are of the lengths that `create_socket_map` set, and outlive the call, which only reads them.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attribute) }.map(drop)
}

/// Loads the program. `pieces`: it may be attached where frames come in several pieces.
///
/// # Errors
/// The kernel's: EPERM without CAP_BPF and CAP_NET_ADMIN, EINVAL for `pieces` before Linux 5.18.
pub(crate) fn load(map: BorrowedFd<'_>, pieces: bool) -> io::Result<OwnedFd> {
    let program = [
        insn(0x61, 2, 1, 16, 0),              // ldxw r2, [r1 + 16]
        insn(0x18, 1, 1, 0, map.as_raw_fd()), // lddw r1, map (BPF_PSEUDO_MAP_FD)
        insn(0, 0, 0, 0, 0),                  // its second half
        insn(0xb7, 3, 0, 0, 2),               // mov r3, XDP_PASS
        insn(0x85, 0, 0, 0, 51),              // call bpf_redirect_map
        insn(0x95, 0, 0, 0, 0),               // exit
    ];
    let license = c"Apache-2.0 OR MIT";
    let attribute = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_count: program.len() as u32,
        insns: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kern_version: 0,
        flags: if pieces { BPF_F_XDP_HAS_FRAGS } else { 0 },
        name: NAME,
        ifindex: 0,
        expected_attach_type: BPF_XDP,
    };
    // SAFETY: `insns` are `insn_count` instructions and `license` ends with a zero; both outlive the call, which only
    // reads them.
    unsafe { bpf_descriptor(BPF_PROG_LOAD, &attribute) }
}

/// Attaches a program to an interface for as long as the link that comes back is open.
///
/// # Errors
/// The kernel's: EBUSY when the interface has a program already, EOPNOTSUPP when the driver has no native mode.
pub(crate) fn attach(program: BorrowedFd<'_>, ifindex: u32, place: Place) -> io::Result<OwnedFd> {
    let flags = match place {
        Place::Generic => 1 << 1,
        Place::Native => 1 << 2,
    };
    let attribute = LinkCreate { program: program.as_raw_fd() as u32, ifindex, attach_type: BPF_XDP, flags };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf_descriptor(BPF_LINK_CREATE, &attribute) }
}

/// Takes the program of a link off its interface, whoever else has the link open: a child between fork and exec, for one.
///
/// # Errors
/// The kernel's.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let attribute = LinkDetach { link: link.as_raw_fd() as u32 };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(BPF_LINK_DETACH, &attribute) }.map(drop)
}

/// A command that makes a descriptor.
///
/// # Safety
/// As for [`bpf`], and `command` returns a new descriptor.
unsafe fn bpf_descriptor<T: Attribute>(command: libc::c_int, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let descriptor = unsafe { bpf(command, attribute) }?;
    // SAFETY: the kernel just made it, close-on-exec, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `attribute` is of the layout that `command` reads, and the addresses in it are valid for what `command` does with them.
unsafe fn bpf<T: Attribute>(command: libc::c_int, attribute: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of the attribute; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attribute, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
