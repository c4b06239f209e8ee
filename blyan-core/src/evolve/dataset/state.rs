//! Owns the fold: the stage of a dataset under a policy, from the set of blocks alone.
//!
//! Blocks that are not valid are passed over. Then, for one policy and dataset:
//!
//! 1. *Audits*: a validator that said two different things is not heard. An audit counts if the model can
//!    read the tokens.
//! 2. *Votes*: a voter that voted both ways is not counted; one that said the same twice counts once.
//! 3. *Tallies*: one that counts a voter who voted both ways is void. Of the others the one with the most
//!    votes is the best, then the one with the smaller hash.
//! 4. *Rulings*: the one on the best tally, if it is there.
//! 5. *Twins*: of datasets with the same tokens, one at most is accepted: the latest of a line of versions,
//!    then the one with more votes in favour, then the one with the smaller hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::super::{Body, Evidence, EvolveError, Policy, PublicKey, Statement};
use super::audit::Audit;
use super::ballot::{Ruling, Tally, Vote};
use super::proposal::Dataset;
use crate::chain::Chain;
use crate::format::{BlockKind, ChainId};
use crate::hash::BlockHash;

/// Where a dataset stands under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Proposed; no audit counts yet.
    Pending,
    /// A validator found that the policy's model can read it.
    Audited,
    /// Enough votes were counted.
    Voted,
    /// The count is for it.
    Accepted,
    /// The count is against it, or it has a twin that is accepted.
    Rejected,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Audited => "audited",
            Self::Voted => "voted",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        })
    }
}

/// A dataset and where it stands under a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetState {
    /// The dataset block.
    pub block: BlockHash,
    /// What was proposed.
    pub dataset: Dataset,
    /// Where it stands.
    pub stage: Stage,
    /// Audits that count, ascending.
    pub audits: Vec<BlockHash>,
    /// Votes that count, one of each key, ascending.
    pub votes: Vec<BlockHash>,
    /// Keys that said two things: they count for nothing.
    pub equivocating: BTreeSet<PublicKey>,
    /// The best tally.
    pub tally: Option<BlockHash>,
    /// The ruling on it.
    pub ruling: Option<BlockHash>,
    /// Other dataset blocks with the same tokens, ascending.
    pub twins: Vec<BlockHash>,
    /// The accepted twin, if that is why this dataset is rejected.
    pub duplicate_of: Option<BlockHash>,
}

/// What the chain holds about one dataset under one policy.
pub(super) struct Record {
    pub(super) policy: Policy,
    block: BlockHash,
    dataset: Dataset,
    /// Audits that count, ascending.
    pub(super) audits: Vec<BlockHash>,
    /// The valid votes of each key, ascending: block, for or against.
    votes: BTreeMap<PublicKey, Vec<(BlockHash, bool)>>,
    /// Tallies that are not void, ascending.
    tallies: BTreeMap<BlockHash, Tally>,
    /// Valid rulings by their tally.
    rulings: BTreeMap<BlockHash, (BlockHash, Ruling)>,
    equivocating: BTreeSet<PublicKey>,
}

/// The valid blocks of a kind among some, ascending.
fn read_all<T: Evidence>(
    chain: &Chain,
    blocks: &[(BlockHash, BlockKind)],
) -> Result<BTreeMap<BlockHash, T>, EvolveError> {
    let mut found = BTreeMap::new();
    for (block, _) in blocks.iter().filter(|(_, kind)| *kind == T::KIND) {
        if let Some(evidence) = T::read_valid(chain, block)? {
            found.insert(*block, evidence);
        }
    }
    Ok(found)
}

/// The keys that said two different things.
fn equivocating<B: Body + PartialEq>(statements: &BTreeMap<BlockHash, Statement<B>>) -> BTreeSet<PublicKey> {
    let mut said: BTreeMap<PublicKey, &B> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for statement in statements.values() {
        if *said.entry(statement.key()).or_insert(statement.body()) != statement.body() {
            keys.insert(statement.key());
        }
    }
    keys
}

impl Record {
    pub(super) fn read(chain: &Chain, policy: &BlockHash, dataset: &BlockHash) -> Result<Self, EvolveError> {
        let rules = Policy::of(chain, policy)?;
        let described = Dataset::read(chain, dataset)?;
        let mut children = Vec::new();
        for child in chain.children(dataset)? {
            children.push((child, chain.get(&child)?.header().kind));
        }

        let mut audits: BTreeMap<BlockHash, Statement<Audit>> = read_all(chain, &children)?;
        audits.retain(|_, audit| audit.body().policy == *policy && audit.body().dataset == *dataset);
        let liars = equivocating(&audits);
        audits.retain(|_, audit| audit.body().is_fit() && !liars.contains(&audit.key()));

        let mut given: BTreeMap<BlockHash, Statement<Vote>> = read_all(chain, &children)?;
        given.retain(|_, vote| vote.body().policy == *policy && vote.body().dataset == *dataset);
        let mut votes: BTreeMap<PublicKey, Vec<(BlockHash, bool)>> = BTreeMap::new();
        for (block, vote) in &given {
            votes.entry(vote.key()).or_default().push((*block, vote.body().approve));
        }
        let both_ways = votes.iter().filter(|(_, votes)| both(votes)).map(|(key, _)| *key);
        let both_ways: BTreeSet<PublicKey> = both_ways.collect();

        let mut tallies: BTreeMap<BlockHash, Tally> = read_all(chain, &children)?;
        tallies.retain(|_, tally| {
            let counts =
                |vote: &BlockHash| given.get(vote).is_some_and(|vote| !both_ways.contains(&vote.key()));
            tally.policy == *policy && tally.dataset == *dataset && tally.votes.iter().all(counts)
        });
        let mut rulings: BTreeMap<BlockHash, Ruling> = read_all(chain, &children)?;
        rulings.retain(|_, ruling| ruling.policy == *policy && ruling.dataset == *dataset);
        Ok(Self {
            policy: rules,
            block: *dataset,
            dataset: described,
            audits: audits.into_keys().collect(),
            votes,
            tallies,
            rulings: rulings.into_iter().map(|(block, ruling)| (ruling.tally, (block, ruling))).collect(),
            equivocating: liars.into_iter().chain(both_ways).collect(),
        })
    }

