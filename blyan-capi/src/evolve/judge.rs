//! Owns judgements: what follows from the blocks under a policy, and the model that is chosen.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::BlockHash;
use blyan_core::evolve::{self, CandidateState, Judgement, Reason, RoundState, Verdict};

use crate::chain::{blyan_chain, optional_block};
use crate::edge::{check_room, describe, free, new_handle, out, read, text};
use crate::error::{Failure, blyan_status, edge};
use crate::evolve::key::blyan_public_key;
use crate::evolve::{append, json};
use crate::hash::{at, blyan_hash};
use crate::text::{Text, blyan_str, blyan_text};

/// What the blocks of a policy come to.
pub struct blyan_judgement {
    state: Judgement,
    rounds: Vec<(BlockHash, Refusal)>,
    candidates: Vec<(BlockHash, Refusal)>,
}

/// The texts of a reason; both empty without one.
#[derive(Default)]
struct Refusal {
    code: Text,
    message: Text,
}

impl Refusal {
    fn new(reason: Option<&Reason>) -> Self {
        let text =
            |reason: &Reason| Self { code: Text::new(reason.code()), message: Text::new(reason.to_string()) };
        reason.map(text).unwrap_or_default()
    }
}

fn refused(candidate: &CandidateState) -> Option<&Reason> {
    match &candidate.verdict {
        Verdict::Refused(reason) => Some(reason),
        Verdict::Accepted { .. } => None,
    }
}

/// What the blocks of a policy come to, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_judgement_info {
    /// The policy.
    pub policy: blyan_hash,
    /// Number of rounds; `blyan_judgement_round` tells of them.
    pub rounds_len: usize,
    /// Number of candidates; `blyan_judgement_candidate` tells of them.
    pub candidates_len: usize,
    /// Number of faults: what keys did that nobody may do. `blyan_judgement_json` names them.
    pub faults_len: usize,
}

/// How far a round is. Texts live as long as the judgement.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_round_state {
    /// The round.
    pub round: blyan_hash,
    /// The model that its candidates improve.
    pub base: blyan_hash,
    /// The round that it follows.
    pub previous: blyan_hash,
    /// Who opened it.
    pub owner: blyan_public_key,
    /// Why nothing can be accepted in it, as a word that does not change, such as "round_void"; empty if
    /// something can.
    pub refused: blyan_str,
    /// The same for people.
    pub message: blyan_str,
    /// Number of closings; more than one void it.
    pub closings_len: usize,
    /// Number of reveals; more than one void it.
    pub reveals_len: usize,
    /// Number of sets of candidates that were accepted in it, alone or together.
    pub accepted_len: usize,
    /// Not 0 if `previous` is one.
    pub has_previous: i32,
    /// 0.
    pub reserved: i32,
}

/// A candidate and what became of it. Texts live as long as the judgement.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_candidate_state {
    /// The candidate.
    pub candidate: blyan_hash,
    /// Its round.
    pub round: blyan_hash,
    /// The claim that committed to it.
    pub claim: blyan_hash,
    /// The model that it improves.
    pub base: blyan_hash,
    /// Who proposed it.
    pub author: blyan_public_key,
    /// Why it is not accepted, or not yet, as a word that does not change, such as "not_better"; empty if it
    /// is.
    pub refused: blyan_str,
    /// The same for people.
    pub message: blyan_str,
    /// The base's loss on the split, as it is attested; NaN if it is not accepted.
    pub base_loss: f64,
    /// The loss with it on the split, as it is attested; NaN if it is not accepted.
    pub loss: f64,
    /// Number of validators whose attestations agree and count; 0 if it is not accepted.
    pub validators_len: usize,
    /// Not 0 if it is accepted.
    pub accepted: i32,
    /// 0.
    pub reserved: i32,
}

/// The model that the fork choice takes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_chosen {
    /// The model block, whether it was appended or not; `blyan_judgement_publish` appends it.
    pub model: blyan_hash,
    /// Names the model.
    pub root: blyan_hash,
    /// What is left of the first model's loss, as a product of ratios; rounded.
    pub score: f64,
    /// The same in units of 2^-62, exactly: what decides.
    pub score_units: u64,
    /// Number of sets of candidates that were accepted on the way to it.
    pub steps_len: usize,
}

/// Judges everything that was said under a policy. A function of the set of blocks, whatever their order;
/// blocks that are not valid are passed over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judge(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    judgement: *mut *mut blyan_judgement,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (judgement, chain, policy) =
            unsafe { (new_handle(judgement, "judgement")?, read(chain, "chain")?, read(policy, "policy")?) };
        let state = evolve::judge(&chain.chain, &policy.block())?;
        let round =
            |(block, round): (&BlockHash, &RoundState)| (*block, Refusal::new(round.refused.as_ref()));
        let candidate =
            |(block, state): (&BlockHash, &CandidateState)| (*block, Refusal::new(refused(state)));
        judgement.set(blyan_judgement {
            rounds: state.rounds.iter().map(round).collect(),
            candidates: state.candidates.iter().map(candidate).collect(),
            state,
        });
        Ok(())
    })
}

