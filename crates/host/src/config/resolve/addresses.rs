//! Where a port's stations are and what they may send from: MAC addresses, networks, VLANs, FDB entries.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use switch::{AllowedSources, EntryKind, PortVlans, UnicastMac, Vlan};

use crate::config::keys;
use crate::config::lists::{Element, Shape};
use crate::config::raw::{Place, Reader, Section};
use crate::config::resolved::{FdbConfig, MacChange, SwitchConfig};
use crate::config::values;

/// Most `macs`, and most addresses in `mac-change`, of a port: each takes an FDB entry.
const MACS_MAX: usize = 256;
/// Most `addresses` of a port: each frame is compared with them.
const NETWORKS_MAX: usize = 256;
/// Most FDB entries that a port has in the file.
const FDB_MAX: usize = 4096;
const VLAN_ID_MAX: usize = 4094;
const VLAN_ACCEPTED: &str = r#"{ access = 10 } or { trunk = [10, "20-30"], native = 1 }"#;
const TRUNK_ACCEPTED: &str = r#"a list of VLANs from 1 to 4094 and ranges of them, such as [10, "20-30"]"#;
const FDB_ACCEPTED: &str = r#"a list such as [{ mac = "52:54:00:00:00:01", vlan = 10, kind = "static" }]"#;
const MAC_CHANGE_ACCEPTED: &str = r#""deny", "allow" or a list of addresses"#;

/// A MAC address and where it is written.
pub(super) type Named = (UnicastMac, Place);

/// The port's own stations.
pub(super) struct Own {
    pub(super) mac: Option<Named>,
    pub(super) macs: Vec<Named>,
}

impl Own {
    /// Whether it is one of them.
    pub(super) fn has(&self, mac: UnicastMac) -> bool {
        self.mac.iter().chain(&self.macs).any(|(own, _)| *own == mac)
    }
}

/// `mac` and `macs`.
pub(super) fn own(reader: &mut Reader, section: &Section<'_, '_>) -> Own {
    let mac = reader.parsed(section, "mac", values::MAC_ACCEPTED, values::station);
    let mut macs = stations(reader, section, "macs", "a list of different unicast addresses");
    if let Some((own, _)) = &mac {
        macs.retain(|(other, place)| {
            if other == own {
                reader.refuse(place, format!("{other} is the port's mac"), "addresses beside mac");
            }
            other != own
        });
    }
    Own { mac, macs }
}

/// The different addresses listed under `key`.
fn stations(reader: &mut Reader, section: &Section<'_, '_>, key: &str, accepted: &str) -> Vec<Named> {
    let listed = reader.distinct(section, key, MACS_MAX, accepted, |reader, element| {
        reader.element_parsed(element, values::MAC_ACCEPTED, values::station)
    });
    listed.map(|(stations, _)| stations).unwrap_or_default()
}

/// `addresses`.
pub(super) fn networks(reader: &mut Reader, section: &Section<'_, '_>) -> Vec<(IpNet, Place)> {
    let accepted = "a list of different addresses and networks";
    let listed = reader.distinct(section, "addresses", NETWORKS_MAX, accepted, |reader, element| {
        reader.element_parsed(element, values::NETWORK_ACCEPTED, values::network)
    });
    listed.map(|(networks, _)| networks).unwrap_or_default()
}

/// Those that are one host each.
pub(super) fn hosts(networks: &[(IpNet, Place)]) -> Vec<(IpAddr, Place)> {
    let single = networks.iter().filter(|(network, _)| network.prefix_len() == network.max_prefix_len());
    single.map(|(network, place)| (network.addr(), place.clone())).collect()
}

/// What frames of the port may come from; `by_mac`: by MAC address too.
pub(super) fn sources(own: &Own, networks: &[(IpNet, Place)], by_mac: bool) -> AllowedSources {
    let stations = own.mac.iter().chain(&own.macs).filter(|_| by_mac).map(|(mac, _)| *mac);
    let mut sources = AllowedSources { macs: stations.collect(), ..AllowedSources::default() };
    for (network, _) in networks {
        match network {
            IpNet::V4(network) => sources.ipv4.push(*network),
            IpNet::V6(network) => sources.ipv6.push(*network),
        }
    }
    sources
}

