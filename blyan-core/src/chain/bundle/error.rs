//! Owns what can be wrong with a bundle.

use std::path::PathBuf;

use crate::format::HeaderError;
use crate::hash::{BlockHash, PayloadHash};

/// A bundle that cannot be written, or is refused. A refused bundle changes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The stream or file failed.
    #[error("cannot {action} the bundle {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file; empty for a stream.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Other bytes than a bundle begins with.
    #[error("this is no bundle")]
    NotABundle,
    /// Written by another version.
    #[error("a bundle of version {found}, this library reads version 1")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The bytes end before the end record.
    #[error("the bundle is cut off after {len_bytes} bytes: get it again")]
    Truncated {
        /// Bytes that are there.
        len_bytes: u64,
    },
    /// A record of no known kind.
    #[error("the bundle has a record of unknown kind {tag} at byte {offset_bytes}")]
    Record {
        /// Its first byte.
        tag: u8,
        /// Where it begins.
        offset_bytes: u64,
    },
    /// A header that is none.
    #[error("the bundle has a block at byte {offset_bytes} that is none: {source}")]
    Header {
        /// Where its record begins.
        offset_bytes: u64,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A block or payload that stands there twice.
    #[error("the bundle repeats the {what} at byte {offset_bytes}")]
    Repeated {
        /// `block` or `payload`.
        what: &'static str,
        /// Where the second one begins.
        offset_bytes: u64,
    },
    /// More than one bundle may hold.
    #[error("the bundle has more than {limit} {what}: make several")]
    TooMany {
        /// What it has too many of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A payload longer than the caller accepts.
    #[error("the bundle has a payload of {len_bytes} bytes, at most {limit_bytes} are accepted")]
    PayloadTooLong {
        /// Its length as the record says.
        len_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A payload of another length than its block says.
    #[error("block {block} says that its payload has {expected} bytes, the bundle has {actual}")]
    PayloadLength {
        /// The block.
        block: BlockHash,
        /// Length in the header.
        expected: u64,
        /// Length found.
        actual: u64,
    },
    /// A block whose payload is neither in the bundle nor in the chain.
    #[error("the payload of block {block} is neither in the bundle nor in the chain")]
    MissingPayload {
        /// The block.
        block: BlockHash,
        /// Its payload.
        payload: PayloadHash,
    },
    /// A payload that no block of the bundle has.
    #[error("the bundle has a payload {payload} that none of its blocks has")]
    StrayPayload {
        /// The payload.
        payload: PayloadHash,
    },
    /// Parents that are neither in the bundle nor in the chain.
    #[error(
        "the bundle needs {} blocks that are neither in it nor in the chain, take them in first: {}",
        blocks.len(),
        list(blocks)
    )]
    MissingParents {
        /// Their hashes, ascending; of very many the first thousand.
        blocks: Vec<BlockHash>,
    },
    /// A signature that is not valid, or of a block that the bundle does not hold.
    #[error("the bundle has a signature on block {block} that is not valid, or without the block")]
    Signature {
        /// The block.
        block: BlockHash,
    },
    /// The end record counts other records than there are.
    #[error("the bundle's end counts other records than it has")]
    Counts,
    /// The bytes are not those that were written.
    #[error("the bundle is damaged: its checksum does not match; get it again")]
    Checksum,
    /// Bytes behind the end record.
    #[error("the bundle goes on behind its end, at byte {offset_bytes}")]
    Trailing {
        /// Where the end record ends.
        offset_bytes: u64,
    },
    /// The file changed while it was read.
    #[error("the bundle changed while it was read")]
    Changed,
}

fn list(blocks: &[BlockHash]) -> String {
    let shown = blocks.iter().take(8).map(BlockHash::to_string);
    let rest = blocks.len().checked_sub(8).filter(|rest| *rest > 0);
    shown.chain(rest.map(|rest| format!("and {rest} more"))).collect::<Vec<_>>().join(", ")
}
