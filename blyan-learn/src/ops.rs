//! Owns the operations that the decoder is made of, each one node of candle's graph with its derivative.
//!
//! candle differentiates both sides of every product; these know which side has something to learn, and
//! compute no more.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::lanes::{
    ELEMENTS_PER_TASK, ROWS_PER_TASK, dot, exp, log_sum, softmax, softmax_backward, vector_fn,
};
use crate::product::{By, Matrix, add_product, product};
use crate::storage::{floats, with_floats};

/// `x` (rows, in) × `weight` (out, in)ᵀ + `bias` (out) → (rows, out).
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let op = Linear { for_x: x.track_op(), for_weight: weight.track_op() };
    let y = x.contiguous()?.apply_op2(&weight.contiguous()?, op)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct Linear {
    for_x: bool,
    for_weight: bool,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inputs), (outputs, _)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let (x, weight) = (Matrix::new(floats(x, lx)?, inputs), Matrix::new(floats(weight, lw)?, inputs));
        let y = product(x, weight.t(), (rows, outputs, inputs), By::Pool)?;
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, inputs), (outputs, _)) = (x.dims2()?, weight.dims2()?);
        let (for_x, for_weight) = with_floats(grad, |grad| {
            let grad = Matrix::new(grad, outputs);
            let by_x = |weight: &[f32]| {
                product(grad, Matrix::new(weight, inputs), (rows, inputs, outputs), By::Pool)
            };
            let by_weight =
                |x: &[f32]| product(grad.t(), Matrix::new(x, inputs), (outputs, inputs, rows), By::Pool);
            Ok((
                self.for_x.then(|| with_floats(weight, by_x)).transpose()?,
                self.for_weight.then(|| with_floats(x, by_weight)).transpose()?,
            ))
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape().clone(), like.device());
        let for_x = for_x.map(|values| tensor(values, x)).transpose()?;
        let for_weight = for_weight.map(|values| tensor(values, weight)).transpose()?;
        Ok((for_x, for_weight))
    }
}

/// Root mean square norm of each row of `x` (rows, n), times `weight` (n).
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let op = RmsNorm { eps, for_x: x.track_op(), for_weight: weight.track_op() };
    x.contiguous()?.apply_op2(&weight.contiguous()?, op)
}

struct RmsNorm {
    eps: f32,
    for_x: bool,
    for_weight: bool,
}

#[inline(always)]
fn inverse_root(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

vector_fn! {
    fn norm_rows(y: &'a mut [f32], x: &'a [f32], weight: &'a [f32], eps: f32) -> () {
        let n = weight.len();
        for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
            let r = inverse_root(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * r * w;
            }
        }
    }
}

vector_fn! {
    /// Gradient by x, into `dx`.
    fn norm_rows_by_x(
        dx: &'a mut [f32],
        x: &'a [f32],
        grad: &'a [f32],
        weight: &'a [f32],
        eps: f32,
    ) -> () {
        let n = weight.len();
        let rows = dx.chunks_exact_mut(n).zip(x.chunks_exact(n));
        for ((dx, x), grad) in rows.zip(grad.chunks_exact(n)) {
            let r = inverse_root(x, eps);
            for ((dx, grad), w) in dx.iter_mut().zip(grad).zip(weight) {
                *dx = grad * w;
            }
            let shared = dot(dx, x) * r * r / n as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*dx - x * shared) * r;
            }
        }
    }
}

