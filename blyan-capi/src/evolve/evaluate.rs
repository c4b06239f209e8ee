//! Owns evaluation: the mean loss of a model on tokens, the same bits on every machine.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_void;
use std::ptr;

use blyan_core::evolve::{self, EvaluateOptions, EvaluateProgress, Evaluation};
use blyan_core::manager::Snapshot;

use crate::cancel::{Watch, blyan_cancel};
use crate::chain::blyan_chain;
use crate::edge::{
    Options, check_room, describe, free, init_options, new_handle, optional_text, options, read, slice,
};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::model::{blyan_model, count, optional_count};
use crate::snapshot::blyan_snapshot;
use crate::text::{BLYAN_NONE, BLYAN_NUL, blyan_str};

/// How far an evaluation is. Attesting and auditing are several of them, one after the other; in each, base and
/// candidates run beside each other.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_evaluate_progress {
    /// Predicted tokens so far.
    pub tokens: u64,
    /// Predicted tokens in all.
    pub total_tokens: u64,
    /// Mean loss so far, in nats; of the base, where candidates run beside it.
    pub loss: f64,
    /// Predicted tokens a second so far, by each model if there are several.
    pub tokens_per_second: f64,
}

/// Hears how far an evaluation is. Returns 0 to go on; anything else ends the call with
/// `BLYAN_STATUS_STOPPED`. What `progress` points to is gone when it returns.
pub type blyan_evaluate_progress_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, progress: *const blyan_evaluate_progress) -> i32>;

/// How to evaluate. Only the window changes the result. Fill it with `blyan_evaluate_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_evaluate_options {
    /// `sizeof(blyan_evaluate_options)`.
    pub size: usize,
    /// Tokens that a window predicts, each beginning with an empty cache; 256 by default. Attesting and
    /// auditing do not look at it: the policy has its own.
    pub window: u64,
    /// Tokens that go through the model at once, 1024 by default.
    pub pass_tokens: u64,
    /// Threads that compute; by default `BLYAN_NONE`: all cores. Not looked at for a model that is open.
    pub threads: u64,
    /// Instruction set, as for `blyan_model_options`. Not looked at for a model that is open.
    pub isa: blyan_str,
    /// Called after each pass; may be NULL.
    pub on_progress: blyan_evaluate_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends it when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_evaluate_options {
    fn defaults(size: usize) -> Self {
        let EvaluateOptions { window, pass_tokens, .. } = EvaluateOptions::default();
        Self {
            size,
            window: window as u64,
            pass_tokens: pass_tokens as u64,
            threads: BLYAN_NONE,
            isa: blyan_str { data: ptr::null(), len: BLYAN_NUL },
            on_progress: None,
            user: ptr::null_mut(),
            cancel: ptr::null(),
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_evaluate_options_init(
    options: *mut blyan_evaluate_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// How to evaluate, as C says it.
pub(super) struct Evaluating {
    window: usize,
    pass_tokens: usize,
    threads: Option<usize>,
    isa: Option<String>,
    watch: Watch<blyan_evaluate_progress>,
}

impl Evaluating {
    /// # Safety
    ///
    /// NULL or options whose pointers are valid until the call ends.
    pub(super) unsafe fn new(options: *const blyan_evaluate_options) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let asked = unsafe { self::options(options, "options") }?;
        // SAFETY: as above.
        let (isa, watch) = unsafe {
            (
                optional_text(asked.isa.data, asked.isa.len, "isa")?,
                Watch::new(asked.on_progress, asked.user, asked.cancel)?,
            )
        };
        Ok(Self {
            window: count(asked.window, "window")?,
            pass_tokens: count(asked.pass_tokens, "pass_tokens")?,
            threads: optional_count(asked.threads, "threads")?,
            isa: isa.map(str::to_owned),
            watch,
        })
    }

    /// Does what evaluates.
    pub(super) fn run<T, E: Into<Failure>>(
        &self,
        work: impl FnOnce(&EvaluateOptions<'_>) -> Result<T, E>,
    ) -> Outcome<T> {
        let tell = |EvaluateProgress { tokens, total_tokens, loss, tokens_per_second }| {
            self.watch.tell(blyan_evaluate_progress { tokens, total_tokens, loss, tokens_per_second });
        };
        let options = EvaluateOptions {
            window: self.window,
            pass_tokens: self.pass_tokens,
            threads: self.threads,
            isa: self.isa.clone(),
            cancel: Some(self.watch.cancel()),
            progress: Some(&tell),
        };
        let done = work(&options).map_err(|error| self.watch.blame(error))?;
        if self.watch.is_stopped() { Err(Failure::stopped()) } else { Ok(done) }
    }
}

/// What an evaluation gives.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_evaluation {
    /// Names the model.
    pub model_root: blyan_hash,
    /// Mean loss in nats of a predicted token; NaN or infinite for a model that computes no probabilities.
    /// The same bits on every machine.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Predicted tokens.
    pub tokens: u64,
    /// Windows, a shorter one at the end included.
    pub windows: u64,
    /// Predicted tokens a second; no part of the result.
    pub tokens_per_second: f64,
    /// How long it took; no part of the result.
    pub elapsed_s: f64,
    /// Version of the arithmetic.
    pub numerics_version: u32,
    /// 0.
    pub reserved: u32,
}

impl blyan_evaluation {
    fn new(evaluation: &Evaluation) -> Self {
        Self {
            model_root: evaluation.model_root.into(),
            loss: evaluation.loss(),
            perplexity: evaluation.perplexity(),
            tokens: evaluation.tokens,
            windows: evaluation.windows,
            tokens_per_second: evaluation.tokens_per_second(),
            elapsed_s: evaluation.elapsed.as_secs_f64(),
            numerics_version: evaluation.numerics_version,
            reserved: 0,
        }
    }
}

/// Mean loss of a snapshot on tokens, at least 2 of them; `options` may be NULL, `size` is `sizeof
/// *evaluation`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_evaluate(
    snapshot: *const blyan_snapshot,
    chain: *const blyan_chain,
    tokens: *const u32,
    tokens_len: usize,
    options: *const blyan_evaluate_options,
    evaluation: *mut blyan_evaluation,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(evaluation, size, "evaluation")?;
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, chain, tokens, how) = unsafe {
            (
                read(snapshot, "snapshot")?,
                read(chain, "chain")?,
                slice(tokens, tokens_len, "tokens")?,
                Evaluating::new(options)?,
            )
        };
        let found = how.run(|options| evolve::evaluate(&chain.chain, &snapshot.snapshot, tokens, options))?;
        // SAFETY: as above.
        unsafe { describe(evaluation, size, "evaluation", blyan_evaluation::new(&found)) }
    })
}

