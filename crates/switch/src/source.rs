//! Whether a frame may claim the addresses that it comes from.

use crate::types::UnicastMac;
use ipnet::{Ipv4Net, Ipv6Net};

/// Source addresses that frames of a port may have. An empty list allows every address of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSources {
    /// MAC addresses: the frame's source, and what ARP and neighbour discovery say of it.
    pub macs: Vec<UnicastMac>,
    /// IPv4 networks.
    pub ipv4: Vec<Ipv4Net>,
    /// IPv6 networks.
    pub ipv6: Vec<Ipv6Net>,
}
