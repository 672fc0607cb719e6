//! What the QEMU guests are made of, from Debian's packages, without root and without touching the host.
//!
//! apt-get works on the host's sources with lists and archives of our own, so it needs no rights. It is asked what
//! would have to be installed; that is downloaded and unpacked under the cache directory, and used from there.
//! What the host has already is used from the host. The kernel is taken without what it would need to be installed.
//! A finished cache is used as it is, also without a network.

use super::super::narrate::Narrator;
use super::progress;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages with programs that must find their libraries.
const PACKAGES: [&str; 5] = ["qemu-system-x86", "seabios", "busybox-static", "iperf3", "sockperf"];
/// The kernel's package, and what may hold its parts.
const KERNEL: &str = "linux-image-cloud-amd64";
const KERNEL_PARTS: [&str; 3] = ["linux-image-", "linux-modules-", "linux-binary-"];
/// Written when everything is unpacked; its text changes when the list of packages does.
const STAMP: &str =
    "unpacked: qemu-system-x86 seabios busybox-static iperf3 sockperf linux-image-cloud-amd64, form 1\n";
/// Where libraries are, below a root.
const LIBRARY_DIRS: [&str; 4] =
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio", "usr/lib64"];
/// Lines of apt-get's complaint that are shown.
const COMPLAINT_LINES_MAX: usize = 3;
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// The unpacked packages, over what the host has.
pub(super) struct Packages {
    root: PathBuf,
}

impl Packages {
    /// Finds or makes the cache at `cache`.
    pub(super) fn ensure(cache: &Path, narrator: &Narrator) -> Result<Self> {
        ensure!(
            cfg!(target_arch = "x86_64"),
            "`--vm` boots x86-64 guests from packages of the host's own architecture: this host is no x86-64"
        );
        fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
        let lock =
            File::create(cache.join("lock")).with_context(|| format!("writing in {}", cache.display()))?;
        flock(&lock, FlockOperation::LockExclusive).context("waiting for another demo with this cache")?;
        let packages = Self { root: cache.join("root") };
        let stamp = cache.join("stamp");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == STAMP) {
            narrator.step("packages", format_args!("as unpacked in {}", cache.display()));
            return Ok(packages);
        }
        let apt = Apt::new(cache)?;
        let files = apt.fetch(narrator)?;
        unpack(&files, &packages.root)?;
        fs::write(&stamp, STAMP).with_context(|| format!("writing {}", stamp.display()))?;
        narrator.step("packages", format_args!("{} unpacked in {}", files.len(), cache.display()));
        Ok(packages)
    }

    /// A file of the packages, or the host's.
    pub(super) fn find(&self, names: &[&str]) -> Result<PathBuf> {
        let roots = [self.root.as_path(), Path::new("/")];
        let places = || roots.iter().flat_map(|root| names.iter().map(move |name| root.join(name)));
        places().find(|path| path.exists()).with_context(|| {
            format!("no {} in {} nor on this host", names.first().unwrap_or(&""), self.root.display())
        })
    }

    /// Directories below the packages that have this name there.
    pub(super) fn dirs<'a>(&'a self, names: &'a [&'a str]) -> impl Iterator<Item = PathBuf> + 'a {
        names.iter().map(|name| self.root.join(name)).filter(|path| path.is_dir())
    }

    /// Runs a program with the packages' libraries.
    pub(super) fn program(&self, path: &Path) -> Result<Command> {
        let own_loader = self.root.join(LOADER);
        if own_loader.exists() {
            // A C library came with the packages: only its own loader fits it.
            let mut command = Command::new(own_loader);
            command.arg("--library-path").arg(self.library_path()?).arg(path);
            return Ok(command);
        }
        let mut command = Command::new(path);
        command.env("LD_LIBRARY_PATH", self.library_path()?);
        Ok(command)
    }

    /// The shared libraries that a program loads, and the loader.
    pub(super) fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let loader = self.find(&[LOADER])?;
        let output = Command::new(&loader)
            .arg("--library-path")
            .arg(self.library_path()?)
            .arg("--list")
            .arg(program)
            .output()
            .with_context(|| format!("running {}", loader.display()))?;
        ensure!(output.status.success(), "listing libraries: {}", String::from_utf8_lossy(&output.stderr));
        let mut files: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(library_path)
            .map(PathBuf::from)
            .collect();
        files.push(loader);
        Ok(files)
    }

    /// A library by its file name, where it lies.
    pub(super) fn library(&self, name: &str) -> Result<PathBuf> {
        let places: Vec<String> = LIBRARY_DIRS.iter().map(|dir| format!("{dir}/{name}")).collect();
        self.find(&places.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The kernel and the directory of its modules.
    pub(super) fn kernel(&self) -> Result<(PathBuf, PathBuf)> {
        let image = first_named(&self.root.join("boot"), "vmlinuz-")?;
        let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let version = name.trim_start_matches("vmlinuz-").to_owned();
        let modules = [format!("usr/lib/modules/{version}/kernel"), format!("lib/modules/{version}/kernel")];
        let modules = modules.iter().map(|dir| self.root.join(dir)).find(|dir| dir.is_dir());
        Ok((image, modules.with_context(|| format!("no modules for kernel {version}"))?))
    }

    fn library_path(&self) -> Result<OsString> {
        std::env::join_paths(self.dirs(&LIBRARY_DIRS)).context("the cache directory's path has a colon in it")
    }
}

/// The path in a line of the loader's list: `libz.so.1 => /usr/lib/libz.so.1 (0x7f..)`.
fn library_path(line: &str) -> Option<&str> {
    let (_, place) = line.split_once("=> ")?;
    let path = place.split(" (0x").next()?.trim();
    path.starts_with('/').then_some(path)
}

fn first_named(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut named: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
        })
        .collect();
    named.sort();
    named.pop().with_context(|| format!("no {prefix}* in {}", dir.display()))
}

