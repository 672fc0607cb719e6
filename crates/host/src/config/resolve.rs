//! From the file as written to [`Config`]: each section is read, defaults are filled in, and names and addresses are
//! compared across sections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{Place, Reader, Section};
use super::resolved::{
    AGEING_DEFAULT, AGEING_MAX, Attach, Config, ControlConfig, FDB_ENTRIES_DEFAULT, FDB_ENTRIES_MAX, MTU_MIN,
    POOL_THREADS_MAX, PortConfig, Profile, QUEUE_PAIRS_MAX, SocketRole, SwitchConfig, WorkerMode,
    WorkersConfig,
};
use super::values;

const SECTIONS: &[&str] = &["control", "workers", "switch", "port", "disk", "scsi", "share", "gpu"];
const SECTIONS_LATER: &[&str] = &["disk", "scsi", "share", "gpu"];
const SECTION_ACCEPTED: &str = "a table such as [port.web]";
const CONTROL_KEYS: &[&str] = &["socket", "http"];
const WORKERS_KEYS: &[&str] = &["mode", "threads", "cpus"];
const SWITCH_KEYS: &[&str] = &["ageing", "max-entries"];
const PORT_KEYS: &[&str] =
    &["switch", "vhost-user", "tap", "mac", "mtu", "profile", "offloads", "vfio-user", "af-xdp", "packet"];
const ATTACH_LATER: &[&str] = &["vfio-user", "af-xdp", "packet"];
const ATTACH_ACCEPTED: &str = r#"one of vhost-user = { socket = "PATH" } or tap = { name = "INTERFACE" }"#;
const VHOST_USER_KEYS: &[&str] = &["socket", "queue-pairs", "mode"];
const TAP_KEYS: &[&str] = &["name", "queues"];
const LATER_ACCEPTED: &str = "sections switch and port, with vhost-user or tap";
/// CPU numbers that `sched_setaffinity` can name with a plain `cpu_set_t`.
const CPU_MAX: usize = 1023;
/// Bounds on what one file may define.
const SWITCHES_MAX: usize = 256;
const PORTS_MAX: usize = 4096;

/// What is the same for the whole file.
pub(crate) struct Surroundings<'a> {
    /// Directory that relative paths start from; absolute.
    pub(crate) base: &'a Path,
    /// Control socket of a file that names none.
    pub(crate) control_socket: PathBuf,
    /// Number of CPUs this process may use.
    pub(crate) cpu_count: usize,
}

/// Reads the whole document. The answer is meaningful only if no mistake was noted.
pub(crate) fn config(reader: &mut Reader, root: &Section<'_, '_>, around: &Surroundings<'_>) -> Config {
    reader.unknown_keys(root, SECTIONS);
    for section in SECTIONS_LATER {
        for (_, found) in reader.named_tables(root, section, SECTION_ACCEPTED) {
            reader.refuse(
                &found.place,
                format!("{section} is not available in this version"),
                LATER_ACCEPTED,
            );
        }
    }
    let mut taken = Taken::default();
    let control = control(reader, root, around, &mut taken);
    let workers = workers(reader, root, around);
    let switches = switches(reader, root);
    let ports = ports(reader, root, around, &switches, &mut taken);
    Config { control, workers, switches, ports }
}

/// What one port may use and no second one.
#[derive(Default)]
struct Taken {
    sockets: HashMap<PathBuf, Place>,
    taps: HashMap<String, Place>,
    macs: HashMap<[u8; 6], Place>,
}

/// Notes a mistake if `value` is in `map` already.
fn take<K: Eq + std::hash::Hash>(
    reader: &mut Reader,
    map: &mut HashMap<K, Place>,
    value: K,
    shown: String,
    place: &Place,
    accepted: &str,
) {
    match map.get(&value) {
        Some(first) => {
            let what = format!("{shown} is used already by {} at line {}", first.field, first.line);
            reader.refuse(place, what, accepted);
        }
        None => {
            map.insert(value, place.clone());
        }
    }
}

fn control(
    reader: &mut Reader,
    root: &Section<'_, '_>,
    around: &Surroundings<'_>,
    taken: &mut Taken,
) -> ControlConfig {
    let mut config = ControlConfig { socket: around.control_socket.clone(), http: None };
    let Some(section) = reader.table(root, "control", "a table [control]") else { return config };
    reader.unknown_keys(&section, CONTROL_KEYS);
    if let Some(socket) = socket(reader, &section, around, taken) {
        config.socket = socket;
    }
    let http = reader.parsed(&section, "http", r#"an address and port such as "127.0.0.1:9464""#, |text| {
        text.parse::<SocketAddr>().map_err(|_| format!("{text:?} is no address and port"))
    });
    config.http = http.map(|(address, _)| address);
    config
}

fn socket(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    taken: &mut Taken,
) -> Option<PathBuf> {
    let accepted = values::SOCKET_ACCEPTED;
    let (path, place) =
        reader.parsed(section, "socket", accepted, |text| values::socket_path(text, around.base))?;
    let shown = format!("{:?}", path.display().to_string());
    take(reader, &mut taken.sockets, path.clone(), shown, &place, "a path of its own for each socket");
    Some(path)
}

