//! What each virtio device means: functions from a descriptor chain to an answer.
//!
//! No sockets, threads, files or clocks: a caller in `host` moves chains and frames between queues, and these
//! functions say what they mean. The transport that serves a device is not visible from here.

pub mod blk;
pub mod net;
pub mod scsi;
pub mod storage;
