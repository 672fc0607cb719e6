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

/// Makes an empty qcow2 image of version 3: header, refcounts and an L1 table, each in a cluster of its own of 64 KiB.
pub(crate) fn make_qcow2(path: &Path, bytes: u64) -> anyhow::Result<()> {
    const CLUSTER: u64 = 1 << 16;
    let mut image = vec![0u8; 4 * CLUSTER as usize];
    let mut put =
        |at: u64, bytes: &[u8]| image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &bytes.to_be_bytes());
    // One entry of the L1 table is good for 512 MiB.
    put(36, &1u32.to_be_bytes());
    put(40, &(3 * CLUSTER).to_be_bytes());
    put(48, &CLUSTER.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    // Refcounts of 1 << 4 bits, and the header's length.
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER).to_be_bytes());
    (0..4).for_each(|cluster| put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes()));
    Ok(std::fs::write(path, image)?)
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
