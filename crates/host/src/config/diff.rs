//! What a new configuration changes, and how much of it can be done while frames flow.
//!
//! Switches and ports are told apart by name; their order means nothing. A port changes in one of two ways. What the
//! switch keeps of it (its settings, addresses, FDB entries) is changed [`PortChange::Live`]. What the other side of the
//! attachment has seen (a socket, an interface, the MAC address or MTU of the device) cannot be taken back: the port is
//! stopped, and one of the same name started, [`PortChange::Replace`]. In the same way a switch can age its entries faster
//! while it runs, but not become one with VLANs: then it is made anew, and its ports with it. What the program takes up
//! only when it starts is named in [`Difference::restart`]; the running program keeps the old value.

use std::collections::{HashMap, HashSet};

use super::resolved::{Config, DiskConfig, PortConfig, SwitchConfig, WorkerGroupConfig};

/// How a port goes over to its new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChange {
    /// In place; its traffic goes on.
    Live,
    /// It is stopped and started again: its front-end has to connect anew.
    Replace,
}

impl PortChange {
    /// How a port of a switch that stays goes from `old` to `new`; of two that are the same: [`PortChange::Live`].
    pub fn of(old: &PortConfig, new: &PortConfig) -> PortChange {
        // Every field is named, so that a new one is decided on.
        let PortConfig { name, switch, attach, mac, mtu, offloads, .. } = old;
        let PortConfig { profile: _, settings: _, macs: _, fdb: _, mac_change: _, qmp: _, .. } = old;
        let PortConfig { workers: _, call_interval: _, .. } = old;
        let seen_outside = (&new.name, &new.switch, &new.attach, &new.mac, &new.mtu, &new.offloads);
        match (name, switch, attach, mac, mtu, offloads) == seen_outside {
            true => PortChange::Live,
            false => PortChange::Replace,
        }
    }
}

/// How a disk goes over to its new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskChange {
    /// In place; its requests go on.
    Live,
    /// It is stopped and started again: its front-end has to connect anew.
    Replace,
}

impl DiskChange {
    /// How a disk goes from `old` to `new`; of two that are the same: [`DiskChange::Live`].
    pub fn of(old: &DiskConfig, new: &DiskConfig) -> DiskChange {
        // Every field is named, so that a new one is decided on.
        let DiskConfig { name, attach, image, read_only, cache, discard, block_size, serial, .. } = old;
        let DiskConfig { rates: _, workers: _, .. } = old;
        let seen_outside = (&new.name, &new.attach, &new.image, &new.read_only);
        let promised = (&new.cache, &new.discard, &new.block_size, &new.serial);
        let same = (name, attach, image, read_only) == seen_outside
            && (cache, discard, block_size, serial) == promised;
        if same { DiskChange::Live } else { DiskChange::Replace }
    }
}

/// How a switch goes over to its new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchChange {
    /// In place; its FDB and its ports stay.
    Live,
    /// Another one takes its name: its FDB is empty, and its ports are replaced.
    Rebuild,
}

impl SwitchChange {
    /// How a switch goes from `old` to `new`; of two that are the same: [`SwitchChange::Live`].
    pub fn of(old: &SwitchConfig, new: &SwitchConfig) -> SwitchChange {
        let SwitchConfig { name, ageing: _, entries_max, tagging, snooping } = old;
        match (name, entries_max, tagging, snooping)
            == (&new.name, &new.entries_max, &new.tagging, &new.snooping)
        {
            true => SwitchChange::Live,
            false => SwitchChange::Rebuild,
        }
    }
}

/// A switch that is in both configurations and not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedSwitch {
    /// As it runs.
    pub old: SwitchConfig,
    /// As it shall be.
    pub new: SwitchConfig,
    /// How it gets there.
    pub change: SwitchChange,
}

/// A disk that is in both configurations and not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedDisk {
    /// As it runs.
    pub old: DiskConfig,
    /// As it shall be.
    pub new: DiskConfig,
    /// How it gets there.
    pub change: DiskChange,
}

/// A port that is in both configurations, and is not the same or is on a switch that is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedPort {
    /// As it runs.
    pub old: PortConfig,
    /// As it shall be.
    pub new: PortConfig,
    /// How it gets there.
    pub change: PortChange,
}

