//! Owns typed access to the metadata: which keys were read, and which are left over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::error::GgufError;
use super::header::{List, Value};

/// Largest number accepted where a count or size is expected.
const MAX_COUNT: u64 = 1 << 24;

/// The metadata of a model, of which the keys that were asked for are remembered.
pub(super) struct Metadata<'a> {
    map: &'a BTreeMap<String, Value>,
    read: RefCell<BTreeSet<String>>,
    ignored: &'a [String],
}

impl<'a> Metadata<'a> {
    /// `ignored` are keys that count as absent wherever they ask for what is not supported.
    pub(super) fn new(map: &'a BTreeMap<String, Value>, ignored: &'a [String]) -> Self {
        Self { map, read: RefCell::default(), ignored }
    }

    /// The value, if the key is there and not ignored; marks it as read.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|_| !self.ignored.iter().any(|ignored| ignored == key))
    }

    /// Marks a key as read whose value changes nothing.
    pub(super) fn skip(&self, key: &str) {
        self.read.borrow_mut().insert(key.to_owned());
    }

    /// Keys that start with `prefix`.
    pub(super) fn keys(&self, prefix: &str) -> impl Iterator<Item = &'a str> {
        let prefix = prefix.to_owned();
        let after = self.map.range(prefix.clone()..);
        after.map(|(key, _)| key.as_str()).take_while(move |key| key.starts_with(&prefix))
    }

    pub(super) fn invalid(&self, key: &str, value: &Value, expected: impl Into<String>) -> GgufError {
        GgufError::InvalidValue { key: key.to_owned(), value: value.shortened(), expected: expected.into() }
    }

    pub(super) fn unsupported(&self, key: &str, value: &Value, reason: &'static str) -> GgufError {
        GgufError::Unsupported { key: key.to_owned(), value: value.shortened(), reason }
    }

    pub(super) fn missing(&self, key: &str) -> GgufError {
        GgufError::MissingKey { key: key.to_owned() }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(value) => Err(self.invalid(key, value, "a text")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.invalid(key, value, "true or false")),
        }
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.get(key).map(|value| self.count_in(key, value)).transpose()
    }

    fn count_in(&self, key: &str, value: &Value) -> Result<usize, GgufError> {
        let count = match *value {
            Value::Unsigned(count) => Some(count),
            Value::Signed(count) => u64::try_from(count).ok(),
            _ => None,
        };
        count
            .filter(|&count| count <= MAX_COUNT)
            .and_then(|count| usize::try_from(count).ok())
            .ok_or_else(|| self.invalid(key, value, "a whole number of at most 16777216"))
    }

    pub(super) fn required_count(&self, key: &str) -> Result<usize, GgufError> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// One count for each of `layers` layers, which a file writes once if they are equal.
    pub(super) fn counts(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::List(List::Integers(counts))) => {
                if counts.len() != layers {
                    return Err(self.invalid(key, value, format!("a number for each of {layers} layers")));
                }
                let counts = counts.iter().map(|&count| self.count_in(key, &Value::Signed(count)));
                counts.collect::<Result<_, _>>().map(Some)
            }
            Some(value) => Ok(Some(vec![self.count_in(key, value)?; layers])),
        }
    }

    /// As [`Self::counts`], of something that has to be equal in all layers.
    pub(super) fn equal_counts(&self, key: &str, layers: usize) -> Result<Option<usize>, GgufError> {
        let Some(counts) = self.counts(key, layers)? else { return Ok(None) };
        match (counts.first(), self.get(key)) {
            (Some(first), Some(value)) if counts.iter().any(|count| count != first) => {
                Err(self.unsupported(key, value, "it has to be equal in all layers"))
            }
            (first, _) => Ok(first.copied()),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.get(key)
            .map(|value| number(value).ok_or_else(|| self.invalid(key, value, "a finite number")))
            .transpose()
    }

    /// A token id; all ones stand for none.
    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let token = match *value {
            Value::Unsigned(token) => u32::try_from(token).ok(),
            Value::Signed(-1) => Some(u32::MAX),
            Value::Signed(token) => u32::try_from(token).ok(),
            _ => None,
        };
        let token = token.ok_or_else(|| self.invalid(key, value, "a token id"))?;
        Ok(Some(token).filter(|&token| token != u32::MAX))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&'a [String]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::List(List::Texts(texts))) => Ok(Some(texts)),
            Some(value) => Err(self.invalid(key, value, "a list of texts")),
        }
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&'a [i64]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::List(List::Integers(values))) => Ok(Some(values)),
            Some(value) => Err(self.invalid(key, value, "a list of whole numbers")),
        }
    }

    /// A list of finite numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = match value {
            Value::List(List::Floats(values)) => Some(values.clone()),
            Value::List(List::Integers(values)) => Some(values.iter().map(|&value| value as f64).collect()),
            _ => None,
        };
        let numbers = numbers.filter(|values| values.iter().all(|value| value.is_finite()));
        numbers.map(Some).ok_or_else(|| self.invalid(key, value, "a list of finite numbers"))
    }

    /// Refuses a key unless its value is one of those that ask for nothing.
    pub(super) fn refuse_unless(&self, key: &str, neutral: &[f64]) -> Result<(), GgufError> {
        match self.get(key) {
            Some(value) if !number(value).is_some_and(|number| neutral.contains(&number)) => {
                Err(self.unsupported(key, value, "no model of this architecture is run so"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the first key under `prefix` that nobody asked for.
    pub(super) fn refuse_unknown(&self, prefix: &str) -> Result<(), GgufError> {
        let read = self.read.borrow();
        let unknown =
            self.keys(prefix).find(|key| !read.contains(*key) && !self.ignored.iter().any(|i| i == key));
        match unknown.and_then(|key| Some((key, self.map.get(key)?))) {
            None => Ok(()),
            Some((key, value)) => {
                Err(GgufError::UnknownKey { key: key.chars().take(80).collect(), value: value.shortened() })
            }
        }
    }
}

/// A number of any type; true and false are 1 and 0.
fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::Unsigned(value) => Some(value as f64),
        Value::Signed(value) => Some(value as f64),
        Value::Float(value) => Some(value).filter(|value| value.is_finite()),
        Value::Bool(value) => Some(f64::from(u8::from(value))),
        _ => None,
    }
}
