//! Embedded guests: what the demo and the charts attach to a data plane in this process, with nothing to install.
//!
//! A guest has its memory in a memfd ([`ram`]), a front-end from the `vhost` crate that speaks to a real vhost-user socket
//! ([`session`]), our own virtio driver ([`rings`], [`wire`]), and a place to sleep ([`sleeper`]). What it sends is up to its user: the demo runs a TCP/IP
//! stack on it, the charts a loop that counts. `client` drives a function over vfio-user instead. [`place`] is a directory for the sockets, [`interrupt`] leaves nothing behind.

#[cfg(target_arch = "x86_64")]
pub(crate) mod client;
pub(crate) mod interrupt;
pub(crate) mod place;
pub(crate) mod ram;
pub(crate) mod rings;
pub(crate) mod session;
pub(crate) mod sleeper;
pub(crate) mod wire;
