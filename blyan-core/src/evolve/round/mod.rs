//! A round: how candidates meet a split that nobody could train on.
//!
//! Its owner, a validator, opens it with a commitment to the split; authors commit to what they will
//! propose; the owner closes the list; authors show their candidates; the owner shows the split, in a
//! block that descends from all of them. Each step is a statement that names the ones before it, so the
//! order of the steps is a matter of ancestry and of nobody's clock.

mod candidate;
mod claim;
mod closing;
mod error;
mod open;
mod reveal;
mod steps;

pub(super) use candidate::changed_manifest;
pub use candidate::{Candidate, candidate_root};
pub use claim::Claim;
pub use closing::Closing;
pub use error::{RoundError, StepError};
pub use open::Round;
pub use reveal::Reveal;
pub use steps::{
    CandidateBlocks, claim, claims_of, close_round, open_round, propose_candidate, reveal, snapshot_of,
};
pub(super) use steps::{children, claim_salt};

use super::evidence::parent;
use super::{Body, InvalidEvidence, PublicKey, Statement};
use crate::chain::ParentView;
use crate::format::BlockKind;
use crate::hash::CandidateRoot;
use crate::hash::{BlockHash, Commitment, DomainHasher, PayloadHash, Salt};

/// A parent that is a statement, made under the same policy.
pub(super) fn statement<B: Body + UnderPolicy>(
    parents: &dyn ParentView,
    block: &BlockHash,
    policy: &BlockHash,
) -> Result<Statement<B>, InvalidEvidence> {
    let statement: Statement<B> = parent(parents, block)?;
    let found = statement.body().policy();
    if found != *policy {
        return Err(RoundError::OtherPolicy { block: *block, found, expected: *policy }.into());
    }
    Ok(statement)
}

/// A body that names the policy that it is made under.
pub(super) trait UnderPolicy {
    /// The policy.
    fn policy(&self) -> BlockHash;
}

/// Refuses a block that names another round, closing or reveal than the statement does.
pub(super) fn check_same(
    block: &BlockHash,
    kind: BlockKind,
    found: BlockHash,
    expected: BlockHash,
) -> Result<(), RoundError> {
    if found == expected {
        Ok(())
    } else {
        Err(RoundError::Unrelated { block: *block, kind, found, expected })
    }
}

/// Refuses a key that did not open the round.
fn check_owner(key: &PublicKey, owner: PublicKey) -> Result<(), RoundError> {
    if *key == owner { Ok(()) } else { Err(RoundError::NotTheOwner { key: *key, owner }) }
}

/// Commits to a split: `derive_key("blyan split 1")` over the salt and the hash of the tokens' payload.
pub fn split_commitment(salt: &Salt, tokens: &PayloadHash) -> Commitment {
    let mut hasher = DomainHasher::split();
    hasher.update(salt.as_bytes()).update(tokens.as_bytes());
    Commitment::from_bytes(hasher.finish())
}

/// Commits to a candidate: `derive_key("blyan claim 1")` over the salt, the author's key and the
/// candidate's root.
pub fn claim_commitment(salt: &Salt, author: &PublicKey, root: &CandidateRoot) -> Commitment {
    let mut hasher = DomainHasher::claim();
    hasher.update(salt.as_bytes()).update(author.as_bytes()).update(root.as_bytes());
    Commitment::from_bytes(hasher.finish())
}

/// A salt that follows from a secret key and what it is for, so that nobody else can guess it and its
/// owner need not keep it: `derive_key("blyan salt 1")` over the secret key (32), the kind (u16 LE), and
/// what it is for.
fn salt(key: &ed25519_dalek::SigningKey, kind: BlockKind, parts: &[&[u8; 32]]) -> Salt {
    let mut hasher = DomainHasher::salt();
    hasher.update(key.as_bytes()).update(&kind.0.to_le_bytes());
    for part in parts {
        hasher.update(*part);
    }
    Salt::from_bytes(hasher.finish())
}
