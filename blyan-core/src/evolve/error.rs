//! Owns [`EvolveError`].

use super::dataset::DatasetError;
use super::{ContributeError, EvaluateError, ExtractError, InvalidEvidence, RoundError, StepError};
use crate::chain::ChainError;
use crate::format::BlockKind;
use crate::hash::BlockHash;
use crate::import::ImportError;
use crate::manager::ManagerError;

/// What can go wrong with evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvolveError {
    /// The chain failed, refused a block, or lacks one.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A model, or text and tokens.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// Evaluating a model.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// A step of a round that cannot be taken.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A block of another kind than is needed.
    #[error("block {block} is a {found} block: a {expected} block is needed")]
    WrongKind {
        /// The block.
        block: BlockHash,
        /// What it is.
        found: BlockKind,
        /// What is needed.
        expected: BlockKind,
    },
    /// A stored block that is not valid: the chain was written without this library's validators.
    #[error("block {block} is no valid evidence: {source}")]
    InvalidBlock {
        /// The block.
        block: BlockHash,
        /// Why.
        source: Box<InvalidEvidence>,
    },
    /// What was to be appended is not valid evidence.
    #[error(transparent)]
    Invalid(#[from] InvalidEvidence),
    /// What was asked of a dataset cannot be.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A checkpoint that weights are taken from.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Weights that cannot be taken.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// A contribution that can earn nothing.
    #[error(transparent)]
    Contribute(#[from] ContributeError),
    /// No receipts were named.
    #[error("nothing to record: name at least one receipt block")]
    NoReceipts,
    /// A receipt that running it again does not give.
    #[error("receipt {receipt} is not what running it again gives, first at {difference}")]
    UntrueReceipt {
        /// The receipt block.
        receipt: BlockHash,
        /// JSON pointer to the first leaf that differs.
        difference: String,
    },
}

impl From<RoundError> for EvolveError {
    fn from(error: RoundError) -> Self {
        Self::Invalid(error.into())
    }
}

impl EvolveError {
    /// Why a block is no valid evidence, if that is what went wrong: also when the chain refused it.
    pub fn reason(&self) -> Option<&InvalidEvidence> {
        match self {
            Self::Invalid(reason) => Some(reason),
            Self::InvalidBlock { source, .. } => Some(source),
            Self::Chain(ChainError::Refused { source, .. }) => source.downcast_ref(),
            _ => None,
        }
    }
}
