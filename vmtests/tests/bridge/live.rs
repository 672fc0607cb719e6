//! Ports come, change and go under traffic, and what passes is captured: the others do not notice.

use crate::guests::{Couple, mac};
use anyhow::{Context, bail, ensure};
use std::fmt::Write as _;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::{Peer, output, wait_until};

/// Other ports.
const OTHERS: u8 = 50;

/// Section or words of another port.
fn other(scene: &Scene, number: u8) -> (String, String) {
    (
        scene.directory().join(format!("n{number}.sock")).display().to_string(),
        format!("52:54:00:00:02:{number:02x}"),
    )
}

pub(crate) fn under_traffic(scene: &Scene) -> anyhow::Result<()> {
    let mut couple = Couple::start(scene, "")?;
    let carrier = "cat /sys/class/net/eth0/carrier_changes";
    let before = [couple.a.must(carrier)?, couple.b.must(carrier)?];
    let text = std::fs::read_to_string(couple.ringway.file())?;
    let mut drops = serde_json::json!({});
    for port in ["a", "b"] {
        drops[port] = couple.show(port)?["counters"]["drops"].clone();
    }
    // Echoes carry numbers, and ping counts those that do not come back.
    couple.a.begin("ping -i 0.005 -w 8 -c 100000 10.0.0.2 | tail -n 3")?;
    let words =
        |line: &str| -> anyhow::Result<String> { couple.ringway.tell(&line.split(' ').collect::<Vec<_>>()) };
    scene.check("50 ports are added, changed and removed one by one", || {
        for number in 0..OTHERS {
            let (socket, mac) = other(scene, number);
            words(&format!("port add n{number} switch=lan vhost-user.socket={socket} mac={mac}"))?;
        }
        for number in 0..OTHERS {
            words(&format!("port set n{number} isolated=true rate-limit.broadcast=100"))?;
        }
        for number in 0..OTHERS {
            words(&format!("port remove n{number}"))?;
        }
        Ok(())
    })?;
    scene.check("50 ports come and go with the file", || {
        let mut more = text.clone();
        for number in 0..OTHERS {
            let (socket, mac) = other(scene, number);
            // Writing to a string cannot fail.
            let _ = write!(
                more,
                "\n[port.n{number}]\nswitch = \"lan\"\nvhost-user = {{ socket = {socket:?} }}\nmac = \"{mac}\"\n"
            );
        }
        for (content, list) in [(&more, "added"), (&text, "removed")] {
            std::fs::write(couple.ringway.file(), content)?;
            let change = couple.ringway.ask(&["reload"])?;
            let count = change[list].as_array().map_or(0, Vec::len);
            ensure!(count == usize::from(OTHERS) && change["replaced"] == serde_json::json!([]), "{change}");
        }
        Ok(())
    })?;
    scene.check("a file with a mistake changes nothing", || {
        let before = couple.ringway.ask(&["config", "show"])?;
        let wrong = text.replace(&mac(2), &mac(1)).replace("ageing = \"5m\"", "ageing = \"9m\"");
        std::fs::write(couple.ringway.file(), wrong)?;
        match couple.ringway.tell(&["reload"]) {
            Ok(text) => bail!("it was taken: {text}"),
            Err(error) => scene.note(&format!("{error}").replace('\n', " | ")),
        }
        ensure!(couple.ringway.ask(&["config", "show"])? == before, "the configuration changed");
        std::fs::write(couple.ringway.file(), &text)?;
        Ok(())
    })?;
    let summary = couple.a.finish(Duration::from_secs(60))?.text;
    scene.check("not one echo was lost, and no front-end noticed", || {
        scene.note(&summary.replace('\n', " "));
        ensure!(summary.contains(", 0% packet loss"), "{summary}");
        let counts: Vec<u64> = summary.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        ensure!(counts.len() >= 2 && counts[0] == counts[1] && counts[0] > 500, "{counts:?} {summary}");
        ensure!([couple.a.must(carrier)?, couple.b.must(carrier)?] == before, "a link went down");
        let log = std::fs::read_to_string(scene.directory().join("ringway.log"))?;
        let connected = log.lines().filter(|line| line.contains("front-end connected")).count();
        ensure!(connected == 2, "front-ends connected {connected} times:\n{log}");
        for port in ["a", "b"] {
            let now = couple.show(port)?["counters"]["drops"].clone();
            ensure!(now == drops[port], "{port}: {now}, {} before", drops[port]);
        }
        Ok(())
    })
}

