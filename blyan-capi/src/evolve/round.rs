//! Owns the steps of a round: opened, claimed, closed, proposed, revealed.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::collections::BTreeMap;

use blyan_core::BlockHash;
use blyan_core::evolve::{self, CandidateBlocks, PublicKey};
use blyan_core::hash::{CandidateRoot, PayloadHash, Salt};

use crate::chain::blyan_chain;
use crate::edge::{free, new_handle, out, read, slice, text};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::evolve::append;
use crate::evolve::key::{blyan_key, blyan_public_key};
use crate::hash::{at, block_hashes, blyan_hash};
use crate::snapshot::blyan_snapshot;
use crate::text::blyan_str;

/// A slot and the new block for it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_slot_block {
    /// Name of the slot, such as "layer3.expert7".
    pub slot: blyan_str,
    /// The block.
    pub block: blyan_hash,
}

/// The blocks of a candidate.
///
/// # Safety
///
/// As [`slice`], and each slot as [`text`].
pub(super) unsafe fn candidate_blocks(
    blocks: *const blyan_slot_block,
    len: usize,
) -> Outcome<CandidateBlocks> {
    let mut candidate = BTreeMap::new();
    // SAFETY: the caller's promise.
    for given in unsafe { slice(blocks, len, "blocks") }? {
        // SAFETY: as above.
        let slot = unsafe { text(given.slot.data, given.slot.len, "slot") }?;
        if candidate.insert(slot.parse()?, given.block.block()).is_some() {
            return Err(Failure::argument(format!("{slot} is named twice: a block fills a slot alone")));
        }
    }
    Ok(candidate)
}

/// Opens a round as a validator of the policy, and gives its block: commits to the tokens of `split`, which
/// nobody may know and which later judge what is proposed meanwhile. Appends the model that it improves,
/// which is chosen now, if that is no block yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_round_open(
    chain: *const blyan_chain,
    key: *const blyan_key,
    policy: *const blyan_hash,
    split: *const u32,
    split_len: usize,
    round: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (key, policy) = (read(key, "key")?, read(policy, "policy")?);
            let split = slice(split, split_len, "split")?;
            append(chain, round, |chain| evolve::open_round(chain, &key.0, &policy.block(), split))
        }
    })
}

/// Claims a candidate in a round without showing it, and gives the claim's block. The candidate's blocks need
/// not be on the chain, and had better not be with others until the round is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_round_claim(
    chain: *const blyan_chain,
    key: *const blyan_key,
    round: *const blyan_hash,
    blocks: *const blyan_slot_block,
    blocks_len: usize,
    claim: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (key, round) = (read(key, "key")?, read(round, "round")?);
            let blocks = candidate_blocks(blocks, blocks_len)?;
            append(chain, claim, |chain| evolve::claim(chain, &key.0, &round.block(), &blocks))
        }
    })
}

/// The claims of a round, by block.
pub struct blyan_claims(Vec<(BlockHash, PublicKey)>);

/// The claims of a round that are on the chain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_round_claims(
    chain: *const blyan_chain,
    round: *const blyan_hash,
    claims: *mut *mut blyan_claims,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (claims, chain, round) =
            unsafe { (new_handle(claims, "claims")?, read(chain, "chain")?, read(round, "round")?) };
        claims.set(blyan_claims(evolve::claims_of(&chain.chain, &round.block())?));
        Ok(())
    })
}

/// Number of claims; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_claims_len(claims: *const blyan_claims) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { claims.as_ref() }.map_or(0, |claims| claims.0.len())
}

/// One of the claims: its block, and the key that made it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_claims_get(
    claims: *const blyan_claims,
    index: usize,
    claim: *mut blyan_hash,
    author: *mut blyan_public_key,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (claims, claim, author) =
            unsafe { (read(claims, "claims")?, out(claim, "claim")?, out(author, "author")?) };
        let (block, key) = *at(&claims.0, index)?;
        claim.set(block.into());
        author.set(key.into());
        Ok(())
    })
}

