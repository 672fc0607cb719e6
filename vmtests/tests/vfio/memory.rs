//! Guests whose memory cannot be mapped, or only page by page: rings that are relayed by messages, and large rings behind an
//! IOMMU.

use crate::place::{CARD_UP, Place, device, port};
use anyhow::ensure;
use serde_json::json;
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;

/// Bit numbers of features (virtio 1.3 §6).
const VERSION_1: usize = 32;
const PACKED: usize = 34;

/// What the guests are: register interface, QEMU's machine, doorbells, whether Linux uses packed rings then.
const KINDS: [(&str, &str, &str, bool); 4] = [
    ("modern", "q35", "event", true),
    ("legacy", "pc", "event", false),
    ("transitional", "q35", "event", true),
    ("mapped", "q35", "mapped", true),
];

pub(crate) fn private_memory(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let sections = KINDS.map(|(name, _, doorbells, _)| {
        let interface = if doorbells == "mapped" { "modern" } else { name };
        let more = format!(", interface = \"{interface}\", doorbells = \"{doorbells}\"");
        port(&directory, name, &mac_of(name), &more, "")
    });
    let mut place = Place::start(scene, &sections.concat())?;
    for (name, machine, _, is_packed) in KINDS {
        let what = format!("{name} on {machine}, private memory: ping, TCP both ways, reboots, again");
        let rates = scene.check(&what, || private(scene, &mut place, name, machine, is_packed))?;
        scene.note(&format!("{name} on {machine}: TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
    }
    scene.check("SIGTERM ends ringway cleanly", || place.ringway.terminate())
}

fn mac_of(name: &str) -> String {
    let number = KINDS.iter().position(|(known, ..)| *known == name).unwrap_or_default();
    format!("52:54:00:00:05:{number:02x}")
}

fn private(
    scene: &Scene,
    place: &mut Place,
    name: &str,
    machine: &str,
    is_packed: bool,
) -> anyhow::Result<[f64; 2]> {
    let mut config = GuestConfig::new(&format!("private-{name}"));
    config.machine = machine.to_owned();
    config.private_memory = true;
    config.arguments = vec!["-device".into(), device(scene.directory(), name, json!({}))];
    let mut guest = Guest::boot(scene.lab(), config)?;
    guest.must(CARD_UP)?;
    let features = guest.must("cat /sys/bus/virtio/devices/virtio0/features")?;
    let has = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
    ensure!(has(VERSION_1) == (name != "legacy") && has(PACKED) == is_packed, "features {features}");
    let rates = place.traffic(&mut guest)?;
    guest.reboot()?;
    guest.must(CARD_UP)?;
    place.peer.must("ip neigh flush all")?;
    place.traffic(&mut guest)?;
    let port = place.ringway.ask(&["port", "show", name])?;
    ensure!(port["fault"].is_null(), "port: {port}");
    guest.kill();
    place.ringway.wait_port(name, "waiting", Duration::from_secs(5))?;
    place.peer.must("ip neigh flush all")?;
    Ok(rates)
}

/// A guest behind an IOMMU that maps and unmaps page by page.
fn behind_an_iommu(scene: &Scene, name: &str) -> GuestConfig {
    let mut config = GuestConfig::new(name);
    config.machine = "q35,kernel-irqchip=split".into();
    config.kernel_arguments = "intel_iommu=on iommu=nopt iommu.strict=1".into();
    config.arguments = vec![
        "-device".into(),
        "intel-iommu,caching-mode=on".into(),
        "-device".into(),
        device(scene.directory(), name, json!({})),
    ];
    config
}

pub(crate) fn private_memory_behind_an_iommu(scene: &Scene) -> anyhow::Result<()> {
    let section = port(scene.directory(), "hidden", "52:54:00:00:05:10", "", "");
    let mut place = Place::start(scene, &section)?;
    let mut config = behind_an_iommu(scene, "hidden");
    config.private_memory = true;
    let mut guest = scene
        .check("a guest of private memory boots behind an IOMMU", || Guest::boot(scene.lab(), config))?;
    guest.must(CARD_UP)?;
    let rates = scene.check("ping, TCP both ways", || place.traffic(&mut guest))?;
    scene.note(&format!("TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
    Ok(())
}

pub(crate) fn large_rings_behind_an_iommu(scene: &Scene) -> anyhow::Result<()> {
    let section = port(scene.directory(), "large", "52:54:00:00:05:11", ", queue-size = 1024", "");
    let mut place = Place::start(scene, &section)?;
    let config = behind_an_iommu(scene, "large");
    let mut guest = scene.check("a guest boots behind an IOMMU", || Guest::boot(scene.lab(), config))?;
    guest.must(CARD_UP)?;
    let rates = scene.check("rings of 1,024 entries: ping, TCP both ways", || {
        let rings = guest.must("ethtool -g eth0")?;
        ensure!(rings.contains("1024"), "rings:\n{rings}");
        place.traffic(&mut guest)
    })?;
    scene.note(&format!("TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
    scene.check("reboots, and the same again", || {
        guest.reboot()?;
        guest.must(CARD_UP)?;
        place.peer.must("ip neigh flush all")?;
        place.traffic(&mut guest)?;
        let port = place.ringway.ask(&["port", "show", "large"])?;
        ensure!(port["fault"].is_null(), "port: {port}");
        Ok(())
    })
}
