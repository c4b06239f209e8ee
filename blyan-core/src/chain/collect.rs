//! Owns the collection of payload files that nothing retained needs. Blocks stay: history is never lost,
//! and a payload that comes back is checked against the block that still names it.
//!
//! What goes is first written down in the index, durably, then deleted; so a payload that is missing is
//! either known to be, or damage.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{ChainError, Damage};
use super::{Block, Chain, tables};
use crate::format::{BlockKind, ParentRole};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::StorageError;

/// What to collect.
#[derive(Debug, Clone, Copy, Default)]
pub struct CollectOptions<'a> {
    /// Blocks whose payloads are retained, with those of all blocks that they depend on, and of a delta its
    /// base's; `None` for every release, and every model but those that another follows, directly or over others,
    /// whose weights are all there.
    pub roots: Option<&'a [BlockHash]>,
    /// Whether to delete nothing, only to report what would be.
    pub dry_run: bool,
    /// Set to stop before anything is deleted; it then ends with [`ChainError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// What a collection deleted, or would delete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectReport {
    /// Blocks of weights whose payload goes, by hash. They stay in the chain.
    pub blocks: Vec<BlockHash>,
    /// Payload files of theirs.
    pub payloads: u64,
    /// Bytes of these files.
    pub payload_bytes: u64,
    /// Files that no block names: what a crash left behind.
    pub stray_payloads: u64,
    /// Bytes of these files.
    pub stray_bytes: u64,
    /// Files that stay.
    pub retained_payloads: u64,
    /// Bytes of the files that stay.
    pub retained_bytes: u64,
}

/// A payload file.
struct PayloadFile {
    payload: PayloadHash,
    len_bytes: u64,
    /// Blocks of weights that carry it, if it goes.
    blocks: Vec<BlockHash>,
}

/// What a collection will do.
#[derive(Default)]
struct Plan {
    stray: Vec<PayloadFile>,
    dropped: Vec<PayloadFile>,
    retained: Vec<PayloadFile>,
}

impl Plan {
    fn report(&self) -> CollectReport {
        let count = |files: &[PayloadFile]| {
            (files.len() as u64, files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.len_bytes)))
        };
        let mut blocks: Vec<BlockHash> = self.dropped.iter().flat_map(|file| &file.blocks).copied().collect();
        blocks.sort_unstable();
        let (payloads, payload_bytes) = count(&self.dropped);
        let (stray_payloads, stray_bytes) = count(&self.stray);
        let (retained_payloads, retained_bytes) = count(&self.retained);
        CollectReport {
            blocks,
            payloads,
            payload_bytes,
            stray_payloads,
            stray_bytes,
            retained_payloads,
            retained_bytes,
        }
    }

    /// Keeps as well what is retained by another plan.
    fn retain_as(&mut self, other: &Self) {
        let retained: HashSet<PayloadHash> = other.retained.iter().map(|file| file.payload).collect();
        self.retained.extend(self.dropped.extract_if(.., |file| retained.contains(&file.payload)));
    }
}

fn parents_of(block: &Block, roles: &[ParentRole]) -> Vec<BlockHash> {
    let parents = block.header().parents.iter().filter(|parent| roles.contains(&parent.role));
    parents.map(|parent| parent.hash).collect()
}

/// What the plan needs to know of a block.
struct Known {
    needs: Vec<BlockHash>,
    /// If it is a file.
    payload: Option<PayloadHash>,
    is_weights: bool,
    /// Whether its weights are there, and those of all that it needs.
    whole: bool,
}

/// A model and those that it follows.
struct Model {
    block: BlockHash,
    follows: Vec<BlockHash>,
    whole: bool,
}

/// The models whose place another has: one that can run follows them, or follows those that follow them. What cannot
/// run takes nobody's place by itself, however it came here.
fn superseded(models: &[Model]) -> HashSet<BlockHash> {
    let mut superseded = HashSet::new();
    // Who follows comes after whom it follows.
    for model in models.iter().rev() {
        if model.whole || superseded.contains(&model.block) {
            superseded.extend(&model.follows);
        }
    }
    superseded
}

impl Chain {
    /// Deletes payload files that no block names, and those of weights (kinds 16 to 31) that are needed by
    /// nothing retained. A block that is retained retains what it depends on, not what it follows or was made
    /// from; only a delta means nothing without its base. Payloads of other kinds always stay: they are small, or evidence.
    ///
    /// Weights that are in no model and no release yet, such as candidates, are not retained unless
    /// `roots` names them. A model that is open keeps what it has mapped already. Other writers wait.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`] for a root, [`ChainError::Damaged`] if not every block can be read,
    /// [`ChainError::Cancelled`]: nothing was deleted then. [`ChainError::Storage`]: what was not deleted
    /// yet goes next time.
    pub fn collect(&self, options: &CollectOptions<'_>) -> Result<CollectReport, ChainError> {
        if options.dry_run {
            return Ok(self.plan_collection(options)?.report());
        }
        // No block can begin to rely on a file while the transaction is open.
        let mut batch = self.0.index.begin_write()?;
        let mut plan = self.plan_collection(options)?;
        for file in &plan.stray {
            self.remove_payload(&file.payload)?;
        }
        let blocks = batch.read(tables::next_number)?;
        let has_collected = batch.read(tables::has_collected)?;
        let mut dirty = !plan.dropped.is_empty();
        if dirty {
            let dropped: Vec<PayloadHash> = plan.dropped.iter().map(|file| file.payload).collect();
            batch.write(|transaction| tables::insert_collected(transaction, &dropped))?;
        }
        if has_collected {
            // Noted by a collection that was interrupted before it deleted them, and needed again.
            for PayloadFile { payload, .. } in &plan.retained {
                dirty |= batch.write(|transaction| tables::remove_collected(transaction, payload))?;
            }
        }
        if !dirty {
            return Ok(plan.report());
        }
        batch.commit()?;
        batch = self.0.index.begin_write()?;
        if batch.read(tables::next_number)? != blocks {
            // A writer came between, perhaps with a model or a release that needs some of it.
            plan.retain_as(&self.plan_collection(&CollectOptions { cancel: None, ..*options })?);
            let mut dirty = false;
            for PayloadFile { payload, .. } in &plan.retained {
                dirty |= batch.write(|transaction| tables::remove_collected(transaction, payload))?;
            }
            if dirty {
                batch.commit()?;
                batch = self.0.index.begin_write()?;
            }
        }
        for PayloadFile { payload, .. } in &plan.dropped {
            // Or with a block that brought it once more.
            if batch.read(|transaction| tables::is_collected_in(transaction, payload))? {
                self.remove_payload(payload)?;
            }
        }
        Ok(plan.report())
    }

