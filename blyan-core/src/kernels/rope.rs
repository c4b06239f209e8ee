//! Owns the rotary position embedding of one head (Su et al., 2021), in the rotate-half layout of
//! the transformers library.

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::scalar;

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
}
