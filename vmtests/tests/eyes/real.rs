//! The real program: `ringway run` with taps, frames sent into them, the dashboard with its token, and a scrape read by
//! Prometheus' own parser.

use anyhow::{Context, ensure};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::{self, Peer, tail, wait_until};
use vmtests::ringway;

use super::page::{LIVE, ORIGIN, ROWS, SOON, picture};
use super::place::Place;

const TOKEN: &str = "a-token-of-some-length-0123456789";

/// Sends frames into a tap until it is killed, a burst every 50 ms: to the other tap's station, and if asked, one that no
/// switch may forward. Arguments: interface, own address, other address, whether to send bad ones.
const SEND: &str = r#"
import socket, sys, time
name, own, other, bad = sys.argv[1:]
mac = lambda text: bytes.fromhex(text.replace(':', ''))
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((name, 0))
frames = 1
while True:
    for _ in range(frames):
        link.send(mac(other) + mac(own) + b'\x88\xb5' + bytes(600))
    if bad == 'yes':
        link.send(mac(other) + mac('01:00:5e:00:00:01') + b'\x88\xb5' + bytes(60))
    frames = frames % 40 + 1
    time.sleep(0.05)
"#;

/// Reads the exposition with the reference parser and prints what the test looks at.
const SCRAPE: &str = r#"
import urllib.request
from prometheus_client.openmetrics.parser import text_string_to_metric_families
text = urllib.request.urlopen('http://127.0.0.1:9464/metrics').read().decode()
families = list(text_string_to_metric_families(text))
print('families', len(families))
for family in families:
    for sample in family.samples:
        print(sample.name, ' '.join(f'{k}={v}' for k, v in sorted(sample.labels.items())), sample.value)
"#;

const MACS: [&str; 2] = ["52:54:00:00:00:0a", "52:54:00:00:00:0b"];

pub(crate) fn shows(scene: &Scene) -> anyhow::Result<()> {
    let place = Place::new(scene)?;
    let _ringway = scene.check("ringway serves its API and the dashboard", || start(scene, &place))?;
    for tap in ["eyes-a", "eyes-b"] {
        let mut up = Command::new("ip");
        up.args(["link", "set", tap, "up"]);
        process::output(&mut place.command(&up))?;
    }
    let send = |tap: &str, own: &str, other: &str, bad: &str| {
        let mut python = scene.lab().sysroot.command("python3");
        python.args(["-c", SEND, tap, own, other, bad]);
        Peer::start(tap, scene.directory(), &mut place.command(&python))
    };
    let _b = send("eyes-b", MACS[1], MACS[0], "no")?;
    let a = send("eyes-a", MACS[0], MACS[1], "no")?;
    let mut browser = place.browser(scene)?;
    browser.screen(1440, 1000, "light")?;
    browser.open(ORIGIN)?;
    scene.check("the API asks for its token, and takes the right one", || {
        browser.wait("the question", "document.querySelector('#login').open", SOON)?;
        browser.value(&format!(
            "document.querySelector('#login-token').value = {TOKEN:?};
             document.querySelector('#login-form').requestSubmit()"
        ))?;
        browser.wait("live", LIVE, SOON)
    })?;
    scene.check("all ports are there, with rates that change", || {
        browser.wait("three rows", &format!("{ROWS} === 3"), SOON)?;
        let rate = "document.querySelector('#ports-table tr[data-port=a]').cells[3].textContent";
        browser.wait("a rate", &format!("/[1-9]/.test({rate})"), SOON)?;
        let first = browser.text(rate)?;
        browser.wait("another rate", &format!("{rate} !== {first:?}"), SOON)?;
        let waiting = "document.querySelector('#ports-table tr[data-port=guest] .state').textContent";
        ensure!(browser.text(waiting)? == "waiting", "the guest's port");
        Ok(())
    })?;
    scene.check("the FDB shows both stations", || {
        browser.value("document.querySelector('#fdb').scrollIntoView({ behavior: 'instant' })")?;
        for mac in MACS {
            let found = format!("document.querySelector('#fdb-table').innerText.includes({mac:?})");
            browser.wait(mac, &found, SOON)?;
        }
        Ok(())
    })?;
    scene.check("a frame that may not pass shows up under its reason", || {
        let drops = "document.querySelector('#drops-table').innerText.includes('invalid-source')";
        ensure!(browser.value(drops)? == false, "a drop before there was a bad frame");
        drop(a);
        let _a = send("eyes-a", MACS[0], MACS[1], "yes")?;
        browser.wait("the reason", drops, SOON)?;
        browser.wait("its column", "document.querySelectorAll('#drops-chart rect').length > 2", SOON)?;
        browser.value("scrollTo({ top: 0, behavior: 'instant' })")?;
        browser.picture(&picture("real")?, false)
    })?;
    scene.check("a trace is explained by the running switch", || {
        browser.value(&format!(
            "document.querySelector('#trace-port').value = 'a';
             document.querySelector('#trace-frame').value = 'src={} dst={} len=64';
             document.querySelector('#trace-form').requestSubmit()",
            MACS[0], MACS[1]
        ))?;
        let verdict = "document.querySelector('#trace-answer .verdict')?.innerText === 'unicast'";
        browser.wait("the verdict", verdict, SOON)
    })?;
    scene.check("Prometheus' own parser reads the metrics", || {
        let mut python = scene.lab().sysroot.command("python3");
        python.args(["-c", SCRAPE]);
        let text = process::output(&mut place.command(&python))?;
        let value = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.with_context(|| format!("no {start:?} in\n{text}"))
        };
        ensure!(value("families")? > 15.0, "{text}");
        ensure!(value("ringway_port_drops_total port=a reason=invalid-source switch=lan")? > 0.0, "{text}");
        ensure!(value("ringway_port_frames_total direction=from-guest port=a switch=lan")? > 10.0, "{text}");
        ensure!(value("ringway_port_up port=guest switch=lan")? == 0.0, "{text}");
        Ok(())
    })?;
    scene.check("no complaint but for the missing token, and nobody else was asked", || {
        browser.must_be_content(|words| words.contains("401"))?;
        browser.must_have_asked_only(ORIGIN)
    })
}

/// `ringway run` in the namespace with two taps and a guest's port.
fn start(scene: &Scene, place: &Place) -> anyhow::Result<Peer> {
    let directory = scene.directory();
    let token = directory.join("token");
    std::fs::write(&token, TOKEN)?;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
    let socket = directory.join("control.sock");
    let mut text = format!(
        "[control]\nsocket = {socket:?}\nhttp = \"127.0.0.1:9464\"\ntoken-file = {token:?}\n\n\
         [workers]\nmode = \"pool\"\nthreads = 1\n\n[switch.lan]\n"
    );
    for port in ["a", "b"] {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[port.{port}]\nswitch = \"lan\"\ntap = {{ name = \"eyes-{port}\" }}\nprofile = \"open\"\n"
        );
    }
    let guest = directory.join("guest.sock");
    let _ = write!(
        text,
        "\n[port.guest]\nswitch = \"lan\"\nvhost-user = {{ socket = {guest:?} }}\nmac = \"52:54:00:00:00:01\"\n"
    );
    let file = directory.join("ringway.toml");
    std::fs::write(&file, text)?;
    let mut command = Command::new(ringway::binary()?);
    command.arg("run").arg(&file);
    let peer = Peer::start("ringway", directory, &mut place.command(&command))?;
    wait_until("ringway's control socket", Duration::from_secs(10), || socket.exists())
        .with_context(|| tail(&peer.log(), 20))?;
    Ok(peer)
}
