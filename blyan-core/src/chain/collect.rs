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
    /// base's; `None` for every release and every model that no other model follows.
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

/// What a collection will do.
#[derive(Default)]
struct Plan {
    report: CollectReport,
    stray: Vec<PayloadHash>,
    dropped: Vec<PayloadHash>,
    retained: Vec<PayloadHash>,
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
            return Ok(self.plan_collection(options)?.report);
        }
        // No block can begin to rely on a file while the transaction is open.
        let mut batch = self.0.index.begin_write()?;
        let plan = self.plan_collection(options)?;
        for payload in &plan.stray {
            self.remove_payload(payload)?;
        }
        let has_collected = batch.read(tables::has_collected)?;
        let mut dirty = !plan.dropped.is_empty();
        if dirty {
            batch.write(|transaction| tables::insert_collected(transaction, &plan.dropped))?;
        }
        if has_collected {
            // Noted by a collection that was interrupted before it deleted them, and needed again.
            for payload in &plan.retained {
                dirty |= batch.write(|transaction| tables::remove_collected(transaction, payload))?;
            }
        }
        if !dirty {
            return Ok(plan.report);
        }
        batch.commit()?;
        let batch = self.0.index.begin_write()?;
        for payload in &plan.dropped {
            // A writer that came between may have brought a block that needs it.
            if batch.read(|transaction| tables::is_collected_in(transaction, payload))? {
                self.remove_payload(payload)?;
            }
        }
        Ok(plan.report)
    }

    fn plan_collection(&self, options: &CollectOptions<'_>) -> Result<Plan, ChainError> {
        let stop = || match options.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(ChainError::Cancelled),
            _ => Ok(()),
        };
        let mut known: HashMap<BlockHash, Known> = HashMap::new();
        let (mut models, mut followed) = (Vec::new(), HashSet::new());
        let mut roots = Vec::new();
        for block in self.topological_order() {
            stop()?;
            let block = block?;
            let header = block.header();
            match header.kind {
                BlockKind::MODEL => {
                    models.push(block.hash());
                    followed.extend(parents_of(&block, &[ParentRole::Predecessor]));
                }
                BlockKind::RELEASE => roots.push(block.hash()),
                _ => {}
            }
            let needs = match header.kind {
                BlockKind::DELTA => parents_of(&block, &[ParentRole::Dependency, ParentRole::Base]),
                _ => parents_of(&block, &[ParentRole::Dependency]),
            };
            let payload = (!tables::is_inline(header)).then_some(header.payload.hash);
            known.insert(block.hash(), Known { needs, payload, is_weights: header.kind.is_weights() });
        }
        let mut open: Vec<BlockHash> = match options.roots {
            Some(roots) => roots.to_vec(),
            None => {
                roots.extend(models.into_iter().filter(|model| !followed.contains(model)));
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
        let listed = self.0.medium.list_payloads();
        let mut plan = Plan::default();
        for (payload, bytes) in listed.map_err(StorageError::io("list", PathBuf::from("payloads")))? {
            let report = &mut plan.report;
            let (count, sum) = if retained.contains(&payload) {
                plan.retained.push(payload);
                (&mut report.retained_payloads, &mut report.retained_bytes)
            } else if let Some(blocks) = carriers.get(&payload) {
                plan.dropped.push(payload);
                report.blocks.extend(blocks);
                (&mut report.payloads, &mut report.payload_bytes)
            } else {
                plan.stray.push(payload);
                (&mut report.stray_payloads, &mut report.stray_bytes)
            };
            *count += 1;
            *sum = sum.saturating_add(bytes);
        }
        plan.report.blocks.sort_unstable();
        plan.dropped.sort_unstable();
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
            if reader.is_collected(&payload)? {
                let found = self.0.medium.stream_payload(&payload);
                if found
                    .map_err(StorageError::io("open payload", PathBuf::from(payload.to_string())))?
                    .is_none()
                {
                    return Err(ChainError::PayloadCollected { block, payload });
                }
            }
        }
        Ok(())
    }

    /// The payloads of every block.
    pub(super) fn named_payloads(&self) -> Result<HashSet<PayloadHash>, ChainError> {
        self.topological_order().map(|block| Ok(block?.header().payload.hash)).collect()
    }

    /// Deletes a payload file. The caller holds a transaction and knows that it may go.
    pub(super) fn remove_payload(&self, payload: &PayloadHash) -> Result<(), ChainError> {
        self.payloads().forget(payload);
        let removed = self.0.medium.remove_payload(payload);
        Ok(removed.map_err(StorageError::io("delete payload", PathBuf::from(payload.to_string())))?)
    }
}