/// A capture file that Wireshark reads: directions, and why frames were dropped.
pub(crate) fn captured(scene: &Scene) -> anyhow::Result<()> {
    let mut couple = Couple::start(scene, "")?;
    let file = scene.directory().join("a.pcapng");
    let mut command = couple.ringway.command(&["capture", "a", "-w"]);
    let mut capture = Peer::start("capture", scene.directory(), command.arg(&file))?;
    let begun = || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
    wait_until("the capture", Duration::from_secs(5), begun).with_context(|| capture.log())?;
    let before = couple.drops("a", "locked")?;
    let meanwhile = scene.check("echoes and spoofed frames are captured", || {
        couple.ping()?;
        couple.a.must(&format!("ip link set eth0 address {}", mac(0x0a)))?;
        couple.a.run("ping -c 2 -i 0.2 -W 1 -w 1 10.0.0.2")?;
        let size = || std::fs::metadata(&file).map_or(0, |file| file.len());
        wait_until("frames in the file", Duration::from_secs(5), || size() > 1500)?;
        let counted = couple.drops("a", "locked")?;
        std::thread::sleep(Duration::from_millis(500));
        capture.signal(rustix::process::Signal::INT)?;
        let status = capture.wait(Duration::from_secs(5))?;
        ensure!(status.success(), "{status}: {}", capture.log());
        Ok(counted)
    })?;
    let fields = |filter: &str| -> anyhow::Result<Vec<String>> {
        let mut tshark = scene.lab().sysroot.command("tshark");
        tshark.args(["-n", "-r"]).arg(&file).args(["-Y", filter, "-T", "fields"]);
        for field in ["frame.interface_name", "frame.packet_flags_direction", "frame.comment", "eth.src"] {
            tshark.args(["-e", field]);
        }
        Ok(output(&mut tshark)?.lines().map(str::to_owned).collect())
    };
    scene.check("tshark reads directions, ports and reasons", || {
        let (inbound, outbound) = (fields("icmp.type == 8 && !frame.comment")?, fields("icmp.type == 0")?);
        scene.note(&format!("{:?} {:?}", inbound.first(), outbound.first()));
        ensure!(inbound.len() >= 4 && outbound.len() == inbound.len(), "{inbound:?} {outbound:?}");
        for (lines, direction, from) in [(&inbound, "0x00000001", mac(1)), (&outbound, "0x00000002", mac(2))]
        {
            for line in lines {
                let words: Vec<&str> = line.split('\t').collect();
                ensure!(words[..2] == ["a", direction] && words[3] == from, "{line}");
            }
        }
        let dropped = fields("frame.comment")?;
        scene.note(&format!("{:?}", dropped.first()));
        ensure!(!dropped.is_empty());
        for line in &dropped {
            let words: Vec<&str> = line.split('\t').collect();
            ensure!(
                words[1] == "0x00000001" && words[2].contains("locked") && words[3] == mac(0x0a),
                "{line}"
            );
        }
        Ok(())
    })?;
    scene.check("the port's counter and the file agree on drops", || {
        // The guest goes on asking for the other's address before and after the end of the capture.
        let after = couple.drops("a", "locked")?;
        let lines = fields("frame.comment")?.len() as u64;
        ensure!(
            (meanwhile - before..=after - before).contains(&lines),
            "{lines} in the file; counted {before} before, {meanwhile} meanwhile, {after} after"
        );
        Ok(())
    })
}
