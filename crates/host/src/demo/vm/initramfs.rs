//! The guests' file system: busybox, iperf3 and sockperf with their libraries, the network modules and a script, as a cpio archive.

use super::packages::Packages;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Modules that the guests need. One that a kernel has built in has no file and is left out.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "af_packet"];
/// Modules taken at most, with those that they depend on.
const MODULES_MAX: usize = 32;
/// Loaded by iperf3 when its threads end, so that the loader does not list it.
const LATE_LIBRARY: &str = "libgcc_s.so.1";
/// Levels of directories searched for modules.
const DEPTH_MAX: usize = 6;

/// Builds the archive.
pub(super) fn build(packages: &Packages) -> Result<Vec<u8>> {
    let busybox = packages.find(&["bin/busybox", "usr/bin/busybox"])?;
    let (_, modules) = packages.kernel()?;
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "lib", "lib64", "modules"] {
        archive.dir(dir);
    }
    archive.file("init", 0o755, include_bytes!("init.sh"));
    archive.file("bin/busybox", 0o755, &read(&busybox)?);
    let mut libraries = BTreeSet::from_iter(packages.library(LATE_LIBRARY));
    for name in ["iperf3", "sockperf"] {
        let program = packages.find(&[&format!("usr/bin/{name}")])?;
        archive.file(&format!("bin/{name}"), 0o755, &read(&program)?);
        libraries.extend(packages.libraries(&program)?);
    }
    for library in libraries {
        let name = file_name(&library);
        let dir = if name.starts_with("ld-linux") { "lib64" } else { "lib" };
        archive.file(&format!("{dir}/{name}"), 0o755, &read(&library)?);
    }
    let mut taken = Vec::new();
    for module in MODULES {
        take_module(&mut archive, &mut taken, &busybox, &modules, module)?;
    }
    archive.file("modules/order", 0o644, taken.join("\n").as_bytes());
    Ok(archive.finish())
}

/// Takes a module after those that it depends on, and notes the order in `taken`.
fn take_module(
    archive: &mut Archive,
    taken: &mut Vec<String>,
    busybox: &Path,
    dir: &Path,
    name: &str,
) -> Result<()> {
    if taken.len() == MODULES_MAX || taken.iter().any(|module| module == name) {
        return Ok(());
    }
    let Some(path) = find_module(dir, name, DEPTH_MAX) else { return Ok(()) };
    let bytes = module_bytes(busybox, &path)?;
    for needed in dependencies(&bytes) {
        take_module(archive, taken, busybox, dir, &needed)?;
    }
    archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
    taken.push(name.to_owned());
    Ok(())
}

/// What a module says it depends on: the string `depends=a,b` of its `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file of a module, packed or not, somewhere below `dir`.
fn find_module(dir: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    let found =
        entries.iter().find(|path| path.is_file() && file_name(path).split(".ko").next() == Some(name));
    if found.is_some() || depth == 0 {
        return found.cloned();
    }
    entries.iter().filter(|path| path.is_dir()).find_map(|path| find_module(path, name, depth - 1))
}

/// A module as the kernel loads it.
fn module_bytes(busybox: &Path, path: &Path) -> Result<Vec<u8>> {
    let mut unpacker = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            let mut command = Command::new(busybox);
            command.arg("xzcat");
            command
        }
        Some("gz") => {
            let mut command = Command::new(busybox);
            command.arg("zcat");
            command
        }
        Some("zst") => {
            let mut command = Command::new("zstd");
            command.arg("-dc");
            command
        }
        _ => return read(path),
    };
    let output = unpacker.arg(path).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("unpacking {}", path.display()))?;
    ensure!(
        output.status.success(),
        "unpacking {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// A cpio archive in the "new ASCII" form (the kernel's buffer-format.txt): a header of 6 + 13 × 8 characters,
/// the name with a zero byte and the content, each padded to 4 bytes.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn dir(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | permissions, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, user, group, links, time, size, four device numbers, name size, checksum.
        for field in [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_sized() {
        let mut archive = Archive::default();
        archive.dir("d");
        archive.file("d/f", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        // The first entry is a header of 110 bytes and a name of 2: the second begins at 112.
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 54..112 + 62], b"00000005");
        assert_eq!(&bytes[112 + 116..112 + 121], b"hello");
    }

    #[test]
    fn modules_say_what_they_need() {
        let module = b"ELF...\0license=GPL\0depends=net_failover,virtio\0name=virtio_net\0";
        assert_eq!(dependencies(module), ["net_failover", "virtio"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"no such thing").is_empty());
    }

    #[test]
    fn modules_are_found_packed_or_not() {
        let place = crate::embedded::place::Place::new().unwrap();
        let deep = place.path().join("drivers/net");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("virtio_net.ko.xz"), b"x").unwrap();
        fs::write(deep.join("virtio_net_x.ko"), b"x").unwrap();
        assert_eq!(find_module(place.path(), "virtio_net", 6), Some(deep.join("virtio_net.ko.xz")));
        assert_eq!(find_module(place.path(), "virtio", 6), None);
    }
}
