//! Further arrangements with a Linux guest: the legacy driver on a function that has both interfaces, several functions of one
//! slot, a root of its own, and what `lspci` shows of it all.

use crate::place::{Place, device, port};
use anyhow::{Context, ensure};
use serde_json::json;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;

/// Bit number of VERSION_1 (virtio 1.4 §6).
const VERSION_1: usize = 32;

fn mac(number: u8) -> String {
    format!("52:54:00:00:04:{number:02x}")
}

/// The name of the card with this address.
fn card(guest: &mut Guest, mac: &str) -> anyhow::Result<String> {
    let found = guest.must(&format!("grep -l {mac} /sys/class/net/*/address"))?;
    found.trim().split('/').nth(4).map(str::to_owned).with_context(|| format!("no card with {mac}: {found}"))
}

/// Traffic on this card and no other one.
pub(crate) fn traffic_on(place: &mut Place, guest: &mut Guest, mac: &str) -> anyhow::Result<[f64; 2]> {
    let card = card(guest, mac)?;
    guest.must(&format!(
        "for old in /sys/class/net/eth*; do ip addr flush dev ${{old##*/}}; ip link set ${{old##*/}} down; done; \
         ip addr add 10.0.0.2/24 dev {card} && ip link set {card} up"
    ))?;
    place.peer.must("ip neigh flush all")?;
    place.traffic(guest)
}

/// Every one of `wanted` stands in `text`.
fn shows(text: &str, wanted: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&&str> = wanted.iter().filter(|wanted| !text.contains(**wanted)).collect();
    ensure!(missing.is_empty(), "not there: {missing:?} in\n{text}");
    Ok(())
}

/// What a modern function shows, and what any function does.
const MODERN: [&str; 5] =
    ["VirtIO: CommonCfg", "VirtIO: Notify", "VirtIO: ISR", "VirtIO: DeviceCfg", "1af4:1041"];
const ANY: [&str; 5] = [
    "MSI-X: Enable+ Count=4",
    "Power Management version 3",
    "Express (v2)",
    "FLReset+",
    "driver in use: virtio-pci",
];

pub(crate) fn legacy_driver_by_choice(scene: &Scene) -> anyhow::Result<()> {
    let section = port(scene.directory(), "old", &mac(1), ", interface = \"transitional\"", "");
    let mut place = Place::start(scene, &section)?;
    for machine in ["q35", "pc"] {
        scene.check(&format!("the legacy driver on a transitional function, {machine}"), || {
            let mut config = GuestConfig::new(&format!("old-{machine}"));
            config.machine = machine.to_owned();
            config.kernel_arguments = "virtio_pci.force_legacy=1".into();
            config.arguments = vec!["-device".into(), device(scene.directory(), "old", json!({}))];
            let mut guest = Guest::boot(scene.lab(), config)?;
            let features = guest.must("cat /sys/bus/virtio/devices/virtio0/features")?;
            ensure!(features.as_bytes().get(VERSION_1) == Some(&b'0'), "features {features}");
            traffic_on(&mut place, &mut guest, &mac(1))?;
            let shown = guest.must("lspci -nvvv -d 1af4:")?;
            shows(&shown, &["1af4:1000", "I/O ports at", "VirtIO: CommonCfg", "MSI-X: Enable+ Count=4"])?;
            guest.kill();
            place.ringway.wait_port("old", "waiting", std::time::Duration::from_secs(5))
        })?;
    }
    Ok(())
}

pub(crate) fn functions_and_roots(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory();
    let kinds = [("first", "modern"), ("second", "transitional"), ("rooted", "modern"), ("third", "legacy")];
    let sections: String = (1..)
        .zip(kinds)
        .map(|(number, (name, interface))| {
            port(directory, name, &mac(number), &format!(", interface = \"{interface}\""), "")
        })
        .collect();
    let mut place = Place::start(scene, &sections)?;
    let mut config = GuestConfig::new("many");
    let devices = [
        "pxb-pcie,id=pxb0,bus=pcie.0,bus_nr=64".to_owned(),
        "pcie-root-port,id=rp0,bus=pxb0,chassis=1".to_owned(),
        device(directory, "rooted", json!({ "bus": "rp0" })),
        device(directory, "second", json!({ "bus": "pcie.0", "addr": "0x5.1" })),
        device(directory, "third", json!({ "bus": "pcie.0", "addr": "0x5.2" })),
        device(directory, "first", json!({ "bus": "pcie.0", "addr": "0x5.0", "multifunction": true })),
    ];
    config.arguments = devices.into_iter().flat_map(|device| ["-device".to_owned(), device]).collect();
    let mut guest = scene.check("a guest boots with three functions in a slot and a root beside", || {
        Guest::boot(scene.lab(), config)
    })?;
    for (number, (name, interface)) in (1..).zip(kinds) {
        let rates = scene.check(&format!("{name}, {interface}: ping, TCP both ways"), || {
            traffic_on(&mut place, &mut guest, &mac(number))
        })?;
        scene.note(&format!("TCP {:.0} and {:.0} Mbit/s", rates[0], rates[1]));
    }
    let places = ["00:05.0", "00:05.1", "/0000:41:00.0/", "00:05.2"];
    for (number, place) in (1..).zip(places) {
        let card = card(&mut guest, &mac(number))?;
        let path = guest.must(&format!("readlink -f /sys/class/net/{card}"))?;
        ensure!(path.contains(place), "card {number} is at {path}, not {place}");
    }
    scene.check("lspci shows what the functions claim", || {
        // An endpoint behind a root port has a link; one at the root complex has none.
        let rooted = guest.must("lspci -nvvv -s 41:00.0")?;
        shows(&rooted, &MODERN)?;
        shows(&rooted, &ANY)?;
        shows(
            &rooted,
            &["Express (v2) Endpoint", "LnkCap:", "Speed 2.5GT/s, Width x1", "Advanced Error Reporting"],
        )?;
        shows(&rooted, &["(rev 01)", "Subsystem: 1af4:0041", "64-bit"])?;
        let second = guest.must("lspci -nvvv -s 0:5.1")?;
        let integrated = "Express (v2) Root Complex Integrated Endpoint";
        shows(&second, &["1af4:1000", "Subsystem: 1af4:0001", "I/O ports at", "VirtIO: Notify", integrated])?;
        let third = guest.must("lspci -nvvv -s 0:5.2")?;
        shows(&third, &["1af4:1000", "I/O ports at", "MSI-X: Enable+ Count=4"])?;
        ensure!(!third.contains("VirtIO") && !second.contains("(rev 01)"), "{second}{third}");
        Ok(())
    })?;
    Ok(())
}
