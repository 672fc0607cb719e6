//! `KEY=VALUE` words of the command line as the JSON that the control API takes.
//!
//! Keys are those of the configuration file; a dot goes into a table (`vhost-user.socket=/run/web.sock`). A value is read as
//! TOML if it is TOML (`100`, `false`, `["10.0.0.5"]`), else it is text (`52:54:00:00:00:01`). `KEY=` removes the key.

use serde_json::{Map, Value};

/// Most tables within each other.
const DEPTH_MAX: usize = 3;

/// What an empty value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    /// The key goes.
    Removes,
    /// A mistake: there is nothing to remove.
    Refused,
}

/// All pairs as one object.
pub(crate) fn object(pairs: &[String], empty: Empty) -> anyhow::Result<Value> {
    let mut object = Map::new();
    for pair in pairs {
        let Some((key, text)) = pair.split_once('=') else {
            anyhow::bail!("{pair:?} is no KEY=VALUE, such as mtu=1500 or rate-limit.broadcast=100");
        };
        let path: Vec<&str> = key.split('.').collect();
        anyhow::ensure!(
            path.len() <= DEPTH_MAX && path.iter().all(|part| !part.is_empty()),
            "{key:?} is no key; accepted: a key of the configuration file, such as mtu or rate-limit.broadcast"
        );
        anyhow::ensure!(
            empty == Empty::Removes || !text.is_empty(),
            "{pair:?} has no value, and there is nothing to remove; for an empty text write {key}='\"\"'"
        );
        let value = if text.is_empty() { Value::Null } else { value(text) };
        put(&mut object, &path, value).map_err(|()| anyhow::anyhow!("{key:?} is given twice"))?;
    }
    Ok(Value::Object(object))
}

fn put(object: &mut Map<String, Value>, path: &[&str], value: Value) -> Result<(), ()> {
    match path {
        [] => Err(()),
        [key] => match object.insert((*key).to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(()),
        },
        [table, rest @ ..] => {
            let table = object.entry(*table).or_insert_with(|| Value::Object(Map::new()));
            put(table.as_object_mut().ok_or(())?, rest, value)
        }
    }
}

fn value(text: &str) -> Value {
    let read = text.parse::<toml::Value>().ok().and_then(json);
    read.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// `None`: there is no such thing in JSON, so it is rather meant as text.
fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)?.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(values) => values.into_iter().map(json).collect::<Option<Value>>()?,
        toml::Value::Table(table) => {
            let pairs = table.into_iter().map(|(key, value)| Some((key, json(value)?)));
            Value::Object(pairs.collect::<Option<Map<_, _>>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(pairs: &[&str]) -> Result<Value, String> {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        object(&pairs, Empty::Removes).map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_become_the_tables_of_the_file() {
        let words =
            ["switch=lan", "vhost-user.socket=/tmp/rw/web.sock", "vhost-user.queue-pairs=2", "mtu=1500"];
        let table = json!({
            "switch": "lan", "vhost-user": {"socket": "/tmp/rw/web.sock", "queue-pairs": 2}, "mtu": 1500
        });
        assert_eq!(read(&words), Ok(table));
    }

    #[test]
    fn values_are_toml_or_else_text() {
        for (text, expected) in [
            ("100", json!(100)),
            ("false", json!(false)),
            ("52:54:00:00:00:01", json!("52:54:00:00:00:01")),
            ("10:20:30", json!("10:20:30")),
            ("2026-01-01", json!("2026-01-01")),
            ("nan", json!("nan")),
            ("[inf]", json!("[inf]")),
            ("10.0.0.5", json!("10.0.0.5")),
            ("/run/a=b.sock", json!("/run/a=b.sock")),
            ("\"10\"", json!("10")),
            ("[10, \"20-30\"]", json!([10, "20-30"])),
            ("{ access = 10 }", json!({"access": 10})),
            ("1\nx = 2", json!("1\nx = 2")),
            ("5m", json!("5m")),
            ("\"\"", json!("")),
        ] {
            assert_eq!(read(&[&format!("key={text}")]), Ok(json!({ "key": expected })), "{text}");
        }
    }

    #[test]
    fn an_empty_value_removes_or_is_refused() {
        assert_eq!(
            read(&["mac=", "rate-limit.broadcast="]),
            Ok(json!({"mac": null, "rate-limit": {"broadcast": null}}))
        );
        let refused = object(&["mac=".into()], Empty::Refused).expect_err("refused").to_string();
        assert!(refused.contains("nothing to remove"), "{refused}");
    }

    #[test]
    fn strange_pairs_are_refused() {
        for (words, says) in [
            (&["mtu"][..], "no KEY=VALUE"),
            (&["=5"], "is no key"),
            (&["a..b=5"], "is no key"),
            (&[".a=5"], "is no key"),
            (&["a.b.c.d=5"], "is no key"),
            (&["mtu=1", "mtu=2"], "given twice"),
            (&["vlan=1", "vlan.access=2"], "given twice"),
            (&["vlan.access=2", "vlan=1"], "given twice"),
        ] {
            let error = read(words).expect_err("refused");
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }
}
