//! Owns the statement that shows the split of a round.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Candidate, Closing, Round, RoundError, UnderPolicy, check_owner, check_same, split_commitment, statement,
};
use crate::chain::ParentView;
use crate::evolve::evidence::check_kind;
use crate::evolve::{Body, InvalidEvidence, PublicKey};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::{BlockHash, Salt};

/// Shows the split that judges some candidates, all of which it descends from: by the round's owner,
/// once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    /// The policy.
    pub policy: BlockHash,
    /// The round.
    pub round: BlockHash,
    /// The closing under which the candidates were shown.
    pub closing: BlockHash,
    /// The candidates that are judged, at least one.
    pub candidates: BTreeSet<BlockHash>,
    /// The split's tokens block.
    pub tokens: BlockHash,
    /// Opens the round's commitment.
    pub salt: Salt,
}

impl UnderPolicy for Reveal {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Reveal {
    const KIND: BlockKind = BlockKind::REVEAL;
    const LANE: ChainId = ChainId::Dataset;

    fn parents(&self) -> Vec<Parent> {
        let named = [self.policy, self.round, self.closing, self.tokens].into_iter();
        named.chain(self.candidates.iter().copied()).map(Parent::dependency).collect()
    }

    fn check(&self) -> Result<(), InvalidEvidence> {
        if self.candidates.is_empty() {
            return Err(RoundError::Nothing { kind: BlockKind::CANDIDATE }.into());
        }
        Ok(())
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.policy, BlockKind::POLICY)?;
        let round = statement::<Round>(parents, &self.round, &self.policy)?;
        check_owner(key, round.key())?;
        let closing = statement::<Closing>(parents, &self.closing, &self.policy)?;
        check_same(&self.closing, BlockKind::ROUND, closing.body().round, self.round)?;
        for block in &self.candidates {
            let candidate = statement::<Candidate>(parents, block, &self.policy)?;
            check_same(block, BlockKind::CLOSING, candidate.body().closing, self.closing)?;
        }
        let tokens = check_kind(parents, &self.tokens, BlockKind::TOKENS)?.payload;
        let (found, expected) = (split_commitment(&self.salt, &tokens.hash), round.body().split);
        if found != expected {
            return Err(RoundError::Commitment { found, expected }.into());
        }
        if tokens.len_bytes != round.body().tokens.saturating_mul(4) {
            let (tokens, least) = (tokens.len_bytes / 4, round.body().tokens);
            return Err(RoundError::SplitSize { tokens, least, most: least }.into());
        }
        Ok(())
    }
}
