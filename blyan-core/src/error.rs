//! Owns [`Error`]: every layer's own error under one roof, for programs that only pass them on.

use crate::chain::ChainError;
use crate::evolve::EvolveError;
use crate::import::{ExportError, ImportError};
use crate::manager::ManagerError;
use crate::tensor::TensorError;
use crate::usage::UsageError;

/// Anything that this library can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A chain and its blocks.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Tensors of a block.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A checkpoint on its way in.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A checkpoint on its way out.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A model, what it was asked for, a receipt.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// Counts of use.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Evidence: policies, datasets, votes.
    #[error(transparent)]
    Evolve(#[from] EvolveError),
}
