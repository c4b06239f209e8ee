//! Owns the canonical bytes of a block header, version 1: what a [`BlockHash`] is the hash of.
//!
//! ```text
//! offset  bytes  field                         (borsh: little-endian, texts and lists have a u32 length)
//! 0       2      format version = 1
//! 2       1      lane
//! 3       2      kind
//! 5       4 + n  name                          1..=128 bytes of [a-z0-9_.-]
//!         4 + n  version                       SemVer without build metadata, 1..=128 bytes
//!         4 + 33 × parents                     hash (32), role (1); ascending by hash, no hash twice
//!         32     payload hash                  plain BLAKE3
//!         8      payload length in bytes
//!         4 + n  payload media type            1..=128 bytes of printable ASCII without spaces
//! ```
//!
//! One value has one spelling: reading refuses every other.

use borsh::{BorshDeserialize, BorshSerialize};

use super::kind::{BlockKind, ChainId, ParentRole};
use crate::hash::{BlockHash, PayloadHash};

/// The version this library writes and the only one it reads.
pub const HEADER_VERSION: u16 = 1;
/// Longest header in bytes; the model block of 100,000 slots fits.
pub const MAX_HEADER_BYTES: usize = 8 << 20;
/// Most parents of one block.
pub const MAX_PARENTS: usize = 200_000;
/// Longest name, version or media type in bytes.
pub const MAX_TEXT_BYTES: usize = 128;

/// A block that another one depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Parent {
    /// The parent block.
    pub hash: BlockHash,
    /// What it is to the child.
    pub role: ParentRole,
}

impl Parent {
    /// A parent without which the block means nothing.
    pub const fn dependency(hash: BlockHash) -> Self {
        Self { hash, role: ParentRole::Dependency }
    }

    /// The block whose place in its slot is taken.
    pub const fn predecessor(hash: BlockHash) -> Self {
        Self { hash, role: ParentRole::Predecessor }
    }
}

/// Names the bytes that a block carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct PayloadRef {
    /// Plain BLAKE3 of the payload.
    pub hash: PayloadHash,
    /// Length of the payload in bytes.
    pub len_bytes: u64,
    /// What the bytes are, such as `application/vnd.safetensors`.
    pub media_type: String,
}

/// What a block says about itself; its hash is the block's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Lane the block belongs to.
    pub lane: ChainId,
    /// What the payload is.
    pub kind: BlockKind,
    /// Slot or other name, 1..=128 bytes of `[a-z0-9_.-]`.
    pub name: String,
    /// Version of what the block holds, without build metadata.
    pub version: semver::Version,
    /// Blocks it depends on, ascending by hash, no hash twice.
    pub parents: Vec<Parent>,
    /// The payload.
    pub payload: PayloadRef,
}

/// A header that cannot be written, or bytes that are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Longer than any header may be.
    #[error("a block header of {len} bytes exceeds {MAX_HEADER_BYTES}; use fewer parents")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// Written by another version of the format.
    #[error("block header of format version {found}, this library reads version {HEADER_VERSION}")]
    FormatVersion {
        /// The version found.
        found: u16,
    },
    /// Not the encoding of a header.
    #[error("not a block header: {reason}")]
    Malformed {
        /// What the decoder met.
        reason: String,
    },
    /// Decodes, but is not the one spelling of its value.
    #[error("the block header is not in canonical form")]
    NotCanonical,
    /// A name outside the grammar.
    #[error("block name {name:?} is not 1 to {MAX_TEXT_BYTES} characters of a-z, 0-9, '_', '.', '-'")]
    Name {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// A version that is no SemVer, too long, or has build metadata.
    #[error("block version {version:?} is not a SemVer version without build metadata")]
    Version {
        /// The version, cut to 80 characters.
        version: String,
    },
    /// A media type outside the grammar.
    #[error("media type {media_type:?} is not 1 to {MAX_TEXT_BYTES} printable ASCII characters")]
    MediaType {
        /// The media type, cut to 80 characters.
        media_type: String,
    },
    /// More parents than a block may have.
    #[error("{count} parents, at most {MAX_PARENTS} are allowed")]
    TooManyParents {
        /// Parents given.
        count: usize,
    },
    /// Parents out of order or one named twice.
    #[error("parents must ascend by hash and name each block once; {hash} does not follow its predecessor")]
    ParentOrder {
        /// The first parent out of place.
        hash: BlockHash,
    },
}

