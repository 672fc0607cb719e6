//! JSON from the network to TOML, and back: bounded in depth and size, and nothing is taken that TOML cannot say.

use serde_json::{Map, Number, Value};
use toml::{Table, Value as TomlValue};

use crate::config::{FILE_BYTES_MAX, Mistake};

/// Deepest nesting of tables and arrays. The deepest key that there is stands at 6: port, its name, fdb, the entry, its
/// key, the value.
const DEPTH_MAX: usize = 16;
/// Characters of a key that are shown, so that a mistake stays short.
const STEP_CHARS_MAX: usize = 64;
/// Most mistakes that are reported.
const MISTAKES_MAX: usize = 100;

/// A table as JSON.
pub(super) fn of_table(table: &Table) -> Value {
    Value::Object(table.iter().map(|(key, value)| (key.clone(), of_value(value))).collect::<Map<_, _>>())
}

fn of_value(value: &TomlValue) -> Value {
    match value {
        TomlValue::String(text) => Value::String(text.clone()),
        TomlValue::Integer(number) => Value::Number((*number).into()),
        TomlValue::Float(number) => {
            Number::from_f64(*number).map_or_else(|| Value::String(number.to_string()), Value::Number)
        }
        TomlValue::Boolean(truth) => Value::Bool(*truth),
        TomlValue::Datetime(moment) => Value::String(moment.to_string()),
        TomlValue::Array(array) => Value::Array(array.iter().map(of_value).collect()),
        TomlValue::Table(table) => of_table(table),
    }
}

/// The object that `value` is, as a table; `field` is its place.
pub(super) fn table(value: &Value, field: &str) -> Result<Table, Vec<Mistake>> {
    let mut conversion = Conversion::new(field);
    let table = conversion.table(value);
    conversion.finish(table)
}

/// Changes `table`, whose place is `field`, by a patch: `null` removes a key, and tables are merged one level deep.
pub(super) fn merge(table: &mut Table, patch: &Value, field: &str) -> Result<(), Vec<Mistake>> {
    let mut conversion = Conversion::new(field);
    let merged = conversion.merge(table, patch);
    conversion.finish(merged)
}

struct Conversion {
    field: String,
    depth: usize,
    /// Bytes that may still be taken.
    budget: usize,
    mistakes: Vec<Mistake>,
}

impl Conversion {
    fn new(field: &str) -> Conversion {
        Conversion {
            field: field.to_owned(),
            depth: 0,
            budget: FILE_BYTES_MAX as usize,
            mistakes: Vec::new(),
        }
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Mistake>> {
        match value {
            Some(value) if self.mistakes.is_empty() => Ok(value),
            _ => Err(self.mistakes),
        }
    }

    /// Notes a mistake at the present place.
    fn refuse(&mut self, what: &str, accepted: &str) {
        if self.mistakes.len() < MISTAKES_MAX {
            let field = if self.field.is_empty() { "file" } else { &self.field };
            let (what, accepted) = (what.into(), accepted.into());
            self.mistakes.push(Mistake { line: 0, field: field.into(), what, accepted });
        }
    }

    /// Does `read` at a place below the present one.
    fn below<T>(&mut self, step: &str, read: impl FnOnce(&mut Conversion) -> Option<T>) -> Option<T> {
        let len = self.field.len();
        if len > 0 && !step.starts_with('[') {
            self.field.push('.');
        }
        self.field.extend(step.chars().take(STEP_CHARS_MAX).flat_map(char::escape_debug));
        self.depth += 1;
        let value = if self.depth > DEPTH_MAX {
            self.refuse("is nested too deeply", "tables and arrays at most 16 deep");
            None
        } else {
            read(self)
        };
        self.depth -= 1;
        self.field.truncate(len);
        value
    }

    /// Takes so many bytes from the budget.
    fn spend(&mut self, bytes: usize) -> Option<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Some(())
            }
            None => {
                let told = self.mistakes.iter().any(|mistake| mistake.what == TOO_LARGE);
                if !told {
                    self.refuse(TOO_LARGE, "a configuration of at most 4 MiB");
                }
                None
            }
        }
    }

    fn table(&mut self, value: &Value) -> Option<Table> {
        let Value::Object(object) = value else {
            let what = format!("is {}, not an object", kind(value));
            self.refuse(&what, "an object with the keys of the configuration file");
            return None;
        };
        let mut table = Table::new();
        for (key, value) in object {
            self.spend(key.len() + 1)?;
            if let Some(value) = self.below(key, |conversion| conversion.value(value)) {
                table.insert(key.clone(), value);
            }
        }
        Some(table)
    }

    fn value(&mut self, value: &Value) -> Option<TomlValue> {
        self.spend(1)?;
        match value {
            Value::Null => {
                self.refuse("is null", "a value, or the key left out for its default");
                None
            }
            Value::Bool(truth) => Some(TomlValue::Boolean(*truth)),
            Value::Number(number) => self.number(number),
            Value::String(text) => {
                self.spend(text.len())?;
                Some(TomlValue::String(text.clone()))
            }
            Value::Array(array) => {
                let mut elements = Vec::new();
                for (index, element) in array.iter().enumerate() {
                    elements.push(self.below(&format!("[{index}]"), |conversion| conversion.value(element))?);
                }
                Some(TomlValue::Array(elements))
            }
            Value::Object(_) => self.table(value).map(TomlValue::Table),
        }
    }

    fn number(&mut self, number: &Number) -> Option<TomlValue> {
        if let Some(integer) = number.as_i64() {
            return Some(TomlValue::Integer(integer));
        }
        match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => Some(TomlValue::Float(float)),
            None => {
                self.refuse(&format!("{number} is out of range"), "a number that TOML can say");
                None
            }
        }
    }

    fn merge(&mut self, table: &mut Table, patch: &Value) -> Option<()> {
        let Value::Object(patch) = patch else {
            // An object is missing: the mistake is the same.
            return self.table(patch).map(|_| ());
        };
        for (key, change) in patch {
            match change {
                Value::Null => {
                    table.remove(key);
                }
                Value::Object(inner) if self.depth == 0 => {
                    let mut merged = match table.get(key) {
                        Some(TomlValue::Table(present)) => present.clone(),
                        _ => Table::new(),
                    };
                    self.below(key, |conversion| conversion.merge(&mut merged, change))?;
                    if merged.is_empty() && !inner.is_empty() {
                        table.remove(key);
                    } else {
                        table.insert(key.clone(), TomlValue::Table(merged));
                    }
                }
                _ => {
                    self.spend(key.len())?;
                    if let Some(value) = self.below(key, |conversion| conversion.value(change)) {
                        table.insert(key.clone(), value);
                    }
                }
            }
        }
        Some(())
    }
}

const TOO_LARGE: &str = "is too large";

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
