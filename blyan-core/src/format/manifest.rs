//! Owns the payload of a model block: which spec, and which block fills each slot.
//!
//! Canonical JSON: `{"manifest_version":1,"spec":"<hash>","slots":{"embedding":"<hash>",…}}`, slots
//! in byte order of their names, no white space.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::slot::Slot;
use crate::hash::{BlockHash, DomainHasher, SnapshotRoot};

/// Spec and slot → block of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The spec block.
    pub spec: BlockHash,
    /// The block in each slot.
    pub slots: BTreeMap<Slot, BlockHash>,
}

/// Bytes that are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the JSON of a manifest.
    #[error("the model manifest is not valid JSON of version 1: {reason}")]
    Json {
        /// What the parser said.
        reason: String,
    },
    /// Valid JSON, but not in its one canonical spelling.
    #[error("the model manifest is not in canonical form")]
    NotCanonical,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestJson {
    manifest_version: u32,
    spec: BlockHash,
    slots: BTreeMap<String, BlockHash>,
}

impl Manifest {
    /// The canonical bytes: the payload of the model block.
    ///
    /// # Panics
    ///
    /// Never: hashes and names always serialize.
    pub fn to_canonical_json(&self) -> Vec<u8> {
        let slots = self.slots.iter().map(|(slot, hash)| (slot.to_string(), *hash));
        let json = ManifestJson { manifest_version: 1, spec: self.spec, slots: slots.collect() };
        #[expect(clippy::expect_used, reason = "hashes and names always serialize")]
        serde_json::to_vec(&json).expect("a manifest serializes")
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] naming what is wrong.
    pub fn from_canonical_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let json_error = |reason: String| ManifestError::Json { reason };
        let json: ManifestJson =
            serde_json::from_slice(bytes).map_err(|error| json_error(error.to_string()))?;
        if json.manifest_version != 1 {
            return Err(json_error(format!("manifest_version {}", json.manifest_version)));
        }
        let mut canonical = serde_json::to_vec(&json).is_ok_and(|canonical| canonical == bytes);
        let mut slots = BTreeMap::new();
        for (name, hash) in json.slots {
            let slot = name.parse::<Slot>().map_err(|error| json_error(error.to_string()))?;
            canonical &= slot.to_string() == name;
            slots.insert(slot, hash);
        }
        if canonical { Ok(Self { spec: json.spec, slots }) } else { Err(ManifestError::NotCanonical) }
    }

    /// Names the whole model: `derive_key("blyan snapshot 1")` over the spec's hash, then for each
    /// slot in byte order of its name the name's length as `u32` little-endian, the name, the hash.
    pub fn root(&self) -> SnapshotRoot {
        let mut hasher = DomainHasher::snapshot();
        hasher.update(self.spec.as_bytes());
        let by_name: BTreeMap<String, &BlockHash> =
            self.slots.iter().map(|(slot, hash)| (slot.to_string(), hash)).collect();
        for (name, hash) in by_name {
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            hasher.update(&length.to_le_bytes()).update(name.as_bytes()).update(hash.as_bytes());
        }
        SnapshotRoot::from_bytes(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let hash = |text: &str| BlockHash::of_header(text.as_bytes());
        Manifest {
            spec: hash("spec"),
            slots: BTreeMap::from([
                (Slot::Embedding, hash("embedding")),
                (Slot::Expert { layer: 10, expert: 0 }, hash("a")),
                (Slot::Expert { layer: 2, expert: 0 }, hash("b")),
            ]),
        }
    }

    #[test]
    fn json_round_trips_and_is_sorted_by_name() {
        let bytes = manifest().to_canonical_json();
        assert_eq!(Manifest::from_canonical_json(&bytes), Ok(manifest()));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.find("layer10").unwrap() < text.find("layer2.").unwrap());
    }

    #[test]
    fn other_spellings_are_refused() {
        let text = String::from_utf8(manifest().to_canonical_json()).unwrap();
        for other in [
            text.replace(':', ": "),
            text.replace("\"manifest_version\":1", "\"manifest_version\":2"),
            text.replace("layer10.", "layer010."),
            text.replace("}}", "},\"x\":1}"),
            text.replacen("\"slots\":{", "\"slots\":{\"embedding\":\"00\",", 1),
        ] {
            assert!(Manifest::from_canonical_json(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn the_root_names_every_slot() {
        let root = manifest().root();
        for slot in manifest().slots.keys() {
            let mut other = manifest();
            other.slots.remove(slot);
            assert_ne!(other.root(), root);
        }
    }
}
