//! Owns how an I4 matrix `x` is spelled in a payload, under the names of `compressed-tensors`'
//! `pack-quantized`: `x_packed`, I32, eight elements in a word, and `x_shape`, I64, its rows and columns.
//!
//! Little-endian words of eight nibbles, the first in the lowest bits, are bytes of two nibbles in the
//! order of the elements: nothing is moved to read them. Everywhere else there is only `x`, of dtype I4.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::error::TensorError;
use super::header::TensorEntry;
use crate::dtype::{DType, GROUP, Shape};

/// Elements in a word.
const PER_WORD: usize = 8;

/// Bytes of `x_shape`.
pub(crate) const SHAPE_BYTES: usize = 16;

fn packed_name(name: &str) -> String {
    format!("{name}_packed")
}

fn shape_name(name: &str) -> String {
    format!("{name}_shape")
}

/// The tensors as which one of that type is stored.
pub(crate) fn stored_names(name: &str, dtype: DType) -> Vec<String> {
    match dtype {
        DType::I4 => vec![packed_name(name), shape_name(name)],
        _ => vec![name.to_owned()],
    }
}

/// What one tensor of a payload holds.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// The data of a tensor of this name.
    Tensor(String),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// One tensor of a payload.
pub(super) struct Stored {
    pub(super) name: String,
    /// Name of its type in a header.
    pub(super) dtype: &'static str,
    pub(super) shape: Shape,
    pub(super) len_bytes: usize,
    pub(super) content: Content,
}

fn refused(name: &str, reason: &'static str) -> TensorError {
    TensorError::Packed { tensor: name.to_owned(), reason }
}

/// How a tensor is stored.
pub(super) fn stored(name: &str, dtype: DType, shape: &Shape) -> Result<Vec<Stored>, TensorError> {
    let overflow = |_| TensorError::Size { tensor: name.to_owned(), expected: usize::MAX, actual: 0 };
    let len_bytes = shape.size_bytes(dtype).map_err(overflow)?;
    let content = Content::Tensor(name.to_owned());
    if dtype != DType::I4 {
        let (name, shape) = (name.to_owned(), shape.clone());
        return Ok(vec![Stored { name, dtype: dtype.name(), shape, len_bytes, content }]);
    }
    let &[rows, cols] = shape.dims() else { return Err(refused(name, "only a matrix can be I4")) };
    if !cols.is_multiple_of(GROUP) {
        return Err(refused(name, "its columns are no multiple of 32, as those of I4 must be"));
    }
    let dims = [rows, cols].map(|dim| (dim as u64).to_le_bytes()).concat();
    Ok(vec![
        Stored {
            name: packed_name(name),
            dtype: "I32",
            shape: Shape::new([rows, cols / PER_WORD]),
            len_bytes,
            content,
        },
        Stored {
            name: shape_name(name),
            dtype: "I64",
            shape: Shape::new([2]),
            len_bytes: dims.len(),
            content: Content::Bytes(dims),
        },
    ])
}

/// Replaces each `x_packed` and `x_shape` by `x`: its name, shape and the entry of its data.
#[expect(clippy::type_complexity, reason = "one caller, which takes it apart")]
pub(super) fn take_matrices(
    entries: Vec<TensorEntry>,
    payload: &[u8],
) -> Result<(Vec<(String, Shape, TensorEntry)>, Vec<TensorEntry>), TensorError> {
    let mut others: BTreeMap<String, TensorEntry> =
        entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
    let packed: Vec<(String, TensorEntry)> = others
        .values()
        .filter(|entry| entry.dtype == Dtype::I32)
        .filter_map(|entry| Some((entry.name.strip_suffix("_packed")?.to_owned(), entry.clone())))
        .collect();
    let mut matrices = Vec::with_capacity(packed.len());
    for (name, entry) in packed {
        if others.contains_key(&name) {
            return Err(refused(&name, "it stands beside its packed form"));
        }
        let no_shape = "its packed form needs a shape tensor, I64, of two elements";
        let shape = others.remove(&shape_name(&name)).ok_or_else(|| refused(&name, no_shape))?;
        if shape.dtype != Dtype::I64 || shape.shape.dims() != [2] {
            return Err(refused(&name, no_shape));
        }
        let [start, end] = [shape.bytes.start, shape.bytes.end].map(|at| usize::try_from(at).ok());
        let bytes = start.zip(end).and_then(|(start, end)| payload.get(start..end)).unwrap_or_default();
        let dims: Vec<usize> = bytes
            .as_chunks()
            .0
            .iter()
            .filter_map(|dim| usize::try_from(i64::from_le_bytes(*dim)).ok())
            .collect();
        let fits = match (&dims[..], entry.shape.dims()) {
            (&[rows, cols], &[packed_rows, words]) => {
                cols.is_multiple_of(GROUP) && rows == packed_rows && words.checked_mul(PER_WORD) == Some(cols)
            }
            _ => false,
        };
        if !fits {
            let reason = "its shape tensor and its packed form, of eight columns a word, disagree, or its \
                          columns are no multiple of 32";
            return Err(refused(&name, reason));
        }
        others.remove(&entry.name);
        matrices.push((name, Shape::new(dims), entry));
    }
    Ok((matrices, others.into_values().collect()))
}
