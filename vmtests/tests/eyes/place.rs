//! A network namespace with nothing but its own loopback in it: what runs here reaches no other host.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::{Peer, wait_until};

use super::browser::Browser;
use super::fake::Fake;

/// The namespace. It ends with this value and with what runs in it.
pub(crate) struct Place {
    holder: Peer,
    directory: PathBuf,
}

impl Place {
    /// An empty namespace with `lo` up.
    pub(crate) fn new(scene: &Scene) -> anyhow::Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]);
        command.arg("ip link set lo up && echo up && exec sleep 86400");
        let holder = Peer::start("namespace", scene.directory(), &mut command)?;
        wait_until("the namespace", Duration::from_secs(5), || holder.log().contains("up"))?;
        Ok(Self { holder, directory: scene.directory().to_owned() })
    }

    /// `inner`, to be run in the namespace; it dies with the thread that starts it. Only its own environment is kept.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.pid()));
        command.arg("--").arg(inner.get_program()).args(inner.get_args());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    /// Chromium in the namespace.
    pub(crate) fn browser(&self, scene: &Scene) -> anyhow::Result<Browser> {
        let shell = scene.lab().sysroot.command("sh");
        Browser::start(self.command(&shell), &self.directory)
    }

    /// Starts the stand-in for the API and waits until it serves.
    pub(crate) fn serve(&self, fake: &Fake, address: &str) -> anyhow::Result<Peer> {
        let mut own = Command::new(std::env::current_exe()?);
        own.args(fake.arguments(address));
        let name = format!("fake-{}", std::process::id());
        let _ = std::fs::remove_file(self.directory.join(format!("{name}.log")));
        let peer = Peer::start(&name, &self.directory, &mut self.command(&own))?;
        wait_until("the stand-in", Duration::from_secs(5), || peer.log().contains("serving"))?;
        Ok(peer)
    }
}
