//! Owns the statement of a validator that measured candidates.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::chain::ParentView;
use crate::evolve::evidence::{check_kind, parent};
use crate::evolve::loss::LossBits;
use crate::evolve::round::{
    Candidate, Reveal, RoundError, UnderPolicy, changed_manifest, check_same, statement,
};
use crate::evolve::{Body, InvalidEvidence, Policy, PublicKey};
use crate::format::{BlockKind, ChainId, Manifest, Parent};
use crate::hash::{BlockHash, SnapshotRoot};

/// Mean losses of the base and of the base with the candidates, on the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Losses {
    /// The split's tokens block, or a dataset block of the policy.
    pub data: BlockHash,
    /// Loss of the base.
    pub base: LossBits,
    /// Loss of the base with the candidates.
    pub candidate: LossBits,
}

/// What a validator of the policy measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The policy.
    pub policy: BlockHash,
    /// The reveal with the split.
    pub reveal: BlockHash,
    /// The model that the candidates improve.
    pub base: BlockHash,
    /// The candidates, at least one: several were measured in one model, together.
    pub candidates: BTreeSet<BlockHash>,
    /// Names the base with all the candidates.
    pub model_root: SnapshotRoot,
    /// Version of the arithmetic.
    pub numerics_version: u32,
    /// On the split, then on each dataset of the policy in ascending order of their blocks.
    pub losses: Vec<Losses>,
}

impl UnderPolicy for Attestation {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Attestation {
    const KIND: BlockKind = BlockKind::ATTESTATION;
    const LANE: ChainId = ChainId::Meta;

    fn parents(&self) -> Vec<Parent> {
        let named = [self.policy, self.reveal, self.base].into_iter();
        let data = self.losses.iter().map(|losses| losses.data);
        named.chain(self.candidates.iter().copied()).chain(data).map(Parent::dependency).collect()
    }

    fn check(&self) -> Result<(), InvalidEvidence> {
        if self.candidates.is_empty() {
            return Err(RoundError::Nothing { kind: BlockKind::CANDIDATE }.into());
        }
        if self.numerics_version == 0 {
            return Err(RoundError::NumericsVersion.into());
        }
        Ok(())
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let policy: Policy = parent(parents, &self.policy)?;
        policy.check_validator(&self.policy, key)?;
        let reveal = statement::<Reveal>(parents, &self.reveal, &self.policy)?;
        let mut candidates = Vec::with_capacity(self.candidates.len());
        for block in &self.candidates {
            if !reveal.body().candidates.contains(block) {
                return Err(RoundError::NotJudged { candidate: *block }.into());
            }
            let candidate = statement::<Candidate>(parents, block, &self.policy)?;
            check_same(block, BlockKind::MODEL, candidate.body().base, self.base)?;
            candidates.push(candidate);
        }
        check_kind(parents, &self.base, BlockKind::MODEL)?;
        let base = Manifest::from_canonical_json(&parents.payload(&self.base)?).map_err(RoundError::from)?;
        let expected = changed_manifest(&base, candidates.iter().map(|candidate| candidate.body()))?;
        if self.model_root != expected {
            return Err(RoundError::ModelRoot { found: self.model_root, expected }.into());
        }
        let data = data_of(&policy, reveal.body());
        if !self.losses.iter().map(|losses| &losses.data).eq(&data) {
            return Err(RoundError::OtherData { expected: data }.into());
        }
        Ok(())
    }
}

/// What losses are measured on: the split's tokens block, then the policy's dataset blocks.
pub(in crate::evolve) fn data_of(policy: &Policy, reveal: &Reveal) -> Vec<BlockHash> {
    [reveal.tokens].into_iter().chain(policy.datasets.iter().copied()).collect()
}
