//! The package's life: installed, used, updated, removed, purged.

use super::bytes::build;
use super::place::Place;
use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::wait_until;

/// Whatever has our name in the tree, beside what the test brought.
const OURS: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /mnt -o -path /tmp -o -path /var/log/journal \
                    -o -path /var/cache/man \\) -prune -o -iname '*ringway*' -print; find /run -iname '*ringway*'";

/// A port of each kind that needs no more than the kernel.
const PORTS: &str = r#"
[port.web]
switch = "lan"
vhost-user = { socket = "/run/ringway/ports/web.sock" }
mac = "52:54:00:00:00:01"
[port.host]
switch = "lan"
tap = { name = "rwhost" }
[port.wire]
switch = "lan"
packet = { interface = "wire" }
[port.fast]
switch = "lan"
af-xdp = { interface = "fast" }
"#;

/// Whether a user with a group may connect to a socket; `$1` is who, `$2` what.
const CONNECT: &str = r#"connect() {
  setpriv --reuid nobody --regid "$1" --clear-groups perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => $ARGV[0])' "$2"
}
"#;

/// The package in a directory of its own.
fn package(scene: &Scene) -> anyhow::Result<PathBuf> {
    let directory = scene.directory().join("given");
    scene.check("build the package", || build(&directory))?;
    Ok(directory)
}

pub(crate) fn service(scene: &Scene) -> anyhow::Result<()> {
    let given = package(scene)?;
    let place = scene.check("a fresh Debian starts", || Place::booted(scene, &given))?;
    let run = |script: &str| place.run(script);
    scene.check("installs and serves at once", || {
        run("apt-get -q -y install /mnt/ringway_*.deb")?;
        ensure!(run("systemctl is-active ringway.socket ringway.service")? == "active\nactive\n");
        run("systemctl is-enabled ringway.socket ringway.service")?;
        run("ringway status | grep -q '^lan '")
    })?;
    scene.check("it is confined", || confined(&place))?;
    scene.check("ports of all kinds work so", || {
        for interface in ["wire", "fast"] {
            place.in_network(&[
                "ip",
                "link",
                "add",
                interface,
                "type",
                "veth",
                "peer",
                "name",
                &format!("{interface}-far"),
            ])?;
            place.in_network(&["ip", "link", "set", interface, "up"])?;
            place.in_network(&["ip", "link", "set", &format!("{interface}-far"), "up"])?;
        }
        let file = given.join("ports.toml");
        std::fs::write(&file, PORTS)?;
        run("cat /mnt/ports.toml >> /etc/ringway/ringway.toml; ringway check /etc/ringway/ringway.toml")?;
        run("systemctl reload ringway")?;
        states(&place)
    })?;
    scene.check("sockets are for whom they are meant", || {
        run(&format!(
            "{CONNECT} connect ringway /run/ringway/control.sock; connect kvm /run/ringway/ports/web.sock"
        ))?;
        place.refused(&format!("{CONNECT} connect kvm /run/ringway/control.sock"))?;
        place.refused(&format!("{CONNECT} connect nogroup /run/ringway/ports/web.sock"))
    })?;
    scene.check("a mistake in the file is said and changes nothing", || {
        run("cp /etc/ringway/ringway.toml /tmp/good; echo 'speed = 1' >> /etc/ringway/ringway.toml")?;
        place.refused("systemctl reload ringway")?;
        run(
            "journalctl -u ringway | grep -q 'unknown key \"speed\"'; cp /tmp/good /etc/ringway/ringway.toml",
        )?;
        states(&place)
    })?;
    scene.check("SIGHUP reloads too", || {
        run("sed -i 's/rwhost/rwother/' /etc/ringway/ringway.toml; systemctl kill --signal=HUP ringway")?;
        wait_until("the change", Duration::from_secs(10), || {
            run("ringway port list | grep -q rwother").is_ok()
        })
    })?;
    scene.check("killed, it is back by itself, and what failed to answer too", || comes_back(&place))?;
    scene.check("an update keeps the configuration and serves again", || {
        let before = main_pid(&place)?;
        run(
            "apt-get -q -y --reinstall install /mnt/ringway_*.deb; grep -q rwother /etc/ringway/ringway.toml",
        )?;
        ensure!(main_pid(&place)? != before, "it was not restarted");
        states(&place)
    })?;
    scene.check("metrics for all on TCP, the rest for who has the token", || tcp(&place))?;
    scene.check("systemd may make the socket of a port", || made_by_systemd(&place))?;
    scene.check("stops in good order", || {
        run("systemctl stop ringway.socket ringway.service; test ! -e /run/ringway/control.sock")?;
        let result = run("systemctl show --property Result --value ringway.service")?;
        ensure!(result == "success\n", "{result}");
        run("systemctl start ringway.service; ringway status")
    })?;
    scene.check("removed, only the configuration is left", || {
        run("apt-get -q -y remove ringway; test -e /etc/ringway/ringway.toml")?;
        run("! ps -e -o comm= 2>/dev/null | grep -q ringway; ! ls -l /proc/[0-9]*/exe 2>/dev/null | grep ringway")?;
        run("test ! -e /run/ringway")
    })?;
    scene.check("purged, nothing is left", || purged(&place))
}