/// Frees a list of claims; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_claims_free(claims: *mut blyan_claims) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(claims) }
}

/// Closes a round as its owner, and gives the closing's block: lists the claims that are on the chain.
/// Nothing is shown before that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_round_close(
    chain: *const blyan_chain,
    key: *const blyan_key,
    round: *const blyan_hash,
    closing: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (key, round) = (read(key, "key")?, read(round, "round")?);
            append(chain, closing, |chain| evolve::close_round(chain, &key.0, &round.block()))
        }
    })
}

/// Shows a candidate that was claimed, once its round is closed, and gives its block. The candidate's blocks
/// must be on the chain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_round_propose(
    chain: *const blyan_chain,
    key: *const blyan_key,
    claim: *const blyan_hash,
    blocks: *const blyan_slot_block,
    blocks_len: usize,
    candidate: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (key, claim) = (read(key, "key")?, read(claim, "claim")?);
            let blocks = candidate_blocks(blocks, blocks_len)?;
            append(chain, candidate, |chain| {
                evolve::propose_candidate(chain, &key.0, &claim.block(), &blocks)
            })
        }
    })
}

/// Shows the split of a round as its owner, and gives the reveal's block: it judges the candidates that are
/// there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_round_reveal(
    chain: *const blyan_chain,
    key: *const blyan_key,
    round: *const blyan_hash,
    split: *const u32,
    split_len: usize,
    reveal: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (key, round) = (read(key, "key")?, read(round, "round")?);
            let split = slice(split, split_len, "split")?;
            append(chain, reveal, |chain| evolve::reveal(chain, &key.0, &round.block(), split))
        }
    })
}

/// Names what a candidate changes: the base, and the new block of each slot. docs/format.md has the bytes of
/// this and of both commitments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_candidate_root(
    base: *const blyan_hash,
    blocks: *const blyan_slot_block,
    blocks_len: usize,
    root: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (base, blocks, root) =
            unsafe { (read(base, "base")?, candidate_blocks(blocks, blocks_len)?, out(root, "root")?) };
        let slots = blocks.iter().map(|(slot, block)| (slot.to_string(), *block)).collect();
        root.set(evolve::candidate_root(&base.block(), &slots).into());
        Ok(())
    })
}

/// What a claim commits to a candidate with: the candidate shows its salt, 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_claim_commitment(
    salt: *const blyan_hash,
    author: *const blyan_public_key,
    root: *const blyan_hash,
    commitment: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (salt, author, root, commitment) = unsafe {
            (
                read(salt, "salt")?,
                read(author, "author")?,
                read(root, "root")?,
                out(commitment, "commitment")?,
            )
        };
        let (salt, root) = (Salt::from_bytes(salt.bytes), CandidateRoot::from_bytes(root.bytes));
        commitment.set(evolve::claim_commitment(&salt, &author.key(), &root).into());
        Ok(())
    })
}

/// What a round commits to its split with: `tokens` is the payload hash of the tokens; the reveal shows the
/// salt, 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_split_commitment(
    salt: *const blyan_hash,
    tokens: *const blyan_hash,
    commitment: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (salt, tokens, commitment) =
            unsafe { (read(salt, "salt")?, read(tokens, "tokens")?, out(commitment, "commitment")?) };
        let (salt, tokens) = (Salt::from_bytes(salt.bytes), PayloadHash::from_bytes(tokens.bytes));
        commitment.set(evolve::split_commitment(&salt, &tokens).into());
        Ok(())
    })
}

/// The model that candidates of one base make of it, in memory only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_of_candidates(
    chain: *const blyan_chain,
    candidates: *const blyan_hash,
    candidates_len: usize,
    snapshot: *mut *mut blyan_snapshot,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, chain, candidates) = unsafe {
            (
                new_handle(snapshot, "snapshot")?,
                read(chain, "chain")?,
                block_hashes(candidates, candidates_len, "candidates")?,
            )
        };
        snapshot.set(blyan_snapshot::new(evolve::snapshot_of(&chain.chain, &candidates)?));
        Ok(())
    })
}
