//! Owns [`evaluate`]: the mean loss of a model over fixed windows of tokens, the same bits for every
//! validator; and [`evaluate_together`], which finds those bits for a model and candidates for its place
//! without computing twice what they share.
//!
//! Windows do not overlap in what they predict, each starts with an empty context, and losses are
//! added in one order; docs/numerics.md has the arithmetic under *Loss*. How many windows and which models
//! run beside each other, on how many threads and with which instructions changes no bit.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::chain::Chain;
use crate::hash::SnapshotRoot;
use crate::kernels::{FpEnv, NUMERICS_VERSION, math};
use crate::manager::{LossDiff, ManagerError, ManagerOptions, MoEModelManager, Snapshot};

/// Tokens that a window predicts unless something else is asked for.
pub const DEFAULT_WINDOW: usize = 256;

/// How a model is evaluated. Only `window` is part of the question, all else changes no bit.
#[derive(Clone)]
pub struct EvaluateOptions<'a> {
    /// Tokens that each window predicts; a window has one token more, its first, which is not
    /// predicted in it.
    pub window: usize,
    /// Tokens that go through the model at once: as many windows beside each other as fit.
    pub pass_tokens: usize,
    /// Threads that compute; `None` for all cores.
    pub threads: Option<usize>,
    /// Instruction set, as [`ManagerOptions::isa`].
    pub isa: Option<String>,
    /// Set it to end the evaluation after the pass that is under way.
    pub cancel: Option<&'a AtomicBool>,
    /// Told after each pass.
    pub progress: Option<&'a (dyn Fn(EvaluateProgress) + Sync)>,
}

impl Default for EvaluateOptions<'_> {
    fn default() -> Self {
        Self {
            window: DEFAULT_WINDOW,
            pass_tokens: 1024,
            threads: None,
            isa: None,
            cancel: None,
            progress: None,
        }
    }
}

impl fmt::Debug for EvaluateOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvaluateOptions")
            .field("window", &self.window)
            .field("pass_tokens", &self.pass_tokens)
            .field("threads", &self.threads)
            .field("isa", &self.isa)
            .finish_non_exhaustive()
    }
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvaluateProgress {
    /// Predicted tokens so far.
    pub tokens: u64,
    /// Predicted tokens in all.
    pub total_tokens: u64,
    /// Mean loss so far, in nats, of the base where candidates run beside it; for people.
    pub loss: f64,
    /// Predicted tokens a second so far, by each model if there are several.
    pub tokens_per_second: f64,
}

/// What a model loses on some tokens.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Evaluation {
    /// Mean loss in nats of a predicted token, as the bits of an f64. NaN (`0x7ff8000000000000`) or
    /// infinite for a model that computes no probabilities.
    pub loss_bits: u64,
    /// Predicted tokens.
    pub tokens: u64,
    /// Windows, a shorter one at the end included.
    pub windows: u64,
    /// Names the model.
    pub model_root: SnapshotRoot,
    /// Version of the arithmetic.
    pub numerics_version: u32,
    /// How long it took, with all that ran beside it; no part of the result.
    pub elapsed: Duration,
}

impl Evaluation {
    /// Mean loss in nats of a predicted token.
    pub fn loss(&self) -> f64 {
        f64::from_bits(self.loss_bits)
    }

    /// e^loss: as uncertain as a choice among so many equally likely tokens.
    pub fn perplexity(&self) -> f64 {
        math::exp_f64(self.loss())
    }

    /// Predicted tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        rate(self.tokens, self.elapsed)
    }
}

fn rate(tokens: u64, elapsed: Duration) -> f64 {
    tokens as f64 / elapsed.as_secs_f64().max(1e-9)
}

/// Why a model cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// Opening or running the model.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// Nothing is predicted.
    #[error("{tokens} tokens predict nothing: give at least 2")]
    TooFewTokens {
        /// Tokens given.
        tokens: usize,
    },
    /// A window without tokens, or passes without.
    #[error("{option} is 0: expected at least 1")]
    Zero {
        /// The option.
        option: &'static str,
    },
    /// A window that the model has no positions for.
    #[error("windows of {window} tokens need more than the model's {capacity} positions")]
    WindowTooLong {
        /// Tokens that a window predicts.
        window: usize,
        /// Positions that the model has.
        capacity: usize,
    },
    /// It was cancelled.
    #[error("the evaluation was cancelled")]
    Cancelled,
}

/// The windows of `tokens`: `window + 1` tokens each, the last one of one being the first of the next;
/// what is left at the end is a shorter one, if it predicts anything.
fn windows(tokens: &[u32], window: usize) -> impl Iterator<Item = &[u32]> {
    let starts = (0..tokens.len().saturating_sub(1)).step_by(window);
    starts.map(move |start| &tokens[start..tokens.len().min(start.saturating_add(window).saturating_add(1))])
}

