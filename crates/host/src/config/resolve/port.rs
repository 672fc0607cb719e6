//! One port: its keys, over the defaults of its profile, and what they mean together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use switch::{PortSettings, PortVlans};

use super::addresses::{self, Named, Own};
use super::claims::{Claims, take};
use super::{Surroundings, attach, socket};
use crate::config::keys;
use crate::config::lists::Shape;
use crate::config::raw::{Place, Reader, Section};
use crate::config::resolved::{
    FdbConfig, MTU_MIN, PortConfig, Profile, QmpConfig, RX_USECS_MAX, SwitchConfig, WorkerGroupConfig,
};
use crate::config::values;

/// Largest `mac-limit`.
const MAC_LIMIT_MAX: usize = 65536;
/// Largest `multicast-groups-max`.
const GROUPS_MAX: usize = 65536;
/// Largest rate, in frames a second.
const RATE_MAX: usize = 10_000_000;
/// The last digit of 01:80:c2:00:00:01, which pauses a link and means nothing behind it (IEEE 802.3 annex 31B).
const PAUSE: usize = 1;
const QMP_ACCEPTED: &str = r#"a path, or { socket = "PATH", nic = "NAME" }"#;
const NEIGHBOURS_ACCEPTED: &str =
    r#"neighbour-suppression with mac and addresses of single hosts, such as addresses = ["10.0.0.5"]"#;

/// Reads ports, one after the other, and compares each with those before it.
pub(super) struct Ports<'a> {
    around: &'a Surroundings<'a>,
    switches: &'a [SwitchConfig],
    groups: &'a [WorkerGroupConfig],
    indices: HashMap<&'a str, usize>,
    claims: Claims,
    /// Ports read so far.
    count: usize,
    takeable: Vec<Takeable>,
}

/// An address that a guest may take.
struct Takeable {
    port: usize,
    switch: usize,
    /// Field of the port's own `mac`.
    own_field: String,
    named: Named,
}

/// A switch and its index in the file.
type OfSwitch<'a> = (usize, &'a SwitchConfig);

impl<'a> Ports<'a> {
    pub(super) fn new(
        around: &'a Surroundings<'a>,
        switches: &'a [SwitchConfig],
        groups: &'a [WorkerGroupConfig],
        claims: Claims,
    ) -> Self {
        let names = switches.iter().enumerate().map(|(index, switch)| (switch.name.as_str(), index));
        let indices = names.collect();
        Ports { around, switches, groups, indices, claims, count: 0, takeable: Vec::new() }
    }

    /// `None` if what the port cannot do without is missing or wrong; that was noted.
    pub(super) fn port(
        &mut self,
        reader: &mut Reader,
        name: &str,
        section: &Section<'_, '_>,
    ) -> Option<PortConfig> {
        self.count += 1;
        if let Err(what) = values::name(name) {
            reader.refuse(&section.place, what, values::NAME_ACCEPTED);
        }
        reader.unknown_keys(section, keys::PORT, &[]);
        let switch = self.switch(reader, section);
        let attach = attach::attach(reader, section, self.around, &mut self.claims);
        let qmp = self.qmp(reader, section);
        let workers = workers(reader, section, self.groups);
        let rx_usecs = rx_usecs(reader, section);
        let mtu = reader.integer(section, "mtu", usize::from(MTU_MIN)..=usize::from(u16::MAX));
        let offloads = reader.boolean(section, "offloads");
        let profile = profile(reader, section);
        let (mut settings, mac_change) = profile.defaults(section.has("mac"));
        flags(reader, section, &mut settings);
        limits(reader, section, &mut settings);

        let own = addresses::own(reader, section);
        let networks = addresses::networks(reader, section);
        settings.sources = addresses::sources(&own, &networks, !settings.locked && section.says("macs"));
        let of_switch = switch.map(|(_, switch)| switch);
        let vlans = addresses::vlans(reader, section, of_switch);
        let fdb = addresses::fdb(reader, section, of_switch, vlans.as_ref());
        let change = addresses::mac_change(reader, section);
        let (mac_change, takeable) = change.unwrap_or((mac_change, Vec::new()));
        if settings.locked && !["mac", "macs", "fdb", "qmp"].iter().any(|key| section.says(key)) {
            let what = "is locked, and has no address: nothing could pass";
            reader.refuse(&reader.place_of(section, "locked"), what, "locked with mac, macs, fdb or qmp");
        }

        if let (Some((index, switch)), Some(vlans)) = (switch, &vlans) {
            let vlans = switch.tagging.map(|_| vlans);
            self.claim(reader, index, &own, &fdb, vlans);
            let own_field = format!("{}.mac", section.place.field);
            self.takeable.extend(takeable.into_iter().map(|named| Takeable {
                port: self.count,
                switch: index,
                own_field: own_field.clone(),
                named,
            }));
            if settings.neighbour_suppression {
                let hosts = addresses::hosts(&networks);
                self.neighbours(reader, section, &mut settings, (index, vlans), &own, &hosts);
            }
        }
        settings.vlans = vlans.unwrap_or_default();
        Some(PortConfig {
            name: name.to_owned(),
            switch: switch?.1.name.clone(),
            attach: attach?,
            mac: own.mac.map(|(mac, _)| mac.octets()),
            mtu: mtu.and_then(|(mtu, _)| u16::try_from(mtu).ok()),
            profile,
            offloads: offloads.unwrap_or(true),
            settings,
            macs: own.macs.into_iter().map(|(mac, _)| mac).collect(),
            fdb: fdb.into_iter().map(|(entry, _)| entry).collect(),
            mac_change,
            qmp,
            workers,
            call_interval: Duration::from_micros(rx_usecs),
        })
    }

