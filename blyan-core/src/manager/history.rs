//! Owns the history of models: what a block followed, how a model of another architecture follows one, and
//! going back to an older one. Nothing is ever taken out of a chain: a step back is a step forward.

use std::collections::{BTreeSet, BinaryHeap};

use crate::chain::{Block, Chain, Draft};
use crate::format::{BlockKind, ChainId, Migration, Parent, ParentRole};
use crate::hash::BlockHash;

use super::{ManagerError, Snapshot};

/// A block and those whose place it took, the newest first.
///
/// # Errors
///
/// [`ManagerError`] from the chain.
pub fn lineage(chain: &Chain, block: &BlockHash) -> Result<Vec<Block>, ManagerError> {
    let mut blocks = Vec::new();
    let mut seen = BTreeSet::from([*block]);
    // A block of an application's own kind may follow several; the highest is the newest.
    let mut open = BinaryHeap::from([(chain.get(block)?.height(), *block)]);
    while let Some((_, hash)) = open.pop() {
        let block = chain.get(&hash)?;
        for parent in &block.header().parents {
            if parent.role == ParentRole::Predecessor && seen.insert(parent.hash) {
                open.push((chain.get(&parent.hash)?.height(), parent.hash));
            }
        }
        blocks.push(block);
    }
    Ok(blocks)
}

/// Appends a model block that follows `current` and has the slots of `to`, an older one that `current` comes
/// from, and returns it. Where the two have other specs, a migration block with the reason is appended, too.
///
/// # Errors
///
/// [`ManagerError::NotInHistory`]; [`ManagerError`] from the chain, for a reason that is none, and for an older model
/// whose weights were collected.
pub fn rollback(
    chain: &Chain,
    current: &BlockHash,
    to: &BlockHash,
    reason: &str,
) -> Result<BlockHash, ManagerError> {
    let older = Snapshot::of_model(chain, to)?;
    if !lineage(chain, current)?.iter().any(|block| block.hash() == *to) {
        return Err(ManagerError::NotInHistory { model: *to, of: *current });
    }
    follow(chain, current, older, reason)
}

/// Appends a model block that follows `from` and has the slots of `model`, which has another architecture,
/// and a migration block with the reason; returns the model block.
///
/// # Errors
///
/// [`ManagerError`] from the chain, for a reason that is none.
pub fn migrate(
    chain: &Chain,
    from: &BlockHash,
    model: &BlockHash,
    reason: &str,
) -> Result<BlockHash, ManagerError> {
    follow(chain, from, Snapshot::of_model(chain, model)?, reason)
}

fn follow(
    chain: &Chain,
    from: &BlockHash,
    snapshot: Snapshot,
    reason: &str,
) -> Result<BlockHash, ManagerError> {
    let before = Snapshot::of_model(chain, from)?;
    let snapshot = snapshot.onto(*from, None);
    match snapshot.publish(chain) {
        Err(ManagerError::NeedsMigration { .. }) => {}
        other => return other,
    }
    let migration = Migration {
        migration_version: 1,
        from: *from,
        from_spec: *before.spec_block(),
        to_spec: *snapshot.spec_block(),
        reason: reason.to_owned(),
    };
    let mut draft =
        Draft::new(ChainId::Meta, BlockKind::MIGRATION, "migration", migration.to_canonical_json());
    let named = [migration.from, migration.from_spec, migration.to_spec];
    draft.parents.extend(named.map(Parent::dependency));
    let mut writer = chain.writer()?;
    let migration = writer.append(draft)?.hash;
    let model = writer.append(snapshot.onto(*from, Some(migration)).draft(chain)?)?.hash;
    writer.commit()?;
    Ok(model)
}