/// Opens a snapshot and evaluates it: see [`evaluate_model`].
///
/// # Errors
///
/// [`EvaluateError`].
pub fn evaluate(
    chain: &Chain,
    snapshot: &Snapshot,
    tokens: &[u32],
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation, EvaluateError> {
    Ok(evaluate_together(chain, snapshot, &[], tokens, options)?.0)
}

/// Opens a base and candidates for its place, and evaluates all of them: of the base, and of each candidate,
/// the bits that [`evaluate`] finds.
///
/// Below the first layer in which a candidate differs from the base, only the base is computed. A candidate
/// with another embedding or spec shares nothing. Memory is needed for one pass of the base and of one
/// candidate at a time; where a window is longer than a pass, for the keys and values of all.
///
/// # Errors
///
/// [`EvaluateError`] for any of the models.
pub fn evaluate_together(
    chain: &Chain,
    base: &Snapshot,
    candidates: &[&Snapshot],
    tokens: &[u32],
    options: &EvaluateOptions<'_>,
) -> Result<(Evaluation, Vec<Evaluation>), EvaluateError> {
    // Before the tokenizer is read.
    check(base, tokens, options)?;
    let manager = ManagerOptions {
        threads: options.threads,
        isa: options.isa.clone(),
        persist_usage: false,
        ..ManagerOptions::default()
    };
    run(&MoEModelManager::open_snapshot(chain, base.clone(), &manager)?, candidates, tokens, options)
}

/// What two models lose on the same tokens: what a comparison can be given as its
/// [`SnapshotDiff::loss`](crate::manager::SnapshotDiff::loss). The bits that [`evaluate`] finds for each.
///
/// # Errors
///
/// [`EvaluateError`] for either model, such as tokens that one of them does not know.
pub fn loss_diff(
    chain: &Chain,
    before: &Snapshot,
    after: &Snapshot,
    tokens: &[u32],
    options: &EvaluateOptions<'_>,
) -> Result<LossDiff, EvaluateError> {
    let (base, others) = evaluate_together(chain, before, &[after], tokens, options)?;
    let after_bits = others.first().map_or(base.loss_bits, |other| other.loss_bits);
    Ok(LossDiff { before_bits: base.loss_bits, after_bits, tokens: base.tokens })
}

/// Mean loss of an open model over the windows of `tokens`; `options.threads` and `options.isa` are
/// not looked at, the model has its own.
///
/// # Errors
///
/// [`EvaluateError`]: nothing to predict, a window that does not fit the model, unknown tokens, a
/// damaged block, or cancelled.
pub fn evaluate_model(
    model: &MoEModelManager,
    tokens: &[u32],
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation, EvaluateError> {
    Ok(run(model, &[], tokens, options)?.0)
}

fn run(
    base: &MoEModelManager,
    candidates: &[&Snapshot],
    tokens: &[u32],
    options: &EvaluateOptions<'_>,
) -> Result<(Evaluation, Vec<Evaluation>), EvaluateError> {
    for model in [base.snapshot()].iter().chain(candidates) {
        check(model, tokens, options)?;
    }
    let start = Instant::now();
    let total_tokens = tokens.len() as u64 - 1;
    let all: Vec<&[u32]> = windows(tokens, options.window).collect();
    // Sums are f64 operations like all others: the host's rounding mode must not touch them.
    let _fp_env = FpEnv::enter();
    let together = base.together(candidates);
    let (mut base_sum, mut sums, mut done) = (0.0f64, vec![0.0f64; candidates.len()], 0u64);
    for beside in all.chunks((options.pass_tokens / options.window).max(1)) {
        if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(EvaluateError::Cancelled);
        }
        let (losses, of_candidates) = together.window_losses(beside, options.pass_tokens)?;
        done += losses.iter().map(|window| window.len() as u64).sum::<u64>();
        base_sum = add(base_sum, &losses);
        for (sum, losses) in sums.iter_mut().zip(&of_candidates) {
            *sum = add(*sum, losses);
        }
        if let Some(progress) = options.progress {
            let (loss, tokens_per_second) = (base_sum / done as f64, rate(done, start.elapsed()));
            progress(EvaluateProgress { tokens: done, total_tokens, loss, tokens_per_second });
        }
    }
    // The last report may have been told to stop.
    if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
        return Err(EvaluateError::Cancelled);
    }
    let elapsed = start.elapsed();
    let evaluation = |sum: f64, model: &Snapshot| {
        let mean = sum / done as f64;
        let mean = if mean.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { mean };
        Evaluation {
            loss_bits: mean.to_bits(),
            tokens: done,
            windows: all.len() as u64,
            model_root: model.root(),
            numerics_version: NUMERICS_VERSION,
            elapsed,
        }
    };
    let of_candidates = sums.into_iter().zip(candidates).map(|(sum, model)| evaluation(sum, model));
    Ok((evaluation(base_sum, base.snapshot()), of_candidates.collect()))
}

