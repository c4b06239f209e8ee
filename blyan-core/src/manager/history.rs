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
    follow(chain, current, older(chain, current, to)?, reason)
}

/// The model block that [`rollback`] would give, without appending it; also of weights that were collected,
/// which are not looked at.
///
/// # Errors
///
/// [`ManagerError::NotInHistory`]; [`ManagerError`] from the chain.
pub fn rollback_block(
    chain: &Chain,
    current: &BlockHash,
    to: &BlockHash,
    reason: &str,
) -> Result<BlockHash, ManagerError> {
    let older = older(chain, current, to)?.onto(*current, None);
    let before = Snapshot::of_model(chain, current)?;
    match older.model_block(chain) {
        Err(ManagerError::NeedsMigration { .. }) => {}
        other => return other,
    }
    let migration = migration(*current, &before, &older, reason).hash()?;
    older.onto(*current, Some(migration)).model_block(chain)
}

/// The model to go back to, if it is one that the current one comes from.
fn older(chain: &Chain, current: &BlockHash, to: &BlockHash) -> Result<Snapshot, ManagerError> {
    let older = Snapshot::of_model(chain, to)?;
    if !lineage(chain, current)?.iter().any(|block| block.hash() == *to) {
        return Err(ManagerError::NotInHistory { model: *to, of: *current });
    }
    Ok(older)
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
    let draft = migration(*from, &before, &snapshot, reason);
    let mut writer = chain.writer()?;
    snapshot.refuse_collected(chain)?;
    let migration = writer.append(draft)?.hash;
    let model = writer.append(snapshot.onto(*from, Some(migration)).draft(chain)?)?.hash;
    writer.commit()?;
    Ok(model)
}

/// What lets a model of another architecture follow the model `from`.
fn migration(from: BlockHash, before: &Snapshot, after: &Snapshot, reason: &str) -> Draft {
    let migration = Migration {
        migration_version: 1,
        from,
        from_spec: *before.spec_block(),
        to_spec: *after.spec_block(),
        reason: reason.to_owned(),
    };
    let mut draft =
        Draft::new(ChainId::Meta, BlockKind::MIGRATION, "migration", migration.to_canonical_json());
    let named = [migration.from, migration.from_spec, migration.to_spec];
    draft.parents.extend(named.map(Parent::dependency));
    draft
}
