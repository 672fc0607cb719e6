//! Every register interface on QEMU's machines, driven by Linux; doorbells that are mapped, several queue pairs, a virtual
//! IOMMU, a card that is added while the guest runs.

use crate::place::{CARD_UP, Place, device, port};
use anyhow::{Context, ensure};
use serde_json::json;
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;

/// Bit numbers of features (virtio 1.3 §6).
const VERSION_1: usize = 32;
const ACCESS_PLATFORM: usize = 33;
/// Those of the transport that Linux takes where it finds them, since 6.4 and 6.8.
const NOTIFICATION_DATA: usize = 38;
const ADMIN_VQ: usize = 41;

/// Takes the card from its driver, resets it as PCI Express has it, and gives it back.
const FUNCTION_LEVEL_RESET: &str = "\
    dev=$(readlink -f /sys/class/net/eth0/device/..); slot=${dev##*/}; driver=/sys/bus/pci/drivers/virtio-pci; \
    echo $slot > $driver/unbind && echo flr > $dev/reset_method && echo 1 > $dev/reset && echo $slot > $driver/bind && \
    for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && exit 0; sleep 0.1; done; exit 1";

const INTERFACES: [&str; 3] = ["modern", "transitional", "legacy"];
const MACHINES: [&str; 2] = ["q35", "pc"];