/// apt-get with state of our own.
struct Apt {
    archives: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    fn new(cache: &Path) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if !runs(program) {
                bail!(
                    "`--vm` takes its guests from Debian's packages, and this host has no {program}. \
                     On Debian or Ubuntu it comes with the system; elsewhere run this in a Debian container \
                     (the guests then run in software emulation unless /dev/kvm is passed in), \
                     or run it without `--vm`, which needs nothing"
                );
            }
        }
        let state = cache.join("apt");
        let (lists, apt_cache) = (state.join("lists"), state.join("cache"));
        let archives = apt_cache.join("archives");
        for dir in [lists.join("partial"), archives.join("partial")] {
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let option = |name: &str, value: &Path| {
            let mut text = OsString::from(format!("{name}="));
            text.push(value);
            [OsString::from("-o"), text]
        };
        let mut options = Vec::new();
        options.extend(option("Dir::State::Lists", &lists));
        options.extend(option("Dir::Cache", &apt_cache));
        options.extend(option("Dir::Cache::Archives", &archives));
        options.extend(option("Debug::NoLocking", Path::new("true")));
        options.extend(option("APT::Sandbox::User", Path::new("root")));
        options.extend(option("APT::Install-Recommends", Path::new("false")));
        options.extend(option("Acquire::Languages", Path::new("none")));
        Ok(Self { archives, options })
    }

    /// Downloads what is missing and returns the package files.
    fn fetch(&self, narrator: &Narrator) -> Result<Vec<PathBuf>> {
        narrator.step("packages", "reading Debian's package lists");
        let spinner = progress::spinner("apt-get update");
        let updated = self.output(&mut self.command("apt-get", &["-q", "update"]));
        spinner.finish_and_clear();
        // A source that cannot be read is only a warning here; it matters if something is missing later.
        let complaint = updated?.1.lines().take(COMPLAINT_LINES_MAX).collect::<Vec<_>>().join("; ");
        let missing =
            || format!("looking in this host's package sources; apt-get update said \"{complaint}\"");

        let install = |mode: &'static str| {
            let mut arguments = vec!["-q", "-y", mode, "install"];
            arguments.extend(PACKAGES);
            self.command("apt-get", &arguments)
        };
        let kernels = self.kernel_parts().with_context(missing)?;
        let download = |mode: Option<&'static str>| {
            let mut arguments = vec!["-q"];
            arguments.extend(mode);
            arguments.push("download");
            arguments.extend(kernels.iter().map(String::as_str));
            let mut command = self.command("apt-get", &arguments);
            command.current_dir(&self.archives);
            command
        };

        let mut wanted = uris(&self.run(&mut install("--print-uris")).with_context(missing)?);
        wanted.extend(uris(&self.run(&mut download(Some("--print-uris")))?));
        let total: u64 = wanted.iter().map(|(_, size)| size).sum();
        narrator.step("packages", format_args!("{} packages, {:.0} MB", wanted.len(), total as f64 / 1e6));
        let bar = progress::bytes("downloading", total, self.archives.clone());
        let fetched = self.run(&mut install("--download-only")).and_then(|_| self.run(&mut download(None)));
        bar.finish();
        fetched.context("downloading packages")?;
        wanted
            .iter()
            .map(|(name, _)| {
                let path = self.archives.join(name);
                ensure!(path.exists(), "apt-get did not leave {} behind", path.display());
                Ok(path)
            })
            .collect()
    }

    /// The packages that hold the kernel and its modules, from the one that names the current kernel.
    fn kernel_parts(&self) -> Result<Vec<String>> {
        let mut parts = Vec::new();
        let mut open = vec![KERNEL.to_owned()];
        while let Some(name) = open.pop() {
            let listed = self
                .run(&mut self.command("apt-cache", &["depends", "--important", &name]))
                .with_context(|| format!("looking for {name}"))?;
            if name != KERNEL {
                parts.push(name);
            }
            for needed in dependencies(&listed) {
                let is_part = KERNEL_PARTS.iter().any(|prefix| needed.starts_with(prefix));
                if is_part && !parts.contains(&needed) && parts.len() < 8 {
                    open.push(needed);
                }
            }
        }
        ensure!(
            !parts.is_empty(),
            "the package sources of this host have no {KERNEL}, the kernel for the guests"
        );
        Ok(parts)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(&self.options)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// What a command printed; what it complained of, if it failed, is the error.
    fn run(&self, command: &mut Command) -> Result<String> {
        let (text, complaint, passed) = self.output(command)?;
        ensure!(passed, "{}", complaint.trim());
        Ok(text)
    }

    /// What a command printed and complained of, and whether it succeeded.
    fn output(&self, command: &mut Command) -> Result<(String, String, bool)> {
        let output = command.stdin(Stdio::null()).output().context("running apt")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&output.stdout), text(&output.stderr), output.status.success()))
    }
}

