//! Owns the comparison of two models: which slots changed, what that costs in bytes, how far weights moved.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_void;
use std::ptr;

use blyan_core::evolve::{self, EvaluateOptions, EvaluateProgress};
use blyan_core::manager::{self, CompareOptions, PinnedBlock, SlotDiff, SnapshotDiff, TensorDiff};
use blyan_core::{DType, Shape};

use crate::cancel::{Watch, blyan_cancel, blyan_progress, blyan_progress_fn};
use crate::chain::blyan_chain;
use crate::edge::{Options, check_room, describe, free, init_options, new_handle, options, read, slice};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::model::count;
use crate::snapshot::blyan_snapshot;
use crate::tensor::{blyan_dtype, dtype_number};
use crate::text::{Text, blyan_str};

/// What to compare. Fill it with `blyan_compare_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_compare_options {
    /// `sizeof(blyan_compare_options)`.
    pub size: usize,
    /// Not 0: read the weights of changed slots and tell how far they moved. By default 0.
    pub distances: i32,
    /// 0.
    pub reserved: i32,
    /// Tokens on which the losses of both are measured; NULL for none.
    pub tokens: *const u32,
    /// Number of tokens, at least 2.
    pub tokens_len: usize,
    /// Tokens that a window of them predicts, as for `blyan_evaluate_options`; 256 by default.
    pub window: u64,
    /// Called after each changed slot, with slots as blocks, then while losses are measured, with tokens as
    /// blocks; may be NULL.
    pub on_progress: blyan_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends it when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_compare_options {
    fn defaults(size: usize) -> Self {
        let (on_progress, user, cancel) = (None, ptr::null_mut(), ptr::null());
        let (tokens, window) = (ptr::null(), EvaluateOptions::default().window as u64);
        Self { size, distances: 0, reserved: 0, tokens, tokens_len: 0, window, on_progress, user, cancel }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_compare_options_init(
    options: *mut blyan_compare_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// How two models differ.
pub struct blyan_comparison {
    diff: SnapshotDiff,
    slots: Vec<Slot>,
}

/// The texts of a slot.
struct Slot {
    name: Text,
    tensors: Vec<Text>,
}

impl Slot {
    fn new(slot: &SlotDiff) -> Self {
        let tensors = slot.tensors.iter().map(|tensor| Text::new(tensor.name.as_str()));
        Self { name: Text::new(slot.slot.to_string()), tensors: tensors.collect() }
    }
}

/// How two models differ.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_comparison_info {
    /// Root of the model before.
    pub before: blyan_hash,
    /// Root of the model after.
    pub after: blyan_hash,
    /// Its spec block before.
    pub before_spec: blyan_hash,
    /// Its spec block after.
    pub after_spec: blyan_hash,
    /// Number of slots whose blocks differ; `blyan_comparison_slot` names them.
    pub slots_len: usize,
    /// Bytes of payloads that only the model after has: what has to be sent to who has the one before.
    pub new_payload_bytes: u64,
    /// Mean loss before, in nats of a predicted token, the same bits on every machine.
    pub before_loss: f64,
    /// Mean loss after.
    pub after_loss: f64,
    /// Predicted tokens; 0 if no losses were measured.
    pub loss_tokens: u64,
}

/// How one slot differs. The name lives as long as the comparison.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_slot_diff {
    /// Name of the slot.
    pub name: blyan_str,
    /// The block before.
    pub before: blyan_hash,
    /// The block after.
    pub after: blyan_hash,
    /// Length of the payload before.
    pub before_bytes: u64,
    /// Length of the payload after.
    pub after_bytes: u64,
    /// Number of tensors that differ; `blyan_comparison_tensor` names them. 0 without distances, and for texts.
    pub tensors_len: usize,
    /// Not 0 if `before` is one.
    pub has_before: i32,
    /// Not 0 if `after` is one.
    pub has_after: i32,
    /// Not 0 if both have the same payload: only the header is another.
    pub same_payload: i32,
    /// 0.
    pub reserved: i32,
}

/// How one tensor differs. Name and shapes live as long as the comparison.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_tensor_diff {
    /// Its name inside of the block.
    pub name: blyan_str,
    /// Its shape before; NULL if it was not there.
    pub before_dims: *const usize,
    /// Number of its dimensions before.
    pub before_rank: usize,
    /// Its shape after; NULL if it is not there.
    pub after_dims: *const usize,
    /// Number of its dimensions after.
    pub after_rank: usize,
    /// Its type before, a `blyan_dtype`; `BLYAN_DTYPE_KEEP` if it was not there.
    pub before_dtype: i32,
    /// Its type after, a `blyan_dtype`; `BLYAN_DTYPE_KEEP` if it is not there.
    pub after_dtype: i32,
    /// Frobenius norm of the difference.
    pub norm: f64,
    /// The same divided by the norm before.
    pub relative_norm: f64,
    /// Largest magnitude of the difference.
    pub max_abs: f64,
    /// Not 0 if `norm` and `max_abs` are ones: where both sides have the same shape.
    pub has_distance: i32,
    /// Not 0 if `relative_norm` is one: not where the norm before is 0.
    pub has_relative_norm: i32,
}

