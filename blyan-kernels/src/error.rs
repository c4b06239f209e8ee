//! Owns [`KernelError`]: what a caller can hand a kernel that it must refuse.

use crate::dtype::{DType, ShapeOverflow};

/// Arguments that do not fit each other, or an instruction set that cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A name outside `scalar`, `neon`, `avx2`, `avx512`, `amx`.
    #[error(
        "no instruction set is called {name:?}: use scalar, neon, avx2, avx512 or amx, or leave the choice to the library"
    )]
    UnknownIsa {
        /// The name as given, cut to 80 characters.
        name: String,
    },
    /// A known instruction set that this CPU, or this build, does not have.
    #[error("cannot run {isa} here, {missing} is missing: use scalar, or leave the choice to the library")]
    IsaUnavailable {
        /// The instruction set that was asked for.
        isa: &'static str,
        /// The first missing CPU feature, part of the build or right.
        missing: &'static str,
    },
    /// A slice of another length than the other arguments imply.
    #[error("{argument} has length {actual}, the other arguments need {expected}")]
    Length {
        /// Name of the argument.
        argument: &'static str,
        /// Length that fits, in elements of the slice.
        expected: usize,
        /// Length as given.
        actual: usize,
    },
    /// A slice that is no whole number of rows.
    #[error("{argument} has length {len}, which is no whole number of rows of {cols}")]
    Ragged {
        /// Name of the argument.
        argument: &'static str,
        /// Length as given.
        len: usize,
        /// Length of a row.
        cols: usize,
    },
    /// A range or split point past the end.
    #[error("{argument} asks for {index} of {len}")]
    OutOfRange {
        /// Name of the argument.
        argument: &'static str,
        /// Largest index asked for.
        index: usize,
        /// What there is.
        len: usize,
    },
    /// An element type that this operand cannot have.
    #[error("{argument} cannot be {dtype}")]
    UnsupportedDType {
        /// Name of the argument.
        argument: &'static str,
        /// The element type as given.
        dtype: DType,
    },
    /// Quantized weights without scales, or other weights with them.
    #[error("{dtype} weights {}", match dtype {
        DType::I8 | DType::F8E4M3 => "need one F32 scale per row",
        DType::I4 => "need one BF16 scale per 32 elements of a row",
        _ => "take no scales",
    })]
    Scale {
        /// The element type as given.
        dtype: DType,
    },
    /// A weight to be quantized that is NaN or infinite.
    #[error("{argument} has an element that is not finite")]
    NotFinite {
        /// Name of the argument.
        argument: &'static str,
    },
    /// `I4` weights, or activations for them, whose rows are no whole groups.
    #[error("I4 weights and what they meet cannot have {cols} columns: expected a multiple of 32")]
    Group {
        /// Elements per row.
        cols: usize,
    },
    /// `I8` and `I4` weights meet only inputs that were quantized, for `I4` by group.
    #[error(
        "I8 and I4 weights need a quantized input: Isa::quantize and Input::with_quantized, for I4 Isa::quantize_by_group and Input::with_groups"
    )]
    NotQuantized,
    /// A shape that does not fit this machine's address space.
    #[error(transparent)]
    Shape(#[from] ShapeOverflow),
}

/// Refuses a slice whose length is not `expected`.
pub(super) fn check_len(argument: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if expected == actual { Ok(()) } else { Err(KernelError::Length { argument, expected, actual }) }
}

/// No row in memory has more, and what is rounded up for it still fits.
const MOST_COLS: usize = isize::MAX as usize / 64;

/// How many rows of `cols` a slice holds.
pub(super) fn whole_rows(argument: &'static str, len: usize, cols: usize) -> Result<usize, KernelError> {
    if cols == 0 || cols > MOST_COLS || !len.is_multiple_of(cols) {
        return Err(KernelError::Ragged { argument, len, cols });
    }
    Ok(len / cols)
}
