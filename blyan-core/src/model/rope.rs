//! Owns rotary position embedding: inverse frequencies of a [`RopeSpec`] and cos/sin per position.
//!
//! Frequencies are computed in f64 with the library's own logarithm and exponential, rounded once
//! to f32 (as published checkpoints were trained), multiplied by the position in f32, and only then
//! turned into cos and sin. Formulas: <https://arxiv.org/abs/2104.09864>, YaRN
//! <https://arxiv.org/abs/2309.00071>, Llama 3.1's in its model card; docs/numerics.md has the order.

use half::bf16;

use crate::dtype::DType;
use crate::format::{RopeScaling, RopeSpec};
use crate::kernels::{FpEnv, math};

/// Inverse frequencies of a model; public for whoever computes the same rotation elsewhere, such as a
/// trainer.
#[derive(Debug, Clone)]
pub struct Rope {
    /// (head_dim / 2,) radians per position.
    inverse_frequencies: Vec<f32>,
    /// Multiplier of cos and sin.
    attention_factor: f32,
}

impl Rope {
    /// The frequencies that a spec describes; `head_dim` is even.
    pub fn new(spec: &RopeSpec, head_dim: usize) -> Self {
        let _env = FpEnv::enter();
        let base: Vec<f64> = (0..head_dim / 2)
            .map(|i| 1.0 / math::pow_f64(spec.rope_theta, (2 * i) as f64 / head_dim as f64))
            .collect();
        let (frequencies, attention_factor) = match spec.scaling {
            RopeScaling::Default => (base, 1.0),
            RopeScaling::Linear { factor } => (base.iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = original_max_position_embeddings as f64;
                let stretch =
                    |f: f64| llama3_frequency(f, factor, low_freq_factor, high_freq_factor, original);
                (base.into_iter().map(stretch).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor,
                beta_slow,
                beta_fast,
                truncate,
            } => {
                let ramp = YarnRamp::new(
                    spec.rope_theta,
                    head_dim,
                    original_max_position_embeddings as f64,
                    (beta_slow, beta_fast),
                    truncate,
                );
                let stretch = |(i, f): (usize, f64)| {
                    let interpolated = ramp.at(i);
                    f / factor * interpolated + f * (1.0 - interpolated)
                };
                (base.into_iter().enumerate().map(stretch).collect(), attention_factor)
            }
        };
        let round = |f: f64| match spec.frequency_dtype {
            DType::BF16 => bf16::from_f32(f as f32).to_f32(),
            _ => f as f32,
        };
        Self {
            inverse_frequencies: frequencies.into_iter().map(round).collect(),
            attention_factor: attention_factor as f32,
        }
    }

    /// Appends cos and sin of each of the head's `head_dim / 2` angles at `position`.
    pub fn push_position(&self, position: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        let _env = FpEnv::enter();
        for &frequency in &self.inverse_frequencies {
            let angle = f64::from(position as f32 * frequency);
            let (sin_angle, cos_angle) = math::sin_cos_f64(angle);
            cos.push(cos_angle as f32 * self.attention_factor);
            sin.push(sin_angle as f32 * self.attention_factor);
        }
    }
}

fn llama3_frequency(f: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / f;
    if wavelength < original / high {
        f
    } else if wavelength > original / low {
        f / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// Share of interpolation per dimension: 0 below `low`, 1 above `high`.
struct YarnRamp {
    low: f64,
    high: f64,
}

impl YarnRamp {
    fn new(theta: f64, head_dim: usize, original: f64, (slow, fast): (f64, f64), truncate: bool) -> Self {
        let dim = head_dim as f64;
        let dimension_of = |rotations: f64| {
            dim * math::ln_f64(original / (rotations * 2.0 * std::f64::consts::PI))
                / (2.0 * math::ln_f64(theta))
        };
        let (mut low, mut high) = (dimension_of(fast), dimension_of(slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001; // as transformers does, so that the ramp has a slope
        }
        Self { low, high }
    }

    fn at(&self, dimension: usize) -> f64 {
        ((dimension as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}
