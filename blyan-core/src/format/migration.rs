//! Owns the payload of a migration block: which model the first one of another architecture comes from.
//!
//! Canonical JSON:
//! `{"migration_version":1,"from":"<model>","from_spec":"<spec>","to_spec":"<spec>","reason":"…"}`.

use serde::{Deserialize, Serialize};

use super::canonical::{self, CanonicalError};
use crate::hash::BlockHash;

/// Longest reason in bytes: the payload then lies in the index.
pub const MAX_REASON_BYTES: usize = 1024;

/// Payload of a migration block: says that models of one spec take the place of a model of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// Version of this description; 1.
    pub migration_version: u32,
    /// The model block whose place is taken.
    pub from: BlockHash,
    /// Its spec.
    pub from_spec: BlockHash,
    /// The spec of the models to come.
    pub to_spec: BlockHash,
    /// Why, for people: 1 to [`MAX_REASON_BYTES`] bytes without control characters.
    pub reason: String,
}

impl Migration {
    /// The canonical bytes.
    pub fn to_canonical_json(&self) -> Vec<u8> {
        canonical::to_bytes(self)
    }

    /// Reads canonical bytes and checks every field.
    ///
    /// # Errors
    ///
    /// [`CanonicalError`] naming what is wrong.
    pub fn from_canonical_json(bytes: &[u8]) -> Result<Self, CanonicalError> {
        let migration: Self = canonical::read("migration", bytes)?;
        migration.check()?;
        Ok(migration)
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`CanonicalError::Invalid`] for the first field that makes no sense.
    pub fn check(&self) -> Result<(), CanonicalError> {
        let invalid = |field, value: &dyn ToString, expected| {
            Err(canonical::invalid("migration", field, value.to_string(), expected))
        };
        if self.migration_version != 1 {
            return invalid("migration_version", &self.migration_version, "1");
        }
        if self.from_spec == self.to_spec {
            return invalid("to_spec", &self.to_spec, "another spec than from_spec");
        }
        let len = self.reason.len();
        if len == 0 || len > MAX_REASON_BYTES || self.reason.chars().any(char::is_control) {
            let expected = "1 to 1024 bytes without control characters";
            return invalid("reason", &self.reason.escape_debug(), expected);
        }
        Ok(())
    }
}
