//! From the file as written to [`Config`]: each section is read, defaults are filled in, and names and addresses are
//! compared across sections. `port` reads a port, `disk` a disk, `attach` what is on its other side, `addresses` what it may send from;
//! `claims` remembers what only one port may have.

mod addresses;
mod attach;
mod claims;
mod disk;
mod port;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use switch::Tagging;

use super::keys;
use super::raw::{Reader, Section};
use super::resolved::{
    AGEING_DEFAULT, AGEING_MAX, Config, ControlConfig, DiskConfig, FDB_ENTRIES_DEFAULT, FDB_ENTRIES_MAX,
    POOL_THREADS_MAX, Polling, PortConfig, SwitchConfig, WorkerGroupConfig, WorkerMode, WorkersConfig,
};
use super::values;
use claims::{Claims, take};

const SECTION_ACCEPTED: &str = "a table such as [port.web]";
/// CPU numbers that `sched_setaffinity` can name with a plain `cpu_set_t`.
const CPU_MAX: usize = 1023;
/// Bounds on what one file may define.
const SWITCHES_MAX: usize = 256;
const GROUPS_MAX: usize = 64;
const PORTS_MAX: usize = 4096;
const DISKS_MAX: usize = 4096;

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
    reader.unknown_keys(root, keys::SECTIONS, keys::SECTIONS_LATER);
    for section in keys::SECTIONS_LATER {
        for (_, found) in reader.named_tables(root, section, SECTION_ACCEPTED) {
            reader.refuse(
                &found.place,
                format!("{section} is not available in this version"),
                "sections switch, port and disk",
            );
        }
    }
    let mut claims = Claims::default();
    let control = control(reader, root, around, &mut claims);
    let section = reader.table(root, "workers", "a table [workers]");
    let workers = workers(reader, section.as_ref(), around);
    let worker_groups = worker_groups(reader, root, around);
    let switches = switches(reader, root);
    let disks = disks(reader, root, around, &worker_groups, &mut claims);
    let ports = ports(reader, root, around, (&switches, &worker_groups), claims);
    Config { control, workers, worker_groups, switches, ports, disks }
}

fn control(
    reader: &mut Reader,
    root: &Section<'_, '_>,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> ControlConfig {
    let mut config = ControlConfig { socket: around.control_socket.clone(), http: None, token_file: None };
    let Some(section) = reader.table(root, "control", "a table [control]") else { return config };
    reader.unknown_keys(&section, keys::CONTROL, &[]);
    if let Some(socket) = socket(reader, &section, "socket", around, claims) {
        config.socket = socket;
    }
    let http = reader.parsed(&section, "http", r#"an address and port such as "127.0.0.1:9464""#, |text| {
        text.parse::<SocketAddr>().map_err(|_| format!("{text:?} is no address and port"))
    });
    config.http = http.map(|(address, _)| address);
    let token = reader
        .parsed(&section, "token-file", values::FILE_ACCEPTED, |text| values::file_path(text, around.base));
    config.token_file = token.map(|(path, _)| path);
    config
}

