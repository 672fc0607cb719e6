//! The guests' initial file system: busybox, iperf3, ethtool, lspci, what makes and checks file systems, the virtio modules and an init script, as a cpio archive.

mod cpio;

use crate::sysroot::Sysroot;
use anyhow::{Context, bail};
use cpio::Archive;
use std::collections::BTreeSet;
use std::path::Path;

/// Modules that guests load, each after those that it needs. One that is built into the kernel is left out.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "virtio_blk", "ext4", "af_packet", "8021q"];

/// Programs with shared libraries, as paths in the root. `lspci` is there because DPDK's package needs it.
const PROGRAMS: &[&str] = &[
    "/usr/bin/iperf3",
    "/usr/sbin/ethtool",
    "/usr/bin/lspci",
    "/usr/sbin/mke2fs",
    "/usr/sbin/e2fsck",
    "/usr/sbin/blkdiscard",
];

/// Libraries that programs load while they run (`pthread_cancel` does), so that `ldd` does not list them.
const LIBRARIES: &[&str] = &["/usr/lib/x86_64-linux-gnu/libgcc_s.so.1"];

/// Builds the archive at `path` from what the root holds.
pub fn build(sysroot: &Sysroot, path: &Path) -> anyhow::Result<()> {
    let mut archive = Archive::new();
    for directory in
        ["bin", "dev", "proc", "sys", "tmp", "modules", "usr", "usr/bin", "usr/sbin", "lib64", "usr/lib"]
    {
        archive.directory(directory);
    }
    archive.symlink("lib", "usr/lib");
    archive.device("dev/console", 5, 1);
    archive.file("init", 0o755, include_bytes!("init.sh"));
    let busybox = sysroot.path().join("usr/bin/busybox");
    archive.file(
        "bin/busybox",
        0o755,
        &std::fs::read(&busybox).with_context(|| busybox.display().to_string())?,
    );
    let mut directories: BTreeSet<String> = BTreeSet::new();
    for file in files_of(sysroot)? {
        let name = file.trim_start_matches('/');
        for (at, _) in name.match_indices('/') {
            if directories.insert(name[..at].to_owned()) && !matches!(&name[..at], "usr" | "lib" | "lib64") {
                archive.directory(&name[..at]);
            }
        }
        let inside = sysroot.path().join(name);
        archive.file(name, 0o755, &std::fs::read(&inside).with_context(|| inside.display().to_string())?);
    }
    let mut order = String::new();
    for module in modules_of(sysroot)? {
        let stem = module.rsplit('/').next().unwrap_or(&module).split(".ko").next().unwrap_or_default();
        archive.file(&format!("modules/{stem}.ko"), 0o644, &module_bytes(sysroot, &module)?);
        order.push_str(&format!("{stem}.ko\n"));
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    std::fs::write(path, archive.finish()).with_context(|| path.display().to_string())
}

/// The programs and the libraries that they load, as the root's own loader finds them.
fn files_of(sysroot: &Sysroot) -> anyhow::Result<BTreeSet<String>> {
    let listed = sysroot.output("ldd", PROGRAMS)?;
    let mut files: BTreeSet<String> =
        PROGRAMS.iter().chain(LIBRARIES).map(|file| (*file).to_owned()).collect();
    files.extend(listed.lines().filter_map(library).map(str::to_owned));
    Ok(files)
}

/// The path in one line of `ldd`.
fn library(line: &str) -> Option<&str> {
    let place = line.split(" => ").last()?.trim();
    let path = place.split(" (0x").next()?;
    (path.starts_with('/') && !path.ends_with(':')).then_some(path)
}

/// Paths of the modules under `/usr/lib/modules/VERSION`, each after those that it needs.
fn modules_of(sysroot: &Sysroot) -> anyhow::Result<Vec<String>> {
    let version = sysroot.kernel_version()?;
    let directory = sysroot.path().join("usr/lib/modules").join(&version);
    let listed = std::fs::read_to_string(directory.join("modules.dep")).context("modules.dep")?;
    let mut ordered = Vec::new();
    for name in MODULES {
        for path in with_dependencies(&listed, name) {
            let full = format!("/usr/lib/modules/{version}/{path}");
            if !ordered.contains(&full) {
                ordered.push(full);
            }
        }
    }
    if !ordered.iter().any(|path| path.contains("virtio_net")) {
        bail!("kernel {version} has no virtio_net module");
    }
    Ok(ordered)
}

/// A module's line of `modules.dep`, turned into the order of loading; empty for a built-in one.
fn with_dependencies<'a>(listed: &'a str, name: &str) -> Vec<&'a str> {
    let is_named =
        |path: &str| path.rsplit('/').next().is_some_and(|file| file.split(".ko").next() == Some(name));
    let line = listed.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| is_named(path));
    let Some((path, needs)) = line else { return Vec::new() };
    let mut order: Vec<&str> = needs.split_whitespace().rev().collect();
    order.push(path);
    order
}

/// A module's content, unpacked by the root's busybox if need be.
fn module_bytes(sysroot: &Sysroot, path: &str) -> anyhow::Result<Vec<u8>> {
    let program = if path.ends_with(".xz") { "xzcat" } else { "cat" };
    let output = sysroot.command("busybox").args([program, path]).output()?;
    if !output.status.success() {
        bail!("{path}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn reads_the_loader_lists() {
        assert_eq!(
            library("\tlibz.so.1 => /usr/lib/libz.so.1 (0x00007f6d7d675000)"),
            Some("/usr/lib/libz.so.1")
        );
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f47b4526000)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f47b4524000)"), None);
        assert_eq!(library("/usr/bin/iperf3:"), None);
    }

    #[test]
    fn modules_load_after_what_they_need() {
        let listed = "kernel/a/failover.ko.xz:\n\
                      kernel/b/net_failover.ko.xz: kernel/a/failover.ko.xz\n\
                      kernel/b/virtio_net.ko.xz: kernel/b/net_failover.ko.xz kernel/a/failover.ko.xz\n";
        let order = with_dependencies(listed, "virtio_net");
        assert_eq!(
            order,
            ["kernel/a/failover.ko.xz", "kernel/b/net_failover.ko.xz", "kernel/b/virtio_net.ko.xz"]
        );
        assert!(with_dependencies(listed, "virtio_pci").is_empty());
    }
}
