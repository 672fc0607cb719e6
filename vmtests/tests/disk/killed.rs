//! Ringway is killed while a guest writes, and started again: the guest sees no error, and nothing is lost.

use crate::place::{Way, attach, disk, make_image};
use anyhow::ensure;
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

const MIB: u64 = 1 << 20;
const KILLS: usize = 6;
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn killed_under_load(scene: &Scene) -> anyhow::Result<()> {
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
    guest.must("dd if=/dev/urandom of=/tmp/data bs=1M count=32")?;
    // Four writers a disk, each with a part of the data of its own: several requests are in flight at any moment.
    let write = "for round in 1 2 3; do for disk in vda vdb; do for part in 0 1 2 3; do \
        dd if=/tmp/data of=/dev/$disk bs=16k skip=$((part * 512)) seek=$((part * 512)) count=512 \
        oflag=direct conv=notrunc 2>/tmp/err-$disk-$part || touch /tmp/failed-$disk-$part & \
        done; done; wait; done; ls /tmp/failed-* 2>/dev/null; true";
    guest.begin(write)?;
    for kill in 1..=KILLS {
        std::thread::sleep(Duration::from_millis(700));
        let what = format!("killed with SIGKILL and started again, {kill} of {KILLS}");
        scene.check(&what, || {
            ringway.kill();
            ringway.start_again()
        })?;
    }
    let output = scene.check("the writers end without an error", || guest.finish(LIMIT))?;
    ensure!(output.status == 0 && output.text.trim().is_empty(), "{output:?}");
    scene.check("everything is where it was written", || {
        guest.must("echo 3 >/proc/sys/vm/drop_caches")?;
        for disk in ["vda", "vdb"] {
            let read =
                format!("dd if=/dev/{disk} bs=64k count=512 iflag=direct 2>/dev/null | cmp - /tmp/data");
            guest.must_within(&read, LIMIT)?;
        }
        let errors = guest.must("dmesg | grep -ci 'I/O error' || true")?;
        ensure!(errors.trim() == "0", "the kernel counts {errors} errors");
        Ok(())
    })
}