/// What one configuration has and another has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Switches that are new, in the order of the new configuration.
    pub switches_added: Vec<SwitchConfig>,
    /// Switches that are gone, in the order of the old one.
    pub switches_removed: Vec<SwitchConfig>,
    /// Switches that change, in the order of the new one.
    pub switches_changed: Vec<ChangedSwitch>,
    /// Ports that are new, in the order of the new configuration.
    pub ports_added: Vec<PortConfig>,
    /// Ports that are gone, in the order of the old one.
    pub ports_removed: Vec<PortConfig>,
    /// Ports that change, in the order of the new one.
    pub ports_changed: Vec<ChangedPort>,
    /// Disks that are new, in the order of the new configuration.
    pub disks_added: Vec<DiskConfig>,
    /// Disks that are gone, in the order of the old one.
    pub disks_removed: Vec<DiskConfig>,
    /// Disks that change, in the order of the new one.
    pub disks_changed: Vec<ChangedDisk>,
    /// Fields beside switches, ports and disks that change in place: `control.token-file`, or a `worker-group.NAME` that comes or goes.
    pub fields_changed: Vec<String>,
    /// Fields, such as `workers.cpus`, whose change needs a restart of the program.
    pub restart: Vec<String>,
    /// Number of switches, ports and disks that stay as they are.
    pub untouched: usize,
}

impl Difference {
    /// Whether the two configurations mean the same.
    pub fn is_empty(&self) -> bool {
        *self == Difference { untouched: self.untouched, ..Difference::default() }
    }
}

impl Config {
    /// What has to be done to go from this configuration to `new`.
    pub fn diff(&self, new: &Config) -> Difference {
        let (control, workers) = (&self.control, &self.workers);
        let restart = [
            ("control.socket", control.socket != new.control.socket),
            ("control.http", control.http != new.control.http),
            ("workers.mode", workers.mode != new.workers.mode),
            ("workers.cpus", workers.cpus != new.workers.cpus),
            ("workers.polling", workers.polling != new.workers.polling),
        ];
        let in_place = [("control.token-file", control.token_file != new.control.token_file)];
        let mut difference = Difference {
            restart: named(&restart),
            fields_changed: named(&in_place),
            ..Difference::default()
        };
        self.diff_groups(new, &mut difference);
        self.diff_switches(new, &mut difference);
        self.diff_ports(new, &mut difference);
        self.diff_disks(new, &mut difference);
        difference
    }

    /// Groups of workers come and go; one that stays is as it was until the next start.
    fn diff_groups(&self, new: &Config, difference: &mut Difference) {
        let field = |group: &WorkerGroupConfig| format!("worker-group.{}", group.name);
        for group in &new.worker_groups {
            match self.worker_groups.iter().find(|old| old.name == group.name) {
                None => difference.fields_changed.push(field(group)),
                Some(old) if old == group => {}
                Some(_) => difference.restart.push(field(group)),
            }
        }
        let stays = |old: &&WorkerGroupConfig| new.worker_groups.iter().any(|group| group.name == old.name);
        let gone = self.worker_groups.iter().filter(|old| !stays(old));
        difference.fields_changed.extend(gone.map(field));
    }

    fn diff_switches(&self, new: &Config, difference: &mut Difference) {
        let mut left: HashMap<&str, &SwitchConfig> =
            self.switches.iter().map(|switch| (switch.name.as_str(), switch)).collect();
        for switch in &new.switches {
            match left.remove(switch.name.as_str()) {
                None => difference.switches_added.push(switch.clone()),
                Some(old) if old == switch => difference.untouched += 1,
                Some(old) => difference.switches_changed.push(ChangedSwitch {
                    old: old.clone(),
                    new: switch.clone(),
                    change: SwitchChange::of(old, switch),
                }),
            }
        }
        let gone = self.switches.iter().filter(|switch| left.contains_key(switch.name.as_str()));
        difference.switches_removed.extend(gone.cloned());
    }