pub(crate) fn interfaces_and_machines(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let sections = INTERFACES.map(|interface| {
        let more = format!(", interface = \"{interface}\"");
        port(&directory, interface, &mac_of(interface), &more, "")
    });
    let mut place = Place::start(scene, &sections.concat())?;
    for interface in INTERFACES {
        for machine in MACHINES {
            let what = format!("{interface} on {machine}: boots, ping, TCP both ways, reboots, is reset");
            let rates = scene.check(&what, || on_machine(scene, &mut place, interface, machine))?;
            scene.note(&format!("{interface} on {machine}: TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
        }
    }
    scene.check("SIGTERM ends ringway cleanly", || place.ringway.terminate())
}

fn on_machine(scene: &Scene, place: &mut Place, interface: &str, machine: &str) -> anyhow::Result<[f64; 2]> {
    let mut config = GuestConfig::new(&format!("{interface}-{machine}"));
    config.machine = machine.to_owned();
    config.arguments = vec!["-device".into(), device(scene.directory(), interface, json!({}))];
    let mut guest = Guest::boot(scene.lab(), config)?;
    guest.must(CARD_UP)?;
    let features = guest.must("cat /sys/bus/virtio/devices/virtio0/features")?;
    for bit in [VERSION_1, NOTIFICATION_DATA] {
        let is_taken = features.as_bytes().get(bit) == Some(&b'1');
        ensure!(is_taken == (interface != "legacy"), "feature {bit} of {features}");
    }
    let complaints = guest.must("dmesg | grep -iE 'virtio.*(admin|avq|command|fail|error|timed)' || true")?;
    ensure!(complaints.trim().is_empty(), "the kernel says:\n{complaints}");
    let address = guest.must("cat /sys/class/net/eth0/address")?;
    ensure!(address.trim() == mac_of(interface), "the card has {address}");
    let rates = place.traffic(&mut guest)?;
    guest.reboot()?;
    guest.must(CARD_UP)?;
    guest.must("ping -c 2 -w 10 10.0.0.1")?;
    // The capability is one of PCI Express.
    if machine == "q35" {
        guest.must(FUNCTION_LEVEL_RESET)?;
        guest.must(CARD_UP)?;
        guest.must("ping -c 2 -w 10 10.0.0.1").context("after a function level reset")?;
    }
    guest.kill();
    // A client that is gone costs its own device, and the next one finds a fresh one.
    place.ringway.wait_port(interface, "waiting", Duration::from_secs(5))?;
    place.peer.must("ip neigh flush all")?;
    Ok(rates)
}

fn mac_of(interface: &str) -> String {
    let number = INTERFACES.iter().position(|known| *known == interface).unwrap_or_default();
    format!("52:54:00:00:01:{number:02x}")
}

pub(crate) fn mapped_doorbells(scene: &Scene) -> anyhow::Result<()> {
    let section = port(scene.directory(), "mapped", "52:54:00:00:01:10", ", doorbells = \"mapped\"", "");
    let mut place = Place::start(scene, &section)?;
    let mut config = GuestConfig::new("mapped");
    config.arguments = vec!["-device".into(), device(scene.directory(), "mapped", json!({}))];
    let mut guest = scene.check("a guest boots", || Guest::boot(scene.lab(), config))?;
    guest.must(CARD_UP)?;
    let rates = scene.check("ping, TCP both ways", || place.traffic(&mut guest))?;
    scene.note(&format!("TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
    scene.check("no doorbell was told to us", || {
        let port = place.ringway.ask(&["port", "show", "mapped"])?;
        let kicks: Vec<u64> = port["queues"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|queue| queue["kicks"].as_u64())
            .collect();
        ensure!(!kicks.is_empty() && kicks.iter().all(|kicks| *kicks == 0), "kicks: {kicks:?}");
        Ok(())
    })
}

pub(crate) fn several_queue_pairs(scene: &Scene) -> anyhow::Result<()> {
    let section =
        port(scene.directory(), "many", "52:54:00:00:01:11", ", queue-pairs = 4, admin-queue = true", "");
    let mut place = Place::start(scene, &section)?;
    let mut config = GuestConfig::new("many");
    config.cpus = 2;
    config.arguments = vec!["-device".into(), device(scene.directory(), "many", json!({}))];
    let mut guest = scene.check("a guest of two processors boots", || Guest::boot(scene.lab(), config))?;
    guest.must(CARD_UP)?;
    scene.check("it takes the administration queue too", || {
        let features = guest.must("cat /sys/bus/virtio/devices/virtio0/features")?;
        ensure!(features.as_bytes().get(ADMIN_VQ) == Some(&b'1'), "features {features}");
        Ok(())
    })?;
    for pairs in [2, 1] {
        scene.check(&format!("{pairs} queue pairs: ethtool, ping, TCP both ways"), || {
            guest.must(&format!("ethtool -L eth0 combined {pairs}"))?;
            place.traffic(&mut guest)
        })?;
    }
    Ok(())
}

pub(crate) fn virtual_iommu(scene: &Scene) -> anyhow::Result<()> {
    let section = port(scene.directory(), "iommu", "52:54:00:00:01:12", "", "");
    let mut place = Place::start(scene, &section)?;
    let mut config = GuestConfig::new("iommu");
    config.machine = "q35,kernel-irqchip=split".into();
    config.kernel_arguments = "intel_iommu=on iommu=nopt".into();
    config.arguments = vec![
        "-device".into(),
        "intel-iommu,caching-mode=on".into(),
        "-device".into(),
        device(scene.directory(), "iommu", json!({})),
    ];
    let mut guest = scene.check("a guest boots behind an IOMMU", || Guest::boot(scene.lab(), config))?;
    guest.must(CARD_UP)?;
    let features = guest.must("cat /sys/bus/virtio/devices/virtio0/features")?;
    ensure!(features.as_bytes().get(ACCESS_PLATFORM) == Some(&b'1'), "features {features}");
    let rates = scene.check("ping, TCP both ways", || place.traffic(&mut guest))?;
    scene.note(&format!("TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
    Ok(())
}

pub(crate) fn added_while_it_runs(scene: &Scene) -> anyhow::Result<()> {
    let section = port(scene.directory(), "late", "52:54:00:00:01:13", "", "");
    let mut place = Place::start(scene, &section)?;
    let monitor = scene.directory().join("late.qmp");
    let mut config = GuestConfig::new("late");
    config.arguments = ["-device", "pcie-root-port,id=rp0,chassis=1", "-qmp"].map(str::to_owned).to_vec();
    config.arguments.push(format!("unix:{},server=on,wait=off", monitor.display()));
    let mut guest = scene.check("a guest boots without a card", || Guest::boot(scene.lab(), config))?;
    scene.check("a card is added", || {
        let added = device(scene.directory(), "late", json!({ "bus": "rp0" }));
        vmtests::qmp::execute(&monitor, "device_add", &serde_json::from_str(&added)?)?;
        guest
            .must("for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && exit 0; sleep 0.1; done; exit 1")?;
        guest.must(CARD_UP)
    })?;
    scene.check("ping, TCP both ways", || place.traffic(&mut guest))?;
    Ok(())
}
