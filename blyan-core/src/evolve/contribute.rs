//! Owns the author's side of a round: one call that is made again until there is nothing left to do.
//! Where it is stands on the chain; salts follow from the key, so nothing has to be kept beside it.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;

use super::round::{
    Candidate, CandidateBlocks, Claim, Closing, Reveal, Round, candidate_root, children, claim_commitment,
    claim_salt,
};
use super::{Evidence, EvolveError, PublicKey, RoundError, Statement};
use crate::chain::{Chain, Draft};
use crate::format::{BlockKind, ChainId, Slot};
use crate::hash::{BlockHash, PayloadHash};
use crate::manager::Snapshot;

/// How to contribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContributeOptions {
    /// Whether to append nothing, only to report what would be.
    pub dry_run: bool,
}

/// How far a contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ContributeStage {
    /// It is claimed; the candidate follows when the round is closed.
    Claimed,
    /// The candidate is shown; the round's owner goes on.
    Proposed,
    /// The split is shown, and judges the candidate.
    Revealed,
}

/// Where a contribution is after a call, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContributeReport {
    /// How far it is.
    pub stage: ContributeStage,
    /// Its claim block.
    pub claim: BlockHash,
    /// Its candidate block, once the round is closed.
    pub candidate: Option<BlockHash>,
    /// The block that was appended; none while there is nothing to do but wait.
    pub appended: Option<BlockHash>,
    /// Bytes of its payload.
    pub appended_bytes: u64,
}

/// Why a contribution can earn nothing. Nothing was appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContributeError {
    /// No block.
    #[error("nothing to contribute: name at least one slot and its new block")]
    Nothing,
    /// A block in a slot that is not its own.
    #[error("block {block} is named {name:?} and cannot fill {slot}")]
    WrongSlot {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
        /// Its name.
        name: String,
    },
    /// The weights that the base has there already.
    #[error("block {block} has the weights that the round's base has in {slot}")]
    Unchanged {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
    },
    /// Weights that were shown before.
    #[error("block {block} has the weights that candidate {candidate} put into {slot}: a copy earns nothing")]
    Copy {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
        /// The candidate that was first.
        candidate: BlockHash,
    },
    /// The round was closed without the claim.
    #[error("round {round} was closed by {closing} without this claim: wait for the next round")]
    ClosedBefore {
        /// The round.
        round: BlockHash,
        /// Its closing.
        closing: BlockHash,
    },
    /// The split was shown before the candidate was.
    #[error("round {round} was revealed by {reveal} without this candidate: wait for the next round")]
    RevealedBefore {
        /// The round.
        round: BlockHash,
        /// Its reveal.
        reveal: BlockHash,
    },
}

/// Does the next step for new blocks in a round: claims them while the round is open, shows them as a
/// candidate when it is closed, and says how far it is otherwise. The blocks must be on this chain;
/// before the closing nobody else should see them: a bundle of the claim does not hold them.
///
/// # Errors
///
/// [`EvolveError::Contribute`] if the contribution is too late, copies what was shown before or changes
/// nothing; [`EvolveError`] for blocks that do not fit the round's base, for who owns the round, or from
/// the chain. Nothing was appended then.
pub fn contribute(
    chain: &Chain,
    key: &SigningKey,
    round: &BlockHash,
    blocks: &CandidateBlocks,
    options: &ContributeOptions,
) -> Result<ContributeReport, EvolveError> {
    let opened = Statement::<Round>::read(chain, round)?;
    let (policy, base) = (opened.body().policy, opened.body().base);
    let payloads = check_blocks(chain, &base, blocks)?;

    let slots: BTreeMap<String, BlockHash> =
        blocks.iter().map(|(slot, block)| (slot.to_string(), *block)).collect();
    let root = candidate_root(&base, &slots);
    let salt = claim_salt(key, round, &root);
    let commitment = claim_commitment(&salt, &PublicKey::of(key), &root);
    let claim = Statement::sign(key, Claim { policy, round: *round, candidate: commitment })?.draft();
    let claim_block = claim.hash()?;
    check_copies(chain, (&policy, round, &PublicKey::of(key)), blocks, &payloads)?;

    let next = Next { chain, dry_run: options.dry_run };
    let closings = children::<Closing>(chain, round)?;
    let Some((closing, _)) =
        closings.iter().find(|(_, closing)| closing.body().claims.contains(&claim_block))
    else {
        if let Some((closing, _)) = closings.first() {
            return Err(ContributeError::ClosedBefore { round: *round, closing: *closing }.into());
        }
        return next.append(claim, ContributeStage::Claimed, claim_block, None);
    };
    let candidate =
        Candidate { policy, round: *round, closing: *closing, claim: claim_block, base, slots, salt };
    let candidate = Statement::sign(key, candidate)?.draft();
    let candidate_block = candidate.hash()?;
    let reveals = children::<Reveal>(chain, round)?;
    let judges = |reveal: &Statement<Reveal>| reveal.body().candidates.contains(&candidate_block);
    let stage = match (reveals.first(), reveals.iter().any(|(_, reveal)| judges(reveal))) {
        (_, true) => ContributeStage::Revealed,
        (None, false) => ContributeStage::Proposed,
        (Some((reveal, _)), false) => {
            return Err(ContributeError::RevealedBefore { round: *round, reveal: *reveal }.into());
        }
    };
    next.append(candidate, stage, claim_block, Some(candidate_block))
}

