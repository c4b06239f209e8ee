//! Owns causal attention as one operation of candle's graph: blocks of queries against the keys that they
//! may see, so neither scores of the future nor whole score matrices are ever computed.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::lanes::{softmax, softmax_backward, vector_fn};
use crate::product::{By, Matrix, add_product, product};
use crate::storage::{floats, with_floats};

/// Queries that are computed together.
const BLOCK: usize = 64;

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape {
    pub(crate) batch: usize,
    /// Positions of each sequence.
    pub(crate) positions: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
}

impl AttentionShape {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Blocks of queries, and the keys that any of them sees.
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        (0..self.positions).step_by(BLOCK).map(|start| {
            let end = (start + BLOCK).min(self.positions);
            (start..end, self.first_key(start)..end)
        })
    }

    fn first_key(&self, query: usize) -> usize {
        (query + 1).saturating_sub(self.window())
    }

    fn window(&self) -> usize {
        self.window.unwrap_or(self.positions)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Rows of one head from a position on, in a matrix (batch × positions, heads × head_dim).
    fn rows<'a>(
        &self,
        data: &'a [f32],
        (sequence, position): (usize, usize),
        (head, heads): (usize, usize),
    ) -> Matrix<'a> {
        let width = heads * self.head_dim;
        let first = (sequence * self.positions + position) * width + head * self.head_dim;
        Matrix::new(&data[first..], width)
    }
}

vector_fn! {
    /// Softmax of each row over the keys that its query sees, 0 elsewhere. `scores`: (queries, keys); the
    /// first query is number `query`, the first key number `key`.
    fn softmax_of_seen(
        scores: &'a mut [f32],
        keys: usize,
        query: usize,
        key: usize,
        window: usize,
        scale: f32,
    ) -> () {
        for (query, row) in (query..).zip(scores.chunks_exact_mut(keys)) {
            let first = (query + 1).saturating_sub(window) - key;
            let end = query + 1 - key;
            for unseen in &mut row[..first] {
                *unseen = 0.0;
            }
            for unseen in &mut row[end..] {
                *unseen = 0.0;
            }
            softmax(&mut row[first..end], scale);
        }
    }
}

vector_fn! {
    /// `scores` become gradients by scores. Both (queries, keys).
    fn softmax_of_seen_backward(weights: &'a [f32], scores: &'a mut [f32], keys: usize, scale: f32) -> () {
        for (weights, scores) in weights.chunks_exact(keys).zip(scores.chunks_exact_mut(keys)) {
            softmax_backward(weights, scores, scale);
        }
    }
}

/// `q` (batch × positions, heads × head_dim), `k`, `v` (…, kv_heads × head_dim) → as `q`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
    let tracked = q.track_op() || k.track_op() || v.track_op();
    q.contiguous()?.apply_op3(
        &k.contiguous()?,
        &v.contiguous()?,
        Op { shape, tracked, weights: Mutex::default() },
    )
}

/// Attention weights of each block: [task][head of its group × block].
type Saved = Vec<Vec<Vec<f32>>>;

