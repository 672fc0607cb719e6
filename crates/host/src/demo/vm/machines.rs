//! Booting several guests: with KVM where it runs any, else in software emulation.

use super::initramfs;
use super::packages::Packages;
use super::progress;
use super::qemu::{Accelerator, GuestSpec, QemuGuest, boot_limit};
use crate::demo::narrate::Narrator;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What boots guests.
pub(crate) struct Machines {
    packages: Packages,
    initramfs: PathBuf,
    kvm_memo: PathBuf,
}

/// Guests that run, with their network cards up.
pub(crate) struct Booted {
    pub(crate) guests: Vec<QemuGuest>,
    pub(crate) accelerator: Accelerator,
    /// Name and release of their kernel.
    pub(crate) kernel: String,
    pub(crate) boot_ms: u64,
}

/// No guest began to run: another accelerator may do.
#[derive(Debug, thiserror::Error)]
#[error("no guest boots under {}", .0.name())]
struct NotBooted(Accelerator);

impl Machines {
    /// Finds or makes what guests are made of: packages in `cache` (`None`: `ringway` in the user's cache directory), the file
    /// system in `place`.
    ///
    /// # Errors
    /// What stands in the way of that, in words for people.
    pub(crate) fn new(cache: Option<&Path>, place: &Path, narrator: &Narrator) -> Result<Self> {
        let cache = cache.map_or_else(cache_dir, |path| Ok(path.to_owned()))?;
        let packages = Packages::ensure(&cache, narrator)?;
        let initramfs = place.join("initramfs.cpio");
        std::fs::write(&initramfs, initramfs::build(&packages)?)
            .context("writing the guests' file system")?;
        Ok(Self { packages, initramfs, kvm_memo: cache.join("kvm-runs-no-guest") })
    }

    /// QEMU's version, such as `7.2.22`.
    pub(crate) fn qemu_version(&self) -> Result<String> {
        let qemu = self.packages.find(&["usr/bin/qemu-system-x86_64"])?;
        let output = self.packages.program(&qemu)?.arg("--version").output().context("running QEMU")?;
        version(&String::from_utf8_lossy(&output.stdout)).context("QEMU does not tell its version")
    }

    /// Boots the guests with the first accelerator with which the first line comes.
    ///
    /// # Errors
    /// A guest that does not come up, with the last lines of its console.
    pub(crate) fn boot(&self, specs: &[GuestSpec], narrator: &Narrator) -> Result<Booted> {
        let mut failure = None;
        for &accelerator in Accelerator::candidates(&self.kvm_memo) {
            let count = specs.len();
            narrator.step("boot", format_args!("{count} guests under {}", accelerator.name()));
            match self.boot_with(specs, accelerator, narrator) {
                Ok(booted) => return Ok(booted),
                Err(fault) => {
                    let Some(silent) = fault.downcast_ref::<NotBooted>() else { return Err(fault) };
                    narrator.step("boot", format_args!("no guest boots under {}", silent.0.name()));
                    if silent.0 == Accelerator::Kvm {
                        Accelerator::remember_failure(&self.kvm_memo);
                    }
                    failure = Some(fault);
                }
            }
        }
        Err(failure.context("there is no accelerator")?)
    }

    fn boot_with(
        &self,
        specs: &[GuestSpec],
        accelerator: Accelerator,
        narrator: &Narrator,
    ) -> Result<Booted> {
        let begun = Instant::now();
        let (image, _) = self.packages.kernel()?;
        let mut guests = Vec::new();
        for spec in specs {
            guests.push(QemuGuest::start(&self.packages, accelerator, spec, &image, &self.initramfs)?);
        }
        // Who wants to hear nothing has a bar of its own.
        let spinner = if narrator.is_silent() { ProgressBar::hidden() } else { progress::spinner("booting") };
        let deadline = Instant::now() + boot_limit(accelerator);
        let mut kernel = String::new();
        for guest in &mut guests {
            let (_, mark) = guest.next_mark(deadline).context(NotBooted(accelerator))?;
            mark.strip_prefix("booted ").unwrap_or(&mark).clone_into(&mut kernel);
            spinner.suspend(|| narrator.step("booted", format_args!("{}: {kernel}", guest.name)));
        }
        // They run; what is left depends on the network, and no other accelerator would help it.
        let deadline = Instant::now() + boot_limit(Accelerator::Tcg);
        for guest in &mut guests {
            let (_, mark) = guest.next_mark(deadline)?;
            let mac = mark.strip_prefix("up ").unwrap_or(&mark);
            spinner.suspend(|| narrator.step("up", format_args!("{}: eth0 {mac}", guest.name)));
        }
        spinner.finish_and_clear();
        Ok(Booted { guests, accelerator, kernel, boot_ms: begun.elapsed().as_millis() as u64 })
    }
}

/// The user's cache directory for this program.
fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set: name a directory with --cache")?.join("ringway"))
}

/// The number in `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
fn version(text: &str) -> Option<String> {
    let words = text.lines().next()?.split_once("version ")?.1;
    words.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_version_is_read() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022\n";
        assert_eq!(version(text).as_deref(), Some("7.2.22"));
        assert_eq!(version("no such program"), None);
    }
}
