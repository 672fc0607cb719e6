//! The system under test: the `ringway` binary with a configuration of its own, started, stopped, killed, asked.

use crate::process::{self, Peer, tail, wait_until};
use crate::sysroot::target_directory;
use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Time in which the binary must serve, and in which it must end on SIGTERM.
const LIMIT: Duration = Duration::from_secs(10);

/// The binary under test: `RINGWAY_BIN`, or the one that `cargo xtask` builds.
pub fn binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("RINGWAY_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_directory().join("fast/ringway"),
    };
    ensure!(path.is_file(), "{} is missing: cargo build --profile fast -p ringway", path.display());
    Ok(path)
}

/// A configuration file, built line by line.
#[derive(Clone, Debug)]
pub struct Config {
    directory: PathBuf,
    text: String,
}

impl Config {
    /// A configuration with one switch `lan` and its sockets in `directory`; `workers` is the content of that section.
    pub fn new(directory: &Path, workers: &str) -> Self {
        let socket = directory.join("control.sock");
        let text = format!(
            "[control]\nsocket = {socket:?}\n\n[workers]\n{workers}\n\n[switch.lan]\nageing = \"5m\"\n"
        );
        Self { directory: directory.to_owned(), text }
    }

    /// Adds a vhost-user port that listens on [`socket`](Self::socket); `more` is further lines of its section.
    pub fn port(mut self, name: &str, mac: &str, queue_pairs: u16, more: &str) -> Self {
        let socket = self.socket(name);
        // Writing to a string cannot fail.
        let _ = write!(
            self.text,
            "\n[port.{name}]\nswitch = \"lan\"\nvhost-user = {{ socket = {socket:?}, queue-pairs = {queue_pairs} }}\n\
             mac = \"{mac}\"\nprofile = \"open\"\n{more}\n"
        );
        self
    }

    /// Adds a section as it is.
    pub fn section(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// The socket of a port.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.sock"))
    }
}

/// A running `ringway`.
#[derive(Debug)]
pub struct Ringway {
    binary: PathBuf,
    config: Config,
    enter: Vec<String>,
    file: PathBuf,
    peer: Peer,
}

impl Ringway {
    /// Writes the configuration, starts the binary and waits until it answers on its control socket. It dies with the
    /// thread that started it, even if that is killed.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_in(config, &[])
    }

    /// As [`start`](Self::start), through a command that goes to another namespace and then runs what follows its words.
    pub fn start_in(config: Config, enter: &[String]) -> anyhow::Result<Self> {
        let binary = binary()?;
        let file = config.directory.join("ringway.toml");
        std::fs::write(&file, &config.text).context("write the configuration")?;
        let peer = spawn(&binary, &file, &config.directory, enter)?;
        let mut ringway = Self { binary, config, enter: enter.to_vec(), file, peer };
        ringway.wait_serving()?;
        Ok(ringway)
    }

    /// Starts it again after [`terminate`](Self::terminate) or [`kill`](Self::kill).
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.peer = spawn(&self.binary, &self.file, &self.config.directory, &self.enter)?;
        self.wait_serving()
    }

    /// Sends SIGTERM and waits for a clean end.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.peer.signal(Signal::TERM)?;
        let status = self.peer.wait(LIMIT)?;
        ensure!(status.success(), "ringway ended with {status} on SIGTERM:\n{}", self.log_tail());
        Ok(())
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.peer.kill();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.peer.is_running()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.peer.pid()
    }

    /// The socket of a port.
    pub fn socket(&self, port: &str) -> PathBuf {
        self.config.socket(port)
    }

    /// Runs a command of the binary against this instance, with `--json`, and reads what it prints.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(self.control()).args(arguments).arg("--json");
        let text = process::output(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("ringway {}: {text}", arguments.join(" ")))
    }

    /// Runs a command of the binary against this instance; what it prints for people.
    pub fn tell(&self, arguments: &[&str]) -> anyhow::Result<String> {
        process::output(&mut self.command(arguments))
    }

    /// A command of the binary against this instance.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(self.control()).args(arguments);
        command
    }

    /// The configuration file, which `reload` reads again.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Makes a request of the control API, without the time that a command takes to start.
    ///
    /// Errors: any answer but 2xx.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.control())?;
        stream.set_read_timeout(Some(LIMIT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
        ensure!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        if body.is_empty() { Ok(Value::Null) } else { serde_json::from_str(body).context(answer.clone()) }
    }

    /// State of a port: `waiting`, `connected`, `running`, `faulted`.
    pub fn port_state(&self, name: &str) -> anyhow::Result<String> {
        let port = self.ask(&["port", "show", name])?;
        match port.get("state").and_then(Value::as_str) {
            Some(state) => Ok(state.to_owned()),
            None => bail!("port {name} has no state: {port}"),
        }
    }

    /// Waits until a port is in `state`.
    pub fn wait_port(&self, name: &str, state: &str, limit: Duration) -> anyhow::Result<()> {
        let is_there = || self.port_state(name).is_ok_and(|now| now == state);
        wait_until(&format!("port {name} {state}"), limit, is_there)
            .with_context(|| format!("now {:?}\n{}", self.port_state(name), self.log_tail()))
    }

    /// The last lines that it printed.
    pub fn log_tail(&self) -> String {
        tail(&self.peer.log(), 20)
    }

    fn control(&self) -> PathBuf {
        self.config.directory.join("control.sock")
    }

    fn wait_serving(&mut self) -> anyhow::Result<()> {
        let control = self.control();
        let peer = &mut self.peer;
        let mut ended = false;
        let served = wait_until("ringway's control socket", LIMIT, || {
            ended = !peer.is_running();
            ended || UnixStream::connect(&control).is_ok()
        });
        ensure!(served.is_ok() && !ended, "ringway does not serve:\n{}", self.log_tail());
        Ok(())
    }
}

fn spawn(binary: &Path, file: &Path, directory: &Path, enter: &[String]) -> anyhow::Result<Peer> {
    let words: Vec<&str> =
        enter.iter().map(String::as_str).chain(["setpriv", "--pdeathsig", "KILL"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(binary).arg("run").arg(file);
    Peer::start("ringway", directory, &mut command)
}
