//! What a profile means: the settings of a port that writes none of its own.
//!
//! A port's profile says how far the other side is trusted. Each key of the port overrides what its profile says.

use switch::{PortSettings, Rates};

use super::resolved::{MacChange, Profile};

/// Frames a second that a guest may send to stations that are not known, and as broadcasts. ARP and DHCP of a busy
/// guest stay far below; a flood is cut to what every other guest can bear.
const GUEST_UNKNOWN_RATE: u32 = 1000;
/// Frames a second that a guest may send to groups.
const GUEST_MULTICAST_RATE: u32 = 5000;
/// Multicast groups that a guest may listen to.
const GUEST_GROUPS_MAX: u32 = 64;

impl Profile {
    /// The settings of a port of this profile, and which addresses its guest may take. `mac_known`: the configuration
    /// says the port's MAC address.
    ///
    /// A guest is no multicast router: as a querier it would be sent every group of the switch. A guest whose address the driver or the VMM chooses cannot be locked to it; it may
    /// have the one address that is learned.
    pub fn defaults(self, mac_known: bool) -> (PortSettings, MacChange) {
        let open = PortSettings::default();
        match self {
            Profile::Open => (open, MacChange::Allow),
            Profile::Guest => {
                let guest = PortSettings {
                    learning: !mac_known,
                    flood: false,
                    locked: mac_known,
                    guard: true,
                    multicast_router: false,
                    mac_limit: (!mac_known).then_some(1),
                    groups_max: GUEST_GROUPS_MAX,
                    rates: Rates {
                        unknown_unicast: Some(GUEST_UNKNOWN_RATE),
                        broadcast: Some(GUEST_UNKNOWN_RATE),
                        multicast: Some(GUEST_MULTICAST_RATE),
                    },
                    link_local: 0,
                    ..open
                };
                (guest, MacChange::Deny)
            }
        }
    }
}
