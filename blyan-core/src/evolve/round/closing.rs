//! Owns the statement that ends the time for claims.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Claim, Round, RoundError, UnderPolicy, check_owner, check_same, statement};
use crate::chain::ParentView;
use crate::evolve::evidence::check_kind;
use crate::evolve::{Body, InvalidEvidence, PublicKey};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::BlockHash;

/// Lists the claims of a round that came in time: by its owner, once. Only after it are candidates
/// shown, so nobody can claim what another has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// The policy.
    pub policy: BlockHash,
    /// The round.
    pub round: BlockHash,
    /// The claims, at least one.
    pub claims: BTreeSet<BlockHash>,
}

impl UnderPolicy for Closing {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Closing {
    const KIND: BlockKind = BlockKind::CLOSING;
    const LANE: ChainId = ChainId::Dataset;

    fn parents(&self) -> Vec<Parent> {
        let named = [self.policy, self.round].into_iter().chain(self.claims.iter().copied());
        named.map(Parent::dependency).collect()
    }

    fn check(&self) -> Result<(), InvalidEvidence> {
        if self.claims.is_empty() {
            return Err(RoundError::Nothing { kind: BlockKind::CLAIM }.into());
        }
        Ok(())
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.policy, BlockKind::POLICY)?;
        let round = statement::<Round>(parents, &self.round, &self.policy)?;
        check_owner(key, round.key())?;
        for block in &self.claims {
            let claim = statement::<Claim>(parents, block, &self.policy)?;
            check_same(block, BlockKind::ROUND, claim.body().round, self.round)?;
        }
        Ok(())
    }
}
