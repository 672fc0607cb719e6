//! Which port or disk a name means: one of a configuration file, or one of the running program.

use std::path::Path;

use clap::ValueEnum;

use super::{VmmDisk, VmmPort};
use crate::api::client;
use crate::api::view::{DiskView, PortView};
use crate::config::resolved::{Attach, DiskConfig, PortConfig, SocketRole};
use crate::config::{self, mac_text};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Port,
    Disk,
}

/// What a guest is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Port(VmmPort),
    Disk(VmmDisk),
}

/// What `file` has under `name`.
pub(super) fn in_file(file: &Path, name: &str, kind: Option<Kind>) -> anyhow::Result<Thing> {
    let config = config::load(file)?.config;
    let port = config.ports.iter().find(|port| port.name == name);
    let disk = config.disks.iter().find(|disk| disk.name == name);
    match chosen(name, kind, port, disk)? {
        Chosen::Port(port) => of_port_config(port),
        Chosen::Disk(disk) => Ok(Thing::Disk(of_disk_config(disk))),
        Chosen::Nothing(what) => {
            let ports = config.ports.iter().map(|port| port.name.as_str());
            let names: Vec<&str> = match kind {
                Some(Kind::Port) => ports.collect(),
                Some(Kind::Disk) => config.disks.iter().map(|disk| disk.name.as_str()).collect(),
                None => ports.chain(config.disks.iter().map(|disk| disk.name.as_str())).collect(),
            };
            anyhow::bail!("{} has no {what} {name:?}; it has: {}", file.display(), names.join(", "))
        }
    }
}

/// What the program that listens on `socket` has under `name`.
pub(super) fn in_daemon(socket: &Path, name: &str, kind: Option<Kind>) -> anyhow::Result<Thing> {
    config::check_name(name).map_err(anyhow::Error::msg)?;
    let ports: Vec<PortView> = client::get(socket, "/api/ports")?;
    let disks: Vec<DiskView> = client::get(socket, "/api/disks")?;
    let port = ports.into_iter().find(|port| port.name == name);
    let disk = disks.into_iter().find(|disk| disk.name == name);
    match chosen(name, kind, port, disk)? {
        Chosen::Port(port) => of_port_view(port),
        Chosen::Disk(disk) => Ok(Thing::Disk(of_disk_view(disk))),
        Chosen::Nothing(what) => anyhow::bail!("there is no {what} {name:?}"),
    }
}

enum Chosen<P, D> {
    Port(P),
    Disk(D),
    /// What was looked for.
    Nothing(&'static str),
}

fn chosen<P, D>(
    name: &str,
    kind: Option<Kind>,
    port: Option<P>,
    disk: Option<D>,
) -> anyhow::Result<Chosen<P, D>> {
    Ok(match (kind, port, disk) {
        (None, Some(_), Some(_)) => {
            anyhow::bail!("{name:?} is a port and a disk; say which: --kind port or --kind disk")
        }
        (None | Some(Kind::Port), Some(port), _) => Chosen::Port(port),
        (None | Some(Kind::Disk), _, Some(disk)) => Chosen::Disk(disk),
        (None, None, None) => Chosen::Nothing("port or disk"),
        (Some(Kind::Port), None, _) => Chosen::Nothing("port"),
        (Some(Kind::Disk), _, None) => Chosen::Nothing("disk"),
    })
}

fn of_port_config(port: &PortConfig) -> anyhow::Result<Thing> {
    let (Attach::VhostUser { socket, queue_pairs, .. } | Attach::VfioUser { socket, queue_pairs, .. }) =
        &port.attach
    else {
        anyhow::bail!("port {:?} is a {}: no guest attaches to it", port.name, port.attach.kind());
    };
    Ok(Thing::Port(VmmPort {
        name: port.name.clone(),
        socket: socket.display().to_string(),
        is_function: matches!(port.attach, Attach::VfioUser { .. }),
        role: port.attach.role(),
        queue_pairs: *queue_pairs,
        mac: port.mac.map(mac_text),
        mtu: port.mtu,
    }))
}

fn of_port_view(port: PortView) -> anyhow::Result<Thing> {
    let Some(path) = port.socket else {
        anyhow::bail!("port {:?} is a {}: no guest attaches to it", port.name, port.kind);
    };
    Ok(Thing::Port(VmmPort {
        name: port.name,
        socket: path,
        is_function: port.kind == "vfio-user",
        role: role(port.socket_mode.as_deref()),
        queue_pairs: port.queue_pairs,
        mac: port.mac,
        mtu: port.mtu,
    }))
}

fn of_disk_config(disk: &DiskConfig) -> VmmDisk {
    VmmDisk {
        name: disk.name.clone(),
        socket: disk.attach.socket.display().to_string(),
        is_function: disk.attach.function.is_some(),
        role: disk.attach.role,
        queues: disk.attach.queues,
    }
}

fn of_disk_view(disk: DiskView) -> VmmDisk {
    VmmDisk {
        name: disk.name,
        socket: disk.socket,
        is_function: disk.kind == "vfio-user",
        role: role(Some(&disk.socket_mode)),
        // There are at most 64.
        queues: u16::try_from(disk.queues.len()).unwrap_or(u16::MAX).max(1),
    }
}

fn role(socket_mode: Option<&str>) -> SocketRole {
    if socket_mode == Some("client") { SocketRole::Client } else { SocketRole::Server }
}
