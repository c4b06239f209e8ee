//! Owns payloads that are canonical JSON of one struct: written in one way, and read only if they are.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are no payload of their kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// Not the JSON of this kind.
    #[error("the {what} is not valid JSON of version 1: {reason}")]
    Json {
        /// The kind.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// Valid JSON, but not in its one canonical spelling.
    #[error("the {what} is not in canonical form")]
    NotCanonical {
        /// The kind.
        what: &'static str,
    },
    /// A field has a value that makes no sense.
    #[error("the {what} has {field} = {value}: expected {expected}")]
    Invalid {
        /// The kind.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value, cut to 80 characters.
        value: String,
        /// What is expected of it.
        expected: &'static str,
    },
}

/// The canonical bytes of a struct of texts and numbers.
pub(super) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "structs of texts and numbers always serialize")]
    serde_json::to_vec(value).expect("a struct serializes")
}

/// Reads canonical bytes.
pub(super) fn from_bytes<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CanonicalError> {
    let value: T = serde_json::from_slice(bytes)
        .map_err(|error| CanonicalError::Json { what, reason: error.to_string() })?;
    if to_bytes(&value) == bytes { Ok(value) } else { Err(CanonicalError::NotCanonical { what }) }
}

/// A field that makes no sense.
pub(super) fn invalid(
    what: &'static str,
    field: &'static str,
    value: impl ToString,
    expected: &'static str,
) -> CanonicalError {
    let value = value.to_string().chars().take(80).collect();
    CanonicalError::Invalid { what, field, value, expected }
}
