//! Owns softmax.

use super::isa::{Isa, Kernel};
use super::scalar;

struct Softmax<'a> {
    x: &'a mut [f32],
}

impl Isa {
    /// `x = e^(x - max) / Σ e^(x - max)`; all NaN if an element is NaN or +∞, or all are -∞.
    pub fn softmax(self, x: &mut [f32]) {
        self.run(Softmax { x });
    }
}

impl Kernel for Softmax<'_> {
    fn scalar(self) {
        scalar::softmax(self.x);
    }
}
