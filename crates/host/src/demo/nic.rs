//! The embedded guest's network card as smoltcp sees it, with an ear on ARP.

use crate::embedded::rings::{FRAME_MAX, Rings};
use crate::embedded::wire::{self, Arp, ETHERNET_LEN, feature};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use std::net::Ipv4Addr;
use std::num::{NonZeroU16, NonZeroUsize};

/// Largest IP packet in bytes on the guest's link.
const MTU: usize = 1500;
/// Answers and questions remembered, at most.
const ARP_MAX: usize = 32;

/// A smoltcp device over a pair of rings.
pub(super) struct Nic {
    incoming: Vec<u8>,
    transmit: Transmit,
    arp_replies: Vec<(Ipv4Addr, [u8; 6], Instant)>,
}

/// The half that sends; apart, so that a received frame can be looked at meanwhile.
struct Transmit {
    rings: Rings,
    outgoing: Vec<u8>,
    arp_requests: Vec<(Ipv4Addr, Instant)>,
}

/// How an address was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) mac: [u8; 6],
    /// From the first question to the answer.
    pub(super) micros: u64,
}

impl Nic {
    pub(super) fn new(rings: Rings) -> Self {
        let transmit = Transmit { rings, outgoing: Vec::new(), arp_requests: Vec::new() };
        Self { incoming: Vec::with_capacity(FRAME_MAX), transmit, arp_replies: Vec::new() }
    }

    pub(super) fn rings(&self) -> &Rings {
        &self.transmit.rings
    }

    pub(super) fn rings_mut(&mut self) -> &mut Rings {
        &mut self.transmit.rings
    }

    /// The answer to the first ARP question for `target`, if it was asked and answered.
    pub(super) fn resolved(&self, target: Ipv4Addr) -> Option<Resolved> {
        let (_, asked) = self.transmit.arp_requests.iter().find(|(address, _)| *address == target)?;
        let (_, mac, answered) = self.arp_replies.iter().find(|(address, ..)| *address == target)?;
        Some(Resolved { mac: *mac, micros: (*answered - *asked).total_micros() })
    }
}

impl phy::Device for Nic {
    type RxToken<'a> = ReceivedFrame<'a>;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _: Instant) -> Option<(ReceivedFrame<'_>, Slot<'_>)> {
        // The stack may answer every frame that it takes, so a free slot comes first.
        let rings = &mut self.transmit.rings;
        if !rings.has_slot() || !rings.take_frame(&mut self.incoming) {
            return None;
        }
        if let Some(Arp::Reply { sender, mac }) = wire::parse_arp(&self.incoming)
            && self.arp_replies.len() < ARP_MAX
        {
            self.arp_replies.push((sender, mac, Instant::now()));
        }
        Some((ReceivedFrame(&self.incoming), Slot { transmit: &mut self.transmit, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Slot<'_>> {
        self.transmit.rings.has_slot().then_some(Slot { transmit: &mut self.transmit, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let rings = &self.transmit.rings;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET_LEN + MTU;
        // Received checksums are looked at by the driver, where the device's word about them is known.
        let checksum = if rings.has(feature::CSUM) { Checksum::None } else { Checksum::Tx };
        capabilities.checksum.tcp = checksum;
        capabilities.checksum.udp = checksum;
        if rings.has(feature::CSUM) && rings.has(feature::HOST_TSO4) {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(FRAME_MAX);
        }
        capabilities
    }
}

/// A received frame, copied out of guest memory.
pub(super) struct ReceivedFrame<'a>(&'a [u8]);

impl phy::RxToken for ReceivedFrame<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one frame to send.
pub(super) struct Slot<'a> {
    transmit: &'a mut Transmit,
    segment: Option<u16>,
}

impl phy::TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Transmit { rings, outgoing, arp_requests } = self.transmit;
        outgoing.clear();
        outgoing.resize(len, 0);
        let result = f(outgoing);
        if let Some(Arp::Request { target }) = wire::parse_arp(outgoing)
            && arp_requests.len() < ARP_MAX
        {
            arp_requests.push((target, Instant::now()));
        }
        rings.send(outgoing, self.segment);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(NonZeroU16::get);
    }
}
