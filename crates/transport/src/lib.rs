//! What front-ends say, turned into device events: sans-IO protocol machines, one module a protocol.
//!
//! Nothing here owns a socket, a thread or a clock. Bytes and file descriptors go in, events and bytes come
//! out; the host moves them. What events and outcomes are stands in [`event`]; see [`vhost_user`], and [`vfio_user`] with
//! the function it serves, [`pci`].

pub mod event;
mod framing;
pub mod pci;
pub mod vfio_user;
pub mod vhost_user;