/// What evaluating a base and candidates gives.
pub struct blyan_evaluations(Vec<Evaluation>);

/// Evaluates a base and candidates for its place: for each the same bits as `blyan_snapshot_evaluate`, but what
/// they share with the base is computed once. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_evaluate_together(
    base: *const blyan_snapshot,
    chain: *const blyan_chain,
    candidates: *const *const blyan_snapshot,
    candidates_len: usize,
    tokens: *const u32,
    tokens_len: usize,
    options: *const blyan_evaluate_options,
    evaluations: *mut *mut blyan_evaluations,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (evaluations, base, chain, candidates, tokens, how) = unsafe {
            (
                new_handle(evaluations, "evaluations")?,
                read(base, "base")?,
                read(chain, "chain")?,
                slice(candidates, candidates_len, "candidates")?,
                slice(tokens, tokens_len, "tokens")?,
                Evaluating::new(options)?,
            )
        };
        let mut others: Vec<&Snapshot> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            // SAFETY: as above.
            others.push(&unsafe { read(*candidate, "candidate") }?.snapshot);
        }
        let (first, rest) = how.run(|options| {
            evolve::evaluate_together(&chain.chain, &base.snapshot, &others, tokens, options)
        })?;
        evaluations.set(blyan_evaluations(std::iter::once(first).chain(rest).collect()));
        Ok(())
    })
}

/// Number of evaluations, one more than there were candidates; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_evaluations_len(evaluations: *const blyan_evaluations) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { evaluations.as_ref() }.map_or(0, |evaluations| evaluations.0.len())
}

/// One of the evaluations: the base's at 0, then those of the candidates; `size` is `sizeof *evaluation`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_evaluations_get(
    evaluations: *const blyan_evaluations,
    index: usize,
    evaluation: *mut blyan_evaluation,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let found = at(&unsafe { read(evaluations, "evaluations") }?.0, index)?;
        // SAFETY: as above.
        unsafe { describe(evaluation, size, "evaluation", blyan_evaluation::new(found)) }
    })
}

/// Frees a list of evaluations; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_evaluations_free(evaluations: *mut blyan_evaluations) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(evaluations) }
}

/// As `blyan_snapshot_evaluate`, of a model that is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_evaluate(
    model: *const blyan_model,
    tokens: *const u32,
    tokens_len: usize,
    options: *const blyan_evaluate_options,
    evaluation: *mut blyan_evaluation,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(evaluation, size, "evaluation")?;
        // SAFETY: the caller's pointers, as the header asks.
        let (model, tokens, how) = unsafe {
            (read(model, "model")?, slice(tokens, tokens_len, "tokens")?, Evaluating::new(options)?)
        };
        let found = how.run(|options| evolve::evaluate_model(&model.manager, tokens, options))?;
        // SAFETY: as above.
        unsafe { describe(evaluation, size, "evaluation", blyan_evaluation::new(&found)) }
    })
}
