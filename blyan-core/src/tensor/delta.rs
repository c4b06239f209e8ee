//! Owns deltas: what is added to the matrices of a weight block to get another one. As low-rank factors
//! under PEFT's names (arXiv:2106.09685), as 8-bit integers, or both.
//!
//! Of a matrix `x.weight` (rows, cols) a delta holds `x.lora_A.weight` (rank, cols) and
//! `x.lora_B.weight` (rows, rank), F32, BF16 or F16; or `x.delta` (rows, cols), I8 with `x.delta_scale`.
//! Merging is exact in the sense of docs/numerics.md: each step is written down, so everybody gets the
//! same payload and its hash attests it.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::block::TensorMap;
use super::error::TensorError;
use super::view::TensorView;
use super::write::PayloadLayout;
use super::{convert_into, first_not_finite, quantize_rows_into, scale_name};
use crate::dtype::{DType, Shape};
use crate::kernels::{FpEnv, Isa, KernelError, Weights};

/// A delta that cannot be added to a payload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// A tensor of the delta or the base, or one that merging would give.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Nothing would change.
    #[error("the delta holds no tensor")]
    Empty,
    /// A tensor whose name adds to nothing.
    #[error(
        "tensor {tensor:?} is no part of a delta: for a matrix x.weight it holds x.lora_A.weight and \
         x.lora_B.weight, or x.delta"
    )]
    Name {
        /// Name of the tensor.
        tensor: String,
    },
    /// The base has no such matrix.
    #[error("tensor {tensor:?} adds to {target:?}, which is no matrix of the base: it has {present:?}")]
    NoTarget {
        /// Name of the tensor.
        tensor: String,
        /// The matrix that it would add to.
        target: String,
        /// Matrices of the base.
        present: Vec<String>,
    },
    /// One of two factors.
    #[error("tensor {tensor:?} stands without {missing:?}: a low-rank delta has both")]
    Factor {
        /// The factor that is there.
        tensor: String,
        /// The other.
        missing: String,
    },
    /// Factors of two ranks.
    #[error("{target:?}: lora_A has rank {a}, lora_B has rank {b}")]
    Rank {
        /// The matrix that they add to.
        target: String,
        /// Rows of A.
        a: usize,
        /// Columns of B.
        b: usize,
    },
    /// A factor or difference of another shape than the matrix needs.
    #[error("tensor {tensor:?} has shape {found}: {target:?} needs {expected}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        found: Shape,
        /// The matrix that it adds to.
        target: String,
        /// The shape needed, with `r` for the rank.
        expected: String,
    },
    /// A factor that is quantized, or a difference that is not.
    #[error("tensor {tensor:?} is {dtype}: expected {expected}")]
    DType {
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// The types that it may have.
        expected: &'static str,
    },
}

/// A matrix as a kernel reads it.
fn weights<'a>(view: &TensorView<'a>, scale: Option<&TensorView<'a>>) -> Result<Weights<'a>, KernelError> {
    // Only matrices come here: the targets are, and differences have their shape.
    let &[rows, cols] = view.shape().dims() else {
        return Weights::new(view.dtype(), 0, 0, view.data(), None);
    };
    Weights::new(view.dtype(), rows, cols, view.data(), scale.map(TensorView::data))
}

/// What is added to one matrix.
#[derive(Default)]
struct Term<'a> {
    a: Option<TensorView<'a>>,
    b: Option<TensorView<'a>>,
    difference: Option<(TensorView<'a>, TensorView<'a>)>,
}

/// A delta and the base that it fits, both checked.
struct Fitted<'a> {
    base: BTreeMap<&'a str, TensorView<'a>>,
    terms: BTreeMap<String, Term<'a>>,
}

/// Checks that a delta can be added to a base: names, shapes, types, and that every number is one.
///
/// # Errors
///
/// [`DeltaError`] naming the tensor.
pub fn check_delta(base: &[u8], delta: &[u8]) -> Result<(), DeltaError> {
    fit((&TensorMap::parse(base)?, base), (&TensorMap::parse(delta)?, delta)).map(drop)
}

