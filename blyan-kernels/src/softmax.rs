//! Owns softmax, and the loss of a token, which is made of the same exponentials.

use super::error::KernelError;
use super::isa::{Isa, Kernel};
use super::math;
use super::scalar::{self, LANES};
use super::simd::{self, Simd};

struct Softmax<'a> {
    x: &'a mut [f32],
}

struct Loss<'a> {
    logits: &'a mut [f32],
    target: usize,
    loss: &'a mut f64,
}

impl Isa {
    /// `x = e^(x - max) / Σ e^(x - max)`; all NaN if an element is NaN or +∞, or all are -∞.
    pub fn softmax(self, x: &mut [f32]) {
        self.run(Softmax { x });
    }

    /// `ln Σ e^logits - logits[target]` in nats: what a model loses by the probability that it gave to
    /// `target`. NaN if a logit is NaN or +∞, or all are -∞; +∞ if that of the target alone is -∞. The
    /// logits are overwritten.
    ///
    /// # Errors
    ///
    /// [`KernelError::OutOfRange`] for a target without a logit.
    pub fn loss(self, logits: &mut [f32], target: usize) -> Result<f64, KernelError> {
        if target >= logits.len() {
            return Err(KernelError::OutOfRange { argument: "target", index: target, len: logits.len() });
        }
        let mut loss = 0.0;
        self.run(Loss { logits, target, loss: &mut loss });
        Ok(if loss.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { loss })
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

impl Kernel for Loss<'_> {
    fn scalar(self) {
        *self.loss = scalar::loss(self.logits, self.target);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let max = maximum(s, self.logits);
        let below_max = f64::from(max) - f64::from(self.logits[self.target]);
        let max = s.splat(max);
        let mut lanes = [0.0f64; LANES];
        for x in self.logits.chunks_mut(LANES) {
            let e = simd::exp(s, s.sub(simd::load_or(s, x, f32::NEG_INFINITY), max));
            simd::store(s, e, x);
            for (lane, e) in lanes.iter_mut().zip(x) {
                *lane += f64::from(*e);
            }
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        *self.loss = math::ln_f64(lanes[0]) + below_max;
    }
}

/// The largest element; NaN is passed over, none gives -∞. A maximum is the same in any order, but for
/// the sign of zero, and e^(x - 0) = e^(x + 0).
#[inline(always)]
fn maximum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for x in x.chunks(LANES) {
        largest = s.max(simd::load_or(s, x, f32::NEG_INFINITY), largest);
    }
    s.largest(largest)
}

/// `x = e^(x - max)`; returns their sum, which is NaN if any element is.
#[inline(always)]
pub(super) fn exp_and_sum<S: Simd>(s: S, x: &mut [f32]) -> f32 {
    let max = s.splat(maximum(s, x));
    let mut sum = s.splat(0.0);
    for x in x.chunks_mut(LANES) {
        // Lanes past the end are e^-∞ = 0, or NaN where all the others are.
        let e = simd::exp(s, s.sub(simd::load_or(s, x, f32::NEG_INFINITY), max));
        sum = s.add(sum, e);
        simd::store(s, e, x);
    }
    s.sum(sum)
}
