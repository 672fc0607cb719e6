//! A mistake in a configuration, and how a list of them is printed: file, line, field, what is wrong, what is accepted.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One mistake of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Line of the file, counted from 1; 0 when the mistake concerns the whole file.
    pub line: usize,
    /// Path of the field, for instance `port.web.mac`; `syntax` where the text is no TOML.
    pub field: String,
    /// What is wrong, with the value as written.
    pub what: String,
    /// What is accepted in its place.
    pub accepted: String,
}

/// A configuration that cannot be used: every mistake found (of a text, the first 500), ordered by line. Its `Display` prints one line a mistake:
/// `FILE:LINE: FIELD: WHAT; accepted: ACCEPTED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// The mistakes; never empty.
    pub mistakes: Vec<Mistake>,
}

impl ConfigError {
    /// Orders `mistakes` by line and ties them to `file`.
    pub fn new(file: &Path, mut mistakes: Vec<Mistake>) -> ConfigError {
        mistakes.sort_by(|a, b| (a.line, &a.field).cmp(&(b.line, &b.field)));
        ConfigError { file: file.to_path_buf(), mistakes }
    }

    /// A mistake about the file as a whole.
    pub fn whole_file(file: &Path, what: String, accepted: &str) -> ConfigError {
        let mistake = Mistake { line: 0, field: "file".into(), what, accepted: accepted.into() };
        ConfigError::new(file, vec![mistake])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file.display())?;
            if mistake.line > 0 {
                write!(f, "{}:", mistake.line)?;
            }
            write!(f, " {}: {}; accepted: {}", mistake.field, mistake.what, mistake.accepted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The word of `known` that `written` was probably meant to be: at most a third of its letters differ.
pub(crate) fn did_you_mean<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    const WORD_LEN_MAX: usize = 32;
    if written.len() > WORD_LEN_MAX {
        return None;
    }
    let near = known.iter().map(|word| (edit_distance(written, word), *word)).min()?;
    (near.0 <= (written.len() / 3).max(1)).then_some(near.1)
}

/// Levenshtein distance in bytes; an exchange of two neighbours counts as two.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_proposed_and_far_ones_are_not() {
        let known = ["queue-pairs", "socket", "mode"];
        assert_eq!(did_you_mean("queue_pairs", &known), Some("queue-pairs"));
        assert_eq!(did_you_mean("sokcet", &known), Some("socket"));
        assert_eq!(did_you_mean("mod", &known), Some("mode"));
        assert_eq!(did_you_mean("colour", &known), None);
        assert_eq!(did_you_mean(&"x".repeat(100_000), &known), None);
    }

    #[test]
    fn mistakes_are_printed_in_the_order_of_lines() {
        let at = |line, field: &str| Mistake {
            line,
            field: field.into(),
            what: "wrong".into(),
            accepted: "right".into(),
        };
        let error = ConfigError::new(Path::new("r.toml"), vec![at(9, "b"), at(2, "c"), at(0, "file")]);
        assert_eq!(
            error.to_string(),
            "r.toml: file: wrong; accepted: right\nr.toml:2: c: wrong; accepted: right\n\
             r.toml:9: b: wrong; accepted: right"
        );
    }
}