/// The losses of each window are added in order of position, these sums in order of the windows.
fn add(sum: f64, windows: &[Vec<f64>]) -> f64 {
    windows.iter().fold(sum, |sum, losses| sum + losses.iter().fold(0.0, |sum, loss| sum + loss))
}

fn check(snapshot: &Snapshot, tokens: &[u32], options: &EvaluateOptions<'_>) -> Result<(), EvaluateError> {
    for (option, value) in [("window", options.window), ("pass_tokens", options.pass_tokens)] {
        if value == 0 {
            return Err(EvaluateError::Zero { option });
        }
    }
    if tokens.len() < 2 {
        return Err(EvaluateError::TooFewTokens { tokens: tokens.len() });
    }
    let (window, capacity) = (options.window, snapshot.spec().max_position_embeddings);
    // A short text has no window as long as that.
    if window.min(tokens.len() - 1) > capacity {
        return Err(EvaluateError::WindowTooLong { window, capacity });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Draft;
    use crate::format::{ParentRole, Slot};
    use crate::hash::BlockHash;
    use crate::import::{self, ImportOptions};
    use crate::tensor::{TensorBlock, write};

    /// A block that follows the one in a slot, the first weight of each tensor another.
    fn changed(chain: &Chain, base: &Snapshot, slot: Slot) -> BlockHash {
        let before = base.slots()[&slot].block;
        let (stored, block) = (chain.get(&before).unwrap(), TensorBlock::open(chain, &before).unwrap());
        let tensors: Vec<_> = block
            .tensors()
            .map(|(name, view)| {
                let mut data = view.data().to_vec();
                data[0] ^= 0x10;
                (name, view.dtype(), view.shape(), data)
            })
            .collect();
        let tensors: Vec<_> =
            tensors.iter().map(|(name, dtype, shape, data)| (*name, *dtype, *shape, &data[..])).collect();
        let header = stored.header();
        let mut version = header.version.clone();
        version.patch += 1;
        let mut draft = Draft::new(header.lane, header.kind, header.name.as_str(), write(&tensors).unwrap())
            .with_version(version)
            .with_parent(before, ParentRole::Predecessor);
        draft.parents.extend(header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency));
        chain.append(draft).unwrap()
    }

    #[test]
    fn what_models_share_runs_once() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3_moe");
        let chain = Chain::in_memory().unwrap();
        let model = import::checkpoint(&chain, folder, &ImportOptions::default()).unwrap().model;
        let base = Snapshot::of_model(&chain, &model).unwrap();
        let layers = base.spec().layers.len() as u64;
        assert!(layers >= 3, "{layers}");
        let last = base.spec().layers.len() as u32 - 1;
        // With each slot how many layers a candidate with another block there has to run.
        let cases = [
            (Slot::Head, 0),
            (Slot::Expert { layer: last, expert: 0 }, 1),
            (Slot::Embedding, layers),
            (Slot::Router { layer: 1 }, layers - 1),
            (Slot::Attention { layer: 0 }, layers),
            (Slot::FinalNorm, 0),
        ];
        let candidates =
            cases.map(|(slot, _)| base.with_block(&chain, &changed(&chain, &base, slot)).unwrap());
        let candidates = candidates.each_ref();
        let tokens: Vec<u32> = (0..20).map(|token| token * 7 % 40).collect();
        let all: Vec<&[u32]> = windows(&tokens, 8).collect();
        // Windows beside each other in one pass, and in parts of some tokens.
        for pass_tokens in [1000, 8] {
            let options =
                ManagerOptions { threads: Some(2), persist_usage: false, ..ManagerOptions::default() };
            let opened = MoEModelManager::open_snapshot(&chain, base.clone(), &options).unwrap();
            let together = opened.together(&candidates);
            together.window_losses(&all, pass_tokens).unwrap();
            let (of_base, of_candidates) = together.layer_tokens();
            assert_eq!(of_base, 19 * layers, "{pass_tokens}");
            let expected = cases.map(|(_, own)| 19 * own);
            assert_eq!(of_candidates, expected, "{pass_tokens}");
        }
    }

    #[test]
    fn windows_predict_each_token_but_the_first_once() {
        for len in 0..40u32 {
            let tokens: Vec<u32> = (0..len).collect();
            for window in [1, 2, 3, 7, 39, 40, usize::MAX] {
                let all: Vec<&[u32]> = windows(&tokens, window).collect();
                assert!(all.iter().all(|w| w.len() >= 2 && w.len() - 1 <= window), "{len} {window}");
                let predicted: Vec<u32> = all.iter().flat_map(|w| w[1..].iter().copied()).collect();
                assert_eq!(predicted, (1..len).collect::<Vec<_>>(), "{len} {window}");
                assert!(all.iter().rev().skip(1).all(|w| w.len() - 1 == window), "only the last is shorter");
            }
        }
    }
}
