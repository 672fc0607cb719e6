//! The dependency law: which of our crates may use which.
//!
//! `host` may use all; `devices` and `transport` use `virtqueue` and `guestmem`; `virtqueue` uses `guestmem`;
//! `switch`, `openflow` and `guestmem` use none of ours. Tests may use more, so only `[dependencies]` counts.

use anyhow::Context;
use std::path::Path;

/// A crate under `crates/` and those of ours that it may use.
const LAW: &[(&str, &[&str])] = &[
    ("guestmem", &[]),
    ("switch", &[]),
    ("openflow", &[]),
    ("virtqueue", &["guestmem"]),
    ("devices", &["virtqueue", "guestmem"]),
    ("transport", &["virtqueue", "guestmem"]),
    ("host", &["guestmem", "virtqueue", "devices", "switch", "transport", "openflow"]),
];

/// Every breach of the law under `root`, one sentence each.
pub(crate) fn breaches(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let crates = root.join("crates");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&crates).context("crates")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in &names {
        let path = crates.join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let table: toml::Table = text.parse().with_context(|| path.display().to_string())?;
        let Some((_, allowed)) = LAW.iter().find(|(law, _)| law == name) else {
            found.push(format!("crates/{name}: no line in the dependency law (xtask/src/law.rs)"));
            continue;
        };
        found.extend(crate_breaches(name, &table, allowed));
    }
    Ok(found)
}

fn crate_breaches(name: &str, manifest: &toml::Table, allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let ours = LAW.iter().map(|(law, _)| *law);
    if let Some(dependencies) = manifest.get("dependencies").and_then(toml::Value::as_table) {
        for other in ours.filter(|other| dependencies.contains_key(*other) && !allowed.contains(other)) {
            found.push(format!("crates/{name}: may not depend on {other}"));
        }
    }
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        found.push(format!("crates/{name}: lacks `[lints] workspace = true`"));
    }
    found
}

#[cfg(test)]
mod test {
    use super::*;

    fn manifest(text: &str) -> toml::Table {
        text.parse().expect("a manifest")
    }

    #[test]
    fn finds_a_forbidden_dependency() {
        let table = manifest(
            "[dependencies]\nswitch.workspace = true\nguestmem.workspace = true\n[lints]\nworkspace = true",
        );
        let found = crate_breaches("transport", &table, &["virtqueue", "guestmem"]);
        assert_eq!(found, ["crates/transport: may not depend on switch"]);
    }

    #[test]
    fn test_dependencies_are_free() {
        let table = manifest("[dev-dependencies]\nswitch.workspace = true\n[lints]\nworkspace = true");
        assert!(crate_breaches("guestmem", &table, &[]).is_empty());
    }

    #[test]
    fn missing_lints_are_a_breach() {
        assert_eq!(crate_breaches("switch", &manifest(""), &[]).len(), 1);
    }
}
