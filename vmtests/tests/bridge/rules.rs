//! Rules that flags do not show: link-local groups, the guard, answers for neighbours, age, ports that are shut.

use crate::frames::{Mac, arp, bpdu, numbered, solicitation, text};
use crate::twins::{Outcome, PORTS, Twins};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use vmtests::harness::Scene;
use vmtests::process::wait_until;

const NO_SNOOPING: &str = "snooping = false";

fn station(number: u8) -> Mac {
    [2, 3, 0, 0, 0, number]
}

/// The two do not the same, and this is written down: ports of Linux, ports of Ringway.
fn differs(outcome: &Outcome, linux: &[usize], ours: &[usize]) -> anyhow::Result<()> {
    ensure!(
        outcome.ports() == (linux.to_vec(), ours.to_vec()),
        "{:?} came out of Linux and Ringway, {:?} are the documented difference: {}",
        outcome.ports(),
        (linux, ours),
        outcome.trace
    );
    Ok(())
}

/// 01:80:c2:00:00:00 to 0f under several masks, with and without the port that takes groups.
pub(crate) fn link_local(scene: &Scene) -> anyhow::Result<()> {
    let mut twins = Twins::start(scene, "mcast_snooping 0", NO_SNOOPING, "")?;
    let (mut frames, mut differences) = (0, 0);
    scene.check("link-local groups 0 to 15 under masks", || {
        // Linux refuses the bit of pause frames.
        for mask in [0u16, 1, 1 << 14, 0xfffd, 0xaaa8, 0x5554, 1 << 2 | 1 << 3] {
            let digits: Vec<String> =
                (0..16).filter(|bit| mask >> bit & 1 != 0).map(|bit| bit.to_string()).collect();
            twins.set(0, &format!("link-local-forward=[{}]", digits.join(",")), "")?;
            twins.set_slave(0, &format!("group_fwd_mask {mask}"))?;
            for group in 0..16u8 {
                let frame = numbered(
                    [1, 0x80, 0xc2, 0, 0, group],
                    station(1),
                    u32::from(mask) << 8 | u32::from(group),
                );
                let outcome = twins.send(0, &frame)?;
                frames += 1;
                if group == 0 && mask & 1 == 0 {
                    // Without spanning tree of its own, Linux forwards that of others, whatever the mask says.
                    differs(&outcome, &[1, 2, 3], &[])?;
                    differences += 1;
                } else {
                    let ports: &[usize] = if group != 1 && mask >> group & 1 != 0 { &[1, 2, 3] } else { &[] };
                    differs(&outcome, ports, ports)?;
                    ensure!(outcome.is_same());
                }
            }
        }
        Ok(())
    })?;
    scene.note(&format!(
        "{frames} frames compared; {differences} to group 0, which Linux forwards without being asked"
    ));
    scene.check("forwarded groups are subject to the flags of groups", || {
        twins.set(1, "multicast-flood=false", "mcast_flood off")?;
        twins.set(2, "isolated=true", "isolated on")?;
        twins.set(0, "isolated=true", "isolated on")?;
        let outcome =
            twins.same("a group with its bit", 0, &numbered([1, 0x80, 0xc2, 0, 0, 2], station(1), 1))?;
        ensure!(outcome.ports() == (vec![3], vec![3]), "{:?}", outcome.ports());
        Ok(())
    })?;
    scene.check("a group that stops at the switch teaches Linux its source, and Ringway nothing", || {
        twins.same("a group without its bit", 3, &numbered([1, 0x80, 0xc2, 0, 0, 14], station(9), 1))?;
        let frame = numbered(station(9), station(1), 2);
        let outcome = twins.send(1, &frame)?;
        differs(&outcome, &[3], &[0, 2, 3])
    })
}

