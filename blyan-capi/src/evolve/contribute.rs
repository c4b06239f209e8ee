//! Owns the author's side of a round: one call that is made again until there is nothing left to do.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::BlockHash;
use blyan_core::evolve::{self, ContributeOptions, ContributeStage};

use crate::chain::blyan_chain;
use crate::edge::{check_room, describe, read};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::evolve::key::blyan_key;
use crate::evolve::round::{blyan_slot_block, candidate_blocks};
use crate::hash::blyan_hash;

/// How far a contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_contribute_stage {
    /// It is claimed; the candidate follows when the round is closed.
    Claimed = 0,
    /// The candidate is shown; the round's owner goes on.
    Proposed = 1,
    /// The split is shown, and judges the candidate.
    Revealed = 2,
}

fn stage_number(stage: ContributeStage) -> Outcome<i32> {
    Ok(match stage {
        ContributeStage::Claimed => blyan_contribute_stage::Claimed,
        ContributeStage::Proposed => blyan_contribute_stage::Proposed,
        ContributeStage::Revealed => blyan_contribute_stage::Revealed,
        other => return Err(Failure::argument(format!("{other:?} has no number in this version"))),
    } as i32)
}

/// Where a contribution is after a call, or would be.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_contribution {
    /// Its claim block.
    pub claim: blyan_hash,
    /// Its candidate block, once the round is closed.
    pub candidate: blyan_hash,
    /// The block that was appended.
    pub appended: blyan_hash,
    /// Bytes of its payload.
    pub appended_bytes: u64,
    /// A `blyan_contribute_stage`.
    pub stage: i32,
    /// Not 0 if `candidate` is one.
    pub has_candidate: i32,
    /// Not 0 if `appended` is one: not while there is nothing to do but wait.
    pub has_appended: i32,
    /// 0.
    pub reserved: i32,
}

/// Takes the next step with new blocks in a round: claims them while it is open, shows them as a candidate
/// when it is closed, and says how far it is otherwise. What can earn nothing, such as a copy, is
/// `BLYAN_STATUS_STEP` before anything is appended; with `dry_run`, nothing is. `size` is `sizeof
/// *contribution`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_contribute(
    chain: *const blyan_chain,
    key: *const blyan_key,
    round: *const blyan_hash,
    blocks: *const blyan_slot_block,
    blocks_len: usize,
    dry_run: bool,
    contribution: *mut blyan_contribution,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(contribution, size, "contribution")?;
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, key, round, blocks) = unsafe {
            (
                read(chain, "chain")?,
                read(key, "key")?,
                read(round, "round")?,
                candidate_blocks(blocks, blocks_len)?,
            )
        };
        // A dry run asks a transaction what it would refuse.
        let (chain, options) = (chain.to_write()?, ContributeOptions { dry_run });
        let report = evolve::contribute(chain, &key.0, &round.block(), &blocks, &options)?;
        let block = |block: Option<BlockHash>| block.map_or(blyan_hash::ZERO, Into::into);
        let description = blyan_contribution {
            claim: report.claim.into(),
            candidate: block(report.candidate),
            appended: block(report.appended),
            appended_bytes: report.appended_bytes,
            stage: stage_number(report.stage)?,
            has_candidate: report.candidate.is_some().into(),
            has_appended: report.appended.is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(contribution, size, "contribution", description) }
    })
}
