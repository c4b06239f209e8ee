//! Owns the rotary position embedding of one head (Su et al., 2021), in the rotate-half layout of
//! the transformers library.

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::scalar::{self, LANES};
use super::simd::{self, Simd};

struct Rope<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Isa {
    /// Turns element i with element i + h by the angle whose cosine and sine are given.
    ///
    /// x: `(2h,)`, cos, sin: `(h,)`. `x[i] = x[i] cos[i] - x[i + h] sin[i]` and
    /// `x[i + h] = x[i + h] cos[i] + x[i] sin[i]`.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit.
    pub fn rope(self, x: &mut [f32], cos: &[f32], sin: &[f32]) -> Result<(), KernelError> {
        check_len("sin", cos.len(), sin.len())?;
        check_len("x", cos.len().saturating_mul(2), x.len())?;
        self.run(Rope { x, cos, sin });
        Ok(())
    }
}

impl Kernel for Rope<'_> {
    fn scalar(self) {
        scalar::rope(self.x, self.cos, self.sin);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let (first, second) = self.x.split_at_mut(self.cos.len());
        let angles = self.cos.chunks(LANES).zip(self.sin.chunks(LANES));
        let pairs = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
        for ((first, second), (cos, sin)) in pairs.zip(angles) {
            let (a, b) = (simd::load(s, first), simd::load(s, second));
            let (cos, sin) = (simd::load(s, cos), simd::load(s, sin));
            let turned_a = s.fma(a, cos, s.neg(s.mul(b, sin)));
            let turned_b = s.fma(b, cos, s.mul(a, sin));
            simd::store(s, simd::canonical(s, turned_a), first);
            simd::store(s, simd::canonical(s, turned_b), second);
        }
    }
}
