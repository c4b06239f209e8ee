//! Owns a block as it is read, and a draft of one to append.

use crate::chain::error::ChainError;
use crate::format::{BlockKind, ChainId, Header, HeaderError, Parent, ParentRole, PayloadRef};
use crate::hash::BlockHash;
use crate::storage::payload_store::hash_payload;

/// A stored block: its name, its header, and its place in the DAG.
#[derive(Debug, Clone)]
pub struct Block {
    hash: BlockHash,
    header: Header,
    height: u64,
    /// Its place in this directory's index; says nothing about the block.
    number: u64,
}

impl Block {
    pub(super) fn new(hash: BlockHash, header: Header, height: u64, number: u64) -> Self {
        Self { hash, header, height, number }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The block's name.
    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// What the block says about itself; it hashes to [`Self::hash`].
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Length of the longest path to a block without parents.
    pub fn height(&self) -> u64 {
        self.height
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        // The hash names header and height alike.
        self.hash == other.hash
    }
}

impl Eq for Block {}

/// A block that is not in the chain yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Lane to append to.
    pub lane: ChainId,
    /// What the payload is.
    pub kind: BlockKind,
    /// Slot or other name, 1..=128 bytes of `[a-z0-9_.-]`.
    pub name: String,
    /// Version of what the block holds, without build metadata.
    pub version: semver::Version,
    /// Blocks it depends on, in any order.
    pub parents: Vec<Parent>,
    /// The bytes it carries.
    pub payload: Vec<u8>,
    /// What the bytes are.
    pub media_type: String,
}

impl Draft {
    /// A draft of version 1.0.0 without parents; the media type follows from the kind.
    pub fn new(lane: ChainId, kind: BlockKind, name: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        let media_type = match kind {
            kind if kind.is_weights() => "application/vnd.safetensors",
            BlockKind::CHAT_TEMPLATE => "text/plain;charset=utf-8",
            BlockKind::SPEC
            | BlockKind::MODEL
            | BlockKind::RELEASE
            | BlockKind::MIGRATION
            | BlockKind::TOKENIZER
            | BlockKind::TOKENIZER_CONFIG
            | BlockKind::SPECIAL_TOKENS_MAP
            | BlockKind::GENERATION_CONFIG => "application/json",
            kind if kind.is_evidence() => "application/json",
            _ => "application/octet-stream",
        };
        Self {
            lane,
            kind,
            name: name.into(),
            version: semver::Version::new(1, 0, 0),
            parents: Vec::new(),
            payload: payload.into(),
            media_type: media_type.to_owned(),
        }
    }

    /// Adds a parent.
    #[must_use]
    pub fn with_parent(mut self, hash: BlockHash, role: ParentRole) -> Self {
        self.parents.push(Parent { hash, role });
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: semver::Version) -> Self {
        self.version = version;
        self
    }

    /// The header the block will have; hashes the payload.
    ///
    /// # Errors
    ///
    /// [`ChainError::Header`] if a field is outside its grammar, or one parent is named in two roles.
    pub fn header(&self) -> Result<Header, ChainError> {
        Ok(self.encode()?.0)
    }

    /// The hash the block will have; hashes the payload.
    ///
    /// # Errors
    ///
    /// Those of [`Self::header`].
    pub fn hash(&self) -> Result<BlockHash, ChainError> {
        Ok(BlockHash::of_header(&self.encode()?.1))
    }

    /// Header and its bytes.
    pub(super) fn encode(&self) -> Result<(Header, Vec<u8>), ChainError> {
        let mut parents = self.parents.clone();
        parents.sort_unstable();
        parents.dedup();
        let header = Header {
            lane: self.lane,
            kind: self.kind,
            name: self.name.clone(),
            version: self.version.clone(),
            parents,
            payload: PayloadRef {
                hash: hash_payload(&self.payload),
                len_bytes: self.payload.len() as u64,
                media_type: self.media_type.clone(),
            },
        };
        let refused =
            |source: HeaderError| ChainError::Header { name: self.name.chars().take(80).collect(), source };
        let bytes = header.to_bytes().map_err(refused)?;
        Ok((header, bytes))
    }
}
