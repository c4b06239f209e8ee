//! Owns the steps of a round as one call each: they read what is on the chain, and append one statement.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;

use super::{
    Candidate, Claim, Closing, Reveal, Round, StepError, UnderPolicy, candidate::candidate_root,
    claim_commitment, salt, split_commitment,
};
use crate::chain::Chain;
use crate::evolve::dataset::{Dataset, Tokens};
use crate::evolve::judge::{judge, publish};
use crate::evolve::{Body, EvaluateError, Evidence, EvolveError, Policy, PublicKey, Statement};
use crate::format::{BlockKind, Slot};
use crate::hash::{BlockHash, CandidateRoot, PayloadHash};
use crate::manager::Snapshot;

/// The new block of each slot that a candidate changes.
pub type CandidateBlocks = BTreeMap<Slot, BlockHash>;

fn by_name(blocks: &CandidateBlocks) -> BTreeMap<String, BlockHash> {
    blocks.iter().map(|(slot, block)| (slot.to_string(), *block)).collect()
}

/// The children of a block that are valid statements of one kind, by hash.
pub(in crate::evolve) fn children<B: Body>(
    chain: &Chain,
    block: &BlockHash,
) -> Result<Vec<(BlockHash, Statement<B>)>, EvolveError> {
    let mut found = Vec::new();
    for child in chain.children(block)? {
        found.extend(Statement::<B>::read_valid(chain, &child)?.map(|statement| (child, statement)));
    }
    Ok(found)
}

/// Opens a round on what is chosen now: appends the chosen model if it is no block yet, and the round,
/// which `key` then owns. The split is kept secret by the caller until [`reveal`]; its salt follows from
/// the key.
///
/// # Errors
///
/// [`StepError::SplitKnown`] if the split's tokens are on the chain already; [`EvaluateError::WindowTooLong`] if the
/// split or a dataset of the policy has windows that its models have no positions for; [`EvolveError`] for a key
/// that is no validator, a split of less than two tokens, or from the chain.
pub fn open_round(
    chain: &Chain,
    key: &SigningKey,
    policy: &BlockHash,
    split: &[u32],
) -> Result<BlockHash, EvolveError> {
    let tokens = Tokens::new(split.to_vec())?.draft();
    let tokens_block = tokens.hash()?;
    if chain.contains(&tokens_block)? {
        return Err(StepError::SplitKnown { tokens: tokens_block }.into());
    }
    check_windows(chain, policy, split)?;
    let state = judge(chain, policy)?;
    let base = publish(chain, &state)?;
    let tip = state.tip();
    let content = PayloadHash::of(&tokens.payload);
    let round = Round {
        policy: *policy,
        previous: tip.previous,
        attestations: tip.attestations,
        seen: tip.seen,
        base,
        split: split_commitment(&split_salt(key, &content), &content),
        tokens: split.len() as u64,
    };
    Statement::sign(key, round)?.append(chain)
}

/// Refuses what no validator could measure: the split would be shown for nothing. Every model under a policy has the
/// spec of its first.
fn check_windows(chain: &Chain, policy: &BlockHash, split: &[u32]) -> Result<(), EvolveError> {
    let rules = Policy::of(chain, policy)?;
    let mut longest = split.len() as u64;
    for dataset in &rules.datasets {
        longest = longest.max(Dataset::read(chain, dataset)?.num_tokens);
    }
    let capacity = Snapshot::of_model(chain, &rules.model)?.spec().max_position_embeddings;
    // A short text has no window as long as that.
    if u64::from(rules.window).min(longest.saturating_sub(1)) > capacity as u64 {
        return Err(EvaluateError::WindowTooLong { window: rules.window as usize, capacity }.into());
    }
    Ok(())
}

fn split_salt(key: &SigningKey, content: &PayloadHash) -> crate::hash::Salt {
    salt(key, BlockKind::ROUND, &[content.as_bytes()])
}

/// The salt of a claim, which follows from its author's key.
pub(in crate::evolve) fn claim_salt(
    key: &SigningKey,
    round: &BlockHash,
    root: &CandidateRoot,
) -> crate::hash::Salt {
    salt(key, BlockKind::CLAIM, &[round.as_bytes(), root.as_bytes()])
}

/// Commits to a candidate for a round. Its blocks need not be on the chain, and had better not be until
/// the round is closed: until then anybody who sees them can claim them too.
///
/// # Errors
///
/// [`EvolveError`] if `round` is no round, if `key` owns it, or from the chain.
pub fn claim(
    chain: &Chain,
    key: &SigningKey,
    round: &BlockHash,
    blocks: &CandidateBlocks,
) -> Result<BlockHash, EvolveError> {
    let opened = Statement::<Round>::read(chain, round)?;
    let root = candidate_root(&opened.body().base, &by_name(blocks));
    let commitment = claim_commitment(&claim_salt(key, round, &root), &PublicKey::of(key), &root);
    let claim = Claim { policy: opened.body().policy, round: *round, candidate: commitment };
    Statement::sign(key, claim)?.append(chain)
}

/// The claims of a round that are on the chain, by hash.
///
/// # Errors
///
/// [`EvolveError::Chain`].
pub fn claims_of(chain: &Chain, round: &BlockHash) -> Result<Vec<(BlockHash, PublicKey)>, EvolveError> {
    let claims = children::<Claim>(chain, round)?;
    Ok(claims.into_iter().map(|(block, claim)| (block, claim.key())).collect())
}

