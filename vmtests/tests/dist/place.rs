//! A fresh Debian: an overlay over the base system, with processes, network, mounts and control groups of its own.
//!
//! Its first process is systemd, or one that only waits. Nothing of it is seen outside, it reaches no other host, what it may
//! change of the kernel's is read-only, and all of it ends with its first process.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use vmtests::harness::Scene;
use vmtests::process::{Peer, output, wait_until};
use vmtests::sysroot::Sysroot;

/// What tests install there besides our package.
const PACKAGES: &[&str] = &["systemd", "man-db", "bash-completion", "zsh", "fish"];

/// `$1`: the base system, `$2`: an empty directory, `$3`: what is seen as `/mnt`, then the first process.
const ENTER: &str = r#"
set -e
base=$1 r=$2 given=$3; shift 3
mount -t tmpfs tmpfs "$r"
mkdir "$r/upper" "$r/work" "$r/root"
mount -t overlay -o "lowerdir=$base,upperdir=$r/upper,workdir=$r/work" overlay "$r/root"
r=$r/root
mount -t proc proc "$r/proc"
mount --bind "$r/proc/sys" "$r/proc/sys"
mount -o remount,bind,ro "$r/proc/sys"
mount -t sysfs -o ro sysfs "$r/sys"
mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup"
for d in run tmp dev; do mount -t tmpfs tmpfs "$r/$d"; done
chmod 1777 "$r/tmp"
mount --bind "$given" "$r/mnt"
mkdir "$r/dev/net" "$r/dev/shm"
mknod -m 666 "$r/dev/null" c 1 3
mknod -m 666 "$r/dev/zero" c 1 5
mknod -m 666 "$r/dev/random" c 1 8
mknod -m 666 "$r/dev/urandom" c 1 9
mknod -m 666 "$r/dev/net/tun" c 10 200
ln -s /proc/self/fd "$r/dev/fd"
echo entered
exec chroot "$r" "$@"
"#;

/// The tree. It ends with this value.
pub(crate) struct Place {
    peer: Peer,
    first: u32,
    group: PathBuf,
}

impl Place {
    /// A tree with systemd running in it.
    pub(crate) fn booted(scene: &Scene, given: &Path) -> anyhow::Result<Self> {
        let script = "apt-get -q -y install systemd && exec /lib/systemd/systemd --unit=multi-user.target";
        let place = Self::new(scene, given, &["sh", "-c", script])?;
        let is_up = || place.run("systemctl is-system-running").is_ok();
        wait_until("systemd", Duration::from_secs(60), is_up).with_context(|| place.peer.log())?;
        Ok(place)
    }

    /// A tree in which no service runs.
    pub(crate) fn still(scene: &Scene, given: &Path) -> anyhow::Result<Self> {
        Self::new(scene, given, &["sleep", "86400"])
    }

    fn new(scene: &Scene, given: &Path, first: &[&str]) -> anyhow::Result<Self> {
        let base = Sysroot::bare("dist-root", PACKAGES)?;
        let group = control_groups()?.join(format!("ringway-dist-{}", std::process::id()));
        std::fs::create_dir(&group).with_context(|| group.display().to_string())?;
        let root = scene.directory().join("debian");
        std::fs::create_dir(&root)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c"]);
        command.arg(r#"echo $$ > "$0/cgroup.procs" && exec unshare --kill-child "$@""#).arg(&group);
        command.args([
            "--cgroup",
            "--pid",
            "--fork",
            "--mount",
            "--propagation",
            "private",
            "--uts",
            "--ipc",
        ]);
        command.args(["--net", "--", "sh", "-c", ENTER, "enter"]).args([&base, &root]).arg(given).args(first);
        command.env_clear().envs([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("LC_ALL", "C.UTF-8"),
            ("container", "vmtests"),
        ]);
        command.stdin(std::process::Stdio::null());
        let peer = Peer::start("debian", scene.directory(), &mut command)?;
        let mut place = Self { peer, first: 0, group };
        let log = |place: &Self| place.peer.log();
        wait_until("the tree", Duration::from_secs(10), || log(&place).contains("entered"))
            .with_context(|| log(&place))?;
        let children = format!("/proc/{0}/task/{0}/children", place.peer.pid());
        let children = std::fs::read_to_string(&children).context(children)?;
        place.first = children.split_whitespace().next().context("no first process")?.parse()?;
        Ok(place)
    }

    /// A shell script in the tree.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first.to_string());
        command.args(["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"]);
        command.args(["--", "sh", "-e", "-c", script]);
        command.env_clear().envs([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("LC_ALL", "C.UTF-8"),
        ]);
        command
    }

    /// Runs a shell script in the tree to its end; what it prints.
    pub(crate) fn run(&self, script: &str) -> anyhow::Result<String> {
        output(&mut self.command(script)).with_context(|| script.to_owned())
    }

    /// Runs a shell script that must fail; what it prints.
    pub(crate) fn refused(&self, script: &str) -> anyhow::Result<String> {
        let outcome = self.command(script).output()?;
        let text = [outcome.stdout, outcome.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(!outcome.status.success(), "{script} succeeded: {text}");
        Ok(text)
    }

    /// Runs a command of this machine in the tree's network.
    pub(crate) fn in_network(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first.to_string()).arg("--net").arg("--");
        output(command.args(arguments))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peer.kill();
        let emptied = || remove_group(&self.group).is_ok();
        if let Err(error) = wait_until("the end of the control group", Duration::from_secs(10), emptied) {
            println!("{}: {error:#}", self.group.display());
        }
    }
}

/// Removes a control group with those below it; they must have no processes.
fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

/// Where this machine has its cgroup2 hierarchy.
fn control_groups() -> anyhow::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    });
    found.context("no cgroup2 hierarchy is mounted; systemd needs one")
}
