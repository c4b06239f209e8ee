//! Owns the reading of JSON from outside: capped, and with repeated keys refused, because readers
//! disagree on which of them counts.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::ImportError;

/// A [`Value`] none of whose objects has a key twice.
struct Strict(Value);

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Strict(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
        let mut values = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            let repeated = values.insert(key.clone(), value).is_some();
            if repeated {
                return Err(serde::de::Error::custom(format_args!("the key {key:?} stands there twice")));
            }
        }
        Ok(Strict(Value::Object(values)))
    }
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

/// Reads an object. `file` names it in errors.
pub(super) fn object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, ImportError> {
    let json = |reason: String| ImportError::Json { file: file.to_owned(), reason };
    match serde_json::from_slice(bytes) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) => Err(json("expected an object".to_owned())),
        Err(error) => Err(json(error.to_string())),
    }
}

/// A value cut to a length that fits an error message.
pub(super) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_refused_at_any_depth() {
        let read = |text: &str| object("x.json", text.as_bytes());
        assert_eq!(read(r#"{"a":[1,-1,1.5,"b",null,true,{}]}"#).unwrap().len(), 1);
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#, "[]", "{", "{}x", ""] {
            assert!(matches!(read(bad), Err(ImportError::Json { .. })), "{bad}");
        }
        assert!(read(&format!("{{\"a\":{}", "[".repeat(1 << 20))).is_err());
    }
}
