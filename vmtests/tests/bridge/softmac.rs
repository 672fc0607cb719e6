//! `ip link set eth0 address …` in a guest: the operator's rule decides, and the switch follows.

use crate::guests::{Couple, SOON, configure, mac};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use vmtests::guest::{Guest, GuestConfig};
use vmtests::harness::Scene;
use vmtests::process::wait_until;
use vmtests::ringway::{Config, Ringway};

/// Changes in a row.
const MANY: u32 = 200;

fn take(guest: &mut Guest, number: u8) -> anyhow::Result<()> {
    guest.must(&format!("ip link set eth0 address {}", mac(number)))?;
    Ok(())
}

/// The guest's own word for the address it has, by Ringway.
fn has(show: &Value, number: u8) -> bool {
    show.pointer("/receive_filter/mac").and_then(Value::as_str) == Some(&mac(number))
}

fn refused(show: &Value) -> Option<&str> {
    show.pointer("/receive_filter/refused").and_then(Value::as_str)
}

fn changes(show: &Value) -> u64 {
    show.pointer("/receive_filter/changes").and_then(Value::as_u64).unwrap_or(0)
}

/// QEMU keeps the control queue to itself; its monitor tells.
pub(crate) fn by_monitor(scene: &Scene) -> anyhow::Result<()> {
    let mut couple = Couple::start(scene, "")?;
    scene.check("denied: frames are dropped, and port show says why", || {
        let before = couple.drops("a", "locked")?;
        take(&mut couple.a, 0x0a)?;
        let show = couple.until("the refusal", "a", |show| refused(show).is_some())?;
        scene.note(&format!("port show: {:?}", refused(&show)));
        ensure!(refused(&show).is_some_and(|why| why.contains("mac-change")), "{show}");
        ensure!(couple.a.run("ping -c 2 -i 0.2 -W 1 -w 2 10.0.0.2")?.status != 0, "an echo came back");
        ensure!(couple.drops("a", "locked")? > before, "no frame was dropped for it");
        ensure!(couple.fdb("a")? == [mac(1)], "{:?}", couple.fdb("a")?);
        take(&mut couple.a, 1)?;
        couple.until("no refusal", "a", |show| has(show, 1) && refused(show).is_none())?;
        couple.ping()
    })?;
    scene.check("what was refused is taken when the operator allows it", || {
        take(&mut couple.a, 0x0e)?;
        couple.until("the refusal", "a", |show| refused(show).is_some())?;
        couple.ringway.tell(&["port", "set", "a", &format!("mac-change=[\"{}\"]", mac(0x0e))])?;
        wait_until("the FDB", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(0x0e)]))
            .with_context(|| format!("{:?}", couple.show("a")))?;
        couple.ping()
    })?;
    scene.check("allowed: the FDB has the new address and not the old, and echoes go on", || {
        couple.ringway.tell(&["port", "set", "a", "mac-change=allow"])?;
        take(&mut couple.a, 0x0a)?;
        couple.until("the new address", "a", |show| has(show, 0x0a))?;
        wait_until("the FDB", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(0x0a)]))?;
        couple.ping()?;
        // To it as well as from it.
        let text = couple.b.must("ping -c 3 -i 0.1 -w 5 10.0.0.1")?;
        ensure!(text.contains(", 0% packet loss"), "{text}");
        Ok(())
    })?;
    scene.check("another port's address is not to be had", || {
        take(&mut couple.a, 2)?;
        couple.until("the refusal", "a", |show| refused(show).is_some())?;
        ensure!(couple.fdb("b")? == [mac(2)], "{:?}", couple.fdb("b")?);
        take(&mut couple.a, 0x0a)?;
        wait_until("the FDB", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(0x0a)]))
    })?;
    scene.check("a list: what is on it, and nothing else", || {
        couple.ringway.tell(&["port", "set", "a", &format!("mac-change=[\"{}\"]", mac(0x0c))])?;
        take(&mut couple.a, 0x0b)?;
        couple.until("the refusal", "a", |show| refused(show).is_some_and(|why| why.contains(&mac(0x0b))))?;
        take(&mut couple.a, 0x0c)?;
        wait_until("the FDB", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(0x0c)]))?;
        couple.ping()
    })?;
    scene.check("many changes in a row are bounded work", || {
        couple.ringway.tell(&["port", "set", "a", "mac-change=allow"])?;
        let before = changes(&couple.show("a")?);
        let start = Instant::now();
        couple.a.must(&format!(
            "i=0; while [ $i -lt {MANY} ]; do ip link set eth0 address 52:54:00:00:01:$(printf %02x $i); i=$((i+1)); done; \
             ip link set eth0 address {}",
            mac(0x0d)
        ))?;
        wait_until("the last address", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(0x0d)]))?;
        let (took, asked) = (start.elapsed(), changes(&couple.show("a")?) - before);
        // One query each 50 ms, and one for what came in between.
        let most = took.as_millis() as u64 / 50 + 2;
        scene.note(&format!("{MANY} changes in {took:.1?}: {asked} queries, at most {most} allowed"));
        ensure!(asked <= most, "{asked} queries for {MANY} changes in {took:?}");
        couple.ping()
    })?;
    scene.check("a guest that boots again has the configured address", || {
        couple.a.reboot()?;
        configure(&mut couple.a, 1)?;
        wait_until("the FDB", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(1)]))
            .with_context(|| format!("{:?} {}", couple.fdb("a"), couple.show("a").unwrap_or_default()))?;
        couple.ping()
    })
}

