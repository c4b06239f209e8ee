//! Owns what can go wrong with a chain.

use super::bundle::BundleError;
use crate::format::{BlockKind, HeaderError};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::StorageError;

/// A refused block, a damaged one, or a failure below.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The medium or the index failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A draft that has no valid header.
    #[error("the block {name:?} cannot be appended")]
    Header {
        /// Name in the draft.
        name: String,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// No block of that hash.
    #[error("there is no block {block}; import what it belongs to first")]
    NotFound {
        /// The hash asked for.
        block: BlockHash,
    },
    /// A draft names a parent that the chain does not hold.
    #[error("block {name:?} depends on {parent}, which is not in the chain; append the parent first")]
    MissingParent {
        /// Name in the draft.
        name: String,
        /// The parent.
        parent: BlockHash,
    },
    /// The validator registered for the kind refused the block.
    #[error("block {name:?} is not a valid {kind} block")]
    Refused {
        /// Name in the draft.
        name: String,
        /// Kind in the draft.
        kind: BlockKind,
        /// The validator's reason.
        source: ValidationError,
    },
    /// A signature that is not of this block, this time and this key.
    #[error("the signature on block {block} is not valid")]
    Signature {
        /// The block.
        block: BlockHash,
    },
    /// A stored block is not what was appended.
    #[error("block {block} is damaged: {reason}")]
    Damaged {
        /// The block.
        block: BlockHash,
        /// What was found.
        #[source]
        reason: Damage,
    },
    /// A payload that was collected, see [`crate::Chain::collect`]. The block is still known.
    #[error(
        "the payload {payload} of block {block} was collected: take in a bundle with it, or import its content again"
    )]
    PayloadCollected {
        /// The block.
        block: BlockHash,
        /// Its payload.
        payload: PayloadHash,
    },
    /// A bundle that cannot be written, or is refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The index has tables of another version.
    #[error("the chain's index has version {found}, this library reads versions 1 and 2")]
    IndexVersion {
        /// The version found.
        found: u64,
    },
    /// The caller asked to stop. Nothing was changed.
    #[error("it was cancelled; nothing was changed")]
    Cancelled,
}

/// How a stored block differs from what was appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The stored header does not hash to the block's name.
    #[error("its header hashes to {actual}")]
    HeaderHash {
        /// Hash of the bytes found.
        actual: BlockHash,
    },
    /// The stored header has the right hash and is no header.
    #[error("its header is not valid: {0}")]
    Header(HeaderError),
    /// The header is not where another table says, or cannot be reached.
    #[error("its header is missing from the index")]
    HeaderMissing,
    /// The part of the index that holds it cannot be read.
    #[error("its entry in the table {table:?} cannot be read: {reason}")]
    Unreadable {
        /// Table of the index.
        table: &'static str,
        /// What the layer below found.
        reason: String,
    },
    /// A table of the index disagrees with the header.
    #[error("its entry in the table {table:?} is wrong or missing")]
    Entry {
        /// Table of the index.
        table: &'static str,
    },
    /// A table of the index names a block number that was never given out.
    #[error("the table {table:?} has an entry of block number {number}, which no block has")]
    StrayEntry {
        /// Table of the index.
        table: &'static str,
        /// The number in its key.
        number: u64,
    },
    /// The stored height is not one more than the highest parent's.
    #[error("its height is stored as {stored}, its parents make it {expected}")]
    Height {
        /// Height in the index.
        stored: u64,
        /// Height by the parents.
        expected: u64,
    },
    /// A parent is not in the chain.
    #[error("its parent {parent} is not in the chain")]
    MissingParent {
        /// The parent.
        parent: BlockHash,
    },
    /// The payload is missing, of another length, or other bytes.
    #[error("{0}")]
    Payload(StorageError),
    /// A signature record beside the block is not valid.
    #[error("its signature by {} at {time_ms} ms is not valid", hex(public_key))]
    Signature {
        /// The key in the record.
        public_key: [u8; 32],
        /// The time in the record.
        time_ms: u64,
    },
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a validator refuses a block.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ValidationError(Box<dyn std::error::Error + Send + Sync>);

impl ValidationError {
    /// Wraps the error of the layer that knows the kind.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The reason, if it is of this type.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}
