//! Owns causal attention as one operation of candle's graph: blocks of queries against the keys that they
//! may see, so neither scores of the future nor whole score matrices are ever computed.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::lanes::{softmax, softmax_backward, vectorized};
use crate::storage::{Matrix, into_floats, product, with_storage};

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
        self.window.map_or(0, |window| (query + 1).saturating_sub(window))
    }

    /// The columns of a block's scores that a query sees.
    fn seen(&self, query: usize, keys: &Range<usize>) -> Range<usize> {
        self.first_key(query) - keys.start..query + 1 - keys.start
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// A block of rows of one head in a matrix (batch × positions, heads × head_dim).
    fn rows<'a>(
        &self,
        (storage, start): (&'a CpuStorage, usize),
        (sequence, position): (usize, usize),
        (head, heads): (usize, usize),
    ) -> Matrix<'a> {
        let width = heads * self.head_dim;
        let first = (sequence * self.positions + position) * width + head * self.head_dim;
        Matrix::new(storage, start + first, width)
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
type Saved = Vec<Vec<CpuStorage>>;

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
        let (q, k, v) = ((q, lq.start_offset()), (k, lk.start_offset()), (v, lv.start_offset()));
        let tasks: Vec<(Vec<f32>, Vec<CpuStorage>)> = (0..shape.batch * shape.kv_heads)
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
                        let mut scores = product(q, k.t(), m, n, dim)?;
                        vectorized(|| {
                            for (query, row) in queries.clone().zip(scores.chunks_exact_mut(n)) {
                                let seen = shape.seen(query, &keys);
                                row[..seen.start].fill(0.0);
                                row[seen.end..].fill(0.0);
                                softmax(&mut row[seen], shape.scale());
                            }
                        });
                        let scores = CpuStorage::F32(scores);
                        let mixed = product(Matrix::new(&scores, 0, n), v, m, dim, n)?;
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
        let tasks: Vec<TaskGradients> = with_storage(q, |q, lq| {
            with_storage(k, |k, lk| {
                with_storage(v, |v, lv| {
                    with_storage(grad, |grad, lg| {
                        let starts =
                            [lq.start_offset(), lk.start_offset(), lv.start_offset(), lg.start_offset()];
                        let saved: Vec<(usize, Vec<CpuStorage>)> = saved.into_iter().enumerate().collect();
                        saved
                            .into_par_iter()
                            .map(|saved| {
                                let matrices =
                                    [(q, starts[0]), (k, starts[1]), (v, starts[2]), (grad, starts[3])];
                                self.task_backward(saved, matrices)
                            })
                            .collect::<Result<_>>()
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
    /// `matrices`: queries, keys, values and the gradient of the result, each with where it starts.
    fn task_backward(
        &self,
        (task, saved): (usize, Vec<CpuStorage>),
        [q, k, v, grad]: [(&CpuStorage, usize); 4],
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
                let part = product(Matrix::new(&weights, 0, n).t(), grad, n, dim, m)?;
                add(&mut dv[keys.start * dim..keys.end * dim], &part);
                let mut scores = product(grad, v.t(), m, n, dim)?;
                let weights = into_floats(weights)?;
                vectorized(|| {
                    for (weights, scores) in weights.chunks_exact(n).zip(scores.chunks_exact_mut(n)) {
                        softmax_backward(weights, scores, shape.scale());
                    }
                });
                let scores = CpuStorage::F32(scores);
                let part = product(Matrix::new(&scores, 0, n), k, m, dim, n)?;
                for (query, part) in queries.zip(part.chunks_exact(dim)) {
                    dq[(query * group + member) * dim..][..dim].copy_from_slice(part);
                }
                let part = product(Matrix::new(&scores, 0, n).t(), q, n, dim, m)?;
                add(&mut dk[keys.start * dim..keys.end * dim], &part);
            }
        }
        Ok((dq, (dk, dv)))
    }
}

fn add(sum: &mut [f32], part: &[f32]) {
    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
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
