//! Firmware that drives the card before there is a system: iPXE's virtio-net driver, started by SeaBIOS from the card's ROM,
//! asks the network for an address.

use crate::place::{Place, device, port};
use anyhow::Context;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::{Peer, tail, wait_until};

/// iPXE's driver as an option ROM, in the peers' root. It drives every virtio network device, but names one in its header.
const ROM: &str = "usr/share/qemu/pxe-virtio.rom";

/// Time in which firmware has an address; software emulation on a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(90);

const KINDS: [(&str, &str); 4] =
    [("modern", "q35"), ("transitional", "q35"), ("legacy", "pc"), ("transitional", "pc")];

const SERVER: &str = "printf 'start 10.0.0.50\\nend 10.0.0.60\\ninterface eth0\\nlease_file /tmp/leases\\n' \
     > /tmp/dhcp.conf; touch /tmp/leases; udhcpd -f /tmp/dhcp.conf > /tmp/dhcp.log 2>&1 &";

pub(crate) fn network_boot(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let sections: String = (1..)
        .zip(KINDS)
        .map(|(number, (interface, machine))| {
            let (name, more) = (name(interface, machine), format!(", interface = \"{interface}\""));
            port(&directory, &name, &mac(number), &more, "")
        })
        .collect();
    let mut place = Place::start(scene, &sections)?;
    place.peer.must(SERVER)?;
    let mut machines = Vec::new();
    for (interface, machine) in KINDS {
        machines.push(start(scene, &name(interface, machine), machine)?);
    }
    for ((interface, machine), peer) in KINDS.into_iter().zip(&machines) {
        scene.check(&format!("iPXE has an address, {interface} on {machine}"), || {
            let name = name(interface, machine);
            let path = directory.join(format!("{name}.screen"));
            let screen = || String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            // It says so when the server has confirmed what it offered: frames went both ways, twice.
            wait_until("an address", LIMIT, || screen().contains("net0: 10.0.0."))
                .with_context(|| format!("{}\n{}", tail(&peer.log(), 5), tail(&screen(), 20)))
        })?;
    }
    drop(machines);
    for (interface, machine) in KINDS {
        place.ringway.wait_port(&name(interface, machine), "waiting", Duration::from_secs(5))?;
    }
    Ok(())
}

fn name(interface: &str, machine: &str) -> String {
    format!("{interface}{machine}")
}

fn mac(number: u8) -> String {
    format!("52:54:00:00:06:{number:02x}")
}

/// The ROM with this device id in its header, where firmware looks whom it is for (PCI Firmware 3.0 §5.1.2), as a file.
fn rom_for(scene: &Scene, device_id: u16) -> anyhow::Result<PathBuf> {
    let place = scene.lab().sysroot.path().join(ROM);
    let mut rom = std::fs::read(&place).with_context(|| place.display().to_string())?;
    let pointer = rom.get(0x18..0x1a).context("a ROM without header")?;
    let at = usize::from(u16::from_le_bytes([pointer[0], pointer[1]])) + 6;
    for (byte, new) in (at..).zip(device_id.to_le_bytes()) {
        let old = std::mem::replace(rom.get_mut(byte).context("a ROM without PCI data")?, new);
        // All bytes together are 0; one behind the entry point belongs to nobody.
        rom[6] = rom[6].wrapping_add(old).wrapping_sub(new);
    }
    let patched = scene.directory().join(format!("{device_id:04x}.rom"));
    std::fs::write(&patched, rom).context("the ROM")?;
    Ok(patched)
}

/// A machine with nothing but firmware and a card, whose screen is a file.
fn start(scene: &Scene, name: &str, machine: &str) -> anyhow::Result<Peer> {
    let directory = scene.directory();
    let mut command = scene.lab().sysroot.command("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-accel", "tcg"]);
    command.args(["-m", "128", "-machine", &format!("{machine},graphics=off,memory-backend=mem")]);
    command.args(["-object", "memory-backend-memfd,id=mem,share=on,size=128M"]);
    command.args(["-serial", &format!("file:{}", directory.join(format!("{name}.screen")).display())]);
    let device_id = if name.starts_with("modern") { 0x1041 } else { 0x1000 };
    let card = json!({ "romfile": rom_for(scene, device_id)?, "bootindex": 1 });
    command.args(["-device", &device(directory, name, card)]);
    Peer::start(name, directory, &mut command)
}
