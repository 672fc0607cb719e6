//! What a Linux guest does with its disks: writes and reads, flushes, discards, and finds what the configuration promised.

use crate::place::{Way, attach, disk, image, make_image, make_qcow2};
use anyhow::{Context, ensure};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;
use vmtests::ringway::{Config, Ringway};

const MIB: u64 = 1 << 20;
const WORKERS: &str = "mode = \"pool\"\nthreads = 1";
const LIMIT: Duration = Duration::from_secs(120);

/// Ways that each get a guest of their own.
const WAYS: [(&str, Way); 6] = [
    ("split", Way::VhostUser { queues: 1, properties: "" }),
    ("packed", Way::VhostUser { queues: 1, properties: ",packed=on" }),
    ("queues", Way::VhostUser { queues: 2, properties: "" }),
    ("modern", Way::VfioUser { interface: "modern" }),
    ("transitional", Way::VfioUser { interface: "transitional" }),
    ("legacy", Way::VfioUser { interface: "legacy" }),
];

pub(crate) fn written_and_read_again(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory();
    let mut config = Config::new(directory, WORKERS);
    for (name, way) in WAYS {
        let path = make_image(directory, name, 64 * MIB)?;
        let lines = format!("file = {path:?}\nserial = \"serial-{name}\"");
        config = disk(config, directory, name, way, &lines);
    }
    let mut ringway = scene.check("ringway serves", || Ringway::start(config))?;
    for pair in WAYS.chunks_exact(2) {
        let guest = |(name, way): (&str, Way)| {
            let mut guest = GuestConfig::new(name);
            attach(&mut guest, directory, name, way);
            guest
        };
        let names: Vec<&str> = pair.iter().map(|(name, _)| *name).collect();
        let what = format!("guests with {} boot", names.join(" and "));
        let guests = scene.check(&what, || Guest::boot_all(scene.lab(), [guest(pair[0]), guest(pair[1])]))?;
        for (mut guest, name) in guests.into_iter().zip(names) {
            let what = format!("{name}: writes, reads, flushes, discards, reboots, reads again");
            scene.check(&what, || use_disk(&ringway, &mut guest, directory, name))?;
        }
    }
    scene.check("SIGTERM ends ringway cleanly", || ringway.terminate())
}

fn use_disk(ringway: &Ringway, guest: &mut Guest, directory: &Path, name: &str) -> anyhow::Result<()> {
    let size = guest.must("cat /sys/block/vda/size")?;
    ensure!(size.trim() == (64 * MIB / 512).to_string(), "size: {size}");
    let serial = guest.must("cat /sys/block/vda/serial")?;
    ensure!(serial.trim() == format!("serial-{name}"), "serial: {serial}");
    guest.must("dd if=/dev/urandom of=/tmp/data bs=1M count=8")?;
    guest.must_within("dd if=/tmp/data of=/dev/vda bs=64k seek=16 oflag=direct", LIMIT)?;
    guest.must("sync && echo 3 >/proc/sys/vm/drop_caches")?;
    guest.must_within(
        "dd if=/dev/vda bs=4k skip=256 count=2048 iflag=direct 2>/dev/null | cmp - /tmp/data",
        LIMIT,
    )?;
    // What the guest wrote is in the file, at its place.
    let sum = guest.must("sha256sum </tmp/data")?;
    let found = sum_of(&image(directory, name), MIB, 8 * MIB)?;
    ensure!(sum.contains(&found), "the image has {found}, the guest {sum}");
    // Odd lengths and places: the page cache makes whole pages of them.
    guest.must("printf ringway | dd of=/dev/vda bs=1 seek=70001 conv=notrunc,fsync")?;
    let word = guest.must("dd if=/dev/vda bs=1 skip=70001 count=7 2>/dev/null")?;
    ensure!(word == "ringway", "read {word:?}");
    let shown = ringway.ask(&["disk", "show", name])?;
    let count = |key: &str| shown["counters"][key].as_u64().unwrap_or_default();
    ensure!(count("bytes_written") >= 8 * MIB && count("bytes_read") >= 8 * MIB, "{shown}");
    ensure!(count("flushes") > 0 && count("errors") == 0 && shown["state"] == "running", "{shown}");
    discard(guest, directory, name)?;
    guest.reboot()?;
    let again = "dd if=/dev/vda bs=1 skip=70001 count=7 2>/dev/null";
    ensure!(guest.must(again)? == "ringway", "not there after a reboot");
    Ok(())
}

