//! Owns conversions between element types: activations to 16 bits for `I8` weights, cache rows to
//! F16, weight rows to f32.

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::operand::{Quantized, Weights};
use super::scalar;
use crate::dtype::{DType, Shape};

impl Isa {
    /// Rounds activations to 16 bits with one scale per token, for `I8` weights.
    ///
    /// x: `(tokens, cols)`.
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows.
    pub fn quantize(self, x: &[f32], cols: usize) -> Result<Quantized, KernelError> {
        let mut out = Quantized::default();
        self.quantize_into(x, cols, &mut out)?;
        Ok(out)
    }

    /// As [`Isa::quantize`], reusing the buffers of an earlier result.
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows.
    pub fn quantize_into(self, x: &[f32], cols: usize, out: &mut Quantized) -> Result<(), KernelError> {
        let tokens = whole_rows("x", x.len(), cols)?;
        out.cols = cols;
        out.values.resize(x.len(), 0);
        out.scales.resize(tokens, 0.0);
        self.run(Quantize { x, out });
        Ok(())
    }

    /// Rounds to the dtype of a KV cache, F16 or F32, little-endian.
    ///
    /// # Errors
    ///
    /// Another dtype, or an output of another length.
    pub fn round_to(self, dtype: DType, x: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
        if !matches!(dtype, DType::F16 | DType::F32) {
            return Err(KernelError::UnsupportedDType { argument: "cache", dtype });
        }
        check_len("rounded bytes", Shape::new([x.len()]).size_bytes(dtype)?, out.len())?;
        self.run(RoundTo { dtype, x, out });
        Ok(())
    }

    /// One row of a matrix as f32, times its scale where it has one: an embedding look-up.
    ///
    /// # Errors
    ///
    /// A row past the end, or an output of another length.
    pub fn dequantize_row(
        self,
        weights: &Weights<'_>,
        row: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        if row >= weights.rows() {
            return Err(KernelError::OutOfRange { argument: "row", index: row, len: weights.rows() });
        }
        check_len("out", weights.cols(), out.len())?;
        self.run(DequantizeRow { weights, row, out });
        Ok(())
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    out: &'a mut Quantized,
}

impl Kernel for Quantize<'_> {
    fn scalar(self) {
        let cols = self.out.cols;
        let tokens = self.x.chunks_exact(cols).zip(self.out.values.chunks_exact_mut(cols));
        for ((x, values), scale) in tokens.zip(&mut self.out.scales) {
            *scale = scalar::quantize(x, values);
        }
    }
}

struct RoundTo<'a> {
    dtype: DType,
    x: &'a [f32],
    out: &'a mut [u8],
}

impl Kernel for RoundTo<'_> {
    fn scalar(self) {
        scalar::round_to(self.dtype, self.x, self.out);
    }
}

struct DequantizeRow<'a> {
    weights: &'a Weights<'a>,
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for DequantizeRow<'_> {
    fn scalar(self) {
        scalar::dequantize_row(self.weights, self.row, self.out);
    }
}
