//! The root's kernel, unpacked from its boot image.
//!
//! A boot image holds the kernel proper as a compressed ELF file behind a small loader. QEMU starts the ELF file itself
//! through its PVH entry, so nothing is left to unpack in the guest. Where the image is not of this kind it is used as it is.

use super::Sysroot;
use anyhow::Context;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// First bytes of a zstd frame (RFC 8878 §3.1.1), which is how Debian packs its kernels.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Path in the root of the kernel for QEMU.
pub(super) fn unpacked(sysroot: &Sysroot) -> anyhow::Result<PathBuf> {
    let version = sysroot.kernel_version()?;
    let kept = PathBuf::from(format!("/var/cache/vmlinux-{version}"));
    if on_machine(sysroot, &kept).is_file() {
        return Ok(kept);
    }
    let places = [format!("/usr/lib/modules/{version}/vmlinuz"), format!("/boot/vmlinuz-{version}")];
    let image = places.into_iter().map(PathBuf::from).find(|place| on_machine(sysroot, place).is_file());
    let image = image.with_context(|| format!("no kernel image for {version}"))?;
    let bytes = fs::read(on_machine(sysroot, &image)).with_context(|| image.display().to_string())?;
    let Some(at) = bytes.windows(ZSTD.len()).position(|window| window == ZSTD) else { return Ok(image) };
    let kernel = unzstd(sysroot.command("zstd"), &bytes[at..])?;
    if !kernel.starts_with(b"\x7fELF") {
        return Ok(image);
    }
    let partial = on_machine(sysroot, &kept.with_extension(std::process::id().to_string()));
    fs::write(&partial, kernel).context("unpack the kernel")?;
    fs::rename(&partial, on_machine(sysroot, &kept)).context("unpack the kernel")?;
    Ok(kept)
}

/// The first frame of `packed`. The loader's bytes behind it make zstd complain, so its exit status says nothing.
fn unzstd(mut command: Command, packed: &[u8]) -> anyhow::Result<Vec<u8>> {
    command.args(["--decompress", "--stdout", "--quiet"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().context("zstd's input")?;
    let output = std::thread::scope(|scope| {
        // It stops reading at the end of the frame; the rest may not be taken.
        scope.spawn(move || drop(stdin.write_all(packed)));
        child.wait_with_output()
    })?;
    Ok(output.stdout)
}

fn on_machine(sysroot: &Sysroot, path: &Path) -> PathBuf {
    sysroot.path().join(path.strip_prefix("/").unwrap_or(path))
}
