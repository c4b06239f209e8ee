//! Owns what follows from the evidence: which candidates are accepted and why the others are not, and
//! which model is chosen. A pure function of the set of blocks: the order in which they came plays no
//! part.

mod fold;
mod reason;

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;

pub use reason::{FaultKind, Reason};

use super::loss::Score;
use super::round::{CandidateBlocks, snapshot_of};
use super::{EvolveError, Losses, PublicKey};
use crate::chain::{Chain, Writer};
use crate::hash::{BlockHash, SnapshotRoot};
use crate::manager;

/// What the blocks of a policy come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The policy.
    pub policy: BlockHash,
    /// Every valid round under it.
    pub rounds: BTreeMap<BlockHash, RoundState>,
    /// Every valid candidate under it.
    pub candidates: BTreeMap<BlockHash, CandidateState>,
    /// Who did what nobody may do.
    pub faults: BTreeSet<Fault>,
    /// The model that the fork choice takes.
    pub chosen: Chosen,
    first: BlockHash,
    first_root: SnapshotRoot,
}

/// How far a round is, and what was accepted in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundState {
    /// Who opened it.
    pub owner: PublicKey,
    /// The model that its candidates improve.
    pub base: BlockHash,
    /// The round that it follows.
    pub previous: Option<BlockHash>,
    /// Every round that is known to have come before it.
    pub ancestors: BTreeSet<BlockHash>,
    /// Its closings; more than one void it.
    pub closings: BTreeSet<BlockHash>,
    /// Its reveals, with their splits' tokens blocks; more than one void it.
    pub reveals: BTreeMap<BlockHash, BlockHash>,
    /// Why nothing can be accepted in it, if so.
    pub refused: Option<Reason>,
    /// Sets of candidates that were accepted, alone or together.
    pub accepted: Vec<AcceptedSet>,
    /// The model that it begins with by the rounds before it: its base, unless it is refused.
    start: Node,
    /// How the start was reached from the previous round's, if something was accepted there.
    came_by: Option<Box<AcceptedSet>>,
}

/// A model and what is left of the first model's loss on the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    score: Score,
    model: BlockHash,
}

/// Candidates that were accepted, in one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedSet {
    /// The round.
    pub round: BlockHash,
    /// The reveal that judged them.
    pub reveal: BlockHash,
    /// The candidates.
    pub candidates: BTreeSet<BlockHash>,
    /// The model that they improve.
    pub base: BlockHash,
    /// The model block that they make, whether it was appended or not.
    pub model: BlockHash,
    /// Names that model.
    pub model_root: SnapshotRoot,
    /// What was attested, on the split first.
    pub losses: Vec<Losses>,
    /// The validators whose attestations agree and count.
    pub validators: BTreeSet<PublicKey>,
    /// Their attestations.
    pub attestations: BTreeSet<BlockHash>,
    /// Product of the ratios of losses on the splits, from the first model to this one.
    pub score: Score,
}

impl AcceptedSet {
    fn node(&self) -> Node {
        Node { score: self.score, model: self.model }
    }
}

/// One candidate and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateState {
    /// Who proposed it.
    pub author: PublicKey,
    /// The round.
    pub round: BlockHash,
    /// The claim that committed to it.
    pub claim: BlockHash,
    /// The model that it improves.
    pub base: BlockHash,
    /// Its blocks.
    pub blocks: CandidateBlocks,
    /// Whether it is accepted.
    pub verdict: Verdict,
}

/// Whether a candidate is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Enough validators attest the same bits, and they are good enough.
    Accepted {
        /// What they attest, on the split first.
        losses: Vec<Losses>,
        /// Who attests it.
        validators: BTreeSet<PublicKey>,
    },
    /// Not, or not yet.
    Refused(Reason),
}

impl Verdict {
    /// Whether the candidate is accepted.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

/// Something that a key did and nobody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The key.
    pub key: PublicKey,
    /// The round in which it happened.
    pub round: BlockHash,
    /// What it was.
    pub kind: FaultKind,
}

/// The model that the fork choice takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The model block, whether it was appended or not; [`publish`] appends it.
    pub model: BlockHash,
    /// Names the model.
    pub root: SnapshotRoot,
    /// What is left of the first model's loss, as a product of ratios.
    pub score: Score,
    /// What was accepted on the way to it, from the policy's model on.
    pub steps: Vec<AcceptedSet>,
}

/// What a new round follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tip {
    pub(super) previous: Option<BlockHash>,
    pub(super) attestations: BTreeSet<BlockHash>,
    pub(super) seen: BTreeSet<BlockHash>,
}

/// Judges everything that was said under a policy.
///
/// # Errors
///
/// [`EvolveError`] if `policy` is none, or from the chain. Blocks that are not valid are passed over.
pub fn judge(chain: &Chain, policy: &BlockHash) -> Result<Judgement, EvolveError> {
    fold::fold(chain, policy)
}