/// The payload of `base` with `delta` added: in the canonical layout, each tensor in the base's type. What
/// the delta does not name is copied.
///
/// # Errors
///
/// [`DeltaError`] naming the tensor, a sum beyond the range of the base's type included.
pub fn merge_delta(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, DeltaError> {
    let (base_map, delta_map) = (TensorMap::parse(base)?, TensorMap::parse(delta)?);
    let Fitted { base, terms } = fit((&base_map, base), (&delta_map, delta))?;
    let places: Vec<_> = base.iter().map(|(&name, view)| (name, view.dtype(), view.shape())).collect();
    let layout = PayloadLayout::new(&places)?;
    let mut payload = layout.zeroed();
    let mut places: BTreeMap<&str, &mut [u8]> = layout.places(&mut payload).into_iter().collect();
    for (&name, view) in &base {
        let Some(term) = terms.get(name) else { continue };
        let scales = base.get(scale_name(name).as_str());
        let sum = term.add_to(view, scales)?;
        let values = places.remove(name).unwrap_or_default();
        let done = if view.dtype().is_quantized() {
            let new_scales = places.remove(scale_name(name).as_str()).unwrap_or_default();
            quantize_rows_into(DType::F32, &sum, cols(view), view.dtype(), values, new_scales)
        } else {
            convert_into(DType::F32, &sum, view.dtype(), values)
        };
        done.map_err(|error| error.about(name))?;
    }
    for (name, place) in places {
        if let Some(view) = base.get(name) {
            place.copy_from_slice(view.data());
        }
    }
    Ok(payload)
}

/// The matrix that a tensor of a delta adds to.
fn target(tensor: &str) -> Option<String> {
    let parts = [".lora_A.weight", ".lora_B.weight", ".delta", ".delta_scale"];
    let matrix = parts.iter().find_map(|part| tensor.strip_suffix(part))?;
    Some(format!("{matrix}.weight"))
}

fn fit<'a>(
    (base_map, base): (&'a TensorMap, &'a [u8]),
    (delta_map, delta): (&'a TensorMap, &'a [u8]),
) -> Result<Fitted<'a>, DeltaError> {
    let base: BTreeMap<&str, TensorView<'_>> = base_map.views(base).collect();
    let scales: BTreeSet<String> =
        base.values().filter(|view| view.dtype().is_quantized()).map(scale_of).collect();
    let is_matrix = |view: &TensorView<'_>| view.shape().dims().len() == 2 && !scales.contains(view.name());
    let mut terms: BTreeMap<String, Term<'_>> = BTreeMap::new();
    for (name, view) in delta_map.views(delta) {
        let tensor = || name.to_owned();
        let target = target(name).ok_or_else(|| DeltaError::Name { tensor: tensor() })?;
        if !base.get(target.as_str()).is_some_and(is_matrix) {
            let matrices = base.values().filter(|view| is_matrix(view));
            let present = matrices.map(|view| view.name().to_owned()).collect();
            return Err(DeltaError::NoTarget { tensor: tensor(), target, present });
        }
        let float = !view.dtype().is_quantized();
        let wrong = |expected| DeltaError::DType { tensor: tensor(), dtype: view.dtype(), expected };
        first_not_finite(view.dtype(), view.data()).map_err(|error| error.about(name))?;
        let term = terms.entry(target).or_default();
        if name.ends_with(".lora_A.weight") {
            term.a = Some(view).filter(|_| float);
            term.a.ok_or_else(|| wrong("F32, BF16 or F16"))?;
        } else if name.ends_with(".lora_B.weight") {
            term.b = Some(view).filter(|_| float);
            term.b.ok_or_else(|| wrong("F32, BF16 or F16"))?;
        } else if name.ends_with(".delta") {
            if view.dtype() != DType::I8 {
                return Err(wrong("I8"));
            }
            // That it has one, of the right shape, was checked when the header was parsed.
            term.difference = delta_map.get(delta, &scale_name(name)).map(|scale| (view, scale));
        } else if !delta_map.views(delta).any(|(other, _)| scale_name(other) == name) {
            return Err(DeltaError::Name { tensor: tensor() });
        }
    }
    if terms.is_empty() {
        return Err(DeltaError::Empty);
    }
    for (target, term) in &terms {
        if let Some(view) = base.get(target.as_str()) {
            term.check(view)?;
        }
    }
    Ok(Fitted { base, terms })
}

