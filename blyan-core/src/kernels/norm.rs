//! Owns RMS norm.

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::operand::Vector;
use super::scalar;

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a Vector<'a>,
    eps: f32,
    out: &'a mut [f32],
}

impl Isa {
    /// `out = x / √(mean(x²) + eps) × weight`, row by row (Zhang and Sennrich, 2019).
    ///
    /// x, out: `(rows, n)`, weight: `(n,)`.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit.
    pub fn rms_norm(
        self,
        x: &[f32],
        weight: &Vector<'_>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        whole_rows("x", x.len(), weight.len())?;
        check_len("out", x.len(), out.len())?;
        self.run(RmsNorm { x, weight, eps, out });
        Ok(())
    }
}

impl Kernel for RmsNorm<'_> {
    fn scalar(self) {
        scalar::rms_norm(self.x, self.weight, self.eps, self.out);
    }
}
