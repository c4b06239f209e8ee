//! Owns the matrix product of weights and activations.

use std::ops::Range;

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::operand::{Input, Weights};
use super::scalar;
use crate::dtype::DType;

struct Matmul<'a, 'o> {
    weights: &'a Weights<'a>,
    rows: Range<usize>,
    input: &'a Input<'a>,
    out: MatMut<'o>,
}

impl Isa {
    /// `out[t][r] = Σ_k w[rows.start + r][k] × input[t][k]`, for some rows of the weights.
    ///
    /// weights: `(n, d)`, input: `(tokens, d)`, out: `(tokens, rows.len())`. `I8` weights read the
    /// quantized form of the input. A result does not depend on the other tokens or rows.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit; `I8` weights without a quantized input.
    pub fn matmul(
        self,
        weights: &Weights<'_>,
        rows: Range<usize>,
        input: &Input<'_>,
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check_len("input columns", weights.cols(), input.cols())?;
        if rows.start > rows.end || rows.end > weights.rows() {
            let index = rows.end.max(rows.start);
            return Err(KernelError::OutOfRange { argument: "rows", index, len: weights.rows() });
        }
        check_len("output rows", input.tokens(), out.rows())?;
        check_len("output columns", rows.len(), out.cols())?;
        if weights.dtype() == DType::I8 && !input.is_quantized() {
            return Err(KernelError::NotQuantized);
        }
        self.run(Matmul { weights, rows, input, out });
        Ok(())
    }
}

impl Kernel for Matmul<'_, '_> {
    fn scalar(mut self) {
        scalar::matmul(self.weights, self.rows, self.input, &mut self.out);
    }
}
