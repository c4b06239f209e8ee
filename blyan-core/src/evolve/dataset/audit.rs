//! Owns audits: what a validator found in a dataset. Everything but what the text decodes to is computed
//! again when an audit is appended, so none of it can be made up. The second stage.

use std::collections::HashSet;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::super::evidence::{check_kind, parent};
use super::super::{Body, Evidence, EvolveError, InvalidEvidence, Policy, PublicKey, Statement};
use super::proposal::Dataset;
use super::tokens::{Tokens, ids_in};
use super::{DatasetError, DatasetRule};
use crate::chain::{Chain, ParentView};
use crate::format::{BlockKind, ChainId, Manifest, ModelSpec, Parent, Slot};
use crate::hash::{BlockHash, PayloadHash};
use crate::manager::ManagerError;
use crate::manager::text::Tokenizer;

/// Body of an audit block. It follows from the policy and the dataset alone, so honest validators say the
/// same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The policy.
    pub policy: BlockHash,
    /// The policy's model.
    pub model: BlockHash,
    /// The model's spec.
    pub spec: BlockHash,
    /// The dataset.
    pub dataset: BlockHash,
    /// Its tokens.
    pub tokens: BlockHash,
    /// What was counted in the tokens.
    pub findings: Findings,
    /// What the tokens decode to; only of a dataset that names its tokenizer and the hash of its text.
    pub text: Option<TextFindings>,
}

/// What anyone counts in the tokens of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// Hash of the tokens.
    pub content_hash: PayloadHash,
    /// Number of tokens.
    pub num_tokens: u64,
    /// Tokens that the policy's model has no embedding for.
    pub out_of_vocabulary: u64,
    /// Different token ids.
    pub distinct_tokens: u64,
    /// Whole windows of the policy's length that lie one after the other.
    pub windows: u64,
    /// Windows that are equal to an earlier one.
    pub duplicate_windows: u64,
    /// Whether the dataset names another tokenizer than the policy's model has.
    pub foreign_tokenizer: bool,
}

/// What the tokens of a dataset decode to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextFindings {
    /// Hash of the decoded text; the dataset's own if nothing was lost.
    pub decoded_hash: PayloadHash,
    /// Whether that text gives the same tokens again.
    pub round_trip: bool,
}

impl Audit {
    /// Whether the policy's model can read the tokens: what may be voted on.
    pub fn is_fit(&self) -> bool {
        self.findings.out_of_vocabulary == 0 && !self.findings.foreign_tokenizer
    }
}

/// What findings are computed from.
struct Subject<'a> {
    policy: &'a Policy,
    manifest: &'a Manifest,
    vocab_size: usize,
    dataset: &'a Dataset,
    content_hash: PayloadHash,
    tokens: &'a [u8],
}

impl Subject<'_> {
    fn findings(&self) -> Result<Findings, InvalidEvidence> {
        let (mut num_tokens, mut out_of_vocabulary) = (0_u64, 0_u64);
        let mut distinct = HashSet::new();
        for token in ids_in(self.tokens)? {
            num_tokens += 1;
            out_of_vocabulary += u64::from(token as usize >= self.vocab_size);
            distinct.insert(token);
        }
        let mut different = HashSet::new();
        let mut windows = 0_u64;
        for window in self.tokens.chunks_exact(4 * self.policy.window as usize) {
            windows += 1;
            different.insert(window);
        }
        let tokenizer = self.dataset.tokenizer;
        Ok(Findings {
            content_hash: self.content_hash,
            num_tokens,
            out_of_vocabulary,
            distinct_tokens: distinct.len() as u64,
            windows,
            duplicate_windows: windows - different.len() as u64,
            foreign_tokenizer: tokenizer.is_some()
                && tokenizer.as_ref() != self.manifest.slots.get(&Slot::Tokenizer),
        })
    }
}

impl Body for Audit {
    const KIND: BlockKind = BlockKind::AUDIT;
    const LANE: ChainId = ChainId::Dataset;