/// Appends what is not there yet.
struct Next<'a> {
    chain: &'a Chain,
    dry_run: bool,
}

impl Next<'_> {
    fn append(
        &self,
        draft: Draft,
        stage: ContributeStage,
        claim: BlockHash,
        candidate: Option<BlockHash>,
    ) -> Result<ContributeReport, EvolveError> {
        let block = candidate.unwrap_or(claim);
        let mut report = ContributeReport { stage, claim, candidate, appended: None, appended_bytes: 0 };
        if self.chain.contains(&block)? {
            return Ok(report);
        }
        report.appended = Some(block);
        report.appended_bytes = draft.payload.len() as u64;
        if self.dry_run {
            // Everything that the chain would refuse it for.
            self.chain.writer()?.append(draft)?;
        } else {
            self.chain.append(draft)?;
        }
        Ok(report)
    }
}

/// Refuses blocks that do not fit the base or that it has already; returns their payloads.
fn check_blocks(
    chain: &Chain,
    base: &BlockHash,
    blocks: &CandidateBlocks,
) -> Result<BTreeMap<Slot, PayloadHash>, EvolveError> {
    if blocks.is_empty() {
        return Err(ContributeError::Nothing.into());
    }
    let base = Snapshot::of_model(chain, base)?;
    let mut payloads = BTreeMap::new();
    for (&slot, block) in blocks {
        // What the base could hold besides, a text or the head of tied embeddings, could be claimed but never proposed.
        if !slot.kind().is_weights() {
            return Err(RoundError::NotWeights { slot }.into());
        }
        let stored = chain.get(block)?;
        let header = stored.header();
        if header.name != slot.to_string() {
            let name = header.name.clone();
            return Err(ContributeError::WrongSlot { slot, block: *block, name }.into());
        }
        let payload = header.payload.hash;
        if base.slots().get(&slot).is_some_and(|pinned| pinned.payload == payload) {
            return Err(ContributeError::Unchanged { slot, block: *block }.into());
        }
        base.with_block(chain, block)?;
        if !base.slots().contains_key(&slot) {
            return Err(RoundError::UnknownSlot { slot }.into());
        }
        payloads.insert(slot, payload);
    }
    Ok(payloads)
}

/// Refuses weights that another key's candidate of another round put into the same slot. Within a round
/// nobody knew what others claimed; who was first there is for the judgement, and so it is where the key has shown
/// these weights itself: the other may be the copy.
fn check_copies(
    chain: &Chain,
    (policy, round, key): (&BlockHash, &BlockHash, &PublicKey),
    blocks: &CandidateBlocks,
    payloads: &BTreeMap<Slot, PayloadHash>,
) -> Result<(), EvolveError> {
    let mut own = BTreeSet::new();
    let mut others = Vec::new();
    for shown in chain.blocks_of_kind_in(ChainId::Meta, BlockKind::CANDIDATE) {
        let candidate = shown?.hash();
        let Some(shown) = Statement::<Candidate>::read_valid(chain, &candidate)? else { continue };
        if shown.body().policy != *policy {
            continue;
        }
        for (&slot, payload) in payloads {
            let Some(filled) = shown.body().slots.get(&slot.to_string()) else { continue };
            if chain.get(filled)?.header().payload.hash != *payload {
                continue;
            }
            if shown.key() == *key {
                own.insert(slot);
            } else if shown.body().round != *round {
                others.push((slot, *filled, candidate));
            }
        }
    }
    if let Some((slot, first, candidate)) = others.into_iter().find(|(slot, ..)| !own.contains(slot)) {
        let block = blocks.get(&slot).copied().unwrap_or(first);
        return Err(ContributeError::Copy { slot, block, candidate }.into());
    }
    Ok(())
}