struct Op {
    shape: AttentionShape,
    tracked: bool,
    weights: Mutex<Saved>,
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = &self.shape;
        let (dim, group) = (shape.head_dim, shape.group());
        let (q, k, v) = (floats(q, lq)?, floats(k, lk)?, floats(v, lv)?);
        let tasks: Vec<(Vec<f32>, Vec<Vec<f32>>)> = (0..shape.batch * shape.kv_heads)
            .into_par_iter()
            .map(|task| {
                let (sequence, kv) = (task / shape.kv_heads, task % shape.kv_heads);
                let mut out = vec![0.0; shape.positions * group * dim];
                let mut saved = Vec::new();
                for member in 0..group {
                    let head = kv * group + member;
                    for (queries, keys) in shape.blocks() {
                        let (m, n) = (queries.len(), keys.len());
                        let q = shape.rows(q, (sequence, queries.start), (head, shape.heads));
                        let k = shape.rows(k, (sequence, keys.start), (kv, shape.kv_heads));
                        let v = shape.rows(v, (sequence, keys.start), (kv, shape.kv_heads));
                        let mut scores = product(q, k.t(), (m, n, dim), By::Caller)?;
                        let places = (queries.start, keys.start, shape.window());
                        softmax_of_seen(&mut scores, n, places.0, places.1, places.2, shape.scale());
                        let mixed = product(Matrix::new(&scores, n), v, (m, dim, n), By::Caller)?;
                        for (query, mixed) in queries.zip(mixed.chunks_exact(dim)) {
                            out[(query * group + member) * dim..][..dim].copy_from_slice(mixed);
                        }
                        if self.tracked {
                            saved.push(scores);
                        }
                    }
                }
                Ok::<_, candle_core::Error>((out, saved))
            })
            .collect::<Result<_>>()?;
        let (outs, saved): (Vec<_>, Saved) = tasks.into_iter().unzip();
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = saved;
        let out = side_by_side(shape, outs, group * dim);
        Ok((CpuStorage::F32(out), (shape.batch * shape.positions, shape.heads * dim).into()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let shape = &self.shape;
        let (dim, group) = (shape.head_dim, shape.group());
        let saved = std::mem::take(&mut *self.weights.lock().unwrap_or_else(PoisonError::into_inner));
        if saved.len() != shape.batch * shape.kv_heads {
            bail!("attention was differentiated twice");
        }
        let tasks: Vec<TaskGradients> = with_floats(q, |q| {
            with_floats(k, |k| {
                with_floats(v, |v| {
                    with_floats(grad, |grad| {
                        let saved: Vec<(usize, Vec<Vec<f32>>)> = saved.into_iter().enumerate().collect();
                        let tasks = saved.into_par_iter();
                        tasks.map(|saved| self.task_backward(saved, [q, k, v, grad])).collect::<Result<_>>()
                    })
                })
            })
        })?;
        let (dq, rest): (Vec<_>, Vec<_>) = tasks.into_iter().unzip();
        let (dk, dv): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
        let tensor = |tasks, width, like: &Tensor| {
            Tensor::from_vec(side_by_side(shape, tasks, width), like.shape().clone(), like.device())
        };
        Ok((Some(tensor(dq, group * dim, q)?), Some(tensor(dk, dim, k)?), Some(tensor(dv, dim, v)?)))
    }
}

/// Gradients by queries, keys and values of the heads that share keys, (positions, width) each.
type TaskGradients = (Vec<f32>, (Vec<f32>, Vec<f32>));

impl Op {
    fn task_backward(
        &self,
        (task, saved): (usize, Vec<Vec<f32>>),
        [q, k, v, grad]: [&[f32]; 4],
    ) -> Result<TaskGradients> {
        let shape = &self.shape;
        let (dim, group) = (shape.head_dim, shape.group());
        let (sequence, kv) = (task / shape.kv_heads, task % shape.kv_heads);
        let mut dq = vec![0.0; shape.positions * group * dim];
        let mut dk = vec![0.0; shape.positions * dim];
        let mut dv = vec![0.0; shape.positions * dim];
        let mut saved = saved.into_iter();
        for member in 0..group {
            let head = kv * group + member;
            for (queries, keys) in shape.blocks() {
                let (m, n) = (queries.len(), keys.len());
                let Some(weights) = saved.next() else { bail!("attention weights are missing") };
                let q = shape.rows(q, (sequence, queries.start), (head, shape.heads));
                let k = shape.rows(k, (sequence, keys.start), (kv, shape.kv_heads));
                let v = shape.rows(v, (sequence, keys.start), (kv, shape.kv_heads));
                let grad = shape.rows(grad, (sequence, queries.start), (head, shape.heads));
                let weights_t = Matrix::new(&weights, n).t();
                let seen = keys.start * dim..keys.end * dim;
                add_product(&mut dv[seen.clone()], weights_t, grad, (n, dim, m), By::Caller)?;
                let mut scores = product(grad, v.t(), (m, n, dim), By::Caller)?;
                softmax_of_seen_backward(&weights, &mut scores, n, shape.scale());
                let scores = Matrix::new(&scores, n);
                let part = product(scores, k, (m, dim, n), By::Caller)?;
                for (query, part) in queries.zip(part.chunks_exact(dim)) {
                    dq[(query * group + member) * dim..][..dim].copy_from_slice(part);
                }
                add_product(&mut dk[seen], scores.t(), q, (n, dim, m), By::Caller)?;
            }
        }
        Ok((dq, (dk, dv)))
    }
}

/// What tasks made, (positions, width) each, as one matrix (batch × positions, kv_heads × width).
fn side_by_side(shape: &AttentionShape, tasks: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let row = shape.kv_heads * width;
    let mut all = vec![0.0; shape.batch * shape.positions * row];
    all.par_chunks_mut(shape.positions * row).zip(tasks.par_chunks(shape.kv_heads)).for_each(
        |(all, tasks)| {
            for (position, row) in all.chunks_exact_mut(row).enumerate() {
                for (part, task) in row.chunks_exact_mut(width).zip(tasks) {
                    part.copy_from_slice(&task[position * width..][..width]);
                }
            }
        },
    );
    all
}
