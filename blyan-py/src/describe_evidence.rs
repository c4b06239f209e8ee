//! Owns what errors of evidence are in Python, as `describe` does for all others.

use blyan_core::chain::ValidationError;
use blyan_core::evolve::dataset::{DatasetError, DatasetRule};
use blyan_core::evolve::{
    ContributeError, EvaluateError, EvolveError, ExtractError, InvalidEvidence, PolicyError, RoundError,
    StepError,
};

use crate::describe::{Description, Field, Fields, chain, fields, import, manager, tensor};

const INVALID: &str = "EvidenceError";
const STEP: &str = "StepError";
const EXTRACT: &str = "ExtractError";

pub(crate) fn evolve(error: &EvolveError) -> Description {
    match error {
        EvolveError::Chain(error) => chain(error),
        EvolveError::Manager(error) => manager(error),
        EvolveError::Import(error) => import(error),
        EvolveError::Evaluate(EvaluateError::Manager(error)) => manager(error),
        EvolveError::Evaluate(EvaluateError::TooFewTokens { tokens }) => {
            ("OptionError", "too_few_tokens", fields![tokens])
        }
        EvolveError::Evaluate(EvaluateError::Cancelled) => ("Cancelled", "cancelled", vec![]),
        EvolveError::Evaluate(_) => ("OptionError", "evaluate", vec![]),
        EvolveError::Step(error) => step(error),
        EvolveError::WrongKind { block, found, expected } => {
            (INVALID, "wrong_kind", fields![block, found, expected])
        }
        EvolveError::InvalidBlock { block, source } => {
            let (code, mut all) = invalid(source);
            all.retain(|(name, _)| *name != "block");
            all.extend(fields![block]);
            (INVALID, code, all)
        }
        EvolveError::Invalid(reason) => {
            let (code, all) = invalid(reason);
            (INVALID, code, all)
        }
        EvolveError::Dataset(error) => dataset(error),
        EvolveError::Extract(error) => extract(error),
        EvolveError::Contribute(error) => contribute(error),
        EvolveError::NoReceipts => ("OptionError", "no_receipts", vec![]),
        EvolveError::UntrueReceipt { receipt, difference } => {
            (STEP, "untrue_receipt", fields![receipt, difference])
        }
        _ => (INVALID, "evidence", vec![]),
    }
}

/// What a block that is no valid evidence is refused for, as a word.
pub(crate) fn refused_for(source: &ValidationError) -> Option<&'static str> {
    source.downcast_ref().map(|reason| invalid(reason).0)
}

fn step(error: &StepError) -> Description {
    match error {
        StepError::SplitKnown { tokens } => (STEP, "split_known", fields![tokens]),
        StepError::NoClaims { round } => (STEP, "no_claims", fields![round]),
        StepError::AlreadyClosed { round, closing } => (STEP, "already_closed", fields![round, closing]),
        StepError::NotClosed { claim } => (STEP, "not_closed", fields![claim]),
        StepError::NoClosing { round } => (STEP, "no_closing", fields![round]),
        StepError::NoCandidates { round } => (STEP, "no_candidates", fields![round]),
        StepError::AlreadyRevealed { round, reveal } => (STEP, "already_revealed", fields![round, reveal]),
        StepError::RoundRefused { round, reason } => {
            let mut all = fields![round];
            all.push(("reason", Field::Text(reason.code().to_owned())));
            (STEP, "round_refused", all)
        }
        StepError::StaleBase { round, base, chosen } => (STEP, "stale_base", fields![round, base, chosen]),
        StepError::SplitReused { round, tokens, reveal } => {
            (STEP, "split_reused", fields![round, tokens, reveal])
        }
        StepError::AlreadyAttested { reveal, attestation } => {
            (STEP, "already_attested", fields![reveal, attestation])
        }
        _ => (STEP, "step", vec![]),
    }
}

