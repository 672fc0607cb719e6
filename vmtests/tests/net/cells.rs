//! The matrix: ring layouts, queue pairs, driver generations, offloads, MTU.

use crate::pair::{Pair, Side, Way};
use anyhow::{bail, ensure};
use std::time::Duration;
use vmtests::guest::Guest;
use vmtests::harness::Scene;

/// Bit numbers of features that the tests look for: virtio 1.3 §6, §5.1.3.
const VERSION_1: usize = 32;
const RING_PACKED: usize = 34;
const GUEST_CSUM: usize = 1;
const HOST_TSO4: usize = 11;
const MTU: usize = 3;

const POOL: &str = "mode = \"pool\"\nthreads = 2";
const PER_DEVICE: &str = "mode = \"per-device\"";

/// Split rings, one queue pair, modern drivers; offloads on and off; a guest reboots.
pub(crate) fn split_rings(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene, POOL, [Side::default(), Side::default()])?;
    scene.check("features: 1.x, split, checksum and segmentation offload", || {
        expect(&mut pair.a, &[(VERSION_1, true), (RING_PACKED, false), (GUEST_CSUM, true), (HOST_TSO4, true)])
    })?;
    pair.everything(scene, "offloads on")?;
    let sender_off = "ethtool -K eth0 tx off tso off gso off gro off";
    scene.check("ethtool turns the offloads off", || {
        pair.a.must(sender_off)?;
        pair.b.must(sender_off)
    })?;
    pair.transfers(scene, "offloads off")?;
    scene.check("ethtool turns the offloads on again", || {
        pair.a.must("ethtool -K eth0 tx on tso on gso on gro on")?;
        pair.ping()
    })?;
    scene.check("guest a reboots", || pair.a.reboot())?;
    crate::pair::configure(&mut pair.a, 1)?;
    scene.check("ping and TCP after the reboot", || {
        pair.ping()?;
        pair.tcp(Way::AtoB, "")
    })?;
    scene.check("SIGTERM ends ringway cleanly under load", || {
        pair.a.must("iperf3 -c 10.0.0.2 -t 30 > /dev/null 2>&1 &")?;
        pair.ringway.terminate()
    })
}

/// Packed rings on both sides, then one side split: the copy goes from one layout to the other.
pub(crate) fn packed_rings(scene: &Scene) -> anyhow::Result<()> {
    let packed = Side::with(&["packed=on"]);
    let mut pair = Pair::start(scene, PER_DEVICE, [packed, Side::with(&["packed=on", "in_order=on"])])?;
    scene.check("features: packed", || {
        expect(&mut pair.a, &[(VERSION_1, true), (RING_PACKED, true)])?;
        expect(&mut pair.b, &[(RING_PACKED, true)])
    })?;
    pair.everything(scene, "packed")?;
    scene.check("guest b reboots", || pair.b.reboot())?;
    crate::pair::configure(&mut pair.b, 2)?;
    scene.check("ping and a file after the reboot", || {
        pair.ping()?;
        pair.file(Way::BtoA)
    })
}

/// Four queue pairs: split on one side, packed on the other; the driver changes their number while it runs.
pub(crate) fn four_queue_pairs(scene: &Scene) -> anyhow::Result<()> {
    let side = Side { queue_pairs: 4, cpus: 2, ..Side::default() };
    let packed = Side { properties: vec!["packed=on"], ..side.clone() };
    let mut pair = Pair::start(scene, POOL, [side, packed])?;
    for count in [4, 1, 4] {
        scene.check(&format!("{count} queue pairs: ethtool, ping, four streams"), || {
            for guest in [&mut pair.a, &mut pair.b] {
                guest.must(&format!("ethtool -L eth0 combined {count}"))?;
                let text = guest.must("ethtool -l eth0")?;
                ensure!(
                    text.contains(&format!("Combined:\t\t{count}")) || count_is(&text, count),
                    "not {count}:\n{text}"
                );
            }
            pair.ping()?;
            pair.tcp(Way::AtoB, "-P 4")?;
            pair.tcp(Way::BtoA, "-P 4")
        })?;
    }
    scene.check("more than one pair carried frames", || {
        for guest in [&mut pair.a, &mut pair.b] {
            let text = guest.must("cat /proc/interrupts")?;
            let received = busy_vectors(&text, "input");
            ensure!(received > 1, "{received} receive queues had interrupts\n{text}");
        }
        Ok(())
    })?;
    pair.transfers(scene, "four pairs")
}

/// A legacy driver (virtio 0.9 layout, no VERSION_1) with a modern one.
pub(crate) fn legacy_driver(scene: &Scene) -> anyhow::Result<()> {
    let legacy = Side::with(&["disable-modern=on", "disable-legacy=off"]);
    let mut pair = Pair::start(scene, POOL, [legacy, Side::default()])?;
    scene.check("features: legacy on one side, modern on the other", || {
        expect(&mut pair.a, &[(VERSION_1, false)])?;
        expect(&mut pair.b, &[(VERSION_1, true)])
    })?;
    pair.everything(scene, "legacy and modern")?;
    scene.check("the legacy guest reboots", || pair.a.reboot())?;
    crate::pair::configure(&mut pair.a, 1)?;
    scene.check("ping after the reboot", || pair.ping())
}

