//! Where a frame goes: the bridge.
//!
//! The crate is pure. It owns no threads, clocks, files or sockets and knows nothing of virtio: a caller hands in a
//! port, a frame's first bytes and the time, and gets a [`Decision`]. The only way not to forward is
//! [`Verdict::Drop`] with a [`DropReason`], and counters are indexed by that enum.
//!
//! * [`Head`] is what a decision needs of a frame; it is parsed from bytes that nobody else can change.
//! * [`Bridge`] is the operator's side: ports with their [`PortSettings`], the FDB, groups. Threads share one through
//!   `&Bridge`.
//! * [`View`] is the workers' side, taken for each burst: it decides, says where a flood goes ([`Reach`]) and in which
//!   [`Form`], writes answers, and explains ([`Explanation`]).
//! * [`flow_hash`] picks a receive queue so that a conversation keeps to one.

mod admission;
mod bridge;
mod entry;
mod fdb;
mod flow;
mod frame;
pub mod groups;
mod hash;
mod ledger;
mod meter;
pub mod multicast;
pub mod neighbour;
mod packet;
mod port;
mod reach;
mod run;
mod source;
mod table;
mod trace;
mod types;
mod view;

#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod model;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth;

pub use bridge::{Bridge, BridgeConfig, BridgeError, PortStatus, ShutReason};
pub use entry::{EntryKind, EntryKinds, FdbEntry, Flush, Origin};
pub use flow::flow_hash;
pub use frame::{ETHERNET_HEADER_SIZE, EthernetHead, Head, Tagging, VlanTag};
pub use groups::{GroupEntry, QuerierEntry, RouterEntry};
pub use neighbour::ANSWER_MAX;
pub use port::{PortSettings, PortVlans, Rates, VlanSet};
pub use reach::Reach;
pub use source::AllowedSources;
pub use trace::{Explanation, REFUSED_MAX, Step};
pub use types::{DropReason, MacAddr, MacParseError, Now, PortId, UnicastMac, Verdict, Vlan};
pub use view::{Decision, Form, View};
