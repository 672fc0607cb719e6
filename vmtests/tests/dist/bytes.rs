//! Building the package, and what can be said of it without installing it.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use vmtests::harness::Scene;
use vmtests::process::output;
use vmtests::ringway;

/// `cargo xtask dist` of the binary under test into `directory`; the package.
pub(crate) fn build(directory: &Path) -> anyhow::Result<PathBuf> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--package", "xtask", "--", "dist", "--binary"]);
    output(command.arg(ringway::binary()?).arg("--output").arg(directory))?;
    let found = std::fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path());
    found.filter(|path| path.extension().is_some_and(|e| e == "deb")).max().context("no package was made")
}

pub(crate) fn reproducible(scene: &Scene) -> anyhow::Result<()> {
    let [first, second] = ["first", "second"].map(|name| scene.directory().join(name));
    let deb = scene.check("build", || build(&first))?;
    scene.check("build again, another second", || build(&second))?;
    scene.check("the same bytes", || output(Command::new("diff").arg("-r").args([&first, &second])))?;
    scene.check("checksums", || {
        output(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&first))
    })?;
    scene
        .check("the oldest C library that it asks for is the one it needs", || asks_honestly(&first, &deb))?;
    scene.check("Debian's checker finds no mistake", || lintian(scene, &deb))
}

/// Compares the dependency with the versions of the symbols in the program.
fn asks_honestly(directory: &Path, deb: &Path) -> anyhow::Result<()> {
    let tree = directory.join("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").args([deb, &tree]))?;
    let symbols = output(Command::new("objdump").arg("-T").arg(tree.join("usr/bin/ringway")))?;
    let versions = symbols.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    let newest = versions
        .filter_map(|word| word.strip_prefix("GLIBC_2.")?.split('.').next()?.parse::<u32>().ok())
        .max()
        .context("the program uses no C library")?;
    let depends = output(Command::new("dpkg-deb").arg("--field").arg(deb).arg("Depends"))?;
    let asked = depends
        .split_once("libc6 (>= 2.")
        .and_then(|(_, rest)| rest.split([')', '.', '-']).next()?.parse::<u32>().ok())
        .with_context(|| depends.clone())?;
    ensure!(asked >= newest && asked <= newest + 2, "symbols of 2.{newest}, but {depends}");
    Ok(())
}

fn lintian(scene: &Scene, deb: &Path) -> anyhow::Result<()> {
    let mut command = scene.lab().sysroot.command("lintian");
    let found = command.args(["--allow-root", "--fail-on", "none", "--no-cfg"]).arg(deb).output()?;
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("E: ")).collect();
    for line in text.lines().filter(|line| line.starts_with("W: ")) {
        scene.note(line);
    }
    ensure!(errors.is_empty() && found.status.success(), "{text}{}", String::from_utf8_lossy(&found.stderr));
    Ok(())
}
