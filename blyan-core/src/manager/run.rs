//! Owns one step of any number of generations: which tokens go into it, and who gets what out.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::format::{FeedForward, Slot};
use crate::model::{KvCache, LayerRouting, Logits, Step};

use super::job::{Job, Piece};
use super::{ManagerError, Model};

/// What the model has read of a sequence.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) cache: KvCache,
    /// (positions, routed): the experts of each position, layer after layer.
    routed: Vec<u32>,
    /// Experts that a position is routed to in all layers together.
    routed_width: usize,
}

impl Context {
    pub(super) fn new(model: &Model) -> Self {
        let spec = model.snapshot.spec();
        let routed = spec.layers.iter().map(|layer| experts_per_token(&layer.feed_forward)).sum();
        Self { cache: KvCache::new(spec, model.kv_cache), routed: Vec::new(), routed_width: routed }
    }

    /// Forgets all positions from `len` on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.routed.truncate(len.saturating_mul(self.routed_width));
    }

    /// Keeps the routing of `tokens`, some of those of a step.
    fn push_routing(&mut self, routing: &[LayerRouting], tokens: Range<usize>) {
        for token in tokens {
            for layer in routing {
                let width = layer.experts_per_token;
                self.routed.extend(&layer.experts[token * width..(token + 1) * width]);
            }
        }
    }

    /// The slots whose weights the positions so far went through.
    pub(super) fn used_slots(&self, model: &Model) -> BTreeSet<Slot> {
        let spec = model.snapshot.spec();
        let mut used: BTreeSet<Slot> = spec.required_slots().into_iter().collect();
        if model.snapshot.slots().contains_key(&Slot::Head) {
            used.insert(Slot::Head);
        }
        let layers: Vec<(u32, usize)> = (0..)
            .zip(&spec.layers)
            .map(|(layer, spec)| (layer, experts_per_token(&spec.feed_forward)))
            .filter(|&(_, experts)| experts > 0)
            .collect();
        used.retain(|slot| match slot {
            Slot::Expert { layer, .. } => layers.iter().all(|(routed, _)| routed != layer),
            _ => true,
        });
        let slots = layers.iter().flat_map(|&(layer, experts)| std::iter::repeat_n(layer, experts));
        for position in self.routed.chunks(self.routed_width.max(1)) {
            let experts = slots.clone().zip(position);
            used.extend(experts.map(|(layer, &expert)| Slot::Expert { layer, expert }));
        }
        used
    }
}

/// Experts that a layer routes a token to; none in a dense layer.
fn experts_per_token(feed_forward: &FeedForward) -> usize {
    match *feed_forward {
        FeedForward::Dense { .. } => 0,
        FeedForward::Moe { num_experts_per_tok, .. } => num_experts_per_tok,
    }
}

/// A generation and what the model has read of it.
pub(super) struct Running<'a> {
    pub(super) job: &'a mut Job,
    pub(super) context: &'a mut Context,
}

/// Computes the next tokens of every job that is not over, `chunk` at most, and returns the pieces
/// of those that have read everything.
pub(super) fn step(
    model: &Model,
    running: &mut [Running<'_>],
    chunk: usize,
) -> Result<Vec<(usize, Piece)>, ManagerError> {
    let mut budget = chunk.max(1);
    let mut takes = Vec::new();
    for (index, Running { job, context }) in running.iter_mut().enumerate() {
        if budget == 0 {
            break;
        }
        if job.is_over() {
            continue;
        }
        let take = (job.tokens.len() - context.cache.len()).min(budget);
        budget -= take;
        takes.push((index, take));
    }
    let mut steps = Vec::with_capacity(takes.len());
    let mut rest = takes.iter().peekable();
    for (index, Running { job, context }) in running.iter_mut().enumerate() {
        let Some((_, take)) = rest.next_if(|(taken, _)| *taken == index) else { continue };
        let cache = &mut context.cache;
        let start = cache.len();
        let tokens = &job.tokens[start..start + take];
        let logits = if start + take == job.tokens.len() { Logits::Last } else { Logits::None };
        steps.push(Step { tokens, cache, logits });
    }
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let output = model.decoder.forward(&mut steps);
    drop(steps);
    let output = output.map_err(|error| model.snapshot.name_block(error))?;
    model.record_usage(&output.routing);

    let mut pieces = Vec::new();
    let mut first_token = 0;
    for ((index, take), logits) in takes.into_iter().zip(output.logits) {
        let Running { job, context } = &mut running[index];
        context.push_routing(&output.routing, first_token..first_token + take);
        first_token += take;
        if !logits.is_empty() {
            pieces.push((index, job.accept(&logits)?));
        }
    }
    Ok(pieces)
}