/// A BPDU shuts a guarded port, and an operator opens it again.
pub(crate) fn guard(scene: &Scene) -> anyhow::Result<()> {
    // Linux looks at BPDUs only while it runs spanning tree; its ports wait twice the delay before they forward.
    let mut twins = Twins::start(scene, "mcast_snooping 0 forward_delay 200 stp_state 1", NO_SNOOPING, "")?;
    for port in 0..PORTS {
        // With spanning tree of its own Linux does not forward that of others.
        twins.set(port, "link-local-forward=[]", "")?;
    }
    twins.linux_says(|frame| frame[..6] != [1, 0x80, 0xc2, 0, 0, 0]);
    let (a, b) = (station(1), station(2));
    scene.check("without the guard nothing happens", || {
        twins.same("b is learned", 1, &numbered([0xff; 6], b, 1))?;
        twins.same("a BPDU", 1, &bpdu(b))?;
        let outcome = twins.same("to b", 0, &numbered(b, a, 2))?;
        ensure!(outcome.ports().1 == [1], "{:?}", outcome.ports());
        Ok(())
    })?;
    scene.check("with it the port is shut, both ways", || {
        twins.set(0, "guard=true", "guard on")?;
        let outcome = twins.same("a BPDU", 0, &bpdu(a))?;
        ensure!(outcome.reason() == "guard", "{}", outcome.trace);
        let show = twins.ringway.ask(&["port", "show", "p0"])?;
        ensure!(show.get("shut").and_then(Value::as_str) == Some("guard"), "{show}");
        let linux = twins.linux.output("bridge", "link show dev p0")?;
        ensure!(linux.contains("state disabled"), "{linux}");
        let outcome = twins.same("from the shut port", 0, &numbered(b, a, 3))?;
        ensure!(outcome.reason() == "port-shut" && outcome.ports().0.is_empty(), "{}", outcome.trace);
        let outcome = twins.same("to everyone", 1, &numbered([0xff; 6], b, 4))?;
        ensure!(outcome.ports().1 == [2, 3], "{:?}", outcome.ports());
        Ok(())
    })?;
    scene.check("what was known behind the shut port", || {
        // Linux forgets what it has learned behind a port that goes down, and floods; both keep it from the port.
        let outcome = twins.send(1, &numbered(a, b, 5))?;
        scene.note(&format!("to a station behind the shut port: {:?} in Linux and Ringway", outcome.ports()));
        ensure!(!outcome.ports().1.contains(&0) && !outcome.ports().0.contains(&0), "{:?}", outcome.ports());
        Ok(())
    })?;
    scene.check("reopened, it works again", || {
        twins.ringway.tell(&["port", "reopen", "p0"])?;
        twins.linux.batch("ip", "link set p0 down\nlink set p0 up\n")?;
        let forwards =
            || twins.linux.output("bridge", "link show dev p0").is_ok_and(|text| text.contains("forwarding"));
        wait_until("Linux' port", Duration::from_secs(15), forwards)?;
        twins.quiet()?;
        let outcome = twins.same("from the port", 0, &numbered(b, a, 6))?;
        ensure!(outcome.ports().1 == [1], "{:?}", outcome.ports());
        Ok(())
    })
}

/// Questions for addresses behind a port that suppresses them, next to Linux' `neigh_suppress`.
pub(crate) fn neighbours(scene: &Scene) -> anyhow::Result<()> {
    let port = "mac = \"02:03:00:00:00:1N\"";
    let mut twins = Twins::start(scene, "mcast_snooping 0", NO_SNOOPING, port)?;
    let held = |port: u8| -> Mac { [2, 3, 0, 0, 0, 0x10 + port] };
    twins.set(1, "addresses=[\"10.0.0.2\",\"fd00::2\"] neighbour-suppression=true", "neigh_suppress on")?;
    // Linux answers what its own neighbour table and FDB know; the table of IPv6 is not there without IPv6.
    twins
        .linux
        .batch("ip", &format!("neigh add 10.0.0.2 lladdr {} dev br0 nud permanent\n", text(held(1))))?;
    for port in 0..PORTS as u8 {
        let line = format!("fdb replace {} dev p{port} master static\n", text(held(port)));
        twins.linux.batch("bridge", &line)?;
    }
    let asker = station(1);
    scene.check("a question for its address is answered, with the same bytes", || {
        let outcome = twins.send(0, &arp(asker, [10, 0, 0, 1], [10, 0, 0, 2]))?;
        ensure!(outcome.trace.get("verdict").and_then(Value::as_str) == Some("answer"), "{}", outcome.trace);
        let (linux, ours) = (&outcome.linux[0], &outcome.ours[0]);
        let (Some(linux), Some(ours)) = (linux.first(), ours.first()) else {
            anyhow::bail!("no answer: {:?}", outcome.ports())
        };
        // Padding is not part of the answer.
        ensure!(linux[..42] == ours[..42], "Linux answers {linux:02x?}, Ringway {ours:02x?}");
        // Linux floods the question to ports that do not suppress besides; an answer is enough.
        differs(&outcome, &[0, 2, 3], &[0])
    })?;
    scene.check("others' addresses are asked for everywhere", || {
        let outcome = twins.same("a question", 0, &arp(asker, [10, 0, 0, 1], [10, 0, 0, 3]))?;
        ensure!(outcome.ports().1 == [1, 2, 3], "{:?}", outcome.ports());
        Ok(())
    })?;
    scene.check("a question from the suppressing port itself is not answered", || {
        let outcome = twins.same("its own", 1, &arp(held(1), [10, 0, 0, 2], [10, 0, 0, 2]))?;
        ensure!(outcome.ports().1 == [0, 2, 3], "{:?}", outcome.ports());
        Ok(())
    })?;
    scene.check("a solicitation is answered", || {
        let from = address6(1);
        let outcome = twins.send(0, &solicitation(asker, from, address6(2)))?;
        let answer = outcome.ours[0].first().context("no answer")?;
        // Neighbour advertisement, solicited and override (RFC 4861 §4.4), for the target, with its address.
        ensure!(answer[54] == 136 && answer[58] & 0x60 == 0x60, "{answer:02x?}");
        ensure!(answer[62..78] == address6(2) && answer[80..86] == held(1), "{answer:02x?}");
        ensure!(outcome.ports().1 == [0], "{:?}", outcome.ports());
        Ok(())
    })
}

