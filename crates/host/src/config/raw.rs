//! The file as written: tables and values with their places, read one field at a time.
//!
//! A [`Reader`] walks the parsed document by hand rather than through a deserializer, so that one mistake does not hide
//! the next: every accessor notes what is wrong and answers `None`, and the walk goes on. The document is parsed with
//! recovery; where it is no TOML, mistakes that may be a mere consequence (a missing field, a name that is not
//! defined, a second complaint about the same line, what stands under a broken table header) are not reported.

use std::collections::BTreeMap;
use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, did_you_mean};

/// Where a value stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Path of the field, such as `port.web.mac`.
    pub(crate) field: String,
    /// Line, counted from 1.
    pub(crate) line: usize,
}

/// A table of the file.
pub(crate) struct Section<'d, 'i> {
    pub(crate) place: Place,
    pub(super) table: &'d DeTable<'i>,
}

impl<'d, 'i> Section<'d, 'i> {
    /// Whether `key` is written in this table.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether `key` is written in this table, and not as an empty array.
    pub(crate) fn says(&self, key: &str) -> bool {
        let nothing = |value: &DeValue<'_>| value.as_array().is_some_and(|array| array.is_empty());
        self.table.get(key).is_some_and(|value| !nothing(value.get_ref()))
    }

    fn entry(&self, key: &str) -> Option<(&'d Spanned<std::borrow::Cow<'i, str>>, &'d Spanned<DeValue<'i>>)> {
        self.table.get_key_value(key)
    }

    /// A key is shown as written, but for characters that would write elsewhere on a terminal.
    fn path_of(&self, key: &str) -> String {
        let key = match key.contains(char::is_control) {
            true => key.escape_debug().collect(),
            false => key.to_owned(),
        };
        if self.place.field.is_empty() { key } else { format!("{}.{key}", self.place.field) }
    }
}

/// Whether the lines of the text mean anything to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    /// It is a file of the operator's.
    Shown,
    /// It was made from something else: mistakes name the field only.
    Hidden,
}

/// Most mistakes that are reported of one file.
pub(crate) const MISTAKES_MAX: usize = 500;

/// Lines of the fields of a file, by path.
pub(crate) type Lines = BTreeMap<String, usize>;

/// Reads fields, collects mistakes and remembers the line of each field.
pub(crate) struct Reader {
    /// Byte offsets at which lines 2, 3, ... begin.
    line_starts: Vec<usize>,
    /// Numbers of the lines that begin with `[`.
    header_lines: Vec<usize>,
    mistakes: Vec<Mistake>,
    lines: Lines,
    /// Lines with a syntax error, and what their tables span; from first to last line.
    damaged: Vec<(usize, usize)>,
    positions: Positions,
}

impl Reader {
    /// Parses `text` and hands its root to `walk`, which reads fields through the reader. Answers with what `walk` made,
    /// the lines of all fields and the mistakes, unordered.
    pub(crate) fn read<T>(
        text: &str,
        positions: Positions,
        walk: impl FnOnce(&mut Reader, &Section<'_, '_>) -> T,
    ) -> (T, Lines, Vec<Mistake>) {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader {
            line_starts: text
                .bytes()
                .enumerate()
                .filter(|(_, c)| *c == b'\n')
                .map(|(at, _)| at + 1)
                .collect(),
            header_lines: (1..)
                .zip(text.lines())
                .filter(|(_, line)| line.trim_start().starts_with('['))
                .map(|(number, _)| number)
                .collect(),
            mistakes: Vec::new(),
            lines: Lines::new(),
            damaged: Vec::new(),
            positions,
        };
        for error in &errors {
            if reader.is_full() {
                break;
            }
            reader.syntax(error);
        }
        let root = Section { place: Place { field: String::new(), line: 1 }, table: document.get_ref() };
        let value = walk(&mut reader, &root);
        if positions == Positions::Hidden {
            reader.lines.clear();
            reader.mistakes.iter_mut().for_each(|mistake| mistake.line = 0);
        }
        (value, reader.lines, reader.mistakes)
    }

    fn syntax(&mut self, error: &toml::de::Error) {
        let line = error.span().map_or(1, |span| self.line_of(span.start));
        let reported = self.mistakes.iter().any(|mistake| mistake.line == line);
        if !reported {
            let what = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            self.mistakes.push(Mistake { line, field: "syntax".into(), what, accepted: "TOML 1.1".into() });
            self.damaged.push((line, self.damage_end(line)));
        }
    }

    /// The last line that a syntax error on `line` makes doubtful: under a broken header, all up to the next header.
    fn damage_end(&self, line: usize) -> usize {
        match self.header_lines.binary_search(&line) {
            Ok(index) => self.header_lines.get(index + 1).map_or(usize::MAX, |next| next - 1),
            Err(_) => line,
        }
    }

    fn is_damaged(&self, line: usize) -> bool {
        self.damaged.iter().any(|(first, last)| (*first..=*last).contains(&line))
    }

    /// Whether more mistakes would be of no use to anybody.
    fn is_full(&self) -> bool {
        self.mistakes.len() >= MISTAKES_MAX
    }

    /// A place in words, for a mistake at another one.
    pub(crate) fn whereabouts(&self, place: &Place) -> String {
        match self.positions {
            Positions::Shown => format!("{} at line {}", place.field, place.line),
            Positions::Hidden => place.field.clone(),
        }
    }

