//! Owns a layer of routed experts as two operations of candle's graph: every expert one matrix product over
//! its tokens, then the weighted sum for each token.

use std::sync::{Arc, Mutex, PoisonError};

use blyan_core::kernels::top_k;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::lanes::{ROWS_PER_TASK, add_scaled, dot_product, vector_fn};
use crate::ops::{silu_derivatives, silu_product};
use crate::product::{By, Matrix, product, write_product};
use crate::storage::{floats, with_floats};

/// Which experts the tokens of a step use: uses sorted by expert, then by token.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) tokens: usize,
    pub(crate) per_token: usize,
    /// (tokens, per_token), best first.
    pub(crate) chosen: Vec<u32>,
    /// Token of each sorted use.
    order: Vec<u32>,
    /// Where each expert's uses begin, and the end.
    starts: Vec<usize>,
    /// (tokens, per_token): place of a use in the sorted order.
    places: Vec<u32>,
}

impl Assignment {
    /// The best of `probabilities` (tokens, experts), ties to the lowest index.
    pub(crate) fn new(probabilities: &[f32], experts: usize, per_token: usize) -> Self {
        let tokens = probabilities.len() / experts;
        let mut chosen = Vec::with_capacity(tokens * per_token);
        let mut best = Vec::new();
        for row in probabilities.chunks_exact(experts) {
            top_k(row, per_token, &mut best);
            chosen.extend(best.iter().map(|&(expert, _)| expert));
        }
        let mut starts = vec![0usize; experts + 1];
        for &expert in &chosen {
            starts[expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let (mut order, mut places) = (vec![0; chosen.len()], vec![0; chosen.len()]);
        for (index, &expert) in chosen.iter().enumerate() {
            let place = next[expert as usize];
            next[expert as usize] += 1;
            order[place] = (index / per_token) as u32;
            places[index] = place as u32;
        }
        Self { tokens, per_token, chosen, order, starts, places }
    }

    /// Uses of each expert.
    pub(crate) fn counts(&self) -> impl Iterator<Item = usize> + '_ {
        self.starts.windows(2).map(|pair| pair[1] - pair[0])
    }

    fn experts(&self) -> usize {
        self.starts.len() - 1
    }
}

/// Weights of an expert that is not trained: gate over up (2 × inner, hidden), and down (hidden, inner).
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    pub(crate) gate_up: Tensor,
    pub(crate) down: Tensor,
}

/// Where the weights of each expert are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Index in the stack of trained experts.
    Trained(usize),
    Frozen(Frozen),
}

/// What each use gives, in sorted order: (tokens × per_token, hidden). `gate_up` (trained, 2 × inner,
/// hidden), `down` (trained, hidden, inner).
pub(crate) fn run_experts(
    x: &Tensor,
    (gate_up, down): (&Tensor, &Tensor),
    places: &Arc<Vec<Place>>,
    assignment: &Arc<Assignment>,
    inner: usize,
) -> Result<Tensor> {
    let for_weights = gate_up.track_op() || down.track_op();
    let op = Experts {
        assignment: Arc::clone(assignment),
        places: Arc::clone(places),
        inner,
        for_x: x.track_op(),
        for_weights,
        saved: Mutex::default(),
    };
    x.contiguous()?.apply_op3(&gate_up.contiguous()?, &down.contiguous()?, op)
}

struct Experts {
    assignment: Arc<Assignment>,
    places: Arc<Vec<Place>>,
    inner: usize,
    for_x: bool,
    for_weights: bool,
    /// Gate and up of each expert's tokens before SiLU, (uses, 2 × inner).
    saved: Mutex<Vec<Vec<f32>>>,
}

