//! Owns the statement that commits to a candidate before anything of the round is shown.

use serde::{Deserialize, Serialize};

use super::{Round, RoundError, UnderPolicy, statement};
use crate::chain::ParentView;
use crate::evolve::evidence::check_kind;
use crate::evolve::{Body, InvalidEvidence, PublicKey};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::{BlockHash, Commitment};

/// Commits to a candidate: by its author, who says neither what it is nor that it is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The policy.
    pub policy: BlockHash,
    /// The round.
    pub round: BlockHash,
    /// The commitment, see [`super::claim_commitment`].
    pub candidate: Commitment,
}

impl UnderPolicy for Claim {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Claim {
    const KIND: BlockKind = BlockKind::CLAIM;
    const LANE: ChainId = ChainId::Meta;

    fn parents(&self) -> Vec<Parent> {
        [self.policy, self.round].map(Parent::dependency).into()
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.policy, BlockKind::POLICY)?;
        let round = statement::<Round>(parents, &self.round, &self.policy)?;
        if round.key() == *key {
            return Err(RoundError::OwnRound { key: *key }.into());
        }
        Ok(())
    }
}