fn runs(program: &str) -> bool {
    let output = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    output.is_ok_and(|status| status.success())
}

/// File names and sizes of `--print-uris`: `'http://..' name_version_arch.deb 12345 SHA256:..`.
fn uris(text: &str) -> BTreeSet<(String, u64)> {
    let parse = |line: &str| {
        let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split_whitespace();
        let name = words.next().filter(|name| name.ends_with(".deb") && !name.contains('/'))?;
        Some((name.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

/// Packages in the `Depends:` lines of `apt-cache depends`.
fn dependencies(text: &str) -> Vec<String> {
    let named =
        |line: &str| Some(line.trim_start_matches(['|', ' ']).strip_prefix("Depends: ")?.trim().to_owned());
    text.lines().filter_map(named).filter(|name| !name.starts_with('<')).collect()
}

fn unpack(files: &[PathBuf], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
    let bar = progress::steps("unpacking", files.len());
    for file in files {
        let output =
            Command::new("dpkg-deb").arg("-x").arg(file).arg(root).output().context("running dpkg-deb")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "unpacking {}: {}", file.display(), complaint.trim());
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_apt_are_read() {
        let text = "Reading package lists...\n\
                    'http://deb.example.org/a/b_1%3a2_amd64.deb' b_1%3a2_amd64.deb 1234 MD5Sum:00\n\
                    'http://deb.example.org/a' ../evil.deb 1 MD5Sum:00\n";
        assert_eq!(uris(text), BTreeSet::from([("b_1%3a2_amd64.deb".to_owned(), 1234)]));
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1-cloud-amd64\n |Depends: kmod\n  Depends: <x>\n";
        assert_eq!(dependencies(text), ["linux-image-6.1-cloud-amd64", "kmod"]);
    }

    #[test]
    fn lists_of_the_loader_are_read() {
        assert_eq!(
            library_path("\tlibz.so.1 => /lib/libz.so.1 (0x00007f6d7d675000)"),
            Some("/lib/libz.so.1")
        );
        assert_eq!(library_path("\tlinux-vdso.so.1 (0x00007f47b4524000)"), None);
        assert_eq!(library_path("\tlibx.so => not found"), None);
    }
}