impl Experts {
    /// Runs `f` with gate over up and with down of one expert.
    fn with_weights<R>(
        &self,
        expert: usize,
        hidden: usize,
        gate_up: &[f32],
        down: &[f32],
        f: impl FnOnce(Matrix<'_>, Matrix<'_>) -> Result<R>,
    ) -> Result<R> {
        match &self.places[expert] {
            Place::Trained(index) => {
                let size = self.inner * hidden;
                let gate_up = Matrix::new(&gate_up[2 * index * size..], hidden);
                f(gate_up, Matrix::new(&down[index * size..], self.inner))
            }
            Place::Frozen(frozen) => with_floats(&frozen.gate_up, |gate_up| {
                with_floats(&frozen.down, |down| {
                    f(Matrix::new(gate_up, hidden), Matrix::new(down, self.inner))
                })
            }),
        }
    }

    fn gather(&self, x: &[f32], hidden: usize, expert: usize) -> Vec<f32> {
        let Assignment { order, starts, .. } = &*self.assignment;
        let tokens = &order[starts[expert]..starts[expert + 1]];
        let mut rows = Vec::with_capacity(tokens.len() * hidden);
        for &token in tokens {
            rows.extend_from_slice(&x[token as usize * hidden..][..hidden]);
        }
        rows
    }
}

vector_fn! {
    /// `after` (rows, inner) = SiLU of the first half of each row of `before` (rows, 2 × inner) times the second.
    fn gated_rows(after: &'a mut [f32], before: &'a [f32], inner: usize) -> () {
        for (after, before) in after.chunks_exact_mut(inner).zip(before.chunks_exact(2 * inner)) {
            let (gate, up) = before.split_at(inner);
            for ((after, gate), up) in after.iter_mut().zip(gate).zip(up) {
                *after = silu_product(*gate, *up);
            }
        }
    }
}

vector_fn! {
    /// `before` becomes its gradient, and the gradient `after` its value.
    fn gated_rows_backward(after: &'a mut [f32], before: &'a mut [f32], inner: usize) -> () {
        for (after, before) in after.chunks_exact_mut(inner).zip(before.chunks_exact_mut(2 * inner)) {
            let (gate, up) = before.split_at_mut(inner);
            for ((after, gate), up) in after.iter_mut().zip(gate).zip(up) {
                let (by_gate, by_up, value) = silu_derivatives(*gate, *up);
                *gate = by_gate * *after;
                *up = by_up * *after;
                *after = value;
            }
        }
    }
}

