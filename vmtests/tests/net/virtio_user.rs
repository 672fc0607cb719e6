//! DPDK's virtio-user driver, a second implementation of the driver's side, in every variant of its rings.

use anyhow::{Context, ensure};
use std::time::Duration;
use vmtests::dpdk::{self, Forward, Testpmd};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

/// Addresses of the two ports.
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
/// Bursts of 32 frames that each port sends at once: with four descriptors a frame they fit into a queue of 1024.
const BURSTS: u64 = 7;

/// A variant: its name, options of the device, arguments of DPDK.
const VARIANTS: &[(&str, &str, &[&str])] = &[
    ("split", "mrg_rxbuf=0,in_order=0,vectorized=0", &[]),
    ("split, mergeable buffers", "mrg_rxbuf=1,in_order=0,vectorized=0", &[]),
    ("split, in order", "mrg_rxbuf=0,in_order=1,vectorized=0", &[]),
    ("split, in order, mergeable buffers", "mrg_rxbuf=1,in_order=1,vectorized=0", &[]),
    ("split, vectorized", "mrg_rxbuf=0,in_order=0,vectorized=1", &[]),
    ("packed", "packed_vq=1,mrg_rxbuf=0,in_order=0,vectorized=0", &[]),
    ("packed, mergeable buffers", "packed_vq=1,mrg_rxbuf=1,in_order=0,vectorized=0", &[]),
    ("packed, in order", "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=0", &[]),
    ("packed, in order, mergeable buffers", "packed_vq=1,mrg_rxbuf=1,in_order=1,vectorized=0", &[]),
    (
        "packed, in order, vectorized",
        "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
        &["--force-max-simd-bitwidth=512"],
    ),
];

pub(crate) fn all_variants(scene: &Scene) -> anyhow::Result<()> {
    let config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1");
    let config = config.port("a", MACS[0], 1, "").port("b", MACS[1], 1, "");
    let mut ringway = scene.check("ringway serves", || Ringway::start(config))?;
    let mut failures = Vec::new();
    for (number, (name, options, eal)) in VARIANTS.iter().enumerate() {
        let what = format!("{name}: every frame arrives, alone and in segments, and a loop runs");
        let outcome = scene.check(&what, || {
            variant(scene, &ringway, number, options, eal).with_context(|| losses(&ringway))
        });
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
    }
    // What failed comes last: of a long log the end is read.
    ensure!(failures.is_empty(), "{}\n{}", ringway.log_tail(), failures.join("\n"));
    scene.check("SIGTERM ends ringway cleanly", || ringway.terminate())
}

/// Where frames went, by the switch's own account.
fn losses(ringway: &Ringway) -> String {
    let ports = ["a", "b"].map(|port| ringway.tell(&["port", "show", port]));
    ports.map(|text| text.unwrap_or_else(|error| format!("{error:#}"))).join("\n")
}

fn variant(
    scene: &Scene,
    ringway: &Ringway,
    number: usize,
    options: &str,
    eal: &[&str],
) -> anyhow::Result<()> {
    let devices = ["a", "b"].iter().zip(MACS).enumerate();
    let devices =
        devices.map(|(index, (port, mac))| dpdk::virtio_user(index, &ringway.socket(port), mac, options));
    let mut config = dpdk::Config::new(&format!("testpmd{number}"), Forward::ReceiveOnly, devices.collect());
    config.eal = eal.iter().map(|argument| (*argument).to_owned()).collect();
    config.options = vec![format!("--eth-peer=0,{}", MACS[1]), format!("--eth-peer=1,{}", MACS[0])];
    let mut testpmd = Testpmd::start(&scene.lab().sysroot, scene.directory(), &config)?;
    for port in ["a", "b"] {
        ringway.wait_port(port, "running", Duration::from_secs(10))?;
    }
    for segments in ["64", "1500", "64,700,700"] {
        testpmd.command(&format!("set txpkts {segments}"))?;
        let length: u64 = segments.split(',').filter_map(|part| part.parse::<u64>().ok()).sum();
        count(&mut testpmd, length).with_context(|| format!("frames of {segments} bytes"))?;
    }
    testpmd.command("set fwd mac")?;
    testpmd.command("set txpkts 64")?;
    testpmd.command("start tx_first 4")?;
    let rate = testpmd.receive_rate(Duration::from_millis(300))?;
    ensure!(rate > 10_000.0, "the loop runs at {rate} frames a second only");
    testpmd.quit()
}

/// Sends a known number of frames of `length` bytes on both ports, and waits until each has received the other's.
fn count(testpmd: &mut Testpmd, length: u64) -> anyhow::Result<()> {
    testpmd.command("set fwd rxonly")?;
    testpmd.command("clear port stats all")?;
    testpmd.command(&format!("start tx_first {BURSTS}"))?;
    let mut ports = testpmd.counters()?;
    for _ in 0..100 {
        if ports.iter().all(|port| port.received >= BURSTS * 32) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        ports = testpmd.counters()?;
    }
    testpmd.command("stop")?;
    for (index, port) in ports.iter().enumerate() {
        let wanted = BURSTS * 32;
        ensure!(port.sent == wanted, "port {index} sent {} of {wanted}: {ports:?}", port.sent);
        ensure!(port.received == wanted, "port {index} received {} of {wanted}: {ports:?}", port.received);
        ensure!(port.received_bytes == wanted * length, "port {index} received other bytes: {ports:?}");
    }
    Ok(())
}
