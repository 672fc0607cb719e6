//! `ringway run` from start to stop, without ports: readiness, the API, a second one, signals, sockets.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringway::api::client;
use ringway::api::view::Status;
use rustix::process::{Pid, Signal, kill_process};

struct Running {
    directory: tempfile::TempDir,
    child: Child,
    manager: UnixDatagram,
}

impl Running {
    /// Starts `ringway run` and waits until it reports that it is ready.
    fn start() -> Running {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ringway.toml");
        std::fs::write(&file, "[control]\nsocket = 'control.sock'\n[switch.lan]\n").expect("written");
        let notify = directory.path().join("notify.sock");
        let manager = UnixDatagram::bind(&notify).expect("bound");
        manager.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let child = command(&file).env("NOTIFY_SOCKET", &notify).spawn().expect("started");
        let running = Running { directory, child, manager };
        assert_eq!(running.told(), "READY=1");
        running
    }

    /// What the service manager is told next.
    fn told(&self) -> String {
        let mut message = [0; 256];
        let len = self.manager.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..len]).trim().to_owned()
    }

    fn stop(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
        assert_eq!(self.told(), "STOPPING=1");
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
