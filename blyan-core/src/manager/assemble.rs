//! Owns what an open model is put together from: threads, the decoder on its pinned blocks, the counts of
//! use; and putting it together again in a process made by `fork`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{ManagerError, MoEModelManager, Model, Snapshot};
use crate::chain::ChainError;
use crate::format::{FeedForward, Slot};
use crate::hash::BlockHash;
use crate::kernels::Isa;
use crate::model::{BlockSource, Decoder};
use crate::storage::PayloadStore;
use crate::storage::trust::TrustRecord;
use crate::tensor::{TensorBlock, TensorError};
use crate::usage::{UsageLayout, UsageTracker};

/// Where usage is stored in a chain's directory; not part of the chain.
pub(super) const USAGE_FOLDER: &str = "usage";
/// How often usage is stored.
const USAGE_INTERVAL: Duration = Duration::from_secs(10);

/// The routed experts of a model; a dense layer has none.
fn usage_layout(snapshot: &Snapshot, model: BlockHash) -> UsageLayout {
    let experts = (0..).zip(&snapshot.spec().layers).map(|(layer, spec)| match spec.feed_forward {
        FeedForward::Dense { .. } => Vec::new(),
        FeedForward::Moe { num_experts, .. } => {
            let slots = (0..num_experts as u32).map(|expert| Slot::Expert { layer, expert });
            slots.filter_map(|slot| Some(snapshot.slots().get(&slot)?.block)).collect()
        }
    });
    UsageLayout { model, experts: experts.collect() }
}

/// The weights that a snapshot pins, read through the payload store alone.
struct PinnedBlocks {
    payloads: Arc<PayloadStore>,
    snapshot: Snapshot,
    /// What was verified before, if the caller relies on that.
    record: Option<Arc<TrustRecord>>,
}

impl BlockSource for PinnedBlocks {
    fn tensor_block(&self, slot: Slot) -> Result<TensorBlock, TensorError> {
        let pinned = self.snapshot.slots().get(&slot);
        let missing = || TensorError::Missing { tensor: slot.to_string(), present: Vec::new() };
        let pinned = pinned.ok_or_else(missing)?;
        let payload = match &self.record {
            Some(record) => self.payloads.get_recorded(&pinned.payload, pinned.len_bytes, record),
            None => self.payloads.get(&pinned.payload, pinned.len_bytes),
        };
        let payload = payload.map_err(ChainError::from)?;
        TensorBlock::from_payload(payload)
    }

    fn has(&self, slot: Slot) -> bool {
        self.snapshot.slots().contains_key(&slot)
    }
}

fn pinned_blocks(
    snapshot: &Snapshot,
    payloads: &Arc<PayloadStore>,
    record: Option<&Arc<TrustRecord>>,
) -> Box<PinnedBlocks> {
    let (payloads, record) = (Arc::clone(payloads), record.cloned());
    Box::new(PinnedBlocks { payloads, snapshot: snapshot.clone(), record })
}

pub(super) fn decoder(
    snapshot: &Snapshot,
    payloads: &Arc<PayloadStore>,
    record: Option<&Arc<TrustRecord>>,
    isa: Isa,
    threads: usize,
) -> Result<Decoder, ManagerError> {
    let source = pinned_blocks(snapshot, payloads, record);
    Decoder::new(Arc::clone(snapshot.spec()), source, isa, threads).map_err(ManagerError::Threads)
}

/// A decoder on another's threads.
pub(super) fn decoder_beside(
    other: &Decoder,
    snapshot: &Snapshot,
    payloads: &Arc<PayloadStore>,
    record: Option<&Arc<TrustRecord>>,
) -> Decoder {
    other.beside(Arc::clone(snapshot.spec()), pinned_blocks(snapshot, payloads, record))
}

pub(super) fn usage_tracker(snapshot: &Snapshot, model: BlockHash, dir: Option<&Path>) -> UsageTracker {
    UsageTracker::open(usage_layout(snapshot, model), dir).flush_every(USAGE_INTERVAL)
}

impl MoEModelManager {
    /// The same model with threads, mapped blocks and counts of its own. Asks no chain.
    ///
    /// A process made by `fork` has none of its parent's threads, so a model from there would wait
    /// for them without end: reopen it, and forget the old one instead of dropping it, since dropping
    /// waits for its threads too. Blocks are verified again when they are first needed.
    ///
    /// # Errors
    ///
    /// [`ManagerError::Threads`].
    pub fn reopen(&self) -> Result<Self, ManagerError> {
        let model = &*self.0;
        // A store and a record of its own: another thread may have held the locks of the old ones in the moment
        // of the fork. Without a record blocks are verified, which is no reason to fail.
        let payloads = Arc::new(model.payloads.reopen());
        let record = model.record.as_ref().and_then(|record| record.reopen().ok()).map(Arc::new);
        Ok(Self(Arc::new(Model {
            block: model.block,
            decoder: decoder(
                &model.snapshot,
                &payloads,
                record.as_ref(),
                model.decoder.isa(),
                self.threads(),
            )?,
            usage: usage_tracker(&model.snapshot, model.block, model.usage_dir.as_deref()),
            snapshot: model.snapshot.clone(),
            tokenizer: model.tokenizer.clone(),
            chat_templates: model.chat_templates.clone(),
            kv_cache: model.kv_cache,
            prefill_chunk: model.prefill_chunk,
            payloads,
            record,
            usage_dir: model.usage_dir.clone(),
        })))
    }
}
