//! Owns quantization of weights to I4: one BF16 scale per group of 32 neighbours in a row.
//!
//! Of thirteen scales, the one with the least squared error is taken. Each step is rounded to f32, and
//! the order of the sum is fixed, so vector code gives the same bits:
//!
//! 1. `m` is the largest element if it is larger than the smallest negated, else the smallest. If
//!    it is 0, the scale is 1 and all values are 0.
//! 2. For `n` in 24..=36, the scale is `m × (−n / 256)`, its magnitude at least 2⁻¹²⁶, rounded to BF16, ties
//!    to even: `n` of 32 takes `m` to −8.
//! 3. A value is `y = x × (1 / scale)`, cut to −8..=7 and rounded, ties to even; its error is `e = y − value`.
//! 4. `e²` is summed up in 16 lanes, as in a dot product, and multiplied by `(scale / m)²`. The first
//!    of the smallest results wins.

use std::ops::RangeInclusive;

use super::ROUNDER;
use crate::dtype::GROUP;
use crate::isa::Kernel;
use crate::scalar::LANES;
use crate::simd::{self, Simd};

/// Bytes of a group's values.
const GROUP_BYTES: usize = GROUP / 2;

/// A group of zeros.
const ZEROS: [u8; GROUP_BYTES] = [0x88; GROUP_BYTES];

/// 256ths of the largest element that are tried as scales.
const CANDIDATES: RangeInclusive<u8> = 24..=36;

/// Rounds a finite number to BF16.
#[inline(always)]
fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The nearest of −8..=7.
#[inline(always)]
fn round(y: f32) -> f32 {
    let y = if y > -8.0 { y } else { -8.0 };
    let y = if y < 7.0 { y } else { 7.0 };
    (y + ROUNDER) - ROUNDER
}

