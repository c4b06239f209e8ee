//! Owns the payload of a release block: the model that has its name and version.
//!
//! Canonical JSON: `{"release_version":1,"model":"<hash>"}`. Name and version are the block's.

use serde::{Deserialize, Serialize};

use super::canonical::{self, CanonicalError};
use super::slot::Slot;
use crate::hash::BlockHash;

/// Payload of a release block: a model with a name. The version is in the block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Version of this description; 1.
    pub release_version: u32,
    /// The model block.
    pub model: BlockHash,
}

impl Release {
    /// The name that always means the newest model, and therefore no release.
    pub const LATEST: &'static str = "latest";

    /// Whether a release may have this name: one that means nothing else where blocks are named.
    pub fn is_name(name: &str) -> bool {
        name != Self::LATEST && name.parse::<Slot>().is_err()
    }

    /// The canonical bytes.
    pub fn to_canonical_json(&self) -> Vec<u8> {
        canonical::to_bytes(self)
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    ///
    /// [`CanonicalError`] naming what is wrong.
    pub fn from_canonical_json(bytes: &[u8]) -> Result<Self, CanonicalError> {
        let release: Self = canonical::read("release", bytes)?;
        if release.release_version != 1 {
            let version = release.release_version;
            return Err(canonical::invalid("release", "release_version", version, "1"));
        }
        Ok(release)
    }
}
