//! Firmware that drives the card before there is a system: iPXE's virtio-net driver, started by SeaBIOS from the card's ROM (SeaBIOS
//! has no driver for a network card), and UEFI's own one in OVMF ask the network for an address.

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
const LIMIT: Duration = Duration::from_secs(180);

/// UEFI, and the variables that a machine begins with, in the peers' root.
const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "usr/share/OVMF/OVMF_VARS_4M.fd";

/// A server that also names a file to boot and the mask: UEFI declines an address without them.
const SERVER: &str = "printf 'start 10.0.0.50\\nend 10.0.0.60\\ninterface eth0\\nlease_file /tmp/leases\\n\
     siaddr 10.0.0.1\\nopt subnet 255.255.255.0\\nopt lease 3600\\nopt bootfile boot.efi\\n' \
     > /tmp/dhcp.conf; touch /tmp/leases; udhcpd -f /tmp/dhcp.conf > /tmp/dhcp.log 2>&1 &";

/// Firmware with a driver for the card.
struct Firmware {
    name: &'static str,
    /// Interfaces and machines that it is tried with.
    kinds: &'static [(&'static str, &'static str)],
    /// QEMU with the firmware and the card, by the port's name.
    arguments: fn(&Scene, &str) -> anyhow::Result<Vec<String>>,
    /// What it shows when the server has confirmed what it offered: frames went both ways, twice.
    has_address: &'static str,
}

const IPXE: Firmware = Firmware {
    name: "iPXE",
    kinds: &[("modern", "q35"), ("transitional", "q35"), ("legacy", "pc"), ("transitional", "pc")],
    arguments: ipxe,
    has_address: "net0: 10.0.0.",
};

const UEFI: Firmware = Firmware {
    name: "UEFI",
    kinds: &[("modern", "q35"), ("transitional", "q35")],
    arguments: uefi,
    has_address: "Station IP address is 10.0.0.",
};

pub(crate) fn network_boot(scene: &Scene) -> anyhow::Result<()> {
    boots(scene, &IPXE)
}

pub(crate) fn network_boot_uefi(scene: &Scene) -> anyhow::Result<()> {
    boots(scene, &UEFI)
}

/// A machine of each kind at once, until each has an address.
fn boots(scene: &Scene, firmware: &Firmware) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let sections: String = (1..)
        .zip(firmware.kinds)
        .map(|(number, (interface, machine))| {
            let (name, more) = (name(interface, machine), format!(", interface = \"{interface}\""));
            port(&directory, &name, &mac(number), &more, "")
        })
        .collect();
    let mut place = Place::start(scene, &sections)?;
    place.peer.must(SERVER)?;
    let mut machines = Vec::new();
    for (interface, machine) in firmware.kinds {
        machines.push(start(scene, firmware, &name(interface, machine), machine)?);
    }
    for ((interface, machine), peer) in firmware.kinds.iter().zip(&machines) {
        scene.check(&format!("{} has an address, {interface} on {machine}", firmware.name), || {
            let name = name(interface, machine);
            let path = directory.join(format!("{name}.screen"));
            let screen = || String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            wait_until("an address", LIMIT, || screen().contains(firmware.has_address))
                .with_context(|| format!("{}\n{}", tail(&peer.log(), 5), tail(&screen(), 20)))
        })?;
    }
    drop(machines);
    for (interface, machine) in firmware.kinds {
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
fn start(scene: &Scene, firmware: &Firmware, name: &str, machine: &str) -> anyhow::Result<Peer> {
    let directory = scene.directory();
    let mut command = scene.lab().sysroot.command("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-accel", "tcg"]);
    command.args(["-m", "256", "-machine", &format!("{machine},graphics=off,memory-backend=mem")]);
    command.args(["-object", "memory-backend-memfd,id=mem,share=on,size=256M"]);
    command.args(["-serial", &format!("file:{}", directory.join(format!("{name}.screen")).display())]);
    command.args((firmware.arguments)(scene, name)?);
    Peer::start(name, directory, &mut command)
}

/// SeaBIOS, which runs the card's ROM.
fn ipxe(scene: &Scene, name: &str) -> anyhow::Result<Vec<String>> {
    let device_id = if name.starts_with("modern") { 0x1041 } else { 0x1000 };
    let card = json!({ "romfile": rom_for(scene, device_id)?, "bootindex": 1 });
    Ok(vec!["-device".into(), device(scene.directory(), name, card)])
}

/// OVMF with variables of the machine's own. Its network stack does not start without random numbers.
fn uefi(scene: &Scene, name: &str) -> anyhow::Result<Vec<String>> {
    let place = scene.lab().sysroot.path().join(OVMF_VARIABLES);
    let variables = scene.directory().join(format!("{name}.variables"));
    std::fs::copy(&place, &variables).with_context(|| place.display().to_string())?;
    let flash = "if=pflash,format=raw,unit=";
    Ok(vec![
        "-drive".into(),
        format!("{flash}0,readonly=on,file={OVMF}"),
        "-drive".into(),
        format!("{flash}1,file={}", variables.display()),
        "-device".into(),
        "virtio-rng-pci".into(),
        "-device".into(),
        device(scene.directory(), name, json!({ "bootindex": 1 })),
    ])
}
