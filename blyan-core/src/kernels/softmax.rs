//! Owns softmax.

use super::isa::{Isa, Kernel};
use super::scalar::{self, LANES};
use super::simd::{self, Simd};

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

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let inverse = s.splat(1.0 / exp_and_sum(s, self.x));
        for x in self.x.chunks_mut(LANES) {
            let y = s.mul(simd::load(s, x), inverse);
            simd::store(s, simd::canonical(s, y), x);
        }
    }
}

/// `x = e^(x - max)`; returns their sum, which is NaN if any element is.
#[inline(always)]
pub(super) fn exp_and_sum<S: Simd>(s: S, x: &mut [f32]) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for x in x.chunks(LANES) {
        largest = simd::max(s, simd::load_or(s, x, f32::NEG_INFINITY), largest);
    }
    // A maximum is the same in any order, but for the sign of zero, and e^(x - 0) = e^(x + 0).
    let mut max = f32::NEG_INFINITY;
    for lane in simd::lanes(s, largest) {
        max = if lane > max { lane } else { max };
    }
    let max = s.splat(max);
    let mut sum = s.splat(0.0);
    for x in x.chunks_mut(LANES) {
        // Lanes past the end are e^-∞ = 0, or NaN where all the others are.
        let e = simd::exp(s, s.sub(simd::load_or(s, x, f32::NEG_INFINITY), max));
        sum = s.add(sum, e);
        simd::store(s, e, x);
    }
    s.sum(sum)
}
