//! Owns which slots of a model are in memory: each is opened on first use and kept.
//!
//! The model never opens a file: a [`BlockSource`] gives it blocks whose payloads were verified.

use std::sync::OnceLock;

use crate::format::{FeedForward, ModelSpec, Slot};
use crate::tensor::{TensorBlock, TensorError};

use super::ModelError;
use super::team::Team;
use super::weights::{
    AttentionWeights, ExpertWeights, Linear, Norm, PayloadBytes, read_final_norm, read_matrix,
};

/// Where a model's verified blocks come from.
pub trait BlockSource: Send + Sync {
    /// The block in `slot`, its payload checked against its hash.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if it is missing or damaged.
    fn tensor_block(&self, slot: Slot) -> Result<TensorBlock, TensorError>;

    /// Whether the model pins a block in `slot`.
    fn has(&self, slot: Slot) -> bool;
}

/// Weights of one layer, as far as they were needed.
#[derive(Debug)]
struct LayerSlots {
    attention: OnceLock<AttentionWeights>,
    router: OnceLock<Linear>,
    experts: Vec<OnceLock<ExpertWeights>>,
    shared_expert: OnceLock<ExpertWeights>,
}

/// All slots of a model.
pub(crate) struct Residency {
    source: Box<dyn BlockSource>,
    embedding: OnceLock<Linear>,
    layers: Vec<LayerSlots>,
    final_norm: OnceLock<Norm>,
    head: OnceLock<Linear>,
}

/// What a model has touched so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResidencyReport {
    /// Weight blocks whose payload was verified and mapped.
    pub blocks_verified: u64,
    /// Their payloads' bytes.
    pub bytes_mapped: u64,
    /// How many of those blocks are routed experts.
    pub experts_touched: u64,
}

/// The slot's weights, opened now if nobody did before. Two threads may race to open a slot: both
/// verify it and the first to finish is kept, so no lock is held while a pool works.
fn get_or_open<T>(
    cell: &OnceLock<T>,
    open: impl FnOnce() -> Result<T, ModelError>,
) -> Result<&T, ModelError> {
    if let Some(weights) = cell.get() {
        return Ok(weights);
    }
    let opened = open()?;
    Ok(cell.get_or_init(|| opened))
}

impl Residency {
    pub(crate) fn new(spec: &ModelSpec, source: Box<dyn BlockSource>) -> Self {
        let layers = spec.layers.iter().map(|layer| {
            let experts = match layer.feed_forward {
                FeedForward::Dense { .. } => 1,
                FeedForward::Moe { num_experts, .. } => num_experts,
            };
            LayerSlots {
                attention: OnceLock::new(),
                router: OnceLock::new(),
                experts: (0..experts).map(|_| OnceLock::new()).collect(),
                shared_expert: OnceLock::new(),
            }
        });
        Self {
            source,
            embedding: OnceLock::new(),
            layers: layers.collect(),
            final_norm: OnceLock::new(),
            head: OnceLock::new(),
        }
    }

    fn block(&self, slot: Slot) -> Result<TensorBlock, ModelError> {
        let wrap = |source| ModelError::Tensor { slot, source: Box::new(source) };
        self.source.tensor_block(slot).map_err(wrap)
    }

    pub(crate) fn embedding(&self, spec: &ModelSpec) -> Result<&Linear, ModelError> {
        get_or_open(&self.embedding, || {
            let block = self.block(Slot::Embedding)?;
            read_matrix(spec, Slot::Embedding, "embed_tokens", &block)
        })
    }

    pub(crate) fn attention(&self, spec: &ModelSpec, layer: usize) -> Result<&AttentionWeights, ModelError> {
        get_or_open(&self.layers[layer].attention, || {
            let layer = layer as u32;
            AttentionWeights::read(spec, layer, &self.block(Slot::Attention { layer })?)
        })
    }

    pub(crate) fn router(&self, spec: &ModelSpec, layer: usize) -> Result<&Linear, ModelError> {
        get_or_open(&self.layers[layer].router, || {
            let slot = Slot::Router { layer: layer as u32 };
            read_matrix(spec, slot, "gate", &self.block(slot)?)
        })
    }

    pub(crate) fn expert(
        &self,
        spec: &ModelSpec,
        layer: usize,
        expert: usize,
    ) -> Result<&ExpertWeights, ModelError> {
        get_or_open(&self.layers[layer].experts[expert], || {
            let slot = Slot::Expert { layer: layer as u32, expert: expert as u32 };
            ExpertWeights::read(spec, slot, &self.block(slot)?)
        })
    }

    /// Opens the experts of a layer that are not open yet, side by side.
    pub(crate) fn experts(
        &self,
        team: &Team,
        spec: &ModelSpec,
        layer: usize,
        experts: &[usize],
    ) -> Result<Vec<&ExpertWeights>, ModelError> {
        let slots = &self.layers[layer].experts;
        let missing: Vec<usize> = experts.iter().copied().filter(|&e| slots[e].get().is_none()).collect();
        team.for_each(missing, |expert| self.expert(spec, layer, expert).map(|_| ()))?;
        experts.iter().map(|&expert| self.expert(spec, layer, expert)).collect()
    }

    pub(crate) fn shared_expert(&self, spec: &ModelSpec, layer: usize) -> Result<&ExpertWeights, ModelError> {
        get_or_open(&self.layers[layer].shared_expert, || {
            let slot = Slot::SharedExpert { layer: layer as u32 };
            ExpertWeights::read(spec, slot, &self.block(slot)?)
        })
    }

    pub(crate) fn final_norm(&self, spec: &ModelSpec) -> Result<&Norm, ModelError> {
        get_or_open(&self.final_norm, || read_final_norm(spec, &self.block(Slot::FinalNorm)?))
    }

    /// The output head: its own block if the model pins one, else the embedding it is tied to.
    pub(crate) fn head(&self, spec: &ModelSpec) -> Result<&Linear, ModelError> {
        if spec.tie_word_embeddings && !self.source.has(Slot::Head) {
            return self.embedding(spec);
        }
        get_or_open(&self.head, || {
            let block = self.block(Slot::Head)?;
            read_matrix(spec, Slot::Head, "lm_head", &block)
        })
    }

    /// Bytes of each open block's payload, experts first.
    pub(crate) fn report(&self) -> ResidencyReport {
        let experts = self.layers.iter().flat_map(|layer| &layer.experts);
        let experts: Vec<usize> = experts.filter_map(|cell| Some(cell.get()?.payload_bytes())).collect();
        let layers = self.layers.iter().flat_map(|layer| {
            let attention = layer.attention.get().map(PayloadBytes::payload_bytes);
            let shared = layer.shared_expert.get().map(PayloadBytes::payload_bytes);
            attention.into_iter().chain(layer.router.get().map(PayloadBytes::payload_bytes)).chain(shared)
        });
        let others: Vec<usize> = layers
            .chain(self.embedding.get().map(PayloadBytes::payload_bytes))
            .chain(self.head.get().map(PayloadBytes::payload_bytes))
            .chain(self.final_norm.get().map(PayloadBytes::payload_bytes))
            .collect();
        ResidencyReport {
            blocks_verified: (experts.len() + others.len()) as u64,
            bytes_mapped: experts.iter().chain(&others).map(|&bytes| bytes as u64).sum(),
            experts_touched: experts.len() as u64,
        }
    }
}