    fn diff_ports(&self, new: &Config, difference: &mut Difference) {
        let rebuilt =
            difference.switches_changed.iter().filter(|changed| changed.change == SwitchChange::Rebuild);
        let rebuilt: HashSet<&str> = rebuilt.map(|changed| changed.new.name.as_str()).collect();
        let mut left: HashMap<&str, &PortConfig> =
            self.ports.iter().map(|port| (port.name.as_str(), port)).collect();
        for port in &new.ports {
            let stays = !rebuilt.contains(port.switch.as_str());
            match left.remove(port.name.as_str()) {
                None => difference.ports_added.push(port.clone()),
                Some(old) if old == port && stays => difference.untouched += 1,
                Some(old) => difference.ports_changed.push(ChangedPort {
                    old: old.clone(),
                    new: port.clone(),
                    change: if stays { PortChange::of(old, port) } else { PortChange::Replace },
                }),
            }
        }
        let gone = self.ports.iter().filter(|port| left.contains_key(port.name.as_str()));
        difference.ports_removed.extend(gone.cloned());
    }
}

impl Config {
    fn diff_disks(&self, new: &Config, difference: &mut Difference) {
        let mut left: HashMap<&str, &DiskConfig> =
            self.disks.iter().map(|disk| (disk.name.as_str(), disk)).collect();
        for disk in &new.disks {
            match left.remove(disk.name.as_str()) {
                None => difference.disks_added.push(disk.clone()),
                Some(old) if old == disk => difference.untouched += 1,
                Some(old) => difference.disks_changed.push(ChangedDisk {
                    old: old.clone(),
                    new: disk.clone(),
                    change: DiskChange::of(old, disk),
                }),
            }
        }
        let gone = self.disks.iter().filter(|disk| left.contains_key(disk.name.as_str()));
        difference.disks_removed.extend(gone.cloned());
    }
}