impl CustomOp3 for Experts {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gate_up: &CpuStorage,
        lg: &Layout,
        down: &CpuStorage,
        ld: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, hidden) = lx.shape().dims2()?;
        let (x, gate_up, down) = (floats(x, lx)?, floats(gate_up, lg)?, floats(down, ld)?);
        let (assignment, inner) = (&*self.assignment, self.inner);
        let mut y = vec![0.0; assignment.order.len() * hidden];
        let tasks = self.split(&mut y, hidden).into_par_iter().enumerate().with_max_len(1);
        let saved = tasks.map(|(expert, y)| {
            let uses = y.len() / hidden;
            if uses == 0 {
                return Ok(Vec::new());
            }
            let rows = self.gather(x, hidden, expert);
            self.with_weights(expert, hidden, gate_up, down, |gate_up, down| {
                let rows = Matrix::new(&rows, hidden);
                let before = product(rows, gate_up.t(), (uses, 2 * inner, hidden), By::Pool)?;
                let mut after = vec![0.0; uses * inner];
                gated_rows(&mut after, &before, inner);
                write_product(y, Matrix::new(&after, inner), down.t(), (uses, hidden, inner), By::Pool)?;
                Ok(before)
            })
        });
        let saved: Vec<_> = saved.collect::<Result<_>>()?;
        if self.for_x || self.for_weights {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = saved;
        }
        Ok((CpuStorage::F32(y), (assignment.order.len(), hidden).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate_up: &Tensor,
        down: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let saved = std::mem::take(&mut *self.saved.lock().unwrap_or_else(PoisonError::into_inner));
        if saved.len() != self.assignment.experts() {
            bail!("experts were differentiated twice");
        }
        let (_, hidden) = x.dims2()?;
        let size = self.inner * hidden;
        let trained = if self.for_weights { gate_up.dim(0)? } else { 0 };
        let mut for_rows = vec![0.0; if self.for_x { self.assignment.order.len() * hidden } else { 0 }];
        let mut for_gate_up = vec![0.0; trained * 2 * size];
        let mut for_down = vec![0.0; trained * size];
        let mut stack = for_gate_up.chunks_exact_mut(2 * size).zip(for_down.chunks_exact_mut(size));
        let rows = self.split(&mut for_rows, if self.for_x { hidden } else { 0 });
        let tasks = saved.into_iter().zip(rows).zip(&*self.places).map(|((before, for_rows), place)| {
            ExpertBackward {
                before,
                for_rows,
                // Trained experts come in the order of their stack.
                for_weights: match place {
                    Place::Trained(_) => stack.next(),
                    Place::Frozen(_) => None,
                },
            }
        });
        let tasks: Vec<ExpertBackward<'_>> = tasks.collect();
        with_floats(x, |x| {
            with_floats(gate_up, |gate_up| {
                with_floats(down, |down| {
                    with_floats(grad, |grad| {
                        let tasks = tasks.into_par_iter().enumerate().with_max_len(1);
                        tasks.try_for_each(|(expert, task)| {
                            self.with_weights(expert, hidden, gate_up, down, |gate_up, down| {
                                self.expert_backward(expert, (x, hidden), grad, (gate_up, down), task)
                            })
                        })
                    })
                })
            })
        })?;
        let for_x = self.for_x.then(|| {
            let sum = sum_of_uses(&self.assignment, &for_rows, hidden, None);
            Tensor::from_vec(sum, x.shape().clone(), x.device())
        });
        let stack = |values, like: &Tensor| {
            self.for_weights
                .then(|| Tensor::from_vec(values, like.shape().clone(), like.device()))
                .transpose()
        };
        Ok((for_x.transpose()?, stack(for_gate_up, gate_up)?, stack(for_down, down)?))
    }
}

/// One expert's way back.
struct ExpertBackward<'a> {
    /// Gate and up before SiLU, (uses, 2 × inner).
    before: Vec<f32>,
    /// Gradients by its tokens, (uses, hidden), if they are asked for.
    for_rows: &'a mut [f32],
    /// Gradients by gate over up and by down, if it is trained.
    for_weights: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl Experts {
    /// The rows of each expert in a matrix (uses, width), sorted.
    fn split<'a>(&self, mut rows: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut parts = Vec::with_capacity(self.assignment.experts());
        for uses in self.assignment.counts() {
            let (part, rest) = rows.split_at_mut(uses * width);
            parts.push(part);
            rows = rest;
        }
        parts
    }

    fn expert_backward(
        &self,
        expert: usize,
        (x, hidden): (&[f32], usize),
        grad: &[f32],
        (gate_up, down): (Matrix<'_>, Matrix<'_>),
        ExpertBackward { mut before, for_rows, for_weights }: ExpertBackward<'_>,
    ) -> Result<()> {
        let inner = self.inner;
        let uses = before.len() / (2 * inner);
        if uses == 0 {
            return Ok(());
        }
        let grad = Matrix::new(&grad[self.assignment.starts[expert] * hidden..], hidden);
        let mut after = product(grad, down, (uses, inner, hidden), By::Pool)?;
        gated_rows_backward(&mut after, &mut before, inner);
        let for_before = Matrix::new(&before, 2 * inner);
        if self.for_x {
            write_product(for_rows, for_before, gate_up, (uses, hidden, 2 * inner), By::Pool)?;
        }
        if let Some((for_gate_up, for_down)) = for_weights {
            let rows = self.gather(x, hidden, expert);
            let rows = Matrix::new(&rows, hidden);
            write_product(for_gate_up, for_before.t(), rows, (2 * inner, hidden, uses), By::Pool)?;
            write_product(for_down, grad.t(), Matrix::new(&after, inner), (hidden, inner, uses), By::Pool)?;
        }
        Ok(())
    }
}