    fn parents(&self) -> Vec<Parent> {
        [self.policy, self.model, self.spec, self.dataset, self.tokens].map(Parent::dependency).to_vec()
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let policy: Policy = parent(parents, &self.policy)?;
        policy.check_validator(&self.policy, key)?;
        let dataset: Dataset = parent(parents, &self.dataset)?;
        for (field, found, expected) in
            [("model", self.model, policy.model), ("tokens", self.tokens, dataset.tokens)]
        {
            if found != expected {
                return Err(DatasetRule::OtherBlock { field, found, expected }.into());
            }
        }
        check_kind(parents, &self.model, BlockKind::MODEL)?;
        let manifest = Manifest::from_canonical_json(&parents.payload(&self.model)?)?;
        if self.spec != manifest.spec {
            let (found, expected) = (self.spec, manifest.spec);
            return Err(DatasetRule::OtherBlock { field: "spec", found, expected }.into());
        }
        check_kind(parents, &self.spec, BlockKind::SPEC)?;
        let spec = ModelSpec::from_canonical_json(&parents.payload(&self.spec)?)?;
        let header = check_kind(parents, &self.tokens, BlockKind::TOKENS)?;
        let expected = Subject {
            policy: &policy,
            manifest: &manifest,
            vocab_size: spec.vocab_size,
            dataset: &dataset,
            content_hash: header.payload.hash,
            tokens: &parents.payload(&self.tokens)?,
        }
        .findings()?;
        if self.findings != expected {
            let (found, expected) = (Box::new(self.findings), Box::new(expected));
            return Err(DatasetRule::Findings { found, expected }.into());
        }
        // What it says is for `recompute`: a tokenizer is a stranger's program, and runs only where it
        // was asked for.
        if self.text.is_some() != (dataset.tokenizer.is_some() && dataset.text_hash.is_some()) {
            return Err(DatasetRule::TextFindings { found: self.text.is_some() }.into());
        }
        Ok(())
    }
}

/// What an honest validator finds in a dataset under a policy.
///
/// # Errors
///
/// [`EvolveError`] if a block is missing or not what it must be, or the tokenizer fails.
pub fn recompute(chain: &Chain, policy: &BlockHash, dataset: &BlockHash) -> Result<Audit, EvolveError> {
    let rules = Policy::of(chain, policy)?;
    let described = Dataset::read(chain, dataset)?;
    let manifest =
        Manifest::from_canonical_json(&chain.payload(&rules.model)?).map_err(ManagerError::from)?;
    let spec = ModelSpec::from_canonical_json(&chain.payload(&manifest.spec)?).map_err(ManagerError::from)?;
    let tokens = chain.payload(&described.tokens)?;
    let findings = Subject {
        policy: &rules,
        manifest: &manifest,
        vocab_size: spec.vocab_size,
        dataset: &described,
        content_hash: described.content_hash,
        tokens: &tokens,
    }
    .findings()?;
    let text = match (&described.tokenizer, &described.text_hash) {
        (Some(tokenizer), Some(_)) => {
            let json = chain.payload(tokenizer)?;
            Some(text_findings(&json, described.vocab_size, Tokens::from_payload(&tokens)?.ids())?)
        }
        _ => None,
    };
    Ok(Audit {
        policy: *policy,
        model: rules.model,
        spec: manifest.spec,
        dataset: *dataset,
        tokens: described.tokens,
        findings,
        text,
    })
}

fn text_findings(json: &[u8], vocab_size: u32, ids: &[u32]) -> Result<TextFindings, EvolveError> {
    let tokenizer = Tokenizer::from_json(json, vocab_size as usize).map_err(ManagerError::from)?;
    let text = tokenizer.decode(ids, false).map_err(ManagerError::from)?;
    // A text that cannot be encoded does not give the tokens again.
    let round_trip = tokenizer.encode(&text, false).is_ok_and(|again| again == ids);
    Ok(TextFindings { decoded_hash: PayloadHash::of(text.as_bytes()), round_trip })
}

/// Audits a dataset: computes what is found in it and appends that, signed. The same key, policy and
/// dataset give the same block.
///
/// # Errors
///
/// [`InvalidEvidence::NotAValidator`] in [`EvolveError::Invalid`] before anything is computed; those of
/// [`recompute`]; [`EvolveError::Chain`].
pub fn audit(
    chain: &Chain,
    policy: &BlockHash,
    dataset: &BlockHash,
    key: &SigningKey,
) -> Result<BlockHash, EvolveError> {
    Policy::of(chain, policy)?.check_validator(policy, &PublicKey::of(key))?;
    Statement::sign(key, recompute(chain, policy, dataset)?)?.append(chain)
}

/// Computes an audit again, its text too, and compares.
///
/// # Errors
///
/// [`DatasetError::FalseAudit`] if it does not say what is there; those of [`recompute`].
pub fn check_audit(chain: &Chain, audit: &BlockHash) -> Result<(), EvolveError> {
    let statement = Statement::<Audit>::read(chain, audit)?;
    let expected = recompute(chain, &statement.body().policy, &statement.body().dataset)?;
    if *statement.body() != expected {
        return Err(DatasetError::FalseAudit { audit: *audit, key: statement.key() }.into());
    }
    Ok(())
}
