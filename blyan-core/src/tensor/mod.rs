//! Named, typed, shaped views into the payloads of weight blocks; the canonical writer of such
//! payloads; rounding, quantization and deltas. Knows shapes, never experts.

mod block;
mod convert;
mod delta;
mod error;
#[cfg(test)]
mod groups_tests;
pub(crate) mod header;
pub(crate) mod packed;
mod quantize;
mod view;
mod write;

pub use block::TensorBlock;
pub(crate) use block::TensorMap;
pub use convert::{convert_into, first_not_finite};
pub use delta::{DeltaError, check_delta, merge_delta};
pub use error::TensorError;
pub use quantize::{Quantized, quantize, quantize_rows_into};
pub use view::TensorView;
pub use write::{ALIGNMENT, PayloadLayout, write};

use crate::dtype::{DType, GROUP, Shape};

/// Name of the tensor that holds the scales of the quantized tensor `name`.
pub fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// Type and shape of the scales of a quantized matrix: (rows, 1) of F32, for I4 one BF16 for each 32
/// columns of a row. `None` for a float type, and for what is no matrix.
pub fn scale_layout(dtype: DType, shape: &Shape) -> Option<(DType, Shape)> {
    let &[rows, cols] = shape.dims() else { return None };
    match dtype {
        DType::I8 | DType::F8E4M3 => Some((DType::F32, Shape::new([rows, 1]))),
        DType::I4 => Some((DType::BF16, Shape::new([rows, cols / GROUP]))),
        _ => None,
    }
}
