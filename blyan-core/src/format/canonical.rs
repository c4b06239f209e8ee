//! Owns payloads that are canonical JSON of one struct: written in one way, and read only if they are.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest canonical JSON that is read: some 200,000 names of blocks fit.
pub const MAX_JSON_BYTES: usize = 32 << 20;

/// Bytes that are no payload of their kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// More bytes than are read.
    #[error("the {what} has {len_bytes} bytes: at most {MAX_JSON_BYTES} are read")]
    TooLong {
        /// The kind.
        what: &'static str,
        /// Length of the payload.
        len_bytes: usize,
    },
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

/// Why bytes are not the canonical JSON of a type; each layer has an error of its own that says so of a kind
/// of block.
#[derive(Debug)]
pub(crate) enum Unread {
    /// More than [`MAX_JSON_BYTES`].
    TooLong { len_bytes: usize },
    /// Not the JSON of the type. What the parser said quotes what it found, so it is cut.
    Json { reason: String },
    /// Valid JSON, but not in its one canonical spelling.
    NotCanonical,
}

/// The canonical bytes of a struct of numbers, texts, lists and names of blocks: no white space, fields in the
/// order of the type, every default written out.
pub(crate) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    // Nothing in such a struct can fail to serialize. One from outside that can gives bytes that nobody reads.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads bytes that [`to_bytes`] wrote, and no others.
pub(crate) fn from_bytes<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Unread> {
    if bytes.len() > MAX_JSON_BYTES {
        return Err(Unread::TooLong { len_bytes: bytes.len() });
    }
    let value: T = serde_json::from_slice(bytes)
        .map_err(|error| Unread::Json { reason: error.to_string().chars().take(300).collect() })?;
    if to_bytes(&value) == bytes { Ok(value) } else { Err(Unread::NotCanonical) }
}

/// As [`from_bytes`], for a kind of payload of this layer.
pub(super) fn read<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CanonicalError> {
    from_bytes(bytes).map_err(|error| match error {
        Unread::TooLong { len_bytes } => CanonicalError::TooLong { what, len_bytes },
        Unread::Json { reason } => CanonicalError::Json { what, reason },
        Unread::NotCanonical => CanonicalError::NotCanonical { what },
    })
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
