//! Owns auditing: computing attestations again, and accusing those who did not tell what they should have
//! found.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::attest::Measure;
use super::evidence::check_kind;
use super::round::{RoundError, UnderPolicy, statement};
use super::{
    Attestation, Body, EvaluateOptions, Evidence, EvolveError, InvalidEvidence, Losses, Policy, PublicKey,
    Reveal, Statement,
};
use crate::chain::{Chain, ParentView};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::BlockHash;
use crate::kernels::NUMERICS_VERSION;

/// Says that an attestation does not recompute, and what does: by anybody, but only the accusations of
/// validators count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accusation {
    /// The policy.
    pub policy: BlockHash,
    /// The attestation.
    pub attestation: BlockHash,
    /// The key that signed it: the liar.
    pub accused: PublicKey,
    /// What was found on the same data, in the same order.
    pub losses: Vec<Losses>,
}

impl UnderPolicy for Accusation {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Accusation {
    const KIND: BlockKind = BlockKind::ACCUSATION;
    const LANE: ChainId = ChainId::Meta;

    fn parents(&self) -> Vec<Parent> {
        let data = self.losses.iter().map(|losses| losses.data);
        [self.policy, self.attestation].into_iter().chain(data).map(Parent::dependency).collect()
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.policy, BlockKind::POLICY)?;
        let attested = statement::<Attestation>(parents, &self.attestation, &self.policy)?;
        if attested.key() != self.accused {
            return Err(RoundError::OtherAuthor { claimed: attested.key(), key: self.accused }.into());
        }
        if self.accused == *key {
            return Err(RoundError::OwnAttestation { key: *key }.into());
        }
        let attested = &attested.body().losses;
        let data = |losses: &Losses| losses.data;
        if !self.losses.iter().map(data).eq(attested.iter().map(data)) {
            return Err(RoundError::OtherData { expected: attested.iter().map(data).collect() }.into());
        }
        if self.losses == *attested {
            return Err(RoundError::NoDifference.into());
        }
        Ok(())
    }
}

/// An attestation that does not recompute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Lie {
    /// The attestation.
    pub attestation: BlockHash,
    /// Who signed it.
    pub key: PublicKey,
    /// What is attested.
    pub attested: Vec<Losses>,
    /// What is true.
    pub recomputed: Vec<Losses>,
    /// The accusation, if one was appended.
    pub accusation: Option<BlockHash>,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditReport {
    /// Attestations that were computed again.
    pub checked: u64,
    /// Those that do not recompute.
    pub lies: Vec<Lie>,
    /// Attestations of another version of the arithmetic, which this library cannot compute.
    pub other_numerics: Vec<BlockHash>,
    /// Attestations of candidates whose weights, or those of their base, were collected.
    pub collected: Vec<BlockHash>,
}

/// Computes every attestation under a policy again. With a key, appends an accusation for each that does
/// not recompute and is not the key's own. What cannot be computed here is named and passed over. Base and
/// candidates are each evaluated once on each data, however many attested them, and those of a reveal beside
/// each other: what they share is computed once.
/// `options.window` is not looked at, the policy has its own.
///
/// # Errors
///
/// [`EvolveError`]: an evaluation that fails or is cancelled, or from the chain.
pub fn audit(
    chain: &Chain,
    policy: &BlockHash,
    accuser: Option<&SigningKey>,
    options: &EvaluateOptions<'_>,
) -> Result<AuditReport, EvolveError> {
    let rules = Policy::read(chain, policy)?;
    let mut measure = Measure::new(chain, &rules, options);
    let mut report = AuditReport::default();
    let mut to_check = Vec::new();
    // Whether weights of a set of candidates are gone.
    let mut gone: BTreeMap<BTreeSet<BlockHash>, bool> = BTreeMap::new();
    let mut sets: BTreeMap<BlockHash, BTreeSet<BTreeSet<BlockHash>>> = BTreeMap::new();
    for block in chain.blocks_of_kind(BlockKind::ATTESTATION) {
        let attestation = block?.hash();
        let Some(attested) = Statement::<Attestation>::read_valid(chain, &attestation)? else { continue };
        let body = attested.body();
        if body.policy != *policy {
            continue;
        }
        if body.numerics_version != NUMERICS_VERSION {
            report.other_numerics.push(attestation);
            continue;
        }
        if !gone.contains_key(&body.candidates) {
            gone.insert(body.candidates.clone(), measure.is_collected(&body.candidates)?);
        }
        if gone.get(&body.candidates) == Some(&true) {
            report.collected.push(attestation);
            continue;
        }
        sets.entry(body.reveal).or_default().insert(body.candidates.clone());
        to_check.push((attestation, attested));
    }
    for (attestation, attested) in to_check {
        let (key, body) = (attested.key(), attested.body());
        let reveal = Statement::<Reveal>::read(chain, &body.reveal)?;
        // All of a reveal at its first attestation: accusations wait for no other round.
        if let Some(sets) = sets.remove(&body.reveal) {
            measure.prepare(reveal.body(), &Vec::from_iter(sets))?;
        }
        let truth = measure.attestation((&body.reveal, reveal.body()), &body.candidates)?;
        report.checked += 1;
        if truth.losses == body.losses {
            continue;
        }
        let (attested, recomputed) = (body.losses.clone(), truth.losses);
        let mut lie = Lie { attestation, key, attested, recomputed, accusation: None };
        if let Some(accuser) = accuser.filter(|accuser| PublicKey::of(accuser) != key) {
            lie.accusation = Some(accuse(chain, accuser, policy, &lie)?);
        }
        report.lies.push(lie);
    }
    Ok(report)
}

/// Appends an accusation.
///
/// # Errors
///
/// [`EvolveError`] if there is nothing to accuse of, or from the chain.
pub fn accuse(
    chain: &Chain,
    key: &SigningKey,
    policy: &BlockHash,
    lie: &Lie,
) -> Result<BlockHash, EvolveError> {
    let accusation = Accusation {
        policy: *policy,
        attestation: lie.attestation,
        accused: lie.key,
        losses: lie.recomputed.clone(),
    };
    Statement::sign(key, accusation)?.append(chain)
}
