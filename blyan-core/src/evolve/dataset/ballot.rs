//! Owns votes, tallies and rulings: the third and the last stage, and how they are made.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::super::evidence::{check_version, from_canonical_json, parent, to_canonical_json};
use super::super::{Body, Evidence, EvolveError, InvalidEvidence, MILLION, Policy, PublicKey, Statement};
use super::audit::Audit;
use super::proposal::Dataset;
use super::state::Record;
use super::{DatasetError, DatasetRule};
use crate::chain::{Chain, ParentView};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::BlockHash;

/// Body of a vote block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The policy.
    pub policy: BlockHash,
    /// The dataset.
    pub dataset: BlockHash,
    /// An audit that the voter saw.
    pub audit: BlockHash,
    /// For or against.
    pub approve: bool,
}

/// Payload of a tally block: the votes that are counted. Anyone can make one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Version of this description; 1.
    pub tally_version: u32,
    /// The policy.
    pub policy: BlockHash,
    /// The dataset.
    pub dataset: BlockHash,
    /// Counted votes for the dataset.
    pub in_favour: u32,
    /// Counted votes against it.
    pub against: u32,
    /// The vote blocks.
    pub votes: BTreeSet<BlockHash>,
}

/// Payload of a ruling block: what follows from a tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruling {
    /// Version of this description; 1.
    pub ruling_version: u32,
    /// The policy.
    pub policy: BlockHash,
    /// The dataset.
    pub dataset: BlockHash,
    /// The tally.
    pub tally: BlockHash,
    /// Whether the dataset is accepted.
    pub accepted: bool,
}

impl Tally {
    /// What follows from the counts: at least the policy's share of all counted votes is for the dataset.
    pub fn accepts(&self, policy: &Policy) -> bool {
        let votes = u64::from(self.in_favour) + u64::from(self.against);
        u64::from(self.in_favour) * u64::from(MILLION) >= u64::from(policy.approval_ppm) * votes
    }
}

/// Refuses a block that says something of another policy or dataset than the one naming it.
fn check_subject(
    block: &BlockHash,
    [found_policy, policy]: [BlockHash; 2],
    [found_dataset, dataset]: [BlockHash; 2],
) -> Result<(), InvalidEvidence> {
    if (found_policy, found_dataset) == (policy, dataset) {
        return Ok(());
    }
    Err(DatasetRule::OtherSubject { block: *block }.into())
}

impl Body for Vote {
    const KIND: BlockKind = BlockKind::VOTE;
    const LANE: ChainId = ChainId::Dataset;

    fn parents(&self) -> Vec<Parent> {
        [self.policy, self.dataset, self.audit].map(Parent::dependency).to_vec()
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let policy: Policy = parent(parents, &self.policy)?;
        policy.check_voter(&self.policy, key)?;
        let dataset: Dataset = parent(parents, &self.dataset)?;
        if !policy.tiers.contains(&dataset.tier) {
            return Err(DatasetRule::Tier { tier: dataset.tier }.into());
        }
        let audit: Statement<Audit> = parent(parents, &self.audit)?;
        let seen = audit.body();
        check_subject(&self.audit, [seen.policy, self.policy], [seen.dataset, self.dataset])?;
        if !seen.is_fit() {
            return Err(DatasetRule::Unfit { audit: self.audit }.into());
        }
        Ok(())
    }
}

impl Evidence for Tally {
    const KIND: BlockKind = BlockKind::TALLY;
    const LANE: ChainId = ChainId::Dataset;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        let tally: Self = from_canonical_json(Self::KIND, bytes)?;
        check_version(Self::KIND, tally.tally_version)?;
        Ok(tally)
    }

    fn to_payload(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    fn parents(&self) -> Vec<Parent> {
        let named = [self.policy, self.dataset].into_iter().chain(self.votes.iter().copied());
        named.map(Parent::dependency).collect()
    }

    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let policy: Policy = parent(parents, &self.policy)?;
        parent::<Dataset>(parents, &self.dataset)?;
        let mut keys = BTreeSet::new();
        let (mut in_favour, mut against) = (0_u32, 0_u32);
        for block in &self.votes {
            let vote: Statement<Vote> = parent(parents, block)?;
            let body = vote.body();
            check_subject(block, [body.policy, self.policy], [body.dataset, self.dataset])?;
            policy.check_voter(&self.policy, &vote.key())?;
            if !keys.insert(vote.key()) {
                return Err(DatasetRule::CountedTwice { key: vote.key() }.into());
            }
            let count = if body.approve { &mut in_favour } else { &mut against };
            *count = count.saturating_add(1);
        }
        let (found, expected) = ([self.in_favour, self.against], [in_favour, against]);
        if found != expected {
            return Err(DatasetRule::Counts { found, expected }.into());
        }
        if keys.len() < policy.quorum as usize {
            return Err(DatasetRule::Quorum { votes: keys.len(), quorum: policy.quorum }.into());
        }
        Ok(())
    }
}