fn dataset(error: &DatasetError) -> Description {
    match error {
        DatasetError::NoTokenizer => (STEP, "no_tokenizer", vec![]),
        DatasetError::NotAudited { dataset } => (STEP, "not_audited", fields![dataset]),
        DatasetError::AlreadyVoted { key, vote } => (STEP, "already_voted", fields![key, vote]),
        DatasetError::Quorum { votes, quorum } => (STEP, "quorum", fields![votes, quorum]),
        DatasetError::NoTally { dataset } => (STEP, "no_tally", fields![dataset]),
        DatasetError::FalseAudit { audit, key } => (STEP, "false_audit", fields![audit, key]),
        _ => (STEP, "dataset", vec![]),
    }
}

fn contribute(error: &ContributeError) -> Description {
    match error {
        ContributeError::Nothing => ("OptionError", "nothing_to_contribute", vec![]),
        ContributeError::WrongSlot { slot, block, name } => (STEP, "wrong_slot", fields![slot, block, name]),
        ContributeError::Unchanged { slot, block } => (STEP, "unchanged", fields![slot, block]),
        ContributeError::Copy { slot, block, candidate } => (STEP, "copy", fields![slot, block, candidate]),
        ContributeError::ClosedBefore { round, closing } => (STEP, "closed_before", fields![round, closing]),
        ContributeError::RevealedBefore { round, reveal } => {
            (STEP, "revealed_before", fields![round, reveal])
        }
        _ => (STEP, "contribute", vec![]),
    }
}

fn extract(error: &ExtractError) -> Description {
    match error {
        ExtractError::Nothing => ("OptionError", "nothing_to_extract", vec![]),
        ExtractError::Target { block, kind } => (EXTRACT, "target", fields![block, kind]),
        ExtractError::NoSource { slot } => (EXTRACT, "no_source", fields![slot]),
        ExtractError::SlotTwice { slot } => (EXTRACT, "slot_twice", fields![slot]),
        ExtractError::NotDivisible { slot } => (EXTRACT, "not_divisible", fields![slot]),
        ExtractError::Row { slot, row, rows } => (EXTRACT, "row", fields![slot, row, rows]),
        ExtractError::Quantized { slot, tensor, dtype } => {
            (EXTRACT, "quantized", fields![slot, tensor, dtype])
        }
        ExtractError::DoesNotFit { to, .. } => (EXTRACT, "does_not_fit", vec![("slot", Field::from(to))]),
        ExtractError::Tensor { slot, source } => {
            let (_, code, mut all) = tensor(source);
            all.extend(fields![slot]);
            (EXTRACT, code, all)
        }
        ExtractError::Cancelled => ("Cancelled", "cancelled", vec![]),
        _ => (EXTRACT, "extract", vec![]),
    }
}

fn invalid(error: &InvalidEvidence) -> (&'static str, Fields) {
    match error {
        InvalidEvidence::TooLong { kind, len_bytes, limit_bytes } => {
            ("too_long", fields![kind, len_bytes, limit_bytes])
        }
        InvalidEvidence::Json { kind, reason } => ("json", fields![kind, reason]),
        InvalidEvidence::NotCanonical { kind } => ("not_canonical", fields![kind]),
        InvalidEvidence::FormatVersion { kind, found } => ("format_version", fields![kind, found]),
        InvalidEvidence::Header { field, found, expected } => ("header", fields![field, found, expected]),
        InvalidEvidence::Parents { block } => ("parents", fields![block]),
        InvalidEvidence::ParentKind { block, found, expected } => {
            ("parent_kind", fields![block, found, expected])
        }
        InvalidEvidence::ForeignKind { kind } => ("foreign_kind", fields![kind]),
        InvalidEvidence::Signature { kind, key } => ("signature", fields![kind, key]),
        InvalidEvidence::NotAValidator { key, policy } => ("not_a_validator", fields![key, policy]),
        InvalidEvidence::NotAVoter { key, policy } => ("not_a_voter", fields![key, policy]),
        InvalidEvidence::Policy(error) => policy(error),
        InvalidEvidence::Round(error) => round(error),
        InvalidEvidence::TokensLength { len_bytes } => ("tokens_length", fields![len_bytes]),
        InvalidEvidence::Dataset(error) => rule(error),
        InvalidEvidence::Manifest(_) => ("manifest", vec![]),
        InvalidEvidence::Spec(_) => ("spec", vec![]),
        InvalidEvidence::Chain(error) => {
            let (_, code, all) = chain(error);
            (code, all)
        }
        _ => ("invalid", vec![]),
    }
}

