//! What a driver changes while it runs: offloads and its address, by the control queue that over vfio-user reaches us.

use crate::place::{CARD_UP, Place, device, port};
use anyhow::ensure;
use serde_json::json;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;

const NEW_MAC: &str = "52:54:00:00:02:99";
/// Bytes of the longest frame of one segment.
const FRAME_MAX: f64 = 1514.0;

pub(crate) fn offloads_and_addresses(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory().to_owned();
    let sections = [
        port(&directory, "free", "52:54:00:00:02:01", "", "mac-change = \"allow\""),
        port(&directory, "fixed", "52:54:00:00:02:02", "", "mac-change = \"deny\""),
    ];
    let mut place = Place::start(scene, &sections.concat())?;
    let mut config = GuestConfig::new("guest");
    config.machine = "q35".into();
    for name in ["free", "fixed"] {
        config.arguments.extend(["-device".into(), device(&directory, name, json!({}))]);
    }
    let mut guest = scene.check("a guest with two cards boots", || Guest::boot(scene.lab(), config))?;
    guest.must(CARD_UP)?;
    place.traffic(&mut guest)?;
    for (state, whole) in [("on", true), ("off", false), ("on", true)] {
        scene.check(&format!("receive offloads {state} under a stream: frames are as long as they may be"), || {
            guest.must(&format!(
                "iperf3 -c 10.0.0.1 -t 3 -R > /tmp/stream 2>&1 & sleep 0.5; \
                 ethtool -K eth0 rx-gro-hw {state} || ethtool -K eth0 lro {state}; wait; grep -q receiver /tmp/stream"
            ))?;
            let mean = mean_frame(&mut guest)?;
            ensure!((mean > FRAME_MAX) == whole, "frames of {mean:.0} bytes on average");
            Ok(())
        })?;
    }
    for state in ["off", "on"] {
        scene.check(&format!("transmit offloads {state}: traffic"), || {
            guest.must(&format!("ethtool -K eth0 tso {state} tx {state}"))?;
            place.traffic(&mut guest)
        })?;
    }
    scene.check("a new address under a stream counts at once", || {
        guest.must(&format!(
            "iperf3 -c 10.0.0.1 -t 4 > /tmp/stream 2>&1 & sleep 1; ip link set eth0 address {NEW_MAC}; wait; \
             grep -q receiver /tmp/stream"
        ))?;
        guest.must("ping -c 3 -i 0.2 -w 10 10.0.0.1")?;
        let shown = place.ringway.tell(&["fdb", "list"])?;
        ensure!(shown.contains(NEW_MAC), "the switch does not know {NEW_MAC}:\n{shown}");
        let kept = guest.must("cat /sys/class/net/eth0/address")?;
        ensure!(kept.trim() == NEW_MAC, "the guest has {kept}");
        Ok(())
    })?;
    scene.check("where it may not, the driver is refused", || {
        let output = guest.run("ip link set eth1 address 52:54:00:00:02:77")?;
        ensure!(output.status != 0, "it was taken");
        let kept = guest.must("cat /sys/class/net/eth1/address")?;
        ensure!(kept.trim() == "52:54:00:00:02:02", "the guest has {kept}");
        Ok(())
    })
}

/// Mean length of the frames that a stream of a second brings, in bytes.
fn mean_frame(guest: &mut Guest) -> anyhow::Result<f64> {
    let counters = "cat /sys/class/net/eth0/statistics/rx_bytes /sys/class/net/eth0/statistics/rx_packets";
    let before = numbers(&guest.must(counters)?);
    guest.must("iperf3 -c 10.0.0.1 -t 1 -R > /dev/null")?;
    let after = numbers(&guest.must(counters)?);
    let [bytes, frames] =
        [0, 1].map(|at| after.get(at).zip(before.get(at)).map_or(0.0, |(after, before)| after - before));
    ensure!(frames > 100.0, "{frames} frames only");
    Ok(bytes / frames)
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
