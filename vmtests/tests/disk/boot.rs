//! Firmware that reads a disk before there is a system: SeaBIOS's virtio-blk driver loads a boot sector.

use crate::place::{Way, attach, disk, image};
use anyhow::Context;
use std::time::Duration;
use vmtests::guest::GuestConfig;
use vmtests::harness::Scene;
use vmtests::process::{Peer, tail, wait_until};
use vmtests::ringway::{Config, Ringway};

/// Time in which firmware has come so far; software emulation on a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(60);
/// What the sector writes to QEMU's debug console, port 0xe9.
const WORD: &[u8] = b"booted from ringway";

/// Ways, and the machines that they are tried on.
const KINDS: [(&str, Way, &str); 5] = [
    ("user", Way::VhostUser { queues: 1, properties: "" }, "q35"),
    ("packed", Way::VhostUser { queues: 1, properties: ",packed=on" }, "q35"),
    ("modern", Way::VfioUser { interface: "modern" }, "q35"),
    ("transitional", Way::VfioUser { interface: "transitional" }, "pc"),
    ("legacy", Way::VfioUser { interface: "legacy" }, "pc"),
];

pub(crate) fn booted_from(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory();
    let mut config = Config::new(directory, "mode = \"pool\"\nthreads = 1");
    for (name, way, _) in KINDS {
        let path = image(directory, name);
        std::fs::write(&path, boot_disk())?;
        config = disk(config, directory, name, way, &format!("file = {path:?}"));
    }
    let _ringway = scene.check("ringway serves", || Ringway::start(config))?;
    let mut machines = Vec::new();
    for (name, way, machine) in KINDS {
        machines.push(start(scene, name, way, machine)?);
    }
    for ((name, _, machine), peer) in KINDS.iter().zip(&machines) {
        scene.check(&format!("SeaBIOS boots from {name} on {machine}"), || {
            let path = directory.join(format!("{name}.debug"));
            let is_there =
                || std::fs::read(&path).is_ok_and(|found| found.windows(WORD.len()).any(|part| part == WORD));
            wait_until("the boot sector's word", LIMIT, is_there).with_context(|| tail(&peer.log(), 5))
        })?;
    }
    Ok(())
}

/// A disk of 1 MiB whose first sector is a program.
fn boot_disk() -> Vec<u8> {
    // cld; mov si, 0x7c10; next: lodsb; or al, al; jz end; out 0xe9, al; jmp next; end: hlt; jmp end; the word
    const PROGRAM: [u8; 16] =
        [0xfc, 0xbe, 0x10, 0x7c, 0xac, 0x08, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7, 0xf4, 0xeb, 0xfd];
    let mut disk = vec![0; 1 << 20];
    disk[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    disk[PROGRAM.len()..PROGRAM.len() + WORD.len()].copy_from_slice(WORD);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A machine with nothing but firmware and a disk.
fn start(scene: &Scene, name: &str, way: Way, machine: &str) -> anyhow::Result<Peer> {
    let directory = scene.directory();
    let mut guest = GuestConfig::new(name);
    attach(&mut guest, directory, name, way);
    let mut command = scene.lab().sysroot.command("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-accel", "tcg"]);
    command.args(["-m", "256", "-machine", &format!("{machine},memory-backend=mem")]);
    command.args(["-object", "memory-backend-memfd,id=mem,share=on,size=256M"]);
    command.args(["-debugcon", &format!("file:{}", directory.join(format!("{name}.debug")).display())]);
    command.args(&guest.arguments);
    Peer::start(name, directory, &mut command)
}