/// Ends the time for claims: lists all of the round that are on the chain.
///
/// # Errors
///
/// [`StepError::NoClaims`], [`StepError::AlreadyClosed`]; [`EvolveError`] for a key that does not own the
/// round, or from the chain.
pub fn close_round(chain: &Chain, key: &SigningKey, round: &BlockHash) -> Result<BlockHash, EvolveError> {
    let opened = Statement::<Round>::read(chain, round)?;
    // Begun first: nobody closes it, or claims, between the look and the append.
    let mut writer = chain.writer()?;
    if let Some((closing, _)) = children::<Closing>(chain, round)?.first() {
        return Err(StepError::AlreadyClosed { round: *round, closing: *closing }.into());
    }
    let claims: BTreeSet<BlockHash> = claims_of(chain, round)?.into_iter().map(|(block, _)| block).collect();
    if claims.is_empty() {
        return Err(StepError::NoClaims { round: *round }.into());
    }
    let closing = Closing { policy: opened.body().policy, round: *round, claims };
    let closing = writer.append(Statement::sign(key, closing)?.draft())?.hash;
    writer.commit()?;
    Ok(closing)
}

/// Shows a candidate that was claimed, once its round is closed. Its blocks must be on the chain.
///
/// # Errors
///
/// [`StepError::NotClosed`] if no closing lists the claim yet; [`EvolveError`] for blocks that are not the
/// claimed ones, do not fit the round's base or are not on the chain.
pub fn propose_candidate(
    chain: &Chain,
    key: &SigningKey,
    claim: &BlockHash,
    blocks: &CandidateBlocks,
) -> Result<BlockHash, EvolveError> {
    let claimed = Statement::<Claim>::read(chain, claim)?;
    let round = claimed.body().round;
    let opened = Statement::<Round>::read(chain, &round)?;
    let closings = children::<Closing>(chain, claim)?;
    let (closing, _) = closings.first().ok_or(StepError::NotClosed { claim: *claim })?;
    let (base, slots) = (opened.body().base, by_name(blocks));
    let salt = claim_salt(key, &round, &candidate_root(&base, &slots));
    let candidate = Candidate {
        policy: claimed.body().policy,
        round,
        closing: *closing,
        claim: *claim,
        base,
        slots,
        salt,
    };
    Statement::sign(key, candidate)?.append(chain)
}

/// Shows the split of a round, which judges all its candidates that are on the chain. The tokens and the
/// statement are appended together.
///
/// # Errors
///
/// [`StepError::NoClosing`], [`StepError::NoCandidates`], [`StepError::AlreadyRevealed`]; [`EvolveError`]
/// for another split or key than the round was opened with, or from the chain.
pub fn reveal(
    chain: &Chain,
    key: &SigningKey,
    round: &BlockHash,
    split: &[u32],
) -> Result<BlockHash, EvolveError> {
    let opened = Statement::<Round>::read(chain, round)?;
    // Begun first: nobody reveals it, or proposes, between the look and the append.
    let mut writer = chain.writer()?;
    if let Some((reveal, _)) = children::<Reveal>(chain, round)?.first() {
        return Err(StepError::AlreadyRevealed { round: *round, reveal: *reveal }.into());
    }
    let closings = children::<Closing>(chain, round)?;
    let (closing, _) = closings.first().ok_or(StepError::NoClosing { round: *round })?;
    let candidates = children::<Candidate>(chain, closing)?;
    if candidates.is_empty() {
        return Err(StepError::NoCandidates { round: *round }.into());
    }
    let tokens = Tokens::new(split.to_vec())?.draft();
    let reveal = Reveal {
        policy: opened.body().policy(),
        round: *round,
        closing: *closing,
        candidates: candidates.into_iter().map(|(block, _)| block).collect(),
        tokens: tokens.hash()?,
        salt: split_salt(key, &PayloadHash::of(&tokens.payload)),
    };
    let reveal = Statement::sign(key, reveal)?.draft();
    writer.append(tokens)?;
    let appended = writer.append(reveal)?;
    writer.commit()?;
    Ok(appended.hash)
}

/// The base of some candidates with the blocks of all of them, in memory. They must share their base.
///
/// # Errors
///
/// [`EvolveError`] for blocks that are no candidates, or none; [`super::RoundError::Unrelated`] for
/// another base, [`super::RoundError::SameSlot`] for two of one slot.
pub fn snapshot_of(chain: &Chain, candidates: &[BlockHash]) -> Result<Snapshot, EvolveError> {
    let mut snapshot: Option<Snapshot> = None;
    let (mut base, mut filled) = (None, BTreeSet::new());
    for block in candidates {
        let candidate = Statement::<Candidate>::read(chain, block)?;
        let candidate = candidate.body();
        let expected = *base.get_or_insert(candidate.base);
        super::check_same(block, BlockKind::MODEL, candidate.base, expected)?;
        let mut changed = match snapshot.take() {
            Some(snapshot) => snapshot,
            None => Snapshot::of_model(chain, &expected)?,
        };
        for (slot, block) in candidate.parsed_slots()? {
            if !filled.insert(slot) {
                return Err(super::RoundError::SameSlot { slot }.into());
            }
            changed = changed.with_block(chain, &block)?;
        }
        snapshot = Some(changed);
    }
    snapshot.ok_or_else(|| super::RoundError::Nothing { kind: BlockKind::CANDIDATE }.into())
}
