//! The vhost-user session, driven by bytes as a front-end would send them.

mod garbage;
mod in_flight;
mod messages;
mod peer;
mod qemu_order;
mod running;
mod wire;
