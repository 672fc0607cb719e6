//! What a port may do: the operator's settings, as plain values.

use crate::source::AllowedSources;
use crate::types::{UnicastMac, Vlan};
use std::fmt;
use std::net::IpAddr;

/// Settings of a port. [`PortSettings::default`] is a port of a plain learning bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// Frames enter and leave here. Off: everything is dropped as [`crate::DropReason::PortShut`].
    pub enabled: bool,
    /// Sources of frames from this port are learned.
    pub learning: bool,
    /// Frames to unknown stations are sent to this port.
    pub flood: bool,
    /// Frames to groups without known listeners are sent to this port.
    pub multicast_flood: bool,
    /// Broadcasts are sent to this port.
    pub broadcast_flood: bool,
    /// Frames go between this port and ports that are not isolated only.
    pub isolated: bool,
    /// A frame may leave by the port that it came in by.
    pub hairpin: bool,
    /// A frame is dropped unless an FDB entry for its source points at this very port.
    pub locked: bool,
    /// A spanning-tree frame from this port shuts it (BPDU guard).
    pub guard: bool,
    /// Questions for the addresses in [`Self::neighbours`] are answered by the switch and not sent to this port.
    pub neighbour_suppression: bool,
    /// A host that leaves a group is believed at once, without a question to others behind the port.
    pub fast_leave: bool,
    /// Multicast queriers and routers behind this port are believed, and get the groups that they ask for.
    pub multicast_router: bool,
    /// Addresses that may be learned behind this port; `None`: as many as the FDB holds.
    pub mac_limit: Option<u32>,
    /// Groups that may have listeners behind this port.
    pub groups_max: u32,
    /// Frames a second that this port may send to many.
    pub rates: Rates,
    /// Source addresses that frames of this port may have.
    pub sources: AllowedSources,
    /// Groups 01:80:c2:00:00:0X that are forwarded although bridges keep them to one link: bit X. Bit 1 (pause) has no
    /// effect.
    pub link_local: u16,
    /// VLANs of the port, where the switch knows VLANs.
    pub vlans: PortVlans,
    /// Stations behind this port by network address, for [`Self::neighbour_suppression`] of this port.
    pub neighbours: Vec<(IpAddr, UnicastMac)>,
}

impl PortSettings {
    /// [`Self::groups_max`] of a port that names none, as Linux's `mcast_max_groups` is often set.
    pub const GROUPS_MAX_DEFAULT: u32 = 512;
    /// [`Self::link_local`] of a port that names none: spanning-tree frames pass, because this bridge runs none.
    pub const LINK_LOCAL_DEFAULT: u16 = 1;
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            learning: true,
            flood: true,
            multicast_flood: true,
            broadcast_flood: true,
            isolated: false,
            hairpin: false,
            locked: false,
            guard: false,
            neighbour_suppression: false,
            fast_leave: false,
            multicast_router: true,
            mac_limit: None,
            groups_max: Self::GROUPS_MAX_DEFAULT,
            rates: Rates::default(),
            sources: AllowedSources::default(),
            link_local: Self::LINK_LOCAL_DEFAULT,
            vlans: PortVlans::default(),
            neighbours: Vec::new(),
        }
    }
}

/// Frames a second that a port may send to many; a tenth of a second's worth may come at once. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// To stations that are not known.
    pub unknown_unicast: Option<u32>,
    /// To everyone.
    pub broadcast: Option<u32>,
    /// To groups.
    pub multicast: Option<u32>,
}

/// VLANs that a port takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortVlans {
    /// VLAN of untagged frames, in both directions; `None`: untagged frames are dropped.
    native: Option<Vlan>,
    members: VlanSet,
}

impl PortVlans {
    /// One VLAN, untagged.
    #[must_use]
    pub fn access(vlan: Vlan) -> Self {
        Self { native: Some(vlan), members: VlanSet::from_iter([vlan]) }
    }

    /// Tagged VLANs, and one whose frames are untagged on the wire.
    #[must_use]
    pub fn trunk(vlans: impl IntoIterator<Item = Vlan>, native: Option<Vlan>) -> Self {
        Self { native, members: vlans.into_iter().chain(native).collect() }
    }

    /// VLAN of untagged frames.
    #[must_use]
    pub fn native(&self) -> Option<Vlan> {
        self.native
    }

    /// Whether frames of the VLAN pass.
    #[inline]
    #[must_use]
    pub fn contains(&self, vlan: Vlan) -> bool {
        self.members.contains(vlan)
    }

    /// All VLANs, the native one included, in order.
    pub fn iter(&self) -> impl Iterator<Item = Vlan> + '_ {
        (1..=4094).filter_map(Vlan::new).filter(|vlan| self.contains(*vlan))
    }
}

impl Default for PortVlans {
    /// VLAN 1, untagged, as a port of a new bridge has it.
    fn default() -> Self {
        Self::access(Vlan::DEFAULT)
    }
}

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// Whether the set has the VLAN.
    #[inline]
    #[must_use]
    pub fn contains(&self, vlan: Vlan) -> bool {
        let id = usize::from(vlan.get());
        self.0[id / 64 % 64] >> (id % 64) & 1 != 0
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (1..=4094).filter_map(Vlan::new).filter(|vlan| self.contains(*vlan));
        f.debug_set().entries(all.map(Vlan::get)).finish()
    }
}

impl FromIterator<Vlan> for VlanSet {
    fn from_iter<T: IntoIterator<Item = Vlan>>(vlans: T) -> Self {
        let mut words = Box::new([0u64; 64]);
        for vlan in vlans {
            let id = usize::from(vlan.get());
            words[id / 64] |= 1 << (id % 64);
        }
        Self(words)
    }
}
