//! Owns asking for the memory of weights: what the system has not got is an error, not the process's end.

use std::collections::BTreeSet;
use std::hint::black_box;

use blyan_core::{ModelSpec, Slot};

use crate::error::LearnError;
use crate::parameters::{Form, is_matrix};

fn no_memory(len: usize) -> LearnError {
    LearnError::Memory { len_bytes: len.saturating_mul(size_of::<f32>()) }
}

/// Room for that many numbers.
pub(crate) fn room(len: usize) -> Result<Vec<f32>, LearnError> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| no_memory(len))?;
    Ok(values)
}

/// A number that many times.
pub(crate) fn filled(value: f32, len: usize) -> Result<Vec<f32>, LearnError> {
    let mut values = room(len)?;
    values.resize(len, value);
    Ok(values)
}

/// Adds `more` at the end of `all`.
pub(crate) fn append(all: &mut Vec<f32>, more: &[f32]) -> Result<(), LearnError> {
    all.try_reserve(more.len()).map_err(|_| no_memory(all.len().saturating_add(more.len())))?;
    all.extend_from_slice(more);
    Ok(())
}

/// Asks once for all that a run holds from its start to its end: a system that gives memory only when it is
/// written to would give each tensor its own, and end the process later.
pub(crate) fn check(spec: &ModelSpec, trained: &BTreeSet<Slot>, form: Form) -> Result<(), LearnError> {
    let mut len = 0usize;
    for slot in spec.required_slots() {
        for tensor in spec.tensors_of(slot) {
            let dims = tensor.shape.dims();
            let numbers = dims.iter().fold(1usize, |product, dim| product.saturating_mul(*dim));
            // Beside the weights: two moments of what learns, which low-rank factors are no part of.
            let beside = match form {
                _ if !trained.contains(&slot) => 0,
                Form::Full => numbers.saturating_mul(2),
                _ if !is_matrix(&tensor) => 0,
                Form::Int8 => numbers.saturating_mul(2),
                Form::LowRank { rank } => {
                    let factors = |sum: usize, dim: &usize| sum.saturating_add(rank.saturating_mul(*dim));
                    dims.iter().fold(0, factors).saturating_mul(3)
                }
            };
            len = len.saturating_add(numbers).saturating_add(beside);
        }
    }
    // An allocation that nothing looks at may be left out by the compiler.
    drop(black_box(room(len)?));
    Ok(())
}