/// Gives eight written mebibytes back to the host.
fn discard(guest: &mut Guest, directory: &Path, name: &str) -> anyhow::Result<()> {
    let path = image(directory, name);
    let before = std::fs::metadata(&path)?.blocks();
    let limit = guest.must("cat /sys/block/vda/queue/discard_max_bytes")?;
    ensure!(limit.trim() != "0", "nothing can be discarded");
    guest.must("/usr/sbin/blkdiscard -o 1048576 -l 8388608 /dev/vda")?;
    let after = std::fs::metadata(&path)?.blocks();
    ensure!(after * 512 + 7 * MIB <= before * 512, "{before} blocks of the host before, {after} after");
    guest.must("/usr/sbin/blkdiscard -z -o 1048576 -l 1048576 /dev/vda")?;
    guest.must(
        "dd if=/dev/vda bs=64k skip=16 count=16 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero",
    )?;
    Ok(())
}

/// SHA-256 of `len` bytes of a file, as `sha256sum` prints it.
fn sum_of(path: &Path, offset: u64, len: u64) -> anyhow::Result<String> {
    let file = std::fs::File::open(path)?;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    let part = path.with_extension("part");
    std::fs::write(&part, &bytes)?;
    let output = std::process::Command::new("sha256sum").arg(&part).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.split_whitespace().next().map(str::to_owned).context("sha256sum says nothing")
}

pub(crate) fn several_disks(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory();
    let way = Way::VhostUser { queues: 1, properties: "" };
    let first = make_image(directory, "fs", 96 * MIB)?;
    let second = make_image(directory, "fixed", 8 * MIB)?;
    std::fs::write(&second, vec![0x5a; 8 * MIB as usize])?;
    let mut config = Config::new(directory, WORKERS);
    config = disk(config, directory, "fs", way, &format!("file = {first:?}"));
    config = disk(config, directory, "fixed", way, &format!("file = {second:?}\nread-only = true"));
    config = disk(config, directory, "memory", way, "ram = \"16M\"\nblock-size = 4096");
    let cow = directory.join("cow.qcow2");
    make_qcow2(&cow, 32 * MIB)?;
    config = disk(config, directory, "cow", way, &format!("file = {cow:?}"));
    let mut ringway = scene.check("ringway serves", || Ringway::start(config))?;
    let mut guest = GuestConfig::new("disks");
    ["fs", "fixed", "memory", "cow"].iter().for_each(|name| attach(&mut guest, directory, name, way));
    let mut guest = scene.check("a guest with four disks boots", || Guest::boot(scene.lab(), guest))?;
    scene.check("a file system is made, filled, checked", || {
        guest.must_within(
            "/usr/sbin/mke2fs -q -t ext4 /dev/vda && mkdir -p /mnt && mount /dev/vda /mnt",
            LIMIT,
        )?;
        guest.must_within(
            "cp -r /usr/bin /mnt/ && sync && umount /mnt && /usr/sbin/e2fsck -f -n /dev/vda",
            LIMIT,
        )
    })?;
    scene.check("a read-only disk is read and not written", || {
        ensure!(guest.must("cat /sys/block/vdb/ro")?.trim() == "1", "it says that it can be written");
        guest.must("dd if=/dev/vdb bs=1M iflag=direct 2>/dev/null | tr -d Z | wc -c | grep -qx 0")
    })?;
    scene.check("a disk of memory has the blocks that it was given", || {
        let size = guest.must("cat /sys/block/vdc/queue/logical_block_size")?;
        ensure!(size.trim() == "4096", "blocks of {size}");
        guest.must(
            "dd if=/dev/urandom of=/tmp/m bs=1M count=2 && dd if=/tmp/m of=/dev/vdc bs=4k oflag=direct",
        )?;
        guest.must("dd if=/dev/vdc bs=8k count=256 iflag=direct 2>/dev/null | cmp - /tmp/m")
    })?;
    scene.check("a qcow2 image is written, and read after ringway was started again", || {
        guest.must("cat /tmp/m >/dev/vdd && dd if=/tmp/m of=/dev/vdd bs=64k seek=300 conv=fsync && sync")?;
        ringway.terminate()?;
        ringway.start_again()?;
        guest.must("echo 3 >/proc/sys/vm/drop_caches")?;
        guest.must("dd if=/dev/vdd bs=64k skip=300 count=32 iflag=direct 2>/dev/null | cmp - /tmp/m")?;
        guest.must("dd if=/dev/vdd bs=64k count=32 iflag=direct 2>/dev/null | cmp - /tmp/m")
    })?;
    let disks = ringway.ask(&["disk", "list"])?;
    let all_run = disks.as_array().is_some_and(|disks| disks.iter().all(|disk| disk["state"] == "running"));
    ensure!(all_run, "{disks}");
    Ok(())
}

