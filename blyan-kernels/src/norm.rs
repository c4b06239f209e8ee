//! Owns RMS norm.

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::operand::Vector;
use super::scalar::{self, LANES};
use super::simd::{self, Simd};

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

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let n = self.weight.len();
        let weight_bytes = simd::lanes_bytes(self.weight.dtype());
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let mean = simd::dot(s, x, x) / n as f32;
            let inverse = s.splat(1.0 / (mean + self.eps).sqrt());
            let weights = self.weight.data().chunks(weight_bytes);
            for ((x, w), out) in x.chunks(LANES).zip(weights).zip(out.chunks_mut(LANES)) {
                let w = simd::widen_dtype(s, self.weight.dtype(), w);
                let y = s.mul(s.mul(simd::load(s, x), inverse), w);
                simd::store(s, simd::canonical(s, y), out);
            }
        }
    }
}