fn address6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// Stations are forgotten at their age, moved ones are found, and entries of an operator stay.
pub(crate) fn ageing(scene: &Scene) -> anyhow::Result<()> {
    let mut twins = Twins::start(scene, "mcast_snooping 0 ageing_time 200", NO_SNOOPING, "")?;
    twins.ringway.tell(&["switch", "set", "lan", "ageing=2s"])?;
    let (a, b, fixed, dynamic) = (station(1), station(2), station(3), station(4));
    for (mac, kind) in [(fixed, "static"), (dynamic, "dynamic")] {
        twins.linux.batch("bridge", &format!("fdb add {} dev p3 master {kind}\n", text(mac)))?;
        twins.ringway.tell(&["fdb", "add", &text(mac), "--port", "p3", "--kind", kind])?;
    }
    let start = Instant::now();
    scene.check("stations are learned, and move", || {
        for (port, others) in [(1, [0usize]), (2, [0])] {
            twins.same("b speaks", port, &numbered([0xff; 6], b, 1))?;
            let outcome = twins.same("to b", others[0], &numbered(b, a, 2))?;
            ensure!(outcome.ports().1 == [port], "{:?}", outcome.ports());
        }
        for mac in [fixed, dynamic] {
            let outcome = twins.same("to an entry", 0, &numbered(mac, a, 3))?;
            ensure!(outcome.ports().1 == [3], "{:?}", outcome.ports());
        }
        ensure!(start.elapsed() < Duration::from_millis(1900), "the machine is too slow for this test");
        Ok(())
    })?;
    scene.check("at their age they are forgotten, and frames for them flood", || {
        // Linux looks for old entries now and then.
        let gone =
            || twins.linux.fdb("br br0").is_ok_and(|list| !list.iter().any(|entry| entry["mac"] == text(b)));
        wait_until("Linux forgets", Duration::from_secs(10), gone)?;
        wait_until("its last entry", Duration::from_secs(10), || start.elapsed() > Duration::from_secs(4))?;
        for mac in [b, dynamic] {
            let outcome = twins.same("to an old entry", 0, &numbered(mac, a, 4))?;
            ensure!(outcome.ports().1 == [1, 2, 3], "{:?}", outcome.ports());
        }
        let outcome = twins.same("to a static entry", 0, &numbered(fixed, a, 5))?;
        ensure!(outcome.ports().1 == [3], "{:?}", outcome.ports());
        Ok(())
    })
}

/// A port that its operator shuts, and frames that are no frames.
pub(crate) fn shut_and_odd(scene: &Scene) -> anyhow::Result<()> {
    let mut twins = Twins::start(scene, "mcast_snooping 0", NO_SNOOPING, "")?;
    let (a, b) = (station(1), station(2));
    scene.check("a disabled port", || {
        twins.same("b speaks", 1, &numbered([0xff; 6], b, 1))?;
        twins.set(1, "enabled=false", "state 0")?;
        let outcome = twins.same("from it", 1, &numbered([0xff; 6], b, 2))?;
        ensure!(outcome.reason() == "port-shut" && outcome.ports().1.is_empty(), "{}", outcome.trace);
        let outcome = twins.same("to everyone", 0, &numbered([0xff; 6], a, 3))?;
        ensure!(outcome.ports().1 == [2, 3], "{:?}", outcome.ports());
        let outcome = twins.send(0, &numbered(b, a, 4))?;
        scene.note(&format!(
            "to a station behind a disabled port: {:?} in Linux and Ringway",
            outcome.ports()
        ));
        ensure!(!outcome.ports().1.contains(&1));
        twins.set(1, "enabled=true", "state 3")?;
        twins.same("from it again", 1, &numbered([0xff; 6], b, 5)).map(|_| ())
    })?;
    scene.check("sizes from the header alone to a full frame", || {
        for length in [14, 15, 59, 60, 61, 1513, 1514] {
            let mut frame = numbered([0xff; 6], a, 1);
            frame.resize(length, 0x5a);
            twins.same(&format!("{length} bytes"), 0, &frame)?;
        }
        Ok(())
    })?;
    scene.check("to itself, and to nobody", || {
        twins.same("a to a", 0, &numbered(a, a, 1))?;
        twins.same("to zero", 0, &numbered([0; 6], a, 1))?;
        twins.same("from everyone", 0, &numbered(b, [0xff; 6], 1)).map(|_| ())
    })
}
