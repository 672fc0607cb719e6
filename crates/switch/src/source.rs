//! Whether a frame may claim the addresses that it comes from.
//!
//! # Theory of operation
//!
//! A check applies as soon as one of the three lists has an entry. It looks at the Ethernet source and at every place
//! in the frame from which others would learn that an address is at a station. What cannot be checked is refused: a
//! frame with more than two VLAN tags, a cut or broken header, a chain of IPv6 extension headers that leads out of the
//! bytes at hand, a fragment of a discovery message (RFC 6980 forbids those to everyone).
//!
//! *MAC addresses.* These hold with any list:
//!
//! | where | rule | reason |
//! |---|---|---|
//! | Ethernet source | in [`AllowedSources::macs`], unless that is empty | `source-mac` |
//! | ARP, RARP sender | equal to the Ethernet source | `source-mac` |
//! | neighbour discovery: every source and target link-layer option | equal to the Ethernet source | `source-mac` |
//! | ARP not about IPv4 on Ethernet; IP or ARP behind an LLC/SNAP header (RFC 1042) | refused | `source-address` |
//!
//! *Network addresses.* These hold where [`AllowedSources::ipv4`] or [`AllowedSources::ipv6`] has an entry, always with
//! reason `source-address`. A list for one family alone refuses the other family whole.
//!
//! | where | allowed |
//! |---|---|
//! | IPv4 source | listed; 0.0.0.0 in a DHCP client's broadcast (UDP 68 to 67, not fragmented; RFC 2131 §4.1) |
//! | ARP sender | listed, gratuitous ARP too; 0.0.0.0 in a probe for a listed address (RFC 5227 §2.1.1) |
//! | RARP sender | listed, or 0.0.0.0 |
//! | IPv6 source | listed; the link-local address made of the Ethernet source (RFC 4291); `::` in router solicitations, in duplicate address detection and in MLD reports (RFC 4862, RFC 3590) |
//! | target of duplicate address detection | listed, or the sender's own link-local address as above |
//! | target of a neighbour advertisement | the same |
//! | other ethertypes, 802.3 frames | to the groups 01:80:c2:00:00:0X only: LLDP, LACP, EAPOL, spanning tree |
//!
//! Link-local addresses that are not made of the MAC address (RFC 7217) have to be listed. What is *in* a router
//! advertisement or a DHCP answer is not judged here.

use crate::frame::EthernetHead;
use crate::packet::{
    Arp, Discovery, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_RARP, Ipv4, Ipv6, Ipv6Upper,
    Message, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, PROTOCOL_ICMPV6, PROTOCOL_UDP,
    ROUTER_SOLICITATION, link_local_of, payload,
};
use crate::types::{DropReason, MacAddr, UnicastMac};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

#[cfg(test)]
mod tests;

/// Ethertypes below this are lengths of 802.3 frames.
const ETHERTYPE_MIN: u16 = 1536;

/// LLC and SNAP headers behind which an ethertype stands (RFC 1042; IEEE 802.1H).
const SNAP_HEADERS: [[u8; 6]; 2] = [[0xaa, 0xaa, 3, 0, 0, 0], [0xaa, 0xaa, 3, 0, 0, 0xf8]];

/// Message types of MLD that a host without an address sends (RFC 2710 §3, RFC 3810 §5.2).
const MLD_REPORTS: [u8; 3] = [131, 132, 143];

/// Source addresses that frames of a port may have. An empty list of MAC addresses allows them all; so do the lists of
/// networks if both are empty. The module's head has the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSources {
    /// MAC addresses: the frame's source, and what ARP and neighbour discovery say of it.
    pub macs: Vec<UnicastMac>,
    /// IPv4 networks.
    pub ipv4: Vec<Ipv4Net>,
    /// IPv6 networks.
    pub ipv6: Vec<Ipv6Net>,
}

