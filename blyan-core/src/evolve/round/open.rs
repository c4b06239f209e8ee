//! Owns the statement that opens a round.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Reveal, RoundError, UnderPolicy, check_same, statement};
use crate::chain::ParentView;
use crate::evolve::evidence::{check_kind, parent};
use crate::evolve::{Attestation, Body, Closing, InvalidEvidence, Policy, PublicKey};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::{BlockHash, Commitment};

/// Most tokens of a split: a payload of 1 GiB.
const MAX_SPLIT_TOKENS: u64 = 1 << 28;

/// Opens a round: by a validator, who becomes its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// The policy.
    pub policy: BlockHash,
    /// The reveal of the round that this one follows; none for the first.
    pub previous: Option<BlockHash>,
    /// Attestations of the previous reveal: what they accept decides the base, and no later one does.
    pub attestations: BTreeSet<BlockHash>,
    /// Closings and reveals of further rounds that came before this one, so that nobody can copy from
    /// them into this one, or use their splits again.
    pub seen: BTreeSet<BlockHash>,
    /// The model that candidates of this round improve.
    pub base: BlockHash,
    /// Commitment to the split, see [`super::split_commitment`].
    pub split: Commitment,
    /// Tokens of the split.
    pub tokens: u64,
}

impl UnderPolicy for Round {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Round {
    const KIND: BlockKind = BlockKind::ROUND;
    const LANE: ChainId = ChainId::Dataset;

    fn parents(&self) -> Vec<Parent> {
        let mut parents = vec![self.policy, self.base];
        parents.extend(self.previous);
        parents.extend(&self.attestations);
        parents.extend(&self.seen);
        parents.into_iter().map(Parent::dependency).collect()
    }

    fn check(&self) -> Result<(), InvalidEvidence> {
        if !(2..=MAX_SPLIT_TOKENS).contains(&self.tokens) {
            let (tokens, least, most) = (self.tokens, 2, MAX_SPLIT_TOKENS);
            return Err(RoundError::SplitSize { tokens, least, most }.into());
        }
        if self.previous.is_none() && !self.attestations.is_empty() {
            return Err(RoundError::NothingAttested.into());
        }
        Ok(())
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let policy: Policy = parent(parents, &self.policy)?;
        policy.check_validator(&self.policy, key)?;
        check_kind(parents, &self.base, BlockKind::MODEL)?;
        match &self.previous {
            Some(reveal) => drop(statement::<Reveal>(parents, reveal, &self.policy)?),
            None if self.base == policy.model => {}
            None => return Err(RoundError::FirstBase { found: self.base, expected: policy.model }.into()),
        }
        for block in &self.attestations {
            let attestation = statement::<Attestation>(parents, block, &self.policy)?;
            let (found, expected) = (attestation.body().reveal, self.previous.unwrap_or(*block));
            check_same(block, BlockKind::REVEAL, found, expected)?;
        }
        for block in &self.seen {
            match parents.header(block)?.kind {
                BlockKind::REVEAL => drop(statement::<Reveal>(parents, block, &self.policy)?),
                _ => drop(statement::<Closing>(parents, block, &self.policy)?),
            }
        }
        Ok(())
    }
}
