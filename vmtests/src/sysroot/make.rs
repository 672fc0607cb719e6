//! Makes the peers' root, stage by stage, and repairs one that was cut short.

use super::enter;
use super::mirror::Mirror;
use crate::process::{Peer, tail};
use anyhow::{Context, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Debian's suite: the newest QEMU and DPDK.
const SUITE: &str = "sid";

/// What the tests and benches run, and what they need to build an initramfs.
const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "dpdk-dev",
    "openvswitch-switch-dpdk",
    "iperf3",
    "busybox-static",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "kmod",
    "procps",
    "util-linux",
    "zstd",
];

/// Raised when a stage changes in a way that the package list does not show.
const RECIPE: &str = "1";

/// The kernel's packages are unpacked and not installed: their scripts would build an initramfs and look for a boot loader.
/// The image's package may be split into a binary and its modules, which are then its dependencies.
const KERNEL: &str = r#"
set -e
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
parts=$(apt-cache depends "$image" | sed -n 's/^ *Depends: \(linux-\(binary\|modules\)-[0-9].*\)/\1/p')
rm -rf /var/cache/kernel; mkdir -p /var/cache/kernel; cd /var/cache/kernel
apt-get -q -o APT::Sandbox::User=root download $image $parts
rm -rf /usr/lib/modules/*
for package in *.deb; do dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C /; done
rm -rf /var/cache/kernel
depmod "$(ls /usr/lib/modules)"
"#;

/// Makes the tree at `root` complete. Waits while another run makes it.
pub(super) fn ensure(root: &Path) -> anyhow::Result<()> {
    let parent = root.parent().context("the root has no parent")?;
    fs::create_dir_all(parent)?;
    let _lock = lock(parent)?;
    let recipe = format!("{RECIPE} {SUITE} {}\n", PACKAGES.join(" "));
    if fs::read_to_string(root.join(".stamp")).is_ok_and(|stamp| stamp == recipe) {
        return Ok(());
    }
    let stages = Stages { root, suite: SUITE, log: parent.to_owned(), start: Instant::now() };
    let mirror = Mirror::find()?;
    if !root.join(".debootstrapped").exists() {
        stages.bootstrap(&mirror)?;
    }
    stages.configure(&mirror)?;
    stages.run("packages: QEMU, DPDK, Open vSwitch (about 250 MB)", &mut stages.shell(&install(PACKAGES)))?;
    stages.run("kernel", &mut stages.shell(KERNEL))?;
    fs::write(root.join(".stamp"), recipe)?;
    stages.say("the peers' root is ready");
    Ok(())
}

/// Installs what only one group of tests needs, in a tree that [`ensure`] has made. A stamp of the group's name says that
/// it is done.
pub(super) fn add(root: &Path, group: &str, names: &[&str]) -> anyhow::Result<()> {
    let parent = root.parent().context("the root has no parent")?;
    let _lock = lock(parent)?;
    let stamp = root.join(format!(".stamp-{group}"));
    let recipe = format!("{RECIPE} {SUITE} {}\n", names.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == recipe) {
        return Ok(());
    }
    let stages = Stages { root, suite: SUITE, log: parent.to_owned(), start: Instant::now() };
    stages.run(&format!("packages of the group {group}"), &mut stages.shell(&install(names)))?;
    fs::write(stamp, recipe)?;
    Ok(())
}

/// A tree with nothing but Debian's base system of `suite`, as an administrator finds it. The packages `names` and what they
/// need lie in apt's cache, so that they can be installed without a network.
pub(super) fn bare(root: &Path, suite: &str, names: &[&str]) -> anyhow::Result<()> {
    let parent = root.parent().context("the root has no parent")?;
    fs::create_dir_all(parent)?;
    let _lock = lock(parent)?;
    let recipe = format!("{RECIPE} {suite} {}\n", names.join(" "));
    if fs::read_to_string(root.join(".stamp")).is_ok_and(|stamp| stamp == recipe) {
        return Ok(());
    }
    let stages = Stages { root, suite, log: parent.to_owned(), start: Instant::now() };
    let mirror = Mirror::find()?;
    if !root.join(".debootstrapped").exists() {
        stages.bootstrap(&mirror)?;
    }
    stages.configure_apt(&mirror)?;
    let download = "set -e; apt-get -q update; apt-get -q -y install --download-only";
    stages.run("download packages", &mut stages.shell(&format!("{download} {}", names.join(" "))))?;
    fs::write(root.join(".stamp"), recipe)?;
    Ok(())
}

/// Keeps other runs away from the tree while the file is open.
fn lock(parent: &Path) -> anyhow::Result<File> {
    let lock = File::create(parent.join("sysroot.lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("another run makes the peers' root; waiting for it");
        lock.lock()?;
    }
    Ok(lock)
}

fn install(names: &[&str]) -> String {
    format!(
        "set -e; dpkg --configure -a; apt-get -q update; apt-get -q -y -f install; \
         apt-get -q -y install --no-install-recommends {}; apt-get clean",
        names.join(" ")
    )
}

struct Stages<'a> {
    root: &'a Path,
    suite: &'a str,
    log: PathBuf,
    start: Instant,
}

impl Stages<'_> {
    fn say(&self, what: &str) {
        eprintln!("  [{:5.1} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// Runs one stage with its output in the log, saying every ten seconds how far it is.
    fn run(&self, what: &str, command: &mut Command) -> anyhow::Result<()> {
        self.say(what);
        let mut peer = Peer::start("sysroot", &self.log, command)?;
        let mut next = Instant::now() + Duration::from_secs(10);
        while peer.is_running() {
            std::thread::sleep(Duration::from_millis(50));
            if Instant::now() > next {
                self.say(&format!("  {}", tail(&peer.log(), 1).chars().take(100).collect::<String>()));
                next += Duration::from_secs(10);
            }
        }
        let status = peer.wait(Duration::from_secs(1))?;
        if !status.success() {
            bail!("{what}: {status}\n{}\n(whole log: {})", tail(&peer.log(), 15), peer.log_path().display());
        }
        Ok(())
    }

    /// A shell script in the root.
    fn shell(&self, script: &str) -> Command {
        let mut command = enter(self.root);
        command.args(["sh", "-c", script]);
        contained(&command)
    }

    /// The base system. A tree that was cut short here is deleted first: nothing is mounted in it.
    fn bootstrap(&self, mirror: &Mirror) -> anyhow::Result<()> {
        if self.root.exists() {
            self.say("deleting a root that was left half made");
            fs::remove_dir_all(self.root).context("delete")?;
        }
        let mut command = Command::new("debootstrap");
        command.arg("--variant=minbase");
        if mirror.uri.starts_with("https") {
            command.arg("--include=ca-certificates");
        }
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(proxy) = &mirror.proxy {
            command.env("http_proxy", proxy).env("https_proxy", proxy);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command.arg(self.suite).arg(self.root).arg(&mirror.uri);
        self.run("base system by debootstrap (about 50 MB)", &mut contained(&command))?;
        fs::write(self.root.join(".debootstrapped"), "")?;
        Ok(())
    }

    /// Files that keep the root small and silent, and let it reach what the machine reaches.
    fn configure(&self, mirror: &Mirror) -> anyhow::Result<()> {
        let etc = self.root.join("etc");
        self.configure_apt(mirror)?;
        let excluded =
            ["doc", "man", "locale", "info"].map(|name| format!("path-exclude=/usr/share/{name}/*\n"));
        fs::write(etc.join("dpkg/dpkg.cfg.d/peers"), format!("force-unsafe-io\n{}", excluded.concat()))?;
        let policy = self.root.join("usr/sbin/policy-rc.d");
        fs::write(&policy, "#!/bin/sh\n# No service starts in here.\nexit 101\n")?;
        fs::set_permissions(&policy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::create_dir_all(self.root.join("hugepages"))?;
        Ok(())
    }

    fn configure_apt(&self, mirror: &Mirror) -> anyhow::Result<()> {
        let etc = self.root.join("etc");
        let lean = "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n";
        fs::write(etc.join("apt/apt.conf.d/80peers"), format!("{lean}{}", mirror.settings))?;
        fs::write(etc.join("apt/sources.list"), format!("deb {} {} main\n", mirror.uri, self.suite))?;
        fs::copy("/etc/resolv.conf", etc.join("resolv.conf")).context("/etc/resolv.conf").map(drop)
    }
}

/// The command in mount and process namespaces of its own: what it mounts is never seen outside, all of its processes
/// end with this one, and its environment is only what it sets itself. A stage which is cut short
/// leaves nothing behind but files.
fn contained(command: &Command) -> Command {
    let mut outer = Command::new("setpriv");
    outer.env_clear();
    outer.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
    outer.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer
}
