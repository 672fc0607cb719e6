//! What a valid configuration needs from this machine: directories, permissions, devices, CPUs. Nothing is changed.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use super::resolved::{Attach, SocketRole};
use super::token::{TOKEN_ACCEPTED, read_token};
use super::{ConfigError, Loaded, Mistake};

const TUN_DEVICE: &str = "/dev/net/tun";
const INTERFACES: &str = "/sys/class/net";
/// `CAP_NET_ADMIN`: capabilities(7).
const CAP_NET_ADMIN: u32 = 12;

/// Checks `loaded` against the machine; every mistake is reported.
pub fn environment_check(loaded: &Loaded) -> Result<(), ConfigError> {
    let mut check = Check { loaded, mistakes: Vec::new() };
    check.control();
    check.cpus();
    for port in &loaded.config.ports {
        let field = format!("port.{}.{}", port.name, port.attach.kind());
        match &port.attach {
            Attach::VhostUser { socket, role, .. } => check.socket(&format!("{field}.socket"), socket, *role),
            Attach::VfioUser { socket, .. } => {
                check.socket(&format!("{field}.socket"), socket, SocketRole::Server)
            }
            Attach::Tap { name, .. } => check.tap(&format!("{field}.name"), name),
            Attach::Macvtap { interface, fds, .. } => {
                check.interface(&format!("{field}.interface"), interface);
                check.descriptors(&format!("{field}.fds"), fds);
            }
            Attach::Packet { interface } | Attach::AfXdp { interface, .. } => {
                check.interface(&format!("{field}.interface"), interface);
            }
        }
        if let Some(qmp) = &port.qmp {
            let field = format!("port.{}.qmp", port.name);
            check.socket(&field, &qmp.socket, SocketRole::Client);
        }
    }
    for disk in &loaded.config.disks {
        let field = format!("disk.{}", disk.name);
        let attach = &disk.attach;
        check.socket(&format!("{field}.{}.socket", attach.kind()), &attach.socket, attach.role);
        if let Some(path) = disk.image.path() {
            check.image(&format!("{field}.file"), path, disk.read_only);
        }
    }
    if check.mistakes.is_empty() { Ok(()) } else { Err(ConfigError::new(&loaded.file, check.mistakes)) }
}

struct Check<'a> {
    loaded: &'a Loaded,
    mistakes: Vec<Mistake>,
}

