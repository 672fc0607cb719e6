//! Ringway is killed while a guest writes, and started again: the guest sees no error, and nothing is lost.

use crate::place::{Way, attach, disk, make_image};
use anyhow::{Context, ensure};
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn killed_under_load(scene: &Scene) -> anyhow::Result<()> {
    killed(scene, 6)
}

pub(crate) fn killed_fifty_times(scene: &Scene) -> anyhow::Result<()> {
    killed(scene, 50)
}

fn killed(scene: &Scene, kills: usize) -> anyhow::Result<()> {
    let directory = scene.directory();
    let ways = [
        ("split", Way::VhostUser { queues: 1, properties: "" }),
        ("packed", Way::VhostUser { queues: 1, properties: ",packed=on" }),
    ];
    let mut config = Config::new(directory, "mode = \"pool\"\nthreads = 1");
    for (name, way) in ways {
        let path = make_image(directory, name, 64 * MIB)?;
        config = disk(config, directory, name, way, &format!("file = {path:?}"));
    }
    let mut ringway = scene.check("ringway serves", || Ringway::start(config))?;
    let mut guest = GuestConfig::new("writer");
    ways.iter().for_each(|(name, way)| attach(&mut guest, directory, name, *way));
    let mut guest = scene.check("a guest with two disks boots", || Guest::boot(scene.lab(), guest))?;
    // A round writes other data than the one before it.
    guest.must("for i in 0 1; do dd if=/dev/urandom of=/tmp/data$i bs=1M count=32; done")?;
    // As long as ringway is killed, and a little longer.
    let uptime: f64 = guest.must("cut -d' ' -f1 /proc/uptime")?.trim().parse()?;
    let until = uptime as usize + kills + 3;
    // Four writers a disk, each with a part of the data of its own: several requests are in flight at any moment.
    let write = format!(
        "round=0; while true; do data=/tmp/data$((round % 2)); for disk in vda vdb; do for part in 0 1 2 3; do \
         dd if=$data of=/dev/$disk bs=16k skip=$((part * 512)) seek=$((part * 512)) count=512 \
         oflag=direct conv=notrunc 2>/tmp/err-$disk-$part || touch /tmp/failed-$disk-$part & \
         done; done; wait; round=$((round + 1)); [ $(cut -d. -f1 /proc/uptime) -gt {until} ] && break; done; \
         echo $round; ls /tmp/failed-* 2>/dev/null; true"
    );
    guest.begin(&write)?;
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(700));
        ringway.kill();
        ringway.start_again().with_context(|| format!("start {kill} of {kills}"))?;
    }
    scene.note(&format!("killed with SIGKILL and started again {kills} times"));
    let output = scene.check("the writers end without an error", || guest.finish(LIMIT))?;
    ensure!(output.status == 0, "{output:?}");
    let rounds: usize = output.text.trim().parse().with_context(|| format!("{output:?}"))?;
    scene.note(&format!("each part was written {rounds} times"));
    let last = (rounds + 1) % 2;
    scene.check("everything is where it was written", || {
        guest.must("echo 3 >/proc/sys/vm/drop_caches")?;
        for disk in ["vda", "vdb"] {
            let read = format!(
                "dd if=/dev/{disk} bs=64k count=512 iflag=direct 2>/dev/null | cmp - /tmp/data{last}"
            );
            guest.must_within(&read, LIMIT)?;
        }
        let errors = guest.must("dmesg | grep -ci 'I/O error' || true")?;
        ensure!(errors.trim() == "0", "the kernel counts {errors} errors");
        Ok(())
    })
}
