//! Real peers: QEMU guests, DPDK's virtio-user and vhost drivers, Open vSwitch, driven from Rust.
//!
//! The peers come from Debian packages in a tree of their own ([`sysroot`]), so that nothing is installed on the machine.
//! Their programs run in that tree through `chroot` in a private mount namespace, with the machine's `/dev`, `/sys` and
//! temporary directory bound into it: a socket has the same path on both sides. Every process that is started here
//! belongs to a [`process::Peer`], which ends it when it is dropped.

pub mod bridge_bench;
pub mod disk_bench;
pub mod dpdk;
pub mod guest;
pub mod harness;
pub mod ovs;
pub mod process;
pub mod qmp;
pub mod qtest;
pub mod ringway;
pub mod row;
pub mod station;
pub mod switch_bench;
pub mod sysroot;