/// A front-end that hands the control queue through: QEMU's generic vhost-user device.
pub(crate) fn by_command(scene: &Scene) -> anyhow::Result<()> {
    let mut config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1");
    for (name, number) in [("a", 1), ("b", 2)] {
        let socket = config.socket(name);
        config = config.section(&format!(
            "\n[port.{name}]\nswitch = \"lan\"\nvhost-user = {{ socket = {:?} }}\nmac = \"{}\"\n",
            socket,
            mac(number),
        ));
    }
    let configs = ["a", "b"].map(|name| {
        let mut guest = GuestConfig::new(name);
        guest.arguments = vec![
            "-chardev".into(),
            format!("socket,id=chr,path={}", config.socket(name).display()),
            "-device".into(),
            "vhost-user-test-device-pci,chardev=chr,virtio-id=1,num_vqs=3,vq_size=256,config_size=12".into(),
        ];
        guest
    });
    let ringway = Ringway::start(config)?;
    let [a, b] = scene.check("both guests boot", || {
        Guest::boot_all(scene.lab(), configs).with_context(|| ringway.log_tail())
    })?;
    let mut couple = Couple { ringway, a, b };
    configure(&mut couple.a, 1)?;
    configure(&mut couple.b, 2)?;
    couple.ping()?;
    scene.check("denied: the command fails in the guest", || {
        let output = couple.a.run(&format!("ip link set eth0 address {}", mac(0x0a)))?;
        ensure!(output.status != 0, "the guest was not told: {}", output.text);
        couple.until("the refusal", "a", |show| refused(show).is_some())?;
        couple.ping()
    })?;
    scene.check("allowed: the command is answered when the switch has the address", || {
        couple.ringway.tell(&["port", "set", "a", "mac-change=allow"])?;
        take(&mut couple.a, 0x0a)?;
        ensure!(couple.fdb("a")? == [mac(0x0a)], "{:?}", couple.fdb("a")?);
        couple.ping()
    })?;
    scene.check("many changes", || {
        let start = Instant::now();
        couple.a.must_within(
            &format!(
                "i=0; while [ $i -lt {MANY} ]; do ip link set eth0 address 52:54:00:00:01:$(printf %02x $i) || exit 1; \
                 i=$((i+1)); done; ip link set eth0 address {}",
                mac(0x0d)
            ),
            Duration::from_secs(60),
        )?;
        scene.note(&format!("{MANY} changes in {:.1?}", start.elapsed()));
        ensure!(couple.fdb("a")? == [mac(0x0d)], "{:?}", couple.fdb("a")?);
        couple.ping()
    })?;
    scene.check("a guest that boots again has the configured address", || {
        couple.a.reboot()?;
        wait_until("the FDB", SOON, || couple.fdb("a").is_ok_and(|macs| macs == [mac(1)]))
            .with_context(|| format!("{:?} {}", couple.fdb("a"), couple.show("a").unwrap_or_default()))?;
        configure(&mut couple.a, 1)?;
        couple.ping()
    })
}