fn main_pid(place: &Place) -> anyhow::Result<u32> {
    Ok(place.run("systemctl show --property MainPID --value ringway.service")?.trim().parse()?)
}

/// The three capabilities of the unit and nothing more, no way to more, and a filter of system calls.
fn confined(place: &Place) -> anyhow::Result<()> {
    let status = place.run(&format!("cat /proc/{}/status", main_pid(place)?))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name}"))
    };
    let wanted: u64 = (1 << 12) | (1 << 13) | (1 << 39);
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        let bits = u64::from_str_radix(&field(name)?, 16)?;
        ensure!(bits == wanted, "{name} is {bits:x}");
    }
    ensure!(field("NoNewPrivs")? == "1" && field("Seccomp")? == "2");
    let user = place.run("id -u ringway")?;
    ensure!(field("Uid")?.split_whitespace().all(|id| id == user.trim()), "{}", field("Uid")?);
    place.run("systemd-analyze verify --man=no ringway.service ringway.socket")?;
    place.run("systemd-analyze security --threshold=30 ringway.service").map(drop)
}

/// Every port is in the state that it must be in.
fn states(place: &Place) -> anyhow::Result<()> {
    let list = place.run("ringway port list")?;
    for (name, state) in [("web", "waiting"), ("host", "running"), ("wire", "running"), ("fast", "running")] {
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(name));
        ensure!(row.is_some_and(|row| row.contains(state)), "{name} is not {state}:\n{list}");
    }
    Ok(())
}

fn comes_back(place: &Place) -> anyhow::Result<()> {
    let back = |before: u32| {
        wait_until("the restart", Duration::from_secs(20), || {
            main_pid(place).is_ok_and(|now| now != before && now != 0) && states(place).is_ok()
        })
    };
    let before = main_pid(place)?;
    place.run("systemctl kill --signal=KILL ringway.service")?;
    back(before)?;
    let directory = "/run/systemd/system/ringway.service.d";
    let quick = "[Service]\\nWatchdogSec=1\\nTimeoutAbortSec=1\\n";
    place.run(&format!(
        "mkdir -p {directory}; printf '{quick}' > {directory}/quick.conf; systemctl daemon-reload"
    ))?;
    place.run("systemctl restart ringway.service")?;
    let before = main_pid(place)?;
    // Three times its time is long enough to tell an answer from none.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(main_pid(place)? == before, "the watchdog ended one that answers");
    place.run("systemctl kill --signal=STOP ringway.service")?;
    back(before)?;
    place
        .run(&format!("rm -r {directory}; systemctl daemon-reload; systemctl restart ringway.service"))
        .map(drop)
}

/// As docs/operating.md has it.
fn tcp(place: &Place) -> anyhow::Result<()> {
    place.run("(umask 077; head -c 32 /dev/urandom | base64 > /etc/ringway/token); chown ringway: /etc/ringway/token")?;
    place.run("sed -i 's/^#http/http/; s/^#token-file/token-file/' /etc/ringway/ringway.toml; systemctl restart ringway")?;
    place.in_network(&["ip", "link", "set", "lo", "up"])?;
    let status = |path: &str, header: &str| {
        let script = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new("127.0.0.1:9464") or die;
            print $s "GET $ARGV[0] HTTP/1.1\r\nHost: localhost\r\n$ARGV[1]Connection: close\r\n\r\n"; print scalar <$s>;"#;
        place.run(&format!("perl -e '{script}' {path} \"{header}\""))
    };
    let token = "Authorization: Bearer $(cat /etc/ringway/token)\r\n";
    for (path, header, wanted) in
        [("/metrics", "", "200"), ("/api/status", "", "401"), ("/api/status", token, "200")]
    {
        let line = status(path, header)?;
        ensure!(line.split(' ').nth(1) == Some(wanted), "{path} {header:?}: {line}, not {wanted}");
    }
    Ok(())
}

