//! The peers' root: a Debian tree under `target/sysroot` with QEMU, DPDK, Open vSwitch, iperf3 and a kernel.
//!
//! Theory of operation. The tree is made in stages by [`make`]: `debootstrap`, packages, kernel. A marker file ends each
//! stage, so that a stage which was cut short is done again and a finished one is not; the stamp at the end holds the
//! recipe, and a tree with another recipe runs through the later stages once more. A lock file keeps two runs apart. No
//! mount is ever made in the machine's own namespace: each program gets a private one, which ends with it. So the tree can
//! be deleted at any time without touching the machine's `/dev` or `/proc`.

mod kernel;
mod make;
mod mirror;

use crate::process;
use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounts that every program of the root sees, made in its own mount namespace. `$0` is the root. The machine's
/// temporary directory has the same path on both sides, so that sockets do too.
const ENTER: &str = r#"
mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount --rbind /sys "$0/sys" &&
mount --bind "$1" "$0$1" && mount -t tmpfs tmpfs "$0/run" || exit 125
if [ "$(cat /proc/sys/vm/nr_hugepages)" != 0 ]; then mount -t hugetlbfs none "$0/hugepages" || exit 125; fi
root=$0; shift
exec chroot "$root" setpriv --pdeathsig KILL "$@"
"#;

/// The peers' root, complete.
#[derive(Clone, Debug)]
pub struct Sysroot {
    root: PathBuf,
}

impl Sysroot {
    /// The root, made or repaired first if need be. Takes about three minutes the first time, milliseconds after.
    ///
    /// Errors: not root, no Debian mirror in apt's configuration, no network, no space.
    pub fn ensure() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the tests against real peers need root (chroot, mounts): run them with sudo");
        }
        let root = target_directory().join("sysroot");
        make::ensure(&root).with_context(|| format!("make {}", root.display()))?;
        Ok(Self { root })
    }

    /// A tree under `target/NAME` with nothing but the base system of this machine's Debian release, which is what a package
    /// that is built here is for. `packages` and what they need lie in apt's cache. To be looked at through an overlay
    /// only, so that it stays as it is. Takes about a minute the first time.
    ///
    /// Errors: as [`ensure`](Self::ensure).
    pub fn bare(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
        let root = target_directory().join(name);
        make::bare(&root, &mirror::codename()?, packages)
            .with_context(|| format!("make {}", root.display()))?;
        Ok(root)
    }

    /// Adds packages that only the test group `group` needs; later runs find them there.
    ///
    /// Errors: no network, no space, no such package.
    pub fn add_packages(&self, group: &str, names: &[&str]) -> anyhow::Result<()> {
        make::add(&self.root, group, names).with_context(|| format!("packages for {group}"))
    }

    /// Where the tree lies.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A program of the root, to be run in it. It dies with the thread that starts it, and keeps the process id of the
    /// command that is returned.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = enter(&self.root);
        command.arg(program);
        command
    }

    /// Runs a program of the root to its end and gives its output.
    pub fn output(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        process::output(self.command(program).args(arguments))
    }

    /// Version of the kernel in the root.
    pub fn kernel_version(&self) -> anyhow::Result<String> {
        let modules = self.root.join("usr/lib/modules");
        let mut names: Vec<String> = std::fs::read_dir(&modules)
            .with_context(|| modules.display().to_string())?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names.pop().context("no kernel in the root")
    }

    /// The kernel for QEMU's `-kernel`, as a path in the root.
    ///
    /// It is unpacked once: a guest whose processor is emulated would spend three seconds of each boot on that.
    pub fn kernel(&self) -> anyhow::Result<PathBuf> {
        kernel::unpacked(self)
    }
}

/// `unshare`, mounts and `chroot` into `root`; the program and its arguments follow.
fn enter(root: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", ENTER]);
    command.arg(root).arg(temporary_directory());
    command.env_clear().envs([
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
    ]);
    command
}

/// Where sockets and logs of a run lie, on both sides. Short, because a socket's path has at most 107 bytes.
pub fn temporary_directory() -> PathBuf {
    PathBuf::from("/tmp")
}

/// Cargo's target directory.
pub fn target_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("CARGO_TARGET_DIR") {
        return PathBuf::from(directory);
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).join("target")
}
