//! Owns what errors of evidence are in C.

use blyan_core::BlockHash;
use blyan_core::evolve::dataset::DatasetError;
use blyan_core::evolve::{
    ContributeError, EvaluateError, EvolveError, ExtractError, InvalidEvidence, RoundError, StepError,
};

use super::{blyan_status, of_chain, of_import, of_manager, of_tensor};

pub(super) fn of_evolve(error: &EvolveError) -> (blyan_status, Option<BlockHash>) {
    match error {
        EvolveError::Chain(error) => of_chain(error),
        EvolveError::Manager(error) | EvolveError::Evaluate(EvaluateError::Manager(error)) => {
            of_manager(error)
        }
        EvolveError::Evaluate(EvaluateError::Cancelled) => (blyan_status::Cancelled, None),
        EvolveError::Evaluate(_) | EvolveError::NoReceipts => (blyan_status::InvalidArgument, None),
        EvolveError::Step(error) => (blyan_status::Step, of_step(error)),
        EvolveError::WrongKind { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        EvolveError::InvalidBlock { block, .. } => (blyan_status::Evidence, Some(*block)),
        EvolveError::Invalid(error) => of_invalid(error),
        EvolveError::Dataset(error) => of_dataset(error),
        EvolveError::Import(error) => of_import(error),
        EvolveError::Extract(error) => of_extract(error),
        EvolveError::Contribute(error) => of_contribute(error),
        EvolveError::UntrueReceipt { receipt, .. } => (blyan_status::Step, Some(*receipt)),
        _ => (blyan_status::Other, None),
    }
}

/// The block that stands in the way.
fn of_step(error: &StepError) -> Option<BlockHash> {
    match error {
        StepError::SplitKnown { tokens: block }
        | StepError::NoClaims { round: block }
        | StepError::AlreadyClosed { closing: block, .. }
        | StepError::NotClosed { claim: block }
        | StepError::NoClosing { round: block }
        | StepError::NoCandidates { round: block }
        | StepError::AlreadyRevealed { reveal: block, .. }
        | StepError::RoundRefused { round: block, .. }
        | StepError::StaleBase { round: block, .. }
        | StepError::SplitReused { reveal: block, .. }
        | StepError::AlreadyAttested { attestation: block, .. } => Some(*block),
        _ => None,
    }
}

fn of_invalid(error: &InvalidEvidence) -> (blyan_status, Option<BlockHash>) {
    let block = match error {
        InvalidEvidence::Chain(error) => return of_chain(error),
        InvalidEvidence::Parents { block }
        | InvalidEvidence::ParentKind { block, .. }
        | InvalidEvidence::NotAValidator { policy: block, .. }
        | InvalidEvidence::NotAVoter { policy: block, .. } => Some(*block),
        InvalidEvidence::Round(error) => of_round(error),
        _ => None,
    };
    (blyan_status::Evidence, block)
}

fn of_round(error: &RoundError) -> Option<BlockHash> {
    match error {
        RoundError::OtherPolicy { block, .. }
        | RoundError::Unrelated { block, .. }
        | RoundError::FirstBase { found: block, .. }
        | RoundError::NotListed { claim: block }
        | RoundError::Unchanged { block, .. }
        | RoundError::WrongBlock { block, .. }
        | RoundError::NotJudged { candidate: block } => Some(*block),
        _ => None,
    }
}

fn of_dataset(error: &DatasetError) -> (blyan_status, Option<BlockHash>) {
    match error {
        DatasetError::NoTokenizer => (blyan_status::Text, None),
        DatasetError::NotAudited { dataset: block }
        | DatasetError::AlreadyVoted { vote: block, .. }
        | DatasetError::NoTally { dataset: block }
        | DatasetError::FalseAudit { audit: block, .. } => (blyan_status::Step, Some(*block)),
        _ => (blyan_status::Step, None),
    }
}

fn of_extract(error: &ExtractError) -> (blyan_status, Option<BlockHash>) {
    match error {
        ExtractError::Target { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        ExtractError::NoSource { .. } => (blyan_status::NotFound, None),
        ExtractError::Quantized { .. } | ExtractError::DoesNotFit { .. } => (blyan_status::Tensor, None),
        ExtractError::Tensor { source, .. } => of_tensor(source),
        ExtractError::Cancelled => (blyan_status::Cancelled, None),
        // Nothing, a slot twice, what cannot be divided, rows that are not there.
        _ => (blyan_status::InvalidArgument, None),
    }
}

fn of_contribute(error: &ContributeError) -> (blyan_status, Option<BlockHash>) {
    match error {
        ContributeError::Nothing => (blyan_status::InvalidArgument, None),
        ContributeError::WrongSlot { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        ContributeError::Unchanged { block, .. }
        | ContributeError::Copy { candidate: block, .. }
        | ContributeError::ClosedBefore { closing: block, .. }
        | ContributeError::RevealedBefore { reveal: block, .. } => (blyan_status::Step, Some(*block)),
        _ => (blyan_status::Step, None),
    }
}