pub(crate) fn changed_while_they_run(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.directory();
    let ways = [
        ("user", Way::VhostUser { queues: 1, properties: "" }),
        ("function", Way::VfioUser { interface: "modern" }),
    ];
    let mut config = Config::new(directory, WORKERS);
    for (name, way) in ways {
        let path = make_image(directory, name, 16 * MIB)?;
        config = disk(config, directory, name, way, &format!("file = {path:?}"));
    }
    let ringway = scene.check("ringway serves", || Ringway::start(config))?;
    let mut guest = GuestConfig::new("changes");
    ways.iter().for_each(|(name, way)| attach(&mut guest, directory, name, *way));
    let mut guest = scene.check("a guest boots", || Guest::boot(scene.lab(), guest))?;
    for (name, node) in [("user", "vda"), ("function", "vdb")] {
        scene.check(&format!("{name}: its driver changes the mode of the cache"), || {
            let mode = format!("/sys/block/{node}/cache_type");
            ensure!(guest.must(&format!("cat {mode}"))?.trim() == "write back", "not write-back first");
            guest.must(&format!("echo 'write through' >{mode}"))?;
            let shown = ringway.ask(&["disk", "show", name])?;
            ensure!(shown["cache"] == "write-through", "{shown}");
            guest.must(&format!("dd if=/dev/zero of=/dev/{node} bs=4k count=16 oflag=direct"))?;
            guest.must(&format!("echo 'write back' >{mode}"))?;
            let shown = ringway.ask(&["disk", "show", name])?;
            ensure!(shown["cache"] == "write-back", "{shown}");
            Ok(())
        })?;
        scene.check(&format!("{name}: it grows, and the guest sees it"), || {
            ringway.tell(&["disk", "resize", name, "24M"])?;
            let sectors = 24 * MIB / 512;
            let wait = format!(
                "for i in $(seq 100); do [ $(cat /sys/block/{node}/size) = {sectors} ] && exit 0; usleep 50000; done; exit 1"
            );
            guest.must(&wait)?;
            guest.must(&format!("dd if=/dev/zero of=/dev/{node} bs=1M seek=20 count=4 oflag=direct"))
        })?;
        scene.check(&format!("{name}: a limit holds it, and goes again"), || {
            ringway.tell(&["disk", "set", name, "rate-limit.iops=100", "rate-limit.iops-burst=1"])?;
            let read = format!("time -p dd if=/dev/{node} of=/dev/null bs=4k count=200 iflag=direct");
            let text = guest.must_within(&read, LIMIT)?;
            let seconds =
                text.lines().find_map(|line| line.strip_prefix("real ")?.trim().parse::<f64>().ok());
            let seconds = seconds.with_context(|| format!("no time in {text}"))?;
            ensure!((1.5..20.0).contains(&seconds), "200 requests at 100 a second took {seconds} s");
            ringway.tell(&["disk", "set", name, "rate-limit="])?;
            guest.must(&read)
        })?;
    }
    Ok(())
}
