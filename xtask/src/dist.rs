//! `cargo xtask dist`: what is handed to operators, under `target/dist`: a Debian package, the same files as a tar, and
//! their checksums.
//!
//! Theory of operation. The tree of files is laid out once, by [`tree::lay_out`], from the built program (its manual pages and
//! completions come out of the program itself) and from `packaging/`. Debian's own tools do what is Debian's: `dpkg-shlibdeps`
//! finds the libraries and their oldest versions, `dpkg-deb` packs. Every time stamp is that of the commit (or
//! `SOURCE_DATE_EPOCH`), owners and orders are fixed, and compressors write no names or times: the same program gives the
//! same bytes.

mod tree;

use crate::steps::Steps;
use crate::{cargo, root};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of the packaging: what follows the program's version in Debian's.
const DEBIAN_REVISION: &str = "1";

/// What to build and where to.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo's profile
    #[arg(long, default_value = "release")]
    profile: String,
    /// Pack this program instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    binary: Option<PathBuf>,
    /// Directory for the results
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// Builds everything. What it needs beside Rust: dpkg-dev, binutils, git, tar and gzip.
pub(crate) fn run(steps: &mut Steps, options: &Options) -> anyhow::Result<()> {
    let target = target_directory();
    let output = options.output.clone().unwrap_or_else(|| target.join("dist"));
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => match build(steps, &options.profile, &target) {
            Some(binary) => binary,
            None => return Ok(()),
        },
    };
    fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
    let mut made = Vec::new();
    let work = output.join("work");
    steps.check("lay out and pack", || {
        let release = Release::find()?;
        remove(&work)?;
        made = pack(&release, &binary, &work, &output)?;
        remove(&work)
    });
    for name in made {
        steps.say(&format!("{}", output.join(name).display()));
    }
    Ok(())
}

fn build(steps: &mut Steps, profile: &str, target: &Path) -> Option<PathBuf> {
    let what = format!("build ringway (profile {profile})");
    let mut command = cargo();
    command.args(["build", "--locked", "--quiet", "--package", "ringway", "--profile", profile]);
    steps.run(&what, &mut command).then(|| target.join(profile).join("ringway"))
}

/// What is said of the release in its files.
struct Release {
    /// Of the program, such as `0.1.0`.
    version: String,
    /// Debian's name of the processor, such as `amd64`.
    architecture: String,
    /// The commit it is built from, short.
    commit: String,
    /// Time stamp of every file, in seconds since 1970.
    epoch_s: u64,
    /// Name and address, as in Debian's changelogs.
    maintainer: String,
}

impl Release {
    fn find() -> anyhow::Result<Self> {
        let manifest = fs::read_to_string(root().join("Cargo.toml")).context("Cargo.toml")?;
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch,
            Err(_) => {
                git(&["log", "-1", "--format=%ct"]).context("the commit's time; or set SOURCE_DATE_EPOCH")?
            }
        };
        let person = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        Ok(Self {
            version: version(&manifest)?,
            architecture: output(Command::new("dpkg").arg("--print-architecture"))?,
            commit: git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|_| "unknown".into()),
            epoch_s: epoch.parse().with_context(|| format!("time stamp {epoch:?}"))?,
            maintainer: format!(
                "{} <{}>",
                person("DEBFULLNAME", "The Ringway developers"),
                person("DEBEMAIL", "packages@ringway.invalid")
            ),
        })
    }

    fn debian_version(&self) -> String {
        format!("{}-{DEBIAN_REVISION}", self.version)
    }

    /// A file of `packaging/deb` with its `@WORDS@` replaced.
    fn fill(&self, name: &str, more: &[(&str, &str)]) -> anyhow::Result<String> {
        let path = root().join("packaging/deb").join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let version = self.debian_version();
        let own = [
            ("VERSION", version.as_str()),
            ("ARCH", &self.architecture),
            ("COMMIT", &self.commit),
            ("MAINTAINER", &self.maintainer),
        ];
        let words: Vec<(&str, &str)> = own.iter().chain(more).copied().collect();
        fill(&text, &words).with_context(|| path.display().to_string())
    }
}

