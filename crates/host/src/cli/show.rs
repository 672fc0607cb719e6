//! The commands that print facts: `check`, `status`, `port`, `fdb`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::table::{bytes, duration, lines, table};
use super::{Answer, Output};
use crate::api::client;
use crate::api::view::{FdbView, PortView, Status};
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

pub(crate) fn check(file: &Path, text_only: bool, output: Output) -> anyhow::Result<Answer> {
    let checked = config::load(file).and_then(|loaded| {
        if !text_only {
            config::environment_check(&loaded)?;
        }
        Ok(loaded.config)
    });
    match checked {
        Ok(config) if output.json => {
            let (switches, ports) = (config.switches.len(), config.ports.len());
            Ok(json(&serde_json::json!({ "ok": true, "switches": switches, "ports": ports }))?.into())
        }
        Ok(config) => {
            let (switches, ports) = (config.switches.len(), config.ports.len());
            let text = format!("{}: no mistakes (switches: {switches}, ports: {ports})\n", file.display());
            Ok(text.into())
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
        "ringway {}, process {}, up {}; {} of {} ports running\n",
        status.version,
        status.pid,
        duration(status.uptime_s),
        status.ports_up,
        status.ports_total
    );
    let mut switches = table(&["SWITCH", ">PORTS", ">FDB ENTRIES"]);
    for switch in &status.switches {
        switches.add_row([switch.name.clone(), switch.ports.to_string(), switch.fdb_entries.to_string()]);
    }
    let mut workers = table(&["WORKER", "MODE", ">CPU", ">QUEUES"]);
    for worker in &status.workers {
        let cpu = worker.cpu.map_or("any".into(), |cpu| cpu.to_string());
        workers.add_row([worker.name.clone(), worker.mode.clone(), cpu, worker.queues.to_string()]);
    }
    let ports: Vec<PortView> = client::get(socket, "/api/ports")?;
    let _ = write!(text, "\n{}\n{}\n{}", lines(&switches), lines(&workers), port_table(&ports));
    Ok(text)
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
            port.state.as_str().into(),
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

fn place(port: &PortView) -> String {
    port.socket.clone().or_else(|| port.tap.clone()).unwrap_or("-".into())
}

pub(crate) fn port(socket: &Path, name: &str, output: Output) -> anyhow::Result<String> {
    let port: PortView = client::get(socket, &port_path(name)?)?;
    if output.json { json(&port) } else { Ok(port_sheet(&port)) }
}

fn port_sheet(port: &PortView) -> String {
    let counters = &port.counters;
    let traffic =
        |side: &crate::api::view::TrafficView| format!("{} frames, {}", side.frames, bytes(side.bytes));
    let drops: Vec<String> =
        counters.drops.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
    let facts = [
        ("port", port.name.clone()),
        ("switch", port.switch.clone()),
        ("kind", port.kind.clone()),
        ("at", place(port)),
        ("socket mode", port.socket_mode.clone().unwrap_or_default()),
        ("state", port.state.as_str().into()),
        ("fault", port.fault.clone().unwrap_or_default()),
        ("mac", port.mac.clone().unwrap_or_default()),
        ("mtu", port.mtu.map(|mtu| mtu.to_string()).unwrap_or_default()),
        ("queue pairs", port.queue_pairs.to_string()),
        ("from guest", traffic(&counters.from_guest)),
        ("to guest", traffic(&counters.to_guest)),
        ("drops", drops.join(", ")),
        ("kicks", counters.kicks.to_string()),
        ("calls", counters.calls.to_string()),
        ("offered", port.features.offered.join(" ")),
        ("acknowledged", port.features.acknowledged.join(" ")),
    ];
    let mut text = String::new();
    for (name, value) in facts {
        let _ = writeln!(text, "{name:<13} {}", or_dash(value));
    }
    let mut queues = table(&[">QUEUE", "DIRECTION", ">SIZE", "LAYOUT", "ENABLED", "FAULT"]);
    for queue in &port.queues {
        queues.add_row([
            queue.index.to_string(),
            queue.direction.clone(),
            queue.size.to_string(),
            queue.layout.clone(),
            if queue.enabled { "yes" } else { "no" }.into(),
            queue.fault.clone().unwrap_or("-".into()),
        ]);
    }
    if !port.queues.is_empty() {
        let _ = write!(text, "\n{}", lines(&queues));
    }
    text
}

pub(crate) fn fdb(socket: &Path, switch: Option<&str>, output: Output) -> anyhow::Result<String> {
    let path = match switch {
        Some(name) => {
            config::check_name(name).map_err(anyhow::Error::msg)?;
            format!("/api/fdb?switch={name}")
        }
        None => "/api/fdb".into(),
    };
    let entries: Vec<FdbView> = client::get(socket, &path)?;
    if output.json {
        return json(&entries);
    }
    let mut rows = table(&["SWITCH", "MAC", "PORT", "KIND", ">AGE"]);
    for entry in entries {
        rows.add_row([entry.switch, entry.mac, entry.port, entry.kind, duration(entry.age_ms / 1000)]);
    }
    Ok(lines(&rows))
}
