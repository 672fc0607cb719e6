//! A guest of the switch that sends a million random sources to random stations, while two others talk.

use crate::frames::{Mac, numbered, text};
use crate::place::{Ends, Place};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use vmtests::harness::Scene;
use vmtests::process::wait_until;
use vmtests::ringway::{Config, Ringway};

/// Frames of the attack.
const FRAMES: u32 = 1_000_000;
/// Of the one that nothing but the size of the FDB holds back: it reaches the others' sockets.
const FRAMES_OPEN: u32 = 50_000;
const MAX_ENTRIES: u64 = 1024;
const LIMIT: u64 = 16;
const EVIL: Mac = [2, 6, 0, 0, 0, 3];

fn victim(number: u8) -> Mac {
    [2, 6, 0, 0, 0, number]
}

pub(crate) fn random_sources(scene: &Scene) -> anyhow::Result<()> {
    for (what, port) in [
        ("profile guest", format!("profile = \"guest\"\nmac = \"{}\"", text(EVIL))),
        ("profile open with a limit", format!("profile = \"open\"\nmac-limit = {LIMIT}")),
        ("profile open", "profile = \"open\"".to_owned()),
    ] {
        scene.check(what, || attack(scene, what, &port))?;
    }
    Ok(())
}

fn attack(scene: &Scene, what: &str, port: &str) -> anyhow::Result<()> {
    let place = Place::new(scene, "attack")?;
    let mut config = Config::new(scene.directory(), "mode = \"pool\"\nthreads = 1")
        .section(&format!("max-entries = {MAX_ENTRIES}\n"));
    for (name, more) in [("t0", "profile = \"open\""), ("t1", "profile = \"open\""), ("t2", port)] {
        config = config
            .section(&format!("\n[port.{name}]\nswitch = \"lan\"\ntap = {{ name = \"{name}\" }}\n{more}\n"));
    }
    let ringway = Ringway::start_in(config, &place.enter())?;
    wait_until("the taps", Duration::from_secs(20), || {
        place.batch("ip", "link set t0 up\nlink set t1 up\nlink set t2 up\n").is_ok()
    })
    .with_context(|| ringway.log_tail())?;
    let mut victims = Ends::open(scene, &place, &format!("victims-{}", what.len()), &["t0", "t1"])?;
    let mut evil = Ends::open(scene, &place, &format!("evil-{}", what.len()), &["t2"])?;
    let mut number = 0;
    // Without any limit the flood fills the queues of the taps, and the kernel drops there what it likes: then the victims say
    // it again.
    let is_limited = what != "profile open";
    let mut talk = |victims: &mut Ends| -> anyhow::Result<()> {
        number += 1;
        let frames =
            [(0, numbered(victim(1), victim(0), number)), (1, numbered(victim(0), victim(1), number))];
        let sent: Vec<(usize, &[u8])> = frames.iter().map(|(end, frame)| (*end, frame.as_slice())).collect();
        // Other frames may come in between; what counts is that these do.
        let mut got = vec![Vec::new(); 2];
        let limit = Instant::now() + Duration::from_secs(5);
        let mut first = &sent[..];
        while !(got[0].contains(&frames[1].1) && got[1].contains(&frames[0].1)) {
            ensure!(Instant::now() < limit, "frames between victims were lost");
            for (end, frames) in
                victims.exchange(first, &[1, 1], Duration::from_millis(20))?.into_iter().enumerate()
            {
                got[end].extend(frames);
            }
            first = if is_limited { &[] } else { &sent };
        }
        Ok(())
    };
    talk(&mut victims)?;
    talk(&mut victims)?;
    let start = Instant::now();
    let is_open = what == "profile open";
    let count = if is_open { FRAMES_OPEN } else { FRAMES };
    let storm = std::thread::spawn(move || evil.storm(0, count, 7));
    let (mut exchanges, mut most) = (0, 0);
    while !storm.is_finished() {
        if is_open {
            victims.exchange(&[], &[100_000; 2], Duration::from_millis(20))?;
        } else {
            talk(&mut victims)?;
            exchanges += 1;
        }
        let switches = ringway.api("GET", "/api/switches", None)?;
        most = most.max(switches.pointer("/0/fdb_entries").and_then(Value::as_u64).context("fdb_entries")?);
    }
    storm.join().map_err(|_| anyhow::anyhow!("the storm"))??;
    let seconds = start.elapsed().as_secs_f64();
    let show = ringway.ask(&["port", "show", "t2"])?;
    let drops = show.pointer("/counters/drops").context("drops")?.clone();
    let (learned, evicted) =
        (show["fdb_learned"].as_u64().unwrap_or(0), show["fdb_evicted"].as_u64().unwrap_or(0));
    scene.note(&format!(
        "{what}: {count} frames in {seconds:.1} s, {exchanges} exchanges of the others meanwhile; at most {most} FDB \
         entries; {learned} learned behind it, {evicted} evicted; drops {drops}"
    ));
    ensure!(is_open || exchanges > 3, "the others hardly talked");
    ensure!(most <= MAX_ENTRIES, "{most} entries");
    for number in [0, 1] {
        let list = ringway.ask(&["fdb", "list", "--mac", &text(victim(number))])?;
        ensure!(list[0]["port"] == format!("t{number}"), "{list}");
    }
    talk(&mut victims)?;
    let dropped = |reason: &str| drops.get(reason).and_then(Value::as_u64).unwrap_or(0);
    // The tap's own queue overflows in the kernel before the switch sees all.
    match what {
        "profile guest" => {
            ensure!(dropped("locked") > u64::from(count) / 4 && learned == 0 && most < 10, "{drops}")
        }
        "profile open with a limit" => {
            ensure!(dropped("mac-limit") > u64::from(count) / 4 && learned == LIMIT, "{drops}")
        }
        _ => ensure!(evicted > 0, "{show}"),
    }
    for number in [0, 1] {
        let lost = ringway.ask(&["port", "show", &format!("t{number}")])?;
        ensure!(lost["fdb_evicted"] == 0, "an entry of a victim was evicted: {lost}");
    }
    Ok(())
}
