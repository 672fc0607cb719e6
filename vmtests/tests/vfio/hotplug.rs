//! Cards that come and go while the guest runs: added and removed, over vhost-user and over vfio-user, and the virtual functions of
//! SR-IOV over vhost-user.

use crate::linux::traffic_on;
use crate::place::{Place, device, port};
use anyhow::ensure;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;
use vmtests::qmp;

/// Virtual functions of the test.
const VFS: u8 = 3;

fn mac(number: u8) -> String {
    format!("52:54:00:00:05:{number:02x}")
}

/// Sections of ports `card0`, `card1`, ... on vhost-user.
fn ports(directory: &Path, count: u8) -> String {
    let mut text = String::new();
    for number in 0..count {
        let socket = directory.join(format!("card{number}.sock"));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[port.card{number}]\nswitch = \"lan\"\nvhost-user = {{ socket = {socket:?} }}\nmac = \"{}\"\n\
             profile = \"open\"\n",
            mac(number)
        );
    }
    text
}

/// QEMU's back-end of card `number`.
fn backend(directory: &Path, number: u8) -> Vec<String> {
    let socket = directory.join(format!("card{number}.sock"));
    vec![
        "-chardev".into(),
        format!("socket,id=card{number},path={},reconnect-ms=200", socket.display()),
        "-netdev".into(),
        format!("vhost-user,id=net{number},chardev=card{number}"),
    ]
}

/// Waits in the guest until there are `count` cards beside `lo`.
fn wait_cards(guest: &mut Guest, count: usize) -> anyhow::Result<()> {
    guest.must(&format!(
        "for i in $(seq 200); do [ $(ls -d /sys/class/net/eth* 2>/dev/null | wc -l) = {count} ] && exit 0; \
         sleep 0.1; done; ls /sys/class/net; exit 1"
    ))?;
    Ok(())
}

/// A guest with a root port and a monitor, and no card.
fn bare(scene: &Scene, more: Vec<String>) -> anyhow::Result<(Guest, PathBuf)> {
    let monitor = scene.directory().join("plugged.qmp");
    let mut config = GuestConfig::new("plugged");
    config.arguments = ["-device", "pcie-root-port,id=rp0,chassis=1", "-qmp"].map(str::to_owned).to_vec();
    config.arguments.push(format!("unix:{},server=on,wait=off", monitor.display()));
    config.arguments.extend(more);
    let guest = scene.check("a guest boots without a card", || Guest::boot(scene.lab(), config))?;
    Ok((guest, monitor))
}

/// Removes the card `plugged`, and waits until the guest has let it go.
fn remove(monitor: &Path, guest: &mut Guest) -> anyhow::Result<()> {
    let gone = qmp::execute_until(monitor, "device_del", &json!({ "id": "plugged" }), "DEVICE_DELETED")?;
    ensure!(gone["path"].is_string(), "deleted: {gone}");
    wait_cards(guest, 0)
}

/// A whole function; without MSI-X, since QEMU 11.1 aborts when it removes one with it.
pub(crate) fn functions_added_and_removed(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let section = port(&directory, "plugged", &mac(0), ", interrupts = \"intx\"", "");
    let mut place = Place::start(scene, &section)?;
    let (mut guest, monitor) = bare(scene, Vec::new())?;
    let added: serde_json::Value =
        serde_json::from_str(&device(&directory, "plugged", json!({ "bus": "rp0" })))?;
    for round in 1..=2 {
        scene.check(&format!("a function is added, round {round}: ping, TCP both ways"), || {
            qmp::execute(&monitor, "device_add", &added)?;
            wait_cards(&mut guest, 1)?;
            let shown = guest.must("lspci -nvvv -d 1af4:")?;
            ensure!(shown.contains("driver in use: virtio-pci") && !shown.contains("MSI-X"), "{shown}");
            traffic_on(&mut place, &mut guest, &mac(0))
        })?;
        scene.check(&format!("removed, round {round}: the port waits for the next client"), || {
            remove(&monitor, &mut guest)?;
            place.ringway.wait_port("plugged", "waiting", Duration::from_secs(5))
        })?;
    }
    Ok(())
}

pub(crate) fn added_and_removed(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let mut place = Place::start(scene, &ports(&directory, 1))?;
    let (mut guest, monitor) = bare(scene, backend(&directory, 0))?;
    for round in 1..=2 {
        scene.check(&format!("added, round {round}: ping, TCP both ways"), || {
            let added = json!({
                "driver": "virtio-net-pci", "id": "plugged", "netdev": "net0", "bus": "rp0", "mac": mac(0)
            });
            qmp::execute(&monitor, "device_add", &added)?;
            wait_cards(&mut guest, 1)?;
            traffic_on(&mut place, &mut guest, &mac(0))
        })?;
        scene.check(
            &format!("removed, round {round}: the guest has let it go, and so has its port"),
            || {
                remove(&monitor, &mut guest)?;
                let queues = place.ringway.ask(&["port", "show", "card0"])?;
                let running = queues["state"].as_str() == Some("running");
                ensure!(!running, "the queues of a card that is gone run: {queues}");
                Ok(())
            },
        )?;
    }
    Ok(())
}

pub(crate) fn virtual_functions(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let mut place = Place::start(scene, &ports(&directory, 1 + VFS))?;
    let mut config = GuestConfig::new("virtual");
    config.arguments = vec!["-device".into(), "pcie-root-port,id=rp0,chassis=1".into()];
    for number in (0..=VFS).rev() {
        let role = if number == 0 { "id=physical" } else { "sriov-pf=physical" };
        config.arguments.extend(backend(&directory, number));
        config.arguments.push("-device".into());
        config.arguments.push(format!(
            "virtio-net-pci,bus=rp0,addr=0x0.{number:#x},netdev=net{number},mac={},{role}",
            mac(number)
        ));
    }
    let mut guest =
        scene.check("a guest boots with a physical function", || Guest::boot(scene.lab(), config))?;
    wait_cards(&mut guest, 1)?;
    scene.check("the physical function: ping, TCP both ways", || {
        traffic_on(&mut place, &mut guest, &mac(0))
    })?;
    let physical = guest.must("ls -d /sys/bus/pci/devices/*/sriov_numvfs")?.trim().to_owned();
    for round in 1..=2 {
        scene.check(&format!("the guest switches {VFS} virtual functions on, round {round}"), || {
            guest.must(&format!("echo {VFS} > {physical}"))?;
            wait_cards(&mut guest, 1 + usize::from(VFS))
        })?;
        // Those that come a second time are the same again; one of them tells.
        for number in (1..=VFS).filter(|number| round == 1 || *number == VFS) {
            scene.check(&format!("virtual function {number}, round {round}: ping, TCP both ways"), || {
                traffic_on(&mut place, &mut guest, &mac(number))?;
                place.ringway.wait_port(&format!("card{number}"), "running", Duration::from_secs(5))
            })?;
        }
        scene.check(&format!("and off, round {round}; the physical one still works"), || {
            guest.must(&format!("echo 0 > {physical}"))?;
            wait_cards(&mut guest, 1)?;
            traffic_on(&mut place, &mut guest, &mac(0))
        })?;
    }
    Ok(())
}
