//! A slow and obvious bridge, written from the rules and not from the code, to compare the real one with.

use std::collections::{BTreeMap, HashMap};

use crate::*;

/// A frame as tests make it: addresses, and the VID of a customer tag if it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sketch {
    pub(crate) src: MacAddr,
    pub(crate) dst: MacAddr,
    pub(crate) vid: Option<u16>,
}

impl Sketch {
    /// The frame's bytes, with a payload that no switch looks into.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.dst.0, self.src.0].concat();
        if let Some(vid) = self.vid {
            bytes.extend([0x81, 0x00]);
            bytes.extend((0x2000 | vid).to_be_bytes());
        }
        bytes.extend([0x88, 0xb5, 1, 2, 3, 4]);
        bytes
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) port: u16,
    pub(crate) seen: u64,
    pub(crate) kind: EntryKind,
}

/// Station: address and VID, zero where there are no VLANs.
pub(crate) type Key = (UnicastMac, u16);

pub(crate) struct Model {
    pub(crate) ageing_ms: u64,
    pub(crate) vlans: bool,
    pub(crate) known: HashMap<Key, Known>,
    /// With "shut".
    pub(crate) ports: BTreeMap<u16, (PortSettings, bool)>,
    pub(crate) now: u64,
}

impl Model {
    pub(crate) fn is_alive(&self, known: &Known) -> bool {
        !known.kind.ages() || self.now - known.seen < self.ageing_ms
    }

    /// Learned entries by port, aged ones included.
    pub(crate) fn learned(&self, port: u16) -> u32 {
        self.known.values().filter(|known| known.kind == EntryKind::Learned && known.port == port).count()
            as u32
    }

    fn in_vlan(&self, port: u16, vlan: u16) -> bool {
        !self.vlans || self.ports[&port].0.vlans.contains(Vlan::new(vlan).unwrap())
    }

    /// The verdict, the VLAN that was found, and for floods the ports that get it.
    pub(crate) fn frame(&mut self, in_port: u16, frame: &Sketch) -> (Verdict, u16, Vec<u16>) {
        let mut vlan = 0;
        match self.verdict(in_port, frame, &mut vlan) {
            Ok(verdict) => {
                let takers =
                    if verdict == Verdict::Flood { self.takers(in_port, frame, vlan) } else { vec![] };
                (verdict, vlan, takers)
            }
            Err(reason) => (Verdict::Drop(reason), vlan, vec![]),
        }
    }

    fn verdict(&mut self, in_port: u16, frame: &Sketch, vlan: &mut u16) -> Result<Verdict, DropReason> {
        let Some((settings, shut)) = self.ports.get(&in_port).cloned() else {
            return Err(DropReason::IngressRemoved);
        };
        if !settings.enabled || shut {
            return Err(DropReason::PortShut);
        }
        let src = frame.src.unicast().ok_or(DropReason::InvalidSource)?;
        let link_local = frame.dst.link_local_group();
        match link_local {
            Some(0) if settings.guard => {
                self.ports.get_mut(&in_port).unwrap().1 = true;
                return Err(DropReason::Guard);
            }
            Some(1) => return Err(DropReason::LinkLocal),
            Some(group) if settings.link_local & 1 << group == 0 => return Err(DropReason::LinkLocal),
            _ => {}
        }
        if self.vlans {
            let found = match frame.vid {
                None | Some(0) => settings.vlans.native(),
                Some(vid) => Vlan::new(vid).filter(|vlan| settings.vlans.contains(*vlan)),
            };
            *vlan = found.ok_or(DropReason::Vlan)?.get();
        }
        self.source((src, *vlan), in_port, &settings)?;

        let known = frame.dst.unicast().and_then(|dst| self.known.get(&(dst, *vlan))).copied();
        if let Some(known) = known.filter(|known| self.is_alive(known)) {
            let (out, out_shut) = &self.ports[&known.port];
            return if known.port == in_port && !settings.hairpin {
                Err(DropReason::SamePort)
            } else if !out.enabled || *out_shut {
                Err(DropReason::PortShut)
            } else if !self.in_vlan(known.port, *vlan) {
                Err(DropReason::VlanEgress)
            } else if settings.isolated && out.isolated {
                Err(DropReason::Isolated)
            } else {
                Ok(Verdict::Unicast(PortId(known.port)))
            };
        }
        if self.takers(in_port, frame, *vlan).is_empty() {
            return Err(DropReason::NoReceiver);
        }
        Ok(Verdict::Flood)
    }

    fn source(&mut self, key: Key, in_port: u16, settings: &PortSettings) -> Result<(), DropReason> {
        let known = self.known.get(&key).copied();
        let alive = known.is_some_and(|known| self.is_alive(&known));
        let is_here = known.is_some_and(|known| known.port == in_port);
        if !is_here && known.is_some_and(|known| known.kind == EntryKind::Static) {
            return Err(DropReason::SourceTaken);
        }
        if settings.locked && !(is_here && alive) {
            return Err(DropReason::Locked);
        }
        if !settings.learning || (!is_here && known.is_some_and(|known| known.kind == EntryKind::Sticky)) {
            return Ok(());
        }
        if is_here {
            let now = self.now;
            let known = self.known.get_mut(&key).unwrap();
            // Times are renewed once a second.
            if now - known.seen >= 1000 {
                known.seen = now;
            }
            return Ok(());
        }
        if settings.mac_limit.is_some_and(|limit| self.learned(in_port) >= limit) {
            return Err(DropReason::MacLimit);
        }
        self.known.insert(key, Known { port: in_port, seen: self.now, kind: EntryKind::Learned });
        Ok(())
    }

    fn takers(&self, in_port: u16, frame: &Sketch, vlan: u16) -> Vec<u16> {
        let ingress = &self.ports[&in_port].0;
        let takes = |(port, (settings, shut)): &(&u16, &(PortSettings, bool))| {
            let wants = if frame.dst.is_broadcast() {
                settings.broadcast_flood
            } else if frame.dst.is_multicast() {
                settings.multicast_flood
            } else {
                settings.flood
            };
            wants
                && settings.enabled
                && !shut
                && !(settings.isolated && ingress.isolated)
                && (**port != in_port || ingress.hairpin)
                && self.in_vlan(**port, vlan)
        };
        self.ports.iter().filter(takes).map(|(port, _)| *port).collect()
    }

    /// Entries that lookups find.
    pub(crate) fn entries(&self) -> Vec<(UnicastMac, u16, u16, EntryKind)> {
        let alive = self.known.iter().filter(|(_, known)| self.is_alive(known));
        let mut entries: Vec<_> = alive.map(|((mac, vlan), k)| (*mac, *vlan, k.port, k.kind)).collect();
        entries.sort_unstable();
        entries
    }
}
