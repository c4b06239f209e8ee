//! Owns delta blocks: making one, merging it into the block that takes the base's place, and making a
//! merged payload again where only the block is left.
//!
//! A merged block is an ordinary weight block. Its predecessor is the base, its base (in the header's
//! sense) the delta, so anybody recomputes it; nothing that runs it needs to know of deltas.

use crate::chain::{Block, Chain, Draft};
use crate::format::{BlockKind, ChainId, Header, ParentRole};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::Payload;
use crate::tensor::{DeltaError, merge_delta};

use super::ManagerError;

/// What can go wrong with a delta block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaBlockError {
    /// A block of another kind.
    #[error("block {block} is a {kind} block, no delta")]
    NotADelta {
        /// The block.
        block: BlockHash,
        /// What it is.
        kind: BlockKind,
    },
    /// A block that no delta can be added to.
    #[error("block {block} is a {kind} block: a delta is added to a block of weights")]
    NoBase {
        /// The block.
        block: BlockHash,
        /// What it is.
        kind: BlockKind,
    },
    /// A block that was not made by merging a delta.
    #[error("block {block} was merged from no delta: its payload cannot be made again")]
    NotMerged {
        /// The block.
        block: BlockHash,
    },
    /// A header without a parent that its kind has: not appended through this library's validators.
    #[error("block {block} names no {role:?} parent of the right kind")]
    Parents {
        /// The block.
        block: BlockHash,
        /// Role of the parent.
        role: ParentRole,
    },
    /// Merging gave something else than the block holds.
    #[error("merging gives payload {actual}, block {block} holds {expected}")]
    Mismatch {
        /// The merged block.
        block: BlockHash,
        /// The payload in its header.
        expected: PayloadHash,
        /// The payload that merging gives.
        actual: PayloadHash,
    },
    /// The delta cannot be added to its base.
    #[error("delta {block}: {source}")]
    Delta {
        /// The delta block.
        block: BlockHash,
        /// Why.
        source: Box<DeltaError>,
    },
}

/// The block that adds `payload` (docs/format.md, *Delta payloads*) to `base`, not yet appended.
///
/// # Errors
///
/// [`DeltaBlockError::NoBase`], or [`ManagerError`] from the chain. What the payload holds is checked on
/// append.
pub fn draft(chain: &Chain, base: &BlockHash, payload: Vec<u8>) -> Result<Draft, ManagerError> {
    let base = chain.get(base)?;
    let kind = base.header().kind;
    if !kind.is_weights() || kind == BlockKind::DELTA {
        return Err(DeltaBlockError::NoBase { block: base.hash(), kind }.into());
    }
    let spec = spec_of(chain, &base)?;
    Ok(Draft::new(ChainId::Parameter, BlockKind::DELTA, base.header().name.as_str(), payload)
        .with_parent(base.hash(), ParentRole::Base)
        .with_parent(spec, ParentRole::Dependency))
}

/// Appends the block that a delta makes of its base: the same slot, the base's version with the next patch
/// number, predecessor the base, base the delta.
///
/// # Errors
///
/// [`ManagerError`]: the block is no delta, a payload is missing, a sum does not fit the base's type.
pub fn merge(chain: &Chain, delta: &BlockHash) -> Result<BlockHash, ManagerError> {
    Ok(chain.append(merged_draft(chain, delta)?)?)
}

/// The block that [`merge`] would append.
///
/// # Errors
///
/// As [`merge`].
pub fn merged_draft(chain: &Chain, delta: &BlockHash) -> Result<Draft, ManagerError> {
    let (delta, base) = delta_and_base(chain, delta)?;
    let payload = merged_payload(chain, &delta, &base)?;
    let header = base.header();
    let mut version = header.version.clone();
    version.patch = version.patch.saturating_add(1);
    version.pre = semver::Prerelease::EMPTY;
    Ok(Draft::new(header.lane, header.kind, header.name.as_str(), payload)
        .with_version(version)
        .with_parent(spec_of(chain, &base)?, ParentRole::Dependency)
        .with_parent(base.hash(), ParentRole::Predecessor)
        .with_parent(delta.hash(), ParentRole::Base))
}

/// The payload hash that [`merge`] would attest.
///
/// # Errors
///
/// As [`merge`].
pub fn merged_hash(chain: &Chain, delta: &BlockHash) -> Result<PayloadHash, ManagerError> {
    Ok(merged_draft(chain, delta)?.header()?.payload.hash)
}

