//! Owns grouped-query attention (arXiv:2305.13245) over the KV caches of all sequences of a step.

use std::cell::RefCell;
use std::ops::Range;

use crate::format::{LayerSpec, ModelSpec};
use crate::kernels::{Attention, HeadShape, Isa, KernelError, MatMut};

use super::ModelError;
use super::forward::Step;
use super::kv_cache::{Head, HeadMut, KvCache};
use super::matmul::{self, Activations, Matmul};
use super::team::Team;
use super::weights::AttentionWeights;

/// The rotation of each token of a step, by its place in its sequence.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    /// New tokens of all sequences.
    pub(crate) tokens: usize,
    /// (tokens, head_dim / 2)
    pub(crate) cos: Vec<f32>,
    /// (tokens, head_dim / 2)
    pub(crate) sin: Vec<f32>,
}

/// Attention of one layer. `normed`: (tokens, hidden_size); returns (tokens, hidden_size).
pub(crate) fn forward(
    (isa, team): (Isa, &Team),
    spec: &ModelSpec,
    (layer, layer_spec): (usize, &LayerSpec),
    weights: &AttentionWeights,
    mut normed: Activations,
    positions: &Positions,
    steps: &mut [Step<'_>],
) -> Result<Vec<f32>, ModelError> {
    let attention = &spec.attention;
    let tokens = positions.tokens;
    let head_dim = attention.head_dim;
    let kv_heads = attention.num_key_value_heads;
    let q_width = attention.num_attention_heads * head_dim;
    let kv_width = kv_heads * head_dim;

    let mut q = team.buffers().take(tokens * q_width);
    let mut k = team.buffers().take(tokens * kv_width);
    let mut v = team.buffers().take(tokens * kv_width);
    normed.arrange_for(isa, team, &[&weights.q_proj, &weights.k_proj, &weights.v_proj])?;
    matmul::run(
        isa,
        team,
        vec![
            Matmul { linear: &weights.q_proj, input: normed.all(), out: &mut q, nanos: None },
            Matmul { linear: &weights.k_proj, input: normed.all(), out: &mut k, nanos: None },
            Matmul { linear: &weights.v_proj, input: normed.all(), out: &mut v, nanos: None },
        ],
    )?;
    normed.give_back(team.buffers());

    for (x, norm) in [(&mut q, &weights.q_norm), (&mut k, &weights.k_norm), (&mut v, &None)] {
        // The weight's length says whether a row is a head or all heads.
        if let Some(norm) = norm {
            let normed = norm.apply(isa, team, x, spec.rms_norm_eps as f32)?;
            team.buffers().give_back([std::mem::replace(x, normed)]);
        }
        if let Some(limit) = attention.clip_qkv {
            isa.clamp(x, limit as f32);
        }
    }
    rotate(isa, team, &mut q, head_dim, positions)?;
    rotate(isa, team, &mut k, head_dim, positions)?;

    for step in steps.iter_mut() {
        step.cache.make_room(layer, step.cache.len() + step.tokens.len());
    }
    write(isa, team, layer, head_dim, (&k, &v), steps)?;

    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut mixed = team.buffers().take(tokens * q_width);
    let group = attention.num_attention_heads / kv_heads;
    let tasks = tasks(team, (layer, layer_spec), (group, head_dim), (&q, &k, &v), &mut mixed, steps)?;
    team.for_each(tasks, |task| task.run(isa, group, scale))?;

    let mut mixed = Activations::new(mixed, q_width);
    mixed.arrange_for(isa, team, &[&weights.o_proj])?;
    let mut out = team.buffers().take(tokens * spec.hidden_size);
    matmul::run(
        isa,
        team,
        vec![Matmul { linear: &weights.o_proj, input: mixed.all(), out: &mut out, nanos: None }],
    )?;
    mixed.give_back(team.buffers());
    team.buffers().give_back([q, k, v]);
    Ok(out)
}

/// The key-value head that a task reads.
enum Source<'a> {
    Written(Head<'a>),
    /// A step's only token is written by the task that reads it: what others wrote would lie in their caches.
    ToWrite {
        head: HeadMut<'a>,
        position: usize,
        key: &'a [f32],
        value: &'a [f32],
    },
}

/// Some tokens of one sequence, and the query heads that share a key-value head.
struct Task<'a> {
    shape: HeadShape,
    source: Source<'a>,
    /// The tokens' queries, of all heads of the group and those after them.
    queries: &'a [f32],
    /// Elements from one token's queries to the next one's.
    stride: usize,
    spans: Vec<Range<usize>>,
    /// (tokens, group × head_dim)
    out: MatMut<'a>,
}

impl Task<'_> {
    fn run(self, isa: Isa, group: usize, scale: f32) -> Result<(), KernelError> {
        thread_local! {
            static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let head = match self.source {
            Source::Written(head) => head,
            Source::ToWrite { head, position, key, value } => {
                head.write(isa, self.shape, position, [(key, value)])?
            }
        };
        let args = Attention {
            shape: self.shape,
            keys: head.keys,
            values: head.values,
            queries: self.queries,
            stride: self.stride,
            group,
            spans: &self.spans,
            scale,
        };
        let mut out = self.out;
        let mut run = |scores: &mut Vec<f32>| isa.attention(&args, scores, out.reborrow());
        // Within the destructors of a thread its own is gone.
        SCORES.try_with(|scores| run(&mut scores.borrow_mut())).unwrap_or_else(|_| run(&mut Vec::new()))
    }
}