vector_fn! {
    /// Gradient by the weight, added to `dw`.
    fn norm_rows_by_weight(dw: &'a mut [f32], x: &'a [f32], grad: &'a [f32], eps: f32) -> () {
        let n = dw.len();
        for (x, grad) in x.chunks_exact(n).zip(grad.chunks_exact(n)) {
            let r = inverse_root(x, eps);
            for ((dw, x), grad) in dw.iter_mut().zip(x).zip(grad) {
                *dw += x * r * grad;
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (floats(x, lx)?, floats(weight, lw)?);
        let n = weight.len();
        let mut y = vec![0.0; x.len()];
        let tasks = y.par_chunks_mut(n * ROWS_PER_TASK).zip(x.par_chunks(n * ROWS_PER_TASK));
        tasks.for_each(|(y, x)| norm_rows(y, x, weight, self.eps));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = weight.elem_count();
        let task = n * ROWS_PER_TASK;
        let (dx, dw) = with_floats(x, |x| {
            with_floats(weight, |weight| {
                with_floats(grad, |grad| {
                    let mut dx = vec![0.0; if self.for_x { x.len() } else { 0 }];
                    if self.for_x {
                        let rows = dx.par_chunks_mut(task).zip(x.par_chunks(task)).zip(grad.par_chunks(task));
                        rows.for_each(|((dx, x), grad)| norm_rows_by_x(dx, x, grad, weight, self.eps));
                    }
                    let mut dw = Vec::new();
                    if self.for_weight {
                        let parts = x.par_chunks(task).zip(grad.par_chunks(task)).map(|(x, grad)| {
                            let mut part = vec![0.0; n];
                            norm_rows_by_weight(&mut part, x, grad, self.eps);
                            part
                        });
                        let parts: Vec<Vec<f32>> = parts.collect();
                        dw = vec![0.0; n];
                        for part in parts {
                            dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                        }
                    }
                    Ok((dx, dw))
                })
            })
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape().clone(), like.device());
        Ok((
            self.for_x.then(|| tensor(dx, x)).transpose()?,
            self.for_weight.then(|| tensor(dw, weight)).transpose()?,
        ))
    }
}

/// Cosines and sines of a model's positions, (positions, head_dim / 2) each.
#[derive(Debug)]
pub(crate) struct Angles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) positions: usize,
}

/// Rotates each head of `x` (batch × positions, heads × head_dim) by its position.
pub(crate) fn rotate(x: &Tensor, angles: &Arc<Angles>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rotate { angles: Arc::clone(angles) })
}

struct Rotate {
    angles: Arc<Angles>,
}

vector_fn! {
    /// Rotates each head of a row, into `y`.
    fn rotate_row(y: &'a mut [f32], x: &'a [f32], cos: &'a [f32], sin: &'a [f32], sign: f32) -> () {
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            let ((y_low, y_high), (low, high)) = (y.split_at_mut(half), x.split_at(half));
            for i in 0..half {
                let sin = sign * sin[i];
                y_low[i] = low[i] * cos[i] - high[i] * sin;
                y_high[i] = high[i] * cos[i] + low[i] * sin;
            }
        }
    }
}

impl Rotate {
    /// `sign` −1 turns back.
    fn run(&self, x: &[f32], width: usize, sign: f32) -> Vec<f32> {
        let Angles { cos, sin, positions } = &*self.angles;
        let half = cos.len() / positions;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate().with_min_len(ROWS_PER_TASK).for_each(
            |(row, (y, x))| {
                let at = row % positions * half..(row % positions + 1) * half;
                rotate_row(y, x, &cos[at.clone()], &sin[at], sign);
            },
        );
        y
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        Ok((CpuStorage::F32(self.run(floats(x, layout)?, width, 1.0)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = x.dims2()?;
        let turned = with_floats(grad, |grad| Ok(self.run(grad, width, -1.0)))?;
        Tensor::from_vec(turned, x.shape().clone(), x.device()).map(Some)
    }
}

/// Softmax of each row.
pub(crate) fn softmax_rows(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(SoftmaxRows)
}

struct SoftmaxRows;

vector_fn! {
    fn softmax_each(x: &'a mut [f32], n: usize) -> () {
        for row in x.chunks_exact_mut(n) {
            softmax(row, 1.0);
        }
    }
}

vector_fn! {
    fn softmax_each_backward(y: &'a [f32], grad: &'a mut [f32], n: usize) -> () {
        for (y, grad) in y.chunks_exact(n).zip(grad.chunks_exact_mut(n)) {
            softmax_backward(y, grad, 1.0);
        }
    }
}

impl CustomOp1 for SoftmaxRows {
    fn name(&self) -> &'static str {
        "softmax-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, n) = layout.shape().dims2()?;
        let mut y = floats(x, layout)?.to_vec();
        y.par_chunks_mut(n * ROWS_PER_TASK).for_each(|y| softmax_each(y, n));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, n) = x.dims2()?;
        let grad = with_floats(y, |y| {
            let mut grad = with_floats(grad, |grad| Ok(grad.to_vec()))?;
            softmax_each_backward(y, &mut grad, n);
            Ok(grad)
        })?;
        Tensor::from_vec(grad, x.shape().clone(), x.device()).map(Some)
    }
}

/// SiLU of `gate` times `up`, of equal shape.
pub(crate) fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SiluMul)
}