/// What the blocks of a policy come to, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_describe(
    judgement: *const blyan_judgement,
    info: *mut blyan_judgement_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let state = &unsafe { read(judgement, "judgement") }?.state;
        let description = blyan_judgement_info {
            policy: state.policy.into(),
            rounds_len: state.rounds.len(),
            candidates_len: state.candidates.len(),
            faults_len: state.faults.len(),
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the rounds, by block; `size` is `sizeof *state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_round(
    judgement: *const blyan_judgement,
    index: usize,
    state: *mut blyan_round_state,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let judgement = unsafe { read(judgement, "judgement") }?;
        // Also where there is none.
        check_room(state, size, "state")?;
        let (block, refusal) = at(&judgement.rounds, index)?;
        let found = judgement.state.rounds.get(block).ok_or_else(|| Failure::index(index, 0))?;
        let description = blyan_round_state {
            round: (*block).into(),
            base: found.base.into(),
            previous: found.previous.map_or(blyan_hash::ZERO, Into::into),
            owner: found.owner.into(),
            refused: refusal.code.view(),
            message: refusal.message.view(),
            closings_len: found.closings.len(),
            reveals_len: found.reveals.len(),
            accepted_len: found.accepted.len(),
            has_previous: found.previous.is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(state, size, "state", description) }
    })
}

/// One of the candidates, by block; `size` is `sizeof *state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_candidate(
    judgement: *const blyan_judgement,
    index: usize,
    state: *mut blyan_candidate_state,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let judgement = unsafe { read(judgement, "judgement") }?;
        // Also where there is none.
        check_room(state, size, "state")?;
        let (block, refusal) = at(&judgement.candidates, index)?;
        let found = judgement.state.candidates.get(block).ok_or_else(|| Failure::index(index, 0))?;
        let (split, validators_len) = match &found.verdict {
            Verdict::Accepted { losses, validators } => (losses.first(), validators.len()),
            Verdict::Refused(_) => (None, 0),
        };
        let description = blyan_candidate_state {
            candidate: (*block).into(),
            round: found.round.into(),
            claim: found.claim.into(),
            base: found.base.into(),
            author: found.author.into(),
            refused: refusal.code.view(),
            message: refusal.message.view(),
            base_loss: split.map_or(f64::NAN, |losses| losses.base.value()),
            loss: split.map_or(f64::NAN, |losses| losses.candidate.value()),
            validators_len,
            accepted: found.verdict.is_accepted().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(state, size, "state", description) }
    })
}

/// The model that the fork choice takes; with `without`, a round, what it would take without that round and
/// those that came after it. `without` may be NULL, `size` is `sizeof *chosen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_chosen(
    judgement: *const blyan_judgement,
    without: *const blyan_hash,
    chosen: *mut blyan_chosen,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (state, without) =
            unsafe { (&read(judgement, "judgement")?.state, optional_block(without, "without")?) };
        let other = without.map(|round| state.chosen_without(&round));
        let found = other.as_ref().unwrap_or(&state.chosen);
        let description = blyan_chosen {
            model: found.model.into(),
            root: found.root.into(),
            score: found.score.value(),
            score_units: found.score.units(),
            steps_len: found.steps.len(),
        };
        // SAFETY: as above.
        unsafe { describe(chosen, size, "chosen", description) }
    })
}

/// All of a judgement as JSON: rounds and candidates by block, with accepted sets, losses as bits, validators
/// and reasons; faults; the chosen model and the steps to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_json(
    judgement: *const blyan_judgement,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, judgement) = unsafe { (new_handle(json, "json")?, read(judgement, "judgement")?) };
        text.set(self::json(&judgement.state)?);
        Ok(())
    })
}

/// Appends the chosen model's block, and those on the way to it, if they are not there yet, and gives it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_publish(
    judgement: *const blyan_judgement,
    chain: *const blyan_chain,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let judgement = read(judgement, "judgement")?;
            append(chain, model, |chain| evolve::publish(chain, &judgement.state))
        }
    })
}

/// As `blyan_judgement_publish`, and names the model: gives it and its release block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_release(
    judgement: *const blyan_judgement,
    chain: *const blyan_chain,
    name: *const c_char,
    name_len: usize,
    version: *const c_char,
    version_len: usize,
    model: *mut blyan_hash,
    release: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (judgement, chain, name, version, model, release) = unsafe {
            (
                read(judgement, "judgement")?,
                read(chain, "chain")?,
                text(name, name_len, "name")?,
                text(version, version_len, "version")?,
                out(model, "model")?,
                out(release, "release")?,
            )
        };
        let version: semver::Version = version.parse()?;
        let (chosen, named) = evolve::publish_release(chain.to_write()?, &judgement.state, name, version)?;
        model.set(chosen.into());
        release.set(named.into());
        Ok(())
    })
}

/// Frees a judgement; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_judgement_free(judgement: *mut blyan_judgement) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(judgement) }
}
