//! Owns the elementary functions: f32 `exp` and `sigmoid` for activations, f64 functions for the
//! tables of the rotary embedding.
//!
//! Only IEEE 754 basic operations and fused multiply-add, in a written order, so that every
//! platform computes the same bits; the platform's own functions differ between libraries. The f64
//! polynomials are Taylor series, cut where the next term is far below half a unit in the last
//! place: they need no tuning, and rope tables are computed once.

use super::scalar::canonical_nan;

/// Constants of the f32 `exp`, shared with the vector form of the same steps.
pub(super) mod exp_f32 {
    /// Below, `exp` is less than half the smallest subnormal; above, it overflows.
    pub(in super::super) const RANGE: (f32, f32) = (-104.0, 89.0);
    /// 1 / ln 2.
    pub(in super::super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2 in two parts; the first has 15 significant bits, so a multiple of up to 2^8 of it is exact.
    pub(in super::super) const LN_2_HIGH: f32 = 0.693_145_75;
    pub(in super::super) const LN_2_LOW: f32 = 1.428_606_8e-6;
    /// `(e^r - 1 - r) / r²` for |r| ≤ ln 2 / 2, the highest power first: the minimax polynomial of the
    /// relative error of e^r, its coefficients rounded to f32. Its error is 2^-29.8.
    pub(in super::super) const POLYNOMIAL: [f32; 6] =
        [0.000_197_902_98, 0.001_394_470_3, 0.008_333_498, 0.041_666_295, 0.166_666_66, 0.5];
}

/// e^x in f32, within 1 unit in the last place (2 where the result is subnormal).
///
/// Overflow gives infinity, underflow rounds to a subnormal or zero, NaN gives the canonical NaN.
pub fn exp(x: f32) -> f32 {
    use exp_f32::{LN_2_HIGH, LN_2_LOW, LOG2_E, POLYNOMIAL, RANGE};
    let x = if RANGE.1 < x { RANGE.1 } else { x };
    let x = if x < RANGE.0 { RANGE.0 } else { x };
    // exp(x) = 2^n exp(r), |r| ≤ ln 2 / 2
    let n = (x * LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN_2_HIGH, x);
    let r = (-n).mul_add(LN_2_LOW, r);
    let mut series = POLYNOMIAL[0];
    for coefficient in &POLYNOMIAL[1..] {
        series = series.mul_add(r, *coefficient);
    }
    let fraction = series.mul_add(r * r, r) + 1.0;
    // Two steps, as 2^n alone may be no f32; the first is exact, so the result is rounded once.
    let half = (n * 0.5).round_ties_even();
    canonical_nan(fraction * pow2(half) * pow2(n - half))
}

/// 2^n for an integer n in -126..=127.
fn pow2(n: f32) -> f32 {
    f32::from_bits((n as i32).wrapping_add(127).wrapping_shl(23) as u32)
}

/// 1 / (1 + e^-x) in f32.
pub fn sigmoid(x: f32) -> f32 {
    canonical_nan(1.0 / (1.0 + exp(-x)))
}

/// ln 2 in two parts; the first has 32 significant bits, so a multiple of up to 2^21 of it is exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// `Σ coefficients[i] x^i`, from the highest power down, one fused multiply-add each.
fn horner<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum.mul_add(x, *coefficient))
}

/// 2^n for an integer n in -1022..=1023.
fn pow2_f64(n: i64) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// e^x in f64.
pub fn exp_f64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-746.0, 710.0);
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN_2_HIGH, x);
    let r = (-n).mul_add(LN_2_LOW, r);
    let series = horner(
        r,
        [
            1.0 / 2.0,
            1.0 / 6.0,
            1.0 / 24.0,
            1.0 / 120.0,
            1.0 / 720.0,
            1.0 / 5_040.0,
            1.0 / 40_320.0,
            1.0 / 362_880.0,
            1.0 / 3_628_800.0,
            1.0 / 39_916_800.0,
            1.0 / 479_001_600.0,
            1.0 / 6_227_020_800.0,
            1.0 / 87_178_291_200.0,
        ],
    );
    let n = n as i64;
    (series.mul_add(r * r, r) + 1.0) * pow2_f64(n / 2) * pow2_f64(n - n / 2)
}

