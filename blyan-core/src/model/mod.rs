//! Owns the forward pass: token ids and a KV cache in, logits and the experts that were used out.
//!
//! The model borrows verified tensors through a [`BlockSource`], opens no file, and *returns* which
//! experts it routed to; counting them is for others. docs/numerics.md defines the arithmetic.

mod attention;
mod buffers;
mod feed_forward;
mod forward;
mod huge_pages;
mod kv_cache;
mod matmul;
mod residency;
mod rope;
mod team;
mod weights;

pub use feed_forward::LayerRouting;
pub(crate) use forward::Pass;
pub use forward::{Decoder, Logits, Step, StepOutput};
pub use kv_cache::{KvCache, KvDType, UnknownKvDType};
pub use residency::{BlockSource, ResidencyReport};
pub use rope::Rope;

use crate::format::Slot;
use crate::kernels::KernelError;
use crate::tensor::TensorError;

/// What can go wrong in a forward pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A slot's block cannot be read.
    #[error("{slot}: {source}")]
    Tensor {
        /// The slot.
        slot: Slot,
        /// Why.
        source: Box<TensorError>,
    },
    /// A tensor has another shape or dtype than the spec asks for.
    #[error("{slot}: tensor {tensor} is {found}, the model's spec needs {expected}")]
    WrongTensor {
        /// The slot.
        slot: Slot,
        /// The tensor's name in its block.
        tensor: String,
        /// What the block has.
        found: String,
        /// What the spec asks for.
        expected: String,
    },
    /// A block holds tensors that the spec has no use for.
    #[error("{slot}: the block holds {found} tensors, the model's spec uses {expected}")]
    TensorCount {
        /// The slot.
        slot: Slot,
        /// Tensors in the block.
        found: usize,
        /// Tensors that the spec uses.
        expected: usize,
    },
    /// A slot that the spec does not have.
    #[error("the model's spec has no slot {slot}")]
    UnknownSlot {
        /// The slot.
        slot: Slot,
    },
    /// A token id outside the vocabulary.
    #[error("token id {token} is outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// More positions than the model was made for.
    #[error("the context is full: {needed} positions are needed, the model has {capacity}")]
    ContextFull {
        /// Positions that the call needs.
        needed: usize,
        /// Positions that the model has.
        capacity: usize,
    },
    /// A KV cache of another model.
    #[error("the KV cache was made for a model of another shape")]
    ForeignCache,
    /// No token was given.
    #[error("there is no token to compute: give at least one")]
    NoTokens,
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}
