//! Owns datasets: proposing, auditing, voting, counting, ruling, and where each stands.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;
use std::ptr;

use blyan_core::evolve::EvolveError;
use blyan_core::evolve::dataset::{self, DatasetDraft, DatasetState, Stage};
use blyan_core::hash::PayloadHash;
use blyan_core::{BlockHash, Chain};
use semver::Version;

use crate::chain::{blyan_chain, optional_block};
use crate::edge::{
    Options, describe, free, init_options, new_handle, optional_text, options, read, read_optional, slice,
    text,
};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::evolve::key::blyan_key;
use crate::evolve::policy::{blyan_tier, tier_number, tier_of};
use crate::evolve::{append, json};
use crate::hash::{at, blyan_hash};
use crate::snapshot::blyan_snapshot;
use crate::text::{Text, blyan_str, blyan_text, blyan_tokens};

/// Where a dataset stands under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_stage {
    /// Proposed; no audit counts yet.
    Pending = 0,
    /// A validator found that the policy's model can read it.
    Audited = 1,
    /// Enough votes were counted.
    Voted = 2,
    /// The count is for it.
    Accepted = 3,
    /// The count is against it, or it has a twin that is accepted.
    Rejected = 4,
}

fn stage_number(stage: Stage) -> blyan_stage {
    match stage {
        Stage::Pending => blyan_stage::Pending,
        Stage::Audited => blyan_stage::Audited,
        Stage::Voted => blyan_stage::Voted,
        Stage::Accepted => blyan_stage::Accepted,
        Stage::Rejected => blyan_stage::Rejected,
    }
}

/// Token ids of a text as a snapshot's own tokenizer gives them, without special tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_tokenize(
    snapshot: *const blyan_snapshot,
    chain: *const blyan_chain,
    text: *const c_char,
    text_len: usize,
    tokens: *mut *mut blyan_tokens,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tokens, snapshot, chain, text) = unsafe {
            (
                new_handle(tokens, "tokens")?,
                read(snapshot, "snapshot")?,
                read(chain, "chain")?,
                self::text(text, text_len, "text")?,
            )
        };
        tokens.set(blyan_tokens(dataset::tokenize(&chain.chain, &snapshot.snapshot, text)?));
        Ok(())
    })
}

/// A dataset to propose: a text and the snapshot whose tokenizer reads it, or token ids. Fill it with
/// `blyan_dataset_draft_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_dataset_draft {
    /// `sizeof(blyan_dataset_draft)`.
    pub size: usize,
    /// Name of the dataset and of its block: 1 to 128 bytes of `[a-z0-9_.-]`.
    pub name: blyan_str,
    /// SemVer version; by default NULL: "1.0.0".
    pub version: blyan_str,
    /// SPDX license expression.
    pub license: blyan_str,
    /// Where it comes from, for people.
    pub source: blyan_str,
    /// The text; by default NULL. Not beside `tokens` and what belongs to them.
    pub text: blyan_str,
    /// Reads the text; needed with one.
    pub snapshot: *const blyan_snapshot,
    /// Token ids.
    pub tokens: *const u32,
    /// Number of token ids.
    pub tokens_len: usize,
    /// The tokenizer block that the ids belong to; by default NULL: they are no text.
    pub tokenizer: *const blyan_hash,
    /// BLAKE3 of the text that the ids were made from; by default NULL.
    pub text_hash: *const blyan_hash,
    /// The dataset that this one takes the place of, of the same name and a lower version; by default NULL.
    pub predecessor: *const blyan_hash,
    /// Every id is lower; needed with ids.
    pub vocab_size: u32,
    /// A `blyan_tier`; by default `BLYAN_TIER_EXPERIMENTAL`.
    pub tier: i32,
}

const NO_TEXT: blyan_str = blyan_str { data: ptr::null(), len: 0 };

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_dataset_draft {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            name: NO_TEXT,
            version: NO_TEXT,
            license: NO_TEXT,
            source: NO_TEXT,
            text: NO_TEXT,
            snapshot: ptr::null(),
            tokens: ptr::null(),
            tokens_len: 0,
            tokenizer: ptr::null(),
            text_hash: ptr::null(),
            predecessor: ptr::null(),
            vocab_size: 0,
            tier: blyan_tier::Experimental as i32,
        }
    }
}

/// Fills a draft with its defaults; `size` is `sizeof *draft`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_draft_init(
    draft: *mut blyan_dataset_draft,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(draft, size) })
}