#[derive(BorshSerialize)]
struct WireHeader<'a> {
    format_version: u16,
    lane: ChainId,
    kind: BlockKind,
    name: &'a str,
    version: &'a str,
    parents: &'a [Parent],
    payload: &'a PayloadRef,
}

#[derive(BorshDeserialize)]
struct WireHeaderOwned {
    lane: ChainId,
    kind: BlockKind,
    name: String,
    version: String,
    parents: Vec<Parent>,
    payload: PayloadRef,
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Whether `name` may name a block.
pub fn is_block_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'.' | b'-');
    (1..=MAX_TEXT_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

fn is_media_type(text: &str) -> bool {
    (1..=MAX_TEXT_BYTES).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

impl Header {
    /// The invariants that the wire format cannot express; held when writing and when reading. `version`: as text.
    fn check(&self, version: &str) -> Result<(), HeaderError> {
        if !is_block_name(&self.name) {
            return Err(HeaderError::Name { name: cut(&self.name) });
        }
        if !self.version.build.is_empty() || version.len() > MAX_TEXT_BYTES {
            return Err(HeaderError::Version { version: cut(version) });
        }
        if !is_media_type(&self.payload.media_type) {
            return Err(HeaderError::MediaType { media_type: cut(&self.payload.media_type) });
        }
        if self.parents.len() > MAX_PARENTS {
            return Err(HeaderError::TooManyParents { count: self.parents.len() });
        }
        let ordered = |pair: &&[Parent]| matches!(pair, [a, b] if a.hash >= b.hash);
        if let Some([_, parent]) = self.parents.windows(2).find(ordered) {
            return Err(HeaderError::ParentOrder { hash: parent.hash });
        }
        Ok(())
    }

    /// The canonical bytes.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] when a field is outside its grammar or limit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeaderError> {
        let version = self.version.to_string();
        self.check(&version)?;
        let wire = WireHeader {
            format_version: HEADER_VERSION,
            lane: self.lane,
            kind: self.kind,
            name: &self.name,
            version: &version,
            parents: &self.parents,
            payload: &self.payload,
        };
        let bytes =
            borsh::to_vec(&wire).map_err(|error| HeaderError::Malformed { reason: error.to_string() })?;
        if bytes.len() > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLong { len: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] naming what is wrong; every header has exactly one accepted spelling.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLong { len: bytes.len() });
        }
        let malformed = |error: std::io::Error| HeaderError::Malformed { reason: error.to_string() };
        let mut rest = bytes;
        let found = u16::deserialize(&mut rest).map_err(malformed)?;
        if found != HEADER_VERSION {
            return Err(HeaderError::FormatVersion { found });
        }
        let wire = WireHeaderOwned::try_from_slice(rest).map_err(malformed)?;
        let version = semver::Version::parse(&wire.version)
            .map_err(|_| HeaderError::Version { version: cut(&wire.version) })?;
        let header = Self {
            lane: wire.lane,
            kind: wire.kind,
            name: wire.name,
            version,
            parents: wire.parents,
            payload: wire.payload,
        };
        if header.to_bytes()? != bytes {
            return Err(HeaderError::NotCanonical);
        }
        Ok(header)
    }

    /// The block's name: the domain-separated BLAKE3 of the canonical bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Self::to_bytes`].
    pub fn hash(&self) -> Result<BlockHash, HeaderError> {
        Ok(BlockHash::of_header(&self.to_bytes()?))
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
