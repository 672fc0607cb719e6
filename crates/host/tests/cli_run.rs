//! `ringway run` from start to stop, without guests: readiness, the API, a second one, signals, reload, changes by command,
//! watchdog, sockets that were passed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringway::api::client;
use ringway::api::view::{PortView, Status};
use rustix::process::{Pid, Signal, kill_process};

struct Running {
    directory: tempfile::TempDir,
    child: Child,
    manager: UnixDatagram,
}

const FILE: &str = "[control]\nsocket = 'control.sock'\n[switch.lan]\n";
const PORT: &str = "[port.web]\nswitch = 'lan'\nvhost-user.socket = 'web.sock'\n";

impl Running {
    /// Starts `ringway run` and waits until it reports that it is ready.
    fn start() -> Running {
        Running::with(FILE, command)
    }

    /// The same with a file of its own and a command of its own.
    fn with(text: &str, command: impl FnOnce(&Path) -> Command) -> Running {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ringway.toml");
        std::fs::write(&file, text).expect("written");
        let notify = directory.path().join("notify.sock");
        let manager = UnixDatagram::bind(&notify).expect("bound");
        manager.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let child = command(&file).env("NOTIFY_SOCKET", &notify).spawn().expect("started");
        let running = Running { directory, child, manager };
        assert_eq!(running.told(), "READY=1");
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
    }

    /// What `ringway WORDS` prints; on failure, what it says on standard error.
    fn ringway(&self, words: &[&str]) -> String {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("ringway"));
        let output =
            command.arg("--socket").arg(self.path("control.sock")).args(words).output().expect("ran");
        let said = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8(said).expect("text")
    }

    /// What the service manager is told next.
    fn told(&self) -> String {
        let mut message = [0; 256];
        let len = self.manager.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..len]).trim().to_owned()
    }

    fn stop(mut self, signal: Signal) {
        self.signal(signal);
        while self.told() != "STOPPING=1" {}
        assert_eq!(self.child.wait().expect("ended").code(), Some(0));
        assert!(!self.directory.path().join("control.sock").exists());
    }
}

fn command(file: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ringway"));
    command.arg("run").arg(file).stderr(Stdio::piped());
    command
}

#[test]
fn it_serves_until_sigterm() {
    let running = Running::start();
    let socket = running.directory.path().join("control.sock");
    let status: Status = client::get(&socket, "/api/status").expect("status");
    assert_eq!(status.pid, running.child.id());
    assert_eq!(status.ports_total, 0);

    let second = command(&running.directory.path().join("ringway.toml")).output().expect("ran");
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another ringway is running: it answers on "), "{text}");
    assert!(client::get::<Status>(&socket, "/api/status").is_ok());
    running.stop(Signal::TERM);
}

#[test]
fn it_serves_until_sigint() {
    Running::start().stop(Signal::INT);
}

#[test]
fn a_hangup_reloads_the_file() {
    let running = Running::start();
    let reload = |text: &str| {
        std::fs::write(running.path("ringway.toml"), text).expect("written");
        running.signal(Signal::HUP);
        let told = running.told();
        let moment = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("what systemd asks for");
        assert!(moment.parse::<u64>().is_ok_and(|moment| moment > 0), "{told}");
        assert_eq!(running.told(), "READY=1");
    };
    reload(&format!("{FILE}{PORT}"));
    assert!(running.path("web.sock").exists());
    assert!(running.ringway(&["port", "list"]).contains("web"));
    reload(&format!("{FILE}{PORT}colour = 'red'\n"));
    assert!(running.path("web.sock").exists(), "a file with a mistake changes nothing");
    reload(FILE);
    assert!(!running.path("web.sock").exists());
    running.stop(Signal::TERM);
}

