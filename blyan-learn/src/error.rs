//! Owns [`LearnError`].

use blyan_core::chain::ChainError;
use blyan_core::kernels::KernelError;
use blyan_core::manager::ManagerError;
use blyan_core::tensor::TensorError;
use blyan_core::{DType, Slot};

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// The chain failed, or refused a candidate.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A snapshot or a delta.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// A block's tensors, or trained ones that do not fit its type.
    #[error("{slot}: {source}")]
    Tensor {
        /// The slot.
        slot: Slot,
        /// Why.
        source: Box<TensorError>,
    },
    /// Weights that a kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// candle.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// An option out of range.
    #[error("{option} = {value}: expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// Nothing would be trained.
    #[error("no slot was named: name the experts or routers to train")]
    NoSlots,
    /// A slot that the model has no block of weights in.
    #[error("the model has no weights in {slot}")]
    UnknownSlot {
        /// The slot.
        slot: Slot,
    },
    /// A slot without a matrix, in a form that only matrices have.
    #[error("{slot} has no matrix: train its full weights, a delta is added to matrices")]
    NoMatrix {
        /// The slot.
        slot: Slot,
    },
    /// The balancing loss over layers that it is not defined for.
    #[error("the balancing loss needs layers of one number of experts, this model has {found:?}")]
    Balance {
        /// Numbers of experts of the layers that route.
        found: Vec<usize>,
    },
    /// Too little text.
    #[error("{found} tokens are too few: expected at least {needed}")]
    FewTokens {
        /// Tokens given.
        found: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {index} is {token}, outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// Its place.
        index: usize,
        /// The id.
        token: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A loss that is no number: nothing was changed by this step.
    #[error("the loss of step {step} is {loss}: lower the learning rate")]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// No thread could be started.
    #[error("no threads to compute with: {reason}")]
    Threads {
        /// What the system said.
        reason: String,
    },
    /// More memory than the system gives.
    #[error("no memory for weights of {len_bytes} bytes: take a smaller model, fewer slots or a lower rank")]
    Memory {
        /// Bytes asked for.
        len_bytes: usize,
    },
    /// Bytes that are no checkpoint of a training run.
    #[error("no checkpoint of a training run: {reason}")]
    Checkpoint {
        /// What is wrong with them.
        reason: String,
    },
    /// A checkpoint of another run.
    #[error("the checkpoint is of another run: its {field} is {found}, this one's {expected}")]
    OtherRun {
        /// What differs.
        field: String,
        /// Value in the checkpoint.
        found: String,
        /// Value of this run.
        expected: String,
    },
    /// A form that a model without blocks cannot be written in.
    #[error("a model trained from nothing has no base: write the whole model")]
    NoBase,
    /// A type that weights cannot be written in here.
    #[error("cannot write a new model in {dtype}: expected F32, BF16 or F16")]
    WholeModel {
        /// The type.
        dtype: DType,
    },
}
