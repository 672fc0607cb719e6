//! Where a frame goes: the learning bridge.
//!
//! The crate is pure. It owns no threads, clocks, files or sockets and knows nothing of virtio: a caller hands in a
//! port, a frame's addresses and the time, and gets a [`Verdict`]. The only way not to forward is
//! [`Verdict::Drop`] with a [`DropReason`], and counters are indexed by that enum.
//!
//! * [`EthernetHead`] is what a decision needs of a frame; it is parsed from bytes that nobody else can change.
//! * [`Bridge`] learns sources and looks destinations up. Several workers share one through `&Bridge`.
//! * [`flow_hash`] picks a receive queue so that a conversation keeps to one.

mod bridge;
mod fdb;
mod flow;
mod frame;
mod hash;
mod ledger;
mod port;
mod source;
mod types;

#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

pub use bridge::{Bridge, BridgeConfig, BridgeError, EntryKind, FdbEntry, PortEntries, PortFlags};
pub use flow::flow_hash;
pub use frame::{ETHERNET_HEADER_SIZE, EthernetHead};
pub use port::{PortSettings, PortVlans, Rates, VlanSet};
pub use source::AllowedSources;
pub use types::{DropReason, MacAddr, MacParseError, Now, PortId, UnicastMac, Verdict, Vlan};
