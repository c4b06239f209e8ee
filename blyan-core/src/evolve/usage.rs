//! Owns recorded use: receipts as blocks, what validators say of them after they ran them again, and
//! which of that counts.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::evidence::{check_kind, parent};
use super::judge::{Judgement, judge};
use super::round::{Reveal, UnderPolicy, statement};
use super::{Body, Evidence, EvolveError, InvalidEvidence, MAX_JSON_BYTES, Policy, PublicKey, Statement};
use crate::chain::{Chain, ParentView};
use crate::format::{BlockKind, ChainId, Parent};
use crate::hash::BlockHash;
use crate::manager::receipt::Claim;
use crate::manager::{ManagerOptions, Receipt};

/// A receipt as a block: its canonical JSON. Whoever has the chain can run it again, so appending one
/// publishes the prompt and the text.
impl Evidence for Receipt {
    const KIND: BlockKind = BlockKind::RECEIPT;
    const LANE: ChainId = ChainId::Dataset;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        let kind = Self::KIND;
        if bytes.len() > MAX_JSON_BYTES {
            let (len_bytes, limit_bytes) = (bytes.len(), MAX_JSON_BYTES);
            return Err(InvalidEvidence::TooLong { kind, len_bytes, limit_bytes });
        }
        let receipt = Self::from_json(bytes).map_err(|error| {
            let reason = error.to_string().chars().take(300).collect();
            InvalidEvidence::Json { kind, reason }
        })?;
        if receipt.to_payload() != bytes {
            return Err(InvalidEvidence::NotCanonical { kind });
        }
        Ok(receipt)
    }

    fn to_payload(&self) -> Vec<u8> {
        self.to_json().into_bytes()
    }

    /// The model block, of which everything that was used is an ancestor.
    fn parents(&self) -> Vec<Parent> {
        vec![Parent::dependency(self.claim().model)]
    }

    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.claim().model, BlockKind::MODEL).map(drop)
    }
}

/// What a validator found by running receipts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRecord {
    /// The policy that it is said under.
    pub policy: BlockHash,
    /// The reveal that ends the period that the receipts count in.
    pub reveal: BlockHash,
    /// For each receipt block the tokens that went through each block of weights, as
    /// [`crate::manager::Replay::uses`] has them.
    pub receipts: BTreeMap<BlockHash, BTreeMap<BlockHash, u64>>,
}

impl UnderPolicy for UsageRecord {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for UsageRecord {
    const KIND: BlockKind = BlockKind::USAGE_RECORD;
    const LANE: ChainId = ChainId::Dataset;

    fn name(&self) -> String {
        "usage".to_owned()
    }

    /// The blocks that were used are ancestors of the receipts.
    fn parents(&self) -> Vec<Parent> {
        let named = [self.policy, self.reveal].into_iter().chain(self.receipts.keys().copied());
        named.map(Parent::dependency).collect()
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        parent::<Policy>(parents, &self.policy)?.check_validator(&self.policy, key)?;
        statement::<Reveal>(parents, &self.reveal, &self.policy)?;
        for receipt in self.receipts.keys() {
            check_kind(parents, receipt, BlockKind::RECEIPT)?;
        }
        Ok(())
    }
}

/// Runs receipts again and says, as a validator, what they used. Receipts that do not recompute are
/// refused; one that is named twice counts once.
///
/// `options` says how to run, as for [`Receipt::replay`].
///
/// # Errors
///
/// [`EvolveError::NoReceipts`], [`EvolveError::UntrueReceipt`]; [`InvalidEvidence::NotAValidator`] and
/// other reasons to refuse the block in [`EvolveError::reason`]. Nothing was appended then.
pub fn record_usage(
    chain: &Chain,
    policy: &BlockHash,
    reveal: &BlockHash,
    receipts: &[BlockHash],
    key: &SigningKey,
    options: &ManagerOptions,
) -> Result<BlockHash, EvolveError> {
    // Before hours of work.
    Policy::of(chain, policy)?.check_validator(policy, &PublicKey::of(key))?;
    Statement::<Reveal>::read(chain, reveal)?;
    if receipts.is_empty() {
        return Err(EvolveError::NoReceipts);
    }
    let mut found = BTreeMap::new();
    for receipt in receipts.iter().collect::<BTreeSet<_>>() {
        found.insert(*receipt, run_again(chain, receipt, options)?);
    }
    let record = UsageRecord { policy: *policy, reveal: *reveal, receipts: found };
    Statement::sign(key, record)?.append(chain)
}

/// What a receipt used, if it is true.
fn run_again(
    chain: &Chain,
    receipt: &BlockHash,
    options: &ManagerOptions,
) -> Result<BTreeMap<BlockHash, u64>, EvolveError> {
    let replay = Receipt::read(chain, receipt)?.replay(chain, options)?;
    match replay.differences.into_iter().next() {
        None => Ok(replay.uses),
        Some(difference) => {
            Err(EvolveError::UntrueReceipt { receipt: *receipt, difference: difference.path })
        }
    }
}

/// Runs the receipts of a record again and returns those of which it says anything else than what
/// comes out, ascending.
///
/// # Errors
///
/// [`EvolveError`] if the block is no record, or from the chain.
pub fn audit_usage(
    chain: &Chain,
    record: &BlockHash,
    options: &ManagerOptions,
) -> Result<Vec<BlockHash>, EvolveError> {
    let record = Statement::<UsageRecord>::read(chain, record)?;
    let mut wrong = Vec::new();
    for (receipt, said) in &record.body().receipts {
        match run_again(chain, receipt, options) {
            Ok(found) if found == *said => {}
            Ok(_) | Err(EvolveError::UntrueReceipt { .. }) => wrong.push(*receipt),
            Err(error) => return Err(error),
        }
    }
    Ok(wrong)
}

/// A receipt that enough validators found to be true, with the same uses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedUse {
    /// The receipt block.
    pub receipt: BlockHash,
    /// The reveal whose period it counts in.
    pub reveal: BlockHash,
    /// The model block that was run.
    pub model: BlockHash,
    /// Names what was run: see [`run_of`].
    pub run: [u8; 32],
    /// Tokens that went through each block.
    pub tokens: BTreeMap<BlockHash, u64>,
}

