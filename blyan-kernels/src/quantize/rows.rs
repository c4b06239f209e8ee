//! Owns quantization of a row of weights with one scale, to I8 and F8_E4M3.
//!
//! For a row with the largest magnitude `amax`, each step rounded to f32, ties to even:
//! `scale = max(amax / limit, 2^-126)`, or 1 if `amax` is 0, with `limit` 127 for I8 and 448 for
//! F8_E4M3; each value is `x / scale`, rounded to the nearest I8 in −127..=127 or F8_E4M3, ties to
//! even. The lower bound keeps a row of tiny weights from dividing by a scale that lost its digits.
//!
//! Plain loops without calls and branches, which compilers make vectors of for each instruction set: no step
//! depends on another element's but the largest magnitude, which has no order.

use super::ROUNDER;
use crate::dtype::DType;
use crate::isa::Kernel;
use crate::simd::Simd;

/// Largest magnitude of I8.
const I8_LIMIT: f32 = 127.0;
/// Largest magnitude of F8_E4M3.
const F8_LIMIT: f32 = 448.0;

/// The largest magnitude of a row; of NaN and infinity, either.
pub(super) struct LargestMagnitude<'a> {
    pub(super) row: &'a [f32],
    pub(super) largest: &'a mut f32,
}

impl Kernel for LargestMagnitude<'_> {
    fn scalar(self) {
        self.run();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.run();
    }
}

impl LargestMagnitude<'_> {
    #[inline(always)]
    fn run(self) {
        // Magnitudes are ordered as their bits are, those of NaN after that of infinity.
        let mut largest = 0;
        for x in self.row {
            let magnitude = x.to_bits() & 0x7fff_ffff;
            largest = if magnitude > largest { magnitude } else { largest };
        }
        *self.largest = f32::from_bits(largest);
    }
}

/// One row of finite values, with memory for as many and for its scale.
pub(super) struct QuantizeRow<'a> {
    /// I8 or F8_E4M3.
    pub(super) to: DType,
    pub(super) row: &'a [f32],
    /// Its largest magnitude.
    pub(super) largest: f32,
    pub(super) values: &'a mut [u8],
    pub(super) scale: &'a mut [u8],
}

impl Kernel for QuantizeRow<'_> {
    fn scalar(self) {
        self.run();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.run();
    }
}

impl QuantizeRow<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { to, row, largest, values, scale } = self;
        let is_i8 = to == DType::I8;
        let of_row = scale_for(largest, if is_i8 { I8_LIMIT } else { F8_LIMIT });
        if is_i8 {
            for (value, x) in values.iter_mut().zip(row) {
                *value = to_i8(x / of_row);
            }
        } else {
            for (value, x) in values.iter_mut().zip(row) {
                *value = to_f8e4m3(x / of_row);
            }
        }
        scale.copy_from_slice(&of_row.to_le_bytes());
    }
}

#[inline(always)]
fn scale_for(largest: f32, limit: f32) -> f32 {
    let scale = if largest / limit > f32::MIN_POSITIVE { largest / limit } else { f32::MIN_POSITIVE };
    if largest == 0.0 { 1.0 } else { scale }
}

/// Rounds to I8, ties to even, saturating at ±127.
#[inline(always)]
fn to_i8(y: f32) -> u8 {
    let y = if y < I8_LIMIT { y } else { I8_LIMIT };
    let y = if y > -I8_LIMIT { y } else { -I8_LIMIT };
    (y + ROUNDER).to_bits() as u8
}

/// Rounds to F8_E4M3, ties to even, saturating at ±448; the caller excludes NaN.
#[inline(always)]
fn to_f8e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24 & 0x80) as u8;
    let magnitude = f32::from_bits(value.to_bits() & 0x7fff_ffff);
    let magnitude = if magnitude < F8_LIMIT { magnitude } else { F8_LIMIT };
    // Subnormal codes count multiples of 2^-9; 8 is the code of the smallest normal number.
    let subnormal = (magnitude * 512.0 + ROUNDER).to_bits() as u8;
    // Keep three of 23 mantissa bits; a carry runs into the exponent, as it should.
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
    let normal = (rounded >> 20).wrapping_sub(120 << 3) as u8;
    sign | if magnitude < 1.0 / 64.0 { subnormal } else { normal }
}
