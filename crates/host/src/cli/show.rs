//! The commands that print facts: `check`, `status`, and what is listed of ports, switches, FDBs and groups. Disks have a
//! file of their own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::change::Selection;
use super::disk::disk_table;
use super::sheet::port_sheet;
use super::table::{bytes, duration, lines, table};
use super::{Answer, Output};
use crate::api::client;
use crate::api::view::{DiskView, FdbView, GroupView, PortView, Status, SwitchView};
use crate::config;

/// `facts` as indented JSON.
pub(crate) fn json(facts: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(facts)? + "\n")
}

/// Where the API has the port `name`; a name of the configuration needs no escaping in a URL.
pub(crate) fn port_path(name: &str) -> anyhow::Result<String> {
    config::check_name(name).map_err(anyhow::Error::msg)?;
    Ok(format!("/api/ports/{name}"))
}

/// Where the API has the switch `name`.
pub(crate) fn switch_path(name: &str) -> anyhow::Result<String> {
    config::check_name(name).map_err(anyhow::Error::msg)?;
    Ok(format!("/api/switches/{name}"))
}

/// Where the API has the disk `name`.
pub(crate) fn disk_path(name: &str) -> anyhow::Result<String> {
    config::check_name(name).map_err(anyhow::Error::msg)?;
    Ok(format!("/api/disks/{name}"))
}