/// The sum of the squared errors with a scale, in units of it.
#[inline(always)]
fn squared_error(x: &[f32; GROUP], inverse: f32) -> f32 {
    let mut squares = [0.0; GROUP];
    for (square, x) in squares.iter_mut().zip(x) {
        let y = x * inverse;
        let error = y - round(y);
        *square = error * error;
    }
    let mut lanes = [0.0; LANES];
    for (lane, (a, b)) in lanes.iter_mut().zip(squares.iter().zip(&squares[LANES..])) {
        *lane = a + b;
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The candidate `n` for a scale, whose largest is `extreme`.
#[inline(always)]
fn candidate(extreme: f32, n: u8) -> f32 {
    let scale = extreme * (-f32::from(n) / 256.0);
    let magnitude = if scale.abs() > f32::MIN_POSITIVE { scale.abs() } else { f32::MIN_POSITIVE };
    round_to_bf16(magnitude.copysign(scale))
}

/// Quantizes one group of finite values. Returns its scale.
fn quantize_group(x: &[f32; GROUP], out: &mut [u8; GROUP_BYTES]) -> f32 {
    let largest = x.iter().fold(x[0], |a, &b| if b > a { b } else { a });
    let smallest = x.iter().fold(x[0], |a, &b| if b < a { b } else { a });
    let extreme = if largest > -smallest { largest } else { smallest };
    if extreme == 0.0 {
        *out = ZEROS;
        return 1.0;
    }
    let (mut best, mut least) = (1.0, f32::INFINITY);
    for n in CANDIDATES {
        let scale = candidate(extreme, n);
        let ratio = scale / extreme;
        let error = squared_error(x, 1.0 / scale) * (ratio * ratio);
        if error < least {
            (best, least) = (scale, error);
        }
    }
    let inverse = 1.0 / best;
    for (out, x) in out.iter_mut().zip(x.as_chunks::<2>().0) {
        let [low, high] = x.map(|x| (round(x * inverse) + 8.0) as u8);
        *out = low | high << 4;
    }
    best
}

/// Element i of each of up to 16 groups; further ones are zero.
#[inline(always)]
fn columns_simd<S: Simd>(s: S, x: &[[f32; GROUP]]) -> [[f32; LANES]; GROUP] {
    let mut columns = [[0.0; LANES]; GROUP];
    for (half, columns) in columns.chunks_mut(LANES).enumerate() {
        let mut rows = [s.splat(0.0); LANES];
        for (row, x) in rows.iter_mut().zip(x) {
            *row = simd::load(s, &x[LANES * half..][..LANES]);
        }
        for (column, lanes) in columns.iter_mut().zip(s.transpose(rows)) {
            s.store(lanes, column);
        }
    }
    columns
}

/// The best scales of 16 groups, one to a lane, so that no sum and no choice is over lanes. `columns` is element i
/// of all groups.
#[inline(always)]
fn best_scales_simd<S: Simd>(s: S, columns: &[[f32; LANES]; GROUP]) -> S::Floats {
    let (mut largest, mut smallest) = (s.load(&columns[0]), s.load(&columns[0]));
    for column in columns {
        largest = s.max(s.load(column), largest);
        smallest = s.min(s.load(column), smallest);
    }
    let extreme = s.select(s.less(s.neg(smallest), largest), largest, smallest);
    let extremes = simd::lanes(s, extreme);
    // Groups of zeros keep this scale: no error of theirs is a number.
    let (mut best, mut least) = (s.splat(1.0), s.splat(f32::INFINITY));
    for n in CANDIDATES {
        let mut scales = [0.0; LANES];
        for (scale, extreme) in scales.iter_mut().zip(extremes) {
            *scale = candidate(extreme, n);
        }
        let scales = s.load(&scales);
        let ratio = s.div(scales, extreme);
        let errors = squared_errors_simd(s, columns, s.div(s.splat(1.0), scales));
        let errors = s.mul(errors, s.mul(ratio, ratio));
        let is_less = s.less(errors, least);
        best = s.select(is_less, scales, best);
        least = s.select(is_less, errors, least);
    }
    best
}

/// The sums of the squared errors of 16 groups, in the order of [`squared_error`].
#[inline(always)]
fn squared_errors_simd<S: Simd>(s: S, columns: &[[f32; LANES]; GROUP], inverses: S::Floats) -> S::Floats {
    let mut quarters = [s.splat(0.0); LANES / 2];
    for (i, quarter) in quarters.iter_mut().enumerate() {
        let [a, b, c, d] = [i, i + 16, i + 8, i + 24].map(|i| &columns[i]);
        let lane = s.add(square_simd(s, a, inverses), square_simd(s, b, inverses));
        let other = s.add(square_simd(s, c, inverses), square_simd(s, d, inverses));
        *quarter = s.add(lane, other);
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            quarters[i] = s.add(quarters[i], quarters[i + half]);
        }
    }
    quarters[0]
}

/// The squared errors of one element. A zero may be rounded to one of another sign than [`round`] gives it, which
/// changes no error.
#[inline(always)]
fn square_simd<S: Simd>(s: S, column: &[f32; LANES], inverses: S::Floats) -> S::Floats {
    let y = s.mul(s.load(column), inverses);
    let error = s.sub(y, s.round_to_nibble(y));
    s.mul(error, error)
}

/// The values of a group with its scale.
#[inline(always)]
fn pack_simd<S: Simd>(s: S, x: &[f32; GROUP], inverse: f32, out: &mut [u8; GROUP_BYTES]) {
    let (inverse, offset) = (s.splat(inverse), s.splat(8.0));
    for (out, x) in out.as_chunks_mut::<{ LANES / 2 }>().0.iter_mut().zip(x.as_chunks().0) {
        let values = s.narrow_i16(s.add(s.round_to_nibble(s.mul(s.load(x), inverse)), offset));
        for (out, pair) in out.iter_mut().zip(values.as_chunks::<2>().0) {
            // As one word: compilers take pairs apart one by one.
            let [low, high] = pair.map(|value| u32::from(value as u16));
            let word = low | high << 16;
            *out = (word | word >> 12) as u8;
        }
    }
}

/// One row of finite values, whole groups, with memory for as many.
pub(super) struct QuantizeGroups<'a> {
    pub(super) row: &'a [f32],
    pub(super) values: &'a mut [u8],
    pub(super) scales: &'a mut [u8],
}

impl Kernel for QuantizeGroups<'_> {
    fn scalar(self) {
        let (values, scales) = (self.values.as_chunks_mut().0, self.scales.as_chunks_mut().0);
        for ((x, values), scale) in self.row.as_chunks().0.iter().zip(values).zip(scales) {
            *scale = bf16_bytes(quantize_group(x, values));
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let (values, scales) = (self.values.as_chunks_mut().0, self.scales.as_chunks_mut().0);
        let groups = self.row.as_chunks().0.chunks(LANES);
        for ((x, values), scales) in groups.zip(values.chunks_mut(LANES)).zip(scales.chunks_mut(LANES)) {
            let best = best_scales_simd(s, &columns_simd(s, x));
            let inverses = simd::lanes(s, s.div(s.splat(1.0), best));
            for ((x, values), inverse) in x.iter().zip(values).zip(inverses) {
                pack_simd(s, x, inverse, values);
            }
            for (scale, best) in scales.iter_mut().zip(simd::lanes(s, best)) {
                *scale = bf16_bytes(best);
            }
        }
    }
}

/// A number that is one of BF16.
#[inline(always)]
fn bf16_bytes(x: f32) -> [u8; 2] {
    let [_, _, low, high] = x.to_le_bytes();
    [low, high]
}
