//! Rules about the source text that no compiler lint covers.
//!
//! Every Rust file begins with `//!`, has at most [`LINES_MAX`] lines, holds no marker of unfinished work and no ignored
//! test, and uses `unsafe` only where the threat model allows it.

use anyhow::Context;
use std::path::{Path, PathBuf};

/// Lines in one file; more is a sign that it holds two nouns.
const LINES_MAX: usize = 750;

/// Words of unfinished work. Written in two halves so that this file passes its own rule.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("unimpl", "emented!"),
    concat!("to", "do!("),
];

/// Where `unsafe` may stand.
const UNSAFE_ALLOWED: &[&str] = &["crates/guestmem/", "crates/host/src/sys/"];

/// Directories that hold no source of ours.
const SKIPPED: &[&str] = &["target", ".git", "artifacts", "coverage", "corpus"];

/// Every breach under `root`, one line each: file, line, what is wrong.
pub(crate) fn breaches(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        file_breaches(&name, &text, &mut found);
    }
    Ok(found)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            collect(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn file_breaches(name: &str, text: &str, found: &mut Vec<String>) {
    let first = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        found.push(format!("{name}:1: does not begin with `//!`"));
    }
    let count = text.lines().count();
    if count > LINES_MAX {
        found.push(format!("{name}: {count} lines; at most {LINES_MAX}"));
    }
    let unsafe_allowed = UNSAFE_ALLOWED.iter().any(|prefix| name.starts_with(prefix));
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
            found.push(format!("{name}:{number}: {word}: unfinished work belongs in an issue"));
        }
        if line.trim_start().starts_with("#[ignore") {
            found.push(format!("{name}:{number}: an ignored test"));
        }
        let code = line.split("//").next().unwrap_or(line);
        if !unsafe_allowed
            && ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|u| has_word(code, u))
        {
            found.push(format!("{name}:{number}: `unsafe` outside {}", UNSAFE_ALLOWED.join(", ")));
        }
    }
}

/// Whether `word` stands in `line` with no letter, digit or quote just before it.
fn has_word(line: &str, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
    line.match_indices(word).any(|(at, _)| {
        let after = &line[at + word.len()..];
        !line[..at].ends_with(joins) && (word.ends_with(['{', '!', '(']) || !after.starts_with(joins))
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn check(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        file_breaches(name, text, &mut found);
        found
    }

    #[test]
    fn a_tidy_file_passes() {
        assert!(check("crates/a/src/lib.rs", "//! A.\nfn a() {}\n").is_empty());
        assert!(check("fuzz/fuzz_targets/ring.rs", "#![no_main]\n//! Fuzzes rings.\n").is_empty());
    }

    #[test]
    fn names_each_breach_with_its_line() {
        let text = format!("fn a() {{}}\n// {}: later\n#[ignore]\n", UNFINISHED[0]);
        let found = check("crates/a/src/lib.rs", &text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[1].starts_with("crates/a/src/lib.rs:2: "));
    }

    #[test]
    fn unsafe_stands_only_where_allowed() {
        let text = "//! A.\nfn a() { unsafe { b() } }\n";
        assert_eq!(check("crates/switch/src/lib.rs", text).len(), 1);
        assert!(check("crates/guestmem/src/copy.rs", text).is_empty());
        assert!(check("crates/switch/src/lib.rs", "//! A.\n// unsafe { } in a comment\n").is_empty());
    }

    #[test]
    fn long_files_are_named() {
        let text = "//! A.\n".repeat(LINES_MAX + 1);
        assert_eq!(check("a.rs", &text).len(), 1);
    }
}