/// The payload of a merged block: as stored, or made again from base and delta where it is missing or
/// damaged. Writes nothing.
///
/// # Errors
///
/// [`DeltaBlockError::NotMerged`] for a block of another origin whose payload is not there;
/// [`DeltaBlockError::Mismatch`] if merging does not give what the block attests.
pub fn merged_bytes(chain: &Chain, block: &BlockHash) -> Result<Payload, ManagerError> {
    if let Ok(payload) = chain.payload(block) {
        return Ok(payload);
    }
    Ok(Payload::from(rebuild(chain, block)?.payload))
}

/// Makes sure that a merged block's payload is in the chain, and tells whether it had to be made again.
///
/// # Errors
///
/// As [`merged_bytes`], and from writing.
pub fn materialise(chain: &Chain, block: &BlockHash) -> Result<bool, ManagerError> {
    if chain.payload(block).is_ok() {
        return Ok(false);
    }
    chain.append(rebuild(chain, block)?)?;
    Ok(true)
}

/// A merged block from its base and its delta.
fn rebuild(chain: &Chain, block: &BlockHash) -> Result<Draft, ManagerError> {
    let block = chain.get(block)?;
    let header: &Header = block.header();
    let mut found = None;
    for parent in header.parents.iter().filter(|parent| parent.role == ParentRole::Base) {
        if chain.get(&parent.hash)?.header().kind == BlockKind::DELTA {
            found = Some(parent.hash);
        }
    }
    let delta = found.ok_or(DeltaBlockError::NotMerged { block: block.hash() })?;
    let (delta, base) = delta_and_base(chain, &delta)?;
    let draft = Draft {
        lane: header.lane,
        kind: header.kind,
        name: header.name.clone(),
        version: header.version.clone(),
        parents: header.parents.clone(),
        payload: merged_payload(chain, &delta, &base)?,
        media_type: header.payload.media_type.clone(),
    };
    let actual = draft.header()?.payload.hash;
    if actual != header.payload.hash {
        let expected = header.payload.hash;
        return Err(DeltaBlockError::Mismatch { block: block.hash(), expected, actual }.into());
    }
    Ok(draft)
}

fn delta_and_base(chain: &Chain, delta: &BlockHash) -> Result<(Block, Block), ManagerError> {
    let delta = chain.get(delta)?;
    let kind = delta.header().kind;
    if kind != BlockKind::DELTA {
        return Err(DeltaBlockError::NotADelta { block: delta.hash(), kind }.into());
    }
    let base = delta.header().parents.iter().find(|parent| parent.role == ParentRole::Base);
    let base = base.ok_or(DeltaBlockError::Parents { block: delta.hash(), role: ParentRole::Base })?;
    let base = chain.get(&base.hash)?;
    Ok((delta, base))
}

/// The base may itself be a merged block whose payload is gone.
fn merged_payload(chain: &Chain, delta: &Block, base: &Block) -> Result<Vec<u8>, ManagerError> {
    // Each step goes to an older block, so this ends; a loop, as a chain of merges may be long.
    let mut open = vec![base.hash()];
    let mut made: Option<Vec<u8>> = None;
    let mut deltas = vec![delta.hash()];
    while let Some(block) = open.pop() {
        if let Ok(payload) = chain.payload(&block) {
            made = Some(payload.to_vec());
            break;
        }
        let stored = chain.get(&block)?;
        let mut parents = stored.header().parents.iter().filter(|parent| parent.role == ParentRole::Base);
        let found = parents.try_fold(None, |found, parent| {
            let is_delta = chain.get(&parent.hash)?.header().kind == BlockKind::DELTA;
            Ok::<_, ManagerError>(if is_delta { Some(parent.hash) } else { found })
        })?;
        let Some(older) = found else {
            // Not merged: the chain says what is wrong with its payload.
            made = Some(chain.payload(&block)?.to_vec());
            break;
        };
        let (older, base) = delta_and_base(chain, &older)?;
        deltas.push(older.hash());
        open.push(base.hash());
    }
    let mut payload = made.unwrap_or_default();
    while let Some(delta) = deltas.pop() {
        let merged = merge_delta(&payload, &chain.payload(&delta)?);
        let failed = |source| DeltaBlockError::Delta { block: delta, source: Box::new(source) };
        payload = merged.map_err(failed)?;
    }
    Ok(payload)
}

fn spec_of(chain: &Chain, block: &Block) -> Result<BlockHash, ManagerError> {
    for parent in block.header().parents.iter().filter(|parent| parent.role == ParentRole::Dependency) {
        if chain.get(&parent.hash)?.header().kind == BlockKind::SPEC {
            return Ok(parent.hash);
        }
    }
    Err(DeltaBlockError::Parents { block: block.hash(), role: ParentRole::Dependency }.into())
}
