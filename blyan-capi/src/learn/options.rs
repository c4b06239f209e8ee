//! Owns what a run of training is asked for.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ptr;

use blyan_core::Slot;
use blyan_learn::{AdamW, Form, Schedule, TrainOptions};

use crate::edge::{Options, init_options, options, texts};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::model::{count, optional_count};
use crate::text::{BLYAN_NONE, blyan_str};

/// In what form slots are trained and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_form {
    /// All tensors of a slot, written in the types of its block.
    Full = 0,
    /// Low-rank factors of each of its matrices, written as a delta block in F32 and as the block that the
    /// delta gives.
    LowRank = 1,
    /// All of its matrices; what they gained is written as a delta block of 8 bits, and as the block that
    /// the delta gives.
    Int8 = 2,
}

fn form_of(form: i32, rank: u64) -> Outcome<Form> {
    match (form, rank) {
        (0, 0) => Ok(Form::Full),
        (1, rank) => Ok(Form::LowRank { rank: count(rank, "rank")? }),
        (2, 0) => Ok(Form::Int8),
        (0 | 2, rank) => {
            Err(Failure::argument(format!("rank = {rank} is for BLYAN_FORM_LOW_RANK alone: leave it 0")))
        }
        _ => Err(Failure::argument(format!("form {form} is none: expected a blyan_form"))),
    }
}

/// What to train and how. Fill it with `blyan_train_options_init` first, and name slots.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_train_options {
    /// `sizeof(blyan_train_options)`.
    pub size: usize,
    /// Names of the slots that learn: experts, routers, or any other slot of weights, such as
    /// "layer3.expert7". All others stay as they are.
    pub slots: *const blyan_str,
    /// Number of these slots.
    pub slots_len: usize,
    /// A `blyan_form`; `BLYAN_FORM_FULL` by default.
    pub form: i32,
    /// 0.
    pub reserved: i32,
    /// Rank of the factors, needed for `BLYAN_FORM_LOW_RANK` and 0, as by default, for other forms.
    pub rank: u64,
    /// Steps of the whole run, 100 by default; the learning rate ends with the last.
    pub steps: u64,
    /// Sequences of a step, 8 by default.
    pub batch: u64,
    /// Tokens of a sequence that are predicted, 256 by default.
    pub sequence: u64,
    /// Largest learning rate, 1e-4 by default.
    pub learning_rate: f64,
    /// Share of it that the last step has, 0.1 by default: the rate falls to that along a cosine.
    pub learning_rate_floor: f64,
    /// Steps in which the rate rises from 0 in a straight line, 0 by default.
    pub warmup_steps: u64,
    /// AdamW's decay of the mean of gradients, 0.9 by default.
    pub beta1: f64,
    /// Decay of the mean of their squares, 0.95 by default.
    pub beta2: f64,
    /// Added to the root of the latter, 1e-8 by default.
    pub eps: f64,
    /// Share of a matrix's weights that a step takes away, times the learning rate; 0 by default.
    pub weight_decay: f64,
    /// Largest norm of all gradients together, 1 by default; larger ones are scaled down. 0: none are.
    pub clip: f64,
    /// Weight of the loss that balances the load of experts; 0, as by default, for none.
    pub balance: f64,
    /// Chooses the sequences, and what a model from nothing begins with; 0 by default.
    pub seed: u64,
    /// Threads that compute; by default `BLYAN_NONE`: all cores. The bits of a run may depend on it.
    pub threads: u64,
}

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_train_options {
    fn defaults(size: usize) -> Self {
        let TrainOptions { steps, batch, sequence, schedule, adamw, clip, balance, seed, .. } =
            TrainOptions::default();
        Self {
            size,
            slots: ptr::null(),
            slots_len: 0,
            form: blyan_form::Full as i32,
            reserved: 0,
            rank: 0,
            steps,
            batch: batch as u64,
            sequence: sequence as u64,
            learning_rate: schedule.peak,
            learning_rate_floor: schedule.floor,
            warmup_steps: schedule.warmup_steps,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            weight_decay: adamw.weight_decay,
            clip: clip.unwrap_or(0.0),
            balance,
            seed,
            threads: BLYAN_NONE,
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_train_options_init(
    options: *mut blyan_train_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// # Safety
///
/// NULL or options whose pointers are valid.
pub(super) unsafe fn train_options(options: *const blyan_train_options) -> Outcome<TrainOptions> {
    // SAFETY: the caller's promise.
    let asked = unsafe { self::options(options, "options") }?;
    // SAFETY: as above.
    let slots = unsafe { texts(asked.slots, asked.slots_len, "slots") }?;
    let slots = slots.iter().map(|slot| slot.parse::<Slot>().map_err(Failure::from));
    Ok(TrainOptions {
        slots: slots.collect::<Outcome<Vec<Slot>>>()?,
        form: form_of(asked.form, asked.rank)?,
        steps: asked.steps,
        batch: count(asked.batch, "batch")?,
        sequence: count(asked.sequence, "sequence")?,
        schedule: Schedule {
            peak: asked.learning_rate,
            floor: asked.learning_rate_floor,
            warmup_steps: asked.warmup_steps,
        },
        adamw: AdamW {
            beta1: asked.beta1,
            beta2: asked.beta2,
            eps: asked.eps,
            weight_decay: asked.weight_decay,
        },
        clip: (asked.clip != 0.0).then_some(asked.clip),
        balance: asked.balance,
        seed: asked.seed,
        threads: optional_count(asked.threads, "threads")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_trainer() {
        let asked = blyan_train_options::defaults(size_of::<blyan_train_options>());
        // SAFETY: a struct of that size; it names no slots.
        assert_eq!(unsafe { train_options(&raw const asked) }.unwrap(), TrainOptions::default());
    }

    #[test]
    fn forms_are_those_of_the_trainer_and_only_one_has_a_rank() {
        for (form, rank, expected) in [
            (blyan_form::Full, 0, Form::Full),
            (blyan_form::LowRank, 4, Form::LowRank { rank: 4 }),
            (blyan_form::Int8, 0, Form::Int8),
        ] {
            assert_eq!(form_of(form as i32, rank).unwrap(), expected);
        }
        for (form, rank) in [(0, 4), (2, 4), (3, 0), (-1, 0)] {
            assert!(form_of(form, rank).is_err(), "{form} {rank}");
        }
    }
}