/// The path of a unix socket under `key`, which nothing else in the file may use.
fn socket(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    key: &str,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> Option<PathBuf> {
    let accepted = values::SOCKET_ACCEPTED;
    let (path, place) =
        reader.parsed(section, key, accepted, |text| values::socket_path(text, around.base))?;
    let shown = format!("{:?}", path.display().to_string());
    take(reader, &mut claims.sockets, path.clone(), shown, &place, "a path of its own for each socket");
    Some(path)
}

#[derive(Clone, Copy, PartialEq)]
enum Arrangement {
    PerDevice,
    Pool,
    Sidecore,
}

/// Reads `[workers]` or a `[worker-group.NAME]`; a table that is not there is as good as an empty one.
fn workers(
    reader: &mut Reader,
    section: Option<&Section<'_, '_>>,
    around: &Surroundings<'_>,
) -> WorkersConfig {
    let threads = around.cpu_count.clamp(1, POOL_THREADS_MAX);
    let mode = WorkerMode::Pool { threads };
    let mut config = WorkersConfig { mode, cpus: Vec::new(), polling: Polling::Adaptive };
    let Some(section) = section else { return config };
    reader.unknown_keys(section, keys::WORKERS, &[]);
    let words = [
        ("per-device", Arrangement::PerDevice),
        ("pool", Arrangement::Pool),
        ("sidecore", Arrangement::Sidecore),
    ];
    let mode = reader.word(section, "mode", &words).map_or(Arrangement::Pool, |(mode, _)| mode);
    let words = [("adaptive", Polling::Adaptive), ("always", Polling::Always)];
    config.polling =
        reader.word(section, "polling", &words).map_or(Polling::Adaptive, |(polling, _)| polling);
    let cpus = reader.integers(section, "cpus", 0..=CPU_MAX);
    config.cpus = cpus.map(|(cpus, _)| cpus).unwrap_or_default();
    let written = reader.integer(section, "threads", 1..=POOL_THREADS_MAX);
    if let (Arrangement::PerDevice, Some((_, place))) = (mode, &written) {
        let accepted = "threads with mode = \"pool\" or \"sidecore\" only";
        reader.refuse(place, "\"per-device\" has one thread a device", accepted);
    }
    let threads = match (written, config.cpus.len(), mode) {
        (Some((threads, _)), ..) => threads,
        (None, 0, Arrangement::Sidecore) => 1,
        (None, 0, _) => threads,
        (None, cpus, _) => cpus,
    };
    config.mode = match mode {
        Arrangement::PerDevice => WorkerMode::PerDevice,
        Arrangement::Pool => WorkerMode::Pool { threads },
        Arrangement::Sidecore => WorkerMode::Sidecore { threads },
    };
    config
}

fn worker_groups(
    reader: &mut Reader,
    root: &Section<'_, '_>,
    around: &Surroundings<'_>,
) -> Vec<WorkerGroupConfig> {
    let mut sections = reader.named_tables(root, "worker-group", "tables such as [worker-group.fast]");
    if let Some((_, section)) = sections.get(GROUPS_MAX) {
        reader.refuse(
            &section.place,
            "one group too many",
            format!("at most {GROUPS_MAX} groups of workers"),
        );
    }
    sections.truncate(GROUPS_MAX);
    let group = |(name, section): &(&str, Section<'_, '_>)| {
        if let Err(what) = values::name(name) {
            reader.refuse(&section.place, what, values::NAME_ACCEPTED);
        }
        WorkerGroupConfig { name: (*name).to_owned(), workers: workers(reader, Some(section), around) }
    };
    sections.iter().map(group).collect()
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
    reader.unknown_keys(section, keys::SWITCH, &[]);
    let ageing = reader.parsed(section, "ageing", values::AGEING_ACCEPTED, |text| {
        let ageing = values::duration(text)?;
        let fits = (Duration::from_secs(1)..=AGEING_MAX).contains(&ageing);
        if fits { Ok(ageing) } else { Err(format!("{text:?} is out of range")) }
    });
    let entries = reader.integer(section, "max-entries", 1..=FDB_ENTRIES_MAX);
    let words = [("none", None), ("802.1q", Some(Tagging::Customer)), ("802.1ad", Some(Tagging::Service))];
    // A wrong word is one mistake: the ports' VLANs are read as if it were a right one.
    let doubt = section.has("vlan").then_some(Tagging::Customer);
    let tagging = reader.word(section, "vlan", &words).map_or(doubt, |(tagging, _)| tagging);
    let snooping = reader.boolean(section, "snooping");
    SwitchConfig {
        name: name.to_owned(),
        ageing: ageing.map_or(AGEING_DEFAULT, |(ageing, _)| ageing),
        entries_max: entries.map_or(FDB_ENTRIES_DEFAULT, |(entries, _)| entries),
        tagging,
        snooping: snooping.unwrap_or(true),
    }
}

fn ports(
    reader: &mut Reader,
    root: &Section<'_, '_>,
    around: &Surroundings<'_>,
    (switches, groups): (&[SwitchConfig], &[WorkerGroupConfig]),
    claims: Claims,
) -> Vec<PortConfig> {
    let mut sections = reader.named_tables(root, "port", "tables such as [port.web]");
    if let Some((_, section)) = sections.get(PORTS_MAX) {
        reader.refuse(&section.place, "one port too many", format!("at most {PORTS_MAX} ports"));
    }
    sections.truncate(PORTS_MAX);
    let mut ports = port::Ports::new(around, switches, groups, claims);
    let read: Vec<_> = sections.iter().map(|(name, section)| ports.port(reader, name, section)).collect();
    ports.compare(reader);
    read.into_iter().flatten().collect()
}

fn disks(
    reader: &mut Reader,
    root: &Section<'_, '_>,
    around: &Surroundings<'_>,
    groups: &[WorkerGroupConfig],
    claims: &mut Claims,
) -> Vec<DiskConfig> {
    let mut sections = reader.named_tables(root, "disk", "tables such as [disk.root]");
    if let Some((_, section)) = sections.get(DISKS_MAX) {
        reader.refuse(&section.place, "one disk too many", format!("at most {DISKS_MAX} disks"));
    }
    sections.truncate(DISKS_MAX);
    let read: Vec<_> = sections
        .iter()
        .map(|(name, section)| disk::disk(reader, name, section, around, groups, claims))
        .collect();
    read.into_iter().flatten().collect()
}