    /// Every vote of a key, if it voted.
    pub(super) fn votes_of(&self, key: &PublicKey) -> Option<&[(BlockHash, bool)]> {
        self.votes.get(key).map(Vec::as_slice)
    }

    /// One vote of each key that did not vote both ways, ascending by block.
    pub(super) fn countable(&self) -> Vec<(BlockHash, bool)> {
        let single = self.votes.values().filter(|votes| !both(votes));
        let mut counted: Vec<(BlockHash, bool)> = single.filter_map(|votes| votes.first().copied()).collect();
        counted.sort_unstable();
        counted
    }

    /// The tally with the most votes, then the smaller hash.
    pub(super) fn best_tally(&self) -> Option<(BlockHash, &Tally)> {
        let best = self.tallies.iter().min_by_key(|(block, tally)| (usize::MAX - tally.votes.len(), **block));
        best.map(|(block, tally)| (*block, tally))
    }

    /// The stage, twins left aside.
    fn stage(&self) -> Stage {
        if self.audits.is_empty() {
            return Stage::Pending;
        }
        let Some((tally, _)) = self.best_tally() else { return Stage::Audited };
        match self.rulings.get(&tally) {
            None => Stage::Voted,
            Some((_, ruling)) if ruling.accepted => Stage::Accepted,
            Some(_) => Stage::Rejected,
        }
    }

    /// What a twin is compared by; the least is the accepted one.
    fn rank(&self, chain: &Chain) -> Result<(u64, u32, BlockHash), EvolveError> {
        let in_favour = self.best_tally().map_or(0, |(_, tally)| tally.in_favour);
        let versions = versions_before(chain, &self.dataset)?;
        Ok((u64::MAX - versions, u32::MAX - in_favour, self.block))
    }
}

fn both(votes: &[(BlockHash, bool)]) -> bool {
    votes.iter().any(|(_, approve)| *approve) && votes.iter().any(|(_, approve)| !*approve)
}

/// Number of datasets that a version follows.
fn versions_before(chain: &Chain, dataset: &Dataset) -> Result<u64, EvolveError> {
    let mut count = 0;
    let mut next = dataset.predecessor;
    while let Some(block) = next {
        count += 1;
        next = Dataset::read(chain, &block)?.predecessor;
    }
    Ok(count)
}

/// Where a dataset stands under a policy: a function of the set of blocks, whatever their order.
///
/// # Errors
///
/// [`EvolveError`] if either block is missing or not what it must be, or the chain fails.
pub fn state(chain: &Chain, policy: &BlockHash, dataset: &BlockHash) -> Result<DatasetState, EvolveError> {
    let record = Record::read(chain, policy, dataset)?;
    let mut stage = record.stage();
    let mut twins = Vec::new();
    for twin in chain.children(&record.dataset.tokens)? {
        let valid = Dataset::read_valid(chain, &twin)?;
        if twin != *dataset && valid.is_some_and(|twin| twin.tokens == record.dataset.tokens) {
            twins.push(twin);
        }
    }
    let mut duplicate_of = None;
    if stage == Stage::Accepted {
        let mut best = record.rank(chain)?;
        for twin in &twins {
            let twin = Record::read(chain, policy, twin)?;
            if twin.stage() == Stage::Accepted {
                best = best.min(twin.rank(chain)?);
            }
        }
        if best.2 != *dataset {
            duplicate_of = Some(best.2);
            stage = Stage::Rejected;
        }
    }
    let tally = record.best_tally().map(|(block, _)| block);
    let ruling = tally.and_then(|tally| record.rulings.get(&tally)).map(|(block, _)| *block);
    let votes = record.countable().into_iter().map(|(block, _)| block).collect();
    Ok(DatasetState {
        block: *dataset,
        stage,
        votes,
        tally,
        ruling,
        twins,
        duplicate_of,
        dataset: record.dataset,
        audits: record.audits,
        equivocating: record.equivocating,
    })
}

/// Every dataset and where it stands under a policy, by height, then hash.
///
/// # Errors
///
/// [`EvolveError`] if the policy is missing or not valid, or the chain fails.
pub fn list(chain: &Chain, policy: &BlockHash) -> Result<Vec<DatasetState>, EvolveError> {
    Policy::of(chain, policy)?;
    let mut states = Vec::new();
    for block in chain.blocks_of_kind_in(ChainId::Dataset, BlockKind::DATASET) {
        let block = block?.hash();
        if Dataset::read_valid(chain, &block)?.is_some() {
            states.push(state(chain, policy, &block)?);
        }
    }
    Ok(states)
}