/// Names what a receipt's run read: `derive_key("blyan run 1")` over the snapshot's root and the tokens of
/// prompt and output (each u32 LE) but the last, which was chosen and not read. Receipts that differ in
/// anything else, such as stop strings that never came, are of one run.
pub fn run_of(claim: &Claim) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("blyan run 1");
    hasher.update(claim.snapshot.as_bytes());
    let tokens = claim.prompt_tokens.iter().chain(&claim.output_tokens);
    let read = (claim.prompt_tokens.len() + claim.output_tokens.len()).saturating_sub(1);
    for token in tokens.take(read) {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Every use that counts under a policy: as many validators as it requires said the same of the receipt,
/// in the same period. A validator that says two different things of a receipt in a period says nothing
/// about it, nor does one that was at fault in that period or before. By receipt and reveal; a receipt may
/// count in several, of which the first pays.
///
/// # Errors
///
/// [`EvolveError::WrongKind`] and [`EvolveError::InvalidBlock`] about the policy, [`EvolveError::Chain`].
pub fn uses(chain: &Chain, policy: &BlockHash) -> Result<Vec<RecordedUse>, EvolveError> {
    uses_under(chain, &judge(chain, policy)?)
}

/// Tokens that went through each block.
type Tokens = BTreeMap<BlockHash, u64>;

/// As [`uses`], from what was judged.
pub(super) fn uses_under(chain: &Chain, state: &Judgement) -> Result<Vec<RecordedUse>, EvolveError> {
    let rules = Policy::of(chain, &state.policy)?;
    // (receipt, reveal) → validator → what it said.
    let mut said: BTreeMap<(BlockHash, BlockHash), BTreeMap<PublicKey, BTreeSet<Tokens>>> = BTreeMap::new();
    for block in chain.blocks_of_kind_in(ChainId::Dataset, BlockKind::USAGE_RECORD) {
        let Some(record) = Statement::<UsageRecord>::read_valid(chain, &block?.hash())? else { continue };
        let (body, key) = (record.body(), record.key());
        let round = state.rounds.iter().find(|(_, round)| round.reveals.contains_key(&body.reveal));
        let heard = round.is_some_and(|(round, _)| is_heard(state, &key, round));
        if body.policy != state.policy || !heard {
            continue;
        }
        for (receipt, tokens) in &body.receipts {
            let place = said.entry((*receipt, body.reveal)).or_default();
            place.entry(key).or_default().insert(tokens.clone());
        }
    }
    let mut uses = Vec::new();
    for ((receipt, reveal), said) in said {
        let mut votes: BTreeMap<Tokens, u32> = BTreeMap::new();
        for mut said in said.into_values().filter(|said| said.len() == 1) {
            if let Some(tokens) = said.pop_first() {
                *votes.entry(tokens).or_default() += 1;
            }
        }
        let agreed = votes.into_iter().filter(|(_, votes)| *votes >= rules.required);
        for (tokens, _) in agreed {
            let Some(claim) = Receipt::read_valid(chain, &receipt)? else { continue };
            let claim = claim.claim();
            uses.push(RecordedUse { receipt, reveal, model: claim.model, run: run_of(claim), tokens });
        }
    }
    Ok(uses)
}

/// Whether a key was at fault neither in a round nor in any that is not known to have come after it.
fn is_heard(state: &Judgement, key: &PublicKey, round: &BlockHash) -> bool {
    let mut own = state.faults.iter().filter(|fault| fault.key == *key);
    own.all(|fault| {
        let later = state.rounds.get(&fault.round);
        later.is_some_and(|later| later.ancestors.contains(round))
    })
}