#[derive(Clone, Copy, PartialEq)]
enum Arrangement {
    PerDevice,
    Pool,
    Sidecore,
}

fn workers(reader: &mut Reader, root: &Section<'_, '_>, around: &Surroundings<'_>) -> WorkersConfig {
    let pool = |threads: usize| WorkerMode::Pool { threads: threads.clamp(1, POOL_THREADS_MAX) };
    let mut config = WorkersConfig { mode: pool(around.cpu_count), cpus: Vec::new() };
    let Some(section) = reader.table(root, "workers", "a table [workers]") else { return config };
    reader.unknown_keys(&section, WORKERS_KEYS);
    let words = [
        ("per-device", Arrangement::PerDevice),
        ("pool", Arrangement::Pool),
        ("sidecore", Arrangement::Sidecore),
    ];
    let (mode, place) =
        reader.word(&section, "mode", &words).unwrap_or((Arrangement::Pool, section.place.clone()));
    if mode == Arrangement::Sidecore {
        let what = "\"sidecore\" is not available in this version";
        reader.refuse(&place, what, "\"per-device\" or \"pool\"; \"sidecore\" in a later version");
    }
    let cpus = reader.integers(&section, "cpus", 0..=CPU_MAX);
    config.cpus = cpus.map(|(cpus, _)| cpus).unwrap_or_default();
    let threads = reader.integer(&section, "threads", 1..=POOL_THREADS_MAX);
    match (mode, threads) {
        (Arrangement::PerDevice, Some((_, place))) => {
            reader.refuse(
                &place,
                "\"per-device\" has one thread a device",
                "threads with mode = \"pool\" only",
            );
        }
        (Arrangement::PerDevice, None) => config.mode = WorkerMode::PerDevice,
        (_, Some((threads, _))) => config.mode = pool(threads),
        (_, None) if !config.cpus.is_empty() => config.mode = pool(config.cpus.len()),
        (_, None) => {}
    }
    config
}

fn switches(reader: &mut Reader, root: &Section<'_, '_>) -> Vec<SwitchConfig> {
    let mut sections = reader.named_tables(root, "switch", "tables such as [switch.lan]");
    if let Some((_, section)) = sections.get(SWITCHES_MAX) {
        reader.refuse(&section.place, "one switch too many", format!("at most {SWITCHES_MAX} switches"));
    }
    sections.truncate(SWITCHES_MAX);
    sections.iter().map(|(name, section)| switch(reader, name, section)).collect()
}

fn switch(reader: &mut Reader, name: &str, section: &Section<'_, '_>) -> SwitchConfig {
    if let Err(what) = values::name(name) {
        reader.refuse(&section.place, what, values::NAME_ACCEPTED);
    }
    reader.unknown_keys(section, SWITCH_KEYS);
    let ageing = reader.parsed(section, "ageing", values::AGEING_ACCEPTED, |text| {
        let ageing = values::duration(text)?;
        let fits = (Duration::from_secs(1)..=AGEING_MAX).contains(&ageing);
        if fits { Ok(ageing) } else { Err(format!("{text:?} is out of range")) }
    });
    let entries = reader.integer(section, "max-entries", 1..=FDB_ENTRIES_MAX);
    SwitchConfig {
        name: name.to_owned(),
        ageing: ageing.map_or(AGEING_DEFAULT, |(ageing, _)| ageing),
        entries_max: entries.map_or(FDB_ENTRIES_DEFAULT, |(entries, _)| entries),
    }
}

