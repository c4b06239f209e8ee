//! How a model gets better on evidence: what a policy asks for, who says what, and what follows from it.
//!
//! Everything is a block. A [`Policy`] says whose word counts and how much improvement is enough; a
//! [`Statement`] is what one key says under it; the rest follows from the set of blocks alone, by folds
//! that give everyone with the same blocks the same answer, in whatever order the blocks arrived.
//!
//! Two kinds of rule hold. *A block is valid on its own parents*: the validators here refuse any other
//! when it is appended, and the folds read no block without checking it again, so a chain that was
//! written without validators tells nothing more. *What else exists* is for the folds.
//!
//! ```
//! use blyan_core::evolve::{Evidence, Policy, PublicKey};
//! use blyan_core::import::{self, ImportOptions};
//! use blyan_core::Chain;
//! use ed25519_dalek::SigningKey;
//!
//! # fn main() -> Result<(), blyan_core::Error> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-kjv-moe");
//! let chain = Chain::in_memory()?;
//! let model = import::checkpoint(&chain, folder, &ImportOptions::default())?.model;
//! let key = SigningKey::from_bytes(&[1; 32]);
//!
//! let policy = Policy { required: 1, ..Policy::new(model, [PublicKey::of(&key)]) };
//! let block = policy.append(&chain)?;
//! assert_eq!(Policy::of(&chain, &block)?, policy);
//! # Ok(())
//! # }
//! ```

mod any_statement;
mod attest;
mod audit;
pub mod dataset;
mod error;
mod evaluate;
mod evidence;
mod json;
mod judge;
mod key;
mod loss;
mod policy;
mod round;
mod statement;

mod contribute;
mod extract;
mod ledger;
mod reward;
mod usage;

pub use any_statement::AnyStatement;
pub use attest::{Attestation, Losses, attest, attest_all};
pub use audit::{Accusation, AuditReport, Lie, accuse, audit};
pub use error::EvolveError;
pub use evaluate::{
    DEFAULT_WINDOW, EvaluateError, EvaluateOptions, EvaluateProgress, Evaluation, evaluate, evaluate_model,
    evaluate_together, loss_diff,
};
pub use evidence::{Evidence, InvalidEvidence};
pub use judge::{
    AcceptedSet, CandidateState, Chosen, Fault, FaultKind, Judgement, Reason, RoundState, Verdict, judge,
    publish, publish_release,
};
pub use key::{ParseKeyError, PublicKey};
pub use loss::{LossBits, ParseLossError, Score};
pub use policy::{Policy, PolicyError, Tier};
pub use round::{
    Candidate, CandidateBlocks, Claim, Closing, Reveal, Round, RoundError, StepError, candidate_root, claim,
    claim_commitment, claims_of, close_round, open_round, propose_candidate, reveal, snapshot_of,
    split_commitment,
};
pub use statement::{Body, Statement};

pub use contribute::{ContributeError, ContributeOptions, ContributeReport, ContributeStage, contribute};
pub use extract::{
    ExtractError, ExtractOptions, ExtractReport, ExtractSource, ExtractedBlock, Piece, extract,
};
pub use ledger::{Ledger, rewards_of};
pub use reward::{
    Adoption, Contribution, Credit, MAX_USE, Measured, Replacement, Share, Use, Worth, credits, rewards,
};
pub use usage::{RecordedUse, UsageRecord, audit_usage, record_usage, run_of, uses};

use crate::chain::Validators;
pub use crate::format::canonical::MAX_JSON_BYTES;
use crate::manager::Receipt;
use evidence::Rule;

/// Adds the validators of all kinds of evidence.
pub(crate) fn validators(validators: Validators) -> Validators {
    let validators = Rule::<Policy>::register(validators);
    let validators = Rule::<Receipt>::register(validators);
    let validators = Rule::<Statement<UsageRecord>>::register(validators);
    let validators = Rule::<Statement<Round>>::register(validators);
    let validators = Rule::<Statement<Claim>>::register(validators);
    let validators = Rule::<Statement<Closing>>::register(validators);
    let validators = Rule::<Statement<Candidate>>::register(validators);
    let validators = Rule::<Statement<Reveal>>::register(validators);
    let validators = Rule::<Statement<Attestation>>::register(validators);
    let validators = Rule::<Statement<Accusation>>::register(validators);
    dataset::validators(validators)
}

/// Parts per million of a whole.
pub(crate) const MILLION: u32 = 1_000_000;
