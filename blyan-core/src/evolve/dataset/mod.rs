//! Data on the chain: tokens and what is said about them, in four stages that are blocks each.
//!
//! ```text
//! tokens ◀─ dataset ◀─ audit ◀─ vote ◀─ tally ◀─ ruling
//!           pending    audited          voted     accepted or rejected
//! ```
//!
//! Whoever proposes a dataset needs no leave; validators of a policy audit it, its voters vote, anyone
//! counts, and the ruling follows by arithmetic. Where a dataset stands is asked of [`state`], a fold over
//! the blocks: there is no register beside the chain that could say anything else.
//!
//! ```
//! use blyan_core::evolve::dataset::{self, DatasetDraft, Stage};
//! use blyan_core::evolve::{Evidence, Policy, PublicKey};
//! use blyan_core::import::{self, ImportOptions};
//! use blyan_core::manager::Snapshot;
//! use blyan_core::Chain;
//! use ed25519_dalek::SigningKey;
//!
//! # fn main() -> Result<(), blyan_core::Error> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-kjv-moe");
//! let chain = Chain::in_memory()?;
//! let model = import::checkpoint(&chain, folder, &ImportOptions::default())?.model;
//! let key = SigningKey::from_bytes(&[1; 32]);
//! let us = PublicKey::of(&key);
//! let policy = Policy { voters: [us].into(), ..Policy::new(model, [us]) }.append(&chain)?;
//!
//! let snapshot = Snapshot::of_model(&chain, &model)?;
//! let text = "In the beginning God created the heaven and the earth.";
//! let draft = DatasetDraft::of_text(&chain, &snapshot, "genesis", text, "CC0-1.0", "King James Bible")?;
//! let proposed = dataset::propose(&chain, draft)?;
//!
//! dataset::audit(&chain, &policy, &proposed, &key)?;
//! dataset::vote(&chain, &policy, &proposed, &key, true)?;
//! dataset::tally(&chain, &policy, &proposed)?;
//! dataset::rule(&chain, &policy, &proposed)?;
//! assert_eq!(dataset::state(&chain, &policy, &proposed)?.stage, Stage::Accepted);
//! # Ok(())
//! # }
//! ```

mod audit;
mod ballot;
mod error;
mod licence;
mod proposal;
mod state;
mod tokens;

pub use audit::{Audit, Findings, TextFindings, audit, check_audit, recompute};
pub use ballot::{Ruling, Tally, Vote, rule, tally, vote};
pub use error::{DatasetError, DatasetRule, Field};
pub use proposal::{Dataset, DatasetDraft, propose, tokenize};
pub use state::{DatasetState, Stage, list, state};
pub use tokens::Tokens;

use super::Statement;
use super::evidence::Rule;
use crate::chain::Validators;

/// Adds the validators of tokens, datasets and their stages.
pub(super) fn validators(validators: Validators) -> Validators {
    let validators = Rule::<Tokens>::register(validators);
    let validators = Rule::<Dataset>::register(validators);
    let validators = Rule::<Statement<Audit>>::register(validators);
    let validators = Rule::<Statement<Vote>>::register(validators);
    let validators = Rule::<Tally>::register(validators);
    Rule::<Ruling>::register(validators)
}
