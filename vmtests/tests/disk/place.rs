//! A guest and its disks.

use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use vmtests::guest::GuestConfig;
use vmtests::ringway::Config;

/// How a guest gets at a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// vhost-user, with so many queues and further properties of QEMU's device.
    VhostUser { queues: u16, properties: &'static str },
    /// vfio-user, with this register interface.
    VfioUser { interface: &'static str },
}

/// Path of a disk's image in the scene's directory.
pub(crate) fn image(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.img"))
}

/// Makes an empty image.
pub(crate) fn make_image(directory: &Path, name: &str, bytes: u64) -> anyhow::Result<PathBuf> {
    let path = image(directory, name);
    File::create(&path)?.set_len(bytes)?;
    Ok(path)
}

/// Adds a disk to a configuration, with `lines` in its section. Its socket is `NAME.sock`.
pub(crate) fn disk(config: Config, directory: &Path, name: &str, way: Way, lines: &str) -> Config {
    let socket = directory.join(format!("{name}.sock"));
    let attach = match way {
        Way::VhostUser { queues, .. } => format!("vhost-user = {{ socket = {socket:?}, queues = {queues} }}"),
        Way::VfioUser { interface } => {
            format!("vfio-user = {{ socket = {socket:?}, interface = \"{interface}\" }}")
        }
    };
    config.section(&format!("\n[disk.{name}]\n{attach}\n{lines}\n"))
}

/// Gives a guest the disk.
pub(crate) fn attach(guest: &mut GuestConfig, directory: &Path, name: &str, way: Way) {
    let socket = directory.join(format!("{name}.sock"));
    let arguments = match way {
        Way::VhostUser { queues, properties } => vec![
            "-chardev".into(),
            format!("socket,id=chr-{name},path={},reconnect-ms=100", socket.display()),
            "-device".into(),
            format!("vhost-user-blk-pci,id={name},chardev=chr-{name},num-queues={queues}{properties}"),
        ],
        Way::VfioUser { .. } => vec![
            "-device".into(),
            json!({ "driver": "vfio-user-pci", "id": name, "socket": { "type": "unix", "path": socket } })
                .to_string(),
        ],
    };
    guest.arguments.extend(arguments);
}
