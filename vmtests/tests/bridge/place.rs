//! Network namespaces of a test's own, and the far ends of the wires in them.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::{self, Peer, wait_until};

/// Holds the ends; see its own head.
const ENDS: &str = include_str!("ends.py");

/// A namespace without IPv6, so that nothing speaks in it but the test. It ends with this value and with what runs in it.
pub(crate) struct Place {
    holder: Peer,
}

impl Place {
    /// An empty namespace with `lo` up.
    pub(crate) fn new(scene: &Scene, name: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]);
        command.arg(
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; \
             ip link set lo up && echo up && exec sleep 86400",
        );
        // What an earlier one of the same name said would be taken for this one's word.
        let _ = std::fs::remove_file(scene.directory().join(format!("{name}.log")));
        let holder = Peer::start(name, scene.directory(), &mut command)?;
        wait_until("the namespace", Duration::from_secs(5), || holder.log().contains("up"))?;
        Ok(Self { holder })
    }

    /// Words that run what follows them in the namespace; it dies with the thread that starts it.
    pub(crate) fn enter(&self) -> Vec<String> {
        let net = format!("--net=/proc/{}/ns/net", self.holder.pid());
        ["setpriv", "--pdeathsig", "KILL", "nsenter", &net, "--"].map(str::to_owned).to_vec()
    }

    /// `inner`, to be run in the namespace. Only its own environment is kept.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let words = self.enter();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs a program of the machine in the namespace; what it printed.
    pub(crate) fn output(&self, program: &str, arguments: &str) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace());
        process::output(&mut self.command(&command)).with_context(|| arguments.to_owned())
    }

    /// Runs `ip` or `bridge` over many lines of arguments.
    pub(crate) fn batch(&self, program: &str, lines: &str) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args(["-batch", "-"]);
        let mut command = self.command(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| program.to_owned())?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// FDB entries of the namespace, as `bridge` tells them.
    pub(crate) fn fdb(&self, which: &str) -> anyhow::Result<Vec<Value>> {
        let text = self.output("bridge", &format!("-j fdb show {which}"))?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }
}

/// What came out of each end.
pub(crate) type Received = Vec<Vec<Vec<u8>>>;

/// The far ends of the wires of a namespace.
pub(crate) struct Ends {
    stream: BufReader<UnixStream>,
    count: usize,
    _peer: Peer,
}

impl Ends {
    /// Opens the named interfaces.
    pub(crate) fn open(
        scene: &Scene,
        place: &Place,
        name: &str,
        interfaces: &[&str],
    ) -> anyhow::Result<Self> {
        let socket = scene.directory().join(format!("{name}.ends"));
        let mut python = scene.lab().sysroot.command("python3");
        python.args(["-c", ENDS]).arg(&socket).args(interfaces);
        let peer = Peer::start(name, scene.directory(), &mut place.command(&python))?;
        wait_until("the ends of the wires", Duration::from_secs(20), || peer.log().contains("serving"))
            .with_context(|| peer.log())?;
        let stream = UnixStream::connect(&socket).context("the ends of the wires")?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream: BufReader::new(stream), count: interfaces.len(), _peer: peer })
    }

    /// Sends frames by the ends that go with them, then waits until each end has as many frames as `want` says, at most
    /// `limit`; all that came since the last call.
    pub(crate) fn exchange(
        &mut self,
        frames: &[(usize, &[u8])],
        want: &[usize],
        limit: Duration,
    ) -> anyhow::Result<Received> {
        let send: Vec<Value> = frames.iter().map(|(end, frame)| json!([end, hex(frame)])).collect();
        let limit_ms = u64::try_from(limit.as_millis())?;
        self.ask(&json!({ "send": send, "want": want, "limit_ms": limit_ms }))
    }

    /// Sends `count` frames of random sources to random stations by an end, as fast as it can.
    pub(crate) fn storm(&mut self, end: usize, count: u32, seed: u32) -> anyhow::Result<Received> {
        let want = vec![0; self.count];
        self.ask(&json!({ "repeat": [end, count, seed], "send": [], "want": want, "limit_ms": 0 }))
    }

    fn ask(&mut self, request: &Value) -> anyhow::Result<Received> {
        let mut line = request.to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        line.clear();
        self.stream.read_line(&mut line).context("an answer from the ends")?;
        let texts: Vec<Vec<String>> = serde_json::from_str(&line).with_context(|| line.clone())?;
        texts.iter().map(|end| end.iter().map(|text| bytes(text)).collect()).collect()
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