/// Scores that a task keeps, at most: they are to stay in a core's second-level cache.
const TASK_SCORES: usize = 1 << 16;

/// Shares attention out by sequence, tokens and key-value head. `q`, `mixed`: (tokens, q_width); `k`, `v`:
/// (tokens, kv_width).
fn tasks<'a>(
    team: &Team,
    (layer, layer_spec): (usize, &LayerSpec),
    (group, head_dim): (usize, usize),
    (q, k, v): (&'a [f32], &'a [f32], &'a [f32]),
    mixed: &'a mut [f32],
    steps: &'a mut [Step<'_>],
) -> Result<Vec<Task<'a>>, KernelError> {
    let width = group * head_dim;
    let tokens: usize = steps.iter().map(|step| step.tokens.len()).sum();
    let (stride, kv_stride) = (q.len() / tokens, k.len() / tokens);
    let mut rest = MatMut::from_slice(mixed, tokens, stride)?;
    let mut tasks = Vec::new();
    let mut first = 0;
    for step in steps {
        let count = step.tokens.len();
        let (shape, before) = (step.cache.shape(), step.cache.len());
        let positions = before + count;
        let mut add = |mut rows: MatMut<'a>, start: usize, heads: &mut dyn Iterator<Item = Source<'a>>| {
            let span = |token: usize| {
                let position = before + token;
                let start =
                    layer_spec.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
                start..position + 1
            };
            let end = start + rows.rows();
            for (number, source) in heads.enumerate() {
                let (out, remainder) = rows.split_at_col(width)?;
                rows = remainder;
                let queries = &q[(first + start) * stride + number * width..];
                let spans = (start..end).map(span).collect();
                tasks.push(Task { shape, source, queries, stride, spans, out });
            }
            Ok::<_, KernelError>(())
        };
        if count == 1 {
            let (rows, remainder) = rest.split_at_row(1)?;
            rest = remainder;
            let new = |x: &'a [f32], number: usize| &x[first * kv_stride + number * head_dim..][..head_dim];
            let heads = step.cache.heads_mut(layer).enumerate();
            let mut heads = heads.map(|(number, head)| {
                let (key, value) = (new(k, number), new(v, number));
                Source::ToWrite { head, position: before, key, value }
            });
            add(rows, 0, &mut heads)?;
        } else {
            let cache: &'a KvCache = step.cache;
            // Enough tokens to share what is loaded, not so many that threads have nothing to do.
            let most = (TASK_SCORES / positions / group).clamp(1, 64);
            let fair = (count * stride / width).div_ceil(2 * team.threads()).max(8);
            let tokens_per_task = most.min(fair);
            for start in (0..count).step_by(tokens_per_task) {
                let end = count.min(start + tokens_per_task);
                let (rows, remainder) = rest.split_at_row(end - start)?;
                rest = remainder;
                add(rows, start, &mut cache.heads(layer).map(Source::Written))?;
            }
        }
        first += count;
    }
    Ok(tasks)
}

/// Rotates every head by its token's position. `x`: (tokens, heads × head_dim).
fn rotate(
    isa: Isa,
    team: &Team,
    x: &mut [f32],
    head_dim: usize,
    positions: &Positions,
) -> Result<(), ModelError> {
    let half = head_dim / 2;
    let width = x.len() / positions.tokens;
    team.for_each(x.chunks_mut(width).enumerate().collect(), |(token, x)| {
        let angles = token * half..(token + 1) * half;
        let (cos, sin) = (&positions.cos[angles.clone()], &positions.sin[angles]);
        x.chunks_exact_mut(head_dim).try_for_each(|head| Ok(isa.rope(head, cos, sin)?))
    })
}

/// Writes new keys and values to the cache of each sequence that has several of them. `k`, `v`: (tokens, kv_width).
fn write(
    isa: Isa,
    team: &Team,
    layer: usize,
    head_dim: usize,
    (k, v): (&[f32], &[f32]),
    steps: &mut [Step<'_>],
) -> Result<(), KernelError> {
    let tokens: usize = steps.iter().map(|step| step.tokens.len()).sum();
    let width = k.len() / tokens;
    let mut heads = Vec::new();
    let mut first = 0;
    for step in steps.iter_mut() {
        let count = step.tokens.len();
        let rows = first * width..(first + count) * width;
        first += count;
        if count == 1 {
            continue;
        }
        let (shape, position) = (step.cache.shape(), step.cache.len());
        for (number, head) in step.cache.heads_mut(layer).enumerate() {
            heads.push((head, number * head_dim, rows.clone(), shape, position));
        }
    }
    team.for_each(heads, |(head, at, rows, shape, position)| {
        let part = |row: &'_ [f32]| -> Range<usize> { at..(at + head_dim).min(row.len()) };
        let rows = k[rows.clone()].chunks_exact(width).zip(v[rows].chunks_exact(width));
        head.write(isa, shape, position, rows.map(|(k, v)| (&k[part(k)], &v[part(v)]))).map(drop)
    })
}