impl Evidence for Ruling {
    const KIND: BlockKind = BlockKind::RULING;
    const LANE: ChainId = ChainId::Dataset;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        let ruling: Self = from_canonical_json(Self::KIND, bytes)?;
        check_version(Self::KIND, ruling.ruling_version)?;
        Ok(ruling)
    }

    fn to_payload(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    fn parents(&self) -> Vec<Parent> {
        [self.policy, self.dataset, self.tally].map(Parent::dependency).to_vec()
    }

    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let policy: Policy = parent(parents, &self.policy)?;
        parent::<Dataset>(parents, &self.dataset)?;
        let tally: Tally = parent(parents, &self.tally)?;
        check_subject(&self.tally, [tally.policy, self.policy], [tally.dataset, self.dataset])?;
        if self.accepted != tally.accepts(&policy) {
            return Err(DatasetRule::Ruling { accepted: self.accepted }.into());
        }
        Ok(())
    }
}

/// Votes on an audited dataset. A vote that the key has given already is returned as it is.
///
/// # Errors
///
/// [`DatasetError::NotAudited`]; [`DatasetError::AlreadyVoted`] if the key voted the other way, since
/// both votes together would count for nothing; [`InvalidEvidence::NotAVoter`] or a tier that is not
/// voted on in [`EvolveError::reason`].
pub fn vote(
    chain: &Chain,
    policy: &BlockHash,
    dataset: &BlockHash,
    key: &SigningKey,
    approve: bool,
) -> Result<BlockHash, EvolveError> {
    let record = Record::read(chain, policy, dataset)?;
    let public = PublicKey::of(key);
    record.policy.check_voter(policy, &public)?;
    if let Some(given) = record.votes_of(&public) {
        return match given.iter().find(|(_, given)| *given != approve) {
            None => given.first().map(|(block, _)| *block).ok_or_else(|| unaudited(dataset)),
            Some((vote, _)) => Err(DatasetError::AlreadyVoted { key: public, vote: *vote }.into()),
        };
    }
    let audit = record.audits.first().copied().ok_or_else(|| unaudited(dataset))?;
    let vote = Vote { policy: *policy, dataset: *dataset, audit, approve };
    Statement::sign(key, vote)?.append(chain)
}

fn unaudited(dataset: &BlockHash) -> EvolveError {
    DatasetError::NotAudited { dataset: *dataset }.into()
}

/// Counts every vote in the chain that may be counted, and appends that. Where another tally has counted
/// as many, the better one is returned.
///
/// # Errors
///
/// [`DatasetError::NotAudited`], [`DatasetError::Quorum`], [`EvolveError::Chain`].
pub fn tally(chain: &Chain, policy: &BlockHash, dataset: &BlockHash) -> Result<BlockHash, EvolveError> {
    let record = Record::read(chain, policy, dataset)?;
    if record.audits.is_empty() {
        return Err(unaudited(dataset));
    }
    let counted = record.countable();
    if counted.len() < record.policy.quorum as usize {
        return Err(DatasetError::Quorum { votes: counted.len(), quorum: record.policy.quorum }.into());
    }
    if let Some((block, best)) = record.best_tally()
        && best.votes.len() >= counted.len()
    {
        return Ok(block);
    }
    let of = |approve: bool| counted.iter().filter(|(_, given)| *given == approve).count();
    let tally = Tally {
        tally_version: 1,
        policy: *policy,
        dataset: *dataset,
        in_favour: u32::try_from(of(true)).unwrap_or(u32::MAX),
        against: u32::try_from(of(false)).unwrap_or(u32::MAX),
        votes: counted.iter().map(|(block, _)| *block).collect(),
    };
    tally.append(chain)
}

/// Appends what follows from the best tally.
///
/// # Errors
///
/// [`DatasetError::NoTally`], [`EvolveError::Chain`].
pub fn rule(chain: &Chain, policy: &BlockHash, dataset: &BlockHash) -> Result<BlockHash, EvolveError> {
    let record = Record::read(chain, policy, dataset)?;
    let (tally, counted) = record.best_tally().ok_or(DatasetError::NoTally { dataset: *dataset })?;
    let accepted = counted.accepts(&record.policy);
    let ruling = Ruling { ruling_version: 1, policy: *policy, dataset: *dataset, tally, accepted };
    ruling.append(chain)
}