fn policy(error: &PolicyError) -> (&'static str, Fields) {
    match error {
        PolicyError::Key { key } => ("policy_key", fields![key]),
        PolicyError::Required { required, validators } => ("policy_required", fields![required, validators]),
        PolicyError::Quorum { quorum, voters } => ("policy_quorum", fields![quorum, voters]),
        PolicyError::ForeignTokenizer { dataset } => ("foreign_tokenizer", fields![dataset]),
        PolicyError::OutOfRange { field, found, least, most } => {
            ("out_of_range", fields![field, found, least, most])
        }
        _ => ("policy", vec![]),
    }
}

fn rule(error: &DatasetRule) -> (&'static str, Fields) {
    match error {
        DatasetRule::Field { .. } => ("dataset_field", vec![]),
        DatasetRule::ContentHash { found, expected } => ("content_hash", fields![found, expected]),
        DatasetRule::NumTokens { found, expected } => ("num_tokens", fields![found, expected]),
        DatasetRule::OutOfVocabulary { token, position, vocab_size } => {
            ("out_of_vocabulary", fields![token, position, vocab_size])
        }
        DatasetRule::Predecessor { name, version } => ("dataset_predecessor", fields![name, version]),
        DatasetRule::OtherBlock { field, found, expected } => {
            ("other_block", fields![field, found, expected])
        }
        DatasetRule::Findings { .. } => ("findings", vec![]),
        DatasetRule::TextFindings { .. } => ("text_findings", vec![]),
        DatasetRule::Tier { tier } => ("tier", vec![("tier", Field::Text(tier.to_string()))]),
        DatasetRule::Unfit { audit } => ("unfit", fields![audit]),
        DatasetRule::OtherSubject { block } => ("other_subject", fields![block]),
        DatasetRule::CountedTwice { key } => ("counted_twice", fields![key]),
        DatasetRule::Counts { .. } => ("counts", vec![]),
        DatasetRule::Quorum { votes, quorum } => ("quorum", fields![votes, quorum]),
        DatasetRule::Ruling { .. } => ("ruling", vec![]),
        _ => ("dataset", vec![]),
    }
}

fn round(error: &RoundError) -> (&'static str, Fields) {
    match error {
        RoundError::OtherPolicy { block, found, expected } => {
            ("other_policy", fields![block, found, expected])
        }
        RoundError::Unrelated { block, kind, found, expected } => {
            ("unrelated", fields![block, kind, found, expected])
        }
        RoundError::FirstBase { found, expected } => ("first_base", fields![found, expected]),
        RoundError::SplitSize { tokens, least, most } => ("split_size", fields![tokens, least, most]),
        RoundError::NotTheOwner { key, owner } => ("not_the_owner", fields![key, owner]),
        RoundError::NotWeights { slot } => ("not_weights", fields![slot]),
        RoundError::UnknownSlot { slot } => ("unknown_slot", fields![slot]),
        RoundError::Unchanged { slot, block } => ("unchanged", fields![slot, block]),
        RoundError::WrongBlock { slot, block, kind, name } => {
            ("wrong_block", fields![slot, block, kind, name])
        }
        RoundError::SameSlot { slot } => ("same_slot", fields![slot]),
        RoundError::NotJudged { candidate } => ("not_judged", fields![candidate]),
        RoundError::OtherData { expected } => ("other_data", fields![expected]),
        RoundError::NoDifference => ("no_difference", vec![]),
        RoundError::OwnAttestation { key } => ("own_attestation", fields![key]),
        _ => ("round", vec![]),
    }
}