/// Natural logarithm in f64 as an unevaluated sum of two parts, for a positive finite x.
fn ln_in_two_parts(x: f64) -> (f64, f64) {
    let (x, exponent_of_scale) = if x < f64::MIN_POSITIVE { (x * pow2_f64(54), 54) } else { (x, 0) };
    // x = 2^n m with m in [√½, √2)
    let bits = x.to_bits();
    let mut n = ((bits >> 52) as i64) - 1023 - exponent_of_scale;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m >= std::f64::consts::SQRT_2 {
        m *= 0.5;
        n += 1;
    }
    // ln m = 2 artanh s = f - s (f - s² series), f = m - 1: f is exact, so the rounding error of s
    // touches only the small part.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let s2 = s * s;
    let series = 2.0
        * horner(
            s2,
            [
                1.0 / 3.0,
                1.0 / 5.0,
                1.0 / 7.0,
                1.0 / 9.0,
                1.0 / 11.0,
                1.0 / 13.0,
                1.0 / 15.0,
                1.0 / 17.0,
                1.0 / 19.0,
                1.0 / 21.0,
                1.0 / 23.0,
            ],
        );
    let n = n as f64;
    // 2s = f - s f, so ln m = f - s (f - s² series); then both parts of n ln 2.
    let low = n.mul_add(LN_2_LOW, -(s * s2.mul_add(-series, f)));
    let high = n * LN_2_HIGH;
    // high is 0 or larger than f, so what the sum of both loses is known exactly.
    let sum = high + f;
    let low = low + (f - (sum - high));
    let total = sum + low;
    (total, low - (total - sum))
}

/// Natural logarithm in f64: NaN below zero, negative infinity at zero.
pub fn ln_f64(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        f64::NAN
    } else if x == 0.0 {
        f64::NEG_INFINITY
    } else if x == f64::INFINITY {
        x
    } else {
        ln_in_two_parts(x).0
    }
}

/// x^y in f64 for a positive finite x (NaN otherwise).
pub fn pow_f64(x: f64, y: f64) -> f64 {
    if !(x > 0.0 && x < f64::INFINITY && y.is_finite()) {
        return f64::NAN;
    }
    let (high, low) = ln_in_two_parts(x);
    let product = y * high;
    if !product.is_finite() {
        return exp_f64(product);
    }
    // What the product lost, and the logarithm's low part, matter once they meet the exponential.
    let rest = y.mul_add(low, y.mul_add(high, -product));
    let power = exp_f64(product);
    if power.is_finite() { rest.mul_add(power, power) } else { power }
}

/// π/2 in three parts of 53 bits.
const HALF_PI: [f64; 3] =
    [std::f64::consts::FRAC_PI_2, 6.123_233_995_736_766e-17, -1.497_384_904_859_169_8e-33];

/// Sine and cosine in f64, in radians, within 2^-52 for |x| ≤ 2^24.
///
/// Still the same everywhere beyond that, but less exact; NaN for NaN and infinities.
pub fn sin_cos_f64(x: f64) -> (f64, f64) {
    if !x.is_finite() {
        return (f64::NAN, f64::NAN);
    }
    // x = n π/2 + r, |r| ≤ π/4
    let n = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = HALF_PI.iter().fold(x, |r, part| (-n).mul_add(*part, r));
    let r2 = r * r;
    let sin_series = horner(
        r2,
        [
            -1.0 / 6.0,
            1.0 / 120.0,
            -1.0 / 5_040.0,
            1.0 / 362_880.0,
            -1.0 / 39_916_800.0,
            1.0 / 6_227_020_800.0,
            -1.0 / 1_307_674_368_000.0,
            1.0 / 355_687_428_096_000.0,
        ],
    );
    let cos_series = horner(
        r2,
        [
            -1.0 / 2.0,
            1.0 / 24.0,
            -1.0 / 720.0,
            1.0 / 40_320.0,
            -1.0 / 3_628_800.0,
            1.0 / 479_001_600.0,
            -1.0 / 87_178_291_200.0,
            1.0 / 20_922_789_888_000.0,
            -1.0 / 6_402_373_705_728_000.0,
        ],
    );
    let sin = (r2 * r).mul_add(sin_series, r);
    let cos = r2.mul_add(cos_series, 1.0);
    match (n as i64) & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Sine in f64, in radians; see [`sin_cos_f64`].
pub fn sin_f64(x: f64) -> f64 {
    sin_cos_f64(x).0
}

/// Cosine in f64, in radians; see [`sin_cos_f64`].
pub fn cos_f64(x: f64) -> f64 {
    sin_cos_f64(x).1
}