fn ports(
    reader: &mut Reader,
    root: &Section<'_, '_>,
    around: &Surroundings<'_>,
    switches: &[SwitchConfig],
    taken: &mut Taken,
) -> Vec<PortConfig> {
    let mut sections = reader.named_tables(root, "port", "tables such as [port.web]");
    if let Some((_, section)) = sections.get(PORTS_MAX) {
        reader.refuse(&section.place, "one port too many", format!("at most {PORTS_MAX} ports"));
    }
    sections.truncate(PORTS_MAX);
    let ports = sections.iter().map(|(name, section)| port(reader, name, section, around, switches, taken));
    ports.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// `None` if what the port cannot do without is missing or wrong; that was noted.
fn port(
    reader: &mut Reader,
    name: &str,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    switches: &[SwitchConfig],
    taken: &mut Taken,
) -> Option<PortConfig> {
    if let Err(what) = values::name(name) {
        reader.refuse(&section.place, what, values::NAME_ACCEPTED);
    }
    reader.unknown_keys(section, PORT_KEYS);
    let switch = port_switch(reader, section, switches);
    let attach = attach(reader, section, around, taken);
    let mac = reader.parsed(section, "mac", values::MAC_ACCEPTED, values::unicast_mac);
    if let Some((mac, place)) = &mac {
        let shown = values::mac_text(*mac);
        take(reader, &mut taken.macs, *mac, shown, place, "a MAC address of its own for each port");
    }
    let mtu = reader.integer(section, "mtu", usize::from(MTU_MIN)..=usize::from(u16::MAX));
    let profile = reader.word(section, "profile", &[("guest", Profile::Guest), ("open", Profile::Open)]);
    let offloads = reader.boolean(section, "offloads");
    let attach = attach?;
    let trust = if matches!(attach, Attach::Tap { .. }) { Profile::Open } else { Profile::Guest };
    Some(PortConfig {
        name: name.to_owned(),
        switch: switch?,
        attach,
        mac: mac.map(|(mac, _)| mac),
        mtu: mtu.and_then(|(mtu, _)| u16::try_from(mtu).ok()),
        profile: profile.map_or(trust, |(profile, _)| profile),
        offloads: offloads.unwrap_or(true),
    })
}

fn port_switch(reader: &mut Reader, section: &Section<'_, '_>, switches: &[SwitchConfig]) -> Option<String> {
    const NAMES_SHOWN_MAX: usize = 16;
    let names: Vec<&str> = switches.iter().map(|switch| switch.name.as_str()).collect();
    let mut accepted = match names.as_slice() {
        [] => "the name of a switch; the file defines none, add [switch.lan]".to_owned(),
        names => names[..names.len().min(NAMES_SHOWN_MAX)].join(", "),
    };
    if names.len() > NAMES_SHOWN_MAX {
        accepted.push_str(", ...");
    }
    if !section.has("switch") {
        reader.refuse_if_whole(&section.place, "has no switch", format!("switch = one of: {accepted}"));
        return None;
    }
    let (name, place) = reader.text(section, "switch", &accepted)?;
    if !names.contains(&name) {
        reader.refuse_if_whole(&place, format!("there is no switch {name:?}"), accepted);
        return None;
    }
    Some(name.to_owned())
}

fn attach(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    taken: &mut Taken,
) -> Option<Attach> {
    let mut found = Vec::new();
    for key in ["vhost-user", "tap"].iter().chain(ATTACH_LATER) {
        if let Some(table) = reader.table(section, key, ATTACH_ACCEPTED) {
            found.push((*key, table));
        }
    }
    found.sort_by_key(|(_, table)| table.place.line);
    let mut attach = None;
    for (index, (key, table)) in found.iter().enumerate() {
        let read = match *key {
            "vhost-user" => vhost_user(reader, table, around, taken),
            "tap" => tap(reader, table, taken),
            later => {
                let what = format!("{later} is not available in this version");
                reader.refuse(&table.place, what, ATTACH_ACCEPTED);
                None
            }
        };
        if index == 0 {
            attach = read;
        } else {
            let what = format!("the port has {} already", found[0].0);
            reader.refuse(&table.place, what, format!("exactly {ATTACH_ACCEPTED}"));
        }
    }
    let written = ["vhost-user", "tap"].iter().chain(ATTACH_LATER).any(|key| section.has(key));
    if !written {
        reader.refuse_if_whole(&section.place, "is attached to nothing", ATTACH_ACCEPTED);
    }
    attach
}

fn vhost_user(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    taken: &mut Taken,
) -> Option<Attach> {
    reader.unknown_keys(section, VHOST_USER_KEYS);
    if !section.has("socket") {
        reader.refuse_if_whole(
            &section.place,
            "has no socket",
            format!("socket = {}", values::SOCKET_ACCEPTED),
        );
    }
    let socket = socket(reader, section, around, taken);
    let pairs = reader.integer(section, "queue-pairs", 1..=usize::from(QUEUE_PAIRS_MAX));
    let role =
        reader.word(section, "mode", &[("server", SocketRole::Server), ("client", SocketRole::Client)]);
    Some(Attach::VhostUser {
        socket: socket?,
        role: role.map_or(SocketRole::Server, |(role, _)| role),
        queue_pairs: pairs.and_then(|(pairs, _)| u16::try_from(pairs).ok()).unwrap_or(1),
    })
}

fn tap(reader: &mut Reader, section: &Section<'_, '_>, taken: &mut Taken) -> Option<Attach> {
    let accepted = values::INTERFACE_ACCEPTED;
    reader.unknown_keys(section, TAP_KEYS);
    if !section.has("name") {
        reader.refuse_if_whole(&section.place, "has no name", format!("name = {accepted}"));
    }
    let name = reader
        .parsed(section, "name", accepted, |text| values::interface_name(text).map(|()| text.to_owned()));
    let queues = reader.integer(section, "queues", 1..=usize::from(QUEUE_PAIRS_MAX));
    let (name, place) = name?;
    let shown = format!("{name:?}");
    take(reader, &mut taken.taps, name.clone(), shown, &place, "an interface of its own for each port");
    Some(Attach::Tap { name, queues: queues.and_then(|(queues, _)| u16::try_from(queues).ok()).unwrap_or(1) })
}
