//! Front-ends that send garbage, hang up in mid-message or stop reading: each loses its own session, and two drivers that
//! talk all the while do not notice.

use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vmtests::dpdk::{self, Forward, Testpmd};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// Message numbers: vhost-user specification, "Front-end message types".
const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;

pub(crate) fn front_ends(scene: &Scene) -> anyhow::Result<()> {
    let config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1");
    let config =
        config.port("a", MACS[0], 1, "").port("b", MACS[1], 1, "").port("evil", "02:00:00:00:00:03", 2, "");
    let ringway = scene.check("ringway serves", || Ringway::start(config))?;
    let mut testpmd = talkers(scene, &ringway)?;
    let attacks: [(&str, Vec<u8>); 9] = [
        ("nothing at all", vec![]),
        ("random bytes", (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("zeros", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("half a header", message(GET_FEATURES, &[])[..7].to_vec()),
        ("a header that promises 4 GiB", header(SET_MEM_TABLE, 1, u32::MAX)),
        ("a memory table without descriptors", message(SET_MEM_TABLE, &[0xff; 40])),
        ("a ring of absurd size", message(SET_VRING_NUM, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])),
        ("ring addresses before any memory", message(SET_VRING_ADDR, &[0xff; 40])),
    ];
    for (name, bytes) in attacks {
        scene.check(&format!("{name}: only that session ends"), || {
            attack(&ringway, &bytes)?;
            still_talking(&ringway, &mut testpmd)
        })?;
    }
    scene.check("a front-end that asks and never reads", || {
        let mut stream = UnixStream::connect(ringway.socket("evil"))?;
        stream.set_write_timeout(Some(Duration::from_millis(300)))?;
        let ask = message(GET_FEATURES, &[]).repeat(1000);
        // Sooner or later the socket is full or closed; both are right.
        while stream.write_all(&ask).is_ok() {}
        still_talking(&ringway, &mut testpmd)
    })?;
    scene.check("the attacked port serves an honest front-end", || {
        let mut stream = UnixStream::connect(ringway.socket("evil"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&message(GET_FEATURES, &[]))?;
        let mut answer = [0; 20];
        stream.read_exact(&mut answer).context("no answer")?;
        ensure!(answer[..4] == GET_FEATURES.to_le_bytes(), "another answer: {answer:x?}");
        Ok(())
    })?;
    testpmd.quit()
}

/// Two drivers whose frames circulate through ports a and b.
fn talkers(scene: &Scene, ringway: &Ringway) -> anyhow::Result<Testpmd> {
    let devices = ["a", "b"].iter().zip(MACS).enumerate();
    let devices =
        devices.map(|(index, (port, mac))| dpdk::virtio_user(index, &ringway.socket(port), mac, ""));
    let mut config = dpdk::Config::new("testpmd", Forward::Mac, devices.collect());
    config.options = vec![format!("--eth-peer=0,{}", MACS[1]), format!("--eth-peer=1,{}", MACS[0])];
    let mut testpmd = Testpmd::start(&scene.lab().sysroot, scene.directory(), &config)?;
    testpmd.command("start tx_first 4")?;
    Ok(testpmd)
}

fn still_talking(ringway: &Ringway, testpmd: &mut Testpmd) -> anyhow::Result<()> {
    let rate = testpmd.receive_rate(Duration::from_millis(100))?;
    ensure!(rate > 1000.0, "the others' frames stopped ({rate} a second)\n{}", ringway.log_tail());
    Ok(())
}

/// Connects, sends `bytes`, reads for a moment what comes back, hangs up.
fn attack(ringway: &Ringway, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(ringway.socket("evil")).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    // The other side may hang up while this is written.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 4096]);
    Ok(())
}

/// A message header: request, flags, size.
fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
    [request, flags, size].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A message of version 1.
fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(request, 1, payload.len() as u32);
    bytes.extend_from_slice(payload);
    bytes
}