    pub(super) fn line_of(&self, offset: usize) -> usize {
        1 + self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Notes a mistake at `place`.
    pub(crate) fn refuse(&mut self, place: &Place, what: impl Display, accepted: impl Display) {
        if !self.is_full() && !self.is_damaged(place.line) {
            self.mistakes.push(Mistake {
                line: place.line,
                field: place.field.clone(),
                what: what.to_string(),
                accepted: accepted.to_string(),
            });
        }
    }

    /// Notes a mistake that a syntax error elsewhere may have caused; dropped if there is one.
    pub(crate) fn refuse_if_whole(&mut self, place: &Place, what: impl Display, accepted: impl Display) {
        if self.damaged.is_empty() {
            self.refuse(place, what, accepted);
        }
    }

    /// Notes every key of `section` that is not in `known`, nor in `later`, which the caller speaks of.
    pub(crate) fn unknown_keys(&mut self, section: &Section<'_, '_>, known: &[&str], later: &[&str]) {
        for key in section.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) || later.contains(&name) {
                continue;
            }
            let place = Place { field: section.path_of(name), line: self.line_of(key.span().start) };
            let what = match did_you_mean(name, known) {
                Some(word) => format!("unknown key {name:?}, did you mean {word:?}?"),
                None => format!("unknown key {name:?}"),
            };
            self.refuse(&place, what, known.join(", "));
        }
    }

    /// Where `key` is written; the place of its table where it is not.
    pub(crate) fn place_of(&self, section: &Section<'_, '_>, key: &str) -> Place {
        let Some((written, _)) = section.entry(key) else { return section.place.clone() };
        Place { field: section.path_of(key), line: self.line_of(written.span().start) }
    }

    pub(super) fn value<'d, 'i>(
        &mut self,
        section: &Section<'d, 'i>,
        key: &str,
    ) -> Option<(&'d DeValue<'i>, Place)> {
        let (key_span, value) = section.entry(key)?;
        let place = Place { field: section.path_of(key), line: self.line_of(key_span.span().start) };
        self.lines.insert(place.field.clone(), place.line);
        Some((value.get_ref(), place))
    }

    pub(super) fn mistyped(&mut self, place: &Place, value: &DeValue<'_>, expected: &str, accepted: &str) {
        let found = value.type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.refuse(place, format!("is {article} {found}, not {expected}"), accepted);
    }

    /// The table under `key`, if it is there and a table.
    pub(crate) fn table<'d, 'i>(
        &mut self,
        section: &Section<'d, 'i>,
        key: &str,
        accepted: &str,
    ) -> Option<Section<'d, 'i>> {
        let (value, place) = self.value(section, key)?;
        match value {
            DeValue::Table(table) => Some(Section { place, table }),
            other => {
                self.mistyped(&place, other, "a table", accepted);
                None
            }
        }
    }

    /// The named tables under `key` (`[key.NAME]`), in the order of the file.
    pub(crate) fn named_tables<'d, 'i>(
        &mut self,
        root: &Section<'d, 'i>,
        key: &str,
        accepted: &str,
    ) -> Vec<(&'d str, Section<'d, 'i>)> {
        let Some(section) = self.table(root, key, accepted) else { return Vec::new() };
        let mut names: Vec<_> = section.table.keys().collect();
        names.sort_by_key(|name| name.span().start);
        let names = names.into_iter().map(|name| name.get_ref().as_ref());
        names.filter_map(|name| Some((name, self.table(&section, name, accepted)?))).collect()
    }

    /// The string under `key`.
    pub(crate) fn text<'d>(
        &mut self,
        section: &Section<'d, '_>,
        key: &str,
        accepted: &str,
    ) -> Option<(&'d str, Place)> {
        let (value, place) = self.value(section, key)?;
        match value {
            DeValue::String(text) => Some((text.as_ref(), place)),
            other => {
                self.mistyped(&place, other, "a string", accepted);
                None
            }
        }
    }

    /// The string under `key`, converted; what `convert` finds wrong becomes a mistake.
    pub(crate) fn parsed<T>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        accepted: &str,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<(T, Place)> {
        let (text, place) = self.text(section, key, accepted)?;
        match convert(text) {
            Ok(value) => Some((value, place)),
            Err(what) => {
                self.refuse(&place, what, accepted);
                None
            }
        }
    }

    /// The string under `key`, which must be one of `words`.
    pub(crate) fn word<T: Copy>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        words: &[(&str, T)],
    ) -> Option<(T, Place)> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let accepted = names.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        self.parsed(section, key, &accepted, |text| {
            let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            value.ok_or_else(|| match did_you_mean(text, &names) {
                Some(word) => format!("unknown value {text:?}, did you mean {word:?}?"),
                None => format!("unknown value {text:?}"),
            })
        })
    }

    /// The integer under `key`, which must lie in `range`.
    pub(crate) fn integer(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Option<(usize, Place)> {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        let (value, place) = self.value(section, key)?;
        let number = self.number(value, &place, &range, &accepted)?;
        Some((number, place))
    }

    pub(super) fn number(
        &mut self,
        value: &DeValue<'_>,
        place: &Place,
        range: &std::ops::RangeInclusive<usize>,
        accepted: &str,
    ) -> Option<usize> {
        let DeValue::Integer(integer) = value else {
            self.mistyped(place, value, "an integer", accepted);
            return None;
        };
        match usize::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.refuse(place, format!("{integer} is out of range"), accepted);
                None
            }
        }
    }

    /// The boolean under `key`.
    pub(crate) fn boolean(&mut self, section: &Section<'_, '_>, key: &str) -> Option<bool> {
        let (value, place) = self.value(section, key)?;
        match value {
            DeValue::Boolean(value) => Some(*value),
            other => {
                self.mistyped(&place, other, "a boolean", "true or false");
                None
            }
        }
    }
}
