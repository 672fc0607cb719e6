//! System calls for which no library serves: setting up tap and macvtap devices, packet sockets, AF_XDP, a virtual
//! machine of KVM, a ring of io_uring, locks of files.
//!
//! Each wrapper is one call with a structure of the right size; the rest of the program is safe code.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod kvm;
mod lock;
mod packet;
mod passed;
mod tap;
mod thread;
pub(crate) mod uring;
pub(crate) mod xdp;

pub(crate) use lock::{lock, unlock};
pub(crate) use packet::{Address, Membership, VlanTag};
pub(crate) use packet::{bind, change_membership, frames_lost, receive, set_option};
pub(crate) use passed::passed;
pub(crate) use tap::{
    Access, TAP_HEADER_LEN, bring_up, clear_tap_offloads, inherited, open_macvtap_queue, open_tap_queue,
    set_tap_offloads,
};

pub(crate) use thread::preemptions;

use std::io;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
