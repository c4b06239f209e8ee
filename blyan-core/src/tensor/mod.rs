//! Named, typed, shaped views into the payloads of weight blocks; the canonical writer of such
//! payloads; rounding and quantization. Knows shapes, never experts.

mod block;
mod convert;
mod error;
pub(crate) mod header;
mod quantize;
mod view;
mod write;

pub use block::TensorBlock;
pub(crate) use block::TensorMap;
pub use convert::{convert_into, first_not_finite};
pub use error::TensorError;
pub use quantize::{Quantized, quantize, quantize_rows_into};
pub use view::TensorView;
pub use write::{ALIGNMENT, PayloadLayout, write};

/// Name of the tensor that holds the row scales of the quantized tensor `name`.
pub fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}
