//! Owns [`TensorError`].

use crate::chain::ChainError;
use crate::dtype::{DType, Shape};
use crate::format::BlockKind;
use crate::hash::BlockHash;

/// A payload that is no set of tensors, or a tensor that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The chain could not give the block.
    #[error(transparent)]
    Chain(Box<ChainError>),
    /// A block of a kind that holds no tensors.
    #[error("block {block} is a {kind}: it holds no tensors")]
    NotWeights {
        /// The block asked for.
        block: BlockHash,
        /// Its kind.
        kind: BlockKind,
    },
    /// A block whose payload is whole but no set of tensors.
    #[error("block {block}: {source}")]
    InBlock {
        /// The block.
        block: BlockHash,
        /// What is wrong with its payload.
        source: Box<TensorError>,
    },
    /// The payload ends before its header does.
    #[error(
        "safetensors header: {needed} bytes announced, {len_bytes} present; the file is cut off or no safetensors"
    )]
    HeaderTruncated {
        /// Bytes that prefix and header take.
        needed: u64,
        /// Bytes there are.
        len_bytes: u64,
    },
    /// The header is longer than any reader accepts.
    #[error("safetensors header of {len_bytes} bytes: at most {max} are read")]
    HeaderTooLarge {
        /// Length that the prefix announces.
        len_bytes: u64,
        /// Largest length accepted.
        max: u64,
    },
    /// The header is not the JSON it should be.
    #[error("safetensors header is not valid: {reason}")]
    Header {
        /// What the parser said.
        reason: String,
    },
    /// Two tensors of one name: readers would disagree on which one counts.
    #[error("safetensors header has {tensor:?} twice")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// Offsets that overlap, leave a gap, lie outside, or contradict shape and dtype.
    #[error("tensor {tensor:?}: offsets {start}..{end} {reason}")]
    Offsets {
        /// Name of the tensor.
        tensor: String,
        /// First byte in the data section.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// More dimensions than any tensor here has.
    #[error("tensor {tensor:?} has {rank} dimensions: at most {max} are read")]
    Rank {
        /// Name of the tensor.
        tensor: String,
        /// Number of dimensions.
        rank: usize,
        /// Largest number accepted.
        max: usize,
    },
    /// An element type that is not supported here.
    #[error(
        "tensor {tensor:?} has dtype {dtype}: expected one of F32, BF16, F16, F8_E4M3, I8, or I4 packed into I32"
    )]
    DType {
        /// Name of the tensor.
        tensor: String,
        /// The name of the type in the header.
        dtype: String,
    },
    /// Not in this block.
    #[error("no tensor {tensor:?} in this block: it has {present:?}")]
    Missing {
        /// Name of the tensor.
        tensor: String,
        /// Names that are there.
        present: Vec<String>,
    },
    /// A shape other than the one that is needed.
    #[error("tensor {tensor:?} has shape {actual}: expected {expected}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        actual: Shape,
        /// The shape needed.
        expected: Shape,
    },
    /// A quantized tensor without its scales, or with scales of another shape or type.
    #[error("tensor {tensor:?} is {dtype}: it needs {tensor}_scale, {}", match dtype {
        DType::I4 => format!("BF16, of shape ({rows}, columns / 32)"),
        _ => format!("F32, of shape ({rows}, 1)"),
    })]
    Scale {
        /// Name of the quantized tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its rows.
        rows: usize,
    },
    /// A scale that is not a positive finite number; of a group, one that is zero or not finite.
    #[error(
        "tensor {tensor:?}: the scale of row {row} is {value}: expected a finite number above zero, or below it for a group"
    )]
    ScaleValue {
        /// Name of the scale tensor.
        tensor: String,
        /// Row.
        row: usize,
        /// Value found.
        value: f32,
    },
    /// An I4 matrix that is not spelled as one.
    #[error("tensor {tensor:?}: {reason}")]
    Packed {
        /// Name of the matrix.
        tensor: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A weight that is NaN or infinite, or an I8 of −128.
    #[error("tensor {tensor:?}: element {index} is {value}; such weights are refused, repair the checkpoint")]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
        /// Index of the first such element, row-major.
        index: usize,
        /// Value found.
        value: f32,
    },
    /// A finite weight beyond the range of the type it should be rounded to.
    #[error(
        "tensor {tensor:?}: element {index} is {value}, beyond the range of {dtype}; choose another dtype"
    )]
    Overflow {
        /// Name of the tensor.
        tensor: String,
        /// Index of the first such element, row-major.
        index: usize,
        /// Value found.
        value: f32,
        /// Type to round to.
        dtype: DType,
    },
    /// A conversion that does not exist, such as from I8.
    #[error("tensor {tensor:?}: cannot convert {from} to {to}")]
    Conversion {
        /// Name of the tensor.
        tensor: String,
        /// Type of the source.
        from: DType,
        /// Type asked for.
        to: DType,
    },
    /// Bytes whose number contradicts shape and type.
    #[error("tensor {tensor:?}: {actual} bytes given, {expected} needed")]
    Size {
        /// Name of the tensor.
        tensor: String,
        /// Bytes that shape and type need.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
}

impl From<ChainError> for TensorError {
    fn from(error: ChainError) -> Self {
        Self::Chain(Box::new(error))
    }
}

impl TensorError {
    /// The same error about a tensor of another name; conversions do not know names.
    pub(crate) fn about(mut self, name: &str) -> Self {
        match &mut self {
            Self::NotFinite { tensor, .. }
            | Self::Overflow { tensor, .. }
            | Self::Conversion { tensor, .. }
            | Self::Packed { tensor, .. }
            | Self::Size { tensor, .. } => name.clone_into(tensor),
            _ => {}
        }
        self
    }
}
