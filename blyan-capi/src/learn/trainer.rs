//! Owns runs of training: begun, gone on with, saved, and what they can be asked meanwhile.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

use blyan_core::ModelSpec;
use blyan_learn::{Ended, StepReport, Trainer};

use crate::block::blyan_payload;
use crate::cancel::{Watch, blyan_cancel};
use crate::chain::blyan_chain;
use crate::edge::{bytes, check_room, copy_out, describe, free, lock, new_handle, out, read, slice};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::learn::options::{blyan_train_options, train_options};
use crate::model::check_logits_room;
use crate::snapshot::blyan_snapshot;

/// A run of training, for one thread at a time. It holds all weights as floats, and nothing of the chain that
/// it began from. On one machine, one seed and one number of threads give the same bits.
pub struct blyan_trainer {
    run: Mutex<Trainer>,
    vocab_size: usize,
}

impl blyan_trainer {
    fn new(run: Trainer, vocab_size: usize) -> Self {
        Self { run: Mutex::new(run), vocab_size }
    }

    /// The run, if no other call has it.
    pub(super) fn run(&self) -> Outcome<MutexGuard<'_, Trainer>> {
        lock(&self.run, "trainer")
    }
}

/// Begins a run with the blocks of a snapshot; at least one sequence and the token after it are needed.
/// `BLYAN_STATUS_NOT_FOUND` for a slot that the model has no weights in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_new(
    chain: *const blyan_chain,
    snapshot: *const blyan_snapshot,
    tokens: *const u32,
    tokens_len: usize,
    options: *const blyan_train_options,
    trainer: *mut *mut blyan_trainer,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (trainer, chain, snapshot, tokens, options) = unsafe {
            (
                new_handle(trainer, "trainer")?,
                read(chain, "chain")?,
                read(snapshot, "snapshot")?,
                slice(tokens, tokens_len, "tokens")?,
                train_options(options)?,
            )
        };
        let run = Trainer::new(&chain.chain, &snapshot.snapshot, tokens, options)?;
        trainer.set(blyan_trainer::new(run, snapshot.snapshot.spec().vocab_size));
        Ok(())
    })
}

/// Begins a run with nothing but a spec: canonical JSON, as `blyan_snapshot_spec_json` gives it. All of its
/// slots are trained in full, whatever the options say of slots and form; matrices begin normal with this
/// deviation, for which 0.02 is usual. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_from_nothing(
    spec: *const c_char,
    spec_len: usize,
    deviation: f64,
    tokens: *const u32,
    tokens_len: usize,
    options: *const blyan_train_options,
    trainer: *mut *mut blyan_trainer,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (trainer, spec, tokens, options) = unsafe {
            (
                new_handle(trainer, "trainer")?,
                bytes(spec, spec_len, "spec")?,
                slice(tokens, tokens_len, "tokens")?,
                train_options(options)?,
            )
        };
        let spec = Arc::new(ModelSpec::from_canonical_json(spec)?);
        let vocab_size = spec.vocab_size;
        let run = Trainer::from_nothing(spec, deviation, tokens, options)?;
        trainer.set(blyan_trainer::new(run, vocab_size));
        Ok(())
    })
}

/// Frees a run; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_free(trainer: *mut blyan_trainer) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(trainer) }
}

/// What a run is and how far.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_trainer_info {
    /// Steps done.
    pub steps_done: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Numbers that learn.
    pub trained_parameters: u64,
    /// Number of token ids; the width of a row of logits.
    pub vocab_size: u64,
}

/// What a run is and how far; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_describe(
    trainer: *const blyan_trainer,
    info: *mut blyan_trainer_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let trainer = unsafe { read(trainer, "trainer") }?;
        let run = trainer.run()?;
        let description = blyan_trainer_info {
            steps_done: run.steps_done(),
            steps: run.options().steps,
            trained_parameters: run.trained_parameters() as u64,
            vocab_size: trainer.vocab_size as u64,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// What one step did.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_step_report {
    /// Number of the step, from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Mean loss over the step's tokens before it changed anything, in nats.
    pub loss: f64,
    /// The loss that balances the load of experts, without its weight; 0 if it has none. 1 for each use of
    /// a token is perfect balance.
    pub balance: f64,
    /// Norm of all gradients together before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// How long it took.
    pub elapsed_s: f64,
}