/// `vlan` of a port; `None` if it is wrong or the switch is not known, which was noted.
pub(super) fn vlans(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    switch: Option<&SwitchConfig>,
) -> Option<PortVlans> {
    if !section.has("vlan") {
        return switch.map(|_| PortVlans::default());
    }
    let table = reader.table(section, "vlan", VLAN_ACCEPTED)?;
    reader.unknown_keys(&table, keys::VLAN, &[]);
    let access = vlan(reader, &table, "access");
    let native = vlan(reader, &table, "native");
    let trunk = trunk(reader, &table);
    let switch = switch?;
    if switch.tagging.is_none() {
        let what = format!("the switch {} knows no VLANs", switch.name);
        let accepted =
            format!(r#"vlan = "802.1q" or "802.1ad" in [switch.{}], or no vlan here"#, switch.name);
        reader.refuse_if_whole(&table.place, what, accepted);
        return None;
    }
    match (table.has("access"), table.has("trunk"), table.has("native")) {
        (true, false, false) => access.map(PortVlans::access),
        (false, true, with_native) => {
            let native = if with_native { Some(native?) } else { None };
            Some(PortVlans::trunk(trunk?, native))
        }
        _ => {
            reader.refuse(&table.place, "is neither an access port nor a trunk", VLAN_ACCEPTED);
            None
        }
    }
}

fn vlan(reader: &mut Reader, section: &Section<'_, '_>, key: &str) -> Option<Vlan> {
    let (id, _) = reader.integer(section, key, 1..=VLAN_ID_MAX)?;
    u16::try_from(id).ok().and_then(Vlan::new)
}

fn trunk(reader: &mut Reader, section: &Section<'_, '_>) -> Option<Vec<Vlan>> {
    let (elements, place) = reader.list(section, "trunk", VLAN_ID_MAX, TRUNK_ACCEPTED)?;
    if elements.is_empty() {
        reader.refuse(&place, "has no VLAN", TRUNK_ACCEPTED);
        return None;
    }
    let mut seen = HashSet::new();
    let mut whole = true;
    for element in &elements {
        let Some(vlans) = trunk_element(reader, element) else {
            whole = false;
            continue;
        };
        let again = vlans.into_iter().filter(|vlan| !seen.insert(*vlan)).min();
        if let Some(vlan) = again {
            let what = format!("VLAN {} is listed twice", vlan.get());
            reader.refuse(&element.place, what, TRUNK_ACCEPTED);
            whole = false;
        }
    }
    whole.then(|| seen.into_iter().collect())
}

fn trunk_element(reader: &mut Reader, element: &Element<'_, '_>) -> Option<Vec<Vlan>> {
    if element.shape() == Shape::Text {
        return reader.element_parsed(element, TRUNK_ACCEPTED, values::vlans);
    }
    let id = reader.element_number(element, &(1..=VLAN_ID_MAX), TRUNK_ACCEPTED)?;
    Some(u16::try_from(id).ok().and_then(Vlan::new).into_iter().collect())
}

/// Whether an entry of this kind stays where it is.
pub(super) fn is_pinned(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::Static | EntryKind::Sticky)
}

/// `fdb` of a port, each with the place of its address.
pub(super) fn fdb(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    switch: Option<&SwitchConfig>,
    vlans: Option<&PortVlans>,
) -> Vec<(FdbConfig, Place)> {
    let Some((elements, _)) = reader.list(section, "fdb", FDB_MAX, FDB_ACCEPTED) else { return Vec::new() };
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for element in &elements {
        let Some(table) = reader.element_table(element, FDB_ACCEPTED) else { continue };
        let Some((entry, place)) = fdb_entry(reader, &table, switch, vlans) else { continue };
        if seen.insert((entry.mac, entry.vlan)) {
            entries.push((entry, place));
        } else {
            reader.refuse(&place, format!("{} is listed twice", entry.mac), "one entry an address and VLAN");
        }
    }
    entries
}

fn fdb_entry(
    reader: &mut Reader,
    table: &Section<'_, '_>,
    switch: Option<&SwitchConfig>,
    vlans: Option<&PortVlans>,
) -> Option<(FdbConfig, Place)> {
    reader.unknown_keys(table, keys::FDB, &[]);
    if !table.has("mac") {
        reader.refuse_if_whole(&table.place, "has no mac", FDB_ACCEPTED);
    }
    let mac = reader.parsed(table, "mac", values::MAC_ACCEPTED, values::station);
    let words =
        [("static", EntryKind::Static), ("sticky", EntryKind::Sticky), ("dynamic", EntryKind::Dynamic)];
    let kind = reader.word(table, "kind", &words).map_or(EntryKind::Static, |(kind, _)| kind);
    let written = vlan(reader, table, "vlan");
    let (switch, vlans) = (switch?, vlans?);
    let place = reader.place_of(table, "vlan");
    let vlan = match (switch.tagging, written) {
        (None, _) if table.has("vlan") => {
            let what = format!("the switch {} knows no VLANs", switch.name);
            reader.refuse_if_whole(&place, what, "an entry without vlan");
            return None;
        }
        (None, _) => None,
        (Some(_), Some(vlan)) if !vlans.contains(vlan) => {
            reader.refuse(&place, format!("the port is not in VLAN {}", vlan.get()), "a VLAN of the port");
            return None;
        }
        (Some(_), Some(vlan)) => Some(vlan),
        (Some(_), None) if table.has("vlan") => return None,
        (Some(_), None) => {
            if vlans.native().is_none() {
                reader.refuse(&place, "has no vlan, and the port has no native one", "a VLAN of the port");
            }
            Some(vlans.native()?)
        }
    };
    let (mac, place) = mac?;
    Some((FdbConfig { mac, vlan, kind }, place))
}

/// `mac-change`, and the addresses that it lists.
pub(super) fn mac_change(reader: &mut Reader, section: &Section<'_, '_>) -> Option<(MacChange, Vec<Named>)> {
    match reader.shape(section, "mac-change")? {
        Shape::List => {
            let listed = stations(reader, section, "mac-change", MAC_CHANGE_ACCEPTED);
            Some((MacChange::List(listed.iter().map(|(mac, _)| *mac).collect()), listed))
        }
        Shape::Text => {
            let words = [("deny", false), ("allow", true)];
            let (allowed, _) = reader.word(section, "mac-change", &words)?;
            Some((if allowed { MacChange::Allow } else { MacChange::Deny }, Vec::new()))
        }
        _ => {
            reader.text(section, "mac-change", MAC_CHANGE_ACCEPTED);
            None
        }
    }
}