/// As docs/operating.md has it: a guest that runs as a user of its own.
fn made_by_systemd(place: &Place) -> anyhow::Result<()> {
    let unit = "[Socket]\nListenStream=/run/ringway/ports/web.sock\nFileDescriptorName=port.web\nSocketUser=nobody\n\
                SocketMode=0600\nService=ringway.service\n\n[Install]\nWantedBy=sockets.target\n";
    place.run(&format!("printf '{}' > /etc/systemd/system/web-port.socket", unit.replace('\n', "\\n")))?;
    place.run("systemctl daemon-reload; systemctl enable web-port.socket; systemctl stop ringway")?;
    place.run("systemctl start web-port.socket ringway")?;
    ensure!(place.run("stat -c %U:%a /run/ringway/ports/web.sock")? == "nobody:600\n");
    place.run(&format!("{CONNECT} connect nogroup /run/ringway/ports/web.sock"))?;
    place.refused(&format!("{CONNECT} connect kvm /run/ringway/control.sock"))?;
    states(place)?;
    place.run("systemctl disable --now web-port.socket; rm /etc/systemd/system/web-port.socket; systemctl daemon-reload").map(drop)
}

fn purged(place: &Place) -> anyhow::Result<()> {
    // The token is the administrator's.
    place.run(
        "apt-get -q -y purge ringway; rm -f /etc/ringway/token; rmdir /etc/ringway 2>/dev/null || true",
    )?;
    let left = place.run(OURS)?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    Ok(())
}

pub(crate) fn bare(scene: &Scene) -> anyhow::Result<()> {
    let given = package(scene)?;
    let place = Place::still(scene, &given)?;
    scene.check("installs, with what it depends on", || {
        place.run("apt-get -q -y install /mnt/ringway_*.deb")
    })?;
    scene.check("the units and the configuration are sound", || {
        place.run("apt-get -q -y install man-db; systemd-analyze verify ringway.service ringway.socket")?;
        place.run("systemd-analyze security --offline=true --threshold=30 ringway.service")?;
        place.run("ringway check /etc/ringway/ringway.toml")
    })?;
    scene.check("files are as they were packed", || {
        let changed = place.run("dpkg --verify ringway")?;
        ensure!(changed.is_empty(), "{changed}");
        Ok(())
    })?;
    scene.check("manual pages are read without a warning", || {
        let warnings = place.run(
            "for page in /usr/share/man/man1/ringway*.gz; do man --warnings -l $page 2>&1 >/dev/null; done",
        )?;
        ensure!(warnings.is_empty(), "{warnings}");
        ensure!(place.run("man -l /usr/share/man/man1/ringway.1.gz")?.contains("ringway"));
        Ok(())
    })?;
    scene.check("shells complete", || completes(&place))?;
    scene.check("removed, only the configuration is left", || {
        place.run("apt-get -q -y remove ringway; test -e /etc/ringway/ringway.toml; test ! -e /run/ringway")
    })?;
    scene.check("purged, nothing is left", || purged(&place))
}

fn completes(place: &Place) -> anyhow::Result<()> {
    place.run("apt-get -q -y install bash-completion zsh fish")?;
    let script = "cd /usr/share/bash-completion/completions; source ./ringway; COMP_WORDS=(ringway sta); COMP_CWORD=1; \
                  _ringway ringway sta ringway; echo ${COMPREPLY[@]}";
    let words = place.run(&format!("bash -c '{script}'"))?;
    ensure!(words == "status\n", "bash completes {words:?}");
    place.run("zsh -n /usr/share/zsh/vendor-completions/_ringway")?;
    let words = place.run("fish -c 'complete -C \"ringway sta\"'")?;
    ensure!(
        words.lines().any(|line| line.split_whitespace().next() == Some("status")),
        "fish completes {words:?}"
    );
    Ok(())
}