    fn plan_collection(&self, options: &CollectOptions<'_>) -> Result<Plan, ChainError> {
        let stop = || match options.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(ChainError::Cancelled),
            _ => Ok(()),
        };
        let listed = self.0.medium.list_payloads();
        let listed = listed.map_err(StorageError::io("list", PathBuf::from("payloads")))?;
        let files: HashSet<PayloadHash> = listed.iter().map(|(payload, _)| *payload).collect();
        let mut known: HashMap<BlockHash, Known> = HashMap::new();
        let mut models = Vec::new();
        let mut roots = Vec::new();
        for block in self.topological_order() {
            stop()?;
            let block = block?;
            let header = block.header();
            let needs = match header.kind {
                BlockKind::DELTA => parents_of(&block, &[ParentRole::Dependency, ParentRole::Base]),
                _ => parents_of(&block, &[ParentRole::Dependency]),
            };
            let payload = (!tables::is_inline(header)).then_some(header.payload.hash);
            let is_weights = header.kind.is_weights();
            // Parents come first.
            let whole = (!is_weights || payload.is_none_or(|payload| files.contains(&payload)))
                && needs.iter().all(|need| known.get(need).is_some_and(|need| need.whole));
            match header.kind {
                BlockKind::MODEL => {
                    let follows = parents_of(&block, &[ParentRole::Predecessor]);
                    models.push(Model { block: block.hash(), follows, whole });
                }
                BlockKind::RELEASE => roots.push(block.hash()),
                _ => {}
            }
            known.insert(block.hash(), Known { needs, payload, is_weights, whole });
        }
        let mut open: Vec<BlockHash> = match options.roots {
            Some(roots) => roots.to_vec(),
            None => {
                let superseded = superseded(&models);
                roots.extend(
                    models.iter().map(|model| model.block).filter(|model| !superseded.contains(model)),
                );
                roots
            }
        };
        if let Some(block) = open.iter().find(|root| !known.contains_key(*root)) {
            return Err(ChainError::NotFound { block: *block });
        }
        let mut reached = HashSet::new();
        while let Some(hash) = open.pop() {
            if !reached.insert(hash) {
                continue;
            }
            let Some(block) = known.get(&hash) else {
                // Whose child it was is told by a verification.
                let reason = Damage::HeaderMissing;
                return Err(ChainError::Damaged { block: hash, reason });
            };
            open.extend(&block.needs);
        }
        let mut retained: HashSet<PayloadHash> = HashSet::new();
        let mut carriers: HashMap<PayloadHash, Vec<BlockHash>> = HashMap::new();
        for (hash, block) in &known {
            let Some(payload) = block.payload else { continue };
            if !block.is_weights || reached.contains(hash) {
                retained.insert(payload);
            }
            carriers.entry(payload).or_default().push(*hash);
        }
        let mut plan = Plan::default();
        for (payload, len_bytes) in listed {
            let blocks = carriers.remove(&payload);
            let files = match &blocks {
                _ if retained.contains(&payload) => &mut plan.retained,
                Some(_) => &mut plan.dropped,
                None => &mut plan.stray,
            };
            files.push(PayloadFile { payload, len_bytes, blocks: blocks.unwrap_or_default() });
        }
        plan.dropped.sort_unstable_by_key(|file| file.payload);
        stop()?;
        Ok(plan)
    }

    /// Refuses weights whose payload was collected and has not come back.
    pub(crate) fn refuse_collected(
        &self,
        weights: impl IntoIterator<Item = (BlockHash, PayloadHash)>,
    ) -> Result<(), ChainError> {
        let reader = self.reader()?;
        for (block, payload) in weights {
            // A collection that was interrupted left some of what it noted.
            if reader.is_collected(&payload)? && !self.payloads().holds(&payload)? {
                return Err(ChainError::PayloadCollected { block, payload });
            }
        }
        Ok(())
    }

    /// The payload files of every block.
    pub(super) fn named_payloads(&self) -> Result<HashSet<PayloadHash>, ChainError> {
        let mut named = HashSet::new();
        for block in self.topological_order() {
            let block = block?;
            if !tables::is_inline(block.header()) {
                named.insert(block.header().payload.hash);
            }
        }
        Ok(named)
    }

    /// Deletes a payload file. The caller holds a transaction and knows that it may go.
    pub(super) fn remove_payload(&self, payload: &PayloadHash) -> Result<(), ChainError> {
        self.payloads().forget(payload);
        let removed = self.0.medium.remove_payload(payload);
        Ok(removed.map_err(StorageError::io("delete payload", PathBuf::from(payload.to_string())))?)
    }
}
