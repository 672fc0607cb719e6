//! One of the three dies and comes back: the others must not need a hand.

use crate::pair::{Pair, Side, Way, configure};
use anyhow::ensure;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::wait_until;

const POOL: &str = "mode = \"pool\"\nthreads = 2";
const LIMIT: Duration = Duration::from_secs(20);

/// QEMU is killed and started again; the other guest and Ringway run on.
pub(crate) fn qemu_killed(scene: &Scene) -> anyhow::Result<()> {
    let Pair { ringway, a, b } = Pair::start(scene, POOL, [Side::default(), Side::with(&["packed=on"])])?;
    let mut pair = Pair { ringway, a, b };
    scene.check("ping before", || pair.ping())?;
    scene.check("QEMU of b is killed in the middle of a stream", || {
        pair.a.begin("timeout 4 iperf3 -c 10.0.0.2 -t 3; true")?;
        std::thread::sleep(Duration::from_millis(500));
        pair.b.kill();
        pair.ringway.wait_port("b", "waiting", LIMIT)
    })?;
    scene.check("ringway and a are unharmed", || {
        ensure!(pair.ringway.is_running(), "ringway ended:\n{}", pair.ringway.log_tail());
        pair.a.finish(Duration::from_secs(60))?;
        ensure!(pair.ringway.port_state("a")? == "running");
        Ok(())
    })?;
    let Pair { ringway, a, b } = pair;
    let b = scene.check("b boots again", || b.restart(scene.lab()))?;
    let mut pair = Pair { ringway, a, b };
    configure(&mut pair.b, 2)?;
    scene.check("ping, TCP and a file after", || {
        pair.ping()?;
        pair.tcp(Way::AtoB, "")?;
        pair.file(Way::BtoA)
    })
}

/// Ringway ends, by SIGTERM and by SIGKILL, in the middle of a stream, and starts again. No one touches the guests: the
/// stream itself goes on, over a split ring on one side and a packed one on the other.
pub(crate) fn ringway_restarted(scene: &Scene) -> anyhow::Result<()> {
    let mut pair = Pair::start(scene, POOL, [Side::default(), Side::with(&["packed=on"])])?;
    scene.check("ping before", || pair.ping())?;
    for signal in ["SIGTERM", "SIGKILL"] {
        scene.check(&format!("{signal} in the middle of a stream"), || {
            pair.a.begin("iperf3 -c 10.0.0.2 -t 8 -f m")?;
            std::thread::sleep(Duration::from_secs(2));
            if signal == "SIGTERM" {
                pair.ringway.terminate()?
            } else {
                pair.ringway.kill()
            }
            std::thread::sleep(Duration::from_millis(500));
            pair.ringway.start_again()?;
            wait_until("both ports run", LIMIT, || {
                ["a", "b"]
                    .iter()
                    .all(|port| pair.ringway.port_state(port).is_ok_and(|state| state == "running"))
            })
        })?;
        scene.check(&format!("after {signal}: the same stream goes on to its end"), || {
            let output = pair.a.finish(Duration::from_secs(40))?;
            ensure!(output.status == 0, "iperf3 ended with {}:\n{}", output.status, output.text);
            ensure!(flows_at_the_end(&output.text), "no traffic at the end:\n{}", output.text);
            Ok(())
        })?;
        scene.check(&format!("after {signal}: ping and a file"), || {
            pair.ping()?;
            pair.file(Way::BtoA)?;
            pair.no_errors()
        })?;
    }
    Ok(())
}

/// Whether iperf3's last interval moved anything.
fn flows_at_the_end(text: &str) -> bool {
    let intervals =
        text.lines().take_while(|line| !line.starts_with("- - -")).filter(|line| line.contains(" sec "));
    intervals.last().is_some_and(|line| !line.contains(" 0.00 Mbits/sec") && !line.contains(" 0.00 bits/sec"))
}