    fn switch(&self, reader: &mut Reader, section: &Section<'_, '_>) -> Option<OfSwitch<'a>> {
        let names = self.switches.iter().map(|switch| switch.name.as_str());
        let none = "the name of a switch; the file defines none, add [switch.lan]";
        let accepted = choice(names).unwrap_or_else(|| none.to_owned());
        if !section.has("switch") {
            reader.refuse_if_whole(&section.place, "has no switch", format!("switch = one of: {accepted}"));
            return None;
        }
        let (name, place) = reader.text(section, "switch", &accepted)?;
        let Some(index) = self.indices.get(name) else {
            reader.refuse_if_whole(&place, format!("there is no switch {name:?}"), accepted);
            return None;
        };
        Some((*index, self.switches.get(*index)?))
    }

    /// The group of workers that the port names.
    fn qmp(&mut self, reader: &mut Reader, section: &Section<'_, '_>) -> Option<QmpConfig> {
        let place = reader.place_of(section, "qmp");
        let qmp = match reader.shape(section, "qmp")? {
            Shape::Text => QmpConfig {
                socket: socket(reader, section, "qmp", self.around, &mut self.claims)?,
                nic: None,
            },
            _ => {
                let table = reader.table(section, "qmp", QMP_ACCEPTED)?;
                reader.unknown_keys(&table, keys::QMP, &[]);
                if !table.has("socket") {
                    reader.refuse_if_whole(&table.place, "has no socket", QMP_ACCEPTED);
                }
                let socket = socket(reader, &table, "socket", self.around, &mut self.claims);
                let nic = reader.parsed(&table, "nic", values::NIC_ACCEPTED, values::nic);
                QmpConfig { socket: socket?, nic: nic.map(|(nic, _)| nic) }
            }
        };
        if !attach::may_be_guest(section) {
            reader.refuse(&place, "the port is no guest's", "qmp on ports with vhost-user or vfio-user only");
            return None;
        }
        Some(qmp)
    }

    /// Says which stations are behind the port; `vlans` is `None` on a switch that knows none.
    fn claim(
        &mut self,
        reader: &mut Reader,
        switch: usize,
        own: &Own,
        fdb: &[(FdbConfig, Place)],
        vlans: Option<&PortVlans>,
    ) {
        let port = self.count;
        let Claims { macs, stations, .. } = &mut self.claims;
        let bits = stations.of_port(vlans);
        if let Some(named) = &own.mac {
            let accepted = "a MAC address of its own for each port";
            if take(reader, macs, named.0, named.0, &named.1, accepted) {
                stations.claim(reader, switch, port, named, &bits);
            }
        }
        for named in &own.macs {
            stations.claim(reader, switch, port, named, &bits);
        }
        for (entry, place) in fdb {
            if addresses::is_pinned(entry.kind) && !own.has(entry.mac) {
                let bits = stations.one(entry.vlan);
                stations.claim(reader, switch, port, &(entry.mac, place.clone()), &bits);
            }
        }
    }

    /// Fills in what the switch answers for the port.
    fn neighbours(
        &mut self,
        reader: &mut Reader,
        section: &Section<'_, '_>,
        settings: &mut PortSettings,
        (switch, vlans): (usize, Option<&PortVlans>),
        own: &Own,
        hosts: &[(IpAddr, Place)],
    ) {
        if !section.has("mac") || hosts.is_empty() {
            let place = reader.place_of(section, "neighbour-suppression");
            reader.refuse(&place, "needs mac and addresses", NEIGHBOURS_ACCEPTED);
        }
        let Some((mac, _)) = &own.mac else { return };
        let vlan = vlans.and_then(PortVlans::native);
        for (host, place) in hosts {
            let key = (switch, vlan, *host);
            let accepted = "an address that the switch answers with one MAC address";
            if take(reader, &mut self.claims.neighbours, key, host, place, accepted) {
                settings.neighbours.push((*host, *mac));
            }
        }
    }

    /// What can be compared only when all ports are read: what a guest may take must not be another's.
    pub(super) fn compare(&self, reader: &mut Reader) {
        for Takeable { port, switch, own_field, named: (mac, place) } in &self.takeable {
            let configured = self.claims.macs.get(mac).filter(|owner| owner.field != *own_field);
            let owner = configured.or_else(|| self.claims.stations.elsewhere(*switch, *port, *mac));
            if let Some(owner) = owner {
                let what = format!("{mac} is used already by {}", reader.whereabouts(owner));
                reader.refuse(place, what, "addresses that no other port has");
            }
        }
    }
}