impl blyan_step_report {
    fn new(report: &StepReport) -> Self {
        let &StepReport { step, steps, loss, balance, gradient_norm, learning_rate, tokens, time, .. } =
            report;
        let elapsed_s = time.as_secs_f64();
        Self { step, steps, loss, balance, gradient_norm, learning_rate, tokens, elapsed_s }
    }
}

/// Hears of each step when it is done, on the thread that made the call. Returns 0 to go on; anything else
/// ends the call with `BLYAN_STATUS_STOPPED`. What `report` points to is gone when it returns.
pub type blyan_step_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, report: *const blyan_step_report) -> i32>;

/// Does the steps that are left. `on_step` hears of each, with `user`; it may be NULL. `cancel`, which may be
/// NULL, too, ends the run before the next step when it is set: that is no error, but `finished` is false
/// then. If `on_step` ends the run, `cancel` is set. Either way another call goes on.
/// `BLYAN_STATUS_DIVERGED` leaves the run as it was before the step that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_run(
    trainer: *const blyan_trainer,
    on_step: blyan_step_fn,
    user: *mut c_void,
    cancel: *const blyan_cancel,
    finished: *mut bool,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers and callback, as the header asks.
        let (trainer, finished, watch) = unsafe {
            (read(trainer, "trainer")?, out(finished, "finished")?, Watch::new(on_step, user, cancel)?)
        };
        let mut tell = |report: &StepReport| watch.tell(blyan_step_report::new(report));
        let ended = trainer.run()?.run(&mut tell, Some(watch.cancel()))?;
        if watch.is_stopped() {
            return Err(Failure::stopped());
        }
        finished.set(ended == Ended::Finished);
        Ok(())
    })
}

/// Does one step, also after the last, with the learning rate at its floor; `size` is `sizeof *report`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_step(
    trainer: *const blyan_trainer,
    report: *mut blyan_step_report,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let trainer = unsafe { read(trainer, "trainer") }?;
        // Before a step is done that could not be told of.
        check_room(report, size, "report")?;
        let done = trainer.run()?.step()?;
        // SAFETY: as above.
        unsafe { describe(report, size, "report", blyan_step_report::new(&done)) }
    })
}

/// Mean loss of at least 2 tokens in nats, in windows as long as a sequence of the run. A guide while
/// training: what counts is `blyan_snapshot_evaluate` of the candidate.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_loss(
    trainer: *const blyan_trainer,
    tokens: *const u32,
    tokens_len: usize,
    loss: *mut f64,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (trainer, tokens, loss) =
            unsafe { (read(trainer, "trainer")?, slice(tokens, tokens_len, "tokens")?, out(loss, "loss")?) };
        loss.set(trainer.run()?.loss(tokens)?);
        Ok(())
    })
}

/// Logits of every position of one sequence, (tokens, vocab_size), row-major; `logits_len` must be
/// `tokens_len * vocab_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_logits(
    trainer: *const blyan_trainer,
    tokens: *const u32,
    tokens_len: usize,
    logits: *mut f32,
    logits_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (trainer, tokens) = unsafe { (read(trainer, "trainer")?, slice(tokens, tokens_len, "tokens")?) };
        check_logits_room(trainer.vocab_size, tokens_len, logits_len)?;
        if tokens.is_empty() {
            return Err(Failure::argument("there are no tokens: a sequence has at least one"));
        }
        let computed = trainer.run()?.logits(tokens)?;
        // SAFETY: as above.
        unsafe { copy_out(&computed, logits, logits_len, "logits") }
    })
}

/// The whole state of a run. Resumed on the same machine with the same threads, it goes on to the same bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_checkpoint(
    trainer: *const blyan_trainer,
    checkpoint: *mut *mut blyan_payload,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (checkpoint, trainer) =
            unsafe { (new_handle(checkpoint, "checkpoint")?, read(trainer, "trainer")?) };
        checkpoint.set(blyan_payload(trainer.run()?.checkpoint()?.into()));
        Ok(())
    })
}

/// Goes on from a checkpoint of the same run: the same base, tokens and options but for threads.
/// `BLYAN_STATUS_CHECKPOINT` for one that is damaged or of another run; the run is then as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_resume(
    trainer: *const blyan_trainer,
    checkpoint: *const c_void,
    checkpoint_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (trainer, checkpoint) = unsafe {
            (read(trainer, "trainer")?, slice(checkpoint.cast::<u8>(), checkpoint_len, "checkpoint")?)
        };
        Ok(trainer.run()?.resume(checkpoint)?)
    })
}
