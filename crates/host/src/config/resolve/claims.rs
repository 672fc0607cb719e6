//! What one port or disk has and no second one may have: sockets, interfaces, descriptors, addresses, files.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;

use switch::{PortVlans, UnicastMac, Vlan};

use crate::config::raw::{MISTAKES_MAX, Place, Reader};

/// Who has what, so far.
#[derive(Default)]
pub(super) struct Claims {
    pub(super) sockets: HashMap<PathBuf, Place>,
    pub(super) interfaces: HashMap<String, Place>,
    pub(super) descriptors: HashMap<usize, Place>,
    /// `mac` of ports; on any switch, because a guest's address names the guest.
    pub(super) macs: HashMap<UnicastMac, Place>,
    /// Addresses that the switch answers for, by switch and VLAN of the question.
    pub(super) neighbours: HashMap<(usize, Option<Vlan>, IpAddr), Place>,
    pub(super) stations: Stations,
    /// Files that disks lie in, and whether nobody writes them.
    pub(super) images: HashMap<PathBuf, (Place, bool)>,
}

/// Notes a mistake if `value` is in `map` already. Whether it was free.
pub(super) fn take<K: Eq + Hash>(
    reader: &mut Reader,
    map: &mut HashMap<K, Place>,
    value: K,
    shown: impl Display,
    place: &Place,
    accepted: &str,
) -> bool {
    match map.get(&value) {
        Some(first) => {
            let what = format!("{shown} is used already by {}", reader.whereabouts(first));
            reader.refuse(place, what, accepted);
            false
        }
        None => {
            map.insert(value, place.clone());
            true
        }
    }
}

/// VLANs as bits; bit 0 stands for a switch that knows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VlanBits([u64; 64]);

impl VlanBits {
    fn set(&mut self, id: u16) {
        if let Some(word) = self.0.get_mut(usize::from(id) / 64) {
            *word |= 1 << (id % 64);
        }
    }

    fn meets(&self, other: &VlanBits) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    fn join(&mut self, other: &VlanBits) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
}

/// Which station is behind which port: in each VLAN of a switch, an address is behind one port at most.
#[derive(Default)]
pub(super) struct Stations {
    /// By switch (its index) and address.
    known: HashMap<(usize, UnicastMac), Known>,
    /// Sets of one, because most are.
    ones: HashMap<Option<Vlan>, Rc<VlanBits>>,
    clashes: usize,
}

#[derive(Default)]
struct Known {
    /// VLANs of all claims, so that an address with thousands of claims is decided at once; kept from the second claim on.
    union: Option<Box<VlanBits>>,
    claims: Vec<Claim>,
}

struct Claim {
    vlans: Rc<VlanBits>,
    port: usize,
    place: Place,
}

impl Stations {
    /// The VLANs of a port; `None` on a switch that knows none.
    pub(super) fn of_port(&mut self, vlans: Option<&PortVlans>) -> Rc<VlanBits> {
        let Some(vlans) = vlans else { return self.one(None) };
        let mut bits = VlanBits([0; 64]);
        vlans.iter().for_each(|vlan| bits.set(vlan.get()));
        Rc::new(bits)
    }

    /// One VLAN; `None` on a switch that knows none.
    pub(super) fn one(&mut self, vlan: Option<Vlan>) -> Rc<VlanBits> {
        let bits = self.ones.entry(vlan).or_insert_with(|| {
            let mut bits = VlanBits([0; 64]);
            bits.set(vlan.map_or(0, Vlan::get));
            Rc::new(bits)
        });
        bits.clone()
    }

    /// Says that the station `named` is behind a port of a switch (both by index), in some VLANs; a mistake if it is behind
    /// another port there. A port claims an address in a VLAN once.
    pub(super) fn claim(
        &mut self,
        reader: &mut Reader,
        switch: usize,
        port: usize,
        named: &(UnicastMac, Place),
        vlans: &Rc<VlanBits>,
    ) {
        let (mac, place) = named;
        let known = self.known.entry((switch, *mac)).or_default();
        let clash = match &known.union {
            Some(union) => union.meets(vlans),
            None => known.claims.iter().any(|claim| claim.vlans.meets(vlans)),
        };
        if !clash {
            if let Some(first) = known.claims.first() {
                known.union.get_or_insert_with(|| Box::new(VlanBits::clone(&first.vlans))).join(vlans);
            }
            known.claims.push(Claim { vlans: vlans.clone(), port, place: place.clone() });
            return;
        }
        self.clashes += 1;
        if self.clashes > MISTAKES_MAX {
            // A search for who was first would be of no use to anybody.
            return;
        }
        if let Some(first) = known.claims.iter().find(|claim| claim.vlans.meets(vlans)) {
            let what = format!("{mac} is used already by {}", reader.whereabouts(&first.place));
            reader.refuse(place, what, "an address behind one port of a switch and VLAN");
        }
    }

    /// Where it is said that `mac` is behind another port of the switch, in any VLAN.
    pub(super) fn elsewhere(&self, switch: usize, port: usize, mac: UnicastMac) -> Option<&Place> {
        let claims = &self.known.get(&(switch, mac))?.claims;
        claims.iter().find(|claim| claim.port != port).map(|claim| &claim.place)
    }
}