/// # Safety
///
/// NULL or a draft whose pointers are valid.
unsafe fn draft_of(chain: &Chain, draft: *const blyan_dataset_draft) -> Outcome<DatasetDraft> {
    // SAFETY: the caller's promise.
    let given = unsafe {
        read(draft, "draft")?;
        options(draft, "draft")?
    };
    // SAFETY: as above.
    let (name, version, license, source, words, tokens) = unsafe {
        (
            text(given.name.data, given.name.len, "name")?,
            optional_text(given.version.data, given.version.len, "version")?,
            text(given.license.data, given.license.len, "license")?,
            text(given.source.data, given.source.len, "source")?,
            optional_text(given.text.data, given.text.len, "text")?,
            slice(given.tokens, given.tokens_len, "tokens")?,
        )
    };
    // SAFETY: as above.
    let (snapshot, tokenizer, text_hash, predecessor) = unsafe {
        (
            read_optional(given.snapshot, "snapshot")?,
            optional_block(given.tokenizer, "tokenizer")?,
            read_optional(given.text_hash, "text_hash")?,
            optional_block(given.predecessor, "predecessor")?,
        )
    };
    let draft = match (words, snapshot) {
        (None, _) => DatasetDraft {
            tokenizer,
            text_hash: text_hash.map(|hash| PayloadHash::from_bytes(hash.bytes)),
            ..DatasetDraft::of_tokens(name, tokens.to_vec(), given.vocab_size, license, source)
        },
        (Some(_), _)
            if !tokens.is_empty() || tokenizer.is_some() || text_hash.is_some() || given.vocab_size > 0 =>
        {
            return Err(Failure::argument("a dataset has a text, or token ids and what belongs to them"));
        }
        (Some(words), Some(snapshot)) => {
            DatasetDraft::of_text(chain, &snapshot.snapshot, name, words, license, source)?
        }
        (Some(_), None) => {
            return Err(Failure::argument("a text needs a snapshot, whose tokenizer reads it"));
        }
    };
    let version: Version = match version {
        Some(version) => version.parse()?,
        None => draft.version,
    };
    Ok(DatasetDraft { version, predecessor, tier: tier_of(given.tier)?, ..draft })
}

/// Proposes a dataset: appends its tokens and what is said about them, together, and gives the dataset block.
/// The same draft is the same block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_propose(
    chain: *const blyan_chain,
    draft: *const blyan_dataset_draft,
    dataset: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let draft = draft_of(&read(chain, "chain")?.chain, draft)?;
            append(chain, dataset, |chain| dataset::propose(chain, draft))
        }
    })
}

/// Audits a dataset as a validator of the policy: counts what is in it, and appends that, signed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_audit(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    key: *const blyan_key,
    audit: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (policy, dataset, key) =
                (read(policy, "policy")?, read(dataset, "dataset")?, read(key, "key")?);
            append(chain, audit, |chain| dataset::audit(chain, &policy.block(), &dataset.block(), &key.0))
        }
    })
}

/// Computes an audit of a dataset again, its text too; `BLYAN_STATUS_STEP` if it does not say what is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_check_audit(
    chain: *const blyan_chain,
    audit: *const blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, audit) = unsafe { (read(chain, "chain")?, read(audit, "audit")?) };
        Ok(dataset::check_audit(&chain.chain, &audit.block())?)
    })
}

/// What an honest validator finds in a dataset under a policy, as the JSON of an audit's body. Appends nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_recompute_json(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, chain, policy, dataset) = unsafe {
            (
                new_handle(json, "json")?,
                read(chain, "chain")?,
                read(policy, "policy")?,
                read(dataset, "dataset")?,
            )
        };
        let audit = dataset::recompute(&chain.chain, &policy.block(), &dataset.block())?;
        text.set(self::json(&audit)?);
        Ok(())
    })
}

/// Votes on an audited dataset as a voter of the policy. A vote cannot be taken back: the same again is the
/// same block, the other way is `BLYAN_STATUS_STEP`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_vote(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    key: *const blyan_key,
    approve: bool,
    vote: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (policy, dataset, key) =
                (read(policy, "policy")?, read(dataset, "dataset")?, read(key, "key")?);
            append(chain, vote, |chain| {
                dataset::vote(chain, &policy.block(), &dataset.block(), &key.0, approve)
            })
        }
    })
}

/// What anyone can say about a dataset.
unsafe fn follow(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    block: *mut blyan_hash,
    step: fn(&Chain, &BlockHash, &BlockHash) -> Result<BlockHash, EvolveError>,
) -> Outcome {
    // SAFETY: the caller's pointers, as the header asks.
    unsafe {
        let (policy, dataset) = (read(policy, "policy")?, read(dataset, "dataset")?);
        append(chain, block, |chain| step(chain, &policy.block(), &dataset.block()))
    }
}