#[test]
fn ports_change_while_it_runs() {
    let running = Running::start();
    let add = ["port", "add", "web", "switch=lan", "vhost-user.socket=web.sock", "mac=52:54:00:00:00:01"];
    assert_eq!(running.ringway(&add), "added: port.web; 1 untouched\n");
    assert!(UnixStream::connect(running.path("web.sock")).is_ok());
    let set = ["port", "set", "web", "rate-limit.broadcast=7", "flood=true"];
    assert_eq!(running.ringway(&set), "changed: port.web; 1 untouched\n");
    let port: PortView = client::get(&running.path("control.sock"), "/api/ports/web").expect("a port");
    assert_eq!((port.settings.broadcast_rate, port.settings.flood), (Some(7), true));
    assert!(running.ringway(&["fdb", "list"]).contains("52:54:00:00:00:01"), "its own address");
    let entry = ["fdb", "add", "52:54:00:00:00:09", "--port", "web"];
    assert_eq!(running.ringway(&entry), "added: 52:54:00:00:00:09 behind port.web\n");
    assert!(running.ringway(&["fdb", "list", "--kind", "static"]).contains("52:54:00:00:00:09"));
    assert_eq!(running.ringway(&["fdb", "remove", "52:54:00:00:00:09"]), "removed: 1 entry\n");
    let nowhere = ["port", "add", "db", "switch=lan", "vhost-user.socket=no/where.sock"];
    let said = running.ringway(&nowhere);
    assert!(said.contains("port.db.vhost-user.socket: directory "), "{said}");
    assert_eq!(running.ringway(&["port", "remove", "web"]), "removed: port.web; 1 untouched\n");
    assert!(!running.path("web.sock").exists());
    running.stop(Signal::TERM);
}

#[test]
fn the_watchdog_is_fed() {
    let running = Running::with(FILE, |file| {
        let mut command = command(file);
        command.env("WATCHDOG_USEC", "100000");
        command
    });
    for _ in 0..3 {
        assert_eq!(running.told(), "WATCHDOG=1");
    }
    running.stop(Signal::TERM);
}

/// `ringway run FILE` with three sockets under the descriptors 3 to 5, as systemd passes them.
fn activated(file: &Path, names: &str, sockets: [OwnedFd; 3]) -> Command {
    let script = "exec 3<&0 4<&1 5<&2 0</dev/null 1>/dev/null 2>log; \
                  LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=\"$2\" exec \"$0\" run \"$1\"";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(assert_cmd::cargo::cargo_bin("ringway")).arg(file).arg(names);
    let [control, http, port] = sockets;
    command.current_dir(file.parent().expect("a directory")).stdin(control).stdout(http).stderr(port);
    command
}

#[test]
fn sockets_that_were_passed_are_used_and_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let http = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = http.local_addr().expect("an address");
    let sockets = [
        UnixListener::bind(at("control.sock")).expect("bound").into(),
        http.into(),
        UnixListener::bind(at("web.sock")).expect("bound").into(),
    ];
    let inode = || std::fs::metadata(at("web.sock")).expect("there").ino();
    let made = inode();
    let port = PORT.replace("web.sock", &at("web.sock").display().to_string());
    // No socket can be made there, and none has to be.
    let text = format!("{FILE}{port}").replace("control.sock", "/no/where/control.sock");
    let running = Running::with(&text, |file| activated(file, "control:http:port.web", sockets));

    let status: Status = client::get(&at("control.sock"), "/api/status").expect("status");
    assert_eq!(status.ports_total, 1);
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(UnixStream::connect(at("web.sock")).is_ok());
    // The port is made anew on the same socket.
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ringway"));
    let output =
        command.arg("--socket").arg(at("control.sock")).args(["port", "set", "web", "mtu=9000"]).output();
    let said = String::from_utf8(output.expect("ran").stdout).expect("text");
    assert_eq!(said, "stopped and started again: port.web; 1 untouched\n");
    assert!(UnixStream::connect(at("web.sock")).is_ok());

    running.stop(Signal::TERM);
    assert_eq!(inode(), made);
    assert!(at("control.sock").exists(), "the files belong to who made them");
}

#[test]
fn sockets_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ringway.toml");
    std::fs::write(&file, FILE).expect("written");
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("bound"));
    for (names, says) in [
        (
            "control:http:http",
            "the passed socket \"control\" is of the wrong family; accepted: a unix socket",
        ),
        ("http:http:http", "two sockets named \"http\" were passed"),
        ("http:metrics:port.web", "a socket named \"metrics\" was passed; accepted names: "),
    ] {
        let status = activated(&file, names, [tcp(), tcp(), tcp()]).status().expect("ran");
        assert_eq!(status.code(), Some(1), "{names}");
        let log = std::fs::read_to_string(directory.path().join("log")).expect("a log");
        assert!(log.contains(says), "{names}: {log}");
    }
}