/// One guest without any offload and one with all: Ringway finishes checksums and segments, also for IPv6 and VLAN tags.
/// The guest without offloads verifies every checksum itself.
pub(crate) fn no_offloads_meet_all(scene: &Scene) -> anyhow::Result<()> {
    let none = Side::with(&[
        "csum=off",
        "gso=off",
        "host_tso4=off",
        "host_tso6=off",
        "host_ecn=off",
        "host_ufo=off",
        "host_uso=off",
        "guest_csum=off",
        "guest_tso4=off",
        "guest_tso6=off",
        "guest_ecn=off",
        "guest_ufo=off",
        "guest_uso4=off",
        "guest_uso6=off",
        "mrg_rxbuf=off",
    ]);
    let mut pair = Pair::start(scene, POOL, [Side::default(), none])?;
    scene.check("features: all on one side, none on the other", || {
        expect(&mut pair.a, &[(GUEST_CSUM, true), (HOST_TSO4, true)])?;
        expect(&mut pair.b, &[(GUEST_CSUM, false), (HOST_TSO4, false)])
    })?;
    pair.everything(scene, "offloads against none")?;
    scene.check("TCP over IPv6 both ways", || {
        pair.tcp(Way::AtoB, "-6")?;
        pair.tcp(Way::BtoA, "-6")
    })?;
    scene.check("TCP over a VLAN both ways", || {
        for (guest, number) in [(&mut pair.a, 1), (&mut pair.b, 2)] {
            guest.must(&format!(
                "ip link add link eth0 name eth0.5 type vlan id 5 && ip addr add 10.5.0.{number}/24 dev eth0.5 && \
                 ip link set eth0.5 up"
            ))?;
        }
        pair.a.must_within("iperf3 -c 10.5.0.2 -t 2", Duration::from_secs(60))?;
        pair.b.must_within("iperf3 -c 10.5.0.1 -t 2", Duration::from_secs(60))
    })?;
    scene.check("UDP larger than a frame, whole and in fragments", || {
        pair.udp(Way::AtoB, "-l 8000")?;
        pair.udp(Way::BtoA, "-l 8000")
    })?;
    scene.check("no checksum errors after all of it", || pair.no_errors())
}

/// An MTU of 9000 bytes, reported to the driver by the device.
pub(crate) fn jumbo_mtu(scene: &Scene) -> anyhow::Result<()> {
    let jumbo = |more: &[&'static str]| {
        let mut properties = vec!["host_mtu=9000"];
        properties.extend(more);
        Side { properties, port: "mtu = 9000", ..Side::default() }
    };
    let mut pair = Pair::start(scene, POOL, [jumbo(&[]), jumbo(&["packed=on"])])?;
    scene.check("the driver takes the device's MTU", || {
        expect(&mut pair.a, &[(MTU, true)])?;
        for guest in [&mut pair.a, &mut pair.b] {
            let mtu = guest.must("cat /sys/class/net/eth0/mtu")?;
            ensure!(mtu.trim() == "9000", "the driver's MTU is {mtu}");
        }
        Ok(())
    })?;
    scene.check("echoes of 9000 bytes, not fragmented", || {
        let frames = "/sys/class/net/eth0/statistics/tx_packets";
        let before: u64 = pair.a.must(&format!("cat {frames}"))?.trim().parse()?;
        let text = pair.a.must("ping -c 3 -i 0.1 -s 8972 -w 10 10.0.0.2")?;
        ensure!(text.contains("3 packets received"), "{text}");
        let after: u64 = pair.a.must(&format!("cat {frames}"))?.trim().parse()?;
        ensure!(after - before < 9, "three echoes took {} frames", after - before);
        Ok(())
    })?;
    pair.everything(scene, "jumbo")?;
    scene.check("jumbo frames without offloads", || {
        for guest in [&mut pair.a, &mut pair.b] {
            guest.must("ethtool -K eth0 tx off tso off gso off gro off")?;
        }
        pair.tcp(Way::AtoB, "")?;
        pair.file(Way::BtoA)?;
        pair.no_errors()
    })
}

fn expect(guest: &mut Guest, features: &[(usize, bool)]) -> anyhow::Result<()> {
    for &(bit, wanted) in features {
        let there = Pair::feature(guest, bit)?;
        if there != wanted {
            bail!("feature bit {bit} is {there}");
        }
    }
    Ok(())
}

/// The last `Combined:` of `ethtool -l`, which is the number in use.
fn count_is(text: &str, count: u32) -> bool {
    let line = text.lines().filter(|line| line.starts_with("Combined:")).next_back();
    line.and_then(|line| line.split_whitespace().last()) == Some(count.to_string().as_str())
}

/// Queues of one direction, `input` or `output`, whose line in `/proc/interrupts` counts something.
fn busy_vectors(text: &str, direction: &str) -> usize {
    let of_direction = |line: &&str| line.contains(&format!("-{direction}."));
    let counts =
        |line: &str| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum::<u64>();
    text.lines().filter(of_direction).filter(|line| counts(line) > 0).count()
}
