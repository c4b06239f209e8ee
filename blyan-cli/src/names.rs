//! Owns what a user may call a chain's blocks: hashes and their beginnings, slots, releases.

use std::path::Path;

use blyan_core::chain::ChainError;
use blyan_core::manager::Snapshot;
use blyan_core::storage::StorageError;
use blyan_core::{BlockHash, BlockKind, Chain, ParentRole, Slot};

use crate::error::CliError;

/// Fewest digits of a hash that are taken for one.
const MIN_PREFIX: usize = 4;

/// Opens a chain to read it. One whose last writer was killed is repaired first.
pub(crate) fn open(dir: &Path) -> Result<Chain, CliError> {
    match Chain::open_read_only(dir) {
        Err(ChainError::Storage(StorageError::NeedsRecovery)) => {
            drop(Chain::open(dir)?);
            Ok(Chain::open_read_only(dir)?)
        }
        other => Ok(other?),
    }
}

/// The model that was named, or the chain's only one.
pub(crate) fn snapshot(chain: &Chain, name: Option<&str>) -> Result<Snapshot, CliError> {
    match model(chain, name)? {
        Some(model) => Ok(Snapshot::of_model(chain, &model)?),
        None => Ok(Snapshot::only_model(chain)?),
    }
}

/// The model block of a name: its hash, the start of it, or a release of it.
pub(crate) fn model(chain: &Chain, name: Option<&str>) -> Result<Option<BlockHash>, CliError> {
    let Some(name) = name else { return Ok(None) };
    let block = hash_or_release(chain, name)?.ok_or_else(|| not_found(name))?;
    released(chain, &block).map(Some)
}

/// The model of a release; any other block itself.
fn released(chain: &Chain, block: &BlockHash) -> Result<BlockHash, CliError> {
    let header = chain.get(block)?.header().clone();
    let model = header.parents.iter().find(|parent| parent.role == ParentRole::Dependency);
    match (header.kind, model) {
        (BlockKind::RELEASE, Some(model)) => Ok(model.hash),
        _ => Ok(*block),
    }
}

/// The block of a name: as [`model`], or the one in a slot of `of`, or of the only model.
pub(crate) fn block(chain: &Chain, name: &str, of: Option<&str>) -> Result<BlockHash, CliError> {
    if let Ok(slot) = name.parse::<Slot>() {
        let snapshot = snapshot(chain, of)?;
        let pinned = snapshot.slots().get(&slot);
        return pinned
            .map(|pinned| pinned.block)
            .ok_or_else(|| CliError::NotFound(format!("the model has no block in {slot}")));
    }
    hash_or_release(chain, name)?.ok_or_else(|| not_found(name))
}

fn not_found(name: &str) -> CliError {
    CliError::NotFound(format!(
        "{name:?} is no block of this chain: give a hash or its first {MIN_PREFIX} digits or more, a slot such as \
         layer0.expert1, or a release"
    ))
}

fn hash_or_release(chain: &Chain, name: &str) -> Result<Option<BlockHash>, CliError> {
    if name.len() >= MIN_PREFIX {
        match chain.with_prefix(name)?.as_slice() {
            [] => {}
            [block] => return Ok(Some(*block)),
            several => {
                let candidates = several.iter().take(8).map(ToString::to_string).collect();
                return Err(CliError::Ambiguous { name: name.to_owned(), candidates });
            }
        }
    }
    release(chain, name)
}

/// The release `name` or `name@version`; without a version the highest.
fn release(chain: &Chain, text: &str) -> Result<Option<BlockHash>, CliError> {
    let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
    let mut best: Option<blyan_core::Block> = None;
    for block in chain.blocks_of_kind(BlockKind::RELEASE) {
        let block = block?;
        let header = block.header();
        if header.name != name || version.is_some_and(|version| header.version.to_string() != version) {
            continue;
        }
        if best.as_ref().is_none_or(|best| best.header().version < header.version) {
            best = Some(block);
        }
    }
    Ok(best.map(|block| block.hash()))
}
