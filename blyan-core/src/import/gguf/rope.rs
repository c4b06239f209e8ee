//! Owns the rotary embedding of a GGUF file: its keys, and `rope_freqs.weight`, which holds what Llama 3's
//! interpolation divides each frequency by.

use super::config::Config;
use super::error::GgufError;
use crate::dtype::DType;
use crate::format::{RopeScaling, RopeSpec};
use crate::kernels::math::{ln_f64, pow_f64};

/// Name of the tensor of divisors.
pub(in crate::import) const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// How far a stored divisor may be from the one that follows from the parameters: the converter computes
/// in f32 with the platform's functions.
const TOLERANCE: f64 = 1e-5;

/// Reads the keys. Llama 3's interpolation is found by [`llama3`] afterwards.
pub(super) fn read(config: &Config<'_>, _head_dim: usize, context: usize) -> Result<RopeSpec, GgufError> {
    let metadata = config.metadata;
    let rope_theta = metadata.number(&config.key("rope.freq_base"))?.unwrap_or(10_000.0);
    for key in ["rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"] {
        metadata.refuse_unless(&config.key(key), &[1.0])?;
    }
    let kind_key = config.key("rope.scaling.type");
    let kind = metadata.text(&kind_key)?;
    let factor_key = config.key("rope.scaling.factor");
    // The older spelling, of linear scaling alone.
    let linear_key = config.key("rope.scale_linear");
    let factor = match metadata.number(&factor_key)? {
        Some(factor) => Some(factor),
        None => metadata.number(&linear_key)?,
    };
    metadata.skip(&linear_key);
    let factor = factor.filter(|&factor| factor != 0.0);
    let original_key = config.key("rope.scaling.original_context_length");
    let original = metadata.count(&original_key)?.filter(|&original| original > 0);
    let attention_key = config.key("rope.scaling.attn_factor");
    let attention_factor = metadata.number(&attention_key)?;
    let positive = |key: &str| metadata.number(&config.key(key));
    let beta_fast = positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let beta_slow = positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
    // llama.cpp takes a factor without a type for linear scaling.
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => RopeScaling::Default,
        (None | Some("linear"), Some(1.0)) => RopeScaling::Default,
        (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
        (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original.unwrap_or(context),
            attention_factor: attention_factor.unwrap_or(1.0) * yarn_mscale(factor),
            beta_slow,
            beta_fast,
            truncate: true,
        },
        (Some("yarn"), None) => return Err(metadata.missing(&factor_key)),
        (Some(_), _) => {
            return Err(match metadata.get(&kind_key) {
                Some(value) => metadata.unsupported(&kind_key, value, "expected none, linear or yarn"),
                None => metadata.missing(&kind_key),
            });
        }
    };
    if !matches!(scaling, RopeScaling::Yarn { .. }) {
        metadata.refuse_unless(&attention_key, &[1.0])?;
    }
    Ok(RopeSpec { rope_theta, frequency_dtype: DType::F32, scaling })
}

/// What YaRN multiplies cos and sin by for a context stretched by `factor`. The logarithm is the
/// kernels' own: the result is part of the spec.
fn yarn_mscale(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * ln_f64(factor) + 1.0 }
}

/// The scaling whose divisors these are. The file keeps only the divisors, and many parameters give the
/// same; of them those with `low_freq_factor` 1, as all published models have.
pub(super) fn llama3(divisors: &[f64], rope_theta: f64, context: usize) -> Result<RopeScaling, GgufError> {
    let refuse =
        |reason: &str| GgufError::Header { what: ROPE_FREQUENCIES.to_owned(), reason: reason.into() };
    if divisors.iter().all(|&divisor| divisor == 1.0) {
        return Ok(RopeScaling::Default);
    }
    let factor = divisors.iter().fold(0.0, |max: f64, &divisor| max.max(divisor));
    // Contexts of published models first; others as far as they are round.
    let powers = (4..=24).map(|power| 1usize << power);
    let candidates = [8192, context].into_iter().chain(powers);
    for original in candidates {
        for high in [4.0, 2.0, 8.0, 16.0] {
            if fits(divisors, rope_theta, factor, high, original as f64) {
                return Ok(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: 1.0,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                });
            }
        }
    }
    Err(refuse("its divisors are not those of Llama 3's interpolation"))
}

fn fits(divisors: &[f64], rope_theta: f64, factor: f64, high: f64, original: f64) -> bool {
    let head_dim = 2 * divisors.len();
    divisors.iter().enumerate().all(|(index, &divisor)| {
        let wavelength =
            2.0 * std::f64::consts::PI * pow_f64(rope_theta, (2 * index) as f64 / head_dim as f64);
        let expected = if wavelength < original / high {
            1.0
        } else if wavelength > original {
            factor
        } else {
            let smooth = (original / wavelength - 1.0) / (high - 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        (divisor - expected).abs() <= TOLERANCE * expected
    })
}
