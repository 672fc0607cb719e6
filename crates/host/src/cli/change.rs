//! The commands that change something: ports, switches, disks, FDB entries, the whole configuration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::Value;

use super::Output;
use super::pairs::{Empty, object};
use super::show::{disk_path, json, port_path, switch_path};
use crate::api::client::{self, Ask};
use crate::api::view::{ChangeView, FdbSpec, FlushView};
use crate::config;
use crate::config::document::Document;

/// A thing with a name, and what it shall be.
#[derive(Args, Debug)]
pub(crate) struct Described {
    /// Its name
    name: String,
    /// Keys of the configuration file and their values, such as switch=lan vhost-user.socket=/run/web.sock mtu=1500
    #[arg(value_name = "KEY=VALUE")]
    pairs: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// A thing with a name, and what changes.
#[derive(Args, Debug)]
pub(crate) struct Changed {
    /// Its name
    name: String,
    /// Keys of the configuration file and their new values, such as flood=false or vlan.access=10; KEY= removes one
    #[arg(value_name = "KEY=VALUE", required = true)]
    pairs: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// A thing with a name.
#[derive(Args, Debug)]
pub(crate) struct Named {
    /// Its name
    name: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn port_add(socket: &Path, what: &Described) -> anyhow::Result<String> {
    add(socket, &port_path(&what.name)?, what)
}

pub(crate) fn port_set(socket: &Path, what: &Changed) -> anyhow::Result<String> {
    set(socket, &port_path(&what.name)?, what)
}

pub(crate) fn port_remove(socket: &Path, what: &Named) -> anyhow::Result<String> {
    remove(socket, &port_path(&what.name)?, what)
}

pub(crate) fn switch_add(socket: &Path, what: &Described) -> anyhow::Result<String> {
    add(socket, &switch_path(&what.name)?, what)
}

pub(crate) fn switch_set(socket: &Path, what: &Changed) -> anyhow::Result<String> {
    set(socket, &switch_path(&what.name)?, what)
}

pub(crate) fn switch_remove(socket: &Path, what: &Named) -> anyhow::Result<String> {
    remove(socket, &switch_path(&what.name)?, what)
}

pub(crate) fn disk_add(socket: &Path, what: &Described) -> anyhow::Result<String> {
    add(socket, &disk_path(&what.name)?, what)
}

pub(crate) fn disk_set(socket: &Path, what: &Changed) -> anyhow::Result<String> {
    set(socket, &disk_path(&what.name)?, what)
}

pub(crate) fn disk_remove(socket: &Path, what: &Named) -> anyhow::Result<String> {
    remove(socket, &disk_path(&what.name)?, what)
}

fn add(socket: &Path, path: &str, what: &Described) -> anyhow::Result<String> {
    let table = object(&what.pairs, Empty::Refused)?;
    changed(socket, &Ask::change(Method::PUT, path, Some(table)).only_new(), what.output)
}

fn set(socket: &Path, path: &str, what: &Changed) -> anyhow::Result<String> {
    let patch = object(&what.pairs, Empty::Removes)?;
    changed(socket, &Ask::change(Method::PATCH, path, Some(patch)), what.output)
}

fn remove(socket: &Path, path: &str, what: &Named) -> anyhow::Result<String> {
    changed(socket, &Ask::change(Method::DELETE, path, None), what.output)
}

pub(crate) fn reload(socket: &Path, output: Output) -> anyhow::Result<String> {
    changed(socket, &Ask::change(Method::POST, "/api/reload", None), output)
}

fn changed(socket: &Path, ask: &Ask<'_>, output: Output) -> anyhow::Result<String> {
    let change: ChangeView = client::send(socket, ask)?;
    if output.json { json(&change) } else { Ok(words(&change, "nothing changed")) }
}

/// A change in words: `changed: port.web; 3 untouched`.
fn words(change: &ChangeView, nothing: &str) -> String {
    let lists = [
        ("added", &change.added),
        ("removed", &change.removed),
        ("changed", &change.changed),
        ("stopped and started again", &change.replaced),
    ];
    let mut parts: Vec<String> = lists
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(what, list)| format!("{what}: {}", list.join(", ")))
        .collect();
    if parts.is_empty() {
        parts.push(nothing.into());
    }
    let mut text = format!("{}; {} untouched\n", parts.join("; "), change.untouched);
    for what in &change.needs_restart {
        let _ = writeln!(text, "after a restart only: {what}");
    }
    text
}

pub(crate) fn reopen(socket: &Path, what: &Named) -> anyhow::Result<String> {
    let path = format!("{}/reopen", port_path(&what.name)?);
    let () = client::send(socket, &Ask::change(Method::POST, &path, None))?;
    if what.output.json {
        return json(&serde_json::json!({ "reopened": what.name }));
    }
    Ok(format!("reopened: port.{}\n", what.name))
}

pub(crate) fn config_show(socket: &Path, output: Output) -> anyhow::Result<String> {
    let whole: Value = client::get(socket, "/api/config")?;
    if output.json { json(&whole) } else { Ok(Document::from_json(whole)?.to_toml()) }
}

pub(crate) fn config_check(socket: &Path, file: &Path, output: Output) -> anyhow::Result<String> {
    // Mistakes are named with their lines here; the daemon then compares.
    config::load(file)?;
    let whole = Document::load(file)?.to_json();
    let ask = Ask::change(Method::POST, "/api/config/check", Some(whole));
    let change: ChangeView = client::send(socket, &ask)?;
    if output.json {
        return json(&change);
    }
    Ok(format!("a reload would do this: {}", words(&change, "nothing")))
}

/// Kinds of FDB entries.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    Learned,
    Dynamic,
    Sticky,
    Static,
}

impl Kind {
    fn text(self) -> String {
        match self {
            Kind::Learned => "learned",
            Kind::Dynamic => "dynamic",
            Kind::Sticky => "sticky",
            Kind::Static => "static",
        }
        .into()
    }
}

/// Which FDB entries are meant.
#[derive(Args, Debug)]
pub(crate) struct Selection {
    /// Only those of this switch
    #[arg(long, value_name = "NAME", value_parser = name)]
    switch: Option<String>,
    /// Only those behind this port
    #[arg(long, value_name = "NAME", value_parser = name)]
    port: Option<String>,
    /// Only those in this VLAN
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Only this address
    #[arg(long, value_parser = mac)]
    mac: Option<String>,
    /// Only this kind
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

impl Selection {
    /// As the query of a URL, with its `?`; empty if everything is meant. No value has a letter that needs escaping.
    pub(crate) fn query(&self) -> String {
        let vlan = self.vlan.map(|vlan| vlan.to_string());
        let kind = self.kind.map(Kind::text);
        let fields = [
            ("switch", &self.switch),
            ("port", &self.port),
            ("vlan", &vlan),
            ("mac", &self.mac),
            ("kind", &kind),
        ];
        let given = fields.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        let given = given.collect::<Vec<_>>().join("&");
        if given.is_empty() { given } else { format!("?{given}") }
    }
}

fn name(text: &str) -> Result<String, String> {
    config::check_name(text).map(|()| text.to_owned())
}

/// Letters of a MAC address; whether it is one, the daemon says.
fn mac(text: &str) -> Result<String, String> {
    let letters = text.bytes().all(|letter| letter.is_ascii_hexdigit() || letter == b':');
    if letters && text.len() == "52:54:00:00:00:01".len() {
        Ok(text.to_owned())
    } else {
        Err("accepted: an address such as 52:54:00:00:00:01".into())
    }
}

/// An FDB entry to add.
#[derive(Args, Debug)]
pub(crate) struct NewEntry {
    /// The address
    #[arg(value_parser = mac)]
    mac: String,
    /// Port that it lives behind
    #[arg(long, value_name = "NAME", value_parser = name)]
    port: String,
    /// VLAN [default: the port's native one]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// static and sticky entries neither move nor age; from elsewhere, frames of a static one are dropped
    #[arg(long, value_enum, default_value_t = Kind::Static)]
    kind: Kind,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn fdb_add(socket: &Path, entry: &NewEntry) -> anyhow::Result<String> {
    let kind = Some(entry.kind.text());
    let spec = FdbSpec { mac: entry.mac.clone(), port: entry.port.clone(), vlan: entry.vlan, kind };
    let body = serde_json::to_value(&spec)?;
    let () = client::send(socket, &Ask::change(Method::POST, "/api/fdb", Some(body)))?;
    if entry.output.json {
        json(&spec)
    } else {
        Ok(format!("added: {} behind port.{}\n", spec.mac, spec.port))
    }
}

/// An FDB entry to remove.
#[derive(Args, Debug)]
pub(crate) struct OldEntry {
    /// The address
    #[arg(value_parser = mac)]
    mac: String,
    /// Only that of this switch
    #[arg(long, value_name = "NAME", value_parser = name)]
    switch: Option<String>,
    /// Only that in this VLAN
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn fdb_remove(socket: &Path, entry: &OldEntry) -> anyhow::Result<String> {
    let OldEntry { mac, switch, vlan, output } = entry;
    let (mac, switch) = (Some(mac.clone()), switch.clone());
    let which = Selection { switch, port: None, vlan: *vlan, mac, kind: None };
    let flushed = flush(socket, &which.query())?;
    anyhow::ensure!(flushed.removed > 0, "there is no such entry: {}", entry.mac);
    if output.json { json(&flushed) } else { Ok(removed(flushed)) }
}

/// FDB entries to remove.
#[derive(Args, Debug)]
pub(crate) struct Flush {
    #[command(flatten)]
    which: Selection,
    /// Everything that was learned or is dynamic, on all switches
    #[arg(long, conflicts_with_all = ["switch", "port", "vlan", "mac", "kind"])]
    all: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn fdb_flush(socket: &Path, what: &Flush) -> anyhow::Result<String> {
    let query = what.which.query();
    anyhow::ensure!(
        what.all || !query.is_empty(),
        "say which entries: --switch, --port, --vlan, --mac or --kind, or --all for everything learned"
    );
    let flushed = flush(socket, if what.all { "?all=true" } else { &query })?;
    if what.output.json { json(&flushed) } else { Ok(removed(flushed)) }
}

fn flush(socket: &Path, query: &str) -> anyhow::Result<FlushView> {
    let path = format!("/api/fdb{query}");
    Ok(client::send(socket, &Ask::change(Method::DELETE, &path, None))?)
}

fn removed(flushed: FlushView) -> String {
    match flushed.removed {
        1 => "removed: 1 entry\n".into(),
        count => format!("removed: {count} entries\n"),
    }
}

/// The file to compare with what runs.
#[derive(Args, Debug)]
pub(crate) struct Compared {
    /// The configuration file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: Output,
}