fn scale_of(view: &TensorView<'_>) -> String {
    scale_name(view.name())
}

fn cols(view: &TensorView<'_>) -> usize {
    view.shape().dims().last().copied().unwrap_or(1)
}

impl Term<'_> {
    /// Checks shapes against the matrix that it adds to.
    fn check(&self, base: &TensorView<'_>) -> Result<(), DeltaError> {
        let &[rows, cols] = base.shape().dims() else { return Ok(()) };
        let target = base.name();
        let wrong = |view: &TensorView<'_>, expected: String| DeltaError::Shape {
            tensor: view.name().to_owned(),
            found: view.shape().clone(),
            target: target.to_owned(),
            expected,
        };
        let stem = target.strip_suffix(".weight").unwrap_or(target);
        let (name_a, name_b) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
        match (&self.a, &self.b) {
            (Some(a), Some(b)) => {
                let &[rank_a, in_a] = a.shape().dims() else { return Err(wrong(a, format!("[r, {cols}]"))) };
                let &[out_b, rank_b] = b.shape().dims() else { return Err(wrong(b, format!("[{rows}, r]"))) };
                if in_a != cols || rank_a == 0 {
                    return Err(wrong(a, format!("[r, {cols}] with r of at least 1")));
                }
                if out_b != rows || rank_b == 0 {
                    return Err(wrong(b, format!("[{rows}, r] with r of at least 1")));
                }
                if rank_a != rank_b {
                    return Err(DeltaError::Rank { target: target.to_owned(), a: rank_a, b: rank_b });
                }
            }
            (Some(_), None) => return Err(DeltaError::Factor { tensor: name_a, missing: name_b }),
            (None, Some(_)) => return Err(DeltaError::Factor { tensor: name_b, missing: name_a }),
            (None, None) => {}
        }
        match &self.difference {
            Some((values, _)) if values.shape() != base.shape() => {
                Err(wrong(values, base.shape().to_string()))
            }
            _ => Ok(()),
        }
    }

    /// base + difference + B·A as f32 bytes, by docs/numerics.md.
    fn add_to(&self, base: &TensorView<'_>, scales: Option<&TensorView<'_>>) -> Result<Vec<u8>, DeltaError> {
        let &[rows, cols] = base.shape().dims() else { return Ok(Vec::new()) };
        // A float matrix has no scales, whatever else is called so.
        let base = weights(base, scales.filter(|_| base.dtype().is_quantized()))?;
        let difference =
            self.difference.as_ref().map(|(view, scale)| weights(view, Some(scale))).transpose()?;
        let factors = self.a.as_ref().zip(self.b.as_ref());
        let a = factors.map(|(a, _)| a.to_f32_vec()).unwrap_or_default();
        let b = factors.map(|(_, b)| b.to_f32_vec()).unwrap_or_default();
        let rank = b.len() / rows.max(1);
        let isa = Isa::for_rows();
        let mut sum = vec![0; 4 * rows * cols];
        if sum.is_empty() {
            return Ok(sum);
        }
        sum.par_chunks_mut(4 * cols).enumerate().try_for_each_init(
            || (vec![0.0f32; cols], vec![0.0f32; cols]),
            |(term, value), (row, out)| {
                let _env = FpEnv::enter();
                match &difference {
                    Some(difference) => isa.dequantize_row(difference, row, term)?,
                    None => term.fill(0.0),
                }
                let factors = b.get(row * rank..(row + 1) * rank).unwrap_or_default();
                for (&factor, a) in factors.iter().zip(a.chunks_exact(cols)) {
                    isa.scale_add(term, factor, a)?;
                }
                isa.dequantize_row(&base, row, value)?;
                isa.add(value, term)?;
                for (out, value) in out.as_chunks_mut().0.iter_mut().zip(value.iter()) {
                    *out = value.to_le_bytes();
                }
                Ok::<_, DeltaError>(())
            },
        )?;
        Ok(sum)
    }
}
