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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{LogitsDigest, SnapshotRoot};
    use crate::manager::FinishReason;
    use crate::manager::receipt::ReceiptOptions;
    use crate::model::KvDType;

    fn hash(byte: u8) -> BlockHash {
        BlockHash::from_bytes([byte; 32])
    }

    fn record() -> UsageRecord {
        let used = BTreeMap::from([(hash(4), 7), (hash(5), 12)]);
        let receipts = BTreeMap::from([(hash(3), used), (hash(6), BTreeMap::new())]);
        UsageRecord { policy: hash(1), reveal: hash(2), receipts }
    }

    /// Made by Python's `cryptography` and `blake3`.
    const GOLDEN: &str = concat!(
        r#"{"statement_version":1,"body":{"policy":"0101010101010101010101010101010101010101010101010101010"#,
        r#"101010101","reveal":"0202020202020202020202020202020202020202020202020202020202020202","receipts"#,
        r#"":{"0303030303030303030303030303030303030303030303030303030303030303":{"040404040404040404040404"#,
        r#"0404040404040404040404040404040404040404":7,"050505050505050505050505050505050505050505050505050"#,
        r#"5050505050505":12},"0606060606060606060606060606060606060606060606060606060606060606":{}}},"key""#,
        r#":"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c","signature":"12ca6405881b092"#,
        r#"ed9f1c4018258245d22cc7d4fc0397de7ac6809e9ec076511d46509b4f4284efa6a8316fdd830289e1379c1a84ea01ea"#,
        r#"9f682f81a3ad00c02"}"#,
    );

    #[test]
    fn bytes_are_the_ones_that_another_implementation_makes() {
        let signed = Statement::sign(&SigningKey::from_bytes(&[1; 32]), record()).unwrap();
        assert_eq!(String::from_utf8(signed.to_payload()).unwrap(), GOLDEN);
        assert_eq!(Statement::from_payload(GOLDEN.as_bytes()).unwrap(), signed);
        assert_eq!((signed.draft().name.as_str(), signed.draft().lane), ("usage", ChainId::Dataset));
    }

    #[test]
    fn other_spellings_of_the_uses_are_refused() {
        let (three, six) = (hash(3).to_string(), hash(6).to_string());
        let turned = GOLDEN.replace(&three, "#").replace(&six, &three).replace('#', &six);
        let twice = GOLDEN.replace(&six, &three);
        let negative = GOLDEN.replace(":12", ":-12");
        let real = GOLDEN.replace(":12", ":12.0");
        let huge = GOLDEN.replace(":12", ":18446744073709551616");
        let upper = GOLDEN.replace(&six, &hash(0xab).to_string().to_uppercase());
        for other in [turned, twice, negative, real, huge, upper] {
            assert_ne!(other, GOLDEN);
            let error = Statement::<UsageRecord>::from_payload(other.as_bytes()).unwrap_err();
            assert!(
                matches!(error, InvalidEvidence::Json { .. } | InvalidEvidence::NotCanonical { .. }),
                "{error}"
            );
        }
    }

    fn claim(prompt: &[u32], output: &[u32]) -> Claim {
        let options = ReceiptOptions {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            seed: 0,
            max_tokens: 5,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            kv_cache: KvDType::F16,
            logprobs: None,
        };
        Claim {
            numerics_version: 1,
            model: hash(1),
            snapshot: SnapshotRoot::from_bytes([5; 32]),
            spec: hash(2),
            prompt_tokens: prompt.to_vec(),
            options,
            output_tokens: output.to_vec(),
            text: None,
            finish_reason: FinishReason::MaxTokens,
            logits: LogitsDigest::from_bytes([0; 32]),
            blocks: BTreeMap::new(),
        }
    }

    #[test]
    fn a_run_is_what_was_read() {
        // By Python's `blake3`: the root, then 1, 2, 3.
        let expected = "904cb05c13c87395fd6c02bbc3daaa0270a79f0e6375c589bdd4454f4f02a422";
        let hex = |run: [u8; 32]| BlockHash::from_bytes(run).to_string();
        assert_eq!(hex(run_of(&claim(&[1, 2], &[3, 4]))), expected);
        assert_eq!(hex(run_of(&claim(&[1, 2, 3], &[9]))), expected);
        assert_ne!(hex(run_of(&claim(&[1, 2], &[4, 3]))), expected);
        assert_ne!(hex(run_of(&claim(&[1, 2], &[3, 4, 5]))), expected);
        let other = Claim { snapshot: SnapshotRoot::from_bytes([6; 32]), ..claim(&[1, 2], &[3, 4]) };
        assert_ne!(hex(run_of(&other)), expected);
        assert_eq!(run_of(&claim(&[], &[])), run_of(&claim(&[1], &[])));
    }
}