/// `text` with every `@WORD@` replaced. Errors: a word of capitals that is not known.
fn fill(text: &str, words: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        filled.push_str(before);
        let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
        let Some((word, behind)) = after.split_once('@').filter(|(word, _)| is_word(word)) else {
            filled.push('@');
            rest = after;
            continue;
        };
        let (_, value) = words
            .iter()
            .find(|(known, _)| *known == word)
            .with_context(|| format!("@{word}@ has no value"))?;
        filled.push_str(value);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The version in the workspace's manifest.
fn version(manifest: &str) -> anyhow::Result<String> {
    let table: toml::Table = manifest.parse().context("Cargo.toml")?;
    let version = table.get("workspace").and_then(|w| w.get("package")?.get("version")?.as_str());
    Ok(version.context("Cargo.toml has no workspace.package.version")?.to_owned())
}

/// Packs everything; the names of what was made in `output`.
fn pack(
    release: &Release,
    binary: &Path,
    work: &Path,
    output_directory: &Path,
) -> anyhow::Result<Vec<String>> {
    let files = work.join("root");
    let depends = tree::lay_out(release, binary, work, &files)?;
    let deb = format!("ringway_{}_{}.deb", release.debian_version(), release.architecture);
    let tar = format!("ringway-{}-{}.tar.gz", release.version, release.architecture);
    pack_tar(release, &files, work, &output_directory.join(&tar))?;
    tree::control(release, &depends, &files)?;
    pack_deb(release, &files, &output_directory.join(&deb))?;
    let sums = output(Command::new("sha256sum").args([&deb, &tar]).current_dir(output_directory))?;
    fs::write(output_directory.join("SHA256SUMS"), sums + "\n")?;
    Ok(vec![deb, tar, "SHA256SUMS".into()])
}

/// `dpkg-deb` sets the time stamps of what is newer than `SOURCE_DATE_EPOCH` to that.
fn pack_deb(release: &Release, files: &Path, deb: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "--uniform-compression", "--threads-max=1", "-Zxz", "--build"]);
    command.env("SOURCE_DATE_EPOCH", release.epoch_s.to_string());
    output(command.arg(files).arg(deb)).map(drop)
}

/// The same files below one directory, for other distributions.
fn pack_tar(release: &Release, files: &Path, work: &Path, to: &Path) -> anyhow::Result<()> {
    let plain = work.join("plain.tar");
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu", "--create"]);
    command.arg(format!("--mtime=@{}", release.epoch_s));
    command.arg(format!("--transform=s,^\\.,ringway-{},", release.version));
    output(command.arg("--file").arg(&plain).arg("--directory").arg(files).arg("."))?;
    gzip(&plain)?;
    fs::rename(work.join("plain.tar.gz"), to).context("move the tar")
}

/// Compresses a file in place, without its name and time.
fn gzip(path: &Path) -> anyhow::Result<()> {
    output(Command::new("gzip").args(["-9", "--no-name", "--force"]).arg(path)).map(drop)
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    output(Command::new("git").args(arguments).current_dir(root()))
}

/// Runs a command and gives what it prints, without the last line's end.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{:?} {}: {}", command.get_program(), output.status, errors.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
        _ => Ok(()),
    }
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn words_are_replaced_and_unknown_ones_named() {
        let words = [("ARCH", "amd64"), ("VERSION", "1-1")];
        assert_eq!(fill("a @ARCH@ b @VERSION@", &words).unwrap(), "a amd64 b 1-1");
        assert_eq!(fill("mail a@b, c@d", &words).unwrap(), "mail a@b, c@d");
        assert!(fill("@ARCH@ @SIZE@", &words).unwrap_err().to_string().contains("@SIZE@"));
    }

    #[test]
    fn every_file_of_the_package_has_its_words() {
        let release = Release {
            version: "1.2.3".into(),
            architecture: "amd64".into(),
            commit: "0123456789ab".into(),
            epoch_s: 86400,
            maintainer: "A B <a@b.example>".into(),
        };
        let more = [("SIZE", "1"), ("DEPENDS", "libc6"), ("DATE", "today"), ("EXPAT", "text")];
        for name in ["control", "changelog", "copyright"] {
            let text = release.fill(name, &more).unwrap();
            assert!(!text.contains("@SIZE@") && !text.contains("@VERSION@"), "{text}");
            assert_ne!(text, fs::read_to_string(root().join("packaging/deb").join(name)).unwrap());
        }
    }

    #[test]
    fn the_version_is_the_workspace_s() {
        assert_eq!(version("[workspace.package]\nversion = \"1.2.3\"\n").unwrap(), "1.2.3");
        assert!(version("[workspace]\n").is_err());
    }

    #[test]
    fn compressed_files_do_not_tell_when_they_were_made() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = |name: &str, epoch_s: u64| {
            let path = directory.path().join(name);
            fs::write(&path, "text\n").unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch_s);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            gzip(&path).unwrap();
            fs::read(directory.path().join(format!("{name}.gz"))).unwrap()
        };
        assert_eq!(bytes("a", 1000), bytes("b", 2_000_000));
    }
}
