//! Where Debian's packages come from on this machine: the mirror and the settings that the machine's own apt uses.

use crate::process::output;
use anyhow::Context;
use std::process::Command;

/// Settings of the machine's apt that hold for the root too: proxies, and how strict it is about dates.
const SETTINGS: &[&str] = &[
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
];

/// A Debian mirror and how to reach it.
#[derive(Debug)]
pub(super) struct Mirror {
    /// Address of the archive, without a slash at the end.
    pub(super) uri: String,
    /// Lines for a file in `apt.conf.d`.
    pub(super) settings: String,
    /// The proxy for programs other than apt.
    pub(super) proxy: Option<String>,
}

impl Mirror {
    /// The mirror in the environment variable `RINGWAY_DEBIAN_MIRROR`, or the one that apt uses.
    pub(super) fn find() -> anyhow::Result<Self> {
        let dump = output(Command::new("apt-config").arg("dump")).context("apt's configuration")?;
        let settings = settings(&dump);
        let proxy = value(&settings, "Acquire::http::Proxy").filter(|proxy| proxy != "DIRECT");
        let uri = match std::env::var("RINGWAY_DEBIAN_MIRROR") {
            Ok(uri) => uri,
            Err(_) => Self::of_apt()?,
        };
        Ok(Self { uri: uri.trim_end_matches('/').to_owned(), settings, proxy })
    }

    fn of_apt() -> anyhow::Result<String> {
        let format = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)";
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Identifier: Packages",
        ]))?;
        debian_archive(&targets, &codename()?)
            .context("apt's sources name no Debian archive; set RINGWAY_DEBIAN_MIRROR to the address of one")
    }
}

/// The codename of this machine's release; `sid` where there is none.
pub(super) fn codename() -> anyhow::Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let found = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(found.unwrap_or("sid").trim_matches('"').to_owned())
}

/// The lines of `apt-config dump` that hold for the root too.
fn settings(dump: &str) -> String {
    let wanted = |line: &&str| SETTINGS.iter().any(|name| line.starts_with(&format!("{name} ")));
    dump.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

fn value(settings: &str, name: &str) -> Option<String> {
    let line = settings.lines().find(|line| line.starts_with(&format!("{name} ")))?;
    let text = line[name.len()..].trim().trim_end_matches(';').trim_matches('"');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The archive that serves the machine's own release: of apt's index targets, the one whose suite is the release's plain
/// codename (security and updates have a suffix) and whose origin, where its lists are there, is Debian.
fn debian_archive(targets: &str, codename: &str) -> Option<String> {
    let rows = targets.lines().filter_map(|line| {
        let mut fields = line.splitn(4, '|');
        Some((fields.next()?, fields.next()?, fields.next()?, fields.next()?))
    });
    let mut fitting = rows.filter(|(origin, release, component, uri)| {
        (*origin == "Debian" || origin.is_empty())
            && (*release == codename || matches!(*release, "stable" | "testing" | "unstable" | "sid"))
            && *component == "main"
            && uri.starts_with("http")
    });
    fitting.next().map(|(_, _, _, uri)| uri.to_owned())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn picks_the_main_archive_among_others() {
        let targets = "Google|cloud-bookworm|main|https://vendor.example/apt/\n\
                       Docker|bookworm|stable|https://docker.example/debian/\n\
                       Debian|bookworm-security|main|http://mirror.example/debian-security/\n\
                       Debian|bookworm|main|http://mirror.example/debian/\n";
        assert_eq!(debian_archive(targets, "bookworm").as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(debian_archive("Ubuntu|noble|main|http://mirror.example/ubuntu/", "noble"), None);
    }

    #[test]
    fn keeps_only_the_settings_that_hold_for_the_root() {
        let dump = "Acquire::http::Proxy \"http://proxy.example:3128\";\nAPT::Architecture \"amd64\";\n\
                    Acquire::Check-Date \"false\";\n";
        let kept = settings(dump);
        assert_eq!(kept.lines().count(), 2);
        assert_eq!(value(&kept, "Acquire::http::Proxy").as_deref(), Some("http://proxy.example:3128"));
        assert_eq!(value(&kept, "Acquire::Retries"), None);
    }
}
