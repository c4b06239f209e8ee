//! Stand-in for `kernels::math` until it is merged: the same functions, slower.

/// `e^x` for `x <= 0`; exactly 1 at 0.
pub(super) fn exp(x: f32) -> f32 {
    let x = f64::from(x);
    if x < -104.0 {
        return 0.0;
    }
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = x - k * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for n in (1..=14).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    let scale = f64::from_bits(((1023 + k as i64) as u64) << 52);
    (sum * scale) as f32
}

/// Natural logarithm of a positive normal number.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let z = (m - 1.0) / (m + 1.0);
    let z2 = z * z;
    let mut sum = 0.0;
    for n in (0..13).rev() {
        sum = sum * z2 + 1.0 / f64::from(2 * n + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * z * sum
}
