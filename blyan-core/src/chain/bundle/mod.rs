//! Owns bundles: any set of blocks as one stream of bytes, payloads and signatures included, which
//! another chain takes in with every check that an append has.
//!
//! ```text
//! bundle    = "BLYANBND", version 1 (u16), records, end
//! payload   = 1 (u8), length (u64), bytes                      each payload once
//! block     = 2 (u8), length (u32), header
//! signature = 3 (u8), block hash (32), public key (32), time in ms (u64), signature (64)
//! end       = 4 (u8), blocks (u64), payloads (u64), signatures (u64), plain BLAKE3 of all before (32)
//! ```
//!
//! A bundle is written in one way: blocks by height, then hash, each after its payload, if that did not
//! stand before, and before its signatures. It is read in any order of its records.

mod error;
mod read;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::BundleError;

use super::error::ChainError;
use crate::hash::{BlockHash, ChainRoot};

/// What every bundle begins with.
pub const BUNDLE_MAGIC: [u8; 8] = *b"BLYANBND";
const VERSION: u16 = 1;
const PAYLOAD: u8 = 1;
const BLOCK: u8 = 2;
const SIGNATURE: u8 = 3;
const END: u8 = 4;

/// Most blocks, and most signatures, of one bundle: what is kept of each in memory is bounded.
pub const MAX_BUNDLE_BLOCKS: u64 = 1 << 20;
/// Most parents of all blocks of a bundle together that are in it.
const MAX_EDGES: usize = 1 << 25;
/// Bytes read or written at once.
const PART_BYTES: usize = 1 << 20;

/// What to put into a bundle, and whom to tell.
#[derive(Clone, Default)]
pub struct BundleOptions<'a> {
    /// The blocks; `None` for all of the chain.
    pub blocks: Option<Vec<BlockHash>>,
    /// Whether the blocks' ancestors belong to it.
    pub ancestors: bool,
    /// Blocks that the other chain has, such as its tips: they, all their ancestors and the payload files
    /// of these are left out. Hashes that this chain does not know say nothing.
    pub known: Vec<BlockHash>,
    /// Called after each block, on the calling thread.
    pub progress: Option<&'a (dyn Fn(BundleProgress) + Sync)>,
    /// Set to stop; it then ends with [`ChainError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// How to take in a bundle, and whom to tell.
#[derive(Clone)]
pub struct UnbundleOptions<'a> {
    /// Longest payload that is accepted; one at a time is in memory.
    pub max_payload_bytes: u64,
    /// Called after each block, on the calling thread.
    pub progress: Option<&'a (dyn Fn(BundleProgress) + Sync)>,
    /// Set to stop; it then ends with [`ChainError::Cancelled`], and nothing was appended.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for UnbundleOptions<'_> {
    fn default() -> Self {
        Self { max_payload_bytes: 16 << 30, progress: None, cancel: None }
    }
}

/// How far a bundle is written or taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BundleProgress {
    /// Blocks written or appended.
    pub blocks: u64,
    /// Blocks of the bundle.
    pub total_blocks: u64,
    /// Bytes of payloads written or appended.
    pub payload_bytes: u64,
}

/// What a bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BundleReport {
    /// Blocks.
    pub blocks: u64,
    /// Payloads, each once.
    pub payloads: u64,
    /// Signatures.
    pub signatures: u64,
    /// Bytes of the bundle.
    pub bytes: u64,
}

/// What taking in a bundle did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbundleReport {
    /// Blocks that the chain did not hold.
    pub blocks_new: u64,
    /// Blocks that it held.
    pub blocks_known: u64,
    /// Signatures that it did not hold.
    pub signatures_new: u64,
    /// Bytes of payloads that were written: new ones, damaged ones repaired, collected ones back again.
    pub payload_bytes_new: u64,
    /// Root of the chain afterwards.
    pub root: ChainRoot,
}

fn check_cancelled(cancel: Option<&AtomicBool>) -> Result<(), ChainError> {
    match cancel {
        Some(cancel) if cancel.load(Ordering::Relaxed) => Err(ChainError::Cancelled),
        _ => Ok(()),
    }
}

/// Names the file in the failure of a stream that was one.
fn of_file(path: &Path) -> impl FnOnce(ChainError) -> ChainError {
    move |error| match error {
        ChainError::Bundle(BundleError::Io { action, source, .. }) => {
            stream_error(action, path.to_owned())(source)
        }
        error => error,
    }
}

/// A failure to read or write the stream; `path` is empty where it has none.
fn stream_error(action: &'static str, path: PathBuf) -> impl FnOnce(std::io::Error) -> ChainError {
    move |source| BundleError::Io { action, path, source }.into()
}