impl AllowedSources {
    /// True if every source is allowed and nothing is looked at.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.macs.is_empty() && !self.limits_addresses()
    }

    /// Whether a frame with these first bytes (256 are plenty, in private memory) may enter. `ethernet` is its head.
    /// A frame that is refused whole is refused cut anywhere, too.
    ///
    /// # Errors
    /// [`DropReason::SourceMac`] or [`DropReason::SourceAddress`], as the tables in the module's head say.
    #[inline]
    pub fn check(&self, ethernet: &EthernetHead, bytes: &[u8]) -> Result<(), DropReason> {
        if self.is_empty() { Ok(()) } else { self.check_listed(ethernet, bytes) }
    }

    fn check_listed(&self, ethernet: &EthernetHead, bytes: &[u8]) -> Result<(), DropReason> {
        let source = ethernet.src;
        if !self.macs.is_empty() && !self.macs.iter().any(|mac| mac.to_u64() == source.to_u64()) {
            return Err(DropReason::SourceMac);
        }
        let payload = payload(bytes).ok_or(DropReason::SourceAddress)?;
        match payload.ethertype {
            ETHERTYPE_IPV4 => self.check_ipv4(payload.bytes),
            ETHERTYPE_IPV6 => self.check_ipv6(source, payload.bytes),
            ETHERTYPE_ARP | ETHERTYPE_RARP => self.check_arp(source, payload.ethertype, payload.bytes),
            length if length < ETHERTYPE_MIN && may_hide_ethertype(payload.bytes) => {
                Err(DropReason::SourceAddress)
            }
            _ if self.limits_addresses() && ethernet.dst.link_local_group().is_none() => {
                Err(DropReason::SourceAddress)
            }
            _ => Ok(()),
        }
    }

    fn check_arp(&self, source: MacAddr, ethertype: u16, bytes: &[u8]) -> Result<(), DropReason> {
        let arp = Arp::parse(bytes).ok_or(DropReason::SourceAddress)?;
        if arp.sender_mac != source.0 {
            return Err(DropReason::SourceMac);
        }
        let allowed = if ethertype == ETHERTYPE_RARP {
            arp.sender.is_unspecified() || self.allows_ipv4(arp.sender)
        } else if arp.sender.is_unspecified() && arp.operation == Arp::REQUEST {
            self.allows_ipv4(arp.target)
        } else {
            self.allows_ipv4(arp.sender)
        };
        allowed.then_some(()).ok_or(DropReason::SourceAddress)
    }

    fn check_ipv4(&self, bytes: &[u8]) -> Result<(), DropReason> {
        if !self.limits_addresses() {
            return Ok(());
        }
        let packet = Ipv4::parse(bytes).ok_or(DropReason::SourceAddress)?;
        let is_allowed = self.allows_ipv4(packet.source) || !self.ipv4.is_empty() && is_dhcp_client(&packet);
        is_allowed.then_some(()).ok_or(DropReason::SourceAddress)
    }

    fn check_ipv6(&self, source: MacAddr, bytes: &[u8]) -> Result<(), DropReason> {
        let packet = Ipv6::parse(bytes).ok_or(DropReason::SourceAddress)?;
        let may_be_unspecified = match packet.upper {
            Ipv6Upper::Hidden => return Err(DropReason::SourceAddress),
            Ipv6Upper::Message { protocol: PROTOCOL_ICMPV6, message, fragment } => {
                self.check_icmpv6(source, message, fragment)?
            }
            Ipv6Upper::Message { .. } | Ipv6Upper::LaterFragment => false,
        };
        let is_exempt = may_be_unspecified && packet.source.is_unspecified() && !self.ipv6.is_empty();
        let is_allowed = is_exempt || self.allows_ipv6(packet.source, source);
        is_allowed.then_some(()).ok_or(DropReason::SourceAddress)
    }

    /// Checks a message of ICMPv6; says whether it may come from `::`.
    fn check_icmpv6(
        &self,
        source: MacAddr,
        message: Message<'_>,
        fragment: bool,
    ) -> Result<bool, DropReason> {
        let kind = *message.bytes.first().ok_or(DropReason::SourceAddress)?;
        if !Discovery::is(kind) {
            return Ok(MLD_REPORTS.contains(&kind) && !fragment);
        }
        let discovery = Discovery::parse(message).filter(|_| !fragment).ok_or(DropReason::SourceAddress)?;
        if !discovery.claims_only(source) {
            return Err(DropReason::SourceMac);
        }
        let allows_target = discovery.target.is_some_and(|target| self.allows_ipv6(target, source));
        match kind {
            NEIGHBOUR_ADVERTISEMENT if !allows_target => Err(DropReason::SourceAddress),
            NEIGHBOUR_SOLICITATION => Ok(allows_target),
            _ => Ok(kind == ROUTER_SOLICITATION),
        }
    }

    /// True if network addresses are checked at all.
    #[inline]
    fn limits_addresses(&self) -> bool {
        !self.ipv4.is_empty() || !self.ipv6.is_empty()
    }

    fn allows_ipv4(&self, address: Ipv4Addr) -> bool {
        !self.limits_addresses() || self.ipv4.iter().any(|network| network.contains(&address))
    }

    fn allows_ipv6(&self, address: Ipv6Addr, source: MacAddr) -> bool {
        if self.ipv6.is_empty() {
            return !self.limits_addresses();
        }
        address == link_local_of(source) || self.ipv6.iter().any(|network| network.contains(&address))
    }
}

/// RFC 2131 §4.1. The ports stand first in a message of UDP.
fn is_dhcp_client(packet: &Ipv4<'_>) -> bool {
    packet.source.is_unspecified()
        && packet.destination.is_broadcast()
        && packet.protocol == PROTOCOL_UDP
        && !packet.fragment
        && packet.message.bytes.starts_with(&[0, 68, 0, 67])
}

/// True if an 802.3 payload begins like a SNAP header with an ethertype, as far as it goes.
fn may_hide_ethertype(payload: &[u8]) -> bool {
    SNAP_HEADERS.iter().any(|header| payload.iter().zip(header).all(|(byte, expected)| byte == expected))
}