impl Judgement {
    /// What would be chosen without a round and those that came after it.
    pub fn chosen_without(&self, round: &BlockHash) -> Chosen {
        self.choose(|(name, state)| name != round && !state.ancestors.contains(round))
    }

    fn choose(&self, counts: impl Fn((&BlockHash, &RoundState)) -> bool) -> Chosen {
        let mut best = (Node { score: Score::ONE, model: self.first }, None);
        for (name, round) in &self.rounds {
            if round.refused.is_some() || !counts((name, round)) {
                continue;
            }
            for set in &round.accepted {
                if set.node() < best.0 {
                    best = (set.node(), Some(set));
                }
            }
        }
        let (node, last) = best;
        let mut steps = Vec::new();
        let mut open = last.map(|set| (set, set.round));
        while let Some((set, round)) = open {
            steps.push(set.clone());
            open = self.came_by(&round);
        }
        steps.reverse();
        let root = steps.last().map_or(self.first_root, |set| set.model_root);
        Chosen { model: node.model, root, score: node.score, steps }
    }

    /// The set that made the model with which a round starts, and its round.
    fn came_by(&self, round: &BlockHash) -> Option<(&AcceptedSet, BlockHash)> {
        let mut round = self.rounds.get(round)?;
        loop {
            if let Some(set) = &round.came_by {
                return Some((set, set.round));
            }
            // The previous round accepted nothing that was listed: its start is this one's.
            round = self.rounds.get(&round.previous?)?;
        }
    }

    /// What the best of a round is: of what it accepted, else its start.
    fn outcome(round: &RoundState) -> Node {
        let nodes = round.accepted.iter().map(AcceptedSet::node);
        nodes.min().unwrap_or(round.start)
    }

    /// Rounds before this one in its line.
    fn depth(&self, round: &RoundState) -> usize {
        let before = |round: &&RoundState| round.previous.and_then(|previous| self.rounds.get(&previous));
        std::iter::successors(Some(round), before).count()
    }

    /// What a round that is opened now follows: the longest line that ends with the chosen model.
    pub(super) fn tip(&self) -> Tip {
        let mut last: Option<(usize, &BlockHash, &RoundState)> = None;
        for (name, round) in &self.rounds {
            let ends = round.refused.is_none() && Self::outcome(round).model == self.chosen.model;
            let depth = self.depth(round);
            if ends && !round.reveals.is_empty() && last.is_none_or(|(deepest, ..)| depth > deepest) {
                last = Some((depth, name, round));
            }
        }
        let mut known = BTreeSet::new();
        let mut tip = Tip::default();
        if let Some((_, name, round)) = last {
            tip.previous = round.reveals.keys().next().copied();
            tip.attestations = round.accepted.iter().flat_map(|set| &set.attestations).copied().collect();
            known.extend(&round.ancestors);
            known.insert(*name);
        }
        for (name, round) in &self.rounds {
            if !known.contains(name) {
                let shown = round.reveals.keys().chain(&round.closings);
                tip.seen.extend(shown.copied());
            }
        }
        tip
    }
}

/// Appends the chosen model's block, if it is not there yet, and those on the way to it. Returns it.
///
/// # Errors
///
/// [`EvolveError`] from the chain.
pub fn publish(chain: &Chain, state: &Judgement) -> Result<BlockHash, EvolveError> {
    if !chain.contains(&state.chosen.model)? {
        let mut writer = chain.writer()?;
        publish_to(&mut writer, chain, state)?;
        writer.commit()?;
    }
    Ok(state.chosen.model)
}

fn publish_to(writer: &mut Writer, chain: &Chain, state: &Judgement) -> Result<(), EvolveError> {
    for step in &state.chosen.steps {
        if !writer.contains(&step.model)? {
            let candidates: Vec<BlockHash> = step.candidates.iter().copied().collect();
            snapshot_of(chain, &candidates)?.append_to(writer, chain)?;
        }
    }
    Ok(())
}

/// Appends the chosen model's block, as [`publish`], and a release of it, together. Returns model and release.
///
/// # Errors
///
/// [`EvolveError`] for a name that a block cannot have, or that another model has, or from the chain. Nothing was
/// appended then.
pub fn publish_release(
    chain: &Chain,
    state: &Judgement,
    name: &str,
    version: Version,
) -> Result<(BlockHash, BlockHash), EvolveError> {
    let model = state.chosen.model;
    if chain.contains(&model)? {
        return Ok((model, manager::release(chain, &model, name, version)?));
    }
    let mut writer = chain.writer()?;
    publish_to(&mut writer, chain, state)?;
    let release = manager::release_to(&mut writer, chain, &model, name, version)?;
    writer.commit()?;
    Ok((model, release))
}
