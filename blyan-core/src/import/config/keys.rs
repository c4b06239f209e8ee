//! Owns the reading of keys: which have been read, of what type, and which are left over.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::import::error::ImportError;
use crate::import::json::shortened;

/// Largest number accepted where a count or size is expected.
pub(super) const MAX_COUNT: u64 = 1 << 24;

/// An object of a JSON file that remembers which keys were asked for.
pub(super) struct Keys<'a> {
    file: &'a str,
    /// Path of this object in the file, with a dot at the end unless it is the whole.
    path: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, path: String::new(), map, read: RefCell::default() }
    }

    /// The object under `key`.
    pub(super) fn child(&self, key: &str, map: &'a Map<String, Value>) -> Self {
        Self { file: self.file, path: format!("{}{key}.", self.path), map, read: RefCell::default() }
    }

    /// Path of a key, for errors.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// The value, if the key is there at all; marks it as read.
    pub(super) fn raw(&self, key: &str) -> Option<&'a Value> {
        let value = self.map.get(key)?;
        self.read.borrow_mut().insert(key.to_owned());
        Some(value)
    }

    /// The value, unless it is absent or null; marks the key as read.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|value| !value.is_null())
    }

    pub(super) fn invalid(&self, key: &str, value: &Value, expected: &'static str) -> ImportError {
        ImportError::InvalidValue {
            file: self.file.to_owned(),
            key: self.path(key),
            value: shortened(value),
            expected,
        }
    }

    pub(super) fn unsupported(&self, key: &str, value: &Value, reason: &'static str) -> ImportError {
        ImportError::Unsupported { key: self.path(key), value: shortened(value), reason }
    }

    pub(super) fn missing(&self, key: &str) -> ImportError {
        ImportError::MissingKey { key: self.path(key) }
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(key, value, "a string"))
    }

    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool, ImportError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.invalid(key, value, "true or false"))
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().filter(|&count| count <= MAX_COUNT);
        count
            .and_then(|count| usize::try_from(count).ok())
            .map(Some)
            .ok_or_else(|| self.invalid(key, value, "a whole number of at most 16777216"))
    }

    pub(super) fn required_count(&self, key: &str) -> Result<usize, ImportError> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.invalid(key, value, "a number"))
    }

    /// Two spellings of one count; both may be there if they agree.
    pub(super) fn count_of(&self, key: &str, other: &str) -> Result<Option<usize>, ImportError> {
        match (self.count(key)?, self.count(other)?) {
            (Some(a), Some(b)) if a != b => Err(self.conflict(key, a, other, b)),
            (a, b) => Ok(a.or(b)),
        }
    }

    pub(super) fn conflict(
        &self,
        key: &str,
        value: impl ToString,
        other: &str,
        other_value: impl ToString,
    ) -> ImportError {
        ImportError::ConflictingKeys {
            key: self.path(key),
            value: value.to_string(),
            other: self.path(other),
            other_value: other_value.to_string(),
        }
    }

    /// A token id; Python code writes −1 for none.
    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, ImportError> {
        let Some(value) = self.get(key).filter(|value| value.as_i64() != Some(-1)) else { return Ok(None) };
        token(value).map(Some).ok_or_else(|| self.invalid(key, value, "a token id"))
    }

    /// A token id or a list of them, ascending, each once.
    pub(super) fn tokens(&self, key: &str) -> Result<Vec<u32>, ImportError> {
        let Some(value) = self.get(key).filter(|value| value.as_i64() != Some(-1)) else { return Ok(vec![]) };
        let ids: Option<BTreeSet<u32>> = match value {
            Value::Array(ids) => ids.iter().map(token).collect(),
            id => token(id).map(|id| BTreeSet::from([id])),
        };
        let ids = ids.ok_or_else(|| self.invalid(key, value, "a token id or a list of token ids"))?;
        Ok(ids.into_iter().collect())
    }

    /// A list of layer indices.
    pub(super) fn indices(&self, key: &str) -> Result<BTreeSet<u64>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(BTreeSet::new()) };
        let counts = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
        counts.ok_or_else(|| self.invalid(key, value, "a list of whole numbers"))
    }

    /// A list of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let strings = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        strings.map(Some).ok_or_else(|| self.invalid(key, value, "a list of strings"))
    }

    /// Refuses the first key that nobody asked for, unless it is known to be harmless, named in
    /// `ignored`, or null or false, which is how a feature that is not used is written; among the outermost keys,
    /// empty lists and objects are no features either.
    pub(super) fn refuse_unknown(
        &self,
        harmless: impl Fn(&str) -> bool,
        ignored: &[String],
    ) -> Result<(), ImportError> {
        let read = self.read.borrow();
        let unknown = self.map.iter().find(|(key, value)| {
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty() && self.path(key) == **key,
                Value::Object(fields) => fields.is_empty() && self.path(key) == **key,
                _ => false,
            };
            !off && !read.contains(*key) && !harmless(key) && !ignored.contains(&self.path(key))
        });
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                Err(ImportError::UnknownKey { key: self.path(key), value: shortened(value) })
            }
        }
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
