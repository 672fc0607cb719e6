//! The configuration as a document that the control API edits.
//!
//! A [`Document`] is the tables of a file, with every key as the operator wrote it and no default filled in; comments are
//! not kept. An edit makes a new one. Whether it is any good is not decided here: [`Document::check`] writes it down as
//! TOML and has it read by the steps that read a file, so there is one judge of what is accepted. Nobody has seen the
//! lines of that text, so mistakes name the field alone.

mod json;

use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::{Table, Value as TomlValue};

use super::{ConfigError, FILE_BYTES_MAX, Loaded, Mistake, raw};

/// An editable configuration; see the module head.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    root: Table,
    file: PathBuf,
}

impl Document {
    /// A document without any key. `file` is named in mistakes, and relative paths start from its directory.
    pub fn empty(file: &Path) -> Document {
        Document { root: Table::new(), file: file.to_path_buf() }
    }

    /// Reads a file. A file that is no TOML is refused; for other mistakes see [`Self::check`].
    pub fn load(file: &Path) -> Result<Document, ConfigError> {
        Document::parse(&super::read(file)?, file)
    }

    /// Reads a text; see [`Self::load`] and [`Self::empty`].
    pub fn parse(text: &str, file: &Path) -> Result<Document, ConfigError> {
        match text.parse::<Table>() {
            Ok(root) => Ok(Document { root, file: file.to_path_buf() }),
            // The reader of files says where, and finds what else is wrong.
            Err(error) => match super::parse(text, file) {
                Err(mistakes) => Err(mistakes),
                Ok(_) => Err(ConfigError::whole_file(file, error.message().to_owned(), "TOML 1.1")),
            },
        }
    }

    /// All keys as JSON. Dates, infinities and NaN, which no key takes, become strings.
    pub fn to_json(&self) -> Value {
        json::of_table(&self.root)
    }

    /// A document of the keys in `value`, which must be an object. It belongs to no file: mistakes say `configuration`, and
    /// relative paths start from the working directory.
    pub fn from_json(value: Value) -> Result<Document, ConfigError> {
        Document::empty(Path::new("configuration")).replaced(value)
    }

    /// The document of the same file with the keys in `value`, which must be an object, in place of its own.
    pub fn replaced(&self, value: Value) -> Result<Document, ConfigError> {
        let root = json::table(&value, "").map_err(|mistakes| self.error(mistakes))?;
        Ok(Document { root, file: self.file.clone() })
    }

    /// All keys as TOML, in the order in which they were written or added.
    pub fn to_toml(&self) -> String {
        self.root.to_string()
    }

    /// Reads the document as a file is read. Mistakes have line 0.
    pub fn check(&self) -> Result<Loaded, ConfigError> {
        let text = self.to_toml();
        if text.len() as u64 > FILE_BYTES_MAX {
            let what = format!("is larger than {FILE_BYTES_MAX} bytes");
            return Err(ConfigError::whole_file(&self.file, what, "a smaller configuration"));
        }
        super::check(&text, &self.file, raw::Positions::Hidden)
    }

    /// Whether there is a thing of that name; `kind` is `port`, `switch` or `disk`.
    pub fn has(&self, kind: &str, name: &str) -> bool {
        self.root.get(kind).and_then(TomlValue::as_table).is_some_and(|table| table.contains_key(name))
    }

    /// With the port `name`, new or in place of the one of that name. `value` is an object with the keys of the file.
    pub fn with_port(&self, name: &str, value: Value) -> Result<Document, ConfigError> {
        self.with("port", name, &value)
    }

    /// With other keys of the port `name`. A key of `patch` replaces that of the port, `null` removes it; the keys of a
    /// table (such as `rate-limit`) are replaced and removed one by one.
    pub fn merge_port(&self, name: &str, patch: Value) -> Result<Document, ConfigError> {
        self.merge("port", name, &patch)
    }

    /// Without the port `name`, if there is one.
    pub fn without_port(&self, name: &str) -> Document {
        self.without("port", name)
    }

    /// With the switch `name`; as [`Self::with_port`].
    pub fn with_switch(&self, name: &str, value: Value) -> Result<Document, ConfigError> {
        self.with("switch", name, &value)
    }

    /// With other keys of the switch `name`; as [`Self::merge_port`].
    pub fn merge_switch(&self, name: &str, patch: Value) -> Result<Document, ConfigError> {
        self.merge("switch", name, &patch)
    }

    /// Without the switch `name`, if there is one. Ports that are left on it are mistakes of [`Self::check`].
    pub fn without_switch(&self, name: &str) -> Document {
        self.without("switch", name)
    }

    /// With the disk `name`; as [`Self::with_port`].
    pub fn with_disk(&self, name: &str, value: Value) -> Result<Document, ConfigError> {
        self.with("disk", name, &value)
    }

    /// With other keys of the disk `name`; as [`Self::merge_port`].
    pub fn merge_disk(&self, name: &str, patch: Value) -> Result<Document, ConfigError> {
        self.merge("disk", name, &patch)
    }

    /// Without the disk `name`, if there is one.
    pub fn without_disk(&self, name: &str) -> Document {
        self.without("disk", name)
    }

    fn with(&self, section: &str, name: &str, value: &Value) -> Result<Document, ConfigError> {
        let table =
            json::table(value, &format!("{section}.{name}")).map_err(|mistakes| self.error(mistakes))?;
        let mut document = self.clone();
        document.section(section)?.insert(name.to_owned(), TomlValue::Table(table));
        Ok(document)
    }

    fn merge(&self, section: &str, name: &str, patch: &Value) -> Result<Document, ConfigError> {
        let mut document = self.clone();
        let field = format!("{section}.{name}");
        let Some(TomlValue::Table(table)) = document.section(section)?.get_mut(name) else {
            return Err(self.absent(section, name));
        };
        json::merge(table, patch, &field).map_err(|mistakes| self.error(mistakes))?;
        Ok(document)
    }

    fn without(&self, section: &str, name: &str) -> Document {
        let mut document = self.clone();
        if let Some(TomlValue::Table(table)) = document.root.get_mut(section) {
            table.remove(name);
        }
        document
    }

    /// The table of all ports, all switches or all disks.
    fn section(&mut self, section: &str) -> Result<&mut Table, ConfigError> {
        let entry = self.root.entry(section).or_insert_with(|| TomlValue::Table(Table::new()));
        let TomlValue::Table(table) = entry else {
            let what = format!("is no table of {section} tables");
            let accepted = format!("tables such as [{section}.lan]");
            let mistake = Mistake { line: 0, field: section.into(), what, accepted };
            return Err(ConfigError::new(&self.file, vec![mistake]));
        };
        Ok(table)
    }

    fn absent(&self, section: &str, name: &str) -> ConfigError {
        let what = format!("there is no {section} {name:?}");
        let accepted = format!("the name of a {section} of the configuration");
        self.error(vec![Mistake { line: 0, field: format!("{section}.{name}"), what, accepted }])
    }

    fn error(&self, mistakes: Vec<Mistake>) -> ConfigError {
        ConfigError::new(&self.file, mistakes)
    }
}
