//! Owns usage: which experts of a model work, how long they take, which work together.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::usage::{CoUse, ExpertUsage};

use crate::edge::{describe, free, new_handle, out, read, text};
use crate::error::{Failure, blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::model::blyan_model;
use crate::text::{Text, blyan_str, blyan_text};

/// Experts with what is known of each.
pub struct blyan_experts(Vec<(Text, ExpertUsage)>);

impl blyan_experts {
    fn new(experts: Vec<ExpertUsage>) -> Self {
        Self(experts.into_iter().map(|expert| (Text::new(expert.slot.as_str()), expert)).collect())
    }
}

/// What is known of one expert. Its slot lives as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_expert_usage {
    /// Its block.
    pub block: blyan_hash,
    /// Name of its slot, such as "layer0.expert1".
    pub slot: blyan_str,
    /// Forward steps that used it.
    pub calls: u64,
    /// Tokens that used it.
    pub tokens: u64,
    /// Unix time of its last use in ms; 0 without one.
    pub last_used_ms: u64,
    /// Mean time of a call in ns; NaN without one.
    pub latency_mean_ns: f64,
    /// Time in ns that 95 % of the calls stay within, to 6 %; NaN without one.
    pub latency_p95_ns: f64,
    /// Sum of its routing weights.
    pub weight_sum: f64,
    /// Its share of the layer's routing weights, 0 to 1.
    pub weight_share: f64,
    /// Its layer.
    pub layer: u32,
    /// Its place in the layer.
    pub expert: u32,
}

/// The `n` experts that most tokens used, most used first; none that were never used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_top(
    model: *const blyan_model,
    n: usize,
    experts: *mut *mut blyan_experts,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (experts, model) = unsafe { (new_handle(experts, "experts")?, read(model, "model")?) };
        experts.set(blyan_experts::new(model.manager.usage().top(n)));
        Ok(())
    })
}

/// Every expert, used or not, by layer and place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_experts(
    model: *const blyan_model,
    experts: *mut *mut blyan_experts,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (experts, model) = unsafe { (new_handle(experts, "experts")?, read(model, "model")?) };
        experts.set(blyan_experts::new(model.manager.usage().experts()));
        Ok(())
    })
}

/// The expert in a slot such as "layer0.expert1", as a list of one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_expert(
    model: *const blyan_model,
    slot: *const c_char,
    slot_len: usize,
    experts: *mut *mut blyan_experts,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (experts, model, slot) = unsafe {
            (new_handle(experts, "experts")?, read(model, "model")?, text(slot, slot_len, "slot")?)
        };
        experts.set(blyan_experts::new(vec![model.manager.usage().by_name(slot)?]));
        Ok(())
    })
}

/// Number of experts; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_experts_len(experts: *const blyan_experts) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { experts.as_ref() }.map_or(0, |experts| experts.0.len())
}

/// One of the experts; `size` is `sizeof *usage`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_experts_get(
    experts: *const blyan_experts,
    index: usize,
    usage: *mut blyan_expert_usage,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let (slot, expert) = at(&unsafe { read(experts, "experts") }?.0, index)?;
        let description = blyan_expert_usage {
            block: expert.block.into(),
            slot: slot.view(),
            calls: expert.calls,
            tokens: expert.tokens,
            last_used_ms: expert.last_used_ms.unwrap_or(0),
            latency_mean_ns: expert.latency_mean_ns.unwrap_or(f64::NAN),
            latency_p95_ns: expert.latency_p95_ns.unwrap_or(f64::NAN),
            weight_sum: expert.weight_sum,
            weight_share: expert.weight_share,
            layer: expert.layer,
            expert: expert.expert,
        };
        // SAFETY: as above.
        unsafe { describe(usage, size, "usage", description) }
    })
}

/// Frees a list of experts; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_experts_free(experts: *mut blyan_experts) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(experts) }
}

/// Pairs of experts that worked together.
pub struct blyan_co_uses(Vec<CoUse>);

/// How many tokens used two experts of a layer both.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_co_use {
    /// Tokens that used both.
    pub tokens: u64,
    /// The layer.
    pub layer: u32,
    /// The lower expert.
    pub first: u32,
    /// The higher expert.
    pub second: u32,
    /// 0.
    pub reserved: u32,
}

/// Pairs of experts that worked together, by layer and experts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_co_use(
    model: *const blyan_model,
    pairs: *mut *mut blyan_co_uses,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (pairs, model) = unsafe { (new_handle(pairs, "pairs")?, read(model, "model")?) };
        pairs.set(blyan_co_uses(model.manager.usage().co_use()));
        Ok(())
    })
}

/// Number of pairs; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_co_uses_len(pairs: *const blyan_co_uses) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { pairs.as_ref() }.map_or(0, |pairs| pairs.0.len())
}

/// One of the pairs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_co_uses_get(
    pairs: *const blyan_co_uses,
    index: usize,
    pair: *mut blyan_co_use,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (pairs, pair) = unsafe { (read(pairs, "pairs")?, out(pair, "pair")?) };
        let found = at(&pairs.0, index)?;
        let (first, second) = found.experts;
        pair.set(blyan_co_use { tokens: found.tokens, layer: found.layer, first, second, reserved: 0 });
        Ok(())
    })
}

/// Frees a list of pairs; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_co_uses_free(pairs: *mut blyan_co_uses) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(pairs) }
}

/// Everything that is known of a model's use, as JSON.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_json(
    model: *const blyan_model,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (json, model) = unsafe { (new_handle(json, "json")?, read(model, "model")?) };
        let snapshot = serde_json::to_vec(&model.manager.usage().snapshot());
        let snapshot = snapshot.map_err(|error| Failure::new(blyan_status::Other, error.to_string()))?;
        json.set(blyan_text::new(snapshot));
        Ok(())
    })
}

/// Starts all counts at 0, stored ones included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_reset(model: *const blyan_model) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| Ok(unsafe { read(model, "model") }?.manager.usage().reset()?))
}

/// Stores what was counted since the last time, and takes note of what other processes stored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_usage_flush(model: *const blyan_model) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| Ok(unsafe { read(model, "model") }?.manager.usage().flush()?))
}