/// The names of those that differ.
fn named(differences: &[(&str, bool)]) -> Vec<String> {
    differences.iter().filter(|(_, differs)| *differs).map(|(field, _)| (*field).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BASE: &str = r#"
[control]
socket = "/run/c.sock"
[workers]
threads = 1
[switch.lan]
[switch.dmz]
vlan = "802.1q"
[port.web]
switch = "lan"
vhost-user.socket = "/run/web.sock"
mac = "52:54:00:00:00:01"
[port.db]
switch = "dmz"
vhost-user.socket = "/run/db.sock"
[port.up]
switch = "lan"
tap.name = "rw0"
"#;

    fn config(text: &str) -> Config {
        crate::config::parse(text, Path::new("/etc/ringway.toml")).expect("no mistake").config
    }

    /// The difference that replacing `from` by `to` in the base makes.
    fn difference(from: &str, to: &str) -> Difference {
        assert!(BASE.contains(from), "{from}");
        config(BASE).diff(&config(&BASE.replacen(from, to, 1)))
    }

    fn kinds(difference: &Difference) -> Vec<(&str, PortChange)> {
        difference.ports_changed.iter().map(|changed| (changed.new.name.as_str(), changed.change)).collect()
    }

    #[test]
    fn a_configuration_and_itself() {
        let same = config(BASE).diff(&config(BASE));
        assert!(same.is_empty());
        assert_eq!(same.untouched, 5);
        let mut turned = config(BASE);
        turned.ports.reverse();
        turned.switches.reverse();
        assert!(config(BASE).diff(&turned).is_empty(), "order means nothing");
    }

    #[test]
    fn what_is_added_and_what_is_gone() {
        let grown = config(&format!("{BASE}[switch.new]\n[port.new]\nswitch='new'\ntap.name='rw1'\n"));
        let more = config(BASE).diff(&grown);
        assert_eq!(more.switches_added, grown.switches[2..]);
        assert_eq!(more.ports_added, grown.ports[3..]);
        assert_eq!(more.untouched, 5);
        let less = grown.diff(&config(BASE));
        assert_eq!(less.switches_removed, grown.switches[2..]);
        assert_eq!(less.ports_removed, grown.ports[3..]);
        assert!(more.ports_changed.is_empty() && more.restart.is_empty() && !more.is_empty());
    }

    #[test]
    fn ports_change_in_place_where_nobody_outside_sees_it() {
        let mac = "mac = \"52:54:00:00:00:01\"";
        let live = [
            "flood = true",
            "profile = 'open'",
            "enabled = false",
            "macs = ['52:54:00:00:00:02']",
            "fdb = [{ mac = '52:54:00:00:00:02' }]",
            "mac-change = 'allow'",
            "qmp = '/run/qmp.sock'",
            "addresses = ['10.0.0.1']",
            "rate-limit.broadcast = 1",
        ];
        for line in live {
            let found = difference(mac, &format!("{mac}\n{line}"));
            assert_eq!(kinds(&found), [("web", PortChange::Live)], "{line}");
            assert_eq!((found.untouched, found.restart.len()), (4, 0), "{line}");
        }
        let replace =
            ["mtu = 9000", "offloads = false", "vhost-user.queue-pairs = 2", "vhost-user.mode = 'client'"];
        for line in replace {
            let found = difference(mac, &format!("{mac}\n{line}"));
            assert_eq!(kinds(&found), [("web", PortChange::Replace)], "{line}");
        }
        let moved = [
            (mac, "mac = \"52:54:00:00:00:09\"", "web"),
            (mac, "", "web"),
            ("switch = \"dmz\"", "switch = \"lan\"", "db"),
            ("tap.name = \"rw0\"", "tap.name = \"rw1\"", "up"),
            ("tap.name = \"rw0\"", "tap.name = \"rw0\"\nmtu = 1400", "up"),
            ("tap.name = \"rw0\"", "packet.interface = \"rw0\"", "up"),
        ];
        for (from, to, name) in moved {
            assert_eq!(kinds(&difference(from, to)), [(name, PortChange::Replace)], "{to}");
        }
    }

    #[test]
    fn a_change_that_means_nothing_is_none() {
        assert!(
            difference("tap.name = \"rw0\"", "tap = { name = \"rw0\", queues = 1 }\nflood = true").is_empty()
        );
    }

    #[test]
    fn a_switch_changes_in_place_or_is_made_anew_with_its_ports() {
        let ageing = difference("[switch.lan]", "[switch.lan]\nageing = '1m'");
        let [changed] = ageing.switches_changed.as_slice() else { panic!("{ageing:?}") };
        assert_eq!((changed.old.ageing.as_secs(), changed.new.ageing.as_secs()), (300, 60));
        assert_eq!((changed.change, ageing.untouched), (SwitchChange::Live, 4));
        assert!(ageing.ports_changed.is_empty());
        let rebuilds = [
            ("[switch.lan]", "[switch.lan]\nmax-entries = 5", ["web", "up"].as_slice()),
            ("[switch.lan]", "[switch.lan]\nsnooping = false", &["web", "up"]),
            ("802.1q", "802.1ad", &["db"]),
        ];
        for (from, to, ports) in rebuilds {
            let found = difference(from, to);
            let [changed] = found.switches_changed.as_slice() else { panic!("{found:?}") };
            assert_eq!(changed.change, SwitchChange::Rebuild, "{to}");
            let expected: Vec<_> = ports.iter().map(|name| (*name, PortChange::Replace)).collect();
            assert_eq!(kinds(&found), expected, "{to}");
            assert_eq!((found.untouched, found.restart.len()), (5 - 1 - ports.len(), 0), "{to}");
        }
    }

    #[test]
    fn what_needs_a_restart_and_what_does_not() {
        let restart = [
            ("/run/c.sock", "/run/d.sock", "control.socket"),
            ("[workers]", "http = '127.0.0.1:1'\n[workers]", "control.http"),
            ("threads = 1", "threads = 2", "workers.mode"),
            ("threads = 1", "threads = 1\ncpus = [0]", "workers.cpus"),
        ];
        for (from, to, field) in restart {
            let found = difference(from, to);
            assert_eq!((found.restart.as_slice(), found.untouched), ([field.to_owned()].as_slice(), 5));
            assert!(!found.is_empty());
        }
        let token = difference("[workers]", "token-file = 't'\n[workers]");
        assert_eq!(token.fields_changed, ["control.token-file"]);
        assert!(token.restart.is_empty() && !token.is_empty());
    }
}
