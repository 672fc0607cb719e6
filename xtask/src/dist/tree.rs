//! The tree of installed files, and the package's control files.

use super::{Release, gzip, output};
use crate::{cargo, root};
use anyhow::Context;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Files that are installed as they are: below the workspace's root, below `/`.
const PLAIN: &[(&str, &str)] = &[
    ("packaging/ringway.service", "usr/lib/systemd/system/ringway.service"),
    ("packaging/ringway.socket", "usr/lib/systemd/system/ringway.socket"),
    ("packaging/ringway.sysusers", "usr/lib/sysusers.d/ringway.conf"),
    ("packaging/ringway.tmpfiles", "usr/lib/tmpfiles.d/ringway.conf"),
    ("packaging/ringway.toml", CONFIGURATION),
];

/// Below `/`; dpkg keeps what the administrator made of it.
const CONFIGURATION: &str = "etc/ringway/ringway.toml";

/// Documents that are installed compressed, in the package's directory of documents.
const DOCUMENTS: &[(&str, &str)] = &[
    ("CHANGELOG.md", "changelog"),
    ("docs/configuration.md", "configuration.md"),
    ("docs/operating.md", "operating.md"),
    ("docs/openapi.json", "openapi.json"),
];

const DOCUMENTS_AT: &str = "usr/share/doc/ringway";

/// Shells, and where each looks for completions of packages.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/ringway"),
    ("zsh", "usr/share/zsh/vendor-completions/_ringway"),
    ("fish", "usr/share/fish/vendor_completions.d/ringway.fish"),
];

/// Lays out what is installed below `files`; the packages of the libraries it needs, as `Depends` has them. `work` is for
/// what comes and goes.
pub(super) fn lay_out(release: &Release, binary: &Path, work: &Path, files: &Path) -> anyhow::Result<String> {
    program(binary, files)?;
    for (from, to) in PLAIN {
        let text = fs::read(root().join(from)).with_context(|| (*from).to_owned())?;
        write(&files.join(to), &text)?;
    }
    manual(binary, files)?;
    for (shell, to) in COMPLETIONS {
        let script = output(Command::new(binary).args(["completions", shell]))?;
        write(&files.join(to), format!("{script}\n").as_bytes())?;
    }
    documents(release, files)?;
    depends(work, &files.join("usr/bin/ringway"))
}

/// The program without what only debuggers need.
fn program(binary: &Path, files: &Path) -> anyhow::Result<()> {
    let to = files.join("usr/bin/ringway");
    write(&to, &fs::read(binary).with_context(|| binary.display().to_string())?)?;
    output(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&to))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).context("permissions of the program")
}

fn manual(binary: &Path, files: &Path) -> anyhow::Result<()> {
    let directory = files.join("usr/share/man/man1");
    make_directory(&directory)?;
    output(Command::new(binary).arg("man").arg("--directory").arg(&directory))?;
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        gzip(&path)?;
        fs::set_permissions(path.with_extension("1.gz"), fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn documents(release: &Release, files: &Path) -> anyhow::Result<()> {
    let directory = files.join(DOCUMENTS_AT);
    let put = |name: &str, text: &[u8]| {
        let path = directory.join(name);
        write(&path, text)?;
        gzip(&path)
    };
    for (from, to) in DOCUMENTS {
        put(to, &fs::read(root().join(from)).with_context(|| (*from).to_owned())?)?;
    }
    let moment = format!("@{}", release.epoch_s);
    let date =
        output(Command::new("date").env("LC_ALL", "C").args(["--utc", "--rfc-email", "--date", &moment]))?;
    put("changelog.Debian", release.fill("changelog", &[("DATE", &date)])?.as_bytes())?;
    put("libraries.txt", libraries()?.as_bytes())?;
    let expat = fs::read_to_string(root().join("LICENSE-MIT")).context("LICENSE-MIT")?;
    let copyright = release.fill("copyright", &[("EXPAT", &paragraph(&expat))])?;
    write(&directory.join("copyright"), copyright.as_bytes())
}

/// A licence's conditions as a field of Debian's copyright format: indented, empty lines as dots. Its title and its
/// copyright lines have fields of their own.
fn paragraph(text: &str) -> String {
    let body = text.find("Permission is").map_or(text, |at| &text[at..]);
    let lines =
        body.trim_end().lines().map(|line| if line.is_empty() { " .".into() } else { format!(" {line}") });
    lines.collect::<Vec<String>>().join("\n")
}

/// The libraries that are linked in, with their versions and licences.
fn libraries() -> anyhow::Result<String> {
    let mut command = cargo();
    command.args(["tree", "--locked", "--package", "ringway", "--edges", "normal,no-proc-macro"]);
    let rows = output(command.args(["--prefix", "none", "--no-dedupe", "--format", "{p} | {l} | {r}"]))?;
    // Ours have their path behind the version.
    let mut rows: Vec<&str> = rows.lines().filter(|row| !row.contains(" (/")).collect();
    rows.sort_unstable();
    rows.dedup();
    Ok(format!(
        "Libraries from crates.io in this program: version, licence, source.\n\n{}\n",
        rows.join("\n")
    ))
}

/// The packages that the program's libraries come from, with the oldest version that has the symbols it uses.
fn depends(work: &Path, program: &Path) -> anyhow::Result<String> {
    // The tool wants a source package around it.
    write(&work.join("debian/control"), b"Source: ringway\n\nPackage: ringway\nArchitecture: any\n")?;
    let program = program.canonicalize()?;
    let found = output(Command::new("dpkg-shlibdeps").arg("-O").arg(program).current_dir(work))
        .context("dpkg-shlibdeps, of the package dpkg-dev")?;
    let depends = found.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.context("dpkg-shlibdeps found no libraries")?.to_owned())
}

/// Adds Debian's control files to the tree.
pub(super) fn control(release: &Release, depends: &str, files: &Path) -> anyhow::Result<()> {
    let mut sums = Vec::new();
    let mut size = 0;
    let listed =
        output(Command::new("find").args([".", "-type", "f", "-printf", "%P\\n"]).current_dir(files))?;
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    for name in &names {
        size += fs::metadata(files.join(name))?.len().div_ceil(1024);
        if *name != CONFIGURATION {
            sums.push(output(Command::new("md5sum").arg(name).current_dir(files))?);
        }
    }
    let directory = files.join("DEBIAN");
    let size = size.to_string();
    let text = release.fill("control", &[("SIZE", &size), ("DEPENDS", depends)])?;
    write(&directory.join("control"), text.as_bytes())?;
    write(&directory.join("conffiles"), format!("/{CONFIGURATION}\n").as_bytes())?;
    write(&directory.join("md5sums"), format!("{}\n", sums.join("\n")).as_bytes())?;
    for script in ["postinst", "prerm", "postrm"] {
        let to = directory.join(script);
        write(&to, &fs::read(root().join("packaging/deb").join(script)).context(script)?)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Writes a file that everybody may read, and makes its directories.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).with_context(|| path.display().to_string())
}

/// Makes a directory with those above it, all open to everybody whatever the umask.
fn make_directory(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_directory(above)?;
    }
    fs::create_dir(path).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_licence_becomes_an_indented_field() {
        let text = "MIT License\n\nCopyright (c) 2026 A\n\nPermission is granted\nto all.\n\nNo warranty.\n";
        assert_eq!(paragraph(text), " Permission is granted\n to all.\n .\n No warranty.");
    }

    #[test]
    fn directories_are_open_whatever_the_umask() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b");
        make_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