/// Compares two models; `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_compare(
    chain: *const blyan_chain,
    before: *const blyan_snapshot,
    after: *const blyan_snapshot,
    options: *const blyan_compare_options,
    comparison: *mut *mut blyan_comparison,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (comparison, chain, before, after, asked) = unsafe {
            (
                new_handle(comparison, "comparison")?,
                read(chain, "chain")?,
                read(before, "before")?,
                read(after, "after")?,
                self::options(options, "options")?,
            )
        };
        // SAFETY: as above.
        let (watch, tokens) = unsafe {
            (
                Watch::new(asked.on_progress, asked.user, asked.cancel)?,
                slice(asked.tokens, asked.tokens_len, "tokens")?,
            )
        };
        let window = count(asked.window, "window")?;
        let tell = |blocks: u64, total_blocks: u64| {
            watch.tell(blyan_progress { blocks, total_blocks, bytes: 0, total_bytes: 0 });
        };
        let compare = CompareOptions {
            distances: asked.distances != 0,
            progress: Some(&tell),
            cancel: Some(watch.cancel()),
        };
        let (chain, before, after) = (&chain.chain, &before.snapshot, &after.snapshot);
        let mut diff =
            manager::compare(chain, before, after, &compare).map_err(|error| watch.blame(error))?;
        if !asked.tokens.is_null() {
            let tell = |EvaluateProgress { tokens: blocks, total_tokens: total_blocks, .. }| {
                watch.tell(blyan_progress { blocks, total_blocks, bytes: 0, total_bytes: 0 });
            };
            let options = EvaluateOptions {
                window,
                cancel: Some(watch.cancel()),
                progress: Some(&tell),
                ..EvaluateOptions::default()
            };
            let loss = evolve::loss_diff(chain, before, after, tokens, &options);
            diff.loss = Some(loss.map_err(|error| watch.blame(error))?);
        }
        if watch.is_stopped() {
            return Err(Failure::stopped());
        }
        comparison.set(blyan_comparison { slots: diff.slots.iter().map(Slot::new).collect(), diff });
        Ok(())
    })
}

/// How two models differ, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_comparison_describe(
    comparison: *const blyan_comparison,
    info: *mut blyan_comparison_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let diff = &unsafe { read(comparison, "comparison") }?.diff;
        let description = blyan_comparison_info {
            before: diff.before.into(),
            after: diff.after.into(),
            before_spec: diff.before_spec.into(),
            after_spec: diff.after_spec.into(),
            slots_len: diff.slots.len(),
            new_payload_bytes: diff.new_payload_bytes,
            before_loss: diff.loss.map_or(0.0, |loss| loss.before()),
            after_loss: diff.loss.map_or(0.0, |loss| loss.after()),
            loss_tokens: diff.loss.map_or(0, |loss| loss.tokens),
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the slots that differ, in slot order; `size` is `sizeof *slot`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_comparison_slot(
    comparison: *const blyan_comparison,
    index: usize,
    slot: *mut blyan_slot_diff,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let comparison = unsafe { read(comparison, "comparison") }?;
        // Also where there is nothing to write.
        check_room(slot, size, "slot")?;
        let (texts, found) = (at(&comparison.slots, index)?, at(&comparison.diff.slots, index)?);
        let block = |pinned: Option<PinnedBlock>| {
            pinned.map_or((blyan_hash::ZERO, 0), |pinned| (pinned.block.into(), pinned.len_bytes))
        };
        let ((before, before_bytes), (after, after_bytes)) = (block(found.before), block(found.after));
        let description = blyan_slot_diff {
            name: texts.name.view(),
            before,
            after,
            before_bytes,
            after_bytes,
            tensors_len: found.tensors.len(),
            has_before: found.before.is_some().into(),
            has_after: found.after.is_some().into(),
            same_payload: found.same_payload.into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(slot, size, "slot", description) }
    })
}

fn side(tensor: Option<&(DType, Shape)>) -> Outcome<(*const usize, usize, i32)> {
    let Some((dtype, shape)) = tensor else {
        return Ok((ptr::null(), 0, blyan_dtype::Keep as i32));
    };
    Ok((shape.dims().as_ptr(), shape.dims().len(), dtype_number(*dtype)))
}

/// One of the tensors of a slot that differ, by name; `size` is `sizeof *tensor`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_comparison_tensor(
    comparison: *const blyan_comparison,
    slot: usize,
    index: usize,
    tensor: *mut blyan_tensor_diff,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let comparison = unsafe { read(comparison, "comparison") }?;
        check_room(tensor, size, "tensor")?;
        let name = at(&at(&comparison.slots, slot)?.tensors, index)?.view();
        let TensorDiff { before, after, distance, .. } =
            at(&at(&comparison.diff.slots, slot)?.tensors, index)?;
        let (before_dims, before_rank, before_dtype) = side(before.as_ref())?;
        let (after_dims, after_rank, after_dtype) = side(after.as_ref())?;
        let relative_norm = distance.and_then(|distance| distance.relative_norm);
        let description = blyan_tensor_diff {
            name,
            before_dims,
            before_rank,
            after_dims,
            after_rank,
            before_dtype,
            after_dtype,
            norm: distance.map_or(0.0, |distance| distance.norm),
            relative_norm: relative_norm.unwrap_or(0.0),
            max_abs: distance.map_or(0.0, |distance| distance.max_abs),
            has_distance: distance.is_some().into(),
            has_relative_norm: relative_norm.is_some().into(),
        };
        // SAFETY: as above.
        unsafe { describe(tensor, size, "tensor", description) }
    })
}

/// Frees a comparison; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_comparison_free(comparison: *mut blyan_comparison) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(comparison) }
}