/// Counts every vote on a dataset that may be counted, and appends that. Anyone can.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_tally(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    tally: *mut blyan_hash,
) -> blyan_status {
    // SAFETY: the caller's pointers, as the header asks.
    edge(|| unsafe { follow(chain, policy, dataset, tally, dataset::tally) })
}

/// Appends what follows from the best tally: the dataset is accepted, or rejected. Anyone can.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_rule(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    ruling: *mut blyan_hash,
) -> blyan_status {
    // SAFETY: the caller's pointers, as the header asks.
    edge(|| unsafe { follow(chain, policy, dataset, ruling, dataset::rule) })
}

/// Datasets, and where each stands under a policy.
pub struct blyan_dataset_states(Vec<DatasetState>, Vec<Texts>);

struct Texts {
    name: Text,
    version: Text,
}

/// A dataset and where it stands under a policy. Texts live as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_dataset_state {
    /// The dataset block.
    pub dataset: blyan_hash,
    /// Its tokens block.
    pub tokens: blyan_hash,
    /// The best tally.
    pub tally: blyan_hash,
    /// The ruling on it.
    pub ruling: blyan_hash,
    /// The accepted twin, if that is why this dataset is rejected.
    pub duplicate_of: blyan_hash,
    /// Its name.
    pub name: blyan_str,
    /// Its version.
    pub version: blyan_str,
    /// Number of tokens.
    pub num_tokens: u64,
    /// Number of audits that count.
    pub audits_len: usize,
    /// Number of votes that count.
    pub votes_len: usize,
    /// A `blyan_stage`.
    pub stage: i32,
    /// A `blyan_tier`.
    pub tier: i32,
    /// Not 0 if `tally` is one.
    pub has_tally: i32,
    /// Not 0 if `ruling` is one.
    pub has_ruling: i32,
    /// Not 0 if `duplicate_of` is one.
    pub has_duplicate_of: i32,
    /// 0.
    pub reserved: i32,
}

/// Where a dataset stands under a policy, as a list of one; `dataset` may be NULL for all, by height, then
/// hash. A function of the set of blocks, whatever their order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_list(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    dataset: *const blyan_hash,
    states: *mut *mut blyan_dataset_states,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (states, chain, policy, dataset) = unsafe {
            (
                new_handle(states, "states")?,
                read(chain, "chain")?,
                read(policy, "policy")?,
                optional_block(dataset, "dataset")?,
            )
        };
        let found = match dataset {
            Some(dataset) => vec![dataset::state(&chain.chain, &policy.block(), &dataset)?],
            None => dataset::list(&chain.chain, &policy.block())?,
        };
        let texts = found.iter().map(|state| Texts {
            name: Text::new(state.dataset.name.as_str()),
            version: Text::new(state.dataset.version.to_string()),
        });
        let texts = texts.collect();
        states.set(blyan_dataset_states(found, texts));
        Ok(())
    })
}

/// Number of datasets; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_states_len(states: *const blyan_dataset_states) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { states.as_ref() }.map_or(0, |states| states.0.len())
}

/// One of the datasets; `size` is `sizeof *state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_states_get(
    states: *const blyan_dataset_states,
    index: usize,
    state: *mut blyan_dataset_state,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let states = unsafe { read(states, "states") }?;
        let (found, texts) = (at(&states.0, index)?, at(&states.1, index)?);
        let block = |block: Option<BlockHash>| block.map_or(blyan_hash::ZERO, Into::into);
        let description = blyan_dataset_state {
            dataset: found.block.into(),
            tokens: found.dataset.tokens.into(),
            tally: block(found.tally),
            ruling: block(found.ruling),
            duplicate_of: block(found.duplicate_of),
            name: texts.name.view(),
            version: texts.version.view(),
            num_tokens: found.dataset.num_tokens,
            audits_len: found.audits.len(),
            votes_len: found.votes.len(),
            stage: stage_number(found.stage) as i32,
            tier: tier_number(found.dataset.tier) as i32,
            has_tally: found.tally.is_some().into(),
            has_ruling: found.ruling.is_some().into(),
            has_duplicate_of: found.duplicate_of.is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(state, size, "state", description) }
    })
}

/// Everything that is known of the datasets, as a JSON array: what was proposed, audits, votes, keys that
/// said two things, twins.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_states_json(
    states: *const blyan_dataset_states,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, states) = unsafe { (new_handle(json, "json")?, read(states, "states")?) };
        text.set(self::json(&states.0)?);
        Ok(())
    })
}

/// Frees a list of datasets; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_dataset_states_free(states: *mut blyan_dataset_states) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(states) }
}