pub(crate) fn check(file: &Path, text_only: bool, output: Output) -> anyhow::Result<Answer> {
    let checked = config::load(file).and_then(|loaded| {
        if !text_only {
            config::environment_check(&loaded)?;
        }
        Ok(loaded.config)
    });
    match checked {
        Ok(config) => {
            let (switches, ports, disks) = (config.switches.len(), config.ports.len(), config.disks.len());
            if output.json {
                let facts =
                    serde_json::json!({ "ok": true, "switches": switches, "ports": ports, "disks": disks });
                return Ok(json(&facts)?.into());
            }
            let counts = format!("switches: {switches}, ports: {ports}, disks: {disks}");
            Ok(format!("{}: no mistakes ({counts})\n", file.display()).into())
        }
        Err(error) if output.json => {
            let text = json(&serde_json::json!({ "ok": false, "mistakes": error.mistakes }))?;
            Ok(Answer { text, code: ExitCode::FAILURE })
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn status(socket: &Path, output: Output) -> anyhow::Result<String> {
    let status: Status = client::get(socket, "/api/status")?;
    if output.json {
        return json(&status);
    }
    let mut text = format!(
        "ringway {}, process {}, up {}; {}\n",
        status.version,
        status.pid,
        duration(status.uptime_s),
        running(&status)
    );
    let mut switches = table(&["SWITCH", ">PORTS", ">FDB ENTRIES"]);
    for switch in &status.switches {
        switches.add_row([switch.name.clone(), switch.ports.to_string(), switch.fdb_entries.to_string()]);
    }
    let mut workers = table(&["WORKER", "MODE", ">CPU", ">QUEUES", ">BUSY", ">SLEEPS", ">MOVES"]);
    for worker in &status.workers {
        let cpu = worker.cpu.map_or("any".into(), |cpu| cpu.to_string());
        let mode =
            if worker.polling == "always" { worker.mode.clone() + ", spins" } else { worker.mode.clone() };
        let busy = format!("{:.1} s", worker.busy_ms as f64 / 1000.0);
        let (queues, sleeps) = (worker.queues.to_string(), worker.sleeps.to_string());
        workers.add_row([worker.name.clone(), mode, cpu, queues, busy, sleeps, worker.moves.to_string()]);
    }
    let ports: Vec<PortView> = client::get(socket, "/api/ports")?;
    let _ = write!(text, "\n{}\n{}\n{}", lines(&switches), lines(&workers), port_table(&ports));
    let disks: Vec<DiskView> = client::get(socket, "/api/disks")?;
    if !disks.is_empty() {
        let _ = write!(text, "\n{}", disk_table(&disks));
    }
    Ok(text)
}

/// How much of what there is runs; disks where there are any.
pub(super) fn running(status: &Status) -> String {
    let Status { ports_up, ports_total, disks_up, disks_total, .. } = status;
    match disks_total {
        0 => format!("{ports_up} of {ports_total} ports running"),
        _ => format!("{ports_up} of {ports_total} ports and {disks_up} of {disks_total} disks running"),
    }
}

pub(crate) fn port_list(socket: &Path, output: Output) -> anyhow::Result<String> {
    let ports: Vec<PortView> = client::get(socket, "/api/ports")?;
    if output.json { json(&ports) } else { Ok(port_table(&ports)) }
}

fn port_table(ports: &[PortView]) -> String {
    let headings =
        ["PORT", "SWITCH", "KIND", "STATE", "MAC", ">FROM GUEST", ">", ">TO GUEST", ">", ">DROPS", "AT"];
    let mut rows = table(&headings);
    for port in ports {
        let counters = &port.counters;
        rows.add_row([
            port.name.clone(),
            port.switch.clone(),
            port.kind.clone(),
            state(port),
            port.mac.clone().unwrap_or("-".into()),
            counters.from_guest.frames.to_string(),
            bytes(counters.from_guest.bytes),
            counters.to_guest.frames.to_string(),
            bytes(counters.to_guest.bytes),
            counters.drops.values().fold(0u64, |sum, count| sum.saturating_add(*count)).to_string(),
            place(port),
        ]);
    }
    lines(&rows)
}

pub(super) fn place(port: &PortView) -> String {
    port.socket.clone().or_else(|| port.interface.clone()).unwrap_or("-".into())
}

pub(super) fn state(port: &PortView) -> String {
    match &port.shut {
        Some(why) => format!("{}, shut: {why}", port.state.as_str()),
        None => port.state.as_str().into(),
    }
}

pub(crate) fn port(socket: &Path, name: &str, output: Output) -> anyhow::Result<String> {
    let port: PortView = client::get(socket, &port_path(name)?)?;
    if output.json { json(&port) } else { Ok(port_sheet(&port)) }
}

pub(crate) fn switch_list(socket: &Path, output: Output) -> anyhow::Result<String> {
    let switches: Vec<SwitchView> = client::get(socket, "/api/switches")?;
    if output.json {
        return json(&switches);
    }
    let mut rows = table(&["SWITCH", ">PORTS", ">FDB ENTRIES", ">OF", ">AGEING", "VLAN", "SNOOPING"]);
    for switch in switches {
        rows.add_row([
            switch.name,
            switch.ports.to_string(),
            switch.fdb_entries.to_string(),
            switch.fdb_entries_max.to_string(),
            duration(switch.ageing_ms / 1000),
            switch.vlan,
            yes(switch.snooping),
        ]);
    }
    Ok(lines(&rows))
}

pub(crate) fn fdb(socket: &Path, which: &Selection, output: Output) -> anyhow::Result<String> {
    let entries: Vec<FdbView> = client::get(socket, &format!("/api/fdb{}", which.query()))?;
    if output.json {
        return json(&entries);
    }
    let mut rows = table(&["SWITCH", ">VLAN", "MAC", "PORT", "KIND", ">AGE", "WHY"]);
    for entry in entries {
        let age = if ages(&entry.kind) { duration(entry.age_ms / 1000) } else { "-".into() };
        rows.add_row([entry.switch, vlan(entry.vlan), entry.mac, entry.port, entry.kind, age, entry.why]);
    }
    Ok(lines(&rows))
}

fn ages(kind: &str) -> bool {
    !matches!(kind, "static" | "sticky")
}

pub(crate) fn groups(socket: &Path, switch: Option<&str>, output: Output) -> anyhow::Result<String> {
    let path = match switch {
        Some(name) => {
            config::check_name(name).map_err(anyhow::Error::msg)?;
            format!("/api/groups?switch={name}")
        }
        None => "/api/groups".into(),
    };
    let groups: Vec<GroupView> = client::get(socket, &path)?;
    if output.json {
        return json(&groups);
    }
    let mut rows = table(&["SWITCH", ">VLAN", "GROUP", "PORTS", ">EXPIRES"]);
    for group in groups {
        let expires = duration(group.expires_ms / 1000);
        rows.add_row([group.switch, vlan(group.vlan), group.group, group.ports.join(", "), expires]);
    }
    Ok(lines(&rows))
}

fn vlan(vlan: Option<u16>) -> String {
    vlan.map_or("-".into(), |vlan| vlan.to_string())
}

pub(super) fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}