impl Check<'_> {
    fn refuse(&mut self, field: &str, what: String, accepted: &str) {
        let line = self.loaded.line(field);
        self.mistakes.push(Mistake { line, field: field.into(), what, accepted: accepted.into() });
    }

    fn control(&mut self) {
        let socket = &self.loaded.config.control.socket;
        let made_on_start = *socket == super::default_control_socket();
        let directory_missing = socket.parent().is_some_and(|directory| !directory.exists());
        if made_on_start && directory_missing {
            // `run` makes the directory of the default socket; its parent is what has to be there.
            let parent = socket.parent().unwrap_or(socket);
            self.directory("control.socket", parent);
        } else {
            self.socket("control.socket", socket, SocketRole::Server);
        }
        if let Some(path) = &self.loaded.config.control.token_file
            && let Err(what) = read_token(path)
        {
            self.refuse("control.token-file", format!("{} {what}", path.display()), TOKEN_ACCEPTED);
        }
    }

    fn cpus(&mut self) {
        let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
        let config = &self.loaded.config;
        let named =
            config.worker_groups.iter().map(|group| (format!("worker-group.{}", group.name), &group.workers));
        let groups: Vec<_> = std::iter::once(("workers".to_owned(), &config.workers)).chain(named).collect();
        let cpus = groups.iter().flat_map(|(section, workers)| {
            workers.cpus.iter().enumerate().map(move |(index, cpu)| (section, index, cpu))
        });
        for (section, index, cpu) in cpus {
            if *cpu >= rustix::thread::CpuSet::MAX_CPU || !allowed.is_set(*cpu) {
                let what = format!("cpus[{index}] = {cpu} is no CPU this process may use");
                self.refuse(
                    &format!("{section}.cpus"),
                    what,
                    "CPUs of this machine that the process is allowed to run on",
                );
            }
        }
    }

    fn socket(&mut self, field: &str, socket: &Path, role: SocketRole) {
        let shown = socket.display();
        match fs::symlink_metadata(socket) {
            Ok(found) if !found.file_type().is_socket() => {
                let what = format!("{shown} exists and is no socket");
                self.refuse(field, what, "a path that is free or a socket");
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                self.refuse(field, format!("{shown}: {error}"), "a path this process may reach");
            }
            _ if role == SocketRole::Server => self.directory(field, socket),
            _ => {}
        }
    }

    /// A socket is to be made at `socket`: its directory must exist and be writable.
    fn directory(&mut self, field: &str, socket: &Path) {
        let directory = socket.parent().unwrap_or(Path::new("/"));
        let shown = directory.display();
        let accepted = "a socket in a directory that exists and is writable";
        match fs::metadata(directory) {
            Err(error) => self.refuse(field, format!("directory {shown}: {error}"), accepted),
            Ok(found) if !found.is_dir() => self.refuse(field, format!("{shown} is no directory"), accepted),
            Ok(_) => {
                let wanted = Access::WRITE_OK | Access::EXEC_OK;
                if let Err(error) = rustix::fs::accessat(CWD, directory, wanted, AtFlags::EACCESS) {
                    let error = std::io::Error::from(error);
                    self.refuse(field, format!("directory {shown} is not writable: {error}"), accepted);
                }
            }
        }
    }

    /// The image of a disk must be there, and may be read, and written unless nobody may.
    fn image(&mut self, field: &str, path: &Path, read_only: bool) {
        let shown = path.display();
        let accepted = "a file or a block device that exists";
        let kind = match fs::metadata(path) {
            Err(error) => return self.refuse(field, format!("{shown}: {error}"), accepted),
            Ok(found) => found.file_type(),
        };
        if !kind.is_file() && !kind.is_block_device() {
            return self.refuse(field, format!("{shown} is no file and no block device"), accepted);
        }
        let (wanted, what) = match read_only {
            true => (Access::READ_OK, "read"),
            false => (Access::READ_OK | Access::WRITE_OK, "read and write"),
        };
        if let Err(error) = rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
            let error = std::io::Error::from(error);
            let accepted = format!("an image that this process may {what}");
            self.refuse(field, format!("{shown}: {error}"), &accepted);
        }
    }

    /// Asks the kernel rather than sysfs, which may show another network namespace.
    fn interface(&mut self, field: &str, name: &str) {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None);
        let index = socket.and_then(|socket| rustix::net::netdevice::name_to_index(socket, name));
        if let Err(error) = index {
            let what = format!("interface {name}: {}", std::io::Error::from(error));
            self.refuse(field, what, "an interface that exists");
        }
    }

    fn descriptors(&mut self, field: &str, fds: &[i32]) {
        for fd in fds {
            let device = fs::metadata(format!("/proc/self/fd/{fd}"));
            if !device.is_ok_and(|found| found.file_type().is_char_device()) {
                let what = format!("{fd} is no open descriptor of a character device");
                self.refuse(
                    field,
                    what,
                    "descriptors of the macvtap's device that were passed to this process",
                );
            }
        }
    }

    fn tap(&mut self, field: &str, name: &str) {
        let wanted = Access::READ_OK | Access::WRITE_OK;
        if let Err(error) = rustix::fs::accessat(CWD, TUN_DEVICE, wanted, AtFlags::EACCESS) {
            let what = format!("{TUN_DEVICE}: {}", std::io::Error::from(error));
            self.refuse(field, what, "a machine with the tun module, and access to its device");
            return;
        }
        let interface = Path::new(INTERFACES).join(name);
        if !interface.exists() {
            if !may_administer_network() {
                let what = format!("there is no interface {name} and making one is not permitted");
                self.refuse(field, what, "an existing tap, or a process with CAP_NET_ADMIN");
            }
        } else if !interface.join("tun_flags").exists() {
            let what = format!("{name} is an interface but no tap");
            self.refuse(field, what, "a tap interface, or a name that is free");
        }
    }
}

fn may_administer_network() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hexadecimal| u64::from_str_radix(hexadecimal.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << CAP_NET_ADMIN) != 0)
}