fn profile(reader: &mut Reader, section: &Section<'_, '_>) -> Profile {
    let words = [("guest", Profile::Guest), ("open", Profile::Open)];
    let trust = if attach::may_be_guest(section) { Profile::Guest } else { Profile::Open };
    reader.word(section, "profile", &words).map_or(trust, |(profile, _)| profile)
}

fn flags(reader: &mut Reader, section: &Section<'_, '_>, settings: &mut PortSettings) {
    let flags = [
        ("enabled", &mut settings.enabled),
        ("learning", &mut settings.learning),
        ("flood", &mut settings.flood),
        ("multicast-flood", &mut settings.multicast_flood),
        ("broadcast-flood", &mut settings.broadcast_flood),
        ("isolated", &mut settings.isolated),
        ("hairpin", &mut settings.hairpin),
        ("locked", &mut settings.locked),
        ("guard", &mut settings.guard),
        ("neighbour-suppression", &mut settings.neighbour_suppression),
        ("multicast-fast-leave", &mut settings.fast_leave),
        ("multicast-router", &mut settings.multicast_router),
    ];
    for (key, flag) in flags {
        *flag = reader.boolean(section, key).unwrap_or(*flag);
    }
}

/// The group of workers that serves a device's queues.
pub(super) fn workers(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    groups: &[WorkerGroupConfig],
) -> Option<String> {
    let names = groups.iter().map(|group| group.name.as_str());
    let none = "the name of a group of workers; the file defines none, add [worker-group.fast]";
    let accepted = choice(names).unwrap_or_else(|| none.to_owned());
    let (name, place) = reader.text(section, "workers", &accepted)?;
    if !groups.iter().any(|group| group.name == name) {
        reader.refuse_if_whole(&place, format!("there is no group of workers {name:?}"), accepted);
    }
    Some(name.to_owned())
}

/// How long a guest is not called again, in microseconds.
fn rx_usecs(reader: &mut Reader, section: &Section<'_, '_>) -> u64 {
    let Some((usecs, place)) = reader.integer(section, "rx-usecs", 0..=RX_USECS_MAX) else { return 0 };
    if usecs != 0 && !attach::may_be_guest(section) {
        reader.refuse(
            &place,
            "the port is no guest's",
            "rx-usecs on ports with vhost-user or vfio-user only",
        );
    }
    usecs as u64
}

/// Names to choose from, for people; `None` if there are none.
fn choice<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> Option<String> {
    const SHOWN_MAX: usize = 16;
    let more = if names.len() > SHOWN_MAX { ", ..." } else { "" };
    let shown = names.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
    (!shown.is_empty()).then(|| shown + more)
}

fn limits(reader: &mut Reader, section: &Section<'_, '_>, settings: &mut PortSettings) {
    let most = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let unless_zero = |number: usize| (number > 0).then(|| most(number));
    if let Some((limit, _)) = reader.integer(section, "mac-limit", 0..=MAC_LIMIT_MAX) {
        settings.mac_limit = unless_zero(limit);
    }
    if let Some((groups, _)) = reader.integer(section, "multicast-groups-max", 0..=GROUPS_MAX) {
        settings.groups_max = most(groups);
    }
    let accepted = "a table such as { broadcast = 1000 }";
    if let Some(table) = reader.table(section, "rate-limit", accepted) {
        reader.unknown_keys(&table, keys::RATE_LIMIT, &[]);
        let rates = [
            ("unknown-unicast", &mut settings.rates.unknown_unicast),
            ("broadcast", &mut settings.rates.broadcast),
            ("multicast", &mut settings.rates.multicast),
        ];
        for (key, rate) in rates {
            if let Some((frames, _)) = reader.integer(&table, key, 0..=RATE_MAX) {
                *rate = unless_zero(frames);
            }
        }
    }
    if let Some((digits, place)) = reader.integers(section, "link-local-forward", 0..=15) {
        if digits.contains(&PAUSE) {
            let what = "1 is the group of pause frames, which never pass a bridge";
            reader.refuse(&place, what, "different whole numbers from 0 to 15, but not 1");
        }
        settings.link_local = digits.iter().fold(0, |mask, digit| mask | 1 << (digit & 15));
    }
}