struct SiluMul;

/// g · sigmoid(g) · u
#[inline(always)]
pub(crate) fn silu_product(gate: f32, up: f32) -> f32 {
    gate / (1.0 + exp(-gate)) * up
}

/// The derivatives by gate and up, and the value.
#[inline(always)]
pub(crate) fn silu_derivatives(gate: f32, up: f32) -> (f32, f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-gate));
    let silu = gate * sigmoid;
    (up * (sigmoid + silu * (1.0 - sigmoid)), silu, silu * up)
}

vector_fn! {
    fn silu_products(y: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) -> () {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = silu_product(*gate, *up);
        }
    }
}

vector_fn! {
    fn silu_products_backward(
        for_gate: &'a mut [f32],
        for_up: &'a mut [f32],
        gate: &'a [f32],
        up: &'a [f32],
        grad: &'a [f32],
    ) -> () {
        let outs = for_gate.iter_mut().zip(for_up);
        for ((for_gate, for_up), ((gate, up), grad)) in outs.zip(gate.iter().zip(up).zip(grad)) {
            let (by_gate, by_up, _) = silu_derivatives(*gate, *up);
            *for_gate = by_gate * grad;
            *for_up = by_up * grad;
        }
    }
}

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        lg: &Layout,
        up: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(gate, lg)?, floats(up, lu)?);
        let mut y = vec![0.0; gate.len()];
        let tasks = y.par_chunks_mut(ELEMENTS_PER_TASK);
        let tasks = tasks.zip(gate.par_chunks(ELEMENTS_PER_TASK)).zip(up.par_chunks(ELEMENTS_PER_TASK));
        tasks.for_each(|((y, gate), up)| silu_products(y, gate, up));
        Ok((CpuStorage::F32(y), lg.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (for_gate, for_up) = with_floats(gate, |gate| {
            with_floats(up, |up| {
                with_floats(grad, |grad| {
                    let (mut for_gate, mut for_up) = (vec![0.0; grad.len()], vec![0.0; grad.len()]);
                    let task = ELEMENTS_PER_TASK;
                    let outs = for_gate.par_chunks_mut(task).zip(for_up.par_chunks_mut(task));
                    let ins = gate.par_chunks(task).zip(up.par_chunks(task)).zip(grad.par_chunks(task));
                    outs.zip(ins).for_each(|((for_gate, for_up), ((gate, up), grad))| {
                        silu_products_backward(for_gate, for_up, gate, up, grad);
                    });
                    Ok((for_gate, for_up))
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape().clone(), gate.device());
        Ok((Some(tensor(for_gate)?), Some(tensor(for_up)?)))
    }
}

/// Loss of each row of `logits` (rows, vocabulary) against one token a row, in nats.
pub(crate) fn losses(logits: &[f32], targets: &[u32]) -> Vec<f64> {
    let vocabulary = logits.len() / targets.len().max(1);
    let rows = logits.par_chunks(vocabulary.max(1)).zip(targets).with_min_len(16);
    rows.map(|(row, &target)| f64::from(log_sum(row)) - f64::from(row[target as usize])).collect()
}

/// Mean cross entropy of `x` (rows, hidden) × `head` (vocabulary, hidden)ᵀ against one token a row, a scalar
/// in nats.
pub(crate) fn head_loss(x: &Tensor, head: &Tensor, targets: Arc<[u32]>) -> Result<Tensor> {
    let (for_x, for_head) = (x.track_op(), head.track_op());
    x.contiguous()?
        .apply_op2(&head.contiguous()?, HeadLoss { targets, for_x, for_head, gradients: Mutex::default() })
}

/// Logits that exist at a time: they are many times larger than anything else, and stay in the cache.
const LOGITS_AT_ONCE: usize = 1 << 20;

vector_fn! {
    /// x becomes e^(x − log_sum) · scale.
    fn scaled_probabilities(x: &'a mut [f32], log_sum: f32, scale: f32) -> () {
        for x in x {
            *x = exp(*x - log_sum) * scale;
        }
    }
}

/// Gradients are computed along with the loss, so that logits need not be kept.
struct HeadLoss {
    targets: Arc<[u32]>,
    for_x: bool,
    for_head: bool,
    /// By x and by head.
    gradients: Mutex<Option<(Vec<f32>, Vec<f32>)>>,
}

impl CustomOp2 for HeadLoss {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        head: &CpuStorage,
        lh: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, hidden), (vocabulary, _)) = (lx.shape().dims2()?, lh.shape().dims2()?);
        if self.targets.len() != rows {
            bail!("{} targets for {rows} rows", self.targets.len());
        }
        let (x, head) = (floats(x, lx)?, Matrix::new(floats(head, lh)?, hidden));
        let at_once = (LOGITS_AT_ONCE / vocabulary.max(1)).clamp(16, 1024);
        let scale = 1.0 / rows as f32;
        let mut sum = 0.0;
        let mut by_x = Vec::with_capacity(if self.for_x { rows * hidden } else { 0 });
        let mut by_head = vec![0.0; if self.for_head { vocabulary * hidden } else { 0 }];
        for start in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - start);
            let x = Matrix::new(&x[start * hidden..], hidden);
            let mut logits = product(x, head.t(), (count, vocabulary, hidden), By::Pool)?;
            let targets = &self.targets[start..start + count];
            let tracked = self.for_x || self.for_head;
            let tasks = logits.par_chunks_mut(vocabulary).zip(targets).with_min_len(16);
            let losses: Vec<f64> = tasks
                .map(|(row, &target)| {
                    let log_sum = log_sum(row);
                    let loss = f64::from(log_sum) - f64::from(row[target as usize]);
                    if tracked {
                        scaled_probabilities(row, log_sum, scale);
                        row[target as usize] -= scale;
                    }
                    loss
                })
                .collect();
            sum += losses.iter().sum::<f64>();
            let by_logits = Matrix::new(&logits, vocabulary);
            if self.for_x {
                by_x.extend(product(by_logits, head, (count, hidden, vocabulary), By::Pool)?);
            }
            if self.for_head {
                add_product(&mut by_head, by_logits.t(), x, (vocabulary, hidden, count), By::Pool)?;
            }
        }
        *self.gradients.lock().unwrap_or_else(PoisonError::into_inner) = Some((by_x, by_head));
        Ok((CpuStorage::F32(vec![(sum / rows as f64) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        head: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((by_x, by_head)) = gradients else { bail!("the loss was differentiated twice") };
        let scale = grad.to_scalar::<f32>()?;
        let tensor = |mut values: Vec<f32>, like: &Tensor| {
            if scale != 1.0 {
                values.iter_mut().for_each(|value| *value *= scale);
            }
            Tensor::from_vec(values, like.shape().clone(), like.device())
        };
        Ok((
            self.for_x.then(|| tensor(by_x, x)).transpose()?,
            self.for_head.then(|| tensor(by_head, head)).transpose()?,
        ))
    }
}
