//! Owns what kernels read: weight matrices and vectors as bytes of a mapped payload, and inputs.
//!
//! Constructors check every length, so a kernel that holds an operand never reads past it.

use super::error::{KernelError, check_len, whole_rows};
use crate::dtype::{DType, Shape};

const SCALE_BYTES: usize = DType::F32.size_bytes();

/// A row-major weight matrix `(rows, cols)`, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    dtype: DType,
    rows: usize,
    cols: usize,
    data: &'a [u8],
    scale: Option<&'a [u8]>,
}

impl<'a> Weights<'a> {
    /// Wraps `rows × cols` elements. `I8` and `F8_E4M3` need `scale`: `rows` little-endian F32.
    ///
    /// # Errors
    ///
    /// A length that does not fit the shape; scales missing, or given to a dtype without them.
    pub fn new(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: &'a [u8],
        scale: Option<&'a [u8]>,
    ) -> Result<Self, KernelError> {
        check_len("weight data", Shape::new([rows, cols]).size_bytes(dtype)?, data.len())?;
        if scale.is_some() != dtype.is_quantized() {
            return Err(KernelError::Scale { dtype });
        }
        if let Some(scale) = scale {
            check_len("weight scale", Shape::new([rows]).size_bytes(DType::F32)?, scale.len())?;
        }
        Ok(Self { dtype, rows, cols, data, scale })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: outputs of the projection.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of the projection.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        self.cols * self.dtype.size_bytes()
    }

    /// The bytes of one row.
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        let row_bytes = self.row_bytes();
        &self.data[row * row_bytes..(row + 1) * row_bytes]
    }

    /// The scale of one row, where this dtype has scales.
    pub(super) fn row_scale(&self, row: usize) -> Option<f32> {
        let bytes = self.scale?.as_chunks::<SCALE_BYTES>().0[row];
        Some(f32::from_le_bytes(bytes))
    }
}

/// A weight vector, such as a norm's or a bias: F32, BF16 or F16, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a> {
    dtype: DType,
    data: &'a [u8],
}

impl<'a> Vector<'a> {
    /// Wraps `len` elements.
    ///
    /// # Errors
    ///
    /// A length that does not fit, or a quantized dtype.
    pub fn new(dtype: DType, len: usize, data: &'a [u8]) -> Result<Self, KernelError> {
        if dtype.is_quantized() {
            return Err(KernelError::UnsupportedDType { argument: "vector", dtype });
        }
        check_len("vector data", Shape::new([len]).size_bytes(dtype)?, data.len())?;
        Ok(Self { dtype, data })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size_bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub(super) fn data(&self) -> &'a [u8] {
        self.data
    }
}

/// Activations rounded to 16 bits with one scale per token: what `I8` weights meet.
///
/// Made by [`Isa::quantize`](super::Isa::quantize); `x ≈ value × scale`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quantized {
    pub(super) cols: usize,
    pub(super) values: Vec<i16>,
    pub(super) scales: Vec<f32>,
}

impl Quantized {
    /// The rounded values, `(tokens, cols)`, each within ±32767.
    pub fn values(&self) -> &[i16] {
        &self.values
    }

    /// One scale per token; the canonical NaN where the token held a NaN or an infinity.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }
}

/// The activations that a projection reads: `(tokens, cols)`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    x: &'a [f32],
    cols: usize,
    quantized: Option<&'a Quantized>,
}

impl<'a> Input<'a> {
    /// Wraps activations; the number of tokens follows from the length.
    ///
    /// # Errors
    ///
    /// `cols` of zero, or a length that is no whole number of rows.
    pub fn new(x: &'a [f32], cols: usize) -> Result<Self, KernelError> {
        whole_rows("input", x.len(), cols)?;
        Ok(Self { x, cols, quantized: None })
    }

    /// Adds the quantized form of the same activations, which `I8` weights need.
    ///
    /// # Errors
    ///
    /// Another shape than that of the activations.
    pub fn with_quantized(self, quantized: &'a Quantized) -> Result<Self, KernelError> {
        check_len("quantized columns", self.cols, quantized.cols)?;
        check_len("quantized input", self.x.len(), quantized.values.len())?;
        Ok(Self { quantized: Some(quantized), ..self })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.x.len() / self.cols
    }

    /// Values per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn is_quantized(&self) -> bool {
        self.quantized.is_some()
    }

    /// The activations of one token.
    pub(super) fn token(&self, token: usize) -> &'a [f32] {
        &self.x[token * self.cols..(token + 1) * self.cols]
    }

    /// The rounded activations of one token and their scale.
    pub(super) fn quantized_token(&self, token: usize) -> (&'a [i16], f32) {
        // `matmul` refuses I8 weights without a quantized input, so the fallback is never taken.
        self.quantized.map_or((&[], f32::NAN), |q| {
            (&q.values[token * self.cols..(token + 1) * self.cols], q.scales[token])
        })
    }
}