/// For each token the sum of its uses' rows, times their weights where there are any.
fn sum_of_uses(assignment: &Assignment, rows: &[f32], hidden: usize, weights: Option<&[f32]>) -> Vec<f32> {
    let per_token = assignment.per_token;
    let mut sums = vec![0.0; assignment.tokens * hidden];
    let tasks = sums.par_chunks_mut(hidden).zip(assignment.places.par_chunks(per_token)).enumerate();
    tasks.with_min_len(ROWS_PER_TASK).for_each(|(token, (sum, places))| {
        for (number, &place) in places.iter().enumerate() {
            let row = &rows[place as usize * hidden..][..hidden];
            let weight = weights.map_or(1.0, |weights| weights[token * per_token + number]);
            add_scaled(sum, weight, row);
        }
    });
    sums
}

/// The sum over each token's experts: `uses` (tokens × per_token, hidden) sorted, `weights` (tokens,
/// per_token) → (tokens, hidden).
pub(crate) fn combine(uses: &Tensor, weights: &Tensor, assignment: &Arc<Assignment>) -> Result<Tensor> {
    let op = Combine {
        assignment: Arc::clone(assignment),
        for_uses: uses.track_op(),
        for_weights: weights.track_op(),
    };
    uses.contiguous()?.apply_op2(&weights.contiguous()?, op)
}

struct Combine {
    assignment: Arc<Assignment>,
    for_uses: bool,
    for_weights: bool,
}

impl CustomOp2 for Combine {
    fn name(&self) -> &'static str {
        "combine-experts"
    }

    fn cpu_fwd(
        &self,
        uses: &CpuStorage,
        lu: &Layout,
        weights: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, hidden) = lu.shape().dims2()?;
        let sums = sum_of_uses(&self.assignment, floats(uses, lu)?, hidden, Some(floats(weights, lw)?));
        Ok((CpuStorage::F32(sums), (self.assignment.tokens, hidden).into()))
    }

    fn bwd(
        &self,
        uses: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, hidden) = uses.dims2()?;
        let (assignment, per_token) = (&*self.assignment, self.assignment.per_token);
        with_floats(grad, |grad| {
            let for_uses = self.for_uses.then(|| {
                let weights = with_floats(weights, |weights| {
                    let mut sorted = vec![0.0; weights.len()];
                    for (weight, &place) in weights.iter().zip(&assignment.places) {
                        sorted[place as usize] = *weight;
                    }
                    Ok(sorted)
                })?;
                let mut rows = vec![0.0; assignment.order.len() * hidden];
                let ins = assignment.order.par_iter().zip(&weights);
                rows.par_chunks_mut(hidden).zip(ins).with_min_len(ROWS_PER_TASK).for_each(
                    |(row, (token, weight))| {
                        let grad = &grad[*token as usize * hidden..][..hidden];
                        row.iter_mut().zip(grad).for_each(|(row, grad)| *row = weight * grad);
                    },
                );
                Tensor::from_vec(rows, uses.shape().clone(), uses.device())
            });
            let for_weights = self.for_weights.then(|| {
                let values = with_floats(uses, |uses| {
                    let mut values = vec![0.0; assignment.places.len()];
                    let ins = assignment.places.par_iter().enumerate();
                    values.par_iter_mut().zip(ins).with_min_len(ROWS_PER_TASK).for_each(
                        |(value, (index, place))| {
                            let row = &uses[*place as usize * hidden..][..hidden];
                            let grad = &grad[index / per_token * hidden..][..hidden];
                            *value = dot_product(row, grad);
                        },
                    );
                    Ok(values)
                })?;
                Tensor::from_vec(values, weights.shape().clone(), weights.device())
            });
            Ok((for_uses.transpose()?, for_weights.transpose()?))
        })
    }
}
